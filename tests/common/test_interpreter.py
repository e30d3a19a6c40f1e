"""TFLiteModel on tiny files that the converter made: floats, int8, strings, another signature."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common.errors import DataError
from tfx_mobile.common.interpreter import TFLiteModel, flex_ops

pytestmark = pytest.mark.pipeline

WEIGHTS = np.array([[2.0], [-1.0], [0.5]], np.float32)
PAIRS = np.array([[1.0, 2.0, 4.0], [0.0, 1.0, 0.0], [-1.0, 0.5, 2.0]], np.float32)
STOPS = np.array([[3.0], [0.0], [-2.0]], np.float32)
EXPECTED = PAIRS @ WEIGHTS + STOPS  # by hand: 2 - 2 + 2 + 3 = 5, -1, -2 - 0.5 + 1 - 2 = -3.5


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """By name: 'float', 'int8' (integers in and out), 'strings', 'two' outputs and 'stranger'."""
    import tensorflow as tf

    def number(name: str, width: int) -> Any:
        return tf.TensorSpec([None, width], tf.float32, name=name)

    class Tiny(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[number("pair", 3), number("stop", 1)])  # type: ignore[untyped-decorator]
        def linear(self, pair: Any, stop: Any) -> Any:
            return {"fare": tf.matmul(pair, tf.constant(WEIGHTS)) + stop}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="company")])  # type: ignore[untyped-decorator]
        def strings(self, company: Any) -> Any:
            return {"is_zurich": tf.cast(tf.equal(company, tf.constant("Zürich")), tf.float32)}

        @tf.function(input_signature=[number("x", 2)])  # type: ignore[untyped-decorator]
        def two(self, x: Any) -> Any:
            return {"b_rounded": tf.cast(tf.round(x[:, 0]), tf.int64), "a_doubled": x * 2.0}

    module = Tiny()
    folder = tmp_path_factory.mktemp("saved")

    def convert(name: str, signature: str = "serving_default", **options: Any) -> bytes:
        function = getattr(module, name).get_concrete_function()
        place = str(folder / f"{name}-{signature}")
        tf.saved_model.save(module, place, signatures={signature: function})
        converter = tf.lite.TFLiteConverter.from_saved_model(place, signature_keys=[signature])
        for option, value in options.items():
            setattr(converter, option, value)
        return bytes(converter.convert())

    def calibration() -> Any:
        for i in range(len(PAIRS)):
            yield {"pair": PAIRS[i : i + 1], "stop": STOPS[i : i + 1]}

    return {
        "float": convert("linear"),
        "int8": convert(
            "linear",
            optimizations=[tf.lite.Optimize.DEFAULT],
            representative_dataset=calibration,
            inference_input_type=tf.int8,
            inference_output_type=tf.int8,
        ),
        "strings": convert("strings"),
        "two": convert("two"),
        "stranger": convert("two", signature="train"),
    }


def load(content: Any) -> Any:
    from tfx_mobile.common.interpreter import TFLiteModel

    return TFLiteModel(content)


def rows(**changed: Any) -> dict[str, Any]:
    return {"pair": PAIRS, "stop": STOPS} | changed


def test_a_file_is_read_from_bytes_or_from_its_path(files: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(files["float"])
    for content in (files["float"], tmp_path / "model.tflite"):
        np.testing.assert_allclose(load(content).predict(rows()), EXPECTED, rtol=1e-6)


def test_inputs_are_described_by_name(files: dict[str, bytes]) -> None:
    inputs = load(files["float"]).inputs
    assert {name: (spec.dtype, spec.row_shape, spec.scale) for name, spec in inputs.items()} == {
        "pair": (np.float32, (3,), 0.0),
        "stop": (np.float32, (1,), 0.0),
    }


@pytest.mark.parametrize("name", ["float", "int8"])
def test_a_batch_gives_what_single_rows_give(files: dict[str, bytes], name: str) -> None:
    model = load(files[name])
    together = model.predict(rows())
    single = [model.predict({"pair": PAIRS[i : i + 1], "stop": STOPS[i : i + 1]}) for i in range(3)]
    np.testing.assert_allclose(together, np.concatenate(single), rtol=1e-6)
    np.testing.assert_array_equal(model.predict(rows()), together)  # back at the larger batch


def test_int8_rows_are_quantised_and_predictions_put_back(files: dict[str, bytes]) -> None:
    model = load(files["int8"])
    spec, out = model.inputs["pair"], model.outputs["fare"]
    assert (spec.dtype, out.dtype) == (np.int8, np.int8)
    encoded = model.encode(rows())["pair"]
    assert encoded.dtype == np.int8
    back = (encoded.astype(np.float32) - spec.zero_point) * spec.scale
    # The nearest step is at most half a step away; the ends of the range may be cut by another half.
    np.testing.assert_allclose(back, PAIRS, rtol=0, atol=1.001 * spec.scale)
    assert np.abs(back - PAIRS)[1:2].max() <= 0.501 * spec.scale
    found = model.predict(rows())
    assert found.dtype == np.float32
    # Half a step of each input, times its weight, and a step of the output and of the weights.
    step = spec.scale * np.abs(WEIGHTS).sum() + model.inputs["stop"].scale + 2 * out.scale
    np.testing.assert_allclose(found, EXPECTED, atol=step)
    np.testing.assert_allclose(found / out.scale, np.round(found / out.scale), atol=1e-3)


def test_int8_values_beyond_the_range_are_cut_off_not_wrapped(files: dict[str, bytes]) -> None:
    model = load(files["int8"])
    encoded = model.encode(rows(pair=np.array([[1e9, -1e9, 0.0]] * 3, np.float32)))["pair"]
    assert encoded[0].tolist() == [127, -128, model.inputs["pair"].zero_point]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_int8_has_no_value_for_nan_or_infinity(files: dict[str, bytes], value: float) -> None:
    message = "Feature 'stop' must be finite, since the file takes int8; got NaN or infinity in 1 of 3 rows."
    with pytest.raises(DataError, match=re.escape(message)):
        load(files["int8"]).encode(rows(stop=np.array([[0.0], [value], [1.0]], np.float32)))


@pytest.mark.parametrize(
    "column",
    [
        np.array(["Zürich".encode(), b"Flash", b""], object),
        np.array(["Zürich", "Flash", ""], object),
        np.array(["Zürich", "Flash", ""]),
        np.array(["Zürich".encode(), b"Flash", b""]),
    ],
)
def test_strings_are_sent_as_utf8_however_they_are_held(files: dict[str, bytes], column: Any) -> None:
    model = load(files["strings"])
    assert model.predict({"company": column}).tolist() == [[1.0], [0.0], [0.0]]


def test_outputs_stand_side_by_side_in_the_order_of_their_names(files: dict[str, bytes]) -> None:
    found = load(files["two"]).predict({"x": np.array([[1.2, 5.0], [2.7, 6.0]])})
    np.testing.assert_allclose(found, [[2.4, 10.0, 1.0], [5.4, 12.0, 3.0]], rtol=1e-6)


def test_features_that_the_file_does_not_take_are_left_out(files: dict[str, bytes]) -> None:
    assert set(load(files["float"]).encode(rows(company=np.array(["a", "b", "c"])))) == {"pair", "stop"}


def test_a_missing_feature_is_named(files: dict[str, bytes]) -> None:
    message = "The file needs the features 'pair', 'stop'; got rows without 'stop'."
    with pytest.raises(DataError, match=re.escape(message)):
        load(files["float"]).predict({"pair": PAIRS})


def test_text_for_a_number_is_refused(files: dict[str, bytes]) -> None:
    with pytest.raises(DataError, match=re.escape("Feature 'stop' must be numbers; got <U1.")):
        load(files["float"]).predict(rows(stop=np.array(["a", "b", "c"])))


def test_a_number_for_text_is_refused(files: dict[str, bytes]) -> None:
    with pytest.raises(DataError, match=re.escape("Feature 'company' must be strings; got float64.")):
        load(files["strings"]).predict({"company": np.array([1.0])})


def test_rows_of_another_width_are_refused(files: dict[str, bytes]) -> None:
    message = "Feature 'pair' must have 3 values in each row; got 3 rows of shape (2,)."
    with pytest.raises(DataError, match=re.escape(message)):
        load(files["float"]).predict(rows(pair=PAIRS[:, :2]))


def test_a_file_without_the_signature_is_refused(files: dict[str, bytes]) -> None:
    with pytest.raises(
        DataError, match=re.escape("A TFLite file must have the signature 'serving_default'; got ['train'].")
    ):
        load(files["stranger"])


@pytest.mark.parametrize("content", [b"", b"TFL3", b"this is no flatbuffer at all" * 10])
def test_bytes_that_are_no_model_are_refused(content: bytes) -> None:
    with pytest.raises(DataError, match=re.escape("LiteRT refuses the file: ")):
        load(content)


@pytest.mark.pipeline
def test_a_file_with_tensorflows_own_ops_runs_where_its_interpreter_is(tmp_path: Any) -> None:
    import tensorflow as tf

    module = tf.Module()
    lower = tf.function(lambda name: {"y": tf.cast(tf.strings.length(tf.strings.lower(name)), tf.float32)})
    traced = lower.get_concrete_function(tf.TensorSpec([None], tf.string, name="name"))
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": traced})
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    content = converter.convert()
    assert flex_ops(content) == ["FlexStringLength", "FlexStringLower"]
    if tuple(map(int, tf.__version__.split(".")[:2])) < (2, 20):
        names = {"name": np.array([b"Sun", b""], dtype=object)}
        np.testing.assert_array_equal(TFLiteModel(content).predict(names), [[3.0], [0.0]])
    else:
        message = "come without, and the file has FlexStringLength, FlexStringLower. Rewrite them in"
        with pytest.raises(DataError, match=re.escape(message)):
            TFLiteModel(content)
