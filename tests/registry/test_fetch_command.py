"""`tfx-mobile registry fetch` and `check`: what a phone does, from the shell."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tfx_mobile import cli
from tfx_mobile.registry.store import Registry
from tfx_mobile.registry.targeting import Targeting, bucket_permille

Run = Callable[..., int]


@pytest.fixture
def fetch(registry: Registry, tmp_path: Path) -> Run:
    def run(*more: object, action: str = "fetch") -> int:
        arguments = [
            "--from",
            registry.repository,
            "--root",
            registry.root_path,
            "--cache",
            tmp_path / "cache",
        ]
        if action == "fetch":
            arguments += ["--to", tmp_path / "m.tflite"]
        return cli.main(["registry", action, *map(str, ["taxi-fare", *arguments, *more])])

    return run


def test_a_device_is_described_by_its_options(registry: Registry, fetch: Run, tmp_path: Path) -> None:
    asks = Targeting(
        platforms=("android",),
        abis=("arm64-v8a",),
        min_app_version="2.1",
        min_ram_mib=2048,
        min_runtime_version="2.16",
        required_ops=("FlexErf", "Mine"),
    )
    registry.publish("taxi-fare", b"four", metadata={}, variant="arm", targeting=asks)
    device = {
        "--platform": "android",
        "--abi": "arm64-v8a",
        "--app-version": "2.10",
        "--ram-mib": "2048",
        "--runtime-version": "2.17.0",
        "--op": "FlexErf",
    }
    options = [text for option in device.items() for text in option]
    assert fetch(*options, "--op", "Mine") == 0
    assert (tmp_path / "m.tflite").read_bytes() == b"four"
    for left_out in range(0, len(options), 2):
        assert fetch(*options[:left_out], *options[left_out + 2 :], "--op", "Mine") == 0
        assert (tmp_path / "m.tflite").read_bytes() == b"three" * 50
    assert fetch("--version", "4", "--variant", "arm") == 0
    assert (tmp_path / "m.tflite").read_bytes() == b"four"


def test_a_share_is_drawn_by_the_device_id(registry: Registry, fetch: Run, tmp_path: Path) -> None:
    registry.publish("taxi-fare", b"four", metadata={}, rollout_permille=500)
    assert fetch() == 0
    assert (tmp_path / "m.tflite").read_bytes() == b"three" * 50
    salt = registry.channel_records("taxi-fare")["stable"].rollouts[0].salt
    for is_inside, content in ((True, b"four"), (False, b"three" * 50)):
        device = next(n for n in itertools.count() if (bucket_permille(salt, str(n)) < 500) == is_inside)
        assert fetch("--device-id", device) == 0
        assert (tmp_path / "m.tflite").read_bytes() == content


def test_without_the_registry_the_last_good_file_is_written_with_a_note_or_strictly_nothing(
    registry: Registry, fetch: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch() == 0
    (registry.repository / "metadata" / "timestamp.json").unlink()
    (tmp_path / "m.tflite").unlink()
    capsys.readouterr()
    assert fetch() == 0
    out, err = capsys.readouterr()
    assert out.startswith("taxi-fare version 3  sha256:")
    assert err.startswith("tfx-mobile: not updated, this is the last good version: Registry ")
    assert err.count("\n") == 1
    (tmp_path / "m.tflite").unlink()
    assert fetch("--strict") == 2
    assert "error: Registry" in capsys.readouterr().err
    assert not (tmp_path / "m.tflite").exists()


def test_the_note_is_one_line_in_a_process_of_its_own(registry: Registry, fetch: Run, tmp_path: Path) -> None:
    assert fetch() == 0
    (registry.repository / "metadata" / "timestamp.json").unlink()
    command = ["fetch", "taxi-fare", "--from", registry.repository, "--root", registry.root_path]
    command += ["--to", tmp_path / "m.tflite", "--cache", tmp_path / "cache"]
    done = subprocess.run(
        [sys.executable, "-m", "tfx_mobile.cli", "registry", *command], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)


def test_a_variant_needs_a_version(fetch: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch("--variant", "arm") == 2
    assert "--variant must come with --version; a channel names its own." in capsys.readouterr().err


def test_check_says_what_is_trusted_and_until_when(
    registry: Registry, fetch: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(action="check") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["ROLE", "VERSION"],
        ["root", "1"],
        ["timestamp", "4"],
        ["snapshot", "4"],
        ["targets", "2"],
        ["model-taxi-fare", "3"],
    ]
    assert all(line.endswith(" UTC") for line in lines[1:])
    assert not (tmp_path / "cache" / "targets").exists()
    (registry.repository / "metadata" / "timestamp.json").unlink()
    assert fetch(action="check") == 2
    assert "a file is missing or not served" in capsys.readouterr().err
