"""Joint histograms of every column with the label: integer counts that are the same in any order of merging.

Bins have the width 2**e and begin at multiples of it, with e the smallest for which the values seen so far
span no more bins than there are. Two neighbouring bins of width 2**e are exactly one of width 2**(e + 1), so
coarsening loses nothing but detail, and the counts at the end depend on the values alone: not on the shards,
the batches or the tree of merges. (Ben-Haim and Tom-Tov's histograms (2010) and quantile sketches adapt
better but are not exact under merging.) The label has a bin for each different value, up to MAX_LABELS; a
number with more than that has bins like the columns.

Memory: width x bins x label bins x 8 bytes. `num_bins` shrinks the bins of wide inputs so that this stays
below MAX_BYTES whatever the label; few classes need little of it.

Mutual information is taken after neighbouring bins were joined to some of about equal counts (Cellucci,
Albano and Rapp 2005), and corrected for the bias of few rows (Miller 1955).
"""

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.common.errors import DataError
from tfx_mobile.dimensionality_reducer.rows import FloatArray, Rows

IntArray = npt.NDArray[np.int64]

MAX_LABELS = 256  # different labels; of numbers with more, bins
MAX_BYTES = 2**30  # of one table of counts
_MAX_BINS, _MIN_BINS = 1024, 32
_LABEL_BINS = 64
_MAX_GROUPS = 32  # what bins are joined to
_ROWS_PER_CELL = 5  # rows that a cell of the joint table should have on average
_FINEST = -149  # float32 values are multiples of 2**-149


def num_bins(width: int) -> int:
    """Returns how many bins each of `width` columns can have: a power of two.

    Raises:
      DataError: There are more columns than fit into memory.
    """
    most = MAX_BYTES // (8 * MAX_LABELS * width)
    if most < _MIN_BINS:
        limit = MAX_BYTES // (8 * MAX_LABELS * _MIN_BINS)
        raise DataError(
            f"SelectKBest by mutual information must have at most {limit} columns; got {width}. Take "
            "Score.F_CLASSIF or Score.F_REGRESSION, or split its inputs over several reductions."
        )
    return min(_MAX_BINS, 1 << (most.bit_length() - 1))


