"""The catalogue: what it says, that it says only what is signed, and that whatever is in it stays text."""

import datetime
import html.parser
import itertools
import json
import re
import shlex
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import browser
from tests.registry import servers

from tfx_mobile import cli
from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry import catalogue, names, records, site, site_charts, site_figures
from tfx_mobile.registry.storage import FolderStorage
from tfx_mobile.registry.store import Registry
from tfx_mobile.registry.targeting import Targeting

HOSTILE = "</td></title></style><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;{{7*7}}\u202egnp"
EVALUATION = f"""<title>x</title><h1>{HOSTILE}</h1><p id=proof></p><script>
const said = [];
const attempt = (what, action) => {{ try {{ action(); said.push(what); }} catch (error) {{}} }};
attempt("parent", () => parent.document.body.remove());
attempt("storage", () => localStorage.setItem("a", "b"));
attempt("top", () => top.location = "https://example.invalid/top");
new Image().src = "https://example.invalid/image";
fetch("https://example.invalid/fetch").catch(() => 0);
document.querySelector("#proof").textContent = "ran, and got " + said;
parent.postMessage(document.querySelector("#proof").textContent, "*");
</script>"""


REACHING = """<link rel=stylesheet href=THERE/style><link rel=prefetch href=THERE/prefetch>
<style>@import 'THERE/import'; body { background: url(THERE/background) }</style><img src=THERE/image>
<iframe src=THERE/frame></iframe><object data=THERE/object></object><form action=THERE/form></form><script>
for (const attempt of [
  () => new EventSource("THERE/events"),
  () => new WebSocket("THERE/socket"),
  () => new Worker(URL.createObjectURL(new Blob(["fetch('THERE/worker')"]))),
  () => open("THERE/open"),
  () => setTimeout(() => document.forms[0].submit(), 300),
  () => setTimeout(() => { location.href = "THERE/away"; }, 600),
]) { try { attempt(); } catch (error) {} }
</script>"""


class Reader(html.parser.HTMLParser):
    """Gathers tags, attributes, text, and the tables by their id as rows of cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words = ""
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        values = dict(attrs)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.links += [values["href"] or ""] if tag == "a" else []
        if tag == "table":
            self.tables[values.get("id") or str(len(self.tables))] = []
        elif tag == "tr":
            list(self.tables.values())[-1].append([])
        elif tag in ("td", "th"):
            list(self.tables.values())[-1][-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        self.words = f"{self.words}{' '.join(data.split())} "
        if self._cell:
            row = list(self.tables.values())[-1][-1]
            row[-1] = " ".join(f"{row[-1]} {data}".split())


def _metadata(rmse_ppm: int, p50_ns: int) -> dict[str, Any]:
    figures = {
        "candidate": "s75-int8",
        "gz_size_bytes": 1500,
        "latency_p50_ns": p50_ns,
        "metrics": {"rmse_ppm": rmse_ppm},
    }
    return {
        "figures": figures,
        "verdict": "BLESSED: it passes every gate.",
        "gates": [{"gate": "rmse", "status": "pass", "value_ppm": 2100, "reason": "Below."}],
        "pipeline": "taxi",
        "pipeline_run": "run-7",
        "model_artifact": "41",
        "provenance": {"tfx": "1.16.0", "pipeline_run": "run-7"},
        "note": "said besides",
    }


def _made(registry: Registry, to: Path, **options: Any) -> dict[str, Reader]:
    count = site.write(registry.repository, registry.root_path, to, **options)
    found = {str(path.relative_to(to)): Reader(path.read_text()) for path in sorted(to.rglob("*.html"))}
    assert count == len(found) == len([path for path in to.rglob("*") if path.is_file()])
    return found


@pytest.fixture(scope="module")
def taxi(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Three versions, one of them withdrawn, one with a variant; and a model that is called 'index'."""
    registry = Registry.create(tmp_path_factory.mktemp("taxi") / "registry")
    registry.publish("taxi", b"1" * 4096, metadata=_metadata(2_000_000, 83_000))
    registry.publish("taxi", b"2" * 3072, metadata=_metadata(2_100_000, 90_000))
    registry.withdraw("taxi", 2, reason="wrong fares")
    registry.publish(
        "taxi",
        b"3" * 2048,
        metadata={**_metadata(1_500_000, 41_500), "override": {"by": "anna", "reason": "hotfix"}},
        channel="beta",
        rollout_permille=125,
        targeting=Targeting(platforms=("android",), min_ram_mib=3072),
        attachments={"evaluation.html": b"<p>the evaluation</p>", "notes.txt": b"n" * 2000},
    )
    registry.publish("taxi", b"gpu" * 900, version=3, variant="gpu", channel="beta", metadata={})
    registry.publish("index", b"x", metadata={})
    return registry


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made") / "site"


