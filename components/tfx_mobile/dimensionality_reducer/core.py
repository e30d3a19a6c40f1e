"""From statistics to a fitted reduction: which arithmetic belongs to which method.

Statistics in, arrays out. Does not read rows (beam.py) and does not know TensorFlow (transform_graph.py).
"""

import dataclasses

from tfx_mobile.dimensionality_reducer import linear, sampled
from tfx_mobile.dimensionality_reducer.config import (
    NMF,
    PCA,
    FastICA,
    KernelPCA,
    LatentDirichletAllocation,
    Reduction,
    SparsePCA,
    TruncatedSVD,
)
from tfx_mobile.dimensionality_reducer.models import Fitted
from tfx_mobile.dimensionality_reducer.moments import Moments
from tfx_mobile.dimensionality_reducer.statistics import Statistics


def fit(reduction: Reduction, statistics: Statistics, columns: list[str], label_key: str = "") -> Fitted:
    """Returns the reduction fitted to the rows that the statistics describe.

    Args:
      reduction: The method and its settings.
      statistics: Of all rows of the train split, gathered for this reduction.
      columns: Names of its d columns.
      label_key: Name of the label, for messages.

    Raises:
      DataError: The method cannot be fitted to these rows; the message says why and what to do.
    """
    statistics.check(columns, label_key)
    found = _fit(reduction, statistics, columns)
    return found if found.fill is not None else dataclasses.replace(found, fill=statistics.fill)


def _fit(reduction: Reduction, statistics: Statistics, columns: list[str]) -> Fitted:
    match reduction:
        case PCA():
            return linear.fit_pca(_moments(statistics), reduction, columns)
        case TruncatedSVD():
            return linear.fit_truncated_svd(_moments(statistics), reduction, columns)
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
    raise NotImplementedError(reduction.name)


def _moments(statistics: Statistics) -> Moments:
    found = statistics.moments
    assert found is not None
    return found
