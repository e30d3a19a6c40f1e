"""The browser of the tests notices what pages do: otherwise a clean page would prove nothing."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import browser as browsers


@pytest.fixture(scope="module")
def browser() -> Iterator[browsers.Chromium]:
    with browsers.browser() as found:
        yield found


def opened(browser: browsers.Chromium, folder: Path, body: str, **view: Any) -> browsers.Chromium:
    page = folder / "page.html"
    page.write_text(f"<!doctype html><meta name=viewport content='width=device-width'><body>{body}")
    browser.open(page, **view)
    return browser


def test_a_page_that_does_nothing_has_asked_for_itself_only(
    browser: browsers.Chromium, tmp_path: Path
) -> None:
    found = opened(browser, tmp_path, "<p>words")

    assert found.requests == [(tmp_path / "page.html").as_uri()]
    assert found.complaints == []
    assert found.run("document.body.textContent.trim()") == "words"


@pytest.mark.parametrize(
    "body",
    [
        "<img src='http://127.0.0.1:9/picture'>",
        "<script>fetch('http://127.0.0.1:9/data').catch(() => 0)</script>",
        "<link rel=stylesheet href='http://127.0.0.1:9/style'>",
        "<script>new WebSocket('ws://127.0.0.1:9/socket')</script>",
        "<iframe src='http://127.0.0.1:9/frame'></iframe>",
    ],
)
def test_a_request_is_noticed(browser: browsers.Chromium, tmp_path: Path, body: str) -> None:
    found = opened(browser, tmp_path, body)

    assert any("://127.0.0.1:9/" in url for url in found.requests)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("console.error('odd')", "odd"),
        ("console.warn('strange')", "strange"),
        ("throw new Error('broken')", "broken"),
        ("Promise.reject(new Error('late'))", "late"),
        ("alert('hello')", "a dialog: hello"),
    ],
)
def test_a_complaint_is_noticed(browser: browsers.Chromium, tmp_path: Path, script: str, words: str) -> None:
    found = opened(browser, tmp_path, f"<script>{script}</script>")

    assert any(words in complaint for complaint in found.complaints)


def test_of_the_last_page_and_its_windows_nothing_is_left(browser: browsers.Chromium, tmp_path: Path) -> None:
    found = opened(browser, tmp_path, "<script>setInterval(() => console.error('still here'), 1)</script>")
    found.call("Runtime.evaluate", expression="open('about:blank')", userGesture=True)
    assert len(pages(found)) == 3  # with the browser's own first one
    found.run("new Promise(done => setTimeout(done, 100))")
    assert any("still here" in complaint for complaint in found.complaints)

    opened(found, tmp_path, "<p>words")

    assert len(pages(found)) == 2
    assert found.complaints == []


def pages(browser: browsers.Chromium) -> list[dict[str, Any]]:
    targets = browser.call("Target.getTargets")["targetInfos"]
    return [target for target in targets if target["type"] == "page"]


def test_what_is_wider_than_a_phone_is_noticed(browser: browsers.Chromium, tmp_path: Path) -> None:
    found = opened(browser, tmp_path, "<div style='width: 600px'>wide</div>", width=390, height=800)

    assert found.run("innerWidth") >= 390
    assert found.run("document.documentElement.scrollWidth") > 390


def test_without_chromium_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    with pytest.raises(RuntimeError, match=re.escape("apt-get install -y --no-install-recommends chromium")):
        browsers.executable()


def test_a_browser_that_is_closed_leaves_no_thread_behind() -> None:
    before = set(threading.enumerate())
    with browsers.browser() as found:
        process = found.process
    assert process.poll() is not None
    assert set(threading.enumerate()) <= before
