"""The figures of the reduction's page, as Plotly's JSON, from nothing but the report.

Plotly reads a little HTML in its texts and names come from other people's data, so names are escaped here.
Sizes are bounded: of many columns and components the strongest are drawn. Does not know the page.
"""

import collections
import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfx_mobile.common import web
from tfx_mobile.dimensionality_reducer.rows import FloatArray

Figure = dict[str, Any]

MAX_COLUMNS = 40  # of a heat map or bar chart: more are not readable
MAX_COMPONENTS = 64  # of a heat map
MAX_VARIANCES = 200  # of a scree plot
_MAX_CLASSES = 10  # of a legend
_MAX_CELLS_WITH_NUMBERS = 12  # components
_LOG_ABOVE = 30  # times the median: then a linear axis shows one bar and no others
_ROW_PX = 21
_BLUE, _GREY, _RED = "#3b7dc4", "#a9b4c0", "#c8553d"
_DIVERGING = [[0, "#2166ac"], [0.25, "#92c5de"], [0.5, "#f7f7f7"], [0.75, "#f4a582"], [1, "#b2182b"]]
# Of these methods the loadings are not what a column is multiplied by: they are a column's values in each
# part, in its own unit; or they have no unit.
IN_OWN_UNIT = ("nmf",)
WITHOUT_UNIT = ("latent_dirichlet_allocation", "sparse_pca")


def share(value: float) -> str:
    """Returns a share as a percentage that is only 100 or 0 where it is.

    >>> share(0.5), share(0.9994), share(0.9999), share(1.0), share(0.0001)
    ('50 %', '99.9 %', 'more than 99.9 %', '100 %', 'less than 0.1 %')
    """
    if value > 1 - 1e-9:
        return "100 %"
    if value >= 0.9995:
        return "more than 99.9 %"
    if 0 < value < 0.0005:
        return "less than 0.1 %"
    return f"{100 * value:.1f}".removesuffix(".0") + " %"


def variances(reduction: dict[str, Any], noun: str) -> tuple[Figure, int] | None:
    """Returns scree plot and cumulative variance side by side with the cut, and how many are drawn.

    None for a method without variances.
    """
    found = shares(reduction)
    if found is None:
        return None
    kept = reduction["num_components"]
    drawn = found[: min(MAX_VARIANCES, max(3 * kept, MAX_COLUMNS))]
    places = list(range(1, len(drawn) + 1))
    running = np.minimum(np.cumsum(found), 1.0)
    colours = [_BLUE if place <= kept else _GREY for place in places]
    ticks = {"tickvals": places} if len(drawn) <= 20 else {"nticks": 8}
    aside = 0.6 + max(0, 4 - len(drawn)) / 2  # one bar alone need not be as wide as the picture
    axis = {"range": [1 - aside, len(drawn) + aside], "title": {"text": noun}, "zeroline": False, **ticks}
    figure: Figure = {
        "data": [
            {
                "type": "bar",
                "x": places,
                "y": _rounded(100 * drawn),
                "width": 0.7,
                "marker": {"color": colours},
                "hovertemplate": f"{noun} %{{x}}: %{{y:.4g}} %<extra></extra>",
            },
            *(
                {
                    "type": "scatter",
                    "mode": "lines" if len(drawn) > MAX_COLUMNS else "lines+markers",
                    "x": places[part],
                    "y": _rounded(100 * running[: len(drawn)][part]),
                    "xaxis": "x2",
                    "yaxis": "y2",
                    "line": {"color": colour, "width": 2},
                    "marker": {"color": colours[part], "size": 8},
                    "hovertemplate": "the first %{x}: %{y:.4f} %<extra></extra>",
                }
                for part, colour in ((slice(max(kept - 1, 0), None), _GREY), (slice(kept), _BLUE))
            ),
        ],
        "layout": {
            "xaxis": axis | {"domain": [0.0, 0.45]},
            "yaxis": {
                "title": {"text": "share of each, %"},
                "rangemode": "tozero",
                "automargin": True,
            },
            "xaxis2": axis | {"domain": [0.56, 1.0], "anchor": "y2"},
            "yaxis2": {
                "title": {"text": "share of the first ones, %"},
                "range": [0, 105],
                "anchor": "x2",
            },
            "showlegend": False,
            "height": 300,
            "margin": {"l": 60, "r": 20, "t": 14, "b": 50},
        },
    }
    if kept < len(drawn):
        figure["layout"]["shapes"] = [_line("x", kept + 0.5, "y"), _line("x2", kept + 0.5, "y2")]
    if kept <= len(drawn):
        # Under the curve, on the side that has more room.
        left = kept > len(drawn) / 2
        figure["layout"]["annotations"] = [
            {
                "text": f"{kept} kept: {share(float(running[kept - 1]))}",
                "xref": "x2",
                "yref": "y2",
                "x": kept + (0.5 if kept < len(drawn) else 0.4),
                "y": 8,
                "xanchor": "right" if left else "left",
                "yanchor": "bottom",
                "xshift": -6 if left else 6,
                "showarrow": False,
            }
        ]
    return figure, len(drawn)


