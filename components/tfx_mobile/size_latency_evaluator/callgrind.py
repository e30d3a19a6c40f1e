"""Instructions of one call, counted by valgrind's callgrind: a second opinion that no load disturbs.

The file is loaded and called in two processes, once with few and once with more calls; the difference over
the difference of calls is one call's. Counts this machine's instructions, not a phone's, and not time.

Source: callgrind's manual, "summary" in the profile data format.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import tfx_mobile
from tfx_mobile.common.errors import ConfigError, DataError

_WORKER = "tfx_mobile.size_latency_evaluator.call_worker"
_FEW, _MORE = 2, 12  # the first call differs: it is in both


def check_available() -> None:
    """Makes sure that callgrind can be run.

    Raises:
      ConfigError: It is not installed.
    """
    if shutil.which("valgrind") is None:
        raise ConfigError(
            "LatencyConfig.count_instructions needs valgrind on this machine; it is not installed. "
            "Install it, or leave count_instructions False."
        )


def instructions(path: Path, rows_path: Path, *, timeout_seconds: float) -> int:
    """Returns the instructions of one call of a TFLite file on its first row.

    Args:
      path: Of the file.
      rows_path: What `runner.save_columns` wrote.
      timeout_seconds: For each of two processes; one takes about ten seconds and more for large files.

    Raises:
      ConfigError: valgrind is not installed.
      DataError: The file cannot be run under it, or not within the time.
    """
    check_available()
    few, more = (_count(path, rows_path, calls, timeout_seconds) for calls in (_FEW, _MORE))
    return round((more - few) / (_MORE - _FEW))


def _count(path: Path, rows_path: Path, num_calls: int, timeout_seconds: float) -> int:
    source_root = str(Path(tfx_mobile.__file__).parents[1])
    search_path = os.pathsep.join(filter(None, (source_root, os.environ.get("PYTHONPATH", ""))))
    with tempfile.TemporaryDirectory(prefix="tfx_mobile_callgrind_") as folder:
        profile = Path(folder) / "profile"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}"]
        command += [sys.executable, "-m", _WORKER, str(path), str(rows_path), str(num_calls)]
        try:
            done = subprocess.run(
                command,
                env={**os.environ, "PYTHONPATH": search_path, "PYTHONHASHSEED": "0"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise DataError(
                f"Counting {num_calls} calls must end within {timeout_seconds:g} s; it did not."
            ) from error
        found = (
            re.search(r"^(?:summary|totals): (\d+)", profile.read_text(), re.M) if profile.exists() else None
        )
        if done.returncode or not found:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise DataError(
                f"callgrind must run the file; it ended with code {done.returncode}: {last[0][:300]}"
            )
        return int(found[1])
