"""Reduces and evaluates the same rows on Beam's engines: in one process, in two, on Flink with two workers.

Each run is a process of its own, which is this file with the component, the engine and a folder:

    python benchmarks/beam.py reducer flink FOLDER

Rows are in gzip TFRecord files of 5,000; ten times the rows are ten times the files (hard links of the same
one, so that making them costs nothing). A worker's memory is that of its process and of those it has started;
Flink's own (JVM) comes on top. What is shuffled is what Flink itself counts: bytes that a task has written
for others, asked for four times a second; what is written just before the end of a job may be missed.
"""

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # before anything imports TensorFlow
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import contextlib
import dataclasses
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import evaluation
import reduction

_ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_ROOT), str(_ROOT / "tests" / "e2e")]  # its flink.py serves here, too

ROWS_PER_FILE = 5_000
FILES = 4
WIDTH = 64  # of the reducer's rows
HIDDEN = 256  # of the evaluator's net
_MIB = 2**20
_Written = dict[tuple[str, str, bool], int]


@dataclasses.dataclass(frozen=True)
class Run:
    """What one process measured.

    Attributes:
      seconds: Wall time; without imports and, on Flink, the start of the job server.
      worker_bytes: Largest resident memory of any one worker, with the processes it has started.
      shuffled_bytes: What tasks have written for other tasks, on any machine; None where nobody counts.
      handed_bytes: What each task has written for one other in the same slot; None where nobody counts.
      result: Numbers to be compared: the first component's loadings, or metrics.
    """

    seconds: float
    worker_bytes: int
    shuffled_bytes: int | None
    handed_bytes: int | None
    result: list[float]


