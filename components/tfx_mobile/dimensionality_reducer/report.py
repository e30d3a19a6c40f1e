"""The `reduction` artifact: every number of a run as JSON. page.py makes the HTML page from nothing but it.

Numbers that JSON has no word for: NaN is null, infinity is the string "inf" or "-inf".
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.common.embedding import embedding_size
from tfx_mobile.dimensionality_reducer.config import Input, RandomProjection, ReducerConfig, Reduction
from tfx_mobile.dimensionality_reducer.models import Fitted, Linear
from tfx_mobile.dimensionality_reducer.rows import FloatArray
from tfx_mobile.dimensionality_reducer.sample import Sample
from tfx_mobile.dimensionality_reducer.statistics import REPORT_ROWS, Statistics

if TYPE_CHECKING:
    from tfx_mobile.dimensionality_reducer.beam import SplitCounts

REPORT_FILE = "reduction.json"
PAGE_FILE = "reduction.html"
SCHEMA_VERSION = 2

_UNITS = (64, 128, 256)  # of a first dense layer
_NOTHING: Mapping[Any, Any] = MappingProxyType({})


def reduction_report(
    config: ReducerConfig,
    fitted: Mapping[str, Fitted],
    *,
    statistics: Mapping[str, Statistics] = _NOTHING,
    widths: Mapping[Input, int] = _NOTHING,
    float_widths: Mapping[str, int] = _NOTHING,
    vocabulary_sizes: Mapping[str, int] = _NOTHING,
    splits: Mapping[str, "SplitCounts"] = _NOTHING,
) -> dict[str, Any]:
    """Returns what each reduction did, as plain JSON values.

    What is not given is left out of the report, and of the page.

    Args:
      config: The reductions.
      fitted: By output name.
      statistics: By output name, of the train split: for the picture of the rows and what was not finite.
      widths: By input, its numbers per row: for the count of the first layer's weights.
      float_widths: By float feature of fixed width in the transformed data, its numbers per row.
      vocabulary_sizes: By categorical feature of the transformed data, how many indices it has.
      splits: By name, what the rows of each split were like.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "label_key": config.label_key,
        "reductions": [
            _one(
                reduction,
                fitted[reduction.output],
                statistics.get(reduction.output),
                _columns_replaced(reduction, config, widths),
            )
            for reduction in config.reductions
        ],
        "first_layer": _first_layer(config, fitted, widths, float_widths) if widths else None,
        "embedding_sizes": _embedding_sizes(config, widths, vocabulary_sizes),
        "splits": {
            split: {
                "num_rows": found.num_rows,
                "num_dropped": found.num_dropped,
                "num_imputed": found.num_imputed,
            }
            for split, found in splits.items()
        },
    }


def _one(
    reduction: Reduction, found: Fitted, statistics: Statistics | None, columns_replaced: int | None
) -> dict[str, Any]:
    # Of a random matrix, which may be very large, the settings say all: its size and its seed.
    loadings = None if isinstance(reduction, RandomProjection) else found.loadings
    return {
        "settings": reduction.to_dict(),
        "columns": found.columns,
        "num_components": found.num_outputs,
        "num_rows": found.num_rows,
        "num_parameters": _num_numbers(found.model),
        "columns_replaced": columns_replaced,
        "mean": _list(found.model.mean) if isinstance(found.model, Linear) else None,
        "loadings": None if loadings is None else [_list(column) for column in loadings.T],
        "column_deviations": None if statistics is None else _list(_deviations(statistics.sample, found)),
        "explained_variance": _list(found.explained_variance),
        "explained_variance_ratio": _list(found.explained_variance_ratio),
        "all_variances": _list(found.all_variances),
        "total_variance": found.total_variance,
        "label_r2": _list(found.label_r2),
        "kept": list(found.kept),
        "dropped": dict(found.dropped),
        "scores": {column: _number(score) for column, score in found.scores.items()},
        "notes": list(found.notes),
        "imputed_with": None if found.fill is None else _list(found.fill),
        "not_finite": {} if statistics is None else _not_finite(statistics, found.columns),
        "num_bad_rows": None if statistics is None else statistics.num_bad_rows,
        "sample": None if statistics is None else _projection(statistics.sample, found),
    }


