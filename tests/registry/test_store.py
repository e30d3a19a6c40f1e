"""The publisher's side: publishing, reading, renewing, and what is refused."""

import contextlib
import datetime
import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tfx_mobile.common import jsonable
from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry import records, repository, storage
from tfx_mobile.registry.client import Client
from tfx_mobile.registry.store import Registry

Tree = Callable[..., dict[str, bytes]]


def test_the_next_version_is_one_more_and_the_channel_follows(registry: Registry) -> None:
    published = registry.publish("taxi-fare", b"four", metadata={})
    assert (published.version, published.created, published.channel_version) == (4, True, 4)
    assert Path(published.uri).read_bytes() == b"four"
    assert [record.version for record in registry.versions("taxi-fare")] == [1, 2, 3, 4]
    assert registry.channels("taxi-fare") == {"stable": 4}


def test_what_was_said_about_a_version_is_what_is_read(registry: Registry) -> None:
    first = registry.versions("taxi-fare")[0]
    assert first.metadata == {"metrics": {"rmse_ppm": 99}}
    assert first.size_bytes == 150
    before = int(time.time())
    registry.publish("taxi-fare", b"four", metadata={})
    assert before <= registry.versions("taxi-fare")[-1].published_unix_s <= time.time()  # whole seconds


@pytest.mark.parametrize("version", [None, 3])
def test_publishing_the_same_bytes_again_changes_nothing(
    registry: Registry, contents: dict[int, bytes], version: int | None, tree: Tree
) -> None:
    before = tree(registry.repository, registry.keys)
    published = registry.publish("taxi-fare", contents[3], version=version, metadata={"new": 1})
    assert (published.version, published.created) == (3, False)
    assert tree(registry.repository, registry.keys) == before


def test_publishing_an_older_version_again_does_not_move_the_channel_back(
    registry: Registry, contents: dict[int, bytes], tree: Tree
) -> None:
    before = tree(registry.repository, registry.keys)
    published = registry.publish("taxi-fare", contents[2], version=2, metadata={})
    assert (published.version, published.created, published.channel_version) == (2, False, 3)
    assert tree(registry.repository, registry.keys) == before


def test_a_version_that_is_there_can_be_given_to_a_second_channel(
    registry: Registry, contents: dict[int, bytes]
) -> None:
    published = registry.publish("taxi-fare", contents[2], version=2, channel="beta", metadata={})
    assert (published.created, published.channel_version) == (False, 2)
    assert registry.channels("taxi-fare") == {"beta": 2, "stable": 3}


def test_versions_may_leave_gaps(registry: Registry) -> None:
    assert registry.publish("taxi-fare", b"ten", version=10, metadata={}).version == 10
    assert registry.publish("taxi-fare", b"eleven", metadata={}).version == 11


def test_models_may_be_called_like_the_roles_of_tuf(registry: Registry, phone: Client) -> None:
    for model in ("root", "timestamp", "snapshot", "targets"):
        registry.publish(model, model.encode(), metadata={})
        assert phone.fetch(model).path.read_bytes() == model.encode()
    assert registry.models() == ["root", "snapshot", "targets", "taxi-fare", "timestamp"]
    registry.verify()


def test_private_keys_are_their_owners_alone_and_outside_what_is_served(registry: Registry) -> None:
    found = sorted(registry.keys.glob("*.pem"))
    names = ["model-taxi-fare.pem", "root.pem", "snapshot.pem", "targets.pem", "timestamp.pem"]
    assert [path.name for path in found] == names
    assert {stat.S_IMODE(path.stat().st_mode) for path in found} == {0o600}
    assert stat.S_IMODE(registry.keys.stat().st_mode) == 0o700
    assert not list(registry.repository.rglob("*.pem"))
    assert not [path for path in registry.repository.rglob("*") if path.is_file() and _is_key(path)]


def test_publishing_needs_no_root_key(registry: Registry) -> None:
    (registry.keys / "root.pem").unlink()
    registry.publish("another", b"x", metadata={})
    registry.refresh()
    registry.verify()


