"""Evaluation rows -> every file's predictions -> one tally, as a Beam pipeline. No element is a single row.

An element is one of the split's files, cut into batches that do not depend on the workers: so neither does
the result, but for the rounding of sums. Each worker runs the TFLite files in a process beside it
(predictor.py), which predicts with one batch while the next one is read. A bundle gives one `Found`; all are
merged into one, which comes back through a file that is there whole or not at all. Rows or files that cannot
be used do not fail the pipeline: they are counted, and the caller is told. Judges nothing.
"""

import collections
import concurrent.futures
import contextlib
import pickle
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue
from tfx.dsl.io import fileio

from tfx_mobile.common.errors import DataError
from tfx_mobile.common.hashing import mix
from tfx_mobile.size_latency_evaluator.accuracy import Accuracy, Batch, Tally
from tfx_mobile.size_latency_evaluator.config import EvaluatorConfig
from tfx_mobile.size_latency_evaluator.examples import Census, Look, Reader, Rows, Wanted, first_look
from tfx_mobile.size_latency_evaluator.predictor import Outputs, Predictor

_MAX_CARRIED_BYTES = 32 << 20  # of all files together; larger ones are read by each worker where they are
_MAX_WAITING = 2  # batches being predicted with while the next one is read
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Predictions:
    """What all files say about the rows of a split.

    Attributes:
      rows: How many.
      columns: By feature that files take, shape (at most num_rows, *row_shape), some of the rows; features
        that no row has are left out.
      failures: By file, why it failed or cannot take the rows.
      accuracy: Of all files; of no use for those in `failures`.
    """

    rows: int
    columns: dict[str, npt.NDArray[Any]]
    failures: dict[str, str]
    accuracy: Accuracy


@dataclass(frozen=True)
class Job:
    """What a worker has to know.

    Attributes:
      key: Of this run; predictors are shared under it.
      files: By name, a file's content, or where it is.
      config: The evaluation.
      wanted: What is read.
      look: What the first rows were like.
    """

    key: str
    files: Mapping[str, bytes | str]
    config: EvaluatorConfig
    wanted: Wanted
    look: Look


