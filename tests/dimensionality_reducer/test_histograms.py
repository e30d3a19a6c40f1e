"""Histograms and mutual information: cases by hand, any order of merging, scikit-learn, and a closed form."""

import math
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score
from tests.dimensionality_reducer.fitting import as_labels, fit, gather

from tfx_mobile.common.errors import DataError
from tfx_mobile.dimensionality_reducer.config import NotFinite, Score, SelectKBest
from tfx_mobile.dimensionality_reducer.histograms import (
    MAX_BYTES,
    MAX_LABELS,
    Grid,
    Histograms,
    mutual_information,
    num_bins,
)
from tfx_mobile.dimensionality_reducer.rows import Rows

REDUCTION = SelectKBest(inputs=("x",), output="out", k=1, score=Score.MUTUAL_INFO)
IMPUTING = SelectKBest(
    inputs=("x",), output="out", k=1, score=Score.MUTUAL_INFO, not_finite=NotFinite.IMPUTE_MEAN
)
NAN = float("nan")
BINS = 1024


_value = st.floats(-10, 10, width=32) | st.floats(width=32) | st.sampled_from([0.0, 1.0, 1e6, 1e-6])
_some_rows = st.sampled_from(
    [st.integers(-2, 2).map(float), st.sampled_from([b"", b"a", b"b"]), st.floats(-1e9, 1e9)]
).flatmap(lambda label: st.lists(st.tuples(_value, _value, label), min_size=1, max_size=40))


def of(numbers: Any, labels: Any, counts: Any = None) -> Histograms:
    rows = Rows.of(numbers, counts)
    found = Histograms(rows.num_numbers, rows.width)
    found.add(rows, as_labels(labels))
    return found


def gathered(numbers: Any, labels: Any, counts: Any = None, **options: Any) -> Histograms:
    found = gather(REDUCTION, numbers, labels, counts, **options).histograms
    assert found is not None
    return found


def assert_same(one: Histograms, other: Histograms) -> None:
    """Every count and every bin is the same, to the last bit."""
    np.testing.assert_array_equal(one.grid.exponents, other.grid.exponents)
    np.testing.assert_array_equal(one.grid.first, other.grid.first)
    np.testing.assert_array_equal(one.table, other.table)
    np.testing.assert_array_equal(one.not_finite, other.not_finite)
    np.testing.assert_array_equal(one.label_rows, other.label_rows)


