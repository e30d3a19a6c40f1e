"""The evaluation as one HTML page that needs nothing but itself: the verdict first, then why.

Names come from other people's files, so everything is escaped: by Jinja in the page, and here for Plotly,
which reads a little HTML in its texts. Computes nothing that is not in the evaluation.
"""

import html
import math
from typing import Any

import jinja2
import markupsafe

from tfx_mobile.common import web
from tfx_mobile.size_latency_evaluator import core
from tfx_mobile.size_latency_evaluator.config import AccuracyGate, RelativeTo, SizeGate
from tfx_mobile.size_latency_evaluator.evaluation import (
    CandidateResult,
    Evaluation,
    Interval,
    Status,
    Verdict,
    verdict_text,
)

_STATUS_SIGN = {Status.PASS: "✓", Status.FAIL: "✗", Status.NOT_COMPARABLE: "?"}


def render(evaluation: Evaluation) -> str:
    """Returns the page; the same evaluation gives the same page."""
    from plotly import offline

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"number": _number, "whole": _whole, "interval": _interval, "margin": _margin}
    return environment.from_string(_PAGE).render(
        evaluation=evaluation,
        gates=[core.describe(gate) for gate in evaluation.gates],
        rows=sorted(evaluation.candidates, key=lambda found: _order(found, evaluation)),
        verdict_text=verdict_text,
        sign=_STATUS_SIGN,
        undrawn=[found for found in evaluation.candidates if not _is_drawn(found, evaluation)],
        figure=markupsafe.Markup(web.for_script(_figure(evaluation))),
        style=markupsafe.Markup(web.STYLE),
        plotly=markupsafe.Markup(offline.get_plotlyjs()),
    )


def _order(found: CandidateResult, evaluation: Evaluation) -> tuple[bool, bool, bool, int, str]:
    return (
        found.name != evaluation.chosen,
        not found.passes,
        bool(found.failure),
        found.gz_size_bytes,
        found.name,
    )


def _is_drawn(found: CandidateResult, evaluation: Evaluation) -> bool:
    return found.gz_size_bytes > 0 and evaluation.metrics[0].name in (found.metrics or {})


def _figure(evaluation: Evaluation) -> dict[str, Any]:
    """Returns the scatter of gz size against the first metric, with the gates as lines."""
    metric = evaluation.metrics[0].name
    shown = [found for found in evaluation.candidates if _is_drawn(found, evaluation)]
    groups: list[tuple[str, str, list[CandidateResult]]] = [
        ("rejected", "x", [c for c in shown if not c.passes and c.name != evaluation.chosen]),
        ("passes", "circle", [c for c in shown if c.passes and c.name != evaluation.chosen]),
        (
            "chosen" if evaluation.blessed else "best, not blessed",
            "star",
            [c for c in shown if c.name == evaluation.chosen],
        ),
    ]
    if evaluation.baseline is not None and _is_drawn(evaluation.baseline, evaluation):
        groups.append(("baseline: what phones run today", "diamond-open", [evaluation.baseline]))
    latencies = [found.latency.p50_us for found in shown if found.latency]
    scale = {"cmin": min(latencies, default=0.0), "cmax": max(latencies, default=1.0)}
    traces = [
        {
            "type": "scatter",
            "mode": "markers+text" if symbol == "star" else "markers",
            "name": f"{label} ({len(found)})",
            "x": [c.gz_size_bytes for c in found],
            "y": [(c.metrics or {})[metric] for c in found],
            "text": [html.escape(c.name) for c in found],
            "textposition": "bottom center",
            "hovertext": [_hover(c, metric) for c in found],
            "hoverinfo": "text",
            "marker": {
                "symbol": symbol,
                "size": 20 if symbol == "star" else 12,
                "line": {"width": 1},
                "color": [c.latency.p50_us if c.latency else None for c in found],
                "colorscale": "Viridis",
                "reversescale": True,
                "showscale": position == 0,
                "colorbar": {"title": {"text": "p50, us"}, "thickness": 12},
                **scale,
            },
        }
        for position, (label, symbol, found) in enumerate(groups)
    ]
    traces.insert(0, _front(shown, metric, higher_is_better=bool(evaluation.metrics[0].higher_is_better)))
    shapes, notes = _gate_lines(evaluation)
    layout = {
        "xaxis": {"title": {"text": "download size, gzip bytes (log)"}, "type": "log", "dtick": "D2"},
        "yaxis": {"title": {"text": f"{metric} on {evaluation.eval_rows:,} rows"}},
        "shapes": shapes,
        "annotations": notes,
        "hovermode": "closest",
        "legend": {"orientation": "h", "y": 1.12, "x": 0},
        "margin": {"l": 70, "r": 20, "t": 50, "b": 60},
    }
    return {"data": traces, "layout": layout}


