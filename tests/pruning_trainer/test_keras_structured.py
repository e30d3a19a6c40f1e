"""Smaller models against the same models with the removed units silenced, in both Keras lines."""

import importlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.pruning_trainer.config import Layers
from tfx_mobile.pruning_trainer.selection import leaf_layers, weight_name

pytestmark = pytest.mark.pipeline

ALL = Layers(min_weights=1)
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}  # float32 sums of at most a few hundred terms, in another order


@pytest.fixture(params=["tf_keras", "keras"])
def keras(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(request.param)


def structured() -> Any:
    from tfx_mobile.pruning_trainer import keras_structured

    return keras_structured


def mlp(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6,), name="x"),
            layers.Dense(8, "relu", name="first"),
            layers.Dropout(0.5),
            layers.Dense(5, "tanh", name="second"),
            layers.Dense(2, name="out"),
        ]
    )


def late_built(keras: Any) -> Any:
    model = keras.Sequential([keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])
    model.build((None, 6))
    return model


def convnet(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), name="x"),
            layers.Conv2D(6, 3, padding="same", use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.SpatialDropout2D(0.5),
            layers.MaxPooling2D(),
            layers.Rescaling(0.5),
            layers.Flatten(),
            layers.Dense(7, "relu", name="dense"),
            layers.Dense(2, name="out"),
        ]
    )


def mobile(keras: Any) -> Any:
    layers = keras.layers
    x = given = keras.Input((8, 8, 3), name="x")
    x = layers.Conv2D(4, 3, strides=2, name="stem")(x)
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise")(x)
    x = layers.PReLU(shared_axes=[1, 2], name="prelu")(x)
    x = layers.SeparableConv2D(5, 3, padding="same", activation="relu", depth_multiplier=2, name="separable")(
        x
    )
    x = layers.ZeroPadding2D(1)(x)
    x = layers.UpSampling2D(2)(x)
    x = layers.Conv2DTranspose(3, 3, name="transpose")(x)
    x = layers.PReLU(name="prelu_2")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(given, layers.Dense(2, name="out")(x))


def residual(keras: Any) -> Any:
    layers = keras.layers
    given = keras.Input((8, 8, 3), name="x")
    x = layers.Conv2D(6, 3, padding="same", name="stem")(given)
    y = layers.Conv2D(4, 3, padding="same", activation="relu", name="inner")(x)
    y = layers.Conv2D(6, 3, padding="same", name="back")(y)
    y = layers.BatchNormalization(name="norm")(y)
    x = layers.Activation("relu")(layers.Add(name="add")([x, y]))
    gate = layers.Dense(6, "sigmoid", name="gate")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.GlobalMaxPooling2D()(layers.Multiply()([x, gate]))
    return keras.Model(given, layers.Dense(2, name="out")(x))


def branches(keras: Any) -> Any:
    layers = keras.layers
    given = keras.Input((8, 8, 3), name="x")
    one = layers.Conv2D(4, 1, name="one")(given)
    two = layers.Conv2D(3, 3, padding="same", activation="relu", name="two")(given)
    whole = layers.Conv2D(7, 3, padding="same", name="whole")(given)
    x = layers.Concatenate(name="concat")([one, two])
    x = layers.Subtract()([x, whole])
    x = layers.Concatenate()([x, given, x])
    x = layers.Flatten()(layers.Conv2D(5, 8, name="last")(x))
    return keras.Model(given, layers.Dense(2, name="out")(x))


def shared(keras: Any) -> Any:
    layers = keras.layers
    given = keras.Input((6,), name="x")
    twice = layers.Dense(5, "relu", name="twice")
    one, two = layers.Dense(4, name="one")(given), layers.Dense(4, "tanh", name="two")(given)
    x = layers.Concatenate()([twice(one), twice(two), one])
    return keras.Model(given, layers.Dense(2, name="out")(x))


def two_inputs_two_outputs(keras: Any) -> Any:
    layers = keras.layers
    a, b = keras.Input((6,), name="a"), keras.Input((4,), name="b")
    x = layers.Concatenate()([layers.Dense(5, "relu", name="left")(a), b])
    x = layers.Dense(8, "relu", name="trunk")(x)
    first = layers.Dense(3, "softmax", name="classes")(x)
    second = layers.Dense(1, name="value")(layers.Dense(6, "relu", name="head")(x))
    return keras.Model({"b": b, "a": a}, {"value": second, "classes": first})


