"""The chosen file against the dense one and against what phones run now: sizes, metrics, slices, gates.

What page.py and summary.py both say. Computes differences of what is in the evaluation, and judges nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tfx_mobile.size_latency_evaluator.evaluation import (
    CandidateResult,
    Evaluation,
    ReportedMetric,
    SliceResult,
    Status,
    Verdict,
    verdict_text,
)

SIGNS = {Status.PASS: "\u2713", Status.FAIL: "\u2717", Status.NOT_COMPARABLE: "?"}


@dataclass(frozen=True)
class Compared:
    """A file that the others are compared with.

    Attributes:
      role: In a word or two, for example 'reference'.
      found: The file.
    """

    role: str
    found: CandidateResult


@dataclass(frozen=True)
class SliceChange:
    """A metric on one slice, of the chosen file and of another.

    Attributes:
      name: Of the slice.
      rows: How many it has.
      value: Of the chosen file; None where the metric is not defined.
      other: Of the other file; likewise.
      difference: `value - other`; None where one is missing.
      worsening: How much worse the chosen file is: the relative increase of an error, the drop of a metric
        whose larger values are better, in the metric's unit. Infinite for an increase from 0, and where only
        the chosen file lacks the metric; None where nothing can be said.
    """

    name: str
    rows: int
    value: float | None
    other: float | None
    difference: float | None
    worsening: float | None


@dataclass(frozen=True)
class GateColumn:
    """A gate, or one gate's slices together, as a column of a table.

    Attributes:
      gate: In words, without the slice.
      per_slice: Whether it is of slices.
    """

    gate: str
    per_slice: bool


def compared(evaluation: Evaluation) -> tuple[Compared, ...]:
    """Returns the chosen file, the reference and the baseline: those there are, each file once."""
    known = {found.name: found for found in evaluation.candidates}
    roles: list[Compared] = []
    if evaluation.chosen in known:
        role = "chosen" if evaluation.blessed else "best, not blessed"
        if evaluation.chosen == evaluation.reference:
            role += ", the reference"
        roles.append(Compared(role, known[evaluation.chosen]))
    if evaluation.reference in known and evaluation.reference != evaluation.chosen:
        roles.append(Compared("reference", known[evaluation.reference]))
    if evaluation.baseline is not None:
        roles.append(Compared("phones today", evaluation.baseline))
    return tuple(roles)


def rivals(evaluation: Evaluation) -> tuple[Compared, ...]:
    """Returns what the chosen file is compared with; nothing when none was chosen."""
    roles = compared(evaluation)
    return roles[1:] if roles and roles[0].found.name == evaluation.chosen else ()


def ordered(evaluation: Evaluation) -> tuple[CandidateResult, ...]:
    """Returns the candidates: the chosen, those that pass, those that do not, those that failed."""

    def key(found: CandidateResult) -> tuple[bool, bool, bool, int, str]:
        return (
            found.name != evaluation.chosen,
            not found.passes,
            bool(found.failure),
            found.gz_size_bytes,
            found.name,
        )

    return tuple(sorted(evaluation.candidates, key=key))


def metric_of(found: CandidateResult | SliceResult | None, name: str) -> float | None:
    """Returns a metric that can be shown; None when it is missing or not finite."""
    return finite((found.metrics or {}).get(name)) if found is not None else None


def finite(value: float | None) -> float | None:
    """Returns the number, or None in place of NaN and infinity."""
    return value if value is not None and math.isfinite(value) else None


def worsening(metric: ReportedMetric, value: float | None, other: float | None) -> float | None:
    """Returns how much worse a value is than another, as `SliceChange.worsening` says."""
    if other is None or metric.higher_is_better is None:
        return None
    if value is None:
        return math.inf
    if metric.higher_is_better:
        return other - value
    if other > 0:
        return value / other - 1.0
    return 0.0 if value == other else math.copysign(math.inf, value - other)


def slice_changes(
    chosen: CandidateResult, other: CandidateResult, metric: ReportedMetric
) -> tuple[SliceChange, ...]:
    """Returns the metric on every slice that either file has, the worst change first.

    Without a direction of the metric the largest differences are first.
    """
    values = {part.name: part for part in chosen.slices}
    others = {part.name: part for part in other.slices}
    changes = []
    for name in dict.fromkeys((*values, *others)):
        value = metric_of(values.get(name), metric.name)
        before = metric_of(others.get(name), metric.name)
        changes.append(
            SliceChange(
                name=name,
                rows=(values.get(name) or others[name]).rows,
                value=value,
                other=before,
                difference=None if value is None or before is None else value - before,
                worsening=worsening(metric, value, before),
            )
        )

    def key(change: SliceChange) -> tuple[bool, float, str]:
        if metric.higher_is_better is None:
            return change.difference is None, -abs(change.difference or 0.0), change.name
        return change.worsening is None, -(change.worsening or 0.0), change.name

    return tuple(sorted(changes, key=key))


def verdict_in_short(found: CandidateResult) -> str:
    """Returns 'passes', or the first thing that stopped a candidate and how many more there are."""
    first, *more = [verdict_text(found)] if found.failure else verdict_text(found).split("; ")
    return f"{first}, and {len(more)} more" if more else first


def slice_of(verdict: Verdict, names: Sequence[str]) -> str:
    """Returns the slice that a verdict is about, one of the names; '' for all rows."""
    fitting = [name for name in names if verdict.gate.endswith(f" where {name}")]
    return max(fitting, key=len, default="")


def base_gate(verdict: Verdict, names: Sequence[str]) -> str:
    """Returns a verdict's gate in words, without its slice."""
    part = slice_of(verdict, names)
    return verdict.gate.removesuffix(f" where {part}") if part else verdict.gate


def slice_names(evaluation: Evaluation) -> tuple[str, ...]:
    """Returns every slice that any file has, each once."""
    files = [*evaluation.candidates, *([evaluation.baseline] if evaluation.baseline else [])]
    return tuple(dict.fromkeys(part.name for found in files for part in found.slices))


def gate_columns(evaluation: Evaluation) -> tuple[GateColumn, ...]:
    """Returns the gates of all candidates in their order; the slices of one gate are one column."""
    names = slice_names(evaluation)
    columns = {
        GateColumn(base_gate(verdict, names), bool(slice_of(verdict, names))): None
        for found in evaluation.candidates
        for verdict in found.verdicts
    }
    return tuple(columns)


def verdicts_at(
    found: CandidateResult, column: GateColumn, names: Sequence[str]
) -> tuple[tuple[str, Verdict], ...]:
    """Returns slice and verdict of a candidate at a gate: what stops it first, then the least room."""
    matching = [
        (slice_of(verdict, names), verdict)
        for verdict in found.verdicts
        if GateColumn(base_gate(verdict, names), bool(slice_of(verdict, names))) == column
    ]
    return tuple(sorted(matching, key=lambda pair: _room(pair[1])))


def _room(verdict: Verdict) -> tuple[bool, bool, float]:
    margin = finite(verdict.margin)
    return verdict.lets_through, margin is not None, margin or 0.0
