"""The evaluation as one HTML page that needs nothing but itself: the verdict first, then why.

Names come from other people's files: Jinja escapes them in the page, charts.py for Plotly. Sections without
data are left out. Computes nothing that is not in the evaluation.
"""

import math
from collections.abc import Callable
from typing import Any

import jinja2
import markupsafe

from tfx_mobile.common import web
from tfx_mobile.size_latency_evaluator import charts, comparison
from tfx_mobile.size_latency_evaluator.comparison import Compared, GateColumn
from tfx_mobile.size_latency_evaluator.evaluation import (
    CandidateResult,
    Evaluation,
    Interval,
    LatencyResult,
    ReportedMetric,
    Verdict,
)

MAX_SLICES = 60  # rows of the table of one metric
_FULL_SHADE = 0.05  # a worsening by less never has the full colour
_MICROSECONDS = "\u00b5s"
_TIMES = "\u00d7"


def page(evaluation: Evaluation) -> str:
    """Returns the page; the same evaluation gives the same page."""
    from plotly import offline

    figures: dict[str, Any] = {}
    cards = _cards(evaluation, figures)
    names = comparison.slice_names(evaluation)
    columns = comparison.gate_columns(evaluation)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": number,
        "whole": _whole,
        "interval": _interval,
        "margin": margin,
        "colour": _colour,
        "sign": lambda verdict: comparison.SIGNS[verdict.status],
    }
    return environment.from_string(_PAGE).render(
        evaluation=evaluation,
        title=headline(evaluation),
        tiles=_tiles(evaluation),
        cards=cards,
        columns=columns,
        chosen_gates=_chosen_gates(evaluation, columns, names),
        rows=[_row(found, evaluation, columns, names) for found in comparison.ordered(evaluation)],
        baseline_metrics=_metrics(evaluation.baseline, evaluation),
        undrawn=[found.name for found in evaluation.candidates if not charts.is_drawn(found, evaluation)],
        slices=_slice_tables(evaluation, columns, names),
        timings=_timings(evaluation),
        untimed=[
            (found.name, found.latency_failure) for found in evaluation.candidates if found.latency_failure
        ],
        reasons=[_reasons(found, columns, names) for found in comparison.ordered(evaluation)],
        facts=_facts(evaluation),
        style=markupsafe.Markup(web.STYLE),
        figures=markupsafe.Markup(web.for_script(figures)),
        plotly=markupsafe.Markup(offline.get_plotlyjs()),
        paint=markupsafe.Markup(web.PAINT),
        sort=markupsafe.Markup(_SORT),
    )


def headline(evaluation: Evaluation) -> str:
    """Returns the verdict in a few words."""
    if not evaluation.chosen:
        return "Not blessed: nothing can be run"
    if not evaluation.blessed:
        return f"Not blessed: {evaluation.chosen} is the best"
    return f"Blessed{' by override' if evaluation.overridden else ''}: {evaluation.chosen}"


def number(value: float | None) -> str:
    """Returns a number as people read it, '-' for none."""
    shown = comparison.finite(value)
    return "-" if shown is None else web.number(shown)


def margin(verdict: Verdict) -> str:
    """Returns the room that is left at a gate."""
    if verdict.waived:
        return "waived"
    shown = comparison.finite(verdict.margin)
    return "n/a" if shown is None else f"{shown:+,.4g}"


def against(value: float | None, other: float | None, metric: ReportedMetric) -> str:
    """Returns how a metric stands to another model's, '' when that cannot be said.

    The difference where larger is better, since such metrics are shares; else percent as well.
    """
    if value is None or other is None:
        return ""
    difference = value - other
    if metric.higher_is_better or other <= 0:
        return f"{difference:+.3g}" if difference else "\u00b10"
    return f"{difference:+.3g} ({100 * difference / other:+.2f} %)" if difference else "\u00b10"


