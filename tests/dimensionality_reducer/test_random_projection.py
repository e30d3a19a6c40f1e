"""Random projections: the generator by its definition, statistical laws, and scikit-learn's matrices."""

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import pdist
from sklearn import random_projection as reference
from tests.dimensionality_reducer.fitting import apply, fit

from tfx_mobile.common.errors import DataError
from tfx_mobile.dimensionality_reducer.config import (
    GaussianRandomProjection,
    NotFinite,
    SparseRandomProjection,
)
from tfx_mobile.dimensionality_reducer.random_projection import (
    gaussian_matrix,
    johnson_lindenstrauss,
    sparse_matrix,
)

NAN = float("nan")
BOTH = pytest.mark.parametrize("method", [GaussianRandomProjection, SparseRandomProjection])


def settings_of(method: Any, n_components: int | None = 3, **options: Any) -> Any:
    return method(inputs=("x",), output="out", n_components=n_components, **options)


def philox(key: int, count: int) -> list[int]:
    """Returns the first words of Philox 4x64-10 by its definition (Salmon et al. 2011, figure 2)."""
    words: list[int] = []
    counter = 0
    while len(words) < count:
        counter += 1  # NumPy counts before it draws
        c, k = [counter, 0, 0, 0], [key, 0]
        for _ in range(10):
            one, two = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
            low, high = 2**64 - 1, 64
            c = [two >> high ^ c[1] ^ k[0], two & low, one >> high ^ c[3] ^ k[1], one & low]
            k = [(k[0] + 0x9E3779B97F4A7C15) & low, (k[1] + 0xBB67AE8584CAA73B) & low]
        words += c
    return words[:count]


class TestMatrix:
    @settings(deadline=None)
    @given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 5))
    def test_normal_numbers_follow_from_the_definition(self, seed: int, width: int, outputs: int) -> None:
        uniform = [((word >> 12) + 0.5) / 2**52 for word in philox(seed, width * outputs)]
        expected = stats.norm.ppf(uniform).reshape(width, outputs) / math.sqrt(outputs)
        np.testing.assert_allclose(gaussian_matrix(seed, width, outputs), expected, rtol=1e-12)

    @settings(deadline=None)
    @given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 5), st.floats(0.05, 1))
    def test_signs_follow_from_the_definition(
        self, seed: int, width: int, outputs: int, density: float
    ) -> None:
        words = philox(seed, width * outputs)
        signs = [(1 if word % 2 else -1) * (((word >> 12) + 0.5) / 2**52 < density) for word in words]
        expected = np.reshape(signs, (width, outputs)) / math.sqrt(density * outputs)
        np.testing.assert_allclose(sparse_matrix(seed, width, outputs, density), expected, rtol=1e-14)

    def test_normal_numbers_are_normal(self) -> None:
        found = gaussian_matrix(1, 500, 200).ravel() * math.sqrt(200)
        assert stats.kstest(found, "norm").pvalue > 0.01  # of a fixed seed: true or false once and for all

    def test_its_moments_are_those_of_scikit_learn(self) -> None:
        other = reference.GaussianRandomProjection(200, random_state=0).fit(np.zeros((2, 500))).components_
        found = gaussian_matrix(0, 500, 200)
        assert found.shape == other.T.shape
        # 100,000 entries: deviations of 1 / 316 in the mean, 1 / 224 in the variance, relative to one entry.
        for matrix in (found, other):
            assert abs(matrix.mean()) * math.sqrt(200) < 4 / 316
            assert matrix.var() * 200 == pytest.approx(1, abs=4 / 224)

    @pytest.mark.parametrize("density", [0.01, 1 / 3, 1.0])
    def test_sparse_moments_are_those_of_scikit_learn(self, density: float) -> None:
        other = reference.SparseRandomProjection(200, density=density, random_state=0, dense_output=True)
        expected = other.fit(np.zeros((2, 500))).components_
        expected = expected.toarray() if hasattr(expected, "toarray") else expected
        found = sparse_matrix(0, 500, 200, density)
        size = math.sqrt(1 / (density * 200))
        np.testing.assert_allclose(np.unique(np.abs(found))[-1], np.abs(expected).max(), rtol=1e-12)
        for matrix in (found, expected):
            assert set(np.unique(np.round(matrix / size, 9))) <= {-1.0, 0.0, 1.0}
            error = math.sqrt(density * (1 - density) / 100_000)
            assert np.count_nonzero(matrix) / 100_000 == pytest.approx(density, abs=4 * error + 1e-9)
            assert (matrix > 0).mean() == pytest.approx((matrix < 0).mean(), abs=4 * math.sqrt(density / 1e5))

    def test_directions_are_orthogonal_on_average(self) -> None:
        for make in (gaussian_matrix, lambda *args: sparse_matrix(*args, 0.2)):
            # The mean over seeds of M^T M is (d / k) I; each entry deviates by sqrt(d) / k / sqrt(seeds).
            mean = sum(matrix.T @ matrix for matrix in (make(seed, 40, 4) for seed in range(500))) / 500
            deviation = math.sqrt(40) / 4 / math.sqrt(500)
            np.testing.assert_allclose(mean, 10 * np.eye(4), rtol=0, atol=6 * deviation)

    def test_seeds_make_matrices_that_do_not_correlate(self) -> None:
        one, other = (gaussian_matrix(seed, 100, 100).ravel() for seed in (0, 1))
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / 100


