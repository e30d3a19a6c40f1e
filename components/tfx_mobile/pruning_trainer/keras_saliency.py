"""How much each number of a weight counts, and what is lost when a weight alone is pruned.

For Keras 2 and Keras 3 alike: both have `compute_loss(x, y, y_pred, sample_weight)`, regularisation
included. The model is run as in inference (`training=False`) and is the same afterwards, metrics included.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_mobile.common.errors import DataError
from tfx_mobile.pruning_trainer.allocation import Sensitivity
from tfx_mobile.pruning_trainer.config import Blocks, Criterion, MByN, Weights
from tfx_mobile.pruning_trainer.masks import FloatArray, mask
from tfx_mobile.pruning_trainer.selection import PrunableWeight

LEVELS = (0.25, 0.5, 0.65, 0.75, 0.825, 0.875, 0.91, 0.94, 0.955, 0.97, 0.98, 0.985, 0.99, 0.995)
_WORSE = 10  # times as much as what was measured: a loss that is not finite
_FISHER_ROWS = 8  # whose gradients are summed before they are squared


def saliency(
    model: Any, weights: Sequence[PrunableWeight], criterion: Criterion, batches: Iterable[Any]
) -> dict[str, FloatArray]:
    """Returns how much each number of each weight counts, once; `saliency_function` is for many times."""
    return saliency_function(model, weights, criterion)(batches)


def saliency_function(
    model: Any, weights: Sequence[PrunableWeight], criterion: Criterion
) -> Callable[[Iterable[Any]], dict[str, FloatArray]]:
    """Returns a function of batches that says how much each number of each weight counts at that moment.

    MAGNITUDE is |w| and reads no batch. FIRST_ORDER is |w| times the gradient of the mean loss of all rows.
    FISHER is w**2 E[g**2] / 2 with g the gradient of one row, where E[g**2] is estimated from the sums of the
    gradients of 8 rows that stand together: exact for batches of one row, and in the mean as far as the
    gradients average to 0, as they do after training. Measured on 1024 rows of two MNIST nets at 90 %, these
    masks keep 92 to 98 % of what gradients of single rows keep, in a third to two thirds of the time; with
    other 1024 rows it is 55 to 83 %.

    Args:
      model: Compiled.
      weights: Of the model.
      criterion: What counts.

    Returns:
      A function of batches: (x, y) or (x, y, sample_weight), dense, sparse or ragged, with rows along the
      first axis of every tensor. It returns, by weight name, float32 of the weight's shape, >= 0; where the
      loss is not finite, neither are they. It raises DataError where there is no row. It is traced on its
      first call.
    """
    variables = [weight.variable for weight in weights]
    squared = criterion is Criterion.FISHER
    means = (
        None if criterion is Criterion.MAGNITUDE else _gradient_function(model, variables, squared=squared)
    )

    def measure(batches: Iterable[Any]) -> dict[str, FloatArray]:
        values = [variable.numpy().astype(np.float32) for variable in variables]
        if means is None:
            found = [np.abs(value) for value in values]
        elif squared:
            groups = (group for batch in batches for group in _groups(batch, _FISHER_ROWS))
            found = [value**2 * mean / 2 for value, mean in zip(values, means(groups), strict=True)]
        else:
            found = [np.abs(value * mean) for value, mean in zip(values, means(batches), strict=True)]
        return {weight.name: each for weight, each in zip(weights, found, strict=True)}

    return measure


def scan(
    model: Any,
    weights: Sequence[PrunableWeight],
    saliencies: Mapping[str, FloatArray],
    structure: Weights | Blocks | MByN,
    batches: Iterable[Any],
    levels: tuple[float, ...] = LEVELS,
) -> dict[str, Sensitivity]:
    """Returns what the model loses when one weight alone is pruned to each level.

    Where that makes the loss infinite or NaN, there is nothing to measure, and the level is to be avoided:
    the first such level of a weight is said to cost 10 times as much as the model's loss, or the highest
    rise that was measured on any weight, whichever is more; the second 20 times, and so on. So its curve is
    steeper there than any that was measured, and does not become flat.

    Args:
      model: Compiled.
      weights: Of the model.
      saliencies: By weight name.
      structure: What becomes zero together.
      batches: As for `saliency`; kept in memory.
      levels: Sparsities, rising, in (0, 1).

    Raises:
      DataError: There is no batch, or the loss of the model as it is is not finite.
    """
    kept = list(batches)
    loss = _loss_function(model)
    found: dict[str, list[float]] = {}
    with _metrics_kept(model):
        dense = _mean_loss(loss, kept)
        if not np.isfinite(dense):
            raise DataError(f"The loss must be finite; got {dense} of the model as it is.")
        for weight in weights:
            before = weight.variable.numpy()
            losses = []
            try:
                for level in levels:
                    stays = mask(saliencies[weight.name], level, structure)
                    weight.variable.assign(before * stays)
                    losses.append(_mean_loss(loss, kept) - dense)
            finally:
                weight.variable.assign(before)
            found[weight.name] = losses
    highest = max([abs(dense), *(rise for losses in found.values() for rise in losses if np.isfinite(rise))])
    return {
        weight.name: Sensitivity(
            weight.name,
            int(np.prod(weight.variable.shape)),
            levels,
            _finite(found[weight.name], _WORSE * (highest or 1.0)),
        )
        for weight in weights
    }


def _finite(losses: Sequence[float], worse: float) -> tuple[float, ...]:
    """Returns the losses with `worse` for the first that is not finite, twice that for the second, ..."""
    numbers = np.cumsum(~np.isfinite(losses))
    return tuple(
        loss if np.isfinite(loss) else worse * int(number)
        for loss, number in zip(losses, numbers, strict=True)
    )


def _loss_function(model: Any) -> Any:
    @tf.function(reduce_retracing=True)
    def loss(x: Any, y: Any, sample_weight: Any) -> Any:
        return model.compute_loss(x, y, model(x, training=False), sample_weight)

    return loss


def _mean_loss(loss: Any, batches: Sequence[Any]) -> float:
    rows = [_num_rows(batch) for batch in batches]
    if not sum(rows):
        raise DataError("Sensitivity must be measured on rows; got none.")
    losses = [float(loss(*_three(batch))) for batch in batches]
    return float(np.average(losses, weights=rows))


def _gradient_function(
    model: Any, variables: list[Any], *, squared: bool
) -> Callable[[Iterable[Any]], list[FloatArray]]:
    """Returns a function of batches: sums over rows of the gradients, or their squares, by number of rows."""
    sums = [tf.Variable(tf.zeros(variable.shape)) for variable in variables]

    @tf.function(reduce_retracing=True)
    def add(x: Any, y: Any, sample_weight: Any, rows: Any) -> None:
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, y, model(x, training=False), sample_weight)
        for total, gradient in zip(sums, tape.gradient(loss, variables), strict=True):
            if gradient is not None:  # None: the loss does not depend on the weight
                of_rows = rows * tf.cast(tf.convert_to_tensor(gradient), tf.float32)
                total.assign_add(of_rows**2 if squared else of_rows)

    def mean(batches: Iterable[Any]) -> list[FloatArray]:
        for total in sums:
            total.assign(tf.zeros_like(total))
        num_rows = 0
        with _metrics_kept(model):
            for batch in batches:
                rows = _num_rows(batch)
                add(*_three(batch), tf.constant(rows, tf.float32))
                num_rows += rows
        if not num_rows:
            raise DataError("Gradients must be averaged over rows; got none.")
        return [total.numpy() / np.float32(num_rows) for total in sums]

    return mean


@contextlib.contextmanager
def _metrics_kept(model: Any) -> Iterator[None]:
    """Gives the metrics their state back: `compute_loss` counts in them, and an epoch may be under way."""
    states = [(state, state.numpy()) for metric in model.metrics for state in metric.variables]
    try:
        yield
    finally:
        for state, before in states:
            state.assign(before)


def _three(batch: Any) -> tuple[Any, Any, Any]:
    parts = [tf.nest.map_structure(_tensor, part) for part in batch]
    return parts[0], parts[1], parts[2] if len(parts) > 2 else None


def _tensor(part: Any) -> Any:
    return part if tf.is_tensor(part) else tf.convert_to_tensor(part)  # sparse and ragged ones are tensors


def _num_rows(batch: Any) -> int:
    first = tf.nest.flatten(batch)[0]
    if isinstance(first, tf.RaggedTensor):
        return int(first.nrows())
    return int(first.dense_shape[0]) if isinstance(first, tf.SparseTensor) else len(first)


def _groups(batch: Any, rows: int) -> Iterator[Any]:
    for start in range(0, _num_rows(batch), rows):
        yield tf.nest.map_structure(lambda part, start=start: _slice(part, start, rows), batch)


def _slice(part: Any, start: int, rows: int) -> Any:
    """Returns some rows; fewer at the end."""
    if not isinstance(part, tf.SparseTensor):
        return part[start : start + rows]
    rest = part.dense_shape[1:]
    return tf.sparse.slice(part, tf.concat([[start], 0 * rest], 0), tf.concat([[rows], rest], 0))
