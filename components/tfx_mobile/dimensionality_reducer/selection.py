"""Methods that keep some columns as they are and drop the others, each with a reason.

Sources: the F-tests are scikit-learn's `f_regression` and `f_classif`; histograms.py has mutual information.
"""

import numpy as np
import numpy.typing as npt

from tfx_mobile.common.errors import DataError
from tfx_mobile.dimensionality_reducer.checks import check_rows, subject
from tfx_mobile.dimensionality_reducer.class_means import ClassMeans
from tfx_mobile.dimensionality_reducer.config import CorrelationFilter, SelectKBest, VarianceThreshold
from tfx_mobile.dimensionality_reducer.histograms import MAX_LABELS, Histograms
from tfx_mobile.dimensionality_reducer.linear import inverse_deviation
from tfx_mobile.dimensionality_reducer.models import Fitted, Selection
from tfx_mobile.dimensionality_reducer.moments import ColumnMoments, Moments
from tfx_mobile.dimensionality_reducer.rows import FloatArray
from tfx_mobile.dimensionality_reducer.supervised import check_numeric_label

# F where nothing is left unexplained, as in scikit-learn; JSON has no infinity.
_LARGEST = float(np.finfo(np.float64).max)
_THRESHOLD_ROUNDING = 1e-12  # a variance that differs by less from the threshold is equal to it
_ROUNDING = 1e-14  # of a correlation, and of a share of a sum of squares


def fit_variance_threshold(moments: ColumnMoments, config: VarianceThreshold, columns: list[str]) -> Fitted:
    """Keeps the columns whose population variance is above the threshold; scores are the variances.

    Args:
      moments: Of all rows, width d.
      config: The threshold.
      columns: Names of the d columns.

    Raises:
      DataError: There are no rows, or no column is above the threshold.
    """
    check_rows("VarianceThreshold", moments.count, 1)
    variances = moments.squares / moments.count
    kept = variances > config.threshold * (1 + _THRESHOLD_ROUNDING)
    if not kept.any():
        best = int(np.argmax(variances))
        raise DataError(
            f"VarianceThreshold must leave a column; none of {len(columns)} has a variance above "
            f"{config.threshold:g} in split 'train': the largest is {variances[best]:g}, of "
            f"{columns[best]!r}. Lower the threshold, or take other columns."
        )
    reasons = {
        columns[i]: f"variance {variances[i]:.4g} is not above {config.threshold:g}"
        if variances[i] > 0
        else "constant"
        for i in np.flatnonzero(~kept)
    }
    return _selected(kept, reasons, variances, columns, moments.count)


def fit_correlation_filter(moments: Moments, config: CorrelationFilter, columns: list[str]) -> Fitted:
    """Keeps each column unless it correlates with an earlier one that is kept, or is constant.

    The score of a column is its largest absolute correlation with the earlier ones that are kept.

    Args:
      moments: Of all rows, width d.
      config: The threshold.
      columns: Names of the d columns.

    Raises:
      DataError: There are no rows, or every column is constant.
    """
    check_rows("CorrelationFilter", moments.count, 1)
    scale = inverse_deviation(np.diag(moments.cross))
    correlations = moments.cross * scale * scale[:, None]
    kept = scale > 0
    if not kept.any():
        raise DataError(
            f"CorrelationFilter needs a column that varies; {subject(columns)} constant in split 'train'."
        )
    reasons, scores = {}, np.zeros(len(columns))
    for i, name in enumerate(columns):
        if not kept[i]:
            reasons[name] = "constant"
            continue
        # A copy of a column correlates 1, which rounding must not make more.
        with_earlier = np.minimum(np.abs(correlations[i, :i]), 1.0) * kept[:i]
        if not i or not with_earlier.any():
            continue
        most = int(np.argmax(with_earlier))
        scores[i] = with_earlier[most]
        if scores[i] > config.threshold:
            kept[i] = False
            reasons[name] = f"correlates {correlations[i, most]:.4g} with {columns[most]!r}"
    return _selected(kept, reasons, scores, columns, moments.count)


