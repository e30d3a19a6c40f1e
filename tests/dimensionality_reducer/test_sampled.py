"""Methods fitted to the sample: cases worked by hand, laws, scikit-learn in float64 as the second method."""

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special
from scipy.linalg import subspace_angles
from sklearn import decomposition
from tests.dimensionality_reducer.applied import fit

from tfx_mobile.common.errors import DataError
from tfx_mobile.dimensionality_reducer import core, models
from tfx_mobile.dimensionality_reducer.config import (
    NMF,
    FastICA,
    KernelPCA,
    LatentDirichletAllocation,
    NotFinite,
    SparsePCA,
)
from tfx_mobile.dimensionality_reducer.models import Fitted
from tfx_mobile.dimensionality_reducer.rows import NumpyOps, Rows
from tfx_mobile.dimensionality_reducer.sample import Sample
from tfx_mobile.dimensionality_reducer.statistics import Statistics

FLOAT32 = 2e-6  # some tens of roundings to 2**-24 of numbers of size 1


def ica(n_components: int = 2, **options: Any) -> FastICA:
    return FastICA(inputs=("x",), output="ica", n_components=n_components, **options)


def sparse_pca(n_components: int = 2, **options: Any) -> SparsePCA:
    return SparsePCA(inputs=("x",), output="sparse", n_components=n_components, **options)


def nmf(n_components: int = 2, **options: Any) -> NMF:
    return NMF(inputs=("x",), output="parts", n_components=n_components, **options)


def kernel_pca(n_components: int = 2, **options: Any) -> KernelPCA:
    return KernelPCA(inputs=("x",), output="kernel", n_components=n_components, **options)


def topics(n_components: int = 2, **options: Any) -> LatentDirichletAllocation:
    return LatentDirichletAllocation(inputs=("x",), output="topics", n_components=n_components, **options)


ALL = [ica(), sparse_pca(), nmf(), kernel_pca(num_landmarks=30), topics(max_iter=3)]


def of(values: Any) -> Rows:
    return Rows.of(np.asarray(values))


def mixed(num_rows: int = 2000, width: int = 5, num_sources: int = 3, seed: int = 1) -> tuple[Any, Any]:
    """Returns rows that are sums of sources with heavy tails, and the sources."""
    draw = np.random.default_rng(seed)
    sources = draw.laplace(size=(num_rows, num_sources))
    mixing = draw.normal(size=(num_sources, width)) * np.array([3.0, 2.0, 1.0])[:num_sources, None]
    return (sources @ mixing + 5.0).astype(np.float32), sources


def positive(num_rows: int = 300, width: int = 6, seed: int = 2, noise: float = 0.1) -> Any:
    draw = np.random.default_rng(seed)
    amounts, parts = draw.gamma(0.7, 1.0, (num_rows, 3)), draw.gamma(0.5, 1.0, (3, width))
    return np.clip(amounts @ parts + noise * draw.normal(size=(num_rows, width)), 0, None).astype(np.float32)


def documents(num_rows: int = 200, seed: int = 3) -> Any:
    """Returns counts of 8 words, the first 4 of one subject and the last 4 of another."""
    draw = np.random.default_rng(seed)
    share = draw.beta(0.3, 0.3, (num_rows, 1))
    words = np.hstack([share * [0.4, 0.3, 0.2, 0.1], (1 - share) * [0.25, 0.25, 0.25, 0.25]])
    return draw.poisson(20 * words).astype(np.float32)


def with_repeats(rows: Any, seed: int = 4) -> Any:
    """Returns each row one to five times, in no order."""
    draw = np.random.default_rng(seed)
    repeated = np.repeat(rows, draw.integers(1, 6, len(rows)), axis=0)
    return draw.permutation(repeated)


def aligned(found: Any, expected: Any) -> Any:
    """Returns the columns of `expected` in the order and with the signs of `found`."""
    correlations = np.corrcoef(found.T, expected.T)[: found.shape[1], found.shape[1] :]
    order = np.argmax(np.abs(correlations), axis=1)
    assert len(set(order)) == len(order)
    return expected[:, order] * np.sign(correlations[np.arange(len(order)), order])


def arrays(fitted: Fitted) -> dict[str, Any]:
    found = {**vars(fitted), **vars(fitted.model)}
    return {
        name: np.asarray(value).tobytes() for name, value in found.items() if isinstance(value, np.ndarray)
    }


