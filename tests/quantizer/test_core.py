"""Drawing representative rows and judging outputs: hand cases, laws, a second method."""

from typing import Any

import numpy as np
import pytest

from tfx_mobile.quantizer import core


def column(*values: float) -> Any:
    return np.array(values, np.float32)[:, None]


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


@pytest.mark.parametrize(
    ("got", "wanted", "agreement"),
    [
        ([[0.2, 0.8], [0.6, 0.4]], [[0.1, 0.9], [0.4, 0.6]], 0.5),
        ([[0.4], [0.6], [0.9], [0.1]], [[0.6], [0.7], [1.0], [0.0]], 0.75),
        ([[0.4], [1.6]], [[0.5], [1.5]], None),  # no probabilities
        ([[-0.1], [0.6]], [[-0.2], [0.7]], None),
    ],
)
def test_the_same_class_is_the_largest_output_or_a_probability_above_one_half(
    got: Any, wanted: Any, agreement: float | None
) -> None:
    found = core.compare(np.array(got), np.array(wanted), exact=False)
    assert (found.failure, found.top1_agreement) == ("", agreement)
