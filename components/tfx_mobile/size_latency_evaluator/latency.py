"""Paired measuring of latency: fresh processes, all files interleaved in each, more only where still open.

The process is the unit of sampling. Judging is core.py's work, timing latency_worker.py's, reaching the
device targets.py's.
"""

import dataclasses
import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.size_latency_evaluator import callgrind, runner, targets
from tfx_mobile.size_latency_evaluator.accuracy import CONFIDENCE
from tfx_mobile.size_latency_evaluator.config import LatencyConfig
from tfx_mobile.size_latency_evaluator.core import (
    Footprint,
    Measured,
    ProcessSample,
    Rivals,
    interval_of_processes,
    process_ratios,
)
from tfx_mobile.size_latency_evaluator.evaluation import (
    MIN_CALLS_FOR_P99,
    QUANTILES,
    Interval,
    LatencyResult,
    Machine,
)

Samples = dict[str, tuple[ProcessSample, ...]]

_LOGGER = logging.getLogger(__name__)
_CALLGRIND_SLOWNESS = 5.0  # times `timeout_seconds`


@dataclasses.dataclass(frozen=True)
class LatencyRun:
    """What all processes measured.

    Attributes:
      samples: By name, one per process that measured it.
      failures: By name, why it was not measured.
      footprints: By name, memory and instructions; only of files that were asked for and did not fail.
      machine: Where.
    """

    samples: Samples
    failures: dict[str, str]
    footprints: dict[str, Footprint]
    machine: Machine


def measure(
    paths: Mapping[str, Path],
    columns: Mapping[str, Any],
    config: LatencyConfig,
    *,
    always: Sequence[str],
    still_open: Callable[[Samples], set[str]],
    own_columns: Mapping[str, Mapping[str, Any]] | None = None,
) -> LatencyRun:
    """Measures the files in fresh processes until each is clear, the last look is done or the time is up.

    Args:
      paths: By name, the files.
      columns: Rows as columns; at most `config.num_rows` of them are used, evenly spread.
      config: How.
      always: Names measured in every process, because others are compared with them.
      still_open: Called after each look with all samples; returns the names that need more processes.
      own_columns: By name, the rows of files that take other features than `columns` has.

    Raises:
      ConfigError: The target cannot be reached, or lacks what is asked for.
    """
    begin = time.monotonic()
    if config.count_instructions:
        callgrind.check_available()
    with tempfile.TemporaryDirectory(prefix="tfx_mobile_rows_") as folder:
        rows = _save_rows(Path(folder), paths, columns, own_columns or {}, config.num_rows)
        with targets.session(config.target, paths, rows) as session:
            facts = session.describe()
            samples, failures, pinned, done = _time_all(
                paths, config, session, begin, always=always, still_open=still_open
            )
            measured = [name for name in paths if name not in failures]
            footprints = _footprints(measured, config, session, begin)
            load_after = _load_after(session, facts["load"])
        if config.count_instructions:
            for name in measured:
                footprints[name] = _with_instructions(footprints[name], name, paths, rows, config)
    machine = Machine(
        cpu=facts["cpu"],
        cores=facts["cores"],
        pinned=pinned,
        load_before=facts["load"],
        load_after=load_after,
        system=facts["system"],
        runtime=facts["runtime"],
        processes=done,
        seconds=round(time.monotonic() - begin, 3),
        target=targets.name_of(config.target),
        governor=facts["governor"],
    )
    return LatencyRun(samples, failures, footprints, machine)


def result(found: Measured, rivals: Rivals, *, confidence: float = CONFIDENCE) -> LatencyResult | None:
    """Returns a file's figures over all processes; None when fewer than two measured it.

    Args:
      found: The file.
      rivals: What it is compared with.
      confidence: Of each bound of the ratios.
    """
    middle = interval_of_processes([sample.p50_ns for sample in found.samples])
    high = interval_of_processes([sample.p90_ns for sample in found.samples])
    if middle is None or high is None:
        return None
    return LatencyResult(
        p50_us=middle.estimate / 1e3,
        p90_us=high.estimate / 1e3,
        init_us=float(np.median([sample.init_ns for sample in found.samples])) / 1e3,
        first_call_us=float(np.median([sample.first_call_ns for sample in found.samples])) / 1e3,
        calls=sum(sample.calls for sample in found.samples),
        p50_us_by_process=tuple(sample.p50_ns / 1e3 for sample in found.samples),
        ratios_by_process=process_ratios(found, rivals.reference) if rivals.reference else (),
        ratio=_ratio(found, rivals.reference, confidence),
        baseline_ratio=_ratio(found, rivals.baseline, confidence),
        p99_us=_p99_us(found),
        quantiles_us_by_process=tuple(
            tuple(value / 1e3 for value in sample.quantiles_ns)
            for sample in found.samples
            if sample.quantiles_ns
        ),
        arena_bytes=found.footprint.arena_bytes,
        heap_bytes=found.footprint.heap_bytes,
        process_bytes=found.footprint.process_bytes,
        instructions=found.footprint.instructions,
    )


def runtime_version() -> str:
    """Returns the interpreter and its version, for example 'ai-edge-litert 2.3.0'."""
    return f"ai-edge-litert {metadata.version('ai-edge-litert')}"


