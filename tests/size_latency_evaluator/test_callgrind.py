"""Counting instructions, with a `valgrind` of our own that counts 1,000 a call and a million before.

The real one takes 20 seconds a file and is not on every machine: docs/latency.md has what it counted.
"""

import re
import stat
from pathlib import Path

import pytest

from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.size_latency_evaluator import callgrind

COUNTING = """#!/bin/sh
for last; do :; done
out=$(echo "$@" | sed 's/.*--callgrind-out-file=\\([^ ]*\\).*/\\1/')
echo "$@" >> {folder}/log
echo "version: 1" > $out
echo "summary: $((1000000 + 1000 * last))" >> $out
"""


@pytest.fixture
def valgrind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "valgrind"
    path.write_text(COUNTING.format(folder=tmp_path))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return path


def test_the_start_is_not_in_the_count_of_a_call(valgrind: Path, tmp_path: Path) -> None:
    found = callgrind.instructions(tmp_path / "a.tflite", tmp_path / "rows.npz", timeout_seconds=60)

    assert found == 1000
    few, more = (tmp_path / "log").read_text().splitlines()
    for line in (few, more):
        assert "--tool=callgrind" in line
        assert "-m tfx_mobile.size_latency_evaluator.call_worker" in line
        assert line.split()[-3:-1] == [str(tmp_path / "a.tflite"), str(tmp_path / "rows.npz")]
    assert int(more.split()[-1]) > int(few.split()[-1]) > 1  # the first call is in both


def test_without_valgrind_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(
        ConfigError, match=re.escape("count_instructions needs valgrind on this machine; it is")
    ):
        callgrind.check_available()


@pytest.mark.parametrize(
    ("script", "timeout_seconds", "message"),
    [
        ("#!/bin/sh\necho no >&2\nexit 3\n", 60, "callgrind must run the file; it ended with code 3: no"),
        (COUNTING + "exit 4\n", 60, "callgrind must run the file; it ended with code 4: no message"),
        ("#!/bin/sh\nexit 0\n", 60, "callgrind must run the file; it ended with code 0: no message"),
        ("#!/bin/sh\nexec sleep 600\n", 0.2, "Counting 2 calls must end within 0.2 s; it did not."),
    ],
)
def test_a_count_that_fails_is_an_error(
    valgrind: Path, tmp_path: Path, script: str, timeout_seconds: float, message: str
) -> None:
    valgrind.write_text(script.replace("{folder}", str(tmp_path)))

    with pytest.raises(DataError, match=re.escape(message)):
        callgrind.instructions(tmp_path / "a.tflite", tmp_path / "rows.npz", timeout_seconds=timeout_seconds)
