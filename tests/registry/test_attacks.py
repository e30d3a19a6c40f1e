"""What somebody may do to the repository folder, and what publisher and phone say to it."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import (  # type: ignore[attr-defined]  # typed, but re-exported without saying so
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)

from tfx_mobile.common.errors import RegistryError
from tfx_mobile.registry import keys as key_files
from tfx_mobile.registry import names, records, site
from tfx_mobile.registry.chain import load_root
from tfx_mobile.registry.client import Client, NotOffered
from tfx_mobile.registry.storage import FolderStorage
from tfx_mobile.registry.store import Registry
from tfx_mobile.registry.transport import Limits

CONTENTS = {1: b"one" * 50, 2: b"two" * 50, 3: b"three" * 50}
DIFFERS = "must have the length and sha256 that were signed"
UNSIGNED = "must be signed by the key that the registry trusts"


@pytest.fixture(scope="session")
def _seasons(tmp_path_factory: pytest.TempPathFactory) -> tuple[Registry, Path]:
    """The registry of conftest.py, and the cache of a phone that saw it when version 2 was the newest."""
    registry = Registry.create(tmp_path_factory.mktemp("seasons") / "registry")
    cache = registry.repository.with_name("phone")
    for version, content in CONTENTS.items():
        registry.publish("taxi-fare", content, metadata={"metrics": {"rmse_ppm": 100 - version}})
        if version == 2:
            phone = Client(str(registry.repository), root=registry.root_path, cache=cache)
            assert phone.fetch("taxi-fare").version == 2
    return registry, cache


@pytest.fixture(scope="session")
def published(_seasons: tuple[Registry, Path]) -> Registry:
    return _seasons[0]


@pytest.fixture
def seasoned(_seasons: tuple[Registry, Path]) -> Path:
    return _seasons[1]


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


def swapped_targets(forger: Any) -> None:
    other = forger.newest_target("taxi-fare/2/model.tflite")
    mine, its = forger.model_file.read_bytes(), other.read_bytes()
    forger.model_file.write_bytes(its)
    other.write_bytes(mine)


def moved_channel(forger: Any) -> None:
    path = forger.newest_target("taxi-fare/channels/stable.json")
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


def truncated_snapshot(forger: Any) -> None:
    path = forger.newest("snapshot")
    path.write_bytes(path.read_bytes()[:-10])


def role_of_an_earlier_snapshot(forger: Any) -> None:
    path = forger.newest("model-taxi-fare")  # mix and match: each was signed once, not together
    shutil.copy(path.with_name("2.model-taxi-fare.json"), path)


def role_without_a_signature(forger: Any) -> None:
    path = forger.newest("model-taxi-fare")
    metadata = json.loads(path.read_bytes())
    metadata["signatures"] = []
    path.write_text(json.dumps(metadata))
    forger.relink("model-taxi-fare")


def signature_of_the_right_key_over_something_else(forger: Any) -> None:
    path = forger.newest("timestamp")
    metadata = json.loads(path.read_bytes())
    signatures = json.loads(forger.newest("snapshot").read_bytes())["signatures"]
    metadata["signatures"][0]["sig"] = signatures[0]["sig"]
    path.write_text(json.dumps(metadata))


def timestamp_of_a_revoked_key(forger: Any) -> None:
    fresh = key_files.make_signer()

    def rotate(root: Any) -> None:
        root.version += 1
        root.revoke_key(root.roles[Timestamp.type].keyids[0], Timestamp.type)
        root.add_key(fresh.public_key, Timestamp.type)

    forger.edit("root", rotate)  # and whoever has the old key signs on
    forger.edit("timestamp", _next_version)


def root_with_one_of_two_signatures(forger: Any) -> None:
    old = forger.newest("root")
    metadata: Metadata[Any] = Metadata.from_bytes(old.read_bytes())
    second, root = key_files.make_signer(), metadata.signed
    root.version = 2
    root.add_key(second.public_key, Root.type)
    root.roles[Root.type].threshold = 2
    metadata.sign(key_files.load_signer(forger.keys, "root"))
    metadata.sign(second, append=True)
    old.with_name("2.root.json").write_bytes(metadata.to_bytes())
    forger.edit("root", _next_version)  # by one of the two


def endless_root(forger: Any) -> None:
    (forger.metadata / "2.root.json").write_bytes(b" " * 1_000_000)


def timestamp_of_brackets(forger: Any) -> None:
    forger.newest("timestamp").write_bytes(b"[" * 16_000)


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
    root: Metadata[Any] = Metadata.from_bytes((other.repository / "metadata" / "1.root.json").read_bytes())
    root.signed.version = 2
    root.sign(key_files.load_signer(other.keys, "root"))
    (forger.metadata / "2.root.json").write_bytes(root.to_bytes())


def root_that_its_own_key_did_not_sign(forger: Any) -> None:
    other = Registry.create(forger.repository.with_name("other"))
    key = key_files.load_signer(other.keys, "root").public_key

    def hand_over(signed: Any) -> None:
        signed.version += 1
        signed.revoke_key(signed.roles["root"].keyids[0], "root")
        signed.add_key(key, "root")

    forger.edit("root", hand_over)  # signed by the old key alone


def role_that_is_older_than_the_snapshot_says(forger: Any) -> None:
    _say_version(forger, 9)


def role_that_is_newer_than_the_snapshot_says(forger: Any) -> None:
    _say_version(forger, 2)


def _say_version(forger: Any, version: int) -> None:
    path = forger.newest("model-taxi-fare")
    shutil.copy(path, path.with_name(f"{version}.model-taxi-fare.json"))

    def name_it(snapshot: Any) -> None:
        snapshot.version += 1
        snapshot.meta["model-taxi-fare.json"].version = version

    forger.edit("snapshot", name_it)


def targets_role_that_signs_models_itself(forger: Any) -> None:
    def add(signed: Any) -> None:
        signed.version += 1
        signed.targets["taxi-fare/3/model.tflite"] = TargetFile.from_data("x", b"malware", ["sha256"])

    forger.edit("targets", add)


def version_that_is_no_integer(forger: Any) -> None:
    forger.edit_unsigned("timestamp", lambda signed: signed.update(version=float(signed["version"])))


def text_that_cannot_be_signed(forger: Any) -> None:
    forger.edit_unsigned("timestamp", lambda signed: signed.update(note="\ud800"))


def timestamp_that_says_everything_twice(forger: Any) -> None:
    path = forger.newest("timestamp")
    signed = json.dumps(json.loads(path.read_bytes())["signed"] | {"version": 99})
    path.write_text(f'{path.read_text().rstrip()[:-1]},"signed":{signed}}}')  # the last one counts


def timestamp_with_the_key_id_of_another_role(forger: Any) -> None:
    path = forger.newest("timestamp")
    metadata = json.loads(path.read_bytes())
    other = json.loads(forger.newest("snapshot").read_bytes())
    metadata["signatures"][0]["keyid"] = other["signatures"][0]["keyid"]
    path.write_text(json.dumps(metadata))


def timestamp_of_another_specification(forger: Any) -> None:
    forger.edit("timestamp", lambda signed: setattr(signed, "spec_version", "2.0.0"))


def snapshot_of_a_gigantic_version(forger: Any) -> None:
    forger.edit("timestamp", lambda signed: setattr(signed.snapshot_meta, "version", 10**400))


def root_that_needs_one_signature_less(forger: Any) -> None:
    root_with_one_of_two_signatures(forger)

    def lower(root: Any) -> None:
        root.roles[Root.type].threshold = 1

    forger.edit("root", lower)  # by one of the two


def root_with_one_signature_under_both_key_ids(forger: Any) -> None:
    root_with_one_of_two_signatures(forger)
    path = forger.newest("root")
    root = json.loads(path.read_bytes())
    [signature] = root["signatures"]
    ids = root["signed"]["roles"]["root"]["keyids"]
    root["signatures"] = [signature | {"keyid": keyid} for keyid in ids]
    path.write_text(json.dumps(root))


def root_chain_with_a_gap(forger: Any) -> None:
    fresh = key_files.make_signer()

    def rotate(root: Any) -> None:
        root.version = 3
        root.revoke_key(root.roles[Timestamp.type].keyids[0], Timestamp.type)
        root.add_key(fresh.public_key, Timestamp.type)

    forger.edit("root", rotate)
    timestamp: Metadata[Any] = Metadata.from_bytes(forger.newest("timestamp").read_bytes())
    timestamp.sign(fresh)
    forger.newest("timestamp").write_bytes(timestamp.to_bytes())


def root_of_the_version_after_the_next(forger: Any) -> None:
    forger.edit("root", lambda root: setattr(root, "version", 3))
    (forger.metadata / "3.root.json").rename(forger.metadata / "2.root.json")


def root_that_comes_again(forger: Any) -> None:
    shutil.copy(forger.metadata / "1.root.json", forger.metadata / "2.root.json")


def root_without_consistent_snapshots(forger: Any) -> None:
    def switch_off(root: Any) -> None:
        root.version += 1
        root.consistent_snapshot = False

    forger.edit("root", switch_off)


def _delegate(forger: Any, role: str, pattern: str | None, *, by: str = "targets") -> None:
    """Makes `by` trust somebody for version 3, before all others; phones follow that."""
    somebody, malware = key_files.make_signer(), b"malware"
    target = TargetFile.from_data(names.model_path("taxi-fare", 3), malware, ["sha256"])
    (forger.repository / "targets" / target.get_prefixed_paths()[0]).write_bytes(malware)
    targets = Metadata[Any].from_bytes(forger.newest("model-taxi-fare").read_bytes()).signed
    mine = Targets(expires=targets.expires, targets=targets.targets | {target.path: target})
    metadata = Metadata(mine)
    metadata.sign(somebody)
    (forger.metadata / f"1.{role}.json").write_bytes(metadata.to_bytes())

    def trust(signed: Any) -> None:
        signed.version += 1
        delegations = signed.delegations or Delegations({}, {})
        given = {"paths": [pattern]} if pattern else {"path_hash_prefixes": [*"0123456789abcdef"]}
        mine = DelegatedRole(role, [], 1, terminating=True, **given)
        delegations.roles = {role: mine} | delegations.roles
        signed.delegations = delegations
        signed.add_key(somebody.public_key, role)
        if by != "targets":
            del signed.targets[target.path]

    forger.edit(by, trust)

    def name_it(snapshot: Any) -> None:
        snapshot.version += 1
        snapshot.meta[f"{role}.json"] = MetaFile(1)

    forger.edit("snapshot", name_it)


def role_of_a_look_alike_name(forger: Any) -> None:
    _delegate(forger, "model-t\u0430xi-fare", "taxi-fare/*/*")  # a Cyrillic a


def role_with_capital_letters(forger: Any) -> None:
    _delegate(forger, "Model-Taxi-Fare", "taxi-fare/*/*")


def role_of_a_model_for_the_paths_of_another(forger: Any) -> None:
    _delegate(forger, "model-other", "*/*/*")


def role_of_a_model_for_the_paths_of_a_longer_name(forger: Any) -> None:
    _delegate(forger, "model-taxi", "taxi-fare/*/*")


def role_of_a_model_for_hashes_of_paths(forger: Any) -> None:
    _delegate(forger, "model-other", None)


def targets_role_that_delegates_by_hash(forger: Any) -> None:
    def delegate(signed: Any) -> None:
        signed.version += 1
        signed.delegations = Delegations({}, succinct_roles=SuccinctRoles([], 1, 1, "model"))

    forger.edit("targets", delegate)


def role_of_the_model_that_trusts_somebody_else(forger: Any) -> None:
    _delegate(forger, "helper", "taxi-fare/3/*", by="model-taxi-fare")


def target_outside_the_delegation(forger: Any) -> None:
    _add_target(forger, "other/1/model.tflite")


def target_above_the_folder(forger: Any) -> None:
    _add_target(forger, "taxi-fare/../model.tflite")  # `*` of the delegation matches `..`


def target_that_an_older_delegation_leaves_out(forger: Any) -> None:
    def narrow(signed: Any) -> None:
        signed.version += 1
        signed.delegations.roles["model-taxi-fare"].paths = ["taxi-fare/*/model.*", "taxi-fare/channels/*"]

    forger.edit("targets", narrow)
    _add_target(forger, "taxi-fare/3/small.tflite")


def _add_target(forger: Any, path: str) -> None:
    def add(signed: Any) -> None:
        signed.version += 1
        signed.targets[path] = TargetFile.from_data(path, b"malware", ["sha256"])

    forger.edit("model-taxi-fare", add)


def _praise(signed: dict[str, Any]) -> None:
    signed["targets"]["taxi-fare/3/model.tflite"]["custom"] = {"metrics": {"rmse_ppm": 11}}


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
        (swapped_targets, DIFFERS, "a file differs from what was signed"),
        (edited_metadata, DIFFERS, "a file differs from what was signed"),
        (truncated_snapshot, DIFFERS, "a file differs from what was signed"),
        (role_of_an_earlier_snapshot, DIFFERS, "a file differs from what was signed"),
        (role_without_a_signature, UNSIGNED, "model-taxi-fare was signed by 0/1 keys"),
        (signature_of_the_right_key_over_something_else, UNSIGNED, "timestamp was signed by 0/1 keys"),
        (timestamp_of_a_revoked_key, UNSIGNED, "timestamp was signed by 0/1 keys"),
        (root_with_one_of_two_signatures, UNSIGNED, "root was signed by 1/2 keys"),
        (endless_root, "must be TUF metadata; it is not", "a file differs from what was signed: Downloaded"),
        (timestamp_of_brackets, "must be TUF metadata; it is not", "Failed to deserialize JSON"),
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
        (
            root_that_is_not_signed_by_the_one_before,
            f"2.root.json {UNSIGNED} for 'root'",
            "root was signed by 0/1 keys",
        ),
        (
            root_that_its_own_key_did_not_sign,
            f"2.root.json {UNSIGNED} for 'root'",
            "root was signed by 0/1 keys",
        ),
        (version_that_is_no_integer, UNSIGNED, "Could not encode"),
        (text_that_cannot_be_signed, UNSIGNED, "surrogates not allowed"),
        (timestamp_that_says_everything_twice, UNSIGNED, "timestamp was signed by 0/1 keys"),
        (timestamp_with_the_key_id_of_another_role, UNSIGNED, "timestamp was signed by 0/1 keys"),
        (
            timestamp_of_another_specification,
            "must be TUF metadata; it is not",
            "Unsupported spec_version 2.0.0",
        ),
        (snapshot_of_a_gigantic_version, "must be readable", "cannot be read: [Errno 36] File name too long"),
        (root_that_needs_one_signature_less, UNSIGNED, "root was signed by 1/2 keys"),
        (root_with_one_signature_under_both_key_ids, UNSIGNED, "root was signed by 1/2 keys"),
        (root_chain_with_a_gap, UNSIGNED, "timestamp was signed by 0/1 keys"),
        (
            root_of_the_version_after_the_next,
            "2.root.json must be root version 2; got 3.",
            "Expected root version 2 instead got version 3. Its publisher has to put back the roots",
        ),
        (
            root_that_comes_again,
            "2.root.json must be root version 2; got 1.",
            "Expected root version 2 instead got version 1.",
        ),
        (
            root_without_consistent_snapshots,
            "Root version 2 must say consistent_snapshot",
            "a file is missing or not served",
        ),
        (
            role_that_is_older_than_the_snapshot_says,
            "9.model-taxi-fare.json must be version 9; got 3.",
            "Expected model-taxi-fare v9, got v3.",
        ),
        (
            role_that_is_newer_than_the_snapshot_says,
            "2.model-taxi-fare.json must be version 2; got 3.",
            "Expected model-taxi-fare v2, got v3.",
        ),
    ],
)
@pytest.mark.parametrize("knows", [False, True], ids=["new phone", "old phone"])
def test_an_attack_is_refused_by_publisher_and_phone(
    registry: Registry,
    phone: Client,
    seasoned: Path,
    contents: dict[int, bytes],
    forger: Any,
    tree: Any,
    attack: Callable[[Any], None],
    publisher: str,
    phone_says: str,
    knows: bool,
) -> None:
    if knows:
        shutil.copytree(seasoned, phone.cache, symlinks=True)
    attack(forger)
    with pytest.raises(RegistryError, match=re.escape(publisher)):
        registry.verify()
    with pytest.raises(RegistryError, match=re.escape(phone_says)):
        phone.fetch("taxi-fare", fall_back=False)
    if knows:
        assert_keeps(phone, contents, phone_says)
    else:
        with pytest.raises(RegistryError, match=re.escape(phone_says)):
            phone.fetch("taxi-fare")
    assert not list((phone.cache / "targets").glob("taxi-fare/3/*model.tflite"))
    before = tree(registry.repository, registry.keys)
    if attack not in ON_FILES:
        with pytest.raises(RegistryError, match=re.escape(publisher)):
            registry.publish("taxi-fare", b"four", metadata={})
        assert tree(registry.repository, registry.keys) == before


ON_FILES = (tampered_target, extended_target, shortened_target, missing_target, swapped_targets)


def assert_keeps(phone: Client, contents: dict[int, bytes], problem: str) -> None:
    """The phone goes on with version 2 and says why."""
    kept = phone.fetch("taxi-fare")
    assert (kept.version, kept.path.read_bytes()) == (2, contents[2])
    assert problem in kept.problem


@pytest.mark.parametrize("attack", ON_FILES)
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
        (
            target_that_an_older_delegation_leaves_out,
            "must only sign paths of model 'taxi-fare'; got 'taxi-fare/3/small.tflite'",
        ),
        (targets_role_that_signs_models_itself, "Role 'targets' must only delegate; it signs"),
        (role_of_a_look_alike_name, "must delegate to models, each for its own paths; got 'model-t\\u0430xi"),
        (role_with_capital_letters, "must delegate to models, each for its own paths; got 'Model-Taxi-Fare'"),
        (
            role_of_a_model_for_the_paths_of_another,
            "each for its own paths; got 'model-other' for */*/*.",
        ),
        (
            role_of_a_model_for_the_paths_of_a_longer_name,
            "each for its own paths; got 'model-taxi' for taxi-fare/*/*.",
        ),
        (
            role_of_a_model_for_hashes_of_paths,
            "each for its own paths; got 'model-other' for hashes of paths.",
        ),
        (targets_role_that_delegates_by_hash, "Role 'targets' must delegate by model; it does by hash."),
        (
            role_of_the_model_that_trusts_somebody_else,
            "Role 'model-taxi-fare' must only sign, and not delegate",
        ),
    ],
)
def test_a_key_used_beyond_its_role_is_found_by_publisher_and_catalogue(
    registry: Registry, forger: Any, tmp_path: Path, attack: Callable[[Any], None], publisher: str
) -> None:
    attack(forger)
    for call in (
        registry.verify,
        lambda: registry.publish("taxi-fare", b"four", metadata={}),
        lambda: site.write(registry.repository, registry.root_path, tmp_path / "site"),
    ):
        with pytest.raises(RegistryError, match=re.escape(publisher)):
            call()


@pytest.mark.parametrize(
    "attack",
    [
        role_of_a_look_alike_name,
        role_with_capital_letters,
        role_of_a_model_for_the_paths_of_another,
        role_of_a_model_for_hashes_of_paths,
        role_of_the_model_that_trusts_somebody_else,
    ],
)
def test_whom_a_stolen_key_trusts_is_trusted_by_phones_until_the_publisher_takes_it_out_of_service(
    registry: Registry, phone: Client, forger: Any, tmp_path: Path, attack: Callable[[Any], None]
) -> None:
    backup = forger.copy_to(tmp_path / "backup")
    attack(forger)
    assert phone.fetch("taxi-fare").path.read_bytes() == b"malware"  # TUF promises no more
    forger.put_back(backup)
    for role in ("model-taxi-fare", "targets", "snapshot", "timestamp"):
        registry.rotate_key(role)
    assert registry.publish("taxi-fare", b"four", metadata={}).version == 4
    fetched = phone.fetch("taxi-fare", fall_back=False)
    assert fetched.path.read_bytes() == b"four"


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_a_phone_that_was_sent_far_ahead_comes_back_when_the_key_is_rotated(
    registry: Registry, phone: Client, forger: Any, tmp_path: Path, role: str
) -> None:
    backup = forger.copy_to(tmp_path / "backup")
    forger.edit(role, lambda signed: setattr(signed, "version", 2**62))
    assert phone.fetch("taxi-fare", fall_back=False).version == 3
    forger.put_back(backup)
    with pytest.raises(RegistryError, match=re.escape("It is older than what this client has seen.")):
        phone.check()
    for stolen in ("snapshot", "timestamp"):
        registry.rotate_key(stolen)
    registry.publish("taxi-fare", b"four", metadata={})
    assert phone.fetch("taxi-fare", fall_back=False).version == 4


def test_a_snapshot_that_leaves_a_role_out_is_refused(
    registry: Registry, phone: Client, seasoned: Path, contents: dict[int, bytes], forger: Any
) -> None:
    shutil.copytree(seasoned, phone.cache, symlinks=True)

    def leave_out(snapshot: Any) -> None:
        snapshot.version += 1
        del snapshot.meta["model-taxi-fare.json"]

    forger.edit("snapshot", leave_out)
    with pytest.raises(RegistryError, match=re.escape("must name 'model-taxi-fare'; it does not.")):
        registry.verify()
    assert_keeps(phone, contents, "New snapshot is missing info for 'model-taxi-fare.json'")


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
    newest = phone.fetch("taxi-fare")
    assert newest.version == 4
    if only_timestamp:
        shutil.copy(old / "metadata" / "timestamp.json", forger.newest("timestamp"))
    else:
        forger.put_back(old)
    with pytest.raises(RegistryError, match=re.escape("It is older than what this client has seen.")):
        phone.fetch("taxi-fare", fall_back=False)
    kept = phone.fetch("taxi-fare")
    assert (kept.path, kept.version) == (newest.path, 4)
    assert "It is older than what this client has seen." in kept.problem
    before = tree(registry.repository, registry.keys)
    message = "must not be older than the last one signed, version 5; got version 4."
    for call in (registry.verify, registry.refresh, lambda: registry.publish("taxi-fare", b"x", metadata={})):
        with pytest.raises(RegistryError, match=re.escape(message)):
            call()
    assert tree(registry.repository, registry.keys) == before


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", "model-taxi-fare"])
@pytest.mark.parametrize("knows", [False, True], ids=["new phone", "old phone"])
def test_expired_metadata_is_refused_by_the_phone(
    phone: Client,
    seasoned: Path,
    contents: dict[int, bytes],
    forger: Any,
    expire: Callable[[Any], None],
    role: str,
    knows: bool,
) -> None:
    if knows:
        shutil.copytree(seasoned, phone.cache, symlinks=True)
    forger.edit(role, _expired(expire))
    message = (
        re.escape("registry was refused: ") + r".*is expired\. It may be an old copy; or its publisher has"
    )
    with pytest.raises(RegistryError, match=message):
        phone.fetch("taxi-fare", fall_back=False)
    if knows:
        assert_keeps(phone, contents, "is expired. It may be an old copy;")


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


def test_a_trusted_root_that_was_changed_after_signing_is_refused(registry: Registry) -> None:
    path = registry.root_path
    root = json.loads(path.read_bytes())
    root["signed"]["expires"] = "2099-01-01T00:00:00Z"
    path.write_text(json.dumps(root))
    with pytest.raises(RegistryError, match=re.escape(f"{path} {UNSIGNED} for 'root'")):
        registry.verify()


def test_a_newer_root_that_cannot_be_asked_for_is_not_taken_for_none(registry: Registry) -> None:
    storage = FolderStorage(registry.repository / ("x" * 300))
    message = f"must be readable; {storage.place('metadata/2.root.json')}: File name too long."
    with pytest.raises(RegistryError, match=re.escape(message)):
        load_root(storage, registry.root_path.read_bytes(), where="the app")


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


def test_a_link_in_a_circle_is_not_followed_for_ever(
    phone: Client, seasoned: Path, contents: dict[int, bytes], forger: Any
) -> None:
    shutil.copytree(seasoned, phone.cache, symlinks=True)
    forger.model_file.unlink()
    forger.model_file.symlink_to(forger.model_file)
    kept = phone.fetch("taxi-fare")
    assert (kept.version, kept.path.read_bytes()) == (2, contents[2])
    assert f"Registry {phone.location} was refused: " in kept.problem


def channel_of_another_channel(forger: Any) -> None:
    _rewrite_channel(forger, channel="beta")


def channel_of_another_model(forger: Any) -> None:
    _rewrite_channel(forger, model="another")


def channel_that_is_none(forger: Any) -> None:
    _put(forger, names.channel_path("taxi-fare", "stable"), b"{}")


def channel_of_brackets(forger: Any) -> None:
    _put(forger, names.channel_path("taxi-fare", "stable"), b"[" * 100_000)


def channel_without_end(forger: Any) -> None:
    def lengthen(signed: Any) -> None:
        signed.version += 1
        signed.targets[names.channel_path("taxi-fare", "stable")].length = 2**21

    forger.edit("model-taxi-fare", lengthen)


def channel_that_offers_a_version_that_is_not_there(forger: Any) -> None:
    _rewrite_channel(forger, rollouts=(records.Rollout(9),))


def withdrawn_version_that_is_offered_again(forger: Any) -> None:
    def withdraw(signed: Any) -> None:
        signed.version += 1
        path = names.model_path("taxi-fare", 3)
        signed.targets[path] = records.withdraw(signed.targets[path], "wrong at night")

    forger.edit("model-taxi-fare", withdraw)


def channel_that_says_its_name_twice(forger: Any) -> None:
    _replace_in_channel(forger, b'"channel":', b'"channel":"beta","channel":')


def channel_of_look_alike_letters(forger: Any) -> None:
    _replace_in_channel(forger, b'"model":"taxi-fare"', '"model":"t\u0430xi-fare"'.encode())


def channel_with_a_share_that_is_no_integer(forger: Any) -> None:
    _replace_in_channel(forger, b'"rollout_permille":1000', b'"rollout_permille":1e3')


def channel_with_a_version_that_is_no_number(forger: Any) -> None:
    _replace_in_channel(forger, b'"version":3', b'"version":true')


def channel_with_a_variant_that_is_a_path(forger: Any) -> None:
    _replace_in_channel(forger, b'"variant":"default"', b'"variant":"../../metadata/root"')


def model_with_a_second_hash_that_differs(forger: Any) -> None:
    _edit_model(forger, lambda target: target.hashes.update(sha512="0" * 128))


def model_with_a_hash_that_nobody_knows(forger: Any) -> None:
    _edit_model(forger, lambda target: target.hashes.update(blake9="00"))


def model_that_is_longer_than_it_says(forger: Any) -> None:
    _edit_model(forger, lambda target: setattr(target, "length", 10))


def model_of_a_terabyte(forger: Any) -> None:
    _edit_model(forger, lambda target: setattr(target, "length", 2**40))


def hash_that_leads_out_of_the_cache(forger: Any) -> None:
    _edit_model(forger, lambda target: target.hashes.update(sha256="../../../../out"))


def model_without_a_sha256(forger: Any) -> None:
    _edit_model(forger, lambda target: setattr(target, "hashes", {"md5": "0" * 32}))


def _edit_model(forger: Any, change: Callable[[Any], None]) -> None:
    def edit(signed: Any) -> None:
        signed.version += 1
        change(signed.targets[names.model_path("taxi-fare", 3)])

    forger.edit("model-taxi-fare", edit)


def _rewrite_channel(forger: Any, **changes: Any) -> None:
    path = forger.newest_target("taxi-fare/channels/stable.json")
    record = records.read_channel("taxi-fare", "stable", path.read_bytes())
    content = dataclasses.replace(record, **changes).to_json().encode()
    _put(forger, names.channel_path("taxi-fare", "stable"), content)


def _replace_in_channel(forger: Any, old: bytes, new: bytes) -> None:
    content = forger.newest_target("taxi-fare/channels/stable.json").read_bytes()
    assert content.count(old) == 1
    _put(forger, names.channel_path("taxi-fare", "stable"), content.replace(old, new))


def _put(forger: Any, path: str, content: bytes) -> None:
    target = TargetFile.from_data(path, content, ["sha256"])
    (forger.repository / "targets" / target.get_prefixed_paths()[0]).write_bytes(content)

    def put(signed: Any) -> None:
        signed.version += 1
        signed.targets[path] = target

    forger.edit("model-taxi-fare", put)


@pytest.mark.parametrize(
    ("attack", "phone_says"),
    [
        (channel_of_another_channel, "must be about channel 'stable' of 'taxi-fare'; got 'beta' of 'taxi"),
        (channel_of_another_model, "must be about channel 'stable' of 'taxi-fare'; got 'stable' of 'ano"),
        (channel_that_is_none, "Channel record 'taxi-fare/channels/stable.json': ChannelRecord"),
        (channel_of_brackets, "was refused: "),
        (channel_without_end, "must have 1048576 bytes at most; 2097152 were signed"),
        (withdrawn_version_that_is_offered_again, "its publisher took it back: wrong at night. Channel"),
        (channel_that_says_its_name_twice, "key 'channel' stands twice"),
        (channel_of_look_alike_letters, "Model name must be 1 to 63 of a-z, 0-9 and '-'"),
        (channel_with_a_share_that_is_no_integer, "rollout_permille must be int; got float 1000.0"),
        (channel_with_a_version_that_is_no_number, "rollouts[0].version must be int; got bool True"),
        (channel_with_a_variant_that_is_a_path, "Variant name must be 1 to 63 of a-z, 0-9 and '-'"),
        (model_with_a_second_hash_that_differs, "a file differs from what was signed: Observed hash"),
        (model_with_a_hash_that_nobody_knows, "Unsupported algorithm 'blake9'"),
        (model_that_is_longer_than_it_says, "is longer than the 10 bytes that were signed"),
        (model_of_a_terabyte, "must have 2147483648 bytes at most; 1099511627776 were signed"),
        (hash_that_leads_out_of_the_cache, "must carry a sha256 of 64 hex digits; got {'sha256': '../../"),
        (model_without_a_sha256, "must carry a sha256 of 64 hex digits; got {'md5': "),
    ],
)
def test_what_the_models_own_key_signed_and_is_wrong_is_refused_by_the_phone(
    phone: Client,
    seasoned: Path,
    contents: dict[int, bytes],
    forger: Any,
    tree: Any,
    tmp_path: Path,
    attack: Callable[[Any], None],
    phone_says: str,
) -> None:
    shutil.copytree(seasoned, phone.cache, symlinks=True)
    attack(forger)
    before = set(tree(tmp_path))
    with pytest.raises(RegistryError, match=re.escape(phone_says)) as refused:
        phone.fetch("taxi-fare", fall_back=False)
    assert not isinstance(refused.value, NotOffered)
    assert_keeps(phone, contents, phone_says)
    assert all(Path(path).is_relative_to(phone.cache) for path in set(tree(tmp_path)) - before)


def test_a_channel_that_offers_a_version_that_is_not_there_is_refused(
    registry: Registry, phone: Client, seasoned: Path, contents: dict[int, bytes], forger: Any
) -> None:
    channel_that_offers_a_version_that_is_not_there(forger)
    with pytest.raises(
        RegistryError, match=re.escape("must offer what is there and not withdrawn; 9 (default) is not")
    ):
        registry.verify()
    message = "must hold 'taxi-fare/9/model.tflite'; nobody whom"
    with pytest.raises(RegistryError, match=re.escape(message)):
        phone.fetch("taxi-fare")
    shutil.rmtree(phone.cache)
    shutil.copytree(seasoned, phone.cache, symlinks=True)
    assert_keeps(phone, contents, message)


def test_a_newer_timestamp_that_leads_to_an_older_snapshot_is_refused_by_who_has_seen_the_newer(
    phone: Client, seasoned: Path, contents: dict[int, bytes], forger: Any
) -> None:
    shutil.copytree(seasoned, phone.cache, symlinks=True)

    def lead_back(timestamp: Any) -> None:  # signed: somebody has the timestamp's key
        old = forger.metadata / "2.snapshot.json"
        timestamp.version += 1
        timestamp.snapshot_meta = _as_it_lies(old)

    forger.edit("timestamp", lead_back)
    assert_keeps(phone, contents, "It is older than what this client has seen.")


def _as_it_lies(path: Path) -> Any:
    content = path.read_bytes()
    return MetaFile.from_data(Metadata[Any].from_bytes(content).signed.version, content, ["sha256"])


def test_what_is_said_about_a_version_and_was_edited_is_not_believed(
    registry: Registry, phone: Client, forger: Any
) -> None:
    path = forger.newest_target("taxi-fare/3/model.record.json")
    path.write_text(path.read_text().replace("97", "11"))
    with pytest.raises(RegistryError, match=re.escape(DIFFERS)):
        registry.verify()
    with pytest.raises(RegistryError, match=re.escape("a file differs from what was signed")):
        phone.record("taxi-fare", 3)
    assert phone.fetch("taxi-fare").version == 3  # which needs none of it


def test_a_record_of_a_version_that_is_too_long_is_not_asked_for(phone: Client, forger: Any) -> None:
    def lengthen(signed: Any) -> None:
        signed.version += 1
        signed.targets[names.record_path("taxi-fare", 3)].length = 2**20 + 1

    forger.edit("model-taxi-fare", lengthen)
    with pytest.raises(
        RegistryError, match=re.escape("must have 1048576 bytes at most; 1048577 were signed")
    ):
        phone.record("taxi-fare", 3)


def test_a_file_may_be_as_large_as_the_limit_and_no_larger(phone: Client) -> None:
    phone.limits = Limits(file_bytes=250)
    assert phone.fetch("taxi-fare", version=3).size_bytes == 250
    phone.limits = Limits(file_bytes=249)
    with pytest.raises(RegistryError, match=re.escape("must have 249 bytes at most; 250 were signed. Raise")):
        phone.fetch("taxi-fare", version=3, fall_back=False)


def test_a_folder_of_the_registry_that_leads_out_of_it_is_not_followed(
    phone: Client, seasoned: Path, contents: dict[int, bytes], forger: Any, tmp_path: Path
) -> None:
    shutil.copytree(seasoned, phone.cache, symlinks=True)
    shutil.move(forger.repository / "targets", tmp_path / "outside")
    (forger.repository / "targets").symlink_to(tmp_path / "outside")
    assert_keeps(phone, contents, "a file is missing or not served")


def _expired(expire: Callable[[Any], None]) -> Callable[[Any], None]:
    def change(signed: Any) -> None:
        expire(signed)
        _next_version(signed)

    return change
