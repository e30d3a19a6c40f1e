"""One run of a pipeline at a time in one folder: two would do the same work twice and overwrite its traces.

The lock is the operating system's, so it ends with its process, however that ends. Does not reach beyond the
folder: runs with other folders, or on machines that do not share it, do not see each other.
"""

import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from tfx_mobile.common.errors import ConfigError

_LOGGER = logging.getLogger(__name__)


@contextlib.contextmanager
def only_run(pipeline_name: str, folder: Path) -> Iterator[None]:
    """Keeps other processes from running the pipeline with the folder, until the block or the process ends.

    A lock of POSIX (fcntl), which child processes do not inherit: what a killed run left behind does not
    keep the next one out. A file system without locks is used without one, with a warning in the log.

    Args:
      pipeline_name: What must run once.
      folder: Where its artifacts go; made when missing.

    Raises:
      ConfigError: Another process runs it, or the folder cannot be written.
    """
    file = folder / f".{pipeline_name}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ConfigError(
            f"The folder of the artifacts must be writable; got {folder}: {error.strerror}. Choose another."
        ) from error
    try:
        _lock(descriptor, pipeline_name, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, pipeline_name: str, folder: Path) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
        raise ConfigError(
            f"Pipeline {pipeline_name!r} must run once at a time in {folder}; {holder} runs it there now. "
            "Wait for it, or stop it; then run again."
        ) from None
    except OSError as error:
        _LOGGER.warning("No lock in %s (%s): do not run the pipeline twice at once.", folder, error.strerror)
        return
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
