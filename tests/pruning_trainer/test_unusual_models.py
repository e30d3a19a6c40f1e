"""Models with parts of their author's own, schedules, mixed precision: what is legal trains to the end."""

import re
from pathlib import Path
from typing import Any

import line_rows
import numpy as np
import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.ladder import Twin
from tfx_mobile.pruning_trainer.config import (
    Clustering,
    Layers,
    Pruning,
    QuantizationAware,
    Rewinding,
    TrainerConfig,
    Units,
    Weights,
)

pytestmark = pytest.mark.pipeline

LINES = ("tf_keras", "keras")


def keras_of(line: str) -> Any:
    """Returns a Keras line that draws the same weights in each run."""
    import importlib

    keras = importlib.import_module(line)
    keras.utils.set_random_seed(1)
    return keras


def net(line: str, **compiled: Any) -> Any:
    """Returns a net on the feature `x` of shape (8,) that is not compiled unless it is said how."""
    keras = keras_of(line)
    given = keras.Input((8,), name="x")
    hidden = keras.layers.Dense(16, activation="relu", name="hidden")(given)
    model = keras.Model({"x": given}, keras.layers.Dense(1, dtype="float32", name="out")(hidden), name="line")
    model.compile(**({"optimizer": "adam", "loss": "mse"} | compiled))
    return model


def train(model: Any, folder: Path, **changed: Any) -> list[Any]:
    """Returns the rungs of a short ladder."""
    from tfx_mobile.pruning_trainer.checkpoints import Checkpoints
    from tfx_mobile.pruning_trainer.context import BuildContext
    from tfx_mobile.pruning_trainer.keras_input import user_data
    from tfx_mobile.pruning_trainer.keras_training import train_ladder

    settings = {
        "label_key": "y",
        "sparsities": (0.0, 0.5),
        "pruning": Pruning(layers=Layers(min_weights=64)),
        "epochs": 2,
        "fine_tune_epochs": 2,
        "batch_size": 20,
    }
    config = TrainerConfig(**(settings | changed))
    data = user_data(BuildContext({}, "y", None, {}), line_rows.input_fn, config)
    return list(train_ladder(model, data, config, Checkpoints(str(folder / "checkpoints"))))


def with_own_parts(line: str) -> Any:
    """Returns a net with a layer, a loss and a metric of its author's, none of them registered."""
    keras = keras_of(line)

    class Doubled(keras.layers.Layer):  # type: ignore[misc, name-defined]
        def call(self, inputs: Any) -> Any:
            return inputs * 2.0

    class Squares(keras.losses.Loss):  # type: ignore[misc, name-defined]
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return (y_true - y_pred) ** 2

    def spread(y_true: Any, y_pred: Any) -> Any:
        return abs(y_true - y_pred)

    given = keras.Input((8,), name="x")
    hidden = keras.layers.Dense(16, activation="relu", name="hidden")(Doubled(name="doubled")(given))
    hidden = keras.layers.Lambda(lambda x: x + 1.0, output_shape=(16,), name="plus")(hidden)
    model = keras.Model({"x": given}, keras.layers.Dense(1, name="out")(hidden))
    model.compile("adam", Squares(), [spread])
    return model


@pytest.mark.parametrize("line", LINES)
def test_a_rung_with_unregistered_parts_is_read_back(line: str, tmp_path: Path) -> None:
    from tfx_mobile.pruning_trainer import keras_export

    model = with_own_parts(line)
    keras_export.check_can_be_saved(model)
    keras_export.save(model, None, "y", str(tmp_path))
    read = keras_export.read_back(model, str(tmp_path))
    rows = {"x": line_rows.arrays()[0][:5]}
    np.testing.assert_array_equal(model.predict(rows, verbose=0), read.predict(rows, verbose=0))


@pytest.mark.parametrize("line", LINES)
def test_a_layer_without_a_configuration_is_refused_before_training(line: str) -> None:
    from tfx_mobile.pruning_trainer import keras_export

    keras = keras_of(line)

    class Scaled(keras.layers.Layer):  # type: ignore[misc, name-defined]
        def __init__(self, by: Any) -> None:
            super().__init__()
            self.by = by

        def call(self, inputs: Any) -> Any:
            return self.by(inputs)

    given = keras.Input((8,), name="x")
    model = keras.Model({"x": given}, keras.layers.Dense(1, name="out")(Scaled(lambda x: 2.0 * x)(given)))
    with pytest.raises(ConfigError, match=re.escape("Keras must be able to ")):
        keras_export.check_can_be_saved(model)


@pytest.mark.parametrize("line", LINES)
def test_mixed_precision_is_pruned(line: str, tmp_path: Path) -> None:
    keras = keras_of(line)
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        found = train(net(line), tmp_path)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    (layer,) = found[-1].rung.layers
    assert (layer.num_zeros, layer.num_weights) == (64, 128)


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_the_rate_of_twins_is_a_share_of_the_highest_of_a_warm_up(line: str, policy: str) -> None:
    from tfx_mobile.pruning_trainer.keras_line import Compiled

    keras = keras_of(line)
    schedules = keras.optimizers.schedules
    warm_up = schedules.CosineDecay(0.0, 100, warmup_target=1e-3, warmup_steps=20)
    optimizer = keras.optimizers.Adam(warm_up)
    if policy != "float32":
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
    model = net(line, optimizer=optimizer)
    compiled = Compiled.of(model)
    assert compiled.highest_learning_rate(120) == pytest.approx(1e-3, rel=0.01)
    compiled.apply(model, learning_rate=5e-4)
    assert Compiled.of(model).highest_learning_rate(120) == pytest.approx(5e-4)
    compiled.apply(model)
    assert Compiled.of(model).highest_learning_rate(120) == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize("line", LINES)
