"""The publisher's side of the registry: what can be done with models, versions and channels.

Each operation is one signed commit (see `repository`): it happens for every phone, or not at all. What a
channel offers afterwards is decided by the pure rules in `releases`; what is no longer needed, in `garbage`.
Does not serve.
Source: The Update Framework 1.0.31; MLflow's registry for what people expect of names, versions and aliases.
"""

import dataclasses
import datetime
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import bsdiff4  # type: ignore[import-untyped]
from tuf.api.metadata import (  # type: ignore[attr-defined]
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry import garbage, names, records, releases
from tfx_mobile.registry.backend import Capabilities, Event, Published, Resolved
from tfx_mobile.registry.chain import Chain, check_fresh, metadata_path
from tfx_mobile.registry.records import ChannelRecord, Rollout, VersionRecord
from tfx_mobile.registry.repository import MAX_ROOT_KEYS, Added, Repository, Write, sha256_of, utc_now
from tfx_mobile.registry.targeting import EVERYONE_PERMILLE, Device, Targeting, check_permille

MAX_NOTE_CHARACTERS = 500
MIN_DELTA_BYTES, MAX_DELTA_BYTES = 1 << 12, 1 << 26  # of the file; bsdiff takes 17 bytes a byte, and minutes


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
class Collected:
    """What `Registry.collect_garbage` took away.

    Attributes:
      versions: Versions that are not signed any more, as (model, version).
      files: Files that were deleted, relative to the repository.
    """

    versions: tuple[tuple[str, int], ...]
    files: tuple[str, ...]


class Registry(Repository):
    """A mobile model registry that this process may publish to.

    Opening reads nothing; each call reads and verifies the repository anew, from the root in the keys folder
    downwards. A call that raises has changed nothing that phones see, but where it was stopped half way: a
    rotation or a collection of garbage goes on when it is called again. Where the storage failed after the
    last write, `history` tells.

    Args:
      repository: A local folder, or s3://bucket/prefix or gs://bucket/prefix.
      keys: The local folder of the private keys, outside `repository`; default: `<repository>.keys` beside
        it, but a registry in a bucket has no default.

    Raises:
      ConfigError: `repository` is another URI, or `keys` lies inside `repository`, or is needed and missing.
    """

    @classmethod
    def create(
        cls,
        repository: str | Path,
        keys: str | Path | None = None,
        *,
        root_keys: int = 1,
        root_threshold: int | None = None,
    ) -> "Registry":
        """Makes an empty registry with new keys, or with those an interrupted `create` has left.

        Args:
          repository: As of the class.
          keys: As of the class.
          root_keys: How many root keys, 1 to 9.
          root_threshold: How many of them have to sign a new root; None is more than half.

        Raises:
          ConfigError: As of the class; or a number is out of its range.
          RegistryError: There is a registry already, or the keys are those of another one.
        """
        if type(root_keys) is not int or not 1 <= root_keys <= MAX_ROOT_KEYS:
            raise ConfigError(f"Number of root keys must be 1 to {MAX_ROOT_KEYS}; got {root_keys!r}.")
        if root_threshold is not None and not 1 <= root_threshold <= root_keys:
            raise ConfigError(
                f"Root threshold must be 1 to {root_keys}, the root keys; got {root_threshold!r}."
            )
        registry = cls(repository, keys)
        if not registry._exists():
            registry._check_vacant()
            with registry._locked():
                if not registry._exists():
                    registry._create(root_keys, root_threshold)
                    return registry
        raise RegistryError(
            f"There must be no registry at {registry.location} yet; there is one. Publish to it, or name "
            "another folder."
        )

    @classmethod
    def open_or_create(cls, repository: str | Path, keys: str | Path | None = None) -> "Registry":
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
    def capabilities(self) -> Capabilities:
        """What it can do; reads nothing."""
        return Capabilities(
            signed=True,
            variants=True,
            rollout=True,
            targeting=True,
            rollback=True,
            withdraw=True,
            attachments=True,
        )

    def publish(
        self,
        model: str,
        content: bytes,
        *,
        version: int | None = None,
        variant: str = names.DEFAULT_VARIANT,
        channel: str = "stable",
        metadata: Mapping[str, Any],
        rollout_permille: int = EVERYONE_PERMILLE,
        targeting: Targeting = Targeting(),  # noqa: B008 - frozen
        attachments: Mapping[str, bytes] | None = None,
        delta: bool = True,
    ) -> Published:
        """Signs `content` as a version of `model` and offers it in `channel`.

        Publishing the same bytes again is a no-op: with `version` when that version holds them, without it
        when the newest version of the channel holds them; the metadata that was signed first stays. A newer
        version of another channel that holds them is offered here, too. Bytes that the channel was rolled
        back from are refused, unless `version` names them: a scheduled pipeline makes them again.
        What was written is read back and compared with what was signed.

        Args:
          model: Name of the model, made on first use.
          content: The file; at least one byte.
          version: An integer >= 1, the newest or above it; None takes the next.
          variant: Which file of the version; another one may be added to the newest version by its number.
          channel: Name of the channel, made on first use.
          metadata: JSON without floats: integers, with the unit in the key.
          rollout_permille: Share of the devices that fit, 0 to 1,000; the others keep what the channel
            offers them now.
          targeting: What the file asks of a device.
          attachments: Other files to sign and keep beside it, by name, such as 'evaluation.html'; phones do
            not fetch them.
          delta: Also sign patches from the versions that the channels give everyone now, where they are under
            half of the file; phones that have that version fetch it instead.

        Returns:
          What phones can fetch now.

        Raises:
          ConfigError: A name, the version, the content, the share or the metadata breaks a rule.
          RegistryError: The version holds other bytes or is older than the newest; the bytes were withdrawn,
            or the channel was rolled back from them; a key is missing or not the registry's; the repository
            is damaged or cannot be written.
        """
        path = names.model_path(model, 1 if version is None else version, variant)
        names.check_name("Channel", channel)
        check_permille(rollout_permille)
        if not isinstance(content, bytes) or not content:
            raise ConfigError(f"Content of '{path}' must be bytes, at least one; got {_described(content)}.")
        plain = records.checked_metadata(metadata)
        beside = {names.check_attachment(name): data for name, data in (attachments or {}).items()}
        self._check_exists()
        patches = self._patches(model, content, variant) if delta else {}  # minutes, so not locked
        with self._locked():
            chain = self._load()
            check_fresh(Root.type, chain.root, utc_now())
            role = chain.role(model) if model in chain.models() else Targets()
            held, record = _files(model, role), self._channel(model, role, channel)
            _check_not_withdrawn(model, content, version, held)
            if version is None and record:
                same = _holding(content, variant, held)
                earlier = (one.version for one in self._earlier(model, role, channel))
                releases.check_not_rolled_back(model, channel, record.version, same, earlier)
            version, created = _choose_version(model, content, version, variant, held, record)
            added: list[tuple[TargetFile, bytes]] = []
            if created:
                added += records.version_targets(
                    model, version, variant, content, metadata=plain, published_unix_s=int(time.time())
                )
                for name, data in beside.items():
                    place = names.attachment_path(model, version, variant, name)
                    added.append((records.target(place, data), data))
                for base, patch in patches.items():
                    if (base, variant) in _offerable(model, role):
                        place = names.delta_path(model, version, variant, base)
                        added.append((records.target(place, patch), patch))
            offered = record.rollouts if record else ()
            if all((one.version, one.variant) != (version, variant) for one in offered) and (
                created or version >= max((one.version for one in offered), default=0)
            ):
                rollouts = releases.with_file(offered, (version, variant), rollout_permille, targeting)
                added.append(_next_channel(model, channel, role, record, rollouts, "publish"))
            if added:
                self._commit(chain, {model: _with(role, added)}, added)
            else:
                for signed in (chain.timestamp, chain.snapshot, chain.targets, role):
                    check_fresh(names.role_name(model) if signed is role else signed.type, signed, utc_now())
            return self._published(model, version, variant, channel, created=created)

    def promote(
        self,
        model: str,
        source: str = "beta",
        target: str = "stable",
        *,
        rollout_permille: int = EVERYONE_PERMILLE,
        note: str = "",
    ) -> Event:
        """Makes channel `target` offer the newest version of channel `source`, every variant of it.

        Args:
          model: The model's name.
          source: What it is taken from; stays as it is.
          target: What is to offer it, made on first use.
          rollout_permille: Share of the devices that fit, 0 to 1,000; the others keep what they have.
          note: Who or why.

        Raises:
          ConfigError: A name or the share breaks a rule.
          RegistryError: There is no such model or channel; the source offers nothing; the target offers a
            newer version, or just this.
        """
        check_permille(rollout_permille)

        def change(role: Targets) -> dict[str, tuple[Rollout, ...]]:
            taken, given = self._offered(model, role, source), self._channel(model, role, target)
            rollouts = releases.promoted(model, taken, given, rollout_permille)
            earlier = list(self._earlier(model, role, target)) if given else []
            lowest = min(one.version for one in rollouts)
            return {target: releases.filled(rollouts, lowest, earlier, _offerable(model, role))}

        return self._change_channels(model, change, "promote", note)[target].event

    def set_rollout(
        self, model: str, channel: str, permille: int, *, version: int | None = None, note: str = ""
    ) -> Event:
        """Changes the share of the devices that a version in `channel` goes to.

        A share that grows only adds devices; those outside of it get what the channel offered before.

        Args:
          model: The model's name.
          channel: What offers it.
          permille: 0 to 1,000.
          version: One that the channel offers; None is the newest.
          note: Who or why.

        Raises:
          ConfigError: A name or the share breaks a rule.
          RegistryError: There is no such model or channel, it does not offer the version, or the share is
            that already.
        """
        check_permille(permille)

        def change(role: Targets) -> dict[str, tuple[Rollout, ...]]:
            record = self._offered(model, role, channel)
            rollouts = releases.with_share(record, record.version if version is None else version, permille)
            earlier = list(self._earlier(model, role, channel))
            lowest = min(one.version for one in rollouts)
            return {channel: releases.filled(rollouts, lowest, earlier, _offerable(model, role))}

        return self._change_channels(model, change, "rollout", note)[channel].event

    def rollback(self, model: str, channel: str = "stable", *, reason: str) -> Event:
        """Makes `channel` offer what it offered before its newest version came, but nothing withdrawn.

        Raises:
          ConfigError: A name breaks a rule, or there is no reason.
          RegistryError: There is no such model or channel, or nothing to go back to.
        """
        _check_reason(reason)

        def change(role: Targets) -> dict[str, tuple[Rollout, ...]]:
            record, offerable = self._offered(model, role, channel), _offerable(model, role)
            earlier = list(self._earlier(model, role, channel))
            rollouts = releases.before(record.version, earlier, offerable)
            if not rollouts:
                raise RegistryError(
                    f"Channel '{channel}' of '{model}' must have offered something before version "
                    f"{record.version} to go back to; it has not. Publish a version, or withdraw this one."
                )
            lowest = min(one.version for one in rollouts)
            return {channel: releases.filled(rollouts, lowest, earlier, offerable)}

        return self._change_channels(model, change, "rollback", reason)[channel].event

    def withdraw(self, model: str, version: int, *, reason: str) -> None:
        """Takes a version back: out of every channel at once, and never to be offered again.

        A channel that offered it falls back to what it offered before; one that never did offer anything
        else offers nothing. Phones that have the file are told the reason, which is public.

        Raises:
          ConfigError: A name or the version breaks a rule, or there is no reason.
          RegistryError: There is no such model or version, or it is withdrawn already.
        """
        names.check_version(version)
        _check_reason(reason)

        def change(role: Targets) -> dict[str, tuple[Rollout, ...]]:
            held = {key: file for key, file in _files(model, role).items() if key[0] == version}
            if not held:
                raise RegistryError(
                    f"Registry must hold version {version} of '{model}' to withdraw it; it has "
                    f"{_numbers(of for of, _ in _files(model, role))}."
                )
            if not (left := {key: file for key, file in held.items() if not records.withdrawn(file)}):
                said = records.withdrawn(next(iter(held.values())))
                raise RegistryError(f"Version {version} of '{model}' is withdrawn already: {said}.")
            for file in left.values():
                role.targets[file.path] = records.withdraw(file, reason)
            for path in list(role.targets):
                if (delta := names.delta_in_path(model, path)) and version in (delta[0], delta[2]):
                    del role.targets[path]
            changed: dict[str, tuple[Rollout, ...]] = {}
            for channel, record in self._channels(model, role).items():
                if version in (offered := [one.version for one in record.rollouts]):
                    earlier = list(self._earlier(model, role, channel))
                    changed[channel] = releases.filled(
                        record.rollouts, min(offered), earlier, _offerable(model, role)
                    )
            return changed

        self._change_channels(model, change, "withdraw", reason)

    def history(self, model: str, channel: str = "stable") -> list[Event]:
        """Returns the changes of `channel`, oldest first, each verified against the one after it.

        Raises:
          ConfigError: A name breaks a rule.
          RegistryError: There is no such model or channel, or the repository is damaged.
        """
        role = self._role(model)
        record = self._offered(model, role, channel)
        return [one.event for one in (record, *self._earlier(model, role, channel))][::-1]

    def resolve(self, model: str, channel: str = "stable", *, device: Device | None = None) -> Resolved:
        """Returns what `channel` gives `device`; without a device, what everyone gets.

        Raises:
          ConfigError: A name breaks a rule.
          RegistryError: There is no such model or channel, or nothing in it for this device; the repository
            is damaged.
        """
        role = self._role(model)
        chosen = self._offered(model, role, channel).choose(device)
        file = self._held(model, role, chosen.version, chosen.variant)
        record = self._record(model, role, chosen.version, chosen.variant)
        return Resolved(
            record.version, record.variant, record.sha256, self._read_target(file), record.metadata
        )

    def attachments(self, model: str, version: int, variant: str = names.DEFAULT_VARIANT) -> dict[str, bytes]:
        """Returns the files beside a version's file, by name.

        Raises:
          ConfigError: A name or the version breaks a rule.
          RegistryError: There is no such model or file, or the repository is damaged.
        """
        names.model_path(model, version, variant)
        role = self._role(model)
        self._held(model, role, version, variant)
        found = {names.attachment_in_path(model, path): target for path, target in role.targets.items()}
        return {
            key[2]: self._read_target(target)
            for key, target in sorted(found.items(), key=lambda item: str(item[0]))
            if key is not None and key[:2] == (version, variant)
        }

    def models(self) -> list[str]:
        """Returns the names of the models, sorted."""
        return self._load().models()

    def versions(self, model: str) -> list[VersionRecord]:
        """Returns what was signed about each file of `model`, oldest version first.

        Raises:
          RegistryError: There is no such model, or the repository is damaged.
        """
        role = self._role(model)
        return [self._record(model, role, *key) for key in sorted(_files(model, role))]

    def channels(self, model: str) -> dict[str, int]:
        """Returns the newest version that each channel of `model` offers; 0 where it offers none.

        Raises:
          RegistryError: There is no such model, or the repository is damaged.
        """
        return {channel: record.version for channel, record in self.channel_records(model).items()}

    def channel_records(self, model: str) -> dict[str, ChannelRecord]:
        """Returns what each channel of `model` offers, and to whom.

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
        now, chain = utc_now(), self._load()
        self._check_roots(chain)
        found = [
            _verified(Root.type, chain.root, now),
            _verified(Timestamp.type, chain.timestamp, now),
            _verified(Snapshot.type, chain.snapshot, now),
            _verified(Targets.type, chain.targets, now),
        ]
        for model in chain.models():
            role, name = chain.role(model), names.role_name(model)
            found.append(_verified(name, role, now))
            for target in role.targets.values():
                self._read_target(target)
                found.append(Verified(self._target_file(target), f"'{target.path}', {target.length} bytes"))
            held = _files(model, role)
            for key in held:
                self._record(model, role, *key)
            for channel, record in self._channels(model, role).items():
                for _ in self._earlier(model, role, channel):
                    pass  # each is read, and checked by the hash that the one after it names
                for rollout in record.rollouts:
                    file = held.get((rollout.version, rollout.variant))
                    if file is None or records.withdrawn(file):
                        state = "is not there" if file is None else "is withdrawn"
                        raise RegistryError(
                            f"Channel '{channel}' of '{model}' must offer what is there and not withdrawn; "
                            f"{rollout.version} ({rollout.variant}) {state}. Publish to the channel again."
                        )
        return found

    def collect_garbage(
        self,
        *,
        keep_versions: int = 10,
        min_age: datetime.timedelta = datetime.timedelta(days=7),
        dry_run: bool = False,
    ) -> Collected:
        """Takes away old versions that no channel offers, and then files that nobody needs any more.

        A version goes when it is older than the newest `keep_versions` of its model and no channel offers it.
        The newest number stays known, so none is used twice; withdrawn versions stay, so that their bytes
        stay refused. A file goes when no metadata that a phone may still be reading names it, and it is
        older than `min_age`: what is signed away now is deleted by a later call. Roots and the records of
        channels stay.

        Args:
          keep_versions: >= 1.
          min_age: How long a phone in the middle of an update is waited for; not negative.
          dry_run: Change nothing; say what would go.

        Raises:
          ConfigError: A value is out of its range.
          RegistryError: A key is missing; the repository is damaged or cannot be written.
        """
        if type(keep_versions) is not int or keep_versions < 1:
            raise ConfigError(f"keep_versions must be an integer of at least 1; got {keep_versions!r}.")
        if min_age < datetime.timedelta(0):
            raise ConfigError(f"min_age must not be negative; got {min_age}.")
        self._check_exists()
        with self._locked():
            chain = self._load()
            dropped: dict[str, set[int]] = {}
            roles: dict[str, Targets] = {}
            for model in chain.models():
                role = chain.role(model)
                offered = {
                    one.version for each in self._channels(model, role).values() for one in each.rollouts
                }
                if gone := garbage.old_versions(_files(model, role), offered, keep_versions):
                    dropped[model] = gone
                    kept = {
                        path: target
                        for path, target in role.targets.items()
                        if not gone & set(names.versions_in_path(model, path))
                    }
                    roles[model] = Targets(role.version, targets=kept)
            if roles and not dry_run:
                check_fresh(Root.type, chain.root, utc_now())
                self._commit(chain, roles, ())
                chain = self._load()
            with self._reached():
                files = self._unneeded(chain, min_age.total_seconds())
            try:
                if files and not dry_run:
                    self._storage.prepare("metadata", "targets")
                for file in files if not dry_run else ():
                    self._write(Write(self._storage, file, None))
            except OSError as error:
                raise self._unwritable(error) from error
            versions = tuple((model, of) for model, gone in sorted(dropped.items()) for of in sorted(gone))
            return Collected(versions, tuple(files))

    # Reading.

    def _unneeded(self, chain: Chain, min_age_s: float) -> list[str]:
        metadata = self._storage.ages_s("metadata")
        stale = garbage.superseded(
            metadata,
            {name.removesuffix(".json"): meta.version for name, meta in chain.snapshot.meta.items()}
            | {Snapshot.type: chain.snapshot.version},
            min_age_s,
        )
        needed: set[str] = set()
        for file in sorted(set(metadata) - set(stale)):
            needed |= garbage.targets_named(file, self._storage.read(file))
        for model in chain.models():
            role = chain.role(model)
            for target in role.targets.values():
                needed.add(self._target_file(target))
        targets = self._storage.ages_s("targets")
        return [
            *stale,
            *(
                file
                for file, age_s in sorted(targets.items())
                if age_s >= min_age_s and file not in needed and not garbage.is_channel_record(file)
            ),
        ]

    def _patches(self, model: str, content: bytes, variant: str) -> dict[int, bytes]:
        """Returns, by version, patches from what each channel gives everyone now, where that pays."""
        if not MIN_DELTA_BYTES <= len(content) <= MAX_DELTA_BYTES:
            return {}
        chain = self._load()
        if model not in chain.models():
            return {}
        role, found = chain.role(model), {}
        for record in self._channels(model, role).values():
            for one in record.rollouts:
                if one.variant == variant and one.rollout_permille == EVERYONE_PERMILLE:
                    base = self._held(model, role, one.version, variant)
                    if base.hashes["sha256"] == sha256_of(content):
                        return {}
                    if one.version not in found and base.length <= MAX_DELTA_BYTES:
                        patch: bytes = bsdiff4.diff(self._read_target(base), content)
                        found[one.version] = patch
                    break
        return {version: patch for version, patch in found.items() if len(patch) < len(content) / 2}

    def _channels(self, model: str, role: Targets) -> dict[str, ChannelRecord]:
        found: dict[str, ChannelRecord] = {}
        for path in sorted(role.targets):
            if (channel := names.channel_in_path(model, path)) is not None:
                content = self._read_target(role.targets[path])
                found[channel] = records.read_channel(model, channel, content)
        return found

    def _channel(self, model: str, role: Targets, channel: str) -> ChannelRecord | None:
        target = role.targets.get(names.channel_path(model, channel))
        return records.read_channel(model, channel, self._read_target(target)) if target else None

    def _offered(self, model: str, role: Targets, channel: str) -> ChannelRecord:
        if (record := self._channel(model, role, channel)) is None:
            known = sorted(self._channels(model, role))
            raise RegistryError(
                f"There must be a channel '{channel}' of '{model}'; there is {', '.join(known) or 'none'}."
            )
        return record

    def _earlier(self, model: str, role: Targets, channel: str) -> Iterator[ChannelRecord]:
        """Yields the records before the one in `role`, newest first."""
        path = names.channel_path(model, channel)
        record = self._offered(model, role, channel)
        while record.previous_sha256:
            folder, _, name = path.rpartition("/")
            file = f"targets/{folder}/{record.previous_sha256}.{name}"
            place = self._storage.place(file)
            try:
                content = self._storage.read(file)
            except OSError as error:
                raise RegistryError(
                    f"Record {record.sequence - 1} of channel '{channel}' of '{model}' must be at {place}; "
                    f"{error.strerror or error}. Restore it from a backup."
                ) from error
            if sha256_of(content) != record.previous_sha256:
                raise RegistryError(
                    f"{place} must have the sha256 that the next record names; it has not. It was changed "
                    "after signing: restore it from a backup."
                )
            record = records.read_channel(model, channel, content)
            yield record

    def _held(self, model: str, role: Targets, version: int, variant: str) -> TargetFile:
        if (file := role.targets.get(names.model_path(model, version, variant))) is None:
            raise RegistryError(
                f"Registry must hold version {version} ({variant}) of '{model}'; it has "
                f"{_numbers(of for of, _ in _files(model, role))}."
            )
        return file

    def _record(self, model: str, role: Targets, version: int, variant: str) -> VersionRecord:
        file = role.targets[names.model_path(model, version, variant)]
        note = role.targets.get(names.record_path(model, version, variant))
        if note is None:
            raise RegistryError(
                f"'{file.path}' must have a record beside it, "
                f"'{names.record_path(model, version, variant)}'; there is none. "
                "It was not made by this registry's publisher."
            )
        return records.read_version(model, version, variant, file, self._read_target(note))

    def _published(self, model: str, version: int, variant: str, channel: str, *, created: bool) -> Published:
        role = self._role(model)
        target = role.targets[names.model_path(model, version, variant)]
        self._read_target(target)
        return Published(
            model=model,
            version=version,
            variant=variant,
            channel=channel,
            channel_version=self._channels(model, role)[channel].version,
            sha256=target.hashes["sha256"],
            size_bytes=target.length,
            created=created,
            uri=self._storage.place(self._target_file(target)),
        )

    # Changing.

    def _change_channels(
        self,
        model: str,
        change: Callable[[Targets], Mapping[str, tuple[Rollout, ...]]],
        action: str,
        note: str,
    ) -> dict[str, ChannelRecord]:
        """Signs what `change` makes of the model's role, and of its channels, in one commit."""
        names.check_name("Model", model)
        if not isinstance(note, str) or len(note) > MAX_NOTE_CHARACTERS:
            raise ConfigError(f"Reason or note must be text of at most {MAX_NOTE_CHARACTERS} characters.")
        self._check_exists()
        with self._locked():
            chain = self._load()
            check_fresh(Root.type, chain.root, utc_now())
            role = self._role_in(chain, model)
            added = [
                _next_channel(
                    model, channel, role, self._channel(model, role, channel), rollouts, action, note
                )
                for channel, rollouts in change(role).items()
            ]
            self._commit(chain, {model: _with(role, added)}, added)
            return self.channel_records(model)


def _choose_version(
    model: str,
    content: bytes,
    version: int | None,
    variant: str,
    held: Mapping[tuple[int, str], TargetFile],
    record: ChannelRecord | None,
) -> tuple[int, bool]:
    """Returns the version to publish as, and whether it is new."""
    sha256, newest = sha256_of(content), max((of for of, _ in held), default=0)
    if version is None:
        last = max(_holding(content, variant, held), default=0)
        return (last, False) if last and last >= (record.version if record else 0) else (newest + 1, True)
    if (file := held.get((version, variant))) is not None:
        if file.hashes["sha256"] != sha256:
            raise RegistryError(
                f"Registry refused version {version} of '{model}': {version} already holds "
                f"sha256:{file.hashes['sha256']}; push a new version or the same bytes."
            )
        return version, False
    if version < newest:
        raise RegistryError(
            f"Registry refused version {version} of '{model}': the newest is {newest}, and versions only "
            f"grow; push {newest + 1} or later."
        )
    return version, True


def _holding(content: bytes, variant: str, held: Mapping[tuple[int, str], TargetFile]) -> set[int]:
    """Returns the versions whose variant is `content`."""
    sha256 = sha256_of(content)
    return {of for (of, which), file in held.items() if (which, file.hashes["sha256"]) == (variant, sha256)}


def _files(model: str, role: Targets) -> dict[tuple[int, str], TargetFile]:
    found = {names.file_in_path(model, path): target for path, target in role.targets.items()}
    return {key: target for key, target in found.items() if key is not None}


def _offerable(model: str, role: Targets) -> set[releases.FileKey]:
    return {key for key, file in _files(model, role).items() if not records.withdrawn(file)}


def _check_not_withdrawn(
    model: str, content: bytes, version: int | None, held: Mapping[tuple[int, str], TargetFile]
) -> None:
    sha256 = sha256_of(content)
    for (of, _), file in held.items():
        if (said := records.withdrawn(file)) and (of == version or file.hashes["sha256"] == sha256):
            raise RegistryError(
                f"Registry refused these bytes as {_numbered(version)} of '{model}': version {of} was "
                f"withdrawn: {said}. What is withdrawn is never offered again; publish another file."
            )


def _numbered(version: int | None) -> str:
    return "the next version" if version is None else f"version {version}"


def _check_reason(reason: str) -> None:
    if not isinstance(reason, str) or not reason.strip():
        raise ConfigError(f"Reason must be said, it is kept in the channel's history; got {reason!r}.")


def _with(role: Targets, added: Added) -> Targets:
    return Targets(role.version, targets={**role.targets, **{target.path: target for target, _ in added}})


def _next_channel(
    model: str,
    channel: str,
    role: Targets,
    previous: ChannelRecord | None,
    rollouts: Iterable[Rollout],
    action: str,
    note: str = "",
) -> tuple[TargetFile, bytes]:
    path = names.channel_path(model, channel)
    sha256 = role.targets[path].hashes["sha256"] if previous else ""
    record = releases.next_record(model, channel, previous, sha256, rollouts, action=action, note=note)
    content = record.to_json().encode()
    return records.target(path, content), content


def _numbers(versions: Iterable[int]) -> str:
    found = sorted(set(versions))
    shown = ", ".join(map(str, found[-10:])) or "none"
    return f"... {shown}" if len(found) > 10 else shown


def _verified(name: str, signed: Signed, now: datetime.datetime) -> Verified:
    check_fresh(name, signed, now)
    what = f"{name} version {signed.version}, until {signed.expires:%Y-%m-%d}"
    return Verified(metadata_path(name, signed.version), what)


def _described(content: Any) -> str:
    return "none" if content == b"" else type(content).__name__
