"""Quantisation-aware training by tfmot, for Keras 2: a model that computes as its int8 file will.

`quantization_aware` wraps, `calibrate` measures the first ranges, the trainer fits, `strip` takes out what
only training needs, `check_kept` counts zeros and clusters; `load` reads what was saved. Source: Jacob et
al. (2018), Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference.

What tfmot does and we do not: it puts the inputs of a Concatenate in another order, over a kernel trained on
the old one; it refuses a model with a layer that it does not know; ranges start at [-6, 6] and move by a
thousandth a step, so a short training clips a regression's predictions at 6; a kernel before a ReLU layer is
not quantised; one layer without zeros turns the preservation of zeros off in all others; a layer that feeds a
Concatenate loses its clusters; layers get other names.
"""

import contextlib
import dataclasses
import fnmatch
import importlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from absl import logging
from tensorflow_model_optimization.python.core.quantization.keras import quantize_layer
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_transforms as passes,
)

from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.pruning_trainer import keras_clustering, keras_line, selection
from tfx_mobile.pruning_trainer.config import Layers, QuantizationAware

Array = npt.NDArray[Any]

_quantization = tfmot.quantization.keras
_layers = tf_keras.layers
_SEPARABLE = (_layers.SeparableConv1D, _layers.SeparableConv2D)  # tfmot splits them in two
_BEFORE_NORM = (_layers.Conv2D, _layers.DepthwiseConv2D, _layers.Dense, _layers.SeparableConv2D)
_WITH_CLUSTERS = (_layers.Conv2D, _layers.Dense)
_WITH_KERNEL = (*_WITH_CLUSTERS, _layers.DepthwiseConv2D, _layers.Conv2DTranspose)
_ACTIVATIONS = frozenset({"linear", "relu", "softmax", "sigmoid", "tanh", "swish", "gelu", "NoOpActivation"})
_EMA_STEP = 0.001  # how far a range of tfmot moves towards a batch's in one step
_MAX_ROUNDS = 50
_SETTLED_FRACTION = 0.01
_MAX_CLUSTERS = 256


@dataclasses.dataclass(frozen=True)
class QuantizedKernel:
    """What one kernel is exported with.

    Attributes:
      weight: For example 'hidden_1/kernel'.
      num_weights: Its size.
      num_zeros: How many are exactly 0, quantised.
      num_lost_zeros: How many were 0 before and are not now.
      num_values: Distinct values; of the output channel that has most, where each has a scale of its own.
      num_values_before: Distinct values it had before.
    """

    weight: str
    num_weights: int
    num_zeros: int
    num_lost_zeros: int
    num_values: int
    num_values_before: int


def quantization_aware(
    model: tf_keras.Model,
    config: QuantizationAware,
    *,
    preserve_sparsity: bool = False,
    preserve_clusters: bool = False,
) -> tf_keras.Model:
    """Returns a copy of the model that quantises weights and activations to 8 bits as it computes.

    Layers that tfmot cannot quantise (Embedding, Normalization, Multiply, recurrent ones, layers used twice
    or inside a model of the model, integer tensors) stay in float, with a line in the log, unless they were
    named. Where clusters are preserved and tfmot cannot, the layer is frozen.

    Args:
      model: Sequential or functional, Keras 2; not changed.
      config: Which layers, and the configs of custom ones.
      preserve_sparsity: Zeros stay zeros (PQAT), in layers that stay in float too.
      preserve_clusters: Kernels keep their number of distinct values (CQAT); with both, PCQAT.

    Returns:
      Uncompiled. Layers, inputs and outputs keep their names. The same model and config give the same
      weights in the same order, so `set_weights` resumes a training. Give it to `calibrate` first.

    Raises:
      ConfigError: The model is no Keras 2 graph of layers, a pattern matches no layer, a named layer cannot
        be quantised, or none can.
    """
    keras_clustering.require_keras_2_graph(model, "Quantisation-aware training")
    start = keras_line.clone(model)
    custom = _custom_configs(start, config.quantize_configs)
    quantized, in_float = _choose(start, config.layers, custom)
    if in_float:
        logging.info("Left in float, for tfmot cannot quantise: %s.", ", ".join(in_float))

    def annotate(layer: Any) -> Any:
        if layer.name not in quantized:
            return layer
        return _quantization.quantize_annotate_layer(layer, custom.get(layer.name))

    with scope(selection.own_classes(start) | {type(c).__name__: type(c) for c in custom.values()}):
        annotated = tf_keras.models.clone_model(start, clone_function=annotate)
        made = _quantization.quantize_apply(
            annotated, _Scheme(custom, preserve_sparsity, preserve_clusters), quantized_layer_name_prefix=""
        )
    if preserve_clusters:
        _freeze_clustered(made)
    if preserve_sparsity:
        for variable in _kernel_variables(made).values():
            mask = variable.numpy() != 0
            if not mask.all():
                keras_line.set_constraint(variable, mask.astype(variable.dtype.as_numpy_dtype))
    return made


