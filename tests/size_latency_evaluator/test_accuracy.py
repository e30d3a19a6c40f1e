"""Tallies: any split gives the same, bounds are those of the rows, slices are what they say."""

import itertools
import math
import pickle
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from tests.size_latency_evaluator import row_bounds

from tfx_mobile.common.errors import DataError
from tfx_mobile.size_latency_evaluator import accuracy, core, metrics
from tfx_mobile.size_latency_evaluator.accuracy import Accuracy, Batch, Tally
from tfx_mobile.size_latency_evaluator.config import (
    AccuracyGate,
    AnyMetric,
    EvaluatorConfig,
    KerasMetric,
    Metric,
    RelativeTo,
    SizeGate,
    Slice,
)
from tfx_mobile.size_latency_evaluator.core import Measured, Rivals
from tfx_mobile.size_latency_evaluator.evaluation import Status

SIZE = SizeGate(max_bytes=10)
COMPANY = Slice(("company",))
NUM_ROWS = 300


def config_of(*asked: AnyMetric, **settings_: Any) -> EvaluatorConfig:
    return EvaluatorConfig("fare", (SIZE,), metrics=asked or tuple(Metric), **settings_)


def trips(seed: int = 4, rows: int = NUM_ROWS) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    labels = (draw.random((rows, 1)) < 0.4).astype(np.float64)
    dense = np.clip(0.3 * labels + 0.7 * draw.random((rows, 1)), 0.0, 1.0)
    return {
        "labels": labels,
        "files": {
            "dense": dense.astype(np.float32),
            "int8": np.clip(dense + draw.normal(0.0, 0.02, (rows, 1)), 0.0, 1.0).astype(np.float32),
        },
        "columns": {
            "company": np.array([b"Flash", b"Sun", None], dtype=object)[draw.integers(0, 3, rows)],
            "miles": np.where(draw.random(rows) < 0.1, np.nan, draw.gamma(2.0, 3.0, rows)),
            "hour": draw.integers(0, 4, rows),
        },
        "weights": draw.gamma(2.0, 1.0, rows),
    }


def batch(table: dict[str, Any], rows: Any = slice(None), *, weighted: bool = False) -> Batch:
    return Batch(
        {"": table["labels"][rows]},
        {name: {"": found[rows]} for name, found in table["files"].items()},
        {name: column[rows] for name, column in table["columns"].items()},
        table["weights"][rows] if weighted else None,
    )


def tallied(config: EvaluatorConfig, table: dict[str, Any], *, weighted: bool = False) -> Accuracy:
    tally = Tally(config, list(table["files"]))
    tally.add(batch(table, weighted=weighted))
    return tally.result()


def numbers(found: Accuracy, config: EvaluatorConfig) -> list[float]:
    """Returns every value and every part of every pair."""
    listed: list[float] = []
    for metric, name in itertools.product(config.metrics, ("", *found.slice_names)):
        for file in ("dense", "int8"):
            value = found.value(metric.value, file, name)
            listed.append(math.nan if value is None else value)
        pair = found.pair(metric.value, "int8", "dense", name)
        if pair is not None:
            listed += [*pair.estimate, *pair.covariance.ravel(), pair.freedom]
    return listed


EVERYTHING = config_of(
    Metric.RMSE,
    Metric.MAE,
    KerasMetric("BinaryCrossentropy"),
    KerasMetric("AUC", {"num_thresholds": 200}),
    KerasMetric("Recall"),
    slices=(COMPANY, Slice(("hour",), buckets={"miles": (2.0, 8.0)})),
    sample_weight_key="weight",
)


