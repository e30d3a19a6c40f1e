"""One evaluation from files and rows to an `Evaluation`: inspect, predict, time, judge, choose.

Every file is run in other processes than this one, so none can end the evaluation. Does not know TFX.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.common import candidates as candidate_files
from tfx_mobile.size_latency_evaluator import core, latency
from tfx_mobile.size_latency_evaluator.config import EvaluatorConfig, LatencyGate, Metric
from tfx_mobile.size_latency_evaluator.core import Measured, Rivals
from tfx_mobile.size_latency_evaluator.evaluation import (
    SCHEMA_VERSION,
    CandidateResult,
    Evaluation,
    Interval,
    LatencyResult,
    ReportedMetric,
)

if TYPE_CHECKING:  # beam.py needs TensorFlow and Beam, this module does not
    from tfx_mobile.size_latency_evaluator.beam import Predictions

BASELINE = "baseline"


@dataclasses.dataclass(frozen=True)
class _Files:
    """The distinct files: equal bytes are measured once, under the first name that has them."""

    paths: dict[str, Path]
    contents: dict[str, bytes]
    same_as: dict[str, str]


def evaluate(
    folder: Path,
    config: EvaluatorConfig,
    predict: Callable[[Mapping[str, Path]], Predictions],
    *,
    baseline: Path | None = None,
    first_release: bool = False,
) -> Evaluation:
    """Measures and judges all candidates of a folder.

    Args:
      folder: As `common/candidates.py` describes it.
      config: What is asked.
      predict: Returns what the files say about the evaluation rows; the first file is right where others
        take a feature differently.
      baseline: The file phones run today; it may be missing or broken, which fails the gates that need it.
      first_release: Nothing was released yet, so that gates against the baseline are waived.

    Raises:
      DataError: The candidates folder or the rows cannot be used at all.
    """
    found = candidate_files.read(folder)
    paths = {c.name: candidate_files.model_path(folder, c.name) for c in found.usable()}
    failures = {c.name: f"The quantizer has no file: {c.failure}" for c in found.candidates if c.failure}
    if baseline is not None:
        key = _baseline_key(paths)
        if baseline.is_file():
            paths[key] = baseline
        else:
            failures[key] = f"There is no file at {baseline}."
    else:
        key = ""
    files = _distinct(paths)
    predictions, losses, useless = _predict(files, found.reference, config, predict)
    failures |= useless
    measured = _measured(files, failures, losses, found)
    if key and key not in measured:
        measured[key] = Measured(key, failure=failures[key])
    measured, machine = _time(
        measured, files, predictions.columns, found.reference, key, first_release, config
    )
    rivals = _rivals(measured, found.reference, key, first_release)
    results = tuple(_judged(measured[c.name], c, rivals, config) for c in found.candidates)
    choice = core.choose(
        results, reference=found.reference, objective=config.objective, override=config.override
    )
    return Evaluation(
        schema_version=SCHEMA_VERSION,
        blessed=choice.blessed,
        chosen=choice.chosen,
        reason=choice.reason,
        overridden=choice.overridden,
        override=config.override,
        label_key=config.label_key,
        eval_split=config.eval_split,
        eval_rows=predictions.rows,
        metrics=tuple(ReportedMetric(m.value, m.higher_is_better) for m in config.all_metrics()),
        gates=config.gates,
        objective=config.objective,
        reference=found.reference,
        first_release=first_release,
        baseline=_result(measured[key], rivals, config) if key else None,
        candidates=results,
        machine=machine,
    )


def _baseline_key(names: Mapping[str, Path]) -> str:
    key = BASELINE
    while key in names:
        key = f"({key})"
    return key


def _distinct(paths: Mapping[str, Path]) -> _Files:
    contents = {name: path.read_bytes() for name, path in paths.items()}
    first: dict[bytes, str] = {}
    same_as = {name: first.setdefault(content, name) for name, content in contents.items()}
    return _Files({name: paths[name] for name in first.values()}, contents, same_as)


def _predict(
    files: _Files,
    reference: str,
    config: EvaluatorConfig,
    predict: Callable[[Mapping[str, Path]], Predictions],
) -> tuple[Predictions, dict[str, dict[Metric, Any]], dict[str, str]]:
    """Returns what was predicted, the losses of each distinct file, and why the others have none."""
    first = files.same_as.get(reference, "")
    order = sorted(files.paths, key=lambda name: name != first)
    found = predict({name: files.paths[name] for name in order})
    useless = dict(found.failures)
    for name in files.paths:
        if reason := useless.get(name) or found.accuracy.failure(name, reference=first):
            useless[name] = reason
    return found, {name: found.accuracy.losses(name) for name in order if name not in useless}, useless


def _measured(
    files: _Files,
    failures: Mapping[str, str],
    losses: Mapping[str, dict[Metric, Any]],
    found: candidate_files.CandidateSet,
) -> dict[str, Measured]:
    measured = {c.name: Measured(c.name, failure=failures[c.name]) for c in found.candidates if c.failure}
    for name, content in files.contents.items():
        first = files.same_as[name]
        measured[name] = Measured(
            name=name,
            failure=failures.get(first, ""),
            sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=len(content),
            gz_size_bytes=candidate_files.gz_size_bytes(content),
            losses=losses.get(first, {}),
        )
    return measured


def _rivals(measured: Mapping[str, Measured], reference: str, key: str, first_release: bool) -> Rivals:
    return Rivals(measured.get(reference), measured.get(key) if key else None, first_release)


def _time(
    measured: dict[str, Measured],
    files: _Files,
    columns: Mapping[str, npt.NDArray[Any]],
    reference: str,
    key: str,
    first_release: bool,
    config: EvaluatorConfig,
) -> tuple[dict[str, Measured], Any]:
    """Returns the same with latency, and the machine it was measured on."""

    def with_samples(samples: latency.Samples, failures: Mapping[str, str]) -> dict[str, Measured]:
        return {
            name: dataclasses.replace(
                m,
                samples=samples.get(files.same_as.get(name, name), ()),
                latency_failure=failures.get(files.same_as.get(name, name), ""),
            )
            for name, m in measured.items()
        }

    def still_open(samples: latency.Samples) -> set[str]:
        now = with_samples(samples, {})
        rivals = _rivals(now, reference, key, first_release)
        return {
            files.same_as[name]
            for name, m in now.items()
            if name != key and not m.failure and _is_open(m, rivals, config)
        }

    runnable = {name: path for name, path in files.paths.items() if not measured[name].failure}
    run = latency.measure(
        runnable,
        columns,
        config.latency,
        always=[files.same_as[name] for name in (reference, key) if name in files.same_as],
        still_open=still_open,
    )
    return with_samples(run.samples, run.failures), run.machine


def _is_open(found: Measured, rivals: Rivals, config: EvaluatorConfig) -> bool:
    """Returns whether more processes could let the candidate through: no other gate stops it already."""
    others = [gate for gate in config.gates if not isinstance(gate, LatencyGate)]
    return core.is_latency_open(config.gates, found, rivals) and all(
        core.judge(gate, found, rivals).lets_through for gate in others
    )


def _judged(
    found: Measured,
    candidate: candidate_files.Candidate,
    rivals: Rivals,
    config: EvaluatorConfig,
) -> CandidateResult:
    verdicts = tuple(core.judge(gate, found, rivals) for gate in config.gates)
    passes = core.passes_all(found, verdicts)
    return dataclasses.replace(
        _result(found, rivals, config),
        rung=candidate.rung,
        mode=candidate.mode,
        sparsity_fraction=candidate.sparsity_fraction,
        verdicts=verdicts,
        passes=passes,
        excluded="" if found.failure else core.exclusion(found, rivals.reference),
        score=core.score(config.objective, found, rivals.reference),
    )


def _result(found: Measured, rivals: Rivals, config: EvaluatorConfig) -> CandidateResult:
    return CandidateResult(
        name=found.name,
        rung="",
        mode="",
        sparsity_fraction=0.0,
        failure=found.failure,
        sha256=found.sha256,
        size_bytes=found.size_bytes,
        gz_size_bytes=found.gz_size_bytes,
        metrics={
            m.value: core.metric_value(m, found.losses[m]) for m in config.all_metrics() if m in found.losses
        },
        latency=_latency(found, rivals),
        latency_failure=found.latency_failure,
    )


def _latency(found: Measured, rivals: Rivals) -> LatencyResult | None:
    middle = core.interval_of_processes([sample.p50_ns for sample in found.samples])
    high = core.interval_of_processes([sample.p90_ns for sample in found.samples])
    if middle is None or high is None:
        return None
    return LatencyResult(
        p50_us=middle.estimate / 1e3,
        p90_us=high.estimate / 1e3,
        init_us=float(np.median([sample.init_ns for sample in found.samples])) / 1e3,
        first_call_us=float(np.median([sample.first_call_ns for sample in found.samples])) / 1e3,
        calls=sum(sample.calls for sample in found.samples),
        p50_us_by_process=tuple(sample.p50_ns / 1e3 for sample in found.samples),
        ratios_by_process=core.process_ratios(found, rivals.reference) if rivals.reference else (),
        ratio=_ratio(found, rivals.reference),
        baseline_ratio=_ratio(found, rivals.baseline),
    )


def _ratio(found: Measured, other: Measured | None) -> Interval | None:
    return core.interval_of_processes(core.process_ratios(found, other)) if other is not None else None
