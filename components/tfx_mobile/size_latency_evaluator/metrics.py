"""Formulas of metrics in NumPy: one number per row, or cells that add up. Arrays in, arrays out.

Names and numbers are TFMA's, which has its own AUC, precision and so on beside Keras's; what is not here is
computed by the Keras class itself (keras_metrics.py). Nothing is kept between calls: accuracy.py does that.

Sources: thresholds and areas of the ROC and precision-recall curves, Davis and Goadrich (2006), "The
relationship between precision-recall and ROC curves", ICML; like TFMA after 10,000 equal buckets.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.common.errors import DataError
from tfx_mobile.size_latency_evaluator.config import AnyMetric, KerasMetric, Metric

FloatArray = npt.NDArray[np.float64]

NUM_BUCKETS = 10_000
THRESHOLD_EPSILON = 1e-7
CLIP = np.float32(1e-7)  # keras.backend.epsilon()


# ---------------------------------------------------------------------------------------------- means


def row_values(
    metric: AnyMetric,
    labels: npt.NDArray[Any],
    predictions: npt.NDArray[Any],
    *,
    decision_threshold: float = 0.5,
) -> FloatArray:
    """Returns one number per row whose mean is the metric, or the square of an RMSE.

    Args:
      metric: Of the family MEAN.
      labels: Shape (rows, width), finite; (rows, 1) class indices where the metric takes them.
      predictions: Shape (rows, outputs), finite.
      decision_threshold: For `Metric.ACCURACY` with one output: from here on it says class 1.

    Returns:
      Shape (rows,), float64.

    Raises:
      DataError: The shapes do not fit, or labels are not the classes or probabilities that the metric needs.
    """
    if len(labels) != len(predictions):
        raise _misfit(metric, labels, predictions)
    if isinstance(metric, Metric):
        if metric is Metric.ACCURACY:
            return _accuracy(metric, labels, predictions, decision_threshold)
        return _error(metric, labels, predictions, absolute=metric is Metric.MAE)
    name, config = metric.class_name, metric.config
    if name in ("RootMeanSquaredError", "MeanSquaredError", "MeanAbsoluteError"):
        return _error(metric, labels, predictions, absolute=name == "MeanAbsoluteError")
    if name == "MeanLabel":
        return np.asarray(np.mean(labels, axis=1), np.float64)
    if name == "MeanPrediction":
        return np.asarray(np.mean(predictions, axis=1, dtype=np.float64))
    if name == "BinaryAccuracy":
        wanted = _probabilities(metric, labels, predictions)
        said = np.asarray(predictions, np.float64) > config.get("threshold", 0.5)
        return np.asarray(np.where(said, wanted, 1.0 - wanted).mean(axis=1), np.float64)
    if name == "BinaryCrossentropy":
        return _binary_crossentropy(_probabilities(metric, labels, predictions), predictions, config)
    return _of_classes(metric, labels, predictions)


def power(metric: AnyMetric) -> float:
    """Returns p where the metric is the p-th root of the mean of its row values."""
    root = metric is Metric.RMSE or getattr(metric, "class_name", "") == "RootMeanSquaredError"
    return 2.0 if root else 1.0


def _error(metric: AnyMetric, labels: Any, predictions: Any, *, absolute: bool) -> FloatArray:
    if labels.shape != predictions.shape:
        raise _misfit(metric, labels, predictions)
    difference = np.asarray(predictions, np.float64) - labels
    each = np.abs(difference) if absolute else difference * difference
    return np.asarray(each[:, 0] if each.shape[1] == 1 else each.mean(axis=1), np.float64)


def _accuracy(metric: AnyMetric, labels: Any, predictions: Any, threshold: float) -> FloatArray:
    if predictions.shape[1] > 1:
        return np.asarray(predictions.argmax(axis=1) == _classes(metric, labels, predictions), np.float64)
    if labels.shape[1] != 1:
        raise _misfit(metric, labels, predictions)
    said = np.asarray(predictions, np.float64)[:, 0] >= threshold
    return np.asarray(said == (labels[:, 0] >= 0.5), np.float64)


def _classes(metric: AnyMetric, labels: Any, predictions: Any) -> npt.NDArray[np.int64]:
    """Returns the class index of each row, from an index or a one-hot label."""
    if labels.shape[1] == predictions.shape[1] > 1:
        return np.asarray(labels.argmax(axis=1), np.int64)
    if labels.shape[1] != 1:
        raise _misfit(metric, labels, predictions)
    found = labels[:, 0]
    wrong = (found != np.floor(found)) | (found < 0) | (found >= predictions.shape[1])
    if wrong.any():
        raise DataError(
            f"Labels must be whole class indices from 0 to {predictions.shape[1] - 1} for {metric.value}; "
            f"got {float(found[wrong][0])!r}."
        )
    return np.asarray(found, np.int64)


def _probabilities(metric: AnyMetric, labels: Any, predictions: Any) -> FloatArray:
    if labels.shape != predictions.shape:
        raise _misfit(metric, labels, predictions)
    if labels.size and not (labels.min() >= 0.0 and labels.max() <= 1.0):
        raise DataError(
            f"Labels must lie in [0, 1] for {metric.value}; got {float(labels.min())!r} to "
            f"{float(labels.max())!r}."
        )
    return np.asarray(labels, np.float64)


def _binary_crossentropy(wanted: FloatArray, predictions: Any, config: Mapping[str, Any]) -> FloatArray:
    smoothing = config.get("label_smoothing", 0.0)
    wanted = wanted * (1.0 - smoothing) + 0.5 * smoothing
    found = np.asarray(predictions, np.float32)
    if config.get("from_logits", False):
        wide = found.astype(np.float64)
        each = np.maximum(wide, 0.0) - wide * wanted + np.log1p(np.exp(-np.abs(wide)))
    else:
        # float32 as in Keras: near 0 and 1 its rounding is part of the number.
        found = np.clip(found, CLIP, np.float32(1) - CLIP)
        each = -(wanted * np.log(found + CLIP) + (1.0 - wanted) * np.log(np.float32(1) - found + CLIP))
    return np.asarray(each.mean(axis=1), np.float64)


def _of_classes(metric: KerasMetric, labels: Any, predictions: Any) -> FloatArray:
    name, config = metric.class_name, metric.config
    sparse = name.startswith("Sparse")
    if predictions.shape[1] < 2 or labels.shape[1] != (1 if sparse else predictions.shape[1]):
        raise _misfit(metric, labels, predictions)
    truth = _classes(metric, labels, predictions)
    rows = np.arange(len(truth))
    if name.endswith("CategoricalAccuracy") and "TopK" not in name:
        return np.asarray(predictions.argmax(axis=1) == truth, np.float64)
    if name.endswith("TopKCategoricalAccuracy"):
        above = (predictions > predictions[rows, truth][:, None]).sum(axis=1)
        return np.asarray(above < config.get("k", 5), np.float64)
    if config.get("from_logits", False):
        wide = np.asarray(predictions, np.float64)
        top = wide.max(axis=1, keepdims=True)
        logs = wide - top - np.log(np.exp(wide - top).sum(axis=1, keepdims=True))
    elif sparse:
        found = np.clip(np.asarray(predictions, np.float32), CLIP, np.float32(1) - CLIP)
        logs = np.log(found.astype(np.float64) / found.sum(axis=1, keepdims=True, dtype=np.float64))
    else:
        found = np.asarray(predictions, np.float32)
        total = found.sum(axis=1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(np.clip(found / total, CLIP, np.float32(1) - CLIP)).astype(np.float64)
    if sparse:
        return np.asarray(-logs[rows, truth], np.float64)
    smoothing = config.get("label_smoothing", 0.0)
    return np.asarray(-((labels * (1.0 - smoothing) + smoothing / labels.shape[1]) * logs).sum(axis=1))


def _misfit(metric: AnyMetric, labels: Any, predictions: Any) -> DataError:
    return DataError(
        f"Predictions must fit the labels for {metric.value}; got shape {predictions.shape} for labels of "
        f"shape {labels.shape}."
    )


# ---------------------------------------------------------------------------------------------- cells


def num_cells(metric: KerasMetric) -> int:
    """Returns how many cells `cells` has for a metric of the family CELLS."""
    return 2 if metric.class_name in _PLAIN else 2 * (len(_thresholds(metric)) + 1)


def cells(
    metric: KerasMetric, labels: npt.NDArray[Any], predictions: npt.NDArray[Any], weights: FloatArray
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], FloatArray]:
    """Returns what the rows add to which cells.

    Of a confusion matrix, cell 2 b holds the weight of negatives that exceed the first b thresholds only,
    cell 2 b + 1 that of positives.

    Args:
      metric: Of the family CELLS.
      labels: Shape (rows, width): probabilities of class 1, one-hot classes, or an index with `class_id`.
      predictions: Shape (rows, outputs).
      weights: Shape (rows,).

    Returns:
      Rows, cells, and values, each of shape (parts,).

    Raises:
      DataError: The shapes do not fit, or labels are not in [0, 1].
    """
    rows = np.arange(len(weights))
    if metric.class_name in ("ExampleCount", "WeightedExampleCount"):  # TFMA weighs both
        return rows, np.zeros_like(rows), weights
    if metric.class_name == "Calibration":
        if labels.shape != predictions.shape:
            raise _misfit(metric, labels, predictions)
        parts = (labels.sum(axis=1) * weights, predictions.sum(axis=1, dtype=np.float64) * weights)
        return np.tile(rows, 2), np.repeat([0, 1], len(rows)), np.concatenate(parts)
    wanted, found = _binary(metric, labels, predictions)
    width = found.shape[1]
    bins = _bins(metric, np.asarray(found, np.float64).ravel())
    positive = wanted.ravel() * np.repeat(weights, width)
    negative = (1.0 - wanted).ravel() * np.repeat(weights, width)
    at = np.repeat(rows, width)
    has_positive, has_negative = positive != 0.0, negative != 0.0
    return (
        np.concatenate([at[has_positive], at[has_negative]]),
        np.concatenate([2 * bins[has_positive] + 1, 2 * bins[has_negative]]),
        np.concatenate([positive[has_positive], negative[has_negative]]),
    )


def value_of_cells(metric: KerasMetric, total: FloatArray) -> FloatArray:
    """Returns the metric, NaN where it is not defined.

    Args:
      metric: Of the family CELLS.
      total: Shape (..., num_cells(metric)).

    Returns:
      Shape (...).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        if metric.class_name in _PLAIN:
            return total[..., 1] / total[..., 0] if metric.class_name == "Calibration" else total[..., 0]
        # Not below 0: a sum less a part of itself may be -1e-16.
        halves = np.maximum(total, 0.0).reshape(*total.shape[:-1], -1, 2)
        above = np.cumsum(halves[..., ::-1, :], axis=-2)[..., ::-1, :]
        fp, tp = above[..., 1:, 0], above[..., 1:, 1]
        tn, fn = above[..., :1, 0] - fp, above[..., :1, 1] - tp
        if metric.class_name in _AT_ONE:
            return np.asarray(_AT_ONE[metric.class_name](tp, tn, fp, fn)[..., 0])
        if "explicit" not in _kind(metric):
            tp, fp = tp.copy(), fp.copy()
            tp[..., -1] = fp[..., -1] = 0.0  # nothing exceeds the last threshold, 1 + epsilon
            tn, fn = above[..., :1, 0] - fp, above[..., :1, 1] - tp
        if metric.class_name.startswith("AUC"):
            return _area(metric, tp, tn, fp, fn)
        return _best(metric, tp, tn, fp, fn)


