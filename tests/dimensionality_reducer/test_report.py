"""reduction.json: all numbers of a run, from fits made by hand."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfx_mobile.common import jsonable
from tfx_mobile.dimensionality_reducer.config import (
    PCA,
    NotFinite,
    OneHot,
    ReducerConfig,
    Score,
    SelectKBest,
    SparseRandomProjection,
    TruncatedSVD,
)
from tfx_mobile.dimensionality_reducer.models import Fitted, Linear, Selection
from tfx_mobile.dimensionality_reducer.report import reduction_report
from tfx_mobile.dimensionality_reducer.rows import Rows
from tfx_mobile.dimensionality_reducer.statistics import REPORT_ROWS, Statistics

WORDS = OneHot("words", depth=2)
PLACE = PCA(inputs=("a", "pair"), output="place", n_components=2, keep_inputs=False)
FITTED = Fitted(
    model=Linear(np.array([1.0, 2.0, 3.0]), np.array([[1.0, 0.5], [0.0, 0.25], [2.0, -1.0]])),
    columns=["a", "pair[0]", "pair[1]"],
    num_rows=7,
    loadings=np.array([[1.0, 0.5], [0.0, 0.25], [2.0, -1.0]]),
    explained_variance=np.array([3.0, 1.0]),
    explained_variance_ratio=np.array([0.6, 0.2]),
    all_variances=np.array([3.0, 1.0, 1.0]),
    total_variance=5.0,
    notes=("A note.",),
)


@dataclasses.dataclass(frozen=True)
class Counts:
    num_rows: int
    num_dropped: int
    num_imputed: int


def statistics_of(
    rows: Any, labels: Any = None, *, counts: Any = None, not_finite: NotFinite = NotFinite.REFUSE
) -> Statistics:
    made = Rows.of(rows, counts)
    reduction = PCA(inputs=("a",), output="place", not_finite=not_finite)
    found = Statistics(reduction, made.num_numbers, made.width)
    found.add(made, labels)
    return found


def first(report: dict[str, Any]) -> dict[str, Any]:
    return dict(report["reductions"][0])


def report_of(fitted: Fitted = FITTED, statistics: Statistics | None = None) -> dict[str, Any]:
    found = {} if statistics is None else {"place": statistics}
    return first(reduction_report(ReducerConfig((PLACE,)), {"place": fitted}, statistics=found))


def test_every_number_of_a_fit_is_in_the_report() -> None:
    found = report_of()
    assert found == {
        "settings": PLACE.to_dict(),
        "columns": ["a", "pair[0]", "pair[1]"],
        "num_components": 2,
        "num_rows": 7,
        "num_parameters": 9,
        "columns_replaced": None,
        "mean": [1.0, 2.0, 3.0],
        "loadings": [[1.0, 0.0, 2.0], [0.5, 0.25, -1.0]],
        "column_deviations": None,
        "explained_variance": [3.0, 1.0],
        "explained_variance_ratio": [0.6, 0.2],
        "all_variances": [3.0, 1.0, 1.0],
        "total_variance": 5.0,
        "label_r2": None,
        "kept": [],
        "dropped": {},
        "scores": {},
        "notes": ["A note."],
        "imputed_with": None,
        "not_finite": {},
        "num_bad_rows": None,
        "sample": None,
    }


def test_a_selection_has_its_columns_scores_and_reasons_and_no_parameters() -> None:
    fitted = Fitted(
        Selection((1,)), ["a", "b"], 5, kept=("b",), dropped={"a": "constant"}, scores={"a": 0.0, "b": 2.5}
    )
    found = report_of(fitted)
    assert (found["kept"], found["dropped"], found["scores"]) == (
        ["b"],
        {"a": "constant"},
        {"a": 0.0, "b": 2.5},
    )
    assert found["num_parameters"] == 0
    assert found["mean"] is None


def test_the_report_reads_back_from_its_canonical_json_as_it_was() -> None:
    statistics = statistics_of(np.arange(12.0).reshape(4, 3), np.array([1.0, np.nan, np.inf, -np.inf]))
    fitted = dataclasses.replace(FITTED, scores={"a": math.inf, "b": math.nan, "c": -math.inf})
    report = reduction_report(
        ReducerConfig((PLACE,), "y"), {"place": fitted}, statistics={"place": statistics}
    )
    text = jsonable.dumps(report, indent=2)
    assert jsonable.loads(text, where="report") == report
    assert first(report)["scores"] == {"a": "inf", "b": None, "c": "-inf"}
    assert sorted(map(str, first(report)["sample"]["labels"])) == ["-inf", "1.0", "None", "inf"]


def test_labels_are_numbers_or_words_and_words_may_be_any_bytes() -> None:
    words = np.array([b"caf\xc3\xa9", b"\xff"], object)
    found = report_of(FITTED, statistics_of(np.eye(2, 3), words))["sample"]["labels"]
    assert sorted(found) == ["caf\xe9", "\ufffd"]
    assert report_of(FITTED, statistics_of(np.eye(2, 3)))["sample"]["labels"] is None


def test_the_sample_holds_the_first_two_outputs_beside_their_labels() -> None:
    rows = np.array([[1, 2, 3], [2, 2, 3], [1, 4, 4]], np.float32)
    found = report_of(FITTED, statistics_of(rows, np.array([10.0, 20.0, 30.0])))["sample"]
    # (x - mean) @ matrix by hand.
    assert dict(zip(found["labels"], zip(*found["outputs"], strict=True), strict=True)) == {
        10.0: (0.0, 0.0),
        20.0: (1.0, 0.5),
        30.0: (2.0, -0.5),
    }


def test_the_sample_is_as_exact_as_the_phone() -> None:
    values = np.random.default_rng(0).normal(size=(50, 1)).astype(np.float32)
    fitted = Fitted(Linear(np.zeros(1), np.eye(1)), ["a"], 50)
    found = report_of(fitted, statistics_of(values, values[:, 0]))["sample"]
    # Seven digits are within half a unit of the seventh, float32 has 24 bits: 6e-8.
    np.testing.assert_allclose(found["outputs"][0], found["labels"], rtol=5e-7)


def test_a_random_matrix_is_left_to_its_seed() -> None:
    config = ReducerConfig((SparseRandomProjection(inputs=("a",), output="out", n_components=3, seed=7),))
    fitted = Fitted(Linear(np.zeros(3), np.eye(3)), ["a", "b", "c"], 4, loadings=np.eye(3))
    found = reduction_report(config, {"out": fitted})["reductions"][0]
    assert found["loadings"] is None
    assert (found["settings"]["seed"], found["num_components"]) == (7, 3)


@pytest.mark.parametrize(("num_outputs", "shown"), [(1, 1), (2, 2), (3, 2)])
def test_no_more_than_two_outputs_are_drawn(num_outputs: int, shown: int) -> None:
    fitted = Fitted(Linear(np.zeros(3), np.eye(3)[:, :num_outputs]), ["a", "b", "c"], 3)
    found = report_of(fitted, statistics_of(np.arange(9.0).reshape(3, 3)))["sample"]["outputs"]
    assert [len(column) for column in found] == [3] * shown


def test_the_sample_is_bounded_and_drawn_from_all_rows() -> None:
    rows = np.arange(3 * 9000.0).reshape(9000, 3)
    made = Rows.of(rows)
    # A method that is fitted on a sample has a larger one than the report draws.
    reduction = PCA(inputs=("a",), output="place")
    statistics = Statistics(reduction, 3, 3)
    statistics.add(made, rows[:, 0])
    statistics.sample = statistics.sample.of(made, rows[:, 0], 5000, 0)
    labels = report_of(FITTED, statistics)["sample"]["labels"]
    assert len(labels) == REPORT_ROWS == len(set(labels))
    # Of uniform labels in [0, 27000] the mean of 2,000 is 13,500 +- 4 * 174.
    assert np.mean(labels) == pytest.approx(13_500, abs=700)


def test_an_imputed_row_is_drawn_where_the_phone_would_put_it() -> None:
    rows = np.array([[1, 2, 3], [np.nan, 2, 3], [3, 2, 3]], np.float32)
    statistics = statistics_of(rows, np.arange(3.0), not_finite=NotFinite.IMPUTE_MEAN)
    fitted = dataclasses.replace(FITTED, fill=np.array([2, 2, 3], np.float32))
    found = report_of(fitted, statistics)
    by_label = dict(zip(found["sample"]["labels"], found["sample"]["outputs"][0], strict=True))
    assert by_label == {0.0: 0.0, 1.0: 1.0, 2.0: 2.0}
    assert found["imputed_with"] == [2.0, 2.0, 3.0]
    assert found["not_finite"] == {"a": 1}
    assert found["num_bad_rows"] == 1
    np.testing.assert_allclose(found["column_deviations"], [math.sqrt(2 / 3), 0, 0], rtol=1e-12)


def test_deviations_of_a_small_case_by_hand() -> None:
    rows, counts = [[0.0], [2.0], [2.0], [4.0]], [[1, 0], [0, 0], [0, 0], [0, 3]]
    fitted = Fitted(Linear(np.zeros(3), np.eye(3)), ["a", "w=0", "w=1"], 4)
    found = report_of(fitted, statistics_of(rows, counts=np.array(counts)))["column_deviations"]
    np.testing.assert_allclose(found, [math.sqrt(2), math.sqrt(3) / 4, math.sqrt(27 / 16)], rtol=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(0, 1e6))
def test_deviations_are_those_of_all_rows_however_often_one_occurs(
    seed: int, num_rows: int, offset: float
) -> None:
    draw = np.random.default_rng(seed)
    values = (offset + draw.integers(0, 4, (num_rows, 2))).astype(np.float32)
    counts = draw.integers(0, 3, (num_rows, 2))
    fitted = Fitted(Linear(np.zeros(4), np.eye(4)), list("abcd"), num_rows)
    found = report_of(fitted, statistics_of(values, counts=counts))["column_deviations"]
    both = np.concatenate([values.astype(np.float64), counts], axis=1)
    # Two ways to sum 40 float64 of at most 1e6, whose squares' rounding is 1e-4 relative to deviations of 1.
    np.testing.assert_allclose(found, both.std(axis=0), rtol=0, atol=1e-7)


# ---- the first layer ----

BAG = TruncatedSVD(inputs=(WORDS,), output="bag", n_components=1)
FLOATS = {"a": 1, "pair": 2, "free": 4, "y": 1}


def layer(config: ReducerConfig, widths: dict[Any, int], floats: dict[str, int]) -> dict[str, Any]:
    fitted = {
        one.output: Fitted(Linear(np.zeros(2), np.zeros((2, one.n_components))), ["p", "q"], 5)  # type: ignore[union-attr]
        for one in config.reductions
    }
    found = reduction_report(config, fitted, widths=widths, float_widths=floats)
    return dict(found["first_layer"])


def test_columns_before_are_floats_and_one_hot_depths_and_after_what_is_left_and_the_outputs() -> None:
    found = layer(ReducerConfig((PLACE, BAG), "y"), {"a": 1, "pair": 2, WORDS: 2}, FLOATS)
    assert found == {
        "columns_before": 1 + 2 + 4 + 2,
        "columns_after": 4 + 2 + 1,
        "weights": [
            {"units": 64, "before": 576, "after": 448},
            {"units": 128, "before": 1152, "after": 896},
            {"units": 256, "before": 2304, "after": 1792},
        ],
    }


def test_the_label_counts_only_where_nobody_says_which_it_is() -> None:
    assert layer(ReducerConfig((PLACE,), "y"), {"a": 1, "pair": 2}, FLOATS)["columns_before"] == 7
    assert layer(ReducerConfig((PLACE,)), {"a": 1, "pair": 2}, FLOATS)["columns_before"] == 8


def test_inputs_that_are_kept_stay_in_the_first_layer() -> None:
    kept = dataclasses.replace(PLACE, keep_inputs=True)
    bag = dataclasses.replace(BAG, keep_inputs=True)
    found = layer(ReducerConfig((kept, bag), "y"), {"a": 1, "pair": 2, WORDS: 2}, FLOATS)
    assert (found["columns_before"], found["columns_after"]) == (9, 9 + 3)


def test_integers_that_a_reduction_takes_as_numbers_count() -> None:
    config = ReducerConfig((PCA(inputs=("a", "index"), output="both", n_components=1),), "y")
    found = layer(config, {"a": 1, "index": 1}, {"a": 1, "y": 1})
    assert (found["columns_before"], found["columns_after"]) == (2, 1)


def test_features_that_two_reductions_read_count_once() -> None:
    other = PCA(inputs=("pair", "free"), output="other", n_components=1)
    found = layer(ReducerConfig((PLACE, other), "y"), {"a": 1, "pair": 2, "free": 4}, FLOATS)
    assert (found["columns_before"], found["columns_after"]) == (7, 3)


def test_a_feature_of_two_depths_counts_at_the_larger() -> None:
    short, long = OneHot("ids", depth=5), OneHot("ids", depth=9)
    config = ReducerConfig(
        (
            TruncatedSVD(inputs=(long,), output="a", n_components=1),
            TruncatedSVD(inputs=(short,), output="b", n_components=1),
        )
    )
    found = layer(config, {short: 5, long: 9}, {})
    assert (found["columns_before"], found["columns_after"]) == (9, 2)


def test_weights_of_a_one_hot_input_are_no_columns_of_their_own() -> None:
    tfidf = OneHot("ids", depth=5, weights="tfidf")
    config = ReducerConfig((TruncatedSVD(inputs=(tfidf,), output="lsa", n_components=2),))
    found = layer(config, {tfidf: 5}, {"tfidf": 3, "x": 1})
    assert (found["columns_before"], found["columns_after"]) == (6, 3)


def test_each_reduction_says_how_many_columns_it_takes_away() -> None:
    config = ReducerConfig((PLACE, dataclasses.replace(BAG, keep_inputs=True)), "y")
    fitted = {"place": FITTED, "bag": FITTED}
    widths: dict[Any, int] = {"a": 1, "pair": 2, WORDS: 2}
    found = reduction_report(config, fitted, widths=widths)["reductions"]
    assert [one["columns_replaced"] for one in found] == [3, 0]


def test_columns_that_two_reductions_read_are_neithers_to_take_away() -> None:
    best = SelectKBest(inputs=("pair", "free"), output="best", k=1, score=Score.F_REGRESSION)
    config = ReducerConfig((PLACE, best), "y")
    found = reduction_report(
        config, {"place": FITTED, "best": FITTED}, widths={"a": 1, "pair": 2, "free": 4}
    )["reductions"]
    assert [one["columns_replaced"] for one in found] == [None, None]


# ---- what the run saw ----


def test_embedding_sizes_are_of_the_schema_first_and_of_one_hot_inputs_next_without_the_label() -> None:
    widths: dict[Any, int] = {WORDS: 300, OneHot("words", depth=500): 500, OneHot("cell", depth=9): 9}
    first_one, second, third = widths
    config = ReducerConfig(
        (
            TruncatedSVD(inputs=(first_one,), output="a"),
            TruncatedSVD(inputs=(second,), output="b"),
            TruncatedSVD(inputs=(third,), output="c"),
        ),
        "kind",
    )
    found = reduction_report(
        config,
        {"a": FITTED, "b": FITTED, "c": FITTED},
        widths=widths,
        vocabulary_sizes={"cell": 1000, "kind": 3, "zone": 16},
    )["embedding_sizes"]
    assert found == [
        {"feature": "cell", "vocabulary_size": 1000, "embedding_size": 6},
        {"feature": "words", "vocabulary_size": 500, "embedding_size": 5},
        {"feature": "zone", "vocabulary_size": 16, "embedding_size": 2},
    ]


def test_each_split_says_what_was_left_out_and_imputed() -> None:
    splits: Any = {"train": Counts(10, 2, 0), "eval": Counts(5, 0, 3)}
    found = reduction_report(ReducerConfig((PLACE,)), {"place": FITTED}, splits=splits)["splits"]
    assert found == {
        "train": {"num_rows": 10, "num_dropped": 2, "num_imputed": 0},
        "eval": {"num_rows": 5, "num_dropped": 0, "num_imputed": 3},
    }


def test_the_report_says_its_version_and_its_label() -> None:
    report = reduction_report(ReducerConfig((PLACE,), "y"), {"place": FITTED})
    assert (report["schema_version"], report["label_key"]) == (2, "y")
    assert (report["first_layer"], report["embedding_sizes"], report["splits"]) == (None, [], {})


def test_the_same_run_gives_the_same_bytes() -> None:
    def text() -> str:
        rows = np.random.default_rng(3).normal(size=(50, 3))
        return jsonable.dumps(report_of(FITTED, statistics_of(rows, rows[:, 0])))

    assert text() == text()
    assert json.loads(text())["num_rows"] == 7