def _front(shown: list[CandidateResult], metric: str, *, higher_is_better: bool) -> dict[str, Any]:
    """Returns the line through the files that no other file beats on both axes."""
    best: list[tuple[int, float]] = []
    sign = -1.0 if higher_is_better else 1.0
    for size, value in sorted((c.gz_size_bytes, sign * (c.metrics or {})[metric]) for c in shown):
        if not best or value < best[-1][1]:
            best.append((size, value))
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "best of all",
        "x": [size for size, _ in best],
        "y": [sign * value for _, value in best],
        "hoverinfo": "skip",
        "line": {"dash": "dot", "width": 1, "shape": "hv"},
    }


def _hover(found: CandidateResult, metric: str) -> str:
    lines = [
        f"<b>{html.escape(found.name)}</b>",
        f"{metric} {_number((found.metrics or {}).get(metric))}",
        f"{_whole(found.gz_size_bytes)} gz bytes, {_whole(found.size_bytes)} bytes",
    ]
    if found.latency is not None:
        lines.append(f"p50 {_number(found.latency.p50_us)} us, {_interval(found.latency.ratio)} of reference")
    text = verdict_text(found) if found.verdicts else ""
    return "<br>".join([*lines, *(html.escape(part) for part in text.split("; "))])


def _gate_lines(evaluation: Evaluation) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the gates that can be drawn, as dashed lines with their words."""
    lines: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    for gate in evaluation.gates:
        other: CandidateResult | None = None
        if gate.is_relative:
            known = {found.name: found for found in evaluation.candidates}
            is_reference = gate.relative_to is RelativeTo.REFERENCE
            other = known.get(evaluation.reference) if is_reference else evaluation.baseline
        if isinstance(gate, SizeGate):
            axis, at = "x", _size_limit(gate, other)
        elif isinstance(gate, AccuracyGate) and gate.metric.value == evaluation.metrics[0].name:
            axis, at = "y", _metric_limit(gate, other)
        else:
            continue
        if at is None:
            continue
        across = "y" if axis == "x" else "x"
        lines.append(
            {
                "type": "line",
                f"{axis}0": at,
                f"{axis}1": at,
                f"{across}0": 0,
                f"{across}1": 1,
                f"{across}ref": "paper",
                f"{axis}ref": axis,
                "line": {"dash": "dash", "width": 1.5},
            }
        )
        notes.append(
            {
                "text": html.escape(core.describe(gate)),
                # A log axis takes annotations, unlike shapes, as exponents of ten.
                axis: math.log10(at) if axis == "x" else at,
                f"{axis}ref": axis,
                across: 0.99 if axis == "y" else 0.98,
                f"{across}ref": "paper",
                "showarrow": False,
                "xanchor": "right",
                "yanchor": "bottom",
                "textangle": -90 if axis == "x" else 0,
                **({"yanchor": "top"} if axis == "x" else {}),
            }
        )
    return lines, notes


def _size_limit(gate: SizeGate, other: CandidateResult | None) -> float | None:
    if gate.max_ratio is not None:
        return gate.max_ratio * other.gz_size_bytes if other is not None and other.gz_size_bytes else None
    return None if gate.max_gz_bytes is None else float(gate.max_gz_bytes)


def _metric_limit(gate: AccuracyGate, other: CandidateResult | None) -> float | None:
    if gate.max_value is not None:
        return gate.max_value
    if gate.min_value is not None:
        return gate.min_value
    start = (other.metrics or {}).get(gate.metric.value) if other is not None else None
    if start is None:
        return None
    if gate.max_drop is not None:
        return start - gate.max_drop
    return start * (1.0 + (gate.max_increase_fraction or 0.0))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}"


def _whole(value: int) -> str:
    return f"{value:,}" if value else "-"


def _interval(value: Interval | None) -> str:
    return "-" if value is None else f"{value.estimate:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _margin(verdict: Verdict) -> str:
    if verdict.waived:
        return "waived"
    return "n/a" if verdict.margin is None else f"{verdict.margin:+,.4g}"


_PAGE = """{%- macro measured(found) %}{% for metric in evaluation.metrics %}
<td>{{ (found.metrics or {}).get(metric.name) | number }}</td>{% endfor %}
<td>{{ found.size_bytes | whole }}</td><td>{{ found.gz_size_bytes | whole }}</td>
<td>{{ (found.latency.p50_us if found.latency else none) | number }}</td>
<td>{{ (found.latency.p90_us if found.latency else none) | number }}</td>
<td>{{ (found.latency.ratio if found.latency else none) | interval }}</td>{% endmacro -%}
{%- macro colour(verdict) %}{{
 {"pass": "pass", "fail": "fail"}.get(verdict.status.value, "odd") }}{% endmacro -%}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ "Blessed" if evaluation.blessed else "Not blessed" }}: {{ evaluation.chosen or "nothing" }}</title>
