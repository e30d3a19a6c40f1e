"""Which model of which registry is read. Settings only; the registry itself is in tfx_mobile/registry."""

import dataclasses
import re

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.jsonable import Settings
from tfx_mobile.registry import names
from tfx_mobile.registry.backend import scheme_of

_USER = re.compile(r"[^/]+:/+[^/]*@")
_QUERY = re.compile(r"[^/]{2,}:/.*[?#]")
_URL_SCHEMES = ("file", "http", "https")
# No phone reads the last two, so `check_location` refuses them.
_SIGNED_SCHEMES = ("", *_URL_SCHEMES, "s3", "gs")


@dataclasses.dataclass(frozen=True)
class RegistryModelConfig(Settings):
    """One source.

    Attributes:
      registry: A folder, or a file://, http:// or https:// URL, of the signed store; or a mirror's URI.
      model_name: Lower-case letters, digits and dashes.
      channel: What phones follow, for example 'stable' or 'beta'.
      root: The root file that is trusted; empty takes `<registry>.keys/root.json`, for a folder only.
      cache: Folder of what was seen of this registry, by which an older copy of it is refused; empty takes
        the one that `tfx-mobile registry fetch` uses.
    """

    registry: str
    model_name: str
    channel: str = "stable"
    root: str = ""
    cache: str = ""

    def __post_init__(self) -> None:
        if not self.registry:
            raise ConfigError("registry must be a folder or a URL; got an empty path.")
        names.check_name("Model", self.model_name)
        names.check_name("Channel", self.channel)
        if _USER.match(self.registry) or _QUERY.match(self.registry):
            raise ConfigError(
                "registry must be a URL without user, password or query, which ML Metadata keeps; got one "
                "with. Serve the registry openly: its signatures are what is trusted."
            )
        for name in ("root", "cache"):
            if scheme := scheme_of(getattr(self, name)):
                raise ConfigError(f"{name} must be a local path; got a URI of '{scheme}'.")
        if is_mirror(self.registry):
            if self.root or self.cache:
                raise ConfigError(
                    f"root and cache must be left out for {self.registry}, which signs nothing; got "
                    f"{self.root or self.cache!r}. What it gives is checked against its own hashes only."
                )
        elif scheme_of(self.registry) in _URL_SCHEMES and not self.root:
            raise ConfigError(
                f"root must name the root to trust for {self.registry}; got none. Take root.json from the "
                "keys folder of whoever publishes there."
            )


def is_mirror(registry: str) -> bool:
    """Returns whether the registry is another than the signed store, asked as `backend.Backend` says."""
    return scheme_of(registry) not in _SIGNED_SCHEMES