_PLAIN = ("ExampleCount", "WeightedExampleCount", "Calibration")
_AT_ONE: dict[str, Callable[..., FloatArray]] = {
    "Precision": lambda tp, tn, fp, fn: tp / (tp + fp),
    "Recall": lambda tp, tn, fp, fn: tp / (tp + fn),
    "Specificity": lambda tp, tn, fp, fn: tn / (tn + fp),
    "FallOut": lambda tp, tn, fp, fn: fp / (fp + tn),
    "MissRate": lambda tp, tn, fp, fn: fn / (fn + tp),
    "F1Score": lambda tp, tn, fp, fn: 2 * tp / (2 * tp + fp + fn),
    "BalancedAccuracy": lambda tp, tn, fp, fn: (tp / (tp + fn) + tn / (tn + fp)) / 2,
    "MatthewsCorrelationCoefficient": lambda tp, tn, fp, fn: (
        (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    ),
    "TruePositives": lambda tp, tn, fp, fn: tp,
    "TrueNegatives": lambda tp, tn, fp, fn: tn,
    "FalsePositives": lambda tp, tn, fp, fn: fp,
    "FalseNegatives": lambda tp, tn, fp, fn: fn,
}


def _kind(metric: KerasMetric) -> str:
    return "explicit" if metric.class_name in _AT_ONE or "thresholds" in metric.config else "even"


def _thresholds(metric: KerasMetric) -> FloatArray:
    given = metric.config.get("thresholds")
    if given is not None:
        return np.atleast_1d(np.asarray(given, np.float64))
    if metric.class_name in _AT_ONE:
        return np.array([0.5])
    count = metric.config.get("num_thresholds", NUM_BUCKETS)
    inner = np.arange(1, count - 1) / (count - 1)
    return np.concatenate([[-THRESHOLD_EPSILON], inner, [1.0 + THRESHOLD_EPSILON]])


def _bins(metric: KerasMetric, found: FloatArray) -> npt.NDArray[np.int64]:
    """Returns how many thresholds each prediction exceeds, by way of TFMA's buckets for even thresholds."""
    thresholds = _thresholds(metric)
    if _kind(metric) == "explicit":
        return np.searchsorted(thresholds, found, side="left")
    lower = np.arange(NUM_BUCKETS) / NUM_BUCKETS
    edges = np.concatenate([[-np.inf], lower, [np.inf]])
    starts = np.where(thresholds != 0.0, thresholds + THRESHOLD_EPSILON, thresholds)
    bin_of_bucket = np.maximum(np.searchsorted(starts, edges, side="right"), 1)
    bucket = np.clip(np.floor(found * NUM_BUCKETS) + 1, 0, NUM_BUCKETS + 1)
    return np.asarray(bin_of_bucket[bucket.astype(np.int64)], np.int64)


def _binary(metric: KerasMetric, labels: Any, predictions: Any) -> tuple[FloatArray, Any]:
    chosen = metric.config.get("class_id")
    if chosen is None:
        return _probabilities(metric, labels, predictions), predictions
    if chosen >= predictions.shape[1]:
        raise DataError(
            f"class_id of {metric.value} must be below the {predictions.shape[1]} classes; got {chosen}."
        )
    truth = _classes(metric, labels, predictions)
    return np.asarray(truth == chosen, np.float64)[:, None], predictions[:, chosen : chosen + 1]


def _area(metric: KerasMetric, tp: Any, tn: Any, fp: Any, fn: Any) -> FloatArray:
    curve = "PR" if metric.class_name == "AUCPrecisionRecall" else metric.config.get("curve", "ROC")
    method = metric.config.get("summation_method", "interpolation")
    undefined = (tp[..., 0] + fn[..., 0] == 0) | ((curve == "ROC") & (fp[..., 0] + tn[..., 0] == 0))
    if curve == "PR" and method == "interpolation":
        p = tp + fp
        rise, step = tp[..., :-1] - tp[..., 1:], np.maximum(p[..., :-1] - p[..., 1:], 0.0)
        slope = rise / step
        start = tp[..., 1:] - slope * p[..., 1:]
        both = (p[..., :-1] > 0) & (p[..., 1:] > 0)
        ratio = np.where(both, p[..., :-1] / p[..., 1:], 1.0)
        parts = slope * (rise + start * np.log(ratio)) / np.maximum(tp[..., 1:] + fn[..., 1:], 0.0)
        return np.where(undefined, np.nan, np.nansum(parts, axis=-1))
    recall = tp / (tp + fn)
    # 0 where nothing is predicted, as in TFMA 0.52: without it `majoring` would be no upper bound.
    precision = np.where(tp + fp > 0, tp / (tp + fp), 0.0)
    x, y = (fp / (fp + tn), recall) if curve == "ROC" else (recall, precision)
    left, right = y[..., :-1], y[..., 1:]
    heights = {
        "interpolation": (left + right) / 2.0,
        "minoring": np.minimum(left, right),
        "majoring": np.maximum(left, right),
    }[method]
    return np.where(undefined, np.nan, np.nansum((x[..., :-1] - x[..., 1:]) * heights, axis=-1))


def _best(metric: KerasMetric, tp: Any, tn: Any, fp: Any, fn: Any) -> FloatArray:
    """Returns the largest of one rate where another keeps its least value; 0 where it never does."""
    sensitivity, specificity, precision = tp / (tp + fn), tn / (tn + fp), tp / (tp + fp)
    held, sought, least = {
        "SensitivityAtSpecificity": (specificity, sensitivity, "specificity"),
        "SpecificityAtSensitivity": (sensitivity, specificity, "sensitivity"),
        "PrecisionAtRecall": (sensitivity, precision, "recall"),
        "RecallAtPrecision": (precision, sensitivity, "precision"),
    }[metric.class_name]
    kept = np.where((held >= metric.config[least]) & ~np.isnan(sought), sought, -np.inf)
    found = kept.max(axis=-1)
    no_class = (tp[..., 0] + fn[..., 0] == 0) | (fp[..., 0] + tn[..., 0] == 0)
    return np.where(no_class, np.nan, np.where(np.isneginf(found), 0.0, found))
