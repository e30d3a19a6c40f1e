"""Sufficient statistics that merge: count, mean and centred cross-products, float64.

One pass over the rows, O(d^2) memory whatever their number, in any order and any tree of merges. Numbers that
are not finite count as missing: what comes out are the moments of the rows with the mean of its column's
finite values in the place of each.

Source: Chan, Golub, LeVeque (1983), Algorithms for computing the sample variance, eq. 1.7 and 2.1.
"""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tfx_mobile.dimensionality_reducer.rows import FloatArray

# The sum of squares of a column of counts less that of its mean is rounding below this share of the first:
# a word in all of 1e9 rows but one still has 1e-9.
_COUNT_ROUNDING = 1e-13


@dataclasses.dataclass(frozen=True)
class Moments:
    """Count, mean and centred cross-products of rows of width d.

    Attributes:
      count: Rows.
      mean: Shape (d,).
      cross: Shape (d, d), the sum over rows of (x - mean)(x - mean)^T, symmetric.
    """

    count: int
    mean: FloatArray
    cross: FloatArray

    def covariance(self) -> FloatArray:
        """Returns the sample covariance, shape (d, d); needs at least two rows."""
        return self.cross / (self.count - 1)


class RunningMoments:
    """Moments of rows that come in batches, with what merging them exactly takes.

    Args:
      num_numbers: Dense columns.
      num_counts: Sparse columns, which stand behind them.
    """

    def __init__(self, num_numbers: int, num_counts: int = 0) -> None:
        self._num_rows = 0
        self._sums = _Sums.zero(num_numbers, num_counts)
        self._count_sum = np.zeros(num_counts)
        self._count_cross = np.zeros((num_counts, num_counts))  # not centred; only added to in place

    def add(self, numbers: npt.NDArray[Any], counts: Any = None) -> None:
        """Adds rows.

        Args:
          numbers: Shape (n, num_numbers); those that are not finite are missing.
          counts: Sparse or dense, shape (n, num_counts), finite.
        """
        values = np.asarray(numbers, np.float64)
        if not len(values):
            return
        counts = sparse.csr_matrix(np.zeros((len(values), 0)) if counts is None else counts, dtype=np.float64)
        self._num_rows += len(values)
        self._sums = self._sums.merge(_Sums.of(values, counts))
        if counts.shape[1]:
            self._count_sum += _column_sums(counts)
            products = (counts.T @ counts).tocoo()  # of words that meet in a row: few of all pairs
            self._count_cross[products.row, products.col] += products.data

    def merge(self, other: "RunningMoments") -> None:
        """Adds the rows of another one."""
        self._num_rows += other._num_rows
        self._sums = self._sums.merge(other._sums)
        self._count_sum += other._count_sum
        self._count_cross += other._count_cross

    def result(self) -> Moments:
        """Returns the moments of all rows, the mean of its column in the place of each missing number."""
        sums, num_numbers = self._sums.centred(), len(self._sums.centre)
        mean = np.concatenate([sums.centre, self._count_sum / max(self._num_rows, 1)])
        cross = np.empty((len(mean), len(mean)))
        cross[:num_numbers, :num_numbers] = sums.cross
        cross[:num_numbers, num_numbers:] = sums.between
        cross[num_numbers:, :num_numbers] = sums.between.T
        # Counts are near zero, so their cross-products lose nothing when they are centred afterwards.
        within = cross[num_numbers:, num_numbers:]
        np.outer(-self._count_sum, mean[num_numbers:], out=within)
        within += self._count_cross
        constant = num_numbers + np.flatnonzero(
            within.diagonal() <= _COUNT_ROUNDING * self._count_cross.diagonal()
        )
        cross[constant], cross[:, constant] = 0, 0
        return Moments(self._num_rows, mean, cross)


@dataclasses.dataclass(frozen=True)
class ColumnMoments:
    """Count, mean and sum of squares of each column by itself, and its products with a label.

    Attributes:
      count: Rows.
      mean: Shape (d,).
      squares: Shape (d,), the sum over rows of (x - mean)^2.
      label_mean: Of the label; 0 without one.
      label_squares: The sum over rows of (y - label_mean)^2.
      products: Shape (d,), the sum over rows of (y - label_mean)(x - mean).
    """

    count: int
    mean: FloatArray
    squares: FloatArray
    label_mean: float
    label_squares: float
    products: FloatArray


