"""A first release is only where nothing was ever released; everything between is an error."""

import dataclasses
import datetime
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfx_mobile.common import jsonable
from tfx_mobile.common.errors import RegistryError
from tfx_mobile.common.releases import Release
from tfx_mobile.registry import repository
from tfx_mobile.registry.records import VersionRecord
from tfx_mobile.registry.store import Registry
from tfx_mobile.registry_model.config import RegistryModelConfig
from tfx_mobile.registry_model.lookup import history_json, look_up, release

FIGURES = {
    "gz_size_bytes": 900,
    "size_bytes": 1500,
    "metrics": {"rmse_ppm": 2_500_000, "mae_ppm": 1_250_000},
    "latency_p50_ns": 7_100,
}


@dataclasses.dataclass(frozen=True)
class World:
    """A place where a registry may be, and how a pipeline looks at it."""

    folder: Path

    @property
    def registry(self) -> Path:
        return self.folder / "registry"

    @property
    def keys(self) -> Path:
        return self.folder / "registry.keys"

    def config(self, **changed: str) -> RegistryModelConfig:
        given = {"registry": str(self.registry), "model_name": "taxi", "cache": str(self.folder / "cache")}
        return RegistryModelConfig(**(given | changed))

    def publish(self, content: bytes, **settings: Any) -> None:
        Registry.open_or_create(self.registry).publish(
            "taxi", content, **({"metadata": {"figures": FIGURES}} | settings)
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def versions(world: World, **changed: str) -> list[int]:
    return [record.version for record in look_up(world.config(**changed)).records]


def test_where_there_is_no_registry_the_first_release_is_said_with_its_reason(world: World) -> None:
    found = look_up(world.config())
    assert (found.client, found.records) == (None, ())
    assert found.reason == f"there is no registry at {world.registry} yet"
    assert not (world.folder / "cache").exists()


@pytest.mark.parametrize("leftover", [(), ("metadata",), (".lock",)], ids=str)
def test_a_folder_without_a_file_is_no_registry_yet(world: World, leftover: tuple[str, ...]) -> None:
    world.registry.mkdir()
    for name in leftover:
        (world.registry / name).touch() if name.startswith(".") else (world.registry / name).mkdir()
    assert look_up(world.config()).client is None


def test_a_registry_without_the_model_and_one_without_the_channel_are_first_releases(world: World) -> None:
    world.publish(b"one", channel="beta")
    no_model, no_channel = look_up(world.config(model_name="other")), look_up(world.config())
    assert no_model.records == no_channel.records == ()
    assert no_model.reason == "channel 'stable' of 'other' offers nothing yet"
    assert no_channel.reason == "channel 'stable' of 'taxi' offers nothing yet"
    assert versions(world, channel="beta") == [1]


def test_the_releases_end_with_what_the_channel_points_to(world: World) -> None:
    for content in (b"one", b"two"):
        world.publish(content)
    world.publish(b"three", channel="beta")
    assert versions(world) == [1, 2]
    assert versions(world, channel="beta") == [1, 2, 3]


def test_numbers_that_were_left_out_and_a_limit_leave_the_newest_releases(world: World) -> None:
    for version in (1, 7, 2_000, 2_001):
        world.publish(f"content {version}".encode(), version=version)
    client = look_up(world.config()).client
    assert client is not None
    assert [record.version for record in client.releases("taxi")] == [1, 7, 2_000, 2_001]
    assert [record.version for record in client.releases("taxi", limit=2)] == [2_000, 2_001]
    world.publish(b"by date", version=20_261_121)
    assert [record.version for record in client.releases("taxi")] == [20_261_121]  # 10,000 numbers, no more


def test_the_key_changes_with_each_version_and_stays_between(world: World) -> None:
    keys = [look_up(world.config()).key]
    for content in (b"one", b"two"):
        world.publish(content)
        keys += [look_up(world.config()).key, look_up(world.config()).key]
    assert keys[1] == keys[2]
    assert keys[3] == keys[4]
    assert len(set(keys)) == 3
    world.publish(b"three", channel="beta")
    Registry(world.registry).refresh()
    assert look_up(world.config()).key == keys[4]


def remove_repository(world: World) -> None:
    shutil.rmtree(world.registry)


def empty_repository(world: World) -> None:
    shutil.rmtree(world.registry)
    world.registry.mkdir()


def remove_timestamp(world: World) -> None:
    (world.registry / "metadata" / "timestamp.json").unlink()


def remove_metadata(world: World) -> None:
    shutil.rmtree(world.registry / "metadata")


def remove_metadata_and_keys(world: World) -> None:
    shutil.rmtree(world.registry / "metadata")
    shutil.rmtree(world.keys)


def remove_keys(world: World) -> None:
    shutil.rmtree(world.keys)


def put_a_file_in_its_place(world: World) -> None:
    shutil.rmtree(world.registry)
    shutil.rmtree(world.keys)
    world.registry.write_text("not a folder")


def tamper_role(world: World) -> None:
    path = max((world.registry / "metadata").glob("*.model-taxi.json"))
    path.write_bytes(path.read_bytes().replace(b'"length": 3', b'"length": 4').replace(b"taxi/1", b"taxi/9"))


def tamper_channel(world: World) -> None:
    for path in (world.registry / "targets" / "taxi" / "channels").glob("*.stable.json"):
        path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":2'))


def other_keys(world: World) -> None:
    Registry.create(world.folder / "other")
    shutil.copy(world.folder / "other.keys" / "root.json", world.keys / "root.json")


def spoil_root(world: World) -> None:
    (world.keys / "root.json").write_text("{}")


NO_REPOSITORY = "must be at {folder}/registry; there is none. Mount it or restore it from a backup"
NO_ROOT = "must be at {folder}/registry.keys/root.json; there is none. Name the root.json of its keys folder"
REFUSED = "Registry {folder}/registry was refused: "


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_repository, NO_REPOSITORY),
        (empty_repository, NO_REPOSITORY),
        (remove_keys, NO_ROOT),
        (remove_metadata_and_keys, NO_ROOT),
        (put_a_file_in_its_place, NO_ROOT),
        (remove_timestamp, REFUSED + "a file is missing or not served"),
        (remove_metadata, REFUSED + "a file is missing or not served"),
        (tamper_role, REFUSED + "a file differs from what was signed"),
        (tamper_channel, REFUSED + "a file differs from what was signed"),
        (other_keys, REFUSED),
        (spoil_root, REFUSED),
    ],
)
def test_a_broken_registry_is_an_error_and_never_a_first_release(
    world: World, damage: Callable[[World], None], message: str
) -> None:
    world.publish(b"one")
    damage(world)
    with pytest.raises(RegistryError, match=re.escape(message.format(folder=world.folder))):
        look_up(world.config())


