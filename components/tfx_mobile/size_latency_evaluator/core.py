"""The arithmetic of an evaluation: bounds, gate verdicts and the choice. Values in, values out.

Everything fails closed: what is missing, not finite, or not decided is never a pass. Does not read files,
run models, compute metrics (accuracy.py) or measure time.

Sources: non-inferiority by a one-sided bound on a paired difference, Blackwelder (1982), "Proving the null
hypothesis in clinical trials", Controlled Clinical Trials 3; the bound of a ratio of means, Fieller (1954),
"Some problems in interval estimation", J. R. Stat. Soc. B 16; several looks at the same data, Bonferroni's
inequality: Dunn (1961), "Multiple comparisons among means", J. Am. Stat. Assoc. 56.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from tfx_mobile.size_latency_evaluator.accuracy import CONFIDENCE, Accuracy, Pair
from tfx_mobile.size_latency_evaluator.config import (
    AccuracyGate,
    Gate,
    LatencyGate,
    Objective,
    Override,
    RelativeTo,
    SizeGate,
    needs_baseline,
)
from tfx_mobile.size_latency_evaluator.evaluation import CandidateResult, Interval, Status, Verdict

_MAX_LOG = 700.0  # of a bound: two processes that disagree wildly bound nothing, but JSON has no infinity


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
      quantiles_ns: At evaluation.QUANTILES; empty where the device does not say.
      rounds_ns: By round, the median of its block of calls; the round of the same place in another file's
        sample of this process was a millisecond or a few calls away. Empty where there are no rounds.
    """

    process: int
    p50_ns: float
    p90_ns: float
    init_ns: float
    first_call_ns: float
    calls: int
    quantiles_ns: tuple[float, ...] = ()
    rounds_ns: tuple[float, ...] = ()


@dataclass(frozen=True)
class Footprint:
    """What one file takes besides time; None is not measured.

    Attributes:
      arena_bytes: Tensors and scratch space of the interpreter.
      heap_bytes: Largest heap of loading and calling, beyond what the process had before.
      process_bytes: Largest resident memory of a process that ran nothing but this file.
      instructions: Of one call.
    """

    arena_bytes: int | None = None
    heap_bytes: int | None = None
    process_bytes: int | None = None
    instructions: int | None = None


@dataclass(frozen=True)
class Measured:
    """What was measured of one file, before any judgement.

    Attributes:
      name: Of the candidate.
      failure: Why it cannot be run or predicts nothing of use; empty when it can.
      sha256: Of the file.
      size_bytes: Of the file.
      gz_size_bytes: After gzip -9.
      accuracy: What was tallied of all files together; None when nothing was.
      file: Its name there.
      samples: Of latency, one per process that measured it.
      latency_failure: Why there are no samples.
      looks: How often the samples may be looked at while they grow: the error is shared among the looks.
      footprint: Memory and instructions.
    """

    name: str
    failure: str = ""
    sha256: str = ""
    size_bytes: int = 0
    gz_size_bytes: int = 0
    accuracy: Accuracy | None = None
    file: str = ""
    samples: tuple[ProcessSample, ...] = ()
    latency_failure: str = ""
    looks: int = 1
    footprint: Footprint = Footprint()


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


# ---------------------------------------------------------------------------------------------- statistics


def interval_of_processes(
    values: Sequence[float], *, looks: int = 1, confidence: float = CONFIDENCE
) -> Interval | None:
    """Returns the geometric mean of per-process values between its one-sided t-bounds.

    The process is the unit of sampling: an interval inside one process covers the truth far too rarely.

    Args:
      values: One positive number per process: a median, or a ratio of medians.
      looks: How often the values may be looked at while they grow. Whoever stops at the first look that is
        clear errs at any of them, so that each look gets an equal share of the error (Bonferroni): over all
        looks together a bound is wrong in at most 1 - `confidence` of the runs, however the looks depend.
      confidence: Of each bound, over all looks, in (0, 1).

    Returns:
      None for fewer than 2 values or any that is not finite and positive.
    """
    if len(values) < 2 or not all(math.isfinite(value) and value > 0 for value in values):
        return None
    logs = np.log(np.asarray(values, dtype=np.float64))
    share = 1.0 - (1.0 - confidence) / looks
    half = float(stats.t.ppf(share, len(logs) - 1)) * float(np.std(logs, ddof=1)) / math.sqrt(len(logs))
    middle = float(np.mean(logs))
    low, high = max(middle - half, -_MAX_LOG), min(middle + half, _MAX_LOG)
    return Interval(estimate=math.exp(middle), low=math.exp(low), high=math.exp(high))


