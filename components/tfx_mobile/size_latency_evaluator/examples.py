"""Reading the evaluation rows: the label as numbers, the features as the files want them. No judgement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tfx_mobile.common import examples
from tfx_mobile.common.errors import DataError

Features = Mapping[str, tuple[Any, tuple[int, ...]]]


@dataclass(frozen=True)
class Rows:
    """The evaluation rows.

    Attributes:
      columns: By feature, shape (rows, *row_shape); features that no row has are left out.
      labels: Shape (rows, width), finite.
    """

    columns: dict[str, npt.NDArray[Any]]
    labels: npt.NDArray[np.float64]


def read_rows(
    patterns: Sequence[str],
    features: Features,
    *,
    label_key: str,
    split: str,
    batch_size: int,
    missing: Mapping[str, Any] | None = None,
) -> Rows:
    """Reads all rows of a split.

    Args:
      patterns: The split's file patterns.
      features: By name, the NumPy dtype and row shape that the files take.
      label_key: The label's feature.
      split: For messages.
      batch_size: Rows per read.
      missing: By feature, the value that stands for a missing one, None where there must be one; 0 or the
        empty string for features that are not named.

    Raises:
      DataError: There are no rows; the label is unknown, not a number, missing, not finite or ragged; or a
        feature does not have the type or width that the files take.
    """
    columns: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in features}
    labels: list[npt.NDArray[np.float64]] = []
    fillers = {name: b"" if np.dtype(dtype).kind in "SUO" else 0 for name, (dtype, _) in features.items()}
    fillers |= missing or {}
    unlabelled = 0
    present: set[str] = set()
    for batch in examples.read_batches(patterns, batch_size=batch_size):
        present |= set(batch.schema.names)
        found, absent = _labels(batch, label_key, split)
        unlabelled += absent
        labels.append(found)
        for name, column in examples.to_columns(batch, features, fillers).items():
            columns[name].append(column)
    total = sum(len(part) for part in labels)
    if total + unlabelled == 0:
        raise DataError(f"Split {split!r} must have at least one row; got zero.")
    if label_key not in present:
        raise DataError(
            f"label_key {label_key!r} must be a feature of the rows in split {split!r}; "
            f"they have {', '.join(sorted(present)) or 'none'}."
        )
    if unlabelled:
        raise DataError(
            f"Label {label_key!r} must be set in each row; got {unlabelled} of {total + unlabelled} rows "
            f"without it in split {split!r}."
        )
    if len(widths := {part.shape[1] for part in labels}) > 1:
        raise DataError(f"Label {label_key!r} must have one width; got {sorted(widths)} in split {split!r}.")
    joined = np.concatenate(labels)
    wrong = int(np.count_nonzero(~np.isfinite(joined).all(axis=1)))
    if wrong:
        raise DataError(
            f"Label {label_key!r} must be finite; got {wrong} NaN or infinite of {total} rows in split "
            f"{split!r}. Clean it in preprocessing_fn or drop these rows."
        )
    return Rows({name: np.concatenate(columns[name]) for name in features if name in present}, joined)


def _labels(batch: pa.RecordBatch, label_key: str, split: str) -> tuple[npt.NDArray[np.float64], int]:
    """Returns the labels of the rows that have one, and how many have none."""
    position = batch.schema.get_field_index(label_key)
    if position < 0 or pa.types.is_null(batch.column(position).type):
        return np.zeros((0, 1)), batch.num_rows
    column = batch.column(position)
    flat = column.flatten()
    if not (pa.types.is_integer(flat.type) or pa.types.is_floating(flat.type)):
        raise DataError(
            f"Label {label_key!r} must be numbers; got strings in split {split!r}. Turn it into a number "
            "or a class index in preprocessing_fn."
        )
    lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    kept = np.unique(lengths[lengths > 0])
    if len(kept) > 1:
        raise DataError(
            f"Label {label_key!r} must have one width; got rows with {kept.tolist()} values in split "
            f"{split!r}."
        )
    width = int(kept[0]) if len(kept) else 1
    values = flat.to_numpy(zero_copy_only=False).astype(np.float64).reshape(-1, width)
    return values, int(np.count_nonzero(lengths == 0))
