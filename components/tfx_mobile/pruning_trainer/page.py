"""A training as one HTML page that needs nothing but itself: which rung was chosen, and what each one cost.

Made from the ladder and the settings alone. Names come from other people's models: Jinja escapes them in the
page, `web.short` for Plotly.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jinja2
import markupsafe

from tfx_mobile.common import web
from tfx_mobile.common.ladder import Ladder, Rung, Twin
from tfx_mobile.pruning_trainer.allocation import Sensitivity
from tfx_mobile.pruning_trainer.config import TrainerConfig, Units
from tfx_mobile.pruning_trainer.core import loss_limit

PAGE_FILE = "training.html"
_Figure = dict[str, Any]

MAX_WEIGHTS = 40  # of a heat map: more are not readable
MAX_CURVES = 10
MAX_STEPS = 4000  # points of a line
_LOG_ABOVE = 30.0  # times the smallest loss: then a linear axis shows the first steps and nothing else
_BLUE, _GREY, _RED = "#3b7dc4", "#a9b4c0", "#c8553d"
_TWINS = {
    Twin.PLAIN: ("pruned", "circle", _BLUE),
    Twin.REWOUND: ("rewound", "triangle-up", "#e69f00"),
    Twin.CLUSTERED: ("clustered", "square", "#cc79a7"),
    Twin.QUANTIZATION_AWARE: ("trained for int8", "diamond", "#8c6bb1"),
}


def page(ladder: Ladder, config: TrainerConfig, sensitivities: Sequence[Sensitivity] = ()) -> str:
    """Returns the page; the same ladder gives the same page.

    Args:
      ladder: What was trained.
      config: With which settings.
      sensitivities: What the model loses when one weight alone is pruned, where that was measured.
    """
    from plotly import offline

    figures: dict[str, _Figure] = {}
    cards = []
    for name, title, caption, figure, wide in _charts(ladder, config, sensitivities):
        figures[name] = figure
        card = {"id": name, "title": title, "caption": caption, "wide": wide}
        cards.append(card | {"height": figure["layout"]["height"]})
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"number": web.number, "whole": "{:,}".format}
    return environment.from_string(_PAGE).render(
        title=headline(ladder, config),
        reasons=reasons(ladder, config),
        facts=_facts(config),
        cards=cards,
        metrics=_metrics(ladder),
        rows=_rows(ladder, config),
        share_name="units removed" if _removes_units(config) else "zeros asked for",
        total=_duration(sum(rung.seconds for rung in ladder.rungs)),
        style=markupsafe.Markup(web.STYLE),
        figures=markupsafe.Markup(web.for_script(figures)),
        plotly=markupsafe.Markup(offline.get_plotlyjs()),
        paint=markupsafe.Markup(web.PAINT),
    )


def headline(ladder: Ladder, config: TrainerConfig) -> str:
    """Returns the verdict in one line."""
    chosen, dense = _chosen(ladder), ladder.rungs[0]
    if chosen is dense:
        return "The dense model is chosen"
    change = _change(chosen, dense)
    return f"{chosen.name} is chosen: {_pruned(chosen, config)}, validation loss {change} the dense model's"


def reasons(ladder: Ladder, config: TrainerConfig) -> list[str]:
    """Returns why the rung was chosen, a sentence each."""
    chosen, dense = _chosen(ladder), ladder.rungs[0]
    plain = [rung for rung in ladder.rungs if rung.twin is Twin.PLAIN]
    if len(plain) == 1:
        return ["No sparse rung was asked for."]
    share = 100 * config.max_increase_fraction
    above = f"{share:.4g} % above the dense model's" if share else "the dense model's"
    limit = web.number(loss_limit(dense, config.max_increase_fraction))
    budget = f"A rung keeps the budget while its validation loss is at most {above}: {limit}."
    if chosen is dense:
        best = min(plain[1:], key=lambda rung: rung.validation["loss"])
        change = _change(best, dense)
        return [
            budget,
            f"No sparse rung does; the best, {best.name}, has {_loss(best)}, {change} the dense model's.",
        ]
    last = "It is the sparsest that was asked for: more may be possible."
    for sparser in plain[plain.index(chosen) + 1 :][:1]:
        change = _change(sparser, dense)
        last = f"The next, {sparser.name}, has {_loss(sparser)}, {change} the dense model's."
    return [budget, f"{chosen.name} is the sparsest that does: {_loss(chosen)}.", last]


def _charts(
    ladder: Ladder, config: TrainerConfig, sensitivities: Sequence[Sensitivity]
) -> Iterable[tuple[str, str, str, _Figure, bool]]:
    """Yields id, title, caption, figure and width of each chart there is something to draw for."""
    metrics = _metrics(ladder)
    wide = len(metrics) == 1
    caption = "The dashed line is the budget; the filled marker is the chosen rung."
    yield "loss", "Validation loss against sparsity", caption, _against_sparsity(ladder, config, "loss"), wide
    if not wide:
        name = metrics[1]
        caption = "The first metric that is not the loss; the filled marker is the chosen rung."
        figure = _against_sparsity(ladder, config, name)
        yield "metric", f"Validation {name} against sparsity", caption, figure, False
    if any(rung.history for rung in ladder.rungs):
        caption = "One model after the other, epoch by epoch; the dotted line is the sparsity of the masks."
        yield "steps", "Loss by step", caption, _by_step(ladder), True
    if any(rung.layers for rung in ladder.rungs):
        figure, num_shown, num_all = _by_layer(ladder)
        caption = "Percent of each weight that is gone: zeros, or removed with its unit."
        if num_shown < num_all:
            caption += f" The {num_shown} largest of {num_all} weights are shown; ladder.json has all."
        yield "layers", "Sparsity by layer", caption, figure, True
    if sensitivities:
        shown = sorted(sensitivities, key=lambda curve: -max(curve.losses))[:MAX_CURVES]
        caption = "How much the dense model's loss rises when this weight alone is pruned."
        if len(shown) < len(sensitivities):
            caption += f" The {len(shown)} most sensitive of {len(sensitivities)} weights are shown."
        yield "sensitivity", "Sensitivity of each weight", caption, _sensitivity(shown), True


def _against_sparsity(ladder: Ladder, config: TrainerConfig, metric: str) -> _Figure:
    data = []
    for twin, (label, symbol, colour) in _TWINS.items():
        rungs = [
            rung
            for rung in ladder.rungs
            if rung.twin is twin and math.isfinite(rung.validation.get(metric, math.nan))
        ]
        if not rungs:
            continue
        filled = [colour if rung.name == ladder.chosen else "rgba(0,0,0,0)" for rung in rungs]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if twin is Twin.PLAIN else "markers",
                "name": label,
                "x": [_percent(rung.target_fraction) for rung in rungs],
                "y": [_rounded(rung.validation[metric]) for rung in rungs],
                "text": [web.short(rung.name) for rung in rungs],
                "hovertemplate": "%{text}: %{y:.5g}<extra></extra>",
                "line": {"color": colour, "width": 1.5},
                "marker": {
                    "symbol": symbol,
                    "size": [13 if rung.name == ladder.chosen else 9 for rung in rungs],
                    "color": filled,
                    "line": {"color": colour, "width": 2},
                },
            }
        )
    layout = _layout(
        "units removed, %" if _removes_units(config) else "zeros asked for, %",
        f"validation {web.short(metric)}",
        360,
    )
    layout["showlegend"] = len(data) > 1
    if metric == "loss" and len(ladder.rungs) > 1:
        layout["shapes"] = [_line("y", _rounded(loss_limit(ladder.rungs[0], config.max_increase_fraction)))]
    return {"data": data, "layout": layout}


def _by_step(ladder: Ladder) -> _Figure:
    lines: dict[str, list[Any]] = {name: [] for name in ("loss", "val_loss")}
    steps: list[Any] = []
    sparsity: list[Any] = []
    texts: list[str] = []
    shapes, marks, start = [], [], 0
    for rung in ladder.rungs:
        if not rung.history:
            continue
        stride = math.ceil(len(rung.history) * len(ladder.rungs) / MAX_STEPS)
        kept = [*rung.history[:-1:stride], rung.history[-1]]
        for epoch in kept:
            steps.append(start + epoch.step)
            sparsity.append(_percent(epoch.sparsity_fraction))
            texts.append(f"{web.short(rung.name)}, step {epoch.step:,}")
            for name, values in lines.items():
                found = epoch.metrics.get(name)
                values.append(None if found is None or not math.isfinite(found) else _rounded(found))
        for values in (steps, sparsity, texts, *lines.values()):
            values.append(None)  # a gap before the next model
        end = start + rung.history[-1].step
        if rung.twin is Twin.PLAIN:
            marks.append({"x": (start + end) / 2, "text": web.short(rung.name)})
        if start:
            shapes.append({**_line("x", start), "line": {"width": 1, "color": _GREY}})
        start = end
    base = {"type": "scatter", "mode": "lines+markers", "x": steps, "text": texts, "marker": {"size": 4}}
    shown = [("val_loss", "validation loss", _BLUE), ("loss", "training loss", _GREY)]
    data = [
        {
            **base,
            "name": label,
            "y": lines[name],
            "line": {"color": colour, "width": 1.5},
            "hovertemplate": f"%{{text}}: {label} %{{y:.5g}}<extra></extra>",
        }
        for name, label, colour in shown
    ]
    data.append(
        {
            **base,
            "mode": "lines",
            "name": "sparsity, %",
            "y": sparsity,
            "yaxis": "y2",
            "line": {"color": _RED, "width": 1.5, "dash": "dot"},
            "hovertemplate": "%{text}: %{y:.3g} % zeros<extra></extra>",
        }
    )
    layout = _layout("steps, all models", "loss", 400)
    values = [value for line in lines.values() for value in line if value is not None]
    if values and min(values) > 0 and max(values) > _LOG_ABOVE * min(values):
        layout["yaxis"]["type"] = "log"
    layout |= {
        "yaxis2": {
            "overlaying": "y",
            "side": "right",
            "range": [0, 100],
            "tickmode": "array",
            "tickvals": [0, 25, 50, 75, 100],
            "title": {"text": "zeros, %"},
            "showgrid": False,
            "zeroline": False,
        },
        "shapes": shapes,
        "annotations": [
            {**mark, "y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False} for mark in marks
        ],
        "showlegend": True,
    }
    layout["margin"]["r"] = 60
    layout["xaxis"]["showgrid"] = False  # the lines between models are enough
    layout["legend"] = {"orientation": "h", "x": 0, "y": -0.18, "yanchor": "top"}
    return {"data": data, "layout": layout}


def _by_layer(ladder: Ladder) -> tuple[_Figure, int, int]:
    """Returns the heat map, how many weights it shows, and how many there are."""
    sizes: dict[str, int] = {}
    for rung in ladder.rungs:  # the first that has a weight has all of it
        for layer in rung.layers:
            if layer.num_weights:
                sizes.setdefault(layer.weight, layer.num_weights)
    largest = sorted(sizes, key=lambda name: -sizes[name])[:MAX_WEIGHTS]
    names = [name for name in sizes if name in set(largest)]
    rungs = [rung for rung in ladder.rungs if rung.layers]
    left = [{layer.weight: layer.num_weights - layer.num_zeros for layer in rung.layers} for rung in rungs]
    z = [[_percent(1 - one[name] / sizes[name]) if name in one else None for one in left] for name in names]
    figure: _Figure = {
        "data": [
            {
                "type": "heatmap",
                "x": [web.short(rung.name) for rung in rungs],
                "y": list(range(len(names))),
                "z": z,
                "text": [["" if cell is None else f"{cell:.1f}" for cell in row] for row in z],
                "texttemplate": "%{text}" if len(rungs) <= 16 else "",
                "hovertext": [[f"{web.short(n)}: {sizes[n]:,} weights"] * len(rungs) for n in names],
                "hovertemplate": "%{hovertext}<br>%{x}: %{z:.2f} %<extra></extra>",
                "zmin": 0,
                "zmax": 100,
                "colorscale": "Viridis",
                "colorbar": {"thickness": 12, "outlinewidth": 0, "title": {"text": "%", "side": "right"}},
                "xgap": 2,
                "ygap": 2,
            }
        ],
        "layout": _layout("", "", 110 + 26 * len(names)),
    }
    figure["layout"]["xaxis"] |= {"type": "category", "side": "top", "showgrid": False}
    figure["layout"]["yaxis"] |= {
        "autorange": "reversed",
        "tickvals": list(range(len(names))),
        "ticktext": [web.short(name) for name in names],
        "showgrid": False,
    }
    figure["layout"]["margin"] |= {"t": 30, "b": 10}
    return figure, len(names), len(sizes)


def _sensitivity(curves: Sequence[Sensitivity]) -> _Figure:
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": web.short(curve.weight),
            "x": [0.0, *(_percent(level) for level in curve.levels)],
            "y": [0.0, *(_rounded(loss) for loss in curve.losses)],
            "text": web.short(curve.weight),
            "hovertemplate": "%{text} at %{x} %: %{y:+.4g}<extra></extra>",
            "line": {"color": colour, "width": 1.5},
            "marker": {"size": 5},
        }
        for curve, colour in zip(curves, web.LINES, strict=False)
    ]
    layout = _layout("zeros in this weight alone, %", "rise of the loss", 400)
    layout["showlegend"] = True
    return {"data": data, "layout": layout}


def _layout(x: str, y: str, height: int) -> _Figure:
    return {
        "xaxis": {"title": {"text": x}, "zeroline": False, "automargin": True},
        "yaxis": {"title": {"text": y}, "zeroline": False, "automargin": True},
        "height": height,
        "margin": {"l": 60, "r": 20, "t": 20, "b": 50},
        "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "showlegend": False,
    }


def _line(axis: str, at: float) -> _Figure:
    other = "x" if axis == "y" else "y"
    return {
        "type": "line",
        f"{axis}0": at,
        f"{axis}1": at,
        f"{other}ref": "paper",
        f"{other}0": 0,
        f"{other}1": 1,
        "line": {"dash": "dash", "width": 1.5, "color": _RED},
        "layer": "below",
    }


def _rows(ladder: Ladder, config: TrainerConfig) -> list[dict[str, Any]]:
    dense = ladder.rungs[0]
    metrics = _metrics(ladder)
    return [
        {
            "name": rung.name,
            "kind": "dense" if rung is dense else _TWINS[rung.twin][0],
            "is_chosen": rung.name == ladder.chosen,
            "target": f"{_percent(rung.target_fraction):g} %",
            "zeros": f"{_percent(rung.sparsity_fraction):.2f} %" if rung.layers else "-",
            "parameters": rung.num_parameters,
            "left": rung.num_parameters - sum(layer.num_zeros for layer in rung.layers),
            "metrics": [_shown(rung.validation.get(name)) for name in metrics],
            "over": "" if rung is dense else _signed(rung, dense),
            "budget": "" if rung is dense else _budget(rung, dense, config),
            "epochs": len(rung.history),
            "steps": rung.history[-1].step if rung.history else 0,
            "seconds": _duration(rung.seconds),
        }
        for rung in ladder.rungs
    ]


def _facts(config: TrainerConfig) -> list[str]:
    """Returns the settings that matter here, as people write them."""
    pruning = config.pruning
    return [
        f"structure: {_setting(pruning.structure.to_dict())}",
        f"schedule: {_setting(pruning.schedule.to_dict())}",
        f"criterion: {pruning.criterion.value}",
        f"allocation: {pruning.allocation.value}",
        f"at most {config.epochs} epochs dense, {config.fine_tune_epochs} for each rung",
        f"batches of {config.batch_size}",
        f"seed {config.seed}",
    ]


def _setting(values: dict[str, Any]) -> str:
    kind = str(values["kind"]).replace("_", " ")
    rest = [f"{name} {value}" for name, value in values.items() if name != "kind" and value is not None]
    return f"{kind} ({', '.join(rest)})" if rest else kind


def _metrics(ladder: Ladder) -> list[str]:
    """Returns the names of all validation metrics, the loss first."""
    names = dict.fromkeys(name for rung in ladder.rungs for name in rung.validation)
    return sorted(names, key=lambda name: name != "loss")


def _chosen(ladder: Ladder) -> Rung:
    return next(rung for rung in ladder.rungs if rung.name == ladder.chosen)


def _removes_units(config: TrainerConfig) -> bool:
    return isinstance(config.pruning.structure, Units)


def _pruned(rung: Rung, config: TrainerConfig) -> str:
    if _removes_units(config):
        return f"{_percent(rung.target_fraction):g} % of the units removed"
    return f"{_percent(rung.sparsity_fraction):.3g} % zeros"


def _budget(rung: Rung, dense: Rung, config: TrainerConfig) -> str:
    return "kept" if _loss_of(rung) <= loss_limit(dense, config.max_increase_fraction) else "exceeded"


def _loss_of(rung: Rung) -> float:
    return rung.validation["loss"]


def _loss(rung: Rung) -> str:
    return web.number(_loss_of(rung))


def _relative(rung: Rung, dense: Rung) -> float | None:
    base = abs(_loss_of(dense))
    return (_loss_of(rung) - _loss_of(dense)) / base if base else None


def _change(rung: Rung, dense: Rung) -> str:
    """Returns how a rung's loss stands to the dense model's, to be followed by 'the dense model's'."""
    change = _relative(rung, dense)
    if change is None:
        return f"{web.number(_loss_of(rung) - _loss_of(dense))} from"
    percent = f"{100 * abs(change):.2g}" if abs(change) < 0.1 else f"{100 * abs(change):.0f}"
    if float(percent) == 0:
        return "equal to"
    return f"{percent} % {'above' if change > 0 else 'below'}"


