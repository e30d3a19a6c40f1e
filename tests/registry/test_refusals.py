"""Each operation of the publisher when a key, a folder, the disk or the time is not as it should be.

One table of operations, one of troubles. An operation runs in a process of its own, which may be nobody, may
have a limit on its files, and may reach an HSM.
"""

import errno
import importlib
import multiprocessing
import os
import re
import resource
import shutil
import signal
import stat
import tempfile
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.registry import softhsm

from tfx_mobile import cli
from tfx_mobile.common.errors import RegistryError
from tfx_mobile.registry.client import Client
from tfx_mobile.registry.repository import Write
from tfx_mobile.registry.store import Registry

NOBODY = 65534

_LOWER = ("timestamp", "snapshot", "model-taxi-fare")
# What is done, and the keys that it needs.
OPERATIONS: dict[str, tuple[Callable[[Registry], object], tuple[str, ...]]] = {
    "publish": (lambda r: r.publish("taxi-fare", b"six", metadata={}), _LOWER),
    "publish a new model": (
        lambda r: r.publish("another", b"one", metadata={}),
        ("timestamp", "snapshot", "targets"),
    ),
    "promote": (lambda r: r.promote("taxi-fare"), _LOWER),
    "rollout": (lambda r: r.set_rollout("taxi-fare", "beta", 10), _LOWER),
    "rollback": (lambda r: r.rollback("taxi-fare", "beta", reason="x"), _LOWER),
    "withdraw": (lambda r: r.withdraw("taxi-fare", 3, reason="x"), _LOWER),
    "gc": (lambda r: r.collect_garbage(keep_versions=1, min_age=timedelta(0)), _LOWER),
    "refresh": (lambda r: r.refresh(), ("timestamp",)),
    "rotate root": (lambda r: r.rotate_key("root"), ("root",)),
    "rotate targets": (lambda r: r.rotate_key("targets"), ("root", "snapshot", "timestamp")),
    "rotate snapshot": (lambda r: r.rotate_key("snapshot"), ("root", "timestamp")),
    "rotate timestamp": (lambda r: r.rotate_key("timestamp"), ("root",)),
    "rotate model": (lambda r: r.rotate_key("model-taxi-fare"), ("targets", "snapshot", "timestamp")),
    "use-signer": (lambda r: r.rotate_key("snapshot", signer_uri=softhsm.URI), ("root", "timestamp")),
}
SIGNING_A_MODEL = ("publish", "promote", "rollout", "rollback", "withdraw", "gc")
NEEDED = [(name, key) for name, (_, keys) in OPERATIONS.items() for key in keys]


