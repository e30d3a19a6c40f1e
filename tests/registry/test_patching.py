"""Deltas: what is made of them, and what is refused before it is unpacked."""

import bz2
import random
import re
import struct
import tracemalloc

import bsdiff4  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfx_mobile.common.errors import RegistryError
from tfx_mobile.registry.patching import patched


def delta_of(control: bytes, diff: bytes, extra: bytes, size_bytes: int) -> bytes:
    packed = [bz2.compress(part) for part in (control, diff, extra)]
    return b"BSDIFF40" + struct.pack("<qqq", len(packed[0]), len(packed[1]), size_bytes) + b"".join(packed)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400), st.binary(max_size=400), st.integers(0, 400), st.integers(0, 400))
def test_a_delta_of_two_files_makes_the_second_from_the_first(
    first: bytes, middle: bytes, start: int, end: int
) -> None:
    second = first[:start] + middle + first[end:]
    assert patched(first, bsdiff4.diff(first, second), size_bytes=len(second)) == second


def test_a_delta_with_many_small_changes_is_within_the_steps_that_are_allowed() -> None:
    rng = random.Random(0)
    first = rng.randbytes(20_000)
    second = bytearray(first)
    for _ in range(2_000):  # inserted, removed and changed bytes, so that every step is short
        place = rng.randrange(len(second) - 1)
        second[place : place + rng.randrange(2)] = rng.randbytes(rng.randrange(3))
    assert patched(first, bsdiff4.diff(first, bytes(second)), size_bytes=len(second)) == bytes(second)


def test_a_case_by_hand() -> None:
    control = struct.pack("<qqq", 3, 2, 0)  # add to three bytes of the base, then two of the new ones
    assert patched(b"abc", delta_of(control, b"\0\1\0", b"xy", 5), size_bytes=5) == b"accxy"


BOMB = bytes(50_000_000)
STEP = struct.pack("<qqq", 5, 0, 0)


@pytest.mark.parametrize(
    ("delta", "message"),
    [
        (b"", "Delta must be in the BSDIFF40 format; it is not."),
        (b"BSDIFF41" + bytes(24), "Delta must be in the BSDIFF40 format; it is not."),
        (
            delta_of(STEP, bytes(5), b"", 2**40),
            "Delta must make the 5 bytes that were signed; it makes 1099511627776.",
        ),
        (b"BSDIFF40" + bytes(23), "Delta must be in the BSDIFF40 format; it is not."),
        (delta_of(STEP, bytes(5), b"", 4), "Delta must make the 5 bytes that were signed; it makes 4."),
        (delta_of(STEP, bytes(5), b"", -5), "Delta must make the 5 bytes that were signed; it makes"),
        (b"BSDIFF40" + struct.pack("<qqq", 2**40, 1, 5), "Delta must be as long as its header says"),
        (b"BSDIFF40" + struct.pack("<QQQ", 2**63 + 1, 2, 5) + b"x", "Delta must be as long as its header"),
        (b"BSDIFF40" + struct.pack("<qqq", 2, 2, 5) + b"xyz", "Delta must be as long as its header says"),
        (b"BSDIFF40" + struct.pack("<qqq", 2, 1, 5) + b"xyz", "Delta must be packed with bzip2;"),
        (delta_of(STEP, bytes(6), b"", 5), "Delta must unpack to 5 bytes at most; it goes on."),
        (delta_of(BOMB, bytes(5), b"", 5), "Delta must unpack to 48 bytes at most; it goes on."),
        (delta_of(STEP, BOMB, b"", 5), "Delta must unpack to 5 bytes at most; it goes on."),
        (delta_of(STEP, bytes(5), BOMB, 5), "Delta must unpack to 5 bytes at most; it goes on."),
        (delta_of(STEP, bytes(5), b"", 5)[:-3], "Delta must be whole; a part of it is cut off."),
        (delta_of(STEP, bytes(5), b"", 5) + b"x", "Delta must end where its parts end; more follows."),
        (b"BSDIFF40" + struct.pack("<qqq", 1, 1, 5) + b"xyz", "Delta must be packed with bzip2;"),
        (delta_of(struct.pack("<qqq", 6, 0, 0), bytes(5), b"", 5), "must fit the file that it starts from"),
        (delta_of(struct.pack("<qqq", 3, 0, 0), bytes(5), b"", 5), "must fit the file that it starts from"),
        (
            delta_of(STEP[:20], bytes(5), b"", 5),
            "Delta must fit the file that it starts from; invalid control",
        ),
    ],
)
def test_a_delta_that_is_wrong_or_a_bomb_is_refused(delta: bytes, message: str) -> None:
    with pytest.raises(RegistryError, match=re.escape(message)):
        patched(b"abcde", delta, size_bytes=5)


def test_a_bomb_is_not_unpacked_to_find_that_it_is_one() -> None:
    delta = delta_of(STEP, BOMB, b"", 5)
    tracemalloc.start()
    try:
        with pytest.raises(RegistryError, match=re.escape("Delta must unpack to 5 bytes at most; it goes")):
            patched(b"abcde", delta, size_bytes=5)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(*[st.integers(-(2**40), 2**40)] * 3), max_size=2), st.binary(max_size=5))
def test_whatever_the_steps_are_it_is_the_promised_length_or_refused(
    steps: list[tuple[int, int, int]], content: bytes
) -> None:
    control = b"".join(
        struct.pack("<Q", abs(number) | (number < 0) << 63) for step in steps for number in step
    )
    try:
        made = patched(b"abcde", delta_of(control, content, content, 5), size_bytes=5)
    except RegistryError:
        return
    assert len(made) == 5
