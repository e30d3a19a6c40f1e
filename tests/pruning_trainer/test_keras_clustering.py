"""Clustering with tfmot: few values, zeros kept, names kept, resumed after a kill."""

import logging
import re
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.pruning_trainer.config import CentroidInitialization, Clustering, Layers

pytestmark = pytest.mark.pipeline

SEVEN = Clustering(number_of_clusters=7, layers=Layers(min_weights=1))


def _net(*, sparse: bool = True) -> Any:
    """Returns a functional net with two named inputs, padding, and a kernel of each kind."""
    import tf_keras
    from tf_keras import layers

    tf_keras.utils.set_random_seed(1)
    words = layers.Input((5,), dtype="int32", name="words")
    image = layers.Input((6, 6, 2), name="image")
    read = layers.Embedding(12, 6, mask_zero=True, name="words_embedded")(words)
    read = layers.GRU(6, name="read")(read)
    seen = layers.Conv2D(6, 3, use_bias=False, name="conv")(image)
    seen = layers.BatchNormalization(name="norm")(seen)
    seen = layers.ReLU(name="relu")(seen)
    seen = layers.DepthwiseConv2D(3, name="depthwise")(seen)
    both = layers.Concatenate(name="both")([read, layers.Flatten(name="flat")(seen)])
    both = layers.Dropout(0.1, name="drop")(layers.Dense(10, activation="relu", name="hidden")(both))
    model = tf_keras.Model({"words": words, "image": image}, layers.Dense(1, name="score")(both), name="net")
    if sparse:
        draw = np.random.default_rng(2)
        for layer, name in (("conv", "kernel"), ("hidden", "kernel"), ("depthwise", "depthwise_kernel")):
            variable = getattr(model.get_layer(layer), name)
            variable.assign(variable * (draw.random(variable.shape) < 0.4))
    return model


def _sequential() -> Any:
    import tf_keras
    from tf_keras import layers

    tf_keras.utils.set_random_seed(1)
    return tf_keras.Sequential(
        [layers.Dense(9, "relu", input_shape=(8,), name="hidden"), layers.Dense(1, name="out")]
    )


def _rows() -> tuple[dict[str, Any], Any]:
    draw = np.random.default_rng(3)
    words = draw.integers(1, 12, (64, 5)).astype(np.int32)
    words[:, 3:] = 0  # padding
    image = draw.random((64, 6, 6, 2)).astype(np.float32)
    return {"words": words, "image": image}, image.mean((1, 2, 3))[:, None] * 4


def _fit(model: Any, epochs: int = 2) -> None:
    import tf_keras

    model.compile(tf_keras.optimizers.Adam(1e-2), {"score": "mse"})
    features, labels = _rows()
    model.fit(features, labels, batch_size=16, epochs=epochs, verbose=0, shuffle=False)


def _weights(model: Any) -> dict[str, Any]:
    return {weight.name.partition(":")[0]: weight.numpy() for weight in model.weights}


@pytest.fixture(autouse=True)
def weights_are_drawn_alike() -> None:
    """The same in each run, also in nets that say nothing of a seed."""
    import tf_keras

    tf_keras.utils.set_random_seed(1)


@pytest.fixture(scope="module")
def clustered() -> tuple[Any, Any, Any]:
    """The model before, the wrapped one after a fit, and what it is stripped to."""
    from tfx_mobile.pruning_trainer import keras_clustering

    before = _net()
    wrapped = keras_clustering.cluster(before, SEVEN, seed=1)
    _fit(wrapped)
    return before, wrapped, keras_clustering.strip(wrapped)


def test_every_kernel_that_tfmot_clusters_holds_at_most_so_many_values(clustered: Any) -> None:
    from tfx_mobile.pruning_trainer import keras_clustering

    before, _, after = clustered
    counts = {count.weight: count for count in keras_clustering.check_clusters(after, before, SEVEN)}
    assert set(counts) == {
        "words_embedded/embeddings",
        "read/gru_cell/kernel",
        "read/gru_cell/recurrent_kernel",
        "conv/kernel",
        "hidden/kernel",
        "score/kernel",
    }
    for name, count in counts.items():
        assert count.num_values == len(np.unique(_weights(after)[name])) <= 7


