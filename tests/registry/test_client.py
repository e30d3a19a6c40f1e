"""The phone's side."""

import contextlib
import dataclasses
import datetime
import fcntl
import hashlib
import logging
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bsdiff4  # type: ignore[import-untyped]
import pytest
from tests.registry.servers import Server, left_by, nginx, serving, without_garbage_collection
from tuf.api.exceptions import DownloadError
from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]

from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry import names, records
from tfx_mobile.registry.client import Client, NotOffered, default_cache
from tfx_mobile.registry.store import Registry
from tfx_mobile.registry.targeting import Device, Targeting, bucket_permille
from tfx_mobile.registry.transport import FolderTransport, Limits


@pytest.fixture
def server(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(registry.repository) as made:
        yield made


@pytest.fixture
def served(server: Server) -> str:
    return server.url


@pytest.fixture
def client(registry: Registry, server: Server, tmp_path: Path) -> Client:
    return Client(server.url, root=registry.root_path, cache=tmp_path / "phone")


def test_a_phone_gets_the_bytes_and_what_was_said_about_them(
    phone: Client, contents: dict[int, bytes]
) -> None:
    fetched = phone.fetch("taxi-fare")
    assert fetched.path.read_bytes() == contents[3]
    assert (fetched.version, fetched.size_bytes) == (3, 250)
    assert phone.record("taxi-fare", 3).metadata == {"metrics": {"rmse_ppm": 97}}


def test_a_phone_follows_its_channel(registry: Registry, phone: Client) -> None:
    registry.publish("taxi-fare", b"four", channel="beta", metadata={})
    assert phone.fetch("taxi-fare").version == 3
    assert phone.fetch("taxi-fare", "beta").version == 4
    registry.publish("taxi-fare", b"five", metadata={})
    assert phone.fetch("taxi-fare").version == 5


def test_a_version_can_be_asked_for_by_number(phone: Client, contents: dict[int, bytes]) -> None:
    assert phone.fetch("taxi-fare", version=1).path.read_bytes() == contents[1]


@pytest.mark.parametrize("form", ["path", "uri", "slash"])
def test_a_folder_may_be_written_in_several_ways(registry: Registry, tmp_path: Path, form: str) -> None:
    path = registry.repository
    location = {"path": str(path), "uri": path.as_uri(), "slash": f"{path}/"}[form]
    assert Client(location, root=registry.root_path, cache=tmp_path / "c").fetch("taxi-fare").version == 3


def test_a_folder_with_blanks_in_its_name_is_one_too(tmp_path: Path) -> None:
    registry = Registry.create(tmp_path / "my registry 100%")
    registry.publish("m", b"x", metadata={})
    for location in (str(registry.repository), registry.repository.as_uri()):
        assert Client(location, root=registry.root_path, cache=tmp_path / "c").fetch("m").version == 1


def test_a_file_that_cannot_be_read_is_the_registrys_failure_and_not_the_caches() -> None:
    _, chunks = FolderTransport(Path("/proc/self")).open("file:///proc/self/mem")
    with pytest.raises(DownloadError, match=re.escape("/mem cannot be read: Input/output error")):
        list(chunks)


def test_a_proxy_is_used_where_the_environment_names_one_and_not_where_it_excepts(
    registry: Registry, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def proxy(handler: Any) -> bool:
        handler.path = handler.path.removeprefix("http://models.invalid")
        return False

    server.trick = proxy
    monkeypatch.setenv("http_proxy", server.url)
    client = Client("http://models.invalid", root=registry.root_path, cache=tmp_path / "phone")
    assert client.fetch("taxi-fare").version == 3
    assert server.asked[0][0] == "http://models.invalid/metadata/2.root.json"
    monkeypatch.setenv("no_proxy", "models.invalid")
    with pytest.raises(RegistryError, match=re.escape("the server cannot be reached")):
        client.fetch("taxi-fare", fall_back=False)


def test_a_fetch_leaves_nothing_open_and_nothing_running(client: Client, server: Server) -> None:
    with without_garbage_collection():
        for _ in range(3):
            client.fetch("taxi-fare")
        assert left_by(client, server) == []


def test_any_web_server_will_do(
    registry: Registry, served: str, contents: dict[int, bytes], tmp_path: Path
) -> None:
    client = Client(served, root=registry.root_path, cache=tmp_path / "c")
    assert client.fetch("taxi-fare").path.read_bytes() == contents[3]


def test_what_a_web_server_does_not_have_is_said(registry: Registry, served: str, tmp_path: Path) -> None:
    client = Client(f"{served}/elsewhere", root=registry.root_path, cache=tmp_path / "c")
    message = f"Registry {served}/elsewhere was refused: a file is missing or not served: HTTP error"
    with pytest.raises(RegistryError, match=re.escape(message)):
        client.fetch("taxi-fare")


def test_a_damaged_cache_is_fetched_again(phone: Client, contents: dict[int, bytes]) -> None:
    phone.fetch("taxi-fare").path.write_bytes(b"damaged")
    for folder in ("metadata", "targets/taxi-fare/channels"):
        for path in (phone.cache / folder).glob("*.json"):
            path.write_bytes(b"damaged")
    assert phone.fetch("taxi-fare").path.read_bytes() == contents[3]


def test_what_is_in_the_cache_is_not_fetched_again(phone: Client, forger: Any) -> None:
    first = phone.fetch("taxi-fare")
    forger.model_file.unlink()
    again = phone.fetch("taxi-fare", fall_back=False)
    assert dataclasses.replace(again, downloaded_bytes=first.downloaded_bytes) == first


def test_somebody_elses_root_is_refused(registry: Registry, tmp_path: Path) -> None:
    other = Registry.create(tmp_path / "other")
    client = Client(str(registry.repository), root=other.root_path, cache=tmp_path / "c")
    message = (
        "timestamp was signed by 0/1 keys that the root trusts. It is signed by somebody else, or the root"
    )
    with pytest.raises(RegistryError, match=re.escape(message)):
        client.fetch("taxi-fare")


@pytest.mark.parametrize("root", [b"", b"{}", b"nonsense"])
def test_a_root_that_is_none_is_refused(registry: Registry, tmp_path: Path, root: bytes) -> None:
    client = Client(str(registry.repository), root=root, cache=tmp_path / "c")
    with pytest.raises(RegistryError, match=re.escape("was refused: Failed to deserialize JSON")):
        client.fetch("taxi-fare")


def test_a_root_file_that_is_not_there_is_named(registry: Registry, tmp_path: Path) -> None:
    message = f"Trusted root must be a file that can be read; {tmp_path / 'none'}: No such file"
    with pytest.raises(ConfigError, match=re.escape(message)):
        Client(str(registry.repository), root=tmp_path / "none", cache=tmp_path / "c")


@pytest.mark.parametrize(
    "location",
    [
        "s3://bucket/x",
        "gs://bucket",
        "ftp://host/x",
        "",
        "http://",
        "http:/host/x",
        "http://host:99999/x",
        "file://host/x",
    ],
)
def test_a_location_that_cannot_be_read_is_refused(location: str, tmp_path: Path) -> None:
    message = f"Registry must be a folder or a file://, http:// or https:// URL; got '{location}'."
    with pytest.raises(ConfigError, match=re.escape(message)):
        Client(location, root=b"", cache=tmp_path)


@pytest.mark.parametrize(
    ("location", "surplus"),
    [
        ("https://me:secret@host:8443/x", "auth"),
        ("https://host:8443/x?token=secret", "query"),
        ("https://host:8443/x#secret", "fragment"),
    ],
)
def test_a_url_that_is_more_than_an_address_is_refused_without_showing_what_may_be_secret(
    location: str, surplus: str, tmp_path: Path
) -> None:
    message = f"got one with {surplus}, which may be secret, at https://host:8443. Files are asked for below"
    with pytest.raises(ConfigError, match=re.escape(message)) as refused:
        Client(location, root=b"", cache=tmp_path)
    assert "secret@" not in str(refused.value)
    assert "=secret" not in str(refused.value)
    assert "#secret" not in str(refused.value)


def test_a_registry_has_one_default_cache_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    monkeypatch.chdir(tmp_path)
    folder = default_cache("x")
    assert folder.parent == Path("/caches/tfx-mobile/registry")
    assert default_cache(f"{tmp_path}/x/") == default_cache((tmp_path / "x").as_uri()) == folder
    assert default_cache("https://host/x") == default_cache("https://host/x/") != folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "../x"}, "Model name must be"),
        ({"channel": ".."}, "Channel name must be"),
        ({"channel": "a/../b", "version": 1}, "Channel name must be"),
        ({"version": 0}, "Version must be"),
    ],
)
def test_a_bad_name_is_refused_before_anything_is_fetched(
    phone: Client, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        phone.fetch(**{"model": "taxi-fare", **arguments})
    assert not phone.cache.exists()


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"model": "other"}, "other/channels/stable.json"),
        ({"channel": "beta"}, "taxi-fare/channels/beta.json"),
        ({"version": 9}, "taxi-fare/9/model.tflite"),
    ],
)
def test_what_the_registry_does_not_hold_is_named(
    phone: Client, arguments: dict[str, Any], path: str
) -> None:
    with pytest.raises(RegistryError, match=re.escape(f"must hold '{path}'; nobody whom it trusts")):
        phone.fetch(**{"model": "taxi-fare", **arguments})


