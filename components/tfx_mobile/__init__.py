"""TFX components that turn a pipeline's model into a small, fast, signed TFLite file.

Public names are loaded on first use (PEP 562), so `import tfx_mobile` costs milliseconds and imports
neither TFX nor TensorFlow.
"""

import importlib
from typing import Any

if __name__ != "tfx_mobile":
    raise ImportError(
        f"The package's import name is 'tfx_mobile'; got {__name__!r}. 'components' is a source root, "
        "not a package: install the project (pip install -e .) or put components/ on PYTHONPATH."
    )

__version__ = "0.1.0"

_HOMES = {
    "ConfigError": "tfx_mobile.common.errors",
    "DataError": "tfx_mobile.common.errors",
    "RegistryError": "tfx_mobile.common.errors",
    "TfxMobileError": "tfx_mobile.common.errors",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    """Imports the module a public name lives in, the first time it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tfx_mobile' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