def process_ratios(found: Measured, other: Measured) -> tuple[float, ...]:
    """Returns one ratio of times for each process that measured both, in the order they ran.

    It is the median over rounds of the ratio of the two blocks' medians: a machine that changes its pace
    takes both blocks of a round along, but may put one file's overall median into a fast phase and the
    other's into a slow one. Without rounds it is the ratio of the overall medians.
    """
    if found.sha256 and found.sha256 == other.sha256:
        return tuple(1.0 for _ in other.samples)
    others = {sample.process: sample for sample in other.samples}
    return tuple(
        _ratio(sample, others[sample.process]) for sample in found.samples if sample.process in others
    )


def _ratio(sample: ProcessSample, other: ProcessSample) -> float:
    if sample.rounds_ns and len(sample.rounds_ns) == len(other.rounds_ns):
        above, below = np.asarray(sample.rounds_ns), np.asarray(other.rounds_ns)
    else:
        above, below = np.asarray([sample.p50_ns]), np.asarray([other.p50_ns])
    return float(np.median(above / below)) if float(np.min(below)) > 0 else math.nan


# ---------------------------------------------------------------------------------------------- gates


def describe(gate: Gate) -> str:
    """Returns the gate in a few words, for example 'rmse increase <= 1% vs reference'."""
    versus = f" vs {gate.relative_to.value}" if gate.is_relative else ""
    if isinstance(gate, AccuracyGate):
        return _describe_limit(gate) + versus + _for_each(gate)
    if isinstance(gate, SizeGate):
        if gate.max_bytes is not None:
            return f"size <= {gate.max_bytes:,} bytes"
        if gate.max_gz_bytes is not None:
            return f"gz size <= {gate.max_gz_bytes:,} bytes"
        return f"gz size ratio <= {gate.max_ratio:g}{versus}"
    if gate.max_p50_us is not None:
        return f"latency p50 <= {gate.max_p50_us:g} us"
    return f"latency ratio <= {gate.max_ratio:g}{versus}"


def _describe_limit(gate: AccuracyGate) -> str:
    name = gate.metric.value
    if gate.max_value is not None:
        return f"{name} <= {gate.max_value:g}"
    if gate.min_value is not None:
        return f"{name} >= {gate.min_value:g}"
    if gate.max_increase_fraction is not None:
        return f"{name} increase <= {100 * gate.max_increase_fraction:.4g}%"
    if gate.max_increase is not None:
        return f"{name} increase <= {gate.max_increase:g}"
    if gate.max_drop_fraction is not None:
        return f"{name} drop <= {100 * gate.max_drop_fraction:.4g}%"
    return f"{name} drop <= {100 * (gate.max_drop or 0.0):.4g} points"


def _for_each(gate: AccuracyGate) -> str:
    return f" for {' and '.join(one.describe() for one in gate.slices)}" if gate.slices else ""


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
        interval = interval_of_processes(_latency_values(found, other), looks=found.looks)
        limit = _latency_limit(gate)
        if interval is not None and interval.low <= limit < interval.high:
            return True
    return False


def _judge_accuracy(gate: AccuracyGate, found: Measured, other: Measured | None) -> Verdict:
    """Judges on all rows, or on each slice: then the verdict is the worst one's and names its slice."""
    accuracy = found.accuracy
    if accuracy is None or not accuracy.has(gate.metric.value):
        return _not_comparable(
            gate, f"The candidate's {gate.metric.value} cannot be used: it was not computed."
        )
    if not gate.slices:
        return _judge_rows(gate, accuracy, found, other, "")
    names: list[str] = []
    for one in gate.slices:
        values = accuracy.slices_of(one)
        if values is None:
            return _not_comparable(
                gate,
                f"There are more than {one.max_values} slices of {one.describe()}. Use buckets or values, or "
                "raise Slice.max_values.",
            )
        if not values:
            return _not_comparable(gate, f"No row is in a slice of {one.describe()}.")
        names += values
    names = list(dict.fromkeys(names))
    judged = [n for n in names if not gate.skip_small or accuracy.rows_of(n) >= gate.min_rows]
    if not judged:
        return _not_comparable(gate, f"Each of {len(names)} slices has fewer than {gate.min_rows} rows.")
    verdicts = {name: _judge_slice(gate, accuracy, found, other, name) for name in judged}
    name = min(verdicts, key=lambda name: (*_severity(verdicts[name]), name))
    stopped = sum(not verdict.lets_through for verdict in verdicts.values())
    how_many = (
        f"{stopped} of {len(judged)} slices do not pass."
        if stopped
        else f"It has the least room of {len(judged)} slices."
    )
    skipped = len(names) - len(judged)
    left = f" {skipped} with fewer than {gate.min_rows} rows were left out." if skipped else ""
    worst = verdicts[name]
    words = describe(replace(gate, slices=()))
    return replace(worst, gate=f"{words} where {name}", reason=f"{worst.reason} {how_many}{left}")


