"""The `reduction` artifact: every number of a reduction as JSON."""

from collections.abc import Mapping
from typing import Any

from tfx_mobile.dimensionality_reducer.config import ReducerConfig
from tfx_mobile.dimensionality_reducer.core import Projection

REPORT_FILE = "reduction.json"
SCHEMA_VERSION = 1


def reduction_report(
    config: ReducerConfig, projections: Mapping[str, Projection], widths: Mapping[str, int]
) -> dict[str, Any]:
    """Returns what each reduction did, as plain JSON values.

    Args:
      config: The reductions.
      projections: By output name.
      widths: Numbers per row of each input feature.

    Returns:
      `reductions`, a list with settings, columns, kept and total components, the variance of each and its
      share, and `loadings`: per component, one number per column, (x - mean) @ loadings.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "reductions": [
            {
                "settings": reduction.to_dict(),
                "columns": reduction.columns(widths),
                "mean": projections[reduction.output].mean.tolist(),
                "num_components": projections[reduction.output].num_components,
                "explained_variance": projections[reduction.output].explained_variance.tolist(),
                "explained_variance_ratio": projections[reduction.output].explained_variance_ratio.tolist(),
                "all_variances": projections[reduction.output].all_variances.tolist(),
                "loadings": projections[reduction.output].matrix.T.tolist(),
            }
            for reduction in config.reductions
        ],
    }
