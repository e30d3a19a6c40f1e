"""Rotations that fail or are killed at each of their writes, with one root key and with three.

In between the repository verifies, phones that saw it before, meet it in between or are new go on, and the
same command again finishes with a key that nobody had before.
"""

import errno
import multiprocessing
import os
import re
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from tests.registry import softhsm
from tuf.api.metadata import Root  # type: ignore[attr-defined]

from tfx_mobile.common.errors import RegistryError
from tfx_mobile.registry import keys as key_files
from tfx_mobile.registry.client import Client
from tfx_mobile.registry.repository import Write
from tfx_mobile.registry.store import Registry

Tree = Callable[..., dict[str, bytes]]

ROTATIONS = [
    ("one root key", "root"),
    ("one root key", "targets"),
    ("one root key", "snapshot"),
    ("one root key", "timestamp"),
    ("one root key", "model-m"),
    ("three root keys", "root"),
    ("three root keys", "root-2"),
    ("three root keys", "timestamp"),
    ("one of three in an HSM", "root"),
]
FINISHED, REFUSED, REFUSED_LATE = 0, 3, 4


class Stopping(Registry):
    """Stops at one of its writes: the disk is full, or the process is killed with half of a file there."""

    stops_at = 0
    is_killed = False
    is_shown = False

    def _write(self, write: Write) -> None:
        self.stops_at -= 1
        if self.stops_at == 0 and self.is_killed:
            path = Path(write.storage.place(write.path))
            (path.parent / f".{path.name}.torn").write_bytes((write.content or b"")[:9])
            os.kill(os.getpid(), signal.SIGKILL)
        if self.stops_at == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), write.storage.place(write.path))
        self.is_shown |= write.shows
        super()._write(write)


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return softhsm.make_token(tmp_path_factory.mktemp("hsm"))


@pytest.fixture(scope="module")
def registries(tmp_path_factory: pytest.TempPathFactory, token: dict[str, str]) -> dict[str, Registry]:
    """Two of three root keys have to sign."""
    made = {}
    for number, name in ((1, "one root key"), (3, "three root keys"), (3, "one of three in an HSM")):
        made[name] = Registry.create(tmp_path_factory.mktemp("made") / "registry", root_keys=number)
        made[name].publish("m", b"one", metadata={})
    assert _run(Registry(made[name].repository), token, "root-1", softhsm.URI) == FINISHED
    assert (made[name].keys / "root-1.signer.json").exists()
    return made


# Forks of a process without threads: the HSM's library may crash in forks of one that has them.
_CLEAN = multiprocessing.get_context("forkserver")
_CLEAN.set_forkserver_preload([__name__])


def _run(
    registry: Registry, token: Mapping[str, str], role: str, uri: str | None = None, said: Path | None = None
) -> int | None:
    """Rotates in a process of its own, which may reach the HSM; returns how it ended, None for killed."""
    process = _CLEAN.Process(target=_act, args=(registry, dict(token), role, uri, said))
    process.start()
    process.join()
    if process.exitcode == -signal.SIGKILL:
        return None
    assert process.exitcode in (FINISHED, REFUSED, REFUSED_LATE)
    return process.exitcode


def _act(registry: Registry, token: dict[str, str], role: str, uri: str | None, said: Path | None) -> None:
    os.environ.update(token)
    try:
        registry.rotate_key(role, signer_uri=uri)
    except RegistryError as error:
        if said is not None:
            said.write_text(str(error))
            os._exit(REFUSED)
        is_named = re.search(r"No space left on device\. Free .*, then do it again\.$", str(error))
        is_late = isinstance(registry, Stopping) and registry.is_shown
        os._exit((REFUSED_LATE if is_late else REFUSED) if is_named else 1)


def _rotate(
    registry: Registry, role: str, token: Mapping[str, str], stops_at: int = 0, *, is_killed: bool = False
) -> int | None:
    stopping = Stopping(registry.repository)
    stopping.stops_at, stopping.is_killed = stops_at, is_killed
    return _run(stopping, token, role)


def _copy(registry: Registry, folder: Path) -> Registry:
    shutil.copytree(registry.keys, folder / "registry.keys")
    return Registry(Path(shutil.copytree(registry.repository, folder / "registry")))


def _keyids(registry: Registry, role: str) -> list[str]:
    """The keys that are trusted for the role; of all root keys for one of them."""
    if role == "model-m":
        return list(registry._load().targets.get_delegated_role(role).keyids)
    return list(registry.root().roles["root" if role.startswith("root") else role].keyids)


def _expected(role: str, old: list[str]) -> list[tuple[int, int]]:
    """How many keys are trusted, and how many of those that were: before, in between, at the end."""
    if role in ("targets", "snapshot", "timestamp"):
        return [(1, 1), (2, 1), (1, 0)]
    return [(len(old), len(old)), (len(old), len(old) - 1 if role == "root-2" else 0)]


def _state(registry: Registry, role: str, old: list[str]) -> tuple[int, int]:
    keyids = _keyids(registry, role)
    return len(keyids), len(set(keyids) & set(old))


def _assert_goes_on(registry: Registry, first_root: bytes, caches: list[Path], content: bytes) -> None:
    registry.verify()
    for cache in caches:
        phone = Client(str(registry.repository), root=first_root, cache=cache)
        assert phone.fetch("m").path.read_bytes() == content


def _assert_no_root_key_is_lost(registry: Registry) -> None:
    trusted = registry.root().roles[Root.type]
    names = key_files.root_key_names(len(trusted.keyids))
    assert len(key_files.trusted_signers(registry.keys, names, trusted)) == len(trusted.keyids)


