"""What one pass over the train split gathers for one reduction: parts that merge in any order.

Each method says what it needs (`needs`); `Statistics` holds just that, adds batches of rows and merges.
"""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.common.errors import DataError
from tfx_mobile.dimensionality_reducer.config import (
    PCA,
    NotFinite,
    Reduction,
)
from tfx_mobile.dimensionality_reducer.moments import Moments
from tfx_mobile.dimensionality_reducer.rows import Rows
from tfx_mobile.dimensionality_reducer.sample import Sample

REPORT_ROWS = 2000  # rows of the report's two-dimensional projection
TRAIN_SPLIT = "train"


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a method is fitted from.

    Attributes:
      moments: Count, mean and cross-products of the columns.
      label: The same of the numeric label and the columns together.
      sample_rows: Size of the sample.
      seed: Of the sample.
    """

    moments: bool = False
    label: bool = False
    sample_rows: int = REPORT_ROWS
    seed: int = 0


def needs(reduction: Reduction) -> Needs:
    """Returns what a method is fitted from."""
    return _NEEDS[type(reduction)]


_NEEDS: dict[type[Reduction], Needs] = {PCA: Needs(moments=True)}


class Statistics:
    """The statistics of one reduction, gathered batch by batch.

    Attributes:
      num_rows: Rows that were seen.
      not_finite: Shape (d,), how many values of each column were NaN or infinite.
      num_bad_rows: Rows with such a value.
      labels_not_finite: Rows whose label was.
      moments: Of the rows that count; None if the method does not need them.
      label_moments: Of the label, which is column 0, and the columns after it; None if the method does not
        need them.
      sample: Of the rows that count.
    """

    def __init__(self, reduction: Reduction, num_numbers: int, width: int) -> None:
        self._reduction = reduction
        self._needs = needs(reduction)
        self._num_numbers = num_numbers
        nothing = Rows.of(np.zeros((0, num_numbers)), np.zeros((0, width - num_numbers)))
        self.num_rows = 0
        self.num_bad_rows = 0
        self.labels_not_finite = 0
        self.not_finite = np.zeros(width, np.int64)
        self.moments = Moments.zero(width) if self._needs.moments else None
        self.label_moments = Moments.zero(1 + width) if self._needs.label else None
        self.sample = Sample.of(nothing, np.zeros(0), self._needs.sample_rows, self._needs.seed)

    def add(self, rows: Rows, labels: npt.NDArray[Any] | None = None) -> None:
        """Adds a batch.

        Args:
          rows: Shape (n, d).
          labels: Shape (n,), float64 or bytes objects; None where the run has no label.
        """
        self.num_rows += rows.num_rows
        labels = np.full(rows.num_rows, np.nan) if labels is None else labels
        if not rows.all_finite():
            bad = rows.not_finite()
            self.not_finite += bad.sum(axis=0)
            self.num_bad_rows += int(bad.any(axis=1).sum())
            if self._reduction.not_finite is not NotFinite.IMPUTE_MEAN:
                good = ~bad.any(axis=1)
                rows, labels = rows.take(good), labels[good]
        if self._reduction.needs_label and labels.dtype != object:
            good = np.isfinite(labels)
            self.labels_not_finite += int((~good).sum())
            rows, labels = (rows.take(good), labels[good]) if not good.all() else (rows, labels)
        if not rows.num_rows:
            return
        self.sample = self.sample.add(rows, labels)
        if self.moments is not None:
            self.moments = self.moments.merge(Moments.of(rows.numbers, rows.counts))
        if self.label_moments is not None:
            numbers = np.column_stack([labels.astype(np.float64), rows.numbers])
            self.label_moments = self.label_moments.merge(Moments.of(numbers, rows.counts))

    def merge(self, other: "Statistics") -> None:
        """Adds what another one gathered."""
        self.num_rows += other.num_rows
        self.num_bad_rows += other.num_bad_rows
        self.labels_not_finite += other.labels_not_finite
        self.not_finite = self.not_finite + other.not_finite
        self.sample = self.sample.merge(other.sample)
        if self.moments is not None and other.moments is not None:
            self.moments = self.moments.merge(other.moments)
        if self.label_moments is not None and other.label_moments is not None:
            self.label_moments = self.label_moments.merge(other.label_moments)

    def check(self, columns: list[str], label_key: str = "") -> None:
        """Raises DataError where the rows are not what the method can be fitted from.

        Args:
          columns: Names of the d columns, for messages.
          label_key: Name of the label.
        """
        if not self.num_rows:
            raise DataError(f"{self._reduction.name} needs rows in split '{TRAIN_SPLIT}'; got none.")
        refuse_not_finite(
            refused(self._reduction, columns, self.not_finite, self._num_numbers), self.num_rows, TRAIN_SPLIT
        )
        if self.labels_not_finite:
            refuse_not_finite({label_key: self.labels_not_finite}, self.num_rows, TRAIN_SPLIT)


def refused(
    reduction: Reduction, columns: list[str], not_finite: npt.NDArray[np.int64], num_numbers: int
) -> dict[str, int]:
    """Returns, by column, the values that are NaN or infinite and that the settings do not provide for.

    Numbers can be imputed; of a one-hot vector there is nothing a mean could stand in for.
    """
    counts = dict(zip(columns, not_finite.tolist(), strict=True))
    match reduction.not_finite:
        case NotFinite.REFUSE:
            return counts
        case NotFinite.IMPUTE_MEAN:
            return {name: counts[name] for name in columns[num_numbers:]}
        case NotFinite.DROP_ROWS:
            return {}


def refuse_not_finite(found: dict[str, int], num_rows: int, split: str) -> None:
    """Raises DataError if a column has NaN or infinity.

    Args:
      found: By column, how many of its values are NaN or infinite.
      num_rows: Rows of the split.
      split: Its name.
    """
    bad = {name: count for name, count in found.items() if count}
    if not bad:
        return
    worst = max(bad, key=lambda name: bad[name])
    others = f", and {len(bad) - 1} more columns have some" if len(bad) > 1 else ""
    raise DataError(
        f"Feature {worst!r} must be finite; got {bad[worst]} NaN or infinite of {num_rows} rows in split "
        f"'{split}'{others}. Clean it in preprocessing_fn, or set not_finite to NotFinite.IMPUTE_MEAN or "
        "NotFinite.DROP_ROWS."
    )
