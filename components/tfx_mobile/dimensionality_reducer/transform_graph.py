"""A TransformGraph with the reduction in it: raw features -> TFT -> reduction, in one SavedModel.

The original graph is copied in op by op, not called, so that `TFTransformOutput` still sees which output
needs which input: the label can be left out when serving, as with TFT's own graphs.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io
from tfx.dsl.io import fileio
from tfx.utils import io_utils

from tfx_mobile.common import embedding
from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.tft_graph import TransformFunction
from tfx_mobile.dimensionality_reducer.config import Input, OneHot, ReducerConfig
from tfx_mobile.dimensionality_reducer.models import Fitted
from tfx_mobile.dimensionality_reducer.tensor_rows import TensorRows


@dataclasses.dataclass(frozen=True)
class InputLayout:
    """What the inputs of the reductions look like in the transformed data.

    Attributes:
      widths: By input, its numbers per row (of a one-hot one, its depth).
      words: Of one-hot inputs with a vocabulary, its words in order.
      label_is_text: Whether the label is a string.
    """

    widths: dict[Input, int]
    words: dict[OneHot, list[str]]
    label_is_text: bool


def input_layout(output: tft.TFTransformOutput, config: ReducerConfig) -> InputLayout:
    """Returns the widths and words of all inputs.

    Raises:
      ConfigError: A feature does not exist or is of the wrong kind, a depth is not known, an output's name is
        taken, or the label is not one value a row.
    """
    spec = output.transformed_feature_spec()
    for name in sorted({*config.input_features(), *([config.label_key] if config.label_key else [])}):
        if name not in spec:
            raise ConfigError(
                f"A reduction's inputs and label must be transformed features; got {name!r}. "
                f"There are {', '.join(sorted(spec))}."
            )
    widths: dict[Input, int] = {}
    words: dict[OneHot, list[str]] = {}
    for reduction in config.reductions:
        for name in reduction.numeric:
            widths[name] = _numeric_width(name, spec[name])
        for one in reduction.one_hot:
            words[one] = _words(output, one)
            _check_indices(one, spec)
            widths[one] = one.depth or _known_depth(output, one, len(words[one]))
        if reduction.output in spec:
            raise ConfigError(
                f"Output {reduction.output!r} must be a new feature; the data has one of that name."
            )
    return InputLayout(widths, words, _label_is_text(spec, config))


def _numeric_width(name: str, spec: Any) -> int:
    if isinstance(spec, tf.io.FixedLenFeature) and spec.dtype != tf.string:
        return int(tf.TensorShape(spec.shape).num_elements())
    if spec.dtype == tf.float32:
        advice = "Make it dense in preprocessing_fn, for example with tf.sparse.to_dense and a reshape"
    elif spec.dtype == tf.int64:
        advice = f"Vocabulary indices go in as OneHot({name!r})"
    else:
        advice = "Make indices of it with tft.compute_and_apply_vocabulary"
    raise ConfigError(f"Feature {name!r} must be numbers of fixed width; got {spec}. {advice}.")


def _check_indices(one: OneHot, spec: Mapping[str, Any]) -> None:
    kinds = (tf.io.FixedLenFeature, tf.io.VarLenFeature)
    if not isinstance(spec[one.feature], kinds) or spec[one.feature].dtype != tf.int64:
        raise ConfigError(f"OneHot({one.feature!r}) must be vocabulary indices; got {spec[one.feature]}.")
    if one.weights and (
        type(spec[one.weights]) is not type(spec[one.feature]) or spec[one.weights].dtype != tf.float32
    ):
        raise ConfigError(
            f"OneHot.weights must have one float32 for each index of {one.feature!r}; "
            f"got {spec[one.weights]}."
        )


def _words(output: tft.TFTransformOutput, one: OneHot) -> list[str]:
    if not one.vocabulary:
        return []
    try:
        found = output.vocabulary_by_name(one.vocabulary)
    except ValueError as error:
        raise ConfigError(
            f"OneHot.vocabulary must name a vocabulary of the TransformGraph; got {one.vocabulary!r}."
        ) from error
    return [word.decode(errors="backslashreplace") for word in found]


def _known_depth(output: tft.TFTransformOutput, one: OneHot, num_words: int) -> int:
    """Returns how many indices there are: those of words that are not in the vocabulary come behind it."""
    feature = next(f for f in output.transformed_metadata.schema.feature if f.name == one.feature)
    depth = max(num_words, embedding.vocabulary_size(feature) or 0)
    if not depth:
        raise ConfigError(
            f"OneHot({one.feature!r}) must have a depth; Transform's schema does not say how large its "
            "indices get. Give depth or vocabulary."
        )
    return depth


def _label_is_text(spec: Mapping[str, Any], config: ReducerConfig) -> bool:
    if not config.label_key:
        return False
    label = spec[config.label_key]
    if not isinstance(label, tf.io.FixedLenFeature) or tf.TensorShape(label.shape).num_elements() != 1:
        raise ConfigError(f"The label {config.label_key!r} must be one value a row; got {label}.")
    return bool(label.dtype == tf.string)


def write(
    original: TransformFunction,
    source: str,
    target: str,
    config: ReducerConfig,
    fitted: Mapping[str, Fitted],
    widths: Mapping[Input, int],
) -> None:
    """Writes the TransformGraph at `source`, with the reductions added, to `target`.

    Args:
      original: The function of the TransformGraph at `source`.
      source: URI of a TransformGraph artifact.
      target: URI of the one to make.
      config: The reductions.
      fitted: By output name, the fitted reduction.
      widths: By input, its numbers per row.
    """
    for folder in (name.rstrip("/") for name in fileio.listdir(source)):  # buckets put a slash behind folders
        if folder != tft.TFTransformOutput.TRANSFORM_FN_DIR:
            io_utils.copy_dir(f"{source}/{folder}", f"{target}/{folder}")
    module = _compose(original, config, fitted, widths)
    tf.saved_model.save(module, f"{target}/{tft.TFTransformOutput.TRANSFORM_FN_DIR}")
    schema = tft.TFTransformOutput(source).transformed_metadata.schema
    schema = reduced_schema(schema, config, fitted)
    metadata_io.write_metadata(
        dataset_metadata.DatasetMetadata(schema), f"{target}/{tft.TFTransformOutput.TRANSFORMED_METADATA_DIR}"
    )


def reduced_schema(
    schema: schema_pb2.Schema, config: ReducerConfig, fitted: Mapping[str, Fitted]
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
        feature.shape.dim.add(size=fitted[reduction.output].num_outputs)
    return reduced


def _compose(
    original: TransformFunction,
    config: ReducerConfig,
    fitted: Mapping[str, Fitted],
    widths: Mapping[Input, int],
) -> tf.Module:
    @tf.function(input_signature=[original.signature], autograph=False)
    def transform_fn(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        transformed = original.copy_into_graph(features)
        reduced = {
            r.output: fitted[r.output].apply(TensorRows(transformed, r, widths)) for r in config.reductions
        }
        return {k: v for k, v in transformed.items() if k not in config.dropped_features()} | reduced

    module = tf.Module()
    module.original = original.trackable
    module.transform_fn = transform_fn
    transform_fn.get_concrete_function()
    return module
