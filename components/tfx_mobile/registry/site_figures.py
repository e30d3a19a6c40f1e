"""What was signed about a file, as people read it: units from the end of a key's name, no float noise.

The registry signs integers with the unit in the key, and everything here was written by somebody else: what
is not a number of a sensible size is text or missing, never an error. Does not escape: the pages do.
"""

import dataclasses
import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tfx_mobile.common import web
from tfx_mobile.registry.records import VersionRecord
from tfx_mobile.registry.targeting import EVERYONE_PERMILLE, Targeting

MAX_FACTS = 300  # rows of one table
MAX_TEXT = 4000  # characters of one text
MISSING = "\u2013"
_LARGEST = 10**15  # an integer beyond it is shown as it is, cut off
_PPM = "_ppm"
_ORDER = {  # of columns; others lie between
    head: place for place, head in enumerate(("gate", "name", "status", "value", "bound", "limit", "margin"))
} | {"reason": 99}
_KEPT = "\u200c\u200d"  # joiners: invisible, and part of how some languages and emoji are written


@dataclasses.dataclass(frozen=True)
class Figures:
    """The figures of one file that pages compare and draw; None or left out where nobody said.

    Attributes:
      candidate: Which of the candidates it was.
      gz_size_bytes: After gzip.
      latency_p50_ns: Median time of a call.
      metrics_ppm: Parts per million of the metric's unit, by its name.
    """

    candidate: str
    gz_size_bytes: int | None
    latency_p50_ns: int | None
    metrics_ppm: Mapping[str, int]


def figures_of(record: VersionRecord) -> Figures:
    """Returns the figures that our pusher signs with a file."""
    said = record.metadata.get("figures")
    said = said if isinstance(said, dict) else {}
    metrics = said.get("metrics", record.metadata.get("metrics"))
    metrics = metrics if isinstance(metrics, dict) else {}
    candidate = said.get("candidate")
    return Figures(
        candidate if isinstance(candidate, str) else "",
        _positive(said.get("gz_size_bytes")),
        _positive(said.get("latency_p50_ns")),
        {
            key.removesuffix(_PPM): value
            for key, value in metrics.items()
            if key.endswith(_PPM) and type(value) is int and abs(value) < _LARGEST
        },
    )


def plain(text: str) -> str:
    """Returns text without what turns or hides it, such as U+202E, on one line, and not endless.

    >>> plain("taxi\u202eeraf")
    'taxi\ufffderaf'
    """
    shown = "".join(
        c if c.isprintable() or c in _KEPT else " " if c.isspace() else "\ufffd" for c in text[:MAX_TEXT]
    )
    return shown if len(text) <= MAX_TEXT else f"{shown}\u2026"


def size(value: int | None) -> str:
    """Returns bytes in a unit of 1,024s.

    >>> size(319_488), size(700), size(None)
    ('312 KiB', '700 B', '\u2013')
    """
    if value is None:
        return MISSING
    for unit, step in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= step:
            return f"{_digits(value / step)} {unit}"
    return f"{value} B"


def duration(value: int | None) -> str:
    """Returns nanoseconds in a fitting unit.

    >>> duration(83_120), duration(2_500_000), duration(None)
    ('83.1 \u00b5s', '2.5 ms', '\u2013')
    """
    if value is None:
        return MISSING
    for unit, step in (("s", 10**9), ("ms", 10**6), ("\u00b5s", 10**3)):
        if abs(value) >= step:
            return f"{_digits(value / step)} {unit}"
    return f"{value} ns"


def metric(value_ppm: int | None) -> str:
    """Returns a metric with four digits that mean something."""
    return MISSING if value_ppm is None else web.number(value_ppm / 1e6)


def share(permille: int) -> str:
    """Returns a share of the devices.

    >>> share(1000), share(125), share(0)
    ('100 %', '12.5 %', '0 %')
    """
    return f"{permille / 10:g} %"


def when(unix_s: int) -> str:
    """Returns a moment, UTC; a number that is none as it is."""
    try:
        found = datetime.datetime.fromtimestamp(unix_s, datetime.timezone.utc)
    except (OverflowError, ValueError, OSError):
        return _integer(unix_s)
    return f"{found:%Y-%m-%d %H:%M} UTC"