def _signed(rung: Rung, dense: Rung) -> str:
    change = _relative(rung, dense)
    return "-" if change is None else f"{100 * change:+.2f} %"


def _shown(value: float | None) -> str:
    return "-" if value is None else web.number(value)


def _percent(fraction: float) -> float:
    return round(100 * fraction, 4)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _duration(seconds: float) -> str:
    """Returns seconds as people read them.

    >>> _duration(3.21), _duration(125), _duration(3725)
    ('3.2 s', '2 min 05 s', '1 h 02 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Training: {{ title }}</title>
<style>{{ style }}
.head { border: 1px solid var(--line); border-left: 8px solid #3b7dc4; border-radius: 6px;
  padding: 16px 20px; background: var(--card); overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 16px; margin-top: 16px; }
.card { border: 1px solid var(--line); border-radius: 6px; padding: 12px 14px; min-width: 0; }
.card.wide { grid-column: 1 / -1; } .card h3 { font-size: 15px; margin: 0 0 4px; }
@media (max-width: 900px) { .card { grid-column: 1 / -1; } }
.card .soft { font-size: 13px; } th { white-space: normal; } td.text { min-width: 0; }
tr.chosen td { background: var(--good-back); font-weight: 600; } .exceeded { color: var(--bad); }
</style>
</head>
<body>
<section class="head">
<h1>{{ title }}</h1>
{% for reason in reasons %}<p>{{ reason }}</p>
{% endfor %}</section>
<h2>Rungs</h2>
<div class="scroll"><table><thead><tr><th>rung</th><th class="text">model</th><th>{{ share_name }}</th>
<th>zeros</th><th>parameters</th><th>not zero</th>
{% for name in metrics %}<th>{{ name }}</th>{% if loop.first %}<th>over dense</th><th>budget</th>{% endif %}
{% endfor %}<th>epochs</th><th>steps</th><th>time</th></tr></thead><tbody>
{% for row in rows %}<tr{% if row.is_chosen %} class="chosen"{% endif %}><td>{{ row.name }}</td>
<td class="text">{{ row.kind }}{{ ", chosen" if row.is_chosen }}</td><td>{{ row.target }}</td>
<td>{{ row.zeros }}</td><td>{{ row.parameters | whole }}</td><td>{{ row.left | whole }}</td>
{% for value in row.metrics %}<td>{{ value }}</td>{% if loop.first %}<td>{{ row.over }}</td>
<td class="{{ row.budget }}">{{ row.budget }}</td>{% endif %}{% endfor %}
<td>{{ row.epochs | whole }}</td><td>{{ row.steps | whole }}</td><td>{{ row.seconds }}</td></tr>
{% endfor %}</tbody></table></div>
<p class="soft">Metrics are of the validation rows. Zeros are counted in the weights that are
pruned. All trainings took {{ total }}. Settings: {{ facts | join("; ") }}.</p>
<div class="cards">{% for card in cards %}
<div class="card{{ ' wide' if card.wide }}"><h3>{{ card.title }}</h3>
<div id="{{ card.id }}" style="height: {{ card.height }}px" role="img" aria-label="{{ card.title }}"></div>
<p class="soft">{{ card.caption }}</p></div>{% endfor %}
</div>
<script>{{ plotly }}</script>
<script>
const figures = {{ figures }};
{{ paint }}</script>
</body>
</html>
"""
