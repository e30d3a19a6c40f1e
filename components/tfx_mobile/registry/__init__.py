"""The mobile model registry: signed model files that phones fetch from any web server.

Public names are loaded on first use (PEP 562): importing this package imports neither TUF nor TFX.
"""

import importlib
from typing import Any

_HOMES = {
    "Backend": "tfx_mobile.registry.backend",
    "Capabilities": "tfx_mobile.registry.backend",
    "ChannelRecord": "tfx_mobile.registry.records",
    "Client": "tfx_mobile.registry.client",
    "Device": "tfx_mobile.registry.targeting",
    "Event": "tfx_mobile.registry.backend",
    "Fetched": "tfx_mobile.registry.client",
    "Published": "tfx_mobile.registry.backend",
    "Registry": "tfx_mobile.registry.store",
    "Resolved": "tfx_mobile.registry.backend",
    "Rollout": "tfx_mobile.registry.records",
    "Targeting": "tfx_mobile.registry.targeting",
    "Verified": "tfx_mobile.registry.store",
    "VersionRecord": "tfx_mobile.registry.records",
    "open_backend": "tfx_mobile.registry.backend",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Imports the module a public name lives in, the first time it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tfx_mobile.registry' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
