"""An OCI registry as Debian's docker-registry serves it, with its storage on a disk that we can damage."""

import base64
import dataclasses
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from tests.ports import free_port, wait_until_open

from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry.backend import Backend, open_backend
from tfx_mobile.registry.conformance import BackendConformance
from tfx_mobile.registry.oci_backend import OciBackend
from tfx_mobile.registry.targeting import Device, Targeting

ARM = Targeting(abis=("arm64-v8a",))
# bcrypt of 'not-secret', as `htpasswd -B` makes it.
PASSWORDS = "somebody:$2b$04$abcdefghijklmnopqrstuubO97YlDKRiWufqUDredkUgaOUdQZc6S\n"


@dataclasses.dataclass(frozen=True)
class Server:
    """A running docker-registry.

    Attributes:
      host: With its port.
      storage: The folder of its files.
    """

    host: str
    storage: Path

    def blob(self, sha256: str) -> Path:
        return self.storage / "docker/registry/v2/blobs/sha256" / sha256[:2] / sha256 / "data"

    def get(self, path: str) -> Any:
        accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
        return requests.get(f"http://{self.host}/v2/{path}", headers=accept, timeout=60)


def serve(folder: Path, *, may_delete: bool = True, passwords: str = "") -> Iterator[Server]:
    program = shutil.which("docker-registry")
    assert program, "Debian's docker-registry must be installed; .ci/run does it"
    port = free_port()
    host = f"127.0.0.1:{port}"
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(folder / "storage")},
            "delete": {"enabled": may_delete},
        },
        "http": {"addr": host},
    }
    if passwords:
        (folder / "passwords").write_text(passwords)
        config["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "passwords")}}
    (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([program, "serve", folder / "config.yml"], stdout=log, stderr=log)
    try:
        wait_until_open(port, server)
        yield Server(host, folder / "storage")
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from serve(tmp_path_factory.mktemp("oci"))


@pytest.fixture
def place(server: Server, request: pytest.FixtureRequest) -> str:
    """The repository of one test."""
    return "models/" + re.sub(r"[^a-z0-9]+", "-", request.node.name).strip("-")


@pytest.fixture
def opened(server: Server, place: str) -> Callable[[], OciBackend]:
    return lambda: OciBackend(f"oci+http://{server.host}/{place}")


def test_a_release_lives_from_its_first_share_to_its_withdrawal(
    opened: Callable[[], OciBackend], server: Server, place: str
) -> None:
    publisher, reader = opened(), opened()
    assert isinstance(publisher, Backend)

    def tagged(tag: str) -> str | None:
        """What a plain client pulls by a tag: the digest of the first layer."""
        answer = server.get(f"{place}/taxi-fare/manifests/{tag}")
        return None if answer.status_code == 404 else answer.json()["layers"][0]["digest"]

    one = publisher.publish("taxi-fare", b"one", metadata={"rmse_ppm": 7})
    assert (one.version, one.created, one.channel_version) == (1, True, 1)
    assert one.uri == f"{server.host}/{place}/taxi-fare:v1"
    assert publisher.publish("taxi-fare", b"one", metadata={}).created is False
    two = publisher.publish(
        "taxi-fare", b"two", metadata={}, rollout_permille=250, attachments={"evaluation.html": b"<p>"}
    )
    arm = publisher.publish("taxi-fare", b"two for arm", version=2, variant="arm", metadata={}, targeting=ARM)
    assert tagged("v2") == f"sha256:{two.sha256}"
    assert tagged("v2-arm") == f"sha256:{arm.sha256}"
    found = server.get(f"{place}/taxi-fare/manifests/v1").json()["annotations"]
    assert found["dev.tfx-mobile.metadata"] == '{"rmse_ppm":7}'
    assert found["dev.tfx-mobile.sha256"] == one.sha256

    # A release for some leaves the channel's tag where it is.
    assert tagged("channel-stable") == f"sha256:{one.sha256}"
    assert reader.resolve("taxi-fare", device=Device()).content == b"one"
    assert reader.resolve("taxi-fare", device=Device(abi="arm64-v8a")).content == b"two for arm"
    assert reader.attachments("taxi-fare", 2) == {"evaluation.html": b"<p>"}
    publisher.set_rollout("taxi-fare", "stable", 1000)
    assert reader.resolve("taxi-fare", device=Device()).content == b"two"
    assert tagged("channel-stable") == f"sha256:{two.sha256}"

    assert publisher.rollback("taxi-fare", reason="worse in the rain").version == 1
    assert tagged("channel-stable") == f"sha256:{one.sha256}"
    three = publisher.publish("taxi-fare", b"three", channel="beta", metadata={})
    publisher.promote("taxi-fare")
    assert tagged("channel-stable") == tagged("channel-beta") == f"sha256:{three.sha256}"
    publisher.withdraw("taxi-fare", 3, reason="leaks")
    assert tagged("channel-stable") == f"sha256:{one.sha256}"
    assert (tagged("channel-beta"), tagged("v3")) == (None, None)
    assert tagged("v2") == f"sha256:{two.sha256}"
    assert reader.resolve("taxi-fare").content == b"one"
    assert [record.withdrawn for record in reader.versions("taxi-fare")] == ["", "", "", "leaks"]
    history = reader.history("taxi-fare")
    assert [(event.action, event.version) for event in history] == [
        ("publish", 1),
        ("publish", 2),
        ("publish", 2),
        ("rollout", 2),
        ("rollback", 1),
        ("promote", 3),
        ("withdraw", 1),
    ]
    assert history[4].note == "worse in the rain"
    with pytest.raises(RegistryError, match=re.escape("is withdrawn already: leaks")):
        publisher.withdraw("taxi-fare", 3, reason="again")
    assert reader.history("taxi-fare") == history


def test_a_blob_that_is_damaged_on_the_servers_disk_is_refused(
    opened: Callable[[], OciBackend], server: Server
) -> None:
    made = opened().publish("taxi-fare", b"content", metadata={})
    data = server.blob(made.sha256)
    data.write_bytes(b"Content")
    with pytest.raises(RegistryError, match=re.escape("must be what its digest says; got sha256:")):
        opened().resolve("taxi-fare")
    data.write_bytes(b"conten")
    with pytest.raises(RegistryError, match=re.escape(made.sha256)):
        opened().resolve("taxi-fare")
    data.unlink()
    with pytest.raises(RegistryError, match=re.escape(f"@sha256:{made.sha256} is missing")):
        opened().resolve("taxi-fare")


def test_a_manifest_or_ledger_that_is_damaged_is_refused(
    opened: Callable[[], OciBackend], server: Server, place: str
) -> None:
    opened().publish("m", b"a model", metadata={})
    for tag in ("v1", "ledger"):
        digest = server.get(f"{place}/m/manifests/{tag}").headers["Docker-Content-Digest"]
        data = server.blob(digest.removeprefix("sha256:"))
        kept = data.read_bytes()
        data.write_bytes(kept.replace(b'"schemaVersion": 2', b'"schemaVersion":  2'))
        with pytest.raises(RegistryError, match=re.escape(f"/m:{tag}")):
            opened().resolve("m")
        data.write_bytes(kept)
    assert opened().resolve("m").content == b"a model"


def test_a_tag_that_somebody_moved_is_refused(
    opened: Callable[[], OciBackend], server: Server, place: str
) -> None:
    opened().publish("m", b"one", metadata={})
    opened().publish("m", b"two", metadata={})
    older = server.get(f"{place}/m/manifests/v1")
    kind = {"Content-Type": older.headers["Content-Type"]}
    where = f"http://{server.host}/v2/{place}/m/manifests/v2"
    requests.put(where, older.content, headers=kind, timeout=60).raise_for_status()
    with pytest.raises(RegistryError, match=re.escape("The tag was moved")):
        opened().resolve("m")


def test_a_publisher_that_is_overtaken_changes_nothing(opened: Callable[[], OciBackend]) -> None:
    slow, fast = opened(), opened()
    fast.publish("m", b"one", metadata={})
    before, digest = slow._found("m")
    fast.publish("m", b"two", metadata={})
    changed = before.set_rollout("stable", 5, version=None, note="")
    with pytest.raises(RegistryError, match=re.escape("must have one publisher at a time")):
        slow._commit("m", before, changed, digest)
    assert [event.version for event in fast.history("m")] == [1, 2]
    assert fast.resolve("m").content == b"two"


def test_where_nothing_may_be_deleted_a_withdrawal_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    for server in serve(tmp_path, may_delete=False):
        backend = OciBackend(f"oci+http://{server.host}/models")
        backend.publish("m", b"one", metadata={})
        backend.publish("m", b"two", metadata={})
        before = backend.ledger("m")
        with pytest.raises(RegistryError, match=re.escape("must allow deleting manifests")):
            backend.withdraw("m", 2, reason="leaks")
        assert backend.ledger("m") == before
        assert backend.resolve("m").content == b"two"


def test_credentials_come_from_dockers_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for server in serve(tmp_path, passwords=PASSWORDS):
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
        monkeypatch.setenv("HOME", str(tmp_path))
        uri = f"oci+http://{server.host}/models"
        with pytest.raises(RegistryError, match=re.escape("with credentials of `docker login`")):
            OciBackend(uri).publish("m", b"one", metadata={})
        auth = base64.b64encode(b"somebody:not-secret").decode()
        for folder in ("docker", ".docker"):
            (tmp_path / folder).mkdir()
            login = {"auths": {server.host: {"auth": auth}}}
            (tmp_path / folder / "config.json").write_text(json.dumps(login))
        backend = OciBackend(uri)
        backend.publish("m", b"one", metadata={})
        assert backend.resolve("m").content == b"one"


def test_what_is_refused_leaves_the_registry_as_it_was(opened: Callable[[], OciBackend]) -> None:
    backend = opened()
    backend.publish("m", b"one", version=3, metadata={})
    before = backend.ledger("m")
    with pytest.raises(RegistryError, match=re.escape("3 already holds")):
        backend.publish("m", b"2", version=3, metadata={})
    with pytest.raises(ConfigError, match=re.escape("must not be a float")):
        backend.publish("m", b"2", metadata={"a": 0.5})
    with pytest.raises(ConfigError, match=re.escape("Model name must be")):
        backend.publish("../m", b"2", metadata={})
    with pytest.raises(RegistryError, match=re.escape("must have offered something before version 3")):
        backend.rollback("m", reason="r")
    with pytest.raises(RegistryError, match=re.escape("must have version 1 to withdraw it; it has 3")):
        backend.withdraw("m", 1, reason="r")
    with pytest.raises(RegistryError, match=re.escape("must hold model 'other'")):
        backend.resolve("other")
    assert backend.ledger("m") == before


def test_a_registry_that_is_not_there_is_one_clear_error() -> None:
    with socket.socket() as silent:  # keeps others off the port, and does not listen
        silent.bind(("127.0.0.1", 0))
        with pytest.raises(RegistryError, match=re.escape("must be reached")):
            OciBackend(f"oci+http://127.0.0.1:{silent.getsockname()[1]}/models").resolve("m")


@pytest.mark.parametrize(
    "uri",
    [
        "oci://somebody:secret@host/models",
        "oci://host",
        "oci://host/models:tag",
        "oci://host/Models",
        "oci://host/a//b",
        "oci://host/a/../b",
        "oci://host/models?x=secret",
        "oci+http://example.com/models",
    ],
)
def test_a_uri_that_is_none_of_an_oci_registry_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match=re.escape("OCI registry must be oci://host/repository")) as error:
        OciBackend(uri)
    assert "somebody" not in str(error.value)


def test_the_scheme_opens_it_and_it_says_what_it_can() -> None:
    backend = open_backend("oci://host.example/models")
    assert isinstance(backend, OciBackend)
    able = backend.capabilities
    assert not able.signed
    assert all((able.variants, able.rollout, able.targeting, able.rollback, able.withdraw, able.attachments))


def test_a_package_that_is_not_there_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "oras", None)
    monkeypatch.delitem(sys.modules, "oras.auth", raising=False)
    message = "needs the package 'oras', which is not installed: pip install oras."
    with pytest.raises(ConfigError, match=re.escape(f"Registry 'oci://host.example/models' {message}")):
        open_backend("oci://host.example/models")


class TestConformance(BackendConformance):
    """docker-registry passes what every adapter must pass."""

    @pytest.fixture
    def backend(self, opened: Callable[[], OciBackend], server: Server) -> Backend:
        self.opened, self.server = opened, server
        return opened()

    def reopened(self, backend: Backend) -> Backend:
        return self.opened()

    def damage(self, model: str, version: int) -> None:
        sha256 = self.opened().ledger(model).file(version).sha256
        self.server.blob(sha256).write_bytes(b"something else")
