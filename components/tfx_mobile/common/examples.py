"""Reading tf.Examples as columns, in batches. Does not know which model they feed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tensorflow as tf
from tfx_bsl.coders import example_coder

from tfx_mobile.common.errors import DataError

Columns = dict[str, npt.NDArray[Any]]


def read_batches(patterns: Sequence[str], *, batch_size: int) -> Iterator[pa.RecordBatch]:
    """Yields the rows of TFRecord files as Arrow record batches of list columns.

    Args:
      patterns: File patterns; files ending in .gz are gzip TFRecords, as TFX writes them.
      batch_size: Rows per batch; the last one may be shorter.

    Raises:
      DataError: No file matches.
    """
    paths = sorted(path for pattern in patterns for path in tf.io.gfile.glob(pattern))
    if not paths:
        raise DataError(f"Examples must have at least one file; got none at {', '.join(patterns)}.")
    decoder = example_coder.ExamplesToRecordBatchDecoder()
    for compression in ("GZIP", ""):
        chosen = [path for path in paths if path.endswith(".gz") == (compression == "GZIP")]
        if chosen:
            for batch in tf.data.TFRecordDataset(chosen, compression).batch(batch_size).as_numpy_iterator():
                yield decoder.DecodeBatch(batch.tolist())


def to_columns(
    batch: pa.RecordBatch,
    features: Mapping[str, tuple[Any, tuple[int, ...]]],
    missing: Mapping[str, Any] | None = None,
) -> Columns:
    """Returns the named features of a batch as dense arrays.

    Args:
      batch: Rows from `read_batches`.
      features: By name, the NumPy dtype (np.bytes_ for strings) and the shape of one row.
      missing: By name, the value that stands for a missing one; a feature that is not named may not be
        missing. Without it, 0 or the empty string stands for any, as in TFT's own examples.

    Returns:
      By name, shape (rows, *row_shape); strings as object arrays of bytes.

    Raises:
      DataError: A row has another number of values than its shape asks for, or none where it must have.
    """
    found = {}
    for name, (dtype, shape) in features.items():
        neutral = b"" if np.dtype(dtype).kind in "SUO" else 0
        filler = neutral if missing is None else missing.get(name)
        found[name] = _dense(batch, name, dtype, shape, filler)
    return found


def _dense(
    batch: pa.RecordBatch, name: str, dtype: Any, row_shape: tuple[int, ...], filler: Any
) -> npt.NDArray[Any]:
    is_string = np.dtype(dtype).kind in "SUO"
    width = math.prod(row_shape)
    kind: Any = object if is_string else dtype
    position = batch.schema.get_field_index(name)
    if position < 0 or pa.types.is_null(batch.column(position).type):
        _check_filler(name, filler, batch.num_rows, batch.num_rows)
        return np.full((batch.num_rows, *row_shape), filler, dtype=kind)
    column = batch.column(position)
    if column.null_count:
        lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    else:
        lengths = np.diff(column.offsets.to_numpy())  # a tenth of the time
    is_full = lengths == width
    all_full = bool(is_full.all())
    if not all_full and (wrong := sorted(set(np.unique(lengths).tolist()) - {0, width})):
        raise DataError(f"Feature {name!r} must have {width} values in each row; got rows with {wrong[0]}.")
    flat = column.flatten()
    if is_string != (pa.types.is_binary(flat.type) or pa.types.is_large_binary(flat.type)):
        raise DataError(f"Feature {name!r} must be {'strings' if is_string else 'numbers'}; got {flat.type}.")
    values: npt.NDArray[Any] = flat.to_numpy(zero_copy_only=False).astype(kind)
    if all_full:
        return values.reshape(batch.num_rows, *row_shape)
    _check_filler(name, filler, batch.num_rows - int(is_full.sum()), batch.num_rows)
    dense = np.full((batch.num_rows, *row_shape), filler, dtype=kind)
    dense[is_full] = values.reshape(is_full.sum(), *row_shape)
    return dense


def _check_filler(name: str, filler: Any, num_missing: int, num_rows: int) -> None:
    if filler is None and num_missing:
        raise DataError(
            f"Feature {name!r} must have a value in each row; got {num_missing} of {num_rows} rows without. "
            "Give it a default in the schema, or make it sparse (VarLen) and dense in preprocessing_fn."
        )
