"""Publishers that are killed, and publishers that come all at once. The processes and signals are real."""

import dataclasses
import datetime
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tfx_mobile.common.errors import RegistryError
from tfx_mobile.registry import repository
from tfx_mobile.registry.client import Client
from tfx_mobile.registry.repository import Write
from tfx_mobile.registry.storage import FolderStorage
from tfx_mobile.registry.store import Registry


class DyingRegistry(Registry):
    """Kills its process at one write: before it, or when half of the temporary file is there."""

    dies_at = 0
    torn = False

    def _write(self, write: Write) -> None:
        self.dies_at -= 1
        if self.dies_at == 0:
            if self.torn and write.content is not None:
                path = Path(write.storage.place(write.path))
                path.parent.mkdir(parents=True, exist_ok=True)
                torn = write.content[: len(write.content) // 2]
                (path.parent / f".{path.name}.torn").write_bytes(torn)
            os.kill(os.getpid(), signal.SIGKILL)
        super()._write(write)


class FailingRegistry(Registry):
    """Has a disk that is full, or that keeps other bytes than it was given, at one write."""

    fails_at = 0
    lies = False
    is_shown = False

    def _write(self, write: Write) -> None:
        self.fails_at -= 1
        if self.fails_at == 0 and not self.lies:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), write.storage.place(write.path))
        if self.fails_at == 0:
            write = dataclasses.replace(write, content=b"x" + (write.content or b"")[1:])
        super()._write(write)
        self.is_shown |= write.shows


def _killed(act: Callable[[type[Registry]], object], dies_at: int, torn: bool) -> bool:
    """Runs `act` in a process of its own; returns whether it was killed on the way."""
    DyingRegistry.dies_at, DyingRegistry.torn = dies_at, torn
    child = os.fork()
    if child == 0:
        try:
            act(DyingRegistry)
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def _creating(folder: Path) -> Callable[[type[Registry]], object]:
    return lambda kind: kind.create(folder)


def _publishing(folder: Path, model: str, content: bytes) -> Callable[[type[Registry]], object]:
    return lambda kind: kind(folder).publish(model, content, metadata={})


def _leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.name != ".lock"]


@pytest.mark.parametrize("torn", [False, True], ids=["before", "torn"])
def test_a_registry_whose_making_is_killed_anywhere_can_be_made_again(tmp_path: Path, torn: bool) -> None:
    dies_at = 0
    while True:
        dies_at += 1
        folder = tmp_path / str(dies_at)
        was_killed = _killed(_creating(folder / "r"), dies_at, torn)
        registry = Registry.open_or_create(folder / "r")
        registry.publish("m", b"x", metadata={})
        registry.verify()
        phone = Client(str(registry.repository), root=registry.root_path, cache=folder / "phone")
        assert phone.fetch("m").version == 1
        assert not _leftovers(folder / "r") + _leftovers(registry.keys)
        if not was_killed:
            break
    assert dies_at == 10 + 1  # four keys, root twice, targets, snapshot, timestamp twice


@pytest.mark.parametrize("torn", [False, True], ids=["before", "torn"])
@pytest.mark.parametrize(("model", "num_writes"), [("taxi-fare", 7), ("another", 9)])
def test_a_publisher_killed_anywhere_leaves_all_or_nothing_and_the_next_goes_on(
    registry: Registry, phone: Client, tmp_path: Path, torn: bool, model: str, num_writes: int
) -> None:
    version, dies_at = (3 if model == "taxi-fare" else 0), 0
    phone.fetch("taxi-fare")
    while True:
        dies_at += 1
        # a model that is not there yet: a new one each time
        name = model if model == "taxi-fare" else f"{model}-{dies_at}"
        content = b"content %d" % dies_at
        was_killed = _killed(
            _publishing(registry.repository, name, content),
            dies_at,
            torn,
        )
        registry.verify()
        is_seen = name in registry.models() and len(registry.versions(name)) == version + 1
        assert is_seen == (dies_at >= num_writes)  # the last write is only the publisher's memory
        if version:
            assert phone.fetch(name).version == version + is_seen
        published = registry.publish(name, content, metadata={})
        assert (published.version, published.created) == (version + 1, not is_seen)
        registry.verify()
        assert phone.fetch(name).path.read_bytes() == content
        left = _leftovers(registry.repository)
        assert not left
        version = published.version if model == "taxi-fare" else 0
        if not was_killed:
            break
    assert dies_at == num_writes + 1


