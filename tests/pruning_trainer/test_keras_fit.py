"""Trainings of nets with random layers, broken off; logs that are no numbers, not finite, or have no loss."""

import dataclasses
import importlib
import logging as std_logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import line_rows
import numpy as np
import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.pruning_trainer.config import Layers, Pruning, Resources, TrainerConfig

pytestmark = pytest.mark.pipeline

CONFIG = TrainerConfig(
    build_model="",
    label_key="y",
    input_fn="line_rows.input_fn",
    sparsities=(0.0, 0.5),
    pruning=Pruning(layers=Layers(min_weights=64)),
    epochs=2,
    fine_tune_epochs=2,
    batch_size=20,
    resources=Resources(checkpoint_seconds=0),
)
NUM_STEPS = 18  # of each rung: 9 batches, 2 epochs


class Killed(BaseException):
    pass


@pytest.fixture(params=["tf_keras", "keras"])
def keras(request: pytest.FixtureRequest) -> Iterator[Any]:
    """One Keras line, whose random layers have states."""
    import tf_keras

    tf_keras.backend.experimental.enable_tf_random_generator()
    yield importlib.import_module(request.param)
    tf_keras.backend.experimental.disable_tf_random_generator()


def noisy(keras: Any) -> Any:
    """A net that draws numbers in three layers of every step, one of them a custom one."""
    import tensorflow as tf

    class Own(keras.layers.Layer):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.draw = tf.random.Generator.from_seed(1)

        def call(self, given: Any, training: bool = False) -> Any:
            if not training:
                return given
            if keras.__name__ == "keras":
                return given + 0.1 * keras.random.normal((1, 16))  # of the state that all share
            return given + 0.1 * self.draw.normal((1, 16))

    layers = keras.layers
    given = layers.Input((8,), name="x")
    hidden = layers.Dense(16, activation="relu", name="hidden")(layers.GaussianNoise(0.3)(given))
    inner = keras.Sequential([layers.Input((16,)), Own(), layers.Dropout(0.4)])
    model = keras.Model({"x": given}, layers.Dense(1, name="out")(inner(hidden)))
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    return model


def started(keras: Any, folder: Path, build: Any = noisy, config: TrainerConfig = CONFIG) -> Iterator[Any]:
    """Starts or goes on with a ladder, as a process that is new would."""
    from tfx_mobile.pruning_trainer import keras_line, keras_training
    from tfx_mobile.pruning_trainer.checkpoints import Checkpoints
    from tfx_mobile.pruning_trainer.context import BuildContext
    from tfx_mobile.pruning_trainer.keras_input import user_data

    keras_line.set_random_seed(config.seed)
    model = build(keras)
    data = user_data(BuildContext({}, "y", None, {}), line_rows.input_fn, config)
    return keras_training.train_ladder(model, data, config, Checkpoints(str(folder)))


def train(keras: Any, folder: Path, build: Any = noisy, **changed: Any) -> dict[str, list[Any]]:
    """Returns the weights of each model."""
    config = dataclasses.replace(CONFIG, **changed)
    return {made.rung.name: made.model.get_weights() for made in started(keras, folder, build, config)}


def broken_off(
    keras: Any, folder: Path, patch: pytest.MonkeyPatch, saves: int
) -> tuple[dict[str, list[Any]], int]:
    """Trains like `train` in processes that are killed after so many saves; returns how many were."""
    from tfx_mobile.pruning_trainer import keras_fit

    save, left, kills = keras_fit.Fit.save, saves, 0

    def save_and_die(self: Any) -> None:
        nonlocal left
        save(self)
        left -= 1
        if not left:
            raise Killed

    with patch.context() as inner:
        inner.setattr(keras_fit.Fit, "save", save_and_die)
        while True:
            left = saves
            try:
                return train(keras, folder), kills
            except Killed:
                kills += 1


def assert_same(one: dict[str, list[Any]], other: dict[str, list[Any]]) -> None:
    assert one.keys() == other.keys()
    for name, weights in one.items():
        for values, others in zip(weights, other[name], strict=True):
            np.testing.assert_array_equal(values, others)


