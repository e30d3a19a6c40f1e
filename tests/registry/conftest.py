"""A registry with three versions of one model, a phone, and somebody who tampers; object stores."""

import datetime
import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.registry import servers
from tuf.api.metadata import Metadata, MetaFile, Signed  # type: ignore[attr-defined]

from tfx_mobile.registry import keys as key_files
from tfx_mobile.registry.client import Client
from tfx_mobile.registry.store import Registry

CONTENTS = {1: b"one" * 50, 2: b"two" * 50, 3: b"three" * 50}


class Forger:
    """Somebody who can write to the repository folder, and who may have got hold of some of its keys."""

    def __init__(self, registry: Registry) -> None:
        self.repository, self.keys = registry.repository, registry.keys
        self.metadata = self.repository / "metadata"
        self.model_file = self.newest_target("taxi-fare/3/model.tflite")

    def newest_target(self, path: str) -> Path:
        """Returns the file that the newest role of the model signs for a target path."""
        role: Metadata[Any] = Metadata.from_bytes(self.newest(f"model-{path.split('/')[0]}").read_bytes())
        return self.repository / "targets" / str(role.signed.targets[path].get_prefixed_paths()[0])

    def newest(self, role: str) -> Path:
        if role == "timestamp":
            return self.metadata / "timestamp.json"
        return max(self.metadata.glob(f"*.{role}.json"), key=lambda path: int(path.name.split(".")[0]))

    def copy_to(self, folder: Path) -> Path:
        return Path(shutil.copytree(self.repository, folder))

    def put_back(self, copy: Path) -> None:
        shutil.rmtree(self.repository)
        shutil.copytree(copy, self.repository)

    def edit_unsigned(self, role: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Changes what a role says and keeps its old signature."""
        path = self.newest(role)
        metadata = json.loads(path.read_bytes())
        change(metadata["signed"])
        path.write_text(json.dumps(metadata, separators=(",", ":"), sort_keys=True))

    def edit(self, role: str, change: Callable[[Any], None], *, key: str | None = None) -> None:
        """Changes what a role says, signs it with the key of `key` (default: its own), and those above it."""
        metadata: Metadata[Any] = Metadata.from_bytes(self.newest(role).read_bytes())
        change(metadata.signed)
        self._sign(role, metadata, key or role)

    def relink(self, role: str) -> None:
        """Makes snapshot and timestamp say that the file of `role` is as it lies there."""
        content = self.newest(role).read_bytes()
        version = Metadata[Any].from_bytes(content).signed.version

        def name_it(snapshot: Any) -> None:
            snapshot.version += 1
            snapshot.meta[f"{role}.json"] = MetaFile.from_data(version, content, ["sha256"])

        self.edit("snapshot", name_it)

    def _sign(self, role: str, metadata: Metadata[Any], key: str) -> None:
        metadata.sign(key_files.load_signer(self.keys, key))
        content, version = metadata.to_bytes(), metadata.signed.version
        name = "timestamp.json" if role == "timestamp" else f"{version}.{role}.json"
        (self.metadata / name).write_bytes(content)
        if role == "snapshot":

            def name_it(timestamp: Any) -> None:
                timestamp.version += 1
                timestamp.snapshot_meta = MetaFile.from_data(version, content, ["sha256"])

            self.edit("timestamp", name_it)
        elif role not in ("timestamp", "root"):
            self.relink(role)


def expire(signed: Signed) -> None:
    signed.expires = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)


def tree(*folders: Path) -> dict[str, bytes]:
    """What is on disk, to compare before and after."""
    return {
        str(path): path.read_bytes()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture(name="tree")
def _tree() -> Callable[..., Mapping[str, bytes]]:
    return tree


@pytest.fixture(name="expire")
def _expire() -> Callable[[Signed], None]:
    return expire


@pytest.fixture
def contents() -> dict[int, bytes]:
    return CONTENTS


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    registry = Registry.create(tmp_path_factory.mktemp("published") / "registry")
    for version, content in CONTENTS.items():
        registry.publish("taxi-fare", content, metadata={"metrics": {"rmse_ppm": 100 - version}})
    return registry


@pytest.fixture
def registry(published: Registry, tmp_path: Path) -> Registry:
    shutil.copytree(published.keys, tmp_path / "registry.keys")
    return Registry(Path(shutil.copytree(published.repository, tmp_path / "registry")))


@pytest.fixture
def forger(registry: Registry) -> Forger:
    return Forger(registry)


@pytest.fixture
def phone(registry: Registry, tmp_path: Path) -> Client:
    return Client(str(registry.repository), root=registry.root_path.read_bytes(), cache=tmp_path / "phone")


@pytest.fixture(scope="session")
def s3_environment() -> Iterator[dict[str, str]]:
    with servers.s3_server() as environment:
        yield environment


@pytest.fixture(scope="session")
def gs_environment() -> Iterator[dict[str, str]]:
    with servers.gs_server() as environment:
        yield environment


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place for a registry, in a bucket of its own: of S3, and of Cloud Storage."""
    for name, value in request.getfixturevalue(f"{request.param}_environment").items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid.uuid4().hex}"
    servers.make_bucket(request.param, name)
    return f"{request.param}://{name}/models"