class TestIndependentComponents:
    def test_sources_that_were_mixed_come_back(self) -> None:
        rows, sources = mixed()
        found = fit(ica(3), of(rows)).apply(of(rows))
        correlations = np.abs(np.corrcoef(found.T, sources.T)[:3, 3:])
        # 2,000 rows place the directions to about 1 / sqrt(2000) = 0.02 of a right angle.
        np.testing.assert_allclose(np.sort(correlations, axis=1), [[0, 0, 1]] * 3, atol=0.08)
        assert sorted(np.argmax(correlations, axis=1)) == [0, 1, 2]

    def test_they_are_scikit_learns_but_for_order_and_sign(self) -> None:
        rows = with_repeats(mixed(400)[0])
        found = fit(ica(3, seed=7, sample_rows=5000), of(rows)).apply(of(rows))
        other = decomposition.FastICA(3, whiten="unit-variance", max_iter=400, random_state=7, tol=1e-10)
        expected = other.fit_transform(rows.astype(np.float64))
        # Ours stops at scikit-learn's default tolerance, 1e-4 of a direction.
        np.testing.assert_allclose(found, aligned(found, expected), atol=2e-3)

    def test_on_the_rows_of_the_fit_they_have_variance_1_and_do_not_correlate(self) -> None:
        rows = with_repeats(mixed(500)[0])
        found = fit(ica(3), of(rows)).apply(of(rows))
        np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(np.cov(found.T, bias=True), np.eye(3), atol=1e-5)

    def test_each_explains_the_variance_that_is_lost_without_it(self) -> None:
        rows = mixed()[0].astype(np.float64)
        fitted = fit(ica(2), of(rows))
        found = fitted.apply(of(rows)).astype(np.float64)
        centred = rows - rows.mean(axis=0)
        assert fitted.explained_variance is not None
        for component in range(2):
            mixing = found[:, component] @ centred / len(rows)  # regression of each column
            assert fitted.explained_variance[component] == pytest.approx(mixing @ mixing, rel=1e-5)

    def test_together_they_explain_as_much_as_principal_components(self) -> None:
        rows = mixed()[0].astype(np.float64)
        expected = decomposition.PCA(2).fit(rows).explained_variance_ratio_.sum()
        ratio = fit(ica(2), of(rows)).explained_variance_ratio
        assert ratio is not None
        assert ratio.sum() == pytest.approx(expected, rel=1e-9)
        assert ratio[0] > ratio[1]

    def test_the_column_that_correlates_most_does_so_positively(self) -> None:
        rows = mixed()[0] * np.float32([1, 100, 0.01, 1, 1])
        for seed in range(4):
            found = fit(ica(3, seed=seed), of(rows)).apply(of(rows))
            correlations = np.corrcoef(found.T, rows.T)[:3, 3:]
            largest = np.argmax(np.abs(correlations), axis=1)
            assert (correlations[np.arange(3), largest] > 0).all()

    def test_the_loadings_are_what_the_centred_columns_are_multiplied_by(self) -> None:
        rows = mixed()[0]
        fitted = fit(ica(3), of(rows))
        assert fitted.loadings is not None
        expected = (rows - rows.mean(axis=0, dtype=np.float64)) @ fitted.loadings
        np.testing.assert_allclose(fitted.apply(of(rows)), expected, atol=1e-5)

    def test_a_fit_that_has_not_converged_says_what_to_do(self) -> None:
        fitted = fit(ica(3, max_iter=1), of(mixed()[0]))
        note = "The fit has not converged; raise FastICA.max_iter or ask for fewer components."
        assert fitted.notes == (note,)
        assert fit(ica(3), of(mixed()[0])).notes == ()

    def test_a_constant_column_and_columns_of_very_different_size_are_no_obstacle(self) -> None:
        rows, sources = mixed()
        rows = np.column_stack([rows[:, :3] * [1e5, 1, 1e-5], np.full(len(rows), 0.1)]).astype(np.float32)
        found = fit(ica(3), of(rows)).apply(of(rows))
        correlations = np.abs(np.corrcoef(found.T, sources.T)[:3, 3:])
        np.testing.assert_allclose(correlations.max(axis=1), 1, atol=0.05)

    def test_more_components_than_directions_are_refused(self) -> None:
        rows = mixed(num_sources=2)[0]
        rows = np.column_stack([rows[:, :2], rows[:, 0], np.ones(len(rows))])
        message = (
            "FastICA.n_components must be at most 2, the number of directions in which the columns vary in "
            "split 'train' (some are constant or sums of others); got 3."
        )
        with pytest.raises(DataError, match=re.escape(message)):
            fit(ica(3), of(rows))

    def test_equal_rows_count_as_often_as_they_occur(self) -> None:
        rows = np.float32([[0, 0], [1, 0], [0, 1], [1, 1]])
        many = np.repeat(rows, [5, 1, 1, 3], axis=0)
        for sample_rows in (4, 50):
            model = fit(ica(2, sample_rows=sample_rows), of(many)).model
            assert isinstance(model, models.Linear)
            if sample_rows == 50:
                np.testing.assert_allclose(model.mean, [0.4, 0.4], rtol=1e-12)
        # By hand: 10 rows in place of which 4 stand, so that each stands for 2.5 of them in turn.
        sample = statistics_of(ica(sample_rows=4), of(many)).sample
        assert len(sample.repeated(4).numbers) == 4


