"""Embedding sizes: the rule, what TFT's schema says of each feature, and what `build_model` is told."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_metadata.proto.v0 import schema_pb2

from tfx_mobile.common.embedding import embedding_size, float_widths, vocabulary_size, vocabulary_sizes
from tfx_mobile.common.errors import ConfigError
from tfx_mobile.pruning_trainer.context import BuildContext


def schema_of(*features: schema_pb2.Feature) -> schema_pb2.Schema:
    schema = schema_pb2.Schema()
    schema.feature.extend(features)
    return schema


def feature(
    name: str, kind: int = schema_pb2.INT, *, shape: tuple[int, ...] | None = (1,), **domain: Any
) -> Any:
    made = schema_pb2.Feature(name=name, type=kind)
    if domain:
        made.int_domain.CopyFrom(schema_pb2.IntDomain(**domain))
    if shape is not None:
        made.shape.CopyFrom(schema_pb2.FixedShape())
        for size in shape:
            made.shape.dim.add(size=size)
    return made


def test_a_thousand_words_want_six_numbers() -> None:
    assert embedding_size(1000) == 6  # 5.62, the example of the course


@pytest.mark.parametrize(("size", "wanted"), [(1, 1), (2, 1), (5, 1), (6, 2), (16, 2), (81, 3), (10**8, 100)])
def test_the_fourth_root_is_rounded_to_the_nearest_and_never_zero(size: int, wanted: int) -> None:
    assert embedding_size(size) == wanted


@given(st.integers(1, 10**12))
def test_the_size_is_the_whole_number_nearest_to_the_fourth_root(size: int) -> None:
    # In integers: e - 1/2 <= size ** (1/4) <= e + 1/2, with both sides doubled and raised to the fourth.
    wanted = embedding_size(size)
    assert (2 * wanted - 1) ** 4 <= 16 * size <= (2 * wanted + 1) ** 4


@given(st.integers(1, 10**9), st.integers(0, 10**9))
def test_a_larger_vocabulary_never_wants_a_narrower_embedding(size: int, more: int) -> None:
    assert embedding_size(size + more) >= embedding_size(size)


def test_integers_of_numpy_are_integers() -> None:
    assert embedding_size(np.int64(1000)) == 6  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, -1, 1000.0, True, "1000", None])
def test_what_is_no_size_is_refused(size: Any) -> None:
    message = f"vocabulary_size must be an int of at least 1; got {size!r}."
    with pytest.raises(ConfigError, match=re.escape(message)):
        embedding_size(size)


def test_the_helper_is_public() -> None:
    import tfx_mobile

    assert tfx_mobile.embedding_size is embedding_size


def test_a_vocabulary_has_one_more_index_than_the_largest() -> None:
    assert vocabulary_size(feature("a", min=0, max=3)) == 4
    assert vocabulary_size(feature("a", min=-1, max=3)) == 4
    assert vocabulary_size(feature("a", min=0, max=0)) == 1


@pytest.mark.parametrize(
    "unknown",
    [
        feature("no_domain"),
        feature("no_max", min=0, is_categorical=True),
        feature("nothing_found", min=-1, max=-1, is_categorical=True),
        feature("float", schema_pb2.FLOAT, min=0, max=3),
    ],
)
def test_a_size_that_the_schema_does_not_say_is_not_guessed(unknown: Any) -> None:
    assert vocabulary_size(unknown) is None
    assert vocabulary_sizes(schema_of(unknown)) == {}


def test_only_what_the_schema_calls_categorical_is_listed_by_name() -> None:
    schema = schema_of(
        feature("words", min=-1, max=9, is_categorical=True),
        feature("age", min=0, max=120),
        feature("bucket", min=0, max=3, is_categorical=True),
    )
    assert list(vocabulary_sizes(schema).items()) == [("bucket", 4), ("words", 10)]


def test_floats_of_fixed_width_count_the_product_of_their_shape() -> None:
    schema = schema_of(
        feature("vector", schema_pb2.FLOAT, shape=(2, 3)),
        feature("scalar", schema_pb2.FLOAT, shape=()),
        feature("varying", schema_pb2.FLOAT, shape=None),
        feature("index"),
        feature("text", schema_pb2.BYTES),
        feature("number", schema_pb2.FLOAT),
    )
    assert list(float_widths(schema).items()) == [("number", 1), ("scalar", 1), ("vector", 6)]


def preprocess(inputs: dict[str, Any]) -> dict[str, Any]:
    import tensorflow as tf
    import tensorflow_transform as tft

    word, number = inputs["word"], inputs["number"]
    to_index: Callable[..., Any] = tft.compute_and_apply_vocabulary
    return {
        "plain": to_index(word, vocab_filename="plain"),
        "default": to_index(word, top_k=2, default_value=2, vocab_filename="default"),
        "oov": to_index(word, num_oov_buckets=3, vocab_filename="oov"),
        "top_oov": to_index(word, top_k=2, num_oov_buckets=3, vocab_filename="top_oov"),
        "varying": to_index(inputs["words"], vocab_filename="varying"),
        "bucket": tft.bucketize(number, 4),
        "applied": tft.apply_buckets(number, tft.quantiles(number, 5, epsilon=0.01)),
        "hashed": tft.hash_strings(word, 10),
        "counted": tf.cast(number, tf.int64),
        "number_z": tft.scale_to_z_score(number),
        "pair": tf.concat([number, number], axis=1),
    }


@pytest.fixture(scope="module")
def transform_output(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Returns what real TFT says of 40 rows with the words a to d."""
    import tensorflow as tf
    import tensorflow_transform as tft
    import tensorflow_transform.beam as tft_beam
    from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

    spec = {
        "word": tf.io.FixedLenFeature([1], tf.string),
        "words": tf.io.VarLenFeature(tf.string),
        "number": tf.io.FixedLenFeature([1], tf.float32),
    }
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
    rows = [
        {"word": ["abcd"[i % 4]], "words": [f"w{k}" for k in range(i % 3)], "number": [float(i)]}
        for i in range(40)
    ]
    folder = str(tmp_path_factory.mktemp("graph"))
    with tft_beam.Context(temp_dir=str(tmp_path_factory.mktemp("tft"))):
        _, transform_fn = (rows, metadata) | tft_beam.AnalyzeAndTransformDataset(preprocess)
        _ = transform_fn | tft_beam.WriteTransformFn(folder)
    return tft.TFTransformOutput(folder)


