"""One evaluation from files and rows to an `Evaluation`: inspect, predict, time, judge, choose.

Every file is run in other processes than this one, so none can end the evaluation. Does not know TFX.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from tfx_mobile.common import candidates as candidate_files
from tfx_mobile.common import inspection
from tfx_mobile.common.errors import DataError
from tfx_mobile.size_latency_evaluator import core, latency
from tfx_mobile.size_latency_evaluator.accuracy import Accuracy
from tfx_mobile.size_latency_evaluator.config import EvaluatorConfig, LatencyGate
from tfx_mobile.size_latency_evaluator.core import Footprint, Measured, Rivals
from tfx_mobile.size_latency_evaluator.evaluation import (
    SCHEMA_VERSION,
    CandidateResult,
    Evaluation,
    ReportedMetric,
    SliceResult,
    WeightResult,
)

if TYPE_CHECKING:  # beam.py needs TensorFlow and Beam, this module does not
    from tfx_mobile.size_latency_evaluator.beam import Predictions

BASELINE = "baseline"
_LOGGER = logging.getLogger(__name__)


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
    predictions, useless = _predict(files, found.reference, config, predict)
    failures |= useless
    measured = _measured(files, failures, predictions.accuracy, found)
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
    shown = {choice.chosen, found.reference}
    results = tuple(_with_anatomy(r, files.contents) if r.name in shown else r for r in results)
    before = _with_anatomy(_result(measured[key], rivals, config), files.contents) if key else None
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
        baseline=before,
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
) -> tuple[Predictions, dict[str, str]]:
    """Returns what was predicted with the distinct files, and why some are of no use."""
    first = files.same_as.get(reference, "")
    order = sorted(files.paths, key=lambda name: name != first)
    found = predict({name: files.paths[name] for name in order})
    useless = dict(found.failures)
    for name in order:
        if reason := useless.get(name) or found.accuracy.failure(name, reference=first):
            useless[name] = reason
    return found, useless


def _measured(
    files: _Files,
    failures: Mapping[str, str],
    accuracy: Accuracy,
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
            accuracy=accuracy,
            file=first,
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

    def with_samples(
        samples: latency.Samples, failures: Mapping[str, str], footprints: Mapping[str, Footprint]
    ) -> dict[str, Measured]:
        first = {name: files.same_as.get(name, name) for name in measured}
        return {
            name: dataclasses.replace(
                m,
                samples=samples.get(first[name], ()),
                latency_failure=failures.get(first[name], ""),
                looks=len(config.latency.processes),
                footprint=footprints.get(first[name], Footprint()),
            )
            for name, m in measured.items()
        }

    def still_open(samples: latency.Samples) -> set[str]:
        now = with_samples(samples, {}, {})
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
    return with_samples(run.samples, run.failures, run.footprints), run.machine


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


def _metrics(found: Measured, config: EvaluatorConfig, slice_name: str = "") -> dict[str, float]:
    if found.failure or found.accuracy is None:
        return {}
    values = {m.value: found.accuracy.value(m.value, found.file, slice_name) for m in config.all_metrics()}
    return {name: value for name, value in values.items() if value is not None}


def _slices(found: Measured, config: EvaluatorConfig) -> tuple[SliceResult, ...]:
    accuracy = found.accuracy
    if found.failure or accuracy is None:
        return ()
    return tuple(
        SliceResult(name, accuracy.rows_of(name), _metrics(found, config, name))
        for name in accuracy.slice_names
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
        metrics=_metrics(found, config),
        slices=_slices(found, config),
        latency=latency.result(found, rivals),
        latency_failure=found.latency_failure,
    )


def _with_anatomy(found: CandidateResult, contents: Mapping[str, bytes]) -> CandidateResult:
    """Returns a result with what its file is made of: seconds for a file of some MB, so not for all files."""
    if found.failure or found.name not in contents:
        return found
    try:
        inside = inspection.inspect(contents[found.name])
    except DataError as error:
        _LOGGER.warning("What %r is made of is not in the evaluation: %s", found.name, error)
        return found
    weights = tuple(
        WeightResult(tensor.name, tensor.dtype, tensor.shape, tensor.size_bytes, tensor.zeros_fraction)
        for tensor in sorted(inside.tensors, key=lambda tensor: -tensor.size_bytes)
        if tensor.zeros_fraction is not None
    )
    breakdown = {part.kind: part.size_bytes for part in inside.by_kind()}
    return dataclasses.replace(found, weights=weights, breakdown_bytes=breakdown)