class TestSparseComponents:
    @pytest.mark.parametrize("standardise", [True, False])
    def test_they_are_scikit_learns_of_all_rows_but_for_order_and_sign(self, standardise: bool) -> None:
        rows = with_repeats(mixed(300)[0])
        asked = sparse_pca(3, alpha=0.2, standardise=standardise)
        fitted = fit(asked, of(rows))
        given = rows.astype(np.float64)
        given = (given - given.mean(axis=0)) / (given.std(axis=0, ddof=1) if standardise else 1.0)
        other = decomposition.SparsePCA(
            3, alpha=0.2 * np.sqrt(len(rows) - 1), ridge_alpha=0.01, method="cd", random_state=0
        ).fit(given)
        found = fitted.apply(of(rows))
        # Both stop when a step gains less than 1e-8 of the error, so where the error is flat they may part.
        np.testing.assert_allclose(found, aligned(found, other.transform(given)), rtol=1e-4, atol=1e-4)
        assert fitted.loadings is not None
        num_zeros = int((fitted.loadings == 0).sum())
        assert num_zeros == (other.components_ == 0).sum()
        assert num_zeros > 0

    def test_almost_without_a_penalty_they_span_what_principal_components_do(self) -> None:
        rows = mixed()[0].astype(np.float64)
        fitted = fit(sparse_pca(2, alpha=1e-6, ridge_alpha=0.0, standardise=False), of(rows))
        other = decomposition.PCA(2).fit(rows)
        assert fitted.loadings is not None
        assert fitted.explained_variance is not None
        assert fitted.explained_variance_ratio is not None
        assert subspace_angles(fitted.loadings, other.components_.T).max() < 1e-4
        # What earlier components have is taken off, so that the sum is that of the subspace.
        assert fitted.explained_variance.sum() == pytest.approx(other.explained_variance_.sum(), rel=1e-6)
        ratio = other.explained_variance_ratio_.sum()
        assert fitted.explained_variance_ratio.sum() == pytest.approx(ratio, rel=1e-6)

    def test_each_explains_what_the_ones_before_it_have_not(self) -> None:
        rows = mixed()[0]
        fitted = fit(sparse_pca(3, alpha=0.4), of(rows))
        found = fitted.apply(of(rows)).astype(np.float64)
        assert abs(np.corrcoef(found.T)[0, 1]) > 0.05  # they correlate, or there were nothing to take off
        before, explained = np.ones((len(rows), 1)), []
        for component in found.T:
            rest = component - before @ np.linalg.lstsq(before, component, rcond=None)[0]
            explained.append(rest @ rest / (len(rows) - 1))
            before = np.column_stack([before, component])
        np.testing.assert_allclose(fitted.explained_variance, explained, rtol=1e-5)

    def test_a_constant_column_has_no_loading_however_many_rows_there_are(self) -> None:
        rows = np.column_stack([mixed(777)[0], np.full(777, 0.1)])
        asked = sparse_pca(2, alpha=0.0)
        statistics = statistics_of(asked, of(rows))
        # Some 10**12 rows: the mean of so many is not 0.1 to the last bit, for some of these counts at least.
        several = []
        for seed in range(8):
            times = np.random.default_rng(seed).integers(1, 2**31, 777)
            statistics.sample = dataclasses.replace(statistics.sample, occurrences=times)
            several.append(core.fit(asked, statistics, list("abcdef")).loadings)
        for loadings in several:
            assert loadings is not None
            np.testing.assert_array_equal(loadings[5], 0)

    def test_two_columns_that_do_not_correlate_by_hand(self) -> None:
        # Variances 2 * 9 / 3 = 6 and 2 * 1 / 3; one loading each, 1; the ridge 0.5 makes x / 1.5 of it.
        rows = np.float32([[3, 0], [-3, 0], [0, 1], [0, -1]])
        fitted = fit(sparse_pca(2, alpha=0.1, ridge_alpha=0.5, standardise=False), of(rows))
        assert fitted.loadings is not None
        assert fitted.explained_variance is not None
        np.testing.assert_allclose(fitted.loadings, np.eye(2), atol=1e-12)
        np.testing.assert_allclose(fitted.apply(of(rows)), rows / 1.5, atol=FLOAT32)
        np.testing.assert_allclose(fitted.explained_variance, np.array([6, 2 / 3]) / 1.5**2, rtol=1e-9)

    def test_the_largest_loading_is_positive_and_outputs_come_by_variance(self) -> None:
        rows = mixed()[0]
        fitted = fit(sparse_pca(3), of(rows))
        assert fitted.loadings is not None
        largest = np.argmax(np.abs(fitted.loadings), axis=0)
        assert (fitted.loadings[largest, range(3)] > 0).all()
        variances = fitted.apply(of(rows)).var(axis=0)
        assert (np.diff(variances) < 0).all()

    def test_a_larger_penalty_leaves_fewer_loadings(self) -> None:
        rows = of(mixed()[0])
        left = []
        for alpha in (0.01, 0.3, 0.6):
            loadings = fit(sparse_pca(2, alpha=alpha), rows).loadings
            assert loadings is not None
            left.append(int((loadings != 0).sum()))
        assert left[0] > left[1] > left[2] > 0

    def test_a_penalty_that_leaves_nothing_is_refused(self) -> None:
        message = "SparsePCA with alpha=50.0 leaves no loading in any component; give a smaller alpha."
        with pytest.raises(DataError, match=re.escape(message)):
            fit(sparse_pca(2, alpha=50.0), of(mixed()[0]))

    @pytest.mark.parametrize("columns", [[3.0, 3.0], [3.0, 3.0, 0.0]])
    def test_a_component_without_loadings_is_noted_and_always_0(self, columns: list[float]) -> None:
        note = (
            "1 of 2 components have no loading and are always 0; a smaller alpha or fewer components would "
            "mend that."
        )
        for seed in range(40):  # in which of them rounding leaves it loadings is the processor's
            rows = np.random.default_rng(seed).normal(size=(100, 1)) * [columns] + 7.0
            fitted = fit(sparse_pca(2, standardise=False), of(rows))
            assert note in fitted.notes
            assert fitted.loadings is not None
            assert not fitted.loadings[:, 1].any()
            np.testing.assert_array_equal(fitted.apply(of(rows))[:, 1], 0)

    def test_a_fit_that_has_not_converged_says_what_to_do(self) -> None:
        note = "The fit has not converged; raise SparsePCA.max_iter or ask for fewer components."
        assert note in fit(sparse_pca(3, max_iter=2), of(mixed()[0])).notes