def _assert_is_finished(registry: Registry, role: str, old: list[str]) -> None:
    assert _state(registry, role, old) == _expected(role, old)[-1]
    root = registry.root().roles[Root.type]
    assert root.threshold == len(root.keyids) // 2 + 1
    assert registry.root_path.read_bytes() == registry._load().root_json
    names = [path.name for path in (*registry.keys.iterdir(), *registry.repository.rglob("*"))]
    assert not [name for name in names if ".next." in name or (name[0] == "." and name != ".lock")]


@pytest.mark.parametrize("is_killed", [False, True], ids=["full disk", "killed"])
@pytest.mark.parametrize(("name", "role"), ROTATIONS)
def test_a_rotation_that_stops_anywhere_verifies_and_the_same_command_finishes_it(
    registries: dict[str, Registry],
    token: dict[str, str],
    tmp_path: Path,
    name: str,
    role: str,
    is_killed: bool,
    tree: Tree,
) -> None:
    made = registries[name]
    first_root, old = made.root_path.read_bytes(), _keyids(made, role)
    _assert_goes_on(made, first_root, [tmp_path / "seen"], b"one")
    states, stops_at, ended = [], 0, None
    while ended != FINISHED:
        stops_at += 1
        folder = tmp_path / str(stops_at)
        registry = _copy(made, folder)
        seen = Path(shutil.copytree(tmp_path / "seen", folder / "seen"))
        before = tree(registry.repository, registry.keys)
        ended = _rotate(registry, role, token, stops_at, is_killed=is_killed)
        assert ended != REFUSED or tree(registry.repository, registry.keys) == before
        _assert_goes_on(registry, first_root, [seen, folder / "between"], b"one")
        _assert_no_root_key_is_lost(registry)
        states.append(_state(registry, role, old))
        if ended != FINISHED:
            registry.publish("m", b"two", metadata={})
            assert _rotate(registry, role, token) == FINISHED
            _assert_goes_on(registry, first_root, [seen, folder / "between", folder / "new"], b"two")
        _assert_is_finished(registry, role, old)
        shutil.rmtree(folder)
    assert [
        state for state, last in zip(states, [None, *states], strict=False) if state != last
    ] == _expected(role, old)


@pytest.mark.parametrize(("name", "role"), ROTATIONS)
def test_a_rotation_that_stops_again_and_again_gets_to_its_end(
    registries: dict[str, Registry], token: dict[str, str], tmp_path: Path, name: str, role: str
) -> None:
    made = registries[name]
    first_root, old = made.root_path.read_bytes(), _keyids(made, role)
    registry, stops_at = _copy(made, tmp_path), 0
    while _rotate(registry, role, token, stops_at := stops_at + 1) != FINISHED:
        _assert_goes_on(registry, first_root, [tmp_path / "phone"], b"one")
    _assert_is_finished(registry, role, old)
    _assert_goes_on(registry, first_root, [tmp_path / "phone", tmp_path / "new"], b"one")
    registry.publish("m", b"two", metadata={})
    assert _rotate(registry, role, token) == FINISHED
    _assert_goes_on(registry, first_root, [tmp_path / "phone"], b"two")


def test_a_key_stays_when_it_is_not_known_whether_phones_see_it(
    registries: dict[str, Registry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that breaks after the request was sent: the root is there, and nobody says so."""
    registry = _copy(registries["one root key"], tmp_path)
    first_root, old = registry.root_path.read_bytes(), _keyids(registry, "root")
    real_write = Registry._write

    def write(self: Registry, one: Write) -> None:
        real_write(self, one)
        if one.path == "metadata/2.root.json":
            for name in ("read", "delete"):
                monkeypatch.setattr(self._storage, name, time_out)
            time_out(one.storage.place(one.path))

    def time_out(path: str) -> bytes:
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), path)

    monkeypatch.setattr(Registry, "_write", write)
    with pytest.raises(RegistryError, match=re.escape("2.root.json: Connection timed out. Free the space")):
        Registry(registry.repository).rotate_key("root")
    monkeypatch.setattr(Registry, "_write", real_write)
    _assert_goes_on(registry, first_root, [tmp_path / "phone"], b"one")
    registry.rotate_key("root")
    _assert_is_finished(registry, "root", old)
    _assert_goes_on(registry, first_root, [tmp_path / "phone", tmp_path / "new"], b"one")


def test_an_interrupted_rotation_goes_on_with_no_other_key_than_its_own(
    registries: dict[str, Registry], token: dict[str, str], tmp_path: Path, tree: Tree
) -> None:
    waiting, says = {}, {}
    for stops_at in (2, 3):  # before the key is trusted, and after
        registry = _copy(registries["one root key"], tmp_path / str(stops_at))
        assert _rotate(registry, "snapshot", token, stops_at, is_killed=True) is None
        waiting[stops_at] = registry.keys / "snapshot.next.pem"
        before = tree(registry.repository, registry.keys)
        says[stops_at] = _said(registry, token, tmp_path)
        assert tree(registry.repository, registry.keys) == before
    rule = "Interrupted rotation of 'snapshot' must go on with its own key, {}; got 'hsm:2?label=publisher'. "
    rule += "Run `tfx-mobile registry rotate` first"
    assert says == {
        2: f"{rule.format(waiting[2])}, or delete that file, which nobody trusts yet.",
        3: f"{rule.format(waiting[3])}.",
    }


def _said(registry: Registry, token: Mapping[str, str], folder: Path) -> str:
    """What is said when the role is to be moved to the HSM."""
    assert _run(registry, token, "snapshot", softhsm.URI, folder / "said") == REFUSED
    return (folder / "said").read_text()
