"""An independent client, tuf-js, agrees: it verifies what our store signed, and refuses what it did not.

Installed from npm as tests/e2e/tuf_js/package-lock.json pins it.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.registry.servers import serving
from tuf.api.metadata import Metadata, Root, Timestamp

from tfx_mobile.registry import keys
from tfx_mobile.registry.client import Client
from tfx_mobile.registry.store import Registry
from tfx_mobile.registry.targeting import bucket_permille

pytestmark = pytest.mark.e2e

SOURCE = Path(__file__).with_name("tuf_js")
DEVICES = [("", ""), ("3f1c", "a phone"), ("salt", "Gerät 7"), ("0123456789abcdef", "x" * 100)]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert shutil.which("node"), "no node here (apt: nodejs)"
    assert shutil.which("npm"), "no npm here (apt: npm)"
    folder = tmp_path_factory.mktemp("tuf_js") / "program"
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("node_modules"))
    subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=900,
    )
    return folder / "fetch.cjs"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    made = Registry.create(tmp_path / "registry")
    made.publish("other", b"another model", metadata={})
    for content in (b"one" * 1000, b"two" * 1000):
        made.publish("taxi-fare", content, metadata={"rmse_ppm": 1})
    return made


@pytest.fixture
def url(registry: Registry) -> Iterator[str]:
    with serving(registry.repository) as server:
        yield server.url


Fetch = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def fetch(program: Path, registry: Registry, url: str, tmp_path: Path) -> Fetch:
    root = tmp_path / "bundled.json"
    shutil.copy(registry.root_path, root)

    def run(*devices: tuple[str, str], folder: str = "app") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["node", program, url, root, tmp_path / folder, "taxi-fare", *sum(devices, ())],
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
            env=os.environ | {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"},
        )

    return run


def rotate_timestamp_key(registry: Registry) -> None:
    """Makes root 2, which takes the timestamp's key out of service, and signs on with the new one."""
    metadata = Metadata[Root].from_bytes(registry.root_path.read_bytes())
    fresh, root = keys.make_signer(), metadata.signed
    root.version = 2
    root.revoke_key(root.roles[Timestamp.type].keyids[0], Timestamp.type)
    root.add_key(fresh.public_key, Timestamp.type)
    metadata.sign(keys.load_signer(registry.keys, Root.type))
    (registry.repository / "metadata" / "2.root.json").write_bytes(metadata.to_bytes())
    keys.key_path(registry.keys, Timestamp.type).write_bytes(fresh.private_bytes)
    path = registry.repository / "metadata" / "timestamp.json"
    timestamp = Metadata[Timestamp].from_bytes(path.read_bytes())
    timestamp.signed.version += 1
    timestamp.sign(fresh)
    path.write_bytes(timestamp.to_bytes())


def test_tuf_js_fetches_what_our_client_fetches_before_and_after_a_key_is_rotated(
    registry: Registry, url: str, fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    ours = Client(url, root=registry.root_path.read_bytes(), cache=tmp_path / "ours")
    found = fetch(*DEVICES)
    assert found.returncode == 0, found.stderr
    said = json.loads(found.stdout)
    assert said["buckets"] == [bucket_permille(*device) for device in DEVICES]
    fetched = ours.fetch("taxi-fare", fall_back=False)
    assert (said["version"], said["sha256"], said["root"]) == (fetched.version, fetched.sha256, 1)
    rotate_timestamp_key(registry)
    registry.publish("taxi-fare", b"three" * 1000, metadata={})
    fetched = ours.fetch("taxi-fare", fall_back=False)
    for folder in ("app", "another app"):
        said = json.loads(fetch(folder=folder).stdout)
        assert (said["version"], said["sha256"], said["root"]) == (3, fetched.sha256, 2)


def test_tuf_js_refuses_a_file_that_was_changed(registry: Registry, fetch: Fetch) -> None:
    [path] = (registry.repository / "targets").glob("taxi-fare/2/*.model.tflite")
    path.write_bytes(path.read_bytes()[::-1])
    found = fetch()
    assert (found.returncode, found.stdout) == (1, "")
    assert "Expected hash" in found.stderr


def test_tuf_js_refuses_metadata_that_another_key_signed(registry: Registry, fetch: Fetch) -> None:
    path = registry.repository / "metadata" / "timestamp.json"
    metadata = Metadata[Timestamp].from_bytes(path.read_bytes())
    metadata.signed.version += 1
    metadata.sign(keys.load_signer(registry.keys, "model-taxi-fare"))
    path.write_bytes(metadata.to_bytes())
    found = fetch()
    assert (found.returncode, found.stdout) == (1, "")
    assert "timestamp was signed by 0/1 keys" in found.stderr