def nested(keras: Any) -> Any:
    layers = keras.layers
    inner_given = keras.Input((5,))
    y = layers.Dense(5, "relu", name="inner_dense")(inner_given)
    inner = keras.Model(inner_given, layers.Add()([y, inner_given]), name="inner")
    tail = keras.Sequential(
        [keras.Input((5,)), layers.Dense(4, "relu", name="tail_1"), layers.Dense(3, name="tail_2")],
        name="tail",
    )
    given = keras.Input((6,), name="x")
    x = inner(inner(layers.Dense(5, name="outer")(given)))
    return keras.Model(given, layers.Dense(2, name="out")(tail(x)))


def recurrent(keras: Any) -> Any:
    layers = keras.layers
    given = keras.Input((4,), dtype="int32", name="ids")
    x = layers.Embedding(10, 6, name="embedding")(given)
    x = layers.Conv1D(5, 2, padding="causal", activation="relu", name="conv")(x)
    x = layers.LSTM(4, return_sequences=True, name="lstm")(x)
    x = layers.GRU(5, return_sequences=True, name="gru")(x)
    x = layers.GRU(3, return_sequences=True, reset_after=False, use_bias=False, name="gru_2")(x)
    x = layers.SimpleRNN(6, name="rnn")(x)
    return keras.Model(given, layers.Dense(2, name="out")(x))


def reshaped(keras: Any) -> Any:
    layers = keras.layers
    given = keras.Input((4, 4, 3), name="x")
    x = layers.Conv2D(6, 1, name="conv")(given)
    x = layers.Reshape((-1, 6), name="rows")(x)
    x = layers.Reshape((8, 12), name="pairs")(x)
    x = layers.Permute((1, 2))(x)
    x = layers.GlobalAveragePooling1D()(layers.Softmax(axis=1)(x))
    x = layers.RepeatVector(3)(layers.Dense(5, "gelu", name="dense")(x))
    return keras.Model(given, layers.Dense(2, name="out")(layers.Flatten()(x)))


def written_out(keras: Any) -> Any:
    """Operators in place of layers."""
    import tensorflow as tf

    layers = keras.layers
    given = keras.Input((6,), name="x")
    one, two = layers.Dense(4, name="one")(given), layers.Dense(4, tf.nn.relu, name="two")(given)
    x = 2.0 * (one + two) - one * two
    if keras.__name__ == "keras":
        x = keras.ops.concatenate([keras.ops.relu(x), one], axis=-1)
    else:
        x = tf.concat([tf.nn.relu(x), one], axis=-1)
    return keras.Model(given, layers.Dense(2, name="out")(x))


def guarded(keras: Any) -> Any:
    """Layers that mix units, or may, between layers that can shrink."""
    layers = keras.layers
    given = keras.Input((4, 3), name="x")
    x = layers.Dense(6, name="before_attention")(layers.Dense(5, "relu", name="free")(given))
    x = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = layers.Dense(4, name="before_norm")(x)
    x = layers.LayerNormalization(name="layer_norm")(x)
    x = layers.Softmax(name="softmax")(layers.Dense(5, name="before_softmax")(x))
    x = layers.Dense(4, "softmax", name="mixing")(x)
    x = layers.Reshape((8, 2), name="moving")(layers.Dense(4, name="before_reshape")(x))
    x = layers.Permute((2, 1), name="turning")(layers.Dense(4, name="before_permute")(x))
    x = layers.Lambda(lambda x: x[..., ::-1], name="lambda")(layers.Dense(5, name="before_lambda")(x))
    x = layers.Conv1D(4, 1, groups=2, name="grouped")(layers.Dense(4, name="before_groups")(x))
    x = layers.Bidirectional(layers.LSTM(2), name="both_ways")(layers.Dense(4, name="before_both")(x))
    x = layers.Dense(4, "relu", name="free_too")(x)
    return keras.Model(given, layers.Dense(2, name="out")(x))


