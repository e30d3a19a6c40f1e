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
from tests.dimensionality_reducer.reading import (
    beside,
    canonical,
    columns_of,
    dense,
    graph_columns,
    output_of,
    parse,
    read_all,
    spoilt,
)

from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.dimensionality_reducer.config import PCA, PLS, NotFinite, OneHot, VarianceThreshold

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


@pytest.mark.parametrize("split", ["train", "eval"])
def test_every_written_row_is_what_the_graph_says(
    source: Any, reduced: Any, split: str, as_tensors: Any
) -> None:
    said = graph_columns(reduced.transform_graph, as_tensors(source.raw[split]))
    written = columns_of(reduced.examples, reduced.transform_graph, split)
    assert said.keys() == written.keys()
    assert len(set(said["fare"][:, 0].tolist())) == len(source.raw[split]) == len(written["fare"])
    for name in said:
        if name in (PLACE.output, TIME.output):
            # time/pca stands at 1e4 with a spread of 500: the subtraction is exact, the rest is rounding.
            atol = FLOAT32_ROUNDING * np.abs(said[name]).max()
            np.testing.assert_allclose(written[name], said[name], rtol=0, atol=atol)
        else:
            np.testing.assert_array_equal(written[name], said[name])


def test_the_components_are_scikit_learns_on_the_train_split(source: Any, reduced: Any) -> None:
    rows = beside(columns_of(source.examples, source.transform_graph, "train"), PLACE.numeric)
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
    assert set(everything) - set(without) == {"fare", "long_fare", "word_ids", "tfidf_ids", "tfidf_weights"}
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
    assert report["schema_version"] == 2
    found = report["reductions"][0]
    assert found["columns"] == ["miles_z", "latitude_z", "powers[0]", "powers[1]", "powers[2]"]
    assert found["settings"] == PLACE.to_dict()
    assert found["num_components"] == 3
    assert len(found["all_variances"]) == 5
    rows = beside(columns_of(source.examples, source.transform_graph, "eval"), PLACE.numeric)
    exact = (rows - np.array(found["mean"])) @ np.array(found["loadings"]).T
    written = columns_of(reduced.examples, reduced.transform_graph, "eval")["place"]
    np.testing.assert_allclose(written, exact, rtol=0, atol=FLOAT32_ROUNDING * np.abs(exact).max())


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


