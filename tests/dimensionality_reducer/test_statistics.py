"""What one pass gathers: which rows count, what is refused, and that parts merge in any order."""

import pickle
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.impute import SimpleImputer
from tests.dimensionality_reducer.fitting import moments_of

from tfx_mobile.common.errors import DataError
from tfx_mobile.dimensionality_reducer import core
from tfx_mobile.dimensionality_reducer.config import (
    PCA,
    PLS,
    GaussianRandomProjection,
    NotFinite,
    Score,
    SelectKBest,
    TruncatedSVD,
    VarianceThreshold,
)
from tfx_mobile.dimensionality_reducer.moments import Moments
from tfx_mobile.dimensionality_reducer.rows import Rows
from tfx_mobile.dimensionality_reducer.statistics import Statistics, needs, refuse_not_finite

COLUMNS = ["a", "b", "c=0", "c=1"]


def pca(not_finite: NotFinite = NotFinite.REFUSE, **options: Any) -> PCA:
    return PCA(inputs=("a", "b"), output="pca", not_finite=not_finite, **options)


def pls(not_finite: NotFinite = NotFinite.REFUSE) -> PLS:
    return PLS(inputs=("a", "b"), output="pls", not_finite=not_finite)


def gathered(reduction: Any, *batches: Any, num_numbers: int = 2, width: int = 4) -> Statistics:
    """Batches are numbers, counts and labels, the last two if there are any."""
    found = Statistics(reduction, num_numbers, width)
    for batch in batches:
        numbers, counts, labels = (
            [*batch, None, None][:3] if isinstance(batch, tuple) else (batch, None, None)
        )
        counts = np.zeros((len(numbers), width - num_numbers)) if counts is None else counts
        found.add(Rows.of(numbers, counts), None if labels is None else np.asarray(labels))
    return found


def some_rows(num_rows: int = 60, seed: int = 2) -> tuple[Any, Any, Any]:
    draw = np.random.default_rng(seed)
    numbers = draw.normal(size=(num_rows, 2)).astype(np.float32) * 3 + 7
    return numbers, draw.integers(0, 3, (num_rows, 2)), draw.normal(size=num_rows)


def with_gaps(numbers: Any, share: float = 0.3, seed: int = 4) -> Any:
    draw = np.random.default_rng(seed)
    numbers = numbers.copy()
    numbers[draw.random(numbers.shape) < share] = np.nan
    numbers[draw.random(numbers.shape) < share / 5] = np.inf
    return numbers


def impute(numbers: Any) -> Any:
    finite = np.where(np.isfinite(numbers), numbers, np.nan).astype(np.float64)
    return SimpleImputer(strategy="mean").fit_transform(finite)


def assert_moments(found: Moments | None, rows: Any) -> None:
    """Against the definition; rounding of 60 sums of squares of at most 20 is far below 1e-10."""
    assert found is not None
    assert found.count == len(rows)
    centred = rows - rows.mean(axis=0)
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.cross, centred.T @ centred, rtol=0, atol=1e-10)