class RunningColumns:
    """As RunningMoments, but of each column by itself and with a label: O(d) memory.

    Args:
      num_numbers: Dense columns.
      num_counts: Sparse columns, which stand behind them.
    """

    def __init__(self, num_numbers: int, num_counts: int = 0) -> None:
        self._num_rows = 0
        self._label_mean = self._label_squares = 0.0
        # Of numbers, over the rows in which they are finite: how many, their mean, the sum of squares about
        # it, the mean of the label less `_label_mean`, and the sum of products about both means.
        self._found, self._mean, self._squares, self._label_shift, self._products = np.zeros((5, num_numbers))
        # Of counts: sum, sum of squares, and the sum of products with the label less `_label_mean`.
        self._count_sum, self._count_squares, self._count_products = np.zeros((3, num_counts))

    def add(self, numbers: npt.NDArray[Any], counts: Any = None, labels: FloatArray | None = None) -> None:
        """Adds rows.

        Args:
          numbers: Shape (n, num_numbers); those that are not finite are missing.
          counts: Sparse or dense, shape (n, num_counts), finite.
          labels: Shape (n,), finite; zeros by default.
        """
        values = np.asarray(numbers, np.float64)
        if not len(values):
            return
        part = RunningColumns(values.shape[1], len(self._count_sum))
        part._num_rows = len(values)
        label = np.zeros((len(values), 1)) if labels is None else np.asarray(labels, np.float64)[:, None]
        finite = np.isfinite(values)
        label_mean, label, _ = _centred(label, np.ones_like(label))
        mask = finite.astype(np.float64)
        part._label_mean, part._label_squares = float(label_mean[0]), float((label**2).sum())
        part._mean, values, part._found = _centred(np.where(finite, values, 0.0), mask)
        part._squares = (values**2).sum(axis=0)
        # Sums without BLAS, which adds up some columns in another order than others: equal ones stay equal.
        part._label_shift = (label * mask).sum(axis=0) / np.maximum(part._found, 1)
        part._products = (label * values).sum(axis=0)
        if counts is not None and counts.shape[1]:
            counts = sparse.csr_matrix(counts, dtype=np.float64)
            part._count_sum = _column_sums(counts)
            part._count_squares = _column_sums(counts.power(2))
            part._count_products = np.asarray(counts.T @ label[:, 0])
        self.merge(part)

    def merge(self, other: "RunningColumns") -> None:
        """Adds the rows of another one."""
        num_rows = self._num_rows + other._num_rows
        step = other._label_mean - self._label_mean
        label_mean = self._label_mean + step * (other._num_rows / max(num_rows, 1))
        self._label_squares += other._label_squares + step**2 * (
            self._num_rows * other._num_rows / max(num_rows, 1)
        )
        one, two = self._label_mean - label_mean, other._label_mean - label_mean
        found = self._found + other._found
        share = other._found / np.maximum(found, 1)
        both = self._found * share  # as in Chan et al. 1983, eq. 2.1
        delta = other._mean - self._mean
        label_delta = (other._label_shift + two) - (self._label_shift + one)
        self._squares = self._squares + other._squares + delta**2 * both
        self._products = self._products + other._products + delta * label_delta * both
        self._mean = self._mean + delta * share
        self._label_shift = (self._label_shift + one) + label_delta * share
        self._count_products = (self._count_products + one * self._count_sum) + (
            other._count_products + two * other._count_sum
        )
        self._count_sum = self._count_sum + other._count_sum
        self._count_squares = self._count_squares + other._count_squares
        self._num_rows, self._label_mean, self._found = num_rows, label_mean, found

    def result(self) -> ColumnMoments:
        """Returns the moments of all rows, the mean of its column in the place of each missing number."""
        count_mean = self._count_sum / max(self._num_rows, 1)
        squares = self._count_squares - self._count_sum * count_mean
        varies = squares > _COUNT_ROUNDING * self._count_squares
        return ColumnMoments(
            self._num_rows,
            np.concatenate([self._mean, count_mean]),
            np.concatenate([self._squares, np.where(varies, squares, 0.0)]),
            self._label_mean,
            self._label_squares,
            np.concatenate([self._products, np.where(varies, self._count_products, 0.0)]),
        )


