"""The phone's side."""

import functools
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry.client import Client
from tfx_mobile.registry.store import Registry


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def served(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(_QuietHandler, directory=str(registry.repository))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_phone_gets_the_bytes_and_what_was_said_about_them(
    phone: Client, contents: dict[int, bytes]
) -> None:
    fetched = phone.fetch("taxi-fare")
    assert fetched.path.read_bytes() == contents[3]
    assert (fetched.version, fetched.size_bytes) == (3, 250)
    assert fetched.metadata == {"metrics": {"rmse_ppm": 97}}


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
    for path in (phone.cache / "metadata").glob("*.json"):
        path.write_bytes(b"damaged")
    assert phone.fetch("taxi-fare").path.read_bytes() == contents[3]


def test_what_is_in_the_cache_is_not_fetched_again(phone: Client, forger: Any) -> None:
    first = phone.fetch("taxi-fare")
    forger.model_file.unlink()
    assert phone.fetch("taxi-fare") == first


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


@pytest.mark.parametrize("location", ["s3://bucket/x", "gs://bucket", "ftp://host/x"])
def test_a_location_that_cannot_be_read_is_refused(location: str, tmp_path: Path) -> None:
    message = f"Registry must be a folder or a file://, http:// or https:// URL; got '{location}'."
    with pytest.raises(ConfigError, match=re.escape(message)):
        Client(location, root=b"", cache=tmp_path)


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
