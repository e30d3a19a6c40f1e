"""Real artifacts, a real registry, and what a phone gets from it."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tfx_mobile import cli
from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.registry.client import Client
from tfx_mobile.registry.store import Registry
from tfx_mobile.registry_pusher.config import PusherConfig
from tfx_mobile.size_latency_evaluator.config import Override

pytestmark = pytest.mark.pipeline

OVERRIDE = Override(by="Ada Lovelace", reason="The fair is tomorrow, see /wiki/fair", date="2026-11-21")
FIGURES = {"gz_size_bytes": 1234, "p50_ns": 5678, "name": "s75-int8"}


@dataclasses.dataclass(frozen=True)
class World:
    """A place with a registry to be."""

    folder: Path

    @property
    def registry(self) -> Path:
        return self.folder / "registry"

    def model(self, name: str = "one", *, content: bytes | None = b"TFL3 one", figures: Any = FIGURES) -> Any:
        from tfx.types import standard_artifacts

        artifact = standard_artifacts.Model()
        artifact.uri = str(self.folder / name)
        serving = Path(artifact.uri) / "Format-Serving"
        serving.mkdir(parents=True)
        if content is not None:
            (serving / "tflite").write_bytes(content)
        if figures is not None:
            artifact.set_string_custom_property("figures", json.dumps(figures))
        return artifact

    def blessing(self, *, blessed: bool, verdict: str = "", name: str = "blessing") -> Any:
        from tfx.types import standard_artifacts

        artifact = standard_artifacts.ModelBlessing()
        artifact.uri = str(self.folder / f"{name}_{blessed}")
        Path(artifact.uri).mkdir(exist_ok=True)
        (Path(artifact.uri) / ("BLESSED" if blessed else "NOT_BLESSED")).touch()
        artifact.set_int_custom_property("blessed", int(blessed))
        if verdict:
            artifact.set_string_custom_property("verdict", verdict)
        return artifact

    def push(self, model: Any, blessing: Any, *, upstream: list[Any] | None = None, **changed: Any) -> Any:
        """Returns the PushedModel artifact; with `upstream`, even if it is empty, as if one were wired."""
        from tfx.types import standard_artifacts

        from tfx_mobile.registry_pusher.executor import Executor

        pushed = standard_artifacts.PushedModel()
        pushed.uri = str(self.folder / "pushed")
        config = PusherConfig(**({"registry": str(self.registry), "model_name": "taxi-fare"} | changed))
        Executor().Do(
            {"model": [model], "blessing": [blessing], "upstream_blessing": upstream or []},
            {"pushed_model": [pushed]},
            {"config": config.to_json(), "needs_upstream_blessing": int(upstream is not None)},
        )
        return pushed

    def fetch(self, channel: str = "stable") -> Any:
        root = Registry(self.registry).root_path
        phone = Client(str(self.registry), root=root, cache=self.folder / "phone")
        return phone.fetch("taxi-fare", channel)

    def everything(self) -> dict[str, bytes | None]:
        """Returns every path below the folder, with its bytes where it is a file."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes() if path.is_file() else None
            for path in sorted(self.folder.rglob("*"))
        }


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_blessed_model_reaches_a_phone_with_its_signed_figures(world: World) -> None:
    pushed = world.push(world.model(), world.blessing(blessed=True, verdict="s75-int8 passes every gate"))
    fetched = world.fetch()
    assert fetched.path.read_bytes() == b"TFL3 one"
    assert fetched.version == 1
    assert fetched.metadata["figures"] == FIGURES
    assert fetched.metadata["verdict"] == "s75-int8 passes every gate"
    assert (Path(pushed.uri) / "tflite").read_bytes() == b"TFL3 one"
    assert pushed.get_int_custom_property("pushed") == 1
    assert pushed.get_string_custom_property("pushed_destination") == str(world.registry)
    assert pushed.get_string_custom_property("pushed_version") == "1"


def test_a_model_without_figures_is_pushed_without(world: World) -> None:
    world.push(world.model(figures=None), world.blessing(blessed=True))
    assert world.fetch().metadata["figures"] == {}


@pytest.mark.parametrize(
    ("verdict", "reason"), [("size gate failed", "size gate failed"), ("", "the blessing says NOT_BLESSED")]
)
def test_a_model_that_is_not_blessed_makes_no_registry(world: World, verdict: str, reason: str) -> None:
    model, blessing = world.model(), world.blessing(blessed=False, verdict=verdict)
    before = world.everything()
    pushed = world.push(model, blessing)
    assert world.everything() == before
    assert pushed.get_int_custom_property("pushed") == 0
    assert pushed.get_string_custom_property("reason") == reason