MODELS = [
    guarded,
    mlp,
    late_built,
    convnet,
    mobile,
    residual,
    branches,
    shared,
    two_inputs_two_outputs,
    nested,
    recurrent,
    reshaped,
    written_out,
]


def randomized(model: Any, seed: int = 0) -> Any:
    """Gives all weights values away from zero; variances are positive."""
    draw = np.random.default_rng(seed)
    model.set_weights(
        [
            draw.uniform(0.2, 1.0, value.shape) * _signs(draw, name, value.shape)
            for name, value in named(model)
        ]
    )
    return model


def _signs(draw: np.random.Generator, name: str, shape: tuple[int, ...]) -> Any:
    return 1.0 if name.endswith("variance") else draw.choice([-0.5, 0.5], shape)


def named(model: Any) -> list[tuple[str, Any]]:
    return [
        (weight_name(variable), value)
        for variable, value in zip(model.weights, model.get_weights(), strict=True)
    ]


def maker(tensor: Any) -> Any:
    return tensor._keras_history[0]


def rows(model: Any, count: int = 5) -> Any:
    """Returns random rows by input name."""
    draw = np.random.default_rng(1)
    made = {}
    for tensor in model.inputs:
        name = maker(tensor).name
        shape = (count, *(extent or 3 for extent in tensor.shape[1:]))
        is_ids = "int" in str(tensor.dtype)
        made[name] = draw.integers(0, 10, shape) if is_ids else draw.normal(size=shape).astype(np.float32)
    return made if len(made) > 1 else next(iter(made.values()))


def predictions(model: Any, given: Any) -> dict[str, Any]:
    found = model(given, training=False)
    found = found if isinstance(found, Mapping) else {"out": found}
    return {name: np.asarray(value) for name, value in found.items()}


