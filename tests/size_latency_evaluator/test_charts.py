"""The figures: where points, lines, bars and gates are."""

import dataclasses
import math
from typing import Any

import pytest
from tests.size_latency_evaluator import samples

from tfx_mobile.common.releases import Release
from tfx_mobile.size_latency_evaluator import charts
from tfx_mobile.size_latency_evaluator.config import AccuracyGate, Metric, RelativeTo, SizeGate
from tfx_mobile.size_latency_evaluator.evaluation import (
    Evaluation,
    ReportedMetric,
    WeightResult,
)

FULL = samples.full()


def front_of(evaluation: Evaluation) -> tuple[Any, list[str]]:
    drawn = charts.front(evaluation)
    assert drawn is not None
    return drawn


def points(figure: Any) -> dict[str, list[tuple[float, float]]]:
    """Returns the points by label, without those of the legend and the line."""
    found: dict[str, list[tuple[float, float]]] = {}
    for trace in figure["data"]:
        if "markers" in trace["mode"] and trace["x"] != [None]:
            found.setdefault(trace["name"], []).extend(zip(trace["x"], trace["y"], strict=True))
    return found


def lines_at(figure: Any) -> dict[str, float]:
    """Returns the gates' places by their axis."""
    shapes = figure["layout"]["shapes"]
    return {
        ("x" if shape["xref"] == "x" else "y"): shape["x0"] if shape["xref"] == "x" else shape["y0"]
        for shape in shapes
    }


def test_every_file_is_one_point_at_its_size_and_metric() -> None:
    found = points(front_of(FULL)[0])

    assert {name: len(at) for name, at in found.items()} == {
        "does not pass (12)": 12,
        "passes (2)": 2,
        "reference: dense float32": 1,
        "baseline: phones today": 1,
        "chosen": 1,
    }
    chosen = FULL.candidate(FULL.chosen)
    assert found["chosen"] == [(chosen.gz_size_bytes, (chosen.metrics or {})["rmse"])]
    assert found["reference: dense float32"] == [(224_800, 2.0)]
    assert FULL.baseline is not None
    assert found["baseline: phones today"][0][0] == FULL.baseline.gz_size_bytes


def test_a_rejected_point_says_why_under_the_pointer() -> None:
    figure, _ = front_of(FULL)
    texts = [
        text
        for trace in figure["data"]
        if trace["name"].startswith("does not pass") and trace["x"] != [None]
        for text in trace["hovertext"]
    ]

    assert len(texts) == 12
    assert all("fail: " in text for text in texts)


def test_gates_are_lines_at_their_limits() -> None:
    figure, far = front_of(FULL)

    # 5 % above the reference's 2.0; a quarter of its 224,800 bytes
    assert lines_at(figure) == {"y": pytest.approx(2.1), "x": pytest.approx(56_200)}
    assert far == []
    words = {note["text"]: note for note in figure["layout"]["annotations"]}
    # in a log axis an annotation stands at the exponent of ten
    assert words["gz size ratio &lt;= 0.25 vs reference"]["x"] == pytest.approx(math.log10(56_200))
    assert words["rmse increase &lt;= 5% vs reference"]["y"] == pytest.approx(2.1)


@pytest.mark.parametrize(
    ("gate", "at"),
    [
        (SizeGate(max_gz_bytes=30_000), {"x": 30_000.0}),
        (SizeGate(max_ratio=0.5, relative_to=RelativeTo.BASELINE), {"x": 17_600.0}),
        (AccuracyGate(Metric.RMSE, max_value=2.05), {"y": 2.05}),
        (
            AccuracyGate(Metric.RMSE, max_increase_fraction=0.0, relative_to=RelativeTo.BASELINE),
            {"y": 2.05 * (1 + 0.03 + 0.05 * 0.5**6)},
        ),
        (AccuracyGate(Metric.MAE, max_value=0.7), {}),
        (SizeGate(max_bytes=80_000), {}),
    ],
)
def test_a_gate_is_drawn_only_where_it_is_about_an_axis(gate: Any, at: dict[str, float]) -> None:
    figure, far = front_of(dataclasses.replace(FULL, gates=(gate,)))

    assert lines_at(figure) == pytest.approx(at)
    assert far == []


