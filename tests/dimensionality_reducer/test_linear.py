"""Principal components and truncated singular values: by hand, by law and against scikit-learn in float64."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats
from scipy.linalg import subspace_angles
from sklearn import decomposition, feature_extraction
from tests.dimensionality_reducer.fitting import moments_of

from tfx_mobile.common.errors import DataError
from tfx_mobile.dimensionality_reducer import linear
from tfx_mobile.dimensionality_reducer.config import PCA, ComponentRule, TruncatedSVD
from tfx_mobile.dimensionality_reducer.models import Fitted
from tfx_mobile.dimensionality_reducer.moments import Moments, RunningMoments
from tfx_mobile.dimensionality_reducer.rows import Rows

FLOAT32_ROUNDING = 2e-6  # a sum of up to 8 products, each rounded to 2**-24 of its size


def names(width: int) -> list[str]:
    return [f"x{i}" for i in range(width)]


def pca(**options: Any) -> PCA:
    return PCA(**{"inputs": ("a",), "output": "pca", "n_components": 1.0, "standardise": False} | options)


def fit(rows: Any, **options: Any) -> Fitted:
    rows = np.asarray(rows, np.float64)
    return linear.fit_pca(moments_of(rows), pca(**options), names(rows.shape[1]))


def svd(rows: Any, **options: Any) -> Fitted:
    config = TruncatedSVD(**{"inputs": ("a",), "output": "svd", "n_components": 1.0} | options)
    if sparse.issparse(rows):
        moments = moments_of(np.zeros((rows.shape[0], 0)), rows)
    else:
        moments = moments_of(np.asarray(rows, np.float64))
    return linear.fit_truncated_svd(moments, config, names(len(moments.mean)))


def correlated(num_rows: int = 500, width: int = 6, seed: int = 3) -> Any:
    """Rows whose variances lie well apart, so that each direction is determined."""
    draw = np.random.default_rng(seed)
    mixing = np.linalg.qr(draw.normal(size=(width, width)))[0]
    return draw.normal(size=(num_rows, width)) * (2.0 ** -np.arange(width)) @ mixing


def reference(rows: Any) -> Any:
    return decomposition.PCA(svd_solver="full").fit(np.asarray(rows, np.float64))


def bags_of_words(num_rows: int = 400, depth: int = 40, seed: int = 5) -> Any:
    draw = np.random.default_rng(seed)
    words = draw.zipf(1.3, size=(num_rows, 10)) % depth
    owners = np.repeat(np.arange(num_rows), 10)
    return sparse.csr_matrix((np.ones(words.size), (owners, words.ravel())), shape=(num_rows, depth))


def one_hot(lengths: Sequence[int]) -> Any:
    """A category of so many rows each."""
    return np.repeat(np.eye(len(lengths)), lengths, axis=0)


class TestComponents:
    def test_a_line_in_the_plane_by_hand(self) -> None:
        # Points on y = x at -1, 0, 1: variance 1 on each axis, 2 along the line, 0 across it.
        found = fit([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]], n_components=2)
        np.testing.assert_allclose(found.explained_variance, [2.0, 0.0], atol=1e-15)
        np.testing.assert_allclose(found.explained_variance_ratio, [1.0, 0.0], atol=1e-15)
        half = 0.5**0.5
        np.testing.assert_allclose(found.model.matrix, [[half, half], [half, -half]], atol=1e-15)

    def test_variance_divides_by_one_less_than_the_rows(self) -> None:
        assert fit([[0.0], [2.0]]).explained_variance.tolist() == [2.0]

    @pytest.mark.parametrize("standardise", [False, True])
    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda rows: rows, id="as is"),
            pytest.param(lambda rows: rows + 1e6, id="offset of 1e6"),
            pytest.param(lambda rows: rows * 1e-6, id="variances of 1e-12"),
            pytest.param(lambda rows: rows * 1e5 ** np.linspace(0, 1, 6), id="scales 1e5 apart"),
            pytest.param(lambda rows: rows * 10.0 ** np.array([5, 0, -6, 2, 0, 1]), id="scales 1e11 apart"),
            pytest.param(lambda rows: rows * 1e5 ** np.linspace(0.5, -0.5, 6) + 1e3, id="both"),
            pytest.param(lambda rows: np.asarray(rows + 1e3, np.float32), id="float32"),
        ],
    )
    def test_variances_and_subspaces_are_scikit_learns(self, change: Any, standardise: bool) -> None:
        rows = np.asarray(change(correlated()), np.float64)
        found = fit(rows, n_components=6, standardise=standardise)
        scale = rows.std(axis=0, ddof=1) if standardise else np.ones(6)
        theirs = reference((rows - rows.mean(axis=0)) / scale)
        np.testing.assert_allclose(found.explained_variance, theirs.explained_variance_, rtol=1e-6)
        np.testing.assert_allclose(
            found.explained_variance_ratio, theirs.explained_variance_ratio_, rtol=1e-6
        )
        np.testing.assert_allclose(found.model.mean, rows.mean(axis=0), rtol=1e-12)
        vectors = found.model.matrix * scale[:, None]
        for count in range(1, 7):
            assert subspace_angles(vectors[:, :count], theirs.components_[:count].T).max() < 1e-5

    def test_a_small_variance_across_columns_that_nearly_agree_is_kept(self) -> None:
        draw = np.random.default_rng(4)
        line = draw.normal(size=(1000, 1))
        rows = np.hstack([line, line + 1e-4 * draw.normal(size=(1000, 1)), draw.normal(size=(1000, 1))])
        found, theirs = fit(rows, n_components=3), reference(rows)
        # 1e-16 of rounding in a correlation is 1e-8 of the 1e-8 that is left between the columns.
        np.testing.assert_allclose(found.explained_variance, theirs.explained_variance_, rtol=1e-6)

    @pytest.mark.parametrize(
        "rows",
        [
            pytest.param(correlated()[:, [0, 1, 2, 2]], id="a column twice"),
            pytest.param(np.column_stack([correlated()[:, :3], np.full(500, 0.1)]), id="a constant column"),
            pytest.param(correlated()[:, :2] @ np.array([[1.0, 2, 3, 4], [4, 3, 2, -1]]), id="rank 2"),
            pytest.param(
                correlated()[:, [0, 1, 2, 2]] * [1e5, 1, 1e-3, 1e4], id="a column twice, scales apart"
            ),
            pytest.param(correlated(3, 4), id="fewer rows than columns"),
        ],
    )
    @pytest.mark.parametrize("standardise", [False, True])
    def test_without_full_rank_it_is_still_scikit_learns_and_finite(
        self, rows: Any, standardise: bool
    ) -> None:
        deviation = rows.std(axis=0, ddof=1)
        unit = np.where(deviation > 1e-12, deviation, 1.0) if standardise else np.ones(len(deviation))
        theirs = reference((rows - rows.mean(axis=0)) / unit)
        rank = np.linalg.matrix_rank((rows - rows.mean(axis=0)) / np.where(deviation > 1e-12, deviation, 1))
        found = fit(rows, n_components=1.0 if standardise else int(rank), standardise=standardise)
        assert found.num_outputs == rank
        assert (found.all_variances > 0).sum() == rank
        np.testing.assert_allclose(found.explained_variance, theirs.explained_variance_[:rank], rtol=1e-6)
        vectors = found.model.matrix * unit[:, None]
        assert subspace_angles(vectors, theirs.components_[:rank].T).max() < 1e-5
        # The rest of the basis is orthonormal and across the rows.
        everything = fit(rows, n_components=rows.shape[1], standardise=standardise)
        assert not everything.explained_variance[rank:].any()
        across = (rows - rows.mean(axis=0)) @ everything.model.matrix[:, rank:]
        assert np.abs(across).max() < 1e-9 * np.abs(rows - rows.mean(axis=0)).max()

    def test_rounding_of_large_variances_is_no_variance_across_small_columns(self) -> None:
        # 1e-16 of 400 * 10**2 is more than 1e-12 of the last two columns.
        rows = correlated(50, 1) * np.append(np.full(400, 10.0), [1.0, 1.0])
        assert (fit(rows, n_components=402).all_variances > 0).sum() == 1

    @pytest.mark.parametrize("whiten", [False, True])
    def test_a_constant_column_has_no_loading_when_columns_are_standardised(self, whiten: bool) -> None:
        rows = np.column_stack([correlated()[:, :2], np.full(500, 0.1)])
        found = fit(rows, standardise=True, n_components=3, whiten=whiten)
        assert found.model.matrix[2].tolist() == [0.0, 0.0, 0.0]
        assert fit(rows, standardise=True).num_outputs == 2

    @pytest.mark.parametrize("noise", [1.2e-6, 1.5e-6, 2e-6, 3e-6, 1e-5])
    def test_two_large_columns_that_all_but_agree_hide_no_small_one(self, noise: float) -> None:
        draw = np.random.default_rng(4)
        line = draw.normal(size=1000)
        # What is left between the first two is just above what counts as rounding of them, 1e-12 of their
        # variance, and yet 1e4 times the variance of the third.
        rows = np.column_stack(
            [1e5 * line, 1e5 * (line + noise * draw.normal(size=1000)), 1e-4 * draw.normal(size=1000)]
        )
        found = fit(rows, n_components=3)
        assert (np.diff(found.all_variances) <= 0).all()
        (small,) = np.flatnonzero(np.abs(found.model.matrix[2]) > 0.9)
        # By chance it correlates with the others, which takes some 5/1000 of its variance away.
        np.testing.assert_allclose(found.explained_variance[small], rows[:, 2].var(ddof=1), rtol=0.02)

    def test_the_basis_is_orthonormal_also_where_nothing_varies(self) -> None:
        for width in (6, 300):
            matrix = fit(correlated(3, width), n_components=width).model.matrix
            # The largest of what is left of an axis falls to some 1e-2, and 1e-16 of rounding grows by that.
            np.testing.assert_allclose(matrix.T @ matrix, np.eye(width), rtol=0, atol=1e-13)

    def test_what_reconstruction_loses_is_the_variance_that_was_not_kept(self) -> None:
        rows = correlated()
        found = fit(rows, n_components=2)
        centred = rows - found.model.mean
        lost = centred - centred @ found.model.matrix @ found.model.matrix.T
        np.testing.assert_allclose(
            (lost**2).sum() / (len(rows) - 1), found.all_variances[2:].sum(), rtol=1e-10
        )

    @pytest.mark.parametrize("standardise", [False, True])
    def test_whitened_components_have_covariance_identity(self, standardise: bool) -> None:
        rows = correlated() * 1e3 + 5
        found = fit(rows, n_components=6, whiten=True, standardise=standardise)
        # The smallest variance is 1e-3 of the largest, so that 1e-16 of rounding becomes about 1e-13.
        np.testing.assert_allclose(
            np.cov(((rows - found.model.mean) @ found.model.matrix).T), np.eye(6), atol=1e-10
        )

    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("standardise", [False, True])
    def test_whitening_a_direction_without_variance_gives_zero_not_noise(
        self, seed: int, standardise: bool
    ) -> None:
        # Rank 2 in 5 columns: the other three variances are some 1e-17 of rounding, or 0.
        mixing = np.random.default_rng(seed).normal(size=(2, 5))
        rows = correlated(seed=seed)[:, :2] @ mixing
        found = fit(rows, n_components=5, whiten=True, standardise=standardise)
        assert not found.model.matrix[:, 2:].any()
        assert found.model.matrix[:, :2].any(axis=0).all()

    def test_components_do_not_correlate_and_their_variances_are_those_reported(self) -> None:
        rows = correlated()
        found = fit(rows, n_components=6)
        np.testing.assert_allclose(
            np.cov(((rows - found.model.mean) @ found.model.matrix).T),
            np.diag(found.explained_variance),
            atol=1e-13,
        )

    @pytest.mark.parametrize("seed", range(5))
    def test_the_largest_loading_of_each_component_is_positive(self, seed: int) -> None:
        matrix = fit(correlated(seed=seed), n_components=6).model.matrix
        assert (matrix[np.abs(matrix).argmax(axis=0), np.arange(6)] > 0).all()

    def test_turning_every_sign_of_the_rows_leaves_the_components_as_they_are(self) -> None:
        rows = correlated()
        np.testing.assert_allclose(fit(-rows).model.matrix, fit(rows).model.matrix, atol=1e-12)

    def test_the_order_of_the_rows_does_not_matter(self) -> None:
        rows = correlated()
        np.testing.assert_allclose(fit(rows[::-1]).model.matrix, fit(rows).model.matrix, atol=1e-12)

    def test_standardising_makes_the_unit_of_a_feature_irrelevant(self) -> None:
        rows = correlated()
        miles = fit(rows, standardise=True)
        kilometres = fit(rows * 1.609, standardise=True)
        np.testing.assert_allclose(kilometres.explained_variance, miles.explained_variance, rtol=1e-12)
        np.testing.assert_allclose(kilometres.model.matrix * 1.609, miles.model.matrix, atol=1e-12)

    def test_the_shares_sum_to_one_over_all_components(self) -> None:
        np.testing.assert_allclose(fit(correlated(), n_components=6).explained_variance_ratio.sum(), 1)

    def test_applying_it_is_the_float64_arithmetic_to_float32_rounding(self) -> None:
        rows = correlated().astype(np.float32)
        found = fit(rows, n_components=3)
        exact = (rows - found.model.mean) @ found.model.matrix
        got = found.apply(Rows.of(rows))
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, exact, rtol=0, atol=FLOAT32_ROUNDING * np.abs(rows).max())

    @pytest.mark.parametrize("standardise", [False, True])
    def test_a_few_components_of_many_columns_are_the_first_of_all(self, standardise: bool) -> None:
        rows = correlated(900, 20) @ np.random.default_rng(9).normal(size=(20, 600))
        rows += 1e-2 * np.random.default_rng(10).normal(size=rows.shape)
        few = fit(rows, n_components=8, standardise=standardise)
        every = fit(rows, n_components=600, standardise=standardise)
        assert len(few.all_variances) < 600  # the others were not computed
        np.testing.assert_allclose(few.explained_variance, every.explained_variance[:8], rtol=1e-9)
        np.testing.assert_allclose(
            few.explained_variance_ratio, every.explained_variance_ratio[:8], rtol=1e-9
        )
        np.testing.assert_allclose(few.model.matrix, every.model.matrix[:, :8], atol=1e-8)

    def test_a_few_components_that_are_small_beside_the_first_are_as_exact(self) -> None:
        rows = correlated(900, 8) @ np.random.default_rng(9).normal(size=(8, 600))
        rows[:, 0] = 1e8 * np.random.default_rng(10).normal(size=900)
        found, theirs = fit(rows, n_components=4), reference(rows)
        np.testing.assert_allclose(found.explained_variance, theirs.explained_variance_[:4], rtol=1e-6)
        assert subspace_angles(found.model.matrix, theirs.components_[:4].T).max() < 1e-5

    def test_a_few_of_many_equal_components_are_the_first_columns(self) -> None:
        # 600 categories of two rows each: 599 equal variances, and a run of them that never ends.
        found = fit(one_hot([2] * 600), n_components=3)
        np.testing.assert_allclose(found.explained_variance, 2 / 1199, rtol=1e-12)
        assert np.abs(found.model.matrix).argmax(axis=0).tolist() == [0, 1, 2]


class TestNothingIsLeftToChance:
    """Signs, bases of equal variances and of null spaces are the same in any sharding, order and tree."""

    @staticmethod
    def grid() -> Any:
        """Three columns that vary alike and do not correlate, on a grid that float64 does not hold."""
        axis = np.array([0.1, 0.4, 0.7])
        return np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)

    cases = pytest.mark.parametrize(
        "rows",
        [
            pytest.param(grid(), id="equal variances"),
            pytest.param(grid() + 1e3, id="equal variances, offset"),
            pytest.param(one_hot([7, 7, 7, 7]) * 0.3, id="balanced one-hot"),
            pytest.param(one_hot([11, 7, 7, 2]) / 3, id="one-hot"),
            pytest.param(
                np.hstack([one_hot([6, 6, 6]), np.tile(one_hot([3, 3]), (3, 1))]) * 0.7, id="two one-hot"
            ),
            pytest.param(correlated(40, 3)[:, [0, 1, 2, 1, 0]], id="columns twice"),
            pytest.param(correlated(40, 2)[:, [0, 1, 1]] * [1, 1, -1], id="a column and its opposite"),
            pytest.param(correlated(40, 3)[:, [0, 1, 2, 1]] * [1e5, 1, 1e-3, 1e4], id="scales apart"),
            pytest.param(correlated(4, 7), id="fewer rows than columns"),
            pytest.param(
                np.column_stack([np.full(27, 0.1), grid(), np.full(27, 1e6)]), id="constant columns"
            ),
            pytest.param(np.float32(correlated(60, 2) @ [[1, 0, 1], [0, 1, 1]]), id="a sum in float32"),
        ],
    )

    @staticmethod
    def shuffled(rows: Any, seed: int) -> Moments:
        """The moments of the rows in a random order, in random batches, merged in a random tree."""
        draw = np.random.default_rng(seed)
        rows = np.asarray(rows, np.float64)[draw.permutation(len(rows))]
        parts = []
        for part in np.split(rows, np.sort(draw.integers(0, len(rows) + 1, draw.integers(0, 9)))):
            parts.append(RunningMoments(rows.shape[1]))
            for batch in np.split(part, np.sort(draw.integers(0, len(part) + 1, draw.integers(0, 3)))):
                parts[-1].add(batch)
        while len(parts) > 1:
            one, other = draw.choice(len(parts), 2, replace=False)
            parts[one].merge(parts[other])
            del parts[other]
        return parts[0].result()

    @cases
    @pytest.mark.parametrize("standardise", [False, True])
    @given(st.integers(0, 2**32))
    @settings(max_examples=25, deadline=None)
    def test_components_are_the_same_in_any_sharding(self, rows: Any, standardise: bool, seed: int) -> None:
        width = rows.shape[1]
        whole, parts = (
            linear.fit_pca(moments, pca(n_components=width, standardise=standardise), names(width))
            for moments in (moments_of(rows), self.shuffled(rows, seed))
        )
        unit = np.where(rows.std(axis=0) > 0, rows.std(axis=0), 1) if standardise else np.ones(width)
        np.testing.assert_allclose(
            parts.model.matrix * unit[:, None], whole.model.matrix * unit[:, None], rtol=0, atol=1e-6
        )
        np.testing.assert_allclose(
            parts.all_variances, whole.all_variances, rtol=1e-6, atol=1e-15 * whole.all_variances[0]
        )

    @cases
    @given(st.integers(0, 2**32))
    @settings(max_examples=25, deadline=None)
    def test_singular_vectors_are_the_same_in_any_sharding(self, rows: Any, seed: int) -> None:
        width = rows.shape[1]
        config = TruncatedSVD(inputs=("a",), output="svd", n_components=width)
        whole, parts = (
            linear.fit_truncated_svd(moments, config, names(width))
            for moments in (moments_of(rows), self.shuffled(rows, seed))
        )
        np.testing.assert_allclose(parts.model.matrix, whole.model.matrix, rtol=0, atol=1e-6)

    def test_equal_variances_of_columns_that_do_not_correlate_give_the_columns(self) -> None:
        np.testing.assert_allclose(fit(self.grid(), n_components=3).model.matrix, np.eye(3), atol=1e-14)

    def test_of_opposite_loadings_of_one_size_the_first_is_positive(self) -> None:
        draw = np.random.default_rng(0)
        for _ in range(20):
            line = draw.normal(size=100)
            found = fit(np.column_stack([line, -line]), n_components=2)
            half = 0.5**0.5
            np.testing.assert_allclose(found.model.matrix, [[half, half], [-half, half]], atol=1e-12)

    def test_constant_columns_span_the_null_space_one_by_one(self) -> None:
        rows = np.column_stack([np.full(27, 0.1), self.grid()[:, 0], np.full(27, 1e6)])
        np.testing.assert_array_equal(fit(rows, n_components=3).model.matrix[:, 1:], np.eye(3)[:, [0, 2]])

    def test_variances_that_differ_by_a_ten_millionth_are_not_mixed(self) -> None:
        # Alike to 2e-7, where rounding moves the components by 1e-16 / 2e-7.
        rows = self.grid() * [1, 1 + 1e-7, 1 - 1e-7]
        np.testing.assert_allclose(fit(rows, n_components=3).model.matrix, np.eye(3)[:, [1, 0, 2]], atol=1e-8)

    def test_variances_near_rounding_are_not_mixed_if_they_differ(self) -> None:
        draw = np.random.default_rng(4)
        rows = draw.normal(size=(2000, 1)) + draw.normal(size=(2000, 3)) * [1e-5, 2e-5, 4e-5]
        found = fit(rows, n_components=3, standardise=True, whiten=True)
        outputs = (rows - found.model.mean) @ found.model.matrix
        # Variances of 1e-10 and 1e-9, and 1e-16 of rounding.
        np.testing.assert_allclose(np.cov(outputs.T), np.eye(3), atol=1e-4)

    @given(st.integers(1, 5), st.integers(0, 1000), st.integers(0, 1000))
    @settings(max_examples=60, deadline=None)
    def test_a_canonical_basis_depends_on_the_space_alone(self, size: int, seed: int, turn: int) -> None:
        vectors = np.linalg.qr(np.random.default_rng(seed).normal(size=(6, size)))[0]
        turned = vectors @ stats.special_ortho_group.rvs(size, random_state=turn) if size > 1 else -vectors
        basis = linear.canonical_basis(vectors, size)
        np.testing.assert_allclose(linear.canonical_basis(turned, size), basis, atol=1e-10)
        np.testing.assert_allclose(basis.T @ basis, np.eye(size), atol=1e-13)
        np.testing.assert_allclose(basis @ basis.T, vectors @ vectors.T, atol=1e-13)

    def test_the_first_vectors_of_a_canonical_basis_do_not_depend_on_how_many_are_wanted(self) -> None:
        vectors = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 5)))[0]
        np.testing.assert_array_equal(
            linear.canonical_basis(vectors, 2), linear.canonical_basis(vectors, 5)[:, :2]
        )


class TestNumberOfComponents:
    def test_a_share_by_hand(self) -> None:
        values = np.array([6.0, 3.0, 1.0])
        found = [linear.num_components(values, 10.0, share) for share in (0.5, 0.6, 0.61, 0.9, 0.91, 1.0)]
        assert found == [1, 1, 2, 2, 3, 3]

    def test_a_share_is_reached_but_for_rounding(self) -> None:
        # Eight times 0.1, added up, is 0.7999999999999999.
        assert linear.num_components(np.full(10, 0.1), 1.0, 0.8) == 8

    def test_a_share_takes_no_component_without_variance(self) -> None:
        # 1e-9 of the total is in columns that the rank left out.
        assert linear.num_components(np.array([6.0, 4.0, 0.0, 0.0]), 10 + 1e-8, 1.0) == 2

    @given(st.floats(0.01, 1.0), st.integers(0, 20))
    @settings(max_examples=60, deadline=None)
    def test_a_share_keeps_the_fewest_components_that_reach_it(self, share: float, seed: int) -> None:
        found = fit(correlated(50, 4, seed), n_components=share)
        shares = np.cumsum(found.all_variances) / found.all_variances.sum()
        assert shares[found.num_outputs - 1] >= share - 1e-12
        assert found.num_outputs == 1 or shares[found.num_outputs - 2] < share

    def test_broken_sticks_by_hand(self) -> None:
        np.testing.assert_allclose(linear.broken_stick(3), [11 / 18, 5 / 18, 2 / 18], rtol=1e-15)

    def test_broken_sticks_are_those_of_broken_sticks(self) -> None:
        breaks = np.sort(np.random.default_rng(2).random((40_000, 4)), axis=1)
        ends = np.hstack([np.zeros((40_000, 1)), breaks, np.ones((40_000, 1))])
        lengths = np.sort(np.diff(ends, axis=1), axis=1)[:, ::-1]
        # The deviation of a mean of 40,000 lengths is at most 0.11 / 200.
        np.testing.assert_allclose(linear.broken_stick(5), lengths.mean(axis=0), atol=0.003)

    @pytest.mark.parametrize(
        ("num_rows", "width"), [(300, 10), (60, 40), (31, 30), (30, 30), (20, 30), (2, 3), (2, 1)]
    )
    def test_parallel_analysis_is_the_direct_simulation_of_rows(self, num_rows: int, width: int) -> None:
        draw = np.random.default_rng(6)
        simulated = [
            np.linalg.eigvalsh(np.atleast_2d(np.corrcoef(draw.normal(size=(num_rows, width)).T)))[::-1]
            for _ in range(800)
        ]
        limits = linear.parallel_analysis(num_rows, width)
        exact, spread = np.percentile(simulated, 95, axis=0), np.std(simulated, axis=0)
        # The 95th percentile of 100 draws deviates by some 0.2 of their deviation; 5 times that is a lot.
        np.testing.assert_array_less(np.abs(limits - exact), spread + 1e-9)

    def test_parallel_analysis_of_a_billion_rows_is_close_to_one(self) -> None:
        np.testing.assert_allclose(linear.parallel_analysis(10**9, 20), 1, atol=1e-3)

    def test_parallel_analysis_gives_the_same_limits_each_time(self) -> None:
        np.testing.assert_array_equal(linear.parallel_analysis(500, 12), linear.parallel_analysis(500, 12))

    @staticmethod
    def factors(count: int) -> Any:
        """Twelve columns of noise with so many factors in them."""
        draw = np.random.default_rng(12)
        return draw.normal(size=(400, count)) @ draw.normal(size=(count, 12)) * 2 + draw.normal(
            size=(400, 12)
        )

    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_parallel_analysis_finds_the_number_of_factors(self, count: int) -> None:
        found = fit(self.factors(count), n_components=ComponentRule.PARALLEL_ANALYSIS, standardise=True)
        assert (found.num_outputs, found.notes) == (count, ())

    @pytest.mark.parametrize("rule", ComponentRule)
    def test_constant_columns_are_none_that_a_rule_compares_with(self, rule: ComponentRule) -> None:
        rows = self.factors(2)
        for varying in (rows, np.hstack([rows, np.full((400, 300), 7.0)])):
            assert fit(varying, n_components=rule, standardise=True).num_outputs == 2

    @pytest.mark.parametrize("standardise", [False, True])
    def test_the_broken_stick_keeps_the_shares_that_are_longer(self, standardise: bool) -> None:
        found = fit(self.factors(2), n_components=ComponentRule.BROKEN_STICK, standardise=standardise)
        shares, sticks = found.all_variances / found.all_variances.sum(), linear.broken_stick(12)
        assert (found.num_outputs, found.notes) == (2, ())
        assert (shares[:2] > sticks[:2]).all()
        assert shares[2] <= sticks[2]

    @pytest.mark.parametrize("seed", range(20))  # rounding puts the one variance above its limit in some
    def test_one_column_is_kept_by_neither_rule_and_told(self, seed: int) -> None:
        rows = correlated(seed=seed)[:, :1]
        told = {}
        for rule in ComponentRule:
            found = fit(rows, n_components=rule, standardise=True)
            assert found.num_outputs == 1
            told[rule] = found.notes
        assert told == {
            ComponentRule.PARALLEL_ANALYSIS: (
                "Parallel analysis found no component above what uncorrelated columns give; kept the first "
                "one.",
            ),
            ComponentRule.BROKEN_STICK: (
                "The broken-stick rule found no component above its length; kept the first one.",
            ),
        }

    def test_a_later_component_above_its_limit_does_not_come_back_in(self) -> None:
        # Shares 0.4, 0.4, 0.2 against sticks of 0.61, 0.28, 0.11: the second is longer, the first is not.
        rows = np.vstack([np.diag([2**0.5, 2**0.5, 1]), -np.diag([2**0.5, 2**0.5, 1])])
        found = fit(rows, n_components=ComponentRule.BROKEN_STICK)
        assert found.num_outputs == 1
        assert found.notes


class TestTruncatedSVD:
    def test_two_rows_by_hand(self) -> None:
        # Singular values 3 and 2 along the axes; not centred, so the second column keeps its mean of 1.5.
        found = svd([[2.0, 0.0], [0.0, 3.0]], n_components=2)
        np.testing.assert_allclose(found.model.matrix, [[0.0, 1.0], [1.0, 0.0]], atol=1e-15)
        assert found.model.mean.tolist() == [0.0, 0.0]
        np.testing.assert_allclose(found.all_variances, [9 / 2, 4 / 2])
        np.testing.assert_allclose(found.explained_variance, [1.5**2, 1.0**2])
        np.testing.assert_allclose(found.explained_variance_ratio, [2.25 / 3.25, 1 / 3.25])

    @pytest.mark.parametrize(
        "rows",
        [
            pytest.param(correlated(), id="dense"),
            pytest.param(correlated() + np.array([3, 0, 1, 0, 10, 0]), id="dense with means"),
            pytest.param(correlated() * 1e5 ** np.linspace(0, 0.4, 6), id="scales 100 apart"),
            pytest.param(correlated() * 1e-6, id="variances of 1e-12"),
            pytest.param(bags_of_words(), id="counts"),
            pytest.param(
                feature_extraction.text.TfidfTransformer().fit_transform(bags_of_words(seed=6)), id="TF-IDF"
            ),
            pytest.param(np.vstack([correlated(), np.zeros((100, 6))]), id="rows of zeros"),
        ],
    )
    def test_it_is_scikit_learns(self, rows: Any) -> None:
        count = 5
        theirs = decomposition.TruncatedSVD(count, algorithm="arpack").fit(rows)
        found = svd(rows, n_components=count)
        np.testing.assert_allclose(
            found.all_variances[:count] * rows.shape[0], theirs.singular_values_**2, rtol=1e-6
        )
        np.testing.assert_allclose(found.explained_variance, theirs.explained_variance_, rtol=1e-6)
        np.testing.assert_allclose(
            found.explained_variance_ratio, theirs.explained_variance_ratio_, rtol=1e-6
        )
        signs = np.sign((found.model.matrix * theirs.components_.T).sum(axis=0))
        np.testing.assert_allclose(found.model.matrix * signs, theirs.components_.T, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        "rows",
        [
            pytest.param(correlated() + 1e6, id="offset of 1e6"),
            pytest.param(correlated() * 1e5 ** np.linspace(0, 1, 6), id="scales 1e5 apart"),
        ],
    )
    def test_where_squares_lose_digits_it_is_the_decomposition_of_the_rows(self, rows: Any) -> None:
        # scikit-learn's solver iterates with squares of the rows, which have 1e-16 of 1e12 to lose.
        _, singular, vectors = np.linalg.svd(rows, full_matrices=False)
        found = svd(rows, n_components=6)
        np.testing.assert_allclose(found.all_variances * len(rows), singular**2, rtol=1e-6)
        signs = np.sign((found.model.matrix * vectors.T).sum(axis=0))
        np.testing.assert_allclose(found.model.matrix * signs, vectors.T, rtol=0, atol=1e-5)
        outputs = (rows - rows.mean(axis=0)) @ vectors.T
        np.testing.assert_allclose(found.explained_variance, outputs.var(axis=0), rtol=1e-6)

    def test_what_reconstruction_loses_is_the_sum_of_squares_that_was_not_kept(self) -> None:
        rows = bags_of_words().toarray()
        found = svd(rows, n_components=7)
        lost = rows - rows @ found.model.matrix @ found.model.matrix.T
        np.testing.assert_allclose((lost**2).sum() / len(rows), found.all_variances[7:].sum(), rtol=1e-10)

    @pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
    def test_a_share_is_of_the_sum_of_squares(self, share: float) -> None:
        rows = bags_of_words()
        found = svd(rows, n_components=share)
        shares = np.cumsum(np.linalg.svd(rows.toarray())[1] ** 2) / rows.multiply(rows).sum()
        assert found.num_outputs == 1 + (shares < share).sum()

    def test_without_full_rank_the_share_of_one_is_the_rank(self) -> None:
        rows = correlated()[:, [0, 1, 2, 2]] + [1, 1, 2, 2]
        assert svd(rows, n_components=1.0).num_outputs == 3
        everything = svd(rows, n_components=4).model.matrix
        np.testing.assert_allclose(everything.T @ everything, np.eye(4), atol=1e-14)

    @pytest.mark.parametrize("offset", [0.0, 5.0, 1e6, 1e12])
    def test_rounding_of_a_large_mean_is_no_direction(self, offset: float) -> None:
        rows = np.round(correlated(60, 3)[:, [0, 1, 2, 2]], 3) + offset
        assert (svd(rows, n_components=4).all_variances > 0).sum() == 3

    def test_rounding_of_a_sum_in_float32_is_no_direction(self) -> None:
        parts = correlated(60, 2).astype(np.float32) + np.float32(5)
        rows = np.column_stack([parts, parts.sum(axis=1)])
        assert (svd(rows, n_components=3).all_variances > 0).sum() == 2
        assert (fit(rows, n_components=3).all_variances > 0).sum() == 2

    def test_rows_that_are_all_the_same_have_one_direction_without_variance(self) -> None:
        found = svd(np.full((10, 2), 3.0))
        np.testing.assert_allclose(found.model.matrix, [[0.5**0.5], [0.5**0.5]])
        np.testing.assert_allclose(found.all_variances, [18, 0])
        assert found.explained_variance.tolist() == [0]
        assert found.explained_variance_ratio.tolist() == [0]

    def test_a_few_components_of_many_columns_are_the_first_of_all(self) -> None:
        rows = bags_of_words(1500, 700)
        few, every = svd(rows, n_components=8), svd(rows, n_components=700)
        assert len(few.all_variances) < 700  # the others were not computed
        np.testing.assert_allclose(few.explained_variance, every.explained_variance[:8], rtol=1e-9)
        np.testing.assert_allclose(
            few.explained_variance_ratio, every.explained_variance_ratio[:8], rtol=1e-9
        )
        np.testing.assert_allclose(few.model.matrix, every.model.matrix[:, :8], atol=1e-8)


class TestHelpers:
    def test_the_inverse_of_no_deviation_is_zero(self) -> None:
        assert linear.inverse_deviation(np.array([4.0, 0.0, 0.25])).tolist() == [0.5, 0.0, 2.0]

    def test_signs_by_hand(self) -> None:
        found = linear.fix_signs(np.array([[1.0, -3.0, -2.0], [-2.0, 1.0, 2.0000001]]))
        assert found.tolist() == [[-1.0, 3.0, 2.0], [2.0, -1.0, -2.0000001]]


class TestRefusals:
    def test_one_row_is_too_few_for_components(self) -> None:
        message = "PCA needs at least 2 rows in split 'train'; got 1."
        with pytest.raises(DataError, match=re.escape(message)):
            fit([[1.0, 2.0]])

    def test_no_row_is_too_few_for_singular_vectors(self) -> None:
        message = "TruncatedSVD needs at least 1 row in split 'train'; got 0."
        with pytest.raises(DataError, match=re.escape(message)):
            svd(np.zeros((0, 2)))

    @pytest.mark.parametrize("standardise", [False, True])
    def test_rows_that_are_all_the_same_are_refused(self, standardise: bool) -> None:
        message = "PCA needs a feature that varies; x0 and x1 are constant in split 'train'."
        with pytest.raises(DataError, match=re.escape(message)):
            fit(np.full((100, 2), 0.1), standardise=standardise)

    def test_rows_of_zeros_are_refused(self) -> None:
        message = "TruncatedSVD needs a value that is not zero; x0 and x1 are all 0 in split 'train'."
        with pytest.raises(DataError, match=re.escape(message)):
            svd(np.zeros((100, 2)))
