"""What the mirrors have in common: a ledger a model, and everything that follows from it.

A mirror keeps the ledger, the files and their attachments; which file a channel gives whom, and how that
changes, is the ledger's. Does not sign.
"""

import abc
from collections.abc import Callable

from tfx_mobile.registry import names
from tfx_mobile.registry.backend import Capabilities, Event, Resolved
from tfx_mobile.registry.ledger import Ledger, LedgerFile
from tfx_mobile.registry.records import ChannelRecord, VersionRecord
from tfx_mobile.registry.targeting import EVERYONE_PERMILLE, Device


class Mirror(abc.ABC):
    """A registry that is a ledger a model; a subclass keeps it, and has `publish`."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do; reads nothing."""
        return Capabilities(
            variants=True, rollout=True, targeting=True, rollback=True, withdraw=True, attachments=True
        )

    def resolve(self, model: str, channel: str = "stable", *, device: Device | None = None) -> Resolved:
        """Returns what `channel` gives `device`, hash checked; see `Backend.resolve`."""
        file = self.ledger(model).choose(channel, device)
        content = self._read_file(model, file)
        return Resolved(file.version, file.variant, file.sha256, content, file.metadata)

    def rollback(self, model: str, channel: str = "stable", *, reason: str) -> Event:
        """Makes `channel` offer what it offered before its newest version came; see `Backend.rollback`."""
        changed = self._change(model, lambda ledger: ledger.roll_back(channel, reason=reason))
        return changed.past(channel)[-1].event

    def withdraw(self, model: str, version: int, *, reason: str) -> None:
        """Takes a version out of every channel, for ever; see `Backend.withdraw`."""
        self._change(model, lambda ledger: ledger.withdraw(version, reason=reason))

    def history(self, model: str, channel: str = "stable") -> list[Event]:
        """Returns the changes of `channel`, oldest first; see `Backend.history`."""
        return [record.event for record in self.ledger(model).past(channel)]

    def set_rollout(
        self, model: str, channel: str, permille: int, *, version: int | None = None, note: str = ""
    ) -> Event:
        """Offers `version` (None: the newest of the channel) to `permille` of the devices that fit.

        Raises:
          ConfigError: A name or the share breaks its rule.
          RegistryError: The channel does not offer the version.
        """
        changed = self._change(
            model,
            lambda ledger: ledger.set_rollout(channel, permille, version=version, note=note),
        )
        return changed.past(channel)[-1].event

    def promote(
        self,
        model: str,
        source: str = "beta",
        target: str = "stable",
        *,
        rollout_permille: int = EVERYONE_PERMILLE,
        note: str = "",
    ) -> Event:
        """Offers the newest version of `source` in `target`.

        Raises:
          ConfigError: A name or the share breaks its rule.
          RegistryError: There is no newer version in `source`.
        """
        changed = self._change(
            model,
            lambda ledger: ledger.promote(source, target, rollout_permille=rollout_permille, note=note),
        )
        return changed.past(target)[-1].event

    def channel_records(self, model: str) -> dict[str, ChannelRecord]:
        """Returns what each channel of `model` offers, and to whom.

        Raises:
          RegistryError: There is no such model, or what is kept of it is damaged.
        """
        return {channel: past[-1] for channel, past in self.ledger(model).channels.items()}

    def versions(self, model: str) -> list[VersionRecord]:
        """Returns what is known of each file of `model`, oldest version first.

        Raises:
          RegistryError: There is no such model, or what is kept of it is damaged.
        """
        return self.ledger(model).versions()

    def attachments(self, model: str, version: int, variant: str = names.DEFAULT_VARIANT) -> dict[str, bytes]:
        """Returns the files beside a model file, by name, hashes checked.

        Raises:
          RegistryError: There is no such file, or an attachment is not what was published.
        """
        file = self.ledger(model).file(version, variant)
        return {name: self._read_attachment(model, file, name) for name in file.attachments}

    @abc.abstractmethod
    def ledger(self, model: str) -> Ledger:
        """Returns what is kept of `model`.

        Raises:
          ConfigError: The name breaks its rule.
          NothingReleased: There is none.
          RegistryError: It is not a ledger of this model.
        """

    @abc.abstractmethod
    def _change(self, model: str, change: Callable[[Ledger], Ledger]) -> Ledger:
        """Replaces the ledger by what `change` makes of it, and returns that."""

    @abc.abstractmethod
    def _read_file(self, model: str, file: LedgerFile) -> bytes:
        """Returns the file, its hash checked."""

    @abc.abstractmethod
    def _read_attachment(self, model: str, file: LedgerFile, name: str) -> bytes:
        """Returns a file beside it, its hash checked."""
