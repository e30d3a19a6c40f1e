"""Drawing representative rows and judging a candidate's outputs. Arrays in, arrays out."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

FLOAT32_TOLERANCE = 1e-4  # relative to the largest prediction: float32 sums in another order, no more


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far a candidate is from the Keras model.

    Attributes:
      max_abs: Largest absolute difference, label units.
      mean_abs: Mean absolute difference, label units.
      failure: Why the candidate does not count; empty when it does.
    """

    max_abs: float
    mean_abs: float
    failure: str


def compare(got: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32], *, exact: bool) -> Difference:
    """Compares a candidate's predictions with the Keras model's on the same rows.

    Args:
      got: Shape (rows, outputs).
      wanted: Same shape.
      exact: Whether the candidate must agree to float32 rounding.
    """
    if got.shape != wanted.shape:
        return Difference(
            0.0, 0.0, f"returns the shape {got.shape} where the Keras model returns {wanted.shape}"
        )
    for values, start in ((wanted, "cannot be compared: the Keras model "), (got, "")):
        if wrong := int(np.count_nonzero(~np.isfinite(values))):
            return Difference(0.0, 0.0, f"{start}returns NaN or infinity for {wrong} predictions")
    gap = np.abs(got.astype(np.float64) - wanted)
    max_abs, mean_abs = float(gap.max()), float(gap.mean())
    failure = ""
    if np.ptp(got) == 0 and np.ptp(wanted) > 0:
        failure = f"returns the constant {got.flat[0]:g} for rows whose predictions differ"
    elif exact and max_abs > FLOAT32_TOLERANCE * max(1.0, float(np.abs(wanted).max())):
        failure = f"differs from the Keras model by up to {max_abs:g}, more than float32 rounding"
    return Difference(max_abs, mean_abs, failure)


def draw_rows(
    batches: Iterable[Mapping[str, npt.NDArray[Any]]], num_rows: int, seed: int
) -> dict[str, npt.NDArray[Any]]:
    """Returns a uniform sample without replacement, seeded, in memory of the sample's size.

    Every row gets a random key and the rows with the smallest keys stay.

    Args:
      batches: Columns by name, each of shape (rows of the batch, ...).
      num_rows: At most this many are drawn.
      seed: The same seed and rows give the same sample.
    """
    rng = np.random.default_rng(seed)
    kept: dict[str, npt.NDArray[Any]] = {}
    keys = np.empty(0)
    for batch in batches:
        size = len(next(iter(batch.values())))
        keys = np.concatenate([keys, rng.random(size)])
        kept = {k: np.concatenate([kept[k], v]) if kept else v for k, v in batch.items()}
        smallest = np.sort(np.argsort(keys, kind="stable")[:num_rows])
        keys, kept = keys[smallest], {k: v[smallest] for k, v in kept.items()}
    return kept


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
