"""Quantisation-aware training with tfmot: the int8 file computes it; zeros, clusters and names are kept."""

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.pruning_trainer.config import Clustering, Layers, QuantizationAware

pytestmark = pytest.mark.pipeline

PRESERVED = {"qat": (False, False), "pqat": (True, False), "cqat": (False, True), "pcqat": (True, True)}
NUM_CLUSTERS = 6


def _net() -> Any:
    """Returns a net with dict inputs, a folded batch norm, ReLU layers, and what tfmot does not know."""
    import tf_keras
    from tf_keras import layers

    tf_keras.utils.set_random_seed(1)
    image = layers.Input((6, 6, 1), name="image")
    miles = layers.Input((1,), name="miles")
    company = layers.Input((1,), dtype="int64", name="company")
    seen = layers.Conv2D(6, 3, use_bias=False, name="conv")(image)
    seen = layers.ReLU(name="conv_relu")(layers.BatchNormalization(name="norm")(seen))
    seen = layers.Dense(12, activation="relu", name="seen")(layers.Flatten(name="flat")(seen))
    known = layers.Flatten(name="company_flat")(layers.Embedding(5, 4, name="company_embedded")(company))
    both = layers.Concatenate(name="both")([seen, miles, known])
    both = layers.ReLU(name="hidden_relu")(layers.Dense(20, name="hidden")(both))
    both = layers.Dropout(0.1, name="drop")(both)
    return tf_keras.Model(
        {"image": image, "miles": miles, "company": company}, layers.Dense(1, name="fare")(both), name="net"
    )


def _rows() -> tuple[dict[str, Any], Any]:
    draw = np.random.default_rng(3)
    features = {
        "image": draw.random((96, 6, 6, 1)).astype(np.float32),
        "miles": draw.gamma(2.0, 2.0, (96, 1)).astype(np.float32),
        "company": draw.integers(0, 5, (96, 1)),
    }
    fare = 3 + 4 * features["miles"] + 5 * features["image"].mean((1, 2)) + features["company"]
    return features, fare.astype(np.float32)  # up to 60: ten times what tfmot's first ranges hold


def _fit(model: Any, epochs: int, rate: float = 1e-3) -> Any:
    import tf_keras

    model.compile(tf_keras.optimizers.Adam(rate), {"fare": "mse"})
    features, fare = _rows()
    model.fit(features, fare, batch_size=16, epochs=epochs, verbose=0)
    return model


def _sparse(model: Any) -> Any:
    """Returns a copy in which the kernels of three layers have half zeros, one of them kept in float."""
    from tfx_mobile.pruning_trainer import keras_line, selection

    copy = keras_line.clone(model)
    for weight in selection.every_weight(copy):
        if weight.name.split("/")[0] in ("conv", "hidden", "company_embedded"):
            array = weight.variable.numpy()
            weight.variable.assign(array * (np.abs(array) > np.median(np.abs(array))))
    return copy


def _clustered(model: Any) -> Any:
    from tfx_mobile.pruning_trainer import keras_clustering

    config = Clustering(number_of_clusters=NUM_CLUSTERS, layers=Layers(min_weights=1))
    return keras_clustering.strip(keras_clustering.cluster(model, config, seed=1))


@pytest.fixture(scope="module")
def trained() -> dict[str, tuple[Any, Any]]:
    """By kind, the model before and the trained one, stripped."""
    from tfx_mobile.pruning_trainer import keras_quantization

    dense = _fit(_net(), 25, 1e-2)
    sparse = _sparse(dense)
    before = {"qat": dense, "pqat": sparse, "cqat": _clustered(dense), "pcqat": _clustered(sparse)}
    made = {}
    for kind, (sparsity, clusters) in PRESERVED.items():
        model = keras_quantization.quantization_aware(
            before[kind], QuantizationAware(), preserve_sparsity=sparsity, preserve_clusters=clusters
        )
        keras_quantization.calibrate(model, [_rows()[0]])
        _fit(model, 2)
        made[kind] = before[kind], keras_quantization.strip(model)
    return made


def _int8_file(model: Any) -> bytes:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return bytes(converter.convert())


def _interpreter(content: bytes) -> Any:
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_content=content, experimental_preserve_all_tensors=True)
    features, _ = _rows()
    for detail in interpreter.get_input_details():
        name = detail["name"].removeprefix("serving_default_").partition(":")[0]
        interpreter.resize_tensor_input(detail["index"], features[name].shape)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        name = detail["name"].removeprefix("serving_default_").partition(":")[0]
        interpreter.set_tensor(detail["index"], features[name])
    interpreter.invoke()
    return interpreter


