"""Measures the speeds and sizes this project claims, each beside what one would use instead, in one run.

    python benchmarks/run.py                 all sections but those that take long, reduce-...
    python benchmarks/run.py fused latency   some of them
    python benchmarks/run.py gate 200        one with its number of runs
    python benchmarks/run.py beam 100        one with how many times the rows it goes to

Times are medians. Nothing is asserted: read the ratios.
"""

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # before anything imports TensorFlow
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads would measure how busy the machine is

import importlib
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FloatArray = Any


def start() -> None:
    """Prints what starting costs: our command line and import, beside importing TFX."""
    program = str(Path(sys.executable).parent / "tfx-mobile")
    runs = {
        "tfx-mobile --help": ([program, "--help"], 7),
        "import tfx_mobile": ([sys.executable, "-c", "import tfx_mobile"], 7),
        "import tfx.v1": ([sys.executable, "-c", "import tfx.v1"], 2),
    }
    seconds = {
        name: _median_seconds(lambda command=command: _run(command), repeats)  # type: ignore[misc]
        for name, (command, repeats) in runs.items()
    }
    slowest = seconds["import tfx.v1"]
    _print_table(
        "Start, wall time",
        ("", "median s", "times faster than import tfx.v1"),
        [(name, f"{value:.3f}", f"{slowest / value:.0f}") for name, value in seconds.items()],
    )


def fused() -> None:
    """Prints what quantising does to coordinates and dates: stock converter beside joined file."""
    import tensorflow as tf

    from tfx_mobile.common.candidates import gz_size_bytes
    from tfx_mobile.common.interpreter import TFLiteModel
    from tfx_mobile.quantizer import tflite
    from tfx_mobile.quantizer.config import Mode, Quantization
    from tfx_mobile.quantizer.join import join

    raw, labels = _trips(4000)
    means = {name: np.float32(values.mean()) for name, values in raw.items()}
    deviations = {name: np.float32(values.std()) for name, values in raw.items()}

    def scale(**features: Any) -> dict[str, Any]:
        return {
            f"{name}_z": tf.reshape((value - means[name]) / deviations[name], [-1, 1])
            for name, value in features.items()
        }

    scaled = {
        name: value.numpy() for name, value in scale(**{k: tf.constant(v) for k, v in raw.items()}).items()
    }
    model = _dense_model(sorted(scaled), width=64)
    model.fit(scaled, labels, epochs=15, batch_size=64, verbose=0)
    wanted = model.predict(scaled, batch_size=4096, verbose=0)
    few = {name: values[:300] for name, values in raw.items()}
    few_scaled = {name: values[:300] for name, values in scaled.items()}
    front = _stock(tf.Module(), scale, raw, Mode.FLOAT32, few)
    predictor = tflite.of_keras(model)
    whole = tf.Module()
    whole.model = model

    def everything(**features: Any) -> dict[str, Any]:
        return {"predictions": model(scale(**features), training=False)}

    lines = []
    for mode in (Mode.FLOAT32, Mode.FLOAT16, Mode.INT8):
        for who, content in (
            ("stock converter, whole graph", _stock(whole, everything, raw, mode, few)),
            ("tfx-mobile, joined", join(front, predictor.convert(Quantization(mode), few_scaled))),
        ):
            gap = np.abs(TFLiteModel(content).predict(raw) - wanted)
            lines.append(
                (mode.value, who, f"{gap.max():.4g}", f"{gap.mean():.4g}", str(gz_size_bytes(content)))
            )
    _print_table(
        f"Fused preprocessing, difference from Keras; labels have a standard deviation of {labels.std():.3g}",
        ("mode", "file", "largest", "mean", "gz bytes"),
        lines,
    )


