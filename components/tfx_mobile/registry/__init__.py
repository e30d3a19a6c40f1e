"""The mobile model registry: signed model files that phones fetch from any web server.

Public names are loaded on first use (PEP 562): importing this package imports neither TUF nor TFX.
"""

import importlib
from typing import Any

_HOMES = {
    "Client": "tfx_mobile.registry.client",
    "Fetched": "tfx_mobile.registry.client",
    "Published": "tfx_mobile.registry.store",
    "Registry": "tfx_mobile.registry.store",
    "Verified": "tfx_mobile.registry.store",
    "VersionRecord": "tfx_mobile.registry.records",
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
