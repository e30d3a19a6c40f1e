"""Saliencies and sensitivities in both Keras lines: closed forms, finite differences, `evaluate`."""

import importlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common.errors import DataError
from tfx_mobile.pruning_trainer.config import Blocks, Criterion, Layers, Weights
from tfx_mobile.pruning_trainer.masks import mask
from tfx_mobile.pruning_trainer.selection import PrunableWeight, select

pytestmark = pytest.mark.pipeline

NUM_ROWS, NUM_INPUTS, NUM_OUTPUTS = 37, 6, 3


@pytest.fixture(params=["tf_keras", "keras"])
def keras(request: pytest.FixtureRequest) -> Any:
    """One Keras line."""
    line = importlib.import_module(request.param)
    line.utils.set_random_seed(1)
    return line


def rows(num_rows: int = NUM_ROWS) -> tuple[Any, Any, Any]:
    draw = np.random.default_rng(5)
    x = draw.normal(size=(num_rows, NUM_INPUTS)).astype(np.float32)
    y = draw.normal(size=(num_rows, NUM_OUTPUTS)).astype(np.float32)
    return x, y, draw.uniform(0.2, 2.0, num_rows).astype(np.float32)


def in_batches(arrays: Sequence[Any], size: int) -> list[tuple[Any, ...]]:
    return [tuple(a[i : i + size] for a in arrays) for i in range(0, len(arrays[0]), size)]


def linear(keras: Any) -> tuple[Any, list[PrunableWeight], Any]:
    model = keras.Sequential(
        [keras.layers.Input((NUM_INPUTS,)), keras.layers.Dense(NUM_OUTPUTS, use_bias=False, name="out")]
    )
    model.compile("sgd", "mse", metrics=["mae"])
    weights = select(model, Layers(min_weights=1))
    return model, weights, weights[0].variable.numpy()


def bent(keras: Any) -> tuple[Any, list[PrunableWeight]]:
    """A net with a regulariser, dropout and batch normalisation, which training would run otherwise."""
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((NUM_INPUTS,)),
            layers.Dense(8, "tanh", kernel_regularizer=keras.regularizers.L2(0.1), name="first"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(NUM_OUTPUTS, name="second"),
        ]
    )
    model.compile("sgd", "mse")
    return model, select(model, Layers(min_weights=1))


def test_magnitude_reads_no_batch(keras: Any) -> None:
    from tfx_mobile.pruning_trainer import keras_saliency

    def unreadable() -> Any:
        raise AssertionError("a batch was read")
        yield

    model, weights, values = linear(keras)
    found = keras_saliency.saliency(model, weights, Criterion.MAGNITUDE, unreadable())
    assert np.array_equal(found[weights[0].name], np.abs(values))


def test_first_order_is_the_closed_form_whatever_the_batches(keras: Any) -> None:
    from tfx_mobile.pruning_trainer import keras_saliency

    model, weights, values = linear(keras)
    x, y, _ = rows()
    gradient = 2 * x.T @ (x @ values - y) / (NUM_ROWS * NUM_OUTPUTS)
    measure = keras_saliency.saliency_function(model, weights, Criterion.FIRST_ORDER)
    for size in (5, NUM_ROWS):
        found = measure(in_batches((x, y), size))[weights[0].name]
        assert found == pytest.approx(np.abs(values * gradient), rel=1e-4, abs=1e-7)
        assert found.dtype == np.float32


def test_fisher_is_the_closed_form_of_gradients_of_up_to_eight_rows(keras: Any) -> None:
    from tfx_mobile.pruning_trainer import keras_saliency

    model, weights, values = linear(keras)
    x, y, importance = rows()
    of_rows = 2 / NUM_OUTPUTS * np.einsum("n,ni,no->nio", importance, x, x @ values - y)
    measure = keras_saliency.saliency_function(model, weights, Criterion.FISHER)
    for size, groups in ((1, [1] * 37), (5, [5] * 7 + [2]), (37, [8] * 4 + [5])):
        found = measure(in_batches((x, y, importance), size))[weights[0].name]
        sums = np.add.reduceat(of_rows, np.cumsum([0, *groups[:-1]]), axis=0)
        wanted = values**2 * np.sum(sums**2, axis=0) / NUM_ROWS / 2
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("criterion", Criterion)
def test_a_function_made_once_sees_the_weights_of_each_call(keras: Any, criterion: Criterion) -> None:
    from tfx_mobile.pruning_trainer import keras_saliency

    model, weights, values = linear(keras)
    x, y, _ = rows(8)
    measure = keras_saliency.saliency_function(model, weights, criterion)
    before = measure([(x, 0 * y)])[weights[0].name]
    weights[0].variable.assign(2 * values)
    after = measure([(x, 0 * y)])[weights[0].name]
    power = {Criterion.MAGNITUDE: 1, Criterion.FIRST_ORDER: 2, Criterion.FISHER: 4}[criterion]
    assert after == pytest.approx(2**power * before, rel=1e-4)


