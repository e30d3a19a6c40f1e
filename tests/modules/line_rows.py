"""Rows of a linear regression, in memory, for tests of a training."""

from typing import Any

import numpy as np


def arrays(count: int = 200) -> tuple[Any, Any]:
    """Returns features of shape (count, 8) and labels of shape (count, 1), float32."""
    draw = np.random.default_rng(5)
    x = draw.normal(size=(count, 8)).astype(np.float32)
    return x, (x @ np.arange(8, dtype=np.float32) / 8)[:, None]


def input_fn(ctx: Any, split: str, batch_size: int) -> Any:
    """Returns the first 180 rows in a new order in each epoch, or the last 20."""
    import tensorflow as tf

    x, labels = arrays()
    part = slice(0, 180) if split == "train" else slice(180, None)
    dataset = tf.data.Dataset.from_tensor_slices(({"x": x[part]}, labels[part]))
    return (dataset.shuffle(180, seed=3) if split == "train" else dataset).batch(batch_size)


def broken_after(first_broken: int) -> Any:
    """Returns an `input_fn` whose labels are NaN from this row on."""

    def broken(ctx: Any, split: str, batch_size: int) -> Any:
        import tensorflow as tf

        x, labels = arrays()
        if split == "train":
            labels[first_broken:180] = np.nan
            return tf.data.Dataset.from_tensor_slices(({"x": x[:180]}, labels[:180])).batch(batch_size)
        return input_fn(ctx, split, batch_size)

    return broken
