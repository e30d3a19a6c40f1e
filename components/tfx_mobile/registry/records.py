"""What the registry signs about a version and a channel, as values.

A version's record is the `custom` part of its TUF target; a channel's record is a small JSON target of its
own. TUF signs canonical JSON, which has no floats: numbers are integers with the unit in the key (`rmse_ppm`,
`latency_p50_ns`, `size_bytes`). Does not sign and does not read files.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]

from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.common.jsonable import Settings
from tfx_mobile.registry import names


@dataclasses.dataclass(frozen=True)
class VersionRecord:
    """One signed version of a model.

    Attributes:
      model: The model's name.
      version: An integer >= 1.
      sha256: Of the file, 64 hex digits.
      size_bytes: Of the file.
      published_unix_s: When it was published, seconds since 1970 UTC, on the publisher's clock.
      metadata: What the publisher said about it; JSON without floats.
    """

    model: str
    version: int
    sha256: str
    size_bytes: int
    published_unix_s: int
    metadata: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class ChannelRecord(Settings):
    """The version that a channel of a model points to."""

    model: str
    channel: str
    version: int

    def __post_init__(self) -> None:
        names.check_name("Model", self.model)
        names.check_name("Channel", self.channel)
        names.check_version(self.version)


def version_target(
    model: str, version: int, content: bytes, *, metadata: Mapping[str, Any], published_unix_s: int
) -> TargetFile:
    """Returns the TUF target for a version.

    Raises:
      ConfigError: `metadata` is not JSON without floats; the message names the key.
    """
    target = TargetFile.from_data(names.model_path(model, version), content, ["sha256"])
    custom = {"metadata": checked_metadata(metadata), "published_unix_s": published_unix_s}
    target.unrecognized_fields["custom"] = custom
    return target


def read_version(model: str, version: int, target: TargetFile) -> VersionRecord:
    """Returns the record in a verified target.

    Raises:
      RegistryError: The target was signed, but is not one that `version_target` makes.
    """
    custom, sha256 = target.custom, target.hashes.get("sha256")
    if (
        not isinstance(custom, dict)
        or not isinstance(custom.get("metadata"), dict)
        or type(custom.get("published_unix_s")) is not int
        or sha256 is None
    ):
        raise RegistryError(
            f"Target '{target.path}' must carry sha256, custom.metadata and custom.published_unix_s; got "
            f"{sorted(target.to_dict())} with custom {custom!r}. It was not made by this "
            "registry's publisher."
        )
    return VersionRecord(
        model, version, sha256, target.length, custom["published_unix_s"], custom["metadata"]
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
        return str(value)
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