def test_zeros_stay_zeros_in_layers_that_are_clustered_and_in_others(clustered: Any) -> None:
    before, _, after = clustered
    for name in ("conv/kernel", "hidden/kernel", "depthwise/depthwise_kernel"):
        zeros = _weights(before)[name] == 0
        assert 0.4 < zeros.mean() < 0.8
        assert not _weights(after)[name][zeros].any()
    assert (
        _weights(after)["depthwise/depthwise_kernel"] != _weights(before)["depthwise/depthwise_kernel"]
    ).any()


def test_a_stripped_model_computes_what_the_wrapped_one_did_under_the_names_it_had(clustered: Any) -> None:
    import tf_keras

    before, wrapped, after = clustered
    features, _ = _rows()
    np.testing.assert_array_equal(wrapped(features, training=False), after(features, training=False))
    assert set(_weights(after)) == set(_weights(before))
    assert (after.input_names, after.output_names) == (before.input_names, before.output_names)
    assert [type(layer) for layer in after.layers] == [type(layer) for layer in before.layers]
    assert isinstance(after, tf_keras.Model)
    assert {id(weight) for weight in after.weights}.isdisjoint({id(weight) for weight in wrapped.weights})


def test_the_model_given_is_not_changed(clustered: Any) -> None:
    for then, now in zip(_net().get_weights(), clustered[0].get_weights(), strict=True):
        np.testing.assert_array_equal(then, now)
    assert clustered[0].get_layer("hidden").kernel is clustered[0].get_layer("hidden").weights[0]


def test_with_a_cluster_for_every_value_the_model_computes_the_same_padding_included() -> None:
    import tf_keras
    from tf_keras import layers

    from tfx_mobile.pruning_trainer import keras_clustering

    words = layers.Input((4,), name="words")
    read = layers.LSTM(3, name="read")(layers.Embedding(5, 2, mask_zero=True, name="embedded")(words))
    model = tf_keras.Model(words, read)
    for (
        variable
    ) in model.trainable_weights:  # three values each, far from each other: no clustering loses any
        variable.assign(np.resize([-0.5, 0.25, 1.0], variable.shape))
    config = Clustering(number_of_clusters=3, preserve_sparsity=False, layers=Layers(min_weights=1))
    wrapped = keras_clustering.cluster(model, config, seed=1)
    rows = np.array([[1, 2, 0, 0], [3, 4, 1, 2]])
    np.testing.assert_allclose(wrapped(rows), model(rows), rtol=1e-5)