# ------------------------------------------------------------------------------------------ merging


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, NUM_ROWS), max_size=5), weighted=st.booleans(), shuffle=st.randoms())
def test_any_split_merged_in_any_order_gives_the_same(cuts: list[int], weighted: bool, shuffle: Any) -> None:
    table = trips()
    whole = tallied(EVERYTHING, table, weighted=weighted)
    parts = []
    for start, end in itertools.pairwise([0, *sorted(cuts), NUM_ROWS]):
        part = Tally(EVERYTHING, ["dense", "int8"])
        part.add(batch(table, slice(start, end), weighted=weighted))
        parts.append(pickle.loads(pickle.dumps(part)))
    shuffle.shuffle(parts)
    while len(parts) > 1:
        other = parts.pop(shuffle.randrange(len(parts)))
        parts[shuffle.randrange(len(parts))].merge(other)
    merged = parts[0].result()

    assert merged.rows == NUM_ROWS
    assert merged.slice_names == whole.slice_names
    assert [merged.rows_of(n) for n in merged.slice_names] == [whole.rows_of(n) for n in whole.slice_names]
    assert numbers(merged, EVERYTHING) == pytest.approx(
        numbers(whole, EVERYTHING), rel=1e-12, abs=1e-12, nan_ok=True
    )


def test_what_a_tally_holds_does_not_grow_with_the_rows() -> None:
    sizes = []
    for times in (1, 10):
        tally = Tally(config_of(Metric.RMSE, KerasMetric("Recall"), slices=(COMPANY,)), ["dense", "int8"])
        for seed in range(times):
            tally.add(batch(trips(seed)))
        sizes.append(len(pickle.dumps(tally)))  # about 6 kB, where 3,000 rows have 120 kB

    assert sizes[1] < 1.5 * sizes[0]


def test_tallies_of_other_settings_are_not_merged() -> None:
    with pytest.raises(DataError, match=re.escape("Only tallies of the same settings and files")):
        Tally(config_of(Metric.RMSE), ["a"]).merge(Tally(config_of(Metric.MAE), ["a"]))


# ------------------------------------------------------------------------------------------ bounds


@pytest.mark.parametrize("factor", [1.0, 1.02, 0.97])
@pytest.mark.parametrize("spread", [1e-6, 0.1, 2.0])
def test_bounds_are_those_of_the_rows(factor: float, spread: float) -> None:
    draw = np.random.default_rng(5)
    below = draw.gamma(1.0, 3.0, 500)
    above = np.abs(below + draw.normal(0.0, spread, 500))
    table = {"labels": np.zeros((500, 1)), "files": {"a": above[:, None], "b": below[:, None]}, "columns": {}}
    pair = tallied(config_of(Metric.MAE), table).pair("mae", "a", "b")
    assert pair is not None

    assert pair.upper_bound(1.0, -factor) == pytest.approx(
        row_bounds.upper_bound_of_mean(above - factor * below), rel=1e-9
    )
    turned = optimize.brentq(
        lambda ratio: row_bounds.upper_bound_of_mean(above - ratio * below), 0.5, 2.0, xtol=1e-13, rtol=1e-13
    )
    assert pair.bounds_of_ratio()[1] == pytest.approx(turned, rel=1e-11)
    if spread > 1e-6:  # below, the formula on rows loses the digits itself
        low, high = (
            1.0 / row_bounds.upper_bound_of_ratio(below, above),
            row_bounds.upper_bound_of_ratio(above, below),
        )
        assert pair.bounds_of_ratio() == pytest.approx((low, high), rel=1e-9)


def test_a_rows_weight_of_two_is_not_two_rows_for_the_bound() -> None:
    table = trips(rows=60)
    config = config_of(Metric.MAE, sample_weight_key="weight")
    plain = tallied(config, table).pair("mae", "int8", "dense")
    table["weights"] = np.full(60, 2.0)
    doubled = tallied(config, table, weighted=True).pair("mae", "int8", "dense")

    assert plain is not None
    assert doubled is not None
    assert doubled.covariance == pytest.approx(plain.covariance, rel=1e-12)
    assert doubled.freedom == pytest.approx(plain.freedom)