def calibrate(model: tf_keras.Model, batches: Iterable[Any]) -> None:
    """Sets the ranges of inputs and activations to those of the batches; nothing else changes.

    A range is measured from how far tfmot moves it in one step; the first batch is repeated until the ranges
    settle, since each depends on those before it, and the mean over the batches is taken.

    Args:
      model: From `quantization_aware`.
      batches: Features as the model takes them; at least one batch.
    """
    ranges = [variable for variable in model.non_trainable_variables if _is_range(variable)]
    others = [variable for variable in model.weights if not _is_range(variable)]
    kept = [variable.numpy() for variable in others]
    for layer in model.layers:
        if isinstance(
            layer, quantize_layer.QuantizeLayer
        ):  # takes the widest range seen, its own first one included
            for variable in layer.weights:
                if _is_range(variable):
                    variable.assign(0.0)
    batches = iter(batches)
    first = next(batches)
    with _as_if_trained(model):
        model(first, training=True)  # sets the ranges of weights, which are then at rest
        measured = _measure(model, ranges, first)
        for _ in range(_MAX_ROUNDS):
            before, measured = measured, _measure(model, ranges, first)
            if all(_is_settled(old, new) for old, new in zip(before, measured, strict=True)):
                break
        all_measured = [measured, *(_measure(model, ranges, batch) for batch in batches)]
    for variable, values in zip(ranges, zip(*all_measured, strict=True), strict=True):
        variable.assign(np.mean(values, axis=0))
    for variable, value in zip(others, kept, strict=True):
        variable.assign(value)


def strip(model: tf_keras.Model) -> tf_keras.Model:
    """Returns a trained model of `quantization_aware` without what only preserved clusters while training.

    Returns:
      Uncompiled; computes the same, quantised, and can be saved, loaded and converted.
    """
    with scope(selection.own_classes(model)):
        stripped = tf_keras.models.clone_model(model, clone_function=_clone)
    for old, new in zip(model.layers, stripped.layers, strict=True):
        values = {variable.name: variable.numpy() for variable in old.weights}
        if len(values) == len(old.weights) and {variable.name for variable in new.weights} <= set(values):
            new.set_weights([values[variable.name] for variable in new.weights])
        else:  # a model inside the model, or a layer that numbers its weights
            new.set_weights(old.get_weights())
    return stripped


def _clone(layer: Any) -> Any:
    """Returns a layer like this one; a wrapped one is not built yet, as it is not when it is loaded.

    A wrapper that is built around a built layer has its weights twice in a file.
    """
    config = layer.get_config()
    if _is_wrapper(layer):
        config["layer"].pop("build_config", None)
    return type(layer).from_config(config)


