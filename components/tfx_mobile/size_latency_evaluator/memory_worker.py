"""The fresh process that looks at the memory one TFLite file takes. Needs what runner.py needs.

The heap comes from glibc's own books (`mallinfo2`, glibc 2.33 and newer). Unlike resident memory they are
equal to the byte in every process, since each has the same addresses: the process starts itself again with
ADDR_NO_RANDOMIZE. Where Linux does not let it (a seccomp profile, as of some containers), they are equal but
for what depends on addresses: 0.05 %, now and then 0.4 %. LiteRT's Python interpreter does not say how large
its arena is, so that is what its own kernels' `allocate_tensors` takes from the heap; XNNPACK, which has
memory of its own, is in the heap's figure only.
"""

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

from tfx_mobile.size_latency_evaluator import isolation, runner

_CALLS = 3
_ASK_PERSONALITY, _ADDR_NO_RANDOMIZE = 0xFFFFFFFF, 0x0040000  # personality(2)


class _Mallinfo2(ctypes.Structure):
    """`struct mallinfo2`; source: mallinfo(3)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


def measure(job: dict[str, Any], busy: isolation.BusyNote) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns `heap_bytes`, `arena_bytes` and `process_bytes` of the job's one model, None where unknown.

    The job has `rows` (by name, the path of what `runner.save_columns` wrote).
    """
    ((name, path),) = job["models"]
    busy.write(0)
    try:
        rows = runner.encode(Path(path), runner.load_columns(Path(job["rows"][name])))
        heap_bytes = _heap_of_calls(Path(path), rows)
        process_bytes = _peak_resident_bytes()
        arena_bytes = _heap_of_allocation(Path(path))
    except runner.ERRORS as error:
        return {}, {name: str(error).strip()}
    return {name: {"heap_bytes": heap_bytes, "arena_bytes": arena_bytes, "process_bytes": process_bytes}}, {}


def heap_in_use_bytes() -> int | None:
    """Returns the bytes that the C library has given out, mapped ones included; None where it cannot say."""
    try:
        function = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError):
        return None
    function.restype = _Mallinfo2
    found = function()
    return int(found.uordblks) + int(found.hblkhd)


def _heap_of_calls(path: Path, rows: runner.Rows) -> int | None:
    before = heap_in_use_bytes()
    if before is None:
        return None
    most = 0
    interpreter = runner.load(path)
    interpreter.allocate_tensors()
    for turn in range(_CALLS):
        most = max(most, (heap_in_use_bytes() or 0) - before)
        runner.set_row(interpreter, rows[turn % len(rows)])
        interpreter.invoke()
    return max(most, (heap_in_use_bytes() or 0) - before)


def _heap_of_allocation(path: Path) -> int | None:
    interpreter = runner.load(path, default_kernels=False)
    before = heap_in_use_bytes()
    interpreter.allocate_tensors()
    after = heap_in_use_bytes()
    return None if before is None or after is None else after - before


def _peak_resident_bytes() -> int | None:
    """Returns the most memory this process ever had; `ru_maxrss` would count its parent's before `exec`."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def _without_random_addresses() -> None:
    """Starts this process again at the same addresses as every other one, where Linux can."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "personality"):
        return
    current = libc.personality(_ASK_PERSONALITY)
    if current < 0 or current & _ADDR_NO_RANDOMIZE or libc.personality(current | _ADDR_NO_RANDOMIZE) < 0:
        return
    if libc.personality(_ASK_PERSONALITY) & _ADDR_NO_RANDOMIZE:
        os.execv(sys.executable, sys.orig_argv)


if __name__ == "__main__":
    _without_random_addresses()
    sys.exit(isolation.main(sys.argv, measure))
