"""What the inspector says of files made by hand, by strangers, by accident and by an enemy."""

import io
import re
import struct
import zipfile
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.common.tflite_files import ALL_STRANGERS, packed, stranger, strings, table_file

from tfx_mobile.common import candidates, inspection, jsonable
from tfx_mobile.common.errors import DataError
from tfx_mobile.common.inspection import Inspection, Part, inspect


def sizes(found: Inspection) -> dict[tuple[str, str, str], int]:
    return {(part.kind, part.name, part.dtype): part.size_bytes for part in found.breakdown}


def check_sums(found: Inspection) -> None:
    assert sum(part.size_bytes for part in found.breakdown) == found.size_bytes
    assert sum(part.gz_share_bytes for part in found.breakdown) == pytest.approx(found.gz_size_bytes)
    assert sum(part.size_bytes for part in found.by_kind()) == found.size_bytes


def test_a_file_made_by_hand_is_told_part_by_part() -> None:
    content = packed(table_file())
    found = inspect(content)
    check_sums(found)
    assert found.explained_fraction == 1
    assert (found.size_bytes, found.version, found.description) == (len(content), 3, "by hand")
    parts = sizes(found)
    assert parts["vocabularies", "words", "string"] == len(strings(b"Flash", b"Sun")) == 24
    assert parts["weights", "weights/one", "float32"] == parts["weights", "weights/two", "float32"] == 128
    assert parts["quantization", "min", "float32"] == 8  # one number and its count
    assert parts["structure", "unused buffers", ""] == len(b"unused")
    names = [
        b"serving_default_company:0",
        b"serving_default_miles:0",
        b"words",
        b"weights/one",
        b"weights/two",
        b"sum",
    ]
    assert parts["strings", "tensors", ""] == sum(len(name) + 5 for name in names)
    assert parts["strings", "signatures", ""] == sum(
        len(n) + 5 for n in (b"serving_default", b"company", b"miles", b"y")
    )
    assert parts["strings", "description", ""] == len(b"by hand") + 5


def test_signatures_operators_and_tensors_are_those_of_the_file() -> None:
    (signature,) = inspect(packed(table_file())).signatures
    assert signature.name == "serving_default"
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in signature.inputs.items()} == {
        "company": ("string", (1,)),
        "miles": ("float32", (1,)),
    }
    assert [tensor.index for tensor in signature.outputs.values()] == [5]
    found = inspect(packed(table_file()))
    assert [(one.name, one.origin, one.count) for one in found.operators] == [("ADD", "built-in", 1)]
    weights = found.tensors[3]
    assert (weights.size_bytes, weights.zeros_fraction, weights.stored_fraction) == (128, 1 / 32, None)
    assert found.tensors[1].zeros_fraction is None


@pytest.mark.parametrize(
    ("name", "origin"), [(b"FlexErf", "Flex"), (b"TFLite_Detection_PostProcess", "custom")]
)
def test_an_operator_that_is_not_built_in_is_called_so(name: bytes, origin: str) -> None:
    model = table_file()
    model.operatorCodes[1].builtinCode = schema.BuiltinOperator.CUSTOM
    model.operatorCodes[1].deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    model.operatorCodes[1].customCode = name
    (operator,) = inspect(packed(model)).operators
    assert (operator.name, operator.origin) == (name.decode(), origin)


def test_an_operator_of_an_old_file_has_its_code_in_one_byte() -> None:
    model = table_file()
    model.operatorCodes[1].deprecatedBuiltinCode, model.operatorCodes[1].builtinCode = 18, 0
    (operator,) = inspect(packed(model)).operators
    assert operator.name == "MUL"


def test_a_file_without_signatures_shows_the_inputs_of_its_main_subgraph() -> None:
    model = table_file()
    model.signatureDefs = None
    (signature,) = inspect(packed(model)).signatures
    assert (signature.name, list(signature.outputs)) == ("", ["sum"])


