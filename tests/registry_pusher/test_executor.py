"""Real artifacts, a real registry, and what a phone gets from it."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.registry.client import Client
from tfx_mobile.registry.store import Registry
from tfx_mobile.registry_pusher.config import PusherConfig

pytestmark = pytest.mark.pipeline

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

    def blessing(self, *, blessed: bool, verdict: str = "") -> Any:
        from tfx.types import standard_artifacts

        artifact = standard_artifacts.ModelBlessing()
        artifact.uri = str(self.folder / f"blessing_{blessed}")
        Path(artifact.uri).mkdir(exist_ok=True)
        (Path(artifact.uri) / ("BLESSED" if blessed else "NOT_BLESSED")).touch()
        artifact.set_int_custom_property("blessed", int(blessed))
        if verdict:
            artifact.set_string_custom_property("verdict", verdict)
        return artifact

    def push(self, model: Any, blessing: Any, **changed: Any) -> Any:
        """Returns the PushedModel artifact."""
        from tfx.types import standard_artifacts

        from tfx_mobile.registry_pusher.executor import Executor

        pushed = standard_artifacts.PushedModel()
        pushed.uri = str(self.folder / "pushed")
        config = PusherConfig(**({"registry": str(self.registry), "model_name": "taxi-fare"} | changed))
        Executor().Do(
            {"model": [model], "blessing": [blessing]},
            {"pushed_model": [pushed]},
            {"config": config.to_json()},
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