def test_a_drop_of_accuracy_is_a_line_below_the_reference() -> None:
    gates = (AccuracyGate(Metric.ACCURACY, max_drop=0.02),)
    found = [
        dataclasses.replace(one, metrics={"accuracy": 0.9 + 0.001 * place})
        for place, one in enumerate(FULL.candidates[:5])
    ]
    shown = dataclasses.replace(
        FULL,
        gates=gates,
        metrics=(ReportedMetric("accuracy", True),),
        candidates=tuple(found),
        baseline=None,
        chosen=found[1].name,
    )

    figure, far = front_of(shown)

    # 0.02 is five times as far off as the points are from each other
    assert (lines_at(figure), far) == ({}, ["accuracy drop <= 2 points vs reference"])
    near = dataclasses.replace(shown, gates=(AccuracyGate(Metric.ACCURACY, max_drop=0.003),))
    assert lines_at(front_of(near)[0]) == {"y": pytest.approx(0.897)}


def test_points_and_lines_are_inside_the_axes() -> None:
    figure, _ = front_of(FULL)
    low_x, high_x = figure["layout"]["xaxis"]["range"]
    low_y, high_y = figure["layout"]["yaxis"]["range"]

    places = [place for at in points(figure).values() for place in at]
    assert all(low_x < math.log10(x) < high_x and low_y < y < high_y for x, y in places)
    assert low_x < math.log10(lines_at(figure)["x"]) < high_x
    assert low_y < lines_at(figure)["y"] < high_y


def test_one_wild_value_makes_the_axis_logarithmic() -> None:
    wild = dataclasses.replace(FULL.candidates[3], metrics={"rmse": 5000.0})
    figure, _ = front_of(dataclasses.replace(FULL, candidates=(*FULL.candidates[:3], wild)))

    assert figure["layout"]["yaxis"]["type"] == "log"
    low, high = figure["layout"]["yaxis"]["range"]
    assert low < math.log10(2.0) < math.log10(5000.0) < high


@pytest.mark.parametrize(("higher", "wanted"), [(False, [10, 30]), (True, [10, 20])])
def test_the_front_joins_the_files_that_no_other_beats(higher: bool, wanted: list[int]) -> None:
    values = {10: 0.5, 20: 0.6, 30: 0.4, 40: 0.45}
    found = tuple(
        dataclasses.replace(FULL.candidates[0], name=str(size), gz_size_bytes=size, metrics={"rmse": value})
        for size, value in values.items()
    )
    shown = dataclasses.replace(
        FULL, candidates=found, baseline=None, gates=(), metrics=(ReportedMetric("rmse", higher),)
    )

    figure, _ = front_of(shown)

    line = next(trace for trace in figure["data"] if trace["name"] == "Pareto front")
    assert line["x"] == wanted
    assert line["y"] == [values[size] for size in wanted]


def test_differences_of_time_that_may_be_noise_do_not_span_all_colours() -> None:
    assert charts._colour_ends(100.0, 101.0)["cmax"] / charts._colour_ends(100.0, 101.0)["cmin"] == (
        pytest.approx(1.25)
    )
    assert charts._colour_ends(10.0, 30.0) == {"cmin": 10.0, "cmax": 30.0}


def test_without_times_points_have_no_colour_scale() -> None:
    untimed = tuple(dataclasses.replace(found, latency=None) for found in FULL.candidates)
    figure, _ = front_of(dataclasses.replace(FULL, candidates=untimed, baseline=None))

    assert "coloraxis" not in figure["layout"]
    assert sum(map(len, points(figure).values())) == 16


def test_size_ticks_are_few_and_round() -> None:
    figure, _ = front_of(FULL)

    assert figure["layout"]["xaxis"]["ticktext"] == ["20k", "50k", "100k", "200k"]


