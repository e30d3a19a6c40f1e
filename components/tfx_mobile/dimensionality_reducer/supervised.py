"""Directions that follow the label: linear discriminants of its classes, and partial least squares.

Both come from sums over the rows (moments.py, class_means.py); no rows are seen here.

Sources: Fisher (1936) and Rao (1948) for discriminants; Wold (1966) and Dayal and MacGregor (1997),
Improved PLS algorithms, algorithm 2, for partial least squares.
"""

import numpy as np

from tfx_mobile.common.errors import DataError
from tfx_mobile.dimensionality_reducer.checks import check_rows, subject
from tfx_mobile.dimensionality_reducer.class_means import ClassMeans
from tfx_mobile.dimensionality_reducer.config import LDA, PLS
from tfx_mobile.dimensionality_reducer.linear import fix_signs, inverse_deviation, settled
from tfx_mobile.dimensionality_reducer.models import Fitted, Linear
from tfx_mobile.dimensionality_reducer.moments import Moments
from tfx_mobile.dimensionality_reducer.rows import FloatArray

# The scatter within classes is the total less that between them, right to some 1e-15 of the total, or 1e-11
# with means that are 1e6 deviations from zero.
_WITHIN_ROUNDING = 1e-10
_RANK_TOLERANCE = 1e-8  # scikit-learn's 1e-4 of singular values, squared
_NO_VARIANCE = 1e-12  # of a correlation matrix's eigenvalue, as in linear.py
_NO_DIFFERENCE = (
    1e-14  # between classes, in variances within them; the means of 1e12 equal rows differ by more
)
_TIE_TOLERANCE = 1e-9  # eigenvalues that are nearer, as a share of the largest, are equal
_LABEL_ROUNDING = 1e-14  # a deviation below this share of the label's mean is rounding
_NOTHING_LEFT = 1e-10  # of the label's covariances, as a share of the largest that they could be


def fit_lda(
    moments: Moments, means: ClassMeans, config: LDA, columns: list[str], label_key: str = ""
) -> Fitted:
    """Returns the directions in which the classes lie furthest apart for their width, best first.

    The covariance within the classes of the output, divided by rows less classes, is the identity, and its
    mean is 0. With shrinkage s that covariance is (1 - s) W + s (trace(W) / d) I, and as in scikit-learn's
    solver "eigen" the covariance between the classes shrinks likewise; with s = 1 that would leave no
    difference between directions, so those of the class means themselves are taken. Directions in which
    the rows of a class do not vary at all are left out, as in scikit-learn's solver "svd".

    `explained_variance` is that between the classes, divided by classes less one.

    Args:
      moments: Of all rows, width d.
      means: Of their classes.
      config: How many directions, and the shrinkage.
      columns: Names of the d columns.
      label_key: Name of the label, for messages.

    Raises:
      DataError: The label has no classes or one, there are no more rows than classes, more directions are
        asked for than there can be, no column varies within the classes, or none differs between them.
    """
    means.check("LDA", label_key)
    num_classes, width = len(means.labels), len(columns)
    degrees = moments.count - num_classes
    if degrees < 1:
        raise DataError(
            f"LDA needs more rows than classes in split 'train'; got {moments.count} rows and {num_classes} "
            f"classes of {label_key!r}."
        )
    limit = min(num_classes - 1, width)
    if config.n_components is not None and config.n_components > limit:
        raise DataError(
            f"LDA.n_components must be at most {limit}, the number of classes less one or the width of its "
            f"inputs; got {config.n_components} with {num_classes} classes of {label_key!r} and {width} "
            "columns."
        )
    deviations = means.deviations(moments.mean) * np.sqrt(means.num_rows / degrees)[:, None]
    between = deviations.T @ deviations
    total = moments.cross / degrees
    within = total - between
    flat = np.diag(within) <= _WITHIN_ROUNDING * np.diag(total)
    within[flat], within[:, flat] = 0, 0
    if flat.all():
        raise DataError(
            f"LDA needs a column that varies within the classes of {label_key!r}; "
            f"{subject(columns, 'does', 'do')} not in split 'train'. Such a column is the label in other "
            "words, or constant."
        )
    if config.shrinkage:
        within, between = _shrunk(within, between, total, config.shrinkage)
    scale = inverse_deviation(np.diag(within))
    whiten = _inverse_root(within * np.outer(scale, scale))
    values, vectors = np.linalg.eigh(whiten @ (between * np.outer(scale, scale)) @ whiten)
    values, vectors = values[::-1].clip(0), vectors[:, ::-1]
    if not values[0] > _NO_DIFFERENCE:
        raise DataError(
            f"LDA found no difference between the classes of {label_key!r} in 'train': every column has the "
            "same mean in all of them. Use PCA, or other columns."
        )
    found = min(limit, int((values > _RANK_TOLERANCE * values[0]).sum()))
    kept = min(found, config.n_components or limit)
    notes = []
    if kept < (config.n_components or limit):
        notes.append(f"LDA found {kept} directions in which the classes differ, and no more.")
    if not config.shrinkage and (same := [columns[i] for i in np.flatnonzero(flat & (np.diag(total) > 0))]):
        notes.append(f"{subject(same)} left out: no variance within the classes.")
    apart = values[:-1] - values[1:] > _TIE_TOLERANCE * values[0]
    loadings = fix_signs(whiten @ settled(vectors, apart, kept))
    matrix = scale[:, None] * loadings
    variances = values * (degrees / (num_classes - 1))
    return Fitted(
        model=Linear(moments.mean, matrix),
        columns=columns,
        num_rows=moments.count,
        loadings=matrix,
        explained_variance=variances[:kept],
        explained_variance_ratio=values[:kept] / values.sum(),
        all_variances=variances[:limit],
        notes=tuple(notes),
    )


