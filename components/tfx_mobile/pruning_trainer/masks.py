"""Which weights stay: from saliencies and a sparsity to a mask. NumPy only.

Counts are exact whatever the ties: where saliencies are equal, those that come first stay. Where none are,
the masks are those of tfmot's `pruning_impl`, bit for bit; `mask` names the exceptions. When
masks are renewed, and what a saliency is, is not decided here.
"""

import numpy as np
import numpy.typing as npt

from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.pruning_trainer.config import BlockPooling, Blocks, MByN, Weights

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


def mask(saliency: FloatArray, sparsity_fraction: float, structure: Weights | Blocks | MByN) -> BoolArray:
    """Returns which weights stay.

    Weights: round(size * (1 - sparsity_fraction)) of them, at least one. (tfmot counts in float32, which may
    round a half to the other side.)

    Blocks: as many of the blocks, at least one. The kernel is the matrix (inputs, outputs), where a
    convolution's height, width and channels are all inputs, as in the matrix product that TFLite makes of it
    (tfmot refuses convolutions). Blocks begin at the first row and column; those at the far edges may be
    smaller, and count by the mean or maximum of what they have. (tfmot pools such kernels in windows that
    begin up to half a block before the blocks that it then masks.)

    MByN: in every n neighbours along the inputs (the channels of a convolution, the last axis but one),
    round(n * sparsity_fraction) become zero, but never more than m. A last, shorter group keeps as many as a
    whole one would, or all that it has.

    Args:
      saliency: Float32, shape of the weight, finite; the smallest go first. Weights that are masked already
        stay so while theirs is the smallest: give them -1 where others may be exactly 0.
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
        return _largest(saliency, sparsity_fraction)
    matrix = saliency.reshape(-1, saliency.shape[-1])
    if isinstance(structure, Blocks):
        stays = _largest(_pooled(matrix, structure), sparsity_fraction)
        rows, columns = matrix.shape
        stays = stays.repeat(structure.height, axis=0)[:rows].repeat(structure.width, axis=1)[:, :columns]
        return stays.reshape(saliency.shape)
    return _largest_of_groups(saliency, min(structure.m, round(structure.n * sparsity_fraction)), structure.n)


def _largest(values: FloatArray, sparsity_fraction: float) -> BoolArray:
    num_kept = max(1, round(values.size * (1 - sparsity_fraction)))
    flat = values.ravel()
    smallest_kept = np.partition(flat, flat.size - num_kept)[flat.size - num_kept]
    stays: BoolArray = flat > smallest_kept
    ties = np.flatnonzero(flat == smallest_kept)
    stays[ties[: num_kept - np.count_nonzero(stays)]] = True
    return stays.reshape(values.shape)


def _pooled(matrix: FloatArray, blocks: Blocks) -> FloatArray:
    rows = np.arange(0, matrix.shape[0], blocks.height)
    columns = np.arange(0, matrix.shape[1], blocks.width)
    if blocks.pooling is BlockPooling.MAX:
        return np.maximum.reduceat(np.maximum.reduceat(matrix, rows, axis=0), columns, axis=1)
    sums = np.add.reduceat(np.add.reduceat(matrix, rows, axis=0), columns, axis=1)
    heights = np.diff(rows, append=matrix.shape[0])
    widths = np.diff(columns, append=matrix.shape[1])
    return np.divide(sums, np.outer(heights, widths), dtype=np.float32)


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
