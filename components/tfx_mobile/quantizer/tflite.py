"""A model as TFLite files, by TensorFlow's own converter: one in each mode.

Preprocessing in front of it is preprocessing.py; join.py makes one file of the two. Built-in TFLite ops only:
what does not convert is refused with the op's name, and TF Select is not used.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras

from tfx_mobile.common import ladder
from tfx_mobile.common.errors import DataError
from tfx_mobile.common.interpreter import SIGNATURE
from tfx_mobile.common.tflite import convert
from tfx_mobile.quantizer.config import Mode, Quantization
from tfx_mobile.quantizer.preprocessing import Columns, call, describe, trace

_OUTPUT = "predictions"
_INTEGER_OPS = {
    Mode.INT8: tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
    Mode.INT16X8: tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
}


class Predictor(tf.Module):
    """A model as a function of its inputs by name; see `load` and `of_keras`.

    Args:
      source: Holds the variables and tables that `call` uses.
      call: Tensors by name to the one output.
      inputs: Type of every input, by name.
      weights: The variables by their Keras names.

    Attributes:
      features: By name, NumPy dtype and shape of one row, of every input.

    Raises:
      DataError: An input is not of fixed width.
    """

    def __init__(
        self,
        source: Any,
        call: Callable[[Mapping[str, Any]], Any],
        inputs: Mapping[str, Any],
        weights: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self._source, self._call, self._weights = source, call, dict(weights)
        self.features = {name: describe(name, spec, scalars=False) for name, spec in inputs.items()}
        self._function = trace(self._apply, self.features)

    def apply(self, rows: Columns) -> npt.NDArray[np.float32]:
        """Returns the predictions of rows of inputs, shape (rows, outputs)."""
        found = call(self._function, rows, self.features)[_OUTPUT]
        return np.asarray(found, np.float32).reshape(len(found), -1)

    def convert(
        self,
        quantization: Quantization,
        calibration: Columns,
        *,
        quantization_aware: bool = False,
        integer_inputs: bool = True,
        allow_select_tf_ops: bool = False,
    ) -> bytes:
        """Returns the TFLite file as TensorFlow's converter makes it.

        Args:
          quantization: Mode, sparse encoding and types of inputs and outputs; the rest is not the
            converter's.
          calibration: Rows of inputs that give int8 its ranges.
          quantization_aware: The model was trained for int8 and has its own ranges.
          integer_inputs: `integer_io` means the inputs too.
          allow_select_tf_ops: Ops without a TFLite built-in stay TensorFlow's.

        Raises:
          DataError: The converter refuses; the message has its reason in one line.
        """
        rows = None if quantization_aware else calibration

        def settings(converter: tf.lite.TFLiteConverter) -> None:
            _set_mode(converter, quantization, rows, integer_inputs)
            if allow_select_tf_ops:
                converter.target_spec.supported_ops.append(tf.lite.OpsSet.SELECT_TF_OPS)

        return convert(self, self._function, settings)

    def kernels(self) -> dict[str, npt.NDArray[Any]]:
        """Returns the weights of two or more dimensions by their Keras names."""
        return {name: value.numpy() for name, value in self._weights.items() if len(value.shape) > 1}

    def weights(self, names: Iterable[str]) -> dict[str, npt.NDArray[Any]]:
        """Returns the values of some weights by their Keras names.

        Raises:
          DataError: The model has no weight of such a name.
        """
        wanted = list(names)
        if missing := sorted(set(wanted) - set(self._weights)):
            raise DataError(
                f"The weights of a rung must be in its SavedModel; {', '.join(missing)} are not among "
                f"{', '.join(sorted(self._weights))}."
            )
        return {name: self._weights[name].numpy() for name in wanted}

    def _apply(self, **features: tf.Tensor) -> dict[str, tf.Tensor]:
        return {_OUTPUT: self._call(features)}


def load(folder: Path) -> Predictor:
    """Returns the model of a rung, through its signature of transformed features, or of a stock trainer.

    Args:
      folder: A SavedModel with the signature 'transformed', of any Keras; one that Keras 2 wrote; or one
        whose 'serving_default' takes features by name, as `export` of Keras 3 writes it.

    Raises:
      DataError: There is none, it is none of these, an input is not of fixed width, or there is more than one
        output.
    """
    if not tf.saved_model.contains_saved_model(str(folder)):
        there = ", ".join(sorted(path.name for path in folder.glob("*"))) or "nothing"
        raise DataError(
            f"A model to convert must be a SavedModel; got {there} in {folder}. Of Keras 3, write one with "
            "model.export(folder)."
        )
    loaded = tf.saved_model.load(str(folder))
    if ladder.MODEL_SIGNATURE in loaded.signatures:
        weights = getattr(loaded, ladder.WEIGHTS, None)
        return _of_signature(loaded, loaded.signatures[ladder.MODEL_SIGNATURE], weights)
    if (folder / "keras_metadata.pb").exists():
        return of_keras(tf_keras.models.load_model(folder, compile=False))
    signature = loaded.signatures.get(SIGNATURE)
    specs = list(signature.structured_input_signature[1].values()) if signature is not None else []
    if not specs or any(spec.dtype == tf.string for spec in specs):
        raise DataError(
            f"A model to convert must have the signature {ladder.MODEL_SIGNATURE!r}, be a SavedModel that "
            f"Keras 2 wrote, or take transformed features by name in {SIGNATURE!r}; got none of them in "
            f"{folder}."
        )
    return _of_signature(loaded, signature, None)


def _of_signature(loaded: Any, signature: Any, weights: Mapping[str, Any] | None) -> Predictor:
    (output,) = _one_output(signature.structured_outputs)
    return Predictor(
        loaded,
        lambda features: signature(**features)[output],
        signature.structured_input_signature[1],
        weights or _by_name(signature.variables),
    )


def of_keras(model: tf_keras.Model) -> Predictor:
    """Returns a Keras 2 model, functional, with named inputs of fixed width and one output.

    Raises:
      DataError: An input is not of fixed width, or there is more than one output.
    """
    _one_output(model.output_names)
    inputs = dict(zip(model.input_names, model.inputs, strict=True))
    return Predictor(model, lambda features: model(features, training=False), inputs, _by_name(model.weights))


def _one_output(names: Iterable[str]) -> list[str]:
    found = sorted(names)
    if len(found) != 1:
        raise DataError(f"A model to convert must have one output; got {len(found)}: {', '.join(found)}.")
    return found


def _by_name(variables: Iterable[Any]) -> dict[str, Any]:
    return {variable.name.partition(":")[0]: variable for variable in variables}


def _set_mode(
    converter: tf.lite.TFLiteConverter,
    quantization: Quantization,
    calibration: Columns | None,
    integer_inputs: bool,
) -> None:
    mode = quantization.mode
    if mode is not Mode.FLOAT32:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if mode is Mode.FLOAT16:
        converter.target_spec.supported_types = [tf.float16]
    if mode in _INTEGER_OPS and calibration is not None:
        converter.target_spec.supported_ops.append(_INTEGER_OPS[mode])
        converter.representative_dataset = _row_by_row(calibration)
    if quantization.sparse:
        converter.optimizations = [*converter.optimizations, tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    if quantization.integer_io:
        integer = tf.int16 if mode is Mode.INT16X8 else tf.int8
        converter.inference_output_type = integer
        if integer_inputs:
            converter.inference_input_type = integer


def _row_by_row(rows: Columns) -> Callable[[], Iterator[tuple[str, dict[str, npt.NDArray[Any]]]]]:
    def representative_dataset() -> Iterator[tuple[str, dict[str, npt.NDArray[Any]]]]:
        for i in range(len(next(iter(rows.values())))):
            yield SIGNATURE, {name: values[i : i + 1] for name, values in rows.items()}

    return representative_dataset
