"""What is taken away, what stays, and deltas."""

import datetime
import os
import re
from collections.abc import Callable
from pathlib import Path

import bsdiff4  # type: ignore[import-untyped]
import numpy as np
import pytest

from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry import garbage
from tfx_mobile.registry.client import Client
from tfx_mobile.registry.store import Registry

Tree = Callable[..., dict[str, bytes]]
NOW = datetime.timedelta(0)


def _age(registry: Registry, days: float) -> None:
    """Makes every file older."""
    for path in registry.repository.rglob("*"):
        then = path.stat().st_mtime - days * 86400
        os.utime(path, (then, then))


def _versions(registry: Registry) -> list[int]:
    return [record.version for record in registry.versions("taxi-fare")]


def test_old_versions_that_nobody_offers_go_and_their_files_go_a_week_later(
    registry: Registry, phone: Client, contents: dict[int, bytes]
) -> None:
    registry.publish("taxi-fare", contents[1], version=1, channel="old", metadata={})
    registry.publish("taxi-fare", b"four", attachments={"evaluation.html": b"<p>"}, metadata={})
    assert phone.fetch("taxi-fare").version == 4
    collected = registry.collect_garbage(keep_versions=1)
    assert collected.versions == (("taxi-fare", 2), ("taxi-fare", 3))
    assert collected.files == ()
    assert _versions(registry) == [1, 4]
    assert list(registry.repository.glob("targets/taxi-fare/2/*.tflite"))
    _age(registry, 6.9)
    assert registry.collect_garbage(keep_versions=1).files == ()
    _age(registry, 0.2)
    gone = registry.collect_garbage(keep_versions=1).files
    assert not list(registry.repository.glob("targets/taxi-fare/[23]/*"))
    assert sorted({re.sub(r"/[0-9a-f]{64}\.", "/", file) for file in gone if file.startswith("targets")}) == [
        "targets/taxi-fare/2/model.record.json",
        "targets/taxi-fare/2/model.tflite",
        "targets/taxi-fare/3/model.record.json",
        "targets/taxi-fare/3/model.tflite",
    ]
    assert [path.name for path in registry.repository.glob("metadata/*.root.json")] == ["1.root.json"]
    assert len(list(registry.repository.glob("metadata/*"))) == 5
    registry.verify()
    assert registry.attachments("taxi-fare", 4) == {"evaluation.html": b"<p>"}
    assert len(registry.history("taxi-fare")) == 4
    assert phone.fetch("taxi-fare").version == 4
    assert registry.collect_garbage(keep_versions=1) == type(collected)((), ())
    assert registry.publish("taxi-fare", b"five", metadata={}).version == 5


def test_a_phone_in_the_middle_of_an_update_finds_what_it_has_begun_to_read(registry: Registry) -> None:
    _age(registry, 100)
    before = {path for path in registry.repository.rglob("*") if path.is_file()}
    registry.publish("taxi-fare", b"four", metadata={})
    registry.publish("taxi-fare", b"five", metadata={})
    registry.collect_garbage(keep_versions=1)
    superseded_long_ago = {
        registry.repository / "metadata" / name
        for name in ("1.targets.json", "1.snapshot.json", "2.snapshot.json", "3.snapshot.json")
    } | {registry.repository / "metadata" / f"{number}.model-taxi-fare.json" for number in (1, 2)}
    assert before - {path for path in registry.repository.rglob("*") if path.is_file()} == superseded_long_ago


