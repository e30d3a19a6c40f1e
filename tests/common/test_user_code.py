"""Functions of the pipeline's author: found, and every way not to find one has a message."""

import inspect
import os
import re
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from tfx_mobile.common import user_code
from tfx_mobile.common.errors import ConfigError

COUNTED = """
import os
TIMES = os.environ.get("TIMES_IMPORTED", "0")
os.environ["TIMES_IMPORTED"] = str(int(TIMES) + 1)


def build_model(ctx):
    return ctx + 1


def bad(ctx):
    raise KeyError(ctx)


def input_fn(): ...
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_dotted_function_is_the_function() -> None:
    assert user_code.load("os.path.join", "build_model") is os.path.join
    assert user_code.load("tfx_mobile.common.user_code.load", "x") is user_code.load


@pytest.mark.parametrize(
    ("dotted", "got"),
    [
        ("no_such_module.build_model", "(No module named 'no_such_module')."),
        ("os.path.jion", "(module 'os.path' has no attribute 'jion'). Did you mean 'join'?"),
        (
            "tfx_mobile.common.files.qqq",
            "(module 'tfx_mobile.common.files' has no attribute 'qqq'). It has write_atomically.",
        ),
        ("tfx_mobile.common.errors.__doc__", "(it is str)."),
        ("build", "(without a module). Write 'module.build'."),
        ("", "(without a module). Write 'module.function'."),
    ],
)
def test_a_dotted_name_that_is_no_function_is_refused(dotted: str, got: str) -> None:
    message = f"predicate must be an importable function; got {dotted!r} {got}"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        user_code.load(dotted, "predicate")


@pytest.mark.parametrize(
    ("source", "got"),
    [
        ("import no_such_module_x\n", "No module named 'no_such_module_x'"),
        ("x = 1\nundefined\n", "its import raised NameError: name 'undefined' is not defined in {}, line 2"),
        ("x = 1\n\ndef f(:\n", "its import raised SyntaxError: invalid syntax in {}, line 3"),
        ("import sys\nsys.exit(4)\n", "its import raised SystemExit: 4 in {}, line 2"),
        ("def f():\n    raise ValueError\nf()\n", "its import raised ValueError in {}, line 2"),
    ],
)
def test_a_module_that_does_not_import_is_refused_with_the_line(
    source: str, got: str, folder: Path, request: pytest.FixtureRequest
) -> None:
    name = f"user_code_case_{abs(hash(request.node.name))}"
    path = folder / f"{name}.py"
    path.write_text(source)
    message = f"build_model must be an importable function; got '{name}.f' ({got.format(path)})."
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$") as caught:
        user_code.load(f"{name}.f", "build_model")
    assert caught.value.__cause__ is not None


def test_a_module_is_imported_once_and_its_functions_have_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMES_IMPORTED", "0")
    found = user_code.load_from_source(COUNTED, "build_model", "build_model")
    again = user_code.load_from_source(COUNTED, "build_model", "build_model")
    bad = user_code.load_from_source(COUNTED, "bad", "build_model")
    assert found(1) == 2
    assert found is again
    assert os.environ["TIMES_IMPORTED"] == "1"
    assert inspect.getsource(found) == "def build_model(ctx):\n    return ctx + 1\n"
    assert sys.modules[found.__module__].build_model is found
    with pytest.raises(KeyError) as caught:
        bad("x")
    assert "    raise KeyError(ctx)\n" in "".join(traceback.format_tb(caught.value.__traceback__))


def test_another_text_is_another_module() -> None:
    one, two = (user_code.load_from_source(f"def f(): return {n}\n", "f", "f") for n in (1, 2))
    assert (one(), two()) == (1, 2)


def test_text_that_is_not_ascii_stays_what_it_was() -> None:
    source = "# -*- coding: utf-8 -*-\r\ndef f():\r\n    return '\u00e4\u4e2d\U0001f600'\r\n"
    assert user_code.load_from_source(source, "f", "f")() == "\u00e4\u4e2d\U0001f600"


@pytest.mark.parametrize(
    ("source", "got"),
    [
        ("x = 1\ny = x +\n", "SyntaxError: invalid syntax in module_file, line 2"),
        ("def f():\n    1 / 0\n\nf()\n", "ZeroDivisionError: division by zero in module_file, line 2"),
        (
            "import json\n\njson.loads('[')\n",
            "JSONDecodeError: Expecting value: line 1 column 2 (char 1) in module_file, line 3",
        ),
        (
            "from . import other\n",
            "ImportError: attempted relative import with no known parent package in module_file, line 1",
        ),
        ("raise SystemExit(1)\n", "SystemExit: 1 in module_file, line 1"),
    ],
)
def test_a_text_that_does_not_import_is_refused_with_its_line(source: str, got: str) -> None:
    message = (
        f"module_file must import by itself; got {got}. "
        "For code in several files give dotted names of functions."
    )
    before = set(sys.modules)
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        user_code.load_from_source(source, "f", "build_model")
    assert not [name for name in set(sys.modules) - before if name.startswith("tfx_mobile_module_")]


def test_an_interrupt_at_import_stays_one() -> None:
    with pytest.raises(KeyboardInterrupt):
        user_code.load_from_source("raise KeyboardInterrupt\n", "f", "build_model")


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("build_modle", "'build_modle', which it has not. Did you mean 'build_model'?"),
        ("zzz", "'zzz', which it has not. It has build_model, bad, input_fn."),
        ("TIMES", "'TIMES' (it is str)."),
    ],
)
def test_a_name_that_is_no_function_of_the_text_is_refused(name: str, got: str) -> None:
    message = f"input_fn must be the name of a function in module_file; got {got}"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        user_code.load_from_source(COUNTED, name, "input_fn")


def test_a_text_without_functions_has_none_to_list() -> None:
    with pytest.raises(ConfigError, match=r"got 'f', which it has not\.\Z"):
        user_code.load_from_source("x = 1\n", "f", "input_fn")


def test_a_module_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_bytes(b"\xef\xbb\xbf" + COUNTED.replace("\n", "\r\n").encode())
    assert user_code.read_module_file(tmp_path / "model.py") == COUNTED.replace("\n", "\r\n")
    assert user_code.read_module_file(str(tmp_path / "model.py")) == COUNTED.replace("\n", "\r\n")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "model.txt",
            b"",
            "be a Python file that can be read; got '{}', which does not end in '.py'.",
        ),
        ("missing.py", None, "be a Python file that can be read; got '{}' (No such file or directory)."),
        (
            "utf16.py",
            b"x = '\xe4'",
            "be UTF-8; got '{}' ('utf-8' codec can't decode byte 0xe4 in position 5: invalid continuation "
            "byte).",
        ),
        ("bad.py", b"x = 1\ny = x +\n", "compile; got SyntaxError: invalid syntax in {}, line 2."),
        (
            "long.py",
            b"#" * (2**20 + 1),
            "have at most 1048576 bytes, since its text is recorded with each run; got more in '{}'. Put it "
            "into a package and give dotted names of functions.",
        ),
    ],
)
def test_a_file_that_is_no_module_is_refused(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^module_file must {re.escape(message.format(path))}$"):
        user_code.read_module_file(path)


def test_a_file_of_exactly_one_mib_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "full.py").write_bytes(b"#" * 2**20)
    assert len(user_code.read_module_file(tmp_path / "full.py")) == 2**20
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(ConfigError, match=r"folder\.py' \(Is a directory\)\.\Z"):
        user_code.read_module_file(tmp_path / "folder.py")


def test_a_null_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "null.py"
    path.write_bytes(b"x = 1\x00\n")
    message = (
        f"module_file must compile; got SyntaxError: source code string cannot contain null bytes in {path}."
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        user_code.read_module_file(path)


def test_reading_a_file_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("raise RuntimeError\n")
    assert user_code.read_module_file(tmp_path / "model.py") == "raise RuntimeError\n"


def test_the_files_are_gone_when_the_process_is(tmp_path: Path) -> None:
    script = (
        "from tfx_mobile.common import user_code; f = user_code.load_from_source('def f(): pass', 'f', 'f'); "
        "print(f.__code__.co_filename)"
    )
    found = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.startswith(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
