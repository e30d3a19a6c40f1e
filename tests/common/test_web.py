"""JSON in a script element: whatever is in it, it stays JSON and in the element."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfx_mobile.common import web

HOSTILE = "</script><script>alert(1)</script><!-- & \u2028 \u2029"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda part: st.lists(part) | st.dictionaries(st.text(), part),
)


def test_data_cannot_end_the_script_they_are_in() -> None:
    text = web.for_script({HOSTILE: [HOSTILE]})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {HOSTILE: [HOSTILE]}


@given(JSON)
def test_data_are_what_they_were_and_no_angle_bracket_is_left(value: Any) -> None:
    text = web.for_script(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)


def test_the_same_data_give_the_same_text_in_any_order() -> None:
    assert web.for_script({"a": 1, "b": 2}) == web.for_script({"b": 2, "a": 1})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_json_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        web.for_script(value)


def test_the_style_loads_nothing() -> None:
    assert "url(" not in web.STYLE
    assert "@import" not in web.STYLE


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.12345, "0.1235"), (12345.6, "12,346"), (1e8, "1e+08"), (-5.0, "-5"), (1.7e308, "\u221e")],
)
def test_numbers_have_four_digits_and_what_has_no_bounds_is_infinite(value: float, words: str) -> None:
    assert web.number(value) == words


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("plain", "plain"),
        ("a\nb\t c", "a b c"),
        ("x" * 40, "x" * 40),
        ("a" * 30 + "b" * 30, "a" * 19 + "\u2026" + "b" * 19),
        ("<&>", "&lt;&amp;&gt;"),
        ("caf\xe9 \u4e2d", "caf\xe9 \u4e2d"),
        ("", ""),
    ],
)
def test_a_name_beside_a_chart_is_one_line_and_loses_only_its_middle(name: str, wanted: str) -> None:
    assert web.short(name) == wanted