def _int8_kernels(interpreter: Any) -> dict[tuple[int, ...], Any]:
    """Returns the int8 constants of two or more axes by shape; the batch of 96 tells activations."""
    return {
        tuple(detail["shape"].tolist()): interpreter.get_tensor(detail["index"])
        for detail in interpreter.get_tensor_details()
        if detail["dtype"] is np.int8 and len(detail["shape"]) > 1 and detail["shape"][0] != 96
    }


@pytest.mark.parametrize("kind", PRESERVED)
def test_the_int8_file_holds_the_effective_kernels_and_computes_what_the_model_does(
    trained: Any, kind: str
) -> None:
    from tfx_mobile.pruning_trainer import keras_quantization

    _, model = trained[kind]
    interpreter = _interpreter(_int8_file(model))
    found = _int8_kernels(interpreter)
    kernels = keras_quantization.effective_kernels(model)
    for name, axes, shape in (
        ("conv/kernel", (3, 0, 1, 2), (6, 3, 3, 1)),
        ("seen/kernel", (1, 0), (12, 96)),
        ("hidden/kernel", (1, 0), (20, 17)),
        ("fare/kernel", (1, 0), (1, 20)),
    ):
        ours = kernels[name].transpose(axes)
        np.testing.assert_array_equal(ours == 0, found[shape] == 0)
        assert len(np.unique(ours[0])) == len(np.unique(found[shape][0]))
        assert np.corrcoef(ours[0].ravel(), found[shape][0].ravel())[0, 1] > 0.9999
    features, _ = _rows()
    expected = model(features, training=False).numpy()
    got = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    ranges = {
        w.name: float(w.numpy()) for w in model.get_layer("fare").weights if "post_activation" in w.name
    }
    step = (ranges["fare/post_activation_max:0"] - ranges["fare/post_activation_min:0"]) / 255
    assert expected.max() > 15
    assert np.abs(got - expected).max() <= 2.01 * step


@pytest.mark.parametrize("kind", PRESERVED)
def test_zeros_and_clusters_survive_a_fit_with_adam(trained: Any, kind: str) -> None:
    from tfx_mobile.pruning_trainer import keras_quantization

    before, model = trained[kind]
    sparsity, clusters = PRESERVED[kind]
    counts = keras_quantization.check_kept(
        model, before, preserve_sparsity=sparsity, preserve_clusters=clusters
    )
    by_name = {count.weight: count for count in counts}
    assert list(by_name) == list(keras_quantization.effective_kernels(model))
    assert "hidden/kernel" in by_name
    if sparsity:
        for name in ("conv/kernel", "hidden/kernel", "company_embedded/embeddings"):
            assert by_name[name].num_zeros >= by_name[name].num_weights // 2
    if clusters:
        assert max(count.num_values for count in counts) <= NUM_CLUSTERS
    else:
        assert by_name["seen/kernel"].num_values > 100
    changed = (
        keras_quantization.effective_kernels(model)["hidden/kernel"] != before.get_layer("hidden").kernel
    )
    assert changed.numpy().mean() > 0.1


def test_names_of_layers_inputs_and_outputs_survive(trained: Any) -> None:
    before, model = trained["pqat"]
    assert (model.input_names, model.output_names) == (before.input_names, before.output_names)
    assert {layer.name for layer in before.layers} <= {layer.name for layer in model.layers}
    assert set(model.input) == {"image", "miles", "company"}


def test_a_calibrated_model_is_close_before_any_step_where_tfmots_ranges_clip() -> None:
    from tfx_mobile.pruning_trainer import keras_quantization

    dense = _fit(_net(), 15, 1e-2)
    features, _ = _rows()
    expected = dense(features, training=False).numpy()
    model = keras_quantization.quantization_aware(dense, QuantizationAware())
    assert model(features, training=False).numpy().max() <= 6.1 < expected.max()
    others = [v.numpy() for v in model.weights if not v.name.endswith(("_min:0", "_max:0"))]
    keras_quantization.calibrate(model, [features, features])
    assert np.abs(model(features, training=False).numpy() - expected).mean() < 0.02 * expected.max()
    now = [v.numpy() for v in model.weights if not v.name.endswith(("_min:0", "_max:0"))]
    for old, new in zip(others, now, strict=True):  # the batch norm's moments, too
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "folder"])
def test_a_saved_model_loads_by_itself_and_computes_the_same(trained: Any, name: str, tmp_path: Path) -> None:
    from tfx_mobile.pruning_trainer import keras_quantization

    _, model = trained["pcqat"]
    model.save(tmp_path / name, **({"save_format": "tf"} if name == "folder" else {}))
    loaded = keras_quantization.load(tmp_path / name)
    features, _ = _rows()
    np.testing.assert_array_equal(loaded(features, training=False), model(features, training=False))
    ours, theirs = (keras_quantization.effective_kernels(one) for one in (model, loaded))
    assert list(ours) == list(theirs)
    for kernel in ours:
        np.testing.assert_array_equal(ours[kernel], theirs[kernel])


