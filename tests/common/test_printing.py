"""What the command line prints."""

import pytest

from tfx_mobile.common import printing


def test_nested_values_are_dotted_keys_sorted_and_items_of_lists_have_numbers() -> None:
    said = {"b": {"y": 1, "x": []}, "a": [{"k": 1, "j": "two"}, {"k": 2}], "c": [1, 2], "d": {}}
    assert printing.flat(said) == [
        ("a.1", "j two, k 1"),
        ("a.2", "k 2"),
        ("b.x", "[]"),
        ("b.y", "1"),
        ("c", "[1, 2]"),
        ("d", "{}"),
    ]


def test_columns_are_as_wide_as_their_widest_cell(capsys: pytest.CaptureFixture[str]) -> None:
    printing.print_table([["A", "LONG", "C"], ["wide", "x", ""]])
    assert capsys.readouterr().out == "A     LONG  C\nwide  x\n"