class TestSize:
    @pytest.mark.parametrize("num_rows", [2, 100, 10**6])
    @pytest.mark.parametrize("eps", [0.1, 0.5, 0.99])
    def test_the_default_is_that_of_scikit_learn(self, num_rows: int, eps: float) -> None:
        expected = reference.johnson_lindenstrauss_min_dim(num_rows, eps=eps)
        assert johnson_lindenstrauss(num_rows, eps) == expected

    def test_one_row_needs_one_direction(self) -> None:
        assert johnson_lindenstrauss(1, 0.1) == 1

    @BOTH
    def test_squared_distances_change_by_less_than_eps(self, method: Any) -> None:
        rows = np.random.default_rng(0).normal(size=(60, 400))
        fitted = fit(settings_of(method, None, eps=0.5), rows)
        assert fitted.num_outputs == johnson_lindenstrauss(60, 0.5) == 196
        assert fitted.notes == (
            "196 directions keep the squared distances of 60 rows to 0.5 (Johnson-Lindenstrauss).",
        )
        ratio = (pdist(apply(fitted, rows)) / pdist(rows)) ** 2
        assert ratio.min() > 0.5
        assert ratio.max() < 1.5
        # Their mean is 1; 196 directions leave a deviation of sqrt(2 / 196) = 0.1 in what rows share.
        assert ratio.mean() == pytest.approx(1, abs=0.1)

    @BOTH
    def test_a_lemma_that_asks_for_more_directions_than_columns_is_refused(self, method: Any) -> None:
        message = (
            f"{method.__name__} must not have more directions than its inputs are wide, 8; to keep the "
            "squared distances of 300 rows to 0.1 takes 4888 (Johnson-Lindenstrauss). Give n_components, or "
            "a larger eps."
        )
        with pytest.raises(DataError, match=re.escape(message)):
            fit(settings_of(method, None), np.zeros((300, 8)))

    @BOTH
    def test_more_directions_than_columns_are_refused(self, method: Any) -> None:
        message = f"{method.__name__}.n_components must be at most 2, the width of its inputs; got 3."
        with pytest.raises(DataError, match=re.escape(message)):
            fit(settings_of(method, 3), np.zeros((9, 2)))

    @BOTH
    def test_no_row_left_is_refused(self, method: Any) -> None:
        message = (
            f"{method.__name__} needs rows in split 'train'; all 2 have NaN or infinity and are dropped. "
            "Clean them in preprocessing_fn, or set NotFinite.IMPUTE_MEAN."
        )
        with pytest.raises(DataError, match=re.escape(message)):
            fit(settings_of(method, 1, not_finite=NotFinite.DROP_ROWS), [[NAN], [NAN]])

    def test_rows_that_were_dropped_do_not_count(self) -> None:
        rows = np.random.default_rng(0).normal(size=(60, 400))
        rows[7:] = NAN
        config = settings_of(GaussianRandomProjection, None, eps=0.5, not_finite=NotFinite.DROP_ROWS)
        fitted = fit(config, rows)
        assert (fitted.num_rows, fitted.num_outputs) == (7, johnson_lindenstrauss(7, 0.5))