@pytest.mark.parametrize(
    ("kind", "zero_point", "content", "share"),
    [
        (schema.TensorType.INT8, 0, bytes([0, 1, 255, 0]), 1 / 2),
        (schema.TensorType.INT8, -1, bytes([0, 1, 255, 0]), 1 / 4),
        (schema.TensorType.INT4, 0, bytes([0x10, 0x02]), 1 / 2),
        (schema.TensorType.INT4, -1, bytes([0xF0, 0x0F]), 1 / 2),
        (schema.TensorType.FLOAT16, 0, np.array([0, -0.0, 1, 2], "<f2").tobytes(), 1 / 2),
        (schema.TensorType.BFLOAT16, 0, bytes([0, 0, 0, 0x80, 0x80, 0x3F, 0, 0]), 3 / 4),
        (schema.TensorType.INT64, 0, np.array([0, 5], "<i8").tobytes(), 1 / 2),
    ],
)
def test_zeros_are_what_stands_for_zero(kind: int, zero_point: int, content: bytes, share: float) -> None:
    model = table_file()
    model.buffers[3].data = np.frombuffer(content, np.uint8)
    tensor = model.subgraphs[0].tensors[3]
    tensor.type, tensor.quantization = kind, schema.QuantizationParametersT()
    tensor.quantization.scale, tensor.quantization.zeroPoint = [0.5], [zero_point]
    assert inspect(packed(model)).tensors[3].zeros_fraction == share


def test_a_sparse_constant_has_indexes_and_says_how_much_it_stores() -> None:
    dense = inspect(stranger("face_detection_full_range"))
    sparse = inspect(stranger("face_detection_full_range_sparse"))
    kinds = {part.kind: part.size_bytes for part in sparse.by_kind()}
    assert kinds["sparsity"] > 100_000
    assert "sparsity" not in {part.kind for part in dense.by_kind()}
    stored = [tensor for tensor in sparse.tensors if tensor.stored_fraction is not None]
    assert len(stored) == 46
    for tensor in stored:
        bits = {"float16": 16, "float32": 32}[tensor.dtype]
        assert tensor.stored_fraction == tensor.size_bytes * 8 / bits / np.prod(tensor.shape)
        assert tensor.zeros_fraction >= 1 - tensor.stored_fraction


@pytest.mark.parametrize("name", ALL_STRANGERS)
def test_every_byte_of_a_strangers_file_is_explained(name: str) -> None:
    content = stranger(name)
    found = inspect(content)
    check_sums(found)
    assert found.explained_fraction == 1
    assert found.gz_size_bytes == candidates.gz_size_bytes(content)
    assert all(part.gz_share_bytes >= 0 for part in found.breakdown)
    assert found.signatures
    assert found.operators
    assert all(operator.origin == "built-in" for operator in found.operators)
    jsonable.dumps(found.to_dict())


def test_the_converter_of_a_strangers_file_is_told() -> None:
    found = inspect(stranger("alexa"))
    assert found.conversion == {"tensorflow": "2.15.1", "optimization": "full integer"}
    assert found.min_runtime_version == "2.6.0"


def test_what_does_not_compress_has_a_gz_share_of_its_size_and_zeros_have_none() -> None:
    model = table_file()
    noise = np.random.default_rng(1).integers(0, 256, 20_000, np.uint8)
    model.buffers[3].data, model.buffers[6].data = noise, np.zeros(20_000, np.uint8)
    share = {part.name: part.gz_share_bytes for part in inspect(packed(model)).breakdown}
    assert share["weights/one"] == pytest.approx(20_000, rel=0.01)
    assert share["weights/two"] < 100  # 78 copies of 258 bytes, about 9 bits each


def test_code_tables_are_not_charged_to_what_stands_first() -> None:
    (header,) = (part for part in inspect(stranger("alexa")).breakdown if part.name == "header")
    assert header.size_bytes == 8
    assert header.gz_share_bytes < 12


def test_a_copy_costs_little_whichever_of_the_two_stands_behind() -> None:
    model = table_file()
    noise = np.random.default_rng(1).integers(0, 256, 20_000, np.uint8)
    model.buffers[3].data = model.buffers[6].data = noise
    shares = sorted(
        part.gz_share_bytes for part in inspect(packed(model)).breakdown if part.kind == "weights"
    )
    assert shares[0] < 1_000
    assert shares[1] == pytest.approx(20_000, rel=0.01)


def test_files_in_an_appended_zip_are_metadata() -> None:
    archive = io.BytesIO(packed(table_file()))
    with zipfile.ZipFile(archive, "a") as files:
        files.writestr("labels.txt", "cat\ndog\n" * 40)
    found = inspect(archive.getvalue())
    check_sums(found)
    assert found.explained_fraction == 1
    assert sizes(found)["metadata", "labels.txt", ""] == 30 + len("labels.txt") + 320


