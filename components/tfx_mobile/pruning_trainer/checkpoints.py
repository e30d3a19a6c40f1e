"""Where the progress of a training lives, so that a run which died goes on where it stopped.

One folder for each key (settings, data and code of the training), outside the folders that TFX makes for each
execution and removes when it fails. A checkpoint is one file of arrays and JSON, replaced as a whole, with a
checksum: a process that is killed while it writes leaves the one before. Local folders, and anything
`tf.io.gfile` can reach. Does not know what the arrays mean.
"""

import contextlib
import fcntl
import hashlib
import importlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfx_mobile.common import files
from tfx_mobile.common.errors import ConfigError, DataError

_FOLDER = ".checkpoints"
_SUFFIX = ".checkpoint"
_REMOVED = ".removed"
_LOCK = ".lock"
_NAME = re.compile(r"[\w-][\w.-]*")
_KEY = re.compile(r"[0-9a-f]{32}")
_MAGIC = b"tfx-mobile checkpoint 1\n"
_LENGTH_BYTES = 8
_DIGEST_BYTES = hashlib.sha256().digest_size
_STALE_SECONDS = 30 * 86_400.0
_LOGGER = logging.getLogger(__name__)

Arrays = Sequence[Any] | Mapping[str, Any]


def key(*parts: str) -> str:
    """Returns 32 hexadecimal digits that differ when a part differs."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def files_identity(paths: Iterable[str]) -> str:
    """Returns a key of files by path, size and time of the last change, whatever their order.

    Raises:
      DataError: There is no such file.
    """
    found = []
    for path in sorted(paths):
        try:
            found.append(json.dumps([path, *_size_and_time(path)]))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DataError(f"A file to train on must exist; got {path}.") from error
    return key(*found)


def folder_for(output_uri: str, key: str, root: str = "") -> str:
    """Returns the folder of a key: below the component's outputs, or below `root`.

    Args:
      output_uri: An output of the component, '<pipeline root>/<component>/<output>/<execution>' in TFX. Where
        an orchestrator has a new pipeline root for each run, as Kubeflow, only a `root` survives.
      key: As `key` makes it.
      root: A folder that the author chose.

    Raises:
      ConfigError: The URI has no component in it, and there is no root.
    """
    if root:
        return f"{root.rstrip('/')}/{key}"
    scheme, separator, path = output_uri.rstrip("/").rpartition("://")
    component, *rest = path.rsplit("/", 2)
    if len(rest) < 2 or not component:
        raise ConfigError(
            "Checkpoints must have a place beside the outputs, "
            f"'<pipeline root>/<component>/<output>/<execution>'; got {output_uri!r}. Set checkpoint_folder."
        )
    return f"{scheme}{separator}{component}/{_FOLDER}/{key}"


class Checkpoints:
    """The checkpoints of one key.

    Args:
      folder: As `folder_for` says; made when the first checkpoint is.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder.rstrip("/")

    @contextlib.contextmanager
    def locked(self, wait_seconds: float = 15.0) -> Iterator[None]:
        """Keeps other runs of the same key out, until the block or this process ends.

        A run that was killed may have a worker that needs a second to notice: hence the wait. Leftovers of
        other keys that have not changed for 30 days are removed from the component's folder (never from a
        `root`). A remote folder has no lock and is not tidied: a checkpoint there is replaced as a whole too,
        so two runs of one key, which compute the same, do not harm each other.

        Raises:
          ConfigError: Another process has had the lock all the time.
        """
        if _is_remote(self._folder):
            yield
            return
        lock = _lock(Path(self._folder), wait_seconds)
        try:
            _tidy(Path(self._folder))
            yield
        finally:
            os.close(lock)

    def save(self, name: str, arrays: Arrays, state: Mapping[str, Any]) -> None:
        """Writes one checkpoint; a reader finds either the one before or this one, whole.

        Args:
          name: Letters, digits, '_', '-' and '.', such as 's50-qat'.
          arrays: Numbers of any dtype (bfloat16 too), booleans or fixed-width text, of any shape.
          state: JSON values.

        Raises:
          TypeError: An array holds Python objects, or a state is not JSON.
          OSError: It cannot be written; the one before is still there.
        """
        _write(self._path(name), _packed(arrays, state))

    def load(self, name: str) -> tuple[Any, dict[str, Any]] | None:
        """Returns the arrays, a list or a dict as they were saved, and the state.

        Returns:
          None if there is no such checkpoint, or only a damaged one, which is logged.
        """
        path = self._path(name)
        content = _read(path)
        if content is None:
            return None
        found = _unpacked(content)
        if found is None:
            _LOGGER.warning("Checkpoint %s is damaged and does not count: this part is done again.", path)
        return found

    def names(self) -> list[str]:
        """Returns the names of the checkpoints there are, sorted."""
        found = _listed(self._folder)
        return sorted(name.removesuffix(_SUFFIX) for name in found if name.endswith(_SUFFIX))

    def clear(self) -> None:
        """Removes the folder of this key, all at once, and the folder of all keys if no other is in it."""
        _remove(self._folder)

    def _path(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"A checkpoint's name must be letters, digits, '_', '-' and '.'; got {name!r}.")
        return f"{self._folder}/{name}{_SUFFIX}"


