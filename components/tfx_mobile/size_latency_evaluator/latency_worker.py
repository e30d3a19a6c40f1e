"""The fresh process that times TFLite files, interleaved with each other. Needs what runner.py needs.

All files are loaded, each is called with the inputs of a real row until it is warm, then they take turns in
short blocks, in an order that turns too, until the time is up. Only the synchronous `invoke` is inside the
clock: setting inputs is not. Compares nothing: that is core.py's work.
"""

import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tfx_mobile.size_latency_evaluator import isolation, runner

_BLOCK_NS = 400_000
_MAX_BLOCK_CALLS = 100
_MIN_BLOCK_CALLS = 5


class _Timed:
    """One loaded file with its rows and times.

    The file is loaded once before, to encode its rows; what a process does once (delegates, kernels) has then
    been done and is in no file's figures.
    """

    def __init__(self, path: Path, columns: dict[str, Any], warmup_calls: int) -> None:
        self.rows = runner.encode(path, columns)
        begin = time.perf_counter_ns()
        self.interpreter = runner.load(path)
        self.interpreter.allocate_tensors()
        self.init_ns = time.perf_counter_ns() - begin
        self.turn = 0
        self.times: list[int] = []
        self.rounds: list[float] = []
        self.next_row()
        begin = time.perf_counter_ns()
        self.interpreter.invoke()
        self.first_call_ns = time.perf_counter_ns() - begin
        warm = sorted(self.block(warmup_calls))
        calls = _BLOCK_NS // max(warm[len(warm) // 2], 1)
        self.block_calls = min(max(calls, _MIN_BLOCK_CALLS), _MAX_BLOCK_CALLS)

    def next_row(self) -> None:
        """Sets the inputs to the next of the rows, outside the clock."""
        runner.set_row(self.interpreter, self.rows[self.turn % len(self.rows)])
        self.turn += 1

    def block(self, calls: int) -> list[int]:
        """Returns the nanoseconds of each of so many calls on the next row."""
        self.next_row()
        invoke, clock = self.interpreter.invoke, time.perf_counter_ns
        times = []
        for _ in range(calls):
            begin = clock()
            invoke()
            times.append(clock() - begin)
        return times

    def take_turn(self) -> None:
        """Keeps the times of one block, and their median for the round."""
        times = self.block(self.block_calls)
        self.times += times
        self.rounds.append(statistics.median(times))


def measure(job: dict[str, Any], busy: isolation.BusyNote) -> tuple[dict[str, Any], dict[str, str]]:
    """Times all models of the job; an error of one model is its own.

    The job has `rows` (by name, the path of what `runner.save_columns` wrote), `seconds`, `warmup_calls`,
    `min_calls` and `quantiles`.
    """
    pinned = runner.pin()
    timed: dict[str, _Timed] = {}
    failures: dict[str, str] = {}
    positions = {name: index for index, (name, _) in enumerate(job["models"])}
    for name, path in job["models"]:
        busy.write(positions[name])
        try:
            columns = runner.load_columns(Path(job["rows"][name]))
            timed[name] = _Timed(Path(path), columns, int(job["warmup_calls"]))
        except runner.ERRORS as error:
            failures[name] = str(error).strip()
    order = list(timed)
    stop = time.monotonic() + float(job["seconds"])
    while order and (
        time.monotonic() < stop or min(len(timed[name].times) for name in order) < int(job["min_calls"])
    ):
        for name in list(order):
            busy.write(positions[name])
            try:
                timed[name].take_turn()
            except runner.ERRORS as error:
                failures[name] = str(error).strip()
                order.remove(name)
        order = order[1:] + order[:1]
    quantiles = [float(share) for share in job["quantiles"]]
    return {name: _figures(timed[name], quantiles) | {"pinned": pinned} for name in order}, failures


def _figures(timed: _Timed, quantiles: list[float]) -> dict[str, Any]:
    times = np.asarray(timed.times, dtype=np.float64)
    p50, p90 = np.quantile(times, [0.5, 0.9])
    return {
        "p50_ns": float(p50),
        "p90_ns": float(p90),
        "quantiles_ns": [float(value) for value in np.quantile(times, quantiles)],
        "init_ns": float(timed.init_ns),
        "first_call_ns": float(timed.first_call_ns),
        "calls": len(timed.times),
        "rounds_ns": timed.rounds,
    }


if __name__ == "__main__":
    sys.exit(isolation.main(sys.argv, measure))