def test_a_cache_that_is_a_file_is_refused(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "c").write_text("x")
    client = Client(str(registry.repository), root=registry.root_path, cache=tmp_path / "c")
    with pytest.raises(ConfigError, match=re.escape("Cache must be a folder that can be written;")):
        client.fetch("taxi-fare")


# What is trusted now.


def test_a_check_says_what_is_trusted_and_fetches_no_file(registry: Registry, phone: Client) -> None:
    found = phone.check("taxi-fare")
    assert {role: trusted.version for role, trusted in found.items()} == {
        "root": 1,
        "timestamp": 4,
        "snapshot": 4,
        "targets": 2,
        "model-taxi-fare": 3,
    }
    now = datetime.datetime.now(datetime.timezone.utc)
    days = {
        role: round((trusted.expires - now) / datetime.timedelta(days=1)) for role, trusted in found.items()
    }
    assert days == {"root": 730, "timestamp": 30, "snapshot": 90, "targets": 365, "model-taxi-fare": 365}
    assert set(phone.check()) == {"root", "timestamp", "snapshot", "targets"}
    assert not (phone.cache / "targets").exists()
    registry.refresh()
    assert phone.check()["timestamp"].version == 5


def test_a_check_refuses_what_a_fetch_refuses(
    phone: Client, forger: Any, expire: Callable[[Any], None]
) -> None:
    with pytest.raises(ConfigError, match=re.escape("Model name must be")):
        phone.check("../x")
    with pytest.raises(NotOffered, match=re.escape("must hold model 'other'; it does not.")):
        phone.check("other")

    def run_out(signed: Any) -> None:
        signed.version += 1
        expire(signed)

    forger.edit("timestamp", run_out)
    with pytest.raises(RegistryError, match=re.escape("timestamp.json is expired. It may be an old copy;")):
        phone.check()


