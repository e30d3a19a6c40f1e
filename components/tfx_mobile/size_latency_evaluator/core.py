"""The arithmetic of an evaluation: losses, bounds, gate verdicts and the choice. Arrays in, values out.

Everything fails closed: what is missing, not finite, or not decided is never a pass. Does not read files,
run models or measure time.

Sources: non-inferiority by a one-sided bound on a paired difference, Blackwelder (1982), "Proving the null
hypothesis in clinical trials", Controlled Clinical Trials 3; the bound of a ratio of means, Fieller (1954),
"Some problems in interval estimation", J. R. Stat. Soc. B 16.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from tfx_mobile.common.errors import DataError
from tfx_mobile.size_latency_evaluator.config import (
    AccuracyGate,
    Gate,
    LatencyGate,
    Metric,
    Objective,
    Override,
    RelativeTo,
    SizeGate,
    needs_baseline,
)
from tfx_mobile.size_latency_evaluator.evaluation import CandidateResult, Interval, Status, Verdict

FloatArray = npt.NDArray[np.float64]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class ProcessSample:
    """What one fresh process measured of one file.

    Attributes:
      process: Number of the process; equal for samples that were interleaved with each other.
      p50_ns: Median of its timed calls.
      p90_ns: 90th percentile.
      init_ns: Loading the file and allocating tensors.
      first_call_ns: The first call.
      calls: How many were timed.
    """

    process: int
    p50_ns: float
    p90_ns: float
    init_ns: float
    first_call_ns: float
    calls: int


@dataclass(frozen=True, eq=False)
class Losses:
    """Stands in for the losses of all rows: a linear combination of those that a tally has moments of."""

    tally: Any
    coefficients: FloatArray

    def __len__(self) -> int:
        return int(self.tally.count)

    def __sub__(self, other: "Losses") -> "Losses":
        return Losses(self.tally, self.coefficients - other.coefficients)

    def __rmul__(self, factor: float) -> "Losses":
        return Losses(self.tally, factor * self.coefficients)

    def mean(self, **_: Any) -> float:
        used = self.coefficients != 0
        return float(self.coefficients[used] @ self.tally.mean[used])

    def std(self, **_: Any) -> float:
        return math.sqrt(max(self.covariance(self), 0.0))

    def covariance(self, other: "Losses") -> float:
        rows, columns = np.flatnonzero(self.coefficients), np.flatnonzero(other.coefficients)
        cross = self.tally.cross[np.ix_(rows, columns)]
        return float(self.coefficients[rows] @ cross @ other.coefficients[columns]) / (len(self) - 1)


@dataclass(frozen=True)
class Measured:
    """What was measured of one file, before any judgement.

    Attributes:
      name: Of the candidate.
      failure: Why it cannot be run or predicts nothing of use; empty when it can.
      sha256: Of the file.
      size_bytes: Of the file.
      gz_size_bytes: After gzip -9.
      losses: By metric, shape (rows,), >= 0; the rows in the same order for every file.
      samples: Of latency, one per process that measured it.
      latency_failure: Why there are no samples.
    """

    name: str
    failure: str = ""
    sha256: str = ""
    size_bytes: int = 0
    gz_size_bytes: int = 0
    losses: Mapping[Metric, FloatArray] = field(default_factory=dict)
    samples: tuple[ProcessSample, ...] = ()
    latency_failure: str = ""


@dataclass(frozen=True)
class Rivals:
    """What relative gates compare with.

    Attributes:
      reference: The dense float32 file, or None when there is none.
      baseline: What phones run today, or None.
      first_release: There is no baseline because nothing was released yet, so its gates are waived.
    """

    reference: Measured | None
    baseline: Measured | None = None
    first_release: bool = False


@dataclass(frozen=True)
class Choice:
    """What goes out.

    Attributes:
      chosen: Name of the candidate; empty when none can be run.
      blessed: Whether it may go out.
      overridden: Blessed by an override.
      reason: One sentence.
    """

    chosen: str
    blessed: bool
    overridden: bool
    reason: str


# ---------------------------------------------------------------------------------------------- predictions


def row_losses(
    metric: Metric,
    predictions: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    *,
    decision_threshold: float = 0.5,
) -> FloatArray:
    """Returns one loss per row: squared error, absolute error, or 1 for a wrong class.

    Args:
      metric: RMSE and MSE have the same loss. Several outputs of a row are averaged.
      predictions: Shape (rows, outputs), finite.
      labels: Shape (rows, outputs), or (rows, 1) class indices for accuracy with several outputs.
      decision_threshold: For accuracy with one output: from here on it says class 1.

    Returns:
      Shape (rows,), float64, >= 0.

    Raises:
      DataError: The shapes do not fit.
    """
    found = np.asarray(predictions, dtype=np.float64)
    wanted = np.asarray(labels, dtype=np.float64)
    classes = metric is Metric.ACCURACY and found.shape[1] > 1
    if len(found) != len(wanted) or (
        wanted.shape[1] != found.shape[1] and not (classes and wanted.shape[1] == 1)
    ):
        raise DataError(
            f"Predictions must fit the labels; got shape {found.shape} for labels of shape {wanted.shape}."
        )
    if metric is Metric.ACCURACY:
        if classes:
            truth = wanted.argmax(axis=1) if wanted.shape[1] > 1 else wanted[:, 0]
            return np.asarray(found.argmax(axis=1) != truth, dtype=np.float64)
        said, true = found[:, 0] >= decision_threshold, wanted[:, 0] >= 0.5
        return np.asarray(said != true, dtype=np.float64)
    difference = found - wanted
    each = np.abs(difference) if metric is Metric.MAE else difference**2
    return np.asarray(each.mean(axis=1), dtype=np.float64)


def metric_value(metric: Metric, losses: FloatArray) -> float:
    """Returns the metric of these per-row losses; NaN for no rows."""
    if not len(losses):
        return math.nan
    mean = float(np.mean(losses))
    if metric is Metric.RMSE:
        return math.sqrt(mean) if mean >= 0 else math.nan
    return 1.0 - mean if metric is Metric.ACCURACY else mean


def prediction_failure(predictions: npt.NDArray[Any], *, reference: npt.NDArray[Any] | None) -> str:
    """Returns why these predictions are of no use, in one sentence; empty when they are.

    Args:
      predictions: Shape (rows, outputs).
      reference: The reference's predictions, or None when it has none. A constant output is refused unless
        the reference is constant too.
    """
    if predictions.size == 0:
        return "It predicts nothing: no outputs."
    wrong = int(np.count_nonzero(~np.isfinite(predictions).all(axis=1)))
    if wrong:
        return f"Its outputs are not finite on {wrong} of {len(predictions)} rows."
    if _is_constant(predictions) and not (reference is not None and _is_constant(reference)):
        return f"It returns the same output, {predictions[0].tolist()}, on all {len(predictions)} rows."
    return ""


def _is_constant(predictions: npt.NDArray[Any]) -> bool:
    return len(predictions) > 1 and bool(np.all(predictions == predictions[0]))


# ---------------------------------------------------------------------------------------------- statistics


def upper_bound_of_mean(values: FloatArray) -> float:
    """Returns the one-sided 95 % upper t-bound of the mean; infinity for fewer than 2 values."""
    count = len(values)
    if count < 2:
        return math.inf
    spread = float(np.std(values, ddof=1)) / math.sqrt(count)
    return float(np.mean(values)) + float(stats.t.ppf(CONFIDENCE, count - 1)) * spread


def upper_bound_of_ratio(above: FloatArray, below: FloatArray) -> float:
    """Returns the one-sided 95 % upper bound of mean(above) / mean(below), paired (Fieller 1954).

    It is the ratio at which `upper_bound_of_mean(above - ratio * below)` is zero.

    Args:
      above: Shape (rows,), the candidate's losses.
      below: Shape (rows,), the other model's losses on the same rows.

    Returns:
      The bound; infinity when mean(below) is not clearly above zero.
    """
    count = len(above)
    if count < 2:
        return math.inf
    if np.array_equal(above, below):
        return 1.0
    mean_above, mean_below = float(np.mean(above)), float(np.mean(below))
    weight = float(stats.t.ppf(CONFIDENCE, count - 1)) ** 2 / count
    if isinstance(above, Losses):
        pair = (above, below)
        covariance = np.array([[one.covariance(two) for two in pair] for one in pair])
    else:
        covariance = np.cov(above, below, ddof=1)
    a = mean_below**2 - weight * float(covariance[1, 1])
    b = mean_above * mean_below - weight * float(covariance[0, 1])
    c = mean_above**2 - weight * float(covariance[0, 0])
    if a <= 0:
        return math.inf
    return (b + math.sqrt(max(b * b - a * c, 0.0))) / a


def interval_of_processes(values: Sequence[float]) -> Interval | None:
    """Returns the geometric mean of per-process values between its one-sided 95 % t-bounds.

    The process is the unit of sampling: an interval inside one process covers the truth far too rarely.

    Args:
      values: One positive number per process: a median, or a ratio of medians.

    Returns:
      None for fewer than 2 values or any that is not finite and positive.
    """
    if len(values) < 2 or not all(math.isfinite(value) and value > 0 for value in values):
        return None
    logs = np.log(np.asarray(values, dtype=np.float64))
    half = float(stats.t.ppf(CONFIDENCE, len(logs) - 1)) * float(np.std(logs, ddof=1)) / math.sqrt(len(logs))
    middle = float(np.mean(logs))
    return Interval(estimate=math.exp(middle), low=math.exp(middle - half), high=math.exp(middle + half))


def process_ratios(found: Measured, other: Measured) -> tuple[float, ...]:
    """Returns median over median for each process that measured both, in the order they ran."""
    if found.sha256 and found.sha256 == other.sha256:
        return tuple(1.0 for _ in other.samples)
    medians = {sample.process: sample.p50_ns for sample in other.samples}
    return tuple(
        sample.p50_ns / medians[sample.process] if medians[sample.process] > 0 else math.nan
        for sample in found.samples
        if sample.process in medians
    )


# ---------------------------------------------------------------------------------------------- gates


def describe(gate: Gate) -> str:
    """Returns the gate in a few words, for example 'rmse increase <= 1% vs reference'."""
    versus = f" vs {gate.relative_to.value}" if gate.is_relative else ""
    if isinstance(gate, AccuracyGate):
        name = gate.metric.value
        if gate.max_value is not None:
            return f"{name} <= {gate.max_value:g}"
        if gate.min_value is not None:
            return f"{name} >= {gate.min_value:g}"
        if gate.max_increase_fraction is not None:
            return f"{name} increase <= {100 * gate.max_increase_fraction:.4g}%{versus}"
        return f"{name} drop <= {100 * (gate.max_drop or 0.0):.4g} points{versus}"
    if isinstance(gate, SizeGate):
        if gate.max_bytes is not None:
            return f"size <= {gate.max_bytes:,} bytes"
        if gate.max_gz_bytes is not None:
            return f"gz size <= {gate.max_gz_bytes:,} bytes"
        return f"gz size ratio <= {gate.max_ratio:g}{versus}"
    if gate.max_p50_us is not None:
        return f"latency p50 <= {gate.max_p50_us:g} us"
    return f"latency ratio <= {gate.max_ratio:g}{versus}"


def judge(gate: Gate, found: Measured, rivals: Rivals) -> Verdict:
    """Returns how a candidate does at a gate.

    Args:
      gate: Any gate.
      found: What was measured of the candidate.
      rivals: What relative gates compare with.
    """
    if needs_baseline(gate) and rivals.first_release:
        return Verdict(
            gate=describe(gate),
            status=Status.NOT_COMPARABLE,
            reason="This is the first release: there is no baseline to compare with, so the gate is waived.",
            waived=True,
        )
    if found.failure:
        return _not_comparable(gate, f"The candidate cannot be run: {found.failure}")
    other: Measured | None = None
    if gate.is_relative:
        other = rivals.reference if gate.relative_to is RelativeTo.REFERENCE else rivals.baseline
        if other is None:
            return _not_comparable(gate, f"There is no {gate.relative_to.value} to compare with.")
        if other.failure:
            return _not_comparable(gate, f"The {gate.relative_to.value} cannot be run: {other.failure}")
    if isinstance(gate, AccuracyGate):
        return _judge_accuracy(gate, found, other)
    if isinstance(gate, SizeGate):
        return _judge_size(gate, found, other)
    return _judge_latency(gate, found, other)


def is_latency_open(gates: Sequence[Gate], found: Measured, rivals: Rivals) -> bool:
    """Returns whether more processes could still decide one of the candidate's latency gates."""
    if found.failure or found.latency_failure:
        return False
    for gate in gates:
        if not isinstance(gate, LatencyGate) or (needs_baseline(gate) and rivals.first_release):
            continue
        other = None
        if gate.is_relative:
            other = rivals.reference if gate.relative_to is RelativeTo.REFERENCE else rivals.baseline
            if other is None or other.failure or other.latency_failure:
                continue
        interval = interval_of_processes(_latency_values(found, other))
        limit = _latency_limit(gate)
        if interval is not None and interval.low <= limit < interval.high:
            return True
    return False


