"""Methods that are a matrix fitted from moments: principal components and truncated singular values.

Source: Jolliffe (2002), Principal Component Analysis, 2nd ed.; for small variances to high relative accuracy
Demmel (1997), Applied Numerical Linear Algebra, section 5.4.3.
"""

import dataclasses

import numpy as np
import numpy.typing as npt
from scipy import linalg
from scipy.linalg import lapack

from tfx_mobile.common.errors import DataError
from tfx_mobile.dimensionality_reducer.checks import check_rows, subject
from tfx_mobile.dimensionality_reducer.config import PCA, ComponentRule, TruncatedSVD
from tfx_mobile.dimensionality_reducer.models import Fitted, Linear
from tfx_mobile.dimensionality_reducer.moments import Moments
from tfx_mobile.dimensionality_reducer.rows import FloatArray

# Sums over rows are right to some 1e-15 of the deviations of both columns (float64, BLAS), and so are squares
# of float32. What is less than this share of a column's variance is rounding, not signal.
_RANK_TOLERANCE = 1e-12
# Eigenvectors of eigenvalues that are nearer than this to each other move by more than 1e-6 with rounding.
_GAP_TOLERANCE = 1e-9
_RELATIVE_GAP_TOLERANCE = 1e-6  # but eigenvalues that differ by more than this are not called equal
_TIE_TOLERANCE = 1e-4  # magnitudes that are nearer are equal, and the first of them counts
_SHARE_ROUNDING = 1e-12
_FEW_OF_MANY = 8  # with so few components of so many columns the other ones are not computed
_MANY_COLUMNS = 512
_EVEN = 10.0  # between scales that differ by less the eigenvalues of the matrix itself are accurate enough
_SPARE = 32  # components beyond those asked for, to see where a run of equal eigenvalues ends
_SIMULATIONS = 100
_PERCENTILE = 95.0


def fit_pca(moments: Moments, config: PCA, columns: list[str]) -> Fitted:
    """Returns the principal components of the rows that `moments` describes.

    Components come in order of variance. Where the data leave a choice - the sign, a basis of components of
    equal variance, directions without variance - it follows the order of the columns (`canonical_basis`,
    `fix_signs`), so that the same rows give the same numbers however they are sharded.

    Args:
      moments: Of all rows, width d.
      config: What to keep.
      columns: Names of the d columns.

    Raises:
      DataError: There are fewer than two rows, or every column is constant.
    """
    check_rows("PCA", moments.count, 2)
    deviation = np.sqrt(moments.covariance().diagonal())
    num_varying = int((deviation > 0).sum())
    if not num_varying:
        raise DataError(f"PCA needs a feature that varies; {subject(columns)} constant in split 'train'.")
    scale = np.where(deviation > 0, 1.0, 0.0) if config.standardise else deviation
    found = _spectrum(_correlation(moments), scale, None, config.n_components)
    kept, notes = _keep(found.values, found.total, config.n_components, moments.count, num_varying)
    vectors = found.basis(kept)
    if config.whiten:
        vectors = vectors * inverse_deviation(found.values[:kept])
    matrix = inverse_deviation(deviation**2)[:, None] * vectors if config.standardise else vectors
    return Fitted(
        model=Linear(moments.mean, matrix),
        columns=columns,
        num_rows=moments.count,
        loadings=matrix,
        explained_variance=found.values[:kept],
        explained_variance_ratio=found.values[:kept] / found.total,
        all_variances=found.values,
        total_variance=found.total,
        notes=notes,
    )


