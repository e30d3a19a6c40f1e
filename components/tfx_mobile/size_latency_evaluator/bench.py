"""Strangers' TFLite files against each other, outside a pipeline: what `tfx-mobile bench` shows.

Measures as an evaluation does (latency.py), judges nothing, and says in one sentence what was found. Inputs
are made up from what the file says of them, or read from a CSV file.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.common import inspection, jsonable, tflite_file, tflite_metadata
from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.common.inspection import Tensor
from tfx_mobile.size_latency_evaluator import core, latency
from tfx_mobile.size_latency_evaluator.config import LatencyConfig
from tfx_mobile.size_latency_evaluator.core import Measured, Rivals
from tfx_mobile.size_latency_evaluator.evaluation import Interval, LatencyResult, Machine

CONFIDENCE = 0.975
"""Of each bound, so that both together are a 95 % interval."""

Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Bench(jsonable.Settings):
    """One file.

    Attributes:
      file: Path, as it was given.
      name: The file's name, or its path where two have the same name.
      size_bytes: Of the file.
      gz_size_bytes: After gzip -9.
      latency: None when it was not measured; `ratio` is against the first file, a 95 % interval.
      failure: Why it was not measured; empty when it was.
    """

    file: str
    name: str
    size_bytes: int
    gz_size_bytes: int
    latency: LatencyResult | None
    failure: str


@dataclass(frozen=True)
class Comparison(jsonable.Settings):
    """All files.

    Attributes:
      files: In the order given.
      sentences: For each file after the first, how it compares with the first.
      machine: Where it was measured.
    """

    files: tuple[Bench, ...]
    sentences: tuple[str, ...]
    machine: Machine


def compare(paths: Sequence[Path], config: LatencyConfig, *, rows: Path | None = None) -> Comparison:
    """Measures files interleaved with each other.

    Args:
      paths: At least one file.
      config: How; at its last look there are the figures.
      rows: CSV with a heading of the inputs' names; None to make inputs up.

    Raises:
      ConfigError: A file cannot be read, or the target not be reached.
      DataError: A file is no TFLite file, or the CSV does not fit it.
    """
    names = [f"{position}" for position in range(len(paths))]
    contents = {name: _content(path) for name, path in zip(names, paths, strict=True)}
    columns = {
        name: random_columns(content, config.num_rows) if rows is None else csv_columns(content, rows)
        for name, content in contents.items()
    }
    found = latency.measure(
        dict(zip(names, paths, strict=True)),
        {},
        config,
        always=names,
        still_open=lambda samples: {name for name, taken in samples.items() if taken},
        own_columns=columns,
    )
    measured = {
        name: Measured(
            name,
            samples=found.samples[name],
            latency_failure=found.failures.get(name, ""),
            footprint=found.footprints.get(name, core.Footprint()),
        )
        for name in names
    }
    first = measured[names[0]]
    files = tuple(
        Bench(
            file=str(path),
            name=path.name if [other.name for other in paths].count(path.name) == 1 else str(path),
            size_bytes=len(contents[name]),
            gz_size_bytes=len(inspection.gz(contents[name])),
            latency=latency.result(measured[name], Rivals(first), confidence=CONFIDENCE),
            failure=measured[name].latency_failure,
        )
        for name, path in zip(names, paths, strict=True)
    )
    return Comparison(files, tuple(sentence(files[0], other) for other in files[1:]), found.machine)


def sentence(first: Bench, other: Bench) -> str:
    """Returns how a file compares with the first, for example 'B is 9.8 % slower than A (95 %: ...).'."""
    for bench in (first, other):
        if bench.failure or bench.latency is None:
            return (
                f"{other.name} cannot be compared with {first.name}: {bench.failure or 'too few processes.'}"
            )
    ratio: Interval | None = other.latency.ratio if other.latency else None
    if ratio is None or other.latency is None:
        return f"{other.name} cannot be compared with {first.name}: too few processes measured both."
    over = f"over {len(other.latency.ratios_by_process)} processes"
    low, middle, high = (100 * (value - 1) for value in (ratio.low, ratio.estimate, ratio.high))
    if ratio.low <= 1 <= ratio.high:
        return (
            f"No difference is shown between {other.name} and {first.name}: {middle:+.1f} % "
            f"(95 %: {low:+.1f} to {high:+.1f} %), {over}."
        )
    if middle > 0:
        return (
            f"{other.name} is {middle:.1f} % slower than {first.name} "
            f"(95 %: {low:.1f} to {high:.1f} %), {over}."
        )
    return (
        f"{other.name} takes {-middle:.1f} % less time than {first.name} "
        f"(95 %: {-high:.1f} to {-low:.1f} %), {over}."
    )


def table(comparison: Comparison) -> list[list[str]]:
    """Returns the heading and one line per file, as text."""
    lines = [
        ["FILE", "P50 US", "P90 US", "INIT MS", "FIRST MS", "HEAP KIB", "PROCESS MIB", "BYTES", "GZ BYTES"]
    ]
    lines[0].append("RATIO (95 %)")
    for bench in comparison.files:
        sizes = [f"{bench.size_bytes:,}", f"{bench.gz_size_bytes:,}"]
        found = bench.latency
        if found is None:
            lines.append([bench.name, *["-"] * 6, *sizes, "-"])
            continue
        figures = [
            f"{found.p50_us:.4g}",
            f"{found.p90_us:.4g}",
            f"{found.init_us / 1e3:.3g}",
            f"{found.first_call_us / 1e3:.3g}",
            "-" if found.heap_bytes is None else f"{found.heap_bytes / 2**10:,.0f}",
            "-" if found.process_bytes is None else f"{found.process_bytes / 2**20:.1f}",
        ]
        ratio = found.ratio if bench is not comparison.files[0] else None
        shown = "-" if ratio is None else f"{ratio.estimate:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
        lines.append([bench.name, *figures, *sizes, shown])
    return lines


def machine_line(comparison: Comparison) -> str:
    """Returns in a line where it was measured."""
    found = comparison.machine
    facts = [
        found.target,
        f"{found.cpu}, {found.cores} cores",
        found.runtime,
        f"{found.processes} processes in {found.seconds:.0f} s",
        f"load {found.load_before:g} to {found.load_after:g}",
        "pinned to one core" if found.pinned else "not pinned",
        *([f"governor {found.governor}"] if found.governor else []),
    ]
    return "; ".join(facts)


def random_columns(content: bytes, num_rows: int, *, seed: int = 1) -> Columns:
    """Returns rows that the file can take, the same ones each time.

    A quantised input gets numbers from its whole range, a float one standard normal ones, an integer 0 and 1
    (an index beyond a table would crash it), a string words of the file's own vocabularies.

    Args:
      content: A TFLite file.
      num_rows: >= 1.
      seed: Of the draw.

    Raises:
      DataError: The file is damaged, or takes what cannot be made up.
    """
    draw = np.random.default_rng(seed)
    return {
        name: _random(name, tensor, content, num_rows, draw) for name, tensor in inputs_of(content).items()
    }


def csv_columns(content: bytes, path: Path) -> Columns:
    """Returns the rows of a CSV file as the file's inputs take them.

    Args:
      content: A TFLite file.
      path: CSV, UTF-8; its first line has the inputs' names, more columns may be there. A cell of an input
        with several values has them separated by spaces.

    Raises:
      ConfigError: The CSV cannot be read.
      DataError: A column is missing, or a cell does not fit.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"--rows must be a CSV file that can be read; {path}: {error}.") from error
    if not lines:
        raise DataError(f"--rows must have at least one row below its heading; got none in {path}.")
    found = {}
    for name, tensor in inputs_of(content).items():
        if any(line.get(name) is None for line in lines):
            raise DataError(
                f"--rows must have a cell for input {name!r} in each row; "
                f"{path} has the columns {', '.join(map(repr, lines[0]))}."
            )
        found[name] = _cells(name, tensor, [line[name] for line in lines], path)
    return found


