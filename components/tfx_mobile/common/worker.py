"""Runs a function in a Python process of its own, and gives back what it returns or raises.

For what a process can have only one of: TensorFlow's threads, a limit of memory, the choice of Keras, ops
that are deterministic; and for code that may take its process down. Arguments and results are JSON. The
process imports what its parent can import, but not the parent's main script; it writes to the parent's
standard output and error as it goes; it ends when its parent does. Knows nothing of what is run, nor of
TensorFlow.
"""

import contextlib
import faulthandler
import importlib
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tfx_mobile.common.errors import ConfigError, DataError, RegistryError

_JOB = "job.json"
_RESULT = "result.json"
_MIB = 2**20
_GRACE_SECONDS = 5.0  # between a polite and an impolite end
_PARENT_CHECK_SECONDS = 1.0
_CODE_WITHOUT_PARENT = 70
# Not `-m`, which has the working folder before the standard library, and this module a second time.
_START = (
    "import sys; sys.path[:] = sys.argv[2:]; from tfx_mobile.common import worker; worker.main(sys.argv[1])"
)
_KINDS = {kind.__name__: kind for kind in (ConfigError, DataError, RegistryError)}
_OUT_OF_MEMORY = ("MemoryError", "ResourceExhaustedError")  # Python and NumPy; TensorFlow
_LOGGER = logging.getLogger(__name__)


class WorkerError(RuntimeError):
    """A worker died, or raised an error that is not one of ours; then its traceback is in the message."""


def run(
    function: str,
    arguments: Mapping[str, Any],
    *,
    environment: Mapping[str, str] | None = None,
    num_threads: int = 0,
    max_memory_mib: int = 0,
) -> Any:
    """Calls a function in a fresh process and returns its value.

    Hashes are not randomised there (`PYTHONHASHSEED` is 0), so that sets have the same order in every run. An
    interrupt (Ctrl-C) ends the process before it goes on.

    Args:
      function: Dotted name, 'module.function' or 'module:function'; it must be importable here.
      arguments: Its keyword arguments, as JSON values: a tuple arrives as a list.
      environment: Added to this process's environment variables.
      num_threads: Of each of TensorFlow's two pools, and of OpenMP and OpenBLAS; 0 leaves it to them.
      max_memory_mib: The process is refused more private memory than this (on Linux); 0 is no limit.
        TensorFlow itself needs about 500.

    Returns:
      What the function returned, through JSON: keys are strings, tuples are lists.

    Raises:
      ConfigError: The function raised it, or needs more memory than `max_memory_mib`. Its cause is a
        WorkerError with the worker's traceback.
      DataError: The function raised it; likewise.
      RegistryError: The function raised it; likewise.
      WorkerError: The function raised something else, cannot be imported, or its process died.
    """
    with tempfile.TemporaryDirectory(prefix="tfx-mobile-worker-") as folder:
        job = {
            "function": function,
            "arguments": dict(arguments),
            "max_memory_mib": max_memory_mib,
            "absl_verbosity": _absl_verbosity(),
        }
        Path(folder, _JOB).write_text(json.dumps(job))
        code = _run_process(folder, _environment(num_threads) | dict(environment or {}))
        try:
            result = json.loads(Path(folder, _RESULT).read_bytes())
        except FileNotFoundError:
            raise WorkerError(_death(function, code, max_memory_mib)) from None
    if code != 0:
        _LOGGER.warning("The worker of %s %s after it was done.", function, _end(code))
    if "value" in result:
        return result["value"]
    trouble = WorkerError(f"{function} failed in its worker process.\n{result['traceback']}")
    if result["out_of_memory"] and max_memory_mib:
        raise ConfigError(
            f"{function} must do with max_memory_mib = {max_memory_mib}; got {result['out_of_memory']}. "
            "Raise max_memory_mib, or use less: smaller batches, a smaller cache, a smaller model."
        ) from trouble
    if result["kind"] in _KINDS:
        raise _KINDS[result["kind"]](result["message"]) from trouble
    raise trouble


