"""The evaluation in Markdown, for a pull request: verdict, gates, candidates, slices that got worse, sizes.

Names come from other people's files: they stand in code spans, and in sentences every sign that Markdown,
HTML or a forge could read is taken as text. Computes nothing that is not in the evaluation.
"""

import re
from collections.abc import Iterable, Sequence

from tfx_mobile.common import web
from tfx_mobile.size_latency_evaluator import comparison
from tfx_mobile.size_latency_evaluator.comparison import SIGNS, Compared, SliceChange
from tfx_mobile.size_latency_evaluator.evaluation import (
    CandidateResult,
    Evaluation,
    Interval,
    Status,
    Verdict,
)

SUMMARY_FILE = "summary.md"
MAX_CANDIDATES = 10
MAX_SLICES = 10
MAX_GATES = 20
_WORDS = ("gate", "", "file", "candidate", "verdict", "slice", "metric")  # columns of words
_MAX_TEXT = 200  # characters of a cell


def render(evaluation: Evaluation) -> str:
    """Returns the summary as GitHub's Markdown; the same evaluation gives the same text.

    Args:
      evaluation: Any, also one in which nothing could be run.
    """
    blocks = [
        f"## {_headline(evaluation)}",
        text(evaluation.reason),
        _override(evaluation),
        _gates(evaluation),
        _sizes(evaluation),
        _candidates(evaluation),
        *(_slices(evaluation, one) for one in comparison.rivals(evaluation)),
        text(
            f"{evaluation.eval_rows:,} rows of split {evaluation.eval_split}; measured on "
            f"{evaluation.machine.target}: {evaluation.machine.cpu}, {evaluation.machine.runtime}."
        ),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def text(value: str) -> str:
    r"""Returns a sentence on one line in which Markdown, HTML and mentions are text.

    >>> print(text("a_b | <script>" + chr(10) + "#1"))
    a\_b \| &lt;script&gt; \#1
    """
    plain = re.sub(r"([\\`*_\[\]#|~!$])", r"\\\1", _line(value))
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return plain.replace("@", "@\u200b").replace("://", ":\u200b//").replace("www.", "www\u200b.")


def code(value: str) -> str:
    r"""Returns a name as a code span that may stand in a table.

    >>> print(code("a|b`c"))
    ``a\|b`c``
    """
    plain = _line(value)
    if len(plain) > _MAX_TEXT:
        plain = plain[: _MAX_TEXT - 1] + "\u2026"
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", plain)), default=0))
    edge = " " if plain.startswith("`") or plain.endswith("`") or not plain else ""
    return f"{fence}{edge}{plain}{edge}{fence}".replace("|", r"\|")


def _line(value: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in value).split())


def _headline(evaluation: Evaluation) -> str:
    if not evaluation.chosen:
        return "\u274c Not blessed: nothing can be run"
    if not evaluation.blessed:
        return f"\u274c Not blessed: {code(evaluation.chosen)} is the best"
    by_override = " by override" if evaluation.overridden else ""
    return f"\u2705 Blessed{by_override}: {code(evaluation.chosen)}"


def _override(evaluation: Evaluation) -> str:
    given = evaluation.override
    if given is None:
        return ""
    used = "" if evaluation.overridden else " (not used)"
    return f"**Override** by {text(given.by)} on {text(given.date)}{used}: {text(given.reason)}"


def _gates(evaluation: Evaluation) -> str:
    """Returns the gates of the chosen file: those on all rows, and of each gate on slices the worst."""
    found = next((one for one in evaluation.candidates if one.name == evaluation.chosen), None)
    if found is None or not found.verdicts:
        return ""
    names = comparison.slice_names(evaluation)
    rows = []
    for column in comparison.gate_columns(evaluation):
        verdicts = comparison.verdicts_at(found, column, names)
        for _, verdict in verdicts[:1] if column.per_slice else verdicts:
            more = f" (worst of {len(verdicts)} slices)" if column.per_slice else ""
            rows.append([f"{code(verdict.gate)}{more}", *_verdict(verdict)])
    return _table(["gate", "", "got", "95 % bound", "limit", "margin"], rows, MAX_GATES)


