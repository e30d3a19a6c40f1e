"""Every mapper of TFT through a TFLite file: the same numbers, or a refusal that says where and what to do.

`CASES` is the table of docs/preprocessing.md. All are analysed by TFT in one run; those that must agree are
converted into one file and each is compared with TFT's own layer on the same tf.Examples.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common.errors import DataError

from .conftest import run

pytestmark = pytest.mark.pipeline

DOCS = Path(__file__).resolve().parents[2] / "docs" / "preprocessing.md"
WANTED = ["company_id", "date_z", "latitude_z", "miles", "miles_z"]
PAYMENTS = ["Cash", "Credit Card", "No Charge", "Dispute", "", "Zürich 7"]
COMPANIES = ["Flash", "Sun", "Blue"]
LOWEST = -(2**63)

WORKS, REWRITTEN = "works", "rewritten"


@dataclasses.dataclass(frozen=True)
class Refused:
    """Refused, with the op that is named and the raw feature it is made of."""

    op: str
    feature: str


Build = Callable[[Any, Any, Any], Any]

# What comes of (tf, tft, raw features): the name is the first column of the table in the docs.
CASES: dict[str, tuple[str | Refused, Build]] = {
    "tft.scale_to_z_score": (WORKS, lambda tf, tft, x: tft.scale_to_z_score(x.miles)),
    "tft.scale_to_z_score of int64": (WORKS, lambda tf, tft, x: tft.scale_to_z_score(x.zone)),
    "tft.scale_to_z_score(elementwise=True)": (
        WORKS,
        lambda tf, tft, x: tft.scale_to_z_score(x.pair, elementwise=True),
    ),
    "tft.scale_to_z_score of a sparse feature": (
        REWRITTEN,
        lambda tf, tft, x: x.dense(tft.scale_to_z_score(x.tip), -1.0),
    ),
    "tft.scale_to_z_score_per_key": (
        REWRITTEN,
        lambda tf, tft, x: tft.scale_to_z_score_per_key(x.speed, x.key),
    ),
    "tft.scale_to_z_score_per_key(key_vocabulary_filename=...)": (
        REWRITTEN,
        lambda tf, tft, x: tft.scale_to_z_score_per_key(x.speed, x.key, key_vocabulary_filename="keys"),
    ),
    "tft.scale_to_0_1": (WORKS, lambda tf, tft, x: tft.scale_to_0_1(x.miles)),
    "tft.scale_to_0_1_per_key": (REWRITTEN, lambda tf, tft, x: tft.scale_to_0_1_per_key(x.speed, x.key)),
    "tft.scale_by_min_max": (WORKS, lambda tf, tft, x: tft.scale_by_min_max(x.zone, -1.0, 1.0)),
    "tft.scale_by_min_max_per_key": (
        REWRITTEN,
        lambda tf, tft, x: tft.scale_by_min_max_per_key(x.speed, x.key, -1.0, 1.0),
    ),
    "tft.scale_to_gaussian": (REWRITTEN, lambda tf, tft, x: tft.scale_to_gaussian(x.miles)),
    "tft.bucketize": (REWRITTEN, lambda tf, tft, x: tft.bucketize(x.miles, 4)),
    "tft.bucketize_per_key": (REWRITTEN, lambda tf, tft, x: tft.bucketize_per_key(x.speed, x.key, 4)),
    "tft.apply_buckets": (REWRITTEN, lambda tf, tft, x: tft.apply_buckets(x.miles, [[1.0, 2.5, 10.0]])),
    "tft.apply_buckets of a sparse feature": (
        REWRITTEN,
        lambda tf, tft, x: x.dense(tft.apply_buckets(x.tip, [[0.0, 1.0, 4.0]]), -1),
    ),
    "tft.apply_buckets of large int64": (
        REWRITTEN,
        lambda tf, tft, x: tft.apply_buckets(x.zone, tf.constant([[-5, 4, 2**53, 2**53 + 1]], tf.int64)),
    ),
    "tft.apply_buckets_with_interpolation": (
        REWRITTEN,
        lambda tf, tft, x: tft.apply_buckets_with_interpolation(x.miles, [[1.0, 2.5, 10.0]]),
    ),
    "tft.apply_buckets_with_interpolation, one boundary": (
        REWRITTEN,
        lambda tf, tft, x: tft.apply_buckets_with_interpolation(x.miles, [[2.5]]),
    ),
    "tft.quantiles": (
        REWRITTEN,
        lambda tf, tft, x: tft.apply_buckets(x.miles, tft.quantiles(x.miles, 5, 0.01)),
    ),
    "tft.compute_and_apply_vocabulary": (
        WORKS,
        lambda tf, tft, x: tft.compute_and_apply_vocabulary(x.payment, default_value=9, vocab_filename="pay"),
    ),
    "tft.compute_and_apply_vocabulary(num_oov_buckets=1)": (
        REWRITTEN,
        lambda tf, tft, x: tft.apply_vocabulary(x.payment, x.vocabulary, num_oov_buckets=1),
    ),
    "tft.compute_and_apply_vocabulary(num_oov_buckets=3)": (
        Refused("StringToHashBucketFast", "payment"),
        lambda tf, tft, x: tft.apply_vocabulary(x.payment, x.vocabulary, num_oov_buckets=3),
    ),
    "tft.compute_and_apply_vocabulary of int64": (
        REWRITTEN,
        lambda tf, tft, x: tft.apply_vocabulary(x.zone, x.zones),
    ),
    "tft.compute_and_apply_vocabulary of int64 (num_oov_buckets=1)": (
        REWRITTEN,
        lambda tf, tft, x: tft.apply_vocabulary(x.zone, x.zones, num_oov_buckets=1),
    ),
    "tft.compute_and_apply_vocabulary of a sparse feature": (
        REWRITTEN,
        lambda tf, tft, x: x.dense(tft.apply_vocabulary(x.company, x.companies), 77),
    ),
    "tft.compute_and_apply_vocabulary of a feature made dense": (
        REWRITTEN,
        lambda tf, tft, x: tft.apply_vocabulary(x.dense(x.company, "Sun"), x.companies, default_value=5),
    ),
    "tft.compute_and_apply_vocabulary of a feature made dense (num_oov_buckets=1)": (
        REWRITTEN,
        lambda tf, tft, x: tft.apply_vocabulary(x.dense(x.company, "none"), x.companies, num_oov_buckets=1),
    ),
    "tft.apply_vocabulary": (
        WORKS,
        lambda tf, tft, x: tft.apply_vocabulary(x.payment, x.vocabulary, default_value=-7),
    ),
    "tft.vocabulary": (
        WORKS,
        lambda tf, tft, x: tft.apply_vocabulary(x.payment, x.vocabulary),
    ),
    "tft.experimental.compute_and_apply_approximate_vocabulary": (
        WORKS,
        lambda tf, tft, x: tft.experimental.compute_and_apply_approximate_vocabulary(
            x.payment, top_k=2, vocab_filename="approximate"
        ),
    ),
    "tft.experimental.approximate_vocabulary": (
        WORKS,
        lambda tf, tft, x: tft.apply_vocabulary(
            x.key, tft.experimental.approximate_vocabulary(x.key, top_k=2, vocab_filename="keys2")
        ),
    ),
    "tft.experimental.get_vocabulary_size_by_name": (
        WORKS,
        lambda tf, tft, x: x.zone + tft.experimental.get_vocabulary_size_by_name("payments"),
    ),
    "tft.hash_strings": (
        Refused("StringToHashBucketFast", "payment"),
        lambda tf, tft, x: tft.hash_strings(x.payment, 10),
    ),
    "tft.hash_strings(hash_buckets=1)": (REWRITTEN, lambda tf, tft, x: tft.hash_strings(x.payment, 1)),
    "tft.hash_strings(key=...)": (
        Refused("StringToHashBucketStrong", "payment"),
        lambda tf, tft, x: tft.hash_strings(x.payment, 10, key=[1, 2]),
    ),
    "tft.bag_of_words": (
        Refused("StringSplit", "payment"),
        lambda tf, tft, x: x.words(tft.bag_of_words(x.tokens(), (1, 1), " "), ""),
    ),
    "tft.ngrams": (
        Refused("StringSplit", "payment"),
        lambda tf, tft, x: x.words(tft.ngrams(x.tokens(), (1, 2), " "), ""),
    ),
    "tft.word_count": (
        Refused("StringSplit", "payment"),
        lambda tf, tft, x: tf.reshape(tft.word_count(x.tokens()), [-1]),
    ),
    "tft.word_count of a sparse feature": (
        REWRITTEN,
        lambda tf, tft, x: tf.reshape(tft.word_count(x.company), [-1]),
    ),
    "tft.tfidf": (
        Refused("StringSplit", "payment"),
        lambda tf, tft, x: x.words(tft.tfidf(tft.apply_vocabulary(x.tokens(), x.vocabulary), 10)[1], 0.0),
    ),
    "tft.experimental.document_frequency": (
        Refused("StringSplit", "payment"),
        lambda tf, tft, x: x.words(
            tft.experimental.document_frequency(tft.apply_vocabulary(x.tokens(), x.vocabulary), 10), 0
        ),
    ),
    "tft.experimental.idf": (
        Refused("StringSplit", "payment"),
        lambda tf, tft, x: x.words(
            tft.experimental.idf(tft.apply_vocabulary(x.tokens(), x.vocabulary), 10), 0.0
        ),
    ),
    "tft.sparse_tensor_to_dense_with_shape of floats": (REWRITTEN, lambda tf, tft, x: x.dense(x.tip, -3.0)),
    "tft.sparse_tensor_to_dense_with_shape of int64": (REWRITTEN, lambda tf, tft, x: x.dense(x.area, 5)),
    "tft.sparse_tensor_to_dense_with_shape of strings": (
        REWRITTEN,
        lambda tf, tft, x: x.dense(x.company, ""),
    ),
    "tft.sparse_tensor_to_dense_with_shape of strings with a default": (
        Refused("SelectV2", "company"),
        lambda tf, tft, x: x.dense(x.company, "Sun"),
    ),
    "tft.sparse_tensor_to_dense_with_shape, several columns": (
        REWRITTEN,
        lambda tf, tft, x: tft.sparse_tensor_to_dense_with_shape(x.area, [None, 3], 5),
    ),
    "tft.sparse_tensor_left_align": (
        Refused("SparseReorder", "tip"),
        lambda tf, tft, x: x.dense(tft.sparse_tensor_left_align(x.tip), 0.0),
    ),
    "tft.deduplicate_tensor_per_row": (
        Refused("StatelessWhile", "pair"),
        lambda tf, tft, x: x.words(tft.deduplicate_tensor_per_row(x.pair), 0.0),
    ),
    "tft.estimated_probability_density": (
        REWRITTEN,
        lambda tf, tft, x: tft.estimated_probability_density(x.speed, (-20.0, 20.0)),
    ),
    "tft.estimated_probability_density(categorical=True)": (
        REWRITTEN,
        lambda tf, tft, x: tft.estimated_probability_density(x.key, categorical=True),
    ),
    "tft.segment_indices": (
        Refused("SegmentSum", "speed"),
        lambda tf, tft, x: tft.segment_indices(tf.zeros([tf.shape(x.speed)[0]], tf.int64)),
    ),
    "tft.pca": (WORKS, lambda tf, tft, x: tf.matmul(x.pair, tft.pca(x.pair, 1, tf.float32))),
    "tft.covariance": (WORKS, lambda tf, tft, x: tf.matmul(x.pair, tft.covariance(x.pair, tf.float32))),
    "tft.min": (WORKS, lambda tf, tft, x: x.pair - tft.min(x.pair)),
    "tft.max": (WORKS, lambda tf, tft, x: x.pair - tft.max(x.pair)),
    "tft.mean": (WORKS, lambda tf, tft, x: x.pair - tft.mean(x.pair)),
    "tft.var": (WORKS, lambda tf, tft, x: x.pair / tft.var(x.pair)),
    "tft.sum": (WORKS, lambda tf, tft, x: x.pair / tft.sum(x.pair)),
    "tft.size": (WORKS, lambda tf, tft, x: x.pair / tf.cast(tft.size(x.pair), tf.float32)),
    "tft.histogram": (
        WORKS,
        lambda tf, tft, x: x.pair + tf.cast(tft.histogram(x.key, categorical=True)[0][0], tf.float32),
    ),
    "tft.tukey_location": (WORKS, lambda tf, tft, x: x.pair - tft.tukey_location(x.pair)),
    "tft.tukey_scale": (WORKS, lambda tf, tft, x: x.pair / tft.tukey_scale(x.pair)),
    "tft.tukey_h_params": (WORKS, lambda tf, tft, x: x.pair * tft.tukey_h_params(x.pair)[0]),
    "tft.count_per_key": (
        WORKS,
        lambda tf, tft, x: x.pair * tf.cast(tft.count_per_key(x.key)[1][0], tf.float32),
    ),
    "tft.get_num_buckets_for_transformed_feature": (
        WORKS,
        lambda tf, tft, x: (
            x.zone + tft.get_num_buckets_for_transformed_feature(tft.apply_buckets(x.miles, [[1.0, 2.5]]))
        ),
    ),
    "tft.make_and_track_object": (
        WORKS,
        lambda tf, tft, x: tft.make_and_track_object(
            lambda: tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(["Cash", "Dispute"], tf.constant([5, 6], tf.int64)), -2
            ),
            name="table",
        ).lookup(x.payment),
    ),
    "tf.lookup.StaticHashTable of int64": (
        REWRITTEN,
        lambda tf, tft, x: tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.constant([1, 8, LOWEST], tf.int64), tf.constant([5, 2**60 + 1, 3], tf.int64)
            ),
            -2,
        ).lookup(x.zone),
    ),
    "tf.one_hot": (
        WORKS,
        lambda tf, tft, x: tf.one_hot(tf.squeeze(tft.apply_vocabulary(x.payment, x.vocabulary), 1), 5),
    ),
    "tf.strings.lower": (
        Refused("StringLower", "payment"),
        lambda tf, tft, x: tft.apply_vocabulary(tf.strings.lower(x.payment), x.vocabulary),
    ),
    "tf.strings.upper": (Refused("StringUpper", "payment"), lambda tf, tft, x: tf.strings.upper(x.payment)),
    "tf.strings.strip": (Refused("StringStrip", "payment"), lambda tf, tft, x: tf.strings.strip(x.payment)),
    "tf.strings.substr": (
        Refused("Substr", "payment"),
        lambda tf, tft, x: tf.strings.substr(x.payment, 0, 0),
    ),
    "tf.strings.split": (
        Refused("StringSplitV2", "key"),
        lambda tf, tft, x: x.words(tf.strings.split(x.key, " ").to_sparse(), ""),
    ),
    "tf.strings.join": (
        Refused("StringJoin", "payment"),
        lambda tf, tft, x: tft.apply_vocabulary(tf.strings.join([x.payment, x.payment]), x.vocabulary),
    ),
    "tf.strings.length": (
        Refused("StringLength", "payment"),
        lambda tf, tft, x: tf.cast(tf.strings.length(x.payment), tf.int64),
    ),
    "tf.strings.regex_replace": (
        Refused("StaticRegexReplace", "payment"),
        lambda tf, tft, x: tf.strings.regex_replace(x.payment, "a", "b"),
    ),
    "tf.strings.to_number": (
        Refused("StringToNumber", "digits"),
        lambda tf, tft, x: tf.strings.to_number(x.digits),
    ),
    "tf.strings.as_string": (Refused("AsString", "zone"), lambda tf, tft, x: tf.strings.as_string(x.zone)),
    "tf.strings.as_string of int64, then a vocabulary": (
        REWRITTEN,
        lambda tf, tft, x: tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                ["5", "-1", "07", str(2**53), "any"], tf.range(5, dtype=tf.int64)
            ),
            -2,
        ).lookup(tf.strings.as_string(x.zone)),
    ),
    "tf.where of strings, then a vocabulary": (
        REWRITTEN,
        lambda tf, tft, x: tft.apply_vocabulary(
            tf.where(tf.equal(x.payment, ""), tf.fill(tf.shape(x.payment), "Cash"), x.payment), x.vocabulary
        ),
    ),
    "tf.equal of strings": (WORKS, lambda tf, tft, x: tf.cast(tf.equal(x.payment, "Cash"), tf.int64)),
    "a feature passed through": (WORKS, lambda tf, tft, x: tf.identity(x.payment)),
    "int64 // and %, of a date": (REWRITTEN, lambda tf, tft, x: (x.epoch_s // 86400 + 4) % 7),
    "int64 // of a small divisor": (REWRITTEN, lambda tf, tft, x: x.epoch_s // 3),
    "tf.cast": (WORKS, lambda tf, tft, x: tf.cast(x.pair, tf.int64)),
    "tf.cast of a sparse feature": (
        REWRITTEN,
        lambda tf, tft, x: x.dense(x.same(x.area, tf.cast(x.area.values, tf.float32) / 2), 1.5),
    ),
    "tf.where of tf.math.is_nan": (
        WORKS,
        lambda tf, tft, x: tf.where(tf.math.is_nan(x.miles), 0.0, x.miles),
    ),
    "tf.math.log1p": (WORKS, lambda tf, tft, x: tf.math.log1p(tf.abs(x.speed))),
    "tf.math.erf": (Refused("Erf", "speed"), lambda tf, tft, x: tf.math.erf(x.speed)),
    "float64": (
        Refused("Mul", "speed"),
        lambda tf, tft, x: tf.cast(tf.cast(x.speed, tf.float64) * 3.0, tf.float32),
    ),
    "tf.sparse.to_dense": (
        REWRITTEN,
        lambda tf, tft, x: tf.squeeze(
            tf.sparse.to_dense(tf.SparseTensor(x.tip.indices, x.tip.values, [x.tip.dense_shape[0], 1]), 4.0),
            1,
        ),
    ),
    "tf.sparse.fill_empty_rows": (
        REWRITTEN,
        lambda tf, tft, x: tf.reshape(tf.sparse.fill_empty_rows(x.area, 3)[0].values, [-1, 1]),
    ),
    "the number of a sparse feature's values": (
        Refused("Size", "tip"),
        lambda tf, tft, x: x.miles * tf.cast(tf.size(x.tip.values), tf.float32),
    ),
}
# Neither makes a tensor that a file could hold: they annotate, or run only inside Transform.
NO_TENSOR = {
    "tft.annotate_asset",
    "tft.apply_pyfunc",
    "tft.experimental.annotate_sparse_output_shape",
    "tft.experimental.annotate_true_sparse_output",
    "tft.experimental.ptransform_analyzer",
}
AGREE = [name for name, (status, _) in CASES.items() if not isinstance(status, Refused)]
REFUSED = [name for name, (status, _) in CASES.items() if isinstance(status, Refused)]


def feature(name: str) -> str:
    """Returns a case's transformed feature."""
    return f"f{list(CASES).index(name):02d}"