def test_content_that_nothing_points_to_is_unexplained() -> None:
    content = packed(table_file())
    found = inspect(content + b"\1" * 100)
    check_sums(found)
    assert sizes(found)["unexplained", "", ""] == 100
    assert found.explained_fraction == len(content) / (len(content) + 100)
    assert sizes(inspect(content + b"\1" * 10))["unexplained", "", ""] == 10
    assert ("unexplained", "", "") in sizes(inspect(content + bytes(64)))  # too long for padding


def test_a_buffer_behind_the_tables_counts_as_its_tensor() -> None:
    model = table_file()
    size = len(packed(model))
    model.buffers[3].data, model.buffers[3].offset, model.buffers[3].size = None, 0, 0
    start = 2 * size
    model.buffers[3].offset, model.buffers[3].size = start, 128
    content = packed(model).ljust(start, b"\0") + b"\1" * 128
    found = inspect(content)
    assert sizes(found)["weights", "weights/one", "float32"] == 128
    assert found.tensors[3].size_bytes == 128
    with pytest.raises(DataError, match=re.escape(f"buffers.3.data is at bytes {start} to {start + 128} of")):
        inspect(content[:-1])


@pytest.mark.parametrize("content", [b"", b"TFL3", b"no flatbuffer at all " * 9])
def test_what_is_no_tflite_file_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match=re.escape("A TFLite file must have TFL3 at byte 4; got ")):
        inspect(content)


def test_a_file_cut_anywhere_is_told_or_refused() -> None:
    content = stranger("hey_jarvis")
    for length in range(0, len(content), 997):
        report_or_refusal(content[:length])
    with pytest.raises(DataError, match=re.escape("The file is cut or damaged.")):
        inspect(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: setattr(m.subgraphs[0].tensors[3], "buffer", 99),
            "must have each buffer it uses; got index 99 of 7",
        ),
        (
            lambda m: setattr(m.subgraphs[0].operators[0], "opcodeIndex", 7),
            "each operator code it uses; got index 7 of 2",
        ),
        (
            lambda m: setattr(m.signatureDefs[0].inputs[0], "tensorIndex", 6),
            "each tensor it uses; got index 6 of 6",
        ),
        (
            lambda m: setattr(m.signatureDefs[0], "subgraphIndex", 1),
            "each subgraph it uses; got index 1 of 1",
        ),
    ],
)
def test_an_index_of_what_is_not_there_is_refused(change: Any, message: str) -> None:
    model = table_file()
    change(model)
    with pytest.raises(DataError, match=re.escape(message)):
        inspect(packed(model))


def test_a_scale_that_is_not_finite_is_refused() -> None:
    model = table_file()
    quantization = model.subgraphs[0].tensors[5].quantization
    quantization.scale = [float("nan")]
    with pytest.raises(DataError, match=re.escape("A scale must be finite; got nan. The file is damaged.")):
        inspect(packed(model))


def test_names_cannot_move_the_cursor() -> None:
    model = table_file()
    model.subgraphs[0].tensors[3].name = b"\x1b[2Jweights\n\xff"
    assert inspect(packed(model)).tensors[3].name == "?[2Jweights?\ufffd"


def report_or_refusal(content: bytes) -> None:
    try:
        found = inspect(content)
    except DataError:
        return
    check_sums(found)
    jsonable.dumps(found.to_dict())


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_file_with_flipped_bytes_is_told_or_refused(data: st.DataObject) -> None:
    content = bytearray(packed(table_file()) if data.draw(st.booleans()) else stranger("hey_jarvis"))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    report_or_refusal(bytes(content))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_file_whose_offsets_lead_anywhere_is_told_or_refused(data: st.DataObject) -> None:
    content = bytearray(packed(table_file()))
    for _ in range(data.draw(st.integers(1, 3))):
        at = 4 * data.draw(st.integers(0, len(content) // 4 - 1))
        near = st.integers(-len(content), len(content))
        value = data.draw(st.one_of(near, st.sampled_from([0, 0x7FFFFFFF, -0x80000000, -1])))
        struct.pack_into("<i", content, at, value)
    report_or_refusal(bytes(content))


def test_kinds_are_summed_in_their_order() -> None:
    found = inspect(stranger("alexa"))
    kinds = [part.kind for part in found.by_kind()]
    assert kinds == [kind for kind in inspection.KINDS if kind in kinds]
    weights = found.by_kind()[0]
    assert weights == Part("weights", "", "", weights.size_bytes, weights.gz_share_bytes)
    assert weights.size_bytes == sum(part.size_bytes for part in found.breakdown if part.kind == "weights")
