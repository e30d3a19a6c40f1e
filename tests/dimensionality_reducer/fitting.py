"""Fits a reduction as the pipeline does: rows in batches, batches in shards, shards merged in some order."""

from typing import Any

import numpy as np

from tfx_mobile.dimensionality_reducer import core
from tfx_mobile.dimensionality_reducer.models import Fitted
from tfx_mobile.dimensionality_reducer.moments import Moments, RunningMoments
from tfx_mobile.dimensionality_reducer.rows import Rows
from tfx_mobile.dimensionality_reducer.statistics import Statistics

LABEL = "label"


def as_labels(labels: Any) -> Any:
    """Returns labels as beam.read_labels gives them: float64, or bytes objects."""
    found = np.asarray(labels)
    return found.astype(object if found.dtype.kind in "SO" else np.float64)


def gather(
    reduction: Any,
    numbers: Any,
    labels: Any = None,
    counts: Any = None,
    *,
    seed: int = 0,
    num_batches: int = 7,
) -> Statistics:
    """Returns the statistics of rows that were shuffled, cut into batches of uneven size and merged.

    Args:
      reduction: What they are gathered for.
      numbers: Shape (n, num_numbers).
      labels: Shape (n,), or None.
      counts: Dense, shape (n, num_counts), or None.
      seed: Of the order and the cuts.
      num_batches: How many; they are spread over three shards.
    """
    numbers = np.asarray(numbers, np.float32)
    counts = np.zeros((len(numbers), 0)) if counts is None else np.asarray(counts, np.float32)
    width = numbers.shape[1] + counts.shape[1]
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(numbers))
    cuts = np.sort(draw.integers(0, len(numbers) + 1, num_batches - 1))
    shards = [Statistics(reduction, numbers.shape[1], width) for _ in range(3)]
    for i, chosen in enumerate(np.split(order, cuts)):
        some = None if labels is None else as_labels(labels)[chosen]
        shards[i % 3].add(Rows.of(numbers[chosen], counts[chosen]), some)
    total = Statistics(reduction, numbers.shape[1], width)
    for shard in (shards[2], shards[0], shards[1]):
        total.merge(shard)
    return total


def fit(reduction: Any, numbers: Any, labels: Any = None, counts: Any = None, **options: Any) -> Fitted:
    """Returns the reduction fitted to such rows; columns are named x0, x1, ..."""
    found = gather(reduction, numbers, labels, counts, **options)
    width = np.shape(numbers)[1] + (0 if counts is None else np.shape(counts)[1])
    return core.fit(reduction, found, [f"x{i}" for i in range(width)], LABEL)


def apply(fitted: Fitted, numbers: Any, counts: Any = None) -> Any:
    """Returns the output of rows."""
    return fitted.apply(Rows.of(numbers, counts))


def moments_of(rows: Any, counts: Any = None) -> Moments:
    """Returns the moments of dense rows, shape (n, d), and of sparse columns that stand behind them."""
    found = RunningMoments(np.shape(rows)[1], 0 if counts is None else counts.shape[1])
    found.add(rows, counts)
    return found.result()