def test_a_split_without_rows_is_refused_and_nothing_stays(source: Any, tmp_path: Path) -> None:
    train = read_all(source.examples, "train")
    examples = source.examples_of({"train": [train], "eval": [[], []]})
    message = "Split 'eval' must have rows; got none. Leave it out of the Examples or fill it."
    with pytest.raises(DataError, match=re.escape(message)):
        source.run(PLACE, examples=examples, folder=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_train_split_that_is_not_finite_is_refused_with_feature_and_count(
    source: Any, value: float
) -> None:
    train = spoilt(read_all(source.examples, "train"), "latitude_z", value, 3)
    examples = source.examples_of({"train": [train], "eval": [read_all(source.examples, "eval")]})
    message = (
        "Feature 'latitude_z' must be finite; got 3 NaN or infinite of 160 rows in split 'train'. Clean it "
        "in preprocessing_fn, or set not_finite: NotFinite.DROP_ROWS leaves such rows out, "
        "NotFinite.IMPUTE_MEAN fills in numbers."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        source.run(PLACE, examples=examples)


def test_an_evaluation_split_that_is_not_finite_is_refused_with_all_its_columns(
    source: Any, tmp_path: Path
) -> None:
    rows = read_all(source.examples, "eval")
    rows = spoilt(spoilt(rows, "powers", float("nan"), 2), "miles_z", float("-inf"), 1)
    examples = source.examples_of(
        {"train": [read_all(source.examples, "train")], "eval": [rows[:9], rows[9:]]}
    )
    message = (
        "Feature 'powers[0]' must be finite; got 2 NaN or infinite of 40 rows in split 'eval', and 1 more "
        "column has some. Clean it"
    )
    with pytest.raises(DataError, match=re.escape(message)):
        source.run(PLACE, examples=examples, folder=str(tmp_path))
    assert not (tmp_path / "examples").exists()


def test_rows_that_are_not_finite_can_be_dropped_from_fit_and_examples(source: Any) -> None:
    train, evaluation = (read_all(source.examples, split) for split in ("train", "eval"))
    kept = source.examples_of({"train": [train[3:]], "eval": [evaluation[1:]]})
    spoilt_rows = {
        "train": [spoilt(train, "latitude_z", float("nan"), 3)],
        "eval": [spoilt(evaluation, "powers", float("inf"), 1)],
    }
    dropping = dataclasses.replace(PLACE, not_finite=NotFinite.DROP_ROWS)
    found = source.run(dropping, examples=source.examples_of(spoilt_rows))
    wanted = source.run(PLACE, examples=kept)
    for split, count in (("train", 157), ("eval", 39)):
        ours = columns_of(found.examples, found.transform_graph, split)
        theirs = columns_of(wanted.examples, wanted.transform_graph, split)
        assert len(ours["place"]) == count
        np.testing.assert_allclose(ours["place"], theirs["place"], rtol=0, atol=1e-6)  # order of the sums
        np.testing.assert_array_equal(ours["company_id"], theirs["company_id"])


def test_rows_that_one_reduction_drops_count_for_none(source: Any) -> None:
    train = read_all(source.examples, "train")
    rows = [spoilt(train, "latitude_z", float("nan"), 60)]
    examples = source.examples_of({"train": rows, "eval": [read_all(source.examples, "eval")]})
    dropping = PCA(inputs=("latitude_z",), output="one", n_components=1, not_finite=NotFinite.DROP_ROWS)
    whitened = PCA(inputs=("miles_z", "powers"), output="two", n_components=2, whiten=True)
    found = source.run(dropping, whitened, examples=examples)
    values = columns_of(found.examples, found.transform_graph, "train")["two"].astype(np.float64)
    assert len(values) == 100
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(values.var(axis=0, ddof=1), 1, rtol=1e-5)


def test_a_split_of_which_every_row_is_dropped_is_refused(source: Any) -> None:
    rows = spoilt(read_all(source.examples, "eval"), "latitude_z", float("nan"), 40)
    examples = source.examples_of({"train": [read_all(source.examples, "train")], "eval": [rows]})
    message = (
        "Split 'eval' must keep rows; all 40 have NaN or infinity and are dropped (NotFinite.DROP_ROWS). "
        "Clean them in preprocessing_fn or use NotFinite.IMPUTE_MEAN."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        source.run(dataclasses.replace(PLACE, not_finite=NotFinite.DROP_ROWS), examples=examples)


def test_a_value_that_two_reductions_impute_counts_once(source: Any) -> None:
    train = spoilt(read_all(source.examples, "train"), "latitude_z", float("nan"), 5)
    examples = source.examples_of({"train": [train], "eval": [read_all(source.examples, "eval")]})
    imputing = [
        PCA(inputs=("miles_z", "latitude_z"), output=name, n_components=1, not_finite=NotFinite.IMPUTE_MEAN)
        for name in ("one", "two")
    ]
    report = json.loads(source.run(*imputing, examples=examples).reduction_json())
    assert report["splits"]["train"] == {"num_rows": 160, "num_dropped": 0, "num_imputed": 5}


def test_several_examples_are_reduced_together(source: Any, reduced: Any) -> None:
    train, evaluation = (read_all(source.examples, split) for split in ("train", "eval"))
    parts = [source.examples_of({"train": [train[i::2]], "eval": [evaluation[i::2]]}) for i in range(2)]
    parts[1].span = 8
    found = source.run(PLACE, TIME, examples=parts)
    assert (found.examples.span, found.examples.split_names) == (8, parts[0].split_names)
    for split in ("train", "eval"):
        ours, theirs = (columns_of(run.examples, run.transform_graph, split) for run in (found, reduced))
        np.testing.assert_allclose(ours["place"], theirs["place"], rtol=0, atol=1e-6)


def test_several_examples_of_other_splits_are_refused(source: Any) -> None:
    train = read_all(source.examples, "train")
    one, other = (
        source.examples_of({"train": [train]}),
        source.examples_of({"train": [train], "test": [train]}),
    )
    message = (
        f"Examples that are reduced together must have the same splits; got train in {one.uri} and train, "
        f"test in {other.uri}."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        source.run(PLACE, examples=[one, other])


def test_words_that_are_not_in_the_vocabulary_have_columns_too(source: Any) -> None:
    # TFT's schema counts the buckets behind the vocabulary's words; here it is told of two.
    graph = shutil.copytree(source.transform_graph.uri, source.new_folder("oov") / "graph")
    path = next(graph.glob("transformed_metadata/schema.pbtxt"))
    text = path.read_text()
    begin = text.index('name: "word_ids"')
    path.write_text(text[:begin] + text[begin:].replace("max: 4", "max: 6", 1))
    artifact = type(source.transform_graph)()
    artifact.uri = str(graph)
    words = OneHot("word_ids", vocabulary="words")
    found = dataclasses.replace(source, transform_graph=artifact).run(
        VarianceThreshold(inputs=(words, "miles_z"), output="varying")
    )
    columns = json.loads(found.reduction_json())["reductions"][0]["columns"]
    assert columns[-2:] == ["word_ids=5", "word_ids=6"]
    assert len(columns) == 8


def test_an_imputed_value_is_the_mean_of_the_train_split_in_examples_and_graph(
    source: Any, as_tensors: Any
) -> None:
    rows = {split: read_all(source.examples, split) for split in ("train", "eval")}
    examples = source.examples_of(
        {"train": [spoilt(rows["train"], "latitude_z", float("nan"), 5)], "eval": [rows["eval"]]}
    )
    imputing = PCA(
        inputs=("miles_z", "latitude_z"),
        output="pca",
        n_components=2,
        not_finite=NotFinite.IMPUTE_MEAN,
        keep_inputs=True,
    )
    found = source.run(imputing, examples=examples)
    columns = columns_of(found.examples, found.transform_graph, "train")
    inputs = beside(columns, imputing.numeric)
    filled = np.where(np.isnan(inputs), np.nanmean(inputs, axis=0), inputs)
    assert np.isnan(inputs).sum() == 5
    # Standardised by the deviations of the filled rows, the components are scikit-learn's up to their signs.
    scaled = preprocessing.StandardScaler().fit_transform(filled) * np.sqrt(159 / 160)
    theirs = decomposition.PCA(2, svd_solver="full").fit_transform(scaled)
    np.testing.assert_allclose(np.abs(columns["pca"]), np.abs(theirs), rtol=0, atol=1e-5)
    # Missing on the phone: latitude NaN gives what the mean gives.
    layer = output_of(found.transform_graph).transform_features_layer()
    raw = [dict(row) for row in source.raw["eval"][:2]]
    raw[0]["latitude"] = float("nan")
    said = dense(layer(as_tensors(raw))["pca"])
    assert np.isfinite(said).all()


def test_examples_without_a_train_split_are_refused(source: Any) -> None:
    examples = source.examples_of({"eval": [read_all(source.examples, "eval")]})
    message = f"Examples must have the split 'train'; got eval in {examples.uri}."
    with pytest.raises(DataError, match=re.escape(message)):
        source.run(PLACE, examples=examples)


def test_a_train_split_without_rows_is_refused(source: Any) -> None:
    with pytest.raises(DataError, match=re.escape("PCA needs rows in split 'train'; got none.")):
        source.run(PLACE, examples=source.examples_of({"train": [[]], "eval": [[]]}))


@pytest.mark.parametrize(
    ("reduction", "error", "message"),
    [
        (
            PCA(inputs=("miles",), output="pca"),
            ConfigError,
            "A reduction's inputs and label must be transformed features; got 'miles'. There are company_id, "
            "company_text, fare, latitude_z, long_fare, miles_bucket, miles_z, powers, seconds_plain, "
            "seconds_z, tfidf_ids, tfidf_weights, word_ids.",
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
            "Feature 'word_ids' must be numbers of fixed width; got VarLenFeature(dtype=tf.int64). "
            "Vocabulary indices go in as OneHot('word_ids').",
        ),
        (
            PCA(inputs=("tfidf_weights",), output="pca"),
            ConfigError,
            "Feature 'tfidf_weights' must be numbers of fixed width; got VarLenFeature(dtype=tf.float32). "
            "Make it dense in preprocessing_fn, for example with tf.sparse.to_dense and a reshape.",
        ),
        (
            PCA(inputs=(OneHot("miles_z", depth=3),), output="pca"),
            ConfigError,
            "OneHot('miles_z') must be vocabulary indices; got FixedLenFeature(shape=[1], dtype=tf.float32",
        ),
        (
            PCA(inputs=(OneHot("long_fare"),), output="pca"),
            ConfigError,
            "OneHot('long_fare') must have a depth; Transform's schema does not say how large its indices "
            "get. Give depth or vocabulary.",
        ),
        (
            PCA(inputs=(OneHot("word_ids", vocabulary="verbs"),), output="pca"),
            ConfigError,
            "OneHot.vocabulary must name a vocabulary of the TransformGraph; got 'verbs'.",
        ),
        (
            PCA(inputs=(OneHot("word_ids", weights="company_id"),), output="pca"),
            ConfigError,
            "OneHot.weights must have one float32 for each index of 'word_ids'; got FixedLenFeature(",
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


def test_a_text_label_is_refused_before_anything_is_read(source: Any) -> None:
    nowhere = source.examples_of({"train": [[b"not an Example"]], "eval": [[]]})
    message = (
        "PLS needs a label that is a number; 'company_text' is text. Make a number of it in preprocessing_fn."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        source.run(
            PLS(inputs=("miles_z", "powers"), output="pls"), examples=nowhere, label_key="company_text"
        )


def test_integers_are_reduced_as_numbers(source: Any) -> None:
    found = source.run(PCA(inputs=("miles_bucket", "company_id"), output="pca", n_components=2))
    spec = output_of(found.transform_graph).transformed_feature_spec()
    assert dense(parse(found.records("eval"), spec)["pca"]).shape == (40, 2)
