"""Ladders of a tiny regression: zeros on the saved weights, fine-tuning, seeds, refusals."""

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.pruning_trainer.config import TrainerConfig

pytestmark = pytest.mark.pipeline

SPARSITIES = (0.0, 0.5, 0.9)
FORGOTTEN = "build_model must return a compiled model; call model.compile(optimizer, loss, metrics)."


def rows(count: int = 200, *, broken: float | None = None) -> Any:
    import tensorflow as tf

    from tfx_mobile.pruning_trainer.keras_training import Rows

    draw = np.random.default_rng(5)
    x = draw.normal(size=(count, 8)).astype(np.float32)
    labels = (x @ np.arange(8, dtype=np.float32) / 8)[:, None]
    if broken is not None:
        labels[:] = broken
    return Rows({"x": tf.constant(x)}, tf.constant(labels))


def context(**hyperparameters: float) -> Any:
    import tensorflow as tf

    from tfx_mobile.pruning_trainer.context import BuildContext

    return BuildContext({"x": tf.io.FixedLenFeature([8], tf.float32)}, "y", None, hyperparameters)


def config(function: str = "tiny_models.build_line", **changed: Any) -> TrainerConfig:
    settings = {
        "build_model": function,
        "label_key": "y",
        "sparsities": SPARSITIES,
        "epochs": 4,
        "fine_tune_epochs": 4,
        "batch_size": 20,
        "min_prunable_weights": 64,
    }
    return TrainerConfig(**(settings | changed))


def train(folder: Path, settings: TrainerConfig, *, data: Any = None, **hyperparameters: float) -> list[Any]:
    """Returns rung and weights by name of each step of the ladder."""
    from tfx_mobile.pruning_trainer.keras_training import train_ladder

    found = []
    for step in train_ladder(rows() if data is None else data, context(**hyperparameters), settings, folder):
        weights = {variable.name: variable.numpy().copy() for variable in step.model.weights}
        found.append((step.rung, weights))
    return found


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Rungs and weights."""
    return train(tmp_path_factory.mktemp("logs"), config())


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Rungs and weights at a learning rate of zero, where only masks change anything."""
    return train(tmp_path_factory.mktemp("logs"), config("tiny_models.build_frozen"))


def test_each_rung_has_the_zeros_it_says_it_has(ladder: list[Any]) -> None:
    assert [rung.name for rung, _ in ladder] == ["s0", "s50", "s90"]
    for rung, weights in ladder:
        (layer,) = rung.layers
        assert layer.weight == "hidden/kernel"
        kernel = weights["hidden/kernel:0"]
        assert layer.num_zeros == (kernel == 0).sum() == round(128 * rung.target_fraction)
        assert rung.num_parameters == sum(values.size for values in weights.values()) == 161


def test_kernels_below_the_minimum_stay_dense(ladder: list[Any]) -> None:
    for _, weights in ladder:
        assert (weights["out/kernel:0"] != 0).all()


def test_stripped_rungs_hold_no_masks_and_no_steps(ladder: list[Any]) -> None:
    names = {"hidden/kernel:0", "hidden/bias:0", "out/kernel:0", "out/bias:0"}
    assert [set(weights) for _, weights in ladder] == [names] * 3


def test_without_steps_a_rung_is_the_one_before_less_its_smallest_weights(frozen: list[Any]) -> None:
    for (_, before), (rung, after) in itertools.pairwise(frozen):
        kernel = before["hidden/kernel:0"]
        kept = np.sort(np.abs(kernel).ravel())[-round(kernel.size * (1 - rung.target_fraction))]
        np.testing.assert_array_equal(after["hidden/kernel:0"], np.where(np.abs(kernel) >= kept, kernel, 0))
        np.testing.assert_array_equal(after["out/kernel:0"], before["out/kernel:0"])


def test_sparse_rungs_are_trained_too(ladder: list[Any]) -> None:
    for (_, before), (_, after) in itertools.pairwise(ladder):
        kept = after["hidden/kernel:0"] != 0
        assert (after["hidden/kernel:0"][kept] != before["hidden/kernel:0"][kept]).any()


def test_validation_is_that_of_the_stripped_weights(ladder: list[Any]) -> None:
    data = rows()
    held_out = np.sort(np.random.default_rng(1).permutation(200)[:20])  # as documented: a seeded tenth
    x, labels = data.features["x"].numpy()[held_out], data.labels.numpy()[held_out]
    for rung, weights in ladder:
        hidden = np.maximum(x @ weights["hidden/kernel:0"] + weights["hidden/bias:0"], 0)
        gap = hidden @ weights["out/kernel:0"] + weights["out/bias:0"] - labels
        # float32 sums of 8 and 16 terms in another order
        assert rung.validation["loss"] == pytest.approx(float((gap**2).mean()), rel=1e-4)
        assert rung.validation["mae"] == pytest.approx(float(np.abs(gap).mean()), rel=1e-4)