def squared_error(rows: Any, amounts: Any, parts: Any) -> float:
    return float(((rows - amounts.astype(np.float64) @ parts) ** 2).sum())


class TestParts:
    def test_parts_that_share_no_column_by_hand(self) -> None:
        amounts = np.float32([[10, 0], [0, 1], [5, 2], [20, 3]])
        rows = amounts @ np.float32([[0.6, 0.8, 0], [0, 0, 1]])
        exact = models.Parts(np.array([[0.6, 0.8, 0], [0, 0, 1]]), 50)
        np.testing.assert_allclose(exact.apply(of(rows)), amounts, rtol=FLOAT32, atol=1e-5 * 20)
        fitted = fit(nmf(2), of(rows))
        assert fitted.loadings is not None
        # scikit-learn stops where a step gains less than 1e-4 of the first one.
        np.testing.assert_allclose(fitted.loadings.T, exact.parts, atol=0.01)
        np.testing.assert_allclose(fitted.apply(of(rows)), amounts, atol=0.1)
        assert fitted.notes == ("The parts make up 100.0% of the sum of squares of the sample's rows.",)

    @pytest.mark.parametrize("noise", [0.01, 0.3])
    def test_they_come_as_near_to_the_rows_as_scikit_learns(self, noise: float) -> None:
        rows = positive(noise=noise)
        fitted = fit(nmf(3, max_iter=2000), of(rows))
        other = decomposition.NMF(3, init="nndsvda", max_iter=2000, random_state=0)
        expected = squared_error(rows, other.fit_transform(rows.astype(np.float64)), other.components_)
        assert fitted.loadings is not None
        found = squared_error(rows, fitted.apply(of(rows)), fitted.loadings.T)
        assert found == pytest.approx(expected, rel=0.01)

    def test_amounts_of_other_rows_are_as_good_as_an_exact_solvers(self) -> None:
        fitted = fit(nmf(3), of(positive()))
        assert fitted.loadings is not None
        others = positive(seed=9)
        best = sum(optimize.nnls(fitted.loadings, row.astype(np.float64))[1] ** 2 for row in others)
        # 50 updates from a start that is within 1e-3 already.
        found = squared_error(others, fitted.apply(of(others)), fitted.loadings.T)
        assert best <= found * (1 + 1e-9)
        assert found == pytest.approx(best, rel=1e-3)

    def test_the_start_is_near_the_best_already(self) -> None:
        others = positive(seed=9)
        parts = fit(nmf(3), of(positive())).loadings
        assert parts is not None
        best = sum(optimize.nnls(parts, row.astype(np.float64))[1] ** 2 for row in others)
        found = models.Parts(parts.T, 1).apply(of(others))
        assert squared_error(others, found, parts.T) == pytest.approx(best, rel=1e-4)

    def test_no_part_that_a_row_has_something_of_starts_at_0_which_no_update_leaves(self) -> None:
        draw = np.random.default_rng(1)
        parts, rows = draw.gamma(0.5, 1.0, (6, 9)), of(draw.gamma(0.3, 1.0, (50, 9)))
        best = np.array([optimize.nnls(parts.T, row.astype(np.float64))[0] for row in rows.numbers])
        assert (best == 0).any()
        assert models.Parts(parts, 1).apply(rows).min() > 0

    @given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.floats(0.05, 3.0))
    @settings(max_examples=40, deadline=None)
    def test_no_update_brings_the_sum_further_from_the_row(self, seed: int, k: int, shape: float) -> None:
        draw = np.random.default_rng(seed)
        parts, rows = draw.gamma(shape, 1.0, (k, 7)), draw.gamma(shape, 1.0, (20, 7)).astype(np.float32)
        errors = []
        for num_updates in range(1, 8):
            amounts = models.Parts(parts, num_updates).apply(of(rows)).astype(np.float64)
            assert (amounts >= 0).all()
            errors.append(((rows - amounts @ parts) ** 2).sum(axis=1))
        # Float32 keeps amounts to 1e-7, and what is left of a row where parts cancel to 1e-5 of its size.
        assert (np.diff(errors, axis=0) <= 1e-5 * (rows**2).sum(axis=1)).all()

    def test_a_row_of_zeros_has_no_part_and_numbers_below_0_count_as_0(self) -> None:
        rows = positive()
        fitted = fit(nmf(3), of(rows))
        np.testing.assert_array_equal(fitted.apply(of(np.zeros((1, 6)))), [[0, 0, 0]])
        below = rows[:5].copy()
        below[:, 2] = -4
        above = below.copy()
        above[:, 2] = 0
        np.testing.assert_array_equal(fitted.apply(of(below)), fitted.apply(of(above)))

    @pytest.mark.parametrize("num_updates", [1, 2, 50])
    def test_weights_below_0_give_no_amount_below_0(self, num_updates: int) -> None:
        draw = np.random.default_rng(7)
        counts = 3 * draw.normal(size=(500, 7))
        for shape in (0.1, 0.5, 2.0):
            parts = draw.gamma(shape, 1.0, (4, 7))
            found = models.Parts(parts, num_updates).apply(Rows.of(np.zeros((500, 0)), counts))
            assert np.isfinite(found).all()
            assert found.min() >= 0

    def test_equal_rows_count_as_often_as_they_occur(self) -> None:
        # Of one part the best is the first singular vector of all rows, whichever way they repeat.
        rows = positive(12)
        many = np.repeat(rows, 1 + 40 * (np.arange(12) % 3 == 0), axis=0)
        expected = np.abs(np.linalg.svd(many.astype(np.float64), full_matrices=False)[2][0])
        fitted = fit(nmf(1, max_iter=5000), of(many))
        assert fitted.loadings is not None
        np.testing.assert_allclose(fitted.loadings[:, 0], expected, atol=1e-3)  # scikit-learn stops at 1e-4
        assert np.abs(np.abs(np.linalg.svd(rows)[2][0]) - expected).max() > 0.01

    def test_the_commonest_part_comes_first_and_each_has_length_1(self) -> None:
        rows = positive()
        fitted = fit(nmf(3), of(rows))
        assert fitted.loadings is not None
        np.testing.assert_allclose(np.linalg.norm(fitted.loadings, axis=0), 1, rtol=1e-12)
        sizes = (fitted.apply(of(rows)).astype(np.float64) ** 2).sum(axis=0)
        assert (np.diff(sizes) < 0).all()

    def test_counts_give_what_numbers_do(self) -> None:
        rows = positive()
        of_counts = fit(nmf(3), Rows.of(np.zeros((len(rows), 0)), rows))
        found = of_counts.apply(Rows.of(np.zeros((len(rows), 0)), rows))
        np.testing.assert_allclose(found, fit(nmf(3), of(rows)).apply(of(rows)), atol=1e-2)

    def test_a_fit_that_has_not_converged_says_what_to_do(self) -> None:
        note = "The fit has not converged; raise NMF.max_iter or ask for fewer components."
        assert fit(nmf(3, max_iter=1), of(positive())).notes[0] == note

    def test_more_parts_than_different_rows_are_refused(self) -> None:
        message = "NMF.n_components must be at most 2, the number of different rows in split 'train'; got 3."
        with pytest.raises(DataError, match=re.escape(message)):
            fit(nmf(3), of(np.tile(positive(2), (9, 1))))


