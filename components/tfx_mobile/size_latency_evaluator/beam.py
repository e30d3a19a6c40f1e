"""Evaluation rows -> every file's predictions -> one tally, as a Beam pipeline. No element is a single row.

An element is one of the split's files, cut into batches that do not depend on the workers; it gives one
`Found`, and these are merged in the order of the files: so the result does not depend on the workers either.
Each worker runs the TFLite files in processes beside it (predictor.py), which predict with one batch while
the next one is read. The result comes back through a file that is there whole or not at all. Rows or files
that cannot be used do not fail the pipeline: they are counted, and the caller is told. Judges nothing.
"""

import collections
import contextlib
import os
import pickle
import queue
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from tfx.dsl.io import fileio

from tfx_mobile.common.errors import DataError
from tfx_mobile.common.hashing import mix
from tfx_mobile.size_latency_evaluator.accuracy import Accuracy, Batch, Tally
from tfx_mobile.size_latency_evaluator.config import EvaluatorConfig
from tfx_mobile.size_latency_evaluator.examples import (
    Census,
    Look,
    Reader,
    Records,
    Rows,
    Wanted,
    first_look,
    rows_at_once,
)
from tfx_mobile.size_latency_evaluator.predictor import Features, Outputs, Predictor

_MAX_CARRIED_BYTES = 1 << 18  # of all files together: Beam compresses them slowly
_SLOW_SECONDS = 0.25  # for what is read at once: as long as a process takes to start
_LOCAL_RUNNERS = ("DirectRunner", "SwitchingDirectRunner", "BundleBasedDirectRunner", "FnApiRunner")
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
      num_processes: That a worker may start to predict.
    """

    key: str
    files: Mapping[str, bytes | str]
    config: EvaluatorConfig
    wanted: Wanted
    look: Look
    num_processes: int


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
        _merge_reasons(self.failures, other.failures)
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
    key = uuid.uuid4().hex
    with _ahead_of_time(key, paths, config):
        look = first_look(patterns, wanted)
        pipeline = make_pipeline()
        job = Job(key, _carried(paths), config, wanted, look, _processes_per_worker(pipeline.options))
        found = _run_here(job) if _is_one_thread(pipeline.options) else _run(pipeline, job, folder)
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


def _run(pipeline: beam.Pipeline, job: Job, folder: str) -> Found:
    target = f"{folder}/predictions-{uuid.uuid4().hex}"
    with contextlib.ExitStack() as stack:
        if not _is_local(pipeline.options):
            job = replace(job, files=stack.enter_context(_shared(job.files, f"{target}-files")))
        with pipeline:
            _ = pipeline | PredictSplit(job) | "Keep" >> beam.Map(_save, target)
    with fileio.open(target, "rb") as stream:
        found: Found = pickle.loads(stream.read())
    fileio.remove(target)
    return found


def _run_here(job: Job) -> Found:
    """Does what Beam's local runner does with one worker, without its start, as long as 50,000 rows take."""
    worker = _PredictFiles(job)
    worker.setup()
    try:
        return _merge(
            (None, [found for file in enumerate(job.look.paths) for _, found in worker.process(file)])
        )
    finally:
        worker.teardown()


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
    def __init__(self, job: Job) -> None:
        self._job = job

    def setup(self) -> None:
        job, self._owned = self._job, contextlib.ExitStack()
        folder = self._owned.enter_context(tempfile.TemporaryDirectory(prefix="tfx_mobile_predict_"))
        paths = _local(job.files, Path(folder))
        first = _IDLE.take(job.key) or _predictor(paths, job.config)
        self._crew = _Crew(first, lambda: _predictor(paths, job.config), job.num_processes)
        self._owned.callback(self._crew.close)
        self._widths: dict[str, dict[str, int]] = {}

    def process(self, element: tuple[int, str]) -> Iterator[tuple[None, tuple[int, Found]]]:
        (number, path), job = element, self._job
        records = Records(path, rows_at_once(job.look, job.config.batch_size))
        reader = Reader(job.wanted, self._crew.features(), job.look)
        found = Found(Tally(job.config, tuple(job.files)), Sample(job.config.latency.num_rows), reader.census)
        waiting: collections.deque[tuple[Rows, Future[dict[str, Outputs]]]] = collections.deque()

        def tally(num_left: int) -> None:
            while len(waiting) > num_left:
                rows, predictions = waiting.popleft()
                found.tally.add(self._batch(rows, predictions.result()))

        try:
            for rows in reader.read(records):
                found.sample.add(number, rows)
                waiting.append((rows, self._crew.submit(rows.columns)))
                tally(self._crew.size + 1)
            tally(0)
        except DataError as error:
            found.refused = (number, str(error))
            wait([one for _, one in waiting])
        found.failures = self._crew.failures()
        found.takes = {name: self._crew.takes(name) for name in job.files}
        yield None, (number, found)

    def teardown(self) -> None:
        self._owned.close()

    def _batch(self, rows: Rows, predictions: Mapping[str, Outputs]) -> Batch:
        """Returns the rows with each file's predictions; NaN for one that has failed."""
        found: dict[str, Mapping[str, npt.NDArray[np.float32]]] = {}
        for name in self._job.files:
            outputs = predictions.get(name)
            if outputs is None:
                like = {output: values.shape[1] for output, values in rows.labels.items()}
                widths = self._widths.get(name, like)
                outputs = {o: np.full((len(rows), width), np.nan, np.float32) for o, width in widths.items()}
            elif list(rows.labels) == [""]:
                outputs = {"": np.concatenate([outputs[output] for output in sorted(outputs)], axis=1)}
            self._widths[name] = {output: values.shape[1] for output, values in outputs.items()}
            found[name] = outputs
        return Batch(rows.labels, found, rows.extra, rows.weights)