def fit_truncated_svd(moments: Moments, config: TruncatedSVD, columns: list[str]) -> Fitted:
    """Returns the right singular vectors of the rows, not centred, by falling singular value.

    `explained_variance` is the (population) variance of each output, as scikit-learn's TruncatedSVD has it,
    and not in order; `all_variances` are the squared singular values per row, which are.

    Args:
      moments: Of all rows, width d.
      config: What to keep.
      columns: Names of the d columns.

    Raises:
      DataError: There are no rows, or all values are zero.
    """
    check_rows("TruncatedSVD", moments.count, 1)
    deviation = np.sqrt(moments.cross.diagonal() / moments.count)
    if not deviation.any() and not moments.mean.any():
        raise DataError(
            f"TruncatedSVD needs a value that is not zero; {subject(columns)} all 0 in split 'train'."
        )
    correlation = _correlation(moments)
    found = _spectrum(correlation, deviation, moments.mean, config.n_components)
    kept, notes = _keep(found.values, found.total, config.n_components, moments.count, len(columns))
    vectors = found.basis(kept)
    scaled = deviation[:, None] * vectors
    variances = np.einsum("ik,ik->k", scaled, correlation @ scaled).clip(0)
    total = float((deviation**2).sum())
    return Fitted(
        model=Linear(np.zeros(len(columns)), vectors),
        columns=columns,
        num_rows=moments.count,
        loadings=vectors,
        explained_variance=variances,
        explained_variance_ratio=variances / total if total else variances,
        all_variances=found.values,
        total_variance=found.total,
        notes=notes,
    )


def num_components(values: FloatArray, total: float, share: float) -> int:
    """Returns the fewest components that together reach a share of the total; none that have none of it.

    Args:
      values: Shape (d,), descending.
      total: What 1 is a share of.
      share: In (0, 1].
    """
    shares = np.cumsum(values) / total
    reached = int(np.searchsorted(shares, share - _SHARE_ROUNDING)) + 1
    return min(reached, max(int((values > 0).sum()), 1))


def parallel_analysis(num_rows: int, num_columns: int, seed: int = 0) -> FloatArray:
    """Returns the eigenvalues that the correlations of uncorrelated normal columns rarely exceed.

    The 95th percentile (Glorfeld 1995) of each eigenvalue, by rank, over simulated correlation matrices (Horn
    1965). With more rows than columns a matrix is drawn without its rows, by Bartlett's decomposition of
    the Wishart distribution (Muirhead 1982, theorem 3.2.14), so the cost does not grow with the rows.

    Args:
      num_rows: Rows, at least 2.
      num_columns: Columns, at least 1.
      seed: Of the simulation.

    Returns:
      Shape (num_columns,), descending.
    """
    draw = np.random.Generator(np.random.PCG64(seed))
    # 100 matrices up to 512 columns and fewer of larger ones, whose eigenvalues vary less.
    times = int(np.clip(_SIMULATIONS * (512 / num_columns) ** 2, 10, _SIMULATIONS))
    found = [_eigenvalues_of_noise(draw, num_rows, num_columns) for _ in range(times)]
    return np.asarray(np.percentile(found, _PERCENTILE, axis=0))


def broken_stick(num_columns: int) -> FloatArray:
    """Returns the mean lengths of a stick of length 1 broken at random into `num_columns` (Frontier 1976).

    Returns:
      Shape (num_columns,), descending, sums to 1.
    """
    return np.asarray(np.cumsum(1 / np.arange(num_columns, 0, -1))[::-1] / num_columns)


def inverse_deviation(variances: FloatArray) -> FloatArray:
    """Returns 1 / sqrt(variance), and 0 where the variance is 0."""
    varies = variances > 0
    return np.where(varies, 1 / np.sqrt(np.where(varies, variances, 1.0)), 0.0)


def fix_signs(vectors: FloatArray) -> FloatArray:
    """Returns the columns with the sign that makes the entry of largest magnitude positive (`signs`)."""
    return np.asarray(vectors * signs(vectors))


def signs(vectors: FloatArray) -> FloatArray:
    """Returns, by column of (d, k), -1 if its entry of largest magnitude is negative, else 1.

    Of entries that tie within 1e-4 the first counts: which of them is largest is rounding noise.
    """
    magnitudes = np.abs(vectors)
    largest = np.argmax(magnitudes >= magnitudes.max(axis=0) * (1 - _TIE_TOLERANCE), axis=0)
    return np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)


