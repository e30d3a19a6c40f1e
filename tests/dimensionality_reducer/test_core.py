"""Moments and principal components: cases worked by hand, laws, and scikit-learn as the second method."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from sklearn import decomposition, preprocessing

from tfx_mobile.common.errors import DataError
from tfx_mobile.dimensionality_reducer import core
from tfx_mobile.dimensionality_reducer.config import PCA
from tfx_mobile.dimensionality_reducer.core import Moments

COLUMNS = ["a", "b", "c", "d", "e", "f", "g", "h"]
FLOAT32_ROUNDING = 2e-6  # a sum of up to 8 products, each rounded to 2**-24 of its size


def pca(**options: Any) -> PCA:
    return PCA(**{"inputs": ("a",), "output": "pca", "n_components": 1.0, "standardise": False} | options)


def fit(rows: Any, **options: Any) -> core.Projection:
    rows = np.asarray(rows, np.float64)
    return core.fit_pca(Moments.of(rows), pca(**options), COLUMNS[: rows.shape[1]])


def correlated(num_rows: int = 500, width: int = 6, seed: int = 3) -> Any:
    """Rows whose variances lie well apart, so that each direction is determined."""
    draw = np.random.default_rng(seed)
    mixing = np.linalg.qr(draw.normal(size=(width, width)))[0]
    return draw.normal(size=(num_rows, width)) * (2.0 ** -np.arange(width)) @ mixing


def reference(rows: Any) -> Any:
    return decomposition.PCA(svd_solver="full").fit(np.asarray(rows, np.float64))


def pieces(rows: Any, cuts: list[int]) -> list[Moments]:
    return [Moments.of(part) for part in np.split(rows, sorted(cuts))]


def assert_same(one: Moments, other: Moments, scale: float) -> None:
    assert one.count == other.count
    np.testing.assert_array_equal(one.num_not_finite, other.num_not_finite)
    # Each merge rounds to 2**-53 of values up to `scale`; 1e-12 leaves room for some thousand of them.
    np.testing.assert_allclose(one.mean, other.mean, rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(one.cross, other.cross, rtol=0, atol=1e-12 * max(one.count, 1) * scale**2)


class TestMoments:
    def test_two_rows_by_hand(self) -> None:
        moments = Moments.of(np.array([[1.0, 10.0], [3.0, 4.0]]))
        assert moments.count == 2
        assert moments.mean.tolist() == [2.0, 7.0]
        assert moments.cross.tolist() == [[2.0, -6.0], [-6.0, 18.0]]

    def test_a_merge_by_hand(self) -> None:
        # Means 0 and 4, one row each: the outer product alone makes 2 * (2 * 2) = 8.
        merged = Moments.of(np.array([[0.0]])).merge(Moments.of(np.array([[4.0]])))
        assert (merged.count, merged.mean.tolist(), merged.cross.tolist()) == (2, [2.0], [[8.0]])

    rows = st.integers(0, 40).flatmap(
        lambda n: st.lists(
            st.lists(st.floats(-1e3, 1e3, allow_subnormal=False), min_size=2, max_size=2),
            min_size=n,
            max_size=n,
        )
    )

    @given(rows, rows)
    def test_merging_is_commutative(self, one: list[list[float]], other: list[list[float]]) -> None:
        left, right = (Moments.of(np.reshape(rows, (-1, 2))) for rows in (one, other))
        assert_same(left.merge(right), right.merge(left), scale=1e3)

    @given(rows, rows, rows)
    def test_merging_is_associative(
        self, one: list[list[float]], two: list[list[float]], three: list[list[float]]
    ) -> None:
        a, b, c = (Moments.of(np.reshape(rows, (-1, 2))) for rows in (one, two, three))
        assert_same(a.merge(b).merge(c), a.merge(b.merge(c)), scale=1e3)

    @given(st.lists(st.integers(0, 60), max_size=6))
    @settings(max_examples=50)
    def test_any_division_into_batches_gives_the_moments_of_all_rows(self, cuts: list[int]) -> None:
        rows = correlated(60) * 100 + 500
        assert_same(core.merge_all(pieces(rows, cuts), 6), Moments.of(rows), scale=1e3)

    def test_the_covariance_is_numpys(self) -> None:
        rows = correlated()
        moments = core.merge_all(pieces(rows, [1, 7, 400]), 6)
        # Variances are about 1; 1e-14 is a few roundings.
        np.testing.assert_allclose(moments.cross / (moments.count - 1), np.cov(rows.T), atol=1e-14)

    def test_an_offset_of_a_million_costs_no_accuracy_that_the_rows_still_have(self) -> None:
        rows = correlated(1000)
        shifted = core.merge_all(pieces(rows + 1e6, [10, 500]), 6)
        # At 1e6 a float64 holds steps of 1e-10; 1000 rows of size 1 then agree to far better than 1e-8.
        np.testing.assert_allclose(shifted.cross, Moments.of(rows).cross, rtol=0, atol=1e-7)

    @pytest.mark.parametrize("value", [0.1, 1 / 3, 1e6 + 0.1, -273.15])
    @pytest.mark.parametrize("num_rows", [10, 1000, 4096])
    def test_a_constant_column_has_a_variance_of_exactly_zero(self, value: float, num_rows: int) -> None:
        rows = np.column_stack([np.full(num_rows, value), np.arange(num_rows)])
        moments = core.merge_all(pieces(rows, [3, num_rows // 2]), 2)
        assert moments.mean[0] == value
        assert moments.cross[0, 0] == 0.0

    def test_of_no_rows_merges_to_the_other(self) -> None:
        rows = Moments.of(correlated(5))
        assert_same(Moments.zero(6).merge(rows), rows, scale=1)
        assert_same(rows.merge(Moments.zero(6)), rows, scale=1)
        assert_same(core.merge_all([], 6), Moments.zero(6), scale=1)

    def test_rows_with_nan_or_infinity_are_counted_by_column_and_left_out(self) -> None:
        moments = Moments.of(np.array([[1.0, np.nan], [np.inf, np.nan], [5.0, 6.0], [7.0, 8.0]]))
        assert moments.num_not_finite.tolist() == [1, 2]
        assert (moments.count, moments.mean.tolist()) == (2, [6.0, 7.0])

    def test_counts_of_non_finite_values_survive_a_merge_with_no_rows(self) -> None:
        spoilt = Moments.of(np.array([[np.nan, 1.0]]))
        assert spoilt.count == 0
        assert spoilt.merge(Moments.of(correlated(3, 2))).num_not_finite.tolist() == [1, 0]
        assert Moments.of(correlated(3, 2)).merge(spoilt).num_not_finite.tolist() == [1, 0]

    def test_bytes_give_the_same_moments_back(self) -> None:
        moments = Moments.of(correlated(5))
        back = Moments.from_bytes(moments.to_bytes())
        assert back.count == moments.count
        for name in ("mean", "cross", "num_not_finite"):
            np.testing.assert_array_equal(getattr(back, name), getattr(moments, name))


class TestComponents:
    def test_a_line_in_the_plane_by_hand(self) -> None:
        # Points on y = x at -1, 0, 1: variance 1 on each axis, 2 along the line, 0 across it.
        found = fit([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]], n_components=2)
        np.testing.assert_allclose(found.explained_variance, [2.0, 0.0], atol=1e-15)
        np.testing.assert_allclose(found.matrix[:, 0], [0.5**0.5, 0.5**0.5], atol=1e-15)
        np.testing.assert_allclose(found.explained_variance_ratio, [1.0, 0.0], atol=1e-15)

    def test_variance_divides_by_one_less_than_the_rows(self) -> None:
        assert fit([[0.0], [2.0]]).explained_variance.tolist() == [2.0]

    @pytest.mark.parametrize("standardise", [False, True])
    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda rows: rows, id="as is"),
            pytest.param(lambda rows: rows + 1e6, id="offset of 1e6"),
            pytest.param(lambda rows: rows * 1e5 ** np.linspace(0, 1, 6), id="scales 1e5 apart"),
            pytest.param(lambda rows: rows * 1e5 ** np.linspace(0.5, -0.5, 6) + 1e3, id="both"),
        ],
    )
    def test_variances_and_subspace_are_scikit_learns(self, change: Any, standardise: bool) -> None:
        rows = change(correlated())
        found = fit(rows, n_components=4, standardise=standardise)
        theirs = reference(preprocessing.StandardScaler().fit_transform(rows) if standardise else rows)
        scale = rows.std(axis=0, ddof=1) if standardise else np.ones(6)
        # StandardScaler divides by the population deviation, we by the sample's: n / (n - 1) on variances.
        bessel = len(rows) / (len(rows) - 1) if standardise else 1.0
        np.testing.assert_allclose(
            found.explained_variance * bessel, theirs.explained_variance_[:4], rtol=1e-6
        )
        np.testing.assert_allclose(
            found.explained_variance_ratio, theirs.explained_variance_ratio_[:4], rtol=1e-6
        )
        angles = subspace_angles(found.matrix * scale[:, None], theirs.components_[:4].T)
        assert angles.max() < 1e-5
        np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-12)

    @pytest.mark.parametrize(
        "rows",
        [
            pytest.param(correlated()[:, [0, 1, 2, 2]], id="a column twice"),
            pytest.param(np.column_stack([correlated()[:, :3], np.full(500, 0.1)]), id="a constant column"),
            pytest.param(correlated()[:, :2] @ np.array([[1.0, 2, 3, 4], [4, 3, 2, -1]]), id="rank 2"),
            pytest.param(correlated(3, 4), id="fewer rows than columns"),
        ],
    )
    @pytest.mark.parametrize("standardise", [False, True])
    def test_without_full_rank_it_is_still_scikit_learns_and_finite(
        self, rows: Any, standardise: bool
    ) -> None:
        deviation = rows.std(axis=0, ddof=1)
        scaled = (rows - rows.mean(axis=0)) / np.where(deviation > 1e-12, deviation, 1.0)
        theirs = reference(scaled if standardise else rows)
        largest = theirs.explained_variance_[0]
        rank = int((theirs.explained_variance_ > 1e-12 * largest).sum())
        found = fit(rows, n_components=1.0, standardise=standardise)
        assert found.num_components == rank
        np.testing.assert_allclose(found.explained_variance, theirs.explained_variance_[:rank], rtol=1e-6)
        unit = np.where(deviation > 1e-12, deviation, 1.0) if standardise else np.ones(len(deviation))
        assert subspace_angles(found.matrix * unit[:, None], theirs.components_[:rank].T).max() < 1e-5
        everything = fit(rows, n_components=rows.shape[1], standardise=standardise, whiten=True)
        assert np.isfinite(everything.matrix).all()

    def test_a_constant_column_has_no_loading(self) -> None:
        found = fit(np.column_stack([correlated()[:, :2], np.full(500, 0.1)]), standardise=True)
        assert found.num_components == 2
        assert found.matrix[2].tolist() == [0.0, 0.0]

    def test_what_reconstruction_loses_is_the_variance_that_was_not_kept(self) -> None:
        rows = correlated()
        found = fit(rows, n_components=2)
        centred = rows - found.mean
        lost = centred - centred @ found.matrix @ found.matrix.T
        np.testing.assert_allclose(
            (lost**2).sum() / (len(rows) - 1), found.all_variances[2:].sum(), rtol=1e-10
        )

    @pytest.mark.parametrize("standardise", [False, True])
    def test_whitened_components_have_covariance_identity(self, standardise: bool) -> None:
        rows = correlated() * 1e3 + 5
        found = fit(rows, n_components=6, whiten=True, standardise=standardise)
        # The smallest variance is 1e-3 of the largest, so that 1e-16 of rounding becomes about 1e-13.
        np.testing.assert_allclose(np.cov(((rows - found.mean) @ found.matrix).T), np.eye(6), atol=1e-10)

    @pytest.mark.parametrize("seed", range(5))
    def test_whitening_a_direction_without_variance_gives_zero_not_noise(self, seed: int) -> None:
        # Rank 2 in 5 columns: the other three variances are some 1e-17 of rounding, or 0.
        mixing = np.random.default_rng(seed).normal(size=(2, 5))
        found = fit(correlated(seed=seed)[:, :2] @ mixing, n_components=5, whiten=True)
        assert not found.matrix[:, 2:].any()
        assert found.matrix[:, :2].any(axis=0).all()

    def test_components_do_not_correlate_and_their_variances_are_those_reported(self) -> None:
        rows = correlated()
        found = fit(rows, n_components=6)
        np.testing.assert_allclose(
            np.cov(((rows - found.mean) @ found.matrix).T), np.diag(found.explained_variance), atol=1e-13
        )

    @pytest.mark.parametrize("seed", range(5))
    def test_the_largest_loading_of_each_component_is_positive(self, seed: int) -> None:
        matrix = fit(correlated(seed=seed), n_components=6).matrix
        assert (matrix[np.abs(matrix).argmax(axis=0), np.arange(6)] > 0).all()

    def test_turning_every_sign_of_the_rows_leaves_the_components_as_they_are(self) -> None:
        rows = correlated()
        np.testing.assert_allclose(fit(-rows).matrix, fit(rows).matrix, atol=1e-12)

    def test_the_order_of_the_rows_does_not_matter(self) -> None:
        rows = correlated()
        np.testing.assert_allclose(fit(rows[::-1]).matrix, fit(rows).matrix, atol=1e-12)

    def test_standardising_makes_the_unit_of_a_feature_irrelevant(self) -> None:
        rows = correlated()
        miles = fit(rows, standardise=True)
        kilometres = fit(rows * 1.609, standardise=True)
        np.testing.assert_allclose(kilometres.explained_variance, miles.explained_variance, rtol=1e-12)
        np.testing.assert_allclose(kilometres.matrix * 1.609, miles.matrix, atol=1e-12)

    @given(st.floats(0.01, 1.0), st.integers(0, 20))
    @settings(max_examples=60)
    def test_a_share_keeps_the_fewest_components_that_reach_it(self, share: float, seed: int) -> None:
        found = fit(correlated(50, 4, seed), n_components=share)
        shares = np.cumsum(found.all_variances) / found.all_variances.sum()
        assert shares[found.num_components - 1] >= share - 1e-12
        assert found.num_components == 1 or shares[found.num_components - 2] < share

    def test_the_shares_sum_to_at_most_one(self) -> None:
        assert fit(correlated(), n_components=6).explained_variance_ratio.sum() <= 1 + 1e-15

    def test_projecting_is_the_float64_arithmetic_to_float32_rounding(self) -> None:
        rows = correlated()
        found = fit(rows, n_components=3)
        exact = (rows - found.mean) @ found.matrix
        got = core.project(rows, found)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, exact, rtol=0, atol=FLOAT32_ROUNDING * np.abs(rows).max())


class TestRefusals:
    def test_a_value_that_is_not_finite_is_named_with_its_count(self) -> None:
        rows = correlated(6, 3)
        rows[[1, 4], 1] = np.nan, -np.inf
        message = (
            "Feature 'b' must be finite; got 2 NaN or infinite values in split 'train'. "
            "Clean it in preprocessing_fn."
        )
        with pytest.raises(DataError, match=re.escape(message)):
            fit(rows)

    def test_one_row_is_too_few(self) -> None:
        message = "PCA needs at least 2 rows in split 'train'; got 1."
        with pytest.raises(DataError, match=re.escape(message)):
            fit([[1.0, 2.0]])

    @pytest.mark.parametrize("standardise", [False, True])
    def test_rows_that_are_all_the_same_are_refused(self, standardise: bool) -> None:
        message = "PCA needs a feature that varies; a, b are constant in 'train'."
        with pytest.raises(DataError, match=re.escape(message)):
            fit(np.full((100, 2), 0.1), standardise=standardise)

    def test_more_components_than_columns_are_refused(self) -> None:
        message = "PCA.n_components must be at most 3, the width of its inputs; got 4."
        with pytest.raises(DataError, match=re.escape(message)):
            fit(correlated(10, 3), n_components=4)
