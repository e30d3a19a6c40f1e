"""What docs/registry-mirrors.md shows is what happens."""

import re
import shlex
from pathlib import Path

import pytest

from tfx_mobile import cli
from tfx_mobile.registry.store import Registry

PAGE = Path(__file__).parents[2] / "docs" / "registry-mirrors.md"


def blocks(language: str, place: Path) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [block.replace("/tmp/models", f"{place}/models") for block in found]


def test_the_examples_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry = Registry.create(tmp_path / "store")
    registry.publish("taxi-fare", b"one", metadata={})
    names = {
        "model_1": b"one",
        "model_2": b"two",
        "model_2_arm": b"two for arm",
        "store_folder": str(registry.repository),
        "root_json": registry.root_path,
        "cache_folder": tmp_path / "cache",
    }
    python = blocks("python", tmp_path)
    assert len(python) == 2
    for block in python:
        exec(compile(block, str(PAGE), "exec"), names)
    commands = [
        shlex.split(line, comments=True)
        for block in blocks("shell", tmp_path)
        for line in block.splitlines()
        if line.startswith("tfx-mobile")
    ]
    assert [command[2] for command in commands] == ["remote-config", "export", "export"]
    for _, *command in commands:
        here = {
            "https://models.example.com/registry": str(registry.repository),
            "root.json": str(registry.root_path),
            "template.json": str(tmp_path / "template.json"),
            "packs": str(tmp_path / "packs"),
            "pack": str(tmp_path / "pack"),
        }
        given = [here.get(word, word) for word in command]
        if command[1] == "export":
            given += ["--cache", str(tmp_path / "cache")]
        assert cli.main(given) == 0, capsys.readouterr().err
    assert (tmp_path / "template.json").is_file()
    assert (tmp_path / "packs/model_taxi_fare/src/main/assets/taxi-fare/model.tflite").read_bytes() == b"one"
    assert (tmp_path / "pack/taxi-fare/model.tflite").read_bytes() == b"one"