def test_a_schedule_that_is_not_registered_goes_on(line: str) -> None:
    import tensorflow as tf

    from tfx_mobile.pruning_trainer.keras_line import Compiled

    keras = keras_of(line)

    class Halves(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc, name-defined]
        def __call__(self, step: Any) -> Any:
            return 0.5 ** tf.cast(step, "float32")

        def get_config(self) -> dict[str, Any]:
            return {}

    model = net(line, optimizer=keras.optimizers.SGD(Halves()))
    Compiled.of(model).apply(model)
    assert Compiled.of(model).highest_learning_rate(10) == 1.0


@pytest.mark.parametrize("line", LINES)
def test_a_metric_that_cannot_be_made_again_is_refused_by_name(line: str) -> None:
    from tfx_mobile.pruning_trainer.keras_line import Compiled

    class Distance(keras_of(line).metrics.MeanAbsoluteError):  # type: ignore[misc]
        def __init__(self, unit: str) -> None:
            super().__init__(name=unit)

    model = net(line, metrics=[Distance("miles")])
    message = "A metric must be one that can be made again for each rung; Distance cannot: "
    with pytest.raises(ConfigError, match=re.escape(message)):
        Compiled.of(model).apply(model)


@pytest.mark.parametrize("line", LINES)
def test_a_metric_that_is_nan_is_left_out_and_loses_nothing(line: str, tmp_path: Path) -> None:
    def undefined(y_true: Any, y_pred: Any) -> Any:
        return y_pred * float("nan")

    found = train(net(line, metrics=["mae", undefined]), tmp_path)
    for trained in found:
        assert set(trained.rung.validation) == {"loss", "mae"}
        assert "val_mae" in trained.rung.history[0].metrics
        assert "val_undefined" not in trained.rung.history[0].metrics


@pytest.mark.parametrize("line", LINES)
def test_a_weight_that_shrank_below_the_minimum_still_counts(line: str, tmp_path: Path) -> None:
    found = train(net(line), tmp_path, pruning=Pruning(structure=Units(), layers=Layers(min_weights=100)))
    assert [(layer.weight, layer.num_weights) for layer in found[-1].rung.layers] == [("hidden/kernel", 64)]


def test_a_rung_without_units_is_clustered_where_the_dense_model_was(tmp_path: Path) -> None:
    found = train(
        net("tf_keras"),
        tmp_path,
        pruning=Pruning(structure=Units(), layers=Layers(min_weights=100)),
        clustering=Clustering(4, epochs=1, layers=Layers(min_weights=100)),
    )
    twin = found[-1]
    assert twin.rung.name == "s50-clustered"
    assert len(np.unique(twin.kernels["hidden/kernel"])) <= 4


@pytest.mark.parametrize("structure", [Weights(), Units()])
def test_layers_that_tfmot_cannot_cluster_are_left_out_of_each_rung(structure: Any, tmp_path: Path) -> None:
    keras = keras_of("tf_keras")

    class Own(keras.layers.Dense):  # type: ignore[misc, name-defined]
        pass

    given = keras.Input((8,), name="x")
    hidden = keras.layers.Dense(16, activation="relu", name="hidden")(Own(8, name="own")(given))
    model = keras.Model({"x": given}, keras.layers.Dense(1, name="out")(hidden))
    model.compile("adam", "mse")
    layers = Layers(min_weights=60)
    found = train(
        model,
        tmp_path,
        pruning=Pruning(structure=structure, layers=layers),
        clustering=Clustering(4, epochs=1, layers=layers),
    )
    assert [trained.rung.name for trained in found] == ["s0", "s0-clustered", "s50", "s50-clustered"]
    assert len(np.unique(found[-1].kernels["hidden/kernel"])) <= 4


def test_clusters_that_need_not_keep_zeros_may_lose_them(tmp_path: Path) -> None:
    found = train(
        net("tf_keras"),
        tmp_path,
        clustering=Clustering(2, preserve_sparsity=False, epochs=1, layers=Layers(min_weights=64)),
        quantization_aware=QuantizationAware(epochs=1),
    )
    names = [trained.rung.name for trained in found]
    assert names == ["s0", "s0-clustered", "s0-qat", "s50", "s50-clustered", "s50-qat"]


def test_a_twin_has_its_zeros_in_its_history_and_is_compiled_when_it_was_made_before(tmp_path: Path) -> None:
    clustering = Clustering(4, epochs=2, layers=Layers(min_weights=64))
    for _ in range(2):
        twin = train(net("tf_keras"), tmp_path, clustering=clustering)[-1]
        assert twin.rung.twin is Twin.CLUSTERED
        assert [epoch.sparsity_fraction >= 0.5 for epoch in twin.rung.history] == [True, True]
        assert twin.model.optimizer is not None


@pytest.mark.parametrize("line", LINES)
def test_steps_that_keras_takes_together_are_looked_at_one_by_one(line: str, tmp_path: Path) -> None:
    found = train(net(line, steps_per_execution=4), tmp_path, rewinding=Rewinding(step=3, epochs=1))
    assert [trained.rung.name for trained in found] == ["s0", "s50", "s50-rewound"]