def test_first_order_is_what_finite_differences_of_the_loss_say(keras: Any) -> None:
    from tfx_mobile.pruning_trainer import keras_saliency

    model, weights = bent(keras)
    x, y, importance = rows()
    found = keras_saliency.saliency(model, weights, Criterion.FIRST_ORDER, in_batches((x, y, importance), 16))

    def loss() -> float:
        return float(model.evaluate(x, y, sample_weight=importance, batch_size=NUM_ROWS, verbose=0))

    step = 0.02
    for weight in weights:
        values = weight.variable.numpy()
        for index in ((0, 0), (2, 1)):
            sides = []
            for sign in (1, -1):
                moved = values.copy()
                moved[index] += sign * step
                weight.variable.assign(moved)
                sides.append(loss())
            weight.variable.assign(values)
            slope = (sides[0] - sides[1]) / (2 * step)
            # 1e-3 of the slope is the curvature over the step, 1e-5 is float32 losses over the step.
            assert found[weight.name][index] == pytest.approx(abs(values[index] * slope), rel=2e-3, abs=2e-5)


def test_the_gradient_of_an_embedding_is_zero_where_no_row_looks(keras: Any) -> None:
    from tfx_mobile.pruning_trainer import keras_saliency

    layers = keras.layers
    given = {"word": layers.Input((2,), name="word", dtype="int32"), "size": layers.Input((1,), name="size")}
    looked_up = layers.Flatten()(layers.Embedding(5, 3, name="words")(given["word"]))
    model = keras.Model(given, layers.Dense(1, name="out")(layers.Concatenate()([looked_up, given["size"]])))
    model.compile("sgd", "mse")
    weights = select(model, Layers(min_weights=1))
    batch = (
        {"word": np.array([[1, 3], [3, 3]], np.int32), "size": np.ones((2, 1), np.float32)},
        np.array([[1.0], [2.0]], np.float32),
    )
    for criterion in (Criterion.FIRST_ORDER, Criterion.FISHER):
        found = keras_saliency.saliency(model, weights, criterion, [batch])[weights[0].name]
        assert (found > 0).any(axis=1).tolist() == [False, True, False, True, False]


def test_the_metrics_of_an_epoch_under_way_are_not_touched(keras: Any) -> None:
    from tfx_mobile.pruning_trainer import keras_saliency

    model, weights, _ = linear(keras)
    x, y, _ = rows()
    model.train_on_batch(x, y)
    before = [value.numpy() for metric in model.metrics for value in metric.variables]
    found = keras_saliency.saliency(model, weights, Criterion.FIRST_ORDER, [(x, y)])
    keras_saliency.scan(model, weights, found, Weights(), [(x, y)], levels=(0.5,))
    assert before == [value.numpy() for metric in model.metrics for value in metric.variables]
    assert any(value > 0 for value in before)


@pytest.mark.parametrize("structure", [Weights(), Blocks(2, 1)])
def test_a_curve_is_what_evaluate_says_of_the_pruned_weight(keras: Any, structure: Weights | Blocks) -> None:
    from tfx_mobile.pruning_trainer import keras_saliency

    model, weights = bent(keras)
    x, y, importance = rows()

    def loss() -> float:
        return float(model.evaluate(x, y, sample_weight=importance, batch_size=NUM_ROWS, verbose=0))

    before = [value.copy() for value in model.get_weights()]
    magnitudes = keras_saliency.saliency(model, weights, Criterion.MAGNITUDE, ())
    batches = in_batches((x, y, importance), 16)
    curves = keras_saliency.scan(model, weights, magnitudes, structure, iter(batches), levels=(0.25, 0.75))
    assert list(curves) == [weight.name for weight in weights]
    assert all(map(np.array_equal, before, model.get_weights()))
    dense = loss()
    for weight in weights:
        values = weight.variable.numpy()
        assert curves[weight.name].num_weights == values.size
        for level, increase in zip((0.25, 0.75), curves[weight.name].losses, strict=True):
            weight.variable.assign(values * mask(magnitudes[weight.name], level, structure))
            assert increase == pytest.approx(loss() - dense, abs=1e-5)
        weight.variable.assign(values)


