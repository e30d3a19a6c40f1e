"""Ladders of a tiny regression, in Keras 2 and 3: zeros, fine-tuning, twins, seeds, kills, refusals."""

import dataclasses
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import line_rows
import numpy as np
import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.ladder import Twin
from tfx_mobile.pruning_trainer.config import (
    Allocation,
    Blocks,
    Clustering,
    ConstantSparsity,
    Criterion,
    Layers,
    MByN,
    PolynomialDecay,
    Pruning,
    QuantizationAware,
    Resources,
    Rewinding,
    SplitArgs,
    TrainerConfig,
    Units,
)

pytestmark = pytest.mark.pipeline

BUILDERS = {"Keras 2": "build_line", "Keras 3": "build_keras_3"}
FORGOTTEN = "build_model must return a compiled model; call model.compile(optimizer, loss, metrics)."


def config(pruning: Pruning | None = None, **changed: Any) -> TrainerConfig:
    pruning = dataclasses.replace(pruning or Pruning(), layers=Layers(min_weights=64))
    settings = {
        "build_model": "tiny_models.build_line",
        "label_key": "y",
        "sparsities": (0.0, 0.5, 0.9),
        "pruning": pruning,
        "epochs": 4,
        "fine_tune_epochs": 4,
        "batch_size": 20,
        "resources": Resources(checkpoint_seconds=0),
    }
    return TrainerConfig(**(settings | changed))


@dataclasses.dataclass(frozen=True)
class Step:
    """A rung, and what its model was when it was made.

    Attributes:
      rung: Of the ladder.
      weights: By name, as 'hidden/kernel'.
      prediction: Of the validation rows.
    """

    rung: Any
    weights: dict[str, Any]
    prediction: Any


def steps(
    folder: Path,
    settings: TrainerConfig,
    builder: str = "build_line",
    input_fn: Any = line_rows.input_fn,
    logs: Path | None = None,
    **hyperparameters: float,
) -> Iterator[Step]:
    """Yields the ladder as it is trained."""
    import tiny_models

    from tfx_mobile.pruning_trainer import keras_line, keras_training
    from tfx_mobile.pruning_trainer.checkpoints import Checkpoints
    from tfx_mobile.pruning_trainer.context import BuildContext
    from tfx_mobile.pruning_trainer.keras_input import user_data
    from tfx_mobile.pruning_trainer.selection import weight_name

    ctx = BuildContext({}, "y", None, hyperparameters)
    keras_line.set_random_seed(settings.seed)
    model = keras_training.checked(getattr(tiny_models, builder)(ctx))
    data = user_data(ctx, input_fn, settings)
    store = Checkpoints(str(folder / "checkpoints"))
    for trained in keras_training.train_ladder(model, data, settings, store, logs=logs):
        weights = {weight_name(variable): variable.numpy().copy() for variable in trained.model.weights}
        rows = line_rows.arrays()[0][180:]
        yield Step(trained.rung, weights, np.asarray(trained.model({"x": rows}, training=False)))


def train(folder: Path, settings: TrainerConfig, builder: str = "build_line", **more: Any) -> list[Step]:
    return list(steps(folder, settings, builder, **more))


@pytest.fixture(scope="module", params=BUILDERS)
def ladder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Step]:
    """Three rungs, in each Keras line."""
    folder = tmp_path_factory.mktemp("ladder")
    return train(folder, config(), BUILDERS[request.param], logs=folder / "logs")


@pytest.fixture(scope="module")
def keras_2(tmp_path_factory: pytest.TempPathFactory) -> list[Step]:
    """The same in Keras 2."""
    return train(tmp_path_factory.mktemp("ladder"), config())


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> list[Step]:
    """Three rungs at a learning rate of zero, where only masks change anything."""
    return train(tmp_path_factory.mktemp("frozen"), config(), "build_frozen")


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> list[Step]:
    """Two rungs with all their twins."""
    settings = config(
        sparsities=(0.0, 0.5),
        rewinding=Rewinding(step=3, epochs=2),
        clustering=Clustering(4, epochs=2, layers=Layers(min_weights=64)),
        quantization_aware=QuantizationAware(epochs=2),
    )
    return train(tmp_path_factory.mktemp("twins"), settings)


