"""A fingerprint changes when code does, and only then."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.fingerprint import source_fingerprint, with_imports


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `fingerprinted` of two modules and a sub-package, on the path for one test."""
    folder = tmp_path / "fingerprinted"
    (folder / "sub").mkdir(parents=True)
    for name in ("__init__", "one", "sub/__init__", "sub/two"):
        (folder / f"{name}.py").write_text(f'"""{name}"""\n')
    (folder / "notes.txt").write_text("not code")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "fingerprinted"]:
        del sys.modules[name]


def test_it_is_sixteen_hexadecimal_digits_and_stays_the_same(package: Path) -> None:
    found = source_fingerprint("fingerprinted")
    assert re.fullmatch("[0-9a-f]{16}", found)
    assert source_fingerprint("fingerprinted") == found


@pytest.mark.parametrize("name", ["__init__.py", "one.py", "sub/two.py"])
def test_a_changed_file_of_the_package_changes_it(package: Path, name: str) -> None:
    before = source_fingerprint("fingerprinted")
    (package / name).write_text("x = 1\n")
    assert source_fingerprint("fingerprinted") != before


def test_a_new_a_removed_and_a_renamed_file_change_it(package: Path) -> None:
    seen = {source_fingerprint("fingerprinted")}
    (package / "three.py").write_text("")
    seen.add(source_fingerprint("fingerprinted"))
    (package / "three.py").rename(package / "four.py")
    seen.add(source_fingerprint("fingerprinted"))
    (package / "one.py").unlink()
    seen.add(source_fingerprint("fingerprinted"))
    assert len(seen) == 4


def test_a_file_moved_to_another_folder_changes_it(package: Path) -> None:
    (package / "sub" / "two.py").unlink()
    (package / "A").mkdir()  # sorts before __init__.py
    (package / "B").mkdir()
    (package / "A" / "moved.py").write_text("")
    before = source_fingerprint("fingerprinted")
    (package / "A" / "moved.py").rename(package / "B" / "moved.py")
    assert source_fingerprint("fingerprinted") != before


def test_a_module_alone_does_not_look_at_its_neighbours(package: Path) -> None:
    before = source_fingerprint("fingerprinted.one")
    (package / "sub" / "two.py").write_text("x = 1\n")
    (package / "notes.txt").write_text("changed")
    assert source_fingerprint("fingerprinted.one") == before


def test_files_that_are_not_code_do_not_count(package: Path) -> None:
    before = source_fingerprint("fingerprinted")
    (package / "notes.txt").write_text("changed")
    assert source_fingerprint("fingerprinted") == before


def test_several_modules_count_each(package: Path) -> None:
    before = source_fingerprint("fingerprinted.one", "fingerprinted.sub")
    (package / "sub" / "two.py").write_text("x = 1\n")
    assert source_fingerprint("fingerprinted.one", "fingerprinted.sub") != before


def test_a_module_is_not_run_to_be_read(package: Path) -> None:
    (package / "one.py").write_text("raise SystemExit('this ran')\n")
    assert source_fingerprint("fingerprinted.one")


def test_a_module_that_is_not_there_is_named() -> None:
    message = (
        "Module 'no_such_module' must be importable from source; got nothing of that name. "
        "Put its folder on PYTHONPATH."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        source_fingerprint("no_such_module")


def test_a_module_below_a_package_that_is_not_there_is_named() -> None:
    message = "Module 'no_such_package.module' must be importable; No module named 'no_such_package'."
    with pytest.raises(ConfigError, match=re.escape(message)):
        source_fingerprint("no_such_package.module")


def test_a_module_without_python_source_is_refused() -> None:
    message = "Module 'sys' must be importable from source; got built-in."
    with pytest.raises(ConfigError, match=re.escape(message)):
        source_fingerprint("sys")


def test_what_a_module_imports_from_its_own_project_counts_and_nothing_else_does(
    package: Path, tmp_path: Path
) -> None:
    (tmp_path / "alone.py").write_text("def f():\n    import fingerprinted.sub\n")
    (tmp_path / "unused.py").write_text("")
    (package / "one.py").write_text(
        "import json\nimport numpy\nfrom . import three\nfrom .sub.two import X\n"
    )
    (package / "three.py").write_text("import alone\n")
    (package / "sub" / "two.py").write_text("from fingerprinted.one import *\nX = 1\n")
    assert with_imports(["fingerprinted.one"]) == (
        "alone",
        "fingerprinted.__init__",
        "fingerprinted.one",
        "fingerprinted.sub.__init__",
        "fingerprinted.sub.two",
        "fingerprinted.three",
    )
    assert with_imports([]) == ()
    before = source_fingerprint(*with_imports(["fingerprinted.one"]))
    (package / "sub" / "__init__.py").write_text("Y = 1\n")
    assert source_fingerprint(*with_imports(["fingerprinted.one"])) != before


def test_of_an_installed_package_only_itself_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "site-packages"
    (folder / "mine").mkdir(parents=True)
    (folder / "mine" / "__init__.py").write_text("")
    (folder / "mine" / "model.py").write_text("import other_installed\nimport mine.layers\n")
    (folder / "mine" / "layers.py").write_text("")
    (folder / "other_installed.py").write_text("")
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    assert with_imports(["mine.model"]) == ("mine.layers", "mine.model")
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def test_a_module_that_does_not_compile_is_refused_with_its_line(package: Path) -> None:
    (package / "one.py").write_text("import json\nx = (\n")
    message = "Module 'fingerprinted.one' must compile; '(' was never closed in line 2."
    with pytest.raises(ConfigError, match=re.escape(message)):
        with_imports(["fingerprinted.one"])


def test_a_module_that_is_not_there_is_refused_before_its_imports_are_read() -> None:
    with pytest.raises(ConfigError, match=re.escape("Module 'not_there' must be importable from source")):
        with_imports(["not_there"])
