"""What the registry signs about a file, and about a channel, as values.

A file's record is a small JSON target beside it, so that a phone, which needs none, does not download what
was said about a thousand versions; a channel's record says which files it offers to whom, newest first. TUF
signs canonical JSON, which has no floats: numbers are integers with the unit in the key (`rmse_ppm`,
`latency_p50_ns`, `size_bytes`). Does not sign and does not read files.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]

from tfx_mobile.common import jsonable
from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.common.jsonable import Settings
from tfx_mobile.registry import names
from tfx_mobile.registry.backend import Event
from tfx_mobile.registry.targeting import (
    EVERYONE_PERMILLE,
    Device,
    Targeting,
    bucket_permille,
    check_permille,
    check_targeting,
)

MAX_RECORD_BYTES = 1 << 20  # clients read no more
_WITHDRAWN = "withdrawn"


@dataclasses.dataclass(frozen=True)
class VersionRecord:
    """One signed file: a variant of a version of a model.

    Attributes:
      model: The model's name.
      version: An integer >= 1.
      variant: Which file of the version.
      sha256: Of the file, 64 hex digits.
      size_bytes: Of the file.
      published_unix_s: When it was published, seconds since 1970 UTC, on the publisher's clock.
      metadata: What the publisher said about it; JSON without floats.
      withdrawn: Why it was taken back; empty when it was not.
    """

    model: str
    version: int
    variant: str
    sha256: str
    size_bytes: int
    published_unix_s: int
    metadata: Mapping[str, Any]
    withdrawn: str = ""


@dataclasses.dataclass(frozen=True)
class Rollout(Settings):
    """One file that a channel offers, and to whom.

    Attributes:
      version: An integer >= 1.
      variant: Which file of the version.
      rollout_permille: Share of the devices that fit, 0 to 1,000.
      salt: Orders the devices; see `targeting.bucket_permille`.
      targeting: What it asks of a device.
    """

    version: int
    variant: str = names.DEFAULT_VARIANT
    rollout_permille: int = EVERYONE_PERMILLE
    salt: str = ""
    targeting: Targeting = Targeting()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        names.check_version(self.version)
        if self.variant != names.DEFAULT_VARIANT:
            names.check_variant(self.variant)
        check_permille(self.rollout_permille)
        check_targeting(self.targeting)

    def misfit(self, device: Device | None) -> str:
        """Returns why `device` does not get it, or empty text; None is a device that gets what all get."""
        if device is not None and (reason := self.targeting.misfit(device)):
            return reason
        if self.rollout_permille == EVERYONE_PERMILLE:
            return ""
        share = f"it is rolled out to {self.rollout_permille} permille of the devices"
        if device is None or not device.id:
            return f"{share}; this one has no id"
        bucket = bucket_permille(self.salt, device.id)
        return "" if bucket < self.rollout_permille else f"{share}; this one is number {bucket}"


@dataclasses.dataclass(frozen=True)
class ChannelRecord(Settings):
    """What a channel of a model offers; a device takes the first that fits it.

    Attributes:
      model: The model's name.
      channel: The channel's name.
      sequence: Number of this record in the channel, from 1.
      rollouts: Newest version first.
      unix_s: When it was made, seconds since 1970 UTC, on the publisher's clock.
      action: The change that made it; see `Event`.
      note: Who or why, where it was said.
      previous_sha256: Of the record before this one, whose file stays in the repository; empty for the first.
    """

    model: str
    channel: str
    sequence: int
    rollouts: tuple[Rollout, ...]
    unix_s: int
    action: str
    note: str = ""
    previous_sha256: str = ""

    def __post_init__(self) -> None:
        names.check_name("Model", self.model)
        names.check_name("Channel", self.channel)
        names.check_version(self.sequence)
        newest_first = sorted(self.rollouts, key=lambda one: -one.version)
        if list(self.rollouts) != newest_first or len({(r.version, r.variant) for r in self.rollouts}) != len(
            self.rollouts
        ):
            raise ConfigError(
                f"Channel '{self.channel}' of '{self.model}' must offer each file once, newest version "
                f"first; got {[(rollout.version, rollout.variant) for rollout in self.rollouts]}."
            )

    @property
    def version(self) -> int:
        """The newest version it offers; 0 when it offers none."""
        return self.rollouts[0].version if self.rollouts else 0

    @property
    def event(self) -> Event:
        """The change that made this record."""
        share = self.rollouts[0].rollout_permille if self.rollouts else 0
        return Event(self.unix_s, self.action, self.version, share, self.note)

    def widest(self) -> Rollout | None:
        """Returns what most devices get, the newest of the files with the largest share; None: nobody any."""
        offered = [one for one in self.rollouts if one.rollout_permille]
        return max(offered, key=lambda one: (one.rollout_permille, one.version), default=None)

    def choose(self, device: Device | None) -> Rollout:
        """Returns what `device` gets; None is a device that gets what all get, whatever it asks of one.

        Raises:
          RegistryError: Nothing; the message says why, of each file.
        """
        reasons = []
        for rollout in self.rollouts:
            if not (reason := rollout.misfit(device)):
                return rollout
            reasons.append(f"version {rollout.version} ({rollout.variant}): {reason}")
        raise RegistryError(
            f"Channel '{self.channel}' of '{self.model}' must offer a file that fits this device; "
            f"{'; '.join(reasons) or 'it offers none'}."
        )


def version_targets(
    model: str,
    version: int,
    variant: str,
    content: bytes,
    *,
    metadata: Mapping[str, Any],
    published_unix_s: int,
) -> list[tuple[TargetFile, bytes]]:
    """Returns the TUF targets of a file and of its record, with their bytes.

    Raises:
      ConfigError: `metadata` is not JSON without floats, and the message names the key; or it is too large.
    """
    note = jsonable.dumps(
        {"metadata": checked_metadata(metadata), "published_unix_s": published_unix_s}
    ).encode()
    if len(note) > MAX_RECORD_BYTES:
        raise ConfigError(
            f"metadata must have at most {MAX_RECORD_BYTES} bytes as JSON; got {len(note)}. Attach what is "
            "longer as a file."
        )
    return [
        (target(names.model_path(model, version, variant), content), content),
        (target(names.record_path(model, version, variant), note), note),
    ]


def target(path: str, content: bytes) -> TargetFile:
    """Returns the TUF target of `content`."""
    return TargetFile.from_data(path, content, ["sha256"])


def withdrawn(file: TargetFile) -> str:
    """Returns why the file of this verified target was taken back; empty when it was not."""
    said = (file.custom or {}).get(_WITHDRAWN, "") if isinstance(file.custom, dict) else ""
    return said if isinstance(said, str) else "the registry does not say why"


def withdraw(file: TargetFile, reason: str) -> TargetFile:
    """Returns the target of the same file, taken back."""
    said = file.to_dict()
    said["custom"] = {**(said.get("custom") or {}), _WITHDRAWN: reason}
    return TargetFile.from_dict(said, file.path)


def read_version(model: str, version: int, variant: str, file: TargetFile, record: bytes) -> VersionRecord:
    """Returns what was signed about a file.

    Args:
      model: The model's name.
      version: An integer >= 1.
      variant: Which file of the version.
      file: The file's verified target.
      record: The verified content of its record.

    Raises:
      RegistryError: They were signed, but are not what `version_targets` makes.
    """
    where = f"Record '{names.record_path(model, version, variant)}'"
    try:
        said = jsonable.loads(record, where=where)
    except ConfigError as error:
        raise RegistryError(f"{error} It was not made by this registry's publisher.") from error
    if (
        not isinstance(said, dict)
        or not isinstance(said.get("metadata"), dict)
        or type(said.get("published_unix_s")) is not int
    ):
        raise RegistryError(
            f"{where} must have metadata and published_unix_s; got {_shown(said)}. It was not made by this "
            "registry's publisher."
        )
    if (sha256 := file.hashes.get("sha256")) is None:
        raise RegistryError(
            f"Target '{file.path}' must carry a sha256; got {sorted(file.hashes)}. It was not made by this "
            "registry's publisher."
        )
    return VersionRecord(
        model=model,
        version=version,
        variant=variant,
        sha256=sha256,
        size_bytes=file.length,
        published_unix_s=said["published_unix_s"],
        metadata=said["metadata"],
        withdrawn=withdrawn(file),
    )


def read_channel(model: str, channel: str, content: bytes) -> ChannelRecord:
    """Returns the record in a channel's verified target.

    Raises:
      RegistryError: The target was signed, but does not record this channel of this model.
    """
    try:
        record = ChannelRecord.from_json(content.decode("utf-8", "replace"))
    except ConfigError as error:
        raise RegistryError(f"Channel record '{names.channel_path(model, channel)}': {error}") from error
    if (record.model, record.channel) != (model, channel):
        raise RegistryError(
            f"Channel record '{names.channel_path(model, channel)}' must be about channel '{channel}' of "
            f"'{model}'; got '{record.channel}' of '{record.model}'. Publish again to write a new record."
        )
    return record


def checked_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `metadata` as plain JSON values, tuples as lists.

    Raises:
      ConfigError: A float, a key that is not a string, or a value that is not JSON; the message names it.
    """
    if not isinstance(metadata, Mapping):
        raise ConfigError(f"metadata must be a mapping; got {type(metadata).__name__}.")
    plain: dict[str, Any] = _plain(metadata, "metadata")
    return plain


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ConfigError(f"{where} must be text that UTF-8 can hold; got {value!r}.") from error
        return str.__str__(value)  # of a text enum its value, and not its name
    if isinstance(value, Mapping):
        if unfit := [key for key in value if not isinstance(key, str)]:
            raise ConfigError(f"{where} must have strings as keys; got {unfit[0]!r}.")
        return {_plain(key, where): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, float):
        raise ConfigError(
            f"{where} must not be a float, TUF signs none; got {value!r}. "
            "Give an integer with the unit in the key, for example rmse_ppm or latency_p50_ns."
        )
    raise ConfigError(f"{where} must be JSON; got {type(value).__name__} {_shown(value)}.")


def _shown(value: Any) -> str:
    text = json.dumps(repr(value))[1:-1]
    return text if len(text) <= 60 else text[:57] + "..."