def test_a_killed_training_resumes_in_a_rebuilt_model(trained: Any) -> None:
    import tf_keras

    from tfx_mobile.pruning_trainer import keras_quantization

    before, _ = trained["pcqat"]
    features, fare = _rows()
    first, second = (
        keras_quantization.quantization_aware(
            before, QuantizationAware(), preserve_sparsity=True, preserve_clusters=True
        )
        for _ in range(2)
    )
    for model in (first, second):
        model.get_layer("drop").layer.rate = 0.0  # draws from a state that a checkpoint has elsewhere
    keras_quantization.calibrate(first, [features])
    first.compile(tf_keras.optimizers.SGD(1e-4), "mse")  # has no state of its own
    first.fit(features, fare, epochs=1, shuffle=False, verbose=0)
    second.set_weights(first.get_weights())
    for model in (first, second):
        model.compile(tf_keras.optimizers.SGD(1e-4), "mse")
        model.fit(features, fare, epochs=1, shuffle=False, verbose=0)
    for one, other in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_keeping_zeros_gives_the_weights_that_tfmots_own_scheme_gives() -> None:
    import tensorflow_model_optimization as tfmot
    import tf_keras
    from tf_keras import layers

    from tfx_mobile.pruning_trainer import keras_quantization

    tf_keras.utils.set_random_seed(1)
    model = tf_keras.Sequential(
        [layers.Dense(12, "relu", input_shape=(8,), name="hidden"), layers.Dense(1, name="out")]
    )
    kernel = model.get_layer("hidden").kernel
    kernel.assign(kernel * (np.random.default_rng(1).random(kernel.shape) < 0.3))
    keras = tfmot.quantization.keras
    theirs = keras.quantize_apply(
        keras.quantize_annotate_model(model), keras.collab_opts.Default8BitPrunePreserveQuantizeScheme()
    )
    ours = keras_quantization.quantization_aware(model, QuantizationAware(), preserve_sparsity=True)
    rows = np.random.default_rng(2).random((64, 8))
    for one in (ours, theirs):
        one.compile(tf_keras.optimizers.Adam(1e-2), "mse")
        one.fit(rows, rows.sum(1), epochs=3, shuffle=False, verbose=0)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_what_tfmot_cannot_quantise_is_left_in_float_with_a_line(caplog: pytest.LogCaptureFixture) -> None:
    import tf_keras
    from tf_keras import layers

    from tfx_mobile.pruning_trainer import keras_quantization

    tf_keras.utils.set_random_seed(1)
    given = layers.Input((4, 3), name="x")
    read = layers.LSTM(4, name="read")(layers.Normalization(mean=0.0, variance=1.0, name="scaled")(given))
    shared = layers.Dense(4, name="shared")
    twice = layers.Multiply(name="product")([shared(read), shared(shared(read))])
    inner = tf_keras.Sequential([layers.Dense(4, input_shape=(4,), name="inside")], name="inner")
    soft = layers.Dense(4, activation="elu", name="soft")(inner(twice))
    model = tf_keras.Model(given, layers.Dense(1, name="out")(soft))
    with caplog.at_level(logging.INFO, logger="absl"):
        made = keras_quantization.quantization_aware(model, QuantizationAware())
    assert (
        "Left in float, for tfmot cannot quantise: scaled (Normalization), read (LSTM), shared (Dense), "
        "product (Multiply), inner (a model inside the model), soft (Dense)." in caplog.messages
    )
    wrapped = [layer.name for layer in made.layers if hasattr(layer, "quantize_config")]
    assert wrapped == ["out"]
    rows = np.random.default_rng(1).random((8, 4, 3)).astype(np.float32)
    keras_quantization.calibrate(made, [rows])
    np.testing.assert_allclose(made(rows), model(rows), atol=0.05)
    message = (
        "tfmot must be able to quantise a layer; it cannot quantise read (LSTM). Take it out of `layers`, or "
        "name a QuantizeConfig for it in `quantize_configs`."
    )
    config = QuantizationAware(layers=Layers(names=("out", "read"), min_weights=1))
    with pytest.raises(ConfigError, match=re.escape(message)):
        keras_quantization.quantization_aware(model, config)
    message = (
        "The model must have a layer to quantise with at least 256 weights; got x, scaled, read, shared, "
        "product, inner, soft, out. Lower min_weights, or choose other layers."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        keras_quantization.quantization_aware(model, QuantizationAware(layers=Layers(names=("out",))))


def test_only_the_layers_that_are_meant_are_quantised() -> None:
    from tfx_mobile.pruning_trainer import keras_quantization

    config = QuantizationAware(layers=Layers(types=("Dense",), skip_last=True))
    model = keras_quantization.quantization_aware(_net(), config)
    ranges = {weight.name for weight in model.weights if weight.name.endswith("kernel_min:0")}
    assert ranges == {"seen/kernel_min:0", "hidden/kernel_min:0"}


def test_a_custom_layer_is_quantised_as_its_config_says() -> None:
    import tf_keras

    from tfx_mobile.pruning_trainer import keras_quantization

    model = tf_keras.Sequential(
        [tf_keras.layers.Dense(6, activation="elu", input_shape=(4,), name="own"), tf_keras.layers.Dense(1)]
    )
    config = QuantizationAware(quantize_configs={"ow*": "quantize_configs.FourBits"})
    made = keras_quantization.quantization_aware(model, config)
    keras_quantization.calibrate(made, [np.ones((2, 4), np.float32)])
    assert len(np.unique(keras_quantization.effective_kernels(made)["own/kernel"])) <= 15  # 4 bits, symmetric


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        ({"hiden": "quantize_configs.FourBits"}, "Pattern 'hiden' must match a layer; did you mean 'hidden'"),
        (
            {"hidden": "quantize_configs.Missing"},
            "quantize_configs must be importable; got 'quantize_configs.Missing' (module 'quantize_configs' "
            "has no attribute 'Missing').",
        ),
        (
            {"hidden": "collections.OrderedDict"},
            "'collections.OrderedDict' must make a tfmot.quantization.keras.QuantizeConfig; got OrderedDict.",
        ),
    ],
)
def test_a_wrong_quantize_config_is_refused(configs: dict[str, str], message: str) -> None:
    from tfx_mobile.pruning_trainer import keras_quantization

    with pytest.raises(ConfigError, match=re.escape(message)):
        keras_quantization.quantization_aware(_net(), QuantizationAware(quantize_configs=configs))


