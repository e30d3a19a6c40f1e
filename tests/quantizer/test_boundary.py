"""Rows at the edges: a hand case, bounds, and what must not happen to dtypes and missing values."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfx_mobile.common.errors import DataError
from tfx_mobile.quantizer.boundary import boundary_rows

LOWEST = np.iinfo(np.int64).min


def texts(*values: bytes) -> Any:
    return np.array(values, dtype=object)


def test_rows_by_hand() -> None:
    rows = {
        "miles": np.array([2, 9, 1, 5], np.float32),
        "hour": np.array([7, 0, 23, 9]),
        "company": texts(b"Flash", b"Sun", b"Blue", b""),
    }
    found = boundary_rows(rows, {"miles": np.nan, "company": b""})
    # Row 1 has the largest miles and the smallest hour, row 2 the other two.
    np.testing.assert_array_equal(found["miles"], np.array([9, 1, 1, 9, np.nan, 2, 2, 2], np.float32))
    assert found["hour"].tolist() == [0, 23, 0, 23, 7, 7, 7, 7]
    long = found["company"][7]
    assert found["company"].tolist() == [
        b"Sun",
        b"Blue",
        b"Flash",
        b"Flash",
        b"",
        b"a value that is in no vocabulary",
        b"",
        long,
    ]
    assert len(long) == 3840
    assert {len(character.encode()) for character in long.decode()} == {1, 2, 3, 4}


def test_dtypes_and_shapes_are_those_of_the_rows() -> None:
    rows = {
        "pixels": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "pair": np.array([[1, 5], [4, 2]], np.int32),
        "flag": np.array([True, False]),
        "words": np.array([[b"a", b"b"], [b"c", b"d"]], dtype=object),
    }
    found = boundary_rows(rows, {"pair": -1})
    assert {name: (v.dtype, v.shape[1:]) for name, v in found.items()} == {
        name: (v.dtype, v.shape[1:]) for name, v in rows.items()
    }
    assert len({len(values) for values in found.values()}) == 1
    assert [4, 2] in found["pair"].tolist()
    assert [1, 2] in found["pair"].tolist()  # each position has a smallest value of its own
    assert [4, 5] in found["pair"].tolist()
    assert [-1, -1] in found["pair"].tolist()


def test_what_is_missing_or_not_finite_is_no_smallest_or_largest_value() -> None:
    rows = {
        "x": np.array([np.nan, 3.0, np.inf, -2.0, -np.inf], np.float32),
        "n": np.array([LOWEST, 5, 6, LOWEST, 6]),
        "never": np.full(5, np.nan, np.float32),
    }
    found = boundary_rows(rows, {"n": LOWEST})
    # Rows 1 (x largest, n smallest), 2 (n largest), 3 (x smallest); then all smallest, all largest, missing.
    np.testing.assert_array_equal(found["x"], np.array([3, np.inf, -2, -2, 3, np.nan], np.float32))
    assert found["n"].tolist() == [5, 6, LOWEST, 5, 6, LOWEST]
    assert np.isnan(found["never"]).all()


def test_a_feature_without_finite_values_asks_for_no_row() -> None:
    rows = {"x": np.array([2.0, 1.0, 3.0]), "wild": np.array([np.inf, -np.inf, -np.inf])}
    # Rows 1 and 2, and row 0 with x at its smallest and at its largest value.
    found = boundary_rows(rows, {})
    assert found["x"].tolist() == [1, 3, 1, 3]
    assert found["wild"].tolist() == [-np.inf, -np.inf, np.inf, np.inf]


def test_a_missing_value_is_made_for_the_named_features_alone() -> None:
    rows = {"x": np.array([1.0, 2.0]), "s": texts(b"a", b"a")}
    found = boundary_rows(rows, {"x": np.nan})
    assert found["s"][np.isnan(found["x"])].tolist() == [b"a"]


def test_an_unseen_text_is_in_none_of_the_rows() -> None:
    taken = b"a value that is in no vocabulary"
    found = boundary_rows({"s": texts(taken, taken + b"'")}, {})
    assert found["s"][0] == taken + b"''"


def test_equal_rows_come_once_also_if_they_hold_nan() -> None:
    rows = {"x": np.full(3, np.nan, np.float32), "y": np.full(3, 2.0)}
    found = boundary_rows(rows, {"x": np.nan})
    assert found["y"].tolist() == [2.0]
    assert len(boundary_rows({"s": texts(b"", b"")}, {"s": b""})["s"]) == 3


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 1000))
def test_every_smallest_and_largest_value_is_in_a_drawn_row_while_there_are_few(
    num_rows: int, num_features: int, seed: int
) -> None:
    values = np.random.default_rng(seed).integers(0, 9, (num_rows, num_features))
    rows = {f"f{i}": values[:, i] for i in range(num_features)}
    found = np.stack(list(boundary_rows(rows, {}).values()), axis=1)
    drawn = [row for row in found.tolist() if row in values.tolist()]
    assert np.min(drawn, axis=0).tolist() == values.min(axis=0).tolist()
    assert np.max(drawn, axis=0).tolist() == values.max(axis=0).tolist()
    assert values.min(axis=0).tolist() in found.tolist()
    assert values.max(axis=0).tolist() in found.tolist()
    assert len(np.unique(found, axis=0)) == len(found)


def test_hundreds_of_features_give_thirty_rows() -> None:
    draw = np.random.default_rng(1)
    rows: dict[str, Any] = {f"x{i}": draw.normal(size=500) for i in range(300)}
    rows |= {f"s{i}": texts(*[b"%d" % n for n in draw.integers(0, 99, 500)]) for i in range(50)}
    found = boundary_rows(rows, {name: np.nan if name[0] == "x" else b"?" for name in rows})
    assert {len(values) for values in found.values()} == {30}
    assert all(found[name][24] == rows[name].min() for name in rows if name[0] == "x")
    assert all(found[name][25] == rows[name].max() for name in rows if name[0] == "x")
    again = boundary_rows(rows, {name: np.nan if name[0] == "x" else b"?" for name in rows})
    assert all(found[name].tobytes() == again[name].tobytes() for name in rows if name[0] == "x")


def test_one_row_is_enough() -> None:
    assert boundary_rows({"x": np.array([4.0])}, {})["x"].tolist() == [4.0]


@pytest.mark.parametrize("rows", [{}, {"x": np.zeros(0)}])
def test_no_rows_are_refused(rows: Any) -> None:
    with pytest.raises(
        DataError, match=re.escape("Boundary rows are made from drawn rows; got none. Draw at least one.")
    ):
        boundary_rows(rows, {})


def test_a_missing_value_of_another_feature_is_refused() -> None:
    message = (
        "A value that stands for a missing one must be of a feature that the rows have; 'z' is not among "
        "x, y."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        boundary_rows({"y": np.zeros(1), "x": np.zeros(1)}, {"x": 0, "z": 0})
