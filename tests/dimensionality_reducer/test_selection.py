"""Selections: cases by hand, laws, scikit-learn, and the same columns from tensors."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats
from sklearn import feature_selection
from tests.dimensionality_reducer.fitting import apply, fit

from tfx_mobile.common.errors import DataError
from tfx_mobile.dimensionality_reducer import core
from tfx_mobile.dimensionality_reducer.config import (
    CorrelationFilter,
    NotFinite,
    OneHot,
    Score,
    SelectKBest,
    VarianceThreshold,
)
from tfx_mobile.dimensionality_reducer.models import Selection
from tfx_mobile.dimensionality_reducer.rows import Rows
from tfx_mobile.dimensionality_reducer.statistics import Statistics

NAN = float("nan")


def variance(threshold: float = 0.0, **options: Any) -> VarianceThreshold:
    return VarianceThreshold(inputs=("x",), output="out", threshold=threshold, **options)


def correlation(threshold: float = 0.95, **options: Any) -> CorrelationFilter:
    return CorrelationFilter(inputs=("x",), output="out", threshold=threshold, **options)


def best(k: int, score: Score, **options: Any) -> SelectKBest:
    return SelectKBest(inputs=("x",), output="out", k=k, score=score, **options)


def mixed(num_rows: int = 600, seed: int = 5) -> tuple[Any, Any, Any]:
    """Numbers at several scales, counts, and classes that some of them follow."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, num_rows)
    numbers = draw.normal(size=(num_rows, 5)) * [1, 10, 0.1, 1, 1] + [0, 0, 0, 1e6, 0]
    numbers[:, 1] += 8 * labels
    numbers[:, 4] += 0.2 * labels
    counts = draw.poisson(0.2, (num_rows, 4))
    counts[:, 2] += labels == 1
    return numbers.astype(np.float32), labels, counts.astype(np.float32)


def joined(numbers: Any, counts: Any) -> Any:
    return np.concatenate([numbers, counts], axis=1).astype(np.float64)


class TestSelection:
    @settings(deadline=None)
    @given(st.sets(st.integers(0, 6), min_size=1), st.integers(0, 7))
    def test_columns_come_as_they_are_and_in_their_order(self, columns: set[int], num_numbers: int) -> None:
        draw = np.random.default_rng(0)
        dense = (draw.normal(size=(5, 7)) * (draw.random((5, 7)) < 0.6)).astype(np.float32)
        found = Selection(tuple(sorted(columns))).apply(
            Rows.of(dense[:, :num_numbers], dense[:, num_numbers:])
        )
        np.testing.assert_array_equal(found, dense[:, sorted(columns)])
        assert found.dtype == np.float32

    def test_a_column_that_goes_cannot_spoil_one_that_stays(self) -> None:
        rows = Rows.of([[1.0, NAN], [2.0, np.inf]])
        assert Selection((0,)).apply(rows).ravel().tolist() == [1.0, 2.0]

    @pytest.mark.pipeline
    @pytest.mark.parametrize("columns", [(0,), (1, 3), (2, 3, 4, 5, 8), (7,), tuple(range(9))])
    def test_tensors_give_the_same_columns(self, columns: tuple[int, ...]) -> None:
        import tensorflow as tf

        from tfx_mobile.dimensionality_reducer.tensor_rows import TensorRows

        words, shops = OneHot("words", depth=4, weights="weights"), OneHot("shop", depth=2)
        reduction = VarianceThreshold(inputs=("pair", words, "one", shops), output="out")
        indices = [[0, 0], [0, 1], [2, 0]]
        features = {
            "pair": tf.constant([[1.5, 2], [3, 4], [5, 6]]),
            "one": tf.constant([7, 8, 9], tf.int64),
            "words": tf.SparseTensor(indices, tf.constant([3, 1, 3], tf.int64), (3, 2)),
            "weights": tf.SparseTensor(indices, tf.constant([0.5, 0.25, 2.0]), (3, 2)),
            "shop": tf.constant([[1], [-1], [0]], tf.int64),
        }
        widths = {"pair": 2, words: 4, "one": 1, shops: 2}
        numbers = [[1.5, 2, 7], [3, 4, 8], [5, 6, 9]]
        counts = [[0, 0.25, 0, 0.5, 0, 1], [0, 0, 0, 0, 0, 0], [0, 0, 0, 2, 1, 0]]
        found = Selection(columns).apply(TensorRows(features, reduction, widths)).numpy()
        np.testing.assert_array_equal(found, Selection(columns).apply(Rows.of(numbers, counts)))