def by_hand(values: Any, bins: int) -> Any:
    """Returns the bins of values, found by trying widths from small to large with exact fractions."""
    exact = [Fraction(float(value)) for value in values]
    for exponent in range(-149, 140):
        width = Fraction(2) ** exponent
        first = min(exact) // width
        found = [int(value // width - first) for value in exact]
        if max(found) < bins:
            return np.array(found)
    raise AssertionError("no width is wide enough")


class TestGrid:
    @pytest.mark.parametrize(
        ("low", "high", "exponent", "first"),
        [
            (0, 3, 0, 0),  # 0, 1, 2, 3: four bins of width 1
            (0, 4, 1, 0),  # width 1 would make five
            (3, 4, -1, 6),  # 3, 3.5, 4; width 1/4 would make five
            (-1, 2, 0, -1),
            (-0.25, 0.5, -2, -1),
            (7, 8.5, -1, 14),  # 7, 7.5, 8, 8.5
            (-3, 5, 2, -1),  # width 2 makes -2 to 2, five
            (-4, -1e-30, 0, -4),  # -4 to -1, though the range rounds to 4
        ],
    )
    def test_four_bins_by_hand(self, low: float, high: float, exponent: int, first: int) -> None:
        found = Grid.of(np.array([low]), np.array([high]), 4)
        assert (found.exponents.tolist(), found.first.tolist()) == ([exponent], [first])

    finite = st.floats(allow_nan=False, allow_infinity=False, width=32)

    @settings(deadline=None)
    @given(st.lists(finite, min_size=1, max_size=6), st.sampled_from([32, 64, 1024]))
    def test_bins_are_the_finest_that_are_enough(self, values: list[float], bins: int) -> None:
        array = np.array(values, np.float64)
        grid = Grid.of(array.min(keepdims=True), array.max(keepdims=True), bins)
        found = grid.positions(array[:, None])[:, 0]
        np.testing.assert_array_equal(found, by_hand(values, bins))


class TestOrder:
    @settings(deadline=None)
    @given(_some_rows, st.integers(0, 999))
    def test_counts_do_not_depend_on_the_order(self, rows: list[Any], seed: int) -> None:
        numbers = np.array([[x] for x, _, _ in rows])
        counts = np.nan_to_num(np.array([[y, 0.0] for _, y, _ in rows], np.float32), posinf=3.0, neginf=0.0)
        labels = np.array([label for *_, label in rows])
        assert_same(gathered_anyway(numbers, labels, counts, seed), of(numbers, labels, counts))

    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("num_labels", [2, MAX_LABELS - 1, MAX_LABELS, MAX_LABELS + 1, 900])
    def test_nor_does_the_way_from_classes_to_bins_of_the_label(self, num_labels: int, seed: int) -> None:
        draw = np.random.default_rng(7)
        labels = np.exp(draw.normal(0, 3, num_labels))[np.arange(1000) % num_labels]
        numbers = draw.normal(size=(1000, 2)) * [1, 1e6] + [0, 1e7]
        found = gathered(numbers, labels, seed=seed, num_batches=20)
        assert_same(found, of(numbers.astype(np.float32), labels))
        assert found.label.num == (num_labels if num_labels <= MAX_LABELS else 64)

    @pytest.mark.parametrize("seed", range(4))
    def test_nor_do_labels_that_float32_cannot_hold(self, seed: int) -> None:
        labels = np.concatenate([np.linspace(-1, 1, 6000), [-1e-300] * 300, [1e37, -1e300]])
        found = gathered(np.zeros((6302, 1)), labels, seed=seed, num_batches=20)
        assert_same(found, of(np.zeros((6302, 1)), labels))

    def test_a_merge_leaves_the_other_one_as_it_was(self) -> None:
        one, other = of([[0.0], [1.0]], [0, 1]), of([[500.0], [NAN]], [3, 4])
        again = of([[500.0], [NAN]], [3, 4])
        one.merge(other)
        one.add(Rows.of([[-9000.0]]), np.array([3.0]))
        assert_same(other, again)


def gathered_anyway(numbers: Any, labels: Any, counts: Any, seed: int) -> Histograms:
    """As gathered, with values that the method would refuse."""
    found = gather(IMPUTING, numbers, labels, counts, seed=seed).histograms
    assert found is not None
    return found


class TestCounts:
    def test_the_table_is_what_counting_row_by_row_gives(self) -> None:
        draw = np.random.default_rng(3)
        numbers = np.stack([draw.normal(size=300), draw.gamma(0.3, size=300), np.full(300, 2.5)], axis=1)
        numbers = numbers.astype(np.float32)
        labels = draw.choice([-1, 4, 5], 300)
        expected = np.zeros((3, BINS, 3), np.int64)
        for j in range(3):
            for bin_, label in zip(by_hand(numbers[:, j], BINS), labels, strict=True):
                expected[j, bin_, [-1, 4, 5].index(label)] += 1
        np.testing.assert_array_equal(gathered(numbers, labels).table, expected)

    def test_bins_of_a_numeric_label_are_those_of_a_column(self) -> None:
        draw = np.random.default_rng(4)
        labels = draw.gamma(2, size=400).astype(np.float32).astype(np.float64)
        found = gathered(np.zeros((400, 1)), labels)
        expected = np.bincount(by_hand(labels, 64), minlength=64)
        np.testing.assert_array_equal(found.label_rows, expected)

    def test_large_numbers_that_are_names_stay_classes_of_their_own(self) -> None:
        labels = [2**53 - 1, 2**53 - 2, 2**53 - 1]  # one number in float32
        assert gathered(np.zeros((3, 1)), labels).label_rows.tolist() == [1, 2]

    def test_joined_bins_hold_about_the_same_number_of_rows(self) -> None:
        draw = np.random.default_rng(5)
        joint = gathered(np.exp(draw.normal(0, 1, (20000, 1))), draw.integers(0, 2, 20000)).joint(0)
        assert joint.sum() == 20000
        assert 24 <= len(joint) <= 32
        # A fine bin of the log-normal's peak holds up to 3 % of the rows: twice 1 / 32 is not exceeded.
        assert joint.sum(axis=1).max() <= 2 * 20000 / 32 + 600

    def test_joined_bins_are_few_where_rows_are(self) -> None:
        numbers, labels = np.arange(40.0)[:, None], np.arange(40) % 2
        # 5 rows a cell: 40 / (2 * 5) = 4 bins.
        np.testing.assert_array_equal(gathered(numbers, labels).joint(0), np.full((4, 2), 5))

    def test_neighbours_are_joined_by_the_middle_of_their_counts(self) -> None:
        # 20 rows, 2 labels: 2 bins. Middles at 5, 12 and 17 of 20: the first goes below, the others above.
        numbers = np.repeat([0.0, 1.0, 2.0], [10, 4, 6])[:, None]
        labels = np.tile([0, 1], 10)
        np.testing.assert_array_equal(gathered(numbers, labels).joint(0), [[5, 5], [5, 5]])

    def test_sparse_columns_count_as_dense_ones(self) -> None:
        draw = np.random.default_rng(6)
        counts = draw.poisson(0.3, (500, 4)).astype(np.float32)
        counts[:, 2] = draw.random(500) * (draw.random(500) < 0.2)  # weights
        counts[:, 3] = 0
        labels = (counts[:, 0] + draw.integers(0, 2, 500)).astype(int)
        sparse, dense = gathered(np.zeros((500, 0)), labels, counts), gathered(counts, labels)
        for j in range(4):
            np.testing.assert_array_equal(sparse.joint(j), dense.joint(j))
        np.testing.assert_array_equal(sparse.mutual_information(), dense.mutual_information())

    def test_a_word_in_every_row_has_no_zeros(self) -> None:
        found = gathered(np.zeros((40, 0)), np.arange(40) % 2, np.full((40, 1), 3.0))
        assert found.joint(0).tolist() == [[20, 20]]

    def test_a_batch_without_a_finite_value_counts_as_one(self) -> None:
        found = of([[1e20]], [0])
        found.add(Rows.of([[NAN], [np.inf]]), np.array([0.0, 1.0]))
        assert found.not_finite.tolist() == [[1, 1]]
        assert found.label_rows.tolist() == [2, 1]
        assert found.table.sum() == 1

    def test_values_that_are_not_finite_count_as_their_mean(self) -> None:
        draw = np.random.default_rng(8)
        labels = draw.integers(0, 3, 600)
        numbers = (draw.gamma(2, size=(600, 2)) + 5 * labels[:, None]).astype(np.float32)
        holes = draw.random((600, 2)) < [0.3, 0.0]
        filled = np.where(holes, numbers[~holes[:, 0], 0].mean(dtype=np.float64), numbers)
        broken = np.where(holes, np.where(draw.random((600, 2)) < 0.5, NAN, -np.inf), numbers)
        found = gather(IMPUTING, broken, labels)
        assert found.histograms is not None
        np.testing.assert_array_equal(
            found.histograms.mutual_information(found.fill), gathered(filled, labels).mutual_information()
        )


class TestMemory:
    @pytest.mark.parametrize(
        ("width", "bins"), [(1, 1024), (512, 1024), (513, 512), (1024, 512), (4096, 128), (16384, 32)]
    )
    def test_wide_inputs_have_fewer_bins(self, width: int, bins: int) -> None:
        assert num_bins(width) == bins
        assert width * bins * MAX_LABELS * 8 <= MAX_BYTES

    def test_what_would_not_fit_is_refused_before_a_row_is_read(self) -> None:
        message = (
            "SelectKBest by mutual information must have at most 16384 columns; got 16385. Take "
            "Score.F_CLASSIF or Score.F_REGRESSION, or split its inputs over several reductions."
        )
        with pytest.raises(DataError, match=re.escape(message)):
            gather(REDUCTION, np.zeros((0, 16385)))


class TestMutualInformation:
    def test_two_by_two_by_hand(self) -> None:
        # Cells 3, 1, 1, 3 of 8: 2 * 3/8 log(3/2) + 2 * 1/8 log(1/2); four cells filled of 2 + 2 - 1.
        plain = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
        assert mutual_information(np.array([[3, 1], [1, 3]])) == pytest.approx(plain - 1 / 16, rel=1e-14)

    def test_it_is_never_negative(self) -> None:
        assert mutual_information(np.array([[5, 5], [5, 5]])) == 0.0

    @pytest.mark.parametrize("kind", ["classes", "strings", "number"])
    def test_it_is_that_of_scikit_learn_less_the_bias(self, kind: str) -> None:
        draw = np.random.default_rng(9)
        numbers = draw.normal(size=(3000, 3)).astype(np.float32)
        labels: Any = np.rint(numbers[:, 0] + draw.normal(size=3000))
        if kind == "strings":
            labels = np.array([b"%d" % value for value in labels])
        elif kind == "number":
            labels = (numbers[:, 0] + numbers[:, 1] ** 2).astype(np.float64)
        found = gathered(numbers, labels)
        for j in range(3):
            joint = found.joint(j)
            filled = np.count_nonzero(joint) - joint.shape[0] - joint.shape[1] + 1
            expected = max(0.0, mutual_info_score(None, None, contingency=joint) - filled / 6000)
            # Sums of up to 1024 terms of magnitude 1e-3.
            assert found.mutual_information()[j] == pytest.approx(expected, rel=0, abs=1e-13)

    @pytest.mark.parametrize("correlation", [0.0, 0.3, -0.6, 0.9])
    def test_it_is_near_that_of_two_normal_variables(self, correlation: float) -> None:
        draw = np.random.default_rng(10)
        x, noise = draw.normal(size=(2, 50_000))
        label = correlation * x + math.sqrt(1 - correlation**2) * noise
        exact = -0.5 * math.log(1 - correlation**2)
        found = gathered(x[:, None], label).mutual_information()[0]
        # 32 bins see a little less than there is (5 % at 0.9); 50,000 rows leave a deviation of 1 / 300.
        assert 0.94 * exact - 0.01 <= found <= exact + 0.01

    def test_bins_without_information_do_not_add_any(self) -> None:
        draw = np.random.default_rng(11)
        found = gathered(draw.normal(size=(2000, 30)), draw.normal(size=2000)).mutual_information()
        # Without the correction each would have (19 * 19) / 4000 = 0.09.
        assert found.mean() < 0.015

    def test_a_constant_column_tells_nothing(self) -> None:
        assert gathered(np.full((50, 1), 3.7), np.arange(50) % 3).mutual_information().tolist() == [0.0]

    def test_a_parabola_is_seen(self) -> None:
        draw = np.random.default_rng(12)
        numbers = draw.normal(size=(2000, 2))
        fitted = fit(REDUCTION, numbers, numbers[:, 1] ** 2)
        assert fitted.kept == ("x1",)

    @pytest.mark.parametrize("seed", range(3))
    def test_too_many_strings_are_refused_in_any_order(self, seed: int) -> None:
        labels = np.array([b"%03d" % i for i in range(MAX_LABELS + 1)])
        message = (
            "SelectKBest by mutual information needs a label that is a number, or a string with at most 256 "
            "values; got more in 'label' in split 'train'. Join rare ones in preprocessing_fn."
        )
        with pytest.raises(DataError, match=re.escape(message)):
            fit(REDUCTION, np.arange(257.0)[:, None], labels, seed=seed)
        assert fit(REDUCTION, np.arange(512.0)[:, None], np.repeat(labels[:256], 2)).kept == ("x0",)

    def test_a_label_that_does_not_vary_is_refused(self) -> None:
        message = (
            "SelectKBest needs a label that varies; 'label' has 1 value in 30 rows of split 'train'. Check "
            "the label, or the filter that made the split."
        )
        with pytest.raises(DataError, match=re.escape(message)):
            fit(REDUCTION, np.arange(30.0)[:, None], np.full(30, 2.5))