class Sample:
    """A few rows, the same whatever the bundles: those with the smallest hashes of file and position."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._hashes = np.zeros(0, np.uint64)
        self._columns: dict[str, npt.NDArray[Any]] = {}

    def add(self, number: int, rows: Rows) -> None:
        """Adds rows of the split's file with this number."""
        positions = np.arange(rows.first, rows.first + len(rows), dtype=np.uint64)
        hashes = mix(mix(np.full(1, number + 1, np.uint64)) + positions * _GOLDEN)
        fitting = (
            np.flatnonzero(hashes <= self._hashes[-1]) if len(self._hashes) == self._size else slice(None)
        )
        self._keep(hashes[fitting], {name: column[fitting] for name, column in rows.columns.items()})

    def merge(self, other: "Sample") -> None:
        """Adds the rows of another one."""
        self._keep(other._hashes, other._columns)

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Returns the rows, by rising hash."""
        return self._columns

    def _keep(self, hashes: npt.NDArray[np.uint64], columns: dict[str, npt.NDArray[Any]]) -> None:
        if not len(hashes):
            return
        joined = np.concatenate([self._hashes, hashes])
        chosen = np.argsort(joined, kind="stable")[: self._size]
        if self._columns:
            columns = {name: np.concatenate([mine, columns[name]]) for name, mine in self._columns.items()}
        self._hashes = joined[chosen]
        self._columns = {name: column[chosen] for name, column in columns.items()}


@dataclass
class Found:
    """What was found in some of the rows; mergeable.

    Attributes:
      tally: Of the rows that were predicted with.
      census: What all rows were like.
      failures: By file, why it failed.
      takes: By file, the features it takes.
      sample: Some rows.
      refused: Number of the first of the split's files that cannot be read on, and why.
    """

    tally: Tally
    sample: Sample
    census: Census = field(default_factory=Census)
    failures: dict[str, str] = field(default_factory=dict)
    takes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    refused: tuple[int, str] | None = None

    @classmethod
    def nothing(cls, job: Job) -> "Found":
        """Returns what is found in no rows."""
        return cls(Tally(job.config, tuple(job.files)), Sample(job.config.latency.num_rows))

    def merge(self, other: "Found") -> None:
        """Adds what was found in other rows."""
        self.tally.merge(other.tally)
        self.sample.merge(other.sample)
        self.census.merge(other.census)
        self.takes |= other.takes
        for name, reason in other.failures.items():
            self.failures[name] = min(self.failures.get(name, reason), reason)
        if other.refused is not None:
            self.refused = min(self.refused or other.refused, other.refused)


def predict(
    paths: Mapping[str, Path],
    config: EvaluatorConfig,
    *,
    patterns: Sequence[str],
    missing: Mapping[str, Any],
    make_pipeline: Callable[[], beam.Pipeline],
    folder: str,
) -> Predictions:
    """Predicts with all files on all rows of the split.

    Args:
      paths: By name, the files; where two take a feature differently, the one that comes first is right.
      config: The evaluation.
      patterns: The split's file patterns.
      missing: By feature, the value that stands for a missing one; see `examples.Wanted`.
      make_pipeline: Returns an empty pipeline.
      folder: For temporary files, on a filesystem that workers can write to.

    Raises:
      DataError: There are no rows; a label or weight is unknown, a string, missing, ragged, not finite or a
        negative weight; or a feature does not have the type or width that the files take.
    """
    wanted = Wanted(
        labels=config.labels or {"": config.label_key},
        weight=config.sample_weight_key,
        columns=tuple(name for name in config.needed_features() if name != config.sample_weight_key),
        missing=missing,
        split=config.eval_split,
    )
    key, target = uuid.uuid4().hex, f"{folder}/predictions-{uuid.uuid4().hex}"
    with _ahead_of_time(key, paths, config):
        look = first_look(patterns, wanted)
        job = Job(key, _carried(paths), config, wanted, look)
        with make_pipeline() as pipeline:
            _ = pipeline | PredictSplit(job) | "Keep" >> beam.Map(_save, target)
    with fileio.open(target, "rb") as stream:
        found: Found = pickle.loads(stream.read())
    fileio.remove(target)
    if found.refused is not None:
        raise DataError(found.refused[1])
    found.census.check(wanted)
    for name in paths:
        if absent := sorted(set(found.takes.get(name, ())) - found.census.present):
            found.failures.setdefault(
                name,
                f"It takes {', '.join(map(repr, absent))}, which no row of split {wanted.split!r} has.",
            )
    present = found.census.present
    return Predictions(
        rows=found.census.rows,
        columns={name: one for name, one in found.sample.columns().items() if name in present},
        failures=found.failures,
        accuracy=found.tally.result(),
    )


class PredictSplit(beam.PTransform):
    """From the pipeline itself to one `Found`.

    Args:
      job: What to do.
    """

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job = job

    def expand(self, pbegin: Any) -> beam.PCollection:
        """Returns what was found in all rows."""
        numbered = list(enumerate(self._job.look.paths))
        files = pbegin | beam.Impulse() | "Files" >> beam.FlatMap(lambda _: numbered)
        if len(numbered) > 1:
            files = files | "Spread" >> beam.Reshuffle()
        return (
            files
            | "Predict" >> beam.ParDo(_PredictFiles(self._job))
            | "Merge" >> beam.CombineGlobally(_MergeFn(self._job)).without_defaults()
        )


class _PredictFiles(beam.DoFn):
    def __init__(self, job: Job) -> None:
        self._job = job

    def setup(self) -> None:
        self._owned = contextlib.ExitStack()
        self._predictor = _IDLE.take(self._job.key)
        if self._predictor is None:
            folder = self._owned.enter_context(tempfile.TemporaryDirectory(prefix="tfx_mobile_predict_"))
            self._predictor = _predictor(_local(self._job.files, Path(folder)), self._job.config)
        self._owned.callback(self._predictor.close)
        self._thread = self._owned.enter_context(concurrent.futures.ThreadPoolExecutor(1))

    def start_bundle(self) -> None:
        self._found = Found.nothing(self._job)
        self._waiting: collections.deque[Any] = collections.deque()

    def process(self, element: tuple[int, str]) -> None:
        number, path = element
        reader = Reader(
            self._job.wanted, self._predictor.features(), self._job.look, self._job.config.batch_size
        )
        try:
            for rows in reader.read(path):
                if rows.columns or not self._predictor.names:
                    self._found.sample.add(number, rows)
                self._waiting.append((rows, self._thread.submit(self._predictor.predict, rows.columns)))
                self._count(_MAX_WAITING)
        except DataError as error:
            self._found.refused = min(self._found.refused or (number, str(error)), (number, str(error)))
        self._found.census.merge(reader.census)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        self._count(0)
        self._found.failures = dict(self._predictor.failures)
        self._found.takes = {name: self._predictor.takes(name) for name in self._job.files}
        yield WindowedValue(self._found, MIN_TIMESTAMP, [GlobalWindow()])

    def teardown(self) -> None:
        self._owned.close()

    def _count(self, num_waiting: int) -> None:
        """Tallies batches in order until only so many are waited for."""
        while len(self._waiting) > num_waiting:
            rows, predictions = self._waiting.popleft()
            self._found.tally.add(_batch(rows, predictions.result(), tuple(self._job.files)))


class _MergeFn(beam.CombineFn):
    def __init__(self, job: Job) -> None:
        self._job = job

    def create_accumulator(self) -> Found:
        return Found.nothing(self._job)

    def add_input(self, accumulator: Found, found: Found) -> Found:
        accumulator.merge(found)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[Found]) -> Found:
        total = self.create_accumulator()
        for accumulator in accumulators:
            total.merge(accumulator)
        return total

    def extract_output(self, accumulator: Found) -> Found:
        return accumulator


class _Idle:
    """Predictors of this process that were started before a worker asks for one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._predictors: dict[str, Predictor] = {}

    def put(self, key: str, predictor: Predictor) -> None:
        with self._lock:
            self._predictors[key] = predictor

    def take(self, key: str) -> Predictor | None:
        with self._lock:
            return self._predictors.pop(key, None)


