"""Keys that are rotated, several root keys, root keys that are elsewhere, and keys in an HSM."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.registry import softhsm
from tuf.api.metadata import Metadata, Root  # type: ignore[attr-defined]

from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry import keys as key_files
from tfx_mobile.registry import repository
from tfx_mobile.registry.chain import TIMESTAMP_PATH
from tfx_mobile.registry.client import Client
from tfx_mobile.registry.storage import FolderStorage
from tfx_mobile.registry.store import Registry

Tree = Callable[..., dict[str, bytes]]


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp", "model-taxi-fare"])
@pytest.mark.parametrize("meanwhile", [TIMESTAMP_PATH, "metadata/1.root.json"])
def test_who_verifies_while_a_key_is_rotated_finds_nothing_wrong(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, role: str, meanwhile: str
) -> None:
    read, rotated = FolderStorage.read, []

    def after_others(self: FolderStorage, path: str) -> bytes:
        if path == meanwhile and not rotated:
            rotated.append(role)
            registry.rotate_key(role)
        return read(self, path)

    monkeypatch.setattr(FolderStorage, "read", after_others)
    registry.verify()
    assert rotated == [role]


def test_a_root_that_is_lost_between_the_first_and_the_newest_is_found(registry: Registry) -> None:
    registry.rotate_key("timestamp")  # three roots: with the old key, with both, with the new one
    (registry.repository / "metadata" / "2.root.json").unlink()
    message = "1.root.json must lead to the root that is trusted"
    with pytest.raises(RegistryError, match=re.escape(message)):
        registry.verify()


def _phone(registry: Registry, cache: Path, root: bytes | None = None) -> Client:
    return Client(str(registry.repository), root=root or registry.root_path.read_bytes(), cache=cache)


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp", "model-taxi-fare"])
def test_a_rotated_key_is_useless_and_phones_notice_nothing(
    registry: Registry, forger: Any, phone: Client, tmp_path: Path, role: str
) -> None:
    phone.fetch("taxi-fare")
    first_root = registry.root_path.read_bytes()
    old_keys = Path(shutil.copytree(registry.keys, tmp_path / "stolen"))
    keyid = registry.rotate_key(role)
    assert key_files.load_signer(registry.keys, role).public_key.keyid == keyid
    assert key_files.load_signer(old_keys, role).public_key.keyid != keyid
    registry.publish("taxi-fare", b"four", metadata={})
    assert phone.fetch("taxi-fare").version == 4
    assert _phone(registry, tmp_path / "new", first_root).fetch("taxi-fare").version == 4
    registry.verify()

    def newer(signed: Any) -> None:
        signed.version += 1

    new_keys = Path(shutil.copytree(registry.keys, tmp_path / "new keys"))
    shutil.copy(old_keys / f"{role}.pem", registry.keys / f"{role}.pem")
    with pytest.raises(RegistryError, match=re.escape(f"Private key of role '{role}' must be")):
        _sign_with(registry, role)
    forger.edit(role, newer)
    thieves = Registry(registry.repository, new_keys)
    with pytest.raises(
        RegistryError, match=re.escape("must be signed by the key that the registry trusts for")
    ):
        thieves.verify()
    with pytest.raises(RegistryError, match=re.escape(f"{role} was signed by 0/1 keys")):
        _phone(registry, tmp_path / "another", first_root).fetch("taxi-fare")


def _sign_with(registry: Registry, role: str) -> None:
    if role == "root":
        registry.rotate_key("root")
    else:  # a new model is signed for by 'targets'
        registry.publish("another" if role == "targets" else "taxi-fare", b"five", metadata={})


def test_several_root_keys_sign_together_and_one_may_be_lost(tmp_path: Path) -> None:
    registry = Registry.create(tmp_path / "r", root_keys=3)
    role = registry.root().roles[Root.type]
    assert (len(role.keyids), role.threshold) == (3, 2)
    assert sorted(path.name for path in registry.keys.glob("root-*")) == [
        "root-1.pem",
        "root-2.pem",
        "root-3.pem",
    ]
    registry.publish("m", b"x", metadata={})
    phone = _phone(registry, tmp_path / "phone")
    phone.fetch("m")
    (registry.keys / "root-2.pem").unlink()
    registry.rotate_key("timestamp")
    registry.rotate_key("root")
    role = registry.root().roles[Root.type]
    assert (len(role.keyids), role.threshold) == (3, 2)
    before = registry.root().roles[Root.type].keyids
    registry.rotate_key("root-2")
    assert len(set(before) & set(registry.root().roles[Root.type].keyids)) == 2
    registry.verify()
    assert phone.fetch("m").version == 1
    for name in ("root-1", "root-2"):
        (registry.keys / f"{name}.pem").unlink()
    message = (
        f"Private key of role 'root' must be at {registry.keys / 'root-1.pem'} and "
        f"{registry.keys / 'root-2.pem'}: 2 of 3 must sign, and 1 can."
    )
    with pytest.raises(RegistryError, match=re.escape(message)):
        registry.rotate_key("snapshot")
    registry.publish("m", b"y", metadata={})


@pytest.mark.parametrize(("number", "threshold"), [(0, None), (10, None), (True, None), (2, 0), (2, 3)])
def test_numbers_of_root_keys_out_of_range_are_refused(tmp_path: Path, number: Any, threshold: Any) -> None:
    with pytest.raises(ConfigError, match=re.escape("oot")):
        Registry.create(tmp_path / "r", root_keys=number, root_threshold=threshold)
    assert not list(tmp_path.iterdir())


def test_a_root_key_that_is_elsewhere_is_missed_only_where_it_must_sign(
    registry: Registry, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    (registry.keys / "root.pem").rename(registry.keys.with_name("drawer"))
    registry.publish("taxi-fare", b"four", channel="beta", metadata={})
    registry.promote("taxi-fare")
    registry.rollback("taxi-fare", reason="x")
    registry.withdraw("taxi-fare", 4, reason="x")
    registry.collect_garbage(keep_versions=1)
    registry.rotate_key("model-taxi-fare")
    monkeypatch.setattr(repository, "ROOT_LIFETIME", repository.ROOT_LIFETIME * 3)  # due, not expired
    assert registry.refresh() == ["timestamp"]
    before = tree(registry.repository, registry.keys)
    for role in ("root", "targets", "snapshot", "timestamp"):
        with pytest.raises(RegistryError, match=re.escape("Bring the root key back from where it is kept")):
            registry.rotate_key(role)
    assert tree(registry.repository, registry.keys) == before
    registry.keys.with_name("drawer").rename(registry.keys / "root.pem")
    assert registry.refresh() == ["root", "timestamp"]
    registry.verify()


def test_a_root_key_that_is_damaged_is_done_without_where_the_others_are_enough(
    tmp_path: Path, tree: Tree, caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry.create(tmp_path / "r", root_keys=3)
    registry.publish("m", b"x", metadata={})
    damaged = registry.keys / "root-2.pem"
    damaged.write_bytes(b"no key")
    registry.rotate_key("timestamp")
    registry.verify()
    assert len(Metadata.from_bytes(registry.root_path.read_bytes()).signatures) == 2
    said = f"Private key of role 'root-2' must be PEM without a passphrase; {damaged} is not. Restore it "
    assert f"There are root keys enough, but one is of no use: {said}" in caplog.text
    (registry.keys / "root-1.pem").unlink()
    before = tree(registry.repository, registry.keys)
    message = f"must be at {registry.keys / 'root-1.pem'} and {damaged}: 2 of 3 must sign, and 1 can; {said}"
    with pytest.raises(RegistryError, match=re.escape(message)):
        registry.rotate_key("timestamp")
    assert tree(registry.repository, registry.keys) == before


# pkcs11 loads its library once a process and never lets go of it, so a process of its own has it.
WITH_HSM = """
import sys
from pathlib import Path
from tfx_mobile.registry.client import Client
from tfx_mobile.registry.store import Registry

