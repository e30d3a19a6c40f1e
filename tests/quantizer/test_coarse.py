"""Fewer different weights: hand cases, laws, and what gzip makes of it."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfx_mobile.common import inspection
from tfx_mobile.common.errors import DataError
from tfx_mobile.quantizer import coarse

from .conftest import run


def columns(count: int) -> dict[str, Any]:
    """Returns rows of the back's inputs."""
    draw = np.random.default_rng(count)
    return {
        "z": draw.normal(size=(count, 1)).astype(np.float32),
        "id": draw.integers(0, 4, size=(count, 1)),
        "miles": draw.gamma(2.0, 2.0, count).astype(np.float32),
    }


def test_two_bits_leave_three_values() -> None:
    values = np.array([-128, -64, -63, 0, 63, 64, 127], np.int8)
    assert coarse.round_values(values, 2).tolist() == [-127, -127, 0, 0, 0, 127, 127]


def test_four_bits_leave_fifteen_evenly_spaced_values() -> None:
    found = coarse.round_values(np.arange(-127, 128).astype(np.int8), 4)
    wanted = [round(127 * i / 7) for i in range(-7, 8)]
    assert sorted(set(found.tolist())) == wanted


def test_eight_bits_change_nothing() -> None:
    values = np.arange(-127, 128).astype(np.int8)
    assert np.array_equal(coarse.round_values(values, 8), values)


@given(st.lists(st.integers(-127, 127), min_size=1), st.integers(3, 8))
def test_zero_stays_signs_stay_and_no_value_moves_by_more_than_half_a_step(
    values: list[int], bits: int
) -> None:
    before = np.array(values, np.int8)
    after = coarse.round_values(before, bits)
    assert (after[before == 0] == 0).all()
    assert (after.astype(int) * before >= 0).all()
    half_step = 127 / (2**bits - 2)
    assert np.abs(after.astype(int) - before).max() <= half_step + 0.5  # and rounding to a byte
    assert np.array_equal(coarse.round_values(after, bits), after)


def weights_in_gz(content: bytes) -> float:
    """Returns the bytes that weights take in the gzip file; the rest depends on TensorFlow's version."""
    parts = inspection.inspect(content).breakdown
    return sum(part.gz_share_bytes for part in parts if part.kind == inspection.WEIGHTS)


@pytest.mark.pipeline
@pytest.mark.parametrize("mode", ["dynamic_range", "int8"])
def test_a_rounded_file_keeps_its_size_predicts_alike_and_packs_smaller(
    mode: str, parts: dict[str, bytes]
) -> None:
    before = parts[mode]
    after = coarse.round_weights(before, 4)
    assert abs(len(after) - len(before)) < 0.05 * len(before)
    packed, packed_before = (weights_in_gz(content) for content in (after, before))
    assert packed < 0.75 * packed_before
    one, other = (run(content, columns(40))["fare"] for content in (before, after))
    assert 0 < np.abs(one - other).max() < 0.25 * np.ptp(one)


def test_what_is_no_file_is_refused() -> None:
    with pytest.raises(
        DataError, match=re.escape("A TFLite file must have the identifier 'TFL3'; got 4 bytes")
    ):
        coarse.round_weights(b"none", 4)