def main(folder: str) -> None:
    """What the worker process does; see `run`.

    Args:
      folder: Has the job; the result goes there.
    """
    faulthandler.enable()
    _end_with_parent(folder)
    # Ctrl-C reaches the parent too, which decides. SIG_IGN would be inherited by what is started from here.
    signal.signal(signal.SIGINT, lambda *_: None)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a pipe's reader wants it live
    job = json.loads(Path(folder, _JOB).read_text())
    if job["max_memory_mib"]:
        _limit_memory(job["max_memory_mib"] * _MIB)
    try:
        if job["absl_verbosity"] is not None:
            importlib.import_module("absl.logging").set_verbosity(job["absl_verbosity"])
        module, _, name = job["function"].replace(":", ".").rpartition(".")
        value = getattr(importlib.import_module(module), name)(**job["arguments"])
        result = json.dumps({"value": value})
    except BaseException as error:  # handed to the parent, a SystemExit too
        kinds = [kind.__name__ for kind in type(error).__mro__]
        memory = any(kind in kinds for kind in _OUT_OF_MEMORY)
        last_line = traceback.format_exception_only(type(error), error)[-1].strip()
        result = json.dumps(
            {
                "kind": next((kind for kind in kinds if _KINDS.get(kind) in type(error).__mro__), ""),
                "message": str(error),
                "out_of_memory": last_line if memory else "",
                "traceback": traceback.format_exc().rstrip(),
            }
        )
    unfinished = Path(folder, f".{_RESULT}")
    unfinished.write_text(result)
    os.replace(unfinished, Path(folder, _RESULT))


def _run_process(folder: str, environment: Mapping[str, str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # none, or closed
            stream.flush()
    path = [os.path.abspath(entry) for entry in sys.path]  # an empty entry is the working folder
    process = subprocess.Popen(
        [sys.executable, "-c", _START, folder, *path],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,  # nothing is written: its end tells the worker that this process is gone
    )
    with _ended(process):
        return process.wait()


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ends the process, if the block did not wait for it."""
    try:
        yield
    except BaseException:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
        raise
    finally:
        process.kill()
        process.wait()
        if process.stdin:
            process.stdin.close()


def _environment(num_threads: int) -> dict[str, str]:
    found = {"PYTHONHASHSEED": "0"}
    if num_threads:
        names = (
            "TF_NUM_INTRAOP_THREADS",
            "TF_NUM_INTEROP_THREADS",
            "OMP_NUM_THREADS",
            "OPENBLAS_NUM_THREADS",
        )
        found |= dict.fromkeys(names, str(num_threads))
    return found


def _absl_verbosity() -> int | None:
    """Returns absl's level, None if nothing here has imported absl."""
    absl_logging = sys.modules.get("absl.logging")
    return None if absl_logging is None else int(absl_logging.get_verbosity())


def _end_with_parent(folder: str) -> None:
    """Ends this process soon after its parent, also one that was killed."""
    pipe, parent = os.dup(0), os.getppid()
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)

    def watch() -> None:
        # The other end may be open in a process that the parent forked: hence the second look.
        while not select.select([pipe], [], [], _PARENT_CHECK_SECONDS)[0] and os.getppid() == parent:
            pass
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(_CODE_WITHOUT_PARENT)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def _limit_memory(limit_bytes: int) -> None:
    import resource  # not on Windows, where there is no limit to be had

    # RLIMIT_AS would count what TensorFlow only reserves and maps: four times what it uses.
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _death(function: str, code: int, max_memory_mib: int) -> str:
    advice = "What it wrote last is in the log."
    if code < 0:
        limit = (
            f"the limit is max_memory_mib = {max_memory_mib}"
            if max_memory_mib
            else "there is no max_memory_mib"
        )
        advice = (
            f"Memory may be the reason ({limit}): smaller batches and a smaller cache need less. {advice}"
        )
    return f"{function} must return; got a worker process that {_end(code)}. {advice}"


def _end(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    with contextlib.suppress(ValueError):
        return f"died with {signal.Signals(-code).name}"
    return f"died with signal {-code}"