def _time_all(
    paths: Mapping[str, Path],
    config: LatencyConfig,
    session: targets.Session,
    begin: float,
    *,
    always: Sequence[str],
    still_open: Callable[[Samples], set[str]],
) -> tuple[Samples, dict[str, str], bool, int]:
    """Returns samples, failures, whether the processes were pinned, and how many there were."""
    samples: Samples = dict.fromkeys(paths, ())
    failures: dict[str, str] = {}
    job = {
        "seconds": config.seconds_per_process,
        "warmup_calls": config.warmup_calls,
        "min_calls": config.min_calls,
        "quantiles": QUANTILES,
    }
    pinned, done, longest = False, 0, 0.0
    wanted = set(paths)
    for look in config.processes:
        while done < look and wanted - set(failures):
            if time.monotonic() - begin + longest > config.max_seconds:
                _LOGGER.warning("Latency: %g s are over after %d processes.", config.max_seconds, done)
                return samples, failures, pinned, done
            chosen = [name for name in paths if name in wanted and name not in failures]
            chosen = chosen[::-1] if done % 2 else chosen
            start = time.monotonic()
            outcome = session.measure(targets.LATENCY_WORKER, chosen, job, config.timeout_seconds)
            longest = max(longest, time.monotonic() - start)
            failures |= outcome.failures
            for name, value in outcome.values.items():
                pinned = bool(value["pinned"])
                samples[name] = (*samples[name], _sample(done, value))
            # A file that failed once has failed, whatever the processes before it measured.
            samples |= dict.fromkeys(failures, ())
            done += 1
        needed = still_open(samples) - set(failures)
        if not needed:
            break
        wanted = needed | set(always)
    return samples, failures, pinned, done


def _load_after(session: targets.Session, load_before: float) -> float:
    """Returns the device's load; of one that was lost, as its files' failures say, the last known one."""
    try:
        return float(session.describe()["load"])
    except ConfigError as error:
        _LOGGER.warning("The load after measuring is not known: %s", error)
        return load_before


def _sample(process: int, value: Mapping[str, Any]) -> ProcessSample:
    return ProcessSample(
        process=process,
        p50_ns=value["p50_ns"],
        p90_ns=value["p90_ns"],
        init_ns=value["init_ns"],
        first_call_ns=value["first_call_ns"],
        calls=value["calls"],
        quantiles_ns=tuple(value["quantiles_ns"]),
        rounds_ns=tuple(value["rounds_ns"]),
    )


def _footprints(
    names: Sequence[str], config: LatencyConfig, session: targets.Session, begin: float
) -> dict[str, Footprint]:
    found = dict.fromkeys(names, Footprint())
    for name in names if config.measure_memory else ():
        if time.monotonic() - begin > config.max_seconds:
            _LOGGER.warning("Memory: %g s are over before %r was looked at.", config.max_seconds, name)
            break
        outcome = session.measure(targets.MEMORY_WORKER, [name], {}, config.timeout_seconds)
        for reason in outcome.failures.values():
            _LOGGER.warning("Memory of %r was not measured: %s", name, reason)
        if name in outcome.values:
            found[name] = Footprint(**outcome.values[name])
    return found


def _with_instructions(
    found: Footprint, name: str, paths: Mapping[str, Path], rows: Mapping[str, Path], config: LatencyConfig
) -> Footprint:
    try:
        counted = callgrind.instructions(
            paths[name], rows[name], timeout_seconds=_CALLGRIND_SLOWNESS * config.timeout_seconds
        )
    except DataError as error:
        _LOGGER.warning("Instructions of %r were not counted: %s", name, error)
        return found
    return dataclasses.replace(found, instructions=counted)


def _save_rows(
    folder: Path,
    paths: Mapping[str, Path],
    columns: Mapping[str, Any],
    own_columns: Mapping[str, Mapping[str, Any]],
    num_rows: int,
) -> dict[str, Path]:
    """Writes the rows, those of all files together once; returns by name where they are."""
    shared = folder / "rows.npz"
    runner.save_columns(shared, _spread(columns, num_rows))
    found = dict.fromkeys(paths, shared)
    for position, (name, own) in enumerate(own_columns.items()):
        found[name] = folder / f"rows{position}.npz"
        runner.save_columns(found[name], _spread(own, num_rows))
    return found


def _spread(columns: Mapping[str, Any], num_rows: int) -> dict[str, Any]:
    total = min((len(column) for column in columns.values()), default=0)
    count = min(num_rows, total)
    chosen = [position * total // count for position in range(count)]
    return {name: column[chosen] for name, column in columns.items()}


def _p99_us(found: Measured) -> float | None:
    if any(
        sample.calls < MIN_CALLS_FOR_P99 or len(sample.quantiles_ns) != len(QUANTILES)
        for sample in found.samples
    ):
        return None
    place = QUANTILES.index(0.99)
    slow = interval_of_processes([sample.quantiles_ns[place] for sample in found.samples])
    return None if slow is None else slow.estimate / 1e3


def _ratio(found: Measured, other: Measured | None, confidence: float) -> Interval | None:
    if other is None:
        return None
    return interval_of_processes(process_ratios(found, other), looks=found.looks, confidence=confidence)