def test_verify_lists_every_file_that_phones_can_reach(registry: Registry) -> None:
    found = {item.path for item in registry.verify()}
    names = {"1.root.json", "timestamp.json", "4.snapshot.json", "2.targets.json", "3.model-taxi-fare.json"}
    assert {f"metadata/{name}" for name in names} <= found
    assert len(found) == len(names) + 3 + 3 + 1  # three files, a record beside each, one channel
    assert all((registry.repository / path).is_file() for path in found)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"version": 3}, RegistryError, "Registry refused version 3 of 'taxi-fare': 3 already holds sha256:"),
        ({"version": 0}, ConfigError, "Version must be an integer of at least 1; got 0."),
        ({"model": "../x"}, ConfigError, "Model name must be 1 to 63 of a-z"),
        ({"channel": "a/b"}, ConfigError, "Channel name must be 1 to 63 of a-z"),
        ({"content": b""}, ConfigError, "must be bytes, at least one; got none."),
        ({"content": "text"}, ConfigError, "must be bytes, at least one; got str."),
        ({"metadata": {"rmse": 0.5}}, ConfigError, "metadata.rmse must not be a float"),
        ({"metadata": {"log": "x" * (1 << 20)}}, ConfigError, "metadata must have at most 1048576 bytes"),
        ({"version": 10**18}, ConfigError, "Version must have at most 18 digits; got 1000000000000000000."),
        ({"targeting": None}, ConfigError, "targeting must be a Targeting; got NoneType."),
        ({"targeting": {"min_ram_mib": 1}}, ConfigError, "targeting must be a Targeting; got dict."),
        (
            {"attachments": {f"{number}.txt": b"x" for number in range(40_000)}},
            RegistryError,
            "Metadata 'model-taxi-fare' must have at most 5000000 bytes, phones read no more; it would",
        ),
    ],
)
def test_a_publish_that_breaks_a_rule_changes_nothing(
    registry: Registry, arguments: dict[str, Any], error: type[Exception], message: str, tree: Tree
) -> None:
    before = tree(registry.repository, registry.keys)
    given = {"model": "taxi-fare", "content": b"other", "metadata": {}, **arguments}
    with pytest.raises(error, match=re.escape(message)):
        registry.publish(given.pop("model"), given.pop("content"), **given)
    assert tree(registry.repository, registry.keys) == before


def test_versions_only_grow(registry: Registry, tree: Tree) -> None:
    registry.publish("taxi-fare", b"ten", version=10, metadata={})
    before = tree(registry.repository, registry.keys)
    message = "version 5 of 'taxi-fare': the newest is 10, and versions only grow; push 11 or later."
    with pytest.raises(RegistryError, match=re.escape(message)):
        registry.publish("taxi-fare", b"five", version=5, metadata={})
    assert tree(registry.repository, registry.keys) == before


@pytest.mark.parametrize("name", ["", "..", "a/b", "A"])
def test_a_bad_name_is_refused_when_reading_too(registry: Registry, name: str) -> None:
    for read in (registry.versions, registry.channels):
        with pytest.raises(ConfigError, match=re.escape("Model name must be 1 to 63 of a-z")):
            read(name)


def test_an_unknown_model_is_named_with_those_there_are(registry: Registry) -> None:
    message = f"There must be a model 'other' in {registry.repository}; it has taxi-fare."
    with pytest.raises(RegistryError, match=re.escape(message)):
        registry.versions("other")


# Making and opening.


def test_a_second_registry_is_not_made_in_the_same_place(registry: Registry, tree: Tree) -> None:
    before = tree(registry.repository, registry.keys)
    message = f"There must be no registry at {registry.repository} yet; there is one."
    with pytest.raises(RegistryError, match=re.escape(message)):
        Registry.create(registry.repository)
    with pytest.raises(RegistryError, match=re.escape(message)):
        Registry.create(registry.repository, registry.keys.with_name("other"))
    assert tree(registry.repository, registry.keys) == before
    assert not registry.keys.with_name("other").exists()