@dataclasses.dataclass(frozen=True)
class Mapped:
    """One analysis of all cases, and what TFT makes of some rows.

    Attributes:
      output: Of the TransformGraph.
      records: tf.Examples: usual rows, and rows with unseen, empty, extreme and missing values.
      made: By transformed feature, of the rows, by TFT's own layer.
    """

    output: Any
    records: list[bytes]
    made: dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def graphs_are_loaded_once() -> Iterator[None]:
    """Loading the graph of all cases takes seconds, and nothing changes a loaded graph."""
    from tfx_mobile.common.tft_graph import TransformFunction

    loaded: dict[str, TransformFunction] = {}

    def load_once(output: Any) -> TransformFunction:
        folder = output.transform_savedmodel_dir
        if folder not in loaded:
            loaded[folder] = TransformFunction(output)
        return loaded[folder]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfx_mobile.quantizer.preprocessing.TransformFunction", load_once)
        yield


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Mapped:
    import tensorflow as tf
    import tensorflow_transform as tft
    import tensorflow_transform.beam as tft_beam
    from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io

    folder = tmp_path_factory.mktemp("mapped")
    fixed, sparse = tf.io.FixedLenFeature, tf.io.VarLenFeature
    spec = {
        "miles": fixed([1], tf.float32),
        "speed": fixed([], tf.float32),
        "pair": fixed([2], tf.float32),
        "zone": fixed([1], tf.int64),
        "epoch_s": fixed([1], tf.int64),
        "payment": fixed([1], tf.string),
        "digits": fixed([1], tf.string),
        "key": fixed([], tf.string),
        "tip": sparse(tf.float32),
        "area": sparse(tf.int64),
        "company": sparse(tf.string),
    }

    def preprocessing_fn(inputs: dict[str, Any]) -> dict[str, Any]:
        def dense(value: Any, default: Any) -> Any:
            return tft.sparse_tensor_to_dense_with_shape(value, [None, 1], default)

        raw = SimpleNamespace(
            **inputs,
            dense=dense,
            same=lambda value, values: tf.SparseTensor(value.indices, values, value.dense_shape),
            words=lambda value, default: tft.sparse_tensor_to_dense_with_shape(value, [None, 9], default),
            tokens=lambda: tf.compat.v1.string_split(tf.reshape(inputs["payment"], [-1])),
            vocabulary=tft.vocabulary(inputs["payment"], vocab_filename="payments"),
            companies=tft.vocabulary(inputs["company"], vocab_filename="companies"),
            zones=tft.vocabulary(inputs["zone"], vocab_filename="zones"),
        )
        return {feature(name): build(tf, tft, raw) for name, (_, build) in CASES.items()}

    metadata = dataset_metadata.DatasetMetadata.from_feature_spec(spec)
    graph = folder / "graph"
    metadata_io.write_metadata(metadata, str(graph / tft.TFTransformOutput.RAW_METADATA_DIR))
    with tft_beam.Context(temp_dir=str(folder / "beam")):
        rows = [
            {
                name: value if isinstance(spec[name], sparse) or spec[name].shape else value[0]
                for name, value in row.items()
            }
            for row in usual_rows(100, seed=1)
        ]
        transform_fn = (rows, metadata) | tft_beam.AnalyzeDataset(preprocessing_fn)
        _ = transform_fn | tft_beam.WriteTransformFn(str(graph))
    output = tft.TFTransformOutput(str(graph))
    records = [example(row) for row in [*odd_rows(), *usual_rows(20, seed=2)]]
    made = output.transform_features_layer()(tf.io.parse_example(records, spec))
    return Mapped(output, records, {name: value.numpy() for name, value in made.items()})


