"""Paired measuring of latency: fresh processes, all files interleaved in each, more only where still open.

The process is the unit of sampling. Judging is core.py's work, timing latency_worker.py's.
"""

import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tfx_mobile.size_latency_evaluator import isolation, prediction_worker
from tfx_mobile.size_latency_evaluator.config import LatencyConfig
from tfx_mobile.size_latency_evaluator.core import ProcessSample
from tfx_mobile.size_latency_evaluator.evaluation import Machine

WORKER = "tfx_mobile.size_latency_evaluator.latency_worker"

Samples = dict[str, tuple[ProcessSample, ...]]


@dataclass(frozen=True)
class LatencyRun:
    """What all processes measured.

    Attributes:
      samples: By name, one per process that measured it.
      failures: By name, why it was not measured.
      machine: Where.
    """

    samples: Samples
    failures: dict[str, str]
    machine: Machine


def measure(
    paths: Mapping[str, Path],
    columns: Mapping[str, Any],
    config: LatencyConfig,
    *,
    always: Sequence[str],
    still_open: Callable[[Samples], set[str]],
) -> LatencyRun:
    """Measures the files in fresh processes until each is clear or the last look is done.

    Args:
      paths: By name, the files.
      columns: Rows as columns; at most `config.num_rows` of them are used, evenly spread.
      config: How.
      always: Names measured in every process, because others are compared with them.
      still_open: Called after each look with all samples; returns the names that need more processes.
    """
    begin, load_before = time.monotonic(), _load()
    samples: Samples = dict.fromkeys(paths, ())
    failures: dict[str, str] = {}
    pinned = False
    done = 0
    with tempfile.TemporaryDirectory(prefix="tfx_mobile_latency_") as folder:
        rows = Path(folder) / "rows.npz"
        prediction_worker.save_columns(rows, _spread(columns, config.num_rows))
        wanted = set(paths)
        for look in config.processes:
            while done < look and wanted - set(failures):
                chosen = [name for name in paths if name in wanted and name not in failures]
                chosen = chosen[::-1] if done % 2 else chosen
                outcome = isolation.run_worker(
                    WORKER,
                    {name: paths[name] for name in chosen},
                    {
                        "rows": str(rows),
                        "seconds": config.seconds_per_process,
                        "warmup_calls": config.warmup_calls,
                        "min_calls": config.min_calls,
                    },
                    folder=Path(folder),
                    timeout_seconds=config.timeout_seconds,
                )
                failures |= outcome.failures
                for name, value in outcome.values.items():
                    pinned = bool(value.pop("pinned"))
                    samples[name] = (*samples[name], ProcessSample(process=done, **value))
                done += 1
            # A file that failed once has failed, whatever the processes before it measured.
            samples |= dict.fromkeys(failures, ())
            needed = still_open(samples) - set(failures)
            if not needed:
                break
            wanted = needed | set(always)
    machine = Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        pinned=pinned,
        load_before=load_before,
        load_after=_load(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        runtime=runtime_version(),
        processes=done,
        seconds=round(time.monotonic() - begin, 3),
    )
    return LatencyRun(samples, failures, machine)


def runtime_version() -> str:
    """Returns the interpreter and its version, for example 'ai-edge-litert 2.3.0'."""
    return f"ai-edge-litert {metadata.version('ai-edge-litert')}"


def _spread(columns: Mapping[str, Any], num_rows: int) -> dict[str, Any]:
    total = min((len(column) for column in columns.values()), default=0)
    count = min(num_rows, total)
    chosen = [position * total // count for position in range(count)]
    return {name: column[chosen] for name, column in columns.items()}


def _load() -> float:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith(("model name", "Hardware")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine() or "unknown"
