"""The reduction's page: made from the JSON alone, whatever names are in it; what its figures show."""

import copy
import dataclasses
import html.parser
import json
import re
import typing
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from plotly import graph_objects, offline

from tfx_mobile.common import jsonable
from tfx_mobile.dimensionality_reducer import charts, config, page
from tfx_mobile.dimensionality_reducer.config import PCA, ReducerConfig, SelectKBest, VarianceThreshold
from tfx_mobile.dimensionality_reducer.models import Fitted, Linear, Selection
from tfx_mobile.dimensionality_reducer.report import reduction_report
from tfx_mobile.dimensionality_reducer.rows import Rows
from tfx_mobile.dimensionality_reducer.statistics import Statistics

HOSTILE = "<b>x</b></script><script>alert(2)</script><img src=x>\u2028&\"'%{meta}"


@dataclasses.dataclass(frozen=True)
class Counts:
    num_rows: int
    num_dropped: int
    num_imputed: int


def sample(rows: Any, labels: Any = None) -> Statistics:
    made = Rows.of(rows)
    found = Statistics(PCA(inputs=("a",), output="x"), made.num_numbers, made.width)
    found.add(made, labels)
    return found


def pca_report(
    num_columns: int = 4,
    num_components: int = 2,
    labels: Any = None,
    *,
    columns: list[str] | None = None,
    num_rows: int = 60,
    label_key: str = "fare",
) -> dict[str, Any]:
    """Returns the report of a PCA of columns that are ever less important, with all that a page can show."""
    draw = np.random.default_rng(0)
    matrix = np.linalg.qr(draw.normal(size=(num_columns, num_columns)))[0][:, :num_components]
    variances = 0.5 ** np.arange(num_columns)
    names = columns or [f"column_{i}" for i in range(num_columns)]
    reduction = PCA(inputs=("columns",), output="place", n_components=num_components)
    fitted = Fitted(
        model=Linear(np.zeros(num_columns), matrix),
        columns=names,
        num_rows=num_rows,
        loadings=matrix,
        explained_variance=variances[:num_components],
        explained_variance_ratio=variances[:num_components] / variances.sum(),
        all_variances=variances,
        total_variance=float(variances.sum()),
        notes=("A note.",),
    )
    splits: Any = {"train": Counts(num_rows, 0, 2), "eval": Counts(9, 1, 0)}
    found = reduction_report(
        ReducerConfig((reduction,), label_key),
        {"place": fitted},
        statistics={"place": sample(draw.normal(size=(num_rows, num_columns)), labels)},
        widths={"columns": num_columns},
        float_widths={"columns": num_columns, "other": 3},
        vocabulary_sizes={"cell": 1000},
        splits=splits,
    )
    return found


def selection_report(scores: dict[str, float], kept: tuple[str, ...], reduction: Any) -> dict[str, Any]:
    names = list(scores)
    fitted = Fitted(
        model=Selection(tuple(names.index(name) for name in kept)),
        columns=names,
        num_rows=10,
        kept=kept,
        dropped={name: f"reason of {name}" for name in names if name not in kept},
        scores=scores,
    )
    rows = np.arange(10.0)[:, None] * np.arange(1, len(names) + 1)
    return reduction_report(
        ReducerConfig((reduction,), "y"),
        {reduction.output: fitted},
        statistics={reduction.output: sample(rows, rows[:, 0])},
        widths={"columns": len(names)},
    )


def own_parts(text: str) -> str:
    assert text.count(offline.get_plotlyjs()) == 1
    return text.replace(offline.get_plotlyjs(), "")


def figures_of(report: dict[str, Any]) -> dict[str, Any]:
    text = own_parts(page.page(report)).split("const figures = ")[1].split(";\nfunction paint")[0]
    return dict(json.loads(text))