class TestKernelComponents:
    def test_two_rows_by_hand(self) -> None:
        # The kernel is ((1, a), (a, 1)) with a = exp(-0.5 * 4); centred, (1 - a) / 2 * ((1, -1), (-1, 1)),
        # whose one component has variance (1 - a) / 2 over the two rows.
        a = np.exp(-2.0)
        rows = of([[1.0], [3.0]])
        fitted = fit(kernel_pca(1, gamma=0.5, standardise=False), rows)
        assert fitted.explained_variance is not None
        assert fitted.explained_variance_ratio is not None
        np.testing.assert_allclose(fitted.explained_variance, [(1 - a) / 2], rtol=1e-12)
        np.testing.assert_allclose(fitted.explained_variance_ratio, [1])
        found = np.sort(fitted.apply(rows)[:, 0])
        np.testing.assert_allclose(found, np.sqrt((1 - a) / 2) * np.array([-1, 1]), rtol=1e-6)

    @pytest.mark.parametrize("gamma", [None, 0.05])
    @pytest.mark.parametrize("standardise", [True, False])
    def test_they_are_scikit_learns_on_the_landmarks(self, gamma: float | None, standardise: bool) -> None:
        rows = with_repeats(mixed(200)[0])
        asked = kernel_pca(3, num_landmarks=60, gamma=gamma, standardise=standardise)
        statistics = statistics_of(asked, of(rows))
        fitted = core.fit(asked, statistics, list("abcde"))
        scale = rows.std(axis=0, ddof=1, dtype=np.float64) if standardise else 1.0
        sample = statistics.sample
        landmarks = (
            np.repeat(sample.rows.numbers[:60], sample.occurrences[:60], axis=0).astype(np.float64) / scale
        )
        other = decomposition.KernelPCA(3, kernel="rbf", gamma=gamma, eigen_solver="dense").fit(landmarks)
        expected = other.transform(rows / scale)
        found = fitted.apply(of(rows))
        # |z|^2 up to 100 in float32 rounds to 1e-5, times gamma, times weights of up to 1 / sqrt(0.01) = 10.
        np.testing.assert_allclose(found, aligned(found, expected), atol=1e-4)
        assert fitted.explained_variance is not None
        assert fitted.explained_variance_ratio is not None
        np.testing.assert_allclose(fitted.explained_variance, other.eigenvalues_ / len(landmarks), rtol=1e-9)

    def test_on_the_landmarks_they_do_not_correlate_and_have_the_variance_they_claim(self) -> None:
        rows = with_repeats(mixed(80)[0])
        fitted = fit(kernel_pca(4, num_landmarks=80), of(rows))
        found = fitted.apply(of(rows)).astype(np.float64)
        assert fitted.explained_variance is not None
        assert (np.diff(fitted.explained_variance) < 0).all()
        np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(np.cov(found.T, bias=True), np.diag(fitted.explained_variance), atol=1e-5)

    def test_standardised_columns_may_come_in_any_unit_and_from_any_origin(self) -> None:
        rows = np.random.default_rng(5).integers(-50, 50, (200, 3)) / 8  # float32 holds these and their moves
        moved = rows * [1, 1024, 1 / 64] + [1024, 0, -8]
        columns = [fit(kernel_pca(2, num_landmarks=200), of(one)).apply(of(one)) for one in (rows, moved)]
        np.testing.assert_allclose(columns[0], aligned(*columns), atol=1e-5)

    def test_a_mean_that_float32_does_not_hold_is_taken_off_exactly(self) -> None:
        # At 4096 float32 has steps of 2**-11; half of one is an eighth of the deviation.
        steps = np.round(4 * np.random.default_rng(6).normal(size=(201, 2)))
        near, far = (of(steps * 2.0**-11 + offset) for offset in (0, 4096))
        columns = [fit(kernel_pca(2, num_landmarks=201), rows).apply(rows) for rows in (near, far)]
        np.testing.assert_allclose(columns[1], aligned(columns[1], columns[0]), atol=1e-5)

    def test_counts_give_what_numbers_do(self) -> None:
        counts = documents()
        as_numbers = fit(kernel_pca(3, num_landmarks=500), of(counts)).apply(of(counts))
        rows = Rows.of(np.zeros((len(counts), 0)), counts)
        found = fit(kernel_pca(3, num_landmarks=500), rows).apply(rows)
        np.testing.assert_allclose(found, aligned(found, as_numbers), atol=1e-5)

    def test_where_there_are_fewer_rows_than_landmarks_a_note_says_so(self) -> None:
        fitted = fit(kernel_pca(2), of(np.tile(mixed(50)[0], (3, 1))))
        note = "There are 50 landmarks, not 256: the split has no more different rows."
        assert fitted.notes == (note,)

    def test_more_components_than_the_landmarks_have_are_refused(self) -> None:
        message = (
            "KernelPCA.n_components must be at most 3, as many components as the 4 landmarks have in a "
            "kernel of gamma=0.2; got 4. Give more landmarks or a larger gamma."
        )
        with pytest.raises(DataError, match=re.escape(message)):
            fit(kernel_pca(4, num_landmarks=4), of(mixed()[0]))

    def test_a_row_far_from_every_landmark_has_finite_components(self) -> None:
        fitted = fit(kernel_pca(2), of(mixed()[0]))
        assert np.isfinite(fitted.apply(of(np.full((1, 5), 1e15)))).all()