def shares(reduction: dict[str, Any]) -> FloatArray | None:
    """Returns the share of each component, those that were cut off too; None where the method has none."""
    every, ratio = reduction["all_variances"], reduction["explained_variance_ratio"]
    if not every:
        return np.array(ratio, np.float64) if ratio else None
    found = np.array(every, np.float64)
    total = reduction["total_variance"]
    if total is None:
        first = reduction["explained_variance"][0] if ratio else 0.0
        total = first / ratio[0] if first > 0 else found.sum()
    return np.asarray(found / total) if total > 0 else None


def loadings(reduction: dict[str, Any], noun: str) -> tuple[Figure, int, int] | None:
    """Returns a heat map of columns by components, and how many of both it shows; None without loadings.

    A cell is how far the output moves when the column moves by its standard deviation, each component scaled
    to length 1 (over all columns, also those that are not shown); of parts, the column in standard
    deviations; of topics and sparse components, the loading.
    """
    weights = relative_loadings(reduction)
    if weights is None:
        return None
    num_components = min(weights.shape[1], MAX_COMPONENTS)
    weights = weights[:, :num_components]
    ratio = reduction["explained_variance_ratio"]  # a component that keeps little says little of a column
    strength = weights**2 @ (np.array(ratio[:num_components]) if ratio else np.ones(num_components))
    order = np.argsort(-strength, kind="stable")[:MAX_COLUMNS]
    strongest = np.sort(order)  # in their own order
    cells = weights[strongest]
    names = [reduction["columns"][i] for i in strongest]
    limit = float(np.abs(cells).max()) or 1.0
    components = list(range(1, num_components + 1))
    trace: dict[str, Any] = {
        "type": "heatmap",
        "x": components,
        "y": list(range(len(names))),
        "z": [[round(float(v), 4) for v in row] for row in cells],
        "zmin": -limit,
        "zmax": limit,
        "zmid": 0,
        "colorscale": _DIVERGING,
        "xgap": 1,
        "ygap": 1,
        "hovertext": [[html.escape(name)] * num_components for name in names],
        "hovertemplate": f"%{{hovertext}}<br>{noun} %{{x}}: %{{z:.3f}}<extra></extra>",
        "colorbar": {"thickness": 12, "outlinewidth": 0, "nticks": 7},
    }
    if num_components <= _MAX_CELLS_WITH_NUMBERS:
        trace["text"] = [[f"{v:.2f}".replace("-0.00", "0.00") for v in row] for row in cells]
        trace["texttemplate"] = "%{text}"
    ticks = {"dtick": 1} if num_components <= 32 else {"nticks": 16}
    figure = {
        "data": [trace],
        "layout": {
            "xaxis": {"title": {"text": noun}, "showgrid": False, "zeroline": False, **ticks},
            "yaxis": {
                "autorange": "reversed",
                "tickvals": list(range(len(names))),
                "ticktext": [web.short(name) for name in names],
                "ticklabelstandoff": 4,
                "automargin": True,
                "showgrid": False,
                "zeroline": False,
            },
            "height": max(220, 90 + _ROW_PX * len(names)),
            "margin": {"l": 20, "r": 20, "t": 10, "b": 50},
        },
    }
    return figure, len(names), num_components


def relative_loadings(reduction: dict[str, Any]) -> FloatArray | None:
    """Returns loadings that can be compared between columns and components, shape (d, k)."""
    if not reduction["loadings"]:
        return None
    weights = np.array(reduction["loadings"], np.float64).T
    kind, deviations = reduction["settings"]["kind"], reduction["column_deviations"]
    if deviations and kind not in WITHOUT_UNIT:
        scale = np.array(deviations)[:, None]
        if kind in IN_OWN_UNIT:
            scale = np.where(scale > 0, 1 / np.where(scale > 0, scale, 1.0), 0.0)
        weights = weights * scale
    lengths = np.sqrt((weights**2).sum(axis=0))
    return np.asarray(weights / np.where(lengths > 0, lengths, 1.0))


