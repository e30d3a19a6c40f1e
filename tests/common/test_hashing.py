"""Hashes of rows: known values, laws of what may and may not change them, and collisions."""

import hashlib
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfx_mobile.common.hashing import mix, row_hashes

TYPES = {"x": pa.list_(pa.float32()), "n": pa.list_(pa.int64()), "s": pa.list_(pa.binary())}
ROWS = [
    {"x": [1.5], "n": [3], "s": [b"Flash"]},
    {"x": [1.5], "n": [3], "s": [b"Sun"]},
    {"x": [0.0], "n": [], "s": [b""]},
    {"x": None, "n": [0, 0], "s": [b"", b""]},
    {"x": [2.0, 1.0], "n": [-1], "s": None},
    {"x": [1.0, 2.0], "n": [-1], "s": []},
]


def batch(rows: Any, names: str = "xns") -> Any:
    arrays = [pa.array([row[name] for row in rows], TYPES[name]) for name in names]
    return pa.record_batch(arrays, list(names))


def test_mix_is_the_finaliser_of_splitmix64() -> None:
    # the first three outputs of the reference implementation for the seed 0
    golden = np.uint64(0x9E3779B97F4A7C15)
    found = mix(np.arange(1, 4, dtype=np.uint64) * golden)
    assert [f"{value:x}" for value in found.tolist()] == [
        "e220a8397b1dcdaf",
        "6e789e6aa1b965f4",
        "6c45d188009454f",
    ]


def by_integers(row: Any, seed: int) -> int:
    """The hash of one row, in Python's own integers."""

    def digest(text: bytes) -> int:
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")

    def mixed(value: int) -> int:
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
        return value ^ value >> 31

    def bits(name: str, value: Any) -> int:
        if name == "s":
            return digest(value)
        kind, fill = ("<f", 16) if name == "x" else ("<q", 32)
        stored = int.from_bytes(struct.pack(kind, value), "little")
        return stored ^ stored >> fill

    total = digest(b"%d" % seed)
    for name, values in row.items():
        salt = digest(b"%d:%s" % (seed, name.encode()))
        draws = [mixed((salt + i * 0x9E3779B97F4A7C15) % 2**64) for i in range(2 * len(values or ()) + 2)]
        total += sum(bits(name, value) * (draws[2 * i] | 1) for i, value in enumerate(values or ()))
        total += draws[2 * len(values) + 1] if values else 0
    return mixed(total % 2**64)


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], ROWS[-2:]], ids=["ragged", "one each", "fixed"])
def test_hashes_are_those_of_the_same_arithmetic_in_pythons_integers(rows: Any) -> None:
    # a sample, and with it each file of a rerun, hangs on them: they may not change between releases
    assert row_hashes(batch(rows), 5).tolist() == [by_integers(row, 5) for row in rows]


def test_rows_that_differ_have_other_hashes() -> None:
    assert len(set(row_hashes(batch(ROWS), 1).tolist())) == len(ROWS)


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(len(ROWS))), st.integers(1, len(ROWS)), st.permutations("xns"))
def test_order_batches_and_order_of_features_change_no_hash(order: Any, size: int, names: Any) -> None:
    wanted = row_hashes(batch(ROWS), 7)
    for begin in range(0, len(order), size):
        chosen = order[begin : begin + size]
        found = row_hashes(batch([ROWS[i] for i in chosen], "".join(names)), 7)
        assert found.tolist() == wanted[chosen].tolist()


@pytest.mark.parametrize("empty", [None, []])
def test_a_feature_without_values_is_as_one_that_is_not_there(empty: Any) -> None:
    rows = [{"x": [1.0], "n": [2], "s": empty}, {"x": [3.0], "n": empty, "s": empty}]
    without = [{"x": [1.0], "n": [2]}, {"x": [3.0], "n": empty}]
    assert row_hashes(batch(rows), 1).tolist() == row_hashes(batch(without, "xn"), 1).tolist()
    null = batch(without, "xn").to_pydict() | {"s": [None, None]}
    arrays = [pa.array(null["x"], TYPES["x"]), pa.array(null["n"], TYPES["n"]), pa.nulls(2)]
    assert row_hashes(pa.record_batch(arrays, ["x", "n", "s"]), 1).tolist() == (
        row_hashes(batch(rows), 1).tolist()
    )


def test_values_behind_a_null_do_not_count() -> None:
    offsets, valid = np.array([0, 1, 2], np.int32), np.array([0b10], np.uint8)
    buffers = [pa.py_buffer(valid.tobytes()), pa.py_buffer(offsets.tobytes())]
    values = pa.array([5.0, 6.0], pa.float32())
    hidden = pa.ListArray.from_buffers(TYPES["x"], 2, buffers, children=[values])
    assert hidden.to_pylist() == [None, [6.0]]
    wanted = row_hashes(batch([{"x": None}, {"x": [6.0]}], "x"), 1)
    assert row_hashes(pa.record_batch([hidden], ["x"]), 1).tolist() == wanted.tolist()


def test_a_slice_and_large_lists_have_the_hashes_of_their_rows() -> None:
    wanted = row_hashes(batch(ROWS), 3).tolist()
    assert row_hashes(batch(ROWS).slice(2, 3), 3).tolist() == wanted[2:5]
    large = {"x": pa.large_list(pa.float32()), "n": pa.large_list(pa.int64())}
    large["s"] = pa.large_list(pa.large_binary())
    arrays = [pa.array([row[name] for row in ROWS], large[name]) for name in "xns"]
    assert row_hashes(pa.record_batch(arrays, list("xns")), 3).tolist() == wanted


def test_a_value_counts_for_its_feature_and_its_position() -> None:
    swapped = [pa.array([[1.0], [2.0]], TYPES["x"]), pa.array([[2.0], [1.0]], TYPES["x"])]
    found = row_hashes(pa.record_batch(swapped, ["a", "b"]), 1)
    assert found[0] != found[1]


def test_another_seed_gives_other_hashes() -> None:
    one, other = (set(row_hashes(batch(ROWS), seed).tolist()) for seed in (1, 2))
    assert not one & other


def test_a_batch_without_rows_has_no_hashes() -> None:
    assert row_hashes(batch([]), 1).shape == (0,)


@pytest.mark.parametrize(
    "values",
    [
        np.arange(65536, dtype=np.float32),
        np.arange(65536) << 44,  # integers whose low bits are all zeros
        np.array([b"%d" % i for i in range(65536)], dtype=object),
    ],
    ids=["short floats", "high integers", "texts"],
)
def test_pairs_of_short_values_do_not_collide_and_fill_the_range(values: Any) -> None:
    # 65,536 of 2**64 hashes: a collision has a chance of 1e-10
    offsets = pa.array(np.arange(0, 65537, 2), pa.int32())
    pairs = pa.ListArray.from_arrays(offsets, pa.array(values))
    single = pa.ListArray.from_arrays(pa.array(np.arange(65537), pa.int32()), pa.array(values[::-1]))
    found = [
        row_hashes(pa.record_batch([pairs, single.slice(0, 32768)], ["a", "b"]), 1),
        row_hashes(pa.record_batch([single.slice(32768), pairs], ["a", "b"]), 1),
    ]
    hashes = np.concatenate(found)
    assert len(np.unique(hashes)) == 65536
    in_each = np.bincount((hashes >> np.uint64(56)).astype(int), minlength=256)
    assert ((in_each - 256) ** 2 / 256).sum() < 370  # chi-squared of 255 degrees: 1e-5 above