def some(groups: Any, seed: int = 2) -> dict[str, list[int]]:
    """Returns a random half of the units of each group, at least one."""
    draw = np.random.default_rng(seed)
    return {
        group.name: sorted(draw.permutation(group.num_units)[: max(group.num_units // 2, 1)].tolist())
        for group in groups
    }


def without_outgoing(model: Any, keep: Mapping[str, list[int]]) -> list[Any]:
    """Returns the weights of a model in which nobody listens to the units that are not kept."""
    from tfx_mobile.pruning_trainer.keras_units import follow

    trace = follow(model)
    gone = np.concatenate([np.delete(trace.groups[name].units, kept) for name, kept in keep.items()])
    values = dict(named(model))
    for plan in trace.plans.values():
        if plan.layer.name not in trace.made and "depthwise" not in plan.layer.name:
            continue
        for part in plan.weights:
            value = values[weight_name(part.variable)]
            for axis, labels in part.axes.items():
                if axis != part.score_axis and value.ndim > 1:
                    silent = np.isin(trace.same[labels], gone)
                    np.moveaxis(value, axis, 0)[silent] = 0.0
    return list(values.values())


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_units_that_nobody_listens_to_can_go(keras: Any, build: Callable[[Any], Any]) -> None:
    model = randomized(build(keras))
    groups = structured().unit_groups(model, ALL)
    keep = some(groups)
    before = named(model)
    smaller = structured().shrink(model, keep)
    for (name, value), (same_name, same_value) in zip(before, named(model), strict=True):
        assert name == same_name
        np.testing.assert_array_equal(value, same_value)
    assert smaller.count_params() < model.count_params()
    assert type(smaller) is type(model)
    assert [name for name, _ in named(smaller)] == [name for name, _ in before]
    assert [layer.name for layer in leaf_layers(smaller)] == [layer.name for layer in leaf_layers(model)]
    for one, other in ((smaller.inputs, model.inputs), (smaller.outputs, model.outputs)):
        assert [(maker(x).name, tuple(x.shape)) for x in one] == [
            (maker(x).name, tuple(x.shape)) for x in other
        ]
    names = [group.name for group in groups]
    assert [group.name for group in structured().unit_groups(smaller, ALL)] == names

    given = rows(model)
    found = predictions(smaller, given)
    model.set_weights(without_outgoing(model, keep))
    for name, expected in predictions(model, given).items():
        np.testing.assert_allclose(found[name], expected, **ROUNDING)


@pytest.mark.parametrize(
    "build", [mlp, convnet, residual, branches, recurrent], ids=lambda build: build.__name__
)
def test_units_that_say_nothing_can_go(keras: Any, build: Callable[[Any], Any]) -> None:
    """The removed units are silenced where they are made, by hand."""
    model = randomized(build(keras))
    for layer in model.layers:
        if layer.name == "norm":  # keeps a zero a zero
            layer.set_weights([layer.get_weights()[0], *np.zeros((2, 6)), layer.get_weights()[3]])
    silent = {
        "mlp": {"first": [0, 5], "second": [1]},
        "convnet": {"conv": [2, 3], "dense": [0]},
        "residual": {"stem": [1, 4], "back": [1, 4], "gate": [1, 4], "inner": [0, 1]},
        "branches": {"one": [0, 3], "two": [2], "whole": [0, 3, 6], "last": [4]},
        "recurrent": {"embedding": [5], "conv": [0], "lstm": [1, 2], "gru": [4], "gru_2": [0], "rnn": [2, 5]},
    }[build.__name__]
    for name, units in silent.items():
        silence(model.get_layer(name), units)
    keep = {}
    for group in structured().unit_groups(model, ALL):
        units = silent[group.layers[0]]
        keep[group.name] = sorted(set(range(group.num_units)) - set(units))
    given = rows(model)
    found = predictions(structured().shrink(model, keep), given)
    for name, expected in predictions(model, given).items():
        np.testing.assert_allclose(found[name], expected, **ROUNDING)


def silence(layer: Any, units: list[int]) -> None:
    """Sets what makes these units to zero, in every gate."""
    values = layer.get_weights()
    gates = {"LSTM": 4, "GRU": 3}.get(type(layer).__name__, 1)
    for value in values:
        width = value.shape[-1] // gates
        for gate in range(gates):
            value[..., [gate * width + unit for unit in units]] = 0.0
    layer.set_weights(values)


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs_lose_units_that_nobody_listens_to(seed: int) -> None:
    keras = importlib.import_module(["tf_keras", "keras"][seed % 2])
    model = randomized(random_graph(keras, np.random.default_rng(seed)), seed)
    keep = some(structured().unit_groups(model, ALL), seed)
    smaller = structured().shrink(model, keep)
    assert smaller.count_params() < model.count_params()
    given = rows(model)
    found = predictions(smaller, given)
    model.set_weights(without_outgoing(model, keep))
    for name, expected in predictions(model, given).items():
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def random_graph(keras: Any, draw: np.random.Generator) -> Any:
    """Returns a net of ten random layers on 4x4 images, each on one or two tensors made before."""
    layers = keras.layers
    given = keras.Input((4, 4, 3), name="x")
    made = [layers.Conv2D(4, 1, name="stem")(given), given]
    for i in range(10):
        x, y = made[draw.integers(len(made))], made[draw.integers(len(made))]
        kind = draw.choice(
            ["conv", "dense", "norm", "add", "concat", "depthwise", "softmax", "reshape", "pool", "act"]
        )
        if kind == "add" and x.shape[-1] != y.shape[-1]:
            y = layers.Conv2D(x.shape[-1], 1, name=f"fit_{i}")(y)
        made.append(
            {
                "conv": lambda x, y, i=i: layers.Conv2D(
                    int(draw.integers(2, 7)), 3, padding="same", name=f"conv_{i}"
                )(x),
                "dense": lambda x, y, i=i: layers.Dense(int(draw.integers(2, 7)), "tanh", name=f"dense_{i}")(
                    x
                ),
                "norm": lambda x, y: layers.BatchNormalization()(x),
                "add": lambda x, y: layers.Average()([x, y]),
                "concat": lambda x, y: layers.Concatenate()([x, y]),
                "depthwise": lambda x, y, i=i: layers.DepthwiseConv2D(
                    3, padding="same", depth_multiplier=2, name=f"depthwise_{i}"
                )(x),
                "softmax": lambda x, y: layers.Softmax()(x),
                "reshape": lambda x, y: layers.Reshape((4, 4, x.shape[-1]))(
                    layers.Reshape((2, 8, x.shape[-1]))(x)
                ),
                "pool": lambda x, y: layers.AveragePooling2D(2, 1, padding="same")(x),
                "act": lambda x, y: layers.Activation("tanh")(x),
            }[str(kind)](x, y)
        )
    unused = layers.Concatenate()(made)
    x = layers.Dense(6, "tanh", name="dense")(layers.Flatten()(unused))
    return keras.Model(given, layers.Dense(2, name="out")(x))


def test_the_predictions_are_those_of_matrices_sliced_by_hand(keras: Any) -> None:
    model = randomized(mlp(keras))
    smaller = structured().shrink(model, {"first": [1, 2, 7], "second": [0, 4]})
    a, a_bias, b, b_bias, c, c_bias = model.get_weights()
    given = rows(model)
    x = np.maximum(given @ a[:, [1, 2, 7]] + a_bias[[1, 2, 7]], 0)
    x = np.tanh(x @ b[[1, 2, 7]][:, [0, 4]] + b_bias[[0, 4]])
    expected = x @ c[[0, 4]] + c_bias
    np.testing.assert_allclose(predictions(smaller, given)["out"], expected, **ROUNDING)


def test_parameters_and_macs_are_those_of_the_smaller_shapes(keras: Any) -> None:
    model = convnet(keras)
    smaller = structured().shrink(model, {"conv": [0, 2], "dense": [1, 3, 5]})
    assert model.count_params() == 27 * 6 + 4 * 6 + 16 * 6 * 7 + 7 + 7 * 2 + 2
    assert smaller.count_params() == 27 * 2 + 4 * 2 + 16 * 2 * 3 + 3 + 3 * 2 + 2
    assert structured().num_macs(model) == {"conv": 64 * 27 * 6, "dense": 16 * 6 * 7, "out": 7 * 2}
    assert structured().num_macs(smaller) == {"conv": 64 * 27 * 2, "dense": 16 * 2 * 3, "out": 3 * 2}


def test_macs_count_calls_of_shared_depthwise_and_recurrent_layers(keras: Any) -> None:
    assert structured().num_macs(shared(keras))["twice"] == 2 * 4 * 5
    assert structured().num_macs(recurrent(keras))["lstm"] == 4 * (5 + 4) * 4 * 4
    of_mobile = structured().num_macs(mobile(keras))
    assert of_mobile["depthwise"] == 9 * 9 * 4 * 2
    assert of_mobile["separable"] == 9 * (9 * 8 * 2 + 16 * 5)
    assert of_mobile["transpose"] == 100 * 9 * 5 * 3


def test_the_tflite_file_has_the_smaller_shapes_and_the_same_predictions(keras: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    from tfx_mobile.common.interpreter import TFLiteModel

    model = randomized(convnet(keras))
    smaller = structured().shrink(model, {"conv": [0, 2], "dense": [1, 3, 5]})
    files = {}
    for name, each in (("dense", model), ("smaller", smaller)):
        each.export(str(tmp_path / name))
        files[name] = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / name)).convert()
    file = TFLiteModel(files["smaller"])
    (name,) = file.inputs
    given = rows(model)
    np.testing.assert_allclose(file.predict({name: given}), predictions(smaller, given)["out"], **ROUNDING)
    shapes = {tuple(detail["shape"].tolist()) for detail in file.interpreter.get_tensor_details()}
    assert {(2, 3, 3, 3), (3, 32), (2, 3)} <= shapes  # TFLite has outputs first
    assert not {(6, 3, 3, 3), (7, 96), (2, 7)} & shapes
    assert len(files["smaller"]) < len(files["dense"])


def test_a_smaller_model_is_the_same_after_it_was_saved(keras: Any, tmp_path: Path) -> None:
    model = randomized(residual(keras))
    smaller = structured().shrink(model, some(structured().unit_groups(model, ALL)))
    smaller.save(tmp_path / "smaller.keras")
    loaded = keras.models.load_model(tmp_path / "smaller.keras")
    given = rows(model)
    np.testing.assert_array_equal(predictions(loaded, given)["out"], predictions(smaller, given)["out"])
    again = structured().unit_groups(loaded, ALL)
    assert again == structured().unit_groups(smaller, ALL)


def test_shrinking_twice_is_shrinking_once(keras: Any) -> None:
    model = randomized(branches(keras))
    once = structured().shrink(model, {"two": [1], "last": [0, 3]})
    twice = structured().shrink(model, {"two": [1, 2], "last": [0, 2, 3]})
    twice = structured().shrink(twice, {"two": [0], "last": [0, 2]})
    for one, other in zip(once.get_weights(), twice.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_settings_of_layers_are_kept_and_the_model_is_not_compiled(keras: Any) -> None:
    layers = keras.layers
    given = keras.Input((6,), name="x")
    first = layers.Dense(
        8,
        name="first",
        kernel_constraint=keras.constraints.NonNeg(),
        kernel_regularizer=keras.regularizers.L2(0.3),
    )
    fixed = layers.Dense(5, "relu", name="fixed", trainable=False)
    model = keras.Model(given, layers.Dense(2, name="out")(fixed(first(given))))
    model.compile("adam", "mse")
    smaller = structured().shrink(model, {"first": [0, 1], "fixed": [2]})
    assert isinstance(smaller.get_layer("first").kernel_constraint, keras.constraints.NonNeg)
    assert float(smaller.get_layer("first").kernel_regularizer.l2) == pytest.approx(0.3)
    assert [weight_name(weight) for weight in smaller.trainable_weights] == [
        "first/kernel",
        "first/bias",
        "out/kernel",
        "out/bias",
    ]
    assert getattr(smaller, "optimizer", None) is None
    assert model.optimizer is not None


def custom_layer(keras: Any) -> Any:
    """Returns a registered layer that scales its inputs by weights of its own."""

    @keras.utils.register_keras_serializable(package=f"structured_{keras.__name__}")
    class Scale(keras.layers.Layer):  # type: ignore[misc, name-defined]
        def build(self, shape: Any) -> None:
            self.scale = self.add_weight(name="kernel", shape=(shape[-1],), initializer="ones")
            self.kernel = self.scale

        def call(self, x: Any) -> Any:
            return x * self.scale

    return Scale


def test_a_custom_layer_keeps_its_units_and_its_weights(keras: Any) -> None:
    layers = keras.layers
    given = keras.Input((6,), name="x")
    x = layers.Dense(5, name="before")(layers.Dense(4, name="free")(given))
    x = custom_layer(keras)(name="scale")(x)
    model = randomized(keras.Model(given, layers.Dense(2, name="out")(x)))
    groups = structured().unit_groups(model, ALL)
    assert [(group.name, group.consumers) for group in groups] == [("free", ("before",))]
    smaller = structured().shrink(model, {"free": [1]})
    np.testing.assert_array_equal(
        smaller.get_layer("scale").get_weights()[0], model.get_layer("scale").get_weights()[0]
    )
    with pytest.raises(
        ConfigError,
        match=re.escape(
            "Layer 'before' must keep all its units: layer 'scale' (Scale) needs all of them. Take it out of "
            "`names`."
        ),
    ):
        structured().unit_groups(model, Layers(names=("before",), min_weights=1))


def test_a_vocabulary_that_was_learnt_is_kept(keras: Any) -> None:
    import tensorflow as tf

    layers = keras.layers
    lookup = layers.StringLookup(name="lookup")
    lookup.adapt(tf.constant(["b", "a", "b"]))
    given = keras.Input((2,), dtype="string", name="x")
    x = layers.Flatten()(layers.Embedding(4, 6, name="embedding")(lookup(given)))
    model = keras.Model(given, layers.Dense(2, name="out")(x))
    smaller = structured().shrink(model, {"embedding": [0, 3]})
    assert smaller.get_layer("lookup").get_vocabulary() == ["[UNK]", "b", "a"]
    assert smaller.get_layer("out").get_weights()[0].shape == (4, 2)


WHY = {
    "before_attention": "layer 'attention' (MultiHeadAttention) needs all of them",
    "before_norm": "layer 'layer_norm' (LayerNormalization) needs all of them",
    "before_softmax": "layer 'softmax' (Softmax) needs all of them",
    "mixing": "the activation of layer 'mixing' is computed over all of them",
    "before_reshape": "layer 'moving' (Reshape) needs all of them",
    "before_permute": "layer 'turning' (Permute) needs all of them",
    "before_lambda": "layer 'lambda' (Lambda) needs all of them",
    "before_groups": "layer 'grouped' (Conv1D) needs all of them",
    "grouped": "layer 'grouped' (Conv1D) needs all of them",
    "before_both": "layer 'both_ways' (Bidirectional) needs all of them",
    "both_ways": "layer 'both_ways' (Bidirectional) needs all of them",
    "out": "they are outputs of the model",
}


def test_a_named_layer_that_is_not_safe_is_refused_with_what_stands_in_its_way(keras: Any) -> None:
    model = guarded(keras)
    groups = structured().unit_groups(model, ALL)
    assert [group.name for group in groups] == ["free", "free_too"]
    for name, why in WHY.items():
        message = f"Layer {name!r} must keep all its units: {why}. Take it out of `names`."
        with pytest.raises(ConfigError, match=re.escape(message)):
            structured().unit_groups(model, Layers(names=("free", name), min_weights=1))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("stem",),
            "Layer 'stem' must keep all its units: they are those of layer 'back' too, which is not "
            "selected. Take it out of `names`.",
        ),
        (
            ("stem", "back", "gate", "out"),
            "Layer 'out' must keep all its units: they are outputs of the model. Take it out of `names`.",
        ),
    ],
)
def test_layers_that_share_units_go_together(keras: Any, names: tuple[str, ...], message: str) -> None:
    model = residual(keras)
    with pytest.raises(ConfigError, match=re.escape(message)):
        structured().unit_groups(model, Layers(names=names, min_weights=1))
    together = structured().unit_groups(model, Layers(names=("stem", "back", "gate"), min_weights=1))
    assert [(group.layers, group.num_units) for group in together] == [(("stem", "back", "gate"), 6)]


