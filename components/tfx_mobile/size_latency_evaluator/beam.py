"""Evaluation rows -> every file's predictions -> one tally, as a Beam pipeline. No element is a single row.

An element is one of the split's files, cut into batches that do not depend on the workers; it gives one
`Found`, and these are merged in the order of the files: so the result does not depend on the workers either.
Each worker runs the TFLite files in a process beside it (predictor.py), which predicts with one batch while
the next one is read. The result comes back through a file that is there whole or not at all. Rows or files
that cannot be used do not fail the pipeline: they are counted, and the caller is told. Judges nothing.
"""

import collections
import contextlib
import pickle
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from tfx.dsl.io import fileio

from tfx_mobile.common.errors import DataError
from tfx_mobile.common.hashing import mix
from tfx_mobile.size_latency_evaluator.accuracy import Accuracy, Batch, Tally
from tfx_mobile.size_latency_evaluator.config import EvaluatorConfig
from tfx_mobile.size_latency_evaluator.examples import Census, Look, Reader, Rows, Wanted, first_look
from tfx_mobile.size_latency_evaluator.predictor import Outputs, Predictor

_MAX_CARRIED_BYTES = (
    1 << 18
)  # of all files together, which Beam compresses slowly; larger ones are read in place
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
            | "All" >> beam.GroupByKey()  # CombineGlobally takes 0.1 s longer to set up
            | "Merge" >> beam.Map(_merge)
        )


class _PredictFiles(beam.DoFn):
    _predictor: Predictor

    def __init__(self, job: Job) -> None:
        self._job = job

    def setup(self) -> None:
        job, self._owned = self._job, contextlib.ExitStack()
        waiting = _IDLE.take(job.key)
        if waiting is None:
            folder = self._owned.enter_context(tempfile.TemporaryDirectory(prefix="tfx_mobile_predict_"))
            waiting = _predictor(_local(job.files, Path(folder)), job.config)
        self._predictor = waiting
        self._owned.callback(self._predictor.close)
        self._thread = self._owned.enter_context(ThreadPoolExecutor(1))

    def process(self, element: tuple[int, str]) -> Iterator[tuple[None, tuple[int, Found]]]:
        (number, path), job = element, self._job
        reader = Reader(job.wanted, self._predictor.features(), job.look, job.config.batch_size)
        found = Found(Tally(job.config, tuple(job.files)), Sample(job.config.latency.num_rows), reader.census)
        waiting: collections.deque[tuple[Rows, Future[dict[str, Outputs]]]] = collections.deque()

        def tally(num_left: int) -> None:
            while len(waiting) > num_left:
                rows, predictions = waiting.popleft()
                found.tally.add(_batch(rows, predictions.result(), tuple(job.files)))

        try:
            for rows in reader.read(path):
                found.sample.add(number, rows)
                waiting.append((rows, self._thread.submit(self._predictor.predict, rows.columns)))
                tally(_MAX_WAITING)
        except DataError as error:
            found.refused = (number, str(error))
        tally(0)
        found.failures = dict(self._predictor.failures)
        found.takes = {name: self._predictor.takes(name) for name in job.files}
        yield None, (number, found)

    def teardown(self) -> None:
        self._owned.close()


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
    return Predictor(
        paths,
        outputs=tuple(config.labels),
        batch_size=config.batch_size,
        timeout_seconds=config.prediction_timeout_seconds,
    )


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


def _merge(grouped: tuple[None, Iterable[tuple[int, Found]]]) -> Found:
    """Returns what was found in all files, merged in their order: sums are then the same to the bit."""
    (_, total), *others = sorted(grouped[1], key=lambda one: one[0])
    for _, found in others:
        total.merge(found)
    return total


def _save(found: Found, path: str) -> None:
    """Writes what was found under a name of its own, then under the name it is looked for."""
    unfinished = f"{path}-{uuid.uuid4().hex}"
    with fileio.open(unfinished, "wb") as stream:
        stream.write(pickle.dumps(found))
    fileio.rename(unfinished, path, overwrite=True)
