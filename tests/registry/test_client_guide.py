"""What docs/registry-client.md shows is run as it is written."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tfx_mobile.registry.store import Registry

GUIDE = Path(__file__).parents[2] / "docs" / "registry-client.md"


@pytest.fixture
def place(registry: Registry, tmp_path: Path) -> Path:
    shutil.copy(registry.root_path, tmp_path / "root.json")
    program = tmp_path / "bin" / "tfx-mobile"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tfx_mobile.cli "$@"\n')
    program.chmod(0o755)
    return tmp_path


def run(command: list[str], place: Path) -> str:
    path = f"{place / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=place,
        env=os.environ | {"PATH": path, "XDG_CACHE_HOME": str(place / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_examples_run_as_written(place: Path, contents: dict[int, bytes]) -> None:
    [python] = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    path, version, *said, downloaded = run([sys.executable, "-c", python], place).split()
    assert (place / path).read_bytes() == contents[3]
    assert (version, " ".join(said)) == ("3", "up to date")
    assert int(downloaded) > len(contents[3])
    [shell] = re.findall(r"```sh\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    printed = run(["sh", "-e", "-c", shell], place)
    assert printed.startswith("ROLE")
    assert "taxi-fare version 3  sha256:" in printed
    assert (place / "model.tflite").read_bytes() == contents[3]
