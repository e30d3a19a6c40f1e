"""Drawing representative rows and judging a candidate's outputs. Arrays in, arrays out."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.common.errors import DataError

FloatArray = npt.NDArray[np.float32]
FLOAT32_TOLERANCE = 1e-4  # relative to the largest prediction: float32 sums in another order, no more
KERNEL_SHARE = 0.1  # of the predictions' mean absolute deviation: a constant is off by all of it


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far a candidate is from the Keras model.

    Attributes:
      max_abs: Largest absolute difference on sampled rows, label units; 0 when nothing could be compared.
      mean_abs: Mean absolute difference likewise.
      failure: Why the candidate does not count; empty when it does.
      top1_agreement: Share of sampled rows, in [0, 1], for which both choose the same class: the largest of
        several outputs, or whether one is above 0.5 where the Keras model's are all in [0, 1]; None for
        another single output.
      max_abs_boundary: Largest absolute difference on boundary rows, label units; None when there are none.
    """

    max_abs: float
    mean_abs: float
    failure: str
    top1_agreement: float | None = None
    max_abs_boundary: float | None = None


def compare(
    got: FloatArray,
    wanted: FloatArray,
    *,
    exact: bool,
    num_sampled: int | None = None,
) -> Difference:
    """Compares a candidate's predictions with the Keras model's on the same rows.

    On boundary rows (extremes, missing values) a candidate must be finite, and, if `exact`, agree; one for
    which the Keras model is not finite itself is not judged.

    Args:
      got: Shape (rows, outputs).
      wanted: Same shape.
      exact: Whether the candidate must agree to float32 rounding.
      num_sampled: Rows before this one are sampled, the others are boundary rows; None: all are sampled.

    Raises:
      DataError: There is no sampled row.
    """
    if got.shape != wanted.shape:
        return Difference(
            0.0, 0.0, f"returns the shape {got.shape} where the Keras model returns {wanted.shape}"
        )
    count = len(wanted) if num_sampled is None else num_sampled
    if not 1 <= count <= len(wanted):
        raise DataError(f"A candidate must be compared on at least one sampled row; got {count}.")
    sampled, boundary = slice(count), np.flatnonzero(judged(wanted, count))[count:]
    for values, start in ((wanted[sampled], "cannot be compared: the Keras model "), (got[sampled], "")):
        if wrong := int(np.count_nonzero(~np.isfinite(values))):
            return Difference(0.0, 0.0, f"{start}returns NaN or infinity for {wrong} predictions")
    gap = np.abs(got[sampled].astype(np.float64) - wanted[sampled])
    failure = _failure(got[sampled], wanted[sampled], exact)
    edge, edge_failure = _compare_boundary(got[boundary], wanted[boundary], exact)
    return Difference(
        float(gap.max()),
        float(gap.mean()),
        failure or edge_failure,
        _agreement(got[sampled], wanted[sampled]),
        edge,
    )


def judged(wanted: FloatArray, num_sampled: int) -> npt.NDArray[np.bool_]:
    """Returns which rows a candidate is judged on, shape (rows,): all but boundary rows that Keras cannot do.

    Args:
      wanted: The Keras model's predictions, shape (rows, outputs).
      num_sampled: Rows before this one are sampled, the others are boundary rows.
    """
    found = np.isfinite(wanted).all(axis=1)
    found[:num_sampled] = True
    return np.asarray(found)


def compare_kernels(
    one: FloatArray,
    other: FloatArray,
    wanted: FloatArray,
    names: tuple[str, str],
) -> str:
    """Says whether two implementations of the ops compute the same file, as far as quantisation lets them.

    Both are within their own error of the Keras model, so that they may be twice the smaller error apart; a
    tenth of the predictions' mean absolute deviation is for one of them rounding somewhat worse. One that
    returns a constant, or something else, is off by about that whole deviation.

    Args:
      one: Predictions of one of them, shape (rows, outputs), finite.
      other: Of the other, likewise.
      wanted: Of the Keras model, likewise.
      names: What the two are called.

    Returns:
      What is wrong, or the empty string.
    """
    values = [each.astype(np.float64) for each in (one, other, wanted)]
    gap = np.abs(values[0] - values[1]).mean()
    error = min(np.abs(each - values[2]).mean() for each in values[:2])
    deviation = np.abs(values[2] - values[2].mean(axis=0)).mean()
    if gap <= 2.0 * error + KERNEL_SHARE * deviation + _rounding(wanted):
        return ""
    return (
        f"computes something else with {names[0]} than with {names[1]}: {gap:g} apart on average, more than "
        f"quantisation excuses"
    )


def _compare_boundary(got: FloatArray, wanted: FloatArray, exact: bool) -> tuple[float | None, str]:
    if not len(wanted):
        return None, ""
    if wrong := int(np.count_nonzero(~np.isfinite(got))):
        return None, f"returns NaN or infinity for {wrong} predictions of boundary rows"
    max_abs = float(np.abs(got.astype(np.float64) - wanted).max())
    if exact and max_abs > _rounding(wanted):
        return max_abs, (
            f"differs from the Keras model by up to {max_abs:g} on boundary rows, more than float32 rounding"
        )
    return max_abs, ""


def _failure(got: FloatArray, wanted: FloatArray, exact: bool) -> str:
    if not np.ptp(got, axis=0).any() and np.ptp(wanted, axis=0).any():
        constant = ", ".join(f"{value:g}" for value in got[0, :3]) + (", ..." if got.shape[1] > 3 else "")
        return f"returns the constant {constant} for rows whose predictions differ"
    max_abs = float(np.abs(got.astype(np.float64) - wanted).max())
    if exact and max_abs > _rounding(wanted):
        return f"differs from the Keras model by up to {max_abs:g}, more than float32 rounding"
    return ""


def _agreement(got: FloatArray, wanted: FloatArray) -> float | None:
    if wanted.shape[1] > 1:
        return float(np.mean(got.argmax(axis=1) == wanted.argmax(axis=1)))
    if wanted.min() < 0.0 or wanted.max() > 1.0:
        return None
    return float(np.mean((got > 0.5) == (wanted > 0.5)))


def _rounding(wanted: FloatArray) -> float:
    return FLOAT32_TOLERANCE * max(1.0, float(np.abs(wanted).max()))


def fingerprint(rows: Mapping[str, npt.NDArray[Any]]) -> str:
    """Returns the sha256 of the rows, the same for the same values."""
    digest = hashlib.sha256()
    for name in sorted(rows):
        values = rows[name]
        digest.update(f"{name}:{values.dtype}:{values.shape}\0".encode())
        if values.dtype == object:
            for text in values.ravel():
                digest.update(len(text).to_bytes(8, "little") + text)
        else:
            digest.update(values.tobytes())
    return digest.hexdigest()
