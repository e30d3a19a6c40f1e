"""The phone's side of the registry: fetches a model, and returns it only when every signature holds.

A reference for what an app does with any TUF client, and what pipelines use to read the model that phones
run today. Needs the root file beforehand; there is no trust on first use. Keeps what it has seen in `cache`,
which is what lets it refuse an older registry: one cache for one registry, and keep it. Does not publish.
Source: The Update Framework 1.0.31, section 5, as `tuf.ngclient` does it.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]
from tuf.ngclient import FetcherInterface, Updater  # type: ignore[attr-defined]

from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry import names, records

MAX_RELEASES = 50
_MAX_NUMBERS = 10_000  # looked through for them: versions may leave numbers out
_CHUNK_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True)
class Fetched:
    """A model file that was signed by the registry.

    Attributes:
      path: The file, in the client's cache.
      version: An integer >= 1.
      sha256: 64 hex digits.
      size_bytes: Of the file.
      metadata: What the publisher signed about it.
    """

    path: Path
    version: int
    sha256: str
    size_bytes: int
    metadata: Mapping[str, Any]


class Client:
    """Fetches from one registry.

    Args:
      location: The registry's folder: a path, or a file://, http:// or https:// URL.
      root: The trusted root, as bytes or as a file; from the publisher, not from `location`.
      cache: A folder for this registry alone.

    Raises:
      ConfigError: The location is none of these, or the root cannot be read.
    """

    def __init__(self, location: str, *, root: bytes | Path, cache: Path) -> None:
        self.location = location
        self.cache = Path(cache)
        self._url, self._fetcher = _opened(location)
        try:
            self._root = root if isinstance(root, bytes) else Path(root).read_bytes()
        except OSError as error:
            raise ConfigError(
                f"Trusted root must be a file that can be read; {error.filename}: {error.strerror}. "
                "The publisher finds it in the keys folder as root.json."
            ) from error

    def fetch(self, model: str, channel: str = "stable", *, version: int | None = None) -> Fetched:
        """Fetches what `channel` of `model` points to, or `version` of it; from the cache when it is there.

        Raises:
          ConfigError: A name or the version breaks a rule.
          RegistryError: There is no such model, channel or version; or the registry cannot be reached, has
            expired, is older than before, or is not as it was signed.
        """
        names.channel_path(model, channel)
        if version is not None:
            names.check_version(version)
        with self._locked(), self._translated():
            updater = self._updater()
            if version is None:
                version = self._pointed(updater, model, channel)
            target, path = self._target(updater, names.model_path(model, version))
            record = records.read_version(model, version, target)
            return Fetched(path, version, record.sha256, record.size_bytes, record.metadata)

    def releases(
        self, model: str, channel: str = "stable", *, limit: int = MAX_RELEASES
    ) -> tuple[records.VersionRecord, ...]:
        """Returns what was signed about the version `channel` points to, last, and those before it.

        Fetches no model. Which of the earlier versions were in this channel is not recorded.

        Args:
          model: Its name.
          channel: What phones follow.
          limit: The newest so many; >= 1.

        Returns:
          By rising version; empty when the registry, verified and not expired, has signed no such model or
          no such channel of it.

        Raises:
          ConfigError: A name breaks a rule.
          RegistryError: The channel points to a version that is not there; or the registry cannot be
            reached, has expired, is older than before, or is not as it was signed.
        """
        path = names.channel_path(model, channel)
        with self._locked(), self._translated():
            updater = self._updater()
            if updater.get_targetinfo(path) is None:
                return ()
            newest = self._pointed(updater, model, channel)
            found: list[records.VersionRecord] = []
            for version in range(newest, max(0, newest - _MAX_NUMBERS), -1):
                target = updater.get_targetinfo(names.model_path(model, version))
                if target is not None:
                    found.append(records.read_version(model, version, target))
                elif not found:
                    raise RegistryError(
                        f"Channel '{channel}' of '{model}' must point to a version that is there; got "
                        f"{newest} in {self.location}. Publish to the channel again."
                    )
                if len(found) == limit:
                    break
            return tuple(reversed(found))

    def _updater(self) -> Updater:
        return Updater(
            metadata_dir=str(self.cache / "metadata"),
            metadata_base_url=f"{self._url}/metadata/",
            target_base_url=f"{self._url}/targets/",
            fetcher=self._fetcher,
            bootstrap=self._root,
        )

    def _pointed(self, updater: Updater, model: str, channel: str) -> int:
        _, path = self._target(updater, names.channel_path(model, channel))
        return records.read_channel(model, channel, path.read_bytes()).version

    def _target(self, updater: Updater, path: str) -> tuple[TargetFile, Path]:
        target = updater.get_targetinfo(path)
        if target is None:
            raise RegistryError(
                f"Registry {self.location} must hold '{path}'; nobody whom it trusts for that has signed it. "
                "Check the name, the channel and the version."
            )
        kept = self.cache / "targets" / target.get_prefixed_paths()[0]
        if updater.find_cached_target(target, str(kept)) is None:
            partial = kept.with_name(f".{kept.name}.part")
            updater.download_target(target, str(partial))
            os.replace(partial, kept)
        return target, kept

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """The updater is not made for two processes in one cache."""
        try:
            (self.cache / "metadata").mkdir(parents=True, exist_ok=True)
            handle = os.open(self.cache / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ConfigError(
                f"Cache must be a folder that can be written; {self.cache}: {error.strerror}. Name another."
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (RepositoryError, DownloadError, ValueError, OSError) as error:
            if isinstance(error, ConfigError):
                raise
            raise RegistryError(f"Registry {self.location} was refused: {_reason(error)}") from error


def check_location(location: str) -> None:
    """Checks that `location` is one that a client can fetch from; reads nothing.

    Raises:
      ConfigError: It is neither a path nor a file://, http:// or https:// URL.
    """
    _opened(location)


def default_cache(location: str) -> Path:
    """Returns the folder where this user's clients keep what they have seen of a registry."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = location if "://" in location else os.path.abspath(location)
    return home / "tfx-mobile" / "registry" / hashlib.sha256(name.encode()).hexdigest()[:16]