@pytest.mark.parametrize(("target", "measured"), [(0.0, -2.0), (2.0, 2.0)])
def test_a_level_whose_loss_is_not_finite_costs_ten_times_what_was_measured(
    keras: Any, target: float, measured: float
) -> None:
    from tfx_mobile.pruning_trainer import keras_saliency

    model, weights, values = linear(keras)
    x, y = np.zeros((2, NUM_INPUTS), np.float32), np.zeros((2, NUM_OUTPUTS), np.float32)
    # Times weights that are alike; the square of one alone is infinite. Powers of two, so that a processor
    # that multiplies and adds in one step gets zero for both together, too.
    x[0, :2] = 2.0**127, -(2.0**127)
    x[1, 2], y[1] = 1.0, target
    values[:3] = [[2.0**-9], [2.0**-9], [2.0]]
    weights[0].variable.assign(values)
    goes = np.array([[3.0], [5.0], [1.0], [2.0], [4.0], [6.0]], np.float32) * np.ones_like(values)
    curve = keras_saliency.scan(
        model, weights, {weights[0].name: goes}, Weights(), [(x, y)], tuple(n / 6 for n in range(1, 6))
    )[weights[0].name]
    # the loss is 2 with output 2 and target 0 or the reverse, 0 where they are alike
    assert curve.losses == pytest.approx((measured, measured, 20.0, 40.0, measured))
    assert np.array_equal(weights[0].variable.numpy(), values)


def test_a_model_whose_loss_is_not_finite_is_refused(keras: Any) -> None:
    from tfx_mobile.pruning_trainer import keras_saliency

    model, weights, values = linear(keras)
    x, y, _ = rows(4)
    y[0] = np.nan
    with pytest.raises(DataError, match=re.escape("The loss must be finite; got nan of the model as it is.")):
        keras_saliency.scan(model, weights, {weights[0].name: np.abs(values)}, Weights(), [(x, y)], (0.5,))


@pytest.mark.parametrize("kind", ["sparse", "ragged"])
def test_sparse_and_ragged_rows_count_like_the_same_rows_dense(keras: Any, kind: str) -> None:
    import tensorflow as tf

    from tfx_mobile.pruning_trainer import keras_saliency

    x, y, importance = rows(19)
    x *= np.abs(x) > 0.5
    layers = keras.layers
    if kind == "sparse":
        dense = given = layers.Input((NUM_INPUTS,), name="x", sparse=True)
    else:
        given = layers.Input((None,), name="x", ragged=True)
        shape = (NUM_INPUTS,)
        dense = layers.Lambda(lambda part: part.to_tensor(shape=(None, *shape)), output_shape=shape)(given)
    kernel = np.random.default_rng(2).normal(size=(NUM_INPUTS, NUM_OUTPUTS)).astype(np.float32)
    model = keras.Model({"x": given}, keras.layers.Dense(NUM_OUTPUTS, use_bias=False, name="out")(dense))
    model.compile("sgd", "mse")
    model.set_weights([kernel])
    plain, plain_weights, _ = linear(keras)
    plain.set_weights([kernel])

    make = tf.sparse.from_dense if kind == "sparse" else tf.RaggedTensor.from_tensor
    batches = [(x[i : i + 12], y[i : i + 12], importance[i : i + 12]) for i in (0, 12)]
    others = [({"x": make(features)}, *rest) for features, *rest in batches]
    weights = select(model, Layers(min_weights=1))
    for criterion in Criterion:
        found = keras_saliency.saliency(model, weights, criterion, others)[weights[0].name]
        wanted = keras_saliency.saliency(plain, plain_weights, criterion, batches)[plain_weights[0].name]
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-7)
    curves = []
    for one, (weight,), rows_of in ((model, weights, others), (plain, plain_weights, batches)):
        magnitudes = {weight.name: np.abs(kernel)}
        found = keras_saliency.scan(one, [weight], magnitudes, Weights(), rows_of, (0.5, 0.9))
        curves.append(found[weight.name].losses)
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)


def test_a_gradient_without_rows_is_refused(keras: Any) -> None:
    from tfx_mobile.pruning_trainer import keras_saliency

    model, weights, _ = linear(keras)
    with pytest.raises(DataError, match=re.escape("Gradients must be averaged over rows; got none.")):
        keras_saliency.saliency(model, weights, Criterion.FISHER, [])
    with pytest.raises(DataError, match=re.escape("Sensitivity must be measured on rows; got none.")):
        keras_saliency.scan(model, weights, {}, Weights(), [])


def test_a_weight_that_the_loss_does_not_reach_counts_nothing(keras: Any) -> None:
    from tfx_mobile.pruning_trainer import keras_saliency

    model, weights, _ = linear(keras)
    loose = keras.layers.Dense(4, name="loose")
    loose.build((None, 2))
    stranger = PrunableWeight("loose/kernel", loose, loose.kernel)
    x, y, _ = rows()
    found = keras_saliency.saliency(model, [*weights, stranger], Criterion.FIRST_ORDER, [(x, y)])
    assert not found["loose/kernel"].any()
    assert found[weights[0].name].all()