def test_each_rung_has_the_zeros_it_says_it_has(ladder: list[Step]) -> None:
    assert [step.rung.name for step in ladder] == ["s0", "s50", "s90"]
    for step in ladder:
        (layer,) = step.rung.layers
        assert layer.weight == "hidden/kernel"
        kernel = step.weights["hidden/kernel"]
        assert layer.num_zeros == (kernel == 0).sum() == round(128 * step.rung.target_fraction)
        assert step.rung.num_parameters == 161


def test_kernels_below_the_minimum_stay_dense(ladder: list[Step]) -> None:
    for step in ladder:
        assert (step.weights["out/kernel"] != 0).all()


def test_rungs_hold_no_masks_and_no_steps(ladder: list[Step]) -> None:
    names = {"hidden/kernel", "hidden/bias", "out/kernel", "out/bias"}
    assert [set(step.weights) for step in ladder] == [names] * 3


def test_without_steps_a_rung_is_the_one_before_less_its_smallest_weights(frozen: list[Step]) -> None:
    for before, after in itertools.pairwise(frozen):
        kernel = before.weights["hidden/kernel"]
        kept = np.sort(np.abs(kernel).ravel())[-round(kernel.size * (1 - after.rung.target_fraction))]
        np.testing.assert_array_equal(
            after.weights["hidden/kernel"], np.where(np.abs(kernel) >= kept, kernel, 0)
        )
        np.testing.assert_array_equal(after.weights["out/kernel"], before.weights["out/kernel"])


def test_sparse_rungs_are_trained_too(ladder: list[Step]) -> None:
    for before, after in itertools.pairwise(ladder):
        kept = after.weights["hidden/kernel"] != 0
        assert (after.weights["hidden/kernel"][kept] != before.weights["hidden/kernel"][kept]).any()


def test_what_is_pruned_stays_pruned_in_sparser_rungs(ladder: list[Step]) -> None:
    for before, after in itertools.pairwise(ladder):
        assert (after.weights["hidden/kernel"][before.weights["hidden/kernel"] == 0] == 0).all()


def test_validation_is_that_of_the_rung_s_weights(ladder: list[Step]) -> None:
    x, labels = (part[180:] for part in line_rows.arrays())
    for step in ladder:
        weights = step.weights
        hidden = np.maximum(x @ weights["hidden/kernel"] + weights["hidden/bias"], 0)
        gap = hidden @ weights["out/kernel"] + weights["out/bias"] - labels
        # float32 sums of 8 and 16 terms in another order
        assert step.rung.validation["loss"] == pytest.approx(float((gap**2).mean()), rel=1e-4)
        assert step.rung.validation["mae"] == pytest.approx(float(np.abs(gap).mean()), rel=1e-4)


def test_the_best_epoch_with_final_masks_is_kept(ladder: list[Step]) -> None:
    for step in ladder:
        final = [epoch for epoch in step.rung.history if epoch.step > 18 or not step.rung.target_fraction]
        best = min(epoch.metrics["val_loss"] for epoch in final)
        assert step.rung.validation["loss"] == pytest.approx(best, rel=1e-5)  # evaluated once more


def test_history_has_every_epoch_with_its_sparsity(ladder: list[Step]) -> None:
    for previous, step in itertools.pairwise(ladder):
        history = step.rung.history
        assert [epoch.step for epoch in history] == [9, 18, 27, 36]
        levels = [epoch.sparsity_fraction for epoch in history]
        assert levels == sorted(levels)
        assert previous.rung.sparsity_fraction < levels[0]
        assert levels[-1] == pytest.approx(step.rung.target_fraction, abs=1 / 128)
        assert set(history[0].metrics) == {"loss", "mae", "val_loss", "val_mae"}


def test_both_lines_train_the_same_net(ladder: list[Step], keras_2: list[Step]) -> None:
    for one, other in zip(ladder, keras_2, strict=True):
        # the same seed draws the same weights in both, and both sum in float32
        np.testing.assert_allclose(one.prediction, other.prediction, rtol=1e-3, atol=1e-4)


