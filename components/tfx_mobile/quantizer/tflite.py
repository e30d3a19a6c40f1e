"""Fusing preprocessing and model into one graph, and converting it with TensorFlow's TFLite converter.

The file's signature `serving_default` takes raw features by name, each of shape [batch] (or [batch, n]), and
holds TFT, the reduction and the model with built-in TFLite ops only. What does not convert is refused with
the op's name; TF Select is not used.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
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
_OUTPUT = "predictions"


class FusedModel(tf.Module):
    """A Keras model with its preprocessing, from features by name to predictions.

    Args:
      model: Takes features by name.
      transform_output: Of the graph whose transformed features the model takes; None when the model is to
        take them as they are.

    Attributes:
      features: By name, NumPy dtype and shape of one row, of every feature the file will take.

    Raises:
      DataError: The model wants a feature that the transform does not make, or a raw feature is not of
        fixed width.
    """

    def __init__(self, model: tf_keras.Model, transform_output: tft.TFTransformOutput | None) -> None:
        super().__init__()
        self._model = model
        self._transform = TransformFunction(transform_output) if transform_output else None
        self.features = self._find_features()
        specs = {
            name: tf.TensorSpec([None, *shape], tf.string if dtype == np.bytes_ else dtype, name=name)
            for name, (dtype, shape) in self.features.items()
        }
        self.serve = tf.function(self._predict, autograph=False).get_concrete_function(**specs)
        if self._transform is not None:
            self._tables = self._transform.trackable

    def predict(self, rows: Columns) -> npt.NDArray[np.float32]:
        """Returns the predictions of all rows, shape (rows, outputs)."""
        found = self.serve(**{name: tf.constant(rows[name]) for name in self.features})[_OUTPUT]
        return np.asarray(found, np.float32).reshape(len(found), -1)

    def save(self, folder: Path) -> None:
        """Writes a SavedModel for the converter."""
        tf.saved_model.save(self, str(folder), signatures={SIGNATURE: self.serve})

    def _find_features(self) -> dict[str, tuple[Any, tuple[int, ...]]]:
        if self._transform is None:
            inputs = zip(self._model.input_names, self._model.inputs, strict=True)
            return {name: _describe(name, tf.TensorSpec(t.shape, t.dtype)) for name, t in inputs}
        made = self._transform.output_names
        if missing := sorted(set(self._model.input_names) - made):
            raise DataError(
                f"The model's inputs must be transformed features; {', '.join(missing)} are not among "
                f"{', '.join(sorted(made))}. Give the Quantizer the graph the model was trained with."
            )
        needed = self._transform.needed_inputs(self._model.input_names)
        return {name: _describe(name, self._transform.signature[name]) for name in sorted(needed)}

    def _predict(self, **features: tf.Tensor) -> dict[str, tf.Tensor]:
        given = dict(features)
        if self._transform is not None:
            rows = tf.shape(next(iter(features.values())))[0]
            raw = {
                name: _feed(features[name], spec) if name in features else _absent(spec, rows)
                for name, spec in self._transform.signature.items()
            }
            given = self._transform.copy_into_graph(raw)
        found = self._model({name: given[name] for name in self._model.input_names}, training=False)
        return {_OUTPUT: found}


def convert(saved_model: Path, mode: Mode, calibration: Columns) -> bytes:
    """Returns the TFLite file of a SavedModel that `FusedModel.save` wrote.

    Args:
      saved_model: Its folder.
      mode: How to store weights and activations.
      calibration: Rows that give int8 its ranges.

    Raises:
      DataError: The converter refuses; the message has its reason in one line.
    """
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), signature_keys=[SIGNATURE])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if mode is not Mode.FLOAT32:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if mode is Mode.FLOAT16:
        converter.target_spec.supported_types = [tf.float16]
    if mode is Mode.INT8:
        converter.target_spec.supported_ops.append(tf.lite.OpsSet.TFLITE_BUILTINS_INT8)
        converter.representative_dataset = _row_by_row(calibration)
    try:
        return bytes(converter.convert())
    except Exception as error:  # the converter raises whatever its C++ side threw
        raise DataError(f"the TFLite converter refuses: {_one_line(str(error))}") from error


def _row_by_row(rows: Columns) -> Callable[[], Iterator[tuple[str, dict[str, npt.NDArray[Any]]]]]:
    def representative_dataset() -> Iterator[tuple[str, dict[str, npt.NDArray[Any]]]]:
        for i in range(len(next(iter(rows.values())))):
            yield SIGNATURE, {name: values[i : i + 1] for name, values in rows.items()}

    return representative_dataset


def _describe(name: str, spec: Any) -> tuple[Any, tuple[int, ...]]:
    """Returns NumPy dtype and shape of one row of a feature on the phone; one value is a scalar."""
    shape = (None, 1) if isinstance(spec, tf.SparseTensorSpec) else tuple(spec.shape.as_list())
    if None in shape[1:]:
        raise DataError(f"Feature {name!r} must be of fixed width to be an input on a phone; got {spec}.")
    row_shape = () if shape[1:] == (1,) else shape[1:]
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
    """Returns the part of a converter's message that helps: the ops that have no TFLite built-in, or its end."""
    ops = sorted(set(re.findall(r"tf\.[A-Z]\w+", message)))
    if ops:
        return f"no built-in TFLite op for {', '.join(ops)}; rewrite that part of the model"
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return (lines[-1] if lines else "no reason given")[:300]
