"""The publisher's side of the registry: a TUF repository in a local folder, and the keys beside it.

```
<registry>/metadata/N.root.json  N.targets.json  N.model-<model>.json  N.snapshot.json  timestamp.json
<registry>/targets/<model>/<version>/<sha256>.model.tflite    <model>/channels/<sha256>.<channel>.json
<registry>.keys/<role>.pem  root.json (what a phone trusts)  timestamp.json (the last one signed)
```

The folder `<registry>` is static files for any web server. A change is written in the order targets, roles,
snapshot, timestamp, each atomically and read back: until the timestamp is replaced nobody sees any of it, so
a publisher that dies at any point leaves the repository as it was, and the next one goes on. One publisher
at a time: a lock file in the repository. Does not serve and does not delete what has been superseded.
Source: The Update Framework 1.0.31 (consistent snapshots, section 6.2; delegations, section 4.5).
"""

import contextlib
import dataclasses
import datetime
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]
from tuf.api.exceptions import LengthOrHashMismatchError, RepositoryError
from tuf.api.metadata import (  # type: ignore[attr-defined]
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from tfx_mobile.common import files
from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry import keys as key_files
from tfx_mobile.registry import names, records
from tfx_mobile.registry.chain import Chain, check_fresh, load_chain, load_root
from tfx_mobile.registry.records import ChannelRecord, VersionRecord

# How long a signature holds. A phone that is shown an old copy of the repository notices when the timestamp
# runs out, so that one is short; `refresh` renews it, and the others once half of their life is over.
ROOT_LIFETIME = datetime.timedelta(days=730)
TARGETS_LIFETIME = datetime.timedelta(days=365)
SNAPSHOT_LIFETIME = datetime.timedelta(days=90)
TIMESTAMP_LIFETIME = datetime.timedelta(days=30)
LOCK_TIMEOUT_S = 120.0

_TOP_ROLES = (Root.type, Targets.type, Snapshot.type, Timestamp.type)
SignedT = TypeVar("SignedT", Root, Timestamp, Snapshot, Targets)


@dataclasses.dataclass(frozen=True)
class Published:
    """What `Registry.publish` left in the registry.

    Attributes:
      model: The model's name.
      version: The version that holds the bytes.
      channel: The channel published to.
      channel_version: The version that channel points to now; greater than `version` only when an older
        version was published again.
      sha256: Of the bytes, 64 hex digits.
      size_bytes: Of the bytes.
      created: False when the version was there already, with the same bytes.
      path: The file in the repository.
    """

    model: str
    version: int
    channel: str
    channel_version: int
    sha256: str
    size_bytes: int
    created: bool
    path: Path


@dataclasses.dataclass(frozen=True)
class Verified:
    """One file that `Registry.verify` found to be as signed.

    Attributes:
      path: Relative to the repository.
      what: Its content, for people.
    """

    path: str
    what: str


@dataclasses.dataclass(frozen=True)
class _Write:
    path: Path
    content: bytes
    mode: int = 0o644


class Registry:
    """A mobile model registry that this process may publish to.

    Opening reads nothing; each call reads and verifies the repository anew, from the root in the keys folder
    downwards. A call that raises has changed nothing.

    Args:
      repository: A local folder.
      keys: The folder of the private keys, outside `repository`; default: `<repository>.keys` beside it.

    Raises:
      ConfigError: `repository` is a URI, or `keys` lies inside `repository`.
    """

    def __init__(self, repository: Path, keys: Path | None = None) -> None:
        if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:/", str(repository)):
            raise ConfigError(
                f"Registry must be a local folder; got {str(repository)!r}. Publish to a folder and copy it."
            )
        self.repository = Path(os.path.abspath(repository))
        self.keys = (
            self.repository.with_name(f"{self.repository.name}.keys")
            if keys is None
            else Path(os.path.abspath(keys))
        )
        if self.keys.resolve().is_relative_to(self.repository.resolve()):
            raise ConfigError(
                f"Keys must be kept outside the repository, which is served; got {self.keys} "
                f"in {self.repository}. Name another folder."
            )

    @classmethod
    def create(cls, repository: Path, keys: Path | None = None) -> "Registry":
        """Makes an empty registry with new keys, or with those an interrupted `create` has left.

        Raises:
          RegistryError: There is a registry already, or the keys are those of another one.
        """
        registry = cls(repository, keys)
        if not registry._exists():
            registry._check_vacant()
            with registry._locked():
                if not registry._exists():
                    registry._create()
                    return registry
        raise RegistryError(
            f"There must be no registry at {registry.repository} yet; there is one. Publish to it, or name "
            "another folder."
        )

    @classmethod
    def open_or_create(cls, repository: Path, keys: Path | None = None) -> "Registry":
        """Opens the registry, and makes it first where there is none; safe under concurrent callers.

        Raises:
          RegistryError: There is none, and `create` refuses to make it.
        """
        registry = cls(repository, keys)
        if not registry._exists():
            registry._check_vacant()
            with registry._locked():
                if not registry._exists():
                    registry._create()
        return registry

    @property
    def root_path(self) -> Path:
        """The root file: public, and the one thing that a phone needs besides the registry's address."""
        return self.keys / "root.json"

    def publish(
        self,
        model: str,
        content: bytes,
        *,
        version: int | None = None,
        channel: str = "stable",
        metadata: Mapping[str, Any],
    ) -> Published:
        """Signs `content` as a version of `model` and points `channel` to it.

        Publishing the same bytes again is a no-op: with `version` when that version holds them, without it
        when the version that the channel points to holds them; the metadata that was signed first stays.
        A channel only moves forward here. The bytes are read back and compared with what was signed.

        Args:
          model: Name of the model, made on first use.
          content: The file; at least one byte.
          version: An integer >= 1 above every published one; None takes the next.
          channel: Name of the channel, made on first use.
          metadata: JSON without floats: integers, with the unit in the key.

        Returns:
          What phones can fetch now.

        Raises:
          ConfigError: A name, the version, the content or the metadata breaks a rule.
          RegistryError: The version holds other bytes or is older than the newest; a key is missing or not
            the registry's; the repository is damaged or cannot be written.
        """
        path = names.model_path(model, 1 if version is None else version)
        names.check_name("Channel", channel)
        if not isinstance(content, bytes) or not content:
            raise ConfigError(f"Content of '{path}' must be bytes, at least one; got {_described(content)}.")
        plain = records.checked_metadata(metadata)
        self._check_exists()
        with self._locked():
            chain = self._load()
            check_fresh(Root.type, chain.root, _now())
            role = chain.role(model) if model in chain.models() else Targets()
            held, pointed = _versions(model, role), self._channels(model, role)
            version, created = _choose_version(model, content, version, held, pointed.get(channel))
            added: list[tuple[TargetFile, bytes]] = []
            if created:
                target = records.version_target(
                    model, version, content, metadata=plain, published_unix_s=int(time.time())
                )
                added.append((target, content))
            if pointed.get(channel, 0) < version:
                note = ChannelRecord(model, channel, version).to_json().encode()
                added.append(
                    (TargetFile.from_data(names.channel_path(model, channel), note, ["sha256"]), note)
                )
            if added:
                self._commit_targets(chain, model, role, added)
            return self._published(model, version, channel, created=created)

    def models(self) -> list[str]:
        """Returns the names of the models, sorted."""
        return self._load().models()

    def versions(self, model: str) -> list[VersionRecord]:
        """Returns what was signed about each version of `model`, oldest first.

        Raises:
          RegistryError: There is no such model, or the repository is damaged.
        """
        held = _versions(model, self._role(model))
        return [held[version] for version in sorted(held)]

    def channels(self, model: str) -> dict[str, int]:
        """Returns the version each channel of `model` points to.

        Raises:
          RegistryError: There is no such model, or the repository is damaged.
        """
        return self._channels(model, self._role(model))

    def verify(self) -> list[Verified]:
        """Checks every signature, version, length, sha256 and expiry, and every file, from the root down.

        Returns:
          Each file that was checked.

        Raises:
          RegistryError: Names the first thing that is wrong.
        """
        now, chain = _now(), self._load()
        self._check_roots(chain)
        found = [
            _verified(f"{chain.root.version}.root.json", Root.type, chain.root, now),
            _verified("timestamp.json", Timestamp.type, chain.timestamp, now),
            _verified(f"{chain.snapshot.version}.snapshot.json", Snapshot.type, chain.snapshot, now),
            _verified(f"{chain.targets.version}.targets.json", Targets.type, chain.targets, now),
        ]
        for model in chain.models():
            role, name = chain.role(model), names.role_name(model)
            found.append(_verified(f"{role.version}.{name}.json", name, role, now))
            for target in role.targets.values():
                self._read_target(target)
                path = self._target_path(target).relative_to(self.repository)
                found.append(Verified(str(path), f"'{target.path}', {target.length} bytes"))
            held, pointed = _versions(model, role), self._channels(model, role)
            if dangling := sorted(channel for channel, version in pointed.items() if version not in held):
                raise RegistryError(
                    f"Channel '{dangling[0]}' of '{model}' must point to a version that is there; got "
                    f"{pointed[dangling[0]]}. Publish to the channel again."
                )
        return found

    def refresh(self) -> list[str]:
        """Signs the timestamp anew, and everything else that is past half of its life.

        Run it at least every `TIMESTAMP_LIFETIME`, for example weekly: phones refuse a registry whose
        timestamp has run out.

        Returns:
          The names of the roles that were signed.

        Raises:
          RegistryError: A key that is needed is missing; the repository is damaged or cannot be written.
        """
        self._check_exists()
        with self._locked():
            chain, now, signed = self._load(), _now(), []
            if _is_due(chain.root, ROOT_LIFETIME, now):
                self._renew_root(chain.root, now)
                signed.append(Root.type)
                chain = self._load()
            if chain.root_json != self._trusted_root():
                self._write_all([_Write(self.root_path, chain.root_json)], seen_at=self.root_path)
            due: dict[str, Targets] = {}
            for model in chain.models():
                role = chain.role(model)
                if _is_due(role, TARGETS_LIFETIME, now):
                    due[names.role_name(model)] = _next_targets(role, role.targets, role.delegations, now)
            if _is_due(chain.targets, TARGETS_LIFETIME, now):
                due[Targets.type] = _next_targets(
                    chain.targets, chain.targets.targets, chain.targets.delegations, now
                )
            renews_snapshot = bool(due) or _is_due(chain.snapshot, SNAPSHOT_LIFETIME, now)
            signers = {name: self._signer(name, chain.root, chain.targets) for name in due}
            writes = self._signed_writes(chain, due, signers, now, renews_snapshot=renews_snapshot)
            self._write_all(writes, seen_at=self._timestamp_path)
            return [*signed, *due, *([Snapshot.type] if renews_snapshot else []), Timestamp.type]

    # Reading.

    @property
    def _metadata(self) -> Path:
        return self.repository / "metadata"

    @property
    def _timestamp_path(self) -> Path:
        return self._metadata / "timestamp.json"

    @property
    def _memory_path(self) -> Path:
        return self.keys / "timestamp.json"

    def _exists(self) -> bool:
        return self._timestamp_path.exists()

    def _check_exists(self) -> None:
        if not self._exists() and not self._memory_path.exists():
            raise RegistryError(
                f"There must be a registry at {self.repository}; there is none. Make one with "
                f"`tfx-mobile registry init {self.repository}`."
            )

    def _load(self) -> Chain:
        newest = self._remembered()  # before the repository: a publisher may be at work
        self._check_exists()
        return load_chain(
            self._metadata, self._trusted_root(), where=str(self.root_path), newest_timestamp=newest
        )

    def _trusted_root(self) -> bytes:
        try:
            return self.root_path.read_bytes()
        except OSError as error:
            raise RegistryError(
                f"Trusted root of the registry must be at {self.root_path}; {error.strerror}. "
                "Name the registry's own keys folder."
            ) from error

    def _check_roots(self, chain: Chain) -> None:
        """Checks that a phone with the very first root gets to the newest."""
        path = self._metadata / "1.root.json"
        try:
            first = path.read_bytes()
        except OSError as error:
            raise RegistryError(
                f"Registry metadata must be at {path}; {error.strerror}. Restore it from a backup."
            ) from error
        if load_root(self._metadata, first, where=str(path))[1] != chain.root_json:
            raise RegistryError(
                f"{path} must lead to the root that is trusted, {self.root_path}; it does not. "
                "It was changed by somebody else: restore it from a backup."
            )

    def _remembered(self) -> int:
        try:
            return Metadata[Timestamp].from_bytes(self._memory_path.read_bytes()).signed.version
        except FileNotFoundError:
            return 0
        except (OSError, RepositoryError) as error:
            raise RegistryError(
                f"{self._memory_path} must hold the last timestamp signed; it cannot be read. Copy "
                f"{self._timestamp_path} there once you know that it is the newest."
            ) from error

    def _role(self, model: str) -> Targets:
        names.check_name("Model", model)
        chain = self._load()
        if model not in (known := chain.models()):
            raise RegistryError(
                f"There must be a model '{model}' in {self.repository}; it has {', '.join(known) or 'none'}."
            )
        return chain.role(model)

    def _channels(self, model: str, role: Targets) -> dict[str, int]:
        found: dict[str, int] = {}
        for path in sorted(role.targets):
            if (channel := names.channel_in_path(model, path)) is not None:
                content = self._read_target(role.targets[path])
                found[channel] = records.read_channel(model, channel, content).version
        return found

    def _target_path(self, target: TargetFile) -> Path:
        return self.repository / "targets" / target.get_prefixed_paths()[0]

    def _read_target(self, target: TargetFile) -> bytes:
        path = self._target_path(target)
        try:
            content = path.read_bytes()
            target.verify_length_and_hashes(content)
        except OSError as error:
            raise RegistryError(
                f"Target '{target.path}' must be at {path}; {error.strerror}. Restore it from a backup."
            ) from error
        except LengthOrHashMismatchError as error:
            raise RegistryError(
                f"Target '{target.path}' must have the length and sha256 that were signed; {path}: {error}. "
                "It was changed after signing: restore it from a backup, or publish a new version."
            ) from error
        return content

    def _published(self, model: str, version: int, channel: str, *, created: bool) -> Published:
        role = self._role(model)
        target = role.targets[names.model_path(model, version)]
        self._read_target(target)
        return Published(
            model=model,
            version=version,
            channel=channel,
            channel_version=self._channels(model, role)[channel],
            sha256=target.hashes["sha256"],
            size_bytes=target.length,
            created=created,
            path=self._target_path(target),
        )

    # Signing: all in memory before the first write, so that a missing key stops a change in time.

    def _check_vacant(self) -> None:
        if self._memory_path.exists() and not self._exists():
            raise RegistryError(
                f"Registry of the keys in {self.keys} must be at {self.repository}; its timestamp.json is "
                "missing. Restore the repository from a backup, or name another keys folder to begin anew."
            )
        if any(self._metadata.glob("*.json")) and not self.root_path.exists():
            raise RegistryError(
                f"{self._metadata} must be empty or made with the keys in {self.keys}; it holds other "
                "metadata. Name another folder."
            )

    def _create(self) -> None:
        self._check_vacant()
        now, writes, signers = _now(), [], {}
        for name in _TOP_ROLES:
            signers[name], made = self._signer_on_first_use(name)
            writes += made
        if self.root_path.exists():
            content = self._trusted_root()
            root, _ = load_root(self._metadata, content, where=str(self.root_path))
            signers = {name: self._signer(name, root, root) for name in _TOP_ROLES}
        else:
            root = Root(expires=now + ROOT_LIFETIME, consistent_snapshot=True)
            for name in _TOP_ROLES:
                root.add_key(signers[name].public_key, name)
            content = _sign(root, signers[Root.type])
            writes.append(_Write(self.root_path, content))
        targets = Targets(expires=now + TARGETS_LIFETIME, delegations=Delegations({}, {}))
        targets_json = _sign(targets, signers[Targets.type])
        meta = {"targets.json": MetaFile.from_data(1, targets_json, ["sha256"])}
        snapshot_json = _sign(Snapshot(expires=now + SNAPSHOT_LIFETIME, meta=meta), signers[Snapshot.type])
        timestamp_json = _sign(
            Timestamp(
                expires=now + TIMESTAMP_LIFETIME,
                snapshot_meta=MetaFile.from_data(1, snapshot_json, ["sha256"]),
            ),
            signers[Timestamp.type],
        )
        writes += [
            _Write(self._metadata / "1.root.json", content),
            _Write(self._metadata / "1.targets.json", targets_json),
            _Write(self._metadata / "1.snapshot.json", snapshot_json),
            _Write(self._timestamp_path, timestamp_json),
            _Write(self._memory_path, timestamp_json),
        ]
        self._write_all(writes, seen_at=self._timestamp_path)

    def _commit_targets(
        self, chain: Chain, model: str, role: Targets, added: Sequence[tuple[TargetFile, bytes]]
    ) -> None:
        now, name = _now(), names.role_name(model)
        changed: dict[str, Targets] = {}
        writes: list[_Write] = []
        signers: dict[str, CryptoSigner] = {}
        targets = {**role.targets, **{target.path: target for target, _ in added}}
        if model in chain.models():
            changed[name] = _next_targets(role, targets, None, now)
            signers[name] = self._signer(name, chain.root, chain.targets)
        else:
            signers[name], writes = self._signer_on_first_use(name)
            changed[name] = Targets(expires=now + TARGETS_LIFETIME, targets=targets)
            delegations = _delegating(chain.targets.delegations, model, signers[name])
            changed[Targets.type] = _next_targets(chain.targets, chain.targets.targets, delegations, now)
            signers[Targets.type] = self._signer(Targets.type, chain.root, chain.targets)
        writes += [_Write(self._target_path(target), content) for target, content in added]
        writes += self._signed_writes(chain, changed, signers, now, renews_snapshot=True)
        self._write_all(writes, seen_at=self._timestamp_path)

    def _signed_writes(
        self,
        chain: Chain,
        changed: Mapping[str, Targets],
        signers: Mapping[str, CryptoSigner],
        now: datetime.datetime,
        *,
        renews_snapshot: bool,
    ) -> list[_Write]:
        writes: list[_Write] = []
        snapshot_meta = chain.timestamp.snapshot_meta
        if renews_snapshot:
            meta = dict(chain.snapshot.meta)
            for name, role in changed.items():
                content = _sign(role, signers[name])
                meta[f"{name}.json"] = MetaFile.from_data(role.version, content, ["sha256"])
                writes.append(_Write(self._metadata / f"{role.version}.{name}.json", content))
            version = chain.snapshot.version + 1
            snapshot = Snapshot(version=version, expires=now + SNAPSHOT_LIFETIME, meta=meta)
            content = _sign(snapshot, self._signer(Snapshot.type, chain.root, chain.targets))
            snapshot_meta = MetaFile.from_data(version, content, ["sha256"])
            writes.append(_Write(self._metadata / f"{version}.snapshot.json", content))
        timestamp = Timestamp(
            version=chain.timestamp.version + 1,
            expires=now + TIMESTAMP_LIFETIME,
            snapshot_meta=snapshot_meta,
        )
        content = _sign(timestamp, self._signer(Timestamp.type, chain.root, chain.targets))
        return [*writes, _Write(self._timestamp_path, content), _Write(self._memory_path, content)]

    def _renew_root(self, root: Root, now: datetime.datetime) -> None:
        newer = Root(
            version=root.version + 1,
            expires=now + ROOT_LIFETIME,
            keys=root.keys,
            roles=root.roles,
            consistent_snapshot=True,
        )
        content = _sign(newer, self._signer(Root.type, root, root))
        path = self._metadata / f"{newer.version}.root.json"
        self._write_all([_Write(path, content)], seen_at=path)

    def _signer(self, name: str, root: Root, targets: Root | Targets) -> CryptoSigner:
        delegator = root if name in _TOP_ROLES else targets
        return key_files.load_signer_for(self.keys, name, delegator.get_delegated_role(name))

    def _signer_on_first_use(self, name: str) -> tuple[CryptoSigner, list[_Write]]:
        path = key_files.key_path(self.keys, name)
        if path.exists():  # left by a publisher that was interrupted before it signed with it
            return key_files.load_signer(self.keys, name), []
        signer = key_files.make_signer()
        return signer, [_Write(path, signer.private_bytes, 0o600)]

    # Writing.

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        path = self.repository / ".lock"
        try:
            self.repository.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RegistryError(
                f"Registry folder {self.repository} must be writable; {error.strerror}. "
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
            yield
        finally:
            os.close(handle)

    def _write_all(self, writes: Sequence[_Write], *, seen_at: Path) -> None:
        """Writes in order, reading each file back; removes what it made when it fails before `seen_at`."""
        made: list[Path] = []
        try:
            self.keys.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self.repository, self._metadata, self.repository / "targets", self.keys):
                folder.mkdir(exist_ok=True)
                if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
                    raise RegistryError(
                        f"Folder {folder} must be writable; it is not. Run as the user who owns it."
                    )
            for write in writes:
                if not write.path.exists():
                    made.append(write.path)
                self._write(write.path, write.content, write.mode)
                if _sha256(write.path.read_bytes()) != _sha256(write.content):
                    raise RegistryError(
                        f"{write.path} must hold what was written; it holds something else. Check the disk."
                    )
        except BaseException as error:
            final = next(write for write in writes if write.path == seen_at)
            if not _holds(seen_at, final.content):
                for path in made:
                    with contextlib.suppress(OSError):
                        path.unlink()
            if isinstance(error, OSError):
                raise RegistryError(
                    f"Registry must be writable; {error.filename or self.repository}: {error.strerror}. "
                    "Free the space or run as the user who owns it, then publish again."
                ) from error
            raise

    def _write(self, path: Path, content: bytes, mode: int) -> None:
        """Writes one file so that it lasts; the only place that changes the disk."""
        for leftover in path.parent.glob(f".{path.name}.*"):  # of a publisher that died; the lock is ours
            leftover.unlink()
        files.write_atomically(path, content, mode=mode)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _choose_version(
    model: str, content: bytes, version: int | None, held: Mapping[int, VersionRecord], pointed: int | None
) -> tuple[int, bool]:
    """Returns the version to publish as, and whether it is new."""
    sha256, newest = _sha256(content), max(held, default=0)
    if version is None:
        if pointed is not None and pointed in held and held[pointed].sha256 == sha256:
            return pointed, False
        return newest + 1, True
    if version in held:
        if held[version].sha256 != sha256:
            raise RegistryError(
                f"Registry refused version {version} of '{model}': {version} already holds "
                f"sha256:{held[version].sha256}; push a new version or the same bytes."
            )
        return version, False
    if version < newest:
        raise RegistryError(
            f"Registry refused version {version} of '{model}': the newest is {newest}, and versions only "
            f"grow; push {newest + 1} or later."
        )
    return version, True


def _versions(model: str, role: Targets) -> dict[int, VersionRecord]:
    found = {names.version_in_path(model, path): target for path, target in role.targets.items()}
    return {v: records.read_version(model, v, target) for v, target in found.items() if v is not None}


def _delegating(old: Delegations | None, model: str, signer: CryptoSigner) -> Delegations:
    key, name = signer.public_key, names.role_name(model)
    role = DelegatedRole(name, [key.keyid], 1, terminating=True, paths=names.delegated_paths(model))
    known: Mapping[str, DelegatedRole] = (old.roles if old else None) or {}
    return Delegations({**(old.keys if old else {}), key.keyid: key}, {**known, name: role})


def _next_targets(
    old: Targets,
    targets: Mapping[str, TargetFile],
    delegations: Delegations | None,
    now: datetime.datetime,
) -> Targets:
    return Targets(
        version=old.version + 1,
        expires=now + TARGETS_LIFETIME,
        targets=dict(targets),
        delegations=delegations,
    )


def _sign(signed: SignedT, signer: CryptoSigner) -> bytes:
    metadata = Metadata(signed)
    metadata.sign(signer)
    return metadata.to_bytes()


def _is_due(signed: Signed, lifetime: datetime.timedelta, now: datetime.datetime) -> bool:
    return signed.expires - now < lifetime / 2


def _verified(file: str, name: str, signed: Signed, now: datetime.datetime) -> Verified:
    check_fresh(name, signed, now)
    return Verified(f"metadata/{file}", f"{name} version {signed.version}, until {signed.expires:%Y-%m-%d}")


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False


def _described(content: Any) -> str:
    return "none" if content == b"" else type(content).__name__


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
