"""Drawing representative rows and judging outputs: hand cases, laws, a second method."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tfx_mobile.common.errors import DataError
from tfx_mobile.quantizer import core


def column(*values: float) -> Any:
    return np.array(values, np.float32)[:, None]


def batches(total: int, size: int) -> Iterator[dict[str, Any]]:
    for begin in range(0, total, size):
        rows = np.arange(begin, min(begin + size, total))
        yield {"x": rows, "name": np.array([b"%d" % row for row in rows], dtype=object)}


# ------------------------------------------------------------------------------------------------- compare


def test_differences_are_in_label_units() -> None:
    found = core.compare(column(1.0, 2.5, 3.0), column(1.0, 2.0, 4.0), exact=False)
    assert (found.max_abs, found.mean_abs, found.failure) == (1.0, 0.5, "")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_predictions_that_are_not_finite_do_not_count(bad: float) -> None:
    found = core.compare(column(1.0, bad, bad), column(1.0, 2.0, 3.0), exact=False)
    assert found == core.Difference(0.0, 0.0, "returns NaN or infinity for 2 predictions")


@pytest.mark.parametrize("exact", [True, False])
def test_a_model_that_is_not_finite_itself_lets_no_candidate_count(exact: bool) -> None:
    found = core.compare(column(1.0, 2.0), column(1.0, np.nan), exact=exact)
    assert found == core.Difference(
        0.0, 0.0, "cannot be compared: the Keras model returns NaN or infinity for 1 predictions"
    )


def test_a_constant_does_not_count_where_predictions_differ() -> None:
    found = core.compare(column(2.0, 2.0), column(2.0, 3.0), exact=False)
    assert found.failure == "returns the constant 2 for rows whose predictions differ"


def test_a_constant_counts_where_the_model_is_constant_too() -> None:
    assert core.compare(column(2.0, 2.0), column(2.0, 2.0), exact=True).failure == ""


def test_another_shape_does_not_count() -> None:
    found = core.compare(np.ones((3, 2), np.float32), column(1.0, 2.0, 3.0), exact=False)
    assert found.failure == "returns the shape (3, 2) where the Keras model returns (3, 1)"


@pytest.mark.parametrize(("gap", "counts"), [(0.9e-4, True), (1.1e-4, False)])
@pytest.mark.parametrize("scale", [1.0, 512.0])
def test_float32_must_agree_to_a_ten_thousandth_of_the_largest_prediction(
    gap: float, counts: bool, scale: float
) -> None:
    wanted = column(-1.0, 0.25) * np.float32(scale)
    found = core.compare(wanted + np.float32(gap * scale), wanted, exact=True)
    assert (found.failure == "") == counts
    assert core.compare(wanted + np.float32(gap * scale), wanted, exact=False).failure == ""


# ------------------------------------------------------------------------------------------ boundary rows


def test_boundary_rows_are_reported_apart() -> None:
    found = core.compare(column(1.0, 2.5, 3.0, 40.0), column(1.0, 2.0, 4.0, 50.0), exact=False, num_sampled=3)
    assert found == core.Difference(1.0, 0.5, "", None, 10.0)


@given(st.lists(st.floats(-1e6, 1e6, width=32), max_size=5))
def test_boundary_rows_change_nothing_about_the_sampled_ones(extra: list[float]) -> None:
    got, wanted = column(1.0, 2.5, 3.0, *extra), column(1.0, 2.0, 4.0, *np.zeros(len(extra)))
    found = core.compare(got, wanted, exact=False, num_sampled=3)
    assert (found.max_abs, found.mean_abs, found.failure) == (1.0, 0.5, "")
    assert found.max_abs_boundary == (max(map(abs, extra)) if extra else None)


def test_a_float32_file_must_agree_on_boundary_rows_too() -> None:
    got, wanted = column(1.0, 2.0, 1000.0), column(1.0, 2.0, 1001.0)
    found = core.compare(got, wanted, exact=True, num_sampled=2)
    assert found.failure == (
        "differs from the Keras model by up to 1 on boundary rows, more than float32 rounding"
    )
    assert (found.max_abs, found.max_abs_boundary) == (0.0, 1.0)
    assert core.compare(got, wanted, exact=False, num_sampled=2).failure == ""
    assert core.compare(column(1.0, 2.0, 1000.95), wanted, exact=True, num_sampled=2).failure == ""


def test_large_boundary_rows_do_not_excuse_sampled_ones() -> None:
    found = core.compare(column(1.0, 2.5, 1e6), column(1.0, 2.0, 1e6), exact=True, num_sampled=2)
    assert found.failure == "differs from the Keras model by up to 0.5, more than float32 rounding"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_boundary_row_must_be_finite_where_the_keras_model_is(bad: float) -> None:
    wanted = column(1.0, 2.0, bad, 5.0)
    fine = core.compare(column(1.0, 2.0, bad, 5.0), wanted, exact=True, num_sampled=2)
    assert (fine.failure, fine.max_abs_boundary) == ("", 0.0)
    found = core.compare(column(1.0, 2.0, 4.0, bad), wanted, exact=False, num_sampled=2)
    assert found.failure == "returns NaN or infinity for 1 predictions of boundary rows"
    assert core.judged(wanted, 2).tolist() == [True, True, False, True]
    assert core.judged(wanted, 3).all()


@pytest.mark.parametrize("num_sampled", [0, 4])
def test_a_comparison_needs_a_sampled_row(num_sampled: int) -> None:
    message = f"A candidate must be compared on at least one sampled row; got {num_sampled}."
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        core.compare(column(1.0, 2.0, 3.0), column(1.0, 2.0, 3.0), exact=False, num_sampled=num_sampled)


# ------------------------------------------------------------------------------------ classes and kernels


def test_top_1_agreement_is_the_share_of_sampled_rows_with_the_same_class() -> None:
    wanted = np.array([[0, 1, 2], [9, 2, 1], [6, 4, 5], [5, 1, 0], [0, 3, 1]], np.float32)  # 2, 0, 0, 0, 1
    got = np.array([[1, 0, 4], [8, 1, 2], [4, 1, 5], [3, 0, 2], [4, 0, 3]], np.float32)  # 2, 0, 2, 0, 0
    assert core.compare(got, wanted, exact=False, num_sampled=4).top1_agreement == 0.75
    assert core.compare(got, wanted, exact=False).top1_agreement == 0.6


def test_one_output_has_classes_only_when_asked_for() -> None:
    got, wanted = column(0.2, 0.6, 0.9), column(0.1, 0.4, 0.8)
    assert core.compare(got, wanted, exact=False).top1_agreement is None
    assert core.compare(got, wanted, exact=False, classes=True).top1_agreement == pytest.approx(2 / 3)


def test_the_same_classes_for_every_row_are_a_constant() -> None:
    wanted = np.array([[0.1, 0.9], [0.8, 0.2]], np.float32)
    found = core.compare(np.full((2, 2), [0.25, 0.75], np.float32), wanted, exact=False)
    assert found.failure == "returns the constant 0.25, 0.75 for rows whose predictions differ"
    one_is_constant = np.array([[0.0, 0.9], [0.0, 0.2]], np.float32)
    assert core.compare(one_is_constant, wanted, exact=False).failure == ""


KERNELS = ("these kernels", "those")


def test_kernels_that_return_a_constant_differ_from_kernels_that_do_not() -> None:
    wanted = column(0.0, 1.0, 2.0, 3.0)  # mean absolute deviation 1
    good, constant = wanted + np.float32(0.02), column(1.5, 1.5, 1.5, 1.5)
    message = (
        "computes something else with these kernels than with those: 1 apart on average, more than "
        "quantisation excuses"
    )
    assert core.compare_kernels(constant, good, wanted, KERNELS) == message
    assert core.compare_kernels(good, constant, wanted, KERNELS) == message
    assert core.compare_kernels(good, wanted - np.float32(0.1), wanted, KERNELS) == ""
    assert core.compare_kernels(good, wanted - np.float32(0.13), wanted, KERNELS).startswith(
        "computes something else"
    )


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-1, 1), st.booleans()), min_size=1, max_size=20))
def test_kernels_that_are_equally_far_from_keras_are_never_told_apart(
    rows: list[tuple[float, float, bool]],
) -> None:
    wanted = column(*(value for value, _, _ in rows))
    one = wanted + column(*(error for _, error, _ in rows))
    other = wanted + column(*(error if same else -error for _, error, same in rows))
    assert core.compare_kernels(one, other, wanted, KERNELS) == ""


# --------------------------------------------------------------------------------------------------- draws


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 80), st.integers(0, 5))
def test_a_sample_has_no_row_twice_and_keeps_rows_together(
    total: int, size: int, wanted: int, seed: int
) -> None:
    found = core.draw_rows(batches(total, size), wanted, seed)
    assert len(found["x"]) == min(total, wanted)
    assert len(set(found["x"].tolist())) == len(found["x"])
    assert found["name"].tolist() == [b"%d" % row for row in found["x"]]


@given(st.integers(1, 20), st.integers(1, 20))
def test_a_sample_does_not_depend_on_the_batches(one: int, other: int) -> None:
    found = [core.draw_rows(batches(50, size), 9, seed=4)["x"].tolist() for size in (one, other)]
    assert found[0] == found[1]


def test_a_sample_is_uniform() -> None:
    # 4,000 seeds draw 10 of 40 rows in batches of 7: each row is expected 1,000 times. Draws
    # of one seed exclude each other, which makes the statistic smaller than chi-squared by 30 / 39.
    counts = np.zeros(40)
    for seed in range(4000):
        counts[core.draw_rows(batches(40, 7), 10, seed)["x"]] += 1
    statistic = float(((counts - 1000) ** 2 / 1000).sum()) * 39 / 30
    assert stats.chi2.ppf(1e-4, 39) < statistic < stats.chi2.ppf(1 - 1e-4, 39)


def test_every_pair_of_rows_is_drawn_equally_often() -> None:
    pairs = np.zeros((6, 6))
    for seed in range(3000):
        chosen = core.draw_rows(batches(6, 2), 2, seed)["x"]
        pairs[chosen[0], chosen[1]] += 1
    seen = pairs[np.triu_indices(6, 1)]  # sorted, so above the diagonal; 3,000 / 15 = 200 of each
    assert seen.sum() == 3000
    assert ((seen - 200) ** 2 / 200).sum() < stats.chi2.ppf(1 - 1e-4, 14)


def test_no_rows_give_an_empty_sample() -> None:
    assert core.draw_rows(iter(()), 5, 1) == {}


# -------------------------------------------------------------------------------------------- fingerprints


def test_equal_rows_have_equal_fingerprints_in_any_order_of_columns() -> None:
    x, name = np.arange(3.0), np.array([b"a", b"", b"c"], dtype=object)
    assert core.fingerprint({"x": x, "name": name}) == core.fingerprint({"name": name.copy(), "x": x.copy()})


@pytest.mark.parametrize(
    "other",
    [
        {"x": np.array([1.0, 3.0])},
        {"x": np.array([1.0, 2.0], np.float32)},
        {"x": np.array([[1.0, 2.0]])},
        {"y": np.array([1.0, 2.0])},
        {"x": np.array([1.0, 2.0]), "y": np.array([1.0])},
    ],
)
def test_other_values_types_shapes_and_names_have_other_fingerprints(other: Any) -> None:
    assert core.fingerprint({"x": np.array([1.0, 2.0])}) != core.fingerprint(other)


def test_strings_that_join_to_the_same_bytes_have_other_fingerprints() -> None:
    one = {"x": np.array([b"a\0", b""], dtype=object)}
    other = {"x": np.array([b"a", b"\0"], dtype=object)}
    assert core.fingerprint(one) != core.fingerprint(other)
