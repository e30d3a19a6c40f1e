"""From statistics to a fitted reduction: which arithmetic belongs to which method.

Statistics in, arrays out. Does not read rows (beam.py) and does not know TensorFlow (transform_graph.py).
"""

from tfx_mobile.dimensionality_reducer import linear
from tfx_mobile.dimensionality_reducer.config import PCA, Reduction
from tfx_mobile.dimensionality_reducer.models import Fitted
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
    match reduction:
        case PCA():
            assert statistics.moments is not None
            return linear.fit_pca(statistics.moments, reduction, columns)
    raise NotImplementedError(reduction.name)
