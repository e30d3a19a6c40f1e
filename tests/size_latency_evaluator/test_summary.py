"""The Markdown summary: what it says, and that whatever names are in it stay text."""

import dataclasses
import doctest
import math
import re

from hypothesis import given
from hypothesis import strategies as st
from tests.size_latency_evaluator import samples

from tfx_mobile.size_latency_evaluator import summary
from tfx_mobile.size_latency_evaluator.config import Override
from tfx_mobile.size_latency_evaluator.evaluation import Evaluation, ReportedMetric, SliceResult

FULL = samples.full()
SIGNS = st.text("ab |\\`*_<>[]()#@&~!\n$-=:/.", max_size=20)


def section(evaluation: Evaluation, title: str) -> list[list[str]]:
    """Returns a table as rows of cells, the head first."""
    text = summary.render(evaluation)
    body = text.split(f"### {title}\n\n")[1].split("\n\n")[0] if title else text.split("\n\n")[2]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in body.splitlines()]


def test_the_verdict_is_the_first_line_and_its_reason_the_second() -> None:
    lines = summary.render(FULL).splitlines()

    assert lines[0] == "## \u2705 Blessed: `s75-dynamic_range`"
    assert lines[2].startswith(r"'s75-dynamic\_range' is the smallest of 3 candidates")


def test_the_gates_of_the_chosen_file_have_margins() -> None:
    rows = section(FULL, "")
    ratio = 23_200 / 224_800

    assert rows[0] == ["gate", "", "got", "95 % bound", "limit", "margin"]
    assert rows[3] == [
        "`gz size ratio <= 0.25 vs reference`",
        "\u2713 pass",
        f"{ratio:.4g}",
        "-",
        "0.25",
        f"{0.25 - ratio:+.4g}",
    ]
    assert rows[5][0].endswith("where company = 'Z\u00fcrich T\u00f6ff & S\u00f6hne'` (worst of 12 slices)")


def test_at_most_ten_candidates_are_shown_and_the_rest_counted() -> None:
    rows = section(FULL, "Candidates")

    assert len(rows) == 2 + 10
    assert rows[2][0] == "`s75-dynamic_range` **chosen**"
    assert rows[2][3:5] == ["73,600", "23,200"]
    assert "7 more are on the page." in summary.render(FULL)


def test_slices_that_got_worse_are_named_the_worst_first() -> None:
    rows = section(FULL, "Slices worse than the reference")

    assert rows[2][:3] == ["`company = 'Z\u00fcrich T\u00f6ff & S\u00f6hne'`", "`rmse`", "717"]
    assert len(rows) == 2 + 10


def test_slices_that_got_better_are_not_named() -> None:
    # the chosen file is better than what phones run on every slice
    assert "Slices worse than the baseline" not in summary.render(FULL)


def test_a_slice_with_a_larger_accuracy_is_not_worse() -> None:
    up = dataclasses.replace(FULL, metrics=(ReportedMetric("rmse", True),))

    text = summary.render(up)

    assert "Slices worse than the reference" not in text
    assert "Slices worse than the baseline (phones today)" in text


def test_sizes_stand_beside_those_of_the_reference_and_of_phones() -> None:
    rows = section(FULL, "Before and after")

    assert [row[:3] for row in rows[2:]] == [
        ["chosen: `s75-dynamic_range`", "73,600", "23,200"],
        ["reference: `s0-float32`", "253,600", "224,800"],
        ["phones today: `baseline`", "73,600", "35,200"],
    ]


def test_what_failed_is_said_when_nothing_is_blessed() -> None:
    refused = dataclasses.replace(FULL, blessed=False, chosen="s90-int8", reason="It is too bad.")

    text = summary.render(refused)

    assert text.startswith("## \u274c Not blessed: `s90-int8` is the best\n\nIt is too bad.")
    assert "| `rmse increase <= 5% vs reference` | \u2717 **fail** |" in text


def test_nothing_that_runs_is_a_summary_too() -> None:
    text = summary.render(samples.nothing_runs())

    assert text.startswith("## \u274c Not blessed: nothing can be run")
    assert "Before and after" not in text


def test_an_override_is_named() -> None:
    override = Override("Ada", "The shop *opens*.", "2026-01-31")

    text = summary.render(dataclasses.replace(FULL, override=override, overridden=True))

    assert "Blessed by override" in text
    assert "**Override** by Ada on 2026-01-31: The shop \\*opens\\*." in text


def test_what_is_not_finite_is_shown_as_missing() -> None:
    chosen = FULL.candidate(FULL.chosen)
    bad = dataclasses.replace(
        chosen, metrics={"rmse": math.nan}, slices=(SliceResult("a", 1, {"rmse": math.inf}),)
    )
    text = summary.render(dataclasses.replace(FULL, candidates=(FULL.candidates[0], bad)))

    assert not re.search(r"\b(nan|inf)\b", text)


def test_every_row_of_a_table_has_as_many_cells_whatever_the_names_are() -> None:
    text = summary.render(samples.hostile())

    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        widths = {len(re.split(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(widths) == 1, table
    outside = re.sub(r"(`+).*?\1", "", text)
    assert "<" not in outside
    assert "@all" not in outside


@given(SIGNS)
def test_a_code_span_ends_only_at_its_end(value: str) -> None:
    found = summary.code(value)

    fence = re.match("`+", found)
    assert fence is not None
    inner = found[len(fence[0]) : -len(fence[0])]
    assert fence[0] not in re.findall("`+", inner)
    assert found.endswith(fence[0])
    assert "\n" not in found
    assert not re.search(r"(?<!\\)\|", found)


@given(SIGNS)
def test_a_sentence_has_no_sign_that_markdown_reads(value: str) -> None:
    found = summary.text(value)

    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]|]", found)
    assert "<" not in found
    assert "@a" not in found
    assert "\n" not in found


def test_the_examples_in_the_docstrings_are_right() -> None:
    assert doctest.testmod(summary).failed == 0