folder, role, uri = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
registry = Registry(folder)
phone = Client(str(folder), root=registry.root_path.read_bytes(), cache=folder.with_name("phone"))
registry.rotate_key(role, signer_uri=uri)
registry.publish("taxi-fare", b"signed in the HSM", metadata={})
registry.verify()
assert phone.fetch("taxi-fare").path.read_bytes() == b"signed in the HSM"
"""


@pytest.fixture(scope="session")
def hsm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment that reaches a SoftHSM token with a P-256 key."""
    return {**os.environ, **softhsm.make_token(tmp_path_factory.mktemp("hsm"))}


def _run(hsm: dict[str, str], registry: Registry, role: str, uri: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITH_HSM, str(registry.repository), role, uri]
    return subprocess.run(command, env=hsm, text=True, capture_output=True, check=False)


@pytest.mark.parametrize("role", ["timestamp", "root"])
def test_a_key_in_an_hsm_signs_what_phones_believe(
    registry: Registry, hsm: dict[str, str], role: str
) -> None:
    ended = _run(hsm, registry, role, softhsm.URI)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert not (registry.keys / f"{role}.pem").exists()
    assert b"PRIVATE" not in (registry.keys / f"{role}.signer.json").read_bytes()
    root = Metadata[Root].from_bytes(registry.root_path.read_bytes()).signed
    assert [root.keys[keyid].scheme for keyid in root.roles[role].keyids] == ["ecdsa-sha2-nistp256"]


