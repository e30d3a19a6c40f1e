"""Functions of the pipeline's author: by dotted name, or from a module's text that travels as a parameter.

Whatever the author's module does wrong (a typing error, an exception at import, another name) is a
ConfigError that names the setting and the line. Does not look at what the functions do.
"""

import ast
import atexit
import difflib
import functools
import hashlib
import importlib
import importlib.util
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tfx_mobile.common.errors import ConfigError

MAX_SOURCE_BYTES = 2**20
MODULE_FILE = "module_file"  # the setting that a module's text comes from
_PREFIX = "tfx_mobile_module_"
_MAX_LISTED = 10


def load(dotted: str, setting: str) -> Callable[..., Any]:
    """Returns the function of a dotted name, such as 'taxi_fare.model.build_model'.

    Args:
      dotted: Module and function.
      setting: What the name was given as, for the message.

    Raises:
      ConfigError: The module cannot be imported, or has no such function.
    """
    module, _, function = dotted.rpartition(".")
    rule = f"{setting} must be an importable function; got {dotted!r}"
    if not module:
        raise ConfigError(f"{rule} (without a module). Write 'module.{dotted or 'function'}'.")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{rule} ({error}).") from error
    except (Exception, SystemExit) as error:  # whatever the author's module does
        raise ConfigError(f"{rule} (its import raised {_described(error)}).") from error
    if not hasattr(found, function):
        raise ConfigError(
            f"{rule} (module {module!r} has no attribute {function!r}).{_near(function, found)}"
        )
    value = getattr(found, function)
    if not callable(value):
        raise ConfigError(f"{rule} (it is {type(value).__name__}).")
    return value  # type: ignore[no-any-return]


def read_module_file(path: str | os.PathLike[str]) -> str:
    """Returns the text of a module file, which can travel as a parameter; nothing is run.

    Args:
      path: A Python file, UTF-8, of at most 1 MiB.

    Raises:
      ConfigError: It is missing, not such a file, or does not compile.
    """
    rule = f"{MODULE_FILE} must be a Python file that can be read"
    if Path(path).suffix != ".py":
        raise ConfigError(f"{rule}; got {str(path)!r}, which does not end in '.py'.")
    try:
        with open(path, "rb") as stream:
            content = stream.read(MAX_SOURCE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{rule}; got {str(path)!r} ({error.strerror}).") from error
    if len(content) > MAX_SOURCE_BYTES:
        raise ConfigError(
            f"{MODULE_FILE} must have at most {MAX_SOURCE_BYTES} bytes, since its text is recorded with each "
            f"run; got more in {str(path)!r}. Put it into a package and give dotted names of functions."
        )
    try:
        source = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{MODULE_FILE} must be UTF-8; got {str(path)!r} ({error}).") from error
    try:
        compile(source, str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        raise ConfigError(f"{MODULE_FILE} must compile; got {_described(error, str(path))}.") from error
    except ValueError as error:  # of a null byte, before Python 3.12
        raise ConfigError(f"{MODULE_FILE} must compile; got SyntaxError: {error} in {path}.") from error
    return source


def check_defines(source: str, name: str, setting: str) -> None:
    """Refuses a name that nothing in a module's text can define; nothing is run.

    Args:
      source: The module's text, which compiles.
      name: The function.
      setting: What the name was given as, for the message.

    Raises:
      ConfigError: It has no such name.
    """
    found, functions = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            functions.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name for alias in node.names}
    found |= functions
    if name not in found and "*" not in found:
        raise ConfigError(
            f"{setting} must be the name of a function in {MODULE_FILE}; got {name!r}, which it has not."
            f"{_near_names(name, sorted(found), sorted(functions))}"
        )


def load_from_source(source: str, name: str, setting: str) -> Callable[..., Any]:
    """Returns a function of a module whose text is given; the same text is imported once in a process.

    The module has a file while the process lives, so that tracebacks, `inspect` and AutoGraph find its lines.

    Args:
      source: The module's text.
      name: The function.
      setting: What the name was given as, for the message.

    Raises:
      ConfigError: The text does not compile, its import raises something, or it has no such function.
    """
    module = _module(source)
    rule = f"{setting} must be the name of a function in {MODULE_FILE}; got {name!r}"
    if not hasattr(module, name):
        raise ConfigError(f"{rule}, which it has not.{_near(name, module)}")
    value = getattr(module, name)
    if not callable(value):
        raise ConfigError(f"{rule} (it is {type(value).__name__}).")
    return value  # type: ignore[no-any-return]


def _module(source: str) -> ModuleType:
    # The name is made of the content: another text never gets this module, and pickles find it again.
    name = _PREFIX + hashlib.sha256(source.encode()).hexdigest()[:16]
    if name in sys.modules:
        return sys.modules[name]
    path = _folder() / f"{name}.py"
    path.write_bytes(source.encode())
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"No loader for {path}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, (Exception, SystemExit)):
            raise
        raise ConfigError(
            f"{MODULE_FILE} must import by itself; got {_described(error, str(path), MODULE_FILE)}. "
            "For code in several files give dotted names of functions."
        ) from error
    return module


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tfx-mobile-module-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _described(error: BaseException, path: str = "", shown: str = "") -> str:
    """Returns the error with the line it comes from: the last in the file at `path`, or the last of all."""
    what = f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}".rstrip(": ")
    if isinstance(error, SyntaxError):
        file, line = error.filename or path, error.lineno
    else:
        frames = traceback.extract_tb(error.__traceback__)
        mine = [frame for frame in frames if frame.filename == path] or frames
        file, line = (mine[-1].filename, mine[-1].lineno) if mine else (path, None)
    where = shown if shown and file == path else file
    return f"{what} in {where}" + (f", line {line}" if line else "")


def _near(wanted: str, module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
    own = [name for name in names if getattr(getattr(module, name), "__module__", "") == module.__name__]
    return _near_names(wanted, names, own)


def _near_names(wanted: str, names: Sequence[str], own: Sequence[str]) -> str:
    if near := difflib.get_close_matches(wanted, names):
        return f" Did you mean {' or '.join(map(repr, near))}?"
    return f" It has {', '.join(own[:_MAX_LISTED])}." if own else ""
