"""How a rung's zeros are spread over its weights, from what each loses at rising sparsity. NumPy only.

Does not measure the curves (keras_saliency.py does) and makes no masks.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.jsonable import Settings

MAX_LEVEL = 0.99  # of one weight, when the rung is not very sparse itself
_LEAST_DENSITY = 0.25  # of one weight, as a share of the rung's


@dataclass(frozen=True)
class Sensitivity(Settings):
    """What the model loses when one weight alone is pruned.

    Attributes:
      weight: Name of the weight, for example 'hidden_1/kernel'.
      num_weights: Its size.
      levels: Its sparsities, rising, in (0, 1).
      losses: The model's loss at each, minus the loss of the model as it is; may be below 0.
    """

    weight: str
    num_weights: int
    levels: tuple[float, ...]
    losses: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.levels) != len(self.losses) or not self.levels:
            raise ConfigError(
                f"A curve must have a loss for each level; {self.weight!r} has {len(self.levels)} levels and "
                f"{len(self.losses)} losses."
            )
        if sorted(set(self.levels)) != [*self.levels] or not 0 < self.levels[0] <= self.levels[-1] < 1:
            raise ConfigError(f"levels must rise in (0, 1); {self.weight!r} has {list(self.levels)}.")
        if not all(math.isfinite(loss) for loss in self.losses):
            raise ConfigError(f"losses must be finite; {self.weight!r} has {list(self.losses)}.")


@dataclass(frozen=True)
class _Piece:
    """A straight piece of a curve's hull: so many more zeros, each at the same cost."""

    weight: str
    cost: float
    num_zeros: int


def allocate(
    curves: Mapping[str, Sensitivity], target_fraction: float, previous: Mapping[str, float]
) -> dict[str, float]:
    """Returns the sparsity of each weight that costs the least in all.

    Minimises the sum of the losses, each on the rising, convex hull of its measured curve, for
    round(target_fraction * all weights) zeros: the cheapest pieces of all hulls are taken first, which is
    optimal for convex curves (Fox 1966; Shoham and Gersho 1988). Pieces of one cost are filled in step.

    Args:
      curves: By weight name; of the dense model, or of the rung before.
      target_fraction: Share of zeros in all weights together, in [0, 1).
      previous: Sparsity of each weight in the rung before, which is the least it gets; 0 where it is missing.

    Returns:
      By weight name, zeros / size: masks of these sparsities have exactly that many zeros. At most MAX_LEVEL,
      or so sparse that a quarter of the rung's density is left, whichever is more; at least one number of
      each weight stays.

    Raises:
      ConfigError: The rung before is sparser, or so few numbers can go that the target is out of reach.
    """
    total = sum(curve.num_weights for curve in curves.values())
    zeros = {name: round(previous.get(name, 0.0) * curve.num_weights) for name, curve in curves.items()}
    missing = round(target_fraction * total) - sum(zeros.values())
    max_level = max(MAX_LEVEL, 1 - _LEAST_DENSITY * (1 - target_fraction))
    pieces = [piece for name, curve in curves.items() for piece in _pieces(curve, zeros[name], max_level)]
    room = sum(piece.num_zeros for piece in pieces)
    if not 0 <= missing <= room:
        raise ConfigError(
            f"A sparsity of {target_fraction:g} must be within reach; {total} weights with "
            f"{sum(zeros.values())} zeros can get {room} more, and it asks for {missing}."
        )
    for cost in sorted({piece.cost for piece in pieces}):
        equal = [piece for piece in pieces if piece.cost == cost]
        missing -= _fill(zeros, equal, missing)
    return {name: zeros[name] / curve.num_weights for name, curve in curves.items()}


def _fill(zeros: dict[str, int], pieces: list[_Piece], missing: int) -> int:
    """Adds up to `missing` zeros, to each weight in proportion to its piece; returns how many."""
    left, room = missing, sum(piece.num_zeros for piece in pieces)
    for piece in pieces:
        share = min(piece.num_zeros, round(left * piece.num_zeros / room)) if room else 0
        zeros[piece.weight] += share
        left -= share
        room -= piece.num_zeros
    return missing - left


def _pieces(curve: Sensitivity, num_zeros: int, max_level: float) -> list[_Piece]:
    """Returns the convex hull of a curve from the zeros there are to the most there may be."""
    most = min(curve.num_weights - 1, round(max_level * curve.num_weights))
    hull = [(0, 0.0)]
    highest = 0.0
    for level, loss in zip(curve.levels, curve.losses, strict=True):
        highest = max(highest, loss)
        point = (round(level * curve.num_weights), highest)
        if point[0] > hull[-1][0]:
            while len(hull) > 1 and _cost(hull[-2], hull[-1]) >= _cost(hull[-1], point):
                hull.pop()
            hull.append(point)
    if hull[-1][0] < most:  # beyond the last level its piece goes on
        cost = _cost(hull[-2], hull[-1]) if len(hull) > 1 else math.inf
        hull.append((most, hull[-1][1] + cost * (most - hull[-1][0])))
    ranges = [
        (max(start[0], num_zeros), min(end[0], most), _cost(start, end))
        for start, end in itertools.pairwise(hull)
    ]
    return [_Piece(curve.weight, cost, end - start) for start, end, cost in ranges if end > start]


def _cost(start: tuple[int, float], end: tuple[int, float]) -> float:
    return (end[1] - start[1]) / (end[0] - start[0])
