"""Real artifacts, a real registry, and what a phone gets from it."""

import dataclasses
import hashlib
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.registry_pusher.tflite import tflite

from tfx_mobile import cli
from tfx_mobile.common.errors import ConfigError, DataError, RegistryError
from tfx_mobile.registry.client import Client
from tfx_mobile.registry.store import Registry
from tfx_mobile.registry.targeting import Targeting
from tfx_mobile.registry_pusher.config import PusherConfig
from tfx_mobile.size_latency_evaluator.config import SMALLEST, Override, SizeGate
from tfx_mobile.size_latency_evaluator.evaluation import (
    SCHEMA_VERSION,
    CandidateResult,
    Evaluation,
    Machine,
    Status,
    Verdict,
)

pytestmark = pytest.mark.pipeline

OVERRIDE = Override(by="Ada Lovelace", reason="The fair is tomorrow, see /wiki/fair", date="2026-11-21")
ONE, TWO = tflite(b"one"), tflite(b"two")
FIGURES = {"gz_size_bytes": 1234, "p50_ns": 5678, "name": "s75-int8"}


@dataclasses.dataclass(frozen=True)
class World:
    """A place with a registry to be."""

    folder: Path

    @property
    def registry(self) -> Path:
        return self.folder / "registry"

    def model(self, name: str = "one", *, content: bytes | None = ONE, figures: Any = FIGURES) -> Any:
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

    def push(
        self,
        model: Any,
        blessing: Any,
        *,
        upstream: list[Any] | None = None,
        evaluation: list[Any] | None = None,
        **changed: Any,
    ) -> Any:
        """Returns the PushedModel artifact; with an input, even if it is empty, as if it were wired."""
        from tfx.types import standard_artifacts

        from tfx_mobile.registry_pusher.executor import Executor

        pushed = standard_artifacts.PushedModel()
        pushed.uri = str(self.folder / "pushed")
        config = PusherConfig(**({"registry": str(self.registry), "model_name": "taxi-fare"} | changed))
        Executor().Do(
            {
                "model": [model],
                "blessing": [blessing],
                "upstream_blessing": upstream or [],
                "evaluation": evaluation or [],
            },
            {"pushed_model": [pushed]},
            {
                "config": config.to_json(),
                "needs_upstream_blessing": int(upstream is not None),
                "has_evaluation": int(evaluation is not None),
            },
        )
        return pushed

    def fetch(self, channel: str = "stable") -> Any:
        root = Registry(self.registry).root_path
        phone = Client(str(self.registry), root=root, cache=self.folder / "phone")
        return phone.fetch("taxi-fare", channel)

    def metadata(self) -> Any:
        """Returns what is signed with the newest version."""
        return Registry(self.registry).versions("taxi-fare")[-1].metadata

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
    assert fetched.path.read_bytes() == ONE
    assert fetched.version == 1
    assert world.metadata()["figures"] == FIGURES
    assert world.metadata()["verdict"] == "s75-int8 passes every gate"
    assert (Path(pushed.uri) / "tflite").read_bytes() == ONE
    assert pushed.get_int_custom_property("pushed") == 1
    assert pushed.get_string_custom_property("pushed_destination") == str(world.registry)
    assert pushed.get_string_custom_property("pushed_version") == "1"


def test_a_model_without_figures_is_pushed_without(world: World) -> None:
    world.push(world.model(figures=None), world.blessing(blessed=True))
    assert world.metadata()["figures"] == {}


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
    second = world.model("two", content=TWO)
    blessing = world.blessing(blessed=False)
    before = world.everything()
    world.push(second, blessing)
    assert world.everything() == before
    assert world.fetch().path.read_bytes() == ONE


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
    pushed = world.push(world.model("two", content=TWO), world.blessing(blessed=True))
    assert pushed.get_string_custom_property("pushed_version") == "2"
    assert world.fetch().path.read_bytes() == TWO


def test_another_channel_leaves_stable_as_it_is(world: World) -> None:
    world.push(world.model(), world.blessing(blessed=True))
    world.push(world.model("two", content=TWO), world.blessing(blessed=True), channel="beta")
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