def _judge_accuracy(gate: AccuracyGate, found: Measured, other: Measured | None) -> Verdict:
    losses = _usable_losses(gate, found)
    if isinstance(losses, str):
        return _not_comparable(gate, f"The candidate's {gate.metric.value} cannot be used: {losses}")
    value = metric_value(gate.metric, losses)
    if other is None:
        if gate.min_value is not None:
            return _verdict(gate, value, gate.min_value, lower_limit=True)
        return _verdict(gate, value, gate.max_value)
    others = _usable_losses(gate, other)
    if isinstance(others, str):
        return _not_comparable(
            gate, f"The {gate.relative_to.value}'s {gate.metric.value} cannot be used: {others}"
        )
    if len(losses) != len(others):
        return _not_comparable(
            gate,
            f"The rows cannot be paired: {len(losses)} for the candidate and {len(others)} for the other.",
        )
    if len(losses) < 2:
        return _not_comparable(gate, "A paired comparison needs at least 2 rows; got 1.")
    if gate.max_drop is not None:
        drop = losses - others
        return _verdict(gate, float(np.mean(drop)), gate.max_drop, bound=upper_bound_of_mean(drop))
    return _judge_increase(gate, losses, others)


def _judge_increase(gate: AccuracyGate, losses: FloatArray, others: FloatArray) -> Verdict:
    limit = float(gate.max_increase_fraction or 0.0)
    power = 2.0 if gate.metric is Metric.RMSE else 1.0
    mean, other_mean = float(np.mean(losses)), float(np.mean(others))
    if other_mean == 0.0 < mean:
        return _verdict(
            gate,
            math.inf,
            limit,
            reason=f"The {gate.relative_to.value} makes no error at all, this one does.",
        )
    value = (mean / other_mean) ** (1.0 / power) - 1.0 if other_mean else 0.0
    # Non-inferiority: the bound of the mean of d_i = loss_i - (1 + limit)^power * other_i is at most zero.
    passes = upper_bound_of_mean(losses - (1.0 + limit) ** power * others) <= 0.0
    bound = max(upper_bound_of_ratio(losses, others), 0.0) ** (1.0 / power) - 1.0
    return _verdict(gate, value, limit, bound=bound, passes=passes)