class TestWhichRowsCount:
    BAD = ([[1.0, np.nan], [np.inf, np.nan], [5.0, 6.0], [7.0, 8.0]],)

    def test_values_that_are_not_finite_are_counted_by_column(self) -> None:
        for choice in NotFinite:
            found = gathered(pca(choice), *self.BAD)
            assert found.not_finite.tolist() == [1, 2, 0, 0]
            assert (found.num_rows, found.num_bad_rows) == (4, 2)

    @pytest.mark.parametrize("choice", [NotFinite.REFUSE, NotFinite.DROP_ROWS])
    def test_rows_with_such_a_value_are_left_out(self, choice: NotFinite) -> None:
        found = gathered(pca(choice), *self.BAD)
        assert found.num_kept == 2
        assert_moments(found.moments, np.array([[5.0, 6, 0, 0], [7, 8, 0, 0]]))
        assert sorted(found.sample.rows.dense()[:, 0].tolist()) == [5, 7]
        assert found.fill is None

    def test_imputed_rows_count_with_the_mean(self) -> None:
        found = gathered(pca(NotFinite.IMPUTE_MEAN), *self.BAD)
        assert found.num_kept == 4
        mean = np.float32(13 / 3)
        assert_moments(
            found.moments, np.array([[1, 7, 0, 0], [13 / 3, 7, 0, 0], [5, 6, 0, 0], [7.0, 8, 0, 0]])
        )
        assert found.fill is not None
        assert (found.fill.dtype, found.fill.tolist()) == (np.float32, [mean, 7])

    def test_a_one_hot_vector_that_is_not_finite_is_not_imputed(self) -> None:
        batch = ([[1.0, 2.0], [3.0, np.nan], [5.0, 6.0]], [[1.0, 0], [0, 0], [np.nan, 0]])
        found = gathered(pca(NotFinite.IMPUTE_MEAN), batch)
        assert (found.num_kept, found.num_bad_rows) == (2, 2)
        assert_moments(found.moments, np.array([[1.0, 2, 1, 0], [3, 2, 0, 0]]))

    def test_what_was_not_finite_survives_a_merge_with_rows_that_are(self) -> None:
        spoilt = gathered(pca(), [[np.nan, 1.0]])
        fine = gathered(pca(), [[3.0, 4.0], [5.0, 6.0]])
        for one, other in ((spoilt, fine), (fine, gathered(pca(), [[np.nan, 1.0]]))):
            one.merge(other)
            assert one.not_finite.tolist() == [1, 0, 0, 0]
            assert (one.num_rows, one.num_bad_rows, one.num_kept) == (3, 1, 2)
            assert_moments(one.moments, np.array([[3.0, 4, 0, 0], [5, 6, 0, 0]]))

    def test_a_row_whose_label_is_not_finite_is_left_out_of_methods_that_follow_the_label(self) -> None:
        batch = ([[1.0, 2.0], [3.0, 5.0], [4.0, 4.0]], None, [1.0, np.nan, 3.0])
        found = gathered(pls(), batch)
        assert (found.labels_not_finite, found.num_kept) == (1, 2)
        assert gathered(pca(), batch).num_kept == 3

    def test_a_batch_without_rows_changes_nothing(self) -> None:
        found = gathered(pca(), np.zeros((0, 2)), [[1.0, 2.0]], np.zeros((0, 2)))
        assert (found.num_rows, found.num_kept) == (1, 1)


class TestMoments:
    def test_of_the_label_and_the_columns(self) -> None:
        numbers, counts, labels = some_rows()
        found = gathered(pls(), (numbers, counts, labels))
        assert found.moments is None
        assert_moments(found.label_moments, np.column_stack([labels, numbers, counts]))

    def test_of_the_label_and_columns_that_are_imputed(self) -> None:
        numbers, counts, labels = some_rows()
        spoilt = with_gaps(numbers)
        found = gathered(pls(NotFinite.IMPUTE_MEAN), (spoilt[:9], counts[:9], labels[:9]))
        found.merge(gathered(pls(NotFinite.IMPUTE_MEAN), (spoilt[9:], counts[9:], labels[9:])))
        assert_moments(found.label_moments, np.column_stack([labels, impute(spoilt), counts]))

    def test_of_the_columns_alone_without_a_label(self) -> None:
        numbers, counts, labels = some_rows()
        found = gathered(pca(), (numbers, counts, labels))
        assert found.label_moments is None
        assert_moments(found.moments, np.hstack([numbers, counts]))

    @given(st.lists(st.integers(0, 60), max_size=6), st.sampled_from(NotFinite), st.integers(0, 10**6))
    @settings(max_examples=80, deadline=None)
    def test_any_order_sharding_and_tree_gives_the_same(
        self, cuts: list[int], choice: NotFinite, seed: int
    ) -> None:
        numbers, counts, _ = some_rows()
        numbers = with_gaps(numbers)
        draw = np.random.default_rng(seed)
        parts = []
        for chosen in np.split(draw.permutation(60), sorted(cuts)):
            half = len(chosen) // 2
            batches = [(numbers[some], counts[some]) for some in (chosen[:half], chosen[half:])]
            parts.append(gathered(pca(choice), *batches))
        while len(parts) > 1:
            one = parts.pop(int(draw.integers(len(parts))))
            one.merge(parts.pop(int(draw.integers(len(parts)))))
            parts.append(one)
        (found,) = parts
        good = np.isfinite(numbers).all(axis=1)
        kept = np.arange(60) if choice is NotFinite.IMPUTE_MEAN else np.flatnonzero(good)
        dense = impute(numbers) if choice is NotFinite.IMPUTE_MEAN else numbers
        assert_moments(found.moments, np.hstack([dense, counts])[kept])
        assert (found.num_rows, found.num_kept, found.num_bad_rows) == (60, len(kept), 60 - good.sum())
        assert found.not_finite[:2].tolist() == (~np.isfinite(numbers)).sum(axis=0).tolist()
        whole = gathered(pca(choice), (numbers, counts))
        np.testing.assert_array_equal(found.sample.hashes, whole.sample.hashes)
        if choice is NotFinite.IMPUTE_MEAN:
            exact = np.nanmean(np.where(np.isfinite(numbers), numbers, np.nan), axis=0, dtype=np.float64)
            np.testing.assert_allclose(found.fill, exact, rtol=2.0**-23)

    def test_pickling_gives_the_same_statistics_back(self) -> None:
        numbers, counts, _ = some_rows()
        found = gathered(pca(NotFinite.IMPUTE_MEAN), (with_gaps(numbers), counts))
        back = pickle.loads(pickle.dumps(found))
        assert found.moments is not None
        np.testing.assert_array_equal(back.moments.cross, found.moments.cross)
        np.testing.assert_array_equal(back.sample.hashes, found.sample.hashes)
        np.testing.assert_array_equal(back.fill, found.fill)
        back.merge(found)
        assert back.moments.count == 120

    @pytest.mark.parametrize(
        ("reduction", "has_moments", "has_label"),
        [
            (pca(), True, False),
            (TruncatedSVD(inputs=("a",), output="o"), True, False),
            (VarianceThreshold(inputs=("a",), output="o"), False, False),
            (pls(), False, True),
            (SelectKBest(inputs=("a",), output="o", score=Score.F_REGRESSION), False, False),
            (GaussianRandomProjection(inputs=("a",), output="o"), False, False),
        ],
    )
    def test_only_what_a_method_needs_is_gathered(
        self, reduction: Any, has_moments: bool, has_label: bool
    ) -> None:
        found = Statistics(reduction, 2, 4)
        assert (found.moments is not None, found.label_moments is not None) == (has_moments, has_label)
        assert (needs(reduction).moments, needs(reduction).label) == (has_moments, has_label)