@pytest.mark.parametrize(("settings", "count"), [({}, 1), ({"delta": False}, 0)])
def test_patches_go_along_unless_the_author_leaves_them_out(
    world: World, settings: dict[str, bool], count: int
) -> None:
    for name in ("one", "two"):
        content = tflite(random.Random(0).randbytes(8000) + name.encode())
        world.push(world.model(name, content=content), world.blessing(blessed=True), **settings)
    assert len(list(world.registry.glob("targets/taxi-fare/2/*.bsdiff"))) == count


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
    assert world.metadata()["override"] == OVERRIDE.to_dict()
    assert cli.main(["registry", "show", str(world.registry), "taxi-fare"]) == 0
    shown = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    for name, value in OVERRIDE.to_dict().items():
        assert [f"override.{name}", value] in shown


def test_without_an_override_the_registry_says_nothing_of_one(world: World) -> None:
    world.push(world.model(), world.blessing(blessed=True))
    assert "override" not in world.metadata()


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
    assert world.metadata()["verdict"] == published


NEEDY = tflite(b"needy", runtime="2.10.1", custom_ops=(b"FlexSplit", b"Ours"))


def rollout(world: World, channel: str = "stable") -> Any:
    """Returns what the channel offers first."""
    return Registry(world.registry).channel_records("taxi-fare")[channel].rollouts[0]


def test_what_the_file_needs_is_asked_of_a_device(world: World) -> None:
    world.push(world.model(content=NEEDY), world.blessing(blessed=True))
    asked = rollout(world).targeting
    assert asked == Targeting(min_runtime_version="2.10.1", required_ops=("FlexSplit", "Ours"))
    needs = {"min_runtime_version": "2.10.1", "required_ops": ["FlexSplit", "Ours"]}
    assert world.metadata()["runtime"] == needs


def test_what_the_author_asks_of_a_device_stands(world: World) -> None:
    given = Targeting(platforms=("ios",), min_runtime_version="2.16", required_ops=("Ours",))
    world.push(world.model(content=NEEDY), world.blessing(blessed=True), targeting=given)
    assert rollout(world).targeting == given


def test_a_file_without_needs_asks_nothing(world: World) -> None:
    world.push(world.model(), world.blessing(blessed=True))
    assert rollout(world).targeting == Targeting()


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"TFL3 but nothing else", DataError, "A TFLite file must "),
        (tflite(b"x", runtime="2.x"), DataError, "min_runtime_version in a TFLite file must be one to four"),
        (tflite(b"x", custom_ops=(b"a b",)), ConfigError, "required_ops must be 1 to 63 of letters"),
    ],
)
def test_a_file_whose_needs_are_not_known_is_refused_and_makes_no_registry(
    world: World, content: bytes, error: type[Exception], message: str
) -> None:
    model, blessing = world.model(content=content), world.blessing(blessed=True)
    before = world.everything()
    with pytest.raises(error, match=re.escape(message)):
        world.push(model, blessing)
    assert world.everything() == before


def test_version_variant_and_share_are_as_asked(world: World) -> None:
    blessing = world.blessing(blessed=True)
    gpu = Targeting(abis=("arm64-v8a",))
    world.push(world.model(), blessing, version=7)
    pushed = world.push(world.model("two", content=TWO), blessing, version=7, variant="gpu", targeting=gpu)
    assert pushed.get_string_custom_property("pushed_version") == "7"
    three = tflite(b"three")
    world.push(world.model("three", content=three), blessing, rollout_permille=50)
    (record,) = Registry(world.registry).channel_records("taxi-fare").values()
    offered = {(one.version, one.variant): one.rollout_permille for one in record.rollouts}
    assert offered == {(8, "default"): 50, (7, "default"): 1000, (7, "gpu"): 1000}
    again = world.push(world.model("again", content=three), blessing, rollout_permille=1000)
    assert again.get_string_custom_property("pushed_version") == "8"
    assert rollout(world).rollout_permille == 50  # the same bytes change nothing


def test_what_was_withdrawn_is_not_pushed_again(world: World) -> None:
    world.push(world.model(), world.blessing(blessed=True))
    Registry(world.registry).withdraw("taxi-fare", 1, reason="leaks a name")
    model, blessing = world.model("again"), world.blessing(blessed=True)
    before = world.everything()
    with pytest.raises(RegistryError, match=re.escape("leaks a name")):
        world.push(model, blessing)
    assert world.everything() == before