def test_a_model_that_is_not_blessed_changes_no_byte_of_a_registry(world: World) -> None:
    world.push(world.model(), world.blessing(blessed=True))
    second = world.model("two", content=b"TFL3 two")
    blessing = world.blessing(blessed=False)
    before = world.everything()
    world.push(second, blessing)
    assert world.everything() == before
    assert world.fetch().path.read_bytes() == b"TFL3 one"


def test_a_model_without_a_tflite_file_is_refused_and_makes_no_registry(world: World) -> None:
    model, blessing = world.model(content=None), world.blessing(blessed=True)
    before = world.everything()
    with pytest.raises(
        DataError,
        match=re.escape(
            "A model for phones must have one TFLite file, 'tflite' or '*.tflite'; got nothing in "
            f"{world.folder / 'one' / 'Format-Serving'}."
        ),
    ):
        world.push(model, blessing)
    assert world.everything() == before


def test_the_same_bytes_again_are_the_same_version(world: World) -> None:
    first = world.push(world.model(), world.blessing(blessed=True))
    again = world.push(world.model("copy"), world.blessing(blessed=True))
    assert first.get_string_custom_property("pushed_version") == "1"
    assert again.get_string_custom_property("pushed_version") == "1"
    assert [record.version for record in Registry(world.registry).versions("taxi-fare")] == [1]


def test_other_bytes_are_the_next_version(world: World) -> None:
    world.push(world.model(), world.blessing(blessed=True))
    pushed = world.push(world.model("two", content=b"TFL3 two"), world.blessing(blessed=True))
    assert pushed.get_string_custom_property("pushed_version") == "2"
    assert world.fetch().path.read_bytes() == b"TFL3 two"


def test_another_channel_leaves_stable_as_it_is(world: World) -> None:
    world.push(world.model(), world.blessing(blessed=True))
    world.push(world.model("two", content=b"TFL3 two"), world.blessing(blessed=True), channel="beta")
    assert world.fetch("stable").version == 1
    assert world.fetch("beta").version == 2


def test_keys_go_where_the_setting_says(world: World) -> None:
    keys = world.folder / "safe"
    world.push(world.model(), world.blessing(blessed=True), keys=str(keys))
    assert (keys / "timestamp.pem").stat().st_mode & 0o777 == 0o600
    assert not world.registry.with_name("registry.keys").exists()


def test_figures_that_are_no_json_are_refused_and_make_no_registry(world: World) -> None:
    model, blessing = world.model(figures=None), world.blessing(blessed=True)
    model.set_string_custom_property("figures", "{")
    before = world.everything()
    with pytest.raises(ConfigError, match=re.escape("property 'figures' must be JSON; ")):
        world.push(model, blessing)
    assert world.everything() == before


def test_figures_that_cannot_be_signed_make_no_registry(world: World) -> None:
    model, blessing = world.model(figures={"rmse": 0.5}), world.blessing(blessed=True)
    before = world.everything()
    with pytest.raises(
        ConfigError,
        match=re.escape(
            "metadata.figures.rmse must not be a float, TUF signs none; got 0.5. Give an integer"
        ),
    ):
        world.push(model, blessing)
    assert world.everything() == before


def unnamed(world: World) -> list[Any]:
    blessing = world.blessing(blessed=True, name="upstream")
    del blessing.mlmd_artifact.custom_properties["blessed"]
    return [blessing]


def in_words(world: World) -> list[Any]:
    (blessing,) = unnamed(world)
    blessing.set_string_custom_property("blessed", "1")
    return [blessing]


def contradicted(world: World) -> list[Any]:
    blessing = world.blessing(blessed=True, name="upstream")
    (Path(blessing.uri) / "NOT_BLESSED").touch()
    return [blessing]


def removed(world: World) -> list[Any]:
    blessing = world.blessing(blessed=True, name="upstream")
    shutil.rmtree(blessing.uri)
    return [blessing]


def rubber_stamp_without_a_yes(world: World) -> list[Any]:
    (blessing,) = unnamed(world)
    blessing.set_int_custom_property("blessed", 2)
    return [blessing]


