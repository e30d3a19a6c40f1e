"""`tfx-mobile report`: finds the newest evaluation, opens, exports and prints it."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.size_latency_evaluator import samples

from tfx_mobile import cli
from tfx_mobile.common import jsonable
from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.size_latency_evaluator import evaluation as evaluations
from tfx_mobile.size_latency_evaluator import summary

FULL = samples.full()


def write(folder: Path, *, written_s: int, page: str = "<!doctype html>") -> Path:
    folder.mkdir(parents=True)
    (folder / evaluations.REPORT_FILE).write_text(page)
    file = folder / evaluations.EVALUATION_FILE
    file.write_text(jsonable.dumps(FULL.to_dict(), indent=2))
    os.utime(file, (written_s, written_s))
    return folder


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    artifacts = tmp_path / "workspace" / "artifacts"
    write(artifacts / "SizeLatencyEvaluator" / "evaluation" / "9", written_s=100)
    write(artifacts / "SizeLatencyEvaluator.again" / "evaluation" / "3", written_s=300, page="newest")
    write(artifacts / "SizeLatencyEvaluator" / "evaluation" / "10", written_s=200)
    return tmp_path / "workspace"


def run(*arguments: object) -> int:
    return cli.main(["report", *map(str, arguments)])


def test_the_newest_evaluation_below_a_workspace_is_found(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(workspace, "--no-open") == 0

    verdict, page = capsys.readouterr().out.splitlines()
    assert verdict == evaluations.verdict_line(FULL)
    assert Path(page) == (
        workspace / "artifacts" / "SizeLatencyEvaluator.again" / "evaluation" / "3" / "index.html"
    )


def test_of_two_written_at_once_the_later_execution_is_the_newest(tmp_path: Path) -> None:
    write(tmp_path / "9", written_s=5)
    write(tmp_path / "10", written_s=5)

    assert evaluations.newest_folder(tmp_path) == tmp_path / "10"


def test_an_evaluation_folder_is_taken_as_it_is(workspace: Path) -> None:
    folder = workspace / "artifacts" / "SizeLatencyEvaluator" / "evaluation" / "9"

    assert evaluations.newest_folder(folder) == folder


def test_markdown_is_the_summary(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(workspace, "--markdown") == 0
    assert capsys.readouterr().out == summary.render(FULL)


def test_json_is_the_evaluation(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(workspace, "--json") == 0
    assert json.loads(capsys.readouterr().out) == FULL.to_dict()


def test_the_page_is_exported_as_it_is(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(workspace, "--export", tmp_path / "out" / "page.html") == 0
    assert (tmp_path / "out" / "page.html").read_text() == "newest"
    assert capsys.readouterr().out.splitlines()[1] == str(tmp_path / "out" / "page.html")


def run_beside(folder: Path, *arguments: object, status: int = 0) -> "subprocess.CompletedProcess[str]":
    """Runs the command where the browser is a program that notes what it was given in `seen`."""
    browser, seen = folder / "browser", folder / "seen"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {shlex.quote(str(seen))}\nexit {status}\n')
    browser.chmod(0o755)
    return subprocess.run(
        [sys.executable, "-m", "tfx_mobile.cli", "report", *map(str, arguments)],
        env={"PATH": "", "BROWSER": f"{browser} %s", "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.parametrize(
    "options", [["--no-open"], ["--export", "copy.html"], ["--markdown"], ["--json"]], ids=lambda o: o[0]
)
def test_the_page_is_not_opened_where_something_else_is_asked_for(
    workspace: Path, tmp_path: Path, options: list[str]
) -> None:
    options = [str(tmp_path / option) if option.endswith(".html") else option for option in options]

    run_beside(tmp_path, workspace, *options)

    assert not (tmp_path / "seen").exists()


@pytest.mark.parametrize(("status", "words"), [(0, ""), (1, "there is no browser to open it with")])
def test_the_page_is_opened_in_the_browser(workspace: Path, tmp_path: Path, status: int, words: str) -> None:
    seen = tmp_path / "seen"

    done = run_beside(tmp_path, workspace, status=status)

    page = workspace / "artifacts" / "SizeLatencyEvaluator.again" / "evaluation" / "3" / "index.html"
    assert seen.read_text() == page.as_uri()
    assert words in done.stderr
    assert bool(done.stderr) is bool(words)


@pytest.mark.parametrize(
    ("place", "error", "words"),
    [
        ("none", ConfigError, "FOLDER must be an evaluation artifact or a folder above one; got "),
        ("empty", DataError, "FOLDER must hold an evaluation.json, at any depth; got none in "),
    ],
)
def test_where_there_is_no_evaluation_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, error: type[Exception], words: str
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=re.escape(words)):
        evaluations.newest_folder(tmp_path / place)

    assert run(tmp_path / place) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"tfx-mobile: error: {words}")


def test_an_evaluation_without_its_page_is_refused(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = workspace / "artifacts" / "SizeLatencyEvaluator" / "evaluation" / "9"
    (folder / "index.html").unlink()

    assert run(folder, "--no-open") == 2
    assert "must hold index.html; got none in " in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_refused(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")

    assert run(workspace, "--export", tmp_path / "file" / "page.html") == 2
    assert "--export must be a file that can be written; " in capsys.readouterr().err