def test_units_coupled_with_an_input_stay(keras: Any) -> None:
    given = keras.Input((6,), name="x")
    x = keras.layers.Add()([keras.layers.Dense(6, name="first")(given), given])
    model = keras.Model(given, keras.layers.Dense(2, name="out")(x))
    message = (
        "The model must have a layer whose units can be removed; got none ('first': input 'x' of the model "
        "has as many; 'out': they are outputs of the model). Choose other layers, or another structure than "
        "units."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        structured().unit_groups(model, ALL)


def test_layers_left_out_keep_their_units(keras: Any) -> None:
    model = mlp(keras)  # 48, 40 and 10 weights

    def names(**settings: Any) -> list[str]:
        return [
            group.name for group in structured().unit_groups(model, Layers(**({"min_weights": 1} | settings)))
        ]

    assert names() == ["first", "second"]
    assert names(exclude=("fi*",)) == ["second"]
    assert names(min_weights=48) == ["first"]
    assert names(skip_first=True) == ["second"]
    assert names(skip_last=True) == ["first", "second"]
    assert names(names=("first",)) == ["first"]


@pytest.mark.parametrize("line", ["tf_keras", "keras"])
def test_a_subclassed_model_is_refused(line: str) -> None:
    keras = importlib.import_module(line)

    class Mine(keras.Model):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__(name="mine")
            self.dense = keras.layers.Dense(2)

        def call(self, x: Any) -> Any:
            return self.dense(x)

    message = (
        "Units can be removed from a Sequential or functional model that is built; got Mine 'mine'. Build it "
        "from keras.Input, or prune weights or blocks."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        structured().shrink(Mine(), {})


def test_the_score_of_a_unit_is_the_sum_of_the_weights_that_make_it(keras: Any) -> None:
    given = keras.Input((2,), name="x")
    one = keras.layers.Dense(3, name="one")(given)
    two = keras.layers.Dense(3, use_bias=False, name="two")(given)
    model = keras.Model(given, keras.layers.Dense(2, name="out")(keras.layers.Add()([one, two])))
    groups = structured().unit_groups(model, ALL)
    saliency = {
        "one/kernel": np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]),
        "two/kernel": np.array([[0.1, 0.2, 0.3], [0.0, 0.0, 0.0]]),
        "out/kernel": np.full((3, 2), 1e6),
    }
    np.testing.assert_allclose(structured().unit_scores(model, groups, saliency)["one"], [11.1, 22.2, 33.3])
    saliency["one/bias"] = np.array([100.0, 0.0, 0.0])
    np.testing.assert_allclose(structured().unit_scores(model, groups, saliency)["one"], [111.1, 22.2, 33.3])
    smaller = structured().shrink(model, {"one": [0, 2]})
    left = {name: values[..., [0, 2]] for name, values in saliency.items() if name != "out/kernel"}
    np.testing.assert_allclose(structured().unit_scores(smaller, groups, left)["one"], [111.1, 33.3])


