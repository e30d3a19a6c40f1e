"""The phone's side of the registry: fetches a model, and returns it only when every signature holds.

A reference for what an app does with any TUF client, and what pipelines use to read the model that phones
run today. Needs the root file beforehand; there is no trust on first use. Keeps what it has seen in `cache`,
which is what lets it refuse an older registry: one cache for one registry, and keep it. When an update is
refused or cannot be had, it hands out the last model that was good, and says why. Does not publish.
Source: The Update Framework 1.0.31, section 5, as `tuf.ngclient` does it.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import hashlib
import logging
import os
import re
import time
from collections.abc import Iterator
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
from tuf.api.metadata import Metadata, TargetFile  # type: ignore[attr-defined]
from tuf.ngclient import Updater  # type: ignore[attr-defined]

from tfx_mobile.common import files
from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.common.jsonable import Settings
from tfx_mobile.registry import names, patching, records
from tfx_mobile.registry.records import Rollout
from tfx_mobile.registry.targeting import Device
from tfx_mobile.registry.transport import Deadline, Fetcher, FolderTransport, HttpTransport, Limits, locate

MAX_RELEASES = 50
_MAX_NUMBERS = 10_000  # looked through for them: versions may leave numbers out
_KEPT = 2  # files of a channel: the current one and the last good one
_NO_SUCH_RANGE = 416
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BY_NUMBER = ""  # the channel, in what is held, of files that were asked for by their number
_log = logging.getLogger(__name__)


class NotOffered(RegistryError):  # noqa: N818 - an answer, not a failure
    """The registry, verified and fresh, says no: no such file, a withdrawn one, nothing for this device."""


@dataclasses.dataclass(frozen=True)
class Fetched:
    """A model file that was signed by the registry.

    Attributes:
      path: The file, in the client's cache; it stays there until two newer ones have come.
      version: An integer >= 1.
      variant: Which file of the version.
      sha256: 64 hex digits.
      size_bytes: Of the file.
      problem: Why this is the last good file and not what the registry has now; empty when it is that.
      downloaded_bytes: That came over for this call, metadata and broken downloads included.
    """

    path: Path
    version: int
    variant: str
    sha256: str
    size_bytes: int
    problem: str = ""
    downloaded_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Trusted:
    """One role's metadata, verified.

    Attributes:
      version: An integer >= 1.
      expires: When it runs out, UTC.
    """

    version: int
    expires: datetime.datetime


@dataclasses.dataclass(frozen=True)
class _Held(Settings):
    """A file of the cache that was verified when it came.

    Attributes:
      rollout: What the channel said of it.
      sha256: Of the file.
      size_bytes: Of the file.
    """

    rollout: Rollout
    sha256: str
    size_bytes: int


@dataclasses.dataclass(frozen=True)
class _State(Settings):
    """What is held of a model: by channel, the current file first."""

    channels: dict[str, tuple[_Held, ...]]


@dataclasses.dataclass
class _Session:
    """One operation: the updater refreshes once."""

    updater: Updater
    fetcher: Fetcher


class Client:
    """Fetches from one registry.

    Args:
      location: The registry's folder: a path, or a file://, http:// or https:// URL.
      root: The trusted root, as bytes or as a file; from the publisher, not from `location`.
      cache: A folder for this registry alone; several processes may share it.
      limits: Of time and size.

    Raises:
      ConfigError: The location is none of these, or the root cannot be read.
    """

    def __init__(
        self,
        location: str,
        *,
        root: bytes | Path,
        cache: Path,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        self.location = location
        self.cache = Path(cache)
        self.limits = limits
        self._url, self._folder = locate(location)
        try:
            self._root = root if isinstance(root, bytes) else Path(root).read_bytes()
        except OSError as error:
            raise ConfigError(
                f"Trusted root must be a file that can be read; {error.filename}: {error.strerror}. "
                "The publisher finds it in the keys folder as root.json."
            ) from error

    def check(self, model: str | None = None) -> dict[str, Trusted]:
        """Refreshes the metadata, verifies it, and returns what is trusted now; fetches no file.

        Args:
          model: Also of this model's role.

        Returns:
          By role: 'root', 'timestamp', 'snapshot', 'targets' and, with `model`, 'model-<model>'.

        Raises:
          ConfigError: The name breaks a rule.
          RegistryError: As `fetch`; or there is no such model.
        """
        roles = ["root", "timestamp", "snapshot", "targets"]
        if model is not None:
            roles.append(names.role_name(model))
        with self._session() as session:
            session.updater.refresh()
            if model is not None:
                session.updater.get_targetinfo(names.model_path(model, 1))  # reads and verifies the role
                delegations = self._trusted("targets").delegations
                if roles[-1] not in ((delegations.roles if delegations else None) or {}):
                    raise NotOffered(f"Registry {self.location} must hold model '{model}'; it does not.")
            signed = {role: self._trusted(role) for role in roles}
            return {role: Trusted(one.version, one.expires) for role, one in signed.items()}

    def fetch(
        self,
        model: str,
        channel: str = "stable",
        *,
        device: Device | None = None,
        version: int | None = None,
        variant: str = names.DEFAULT_VARIANT,
        fall_back: bool = True,
    ) -> Fetched:
        """Fetches what `channel` of `model` gives `device`, or `version` of it, unless the cache has it.

        An update that is refused, not reached, not there in time or cannot be kept leaves the last good file
        in use: the newest of this channel that was verified when it came, is unchanged, fits the device, and
        is not known to be withdrawn. A registry that is verified and answers that it has nothing for this
        device, or no such file, is obeyed.

        Args:
          model: Its name.
          channel: What the device follows.
          device: Who asks; None is a device that gets what all get.
          version: This one, whatever the channel and the device say.
          variant: Which file of `version`; a channel names its own.
          fall_back: False raises instead of handing out the last good file.

        Raises:
          ConfigError: A name or the version breaks a rule; or the cache cannot be written, and there is no
            last good file, or `fall_back` is False.
          NotOffered: There is no such model, channel or version, it is withdrawn, or nothing is for this
            device.
          RegistryError: The registry cannot be reached in time, has expired, is older than before, or is not
            as it was signed; and there is no last good file, or `fall_back` is False.
        """
        names.channel_path(model, channel)
        if version is not None:
            names.model_path(model, version, variant)
        session = None
        try:
            with self._session() as session:
                return self._update(session, model, channel, device, version, variant)
        except NotOffered:
            raise
        except (RegistryError, ConfigError) as error:
            wanted = None if version is None else (version, variant)
            held = self._last_good(model, channel, device, wanted) if fall_back else None
            if held is None:
                raise
            said = f"{error} Using version {held.rollout.version}, the last good one."
            _log.warning("Model '%s' is not updated: %s", model, said)
            return self._fetched(session, model, held, problem=str(error))

    def record(self, model: str, version: int, variant: str = names.DEFAULT_VARIANT) -> records.VersionRecord:
        """Returns what was signed about a file, withdrawn or not; phones need none of it.

        Raises:
          ConfigError: A name or the version breaks a rule.
          RegistryError: As `fetch` without falling back.
        """
        path = names.model_path(model, version, variant)
        with self._session() as session:
            target = self._target(session, path)
            return self._record(session, model, version, variant, target)

    def releases(
        self, model: str, channel: str = "stable", *, limit: int = MAX_RELEASES
    ) -> tuple[records.VersionRecord, ...]:
        """Returns what was signed about the version `channel` gives most phones, last, and those before it.

        Fetches no model. Which of the earlier versions were in this channel is not recorded.

        Args:
          model: Its name.
          channel: What phones follow.
          limit: The newest so many; >= 1.

        Returns:
          By rising version; empty when the registry, verified and not expired, has signed no such model or
          no such channel of it, or the channel offers nothing to anybody.

        Raises:
          ConfigError: A name breaks a rule.
          RegistryError: The channel points to a version that is not there; or the registry cannot be
            reached, has expired, is older than before, or is not as it was signed.
        """
        path = names.channel_path(model, channel)
        with self._session() as session:
            updater = session.updater
            if updater.get_targetinfo(path) is None:
                return ()
            newest = self._channel(session, model, channel).widest()
            if newest is None:
                return ()
            found: list[records.VersionRecord] = []
            for version in range(newest.version, max(0, newest.version - _MAX_NUMBERS), -1):
                variant = newest.variant if version == newest.version else names.DEFAULT_VARIANT
                target = updater.get_targetinfo(names.model_path(model, version, variant))
                if target is not None:
                    found.append(self._record(session, model, version, variant, target))
                elif not found:
                    raise RegistryError(
                        f"Channel '{channel}' of '{model}' must point to a version that is there; got "
                        f"{newest.version} in {self.location}. Publish to the channel again."
                    )
                if len(found) == limit:
                    break
            return tuple(reversed(found))

    # What the registry says.

    def _update(
        self,
        session: _Session,
        model: str,
        channel: str,
        device: Device | None,
        version: int | None,
        variant: str,
    ) -> Fetched:
        session.updater.refresh()
        self._forget_withdrawn(session, model)
        if version is None:
            record = self._channel(session, model, channel)
            try:
                rollout = record.choose(device)
            except RegistryError as error:
                raise NotOffered(
                    f"{error} Offer one in {self.location}, or use the model that came with the app."
                ) from error
        else:
            rollout = Rollout(version, variant)
        path = names.model_path(model, rollout.version, rollout.variant)
        try:
            target = self._target(session, path)
        except NotOffered as error:
            if version is not None:
                raise
            raise RegistryError(
                f"Channel '{channel}' of '{model}' must offer what is there: {error}"
            ) from error
        if reason := records.withdrawn(target):
            said = f"Registry {self.location} must offer '{path}'; its publisher took it back: {reason}."
            if version is not None:
                raise NotOffered(f"{said} Fetch what a channel offers.")
            raise RegistryError(f"{said} Channel '{channel}' must not offer it still: publish to it again.")
        held = _Held(rollout, target.hashes["sha256"], target.length)
        kept = self._kept(model, held)
        if session.updater.find_cached_target(target, str(kept)) is None and not self._patch(
            session, model, rollout, target, kept
        ):
            self._download(session, target, kept)
        self._hold(model, _BY_NUMBER if version is not None else channel, held)
        return self._fetched(session, model, held)

    def _trusted(self, role: str) -> Any:
        """Returns what the updater has verified and kept of a role."""
        return Metadata[Any].from_file(str(self._metadata / f"{role}.json")).signed

    def _channel(self, session: _Session, model: str, channel: str) -> records.ChannelRecord:
        target = self._target(session, names.channel_path(model, channel), most=records.MAX_RECORD_BYTES)
        return records.read_channel(model, channel, self._small(session, target))

    def _record(
        self, session: _Session, model: str, version: int, variant: str, target: TargetFile
    ) -> records.VersionRecord:
        note = self._target(
            session, names.record_path(model, version, variant), most=records.MAX_RECORD_BYTES
        )
        return records.read_version(model, version, variant, target, self._small(session, note))

    def _target(self, session: _Session, path: str, *, most: int | None = None) -> TargetFile:
        target = session.updater.get_targetinfo(path)
        if target is None:
            raise NotOffered(
                f"Registry {self.location} must hold '{path}'; nobody whom it trusts for that has signed it. "
                "Check the name, the channel and the version."
            )
        if not _SHA256.fullmatch(str(target.hashes.get("sha256"))):
            raise RegistryError(
                f"Target '{path}' must carry a sha256 of 64 hex digits; got {target.hashes!r}. It was not "
                "made by this registry's publisher."
            )
        if target.length > (most or self.limits.file_bytes):
            what_to_do = "It is no record" if most else "Raise limits.file_bytes if it is to be so"
            raise RegistryError(
                f"Target '{path}' must have {most or self.limits.file_bytes} bytes at most; {target.length} "
                f"were signed. {what_to_do}."
            )
        return target

    # What comes over.

    def _small(self, session: _Session, target: TargetFile) -> bytes:
        """Returns a record, from the cache when it is there."""
        kept = self.cache / "targets" / _place(target)
        if session.updater.find_cached_target(target, str(kept)) is None:
            content = session.fetcher.download_bytes(self._target_url(target), target.length)
            target.verify_length_and_hashes(content)
            files.write_atomically(kept, content)
            for older in kept.parent.glob(f"*.{kept.name.partition('.')[2]}"):
                if older != kept:
                    older.unlink()
        return kept.read_bytes()

    def _download(self, session: _Session, target: TargetFile, kept: Path) -> None:
        """Downloads a file, going on where an earlier download of the same file broke off."""
        partial = _partial(kept)
        kept.parent.mkdir(parents=True, exist_ok=True)
        resumed = partial.exists() and partial.stat().st_size > 0
        try:
            self._append(session, target, partial)
        except (LengthOrHashMismatchError, DownloadLengthMismatchError, DownloadHTTPError) as error:
            if isinstance(error, DownloadHTTPError) and error.status_code != _NO_SUCH_RANGE:
                raise
            partial.unlink(missing_ok=True)
            if not resumed:
                raise
            _log.warning("What was left of '%s' is of no use, fetching all of it: %s", target.path, error)
            try:
                self._append(session, target, partial)
            except (LengthOrHashMismatchError, DownloadLengthMismatchError):
                partial.unlink(missing_ok=True)
                raise
        os.replace(partial, kept)

    def _append(self, session: _Session, target: TargetFile, partial: Path) -> None:
        """Completes `partial` and checks it; what has come stays when the connection breaks."""
        start = partial.stat().st_size if partial.exists() else 0
        if start < target.length:
            begin, chunks = session.fetcher.open(self._target_url(target), start)
            with partial.open("r+b" if start else "wb") as stream:
                stream.truncate(begin)
                stream.seek(begin)
                for chunk in chunks:
                    begin += len(chunk)
                    if begin > target.length:
                        raise DownloadLengthMismatchError(
                            f"'{target.path}' is longer than the {target.length} bytes that were signed"
                        )
                    stream.write(chunk)
                stream.flush()
                os.fsync(stream.fileno())
        with partial.open("rb") as stream:
            target.verify_length_and_hashes(stream)

    def _patch(self, session: _Session, model: str, rollout: Rollout, target: TargetFile, kept: Path) -> bool:
        """Makes the file from one that is held and a signed delta; False when that is not to be had."""
        found = []
        for base in self._held(model):
            if base.rollout.variant == rollout.variant and base.rollout.version != rollout.version:
                path = names.delta_path(model, rollout.version, rollout.variant, base.rollout.version)
                delta = session.updater.get_targetinfo(path)
                if delta is not None and delta.length < target.length - _size(_partial(kept)):
                    found.append((delta.length, path, base))
        if not found:
            return False
        _, path, base = min(found, key=lambda one: one[0])
        try:
            delta = self._target(session, path)
            content = self._kept(model, base).read_bytes()
            if hashlib.sha256(content).hexdigest() != base.sha256:
                raise RegistryError(f"{self._kept(model, base)} was changed after it was verified")
            packed = session.fetcher.download_bytes(self._target_url(delta), delta.length)
            delta.verify_length_and_hashes(packed)
            made = patching.patched(content, packed, size_bytes=target.length)
            target.verify_length_and_hashes(made)
        except (RegistryError, RepositoryError, DownloadError, OSError) as error:
            _log.warning("Delta '%s' is of no use, fetching the whole file: %s", path, error)
            return False
        files.write_atomically(kept, made)
        return True

    def _target_url(self, target: TargetFile) -> str:
        return f"{self._url}/targets/{_place(target)}"

    # What is held.

    def _fetched(self, session: _Session | None, model: str, held: _Held, problem: str = "") -> Fetched:
        return Fetched(
            path=self._kept(model, held),
            version=held.rollout.version,
            variant=held.rollout.variant,
            sha256=held.sha256,
            size_bytes=held.size_bytes,
            problem=problem,
            downloaded_bytes=session.fetcher.received_bytes if session else 0,
        )

    def _kept(self, model: str, held: _Held) -> Path:
        folder, _, name = names.model_path(model, held.rollout.version, held.rollout.variant).rpartition("/")
        return self.cache / "targets" / folder / f"{held.sha256}.{name}"

    def _last_good(
        self, model: str, channel: str, device: Device | None, wanted: tuple[int, str] | None
    ) -> _Held | None:
        """Returns the newest file that may still be used; `wanted` is a version and variant."""
        state = self._state(model)
        if wanted is None:
            candidates = list(state.channels.get(channel, ()))
        else:
            held = [one for kept in state.channels.values() for one in kept]
            candidates = [one for one in held if (one.rollout.version, one.rollout.variant) == wanted]
        for one in candidates:
            path = self._kept(model, one)
            if device is not None and (reason := one.rollout.targeting.misfit(device)):
                _log.warning(
                    "Version %d of '%s' is not for this device: %s", one.rollout.version, model, reason
                )
            elif not _holds(path, one):
                _log.warning("%s is missing or was changed after it was verified; it is not used.", path)
            else:
                return one
        return None

    def _held(self, model: str) -> list[_Held]:
        """Returns each file that is held, once."""
        channels = self._state(model).channels.values()
        return list({self._kept(model, one): one for kept in channels for one in kept}.values())

    def _state_path(self, model: str) -> Path:
        return self.cache / "held" / f"{model}.json"

    def _state(self, model: str) -> _State:
        path = self._state_path(model)
        try:
            state = _State.from_json(path.read_text(encoding="utf-8"))
            for held in (one for kept in state.channels.values() for one in kept):
                if not _SHA256.fullmatch(held.sha256):
                    raise ConfigError(f"sha256 must be 64 hex digits; got {held.sha256!r}.")
        except FileNotFoundError:
            return _State({})
        except (OSError, ValueError) as error:
            _log.warning("%s is of no use, nothing is known of earlier models: %s", path, error)
            return _State({})
        return state

    def _hold(self, model: str, channel: str, held: _Held) -> None:
        """Notes the file as the channel's current one, and removes those that nothing notes any more."""
        state = self._state(model)
        before = [one for one in state.channels.get(channel, ()) if one.sha256 != held.sha256]
        good = [one for one in before if self._kept(model, one).exists()]
        self._write_state(model, _State({**state.channels, channel: (held, *good)[:_KEPT]}))

    def _forget_withdrawn(self, session: _Session, model: str) -> None:
        state = self._state(model)
        left = {}
        for channel, kept in state.channels.items():
            left[channel] = tuple(one for one in kept if not _taken_back(session.updater, model, one))
        if left != state.channels:
            self._write_state(model, _State(left))

    def _write_state(self, model: str, state: _State) -> None:
        files.write_atomically(self._state_path(model), state.to_json().encode())
        held = self._held(model)
        wanted = {self._kept(model, one) for one in held}
        newest = max((one.rollout.version for one in held), default=0)
        for path in (self.cache / "targets" / model).glob("[0-9]*/*"):
            may_go_on = path.suffix == ".part" and int(path.parent.name) > newest
            if path not in wanted and path.suffix != ".json" and not may_go_on:
                path.unlink()

    # How an operation runs.

    @property
    def _metadata(self) -> Path:
        return self.cache / "metadata"

    @contextlib.contextmanager
    def _session(self) -> Iterator[_Session]:
        with Deadline(self.limits) as deadline, self._translated(), self._locked(deadline):
            transport = FolderTransport(self._folder) if self._folder else HttpTransport(deadline)
            try:
                fetcher = Fetcher(transport, deadline)
                for pattern in ("metadata/tmp*", "held/.*", "targets/*/channels/.*"):
                    for leftover in self.cache.glob(pattern):  # of a process that was killed
                        leftover.unlink()
                updater = Updater(
                    metadata_dir=str(self._metadata),
                    metadata_base_url=f"{self._url}/metadata/",
                    fetcher=fetcher,
                    bootstrap=self._root,
                )
                yield _Session(updater, fetcher)
            finally:
                transport.close()

    @contextlib.contextmanager
    def _locked(self, deadline: Deadline) -> Iterator[None]:
        """The updater is not made for two processes in one cache."""
        self._metadata.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.cache / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if deadline.passed:
                        raise RegistryError(
                            f"Cache {self.cache} must be free within {self.limits.total_s:g} s; another "
                            "process uses it. Wait for it to end, or end it."
                        ) from error
                    time.sleep(0.01)
            yield
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ConfigError:
            raise
        except OSError as error:  # a transport's own come as a DownloadError
            raise ConfigError(
                f"Cache must be a folder that can be written; {error.filename or self.cache}: "
                f"{error.strerror or error}. Make it writable, free space, or name another."
            ) from error
        except (RepositoryError, DownloadError, ValueError, RecursionError) as error:
            raise RegistryError(f"Registry {self.location} was refused: {_reason(error)}") from error


