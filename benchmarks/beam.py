"""Reduces the same rows on Beam's engines: in one process, in two processes, on Flink with two SDK processes.

Each run is a process of its own, which is this file with the engine's name and a folder:

    python benchmarks/beam.py flink FOLDER

Rows are 64 float32 and a label in gzip TFRecord files of 5,000; ten times the rows are ten times the files
(hard links of the same ones, so that making them costs nothing). Memory is the largest resident memory of any
one process that holds rows; Flink's own (JVM) comes on top.
"""

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # before anything imports TensorFlow
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import contextlib
import dataclasses
import json
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import reduction

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests/e2e/flink.py starts Flink here, too

ROWS_PER_FILE = 5_000
FILES = 4
WIDTH = 64
_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Run:
    """What one process measured.

    Attributes:
      seconds: Wall time of both passes; without imports and, on Flink, the start of the job server.
      worker_bytes: Largest resident memory of any one Python process that holds rows.
      shuffled_bytes: What one bundle of rows gives to the next stage in the first pass.
      components: The first component's loadings, to be compared.
    """

    seconds: float
    worker_bytes: int
    shuffled_bytes: int
    components: list[float]


@dataclasses.dataclass(frozen=True)
class Table:
    """What a section prints."""

    title: str
    header: tuple[str, ...]
    lines: list[tuple[str, ...]]


def scale(largest: int = 10) -> Iterator[Table]:
    """Yields the time, memory and shuffled bytes of each engine for rows x1, x10, ... up to `largest`."""
    lines = []
    times = 1
    while times <= largest:
        with tempfile.TemporaryDirectory() as folder:
            rows = write_rows(Path(folder), times)
            found = {engine: run(engine, Path(folder)) for engine in ENGINES}
        first = found["one process"]
        for engine, one in found.items():
            gap = max(abs(a - b) for a, b in zip(one.components, first.components, strict=True))
            shuffled = one.shuffled_bytes * FILES * times
            lines.append(
                (
                    f"{rows:,}",
                    engine,
                    f"{one.seconds:.1f}",
                    f"{rows / one.seconds:,.0f}",
                    f"{one.worker_bytes / _MIB:,.0f}",
                    f"{shuffled / rows:.1f}",
                    f"{gap:.1g}",
                )
            )
        times *= 10
    header = (
        "rows",
        "engine",
        "s",
        "rows/s",
        "MiB of a worker",
        "bytes shuffled per row",
        "components differ by",
    )
    yield Table(f"DimensionalityReducer, {WIDTH} features, PCA to {reduction.COMPONENTS}", header, lines)


def write_rows(folder: Path, times: int) -> int:
    """Writes Examples of `times` times the fewest rows; returns how many rows."""
    reduction.write_rows(folder, rows=ROWS_PER_FILE, width=WIDTH, layout="vector")
    (first,) = (folder / "examples" / "Split-train").iterdir()
    for number in range(1, FILES * times):
        os.link(first, first.with_name(f"more-{number:05d}.gz"))
    return ROWS_PER_FILE * FILES * times


def run(engine: str, folder: Path) -> Run:
    """Runs an engine in a process of its own."""
    command = [sys.executable, __file__, engine, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{engine} failed:\n{done.stderr[-4000:]}")
    return Run(**json.loads(done.stdout.splitlines()[-1]))


@contextlib.contextmanager
def _in_process() -> Iterator[tuple[list[str], Callable[[], list[int]]]]:
    yield [*reduction.BEAM_ARGS, "--direct_num_workers=1"], lambda: [os.getpid()]


@contextlib.contextmanager
def _in_processes() -> Iterator[tuple[list[str], Callable[[], list[int]]]]:
    arguments = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    yield [*reduction.BEAM_ARGS, *arguments], lambda: _descendants(os.getpid())


@contextlib.contextmanager
def _on_flink() -> Iterator[tuple[list[str], Callable[[], list[int]]]]:
    from tests.e2e import flink

    with tempfile.TemporaryDirectory() as folder, flink.job_server(Path(folder)) as server:
        yield server.arguments(), lambda: list(server.pids())


ENGINES = {"one process": _in_process, "two processes": _in_processes, "flink": _on_flink}


def main(arguments: Sequence[str]) -> int:
    """Runs one engine on a folder and prints what it took as JSON."""
    engine, folder = arguments
    import tfx_mobile.dimensionality_reducer.executor  # noqa: F401 - not measured

    with ENGINES[engine]() as (options, workers), tempfile.TemporaryDirectory(dir=folder) as target:
        reduction.BEAM_ARGS[:] = options
        with _watching(workers) as peaks:
            begin = time.perf_counter()
            reduction.reduce_by_tfx_mobile(Path(folder), Path(target))
            seconds = time.perf_counter() - begin
        statistics = next(Path(target).rglob("statistics"))
        report = json.loads((Path(target) / "reduction" / "reduction.json").read_text())
        loadings = _first_numbers(report["reductions"][0])
        found = Run(seconds, max(peaks.values()), statistics.stat().st_size, loadings)
    print(json.dumps(dataclasses.asdict(found)))
    return 0


@contextlib.contextmanager
def _watching(workers: Callable[[], list[int]]) -> Iterator[dict[int, int]]:
    """Yields the largest resident memory so far by process id, looked at four times a second."""
    peaks: dict[int, int] = {}
    ended = threading.Event()

    def look() -> None:
        for pid in workers():
            with contextlib.suppress(OSError, StopIteration):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                line = next(line for line in lines if line.startswith("VmHWM"))
                peaks[pid] = max(peaks.get(pid, 0), int(line.split()[1]) * 1024)

    def watch() -> None:
        while not ended.wait(0.25):
            look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()
        look()


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            for child in (task / "children").read_text().split():
                found += [int(child), *_descendants(int(child))]
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