def pca() -> None:
    """Prints the time of PCA on 100,000 x 64 rows in memory: ours in batches, scikit-learn's, NumPy's."""
    from sklearn.decomposition import PCA as StockPCA  # noqa: N811

    from tfx_mobile.dimensionality_reducer import core
    from tfx_mobile.dimensionality_reducer.config import PCA
    from tfx_mobile.dimensionality_reducer.rows import Rows
    from tfx_mobile.dimensionality_reducer.statistics import Statistics

    draw = np.random.default_rng(1)
    rows = (draw.normal(size=(100_000, 64)) @ draw.normal(size=(64, 64))).astype(np.float32)
    exact = rows.astype(np.float64)
    names = [f"x{i}" for i in range(64)]
    reduction = PCA(inputs=("x",), output="y", n_components=16, standardise=False)

    def ours() -> FloatArray:
        gathered = Statistics(reduction, 64, 64)
        for batch in _batches(rows, 4096):
            gathered.add(Rows.of(batch))
        return core.fit(reduction, gathered, names).explained_variance

    def sklearn() -> FloatArray:
        return StockPCA(n_components=16).fit(exact).explained_variance_

    def numpy() -> FloatArray:
        return np.linalg.eigh(np.cov(exact, rowvar=False))[0][::-1][:16]

    methods = {
        "tfx-mobile, batches of 4096 float32": ours,
        "sklearn PCA.fit, float64": sklearn,
        "np.cov + eigh, float64": numpy,
    }
    seconds = {name: _median_seconds(method, 5) for name, method in methods.items()}
    truth = numpy()
    _print_table(
        "PCA of 100,000 x 64 numbers in memory",
        ("method", "median s", "rows/s", "times ours", "largest relative difference from np.cov + eigh"),
        [
            (
                name,
                f"{seconds[name]:.3f}",
                f"{100_000 / seconds[name]:,.0f}",
                f"{seconds[name] / next(iter(seconds.values())):.2f}",
                f"{np.abs(method() / truth - 1).max():.1e}",
            )
            for name, method in methods.items()
        ],
    )


def latency() -> None:
    """Prints paired latencies of a 256-wide net in float32 and int8, as the evaluator measures them."""
    from tfx_mobile.common.candidates import gz_size_bytes
    from tfx_mobile.quantizer import tflite
    from tfx_mobile.quantizer.config import Mode, Quantization
    from tfx_mobile.size_latency_evaluator import latency as evaluator
    from tfx_mobile.size_latency_evaluator.config import LatencyConfig

    names = [f"x{i}" for i in range(8)]
    draw = np.random.default_rng(1)
    rows = {name: draw.normal(size=(200, 1)).astype(np.float32) for name in names}
    predictor = tflite.of_keras(_dense_model(names, width=256))
    with tempfile.TemporaryDirectory() as folder:
        contents = {
            mode.value: predictor.convert(Quantization(mode), rows) for mode in (Mode.FLOAT32, Mode.INT8)
        }
        paths = {name: Path(folder) / f"{name}.tflite" for name in contents}
        for name, content in contents.items():
            paths[name].write_bytes(content)
        found = evaluator.measure(
            paths, rows, LatencyConfig(processes=(5,)), always=(), still_open=lambda samples: set()
        )
    medians = {name: [sample.p50_ns for sample in samples] for name, samples in found.samples.items()}
    slow = medians["float32"]
    lines = []
    for name, values in medians.items():
        ratios = [other / value for value, other in zip(values, slow, strict=True)]
        lines.append(
            (
                name,
                f"{statistics.median(values) / 1000:.1f}",
                f"{statistics.median(ratios):.2f}",
                f"{min(ratios):.2f} to {max(ratios):.2f}",
                str(gz_size_bytes(contents[name])),
            )
        )
    _print_table(
        f"Latency of a 256-256-1 net, batch 1, one thread, {found.machine.processes} fresh processes, "
        f"{found.machine.runtime}",
        ("file", "median us", "times faster than float32", "over processes", "gz bytes"),
        lines,
    )


def reduce() -> None:
    """Prints the time and memory of reducing Examples of 64 numbers, beside tft.pca and copying them."""
    _compare_reductions("vector")