def test_the_same_seed_gives_the_same_weights(ladder: list[Any], tmp_path: Path) -> None:
    again = train(tmp_path, config())
    for (rung, weights), (rung_again, weights_again) in zip(ladder, again, strict=True):
        assert rung == rung_again
        for name, values in weights.items():
            np.testing.assert_array_equal(values, weights_again[name])


def test_another_seed_gives_other_weights(ladder: list[Any], tmp_path: Path) -> None:
    (_, weights), *_ = train(tmp_path, config(seed=2, sparsities=(0.0,), epochs=1))
    assert not np.array_equal(weights["hidden/kernel:0"], ladder[0][1]["hidden/kernel:0"])


def test_training_lowers_the_loss(ladder: list[Any], frozen: list[Any]) -> None:
    assert ladder[0][0].validation["loss"] < 0.5 * frozen[0][0].validation["loss"]


def test_metrics_of_every_sort_are_on_every_rung(tmp_path: Path) -> None:
    found = train(tmp_path, config("tiny_models.build_metrics", epochs=1, fine_tune_epochs=2))
    for rung, _ in found:
        assert set(rung.validation) == {"loss", "mae", "mean_squared_error", "rmse"}
        # the same figure three ways, in float32
        assert rung.validation["rmse"] ** 2 == pytest.approx(rung.validation["loss"], rel=1e-4)
        assert rung.validation["mean_squared_error"] == pytest.approx(rung.validation["loss"], rel=1e-4)


def test_early_stopping_keeps_the_best_epoch(tmp_path: Path) -> None:
    patient = train(
        tmp_path / "a", config("tiny_models.build_frozen", sparsities=(0.0,), epochs=9, patience=2)
    )
    assert len(patient) == 1
    (events,) = (tmp_path / "a" / "s0" / "train").iterdir()
    import tensorflow as tf

    steps = {event.step for event in tf.compat.v1.train.summary_iterator(str(events)) if event.summary.value}
    assert max(steps) == 2  # epoch 0 is the best, epochs 1 and 2 are no better


def test_a_loss_that_is_nan_is_refused_with_its_rung_epoch_and_rate(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=re.escape(
            "The loss must stay finite; got nan (validation nan) in epoch 1 of rung 's0' at learning rate "
            "0.02. Lower it, or look for wrong labels."
        ),
    ):
        train(tmp_path, config(), data=rows(broken=np.nan), learning_rate=0.02)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            "tiny_models.build_nothing",
            "build_model must return a tf_keras.Model (Keras 2); got builtins.NoneType. Build it with "
            "'import tf_keras', which tfmot works on.",
        ),
        ("tiny_models.build_keras_3", "build_model must return a tf_keras.Model (Keras 2); got keras.src."),
        ("tiny_models.build_uncompiled", FORGOTTEN),
        (
            "tiny_models.build_subclassed",
            "build_model must return a functional model, tf_keras.Model(inputs, outputs); got the class "
            "_Subclassed, whose layers cannot be seen before it is called.",
        ),
        (
            "tiny_models.build_unprunable",
            "The model must have a layer to prune with at least 64 weights; got x, out. Lower "
            "min_prunable_weights, or ask for the dense model alone with sparsities=(0.0,).",
        ),
        (
            "tiny_models.no_such_function",
            "build_model must be an importable function; got 'tiny_models.no_such_function' (module "
            "'tiny_models' has no attribute 'no_such_function').",
        ),
        (
            "no_such_module.build_model",
            "build_model must be an importable function; got 'no_such_module.build_model' (No module named "
            "'no_such_module').",
        ),
        (
            "tiny_models.NOT_A_FUNCTION",
            "build_model must be an importable function; got 'tiny_models.NOT_A_FUNCTION' (it is int).",
        ),
    ],
)
def test_a_build_model_that_gives_no_usable_model_is_refused(
    function: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        train(tmp_path, config(function))
    assert list(tmp_path.iterdir()) == []  # refused before anything is trained


def test_the_dense_model_alone_needs_no_layer_to_prune(tmp_path: Path) -> None:
    ((rung, _),) = train(tmp_path, config("tiny_models.build_unprunable", sparsities=(0.0,), epochs=1))
    assert rung.layers == ()
    assert rung.sparsity_fraction == 0.0


def test_the_dense_model_alone_trains_on_two_rows(tmp_path: Path) -> None:
    ((rung, _),) = train(tmp_path, config(sparsities=(0.0,), fine_tune_epochs=1), data=rows(2))
    assert rung.name == "s0"


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_rows_to_hold_one_out_are_refused(count: int, tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=re.escape(f"Training needs at least 2 rows in split 'train'; got {count}."),
    ):
        train(tmp_path, config(sparsities=(0.0,)), data=rows(count))
