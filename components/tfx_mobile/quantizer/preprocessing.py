"""The preprocessing of a TransformGraph as a TFLite file: raw features in, transformed features out.

It takes raw features by name, each of shape [batch] (or [batch, n]), and is converted once, in float32; the
model behind it is converted by tflite.py, and join.py makes one file of the two. How TFT's ops become
built-in TFLite ops is common/tft_rewrites.py; which mappers do is docs/preprocessing.md. Also holds what
both files need: rows into concrete functions of named features.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_metadata.proto.v0 import schema_pb2

from tfx_mobile.common.errors import DataError
from tfx_mobile.common.tflite import ConversionError, convert
from tfx_mobile.common.tft_graph import TransformFunction, ancestors
from tfx_mobile.common.tft_rewrites import (
    Rewriter,
    UnconvertibleError,
    missing_value,
    sparse_stand_in,
    tables_of,
)

Columns = Mapping[str, npt.NDArray[Any]]
Features = Mapping[str, tuple[Any, tuple[int, ...]]]


class Preprocessing(tf.Module):
    """Raw features to the transformed features that a model takes.

    A phone gives every feature in every row. What stands for a missing value of a feature that is sparse
    (VarLen) in the schema: NaN for floats, the empty string for strings, the lowest integer for integers.
    It becomes the default that `preprocessing_fn` gives when it makes the feature dense.

    Args:
      transform_output: Of the TransformGraph.
      wanted: The transformed features to make.
      allow_select_tf_ops: What has no built-in op stays an op of TensorFlow; phones then need the Flex
        delegate.

    Attributes:
      features: By name, NumPy dtype and shape of one row, of every raw feature that is needed.
      missing: By name, the value that stands for a missing one: the markers above, and the schema's default
        of a dense feature. A feature that is not named may not be missing, as in Transform.

    Raises:
      DataError: The graph does not make a wanted feature, a feature is not of fixed width, or an op has no
        equivalent of built-in ops; the message names op, features and ways out.
    """

    def __init__(
        self,
        transform_output: tft.TFTransformOutput,
        wanted: Sequence[str],
        *,
        allow_select_tf_ops: bool = False,
    ) -> None:
        super().__init__()
        self._transform = TransformFunction(transform_output)
        self._rewriter = Rewriter(self._transform, select_ops=allow_select_tf_ops)
        self._wanted, self._select_ops = tuple(wanted), allow_select_tf_ops
        made = self._transform.output_names
        if absent := sorted(set(wanted) - made):
            raise DataError(
                f"The model's inputs must be transformed features; {', '.join(absent)} are not among "
                f"{', '.join(sorted(made))}. Give the Quantizer the graph the model was trained with."
            )
        for name in wanted:
            if not isinstance(self._transform.outputs[name], tf.Tensor):
                raise DataError(
                    f"Transformed feature {name!r} must be dense to be a model's input on a phone; got "
                    f"{type(self._transform.outputs[name]).__name__}. Make it dense in preprocessing_fn "
                    "(tft.sparse_tensor_to_dense_with_shape)."
                )
        signature = self._transform.signature
        needed = sorted(self._transform.needed_inputs(wanted))
        self.features = {name: describe(name, signature[name]) for name in needed}
        defaults = _schema_defaults(transform_output)
        self.missing = {
            name: missing_value(signature[name].dtype)
            if isinstance(signature[name], tf.SparseTensorSpec)
            else defaults[name]
            for name in needed
            if isinstance(signature[name], tf.SparseTensorSpec) or name in defaults
        }
        try:
            self._function = trace(self._apply, self.features)
        except UnconvertibleError as error:
            raise self._refusal([error.op_type], [error.op]) from error
        self._tables = self._rewriter.tables

    @property
    def vocabularies(self) -> dict[str, list[bytes]]:
        """By transformed feature that one vocabulary of strings is applied to, its entries in index order."""
        found = {name: _vocabulary(tables_of(self._transform, name)) for name in self._wanted}
        return {name: entries for name, entries in found.items() if entries}

    def apply(self, rows: Columns) -> dict[str, npt.NDArray[Any]]:
        """Returns the transformed features of the rows, each of shape (rows, ...)."""
        return {name: value.numpy() for name, value in call(self._function, rows, self.features).items()}

    def convert(self) -> bytes:
        """Returns the TFLite file, in float32.

        Raises:
          DataError: An op has no built-in op of TFLite; the message names op, features and ways out.
        """
        try:
            return convert(self, self._function, _allow_select if self._select_ops else None)
        except ConversionError as error:
            types = set(re.findall(r"tf\.([A-Z]\w+)", str(error)))
            tensors = [self._transform.outputs[name] for name in self._wanted]
            blamed = [op for op in ancestors(tensor.op for tensor in tensors) if op.type in types]
            if not blamed:
                raise
            raise self._refusal(sorted({op.type for op in blamed}), blamed) from error

    def _refusal(self, types: Sequence[str], ops: Sequence[Any]) -> DataError:
        names = {op.name for op in ops}
        made = [
            name
            for name in self._wanted
            if names & {op.name for op in ancestors([self._transform.outputs[name].op])}
        ]
        raw = sorted(self._transform.inputs_of(ops))
        return DataError(
            f"Preprocessing must be of built-in TFLite ops; there is none for {', '.join(types)} in "
            f"transformed feature {_listed(made)}, made of raw feature {_listed(raw)}. Write it otherwise in "
            "preprocessing_fn, keep TensorFlow's ops in the file (allow_select_tf_ops=True), or let the file "
            "take transformed features (inputs='transformed')."
        )

    def _apply(self, **features: tf.Tensor) -> dict[str, tf.Tensor]:
        signature = self._transform.signature
        given = {name: _feed(value, signature[name]) for name, value in features.items()}
        made = self._rewriter(given, self._wanted)
        # identity: a feature that passes through unchanged is an output of its own
        return {name: tf.identity(value) for name, value in made.items()}


def trace(function: Callable[..., Any], features: Features) -> Any:
    """Returns a concrete function of named features, of shape [batch, ...] each."""
    specs = {
        name: tf.TensorSpec([None, *shape], tf.string if dtype == np.bytes_ else dtype, name=name)
        for name, (dtype, shape) in features.items()
    }
    return tf.function(function, autograph=False).get_concrete_function(**specs)


def call(function: Any, rows: Columns, features: Features) -> dict[str, Any]:
    """Calls what `trace` returned with rows of the features."""
    return dict(function(**{name: tf.constant(rows[name]) for name in features}))


def describe(name: str, spec: Any, *, scalars: bool = True) -> tuple[Any, tuple[int, ...]]:
    """Returns NumPy dtype and shape of one row; with `scalars`, a row of one value has the shape ().

    Raises:
      DataError: The feature is not of fixed width.
    """
    shape = (None, 1) if isinstance(spec, tf.SparseTensorSpec) else tuple(spec.shape.as_list())
    if None in shape[1:] or isinstance(spec, tf.RaggedTensorSpec):
        raise DataError(f"Feature {name!r} must be of fixed width to be an input on a phone; got {spec}.")
    row_shape = () if scalars and shape[1:] == (1,) else shape[1:]
    return (np.bytes_ if spec.dtype == tf.string else spec.dtype.as_numpy_dtype), row_shape


def _feed(value: tf.Tensor, spec: Any) -> Any:
    """Gives a dense feature of shape [batch, ...] the form the transform expects."""
    if isinstance(spec, tf.SparseTensorSpec):
        return sparse_stand_in(value)
    return tf.reshape(value, [-1, *spec.shape[1:]])


def raw_schema(transform_output: tft.TFTransformOutput) -> schema_pb2.Schema:
    """Returns the schema of the raw features; an empty one where the graph's maker left none."""
    try:
        return transform_output.raw_metadata.schema
    except OSError:
        return schema_pb2.Schema()


def _schema_defaults(transform_output: tft.TFTransformOutput) -> dict[str, Any]:
    """Returns the defaults that the raw schema gives to dense features, by name."""
    groups = raw_schema(transform_output).tensor_representation_group
    found = {}
    for group in groups.values():
        for name, representation in group.tensor_representation.items():
            default = representation.dense_tensor.default_value
            if kind := default.WhichOneof("kind"):
                found[name] = getattr(default, kind)
    return found


def _vocabulary(tables: Sequence[tuple[Any, Any]]) -> list[bytes]:
    """Returns the entries of the one vocabulary of strings, in index order; none where there is no such."""
    if len(tables) != 1:
        return []
    keys, values = tables[0]
    if values.dtype.kind not in "iu" or not np.array_equal(values, np.arange(len(values))):
        return []
    return [bytes(key) for key in keys] if all(isinstance(key, bytes) for key in keys) else []


def _allow_select(converter: tf.lite.TFLiteConverter) -> None:
    converter.target_spec.supported_ops.append(tf.lite.OpsSet.SELECT_TF_OPS)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