def smaller(size: int, other: int) -> str:
    """Returns 'n x smaller' or 'n x larger'; '' when a size is unknown."""
    if size <= 0 or other <= 0:
        return ""
    if size == other:
        return "as large as"
    ratio = other / size if size < other else size / other
    return f"{ratio:.3g}{_TIMES} {'smaller' if size < other else 'larger'} than"


def _tiles(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Returns the chosen file's most important numbers, each with how it stands to the other files'."""
    roles = comparison.compared(evaluation)
    if not roles or roles[0].found.name != evaluation.chosen:
        return []
    chosen, others = roles[0].found, comparison.rivals(evaluation)
    tiles = [
        {
            "name": "download",
            "value": f"{_whole(chosen.gz_size_bytes)} bytes",
            "notes": [
                f"{text} {_role(one)}"
                for one in others
                if (text := smaller(chosen.gz_size_bytes, one.found.gz_size_bytes))
            ],
        }
    ]
    for metric in evaluation.metrics[:2]:
        value = comparison.metric_of(chosen, metric.name)
        notes = [
            f"{text} against {_role(one)}"
            for one in others
            if (text := against(value, comparison.metric_of(one.found, metric.name), metric))
        ]
        tiles.append({"name": metric.name, "value": number(value), "notes": notes})
    if chosen.latency is not None:
        notes = [
            f"{ratio.estimate:.2f}{_TIMES} the time of {role} [{ratio.low:.2f}, {ratio.high:.2f}]"
            for role, ratio in (
                ("the reference", chosen.latency.ratio),
                ("phones' file", chosen.latency.baseline_ratio),
            )
            if ratio is not None and not (role == "the reference" and chosen.name == evaluation.reference)
        ]
        value_us = f"{number(chosen.latency.p50_us)} {_MICROSECONDS}"
        tiles.append({"name": "median call", "value": value_us, "notes": notes})
    passing = sum(found.passes for found in evaluation.candidates)
    tiles.append(
        {
            "name": "candidates that pass",
            "value": f"{passing} of {len(evaluation.candidates)}",
            "notes": [f"on {evaluation.eval_rows:,} rows of split {evaluation.eval_split}"],
        }
    )
    return tiles


def _role(one: Compared) -> str:
    return {"reference": "the reference", "phones today": "phones' file"}.get(one.role, one.role)


def _cards(evaluation: Evaluation, figures: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Returns the charts by section; adds their figures by id."""
    cards: dict[str, list[dict[str, Any]]] = {"front": [], "latency": [], "inside": [], "history": []}

    def add(section: str, name: str, title: str, figure: Any, caption: str, *, wide: bool) -> None:
        figures[name] = figure
        card = {"id": name, "title": title, "caption": caption, "wide": wide}
        cards[section].append(card | {"height": figure["layout"]["height"]})

    if (drawn := charts.front(evaluation)) is not None:
        figure, far = drawn
        name = evaluation.metrics[0].name
        caption = (
            "Dashed lines are the gates on these two axes; the dotted line joins the files that no other "
            "beats on both. A relative gate on a metric is decided by the 95 % bound of the paired "
            "difference, so a point just inside its line can still be refused."
        )
        if far:
            caption += f" Too far off to be drawn: {'; '.join(far)}."
        add("front", "front", f"Download size against {name}", figure, caption, wide=True)
    if (timed := charts.latency(evaluation)) is not None:
        figure, count = timed
        caption = (
            "A line for each fresh process, in which all files took turns; the axis need not start at 0."
        )
        if count > charts.MAX_FILES:
            caption += f" The first {charts.MAX_FILES} of {count} files are shown."
        add("latency", "latency", "Single calls, by process", figure, caption, wide=True)
    roles = comparison.compared(evaluation)
    if roles and (zeros := charts.sparsity(roles[0].found)) is not None:
        figure, num_shown, count = zeros
        caption = f"Share of zeros in each constant of {roles[0].found.name}, the largest first."
        if count > num_shown:
            caption += f" The first {num_shown} of {count} are shown; evaluation.json has all."
        add("inside", "sparsity", "Sparsity by layer", figure, caption, wide=False)
    if (parts := charts.breakdown(evaluation)) is not None:
        caption = "Bytes of the files as they lie on the phone, before gzip."
        add("inside", "breakdown", "Where the bytes go", parts, caption, wide=False)
    if len(cards["inside"]) == 1:
        cards["inside"][0]["wide"] = True
    for i, (title, figure) in enumerate(charts.history(evaluation)):
        add("history", f"history-{i}", f"{title} by version", figure, "", wide=False)
    return cards


def _chosen_gates(
    evaluation: Evaluation, columns: tuple[GateColumn, ...], names: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Returns a row for each gate of the chosen file; of a gate on slices the slice with the least room."""
    found = next((one for one in evaluation.candidates if one.name == evaluation.chosen), None)
    rows = []
    for column in columns if found is not None else ():
        verdicts = comparison.verdicts_at(found, column, names) if found is not None else ()
        shown = verdicts[:1] if column.per_slice else verdicts
        for part, verdict in shown:
            note = f"of {len(verdicts)} slices the worst: {part}" if column.per_slice else ""
            rows.append({"gate": column.gate, "note": note, "verdict": verdict})
    return rows


def _row(
    found: CandidateResult, evaluation: Evaluation, columns: tuple[GateColumn, ...], names: tuple[str, ...]
) -> dict[str, Any]:
    cells = []
    for column in columns:
        verdicts = comparison.verdicts_at(found, column, names)
        stopped = sum(not verdict.lets_through for _, verdict in verdicts)
        worst = verdicts[0] if verdicts else None
        cells.append(
            {
                "verdict": worst[1] if worst else None,
                "sort": comparison.finite(worst[1].margin) if worst else None,
                "note": f"{stopped} of {len(verdicts)} slices" if column.per_slice and stopped else "",
                "title": f"{worst[0]}: {worst[1].reason}".removeprefix(": ") if worst else "",
            }
        )
    return {
        "found": found,
        "is_chosen": found.name == evaluation.chosen,
        "verdict": comparison.verdict_in_short(found),
        "metrics": _metrics(found, evaluation),
        "cells": cells,
    }


def _metrics(found: CandidateResult | None, evaluation: Evaluation) -> list[float | None]:
    return [comparison.metric_of(found, metric.name) for metric in evaluation.metrics]


def _slice_tables(
    evaluation: Evaluation, columns: tuple[GateColumn, ...], names: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Returns a table for each metric that is known on some slice: the chosen file first, then its rivals."""
    roles = [one for one in comparison.compared(evaluation) if one.found.slices]
    tables = []
    for metric in evaluation.metrics:
        known = [
            one
            for one in roles
            if any(comparison.metric_of(part, metric.name) is not None for part in one.found.slices)
        ]
        if not known:
            continue
        first, others = known[0], known[1:]
        changes = [comparison.slice_changes(first.found, one.found, metric) for one in others or [first]]
        by_name = [{change.name: change for change in found} for found in changes]
        shade = _shade_of([change.worsening for found in changes for change in found])
        gates = [column for column in columns if column.per_slice] if first.role != "phones today" else []
        verdicts = [dict(comparison.verdicts_at(first.found, column, names)) for column in gates]
        rows = []
        for change in changes[0][:MAX_SLICES]:
            cells = []
            for found in by_name if others else []:
                other = found.get(change.name)
                cells.append(
                    {
                        "value": other.other if other else None,
                        "text": against(change.value, other.other, metric) or "-" if other else "-",
                        "sort": comparison.finite(other.worsening) if other else None,
                        "shade": shade(other.worsening if other else None),
                    }
                )
            marks = [found.get(change.name) for found in verdicts]
            rows.append({"change": change, "cells": cells, "marks": marks})
        tables.append(
            {
                "metric": metric,
                "first": first,
                "others": others,
                "rows": rows,
                "total": len(changes[0]),
                "gates": [column.gate for column in gates],
                "overall": comparison.metric_of(first.found, metric.name),
                "overalls": [
                    (
                        value,
                        against(comparison.metric_of(first.found, metric.name), value, metric) or "-",
                    )
                    for one in others
                    for value in [comparison.metric_of(one.found, metric.name)]
                ],
            }
        )
    return tables


def _shade_of(worsenings: list[float | None]) -> Any:
    """Returns a function from a worsening to a colour that light and dark pages can have."""
    largest = max((abs(w) for w in worsenings if w is not None and math.isfinite(w)), default=0.0)
    full = max(largest, _FULL_SHADE)

    def shade(worsening: float | None) -> str:
        if not worsening:
            return ""
        colour = "200, 60, 60" if worsening > 0 else "47, 158, 99"
        return f"rgba({colour}, {0.5 * min(1.0, abs(worsening) / full):.2f})"

    return shade


def _timings(evaluation: Evaluation) -> dict[str, Any]:
    """Returns the table of what single calls do not say; a column that no file has is left out."""
    roles = comparison.compared(evaluation)
    files = [(one.found, one.role) for one in roles]
    known = {id(one.found) for one in roles}
    files += [(found, "") for found in comparison.ordered(evaluation) if id(found) not in known]
    kinds: list[tuple[str, Callable[[LatencyResult], float | None]]] = [
        (f"loading, {_MICROSECONDS}", lambda r: r.init_us),
        (f"first call, {_MICROSECONDS}", lambda r: r.first_call_us),
        (f"p50, {_MICROSECONDS}", lambda r: r.p50_us),
        (f"p90, {_MICROSECONDS}", lambda r: r.p90_us),
        (f"p99, {_MICROSECONDS}", lambda r: r.p99_us),
        ("arena, bytes", lambda r: r.arena_bytes),
        ("heap, bytes", lambda r: r.heap_bytes),
        ("process, bytes", lambda r: r.process_bytes),
        ("instructions", lambda r: r.instructions),
        ("timed calls", lambda r: r.calls),
        ("processes", lambda r: len(r.p50_us_by_process)),
    ]
    timed = [(found, role, found.latency) for found, role in files if found.latency is not None]
    shown = [(name, read) for name, read in kinds if any(read(r) is not None for _, _, r in timed)]
    return {
        "columns": [name for name, _ in shown] if timed else [],
        "rows": [
            {"name": found.name, "role": role, "values": [read(result) for _, read in shown]}
            for found, role, result in timed
        ],
    }


def _reasons(
    found: CandidateResult, columns: tuple[GateColumn, ...], names: tuple[str, ...]
) -> dict[str, Any]:
    """Returns why a candidate passes or does not; of slices those that stop it, or the tightest."""
    verdicts = []
    left = 0
    for column in columns:
        every = comparison.verdicts_at(found, column, names)
        stopped = [verdict for _, verdict in every if not verdict.lets_through]
        shown = (
            (stopped or [verdict for _, verdict in every[:1]]) if column.per_slice else [v for _, v in every]
        )
        verdicts += shown
        left += len(every) - len(shown)
    return {"found": found, "verdicts": verdicts, "left": left}


def _facts(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Returns where the numbers come from, by name."""
    machine = evaluation.machine
    chosen = next((one for one in evaluation.candidates if one.name == evaluation.chosen), None)
    pinned = ", pinned to one core" if machine.pinned else ""
    facts = [
        ("rows", f"{evaluation.eval_rows:,} of split {evaluation.eval_split}, label {evaluation.label_key}"),
        ("reference", evaluation.reference),
        (
            "baseline",
            "none: this is the first release" if evaluation.first_release else _baseline(evaluation),
        ),
        ("sha256 of the chosen file", chosen.sha256 if chosen else ""),
        *sorted((evaluation.provenance or {}).items()),
        ("measured on", f"{machine.target}: {machine.cpu}, {machine.cores} cores"),
        ("system", machine.system),
        ("runtime", machine.runtime),
        ("CPU frequency governor", machine.governor),
        (
            "how",
            f"batch 1, one thread{pinned}, synchronous; {machine.processes} fresh processes, "
            f"{number(machine.seconds)} s",
        ),
        ("load average", f"{number(machine.load_before)} before, {number(machine.load_after)} after"),
        ("schema version of evaluation.json", str(evaluation.schema_version)),
    ]
    return [(name, value) for name, value in facts if value]


def _baseline(evaluation: Evaluation) -> str:
    found = evaluation.baseline
    if found is None:
        return ""
    return found.failure or (f"sha256 {found.sha256}" if found.sha256 else "measured")


def _whole(value: int) -> str:
    return f"{value:,}" if value else "-"


def _interval(value: Interval | None) -> str:
    return "-" if value is None else f"{value.estimate:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _colour(verdict: Verdict) -> str:
    return {"pass": "pass", "fail": "fail"}.get(verdict.status.value, "odd")


# Sorts a table by the column whose head is clicked, by `data-v` where a cell has it; shows the slices of one
# metric.
_SORT = """\
for (const head of document.querySelectorAll("table.sortable thead tr:first-child th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const table = head.closest("table"), body = table.tBodies[0], place = head.cellIndex;
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => row.cells[place].dataset.v ?? row.cells[place].textContent.trim();
    const compare = (a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return up ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
  });
}
const choice = document.querySelector("#slice-metric");
if (choice) {
  const show = () => {
    for (const part of document.querySelectorAll(".slices"))
      part.hidden = part.dataset.metric !== choice.value;
  };
  choice.parentElement.hidden = false;
  choice.addEventListener("change", show);
  show();
}
"""

_PAGE = """\
{% macro v(value) %}data-v="{{ value if value is not none else '' }}"{% endmacro %}
{% macro chart(section) %}
{% if cards[section] %}
<div class="cards">
{% for card in cards[section] %}
<div class="card{{ ' wide' if card.wide }}"><h3>{{ card.title }}</h3>
<div id="{{ card.id }}" style="height: {{ card.height }}px" role="img" aria-label="{{ card.title }}"></div>
{% if card.caption %}<p class="soft">{{ card.caption }}</p>{% endif %}</div>
{% endfor %}
</div>
{% endif %}
{% endmacro %}
{% macro measured(found, metrics) %}
{% for value in metrics %}<td {{ v(value) }}>{{ value | number }}</td>{% endfor %}
<td {{ v(found.size_bytes or none) }}>{{ found.size_bytes | whole }}</td>
<td {{ v(found.gz_size_bytes or none) }}>{{ found.gz_size_bytes | whole }}</td>
{% set time = found.latency %}
<td {{ v(time.p50_us if time else none) }}>{{ (time.p50_us if time else none) | number }}</td>
<td {{ v(time.p90_us if time else none) }}>{{ (time.p90_us if time else none) | number }}</td>
<td {{ v(time.ratio.estimate if time and time.ratio else none) }}>{{
 (time.ratio if time else none) | interval }}</td>
{% endmacro %}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline';
 style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ style }}
.verdict { border: 1px solid var(--line); border-left: 8px solid; border-radius: 6px; padding: 16px 20px;
  background: var(--card); overflow-wrap: anywhere; }
.verdict.yes { border-left-color: var(--good); } .verdict.no { border-left-color: var(--bad); }
.verdict.yes h1 { color: var(--good); } .verdict.no h1 { color: var(--bad); }
.override { border-left: 4px solid var(--odd); padding: 4px 12px; margin-top: 8px;
  background: var(--odd-back); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px;
  margin: 12px 0; }
.tile { border: 1px solid var(--line); border-radius: 6px; padding: 10px 14px; min-width: 0;
  overflow-wrap: anywhere; }
.tile b { display: block; font-size: 22px; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile .soft { font-size: 13px; }
.cards { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 16px; margin-top: 12px; }
.card { border: 1px solid var(--line); border-radius: 6px; padding: 12px 14px; min-width: 0; }
.card h3 { font-size: 15px; margin: 0 0 4px; overflow-wrap: anywhere; } .card .soft { font-size: 13px; }
.card.wide { grid-column: 1 / -1; }
@media (max-width: 900px) { .card { grid-column: 1 / -1; } }
@media (max-width: 600px) { body { padding: 12px; } .card { padding: 10px 6px; } h1 { font-size: 21px; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 8px; } .tile { padding: 8px 10px; }
  .tile:last-child:nth-child(odd) { grid-column: 1 / -1; } .tile b { font-size: 18px; } }
.scroll { margin-top: 8px; } h2 { overflow-wrap: anywhere; }
th.gate { white-space: normal; min-width: 170px; overflow-wrap: anywhere; }
td.wrap { white-space: normal; min-width: 190px; overflow-wrap: anywhere; }
.sticky td:first-child, .sticky th:first-child { position: sticky; left: 0; z-index: 1; white-space: normal;
  overflow-wrap: anywhere; min-width: 160px; max-width: 300px; background: var(--paper); }
.sticky thead :first-child { background: var(--card); }
tr.chosen td, .sticky tr.chosen td:first-child { background: var(--good-back); }
tr.chosen.refused td, .sticky tr.chosen.refused td:first-child { background: var(--odd-back); }
thead tr + tr td { background: var(--card); font-weight: 600; }
.pass { color: var(--good); } .fail { color: var(--bad); } .odd { color: var(--odd); }
th button { all: unset; cursor: pointer; display: block; } th button:focus-visible { outline: 2px solid; }
th button::after { content: " \\2195"; color: var(--soft); font-weight: 400; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
select { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line);
  border-radius: 6px; padding: 2px 6px; max-width: 100%; }
details { border-bottom: 1px solid var(--line); padding: 6px 0; overflow-wrap: anywhere; }
.facts td { text-align: left; vertical-align: top; } .facts td:first-child { color: var(--soft);
  white-space: normal; min-width: 90px; }
@media (max-width: 600px) { td.text { min-width: 150px; } td.wrap { min-width: 150px; }
  .sticky td:first-child, .sticky th:first-child { min-width: 110px; max-width: 38vw; } }
.facts td + td { white-space: normal; overflow-wrap: anywhere; width: 100%; }
</style>
</head>
<body>
<section class="verdict {{ 'yes' if evaluation.blessed else 'no' }}">
<h1>{{ title }}</h1>
<p>{{ evaluation.reason }}</p>
{% if evaluation.override %}
<p class="override">Override by {{ evaluation.override.by }} on
{{ evaluation.override.date }}{{ " (not used)" if not evaluation.overridden }}:
{{ evaluation.override.reason }}</p>
{% endif %}
{% if evaluation.first_release %}
<p class="soft">This is the first release: there is no baseline to compare with.</p>
{% elif evaluation.baseline and evaluation.baseline.failure %}
<p class="fail">The baseline cannot be compared: {{ evaluation.baseline.failure }}</p>
{% endif %}
</section>
{% if tiles %}
<div class="tiles">
{% for tile in tiles %}
<div class="tile"><span class="soft">{{ tile.name }}</span><b>{{ tile.value }}</b>
{% for note in tile.notes %}<div class="soft">{{ note }}</div>{% endfor %}</div>
{% endfor %}
</div>
{% endif %}
{% if chosen_gates %}
<div class="scroll"><table id="gates"><thead><tr><th>gate</th><th class="text">verdict</th><th>got</th>
<th>95 % bound</th><th>limit</th><th>margin</th></tr></thead><tbody>
{% for row in chosen_gates %}
{% set verdict = row.verdict %}
<tr><td class="wrap">{{ row.gate }}
{% if row.note %}<br><span class="soft">{{ row.note }}</span>{% endif %}</td>
<td class="text {{ verdict | colour }}" style="min-width: 110px">{{ verdict | sign }} {{ verdict.status.value
}}{{ ", waived" if verdict.waived }}</td>
<td>{{ verdict.value | number }}</td><td>{{ verdict.bound | number }}</td>
<td>{{ verdict.limit | number }}</td>
<td class="{{ verdict | colour }}">{{ verdict | margin }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endif %}
<noscript><p class="soft">The charts need JavaScript; the tables do not.</p></noscript>
{{ chart("front") }}
{% if undrawn and cards.front %}
<p class="soft">Not drawn, because size or {{ evaluation.metrics[0].name }} is missing:
{{ undrawn | join(", ") }}.</p>
{% endif %}
{% if rows %}
<h2>Candidates</h2>
<div class="scroll sticky"><table class="sortable" id="candidates">
<thead><tr><th>candidate</th><th class="text">verdict</th>
{% for metric in evaluation.metrics %}<th>{{ metric.name }}</th>{% endfor %}
<th>bytes</th><th>gz bytes</th><th>p50 &#181;s</th><th>p90 &#181;s</th><th>ratio [95 % bounds]</th>
{% for column in columns %}<th class="gate">{{ column.gate }}{{ ", by slice" if column.per_slice
}}<br><span class="soft">{{ "least " if column.per_slice }}margin</span></th>{% endfor %}
</tr></thead>
<tbody>
{% for row in rows %}
{% set found = row.found %}
<tr class="{{ 'chosen' if row.is_chosen }}{{ ' refused' if not evaluation.blessed }}">
<td>{{ found.name }}</td>
<td class="text {{ 'pass' if found.passes else 'fail' }}">{{ row.verdict }}</td>
{{ measured(found, row.metrics) }}
{% for cell in row.cells %}
{% if cell.verdict %}
<td {{ v(cell.sort) }} title="{{ cell.title }}" class="{{ cell.verdict | colour }}">{{ cell.verdict | sign }}
{{ cell.verdict | margin }}{% if cell.note %}<br><span class="soft">{{ cell.note }}</span>{% endif %}</td>
{% else %}
<td data-v="">-</td>
{% endif %}
{% endfor %}
</tr>
{% endfor %}
</tbody>
{% if evaluation.baseline %}
{% set found = evaluation.baseline %}
<tfoot><tr><td>{{ found.name }} (phones today)</td><td class="text">{{ found.failure }}</td>
{{ measured(found, baseline_metrics) }}
{% if columns %}<td colspan="{{ columns | length }}"></td>{% endif %}</tr></tfoot>
{% endif %}
</table></div>
<p class="soft">Margins are in the gate's own unit; positive is room left. The ratio is of the median times of
a call, against the reference.</p>
{% endif %}
{% if slices %}
<h2>Slices</h2>
{% if slices | length > 1 %}
<p hidden><label>Metric <select id="slice-metric">
{% for table in slices %}<option value="{{ loop.index }}">{{ table.metric.name }}</option>{% endfor %}
</select></label></p>
{% endif %}
{% for table in slices %}
<div class="slices" data-metric="{{ loop.index }}">
<div class="scroll sticky"><table class="sortable">
<thead><tr><th>{{ table.metric.name }} on</th><th>rows</th><th>{{ table.first.role }}</th>
{% for one in table.others %}<th>{{ one.role }}</th><th>difference</th>{% endfor %}
{% for gate in table.gates %}<th class="gate">{{ gate }}<br><span class="soft">margin</span></th>{% endfor %}
</tr>
<tr><td>all rows</td><td>{{ evaluation.eval_rows | whole }}</td><td>{{ table.overall | number }}</td>
{% for value, text in table.overalls %}<td>{{ value | number }}</td><td>{{ text }}</td>{% endfor %}
{% for gate in table.gates %}<td></td>{% endfor %}</tr>
</thead>
<tbody>
{% for row in table.rows %}
<tr><td>{{ row.change.name }}</td><td {{ v(row.change.rows) }}>{{ row.change.rows | whole }}</td>
<td {{ v(row.change.value) }}>{{ row.change.value | number }}</td>
{% for cell in row.cells %}
<td {{ v(cell.value) }}>{{ cell.value | number }}</td>
<td {{ v(cell.sort) }}{% if cell.shade %} style="background: {{ cell.shade }}"{% endif %}>{{ cell.text }}</td>
{% endfor %}
{% for verdict in row.marks %}
{% if verdict %}
<td {{ v(verdict.margin) }} class="{{ verdict | colour }}" title="{{ verdict.reason }}">{{ verdict | sign }}
{{ verdict | margin }}</td>
{% else %}
<td data-v="">-</td>
{% endif %}
{% endfor %}
</tr>
{% endfor %}
</tbody></table></div>
<p class="soft">
{% if table.others %}
{{ "The largest differences from " if table.metric.higher_is_better is none else "The worst against " -}}
{{ table.others[0].found.name }} first; differences are those of {{ table.first.found.name }} to the file on
their left.
{% else %}
Of {{ table.first.found.name }}.
{% endif %}
{% if table.total > table.rows | length %}{{ table.rows | length }} of {{ table.total | whole }} slices are
shown; evaluation.json has all.{% endif %}
</p>
</div>
{% endfor %}
{% endif %}
{% if timings.rows %}
<h2>Time and memory</h2>
{{ chart("latency") }}
<div class="scroll sticky"><table class="sortable" id="timings">
<thead><tr><th>file</th>{% for name in timings.columns %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in timings.rows %}
<tr><td>{{ row.name }}{% if row.role %} <span class="soft">{{ row.role }}</span>{% endif %}</td>
{% for value in row["values"] %}<td {{ v(value) }}>{{ value | whole if value is integer else value | number
}}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
<p class="soft">Loading and the first call are in no other figure. Ratios carry over to phones only roughly,
absolute times do not.</p>
{% endif %}
{% for name, failure in untimed %}<p class="soft">{{ name }} was not timed: {{ failure }}</p>
{% endfor %}
{% if cards.inside %}
<h2>Inside the files</h2>
{{ chart("inside") }}
{% endif %}
{% if cards.history %}
<h2>What the registry had before</h2>
{{ chart("history") }}
{% endif %}
{% if reasons %}
<h2>Why, gate by gate</h2>
{% for one in reasons %}
{% set found = one.found %}
<details{{ " open" if found.name == evaluation.chosen }}><summary>{{ found.name }}</summary><ul>
{% if found.failure %}<li class="fail">{{ found.failure }}</li>{% endif %}
{% if found.excluded %}<li>Never chosen: {{ found.excluded }}.</li>{% endif %}
{% for verdict in one.verdicts %}
<li><b>{{ verdict.gate }}</b>: <span class="{{ verdict | colour }}">{{ verdict.status.value
}}{{ " (waived)" if verdict.waived }}</span>. {{ verdict.reason }}</li>
{% endfor %}
{% if one.left %}<li>{{ one.left | whole }} more slices have more room.</li>{% endif %}
{% if found.latency and found.latency.ratios_by_process %}
<li>Time against the reference's, by process:
{% for ratio in found.latency.ratios_by_process %}{{ ratio | number }}{{ ", " if not loop.last }}{%
 endfor %}.</li>
{% endif %}
</ul></details>
{% endfor %}
{% endif %}
<h2>Where the numbers come from</h2>
<div class="scroll"><table class="facts" id="provenance"><tbody>
{% for name, value in facts %}<tr><td>{{ name }}</td><td>{{ value }}</td></tr>
{% endfor %}
</tbody></table></div>
<script>
{{ sort }}</script>
<script>{{ plotly }}</script>
<script>
const figures = {{ figures }};
{{ paint }}</script>
</body>
</html>
"""