def test_the_score_of_a_recurrent_unit_takes_all_its_gates(keras: Any) -> None:
    model = recurrent(keras)
    groups = structured().unit_groups(model, ALL)
    values = dict(named(model))
    saliency = {name: np.ones_like(value) for name, value in values.items()}
    scores = structured().unit_scores(model, groups, saliency)
    assert scores["lstm"].tolist() == [4 * (5 + 4 + 1)] * 4
    assert scores["gru"].tolist() == [3 * (4 + 5 + 2)] * 5
    assert scores["embedding"].tolist() == [10] * 6


@pytest.mark.parametrize(
    ("saliency", "message"),
    [
        ({"out/kernel": np.ones((4, 2))}, "Saliency must have a weight of 'first'; got 'out/kernel'."),
        (
            {"first/kernel": np.ones((4, 3))},
            "Saliency of 'first/kernel' must have its shape (3, 4); got (4, 3).",
        ),
    ],
)
def test_saliency_of_other_weights_is_refused(keras: Any, saliency: Any, message: str) -> None:
    given = keras.Input((3,), name="x")
    x = keras.layers.Dense(4, name="first")(given)
    model = keras.Model(given, keras.layers.Dense(2, name="out")(x))
    with pytest.raises(ConfigError, match=re.escape(message)):
        structured().unit_scores(model, structured().unit_groups(model, ALL), saliency)