@pytest.fixture(scope="module")
def grown(published: Registry, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Five versions, two of them in a second channel, and metadata that nobody needs any more."""
    folder = tmp_path_factory.mktemp("grown")
    shutil.copytree(published.keys, folder / "registry.keys")
    registry = Registry(Path(shutil.copytree(published.repository, folder / "registry")))
    for content in (b"four", b"five"):
        registry.publish("taxi-fare", content, channel="beta", metadata={})
    return registry


@pytest.fixture
def registry(grown: Registry) -> Iterator[Registry]:
    """A copy where nobody may do everything, which pytest's own folder does not let."""
    folder = Path(tempfile.mkdtemp())
    shutil.copytree(grown.keys, folder / "registry.keys")
    shutil.copytree(grown.repository, folder / "registry")
    _open(folder)
    yield Registry(folder / "registry")
    shutil.rmtree(folder)


# Forks of a process without threads: the HSM's library may crash in forks of one that has them.
_CLEAN = multiprocessing.get_context("forkserver")
_CLEAN.set_forkserver_preload([__name__])


@pytest.fixture
def run(registry: Registry) -> Callable[..., None]:
    """Runs an operation in a process of its own and raises here what was raised there."""

    def run(name: str, *, user: int = 0, max_file_bytes: int | None = None) -> None:
        hsm = registry.repository.parent / "hsm"
        variables = {}
        if name == "use-signer":
            hsm.mkdir()
            variables = softhsm.make_token(hsm)
            _open(hsm)
        reading, writing = _CLEAN.Pipe(duplex=False)
        limits = (user, max_file_bytes)
        process = _CLEAN.Process(target=_act, args=(registry.repository, name, variables, *limits, writing))
        process.start()
        writing.close()
        with reading:
            kind, said = reading.recv()
        process.join()
        assert process.exitcode == 0
        if kind == "refused":
            raise RegistryError(said)
        assert kind == "", said

    return run


def _act(
    folder: Path, name: str, variables: dict[str, str], user: int, max_file_bytes: int | None, writing: Any
) -> None:
    kind, said = "", ""
    try:
        os.environ.update(variables)
        for module in ("_strptime", "tuf.api.serialization.json"):  # on first use, when nobody may read them
            importlib.import_module(module)
        if max_file_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
        os.umask(0)  # what nobody makes root may change, and the other way round
        if user and os.geteuid() == 0:  # permissions mean nothing to root
            os.seteuid(user)
        OPERATIONS[name][0](Registry(folder))
    except RegistryError as error:
        kind, said = "refused", str(error)
    except BaseException:
        kind, said = "failed", traceback.format_exc()
    writing.send((kind, said))
    os._exit(0)


def _open(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)


def _everything(registry: Registry) -> dict[str, tuple[int, bytes | None]]:
    """Every file with its bytes, every folder, and their permissions."""
    return {
        str(path): (stat.S_IMODE(path.stat().st_mode), path.read_bytes() if path.is_file() else None)
        for folder in (registry.repository, registry.keys)
        for path in (folder, *folder.rglob("*"))
        if path.name != ".lock"
    }


def _refused_without_a_change(
    registry: Registry, run: Callable[..., None], name: str, message: str, **limits: int
) -> None:
    before = _everything(registry)
    with pytest.raises(RegistryError, match=re.escape(message)) as refused:
        run(name, **limits)
    said = str(refused.value)
    assert re.fullmatch(r"[^\n]+[.`] [A-Z][^\n]+\.", said)  # one line: the rule and what was got; what to do
    assert _everything(registry) == before


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_needs_no_other_key_than_those_in_the_table(
    registry: Registry, phone: Client, run: Callable[..., None], name: str
) -> None:
    phone.fetch("taxi-fare", "beta")
    for path in registry.keys.glob("*.pem"):
        if path.stem not in OPERATIONS[name][1]:
            path.unlink()
    run(name)
    phone.check("taxi-fare")


@pytest.mark.parametrize(("name", "key"), NEEDED)
def test_a_key_that_is_missing_stops_each_operation_that_needs_it_before_it_changes_anything(
    registry: Registry, run: Callable[..., None], name: str, key: str
) -> None:
    path = registry.keys / f"{key}.pem"
    path.unlink()
    lacks = (
        "1 of 1 must sign, and 0 can. Bring" if key == "root" else "it is missing. Restore the keys folder"
    )
    joint = ":" if key == "root" else ";"
    message = f"Private key of role '{key}' must be at {path}{joint} {lacks}"
    _refused_without_a_change(registry, run, name, message)


@pytest.mark.parametrize(("name", "key"), NEEDED)
def test_a_key_of_another_registry_stops_each_operation_before_it_changes_anything(
    registry: Registry, run: Callable[..., None], name: str, key: str
) -> None:
    path = registry.keys / f"{key}.pem"
    other = next(each for each in ("timestamp", "snapshot") if each != key)
    shutil.copy(registry.keys / f"{other}.pem", path)
    message = (
        f"1 of 1 must sign, and 0 can; the registry does not trust {path}. Bring the root key back"
        if key == "root"
        else f"Private key of role '{key}' must be the one the registry trusts (key id "
    )
    _refused_without_a_change(registry, run, name, message)


@pytest.mark.parametrize(("name", "key"), NEEDED)
def test_a_file_that_is_no_key_stops_each_operation_before_it_changes_anything(
    registry: Registry, run: Callable[..., None], name: str, key: str
) -> None:
    (registry.keys / f"{key}.pem").write_bytes(b"nonsense")
    message = (
        f"Private key of role '{key}' must be PEM without a passphrase; {registry.keys / key}.pem is not."
    )
    _refused_without_a_change(registry, run, name, message)


@pytest.mark.parametrize(("name", "key"), NEEDED)
def test_a_key_that_may_not_be_read_stops_each_operation_before_it_changes_anything(
    registry: Registry, run: Callable[..., None], name: str, key: str
) -> None:
    path = registry.keys / f"{key}.pem"
    path.chmod(0)
    message = f"Private key of role '{key}' must be readable; {path}: Permission denied. Run as the user"
    _refused_without_a_change(registry, run, name, message, user=NOBODY)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(
    ("place", "mode", "message"),
    [
        ("registry", 0o555, "Registry folder {} must be writable; Permission denied. Run as the user"),
        ("registry/metadata", 0o555, "Folder {} must be writable; it is not. Run as the user who owns it."),
        ("registry/targets", 0o555, "Folder {} must be writable; it is not. Run as the user who owns it."),
        ("registry.keys", 0o555, "Folder {} must be writable; it is not. Run as the user who owns it."),
        ("registry.keys", 0, "Keys folder must be readable; {}/timestamp.json: Permission denied. Run as"),
        (
            "registry/metadata",
            0,
            "must be reachable; Permission denied. Check where it is, the network, and who",
        ),
    ],
)
def test_a_folder_that_may_not_be_used_stops_each_operation_before_it_changes_anything(
    registry: Registry, run: Callable[..., None], name: str, place: str, mode: int, message: str
) -> None:
    denied = registry.repository.parent / place
    if place == "registry":
        (denied / ".lock").unlink()
    denied.chmod(mode)
    _refused_without_a_change(registry, run, name, message.format(denied), user=NOBODY)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_file_that_may_not_grow_stops_each_operation_and_nothing_is_changed(
    registry: Registry, run: Callable[..., None], name: str
) -> None:
    """A real limit of the kernel's, as of a full disk or a quota: a key fits, metadata do not."""
    message = "File too large. Free the space or run as the user who owns it, then do it again."
    _refused_without_a_change(registry, run, name, message, max_file_bytes=200)


@pytest.mark.parametrize("name", [*SIGNING_A_MODEL, "publish a new model", "rotate model"])
def test_a_root_that_ran_out_stops_what_it_would_not_renew(
    registry: Registry, run: Callable[..., None], forger: Any, expire: Any, name: str
) -> None:
    _expire_root(registry, forger, expire)
    message = "Metadata 'root' must not be expired; it ran out on 2020-01-01 00:00 UTC. Run `tfx-mobile"
    _refused_without_a_change(registry, run, name, message)


@pytest.mark.parametrize(
    "name", ["refresh", "rotate root", "rotate targets", "rotate timestamp", "use-signer"]
)
def test_a_root_that_ran_out_is_renewed_by_what_signs_it(
    registry: Registry,
    run: Callable[..., None],
    forger: Any,
    expire: Any,
    name: str,
) -> None:
    _expire_root(registry, forger, expire)
    run(name)
    registry.verify()


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "model-taxi-fare"])
@pytest.mark.parametrize("name", [*SIGNING_A_MODEL, "refresh"])
def test_what_ran_out_is_renewed_by_an_operation_that_phones_are_to_see(
    registry: Registry,
    phone: Client,
    run: Callable[..., None],
    forger: Any,
    expire: Any,
    name: str,
    role: str,
) -> None:
    phone.fetch("taxi-fare", "beta")

    def ran_out(signed: Any) -> None:
        expire(signed)
        signed.version += 1

    forger.edit(role, ran_out)
    with pytest.raises(RegistryError, match=re.escape(f"Metadata '{role}' must not be expired; it ran out")):
        registry.verify()
    run(name)
    registry.verify()
    phone.check("taxi-fare")


