"""Methods that are a matrix fitted from moments: principal components and their relatives.

Source: Jolliffe (2002), Principal Component Analysis, 2nd ed.
"""

import numpy as np
import numpy.typing as npt

from tfx_mobile.common.errors import DataError
from tfx_mobile.dimensionality_reducer.config import PCA
from tfx_mobile.dimensionality_reducer.models import Fitted, Linear
from tfx_mobile.dimensionality_reducer.moments import Moments

FloatArray = npt.NDArray[np.float64]
_RANK_TOLERANCE = 1e-12  # a variance below this share of the largest one is rounding, not signal


def fit_pca(moments: Moments, config: PCA, columns: list[str]) -> Fitted:
    """Returns the principal components of the rows that `moments` describes.

    Components come in order of variance; the loading of largest magnitude of each is positive, so that the
    same rows give the same numbers.

    Args:
      moments: Of all rows, width d.
      config: What to keep.
      columns: Names of the d columns.

    Raises:
      DataError: There are fewer than two rows, every column is constant, or more components are asked for
        than there are columns.
    """
    if moments.count < 2:
        raise DataError(f"PCA needs at least 2 rows in split 'train'; got {moments.count}.")
    width = len(columns)
    if isinstance(config.n_components, int) and config.n_components > width:
        raise DataError(
            f"PCA.n_components must be at most {width}, the width of its inputs; got {config.n_components}."
        )
    covariance = moments.covariance()
    scale = _inverse_deviation(np.diag(covariance)) if config.standardise else np.ones(width)
    variances, vectors = np.linalg.eigh(covariance * np.outer(scale, scale))
    variances, vectors = np.clip(variances[::-1], 0, None), vectors[:, ::-1]
    if not variances[0] > 0:
        raise DataError(f"PCA needs a feature that varies; {', '.join(columns)} are constant in 'train'.")
    kept = _num_components(variances, config.n_components)
    vectors = _fix_signs(vectors[:, :kept])
    if config.whiten:
        vectors = vectors * _inverse_deviation(variances[:kept], floor=variances[0] * _RANK_TOLERANCE)
    matrix = scale[:, None] * vectors
    return Fitted(
        model=Linear(moments.mean, matrix),
        columns=columns,
        num_rows=moments.count,
        loadings=matrix,
        explained_variance=variances[:kept],
        explained_variance_ratio=variances[:kept] / variances.sum(),
        all_variances=variances,
    )


def _num_components(variances: FloatArray, wanted: object) -> int:
    if isinstance(wanted, int):
        return wanted
    shares = np.cumsum(variances) / variances.sum()
    return min(int(np.searchsorted(shares, float(wanted) - 1e-12)) + 1, len(variances))  # type: ignore[arg-type]


def _inverse_deviation(variances: FloatArray, floor: float = 0.0) -> FloatArray:
    """Returns 1 / sqrt(variance), and 0 where the variance is no more than `floor`."""
    varies = variances > floor
    return np.where(varies, 1 / np.sqrt(np.where(varies, variances, 1.0)), 0.0)


def _fix_signs(vectors: FloatArray) -> FloatArray:
    largest = np.argmax(np.abs(vectors), axis=0)
    return np.asarray(vectors * np.where(vectors[largest, range(vectors.shape[1])] < 0, -1.0, 1.0))
