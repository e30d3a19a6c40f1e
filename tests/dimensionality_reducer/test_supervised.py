"""Linear discriminants and partial least squares: cases by hand, laws, and scikit-learn in float64."""

import re
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cross_decomposition import PLSRegression
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LinearRegression
from tests.dimensionality_reducer.fitting import apply, fit

from tfx_mobile.common.errors import DataError
from tfx_mobile.dimensionality_reducer.config import LDA, PLS, NotFinite

NAN = float("nan")
# Outputs have a size of 1 to 10; each is a sum of up to 12 float32 products that may cancel to a tenth.
FLOAT32_ROUNDING = 2e-5
SAME = 1e-6  # what the issue asks for between any two orders of the rows


def lda(**options: Any) -> LDA:
    return LDA(inputs=("x",), output="out", **options)


def pls(**options: Any) -> PLS:
    return PLS(inputs=("x",), output="out", **options)


def classes(num_rows: int = 900, width: int = 6, num_classes: int = 4, seed: int = 3) -> tuple[Any, Any]:
    """Rows of correlated columns, and the class of each, which moves its mean."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, num_classes, num_rows)
    rows = draw.normal(size=(num_rows, width)) @ draw.normal(size=(width, width))
    return (rows + 2 * draw.normal(size=(num_classes, width))[labels]).astype(np.float32), labels


def measured(num_rows: int = 700, width: int = 6, seed: int = 4) -> tuple[Any, Any]:
    """Rows of correlated columns, and a label that some of them explain in part."""
    draw = np.random.default_rng(seed)
    rows = (draw.normal(size=(num_rows, width)) @ draw.normal(size=(width, width))).astype(np.float32)
    return rows, rows @ draw.normal(size=width) + draw.normal(size=num_rows)


def up_to_sign(found: Any, expected: Any) -> Any:
    """Returns what is expected with the signs of what was found."""
    return expected * np.sign((found * expected).sum(axis=0))


def within(outputs: Any, labels: Any) -> Any:
    """Returns the covariance within classes, divided by rows less classes."""
    names = np.unique(labels)
    parts = [outputs[labels == name] - outputs[labels == name].mean(axis=0) for name in names]
    centred = np.concatenate(parts)
    return centred.T @ centred / (len(outputs) - len(names))


def reference(rows: Any, labels: Any) -> Any:
    return LinearDiscriminantAnalysis().fit(np.asarray(rows, np.float64), labels)


def transformed(rows: Any, labels: Any) -> Any:
    """Returns scikit-learn's discriminants of rows, of variance 1 within the classes.

    Before version 1.9 that variance was divided by rows less classes, as here; since then by rows.
    """
    exact = np.asarray(rows, np.float64)
    found = reference(exact, labels).transform(exact)
    variances = np.diag(within(found, labels))
    num_rows, num_classes = len(exact), len(np.unique(labels))
    # One factor for all: scikit-learn's convention, and nothing else, is taken out.
    assert np.ptp(variances) < 1e-9
    assert min(abs(variances[0] - 1), abs(variances[0] - num_rows / (num_rows - num_classes))) < 1e-9
    return found / np.sqrt(variances[0])


class TestLDA:
    def test_two_classes_on_a_line_by_hand(self) -> None:
        # Within: (1 + 1 + 1 + 1) / (4 - 2) = 2. Between: 4 * 25 / (2 - 1), in units of 2.
        rows = [[0.0], [2.0], [10.0], [12.0]]
        fitted = fit(lda(), rows, [0, 0, 1, 1])
        assert apply(fitted, rows).ravel() == pytest.approx(np.array([-6, -4, 4, 6]) / np.sqrt(2), rel=1e-6)
        assert fitted.explained_variance is not None
        assert fitted.explained_variance == pytest.approx([50], rel=1e-12)
        assert fitted.explained_variance_ratio == pytest.approx([1], rel=1e-12)

    def test_a_column_that_is_wide_within_the_classes_counts_less_by_hand(self) -> None:
        # Class means (-+1, -+1); within, each column is alone: 4 * 1 / (8 - 2) and 4 * 4 / 6 for each class.
        square = np.array([[1.0, 2], [1, -2], [-1, 2], [-1, -2]])
        fitted = fit(lda(), np.concatenate([square + 1, square - 1]), [5] * 4 + [3] * 4)
        matrix = fitted.loadings
        assert matrix is not None
        # Fisher: W^-1 (difference) = (1 / 1, 1 / 4) up to a factor.
        assert matrix[0, 0] / matrix[1, 0] == pytest.approx(4, rel=1e-12)

    @pytest.mark.parametrize("width", [1, 2, 6])
    def test_it_is_what_scikit_learn_finds(self, width: int) -> None:
        rows, labels = classes(width=width)
        other = reference(rows, labels)
        fitted = fit(lda(), rows, labels)
        found, expected = apply(fitted, rows), transformed(rows, labels)
        assert found.shape == (900, min(3, width))
        np.testing.assert_allclose(found, up_to_sign(found, expected), rtol=0, atol=FLOAT32_ROUNDING)
        np.testing.assert_allclose(
            fitted.explained_variance_ratio, other.explained_variance_ratio_, rtol=1e-9, atol=1e-12
        )

    @pytest.mark.parametrize("shrinkage", [0.01, 0.3, 0.9])
    def test_with_shrinkage_it_is_what_scikit_learn_finds(self, shrinkage: float) -> None:
        rows, labels = classes()
        other = LinearDiscriminantAnalysis(solver="eigen", shrinkage=shrinkage)
        other.fit(rows.astype(np.float64), labels)
        fitted = fit(lda(shrinkage=shrinkage), rows, labels)
        # Solver "eigen" divides by the rows, not by the rows less the classes, and does not centre.
        exact = rows - rows.mean(axis=0, dtype=np.float64)
        expected = exact @ other.scalings_[:, :3] * np.sqrt((900 - 4) / 900)
        found = apply(fitted, rows)
        np.testing.assert_allclose(found, up_to_sign(found, expected), rtol=0, atol=FLOAT32_ROUNDING)
        np.testing.assert_allclose(
            fitted.explained_variance_ratio, other.explained_variance_ratio_, rtol=1e-9
        )

    def test_full_shrinkage_gives_the_directions_of_the_class_means(self) -> None:
        rows, labels = classes()
        fitted = fit(lda(shrinkage=1.0), rows, labels)
        matrix, exact = fitted.loadings, rows.astype(np.float64)
        assert matrix is not None
        means = np.array([exact[labels == k].mean(axis=0) - exact.mean(axis=0) for k in range(4)])
        expected = np.linalg.svd(means * np.sqrt(np.bincount(labels))[:, None])[2][:3].T
        length = np.sqrt(np.trace(within(exact, labels)) / 6)
        np.testing.assert_allclose(matrix * length, up_to_sign(matrix, expected), rtol=0, atol=1e-12)

    @pytest.mark.parametrize("offset", [0.0, 1e6])
    def test_far_from_zero_and_at_unlike_scales_it_is_what_scikit_learn_finds(self, offset: float) -> None:
        rows, labels = classes()
        scaled = (rows * 10.0 ** np.arange(6) * 16 + offset).astype(np.float32)
        exact = scaled.astype(np.float64)
        found = apply(fit(lda(), scaled, labels), scaled)
        # A column of deviation 16 near 1e6 has 2**-4 as its last bit; centred, it is exact.
        expected = transformed(exact - exact.mean(axis=0), labels)
        np.testing.assert_allclose(found, up_to_sign(found, expected), rtol=0, atol=5 * FLOAT32_ROUNDING)

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 10**6), st.integers(2, 5), st.integers(1, 6))
    def test_the_covariance_within_the_classes_is_the_identity(
        self, seed: int, num_classes: int, width: int
    ) -> None:
        rows, labels = classes(200, width, num_classes, seed)
        found = fit(lda(), rows, labels, seed=seed)
        matrix, exact = found.loadings, rows.astype(np.float64)
        assert matrix is not None
        outputs = (exact - exact.mean(axis=0)) @ matrix
        # Columns that nearly cancel lose digits: a condition of up to 1e4 of float64's 1e-16, squared.
        np.testing.assert_allclose(within(outputs, labels), np.eye(matrix.shape[1]), rtol=0, atol=1e-7)
        means = np.array([outputs[labels == k].mean(axis=0) for k in range(num_classes)])
        between = (means * np.bincount(labels)[:, None]).T @ means / (num_classes - 1)
        assert found.explained_variance is not None
        np.testing.assert_allclose(between, np.diag(found.explained_variance), rtol=1e-6, atol=1e-6)
        assert (np.diff(found.explained_variance) <= 0).all()

    def test_other_units_of_the_columns_change_nothing(self) -> None:
        rows, labels = classes()
        mixed = rows.astype(np.float64) @ np.random.default_rng(0).normal(size=(6, 6)) + 100
        one, other = (apply(fit(lda(), some, labels), some) for some in (rows, mixed))
        np.testing.assert_allclose(one, up_to_sign(one, other), rtol=0, atol=2e-4)  # 100 / 2**24 a column

    def test_strings_are_classes_as_numbers_are(self) -> None:
        rows, labels = classes()
        names = np.array([b"delta", b"", b"B", b"\xff"])[labels]
        one, other = (apply(fit(lda(), rows, some), rows) for some in (labels, names))
        np.testing.assert_allclose(one, other, rtol=0, atol=FLOAT32_ROUNDING)

    def test_one_hot_columns_count_as_dense_ones(self) -> None:
        rows, labels = classes(width=3)
        draw = np.random.default_rng(1)
        counts = draw.poisson(0.5, (900, 4)) + (draw.integers(0, 4, 900) == labels)[:, None]
        both = np.concatenate([rows, counts], axis=1)
        found = apply(fit(lda(), rows, labels, counts), rows, counts)
        expected = transformed(both, labels)
        np.testing.assert_allclose(found, up_to_sign(found, expected), rtol=0, atol=FLOAT32_ROUNDING)

    @pytest.mark.parametrize("shrinkage", [0.0, 0.2])
    def test_constant_and_duplicate_columns_do_no_harm(self, shrinkage: float) -> None:
        rows, labels = classes(width=4)
        more = np.stack([np.full(900, 7.5), rows[:, 0], np.full(900, 1e6), rows[:, 1] - rows[:, 2]], axis=1)
        wide = np.concatenate([rows, more], axis=1).astype(np.float32)
        fitted = fit(lda(shrinkage=shrinkage), wide, labels)
        found = apply(fitted, wide)
        if not shrinkage:
            expected = transformed(rows, labels)
            np.testing.assert_allclose(found, up_to_sign(found, expected), rtol=0, atol=FLOAT32_ROUNDING)
        assert found.shape == (900, 3)
        assert fitted.loadings is not None
        assert not fitted.loadings[[4, 6]].any()
        assert found.std(axis=0).min() > 0.5
        assert fitted.notes == ()

    def test_a_one_hot_vector_whose_columns_sum_to_one_is_no_trouble(self) -> None:
        draw = np.random.default_rng(2)
        labels = draw.integers(0, 3, 600)
        words = np.where(draw.random(600) < 0.6, labels, draw.integers(0, 5, 600))
        counts = np.eye(5)[words]
        found = apply(fit(lda(), np.zeros((600, 0)), labels, counts), np.zeros((600, 0)), counts)
        expected = transformed(counts, labels)
        np.testing.assert_allclose(found, up_to_sign(found, expected), rtol=0, atol=FLOAT32_ROUNDING)

    def test_a_column_that_is_the_label_is_left_out_and_named(self) -> None:
        rows, labels = classes(width=3)
        wide = np.concatenate([rows, labels[:, None] * 3 + 1e6], axis=1).astype(np.float32)
        fitted = fit(lda(), wide, labels)
        assert fitted.notes == ("x3 is left out: no variance within the classes.",)
        found, expected = apply(fitted, wide), apply(fit(lda(), rows, labels), rows)
        np.testing.assert_allclose(found, expected, rtol=0, atol=FLOAT32_ROUNDING)

    def test_class_means_on_a_line_make_one_direction(self) -> None:
        draw = np.random.default_rng(5)
        labels = np.repeat([0, 1, 2], 40)
        one = draw.normal(size=(40, 3))
        rows = np.concatenate([one + k * np.array([1.0, 2, 3]) for k in range(3)])
        rows = np.round(rows * 1024) / 1024  # so that the shifts are exact
        fitted = fit(lda(), rows, labels)
        assert fitted.num_outputs == 1
        assert fitted.notes == ("LDA found 1 directions in which the classes differ, and no more.",)

    def test_imputed_values_are_the_mean(self) -> None:
        rows, labels = classes()
        holes = np.random.default_rng(6).random(rows.shape) < 0.2
        mean = np.where(holes, 0, rows).sum(axis=0, dtype=np.float64) / (~holes).sum(axis=0)
        broken, filled = np.where(holes, NAN, rows), np.where(holes, mean, rows)
        found = apply(fit(lda(not_finite=NotFinite.IMPUTE_MEAN), broken, labels), broken)
        expected = transformed(filled, labels)
        np.testing.assert_allclose(found, up_to_sign(found, expected), rtol=0, atol=FLOAT32_ROUNDING)

    @pytest.mark.parametrize("corners", [3, 4])
    def test_directions_that_part_the_classes_as_well_do_not_depend_on_the_order(self, corners: int) -> None:
        # Classes at the corners of a regular triangle or tetrahedron, and around each the same rows, with
        # their columns in every order: nothing but rounding tells one direction from another.
        some = np.random.default_rng(8).normal(size=(30, corners))
        around = np.concatenate([some[:, list(order)] for order in permutations(range(corners))])
        rows = np.concatenate([around + 2 * np.eye(corners)[k] for k in range(corners)])
        labels = np.repeat(np.arange(corners), len(around))
        first = fit(lda(), rows, labels, seed=0).loadings
        assert first is not None
        for seed in range(1, 6):
            other = fit(lda(), rows, labels, seed=seed, num_batches=seed * 5).loadings
            np.testing.assert_allclose(other, first, rtol=0, atol=SAME)

    def test_the_same_rows_in_any_order_give_the_same_directions(self) -> None:
        rows, labels = classes()
        first = fit(lda(), rows, labels, seed=0).loadings
        for seed in range(1, 5):
            found = fit(lda(), rows, labels, seed=seed, num_batches=seed * 9).loadings
            np.testing.assert_allclose(found, first, rtol=0, atol=SAME)

    def test_the_largest_loading_of_each_direction_is_positive(self) -> None:
        rows, labels = classes()
        deviation = np.sqrt(np.diag(within(rows.astype(np.float64), labels)))
        matrix = fit(lda(), rows, labels).loadings
        assert matrix is not None
        loadings = matrix * deviation[:, None]
        assert (loadings.max(axis=0) == np.abs(loadings).max(axis=0)).all()

    def test_fewer_directions_are_the_first_ones(self) -> None:
        rows, labels = classes()
        few, all_ = fit(lda(n_components=2), rows, labels), fit(lda(), rows, labels)
        np.testing.assert_array_equal(apply(few, rows), apply(all_, rows)[:, :2])
        assert few.notes == ()
        assert few.all_variances is not None
        assert len(few.all_variances) == 3

    def test_more_directions_than_the_classes_leave_are_refused(self) -> None:
        message = (
            "LDA.n_components must be at most 3, the number of classes less one or the width of its inputs; "
            "got 4 with 4 classes of 'label' and 6 columns."
        )
        with pytest.raises(DataError, match=re.escape(message)):
            fit(lda(n_components=4), *classes(width=6, num_classes=4))

    def test_a_row_for_each_class_is_not_enough(self) -> None:
        message = "LDA needs more rows than classes in split 'train'; got 3 rows and 3 classes of 'label'."
        with pytest.raises(DataError, match=re.escape(message)):
            fit(lda(), [[1.0], [2.0], [4.0]], [0, 1, 2])

    @pytest.mark.parametrize("shrinkage", [0.0, 0.5])
    def test_columns_that_only_repeat_the_label_are_refused(self, shrinkage: float) -> None:
        message = (
            "LDA needs a column that varies within the classes of 'label'; x0 and x1 do not in split "
            "'train'. Such a column is the label in other words, or constant."
        )
        with pytest.raises(DataError, match=re.escape(message)):
            fit(lda(shrinkage=shrinkage), [[0.1, 5], [0.1, 5], [0.7, 5], [0.7, 5]], [0, 0, 1, 1])

    def test_classes_that_do_not_differ_are_refused(self) -> None:
        message = (
            "LDA found no difference between the classes of 'label' in 'train': every column has the same "
            "mean in all of them. Use PCA, or other columns."
        )
        with pytest.raises(DataError, match=re.escape(message)):
            fit(lda(), [[0.1, 1e6], [0.7, 1e6 + 1]] * 2, [0, 0, 1, 1])


class TestPLS:
    def test_the_first_direction_is_the_covariance_by_hand(self) -> None:
        # Covariances with the label: 2/3 * (1, 0.5, 0); the third column is even in it.
        rows = [[-1.0, -0.5, 1], [0, 0, -2], [1, 0.5, 1]]
        fitted = fit(pls(n_components=1, standardise=False), rows, [10, 12, 14])
        assert fitted.loadings is not None
        assert fitted.loadings.ravel() == pytest.approx(np.array([2, 1, 0]) / np.sqrt(5), abs=1e-12)
        assert fitted.label_r2 == pytest.approx([1], rel=1e-12)
        assert fitted.explained_variance == pytest.approx([1.25], rel=1e-12)
        # Of a total variance of 1 + 0.25 + 3.
        assert fitted.explained_variance_ratio == pytest.approx([1.25 / 4.25], rel=1e-12)

    @pytest.mark.parametrize("standardise", [True, False])
    @pytest.mark.parametrize("wanted", [1, 3, 6])
    def test_it_is_what_scikit_learn_finds(self, standardise: bool, wanted: int) -> None:
        rows, label = measured()
        other = PLSRegression(wanted, scale=standardise).fit(rows.astype(np.float64), label)
        fitted = fit(pls(n_components=wanted, standardise=standardise), rows, label)
        found, expected = apply(fitted, rows), other.transform(rows.astype(np.float64))
        np.testing.assert_allclose(found, up_to_sign(found, expected), rtol=0, atol=FLOAT32_ROUNDING)
        assert fitted.label_r2 is not None
        assert fitted.label_r2.sum() == pytest.approx(other.score(rows.astype(np.float64), label), rel=1e-9)

    @pytest.mark.parametrize("offset", [0.0, 1e6])
    def test_far_from_zero_and_at_unlike_scales_it_is_what_scikit_learn_finds(self, offset: float) -> None:
        rows, label = measured()
        scaled = (rows * 10.0 ** np.arange(6) * 16 + offset).astype(np.float32)
        exact = scaled - scaled.mean(axis=0, dtype=np.float64)
        expected = PLSRegression(4).fit(exact, label).transform(exact)
        found = apply(fit(pls(n_components=4), scaled, label + offset), scaled)
        np.testing.assert_allclose(found, up_to_sign(found, expected), rtol=0, atol=FLOAT32_ROUNDING)

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 10**6), st.integers(1, 5))
    def test_outputs_are_uncorrelated_and_explain_what_is_said(self, seed: int, wanted: int) -> None:
        rows, label = measured(120, 5, seed)
        fitted = fit(pls(n_components=wanted), rows, label, seed=seed)
        matrix, exact = fitted.loadings, rows.astype(np.float64)
        assert matrix is not None
        assert fitted.label_r2 is not None
        assert fitted.explained_variance_ratio is not None
        outputs = (exact - exact.mean(axis=0)) @ matrix
        covariance = np.cov(outputs.T).reshape(wanted, wanted)
        scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
        # Later directions are what earlier ones leave, with up to 1e5 times the rounding.
        np.testing.assert_allclose(covariance / scale, np.eye(wanted), rtol=0, atol=1e-8)
        np.testing.assert_allclose(np.diag(covariance), fitted.explained_variance, rtol=1e-8)
        found = LinearRegression().fit(outputs, label).score(outputs, label)
        assert fitted.label_r2.sum() == pytest.approx(found, rel=1e-9)
        standardised = (exact - exact.mean(axis=0)) / exact.std(axis=0)
        regressed = LinearRegression().fit(outputs, standardised).predict(outputs)
        # Columns of variance 1: the share of each is its R^2, and of all their mean.
        assert fitted.explained_variance_ratio.sum() == pytest.approx(regressed.var(axis=0).mean(), rel=1e-8)

    def test_as_many_directions_as_columns_say_what_regression_says(self) -> None:
        rows, label = measured()
        fitted = fit(pls(n_components=6), rows, label)
        assert fitted.label_r2 is not None
        expected = (
            LinearRegression().fit(rows.astype(np.float64), label).score(rows.astype(np.float64), label)
        )
        assert fitted.label_r2.sum() == pytest.approx(expected, rel=1e-10)

    def test_one_hot_columns_count_as_dense_ones(self) -> None:
        rows, label = measured(width=3)
        counts = np.random.default_rng(1).poisson(0.5, (700, 4)).astype(np.float32)
        label = label + counts[:, 2]
        both = np.concatenate([rows, counts], axis=1).astype(np.float64)
        found = apply(fit(pls(n_components=3), rows, label, counts), rows, counts)
        expected = PLSRegression(3).fit(both, label).transform(both)
        np.testing.assert_allclose(found, up_to_sign(found, expected), rtol=0, atol=FLOAT32_ROUNDING)

    def test_constant_columns_do_no_harm(self) -> None:
        rows, label = measured(width=4)
        wide = np.concatenate([rows, np.full((700, 1), 0.1), np.full((700, 1), 1e6)], axis=1)
        found = fit(pls(n_components=3), wide, label)
        np.testing.assert_allclose(
            apply(found, wide),
            apply(fit(pls(n_components=3), rows, label), rows),
            rtol=0,
            atol=FLOAT32_ROUNDING,
        )
        assert found.loadings is not None
        assert not found.loadings[4:].any()

    def test_it_stops_where_nothing_is_left_to_explain(self) -> None:
        rows, label = measured(width=2)
        copies = np.concatenate([rows, rows, rows], axis=1)
        fitted = fit(pls(n_components=5), copies, label)
        assert fitted.num_outputs == 2
        assert fitted.notes == ("2 directions hold all that the columns tell about the label; no more made.",)
        assert fitted.label_r2 is not None
        expected = (
            LinearRegression().fit(rows.astype(np.float64), label).score(rows.astype(np.float64), label)
        )
        assert fitted.label_r2.sum() == pytest.approx(expected, rel=1e-10)

    def test_imputed_values_are_the_mean(self) -> None:
        rows, label = measured()
        holes = np.random.default_rng(6).random(rows.shape) < 0.2
        mean = np.where(holes, 0, rows).sum(axis=0, dtype=np.float64) / (~holes).sum(axis=0)
        broken, filled = np.where(holes, NAN, rows), np.where(holes, mean, rows)
        found = apply(fit(pls(n_components=3, not_finite=NotFinite.IMPUTE_MEAN), broken, label), broken)
        expected = PLSRegression(3).fit(filled, label).transform(filled)
        np.testing.assert_allclose(found, up_to_sign(found, expected), rtol=0, atol=FLOAT32_ROUNDING)

    def test_the_same_rows_in_any_order_give_the_same_directions(self) -> None:
        rows, label = measured()
        first = fit(pls(n_components=4), rows, label, seed=0).loadings
        for seed in range(1, 5):
            found = fit(pls(n_components=4), rows, label, seed=seed, num_batches=seed * 9).loadings
            np.testing.assert_allclose(found, first, rtol=0, atol=SAME)

    def test_the_largest_loading_of_each_direction_is_positive(self) -> None:
        rows, label = measured()
        for sign in (1, -1):
            matrix = fit(pls(n_components=4), rows, sign * label).loadings
            assert matrix is not None
            loadings = matrix * rows.astype(np.float64).std(axis=0)[:, None]
            assert (loadings.max(axis=0) == np.abs(loadings).max(axis=0)).all()

    def test_more_directions_than_columns_are_refused(self) -> None:
        message = "PLS.n_components must be at most 6, the width of its inputs; got 7."
        with pytest.raises(DataError, match=re.escape(message)):
            fit(pls(n_components=7), *measured())

    @pytest.mark.parametrize("value", [0.0, 0.1, 1e9 + 0.3])
    def test_a_constant_label_is_refused(self, value: float) -> None:
        message = (
            f"PLS needs a label that varies; 'label' is {value:g} in all 700 rows of split 'train'. Check "
            "the label, or the filter that made the split."
        )
        with pytest.raises(DataError, match=re.escape(message)):
            fit(pls(), measured()[0], np.full(700, value))

    def test_columns_that_say_nothing_are_refused(self) -> None:
        message = (
            "PLS needs a column that covaries with 'label'; x0 and x1 do not in split 'train'. Use PCA, or "
            "other columns."
        )
        with pytest.raises(DataError, match=re.escape(message)):
            fit(pls(), [[1.0, 0.1], [-1, 0.1], [-1, 0.1], [1, 0.1]], [-3.0, -1, 1, 3])

    def test_one_row_is_not_enough(self) -> None:
        with pytest.raises(DataError, match=re.escape("PLS needs at least 2 rows in split 'train'; got 1.")):
            fit(pls(n_components=1), [[1.0]], [1.0])

    def test_a_label_of_strings_is_refused(self) -> None:
        message = "PLS needs a label that is a number; 'label' is text."
        with pytest.raises(DataError, match=re.escape(message)):
            fit(pls(n_components=1), [[1.0], [2.0]], [b"1", b"2"])
