"""A whole repository as values, for people: every model, file, channel and signature, verified from the root.

Needs the place and a trusted root, and no key. Whatever is in a `Catalogue` was signed, and the bytes of
every file in it were compared with what was signed. Expiry is told and not judged: a registry that has run
out is still worth looking at. Draws nothing.
Source: The Update Framework 1.0.31, section 5, "Detailed client workflow", as chain.py does it.
"""

import dataclasses
import datetime
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import (  # type: ignore[attr-defined]  # typed, but re-exported without saying so
    Role,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry import names, records
from tfx_mobile.registry.chain import TIMESTAMP_PATH, load_chain
from tfx_mobile.registry.records import ChannelRecord, VersionRecord
from tfx_mobile.registry.repository import (
    ROOT_LIFETIME,
    SNAPSHOT_LIFETIME,
    TARGETS_LIFETIME,
    TIMESTAMP_LIFETIME,
)
from tfx_mobile.registry.storage import Storage

_LIFETIMES = {Root.type: ROOT_LIFETIME, Snapshot.type: SNAPSHOT_LIFETIME, Timestamp.type: TIMESTAMP_LIFETIME}
_NEAR_SHARE = 4  # a signature is near its end in the last quarter of its life
_SHA256 = re.compile(r"[0-9a-f]{64}")
_EVALUATION = "evaluation.html"


@dataclasses.dataclass(frozen=True)
class Signature:
    """What one role has signed, and until when it holds.

    Attributes:
      role: For example 'timestamp' or 'model-taxi-fare'.
      version: Of the metadata.
      expires: UTC.
      key_ids: Keys that may sign it, 64 hex digits each.
      threshold: How many of them must.
    """

    role: str
    version: int
    expires: datetime.datetime
    key_ids: tuple[str, ...]
    threshold: int

    def is_over(self, now: datetime.datetime) -> bool:
        """Returns whether phones refuse it at `now`."""
        return now >= self.expires

    def is_near(self, now: datetime.datetime) -> bool:
        """Returns whether it is in the last quarter of the life that our publisher gives it, or over."""
        return self.expires - now < _LIFETIMES.get(self.role, TARGETS_LIFETIME) / _NEAR_SHARE


@dataclasses.dataclass(frozen=True)
class File:
    """One published file and what lies beside it.

    Attributes:
      record: What was signed about it.
      deltas: Bytes of the patch, by the version that it starts from.
      attachments: Bytes of each file beside it, by name.
      evaluation: Its evaluation page; None when none is attached.
    """

    record: VersionRecord
    deltas: Mapping[int, int]
    attachments: Mapping[str, int]
    evaluation: TargetFile | None


@dataclasses.dataclass(frozen=True)
class Channel:
    """One channel and how it came to be.

    Attributes:
      record: What it offers now.
      history: Its records, newest first; the first is `record`.
      is_whole: The history reaches back to the first record; files of earlier ones may have been removed.
    """

    record: ChannelRecord
    history: tuple[ChannelRecord, ...]
    is_whole: bool


@dataclasses.dataclass(frozen=True)
class Model:
    """One model.

    Attributes:
      name: The model's name.
      files: Newest version first, then by variant.
      channels: By name.
      signature: Of the role that signs it.
    """

    name: str
    files: tuple[File, ...]
    channels: Mapping[str, Channel]
    signature: Signature


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """A repository at one moment.

    Attributes:
      models: By name, sorted.
      signatures: Of root, timestamp, snapshot and targets, in this order.
      storage: Where it was read from.
    """

    models: Mapping[str, Model]
    signatures: tuple[Signature, ...]
    storage: Storage


def read(storage: Storage, trusted_root: bytes, *, where: str) -> Catalogue:
    """Reads and verifies a repository.

    Args:
      storage: With `metadata` and `targets`.
      trusted_root: A root that is trusted for another reason than lying there.
      where: Where the trusted root comes from, for messages.

    Raises:
      RegistryError: There is no repository, or a file of it is missing or differs from what was signed.
    """
    place = storage.place("").rstrip("/")
    try:
        is_there = storage.exists(TIMESTAMP_PATH)
    except OSError as error:
        raise RegistryError(f"Registry {place} must be reachable; {error.strerror or error}.") from error
    if not is_there:
        raise RegistryError(
            f"There must be a registry at {place}; there is none. Make one with "
            f"`tfx-mobile registry init {place}`."
        )
    chain = load_chain(storage, trusted_root, where=where)
    top = tuple(
        _signature(signed, name, chain.root.roles[name])
        for name, signed in (
            (Root.type, chain.root),
            (Timestamp.type, chain.timestamp),
            (Snapshot.type, chain.snapshot),
            (Targets.type, chain.targets),
        )
    )
    delegations = chain.targets.delegations
    delegated = (delegations.roles if delegations else None) or {}
    models = {}
    for model in chain.models():
        name, role = names.role_name(model), chain.role(model)
        models[model] = Model(
            model,
            _files(storage, model, role),
            _channels(storage, model, role),
            _signature(role, name, delegated[name]),
        )
    return Catalogue(models, top, storage)


def read_target(storage: Storage, file: TargetFile) -> bytes:
    """Returns the bytes of a verified target, compared with what was signed.

    Raises:
      RegistryError: They are missing or differ.
    """
    for digest in file.hashes.values():
        if not re.fullmatch(r"[0-9a-f]+", digest):
            raise RegistryError(
                f"Target '{file.path}' must have hashes of hex digits; got {digest!r}. It was not made by "
                "this registry's publisher."
            )
    path = f"targets/{file.get_prefixed_paths()[0]}"
    place = storage.place(path)
    try:
        content = storage.read(path)
        file.verify_length_and_hashes(content)
    except OSError as error:
        raise RegistryError(
            f"Target '{file.path}' must be at {place}; {error.strerror or error}. Restore it from a backup."
        ) from error
    except LengthOrHashMismatchError as error:
        raise RegistryError(
            f"Target '{file.path}' must have the length and sha256 that were signed; {place}: {error}. "
            "It was changed after signing: restore it from a backup, or publish a new version."
        ) from error
    return content


def _signature(signed: Signed, name: str, role: Role) -> Signature:
    return Signature(name, signed.version, signed.expires, tuple(role.keyids), role.threshold)


def _files(storage: Storage, model: str, role: Targets) -> tuple[File, ...]:
    notes: dict[tuple[int, str], bytes] = {}
    deltas: dict[tuple[int, str], dict[int, int]] = {}
    attached: dict[tuple[int, str], dict[str, TargetFile]] = {}
    held: dict[tuple[int, str], TargetFile] = {}
    for path, file in role.targets.items():
        if (delta := names.delta_in_path(model, path)) is not None:
            read_target(storage, file)
            deltas.setdefault(delta[:2], {})[delta[2]] = file.length
        elif (attachment := names.attachment_in_path(model, path)) is not None:
            read_target(storage, file)
            attached.setdefault(attachment[:2], {})[attachment[2]] = file
        elif (key := names.file_in_path(model, path)) is not None:
            read_target(storage, file)
            held[key] = file
            beside = role.targets.get(names.record_path(model, *key))
            if beside is None:
                raise RegistryError(
                    f"'{path}' must have a record beside it, '{names.record_path(model, *key)}'; there is "
                    "none. It was not made by this registry's publisher."
                )
            notes[key] = read_target(storage, beside)
    found = []
    for key in sorted(held, key=lambda one: (-one[0], one[1] != names.DEFAULT_VARIANT, one[1])):
        beside_it = attached.get(key, {})
        found.append(
            File(
                records.read_version(model, *key, held[key], notes[key]),
                dict(sorted(deltas.get(key, {}).items(), reverse=True)),
                {name: file.length for name, file in sorted(beside_it.items())},
                beside_it.get(_EVALUATION),
            )
        )
    return tuple(found)


def _channels(storage: Storage, model: str, role: Targets) -> dict[str, Channel]:
    found = {}
    for path, file in sorted(role.targets.items()):
        if (name := names.channel_in_path(model, path)) is not None:
            record = records.read_channel(model, name, read_target(storage, file))
            history = _history(storage, record)
            found[name] = Channel(record, history, history[-1].sequence == 1)
    return found


def _history(storage: Storage, newest: ChannelRecord) -> tuple[ChannelRecord, ...]:
    """Follows the hashes back as far as the files are there; each is signed by the record after it."""
    found = [newest]
    while sha256 := found[-1].previous_sha256:
        last = found[-1]
        where = f"Record {last.sequence - 1} of channel '{last.channel}' of '{last.model}'"
        if not _SHA256.fullmatch(sha256):
            raise RegistryError(
                f"{where} must be named by a sha256; got {sha256!r}. It was not made by this registry's "
                "publisher."
            )
        try:
            content = storage.read(f"targets/{last.model}/channels/{sha256}.{last.channel}.json")
        except FileNotFoundError:
            break
        except OSError as error:
            raise RegistryError(f"{where} must be readable; {error.strerror or error}.") from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise RegistryError(
                f"{where} must have the sha256 that was signed, {sha256}; it has another. It was changed "
                "after signing: restore it from a backup."
            )
        record = records.read_channel(last.model, last.channel, content)
        if record.sequence != last.sequence - 1:
            raise RegistryError(
                f"{where} must be number {last.sequence - 1}; got {record.sequence}. It was not made by "
                "this registry's publisher."
            )
        found.append(record)
    return tuple(found)


def read_root(path: Path) -> bytes:
    """Returns the bytes of the root to trust.

    Raises:
      ConfigError: The file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"Trusted root must be a file that can be read; {path}: {error.strerror}. "
            "The publisher finds it in the keys folder as root.json."
        ) from error
