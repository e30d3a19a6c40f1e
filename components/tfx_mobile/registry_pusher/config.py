"""Where and how a model is pushed. Settings only; the registry itself is in tfx_mobile/registry."""

import dataclasses
import re

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.jsonable import Settings
from tfx_mobile.registry import names
from tfx_mobile.registry.adapter import check_channel, check_wishes
from tfx_mobile.registry.backend import Backend, open_backend
from tfx_mobile.registry.targeting import EVERYONE_PERMILLE, Targeting, check_permille

_USER = re.compile(r"[^/@]*:/+[^/]*@")
_QUERY = re.compile(r"[^/]{2,}:/.*[?#]")


@dataclasses.dataclass(frozen=True)
class PusherConfig(Settings):
    """One destination.

    Attributes:
      registry: A folder, made with its keys on first use, or a URI that `open_backend` knows.
      model_name: Lower-case letters, digits and dashes.
      keys: Folder of the signing keys, outside the registry; empty takes `<registry>.keys`.
      channel: What phones follow, for example 'stable' or 'beta'.
      version: An integer >= 1; None takes the next.
      variant: Which file of the version.
      rollout_permille: Share of the devices that fit, 0 to 1,000.
      targeting: What the file asks of a device; where it says nothing of runtime or operators, the file does.
      delta: Whether the signed store also keeps patches from what the channels give everyone now; no other
        registry does.

    Raises:
      ConfigError: A setting breaks its rule; the message names it.
    """

    registry: str
    model_name: str
    keys: str = ""
    channel: str = "stable"
    version: int | None = None
    variant: str = names.DEFAULT_VARIANT
    rollout_permille: int = EVERYONE_PERMILLE
    targeting: Targeting = Targeting()  # noqa: RUF009 - frozen
    delta: bool = True

    def __post_init__(self) -> None:
        if not self.registry:
            raise ConfigError("registry must be a folder or a URI; got an empty path.")
        if _USER.match(self.registry) or _QUERY.match(self.registry):
            raise ConfigError(
                "registry must be a URI without user, password or query, which ML Metadata keeps; got one "
                "with. Credentials come from the environment of whoever runs the component."
            )
        names.check_name("Model", self.model_name)
        names.check_name("Channel", self.channel)
        if self.version is not None:
            names.check_version(self.version)
        if self.variant != names.DEFAULT_VARIANT:
            names.check_variant(self.variant)
        check_permille(self.rollout_permille)
        if not isinstance(self.delta, bool):
            raise ConfigError(f"delta must be True or False; got {self.delta!r}.")


def open_registry(config: PusherConfig, *, attachments: bool) -> Backend:
    """Returns the backend, which can do all that the settings ask for; reads nothing.

    Args:
      config: The settings.
      attachments: Whether an evaluation goes along.

    Raises:
      ConfigError: There is no such backend, or it cannot do it.
    """
    backend = open_backend(config.registry, **({"keys": config.keys} if config.keys else {}))
    check_channel(config.registry, backend.capabilities, config.channel)
    check_wishes(
        config.registry,
        backend.capabilities,
        variant=config.variant,
        rollout_permille=config.rollout_permille,
        targeting=config.targeting,
        attachments=attachments,
    )
    return backend
