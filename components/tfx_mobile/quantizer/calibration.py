"""Representative rows: drawn by content, never of the evaluation split, recorded, and checked for stability.

Rows come as Arrow batches and go out as arrays. Neither reads files (common/examples.py) nor converts models
(tflite.py): a caller converts the two halves of the rows and gives both files to `compare_scales`.

Rows are sampled as in docs/adr/0004-a-sample-by-content.md, but a row that occurs more than once comes once:
the converter takes the smallest and the largest value of each activation, to which a repetition adds nothing.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from ai_edge_litert import schema_py_generated as schema

from tfx_mobile.common.calibration import Calibration, InputRange, ScaleChange, ScaleStability, SourceFile
from tfx_mobile.common.errors import DataError
from tfx_mobile.common.hashing import Hashes, row_hashes
from tfx_mobile.quantizer.core import fingerprint

Columns = Mapping[str, npt.NDArray[Any]]
_SPARE_ROWS = 3  # for each row wanted: enough for splits that share three rows of four
_BLOCK_BYTES = 1 << 20
_MOST_NAMED = 5


@dataclasses.dataclass(frozen=True)
class Sample:
    """Drawn rows, and how they were drawn.

    Attributes:
      rows: By feature, shape (rows, ...), in the order of the rows' hashes, which is random.
      split: They are from it.
      rows_wanted: How many were asked for.
      rows_seen: How many the split has.
      seed: Of the draw.
      evaluation_split: None of them is in it; empty when none was named.
      evaluation_rows_seen: How many rows it has; None when nothing was checked.
      duplicates_replaced: Rows that would have been drawn but are in the evaluation split too.
    """

    rows: dict[str, npt.NDArray[Any]]
    split: str
    rows_wanted: int
    rows_seen: int
    seed: int
    evaluation_split: str
    evaluation_rows_seen: int | None
    duplicates_replaced: int

    @property
    def num_rows(self) -> int:
        """How many rows were drawn."""
        return len(next(iter(self.rows.values())))


@dataclasses.dataclass(frozen=True)
class Scale:
    """How an integer tensor stands for real numbers: real = scale * (integer - zero_point).

    Attributes:
      scale: Real units a step, >= 0.
      zero_point: The integer that stands for 0.0.
      num_bits: Of the integer, 8 or 16.
    """

    scale: float
    zero_point: int
    num_bits: int = 8

    @property
    def low(self) -> float:
        """The smallest real number; <= 0."""
        return self.scale * (-(1 << (self.num_bits - 1)) - self.zero_point)

    @property
    def high(self) -> float:
        """The largest real number; >= 0."""
        return self.scale * ((1 << (self.num_bits - 1)) - 1 - self.zero_point)


def draw(
    batches: Iterable[pa.RecordBatch],
    evaluation: Iterable[pa.RecordBatch] | None,
    to_columns: Callable[[pa.RecordBatch], Columns],
    *,
    num_rows: int,
    seed: int,
    split: str = "train",
    evaluation_split: str = "eval",
) -> Sample:
    """Draws different rows, each equally likely, in one pass over each split and memory of the sample's size.

    The rows with the smallest hashes of their content stay, so the sample is the same however the rows are
    cut into files and batches and in whatever order they come. A row is all its features, the label too.

    Args:
      batches: The split's rows with all features, as `examples.read_batches` yields them.
      evaluation: Likewise the evaluation split's; None when there is none.
      to_columns: Makes the arrays that the file is given of some of the rows.
      num_rows: At most this many are drawn; at least 1.
      seed: Of the hash; at least 0.
      split: Name of the split, for messages and the manifest.
      evaluation_split: Likewise.

    Raises:
      DataError: The split is empty, or every row that could be drawn is in the evaluation split too; and what
        `to_columns` raises.
    """
    pool, rows, rows_seen = _smallest(batches, to_columns, num_rows * (1 + _SPARE_ROWS), seed)
    if not len(pool):
        raise DataError(
            f"Calibration needs at least one row in split {split!r}; got none. Set calibration_split to a "
            "split with rows, or look at why it is empty."
        )
    is_known, evaluation_rows_seen = _known(pool, evaluation, seed)
    if is_known.all():
        raise DataError(
            f"Calibration rows must not be in split {evaluation_split!r}, or its metrics say nothing about "
            f"new data; all {len(pool)} different rows drawn from split {split!r} are in it too. Give "
            "calibration_split a split of other rows, or set evaluation_split to '' to allow the same ones."
        )
    chosen = np.flatnonzero(~is_known)[:num_rows]
    passed_over = is_known if len(chosen) < num_rows else is_known[: chosen[-1]]
    return Sample(
        rows={name: values[chosen] for name, values in rows.items()},
        split=split,
        rows_wanted=num_rows,
        rows_seen=rows_seen,
        seed=seed,
        evaluation_split=evaluation_split,
        evaluation_rows_seen=evaluation_rows_seen,
        duplicates_replaced=int(passed_over.sum()),
    )


def describe(
    sample: Sample,
    model_inputs: Columns,
    files: tuple[SourceFile, ...] = (),
    *,
    missing: Mapping[str, Any] | None = None,
    max_scale_change: float = 0.25,
) -> Calibration:
    """Returns the manifest of a sample, with warnings.

    Args:
      sample: Drawn rows.
      model_inputs: What the model behind the preprocessing is given for them, by feature, shape (rows, ...);
        the rows themselves when there is no preprocessing.
      files: Of the split, from `source_files`.
      missing: By feature of the file, the value that stands for a missing one; without, NaN and b"".
      max_scale_change: From what change of a range between the halves of the rows a warning is due.

    Raises:
      DataError: An input of the model is NaN or infinite in some row; the message has each such feature.
    """
    _check_finite(model_inputs, sample.split)
    by_feature = {name: _range(values, None) for name, values in sorted(model_inputs.items())}
    markers = missing or {}
    stability = None
    warnings = _constants(model_inputs, by_feature, sample)
    if sample.num_rows > 1:
        first, second = halves(model_inputs)
        stability = compare_scales(input_scales(first), input_scales(second))
        warnings += stability_warnings(stability, max_scale_change, "input")
    if sample.num_rows < sample.rows_wanted and sample.duplicates_replaced:
        warnings.append(
            f"Only {sample.num_rows} of {sample.rows_wanted} calibration rows could be drawn: "
            f"{sample.duplicates_replaced} others of split {sample.split!r} are in split "
            f"{sample.evaluation_split!r} too."
        )
    return Calibration(
        split=sample.split,
        rows=sample.num_rows,
        rows_wanted=sample.rows_wanted,
        rows_seen=sample.rows_seen,
        seed=sample.seed,
        sha256=fingerprint(sample.rows),
        files=files,
        evaluation_split=sample.evaluation_split,
        evaluation_rows_seen=sample.evaluation_rows_seen,
        duplicates_replaced=sample.duplicates_replaced,
        file_inputs={name: _range(values, markers.get(name)) for name, values in sorted(sample.rows.items())},
        model_inputs=by_feature,
        input_stability=stability,
        warnings=tuple(warnings),
    )


def with_stability(manifest: Calibration, stability: ScaleStability, max_scale_change: float) -> Calibration:
    """Returns the manifest with what the int8 files of both halves say, and its warnings."""
    added = stability_warnings(stability, max_scale_change, "activation")
    return dataclasses.replace(manifest, stability=stability, warnings=(*manifest.warnings, *added))


def source_files(paths: Iterable[str], open_file: Callable[[str], BinaryIO]) -> tuple[SourceFile, ...]:
    """Returns name, size and sha256 of files, by path.

    Args:
      paths: On any file system that `open_file` knows.
      open_file: Opens one to read bytes, for example `lambda path: tf.io.gfile.GFile(path, "rb")`.
    """
    found = []
    for path in sorted(paths):
        digest, size_bytes = hashlib.sha256(), 0
        with open_file(path) as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
                size_bytes += len(block)
        found.append(SourceFile("/".join(path.split("/")[-2:]), size_bytes, digest.hexdigest()))
    return tuple(found)


def halves(rows: Columns) -> tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]]]:
    """Returns two disjoint samples that together are the drawn rows.

    Rows of a Sample are in the order of their hashes, so that the seed decides which half a row is in.

    Args:
      rows: By feature, shape (rows, ...), at least two rows.
    """
    middle = (len(next(iter(rows.values()))) + 1) // 2
    first = {name: values[:middle] for name, values in rows.items()}
    return first, {name: values[middle:] for name, values in rows.items()}


def input_scales(rows: Columns) -> dict[str, Scale]:
    """Returns the int8 scale that each float input of a model gets from these rows.

    The range is that of the values, widened to have 0.0 in it (LiteRT 8-bit quantization specification).

    Args:
      rows: By input, shape (rows, ...), finite.
    """
    found = {}
    for name, values in sorted(rows.items()):
        if values.dtype.kind == "f" and values.size:
            low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
            scale = (high - low) / 255
            found[name] = Scale(scale, round(-128 - low / scale) if scale else 0)
    return found


def scales(content: bytes) -> dict[str, Scale]:
    """Returns the scale of each activation of a quantised TFLite file, by tensor name; none of a float file.

    Activations are int8 and int16 tensors with one scale that hold no constant. Where names repeat, ' (2)',
    ' (3)', ... follow in the order of the file.

    Args:
      content: A TFLite file.

    Raises:
      DataError: It is no TFLite file.
    """
    if content[4:8] != b"TFL3":
        raise DataError(f"Scales are read from a TFLite file; got {len(content)} bytes that are none.")
    model = schema.Model.GetRootAs(content, 0)
    found: dict[str, Scale] = {}
    seen: Counter[str] = Counter()
    for i in range(model.SubgraphsLength()):
        graph = model.Subgraphs(i)
        for tensor in map(graph.Tensors, range(graph.TensorsLength())):
            scale = _scale(tensor)
            buffer = model.Buffers(tensor.Buffer())
            if scale is None or buffer.DataLength() or buffer.Size():  # Size: constants behind the flatbuffer
                continue
            name = (tensor.Name() or b"").decode("utf-8", "replace")
            seen[name] += 1
            found[f"{name} ({seen[name]})" if seen[name] > 1 else name] = scale
    return found


def compare_scales(first: Mapping[str, Scale], second: Mapping[str, Scale]) -> ScaleStability:
    """Compares what two samples make of the same tensors.

    The change of a tensor is 1 - overlap / union of its two ranges (Jaccard's distance): where both have one
    zero point, the share by which the smaller scale is below the larger one.

    Args:
      first: By tensor.
      second: Likewise, of the same tensors.

    Raises:
      DataError: A tensor is in one alone: they are not of one model.
    """
    if lost := sorted(first.keys() ^ second.keys()):
        raise DataError(
            f"Scales can be compared between conversions of one model; {lost[0]!r} is in only one of the two."
        )
    changes = [
        ScaleChange(name, a.scale, second[name].scale, _change(a, second[name])) for name, a in first.items()
    ]
    changes.sort(key=lambda change: (-change.change, change.tensor))
    if not changes:
        return ScaleStability(0.0, "", ())
    return ScaleStability(changes[0].change, changes[0].tensor, tuple(changes))


def stability_warnings(stability: ScaleStability, max_scale_change: float, what: str) -> list[str]:
    """Returns a sentence about the tensors whose range changes by more than a share; none, or one.

    Args:
      stability: Of the two halves of the calibration rows.
      max_scale_change: In [0, 1].
      what: 'activation' or 'input'.
    """
    worse = sum(change.change > max_scale_change for change in stability.changes)
    if not worse:
        return []
    others = f" (and of {worse - 1} more by over {max_scale_change:.0%})" if worse > 1 else ""
    return [
        f"The range of {what} {stability.tensor!r} differs by {stability.max_change:.0%}{others} between two "
        "halves of the calibration rows; use more calibration_rows, or clip outliers in preprocessing_fn."
    ]


def _smallest(
    batches: Iterable[pa.RecordBatch],
    to_columns: Callable[[pa.RecordBatch], Columns],
    size: int,
    seed: int,
) -> tuple[Hashes, dict[str, npt.NDArray[Any]], int]:
    """Returns the different rows with the smallest hashes, by rising hash, and the number of rows seen."""
    kept = np.zeros(0, np.uint64)
    rows: dict[str, npt.NDArray[Any]] = {}
    rows_seen = 0
    for batch in batches:
        rows_seen += batch.num_rows
        hashes, first = np.unique(row_hashes(batch, seed), return_index=True)
        is_new = ~np.isin(hashes, kept)
        if len(kept) == size:
            is_new &= hashes < kept[-1]
        if not is_new.any():
            continue
        added = to_columns(batch.take(pa.array(first[is_new])))
        kept = np.concatenate([kept, hashes[is_new]])
        order = np.argsort(kept)[:size]
        kept = kept[order]
        rows = {
            name: (np.concatenate([rows[name], values]) if rows else values)[order]
            for name, values in added.items()
        }
    return kept, rows, rows_seen


def _known(
    pool: Hashes, evaluation: Iterable[pa.RecordBatch] | None, seed: int
) -> tuple[npt.NDArray[np.bool_], int | None]:
    """Returns which of the rows with these hashes, rising, are in the evaluation split, and its rows."""
    is_known = np.zeros(len(pool), bool)
    if evaluation is None:
        return is_known, None
    rows_seen = 0
    for batch in evaluation:
        rows_seen += batch.num_rows
        is_known |= np.isin(pool, row_hashes(batch, seed))
    return is_known, rows_seen


def _check_finite(model_inputs: Columns, split: str) -> None:
    found = []
    for name, values in sorted(model_inputs.items()):
        if values.dtype.kind == "f":
            wrong = int((~np.isfinite(values)).reshape(len(values), -1).any(axis=1).sum())
            if wrong:
                found.append(f"{name!r} in {wrong} of {len(values)} rows")
    if found:
        others = f" and {len(found) - _MOST_NAMED} others" if len(found) > _MOST_NAMED else ""
        raise DataError(
            f"Calibration rows must be finite when they reach the model; got NaN or infinity in split "
            f"{split!r} for {', '.join(found[:_MOST_NAMED])}{others}. Fill in missing values in "
            "preprocessing_fn, or drop such rows before training."
        )


def _constants(model_inputs: Columns, ranges: Mapping[str, InputRange], sample: Sample) -> list[str]:
    if sample.num_rows == 1:
        return ["There is only one calibration row: the ranges of int8 are arbitrary; use more rows."]
    return [
        f"Input {name!r} is {found.min:g} in all {sample.num_rows} calibration rows: its int8 scale is "
        "arbitrary. Drop it, or use more calibration_rows."
        for name, found in ranges.items()
        if model_inputs[name].dtype.kind == "f" and found.min is not None and found.min == found.max
    ]


def _range(values: npt.NDArray[Any], marker: Any) -> InputRange:
    flat = values.ravel()
    if flat.dtype.kind in "SUO":
        texts = flat[flat != (b"" if marker is None else marker)]
        return InputRange(flat.size, flat.size - texts.size, 0, len(set(texts.tolist())))
    is_nan_missing = marker is None or marker != marker
    is_missing = np.isnan(flat) if is_nan_missing else flat == marker
    others = flat[~is_missing & np.isfinite(flat)]
    num_missing = int(is_missing.sum())
    num_not_finite = flat.size - others.size - num_missing
    if not others.size:
        return InputRange(flat.size, num_missing, num_not_finite, 0)
    return InputRange(
        num_values=flat.size,
        num_missing=num_missing,
        num_not_finite=num_not_finite,
        num_distinct=len(np.unique(others)),
        min=float(others.min()),
        max=float(others.max()),
        mean=float(others.mean(dtype=np.float64)),
    )


def _scale(tensor: Any) -> Scale | None:
    num_bits = {schema.TensorType.INT8: 8, schema.TensorType.INT16: 16}.get(tensor.Type())
    quantization = tensor.Quantization()
    if num_bits is None or quantization is None or quantization.ScaleLength() != 1:
        return None
    zero_point = int(quantization.ZeroPoint(0)) if quantization.ZeroPointLength() else 0
    return Scale(float(quantization.Scale(0)), zero_point, num_bits)


def _change(first: Scale, second: Scale) -> float:
    union = max(first.high, second.high) - min(first.low, second.low)
    overlap = min(first.high, second.high) - max(first.low, second.low)
    return 1 - overlap / union if union else 0.0