def _usable_losses(gate: AccuracyGate, measured: Measured) -> FloatArray | str:
    """Returns the losses the gate needs, or why they cannot be used."""
    losses = measured.losses.get(gate.metric)
    if losses is None:
        return "it was not computed."
    if not len(losses):
        return "there are zero rows."
    if isinstance(losses, Losses):
        return losses if math.isfinite(losses.mean()) else "the loss is not finite."
    wrong = int(np.count_nonzero(~np.isfinite(losses)))
    if wrong:
        return f"the loss is not finite on {wrong} of {len(losses)} rows."
    return "the loss is negative." if float(np.min(losses)) < 0 else losses


def _judge_size(gate: SizeGate, found: Measured, other: Measured | None) -> Verdict:
    if found.size_bytes <= 0 or found.gz_size_bytes <= 0:
        return _not_comparable(gate, "The candidate's size is not known.")
    if gate.max_bytes is not None:
        return _verdict(gate, float(found.size_bytes), float(gate.max_bytes))
    if gate.max_gz_bytes is not None:
        return _verdict(gate, float(found.gz_size_bytes), float(gate.max_gz_bytes))
    if other is None or other.gz_size_bytes <= 0:
        return _not_comparable(gate, f"The {gate.relative_to.value}'s size is not known.")
    return _verdict(gate, found.gz_size_bytes / other.gz_size_bytes, gate.max_ratio)


