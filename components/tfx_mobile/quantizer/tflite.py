"""Preprocessing and model as TFLite files, by TensorFlow's own converter.

Preprocessing takes raw features by name, each of shape [batch] (or [batch, n]), and is converted once, in
float32; the model behind it is converted in each mode; join.py makes one file of the two. Built-in TFLite
ops only: what does not convert is refused with the op's name, and TF Select is not used.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_transform as tft
import tf_keras

from tfx_mobile.common import ladder
from tfx_mobile.common.errors import DataError
from tfx_mobile.common.interpreter import SIGNATURE
from tfx_mobile.common.tflite import convert
from tfx_mobile.common.tft_graph import TransformFunction
from tfx_mobile.quantizer.config import Mode, Quantization

Columns = Mapping[str, npt.NDArray[Any]]
Features = Mapping[str, tuple[Any, tuple[int, ...]]]
_OUTPUT = "predictions"
_INTEGER_OPS = {
    Mode.INT8: tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
    Mode.INT16X8: tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
}


class Preprocessing(tf.Module):
    """Raw features to the transformed features that a model takes.

    Args:
      transform_output: Of the TransformGraph.
      wanted: The transformed features to make.

    Attributes:
      features: By name, NumPy dtype and shape of one row, of every raw feature that is needed.

    Raises:
      DataError: The graph does not make a wanted feature, or a raw feature is not of fixed width.
    """

    def __init__(self, transform_output: tft.TFTransformOutput, wanted: Sequence[str]) -> None:
        super().__init__()
        self._transform = TransformFunction(transform_output)
        self._tables = self._transform.rebuild_tables()
        self._wanted = tuple(wanted)
        made = self._transform.output_names
        if missing := sorted(set(wanted) - made):
            raise DataError(
                f"The model's inputs must be transformed features; {', '.join(missing)} are not among "
                f"{', '.join(sorted(made))}. Give the Quantizer the graph the model was trained with."
            )
        needed = self._transform.needed_inputs(wanted)
        self.features = {name: _describe(name, self._transform.signature[name]) for name in sorted(needed)}
        self._function = _trace(self._apply, self.features)

    def apply(self, rows: Columns) -> dict[str, npt.NDArray[Any]]:
        """Returns the transformed features of the rows, each of shape (rows, ...)."""
        return {name: value.numpy() for name, value in _call(self._function, rows, self.features).items()}

    def convert(self) -> bytes:
        """Returns the TFLite file, in float32."""
        return convert(self, self._function)

    def _apply(self, **features: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = tf.shape(next(iter(features.values())))[0]
        raw = {
            name: _feed(features[name], spec) if name in features else _absent(spec, rows)
            for name, spec in self._transform.signature.items()
        }
        made = self._transform.copy_into_graph(raw, one_value_per_row=True)
        # identity: a feature that passes through unchanged is an output of its own
        return {name: tf.identity(made[name]) for name in self._wanted}


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
        self.features = {name: _describe(name, spec, scalars=False) for name, spec in inputs.items()}
        self._function = _trace(self._apply, self.features)

    def apply(self, rows: Columns) -> npt.NDArray[np.float32]:
        """Returns the predictions of rows of inputs, shape (rows, outputs)."""
        found = _call(self._function, rows, self.features)[_OUTPUT]
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
      folder: A SavedModel with the signature 'transformed', of any Keras, or one that Keras 2 wrote.

    Raises:
      DataError: It is neither, an input is not of fixed width, or there is more than one output.
    """
    loaded = tf.saved_model.load(str(folder))
    if ladder.MODEL_SIGNATURE not in loaded.signatures:
        return of_keras(_load_keras(folder))
    signature = loaded.signatures[ladder.MODEL_SIGNATURE]
    (output,) = _one_output(signature.structured_outputs)
    weights = getattr(loaded, ladder.WEIGHTS, None) or _by_name(signature.variables)
    return Predictor(
        loaded,
        lambda features: signature(**features)[output],
        signature.structured_input_signature[1],
        weights,
    )


def of_keras(model: tf_keras.Model) -> Predictor:
    """Returns a Keras 2 model, functional, with named inputs of fixed width and one output.

    Raises:
      DataError: An input is not of fixed width, or there is more than one output.
    """
    _one_output(model.output_names)
    inputs = dict(zip(model.input_names, model.inputs, strict=True))
    return Predictor(model, lambda features: model(features, training=False), inputs, _by_name(model.weights))


def _load_keras(folder: Path) -> tf_keras.Model:
    if not (folder / "keras_metadata.pb").exists():
        raise DataError(
            f"A model to convert must have the signature {ladder.MODEL_SIGNATURE!r} or be a SavedModel that "
            f"Keras 2 wrote; got neither in {folder}."
        )
    return tf_keras.models.load_model(folder, compile=False)


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


def _trace(function: Callable[..., Any], features: Features) -> Any:
    specs = {
        name: tf.TensorSpec([None, *shape], tf.string if dtype == np.bytes_ else dtype, name=name)
        for name, (dtype, shape) in features.items()
    }
    return tf.function(function, autograph=False).get_concrete_function(**specs)


def _call(function: Any, rows: Columns, features: Features) -> dict[str, Any]:
    return dict(function(**{name: tf.constant(rows[name]) for name in features}))


def _row_by_row(rows: Columns) -> Callable[[], Iterator[tuple[str, dict[str, npt.NDArray[Any]]]]]:
    def representative_dataset() -> Iterator[tuple[str, dict[str, npt.NDArray[Any]]]]:
        for i in range(len(next(iter(rows.values())))):
            yield SIGNATURE, {name: values[i : i + 1] for name, values in rows.items()}

    return representative_dataset


def _describe(name: str, spec: Any, *, scalars: bool = True) -> tuple[Any, tuple[int, ...]]:
    """Returns NumPy dtype and shape of one row; with `scalars`, a row of one value has the shape ()."""
    shape = (None, 1) if isinstance(spec, tf.SparseTensorSpec) else tuple(spec.shape.as_list())
    if None in shape[1:]:
        raise DataError(f"Feature {name!r} must be of fixed width to be an input on a phone; got {spec}.")
    row_shape = () if scalars and shape[1:] == (1,) else shape[1:]
    return (np.bytes_ if spec.dtype == tf.string else spec.dtype.as_numpy_dtype), row_shape


def _feed(value: tf.Tensor, spec: Any) -> Any:
    """Gives a dense feature of shape [batch, ...] the shape the transform expects."""
    if not isinstance(spec, tf.SparseTensorSpec):
        return tf.reshape(value, [-1, *spec.shape[1:]])
    rows = tf.shape(value, tf.int64)[0]
    positions = tf.stack([tf.range(rows), tf.zeros([rows], tf.int64)], axis=1)
    return tf.SparseTensor(positions, value, tf.stack([rows, 1]))


def _absent(spec: Any, rows: tf.Tensor) -> Any:
    """Stands in for a feature that the model's inputs do not depend on, such as the label."""
    if isinstance(spec, tf.SparseTensorSpec):
        nothing = tf.zeros([0], spec.dtype)
        return tf.SparseTensor(tf.zeros([0, 2], tf.int64), nothing, [tf.cast(rows, tf.int64), 1])
    return tf.zeros([rows, *spec.shape[1:]], spec.dtype)
