"""A TransformGraph with the reduction in it: raw features -> TFT -> reduction, in one SavedModel.

The original graph is copied in op by op, not called, so that `TFTransformOutput` still sees which output
needs which input: the label can be left out when serving, as with TFT's own graphs.
"""

from collections.abc import Mapping

import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io
from tfx.dsl.io import fileio
from tfx.utils import io_utils

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.tft_graph import TransformFunction
from tfx_mobile.dimensionality_reducer.config import ReducerConfig
from tfx_mobile.dimensionality_reducer.core import Projection


def feature_widths(output: tft.TFTransformOutput, config: ReducerConfig) -> dict[str, int]:
    """Returns the number of values each input feature has in a row.

    Raises:
      ConfigError: A feature does not exist, is a string, is not of fixed width, or an output's name is taken.
    """
    spec = output.transformed_feature_spec()
    widths = {}
    for name in (name for reduction in config.reductions for name in reduction.inputs):
        if name not in spec:
            raise ConfigError(
                f"A reduction's inputs must be transformed features; got {name!r}. "
                f"There are {', '.join(sorted(spec))}."
            )
        if not isinstance(spec[name], tf.io.FixedLenFeature) or spec[name].dtype == tf.string:
            raise ConfigError(f"Feature {name!r} must be numbers of fixed width; got {spec[name]}.")
        widths[name] = int(tf.TensorShape(spec[name].shape).num_elements())
    for reduction in config.reductions:
        if reduction.output in spec:
            raise ConfigError(
                f"Output {reduction.output!r} must be a new feature; the data has one of that name."
            )
    return widths


def write(source: str, target: str, config: ReducerConfig, projections: Mapping[str, Projection]) -> None:
    """Writes the TransformGraph at `source`, with the reductions added, to `target`.

    Args:
      source: URI of a TransformGraph artifact.
      target: URI of the one to make.
      config: The reductions.
      projections: By output name, the fitted reduction.

    Raises:
      DataError: The graph was exported by TensorFlow 1 (`force_tf_compat_v1`).
    """
    output = tft.TFTransformOutput(source)
    module = _compose(output, config, projections)
    tf.saved_model.save(module, f"{target}/{tft.TFTransformOutput.TRANSFORM_FN_DIR}")
    for folder in fileio.listdir(source):
        if folder != tft.TFTransformOutput.TRANSFORM_FN_DIR:
            io_utils.copy_dir(f"{source}/{folder}", f"{target}/{folder}")
    schema = reduced_schema(output.transformed_metadata.schema, config, projections)
    metadata_io.write_metadata(
        dataset_metadata.DatasetMetadata(schema), f"{target}/{tft.TFTransformOutput.TRANSFORMED_METADATA_DIR}"
    )


def reduced_schema(
    schema: schema_pb2.Schema, config: ReducerConfig, projections: Mapping[str, Projection]
) -> schema_pb2.Schema:
    """Returns the schema without the dropped features and with each output as a vector of fixed width."""
    reduced = schema_pb2.Schema()
    reduced.CopyFrom(schema)
    dropped = config.dropped_features()
    kept = [feature for feature in reduced.feature if feature.name not in dropped]
    del reduced.feature[:]
    reduced.feature.extend(kept)
    for reduction in config.reductions:
        feature = reduced.feature.add(name=reduction.output, type=schema_pb2.FLOAT)
        feature.presence.min_fraction = 1.0
        feature.shape.dim.add(size=projections[reduction.output].num_components)
    return reduced


def _compose(
    output: tft.TFTransformOutput, config: ReducerConfig, projections: Mapping[str, Projection]
) -> tf.Module:
    original = TransformFunction(output)

    @tf.function(input_signature=[original.signature], autograph=False)
    def transform_fn(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        transformed = original.copy_into_graph(features)
        reduced = {
            r.output: _project(transformed, r.inputs, projections[r.output]) for r in config.reductions
        }
        return {k: v for k, v in transformed.items() if k not in config.dropped_features()} | reduced

    module = tf.Module()
    module.original = original.trackable
    module.transform_fn = transform_fn
    transform_fn.get_concrete_function()
    return module


def _project(features: Mapping[str, tf.Tensor], inputs: tuple[str, ...], projection: Projection) -> tf.Tensor:
    parts = [tf.cast(features[name], tf.float32) for name in inputs]
    widths = [int(part.shape[1:].num_elements()) for part in parts]
    flat = [tf.reshape(part, (-1, width)) for part, width in zip(parts, widths, strict=True)]
    joined = tf.concat(flat, axis=1) if len(flat) > 1 else flat[0]
    centred = joined - tf.constant(projection.mean, tf.float32)
    return tf.matmul(centred, tf.constant(projection.matrix, tf.float32))