def _judge_latency(gate: LatencyGate, found: Measured, other: Measured | None) -> Verdict:
    for who, measured in (("candidate", found), (gate.relative_to.value, other)):
        if measured is None:
            continue
        if measured.latency_failure:
            return _not_comparable(gate, f"The {who}'s latency was not measured: {measured.latency_failure}")
        if not measured.samples:
            return _not_comparable(gate, f"The {who}'s latency was not measured.")
    values = _latency_values(found, other)
    if len(values) < 2:
        return _not_comparable(
            gate, f"A bound over processes needs at least 2 that measured both; got {len(values)}."
        )
    interval = interval_of_processes(values)
    if interval is None:
        return _not_comparable(gate, "A process reported a time that is not finite and positive.")
    limit = _latency_limit(gate)
    if interval.low <= limit < interval.high:
        return _verdict(
            gate,
            interval.estimate,
            limit,
            bound=interval.high,
            reason=f"Undecided after {len(values)} processes, which counts as a fail: the limit {limit:.4g} "
            f"lies between the 95 % bounds {interval.low:.4g} and {interval.high:.4g}.",
        )
    return _verdict(gate, interval.estimate, limit, bound=interval.high)


def _latency_values(found: Measured, other: Measured | None) -> tuple[float, ...]:
    if other is not None:
        return process_ratios(found, other)
    return tuple(sample.p50_ns / 1e3 for sample in found.samples)