@dataclasses.dataclass(frozen=True)
class Grid:
    """Bins for some columns: those of column j have the width 2**exponents[j].

    Attributes:
      low: Shape (d,), the smallest value of each column; infinite where there is none.
      high: Shape (d,), the largest; minus infinite where there is none.
      exponents: Shape (d,), int64.
      first: Shape (d,), whole numbers in float64: the lowest bin begins at first * 2**exponents.
    """

    low: FloatArray
    high: FloatArray
    exponents: IntArray
    first: FloatArray

    @classmethod
    def of(cls, low: FloatArray, high: FloatArray, bins: int) -> "Grid":
        """Returns the finest grid on which `low` to `high` span at most `bins` bins, a power of two."""
        some = low <= high
        bottom, top = np.where(some, low, 0.0), np.where(some, high, 0.0)
        # With 2**(x - 1) <= range < 2**x, a width of 2**x / (2 * bins) makes too many, and four times that
        # never does.
        exponents = np.frexp(top - bottom)[1].astype(np.int64) - bins.bit_length()
        exponents = np.where(top > bottom, np.maximum(exponents, _FINEST), _FINEST)
        for _ in range(2):
            span = _floor(top, exponents) - _floor(bottom, exponents) + 1
            exponents = np.where(span > bins, exponents + 1, exponents)
        return cls(low, high, exponents, _floor(bottom, exponents))

    def widened(self, low: FloatArray, high: FloatArray, bins: int) -> "Grid":
        """Returns the grid for values from `low` to `high` as well; itself if they are in it."""
        if (low >= self.low).all() and (high <= self.high).all():
            return self
        return Grid.of(np.minimum(low, self.low), np.maximum(high, self.high), bins)

    def positions(self, values: FloatArray, columns: Any = slice(None)) -> IntArray:
        """Returns the bin of each value, 0 for the lowest; the last axis goes over these columns."""
        found = _floor(values, self.exponents[columns]) - self.first[columns]
        return np.asarray(found, np.int64)

    def moves(self, to: "Grid", columns: Any, bins: int) -> IntArray:
        """Returns where the bins of these columns are in a wider or coarser grid, shape (columns, bins).

        Bins above the highest value, which are empty, go to the last one.
        """
        old = self.first[columns, None] + np.arange(bins)
        new = _floor(old, (to.exponents - self.exponents)[columns, None]) - to.first[columns, None]
        return np.clip(new, 0, bins - 1).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class LabelBins:
    """Bins of the label: its different values or, of a number with too many of them, a grid.

    Attributes:
      values: Shape (l,), the different values in rising order; None if they are too many.
      grid: Of one column; None with `values`, and where there are too many strings.
    """

    values: npt.NDArray[Any] | None
    grid: Grid | None = None

    @classmethod
    def of(cls, labels: npt.NDArray[Any]) -> "LabelBins":
        """Returns the bins of labels, finite float64 or bytes objects."""
        values = np.unique(labels)
        if len(values) <= MAX_LABELS:
            return cls(values)
        return cls(None, None if labels.dtype == object else _label_grid(values[0], values[-1]))

    @property
    def num(self) -> int:
        """How many bins there are; 0 without labels or with too many strings."""
        if self.values is not None:
            return len(self.values)
        return 0 if self.grid is None else _LABEL_BINS

    @property
    def too_many(self) -> bool:
        """Whether there are more strings than MAX_LABELS."""
        return self.values is None and self.grid is None

    def merge(self, other: "LabelBins") -> "LabelBins":
        """Returns the bins of both sets of labels."""
        if self.too_many or not other.num:
            return other if other.too_many else self
        if other.too_many or not self.num:
            return other
        if self.values is not None and other.values is not None:
            if np.isin(other.values, self.values).all():
                return self
            return LabelBins.of(np.concatenate([self.values, other.values]))
        (low, high), (other_low, other_high) = self._limits(), other._limits()
        return LabelBins(None, _label_grid(min(low, other_low), max(high, other_high)))

    def positions(self, labels: npt.NDArray[Any]) -> IntArray:
        """Returns the bin of each label, all of which are in these bins."""
        if self.values is not None:
            return np.searchsorted(self.values, labels).astype(np.int64)
        assert self.grid is not None
        return self.grid.positions(_as_float32(labels)[:, None])[:, 0]

    def moves(self, to: "LabelBins") -> IntArray:
        """Returns where each of these bins is in those that a merge made."""
        if self.values is not None:
            return to.positions(self.values)
        assert self.grid is not None
        assert to.grid is not None
        return np.asarray(self.grid.moves(to.grid, np.zeros(1, np.int64), _LABEL_BINS)[0], np.int64)

    def _limits(self) -> tuple[float, float]:
        if self.values is not None:
            return float(self.values[0]), float(self.values[-1])
        assert self.grid is not None
        return float(self.grid.low[0]), float(self.grid.high[0])