def _projection(sample: Sample, found: Fitted) -> dict[str, Any]:
    """Returns the first two outputs of some rows of the train split, and their labels."""
    first = np.arange(min(REPORT_ROWS, sample.rows.num_rows))  # by rising hash: as good as drawn at random
    outputs = np.asarray(found.apply(sample.rows.take(first)), np.float64)[:, :2]
    labels = [_label(label) for label in sample.labels[first].tolist()]
    return {
        "outputs": [_list(column, digits=7) for column in outputs.T],  # float32 has some 7 digits
        "labels": labels if any(label is not None for label in labels) else None,
    }


def _label(value: object) -> object:
    """Returns a label as JSON has it: a number, a string, or null for NaN."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else _number(float(value))  # type: ignore[arg-type]


def _deviations(sample: Sample, found: Fitted) -> FloatArray:
    """Returns the standard deviation of each column in the sample, shape (d,)."""
    rows = sample.rows if found.fill is None else sample.rows.imputed(found.fill)
    if not rows.num_rows:
        return np.zeros(rows.width)
    share = sample.occurrences / sample.occurrences.sum()
    numbers = rows.numbers.astype(np.float64)
    numbers -= share @ numbers
    counts = rows.counts.astype(np.float64)
    mean, squares = counts.T @ share, counts.power(2).T @ share
    variances = np.concatenate([share @ numbers**2, np.clip(squares - mean**2, 0, None)])
    return np.asarray(np.sqrt(variances))


def _not_finite(statistics: Statistics, columns: list[str]) -> dict[str, int]:
    return {
        column: count for column, count in zip(columns, statistics.not_finite.tolist(), strict=True) if count
    }


def _columns_replaced(reduction: Reduction, config: ReducerConfig, widths: Mapping[Input, int]) -> int | None:
    """Returns how many of the columns that a reduction reads do not reach the model any more.

    None where that is not one reduction's doing, because another one reads the same features.
    """
    others = {name for one in config.reductions if one is not reduction for name in one.features}
    if not widths or others & set(reduction.features):
        return None
    return 0 if reduction.keep_inputs else reduction.width(widths)


def _first_layer(
    config: ReducerConfig,
    fitted: Mapping[str, Fitted],
    widths: Mapping[Input, int],
    float_widths: Mapping[str, int],
) -> dict[str, Any]:
    """Returns how many columns reach a first dense layer, and so how many weights each of its units has."""
    one_hot: dict[str, int] = {}
    numbers = {name: width for name, width in float_widths.items() if name != config.label_key}
    for reduction in config.reductions:
        for one in reduction.one_hot:
            one_hot[one.feature] = max(one_hot.get(one.feature, 0), widths[one])
            numbers.pop(one.weights, None)  # part of the one-hot columns, not one of its own
    for reduction in config.reductions:
        numbers |= {name: widths[name] for name in reduction.numeric}
    dropped = config.dropped_features()
    before = sum(numbers.values()) + sum(one_hot.values())
    gone = sum(width for part in (numbers, one_hot) for name, width in part.items() if name in dropped)
    after = before - gone + sum(found.num_outputs for found in fitted.values())
    return {
        "columns_before": before,
        "columns_after": after,
        "weights": [{"units": n, "before": n * before, "after": n * after} for n in _UNITS],
    }


def _embedding_sizes(
    config: ReducerConfig, widths: Mapping[Input, int], vocabulary_sizes: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Returns how wide an embedding of each categorical feature would be; what the schema says goes first."""
    sizes: dict[str, int] = {}
    for reduction in config.reductions:
        for one in reduction.one_hot:
            if one in widths:
                sizes[one.feature] = max(sizes.get(one.feature, 0), widths[one])
    sizes |= {name: size for name, size in vocabulary_sizes.items() if name != config.label_key}
    return [
        {"feature": name, "vocabulary_size": size, "embedding_size": embedding_size(size)}
        for name, size in sorted(sizes.items())
    ]


def _num_numbers(model: Any) -> int:
    """Returns how many numbers of a fitted model go to the phone with it: those of all its arrays."""
    if isinstance(model, np.ndarray):
        return model.size
    if dataclasses.is_dataclass(model):
        return sum(_num_numbers(getattr(model, field.name)) for field in dataclasses.fields(model))
    return 0


def _list(values: npt.NDArray[Any] | None, digits: int = 17) -> list[Any] | None:
    return None if values is None else _numbers(np.asarray(values).tolist(), digits)


def _numbers(values: Iterable[float], digits: int) -> list[Any]:
    if digits >= 17:
        return [_number(value) for value in values]
    return [_number(float(f"{value:.{digits}g}")) for value in values]


def _number(value: float) -> float | str | None:
    if math.isfinite(value):
        return float(value)
    return None if math.isnan(value) else str(float(value))
