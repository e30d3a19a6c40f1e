"""The figures of the evaluation's page, as Plotly's JSON, from nothing but the evaluation.

Plotly reads a little HTML in its texts and names come from other people's files, so names are escaped here.
Names stand above their bars and not beside them: a phone needs the width for the bars. Does not know the
page.
"""

import html
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from tfx_mobile.common import inspection, web
from tfx_mobile.size_latency_evaluator import core
from tfx_mobile.size_latency_evaluator.comparison import compared, finite, metric_of, ordered
from tfx_mobile.size_latency_evaluator.config import AccuracyGate, Gate, RelativeTo, SizeGate
from tfx_mobile.size_latency_evaluator.evaluation import (
    QUANTILES,
    CandidateResult,
    Evaluation,
    LatencyResult,
    WeightResult,
    verdict_text,
)

Figure = dict[str, Any]

MAX_FILES = 15  # of the latency chart
MAX_WEIGHTS = 25  # of the sparsity chart
_MAX_HOVER = 70  # characters a line
_LOG_ABOVE = 30.0  # largest over smallest: then a linear axis shows one point and nothing else
_LEAST_RANGE = 1.25  # of times, largest over smallest, for the whole colour scale
_ALMOST_ALL = 0.995  # of the bytes of constants: the rest are many and tiny
_NEAR = 1.0  # a gate farther from the points than so many times their spread, or a decade, is not drawn
_BLUE, _GREY, _RED = "#3b7dc4", "#8b96a3", "#c8553d"
_HEAT = [[0, "#3b7dc4"], [0.5, "#c9b458"], [1, "#c8553d"]]  # seen on white and on black
_NAME_PX, _LINE_PX, _BAR_PX = 24, 6, 20  # of a row: the name, one process, one bar
_BAR_ROW_PX = _NAME_PX + _BAR_PX + 6
_KIND_COLOURS = dict(zip(inspection.KINDS, web.LINES, strict=False))


class _Span(NamedTuple):
    """What an axis shows, in its data's unit."""

    low: float
    high: float
    is_log: bool

    def scaled(self, value: float) -> float:
        """Returns a value as places along the axis go."""
        return math.log10(value) if self.is_log else value

    @property
    def ends(self) -> tuple[float, float]:
        """Returns both ends as places along the axis."""
        return self.scaled(self.low), self.scaled(self.high)

    def is_near(self, value: float) -> bool:
        """Returns whether a value is among the points or not far from them."""
        if self.is_log and value <= 0:
            return False
        low, high = self.ends
        room = max(_NEAR * (high - low), 1.0 if self.is_log else 0.0)
        return low - room <= self.scaled(value) <= high + room

    def widened(self, value: float) -> "_Span":
        """Returns the span with a value inside."""
        return _Span(min(self.low, value), max(self.high, value), self.is_log)

    def padded(self) -> list[float]:
        """Returns Plotly's range of the axis."""
        low, high = self.ends
        room = 0.08 * (high - low)
        return [low - room, high + room]


class _Line(NamedTuple):
    """A gate on one of the two axes."""

    axis: str
    at: float
    words: str


def front(evaluation: Evaluation) -> tuple[Figure, list[str]] | None:
    """Returns gz size against the first metric, and the gates that are too far off to be drawn.

    None when no file has both.
    """
    files = [found for found in _files(evaluation) if is_drawn(found, evaluation)]
    if not files:
        return None
    metric = evaluation.metrics[0]
    sizes = _span([float(found.gz_size_bytes) for found in files], is_log=True)
    values = _span([_value(found, evaluation) for found in files])
    lines, far = [], []
    for line in _gate_lines(evaluation):
        if (sizes if line.axis == "x" else values).is_near(line.at):
            lines.append(line)
        else:
            far.append(line.words)
    for line in lines:
        if line.axis == "x":
            sizes = sizes.widened(line.at)
        else:
            values = values.widened(line.at)
    times = sorted({found.latency.p50_us for found in files if found.latency})
    data = [_best_of_all(files, evaluation)] if metric.higher_is_better is not None else []
    for label, symbol, size, group in _groups(evaluation, files):
        if not group:
            continue
        # The legend has a point of its own: those of the colour scale would be black in it.
        sign = {"symbol": symbol, "size": min(size, 14), "color": _GREY}
        data.append({"type": "scatter", "mode": "markers", "name": label, "x": [None], "y": [None]})
        data[-1] |= {"marker": sign, "legendgroup": label}
        for is_timed in (True, False):
            found = [one for one in group if bool(one.latency and len(times) > 1) is is_timed]
            if found:
                data.append(_points(label, symbol, size, found, evaluation, sizes, is_timed=is_timed))
    layout = _layout("download size, gzip bytes", web.short(metric.name), 520)
    layout["xaxis"] |= {"type": "log", "range": sizes.padded(), **_size_ticks(sizes)}
    layout["yaxis"] |= {"type": "log" if values.is_log else "linear", "range": values.padded(), "nticks": 7}
    layout |= {"showlegend": True, "shapes": [_shape(line) for line in lines]}
    layout["annotations"] = [_words(line, sizes if line.axis == "x" else values) for line in lines]
    if len(times) > 1:
        layout["coloraxis"] = {
            "colorscale": _HEAT,
            **_colour_ends(times[0], times[-1]),
            "colorbar": {
                "orientation": "h",
                "thickness": 10,
                "outlinewidth": 0,
                "len": 0.8,
                "nticks": 6,
                "y": 0,
                "yref": "container",
                "yanchor": "bottom",
                "title": {"text": "median time of a call, \u00b5s", "side": "bottom"},
            },
        }
        layout["margin"]["b"] = 125
    return {"data": data, "layout": layout}, far


