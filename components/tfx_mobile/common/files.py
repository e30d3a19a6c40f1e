"""Writing local files so that a reader never sees half of one. Does not know remote file systems."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Writes `content` to `path` through a temporary file beside it, flushed to disk, and `os.replace`.

    Args:
      path: The file to make or replace; its folder is made when missing.
      content: The bytes.
      mode: Permission bits of the new file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