def test_an_expired_registry_is_an_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "TIMESTAMP_LIFETIME", datetime.timedelta(seconds=-1))
    world.publish(b"one")
    with pytest.raises(RegistryError, match=re.escape("has to run `tfx-mobile registry refresh`")):
        look_up(world.config())


def test_a_staged_release_is_the_baseline_only_when_most_phones_have_it(world: World) -> None:
    world.publish(b"one", rollout_permille=100)  # the first ever: nobody has another one
    assert versions(world) == [1]
    world.publish(b"two", rollout_permille=50)
    assert versions(world) == [1]
    Registry(world.registry).set_rollout("taxi", "stable", 500, version=2)
    assert versions(world) == [1, 2]


def test_a_release_that_was_halted_before_anybody_had_it_is_a_first_release(world: World) -> None:
    world.publish(b"one", rollout_permille=0)
    found = look_up(world.config())
    assert (found.records, found.reason) == ((), "channel 'stable' of 'taxi' offers nothing yet")


def test_an_older_copy_of_the_registry_is_refused_by_who_has_seen_the_newer(world: World) -> None:
    world.publish(b"one")
    shutil.copytree(world.registry, world.folder / "old")
    world.publish(b"two")
    assert versions(world) == [1, 2]
    shutil.rmtree(world.registry)
    shutil.copytree(world.folder / "old", world.registry)
    with pytest.raises(RegistryError, match=re.escape("It is older than what this client has seen.")):
        look_up(world.config())


def test_a_folder_that_cannot_be_looked_at_is_an_error(world: World) -> None:
    world.registry.symlink_to(world.registry)
    message = f"Registry {world.registry} and its root must be readable; {world.registry}: "
    with pytest.raises(RegistryError, match=re.escape(message)):
        look_up(world.config())


def test_a_name_for_the_root_may_be_given_and_a_registry_elsewhere_is_never_missing(world: World) -> None:
    world.publish(b"one")
    root = world.folder / "root.json"
    shutil.copy(world.keys / "root.json", root)
    shutil.rmtree(world.keys)
    assert versions(world, root=str(root)) == [1]
    assert versions(world, root=str(root), registry=world.registry.as_uri()) == [1]
    with pytest.raises(RegistryError, match=re.escape("was refused: ")):
        look_up(world.config(root=str(root), registry=(world.folder / "nowhere").as_uri()))


def record(metadata: dict[str, Any]) -> VersionRecord:
    return VersionRecord("taxi", 3, "default", "ab", 1600, 1_700_000_000, metadata)


def test_a_release_has_what_was_signed_in_the_units_of_an_evaluation() -> None:
    found = release(record({"figures": FIGURES}))
    assert found.version == 3
    assert found.published == "2023-11-14T22:13:20+00:00"
    assert (found.size_bytes, found.gz_size_bytes) == (1600, 900)
    assert found.metrics == {"rmse": 2.5, "mae": 1.25}
    assert found.latency_p50_us == 7.1


@pytest.mark.parametrize(
    "figures",
    [None, "none", [], {}, {"metrics": []}, {"metrics": {"rmse": 1, "mae_ppm": "1"}, "latency_p50_ns": True}],
)
def test_figures_of_another_form_are_left_out(figures: Any) -> None:
    found = release(record({"figures": figures}))
    assert (found.metrics, found.latency_p50_us, found.gz_size_bytes) == ({}, None, 0)


LEAVES = st.sampled_from([None, True, -1, 0, 7, 2**63, 10**400, "", "7"])
JSON = LEAVES | st.lists(LEAVES, max_size=2) | st.dictionaries(st.sampled_from(["a_ppm", "b"]), LEAVES)
FIELDS = st.sampled_from(["metrics", "latency_p50_ns", "gz_size_bytes", "x"])


@given(st.dictionaries(FIELDS, JSON), st.sampled_from([-(10**18), 0, 10**18]))
def test_no_signed_figures_stop_a_pipeline(figures: dict[str, Any], published_unix_s: int) -> None:
    signed = dataclasses.replace(record({"figures": figures}), published_unix_s=published_unix_s)
    (found,) = jsonable.loads(history_json([signed]), where="history")
    assert Release.from_dict(found) == release(signed)
