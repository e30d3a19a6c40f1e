"""What adapters of other registries share: refusing what they cannot do, and saying that there is nothing.

An adapter calls `check_wishes` first in `publish`; `RegistryPusher` calls it when a pipeline is built.
Does not read or write.
"""

import re
from collections.abc import Mapping
from typing import Any

from tfx_mobile.common import jsonable
from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry import names, records
from tfx_mobile.registry.backend import Capabilities
from tfx_mobile.registry.targeting import EVERYONE_PERMILLE, Targeting, check_permille, check_targeting

_DOES = {
    "variants": "keep several variants of a version",
    "rollout": "offer a version to a share of the devices",
    "targeting": "ask anything of a device",
    "rollback": "go back",
    "withdraw": "take a version back",
    "attachments": "keep other files beside a model",
}


class NothingReleased(RegistryError):  # noqa: N818 - a state, not a fault
    """There is no such model, or no such channel of it: not yet, or not under this name."""


def check_can(where: str, capabilities: Capabilities, *wanted: str) -> None:
    """Checks that a backend can do what is asked of it.

    Args:
      where: The registry's URI, for the message.
      capabilities: Of the backend.
      *wanted: Fields of `Capabilities`.

    Raises:
      ConfigError: It cannot; the message names the first.
    """
    for name in wanted:
        if not getattr(capabilities, name):
            able = [name for name in ("signed", *_DOES) if getattr(capabilities, name)]
            raise ConfigError(
                f"Registry {where!r} cannot {_DOES[name]}; it can do: {', '.join(able) or 'publish only'}. "
                f"Leave {name} out, or publish to the signed store."
            )


def check_channel(where: str, capabilities: Capabilities, channel: str) -> str:
    """Returns the name of a channel that the backend can have.

    Args:
      where: The registry's URI, for the message.
      capabilities: Of the backend.
      channel: Its name.

    Raises:
      ConfigError: The name breaks the rule, or the backend keeps it for itself.
    """
    if re.fullmatch(capabilities.reserved_channels, names.check_name("Channel", channel)):
        raise ConfigError(
            f"Channel name must not match {capabilities.reserved_channels!r}, which registry {where!r} keeps "
            f"for itself; got {channel!r}. Name another."
        )
    return channel


def check_wishes(
    where: str,
    capabilities: Capabilities,
    *,
    variant: str,
    rollout_permille: int,
    targeting: Targeting,
    attachments: bool,
) -> None:
    """Checks the settings of a publication, and that the backend can do what they ask for.

    Args:
      where: The registry's URI, for the message.
      capabilities: Of the backend.
      variant: Which file of the version.
      rollout_permille: Share of the devices that fit, 0 to 1,000.
      targeting: What the file asks of a device.
      attachments: Whether there are other files beside it.

    Raises:
      ConfigError: A setting breaks its rule, or the backend cannot do it; the message names it.
    """
    if variant != names.DEFAULT_VARIANT:
        names.check_variant(variant)
        check_can(where, capabilities, "variants")
    if check_permille(rollout_permille) != EVERYONE_PERMILLE:
        check_can(where, capabilities, "rollout")
    if check_targeting(targeting) != Targeting():
        check_can(where, capabilities, "targeting")
    if attachments:
        check_can(where, capabilities, "attachments")


def check_content(where: str, content: Any) -> bytes:
    """Returns `content`, at least one byte.

    Raises:
      ConfigError: It is something else; `where` says of what.
    """
    if not isinstance(content, bytes) or not content:
        got = "none" if content == b"" else type(content).__name__
        raise ConfigError(f"Content of {where} must be bytes, at least one; got {got}.")
    return content


def check_attachments(attachments: Mapping[str, bytes] | None) -> dict[str, bytes]:
    """Returns the files by name.

    Raises:
      ConfigError: A name breaks the rule, or a file is not bytes.
    """
    found = dict(attachments or {})
    for name, content in found.items():
        check_content(f"attachment '{names.check_attachment(name)}'", content)
    return found


def record_json(metadata: Mapping[str, Any]) -> bytes:
    """Returns what the publisher says about a file, as canonical JSON.

    Raises:
      ConfigError: It is not JSON without floats; the message names the key.
    """
    return jsonable.dumps(records.checked_metadata(metadata)).encode()


def check_reason(reason: str) -> str:
    """Returns why something is taken back: text, not empty.

    Raises:
      ConfigError: It is something else.
    """
    if not isinstance(reason, str) or not reason.strip():
        raise ConfigError(f"reason must say why, in words; got {reason!r}.")
    return reason
