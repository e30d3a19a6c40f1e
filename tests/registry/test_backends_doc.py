"""The page on backends: its table is what the backends say, and its example passes what it tells to run."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.registry.adapter import check_can
from tfx_mobile.registry.backend import Capabilities, open_backend

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "registry-backends.md").read_text()
LOCATIONS = {
    "signed store": "/registry",
    "bucket": "bucket+file:///models",
    "OCI registry": "oci://127.0.0.1:5000/models",
    "MLflow": "mlflow+http://127.0.0.1:5000",
}


def blocks(language: str) -> dict[str, str]:
    """Returns the code blocks that begin with a comment, by its first word."""
    found = re.findall(rf"```{language}\n(# (\S+).*?)```", PAGE, re.DOTALL)
    return {name: block for block, name in found}


@pytest.mark.parametrize("name", LOCATIONS)
def test_the_table_says_what_a_backend_says(name: str) -> None:
    head, *rows = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("|")]
    fields = [cell.strip() for cell in head[1:]]
    assert [*fields, "reserved_channels"] == [field.name for field in dataclasses.fields(Capabilities)]
    (row,) = [row for row in rows if row[0].strip().startswith(f"{name}:")]
    able = dataclasses.asdict(open_backend(LOCATIONS[name]).capabilities)
    reserved = able.pop("reserved_channels")
    assert dict(zip(fields, [cell.strip() == "yes" for cell in row[1:]], strict=True)) == able
    assert {cell.strip() for cell in row[1:]} <= {"yes", "no"}
    assert bool(reserved) is (f"- {name} keeps the aliases `latest` and `v1`, `v2`, ... for itself" in PAGE)


def test_the_page_shows_the_refusal_that_one_gets() -> None:
    uri = LOCATIONS["MLflow"]
    with pytest.raises(ConfigError) as caught:
        check_can(uri, open_backend(uri).capabilities, "rollout")
    assert str(caught.value) in " ".join(PAGE.split())


def test_the_example_passes_the_tests_it_is_to_pass(tmp_path: Path) -> None:
    for name, block in blocks("python").items():
        (tmp_path / name).write_text(block)
    assert {path.name for path in tmp_path.iterdir()} == {"plain_registry.py", "test_plain_registry.py"}
    path = os.pathsep.join([str(tmp_path), *(part for part in sys.path if part)])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_plain_registry.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "12 passed" in done.stdout


def test_the_example_is_found_by_its_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As pip installs it: a module, and metadata with its entry point."""
    (tmp_path / "plain_registry.py").write_text(blocks("python")["plain_registry.py"])
    metadata = tmp_path / "plain_registry-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plain-registry\nVersion: 1\n")
    (announced,) = re.findall(r'^plain = "(.*)"$', PAGE, re.MULTILINE)
    (metadata / "entry_points.txt").write_text(f"[tfx_mobile.registries]\nplain = {announced}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    backend = open_backend(f"plain:/{tmp_path}/models")
    assert backend.publish("taxi", b"one", metadata={}).version == 1
    assert backend.resolve("taxi").content == b"one"
