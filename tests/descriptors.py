"""The open files of this process, for tests that something leaves none behind."""

import contextlib
import os


def descriptors() -> set[tuple[str, str]]:
    """Returns the number of each, and what it is.

    Those of before may be gone afterwards: of earlier tests, when the garbage collector comes by. Left behind
    is what is there only afterwards.
    """
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed since, as the one that lists is
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
    return found
