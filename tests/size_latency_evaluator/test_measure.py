"""A whole evaluation on real files: broken ones are named, planted gates fail, the rest is chosen from."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common.candidates import Candidate, CandidateSet
from tfx_mobile.common.interpreter import TFLiteModel
from tfx_mobile.size_latency_evaluator import measure
from tfx_mobile.size_latency_evaluator.config import (
    AccuracyGate,
    EvaluatorConfig,
    Gate,
    LatencyConfig,
    LatencyGate,
    Metric,
    Override,
    RelativeTo,
    SizeGate,
    Slice,
)
from tfx_mobile.size_latency_evaluator.evaluation import Evaluation, Status

pytestmark = pytest.mark.pipeline

QUICK = LatencyConfig(processes=(2,), seconds_per_process=0.05, min_calls=7, num_rows=3)
EASY = SizeGate(max_bytes=10**9)


def predictor(tiny: Any, config: EvaluatorConfig, folder: Path) -> Callable[[Mapping[str, Path]], Any]:
    import apache_beam

    from tfx_mobile.size_latency_evaluator import beam

    return lambda paths: beam.predict(
        paths,
        config,
        patterns=[str(tiny.examples / "Split-eval" / "*")],
        missing={},
        make_pipeline=lambda: apache_beam.Pipeline(argv=[]),
        folder=str(folder),
    )


def evaluate(tiny: Any, folder: Path, names: list[str], *gates: Gate, **settings: Any) -> Evaluation:
    evaluated = {"baseline": None, "first_release": False, "override": None, **settings}
    config = EvaluatorConfig("fare", gates, latency=QUICK, override=evaluated["override"], batch_size=64)
    return measure.evaluate(
        tiny.candidate_folder(folder / "candidates", names),
        config,
        predictor(tiny, config, folder),
        baseline=evaluated["baseline"],
        first_release=evaluated["first_release"],
    )


@pytest.fixture(scope="module")
def all_files(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    # int8 clips what its few calibration rows did not show, so its paired bound is wide.
    gates = (AccuracyGate(Metric.RMSE, max_increase_fraction=1.0), SizeGate(max_ratio=0.5))
    folder = tmp_path_factory.mktemp("all")
    return evaluate(tiny, folder, sorted(tiny.contents), *gates)


def test_each_broken_file_is_listed_with_its_own_reason(all_files: Evaluation) -> None:
    failures = {found.name: found.failure for found in all_files.candidates if found.failure}

    assert sorted(failures) == ["s0-constant", "s0-crash", "s0-nan", "s0-noise", "s0-stranger"]
    assert "the same output" in failures["s0-constant"]
    assert failures["s0-nan"] == "Its outputs are not finite on 400 of 400 rows."
    assert "not a valid Flatbuffer" in failures["s0-noise"]
    assert failures["s0-stranger"] == "It takes 'surge', which no row of split 'eval' has."
    for name in failures:
        found = all_files.candidate(name)
        assert not found.passes
        assert found.metrics == {}
        assert found.latency is None
        assert {verdict.status for verdict in found.verdicts} == {Status.NOT_COMPARABLE}


def test_the_chosen_file_is_the_smallest_that_passes(all_files: Evaluation) -> None:
    passing = [found for found in all_files.candidates if found.passes]

    assert all_files.blessed
    assert {found.name for found in passing} == {"s0-dynamic", "s0-int8"}
    assert all_files.chosen == min(passing, key=lambda found: found.gz_size_bytes).name


def test_metrics_are_those_of_the_file_run_row_by_row(tiny: Any, all_files: Evaluation) -> None:
    model = TFLiteModel(tiny.contents["s0-float32"])
    single = [
        model.predict({name: column[row : row + 1] for name, column in tiny.columns.items()})[0, 0]
        for row in range(len(tiny.labels))
    ]
    errors = np.asarray(single, dtype=np.float64) - tiny.labels

    metrics = all_files.candidate("s0-float32").metrics

    assert metrics is not None
    # One row at a time and in batches the kernels add up in another order: float32, 7 digits.
    assert metrics["rmse"] == pytest.approx(float(np.sqrt(np.mean(errors**2))), rel=1e-5)
    assert metrics["mae"] == pytest.approx(float(np.mean(np.abs(errors))), rel=1e-5)


def test_slices_are_reported_with_their_rows_and_judged(tiny: Any, tmp_path: Path) -> None:
    company = Slice(("company",))
    gate = AccuracyGate(Metric.RMSE, max_increase_fraction=0.1, slices=(company,))

    found = evaluate(tiny, tmp_path, ["s0-float32", "s0-off"], EASY, gate)

    dense, off = found.candidates
    names = ["company = 'Blue'", "company = 'Flash'", "company = 'Sun'"]
    assert [one.name for one in dense.slices] == names
    assert sum(one.rows for one in dense.slices) == 400
    assert dense.metrics is not None
    squares = sum(one.rows * one.metrics["rmse"] ** 2 for one in dense.slices)
    assert squares / 400 == pytest.approx(dense.metrics["rmse"] ** 2)
    assert [c.verdicts[1].status for c in (dense, off)] == [Status.PASS, Status.FAIL]
    assert "rmse increase <= 10% vs reference where company = '" in found.candidate("s0-off").verdicts[1].gate


PLANTED: list[Gate] = [
    AccuracyGate(Metric.RMSE, max_value=0.01),
    AccuracyGate(Metric.MSE, max_value=0.01),
    AccuracyGate(Metric.MAE, max_value=0.01),
    SizeGate(max_bytes=10),
    SizeGate(max_gz_bytes=10),
    SizeGate(max_ratio=0.01),
    LatencyGate(max_p50_us=1e-6),
    LatencyGate(max_ratio=1e-6),
]


def test_a_planted_gate_of_each_kind_fails_every_candidate(tiny: Any, tmp_path: Path) -> None:
    unanswerable = LatencyGate(max_ratio=100.0, relative_to=RelativeTo.BASELINE)

    found = evaluate(tiny, tmp_path, ["s0-float32", "s0-int8"], EASY, *PLANTED, unanswerable)

    assert not found.blessed
    assert found.chosen == "s0-int8"
    assert "fails 'gz size <= 10 bytes'" in found.reason
    assert "is not comparable at 'latency ratio <= 100 vs baseline'" in found.reason
    expected = [Status.PASS, *[Status.FAIL] * len(PLANTED), Status.NOT_COMPARABLE]
    for candidate in found.candidates:
        assert [verdict.status for verdict in candidate.verdicts] == expected


def test_a_file_that_predicts_worse_fails_the_relative_gate(tiny: Any, tmp_path: Path) -> None:
    gate = AccuracyGate(Metric.RMSE, max_increase_fraction=0.1)

    found = evaluate(tiny, tmp_path, ["s0-float32", "s0-off"], gate)

    assert found.chosen == "s0-float32"
    assert [c.verdicts[0].status for c in found.candidates] == [Status.PASS, Status.FAIL]


def test_a_baseline_is_measured_and_compared_with(tiny: Any, tmp_path: Path) -> None:
    baseline = tmp_path / "tflite"
    baseline.write_bytes(tiny.contents["s0-off"])
    gates: list[Gate] = [
        AccuracyGate(Metric.MAE, max_increase_fraction=0.0, relative_to=RelativeTo.BASELINE),
        SizeGate(max_ratio=0.5, relative_to=RelativeTo.BASELINE),
        LatencyGate(max_ratio=100.0, relative_to=RelativeTo.BASELINE),
        EASY,
    ]

    found = evaluate(tiny, tmp_path, ["s0-float32", "s0-int8"], *gates, baseline=baseline)

    assert (found.blessed, found.chosen) == (True, "s0-int8")
    assert found.baseline is not None
    assert found.baseline.sha256 == hashlib.sha256(tiny.contents["s0-off"]).hexdigest()
    assert found.baseline.metrics is not None
    chosen = found.candidate("s0-int8")
    assert chosen.latency is not None
    assert chosen.latency.baseline_ratio is not None


@pytest.mark.parametrize("content", [None, "s0-crash", "s0-stranger"])
def test_a_baseline_that_cannot_be_run_fails_its_gates_and_nothing_else(
    tiny: Any, tmp_path: Path, content: str | None
) -> None:
    baseline = tmp_path / "tflite"
    if content:
        baseline.write_bytes(tiny.contents[content])
    gate = SizeGate(max_ratio=1.0, relative_to=RelativeTo.BASELINE)

    found = evaluate(tiny, tmp_path, ["s0-float32"], EASY, gate, baseline=baseline)

    assert not found.blessed
    assert found.baseline is not None
    assert found.baseline.failure
    assert [v.status for v in found.candidates[0].verdicts] == [Status.PASS, Status.NOT_COMPARABLE]


def test_a_first_release_passes_without_a_baseline(tiny: Any, tmp_path: Path) -> None:
    gate = LatencyGate(max_ratio=1.0, relative_to=RelativeTo.BASELINE)

    found = evaluate(tiny, tmp_path, ["s0-float32"], EASY, gate, first_release=True)

    assert (found.blessed, found.first_release, found.baseline) == (True, True, None)


def test_the_same_bytes_under_two_names_are_equal_in_everything(tiny: Any, tmp_path: Path) -> None:
    tiny = dataclasses.replace(tiny, contents={**tiny.contents, "s0-twin": tiny.contents["s0-float32"]})
    gates = (LatencyGate(max_ratio=1.0), AccuracyGate(Metric.RMSE, max_increase_fraction=0.0))

    found = evaluate(tiny, tmp_path, ["s0-twin", "s0-float32"], *gates)

    twin, dense = found.candidates
    assert twin.passes
    assert dense.passes
    assert (twin.metrics, twin.latency) == (dense.metrics, dense.latency)


@pytest.mark.parametrize("reference", ["s0-crash", "no-such-candidate"])
def test_without_a_reference_that_runs_relative_gates_let_nothing_through(
    tiny: Any, tmp_path: Path, reference: str
) -> None:
    names = ["s0-int8", "s0-crash", "s0-noise"]
    folder = tiny.candidate_folder(tmp_path / "candidates", names, reference=reference)
    gates = (SizeGate(max_ratio=100.0), LatencyGate(max_ratio=100.0))

    config = EvaluatorConfig("fare", gates, latency=QUICK)

    found = measure.evaluate(folder, config, predictor(tiny, config, tmp_path))

    assert (found.blessed, found.chosen) == (False, "s0-int8")
    assert "is not comparable at" in found.reason


def test_no_file_at_all_is_not_blessed_and_an_override_does_not_help(tiny: Any, tmp_path: Path) -> None:
    failed = Candidate("s0-int8", "s0", "int8", 0.0, failure="The converter refused op 'X'.")
    CandidateSet((failed,), "s0-float32", True, None).write(tmp_path)
    config = EvaluatorConfig("fare", (EASY,), latency=QUICK, override=Override("Ada", "now", "2026-01-31"))

    found = measure.evaluate(tmp_path, config, predictor(tiny, config, tmp_path))

    assert (found.blessed, found.chosen, found.overridden) == (False, "", False)
    assert "The converter refused op 'X'." in found.candidates[0].failure


def test_an_override_is_recorded_in_the_file(tiny: Any, tmp_path: Path) -> None:
    override = Override("Ada", "The shop opens.", "2026-01-31")

    found = evaluate(tiny, tmp_path, ["s0-float32"], SizeGate(max_bytes=10), override=override)
    written = json.loads(found.to_json())

    assert (found.blessed, found.overridden) == (True, True)
    assert written["override"] == {"by": "Ada", "date": "2026-01-31", "reason": "The shop opens."}
    assert Evaluation.from_json(found.to_json()) == found