class TestTopics:
    @pytest.mark.parametrize("num_topics", [1, 2, 30])
    def test_shares_are_scikit_learns_after_as_many_updates(self, num_topics: int) -> None:
        counts = with_repeats(documents())
        counts[:, 5] = 0  # a word that never comes up
        asked = topics(num_topics, max_iter=6, seed=11)
        statistics = statistics_of(asked, of(counts))
        fitted = core.fit(asked, statistics, list("abcdefgh"))
        other = decomposition.LatentDirichletAllocation(num_topics, max_iter=6, random_state=11)
        other.fit(statistics.sample.repeated(20_000).numbers.astype(np.float64))
        order = np.argsort(-other.components_.sum(axis=1), kind="stable")
        others = documents(seed=8)
        if num_topics > 2:
            # Topics without a word compete for one that none of them knows: rounding decides who wins.
            others[:, 5] = 0
        other.set_params(max_doc_update_iter=30, mean_change_tol=0.0)
        expected = other.transform(others.astype(np.float64))[:, order]
        # exp(digamma) has the rounding of digamma as its relative error, and digamma(1 / 30) is -31.
        np.testing.assert_allclose(fitted.apply(of(others)), expected, atol=5e-6 * max(num_topics, 2))
        assert fitted.loadings is not None
        weights = other.components_[order] / other.components_[order].sum(axis=1, keepdims=True)
        np.testing.assert_allclose(fitted.loadings.T, weights, rtol=1e-9)

    def test_shares_sum_to_1_and_without_words_are_all_alike(self) -> None:
        fitted = fit(topics(4, max_iter=3), of(documents()))
        found = fitted.apply(of(np.vstack([documents(seed=8), np.zeros((1, 8))])))
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
        assert (found > 0).all()
        np.testing.assert_allclose(found[-1], 0.25, rtol=1e-6)

    def test_two_subjects_without_a_common_word_come_apart(self) -> None:
        fitted = fit(topics(2), of(documents()))
        subjects = np.float32([[9, 9, 9, 9, 0, 0, 0, 0], [0, 0, 0, 0, 9, 9, 9, 9]])
        found = fitted.apply(of(subjects))
        # By hand: 36 words of one topic with a prior of 1/2 for each of the two, (36 + 1/2) / 37.
        np.testing.assert_allclose(np.sort(found, axis=1), [[0.5 / 37, 36.5 / 37]] * 2, atol=0.01)
        assert np.argmax(found[0]) != np.argmax(found[1])

    def test_one_update_by_hand(self) -> None:
        # Both topics have equal shares: word 0 goes 3 : 1, word 1 goes 1 : 1. Of counts 4 and 2 the first
        # topic gets 3 + 1, and with the prior 1/2 its share is 4.5 / 7.
        model = models.Topics(np.array([[0.6, 0.4], [0.2, 0.4]]), 0.5, 1)
        np.testing.assert_allclose(model.apply(of([[4.0, 2.0]])), [[4.5 / 7, 2.5 / 7]], rtol=1e-6)

    def test_the_topic_with_most_counts_comes_first(self) -> None:
        fitted = fit(topics(2), of(np.vstack([documents(), np.tile([[9, 7, 5, 3, 0, 0, 0, 0]], (200, 1))])))
        assert fitted.loadings is not None
        assert fitted.loadings[:4, 0].sum() > 0.95
        np.testing.assert_allclose(fitted.loadings.sum(axis=0), 1, rtol=1e-12)

    def test_counts_give_what_numbers_do(self) -> None:
        counts = documents()
        fitted = fit(topics(3, max_iter=3), of(counts))
        np.testing.assert_allclose(
            fitted.apply(Rows.of(np.zeros((len(counts), 0)), counts)), fitted.apply(of(counts)), atol=FLOAT32
        )

    def test_numbers_below_0_count_as_0_and_weights_below_0_give_no_share_below_0(self) -> None:
        fitted = fit(topics(2, max_iter=3), of(documents()))
        np.testing.assert_array_equal(
            fitted.apply(of([[3, -2, 0, 0, 1, 0, 0, 0]])), fitted.apply(of([[3, 0, 0, 0, 1, 0, 0, 0]]))
        )
        found = fitted.apply(Rows.of(np.zeros((1, 0)), [[3, -9, 0, 0, 1, 0, 0, 0]]))
        assert (found > 0).all()
        np.testing.assert_allclose(found.sum(), 1, rtol=1e-6)

    @given(st.floats(-4, 7))
    @settings(deadline=None)
    def test_digamma_is_scipys_in_float32(self, exponent: float) -> None:
        x = np.float32(10.0**exponent)
        expected = special.digamma(np.float64(x))
        found = models._digamma(NumpyOps, np.full((1, 1), x))[0, 0]
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


