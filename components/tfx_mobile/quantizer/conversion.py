"""One candidate, from a rung of the ladder to a proven file; runs in a worker process.

What candidates share lies in a folder: the preprocessing as a TFLite file, representative rows, rows to
compare on, what is written into each file. A failure is a DataError with its reason in one line, and costs
this candidate only.
"""

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any

from tfx_mobile.common import candidates, files, tflite_metadata, tflite_weights
from tfx_mobile.common.candidates import Candidate
from tfx_mobile.common.errors import DataError
from tfx_mobile.common.interpreter import Kernels, flex_ops
from tfx_mobile.common.ladder import Rung, Twin
from tfx_mobile.common.tflite_metadata import Feature, ModelMetadata
from tfx_mobile.quantizer import calibration, coarse, mixed, proof, tflite
from tfx_mobile.quantizer.config import CONVERTER_MODES, MAX_WEIGHT_BITS, Mode, Quantization
from tfx_mobile.quantizer.join import join
from tfx_mobile.quantizer.preparation import Shared
from tfx_mobile.quantizer.simplify import number_tables, simplify
from tfx_mobile.quantizer.strip import strip


def make_candidate(
    *, shared: str, model: str, rung: dict[str, Any], quantization: dict[str, Any], folder: str
) -> dict[str, Any]:
    """Converts, proves and writes one candidate.

    Args:
      shared: Path of what `Shared.write` wrote.
      model: Folder of the rung's SavedModel.
      rung: A Rung, as a dict.
      quantization: A Quantization, as a dict.
      folder: Of the candidates.

    Returns:
      The Candidate, as a dict.

    Raises:
      DataError: It cannot be converted, loses zeros, does not run or not right, or cannot be written.
    """
    made = _make(
        _read(shared),
        _opened(model),
        Rung.from_dict(rung),
        Quantization.from_dict(quantization),
        Path(folder),
    )
    return made.to_dict()


def activation_scales(*, shared: str, model: str, half: int) -> dict[str, Any]:
    """Returns the scales that int8 gets from one half of the representative rows.

    Args:
      shared: Path of what `Shared.write` wrote.
      model: Folder of a SavedModel.
      half: 0 or 1.
    """
    rows = calibration.halves(_read(shared).sample)[half]
    content = _opened(model).predictor.convert(Quantization(Mode.INT8), rows)
    return {name: dataclasses.asdict(scale) for name, scale in calibration.scales(content).items()}


class _Model:
    """A rung's model, with what several candidates need of it made once."""

    def __init__(self, folder: Path) -> None:
        self.predictor = tflite.load(folder)

    @functools.cached_property
    def float32(self) -> bytes:
        return self.predictor.convert(Quantization(Mode.FLOAT32), {})

    @functools.cached_property
    def layers(self) -> dict[str, tuple[str, ...]]:
        return mixed.layers(self.float32, self.predictor.kernels())


@functools.lru_cache(maxsize=1)
def _read(path: str) -> Shared:
    return Shared.read(Path(path))


@functools.lru_cache(maxsize=1)
def _opened(folder: str) -> _Model:
    return _Model(Path(folder))


def _make(shared: Shared, model: _Model, rung: Rung, quantization: Quantization, folder: Path) -> Candidate:
    name = f"{rung.name}-{quantization.name}"
    content, note = _convert(shared, model, rung, quantization)
    if quantization.weight_bits < MAX_WEIGHT_BITS:
        content = coarse.round_weights(content, quantization.weight_bits)
    if shared.front:
        content = simplify(join(shared.front, content))
    content = number_tables(content)
    if shared.strip:
        content = strip(content, conversion_metadata=True)
    content = tflite_metadata.write(content, _metadata(shared, quantization))
    difference = proof.prove(
        content,
        shared.rows,
        model.predictor.apply(shared.inputs),
        exact=quantization.mode is Mode.FLOAT32,
        num_sampled=shared.num_sampled,
        others=_others(content, quantization),
    )
    if difference.failure:
        raise DataError(difference.failure)
    _write(candidates.model_path(folder, name), content)
    return Candidate(
        name=name,
        rung=rung.name,
        mode=quantization.name,
        sparsity_fraction=rung.sparsity_fraction,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        gz_size_bytes=candidates.gz_size_bytes(content),
        max_abs_error=difference.max_abs,
        mean_abs_error=difference.mean_abs,
        max_abs_error_boundary=difference.max_abs_boundary,
        top1_agreement=difference.top1_agreement,
        note=note,
    )


def _convert(shared: Shared, model: _Model, rung: Rung, quantization: Quantization) -> tuple[bytes, str]:
    """Returns the model's file, its zeros counted, and what the author should know."""
    pruned = [layer.weight for layer in rung.layers if layer.num_zeros]
    kernels = model.predictor.weights(pruned)
    if quantization.is_selective or quantization.mode not in CONVERTER_MODES:
        tflite_weights.check(model.float32, kernels, rung.name)
        if not quantization.is_selective:
            note = "other kernels than XNNPACK's return a constant" if quantization.block_size else ""
            return mixed.quantize(model.float32, quantization, shared.sample), note
        wanted = model.predictor.apply(shared.sample)
        return mixed.leave_worst_in_float(model.float32, quantization, shared.sample, wanted, model.layers)
    content = model.predictor.convert(
        quantization,
        shared.sample,
        quantization_aware=rung.twin is Twin.QUANTIZATION_AWARE,
        integer_inputs=not shared.front,
        allow_select_tf_ops=shared.allow_select_tf_ops,
    )
    if quantization.mode is Mode.DYNAMIC_RANGE:
        content = mixed.quantize_tables(content)
    tflite_weights.check(content, kernels, rung.name)
    return content, _note(shared, quantization)


def _others(content: bytes, quantization: Quantization) -> tuple[Kernels, ...]:
    """Returns the kernels beside the default ones that a file must run on; blocks are XNNPACK's alone."""
    return () if quantization.block_size or flex_ops(content) else (Kernels.WITHOUT_XNNPACK,)


def _metadata(shared: Shared, quantization: Quantization) -> ModelMetadata:
    """Returns what is written into the file, with the types it has."""
    if not quantization.integer_io:
        return shared.metadata
    integer = "int16" if quantization.mode is Mode.INT16X8 else "int8"

    def stored(feature: Feature) -> Feature:
        is_float = feature.dtype == "float32"
        return dataclasses.replace(feature, dtype=integer) if is_float else feature

    inputs = shared.metadata.inputs
    return dataclasses.replace(
        shared.metadata,
        label=stored(shared.metadata.label),
        inputs=inputs if shared.front else tuple(stored(feature) for feature in inputs),
    )


def _note(shared: Shared, quantization: Quantization) -> str:
    if quantization.mode not in (Mode.INT8, Mode.INT16X8) or not shared.front:
        return ""
    strings = sorted(name for name, values in shared.rows.items() if values.dtype == object)
    named = f", among them the strings {', '.join(strings)}" if strings else ""
    return f"raw features{named}, and their preprocessing stay in float32; integers from the model on"


def _write(path: Path, content: bytes) -> None:
    try:
        files.write_atomically(path, content)
    except OSError as error:
        raise DataError(
            f"{len(content)} bytes must be written to {path}; {error.strerror}. Candidates that are there "
            "stay: make room and run again."
        ) from error
