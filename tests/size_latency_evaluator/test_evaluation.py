"""evaluation.json: read back as written, whatever names are in it."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tfx_mobile.common import jsonable
from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.size_latency_evaluator import evaluation as evaluations
from tfx_mobile.size_latency_evaluator.config import (
    SMALLEST,
    AccuracyGate,
    LatencyGate,
    Metric,
    RelativeTo,
    SizeGate,
)
from tfx_mobile.size_latency_evaluator.evaluation import (
    CandidateResult,
    Evaluation,
    Interval,
    LatencyResult,
    Machine,
    ReportedMetric,
    Status,
    Verdict,
)

HOSTILE = "s9-<img src=x onerror=alert(1)></script><script>alert(2)</script>\u2028&\"'"


def latency(p50_us: float, ratio: float) -> LatencyResult:
    return LatencyResult(
        p50_us, 1.2 * p50_us, 900.0, 90.0, 5000, (p50_us,) * 3, (ratio,) * 3, Interval(ratio, ratio, ratio)
    )


def candidate(name: str, gz_size_bytes: int, rmse: float, status: Status) -> CandidateResult:
    return CandidateResult(
        name=name,
        rung="s75",
        mode="int8",
        sparsity_fraction=0.75,
        size_bytes=3 * gz_size_bytes,
        gz_size_bytes=gz_size_bytes,
        metrics={"rmse": rmse, "mae": rmse / 2},
        latency=latency(5.0, 0.5),
        verdicts=(Verdict("gz size <= 900 bytes", status, f"About {name}.", 1.0, None, 2.0, 1.0),) * 3,
        passes=status is Status.PASS,
        score=-1.0,
    )


FAILED = CandidateResult("s0-broken", "s0", "int4", 0.0, failure="The converter refused.")
SAMPLE = Evaluation(
    schema_version=evaluations.SCHEMA_VERSION,
    blessed=True,
    chosen="s75-int8",
    reason="'s75-int8' is the smallest.",
    overridden=False,
    override=None,
    label_key="fare",
    eval_split="eval",
    eval_rows=5091,
    metrics=(ReportedMetric("rmse", False), ReportedMetric("mae", False)),
    gates=(
        AccuracyGate(Metric.RMSE, max_increase_fraction=0.01),
        SizeGate(max_ratio=0.5, relative_to=RelativeTo.BASELINE),
        LatencyGate(max_ratio=1.0),
    ),
    objective=SMALLEST,
    reference="s0-float32",
    first_release=False,
    baseline=candidate("baseline", 2000, 3.4, Status.PASS),
    candidates=(
        FAILED,
        candidate("s0-float32", 9000, 3.3, Status.PASS),
        candidate("s75-int8", 800, 3.31, Status.PASS),
        candidate(HOSTILE, 700, 4.0, Status.FAIL),
    ),
    machine=Machine("A CPU", 2, True, 0.5, 0.6, "Linux", "ai-edge-litert 2.3.0", 3, 7.5),
)


def write(folder: Path, value: Any) -> None:
    (folder / evaluations.EVALUATION_FILE).write_text(json.dumps(value))


def test_an_evaluation_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write(tmp_path, SAMPLE.to_dict())

    assert evaluations.load_evaluation(tmp_path) == SAMPLE
    assert evaluations.load_evaluation(str(tmp_path)) == SAMPLE


def test_a_folder_without_an_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=re.escape("An evaluation artifact must hold evaluation.json; got none")
    ):
        evaluations.load_evaluation(tmp_path)


@pytest.mark.parametrize("version", [1, 3, "2", None])
def test_another_schema_version_is_refused(tmp_path: Path, version: Any) -> None:
    write(tmp_path, SAMPLE.to_dict() | {"schema_version": version})

    with pytest.raises(DataError, match=re.escape(f"must have schema_version 2; got {version!r} in")):
        evaluations.load_evaluation(tmp_path)


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    write(tmp_path, SAMPLE.to_dict() | {"blest": True})

    with pytest.raises(ConfigError, match=re.escape("Evaluation has no setting 'blest'")):
        evaluations.load_evaluation(tmp_path)


def test_the_table_has_the_chosen_first_and_the_broken_last() -> None:
    rows = evaluations.summary_rows(SAMPLE)

    assert [row.name for row in rows] == ["s75-int8", "s0-float32", HOSTILE, "s0-broken"]
    assert [row.chosen for row in rows] == [True, False, False, False]
    assert rows[0].verdict == "passes"
    assert rows[2].verdict == "; ".join(["fail: gz size <= 900 bytes"] * 3)
    assert rows[3].verdict == "failed: The converter refused."
    assert (rows[3].latency_p50_us, rows[3].ratio, rows[3].metrics) == (None, None, {})
    assert rows[0].ratio == Interval(0.5, 0.5, 0.5)


def test_figures_are_integers_and_strings_only() -> None:
    text = evaluations.figures(SAMPLE)
    found = json.loads(text, parse_float=lambda number: pytest.fail(f"a float: {number}"))

    assert text == jsonable.dumps(found)
    assert found == {
        "candidate": "s75-int8",
        "eval_rows": 5091,
        "gz_size_bytes": 800,
        "latency_p50_ns": 5000,
        "metrics": {"mae_ppm": 1655000, "rmse_ppm": 3310000},
        "mode": "int8",
        "rung": "s75",
        "size_bytes": 2400,
    }


def test_nothing_chosen_has_no_figures() -> None:
    assert evaluations.figures(dataclasses.replace(SAMPLE, chosen="")) == "{}"


def test_the_verdict_is_one_line_and_short() -> None:
    long = dataclasses.replace(SAMPLE, blessed=False, reason="why\nso " * 200)

    line = evaluations.verdict_line(long)

    assert line.startswith("NOT_BLESSED: why so why so")
    assert "\n" not in line
    assert len(line) == 500


def test_an_unknown_candidate_is_refused_by_name() -> None:
    with pytest.raises(
        DataError, match=re.escape("The evaluation must hold candidate 'x'; got s0-broken, s0-")
    ):
        SAMPLE.candidate("x")
