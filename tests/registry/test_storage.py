"""A registry in a bucket of S3, as moto serves it, and of Cloud Storage, as fake-gcs-server does."""

import concurrent.futures
import datetime
import json
import re
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tests.registry.servers import web_address

from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry import storage
from tfx_mobile.registry.backend import open_backend
from tfx_mobile.registry.client import Client
from tfx_mobile.registry.repository import Write
from tfx_mobile.registry.storage import ObjectStorage
from tfx_mobile.registry.store import Registry


def test_every_operation_works_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    Registry.create(bucket, tmp_path / "keys")
    registry = open_backend(bucket, keys=tmp_path / "keys")
    assert isinstance(registry, Registry)
    for content in (b"one", b"two"):
        published = registry.publish("m", content, metadata={}, attachments={"evaluation.html": b"<p>"})
    assert published.uri.startswith(f"{bucket}/targets/m/2/")
    registry.publish("m", b"three", channel="beta", metadata={})
    registry.promote("m", rollout_permille=500)
    phone = Client(web_address(bucket), root=registry.root_path, cache=tmp_path / "phone")
    assert phone.fetch("m").path.read_bytes() == b"two"
    registry.set_rollout("m", "stable", 1000)
    assert phone.fetch("m").path.read_bytes() == b"three"
    registry.rollback("m", reason="x")
    registry.withdraw("m", 3, reason="y")
    for role in ("root", "targets", "snapshot", "timestamp", "model-m"):
        registry.rotate_key(role)
    assert registry.refresh() == ["timestamp"]
    assert registry.resolve("m").content == b"two"
    assert registry.attachments("m", 1) == {"evaluation.html": b"<p>"}
    assert [event.action for event in registry.history("m")] == [
        "publish",
        "publish",
        "promote",
        "rollout",
        "rollback",
    ]
    young = registry.collect_garbage(keep_versions=1)
    assert (young.versions, young.files) == ((("m", 1),), ())
    collected = registry.collect_garbage(min_age=datetime.timedelta(0))
    assert "metadata/1.snapshot.json" in collected.files
    assert not [file for file in collected.files if registry._storage.exists(file)]
    registry.verify()
    assert phone.fetch("m").path.read_bytes() == b"two"
    with pytest.raises(ConfigError, match=re.escape(f"must be a local folder for this; got {bucket}.")):
        _ = registry.repository
    assert isinstance(registry._storage, ObjectStorage)
    assert len(registry._storage.lock_numbers()) == 1  # locks are cleaned away


def test_a_registry_in_a_bucket_needs_a_folder_for_its_keys() -> None:
    with pytest.raises(ConfigError, match=re.escape("must be named, a local folder; got none for s3://b/x.")):
        Registry("s3://b/x")
    with pytest.raises(ConfigError, match=re.escape("Registry must name a bucket, s3://bucket/prefix; got")):
        Registry("s3://", Path("keys"))


def test_a_bucket_that_is_not_there_is_named(bucket: str, tmp_path: Path) -> None:
    scheme = bucket.partition("://")[0]
    message = f"Registry {scheme}://no-such-bucket/x must be writable; There is no such object or bucket. Ch"
    with pytest.raises(RegistryError, match=re.escape(message)):
        Registry.create(f"{scheme}://no-such-bucket/x", tmp_path / "keys")
    assert not (tmp_path / "keys").exists()


class _Hurried:
    """asyncio, for who would wait between one try and the next."""

    @staticmethod
    async def sleep(_: float) -> None:
        pass