class TestVarianceThreshold:
    def test_variances_by_hand(self) -> None:
        # Population variances: 0, 1/4, 1 and 1/4 of the mean square 2 / 4.
        rows = [[5.0, 0, 1], [5, 1, -1], [5, 0, 1], [5, 1, -1]]
        fitted = fit(variance(0.25), rows)
        assert fitted.scores == pytest.approx({"x0": 0, "x1": 0.25, "x2": 1}, rel=1e-15)
        assert fitted.kept == ("x2",)
        assert fitted.dropped == {"x0": "constant", "x1": "variance 0.25 is not above 0.25"}
        assert apply(fitted, rows).ravel().tolist() == [1, -1, 1, -1]

    @pytest.mark.parametrize("threshold", [0.0, 0.15, 2.0])
    def test_it_keeps_what_scikit_learn_keeps(self, threshold: float) -> None:
        numbers, _, counts = mixed()
        both = joined(numbers, counts)
        other = feature_selection.VarianceThreshold(threshold).fit(both)
        fitted = fit(variance(threshold), numbers, counts=counts)
        np.testing.assert_array_equal(
            apply(fitted, numbers, counts), other.transform(both).astype(np.float32)
        )
        # scikit-learn's own variances_ are capped at the range where the threshold is 0.
        np.testing.assert_allclose(list(fitted.scores.values()), both.var(axis=0), rtol=1e-11)  # of 1e6

    @pytest.mark.parametrize("seed", range(5))
    def test_a_variance_that_is_the_threshold_is_not_above_it_in_any_order(self, seed: int) -> None:
        # 200 of 1000 have the word: the variance is 0.2 * 0.8, in floating point or a little more or less.
        counts = np.arange(2000).reshape(1000, 2) % [5, 10000]
        counts[:, 0] = counts[:, 0] == 0
        fitted = fit(variance(0.8 * (1 - 0.8)), np.zeros((1000, 0)), counts=counts, seed=seed)
        assert fitted.kept == ("x1",)

    @pytest.mark.parametrize("value", [0.1, 1e6 + 0.5, -3e-30, 1e30])
    def test_a_constant_column_has_no_variance_at_all(self, value: float) -> None:
        varying = np.arange(1001.0)
        numbers = np.stack([np.full(1001, value), varying], axis=1)
        counts = np.stack([np.full(1001, 0.1), varying % 2], axis=1)
        fitted = fit(variance(), numbers, counts=counts, num_batches=40)
        assert fitted.dropped == {"x0": "constant", "x2": "constant"}

    def test_nothing_above_the_threshold_is_refused(self) -> None:
        message = (
            "VarianceThreshold must leave a column; none of 2 has a variance above 4 in split 'train': the "
            "largest is 1, of 'x1'. Lower the threshold, or take other columns."
        )
        with pytest.raises(DataError, match=re.escape(message)):
            fit(variance(4), [[1, 2], [1, 4]])

    def test_rows_that_were_dropped_do_not_count(self) -> None:
        rows = [[1.0, 1], [1, 2], [9, NAN]]
        fitted = fit(variance(not_finite=NotFinite.DROP_ROWS), rows)
        assert (fitted.num_rows, fitted.kept) == (2, ("x1",))

    def test_no_row_left_is_refused(self) -> None:
        message = "VarianceThreshold needs rows in split 'train'; all 2 have NaN or infinity and are dropped."
        with pytest.raises(DataError, match=re.escape(message)):
            fit(variance(not_finite=NotFinite.DROP_ROWS), [[NAN], [NAN]])

    def test_imputed_values_are_the_mean(self) -> None:
        rows = [[1.0, 4], [3, NAN], [NAN, 4]]
        fitted = fit(variance(not_finite=NotFinite.IMPUTE_MEAN), rows)
        assert fitted.scores == pytest.approx({"x0": 2 / 3, "x1": 0})
        assert apply(fitted, rows).ravel().tolist() == [1, 3, 2]


