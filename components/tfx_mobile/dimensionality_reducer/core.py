"""The arithmetic of reductions: sufficient statistics that merge, principal components, projection.

Arrays in, arrays out, float64. One pass over the rows, O(d^2) memory whatever their number. Does not read
rows (executor.py) and does not know TensorFlow (transform_graph.py).

Sources: Chan, Golub, LeVeque (1983), Algorithms for computing the sample variance, eq. 2.1;
Jolliffe (2002), Principal Component Analysis, 2nd ed.
"""

import dataclasses
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.common.errors import DataError
from tfx_mobile.dimensionality_reducer.config import PCA

FloatArray = npt.NDArray[np.float64]
_RANK_TOLERANCE = 1e-12  # a variance below this share of the largest one is rounding, not signal


@dataclasses.dataclass(frozen=True)
class Moments:
    """Count, mean and centred cross-products of rows of width d, and where they were not finite.

    Attributes:
      count: Rows.
      mean: Shape (d,).
      cross: Shape (d, d), the sum over rows of (x - mean)(x - mean)^T, symmetric.
      num_not_finite: Shape (d,), values that were NaN or infinite; they are not in mean and cross.
    """

    count: int
    mean: FloatArray
    cross: FloatArray
    num_not_finite: npt.NDArray[np.int64]

    @classmethod
    def zero(cls, width: int) -> "Moments":
        """Returns the moments of no rows."""
        return cls(0, np.zeros(width), np.zeros((width, width)), np.zeros(width, np.int64))

    @classmethod
    def of(cls, rows: npt.NDArray[Any]) -> "Moments":
        """Returns the moments of rows of shape (n, d), leaving out rows that are not finite."""
        values = np.asarray(rows, np.float64)
        not_finite = ~np.isfinite(values)
        values = values[~not_finite.any(axis=1)]
        if not len(values):
            empty = cls.zero(not_finite.shape[1])
            return dataclasses.replace(empty, num_not_finite=not_finite.sum(axis=0))
        mean = values.mean(axis=0)
        centred = values - mean
        # The mean was rounded; what is left over is taken off too, so that a constant column has variance 0
        # and not a speck of it that standardising would blow up to 1 (Chan et al. 1983, eq. 1.7).
        rest = centred.mean(axis=0)
        centred -= rest
        return cls(len(values), mean + rest, centred.T @ centred, not_finite.sum(axis=0))

    def to_bytes(self) -> bytes:
        """Returns the moments as the bytes of a .npz file."""
        stream = io.BytesIO()
        np.savez(
            stream, count=self.count, mean=self.mean, cross=self.cross, num_not_finite=self.num_not_finite
        )
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Moments":
        """Reads what `to_bytes` wrote."""
        with np.load(io.BytesIO(content), allow_pickle=False) as found:
            return cls(int(found["count"]), found["mean"], found["cross"], found["num_not_finite"])

    def merge(self, other: "Moments") -> "Moments":
        """Returns the moments of both sets of rows together (Chan et al. 1983, eq. 2.1)."""
        not_finite = self.num_not_finite + other.num_not_finite
        if not self.count or not other.count:
            return dataclasses.replace(self if self.count else other, num_not_finite=not_finite)
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        cross = self.cross + other.cross + np.outer(delta, delta) * (self.count * other.count / count)
        return Moments(count, mean, cross, not_finite)


def merge_all(parts: Iterable[Moments], width: int) -> Moments:
    """Returns the moments of all parts; of no parts, those of no rows."""
    total = Moments.zero(width)
    for part in parts:
        total = total.merge(part)
    return total


@dataclasses.dataclass(frozen=True)
class Projection:
    """A fitted reduction: y = (x - mean) @ matrix.

    Attributes:
      mean: Shape (d,).
      matrix: Shape (d, k); the scale of each feature and, if asked for, of each component are in it.
      explained_variance: Shape (k,), descending.
      explained_variance_ratio: Shape (k,), each in [0, 1], sums to at most 1.
      all_variances: Shape (d,), every eigenvalue, descending.
    """

    mean: FloatArray
    matrix: FloatArray
    explained_variance: FloatArray
    explained_variance_ratio: FloatArray
    all_variances: FloatArray

    @property
    def num_components(self) -> int:
        """The width of the output."""
        return int(self.matrix.shape[1])


def fit_pca(moments: Moments, config: PCA, columns: Sequence[str]) -> Projection:
    """Returns the principal components of the rows that `moments` describes.

    Components come in order of variance; the loading of largest magnitude of each is positive, so that the
    same rows give the same numbers.

    Args:
      moments: Of all rows, width d.
      config: What to keep.
      columns: Names of the d columns, for messages.

    Raises:
      DataError: A value is not finite, there are fewer than two rows, every column is constant, or more
        components are asked for than there are columns.
    """
    if moments.num_not_finite.any():
        worst = int(np.argmax(moments.num_not_finite))
        raise DataError(
            f"Feature {columns[worst]!r} must be finite; got {moments.num_not_finite[worst]} NaN or infinite "
            "values in split 'train'. Clean it in preprocessing_fn."
        )
    if moments.count < 2:
        raise DataError(f"PCA needs at least 2 rows in split 'train'; got {moments.count}.")
    width = len(columns)
    if isinstance(config.n_components, int) and config.n_components > width:
        raise DataError(
            f"PCA.n_components must be at most {width}, the width of its inputs; got {config.n_components}."
        )
    covariance = moments.cross / (moments.count - 1)
    scale = _inverse_deviation(np.diag(covariance)) if config.standardise else np.ones(width)
    variances, vectors = np.linalg.eigh(covariance * np.outer(scale, scale))
    variances, vectors = np.clip(variances[::-1], 0, None), vectors[:, ::-1]
    if not variances[0] > 0:
        raise DataError(f"PCA needs a feature that varies; {', '.join(columns)} are constant in 'train'.")
    kept = _num_components(variances, config.n_components)
    vectors = _fix_signs(vectors[:, :kept])
    if config.whiten:
        vectors = vectors * _inverse_deviation(variances[:kept], floor=variances[0] * _RANK_TOLERANCE)
    return Projection(
        mean=moments.mean,
        matrix=scale[:, None] * vectors,
        explained_variance=variances[:kept],
        explained_variance_ratio=variances[:kept] / variances.sum(),
        all_variances=variances,
    )


def project(rows: npt.NDArray[Any], projection: Projection) -> npt.NDArray[np.float32]:
    """Returns the components of rows of shape (n, d): shape (n, k), float32, as the phone computes them."""
    centred = np.asarray(rows, np.float32) - projection.mean.astype(np.float32)
    return np.asarray(centred @ projection.matrix.astype(np.float32), np.float32)


def _num_components(variances: FloatArray, wanted: int | float) -> int:
    if isinstance(wanted, int):
        return wanted
    shares = np.cumsum(variances) / variances.sum()
    return min(int(np.searchsorted(shares, wanted - 1e-12)) + 1, len(variances))


def _inverse_deviation(variances: FloatArray, floor: float = 0.0) -> FloatArray:
    """Returns 1 / sqrt(variance), and 0 where the variance is no more than `floor`."""
    varies = variances > floor
    return np.where(varies, 1 / np.sqrt(np.where(varies, variances, 1.0)), 0.0)


def _fix_signs(vectors: FloatArray) -> FloatArray:
    largest = np.argmax(np.abs(vectors), axis=0)
    return np.asarray(vectors * np.where(vectors[largest, range(vectors.shape[1])] < 0, -1.0, 1.0))