def test_opening_what_is_there_keeps_it(registry: Registry) -> None:
    assert Registry.open_or_create(registry.repository).models() == ["taxi-fare"]


def test_a_registry_that_is_not_there_is_not_made_by_reading_or_publishing(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "none")
    message = f"There must be a registry at {tmp_path / 'none'}; there is none. Make one with"
    calls: list[Callable[[], object]] = [
        registry.models,
        registry.verify,
        registry.refresh,
        lambda: registry.publish("m", b"x", metadata={}),
    ]
    for call in calls:
        with pytest.raises(RegistryError, match=re.escape(message)):
            call()
    assert not list(tmp_path.iterdir())


def test_a_lost_repository_is_not_quietly_begun_anew(registry: Registry) -> None:
    shutil.rmtree(registry.repository)
    message = (
        f"Registry of the keys in {registry.keys} must be at {registry.repository}; its timestamp.json is"
    )
    for make in (Registry.create, Registry.open_or_create):
        with pytest.raises(RegistryError, match=re.escape(message)):
            make(registry.repository)
    assert not registry.repository.exists()


def test_a_repository_of_other_keys_is_not_taken_over(registry: Registry, tmp_path: Path) -> None:
    (registry.repository / "metadata" / "timestamp.json").unlink()
    message = f"must be empty or made with the keys in {tmp_path / 'mine'}; it holds other metadata."
    with pytest.raises(RegistryError, match=re.escape(message)):
        Registry.create(registry.repository, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_keys_inside_what_is_served_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape("Keys must be kept outside the repository")):
        Registry(tmp_path / "registry", tmp_path / "registry" / "keys")


@pytest.mark.parametrize("keys", ["gs://bucket/keys", "s3://ada:secret@bucket/keys", "file:///srv/keys"])
def test_a_uri_is_not_taken_for_a_folder_of_keys(tmp_path: Path, keys: str) -> None:
    message = "Keys must be kept in a local folder, which is named by its path; got a URI of '"
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        Registry(tmp_path / "registry", keys)
    assert "secret" not in str(caught.value)


def test_a_record_of_the_largest_size_is_read_by_clients(registry: Registry, phone: Client) -> None:
    around = len(jsonable.dumps({"metadata": {"log": ""}, "published_unix_s": 10**9}))
    said = {"log": "x" * (records.MAX_RECORD_BYTES - around)}
    registry.publish("taxi-fare", b"another", metadata=said)
    assert phone.releases("taxi-fare")[-1].metadata == said


def test_a_uri_is_not_taken_for_a_folder() -> None:
    message = "Registry must be a local folder, or in s3:// or gs://; got 'http://host/x'."
    with pytest.raises(ConfigError, match=re.escape(message)):
        Registry("http://host/x")


def test_a_uri_with_a_password_is_refused_and_not_repeated() -> None:
    message = "Registry must be named without user and password; got a URI of 's3' with them."
    with pytest.raises(ConfigError, match=re.escape(message)) as refused:
        Registry("s3://ada:secret@bucket/x", keys="keys")
    assert "secret" not in str(refused.value)


def test_a_file_system_without_locks_is_one_clear_error(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, tree: Tree
) -> None:
    def flock(handle: int, operation: int) -> None:  # as NFS does without its lock daemon
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    before = tree(registry.repository)
    with pytest.raises(RegistryError, match=re.escape("must be one that the file system can hold; No locks")):
        registry.publish("taxi-fare", b"four", metadata={})
    assert tree(registry.repository) == before


# Keys and folders that are not as they should be.


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "model-taxi-fare"])
def test_a_missing_key_is_named_and_nothing_is_changed(registry: Registry, role: str, tree: Tree) -> None:
    (registry.keys / f"{role}.pem").unlink()
    before = tree(registry.repository, registry.keys)
    model = "another" if role == "targets" else "taxi-fare"  # a new model is signed for by 'targets'
    message = f"Private key of role '{role}' must be at {registry.keys / role}.pem; it is missing."
    with pytest.raises(RegistryError, match=re.escape(message)):
        registry.publish(model, b"other", metadata={})
    assert tree(registry.repository, registry.keys) == before