def _judge_slice(
    gate: AccuracyGate, accuracy: Accuracy, found: Measured, other: Measured | None, name: str
) -> Verdict:
    rows = accuracy.rows_of(name)
    if rows < gate.min_rows:
        return _not_comparable(gate, f"It has {rows} rows, fewer than {gate.min_rows}.")
    return _judge_rows(gate, accuracy, found, other, name)


def _severity(verdict: Verdict) -> tuple[int, float]:
    order = (Status.NOT_COMPARABLE, Status.FAIL, Status.PASS).index(verdict.status)
    return order, -math.inf if verdict.margin is None else verdict.margin


def _judge_rows(
    gate: AccuracyGate, accuracy: Accuracy, found: Measured, other: Measured | None, name: str
) -> Verdict:
    value = _usable_value(gate, accuracy, found, name)
    if isinstance(value, str):
        return _not_comparable(gate, f"The candidate's {gate.metric.value} cannot be used: {value}")
    if other is None:
        if gate.min_value is not None:
            return _verdict(gate, value, gate.min_value, lower_limit=True)
        return _verdict(gate, value, gate.max_value)
    if other.accuracy is not accuracy:
        return _not_comparable(gate, "The rows cannot be paired: the two files were not tallied together.")
    reference = _usable_value(gate, accuracy, other, name)
    if isinstance(reference, str):
        return _not_comparable(
            gate, f"The {gate.relative_to.value}'s {gate.metric.value} cannot be used: {reference}"
        )
    rows = accuracy.rows_of(name)
    if rows < 2:
        return _not_comparable(gate, f"A paired comparison needs at least 2 rows; got {rows}.")
    pair = accuracy.pair(gate.metric.value, found.file, other.file, name)
    if pair is None or (gate.use_bound and pair.freedom <= 0):
        return _not_comparable(gate, f"The difference cannot be bounded on these {rows} rows.")
    return _judge_change(gate, pair, value, reference)


def _judge_change(gate: AccuracyGate, pair: Pair, value: float, other: float) -> Verdict:
    """Non-inferiority: the one-sided bound of the change keeps the limit (or the change itself does)."""
    if gate.max_drop is not None:
        bound = pair.upper_bound_of_difference(-1.0) if gate.use_bound else None
        return _verdict(gate, other - value, gate.max_drop, bound=bound)
    if gate.max_increase is not None:
        bound = pair.upper_bound_of_difference(1.0) if gate.use_bound else None
        return _verdict(gate, value - other, gate.max_increase, bound=bound)
    if other < 0.0:
        return _not_comparable(
            gate, f"A relative change needs a {gate.relative_to.value} above 0; got {other:.6g}."
        )
    if other == 0.0 != value:
        if value < 0.0 or gate.max_drop_fraction is not None:
            return _not_comparable(
                gate, f"A relative change needs a {gate.relative_to.value} above 0; got 0."
            )
        return _verdict(
            gate,
            math.inf,
            float(gate.max_increase_fraction or 0.0),
            reason=f"The {gate.relative_to.value} makes no error at all, this one does.",
        )
    # On the scale of the estimates the limit of a root is raised to its power; d = a - (1 + limit)^p b.
    (above, below), (low, high) = pair.estimate, pair.bounds_of_ratio()
    ratio = (above / below) ** (1.0 / pair.power) if below else 1.0
    if gate.max_drop_fraction is not None:
        limit = gate.max_drop_fraction
        change, bound, least = 1.0 - ratio, 1.0 - low, pair.upper_bound(-1.0, (1.0 - limit) ** pair.power)
    else:
        limit = float(gate.max_increase_fraction or 0.0)
        change, bound, least = ratio - 1.0, high - 1.0, pair.upper_bound(1.0, -((1.0 + limit) ** pair.power))
    if not gate.use_bound:
        return _verdict(gate, change, limit)
    return _verdict(gate, change, limit, bound=bound, passes=least <= 0.0)


def _usable_value(gate: AccuracyGate, accuracy: Accuracy, measured: Measured, name: str) -> float | str:
    """Returns the value the gate needs, or why there is none."""
    if not accuracy.rows_of(name):
        return "there are zero rows."
    if reason := accuracy.failure(measured.file, reference=measured.file):
        return reason
    value = accuracy.value(gate.metric.value, measured.file, name)
    return "it is not defined on these rows." if value is None else value


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
    interval = interval_of_processes(values, looks=found.looks)
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