def _latency_limit(gate: LatencyGate) -> float:
    return float(gate.max_ratio if gate.max_ratio is not None else gate.max_p50_us or 0.0)


def _verdict(
    gate: Gate,
    value: float,
    limit: float | None,
    *,
    bound: float | None = None,
    lower_limit: bool = False,
    passes: bool | None = None,
    reason: str = "",
) -> Verdict:
    decisive = value if bound is None else bound
    if limit is None or not math.isfinite(limit) or math.isnan(decisive) or math.isnan(value):
        return _not_comparable(gate, f"The value {value!r} cannot be held against the limit {limit!r}.")
    margin = decisive - limit if lower_limit else limit - decisive
    good = margin >= 0 if passes is None else passes
    shown = f"{value:.6g}" if bound is None else f"{value:.6g} (95 % bound {bound:.6g})"
    return Verdict(
        gate=describe(gate),
        status=Status.PASS if good else Status.FAIL,
        reason=reason or f"{shown} {'keeps' if good else 'breaks'} the limit {limit:.6g}.",
        value=_finite(value),
        bound=_finite(bound),
        limit=limit,
        margin=_finite(margin),
    )


def _not_comparable(gate: Gate, reason: str) -> Verdict:
    return Verdict(gate=describe(gate), status=Status.NOT_COMPARABLE, reason=reason)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


# ---------------------------------------------------------------------------------------------- choice


def passes_all(found: Measured, verdicts: Sequence[Verdict]) -> bool:
    """Returns whether the candidate can be run, was judged at least once, and no gate stands in its way."""
    return (
        not found.failure
        and any(verdict.status is Status.PASS for verdict in verdicts)
        and all(verdict.lets_through for verdict in verdicts)
    )


def exclusion(found: Measured, reference: Measured | None) -> str:
    """Returns why a candidate is never chosen, whatever the gates say; empty when it may be.

    A file that is bigger (gzip) than the reference and slower, or not shown to be as fast, never goes out.
    """
    if reference is None or reference.gz_size_bytes <= 0:
        return "there is no reference that shows it is not bigger and slower"
    if found.name == reference.name or found.gz_size_bytes <= reference.gz_size_bytes:
        return ""
    interval = interval_of_processes(process_ratios(found, reference))
    if interval is None:
        return "it is bigger than the reference and its latency was not compared"
    if interval.estimate > 1.0:
        return (
            f"it is bigger ({found.gz_size_bytes:,} > {reference.gz_size_bytes:,} gz bytes) and slower "
            f"({interval.estimate:.3g} times) than the reference"
        )
    return ""