class Histograms:
    """Counts of rows by column, bin of the column and bin of the label.

    Of sparse columns only the values that are written out are counted; their zeros are the other rows.

    Attributes:
      table: Shape (d, bins, l).
      not_finite: Shape (d, l), values that are NaN or infinite.
      label_rows: Shape (l,), all rows.
      grid: The bins of the columns.
      label: The bins of the label.
    """

    def __init__(self, num_numbers: int, width: int) -> None:
        self._num_numbers, self._width, self._bins = num_numbers, width, num_bins(width)
        self.table = np.zeros((width, self._bins, 0), np.int64)
        self.not_finite = np.zeros((width, 0), np.int64)
        self.label_rows = np.zeros(0, np.int64)
        # Sparse columns have zeros, whether or not a batch shows one.
        nothing = np.where(np.arange(width) < num_numbers, np.inf, 0.0)
        self.grid = Grid.of(nothing, -nothing, self._bins)
        self.label = LabelBins(np.zeros(0))

    def add(self, rows: Rows, labels: npt.NDArray[Any]) -> None:
        """Adds a batch.

        Args:
          rows: Shape (n, d); values that are not finite are counted apart.
          labels: Shape (n,), finite float64 or bytes objects.
        """
        dense, counts = self._num_numbers, rows.counts
        values = rows.numbers.astype(np.float64)
        finite = np.isfinite(values)
        written = np.isfinite(counts.data)
        count_values = counts.data[written].astype(np.float64)
        count_columns = dense + counts.indices[written].astype(np.int64)
        low, high = self.grid.low.copy(), self.grid.high.copy()
        low[:dense] = np.where(finite, values, np.inf).min(axis=0, initial=np.inf)
        high[:dense] = np.where(finite, values, -np.inf).max(axis=0, initial=-np.inf)
        np.minimum.at(low, count_columns, count_values)
        np.maximum.at(high, count_columns, count_values)
        self._move(self.grid.widened(low, high, self._bins), self.label.merge(LabelBins.of(labels)))
        if not self.label.num:
            return
        of_row = self.label.positions(labels)
        self.label_rows += np.bincount(of_row, minlength=self.label.num)
        row, column = np.nonzero(~finite)
        np.add.at(self.not_finite, (column, of_row[row]), 1)
        columns = np.arange(dense)
        if len(row):
            low, high = self.grid.low[:dense], self.grid.high[:dense]
            values = np.where(finite, values, np.where(low <= high, low, 0.0))  # any value that has a bin
        cells = self._cells(columns, self.grid.positions(values, columns), of_row[:, None])
        np.add.at(self.table.reshape(-1), cells[finite] if len(row) else cells.ravel(), 1)
        owners = np.repeat(np.arange(rows.num_rows), np.diff(counts.indptr))[written]
        bins = self.grid.positions(count_values, count_columns)
        np.add.at(self.table.reshape(-1), self._cells(count_columns, bins, of_row[owners]), 1)

    def merge(self, other: "Histograms") -> None:
        """Adds what another one counted, which stays as it is."""
        grid = self.grid.widened(other.grid.low, other.grid.high, self._bins)
        label = self.label.merge(other.label)
        moved = copy.copy(other)
        moved.table = other.table.copy()
        self._move(grid, label)
        moved._move(grid, label)
        self.table += moved.table
        self.not_finite += moved.not_finite
        self.label_rows += moved.label_rows

    def _move(self, grid: Grid, label: LabelBins) -> None:
        """Goes over to coarser or wider bins."""
        columns = np.flatnonzero((grid.exponents != self.grid.exponents) | (grid.first != self.grid.first))
        if len(columns) and self.label.num:
            to = self.grid.moves(grid, columns, self._bins)
            moved = np.zeros((len(columns), *self.table.shape[1:]), np.int64)
            np.add.at(moved, (np.arange(len(columns))[:, None], to), self.table[columns])
            self.table[columns] = moved
        self.grid = grid
        if label.num:
            to = self.label.moves(label) if self.label.num else np.zeros(0, np.int64)
            if label.num != self.label.num or not np.array_equal(to, np.arange(label.num)):
                self.table = _join(self.table, to, label.num)
                self.not_finite = _join(self.not_finite, to, label.num)
                self.label_rows = _join(self.label_rows, to, label.num)
        elif self.label.num:
            self.table, self.not_finite = self.table[..., :0], self.not_finite[..., :0]
            self.label_rows = self.label_rows[:0]
        self.label = label

    def _cells(self, columns: IntArray, bins: IntArray, labels: IntArray) -> IntArray:
        """Returns indices into the table laid out flat."""
        return np.asarray((columns * self._bins + bins) * self.label.num + labels)

    def joint(self, column: int, fill: float = math.nan) -> IntArray:
        """Returns how many rows of each label fall into each bin of a column, after joining bins.

        Args:
          column: Which one.
          fill: What stands in for its values that are not finite.

        Returns:
          Shape (at most 32, labels), int64; sums to the number of rows. No row or column of it is empty.
        """
        counts = self.table[column].copy()
        if column >= self._num_numbers:
            value, others = 0.0, self.label_rows - counts.sum(axis=0)
        else:
            value, others = fill, self.not_finite[column]
        if others.any():
            counts[self.grid.positions(np.array([value]), np.array([column]))[0]] += others
        num_rows = int(self.label_rows.sum())
        num_labels = np.count_nonzero(self.label_rows)
        num_groups = num_rows // (_ROWS_PER_CELL * num_labels)
        if self.label.grid is not None:
            num_groups = math.isqrt(num_rows // _ROWS_PER_CELL)
            counts = _grouped(counts.T, _limited(num_groups)).T
        return _grouped(counts[:, counts.any(axis=0)], _limited(num_groups))

    def mutual_information(self, fill: npt.NDArray[np.float32] | None = None) -> FloatArray:
        """Returns the mutual information of each column and the label, shape (d,), in nats, at least 0.

        Args:
          fill: Shape (num_numbers,), what stands in for values that are not finite, if there are some.
        """
        values = np.full(self._width, np.nan)
        if fill is not None:
            values[: self._num_numbers] = fill
        return np.array([mutual_information(self.joint(j, values[j])) for j in range(self._width)])


def mutual_information(joint: IntArray) -> float:
    """Returns the mutual information of rows and columns of a table of counts, in nats, at least 0.

    The plain estimate is too large by about (rows - 1)(columns - 1) / (2 n), which would put a column with
    many bins before one with few; Miller's correction (1955) of the three entropies takes that off.

    Args:
      joint: Shape (rows, columns), int64, with n > 0 in all and no row or column empty.
    """
    num_rows = joint.sum()
    expected = joint.sum(axis=1, keepdims=True) * (joint.sum(axis=0, keepdims=True) / num_rows)
    some = joint > 0
    plain = (joint[some] / num_rows) @ np.log(joint[some] / expected[some])
    bias = (np.count_nonzero(some) - joint.shape[0] - joint.shape[1] + 1) / (2 * num_rows)
    return max(0.0, float(plain - bias))


def _grouped(counts: IntArray, num_groups: int) -> IntArray:
    """Returns neighbouring rows of a table added up, so that at most `num_groups` of about equal sums stay.

    A row goes where the middle of its counts is, in shares of all.
    """
    sums = counts.sum(axis=1)
    filled = np.flatnonzero(sums)
    counts, sums = counts[filled], sums[filled]
    middle = 2 * np.cumsum(sums) - sums
    group = middle * num_groups // (2 * sums.sum())
    return np.asarray(np.add.reduceat(counts, np.flatnonzero(np.diff(group, prepend=-1)), axis=0))


def _limited(num_groups: int) -> int:
    return max(2, min(num_groups, _MAX_GROUPS))


def _join(counts: IntArray, to: IntArray, num: int) -> IntArray:
    """Returns counts with the last axis added up to `num` places, position i going to to[i]."""
    found = np.zeros((*counts.shape[:-1], num), np.int64)
    for old, new in enumerate(to):
        found[..., new] += counts[..., old]
    return found


def _floor(values: FloatArray, exponents: IntArray) -> FloatArray:
    """Returns floor(values / 2**exponents), exactly."""
    return np.asarray(np.floor(np.ldexp(values, -exponents)))


def _label_grid(low: float, high: float) -> Grid:
    return Grid.of(_as_float32(np.array([low])), _as_float32(np.array([high])), _LABEL_BINS)


def _as_float32(values: npt.NDArray[Any]) -> FloatArray:
    """Returns numbers as float32 has them, the largest at most, in float64."""
    limit = float(np.finfo(np.float32).max)
    return np.clip(values.astype(np.float64), -limit, limit).astype(np.float32).astype(np.float64)