@contextlib.contextmanager
def scope(custom_objects: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Returns the scope in which a saved quantisation-aware model can be loaded, or cloned.

    Args:
      custom_objects: The model's own classes by name.
    """
    built_once = {"QuantizeLayer": QuantizeLayer, "QuantizeWrapperV2": QuantizeWrapperV2}
    with (
        _quantization.quantize_scope(),
        tf_keras.utils.custom_object_scope({**built_once, **(custom_objects or {})}),
    ):
        yield


def load(path: str | Path, custom_objects: Mapping[str, Any] | None = None) -> tf_keras.Model:
    """Returns a saved model of `strip`, uncompiled.

    Args:
      path: A `.keras` or `.h5` file, or the folder of a SavedModel.
      custom_objects: The model's own classes by name.
    """
    with scope(custom_objects):
        return strip(tf_keras.models.load_model(str(path), compile=False))  # cloning names weights again


def effective_kernels(model: tf_keras.Model) -> dict[str, Array]:
    """Returns the kernels as they are exported, by weight name: quantised where the model quantises them.

    They are float multiples of the kernel's scale, and 0 is exactly 0.
    """
    found: dict[str, Array] = {}
    for layer in selection.leaf_layers(model):
        if not _is_wrapper(layer):
            found |= {selection.weight_name(variable): variable.numpy() for variable in _kernels(layer)}
            continue
        quantizers = {id(variable): (quantizer, ranges) for variable, quantizer, ranges in layer._weight_vars}
        for variable in _wrapped_kernels(layer):
            value = variable
            if id(variable) in quantizers:
                quantizer, ranges = quantizers[id(variable)]
                value = quantizer(variable, False, weights=ranges)
            found[selection.weight_name(variable)] = value.numpy()
    return found


def count_kept(model: tf_keras.Model, before: tf_keras.Model) -> tuple[QuantizedKernel, ...]:
    """Counts zeros and distinct values of each kernel as it is exported.

    Args:
      model: From `quantization_aware` or `strip`, trained.
      before: The model that was given to `quantization_aware`.
    """
    old = {weight.name: weight.variable.numpy() for weight in selection.every_weight(before)}
    new = effective_kernels(model)
    layers_before = {layer.name for layer in selection.leaf_layers(before)}
    split = [name for name in new if name.partition("/")[0] not in layers_before]
    for name, renamed in zip([name for name in old if name not in new], split, strict=True):
        old[renamed] = old[name]  # tfmot makes two convolutions of a separable one
    per_channel = {
        selection.weight_name(variable)
        for layer in selection.leaf_layers(model)
        if _is_wrapper(layer) and isinstance(layer.layer, (_layers.Conv2D, _layers.DepthwiseConv2D))
        for variable in _wrapped_kernels(layer)
    }
    return tuple(
        QuantizedKernel(
            weight=name,
            num_weights=array.size,
            num_zeros=int(np.count_nonzero(array == 0)),
            num_lost_zeros=int(np.count_nonzero((old[name] == 0) & (array != 0))),
            num_values=_num_values(array, per_channel=name in per_channel),
            num_values_before=len(np.unique(old[name])),
        )
        for name, array in new.items()
        if name in old  # else the author has frozen it
    )


def check_kept(
    model: tf_keras.Model, before: tf_keras.Model, *, preserve_sparsity: bool, preserve_clusters: bool
) -> tuple[QuantizedKernel, ...]:
    """Counts as `count_kept` does, and refuses what was to be preserved and was not.

    Raises:
      DataError: A zero was lost, or a kernel has more distinct values than before; the message is the table
        of all kernels.
    """
    counts = count_kept(model, before)

    def is_kept(count: QuantizedKernel) -> bool:
        lost = preserve_sparsity and count.num_lost_zeros
        return not lost and not (preserve_clusters and count.num_values > count.num_values_before)

    if all(is_kept(count) for count in counts):
        return counts
    width = max(len(count.weight) for count in counts)
    lines = [
        f"  {count.weight:{width}}  {count.num_zeros} zeros of {count.num_weights}, "
        f"{count.num_lost_zeros} lost; {count.num_values} values, {count.num_values_before} before"
        + ("" if is_kept(count) else "  <- not kept")
        for count in counts
    ]
    raise DataError(
        "Quantised kernels must keep what the rung before had; got\n"
        + "\n".join(lines)
        + "\nA callback or constraint of the model writes to its kernels; leave these layers out of `layers`."
    )


class QuantizeLayer(quantize_layer.QuantizeLayer):
    """Has its weights once: loading a `.keras` file builds a layer and calls it, and tfmot's builds twice.

    The file knows layers by their class names, so this one's is tfmot's.
    """

    def build_from_config(self, config: Any) -> None:
        """Leaves building to the call."""


class QuantizeWrapperV2(tfmot.quantization.keras.QuantizeWrapperV2):
    """Likewise, and with what it wraps: around a built layer it would have that one's weights twice."""

    @classmethod
    def from_config(cls, config: Any) -> Any:
        """Returns the layer, around one that is not built."""
        layer = {name: value for name, value in config["layer"].items() if name != "build_config"}
        return super().from_config({**config, "layer": layer})

    def build_from_config(self, config: Any) -> None:
        """Leaves building to the call."""


class _Scheme(tfmot.quantization.keras.QuantizeScheme):
    """tfmot's default 8 bits, with zeros and clusters preserved layer by layer.

    Zeros are kept by masks on the variables: 0 is always an integer of its own. Clusters need tfmot's own
    quantizers.
    """

    def __init__(self, custom: Mapping[str, Any], preserve_sparsity: bool, preserve_clusters: bool) -> None:
        self._custom = custom
        self._preserve_sparsity = preserve_sparsity
        self._preserve_clusters = preserve_clusters

    def get_layout_transformer(self) -> Any:
        return _LayoutTransform(self)

    def get_quantize_registry(self) -> Any:
        return _Registry(self)

    def config_for(self, layer: Any) -> Any:
        """Returns a new QuantizeConfig for one layer; tfmot would share one between all."""
        scheme = _quantization.default_8bit.Default8BitQuantizeScheme()
        if self._preserve_clusters and type(layer) in _WITH_CLUSTERS:
            has_zeros = self._preserve_sparsity and bool((layer.kernel.numpy() == 0).any())
            scheme = tfmot.experimental.combine.Default8BitClusterPreserveQuantizeScheme(has_zeros)
        return scheme.get_quantize_registry().get_quantize_config(layer)

    def repair(self, layer: Any, given: Any) -> Any:
        """Returns the QuantizeConfig of a layer for which the layout transform has set `given`."""
        if layer.name in self._custom:
            return self._custom[layer.name]
        if given is None or type(layer) not in _WITH_KERNEL:
            return given
        made = self.config_for(layer)
        if not given.get_activations_and_quantizers(layer):  # the ReLU after it is what must be quantised
            made.activation_attrs = []
        return made


class _LayoutTransform(tfmot.quantization.keras.QuantizeLayoutTransform):
    """tfmot's own rewriting of the graph, but for its transform of Concatenate, which permutes the inputs."""

    def __init__(self, scheme: _Scheme) -> None:
        self._scheme = scheme

    def apply(self, model: Any, layer_quantize_map: Any) -> Any:
        transforms = [
            passes.InputLayerQuantize(),
            passes.SeparableConv1DQuantize(),
            passes.SeparableConvQuantize(),
            passes.Conv2DReshapeBatchNormReLUQuantize(),
            passes.Conv2DReshapeBatchNormActivationQuantize(),
            passes.Conv2DBatchNormReLUQuantize(),
            passes.Conv2DBatchNormActivationQuantize(),
            passes.Conv2DReshapeBatchNormQuantize(),
            passes.Conv2DBatchNormQuantize(),
            passes.DenseBatchNormQuantize(),
            passes.DenseBatchNormReLUQuantize(),
            passes.DenseBatchNormActivationQuantize(),
            passes.LayerReLUQuantize(),
            passes.LayerReluActivationQuantize(),
        ]
        transformer = _quantization.graph_transformations.model_transformer.ModelTransformer(
            model, transforms, set(layer_quantize_map), layer_quantize_map
        )
        transformed, configs = transformer.transform()
        for layer in transformed.layers:
            if layer.name in configs and "quantize_config" in configs[layer.name]:
                given = configs[layer.name]["quantize_config"]
                configs[layer.name]["quantize_config"] = self._scheme.repair(layer, given)
            if isinstance(layer, _layers.Concatenate) and layer.name in configs:  # so its inputs need not be
                for before in tf.nest.flatten(layer.inbound_nodes[0].inbound_layers):
                    if isinstance(before, quantize_layer.QuantizeLayer) and len(before.outbound_nodes) == 1:
                        configs.setdefault(before.name, {})["quantizer"] = None
        return transformed, configs


class _Registry(tfmot.quantization.keras.default_8bit.Default8BitQuantizeRegistry):
    def __init__(self, scheme: _Scheme) -> None:
        super().__init__()
        self._scheme = scheme

    def supports(self, layer: Any) -> bool:
        return _has_known_activation(layer) and bool(super().supports(layer))

    def get_quantize_config(self, layer: Any) -> Any:
        return self._scheme.config_for(layer)


def _freeze_clustered(model: tf_keras.Model) -> None:
    """Freezes the clustered layers whose clusters tfmot cannot preserve."""
    for layer in selection.leaf_layers(model):
        inner = layer.layer if _is_wrapper(layer) else layer
        if _is_wrapper(layer) and type(inner) in _WITH_CLUSTERS:
            continue
        kernels = _wrapped_kernels(layer) if _is_wrapper(layer) else _kernels(layer)
        if any(_is_clustered(kernel.numpy()) for kernel in kernels):
            logging.info("Frozen, for its clusters cannot be preserved otherwise: %s.", layer.name)
            layer.trainable = False


def _is_clustered(array: Array) -> bool:
    return len(np.unique(array)) <= min(_MAX_CLUSTERS, array.size - 1)


def _choose(model: tf_keras.Model, layers: Layers, custom: Mapping[str, Any]) -> tuple[set[str], list[str]]:
    """Returns the names of layers to quantise, and what was chosen and cannot be."""
    chosen = selection.select_layers(model, layers)
    kernels = {layer.name: selection.prunable_variables(layer) for layer in chosen}
    with_kernel = [name for name, variables in kernels.items() if variables]
    too_small = {
        name for name in with_kernel if sum(int(np.prod(v.shape)) for v in kernels[name]) < layers.min_weights
    }
    ends = set(with_kernel[:1] if layers.skip_first else []) | set(
        with_kernel[-1:] if layers.skip_last else []
    )
    meant = {layer.name for layer in chosen} - too_small - ends | set(custom)
    quantized: set[str] = set()
    in_float = []
    for layer in model.layers:
        if isinstance(layer, tf_keras.Model):
            if layers.names == Layers.names:
                in_float.append(f"{layer.name} (a model inside the model)")
        elif layer.name in meant and not isinstance(layer, _layers.InputLayer):
            if layer.name in custom or _can_quantize(layer, quantized):
                quantized.add(layer.name)
            else:
                in_float.append(f"{layer.name} ({type(layer).__name__})")
    if not quantized and not in_float:
        raise ConfigError(
            f"The model must have a layer to quantise with at least {layers.min_weights} weights; got "
            f"{', '.join(layer.name for layer in model.layers)}. Lower min_weights, or choose other layers."
        )
    if not quantized or (in_float and layers.names != Layers.names):
        raise ConfigError(
            f"tfmot must be able to quantise a layer; it cannot quantise {', '.join(in_float)}. Take it "
            "out of `layers`, or name a QuantizeConfig for it in `quantize_configs`."
        )
    return quantized, in_float


def _can_quantize(layer: Any, quantized: set[str]) -> bool:
    if len(layer.inbound_nodes) != 1 or not all(t.dtype.is_floating for t in tf.nest.flatten(layer.input)):
        return False
    if not _has_known_activation(layer):
        return False
    if isinstance(layer, _SEPARABLE):
        return bool(layer.padding != "causal")
    if isinstance(layer, _layers.BatchNormalization):
        (before,) = tf.nest.flatten(layer.inbound_nodes[0].inbound_layers)
        return bool(
            before.name in quantized
            and type(before) in _BEFORE_NORM
            and before.activation.__name__ == "linear"
            and len(before.outbound_nodes) == 1
        )
    return bool(_quantization.default_8bit.Default8BitQuantizeRegistry().supports(layer))


def _has_known_activation(layer: Any) -> bool:
    activation = getattr(layer, "activation", None)
    return activation is None or getattr(activation, "__name__", type(activation).__name__) in _ACTIVATIONS


def _custom_configs(model: tf_keras.Model, patterns: Mapping[str, str]) -> dict[str, Any]:
    """Returns the author's QuantizeConfigs by layer name."""
    made = {}
    for pattern, dotted in patterns.items():
        selection.select_layers(model, Layers(names=(pattern,)))  # refuses one that matches nothing
        module, _, name = dotted.rpartition(".")
        try:
            factory = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"quantize_configs must be importable; got {dotted!r} ({error}).") from error
        for layer in model.layers:
            if fnmatch.fnmatchcase(layer.name, pattern):
                config = factory()
                if not isinstance(config, _quantization.QuantizeConfig):
                    raise ConfigError(
                        f"{dotted!r} must make a tfmot.quantization.keras.QuantizeConfig; got "
                        f"{type(config).__name__}."
                    )
                made[layer.name] = config
    return made