def test_the_same_seed_gives_the_same_weights(keras_2: list[Step], tmp_path: Path) -> None:
    for one, other in zip(keras_2, train(tmp_path, config()), strict=True):
        assert one.rung.validation == other.rung.validation
        for name, values in one.weights.items():
            np.testing.assert_array_equal(values, other.weights[name])


def test_another_seed_gives_other_weights(keras_2: list[Step], tmp_path: Path) -> None:
    (step,) = train(tmp_path, config(seed=2, sparsities=(0.0,), epochs=1))
    assert not np.array_equal(step.weights["hidden/kernel"], keras_2[0].weights["hidden/kernel"])


def test_training_lowers_the_loss(ladder: list[Step], frozen: list[Step]) -> None:
    assert ladder[0].rung.validation["loss"] < 0.5 * frozen[0].rung.validation["loss"]


@pytest.mark.parametrize("builder", BUILDERS.values(), ids=BUILDERS)
def test_a_ladder_that_was_broken_off_goes_on_to_the_same_weights(
    builder: str, ladder: list[Step], tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    from tfx_mobile.pruning_trainer import keras_fit

    whole = train(tmp_path / "whole", config(), builder)
    saves = 0
    save = keras_fit.Fit.save

    def save_and_die(self: Any) -> None:
        nonlocal saves
        save(self)
        saves += 1
        if saves % 11 == 0:
            raise Killed

    found: list[Step] = []
    kills = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras_fit.Fit, "save", save_and_die)
        while not found:
            try:
                found = train(tmp_path / "killed", config(), builder)
            except Killed:
                kills += 1
    assert kills >= 5  # in the middle of epochs of every rung
    for one, other in zip(whole, found, strict=True):
        assert one.rung.layers == other.rung.layers
        for name, values in one.weights.items():
            np.testing.assert_array_equal(values, other.weights[name])
        steps_seen = [[epoch.step for epoch in step.rung.history] for step in (one, other)]
        assert steps_seen[0] == steps_seen[1]


def test_what_is_done_is_not_trained_again(tmp_path: Path) -> None:
    first = train(tmp_path, config(sparsities=(0.0, 0.5)))
    again = train(tmp_path, config(sparsities=(0.0, 0.5, 0.9)))  # the place is keyed elsewhere
    for one, other in zip(first, again, strict=False):
        assert one.rung == other.rung  # seconds included
        np.testing.assert_array_equal(one.prediction, other.prediction)
    assert again[2].rung.sparsity_fraction == pytest.approx(0.9, abs=1 / 128)


@pytest.mark.parametrize("builder", BUILDERS.values(), ids=BUILDERS)
@pytest.mark.parametrize(
    ("pruning", "sparsity"),
    [
        (Pruning(structure=Blocks(1, 4)), 0.75),
        (Pruning(structure=MByN(2, 4)), 0.5),
        (Pruning(criterion=Criterion.FIRST_ORDER), 0.6),
        (Pruning(criterion=Criterion.FISHER, saliency_batches=2), 0.6),
        (Pruning(allocation=Allocation.SENSITIVITY), 0.7),
        (Pruning(schedule=ConstantSparsity(begin_step=2, end_step=2)), 0.3),
        (Pruning(schedule=PolynomialDecay(0.2, 1, 17, 4, 1.0)), 0.8),
    ],
    ids=["blocks", "2 of 4", "first order", "fisher", "sensitivity", "constant", "linear"],
)
def test_every_way_to_prune_reaches_its_sparsity(
    builder: str, pruning: Pruning, sparsity: float, tmp_path: Path
) -> None:
    settings = config(pruning, sparsities=(0.0, sparsity), epochs=2, fine_tune_epochs=2)
    dense, sparse = train(tmp_path, settings, builder)
    kernel = sparse.weights["hidden/kernel"]
    assert np.count_nonzero(kernel == 0) == pytest.approx(128 * sparsity, abs=2)
    if isinstance(pruning.structure, Blocks):
        blocks = (kernel == 0).reshape(8, 4, 4)
        assert (blocks.all(axis=2) == blocks.any(axis=2)).all()
    if isinstance(pruning.structure, MByN):
        assert ((kernel == 0).reshape(2, 4, 16).sum(axis=1) == 2).all()
    assert dense.rung.validation["loss"] > 0