@pytest.fixture(scope="module")
def context(transform_output: Any) -> BuildContext:
    return BuildContext({}, "label", transform_output, {})


@pytest.mark.pipeline
def test_tfts_schema_gives_each_vocabulary_with_its_default_and_oov_buckets(transform_output: Any) -> None:
    assert vocabulary_sizes(transform_output.transformed_metadata.schema) == {
        "applied": 5,
        "bucket": 4,
        "default": 3,  # two words and the index of the others
        "oov": 7,  # four words and three buckets
        "plain": 4,
        "top_oov": 5,
        "varying": 2,
    }


@pytest.mark.pipeline
def test_tfts_schema_gives_the_width_of_each_float(transform_output: Any) -> None:
    assert float_widths(transform_output.transformed_metadata.schema) == {"number_z": 1, "pair": 2}


@pytest.mark.pipeline
def test_no_index_is_beyond_the_size_that_a_model_is_told(context: BuildContext) -> None:
    import tensorflow as tf

    rows = {
        "word": tf.constant([[word] for word in ("a", "b", "c", "d", "new", "newer", "", "Zürich")]),
        "words": tf.sparse.from_dense(tf.constant([["w0"], ["w1"]] * 4)),
        "number": tf.constant([[float(i)] for i in range(-30, 50, 10)]),
    }
    found = context.transform_output.transform_features_layer()(rows)
    for name in ("default", "oov", "top_oov", "bucket", "applied"):
        values = found[name].numpy()
        assert values.min() >= 0
        assert values.max() < context.vocabulary_size(name)
    assert found["default"].numpy().max() == context.vocabulary_size("default") - 1


@pytest.mark.pipeline
def test_a_model_is_told_the_embedding_size_of_a_feature(context: BuildContext) -> None:
    assert context.embedding_size("oov") == 2  # 7 ** 0.25 = 1.63
    assert context.embedding_size("plain") == 1


@pytest.mark.pipeline
def test_a_vocabularys_name_tells_the_size_that_the_schema_does_not(context: BuildContext) -> None:
    assert context.vocabulary_size("hashed", vocabulary="plain") == 4
    assert context.embedding_size("hashed", vocabulary="plain") == 1
    # The schema knows of the buckets for words outside; the vocabulary does not.
    assert context.vocabulary_size("oov", vocabulary="oov") == 7


@pytest.mark.pipeline
@pytest.mark.parametrize("ask", [BuildContext.vocabulary_size, BuildContext.embedding_size])
def test_a_size_that_nobody_knows_is_refused_with_what_to_do(context: BuildContext, ask: Any) -> None:
    message = (
        "Feature 'hashed' must have a known number of values; Transform's schema does not say it. Make it "
        "with tft.compute_and_apply_vocabulary or tft.bucketize, name its vocabulary, or call "
        "tfx_mobile.embedding_size with the number."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        ask(context, "hashed")


@pytest.mark.pipeline
def test_a_feature_that_does_not_exist_is_refused_with_those_that_do(context: BuildContext) -> None:
    message = (
        "A categorical feature must be a transformed feature; got 'word'. There are applied, bucket, count"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        context.embedding_size("word")


@pytest.mark.pipeline
def test_a_vocabulary_that_does_not_exist_is_refused(context: BuildContext) -> None:
    message = "vocabulary must name a vocabulary of the TransformGraph; got 'nothing'."
    with pytest.raises(ConfigError, match=re.escape(message)):
        context.embedding_size("hashed", vocabulary="nothing")