# Which file, for which device.


def test_a_device_in_the_share_gets_the_new_version_and_the_others_keep_theirs(
    registry: Registry, phone: Client
) -> None:
    registry.publish("taxi-fare", b"four", metadata={}, rollout_permille=500)
    salt = registry.channel_records("taxi-fare")["stable"].rollouts[0].salt
    phones = [f"phone {number}" for number in range(200)]
    inside = [name for name in phones if bucket_permille(salt, name) < 500]
    outside = [name for name in phones if bucket_permille(salt, name) >= 500]
    for name in (*inside[:4], *outside[:4]):
        fetched = phone.fetch("taxi-fare", device=Device(id=name), fall_back=False)
        assert fetched.version == (4 if name in inside else 3)
    assert phone.fetch("taxi-fare").version == 3
    assert phone.fetch("taxi-fare", device=Device()).version == 3


def test_a_device_gets_the_variant_that_fits_it(registry: Registry, phone: Client) -> None:
    for variant, targeting in (("arm", Targeting(abis=("arm64-v8a",))), ("x86", Targeting(abis=("x86_64",)))):
        registry.publish(
            "taxi-fare", variant.encode(), version=4, variant=variant, metadata={}, targeting=targeting
        )
    found = {
        abi: phone.fetch("taxi-fare", device=Device(abi=abi)) for abi in ("arm64-v8a", "x86_64", "riscv")
    }
    assert {abi: (one.version, one.variant) for abi, one in found.items()} == {
        "arm64-v8a": (4, "arm"),
        "x86_64": (4, "x86"),
        "riscv": (3, "default"),
    }
    assert phone.fetch("taxi-fare", version=4, variant="x86").path.read_bytes() == b"x86"


def test_nothing_for_a_device_is_an_answer_and_no_reason_to_fall_back(
    registry: Registry, phone: Client
) -> None:
    registry.publish("m", b"one", metadata={}, targeting=Targeting(min_app_version="2"))
    assert phone.fetch("m", device=Device(app_version="2.1")).version == 1
    message = "version 1 (default): app version must be 2 or later; the device has 1.9."
    with pytest.raises(NotOffered, match=re.escape(message)):
        phone.fetch("m", device=Device(app_version="1.9"))


def test_a_share_that_went_back_to_nobody_is_an_answer_too(registry: Registry, phone: Client) -> None:
    registry.publish("m", b"one", metadata={})
    phone.fetch("m")
    registry.set_rollout("m", "stable", 0)
    with pytest.raises(NotOffered, match=re.escape("it is rolled out to 0 permille of the devices")):
        phone.fetch("m", device=Device(id="x"))


def test_a_withdrawn_version_is_refused_with_its_reason_and_not_used_again(
    phone: Client, forger: Any, contents: dict[int, bytes]
) -> None:
    phone.fetch("taxi-fare", version=2)
    phone.fetch("taxi-fare")
    forger.edit("model-taxi-fare", withdrawing(3, "it is wrong at night"))
    with pytest.raises(
        NotOffered, match=re.escape("its publisher took it back: it is wrong at night. Fetch")
    ):
        phone.fetch("taxi-fare", version=3)
    with pytest.raises(RegistryError, match=re.escape("Channel 'stable' must not offer it still")):
        phone.fetch("taxi-fare")
    (forger.metadata / "timestamp.json").unlink()  # and what was learnt is kept
    with pytest.raises(RegistryError, match=re.escape("a file is missing or not served")):
        phone.fetch("taxi-fare", version=3)
    assert phone.fetch("taxi-fare", version=2).path.read_bytes() == contents[2]


def withdrawing(version: int, reason: str) -> Callable[[Any], None]:
    def change(signed: Any) -> None:
        path = names.model_path("taxi-fare", version)
        signed.version += 1
        signed.targets[path] = records.withdraw(signed.targets[path], reason)

    return change


# The last good model.


