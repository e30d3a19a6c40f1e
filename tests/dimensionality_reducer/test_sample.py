"""The sample is the same in any sharding and order, has exact counts, and is uniform over different rows."""

import collections
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tfx_mobile.dimensionality_reducer.rows import Rows
from tfx_mobile.dimensionality_reducer.sample import Sample


def nothing(size: int, seed: int = 0, *, num_numbers: int = 2, num_counts: int = 1) -> Sample:
    rows = Rows.of(np.zeros((0, num_numbers)), np.zeros((0, num_counts)))
    return Sample.of(rows, np.zeros(0), size, seed)


def few_values(num_rows: int, seed: int) -> tuple[Rows, Any]:
    """Rows of which many are alike, some with different labels and some without a finite one."""
    draw = np.random.default_rng(seed)
    numbers, counts = draw.integers(0, 3, (num_rows, 2)), draw.integers(0, 2, (num_rows, 1))
    return Rows.of(numbers, counts), draw.choice([1.0, 2.0, np.nan], num_rows)


def assert_same(one: Sample, other: Sample) -> None:
    np.testing.assert_array_equal(one.hashes, other.hashes)
    np.testing.assert_array_equal(one.occurrences, other.occurrences)
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(one.rows.dense(), other.rows.dense())


def ones(num_rows: int, size: int, seed: int) -> Any:
    """The sample of `num_rows` different rows of one number."""
    rows = Rows.of(np.arange(num_rows)[:, None])
    return Sample.of(rows, np.zeros(num_rows), size, seed)


class TestSharding:
    @given(
        st.integers(0, 80),
        st.integers(1, 20),
        st.integers(0, 2**32),
        st.lists(st.integers(0, 80), max_size=6),
        st.integers(0, 10**6),
    )
    @settings(max_examples=150, deadline=None)
    def test_any_order_sharding_and_tree_gives_the_identical_sample(
        self, num_rows: int, size: int, seed: int, cuts: list[int], shuffle: int
    ) -> None:
        rows, labels = few_values(num_rows, seed)
        whole = Sample.of(rows, labels, size, 5)
        draw = np.random.default_rng(shuffle)
        parts = []
        for chosen in np.split(draw.permutation(num_rows), sorted(min(cut, num_rows) for cut in cuts)):
            half = len(chosen) // 2
            part = nothing(size, 5).add(rows.take(chosen[:half]), labels[chosen[:half]])
            parts.append(part.add(rows.take(chosen[half:]), labels[chosen[half:]]))
        while len(parts) > 1:
            one = parts.pop(int(draw.integers(len(parts))))
            other = parts.pop(int(draw.integers(len(parts))))
            parts.append(one.merge(other))
        assert_same(parts[0], whole)

    def test_with_labels_of_text_too(self) -> None:
        rows, _ = few_values(60, 1)
        labels = np.array([b"yes", b"no", b"maybe"] * 20, object)
        one = Sample.of(rows, labels, 8, 0)
        other = nothing(8).add(rows.take(np.arange(60)[::-1]), labels[::-1])
        assert_same(one, other)
        assert one.labels.dtype == object

    @given(st.integers(1, 30), st.integers(0, 2**32))
    @settings(max_examples=60, deadline=None)
    def test_counts_are_exact(self, size: int, seed: int) -> None:
        rows, labels = few_values(200, seed)
        found = nothing(size)
        for start in range(0, 200, 17):
            chosen = np.arange(start, min(start + 17, 200))
            found = found.add(rows.take(chosen), labels[chosen])
        exact = collections.Counter(map(tuple, rows.dense().tolist()))
        assert len(found.hashes) == min(size, len(exact))
        for row, occurrences in zip(found.rows.dense().tolist(), found.occurrences, strict=True):
            assert exact[tuple(row)] == occurrences

    def test_of_equal_rows_the_smallest_label_stands_for_all(self) -> None:
        rows = Rows.of([[1.0], [1.0], [1.0]])
        for labels in ([3.0, 2.0, np.nan], [2.0, np.nan, 3.0]):
            found = Sample.of(rows, np.array(labels), 4, 0)
            assert (found.labels.tolist(), found.occurrences.tolist()) == ([2.0], [3])

    def test_hashes_rise(self) -> None:
        hashes = ones(1000, 50, 0).hashes
        assert (hashes[1:] > hashes[:-1]).all()

    def test_the_rows_with_the_smallest_hashes_stay(self) -> None:
        everything = ones(1000, 1000, 0)
        assert ones(1000, 50, 0).hashes.tolist() == everything.hashes[:50].tolist()

    def test_a_larger_sample_holds_the_smaller_one(self) -> None:
        small, large = ones(1000, 50, 0), ones(1000, 80, 0)
        assert large.rows.numbers[:50].tolist() == small.rows.numbers.tolist()

    def test_adding_nothing_leaves_it_as_it_is(self) -> None:
        found = Sample.of(*few_values(30, 2), 5, 0)
        assert_same(found.add(Rows.of(np.zeros((0, 2)), np.zeros((0, 1))), np.zeros(0)), found)
        assert_same(found.merge(nothing(5)), found)
        assert_same(nothing(5).merge(found), found)