def test_the_weighted_variance_is_that_of_the_linearised_mean() -> None:
    table = trips()
    weights = table["weights"]
    errors = [
        np.abs(table["files"][name] - table["labels"])[:, 0].astype(float) for name in ("int8", "dense")
    ]
    difference = errors[0] - errors[1]
    mean = np.average(difference, weights=weights)
    effective = weights.sum() ** 2 / (weights**2).sum()
    variance = ((weights * (difference - mean)) ** 2).sum() / weights.sum() ** 2
    expected = mean + stats.t.ppf(0.95, effective - 1) * math.sqrt(variance * effective / (effective - 1))

    pair = tallied(config_of(Metric.MAE, sample_weight_key="w"), table, weighted=True).pair(
        "mae", "int8", "dense"
    )

    assert pair is not None
    assert pair.upper_bound(1.0, -1.0) == pytest.approx(expected, rel=1e-6)  # predictions are float32


def test_a_weighted_bound_holds_about_19_times_in_20() -> None:
    draw = np.random.default_rng(9)
    config = config_of(Metric.MAE, sample_weight_key="weight")
    held = 0
    for _ in range(500):
        below = draw.gamma(4.0, 1.0, (100, 1))
        weights = draw.gamma(1.0, 1.0, 100)
        above = np.abs(below + 0.2 + draw.normal(0.0, 0.5, (100, 1)))
        table = {
            "labels": np.zeros((100, 1)),
            "files": {"a": above, "b": below},
            "columns": {},
            "weights": weights,
        }
        pair = tallied(config, table, weighted=True).pair("mae", "a", "b")
        assert pair is not None
        held += pair.upper_bound(1.0, -1.0) >= 0.2

    # Binomial(500, 0.95): 99.9 % lie within 459 and 490.
    assert 459 <= held <= 490


def test_the_jackknife_of_a_mean_is_close_to_its_own_variance() -> None:
    table = trips(rows=4000)
    asked = config_of(Metric.ACCURACY, KerasMetric("Specificity"), KerasMetric("Recall"))
    found = tallied(asked, table)
    pair = found.pair("recall", "int8", "dense")
    positive = table["labels"][:, 0] == 1
    hits = [(table["files"][name][positive, 0] > 0.5).astype(float) for name in ("int8", "dense")]

    assert pair is not None
    assert pair.freedom == 19
    # 20 groups know a variance to about 1 / sqrt(2 x 19) = 16 %, here held to 4 of these.
    expected = np.std(hits[0] - hits[1], ddof=1) / math.sqrt(positive.sum())
    assert math.sqrt(pair.covariance[0, 0]) == pytest.approx(expected, rel=0.65)
    assert found.value("recall", "int8") == pytest.approx(hits[0].mean())


def test_the_root_has_the_bound_of_the_delta_method() -> None:
    table = trips()
    pair = tallied(config_of(Metric.RMSE), table).pair("rmse", "int8", "dense")
    assert pair is not None
    squares = [
        np.square(table["files"][name].astype(float) - table["labels"])[:, 0] for name in ("int8", "dense")
    ]
    roots = [math.sqrt(values.mean()) for values in squares]
    linear = squares[0] / (2 * roots[0]) - squares[1] / (2 * roots[1])

    expected = roots[0] - roots[1] + row_bounds.upper_bound_of_mean(linear) - linear.mean()

    assert pair.values() == pytest.approx(roots)
    assert pair.upper_bound_of_difference() == pytest.approx(expected, rel=1e-9)
    assert pair.upper_bound_of_difference(-1.0) == pytest.approx(expected - 2 * (roots[0] - roots[1]))


# ------------------------------------------------------------------------------------------ slices


def names_of(wanted: Slice, columns: dict[str, Any]) -> dict[str, list[int]]:
    count = len(next(iter(columns.values())))
    rows, codes, name = accuracy.slice_rows(wanted, columns, count)
    found: dict[str, list[int]] = {}
    for row, code in zip(rows.tolist(), codes.tolist(), strict=True):
        found.setdefault(name(code), []).append(row)
    return {key: sorted(found[key]) for key in sorted(found)}