def fit_pls(moments: Moments, config: PLS, columns: list[str], label_key: str = "") -> Fitted:
    """Returns the directions of partial least squares regression on one label (PLS1), in order.

    The outputs are uncorrelated; the weights are what scikit-learn calls `x_rotations_`. `label_r2` says
    what share of the label's variance each output explains, and `explained_variance` its own variance.

    Args:
      moments: Of the label, which is column 0, and the d columns.
      config: How many directions.
      columns: Names of the d columns.
      label_key: Name of the label, for messages.

    Raises:
      DataError: There are fewer than two rows, the label is constant, or no column covaries with it.
    """
    label_mean, label_squares = float(moments.mean[0]), float(moments.cross[0, 0])
    check_numeric_label(moments.count, label_mean, label_squares, "PLS", label_key, least=2)
    width = len(columns)
    covariance = moments.covariance()
    inner, outer = covariance[1:, 1:], covariance[1:, 0] / np.sqrt(covariance[0, 0])
    scale = inverse_deviation(np.diag(inner)) if config.standardise else np.ones(width)
    inner, outer = inner * np.outer(scale, scale), outer * scale
    # The standardised label's covariances are at most the columns' deviations.
    least = _NOTHING_LEFT * float(np.sqrt(np.trace(inner)))
    rotations: list[FloatArray] = []
    x_loadings: list[FloatArray] = []
    variances, label_r2 = [], []
    left = outer
    for _ in range(config.n_components):
        norm = float(np.linalg.norm(left))
        if norm <= least:
            break
        rotation = left / norm
        for earlier, loading in zip(rotations, x_loadings, strict=True):
            rotation = rotation - (loading @ (left / norm)) * earlier
        variance = float(rotation @ inner @ rotation)
        if variance <= _NOTHING_LEFT**2 * float(np.trace(inner)):
            break
        loading = inner @ rotation / variance
        weight = float(rotation @ outer) / variance
        left = left - loading * (weight * variance)
        rotations.append(rotation)
        x_loadings.append(loading)
        variances.append(variance)
        label_r2.append(weight**2 * variance)
    if not rotations:
        raise DataError(
            f"PLS needs a column that covaries with {label_key!r}; {subject(columns, 'does', 'do')} not in "
            "split 'train'. Use PCA, or other columns."
        )
    notes: tuple[str, ...] = ()
    if len(rotations) < config.n_components:
        notes = (
            f"{len(rotations)} directions hold all that the columns tell about the label; no more made.",
        )
    matrix = scale[:, None] * fix_signs(np.array(rotations).T)
    shares = np.array(variances) * (np.array(x_loadings) ** 2).sum(axis=1) / np.trace(inner)
    return Fitted(
        model=Linear(moments.mean[1:], matrix),
        columns=columns,
        num_rows=moments.count,
        loadings=matrix,
        explained_variance=np.array(variances),
        explained_variance_ratio=shares,
        label_r2=np.array(label_r2),
        notes=notes,
    )


def check_numeric_label(
    count: int, mean: float, squares: float, method: str, label_key: str, *, least: int
) -> None:
    """Raises DataError if a numeric label is constant or has too few rows.

    Args:
      count: Rows.
      mean: Of the label.
      squares: The sum over rows of (label - mean)^2.
      method: Name of the method that needs it.
      label_key: Name of the label.
      least: How many rows the method needs.
    """
    check_rows(method, count, least)
    if np.sqrt(squares / count) <= _LABEL_ROUNDING * abs(mean):
        raise DataError(
            f"{method} needs a label that varies; {label_key!r} is {mean:g} in all {count} "
            f"rows of split 'train'. Check the label, or the filter that made the split."
        )


def _shrunk(
    within: FloatArray, between: FloatArray, total: FloatArray, shrinkage: float
) -> tuple[FloatArray, FloatArray]:
    """Returns both covariances drawn to multiples of the identity, where the rows vary at all.

    In directions without variance the multiples would be all there is, and one of them could pass for a
    difference between the classes.
    """
    varying = _varying(total)
    drawn = []
    for one in (within, between):
        shrunk = (1 - shrinkage) * one + shrinkage * np.trace(one) / len(one) * np.eye(len(one))
        drawn.append(varying @ shrunk @ varying)
    return drawn[0], drawn[1] if shrinkage < 1 else between


def _varying(total: FloatArray) -> FloatArray:
    """Returns the projection on the directions that a covariance has variance in, shape (d, d)."""
    scale = inverse_deviation(np.diag(total))
    some = np.flatnonzero(scale)
    values, vectors = np.linalg.eigh((total * np.outer(scale, scale))[np.ix_(some, some)])
    flat = np.linalg.qr(scale[some, None] * vectors[:, values <= _NO_VARIANCE])[0]
    found = np.zeros_like(total)
    found[np.ix_(some, some)] = np.eye(len(some)) - flat @ flat.T
    return found


def _inverse_root(correlation: FloatArray) -> FloatArray:
    """Returns the symmetric inverse square root; directions without variance go to 0."""
    values, vectors = np.linalg.eigh(correlation)
    return np.asarray(
        (vectors * inverse_deviation(np.where(values > _RANK_TOLERANCE, values, 0.0))) @ vectors.T
    )