@pytest.fixture(scope="module")
def shown(taxi: Registry, folder: Path) -> dict[str, Reader]:
    return _made(taxi, folder, url="https://models.example.com/r/")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site of a registry whose publisher put HTML wherever text is taken."""
    registry = Registry.create(tmp_path_factory.mktemp("hostile") / "registry")
    said = {
        HOSTILE: {HOSTILE: [HOSTILE]},
        "figures": {
            "candidate": HOSTILE,
            "metrics": {f"{HOSTILE}_ppm": 5, "huge_ppm": 10**400, "text_ppm": "x", "true_ppm": True},
            "latency_p50_ns": 10**40,
            "gz_size_bytes": -1,
        },
        "verdict": HOSTILE,
        "override": {HOSTILE: HOSTILE},
        "gates": [{HOSTILE: HOSTILE, "status": HOSTILE}],
        "provenance": {HOSTILE: HOSTILE},
        "pipeline": {"a": {"b": HOSTILE}},
    }
    for content in (b"one", b"two", b"three"):
        attachments = {"evaluation.html": EVALUATION.encode()}
        registry.publish("evil", content, metadata=said, channel="beta", attachments=attachments)
    registry.promote("evil", note=HOSTILE)
    registry.withdraw("evil", 2, reason=HOSTILE)
    to = tmp_path_factory.mktemp("hostile-site") / "site"
    _made(registry, to, title=HOSTILE, url=HOSTILE)
    return to


@pytest.fixture(scope="module")
def chromium() -> Any:
    with browser.browser() as found:
        yield found


def test_the_index_has_each_model_with_its_newest_version_that_holds(shown: dict[str, Reader]) -> None:
    head, *rows = shown["index.html"].tables["models"]
    assert [cell.split()[0] for cell in head] == [
        *("model", "newest", "channels", "size", "gz", "latency", "metric", "versions", "published", "signed")
    ]
    taxi = dict(zip(head, rows[1], strict=True))
    assert [row[0] for row in rows] == ["index", "taxi"]
    assert (taxi["newest"], taxi["size"], taxi["gz size"], taxi["versions"]) == (
        "3",
        "2 KiB",
        "1.46 KiB",
        "3",
    )
    assert (taxi["latency p50"], taxi["metric"]) == ("41.5 \u00b5s", "rmse 1.5")
    assert "beta 3 (gpu)" in taxi["channels"]
    assert "stable 1" in taxi["channels"]
    assert "364 days left" in taxi["signed until"]
    nothing = dict(zip(head, rows[0], strict=True))
    assert (nothing["latency p50"], nothing["metric"]) == ("\u2013", "\u2013")


def test_a_models_page_says_who_gets_what_and_why_a_version_is_gone(shown: dict[str, Reader]) -> None:
    page = shown["taxi/index.html"]
    assert "for devices with" in page.words
    head, *rows = page.tables["versions"]
    versions = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert list(versions) == ["3", "3 gpu", "2", "1"]
    assert versions["2"]["state"] == "withdrawn wrong fares"
    assert versions["1"]["state"] == "stable"
    assert versions["3"]["candidate"] == "s75-int8"
    assert versions["3"]["rmse"] == "1.5"
    history = next(rows for rows in page.tables.values() if rows[0][0] == "when" and len(rows) == 4)
    assert [row[1:4] for row in history[1:]] == [
        ["withdraw", "1", "100 %"],
        ["publish", "2", "100 %"],
        ["publish", "1", "100 %"],
    ]


def test_a_share_and_what_is_asked_of_a_device_are_in_words(shown: dict[str, Reader]) -> None:
    page = shown["taxi/index.html"]
    (offered,) = [
        rows
        for rows in page.tables.values()
        if rows[0][0] == "version" and len(rows[0]) == 3 and len(rows) == 3
    ]
    assert offered[1:] == [
        ["3", "12.5 %", "android, 3,072 MiB of memory or more"],
        ["3 gpu", "100 %", "anything"],
    ]
    asked = Targeting(
        ("android", "ios"), ("arm64-v8a",), "2.1", "3", 3072, "2.0", ("FlexErf",)
    )  # each field once
    assert site_figures.targeting(asked) == [
        "android or ios",
        "ABI arm64-v8a",
        "app 2.1 or later",
        "app 3 or earlier",
        "3,072 MiB of memory or more",
        "runtime 2.0 or later",
        "operators FlexErf",
    ]


def test_a_versions_page_has_what_was_signed_and_how_to_fetch_it(
    taxi: Registry, shown: dict[str, Reader]
) -> None:
    page = shown["taxi/3/index.html"]
    file = dict(page.tables["file-default"])
    record = next(one for one in taxi.versions("taxi") if (one.version, one.variant) == (3, "default"))
    assert file["sha256"] == record.sha256
    assert (taxi.repository / file["in the repository"]).read_bytes() == b"3" * 2048
    assert file["with it: notes.txt"] == "1.95 KiB"
    assert page.tables["gates-default"] == [
        ["gate", "status", "value", "reason"],
        ["rmse", "pass", "0.0021", "Below."],
    ]
    assert dict(page.tables["figures-default"])["metrics.rmse"] == "1.5"
    lineage = page.tables["lineage-default"]
    assert sorted(lineage) == sorted(
        [["pipeline", "taxi"], ["pipeline_run", "run-7"], ["model_artifact", "41"], ["tfx", "1.16.0"]]
    )
    assert page.tables["also-default"] == [["note", "said besides"]]
    assert "By override : by anna; reason hotfix" in page.words
    assert "\u221250 % to version 1" in page.words  # version 2 was withdrawn
    command = (
        "tfx-mobile registry fetch taxi --from https://models.example.com/r --root root.json --version 3"
    )
    assert f"{command} --to taxi.tflite" in page.words
    assert f"{command} --variant gpu --to taxi.tflite" in page.words


def test_the_command_on_a_page_fetches_that_file(
    taxi: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(taxi.root_path, "root.json")
    page = _made(taxi, tmp_path / "site", url=str(taxi.repository))["taxi/3/index.html"]
    commands = re.findall(r"tfx-mobile (registry fetch .*?\.tflite)", page.words)
    for command, content in zip(commands, (b"3" * 2048, b"gpu" * 900), strict=True):
        assert cli.main([*shlex.split(command), "--cache", "cache"]) == 0
        assert Path("taxi.tflite").read_bytes() == content


def test_every_link_leads_to_a_page_and_no_id_is_there_twice(shown: dict[str, Reader], folder: Path) -> None:
    for path, page in shown.items():
        for link in page.links:
            if not link.startswith("#"):
                assert ((folder / path).parent / link).is_file(), (path, link)
        assert len(page.ids) == len(set(page.ids)), path
    assert "taxi/3/evaluation.html" in shown
    assert "evaluation.html" in shown["taxi/3/index.html"].links


def test_no_page_but_the_evaluations_may_run_anything(shown: dict[str, Reader]) -> None:
    for path, page in shown.items():
        (policy,) = [
            value for name, value in page.attributes if name == "content" and "default-src" in str(value)
        ]
        assert str(policy).startswith("default-src 'none'; ")
        if not path.endswith("evaluation.html"):
            assert page.tags.isdisjoint({"script", "iframe", "img", "object", "form", "base"}), path
            assert "script-src" not in str(policy)
            assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]


def test_hostile_names_stay_text(hostile: Path) -> None:
    for path in hostile.rglob("*.html"):
        page = Reader(path.read_text())
        if path.name == "evaluation.html":
            assert page.tags.isdisjoint({"script", "img", "h1"})
            continue
        assert page.tags.isdisjoint({"script", "img", "iframe"}), path
        assert "<script>alert(1)</script>" in page.words
        assert "{{7*7}}" in page.words
        assert "\u202e" not in path.read_text()


def test_hostile_pages_do_nothing_in_a_browser(hostile: Path, chromium: browser.Chromium) -> None:
    for path in ("index.html", "evil/index.html", "evil/2/index.html", "evil/3/index.html"):
        chromium.open(hostile / path, width=390)
        assert chromium.complaints == []
        assert chromium.requests == [(hostile / path).as_uri()]
        assert chromium.run("document.documentElement.scrollWidth") <= 390


def test_an_evaluation_page_runs_apart_and_reaches_nothing(hostile: Path, chromium: browser.Chromium) -> None:
    chromium.open(hostile / "evil" / "3" / "evaluation.html")
    said = chromium.run(
        "new Promise(done => { addEventListener('message', event => done([event.data, event.origin]));"
        " const frame = document.querySelector('iframe'); frame.srcdoc = frame.srcdoc; })"
    )
    assert said == ["ran, and got ", "null"]
    assert chromium.run("document.querySelectorAll('body > nav a').length") == 3
    assert [url for url in chromium.requests if not url.startswith("file:")] == []
    assert chromium.run("location.href") == (hostile / "evil" / "3" / "evaluation.html").as_uri()


def test_an_evaluation_page_sends_no_request_by_any_way_that_a_policy_covers(
    chromium: browser.Chromium, tmp_path: Path
) -> None:
    registry = Registry.create(tmp_path / "registry")
    with servers.serving(tmp_path) as elsewhere:
        page = REACHING.replace("THERE", elsewhere.url)
        registry.publish("spy", b"one", metadata={}, attachments={"evaluation.html": page.encode()})
        _made(registry, tmp_path / "site")
        chromium.open(tmp_path / "site" / "spy" / "1" / "evaluation.html")
        time.sleep(1.5)
        assert elsewhere.asked == []
        (tmp_path / "bare.html").write_text(page)  # the same page, outside of its frame
        # It leaves its place at once: its end is the server's to tell.
        chromium.call("Page.navigate", url=(tmp_path / "bare.html").as_uri())
        expected = {"/style", "/import", "/image", "/frame", "/object", "/events", "/socket", "/form"}
        deadline = time.monotonic() + 60
        while not expected <= {path.rstrip("?") for path, _ in elsewhere.asked}:
            assert time.monotonic() < deadline, elsewhere.asked
            time.sleep(0.05)


def test_pages_fit_a_phone_follow_the_dark_and_ask_for_nothing(
    shown: dict[str, Reader], folder: Path, chromium: browser.Chromium
) -> None:
    for path in ("index.html", "taxi/index.html", "taxi/3/index.html"):
        backgrounds = []
        for dark in (False, True):
            chromium.open(folder / path, width=360, dark=dark, scripts=True)
            assert chromium.complaints == []
            assert chromium.requests == [(folder / path).as_uri()]
            assert chromium.run("document.documentElement.scrollWidth") <= 360
            backgrounds.append(chromium.run("getComputedStyle(document.body).backgroundColor"))
        assert backgrounds[0] != backgrounds[1]
    chromium.open(folder / "taxi" / "index.html")
    assert chromium.run("document.querySelectorAll('svg.chart').length") == 3
    assert chromium.run("document.querySelectorAll('circle.hollow').length") == 4  # two sizes, time, metric
    assert chromium.run("getComputedStyle(document.querySelector('svg.chart polyline')).fill") == "none"


def test_wide_labels_and_long_names_are_neither_cut_nor_one_over_the_other(
    chromium: browser.Chromium, tmp_path: Path
) -> None:
    registry = Registry.create(tmp_path / "registry")
    model, channel = "m" * 63, "c" * 63
    for number in range(12):
        metrics = {"large_ppm": 123456789012345 + number, "rows_ppm": 50_000_000_000 * (number + 1)}
        figures = {"figures": {"metrics": metrics, "gz_size_bytes": 90_000 * (number + 1)}}
        version = 999_999_999_999_999_980 + number
        registry.publish(model, b"%d" % number, version=version, metadata=figures, channel=channel)
    _made(registry, tmp_path / "site", title="t" * 63)
    for path in ("index.html", f"{model}/index.html", f"{model}/{version}/index.html"):
        for width in (360, 1280):
            chromium.open(tmp_path / "site" / path, width=width)
            assert chromium.run("document.documentElement.scrollWidth") <= width, path
            assert chromium.run(_BADLY_PLACED) == []
    chromium.open(tmp_path / "site" / model / "index.html")
    assert chromium.run("document.querySelectorAll('svg.chart').length") == 3


# Labels of charts that leave their chart, or stand on one another.
_BADLY_PLACED = """[...document.querySelectorAll('svg.chart')].flatMap(chart => {
  const around = chart.getBoundingClientRect();
  const texts = [...chart.querySelectorAll('text')].map(e => [e.textContent, e.getBoundingClientRect()]);
  const outside = ([, r]) => r.left < around.left || r.right > around.right || r.bottom > around.bottom;
  const over = ([, a], [, b]) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  return [...texts.filter(outside), ...texts.filter((a, i) => texts.slice(i + 1).some(b => over(a, b)))]
    .map(([text]) => text);
})"""


def test_what_runs_out_is_said_in_time(taxi: Registry, tmp_path: Path) -> None:
    begin = datetime.datetime.now(datetime.timezone.utc)
    for days, colour, text in (
        (20, "", ""),
        (24, "odd", "The signature of 'timestamp' runs out soon."),
        (31, "bad", "Phones refuse this registry: the signature of 'timestamp' ran out."),
    ):
        pages = _made(taxi, tmp_path / str(days), now=begin + datetime.timedelta(days=days))
        for path in ("index.html", "taxi/index.html", "taxi/3/index.html"):
            banners = [
                value for name, value in pages[path].attributes if name == "class" and "banner" in str(value)
            ]
            assert (f"banner {colour}" in banners) is bool(text) or path.endswith("3/index.html")
            assert (text in pages[path].words) is True
            assert ("signature of" in pages[path].words) is bool(text)


def test_a_site_needs_the_root_and_no_key(taxi: Registry, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(taxi.repository, tmp_path / "copy"))
    root = tmp_path / "root.json"
    root.write_bytes(taxi.root_path.read_bytes())
    assert site.write(copy, root, tmp_path / "site") == 8


def test_the_same_registry_at_the_same_time_gives_the_same_site(
    taxi: Registry, tmp_path: Path, tree: Any
) -> None:
    now = datetime.datetime(2030, 1, 1, tzinfo=datetime.timezone.utc)
    for name in ("a", "b"):
        site.write(taxi.repository, taxi.root_path, tmp_path / name, now=now)
    first, second = (
        {Path(p).relative_to(tmp_path / n): c for p, c in tree(tmp_path / n).items()} for n in "ab"
    )
    assert first == second


@pytest.mark.parametrize("victim", ["targets/taxi-fare/2/*.model.tflite", "targets/*/2/*.record.json"])
def test_a_site_that_cannot_be_made_leaves_the_old_one(
    registry: Registry, tmp_path: Path, tree: Any, victim: str
) -> None:
    to = tmp_path / "site"
    site.write(registry.repository, registry.root_path, to)
    before = tree(to)
    (path,) = registry.repository.glob(victim)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(RegistryError, match=re.escape("must have the length and sha256 that were signed")):
        site.write(registry.repository, registry.root_path, to)
    path.unlink()
    with pytest.raises(RegistryError, match=re.escape(f"must be at {path}; No such file")):
        site.write(registry.repository, registry.root_path, to)
    assert tree(to) == before
    assert [one.name for one in tmp_path.iterdir() if "site" in one.name] == ["site"]


def test_an_evaluation_that_was_changed_stops_the_site(taxi: Registry, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(taxi.repository, tmp_path / "copy"))
    (path,) = copy.glob("targets/taxi/3/*.evaluation.html")
    path.write_bytes(b"<p>THE evaluation</p>")
    with pytest.raises(RegistryError, match=re.escape("must have the length and sha256 that were signed")):
        site.write(copy, taxi.root_path, tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_an_old_site_is_replaced_whole(registry: Registry, tmp_path: Path) -> None:
    to = tmp_path / "site"
    site.write(registry.repository, registry.root_path, to)
    (to / "taxi-fare" / "9").mkdir()
    (to / "taxi-fare" / "9" / "index.html").write_text("of a version that is not there")
    registry.publish("taxi-fare", b"four", metadata={})
    pages = _made(registry, to)
    assert "taxi-fare/4/index.html" in pages
    assert "taxi-fare/9/index.html" not in pages
    assert to.stat().st_mode & 0o777 == 0o755


def test_a_site_that_cannot_be_put_in_place_leaves_the_old_one_there(tmp_path: Path, tree: Any) -> None:
    to = tmp_path / "site"
    to.mkdir()
    (to / "index.html").write_text("old")
    before = tree(tmp_path)
    with pytest.raises(FileNotFoundError):
        site._swap(tmp_path / "never-made", to)
    assert tree(tmp_path) == before


def test_nothing_but_a_site_is_replaced(registry: Registry, tmp_path: Path, tree: Any) -> None:
    other = tmp_path / "home"
    other.mkdir()
    (other / "index.html").write_text("<p>mine</p>")
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("mine")
    link.symlink_to(other)
    before = tree(tmp_path)
    for to, text in (
        (other, f"Site must be a new or empty folder, or an earlier site, which is replaced; {other} holds"),
        (file, f"Site must be a folder; {file} is something else. Name another."),
        (link, f"Site must be a folder; {link} is something else. Name another."),
        (registry.repository, "Site must lie outside the repository, which holds signed files only; got "),
        (registry.repository / "targets" / "site", "Site must lie outside the repository, which holds"),
        (tmp_path, f"Site must be a new or empty folder, or an earlier site, which is replaced; {tmp_path}"),
        (file / "site", f"Site must be a folder that can be written; {file}"),
    ):
        with pytest.raises(ConfigError, match=re.escape(text)):
            site.write(registry.repository, registry.root_path, to)
    assert tree(tmp_path) == before
    empty = tmp_path / "empty"
    empty.mkdir()
    assert site.write(registry.repository, registry.root_path, empty) == 5


def test_what_is_not_a_registry_or_not_this_one_is_refused(
    registry: Registry, taxi: Registry, tmp_path: Path
) -> None:
    nothing = tmp_path / "nothing"
    with pytest.raises(
        RegistryError, match=re.escape(f"There must be a registry at {nothing}; there is none.")
    ):
        site.write(nothing, registry.root_path, tmp_path / "site")
    with pytest.raises(RegistryError, match=re.escape("must be signed by the key that the registry trusts")):
        site.write(registry.repository, taxi.root_path, tmp_path / "site")
    missing = tmp_path / "no-root.json"
    with pytest.raises(
        ConfigError, match=re.escape(f"Trusted root must be a file that can be read; {missing}:")
    ):
        site.write(registry.repository, missing, tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_history_goes_back_as_far_as_there_are_files(registry: Registry, tmp_path: Path) -> None:
    def read() -> catalogue.Channel:
        root = registry.root_path.read_bytes()
        return (
            catalogue.read(FolderStorage(registry.repository), root, where="root")
            .models["taxi-fare"]
            .channels["stable"]
        )

    whole = read()
    assert [one.sequence for one in whole.history] == [3, 2, 1]
    assert [one.event for one in reversed(whole.history)] == registry.history("taxi-fare")
    assert whole.is_whole
    folder = registry.repository / "targets" / "taxi-fare" / "channels"
    oldest = folder / f"{whole.history[1].previous_sha256}.stable.json"
    content = oldest.read_bytes()
    oldest.unlink()
    assert [one.sequence for one in read().history] == [3, 2]
    assert not read().is_whole
    assert (
        "Records before these are not kept"
        in _made(registry, tmp_path / "site")["taxi-fare/index.html"].words
    )
    oldest.write_bytes(content.replace(b'"sequence":1', b'"sequence":9'))
    with pytest.raises(RegistryError, match=re.escape("must have the sha256 that was signed")):
        read()


@pytest.mark.parametrize(
    ("previous", "text"),
    [
        ("../../../../../etc/passwd", "must be named by a sha256; got '../../../../../etc/passwd'."),
        ("itself", "must be number 2; got 1."),
    ],
)
def test_a_history_that_its_publisher_made_up_is_refused(
    forger: Any, registry: Registry, tmp_path: Path, previous: str, text: str
) -> None:
    now = registry.channel_records("taxi-fare")["stable"]
    first = catalogue.read(FolderStorage(registry.repository), registry.root_path.read_bytes(), where="root")
    oldest = first.models["taxi-fare"].channels["stable"].history[1].previous_sha256
    said = {**json.loads(now.to_json()), "previous_sha256": oldest if previous == "itself" else previous}
    content = records.ChannelRecord.from_dict(said).to_json().encode()
    target = records.target(names.channel_path("taxi-fare", "stable"), content)
    place = registry.repository / "targets" / target.get_prefixed_paths()[0]
    place.write_bytes(content)
    forger.edit("model-taxi-fare", lambda signed: signed.targets.update({target.path: target}))
    with pytest.raises(RegistryError, match=re.escape(text)):
        site.write(registry.repository, registry.root_path, tmp_path / "site")


def test_the_command_makes_a_site(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "site"
    arguments = ["registry", "site", str(registry.repository), "--to", str(to), "--title", "Ours & theirs"]
    assert cli.main(arguments) == 0
    shown = capsys.readouterr()
    assert shown.out == f"5 pages  {to}/index.html\n"
    assert f"trusting {registry.root_path} sha256:" in shown.err
    assert "<h1>Ours &amp; theirs</h1>" in (to / "index.html").read_text()
    assert cli.main([*arguments, "--root", str(tmp_path / "none")]) == 2
    assert "Trusted root must be a file that can be read" in capsys.readouterr().err


def test_the_commands_and_the_code_of_the_documentation_run(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(registry.repository.parent)
    shutil.copy(registry.root_path, "root.json")
    text = (Path(__file__).parents[2] / "docs" / "registry-site.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    ran: dict[str, object] = {}
    exec(code, ran)
    assert ran["pages"] == 5
    commands = [
        shlex.split(command, comments=True)
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
        for command in line.split("&&")
    ]
    assert [words[2] for words in commands] == ["site", "site", "refresh", "site", "serve"]
    for words in commands[:-1]:  # `serve` runs until it is told to end: test_serving.py
        assert words[:2] == ["tfx-mobile", "registry"]
        shutil.rmtree("catalogue", ignore_errors=True)
        assert cli.main(words[1:]) == 0
        assert (Path("catalogue") / "index.html").is_file() is (words[2] == "site")


# The words and places of figures.


@pytest.mark.parametrize(
    ("said", "name", "text"),
    [
        ({"rmse_ppm": 3_012_345}, "rmse", "3.012"),
        ({"a": {"b_ns": 83_120}}, "a.b", "83.1 \u00b5s"),
        ({"b_ns": 999}, "b", "999 ns"),
        ({"b_ns": 1_500_000_000}, "b", "1.5 s"),
        ({"size_bytes": 319_488}, "size", "312 KiB (319,488 B)"),
        ({"size_bytes": 700}, "size", "700 B"),
        ({"share_permille": 125}, "share", "12.5 %"),
        ({"at_unix_s": 0}, "at", "1970-01-01 00:00 UTC"),
        ({"at_unix_s": 10**14}, "at", "100,000,000,000,000"),
        ({"rows": 10_234}, "rows", "10,234"),
        ({"n_ppm": 10**400}, "n_ppm", f"1{'0' * 23}\u2026"),
        ({"is_it": True}, "is_it", "yes"),
        ({"none": None}, "none", "\u2013"),
        ({"list": [1, "b"]}, "list", "1, b"),
        ({"rows": [{"x": 1}]}, "rows[0].x", "1"),
    ],
)
def test_a_unit_is_read_from_the_end_of_the_key(said: Any, name: str, text: str) -> None:
    assert site_figures.facts(said) == [(name, text)]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["a_ns", "b_ppm", "c_unix_s", "d_bytes", "e", ""]), inner, max_size=4
        )
    ),
    max_leaves=20,
)


@settings(max_examples=40)
@given(said=_JSON)
def test_whatever_was_signed_can_be_shown(said: Any) -> None:
    rows = site_figures.facts({"x": said})
    assert len(rows) <= site_figures.MAX_FACTS + 1
    for name, text in rows:
        assert name.startswith("x")
        assert text
    table = site_figures.table(said)
    assert table is None or all(len(row) == len(table[0]) for row in table[1])


@given(text=st.text())
def test_shown_text_has_nothing_that_turns_or_hides_it(text: str) -> None:
    shown = site_figures.plain(text)
    assert all(c.isprintable() or c in "\u200c\u200d" for c in shown)
    assert site_figures.plain(shown) == shown


def test_endless_text_and_tables_are_cut() -> None:
    assert len(site_figures.plain("a" * 10**6)) == site_figures.MAX_TEXT + 1
    rows = site_figures.facts({str(i): i for i in range(1000)})
    assert len(rows) == site_figures.MAX_FACTS + 1
    assert rows[-1] == ("and more", "in the record")


@given(
    values=st.lists(st.integers(-(10**9), 10**9), min_size=2, max_size=30),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_points_stand_in_the_chart_and_higher_values_stand_higher(values: list[int], scale: float) -> None:
    points = tuple(site_charts.Point(i, value * scale, "") for i, value in enumerate(values))
    places = [str(i) for i in range(len(values))]
    chart = site_charts.chart("t", [site_charts.Series("s", points)], places, str)
    assert chart is not None
    dots = chart.lines[0].dots
    assert all(chart.left <= dot.x <= chart.right and 0 <= dot.y <= chart.bottom for dot in dots)
    for a, b in itertools.pairwise(dots):
        assert a.x < b.x
        first, second = values[dots.index(a)], values[dots.index(b)]
        assert first == second or (a.y >= b.y) == (first < second) or a.y == b.y
    labels = [label.y for label in chart.y_labels]
    assert labels == sorted(labels, reverse=True)
    assert 1 <= len(labels) <= 7
    assert len({label.text for label in chart.y_labels}) == len(labels)
    assert chart.x_labels[0].text == places[-1]
    assert len(chart.x_labels) <= 7


def test_a_single_value_is_no_chart() -> None:
    one = site_charts.Series("s", (site_charts.Point(0, 1.0, ""),))
    assert site_charts.chart("t", [one], ["1"], str) is None
    assert site_charts.chart("t", [], [], str) is None