def test_a_store_that_is_not_reached_is_named(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry.create(bucket, tmp_path / "keys")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    monkeypatch.setattr("gcsfs.retry.asyncio", _Hurried)  # gcsfs asks six times, in half a minute
    with pytest.raises(RegistryError, match=re.escape(f"Registry {bucket} must be reachable;")):
        Registry(bucket, registry.keys).models()


def test_publishers_at_once_lose_nothing_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    def publish(who: int) -> None:
        Registry.open_or_create(bucket, tmp_path / "keys").publish("m", b"%d" % who, metadata={})

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(publish, range(6)))
    registry = Registry(bucket, tmp_path / "keys")
    registry.verify()
    assert [record.version for record in registry.versions("m")] == [1, 2, 3, 4, 5, 6]
    assert registry.channels("m") == {"stable": 6}
    phone = Client(web_address(bucket), root=registry.root_path, cache=tmp_path / "phone")
    found = {phone.fetch("m", version=version).path.read_bytes() for version in range(1, 7)}
    assert found == {b"%d" % who for who in range(6)}


def test_a_dead_publishers_lock_is_taken_over_when_its_lease_is_over(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry.create(bucket, tmp_path / "keys")
    dead = ObjectStorage(bucket)
    held = dead.lock()
    held.__enter__()  # and never left
    monkeypatch.setattr(storage, "LOCK_TIMEOUT_S", 0.2)
    message = f"Lock {bucket}/.lock must be free within 0 s; process "
    with pytest.raises(RegistryError, match=re.escape(message)):
        registry.publish("m", b"x", metadata={})
    number = dead.lock_numbers()[-1]
    path = f".lock/{number:012d}"
    said = json.loads(dead.read(path))
    assert set(said) == {"host", "owner", "token", "until_unix_s"}
    dead.write(path, json.dumps({**said, "until_unix_s": time.time() - 60}).encode())
    assert registry.publish("m", b"x", metadata={}).version == 1
    assert dead.lock_numbers() == [number + 1]


def test_a_lease_that_runs_out_frees_the_lock_and_none_before(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry.create(bucket, tmp_path / "keys")
    with monkeypatch.context() as patch:
        patch.setattr(storage, "LEASE_S", 1.5)
        dead = ObjectStorage(bucket)
        held = dead.lock()
        held.__enter__()  # and never left
    over_s = json.loads(dead.read(f".lock/{dead.lock_numbers()[-1]:012d}"))["until_unix_s"] + 0.5
    monkeypatch.setattr(storage, "CLOCKS_APART_S", 0.5)
    assert registry.publish("m", b"x", metadata={}).version == 1
    assert registry.versions("m")[0].published_unix_s >= int(over_s)
    registry.verify()


def test_a_lock_whose_making_was_answered_twice_is_ours(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, real = ObjectStorage(bucket), ObjectStorage._put

    def again(self: ObjectStorage, path: str, content: bytes, mode: str) -> None:
        """What the client does when the first answer is lost on its way."""
        real(self, path, content, mode)
        real(self, path, content, mode)

    monkeypatch.setattr(ObjectStorage, "_put", again)
    assert (taken := place._take()) is not None
    assert place.lock_numbers() == [taken.number]
    assert ObjectStorage(bucket)._take() is None


@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
def test_a_lock_that_is_made_while_we_list_is_no_lock_of_another_name(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """s3fs lists, finds nothing, and then asks whether '.lock' itself is there."""
    place = ObjectStorage(bucket)

    async def lists_before(*_: Any, **__: Any) -> list[Any]:
        return []

    with place.lock(), monkeypatch.context() as patch:
        patch.setattr(place._fs, "_lsdir", lists_before)
        assert place.lock_numbers() == []
        assert place.ages_s(".lock") == {}


def test_no_cache_may_hand_out_an_older_object(bucket: str) -> None:
    place = ObjectStorage(bucket)
    with place.lock():
        place.write("metadata/timestamp.json", b"new")
    for path in ("metadata/timestamp.json", f".lock/{1:012d}"):
        with urllib.request.urlopen(f"{web_address(bucket)}/{path}") as answer:
            assert answer.headers["Cache-Control"] == "no-cache"


def test_of_many_who_find_a_stale_lock_one_gets_it(bucket: str) -> None:
    first = ObjectStorage(bucket)
    first.write(".lock/000000000007", json.dumps({"until_unix_s": 1}).encode())
    start = threading.Barrier(6)

    def take(_: int) -> object:
        each = ObjectStorage(bucket)
        each.lock_numbers()
        start.wait()
        return each._take()

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        got = [lock for lock in pool.map(take, range(6)) if lock is not None]
    assert len(got) == 1
    assert first.lock_numbers()[-1] == 8


def test_a_slow_publisher_does_not_take_a_number_that_was_cleaned_away(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ObjectStorage(bucket)
    place.write(".lock/000000000001", json.dumps({"until_unix_s": 0}).encode())
    real = place._lock_says

    def slow(number: int) -> dict[str, Any]:
        said = real(number)  # free; and now others come and go, until one holds number 5
        place.write(".lock/000000000005", json.dumps({"until_unix_s": time.time() + 90}).encode())
        place.delete(".lock/000000000001")
        return said

    monkeypatch.setattr(place, "_lock_says", slow)
    assert place._take() is None
    assert place.lock_numbers() == [5]


def test_a_publisher_whose_lock_was_taken_over_publishes_nothing(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry.create(bucket, tmp_path / "keys")
    other = ObjectStorage(bucket)
    real, asleep = Registry._write, []

    def slow(self: Registry, write: Write) -> None:
        if write.path == "metadata/timestamp.json":  # somebody else thinks that we are dead
            number = other.lock_numbers()[-1]
            other.write(f".lock/{number + 1:012d}", json.dumps({"until_unix_s": time.time() + 90}).encode())
            asleep.append(number)
        real(self, write)

    monkeypatch.setattr(Registry, "_write", slow)
    before = other.ages_s("metadata").keys()
    with pytest.raises(RegistryError, match=re.escape("must be ours until the end; it is not any more")):
        registry.publish("m", b"x", metadata={})
    assert asleep
    assert other.ages_s("metadata").keys() == before
    assert registry.models() == []


def test_a_lease_is_renewed_while_its_holder_writes_and_not_when_it_is_over(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ObjectStorage(bucket)
    with place.lock() as lock:
        until = json.loads(place.read(".lock/000000000001"))["until_unix_s"]
        lock._began_s -= storage.LEASE_S / 2  # type: ignore[attr-defined]
        lock.check(last=False)
        assert json.loads(place.read(".lock/000000000001"))["until_unix_s"] > until
        lock._began_s -= storage.LEASE_S  # type: ignore[attr-defined]
        with pytest.raises(RegistryError, match=re.escape("took longer than its lease of 90 s.")):
            lock.check(last=False)
    assert json.loads(place.read(".lock/000000000001")) == {"until_unix_s": 0}


@pytest.mark.parametrize("said", [b"", b"[]", b"{}", b'{"until_unix_s":"soon"}'])
def test_a_lock_that_says_nothing_is_not_taken_for_free(bucket: str, said: bytes) -> None:
    place = ObjectStorage(bucket)
    place.write(".lock/000000000001", said)
    with (
        pytest.raises(
            RegistryError, match=re.escape("must say until when it is held; it does not. Delete it")
        ),
        place.lock(),
    ):
        pass


def test_a_failure_at_any_write_in_a_bucket_leaves_it_as_it_was(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry.create(bucket, tmp_path / "keys")
    registry.publish("m", b"one", metadata={})
    place, real = ObjectStorage(bucket), Registry._write
    before = {path: place.read(path) for folder in ("metadata", "targets") for path in place.ages_s(folder)}
    for fails_at in (1, 5, 6):
        left = [fails_at]

        def fail(self: Registry, write: Write, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise PermissionError(13, "Access Denied", write.storage.place(write.path))
            real(self, write)

        monkeypatch.setattr(Registry, "_write", fail)
        with pytest.raises(RegistryError, match=re.escape("Access Denied. Free the space")):
            registry.publish("m", b"two", metadata={})
        assert {
            p: place.read(p) for folder in ("metadata", "targets") for p in place.ages_s(folder)
        } == before
    monkeypatch.setattr(Registry, "_write", real)
    registry.verify()
