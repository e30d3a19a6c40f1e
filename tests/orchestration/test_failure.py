"""The one line a user needs, out of exceptions as Beam and TFX hand them on; no TFX here."""

import traceback

import pytest

from tfx_mobile.common.errors import ConfigError, DataError, TfxMobileError
from tfx_mobile.orchestration import failure

RULE = "Feature 'fare' must be finite; got 3 NaN."


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def in_text(error: BaseException) -> str:
    """Beam's in-process workers send an exception as its traceback's text."""
    return "".join(traceback.format_exception(error))


def test_an_error_of_ours_speaks_for_itself() -> None:
    assert failure.message(DataError(RULE)) == RULE


def test_an_error_of_ours_is_found_among_the_causes() -> None:
    error = raised(RuntimeError("outside"), raised(KeyError("between"), DataError(RULE)))
    assert failure.message(error) == RULE


def test_an_error_of_ours_is_found_in_the_context() -> None:
    error = ValueError("while cleaning up")
    error.__context__ = DataError(RULE)  # as `raise` in an except block sets it
    assert failure.message(error) == RULE


def test_a_context_that_was_suppressed_stays_out() -> None:
    error = raised(ValueError("no such column"))  # `from None`
    error.__context__ = DataError(RULE)
    assert error.__suppress_context__
    assert failure.message(error) == "ValueError: no such column"


def test_a_translation_speaks_for_what_it_translates() -> None:
    assert failure.message(raised(ConfigError("The module is missing."), DataError(RULE))) == (
        "The module is missing."
    )


def test_the_step_that_beam_appends_is_taken_off() -> None:
    assert failure.message(DataError(f"{RULE} [while running 'Fit/ParDo(Clean[x])-ptransform-9']")) == RULE


@pytest.mark.parametrize("error", [DataError(RULE), ConfigError(RULE), TfxMobileError(RULE)])
def test_an_error_of_ours_is_found_in_a_traceback_as_text(error: TfxMobileError) -> None:
    tagged = type(error)(f"{error} [while running 'Clean']")
    assert failure.message(RuntimeError(in_text(raised(tagged, raised(error))))) == RULE


def test_an_error_that_beam_could_not_rebuild_is_found_in_text() -> None:
    text = f"tfx_mobile.common.errors.DataError: {RULE} [while running 'Clean']"
    assert failure.message(RuntimeError(text)) == RULE
    assert failure.message(RuntimeError(in_text(RuntimeError(text)))) == RULE


def test_a_message_of_two_lines_is_kept_whole_in_text() -> None:
    error = raised(DataError("First line.\nSecond line."))
    outer = raised(RuntimeError("outside"), error)
    assert failure.message(RuntimeError(in_text(outer))) == "First line.\nSecond line."


def test_a_subclass_made_elsewhere_is_found_in_text() -> None:
    class OddRowError(DataError):
        pass

    assert failure.message(RuntimeError(in_text(raised(OddRowError(RULE))))) == RULE


def test_any_other_error_gives_its_type_and_last_line() -> None:
    assert failure.message(KeyError("fare")) == "KeyError: 'fare'"
    assert failure.message(ValueError("first\nlast\n\n")) == "ValueError: last"
    assert failure.message(SystemExit(3)) == "SystemExit: 3"
    assert failure.message(MemoryError()) == "MemoryError"


def test_any_other_error_in_text_gives_the_last_line_of_the_text() -> None:
    class TooLongError(Exception):
        pass

    TooLongError.__module__, TooLongError.__qualname__ = "some.long.module", "TooLongError"
    assert failure.message(RuntimeError(in_text(raised(TooLongError("got 9"))))) == "TooLongError: got 9"


def test_an_exception_that_causes_itself_ends() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert failure.message(first) == "ValueError: first"
