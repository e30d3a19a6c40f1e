"""What one pass over the train split gathers for one reduction: parts that merge in any order.

Each method says what it needs (`needs`); `Statistics` holds just that, adds batches of rows and merges.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.common.errors import DataError
from tfx_mobile.dimensionality_reducer.class_means import ClassMeans
from tfx_mobile.dimensionality_reducer.config import (
    LDA,
    NMF,
    PCA,
    PLS,
    CorrelationFilter,
    GaussianRandomProjection,
    LatentDirichletAllocation,
    NotFinite,
    Reduction,
    Sampled,
    Score,
    SelectKBest,
    SparseRandomProjection,
    TruncatedSVD,
    VarianceThreshold,
)
from tfx_mobile.dimensionality_reducer.histograms import Histograms
from tfx_mobile.dimensionality_reducer.moments import (
    ColumnMoments,
    Moments,
    RunningColumns,
    RunningMoments,
)
from tfx_mobile.dimensionality_reducer.rows import FloatArray, NotFiniteValues, Rows
from tfx_mobile.dimensionality_reducer.sample import Sample

REPORT_ROWS = 2000  # rows of the report's two-dimensional projection
TRAIN_SPLIT = "train"


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a method is fitted from.

    Attributes:
      moments: Count, mean and cross-products of the columns.
      label: The same of the numeric label and the columns together.
      columns: Count, mean and squares of each column by itself.
      number: Likewise with the products of a numeric label.
      sample_rows: Size of the sample.
      seed: Of the sample.
      negatives: How many numbers of each column are below 0, and the smallest.
      means: The mean of the columns that are numbers.
      classes: Count and mean of the columns by class of the label.
      histograms: Of each column together with the label.
    """

    moments: bool = False
    label: bool = False
    columns: bool = False
    number: bool = False
    sample_rows: int = REPORT_ROWS
    seed: int = 0
    negatives: bool = False
    means: bool = False
    classes: bool = False
    histograms: bool = False


def needs(reduction: Reduction) -> Needs:
    """Returns what a method is fitted from."""
    if isinstance(reduction, Sampled):
        counts_or_parts = isinstance(reduction, (NMF, LatentDirichletAllocation))
        return Needs(sample_rows=reduction.sample_rows, seed=reduction.seed, negatives=counts_or_parts)
    if isinstance(reduction, SelectKBest):
        return _NEEDS_OF_SCORES[reduction.score]
    return _NEEDS[type(reduction)]


_NEEDS: dict[type[Reduction], Needs] = {
    PCA: Needs(moments=True),
    TruncatedSVD: Needs(moments=True),
    LDA: Needs(moments=True, classes=True),
    PLS: Needs(label=True),
    VarianceThreshold: Needs(columns=True),
    CorrelationFilter: Needs(moments=True),
    GaussianRandomProjection: Needs(means=True),
    SparseRandomProjection: Needs(means=True),
}
_NEEDS_OF_SCORES = {
    Score.F_REGRESSION: Needs(columns=True, number=True),
    Score.F_CLASSIF: Needs(columns=True, classes=True),
    Score.MUTUAL_INFO: Needs(histograms=True),
}