def scores(reduction: dict[str, Any], name: str) -> tuple[Figure, int] | None:
    """Returns the columns' scores as bars, kept and dropped, and how many there are; None without scores."""
    found = {column: float(score) for column, score in reduction["scores"].items() if score is not None}
    if not found:
        return None
    kept = set(reduction["kept"])
    ranked = sorted(found, key=lambda column: (-found[column], column))
    # Of many, some that stay are among those shown even where a low score is what keeps a column.
    some = [column for column in ranked if column in kept][: MAX_COLUMNS // 2]
    chosen = {*some, *[column for column in ranked if column not in some][: MAX_COLUMNS - len(some)]}
    shown = [column for column in ranked if column in chosen]
    finite = [found[column] for column in shown if abs(found[column]) <= web.INFINITE]
    positive = [value for value in finite if value > 0]
    longest = max((abs(value) for value in finite), default=0.0) or 1.0
    shortest = min([0.0, *finite])
    is_log = not shortest and bool(positive) and longest > _LOG_ABOVE * float(np.median(positive))
    low = min(positive) / 2 if is_log else -longest
    traces = []
    for label, colour, inside in (("kept", _BLUE, True), ("dropped", _GREY, False)):
        places = [i for i, column in enumerate(shown) if (column in kept) is inside]
        values = [found[shown[i]] for i in places]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": f"{label} ({sum((column in kept) is inside for column in found)})",
                "y": places,
                "x": _rounded([max(low, min(longest, value)) for value in values]),
                "width": 0.75,
                "text": [web.number(value) for value in values],
                "textposition": "outside",
                "cliponaxis": False,
                "marker": {"color": colour},
                "hovertext": [html.escape(shown[i]) for i in places],
                "hovertemplate": "%{hovertext}: %{text}<extra></extra>",
            }
        )
    room = 1.15  # for the numbers at the ends of the bars
    limits = [room * shortest, room * longest]
    if is_log:
        limits = [math.log10(low), math.log10(low) + room * math.log10(longest / low)]
    layout: dict[str, Any] = {
        "xaxis": {
            "title": {"text": f"{name} (log)" if is_log else name},
            "type": "log" if is_log else "linear",
            "range": limits,
            "zeroline": True,
            **({"dtick": 1} if is_log else {"nticks": 6}),
        },
        "yaxis": {
            "range": [len(shown) - 0.4, -0.6],
            "tickvals": list(range(len(shown))),
            "ticktext": [web.short(column) for column in shown],
            "ticklabelstandoff": 4,
            "automargin": True,
            "showgrid": False,
            "zeroline": False,
        },
        "height": max(200, 110 + _ROW_PX * len(shown)),
        "margin": {"l": 20, "r": 30, "t": 34, "b": 50},
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        "showlegend": True,
    }
    threshold = reduction["settings"].get("threshold")
    if threshold is not None and (low if is_log else shortest) <= threshold <= longest:
        layout["shapes"] = [_line("x", threshold, "y")]
    return {"data": traces, "layout": layout}, len(shown)


def projection(reduction: dict[str, Any], label: str, axes: Sequence[str]) -> Figure | None:
    """Returns the rows of the sample by their first two outputs, coloured by label; None without a sample.

    Args:
      reduction: Of the report.
      label: Name of the label.
      axes: What the outputs are called.
    """
    sample = reduction["sample"]
    if sample is None or not sample["outputs"] or not sample["outputs"][0]:
        return None
    labels = sample["labels"]
    names, title = [web.short(one) for one in axes], web.short(label)
    groups = None if labels is None else classes(labels)
    if len(sample["outputs"]) > 1:
        x, y = sample["outputs"][:2]
        figure = _points(x, y, labels, groups, title)
        return _with_axes(figure, names[0], names[1])
    x = sample["outputs"][0]
    if labels is not None and groups is None:
        figure = _points(x, [v if isinstance(v, float) else None for v in labels], None, None, title)
        return _with_axes(figure, names[0], title)
    return _with_axes(_histogram(x, labels, groups, title), names[0], "rows of the sample")


def classes(labels: Sequence[Any]) -> list[Any] | None:
    """Returns the labels that stand for classes, None if they are numbers.

    Strings are classes, and so are at most ten different whole numbers. They come in their own order, but the
    most frequent first where there are more than ten.
    """
    counts = collections.Counter(label for label in labels if label is not None)
    if any(isinstance(label, float) for label in counts):
        whole = all(isinstance(label, float) and label.is_integer() for label in counts)
        if not whole or len(counts) > _MAX_CLASSES:
            return None
    if len(counts) <= _MAX_CLASSES:
        return sorted(counts)
    return sorted(counts, key=lambda one: (-counts[one], one))