def reduce_scalars() -> None:
    """Prints the same for Examples with 64 features of one number each."""
    _compare_reductions("scalars")


def reduce_scale() -> None:
    """Prints how time and memory of the reducer grow with rows and with width."""
    import reduction

    shapes = [(100_000, 64), (1_000_000, 64), (100_000, 16), (100_000, 256), (100_000, 1024)]
    lines = []
    for rows, width in shapes:
        with tempfile.TemporaryDirectory() as folder:
            reduction.write_rows(Path(folder), rows=rows, width=width, layout="vector")
            found = reduction.run_each({"tfx-mobile": 3}, Path(folder))["tfx-mobile"]
        lines.append((rows, width, found))
    first = lines[0][2]
    _print_table(
        "DimensionalityReducer, fit and write, PCA to 12 components, one worker; medians of 3 processes",
        ("rows", "width", "s", "times the first", "cpu s", "times", "rows/s", "peak MiB", "times"),
        [
            (
                f"{rows:,}",
                str(width),
                f"{found.seconds:.1f}",
                f"{found.seconds / first.seconds:.2f}",
                f"{found.cpu_seconds:.1f}",
                f"{found.cpu_seconds / first.cpu_seconds:.2f}",
                f"{rows / found.seconds:,.0f}",
                f"{found.peak_bytes / 2**20:.0f}",
                f"{found.peak_bytes / first.peak_bytes:.2f}",
            )
            for rows, width, found in lines
        ],
    )


def section_of(module: str, name: str) -> Callable[..., None]:
    """Returns a section of a module beside this one, which prints its tables as they come."""

    def section(*arguments: int) -> None:
        for table in getattr(importlib.import_module(module), name)(*arguments):
            _print_table(table.title, table.header, table.lines)
            print(flush=True)

    return section


_PRUNING = ("mnist", "sequences", "ladder", "overhead", "allocation", "structured")
_QUANTIZATION = ("mnist", "candidates", "preprocessing")
SECTIONS: dict[str, Callable[..., None]] = {
    "start": start,
    "fused": fused,
    "pca": pca,
    "latency": latency,
    "reduce": reduce,
    "reduce-scalars": reduce_scalars,
    "reduce-scale": reduce_scale,
    "gate": section_of("latency", "gate"),
    "latency-tool": section_of("latency", "tool"),
    "evaluate": section_of("evaluation", "evaluate"),
    "evaluate-memory": section_of("evaluation", "memory"),
    "beam": section_of("beam", "scale"),
    "registry": section_of("registry", "registry"),
    **{f"pruning-{name}": section_of("pruning", name) for name in _PRUNING},
    **{f"quantization-{name}": section_of("quantization", name) for name in _QUANTIZATION},
}
COUNTED = ("beam", "gate", "latency-tool")  # sections that take a number: of runs, or of times the rows
ONLY_BY_NAME = {
    *COUNTED,
    "reduce-scalars",
    "reduce-scale",
    "evaluate-memory",
    "registry",
    "quantization-mnist",
    *(f"pruning-{name}" for name in _PRUNING if name != "overhead"),
}


def main(chosen: Sequence[str]) -> int:
    """Runs the chosen sections; none chosen is all but those that take long."""
    plan: list[tuple[str, list[int]]] = []
    for word in chosen or [name for name in SECTIONS if name not in ONLY_BY_NAME]:
        if word in SECTIONS:
            plan.append((word, []))
        elif word.isdecimal() and int(word) > 1 and plan and plan[-1][0] in COUNTED and not plan[-1][1]:
            plan[-1][1].append(int(word))
        else:
            print(
                f"Section must be one of {', '.join(SECTIONS)}, a number from 2 on after "
                f"{' or '.join(COUNTED)}; got {word!r}.",
                file=sys.stderr,
            )
            return 2
    for name, arguments in plan:
        begin = time.perf_counter()
        SECTIONS[name](*arguments)
        print(f"({name}: {time.perf_counter() - begin:.0f} s)\n", flush=True)
    return 0