def test_what_a_dead_publisher_left_goes(registry: Registry) -> None:
    left = [
        registry.repository / "metadata" / "9.snapshot.json",
        registry.repository / "targets" / "taxi-fare" / "9" / f"{'0' * 64}.model.tflite",
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    registry.collect_garbage(min_age=datetime.timedelta(days=1))
    assert all(path.exists() for path in left)
    registry.collect_garbage(min_age=NOW)
    assert not any(path.exists() for path in left)
    registry.verify()


def test_the_newest_number_and_what_was_withdrawn_stay_known(
    registry: Registry, contents: dict[int, bytes]
) -> None:
    registry.withdraw("taxi-fare", 1, reason="bad")
    registry.withdraw("taxi-fare", 3, reason="worse")
    registry.collect_garbage(keep_versions=1, min_age=NOW)
    assert _versions(registry) == [1, 2, 3]
    with pytest.raises(RegistryError, match=re.escape("version 1 was withdrawn: bad")):
        registry.publish("taxi-fare", contents[1], metadata={})
    assert registry.publish("taxi-fare", b"four", metadata={}).version == 4


def test_a_channel_does_not_go_back_to_what_was_collected(registry: Registry) -> None:
    registry.collect_garbage(keep_versions=1, min_age=NOW)
    with pytest.raises(RegistryError, match=re.escape("to go back to; it has not")):
        registry.rollback("taxi-fare", reason="x")
    registry.withdraw("taxi-fare", 3, reason="x")
    assert registry.channels("taxi-fare") == {"stable": 0}
    registry.verify()


def test_nothing_is_called_unneeded_beside_metadata_that_cannot_be_read(
    registry: Registry, tree: Tree
) -> None:
    (registry.repository / "metadata" / "2.model-taxi-fare.json").write_bytes(b"nonsense")
    before = tree(registry.repository, registry.keys)
    with pytest.raises(
        RegistryError, match=re.escape("2.model-taxi-fare.json must be metadata, to know what")
    ):
        registry.collect_garbage()
    assert tree(registry.repository, registry.keys) == before


def test_a_negative_age_is_refused(registry: Registry) -> None:
    with pytest.raises(ConfigError, match=re.escape("min_age must not be negative; got -1 day")):
        registry.collect_garbage(min_age=-datetime.timedelta(days=1))


def test_metadata_goes_by_the_age_of_its_successor() -> None:
    ages_s = {
        "metadata/1.root.json": 900.0,
        "metadata/2.root.json": 900.0,
        "metadata/1.snapshot.json": 90.0,
        "metadata/2.snapshot.json": 80.0,
        "metadata/3.snapshot.json": 5.0,
        "metadata/4.snapshot.json": 5.0,  # in force
        "metadata/5.snapshot.json": 70.0,  # of a publisher that died
        "metadata/6.snapshot.json": 5.0,
        "metadata/timestamp.json": 900.0,
        "metadata/1.of-nobody.json": 900.0,
    }
    assert garbage.superseded(ages_s, {"snapshot": 4}, 60) == [
        "metadata/1.snapshot.json",
        "metadata/5.snapshot.json",
    ]


# Deltas.


def _net(seed: int = 0, num_moved: int = 0) -> bytes:
    weights = np.random.default_rng(0).integers(0, 256, 20_000, np.uint8)
    weights[:num_moved] = np.random.default_rng(seed).integers(0, 256, num_moved, np.uint8)
    return weights.tobytes()


def _deltas(registry: Registry) -> list[Path]:
    return sorted(registry.repository.glob("targets/m/*/*.bsdiff"))


def test_a_patch_from_what_everyone_has_is_signed_where_it_is_under_half(registry: Registry) -> None:
    registry.publish("m", _net(), metadata={})
    registry.publish("m", _net(1, 2_000), rollout_permille=10, metadata={})
    registry.publish("m", _net(2, 2_000), metadata={})
    small, other = _deltas(registry)
    assert [re.sub("^[0-9a-f]{64}", "", path.name) for path in (small, other)] == [".model.from-1.bsdiff"] * 2
    assert bsdiff4.patch(_net(), other.read_bytes()) == _net(2, 2_000)
    assert other.stat().st_size < 10_000
    registry.publish("m", _net(3, 20_000), metadata={})  # another net: the patch is as long as the file
    registry.publish("m", _net(3, 19_000), delta=False, metadata={})
    registry.publish("m", b"x" * 4_000, metadata={})  # not worth it
    assert len(_deltas(registry)) == 2
    registry.verify()
    registry.withdraw("m", 1, reason="x")
    registry.collect_garbage(min_age=NOW)
    assert _deltas(registry) == []


def test_a_patch_is_of_the_same_variant(registry: Registry) -> None:
    registry.publish("m", _net(), metadata={})
    registry.publish("m", _net(1, 100), version=1, variant="small", metadata={})
    assert _deltas(registry) == []
    registry.publish("m", _net(2, 100), variant="small", metadata={})
    (delta,) = _deltas(registry)
    assert delta.name.endswith(".small.from-1.bsdiff")
    assert bsdiff4.patch(_net(1, 100), delta.read_bytes()) == _net(2, 100)


def test_publishing_beside_a_thousand_versions_reads_no_more_files_than_beside_ten(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        registry.publish("m", b"%d" % number, metadata={})
    reads: list[str] = []
    real = type(registry._storage).read

    def read(self: object, path: str) -> bytes:
        reads.append(path)
        return real(self, path)  # type: ignore[arg-type]

    monkeypatch.setattr(type(registry._storage), "read", read)
    counts = []
    for number in range(6, 12):
        reads.clear()
        registry.publish("m", b"%d" % number, metadata={})
        counts.append(len(reads))
    assert len(set(counts)) == 1