@dataclasses.dataclass(frozen=True)
class _Sums:
    """Sums over pairs of columns, each over the rows in which both are finite.

    With z = x - centre. Where no value is missing the sums are the same for all partners of a column, and
    `pairs`, `sums` and `beside` hold them once, to be broadcast: that keeps complete batches cheap.

    Attributes:
      centre: Shape (d,).
      pairs: Shape (d, d) or (1, 1), how many rows.
      sums: Shape (d, d) or (d, 1), the sum of z_i over the rows in which j is finite too.
      cross: Shape (d, d), the sum of z_i z_j.
      between: Shape (d, num_counts), the sum of z_i times count j.
      beside: Shape (d, num_counts) or (1, num_counts), the sum of count j.
    """

    centre: FloatArray
    pairs: FloatArray
    sums: FloatArray
    cross: FloatArray
    between: FloatArray
    beside: FloatArray

    @classmethod
    def zero(cls, width: int, num_counts: int) -> "_Sums":
        return cls(
            np.zeros(width),
            np.zeros((1, 1)),
            np.zeros((width, 1)),
            np.zeros((width, width)),
            np.zeros((width, num_counts)),
            np.zeros((1, num_counts)),
        )

    @classmethod
    def of(cls, values: FloatArray, counts: Any) -> "_Sums":
        finite = np.isfinite(values)
        if finite.all():
            mean, centred, _ = _centred(values)
            pairs, sums = np.full((1, 1), float(len(values))), centred.sum(axis=0)[:, None]
            beside = _column_sums(counts)[None, :]
        else:
            mask = finite.astype(np.float64)
            mean, centred, _ = _centred(np.where(finite, values, 0.0), mask)
            pairs, sums = mask.T @ mask, centred.T @ mask
            beside = np.asarray(counts.T @ mask).T
        return cls(mean, pairs, sums, centred.T @ centred, np.asarray(counts.T @ centred).T, beside)

    @property
    def num_finite(self) -> FloatArray:
        """Shape (d,), how many values of each column are finite."""
        width = len(self.centre)
        return np.broadcast_to(self.pairs, (width, width)).diagonal()

    def shifted(self, centre: FloatArray) -> "_Sums":
        """Returns the sums about another centre; exact but for rounding."""
        delta = centre - self.centre
        half = self.sums - delta[:, None] * self.pairs / 2
        change = half * delta
        return _Sums(
            centre,
            self.pairs,
            self.sums - delta[:, None] * self.pairs,
            self.cross - (change + change.T),  # symmetric to the last bit
            self.between - delta[:, None] * self.beside,
            self.beside,
        )

    def centred(self) -> "_Sums":
        """Returns the sums about the means."""
        width = len(self.centre)
        sums = np.broadcast_to(self.sums, (width, width)).diagonal()
        return self.shifted(self.centre + sums / np.maximum(self.num_finite, 1))

    def merge(self, other: "_Sums") -> "_Sums":
        """Returns the sums of both sets of rows, about a centre that stays at the means."""
        total = self.num_finite + other.num_finite
        share = other.num_finite / np.maximum(total, 1)
        centre = self.centre + (other.centre - self.centre) * share
        one, two = self.shifted(centre), other.shifted(centre)
        return _Sums(
            centre,
            one.pairs + two.pairs,
            one.sums + two.sums,
            one.cross + two.cross,
            one.between + two.between,
            one.beside + two.beside,
        )


def _centred(values: FloatArray, mask: FloatArray | None = None) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Returns the mean of each column, the values less it, and how many there are.

    The mean is rounded; what is left over is taken off too, so that a constant column has variance 0 and not
    a speck of it that standardising would blow up to 1 (Chan et al. 1983, eq. 1.7).

    Args:
      values: Shape (n, d), finite; 0 where they are missing.
      mask: Shape (n, d), 1 where there is a value and 0 where it is missing; none is by default.
    """
    found = np.full(values.shape[1], float(len(values))) if mask is None else mask.sum(axis=0)
    some = np.maximum(found, 1)
    mean = values.sum(axis=0) / some
    centred = values - mean
    if mask is not None:
        centred *= mask
    rest = centred.sum(axis=0) / some
    centred -= rest
    if mask is not None:
        centred *= mask
    return mean + rest, centred, found


def _column_sums(counts: Any) -> FloatArray:
    return np.asarray(counts.sum(axis=0), np.float64).ravel()