class _Crew:
    """Predictors with the same files: one, and more where predicting takes longer than starting another.

    Args:
      first: One of them.
      start: Returns another one.
      max_size: At most so many.
      slow_seconds: How long predicting with one batch may take with one of them.
    """

    def __init__(
        self,
        first: Predictor,
        start: Callable[[], Predictor],
        max_size: int,
        slow_seconds: float = _SLOW_SECONDS,
    ) -> None:
        self._first, self._start, self._max_size, self._slow_seconds = first, start, max_size, slow_seconds
        self._all, self._is_slow = [first], False
        self._idle: queue.SimpleQueue[Predictor] = queue.SimpleQueue()
        self._idle.put(first)
        self._threads = ThreadPoolExecutor(max_size)

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self._all)

    def features(self) -> Features:
        """Returns what the files take."""
        return self._first.features()

    def takes(self, name: str) -> tuple[str, ...]:
        """Returns the features that a file takes."""
        return self._first.takes(name)

    def failures(self) -> dict[str, str]:
        """Returns why files have failed, in any of them."""
        found: dict[str, str] = {}
        for predictor in self._all:
            _merge_reasons(found, predictor.failures)
        return found

    def submit(self, columns: Mapping[str, npt.NDArray[Any]]) -> Future[dict[str, Outputs]]:
        """Begins to predict."""
        if self._is_slow and self.size < self._max_size:
            self._all.append(self._start())
            self._idle.put(self._all[-1])
        return self._threads.submit(self._predict, columns)

    def close(self) -> None:
        """Ends all of them."""
        self._threads.shutdown()
        for predictor in self._all:
            predictor.close()

    def _predict(self, columns: Mapping[str, npt.NDArray[Any]]) -> dict[str, Outputs]:
        predictor = self._idle.get()
        begin = time.monotonic()
        try:
            return predictor.predict(columns)
        finally:
            self._is_slow |= time.monotonic() - begin > self._slow_seconds
            self._idle.put(predictor)


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


def _merge_reasons(reasons: dict[str, str], others: Mapping[str, str]) -> None:
    for name, reason in others.items():
        reasons[name] = min(reasons.get(name, reason), reason)


def _processes_per_worker(options: PipelineOptions) -> int:
    """Returns how many processes a worker may have: its share of this machine's cores, if it runs here."""
    if not _is_local(options):
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // (options.view_as(DirectOptions).direct_num_workers or cores))


def _is_local(options: PipelineOptions) -> bool:
    runner = options.view_as(StandardOptions).runner or "DirectRunner"
    return runner.rpartition(".")[2] in _LOCAL_RUNNERS


def _is_one_thread(options: PipelineOptions) -> bool:
    """Returns whether the pipeline would run in one thread of this process."""
    direct = options.view_as(DirectOptions)
    is_in_memory = (direct.direct_running_mode or "in_memory") == "in_memory"
    return _is_local(options) and is_in_memory and direct.direct_num_workers == 1


def _predictor(paths: Mapping[str, Path], config: EvaluatorConfig) -> Predictor:
    return Predictor(
        paths,
        outputs=tuple(config.labels),
        batch_size=config.batch_size,
        timeout_seconds=config.prediction_timeout_seconds,
    )


def _carried(paths: Mapping[str, Path]) -> dict[str, bytes | str]:
    """Returns the files' contents, or where they are if they are large."""
    if sum(path.stat().st_size for path in paths.values()) > _MAX_CARRIED_BYTES:
        return {name: str(path) for name, path in paths.items()}
    return {name: path.read_bytes() for name, path in paths.items()}


@contextlib.contextmanager
def _shared(files: Mapping[str, bytes | str], folder: str) -> Iterator[dict[str, bytes | str]]:
    """Yields the files where workers on other machines can read them, and takes them away again."""
    found = dict(files)
    fileio.makedirs(folder)
    try:
        for number, (name, content) in enumerate(files.items()):
            if isinstance(content, str):
                found[name] = f"{folder}/{number}.tflite"
                fileio.copy(content, found[name])
        yield found
    finally:
        fileio.rmtree(folder)


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
