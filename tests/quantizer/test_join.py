"""A joined file computes back(front(x)), bit for bit, whatever is behind."""

import re
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common.errors import DataError
from tfx_mobile.common.interpreter import TFLiteModel
from tfx_mobile.quantizer.join import join

from .conftest import rows, run

pytestmark = pytest.mark.pipeline

BACKS = ["float32", "float16", "dynamic_range", "int8", "while", "own_table", "two_outputs"]
CASES = [(back, count) for back in BACKS for count in (1, 7, 256)] + [("lstm", 1), ("lstm_dynamic_range", 1)]


@pytest.mark.parametrize(("back", "count"), CASES)
def test_a_joined_file_is_the_two_files_one_after_the_other(
    parts: dict[str, bytes], back: str, count: int
) -> None:
    columns = rows(count)
    wanted = run(parts[back], run(parts["front"], columns))
    got = run(join(parts["front"], parts[back]), columns)
    assert set(got) == set(wanted)
    for name, values in wanted.items():
        np.testing.assert_array_equal(got[name], values)
        assert count == 1 or np.ptp(values) > 0


def test_front_gives_what_numpy_gives(parts: dict[str, bytes]) -> None:
    columns = rows(50)
    got = run(join(parts["front"], parts["own_table"]), columns)["fare"][:, 0]
    known = {b"Flash": 70_000, b"Sun": 80_001, b"Blue": 90_002, b"Nobody": 60_003}
    assert got.tolist() == [known[company] for company in columns["company"]]


@pytest.mark.parametrize("back", ["float32", "float16", "dynamic_range", "int8"])
def test_the_interpreter_of_phones_agrees(parts: dict[str, bytes], back: str) -> None:
    columns = rows(64)
    content = join(parts["front"], parts[back])
    got = TFLiteModel(content).predict(columns)
    # XNNPACK sums 64 floats in another order; int8 sums may then round to the neighbouring step
    step = 0.0 if back != "int8" else 0.05 * float(np.ptp(got))
    np.testing.assert_allclose(got, run(content, columns)["fare"], rtol=1e-4, atol=1e-4 + step)


def test_a_joined_file_takes_raw_features_and_has_the_backs_outputs(parts: dict[str, bytes]) -> None:
    model = TFLiteModel(join(parts["front"], parts["int8"]))
    assert {name: spec.dtype for name, spec in model.inputs.items()} == {
        "miles": np.float32,
        "company": np.bytes_,
    }
    assert set(model.outputs) == {"fare"}


def test_a_joined_file_is_resized_from_call_to_call(parts: dict[str, bytes]) -> None:
    model = TFLiteModel(join(parts["front"], parts["int8"]))
    for count in (3, 1, 40, 2):
        columns = rows(count)
        np.testing.assert_array_equal(model.predict(columns)[:1], model.predict(first(columns)))


def first(columns: dict[str, Any]) -> dict[str, Any]:
    return {name: values[:1] for name, values in columns.items()}


def test_joining_is_deterministic(parts: dict[str, bytes]) -> None:
    assert join(parts["front"], parts["int8"]) == join(parts["front"], parts["int8"])


def test_a_joined_file_can_be_joined_again(parts: dict[str, bytes]) -> None:
    columns = rows(9)
    twice = join(parts["only_miles"], join(parts["only_miles"], parts["two_outputs"]))
    wanted = run(parts["two_outputs"], columns)
    for name, values in run(twice, columns).items():
        np.testing.assert_array_equal(values, wanted[name])


def test_weights_are_not_stored_twice(parts: dict[str, bytes]) -> None:
    size = len(join(parts["front"], parts["float32"]))
    assert size < len(parts["front"]) + len(parts["float32"])


def test_the_higher_minimum_runtime_is_kept(parts: dict[str, bytes]) -> None:
    def least(content: bytes) -> tuple[int, ...]:
        from ai_edge_litert import schema_py_generated as schema

        model = schema.ModelT.InitFromPackedBuf(content, 0)
        found = [model.buffers[m.buffer].data for m in model.metadata if m.name == b"min_runtime_version"]
        texts = [bytes(data).rstrip(b"\0") for data in found if data is not None]
        return max(tuple(map(int, text.split(b"."))) for text in texts if text)

    for back in ("float32", "int8", "while"):
        joined = join(parts["front"], parts[back])
        assert least(joined) == max(least(parts["front"]), least(parts[back]))
    assert len({least(parts[name]) for name in ("front", "float32", "int8", "while")}) > 1


def test_an_input_that_the_front_does_not_make_is_refused(parts: dict[str, bytes]) -> None:
    with pytest.raises(
        DataError, match=re.escape("The first file must make 'z', an input of the second; it makes miles.")
    ):
        join(parts["only_miles"], parts["while"])


def test_an_input_of_another_type_is_refused(parts: dict[str, bytes]) -> None:
    with pytest.raises(
        DataError, match=re.escape("'id' must have the same type in both files; got INT64 and FLOAT32.")
    ):
        join(parts["front"], parts["float_id"])


@pytest.mark.parametrize("content", [b"", b"TFL3", b"no flatbuffer at all " * 9])
def test_what_is_no_tflite_file_is_refused(parts: dict[str, bytes], content: bytes) -> None:
    with pytest.raises(DataError, match=re.escape("A TFLite file must have the identifier 'TFL3'; got ")):
        join(parts["front"], content)


def test_a_file_without_a_signature_is_refused(parts: dict[str, bytes]) -> None:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(parts["float32"], 0)
    model.signatureDefs = []
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    with pytest.raises(DataError, match=re.escape("A file to join must have one signature; got 0.")):
        join(parts["front"], bytes(builder.Output()))