def test_bytes_that_come_back_changed_are_no_push(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    publish = Registry.publish

    def damaging(registry: Registry, *args: Any, **settings: Any) -> Any:
        published = publish(registry, *args, **settings)
        Path(published.uri).write_bytes(b"other")
        return published

    monkeypatch.setattr(Registry, "publish", damaging)
    message = "Version 1 of 'taxi-fare' must hold sha256 "
    with pytest.raises(RegistryError, match=re.escape(message)):
        world.push(world.model(), world.blessing(blessed=True))
    assert not (world.folder / "pushed").exists()


def evaluated(world: World, content: bytes, name: str = "evaluation") -> Any:
    """Returns the evaluation of one file, which says where it was made."""
    from tfx.types import standard_artifacts

    artifact = standard_artifacts.ModelEvaluation()
    artifact.uri = str(world.folder / name)
    verdicts = (
        Verdict("rmse increase <= 5% vs reference", Status.PASS, "of /home/a/x", 0.0100008, 0.02, 0.05, 0.03),
        Verdict("latency", Status.NOT_COMPARABLE, "no baseline", float("nan"), None, 1.1, None, waived=True),
    )
    chosen = CandidateResult(
        "s75-int8",
        "s75",
        "int8",
        0.75,
        "",
        hashlib.sha256(content).hexdigest(),
        len(content),
        verdicts=verdicts,
    )
    found = Evaluation(
        SCHEMA_VERSION,
        blessed=True,
        chosen="s75-int8",
        reason="passes; see /home/ada/runs/7/log",
        overridden=False,
        override=None,
        label_key="fare",
        eval_split="eval",
        eval_rows=3,
        metrics=(),
        gates=(SizeGate(max_ratio=0.5),),
        objective=SMALLEST,
        reference="s75-int8",
        first_release=True,
        baseline=None,
        candidates=(chosen,),
        machine=Machine("cpu", 2, False, 0.0, 0.0, "Linux", "LiteRT", 1, 1.0),
        provenance={"pipeline": "taxi", "examples_uri": "/home/ada/examples/3"},
    )
    Path(artifact.uri).mkdir()
    text = json.dumps(found.to_dict()).replace("NaN", "null")
    (Path(artifact.uri) / "evaluation.json").write_text(text)
    return artifact


def test_the_evaluation_is_kept_beside_the_file_without_local_paths(world: World) -> None:
    evaluation = [evaluated(world, ONE)]
    world.push(world.model(), world.blessing(blessed=True), evaluation=evaluation)
    kept = Registry(world.registry).attachments("taxi-fare", 1)
    assert set(kept) == {"evaluation.html", "evaluation.json"}
    assert b"s75-int8" in kept["evaluation.html"]
    for content in kept.values():
        assert b"/home/ada" not in content
        assert b"see log" in content
    assert json.loads(kept["evaluation.json"])["provenance"] == {"pipeline": "taxi"}
    assert world.metadata()["gates"] == [
        {
            "gate": "rmse increase <= 5% vs reference",
            "status": "pass",
            "waived": False,
            "value_ppm": 10_001,
            "bound_ppm": 20_000,
            "limit_ppm": 50_000,
        },
        {"gate": "latency", "status": "not comparable", "waived": True, "limit_ppm": 1_100_000},
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda world: [], "There must be one evaluation of a model that is pushed with one; got 0."),
        (
            lambda world: [evaluated(world, ONE, name) for name in ("a", "b")],
            "There must be one evaluation of a model that is pushed with one; got 2.",
        ),
        (lambda world: [evaluated(world, TWO)], "The evaluation must be of the file that is pushed, sha256 "),
        (lambda world: [world.model("x")], "An evaluation artifact must hold evaluation.json; got none in "),
    ],
)
def test_a_push_with_the_evaluation_of_something_else_is_refused(
    world: World, make: Callable[[World], list[Any]], message: str
) -> None:
    model, blessing, evaluation = world.model(), world.blessing(blessed=True), make(world)
    before = world.everything()
    with pytest.raises(DataError, match=re.escape(message)):
        world.push(model, blessing, evaluation=evaluation)
    assert world.everything() == before


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
    world.push(world.model("two", content=TWO), world.blessing(blessed=True))
    second = driven(world)
    assert second not in (first, "")
    registry = Registry(world.registry)
    registry.refresh()
    assert driven(world) == second
    registry.set_rollout("taxi-fare", "stable", 500)
    assert driven(world) not in (first, second)
    registry.rollback("taxi-fare", reason="crashes")
    assert driven(world) not in (first, second)
    shutil.move(world.registry, world.folder / "away")
    assert driven(world) != driven(world)