@pytest.mark.parametrize("initialization", CentroidInitialization)
def test_the_same_seed_gives_the_same_centroids_and_a_killed_fit_resumes(initialization: Any) -> None:
    import tf_keras

    from tfx_mobile.pruning_trainer import keras_clustering

    config = Clustering(number_of_clusters=7, initialization=initialization, layers=Layers(min_weights=1))
    model = _sequential()
    first, second = (keras_clustering.cluster(model, config, seed=5) for _ in range(2))
    for one, other in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    rows = np.random.default_rng(1).random((32, 8))
    first.compile(tf_keras.optimizers.SGD(0.1), "mse")  # has no state of its own
    first.fit(rows, rows.sum(1), epochs=2, verbose=0)
    second.set_weights(first.get_weights())
    for model in (first, second):
        model.compile(tf_keras.optimizers.SGD(0.1), "mse")
        model.fit(rows, rows.sum(1), epochs=1, shuffle=False, verbose=0)
    stripped = [keras_clustering.strip(model).get_weights() for model in (first, second)]
    for one, other in zip(*stripped, strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_seed_gives_other_random_centroids() -> None:
    from tfx_mobile.pruning_trainer import keras_clustering

    config = Clustering(initialization=CentroidInitialization.RANDOM, layers=Layers(min_weights=1))
    model = _sequential()
    drawn = [
        _weights(keras_clustering.cluster(model, config, seed=seed))["hidden/cluster_centroids_kernel"]
        for seed in (1, 2)
    ]
    assert (drawn[0] != drawn[1]).all()


def test_a_kernel_of_fewer_weights_than_clusters_is_left_alone_and_its_zeros_are_kept() -> None:
    import tf_keras

    from tfx_mobile.pruning_trainer import keras_clustering

    model = tf_keras.Sequential(
        [tf_keras.layers.Dense(40, input_shape=(8,), name="wide"), tf_keras.layers.Dense(1, name="out")]
    )
    sparse = np.zeros((40, 1))
    sparse[:5] = 1.0  # 40 weights of which 5 are left: 6 values at most
    model.get_layer("out").kernel.assign(sparse)
    wrapped = keras_clustering.cluster(model, SEVEN, seed=1)
    assert [type(layer).__name__ for layer in wrapped.layers] == ["ClusterWeights", "Dense"]
    wrapped.compile("adam", "mse")
    rows = np.random.default_rng(1).random((32, 8))
    wrapped.fit(rows, rows.sum(1), verbose=0)
    after = keras_clustering.strip(wrapped)
    wide, out = keras_clustering.check_clusters(after, model, SEVEN)
    assert (wide.weight, out.weight) == ("wide/kernel", "out/kernel")
    assert 1 < out.num_values <= 6
    assert (out.num_zeros, out.num_lost_zeros) == (35, 0)


def test_a_kernel_with_few_weights_left_is_clustered_with_its_larger_neighbour() -> None:
    import tf_keras

    from tfx_mobile.pruning_trainer import keras_clustering

    model = tf_keras.Sequential([tf_keras.layers.LSTM(6, input_shape=(4, 3), name="read")])
    recurrent = model.get_layer("read").cell.recurrent_kernel
    recurrent.assign(np.eye(6, 24) * [[1.0]] * 2)  # 6 weights left, 7 clusters: k-means++ would fail
    wrapped = keras_clustering.cluster(model, SEVEN, seed=1)
    after = keras_clustering.strip(wrapped)
    counts = keras_clustering.check_clusters(after, model, SEVEN)
    assert [1 < count.num_values <= 7 for count in counts] == [True, True]
    assert counts[1].num_zeros == 6 * 24 - 6


def test_a_model_inside_the_model_is_clustered() -> None:
    import tf_keras
    from tf_keras import layers

    from tfx_mobile.pruning_trainer import keras_clustering

    inner = tf_keras.Sequential([layers.Dense(9, input_shape=(8,), name="inside")], name="inner")
    given = layers.Input((8,), name="x")
    model = tf_keras.Model(given, layers.Dense(1, name="out")(inner(given)))
    wrapped = keras_clustering.cluster(model, SEVEN, seed=1)
    after = keras_clustering.strip(wrapped)
    counts = {
        count.weight: count.num_values for count in keras_clustering.check_clusters(after, model, SEVEN)
    }
    assert counts["inside/kernel"] == 7


def test_a_layer_of_ones_own_is_clustered_when_it_says_so() -> None:
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    import tf_keras

    from tfx_mobile.pruning_trainer import keras_clustering

    class Scaled(tf_keras.layers.Dense, tfmot.clustering.keras.ClusterableLayer):  # type: ignore[misc]
        def get_clusterable_weights(self) -> list[tuple[str, Any]]:
            return [("kernel", self.kernel)]

        def call(self, inputs: Any) -> Any:
            return 2.0 * tf.matmul(inputs, self.kernel)

    model = tf_keras.Sequential([Scaled(9, input_shape=(8,), name="own")])
    after = keras_clustering.strip(keras_clustering.cluster(model, SEVEN, seed=1))
    assert keras_clustering.check_clusters(after, model, SEVEN)[0].num_values == 7


def test_what_tfmot_cannot_cluster_is_left_out_with_a_line_and_refused_by_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    import tf_keras

    from tfx_mobile.pruning_trainer import keras_clustering

    model = tf_keras.Sequential(
        [
            tf_keras.layers.DepthwiseConv2D(3, input_shape=(4, 4, 3), name="depthwise"),
            tf_keras.layers.Conv2D(4, 2, name="conv"),
        ]
    )
    with caplog.at_level(logging.INFO, logger="absl"):
        keras_clustering.cluster(model, SEVEN, seed=1)
    assert "Not clustered, for tfmot cannot: depthwise (DepthwiseConv2D)." in caplog.messages
    message = (
        "tfmot must be able to cluster a layer; it cannot cluster depthwise (DepthwiseConv2D). Take it "
        "out of `layers`, or make it a tfmot.clustering.keras.ClusterableLayer."
    )
    named = Clustering(layers=Layers(names=("conv", "depth*"), min_weights=1))
    with pytest.raises(ConfigError, match=re.escape(message)):
        keras_clustering.cluster(model, named, seed=1)


def test_too_many_values_or_lost_zeros_are_refused_with_the_table_of_all_layers(clustered: Any) -> None:
    from tfx_mobile.pruning_trainer import keras_clustering

    before, _, after = clustered
    config = Clustering(number_of_clusters=7, layers=Layers(names=("hidden", "score"), min_weights=1))
    spoilt = keras_clustering.strip(after)
    hidden = spoilt.get_layer("hidden").kernel
    zeros = np.flatnonzero(_weights(before)["hidden/kernel"] == 0)
    array = hidden.numpy()
    array.flat[zeros[0]] = np.unique(array)[0]  # a value it has already, where a zero was
    hidden.assign(array)
    count = len(np.unique(array))
    message = (
        "Clustered kernels must hold at most 7 distinct values, with the zeros they had; got\n"
        f"  hidden/kernel  {count} values, {(array == 0).sum()} zeros of {array.size}, 1 zeros lost"
        "  <- not kept\n"
        "  score/kernel   7 values, 0 zeros of 10, 0 zeros lost\n"
        "A callback or constraint of the model writes to its kernels; leave these layers out of `layers`."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        keras_clustering.check_clusters(spoilt, before, config)
    array.flat[zeros[0]] = 0
    spread = array + np.where(array == 0, 0, np.random.default_rng(1).random(array.shape) / 100)
    hidden.assign(spread)
    with pytest.raises(DataError, match=r"hidden/kernel  \d\d+ values, .* 0 zeros lost  <- not kept\n"):
        keras_clustering.check_clusters(spoilt, before, config)


def test_a_model_of_keras_3_is_refused_with_one_line() -> None:
    import keras

    from tfx_mobile.pruning_trainer import keras_clustering

    given = keras.Input((8,))
    model = keras.Model(given, keras.layers.Dense(40)(given))
    message = (
        "Weight clustering must have a Keras 2 model (tf_keras), for tfmot takes no other; got "
        f"{type(model).__module__}.{type(model).__name__}. Build the model with `import tf_keras`, or "
        "leave this setting out."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        keras_clustering.cluster(model, Clustering(), seed=1)


def test_a_subclassed_model_is_refused_with_one_line() -> None:
    import tf_keras

    from tfx_mobile.pruning_trainer import keras_clustering

    class Own(tf_keras.Model):  # type: ignore[misc]
        pass

    message = (
        "Weight clustering must have a Sequential or functional model, whose layers can be wrapped; got the "
        "subclassed Own. Build it as tf_keras.Model(inputs, outputs), or leave this setting out."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        keras_clustering.cluster(Own(), Clustering(), seed=1)
