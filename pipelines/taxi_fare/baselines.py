"""What the model must beat: the mean fare, and a linear model on the raw features.

Both are fitted on the train split as ExampleGen wrote it and measured on the evaluation split.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from taxi_fare.rows import LABEL
from tfx_mobile.common import examples
from tfx_mobile.common.jsonable import Settings

_READ_ROWS = 8192


@dataclasses.dataclass(frozen=True)
class Baselines(Settings):
    """Errors on the evaluation split, in the fare's unit.

    Attributes:
      mean_rmse: Of always saying the mean fare of the train split.
      mean_mae: Likewise.
      linear_rmse: Of ordinary least squares on every raw number.
      linear_mae: Likewise.
    """

    mean_rmse: float
    mean_mae: float
    linear_rmse: float
    linear_mae: float


def measure(train_patterns: list[str], eval_patterns: list[str]) -> Baselines:
    """Fits on the train rows, measures on the evaluation rows.

    Args:
      train_patterns: File patterns of raw Examples.
      eval_patterns: Likewise.
    """
    inputs, fares = _read(train_patterns)
    eval_inputs, eval_fares = _read(eval_patterns)
    centre, scale = inputs.mean(axis=0), inputs.std(axis=0)
    scale[scale == 0] = 1.0
    weights, *_ = np.linalg.lstsq(_with_one((inputs - centre) / scale), fares, rcond=None)
    mean_error = eval_fares - fares.mean()
    linear_error = eval_fares - _with_one((eval_inputs - centre) / scale) @ weights
    return Baselines(
        mean_rmse=_rmse(mean_error),
        mean_mae=float(np.abs(mean_error).mean()),
        linear_rmse=_rmse(linear_error),
        linear_mae=float(np.abs(linear_error).mean()),
    )


def _read(patterns: list[str]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Returns every raw number, shape (rows, features), and the fares, shape (rows,)."""
    inputs, fares = [], []
    names: list[str] = []
    for batch in examples.read_batches(patterns, batch_size=_READ_ROWS):
        names = names or sorted(name for name in batch.schema.names if name not in (LABEL, "company"))
        columns = examples.to_columns(batch, {name: (np.float64, ()) for name in [*names, LABEL]})
        inputs.append(np.stack([columns[name] for name in names], axis=1))
        fares.append(columns[LABEL])
    return np.concatenate(inputs), np.concatenate(fares)


def _with_one(inputs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.column_stack([inputs, np.ones(len(inputs))])


def _rmse(errors: npt.NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(errors**2)))
