"""Symbolic links in the folder of a registry, which the publisher never follows out of it."""

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tfx_mobile.common.errors import RegistryError
from tfx_mobile.registry.client import Client
from tfx_mobile.registry.store import Registry

NEW = b"four"
OPERATIONS: dict[str, Callable[[Registry], object]] = {
    "publish": lambda r: r.publish("taxi-fare", NEW, metadata={}),
    "rollback": lambda r: r.rollback("taxi-fare", reason="x"),
    "withdraw": lambda r: r.withdraw("taxi-fare", 3, reason="x"),
    "refresh": lambda r: r.refresh(),
    "rotate": lambda r: r.rotate_key("snapshot"),
    "gc": lambda r: r.collect_garbage(keep_versions=1, min_age=timedelta(0)),
    "verify": lambda r: r.verify(),
}
# What was moved out and linked to. Every operation reads or writes there, but those that are named.
MOVED = {
    "metadata": (),
    "metadata/timestamp.json": (),
    "metadata/4.snapshot.json": (),
    "targets": (),
    "targets/taxi-fare": ("refresh", "rotate"),
    "targets/taxi-fare/channels": ("refresh", "rotate"),
    ".lock": ("verify",),
}


def _everything(*folders: Path) -> dict[str, bytes | str | None]:
    """Every file with its bytes, every link with where it leads, every folder."""
    return {
        str(path): os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        for folder in folders
        for path in folder.rglob("*")
        if path.name != ".lock" or path.is_symlink()
    }


def _move_out(registry: Registry, place: str) -> tuple[Path, Path]:
    """Puts a link in place of a file or folder; returns the link, and where it leads."""
    link, outside = registry.repository / place, registry.repository.with_name("outside")
    outside.mkdir()
    shutil.move(link, outside / "moved")
    link.symlink_to(outside / "moved")
    return link, outside / "moved"


@pytest.mark.parametrize(
    ("place", "name"),
    [(place, name) for place, good in MOVED.items() for name in OPERATIONS if name not in good],
)
def test_a_link_out_of_the_registry_is_named_and_nothing_is_changed_on_either_side(
    registry: Registry, place: str, name: str
) -> None:
    link, moved = _move_out(registry, place)
    before = _everything(registry.repository, registry.keys, moved.parent)
    message = f"Symbolic links must not lead out of the registry; {link}"
    with pytest.raises(RegistryError, match=re.escape(message)) as refused:
        OPERATIONS[name](registry)
    assert re.search(
        rf" leads to {re.escape(str(moved))}\S*\. Put the file or folder itself", str(refused.value)
    )
    assert _everything(registry.repository, registry.keys, moved.parent) == before


def test_a_model_file_that_is_a_link_out_does_not_verify_for_phones_do_not_fetch_it(
    registry: Registry, phone: Client
) -> None:
    (file,) = registry.repository.glob("targets/taxi-fare/3/*.model.tflite")
    link, moved = _move_out(registry, str(file.relative_to(registry.repository)))
    with pytest.raises(RegistryError, match=re.escape(f"registry; {link} leads to {moved}. Put the file")):
        registry.verify()
    with pytest.raises(RegistryError, match=re.escape("a file is missing or not served")):
        phone.fetch("taxi-fare")


@pytest.mark.parametrize("is_there", [True, False], ids=["to a folder", "dangling"])
@pytest.mark.parametrize("place", ["targets/taxi-fare/4", "targets/another", "targets/another/1", ".lock"])
def test_a_link_that_waits_where_a_publisher_will_write_gets_nothing(
    registry: Registry, place: str, is_there: bool
) -> None:
    outside, link = registry.repository.with_name("outside"), registry.repository / place
    if is_there:
        outside.mkdir()
    link.parent.mkdir(exist_ok=True)
    if place == ".lock":
        link.unlink()
    link.symlink_to(outside)
    before = _everything(registry.repository, registry.keys)
    with pytest.raises(RegistryError, match=re.escape(f"{link}")) as refused:
        registry.publish("another" if "another" in place else "taxi-fare", NEW, metadata={})
    assert "Symbolic links must not lead out of the registry; " in str(refused.value)
    assert _everything(registry.repository, registry.keys) == before
    assert list(outside.iterdir()) == [] if is_there else not outside.exists()