def _packed(arrays: Arrays, state: Mapping[str, Any]) -> bytes:
    names = list(arrays) if isinstance(arrays, Mapping) else None
    values = [np.asarray(one) for one in (arrays.values() if isinstance(arrays, Mapping) else arrays)]
    header = {
        "names": names,
        "arrays": [[_dtype_name(value), list(value.shape)] for value in values],
        "state": dict(state),
    }
    head = json.dumps(header).encode()
    content = b"".join(
        [_MAGIC, len(head).to_bytes(_LENGTH_BYTES, "little"), head, *(value.tobytes() for value in values)]
    )
    return content + hashlib.sha256(content).digest()


def _unpacked(content: bytes) -> tuple[Any, dict[str, Any]] | None:
    """Returns arrays and state, None if the bytes are not all there or not what was written."""
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if not body.startswith(_MAGIC) or hashlib.sha256(body).digest() != digest:
        return None
    start = len(_MAGIC) + _LENGTH_BYTES
    end = start + int.from_bytes(body[len(_MAGIC) : start], "little")
    header = json.loads(body[start:end])
    values = []
    for dtype_name, shape in header["arrays"]:
        value: Any = np.ndarray(shape, _dtype(dtype_name), body, end).copy()  # a view could not be written to
        values.append(value)
        end += value.nbytes
    names = header["names"]
    return (values if names is None else dict(zip(names, values, strict=True))), header["state"]


def _dtype_name(array: Any) -> str:
    dtype = array.dtype
    if dtype.kind != "V":
        if dtype.hasobject:
            raise TypeError(f"A checkpoint's arrays must not hold Python objects; got shape {array.shape}.")
        return str(dtype.str)
    if dtype.names or _dtype(dtype.name) != dtype:
        raise TypeError(f"A checkpoint's arrays must hold numbers or text; got {dtype}.")
    return str(dtype.name)  # bfloat16 and the like, which NumPy knows by name alone


def _dtype(name: str) -> Any:
    try:
        return np.dtype(name)
    except TypeError:
        return np.dtype(getattr(importlib.import_module("ml_dtypes"), name))


def _lock(folder: Path, wait_seconds: float) -> int:
    path = folder / _LOCK
    end = time.monotonic() + wait_seconds
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # the folder was cleared meanwhile
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 20, 0).decode() or "unknown"
            os.close(handle)
            if time.monotonic() >= end:
                raise ConfigError(
                    "The same training must not run twice at once (same settings, data and code); got "
                    f"another run, process {holder}, at {folder}. Wait for it, or end it."
                ) from None
            time.sleep(0.1)
            continue
        except OSError as error:
            _LOGGER.warning("No lock in %s (%s): do not run a training twice.", folder, error.strerror)
            return handle
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
            return handle
        os.close(handle)  # a lock on a file that was removed keeps nobody out


def _tidy(folder: Path) -> None:
    """Removes what killed runs left: unfinished files of this key, and other keys that are old."""
    for path in folder.glob(f".*{_SUFFIX}.*"):
        path.unlink(missing_ok=True)
    if folder.parent.name != _FOLDER or not folder.parent.exists():
        return
    for other in folder.parent.iterdir():
        is_ours = _KEY.fullmatch(other.name.removesuffix(_REMOVED))
        if is_ours and other != folder and (other.suffix == _REMOVED or _is_stale(other)):
            shutil.rmtree(other, ignore_errors=True)


def _is_stale(folder: Path) -> bool:
    try:
        newest = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    except FileNotFoundError:  # someone is at work there
        return False
    return time.time() - newest > _STALE_SECONDS


def _is_remote(path: str) -> bool:
    return "://" in path


def _gfile() -> Any:
    return importlib.import_module("tensorflow").io.gfile


def _size_and_time(path: str) -> tuple[int, int]:
    if not _is_remote(path):
        found = os.stat(path)
        return found.st_size, found.st_mtime_ns
    errors = importlib.import_module("tensorflow").errors
    try:
        status = _gfile().stat(path)
    except errors.NotFoundError as error:
        raise FileNotFoundError(path) from error
    return int(status.length), int(status.mtime_nsec)


def _read(path: str) -> bytes | None:
    if _is_remote(path):
        gfile = _gfile()
        if not gfile.exists(path):
            return None
        with gfile.GFile(path, "rb") as stream:
            return bytes(stream.read())
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        return None


def _write(path: str, content: bytes) -> None:
    if not _is_remote(path):
        files.write_atomically(Path(path), content)
        return
    gfile = _gfile()
    gfile.makedirs(path.rpartition("/")[0])
    with gfile.GFile(f"{path}.part", "wb") as stream:
        stream.write(content)
    gfile.rename(f"{path}.part", path, overwrite=True)


def _listed(folder: str) -> list[str]:
    if _is_remote(folder):
        gfile = _gfile()
        return list(gfile.listdir(folder)) if gfile.exists(folder) else []
    return os.listdir(folder) if os.path.isdir(folder) else []


def _remove(folder: str) -> None:
    if _is_remote(folder):
        gfile = _gfile()
        if gfile.exists(folder):
            gfile.rmtree(folder)
        return
    removed = Path(folder + _REMOVED)
    shutil.rmtree(removed, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        os.rename(folder, removed)  # a run that dies while it removes must not leave half of the checkpoints
    shutil.rmtree(removed, ignore_errors=True)
    if removed.parent.name == _FOLDER:
        with contextlib.suppress(OSError):  # not empty: other keys
            removed.parent.rmdir()