def fit_k_best(
    scores: FloatArray, config: SelectKBest, columns: list[str], num_rows: int, label_key: str = ""
) -> Fitted:
    """Keeps the k columns of the largest scores; of equal ones the first.

    Args:
      scores: Shape (d,), from one of the functions below.
      config: How many.
      columns: Names of the d columns.
      num_rows: Rows of the fit.
      label_key: Name of the label, for messages.

    Raises:
      DataError: No column has a score above 0.
    """
    if not scores.any():
        raise DataError(
            f"SelectKBest needs a column that tells something about {label_key!r}; by {config.score.value} "
            f"{subject(columns, 'does', 'do')} not in split 'train'. Take other columns, or another score."
        )
    order = np.argsort(-scores, kind="stable")
    kept = np.zeros(len(columns), bool)
    kept[order[: config.k]] = True
    reasons = {
        columns[i]: f"{config.score.value} {scores[i]:.4g} ranks {rank} of {len(columns)}"
        for rank, i in enumerate(order[config.k :], start=config.k + 1)
    }
    return _selected(kept, reasons, scores, columns, num_rows)


def f_regression(moments: ColumnMoments, label_key: str = "") -> FloatArray:
    """Returns the F-statistic of each column's correlation with the label; 0 for a constant column.

    Args:
      moments: Of the d columns and the label.
      label_key: Name of the label, for messages.

    Returns:
      Shape (d,), with 1 and n - 2 degrees of freedom.

    Raises:
      DataError: There are fewer than three rows, or the label is constant.
    """
    check_numeric_label(
        moments.count, moments.label_mean, moments.label_squares, "SelectKBest", label_key, least=3
    )
    scale = inverse_deviation(moments.squares) / np.sqrt(moments.label_squares)
    explained = (moments.products * scale) ** 2
    return _f_statistic(explained, 1 - explained, 1, moments.count - 2)


def f_classif(moments: ColumnMoments, means: ClassMeans, label_key: str = "") -> FloatArray:
    """Returns the F-statistic of each column's analysis of variance; 0 for a constant column.

    Args:
      moments: Of all rows, width d.
      means: Of their classes.
      label_key: Name of the label, for messages.

    Returns:
      Shape (d,), with k - 1 and n - k degrees of freedom.

    Raises:
      DataError: The label has no classes or one, or there are no more rows than classes.
    """
    means.check("SelectKBest by f_classif", label_key)
    num_classes = len(means.labels)
    if moments.count <= num_classes:
        raise DataError(
            "SelectKBest by f_classif needs more rows than classes in split 'train'; got "
            f"{moments.count} rows and {num_classes} classes of {label_key!r}."
        )
    total = moments.squares
    between = means.num_rows @ means.deviations(moments.mean) ** 2
    explained: FloatArray = np.where(total > 0, between / np.where(total > 0, total, 1.0), 0.0)
    return _f_statistic(explained, 1 - explained, num_classes - 1, moments.count - num_classes)


def mutual_information(
    histograms: Histograms, fill: npt.NDArray[np.float32] | None, label_key: str = ""
) -> FloatArray:
    """Returns the mutual information of each column and the label, shape (d,), in nats.

    Args:
      histograms: Of all rows.
      fill: Shape (num_numbers,), what stands in for numbers that are not finite; None if nothing does.
      label_key: Name of the label, for messages.

    Raises:
      DataError: The label has one value, or is a string with more than MAX_LABELS of them.
    """
    if histograms.label.too_many:
        raise DataError(
            "SelectKBest by mutual information needs a label that is a number, or a string with at most "
            f"{MAX_LABELS} values; got more in {label_key!r} in split 'train'. Join rare ones in "
            "preprocessing_fn."
        )
    if histograms.label.num < 2:
        raise DataError(
            f"SelectKBest needs a label that varies; {label_key!r} has {histograms.label.num} value in "
            f"{histograms.label_rows.sum()} rows of split 'train'. Check the label, or the filter that made "
            "the split."
        )
    return histograms.mutual_information(fill)


def _f_statistic(
    explained: FloatArray, unexplained: FloatArray, num_groups: int, num_left: int
) -> FloatArray:
    """Returns F from shares of the sum of squares and their degrees of freedom."""
    some = unexplained > _ROUNDING
    found = explained / num_groups / np.where(some, unexplained, 1.0) * num_left
    return np.where(some, found, _LARGEST)


def _selected(
    kept: npt.NDArray[np.bool_],
    reasons: dict[str, str],
    scores: FloatArray,
    columns: list[str],
    num_rows: int,
) -> Fitted:
    return Fitted(
        model=Selection(tuple(np.flatnonzero(kept).tolist())),
        columns=columns,
        num_rows=num_rows,
        kept=tuple(name for name, stays in zip(columns, kept, strict=True) if stays),
        dropped=reasons,
        scores=dict(zip(columns, scores.tolist(), strict=True)),
    )
