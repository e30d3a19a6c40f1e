"""Running a worker in a fresh process, so that a file which crashes the interpreter takes nothing else along.

A worker is a module run as `python -m MODULE JOB.json`. It writes `result.json` beside the job, and before it
touches a file it notes which one, so that a crash or a timeout is blamed on that file and the rest is tried
again without it. Knows nothing of what a worker measures.
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tfx_mobile
from tfx_mobile.common.errors import TfxMobileError

JOB = "job.json"
RESULT = "result.json"
BUSY = "busy"
_BUSY_WIDTH = 8


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came back from a worker.

    Attributes:
      values: By name of the file, what the worker found.
      failures: By name of the file, why there is nothing: an error, a crash or a timeout.
    """

    values: dict[str, Any]
    failures: dict[str, str]


class BusyNote:
    """The worker's side of the blame: notes in a file which of the names it is busy with.

    Args:
      folder: Of the job.
    """

    def __init__(self, folder: Path) -> None:
        self._handle = os.open(folder / BUSY, os.O_WRONLY | os.O_CREAT)

    def write(self, index: int) -> None:
        """Notes the position of the name in the job, in one system call."""
        os.pwrite(self._handle, b"%*d" % (_BUSY_WIDTH, index), 0)


def run_worker(
    module: str, paths: Mapping[str, Path], job: Mapping[str, Any], *, folder: Path, timeout_seconds: float
) -> Outcome:
    """Runs the worker on the files, again without a file that crashed it, until the others are done.

    Args:
      module: Dotted name of the worker.
      paths: By name, the files; the worker takes them in this order.
      job: Other settings, as JSON values.
      folder: A work folder; each try gets a folder of its own below it, which is kept.
      timeout_seconds: For one try.

    Returns:
      Each name is either in `values` or in `failures`.
    """
    failures: dict[str, str] = {}
    while left := {name: path for name, path in paths.items() if name not in failures}:
        work = Path(tempfile.mkdtemp(dir=folder))
        content = {"models": [[name, str(path)] for name, path in left.items()], **job}
        (work / JOB).write_text(json.dumps(content))
        trouble = _run(module, work, timeout_seconds)
        if not trouble and (work / RESULT).exists():
            found = json.loads((work / RESULT).read_text())
            return Outcome(found["values"], failures | found["failures"])
        culprit = _busy_with(work, list(left))
        if culprit is None:
            # It died before it touched a file: no try without one of them would go better.
            return Outcome(
                {}, failures | dict.fromkeys(left, f"The measuring process {trouble or 'left no result'}.")
            )
        failures[culprit] = f"The measuring process {trouble or 'left no result'} while it ran this file."
    return Outcome({}, failures)


def _run(module: str, work: Path, timeout_seconds: float) -> str:
    """Runs one process; returns what went wrong, or the empty string."""
    source_root = str(Path(tfx_mobile.__file__).parents[1])
    search_path = os.pathsep.join(filter(None, (source_root, os.environ.get("PYTHONPATH", ""))))
    process = subprocess.Popen(
        [sys.executable, "-m", module, str(work / JOB)],
        env={**os.environ, "PYTHONPATH": search_path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        _, errors = process.communicate(timeout=timeout_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"took longer than {timeout_seconds:g} s"
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode == 0:
        return ""
    if process.returncode < 0:
        with contextlib.suppress(ValueError):
            return f"died with {signal.Signals(-process.returncode).name}"
        return f"died with signal {-process.returncode}"
    last = errors.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
    return f"ended with code {process.returncode} ({last[0][:300]})"


def _busy_with(work: Path, names: Sequence[str]) -> str | None:
    try:
        return names[int((work / BUSY).read_text())]
    except (OSError, ValueError, IndexError):
        return None


def main(argv: Sequence[str], measure: Any) -> int:
    """The main function of a worker.

    Args:
      argv: The command line: the path of the job.
      measure: Called with the job's content and a BusyNote; returns values and failures by name.

    Raises:
      TfxMobileError: The command line is not one path.
    """
    if len(argv) != 2:
        raise TfxMobileError(f"A worker takes one job file; got {argv[1:]}.")
    path = Path(argv[1])
    values, failures = measure(json.loads(path.read_text()), BusyNote(path.parent))
    temporary = path.parent / f".{RESULT}"
    temporary.write_text(json.dumps({"values": values, "failures": failures}))
    os.replace(temporary, path.parent / RESULT)
    return 0
