"""Where a model is pushed. Settings only; the registry itself is in tfx_mobile/registry."""

import dataclasses

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.jsonable import Settings
from tfx_mobile.registry import names


@dataclasses.dataclass(frozen=True)
class PusherConfig(Settings):
    """One destination.

    Attributes:
      registry: Folder of the registry; made, with its keys, on first use.
      keys: Folder of the signing keys, outside the registry; empty takes `<registry>.keys`.
      model_name: Lower-case letters, digits and dashes.
      channel: What phones follow, for example 'stable' or 'beta'.
    """

    registry: str
    model_name: str
    keys: str = ""
    channel: str = "stable"

    def __post_init__(self) -> None:
        if not self.registry:
            raise ConfigError("registry must be a folder; got an empty path.")
        names.check_name("Model", self.model_name)
        names.check_name("Channel", self.channel)
