"""What tests name as a layer's `QuantizeConfig`."""

from typing import Any

import tensorflow_model_optimization as tfmot


class FourBits(tfmot.quantization.keras.QuantizeConfig):
    """A kernel in 4 bits, and nothing else."""

    def get_weights_and_quantizers(self, layer: Any) -> Any:
        quantizer = tfmot.quantization.keras.quantizers.LastValueQuantizer(
            num_bits=4, per_axis=False, symmetric=True, narrow_range=True
        )
        return [(layer.kernel, quantizer)]

    def get_activations_and_quantizers(self, layer: Any) -> Any:
        return []

    def set_quantize_weights(self, layer: Any, quantize_weights: Any) -> None:
        layer.kernel = quantize_weights[0]

    def set_quantize_activations(self, layer: Any, quantize_activations: Any) -> None:
        pass

    def get_output_quantizers(self, layer: Any) -> Any:
        return []

    def get_config(self) -> Any:
        return {}