<style>{{ style }}
.verdict { border: 1px solid var(--line); border-left: 8px solid; border-radius: 6px; padding: 16px 20px;
  background: var(--card); overflow-wrap: anywhere; }
.verdict.yes { border-left-color: var(--good); } .verdict.no { border-left-color: var(--bad); }
.verdict.yes h1 { color: var(--good); } .verdict.no h1 { color: var(--bad); }
.override { border-left: 4px solid var(--odd); padding: 4px 12px; margin-top: 8px;
  background: var(--odd-back); }
#chart { height: 460px; }
th.gate { white-space: normal; min-width: 110px; }
tr.chosen td { background: var(--good-back); }
tr.chosen.refused td { background: var(--odd-back); }
.pass { color: var(--good); } .fail { color: var(--bad); } .odd { color: var(--odd); }
details { border-bottom: 1px solid var(--line); padding: 6px 0; overflow-wrap: anywhere; }
</style>
</head>
<body>
<section class="verdict {{ 'yes' if evaluation.blessed else 'no' }}">
<h1>{{ "Blessed" if evaluation.blessed else "Not blessed" }}{{ " by override" if evaluation.overridden }}{%
if evaluation.chosen %}:
{{ evaluation.chosen }}{% endif %}</h1>
<p>{{ evaluation.reason }}</p>
{% if evaluation.override %}<p class="override">Override by {{ evaluation.override.by }} on
{{ evaluation.override.date }}{{ " (not used)" if not evaluation.overridden }}:
{{ evaluation.override.reason }}</p>{% endif %}
<p class="soft">{{ evaluation.eval_rows | whole }} rows of split {{ evaluation.eval_split }}, label
{{ evaluation.label_key }}; reference {{ evaluation.reference }};
{% if evaluation.first_release %}first release: there is no baseline{% elif evaluation.baseline %}baseline
{{ evaluation.baseline.failure or "compared" }}{% endif %}.</p>
</section>
<h2>Size against {{ evaluation.metrics[0].name }}</h2>
<div id="chart" role="img" aria-label="Download size against {{ evaluation.metrics[0].name }}"></div>
{% if undrawn %}<p class="soft">Not drawn, because there is no {{ evaluation.metrics[0].name }}:
{% for found in undrawn %}{{ found.name }}{{ ", " if not loop.last else "" }}{% endfor %}.</p>{% endif %}
<p class="soft">Dashed lines are the gates on these two axes. The dotted line joins the files
that no other file beats on both axes. A relative gate on a metric is decided by the 95 % bound of the paired
difference, so a point just inside its line can still be refused.</p>
<h2>Candidates</h2>
<div class="scroll"><table>
<thead><tr><th>candidate</th><th class="text">verdict</th>
{% for metric in evaluation.metrics %}<th>{{ metric.name }}</th>{% endfor %}
<th>bytes</th><th>gz bytes</th><th>p50 us</th><th>p90 us</th><th>ratio [95 % bounds]</th>
{% for gate in gates %}<th class="gate">{{ gate }}<br><span class="soft">margin</span></th>{% endfor %}
</tr></thead>
<tbody>
{% for found in rows %}
<tr class="{{ 'chosen' if found.name == evaluation.chosen }}{{ ' refused' if not evaluation.blessed }}">
<td>{{ found.name }}</td>
<td class="text {{ 'pass' if found.passes else 'fail' }}">{{ verdict_text(found) }}</td>
{{ measured(found) }}
{% for verdict in found.verdicts %}<td title="{{ verdict.reason }}"
class="{{ colour(verdict) }}">{{ sign[verdict.status] }}
{{ verdict | margin }}</td>{% endfor %}
</tr>
{% endfor %}
{% if evaluation.baseline %}{% set found = evaluation.baseline %}
<tr><td>{{ found.name }} (phones today)</td><td class="text">{{ found.failure }}</td>
{{ measured(found) }}
{% if gates %}<td colspan="{{ gates | length }}"></td>{% endif %}</tr>
{% endif %}
</tbody></table></div>
<p class="soft">Margins are in the gate's own unit; positive is room left.</p>
<h2>Why, gate by gate</h2>
{% for found in rows %}<details{{ " open" if found.name == evaluation.chosen }}>
<summary>{{ found.name }}</summary><ul>
{% if found.excluded %}<li>Never chosen: {{ found.excluded }}.</li>{% endif %}
{% for verdict in found.verdicts %}<li><b>{{ verdict.gate }}</b>:
<span class="{{ colour(verdict) }}">{{ verdict.status.value }}{{ " (waived)" if verdict.waived }}</span>.
{{ verdict.reason }}</li>{% endfor %}
{% if found.latency %}<li>Loading {{ found.latency.init_us | number }} us, first call
{{ found.latency.first_call_us | number }} us, {{ found.latency.calls | whole }} timed calls in
{{ found.latency.p50_us_by_process | length }} processes; ratio by process:
{% for ratio in found.latency.ratios_by_process %}{{ ratio | number }}{{ ", " if not loop.last }}{% endfor
%}.</li>{% endif %}
</ul></details>
{% endfor %}
<h2>Measured on</h2>
{% set machine = evaluation.machine %}
<p>{{ machine.cpu }}, {{ machine.cores }} cores, {{ machine.system }}, {{ machine.runtime }}.</p>
<p class="soft">Batch 1, one thread{{ ", pinned to one core" if machine.pinned }}, synchronous, all files
interleaved in each of {{ machine.processes }} fresh processes, {{ machine.seconds | number }} s; load average
{{ machine.load_before }} before, {{ machine.load_after }} after. Ratios carry over to phones only roughly;
absolute times do not.</p>
<script>{{ plotly }}</script>
<script>
const figure = {{ figure }};
function paint() {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink").trim(), line = style.getPropertyValue("--line").trim();
  const bad = style.getPropertyValue("--bad").trim();
  const layout = JSON.parse(JSON.stringify(figure.layout));
  Object.assign(layout, {paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: {color: ink}});
  layout.modebar = {bgcolor: "rgba(0,0,0,0)", color: ink};
  for (const axis of [layout.xaxis, layout.yaxis]) axis.gridcolor = axis.zerolinecolor = line;
  for (const shape of layout.shapes) shape.line.color = bad;
  for (const note of layout.annotations) note.font = {color: bad, size: 11};
  for (const trace of figure.data) (trace.mode === "lines" ? trace : trace.marker).line.color = ink;
  Plotly.react("chart", figure.data, layout, {responsive: true, displaylogo: false});
}
paint();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
</script>
</body>
</html>
"""
