"""The `reduction` artifact: every number of a reduction as JSON."""

from collections.abc import Mapping
from typing import Any

from tfx_mobile.dimensionality_reducer.config import ReducerConfig
from tfx_mobile.dimensionality_reducer.models import Fitted, FloatArray

REPORT_FILE = "reduction.json"
SCHEMA_VERSION = 2


def reduction_report(config: ReducerConfig, fitted: Mapping[str, Fitted]) -> dict[str, Any]:
    """Returns what each reduction did, as plain JSON values.

    Args:
      config: The reductions.
      fitted: By output name.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "reductions": [
            _one(reduction.to_dict(), fitted[reduction.output]) for reduction in config.reductions
        ],
    }


def _one(settings: dict[str, Any], found: Fitted) -> dict[str, Any]:
    return {
        "settings": settings,
        "columns": found.columns,
        "num_components": found.num_outputs,
        "num_rows": found.num_rows,
        "explained_variance": _list(found.explained_variance),
        "explained_variance_ratio": _list(found.explained_variance_ratio),
        "all_variances": _list(found.all_variances),
        "loadings": None if found.loadings is None else found.loadings.T.tolist(),
        "kept": list(found.kept),
        "dropped": found.dropped,
        "scores": found.scores,
        "notes": list(found.notes),
    }


def _list(values: FloatArray | None) -> list[float] | None:
    return None if values is None else [float(value) for value in values]
