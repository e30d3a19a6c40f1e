"""Bounds from all rows at once: the second method that bounds from tallies are held against."""

import math
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


def upper_bound_of_mean(values: Any) -> float:
    """Returns the one-sided 95 % upper t-bound of the mean; infinity for fewer than 2 values."""
    count = len(values)
    if count < 2:
        return math.inf
    spread = float(np.std(values, ddof=1)) / math.sqrt(count)
    return float(np.mean(values)) + float(stats.t.ppf(CONFIDENCE, count - 1)) * spread


def upper_bound_of_ratio(above: Any, below: Any) -> float:
    """Returns the one-sided 95 % upper bound of mean(above) / mean(below), paired (Fieller 1954).

    It is the ratio at which `upper_bound_of_mean(above - ratio * below)` is zero.

    Args:
      above: Shape (rows,), the candidate's losses.
      below: Shape (rows,), the other model's losses on the same rows.

    Returns:
      The bound; infinity when mean(below) is not clearly above zero.
    """
    count = len(above)
    if count < 2:
        return math.inf
    if np.array_equal(above, below):
        return 1.0
    mean_above, mean_below = float(np.mean(above)), float(np.mean(below))
    weight = float(stats.t.ppf(CONFIDENCE, count - 1)) ** 2 / count
    covariance = np.cov(above, below, ddof=1)
    a = mean_below**2 - weight * float(covariance[1, 1])
    b = mean_above * mean_below - weight * float(covariance[0, 1])
    c = mean_above**2 - weight * float(covariance[0, 0])
    if a <= 0:
        return math.inf
    return (b + math.sqrt(max(b * b - a * c, 0.0))) / a