def check_location(location: str) -> None:
    """Checks that `location` is one that a client can fetch from; reads nothing.

    Raises:
      ConfigError: It is neither a path nor a file://, http:// or https:// URL.
    """
    locate(location)


def default_cache(location: str) -> Path:
    """Returns the folder where this user's clients keep what they have seen of a registry.

    Raises:
      ConfigError: The location is none.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "tfx-mobile" / "registry" / hashlib.sha256(locate(location)[0].encode()).hexdigest()[:16]


def _place(target: TargetFile) -> str:
    """Returns where a target lies below `targets/`: its name has its sha256 in front."""
    folder, _, name = target.path.rpartition("/")
    return f"{folder}/{target.hashes['sha256']}.{name}"


def _partial(kept: Path) -> Path:
    return kept.with_name(f".{kept.name}.part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _holds(path: Path, held: _Held) -> bool:
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content).hexdigest() == held.sha256


def _taken_back(updater: Updater, model: str, held: _Held) -> bool:
    path = names.model_path(model, held.rollout.version, held.rollout.variant)
    target = updater.get_targetinfo(path)
    return target is not None and bool(records.withdrawn(target))


def _reason(error: Exception) -> str:
    if isinstance(error, ExpiredMetadataError):
        return (
            f"{error}. It may be an old copy; or its publisher has to run `tfx-mobile registry refresh`; or "
            f"the clock here is wrong, it says {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}."
        )
    if isinstance(error, UnsignedMetadataError):
        return (
            f"{error} that the root trusts. It is signed by somebody else, or the root is another registry's."
        )
    if isinstance(error, BadVersionNumberError):
        if str(error).startswith("Expected root"):
            return f"{error}. Its publisher has to put back the roots in between."
        return f"{error}. It is older than what this client has seen."
    if isinstance(error, (LengthOrHashMismatchError, DownloadLengthMismatchError)):
        return f"a file differs from what was signed: {error}."
    if isinstance(error, DownloadHTTPError):
        return f"a file is missing or not served: {error}."
    cause = error.__cause__ or error
    if cause is error or not str(error):
        return f"{cause}."
    return f"{error} ({type(cause).__name__}: {cause})."
