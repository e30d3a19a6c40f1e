"""Fingerprints of source code, so that TFX's cache notices when code changes.

TFX's cache key holds parameters, inputs and Beam arguments but not the code of a component or of a dotted
user function; every component here passes `source_fingerprint` as a parameter. Reads files, imports nothing
but the parent packages of what it is given.
"""

import hashlib
import importlib.util
from pathlib import Path

from tfx_mobile.common.errors import ConfigError


def source_fingerprint(*modules: str) -> str:
    """Returns 16 hexadecimal digits that change when the source of any of the modules changes.

    Args:
      modules: Dotted module or package names; of a package, all .py files below its folder count.

    Raises:
      ConfigError: A module cannot be found or has no source file.
    """
    digest = hashlib.sha256()
    for module in modules:
        origin, files = _source_files(module)
        for path in files:
            content = path.read_bytes()
            place = path.relative_to(origin.parent).as_posix()
            digest.update(f"{module}:{place}:{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()[:16]


def _source_files(module: str) -> tuple[Path, list[Path]]:
    """Returns the file that the module starts with and all that count."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"Module {module!r} must be importable; {error}.") from error
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise ConfigError(
            f"Module {module!r} must be importable from source; got "
            f"{'nothing of that name' if spec is None else spec.origin}. Put its folder on PYTHONPATH."
        )
    origin = Path(spec.origin)
    is_package = bool(spec.submodule_search_locations)
    return origin, sorted(origin.parent.rglob("*.py")) if is_package else [origin]