def test_a_key_that_is_none_is_named_and_nothing_is_changed(registry: Registry, tree: Tree) -> None:
    (registry.keys / "snapshot.pem").write_text("nonsense")
    before = tree(registry.repository, registry.keys)
    with pytest.raises(RegistryError, match=re.escape("Private key of role 'snapshot' must be PEM")):
        registry.publish("taxi-fare", b"other", metadata={})
    assert tree(registry.repository, registry.keys) == before


def test_another_registrys_key_is_refused_before_it_signs(
    registry: Registry, tmp_path: Path, tree: Tree
) -> None:
    other = Registry.create(tmp_path / "other")
    shutil.copy(other.keys / "timestamp.pem", registry.keys / "timestamp.pem")
    before = tree(registry.repository, registry.keys)
    with pytest.raises(RegistryError, match=re.escape("'timestamp' must be the one the registry trusts")):
        registry.publish("taxi-fare", b"other", metadata={})
    assert tree(registry.repository, registry.keys) == before


def test_another_registrys_keys_folder_is_refused(registry: Registry, tmp_path: Path, tree: Tree) -> None:
    other = Registry.create(tmp_path / "other")
    before = tree(registry.repository, other.keys)
    mixed = Registry(registry.repository, other.keys)
    with pytest.raises(RegistryError, match=re.escape("must be signed by the key that the registry trusts")):
        mixed.publish("taxi-fare", b"other", metadata={})
    assert tree(registry.repository, other.keys) == before


def test_without_its_keys_folder_a_registry_is_not_believed(registry: Registry, tmp_path: Path) -> None:
    message = f"Trusted root of the registry must be at {tmp_path / 'none' / 'root.json'}; No such file"
    with pytest.raises(RegistryError, match=re.escape(message)):
        Registry(registry.repository, tmp_path / "none").models()


@pytest.mark.parametrize(
    ("place", "mode", "message"),
    [
        ("registry", 0o555, "Registry folder {place} must be writable; Permission denied."),
        ("registry/metadata", 0o555, "Folder {place} must be writable; it is not."),
        ("registry/targets", 0o555, "Folder {place} must be writable; it is not."),
        ("registry/targets/taxi-fare", 0o555, "Registry must be writable; {place}/4: Permission denied."),
        ("registry.keys", 0o555, "Folder {place} must be writable; it is not."),
        ("registry.keys/snapshot.pem", 0o000, "'snapshot' must be readable; {place}: Permission denied."),
        ("registry/metadata/2.targets.json", 0o000, "must be readable; {place}: Permission denied."),
    ],
)
def test_what_may_not_be_read_or_written_is_named_and_nothing_is_changed(
    place: str, mode: int, message: str, tree: Tree
) -> None:
    with _open_to_everybody() as folder:
        registry = Registry.create(folder / "registry")
        registry.publish("taxi-fare", b"one", version=3, metadata={})
        for path in [registry.repository, registry.keys, *folder.rglob("*")]:
            path.chmod(0o777 if path.is_dir() else 0o666)
        before = tree(registry.repository, registry.keys)
        denied = folder / place
        if place == "registry":
            (denied / ".lock").unlink()
        denied.chmod(mode)
        expected = re.escape(message.format(place=denied))
        with _without_privileges(), pytest.raises(RegistryError, match=expected):
            registry.publish("taxi-fare", b"two", metadata={})
        denied.chmod(0o777)
        assert tree(registry.repository, registry.keys) == before


def test_a_publisher_that_waits_too_long_for_another_says_so(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "LOCK_TIMEOUT_S", 0.05)
    message = f"Lock {registry.repository / '.lock'} must be free within 0 s; another publisher holds it."
    with registry._locked(), pytest.raises(RegistryError, match=re.escape(message)):
        Registry(registry.repository).publish("taxi-fare", b"x", metadata={})