def _colour_ends(low: float, high: float) -> dict[str, float]:
    """Returns the ends of a colour scale that makes no show of differences that may be noise."""
    room = max(1.0, math.sqrt(_LEAST_RANGE * low / high)) if low > 0 else 1.0
    return {"cmin": low / room, "cmax": high * room}


def _size_ticks(span: _Span) -> Figure:
    """Returns ticks of a log axis in bytes: 1, 2 and 5 times powers of ten, more where they would be few."""
    low, high = (10**end for end in span.padded())
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), tuple(step / 10 for step in range(10, 100))):
        values = [step * 10.0**power for power in powers for step in steps]
        values = [value for value in values if low <= value <= high]
        if len(values) >= 3:
            break
    return {"tickmode": "array", "tickvals": values, "ticktext": [_short_bytes(value) for value in values]}


def _short_bytes(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def is_drawn(found: CandidateResult, evaluation: Evaluation) -> bool:
    """Returns whether a file has a size and the first metric."""
    has_metric = bool(evaluation.metrics) and metric_of(found, evaluation.metrics[0].name) is not None
    return found.gz_size_bytes > 0 and has_metric


def latency(evaluation: Evaluation) -> tuple[Figure, int] | None:
    """Returns the spread of single calls by process, and how many files were timed; None when none was.

    A thin line from the 5th to the 95th percentile, a thick one between the quartiles, a dot at the median;
    dots alone where quantiles were not kept.
    """
    first = [one.found for one in compared(evaluation)]
    timed = [found for found in (*first, *ordered(evaluation)) if found.latency is not None]
    timed = list({(found is evaluation.baseline, found.name): found for found in timed}.values())
    if not timed:
        return None
    roles = {id(one.found): one.role for one in compared(evaluation)}
    thin, thick, dots = _Bars(), _Bars(), _Bars()
    results = [(found, found.latency) for found in timed[:MAX_FILES] if found.latency is not None]
    most = max(_num_processes(result) for _, result in results)
    row_px = _NAME_PX + _LINE_PX * max(most, 2) + 6
    labels = []
    for place, (found, result) in enumerate(results):
        labels.append(_label(place, row_px, found.name, roles.get(id(found), "")))
        for process in range(_num_processes(result)):
            y = place + (_NAME_PX + _LINE_PX * (process + 0.5)) / row_px
            quantiles = _quantiles(result, process)
            hover = _latency_hover(found.name, process, quantiles)
            middle = quantiles.get(0.5)
            if 0.05 in quantiles and 0.95 in quantiles:
                thin.add((quantiles[0.05], quantiles[0.95]), y, hover)
            if 0.25 in quantiles and 0.75 in quantiles:
                thick.add((quantiles[0.25], quantiles[0.75]), y, hover)
            if middle is not None:
                dots.add((middle,), y, hover)
    data = [
        thin.trace("5 % to 95 % of the calls", {"mode": "lines", "line": {"color": _GREY, "width": 1.5}}),
        thick.trace("the middle half", {"mode": "lines", "line": {"color": _BLUE, "width": 4}}),
        dots.trace("median", {"mode": "markers", "marker": {"color": _RED, "size": 5}}),
    ]
    data = [trace for trace in data if trace["x"]]
    if not data:
        return None
    span = _span([x for trace in data for x in trace["x"] if x is not None])
    layout = _rows_layout("time of a call, \u00b5s", labels, row_px)
    layout["xaxis"] |= {"type": "log" if span.is_log else "linear", "nticks": 8, "rangemode": "normal"}
    layout["showlegend"] = len(data) > 1
    return {"data": data, "layout": layout}, len(timed)


def sparsity(found: CandidateResult) -> tuple[Figure, int, int] | None:
    """Returns the zeros of the constants that almost all bytes are in, how many those are, and of how many.

    None without any.
    """
    weights = [weight for weight in found.weights if finite(weight.zeros_fraction) is not None]
    if not weights:
        return None
    shown = _largest(weights)
    places = list(range(len(shown)))
    shapes = ["\u00d7".join(map(str, weight.shape)) or "scalar" for weight in shown]
    facts = [
        f"{_escaped(weight.dtype)} {shape}, {weight.size_bytes:,} bytes"
        for weight, shape in zip(shown, shapes, strict=True)
    ]
    data = [
        _bars(places, [100.0] * len(shown), "rgba(139, 150, 163, 0.22)") | {"hoverinfo": "skip"},
        _bars(places, [_rounded(100 * weight.zeros_fraction) for weight in shown], _BLUE)
        | {
            "text": [f"{100 * weight.zeros_fraction:.1f} %" for weight in shown],
            "textposition": "auto",
            "hovertext": [
                f"{web.short(weight.name)}<br>{fact}" for weight, fact in zip(shown, facts, strict=True)
            ],
            "hovertemplate": "%{hovertext}<br>%{x:.2f} % zeros<extra></extra>",
        },
    ]
    labels = [_label(place, _BAR_ROW_PX, weight.name, facts[place]) for place, weight in enumerate(shown)]
    layout = _rows_layout("zeros, %", labels, _BAR_ROW_PX)
    layout |= {"barmode": "overlay"}
    layout["xaxis"] |= {"range": [0, 100]}
    return {"data": data, "layout": layout}, len(shown), len(weights)


def _largest(weights: Sequence[WeightResult]) -> list[WeightResult]:
    most = _ALMOST_ALL * sum(weight.size_bytes for weight in weights)
    shown: list[WeightResult] = []
    for weight in sorted(weights, key=lambda weight: -weight.size_bytes)[:MAX_WEIGHTS]:
        if shown and sum(one.size_bytes for one in shown) >= most:
            break
        shown.append(weight)
    return shown


def breakdown(evaluation: Evaluation) -> Figure | None:
    """Returns what the bytes of the compared files are for, stacked by kind; None where nothing is known."""
    files = [one for one in compared(evaluation) if one.found.breakdown_bytes]
    if not files:
        return None
    known = [dict(one.found.breakdown_bytes or {}) for one in files]
    kinds = [kind for kind in inspection.KINDS if any(kind in sizes for sizes in known)]
    kinds += sorted({kind for sizes in known for kind in sizes} - set(kinds))
    places = list(range(len(files)))
    data = [
        _bars(places, [sizes.get(kind, 0) for sizes in known], _KIND_COLOURS.get(kind, _GREY))
        | {
            "name": web.short(kind),
            "hovertext": [
                f"{web.short(one.found.name)}<br>{web.short(kind)}: {sizes.get(kind, 0):,} bytes, "
                f"{_share(sizes.get(kind, 0), sum(sizes.values()))}"
                for one, sizes in zip(files, known, strict=True)
            ],
            "hovertemplate": "%{hovertext}<extra></extra>",
        }
        for kind in kinds
    ]
    labels = [
        _label(place, _BAR_ROW_PX, one.found.name, f"{one.role}, {sum(sizes.values()):,} bytes")
        for place, (one, sizes) in enumerate(zip(files, known, strict=True))
    ]
    layout = _rows_layout("bytes in the file", labels, _BAR_ROW_PX)
    layout |= {"barmode": "stack", "showlegend": True}
    layout["legend"]["traceorder"] = "normal"
    layout["height"] += 80  # several lines of a legend, on a phone
    return {"data": data, "layout": layout}


def history(evaluation: Evaluation) -> list[tuple[str, Figure]]:
    """Returns size and first metric by the registry's version, the chosen file as the last point."""
    if not evaluation.history:
        return []
    chosen = next((f for f in evaluation.candidates if f.name == evaluation.chosen), None)
    releases = sorted(evaluation.history, key=lambda release: release.version)
    has_gz = all(release.gz_size_bytes for release in releases)
    sizes = [(_version(r), float(r.gz_size_bytes if has_gz else r.size_bytes), r.published) for r in releases]
    if chosen is not None and chosen.size_bytes:
        now = "chosen now" if evaluation.blessed else "best now"
        sizes.append((now, float(chosen.gz_size_bytes if has_gz else chosen.size_bytes), ""))
    unit = "gzip bytes" if has_gz else "bytes"
    found = [(unit, _by_version(sizes, unit, from_zero=True))]
    if not evaluation.metrics:
        return found
    name = evaluation.metrics[0].name
    values = [
        (_version(r), value, r.published)
        for r in releases
        if (value := finite(r.metrics.get(name))) is not None
    ]
    if values:
        if (value := metric_of(chosen, name)) is not None:
            values.append(("chosen now" if evaluation.blessed else "best now", value, ""))
        found.append((name, _by_version(values, web.short(name), from_zero=False)))
    return found


def _version(release: Any) -> str:
    return f"v{release.version}"


def _by_version(points: Sequence[tuple[str, float, str]], name: str, *, from_zero: bool) -> Figure:
    is_now = [not label.startswith("v") for label, _, _ in points]
    layout = _layout("", name, 260)
    layout["xaxis"] |= {"type": "category", "showgrid": False, "nticks": 8}
    layout["yaxis"] |= {"nticks": 5} | ({"rangemode": "tozero"} if from_zero else {})
    trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [label for label, _, _ in points],
        "y": [_rounded(value) for _, value, _ in points],
        "line": {"color": _GREY, "width": 1.5},
        "marker": {
            "size": [14 if now else 8 for now in is_now],
            "symbol": ["star" if now else "circle" for now in is_now],
            "color": [_RED if now else _BLUE for now in is_now],
        },
        "hovertext": [f"{label} {_escaped(published)}".strip() for label, _, published in points],
        "hovertemplate": "%{hovertext}: %{y:,.5g}<extra></extra>",
    }
    return {"data": [trace], "layout": layout}