def inputs_of(content: bytes) -> dict[str, Tensor]:
    """Returns the inputs of what a plain call of the file runs, by the signature's names where it has one.

    Raises:
      DataError: The file is damaged or has nothing to run.
    """
    for signature in inspection.inspect(content).signatures:
        if all(tensor.subgraph == 0 for tensor in (*signature.inputs.values(), *signature.outputs.values())):
            return dict(signature.inputs)
    raise DataError("A TFLite file must have a main subgraph; got none that a plain call would run.")


def _random(
    name: str, tensor: Tensor, content: bytes, num_rows: int, draw: np.random.Generator
) -> npt.NDArray[Any]:
    shape = (num_rows, *_shape(tensor))
    if tensor.dtype == "string":
        model, _ = tflite_file.read(content)
        words = [
            word
            for data in tflite_file.string_constants(model)
            for word in tflite_metadata.unpack_strings(data)
        ]
        known = words or [b"a"]
        return np.asarray(np.array(known, dtype=np.bytes_)[draw.integers(0, len(known), shape)])
    if tensor.dtype == "bool":
        return np.asarray(draw.integers(0, 2, shape), np.bool_)
    if not re.fullmatch(r"u?int(8|16|32|64)|float(16|32|64)", tensor.dtype):
        raise DataError(
            f"Input {name!r} must be numbers, strings or booleans to be made up; got {tensor.dtype}."
        )
    kind = np.dtype(tensor.dtype)
    if kind.kind == "f":
        return np.asarray(draw.normal(size=shape), kind)
    if tensor.quantization and tensor.quantization.scale:
        limits = np.iinfo(kind)
        steps = draw.integers(limits.min, limits.max, shape, endpoint=True)
        return np.asarray((steps - tensor.quantization.zero_point) * tensor.quantization.scale, np.float32)
    return np.asarray(draw.integers(0, 2, shape), kind)


def _cells(name: str, tensor: Tensor, cells: Sequence[str], path: Path) -> npt.NDArray[Any]:
    shape = _shape(tensor)
    width = int(np.prod(shape, dtype=int))
    if tensor.dtype == "string":
        if width != 1:
            raise DataError(
                f"Input {name!r} takes {width} strings in each row, which a CSV cell cannot hold."
            )
        return np.array([cell.encode() for cell in cells], dtype=np.bytes_).reshape(len(cells), *shape)
    try:
        # float64 would round integers beyond 2**53
        kind = (
            np.int64 if tensor.dtype.startswith(("int", "uint")) and not tensor.quantization else np.float64
        )
        values = np.array([[kind(part) for part in cell.split()] for cell in cells])
        return values.reshape(len(cells), *shape)
    except ValueError as error:
        raise DataError(
            f"Input {name!r} takes {width} numbers in each row; {path} has for example {cells[0]!r}: {error}."
        ) from error


def _shape(tensor: Tensor) -> tuple[int, ...]:
    """Returns the shape of one call; what may change is 1, as the interpreter has it before any resizing."""
    return tuple(max(extent, 1) for extent in tensor.shape)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"FILE must be a file that can be read; {path}: {error.strerror}.") from error