class Reader(html.parser.HTMLParser):
    """Gathers the text, the elements and the attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" not in self.open and "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in (*value, *value.values()):
            yield from strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)


REPORTS = {
    "numbers": pca_report(labels=np.arange(60.0) + 0.5),
    "classes": pca_report(labels=np.array([b"red", b"blue"] * 30, object)),
    "no_label": pca_report(),
    "one_component": pca_report(num_components=1, labels=np.arange(60.0) + 0.5),
    "one_component_classes": pca_report(num_components=1, labels=np.array([b"red", b"blue"] * 30, object)),
    "one_column": pca_report(1, 1),
    "many": pca_report(500, 80),
    "selection": selection_report(
        {"a": 1.0, "b": 4.0, "c": 0.0},
        ("b",),
        SelectKBest(inputs=("columns",), output="best", k=1),
    ),
    "bare": reduction_report(
        ReducerConfig((PCA(inputs=("a",), output="bare"),)),
        {"bare": Fitted(Linear(np.zeros(1), np.ones((1, 1))), ["a"], 3)},
    ),
}


@pytest.mark.parametrize("name", REPORTS)
def test_a_page_is_made_from_the_json_alone_and_always_the_same(name: str) -> None:
    read_back = jsonable.loads(jsonable.dumps(REPORTS[name]), where="reduction.json")
    assert page.page(read_back) == page.page(REPORTS[name])


@pytest.mark.parametrize("name", REPORTS)
def test_making_a_page_leaves_the_report_as_it_is(name: str) -> None:
    before = copy.deepcopy(REPORTS[name])
    page.page(REPORTS[name])
    assert before == REPORTS[name]


@pytest.mark.parametrize("name", REPORTS)
def test_a_page_fetches_nothing_and_closes_what_it_opens(name: str) -> None:
    text = own_parts(page.page(REPORTS[name]))
    found = Reader(text)
    assert found.open == []
    assert found.tags.count("script") == 2
    assert not {"img", "link", "iframe", "object"} & set(found.tags)
    assert not [value for key, value in found.attributes if key == "src"]
    assert [value for key, value in found.attributes if key == "href"] == ["#reduction-0"]
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text


@pytest.mark.parametrize("name", REPORTS)
def test_every_figure_has_a_place_of_its_height_and_plotly_knows_all_its_settings(name: str) -> None:
    figures = figures_of(REPORTS[name])
    found = dict.fromkeys(value for key, value in Reader(own_parts(page.page(REPORTS[name]))).attributes)
    assert set(figures) <= set(found)
    text = page.page(REPORTS[name])
    for key, figure in figures.items():
        graph_objects.Figure(figure)  # raises ValueError for a setting that there is not
        assert f'<div id="{key}" style="height: {figure["layout"]["height"]}px"' in text


@pytest.mark.parametrize("num_components", [1, 2])
@pytest.mark.parametrize("label", ["words", "numbers"])
def test_hostile_names_stay_text(num_components: int, label: str) -> None:
    labels: Any = np.arange(60.0) + 0.5
    if label == "words":
        labels = np.array([HOSTILE.encode(), b"b"] * 30, object)
    report = pca_report(
        4,
        num_components,
        labels,
        columns=[HOSTILE + str(i) for i in range(4)],
        label_key=HOSTILE,
    )
    one = report["reductions"][0]
    one["settings"]["inputs"] = [HOSTILE]
    one["settings"]["output"] = HOSTILE
    one["notes"] = [HOSTILE]
    one["not_finite"] = {HOSTILE: 3}
    one["dropped"] = {HOSTILE: HOSTILE}
    one["scores"] = {HOSTILE: 1.0}
    report["splits"] = {HOSTILE: report["splits"]["train"]}
    report["embedding_sizes"][0]["feature"] = HOSTILE
    text = own_parts(page.page(report))
    found = Reader(text)
    assert found.open == []
    assert found.tags.count("script") == text.count("</script>") == 2
    assert not {"img", "b"} & set(found.tags)
    # Output (head and section), input, note, NaN, dropped column and reason, split, embedding, caption.
    assert found.text.count("<b>x</b>") >= 9
    data = text.split("const figures = ")[1].split(";\nfunction paint")[0]
    assert not set("<>&\u2028") & set(data)


def test_plotly_gets_hostile_names_without_its_html() -> None:
    report = pca_report(
        columns=[HOSTILE + str(i) for i in range(4)],
        labels=np.array([HOSTILE.encode(), b"b"] * 30, object),
        label_key=HOSTILE,
    )
    report["reductions"][0] |= {"kept": [HOSTILE], "dropped": {"b": "r"}, "scores": {HOSTILE: 2.0, "b": 1.0}}
    figures = figures_of(report)
    assert set(figures) == {"variances-0", "scores-0", "loadings-0", "projection-0"}
    for text in strings(figures):
        assert not re.findall("<(?!br>|extra>|/extra>)", text), text
        if "<extra>" in text:
            assert set(re.findall("%{(.*?)[:}]", text)) <= {"x", "y", "z", "text", "hovertext"}
            assert "alert" not in text.replace("alert(2)&lt;/s", "")
    loadings = figures["loadings-0"]["data"][0]
    assert loadings["hovertext"][3][0] == (
        "&lt;b&gt;x&lt;/b&gt;&lt;/script&gt;&lt;script&gt;alert(2)&lt;/script&gt;&lt;img src=x&gt;\u2028&amp;"
        "&quot;&#x27;%{meta}3"
    )


def test_the_head_says_in_plain_words_what_became_of_the_columns() -> None:
    report = pca_report(4, 2)
    wanted = (
        "place: 4 columns \u2192 2 components that keep 80 % of the variance; "
        "each unit of the first layer has 2 weights fewer."
    )
    assert page.headlines(report) == [wanted]
    assert (
        f"The first layer gets 5 columns instead of 7 {wanted}" in Reader(own_parts(page.page(report))).text
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"columns_replaced": 3}, "; each unit of the first layer has 1 weight fewer."),
        ({"columns_replaced": 2}, "; each unit of the first layer has as many weights as before."),
        ({"columns_replaced": 0}, "; each unit of the first layer has 2 weights more."),
        ({"columns_replaced": None}, "2 components that keep 80 % of the variance."),
        (
            {"label_r2": [0.5, 0.25], "columns_replaced": None},
            "keep 80 % of the variance and 75 % of the label's.",
        ),
        (
            {"kept": ["a", "b"], "dropped": {"c": "r"}, "columns_replaced": None},
            "4 columns \u2192 2 that stay, 1 dropped.",
        ),
    ],
)
def test_a_headline_follows_what_was_done(changes: dict[str, Any], words: str) -> None:
    report = pca_report(4, 2)
    report["reductions"][0] |= changes
    assert page.headlines(report)[0].endswith(words)


def test_every_method_has_its_words() -> None:
    kinds = {method.kind for method in typing.get_args(config.AnyReduction)}
    assert len(kinds) == 14
    assert set(page._WORDS) == kinds
    for kind in kinds:
        report = pca_report()
        report["reductions"][0]["settings"]["kind"] = kind
        assert page._WORDS[kind].method in page.page(report)


def test_all_numbers_that_are_not_drawn_are_in_tables() -> None:
    text = Reader(own_parts(page.page(pca_report()))).text
    for words in (
        "columns: weights of each unit 7 5 -2",
        "with 64 units 448 320 -128",
        "with 256 units 1,792 1,280 -512",
        "cell 1,000 6",
        "eval 9 1 8 0 train 60 0 60 2",
        "A note.",
        "of columns; keep_inputs = no; n_components = 2; not_finite = refuse; standardise = yes; whiten = no",
        "Fitted on 60 rows",
        "Its 12 fitted numbers",
        "integers that no reduction reads",
    ):
        assert words in text


def test_what_was_not_finite_is_said_with_what_became_of_it() -> None:
    report = pca_report()
    report["reductions"][0] |= {"not_finite": {"a": 2, "b": 1200}, "num_bad_rows": 1201}
    said = "NaN or infinity in 1,201 rows of the train split: b (1,200), a (2)."
    for choice, words in (
        ("impute_mean", f"{said} The mean of the other rows stands in for them."),
        ("drop_rows", f"{said} These rows were left out."),
    ):
        report["reductions"][0]["settings"]["not_finite"] = choice
        assert words in Reader(own_parts(page.page(report))).text


def test_a_label_that_nobody_named_is_said_to_count() -> None:
    assert "because label_key is not set" in page.page(pca_report(label_key=""))
    assert "because label_key is not set" not in page.page(pca_report())


# ---- variances ----


def test_the_scree_plot_shows_each_share_and_the_cut_is_behind_the_last_that_is_kept() -> None:
    figure = figures_of(pca_report(4, 2))["variances-0"]
    bars, rest, kept = figure["data"]
    assert bars["y"] == pytest.approx([100 * v / 1.875 for v in (1, 0.5, 0.25, 0.125)], rel=1e-4)
    assert bars["marker"]["color"] == [charts._BLUE] * 2 + [charts._GREY] * 2
    assert (kept["x"], rest["x"]) == ([1, 2], [2, 3, 4])
    assert kept["y"] == pytest.approx([53.333, 80.0])
    assert rest["y"] == pytest.approx([80.0, 93.333, 100.0])
    assert [(s["xref"], s["x0"], s["x1"]) for s in figure["layout"]["shapes"]] == [
        ("x", 2.5, 2.5),
        ("x2", 2.5, 2.5),
    ]
    assert [note["text"] for note in figure["layout"]["annotations"]] == ["2 kept: 80 %"]


def test_no_cut_is_drawn_where_all_is_kept() -> None:
    assert "shapes" not in figures_of(pca_report(3, 3))["variances-0"]["layout"]
    assert "dashed" not in page.page(pca_report(3, 3)).replace(offline.get_plotlyjs(), "")


def test_of_many_components_the_first_are_drawn_up_to_behind_the_cut() -> None:
    report = pca_report(500, 20)
    assert len(figures_of(report)["variances-0"]["data"][0]["x"]) == 60
    assert "The first 60 of 500 are shown." in page.page(report)
    assert len(figures_of(pca_report(500, 80))["variances-0"]["data"][0]["x"]) == charts.MAX_VARIANCES


def test_shares_are_of_the_whole_where_only_some_variances_were_computed() -> None:
    one = {"all_variances": [3.0, 1.0], "explained_variance_ratio": [0.3], "explained_variance": [9.0]}
    assert charts.shares(one | {"total_variance": 8.0}) == pytest.approx([0.375, 0.125])
    assert charts.shares(one | {"total_variance": None}) == pytest.approx([0.1, 1 / 30])


def test_shares_without_a_cut_are_those_of_the_outputs() -> None:
    one = {"all_variances": None, "explained_variance": [7.0, 9.0], "total_variance": None}
    assert charts.shares(one | {"explained_variance_ratio": [0.2, 0.3]}) == pytest.approx([0.2, 0.3])
    assert charts.shares(one | {"explained_variance_ratio": None}) is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.0, "100 %"),
        (1 - 1e-12, "100 %"),
        (0.99999, "more than 99.9 %"),
        (0.9995, "more than 99.9 %"),
        (0.9994, "99.9 %"),
        (0.5, "50 %"),
        (0.123, "12.3 %"),
        (0.0004, "less than 0.1 %"),
        (0.0, "0 %"),
    ],
)
def test_a_share_is_never_rounded_to_all_or_nothing(value: float, words: str) -> None:
    assert charts.share(value) == words


# ---- loadings ----


def one_reduction(loadings: Any, deviations: Any, kind: str = "pca", ratio: Any = None) -> dict[str, Any]:
    weights = np.array(loadings, float)
    return {
        "loadings": weights.T.tolist(),
        "column_deviations": deviations,
        "settings": {"kind": kind},
        "columns": [f"c{i}" for i in range(len(weights))],
        "explained_variance_ratio": ratio,
    }


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("pca", [[0.6, 0.0], [0.8, 1.0]]),  # 3 * 2, 1 * 8 and 0 * 2, 1 * 8
        ("nmf", [[12 / 145**0.5, 0.0], [1 / 145**0.5, 1.0]]),  # 3 / 2, 1 / 8
        ("sparse_pca", [[3 / 10**0.5, 0.0], [1 / 10**0.5, 1.0]]),
        ("latent_dirichlet_allocation", [[3 / 10**0.5, 0.0], [1 / 10**0.5, 1.0]]),
    ],
)
def test_loadings_of_columns_in_different_units_are_brought_to_one(
    kind: str, wanted: list[list[float]]
) -> None:
    found = charts.relative_loadings(one_reduction([[3, 0], [1, 1]], [2.0, 8.0], kind))
    assert found == pytest.approx(np.array(wanted))


def test_a_component_of_nothing_has_no_loadings_and_still_a_colour_scale() -> None:
    found = charts.relative_loadings(one_reduction([[1, 0], [1, 0]], [1.0, 1.0]))
    assert found is not None
    assert found[:, 1].tolist() == [0, 0]
    made = charts.loadings(one_reduction([[0], [0]], [1.0, 1.0]), "component")
    assert made is not None
    assert made[0]["data"][0]["zmax"] == 1.0


def test_the_scale_of_the_heat_map_is_symmetric_about_zero_and_blue_is_below() -> None:
    made = charts.loadings(one_reduction([[3, -1], [-4, 0]], [1.0, 1.0]), "component")
    assert made is not None
    trace = made[0]["data"][0]
    assert (trace["zmin"], trace["zmid"], trace["zmax"]) == (-1.0, 0, 1.0)
    assert trace["z"] == [[0.6, -1.0], [-0.8, 0.0]]
    low, high = trace["colorscale"][0][1], trace["colorscale"][-1][1]
    assert int(low[5:7], 16) > int(low[1:3], 16)  # more blue than red
    assert int(high[1:3], 16) > int(high[5:7], 16)
    assert trace["text"] == [["0.60", "-1.00"], ["-0.80", "0.00"]]
    assert made[0]["layout"]["yaxis"]["ticktext"] == ["c0", "c1"]
    assert made[0]["layout"]["yaxis"]["autorange"] == "reversed"


def test_of_many_columns_the_strongest_are_drawn_in_their_order_and_the_page_says_so() -> None:
    loadings = np.full((100, 1), 0.001)
    loadings[60:] = np.arange(1, 41)[:, None]
    made = charts.loadings(one_reduction(loadings, [1.0] * 100), "component")
    assert made is not None
    assert made[0]["layout"]["yaxis"]["ticktext"] == [f"c{i}" for i in range(60, 100)]
    text = page.page(pca_report(500, 80))
    assert "The 40 strongest of 500 columns are shown; reduction.json has all." in text
    assert "The first 64 of 80 are shown." in text
    assert "strongest" not in own_parts(page.page(pca_report(4, 2)))


def test_a_column_is_strong_by_the_components_that_keep_much() -> None:
    loadings = np.zeros((41, 2))
    loadings[1:, 0] = 1.0
    loadings[0, 1] = 1.0  # alone in a component that keeps next to nothing
    made = charts.loadings(one_reduction(loadings, [1.0] * 41, ratio=[0.99, 0.0001]), "component")
    assert made is not None
    assert "c0" not in made[0]["layout"]["yaxis"]["ticktext"]
    made = charts.loadings(one_reduction(loadings, [1.0] * 41), "component")
    assert made is not None
    assert "c0" in made[0]["layout"]["yaxis"]["ticktext"]


# ---- scores ----


def scores_figure(scores: dict[str, float], kept: tuple[str, ...], reduction: Any = None) -> dict[str, Any]:
    chosen = reduction or SelectKBest(inputs=("columns",), output="best", k=len(kept))
    return dict(figures_of(selection_report(scores, kept, chosen))["scores-0"])


def test_columns_are_ranked_by_score_and_coloured_by_whether_they_stay() -> None:
    figure = scores_figure({"a": 1.0, "b": 4.0, "c": 2.0}, ("b",))
    kept, dropped = figure["data"]
    assert figure["layout"]["yaxis"]["ticktext"] == ["b", "c", "a"]
    assert (kept["name"], kept["y"], kept["x"]) == ("kept (1)", [0], [4.0])
    assert (dropped["name"], dropped["y"], dropped["x"]) == ("dropped (2)", [1, 2], [2.0, 1.0])
    assert figure["layout"]["xaxis"]["type"] == "linear"
    assert "shapes" not in figure["layout"]


def test_scores_that_dwarf_the_others_are_drawn_on_a_log_axis() -> None:
    figure = scores_figure({"a": 1e6, "b": 3.0, "c": 2.0, "d": 0.0}, ("a",))
    axis = figure["layout"]["xaxis"]
    assert axis["type"] == "log"
    assert axis["title"]["text"].endswith("(log)")
    assert axis["range"][0] == pytest.approx(0.0)  # half of 2
    assert axis["range"][1] > 6
    assert figure["data"][1]["x"] == [3.0, 2.0, 1.0]  # nothing is as far as the axis begins
    assert figure["data"][1]["text"] == ["3", "2", "0"]


def test_a_score_without_bounds_is_as_long_as_the_longest() -> None:
    figure = scores_figure({"a": float(np.finfo(float).max), "b": 3.0, "c": 2.0}, ("a",))
    assert figure["data"][0]["x"] == [3.0]
    assert figure["data"][0]["text"] == ["\u221e"]
    assert figure["layout"]["xaxis"]["range"][1] < 4


def test_the_threshold_is_drawn_where_it_is() -> None:
    scores = {"a": 1.0, "b": 4.0}
    reduction = VarianceThreshold(inputs=("columns",), output="varying", threshold=2.5)
    assert [s["x0"] for s in scores_figure(scores, ("b",), reduction)["layout"]["shapes"]] == [2.5]
    assert "The dashed line is the threshold." in page.page(selection_report(scores, ("b",), reduction))


def test_of_many_columns_both_the_best_and_some_that_stay_are_drawn() -> None:
    scores = {f"c{i}": float(i) for i in range(200)}
    kept = tuple(f"c{i}" for i in range(30))  # as a correlation filter does: the low ones stay
    figure = scores_figure(scores, kept)
    shown = figure["layout"]["yaxis"]["ticktext"]
    assert len(shown) == charts.MAX_COLUMNS == len(set(shown))
    assert shown == [*[f"c{i}" for i in range(199, 179, -1)], *[f"c{i}" for i in range(29, 9, -1)]]
    assert [trace["name"] for trace in figure["data"]] == ["kept (30)", "dropped (170)"]


def test_what_was_dropped_stands_in_a_table_with_its_reason_and_score() -> None:
    reduction = SelectKBest(inputs=("columns",), output="best", k=1)
    text = Reader(own_parts(page.page(selection_report({"a": 1.0, "b": 4.0}, ("b",), reduction)))).text
    assert "column reason score a reason of a 1" in text
    assert "F statistic of the correlation with the label" in text
    many = {f"c{i:03}": float(i) for i in range(200)}
    text = own_parts(page.page(selection_report(many, ("c199",), reduction)))
    assert text.count("reason of") == page._MAX_LISTED
    assert "The first 100 of\n199; reduction.json has all." in text


def test_a_selection_is_drawn_by_the_names_of_its_columns() -> None:
    reduction = SelectKBest(inputs=("columns",), output="best", k=2)
    figure = figures_of(selection_report({"a": 1.0, "b": 4.0, "c": 3.0}, ("b", "c"), reduction))
    layout = figure["projection-0"]["layout"]
    assert (layout["xaxis"]["title"]["text"], layout["yaxis"]["title"]["text"]) == ("b", "c")


# ---- rows ----


def projection(report: dict[str, Any]) -> dict[str, Any]:
    return dict(figures_of(report)["projection-0"])


def test_numbers_colour_the_rows_by_a_scale_that_a_few_extremes_do_not_stretch() -> None:
    labels = np.arange(60.0) + 0.5
    labels[0] = 1e6
    (trace,) = projection(pca_report(labels=labels))["data"]
    assert sorted(trace["marker"]["color"]) == sorted(labels.tolist())
    assert trace["marker"]["cmax"] < 1e6
    assert trace["marker"]["showscale"]
    assert trace["marker"]["colorbar"]["title"]["text"] == "fare"
    assert "2nd and the 98th percentile" in page.page(pca_report(labels=labels))


def test_one_label_for_all_rows_still_has_a_scale() -> None:
    (trace,) = projection(pca_report(labels=np.full(60, 0.5)))["data"]
    assert trace["marker"]["cmin"] < trace["marker"]["cmax"]


def test_classes_colour_the_rows_by_a_legend() -> None:
    report = pca_report(labels=np.array([b"red", b"blue", b"blue"] * 20, object))
    found = projection(report)
    assert [(trace["name"], len(trace["x"])) for trace in found["data"]] == [("blue", 40), ("red", 20)]
    assert found["layout"]["legend"]["title"]["text"] == "fare"
    assert len({trace["marker"]["color"] for trace in found["data"]}) == 2
    # Every row is drawn with its own label.
    outputs, labels = (
        report["reductions"][0]["sample"]["outputs"],
        report["reductions"][0]["sample"]["labels"],
    )
    drawn = {(x, t["name"]) for t in found["data"] for x in t["x"]}
    assert drawn == set(zip(outputs[0], labels, strict=True))


def test_axes_are_named_with_the_share_of_each_component() -> None:
    layout = projection(pca_report(4, 2))["layout"]
    assert layout["xaxis"]["title"]["text"] == "component 1 (53.3 %)"
    assert layout["yaxis"]["title"]["text"] == "component 2 (26.7 %)"


def test_one_output_is_drawn_against_a_number() -> None:
    report = pca_report(num_components=1, labels=np.arange(60.0) + 0.5)
    found = projection(report)
    assert found["data"][0]["y"] == report["reductions"][0]["sample"]["labels"]
    assert found["layout"]["yaxis"]["title"]["text"] == "fare"


@pytest.mark.parametrize(
    ("labels", "names"), [(None, [None]), (np.array([b"red", b"blue"] * 30, object), ["blue", "red"])]
)
def test_one_output_with_classes_or_without_label_is_a_histogram(labels: Any, names: list[Any]) -> None:
    found = projection(pca_report(num_components=1, labels=labels))
    assert [trace["type"] for trace in found["data"]] == ["histogram"] * len(names)
    assert [trace.get("name") for trace in found["data"]] == names
    assert sum(len(trace["x"]) for trace in found["data"]) == 60
    assert found["layout"]["yaxis"]["title"]["text"] == "rows of the sample"


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        ([2.0, 1.0, 2.0], [1.0, 2.0]),
        ([0.5, 1.0], None),
        ([float(i) for i in range(10)], [float(i) for i in range(10)]),
        ([float(i) for i in range(11)], None),
        ([1.0, None], [1.0]),
        (["inf", 1.0], None),
        (["b", "a", "b", None], ["a", "b"]),
        (["z"] * 3 + [f"{i:02}" for i in range(12)], ["z", *[f"{i:02}" for i in range(12)]]),
    ],
)
def test_strings_and_a_few_whole_numbers_are_classes(labels: list[Any], wanted: list[Any] | None) -> None:
    assert charts.classes(labels) == wanted


def test_more_classes_than_colours_are_others() -> None:
    labels = np.array([b"%02d" % (i % 12) for i in range(60)], object)
    found = [trace["name"] for trace in projection(pca_report(labels=labels))["data"]]
    assert found == [*[f"{i:02}" for i in range(9)], "other"]
    counts = [len(trace["x"]) for trace in projection(pca_report(labels=labels))["data"]]
    assert counts == [5] * 9 + [15]


def test_whole_numbers_as_classes_read_as_such() -> None:
    found = projection(pca_report(labels=np.array([0.0, 1.0, np.nan] * 20)))["data"]
    assert [(trace["name"], len(trace["x"])) for trace in found] == [("0", 20), ("1", 20), ("other", 20)]


# ---- size ----


def test_a_page_of_a_thousand_columns_is_little_more_than_plotly() -> None:
    draw = np.random.default_rng(0)
    labels = draw.normal(size=2500)
    report = pca_report(1024, 64, labels, num_rows=2500, columns=[f"word={i:0100}" for i in range(1024)])
    assert len(own_parts(page.page(report))) < 1_000_000
    heat_map = figures_of(report)["loadings-0"]
    assert np.array(heat_map["data"][0]["z"]).shape == (charts.MAX_COLUMNS, charts.MAX_COMPONENTS)
    assert heat_map["layout"]["height"] < 1000


def test_cards_that_stand_side_by_side_are_of_one_height_and_a_lone_one_is_wide() -> None:
    figures = figures_of(pca_report())
    assert figures["loadings-0"]["layout"]["height"] == figures["projection-0"]["layout"]["height"]
    assert own_parts(page.page(pca_report())).count('<div class="card wide">') == 1  # the variances
    # Long names take the whole width, and what would stand beside them too.
    wide = pca_report(columns=[f"a_very_long_name_of_a_column_{i}" for i in range(4)])
    assert own_parts(page.page(wide)).count('<div class="card wide">') == 3
