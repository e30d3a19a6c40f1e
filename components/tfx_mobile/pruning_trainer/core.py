"""The arithmetic of a ladder: steps of a schedule, zeros counted, the rung that keeps its budget."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.common.errors import DataError
from tfx_mobile.common.ladder import LayerSparsity, Rung

RAMP_SHARE = 0.5  # of a rung's steps: sparsity rises, then the rest is fine-tuned with fixed masks
_ROUNDING_SHARE = 1e-6  # tfmot counts weights in float32
_MASK_UPDATES = 20  # how often the masks are renewed while sparsity rises, about


def ramp_steps(num_rows: int, batch_size: int, epochs: int) -> int:
    """Returns the step at which a rung reaches its sparsity.

    Raises:
      DataError: There are fewer than two steps, so that sparsity could not rise.
    """
    steps = -(-num_rows // batch_size) * epochs
    if steps < 2:
        raise DataError(
            f"A sparse rung needs at least 2 steps; {num_rows} rows in batches of {batch_size} over {epochs} "
            f"epochs give {steps}. Lower batch_size or raise fine_tune_epochs."
        )
    return max(1, int(steps * RAMP_SHARE))


def mask_updates(ramp: int) -> tuple[int, int]:
    """Returns every how many steps masks are renewed, and the step of the last time.

    tfmot renews masks at multiples of the frequency only. The schedule ends at the last of them: one that
    ended between two would leave the masks short of the final sparsity.

    Args:
      ramp: From `ramp_steps`; >= 1.

    Returns:
      The frequency, and its largest multiple that is at most `ramp`.
    """
    frequency = max(1, ramp // _MASK_UPDATES)
    return frequency, ramp - ramp % frequency


def count_zeros(weights: Mapping[str, npt.NDArray[Any]]) -> tuple[LayerSparsity, ...]:
    """Returns the zeros in each weight, in the given order."""
    return tuple(
        LayerSparsity(weight=name, num_weights=int(values.size), num_zeros=int(np.count_nonzero(values == 0)))
        for name, values in weights.items()
    )


def check_sparsity(layers: Sequence[LayerSparsity], target_fraction: float) -> None:
    """Refuses weights that have fewer zeros than asked for.

    A mask keeps round(size * (1 - sparsity)) weights and one more when two tie for the last place (in
    1 of 200 freshly drawn weights of 32,768), so a layer may be short by a weight and a half.

    Raises:
      DataError: A layer is short; the message has the table of all layers.
    """
    short = [x for x in layers if x.num_zeros < x.num_weights * (target_fraction - _ROUNDING_SHARE) - 1.5]
    if short:
        table = "; ".join(f"{x.weight} {x.num_zeros}/{x.num_weights}" for x in layers)
        raise DataError(
            f"Each pruned layer must be {target_fraction:.1%} zeros; '{short[0].weight}' has "
            f"{short[0].num_zeros} of {short[0].num_weights}. All layers: {table}."
        )


def choose_rung(rungs: Sequence[Rung], max_increase_fraction: float) -> str:
    """Returns the sparsest rung whose validation loss is within the budget over the dense model's."""
    limit = rungs[0].validation["loss"] * (1 + max_increase_fraction)
    return [rung.name for rung in rungs if rung is rungs[0] or rung.validation["loss"] <= limit][-1]