class TestProjection:
    @BOTH
    def test_it_is_the_centred_numbers_and_the_counts_times_the_matrix(self, method: Any) -> None:
        draw = np.random.default_rng(1)
        numbers, counts = draw.normal(3, 1, (50, 4)).astype(np.float32), draw.poisson(1, (50, 6))
        fitted = fit(settings_of(method, 5, seed=9), numbers, counts=counts)
        matrix = (
            gaussian_matrix(9, 10, 5)
            if method is GaussianRandomProjection
            else sparse_matrix(9, 10, 5, 1 / math.sqrt(10))
        )
        exact = np.concatenate([numbers - numbers.mean(axis=0, dtype=np.float64), counts], axis=1)
        # Sums of 10 products of size up to 4, in float32.
        np.testing.assert_allclose(apply(fitted, numbers, counts), exact @ matrix, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(fitted.loadings, matrix)

    @BOTH
    def test_squared_lengths_are_kept_on_average(self, method: Any) -> None:
        rows = np.random.default_rng(2).normal(size=(20, 30))
        rows -= rows.mean(axis=0)
        ratios = [
            (apply(fit(settings_of(method, 10, seed=seed), rows, num_batches=1), rows) ** 2).sum()
            / (rows**2).sum()
            for seed in range(200)
        ]
        # Of one seed at most sqrt(2 / 10), of 200 a fourteenth of it.
        assert np.mean(ratios) == pytest.approx(1, abs=4 * math.sqrt(0.2) / 14)

    @BOTH
    def test_distances_of_rows_far_from_zero_are_those_of_rows_near_it(self, method: Any) -> None:
        near = np.round(np.random.default_rng(3).normal(size=(40, 20)) * 16) / 16
        one, other = (pdist(apply(fit(settings_of(method, 10), rows), rows)) for rows in (near, near + 1e6))
        np.testing.assert_allclose(one, other, rtol=1e-5)  # float32; 1e6 has a last bit of 1 / 16

    @BOTH
    def test_the_matrix_is_a_function_of_seed_and_shape(self, method: Any) -> None:
        draw = np.random.default_rng(4)
        one = fit(settings_of(method, 3, seed=5), draw.normal(size=(9, 6)), seed=1).loadings
        other = fit(settings_of(method, 3, seed=5), draw.gamma(3, size=(70, 6)) * 1e5, seed=2).loadings
        third = fit(settings_of(method, 3, seed=6), draw.normal(size=(9, 6))).loadings
        np.testing.assert_array_equal(one, other)
        assert one is not None
        assert (one != third).any()

    @BOTH
    def test_imputed_values_are_the_mean(self, method: Any) -> None:
        rows = np.random.default_rng(5).normal(2, 1, (30, 6)).astype(np.float32)
        rows[3, 2], rows[7, 0] = NAN, np.inf
        fitted = fit(settings_of(method, 4, not_finite=NotFinite.IMPUTE_MEAN), rows)
        good = np.where(np.isfinite(rows), rows, NAN).astype(np.float64)
        mean = np.nanmean(good, axis=0)
        expected = np.nan_to_num(good - mean) @ fitted.loadings
        np.testing.assert_allclose(apply(fitted, rows), expected, rtol=0, atol=1e-5)

    def test_constant_and_duplicate_columns_do_no_harm(self) -> None:
        one = np.random.default_rng(6).normal(size=(30, 1))
        rows = np.concatenate([one, one, np.full((30, 1), 1e6)], axis=1)
        fitted = fit(settings_of(GaussianRandomProjection, 2), rows)
        assert fitted.loadings is not None
        expected = (one - one.mean()) * fitted.loadings[:2].sum(axis=0)
        np.testing.assert_allclose(apply(fitted, rows), expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("density", [0.05, 1.0])
    def test_the_density_is_the_share_of_weights_that_are_not_zero(self, density: float) -> None:
        config = settings_of(SparseRandomProjection, 50, density=density)
        found = fit(config, np.random.default_rng(7).normal(size=(5, 400))).loadings
        assert found is not None
        assert np.count_nonzero(found) / found.size == pytest.approx(density, abs=0.007)  # 4 deviations