class TestUniformity:
    def test_every_row_is_as_likely_to_stay(self) -> None:
        times = np.zeros(50)
        for seed in range(2000):
            times[ones(50, 10, seed).rows.numbers[:, 0].astype(int)] += 1
        # Draws without replacement vary less than the multinomial that the test assumes, by 10/50.
        assert stats.chisquare(times).pvalue > 0.01
        assert stats.chisquare(times).statistic / (1 - 10 / 50) > stats.chi2.ppf(0.001, 49)

    def test_rows_stay_independently_of_each_other(self) -> None:
        together = np.zeros((20, 20))
        for seed in range(3000):
            kept = ones(20, 10, seed).rows.numbers[:, 0].astype(int)
            together[np.ix_(kept, kept)] += 1
        pairs = together[np.triu_indices(20, 1)]
        # 3000 * (10 / 20) * (9 / 19) each, with a deviation of 23; 190 pairs reach 4.5 of them once in 800.
        np.testing.assert_allclose(pairs, 3000 * 10 / 20 * 9 / 19, rtol=0, atol=4.5 * 23.4)

    def test_a_mean_over_the_sample_is_that_of_the_rows(self) -> None:
        kept = ones(100_000, 2000, 8).rows.numbers
        # Uniform on [0, 1e5): the mean of 2000 deviates by 1e5 / sqrt(12 * 2000) = 645.
        assert abs(kept.mean() - 50_000) < 3 * 645

    def test_how_often_a_row_occurs_does_not_change_its_chance(self) -> None:
        kept = 0
        for seed in range(2000):
            rows = Rows.of(np.append(np.arange(20), np.zeros(500))[:, None])
            kept += 0.0 in Sample.of(rows, np.zeros(520), 5, seed).rows.numbers
        assert abs(kept - 2000 * 5 / 20) < 4 * (2000 * 0.25 * 0.75) ** 0.5


class TestRepeated:
    @staticmethod
    def of(occurrences: list[int]) -> Sample:
        numbers = np.repeat(np.arange(len(occurrences)), occurrences)[:, None]
        return Sample.of(Rows.of(numbers), np.zeros(len(numbers)), 100, 0)

    def test_each_row_comes_as_often_as_it_occurs(self) -> None:
        found = self.of([1, 4, 2]).repeated(7).numbers[:, 0]
        assert sorted(found.tolist()) == [0, 1, 1, 1, 1, 2, 2]

    @given(st.lists(st.integers(1, 50), min_size=1, max_size=10), st.integers(1, 60))
    @settings(max_examples=100, deadline=None)
    def test_above_the_limit_there_are_as_many_as_it_and_shares_stay(
        self, occurrences: list[int], limit: int
    ) -> None:
        found = self.of(occurrences).repeated(limit).numbers[:, 0].astype(int)
        total = sum(occurrences)
        assert len(found) == min(total, limit)
        for row, times in enumerate(occurrences):
            assert abs((found == row).sum() - times * len(found) / total) <= 1

    @pytest.mark.parametrize("limit", [1, 100])
    def test_of_no_rows_there_are_none(self, limit: int) -> None:
        assert nothing(5).repeated(limit).num_rows == 0