def test_each_process_of_a_file_is_a_line_a_box_and_a_dot() -> None:
    drawn = charts.latency(FULL)
    assert drawn is not None
    figure, count = drawn
    thin, thick, dots = figure["data"]

    assert count == 17
    assert len(dots["x"]) == charts.MAX_FILES * samples.PROCESSES
    first = FULL.candidate(FULL.chosen).latency
    assert first is not None
    # the chosen file is the first row; QUANTILES are 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99
    assert dots["x"][: samples.PROCESSES] == pytest.approx(
        [q[4] for q in first.quantiles_us_by_process], rel=1e-5
    )
    assert thin["x"][:3] == [
        pytest.approx(first.quantiles_us_by_process[0][1], rel=1e-5),
        pytest.approx(first.quantiles_us_by_process[0][7], rel=1e-5),
        None,
    ]
    assert thick["x"][:2] == pytest.approx(
        [first.quantiles_us_by_process[0][3], first.quantiles_us_by_process[0][5]], rel=1e-5
    )
    labels = [note["text"] for note in figure["layout"]["annotations"]]
    assert labels[:3] == [
        "<b>s75-dynamic_range</b> <i>chosen</i>",
        "<b>s0-float32</b> <i>reference</i>",
        "<b>baseline</b> <i>phones today</i>",
    ]
    # every row keeps to itself
    assert all(math.floor(y) == place // samples.PROCESSES for place, y in enumerate(dots["y"]))


def test_medians_alone_are_dots_alone() -> None:
    def bare(found: Any) -> Any:
        latency = found.latency and dataclasses.replace(found.latency, quantiles_us_by_process=())
        return dataclasses.replace(found, latency=latency)

    drawn = charts.latency(
        dataclasses.replace(FULL, candidates=tuple(map(bare, FULL.candidates)), baseline=None)
    )

    assert drawn is not None
    assert [trace["name"] for trace in drawn[0]["data"]] == ["median"]


def test_zeros_are_percent_of_the_largest_constants() -> None:
    chosen = FULL.candidate(FULL.chosen)
    drawn = charts.sparsity(chosen)
    assert drawn is not None
    figure, num_shown, count = drawn

    # 30,720 + 24,576 + 4,608 bytes are 99.3 % of all, with the 256 of the next one 99.8 %
    assert (num_shown, count) == (4, 6)
    assert figure["data"][1]["x"] == pytest.approx([72.0, 75.0, 78.0, 0.0])
    assert figure["layout"]["annotations"][0]["text"].startswith("<b>fares/hidden_1/MatMul</b>")
    assert "int8 256\u00d7120, 30,720 bytes" in figure["layout"]["annotations"][0]["text"]


def test_of_many_equal_constants_only_so_many_are_drawn() -> None:
    many = tuple(WeightResult(f"w{i}", "int8", (10,), 10, 0.5) for i in range(99))

    drawn = charts.sparsity(dataclasses.replace(FULL.candidates[0], weights=many))

    assert drawn is not None
    assert drawn[1:] == (charts.MAX_WEIGHTS, 99)


def test_the_bars_of_a_file_add_up_to_its_size() -> None:
    figure = charts.breakdown(FULL)
    assert figure is not None
    assert FULL.baseline is not None

    for place, found in enumerate((FULL.candidate(FULL.chosen), FULL.candidate("s0-float32"), FULL.baseline)):
        assert sum(trace["x"][place] for trace in figure["data"]) == found.size_bytes
    assert [trace["name"] for trace in figure["data"]][:2] == ["weights", "vocabularies"]


def test_the_history_ends_with_the_chosen_file() -> None:
    (size_name, sizes), (metric_name, values) = charts.history(FULL)

    assert (size_name, metric_name) == ("gzip bytes", "rmse")
    assert sizes["data"][0]["x"] == ["v1", "v2", "v3", "v4", "chosen now"]
    assert sizes["data"][0]["y"] == [57_000, 52_000, 47_000, 42_000, 23_200]
    assert values["data"][0]["y"][:4] == pytest.approx([2.17, 2.14, 2.11, 2.08])


def test_where_one_release_has_no_gzip_size_all_are_compared_by_raw_size() -> None:
    old = Release(5, "2026-05-11T08:00:00+00:00", 70_000, 0, {}, None)

    (name, sizes), _ = charts.history(dataclasses.replace(FULL, history=(old, *FULL.history)))

    assert name == "bytes"
    assert sizes["data"][0]["x"] == ["v1", "v2", "v3", "v4", "v5", "chosen now"]
    assert sizes["data"][0]["y"][-2:] == [70_000, 73_600]


def test_nothing_known_is_nothing_drawn() -> None:
    empty = samples.nothing_runs()

    assert charts.front(empty) is None
    assert charts.latency(empty) is None
    assert charts.breakdown(empty) is None
    assert charts.history(empty) == []
    assert charts.sparsity(empty.candidates[0]) is None