def test_without_the_registry_the_last_good_model_is_used_and_it_is_said_why(
    client: Client, server: Server, contents: dict[int, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    fetched = client.fetch("taxi-fare")
    assert fetched.problem == ""
    server.trick = lambda handler: handler.send_error(500) or True
    with caplog.at_level(logging.WARNING):
        kept = client.fetch("taxi-fare")
    assert (kept.path, kept.version, kept.variant) == (fetched.path, 3, "default")
    assert kept.path.read_bytes() == contents[3]
    said = "was refused: a file is missing or not served: HTTP error 500"
    assert said in kept.problem
    assert said in caplog.text
    assert "Using version 3, the last good one." in caplog.text
    with pytest.raises(RegistryError, match=re.escape(said)):
        client.fetch("taxi-fare", fall_back=False)
    with pytest.raises(RegistryError, match=re.escape(said)):
        client.fetch("taxi-fare", "beta")  # of which there is none


def test_a_last_good_model_that_was_changed_is_not_handed_out_and_the_one_before_it_is(
    registry: Registry, client: Client, server: Server, contents: dict[int, bytes]
) -> None:
    before = client.fetch("taxi-fare")
    registry.publish("taxi-fare", b"four", metadata={})
    client.fetch("taxi-fare")
    current = client.fetch("taxi-fare")  # once more: it is not its own last good one
    server.trick = lambda handler: handler.send_error(500) or True
    current.path.write_bytes(b"fuor")
    kept = client.fetch("taxi-fare")
    assert (kept.version, kept.path.read_bytes()) == (3, contents[3])
    before.path.unlink()
    with pytest.raises(RegistryError, match=re.escape("HTTP error 500")):
        client.fetch("taxi-fare")
    server.trick = lambda handler: False
    assert client.fetch("taxi-fare").path.read_bytes() == b"four"


def test_a_last_good_model_has_to_fit_the_device(registry: Registry, client: Client, server: Server) -> None:
    registry.publish("taxi-fare", b"four", metadata={}, targeting=Targeting(required_ops=("FlexErf",)))
    assert client.fetch("taxi-fare").version == 4  # None asks for what all get
    server.trick = lambda handler: handler.send_error(500) or True
    assert client.fetch("taxi-fare", device=Device(ops=("FlexErf",))).version == 4
    with pytest.raises(RegistryError, match=re.escape("HTTP error 500")):
        client.fetch("taxi-fare", device=Device())


@pytest.mark.parametrize("content", ["", "{", "[]", '{"channels":{"stable":[{"sha256":"../x"}]}}'])
def test_a_note_of_what_is_held_that_is_damaged_is_no_obstacle(
    phone: Client, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    phone.fetch("taxi-fare")
    (phone.cache / "held" / "taxi-fare.json").write_text(content)
    assert phone.fetch("taxi-fare").version == 3
    assert "is of no use, nothing is known of earlier models" in caplog.text


def test_a_note_of_what_is_held_that_leads_out_of_the_cache_is_not_followed(
    phone: Client, caplog: pytest.LogCaptureFixture
) -> None:
    sha256 = phone.fetch("taxi-fare").sha256
    note = phone.cache / "held" / "taxi-fare.json"
    note.write_text(note.read_text().replace(sha256, "../../x"))
    assert phone.fetch("taxi-fare").version == 3
    assert "sha256 must be 64 hex digits; got '../../x'." in caplog.text


def test_two_versions_of_the_same_bytes_are_both_kept(registry: Registry, phone: Client) -> None:
    registry.publish("taxi-fare", b"three" * 50, version=4, channel="beta", metadata={})
    stable, beta = phone.fetch("taxi-fare"), phone.fetch("taxi-fare", "beta")
    assert (stable.version, beta.version, stable.sha256) == (3, 4, beta.sha256)
    assert stable.path.read_bytes() == beta.path.read_bytes() == b"three" * 50
    shutil.rmtree(registry.repository / "metadata")
    assert [phone.fetch("taxi-fare", channel).version for channel in ("stable", "beta")] == [3, 4]


def test_the_cache_keeps_the_current_and_the_last_good_file_of_each_channel(
    registry: Registry, phone: Client
) -> None:
    for number in range(4, 9):
        registry.publish("taxi-fare", b"%d" % number, channel="beta" if number < 6 else "stable", metadata={})
        phone.fetch("taxi-fare", "beta" if number < 6 else "stable")
    kept = {path.parent.name for path in (phone.cache / "targets").rglob("*.tflite")}
    assert kept == {"4", "5", "7", "8"}
    records_kept = list((phone.cache / "targets").rglob("*.stable.json"))
    assert len(records_kept) == 1


def test_a_lost_file_is_not_kept_as_the_last_good_one_in_place_of_one_that_is_there(
    registry: Registry, phone: Client, contents: dict[int, bytes]
) -> None:
    phone.fetch("taxi-fare")
    registry.publish("taxi-fare", b"four", metadata={})
    phone.fetch("taxi-fare").path.unlink()
    registry.publish("taxi-fare", b"five", metadata={})
    phone.fetch("taxi-fare").path.write_bytes(b"evif")
    shutil.rmtree(registry.repository / "metadata")
    assert phone.fetch("taxi-fare").path.read_bytes() == contents[3]


def test_a_version_that_the_registry_has_let_go_of_is_still_good(registry: Registry, phone: Client) -> None:
    phone.fetch("taxi-fare", version=1)
    registry.collect_garbage(keep_versions=1, min_age=datetime.timedelta(0))
    assert phone.fetch("taxi-fare").version == 3
    shutil.rmtree(registry.repository / "metadata")
    assert phone.fetch("taxi-fare", version=1).version == 1


def test_without_the_registry_another_variant_of_the_version_is_not_handed_out(
    registry: Registry, phone: Client
) -> None:
    phone.fetch("taxi-fare", version=3)
    shutil.rmtree(registry.repository / "metadata")
    with pytest.raises(RegistryError, match=re.escape("a file is missing or not served")):
        phone.fetch("taxi-fare", version=3, variant="small")


def test_a_root_counts_for_more_than_what_is_in_the_cache(
    registry: Registry, phone: Client, tmp_path: Path
) -> None:
    phone.fetch("taxi-fare")
    other = Registry.create(tmp_path / "other")
    client = Client(str(registry.repository), root=other.root_path, cache=phone.cache)
    with pytest.raises(RegistryError, match=re.escape("0/1 keys that the root trusts. It is signed by some")):
        client.fetch("taxi-fare", fall_back=False)


def test_what_was_said_about_a_version_is_kept_when_its_file_is_not(
    registry: Registry, phone: Client, forger: Any
) -> None:
    said = phone.record("taxi-fare", 2)
    phone.fetch("taxi-fare")
    forger.newest_target("taxi-fare/2/model.record.json").unlink()
    assert phone.record("taxi-fare", 2) == said


# Downloads that break off.


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_is_taken_up_where_it_ended(
    registry: Registry, client: Client, server: Server, ranges: bool
) -> None:
    content = random.Random(0).randbytes(300_000)
    registry.publish("big", content, metadata={})
    server.ranges = ranges

    def break_off(handler: Any) -> bool:
        if ".model.tflite" not in handler.path:
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[:200_000])
        handler.close_connection = True
        return True

    server.trick = break_off
    with pytest.raises(RegistryError, match=re.escape("the server broke off")):
        client.fetch("big")
    [part] = (client.cache / "targets").rglob("*.part")
    had = part.stat().st_size
    assert 0 < had <= 200_000
    server.trick = lambda handler: False
    fetched = client.fetch("big")
    assert fetched.path.read_bytes() == content
    assert server.asked[-1][1] == f"bytes={had}-"
    assert (fetched.downloaded_bytes < len(content)) == ranges
    assert not list(client.cache.rglob("*.part"))


def test_a_server_that_is_busy_costs_nothing_of_what_has_come_and_a_newer_version_does(
    registry: Registry, client: Client, server: Server, forger: Any
) -> None:
    part = client.cache / "targets" / "taxi-fare" / "3"
    part.mkdir(parents=True)
    left = part / f".{forger.model_file.name}.part"
    left.write_bytes(b"three")
    server.trick = lambda handler: "3/" in handler.path and (handler.send_error(503) or True)
    with pytest.raises(RegistryError, match=re.escape("HTTP error 503")):
        client.fetch("taxi-fare")
    assert left.read_bytes() == b"three"
    registry.publish("taxi-fare", b"four", metadata={})
    assert client.fetch("taxi-fare").version == 4
    assert not left.exists()


@pytest.mark.parametrize("left", [b"", b"three"])
def test_what_differs_from_what_was_signed_is_asked_for_at_most_twice_and_not_kept(
    client: Client, server: Server, forger: Any, left: bytes
) -> None:
    part = client.cache / "targets" / "taxi-fare" / "3"
    part.mkdir(parents=True)
    (part / f".{forger.model_file.name}.part").write_bytes(left)
    forger.model_file.write_bytes(b"x" * 250)
    with pytest.raises(RegistryError, match=re.escape("a file differs from what was signed")):
        client.fetch("taxi-fare")
    assert sum(path.endswith(".model.tflite") for path, _ in server.asked) == (2 if left else 1)
    assert not list(part.iterdir())


def test_nginx_sends_the_rest_too(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    content = random.Random(0).randbytes(300_000)
    sha256 = registry.publish("big", content, metadata={}).sha256
    with nginx(registry.repository, tmp_path) as url:
        client = Client(url, root=registry.root_path, cache=tmp_path / "phone")
        part = client.cache / "targets" / "big" / "1" / f".{sha256}.model.tflite.part"
        part.parent.mkdir(parents=True)
        part.write_bytes(content[:250_000])
        fetched = client.fetch("big")
    assert fetched.path.read_bytes() == content
    assert 50_000 < fetched.downloaded_bytes < 60_000


@pytest.mark.parametrize("left", [b"wrong", b"w" * 150, b"w" * 151, b"three" * 50, b"w" * 250, b"w" * 300])
def test_what_is_left_of_a_download_and_wrong_is_thrown_away_and_all_of_it_fetched_once(
    client: Client, server: Server, contents: dict[int, bytes], left: bytes
) -> None:
    part = client.cache / "targets" / "taxi-fare" / "3"
    part.mkdir(parents=True)
    (part / f".{hashlib.sha256(contents[3]).hexdigest()}.model.tflite.part").write_bytes(left)
    assert client.fetch("taxi-fare").path.read_bytes() == contents[3]
    asked = sum("3/" in path and "tflite" in path for path, _ in server.asked)
    assert asked <= 2
    assert (asked == 0) == (left == contents[3])
    assert not list(client.cache.rglob("*.part"))


def test_another_part_than_the_one_asked_for_is_not_used(
    client: Client, server: Server, contents: dict[int, bytes]
) -> None:
    part = client.cache / "targets" / "taxi-fare" / "3"
    part.mkdir(parents=True)
    (part / f".{hashlib.sha256(contents[3]).hexdigest()}.model.tflite.part").write_bytes(contents[3][:100])

    def elsewhere(handler: Any) -> bool:
        if not handler.headers.get("Range"):
            return False
        handler.send_response(206)
        handler.send_header("Content-Range", "bytes 90-249/250")
        handler.send_header("Content-Length", "160")
        handler.end_headers()
        handler.wfile.write(contents[3][90:])
        return True

    server.trick = elsewhere
    assert client.fetch("taxi-fare").path.read_bytes() == contents[3]


# Deltas.


OLD = random.Random(1).randbytes(40_000)
NEW = OLD[:10_000] + b"other weights" + OLD[10_100:]


def put_delta(registry: Registry, forger: Any, delta: bytes, base: int = 1) -> None:
    """Signs a delta to version 2 of 'net' as the store does."""
    path = names.delta_path("net", 2, "default", base)
    target = TargetFile.from_data(path, delta, ["sha256"])
    (registry.repository / "targets" / target.get_prefixed_paths()[0]).write_bytes(delta)

    def add(signed: Any) -> None:
        signed.version += 1
        signed.targets[path] = target

    forger.edit("model-net", add)


@pytest.mark.parametrize(
    ("delta", "base", "warning"),
    [
        (bsdiff4.diff(OLD, NEW), 1, ""),
        (bsdiff4.diff(NEW, OLD), 1, "Delta must make the 39913 bytes that were signed; it makes 40000."),
        (bsdiff4.diff(OLD[::-1], NEW), 1, "is not smaller"),
        (bsdiff4.diff(OLD, NEW), 7, "is of another base"),
        (bsdiff4.diff(OLD, NEW[:-1] + b"x"), 1, "does not match expected hash"),
        (b"no delta", 1, "Delta must be in the BSDIFF40 format; it is not."),
    ],
    ids=["right", "other direction", "large", "other base", "wrong result", "none"],
)
def test_a_delta_is_used_when_it_gives_the_signed_file_and_else_all_of_it_is_fetched(
    registry: Registry,
    client: Client,
    server: Server,
    forger: Any,
    caplog: pytest.LogCaptureFixture,
    delta: bytes,
    base: int,
    warning: str,
) -> None:
    registry.publish("net", OLD, metadata={})
    client.fetch("net")
    registry.publish("net", NEW, metadata={}, delta=False)
    put_delta(registry, forger, delta, base)
    server.asked.clear()
    fetched = client.fetch("net", fall_back=False)
    assert (fetched.version, fetched.path.read_bytes(), fetched.problem) == (2, NEW, "")
    whole = any(path.endswith(".model.tflite") for path, _ in server.asked)
    assert whole == bool(warning)
    assert (fetched.downloaded_bytes < 5_000) == (not warning)
    if warning.startswith("is "):
        assert not any(path.endswith(".bsdiff") for path, _ in server.asked)
    else:
        assert warning in caplog.text
    kept = {path.name.split(".", 1)[1] for path in (client.cache / "targets" / "net" / "2").iterdir()}
    assert kept == {"model.tflite"}


def test_a_damaged_base_is_not_patched(
    registry: Registry, client: Client, forger: Any, caplog: pytest.LogCaptureFixture
) -> None:
    registry.publish("net", OLD, metadata={})
    client.fetch("net").path.write_bytes(b"x" + OLD[1:])
    registry.publish("net", NEW, metadata={})
    put_delta(registry, forger, bsdiff4.diff(OLD, NEW))
    assert client.fetch("net").path.read_bytes() == NEW
    assert "was changed after it was verified" in caplog.text


def test_a_delta_that_is_lost_or_changed_or_has_lost_its_base_costs_no_update(
    registry: Registry, client: Client, forger: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry.publish("net", OLD, metadata={})
    base = client.fetch("net").path
    registry.publish("net", NEW, metadata={}, delta=False)
    put_delta(registry, forger, bsdiff4.diff(OLD, NEW))
    delta = forger.newest_target("net/2/model.from-1.bsdiff")
    good = delta.read_bytes()
    for spoil, said in (
        (lambda: delta.write_bytes(good[:-1] + b"x"), "does not match expected hash"),
        (delta.unlink, "HTTP error 404"),
        (base.unlink, "No such file or directory"),
    ):
        spoil()
        cache = Path(shutil.copytree(client.cache, tmp_path / said, symlinks=True))
        again = Client(client.location, root=registry.root_path, cache=cache)
        caplog.clear()
        assert again.fetch("net", fall_back=False).path.read_bytes() == NEW
        assert said in caplog.text


def test_the_smallest_delta_is_asked_for_and_none_where_less_is_left_to_come(
    registry: Registry, client: Client, server: Server, forger: Any, tmp_path: Path
) -> None:
    registry.publish("net", OLD, metadata={})
    client.fetch("net")
    registry.publish("net", NEW, metadata={}, delta=False)
    registry.publish("net", NEW + b"3", channel="beta", metadata={}, delta=False)
    client.fetch("net", "beta")
    put_delta(registry, forger, bsdiff4.diff(OLD, NEW), base=1)
    put_delta(registry, forger, bsdiff4.diff(NEW + b"3", NEW), base=3)
    cache = Path(shutil.copytree(client.cache, tmp_path / "again", symlinks=True))
    server.asked.clear()
    assert client.fetch("net", fall_back=False).path.read_bytes() == NEW
    (asked,) = [path for path, _ in server.asked if "net/2/" in path]
    assert asked.endswith(".model.from-3.bsdiff")
    again = Client(client.location, root=registry.root_path, cache=cache)
    (cache / "targets" / "net" / "2").mkdir()
    part = f".{hashlib.sha256(NEW).hexdigest()}.model.tflite.part"
    (cache / "targets" / "net" / "2" / part).write_bytes(NEW[:-50])
    assert again.fetch("net", fall_back=False).downloaded_bytes < 50 + 10_000
    assert server.asked[-1][1] == f"bytes={len(NEW) - 50}-"


def test_a_delta_from_another_variant_is_not_asked_for(
    registry: Registry, client: Client, server: Server, forger: Any
) -> None:
    registry.publish("net", OLD, metadata={})
    registry.publish("net", OLD[:9], version=1, variant="small", metadata={})
    client.fetch("net", version=1, variant="small")
    registry.publish("net", NEW, metadata={}, delta=False)
    put_delta(registry, forger, bsdiff4.diff(OLD, NEW))
    assert client.fetch("net", fall_back=False).path.read_bytes() == NEW
    assert not any(path.endswith(".bsdiff") for path, _ in server.asked)


# Several processes, and one that is killed.


def test_many_phones_may_share_a_cache(
    registry: Registry, served: str, contents: dict[int, bytes], tmp_path: Path
) -> None:
    signed = {**contents, 4: b"four" * 50_000}
    for version, content in signed.items():
        registry.publish("taxi-fare", content, version=version, channel=f"only-{version}", metadata={})

    def fetch(number: int) -> bytes:
        version = number % 4 + 1
        client = Client(served, root=registry.root_path, cache=tmp_path / "shared")
        # Its file may be gone by now: of those asked for by number two are kept, and others ask for more.
        by_number = client.fetch("taxi-fare", version=version, fall_back=False)
        fetched = client.fetch("taxi-fare", f"only-{version}", fall_back=False)
        assert (by_number.version, by_number.sha256) == (version, fetched.sha256)
        return fetched.path.read_bytes()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(fetch, range(8))) == [*signed.values()] * 2


def test_a_cache_that_another_process_holds_is_not_waited_for_for_ever(phone: Client) -> None:
    phone.fetch("taxi-fare")
    phone.limits = Limits(total_s=0.1)
    with (phone.cache / ".lock").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RegistryError, match=re.escape("must be free within 0.1 s; another process uses")):
            phone.fetch("taxi-fare", fall_back=False)
        with pytest.raises(RegistryError, match=re.escape("must be free within 0.1 s; another process uses")):
            phone.fetch("taxi-fare", "beta")  # of which nothing is held
        kept = phone.fetch("taxi-fare")
    assert (kept.version, kept.downloaded_bytes) == (3, 0)
    assert "must be free within 0.1 s; another process uses it. Wait for it to end" in kept.problem


@contextlib.contextmanager
def full_disk(most_bytes: int = 0) -> Iterator[None]:
    """No file may grow beyond this: a limit of the kernel's own, as of a full disk or a quota."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_named_and_the_last_good_model_is_used(
    registry: Registry, phone: Client, contents: dict[int, bytes], tree: Any
) -> None:
    message = f"Cache must be a folder that can be written; {phone.cache}: File too large. Make it writable,"
    with full_disk(), pytest.raises(ConfigError, match=re.escape(message)):
        phone.fetch("taxi-fare")
    phone.fetch("taxi-fare")
    registry.publish("taxi-fare", b"four", metadata={})
    before = tree(phone.cache)
    with full_disk():
        with pytest.raises(ConfigError, match=re.escape(message)):
            phone.fetch("taxi-fare", fall_back=False)
        kept = phone.fetch("taxi-fare")
    assert (kept.version, kept.path.read_bytes(), kept.downloaded_bytes) == (3, contents[3], 0)
    assert message in kept.problem
    assert tree(phone.cache) == before
    assert phone.fetch("taxi-fare").version == 4


def test_a_disk_that_is_full_before_the_model_has_come_keeps_what_came_and_the_last_good_model(
    registry: Registry, phone: Client, contents: dict[int, bytes]
) -> None:
    phone.fetch("taxi-fare")
    registry.publish("taxi-fare", random.Random(0).randbytes(200_000), metadata={})
    with full_disk(100_000):
        kept = phone.fetch("taxi-fare")
    assert (kept.version, kept.path.read_bytes()) == (3, contents[3])
    assert "Cache must be a folder that can be written" in kept.problem
    fetched = phone.fetch("taxi-fare")
    assert (fetched.version, fetched.problem) == (4, "")
    assert fetched.downloaded_bytes < 150_000


def test_a_cache_that_may_only_be_read_is_named_and_the_last_good_model_is_used(
    phone: Client, contents: dict[int, bytes]
) -> None:
    phone.fetch("taxi-fare")
    (phone.cache / ".lock").unlink()
    (phone.cache / ".lock").mkdir()  # which nobody may open for writing, not even root
    message = f"Cache must be a folder that can be written; {phone.cache}/.lock: Is a directory. Make it"
    with pytest.raises(ConfigError, match=re.escape(message)):
        phone.fetch("taxi-fare", fall_back=False)
    kept = phone.fetch("taxi-fare")
    assert (kept.version, kept.path.read_bytes()) == (3, contents[3])
    assert message in kept.problem


@pytest.mark.parametrize("year", [1970, 2070])
def test_a_clock_that_is_wrong_costs_updates_at_most(
    registry: Registry, phone: Client, forger: Any, tmp_path: Path, monkeypatch: Any, year: int
) -> None:
    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Clock":
            return cls(year, 1, 2, tzinfo=tz)

    phone.fetch("taxi-fare")
    old = forger.copy_to(tmp_path / "old")
    registry.publish("taxi-fare", b"four", metadata={})
    with monkeypatch.context() as patched:
        patched.setattr(datetime, "datetime", Clock)
        fetched = phone.fetch("taxi-fare")
    if year == 2070:
        assert fetched.version == 3
        assert "is expired. It may be an old copy; " in fetched.problem
        assert "or the clock here is wrong, it says 2070-01-02." in fetched.problem
        return
    assert (fetched.version, fetched.problem) == (4, "")  # nothing seems to expire
    forger.put_back(old)
    with monkeypatch.context() as patched:
        patched.setattr(datetime, "datetime", Clock)
        assert "It is older than what this client has seen." in phone.fetch("taxi-fare").problem


_WRITING = {"os.mkdir", "os.rename", "os.remove", "os.symlink", "os.link", "os.truncate", "os.rmdir"}


def _killed(act: Callable[[], object], folder: Path, dies_at: int) -> bool:
    """Runs `act` in a process that is killed before its n-th change below `folder`; returns if it was."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        return os.WIFSIGNALED(status)
    left = dies_at

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        writes = event in _WRITING or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if writes and any(str(folder) in str(argument) for argument in arguments):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.addaudithook(count)
        act()
    except BaseException:
        os._exit(1)
    os._exit(0)


def _whole(registry: Registry, forger: Any, phone: Client) -> None:
    registry.publish("net", NEW, metadata={}, delta=False)


def _by_delta(registry: Registry, forger: Any, phone: Client) -> None:
    registry.publish("net", NEW, metadata={}, delta=False)
    put_delta(registry, forger, bsdiff4.diff(OLD, NEW))


def _resumed(registry: Registry, forger: Any, phone: Client) -> None:
    _whole(registry, forger, phone)
    (phone.cache / "targets" / "net" / "2").mkdir()
    part = f".{hashlib.sha256(NEW).hexdigest()}.model.tflite.part"
    (phone.cache / "targets" / "net" / "2" / part).write_bytes(NEW[:30_000])


def _with_new_keys(registry: Registry, forger: Any, phone: Client) -> None:
    for role in ("root", "timestamp", "model-net"):
        registry.rotate_key(role)
    _whole(registry, forger, phone)


def _third(registry: Registry, forger: Any, phone: Client) -> None:
    _by_delta(registry, forger, phone)  # a third version: the first one's file goes
    phone.fetch("net")
    registry.publish("net", OLD + b"3", metadata={}, delta=False)


def _withdrawn(registry: Registry, forger: Any, phone: Client) -> None:
    _whole(registry, forger, phone)
    phone.fetch("net")
    registry.withdraw("net", 2, reason="it is wrong at night")


@pytest.mark.parametrize(
    ("happens", "versions"),
    [
        (_whole, (1, 2)),
        (_by_delta, (1, 2)),
        (_resumed, (1, 2)),
        (_with_new_keys, (1, 2)),
        (_third, (2, 3)),
        (_withdrawn, (2, 1)),
    ],
)
def test_a_phone_killed_before_any_write_has_a_model_without_the_registry_and_goes_on_with_it(
    registry: Registry,
    phone: Client,
    forger: Any,
    tmp_path: Path,
    happens: Callable[..., None],
    versions: tuple[int, int],
) -> None:
    signed = {1: OLD, 2: NEW, 3: OLD + b"3"}
    registry.publish("net", OLD, metadata={})
    phone.fetch("net")
    happens(registry, forger, phone)
    had, dies_at, was_killed = [], 0, True
    while was_killed:
        dies_at += 1
        cache = Path(shutil.copytree(phone.cache, tmp_path / str(dies_at), symlinks=True))
        online = Client(str(registry.repository), root=registry.root_path, cache=cache)
        offline = Client(str(tmp_path / "nowhere"), root=registry.root_path, cache=cache)
        was_killed = _killed(lambda online=online: online.fetch("net", fall_back=False), cache, dies_at)
        kept = offline.fetch("net")
        had.append(kept.version)
        assert kept.path.read_bytes() == signed[kept.version]
        fetched = online.fetch("net", fall_back=False)
        assert (fetched.version, fetched.path.read_bytes()) == (versions[1], signed[versions[1]])
        names_left = {path.name for path in cache.rglob("*") if path.name[:3] == "tmp" or path.name[0] == "."}
        assert names_left == {".lock"}
    assert had == sorted(had, key=versions.index)  # the old one, and from some write on the new one
    assert set(had) == set(versions)
    assert dies_at > 20


def test_a_new_phone_killed_before_any_write_has_nothing_or_the_model(
    registry: Registry, tmp_path: Path, contents: dict[int, bytes]
) -> None:
    dies_at, was_killed, had = 0, True, []
    while was_killed:
        dies_at += 1
        cache = tmp_path / str(dies_at)
        online = Client(str(registry.repository), root=registry.root_path, cache=cache)
        offline = Client(str(tmp_path / "nowhere"), root=registry.root_path, cache=cache)
        was_killed = _killed(lambda online=online: online.fetch("taxi-fare"), cache, dies_at)
        try:
            had.append(offline.fetch("taxi-fare").path.read_bytes())
        except RegistryError:
            had.append(b"")
        assert online.fetch("taxi-fare", fall_back=False).path.read_bytes() == contents[3]
    assert had == sorted(had)
    assert set(had) == {b"", contents[3]}


def test_a_phone_that_is_killed_in_a_download_goes_on_with_it(
    registry: Registry, client: Client, server: Server
) -> None:
    content = random.Random(0).randbytes(300_000)
    client.fetch("taxi-fare")
    registry.publish("taxi-fare", content, metadata={})
    halfway = threading.Event()

    def stop_halfway(handler: Any) -> bool:
        if ".model.tflite" not in handler.path:
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[:200_000])
        halfway.set()
        server.ended.wait()
        return True

    server.trick = stop_halfway
    script = (
        "import sys, pathlib; from tfx_mobile.registry.client import Client;"
        "root, cache = map(pathlib.Path, sys.argv[2:]);"
        "Client(sys.argv[1], root=root, cache=cache).fetch('taxi-fare')"
    )
    arguments = [server.url, str(registry.root_path), str(client.cache)]
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], env=os.environ)
    assert halfway.wait(300)
    while not any(part.stat().st_size > 60_000 for part in client.cache.rglob("*.part")):
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = client.fetch("taxi-fare", version=3)
    assert kept.version == 3
    server.trick = lambda handler: False
    fetched = client.fetch("taxi-fare")
    assert fetched.path.read_bytes() == content
    assert fetched.downloaded_bytes < 250_000