COLUMNS = {
    "company": np.array([b"Flash", b"Sun", accuracy.MISSING, b"Flash", None, b""], dtype=object),
    "hour": np.array([7, 8, 7, 7, 8, 8]),
    "miles": np.array([0.5, 1.0, 4.0, 5.0, math.nan, 20.0]),
    "tags": np.array([[b"a", b"b"], [b"a", b"a"], [b"b", None], [None, None], [b"c", b"a"], [b"b", b"b"]]),
}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (COMPANY, {"company = ''": [5], "company = 'Flash'": [0, 3], "company = 'Sun'": [1]}),
        (Slice(("hour",)), {"hour = 7": [0, 2, 3], "hour = 8": [1, 4, 5]}),
        (Slice(values={"company": "Flash"}), {"company = 'Flash'": [0, 3]}),
        (Slice(values={"hour": "7"}), {"hour = 7": [0, 2, 3]}),
        (Slice(values={"company": "Nobody"}), {}),
        (
            Slice(buckets={"miles": (1, 5)}),
            {"miles < 1": [0], "miles >= 5": [3, 5], "miles in [1, 5)": [1, 2]},
        ),
        (Slice(("company",), values={"hour": 7}), {"company = 'Flash', hour = 7": [0, 3]}),
        (Slice(("tags",)), {"tags = 'a'": [0, 1, 4], "tags = 'b'": [0, 2, 5], "tags = 'c'": [4]}),
        (
            Slice(("tags",), values={"hour": 8}),
            {"hour = 8, tags = 'a'": [1, 4], "hour = 8, tags = 'b'": [5], "hour = 8, tags = 'c'": [4]},
        ),
        (Slice(("miles",), values={"miles2": 3}), None),
    ],
)
def test_slices_hold_the_rows_they_name(wanted: Slice, expected: Any) -> None:
    if expected is None:
        with pytest.raises(DataError, match=re.escape("Slices need feature 'miles2' in each batch")):
            names_of(wanted, COLUMNS)
    else:
        assert names_of(wanted, COLUMNS) == expected


def test_a_slice_that_does_not_fit_the_feature_is_refused() -> None:
    with pytest.raises(
        DataError, match=re.escape("Feature 'hour' is a number; got the slice hour = 'noon'.")
    ):
        names_of(Slice(values={"hour": "noon"}), COLUMNS)
    with pytest.raises(DataError, match=re.escape("Feature 'tags' must be numbers to have buckets")):
        names_of(Slice(buckets={"tags": (1.0,)}), COLUMNS)


def test_values_of_a_slice_are_those_of_its_rows_alone() -> None:
    table = trips()
    config = config_of(Metric.RMSE, KerasMetric("AUC"), KerasMetric("BinaryCrossentropy"), slices=(COMPANY,))
    found = tallied(config, table, weighted=True)
    inside = table["columns"]["company"] == b"Sun"
    alone = Tally(config, ["dense", "int8"])
    alone.add(batch(table, inside, weighted=True))

    assert found.rows_of("company = 'Sun'") == inside.sum()
    for metric in config.metrics:
        sliced = found.pair(metric.value, "int8", "dense", "company = 'Sun'")
        whole = alone.result().pair(metric.value, "int8", "dense")
        assert sliced is not None
        assert whole is not None
        assert sliced.estimate == pytest.approx(whole.estimate, rel=1e-12)
        assert sliced.covariance == pytest.approx(whole.covariance, rel=1e-9)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_slice_with_too_many_values_is_given_up_however_the_rows_are_split(order: tuple[int, int]) -> None:
    config = config_of(Metric.MAE, slices=(Slice(("hour",), max_values=3), COMPANY))
    table = trips()
    halves = []
    for low in (0, 2):
        part = Tally(config, ["dense", "int8"])
        hours = table["columns"]["hour"]
        part.add(batch(table, (hours == low) | (hours == low + 1)))
        halves.append(part)
    first, second = (halves[i] for i in order)
    first.merge(second)
    found = first.result()

    assert found.slices_of(Slice(("hour",), max_values=3)) is None
    assert found.slice_names == ("company = 'Flash'", "company = 'Sun'")
    assert second.result().slices_of(Slice(("hour",), max_values=3)) is not None


