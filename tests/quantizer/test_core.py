"""Drawing representative rows and judging outputs: hand cases, laws, a second method."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

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
