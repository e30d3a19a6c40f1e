"""A figure over the versions as a line chart: where its points, lines and labels stand, for an SVG element.

The pages have no scripts, so a chart is drawn here once and not by the browser; its colours are classes that
follow light and dark. Knows nothing of models: names, numbers and what they mean come in, places go out.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

WIDTH, HEIGHT = 300, 194
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 8, 10, 42
_MAX_LABELS = 7
_CHARACTER = 7.2  # width of a digit in a wide font
_TICKS = 4
_ROOM = 0.08  # of the range, above and below


@dataclasses.dataclass(frozen=True)
class Point:
    """One value.

    Attributes:
      place: Where along the x axis, from 0.
      value: In the chart's unit; finite.
      title: What is said of it under the pointer.
      is_hollow: Drawn as an outline: it is not offered any more.
    """

    place: int
    value: float
    title: str
    is_hollow: bool = False


@dataclasses.dataclass(frozen=True)
class Series:
    """Values that are joined by a line.

    Attributes:
      name: For the legend.
      points: By rising place; at least one.
    """

    name: str
    points: tuple[Point, ...]


@dataclasses.dataclass(frozen=True)
class Dot:
    """A point where it stands."""

    x: float
    y: float
    title: str
    is_hollow: bool


@dataclasses.dataclass(frozen=True)
class Line:
    """A series where it stands; `path` is for a polyline's `points`."""

    name: str
    path: str
    dots: tuple[Dot, ...]


@dataclasses.dataclass(frozen=True)
class Label:
    """A text on an axis; `tick` is where along the axis it belongs."""

    x: float
    y: float
    text: str
    tick: float


@dataclasses.dataclass(frozen=True)
class Chart:
    """What an SVG element of WIDTH x HEIGHT shows.

    Attributes:
      title: What is drawn, with its unit.
      summary: The same for those who do not see it: first, last, least and largest value.
      lines: Drawn series.
      y_labels: Beside a line across the chart.
      x_labels: Below.
      left: Where the x axis begins.
      right: Where it ends.
      bottom: Where it lies.
    """

    title: str
    summary: str
    lines: tuple[Line, ...]
    y_labels: tuple[Label, ...]
    x_labels: tuple[Label, ...]
    left: float
    right: float = WIDTH - _RIGHT
    bottom: float = HEIGHT - _BOTTOM


def chart(
    title: str, series: Sequence[Series], places: Sequence[str], shown: Callable[[float], str]
) -> Chart | None:
    """Returns a chart of what has at least two values.

    Args:
      title: What is drawn, with its unit.
      series: What to draw; those without points are left out.
      places: Name of each place along the x axis.
      shown: Writes a value for the summary.

    Returns:
      None when there are fewer than two values: a single one is better read in a table.
    """
    drawn = [one for one in series if one.points]
    values = [point.value for one in drawn for point in one.points]
    if len(values) < 2:
        return None
    ticks = nice_ticks(min(values), max(values))
    low, high = min(*values, ticks[0]), max(*values, ticks[-1])
    room = _ROOM * (high - low) if high > low else 1.0
    low, high = low - room, high + room
    last = max(1, len(places) - 1)
    digits = _decimals(ticks)
    texts = [f"{tick:,.{digits}f}" for tick in ticks]
    left = max(_LEFT, round(_width(texts)) + 8)
    inner = WIDTH - left - _RIGHT - 12

    def x(place: int) -> float:
        return round(left + 6 + inner * (place / last if len(places) > 1 else 0.5), 1)

    def y(value: float) -> float:
        return round(_TOP + (HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low), 1)

    lines = []
    for one in drawn:
        dots = tuple(Dot(x(p.place), y(p.value), p.title, p.is_hollow) for p in one.points)
        lines.append(Line(one.name, " ".join(f"{dot.x:g},{dot.y:g}" for dot in dots), dots))
    most = min(_MAX_LABELS, int(inner / (_width(places) + _CHARACTER)))
    step = max(1, math.ceil((len(places) - 1) / (most - 1))) if most > 1 else len(places)

    def label(place: int) -> Label:
        half = _width([places[place]]) / 2
        within = min(max(x(place), half), WIDTH - half)
        return Label(round(within, 1), HEIGHT - _BOTTOM + 16, places[place], x(place))

    return Chart(
        title,
        "; ".join(f"{one.name}: {_summary(one, places, shown)}" for one in drawn),
        tuple(lines),
        tuple(Label(left - 6, y(tick), text, y(tick)) for tick, text in zip(ticks, texts, strict=True)),
        tuple(label(place) for place in range(len(places) - 1, -1, -step)),
        left,
    )


def nice_ticks(low: float, high: float) -> list[float]:
    """Returns three to six values one, two or five times a power of ten apart, within or just about a range.

    >>> nice_ticks(0.013, 0.047)
    [0.01, 0.02, 0.03, 0.04, 0.05]
    >>> nice_ticks(7.0, 7.0)
    [7.0]
    """
    if not high > low:
        return [low]
    raw = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    digits = max(0, -math.floor(math.log10(step)))
    return [round(i * step, digits) for i in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _decimals(ticks: Sequence[float]) -> int:
    if len(ticks) == 1:
        return 0 if ticks[0] == round(ticks[0]) else 3
    return max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))


def _width(texts: Sequence[str]) -> float:
    return _CHARACTER * max(len(text) for text in texts)


def _summary(series: Series, places: Sequence[str], shown: Callable[[float], str]) -> str:
    first, last = series.points[0], series.points[-1]
    least = min(series.points, key=lambda point: point.value)
    most = max(series.points, key=lambda point: point.value)
    return (
        f"{shown(first.value)} in {places[first.place]}, {shown(last.value)} in {places[last.place]}, "
        f"least {shown(least.value)} in {places[least.place]}, "
        f"most {shown(most.value)} in {places[most.place]}"
    )
