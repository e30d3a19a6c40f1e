"""Moments of rows: cases worked by hand, the laws of merging, and NumPy and scikit-learn on the whole."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.impute import SimpleImputer
from tests.dimensionality_reducer.fitting import moments_of

from tfx_mobile.dimensionality_reducer.moments import ColumnMoments, Moments, RunningColumns, RunningMoments


def correlated(num_rows: int = 500, width: int = 6, seed: int = 3) -> Any:
    """Rows whose variances lie well apart."""
    draw = np.random.default_rng(seed)
    mixing = np.linalg.qr(draw.normal(size=(width, width)))[0]
    return draw.normal(size=(num_rows, width)) * (2.0 ** -np.arange(width)) @ mixing


def bags_of_words(num_rows: int, depth: int, seed: int = 5) -> Any:
    draw = np.random.default_rng(seed)
    words = draw.zipf(1.3, size=(num_rows, 10)) % depth
    owners = np.repeat(np.arange(num_rows), 10)
    return sparse.csr_matrix((np.ones(words.size), (owners, words.ravel())), shape=(num_rows, depth))


def gathered(rows: Any, cuts: list[int], counts: Any = None) -> Moments:
    """The moments of rows that came in batches."""
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    found = RunningMoments(rows.shape[1], 0 if counts is None else counts.shape[1])
    for start, end in itertools.pairwise(edges):
        found.add(rows[start:end], None if counts is None else counts[start:end])
    return found.result()


def running(rows: Any, width: int = 2) -> RunningMoments:
    found = RunningMoments(width)
    found.add(np.reshape(rows, (-1, width)))
    return found


def merged(*parts: RunningMoments) -> RunningMoments:
    """The first one, which then has the rows of all."""
    for part in parts[1:]:
        parts[0].merge(part)
    return parts[0]


def in_shards(rows: Any, cuts: list[int]) -> Moments:
    """The moments of rows of which each part was gathered by itself."""
    parts = (running(part, rows.shape[1]) for part in np.split(rows, sorted(cuts)))
    return merged(*parts).result()


def assert_same(one: Moments, other: Moments, scale: float) -> None:
    assert one.count == other.count
    # Each merge rounds to 2**-53 of values up to `scale`; 1e-12 leaves room for some thousand of them.
    np.testing.assert_allclose(one.mean, other.mean, rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(one.cross, other.cross, rtol=0, atol=1e-12 * max(one.count, 1) * scale**2)


def whole(rows: Any) -> Moments:
    """The definition, on all rows at once."""
    centred = rows - rows.mean(axis=0)
    return Moments(len(rows), rows.mean(axis=0), centred.T @ centred)


def imputed(rows: Any) -> Any:
    """scikit-learn's answer to missing values, on all rows at once."""
    return SimpleImputer(strategy="mean").fit_transform(np.where(np.isfinite(rows), rows, np.nan))


def with_gaps(rows: Any, share: float = 0.2, seed: int = 8) -> Any:
    draw = np.random.default_rng(seed)
    rows = rows.copy()
    rows[draw.random(rows.shape) < share] = np.nan
    rows[draw.random(rows.shape) < share / 10] = np.inf
    rows[draw.random(rows.shape) < share / 10] = -np.inf
    return rows