@pytest.mark.parametrize("builder", BUILDERS.values(), ids=BUILDERS)
def test_removed_units_are_gone_from_the_shapes(builder: str, tmp_path: Path) -> None:
    settings = config(Pruning(structure=Units()), sparsities=(0.0, 0.25, 0.5), epochs=2, fine_tune_epochs=2)
    found = train(tmp_path, settings, builder)
    assert [step.weights["hidden/kernel"].shape for step in found] == [(8, 16), (8, 12), (8, 8)]
    assert [step.rung.num_parameters for step in found] == [161, 121, 81]
    assert [step.rung.sparsity_fraction for step in found] == [0, 0, 0]
    again = train(tmp_path, settings, builder)  # rebuilt from what was kept, not trained
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one.prediction, other.prediction)


def test_twins_stand_behind_their_rung(twins: list[Step]) -> None:
    names = ["s0", "s0-clustered", "s0-qat", "s50", "s50-rewound", "s50-clustered", "s50-qat"]
    assert [step.rung.name for step in twins] == names
    assert [step.rung.twin for step in twins[3:]] == [
        Twin.PLAIN,
        Twin.REWOUND,
        Twin.CLUSTERED,
        Twin.QUANTIZATION_AWARE,
    ]


def test_the_rewound_twin_has_the_masks_of_its_rung_and_other_weights(twins: list[Step]) -> None:
    plain, rewound = twins[3].weights["hidden/kernel"], twins[4].weights["hidden/kernel"]
    np.testing.assert_array_equal(plain == 0, rewound == 0)
    assert (plain[plain != 0] != rewound[plain != 0]).any()
    assert [epoch.step for epoch in twins[4].rung.history] == [9, 18]


def test_a_twin_rewound_without_steps_has_the_early_weights(tmp_path: Path) -> None:
    settings = config(sparsities=(0.0, 0.5), rewinding=Rewinding(step=0, epochs=1))
    dense, _, rewound = train(tmp_path, settings, "build_frozen")
    kernel, early = rewound.weights["hidden/kernel"], dense.weights["hidden/kernel"]
    np.testing.assert_array_equal(kernel[kernel != 0], early[kernel != 0])


def test_the_clustered_twin_has_few_values_and_its_rung_s_zeros(twins: list[Step]) -> None:
    for plain, clustered in ((twins[0], twins[1]), (twins[3], twins[5])):
        kernel = clustered.weights["hidden/kernel"]
        assert len(np.unique(kernel)) <= 4
        assert (kernel[plain.weights["hidden/kernel"] == 0] == 0).all()


def test_the_int8_aware_twin_keeps_zeros_and_clusters(twins: list[Step]) -> None:
    (layer,) = (layer for layer in twins[6].rung.layers if layer.weight == "hidden/kernel")
    assert layer.num_zeros >= 64
    # int8 weights of 161, one scale for each unit, and activations: a few hundredths of labels of about 1
    assert np.abs(twins[6].prediction - twins[5].prediction).mean() < 0.3


def test_a_ladder_goes_on_from_its_rung_and_not_from_a_twin(twins: list[Step], tmp_path: Path) -> None:
    alone = train(tmp_path, config(sparsities=(0.0, 0.5)))
    np.testing.assert_array_equal(twins[0].prediction, alone[0].prediction)
    for name, values in twins[3].weights.items():
        assert values.shape == alone[1].weights[name].shape


def test_twins_that_were_made_are_not_made_again(tmp_path: Path) -> None:
    settings = config(
        sparsities=(0.0, 0.5),
        epochs=1,
        fine_tune_epochs=1,
        rewinding=Rewinding(epochs=1),
        clustering=Clustering(4, epochs=1, layers=Layers(min_weights=64)),
        quantization_aware=QuantizationAware(epochs=1),
    )
    for one, other in zip(train(tmp_path, settings), train(tmp_path, settings), strict=True):
        assert one.rung == other.rung
        np.testing.assert_array_equal(one.prediction, other.prediction)