def test_a_slice_that_one_worker_gave_up_is_given_up() -> None:
    config = config_of(Metric.MAE, slices=(Slice(("hour",), max_values=3),))
    table = trips()
    all_hours, one_hour = Tally(config, ["dense", "int8"]), Tally(config, ["dense", "int8"])
    all_hours.add(batch(table))
    one_hour.add(batch(table, table["columns"]["hour"] == 0))
    one_hour.merge(all_hours)

    assert one_hour.result().slices_of(config.slices[0]) is None


def test_two_workers_with_different_constants_have_no_constant_file() -> None:
    parts = []
    for value in (1.0, 2.0):
        part = Tally(config_of(Metric.MAE), ["a"])
        part.add(Batch({"": np.zeros((2, 1))}, {"a": {"": np.full((2, 1), value, np.float32)}}, {}, None))
        parts.append(part)
    assert "the same output" in parts[0].result().failure("a")
    parts[0].merge(parts[1])

    assert parts[0].result().failure("a") == ""


# ------------------------------------------------------------------------------------------ gates by slice


def judged(gate: AccuracyGate, table: dict[str, Any]) -> Any:
    found = tallied(EvaluatorConfig("fare", (SIZE, gate), metrics=tuple(Metric)), table)
    int8, dense = (Measured(name, accuracy=found, file=name) for name in ("int8", "dense"))
    return core.judge(gate, int8, Rivals(dense, dense))


def worse_on_sun() -> dict[str, Any]:
    table = trips()
    sun = table["columns"]["company"] == b"Sun"
    away = np.where(table["labels"] > 0.5, -0.3, 0.3)
    table["files"]["int8"] = np.where(
        sun[:, None], table["files"]["dense"] + away, table["files"]["dense"]
    ).astype(np.float32)
    return table


def test_a_gate_on_slices_fails_for_the_worst_and_names_it() -> None:
    gate = AccuracyGate(Metric.MAE, max_increase_fraction=0.01, slices=(COMPANY,))

    verdict = judged(gate, worse_on_sun())

    assert verdict.status is Status.FAIL
    assert verdict.gate == "mae increase <= 1% vs reference where company = 'Sun'"
    assert "1 of 2 slices do not pass." in verdict.reason
    assert core.describe(gate) == "mae increase <= 1% vs reference for each company"


def test_a_gate_on_slices_that_all_pass_names_the_tightest() -> None:
    gate = AccuracyGate(Metric.MAE, max_increase_fraction=5.0, slices=(COMPANY,))

    verdict = judged(gate, worse_on_sun())

    assert (verdict.status, verdict.gate.endswith("where company = 'Sun'")) == (Status.PASS, True)
    assert "It has the least room of 2 slices." in verdict.reason


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"min_rows": 10_000}, Status.NOT_COMPARABLE, "rows, fewer than 10000. 2 of 2 slices do not pass."),
        (
            {"min_rows": 10_000, "skip_small": True},
            Status.NOT_COMPARABLE,
            "Each of 2 slices has fewer than 10000 rows.",
        ),
        (
            {"slices": (Slice(values={"company": "Nobody"}),)},
            Status.NOT_COMPARABLE,
            "No row is in a slice of company = 'Nobody'.",
        ),
        (
            {"slices": (Slice(("hour",), max_values=2),)},
            Status.NOT_COMPARABLE,
            "There are more than 2 slices of each hour.",
        ),
        ({"relative_to": RelativeTo.BASELINE}, Status.PASS, "least room"),
    ],
)
def test_slices_that_cannot_be_judged_fail_closed(
    changes: dict[str, Any], status: Status, words: str
) -> None:
    gate = AccuracyGate(Metric.MAE, **{"max_increase_fraction": 5.0, "slices": (COMPANY,), **changes})

    verdict = judged(gate, worse_on_sun())

    assert (verdict.status, verdict.lets_through) == (status, status is Status.PASS)
    assert words in verdict.reason