def usual_rows(count: int, seed: int) -> list[dict[str, list[Any]]]:
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        rows.append(
            {
                "miles": [float(draw.gamma(2.0, 2.0))],
                "speed": [float(draw.normal(3.0, 2.0))],
                "pair": draw.normal(size=2).tolist(),
                "zone": [int(draw.integers(1, 9))],
                "epoch_s": [int(draw.integers(1_380_000_000, 1_420_000_000))],
                "payment": [PAYMENTS[draw.choice(6, p=[0.4, 0.3, 0.1, 0.1, 0.05, 0.05])]],
                "digits": [str(draw.integers(0, 99))],
                "key": ["abc"[draw.integers(3)]],
                "tip": [float(draw.gamma(1.0, 2.0))] if draw.random() < 0.7 else [],
                "area": [int(draw.integers(1, 78))] if draw.random() < 0.7 else [],
                "company": [COMPANIES[draw.integers(3)]] if draw.random() < 0.7 else [],
            }
        )
    return rows


def odd_rows() -> list[dict[str, list[Any]]]:
    """Rows that usual ones leave out: each changes a usual one."""
    changes: list[dict[str, list[Any]]] = [
        {"tip": [], "area": [], "company": []},
        {"payment": ["never seen"], "company": ["Nobody"], "key": ["z"], "zone": [500], "area": [0]},
        {"payment": [""], "miles": [0.0], "zone": [0], "tip": [0.0], "epoch_s": [0]},
        {"miles": [2.5], "zone": [LOWEST], "epoch_s": [-1], "tip": [-0.0]},
        {"miles": [float("nan")], "zone": [2**53], "epoch_s": [-86_400], "area": [-(2**63) + 1]},
        {"miles": [float("inf")], "zone": [2**53 + 1], "epoch_s": [2**62 + 12_345], "tip": [float("inf")]},
        {"miles": [float("-inf")], "zone": [2**63 - 1], "epoch_s": [2**63 - 1], "area": [2**63 - 1]},
        {"miles": [1e30], "zone": [-1], "epoch_s": [-(2**60) - 7], "company": ["Zürich"]},
        {"miles": [1e-30], "zone": [9], "epoch_s": [86_399], "tip": [1e-30], "payment": ["Cash "]},
        {"tip": []},
        {"area": []},
        {"company": []},
    ]
    return [usual | change for usual, change in zip(usual_rows(len(changes), seed=3), changes, strict=True)]