def test_a_layer_that_cannot_be_made_again_is_refused_by_name(keras: Any) -> None:
    class Mine(keras.layers.Layer):  # type: ignore[misc, name-defined]
        def __init__(self, function: Any) -> None:
            super().__init__(name="mine")
            self.function = function

        def call(self, x: Any) -> Any:
            return self.function(x)

    given = keras.Input((6,), name="x")
    x = Mine(abs)(keras.layers.Dense(4, name="first")(given))
    model = keras.Model(given, keras.layers.Dense(2, name="out")(x))
    with pytest.raises(
        ConfigError,
        match=r"(?s)^Layer 'mine' \(Mine\) must be one that can be made from its settings; got: .* Give it "
        r"a get_config\(\), and register functions with register_keras_serializable\.$",
    ):
        structured().shrink(model, {})


def test_a_graph_whose_call_is_another_is_refused(keras: Any) -> None:
    class Twice(keras.Model):  # type: ignore[misc, name-defined]
        def call(self, x: Any, training: Any = None) -> Any:
            return 2 * super().call(x)

    given = keras.Input((6,), name="x")
    model = Twice(given, keras.layers.Dense(2)(given), name="twice")
    message = (
        "Units can be removed from a Sequential or functional model that is built; got Twice 'twice'. Build "
        "it from keras.Input, or prune weights or blocks."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        structured().shrink(model, {})


def test_a_class_of_the_author_has_no_rule_whatever_its_name(keras: Any) -> None:
    class Dense(keras.layers.Dense):  # type: ignore[misc, name-defined]
        def call(self, x: Any) -> Any:
            return super().call(x[:, ::-1])

    given = keras.Input((6,), name="x")
    x = Dense(4, name="second")(keras.layers.Dense(4, name="first")(given))
    model = keras.Model(given, keras.layers.Dense(2, name="out")(x))
    message = (
        "got none ('first': layer 'second' (Dense) needs all of them; 'second': layer 'second' (Dense) needs "
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        structured().unit_groups(model, ALL)


def test_units_shared_with_a_layer_left_out_stay(keras: Any) -> None:
    groups = structured().unit_groups(residual(keras), Layers(exclude=("back",), min_weights=1))
    assert [group.name for group in groups] == ["inner"]
