"""Means by class: a case by hand, any order of merging, and a plain loop over the classes."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.dimensionality_reducer.fitting import LABEL, as_labels, fit, gather

from tfx_mobile.common.errors import DataError
from tfx_mobile.dimensionality_reducer.class_means import MAX_CLASSES, ClassMeans
from tfx_mobile.dimensionality_reducer.config import LDA, NotFinite
from tfx_mobile.dimensionality_reducer.rows import Rows

REDUCTION = LDA(inputs=("x",), output="out")
NAN = float("nan")


def of(numbers: Any, labels: Any, counts: Any = None) -> ClassMeans:
    return ClassMeans.of(Rows.of(numbers, counts), as_labels(labels))


def gathered(numbers: Any, labels: Any, counts: Any = None, **options: Any) -> ClassMeans:
    found = gather(REDUCTION, numbers, labels, counts, **options).classes
    assert found is not None
    return found


def test_three_rows_of_two_classes_by_hand() -> None:
    found = of([[1, 10], [5, 20], [3, 40]], [7, -2, 7])
    assert found.labels.tolist() == [-2, 7]
    assert found.num_rows.tolist() == [1, 2]
    assert found.num_finite.tolist() == [[1, 1], [2, 2]]
    assert found.means.tolist() == [[5, 20], [2, 25]]


def test_a_merge_by_hand() -> None:
    found = of([[1.0], [5.0]], [0, 1]).merge(of([[4.0], [2.0], [9.0]], [0, 0, 3]))
    assert found.labels.tolist() == [0, 1, 3]
    assert found.num_rows.tolist() == [3, 1, 1]
    assert found.means.ravel() == pytest.approx([7 / 3, 5, 9], rel=1e-15)


def test_values_that_are_not_finite_are_not_counted() -> None:
    found = of([[1, NAN], [np.inf, NAN], [3, 8]], [0, 0, 1])
    assert found.num_rows.tolist() == [2, 1]
    assert found.num_finite.tolist() == [[1, 0], [1, 1]]
    assert found.means.tolist() == [[1, 0], [3, 8]]


def test_a_class_without_a_finite_value_does_not_pull_at_the_mean_of_a_merge() -> None:
    nothing, something = of([[NAN]], [0]), of([[8.0]], [0])
    for found in (nothing.merge(something), something.merge(nothing)):
        assert found.num_rows.tolist() == [2]
        assert found.num_finite.tolist() == [[1]]
        assert found.means.tolist() == [[8.0]]


def test_imputed_values_count_as_the_mean_of_all_rows() -> None:
    draw = np.random.default_rng(2)
    numbers = draw.normal(5, 1, (200, 3)).astype(np.float32)
    numbers[draw.random((200, 3)) < 0.3] = NAN
    labels = draw.integers(0, 4, 200)
    mean = np.nanmean(numbers.astype(np.float64), axis=0)
    filled = np.where(np.isnan(numbers), mean, numbers)
    expected = [filled[labels == k].mean(axis=0) - mean for k in range(4)]
    imputing = LDA(inputs=("x",), output="out", not_finite=NotFinite.IMPUTE_MEAN)
    found = gather(imputing, numbers, labels).classes
    assert found is not None
    # Sums of 50 numbers near 5 round to 5 * 2**-53 each.
    np.testing.assert_allclose(found.deviations(mean), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("text", [False, True], ids=["numbers", "strings"])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_the_means_are_those_of_a_loop_over_the_classes(text: bool, offset: float) -> None:
    draw = np.random.default_rng(1)
    numbers = (draw.normal(size=(500, 4)) + offset).astype(np.float32)
    counts = draw.poisson(0.4, (500, 3))
    labels = (
        np.array([b"b", b"a", b"", b"zz"])[draw.integers(0, 4, 500)] if text else draw.integers(-3, 3, 500)
    )
    found = gathered(numbers, labels, counts)
    both = np.concatenate([numbers.astype(np.float64), counts], axis=1)
    assert found.labels.tolist() == sorted(set(labels.tolist()))
    for i, label in enumerate(found.labels):
        assert found.num_rows[i] == (labels == label).sum()
        # Merged means round to 2**-53 of the offset a few times.
        np.testing.assert_allclose(
            found.means[i], both[labels == label].mean(axis=0), rtol=0, atol=1e-14 + 4e-16 * offset
        )


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(-3, 3), st.floats(-100, 100, width=32) | st.just(NAN)), min_size=1),
    st.integers(0, 99),
)
def test_the_means_do_not_depend_on_the_order(rows: list[tuple[int, float]], seed: int) -> None:
    labels, values = np.array([k for k, _ in rows]), np.array([[x] for _, x in rows])
    whole = of(values, labels)
    cut = seed % len(rows)
    order = np.random.default_rng(seed).permutation(len(rows))
    one, other = (of(values[part], labels[part]) for part in (order[:cut], order[cut:]))
    for found in (one.merge(other), other.merge(one)):
        assert found.labels.tolist() == whole.labels.tolist()
        assert found.num_rows.tolist() == whole.num_rows.tolist()
        assert found.num_finite.tolist() == whole.num_finite.tolist()
        np.testing.assert_allclose(found.means, whole.means, rtol=0, atol=1e-13)  # sums of values up to 100


def test_a_label_with_fractions_is_refused() -> None:
    message = (
        "LDA needs a label of classes, whole numbers or strings; got 12 rows in split 'train' where 'label' "
        "has a fraction. Use PLS or Score.F_REGRESSION for a measurement, or bucketise it in "
        "preprocessing_fn."
    )
    labels = [0.5] * 12 + [1.0] * 20 + [2.0] * 8
    with pytest.raises(DataError, match=re.escape(message)):
        fit(REDUCTION, np.arange(40.0)[:, None], labels)


@pytest.mark.parametrize("seed", range(3))
def test_more_classes_than_can_be_are_refused_in_any_order(seed: int) -> None:
    labels = np.arange(MAX_CLASSES + 1)
    message = (
        "LDA needs a label of classes, whole numbers or strings, at most 1000 of them; got more in 'label' "
        "in split 'train', which looks continuous. Use PLS or Score.F_REGRESSION for a measurement, or "
        "bucketise it in preprocessing_fn."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        fit(REDUCTION, labels[:, None], labels, seed=seed)


def test_as_many_classes_as_can_be_are_taken() -> None:
    labels = np.tile(np.arange(MAX_CLASSES), 2)
    found = gathered(np.random.default_rng(0).normal(size=(len(labels), 1)), labels)
    found.check("LDA", LABEL)
    assert found.labels.tolist() == list(range(MAX_CLASSES))


def test_memory_stays_bounded_when_every_label_is_another_one() -> None:
    one, other = of(np.zeros((900, 2)), np.arange(900)), of(np.zeros((900, 2)), np.arange(900, 1800))
    assert one.merge(other).means.shape == (0, 2)
    assert one.merge(other).merge(one).is_continuous
    assert one.merge(one.merge(other)).is_continuous
    assert of(np.zeros((1800, 2)), np.arange(1800)).means.shape == (0, 2)


@pytest.mark.parametrize(("label", "name"), [(3.0, "3"), (b"cash", "'cash'")])
def test_one_class_is_refused_by_name(label: Any, name: str) -> None:
    message = (
        f"LDA needs at least 2 classes in split 'train'; got 1 in 'label': {name}. Check the label, or "
        "the filter that made the split."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        fit(REDUCTION, np.arange(6.0)[:, None], [label] * 6)


@pytest.mark.parametrize("offset", [1e6, 1e6 + 1 / 3, 2.0**20, -3e5])
def test_far_from_zero_differences_between_classes_keep_their_digits(offset: float) -> None:
    draw = np.random.default_rng(5)
    labels = np.repeat([0, 1], 4096)
    numbers = (draw.normal(size=(8192, 1)) + 0.25 * labels[:, None] + offset).astype(np.float32)
    order = draw.permutation(8192)
    found = of(numbers[order], labels[order])
    exact = numbers.astype(np.float64) - np.rint(offset)  # exact; then nothing is large
    expected = exact[labels == 1].mean() - exact[labels == 0].mean()
    # The means themselves round to 2**-53 of the offset, nothing more.
    assert found.means[1, 0] - found.means[0, 0] == pytest.approx(
        expected, rel=0, abs=2 * 2**-53 * abs(offset)
    )
