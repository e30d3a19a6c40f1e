"""The reduction as one HTML page that needs nothing but itself, made from nothing but the report.

Names come from other people's data: Jinja escapes them in the page, and charts.py for Plotly.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2
import markupsafe

from tfx_mobile.common import web
from tfx_mobile.dimensionality_reducer import charts

_MAX_LISTED = 100  # rows of a table
_MAX_NAMES = 12  # in a sentence


class _Words(NamedTuple):
    """What a method is called, one of its outputs, and what its outputs keep a share of."""

    method: str
    noun: str
    kept: str = "variance"


_WORDS = {
    "pca": _Words("Principal component analysis", "component"),
    "truncated_svd": _Words("Truncated singular value decomposition", "component", "sum of squares"),
    "lda": _Words("Linear discriminant analysis", "discriminant", "variance between the classes"),
    "pls": _Words("Partial least squares", "component"),
    "variance_threshold": _Words("Variance threshold", "column"),
    "correlation_filter": _Words("Correlation filter", "column"),
    "select_k_best": _Words("Selection of the best columns", "column"),
    "gaussian_random_projection": _Words("Gaussian random projection", "direction"),
    "sparse_random_projection": _Words("Sparse random projection", "direction"),
    "fast_ica": _Words("Independent component analysis", "component"),
    "nmf": _Words("Non-negative matrix factorisation", "part"),
    "sparse_pca": _Words("Sparse principal component analysis", "component"),
    "kernel_pca": _Words(
        "Kernel principal component analysis", "component", "variance in the kernel's space"
    ),
    "latent_dirichlet_allocation": _Words("Latent Dirichlet allocation", "topic"),
}
_SCORES = {
    "variance_threshold": "variance",
    "correlation_filter": "largest absolute correlation",
    "f_regression": "F statistic of the correlation with the label",
    "f_classif": "F statistic between the classes of the label",
    "mutual_info": "mutual information with the label, nats",
}


def page(report: dict[str, Any]) -> str:
    """Returns the page; the same report gives the same page.

    Args:
      report: As `report.reduction_report` made it or as it was read back from its JSON.
    """
    from plotly import offline

    figures: dict[str, Any] = {}
    sections = [_section(one, i, report, figures) for i, one in enumerate(report["reductions"])]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"whole": _whole, "number": web.number, "signed": _signed}
    return environment.from_string(_PAGE).render(
        report=report,
        title=_title(report),
        headlines=headlines(report),
        sections=sections,
        columns_read=sum(len(one["columns"]) for one in report["reductions"]),
        max_listed=_MAX_LISTED,
        style=markupsafe.Markup(web.STYLE),
        figures=markupsafe.Markup(web.for_script(figures)),
        plotly=markupsafe.Markup(offline.get_plotlyjs()),
        paint=markupsafe.Markup(web.PAINT),
    )


def headlines(report: dict[str, Any]) -> list[str]:
    """Returns one sentence on each reduction, in plain words."""
    return [_headline(one) for one in report["reductions"]]


def _headline(one: dict[str, Any]) -> str:
    return f"{one['settings']['output']}: {_did(one)}"


def _did(one: dict[str, Any]) -> str:
    words, kept, width = _words(one), one["num_components"], len(one["columns"])
    text = f"{_count(width, 'column')} \u2192 "
    if one["kept"]:
        text += f"{kept} that {'stays' if kept == 1 else 'stay'}, {len(one['dropped'])} dropped"
    else:
        text += _count(kept, words.noun)
        if (found := charts.shares(one)) is not None:
            held = charts.share(min(1.0, float(found[:kept].sum())))
            text += f" that {'keeps' if kept == 1 else 'keep'} {held} of the {words.kept}"
        if one["label_r2"]:
            text += f" and {charts.share(min(1.0, sum(one['label_r2'])))} of the label's"
    if one["columns_replaced"] is None:
        return text + "."
    return f"{text}; {_saved(one['columns_replaced'] - kept)}."


def _saved(fewer: int) -> str:
    if not fewer:
        return "each unit of the first layer has as many weights as before"
    return (
        f"each unit of the first layer has {_count(abs(fewer), 'weight')} {'fewer' if fewer > 0 else 'more'}"
    )


def _title(report: dict[str, Any]) -> str:
    layer = report["first_layer"]
    if layer is None:
        outputs = sum(one["num_components"] for one in report["reductions"])
        read = sum(len(one["columns"]) for one in report["reductions"])
        return f"{_count(read, 'column')} reduced to {outputs}"
    after = _count(layer["columns_after"], "column")
    if layer["columns_after"] == layer["columns_before"]:
        return f"The first layer gets {after}, as before"
    return f"The first layer gets {after} instead of {layer['columns_before']:,}"


def _section(
    one: dict[str, Any], place: int, report: dict[str, Any], figures: dict[str, Any]
) -> dict[str, Any]:
    """Returns what the page says of one reduction; adds its figures by the id of their place."""
    words, label = _words(one), report["label_key"]
    section: dict[str, Any] = {
        "id": f"reduction-{place}",
        "output": one["settings"]["output"],
        "headline": _did(one),
        "method": words.method,
        "noun": words.noun,
        "facts": _facts(one),
        "cards": [],
        "dropped": sorted(one["dropped"].items())[:_MAX_LISTED],
        "scores": {name: _shown(value) for name, value in one["scores"].items()},
        "one": one,
        "dropped_wide": False,
        "bad": _named([f"{name} ({count:,})" for name, count in _most(one["not_finite"])]),
    }

    def add(name: str, title: str, figure: Any, caption: str, *, wide: bool) -> None:
        key = f"{name}-{place}"
        figures[key] = figure
        card = {"id": key, "title": title, "caption": caption, "wide": wide}
        section["cards"].append(card | {"height": figure["layout"]["height"]})

    if (plotted := charts.variances(one, words.noun)) is not None:
        figure, num_drawn = plotted
        every = charts.shares(one)
        total = 0 if every is None else len(every)
        more = f" The first {num_drawn} of {total:,} are shown." if num_drawn < total else ""
        cut = (
            " The dashed line is the cut: what is left of it is kept."
            if total > one["num_components"]
            else ""
        )
        caption = (
            f"Share of the {words.kept} of each {words.noun}, and of the first ones together.{cut}{more}"
        )
        add("variances", f"How much each {words.noun} keeps", figure, caption, wide=True)
    if (scored := charts.scores(one, _score_name(one))) is not None:
        figure, num_shown = scored
        more = (
            f" {num_shown} of {len(one['scores']):,} columns are shown."
            if num_shown < len(one["scores"])
            else ""
        )
        line = " The dashed line is the threshold." if "threshold" in one["settings"] else ""
        add(
            "scores",
            "What each column scored",
            figure,
            f"By {_score_name(one)}.{line}{more}",
            wide=_is_wide(figure),
        )
    if (mapped := charts.loadings(one, words.noun)) is not None:
        figure, num_columns, num_components = mapped
        caption = _loadings_caption(one, words, num_columns, num_components)
        wide = _is_wide(figure) or num_components > 12 or num_columns > 24
        add("loadings", f"What each {words.noun} is made of", figure, caption, wide=wide)
    if (drawn := charts.projection(one, label, _axes(one, words))) is not None:
        rows = len(one["sample"]["outputs"][0])
        caption = f"{_count(rows, 'row')} of the train split, no two alike, drawn by their hash."
        labels = one["sample"]["labels"]
        if labels is None:
            caption += " There is no label to colour them by."
        elif len(one["sample"]["outputs"]) > 1 and charts.classes(labels) is None:
            caption += f" The colours of {label} end at the 2nd and the 98th percentile."
        add("projection", "The rows", drawn, caption, wide=False)
    beside = [card for card in section["cards"] if not card["wide"]]
    if (len(beside) + bool(section["dropped"])) % 2:  # nothing stands beside the last one
        section["dropped_wide"] = not beside
        for card in beside[-1:]:
            card["wide"] = True
    elif len(beside) == 2:  # side by side, of one height
        height = max(card["height"] for card in beside)
        for card in beside:
            card["height"] = figures[card["id"]]["layout"]["height"] = height
    return section


def _loadings_caption(one: dict[str, Any], words: _Words, num_columns: int, num_components: int) -> str:
    if one["settings"]["kind"] in charts.WITHOUT_UNIT:
        text = f"The weight of each column in each {words.noun}, each {words.noun} scaled to length 1."
    elif one["settings"]["kind"] in charts.IN_OWN_UNIT:
        text = (
            f"The value of each column in each {words.noun}, in standard deviations of the column, each "
            f"{words.noun} scaled to length 1."
        )
    else:
        text = (
            f"How far each {words.noun} moves when a column moves by its standard deviation, each "
            f"{words.noun} scaled to length 1."
        )
    width = len(one["columns"])
    if num_columns < width:
        text += f" The {num_columns} strongest of {width:,} columns are shown; reduction.json has all."
    if num_components < one["num_components"]:
        text += f" The first {num_components} of {one['num_components']:,} are shown."
    return text


def _is_wide(figure: dict[str, Any]) -> bool:
    return max(len(name) for name in figure["layout"]["yaxis"]["ticktext"]) > 26


def _axes(one: dict[str, Any], words: _Words) -> list[str]:
    if one["kept"]:
        return [*one["kept"][:2], ""][:2]
    names = [f"{words.noun} 1", f"{words.noun} 2"]
    found = charts.shares(one)
    if found is not None:
        names = [f"{name} ({charts.share(float(part))})" for name, part in zip(names, found, strict=False)]
    return [*names, ""][:2]


def _score_name(one: dict[str, Any]) -> str:
    settings = one["settings"]
    return _SCORES.get(settings.get("score", settings["kind"]), "score")


def _facts(one: dict[str, Any]) -> list[str]:
    """Returns the settings as people write them."""
    settings = one["settings"]
    hidden = {"kind", "inputs", "output"}
    found = [f"{name} = {_setting(value)}" for name, value in sorted(settings.items()) if name not in hidden]
    inputs = [_input(value) for value in settings["inputs"]]
    return [f"of {_named(inputs)}", *found]


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "default" if value is None else str(value)


def _input(value: Any) -> str:
    return value if isinstance(value, str) else f"{value['feature']} (one-hot)"


def _named(names: Sequence[str]) -> str:
    more = len(names) - _MAX_NAMES
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:_MAX_NAMES])} and {more:,} more"


def _most(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _words(one: dict[str, Any]) -> _Words:
    return _WORDS[one["settings"]["kind"]]


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _whole(value: int) -> str:
    return f"{value:,}"


def _signed(value: int) -> str:
    return f"{value:+,}" if value else "0"


def _shown(value: Any) -> str:
    return "-" if value is None else web.number(float(value))


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Dimensionality reduction: {{ title }}</title>
<style>{{ style }}
.head { border: 1px solid var(--line); border-left: 8px solid #3b7dc4; border-radius: 6px;
  padding: 16px 20px; background: var(--card); overflow-wrap: anywhere; }
.head ul { margin: 8px 0 0; padding-left: 20px; } a { color: inherit; text-decoration: none; }
a:hover { text-decoration: underline; }
h2 { font-size: 20px; margin-top: 40px; overflow-wrap: anywhere; }
h2 .soft { font-weight: 400; font-size: 16px; } h3 { font-size: 15px; margin: 0 0 4px; }
.cards { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 16px; margin-top: 12px; }
.card { border: 1px solid var(--line); border-radius: 6px; padding: 12px 14px; min-width: 0; }
.card.wide, .card:only-child { grid-column: 1 / -1; }
@media (max-width: 900px) { .card { grid-column: 1 / -1; } }
.card .soft { font-size: 13px; }
.notes { border-left: 4px solid var(--odd); padding: 4px 12px; background: var(--odd-back);
  overflow-wrap: anywhere; margin: 8px 0; }
.narrow { display: inline-block; max-width: 100%; } .narrow table { width: auto; }
.tall { max-height: 380px; overflow: auto; } .tall th { position: sticky; top: 0; }
td.name { white-space: normal; overflow-wrap: anywhere; min-width: 140px; }
</style>
</head>
<body>
<section class="head">
<h1>{{ title }}</h1>
<ul>{% for line in headlines %}
<li><a href="#reduction-{{ loop.index0 }}">{{ line }}</a></li>{% endfor %}
</ul>
</section>
{% for section in sections %}{% set one = section.one %}
<h2 id="{{ section.id }}">{{ section.output }} <span class="soft">{{ section.method }}</span></h2>
{% if sections | length > 1 %}<p>{{ section.headline }}</p>
{% endif %}<p class="soft">Fitted on {{ one.num_rows | whole }} rows of the train split
{{ section.facts | join("; ") }}.{% if one.num_parameters %}
Its {{ one.num_parameters | whole }} fitted numbers go to the phone with the model.{% endif %}</p>
{% for note in one.notes %}<p class="notes">{{ note }}</p>{% endfor %}
{% if section.bad %}<p class="notes">NaN or infinity in {{ one.num_bad_rows | whole }} rows of the train
split: {{ section.bad }}.{% if one.settings.not_finite == "impute_mean" %} The mean of the other rows
stands in for them.{% elif one.settings.not_finite == "drop_rows" %} These rows were left
out.{% endif %}</p>{% endif %}
<div class="cards">{% for card in section.cards %}
<div class="card{{ ' wide' if card.wide }}"><h3>{{ card.title }}</h3>
<div id="{{ card.id }}" style="height: {{ card.height }}px" role="img" aria-label="{{ card.title }}"></div>
<p class="soft">{{ card.caption }}</p></div>{% endfor %}
{% if section.dropped %}
<div class="card{{ ' wide' if section.dropped_wide }}"><h3>What was dropped and why</h3>
<div class="scroll tall"><table><thead><tr><th>column</th><th class="text">reason</th>{% if section.scores %}
<th>score</th>{% endif %}</tr></thead><tbody>{% for column, reason in section.dropped %}
<tr><td class="name">{{ column }}</td><td class="text">{{ reason }}</td>{% if section.scores %}
<td>{{ section.scores.get(column, "-") }}</td>{% endif %}</tr>{% endfor %}
</tbody></table></div>
{% if one.dropped | length > max_listed %}<p class="soft">The first {{ max_listed }} of
{{ one.dropped | length | whole }}; reduction.json has all.</p>{% endif %}</div>
{% endif %}</div>
{% endfor %}
{% if report.first_layer %}{% set layer = report.first_layer %}
<h2>Weights of the model's first layer</h2>
<div class="scroll narrow"><table><thead><tr><th>first dense layer</th><th>before</th><th>after</th>
<th>difference</th></tr></thead><tbody>
<tr><td>columns: weights of each unit</td><td>{{ layer.columns_before | whole }}</td>
<td>{{ layer.columns_after | whole }}</td>
<td>{{ (layer.columns_after - layer.columns_before) | signed }}</td></tr>
{% for row in layer.weights %}<tr><td>with {{ row.units }} units</td><td>{{ row.before | whole }}</td>
<td>{{ row.after | whole }}</td><td>{{ (row.after - row.before) | signed }}</td></tr>{% endfor %}
</tbody></table></div>
<p class="soft">A dense layer has one weight for each unit and column. Counted are the float features of
fixed width, and all that the reductions read: numbers by their width, one-hot vectors by their depth. Not
counted are {{ "the label, " if report.label_key }}strings, and integers that no reduction reads, which go to
embeddings: they are the same before and after.{% if not report.label_key %} The label is counted if it is a
float, because label_key is not set.{% endif %}</p>
{% endif %}
{% if report.embedding_sizes %}
<h2>Suggested embedding sizes</h2>
<div class="scroll narrow{{ ' tall' if report.embedding_sizes | length > 12 }}"><table>
<thead><tr><th>categorical feature</th><th>values</th><th>embedding</th></tr></thead><tbody>
{% for row in report.embedding_sizes[:max_listed] %}<tr><td class="name">{{ row.feature }}</td>
<td>{{ row.vocabulary_size | whole }}</td><td>{{ row.embedding_size | whole }}</td></tr>{% endfor %}
</tbody></table></div>
{% if report.embedding_sizes | length > max_listed %}<p class="soft">The first {{ max_listed }} of
{{ report.embedding_sizes | length | whole }}; reduction.json has all.</p>{% endif %}
<p class="soft">The fourth root of the number of values, as a rule of thumb;
<code>tfx_mobile.embedding_size</code> computes it in build_model.</p>
{% endif %}
{% if report.splits %}
<h2>Rows</h2>
<div class="scroll narrow"><table><thead><tr><th>split</th><th>read</th><th>left out: NaN or infinity</th>
<th>written</th><th>values imputed</th></tr></thead><tbody>
{% for split, found in report.splits | dictsort %}<tr><td>{{ split }}</td>
<td>{{ found.num_rows | whole }}</td>
<td>{{ found.num_dropped | whole }}</td>
<td>{{ (found.num_rows - found.num_dropped) | whole }}</td>
<td>{{ found.num_imputed | whole }}</td></tr>{% endfor %}
</tbody></table></div>
{% endif %}
<script>{{ plotly }}</script>
<script>
const figures = {{ figures }};
{{ paint }}</script>
</body>
</html>
"""