class TestFitting:
    """The whole way from batches to outputs."""

    def test_of_imputed_rows_is_the_fit_of_rows_that_were_imputed_before(self) -> None:
        draw = np.random.default_rng(1)
        rows = (draw.normal(size=(300, 5)) @ draw.normal(size=(5, 5)) + 20).astype(np.float32)
        spoilt = with_gaps(rows)
        names = list("abcde")
        config = PCA(inputs=tuple(names), output="o", n_components=3, not_finite=NotFinite.IMPUTE_MEAN)
        batches = [spoilt[:100], spoilt[100:101], spoilt[101:]]
        found = core.fit(config, gathered(config, *batches, num_numbers=5, width=5), names)
        before = moments_of(impute(spoilt))
        exact = core.linear.fit_pca(before, config, names)
        np.testing.assert_allclose(found.model.matrix, exact.model.matrix, rtol=0, atol=1e-10)
        np.testing.assert_allclose(found.explained_variance, exact.explained_variance, rtol=1e-10)
        # The output of a row with gaps is that of the imputed row, to float32 rounding of the fill.
        np.testing.assert_allclose(
            found.apply(Rows.of(spoilt)), exact.apply(Rows.of(impute(spoilt))), rtol=0, atol=1e-5
        )

    def test_without_imputing_nothing_is_filled_in(self) -> None:
        numbers, counts, _ = some_rows()
        found = core.fit(pca(), gathered(pca(), (numbers, counts)), COLUMNS)
        assert found.fill is None
        assert np.isnan(found.apply(Rows.of([[np.nan, 1.0]], [[0.0, 0.0]]))).all()

    def test_of_sparse_rows_is_the_fit_of_dense_rows(self) -> None:
        numbers, counts, _ = some_rows()
        config = TruncatedSVD(inputs=("a",), output="o", n_components=3)
        behind = gathered(config, (numbers, sparse.csr_matrix(counts)))
        before = gathered(config, np.hstack([numbers, counts]), num_numbers=4, width=4)
        np.testing.assert_allclose(
            core.fit(config, behind, COLUMNS).model.matrix,
            core.fit(config, before, COLUMNS).model.matrix,
            atol=1e-12,
        )


