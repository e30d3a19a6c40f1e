"""Preprocessing and models as TFLite files: what goes in, what is refused, coordinates that stay exact."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common import ladder
from tfx_mobile.common.errors import DataError
from tfx_mobile.common.interpreter import TFLiteModel
from tfx_mobile.quantizer.config import Mode, Quantization
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

    from tfx_mobile.quantizer.preprocessing import Preprocessing

    return Preprocessing(tft.TFTransformOutput(str(trips.graph_folder)), wanted)


@pytest.mark.parametrize("mode", [Mode.FLOAT32, Mode.FLOAT16, Mode.DYNAMIC_RANGE, Mode.INT8, Mode.INT16X8])
def test_quantising_the_model_leaves_preprocessing_untouched(
    trips: Any, preprocessing: Any, front: bytes, predictor: Any, mode: Mode
) -> None:
    back = predictor.convert(Quantization(mode), preprocessing.apply(trips.raw))
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
        "A model to convert must have the signature 'transformed', be a SavedModel that Keras 2 wrote, or "
        f"take transformed features by name in 'serving_default'; got none of them in {tmp_path}."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        tflite.load(tmp_path)


def test_a_folder_without_a_saved_model_is_refused(tmp_path: Path) -> None:
    from tfx_mobile.quantizer import tflite

    (tmp_path / "model.keras").write_bytes(b"of Keras 3")
    message = (
        f"A model to convert must be a SavedModel; got model.keras in {tmp_path}. Of Keras 3, write one with "
        "model.export(folder)."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        tflite.load(tmp_path)


def test_what_keras_3_exports_converts(tmp_path: Path) -> None:
    import keras

    from tfx_mobile.quantizer import tflite

    keras.utils.set_random_seed(1)
    given = {name: keras.Input((1,), name=name) for name in ("miles", "minutes")}
    joined = keras.layers.Concatenate()(list(given.values()))
    model = keras.Model(given, keras.layers.Dense(1)(keras.layers.Dense(4, "relu")(joined)))
    model.export(str(tmp_path / "model"))
    predictor = tflite.load(tmp_path / "model")
    rows = {name: np.arange(3, dtype=np.float32)[:, None] + i for i, name in enumerate(predictor.features)}
    wanted = model.predict(rows, verbose=0)
    content = predictor.convert(Quantization(Mode.FLOAT32), rows)
    np.testing.assert_allclose(TFLiteModel(content).predict(rows), wanted, rtol=1e-5)