@pytest.mark.parametrize(
    "place",
    ["metadata/5.snapshot.json", f"targets/taxi-fare/4/{hashlib.sha256(NEW).hexdigest()}.model.tflite"],
)
def test_a_link_that_has_the_name_of_a_new_file_is_replaced_by_it(
    registry: Registry, phone: Client, place: str, tmp_path: Path
) -> None:
    link, outside = registry.repository / place, tmp_path / "outside"
    outside.write_bytes(b"of somebody else")
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside)
    registry.publish("taxi-fare", NEW, metadata={})
    assert not link.is_symlink()
    assert outside.read_bytes() == b"of somebody else"
    registry.verify()
    assert phone.fetch("taxi-fare").path.read_bytes() == NEW


def test_garbage_is_collected_in_the_registry_alone(registry: Registry, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "1").mkdir(parents=True)
    (outside / "1" / "old.tflite").write_bytes(b"of somebody else")
    (registry.repository / "targets" / "linked").symlink_to(outside)
    stray = registry.repository / "targets" / "taxi-fare" / "stray"
    stray.symlink_to(outside / "1" / "old.tflite")
    collected = registry.collect_garbage(min_age=timedelta(0))
    assert [file for file in collected.files if file.startswith("targets")] == ["targets/taxi-fare/stray"]
    assert not stray.is_symlink()
    assert _everything(outside) == {
        str(outside / "1"): None,
        str(outside / "1/old.tflite"): b"of somebody else",
    }


def test_a_lock_that_is_a_link_to_another_file_of_the_registry_is_not_opened(registry: Registry) -> None:
    (registry.repository / ".lock").unlink()
    (registry.repository / ".lock").symlink_to("metadata/timestamp.json")
    before = _everything(registry.repository, registry.keys)
    with pytest.raises(RegistryError, match=re.escape("must be writable; Too many levels of symbolic links")):
        registry.publish("taxi-fare", NEW, metadata={})
    assert _everything(registry.repository, registry.keys) == before


def test_a_registry_that_is_reached_by_a_link_and_key_files_that_are_links_work(
    registry: Registry, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(registry.repository)
    (registry.keys / "root.pem").rename(tmp_path / "drawer")
    (registry.keys / "root.pem").symlink_to(tmp_path / "drawer")
    linked = Registry(tmp_path / "link", registry.keys)
    linked.rotate_key("timestamp")
    linked.publish("taxi-fare", NEW, metadata={})
    phone = Client(str(linked.repository), root=registry.root_path, cache=tmp_path / "phone")
    assert phone.fetch("taxi-fare").path.read_bytes() == NEW
    registry.verify()


def test_keys_that_a_link_leads_into_the_registry_are_not_made_there(
    registry: Registry, tmp_path: Path
) -> None:
    (tmp_path / "keys").symlink_to(registry.repository / "metadata")
    with pytest.raises(
        ValueError, match=re.escape("Keys must be kept outside the repository, which is served")
    ):
        Registry(registry.repository, tmp_path / "keys")


def test_a_registry_is_not_made_where_a_link_leads_out(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "registry").mkdir()
    link = tmp_path / "registry" / "targets"
    link.symlink_to(tmp_path / "outside")
    message = f"Symbolic links must not lead out of the registry; {link} leads to {tmp_path / 'outside'}. Put"
    with pytest.raises(RegistryError, match=re.escape(message)):
        Registry.create(tmp_path / "registry")
    assert not list((tmp_path / "outside").iterdir())
    assert not (tmp_path / "registry.keys").exists()
    assert not list((tmp_path / "registry").glob("metadata/*"))
