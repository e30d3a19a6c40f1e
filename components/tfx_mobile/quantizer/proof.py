"""Proves that a TFLite file runs, at every batch size and with every implementation of its ops, and is right.

Converting is no proof: there are files that the default kernels (XNNPACK) refuse, or compute as a constant or
NaN without an error, and files that only they compute right. A file that takes the process down does so here:
the caller runs this in a worker process. Imports neither TFX nor TensorFlow; the arithmetic is in core.py.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.common.errors import DataError
from tfx_mobile.common.interpreter import Kernels, TFLiteModel
from tfx_mobile.quantizer import core
from tfx_mobile.quantizer.core import Difference, FloatArray

Columns = Mapping[str, npt.NDArray[Any]]
_NUM_SINGLE_ROWS = 3
_NUM_OTHER_ROWS = 64  # reference kernels take 10 to 100 times as long


def prove(
    content: bytes,
    rows: Columns,
    wanted: FloatArray,
    *,
    exact: bool,
    num_sampled: int | None = None,
    others: Sequence[Kernels] = (Kernels.WITHOUT_XNNPACK,),
) -> Difference:
    """Loads a file, runs it in several ways, and compares it with the Keras model.

    1. The default kernels, all rows in one batch: see `core.compare`.
    2. A few rows at batch 1, then all rows again, on the same interpreter: the same predictions up to float32
       rounding and, where the file is quantised, up to its largest difference from the Keras model (a sum
       that rounds to the next step elsewhere).
    3. Each of the other kernels on the first 64 sampled rows and the boundary rows: `core.compare` and step 2
       again (for the reference kernels batch 1 has the same bits), and no more than quantisation away from
       the default kernels: see `core.compare_kernels`.

    Args:
      content: The TFLite file.
      rows: Features by name, as the file takes them; shape (rows, ...).
      wanted: The Keras model's predictions for them, shape (rows, outputs).
      exact: Whether the file must agree to float32 rounding, that is, is neither quantised nor float16.
      num_sampled: As for `core.compare`: the rows from this one on are boundary rows.
      others: Kernels of step 3; none for a file that only the default ones are meant to run.

    Returns:
      The difference of step 1; its failure is the first one of all steps.

    Raises:
      DataError: There is no sampled row.
    """
    count = len(wanted) if num_sampled is None else num_sampled
    kept = core.judged(wanted, count)
    rows, wanted = {name: values[kept] for name, values in rows.items()}, wanted[kept]
    try:
        model = TFLiteModel(content)
        got = model.predict(rows)
        found = core.compare(got, wanted, exact=exact, num_sampled=count)
        if found.failure:
            return found
        allowed = core.FLOAT32_TOLERANCE * max(1.0, float(np.abs(wanted).max()))
        edge = found.max_abs_boundary or 0.0
        allowed += 0.0 if exact else max(found.max_abs, edge)
        failure = _check_batches(model, rows, got, allowed)
        part = np.r_[: min(count, _NUM_OTHER_ROWS), count : len(wanted)]
        rows, got, wanted = {name: values[part] for name, values in rows.items()}, got[part], wanted[part]
        count = min(count, _NUM_OTHER_ROWS)
        for kernels in others:
            failure = failure or _check_kernels(
                content, kernels, rows, got, wanted, exact=exact, num_sampled=count, allowed=allowed
            )
    except DataError as error:
        return Difference(0.0, 0.0, _one_line(error))
    return dataclasses.replace(found, failure=failure)


def _check_kernels(
    content: bytes,
    kernels: Kernels,
    rows: Columns,
    default: FloatArray,
    wanted: FloatArray,
    *,
    exact: bool,
    num_sampled: int,
    allowed: float,
) -> str:
    model = TFLiteModel(content, kernels=kernels)
    got = model.predict(rows)
    failure = core.compare(got, wanted, exact=exact, num_sampled=num_sampled).failure
    failure = failure or _check_batches(model, rows, got, 0.0 if kernels is Kernels.REFERENCE else allowed)
    if failure:
        return f"{failure} (with the {kernels.value})"
    sampled, names = slice(num_sampled), ("the default kernels", f"the {kernels.value}")
    return core.compare_kernels(default[sampled], got[sampled], wanted[sampled], names)


def _check_batches(model: TFLiteModel, rows: Columns, together: FloatArray, allowed: float) -> str:
    """Says whether some rows are predicted otherwise at batch 1, or all of them after it."""
    num_rows = len(together)
    some = np.unique(np.linspace(0, num_rows - 1, _NUM_SINGLE_ROWS, dtype=int))
    for row in some:
        try:
            single = model.predict({name: values[row : row + 1] for name, values in rows.items()})
        except DataError as error:
            raise DataError(f"{error} (row {row}, alone)") from error
        if single.shape[1] != together.shape[1]:
            return f"returns {single.shape[1]} values at batch 1 and {together.shape[1]} at batch {num_rows}"
        if not (gap := _gap(single, together[row : row + 1])) <= allowed:
            return f"predicts row {row} at batch 1 by {gap:g} otherwise than at batch {num_rows}"
    if not (gap := _gap(model.predict(rows), together)) <= allowed:
        return f"predicts by {gap:g} otherwise at batch {num_rows} once it has run at batch 1"
    return ""


def _gap(one: FloatArray, other: FloatArray) -> float:
    return float(np.abs(one.astype(np.float64) - other).max())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
