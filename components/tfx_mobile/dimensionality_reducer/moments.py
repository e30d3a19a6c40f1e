"""Sufficient statistics that merge: count, mean and centred cross-products, float64.

One pass over the rows, O(d^2) memory whatever their number, in any order and any tree of merges.

Source: Chan, Golub, LeVeque (1983), Algorithms for computing the sample variance, eq. 1.7 and 2.1.
"""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

FloatArray = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Moments:
    """Count, mean and centred cross-products of finite rows of width d.

    Attributes:
      count: Rows.
      mean: Shape (d,).
      cross: Shape (d, d), the sum over rows of (x - mean)(x - mean)^T, symmetric.
    """

    count: int
    mean: FloatArray
    cross: FloatArray

    @classmethod
    def zero(cls, width: int) -> "Moments":
        """Returns the moments of no rows."""
        return cls(0, np.zeros(width), np.zeros((width, width)))

    @classmethod
    def of(cls, rows: npt.NDArray[Any], counts: Any = None) -> "Moments":
        """Returns the moments of dense rows, shape (n, d), and of sparse columns that stand behind them."""
        values = np.asarray(rows, np.float64)
        num_rows = len(values)
        num_sparse = 0 if counts is None else counts.shape[1]
        if not num_rows:
            return cls.zero(values.shape[1] + num_sparse)
        mean = values.mean(axis=0)
        centred = values - mean
        # The mean was rounded; what is left over is taken off too, so that a constant column has variance 0
        # and not a speck of it that standardising would blow up to 1 (Chan et al. 1983, eq. 1.7).
        rest = centred.mean(axis=0)
        centred -= rest
        if not num_sparse:
            return cls(num_rows, mean + rest, centred.T @ centred)
        # Counts are near zero, so their cross-products lose nothing when they are centred afterwards.
        sparse_counts = sparse.csr_matrix(counts, dtype=np.float64)
        sparse_mean = np.asarray(sparse_counts.mean(axis=0)).ravel()
        between = np.asarray(sparse_counts.T @ centred).T
        within = (sparse_counts.T @ sparse_counts).toarray()
        within -= num_rows * np.outer(sparse_mean, sparse_mean)
        return cls(
            num_rows,
            np.concatenate([mean + rest, sparse_mean]),
            np.block([[centred.T @ centred, between], [between.T, within]]),
        )

    def merge(self, other: "Moments") -> "Moments":
        """Returns the moments of both sets of rows together (Chan et al. 1983, eq. 2.1)."""
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        cross = self.cross + other.cross + np.outer(delta, delta) * (self.count * other.count / count)
        return Moments(count, mean, cross)

    def covariance(self) -> FloatArray:
        """Returns the sample covariance, shape (d, d); needs at least two rows."""
        return self.cross / (self.count - 1)