def _compare_reductions(layout: str) -> None:
    import reduction

    rows, width = 100_000, 64
    repeats = {
        "tfx-mobile": 3,
        "tft.pca, record batches": 1,
        "tft.pca, rows as dicts": 1,
        "copy: Beam's TFRecords": 1,
        "copy: TFXIO": 1,
        "copy: our batches": 2,
    }
    with tempfile.TemporaryDirectory() as folder:
        reduction.write_rows(Path(folder), rows=rows, width=width, layout=layout)
        found = reduction.run_each(repeats, Path(folder))
    ours = found["tfx-mobile"]
    _print_table(
        f"{rows:,} x {width} ({layout}) to {reduction.COMPONENTS} components, fit and write, one worker",
        (
            "method",
            "processes",
            "s",
            "rows/s",
            "times ours",
            "cpu s",
            "times ours",
            "peak MiB",
            "of it imports",
        ),
        [
            (
                name,
                str(repeats[name]),
                f"{run.seconds:.2f}",
                f"{rows / run.seconds:,.0f}",
                f"{run.seconds / ours.seconds:.2f}",
                f"{run.cpu_seconds:.2f}",
                f"{run.cpu_seconds / ours.cpu_seconds:.2f}",
                f"{run.peak_bytes / 2**20:.0f}",
                f"{run.imported_bytes / 2**20:.0f}",
            )
            for name, run in found.items()
        ],
    )


def _trips(count: int) -> tuple[dict[str, FloatArray], FloatArray]:
    draw = np.random.default_rng(3)
    latitude, longitude = draw.normal(41.87, 0.04, count), draw.normal(-87.65, 0.05, count)
    epoch_s, miles = draw.uniform(1.38e9, 1.42e9, count), draw.gamma(2.0, 2.0, count)
    fare = 3.0 + 2.25 * miles + 60 * np.hypot(latitude - 41.87, longitude + 87.65) + (epoch_s - 1.4e9) / 1e7
    raw = {"latitude": latitude, "longitude": longitude, "epoch_s": epoch_s, "miles": miles}
    return {name: values.astype(np.float32) for name, values in raw.items()}, fare.astype(np.float32)


def _dense_model(names: Sequence[str], *, width: int) -> Any:
    import tf_keras
    from tf_keras import layers

    tf_keras.utils.set_random_seed(1)
    inputs = {name: layers.Input((1,), name=name) for name in names}
    hidden = layers.Concatenate()(list(inputs.values()))
    for _ in range(2):
        hidden = layers.Dense(width, activation="relu")(hidden)
    model = tf_keras.Model(inputs, layers.Dense(1)(hidden))
    model.compile("adam", "mse")
    return model


def _stock(module: Any, function: Any, raw: dict[str, Any], mode: Any, calibration: dict[str, Any]) -> bytes:
    """Returns the file that TensorFlow's converter makes of a function, set up as its guide says."""
    import tensorflow as tf

    def rows() -> Iterator[dict[str, Any]]:
        for i in range(len(next(iter(calibration.values())))):
            yield {name: values[i : i + 1] for name, values in calibration.items()}

    specs = {name: tf.TensorSpec([None], tf.float32, name=name) for name in raw}
    traced = tf.function(function, autograph=False).get_concrete_function(**specs)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={"serving_default": traced})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if mode.value != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if mode.value == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if mode.value == "int8":
            converter.representative_dataset = rows
        return bytes(converter.convert())


def _batches(rows: FloatArray, size: int) -> Iterator[FloatArray]:
    for begin in range(0, len(rows), size):
        yield rows[begin : begin + size]


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _median_seconds(call: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _print_table(title: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    widths = [max(len(line[i]) for line in (header, *lines)) for i in range(len(header))]
    print(title)
    for line in (header, *lines):
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main(sys.argv[1:]))