class TestCorrelationFilter:
    def test_columns_go_by_hand(self) -> None:
        x = np.array([-1.0, 0, 1, 0])
        y = np.array([0.0, 1, 0, -1])  # not correlated with x
        rows = np.stack([x, np.full(4, 3), -2 * x + 7, y, x + 2 * y, x + y], axis=1)
        fitted = fit(correlation(0.8), rows)
        # (x + 2y) correlates 2 / sqrt(5) = 0.894 with y; (x + y) 1 / sqrt(2) with both.
        assert fitted.kept == ("x0", "x3", "x5")
        assert fitted.dropped == {
            "x1": "constant",
            "x2": "correlates -1 with 'x0'",
            "x4": "correlates 0.8944 with 'x3'",
        }
        assert fitted.scores == pytest.approx(
            {"x0": 0, "x1": 0, "x2": 1, "x3": 0, "x4": 2 / 5**0.5, "x5": 0.5**0.5}, abs=1e-12
        )

    def test_only_columns_that_stay_count(self) -> None:
        # b correlates with a and goes; c correlates with b but not with a, and stays.
        a, noise = np.random.default_rng(1).normal(size=(2, 4000))
        rows = np.stack([a, a + 0.6 * noise, a + 1.6 * noise], axis=1)
        kept = fit(correlation(0.8), rows)
        assert abs(np.corrcoef(rows.T)[1, 2]) > 0.8
        assert kept.kept == ("x0", "x2")

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 10**6), st.floats(0.05, 0.99))
    def test_it_is_what_a_loop_over_the_columns_keeps(self, seed: int, threshold: float) -> None:
        draw = np.random.default_rng(seed)
        numbers = (draw.normal(size=(80, 3)) @ draw.normal(size=(3, 6)) + draw.normal(size=(80, 6))) * 100
        counts = draw.poisson(1, (80, 2)) + (numbers[:, :2] > 0)
        numbers = numbers.astype(np.float32)
        correlations = np.corrcoef(joined(numbers, counts).T)
        expected: list[int] = []
        for j in range(8):
            if all(abs(correlations[j, i]) <= threshold for i in expected):
                expected.append(j)
        fitted = fit(correlation(threshold), numbers, counts=counts, seed=seed)
        assert fitted.kept == tuple(f"x{j}" for j in expected)
        assert set(fitted.dropped) == {f"x{j}" for j in range(8)} - set(fitted.kept)

    def test_copies_stay_where_only_more_than_one_would_go(self) -> None:
        # v * (1 / sqrt(v))**2 is a little more than 1 for some of any twenty variances v.
        for seed in range(20):
            rows = np.random.default_rng(seed).normal(size=(10, 1)) @ [[1.0, 2, -4]]
            assert fit(correlation(1), rows).kept == ("x0", "x1", "x2")
            assert fit(correlation(0.999999), rows).kept == ("x0",)

    def test_far_from_zero_correlations_keep_their_digits(self) -> None:
        draw = np.random.default_rng(3)
        base = np.round(draw.normal(size=(500, 1)) * 16) / 16
        rows = np.concatenate(
            [base, base + 1e6, np.round(draw.normal(size=(500, 1)) * 16) / 16 + 1e6], axis=1
        )
        fitted = fit(correlation(0.9), rows)
        assert fitted.dropped == {"x1": "correlates 1 with 'x0'"}
        assert fitted.scores["x2"] == pytest.approx(abs(np.corrcoef(rows.T - 1e6)[0, 2]), rel=1e-9)

    def test_constant_columns_only_are_refused(self) -> None:
        message = "CorrelationFilter needs a column that varies; x0 and x1 are constant in split 'train'."
        with pytest.raises(DataError, match=re.escape(message)):
            fit(correlation(), [[1, 2], [1, 2]])


