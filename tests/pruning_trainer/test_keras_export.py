"""A rung on disk: what a server, the Quantizer and either Keras find there."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.common.interpreter import TFLiteModel
from tfx_mobile.common.ladder import KERAS_FILE, MODEL_SIGNATURE, ONE_ROW_SIGNATURE
from tfx_mobile.pruning_trainer.config import QuantizationAware

pytestmark = pytest.mark.pipeline

LINES = ("tf_keras", "keras")
ROWS = 50

SERVE = """
import sys
import numpy as np
import tensorflow as tf

given = np.load(sys.argv[2], allow_pickle=True)
loaded = tf.saved_model.load(sys.argv[1])
rows = [tf.constant(text) for text in given["examples"].tolist()]
made = loaded.signatures["serving_default"](examples=tf.stack(rows))
features = {name: tf.constant(given[name]) for name in given.files if name != "examples"}
same = loaded.signatures["transformed"](**features)
np.savez(sys.argv[3], served=made["predictions"], transformed=same["predictions"])
"""


def line(name: str) -> Any:
    """Returns a Keras line that draws the same weights in each run."""
    import importlib

    keras = importlib.import_module(name)
    keras.utils.set_random_seed(5)
    return keras


def trips_model(name: str) -> Any:
    """Returns a compiled net of a Keras line on transformed trips: numbers, and a company's embedding."""
    keras = line(name)
    given = {
        "company_id": keras.Input((1,), dtype="int64", name="company_id"),
        "date_z": keras.Input((1,), name="date_z"),
        "miles_z": keras.Input((1,), name="miles_z"),
    }
    company = keras.layers.Flatten()(keras.layers.Embedding(5, 2, name="company")(given["company_id"]))
    hidden = keras.layers.Concatenate()([given["date_z"], given["miles_z"], company])
    hidden = keras.layers.Dense(8, activation="tanh", name="hidden")(hidden)
    hidden = keras.layers.Dropout(0.5)(hidden)
    model = keras.Model(given, keras.layers.Dense(1, name="fare")(hidden))
    model.compile("sgd", "mse")
    return model


