"""One evaluation from files and rows to an `Evaluation`: inspect, predict, time, judge, choose.

Every file is run in other processes than this one, so none can end the evaluation. Does not know TFX.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.common import candidates as candidate_files
from tfx_mobile.common import inspection
from tfx_mobile.common.errors import DataError
from tfx_mobile.size_latency_evaluator import core, isolation, latency, prediction_worker
from tfx_mobile.size_latency_evaluator.accuracy import Accuracy, Batch, Tally
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

if TYPE_CHECKING:  # examples.py needs TensorFlow, this module does not
    from tfx_mobile.size_latency_evaluator.examples import Features, Rows

BASELINE = "baseline"
_LOGGER = logging.getLogger(__name__)
_PREDICTION_WORKER = "tfx_mobile.size_latency_evaluator.prediction_worker"


@dataclasses.dataclass(frozen=True)
class _Files:
    """The distinct files: equal bytes are measured once, under the first name that has them."""

    paths: dict[str, Path]
    contents: dict[str, bytes]
    same_as: dict[str, str]


def evaluate(
    folder: Path,
    config: EvaluatorConfig,
    read_rows: Callable[[Features], Rows],
    *,
    baseline: Path | None = None,
    first_release: bool = False,
) -> Evaluation:
    """Measures and judges all candidates of a folder.

    Args:
      folder: As `common/candidates.py` describes it.
      config: What is asked.
      read_rows: Returns the evaluation rows with the features that the files take.
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
    with tempfile.TemporaryDirectory(prefix="tfx_mobile_evaluate_") as work:
        rows, unusable = _prepare(files, found.reference, read_rows, config, Path(work))
        failures |= unusable
        accuracy, useless = _predict(files, failures, found.reference, rows, config, Path(work))
        failures |= useless
    measured = _measured(files, failures, accuracy, found)
    if key and key not in measured:
        measured[key] = Measured(key, failure=failures[key])
    measured, machine = _time(measured, files, rows, found.reference, key, first_release, config)
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
        eval_rows=len(rows.labels),
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


def _prepare(
    files: _Files,
    reference: str,
    read_rows: Callable[[Features], Rows],
    config: EvaluatorConfig,
    work: Path,
) -> tuple[Rows, dict[str, str]]:
    """Reads the rows as the files want them; returns also which distinct files cannot take them and why."""
    outcome = isolation.run_worker(
        _PREDICTION_WORKER,
        files.paths,
        {"task": "inspect"},
        folder=work,
        timeout_seconds=config.prediction_timeout_seconds,
    )
    failures = dict(outcome.failures)
    taken: dict[str, dict[str, tuple[Any, tuple[int, ...]]]] = {
        name: {
            feature: (np.bytes_ if dtype == "S" else np.dtype(dtype), tuple(shape))
            for feature, (dtype, shape) in value["inputs"].items()
        }
        for name, value in outcome.values.items()
    }
    features: dict[str, tuple[Any, tuple[int, ...]]] = {}
    for name in sorted(taken, key=lambda name: files.same_as.get(reference) != name):
        for feature, (dtype, shape) in taken[name].items():
            known_dtype, known_shape = features.get(feature, (dtype, shape))
            if known_shape != shape or (known_dtype is np.bytes_) != (dtype is np.bytes_):
                failures[name] = (
                    f"It takes feature {feature!r} as {np.dtype(dtype)} {list(shape)}, others as "
                    f"{np.dtype(known_dtype)} {list(known_shape)}."
                )
                break
            features[feature] = (
                dtype if dtype is np.bytes_ else np.result_type(known_dtype, dtype),
                shape,
            )
    rows = read_rows(features)
    for name, inputs in taken.items():
        if absent := sorted(set(inputs) - set(rows.columns)):
            failures.setdefault(
                name,
                f"It takes {', '.join(map(repr, absent))}, which no row of split {config.eval_split!r} has.",
            )
    return rows, failures


def _predict(
    files: _Files,
    failures: Mapping[str, str],
    reference: str,
    rows: Rows,
    config: EvaluatorConfig,
    work: Path,
) -> tuple[Accuracy | None, dict[str, str]]:
    """Returns the accuracy of the distinct files that predict, and why the others are of no use."""
    paths = {name: path for name, path in files.paths.items() if name not in failures}
    if not paths:
        return None, {}
    columns = work / "rows.npz"
    prediction_worker.save_columns(columns, rows.columns)
    outcome = isolation.run_worker(
        _PREDICTION_WORKER,
        paths,
        {"task": "predict", "rows": str(columns), "folder": str(work), "batch_size": config.batch_size},
        folder=work,
        timeout_seconds=config.prediction_timeout_seconds,
    )
    useless = dict(outcome.failures)
    # The worker numbers its files anew at each try, so the name of the array comes from its result.
    predictions: dict[str, npt.NDArray[np.float32]] = {
        name: np.load(path, allow_pickle=False) for name, path in outcome.values.items()
    }
    tally = Tally(config, list(predictions))
    tally.add(
        Batch(
            labels={"": rows.labels},
            predictions={name: {"": found} for name, found in predictions.items()},
            columns={name: rows.columns[name] for name in config.needed_features() if name in rows.columns},
            weights=_weights(rows, config.sample_weight_key),
        )
    )
    accuracy = tally.result()
    for name in predictions:
        if reason := accuracy.failure(name, reference=files.same_as.get(reference, "")):
            useless[name] = reason
    return accuracy, useless


def _weights(rows: Rows, key: str) -> npt.NDArray[np.float64] | None:
    if not key:
        return None
    if key not in rows.columns:
        raise DataError(f"sample_weight_key must be a feature that was read; got {key!r}.")
    return np.asarray(rows.columns[key], np.float64).reshape(len(rows.labels), -1)[:, 0]


def _measured(
    files: _Files,
    failures: Mapping[str, str],
    accuracy: Accuracy | None,
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
    rows: Rows,
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
        rows.columns,
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
