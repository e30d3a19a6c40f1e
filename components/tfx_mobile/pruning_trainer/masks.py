"""Which weights stay: from saliencies and a sparsity to a mask; how many zeros that makes. NumPy only.

Counts are exact whatever the ties: where saliencies are equal, those that come first stay. Where none are,
the masks are those of tfmot's `pruning_impl`, bit for bit; `mask` names the exceptions. When
masks are renewed, and what a saliency is, is not decided here.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.pruning_trainer.config import BlockPooling, Blocks, MByN, Weights

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

_ROUNDING = 1e-9  # of a sparsity that was computed in another way; far less than one of the weights


def mask(saliency: FloatArray, sparsity_fraction: float, structure: Weights | Blocks | MByN) -> BoolArray:
    """Returns which weights stay.

    Weights: round(size * (1 - sparsity_fraction)) of them, at least one. (tfmot counts in float32, which may
    round a half to the other side.)

    Blocks: as many as bring the number of weights that stay nearest to that, at least one. The kernel is the
    matrix (inputs, outputs), where a convolution's height, width and channels are all inputs, as in the
    matrix product that TFLite makes of it (tfmot refuses convolutions). Blocks begin at the first row and
    column; those at the far edges may be smaller: they are weighed by the mean or maximum of what they have,
    and counted by how much that is. (tfmot counts them as whole ones, and pools such kernels in windows that
    begin up to half a block before the blocks that it then masks.)

    MByN: in every n neighbours along the inputs (the channels of a convolution, the last axis but one),
    round(n * sparsity_fraction) become zero, but never more than m. A last, shorter group keeps as many as a
    whole one would, or all that it has.

    Args:
      saliency: Float32, shape of the weight, finite; the smallest go first. Weights that are masked already
        stay so while theirs is the smallest: give them -1 where others may be exactly 0. A block below 0
        goes in any case.
      sparsity_fraction: Share of zeros, in [0, 1).
      structure: What becomes zero together.

    Returns:
      Shape of the weight; True stays.

    Raises:
      ConfigError: The sparsity is no share.
      DataError: A saliency is not finite.
    """
    if not 0 <= sparsity_fraction < 1:
        raise ConfigError(f"sparsity_fraction must be in [0, 1); got {sparsity_fraction}.")
    if not np.isfinite(saliency).all():
        raise DataError(
            f"Saliencies must be finite; got {np.count_nonzero(~np.isfinite(saliency))} of {saliency.size} "
            "that are not. Look for a loss or a gradient that became NaN."
        )
    if isinstance(structure, Weights):
        return _largest(saliency, _num_kept(saliency.size, sparsity_fraction))
    if isinstance(structure, Blocks):
        return _largest_blocks(saliency, sparsity_fraction, structure)
    return _largest_of_groups(saliency, _zeros_of_group(structure, sparsity_fraction), structure.n)


def fewest_zeros(shape: Sequence[int], sparsity_fraction: float, structure: Weights | Blocks | MByN) -> int:
    """Returns a number of zeros that every mask of this sparsity has, whatever the saliencies.

    Weights and MByN: the number that `mask` makes, or the lower one where a half may be rounded either way.
    Blocks: the share less half a block, which is as near as whole blocks come, or all but one block.

    Args:
      shape: Of the weight; each axis >= 1.
      sparsity_fraction: Share of zeros, in [0, 1).
      structure: What becomes zero together.
    """
    size = math.prod(shape)
    lower = max(0.0, sparsity_fraction - _ROUNDING)
    if isinstance(structure, Weights):
        return size - _num_kept(size, lower)
    if isinstance(structure, Blocks):
        largest = min(structure.height, size // shape[-1]) * min(structure.width, shape[-1])
        return math.ceil(max(0, min(size * lower - largest / 2, size - largest)))
    inputs = shape[-2] if len(shape) > 1 else size
    num_groups, rest = divmod(inputs, structure.n)
    num_zeros = _zeros_of_group(structure, lower)
    num_kept_at_most = structure.n - num_zeros
    return size // inputs * (num_groups * num_zeros + max(0, rest - num_kept_at_most))


def _num_kept(size: int, sparsity_fraction: float) -> int:
    return max(1, round(size * (1 - sparsity_fraction)))


def _zeros_of_group(structure: MByN, sparsity_fraction: float) -> int:
    return min(structure.m, round(structure.n * sparsity_fraction))


def _largest(values: FloatArray, num_kept: int) -> BoolArray:
    flat = values.ravel()
    smallest_kept = np.partition(flat, flat.size - num_kept)[flat.size - num_kept]
    stays: BoolArray = flat > smallest_kept
    ties = np.flatnonzero(flat == smallest_kept)
    stays[ties[: num_kept - np.count_nonzero(stays)]] = True
    return stays.reshape(values.shape)


def _largest_blocks(saliency: FloatArray, sparsity_fraction: float, blocks: Blocks) -> BoolArray:
    matrix = saliency.reshape(-1, saliency.shape[-1])
    rows = np.arange(0, matrix.shape[0], blocks.height)
    columns = np.arange(0, matrix.shape[1], blocks.width)
    heights = np.diff(rows, append=matrix.shape[0])
    widths = np.diff(columns, append=matrix.shape[1])
    sizes = np.outer(heights, widths)
    if blocks.pooling is BlockPooling.MAX:
        pooled = np.maximum.reduceat(np.maximum.reduceat(matrix, rows, axis=0), columns, axis=1)
    else:
        sums = np.add.reduceat(np.add.reduceat(matrix, rows, axis=0), columns, axis=1)
        pooled = np.divide(sums, sizes, dtype=np.float32)
    stays = _largest(pooled, _num_blocks_kept(pooled, sizes, sparsity_fraction))
    return stays.repeat(heights, axis=0).repeat(widths, axis=1).reshape(saliency.shape)


def _num_blocks_kept(pooled: FloatArray, sizes: npt.NDArray[np.int64], sparsity_fraction: float) -> int:
    sizes_in_order = sizes.ravel()[np.argsort(-pooled, axis=None, kind="stable")]
    num_weights = np.concatenate([[0], np.cumsum(sizes_in_order)])  # that stay with so many blocks
    wanted = sizes.sum() * (1 - sparsity_fraction)
    nearest = round(float(np.interp(wanted, num_weights, np.arange(num_weights.size))))
    return max(1, min(nearest, int(np.count_nonzero(pooled >= 0))))


def _largest_of_groups(saliency: FloatArray, num_zeros: int, group: int) -> BoolArray:
    inputs = saliency.shape[-2] if saliency.ndim > 1 else saliency.size
    stacked = saliency.reshape(-1, inputs, saliency.shape[-1] if saliency.ndim > 1 else 1)
    lacking = -inputs % group
    padded = np.pad(stacked, ((0, 0), (0, lacking), (0, 0)), constant_values=-np.inf)
    groups = padded.reshape(len(stacked), -1, group, stacked.shape[-1])
    order = np.argsort(-groups, axis=2, kind="stable")
    stays = np.ones(groups.shape, dtype=np.bool_)
    np.put_along_axis(stays, order[:, :, group - num_zeros :], False, axis=2)
    return stays.reshape(padded.shape)[:, :inputs].reshape(saliency.shape)