def change(value: int | None, before: int | None) -> str:
    """Returns by how much a figure differs from an earlier one, in percent; '' where that cannot be said.

    >>> change(90, 100), change(100, 100), change(90, None)
    ('\u221210 %', 'unchanged', '')
    """
    if value is None or not before:
        return ""
    percent = 100 * (value - before) / abs(before)
    if not percent:
        return "unchanged"
    shown = f"{abs(percent):.1f}".removesuffix(".0") if abs(percent) < 1000 else f"{abs(percent):,.0f}"
    if shown == "0":
        shown = "under 0.1"
    sign = "+" if percent > 0 else "\u2212"
    return f"{sign}{shown} %"


def targeting(asked: Targeting) -> list[str]:
    """Returns what is asked of a device, in words; empty for nothing."""
    return [
        text
        for holds, text in (
            (asked.platforms, " or ".join(asked.platforms)),
            (asked.abis, f"ABI {' or '.join(asked.abis)}"),
            (asked.min_app_version, f"app {asked.min_app_version} or later"),
            (asked.max_app_version, f"app {asked.max_app_version} or earlier"),
            (asked.min_ram_mib, f"{asked.min_ram_mib:,} MiB of memory or more"),
            (asked.min_runtime_version, f"runtime {asked.min_runtime_version} or later"),
            (asked.required_ops, f"operators {', '.join(asked.required_ops)}"),
        )
        if holds
    ]


def is_for_all(permille: int) -> bool:
    """Returns whether a share is everyone."""
    return permille == EVERYONE_PERMILLE


def facts(said: Any, *, without: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Returns what a JSON value says, one row a number or text, names of keys joined with dots.

    Args:
      said: The value.
      without: Keys of the outermost object that are shown elsewhere.
    """
    rows: list[tuple[str, str]] = []
    for path, value in _leaves(said, without):
        if len(rows) == MAX_FACTS:
            rows.append(("and more", "in the record"))
            break
        rows.append(_fact(path, value))
    return rows


def table(said: Any) -> tuple[list[str], list[list[str]]] | None:
    """Returns heads and rows of a list of flat objects, such as gates; None when it is something else."""
    if not isinstance(said, list) or not said or not all(isinstance(row, dict) and row for row in said):
        return None
    if any(isinstance(value, (dict, list)) for row in said for value in row.values()):
        return None
    rows = [dict(_fact(key, value) for key, value in row.items()) for row in said[:MAX_FACTS]]
    heads = sorted({head for row in rows for head in row}, key=lambda head: (_ORDER.get(head, 50), head))
    return heads, [[row.get(head, MISSING) for head in heads] for row in rows]


def _leaves(said: Any, without: Sequence[str]) -> Iterator[tuple[str, Any]]:
    waiting: list[tuple[str, Any]] = [("", said)]
    is_outermost = True
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict) and value:
            items = [(key, item) for key, item in value.items() if not (is_outermost and key in without)]
            waiting += [(f"{path}.{key}" if path else key, item) for key, item in reversed(items)]
        elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
            waiting += [(f"{path}[{i}]", item) for i, item in reversed(list(enumerate(value)))]
        elif path and value != {}:
            yield path, value
        is_outermost = False


def _fact(path: str, value: Any) -> tuple[str, str]:
    unit = next((unit for unit in _UNITS if path.endswith(unit)), "")
    name = path.removesuffix(unit) or path
    if isinstance(value, list):
        return path, ", ".join(_fact(unit, item)[1] for item in value[:MAX_FACTS]) or MISSING
    if value is None or value == "":
        return name, MISSING
    if isinstance(value, bool):
        return path, "yes" if value else "no"
    if not isinstance(value, int):
        return path, str(value)
    if not unit or abs(value) >= _LARGEST:
        return path, _integer(value)
    return name, _UNITS[unit](value)


def _bytes(value: int) -> str:
    return f"{size(value)} ({value:,} B)" if value >= 1024 else f"{value:,} B"


def _integer(value: int) -> str:
    if abs(value) < _LARGEST:
        return f"{value:,}"
    text = str(value)
    return text if len(text) <= 24 else f"{text[:24]}\u2026"


def _positive(value: Any) -> int | None:
    return value if type(value) is int and 0 < value < _LARGEST else None


def _digits(value: float) -> str:
    """Returns three digits that mean something, without zeros at the end."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.3g}"


_UNITS: Mapping[str, Callable[[int], str]] = {
    _PPM: metric,
    "_ns": duration,
    "_bytes": _bytes,
    "_permille": share,
    "_unix_s": when,
}