def test_the_command_line_moves_a_role_to_an_hsm_and_every_command_then_signs_there(
    registry: Registry, forger: Any, phone: Client, hsm: dict[str, str]
) -> None:
    phone.fetch("taxi-fare")

    def say(*arguments: str) -> str:
        command = [sys.executable, "-m", "tfx_mobile.cli", "registry", *arguments]
        ended = subprocess.run(command, env=hsm, text=True, capture_output=True, check=False)
        assert (ended.returncode, ended.stderr) == (0, "")
        return ended.stdout

    folder = str(registry.repository)
    old = registry.root().roles["snapshot"].keyids
    said = say("use-signer", folder, "snapshot", softhsm.URI)
    (keyid,) = registry.root().roles["snapshot"].keyids
    assert [keyid] != old
    assert said == (f"snapshot is signed with key {keyid} from now on; the old key is of no use any more.\n")
    assert not (registry.keys / "snapshot.pem").exists()
    reference = json.loads((registry.keys / "snapshot.signer.json").read_bytes())
    assert (reference["uri"], reference["public_key"]["keyid"]) == (softhsm.URI, keyid)
    say("rollback", folder, "taxi-fare", "--reason", "signed in the HSM")
    say("verify", folder)
    assert phone.fetch("taxi-fare").version == 2
    newest = forger.newest("snapshot").read_bytes()
    assert list(Metadata.from_bytes(newest).signatures) == [keyid]
    say("rotate", folder, "snapshot")  # and back to a file
    assert (registry.keys / "snapshot.pem").exists()
    assert not (registry.keys / "snapshot.signer.json").exists()
    registry.verify()