_IDLE = _Idle()


@contextlib.contextmanager
def _ahead_of_time(key: str, paths: Mapping[str, Path], config: EvaluatorConfig) -> Iterator[None]:
    """Starts a predictor for a worker in this process while the pipeline is built."""
    mine = _predictor(paths, config)
    _IDLE.put(key, mine)
    try:
        yield
    finally:
        mine.close()


def _predictor(paths: Mapping[str, Path], config: EvaluatorConfig) -> Predictor:
    return Predictor(paths, batch_size=config.batch_size, timeout_seconds=config.prediction_timeout_seconds)


def _batch(rows: Rows, predictions: Mapping[str, Outputs], files: Sequence[str]) -> Batch:
    """Returns the rows with each file's predictions; NaN for one that has failed."""
    found: dict[str, Mapping[str, npt.NDArray[np.float32]]] = {}
    for name in files:
        if name not in predictions:
            found[name] = {
                output: np.full(values.shape, np.nan, np.float32) for output, values in rows.labels.items()
            }
        elif list(rows.labels) == [""]:
            outputs = predictions[name]
            found[name] = {"": np.concatenate([outputs[output] for output in sorted(outputs)], axis=1)}
        else:
            found[name] = predictions[name]
    return Batch(rows.labels, found, rows.extra, rows.weights)


def _carried(paths: Mapping[str, Path]) -> dict[str, bytes | str]:
    """Returns the files' contents, or where they are if they are large."""
    if sum(path.stat().st_size for path in paths.values()) > _MAX_CARRIED_BYTES:
        return {name: str(path) for name, path in paths.items()}
    return {name: path.read_bytes() for name, path in paths.items()}


def _local(files: Mapping[str, bytes | str], folder: Path) -> dict[str, Path]:
    found = {}
    for number, (name, content) in enumerate(files.items()):
        found[name] = folder / f"{number}.tflite"
        if isinstance(content, bytes):
            found[name].write_bytes(content)
        else:
            with fileio.open(content, "rb") as stream:
                found[name].write_bytes(stream.read())
    return found


def _save(found: Found, path: str) -> None:
    """Writes what was found under a name of its own, then under the name it is looked for."""
    unfinished = f"{path}-{uuid.uuid4().hex}"
    with fileio.open(unfinished, "wb") as stream:
        stream.write(pickle.dumps(found))
    fileio.rename(unfinished, path, overwrite=True)