def _verdict(verdict: Verdict) -> list[str]:
    status = {Status.PASS: "pass", Status.FAIL: "**fail**"}.get(verdict.status, "**not comparable**")
    if verdict.waived:
        status = "waived"
    margin = comparison.finite(verdict.margin)
    return [
        f"{SIGNS[verdict.status]} {status}",
        _number(verdict.value),
        _number(verdict.bound),
        _number(verdict.limit),
        "-" if margin is None else f"{margin:+,.4g}",
    ]


def _sizes(evaluation: Evaluation) -> str:
    """Returns size, time and metrics of the chosen file beside those of the files it is compared with."""
    roles = comparison.compared(evaluation)
    if len(roles) < 2:
        return ""
    rows = [
        [
            f"{one.role}: {code(one.found.name)}",
            _whole(one.found.size_bytes),
            _whole(one.found.gz_size_bytes),
            _number(one.found.latency.p50_us if one.found.latency else None),
            *(_number(comparison.metric_of(one.found, metric.name)) for metric in evaluation.metrics),
        ]
        for one in roles
    ]
    head = ["file", "bytes", "gz bytes", "p50 \u00b5s", *(code(m.name) for m in evaluation.metrics)]
    return "### Before and after\n\n" + _table(head, rows, len(rows))


def _candidates(evaluation: Evaluation) -> str:
    if not evaluation.candidates:
        return ""
    rows = [
        [
            f"{code(found.name)}{' **chosen**' if found.name == evaluation.chosen else ''}",
            *(_number(comparison.metric_of(found, metric.name)) for metric in evaluation.metrics),
            _whole(found.size_bytes),
            _whole(found.gz_size_bytes),
            _number(found.latency.p50_us if found.latency else None),
            _ratio(found.latency.ratio if found.latency else None),
            _stopped(found),
        ]
        for found in comparison.ordered(evaluation)
    ]
    head = [
        *("candidate", *(code(metric.name) for metric in evaluation.metrics)),
        *("bytes", "gz bytes", "p50 \u00b5s", "ratio", "verdict"),
    ]
    return "### Candidates\n\n" + _table(head, rows, MAX_CANDIDATES)


def _slices(evaluation: Evaluation, other: Compared) -> str:
    """Returns the slices on which the chosen file is worse than another one, by metric."""
    chosen = comparison.compared(evaluation)[0].found
    rows: list[tuple[float, list[str]]] = []
    for metric in evaluation.metrics:
        for change in comparison.slice_changes(chosen, other.found, metric):
            if change.worsening is not None and change.worsening > 0:
                rows.append((change.worsening, _change(metric.name, change)))
    if not rows:
        return ""
    head = ["slice", "metric", "rows", "chosen", other.role, "difference"]
    return f"### Slices worse than the {_words(other)}\n\n" + _table(
        head, [row for _, row in sorted(rows, key=lambda row: -row[0])], MAX_SLICES
    )


def _words(other: Compared) -> str:
    return "baseline (phones today)" if other.role == "phones today" else other.role


def _change(metric: str, change: SliceChange) -> list[str]:
    return [
        code(change.name),
        code(metric),
        _whole(change.rows),
        _number(change.value),
        _number(change.other),
        "-" if change.difference is None else f"{change.difference:+.3g}",
    ]


def _stopped(found: CandidateResult) -> str:
    words = text(comparison.verdict_in_short(found))
    return words if len(words) <= _MAX_TEXT else words[: _MAX_TEXT - 1].rstrip("\\") + "\u2026"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], most: int) -> str:
    lines = [_row(head), _row("---" if name in _WORDS else "---:" for name in head)]
    lines += [_row(row) for row in rows[:most]]
    if len(rows) > most:
        lines += ["", f"{len(rows) - most:,} more are on the page."]
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    shown = comparison.finite(value)
    return "-" if shown is None else web.number(shown)


def _whole(value: int) -> str:
    return f"{value:,}" if value else "-"


def _ratio(value: Interval | None) -> str:
    return "-" if value is None else f"\u00d7{value.estimate:.2f}"