def test_lost_zeros_and_new_values_are_refused_with_the_table_of_all_layers(trained: Any) -> None:
    from tfx_mobile.pruning_trainer import keras_quantization

    before, _ = trained["pcqat"]
    _, dense = trained["qat"]
    counts = {count.weight: count for count in keras_quantization.count_kept(dense, before)}
    hidden = counts["hidden/kernel"]
    line = (
        f"  hidden/kernel                {hidden.num_zeros} zeros of 340, {hidden.num_lost_zeros} lost; "
        f"{hidden.num_values} values, {hidden.num_values_before} before  <- not kept\n"
    )
    assert hidden.num_lost_zeros > 100
    for sparsity, clusters in ((True, False), (False, True)):
        with pytest.raises(DataError, match=re.escape(line)) as caught:
            keras_quantization.check_kept(
                dense, before, preserve_sparsity=sparsity, preserve_clusters=clusters
            )
        assert str(caught.value).startswith("Quantised kernels must keep what the rung before had; got\n")
        assert str(caught.value).endswith(
            "\nA callback or constraint of the model writes to its kernels; "
            "leave these layers out of `layers`."
        )


def test_a_model_of_keras_3_is_refused_with_one_line() -> None:
    import keras

    from tfx_mobile.pruning_trainer import keras_quantization

    given = keras.Input((8,))
    model = keras.Model(given, keras.layers.Dense(4)(given))
    message = (
        "Quantisation-aware training must have a Keras 2 model (tf_keras), for tfmot takes no other; got "
        f"{type(model).__module__}.{type(model).__name__}. Build the model with `import tf_keras`, or "
        "leave this setting out."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        keras_quantization.quantization_aware(model, QuantizationAware())
