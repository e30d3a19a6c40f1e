"""What a mirror knows about one model: its files, and every change of its channels, as one JSON document.

Each change takes a ledger and returns the next one; does not read or write: what holds the document and the
files (a bucket, an OCI registry) is elsewhere. Nothing here is signed: a ledger is believed as far as its
server is. Records and rules are those of the signed store, so a device chooses by the same in both.
"""

import dataclasses
import hashlib
import re
import time
from collections.abc import Mapping
from typing import Any

from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.common.jsonable import Settings
from tfx_mobile.registry import names, records, releases
from tfx_mobile.registry.adapter import NothingReleased, check_attachments, check_content, check_reason
from tfx_mobile.registry.records import ChannelRecord, Rollout, VersionRecord
from tfx_mobile.registry.targeting import Device, Targeting, check_permille

FORMAT = 1
MAX_ATTACHMENT_BYTES = 64 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class LedgerFile(Settings):
    """One file: a variant of a version.

    Attributes:
      version: An integer >= 1.
      variant: Which file of the version.
      sha256: Of the file, 64 hex digits.
      size_bytes: Of the file, >= 1.
      published_unix_s: Seconds since 1970 UTC, on the publisher's clock.
      metadata: What the publisher said about it; JSON without floats.
      attachments: By name, the sha256 of other files that were published with it.
      withdrawn: Why it was taken back; empty when it was not.
    """

    version: int
    variant: str
    sha256: str
    size_bytes: int
    published_unix_s: int
    metadata: dict[str, Any]
    attachments: dict[str, str] = dataclasses.field(default_factory=dict)
    withdrawn: str = ""

    def __post_init__(self) -> None:
        names.check_version(self.version)
        if self.variant != names.DEFAULT_VARIANT:
            names.check_variant(self.variant)
        if self.size_bytes < 1:
            raise ConfigError(f"size_bytes must be at least 1; got {self.size_bytes}.")
        for name in self.attachments:
            names.check_attachment(name)
        for digest in (self.sha256, *self.attachments.values()):
            if not _SHA256.fullmatch(digest):
                raise ConfigError(f"sha256 must be 64 hex digits in lower case; got {digest!r}.")

    @property
    def key(self) -> tuple[int, str]:
        """Version and variant."""
        return self.version, self.variant