def test_small_slices_are_left_out_where_told_and_counted() -> None:
    table = worse_on_sun()
    table["columns"]["company"][table["columns"]["company"] == b"Sun"] = b"Flash"
    table["columns"]["company"][:5] = b"Tiny"
    gate = AccuracyGate(Metric.MAE, max_value=5.0, slices=(COMPANY,), min_rows=20, skip_small=True)

    verdict = judged(gate, table)

    assert verdict.status is Status.PASS
    assert "1 with fewer than 20 rows were left out." in verdict.reason


def test_a_metric_without_a_second_class_is_not_comparable() -> None:
    table = trips()
    table["labels"][:] = 1.0

    for metric in (KerasMetric("AUC"), KerasMetric("Specificity"), KerasMetric("FallOut")):
        limit: Any = {"max_value": 1.0} if metric.class_name == "FallOut" else {"min_value": 0.0}
        verdict = judged(AccuracyGate(metric, **limit), table)
        assert (verdict.status, "not defined on these rows" in verdict.reason) == (
            Status.NOT_COMPARABLE,
            True,
        )


def test_a_drop_is_what_the_reference_has_more_with_its_bound_above_it() -> None:
    table = trips()
    right = table["labels"].copy()
    right[:30] = 1.0 - right[:30]  # 90 % right
    table["files"] = {"dense": table["labels"].astype(np.float32), "int8": right.astype(np.float32)}

    points = judged(AccuracyGate(Metric.ACCURACY, max_drop=0.2), table)
    share = judged(AccuracyGate(Metric.ACCURACY, max_drop_fraction=0.2), table)

    for verdict in (points, share):
        assert verdict.value == pytest.approx(0.1)
        assert 0.12 < verdict.bound < 0.14  # 0.1 + 1.65 sqrt(0.09 / 299)
        assert verdict.status is Status.PASS


def test_a_point_verdict_has_no_bound_and_a_bound_verdict_is_stricter() -> None:
    table = trips()
    change = judged(AccuracyGate(Metric.MAE, max_increase=1.0), table).value
    just = max(change, 0.0) + 1e-6

    bounded = judged(AccuracyGate(Metric.MAE, max_increase=just), table)
    point = judged(AccuracyGate(Metric.MAE, max_increase=just, use_bound=False), table)

    assert (bounded.status, point.status) == (Status.FAIL, Status.PASS)
    assert point.bound is None
    assert bounded.bound > just


# ------------------------------------------------------------------------------------------ what is wrong


def failure_of(predictions: Any, reference: Any = None, labels: Any = None) -> str:
    files = {"file": np.asarray(predictions, np.float32)}
    if reference is not None:
        files["dense"] = np.asarray(reference, np.float32)
    labels = np.zeros((len(files["file"]), 1)) if labels is None else labels
    tally = Tally(config_of(Metric.RMSE), list(files))
    for row in range(len(labels)):
        rows = slice(row, row + 1)
        tally.add(Batch({"": labels[rows]}, {n: {"": f[rows]} for n, f in files.items()}, {}, None))
    return tally.result().failure("file", reference="dense" if reference is not None else "")