def statistics_of(asked: Any, rows: Rows, shards: int = 1, order: Any = None) -> Statistics:
    """Returns the statistics of rows that come in this order in so many shards, merged as a tree."""
    chosen = np.arange(rows.num_rows) if order is None else order
    parts = []
    for shard in np.array_split(chosen, shards):
        part = Statistics(asked, rows.num_numbers, rows.width)
        for batch in np.array_split(shard, 3):
            part.add(rows.take(batch))
        parts.append(part)
    while len(parts) > 1:
        parts[0].merge(parts.pop())
        parts.append(parts.pop(0))
    return parts[0]


class TestEveryMethod:
    @pytest.mark.parametrize("asked", ALL, ids=lambda asked: asked.name)
    def test_in_any_order_and_any_shards_the_same_rows_give_the_same_bytes(self, asked: Any) -> None:
        asked = dataclasses.replace(asked, sample_rows=120)
        counts = with_repeats(documents())
        rows = Rows.of(counts[:, :5], counts[:, 5:])
        columns = [f"c{i}" for i in range(8)]
        expected = arrays(core.fit(asked, statistics_of(asked, rows), columns))
        assert len(expected) >= 2
        for shards, seed in [(2, 1), (7, 2), (50, 3)]:
            order = np.random.default_rng(seed).permutation(rows.num_rows)
            found = core.fit(asked, statistics_of(asked, rows, shards, order), columns)
            assert arrays(found) == expected

    @pytest.mark.parametrize("asked", ALL, ids=lambda asked: asked.name)
    def test_a_note_says_when_not_all_rows_were_seen_and_how_many(self, asked: Any) -> None:
        counts = np.unique(documents(), axis=0)
        seen = fit(dataclasses.replace(asked, sample_rows=60), of(np.repeat(counts, 2, axis=0)))
        num_rows = 2 * len(counts)
        note = f"Fitted on a sample of 60 different rows that stand for 120 of {num_rows} rows."
        assert seen.notes[0] == note
        assert seen.num_rows == 120
        every = fit(asked, of(np.repeat(counts, 2, axis=0)))
        assert every.num_rows == num_rows
        assert not any("sample of" in one for one in every.notes)

    @pytest.mark.parametrize("asked", ALL, ids=lambda asked: asked.name)
    def test_two_rows_are_needed(self, asked: Any) -> None:
        asked = dataclasses.replace(asked, not_finite=NotFinite.DROP_ROWS)
        message = f"{asked.name} needs at least 2 rows without NaN or infinity in split 'train'; got 1."
        with pytest.raises(DataError, match=re.escape(message)):
            fit(asked, of([[1.0, 2.0], [np.nan, 2.0], [3.0, np.inf]]))

    @pytest.mark.parametrize("asked", [ica(3), sparse_pca(3), nmf(3)], ids=lambda asked: asked.name)
    def test_more_components_than_columns_are_refused(self, asked: Any) -> None:
        message = f"{asked.name}.n_components must be at most 2, the width of its inputs; got 3."
        with pytest.raises(DataError, match=re.escape(message)):
            fit(asked, of(positive()[:, :2]))

    @pytest.mark.parametrize("asked", [nmf(), topics()], ids=lambda asked: asked.name)
    def test_a_negative_number_outside_the_sample_is_refused_with_its_name(self, asked: Any) -> None:
        rows = positive(200)
        rows[[3, 70, 71], 4] = [-0.5, -2.25, -1.0]
        rows[9, 0] = -7
        for seed in range(3):
            few = dataclasses.replace(asked, sample_rows=2, seed=seed)
            message = (
                f"Feature 'c4' must not be negative for {few.name}; got 3 negative of 200 rows in split "
                "'train', the smallest -2.25, and 1 more column has some. Scale it to [0, 1] in "
                "preprocessing_fn or leave it out of the inputs."
            )
            for refused in (of(rows), Rows.of(rows[:, :2], rows[:, 2:])):
                for shards in (1, 4):
                    statistics = statistics_of(few, refused, shards)
                    with pytest.raises(DataError, match=re.escape(message)):
                        core.fit(few, statistics, [f"c{i}" for i in range(6)])

    @pytest.mark.parametrize("asked", [nmf(), topics()], ids=lambda asked: asked.name)
    def test_minus_infinity_that_is_imputed_is_not_a_negative_number(self, asked: Any) -> None:
        rows = positive(100)
        rows[3, 1] = -np.inf
        fitted = fit(dataclasses.replace(asked, not_finite=NotFinite.IMPUTE_MEAN), of(rows))
        assert fitted.fill is not None
        assert fitted.fill[1] == pytest.approx(np.delete(rows[:, 1], 3).mean(dtype=np.float64), rel=1e-6)

    @pytest.mark.parametrize(
        "asked", [ica(), sparse_pca(), nmf(), kernel_pca()], ids=lambda asked: asked.name
    )
    def test_constant_columns_are_refused_by_name(self, asked: Any) -> None:
        message = f"{asked.name} needs a feature that varies; c0 and c1 are constant in split 'train'."
        with pytest.raises(DataError, match=re.escape(message)):
            fit(asked, of(np.full((40, 2), 0.1)))

    @pytest.mark.parametrize("asked", [nmf(), topics()], ids=lambda asked: asked.name)
    def test_nothing_but_zeros_is_refused(self, asked: Any) -> None:
        message = f"{asked.name} needs numbers above 0; c0, c1 and c2 are all 0 in split 'train'."
        rows = of(np.zeros((20, 3)))
        with pytest.raises(DataError, match=re.escape(message)):
            fit(dataclasses.replace(asked, n_components=1), rows)

    @given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 200))
    def test_rows_repeat_in_proportion_and_no_more_often_than_the_limit(
        self, times: list[int], limit: int
    ) -> None:
        rows = of(np.repeat(np.arange(len(times)), times)[:, None])
        sample = Sample.of(rows, np.zeros(rows.num_rows), 50, 0)
        found = sample.repeated(limit).numbers[:, 0].astype(int)
        assert len(found) == min(sum(times), limit)
        shares = np.bincount(found, minlength=len(times)) - np.array(times) * len(found) / sum(times)
        assert np.abs(shares).max() < 1