def test_a_root_key_in_an_hsm_that_is_not_reached_is_done_without_where_the_others_are_enough(
    tmp_path: Path,
    hsm: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = Registry.create(tmp_path / "r", root_keys=3)
    ended = _run(hsm, registry, "root-2", softhsm.URI)
    assert (ended.returncode, ended.stderr) == (0, "")
    before = registry.root().roles["timestamp"].keyids
    monkeypatch.setenv(key_files.SECRET_VARIABLE, softhsm.PIN)  # and nothing names the HSM's library
    registry.rotate_key("timestamp")
    assert registry.root().roles["timestamp"].keyids != before
    registry.verify()
    assert "has enough signatures, but one is missing: Key " in caplog.text
    registry.rotate_key("root-2")  # an HSM that is lost is put out of office
    assert not (registry.keys / "root-2.signer.json").exists()
    registry.verify()


def test_a_root_key_in_an_hsm_that_is_not_reached_does_not_keep_the_timestamp_from_being_renewed(
    registry: Registry,
    hsm: dict[str, str],
    tree: Tree,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert _run(hsm, registry, "root", softhsm.URI).returncode == 0
    monkeypatch.setattr(repository, "ROOT_LIFETIME", repository.ROOT_LIFETIME * 3)  # due, not expired
    assert registry.refresh() == ["timestamp"]
    runs_out = f"{registry.root().expires:%Y-%m-%d}"
    lacking = "The key's pin must be in the environment variable TFX_MOBILE_SIGNER_PIN; it is not set."
    assert f"The root runs out on {runs_out}: {lacking}" in caplog.text
    before = tree(registry.repository, registry.keys)
    end = registry.root().expires
    monkeypatch.setattr(repository, "utc_now", lambda: end)
    with pytest.raises(RegistryError, match=re.escape(lacking)):
        registry.refresh()
    assert tree(registry.repository, registry.keys) == before


@pytest.mark.parametrize(
    ("uri", "changes", "message"),
    [
        ("hsm:7?label=publisher", {}, "Key 'hsm:7?label=publisher' must be there and reachable; ValueError"),
        (
            "hsm:2?label=other",
            {},
            "must be there and reachable; ValueError: No PKCS#11 token found for label",
        ),
        ("hsm:2?label=publisher", {"PYKCS11LIB": ""}, "PYKCS11LIB environment variable must be set"),
        ("hsm:2?label=publisher", {key_files.SECRET_VARIABLE: "not-the-pin"}, "PinIncorrect"),
        (
            "hsm:2?label=publisher",
            {key_files.SECRET_VARIABLE: ""},
            "must be in the environment variable TFX_MOB",
        ),
    ],
)
def test_an_hsm_that_does_not_sign_changes_nothing_and_its_pin_is_not_said(
    registry: Registry, hsm: dict[str, str], tree: Tree, uri: str, changes: dict[str, str], message: str
) -> None:
    before = tree(registry.repository, registry.keys)
    ended = _run({**hsm, **changes}, registry, "model-taxi-fare", uri)
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert message in last
    assert last.startswith("tfx_mobile.common.errors.RegistryError: ")
    assert softhsm.PIN not in ended.stderr
    assert "not-the-pin" not in ended.stderr
    assert tree(registry.repository, registry.keys) == before


@pytest.mark.parametrize("uri", ["", "file:/x", "azurekms://x/keys/y", "gpg:1", "hsm"])
def test_a_key_of_an_unknown_kind_is_refused(registry: Registry, uri: str, tree: Tree) -> None:
    before = tree(registry.repository, registry.keys)
    with pytest.raises((ConfigError, RegistryError), match=re.escape("Key ")):
        registry.rotate_key("timestamp", signer_uri=uri)
    assert tree(registry.repository, registry.keys) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "must be JSON"),
        (b"[]", "must be named by uri and public_key"),
        (b'{"uri":"hsm:2"}', "must be named by uri and public_key"),
        (b'{"public_key":{"keyid":"a"},"uri":"nonsense:2"}', "must have a known uri and a public_key;"),
    ],
)
def test_a_reference_that_is_none_is_refused(registry: Registry, content: bytes, message: str) -> None:
    (registry.keys / "timestamp.pem").unlink()
    (registry.keys / "timestamp.signer.json").write_bytes(content)
    with pytest.raises(RegistryError, match=re.escape(message)):
        registry.publish("taxi-fare", b"x", metadata={})
