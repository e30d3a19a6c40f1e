"""Preprocessing and models as TFLite files: what goes in, what is refused, coordinates that stay exact."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common import ladder
from tfx_mobile.common.errors import DataError
from tfx_mobile.common.interpreter import TFLiteModel
from tfx_mobile.quantizer.config import Mode
from tfx_mobile.quantizer.join import join

from .conftest import run

pytestmark = pytest.mark.pipeline

WANTED = ["company_id", "date_z", "latitude_z", "miles", "miles_z"]


@pytest.fixture(scope="module")
def preprocessing(trips: Any) -> Any:
    return preprocess(trips, WANTED)


@pytest.fixture(scope="module")
def front(preprocessing: Any) -> bytes:
    return bytes(preprocessing.convert())


@pytest.fixture(scope="module")
def predictor(trained: Any) -> Any:
    from tfx_mobile.quantizer import tflite

    folder = Path(trained["models"].uri)
    return tflite.load(folder / ladder.read(folder).rungs[0].name)


def preprocess(trips: Any, wanted: list[str]) -> Any:
    import tensorflow_transform as tft

    from tfx_mobile.quantizer.tflite import Preprocessing

    return Preprocessing(tft.TFTransformOutput(str(trips.graph_folder)), wanted)


def test_only_raw_features_that_the_model_needs_are_inputs(trips: Any, preprocessing: Any) -> None:
    assert preprocessing.features == {
        "company": (np.bytes_, ()),
        "epoch_s": (np.int64, ()),
        "latitude": (np.float32, ()),
        "miles": (np.float32, ()),
    }
    assert set(preprocess(trips, ["miles"]).features) == {"miles"}


def test_preprocessing_is_what_tft_computes(trips: Any, preprocessing: Any) -> None:
    made = preprocessing.apply(trips.raw)
    assert set(made) == set(WANTED)
    for name, values in made.items():
        np.testing.assert_array_equal(values, trips.transformed[name])


def test_the_converted_preprocessing_is_exact_on_coordinates_and_dates(trips: Any, front: bytes) -> None:
    made = run(front, trips.raw)
    for name in ("company_id", "miles"):
        np.testing.assert_array_equal(made[name], trips.transformed[name])
    for name in ("latitude_z", "date_z", "miles_z"):
        # One rounding more or less of the z-score itself: the converter may divide where TFT multiplies.
        # Rounding a coordinate of 41.87 (4e-6) before its mean is taken off would show as 1e-4.
        np.testing.assert_allclose(made[name], trips.transformed[name], rtol=1e-6, atol=1e-6)


def test_a_z_score_is_what_float64_gives(trips: Any, front: bytes) -> None:
    made = run(front, trips.raw)
    for name, source in (("latitude_z", "latitude"), ("date_z", "epoch_s")):
        values = trips.raw[source].astype(np.float64)
        wanted = (values - values.mean()) / values.std()
        # a float32 near 41.87 is known to 4e-6 and one near 1.4e9 to 128 s, about 1e-4 and 1e-5 deviations
        np.testing.assert_allclose(made[name][:, 0], wanted, atol=3e-4)


def test_a_string_that_is_not_in_the_vocabulary_and_a_missing_one_share_the_default(front: bytes) -> None:
    rows = {
        "company": np.array([b"Flash", b"Nobody", b""], dtype=object),
        "epoch_s": np.full(3, 1_400_000_000),
        "latitude": np.full(3, 41.87, np.float32),
        "miles": np.ones(3, np.float32),
    }
    made = run(front, rows)["company_id"][:, 0]
    assert made[0] in range(3)
    assert made[1] == 4


@pytest.mark.parametrize("mode", list(Mode))
def test_quantising_the_model_leaves_preprocessing_untouched(
    trips: Any, preprocessing: Any, front: bytes, predictor: Any, mode: Mode
) -> None:
    back = predictor.convert(mode, preprocessing.apply(trips.raw))
    joined = join(front, back)
    rows = {name: trips.raw[name] for name in preprocessing.features}
    np.testing.assert_array_equal(
        run(joined, rows)["predictions"], run(back, run(front, rows))["predictions"]
    )
    wanted = predictor.apply(preprocessing.apply(trips.raw))
    gap = np.abs(TFLiteModel(joined).predict(rows) - wanted).mean() / wanted.std()
    # float32: rounding; float16: weights to 2**-11; the others: 8 bits in each of three layers
    assert gap < {Mode.FLOAT32: 1e-5, Mode.FLOAT16: 1e-2}.get(mode, 0.1)


def test_the_models_inputs_are_named_as_in_keras(predictor: Any) -> None:
    assert predictor.features == {
        "company_id": (np.int64, (1,)),
        "date_z": (np.float32, (1,)),
        "latitude_z": (np.float32, (1,)),
        "miles": (np.float32, (1,)),
        "miles_z": (np.float32, (1,)),
    }


def test_a_feature_that_the_graph_does_not_make_is_refused(trips: Any) -> None:
    with pytest.raises(
        DataError,
        match=re.escape(
            "The model's inputs must be transformed features; tip, toll are not among company_id, "
            "company_length, date_z, fare, latitude_z, miles, miles_bucket, miles_z. Give the Quantizer the "
            "graph the model was trained with."
        ),
    ):
        preprocess(trips, ["miles", "toll", "tip"])


@pytest.mark.parametrize(("feature", "op"), [("company_length", "tf.StringLength"), ("miles_bucket", "")])
def test_an_op_that_tflite_has_not_is_refused_in_one_line(trips: Any, feature: str, op: str) -> None:
    with pytest.raises(DataError, match=re.escape("the TFLite converter refuses: ")) as refused:
        preprocess(trips, ["miles", feature]).convert()
    message = str(refused.value)
    assert op in message
    assert "\n" not in message
    assert len(message) < 400


def test_a_model_of_several_outputs_is_refused() -> None:
    import tf_keras

    from tfx_mobile.quantizer import tflite

    given = tf_keras.Input((2,), name="x")
    outputs = [tf_keras.layers.Dense(1, name=name)(given) for name in ("tip", "fare")]
    with pytest.raises(
        DataError, match=re.escape("A model to convert must have one output; got 2: fare, tip.")
    ):
        tflite.of_keras(tf_keras.Model({"x": given}, outputs))


def test_an_input_of_no_fixed_width_is_refused() -> None:
    import tf_keras

    from tfx_mobile.quantizer import tflite

    given = tf_keras.Input((None,), name="words")
    total = tf_keras.layers.Lambda(lambda x: x[:, :1])(given)
    with pytest.raises(
        DataError, match=re.escape("Feature 'words' must be of fixed width to be an input on a phone; got ")
    ):
        tflite.of_keras(tf_keras.Model({"words": given}, total))


def test_a_saved_model_of_neither_kind_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    from tfx_mobile.quantizer import tflite

    tf.saved_model.save(tf.Module(), str(tmp_path))
    message = (
        "A model to convert must have the signature 'transformed' or be a SavedModel that Keras 2 wrote; "
        f"got neither in {tmp_path}."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        tflite.load(tmp_path)
