"""A file that crashes the interpreter costs only itself. Real files, real processes."""

import os
from pathlib import Path
from typing import Any

import pytest

from tfx_mobile.size_latency_evaluator import isolation, runner

WORKER = "a_worker"
SOURCE = """
import sys
from pathlib import Path
from tfx_mobile.common.interpreter import TFLiteModel
from tfx_mobile.size_latency_evaluator import isolation

def measure(job, busy):
    values, failures = {}, {}
    for index, (name, path) in enumerate(job["models"]):
        busy.write(index)
        try:
            values[name] = {job["task"]: sorted(TFLiteModel(Path(path)).inputs)}
        except ValueError as error:
            failures[name] = str(error)
    return values, failures

sys.exit(isolation.main(sys.argv, measure))
"""


@pytest.fixture(autouse=True)
def a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_worker.py").write_text(SOURCE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def write(folder: Path, contents: dict[str, bytes]) -> dict[str, Path]:
    paths = {}
    for position, (name, content) in enumerate(contents.items()):
        paths[name] = folder / f"{position}.tflite"
        paths[name].write_bytes(content)
    return paths


@pytest.mark.pipeline
def test_files_around_one_that_crashes_are_still_measured(tiny: Any, tmp_path: Path) -> None:
    names = ["s0-noise", "s0-crash", "s0-float32", "s0-int8"]
    paths = write(tmp_path, {name: tiny.contents[name] for name in names})

    outcome = isolation.run_worker(WORKER, paths, {"task": "inspect"}, folder=tmp_path, timeout_seconds=600)

    assert sorted(outcome.values) == ["s0-float32", "s0-int8"]
    assert outcome.values["s0-float32"] == {"inspect": ["company", "miles"]}
    assert outcome.failures["s0-crash"] == "The measuring process died with SIGSEGV while it ran this file."
    assert "not a valid Flatbuffer" in outcome.failures["s0-noise"]


def test_only_files_that_crash_end_without_values(tmp_path: Path) -> None:
    paths = write(tmp_path, {"a": b"", "b": b"TFL3"})

    outcome = isolation.run_worker(WORKER, paths, {"task": "inspect"}, folder=tmp_path, timeout_seconds=600)

    assert outcome.values == {}
    assert sorted(outcome.failures) == ["a", "b"]


def test_a_process_that_takes_too_long_is_a_failure_with_the_limit(tmp_path: Path) -> None:
    paths = write(tmp_path, {"a": b"", "b": b""})

    outcome = isolation.run_worker(WORKER, paths, {"task": "inspect"}, folder=tmp_path, timeout_seconds=0.001)

    assert outcome.values == {}
    assert outcome.failures == dict.fromkeys("ab", "The measuring process took longer than 0.001 s.")


def test_a_worker_that_cannot_start_fails_every_file_with_its_last_words(tmp_path: Path) -> None:
    outcome = isolation.run_worker(
        "tfx_mobile.no_such_worker", write(tmp_path, {"a": b""}), {}, folder=tmp_path, timeout_seconds=600
    )

    assert "ended with code 1" in outcome.failures["a"]
    assert "No module named tfx_mobile.no_such_worker" in outcome.failures["a"]


def test_a_job_the_worker_does_not_understand_is_no_result(tmp_path: Path) -> None:
    outcome = isolation.run_worker(
        WORKER, write(tmp_path, {"a": b""}), {}, folder=tmp_path, timeout_seconds=600
    )

    reason = "The measuring process ended with code 1 (KeyError: 'task') while it ran this file."
    assert outcome.failures == {"a": reason}


def test_columns_come_back_as_they_were_saved(tiny_columns: dict[str, Any], tmp_path: Path) -> None:
    runner.save_columns(tmp_path / "rows.npz", tiny_columns)

    found = runner.load_columns(tmp_path / "rows.npz")

    assert list(found) == list(tiny_columns)
    assert {name: column.tolist() for name, column in found.items()} == {
        name: column.tolist() for name, column in tiny_columns.items()
    }


@pytest.fixture
def tiny_columns() -> dict[str, Any]:
    import numpy as np

    return {
        "a name/with: signs": np.array([1, 2**53 + 1], dtype=np.int64),
        "company": np.array([b"", b"Sun & Moon"], dtype=object),
        "grid": np.zeros((2, 3), np.float32),
    }
