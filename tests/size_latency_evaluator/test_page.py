"""index.html: what it says of an evaluation, and that whatever names are in it stay text."""

import dataclasses
import html.parser
import json
import math
from typing import Any

import pytest
from plotly import graph_objects, offline
from tests.size_latency_evaluator import samples

from tfx_mobile.size_latency_evaluator import page
from tfx_mobile.size_latency_evaluator.config import Override
from tfx_mobile.size_latency_evaluator.evaluation import Evaluation, ReportedMetric, SliceResult


def own_parts(text: str) -> str:
    """Returns the page without Plotly's own code."""
    assert text.count(offline.get_plotlyjs()) == 1
    return text.replace(offline.get_plotlyjs(), "")


class Reader(html.parser.HTMLParser):
    """Gathers tags, texts, and the tables by their id or place, as rows of cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.charts: list[str] = []
        self.headings: list[str] = []
        self._row: list[str] | None = None
        self._into: list[str] | None = None
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        if tag == "table":
            self.tables[values.get("id") or str(len(self.tables))] = []
        elif tag == "tr":
            list(self.tables.values())[-1].append([])
        elif tag in ("td", "th"):
            list(self.tables.values())[-1][-1].append("")
            self._into = list(self.tables.values())[-1][-1]
        elif tag == "h2":
            self.headings.append("")
            self._into = self.headings
        elif values.get("role") == "img":
            self.charts.append(values.get("id") or "")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "h2"):
            self._into = None

    def handle_data(self, data: str) -> None:
        self.words += data
        if self._into is not None:
            self._into[-1] = " ".join(f"{self._into[-1]} {data}".split())


def read(evaluation: Evaluation) -> Reader:
    return Reader(own_parts(page.page(evaluation)))


def figures_of(evaluation: Evaluation) -> dict[str, Any]:
    text = own_parts(page.page(evaluation))
    return dict(json.loads(text.split("const figures = ")[1].split(";\nfunction paint")[0]))


FULL = samples.full()


@pytest.fixture(scope="module")
def shown() -> Reader:
    return read(FULL)


def test_the_verdict_and_its_reason_come_first() -> None:
    text = own_parts(page.page(FULL))

    places = [
        text.index(words)
        for words in (
            "<h1>Blessed: s75-dynamic_range</h1>",
            "is the smallest of 3 candidates",
            'id="gates"',
            'id="front"',
            "Candidates</h2>",
            "Slices</h2>",
            "Time and memory</h2>",
            "Inside the files</h2>",
            "What the registry had before</h2>",
            "Why, gate by gate</h2>",
            "Where the numbers come from</h2>",
        )
    ]
    assert places == sorted(places)


def test_nothing_in_the_page_is_fetched() -> None:
    text = own_parts(page.page(FULL))

    assert "http:" not in text
    assert "https:" not in text
    assert "src=" not in text.replace("default-src", "")
    assert "default-src 'none'" in text


def test_the_tiles_compare_the_chosen_file_with_the_reference_and_with_phones() -> None:
    # sizes by the rule of samples.candidate: 60,000 x (0.92 - 0.8 x 0.75) + 4,000 and so on
    chosen, reference, baseline = 23_200, 224_800, 35_200
    tiles = {tile["name"]: tile for tile in page._tiles(FULL)}

    assert tiles["download"]["value"] == f"{chosen:,} bytes"
    assert tiles["download"]["notes"] == [
        f"{reference / chosen:.3g}\u00d7 smaller than the reference",
        f"{baseline / chosen:.3g}\u00d7 smaller than phones' file",
    ]
    rise = 0.012 + 0.05 * 0.75**6
    assert tiles["rmse"]["notes"][0] == f"{2 * rise:+.3g} ({100 * rise:+.2f} %) against the reference"
    assert tiles["median call"]["value"] == "9.4 \u00b5s"
    assert tiles["candidates that pass"]["value"] == "3 of 17"


def test_the_gates_of_the_chosen_file_have_value_bound_limit_and_margin(shown: Reader) -> None:
    ratio = 23_200 / 224_800

    assert shown.tables["gates"][0] == ["gate", "verdict", "got", "95 % bound", "limit", "margin"]
    assert shown.tables["gates"][2] == [
        "gz size ratio <= 0.25 vs reference",
        "\u2713 pass",
        f"{ratio:.4g}",
        "-",
        "0.25",
        f"{0.25 - ratio:+.4g}",
    ]
    assert shown.tables["gates"][4][0] == (
        "rmse increase <= 10% vs reference of 12 slices the worst: "
        "company = 'Z\u00fcrich T\u00f6ff & S\u00f6hne'"
    )
    assert len(shown.tables["gates"]) == 5


def test_every_candidate_is_in_the_table_the_chosen_first_and_the_broken_last(shown: Reader) -> None:
    rows = shown.tables["candidates"]

    assert rows[1][0] == "s75-dynamic_range"
    assert [row[0] for row in rows[-2:]] == ["s90-int4", "baseline (phones today)"]
    assert {row[0] for row in rows[1:-1]} == {found.name for found in FULL.candidates}
    by_name = {row[0]: row for row in rows}
    assert by_name["s0-float32"][2:6] == ["2", "0.6667", "253,600", "224,800"]
    assert by_name["s0-float32"][1] == "fail: gz size ratio <= 0.25 vs reference"
    assert by_name["s90-int4"][1] == "failed: The quantizer has no file: it refused."
    assert by_name["s0-int8"][1].endswith(", and 1 more")
    assert by_name["s0-int8"][-1].endswith("1 of 12 slices")


def test_slices_are_shown_the_worst_first_with_differences(shown: Reader) -> None:
    rows = next(rows for rows in shown.tables.values() if rows and rows[0] and rows[0][0] == "rmse on")
    value = 2 * (1 + 0.012 + 0.05 * 0.75**6) * 0.88 * 1.024

    assert rows[0][2:7] == ["chosen", "reference", "difference", "phones today", "difference"]
    assert rows[1][:2] == ["all rows", "4,941"]
    assert rows[2][0] == "company = 'Z\u00fcrich T\u00f6ff & S\u00f6hne'"
    assert rows[2][1:5] == [
        "717",
        f"{value:.4g}",
        "1.76",
        f"{value - 1.76:+.3g} ({100 * (value / 1.76 - 1):+.2f} %)",
    ]
    assert len(rows) == 2 + 12


def test_a_section_without_data_is_not_there() -> None:
    bare = dataclasses.replace(
        FULL,
        candidates=tuple(
            dataclasses.replace(found, slices=(), weights=(), breakdown_bytes=None, latency=None, verdicts=())
            for found in FULL.candidates
        ),
        baseline=None,
        first_release=True,
        history=(),
        provenance=None,
    )

    found = read(bare)

    assert found.headings == ["Candidates", "Why, gate by gate", "Where the numbers come from"]
    assert found.charts == ["front"]
    assert "This is the first release" in found.words
    assert list(found.tables) == ["candidates", "provenance"]


def test_an_evaluation_in_which_nothing_runs_is_shown_without_empty_boxes() -> None:
    found = read(samples.nothing_runs())

    assert "Not blessed: nothing can be run" in found.words
    assert found.charts == []
    assert found.headings == ["Candidates", "Why, gate by gate", "Where the numbers come from"]


def test_one_candidate_that_is_the_reference_is_compared_with_nothing() -> None:
    alone = dataclasses.replace(
        FULL, chosen="s0-float32", candidates=FULL.candidates[:1], baseline=None, blessed=False, history=()
    )

    found = read(alone)

    assert "Not blessed: s0-float32 is the best" in found.words
    assert found.charts == ["front", "latency", "sparsity", "breakdown"]
    assert not [row for rows in found.tables.values() for row in rows if "difference" in row]
    assert "Too far off" not in found.words


def test_sixty_candidates_are_all_there() -> None:
    found = read(samples.many(60))

    assert len(found.tables["candidates"]) == 1 + 60 + 1


@pytest.mark.parametrize("make", [samples.full, samples.hostile, samples.nothing_runs, samples.many])
def test_plotly_takes_every_figure_and_every_figure_has_its_place(make: Any) -> None:
    found = figures_of(make())

    assert list(found) == sorted(read(make()).charts)
    for figure in found.values():
        graph_objects.Figure(figure)


def test_hostile_names_stay_text() -> None:
    text = own_parts(page.page(samples.hostile()))

    assert "<img" not in text
    assert "alert(2)</script>" not in text
    assert "\u2028" not in text.split("const figures")[1]
    # A script element ends only where the page means it to.
    assert text.count("</script>") == text.count("<script>") == 3
    figures = json.dumps(figures_of(samples.hostile()))
    assert "<img" not in figures
    assert "<script" not in figures


def test_names_that_are_no_html_come_through_as_they_are(shown: Reader) -> None:
    assert "\u7121\u7dda\u30bf\u30af\u30b7\u30fc" in shown.words


def test_values_that_are_not_finite_are_shown_as_missing() -> None:
    bad = dataclasses.replace(
        FULL.candidates[1],
        metrics={"rmse": math.nan, "mae": math.inf},
        slices=(SliceResult("company = 'x'", 3, {"rmse": math.nan}),),
    )
    broken = dataclasses.replace(FULL, candidates=(FULL.candidates[0], bad), chosen=bad.name)

    text = own_parts(page.page(broken))

    figures = json.loads(text.split("const figures = ")[1].split(";\nfunction paint")[0])
    assert not [trace for trace in figures["front"]["data"] if bad.gz_size_bytes in trace["x"]]
    assert "nan" not in Reader(text).words.split()
    assert "Not drawn, because size or rmse is missing:\ns0-float16." in text


def test_a_slice_the_chosen_file_has_no_value_for_is_the_worst() -> None:
    chosen = FULL.candidate(FULL.chosen)
    gone = dataclasses.replace(chosen, slices=chosen.slices[:-1])
    changed = dataclasses.replace(
        FULL, candidates=tuple(gone if found is chosen else found for found in FULL.candidates)
    )

    table = page._slice_tables(changed, (), ())[0]

    assert table["rows"][0]["change"].name == chosen.slices[-1].name
    assert table["rows"][0]["change"].value is None


def test_without_a_direction_slices_have_no_colour() -> None:
    undirected = dataclasses.replace(FULL, metrics=(ReportedMetric("rmse", None),))

    (table,) = page._slice_tables(undirected, (), ())

    assert {cell["shade"] for row in table["rows"] for cell in row["cells"]} == {""}
    differences = [abs(row["change"].difference) for row in table["rows"]]
    assert differences == sorted(differences, reverse=True)


def test_an_override_is_shown_with_its_name() -> None:
    override = Override("Ada <b>", "The shop opens.", "2026-01-31")
    text = own_parts(page.page(dataclasses.replace(FULL, override=override, overridden=True)))

    assert "Blessed by override: s75-dynamic_range" in text
    assert "Override by Ada &lt;b&gt; on\n2026-01-31:\nThe shop opens." in text


def test_provenance_and_machine_are_all_there(shown: Reader) -> None:
    rows = {row[0]: row[1] for row in shown.tables["provenance"]}

    for name, value in (FULL.provenance or {}).items():
        assert rows[name] == value
    machine = FULL.machine
    for value in (machine.cpu, machine.system, machine.runtime, machine.governor, machine.target):
        assert any(value in cell for cell in rows.values())
    assert rows["sha256 of the chosen file"] == FULL.candidate(FULL.chosen).sha256


def test_the_same_evaluation_gives_the_same_page() -> None:
    assert page.page(samples.full()) == page.page(samples.full())
