"""The open files of this process, for tests that something leaves none behind and closes none of others."""

import contextlib
import gc
import os
from collections.abc import Iterator


@contextlib.contextmanager
def unchanged_descriptors() -> Iterator[None]:
    """Checks that what is open stays open, and that nothing else is.

    Garbage is collected before, and not meanwhile: what earlier tests left would be closed at any time. Their
    sockets may be closed by their own threads.
    """
    gc.collect()
    gc.disable()
    try:
        before = _descriptors()
        yield
        after = _descriptors()
    finally:
        gc.enable()
    assert after - before == set()
    assert {(number, name) for number, name in before - after if not name.startswith("socket:")} == set()


def _descriptors() -> set[tuple[str, str]]:
    """Returns the number of each, and what it is."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that lists
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
    return found