def _files(evaluation: Evaluation) -> list[CandidateResult]:
    return [*evaluation.candidates, *([evaluation.baseline] if evaluation.baseline else [])]


def _value(found: CandidateResult, evaluation: Evaluation) -> float:
    value = metric_of(found, evaluation.metrics[0].name)
    return math.nan if value is None else value


def _groups(
    evaluation: Evaluation, files: Sequence[CandidateResult]
) -> list[tuple[str, str, int, list[CandidateResult]]]:
    """Returns label, symbol, size and files of each kind of point; each file is of one kind."""
    chosen: list[CandidateResult] = []
    reference: list[CandidateResult] = []
    baseline: list[CandidateResult] = []
    passing: list[CandidateResult] = []
    stopped: list[CandidateResult] = []
    for found in files:
        if found is evaluation.baseline:
            baseline.append(found)
        elif found.name == evaluation.chosen:
            chosen.append(found)
        elif found.name == evaluation.reference:
            reference.append(found)
        else:
            (passing if found.passes else stopped).append(found)
    return [
        (f"does not pass ({len(stopped)})", "x", 10, stopped),
        (f"passes ({len(passing)})", "circle", 11, passing),
        ("reference: dense float32", "square", 13, reference),
        ("baseline: phones today", "diamond", 14, baseline),
        ("chosen" if evaluation.blessed else "best, not blessed", "star", 22, chosen),
    ]


