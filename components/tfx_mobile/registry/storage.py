"""Where the files of a registry lie: a local folder, or a bucket of an object store (s3://, gs://).

A storage writes whole files, each of them so that a reader sees the old one or the new one, and has one lock.
The lock of a folder is the kernel's, which frees it when its holder dies. The lock of a bucket is an object
that is made only where there is none, with a lease: see `ObjectStorage`. Does not know what the files mean.
Source: docs/adr/0019-a-lock-in-a-bucket.md.
"""

import contextlib
import datetime
import errno
import fcntl
import importlib
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from tfx_mobile.common import files
from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry.backend import scheme_of

LOCK_TIMEOUT_S = 120.0
LEASE_S = 90.0
CHECKED_S = 1.0  # how long a lock that was seen to be ours is believed to be, but for the last write
CLOCKS_APART_S = 10.0  # how far the clocks of two publishers may differ before a lease is thought over
_OBJECT_STORES = {"s3": "s3fs", "gs": "gcsfs"}
# Cloud Storage may hand out for an hour what was replaced, where everybody may read it and nothing is said.
_UNCACHED: dict[str, dict[str, Any]] = {
    "s3": {"CacheControl": "no-cache"},
    "gs": {"fixed_key_metadata": {"cache_control": "no-cache"}},
}
_LOCKS = ".lock"


class Lock(Protocol):
    """The right to write, until the storage's `lock` ends."""

    def check(self, *, last: bool) -> None:
        """Checks that it is still ours; called before each write, `last` before the one that phones see.

        Raises:
          RegistryError: It is not.
        """
        ...


class Storage(Protocol):
    """The files below one place; a path is relative to it, with slashes. Failures are OSErrors."""

    def place(self, path: str) -> str:
        """Returns where the file is, for people."""
        ...

    def read(self, path: str) -> bytes:
        """Returns the file; FileNotFoundError when there is none."""
        ...

    def write(self, path: str, content: bytes, *, mode: int = 0o644) -> None:
        """Makes or replaces the file, all or nothing, so that it lasts."""
        ...

    def delete(self, path: str) -> None:
        """Removes the file; nothing when there is none."""
        ...

    def exists(self, path: str) -> bool:
        """Returns whether the file is there."""
        ...

    def ages_s(self, folder: str) -> dict[str, float]:
        """Returns the files below a folder, at any depth, and how long ago each was written, in seconds."""
        ...

    def prepare(self, *folders: str) -> None:
        """Makes it and `folders` in it ready for writing, where it can be known beforehand whether they are.

        Raises:
          RegistryError: It is not writable.
        """
        ...

    def lock(self) -> contextlib.AbstractContextManager[Lock]:
        """Waits for the lock, at most `LOCK_TIMEOUT_S`.

        Raises:
          RegistryError: Another publisher holds it, or the place cannot be written.
        """
        ...


def open_storage(location: str) -> Storage:
    """Returns the storage of a path, a file:// URI, or an s3:// or gs:// URI; reads nothing.

    Raises:
      ConfigError: The URI is of another kind, or holds a password, or what it needs is not installed.
    """
    scheme = scheme_of(location)
    if scheme and "@" in location.partition("://")[2].partition("/")[0]:
        raise ConfigError(
            f"Registry must be named without user and password; got a URI of '{scheme}' with them. They come "
            "from the environment."
        )
    if scheme in _OBJECT_STORES:
        return ObjectStorage(location)
    if scheme == "file":
        return FolderStorage(Path(re.sub(r"^file:/+", "/", location, flags=re.IGNORECASE)))
    if scheme:
        raise ConfigError(
            f"Registry must be a local folder, or in s3:// or gs://; got {location!r}. Publish to one of "
            "these and copy it."
        )
    return FolderStorage(Path(location))