class TestFTests:
    def test_f_of_a_correlation_by_hand(self) -> None:
        # r = 3 / sqrt(2 * 14/3) squared is 27 / 28; F = r^2 / (1 - r^2) * 1.
        fitted = fit(best(1, Score.F_REGRESSION), [[1.0, 1], [2, 0], [3, 0]], [1.0, 2.0, 4.0])
        assert fitted.scores["x0"] == pytest.approx(27, rel=1e-12)
        assert fitted.kept == ("x0",)
        assert fitted.dropped == {"x1": "f_regression 1.333 ranks 2 of 2"}

    def test_f_of_classes_by_hand(self) -> None:
        # Means 1 and 4; between 4 * 1.5^2 = 9 with 1, within 1 + 1 + 1 + 1 = 4 with 2 degrees of freedom.
        fitted = fit(best(1, Score.F_CLASSIF), [[0.0], [2], [3], [5]], [b"n", b"n", b"y", b"y"])
        assert fitted.scores["x0"] == pytest.approx(9 / 1 / (4 / 2), rel=1e-12)

    @pytest.mark.parametrize("score", [Score.F_REGRESSION, Score.F_CLASSIF])
    @pytest.mark.parametrize("k", [1, 4, 9])
    def test_they_are_those_of_scikit_learn(self, score: Score, k: int) -> None:
        numbers, labels, counts = mixed()
        both = joined(numbers, counts)
        exact = both - [0, 0, 0, 1e6, 0, 0, 0, 0, 0]  # scikit-learn loses digits there
        other = feature_selection.SelectKBest(getattr(feature_selection, score.value), k=k).fit(exact, labels)
        fitted = fit(best(k, score), numbers, labels, counts)
        np.testing.assert_allclose(list(fitted.scores.values()), other.scores_, rtol=1e-8)
        np.testing.assert_array_equal(
            apply(fitted, numbers, counts), other.transform(both).astype(np.float32)
        )

    def test_the_analysis_of_variance_is_that_of_scipy(self) -> None:
        numbers, labels, counts = mixed()
        both = joined(numbers, counts)
        expected = [stats.f_oneway(*(column[labels == k] for k in range(3))).statistic for column in both.T]
        found = fit(best(2, Score.F_CLASSIF), numbers, labels, counts).scores
        np.testing.assert_allclose(list(found.values()), expected, rtol=1e-8)

    @pytest.mark.parametrize("score", [Score.F_REGRESSION, Score.F_CLASSIF])
    def test_imputed_values_are_the_mean(self, score: Score) -> None:
        numbers, labels, _ = mixed()
        holes = np.random.default_rng(6).random(numbers.shape) < 0.2
        mean = np.where(holes, 0, numbers).sum(axis=0, dtype=np.float64) / (~holes).sum(axis=0)
        filled = np.where(holes, mean, numbers) - mean  # scikit-learn loses digits far from zero
        expected = getattr(feature_selection, score.value)(filled, labels)[0]
        broken = np.where(holes, NAN, numbers)
        found = fit(best(2, score, not_finite=NotFinite.IMPUTE_MEAN), broken, labels).scores
        np.testing.assert_allclose(list(found.values()), expected, rtol=1e-7)

    @pytest.mark.parametrize("score", list(Score))
    def test_of_equal_columns_the_first_stay(self, score: Score) -> None:
        draw = np.random.default_rng(7)
        labels = np.repeat([0, 1], 100)
        one = draw.normal(size=(200, 1)) + labels[:, None]
        rows = np.concatenate([np.full((200, 1), 2), draw.normal(size=(200, 1)), one, one, one], axis=1)
        fitted = fit(best(2, score), rows, labels)
        assert fitted.kept == ("x2", "x3")
        assert fitted.scores["x0"] == 0

    @pytest.mark.parametrize("score", list(Score))
    def test_of_many_equal_columns_the_first_stay(self, score: Score) -> None:
        labels = np.repeat([0, 1], 50)
        one = np.random.default_rng(8).normal(size=(100, 1)) + labels[:, None]
        fitted = fit(best(17, score), np.repeat(one, 90, axis=1), labels)
        assert fitted.kept == tuple(f"x{j}" for j in range(17))

    @pytest.mark.parametrize("score", list(Score))
    def test_the_order_of_the_rows_does_not_matter(self, score: Score) -> None:
        numbers, labels, counts = mixed()
        scores = [
            list(
                fit(
                    best(3, score), numbers, labels, counts, seed=seed, num_batches=1 + 7 * seed
                ).scores.values()
            )
            for seed in range(4)
        ]
        for other in scores[1:]:
            # Class means near 1e6 are right to 1e-10, and differ by 0.01.
            np.testing.assert_allclose(other, scores[0], rtol=1e-7)

    @pytest.mark.parametrize("score", [Score.F_REGRESSION, Score.F_CLASSIF])
    def test_a_column_that_is_the_label_has_the_largest_finite_score(self, score: Score) -> None:
        labels = np.arange(30) % 3
        rows = np.stack([np.arange(30.0) % 7, labels * 0.1 + 1], axis=1)
        fitted = fit(best(1, score), rows, labels)
        assert fitted.kept == ("x1",)
        assert fitted.scores["x1"] == np.finfo(np.float64).max

    @pytest.mark.parametrize("score", list(Score))
    def test_more_columns_than_there_are_are_refused(self, score: Score) -> None:
        message = "SelectKBest.k must be at most 3, the width of its inputs; got 4."
        numbers, labels, _ = mixed()
        with pytest.raises(DataError, match=re.escape(message)):
            fit(best(4, score), numbers[:, :3], labels)

    @pytest.mark.parametrize("score", list(Score))
    def test_columns_that_tell_nothing_are_refused(self, score: Score) -> None:
        message = (
            f"SelectKBest needs a column that tells something about 'label'; by {score.value} x0 and x1 "
            "do not in split 'train'. Take other columns, or another score."
        )
        with pytest.raises(DataError, match=re.escape(message)):
            fit(best(1, score), np.full((40, 2), 0.1), np.arange(40) % 2)

    def test_a_constant_label_is_refused(self) -> None:
        message = (
            "SelectKBest needs a label that varies; 'label' is 3 in all 600 rows of split 'train'. Check the "
            "label, or the filter that made the split."
        )
        with pytest.raises(DataError, match=re.escape(message)):
            fit(best(1, Score.F_REGRESSION), mixed()[0], np.full(600, 3))

    def test_one_class_is_refused(self) -> None:
        message = (
            "SelectKBest by f_classif needs at least 2 classes in split 'train'; got 1 in 'label': 3. Check "
            "the label, or the filter that made the split."
        )
        with pytest.raises(DataError, match=re.escape(message)):
            fit(best(1, Score.F_CLASSIF), mixed()[0], np.full(600, 3))

    def test_two_rows_are_not_enough_for_a_correlation(self) -> None:
        message = "SelectKBest needs at least 3 rows in split 'train'; got 2."
        with pytest.raises(DataError, match=re.escape(message)):
            fit(best(1, Score.F_REGRESSION), [[1.0], [2.0]], [0.0, 1.0])

    def test_a_row_for_each_class_is_not_enough(self) -> None:
        message = (
            "SelectKBest by f_classif needs more rows than classes in split 'train'; got 2 rows and 2 "
            "classes of 'label'."
        )
        with pytest.raises(DataError, match=re.escape(message)):
            fit(best(1, Score.F_CLASSIF), [[1.0], [2.0]], [0, 1])


@pytest.mark.parametrize("reduction", [variance(), best(2, Score.F_REGRESSION), best(2, Score.F_CLASSIF)])
def test_a_hundred_thousand_words_are_selected_from(reduction: Any) -> None:
    # Word 70,000 says the label, word 5 is in every second row and the others are in none.
    labels = np.arange(40) // 20
    counts = sparse.lil_matrix((40, 100_000), dtype=np.float32)
    counts[::2, 5], counts[20:, 70_000], counts[20, 70_000] = 1, 2, 3
    found = Statistics(reduction, 1, 100_001)
    for start in (0, 20):
        some = slice(start, start + 20)
        found.add(Rows.of(np.ones((20, 1)), counts.tocsr()[some]), labels[some].astype(np.float64))
    fitted = core.fit(reduction, found, [f"x{i}" for i in range(100_001)], "label")
    assert {"x70001"} < set(fitted.kept) <= {"x0", "x6", "x70001"}
    assert max(fitted.scores, key=lambda name: fitted.scores[name]) == "x70001"
