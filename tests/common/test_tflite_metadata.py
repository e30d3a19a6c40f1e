"""Metadata goes into a file and comes out again; nothing else in the file changes."""

import dataclasses
import re
import zlib
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import interpreter as litert
from ai_edge_litert import schema_py_generated as schema
from tests.common.tflite_files import packed, stranger, table_file

from tfx_mobile.common import candidates, tflite_metadata
from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.common.tflite_metadata import Feature, ModelMetadata, Vocabulary

METADATA = ModelMetadata(
    name="taxi-fare",
    version="3",
    inputs=(
        Feature("company", "string", description="Who drives", missing=""),
        Feature("miles", "float32", "mile", "Length of the trip"),
    ),
    label=Feature("fare", "float32", "USD", "Price of the trip"),
    description="Fare before the trip starts",
    author="Mobile team",
    license="Apache-2.0",
    vocabularies={"company": Vocabulary.of([b"Flash", b"Sun"])},
    gates={"rmse": 3.25},
    pipeline_run="2026-11-21T18:00",
)


def entries(content: bytes) -> dict[str, bytes]:
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    return {one.name.decode(): model.buffers[one.buffer].data.tobytes() for one in model.metadata}


def with_entries(content: bytes, **changed: bytes) -> bytes:
    """Returns the file with other content in metadata entries."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for one in model.metadata:
        if one.name.decode() in changed:
            model.buffers[one.buffer].data = np.frombuffer(changed[one.name.decode()], np.uint8)
    return packed(model)


@pytest.fixture(scope="module")
def plain() -> bytes:
    return packed(table_file())


@pytest.fixture(scope="module")
def written(plain: bytes) -> bytes:
    return tflite_metadata.write(plain, METADATA)


def test_what_was_written_is_read(plain: bytes, written: bytes) -> None:
    assert tflite_metadata.read(written) == METADATA
    assert tflite_metadata.read(plain) is None
    assert tflite_metadata.read_standard(plain) is None


def test_what_is_not_known_is_not_made_up(plain: bytes) -> None:
    bare = ModelMetadata(
        "m", "1", (Feature("company", "string"), Feature("miles", "float32")), Feature("fare", "float32")
    )
    written = tflite_metadata.write(plain, bare)
    assert tflite_metadata.read(written) == bare
    assert entries(written)["tfx_mobile"] == (
        b'{"label":{"dtype":"float32","name":"fare"},"schema_version":1}'
    )


def test_tensors_operators_and_signatures_are_unchanged(plain: bytes, written: bytes) -> None:
    before, after = (schema.ModelT.InitFromPackedBuf(content, 0) for content in (plain, written))
    for one, other in zip(before.subgraphs[0].tensors, after.subgraphs[0].tensors, strict=True):
        assert (one.name, one.type, one.shape.tolist()) == (other.name, other.type, other.shape.tolist())
        data = [model.buffers[tensor.buffer].data for model, tensor in ((before, one), (after, other))]
        np.testing.assert_array_equal(*data)
    assert [code.builtinCode for code in after.operatorCodes] == [
        code.builtinCode for code in before.operatorCodes
    ]
    results = [run(content) for content in (plain, written)]
    assert results[0].tolist() == results[1].tolist() == [3.0]


def run(content: bytes) -> Any:
    runner = litert.Interpreter(model_content=content).get_signature_runner("serving_default")
    return runner(miles=np.array([1.5], np.float32), company=np.array([b"Sun"], object))["y"]


def test_writing_again_replaces(written: bytes) -> None:
    newer = dataclasses.replace(METADATA, version="4", gates={"rmse": 3.0})
    twice = tflite_metadata.write(written, newer)
    assert tflite_metadata.read(twice) == newer
    assert len(schema.ModelT.InitFromPackedBuf(twice, 0).metadata) == 2
    assert len(schema.ModelT.InitFromPackedBuf(twice, 0).buffers) == 9
    assert tflite_metadata.write(written, METADATA) == written
    assert tflite_metadata.write(twice, METADATA) == written


def test_a_constant_that_shares_a_metadata_buffer_is_not_overwritten(written: bytes) -> None:
    model = schema.ModelT.InitFromPackedBuf(written, 0)
    model.subgraphs[0].tensors[3].buffer = model.metadata[0].buffer
    newer = tflite_metadata.write(packed(model), dataclasses.replace(METADATA, version="4"))
    after = schema.ModelT.InitFromPackedBuf(newer, 0)
    wanted = model.buffers[model.metadata[0].buffer].data
    np.testing.assert_array_equal(after.buffers[after.subgraphs[0].tensors[3].buffer].data, wanted)


def test_entries_of_others_stay(plain: bytes) -> None:
    model = table_file()
    other = schema.MetadataT()
    other.name, other.buffer = b"min_runtime_version", 4
    model.metadata = [other]
    written = tflite_metadata.write(packed(model), METADATA)
    assert entries(written)["min_runtime_version"] == b"unused"
    assert list(entries(written)) == ["min_runtime_version", "TFLITE_METADATA", "tfx_mobile"]
    model = schema.ModelT.InitFromPackedBuf(written, 0)
    model.metadata.reverse()
    again = tflite_metadata.write(packed(model), METADATA)
    assert list(entries(again)) == ["tfx_mobile", "TFLITE_METADATA", "min_runtime_version"]


def test_vocabularies_come_from_the_files_constants_and_are_there_once(written: bytes) -> None:
    assert tflite_metadata.vocabularies(written, METADATA) == {"company": (b"Flash", b"Sun")}
    assert written.count(b"FlashSun") == 1


@pytest.mark.parametrize("values", [[], [b""], [b"a", b"", b"caf\xc3\xa9"]])
def test_strings_are_packed_as_the_interpreter_reads_them(values: list[bytes]) -> None:
    data = tflite_metadata.pack_strings(values)
    assert tflite_metadata.unpack_strings(data) == tuple(values)
    assert data[:4] == len(values).to_bytes(4, "little")
    assert len(data) == 4 * (len(values) + 2) + sum(map(len, values))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\1\0",
        bytes([255] * 16),
        bytes([1, 0, 0, 0, 12, 0, 0, 0, 99, 0, 0, 0]),
        tflite_metadata.pack_strings([b"ab", b"c"])[:8] + bytes([18, 0, 0, 0, 16, 0, 0, 0]),
    ],
)
def test_a_damaged_constant_of_strings_is_refused(data: bytes) -> None:
    message = f"A constant of strings must say where each is; got {len(data)} bytes that do not."
    with pytest.raises(DataError, match=re.escape(message)):
        tflite_metadata.unpack_strings(data)


def test_a_vocabulary_that_is_not_in_the_file_is_refused(plain: bytes) -> None:
    wrong = dataclasses.replace(METADATA, vocabularies={"company": Vocabulary.of([b"Sun", b"Flash"])})
    message = (
        "The vocabulary of 'company' must be in the file; none of its 1 string constants has the sha256 "
    )
    with pytest.raises(DataError, match=re.escape(message)):
        tflite_metadata.write(plain, wrong)


def test_inputs_that_are_not_the_files_are_refused(plain: bytes) -> None:
    wrong = dataclasses.replace(METADATA, inputs=(Feature("company", "string"), Feature("miles", "int64")))
    message = (
        "Metadata must name the file's inputs and their types, company (string), miles (float32); "
        "got company (string), miles (int64)."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        tflite_metadata.write(plain, wrong)
    with pytest.raises(ConfigError, match=re.escape("inputs must have different names; got a, a.")):
        ModelMetadata("m", "1", (Feature("a", "int8"), Feature("a", "int8")), Feature("y", "int8"))


def test_a_file_without_a_signature_is_refused() -> None:
    message = "A file that gets metadata must have a signature; got none. Convert a SavedModel."
    with pytest.raises(DataError, match=re.escape(message)):
        tflite_metadata.write(stranger("face_detection_front"), METADATA)


def test_an_entry_of_a_newer_tfx_mobile_is_refused(written: bytes) -> None:
    newer = with_entries(written, tfx_mobile=b'{"schema_version":2,"more":1}')
    message = "The metadata entry 'tfx_mobile' must be of schema 1; got 2. Update tfx-mobile."
    with pytest.raises(DataError, match=re.escape(message)):
        tflite_metadata.read(newer)


@pytest.mark.parametrize("raw", [b"{}", b"[]", b"{", b"nonsense", zlib.compress(b"[]"), b"{\xff"])
def test_a_damaged_entry_is_refused(written: bytes, raw: bytes) -> None:
    with pytest.raises(
        DataError, match=re.escape("The metadata entry 'tfx_mobile' must be what tfx-mobile wrote;")
    ):
        tflite_metadata.read(with_entries(written, tfx_mobile=raw))


@pytest.mark.parametrize("raw", [b"", b"M001", bytes(9), b"\xff\xff\xff\xffM001"])
def test_a_damaged_standard_entry_is_refused(written: bytes, raw: bytes) -> None:
    with pytest.raises(DataError):
        tflite_metadata.read_standard(with_entries(written, TFLITE_METADATA=raw))


def test_standard_metadata_is_where_its_schema_says(written: bytes) -> None:
    # A reader by flatbuffers' own primitives: slots from metadata_schema.fbs, not from our description.
    raw = bytearray(entries(written)["TFLITE_METADATA"])
    assert raw[4:8] == b"M001"
    root = flatbuffers.table.Table(raw, int.from_bytes(raw[:4], "little"))

    def text(table: Any, slot: int) -> str:
        offset = table.Offset(4 + 2 * slot)
        return table.String(table.Pos + offset).decode() if offset else ""

    def tables(table: Any, slot: int) -> list[Any]:
        offset = table.Offset(4 + 2 * slot)
        places = [table.Vector(offset) + 4 * i for i in range(table.VectorLen(offset))]
        return [flatbuffers.table.Table(raw, table.Indirect(place)) for place in places]

    words = {
        0: "taxi-fare",
        1: "Fare before the trip starts",
        2: "3",
        4: "Mobile team",
        5: "Apache-2.0",
        7: "1.0.0",
    }
    assert {slot: text(root, slot) for slot in words} == words
    (graph,) = tables(root, 3)
    assert [(text(one, 0), text(one, 1)) for one in tables(graph, 2)] == [
        ("company", "Who drives"),
        ("miles", "Length of the trip [mile]"),
    ]
    assert [(text(one, 0), text(one, 1)) for one in tables(graph, 3)] == [("fare", "Price of the trip [USD]")]


def test_it_costs_less_than_six_hundred_bytes_to_download(plain: bytes, written: bytes) -> None:
    assert candidates.gz_size_bytes(written) - candidates.gz_size_bytes(plain) < 600
