"""The arithmetic of a ladder: zeros counted and checked, the rung that keeps its budget."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.common.errors import DataError
from tfx_mobile.common.ladder import LayerSparsity, Rung, Twin
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
      structure: What becomes zero together; a layer may be short by what does not fill a block or a group.
      rung: For the message.

    Raises:
      DataError: A layer is short; the message has the table of all layers.
    """
    short = [
        layer
        for layer in layers
        if layer.num_zeros
        < levels[layer.weight] * layer.num_weights - _slack(structure, kernels[layer.weight].shape)
    ]
    if short:
        table = "; ".join(
            f"{x.weight} {x.num_zeros}/{x.num_weights}, asked for {levels[x.weight]:.1%}" for x in layers
        )
        raise DataError(
            f"Each pruned weight of rung {rung!r} must have the zeros asked for; {short[0].weight!r} has "
            f"{short[0].num_zeros} of {short[0].num_weights}. All weights: {table}."
        )


def _slack(structure: Weights | Blocks | MByN | Units, shape: Sequence[int]) -> float:
    """Returns by how many zeros a weight may be short: half a one, a block, or what fills no group."""
    if isinstance(structure, Blocks):
        return structure.height * structure.width
    if isinstance(structure, MByN):
        inputs, outputs = int(np.prod(shape[:-1])), shape[-1]
        return float(inputs % structure.n * outputs)
    return 0.5 + 1e-6 * float(np.prod(shape))


def choose_rung(rungs: Sequence[Rung], max_increase_fraction: float) -> str:
    """Returns the sparsest plain rung whose validation loss is within the budget over the dense model's."""
    dense = rungs[0].validation["loss"]
    limit = dense + abs(dense) * max_increase_fraction
    plain = [rung for rung in rungs if rung.twin is Twin.PLAIN]
    return [rung.name for rung in plain if rung is rungs[0] or rung.validation["loss"] <= limit][-1]