@pytest.fixture(scope="module", params=LINES)
def saved(request: pytest.FixtureRequest, trips: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model of a Keras line, its folder, inputs and predictions."""
    import tensorflow_transform as tft

    from tfx_mobile.pruning_trainer import keras_export

    model = trips_model(request.param)
    folder = tmp_path_factory.mktemp(request.param) / "s0"
    keras_export.save(model, tft.TFTransformOutput(str(trips.graph_folder)), "fare", str(folder))
    inputs = {name: trips.transformed[name][:ROWS] for name in ("company_id", "date_z", "miles_z")}
    return model, folder, inputs, model.predict(inputs, verbose=0)


def raw_examples(trips: Any) -> list[bytes]:
    import tensorflow as tf

    (path,) = (trips.raw_folder / "Split-eval").iterdir()
    rows = tf.data.TFRecordDataset([str(path)], "GZIP").take(ROWS).as_numpy_iterator()
    found = [tf.train.Example.FromString(row) for row in rows]
    for example in found:
        del example.features.feature["fare"]
    return [example.SerializeToString() for example in found]


def test_a_server_that_knows_only_tensorflow_agrees_with_keras(
    saved: Any, trips: Any, tmp_path: Path
) -> None:
    _, folder, inputs, wanted = saved
    np.savez(tmp_path / "in.npz", examples=np.array(raw_examples(trips), object), **inputs)
    done = subprocess.run(
        [sys.executable, "-c", SERVE, str(folder), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    made = np.load(tmp_path / "out.npz")
    assert np.ptp(wanted) > 0.1
    # the same float32 graph, fused once more
    np.testing.assert_allclose(made["served"], wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(made["transformed"], wanted, rtol=1e-5, atol=1e-6)


def test_the_keras_model_comes_back_in_its_own_line_compiled_and_with_its_weights(saved: Any) -> None:
    from tfx_mobile.pruning_trainer import keras_export

    model, folder, inputs, wanted = saved
    found = keras_export.load_model(str(folder))
    assert type(found) is type(model)
    assert found.optimizer is not None
    for one, other in zip(found.weights, model.weights, strict=True):
        np.testing.assert_array_equal(np.array(one), np.array(other))
    np.testing.assert_allclose(found.predict(inputs, verbose=0), wanted, rtol=1e-6, atol=1e-6)


def test_the_model_is_as_it_was_after_saving(saved: Any) -> None:
    model, *_ = saved
    assert not hasattr(model, "transform_layer")
    assert {weight.shape[0] for weight in model.weights} == {5, 4, 8, 1}


def test_a_rung_converts_without_its_keras(saved: Any) -> None:
    from tfx_mobile.pruning_trainer import keras_export

    _, folder, inputs, wanted = saved
    found = TFLiteModel(keras_export.float32_tflite(str(folder)))
    assert set(found.inputs) == set(inputs)
    np.testing.assert_allclose(found.predict(inputs), wanted, rtol=1e-5, atol=1e-5)


def test_a_keras_2_rung_without_its_keras_file_still_loads(saved: Any, tmp_path: Path) -> None:
    import shutil

    import tf_keras

    from tfx_mobile.pruning_trainer import keras_export

    model, folder, inputs, wanted = saved
    copy = tmp_path / "s0"
    shutil.copytree(folder, copy)
    (copy / KERAS_FILE).unlink()
    if isinstance(model, tf_keras.Model):
        found = keras_export.load_model(str(copy))
        np.testing.assert_allclose(found.predict(inputs, verbose=0), wanted, rtol=1e-6, atol=1e-6)
    else:
        message = (
            f"A SavedModel must have been written by Keras 2, or have {KERAS_FILE} beside it, to be trained "
            f"on; got one without its metadata in {copy}. Save the model as {KERAS_FILE} in that folder."
        )
        with pytest.raises(DataError, match=re.escape(message)):
            keras_export.load_model(str(copy))


@pytest.mark.parametrize("name", LINES)
def test_outputs_of_several_heads_have_their_names_and_inputs_any_structure(
    name: str, tmp_path: Path
) -> None:
    import tensorflow as tf

    from tfx_mobile.pruning_trainer import keras_export

    keras = line(name)
    given = [keras.Input((2,), name="b"), keras.Input((2,), name="a")]
    heads = [keras.layers.Dense(1, name="tip")(given[0]), keras.layers.Dense(1, name="fare")(given[1])]
    model = keras.Model(given, heads)
    keras_export.save(model, None, "", str(tmp_path / "m"))
    rows = {"a": np.ones((3, 2), np.float32), "b": np.full((3, 2), 2.0, np.float32)}
    wanted = model.predict([rows["b"], rows["a"]], verbose=0)
    signatures = tf.saved_model.load(str(tmp_path / "m")).signatures
    for signature in ("serving_default", MODEL_SIGNATURE):
        made = signatures[signature](**{key: tf.constant(value) for key, value in rows.items()})
        assert set(made) == {"tip", "fare"}
        np.testing.assert_allclose(made["tip"], wanted[0], rtol=1e-6)
        np.testing.assert_allclose(made["fare"], wanted[1], rtol=1e-6)


@pytest.mark.parametrize("name", LINES)
def test_a_recurrent_rung_converts_for_one_row(name: str, tmp_path: Path) -> None:
    import tensorflow as tf

    from tfx_mobile.pruning_trainer import keras_export

    keras = line(name)
    given = keras.Input((4, 3), name="x")
    model = keras.Model({"x": given}, keras.layers.Dense(1)(keras.layers.GRU(6, name="gru")(given)))
    keras_export.save(model, None, "", str(tmp_path / "m"))
    assert ONE_ROW_SIGNATURE in tf.saved_model.load(str(tmp_path / "m")).signatures
    row = {"x": np.linspace(-1, 1, 12, dtype=np.float32).reshape(1, 4, 3)}
    made = TFLiteModel(keras_export.float32_tflite(str(tmp_path / "m"))).predict(row)
    np.testing.assert_allclose(made, model.predict(row, verbose=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LINES)
def test_a_table_inside_the_model_is_saved_with_it(name: str, tmp_path: Path) -> None:
    import tensorflow as tf

    from tfx_mobile.pruning_trainer import keras_export

    keras = line(name)
    given = keras.Input((1,), dtype="string", name="company")
    index = keras.layers.StringLookup(vocabulary=["Flash", "Sun"], output_mode="one_hot")(given)
    model = keras.Model({"company": given}, keras.layers.Dense(1)(index))
    keras_export.save(model, None, "", str(tmp_path / "m"))
    rows = tf.constant([["Sun"], ["Nobody"]])
    made = tf.saved_model.load(str(tmp_path / "m")).signatures[MODEL_SIGNATURE](company=rows)
    np.testing.assert_allclose(made["predictions"], model({"company": rows}), rtol=1e-6)


def sparse_model() -> Any:
    import tf_keras

    given = tf_keras.Input((3,), sparse=True, name="words")
    return tf_keras.Model({"words": given}, tf_keras.layers.Dense(1)(given))


def sparse_graph(folder: Path) -> Any:
    """Returns the output of a Transform that passes numbers of varying count on."""
    import tensorflow as tf
    import tensorflow_transform as tft
    import tensorflow_transform.beam as tft_beam
    from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io

    spec = {"words": tf.io.VarLenFeature(tf.float32), "label": tf.io.FixedLenFeature([1], tf.float32)}
    metadata = dataset_metadata.DatasetMetadata.from_feature_spec(spec)
    metadata_io.write_metadata(metadata, str(folder / tft.TFTransformOutput.RAW_METADATA_DIR))
    rows = [{"words": [1.0], "label": [0.0]}]
    with tft_beam.Context(temp_dir=str(folder / "beam")):
        _, transform_fn = (rows, metadata) | tft_beam.AnalyzeAndTransformDataset(lambda inputs: dict(inputs))
        _ = transform_fn | tft_beam.WriteTransformFn(str(folder))
    return tft.TFTransformOutput(str(folder))


@pytest.mark.parametrize("name", LINES)
def test_a_model_with_a_sparse_input_serves_examples_and_has_no_signature_of_features(
    name: str, tmp_path: Path
) -> None:
    import tensorflow as tf

    from tfx_mobile.pruning_trainer import keras_export

    class Total(line(name).layers.Layer):  # type: ignore[misc]
        def call(self, words: Any) -> Any:
            return tf.reshape(tf.sparse.reduce_sum(words, axis=1), [-1, 1])

    keras = line(name)
    given = keras.Input((None,), sparse=True, name="words")
    model = keras.Model({"words": given}, Total()(given))
    keras_export.save(model, sparse_graph(tmp_path / "graph"), "label", str(tmp_path / "m"))
    signatures = tf.saved_model.load(str(tmp_path / "m")).signatures
    assert set(signatures) == {"serving_default"}
    example = tf.train.Example()
    example.features.feature["words"].float_list.value.extend([1.5, 2.0])
    rows = tf.constant([example.SerializeToString(), tf.train.Example().SerializeToString()])
    np.testing.assert_array_equal(signatures["serving_default"](examples=rows)["predictions"], [[3.5], [0]])


def test_sparse_inputs_without_a_graph_are_refused(tmp_path: Path) -> None:
    from tfx_mobile.pruning_trainer import keras_export

    message = "A model with sparse inputs must come with its TransformGraph; got none."
    with pytest.raises(ConfigError, match=re.escape(message)):
        keras_export.save(sparse_model(), None, "", str(tmp_path / "m"))
    assert not (tmp_path / "m").exists()


def test_an_input_that_is_no_feature_is_refused(trips: Any, tmp_path: Path) -> None:
    import tensorflow_transform as tft
    import tf_keras

    from tfx_mobile.pruning_trainer import keras_export

    given = tf_keras.Input((1,), name="toll")
    model = tf_keras.Model(given, tf_keras.layers.Dense(1)(given))
    message = (
        "The model's inputs must be transformed features; toll are not among company_id, company_length, "
        "date_z, fare, latitude_z, miles, miles_bucket, miles_z. Give each Input the name of a feature."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        keras_export.save(model, tft.TFTransformOutput(str(trips.graph_folder)), "fare", str(tmp_path / "m"))
    assert not (tmp_path / "m").exists()


def test_a_model_without_fixed_inputs_is_refused(tmp_path: Path) -> None:
    import tf_keras

    from tfx_mobile.pruning_trainer import keras_export

    message = (
        "A model to export must have fixed inputs: a functional one, Model(inputs, outputs), or a Sequential "
        "one with an Input; got the class Sequential."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        keras_export.save(tf_keras.Sequential([tf_keras.layers.Dense(1)]), None, "", str(tmp_path / "m"))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    from tfx_mobile.pruning_trainer import keras_export

    message = f"A Keras model must be {KERAS_FILE} or a SavedModel; got neither in {tmp_path}."
    with pytest.raises(DataError, match=re.escape(message)):
        keras_export.load_model(str(tmp_path))


def test_a_file_that_keras_did_not_write_is_refused(tmp_path: Path) -> None:
    from tfx_mobile.pruning_trainer import keras_export

    (tmp_path / KERAS_FILE).write_bytes(b"PK, but no archive")
    message = f"{KERAS_FILE} must be a file that Keras wrote; got another at {tmp_path / KERAS_FILE}."
    with pytest.raises(DataError, match=re.escape(message)):
        keras_export.load_model(str(tmp_path))


def test_a_model_trained_for_int8_is_read_back_with_its_author_s_classes(tmp_path: Path) -> None:
    import tf_keras

    from tfx_mobile.pruning_trainer import keras_export, keras_quantization

    class Own(tf_keras.layers.Dense):  # type: ignore[misc]
        pass

    given = tf_keras.Input((3,), name="x")
    config = QuantizationAware(quantize_configs={"out": "quantize_configs.FourBits"})
    made = keras_quantization.quantization_aware(
        tf_keras.Model({"x": given}, Own(4, name="out")(given)), config
    )
    row = {"x": np.array([[0.5, -1.0, 2.0]], np.float32)}
    keras_quantization.calibrate(made, [row])
    made = keras_quantization.strip(made)
    keras_export.save(made, None, "", str(tmp_path / "m"))
    found = keras_export.read_back(made, str(tmp_path / "m"))
    np.testing.assert_array_equal(found.predict(row, verbose=0), made.predict(row, verbose=0))


def test_a_model_trained_for_int8_comes_back_by_itself(tmp_path: Path) -> None:
    import tf_keras

    from tfx_mobile.pruning_trainer import keras_export, keras_quantization

    given = tf_keras.Input((3,), name="x")
    model = keras_quantization.quantization_aware(
        tf_keras.Model({"x": given}, tf_keras.layers.Dense(4, name="out")(given)), QuantizationAware()
    )
    row = {"x": np.array([[0.5, -1.0, 2.0]], np.float32)}
    keras_quantization.calibrate(model, [row])
    model = keras_quantization.strip(model)
    keras_export.save(model, None, "", str(tmp_path / "m"))
    found = keras_export.load_model(str(tmp_path / "m"))
    np.testing.assert_array_equal(found.predict(row, verbose=0), model.predict(row, verbose=0))
    kernel = keras_quantization.effective_kernels(found)["out/kernel"]
    np.testing.assert_array_equal(kernel, keras_quantization.effective_kernels(model)["out/kernel"])
