"""Fingerprints of source code, so that TFX's cache notices when code changes.

TFX's cache key holds parameters, inputs and Beam arguments but not the code of a component or of a dotted
user function; every component here passes `source_fingerprint` as a parameter. Reads files, imports nothing
but the parent packages of what it is given.
"""

import ast
import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

from tfx_mobile.common.errors import ConfigError

_INSTALLED = ("site-packages", "dist-packages")


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


def with_imports(modules: Sequence[str]) -> tuple[str, ...]:
    """Returns the modules and what they import from their own project, directly or not; imports nothing.

    The project is what lies below the same folder as a module's top-level package; where packages are
    installed, that package alone. Imports inside functions count; those by a computed name do not.

    Args:
      modules: Dotted names.

    Raises:
      ConfigError: One of `modules` cannot be found or has no source file, or a module does not compile.
    """
    found = set()
    waiting = []
    for name in modules:
        origin = _source_files(name)[0]
        is_package = origin.name == "__init__.py" and not name.endswith(".__init__")
        waiting.append((name, origin, origin.parents[name.count(".") + is_package]))
    while waiting:
        name, origin, root = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for imported in _imports(name, origin):
            if root.name in _INSTALLED and imported.partition(".")[0] != name.partition(".")[0]:
                continue
            place = root.joinpath(*imported.split("."))
            if place.with_suffix(".py").is_file():
                waiting.append((imported, place.with_suffix(".py"), root))
            elif (place / "__init__.py").is_file():  # what it imports counts, not all that lies in it
                waiting.append((f"{imported}.__init__", place / "__init__.py", root))
    return tuple(sorted(found))


def _imports(module: str, origin: Path) -> Iterator[str]:
    """Yields what may be the names of modules that a source file imports."""
    package = module.split(".")
    if origin.name != "__init__.py" or module.endswith(".__init__"):
        package = package[:-1]
    try:
        tree = ast.parse(origin.read_bytes())
    except SyntaxError as error:
        raise ConfigError(f"Module {module!r} must compile; {error.msg} in line {error.lineno}.") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}".strip(".") for alias in node.names if alias.name != "*"]
            yield from ([base] if base else [])
            yield from names


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