def _points(
    label: str,
    symbol: str,
    size: int,
    found: Sequence[CandidateResult],
    evaluation: Evaluation,
    sizes: _Span,
    *,
    is_timed: bool,
) -> Figure:
    is_named = size > 12
    low, high = sizes.ends
    marker: dict[str, Any] = {"symbol": symbol, "size": size, "line": {"width": 1, "color": _GREY}}
    if is_timed:
        marker |= {"color": [one.latency.p50_us for one in found if one.latency], "coloraxis": "coloraxis"}
    else:
        marker |= {"color": _GREY}
    return {
        "type": "scatter",
        "mode": "markers+text" if is_named else "markers",
        "name": label,
        "legendgroup": label,
        "showlegend": False,
        "x": [one.gz_size_bytes for one in found],
        "y": [_value(one, evaluation) for one in found],
        "text": [web.short(one.name) if is_named else "" for one in found],
        "textposition": [
            "top left" if math.log10(one.gz_size_bytes) > (low + high) / 2 else "top right" for one in found
        ],
        "hovertext": [_hover(one, evaluation) for one in found],
        "hoverinfo": "text",
        "cliponaxis": False,
        "marker": marker,
    }


def _best_of_all(files: Sequence[CandidateResult], evaluation: Evaluation) -> Figure:
    """Returns the line through the files that no other file beats on both axes."""
    sign = -1.0 if evaluation.metrics[0].higher_is_better else 1.0
    best: list[tuple[int, float]] = []
    for size, value in sorted((one.gz_size_bytes, sign * _value(one, evaluation)) for one in files):
        if not best or value < best[-1][1]:
            best.append((size, value))
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "Pareto front",
        "x": [size for size, _ in best],
        "y": [sign * value for _, value in best],
        "hoverinfo": "skip",
        "line": {"dash": "dot", "width": 1.5, "shape": "hv", "color": _GREY},
    }


