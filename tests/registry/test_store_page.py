"""The examples of docs/registry-store.md run, and print what the page says."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from tfx_mobile import cli

PAGE = (Path(__file__).parents[2] / "docs" / "registry-store.md").read_text()


def test_the_example_prints_what_stands_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(example, "docs/registry-store.md", "exec"), {})
    expected = re.findall(r"^# (.*)$", example, re.MULTILINE) + re.findall(
        r"print\(.*\)  # (.*)$", example, re.M
    )
    assert said.getvalue().splitlines() == expected
    assert len(expected) == 3


def test_every_action_that_the_page_names_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = re.findall(r"`tfx-mobile registry (init \|.*?)`", PAGE)
    for action in row.split(" | "):
        with pytest.raises(SystemExit) as ended:
            cli.main(["registry", action, "--help"])
        assert ended.value.code == 0
    assert "usage: tfx-mobile registry verify" in capsys.readouterr().out