def _points(
    x: Sequence[Any], y: Sequence[Any], labels: Sequence[Any] | None, groups: list[Any] | None, title: str
) -> Figure:
    said = title.replace("%{", "% {")  # a hover template would put a value there
    marker = {"size": 5 if len(x) > 300 else 7, "opacity": 0.75, "line": {"width": 0}}
    base = {"type": "scatter", "mode": "markers", "hovertemplate": "(%{x:.4g}, %{y:.4g})<extra></extra>"}
    if labels is None:
        return {"data": [{**base, "x": list(x), "y": list(y), "marker": marker | {"color": _BLUE}}]}
    if groups is None:
        values = [label if isinstance(label, float) else None for label in labels]
        known = [value for value in values if value is not None]
        # A few extreme labels must not leave one colour for all others.
        low, high = (float(v) for v in np.percentile(known, [2, 98]))
        trace = {
            **base,
            "x": list(x),
            "y": list(y),
            "text": ["?" if value is None else web.number(value) for value in values],
            "hovertemplate": f"(%{{x:.4g}}, %{{y:.4g}})<br>{said} %{{text}}<extra></extra>",
            "marker": {
                **marker,
                "color": values,
                "cmin": low,
                "cmax": high if high > low else low + 1.0,
                "colorscale": "Viridis",
                "showscale": True,
                "colorbar": {
                    "title": {"text": title, "side": "right"},
                    "thickness": 12,
                    "outlinewidth": 0,
                },
            },
        }
        return {"data": [trace]}
    traces = []
    for name, colour, places in _by_class(labels, groups):
        traces.append(
            {
                **base,
                "name": name,
                "x": [x[i] for i in places],
                "y": [y[i] for i in places],
                "text": name,
                "hovertemplate": f"(%{{x:.4g}}, %{{y:.4g}})<br>{said} %{{text}}<extra></extra>",
                "marker": marker | {"color": colour},
            }
        )
    return {"data": traces, "layout": _legend(title, traces)}


def _histogram(
    x: Sequence[float], labels: Sequence[Any] | None, groups: list[Any] | None, title: str
) -> Figure:
    base = {"type": "histogram", "nbinsx": 40, "bingroup": "x"}
    if labels is None or groups is None:
        return {"data": [{**base, "x": list(x), "marker": {"color": _BLUE}}]}
    traces = [
        {**base, "name": name, "x": [x[i] for i in places], "marker": {"color": colour}}
        for name, colour, places in _by_class(labels, groups)
    ]
    return {"data": traces, "layout": _legend(title, traces) | {"barmode": "stack"}}


def _by_class(labels: Sequence[Any], groups: list[Any]) -> list[tuple[str, str, list[int]]]:
    """Returns name, colour and rows of each class; those beyond the tenth and missing ones are 'other'."""
    named = groups if len(groups) <= _MAX_CLASSES else groups[: _MAX_CLASSES - 1]
    found = []
    for group, colour in zip(named, web.LINES, strict=False):
        name = f"{group:.0f}" if isinstance(group, float) else web.short(group)
        found.append((name, colour, [i for i, label in enumerate(labels) if label == group]))
    known = set(named)
    rest = [i for i, label in enumerate(labels) if label not in known]
    return [*found, ("other", _GREY, rest)] if rest else found


def _legend(title: str, traces: list[dict[str, Any]]) -> Figure:
    legend: dict[str, Any] = {
        "title": {"text": title},
        "itemsizing": "constant",
        "traceorder": "normal",
    }
    if max(len(text) for text in (title, *(trace["name"] for trace in traces))) > web.MAX_NAME // 2:
        legend |= {"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"}  # below; else no room is left
    return {"legend": legend, "showlegend": True}


def _with_axes(figure: Figure, x: str, y: str) -> Figure:
    layout = {
        "xaxis": {"title": {"text": x}, "zeroline": False},
        "yaxis": {"title": {"text": y}, "zeroline": False, "automargin": True},
        "height": 420,
        "margin": {"l": 60, "r": 20, "t": 10, "b": 50},
        "hovermode": "closest",
    }
    return {"data": figure["data"], "layout": layout | figure.get("layout", {})}


def _line(xref: str, at: float, yref: str) -> Figure:
    return {
        "type": "line",
        "xref": xref,
        "x0": at,
        "x1": at,
        "yref": f"{yref} domain",
        "y0": 0,
        "y1": 1,
        "line": {"dash": "dash", "width": 1.5, "color": _RED},
        "layer": "below",
    }


def _rounded(values: Any) -> list[float]:
    return [float(f"{value:.5g}") for value in values]