def test_metrics_of_every_sort_are_on_every_rung(tmp_path: Path) -> None:
    found = train(tmp_path, config(epochs=1, fine_tune_epochs=2), "build_metrics")
    for step in found:
        validation = step.rung.validation
        assert set(validation) == {"loss", "mae", "mean_squared_error", "rmse"}
        # the same figure three ways, in float32
        assert validation["rmse"] ** 2 == pytest.approx(validation["loss"], rel=1e-4)
        assert validation["mean_squared_error"] == pytest.approx(validation["loss"], rel=1e-4)


def test_early_stopping_ends_after_patience(tmp_path: Path) -> None:
    (step,) = train(tmp_path, config(sparsities=(0.0,), epochs=9, patience=2), "build_frozen")
    assert len(step.rung.history) == 3  # epoch 1 is the best, epochs 2 and 3 are no better


def test_a_limit_of_steps_ends_the_dense_training_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    (step,) = train(tmp_path, config(sparsities=(0.0,), train_args=SplitArgs(num_steps=14)))
    assert [epoch.step for epoch in step.rung.history] == [9, 14]


def test_logs_of_every_rung_are_there_for_tensorboard(tmp_path: Path) -> None:
    train(tmp_path, config(sparsities=(0.0, 0.5), epochs=1, fine_tune_epochs=1), logs=tmp_path / "logs")
    found = {path.parent.parent.name for path in (tmp_path / "logs").glob("*/train/events.*")}
    assert found == {"s0", "s50"}


def test_a_loss_that_is_nan_is_refused_with_its_rung_step_and_rate(tmp_path: Path) -> None:
    from tfx_mobile.pruning_trainer.keras_fit import DivergedError

    message = (
        "The loss must stay finite; got nan at step 3 of 36 of rung 's0' at learning rate 0.02. Lower it, or "
        "look for wrong labels."
    )
    with pytest.raises(DivergedError, match=re.escape(message)):
        train(tmp_path, config(), input_fn=line_rows.broken_after(40), learning_rate=0.02)


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (
            "build_nothing",
            "build_model must return a Keras model (tf_keras.Model or keras.Model); got builtins.NoneType.",
        ),
        ("build_uncompiled", FORGOTTEN),
        (
            "build_subclassed",
            "build_model must return a functional model, Model(inputs, outputs), or a Sequential one with an "
            "Input; got the class _Subclassed, whose layers cannot be seen before it is called.",
        ),
        (
            "build_unprunable",
            "The model must have a layer to prune with at least 64 weights; got x, out. Lower min_weights, "
            "choose other layers, or ask for the dense model alone with sparsities=(0.0,).",
        ),
    ],
)
def test_a_model_that_cannot_be_used_is_refused(builder: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        train(tmp_path, config(), builder)
    assert list(tmp_path.iterdir()) == []  # refused before anything is trained


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"pruning": Pruning(schedule=PolynomialDecay(end_step=36))},
            "end_step must be at most 35, the last step; got 36; rung 's50' (9 batches over 4 epochs) has 36 "
            "steps.",
        ),
        (
            {"rewinding": Rewinding(step=36)},
            "Rewinding must go back to a step of the dense training, which has at most 36; got 36.",
        ),
    ],
)
def test_steps_beyond_the_last_are_refused_with_the_numbers(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    pruning = changed.pop("pruning", None)
    with pytest.raises(ConfigError, match=re.escape(message)):
        train(tmp_path, config(pruning, **changed))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("twin", [{"clustering": Clustering()}, {"quantization_aware": QuantizationAware()}])
def test_twins_that_tfmot_makes_refuse_keras_3_before_training(twin: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape("tf_keras")):
        train(tmp_path, config(**twin), "build_keras_3")
    assert list(tmp_path.iterdir()) == []


def test_the_dense_model_alone_needs_no_layer_to_prune(tmp_path: Path) -> None:
    (step,) = train(tmp_path, config(sparsities=(0.0,), epochs=1), "build_unprunable")
    assert step.rung.layers == ()
    assert step.rung.sparsity_fraction == 0.0
