"""How often the latency gate is wrong: a file against itself, and against one with 10 % more work.

`gate` yields a table: of so many whole decisions, as an evaluation takes them, how many refused the same net
with another description, how many found the slower one, how many differ from most others. Idle, and with
every core loaded by something else. `tool` compares our medians with those of LiteRT's own benchmark. run.py
prints the tables.
"""

import contextlib
import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pruning import Table

LAYERS, WIDTH = 30, 96
"""30 equal layers take about 60 us a call; 33 are 10 % more work in everything that a call does."""

TOOL = "ai_edge_litert.tools.benchmark_litert_model"  # prints 0.01 ms steps: only for nets beyond 1 ms
MORE_WORK = 1.1
MAX_RATIO = 1.05
RUNS = 10

# The process is the unit of sampling: short ones, or 200 runs would take an hour.
SECONDS_PER_PROCESS = 0.3


def gate(num_runs: int = RUNS) -> Iterator[Table]:
    """Yields what the gate decides in `num_runs` runs, idle and loaded."""
    from tfx_mobile.size_latency_evaluator.config import LatencyConfig

    config = LatencyConfig(seconds_per_process=SECONDS_PER_PROCESS, measure_memory=False, max_seconds=120.0)
    with tempfile.TemporaryDirectory() as folder:
        paths = _write_nets(Path(folder))
        yield _work(paths, Path(folder))
        for what, load in (("idle", contextlib.nullcontext()), ("every core loaded", _loaded())):
            with load:
                begin = time.perf_counter()
                runs = [_decide(paths, config) for _ in range(num_runs)]
                seconds = (time.perf_counter() - begin) / num_runs
            yield _decisions(f"{what}, load {os.getloadavg()[0]:.1f}", runs, seconds)


def tool(num_runs: int = 3) -> Iterator[Table]:
    """Yields medians of a large net, ours and those of LiteRT's own benchmark, in turns."""
    from tfx_mobile.size_latency_evaluator import latency
    from tfx_mobile.size_latency_evaluator.config import LatencyConfig

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.tflite"
        path.write_bytes(_net(8, 1024))
        ours, theirs = [], []
        for _ in range(num_runs):
            found = latency.measure(
                {"a": path},
                _rows(1024),
                LatencyConfig(processes=(3,), measure_memory=False),
                always=(),
                still_open=lambda _: set(),
            )
            ours += [sample.p50_ns / 1e3 for sample in found.samples["a"]]
            theirs += [_tool_p50_us(path) for _ in range(3)]
    middle = statistics.median(ours), statistics.median(theirs)
    yield Table(
        "Median of one call of 8 dense layers, 1024 wide, one thread",
        ("who", "median us", "lowest", "highest", "ratio"),
        [
            (who, f"{value:.0f}", f"{min(each):.0f}", f"{max(each):.0f}", f"{value / middle[1]:.3f}")
            for who, value, each in zip(("tfx-mobile", TOOL), middle, (ours, theirs), strict=True)
        ],
    )


@dataclasses.dataclass(frozen=True)
class _Run:
    """One decision: by candidate, whether it passes; ratios of its processes; processes it took."""

    passes: Mapping[str, bool]
    ratios: Mapping[str, tuple[float, ...]]
    processes: int


def _decide(paths: Mapping[str, Path], config: Any) -> _Run:
    from tfx_mobile.size_latency_evaluator import core, latency
    from tfx_mobile.size_latency_evaluator.config import LatencyGate
    from tfx_mobile.size_latency_evaluator.core import Measured, Rivals
    from tfx_mobile.size_latency_evaluator.evaluation import Status

    limit = LatencyGate(max_ratio=MAX_RATIO)
    looks = len(config.processes)

    def measured(samples: latency.Samples) -> dict[str, Measured]:
        return {name: Measured(name, samples=taken, looks=looks) for name, taken in samples.items()}

    def still_open(samples: latency.Samples) -> set[str]:
        now = measured(samples)
        return {
            name
            for name in now
            if name != "net" and core.is_latency_open([limit], now[name], Rivals(now["net"]))
        }

    found = latency.measure(paths, _rows(WIDTH), config, always=["net"], still_open=still_open)
    if found.failures:
        raise RuntimeError(f"Every file must run; got {found.failures}.")
    last = measured(found.samples)
    candidates = [name for name in last if name != "net"]
    return _Run(
        {
            name: core.judge(limit, last[name], Rivals(last["net"])).status is Status.PASS
            for name in candidates
        },
        {name: core.process_ratios(last[name], last["net"]) for name in candidates},
        found.machine.processes,
    )