def example(row: dict[str, list[Any]]) -> bytes:
    import tensorflow as tf

    found = tf.train.Example()
    for name, values in row.items():
        kinds = found.features.feature[name]
        if name in ("payment", "digits", "key", "company"):
            kinds.bytes_list.value.extend(value.encode() for value in values)
        elif name in ("zone", "epoch_s", "area"):
            kinds.int64_list.value.extend(values)
        else:
            kinds.float_list.value.extend(values)
    return bytes(found.SerializeToString())


def columns(records: list[bytes], preprocessing: Any) -> dict[str, Any]:
    """Returns the rows as a phone gives them, with markers for missing values."""
    from tfx_bsl.coders import example_coder

    from tfx_mobile.common import examples

    batch = example_coder.ExamplesToRecordBatchDecoder().DecodeBatch(records)
    return examples.to_columns(batch, preprocessing.features, preprocessing.missing)


@pytest.fixture(scope="module")
def all_agreeing(mapped: Mapped) -> Any:
    from tfx_mobile.quantizer.preprocessing import Preprocessing

    return Preprocessing(mapped.output, [feature(name) for name in AGREE])


@pytest.fixture(scope="module")
def in_batch(mapped: Mapped, all_agreeing: Any) -> dict[str, dict[str, Any]]:
    """By how it was run: what becomes of the rows."""
    content = all_agreeing.convert()
    given = columns(mapped.records, all_agreeing)
    singly = [
        run(content, {name: values[i : i + 1] for name, values in given.items()})
        for i in range(len(odd_rows()))
    ]
    return {
        "TensorFlow, rewritten": all_agreeing.apply(given),
        "LiteRT, all rows": run(content, given),
        "LiteRT, row by row": {name: np.concatenate([made[name] for made in singly]) for name in singly[0]},
    }