def score(objective: Objective, found: Measured, reference: Measured | None) -> float | None:
    """Returns the objective's value, lower is better; None when something it needs was not measured."""
    if reference is None or reference.gz_size_bytes <= 0 or found.gz_size_bytes <= 0:
        return None
    total = objective.size_weight * math.log(found.gz_size_bytes / reference.gz_size_bytes)
    if objective.latency_weight:
        interval = interval_of_processes(process_ratios(found, reference))
        if interval is None:
            return None
        total += objective.latency_weight * math.log(max(round(interval.estimate, 2), 0.01))
    return total


def choose(
    results: Sequence[CandidateResult],
    *,
    reference: str,
    objective: Objective,
    override: Override | None,
) -> Choice:
    """Returns which candidate goes out and why.

    Args:
      results: All candidates, judged.
      reference: Name of the dense float32 candidate.
      objective: For the words only; the scores are in the results.
      override: A signed-off exception.
    """
    fit = [found for found in results if found.passes and not found.excluded and found.score is not None]
    if fit:
        best = min(fit, key=_rank)
        return Choice(best.name, True, False, _why(best, len(fit), results, reference, objective))
    runnable = [found for found in results if not found.failure]
    if not runnable:
        return Choice("", False, False, f"None of {len(results)} candidates can be run.")
    best = min(runnable, key=lambda found: (bool(found.excluded), _num_stopped(found), *_rank(found)))
    reason = f"No candidate passes every gate; the best, {best.name!r}, {_stopped_by(best)}"
    if override is not None:
        return Choice(
            best.name,
            True,
            True,
            f"Override by {override.by} on {override.date}: {override.reason.rstrip('.')}. {reason}",
        )
    return Choice(best.name, False, False, reason)


def _rank(found: CandidateResult) -> tuple[float, int, int, str]:
    value = math.inf if found.score is None else found.score
    return (value, found.gz_size_bytes, found.size_bytes, found.name)


def _num_stopped(found: CandidateResult) -> int:
    return sum(not verdict.lets_through for verdict in found.verdicts)


def _stopped_by(found: CandidateResult) -> str:
    stopped = [verdict for verdict in found.verdicts if not verdict.lets_through]
    if not stopped:
        if found.excluded:
            return f"passes the gates but {found.excluded}."
        if not any(verdict.status is Status.PASS for verdict in found.verdicts):
            return "was held against no gate at all."
        return "has no score: its latency was not compared with the reference's."
    return "; ".join(
        f"{'fails' if v.status is Status.FAIL else 'is not comparable at'} {v.gate!r} "
        f"(value {_shown(v.value)}, limit {_shown(v.limit)}, margin {_shown(v.margin)}): {v.reason}"
        for v in stopped
    )


def _why(
    best: CandidateResult,
    num_fit: int,
    results: Sequence[CandidateResult],
    reference: str,
    objective: Objective,
) -> str:
    if not objective.latency_weight:
        rank = "smallest"
    elif not objective.size_weight:
        rank = "fastest"
    else:
        rank = "best by size and latency"
    among = (
        "the only candidate that passes" if num_fit == 1 else f"the {rank} of {num_fit} candidates that pass"
    )
    dense = next((found for found in results if found.name == reference), None)
    parts = [f"{best.gz_size_bytes:,} gz bytes"]
    if dense is not None and dense.name != best.name and dense.gz_size_bytes:
        parts = [
            f"{best.gz_size_bytes:,} gz bytes, {dense.gz_size_bytes / best.gz_size_bytes:.3g} times smaller"
        ]
        if best.latency is not None and best.latency.ratio is not None:
            parts.append(f"{best.latency.ratio.estimate:.3g} times the latency")
        for name, value in list((best.metrics or {}).items())[:1]:
            parts.append(f"{name} {value:.5g} against {(dense.metrics or {}).get(name, math.nan):.5g}")
        return f"{best.name!r} is {among} every gate: {', '.join(parts)} of the dense float32 {reference!r}."
    return f"{best.name!r} is {among} every gate: {parts[0]}."


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.5g}"
