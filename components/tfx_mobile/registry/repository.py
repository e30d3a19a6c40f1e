"""A signed repository that this process may change: opening, making, committing, renewing, rotating keys.

```
<registry>/metadata/N.root.json  N.targets.json  N.model-<model>.json  N.snapshot.json  timestamp.json
<registry>/targets/<model>/<version>/<sha256>.model.tflite    <model>/channels/<sha256>.<channel>.json
<registry>.keys/<role>.pem  root.json (what a phone trusts)  timestamp.json (the last one signed)
```

A change is signed in memory, then written in the order targets, roles, snapshot, timestamp, each file all or
nothing and read back: until the timestamp is replaced nobody sees any of it, so a publisher that dies at any
point leaves the repository as it was, and the next one goes on. One publisher at a time: the storage's lock.
Knows roles and target files, not what a channel is; see `store`.
Source: The Update Framework 1.0.31 (consistent snapshots, section 6.2; delegations, section 4.5; key
rotation, section 6.1).
"""

import contextlib
import dataclasses
import datetime
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from securesystemslib.signer import Signer  # type: ignore[attr-defined]
from tuf.api.exceptions import LengthOrHashMismatchError, RepositoryError, UnsignedMetadataError
from tuf.api.metadata import (  # type: ignore[attr-defined]
    DelegatedRole,
    Delegations,
    Key,
    Metadata,
    MetaFile,
    Role,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.ngclient.config import UpdaterConfig

from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry import keys as key_files
from tfx_mobile.registry import names, storage
from tfx_mobile.registry.backend import scheme_of
from tfx_mobile.registry.chain import (
    TIMESTAMP_PATH,
    Chain,
    check_fresh,
    load_chain,
    load_root,
    metadata_path,
)
from tfx_mobile.registry.storage import FolderStorage, Storage

# How long a signature holds. A phone that is shown an old copy of the repository notices when the timestamp
# runs out, so that one is short; `refresh` renews it, and the others once half of their life is over.
ROOT_LIFETIME = datetime.timedelta(days=730)
TARGETS_LIFETIME = datetime.timedelta(days=365)
SNAPSHOT_LIFETIME = datetime.timedelta(days=90)
TIMESTAMP_LIFETIME = datetime.timedelta(days=30)
MAX_ROOT_KEYS = 9

# What a TUF client reads of a file at most, if nothing else is set: with more, no phone would be updated.
_MAX_BYTES = {
    Targets.type: UpdaterConfig.targets_max_length,
    Snapshot.type: UpdaterConfig.snapshot_max_length,
    Timestamp.type: UpdaterConfig.timestamp_max_length,
}
_TOP_ROLES = (Root.type, Targets.type, Snapshot.type, Timestamp.type)
_ROOT_FILE, _MEMORY_FILE = "root.json", "timestamp.json"
_log = logging.getLogger(__name__)
SignedT = TypeVar("SignedT", Root, Timestamp, Snapshot, Targets)
Added = Sequence[tuple[TargetFile, bytes]]


@dataclasses.dataclass(frozen=True)
class Write:
    """One change of one file.

    Attributes:
      storage: The repository's, or the keys folder's.
      path: Relative to it.
      content: None removes the file.
      mode: Permission bits in a folder.
      shows: Phones see the change when this is written, and what comes after is only the publisher's.
    """

    storage: Storage
    path: str
    content: bytes | None
    mode: int = 0o644
    shows: bool = False


class Repository:
    """The mechanics under `store.Registry`, which see for what the arguments are."""

    def __init__(self, repository: str | Path, keys: str | Path | None = None) -> None:
        self._storage = storage.open_storage(str(repository))
        local = isinstance(self._storage, FolderStorage)
        self.location = self._storage.place("").rstrip("/")
        if keys is None and not local:
            raise ConfigError(
                f"Keys of a registry in a bucket must be named, a local folder; got none for {self.location}."
            )
        if keys is not None and (scheme := scheme_of(str(keys))):
            raise ConfigError(
                f"Keys must be kept in a local folder, which is named by its path; got a URI of '{scheme}'."
            )
        beside = Path(f"{self.location}.keys")
        self.keys = beside if keys is None else Path(os.path.abspath(keys))
        if local and self.keys.resolve().is_relative_to(self.repository.resolve()):
            raise ConfigError(
                f"Keys must be kept outside the repository, which is served; got {self.keys} "
                f"in {self.location}. Name another folder."
            )
        self._key_storage = FolderStorage(self.keys, mode=0o700, follows_links=True)
        self._lock: storage.Lock | None = None

    @property
    def repository(self) -> Path:
        """The local folder that is served.

        Raises:
          ConfigError: The repository lies in a bucket.
        """
        if not isinstance(self._storage, FolderStorage):
            raise ConfigError(f"Registry must be a local folder for this; got {self.location}.")
        return self._storage.folder

    @property
    def root_path(self) -> Path:
        """The root file: public, and the one thing that a phone needs besides the registry's address."""
        return self.keys / _ROOT_FILE

    def refresh(self) -> list[str]:
        """Signs the timestamp anew, and everything else that is past half of its life.

        Run it at least every `TIMESTAMP_LIFETIME`, for example weekly: phones refuse a registry whose
        timestamp has run out. The root waits while its keys are elsewhere, until it has run out.

        Returns:
          The names of the roles that were signed.

        Raises:
          RegistryError: A key that is needed is missing; the repository is damaged or cannot be written.
        """
        self._check_exists()
        with self._locked():
            chain, now = self._load(), utc_now()
            roots: list[Write] = []
            signed: list[str] = []
            if self.is_root_due(chain.root):
                try:
                    roots.append(self._next_root(chain.root, lambda root: None)[1])
                    signed.append(Root.type)
                except RegistryError as error:  # its keys are elsewhere, where they should be
                    if chain.root.is_expired(now):
                        raise
                    _log.warning("The root runs out on %s: %s", f"{chain.root.expires:%Y-%m-%d}", error)
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
            rest = self._signed_writes(chain, due, {}, now, renews_snapshot=renews_snapshot)
            newest = roots[0].content if roots else chain.root_json
            if newest != self._trusted_root():
                roots.append(Write(self._key_storage, _ROOT_FILE, newest, shows=not roots))
            self._write_all(rest)
            if roots:  # last: a root that a phone has seen is never taken back
                self._write_all(roots)
            return [*signed, *due, *([Snapshot.type] if renews_snapshot else []), Timestamp.type]

    def root(self) -> Root:
        """Returns the newest root, verified."""
        return self._load().root

    def is_root_due(self, root: Root) -> bool:
        """Returns whether the root is past half of its life."""
        return _is_due(root, ROOT_LIFETIME, utc_now())

    def rotate_key(self, role: str, *, signer_uri: str | None = None) -> str:
        """Puts a new key in place of a role's: the old one signs nothing any more that a phone believes.

        At every moment the repository verifies, so phones notice nothing. Where it was interrupted, calling
        it again goes on with the same new key. Every role but a model's needs the root keys.

        Args:
          role: 'root' (all of its keys; 'root-2' is one of several), 'targets', 'snapshot', 'timestamp', or a
            model's role, 'model-<model>'.
          signer_uri: A key in a KMS or an HSM, see `keys.find_key`; None makes a new ed25519 key.

        Returns:
          The id of the new key; of several root keys, with spaces between.

        Raises:
          ConfigError: There is no such role, or the URI is not one.
          RegistryError: A key that is needed is missing; the repository is damaged or cannot be written.
        """
        self._check_exists()
        with self._locked():
            chain = self._load()
            model = names.model_of_role(role)
            root_names = key_files.root_key_names(len(chain.root.roles[Root.type].keyids))
            if role == Root.type or role in root_names:
                chosen = root_names if role == Root.type else [role]
                if signer_uri is not None and len(chosen) > 1:
                    raise ConfigError(f"Root key must be named, one of {', '.join(root_names)}; got 'root'.")
                return self._rotate_root(chain, chosen, signer_uri)
            if role in _TOP_ROLES:
                return self._rotate_top(chain, role, signer_uri)
            if model is not None and model in chain.models():
                return self._rotate_model(chain, model, signer_uri)
            known = [*_TOP_ROLES, *(root_names if len(root_names) > 1 else [])]
            known += [names.role_name(model) for model in chain.models()]
            raise ConfigError(f"Role must be one of {', '.join(known)}; got {role!r}.")

    # Reading.

    def _exists(self) -> bool:
        with self._reached():
            return self._storage.exists(TIMESTAMP_PATH)

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RegistryError(
                f"Registry {self.location} must be reachable; {error.strerror or error}. "
                "Check where it is, the network, and who may read it."
            ) from error

    def _check_exists(self) -> None:
        if not self._exists() and not self._key_storage.exists(_MEMORY_FILE):
            raise RegistryError(
                f"There must be a registry at {self.location}; there is none. Make one with "
                f"`tfx-mobile registry init {self.location}`."
            )

    def _load(self) -> Chain:
        newest = self._remembered()  # before the repository: a publisher may be at work
        self._check_exists()
        return load_chain(
            self._storage, self._trusted_root(), where=str(self.root_path), newest_timestamp=newest
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
        path = self._storage.place(metadata_path(Root.type, 1))
        # A key may have been rotated since the chain was read: what is newer is not wrong.
        newest, _ = load_root(self._storage, self._read_root(1), where=path)
        version = chain.root.version
        if newest.version < version or self._read_root(version) != chain.root_json:
            raise RegistryError(
                f"{path} must lead to the root that is trusted, {self.root_path}; it does not. "
                "It was changed by somebody else: restore it from a backup."
            )

    def _read_root(self, version: int) -> bytes:
        file = metadata_path(Root.type, version)
        try:
            return self._storage.read(file)
        except OSError as error:
            raise RegistryError(
                f"Registry metadata must be at {self._storage.place(file)}; {error.strerror or error}. "
                "Restore it from a backup."
            ) from error

    def _remembered(self) -> int:
        place = self._key_storage.place(_MEMORY_FILE)
        try:
            return Metadata[Timestamp].from_bytes(self._key_storage.read(_MEMORY_FILE)).signed.version
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise RegistryError(
                f"Keys folder must be readable; {place}: {error.strerror}. Run as the user who owns the keys."
            ) from error
        except RepositoryError as error:
            raise RegistryError(
                f"{place} must hold the last timestamp signed; it cannot be read. Copy "
                f"{self._storage.place(TIMESTAMP_PATH)} there once you know that it is the newest."
            ) from error

    def _role(self, model: str) -> Targets:
        names.check_name("Model", model)
        return self._role_in(self._load(), model)

    def _role_in(self, chain: Chain, model: str) -> Targets:
        if model not in (known := chain.models()):
            raise RegistryError(
                f"There must be a model '{model}' in {self.location}; it has {', '.join(known) or 'none'}."
            )
        return chain.role(model)

    def _target_file(self, target: TargetFile) -> str:
        return f"targets/{target.get_prefixed_paths()[0]}"

    def _read_target(self, target: TargetFile) -> bytes:
        file = self._target_file(target)
        path = self._storage.place(file)
        try:
            content = self._storage.read(file)
            target.verify_length_and_hashes(content)
        except OSError as error:
            raise RegistryError(
                f"Target '{target.path}' must be at {path}; {error.strerror or error}. "
                "Restore it from a backup."
            ) from error
        except LengthOrHashMismatchError as error:
            raise RegistryError(
                f"Target '{target.path}' must have the length and sha256 that were signed; {path}: {error}. "
                "It was changed after signing: restore it from a backup, or publish a new version."
            ) from error
        return content

    # Signing: all in memory before the first write, so that a missing key stops a change in time.

    def _check_vacant(self) -> None:
        for folder in self.keys.resolve().parents:
            if (folder / TIMESTAMP_PATH).exists():
                raise RegistryError(
                    f"Keys must be kept outside of every registry, which is served; got {self.keys} in "
                    f"{folder}. Name another folder."
                )
        if self._key_storage.exists(_MEMORY_FILE) and not self._exists():
            raise RegistryError(
                f"Registry of the keys in {self.keys} must be at {self.location}; its timestamp.json is "
                "missing. Restore the repository from a backup, or name another keys folder to begin anew."
            )
        with self._reached():
            # In this order: who makes it at this moment has written the root beside the keys before metadata.
            is_vacant = not self._storage.ages_s("metadata") or self.root_path.exists()
        if not is_vacant:
            raise RegistryError(
                f"{self._storage.place('metadata')} must be empty or made with the keys in {self.keys}; it "
                "holds other metadata. Name another folder."
            )

    def _create(self, root_keys: int = 1, root_threshold: int | None = None) -> None:
        self._check_vacant()
        root_names = key_files.root_key_names(root_keys)
        now, writes, signers = utc_now(), [], {}
        for name in (*root_names, *_TOP_ROLES[1:]):
            signers[name], made = self._signer_on_first_use(name)
            writes += made
        if self.root_path.exists():
            content = self._trusted_root()
            root, _ = load_root(self._storage, content, where=str(self.root_path))
            signers = {name: self._signer(name, root, None) for name in _TOP_ROLES[1:]}
        else:
            root = Root(expires=now + ROOT_LIFETIME, consistent_snapshot=True)
            for name, signer in signers.items():
                root.add_key(signer.public_key, Root.type if name in root_names else name)
            root.roles[Root.type].threshold = root_threshold or root_keys // 2 + 1
            content = _signed(root, *(signers[name] for name in root_names))
            writes.append(Write(self._key_storage, _ROOT_FILE, content))
        targets = Targets(expires=now + TARGETS_LIFETIME, delegations=Delegations({}, {}))
        targets_json = _signed(targets, signers[Targets.type])
        meta = {"targets.json": MetaFile.from_data(1, targets_json, ["sha256"])}
        snapshot_json = _signed(Snapshot(expires=now + SNAPSHOT_LIFETIME, meta=meta), signers[Snapshot.type])
        timestamp_json = _signed(
            Timestamp(
                expires=now + TIMESTAMP_LIFETIME,
                snapshot_meta=MetaFile.from_data(1, snapshot_json, ["sha256"]),
            ),
            signers[Timestamp.type],
        )
        writes += [
            Write(self._storage, metadata_path(Root.type, 1), content),
            Write(self._storage, metadata_path(Targets.type, 1), targets_json),
            Write(self._storage, metadata_path(Snapshot.type, 1), snapshot_json),
            Write(self._storage, TIMESTAMP_PATH, timestamp_json, shows=True),
            Write(self._key_storage, _MEMORY_FILE, timestamp_json),
        ]
        self._write_all(writes)

    def _commit(self, chain: Chain, roles: Mapping[str, Targets], added: Added) -> None:
        """Signs the next version of each model's role, with what `roles` has in it."""
        now = utc_now()
        changed: dict[str, Targets] = {}
        writes: list[Write] = []
        signers: dict[str, Signer] = {}
        delegations = chain.targets.delegations
        for model, role in roles.items():
            name = names.role_name(model)
            if model in chain.models():
                changed[name] = _next_targets(role, role.targets, None, now)
                signers[name] = self._signer(name, chain.root, chain.targets)
            else:
                signers[name], made = self._signer_on_first_use(name)
                writes += made
                changed[name] = Targets(expires=now + TARGETS_LIFETIME, targets=role.targets)
            if model not in chain.models() or not chain.signs_todays_paths(model):
                delegations = _delegating(delegations, model, signers[name])
        if delegations is not chain.targets.delegations or chain.targets.is_expired(now):
            changed[Targets.type] = _next_targets(chain.targets, chain.targets.targets, delegations, now)
        writes += [Write(self._storage, self._target_file(target), content) for target, content in added]
        writes += self._signed_writes(chain, changed, signers, now, renews_snapshot=True)
        self._write_all(writes)

    def _signed_writes(
        self,
        chain: Chain,
        changed: Mapping[str, Targets],
        signers: Mapping[str, Signer],
        now: datetime.datetime,
        *,
        renews_snapshot: bool,
    ) -> list[Write]:
        """Returns the metadata files of a commit; `signers` are those that are not yet trusted."""

        def sign(name: str, signed: SignedT) -> bytes:
            content = _signed(signed, signers.get(name) or self._signer(name, chain.root, chain.targets))
            if len(content) > (most := _MAX_BYTES[signed.type]):
                raise RegistryError(
                    f"Metadata '{name}' must have at most {most} bytes, phones read no more; it would have "
                    f"{len(content)}. Delete old versions with `tfx-mobile registry gc`."
                )
            return content

        writes: list[Write] = []
        snapshot_meta = chain.timestamp.snapshot_meta
        if renews_snapshot:
            meta = dict(chain.snapshot.meta)
            for name, role in changed.items():
                content = sign(name, role)
                meta[f"{name}.json"] = MetaFile.from_data(role.version, content, ["sha256"])
                writes.append(Write(self._storage, metadata_path(name, role.version), content))
            version = chain.snapshot.version + 1
            snapshot = Snapshot(version=version, expires=now + SNAPSHOT_LIFETIME, meta=meta)
            content = sign(Snapshot.type, snapshot)
            snapshot_meta = MetaFile.from_data(version, content, ["sha256"])
            writes.append(Write(self._storage, metadata_path(Snapshot.type, version), content))
        timestamp = Timestamp(
            version=chain.timestamp.version + 1,
            expires=now + TIMESTAMP_LIFETIME,
            snapshot_meta=snapshot_meta,
        )
        content = sign(Timestamp.type, timestamp)
        return [
            *writes,
            Write(self._storage, TIMESTAMP_PATH, content, shows=True),
            Write(self._key_storage, _MEMORY_FILE, content),
        ]

    def _signer(self, name: str, root: Root, targets: Targets | None) -> Signer:
        role: Role = (
            root.get_delegated_role(name)
            if name in _TOP_ROLES or targets is None
            else targets.get_delegated_role(name)
        )
        return key_files.load_signer_for(self.keys, name, role)

    def _signer_on_first_use(self, name: str) -> tuple[Signer, list[Write]]:
        if key_files.key_files(self.keys, name):  # of a publisher that was interrupted before it signed
            return key_files.load_signer(self.keys, name), []
        signer = key_files.make_signer()
        return signer, [self._key_write(name + key_files.PEM, signer.private_bytes)]

    def _key_write(self, file: str, content: bytes | None) -> Write:
        return Write(self._key_storage, file, content, 0o600)

    # Roots and keys.

    def _next_root(
        self, root: Root, change: Callable[[Root], None], new_signers: Sequence[Signer] = ()
    ) -> tuple[Root, Write]:
        """Returns the next root, signed by the old root keys and by those that come in."""
        newer = Root(
            version=root.version + 1,
            expires=utc_now() + ROOT_LIFETIME,
            keys=dict(root.keys),
            roles={name: Role(list(role.keyids), role.threshold) for name, role in root.roles.items()},
            consistent_snapshot=True,
        )
        change(newer)
        used = {keyid for role in newer.roles.values() for keyid in role.keyids}
        newer.keys = {keyid: key for keyid, key in newer.keys.items() if keyid in used}
        metadata = Metadata(newer)
        for signer in new_signers:
            _sign(metadata, signer)
        unable: list[RegistryError] = []
        for signer in key_files.load_root_signers(self.keys, root.roles[Root.type]).values():
            try:
                _sign(metadata, signer)
            except RegistryError as error:  # enough of the others will do
                unable.append(error)
        for role in (root.roles[Root.type], newer.roles[Root.type]):
            if unable and len(set(role.keyids) & set(metadata.signatures)) < role.threshold:
                raise unable[0]
        for problem in unable:
            _log.warning("Root %d has enough signatures, but one is missing: %s", newer.version, problem)
        content = metadata.to_bytes()
        return newer, Write(self._storage, metadata_path(Root.type, newer.version), content, shows=True)

    def _next_key(self, name: str, role: Role, signer_uri: str | None) -> tuple[Signer, list[Write]]:
        """Returns the key that a rotation brings in: what an interrupted one has left, or a new one."""
        content = None if signer_uri is None else key_files.find_key(signer_uri)
        waiting = [path for path in key_files.key_files(self.keys, name) if key_files.NEXT in path.name]
        if waiting:
            signer = key_files.read_signer(waiting[0], name)
            if content is not None and content != waiting[0].read_bytes():
                is_trusted = signer.public_key.keyid in role.keyids
                raise RegistryError(
                    f"Interrupted rotation of '{name}' must go on with its own key, {waiting[0]}; got "
                    f"{signer_uri!r}. Run `tfx-mobile registry rotate` first"
                    + ("." if is_trusted else ", or delete that file, which nobody trusts yet.")
                )
            return signer, []
        if content is None:
            signer = key_files.make_signer()
            return signer, [self._key_write(f"{name}{key_files.NEXT}{key_files.PEM}", signer.private_bytes)]
        file = f"{name}{key_files.NEXT}{key_files.REFERENCE}"
        return key_files.parse_signer(self.keys / file, content, name), [self._key_write(file, content)]

    def _finish_rotation(self, key_names: Sequence[str]) -> None:
        """Makes the next key of each name the one in use, and removes the old one."""
        root_json = self._load().root_json
        copies, removals = [], []
        if root_json != self._trusted_root():
            copies.append(Write(self._key_storage, _ROOT_FILE, root_json))
        for name in key_names:
            for kind in (key_files.REFERENCE, key_files.PEM):
                if not self._key_storage.exists(waiting := f"{name}{key_files.NEXT}{kind}"):
                    continue
                other = key_files.PEM if kind == key_files.REFERENCE else key_files.REFERENCE
                copies.append(self._key_write(name + kind, self._key_storage.read(waiting)))
                if self._key_storage.exists(name + other):
                    removals.append(self._key_write(name + other, None))
                removals.append(self._key_write(waiting, None))
        for writes in (copies, removals):  # a key is removed when all are there twice
            if writes:
                self._write_all([*writes[:-1], dataclasses.replace(writes[-1], shows=True)])

    def _rotate_root(self, chain: Chain, key_names: Sequence[str], signer_uri: str | None) -> str:
        role = chain.root.roles[Root.type]
        incoming = {name: self._next_key(name, role, signer_uri) for name in key_names}
        signers = [signer for signer, _ in incoming.values()]
        keyids = [signer.public_key.keyid for signer in signers]
        if new := [signer for signer in signers if signer.public_key.keyid not in role.keyids]:
            if len(key_names) == len(role.keyids):
                outgoing = [keyid for keyid in role.keyids if keyid not in keyids]
            else:
                known = key_files.trusted_signers(self.keys, list(key_names), role)
                if key_names[0] not in known:
                    raise RegistryError(
                        f"Root key '{key_names[0]}' must be at {key_files.key_path(self.keys, key_names[0])} "
                        "to be rotated alone; it is not. Rotate 'root': all of them at once."
                    )
                outgoing = [known[key_names[0]].public_key.keyid]

            def change(root: Root) -> None:
                for signer in new:
                    root.add_key(signer.public_key, Root.type)
                for keyid in outgoing:
                    root.revoke_key(keyid, Root.type)

            made = [write for _, each in incoming.values() for write in each]
            self._write_all([*made, self._next_root(chain.root, change, new)[1]])
        self._finish_rotation(key_names)
        return " ".join(keyids)

    def _rotate_top(self, chain: Chain, name: str, signer_uri: str | None) -> str:
        """Rotates in three steps, each a commit: both keys are trusted, the new one signs, it is alone."""
        root = chain.root
        signer, made = self._next_key(name, root.roles[name], signer_uri)
        keyid: str = signer.public_key.keyid
        steps: list[list[Write]] = []  # all signed before the first is written
        if keyid not in root.roles[name].keyids:

            def add(root: Root) -> None:
                root.add_key(signer.public_key, name)

            root, write = self._next_root(root, add)
            steps.append([*made, write])
        if root.roles[name].keyids != [keyid]:
            now, changed = utc_now(), {}
            if name == Targets.type:
                old = chain.targets
                changed[name] = _next_targets(old, old.targets, old.delegations, now)
            steps.append(
                self._signed_writes(
                    chain, changed, {name: signer}, now, renews_snapshot=name != Timestamp.type
                )
            )

            def drop(root: Root) -> None:
                for other in [one for one in root.roles[name].keyids if one != keyid]:
                    root.revoke_key(other, name)

            steps.append([self._next_root(root, drop)[1]])
        for writes in steps:
            self._write_all(writes)
        self._finish_rotation([name])
        return keyid

    def _rotate_model(self, chain: Chain, model: str, signer_uri: str | None) -> str:
        name, now = names.role_name(model), utc_now()
        check_fresh(Root.type, chain.root, now)
        delegated = chain.targets.get_delegated_role(name)
        signer, made = self._next_key(name, delegated, signer_uri)
        keyid: str = signer.public_key.keyid
        if delegated.keyids != [keyid]:
            role = chain.role(model)
            changed = {
                name: _next_targets(role, role.targets, None, now),
                Targets.type: _next_targets(
                    chain.targets,
                    chain.targets.targets,
                    _delegating(chain.targets.delegations, model, signer),
                    now,
                ),
            }
            writes = self._signed_writes(chain, changed, {name: signer}, now, renews_snapshot=True)
            self._write_all([*made, *writes])
        self._finish_rotation([name])
        return keyid

    # Writing.

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._storage.lock() as lock:
            self._lock = lock
            try:
                yield
            finally:
                self._lock = None

    def _write_all(self, writes: Sequence[Write]) -> None:
        """Writes in order and reads each file back; failing before phones see it, removes what it made."""
        made: list[Write] = []
        try:
            self._storage.prepare("metadata", "targets")
            self._key_storage.prepare()
            for write in writes:
                # In the repository every name is new, but the timestamp's.
                if (
                    not write.storage.exists(write.path)
                    if write.storage is self._key_storage
                    else write.path != TIMESTAMP_PATH
                ):
                    made.append(write)
                self._write(write)
                if write.content is not None and write.storage.read(write.path) != write.content:
                    raise RegistryError(
                        f"{write.storage.place(write.path)} must hold what was written; it holds something "
                        "else. Check the disk."
                    )
        except BaseException as error:
            if not _is_shown(writes):
                for write in made:
                    with contextlib.suppress(OSError, RegistryError):
                        write.storage.delete(write.path)
            if isinstance(error, OSError):
                raise self._unwritable(error) from error
            raise

    def _unwritable(self, error: OSError) -> RegistryError:
        return RegistryError(
            f"Registry must be writable; {error.filename or self.location}: {error.strerror or error}. "
            "Free the space or run as the user who owns it, then do it again."
        )

    def _write(self, write: Write) -> None:
        """Changes one file; the only place that changes anything."""
        if self._lock is not None:
            self._lock.check(last=write.shows)
        if write.content is None:
            write.storage.delete(write.path)
        else:
            write.storage.write(write.path, write.content, mode=write.mode)


def _is_shown(writes: Sequence[Write]) -> bool:
    shown = next(write for write in writes if write.shows)
    try:
        return shown.storage.read(shown.path) == shown.content
    except FileNotFoundError:
        return shown.content is None
    except (OSError, RegistryError):
        return True  # not known, so that nothing is taken back: phones may need the key that was made


def _delegating(old: Delegations | None, model: str, signer: Signer) -> Delegations:
    key, name = signer.public_key, names.role_name(model)
    role = DelegatedRole(name, [key.keyid], 1, terminating=True, paths=names.delegated_paths(model))
    roles: dict[str, DelegatedRole] = {**((old.roles if old else None) or {}), name: role}
    known: dict[str, Key] = {**(old.keys if old else {}), key.keyid: key}
    used = {keyid for one in roles.values() for keyid in one.keyids}
    return Delegations({keyid: one for keyid, one in known.items() if keyid in used}, roles)


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


def _signed(signed: SignedT, *signers: Signer) -> bytes:
    metadata = Metadata(signed)
    for signer in signers:
        _sign(metadata, signer)
    return metadata.to_bytes()


def _sign(metadata: Metadata[SignedT], signer: Signer) -> None:
    try:
        metadata.sign(signer, append=True)
    except UnsignedMetadataError as error:
        cause = error.__cause__ or error
        if isinstance(cause, RegistryError):
            raise cause from error
        raise RegistryError(
            f"Key {signer.public_key.keyid} must sign '{metadata.signed.type}'; it did not: "
            f"{key_files.reason(cause)}. Check the key and its PIN or credentials."
        ) from error


def _is_due(signed: Signed, lifetime: datetime.timedelta, now: datetime.datetime) -> bool:
    return signed.expires - now < lifetime / 2


def sha256_of(content: bytes) -> str:
    """Returns 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def utc_now() -> datetime.datetime:
    """Returns the time in whole seconds, as TUF writes it."""
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
