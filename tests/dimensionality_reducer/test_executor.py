"""The executor on real TFT output: rows, graph, schema and report, and what it refuses."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import decomposition, preprocessing

from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.dimensionality_reducer.config import PCA

pytestmark = pytest.mark.pipeline

# Two float32 implementations of a sum of d products differ by a few 2**-24 of the largest product.
FLOAT32_ROUNDING = 1e-5

PLACE = PCA(inputs=("miles_z", "latitude_z", "powers"), output="place", n_components=3)
TIME = PCA(
    inputs=("seconds_plain", "seconds_z"), output="time/pca", n_components=1, whiten=True, keep_inputs=True
)


@pytest.fixture(scope="session")
def reduced(source: Any) -> Any:
    return source.run(PLACE, TIME)


def output_of(artifact: Any) -> Any:
    import tensorflow_transform as tft

    return tft.TFTransformOutput(artifact.uri)


def parse(records: list[bytes], spec: Any) -> dict[str, Any]:
    import tensorflow as tf

    return dict(tf.io.parse_example(records, spec))


def dense(value: Any) -> Any:
    import tensorflow as tf

    return tf.sparse.to_dense(value).numpy() if isinstance(value, tf.SparseTensor) else value.numpy()


def inputs_of(source: Any, split: str, reduction: PCA) -> Any:
    """Returns the input columns of a reduction as TFT wrote them, shape (n, d)."""
    records = sorted(read_all(source.examples, split))
    found = parse(records, output_of(source.transform_graph).transformed_feature_spec())
    return np.concatenate([found[name].numpy() for name in reduction.inputs], axis=1)


def read_all(examples: Any, split: str) -> list[bytes]:
    import tensorflow as tf

    files = sorted(str(path) for path in (Path(examples.uri) / f"Split-{split}").iterdir())
    return list(tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator())


@pytest.mark.parametrize("split", ["train", "eval"])
def test_every_written_row_is_what_the_graph_says(
    source: Any, reduced: Any, split: str, as_tensors: Any
) -> None:
    output = output_of(reduced.transform_graph)
    layer = output.transform_features_layer()
    said = {name: dense(value) for name, value in layer(as_tensors(source.raw[split])).items()}
    written = {
        name: dense(value)
        for name, value in parse(reduced.records(split), output.transformed_feature_spec()).items()
    }
    assert said.keys() == written.keys()
    # Beam keeps no order: both are sorted by the label, which no two rows share.
    one, other = said["fare"][:, 0].argsort(), written["fare"][:, 0].argsort()
    assert len(set(said["fare"][:, 0].tolist())) == len(source.raw[split]) == len(other)
    for name in said:
        if name in (PLACE.output, TIME.output):
            largest = np.abs(said[name]).max()
            # time/pca stands at 1e4 with a spread of 500: the subtraction is exact, the rest is rounding.
            np.testing.assert_allclose(
                written[name][other], said[name][one], rtol=0, atol=FLOAT32_ROUNDING * largest
            )
        else:
            np.testing.assert_array_equal(written[name][other], said[name][one])


def test_the_components_are_scikit_learns_on_the_train_split(source: Any, reduced: Any) -> None:
    rows = inputs_of(source, "train", PLACE).astype(np.float64)
    theirs = decomposition.PCA(3, svd_solver="full").fit(preprocessing.StandardScaler().fit_transform(rows))
    ours = json.loads(reduced.reduction_json())["reductions"][0]
    np.testing.assert_allclose(ours["explained_variance_ratio"], theirs.explained_variance_ratio_, rtol=1e-6)
    # StandardScaler divides by the population deviation: n / (n - 1) on variances.
    bessel = len(rows) / (len(rows) - 1)
    np.testing.assert_allclose(
        np.multiply(ours["explained_variance"], bessel), theirs.explained_variance_, rtol=1e-6
    )


def test_whitened_train_rows_have_variance_one(reduced: Any) -> None:
    spec = output_of(reduced.transform_graph).transformed_feature_spec()
    values = dense(parse(reduced.records("train"), spec)["time/pca"]).astype(np.float64)
    np.testing.assert_allclose(values.var(axis=0, ddof=1), 1.0, rtol=1e-4)  # float32 rows at 1e4


def test_the_label_and_unused_features_can_be_left_out_when_serving(
    source: Any, reduced: Any, as_tensors: Any
) -> None:
    layer = output_of(reduced.transform_graph).transform_features_layer()
    rows = source.raw["eval"]
    everything = layer(as_tensors(rows))
    without = layer(as_tensors(rows, leave_out=("fare", "words")))
    assert set(everything) - set(without) == {"fare", "word_ids"}
    for name in without:
        np.testing.assert_array_equal(dense(without[name]), dense(everything[name]))


def test_a_reduction_needs_its_inputs_when_serving(source: Any, reduced: Any, as_tensors: Any) -> None:
    layer = output_of(reduced.transform_graph).transform_features_layer()
    without = layer(as_tensors(source.raw["eval"], leave_out=("latitude",)))
    assert "place" not in without
    assert "time/pca" in without


def test_vocabularies_are_found_by_name_as_before(source: Any, reduced: Any) -> None:
    before, after = output_of(source.transform_graph), output_of(reduced.transform_graph)
    for name in ("company", "words"):
        assert after.vocabulary_size_by_name(name) == before.vocabulary_size_by_name(name) > 0
        assert after.vocabulary_by_name(name) == before.vocabulary_by_name(name)
    assert "Zürich".encode() in after.vocabulary_by_name("company")


def test_the_graph_does_not_need_the_one_it_was_made_from(
    source: Any, reduced: Any, tmp_path: Path, as_tensors: Any
) -> None:
    import tensorflow_transform as tft

    moved = shutil.copytree(reduced.transform_graph.uri, tmp_path / "moved")
    for path in moved.rglob("*"):
        if path.is_file() and path.suffix != ".index":
            assert source.transform_graph.uri.encode() not in path.read_bytes(), path
    layer = tft.TFTransformOutput(str(moved)).transform_features_layer()
    assert dense(layer(as_tensors(source.raw["eval"]))["company_id"]).shape == (40, 1)


def test_the_schema_lacks_dropped_features_and_has_each_output_at_its_width(
    source: Any, reduced: Any
) -> None:
    import tensorflow as tf

    before = output_of(source.transform_graph).transformed_feature_spec()
    after = output_of(reduced.transform_graph).transformed_feature_spec()
    assert set(after) == set(before) - set(PLACE.inputs) | {"place", "time/pca"}
    assert after["place"] == tf.io.FixedLenFeature([3], tf.float32)
    assert after["time/pca"] == tf.io.FixedLenFeature([1], tf.float32)
    assert {name: after[name] for name in before if name in after} == {
        name: before[name] for name in before if name in after
    }
    # What TFT learnt about a feature, such as the range of a vocabulary, stays with it.
    domains = {
        feature.name: feature.int_domain.max
        for feature in output_of(reduced.transform_graph).transformed_metadata.schema.feature
    }
    assert domains["company_id"] == 3


def test_span_version_payload_and_splits_are_carried(source: Any, reduced: Any) -> None:
    from tfx.components.util import examples_utils

    assert reduced.examples.split_names == source.examples.split_names
    assert (reduced.examples.span, reduced.examples.version) == (7, 3)
    assert examples_utils.get_payload_format(reduced.examples) == examples_utils.get_payload_format(
        source.examples
    )
    assert examples_utils.get_file_format(reduced.examples) == "tfrecords_gzip"


def test_a_rerun_gives_the_same_report_and_the_same_rows(source: Any, reduced: Any) -> None:
    again = source.run(PLACE, TIME)
    assert again.reduction_json() == reduced.reduction_json()
    for split in ("train", "eval"):
        assert canonical(again.records(split)) == canonical(reduced.records(split))


def test_the_report_holds_all_that_is_needed_to_project_a_row(source: Any, reduced: Any) -> None:
    report = json.loads(reduced.reduction_json())
    assert report["schema_version"] == 1
    found = report["reductions"][0]
    assert found["columns"] == ["miles_z", "latitude_z", "powers[0]", "powers[1]", "powers[2]"]
    assert found["settings"] == PLACE.to_dict() | {"inputs": list(PLACE.inputs)}
    assert found["num_components"] == 3
    assert len(found["all_variances"]) == 5
    rows = inputs_of(source, "eval", PLACE)
    exact = (rows - np.array(found["mean"])) @ np.array(found["loadings"]).T
    spec = output_of(reduced.transform_graph).transformed_feature_spec()
    written = dense(parse(reduced.records("eval"), spec)["place"])
    np.testing.assert_allclose(
        np.sort(written, axis=0), np.sort(exact, axis=0), rtol=0, atol=FLOAT32_ROUNDING * np.abs(exact).max()
    )


def test_many_shards_and_empty_ones_give_the_same_reduction(source: Any, reduced: Any) -> None:
    train, evaluation = read_all(source.examples, "train"), read_all(source.examples, "eval")
    shards = [[], *(train[i::7] for i in range(7)), []]
    found = source.run(PLACE, TIME, examples=source.examples_of({"train": shards, "eval": [evaluation, []]}))
    assert found.records("eval") != []
    ours, theirs = (json.loads(one.reduction_json())["reductions"][0] for one in (found, reduced))
    # The order in which float64 sums were merged differs: some 1e-16 of each number.
    for name in ("explained_variance", "loadings", "mean"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-9, atol=1e-12)
    assert len(found.records("train")) == len(train)


def test_an_empty_evaluation_split_stays_empty(source: Any) -> None:
    train = read_all(source.examples, "train")
    assert (
        source.run(PLACE, examples=source.examples_of({"train": [train], "eval": [[]]})).records("eval") == []
    )


def canonical(records: list[bytes]) -> list[bytes]:
    """Returns the rows with their features in one order, which the encoder does not promise."""
    import tensorflow as tf

    found = (tf.train.Example.FromString(record) for record in records)
    return sorted(example.SerializeToString(deterministic=True) for example in found)


def spoilt(records: list[bytes], feature: str, value: float, count: int) -> list[bytes]:
    import tensorflow as tf

    found = [tf.train.Example.FromString(record) for record in records]
    for example in found[:count]:
        example.features.feature[feature].float_list.value[0] = value
    return [example.SerializeToString() for example in found]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_train_split_that_is_not_finite_is_refused_with_feature_and_count(
    source: Any, value: float
) -> None:
    train = spoilt(read_all(source.examples, "train"), "latitude_z", value, 3)
    examples = source.examples_of({"train": [train], "eval": [read_all(source.examples, "eval")]})
    message = (
        "Feature 'latitude_z' must be finite; got 3 NaN or infinite values in split 'train'. "
        "Clean it in preprocessing_fn."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        source.run(PLACE, examples=examples)


def test_an_evaluation_split_that_is_not_finite_is_refused_with_output_and_split(source: Any) -> None:
    rows = spoilt(read_all(source.examples, "eval"), "powers", float("nan"), 2)
    examples = source.examples_of({"train": [read_all(source.examples, "train")], "eval": [rows]})
    message = (
        "The inputs of 'place' must be finite; got NaN or infinity in 2 of 40 rows of a batch of split "
        "'eval'. Clean them in preprocessing_fn."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        source.run(PLACE, examples=examples)


def test_examples_without_a_train_split_are_refused(source: Any) -> None:
    examples = source.examples_of({"eval": [read_all(source.examples, "eval")]})
    message = f"Examples must have the split 'train'; got eval in {examples.uri}."
    with pytest.raises(DataError, match=re.escape(message)):
        source.run(PLACE, examples=examples)


def test_a_train_split_without_rows_is_refused(source: Any) -> None:
    with pytest.raises(DataError, match=re.escape("PCA needs at least 2 rows in split 'train'; got 0.")):
        source.run(PLACE, examples=source.examples_of({"train": [[]], "eval": [[]]}))


@pytest.mark.parametrize(
    ("reduction", "error", "message"),
    [
        (
            PCA(inputs=("miles",), output="pca"),
            ConfigError,
            "A reduction's inputs must be transformed features; got 'miles'. There are company_id, "
            "company_text, fare, latitude_z, miles_bucket, miles_z, powers, seconds_plain, seconds_z, "
            "word_ids.",
        ),
        (
            PCA(inputs=("miles_z", "company_text"), output="pca"),
            ConfigError,
            "Feature 'company_text' must be numbers of fixed width; got FixedLenFeature(shape=[1], "
            "dtype=tf.string",
        ),
        (
            PCA(inputs=("word_ids",), output="pca"),
            ConfigError,
            "Feature 'word_ids' must be numbers of fixed width; got VarLenFeature(dtype=tf.int64)",
        ),
        (
            PCA(inputs=("miles_z", "latitude_z"), output="fare"),
            ConfigError,
            "Output 'fare' must be a new feature; the data has one of that name.",
        ),
        (
            PCA(inputs=("miles_z", "powers"), output="pca", n_components=5),
            DataError,
            "PCA.n_components must be at most 4, the width of its inputs; got 5.",
        ),
    ],
)
def test_what_cannot_be_reduced_is_refused_and_nothing_is_written(
    source: Any, reduction: PCA, error: type[Exception], message: str
) -> None:
    folders: list[Path] = []

    def remembered(name: str) -> Path:
        folders.append(source.new_folder(name))
        return folders[-1]

    with pytest.raises(error, match=re.escape(message)):
        dataclasses.replace(source, new_folder=remembered).run(reduction)
    assert not [path for path in folders[0].iterdir() if path.name != "tmp"]


def test_integers_are_reduced_as_numbers(source: Any) -> None:
    found = source.run(PCA(inputs=("miles_bucket", "company_id"), output="pca", n_components=2))
    spec = output_of(found.transform_graph).transformed_feature_spec()
    assert dense(parse(found.records("eval"), spec)["pca"]).shape == (40, 2)
