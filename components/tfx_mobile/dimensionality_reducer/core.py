"""From statistics to a fitted reduction: which arithmetic belongs to which method.

Statistics in, arrays out. Does not read rows (beam.py) and does not know TensorFlow (transform_graph.py).
"""

import dataclasses

from tfx_mobile.dimensionality_reducer import linear, random_projection, sampled, selection, supervised
from tfx_mobile.dimensionality_reducer.checks import check
from tfx_mobile.dimensionality_reducer.config import (
    LDA,
    NMF,
    PCA,
    PLS,
    AnyReduction,
    CorrelationFilter,
    FastICA,
    GaussianRandomProjection,
    KernelPCA,
    LatentDirichletAllocation,
    Score,
    SelectKBest,
    SparsePCA,
    SparseRandomProjection,
    TruncatedSVD,
    VarianceThreshold,
)
from tfx_mobile.dimensionality_reducer.models import Fitted
from tfx_mobile.dimensionality_reducer.moments import ColumnMoments, Moments
from tfx_mobile.dimensionality_reducer.rows import FloatArray
from tfx_mobile.dimensionality_reducer.statistics import Statistics


def fit(reduction: AnyReduction, statistics: Statistics, columns: list[str], label_key: str = "") -> Fitted:
    """Returns the reduction fitted to the rows that the statistics describe.

    Args:
      reduction: The method and its settings.
      statistics: Of all rows of the train split, gathered for this reduction.
      columns: Names of its d columns.
      label_key: Name of the label, for messages.

    Raises:
      DataError: The method cannot be fitted to these rows; the message says why and what to do.
    """
    check(
        reduction,
        len(columns),
        num_numbers=statistics.num_numbers,
        label_is_text=statistics.label_is_text,
        label_key=label_key,
    )
    statistics.check(columns, label_key)
    found = _fit(reduction, statistics, columns, label_key)
    return found if found.fill is not None else dataclasses.replace(found, fill=statistics.fill)


def _fit(reduction: AnyReduction, statistics: Statistics, columns: list[str], label_key: str) -> Fitted:
    match reduction:
        case PCA():
            return linear.fit_pca(_moments(statistics), reduction, columns)
        case TruncatedSVD():
            return linear.fit_truncated_svd(_moments(statistics), reduction, columns)
        case LDA():
            assert statistics.classes is not None
            return supervised.fit_lda(_moments(statistics), statistics.classes, reduction, columns, label_key)
        case PLS():
            return supervised.fit_pls(_label_moments(statistics), reduction, columns, label_key)
        case VarianceThreshold():
            return selection.fit_variance_threshold(_columns(statistics), reduction, columns)
        case CorrelationFilter():
            return selection.fit_correlation_filter(_moments(statistics), reduction, columns)
        case SelectKBest():
            scores = _scores(reduction, statistics, label_key)
            return selection.fit_k_best(scores, reduction, columns, statistics.num_kept, label_key)
        case GaussianRandomProjection() | SparseRandomProjection():
            return random_projection.fit_random_projection(
                statistics.num_kept, statistics.means, reduction, columns
            )
        case FastICA():
            return sampled.fit_fast_ica(statistics, reduction, columns)
        case SparsePCA():
            return sampled.fit_sparse_pca(statistics, reduction, columns)
        case KernelPCA():
            return sampled.fit_kernel_pca(statistics, reduction, columns)
        case NMF():
            return sampled.fit_nmf(statistics, reduction, columns)
        case LatentDirichletAllocation():
            return sampled.fit_latent_dirichlet_allocation(statistics, reduction, columns)


def _scores(reduction: SelectKBest, statistics: Statistics, label_key: str) -> FloatArray:
    match reduction.score:
        case Score.F_REGRESSION:
            return selection.f_regression(_columns(statistics), label_key)
        case Score.F_CLASSIF:
            assert statistics.classes is not None
            return selection.f_classif(_columns(statistics), statistics.classes, label_key)
        case Score.MUTUAL_INFO:
            assert statistics.histograms is not None
            return selection.mutual_information(statistics.histograms, statistics.fill, label_key)


def _moments(statistics: Statistics) -> Moments:
    found = statistics.moments
    assert found is not None
    return found


def _columns(statistics: Statistics) -> ColumnMoments:
    found = statistics.columns
    assert found is not None
    return found


def _label_moments(statistics: Statistics) -> Moments:
    found = statistics.label_moments
    assert found is not None
    return found
