"""Reads a repository from a trusted root downwards, believing nothing that is not signed.

Every file is checked as a phone checks it: signature, version, length, sha256. Two things differ, because a
publisher has to be able to renew what has run out: expiry is reported by `check_fresh` and not on loading,
and rollback is judged against `newest_timestamp`, the last version that the publisher remembers.
Does not write and does not read target files.
Source: The Update Framework 1.0.31, section 5, "Detailed client workflow".
"""

import dataclasses
import datetime
from collections.abc import Mapping
from typing import TypeVar

from tuf.api.exceptions import LengthOrHashMismatchError, RepositoryError
from tuf.api.metadata import (  # type: ignore[attr-defined]  # typed, but re-exported without saying so
    DelegatedRole,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
)

from tfx_mobile.common.errors import RegistryError
from tfx_mobile.registry import names
from tfx_mobile.registry.storage import Storage

TIMESTAMP_PATH = "metadata/timestamp.json"
_WHAT_TO_DO = (
    "Somebody else has used its key: restore the repository from a backup, and put a new key in place of it "
    "with `tfx-mobile registry rotate`."
)
SignedT = TypeVar("SignedT", Root, Timestamp, Snapshot, Targets)


@dataclasses.dataclass(frozen=True)
class Chain:
    """The verified top of a repository, at one moment.

    Attributes:
      storage: Where it lies.
      root: The newest root that the trusted one leads to.
      root_json: Its verified bytes.
      timestamp: Signed by the root's timestamp key.
      snapshot: The one the timestamp names.
      targets: The one the snapshot names; delegates to one role per model.
    """

    storage: Storage
    root: Root
    root_json: bytes
    timestamp: Timestamp
    snapshot: Snapshot
    targets: Targets

    def models(self) -> list[str]:
        """Returns the models that have a delegated role, sorted."""
        return sorted(model for role in self._roles() if (model := names.model_of_role(role)) is not None)

    def role(self, model: str) -> Targets:
        """Reads and verifies the role of `model`, one of `models()`.

        Raises:
          RegistryError: A file is missing, or differs from what was signed.
        """
        name = names.role_name(model)
        role = _read_named(self.storage, name, Targets, self.snapshot.meta.get(f"{name}.json"), self.targets)
        delegated = self._roles()[name]
        if role.delegations is not None:
            raise RegistryError(
                f"Role '{name}' must only sign, and not delegate, which phones would follow; it does. "
                f"{_WHAT_TO_DO}"
            )
        if outside := sorted(
            path
            for path in role.targets
            if not (delegated.is_delegated_path(path) and names.is_path_of(model, path))
        ):
            raise RegistryError(
                f"Role '{name}' must only sign paths of model '{model}'; got '{outside[0]}'. {_WHAT_TO_DO}"
            )
        return role

    def signs_todays_paths(self, model: str) -> bool:
        """Returns whether the role of `model` may sign every path that `names` makes; older ones may not."""
        return self._roles()[names.role_name(model)].paths == names.delegated_paths(model)

    def _roles(self) -> Mapping[str, DelegatedRole]:
        delegations = self.targets.delegations
        return (delegations.roles if delegations else None) or {}


def load_chain(storage: Storage, trusted_root: bytes, *, where: str, newest_timestamp: int = 0) -> Chain:
    """Reads and verifies root, timestamp, snapshot and targets.

    Args:
      storage: Where the repository lies.
      trusted_root: A root that is trusted for another reason than lying in `folder`.
      where: Where the trusted root comes from, for messages.
      newest_timestamp: The version of the newest timestamp seen so far; 0 when none was.

    Raises:
      RegistryError: A file is missing, or differs from what was signed, or the timestamp is older than seen.
    """
    root, root_json = load_root(storage, trusted_root, where=where)
    try:
        return _load_below(storage, root, root_json, newest_timestamp)
    except RegistryError:
        if not _exists(storage, metadata_path(Root.type, root.version + 1)):
            raise
    # A key was rotated since the root was read: what is newer is signed by the key of a newer root.
    return load_chain(storage, root_json, where=where, newest_timestamp=newest_timestamp)


def _load_below(storage: Storage, root: Root, root_json: bytes, newest_timestamp: int) -> Chain:
    path = storage.place(TIMESTAMP_PATH)
    timestamp = _parsed(path, _read(storage, TIMESTAMP_PATH), Timestamp, root, Timestamp.type)
    if timestamp.version < newest_timestamp:
        raise RegistryError(
            f"{path} must not be older than the last one signed, version {newest_timestamp}; got version "
            f"{timestamp.version}. Somebody put an old copy of the repository in place: restore the newest."
        )
    snapshot = _read_named(storage, Snapshot.type, Snapshot, timestamp.snapshot_meta, root)
    targets = _read_named(storage, Targets.type, Targets, snapshot.meta.get("targets.json"), root)
    if targets.targets:
        raise RegistryError(
            f"Role 'targets' must only delegate; it signs '{min(targets.targets)}' itself. {_WHAT_TO_DO}"
        )
    _check_delegations(targets)
    return Chain(storage, root, root_json, timestamp, snapshot, targets)