# Renewing.


def test_refresh_signs_only_the_timestamp_while_the_rest_is_young(registry: Registry) -> None:
    assert registry.refresh() == ["timestamp"]
    registry.verify()


def test_refresh_signs_all_that_is_past_half_its_life(
    registry: Registry, phone: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    phone.fetch("taxi-fare")
    for name in ("ROOT_LIFETIME", "TARGETS_LIFETIME", "SNAPSHOT_LIFETIME"):
        monkeypatch.setattr(repository, name, getattr(repository, name) * 3)
    names = ["root", "model-taxi-fare", "targets", "snapshot", "timestamp"]
    assert registry.refresh() == names
    assert registry.refresh() == ["timestamp"]
    registry.verify()
    assert phone.fetch("taxi-fare").version == 3
    assert b'"version":2' in registry.root_path.read_bytes()


def test_a_phone_with_the_first_root_follows_to_the_newest(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = registry.root_path.read_bytes()
    for factor in (3, 9):
        monkeypatch.setattr(repository, "ROOT_LIFETIME", datetime.timedelta(days=730 * factor))
        assert "root" in registry.refresh()
    phone = Client(str(registry.repository), root=first, cache=tmp_path / "phone")
    assert phone.fetch("taxi-fare").version == 3


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "model-taxi-fare", "root"])
def test_refresh_brings_back_what_has_expired(
    registry: Registry, phone: Client, forger: Any, expire: Any, role: str
) -> None:
    if role == "root":
        _expire_root(registry, forger, expire)
    else:
        forger.edit(role, _then_next(expire))
    with pytest.raises(RegistryError, match=re.escape(f"Metadata '{role}' must not be expired; it ran out")):
        registry.verify()
    assert role in registry.refresh()
    registry.verify()
    assert phone.fetch("taxi-fare").version == 3


def test_publishing_renews_an_expired_timestamp(registry: Registry, forger: Any, expire: Any) -> None:
    forger.edit("timestamp", _then_next(expire))
    registry.publish("taxi-fare", b"four", metadata={})
    registry.verify()


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "model-taxi-fare"])
def test_bytes_that_are_there_are_not_called_pushed_when_phones_refuse_them(
    registry: Registry, contents: dict[int, bytes], forger: Any, expire: Any, tree: Tree, role: str
) -> None:
    assert not registry.publish("taxi-fare", contents[3], metadata={}).created
    forger.edit(role, expire)
    before = tree(registry.repository)
    with pytest.raises(RegistryError, match=re.escape(f"Metadata '{role}' must not be expired; it ran out")):
        registry.publish("taxi-fare", contents[3], metadata={})
    assert tree(registry.repository) == before


def test_an_expired_root_stops_a_publisher(registry: Registry, forger: Any, expire: Any, tree: Tree) -> None:
    _expire_root(registry, forger, expire)
    before = tree(registry.repository, registry.keys)
    with pytest.raises(RegistryError, match=re.escape("Metadata 'root' must not be expired")):
        registry.publish("taxi-fare", b"four", metadata={})
    assert tree(registry.repository, registry.keys) == before


def _then_next(expire: Callable[[Any], None]) -> Callable[[Any], None]:
    def change(signed: Any) -> None:
        expire(signed)
        signed.version += 1

    return change


def _expire_root(registry: Registry, forger: Any, expire: Any) -> None:
    forger.edit("root", expire)
    registry.root_path.write_bytes(forger.newest("root").read_bytes())


def _is_key(path: Path) -> bool:
    return b"PRIVATE" in path.read_bytes()


@contextlib.contextmanager
def _open_to_everybody() -> Iterator[Path]:
    """A folder that an unprivileged user can reach, which pytest's own is not when root runs it."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def _without_privileges() -> Iterator[None]:
    """Permissions mean nothing to root, so root becomes nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
