"""The arithmetic of a ladder: zeros counted and checked, the rung that keeps its budget."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.common.errors import DataError
from tfx_mobile.common.ladder import LayerSparsity, Rung, Twin
from tfx_mobile.pruning_trainer import masks
from tfx_mobile.pruning_trainer.config import Blocks, MByN, Units, Weights


def count_zeros(weights: Mapping[str, npt.NDArray[Any]]) -> tuple[LayerSparsity, ...]:
    """Returns the zeros in each weight, in the given order."""
    return tuple(
        LayerSparsity(weight=name, num_weights=int(values.size), num_zeros=int(np.count_nonzero(values == 0)))
        for name, values in weights.items()
    )


def check_sparsity(
    layers: Sequence[LayerSparsity],
    kernels: Mapping[str, npt.NDArray[Any]],
    levels: Mapping[str, float],
    structure: Weights | Blocks | MByN | Units,
    rung: str,
) -> None:
    """Refuses weights that have fewer zeros than asked for.

    Args:
      layers: Zeros counted on the weights.
      kernels: The weights, for their shapes.
      levels: Sparsity asked for, by weight name.
      structure: What becomes zero together; as many zeros are enough as its masks have at least
        (`masks.fewest_zeros`). Units are removed: there are no zeros to check.
      rung: For the message.

    Raises:
      DataError: A layer is short; the message has the table of all layers.
    """
    if isinstance(structure, Units):
        return
    short = [
        layer
        for layer in layers
        if layer.num_zeros < masks.fewest_zeros(kernels[layer.weight].shape, levels[layer.weight], structure)
    ]
    if short:
        table = "; ".join(
            f"{x.weight} {x.num_zeros}/{x.num_weights}, asked for {levels[x.weight]:.1%}" for x in layers
        )
        raise DataError(
            f"Each pruned weight of rung {rung!r} must have the zeros asked for; {short[0].weight!r} has "
            f"{short[0].num_zeros} of {short[0].num_weights}. All weights: {table}."
        )


def loss_limit(dense: Rung, max_increase_fraction: float) -> float:
    """Returns the highest validation loss that keeps the budget; a loss may be negative."""
    loss = dense.validation["loss"]
    return loss + abs(loss) * max_increase_fraction


def choose_rung(rungs: Sequence[Rung], max_increase_fraction: float) -> str:
    """Returns the sparsest plain rung whose validation loss is within the budget over the dense model's."""
    limit = loss_limit(rungs[0], max_increase_fraction)
    plain = [rung for rung in rungs if rung.twin is Twin.PLAIN]
    return [rung.name for rung in plain if rung is rungs[0] or rung.validation["loss"] <= limit][-1]