class FolderFetcher(FetcherInterface):
    """Serves a local folder to the updater, without a web server.

    Args:
      folder: Nothing outside of it is read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path)).resolve()
        if not path.is_relative_to(self._folder) or not path.is_file():
            raise DownloadHTTPError(f"{path} is not a file of the registry", 404)
        return _chunks(path)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk


def _opened(location: str) -> tuple[str, FetcherInterface | None]:
    """Returns the base URL without its last slash, and the fetcher; None is the updater's own, for HTTP."""
    scheme = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+):/", location)
    if scheme is None:
        folder = Path(os.path.abspath(location))
        return folder.resolve().as_uri(), FolderFetcher(folder)
    if scheme[1].lower() in ("http", "https"):
        return location.rstrip("/"), None
    if scheme[1].lower() == "file":
        folder = Path(urllib.request.url2pathname(urllib.parse.urlsplit(location).path))
        return folder.resolve().as_uri(), FolderFetcher(folder)
    raise ConfigError(
        f"Registry must be a folder or a file://, http:// or https:// URL; got {location!r}. "
        "Serve or mount it as one of these."
    )


def _reason(error: Exception) -> str:
    if isinstance(error, ExpiredMetadataError):
        return f"{error}. It may be an old copy; or its publisher has to run `tfx-mobile registry refresh`."
    if isinstance(error, UnsignedMetadataError):
        return (
            f"{error} that the root trusts. It is signed by somebody else, or the root is another registry's."
        )
    if isinstance(error, BadVersionNumberError):
        return f"{error}. It is older than what this client has seen."
    if isinstance(error, (LengthOrHashMismatchError, DownloadLengthMismatchError)):
        return f"a file differs from what was signed: {error}."
    if isinstance(error, DownloadHTTPError):
        return f"a file is missing or not served: {error}."
    cause = error.__cause__ or error
    return f"{error}." if cause is error else f"{error} ({type(cause).__name__}: {cause})."