@pytest.mark.parametrize("torn", [False, True], ids=["before", "torn"])
def test_a_refresh_killed_anywhere_can_be_done_again(
    registry: Registry, phone: Client, torn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    phone.fetch("taxi-fare")
    dies_at = 0
    while True:
        dies_at += 1
        for name in ("ROOT_LIFETIME", "TARGETS_LIFETIME", "SNAPSHOT_LIFETIME"):
            monkeypatch.setattr(repository, name, getattr(repository, name) * 2.5)
        was_killed = _killed(lambda kind: kind(registry.repository).refresh(), dies_at, torn)
        registry.verify()
        assert phone.fetch("taxi-fare").version == 3
        registry.refresh()
        registry.verify()
        assert phone.fetch("taxi-fare").version == 3
        assert not _leftovers(registry.repository) + _leftovers(registry.keys)
        if not was_killed:
            break
    assert dies_at == 7 + 1  # root twice, model, targets, snapshot, timestamp twice


def _offers(registry: Registry) -> dict[str, int]:
    return registry.channels("taxi-fare")


def _grown(folder: Path) -> None:
    """Two files of the second channel, and files that nobody needs any more."""
    registry = Registry(folder)
    registry.publish("taxi-fare", b"four", channel="beta", metadata={})
    registry.publish("taxi-fare", b"five", channel="beta", metadata={})


_NO_AGE = datetime.timedelta(0)
OPERATIONS: dict[str, tuple[Callable[[Registry], object], Callable[[Registry], Any], int]] = {
    # what is done; what can be seen of it; how many writes it takes
    "promote": (lambda r: r.promote("taxi-fare"), _offers, 5),
    "share": (
        lambda r: r.set_rollout("taxi-fare", "beta", 10),
        lambda r: [one.rollout_permille for one in r.channel_records("taxi-fare")["beta"].rollouts],
        5,
    ),
    "withdraw": (lambda r: r.withdraw("taxi-fare", 3, reason="x"), _offers, 5),
    "rollback": (lambda r: r.rollback("taxi-fare", "beta", reason="x"), _offers, 5),
    "garbage": (
        lambda r: r.collect_garbage(keep_versions=1, min_age=_NO_AGE),
        lambda r: [record.version for record in r.versions("taxi-fare")],
        0,
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_killed_anywhere_leaves_what_verifies_and_can_be_done_again(
    registry: Registry, phone: Client, tmp_path: Path, name: str
) -> None:
    act, see, num_writes = OPERATIONS[name]
    phone.fetch("taxi-fare")
    _grown(registry.repository)
    old, dies_at = see(registry), 0
    seen: list[Any] = []
    while True:
        dies_at += 1
        folder = tmp_path / str(dies_at)
        shutil.copytree(registry.keys, folder / "r.keys")
        copy = Registry(Path(shutil.copytree(registry.repository, folder / "r")))
        was_killed = _killed(_acting(act, copy.repository), dies_at, torn=True)
        copy.verify()
        seen.append(see(copy))
        copy.publish("taxi-fare", b"six", channel="other", metadata={})
        _catch_refusal(act, copy)
        copy.verify()
        if _leftovers(copy.repository):  # of a record that has another name now, as it has another time
            copy.collect_garbage(keep_versions=9, min_age=_NO_AGE)
        assert not _leftovers(copy.repository) + _leftovers(copy.keys)
        shutil.copytree(tmp_path / "phone", folder / "phone")
        again = Client(str(copy.repository), root=registry.root_path.read_bytes(), cache=folder / "phone")
        assert again.fetch("taxi-fare", "other").path.read_bytes() == b"six"
        if not was_killed:
            break
    assert seen[0] == old
    assert len([1 for state, before in zip(seen[1:], seen, strict=False) if state != before]) <= 2
    assert seen == sorted(seen, key=seen.index)
    if num_writes:
        assert dies_at == num_writes + 1


def _acting(act: Callable[[Registry], object], folder: Path) -> Callable[[type[Registry]], object]:
    return lambda kind: act(kind(folder))


def _catch_refusal(act: Callable[[Registry], object], registry: Registry) -> None:
    """What was done already may be refused, which says so."""
    said = ""
    try:
        act(registry)
    except RegistryError as error:
        said = str(error)
    assert not said or re.search("withdrawn already|yet; it has|go back to", said)


@pytest.mark.parametrize("name", [*OPERATIONS, "publish", "refresh"])
def test_an_operation_whose_disk_is_full_at_any_write_changes_nothing_and_can_be_done_again(
    registry: Registry,
    phone: Client,
    tmp_path: Path,
    name: str,
    tree: Callable[..., dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    acts: dict[str, Callable[[Registry], object]] = {
        "publish": lambda r: r.publish("taxi-fare", b"six", metadata={}),
        "refresh": lambda r: r.refresh(),
        **{each: act for each, (act, _, _) in OPERATIONS.items()},
    }
    phone.fetch("taxi-fare")
    _grown(registry.repository)
    if name == "refresh":  # of everything
        for lifetime in ("ROOT_LIFETIME", "TARGETS_LIFETIME", "SNAPSHOT_LIFETIME"):
            monkeypatch.setattr(repository, lifetime, getattr(repository, lifetime) * 2.5)
    fails_at, is_done = 0, False
    while not is_done:
        fails_at += 1
        folder = tmp_path / str(fails_at)
        shutil.copytree(registry.keys, folder / "r.keys")
        copy = FailingRegistry(Path(shutil.copytree(registry.repository, folder / "r")))
        copy.fails_at = fails_at
        before = tree(copy.repository, copy.keys)
        said = ""
        try:
            acts[name](copy)
        except RegistryError as error:
            said = str(error)
        is_done = not said
        assert is_done or re.search(r"No space left on device\. Free .*, then do it again\.$", said)
        assert copy.is_shown or tree(copy.repository, copy.keys) == before
        copy.fails_at = 0
        copy.verify()
        phone_there = Client(str(copy.repository), root=registry.root_path.read_bytes(), cache=phone.cache)
        phone_there.check("taxi-fare")
        if not copy.is_shown:
            acts[name](copy)
        else:
            _catch_refusal(acts[name], copy)
        copy.verify()
        assert not _leftovers(copy.repository) + _leftovers(copy.keys)
    assert fails_at > 4


@pytest.mark.parametrize("fails_at", range(1, 8))
def test_a_disk_that_is_full_at_any_write_is_named_and_nothing_is_changed(
    registry: Registry, tree: Callable[..., dict[str, bytes]], fails_at: int
) -> None:
    before = tree(registry.repository, registry.keys)
    failing = FailingRegistry(registry.repository)
    failing.fails_at = fails_at
    with pytest.raises(RegistryError, match=re.escape("No space left on device. Free the space")):
        failing.publish("another", b"x", metadata={})
    assert tree(registry.repository, registry.keys) == before
    registry.verify()


def test_a_publisher_that_cannot_remember_what_it_published_has_published_it(registry: Registry) -> None:
    failing = FailingRegistry(registry.repository)
    failing.fails_at = 7  # after the timestamp
    with pytest.raises(RegistryError, match=re.escape("No space left on device. Free the space")):
        failing.publish("taxi-fare", b"four", metadata={})
    registry.verify()
    published = registry.publish("taxi-fare", b"four", metadata={})
    assert (published.version, published.created) == (4, False)


@pytest.mark.parametrize("fails_at", range(1, 7))
def test_a_disk_that_keeps_other_bytes_is_found_before_phones_see_them(
    registry: Registry, phone: Client, tree: Callable[..., dict[str, bytes]], fails_at: int
) -> None:
    before = tree(registry.repository, registry.keys)
    failing = FailingRegistry(registry.repository)
    failing.fails_at, failing.lies = fails_at, True
    with pytest.raises(
        RegistryError, match=re.escape("must hold what was written; it holds something else.")
    ):
        failing.publish("another", b"content", metadata={})
    assert tree(registry.repository, registry.keys) == before
    assert phone.fetch("taxi-fare").version == 3


PUBLISHER = """
import pathlib, sys
from tfx_mobile.registry.store import Registry

folder, who = pathlib.Path(sys.argv[1]), sys.argv[2]
for number in range(2):
    content = f"{who} {number}".encode()
    Registry.open_or_create(folder).publish(f"model-{number % 2}", content, metadata={"who": who})
"""


def test_twenty_publishers_at_once_lose_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "registry"
    publishers = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, str(folder), str(who)], stderr=subprocess.PIPE, text=True
        )
        for who in range(20)
    ]
    ends = [(publisher.communicate()[1], publisher.returncode) for publisher in publishers]
    assert ends == [("", 0)] * 20
    registry = Registry(folder)
    registry.verify()
    phone = Client(str(folder), root=registry.root_path, cache=tmp_path / "phone")
    for number in range(2):
        model = f"model-{number}"
        assert [record.version for record in registry.versions(model)] == list(range(1, 21))
        found = {phone.fetch(model, version=version).path.read_bytes() for version in range(1, 21)}
        assert found == {f"{who} {number}".encode() for who in range(20)}
        assert registry.channels(model) == {"stable": 20}


def test_a_registry_that_another_makes_meanwhile_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one comes before any of the looks that are taken without the lock."""
    real = {name: getattr(FolderStorage, name) for name in ("exists", "ages_s")}
    looks: list[str] = []

    def looking(name: str, folder: Path, comes_at: int) -> Callable[[FolderStorage, str], Any]:
        def look(self: FolderStorage, path: str) -> Any:
            looks.append(path)
            if len(looks) == comes_at:
                Registry.create(folder)
            return real[name](self, path)

        return look

    for comes_at, before in enumerate(("metadata/timestamp.json", "timestamp.json", "metadata"), start=1):
        folder = tmp_path / before.replace("/", " ")
        for name in real:
            monkeypatch.setattr(FolderStorage, name, looking(name, folder, comes_at))
        looks.clear()
        Registry.open_or_create(folder).verify()
        assert looks[comes_at - 1] == before


def test_a_file_that_is_moved_while_files_are_listed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, is_file = FolderStorage(tmp_path), Path.is_file
    for name in ("one", "two"):
        place.write(f"metadata/{name}", b"x")

    def moved_then(self: Path) -> bool:
        found = is_file(self)
        (tmp_path / "metadata" / "one").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Path, "is_file", moved_then)
    assert list(place.ages_s("metadata")) == ["metadata/two"]


def test_a_file_that_may_not_grow_is_named_and_nothing_is_changed(
    registry: Registry, tree: Callable[..., dict[str, bytes]]
) -> None:
    """A real limit of the kernel's, as of a full disk or a quota."""
    before = tree(registry.repository, registry.keys)
    script = (
        "import pathlib, resource, signal, sys\n"
        "from tfx_mobile.registry.store import Registry\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "Registry(pathlib.Path(sys.argv[1])).publish('taxi-fare', b'x' * 50_000, metadata={})\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(registry.repository)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("tfx_mobile.common.errors.RegistryError: Registry must be writable; ")
    assert "File too large. Free the space" in last
    assert tree(registry.repository, registry.keys) == before
