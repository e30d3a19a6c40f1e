"""Evaluates 100,000 taxi-like rows with our Beam pipeline, beside TFMA and the bare interpreter.

Each method runs in a process of its own, which is this file with the method's name and a folder:

    python benchmarks/evaluation.py tfx-mobile FOLDER

Time begins when the imports are done and ends with the metrics: the pipeline's construction, the start of
processes and TensorFlow's first steps are in it. The bare interpreter has its rows in memory.
"""

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # before anything imports TensorFlow
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import dataclasses
import functools
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROWS = 100_000
FEW_ROWS = (500, 5_000)  # TFMA's, from which its time for ROWS follows
WIDTHS = {"small net": 32, "net": 256, "wide net": 384}  # of both hidden layers
COPIES = 4
LABEL = "fare"
ROUNDS = 3
BARE_BATCH = 512
COMPANIES = [b"Flash Cab", b"Sun Taxi", b"Blue Diamond", b"City Service", b"Taxi Affiliation Services"]
FLOATS = ("miles", "seconds", "pickup_lat", "pickup_lon", "dropoff_lat", "dropoff_lon")


@dataclasses.dataclass(frozen=True)
class Table:
    """Lines to print."""

    title: str
    header: tuple[str, ...]
    lines: list[tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Run:
    """What one process measured.

    Attributes:
      seconds: Wall time without imports.
      cpu_seconds: Of all threads and of the processes it started.
      peak_bytes: Largest resident memory of the process itself.
      rmse: Of the first file.
      mae: Likewise.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    rmse: float
    mae: float


def evaluate() -> Iterator[Table]:
    """Yields tables of speed and of agreement, for two nets, one file and several."""
    for title, width in WIDTHS.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_file(folder, width)
            for rows in (ROWS, *FEW_ROWS):
                write_rows(folder, rows)
            yield _speed(f"{title} 12-{width}-{width}-1", folder)
            yield _agreement(folder)


def memory() -> Iterator[Table]:
    """Yields how time and memory grow with rows."""
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_file(folder, WIDTHS["small net"])
        for rows in (ROWS, 10 * ROWS):
            write_rows(folder, rows)
            found = run("tfx-mobile", folder, rows)
            mebibytes = f"{found.peak_bytes / 2**20:.0f}"
            lines.append((f"{rows:,}", f"{found.seconds:.2f}", f"{rows / found.seconds:,.0f}", mebibytes))
    yield Table("Evaluating more rows, one worker", ("rows", "s", "rows/s", "peak MiB"), lines)


def run(method: str, folder: Path, rows: int) -> Run:
    """Runs a method in a fresh process."""
    command = [sys.executable, __file__, method, str(folder), str(rows)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{method} failed:\n{done.stderr[-4000:]}")
    return Run(**json.loads(done.stdout.splitlines()[-1]))


def in_turn(jobs: Sequence[tuple[str, int]], folder: Path) -> list[Run]:
    """Runs methods on so many rows, taking turns, and returns the medians of each."""
    rounds = [[run(method, folder, rows) for method, rows in jobs] for _ in range(ROUNDS)]
    names = [one.name for one in dataclasses.fields(Run)]
    return [
        Run(**{name: statistics.median(getattr(one, name) for one in found) for name in names})
        for found in zip(*rounds, strict=True)
    ]


def write_file(folder: Path, width: int) -> None:
    """Writes `files/tflite`: raw features -> scaling and one-hot -> two hidden layers, in float32."""
    import tensorflow as tf

    columns, _ = _rows(2_000)
    draw = np.random.default_rng(2)
    shapes = ((len(FLOATS) + 1 + len(COMPANIES), width), (width, width), (width, 1))

    class Fare(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            keys, values = tf.constant(COMPANIES), tf.range(len(COMPANIES), dtype=tf.int64)
            self.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), -1)
            self.weights = [tf.Variable(draw.normal(size=s).astype(np.float32) / s[0] ** 0.5) for s in shapes]

        def serve(self, **raw: Any) -> Any:
            scaled = [
                (tf.cast(raw[name], tf.float32) - float(columns[name].mean())) / float(columns[name].std())
                for name in (*FLOATS, "hour")
            ]
            companies = tf.one_hot(self.table.lookup(raw["company"])[:, 0], len(COMPANIES))
            hidden = tf.concat([*scaled, companies], axis=1)
            for weights in self.weights[:-1]:
                hidden = tf.nn.relu(tf.matmul(hidden, weights))
            return {LABEL: 10.0 + tf.matmul(hidden, self.weights[-1])}

    module = Fare()
    types = dict.fromkeys(FLOATS, tf.float32) | {"hour": tf.int64, "company": tf.string}
    specs = {name: tf.TensorSpec([None, 1], dtype, name=name) for name, dtype in types.items()}
    module.traced = tf.function(module.serve, autograph=False)
    traced = module.traced.get_concrete_function(**specs)
    with tempfile.TemporaryDirectory() as saved:
        tf.saved_model.save(module, saved, signatures={"serving_default": traced})
        content = tf.lite.TFLiteConverter.from_saved_model(saved).convert()
    (folder / "files").mkdir()
    (folder / "files" / "tflite").write_bytes(content)


def write_rows(folder: Path, rows: int) -> None:
    """Writes `rows-<rows>/data.gz` and `rows-<rows>.npz` with the same rows."""
    import pyarrow as pa
    import tensorflow as tf
    from tfx_bsl.coders import example_coder

    columns, labels = _rows(rows)
    np.savez(
        folder / f"rows-{rows}.npz",
        **{**columns, "company": columns["company"].astype("S")},
        **{LABEL: labels},
    )
    columns[LABEL] = labels
    encoder = example_coder.RecordBatchToExamplesEncoder()
    (folder / f"rows-{rows}").mkdir()
    with tf.io.TFRecordWriter(str(folder / f"rows-{rows}" / "data.gz"), "GZIP") as writer:
        for begin in range(0, rows, 4096):
            parts = {name: values[begin : begin + 4096] for name, values in columns.items()}
            lists = [
                pa.LargeListArray.from_arrays(pa.array(np.arange(len(part) + 1)), pa.array(part))
                for part in parts.values()
            ]
            for record in encoder.encode(pa.RecordBatch.from_arrays(lists, list(parts))):
                writer.write(record)


def with_ours(folder: Path, rows: int, copies: int = 1) -> Callable[[], tuple[float, float]]:
    """Returns what evaluates with our pipeline the file, under so many names."""
    import apache_beam

    from tfx_mobile.size_latency_evaluator import beam
    from tfx_mobile.size_latency_evaluator.config import EvaluatorConfig, SizeGate

    config = EvaluatorConfig(LABEL, (SizeGate(max_bytes=1),))
    paths = {f"file{i}": folder / "files" / "tflite" for i in range(copies)}

    def call() -> tuple[float, float]:
        found = beam.predict(
            paths,
            config,
            patterns=[str(folder / f"rows-{rows}" / "*")],
            missing={},
            make_pipeline=apache_beam.Pipeline,
            folder=str(folder),
        )
        rmse, mae = (found.accuracy.value(name, "file0") for name in ("rmse", "mae"))
        return (math.nan if rmse is None else rmse, math.nan if mae is None else mae)

    return call


def with_bare_interpreter(folder: Path, rows: int, copies: int = 1) -> Callable[[], tuple[float, float]]:
    """Returns what calls the interpreter on columns in memory."""
    from ai_edge_litert import interpreter as litert

    with np.load(folder / f"rows-{rows}.npz") as content:
        columns = {name: content[name].reshape(-1, 1) for name in content.files}
    labels = columns.pop(LABEL)[:, 0].astype(np.float64)
    content = (folder / "files" / "tflite").read_bytes()

    def predict() -> Any:
        interpreter = litert.Interpreter(model_content=content, num_threads=1)
        inputs = {one["name"].split(":")[0]: one["index"] for one in interpreter.get_input_details()}
        output = interpreter.get_output_details()[0]["index"]
        found, size = [], 0
        for begin in range(0, rows, BARE_BATCH):
            if (here := min(BARE_BATCH, rows - begin)) != size:
                size = here
                for index in inputs.values():
                    interpreter.resize_tensor_input(index, [size, 1])
                interpreter.allocate_tensors()
            for name, index in inputs.items():
                column = columns[name.removeprefix("serving_default_")]
                interpreter.set_tensor(index, column[begin : begin + size])
            interpreter.invoke()
            found.append(interpreter.get_tensor(output))
        return np.concatenate(found)[:, 0]

    def call() -> tuple[float, float]:
        for _ in range(copies):
            errors = predict() - labels
        return math.sqrt(np.mean(errors**2)), float(np.mean(np.abs(errors)))

    return call


def with_tfma(folder: Path, rows: int) -> Callable[[], tuple[float, float]]:
    """Returns what evaluates as the stock Evaluator does."""
    import tensorflow_model_analysis as tfma
    from tensorflow_model_analysis.proto import config_pb2

    config = config_pb2.EvalConfig(
        model_specs=[config_pb2.ModelSpec(label_key=LABEL, model_type="tf_lite")],
        metrics_specs=[
            config_pb2.MetricsSpec(
                metrics=[
                    config_pb2.MetricConfig(class_name="RootMeanSquaredError"),
                    config_pb2.MetricConfig(class_name="MeanAbsoluteError"),
                ]
            )
        ],
        slicing_specs=[config_pb2.SlicingSpec()],
    )

    def call() -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as target:
            found = tfma.run_model_analysis(
                eval_shared_model=tfma.default_eval_shared_model(str(folder / "files"), eval_config=config),
                eval_config=config,
                data_location=str(folder / f"rows-{rows}" / "*"),
                file_format="tfrecords",
                output_path=target,
            )
        metrics = found.get_metrics_for_slice()
        names = ("root_mean_squared_error", "mean_absolute_error")
        rmse, mae = (float(metrics[name]["doubleValue"]) for name in names)
        return rmse, mae

    return call


METHODS: dict[str, Any] = {
    "tfx-mobile": with_ours,
    "tfx-mobile, 4 files": functools.partial(with_ours, copies=COPIES),
    "bare interpreter": with_bare_interpreter,
    "bare interpreter, 4 files": functools.partial(with_bare_interpreter, copies=COPIES),
    "TFMA": with_tfma,
}


def main(argv: Sequence[str]) -> int:
    """Runs one method and prints what was measured."""
    method, folder, rows = argv
    call = METHODS[method](Path(folder), int(rows))
    begin, begin_cpu = time.perf_counter(), _cpu_seconds()
    rmse, mae = call()
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = Run(time.perf_counter() - begin, _cpu_seconds() - begin_cpu, peak_bytes, rmse, mae)
    print(json.dumps(dataclasses.asdict(found)))
    return 0


def _speed(title: str, folder: Path) -> Table:
    fast = ("bare interpreter", "tfx-mobile", "bare interpreter, 4 files", "tfx-mobile, 4 files")
    jobs = [*((method, ROWS) for method in fast), *(("TFMA", rows) for rows in FEW_ROWS)]
    bare, one, bare_many, many, few, more = in_turn(jobs, folder)
    ours = {"tfx-mobile": (one, bare, 1), "tfx-mobile, 4 files": (many, bare_many, COPIES)}
    tfma = {field: _scaled(getattr(few, field), getattr(more, field)) for field in ("seconds", "cpu_seconds")}
    lines = [("bare interpreter, rows in memory", *_shown(bare, bare, tfma))]
    for name, (found, base, copies) in ours.items():
        scaled = {field: value * copies for field, value in tfma.items()}
        lines.append((name, *_shown(found, base, scaled)))
    shown = (f"{tfma['seconds']:.0f}", f"{ROWS / tfma['seconds']:,.0f}", f"{tfma['cpu_seconds']:.0f}")
    lines.append((f"TFMA, from {FEW_ROWS[0]:,} and {FEW_ROWS[1]:,} rows", *shown, "", "", "", ""))
    header = ("method", "s", "rows/s", "cpu s", "MiB", "of bare speed", "times TFMA", "in cpu s")
    return Table(f"{ROWS:,} rows, 8 features, {title}, one file, gzip tf.Examples, one worker", header, lines)


def _scaled(few: float, more: float) -> float:
    """Returns TFMA's figure for ROWS: its start once, and as much for each row as between few and more."""
    return few + (more - few) / (FEW_ROWS[1] - FEW_ROWS[0]) * (ROWS - FEW_ROWS[0])


def _shown(found: Run, bare: Run, tfma: Mapping[str, float]) -> tuple[str, ...]:
    return (
        f"{found.seconds:.2f}",
        f"{ROWS / found.seconds:,.0f}",
        f"{found.cpu_seconds:.2f}",
        f"{found.peak_bytes / 2**20:.0f}",
        f"{bare.seconds / found.seconds:.0%}",
        f"{tfma['seconds'] / found.seconds:,.0f}",
        f"{tfma['cpu_seconds'] / found.cpu_seconds:,.0f}",
    )


def _agreement(folder: Path) -> Table:
    rows = FEW_ROWS[1]
    found = {name: run(name, folder, rows) for name in ("tfx-mobile", "bare interpreter", "TFMA")}
    first = found["tfx-mobile"]
    lines = [
        (
            name,
            f"{one.rmse:.9f}",
            f"{one.rmse / first.rmse - 1:.0e}",
            f"{one.mae:.9f}",
            f"{one.mae / first.mae - 1:.0e}",
        )
        for name, one in found.items()
    ]
    header = ("method", "RMSE", "relative difference", "MAE", "relative difference")
    return Table(f"The same {rows:,} rows", header, lines)


def _rows(count: int) -> tuple[dict[str, Any], Any]:
    draw = np.random.default_rng(1)
    numbers = {
        "miles": draw.gamma(2.0, 2.0, count),
        "seconds": draw.gamma(2.0, 400.0, count),
        "pickup_lat": draw.normal(41.87, 0.04, count),
        "pickup_lon": draw.normal(-87.65, 0.05, count),
        "dropoff_lat": draw.normal(41.87, 0.04, count),
        "dropoff_lon": draw.normal(-87.65, 0.05, count),
    }
    columns: dict[str, Any] = {name: values.astype(np.float32) for name, values in numbers.items()}
    columns["hour"] = draw.integers(0, 24, count)
    columns["company"] = np.array(COMPANIES, dtype=object)[draw.integers(0, len(COMPANIES), count)]
    fares = 3.0 + 2.25 * columns["miles"] + 0.002 * columns["seconds"] + draw.normal(0.0, 1.0, count)
    return columns, fares.astype(np.float32)


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main(sys.argv[1:]))