def _decisions(what: str, runs: list[_Run], seconds: float) -> Table:
    lines = []
    for name, wanted in (("same net, other description", True), ("10 % more work", False)):
        passed = sum(run.passes[name] for run in runs)
        wrong = len(runs) - passed if wanted else passed
        logs = [math.log(ratio) for run in runs for ratio in run.ratios[name]]
        lines.append(
            (
                name,
                f"{wrong} of {len(runs)} ({'refused' if wanted else 'not found'})",
                f"{min(passed, len(runs) - passed)} of {len(runs)}",
                f"{math.exp(statistics.fmean(logs)):.4f}",
                f"{100 * statistics.stdev(logs):.2f} %",
                f"{100 * statistics.stdev(logs) / math.sqrt(len(logs)):.2f} %",
            )
        )
    processes = statistics.fmean(run.processes for run in runs)
    return Table(
        f"Latency gate, ratio <= {MAX_RATIO}: {len(runs)} runs, {what}; {processes:.1f} processes and "
        f"{seconds:.1f} s a run",
        ("file", "wrong", "flips", "mean ratio", "spread by process", "error of the mean"),
        lines,
    )


def _work(paths: Mapping[str, Path], folder: Path) -> Table:
    """Returns how much more work the slower file is, by callgrind where it is installed."""
    import shutil

    from tfx_mobile.size_latency_evaluator import callgrind, runner

    header = ("file", "bytes", "instructions of one call", "ratio")
    title = f"{LAYERS} dense layers, {WIDTH} wide, against {round(LAYERS * MORE_WORK)}"
    if shutil.which("valgrind") is None:
        return Table(
            f"{title}; valgrind is not installed",
            header[:2],
            [(name, str(path.stat().st_size)) for name, path in paths.items()],
        )
    rows = folder / "rows.npz"
    runner.save_columns(rows, _rows(WIDTH))
    counts = {name: callgrind.instructions(path, rows, timeout_seconds=600) for name, path in paths.items()}
    return Table(
        title,
        header,
        [
            (name, str(paths[name].stat().st_size), f"{count:,}", f"{count / counts['net']:.4f}")
            for name, count in counts.items()
        ],
    )


@contextlib.contextmanager
def _loaded() -> Iterator[None]:
    """Keeps every core busy with something else, in processes of normal priority."""
    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: sum(range(10000))"])
        for _ in range(os.cpu_count() or 1)
    ]
    try:
        time.sleep(1.0)
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def _write_nets(folder: Path) -> dict[str, Path]:
    from tfx_mobile.common import tflite_file

    net = _net(LAYERS, WIDTH)
    model = tflite_file.to_rewrite(net)
    contents = {
        "net": net,
        "same net, other description": tflite_file.write(
            model.replace(description=b"The same net, other bytes.")
        ),
        "10 % more work": _net(round(LAYERS * MORE_WORK), WIDTH),
    }
    paths = {name: folder / f"{position}.tflite" for position, name in enumerate(contents)}
    for name, path in paths.items():
        path.write_bytes(contents[name])
    return paths


def _net(num_layers: int, width: int) -> bytes:
    """Returns the file of equal dense layers with ReLU, `x` in."""
    import tensorflow as tf
    import tf_keras

    tf_keras.utils.set_random_seed(1)
    x = tf_keras.layers.Input((width,), name="x")
    y = x
    for _ in range(num_layers):
        y = tf_keras.layers.Dense(width, activation="relu", kernel_initializer="he_normal")(y)
    model = tf_keras.Model(x, y)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(model, folder)
        return bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())


def _rows(width: int) -> dict[str, Any]:
    return {"x": np.random.default_rng(1).normal(size=(8, width)).astype(np.float32)}


def _tool_p50_us(path: Path) -> float:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", TOOL, f"--model={path}", f"--result_json={result}"]
        command += ["--num_runs=300", "--warmup_runs=20", "--num_threads=1"]
        subprocess.run(command, check=True, capture_output=True)
        return 1e3 * float(json.loads(result.read_text())["latency"]["median_ms"])
