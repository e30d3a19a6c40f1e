"""index.html in a browser: loads clean, asks for nothing, fits a phone, follows light and dark, sorts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import browser as browsers
from tests.size_latency_evaluator import samples

from tfx_mobile.size_latency_evaluator import page

PHONE: dict[str, Any] = {"width": 390, "height": 844}
FULL = samples.full()
EVALUATIONS = {
    "full": FULL,
    "hostile": samples.hostile(),
    "nothing_runs": samples.nothing_runs(),
    "many": samples.many(60),
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for name, evaluation in EVALUATIONS.items():
        found[name] = folder / f"{name}.html"
        found[name].write_text(page.page(evaluation))
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[browsers.Chromium]:
    with browsers.browser() as found:
        yield found


def column(browser: browsers.Chromium, table: str, place: int) -> list[str]:
    """Returns the texts of a column of a table's body."""
    rows = f"[...document.querySelector({table!r}).tBodies[0].rows]"
    return list(browser.run(f"{rows}.map(row => row.cells[{place}].textContent.trim())"))


@pytest.mark.parametrize("name", EVALUATIONS)
def test_on_a_phone_it_loads_clean_asks_for_nothing_and_does_not_scroll_sideways(
    browser: browsers.Chromium, pages: dict[str, Path], name: str
) -> None:
    browser.open(pages[name], **PHONE)

    assert browser.complaints == []
    assert browser.requests == [pages[name].as_uri()]
    assert browser.run("document.documentElement.scrollWidth") == browser.run("innerWidth") == 390
    assert browser.run("document.body.scrollWidth") <= 390
    wide = "[...document.querySelectorAll('.js-plotly-plot .main-svg')].map(e => e.clientWidth)"
    assert max(browser.run(wide), default=0) <= 390
    assert browser.run("document.querySelector('h1').textContent") == page.headline(EVALUATIONS[name])


def test_every_chart_is_drawn_with_a_point_for_each_file(
    browser: browsers.Chromium, pages: dict[str, Path]
) -> None:
    browser.open(pages["full"])

    drawn = browser.run("[...document.querySelectorAll('.js-plotly-plot')].map(e => e.id)")
    assert drawn == ["front", "latency", "sparsity", "breakdown", "history-0", "history-1"]
    # 16 files that run and the baseline; the other points are the legend's own
    points = "[...document.querySelectorAll('#front .scatterlayer .points path')].length"
    assert browser.run(points) == 16 + 1
    assert browser.run("document.querySelectorAll('#breakdown .bars path').length") == 3 * 7
    lines = browser.run("[...document.querySelectorAll('#front .annotation-text')].map(e => e.textContent)")
    assert sorted(lines) == ["gz size ratio <= 0.25 vs reference", "rmse increase <= 5% vs reference"]
    assert browser.run("document.querySelectorAll('.card').length") == len(drawn)


def test_the_numbers_in_the_document_are_the_evaluations(
    browser: browsers.Chromium, pages: dict[str, Path]
) -> None:
    browser.open(pages["full"])

    names = column(browser, "#candidates", 0)
    assert sorted(names) == sorted(found.name for found in FULL.candidates)
    sizes = dict(zip(names, column(browser, "#candidates", 5), strict=True))
    for found in FULL.candidates:
        assert sizes[found.name] == (f"{found.gz_size_bytes:,}" if found.gz_size_bytes else "-")
    assert column(browser, "#gates", 1) == ["\u2713 pass"] * 4
    assert "0.1032" in column(browser, "#gates", 2)


def test_what_passes_is_green_and_what_fails_is_red(
    browser: browsers.Chromium, pages: dict[str, Path]
) -> None:
    browser.open(pages["full"])
    cells = "[...document.querySelectorAll('#candidates tbody td[title]')]"
    seen = browser.run(f"{cells}.map(e => [e.textContent.trim()[0], getComputedStyle(e).color])")

    assert {tuple(pair) for pair in seen} == {
        ("\u2713", "rgb(17, 99, 41)"),
        ("\u2717", "rgb(164, 14, 38)"),
    }


def test_a_click_on_a_head_sorts_and_another_one_turns_it_round(
    browser: browsers.Chromium, pages: dict[str, Path]
) -> None:
    browser.open(pages["full"])
    click = "document.querySelector('#candidates th:nth-child(6) button').click()"

    browser.run(click)
    rising = column(browser, "#candidates", 5)
    browser.run(click)
    falling = column(browser, "#candidates", 5)

    sizes = sorted(found.gz_size_bytes for found in FULL.candidates if found.gz_size_bytes)
    # what has no size stays at the end
    assert rising == [*(f"{size:,}" for size in sizes), "-"]
    assert falling == [*(f"{size:,}" for size in reversed(sizes)), "-"]


def test_the_slices_of_one_metric_are_shown_at_a_time(
    browser: browsers.Chromium, pages: dict[str, Path]
) -> None:
    browser.open(pages["full"])
    shown = "[...document.querySelectorAll('.slices')].filter(e => !e.hidden).map(e => e.dataset.metric)"

    assert browser.run(shown) == ["1"]
    choose = "const e = document.querySelector('#slice-metric'); e.value = '2';"
    browser.run(f"{{{choose} e.dispatchEvent(new Event('change'))}}")
    assert browser.run(shown) == ["2"]


def test_the_colours_follow_light_and_dark_while_it_is_open(
    browser: browsers.Chromium, pages: dict[str, Path]
) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    ink = "getComputedStyle(document.querySelector('#front .xtick text')).fill"
    browser.open(pages["full"])
    light = (browser.run(paper), browser.run(ink))

    browser.set_dark(True)
    browser.settle()

    assert light == ("rgb(255, 255, 255)", "rgb(27, 31, 36)")
    assert (browser.run(paper), browser.run(ink)) == ("rgb(13, 17, 23)", "rgb(230, 237, 243)")
    assert browser.complaints == []


def test_the_page_could_not_ask_for_anything_if_it_wanted_to(
    browser: browsers.Chromium, pages: dict[str, Path]
) -> None:
    browser.open(pages["nothing_runs"])
    asked = "fetch('http://127.0.0.1:9/').then(() => 'sent', error => error.message)"

    assert browser.run(asked) == "Failed to fetch"
    browser.run(
        "new Promise(done => {const i = new Image(); i.onerror = done; i.src = 'http://127.0.0.1:9/'})"
    )
    assert all("Content Security Policy" in text for text in browser.complaints)
    assert {text.split("'")[0] for text in browser.complaints} >= {"Connecting to ", "Loading the image "}


def test_the_tables_are_there_without_scripts(browser: browsers.Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["full"], scripts=False)

    assert browser.run("document.querySelectorAll('.slices:not([hidden])').length") == 2
    assert "The charts need JavaScript" in browser.run("document.body.innerText")