def canonical_basis(vectors: FloatArray, wanted: int) -> FloatArray:
    """Returns a basis of the space that orthonormal vectors span, the same for any basis of it.

    Gram-Schmidt on the projections of the axes: each time that of the axis of which most is left, and of
    axes that tie within 1e-4 the first.

    Args:
      vectors: Shape (d, m).
      wanted: How many vectors of the basis, at most m.

    Returns:
      Shape (d, wanted), orthonormal.
    """
    left = vectors.copy()  # row i is what is left of the projection of axis i, in the given basis
    found = np.zeros((vectors.shape[1], wanted))
    for i in range(wanted):
        norms = np.einsum("ij,ij->i", left, left)
        axis = int(np.argmax(norms >= norms.max() * (1 - _TIE_TOLERANCE)))
        direction = left[axis] / np.linalg.norm(left[axis])
        found[:, i] = direction
        left -= np.outer(left @ direction, direction)
    return vectors @ found


def settled(vectors: FloatArray, apart: npt.NDArray[np.bool_], wanted: int) -> FloatArray:
    """Returns the first vectors, where those of equal values do not depend on rounding.

    Args:
      vectors: Shape (d, m), orthonormal, by falling value.
      apart: Shape (m - 1,), whether the value of a vector differs from that of the next one.
      wanted: How many, at most m.

    Returns:
      Shape (d, wanted).
    """
    starts = np.concatenate([[0], 1 + np.flatnonzero(apart)])
    found = vectors[:, :wanted].copy()
    for start, end in zip(starts, np.append(starts[1:], vectors.shape[1]), strict=True):
        if start < wanted and end - start > 1:
            count = min(end, wanted) - start
            found[:, start : start + count] = canonical_basis(vectors[:, start:end], count)
    return found


@dataclasses.dataclass(frozen=True)
class _Spectrum:
    """Eigenvalues and eigenvectors of a covariance or a matrix of second moments.

    Attributes:
      values: Shape (d,) or shorter, descending, exactly 0 from the rank on.
      vectors: Shape (d, len(values)), orthonormal.
      noise: Shape (len(values),): rounding puts some 1e-15 of noise[i] * noise[j] between i and j.
      total: The trace.
    """

    values: FloatArray
    vectors: FloatArray
    noise: FloatArray
    total: float

    def apart(self) -> npt.NDArray[np.bool_]:
        """Returns, shape (len(values) - 1,), where rounding can tell an eigenvalue from the next one."""
        values, gaps = self.values, self.values[:-1] - self.values[1:]
        return np.asarray(
            gaps
            > np.minimum(
                _GAP_TOLERANCE * self.noise[:-1] * self.noise[1:], _RELATIVE_GAP_TOLERANCE * values[:-1]
            )
        )

    def basis(self, wanted: int) -> FloatArray:
        """Returns the first eigenvectors, shape (d, wanted), with nothing left to chance."""
        return fix_signs(settled(self.vectors, self.apart(), wanted))


def _spectrum(
    correlation: FloatArray, scale: FloatArray, mean: FloatArray | None, wanted: object
) -> _Spectrum:
    """Decomposes D R D + mean mean^T, where D = diag(scale).

    R is factored first and scaled then: its rounding is that of each column's own scale, so that the variance
    of a column that is 1e5 times smaller than another one's comes out as accurately.
    """
    if isinstance(wanted, int) and len(scale) >= _MANY_COLUMNS and wanted * _FEW_OF_MANY <= len(scale):
        found = _few(correlation, scale, mean, wanted)
        if found is not None:
            return found
    factor = scale[:, None] * _pivoted_cholesky(correlation)
    if mean is None and scale.max() <= _EVEN * scale[scale > 0].min():
        values, vectors = np.linalg.eigh(correlation * np.outer(scale, scale))
        values, vectors = values[::-1].copy(), vectors[:, ::-1]
        values[factor.shape[1] :] = 0
        return _measured(values, vectors, scale, mean)
    if mean is not None:
        factor = np.column_stack([mean, factor])
    vectors, singular = np.linalg.svd(factor)[:2]
    values = np.zeros(len(scale))
    values[: len(singular)] = singular[: len(scale)] ** 2
    return _measured(values, vectors, scale, mean)