class Statistics:
    """The statistics of one reduction, gathered batch by batch.

    Attributes:
      num_numbers: How many columns are numbers, not one-hot.
      num_rows: Rows that were seen.
      not_finite: Shape (d,), how many values of each column were NaN or infinite.
      num_bad_rows: Rows with such a value.
      num_kept: Rows that count.
      labels_not_finite: Rows whose label was.
      sample: Of the rows that count.
      num_negative: Shape (d,), how many finite values of each column are below 0, of the rows that count; 0
        if the method does not need to know.
      minimum: Shape (d,), the smallest finite value of each column, or 0 if none is below it; likewise.
      means: Shape (num_numbers,), of the finite values of the rows that count; 0 if the method does not need
        to know and nothing is imputed.
      classes: Of the rows that count; None if the method does not need them.
      histograms: Likewise.
      label_is_text: Whether the label is a string.
    """

    def __init__(self, reduction: Reduction, num_numbers: int, width: int) -> None:
        self._reduction = reduction
        self._needs = needs(reduction)
        self.num_numbers = num_numbers
        nothing = Rows.of(np.zeros((0, num_numbers)), np.zeros((0, width - num_numbers)))
        self.num_rows = 0
        self.num_bad_rows = 0
        self.num_kept = 0
        self.labels_not_finite = 0
        self.not_finite = np.zeros(width, np.int64)
        num_counts = width - num_numbers
        self._moments = RunningMoments(num_numbers, num_counts) if self._needs.moments else None
        self._columns = RunningColumns(num_numbers, num_counts) if self._needs.columns else None
        self.label_is_text = False
        self._label_moments = RunningMoments(1 + num_numbers, num_counts) if self._needs.label else None
        self._num_finite = np.zeros(num_numbers, np.int64)
        self.means = np.zeros(num_numbers)
        self.classes = ClassMeans.zero(width) if self._needs.classes else None
        self.histograms = Histograms(num_numbers, width) if self._needs.histograms else None
        self.sample = Sample.of(nothing, np.zeros(0), self._needs.sample_rows, self._needs.seed)
        self.num_negative = np.zeros(width, np.int64)
        self.minimum = np.zeros(width)

    def add(
        self,
        rows: Rows,
        labels: npt.NDArray[Any] | None = None,
        keep: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Adds a batch.

        Args:
          rows: Shape (n, d).
          labels: Shape (n,), float64 or bytes objects; None where the run has no label.
          keep: Shape (n,), which rows are written; a reduction drops them for all. All by default.
        """
        self.num_rows += rows.num_rows
        labels = np.full(rows.num_rows, np.nan) if labels is None else labels
        if keep is not None and not keep.all():
            if self._reduction.not_finite is NotFinite.DROP_ROWS:
                self._count_not_finite(rows.take(~keep))
            rows, labels = rows.take(keep), labels[keep]
        if not rows.all_finite():
            found = self._count_not_finite(rows)
            # Of a one-hot vector nothing is imputed.
            imputes = self._reduction.not_finite is NotFinite.IMPUTE_MEAN
            good = ~(found.in_counts if imputes else found.in_numbers | found.in_counts)
            rows, labels = rows.take(good), labels[good]
        if self._reduction.needs_label and labels.dtype != object:
            good = np.isfinite(labels)
            self.labels_not_finite += int((~good).sum())
            rows, labels = (rows.take(good), labels[good]) if not good.all() else (rows, labels)
        if not rows.num_rows:
            return
        self.num_kept += rows.num_rows
        self.sample = self.sample.add(rows, labels)
        if self._needs.negatives:
            num_negative, minimum = rows.negatives()
            self.num_negative = self.num_negative + num_negative
            self.minimum = np.minimum(self.minimum, minimum)
        if self._needs.means or self._reduction.not_finite is NotFinite.IMPUTE_MEAN:
            self._add_means(rows.numbers)
        if self.classes is not None:
            self.classes = self.classes.merge(ClassMeans.of(rows, labels))
        if self.histograms is not None:
            self.histograms.add(rows, labels)
        if self._moments is not None:
            self._moments.add(rows.numbers, rows.counts)
        self.label_is_text |= labels.dtype == object
        if self._columns is not None:
            with_label = self._needs.number and not self.label_is_text
            self._columns.add(rows.numbers, rows.counts, labels if with_label else None)
        if self._label_moments is not None and not self.label_is_text:
            self._label_moments.add(np.column_stack([labels, rows.numbers]), rows.counts)

    def _count_not_finite(self, rows: Rows) -> NotFiniteValues:
        found = rows.not_finite()
        self.not_finite += found.by_column
        self.num_bad_rows += int((found.in_numbers | found.in_counts).sum())
        return found

    def merge(self, other: "Statistics") -> None:
        """Adds what another one gathered."""
        self.num_rows += other.num_rows
        self.num_bad_rows += other.num_bad_rows
        self.num_kept += other.num_kept
        self.labels_not_finite += other.labels_not_finite
        self.not_finite = self.not_finite + other.not_finite
        self.sample = self.sample.merge(other.sample)
        self.num_negative = self.num_negative + other.num_negative
        self.minimum = np.minimum(self.minimum, other.minimum)
        if self._moments is not None and other._moments is not None:
            self._moments.merge(other._moments)
        if self._label_moments is not None and other._label_moments is not None:
            self._label_moments.merge(other._label_moments)
        if self._columns is not None and other._columns is not None:
            self._columns.merge(other._columns)
        self.label_is_text |= other.label_is_text
        self._merge_means(other._num_finite, other.means)
        if self.classes is not None and other.classes is not None:
            self.classes = self.classes.merge(other.classes)
        if self.histograms is not None and other.histograms is not None:
            self.histograms.merge(other.histograms)

    @property
    def moments(self) -> Moments | None:
        """Of the rows that count, imputed if that is asked for; None if the method does not need them."""
        return None if self._moments is None else self._moments.result()

    @property
    def label_moments(self) -> Moments | None:
        """Of the label, column 0, and the columns after it; None if the method does not need them."""
        return None if self._label_moments is None else self._label_moments.result()

    @property
    def columns(self) -> ColumnMoments | None:
        """Of each column by itself; None if the method does not need them."""
        return None if self._columns is None else self._columns.result()

    @property
    def fill(self) -> npt.NDArray[np.float32] | None:
        """What stands in for numbers that are not finite, shape (num_numbers,); None if nothing does."""
        if self._reduction.not_finite is not NotFinite.IMPUTE_MEAN:
            return None
        return self.means.astype(np.float32)

    def _add_means(self, numbers: npt.NDArray[np.float32]) -> None:
        finite = np.isfinite(numbers)
        num_finite = finite.sum(axis=0)
        values = np.where(finite, numbers, 0).astype(np.float64)
        self._merge_means(num_finite, values.sum(axis=0) / np.maximum(num_finite, 1))

    def _merge_means(self, num_finite: npt.NDArray[np.int64], means: FloatArray) -> None:
        self._num_finite = self._num_finite + num_finite
        share = num_finite / np.maximum(self._num_finite, 1)
        self.means = self.means + (means - self.means) * share

    def check(self, columns: list[str], label_key: str = "") -> None:
        """Raises DataError where the rows are not what the method can be fitted from.

        Args:
          columns: Names of the d columns, for messages.
          label_key: Name of the label.
        """
        if not self.num_rows:
            raise DataError(f"{self._reduction.name} needs rows in split '{TRAIN_SPLIT}'; got none.")
        by_column = dict(zip(columns, self.not_finite.tolist(), strict=True))
        refuse_not_finite(
            refused(self._reduction, by_column, self.num_numbers),
            self.num_rows,
            TRAIN_SPLIT,
        )
        if self.fill is not None and not self._num_finite.all():
            raise DataError(
                f"Feature {columns[int(self._num_finite.argmin())]!r} must have a finite value in split "
                f"'{TRAIN_SPLIT}', so that its mean can stand in for the others; got none in {self.num_rows} "
                "rows. Leave it out of the inputs."
            )
        if self.labels_not_finite:
            raise DataError(
                f"Label {label_key!r} must be finite; got {self.labels_not_finite} NaN or infinite of "
                f"{self.num_rows} rows in split '{TRAIN_SPLIT}'. Clean it in preprocessing_fn."
            )
        if not self.num_kept:
            raise DataError(
                f"{self._reduction.name} needs rows in split '{TRAIN_SPLIT}'; all {self.num_rows} have NaN "
                "or infinity and are dropped. Clean them in preprocessing_fn, or set NotFinite.IMPUTE_MEAN."
            )


def refused(reduction: Reduction, counts: Mapping[str, int], num_numbers: int) -> dict[str, int]:
    """Returns, by column, the values that are NaN or infinite and that the settings do not provide for.

    Numbers can be imputed; of a one-hot vector there is nothing a mean could stand in for.

    Args:
      reduction: The method.
      counts: By column, in order, how many values are NaN or infinite.
      num_numbers: How many of the columns are numbers.
    """
    match reduction.not_finite:
        case NotFinite.REFUSE:
            found = list(counts)
        case NotFinite.IMPUTE_MEAN:
            found = list(counts)[num_numbers:]
        case NotFinite.DROP_ROWS:
            found = []
    return {name: counts[name] for name in found if counts[name]}


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
    raise DataError(
        f"Feature {worst!r} must be finite; got {bad[worst]} NaN or infinite of {num_rows} rows in split "
        f"'{split}'{and_others(len(bad) - 1)}. Clean it in preprocessing_fn, or set not_finite: "
        "NotFinite.DROP_ROWS leaves such rows out, NotFinite.IMPUTE_MEAN fills in numbers."
    )


def and_others(count: int) -> str:
    """Returns the end of a message that names one of several columns."""
    if not count:
        return ""
    return f", and {count} more columns have some" if count > 1 else ", and 1 more column has some"
