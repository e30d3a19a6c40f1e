"""Projections on random directions, which keep the distances between rows (Johnson and Lindenstrauss 1984).

The matrix is a function of the seed and its shape alone. It is made from the raw 64-bit words of the Philox
generator (Salmon et al. 2011), whose stream is part of its definition; NumPy promises no such thing of what
`Generator.normal` makes of it.
"""

import math

import numpy as np
import numpy.typing as npt
from scipy import special

from tfx_mobile.common.errors import DataError
from tfx_mobile.dimensionality_reducer.checks import check_projection, check_rows
from tfx_mobile.dimensionality_reducer.config import GaussianRandomProjection, SparseRandomProjection
from tfx_mobile.dimensionality_reducer.models import Fitted, Linear
from tfx_mobile.dimensionality_reducer.rows import FloatArray


def fit_random_projection(
    num_rows: int,
    mean: FloatArray,
    config: GaussianRandomProjection | SparseRandomProjection,
    columns: list[str],
) -> Fitted:
    """Returns a random projection of the rows.

    Numbers are centred first, which changes no distance, so that float32 keeps what is small beside a large
    mean; counts are not, so that a row's zeros stay out of it.

    Args:
      num_rows: Rows of the split, for the default number of directions.
      mean: Shape (num_numbers,), the mean of the columns that are numbers.
      config: How many directions, and the seed.
      columns: Names of the d columns.

    Raises:
      DataError: There are no rows, or the lemma needs more directions than there are columns or than fit into
        memory.
    """
    width, wanted = len(columns), config.n_components
    check_rows(config.name, num_rows, 1)
    notes: tuple[str, ...] = ()
    if wanted is None:
        wanted = johnson_lindenstrauss(num_rows, config.eps)
        if wanted > width:
            raise DataError(
                f"{config.name} must not have more directions than its inputs are wide, {width}; to keep the "
                f"squared distances of {num_rows} rows to {config.eps:g} takes {wanted} "
                "(Johnson-Lindenstrauss). Give n_components, or a larger eps."
            )
        notes = (
            f"{wanted} directions keep the squared distances of {num_rows} rows to {config.eps:g} "
            "(Johnson-Lindenstrauss).",
        )
    check_projection(config, width, wanted)
    if isinstance(config, GaussianRandomProjection):
        matrix = gaussian_matrix(config.seed, width, wanted)
    else:
        density = 1 / math.sqrt(width) if config.density is None else config.density
        matrix = sparse_matrix(config.seed, width, wanted, density)
    return Fitted(
        model=Linear(np.concatenate([mean, np.zeros(width - len(mean))]), matrix),
        columns=columns,
        num_rows=num_rows,
        loadings=matrix,
        notes=notes,
    )


def johnson_lindenstrauss(num_rows: int, eps: float) -> int:
    """Returns how many directions keep all squared distances to 1 +- eps (Dasgupta and Gupta 2003, thm 2.1).

    Rounded down, as scikit-learn's `johnson_lindenstrauss_min_dim`, but at least 1.
    """
    return max(1, int(4 * math.log(num_rows) / (eps**2 / 2 - eps**3 / 3)))


def gaussian_matrix(seed: int, width: int, num_outputs: int) -> FloatArray:
    """Returns a matrix of normal numbers of variance 1 / num_outputs, shape (width, num_outputs)."""
    normal = special.ndtri(_uniform(_words(seed, width, num_outputs)))
    return np.asarray(normal / math.sqrt(num_outputs))


def sparse_matrix(seed: int, width: int, num_outputs: int, density: float) -> FloatArray:
    """Returns a matrix of zeros and +-1 / sqrt(density * num_outputs), shape (width, num_outputs).

    An entry is not zero with probability `density`, independently, and of either sign with the same one.
    """
    words = _words(seed, width, num_outputs)
    signs = np.where(words & np.uint64(1), 1.0, -1.0)  # a bit that the uniform number does not use
    return np.where(_uniform(words) < density, signs, 0.0) / math.sqrt(density * num_outputs)


def _words(seed: int, width: int, num_outputs: int) -> npt.NDArray[np.uint64]:
    raw = np.random.Philox(key=seed).random_raw(width * num_outputs)
    return np.asarray(raw, np.uint64).reshape(width, num_outputs)


def _uniform(words: npt.NDArray[np.uint64]) -> FloatArray:
    """Returns numbers in (0, 1) from the upper 52 bits, in the middle of intervals of 2**-52."""
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