def _is_wrapper(layer: Any) -> bool:
    return isinstance(layer, _quantization.QuantizeWrapper)


def _is_range(variable: Any) -> bool:
    return not variable.trainable and selection.weight_name(variable).endswith(("_min", "_max"))


def _wrapped_kernels(wrapper: Any) -> list[Any]:
    """Returns the kernels of a wrapped layer; those that are quantised are no longer attributes of it."""
    quantized = [variable for variable, _, _ in wrapper._weight_vars]
    return [*quantized, *_kernels(wrapper.layer)]


def _kernels(layer: Any) -> list[Any]:
    """Returns the kernels of a layer, frozen or not."""
    is_trainable = layer.trainable
    layer.trainable = True
    found = selection.prunable_variables(layer)
    if not is_trainable:
        layer.trainable = False
    return found


def _kernel_variables(model: tf_keras.Model) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for layer in selection.leaf_layers(model):
        variables = _wrapped_kernels(layer) if _is_wrapper(layer) else _kernels(layer)
        found |= {selection.weight_name(variable): variable for variable in variables}
    return found


@contextlib.contextmanager
def _as_if_trained(model: tf_keras.Model) -> Iterator[None]:
    """Batch norms take their own moments and dropouts drop nothing, though the model is called to train."""
    layers = [layer.layer if _is_wrapper(layer) else layer for layer in selection.leaf_layers(model)]
    norms = [layer for layer in layers if isinstance(layer, _layers.BatchNormalization) and layer.trainable]
    dropouts = [(layer, layer.rate) for layer in layers if hasattr(layer, "rate")]
    for layer in norms:
        layer.trainable = False  # which is how Keras 2 knows
    for layer, _ in dropouts:
        layer.rate = 0.0
    try:
        yield
    finally:
        for layer in norms:
            layer.trainable = True
        for layer, rate in dropouts:
            layer.rate = rate


def _measure(model: tf_keras.Model, ranges: list[Any], batch: Any) -> list[Array]:
    """Sets each range to what the batch has, and returns them."""
    before = [variable.numpy() for variable in ranges]
    model(batch, training=True)
    measured = []
    for variable, old in zip(ranges, before, strict=True):
        moved = variable.numpy() - old
        # An input's range is the widest seen and jumps, a weight's stays, all others move by a thousandth.
        name = selection.weight_name(variable)
        measured.append(old + (moved if name.startswith("quantize_layer") else moved / _EMA_STEP))
        variable.assign(measured[-1])
    return measured


def _is_settled(old: Array, new: Array) -> bool:
    return bool(np.all(np.abs(new - old) <= _SETTLED_FRACTION * np.maximum(np.abs(old), np.abs(new))))


def _num_values(array: Array, *, per_channel: bool) -> int:
    if not per_channel:
        return len(np.unique(array))
    channels = array.reshape(-1, array.shape[-1])
    return max(len(np.unique(channel)) for channel in channels.T)