@pytest.mark.parametrize("name", AGREE)
def test_a_mapper_is_what_tft_makes_it(mapped: Mapped, in_batch: Any, name: str) -> None:
    for way, made in in_batch.items():
        got = made[feature(name)]
        wanted = mapped.made[feature(name)][: len(got)]
        assert got.shape == wanted.shape, way
        assert got.dtype == wanted.dtype or wanted.dtype == object, way
        if wanted.dtype.kind == "f":
            # LiteRT ends at the largest float where TensorFlow has infinity; NaN of an overflow may differ
            if way.startswith("LiteRT"):
                endless = np.isinf(wanted)
                assert (got[endless] * np.sign(wanted[endless]) > 1e36).all(), way
                known = np.isfinite(wanted) if name == "tft.scale_to_gaussian" else ~endless
                got, wanted = got[known], wanted[known]
            # rounding: the converter may multiply where TFT divides; LiteRT has its own exp, log and sqrt
            np.testing.assert_allclose(got, wanted, rtol=2e-6, atol=1e-6, err_msg=way)
        else:
            np.testing.assert_array_equal(got, wanted, err_msg=way)


@pytest.mark.parametrize("name", REFUSED)
def test_a_mapper_without_built_in_ops_is_refused_with_op_and_features(mapped: Mapped, name: str) -> None:
    from tfx_mobile.quantizer.preprocessing import Preprocessing

    status = CASES[name][0]
    assert isinstance(status, Refused)
    message = (
        f"Preprocessing must be of built-in TFLite ops; there is none for {status.op} in transformed feature "
        f"{feature(name)!r}, made of raw feature {status.feature!r}. Write it otherwise in preprocessing_fn, "
        "keep TensorFlow's ops in the file (allow_select_tf_ops=True), or let the file take transformed "
        "features (inputs='transformed')."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        Preprocessing(mapped.output, [feature(name), feature("a feature passed through")]).convert()


def test_the_table_in_the_docs_is_what_is_tested() -> None:
    rows = re.findall(r"^\| `?(.+?)`? \| (works|rewritten|refused|-) \|", DOCS.read_text(), re.MULTILINE)
    told = {name.replace("`", ""): status for name, status in rows}
    assert len(told) == len(rows)
    tested = {
        name: "refused" if isinstance(status, Refused) else status for name, (status, _) in CASES.items()
    }
    assert told == tested | dict.fromkeys(NO_TENSOR, "-")


def test_every_public_mapper_of_the_installed_tft_is_in_the_table() -> None:
    import tensorflow_transform as tft

    public = {
        f"{prefix}.{name}"
        for prefix, module in (("tft", tft), ("tft.experimental", tft.experimental))
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and re.search(r"\.(mappers|analyzers|annotators|api)$", inspect.unwrap(value).__module__)
    }
    assert len(public) > 40
    told = {re.match(r"[\w.]+", name)[0] for name in [*CASES, *NO_TENSOR]}  # type: ignore[index]
    assert public <= told


@pytest.fixture(scope="module")
def preprocessing(trips: Any) -> Any:
    return preprocess(trips, WANTED)


@pytest.fixture(scope="module")
def front(preprocessing: Any) -> bytes:
    return bytes(preprocessing.convert())


def preprocess(trips: Any, wanted: list[str]) -> Any:
    import tensorflow_transform as tft

    from tfx_mobile.quantizer.preprocessing import Preprocessing

    return Preprocessing(tft.TFTransformOutput(str(trips.graph_folder)), wanted)


def test_only_raw_features_that_the_model_needs_are_inputs(trips: Any, preprocessing: Any) -> None:
    assert preprocessing.features == {
        "company": (np.bytes_, ()),
        "epoch_s": (np.int64, ()),
        "latitude": (np.float32, ()),
        "miles": (np.float32, ()),
    }
    assert set(preprocess(trips, ["miles"]).features) == {"miles"}


def test_preprocessing_is_what_tft_computes(trips: Any, preprocessing: Any) -> None:
    made = preprocessing.apply(trips.raw)
    assert set(made) == set(WANTED)
    for name, values in made.items():
        if name.endswith("_z"):  # a known divisor may become a factor: one rounding more
            np.testing.assert_array_max_ulp(values, trips.transformed[name], maxulp=1)
        else:
            np.testing.assert_array_equal(values, trips.transformed[name])


def test_the_converted_preprocessing_is_exact_on_coordinates_and_dates(trips: Any, front: bytes) -> None:
    made = run(front, trips.raw)
    for name in ("company_id", "miles"):
        np.testing.assert_array_equal(made[name], trips.transformed[name])
    for name in ("latitude_z", "date_z", "miles_z"):
        # One rounding more or less of the z-score itself: the converter may divide where TFT multiplies.
        # Rounding a coordinate of 41.87 (4e-6) before its mean is taken off would show as 1e-4.
        np.testing.assert_allclose(made[name], trips.transformed[name], rtol=1e-6, atol=1e-6)


def test_a_z_score_is_what_float64_gives(trips: Any, front: bytes) -> None:
    made = run(front, trips.raw)
    for name, source in (("latitude_z", "latitude"), ("date_z", "epoch_s")):
        values = trips.raw[source].astype(np.float64)
        wanted = (values - values.mean()) / values.std()
        # a float32 near 41.87 is known to 4e-6 and one near 1.4e9 to 128 s, about 1e-4 and 1e-5 deviations
        np.testing.assert_allclose(made[name][:, 0], wanted, atol=3e-4)


def test_a_string_that_is_not_in_the_vocabulary_and_a_missing_one_share_the_default(front: bytes) -> None:
    rows = {
        "company": np.array([b"Flash", b"Nobody", b""], dtype=object),
        "epoch_s": np.full(3, 1_400_000_000),
        "latitude": np.full(3, 41.87, np.float32),
        "miles": np.ones(3, np.float32),
    }
    made = run(front, rows)["company_id"][:, 0]
    assert made[0] in range(3)
    assert made[1] == 4


def test_a_feature_that_the_graph_does_not_make_is_refused(trips: Any) -> None:
    with pytest.raises(
        DataError,
        match=re.escape(
            "The model's inputs must be transformed features; tip, toll are not among company_id, "
            "company_length, date_z, fare, latitude_z, miles, miles_bucket, miles_z. Give the Quantizer the "
            "graph the model was trained with."
        ),
    ):
        preprocess(trips, ["miles", "toll", "tip"])


def test_missing_values_have_markers_by_type(mapped: Mapped) -> None:
    from tfx_mobile.quantizer.preprocessing import Preprocessing

    names = ["tft.word_count of a sparse feature", "tft.sparse_tensor_to_dense_with_shape of int64"]
    names += ["tft.sparse_tensor_to_dense_with_shape of floats", "a feature passed through"]
    missing = Preprocessing(mapped.output, [feature(name) for name in names]).missing
    assert sorted(missing) == ["area", "company", "tip"]
    assert missing["area"] == LOWEST
    assert missing["company"] == b""
    assert np.isnan(missing["tip"])


def test_vocabularies_are_told_in_the_order_of_their_indices(mapped: Mapped, all_agreeing: Any) -> None:
    told = all_agreeing.vocabularies
    for name, file in (
        ("tft.compute_and_apply_vocabulary", "pay"),
        ("tft.apply_vocabulary", "payments"),
        ("tft.compute_and_apply_vocabulary of a sparse feature", "companies"),
    ):
        assert told[feature(name)] == list(mapped.output.vocabulary_by_name(file))
    assert feature("tft.compute_and_apply_vocabulary of int64") not in told  # no strings to find in the file
    assert feature("tft.scale_to_z_score_per_key(key_vocabulary_filename=...)") not in told
    assert feature("tft.make_and_track_object") not in told


def test_a_default_of_the_schema_stands_for_a_missing_dense_value(trips: Any, tmp_path: Path) -> None:
    import shutil

    import tensorflow_transform as tft
    from tensorflow_metadata.proto.v0 import schema_pb2
    from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io

    from tfx_mobile.quantizer.preprocessing import Preprocessing

    folder = tmp_path / "graph"
    shutil.copytree(trips.graph_folder, folder)
    schema = schema_pb2.Schema()
    schema.CopyFrom(tft.TFTransformOutput(str(folder)).raw_metadata.schema)
    dense = schema.tensor_representation_group[""].tensor_representation["miles"].dense_tensor
    dense.column_name = "miles"
    dense.shape.dim.add().size = 1
    dense.default_value.float_value = 2.5
    shutil.rmtree(folder / "metadata")
    metadata_io.write_metadata(dataset_metadata.DatasetMetadata(schema), str(folder / "metadata"))
    found = Preprocessing(tft.TFTransformOutput(str(folder)), ["miles", "latitude_z", "company_id"])
    assert found.missing == {"company": b"", "miles": 2.5}


def test_ops_of_tensorflow_stay_when_they_may(mapped: Mapped) -> None:
    import tensorflow as tf

    from tfx_mobile.quantizer.preprocessing import Preprocessing

    names = ["tf.strings.lower", "tft.sparse_tensor_to_dense_with_shape of strings with a default"]
    names += ["tft.compute_and_apply_vocabulary(num_oov_buckets=3)", "tft.sparse_tensor_left_align"]
    wanted = [feature(name) for name in names]
    found = Preprocessing(mapped.output, wanted, allow_select_tf_ops=True)
    given = columns(mapped.records, found)
    content = found.convert()
    assert {b"FlexStringLower", b"FlexStringToHashBucketFast"} <= set(re.findall(rb"Flex\w+", content))
    ways = [found.apply(given)]
    if tuple(map(int, tf.__version__.split(".")[:2])) < (2, 20):  # newer ones come without the Flex delegate
        ways.append(
            tf.lite.Interpreter(model_content=content).get_signature_runner("serving_default")(**given)
        )
    for made in ways:
        for name in wanted:
            np.testing.assert_array_equal(made[name], mapped.made[name], err_msg=name)


@pytest.mark.parametrize("divisor", [2, 3, 60, 86_400, 2**31 + 11, 2**41 - 1, 2**62])
def test_long_division_is_exact(divisor: int) -> None:
    import tensorflow as tf

    from tfx_mobile.common import tft_rewrites

    draw = np.random.default_rng(divisor)
    values = draw.integers(-(2**62), 2**63 - 1, 2000) >> draw.integers(0, 62, 2000)
    near = values // divisor * divisor
    values = np.concatenate([values, near, near - 1, [2**63 - 1, 0, -1]])
    found = tft_rewrites._quotient(tf.constant(values), divisor).numpy()
    np.testing.assert_array_equal(found, values // divisor)