class FolderStorage:
    """A local folder.

    Args:
      folder: Made on the first write.
      mode: Permission bits of the folder when it is made.
      follows_links: Whether a symbolic link in it may lead out of it.
    """

    def __init__(self, folder: Path, *, mode: int = 0o755, follows_links: bool = False) -> None:
        self.folder = Path(os.path.abspath(folder))
        self._mode, self._follows_links = mode, follows_links

    def place(self, path: str) -> str:
        """Returns the file's path."""
        return str(self.folder / path)

    def read(self, path: str) -> bytes:
        """Returns the file."""
        return self._inside(self.folder / path).read_bytes()

    def write(self, path: str, content: bytes, *, mode: int = 0o644) -> None:
        """Writes beside and moves; flushes file and folder. Cleans up after a publisher that died."""
        place = self.folder / path
        self._inside(place.parent)  # the file itself is replaced, also where it is a link
        # The lock is ours. What it wrote may have had another hash or number in front: it had another time.
        for leftover in place.parent.glob(f".*.{place.name.partition('.')[2]}.*"):
            leftover.unlink()
        files.write_atomically(place, content, mode=mode)
        _flush(place.parent)

    def delete(self, path: str) -> None:
        """Removes the file, and folders that are empty then, but not one at the top."""
        place = self.folder / path
        self._inside(place.parent)
        place.unlink(missing_ok=True)
        for parent in Path(path).parents[:-2]:
            if (folder := self.folder / parent).exists() and not any(folder.iterdir()):
                folder.rmdir()
        _flush(next(folder for folder in place.parents if folder.exists()))

    def exists(self, path: str) -> bool:
        """Returns whether the file is there."""
        return (self.folder / path).exists()

    def ages_s(self, folder: str) -> dict[str, float]:
        """Returns the files below a folder by when they were last modified."""
        now, found = time.time(), {}
        for path in sorted(self._inside(self.folder / folder).rglob("*")):
            with contextlib.suppress(FileNotFoundError):  # another publisher's temporary file, moved since
                if path.is_file():
                    found[str(path.relative_to(self.folder))] = now - path.stat().st_mtime
        return found

    def prepare(self, *folders: str) -> None:
        """Makes the folders, and checks permissions."""
        self.folder.mkdir(mode=self._mode, parents=True, exist_ok=True)
        for folder in (self.folder, *(self._inside(self.folder / name) for name in folders)):
            folder.mkdir(exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
                raise RegistryError(
                    f"Folder {folder} must be writable; it is not. Run as the user who owns it."
                )

    @contextlib.contextmanager
    def lock(self) -> Iterator[Lock]:
        """Holds flock on the file `.lock`: freed by the kernel when its holder dies."""
        path = self._inside(self.folder / _LOCKS)
        try:
            self.folder.mkdir(mode=self._mode, parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise RegistryError(
                f"Registry folder {self.folder} must be writable; {error.strerror}. "
                "Run as the user who owns it, or name another folder."
            ) from error
        try:
            deadline = time.monotonic() + LOCK_TIMEOUT_S
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise RegistryError(
                            f"Lock {path} must be free within {LOCK_TIMEOUT_S:.0f} s; another publisher "
                            "holds it. Wait for it to end, or end it."
                        ) from error
                    time.sleep(0.01)
                except OSError as error:
                    raise RegistryError(
                        f"Lock {path} must be one that the file system can hold; {error.strerror}. Keep the "
                        "registry on a local disk or in a bucket."
                    ) from error
            yield _KernelLock()
        finally:
            os.close(handle)

    def _inside(self, place: Path) -> Path:
        """Returns `place`; phones do not follow a link out of it, and what is there may be of others."""
        real = Path(os.path.realpath(place))
        if not self._follows_links and not real.is_relative_to(os.path.realpath(self.folder)):
            raise RegistryError(
                f"Symbolic links must not lead out of the registry; {place} leads to {real}. "
                "Put the file or folder itself there."
            )
        return place


class _KernelLock:
    def check(self, *, last: bool) -> None:
        """Nothing: the kernel does not take it away."""


class ObjectStorage:
    """A prefix in a bucket, through fsspec; credentials, region and endpoint come from the environment.

    The lock is a row of numbered objects `.lock/<number>`, each made only where there is none, of which the
    highest counts: it says who holds the lock and until when, or that nobody does. Whoever wants the lock and
    finds it free, or its lease over, makes the next number; of several only one can. A holder renews its
    lease as it writes, and stops when it finds a higher number than its own.

    Args:
      location: s3://bucket/prefix or gs://bucket/prefix.

    Raises:
      ConfigError: There is no bucket, or the package for the store is not installed.
    """

    def __init__(self, location: str) -> None:
        scheme, _, rest = location.partition("://")
        self.location = f"{scheme.lower()}://{rest.strip('/')}"
        if not rest.strip("/"):
            raise ConfigError(f"Registry must name a bucket, s3://bucket/prefix; got {location!r}.")
        try:
            importlib.import_module(_OBJECT_STORES[scheme.lower()])
        except ImportError as error:
            raise ConfigError(
                f"Registry {location!r} needs the package '{_OBJECT_STORES[scheme.lower()]}', which is not "
                f"installed: pip install 'tfx-mobile[{scheme.lower()}]'."
            ) from error
        self._scheme = scheme.lower()
        self._opened: Any = None

    @property
    def _fs(self) -> Any:
        if self._opened is None:
            fsspec = importlib.import_module("fsspec")
            with _as_os_error(self.location):
                self._opened = fsspec.filesystem(
                    self._scheme, skip_instance_cache=True, use_listings_cache=False
                )
        return self._opened

    def place(self, path: str) -> str:
        """Returns the object's URI."""
        return f"{self.location}/{path}"

    def read(self, path: str) -> bytes:
        """Returns the object."""
        with _as_os_error(self.place(path)):
            content: bytes = self._fs.cat_file(self.place(path))
            return content

    def write(self, path: str, content: bytes, *, mode: int = 0o644) -> None:
        """Puts the object, which object stores do all or nothing; no cache may hand out an older one."""
        self._put(path, content, "overwrite")

    def delete(self, path: str) -> None:
        """Removes the object."""
        with _as_os_error(self.place(path)), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self.place(path))

    def exists(self, path: str) -> bool:
        """Returns whether the object is there."""
        with _as_os_error(self.place(path)):
            try:
                self._fs.cat_file(self.place(path), start=0, end=1)  # one request, where `info` makes three
            except FileNotFoundError:
                return False
            return True

    def ages_s(self, folder: str) -> dict[str, float]:
        """Returns the objects below a prefix by when they were last put, on the store's clock."""
        now = time.time()
        try:
            found = self._below(folder)
        except FileNotFoundError:
            return {}
        return {path: now - _modified(info).timestamp() for path, info in sorted(found.items())}

    def prepare(self, *folders: str) -> None:
        """Nothing: whether a bucket is writable is seen on writing the lock."""

    @contextlib.contextmanager
    def lock(self) -> Iterator[Lock]:
        """Holds the highest numbered lock object."""
        deadline, wait_s = time.monotonic() + LOCK_TIMEOUT_S, 0.05
        try:
            while (held := self._take()) is None:
                if time.monotonic() > deadline:
                    raise RegistryError(
                        f"Lock {self.place(_LOCKS)} must be free within {LOCK_TIMEOUT_S:.0f} s; "
                        f"{self._holder()} holds it. Wait for it to end, or end it."
                    )
                time.sleep(wait_s)
                wait_s = min(2.0, wait_s * 1.5)
        except OSError as error:
            raise RegistryError(
                f"Registry {self.location} must be writable; {error.strerror or error}. Check the bucket and "
                "the credentials, or name another place."
            ) from error
        try:
            yield held
        finally:
            held.release()

    def _below(self, folder: str) -> dict[str, dict[str, Any]]:
        with _as_os_error(self.place(folder)):
            found: dict[str, dict[str, Any]] = self._fs.find(self.place(folder), detail=True)
        start = len(self.place("").partition("://")[2])
        paths = {name[start:]: info for name, info in found.items()}
        # Where s3fs lists nothing it asks about `folder` itself, which is one if a file was made meanwhile.
        return {path: info for path, info in paths.items() if path.startswith(f"{folder}/")}

    def _put(self, path: str, content: bytes, mode: str) -> None:
        with _as_os_error(self.place(path)):
            self._fs.pipe_file(self.place(path), content, mode=mode, **_UNCACHED[self._scheme])

    def _take(self) -> "_ObjectLock | None":
        numbers = self.lock_numbers()
        highest = numbers[-1] if numbers else 0
        if highest and not _is_free(self._lock_says(highest)):
            return None
        taken = _ObjectLock(self, highest + 1)
        saying = taken.saying()
        try:
            self._put(taken.path, saying, "create")
        except OSError as error:
            if not _is_there_already(error):
                raise
            if not self._says(taken.path, saying):  # it does where the client asked again for a lost answer
                return None
        if self.lock_numbers()[-1:] != [taken.number]:  # it was taken, freed and cleaned away meanwhile
            self.delete(taken.path)
            return None
        for number in numbers:
            self.delete(_lock_path(number))
        return taken

    def lock_numbers(self) -> list[int]:
        """Returns the numbers of the lock objects, rising."""
        return sorted(int(path.rpartition("/")[2]) for path in self._below(_LOCKS))

    def _lock_says(self, number: int) -> dict[str, Any]:
        try:
            said = json.loads(self.read(_lock_path(number)))
        except FileNotFoundError:  # cleaned away by its successor, who holds the lock now
            return {"until_unix_s": time.time() + LEASE_S}
        except ValueError as error:
            raise _unreadable(self.place(_lock_path(number))) from error
        if not isinstance(said, dict) or not isinstance(said.get("until_unix_s"), (int, float)):
            raise _unreadable(self.place(_lock_path(number)))
        return said

    def _says(self, path: str, content: bytes) -> bool:
        try:
            return self.read(path) == content
        except FileNotFoundError:
            return False

    def _holder(self) -> str:
        numbers = self.lock_numbers()
        said = self._lock_says(numbers[-1]) if numbers else {}
        return f"{said.get('owner', 'another publisher')} on {said.get('host', 'another machine')}"


class _ObjectLock:
    def __init__(self, storage: ObjectStorage, number: int) -> None:
        self.number, self.path = number, _lock_path(number)
        self._storage, self._token = storage, secrets.token_hex(8)
        self._began_s = self._checked_s = time.monotonic()

    def saying(self) -> bytes:
        """Returns what the lock object says."""
        self._began_s = time.monotonic()
        said = {
            "host": socket.gethostname(),
            "owner": f"process {os.getpid()}",
            "token": self._token,
            "until_unix_s": time.time() + LEASE_S,
        }
        return json.dumps(said, sort_keys=True).encode()

    def check(self, *, last: bool) -> None:
        """Renews the lease when a third of it has gone, and checks that no higher number is there."""
        gone_s = time.monotonic() - self._began_s
        if not last and time.monotonic() - self._checked_s < CHECKED_S and gone_s < LEASE_S / 3:
            return
        if LEASE_S / 3 < gone_s < LEASE_S:
            self._storage.write(self.path, self.saying())
        numbers = self._storage.lock_numbers()
        if gone_s >= LEASE_S or not numbers or numbers[-1] != self.number:
            raise RegistryError(
                f"Lock {self._storage.place(self.path)} must be ours until the end; it is not any more: "
                f"writing took longer than its lease of {LEASE_S:.0f} s. Nothing was published; do it again."
            )
        self._checked_s = time.monotonic()

    def release(self) -> None:
        """Says that nobody holds it; where that fails the lease runs out."""
        with contextlib.suppress(OSError):
            if self._storage.lock_numbers()[-1:] == [self.number]:
                self._storage.write(self.path, json.dumps({"until_unix_s": 0}).encode())


def _is_free(said: dict[str, Any]) -> bool:
    return bool(time.time() > said["until_unix_s"] + (CLOCKS_APART_S if said["until_unix_s"] else 0))


def _lock_path(number: int) -> str:
    return f"{_LOCKS}/{number:012d}"


def _modified(info: dict[str, Any]) -> datetime.datetime:
    found = info.get("LastModified") or info.get("mtime")  # s3fs, gcsfs
    if not isinstance(found, datetime.datetime):
        raise RegistryError(f"Object {info.get('name')} must say when it was written; got {found!r}.")
    return found


def _unreadable(place: str) -> RegistryError:
    return RegistryError(
        f"Lock {place} must say until when it is held; it does not. Delete it if nobody publishes."
    )


def _is_there_already(error: OSError) -> bool:
    # s3fs calls a failed condition "invalid argument", and keeps what S3 said as the cause.
    said = getattr(error.__cause__, "response", None) or {}
    code = said.get("Error", {}).get("Code", "") if isinstance(said, dict) else ""
    return isinstance(error, FileExistsError) or code in ("PreconditionFailed", "ConditionalRequestConflict")


@contextlib.contextmanager
def _as_os_error(place: str) -> Iterator[None]:
    """The stores' clients have errors of their own: no credentials, no connection, no such bucket."""
    try:
        yield
    except FileNotFoundError as error:  # s3fs and gcsfs say it each in their own way
        raise FileNotFoundError(errno.ENOENT, "There is no such object or bucket", place) from error
    except (OSError, RegistryError):
        raise
    except Exception as error:
        raise OSError(None, f"{type(error).__name__}: {error}", place) from error


def _flush(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
