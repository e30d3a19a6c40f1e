"""Says which files an older or another TFLite runtime runs, in a Python environment of its own.

A phone's app may have a runtime that is years older than ours, and a file can hold an op, or a version of
one, that it does not know. The environment is the author's: `pip install tflite-runtime==2.14.0 'numpy<2'` in
a Python 3.10 or 3.11, say; runtime_probe.py runs there. Imports neither TFX nor TensorFlow.
"""

import dataclasses
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.worker import describe_end, last_words
from tfx_mobile.quantizer import core, runtime_probe
from tfx_mobile.quantizer.config import Runtime
from tfx_mobile.quantizer.core import FloatArray

_START_SECONDS = 300.0  # TensorFlow's import, cold
_REASON_LENGTH = 300
_NO_VERSION = re.compile(r"Didn't find op for builtin opcode '(\w+)' version '(\d+)'")
_NO_OP = re.compile(r"Op builtin_code out of range: (\d+)")


@dataclasses.dataclass(frozen=True)
class RunsOn:
    """How a file did on a runtime.

    Attributes:
      failure: Why it does not run there, in one line; empty when it does.
      max_abs: Largest absolute difference from our own runtime's predictions, label units; None when there is
        nothing to compare.
    """

    failure: str
    max_abs: float | None


def check_runtime(runtime: Runtime) -> None:
    """Checks what is cheap to check, when a pipeline is built; the pipeline may run on another machine.

    Raises:
      ConfigError: There is no such interpreter, or it cannot be executed.
    """
    if shutil.which(runtime.python) is None:
        raise ConfigError(
            f"The python of runtime {runtime.name!r} must be an interpreter that exists; "
            f"got {runtime.python!r}. Make its environment first."
        )


def version_of(runtime: Runtime) -> str:
    """Returns what the runtime calls itself, for example 'tflite_runtime 2.14.0, Python 3.10.14'.

    Raises:
      ConfigError: There is no such interpreter, or none of the runtimes can be imported there.
    """
    with tempfile.TemporaryDirectory(prefix="tfx-mobile-runtime-") as folder:
        return _Probe(runtime, Path(folder), {}, 1.0).version()


def runs_on(
    runtime: Runtime,
    files: Mapping[str, Path],
    rows: Mapping[str, npt.NDArray[Any]],
    wanted: Mapping[str, FloatArray],
    *,
    num_sampled: int | None = None,
    timeout_seconds: float = 120.0,
) -> dict[str, RunsOn]:
    """Runs files on a runtime and compares them with what our own runtime predicts.

    All files run in one process of that Python; one that takes it down costs that file, and the others go on
    in another process.

    Args:
      runtime: Where.
      files: TFLite files by name, with the signature `serving_default`.
      rows: Features by name, shape (rows, ...), as `TFLiteModel.predict` takes them.
      wanted: By name of a file, our own runtime's predictions for the rows, shape (rows, outputs). A file may
        not be further away than quantisation excuses: `core.compare_kernels`.
      num_sampled: As for `core.compare`: the rows from this one on are boundary rows.
      timeout_seconds: For one file, > 0.

    Returns:
      For each file how it did.

    Raises:
      ConfigError: There is no such interpreter, or none of the runtimes can be imported there.
      DataError: There is no sampled row.
    """
    with tempfile.TemporaryDirectory(prefix="tfx-mobile-runtime-") as folder:
        found = _Probe(runtime, Path(folder), rows, timeout_seconds).predict(list(files.values()))
    return {
        name: _judge(runtime, each, wanted[name], num_sampled)
        for name, each in zip(files, found, strict=True)
    }


def _judge(runtime: Runtime, found: FloatArray | str, wanted: FloatArray, num_sampled: int | None) -> RunsOn:
    if isinstance(found, str):
        return RunsOn(found, None)
    count = len(wanted) if num_sampled is None else num_sampled
    difference = core.compare(found, wanted, exact=False, num_sampled=count)
    failure = difference.failure.replace("the Keras model", "our own runtime")
    own = (runtime.name, "our own runtime")
    failure = failure or core.compare_kernels(found[:count], wanted[:count], wanted[:count], own)
    max_abs = max(difference.max_abs, difference.max_abs_boundary or 0.0)
    return RunsOn(failure, None if difference.failure else max_abs)


