"""A registry in a bucket, against moto's S3 on loopback, and the locks of both kinds of place."""

import datetime
import json
import re
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pytest
from moto.server import ThreadedMotoServer

from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry import storage
from tfx_mobile.registry.backend import open_backend
from tfx_mobile.registry.client import Client
from tfx_mobile.registry.repository import Write
from tfx_mobile.registry.storage import ObjectStorage
from tfx_mobile.registry.store import Registry


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The endpoint of an object store with the semantics of S3."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3,
    }.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid.uuid4().hex}"
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(name)
    return f"s3://{name}/models"


def _phone(location: str, registry: Registry, folder: Path) -> Client:
    """A phone that reads a copy of the bucket."""
    files = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    files.get(location, str(folder / "copy"), recursive=True)
    return Client(str(folder / "copy"), root=registry.root_path, cache=folder / "phone")


def test_every_operation_works_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    Registry.create(bucket, tmp_path / "keys")
    registry = open_backend(bucket, keys=tmp_path / "keys")
    assert isinstance(registry, Registry)
    for content in (b"one", b"two"):
        published = registry.publish("m", content, metadata={}, attachments={"evaluation.html": b"<p>"})
    assert published.uri.startswith(f"{bucket}/targets/m/2/")
    registry.publish("m", b"three", channel="beta", metadata={})
    registry.promote("m")
    registry.rollback("m", reason="x")
    registry.withdraw("m", 3, reason="y")
    registry.rotate_key("timestamp")
    registry.refresh()
    assert registry.resolve("m").content == b"two"
    assert registry.attachments("m", 1) == {"evaluation.html": b"<p>"}
    assert len(registry.history("m")) == 4
    collected = registry.collect_garbage(keep_versions=1, min_age=datetime.timedelta(0))
    assert collected.versions == (("m", 1),)
    assert collected.files
    registry.verify()
    assert _phone(bucket, registry, tmp_path).fetch("m").path.read_bytes() == b"two"
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
    with pytest.raises(
        RegistryError, match=re.escape("Registry s3://no-such-bucket/x must be writable; The sp")
    ):
        Registry.create("s3://no-such-bucket/x", tmp_path / "keys")
    assert not (tmp_path / "keys").exists()


def test_a_store_that_is_not_reached_is_named(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry.create(bucket, tmp_path / "keys")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(RegistryError, match=re.escape(f"Registry {bucket} must be reachable;")):
        Registry(bucket, registry.keys).models()


def test_publishers_at_once_lose_nothing_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    errors: list[Exception] = []

    def publish(who: int) -> None:
        try:
            Registry.open_or_create(bucket, tmp_path / "keys").publish("m", b"%d" % who, metadata={})
        except RegistryError as error:
            errors.append(error)

    threads = [threading.Thread(target=publish, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    registry = Registry(bucket, tmp_path / "keys")
    registry.verify()
    assert [record.version for record in registry.versions("m")] == [1, 2, 3, 4]
    assert registry.channels("m") == {"stable": 4}


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


def test_of_many_who_find_a_stale_lock_one_gets_it(bucket: str) -> None:
    first = ObjectStorage(bucket)
    first.write(".lock/000000000007", json.dumps({"until_unix_s": 1}).encode())
    got: list[object] = []
    start = threading.Barrier(6)

    def take() -> None:
        each = ObjectStorage(bucket)
        each.lock_numbers()
        start.wait()
        if (lock := each._take()) is not None:
            got.append(lock)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
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
