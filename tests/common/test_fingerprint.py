"""A fingerprint changes when code does, and only then."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.fingerprint import source_fingerprint


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