class _Probe:
    """The script at work in a folder.

    Args:
      runtime: Whose Python.
      folder: Empty.
      rows: Features by name.
      timeout_seconds: For one file.
    """

    def __init__(
        self,
        runtime: Runtime,
        folder: Path,
        rows: Mapping[str, npt.NDArray[Any]],
        timeout_seconds: float,
    ) -> None:
        check_runtime(runtime)
        self._runtime, self._folder, self._timeout_seconds = runtime, folder, timeout_seconds
        arrays: dict[str, npt.NDArray[Any]] = {}
        self._columns = []
        for i, (name, values) in enumerate(rows.items()):
            is_text = values.dtype.kind in "SUO"
            self._columns.append({"name": name, "is_text": is_text, "shape": list(values.shape)})
            arrays[f"c{i}"] = values
            if is_text:  # NumPy would pickle them, or take zeros off their ends
                texts = [each.encode() if isinstance(each, str) else bytes(each) for each in values.ravel()]
                arrays[f"c{i}"] = np.frombuffer(b"".join(texts), np.uint8)
                arrays[f"c{i}_lengths"] = np.array([len(text) for text in texts], np.int64)
        np.savez(folder / "rows.npz", **arrays)

    def version(self) -> str:
        self._run([])
        return (self._folder / "version.txt").read_text()

    def predict(self, paths: list[Path]) -> list[FloatArray | str]:
        """Returns the predictions of each file, or why there are none."""
        found: dict[int, FloatArray | str] = {}
        while left := [(i, path) for i, path in enumerate(paths) if i not in found]:
            trouble = self._run(left)
            for i, _ in left:
                if (result := self._folder / f"{i}.npy").exists():
                    found[i] = np.load(result)
                elif (reason := self._folder / f"{i}.failure").exists():
                    found[i] = f"{self._runtime.name} {_refusal(reason.read_text())}"
                elif (self._folder / f"{i}.started").exists():
                    found[i] = f"{self._runtime.name} {trouble}"
        return [found[i] for i in range(len(paths))]

    def _run(self, files: list[tuple[int, Path]]) -> str:
        """Runs one process; returns how it ended, if not well. At least one of the files was started."""
        job = {
            "columns": self._columns,
            "files": [(i, str(path.absolute())) for i, path in files],
            "timeout_seconds": self._timeout_seconds,
        }
        (self._folder / "job.json").write_text(json.dumps(job))
        # -I: our PYTHONPATH is for our Python
        command = [self._runtime.python, "-I", runtime_probe.__file__, str(self._folder)]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=_START_SECONDS + len(files) * self._timeout_seconds,
                check=False,
            )
            errors, how = done.stderr.decode(errors="replace"), describe_end(done.returncode)
        except subprocess.TimeoutExpired as error:
            errors, how = (error.stderr or b"").decode(errors="replace"), "had to be killed"
        except OSError as error:
            errors, how = str(error), "cannot be executed"
        began = (self._folder / "version.txt").exists()
        if files:
            began = any((self._folder / f"{i}.started").exists() for i, _ in files)
        if not began:
            raise ConfigError(
                f"Runtime {self._runtime.name!r} must be able to import numpy and one of "
                f"{', '.join(runtime_probe.RUNTIMES)} in {self._runtime.python}; it {how} "
                f"({last_words(errors) or 'no message'})."
            )
        if "Timeout (" in errors:
            return f"takes longer than {self._timeout_seconds:g} s with the file"
        reason = last_words(errors)
        return f"{how} with the file" + (f" ({reason})" if reason else "")


def _refusal(message: str) -> str:
    """Returns the reason in one line, with the op that is too new for the runtime."""
    if known := _NO_VERSION.search(message):
        return f"has no op {known[1]} of version {known[2]}: it is too old for the file"
    if unknown := _NO_OP.search(message):
        return f"has no op {_op_name(int(unknown[1]))}: it is too old for the file"
    return f"refuses the file: {' '.join(message.split())[:_REASON_LENGTH]}"


def _op_name(code: int) -> str:
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}
    return str(names.get(code, f"number {code}"))