def load_root(storage: Storage, trusted_root: bytes, *, where: str) -> tuple[Root, bytes]:
    """Follows the roots in `storage` from a trusted one to the newest.

    Returns:
      The newest root and its bytes, which are `trusted_root` when there is no newer one.

    Raises:
      RegistryError: The trusted root is no root, or a later root is not signed by the one before it.
    """
    content = trusted_root
    root = _parsed(where, content, Root, None, Root.type)
    _check_signature(where, Metadata[Root].from_bytes(content), root, Root.type)
    while _exists(storage, file := metadata_path(Root.type, root.version + 1)):
        path, content = storage.place(file), _read(storage, file)
        newer = _parsed(path, content, Root, root, Root.type)
        _check_signature(path, Metadata[Root].from_bytes(content), newer, Root.type)
        if newer.version != root.version + 1:
            raise RegistryError(
                f"{path} must be root version {root.version + 1}; got {newer.version}. "
                "Restore it from a backup."
            )
        root = newer
    if not root.consistent_snapshot:
        raise RegistryError(
            f"Root version {root.version} must say consistent_snapshot; it does not: no phone finds a file. "
            f"{_WHAT_TO_DO}"
        )
    return root, content


def metadata_path(name: str, version: int) -> str:
    """Returns where a version of a role's metadata lies; the timestamp has no version in its name."""
    return TIMESTAMP_PATH if name == Timestamp.type else f"metadata/{version}.{name}.json"


def check_fresh(name: str, signed: Signed, now: datetime.datetime) -> None:
    """Checks that metadata has not run out.

    Raises:
      RegistryError: It has; `now` is at or after its expiry.
    """
    if signed.is_expired(now):
        raise RegistryError(
            f"Metadata '{name}' must not be expired; it ran out on {signed.expires:%Y-%m-%d %H:%M} UTC. "
            "Run `tfx-mobile registry refresh` where the keys are."
        )


def _read_named(
    storage: Storage, name: str, kind: type[SignedT], meta: MetaFile | None, delegator: Root | Targets
) -> SignedT:
    if meta is None:
        raise RegistryError(
            f"Snapshot in {storage.place('metadata')} must name '{name}'; it does not. Restore the "
            "repository from a backup."
        )
    file = metadata_path(name, meta.version)
    path, content = storage.place(file), _read(storage, file)
    try:
        meta.verify_length_and_hashes(content)
    except LengthOrHashMismatchError as error:
        raise RegistryError(
            f"{path} must have the length and sha256 that were signed; {error}. "
            "It was changed after signing: restore it from a backup."
        ) from error
    signed = _parsed(path, content, kind, delegator, name)
    if signed.version != meta.version:
        raise RegistryError(
            f"{path} must be version {meta.version}; got {signed.version}. Restore it from a backup."
        )
    return signed


def _check_delegations(targets: Targets) -> None:
    """Checks that each role is a model's: a phone asks any role whose patterns match, whatever its name."""
    delegations = targets.delegations
    if delegations is not None and delegations.succinct_roles is not None:
        raise RegistryError(f"Role 'targets' must delegate by model; it does by hash. {_WHAT_TO_DO}")
    for name, role in ((delegations.roles if delegations else None) or {}).items():
        model = names.model_of_role(name)
        if model is None or not all(path.startswith(f"{model}/") for path in role.paths or [""]):
            raise RegistryError(
                f"Role 'targets' must delegate to models, each for its own paths; got {name!a} for "
                f"{', '.join(role.paths or ['hashes of paths'])}. {_WHAT_TO_DO}"
            )


def _exists(storage: Storage, file: str) -> bool:
    try:
        return storage.exists(file)
    except OSError as error:
        raise _unreadable(storage.place(file), error) from error


def _read(storage: Storage, file: str) -> bytes:
    path = storage.place(file)
    try:
        return storage.read(file)
    except FileNotFoundError as error:
        raise RegistryError(
            f"Registry metadata must be at {path}; it is missing. Restore it from a backup."
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: OSError) -> RegistryError:
    return RegistryError(f"Registry metadata must be readable; {path}: {error.strerror or error}.")


def _parsed(
    path: str, content: bytes, kind: type[SignedT], delegator: Root | Targets | None, name: str
) -> SignedT:
    try:
        metadata = Metadata[SignedT].from_bytes(content)
    except RepositoryError as error:
        raise RegistryError(f"{path} must be TUF metadata; it is not. Restore it from a backup.") from error
    if not isinstance(metadata.signed, kind):
        raise RegistryError(
            f"{path} must be {kind.type} metadata; got {metadata.signed.type}. Restore it from a backup."
        )
    if delegator is not None:
        _check_signature(path, metadata, delegator, name)
    return metadata.signed


def _check_signature(path: str, metadata: Metadata[SignedT], delegator: Root | Targets, name: str) -> None:
    try:
        delegator.verify_delegate(name, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as error:  # also what cannot be signed, such as a float
        raise RegistryError(
            f"{path} must be signed by the key that the registry trusts for '{name}'; it is not. It was "
            "changed or signed by somebody else: restore it from a backup, do not sign it again."
        ) from error