@pytest.mark.parametrize(
    ("upstream", "reason"),
    [
        (lambda world: [], "upstream: there must be one blessing; got 0."),
        (
            lambda world: [world.blessing(blessed=True, name=name) for name in ("a", "b")],
            "upstream: there must be one blessing; got 2.",
        ),
        (lambda world: [world.blessing(blessed=False)], "upstream: the blessing says NOT_BLESSED"),
        (lambda world: [world.blessing(blessed=False, verdict="AUC fell")], "upstream: AUC fell"),
        (unnamed, "upstream: a blessing must have the custom property 'blessed'; got none in "),
        (in_words, "upstream: the blessing says NOT_BLESSED"),
        (rubber_stamp_without_a_yes, "upstream: the blessing says NOT_BLESSED"),
        (
            contradicted,
            "upstream: a blessing must not contradict itself; got 'blessed' = 1 and NOT_BLESSED in ",
        ),
        (removed, "upstream: the folder of a blessing must be there; "),
    ],
)
def test_nothing_is_pushed_without_a_clear_yes_from_upstream(
    world: World, upstream: Callable[[World], list[Any]], reason: str
) -> None:
    model, blessing = world.model(), world.blessing(blessed=True, name="ours")
    blessing.set_string_custom_property("override", OVERRIDE.to_json())
    given = upstream(world)
    before = world.everything()
    pushed = world.push(model, blessing, upstream=given)
    assert pushed.get_int_custom_property("pushed") == 0
    assert pushed.get_string_custom_property("reason").startswith(reason)
    assert world.everything() == before


def test_two_blessings_are_better_than_one(world: World) -> None:
    upstream = [world.blessing(blessed=True, name="upstream")]
    pushed = world.push(world.model(), world.blessing(blessed=True), upstream=upstream)
    assert pushed.get_int_custom_property("pushed") == 1


def test_our_own_refusal_is_not_outvoted_by_upstream(world: World) -> None:
    upstream = [world.blessing(blessed=True, name="upstream")]
    pushed = world.push(world.model(), world.blessing(blessed=False, verdict="too large"), upstream=upstream)
    assert pushed.get_string_custom_property("reason") == "too large"


def test_an_override_is_signed_with_the_version_and_shown(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    blessing = world.blessing(blessed=True)
    blessing.set_string_custom_property("override", OVERRIDE.to_json())
    world.push(world.model(), blessing)
    assert world.fetch().metadata["override"] == OVERRIDE.to_dict()
    assert cli.main(["registry", "show", str(world.registry), "taxi-fare"]) == 0
    shown = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    for name, value in OVERRIDE.to_dict().items():
        assert [f"override.{name}", value] in shown


def test_without_an_override_the_registry_says_nothing_of_one(world: World) -> None:
    world.push(world.model(), world.blessing(blessed=True))
    assert "override" not in world.fetch().metadata


@pytest.mark.parametrize(
    ("verdict", "published"),
    [
        ("no file at /home/ada/registry/tflite.", "no file at tflite."),
        ("got '/work/x/a b'", "got 'a b'"),
        ("(file:///srv/models/7/tflite)", "(tflite)"),
        ("gz size ratio 3/4, 5 us/call", "gz size ratio 3/4, 5 us/call"),
        ("see https://tracker/issues/12", "see https://tracker/issues/12"),
    ],
)
def test_a_verdict_is_published_without_local_folders(world: World, verdict: str, published: str) -> None:
    world.push(world.model(), world.blessing(blessed=True, verdict=verdict))
    assert world.fetch().metadata["verdict"] == published


def driven(world: World, **changed: str) -> str:
    """Returns what the driver tells TFX's cache."""
    from types import SimpleNamespace

    from tfx_mobile.registry_pusher.executor import Driver

    config = PusherConfig(**({"registry": str(world.registry), "model_name": "taxi-fare"} | changed))
    info: Any = SimpleNamespace(exec_properties={"config": config.to_json()})
    handle: Any = None  # the driver asks ML Metadata nothing
    return str(Driver(handle).run(info).exec_properties["current"].string_value)


def test_a_push_is_cached_only_while_the_channel_holds_something_and_the_same(world: World) -> None:
    assert driven(world) != driven(world)  # there is no registry: nothing may stand for a push
    world.push(world.model(), world.blessing(blessed=True))
    first = driven(world)
    assert first == driven(world)
    assert driven(world, channel="beta") != driven(world, channel="beta")
    world.push(world.model("two", content=b"TFL3 two"), world.blessing(blessed=True))
    assert driven(world) not in (first, "")
    shutil.move(world.registry, world.folder / "away")
    assert driven(world) != driven(world)
