"""Which layers and weights are meant, in Keras 2 and Keras 3: names, near misses, refusals."""

import re
from typing import Any

import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.pruning_trainer.config import Layers
from tfx_mobile.pruning_trainer.selection import every_weight, select, select_layers

pytestmark = pytest.mark.pipeline

LINES = ("tf_keras", "keras")


def small(line: str) -> Any:
    """Returns a model with one layer of each sort that can be pruned, and some that cannot."""
    import importlib

    keras = importlib.import_module(line)
    layers = keras.layers
    words = keras.Input((6,), name="words")
    x = layers.Embedding(50, 8, name="embed")(words)
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True, name="cell"), name="both_ways")(x)
    x = layers.GRU(4, name="gru")(x)
    x = layers.Reshape((2, 2, 1), name="square")(x)
    x = layers.Conv2D(8, 2, name="conv")(x)
    x = layers.DepthwiseConv2D(1, depth_multiplier=2, name="depth")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Flatten(name="flat")(x)
    inner = keras.Sequential([layers.Input((16,)), layers.Dense(4, name="inner_dense")], name="inner")
    return keras.Model(words, layers.Dense(1, name="out")(inner(x)))


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """By Keras line."""
    return {line: small(line) for line in LINES}


@pytest.fixture(params=LINES)
def model(request: pytest.FixtureRequest, models: dict[str, Any]) -> Any:
    """The model of each line."""
    return models[request.param]


def names(model: Any, **layers: Any) -> list[str]:
    return [weight.layer.name for weight in select(model, Layers(**({"min_weights": 1} | layers)))]


def test_every_kernel_is_found_in_its_layer_and_none_twice(model: Any) -> None:
    found = names(model)
    assert found == [
        "embed",
        *["both_ways"] * 4,
        *["gru"] * 2,
        "conv",
        "depth",
        "inner_dense",
        "out",
    ]
    weights = every_weight(model)
    assert len({weight.name for weight in weights}) == len(weights) == len(found)


def test_biases_and_norms_are_never_pruned(model: Any) -> None:
    assert not [w.name for w in every_weight(model) if re.search("bias|gamma|beta|moving", w.name)]


def test_layers_are_chosen_by_pattern_type_and_size(model: Any) -> None:
    assert names(model, names=("*out", "conv")) == ["conv", "out"]
    assert names(model, types=("Dense",)) == ["inner_dense", "out"]
    assert names(model, exclude=("both*", "embed", "gru")) == ["conv", "depth", "inner_dense", "out"]
    assert names(model, min_weights=100) == ["embed", "both_ways", "both_ways"]


def test_the_ends_are_those_of_what_would_be_pruned(model: Any) -> None:
    assert names(model, types=("Dense", "Conv2D"), skip_first=True) == ["inner_dense", "out"]
    assert names(model, names=("conv", "depth", "out"), skip_last=True) == ["conv", "depth"]
    assert names(model, names=("gru", "out"), skip_first=True) == ["out"]


def test_a_predicate_sees_the_layers(model: Any) -> None:
    assert names(model, predicate="tiny_models.is_dense") == ["inner_dense", "out"]