@pytest.mark.parametrize(
    ("predictions", "reference", "words"),
    [
        ([[1.0], [math.nan], [math.inf]], None, "not finite on 2 of 3 rows"),
        ([[2.0], [2.0]], [[1.0], [2.0]], "the same output, [2.0], on all 2 rows"),
        ([[2.0], [2.0]], None, "the same output"),
        (np.zeros((2, 0)), None, "numbers for each row as output ''; got '' (1, 0)."),
        ([[2.0, 1.0], [2.5, 1.0]], None, "got shape (1, 2) for labels of shape (1, 1)."),
        ([[2.0], [2.0]], [[3.0], [3.0]], ""),
        ([[2.0], [2.5]], [[1.0], [2.0]], ""),
    ],
)
def test_useless_predictions_are_named(predictions: Any, reference: Any, words: str) -> None:
    reason = failure_of(predictions, reference)

    assert words in reason
    assert bool(reason) == bool(words)


def test_a_broken_file_has_no_values_and_spoils_no_other() -> None:
    table = trips()
    clean = tallied(EVERYTHING, table)
    table["files"]["rotten"] = np.full((NUM_ROWS, 1), np.nan, np.float32)
    found = tallied(EVERYTHING, table)

    assert found.value("rmse", "rotten") is None
    assert found.pair("rmse", "rotten", "dense") is None
    assert found.value("auc", "int8") == clean.value("auc", "int8")
    assert found.value("rmse", "int8") == pytest.approx(clean.value("rmse", "int8"), rel=1e-14)


@pytest.mark.parametrize(
    ("labels", "weights", "message"),
    [
        ([[1.0], [math.nan]], None, "Labels must be finite; got 1 of 2 rows with NaN or infinity."),
        ([[1.0], [0.0]], [1.0, -1.0], "Weights in 'weight' must be finite and >= 0; got 1 of 2 rows"),
        ([[1.0], [0.0]], [math.inf, 1.0], "Weights in 'weight' must be finite and >= 0; got 1 of 2 rows"),
    ],
)
def test_labels_and_weights_that_are_no_numbers_are_refused(labels: Any, weights: Any, message: str) -> None:
    tally = Tally(config_of(Metric.MAE, sample_weight_key="weight"), ["a"])
    tally.add(Batch({"": np.array(labels)}, {"a": {"": np.ones((2, 1), np.float32)}}, {}, weights))

    with pytest.raises(DataError, match=re.escape(message)):
        tally.result()


def test_zero_rows_and_zero_weights_have_no_value() -> None:
    empty = Tally(config_of(Metric.MAE), ["a"]).result()
    tally = Tally(config_of(Metric.MAE, sample_weight_key="weight"), ["a"])
    tally.add(Batch({"": np.ones((2, 1))}, {"a": {"": np.ones((2, 1), np.float32)}}, {}, np.zeros(2)))

    assert (empty.rows, empty.value("mae", "a")) == (0, None)
    assert tally.result().value("mae", "a") is None


def test_a_batch_without_what_it_needs_is_refused() -> None:
    tally = Tally(config_of(Metric.MAE), ["a"])
    with pytest.raises(DataError, match=re.escape("got none of ['']")):
        tally.add(Batch({"fare": np.ones((2, 1))}, {}, {}, None))
    with pytest.raises(DataError, match=re.escape("predictions of each file; got none of 'a'.")):
        tally.add(Batch({"": np.ones((2, 1))}, {}, {}, None))


def test_each_output_has_its_own_metrics() -> None:
    asked = (
        KerasMetric("MeanAbsoluteError", output="fare"),
        KerasMetric("BinaryAccuracy", output="tipped"),
    )
    config = EvaluatorConfig(gates=(SIZE,), metrics=asked, labels={"fare": "fare_usd", "tipped": "tip"})
    tally = Tally(config, ["a"])
    labels = {"fare": np.array([[1.0], [2.0]]), "tipped": np.array([[1.0], [0.0]])}
    found = {"fare": np.array([[1.5], [4.0]]), "tipped": np.array([[0.9], [0.8]])}
    tally.add(Batch(labels, {"a": found}, {}, None))
    result = tally.result()

    assert result.value("mean_absolute_error_fare", "a") == pytest.approx(1.25)
    assert result.value("binary_accuracy_tipped", "a") == pytest.approx(0.5)
    assert result.failure("a") == ""


