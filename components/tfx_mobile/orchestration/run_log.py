"""Sends everything a process writes to one file: log records, prints, what C++ writes to stdout and stderr.

File descriptors 1 and 2 are pointed at the file and back again, so libraries that write there directly (and
child processes) are caught too. Does not know what is being run.
"""

import contextlib
import ctypes
import datetime
import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from absl import logging as absl_logging

from tfx_mobile.common.errors import ConfigError


@contextlib.contextmanager
def everything_to(log_file: Path, stream: TextIO | None = None) -> Iterator[TextIO]:
    """Sends all output to the end of `log_file` until the block ends, however it ends.

    Args:
      log_file: Appended to, so that the log of a failed run outlives the next one; its folder is made.
      stream: What must stay visible; standard output when not given.

    Yields:
      A stream that still writes where `stream` did.

    Raises:
      ConfigError: The file cannot be written; nothing was redirected.
    """
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        log_descriptor = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise ConfigError(
            f"The log file must be writable; got {log_file}: {reason(error)}. Choose another place."
        ) from error
    os.write(log_descriptor, f"==== {datetime.datetime.now().isoformat(timespec='seconds')}\n".encode())
    _flush()
    kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    visible, is_copy = _still_visible(stream or sys.stdout, kept)
    python_streams = sys.stdout, sys.stderr
    try:
        for descriptor in kept:
            os.dup2(log_descriptor, descriptor)
        sys.stdout, sys.stderr = (_writer(s, d) for s, d in zip(python_streams, (1, 2), strict=True))
        with _records_to_stderr(python_streams):
            yield visible
    finally:
        _flush()
        if is_copy:
            visible.close()
        sys.stdout, sys.stderr = python_streams
        for descriptor, copy in kept.items():
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(log_descriptor)


def reason(error: OSError) -> str:
    """Returns why a path cannot be used, and names the parent that is a file if that is why."""
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return f"{error.filename} is not a folder"
    return str(error.strerror)


@contextlib.contextmanager
def _records_to_stderr(console: tuple[TextIO, TextIO]) -> Iterator[None]:
    """Sends log records of level INFO and higher to standard error, once each."""
    root = logging.getLogger()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(name)s: %(message)s"))
    silenced = [
        (logger, old)
        for logger in [root, *list(root.manager.loggerDict.values())]  # a copy: threads make more
        if logger is root or (isinstance(logger, logging.Logger) and logger.propagate)
        for old in logger.handlers
        if getattr(getattr(old, "python_handler", old), "stream", None) in console
    ]
    # absl keeps a level of its own, WARNING unless the program asked for more, and falls back to its flag's
    # value whenever flags are parsed, as Beam executors do: the flag must be set, not only the logger.
    level, verbosity = root.level, absl_logging.get_verbosity()
    try:
        for logger, old in silenced:
            logger.removeHandler(old)
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        absl_logging.set_verbosity(absl_logging.INFO)
        yield
    finally:
        root.setLevel(level)
        absl_logging.set_verbosity(verbosity)
        root.removeHandler(handler)
        for logger, old in silenced:
            logger.addHandler(old)


def _still_visible(stream: TextIO, kept: dict[int, int]) -> tuple[TextIO, bool]:
    """Returns a stream that the redirection does not touch, and whether it is a copy to be closed."""
    descriptor = _descriptor(stream)
    if descriptor not in kept:
        return stream, False
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return os.fdopen(os.dup(kept[descriptor]), "w", encoding=encoding, errors="replace", buffering=1), True


def _writer(stream: TextIO, descriptor: int) -> TextIO:
    """Returns a stream on the descriptor: itself, or (in a notebook or a test) one that stays open.

    It writes line by line from now on, so that the log of a killed process has what was printed until then.
    """
    if isinstance(stream, io.TextIOWrapper) and _descriptor(stream) == descriptor:
        stream.reconfigure(line_buffering=True)
        return stream
    return open(descriptor, "w", buffering=1, closefd=False, errors="backslashreplace")


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError):
        return None


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
    ctypes.CDLL(None).fflush(None)  # C's own buffers