def _hover(found: CandidateResult, evaluation: Evaluation) -> str:
    lines = [f"<b>{web.short(found.name)}</b>"]
    for metric in evaluation.metrics[:6]:
        if (value := metric_of(found, metric.name)) is not None:
            lines.append(f"{web.short(metric.name)} {web.number(value)}")
    lines.append(f"{found.gz_size_bytes:,} gz bytes, {found.size_bytes:,} bytes")
    if found.latency is not None:
        ratio = found.latency.ratio
        versus = f", {ratio.estimate:.3f} of reference" if ratio is not None else ""
        lines.append(f"median call {web.number(found.latency.p50_us)} \u00b5s{versus}")
    if found is not evaluation.baseline:
        for part in verdict_text(found).split("; ")[:8]:
            lines += [_escaped(piece) for piece in _wrapped(part)]
    return "<br>".join(lines)


def _wrapped(text: str) -> list[str]:
    """Returns a text as at most three lines that fit into a hover box."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    lines = [plain[start : start + _MAX_HOVER] for start in range(0, len(plain), _MAX_HOVER)]
    return lines if len(lines) <= 3 else [*lines[:2], lines[2][: _MAX_HOVER - 1] + "\u2026"]


def _gate_lines(evaluation: Evaluation) -> list[_Line]:
    """Returns the gates on all rows that are about one of the two axes."""
    found = []
    for gate in evaluation.gates:
        if getattr(gate, "slices", ()):
            continue
        if isinstance(gate, SizeGate):
            axis, at = "x", _size_limit(gate, _other(gate, evaluation))
        elif isinstance(gate, AccuracyGate) and _metric_name(gate) == evaluation.metrics[0].name:
            axis, at = "y", _metric_limit(gate, _other(gate, evaluation))
        else:
            continue
        if at is not None and math.isfinite(at):
            found.append(_Line(axis, at, core.describe(gate)))
    return found


def _metric_name(gate: AccuracyGate) -> str:
    return str(getattr(gate.metric, "value", gate.metric))


def _other(gate: Gate, evaluation: Evaluation) -> CandidateResult | None:
    if not gate.is_relative:
        return None
    if gate.relative_to is RelativeTo.BASELINE:
        return evaluation.baseline
    return next((one for one in evaluation.candidates if one.name == evaluation.reference), None)


def _size_limit(gate: SizeGate, other: CandidateResult | None) -> float | None:
    if gate.max_ratio is not None:
        return gate.max_ratio * other.gz_size_bytes if other is not None and other.gz_size_bytes else None
    return None if gate.max_gz_bytes is None else float(gate.max_gz_bytes)


def _metric_limit(gate: AccuracyGate, other: CandidateResult | None) -> float | None:
    if gate.max_value is not None:
        return gate.max_value
    if gate.min_value is not None:
        return gate.min_value
    start = metric_of(other, _metric_name(gate))
    if start is None:
        return None
    if gate.max_drop is not None:
        return start - gate.max_drop
    return start * (1.0 + (gate.max_increase_fraction or 0.0))


def _shape(line: _Line) -> Figure:
    across = "y" if line.axis == "x" else "x"
    return {
        "type": "line",
        f"{line.axis}0": line.at,
        f"{line.axis}1": line.at,
        f"{line.axis}ref": line.axis,
        f"{across}0": 0,
        f"{across}1": 1,
        f"{across}ref": "paper",
        "line": {"dash": "dash", "width": 1.5, "color": _RED},
        "layer": "below",
    }


def _words(line: _Line, span: _Span) -> Figure:
    is_upright = line.axis == "x"
    across = "y" if is_upright else "x"
    return {
        "text": web.short(line.words),
        # A log axis takes annotations, unlike shapes, as exponents of ten.
        line.axis: span.scaled(line.at),
        f"{line.axis}ref": line.axis,
        across: 0.99,
        f"{across}ref": "paper",
        "showarrow": False,
        "xanchor": "left" if is_upright else "right",
        "yanchor": "top" if is_upright else "bottom",
        "textangle": -90 if is_upright else 0,
        "font": {"size": 11, "color": _RED},
    }


class _Bars:
    """Lines and dots of one look, gathered; None parts one line from the next."""

    def __init__(self) -> None:
        self._x: list[float | None] = []
        self._y: list[float | None] = []
        self._hover: list[str] = []

    def add(self, xs: Sequence[float], y: float, hover: str) -> None:
        gap = [None] if len(xs) > 1 else []
        self._x += [*(_rounded(x) for x in xs), *gap]
        self._y += [*(round(y, 4) for _ in xs), *gap]
        self._hover += [hover] * (len(xs) + len(gap))

    def trace(self, name: str, look: Figure) -> Figure:
        shown = {"x": self._x, "y": self._y, "hovertext": self._hover, "hoverinfo": "text"}
        return {"type": "scatter", "name": name, **shown, **look}


def _num_processes(result: LatencyResult) -> int:
    return max(len(result.p50_us_by_process), len(result.quantiles_us_by_process))


def _quantiles(result: LatencyResult, process: int) -> dict[float, float]:
    """Returns the times of one process by their quantile; the median alone where nothing else was kept."""
    if process < len(result.quantiles_us_by_process):
        pairs = zip(QUANTILES, result.quantiles_us_by_process[process], strict=False)
        return {quantile: value for quantile, value in pairs if finite(value) is not None and value > 0}
    middle = result.p50_us_by_process[process]
    return {0.5: middle} if finite(middle) is not None and middle > 0 else {}


def _latency_hover(name: str, process: int, quantiles: dict[float, float]) -> str:
    times = [f"p{100 * quantile:g} {web.number(value)} \u00b5s" for quantile, value in quantiles.items()]
    return "<br>".join([f"<b>{web.short(name)}</b>, process {process + 1}", *times])


def _bars(places: Sequence[int], values: Sequence[float], colour: str) -> Figure:
    return {
        "type": "bar",
        "orientation": "h",
        "y": [place + (_NAME_PX + _BAR_PX / 2) / _BAR_ROW_PX for place in places],
        "x": list(values),
        "width": _BAR_PX / _BAR_ROW_PX,
        "marker": {"color": colour, "line": {"width": 0}},
    }


def _label(place: int, row_px: int, name: str, note: str) -> Figure:
    return {
        "text": f"<b>{web.short(name)}</b>" + (f" <i>{note}</i>" if note else ""),
        "xref": "paper",
        "x": 0,
        "xanchor": "left",
        "yref": "y",
        "y": place + 0.5 * _NAME_PX / row_px,
        "yanchor": "middle",
        "showarrow": False,
        "align": "left",
        "font": {"size": 12},
    }


def _rows_layout(x: str, labels: list[Figure], row_px: int) -> Figure:
    layout = _layout(x, "", 100 + row_px * len(labels))
    layout["xaxis"] |= {"rangemode": "tozero"}
    layout["yaxis"] |= {
        "range": [len(labels), 0],
        "tickmode": "array",
        "tickvals": list(range(1, len(labels))),
        "showticklabels": False,
    }
    layout["annotations"] = labels
    layout["margin"]["l"] = 14
    return layout


def _layout(x: str, y: str, height: int) -> Figure:
    return {
        "xaxis": {"title": {"text": x}, "zeroline": False, "automargin": True},
        "yaxis": {"title": {"text": y}, "zeroline": False, "automargin": True},
        "height": height,
        "margin": {"l": 50, "r": 16, "t": 20, "b": 50},
        "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "showlegend": False,
        "dragmode": False,
    }


def _span(values: Sequence[float], *, is_log: bool | None = None) -> _Span:
    """Returns the span of values; it has some width even where they are all the same."""
    low, high = min(values), max(values)
    if is_log is None:
        is_log = low > 0 and high > _LOG_ABOVE * low
    if is_log:
        return _Span(low / 1.2, high * 1.2, True) if high < 1.1 * low else _Span(low, high, True)
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-300):
        room = abs(low) / 10 or 1.0
        return _Span(low - room, high + room, False)
    return _Span(low, high, False)


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
