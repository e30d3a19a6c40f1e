"""Masks on a model's weights: what is pruned is zero after every step of the optimiser.

A mask is a constraint of its variable, so the optimiser applies it inside the training step, in Keras 2 and
Keras 3, with any optimiser and any `train_step`; no layer is wrapped, and there is nothing to strip. Which
weights a mask keeps is decided elsewhere (masks.py).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfx_mobile.pruning_trainer import keras_line
from tfx_mobile.pruning_trainer.selection import PrunableWeight


class Masks:
    """The masks of some weights; all ones at first.

    A model must be compiled after its masks are made and before it is trained, so that the training step sees
    them.

    Args:
      weights: From `selection.select`.
    """

    def __init__(self, weights: Sequence[PrunableWeight]) -> None:
        self.weights = tuple(weights)
        self._masks = {}
        for weight in weights:
            shape = [int(extent) for extent in weight.variable.shape]
            mask = tf.Variable(tf.ones(shape, weight.variable.dtype), trainable=False, name="mask")
            keras_line.set_constraint(weight.variable, mask)
            self._masks[weight.name] = mask

    def arrays(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Returns the masks by weight name; True stays."""
        return {name: mask.numpy() != 0 for name, mask in self._masks.items()}

    def assign(self, masks: Mapping[str, npt.NDArray[Any]]) -> None:
        """Sets the masks of all weights and makes what they prune zero at once."""
        for weight in self.weights:
            mask = self._masks[weight.name]
            mask.assign(masks[weight.name].astype(mask.dtype.as_numpy_dtype))
            weight.variable.assign(weight.variable * mask)

    def in_order(self) -> list[npt.NDArray[np.bool_]]:
        """Returns the masks in the order of `weights`."""
        found = self.arrays()
        return [found[weight.name] for weight in self.weights]

    def assign_arrays(self, masks: Sequence[npt.NDArray[Any]]) -> None:
        """Sets the masks from what `in_order` returned."""
        names = [weight.name for weight in self.weights]
        self.assign(dict(zip(names, masks, strict=True)))

    def sparsity_fraction(self) -> float:
        """Returns the share of weights that the masks prune, in [0, 1]."""
        kept = sum(int(np.count_nonzero(mask.numpy())) for mask in self._masks.values())
        total = sum(int(np.prod(mask.shape)) for mask in self._masks.values())
        return 1 - kept / total if total else 0.0
