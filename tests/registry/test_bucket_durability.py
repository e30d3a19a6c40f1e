"""Publishers to a bucket that are killed. Processes and signals are real, as in `test_durability`."""

import datetime
import errno
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.registry.servers import web_address

from tfx_mobile.common.errors import RegistryError
from tfx_mobile.registry import storage
from tfx_mobile.registry.client import Client
from tfx_mobile.registry.storage import ObjectStorage
from tfx_mobile.registry.store import Registry


def _killed(action: str, bucket: str, keys: Path, content: bytes, dies_at: int) -> bool:
    """Runs `dying_publisher.py`; returns whether it was killed on the way."""
    command = [sys.executable, str(Path(__file__).with_name("dying_publisher.py")), action, bucket, str(keys)]
    status = subprocess.run([*command, content.decode(), str(dies_at)], timeout=120).returncode
    assert status in (0, -signal.SIGKILL)
    return status != 0


def _let_the_lease_run_out(bucket: str) -> bool:
    """Makes the lock as old as it is after a lease; returns whether somebody held it."""
    place = ObjectStorage(bucket)
    if not (numbers := place.lock_numbers()):
        return False
    path = f".lock/{numbers[-1]:012d}"
    said = json.loads(place.read(path))
    if said["until_unix_s"] < time.time():
        return False
    passed_s = storage.LEASE_S + storage.CLOCKS_APART_S + 1
    place.write(path, json.dumps({**said, "until_unix_s": said["until_unix_s"] - passed_s}).encode())
    return True


def test_a_publisher_killed_anywhere_leaves_all_or_nothing_and_the_next_goes_on_after_the_lease(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry.create(bucket, tmp_path / "keys")
    registry.publish("m", b"content 0", metadata={})
    phone = Client(web_address(bucket), root=registry.root_path, cache=tmp_path / "phone")
    dies_at, was_killed = 0, True
    while was_killed:
        dies_at += 1
        content = b"content %d" % dies_at
        was_killed = _killed("publish", bucket, registry.keys, content, dies_at)
        registry.verify()
        is_seen = registry.channels("m") == {"stable": dies_at + 1}
        assert is_seen == (dies_at > 8)  # the lock, the one before it, five files, the timestamp
        assert phone.fetch("m").path.read_bytes() == b"content %d" % (dies_at if is_seen else dies_at - 1)
        is_held = dies_at > 1 and was_killed
        if is_held:
            with monkeypatch.context() as patch:
                patch.setattr(storage, "LOCK_TIMEOUT_S", 0.0)
                with pytest.raises(RegistryError, match=re.escape(".lock must be free within 0 s; process ")):
                    registry.refresh()
        assert _let_the_lease_run_out(bucket) == is_held
        published = registry.publish("m", content, metadata={})
        assert (published.version, published.created) == (dies_at + 1, not is_seen)
        assert phone.fetch("m").path.read_bytes() == content
    assert dies_at == 10 + 1  # and what the publisher remembers, and the lock's end
    registry.verify()
    assert [phone.fetch("m", version=n + 1).path.read_bytes() for n in range(dies_at + 1)] == [
        b"content %d" % n for n in range(dies_at + 1)
    ]
    assert len(ObjectStorage(bucket).lock_numbers()) == 1


@pytest.mark.parametrize("bucket", ["gs"], indirect=True)  # on S3 it takes half a minute
def test_a_registry_whose_making_is_killed_anywhere_can_be_made_again(bucket: str, tmp_path: Path) -> None:
    dies_at, was_killed = 0, True
    while was_killed:
        dies_at += 1
        place, keys = f"{bucket}/{dies_at}", tmp_path / str(dies_at)
        was_killed = _killed("create", place, keys, b"", dies_at)
        assert _let_the_lease_run_out(place) == (dies_at > 1 and was_killed)
        registry = Registry.open_or_create(place, keys)
        registry.publish("m", b"x", metadata={})
        registry.verify()
        phone = Client(web_address(place), root=registry.root_path, cache=keys / "phone")
        assert phone.fetch("m").version == 1
    assert dies_at == 12 + 1  # the lock, ten files and keys, the lock's end


ACTS: dict[str, Callable[[Registry, int], object]] = {
    "create": lambda r, n: Registry.open_or_create(f"{r.location}/{n}", r.keys.with_name(f"keys-{n}")),
    "verify": lambda r, n: r.verify(),
    "publish": lambda r, n: r.publish("m", b"content %d" % n, metadata={}),
    "garbage": lambda r, n: r.collect_garbage(keep_versions=1, min_age=datetime.timedelta(0)),
    "refresh": lambda r, n: r.refresh(),
}


@pytest.mark.parametrize("bucket", ["gs"], indirect=True)  # what is tested is what we do about it
@pytest.mark.parametrize("name", ACTS)
def test_a_request_that_fails_is_an_error_of_the_registry_and_leaves_what_verifies(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    registry = Registry.create(bucket, tmp_path / "keys")
    for number in range(3):
        registry.publish("m", b"%d" % number, metadata={})
    said: list[str] = []
    asked, fails_at = [0], 0
    while asked[0] >= fails_at:
        asked[0], fails_at = 0, fails_at + 1

        def failing(request: Callable[..., Any], at: int = fails_at) -> Callable[..., Any]:
            def requests(*arguments: Any, **options: Any) -> Any:
                asked[0] += 1
                if asked[0] == at:
                    raise OSError(errno.EIO, "The network is gone")
                return request(*arguments, **options)

            return requests

        with monkeypatch.context() as patch:
            for method in ("read", "exists", "delete", "_below", "_put"):
                patch.setattr(ObjectStorage, method, failing(getattr(ObjectStorage, method)))
            try:
                ACTS[name](Registry(bucket, registry.keys), fails_at)
            except RegistryError as error:
                said.append(str(error))
        _let_the_lease_run_out(bucket)
        registry.verify()
    assert said
    assert not [text for text in said if "The network is gone" not in text]