def test_a_root_that_is_due_waits_for_the_rest_of_a_refresh(
    registry: Registry, run: Callable[..., None], forger: Any, expire: Any
) -> None:
    _expire_root(registry, forger, expire)
    (registry.keys / "timestamp.pem").rename(registry.keys.with_name("drawer"))
    _refused_without_a_change(registry, run, "refresh", "Private key of role 'timestamp' must be at")
    registry.keys.with_name("drawer").rename(registry.keys / "timestamp.pem")
    run("refresh")
    registry.verify()


def test_garbage_that_may_not_be_deleted_is_named_and_goes_the_next_time(
    registry: Registry, run: Callable[..., None]
) -> None:
    held = registry.repository / "targets" / "taxi-fare" / "2"
    held.chmod(0o555)
    with pytest.raises(RegistryError, match=re.escape(f"Registry must be writable; {held}/")) as refused:
        run("gc", user=NOBODY)
    assert "Permission denied. Free the space or run as the user who owns it" in str(refused.value)
    registry.verify()
    held.chmod(0o777)
    run("gc", user=NOBODY)
    assert not held.exists()
    registry.verify()


@pytest.mark.parametrize("days", ["nan", "inf", "1e12"])
def test_an_age_that_is_no_number_of_days_is_refused(
    registry: Registry, days: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _everything(registry)
    assert cli.main(["registry", "gc", str(registry.repository), "--min-age-days", days]) == 2
    assert f"--min-age-days must be a number of days; got {float(days)}. Write" in capsys.readouterr().err
    assert _everything(registry) == before


def test_a_root_that_is_renewed_is_written_last_and_never_taken_back(
    registry: Registry, forger: Any, expire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _expire_root(registry, forger, expire)
    written: list[str] = []
    real = Registry._write

    def write(self: Registry, one: Write) -> None:
        written.append(one.path)
        if one.storage is registry._key_storage and one.path == "root.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), one.storage.place(one.path))
        real(self, one)

    monkeypatch.setattr(Registry, "_write", write)
    with pytest.raises(RegistryError, match=re.escape("root.json: No space left on device. Free the space")):
        registry.refresh()
    assert written == ["metadata/timestamp.json", "timestamp.json", "metadata/2.root.json", "root.json"]
    registry.verify()
    monkeypatch.setattr(Registry, "_write", real)
    assert registry.refresh() == ["timestamp"]
    assert registry.root_path.read_bytes() == (registry.repository / "metadata/2.root.json").read_bytes()


def _expire_root(registry: Registry, forger: Any, expire: Any) -> None:
    forger.edit("root", expire)
    registry.root_path.write_bytes(forger.newest("root").read_bytes())
