"""What somebody may do to the repository folder, and what publisher and phone say to it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]

from tfx_mobile.common.errors import RegistryError
from tfx_mobile.registry import keys as key_files
from tfx_mobile.registry.client import Client
from tfx_mobile.registry.store import Registry

DIFFERS = "must have the length and sha256 that were signed"
UNSIGNED = "must be signed by the key that the registry trusts"


def tampered_target(forger: Any) -> None:
    content = bytearray(forger.model_file.read_bytes())
    content[7] ^= 1
    forger.model_file.write_bytes(content)


def extended_target(forger: Any) -> None:
    with forger.model_file.open("ab") as stream:
        stream.write(b"more")


def shortened_target(forger: Any) -> None:
    forger.model_file.write_bytes(forger.model_file.read_bytes()[:-1])


def missing_target(forger: Any) -> None:
    forger.model_file.unlink()


def moved_channel(forger: Any) -> None:
    path = forger.newest_target("taxi-fare/channels/*.json")
    path.write_text(path.read_text().replace('"version":3', '"version":1'))


def edited_metadata(forger: Any) -> None:
    forger.edit_unsigned("model-taxi-fare", _praise)


def edited_metadata_by_somebody_with_the_online_keys(forger: Any) -> None:
    forger.edit_unsigned("model-taxi-fare", _praise)
    forger.relink("model-taxi-fare")


def metadata_signed_with_another_roles_key(forger: Any) -> None:
    forger.edit("model-taxi-fare", _next_version, key="targets")


def edited_snapshot(forger: Any) -> None:
    forger.edit_unsigned("snapshot", lambda signed: signed.update(expires="2099-01-01T00:00:00Z"))


def edited_timestamp(forger: Any) -> None:
    forger.edit_unsigned("timestamp", lambda signed: signed.update(expires="2099-01-01T00:00:00Z"))


def timestamp_signed_with_another_roles_key(forger: Any) -> None:
    forger.edit("timestamp", _next_version, key="snapshot")


def timestamp_that_is_no_json(forger: Any) -> None:
    forger.newest("timestamp").write_bytes(b"{")


def snapshot_in_the_place_of_the_timestamp(forger: Any) -> None:
    shutil.copy(forger.newest("snapshot"), forger.newest("timestamp"))


def another_first_root(forger: Any) -> None:
    other = Registry.create(forger.repository.with_name("other"))
    shutil.copy(other.repository / "metadata" / "1.root.json", forger.metadata / "1.root.json")


def missing_first_root(forger: Any) -> None:
    (forger.metadata / "1.root.json").unlink()


def missing_role(forger: Any) -> None:
    forger.newest("model-taxi-fare").unlink()


def somebody_elses_repository(forger: Any) -> None:
    other = Registry.create(forger.repository.with_name("other"))
    for number in range(9):  # newer than ours in every number
        other.publish("taxi-fare", b"malware %d" % number, metadata={})
    forger.put_back(other.repository)


def root_that_is_not_signed_by_the_one_before(forger: Any) -> None:
    other = Registry.create(forger.repository.with_name("other"))
    root = json.loads((other.repository / "metadata" / "1.root.json").read_bytes())
    root["signed"]["version"] = 2
    (forger.metadata / "2.root.json").write_text(json.dumps(root))


def root_that_its_own_key_did_not_sign(forger: Any) -> None:
    other = Registry.create(forger.repository.with_name("other"))
    key = key_files.load_signer(other.keys, "root").public_key

    def hand_over(signed: Any) -> None:
        signed.version += 1
        signed.revoke_key(signed.roles["root"].keyids[0], "root")
        signed.add_key(key, "root")

    forger.edit("root", hand_over)  # signed by the old key alone


def role_that_is_another_version_than_the_snapshot_says(forger: Any) -> None:
    path = forger.newest("model-taxi-fare")
    shutil.copy(path, path.with_name("9.model-taxi-fare.json"))

    def name_it(snapshot: Any) -> None:
        snapshot.version += 1
        snapshot.meta["model-taxi-fare.json"].version = 9

    forger.edit("snapshot", name_it)


def targets_role_that_signs_models_itself(forger: Any) -> None:
    def add(signed: Any) -> None:
        signed.version += 1
        signed.targets["taxi-fare/3/model.tflite"] = TargetFile.from_data("x", b"malware", ["sha256"])

    forger.edit("targets", add)


def target_outside_the_delegation(forger: Any) -> None:
    _add_target(forger, "other/1/model.tflite")


def target_above_the_folder(forger: Any) -> None:
    _add_target(forger, "taxi-fare/../model.tflite")  # `*` of the delegation matches `..`


def _add_target(forger: Any, path: str) -> None:
    def add(signed: Any) -> None:
        signed.version += 1
        signed.targets[path] = TargetFile.from_data(path, b"malware", ["sha256"])

    forger.edit("model-taxi-fare", add)


def _praise(signed: dict[str, Any]) -> None:
    signed["targets"]["taxi-fare/3/model.tflite"]["custom"]["metadata"]["metrics"]["rmse_ppm"] = 11


def _next_version(signed: Any) -> None:
    signed.version += 1


@pytest.mark.parametrize(
    ("attack", "publisher", "phone_says"),
    [
        (tampered_target, DIFFERS, "a file differs from what was signed"),
        (extended_target, DIFFERS, "a file differs from what was signed"),
        (shortened_target, DIFFERS, "a file differs from what was signed"),
        (missing_target, "Target 'taxi-fare/3/model.tflite' must be at", "a file is missing or not served"),
        (moved_channel, DIFFERS, "a file differs from what was signed"),
        (edited_metadata, DIFFERS, "a file differs from what was signed"),
        (
            edited_metadata_by_somebody_with_the_online_keys,
            UNSIGNED,
            "model-taxi-fare was signed by 0/1 keys",
        ),
        (metadata_signed_with_another_roles_key, UNSIGNED, "model-taxi-fare was signed by 0/1 keys"),
        (edited_snapshot, DIFFERS, "a file differs from what was signed"),
        (edited_timestamp, UNSIGNED, "timestamp was signed by 0/1 keys"),
        (timestamp_signed_with_another_roles_key, UNSIGNED, "timestamp was signed by 0/1 keys"),
        (timestamp_that_is_no_json, "must be TUF metadata; it is not", "Failed to deserialize JSON"),
        (
            snapshot_in_the_place_of_the_timestamp,
            "must be timestamp metadata; got snapshot",
            "Expected 'time",
        ),
        (missing_role, "Registry metadata must be at", "a file is missing or not served"),
        (somebody_elses_repository, UNSIGNED, "timestamp was signed by 0/1 keys"),
        (root_that_is_not_signed_by_the_one_before, UNSIGNED, "root was signed by 0/1 keys"),
        (root_that_its_own_key_did_not_sign, UNSIGNED, "root was signed by 0/1 keys"),
        (
            role_that_is_another_version_than_the_snapshot_says,
            "9.model-taxi-fare.json must be version 9; got 3.",
            "Expected model-taxi-fare v9, got v3.",
        ),
    ],
)
@pytest.mark.parametrize("knows", [False, True], ids=["new phone", "old phone"])
def test_an_attack_is_refused_by_publisher_and_phone(
    registry: Registry,
    phone: Client,
    forger: Any,
    tree: Any,
    attack: Callable[[Any], None],
    publisher: str,
    phone_says: str,
    knows: bool,
) -> None:
    if knows:
        registry.publish("another", b"x", metadata={})
        phone.fetch("another")
        registry.publish("another", b"y", metadata={})
    attack(forger)
    with pytest.raises(RegistryError, match=re.escape(publisher)):
        registry.verify()
    with pytest.raises(RegistryError, match=re.escape(phone_says)):
        phone.fetch("taxi-fare")
    assert not list((phone.cache / "targets").glob("taxi-fare/*/*model.tflite"))
    before = tree(registry.repository, registry.keys)
    if attack not in (tampered_target, extended_target, shortened_target, missing_target):
        with pytest.raises(RegistryError, match=re.escape(publisher)):
            registry.publish("taxi-fare", b"four", metadata={})
        assert tree(registry.repository, registry.keys) == before


@pytest.mark.parametrize("attack", [tampered_target, extended_target, shortened_target, missing_target])
def test_publishing_the_same_bytes_over_a_damaged_file_does_not_pass_for_done(
    registry: Registry, forger: Any, contents: dict[int, bytes], tree: Any, attack: Callable[[Any], None]
) -> None:
    attack(forger)
    before = tree(registry.repository, registry.keys)
    with pytest.raises(RegistryError, match=re.escape("Target 'taxi-fare/3/model.tflite' must")):
        registry.publish("taxi-fare", contents[3], metadata={})
    assert tree(registry.repository, registry.keys) == before
    assert registry.publish("taxi-fare", contents[3], version=4, metadata={}).created


@pytest.mark.parametrize(
    ("attack", "publisher"),
    [
        (
            target_outside_the_delegation,
            "must only sign paths of model 'taxi-fare'; got 'other/1/model.tflite'",
        ),
        (
            target_above_the_folder,
            "must only sign paths of model 'taxi-fare'; got 'taxi-fare/../model.tflite'",
        ),
        (targets_role_that_signs_models_itself, "Role 'targets' must only delegate; it signs"),
    ],
)
def test_a_key_used_beyond_its_role_is_found_by_the_publisher(
    registry: Registry, forger: Any, attack: Callable[[Any], None], publisher: str
) -> None:
    attack(forger)
    for call in (registry.verify, lambda: registry.publish("taxi-fare", b"four", metadata={})):
        with pytest.raises(RegistryError, match=re.escape(publisher)):
            call()


def test_a_phone_does_not_find_a_model_that_another_models_key_signed(phone: Client, forger: Any) -> None:
    target_outside_the_delegation(forger)
    message = "must hold 'other/1/model.tflite'; nobody whom it trusts for that has signed it."
    with pytest.raises(RegistryError, match=re.escape(message)):
        phone.fetch("other", version=1)
    assert phone.fetch("taxi-fare").version == 3


@pytest.mark.parametrize("only_timestamp", [False, True])
def test_an_older_copy_is_refused_by_whoever_has_seen_a_newer_one(
    registry: Registry, phone: Client, forger: Any, tree: Any, tmp_path: Path, only_timestamp: bool
) -> None:
    old = forger.copy_to(tmp_path / "old")
    registry.publish("taxi-fare", b"four", metadata={})
    assert phone.fetch("taxi-fare").version == 4
    if only_timestamp:
        shutil.copy(old / "metadata" / "timestamp.json", forger.newest("timestamp"))
    else:
        forger.put_back(old)
    with pytest.raises(RegistryError, match=re.escape("It is older than what this client has seen.")):
        phone.fetch("taxi-fare")
    before = tree(registry.repository, registry.keys)
    message = "must not be older than the last one signed, version 5; got version 4."
    for call in (registry.verify, registry.refresh, lambda: registry.publish("taxi-fare", b"x", metadata={})):
        with pytest.raises(RegistryError, match=re.escape(message)):
            call()
    assert tree(registry.repository, registry.keys) == before


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "model-taxi-fare"])
def test_expired_metadata_is_refused_by_the_phone(
    phone: Client, forger: Any, expire: Callable[[Any], None], role: str
) -> None:
    forger.edit(role, _expired(expire))
    message = (
        re.escape("registry was refused: ") + r".*is expired\. It may be an old copy; or its publisher has"
    )
    with pytest.raises(RegistryError, match=message):
        phone.fetch("taxi-fare")


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (another_first_root, "1.root.json must lead to the root that is trusted"),
        (missing_first_root, "1.root.json; No such file or directory."),
    ],
)
def test_a_root_that_lies_in_the_repository_is_never_trusted_for_that(
    registry: Registry, phone: Client, forger: Any, attack: Callable[[Any], None], message: str
) -> None:
    root = registry.root_path.read_bytes()
    attack(forger)
    with pytest.raises(RegistryError, match=re.escape(message)):
        registry.verify()
    registry.refresh()
    assert registry.root_path.read_bytes() == root
    assert phone.fetch("taxi-fare").version == 3


def test_a_timestamp_without_end_is_not_read_to_its_end(phone: Client, forger: Any) -> None:
    forger.newest("timestamp").write_bytes(b" " * 10_000_000)
    with pytest.raises(RegistryError, match=re.escape("a file differs from what was signed: Downloaded")):
        phone.fetch("taxi-fare")


def test_a_link_out_of_the_registry_is_not_followed(
    phone: Client, forger: Any, contents: dict[int, bytes], tmp_path: Path
) -> None:
    (tmp_path / "outside").write_bytes(contents[3])
    forger.model_file.unlink()
    forger.model_file.symlink_to(tmp_path / "outside")
    with pytest.raises(RegistryError, match=re.escape("a file is missing or not served")):
        phone.fetch("taxi-fare")


def _expired(expire: Callable[[Any], None]) -> Callable[[Any], None]:
    def change(signed: Any) -> None:
        expire(signed)
        _next_version(signed)

    return change
