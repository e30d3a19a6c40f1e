"""The checked reader and compact writer of flatbuffers, and our description of TFLite's tables."""

import inspect as python
import re
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as generated
from tests.common.tflite_files import ALL_STRANGERS, packed, stranger, table_file

from tfx_mobile.common import flatbuffer, tflite_file
from tfx_mobile.common.errors import DataError
from tfx_mobile.common.flatbuffer import Schema, Table

_WIDE = 0x0102030405060708
SCHEMA = Schema("Root small:byte wide:long name:string data:[ubyte]@16 of:[Leaf]\nLeaf value:int=7", {})
FLAGS = {
    "Int8": "byte", "Uint8": "ubyte", "Uint16": "ushort", "Int32": "int", "Uint32": "uint", "Int64": "long",
    "Uint64": "ulong", "Float32": "float", "Bool": "bool",
}  # fmt: skip


def generated_fields(table: Any) -> dict[int, str]:
    """Returns slot -> type of a generated reader's fields, as far as its code says."""
    found: dict[int, str] = {}
    for name, method in python.getmembers(table, python.isfunction):
        source = python.getsource(method)
        slot = re.search(r"_tab\.Offset\((\d+)\)", source)
        if not slot or re.fullmatch(r"\w+(AsNumpy|Length|IsNone)", name):
            continue
        flag = re.search(r"number_types\.(\w+)Flags, ", source)
        many = "_tab.Vector(" in source
        made = re.search(r"obj = (\w+)\(\)", source)
        kind = "string" if "_tab.String" in source else made and made.group(1)
        kind = kind or ("union" if "_tab.Union" in source else FLAGS[flag.group(1)] if flag else "?")
        found[(int(slot.group(1)) - 4) // 2] = f"[{kind}]" if many else str(kind)
    return found


def readers() -> dict[str, Any]:
    return {name: one for name, one in vars(generated).items() if hasattr(one, "GetRootAs")}


@pytest.mark.parametrize("name", sorted(tflite_file.SCHEMA.tables))
def test_a_table_is_described_as_the_runtimes_generated_reader_has_it(name: str) -> None:
    wanted = generated_fields(readers()[name])
    described = {}
    for slot, field in enumerate(tflite_file.SCHEMA.tables[name]):
        kind = "union" if field.type in tflite_file.SCHEMA.unions else field.type
        described[slot] = f"[{kind}]" if field.is_vector else kind
    unused = {slot for slot, field in enumerate(tflite_file.SCHEMA.tables[name]) if field.name == "_"}
    assert {slot: kind for slot, kind in described.items() if slot not in unused} == wanted


def test_every_table_with_a_vector_string_or_table_is_described() -> None:
    lacking = {
        name
        for name, one in readers().items()
        if any(kind.startswith("[") or kind not in FLAGS.values() for kind in generated_fields(one).values())
    }
    assert len(lacking) > 30
    assert lacking <= set(tflite_file.SCHEMA.tables)


def test_a_table_written_by_hand_is_these_bytes() -> None:
    content = flatbuffer.write(Table("Root", {"small": 5, "name": b"ab"}), SCHEMA, b"TEST")
    assert content == b"".join(
        [
            bytes([20, 0, 0, 0]) + b"TEST",  # the root is at 20
            bytes(
                [10, 0, 9, 0, 8, 0, 0, 0, 4, 0]
            ),  # a vtable of 10 bytes, a table of 9, fields at 8, none, 4
            bytes(2),  # the table is aligned to 4
            bytes([12, 0, 0, 0]),  # its vtable is 12 before it
            bytes([8, 0, 0, 0]),  # the string is 8 behind here
            bytes([5]) + bytes(3),
            bytes([2, 0, 0, 0]) + b"ab\0",
        ]
    )


def test_what_was_written_is_read() -> None:
    leaf = Table("Leaf", {"value": -3})
    data = np.arange(33, dtype=np.uint8)
    root = Table(
        "Root", {"small": -1, "wide": 1 << 40, "name": b"caf\xc3\xa9", "data": data, "of": [leaf, leaf]}
    )
    content = flatbuffer.write(root, SCHEMA, b"TEST")
    found, claims = flatbuffer.read(content, SCHEMA, "Root")
    assert {name: found.get(name) for name in ("small", "wide", "name")} == {
        "small": -1,
        "wide": 1 << 40,
        "name": b"caf\xc3\xa9",
    }
    np.testing.assert_array_equal(found.get("data"), data)
    assert [entry.get("value") for entry in found.get("of")] == [-3, -3]
    starts = {claim.path: claim.start for claim in claims if claim.role == "vector"}
    assert starts["data",] % 16 == 0
    assert sum(claim.role == "table" for claim in claims) == 2  # the leaf is stored once


def test_a_default_is_not_stored() -> None:
    long, short = (
        flatbuffer.write(Table("Root", {"of": [Table("Leaf", {"value": value})]}), SCHEMA, b"TEST")
        for value in (8, 7)
    )
    assert len(short) < len(long)
    assert flatbuffer.read(short, SCHEMA, "Root")[0].get("of")[0].fields == {}


@pytest.mark.parametrize("name", ["alexa", "face_detection_front"])
def test_a_strangers_file_is_rewritten_with_the_same_content(name: str) -> None:
    content = stranger(name)
    rewritten = tflite_file.write(tflite_file.to_rewrite(content))
    assert len(rewritten) < len(content)
    assert tflite_file.write(tflite_file.to_rewrite(rewritten)) == rewritten
    before, after = (generated.ModelT.InitFromPackedBuf(one, 0) for one in (content, rewritten))
    assert plain(after) == plain(before)


def plain(value: Any) -> Any:
    """Returns an object of the generated schema as lists and dicts."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    if hasattr(value, "__dict__"):
        return {name: plain(entry) for name, entry in vars(value).items()}
    return value


@pytest.mark.parametrize("name", ALL_STRANGERS)
def test_the_parts_of_strangers_files_do_not_overlap_and_what_is_between_them_is_zero(name: str) -> None:
    content = stranger(name)
    covered = np.zeros(len(content), np.int8)
    for claim in tflite_file.read(content)[1]:
        covered[claim.start : claim.end] += 1
    assert covered.max() == 1
    assert not np.frombuffer(content, np.uint8)[covered == 0].any()


def test_a_field_that_our_schema_does_not_know_is_read_over_and_not_lost() -> None:
    newer = Schema(
        "Root small:byte wide:long name:string data:[ubyte]@16 of:[Leaf] more:int\nLeaf value:int", {}
    )
    content = flatbuffer.write(Table("Root", {"small": 1, "more": 9}), newer, b"TEST")
    found, _ = flatbuffer.read(content, SCHEMA, "Root")
    assert found.get("small") == 1
    message = "A table to write must have known fields only; 'Root' has newer ones. Update tfx-mobile."
    with pytest.raises(DataError, match=re.escape(message)):
        flatbuffer.write(found, SCHEMA, b"TEST")


def test_an_offset_beyond_the_end_is_refused_with_its_place() -> None:
    content = flatbuffer.write(Table("Root", {"name": b"ab"}), SCHEMA, b"TEST")
    message = (
        f"A flatbuffer must hold all it points to; name is at bytes {len(content) - 3} to {len(content)} of"
    )
    with pytest.raises(DataError, match=re.escape(message)):
        flatbuffer.read(content[:-1], SCHEMA, "Root")


def test_a_vector_of_many_parts_that_are_one_is_refused() -> None:
    many = Table("Leaf", {"value": 1})
    graph = Schema("Root rows:[Row]\nRow cells:[Leaf]\nLeaf value:int", {})
    rows = [Table("Row", {"cells": [many] * 2000})] * 2000  # 16 KB that stand for 4 million values
    content = flatbuffer.write(Table("Root", {"rows": rows}), graph, b"TEST")
    with pytest.raises(DataError, match=re.escape("must not repeat its parts without end; got ")):
        flatbuffer.read(content, graph, "Root")


def test_parts_that_overlap_are_refused() -> None:
    content = bytearray(packed(table_file()))
    claims = [claim for claim in tflite_file.read(bytes(content))[1] if claim.role == "string"]
    for claim in claims:  # each string takes all that is behind it
        content[claim.start : claim.start + 4] = (len(content) - claim.start - 5).to_bytes(4, "little")
    with pytest.raises(
        DataError, match=re.escape("The parts of a flatbuffer must not overlap; those up to ")
    ):
        tflite_file.read(bytes(content))


def test_a_file_with_content_behind_its_tables_is_not_rewritten() -> None:
    message = "A TFLite file to rewrite must have all its content in its tables; got 3 bytes behind them"
    with pytest.raises(DataError, match=re.escape(message)):
        tflite_file.to_rewrite(packed(table_file()) + b"zip")


def test_wide_scalars_of_tables_that_are_not_described_stay_aligned() -> None:
    model = table_file()
    model.subgraphs[0].operators *= 3
    for number, operator in enumerate(model.subgraphs[0].operators):
        operator = model.subgraphs[0].operators[number] = generated.OperatorT()
        operator.inputs, operator.outputs = [1] * number, [5]
        operator.builtinOptionsType = generated.BuiltinOptions.RandomOptions
        operator.builtinOptions = generated.RandomOptionsT()
        operator.builtinOptions.seed, operator.builtinOptions.seed2 = number + 1, _WIDE
    content = tflite_file.write(tflite_file.to_rewrite(packed(model)))
    found = generated.ModelT.InitFromPackedBuf(content, 0).subgraphs[0].operators
    assert [(one.builtinOptions.seed, one.builtinOptions.seed2) for one in found] == [
        (n, _WIDE) for n in (1, 2, 3)
    ]
    at = content.index(_WIDE.to_bytes(8, "little"))
    while at >= 0:
        assert at % 8 == 0
        at = content.find(_WIDE.to_bytes(8, "little"), at + 1)