class TestRefusals:
    def test_a_split_without_rows(self) -> None:
        with pytest.raises(DataError, match=re.escape("PCA needs rows in split 'train'; got none.")):
            gathered(pca()).check(COLUMNS)

    @pytest.mark.parametrize(
        ("values", "others"),
        [
            ([[1.0, np.nan], [2.0, -np.inf], [3.0, 4.0]], ""),
            ([[np.nan, np.nan], [2.0, -np.inf], [3.0, 4.0]], ", and 1 more column has some"),
        ],
    )
    def test_values_that_are_not_finite_are_named_and_counted(self, values: Any, others: str) -> None:
        message = (
            f"Feature 'b' must be finite; got 2 NaN or infinite of 3 rows in split 'train'{others}. Clean it "
            "in preprocessing_fn, or set not_finite: NotFinite.DROP_ROWS leaves such rows out, "
            "NotFinite.IMPUTE_MEAN fills in numbers."
        )
        with pytest.raises(DataError, match=re.escape(message)):
            gathered(pca(), values).check(COLUMNS)

    def test_a_one_hot_vector_that_is_not_finite_although_numbers_are_imputed(self) -> None:
        batch = ([[np.nan, np.nan], [2.0, 1.0]], [[np.nan, 0], [0, 0]])
        message = "Feature 'c=0' must be finite; got 1 NaN or infinite of 2 rows in split 'train'."
        with pytest.raises(DataError, match=re.escape(message)):
            gathered(pca(NotFinite.IMPUTE_MEAN), batch).check(COLUMNS)

    def test_rows_to_drop_are_no_error(self) -> None:
        gathered(pca(NotFinite.DROP_ROWS), [[np.nan, 1.0], [2.0, 3.0]]).check(COLUMNS)

    def test_dropping_every_row_leaves_too_few(self) -> None:
        found = gathered(pca(NotFinite.DROP_ROWS), [[np.nan, 1.0], [2.0, np.inf]])
        message = "PCA needs rows in split 'train'; all 2 have NaN or infinity and are dropped."
        with pytest.raises(DataError, match=re.escape(message)):
            core.fit(pca(NotFinite.DROP_ROWS), found, COLUMNS)

    def test_a_column_of_which_nothing_is_finite_has_no_mean(self) -> None:
        found = gathered(pca(NotFinite.IMPUTE_MEAN), [[1.0, np.nan], [2.0, np.inf]])
        found.merge(gathered(pca(NotFinite.IMPUTE_MEAN), [[1.0, np.nan]]))
        message = (
            "Feature 'b' must have a finite value in split 'train', so that its mean can stand in for the "
            "others; got none in 3 rows. Leave it out of the inputs."
        )
        with pytest.raises(DataError, match=re.escape(message)):
            found.check(COLUMNS)

    def test_one_finite_value_is_enough_of_a_mean(self) -> None:
        found = gathered(pca(NotFinite.IMPUTE_MEAN), [[1.0, np.nan], [2.0, 9.0], [4.0, np.nan]])
        found.check(COLUMNS)
        assert_moments(found.moments, np.array([[1.0, 9, 0, 0], [2, 9, 0, 0], [4, 9, 0, 0]]))

    def test_a_label_that_is_not_finite(self) -> None:
        found = gathered(pls(), ([[1.0, 2.0], [2.0, 3.0]], None, [np.inf, 1.0]))
        found.merge(gathered(pls(), ([[1.0, 2.0]], None, [np.nan])))
        message = (
            "Label 'fare' must be finite; got 2 NaN or infinite of 3 rows in split 'train'. Clean it in "
            "preprocessing_fn."
        )
        with pytest.raises(DataError, match=re.escape(message)):
            found.check(COLUMNS, "fare")

    def test_a_label_of_text_where_a_number_is_needed(self) -> None:
        labels = np.array([b"cash", b"card"], object)
        found = gathered(pls(), np.zeros((0, 2)))
        found.merge(gathered(pls(), ([[1.0, 2.0], [2.0, 3.0]], None, labels)))
        message = (
            "PLS needs a label that is a number; 'payment' is text. Make a number of it in preprocessing_fn."
        )
        with pytest.raises(DataError, match=re.escape(message)):
            core.fit(pls(), found, COLUMNS, "payment")

    def test_nothing_found_is_no_error(self) -> None:
        refuse_not_finite({"a": 0}, 5, "eval")
        refuse_not_finite({}, 5, "eval")