# ------------------------------------------------------------------------------------------ formulas


def rows_of(metric: AnyMetric, predictions: Sequence[Any], labels: Sequence[Any], **how: Any) -> list[float]:
    return list(metrics.row_values(metric, np.array(labels, float), np.array(predictions, float), **how))


def test_row_values_by_hand() -> None:
    predictions, labels = [[1.0], [4.0], [0.0]], [[2.0], [2.0], [0.0]]

    assert rows_of(Metric.RMSE, predictions, labels) == [1.0, 4.0, 0.0]
    assert rows_of(Metric.MAE, predictions, labels) == [1.0, 2.0, 0.0]
    assert rows_of(Metric.MSE, [[1.0, 3.0]], [[2.0, 0.0]]) == [5.0]


def test_accuracy_takes_probabilities_scores_and_one_hot_labels() -> None:
    scores = [[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]]

    assert rows_of(Metric.ACCURACY, [[0.5], [0.4], [0.9]], [[1], [1], [0]]) == [1.0, 0.0, 0.0]
    assert rows_of(Metric.ACCURACY, scores, [[1], [2]]) == [1.0, 0.0]
    assert rows_of(Metric.ACCURACY, scores, [[0, 1, 0], [0, 0, 1]]) == [1.0, 0.0]
    assert rows_of(Metric.ACCURACY, [[0.2], [-0.2]], [[1], [0]], decision_threshold=0.0) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("metric", "predictions", "labels", "message"),
    [
        (Metric.RMSE, [[1.0, 2.0, 3.0]] * 2, [[1.0]] * 2, "got shape (2, 3) for labels of shape (2, 1)."),
        (
            KerasMetric("BinaryAccuracy"),
            [[0.5]],
            [[2.0]],
            "Labels must lie in [0, 1] for binary_accuracy; got",
        ),
        (
            KerasMetric("SparseCategoricalAccuracy"),
            [[0.5, 0.5]],
            [[2.0]],
            "whole class indices from 0 to 1 for sparse_categorical_accuracy; got 2.0.",
        ),
        (
            KerasMetric("CategoricalAccuracy"),
            [[0.5, 0.5]],
            [[1.0]],
            "got shape (1, 2) for labels of shape (1, 1)",
        ),
    ],
)
def test_labels_that_do_not_fit_the_metric_are_refused(
    metric: AnyMetric, predictions: Any, labels: Any, message: str
) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        rows_of(metric, predictions, labels)


def test_the_area_under_the_curve_counts_pairs_that_are_in_order() -> None:
    labels = np.array([[1.0], [1.0], [0.0], [0.0], [0.0]])
    found = np.array([[0.9], [0.35], [0.4], [0.1], [0.2]])
    table = {"labels": labels, "files": {"a": found}, "columns": {}}

    # 5 of the 6 pairs of a positive and a negative are in order.
    assert tallied(config_of(KerasMetric("AUC")), table).value("auc", "a") == pytest.approx(5 / 6)


# Recall goes from 0 to 1/2 at the first score and to 1 at the third. Precision: 0 where nothing is predicted,
# then 1, 1/2 and 2/3.
@pytest.mark.parametrize(("method", "area"), [("majoring", (1 + 2 / 3) / 2), ("minoring", (0 + 1 / 2) / 2)])
def test_bounds_of_the_area_below_precision_count_every_step(method: str, area: float) -> None:
    labels = np.array([[1.0], [1.0], [0.0], [0.0], [0.0]])
    found = np.array([[0.9], [0.35], [0.4], [0.1], [0.2]])
    metric = KerasMetric("AUCPrecisionRecall", {"summation_method": method})

    value = tallied(config_of(metric), {"labels": labels, "files": {"a": found}, "columns": {}}).value(
        "auc_precision_recall", "a"
    )

    assert value == pytest.approx(area)
