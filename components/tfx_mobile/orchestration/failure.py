"""Finds the one line a user needs in an exception that came through Beam and TFX. Knows neither of them."""

import re
from collections.abc import Iterator

from tfx_mobile.common.errors import TfxMobileError

_BEAM_STEP = " [while running '"
_MODULE_PATH = re.compile(r"^(?:\w+\.)+(?=\w+: )")


def message(error: BaseException) -> str:
    """Returns what went wrong, without a stack trace.

    A TfxMobileError among the exception and its causes speaks for all, also where Beam has turned it into
    text (a RuntimeError that holds a traceback) or has added the name of its step. Of any other exception:
    its type and the last line of its message.
    """
    if found := own_message(error):
        return found
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if any(line.startswith("Traceback (most recent call last)") for line in lines):
        return _MODULE_PATH.sub("", lines[-1])  # a traceback's last line names the type already
    return f"{type(error).__name__}: {lines[-1]}"


def own_message(error: BaseException) -> str:
    """Returns the message of the TfxMobileError among the exception and its causes; empty without one."""
    for each in chain(error):
        found = _without_step(str(each)) if isinstance(each, TfxMobileError) else _in_text(str(each))
        if found:
            return found
    return ""


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields the exception, then what caused it, one by one."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _in_text(text: str) -> str:
    names = "|".join(re.escape(f"{kind.__module__}.{kind.__qualname__}") for kind in _kinds(TfxMobileError))
    pattern = rf"^(?:[\w.]+: )*(?:{names}): (.+?)(?=\n\n|\nTraceback |\Z)"
    found = re.findall(pattern, text, re.MULTILINE | re.DOTALL)
    return _without_step(found[-1]) if found else ""


def _kinds(kind: type[TfxMobileError]) -> Iterator[type[TfxMobileError]]:
    yield kind
    for subclass in kind.__subclasses__():
        yield from _kinds(subclass)


def _without_step(text: str) -> str:
    return text.split(_BEAM_STEP)[0].strip()