def test_random_layers_end_with_the_same_weights_when_a_training_was_broken_off(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(keras, tmp_path / "whole")
    within, kills = broken_off(keras, tmp_path / "within", monkeypatch, 11)
    assert kills == 3  # after step 11 of 18 of the dense model, after steps 5 and 16 of its rung
    assert_same(whole, within)

    rungs = started(keras, tmp_path / "between")
    assert next(rungs).rung.name == "s0"
    rungs.close()  # the process is gone as soon as a rung is done
    assert_same(whole, train(keras, tmp_path / "between"))


def test_each_rung_and_each_seed_draws_numbers_of_its_own(keras: Any) -> None:
    from tfx_mobile.pruning_trainer import keras_random

    model = noisy(keras)
    given = line_rows.arrays()[0][:5]

    def drawn(seed: int, name: str) -> Any:
        keras_random.start(model, seed, name)
        return np.asarray(model({"x": given}, training=True))

    first = drawn(1, "s0")
    np.testing.assert_array_equal(first, drawn(1, "s0"))
    assert not np.array_equal(first, drawn(1, "s50"))
    assert not np.array_equal(first, drawn(2, "s0"))
    states = [array.tolist() for array in keras_random.arrays(model)]
    # GaussianNoise and Dropout; in Keras 2 the generator of the custom layer, in Keras 3 that of keras.random
    assert len(states) == 3
    assert len({str(state) for state in states}) == 3
    later = np.asarray(model({"x": given}, training=True))
    keras_random.assign(model, [np.array(state) for state in states])
    np.testing.assert_array_equal(later, np.asarray(model({"x": given}, training=True)))


def test_a_recurrent_net_has_its_states_before_the_first_step(keras: Any) -> None:
    from tfx_mobile.pruning_trainer import keras_random

    layers = keras.layers
    given = layers.Input((4, 3))
    rows = layers.TimeDistributed(layers.Dropout(0.1))(given)
    model = keras.Model(given, layers.LSTM(2, dropout=0.1, recurrent_dropout=0.1)(rows))
    keras_random.start(model, 1, "s0")
    before = keras_random.arrays(model)
    model(np.ones((2, 4, 3), np.float32), training=True)
    after = keras_random.arrays(model)
    changed = [not np.array_equal(one, other) for one, other in zip(before, after, strict=True)]
    assert sum(changed) == 2  # of the dropout, and of the cell


def linear(keras: Any, *, metrics: Any = (), base: Any = None) -> Any:
    given = keras.layers.Input((8,), name="x")
    model = (base or keras.Model)({"x": given}, keras.layers.Dense(1, name="out")(given))
    model.compile("sgd", "mse", metrics=list(metrics))
    return model


def test_a_metric_that_is_no_number_is_refused_at_the_first_step(keras: Any, tmp_path: Path) -> None:
    def build(keras: Any) -> Any:
        class PerRow(keras.metrics.MeanAbsoluteError):  # type: ignore[misc, name-defined]
            def result(self) -> Any:
                return super().result() * np.ones(3, np.float32)

        return linear(keras, metrics=[PerRow(name="each")])

    message = (
        "The loss and each metric must be one number; 'each' has the shape (3,). Give it average='macro' or "
        "the like, or take it out of model.compile."
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        train(keras, tmp_path, build, sparsities=(0.0,))
    assert not tmp_path.joinpath("current.checkpoint").exists()  # nothing was trained that would be lost


@pytest.mark.parametrize("method", ["train_step", "test_step"])
def test_a_custom_step_that_returns_no_loss_is_refused(keras: Any, method: str, tmp_path: Path) -> None:
    def build(keras: Any) -> Any:
        def step(self: Any, data: Any) -> dict[str, Any]:
            logs = getattr(keras.Model, method)(self, data)
            return {"my_loss": logs["loss"], "other": 1.0}

        return linear(keras, base=type("Own", (keras.Model,), {method: step}))

    message = (
        f"{method} must return the loss as 'loss'; got my_loss, other. Return it beside the metrics, under "
        "that name."
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        train(keras, tmp_path, build, sparsities=(0.0,))


def test_a_metric_that_is_not_finite_is_left_out_and_told_once(
    keras: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tfx_mobile.common.ladder import Epoch

    def build(keras: Any) -> Any:
        class Undefined(keras.metrics.MeanAbsoluteError):  # type: ignore[misc, name-defined]
            def result(self) -> Any:
                return super().result() * np.float32("nan")

        return linear(keras, metrics=["mae", Undefined(name="undefined")])

    from tfx_mobile.pruning_trainer import keras_fit, keras_line
    from tfx_mobile.pruning_trainer.checkpoints import Checkpoints
    from tfx_mobile.pruning_trainer.context import BuildContext
    from tfx_mobile.pruning_trainer.keras_input import user_data

    keras_line.set_random_seed(1)
    data = user_data(BuildContext({}, "y", None, {}), line_rows.input_fn, CONFIG)
    settings = keras_fit.Settings("s0", NUM_STEPS, None, 0, 0.0, seed=1)
    with caplog.at_level(std_logging.WARNING, logger="absl"):
        fitted = keras_fit.Fit(build(keras), data, settings, Checkpoints(str(tmp_path)), None).run()
    assert [set(epoch.metrics) for epoch in fitted.history] == [{"loss", "mae", "val_loss", "val_mae"}] * 2
    for epoch in fitted.history:
        assert Epoch.from_json(epoch.to_json()) == epoch
    told = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert told == [
        f"Rung s0: metric '{name}' is nan after step 9; it is left out of the history of such epochs."
        for name in ("undefined", "val_undefined")
    ]
