"""Functions that tests give to PruningTrainer as `build_model`; each takes a BuildContext."""

import os
import threading
from typing import Any

import tensorflow as tf
import tf_keras
from tf_keras import layers

from tfx_mobile.pruning_trainer.checkpoints import Checkpoints

NOT_A_FUNCTION = 3
NUM_COMPANIES = 5


def build_line(ctx: Any) -> tf_keras.Model:
    """Returns a small net on the feature `x` of shape (8,)."""
    model = _line()
    model.compile(tf_keras.optimizers.Adam(ctx.hyperparameters.get("learning_rate", 1e-2)), "mse", ["mae"])
    return model


def build_frozen(ctx: Any) -> tf_keras.Model:
    """Returns the same net; no step changes it."""
    model = _line()
    model.compile(tf_keras.optimizers.SGD(0.0), "mse")
    return model


def build_metrics(ctx: Any) -> tf_keras.Model:
    """Returns the same net with metrics in each way that Keras takes them."""
    model = _line()
    metrics = ["mae", tf_keras.metrics.mean_squared_error, tf_keras.metrics.RootMeanSquaredError(name="rmse")]
    model.compile("adam", "mse", {"out": metrics})
    return model


def build_uncompiled(ctx: Any) -> tf_keras.Model:
    """Returns a model that nobody compiled."""
    return _line()


def build_keras_3(ctx: Any) -> Any:
    """Returns the same net as `build_line`, of Keras 3."""
    import keras

    given = keras.Input((8,), name="x")
    hidden = keras.layers.Dense(16, activation="relu", name="hidden")(given)
    model = keras.Model({"x": given}, keras.layers.Dense(1, name="out")(hidden), name="line")
    model.compile(keras.optimizers.Adam(1e-2), "mse", metrics=["mae"])
    return model


def is_dense(layer: Any) -> bool:
    """Returns whether a layer is dense, in either Keras; a predicate for Layers."""
    return type(layer).__name__ == "Dense"


class OneOfTwo(layers.Layer):  # type: ignore[misc]
    """A custom layer with two weights, one of which may be pruned."""

    def build(self, shape: Any) -> None:
        self.first = self.add_weight("first", (8, 8))
        self.second = self.add_weight("second", (8, 8))

    def call(self, inputs: Any) -> Any:
        return inputs @ self.first @ self.second

    def get_prunable_weights(self) -> list[Any]:
        """Returns the second, as tfmot's PrunableLayer does."""
        return [self.second]


def build_nothing(ctx: Any) -> None:
    """Forgets to return its model."""


def build_unprunable(ctx: Any) -> tf_keras.Model:
    """Returns a model whose only kernel has 8 weights."""
    given = layers.Input((8,), name="x")
    model = tf_keras.Model({"x": given}, layers.Dense(1, name="out")(given))
    model.compile("sgd", "mse")
    return model


class _Subclassed(tf_keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.out = layers.Dense(1)

    def call(self, inputs: Any) -> Any:
        return self.out(inputs["x"])


def build_subclassed(ctx: Any) -> tf_keras.Model:
    """Returns a model that is a class of its own, without a graph of layers."""
    model = _Subclassed()
    model.compile("sgd", "mse")
    return model


def dearer_batches(ctx: Any, split: str, batch_size: int) -> Any:
    """Returns the component's own batches, with 1,000 added to the labels."""
    return ctx.dataset(split, batch_size).map(lambda features, fare: (features, fare + 1000.0))


def build_trips(ctx: Any) -> tf_keras.Model:
    """Returns a net on the trips' z-scores, one feature that passes through, and the company."""
    inputs = {
        name: layers.Input((1,), dtype=ctx.feature_spec[name].dtype, name=name)
        for name in ("company_id", "date_z", "latitude_z", "miles", "miles_z")
    }
    company = layers.Flatten()(layers.Embedding(NUM_COMPANIES, 2, name="company")(inputs["company_id"]))
    numbers = [tensor for name, tensor in inputs.items() if name != "company_id"]
    hidden = layers.Concatenate()([*numbers, company])
    units = int(ctx.hyperparameters["units"])
    hidden = layers.Dense(units, activation="relu", name="hidden_1")(hidden)
    hidden = layers.Dense(units, activation="relu", name="hidden_2")(hidden)
    model = tf_keras.Model(inputs, layers.Dense(1, name="fare")(hidden))
    model.compile(tf_keras.optimizers.Adam(1e-2), "mse", [tf_keras.metrics.RootMeanSquaredError(name="rmse")])
    return model


class _Diverging(tf_keras.optimizers.Adam):  # type: ignore[misc]
    """Adam, whose second use in a process makes NaN: a rung's, after the dense model's."""

    uses = 0

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        type(self).uses += 1
        self._breaks = type(self).uses > 2  # once by its author, once for the dense training

    def apply_gradients(self, grads_and_vars: Any, *arguments: Any, **settings: Any) -> Any:
        if self._breaks:
            grads_and_vars = [(tf.fill(v.shape, float("nan")), v) for _, v in grads_and_vars]
        return super().apply_gradients(grads_and_vars, *arguments, **settings)


def build_diverging(ctx: Any) -> tf_keras.Model:
    """Returns the net of `build_trips` with an optimizer that diverges when it is pruned."""
    model = build_trips(ctx)
    model.compile(_Diverging(1e-2), "mse")
    return model


def _line() -> tf_keras.Model:
    given = layers.Input((8,), name="x")
    hidden = layers.Dense(16, activation="relu", name="hidden")(given)
    return tf_keras.Model({"x": given}, layers.Dense(1, name="out")(hidden), name="line")


def _wait_after(name: str) -> None:
    save = Checkpoints.save

    def save_and_wait(self: Checkpoints, given: str, *rest: Any) -> None:
        save(self, given, *rest)
        if given == name:
            threading.Event().wait()

    Checkpoints.save = save_and_wait  # type: ignore[method-assign]


if "TINY_MODELS_WAIT_AFTER" in os.environ:  # a checkpoint: the training then waits for the test that kills it
    _wait_after(os.environ["TINY_MODELS_WAIT_AFTER"])
