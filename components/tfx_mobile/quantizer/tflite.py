"""Preprocessing and model as TFLite files, by TensorFlow's own converter.

Preprocessing takes raw features by name, each of shape [batch] (or [batch, n]), and is converted once, in
float32; the model behind it is converted in each mode; join.py makes one file of the two. Built-in TFLite
ops only: what does not convert is refused with the op's name, and TF Select is not used.
"""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_transform as tft
import tf_keras

from tfx_mobile.common.errors import DataError
from tfx_mobile.common.interpreter import SIGNATURE
from tfx_mobile.common.tft_graph import TransformFunction
from tfx_mobile.quantizer.config import Mode

Columns = Mapping[str, npt.NDArray[Any]]
Features = Mapping[str, tuple[Any, tuple[int, ...]]]
_OUTPUT = "predictions"


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
        return _convert(self, self._function, lambda converter: None)

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
    """A Keras model as a function of its inputs by name.

    Args:
      model: Functional, with named inputs of fixed width and one output.

    Attributes:
      features: By name, NumPy dtype and shape of one row, of every input.

    Raises:
      DataError: An input is not of fixed width, or there is more than one output.
    """

    def __init__(self, model: tf_keras.Model) -> None:
        super().__init__()
        if len(model.outputs) != 1:
            names = ", ".join(sorted(model.output_names))
            raise DataError(f"A model to convert must have one output; got {len(model.outputs)}: {names}.")
        self._model = model
        inputs = zip(model.input_names, model.inputs, strict=True)
        self.features = {name: _describe(name, t, scalars=False) for name, t in inputs}
        self._function = _trace(self._apply, self.features)

    def apply(self, rows: Columns) -> npt.NDArray[np.float32]:
        """Returns the predictions of rows of inputs, shape (rows, outputs)."""
        found = _call(self._function, rows, self.features)[_OUTPUT]
        return np.asarray(found, np.float32).reshape(len(found), -1)

    def convert(self, mode: Mode, calibration: Columns) -> bytes:
        """Returns the TFLite file.

        Args:
          mode: How to store weights and activations.
          calibration: Rows of inputs that give int8 its ranges.

        Raises:
          DataError: The converter refuses; the message has its reason in one line.
        """
        return _convert(self, self._function, lambda converter: _set_mode(converter, mode, calibration))

    def _apply(self, **features: tf.Tensor) -> dict[str, tf.Tensor]:
        return {_OUTPUT: self._model(features, training=False)}


def _set_mode(converter: tf.lite.TFLiteConverter, mode: Mode, calibration: Columns) -> None:
    if mode is not Mode.FLOAT32:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if mode is Mode.FLOAT16:
        converter.target_spec.supported_types = [tf.float16]
    if mode is Mode.INT8:
        converter.target_spec.supported_ops.append(tf.lite.OpsSet.TFLITE_BUILTINS_INT8)
        converter.representative_dataset = _row_by_row(calibration)


def _convert(module: tf.Module, function: Any, settings: Callable[[tf.lite.TFLiteConverter], None]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={SIGNATURE: function})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[SIGNATURE])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        settings(converter)
        try:
            return bytes(converter.convert())
        except Exception as error:  # the converter raises whatever its C++ side threw
            raise DataError(f"the TFLite converter refuses: {_one_line(str(error))}") from error


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


def _one_line(message: str) -> str:
    """Returns what helps of a converter's message: the ops TFLite has no built-in for, or its last line."""
    ops = sorted(set(re.findall(r"tf\.[A-Z]\w+", message)))
    if ops:
        return f"no built-in TFLite op for {', '.join(ops)}; rewrite that part of the model"
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return (lines[-1] if lines else "no reason given")[:300]
