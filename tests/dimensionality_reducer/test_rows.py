"""Rows: what a dense and a sparse block make together, and hashes that depend on nothing but values."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from tfx_mobile.dimensionality_reducer import rows as rows_module
from tfx_mobile.dimensionality_reducer.rows import Rows

NUMBERS = [[1.0, -2.0], [0.0, 3.0], [5.0, 0.5]]
COUNTS = [[0.0, 1.0, 2.0], [0.0, 0.0, 0.0], [4.0, 0.0, 0.0]]


def nan(bits: int) -> Any:
    return np.frombuffer(struct.pack("<I", bits), np.float32)[0]


def both() -> Rows:
    return Rows.of(NUMBERS, COUNTS)


class TestBlocks:
    def test_columns_are_the_numbers_and_then_the_counts(self) -> None:
        found = both()
        assert (found.num_rows, found.num_numbers, found.width) == (3, 2, 5)
        assert found.dense().tolist() == np.hstack([NUMBERS, COUNTS]).tolist()
        assert found.dense().dtype == np.float32

    def test_without_counts_there_are_the_numbers(self) -> None:
        found = Rows.of(NUMBERS)
        assert (found.num_rows, found.num_numbers, found.width) == (3, 2, 2)
        assert found.dense().tolist() == NUMBERS

    @pytest.mark.parametrize("chosen", [[2, 0], [False, True, True], [], [1, 1]])
    def test_taking_rows_takes_both_blocks(self, chosen: list[Any]) -> None:
        index = np.array(chosen, bool if chosen and isinstance(chosen[0], bool) else np.int64)
        assert both().take(index).dense().tolist() == both().dense()[index].tolist()

    def test_joined_rows_follow_each_other(self) -> None:
        joined = both().join(both().take(np.array([1])))
        assert joined.dense().tolist() == both().dense()[[0, 1, 2, 1]].tolist()
        assert joined.counts.dtype == np.float32

    def test_projecting_is_the_product_with_all_columns(self) -> None:
        draw = np.random.default_rng(1)
        centre, matrix, offset = draw.normal(size=2), draw.normal(size=(5, 3)), draw.normal(size=3)
        found = both().project(*(np.float32(value) for value in (centre, matrix, offset)))
        exact = (np.hstack([NUMBERS, COUNTS]) - np.append(centre, [0, 0, 0])) @ matrix + offset
        assert found.dtype == np.float32
        # Five products and two sums, each rounded to 2**-24 of at most 10.
        np.testing.assert_allclose(found, exact, rtol=0, atol=7 * 10 * 2.0**-24)

    def test_what_is_not_finite_is_found_in_both_blocks(self) -> None:
        rows = Rows.of([[1.0, np.nan], [np.inf, 2.0]], [[0.0, -np.inf], [1.0, 0.0]])
        found = rows.not_finite()
        assert found.by_column.tolist() == [1, 1, 0, 1]
        assert found.in_numbers.tolist() == [True, True]
        assert found.in_counts.tolist() == [True, False]
        assert not rows.all_finite()
        assert both().all_finite()
        assert not Rows.of(NUMBERS, np.where(np.array(COUNTS) == 4, np.nan, COUNTS)).all_finite()
        assert not Rows.of([[np.nan]]).all_finite()

    def test_only_numbers_that_are_not_finite_are_imputed(self) -> None:
        rows = Rows.of([[1.0, np.nan], [-np.inf, 2.0]], [[3.0], [0.0]])
        found = rows.imputed(np.array([7.0, 8.0], np.float32))
        assert found.dense().tolist() == [[1.0, 8.0, 3.0], [7.0, 2.0, 0.0]]


class TestHashes:
    def test_a_row_by_hand(self) -> None:
        # Of a row of zeros nothing is left but the last multiplier.
        draw = np.random.Generator(np.random.Philox(3))
        odd = draw.integers(0, 2**64, 3, np.uint64) | np.uint64(1)
        expected = rows_module.mix(odd[-1:])
        assert Rows.of([[0.0, 0.0]]).hashes(3).tolist() == expected.tolist()
        # 1.0 is 0x3F800000, and its upper half fills the lower one.
        first = (0x3F803F80 * int(odd[0]) + int(odd[-1])) % 2**64
        assert Rows.of([[1.0, 0.0]]).hashes(3)[0] == rows_module.mix(np.array([first], np.uint64))[0]

    @pytest.mark.parametrize("num_numbers", range(6))
    def test_the_same_row_has_the_same_hash_in_dense_and_sparse_form(self, num_numbers: int) -> None:
        dense = both().dense()
        split = Rows.of(dense[:, :num_numbers], dense[:, num_numbers:])
        assert split.hashes(7).tolist() == both().hashes(7).tolist()

    def test_a_zero_that_is_written_out_is_like_one_that_is_not(self) -> None:
        written = sparse.csr_matrix(
            (np.array([0.0, -0.0, 2.0], np.float32), ([0, 0, 0], [0, 1, 2])), shape=(1, 3)
        )
        assert written.nnz == 3
        assert Rows.of([[1.0]], written).hashes(1) == Rows.of([[1.0]], [[0.0, 0.0, 2.0]]).hashes(1)

    def test_minus_zero_is_zero(self) -> None:
        assert Rows.of([[-0.0, 1.0]]).hashes(1) == Rows.of([[0.0, 1.0]]).hashes(1)

    def test_every_nan_is_the_same(self) -> None:
        quiet, signed, payload = nan(0x7FC00000), nan(0xFFC00000), nan(0x7FC12345)
        numbers = np.array([[quiet], [signed], [payload]], np.float32)
        for rows in (Rows.of(numbers), Rows.of(np.zeros((3, 0)), sparse.csr_matrix(numbers))):
            assert len(set(rows.hashes(1).tolist())) == 1

    def test_infinities_and_nan_are_different(self) -> None:
        hashes = Rows.of([[np.inf], [-np.inf], [np.nan], [0.0]]).hashes(1)
        assert len(set(hashes.tolist())) == 4

    def test_the_order_of_the_columns_matters(self) -> None:
        hashes = Rows.of([[1.0, 2.0], [2.0, 1.0]]).hashes(1)
        assert hashes[0] != hashes[1]

    def test_another_seed_is_another_hash(self) -> None:
        assert not set(both().hashes(1).tolist()) & set(both().hashes(2).tolist())

    @given(st.permutations(range(3)))
    def test_a_hash_does_not_depend_on_the_other_rows(self, order: list[int]) -> None:
        found = both().take(np.array(order)).hashes(5)
        assert found.tolist() == both().hashes(5)[order].tolist()
        assert both().take(np.array(order[:1])).hashes(5)[0] == found[0]

    @given(
        st.lists(st.floats(width=32, allow_nan=False), min_size=3, max_size=3),
        st.lists(st.floats(width=32, allow_nan=False), min_size=3, max_size=3),
    )
    @settings(deadline=None)
    def test_different_rows_have_different_hashes(self, one: list[float], other: list[float]) -> None:
        hashes = Rows.of([one, other]).hashes(11)
        assert (hashes[0] == hashes[1]) == (one == other)

    def test_rows_of_few_different_numbers_have_hashes_of_their_own(self) -> None:
        # All 2**17 rows of zeros and ones: 9e9 pairs, and 2**64 hashes.
        rows = (np.arange(2**17)[:, None] >> np.arange(17)) & 1
        assert len(np.unique(Rows.of(rows).hashes(2))) == len(rows)

    @pytest.mark.parametrize("bit", [0, 1, 31, 62, 63])
    def test_each_bit_of_a_hash_is_set_in_half_of_the_rows(self, bit: int) -> None:
        hashes = Rows.of(np.arange(20_000)[:, None]).hashes(4)
        ones = int(((hashes >> np.uint64(bit)) & np.uint64(1)).sum())
        # A fair coin is further off than this once in 1e5 times; the seed is fixed.
        assert abs(ones - 10_000) < 4.4 * 20_000**0.5 / 2

    def test_hashes_are_uniform(self) -> None:
        rows = Rows.of(np.random.default_rng(0).integers(0, 2, (20_000, 30)))
        shares = np.unique(rows.hashes(9)).astype(np.float64) / 2.0**64
        assert stats.kstest(shares, "uniform").pvalue > 0.01