class TestOfRows:
    def test_two_rows_by_hand(self) -> None:
        moments = moments_of(np.array([[1.0, 10.0], [3.0, 4.0]]))
        assert moments.count == 2
        assert moments.mean.tolist() == [2.0, 7.0]
        assert moments.cross.tolist() == [[2.0, -6.0], [-6.0, 18.0]]
        assert moments.covariance().tolist() == [[2.0, -6.0], [-6.0, 18.0]]

    def test_the_covariance_divides_by_one_less_than_the_rows(self) -> None:
        assert moments_of(np.array([[0.0], [3.0], [6.0]])).covariance().tolist() == [[9.0]]

    def test_the_covariance_is_numpys(self) -> None:
        rows = correlated()
        # Variances are about 1; 1e-14 is a few roundings.
        for moments in (gathered(rows, [1, 7, 400]), in_shards(rows, [1, 7, 400])):
            np.testing.assert_allclose(moments.covariance(), np.cov(rows.T), rtol=0, atol=1e-14)

    def test_an_offset_of_a_million_costs_no_accuracy_that_the_rows_still_have(self) -> None:
        rows = correlated(1000)
        # At 1e6 a float64 holds steps of 1e-10; 1000 rows of size 1 then agree to far better than 1e-7.
        for moments in (gathered(rows + 1e6, [10, 500]), in_shards(rows + 1e6, [10, 500])):
            np.testing.assert_allclose(moments.cross, moments_of(rows).cross, rtol=0, atol=1e-7)

    def test_a_first_batch_that_is_nothing_like_the_others_costs_no_accuracy(self) -> None:
        rows = np.concatenate([np.zeros((1, 3)), 1e6 + correlated(3000, 3)])
        # Centred on the first row the sum of squares would be 3e15, of which 1e-12 is left: a variance of 1
        # in 3e3 rows. What is asked for is its rounding, not that of 3e15.
        alone = gathered(np.concatenate([rows[:1], rows[1:]]), [1, 1000])
        np.testing.assert_allclose(alone.cross, whole(rows).cross, rtol=1e-12)

    @pytest.mark.parametrize("value", [0.1, 1 / 3, 1e6 + 0.1, -273.15])
    @pytest.mark.parametrize("num_rows", [10, 1000, 4096])
    def test_a_constant_column_has_a_variance_of_exactly_zero(self, value: float, num_rows: int) -> None:
        rows = np.column_stack([np.full(num_rows, value), np.arange(num_rows)])
        for moments in (gathered(rows, [3, num_rows // 2]), in_shards(rows, [3, num_rows // 2])):
            assert moments.mean[0] == value
            assert moments.cross[0, 0] == 0.0

    def test_the_cross_products_are_exactly_symmetric(self) -> None:
        for seed in range(20):
            rows = correlated(seed=seed) + 1000
            for some in (rows, with_gaps(rows)):
                cross = gathered(some, [100, 101, 333]).cross
                np.testing.assert_array_equal(cross, cross.T)


class TestMerging:
    rows = st.integers(0, 40).flatmap(
        lambda n: st.lists(
            st.lists(st.floats(-1e3, 1e3, allow_subnormal=False), min_size=2, max_size=2),
            min_size=n,
            max_size=n,
        )
    )

    def test_a_merge_by_hand(self) -> None:
        # Means 0 and 4, one row each: the outer product alone makes 2 * (2 * 2) = 8.
        found = merged(running([[0.0, 0.0]]), running([[4.0, 0.0]])).result()
        assert (found.count, found.mean.tolist(), found.cross.tolist()) == (2, [2, 0], [[8, 0], [0, 0]])

    @given(rows, rows)
    @settings(deadline=None)
    def test_merging_is_commutative(self, one: list[list[float]], other: list[list[float]]) -> None:
        left = merged(running(one), running(other))
        right = merged(running(other), running(one))
        assert_same(left.result(), right.result(), scale=1e3)

    @given(rows, rows, rows)
    @settings(deadline=None)
    def test_merging_is_associative(
        self, one: list[list[float]], two: list[list[float]], three: list[list[float]]
    ) -> None:
        left = merged(merged(running(one), running(two)), running(three))
        right = merged(running(one), merged(running(two), running(three)))
        assert_same(left.result(), right.result(), scale=1e3)

    @given(st.lists(st.integers(0, 60), max_size=6))
    @settings(max_examples=50, deadline=None)
    def test_any_division_into_batches_gives_the_moments_of_all_rows(self, cuts: list[int]) -> None:
        rows = correlated(60) * 100 + 500
        assert_same(gathered(rows, cuts), whole(rows), scale=1e3)
        assert_same(in_shards(rows, cuts), whole(rows), scale=1e3)

    def test_of_no_rows_merges_to_the_other(self) -> None:
        rows = correlated(5, 2)
        wanted = running(rows).result()
        assert_same(merged(running([]), running(rows)).result(), wanted, scale=1)
        assert_same(merged(running(rows), running([])).result(), wanted, scale=1)
        nothing = RunningMoments(4, 2).result()
        assert (nothing.count, nothing.mean.any(), nothing.cross.any()) == (0, False, False)


class TestMissingNumbers:
    """What is not finite counts as the mean of the finite values of its column."""

    def test_three_rows_by_hand(self) -> None:
        # Column 1 becomes [1, 3, 2], column 2 becomes [3, 4, 5].
        rows = np.array([[1.0, np.nan], [3.0, 3.0], [np.inf, 5.0]])
        moments = moments_of(rows)
        assert moments.count == 3
        assert moments.mean.tolist() == [2.0, 4.0]
        assert moments.cross.tolist() == [[2.0, -1.0], [-1.0, 2.0]]

    def test_the_mean_of_other_batches_stands_in_too(self) -> None:
        # 5 is the mean of 0 and 10; within its batch the mean would have been 10.
        found = gathered(np.array([[0.0, 1.0], [10.0, 2.0], [np.nan, 6.0]]), [1])
        assert found.mean.tolist() == [5.0, 3.0]
        assert found.cross.tolist() == [[50.0, 5.0], [5.0, 14.0]]

    @given(st.lists(st.integers(0, 60), max_size=6), st.integers(0, 10**6))
    @settings(max_examples=50, deadline=None)
    def test_any_division_into_batches_is_scikit_learns_imputer_on_all_rows(
        self, cuts: list[int], seed: int
    ) -> None:
        rows = correlated(60) * 100 + 500
        rows[:40] = with_gaps(rows[:40], seed=seed)  # and batches in which nothing is missing
        assert_same(gathered(rows, cuts), whole(imputed(rows)), scale=1e3)

    @given(st.integers(0, 60), st.integers(0, 60))
    @settings(max_examples=50, deadline=None)
    def test_merging_in_any_tree_gives_the_same(self, one: int, other: int) -> None:
        rows = with_gaps(correlated(60), 0.5)
        first, second = sorted([one, other])
        parts = []
        for part in np.split(rows, [first, second]):
            parts.append(RunningMoments(6))
            parts[-1].add(part)
        a, b, c = parts
        c.merge(a)
        b.merge(c)
        assert_same(b.result(), whole(imputed(rows)), scale=1e3)

    def test_a_column_that_is_missing_in_a_whole_batch_is_imputed_from_the_others(self) -> None:
        rows = correlated(90) + 7
        rows[30:60, 2] = np.nan
        rows[:30, 4] = np.inf
        assert_same(gathered(rows, [30, 60]), whole(imputed(rows)), scale=10)

    def test_an_offset_of_a_million_costs_no_accuracy_that_the_rows_still_have(self) -> None:
        rows = with_gaps(correlated(1000))
        np.testing.assert_allclose(
            gathered(rows + 1e6, [10, 500]).cross, gathered(rows, [10, 500]).cross, rtol=0, atol=1e-7
        )

    @pytest.mark.parametrize("value", [0.1, 1 / 3, 1e6 + 0.1, -273.15])
    def test_a_constant_column_has_a_variance_of_exactly_zero(self, value: float) -> None:
        rows = np.column_stack([np.full(1000, value), np.arange(1000.0)])
        rows[::7, 0], rows[::5, 1] = np.nan, np.nan
        moments = gathered(rows, [3, 400])
        assert moments.mean[0] == value
        assert not moments.cross[0].any()

    def test_beside_counts_it_is_scikit_learns_imputer_on_the_dense_rows(self) -> None:
        rows, counts = with_gaps(correlated(200, 4)), bags_of_words(200, 12)
        rows[150:] = correlated(50, 4)
        dense = np.hstack([imputed(rows), counts.toarray()])
        assert_same(gathered(rows, [33, 150], counts), whole(dense), scale=10)


class TestCounts:
    def test_two_rows_by_hand(self) -> None:
        moments = moments_of(np.array([[1.0], [3.0]]), sparse.csr_matrix([[0.0, 2.0], [4.0, 0.0]]))
        assert moments.mean.tolist() == [2.0, 2.0, 1.0]
        assert moments.cross.tolist() == [[2.0, 4.0, -2.0], [4.0, 8.0, -4.0], [-2.0, -4.0, 2.0]]

    @pytest.mark.parametrize("num_numbers", [0, 3])
    @pytest.mark.parametrize("cuts", [[], [1, 50, 50, 170]])
    def test_the_covariance_is_numpys_of_the_dense_rows(self, num_numbers: int, cuts: list[int]) -> None:
        rows, counts = 1e6 + correlated(200, 5)[:, :num_numbers], bags_of_words(200, 30)
        dense = np.hstack([rows, counts.toarray()])
        moments = gathered(rows, cuts, counts)
        # Numbers at 1e6 come in steps of 1e-10, and counts go up to 10.
        np.testing.assert_allclose(moments.covariance(), np.cov(dense.T), rtol=0, atol=1e-9)
        np.testing.assert_allclose(moments.mean, dense.mean(axis=0), rtol=1e-14)

    def test_merging_is_adding_the_rows_of_the_other(self) -> None:
        rows, counts = correlated(200, 5), bags_of_words(200, 30)
        one, other = RunningMoments(5, 30), RunningMoments(5, 30)
        one.add(rows[:70], counts[:70])
        other.add(rows[70:], counts[70:])
        one.merge(other)
        assert_same(one.result(), whole(np.hstack([rows, counts.toarray()])), scale=10)

    @pytest.mark.parametrize("weight", [1.0, 0.1, 1 / 3])
    def test_a_word_that_is_in_every_row_has_a_variance_of_exactly_zero(self, weight: float) -> None:
        counts = sparse.csr_matrix(np.column_stack([np.full(997, weight), np.arange(997) % 3]))
        cross = gathered(correlated(997, 2), [100], counts).cross
        assert not cross[2].any()
        assert not cross[:, 2].any()
        assert cross[3, 3] > 0

    def test_a_word_that_is_in_all_rows_but_one_has_its_variance(self) -> None:
        present = np.ones((100_000, 1))
        present[77] = 0
        # n p (1 - p) with p = 1 - 1e-5.
        found = moments_of(np.zeros((100_000, 0)), sparse.csr_matrix(present)).cross[0, 0]
        np.testing.assert_allclose(found, 1 - 1e-5, rtol=1e-9)

    def test_five_thousand_words_of_many_rows_are_numpys(self) -> None:
        counts = bags_of_words(12_000, 5000)
        moments = gathered(np.zeros((12_000, 0)), list(range(0, 12_000, 4096)), counts)
        # Every word against the commonest hundred, which is what a dense computation here has room for.
        some = counts[:, :100].toarray()
        exact = (some - some.mean(axis=0)).T @ (counts.toarray() - np.asarray(counts.mean(axis=0)))
        np.testing.assert_allclose(moments.cross[:100], exact, rtol=0, atol=1e-8)


class TestColumnsByThemselves:
    """The diagonal of the cross-products and the row of a label, without the others."""

    @staticmethod
    def gathered(rows: Any, labels: Any, cuts: list[int], counts: Any = None) -> ColumnMoments:
        """In batches that were merged from the last to the first."""
        num_counts = 0 if counts is None else counts.shape[1]
        found = RunningColumns(rows.shape[1], num_counts)
        for chosen in reversed(np.split(np.arange(len(rows)), sorted(min(cut, len(rows)) for cut in cuts))):
            part = RunningColumns(rows.shape[1], num_counts)
            half = len(chosen) // 2
            for some in (chosen[:half], chosen[half:]):
                part.add(rows[some], None if counts is None else counts[some], labels[some])
            part.merge(found)
            found = part
        return found.result()

    def test_three_rows_by_hand(self) -> None:
        # Columns [1, 3, 2 (missing)] and [0, 0, 3], labels [1, 2, 6], of mean 3.
        found = self.gathered(
            np.array([[1.0], [3.0], [np.nan]]),
            np.array([1.0, 2.0, 6.0]),
            [],
            sparse.csr_matrix([[0.0], [0.0], [3.0]]),
        )
        assert (found.count, found.label_mean, found.label_squares) == (3, 3.0, 14.0)
        assert found.mean.tolist() == [2.0, 1.0]
        assert found.squares.tolist() == [2.0, 6.0]
        # (-2)(-1) + (-1)(1) + 3 * 0 and (-2)(-1) + (-1)(-1) + 3 * 2.
        assert found.products.tolist() == [1.0, 9.0]

    @given(st.lists(st.integers(0, 60), max_size=6), st.integers(0, 10**6))
    @settings(max_examples=60, deadline=None)
    def test_any_division_and_order_is_the_definition_on_imputed_rows(
        self, cuts: list[int], seed: int
    ) -> None:
        rows, counts = correlated(60) * 100 + 500, bags_of_words(60, 12)
        rows[:40] = with_gaps(rows[:40], seed=seed)
        labels = np.random.default_rng(seed).normal(size=60) * 10 + 300
        found = self.gathered(rows, labels, cuts, counts)
        exact = whole(np.column_stack([labels, imputed(rows), counts.toarray()]))
        # As in assert_same: some roundings to 2**-53 of numbers up to 1e3, squared and summed over 60 rows.
        np.testing.assert_allclose(found.mean, exact.mean[1:], rtol=0, atol=1e-9)
        np.testing.assert_allclose(found.squares, exact.cross.diagonal()[1:], rtol=0, atol=6e-5)
        np.testing.assert_allclose(found.products, exact.cross[0, 1:], rtol=0, atol=6e-5)
        assert found.label_mean == pytest.approx(exact.mean[0], rel=1e-14)
        assert found.label_squares == pytest.approx(exact.cross[0, 0], rel=1e-10)

    def test_an_offset_of_a_million_costs_no_accuracy_that_the_rows_still_have(self) -> None:
        rows = with_gaps(correlated(1000))
        labels = correlated(1000, seed=4)[:, 0]
        found, far = (self.gathered(rows + off, labels + off, [10, 500]) for off in (0.0, 1e6))
        np.testing.assert_allclose(far.squares, found.squares, rtol=0, atol=1e-7)
        np.testing.assert_allclose(far.products, found.products, rtol=0, atol=1e-7)
        assert far.label_squares == pytest.approx(found.label_squares, abs=1e-7)

    @pytest.mark.parametrize("value", [0.1, 1 / 3, 1e6 + 0.1, -273.15])
    def test_a_constant_column_word_or_label_has_a_variance_of_exactly_zero(self, value: float) -> None:
        rows = np.full((997, 1), value)
        rows[::7] = np.nan
        words = sparse.csr_matrix(np.full((997, 1), abs(value)))
        found = self.gathered(rows, np.arange(997.0), [3, 400], words)
        assert found.mean[0] == value
        assert not found.squares.any()
        assert not found.products.any()
        assert self.gathered(rows, np.full(997, value), [3, 400]).label_squares == 0.0

    def test_memory_is_that_of_the_columns_and_not_of_their_pairs(self) -> None:
        counts = bags_of_words(500, 100_000)  # a matrix of pairs would take 80 GB
        found = self.gathered(np.zeros((500, 0)), np.arange(500.0), [200], counts)
        np.testing.assert_allclose(found.mean, np.asarray(counts.mean(axis=0))[0], rtol=1e-13)
        some = counts[:, :50].toarray()
        np.testing.assert_allclose(found.squares[:50], some.var(axis=0) * 500, rtol=1e-12, atol=1e-12)
        exact = (np.arange(500.0) - 249.5) @ some
        np.testing.assert_allclose(found.products[:50], exact, rtol=1e-10, atol=1e-9)