@dataclasses.dataclass(frozen=True)
class Table:
    """What a section prints."""

    title: str
    header: tuple[str, ...]
    lines: list[tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Engine:
    """Where a pipeline runs.

    Attributes:
      arguments: Beam's.
      workers: Returns the process ids of all workers that have ever started.
      written: Returns what Flink has counted, by job, vertex and whether it is shuffled; None without Flink.
    """

    arguments: list[str]
    workers: Callable[[], list[int]]
    written: Callable[[], _Written] | None = None


def scale(largest: int = 10) -> Iterator[Table]:
    """Yields the time, memory and shuffled bytes of each engine for rows x1, x10, ... up to `largest`."""
    header = (
        "rows",
        "engine",
        "s",
        "rows/s",
        "MiB of a worker",
        "bytes shuffled per row",
        "handed on in a slot",
        "results differ by",
    )
    for component, (title, write, _) in COMPONENTS.items():
        lines: list[tuple[str, ...]] = []
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            first_file = write(folder)
            times = 1
            while times <= largest:
                for number in range(len(list(first_file.parent.iterdir())), FILES * times):
                    os.link(first_file, first_file.with_name(f"more-{number:05d}.gz"))
                lines += _lines(component, folder, ROWS_PER_FILE * FILES * times)
                times *= 10
        yield Table(title, header, lines)


def write_for_reducer(folder: Path) -> Path:
    """Writes a file of rows and a transform graph; returns the file."""
    reduction.write_rows(folder, rows=ROWS_PER_FILE, width=WIDTH, layout="vector")
    (found,) = (folder / "examples" / "Split-train").iterdir()
    return found


def write_for_evaluator(folder: Path) -> Path:
    """Writes a file of rows and a net; returns the file."""
    evaluation.write_file(folder, HIDDEN)
    evaluation.write_rows(folder, ROWS_PER_FILE)
    return folder / f"rows-{ROWS_PER_FILE}" / "data.gz"


def reduce(arguments: Sequence[str], folder: Path, target: Path) -> list[float]:
    """Reduces the rows; returns the first component's loadings."""
    reduction.BEAM_ARGS[:] = arguments
    reduction.reduce_by_tfx_mobile(folder, target)
    report = json.loads((target / "reduction" / "reduction.json").read_text())
    return _first_numbers(report["reductions"][0])


def evaluate(arguments: Sequence[str], folder: Path, target: Path) -> list[float]:
    """Predicts with the net on all rows; returns metrics."""
    import apache_beam

    from tfx_mobile.size_latency_evaluator import beam
    from tfx_mobile.size_latency_evaluator.config import EvaluatorConfig, SizeGate

    found = beam.predict(
        {"net": folder / "files" / "tflite"},
        EvaluatorConfig(evaluation.LABEL, (SizeGate(max_bytes=1),)),
        patterns=[str(folder / f"rows-{ROWS_PER_FILE}" / "*")],
        missing={},
        make_pipeline=lambda: apache_beam.Pipeline(argv=list(arguments)),
        folder=str(target),
    )
    return [found.accuracy.value(name, "net") or math.nan for name in ("rmse", "mae")]


COMPONENTS: dict[
    str, tuple[str, Callable[[Path], Path], Callable[[Sequence[str], Path, Path], list[float]]]
] = {
    "reducer": (
        f"DimensionalityReducer, one feature of {WIDTH}, PCA to {reduction.COMPONENTS}",
        write_for_reducer,
        reduce,
    ),
    "evaluator": (
        f"SizeLatencyEvaluator, 8 features, net 12-{HIDDEN}-{HIDDEN}-1",
        write_for_evaluator,
        evaluate,
    ),
}


@contextlib.contextmanager
def _in_process() -> Iterator[Engine]:
    yield Engine([*reduction.BEAM_ARGS, "--direct_num_workers=1"], lambda: [os.getpid()])


@contextlib.contextmanager
def _in_processes() -> Iterator[Engine]:
    arguments = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    yield Engine([*reduction.BEAM_ARGS, *arguments], lambda: _children(os.getpid()))


@contextlib.contextmanager
def _on_flink() -> Iterator[Engine]:
    import flink

    with tempfile.TemporaryDirectory() as folder, flink.job_server(Path(folder)) as server:
        yield Engine(server.arguments(), lambda: list(server.pids()), server.written)


ENGINES = {"one process": _in_process, "two processes": _in_processes, "flink": _on_flink}


def main(arguments: Sequence[str]) -> int:
    """Runs a component on an engine and prints what it took as JSON."""
    component, engine, folder = arguments
    import tfx_mobile.dimensionality_reducer.executor
    import tfx_mobile.size_latency_evaluator.beam  # noqa: F401 - not measured

    with contextlib.ExitStack() as stack:
        here = stack.enter_context(ENGINES[engine]())
        target = stack.enter_context(tempfile.TemporaryDirectory(dir=folder))
        memory, written = stack.enter_context(_watching(here))
        begin = time.perf_counter()
        result = COMPONENTS[component][-1](here.arguments, Path(folder), Path(target))
        seconds = time.perf_counter() - begin
    counted: list[int | None] = [None, None]
    if here.written is not None:
        counted = [sum(size for key, size in written.items() if key[-1] is kind) for kind in (True, False)]
    print(json.dumps(dataclasses.asdict(Run(seconds, max(memory.values()), *counted, result))))
    return 0


def _lines(component: str, folder: Path, rows: int) -> Iterator[tuple[str, ...]]:
    first: list[float] = []
    for engine in ENGINES:
        command = [sys.executable, __file__, component, engine, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{component} on {engine} failed:\n{done.stderr[-4000:]}")
        one = Run(**json.loads(done.stdout.splitlines()[-1]))
        first = first or one.result
        gap = max(abs(a - b) for a, b in zip(one.result, first, strict=True))
        yield (
            f"{rows:,}",
            engine,
            f"{one.seconds:.1f}",
            f"{rows / one.seconds:,.0f}",
            f"{one.worker_bytes / _MIB:,.0f}",
            *(
                "" if size is None else f"{size / rows:.2f}"
                for size in (one.shuffled_bytes, one.handed_bytes)
            ),
            f"{gap:.1g}",
        )


@contextlib.contextmanager
def _watching(engine: Engine) -> Iterator[tuple[dict[int, int], _Written]]:
    """Yields the largest memory so far by worker, and what tasks have written; looks four times a second."""
    memory: dict[int, int] = {}
    written: _Written = {}
    ended = threading.Event()

    def look() -> None:
        for pid in engine.workers():
            tree = [pid, *(one for child in _children(pid) for one in (child, *_children(child)))]
            memory[pid] = max(memory.get(pid, 0), sum(map(_peak_bytes, tree)))
        if engine.written is not None:
            written.update(engine.written())

    def watch() -> None:
        while not ended.wait(0.25):
            look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield memory, written
    finally:
        ended.set()
        thread.join()
        look()


def _peak_bytes(pid: int) -> int:
    """Returns the largest resident memory a process has had, 0 if it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return 0


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found


def _first_numbers(value: Any) -> list[float]:
    """Returns the first list of numbers in a report."""
    if isinstance(value, list) and value and all(isinstance(one, float) for one in value):
        return list(value)
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if found := _first_numbers(one):
            return found
    return []


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main(sys.argv[1:]))