@dataclasses.dataclass(frozen=True)
class Ledger(Settings):
    """The files of a model and what its channels have offered.

    Attributes:
      model: The model's name.
      files: By rising version.
      channels: By channel, its records, oldest first; the last one holds.
      format: Of this document.

    Raises:
      ConfigError: A value breaks its rule, a file stands twice, a record is another's or out of order, or a
        channel offers a file that is not there or was withdrawn.
    """

    model: str
    files: tuple[LedgerFile, ...] = ()
    channels: dict[str, tuple[ChannelRecord, ...]] = dataclasses.field(default_factory=dict)
    format: int = FORMAT

    def __post_init__(self) -> None:
        names.check_name("Model", self.model)
        if self.format != FORMAT:
            raise ConfigError(f"Ledger format must be {FORMAT}; got {self.format!r}. Update tfx-mobile.")
        held = {file.key: file for file in self.files}
        if len(held) != len(self.files):
            raise ConfigError(f"Ledger of '{self.model}' must hold each file once; one stands twice.")
        for channel, past in self.channels.items():
            expected = [(self.model, channel, index + 1) for index in range(len(past))]
            if not past or [(one.model, one.channel, one.sequence) for one in past] != expected:
                raise ConfigError(
                    f"Ledger of '{self.model}' must have the records of channel '{channel}' in order."
                )
            for rollout in past[-1].rollouts:
                if (file := held.get((rollout.version, rollout.variant))) is None or file.withdrawn:
                    raise ConfigError(
                        f"Channel '{channel}' of '{self.model}' must offer files that are there; got version "
                        f"{rollout.version} ({rollout.variant})."
                    )

    def file(self, version: int, variant: str = names.DEFAULT_VARIANT) -> LedgerFile:
        """Returns one file.

        Raises:
          RegistryError: It is not there.
        """
        for file in self.files:
            if file.key == (version, variant):
                return file
        raise RegistryError(
            f"Model '{self.model}' must have version {version} ({variant}); it has "
            f"{', '.join(f'{file.version} ({file.variant})' for file in self.files) or 'none'}."
        )

    def versions(self) -> list[VersionRecord]:
        """Returns what is known of each file, oldest version first."""
        return [
            VersionRecord(
                model=self.model,
                version=file.version,
                variant=file.variant,
                sha256=file.sha256,
                size_bytes=file.size_bytes,
                published_unix_s=file.published_unix_s,
                metadata=file.metadata,
                withdrawn=file.withdrawn,
            )
            for file in self.files
        ]

    def past(self, channel: str) -> tuple[ChannelRecord, ...]:
        """Returns the records of a channel, oldest first; at least one.

        Raises:
          ConfigError: The name breaks its rule.
          NothingReleased: There is no such channel.
        """
        if not (past := self.channels.get(names.check_name("Channel", channel), ())):
            known = ", ".join(sorted(self.channels)) or "none"
            raise NothingReleased(f"Model '{self.model}' must have channel '{channel}'; it has {known}.")
        return past

    def choose(self, channel: str, device: Device | None) -> LedgerFile:
        """Returns the file that `channel` gives `device`; None is a device that gets what all get.

        Raises:
          RegistryError: There is no such channel, or nothing for this device.
        """
        rollout = self.past(channel)[-1].choose(device)
        return self.file(rollout.version, rollout.variant)

    def publish(
        self,
        content: bytes,
        *,
        version: int | None,
        variant: str,
        channel: str,
        metadata: Mapping[str, Any],
        rollout_permille: int,
        targeting: Targeting,
        attachments: Mapping[str, bytes] | None,
    ) -> tuple["Ledger", LedgerFile]:
        """Returns the ledger with `content` in it and offered by `channel`, and its file.

        The ledger is the same one when there is nothing to change; see `Backend.publish`.

        Raises:
          ConfigError: A name, the version, the share, the content or the metadata breaks a rule.
          RegistryError: The version holds other bytes or is older than the newest; the bytes were withdrawn.
        """
        names.model_path(self.model, 1 if version is None else version, variant)
        names.check_name("Channel", channel)
        check_permille(rollout_permille)
        beside = check_attachments(attachments)
        for name, data in beside.items():
            if len(data) > MAX_ATTACHMENT_BYTES:
                raise ConfigError(
                    f"Attachment '{name}' must have at most {MAX_ATTACHMENT_BYTES} bytes; got {len(data)}."
                )
        made = LedgerFile(
            version=1,
            variant=variant,
            sha256=_sha256(check_content(f"'{self.model}'", content)),
            size_bytes=len(content),
            published_unix_s=int(time.time()),
            metadata=records.checked_metadata(metadata),
            attachments={name: _sha256(data) for name, data in beside.items()},
        )
        past = self.channels.get(channel, ())
        offered = past[-1].rollouts if past else ()
        file = self._chosen(made, version, offered)
        self._check_not_withdrawn(file)
        if version is None and past:
            earlier = [one.version for one in past]
            releases.check_not_rolled_back(
                self.model, channel, past[-1].version, self._holding(made), earlier
            )
        ledger, created = self, file not in self.files
        if created:
            files = sorted([*self.files, file], key=lambda one: one.version)
            ledger = dataclasses.replace(self, files=tuple(files))
        if all((one.version, one.variant) != file.key for one in offered) and (
            created or file.version >= max((one.version for one in offered), default=0)
        ):
            rollouts = releases.with_file(offered, file.key, rollout_permille, targeting)
            ledger = ledger._recorded({channel: rollouts}, "publish", "")
        return ledger, file

    def roll_back(self, channel: str, *, reason: str) -> "Ledger":
        """Returns the ledger whose channel offers what it did before its newest version came.

        Raises:
          ConfigError: There is no reason.
          RegistryError: There is nothing to go back to.
        """
        check_reason(reason)
        earlier = self.past(channel)[::-1]
        rollouts = releases.before(earlier[0].version, earlier, self._offerable())
        if not rollouts:
            raise RegistryError(
                f"Channel '{channel}' of '{self.model}' must have offered something before version "
                f"{earlier[0].version} to go back to; it has not. Publish a version, or withdraw this one."
            )
        lowest = min(one.version for one in rollouts)
        filled = releases.filled(rollouts, lowest, earlier, self._offerable())
        return self._recorded({channel: filled}, "rollback", reason)

    def withdraw(self, version: int, *, reason: str) -> "Ledger":
        """Returns the ledger that offers `version` nowhere; channels fall back to what they offered before.

        Raises:
          ConfigError: The version breaks its rule, or there is no reason.
          RegistryError: There is no such version, or it is withdrawn already.
        """
        names.check_version(version)
        check_reason(reason)
        held = [file for file in self.files if file.version == version]
        if not held:
            known = ", ".join(map(str, sorted({file.version for file in self.files}))) or "none"
            raise RegistryError(
                f"Model '{self.model}' must have version {version} to withdraw it; it has {known}."
            )
        if all(file.withdrawn for file in held):
            raise RegistryError(
                f"Version {version} of '{self.model}' is withdrawn already: {held[0].withdrawn}."
            )
        files = tuple(
            dataclasses.replace(file, withdrawn=file.withdrawn or reason) if file.version == version else file
            for file in self.files
        )
        offerable = {file.key for file in files if not file.withdrawn}
        changed = {}
        for channel, past in self.channels.items():
            if version in (offered := [one.version for one in past[-1].rollouts]):
                changed[channel] = releases.filled(past[-1].rollouts, min(offered), past[::-1], offerable)
        return dataclasses.replace(self._recorded(changed, "withdraw", reason), files=files)

    def set_rollout(self, channel: str, permille: int, *, version: int | None, note: str) -> "Ledger":
        """Returns the ledger whose channel offers `version` (None: its newest) to another share.

        The devices outside of it get what the channel offered before.

        Raises:
          ConfigError: The share breaks its rule.
          RegistryError: The channel does not offer the version, or the share is that already.
        """
        check_permille(permille)
        earlier = self.past(channel)[::-1]
        wanted = earlier[0].version if version is None else version
        rollouts = releases.with_share(earlier[0], wanted, permille)
        lowest = min(one.version for one in rollouts)
        filled = releases.filled(rollouts, lowest, earlier, self._offerable())
        return self._recorded({channel: filled}, "rollout", note)

    def promote(self, source: str, target: str, *, rollout_permille: int, note: str) -> "Ledger":
        """Returns the ledger whose `target` channel offers the newest version of `source`, all its variants.

        Raises:
          ConfigError: A name or the share breaks its rule.
          RegistryError: `source` offers nothing; `target` offers a newer version, or just this.
        """
        check_permille(rollout_permille)
        past = self.channels.get(names.check_name("Channel", target), ())
        rollouts = releases.promoted(
            self.model, self.past(source)[-1], past[-1] if past else None, rollout_permille
        )
        lowest = min(one.version for one in rollouts)
        filled = releases.filled(rollouts, lowest, past[::-1], self._offerable())
        return self._recorded({target: filled}, "promote", note)

    def _offerable(self) -> set[releases.FileKey]:
        return {file.key for file in self.files if not file.withdrawn}

    def _chosen(self, made: LedgerFile, version: int | None, offered: tuple[Rollout, ...]) -> LedgerFile:
        """Returns the file that is there already, or `made` with its version."""
        held = {file.key: file for file in self.files}
        newest = max((number for number, _ in held), default=0)
        if version is None:
            last = max(self._holding(made), default=0)
            if last and last >= (offered[0].version if offered else 0):
                return held[last, made.variant]
            return dataclasses.replace(made, version=newest + 1)
        if (file := held.get((version, made.variant))) is not None:
            if file.sha256 != made.sha256:
                raise RegistryError(
                    f"Registry refused version {version} of '{self.model}': {version} already holds "
                    f"sha256:{file.sha256}; push a new version or the same bytes."
                )
            return file
        if version < newest:
            raise RegistryError(
                f"Registry refused version {version} of '{self.model}': the newest is {newest}, and versions "
                f"only grow; push {newest + 1} or later."
            )
        return dataclasses.replace(made, version=version)

    def _holding(self, made: LedgerFile) -> set[int]:
        """Returns the versions whose variant has the bytes of `made`."""
        return {
            file.version for file in self.files if (file.variant, file.sha256) == (made.variant, made.sha256)
        }

    def _check_not_withdrawn(self, new: LedgerFile) -> None:
        for file in self.files:
            if file.withdrawn and (file.version == new.version or file.sha256 == new.sha256):
                raise RegistryError(
                    f"Registry refused these bytes as version {new.version} of '{self.model}': version "
                    f"{file.version} was withdrawn: {file.withdrawn}. What is withdrawn is never offered "
                    "again; publish another file."
                )

    def _recorded(self, changed: Mapping[str, tuple[Rollout, ...]], action: str, note: str) -> "Ledger":
        channels = dict(self.channels)
        for channel, rollouts in changed.items():
            past = channels.get(channel, ())
            last = past[-1] if past else None
            digest = _sha256(last.to_json().encode()) if last else ""
            record = releases.next_record(
                self.model, channel, last, digest, rollouts, action=action, note=note
            )
            channels[channel] = (*past, record)
        return dataclasses.replace(self, channels=channels)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