def test_layers_that_cannot_be_pruned_can_be_chosen_for_other_ends(model: Any) -> None:
    assert [layer.name for layer in select_layers(model, Layers(names=("norm", "flat")))] == ["norm", "flat"]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (Layers(names=("convs",)), "Pattern 'convs' must match a layer; did you mean 'conv'."),
        (Layers(exclude=("embd*",)), "Pattern 'embd*' must match a layer; did you mean 'embed'."),
        (Layers(types=("Conv3D",)), "Type 'Conv3D' must be the class of a layer; did you mean 'Conv2D'"),
        (
            Layers(names=("norm",)),
            "Layer 'norm' (BatchNormalization) cannot be pruned: it has no kernel. Take it out of `names`, "
            "or give it a method get_prunable_weights(), as tfmot's PrunableLayer has.",
        ),
        (
            Layers(predicate="tiny_models.no_such_function"),
            "predicate must be an importable function; got 'tiny_models.no_such_function' (module "
            "'tiny_models' has no attribute 'no_such_function').",
        ),
        (
            Layers(min_weights=10**6),
            "The model must have a layer to prune with at least 1000000 weights; got words, embed, "
            "both_ways, gru, square, conv, depth, norm, flat, inner_dense, out. Lower min_weights, choose "
            "other layers, or ask for the dense model alone with sparsities=(0.0,).",
        ),
    ],
)
def test_a_choice_that_means_nothing_is_refused(models: dict[str, Any], layers: Layers, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        select(models["tf_keras"], layers)


def towers(line: str, user: str, item: str) -> Any:
    """Returns a model of two models with a layer each, of the given names."""
    import importlib

    keras = importlib.import_module(line)
    given = [keras.Input((16,), name=name) for name in ("a", "b")]
    outputs = []
    for tower, hidden, x in zip(("user", "item"), (user, item), given, strict=True):
        inner = keras.Input((16,))
        outputs.append(keras.Model(inner, keras.layers.Dense(20, name=hidden)(inner), name=tower)(x))
    return keras.Model(given, keras.layers.Dot(1)(outputs))


@pytest.mark.parametrize("line", LINES)
def test_layers_of_two_models_inside_the_model_are_both_pruned(line: str) -> None:
    model = towers(line, "user_hidden", "item_hidden")
    wanted = ["user_hidden/kernel", "item_hidden/kernel"]
    assert [weight.name for weight in select(model, Layers())] == wanted
    assert [weight.name for weight in every_weight(model)] == wanted


@pytest.mark.parametrize("line", LINES)
def test_weights_of_one_name_are_refused(line: str) -> None:
    model = towers(line, "hidden", "hidden")
    for choose in (every_weight, lambda model: select(model, Layers(names=("hidden",)))):
        with pytest.raises(
            ConfigError,
            match="^"
            + re.escape(
                "A weight to prune must have a name of its own, which masks and the ladder's tables go by; "
                "'hidden/kernel' (layer 'hidden') is the name of 2 weights. Give the layers different names, "
                "those of models inside the model included."
            )
            + "$",
        ):
            choose(model)


def test_a_name_that_a_weight_too_small_to_prune_has_as_well_is_refused() -> None:
    import tf_keras

    given = tf_keras.Input((16,))
    inner = tf_keras.Input((20,))
    small = tf_keras.Model(inner, tf_keras.layers.Dense(2, name="hidden")(inner), name="small")
    model = tf_keras.Model(given, small(tf_keras.layers.Dense(20, name="hidden")(given)))
    with pytest.raises(ConfigError, match=re.escape("'hidden/kernel' (layer 'hidden') is the name of 2 ")):
        select(model, Layers(min_weights=256))


def test_layers_of_one_name_are_both_pruned_where_keras_names_their_weights_apart() -> None:
    import keras

    given = [keras.Input((16,)) for _ in range(2)]
    towers = [
        keras.Sequential([keras.layers.Dense(20, name="hidden")], name=name)(x)
        for name, x in zip(("user", "item"), given, strict=True)
    ]
    weights = select(keras.Model(given, keras.layers.Dot(1)(towers)), Layers())
    assert [weight.name for weight in weights] == ["user/hidden/kernel", "item/hidden/kernel"]


def test_a_layer_that_two_models_share_is_pruned_once() -> None:
    import tf_keras

    shared = tf_keras.layers.Dense(16, name="hidden")
    x = given = tf_keras.Input((16,))
    for _ in range(2):
        inner = tf_keras.Input((16,))
        x = tf_keras.Model(inner, shared(inner))(x)
    assert [weight.name for weight in select(tf_keras.Model(given, x), Layers())] == ["hidden/kernel"]


def test_a_custom_layer_says_itself_what_can_be_pruned() -> None:
    import tf_keras
    from tiny_models import OneOfTwo

    given = tf_keras.Input((8,))
    model = tf_keras.Model(given, OneOfTwo(name="mine")(given))
    assert [weight.name for weight in every_weight(model)] == ["mine/second"]


def test_a_frozen_layer_is_not_pruned() -> None:
    model = small("tf_keras")
    model.get_layer("conv").trainable = False
    assert "conv" not in names(model)