def _few(
    correlation: FloatArray, scale: FloatArray, mean: FloatArray | None, wanted: int
) -> _Spectrum | None:
    """As _spectrum for the largest few; None where that would not be as accurate."""
    matrix = correlation * np.outer(scale, scale)
    if mean is not None:
        matrix += np.outer(mean, mean)
    width = len(scale)
    values, vectors = linalg.eigh(
        matrix, subset_by_index=(width - wanted - _SPARE, width - 1), overwrite_a=True, driver="evr"
    )
    found = _measured(values[::-1].clip(0), vectors[:, ::-1], scale, mean)
    # Accurate to 1e-15 of the largest eigenvalue: small ones and runs that go on need all of them.
    complete = found.apart()[wanted - 1 :].any()
    return found if complete and values[_SPARE] > 1e-7 * values[-1] else None


def _measured(
    values: FloatArray, vectors: FloatArray, scale: FloatArray, mean: FloatArray | None
) -> _Spectrum:
    noise, total = scale**2 @ vectors**2, float((scale**2).sum())
    if mean is not None:
        total += float(mean @ mean)
    values = np.where(values > _RANK_TOLERANCE * noise, values, 0.0)
    order = np.argsort(-values, kind="stable")  # what is rounding of a large scale can exceed a small scale
    return _Spectrum(values[order], vectors[:, order], np.sqrt(noise[order]), total)


def _correlation(moments: Moments) -> FloatArray:
    """Returns the correlations, shape (d, d); 0 for columns that do not vary, on the diagonal too."""
    scale = inverse_deviation(moments.cross.diagonal())
    return moments.cross * scale * scale[:, None]


def _pivoted_cholesky(correlation: FloatArray) -> FloatArray:
    """Returns L with L L^T = R, shape (d, rank); columns that others explain add none."""
    factor, pivots, rank, _ = lapack.dpstrf(correlation, tol=_RANK_TOLERANCE, lower=1)
    found = np.zeros((len(correlation), rank))
    found[pivots - 1] = np.tril(factor)[:, :rank]
    return found


def _keep(
    values: FloatArray, total: float, wanted: int | float | ComponentRule, num_rows: int, num_columns: int
) -> tuple[int, tuple[str, ...]]:
    """Returns how many components to keep and what to tell about it."""
    if isinstance(wanted, float):
        return num_components(values, total, wanted), ()
    if isinstance(wanted, int):
        return wanted, ()
    if wanted is ComponentRule.PARALLEL_ANALYSIS:
        limits = parallel_analysis(num_rows, num_columns)
        told = (
            "Parallel analysis found no component above what uncorrelated columns give; kept the first one."
        )
    else:
        limits = broken_stick(num_columns) * total
        told = "The broken-stick rule found no component above its length; kept the first one."
    above = values[:num_columns] > limits * (1 + _SHARE_ROUNDING)
    kept = len(above) if above.all() else int(np.argmin(above))
    return (kept, ()) if kept else (1, (told,))


def _eigenvalues_of_noise(draw: np.random.Generator, num_rows: int, num_columns: int) -> FloatArray:
    if num_rows > num_columns:
        rows = np.tril(draw.standard_normal((num_columns, num_columns)), -1)
        degrees = num_rows - 1 - np.arange(num_columns)
        np.fill_diagonal(rows, np.sqrt(draw.chisquare(degrees)))
    else:
        rows = draw.standard_normal((num_columns, num_rows))
        rows -= rows.mean(axis=1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    small = rows.T if rows.shape[1] < num_columns else rows
    values = np.linalg.eigvalsh(small @ small.T)[::-1].clip(0)
    return np.concatenate([values, np.zeros(num_columns - len(values))])
