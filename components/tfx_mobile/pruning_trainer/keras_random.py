"""The random numbers of a training, so that one which was killed draws what an unbroken one would have drawn.

Each model of the ladder starts with states of its own, made of the configuration's seed and the rung's name,
whatever was drawn before; a checkpoint keeps them. What has a state: in Keras 3 each `SeedGenerator`, that of
`keras.random` included; in Keras 2 each `tf.random.Generator`, which random layers have once
`tf_keras.backend.experimental.enable_tf_random_generator()` was called. The ops of `tf.random` and
`tf_keras.backend` that take no state (in a custom layer, say) keep one that cannot be read: a rung which is
broken off begins them anew, and ends with other weights than an unbroken one.
"""

import hashlib
import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_mobile.pruning_trainer import keras_line

Array = keras_line.Array

_SEED_BITS = 31


def seed_of(*parts: object) -> int:
    """Returns a seed in [0, 2**31), another one for other parts (SHA-256)."""
    digest = hashlib.sha256("\n".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> (64 - _SEED_BITS)


def start(model: Any, seed: int, name: str) -> None:
    """Gives each random state of a model the value that belongs to a seed and the name of a rung."""
    for number, state in enumerate(_states(model)):
        drawn = seed_of(seed, name, number)
        if isinstance(state, tf.random.Generator):
            state.reset_from_seed(drawn)
        else:
            state.assign([drawn, 0])


def arrays(model: Any) -> list[Array]:
    """Returns the random states of a model, in an order that its layers give."""
    found = [state.state if isinstance(state, tf.random.Generator) else state for state in _states(model)]
    return [np.asarray(state.numpy()) for state in found]


def assign(model: Any, arrays: Sequence[Array]) -> None:
    """Puts back what `arrays` returned of a model of the same layers."""
    for state, array in zip(_states(model), arrays, strict=True):
        if isinstance(state, tf.random.Generator):
            state.reset(array)
        else:
            state.assign(array)


def _states(model: Any) -> list[Any]:
    """Returns generators (Keras 2) or the variables of seed generators (Keras 3), each once."""
    if keras_line.is_keras_2(model):
        found = [generator for layer in model._flatten_layers() for generator in _generators(layer)]
    else:
        of_all = importlib.import_module("keras.src.random.seed_generator").global_seed_generator().state
        found = [*(v for v in model.variables if v.name == of_all.name), of_all]
    return list({id(state): state for state in found}.values())


def _generators(layer: Any) -> Iterator[tf.random.Generator]:
    for value in vars(layer).values():
        if isinstance(value, tf.random.Generator):
            yield value
        elif hasattr(value, "_maybe_init"):  # Keras's own holder of one, which may not have made it yet
            value._maybe_init()
            if value._generator is not None:
                yield value._generator
