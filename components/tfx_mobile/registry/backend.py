"""What every registry can be asked, whatever holds it: a backend's interface, and how one is found by URI.

The signed store (`store.Registry`) is the default and the only root of trust; MLflow, buckets and OCI
registries are mirrors. An adapter is a class that takes the URI and keyword options, and implements
`Backend`; it is announced as an entry point of the group `tfx_mobile.registries` under its URI scheme.
`tfx_mobile.registry.conformance` has the tests that an adapter must pass.
Does not know TFX.
"""

import dataclasses
import importlib.metadata
import re
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.registry.names import DEFAULT_VARIANT
from tfx_mobile.registry.targeting import EVERYONE_PERMILLE, Device, Targeting

ENTRY_POINTS = "tfx_mobile.registries"
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):/")


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """What a backend can do; a pusher that is asked for more fails before it publishes.

    Attributes:
      signed: What it hands out is verified against signatures, not against hashes only.
      variants: Several files of one version.
      rollout: A share of the devices, in permille.
      targeting: What a release asks of a device.
      rollback: A channel can go back.
      withdraw: A version can be taken back.
      attachments: Other files beside the model, such as its evaluation page.
      reserved_channels: Regular expression of the channels' names that it keeps for itself.
    """

    signed: bool = False
    variants: bool = False
    rollout: bool = False
    targeting: bool = False
    rollback: bool = False
    withdraw: bool = False
    attachments: bool = False
    reserved_channels: str = ""


@dataclasses.dataclass(frozen=True)
class Published:
    """What `publish` left in the registry.

    Attributes:
      model: The model's name.
      version: The version that holds the bytes, an integer >= 1.
      variant: Which file of the version.
      channel: The channel published to.
      channel_version: The newest version that channel offers now; greater than `version` only when an older
        version was published again.
      sha256: Of the bytes, 64 hex digits.
      size_bytes: Of the bytes.
      created: False when the version was there already, with the same bytes.
      uri: Where the file is, for people: a path or a URL.
    """

    model: str
    version: int
    variant: str
    channel: str
    channel_version: int
    sha256: str
    size_bytes: int
    created: bool
    uri: str


@dataclasses.dataclass(frozen=True)
class Resolved:
    """The file that a channel gives a device, its hash checked.

    Attributes:
      version: An integer >= 1.
      variant: Which file of the version.
      sha256: Of the bytes, 64 hex digits.
      content: The file.
      metadata: What the publisher said about it; JSON without floats.
    """

    version: int
    variant: str
    sha256: str
    content: bytes
    metadata: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Event:
    """One change of a channel.

    Attributes:
      unix_s: When, seconds since 1970 UTC, on the publisher's clock.
      action: 'publish', 'promote', 'rollout', 'withdraw' or 'rollback'.
      version: The newest version that the channel offered after it; 0 when none.
      rollout_permille: Of that version.
      note: Who or why, where it was said.
    """

    unix_s: int
    action: str
    version: int
    rollout_permille: int
    note: str = ""


@runtime_checkable
class Backend(Protocol):
    """A registry of mobile models. A call that raises has changed nothing that a phone sees."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do; reads nothing."""
        ...

    def publish(
        self,
        model: str,
        content: bytes,
        *,
        version: int | None = None,
        variant: str = DEFAULT_VARIANT,
        channel: str = "stable",
        metadata: Mapping[str, Any],
        rollout_permille: int = EVERYONE_PERMILLE,
        targeting: Targeting = Targeting(),  # noqa: B008 - frozen
        attachments: Mapping[str, bytes] | None = None,
    ) -> Published:
        """Makes `content` a version of `model`, offers it in `channel`, and reads it back.

        The same bytes again are a no-op: with `version` when that version holds them, without it when the
        newest version of the channel holds them.

        Raises:
          ConfigError: A name, the version, the content or the metadata breaks a rule, or asks for what the
            backend cannot do.
          RegistryError: The version holds other bytes or is older than the newest; or the registry is not
            reached, not writable or not as it should be.
        """
        ...

    def resolve(self, model: str, channel: str = "stable", *, device: Device | None = None) -> Resolved:
        """Returns what `channel` gives `device`, hash checked; without a device, what everyone gets.

        Raises:
          ConfigError: A name breaks a rule.
          RegistryError: There is no such model or channel, or nothing for this device; the bytes are not
            those that were published.
        """
        ...

    def rollback(self, model: str, channel: str = "stable", *, reason: str) -> Event:
        """Makes `channel` offer what it offered before its newest version came.

        Raises:
          RegistryError: There is nothing to go back to.
        """
        ...

    def withdraw(self, model: str, version: int, *, reason: str) -> None:
        """Takes a version out of every channel; it is never offered again, and its number never reused.

        Raises:
          RegistryError: There is no such version.
        """
        ...

    def history(self, model: str, channel: str = "stable") -> list[Event]:
        """Returns the changes of `channel`, oldest first.

        Raises:
          RegistryError: There is no such model or channel.
        """
        ...


def scheme_of(uri: str) -> str:
    """Returns the URI's scheme in lower case; empty for a path."""
    found = _SCHEME.match(uri)
    return found[1].lower() if found else ""


def open_backend(uri: str, **options: Any) -> Backend:
    """Returns the backend that is announced for the URI's scheme; a path is the signed store in that folder.

    Args:
      uri: A path, or a URI whose scheme is the name of an entry point of `tfx_mobile.registries`.
      **options: What the backend's class takes besides the URI; for the signed store, `keys`.

    Raises:
      ConfigError: Nothing is announced for the scheme, or what it needs is not installed, or the backend
        refuses the URI or an option.
    """
    scheme = scheme_of(uri) or "file"
    known = {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    if scheme not in known:
        raise ConfigError(
            f"Registry must be a folder or a URI of {', '.join(sorted(known))}; got one of '{scheme}'. "
            "Install the package that has the adapter for it, or name another registry."
        )
    try:
        opened: Backend = known[scheme].load()(uri, **options)
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        raise ConfigError(
            f"Registry {uri!r} needs the package '{package}', which is not installed: pip install {package}."
        ) from error
    except TypeError as error:
        raise ConfigError(f"Registry {uri!r} does not take these options: {error}.") from error
    return opened
