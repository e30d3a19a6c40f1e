"""What TFX's own Pusher and Resolver make of our blessings, in a real pipeline."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from tests.size_latency_evaluator.test_component import QUICK

from tfx_mobile.common.errors import DataError
from tfx_mobile.size_latency_evaluator.config import AccuracyGate, Metric, Override, SizeGate
from tfx_mobile.size_latency_evaluator.evaluation import Evaluation, load_evaluation

pytestmark = pytest.mark.pipeline

SIGNED_OFF = Override(by="Ada", reason="The fair is tomorrow", date="2026-11-21")


@dataclasses.dataclass(frozen=True)
class Ran:
    """What one run left."""

    evaluation: Evaluation
    outputs: Any
    pushed: list[bytes]

    def one(self, component: str, key: str) -> Any:
        (artifact,) = self.outputs[component][key]
        return artifact


def run(folder: Path, tiny: Any, *, gates: list[Any], upstream: int | None = None, **settings: Any) -> Ran:
    """Runs Resolver, Importers -> SizeLatencyEvaluator -> BlessingWithModelId -> stock Pusher."""
    from tfx import v1 as tfx
    from tfx.types import standard_artifacts

    import tfx_mobile as tm
    from tfx_mobile.common import artifacts
    from tfx_mobile.orchestration import local

    if not (folder / "candidates").exists():
        tiny.candidate_folder(folder / "candidates", ["s0-float32", "s0-dynamic"])
        (folder / "upstream").mkdir()
    examples = tfx.dsl.Importer(
        source_uri=str(tiny.examples),
        artifact_type=standard_artifacts.Examples,
        properties={"split_names": '["eval"]'},
    ).with_id("Examples")
    candidates = tfx.dsl.Importer(
        source_uri=str(folder / "candidates"), artifact_type=artifacts.ModelCandidates
    ).with_id("Candidates")
    resolver = stock_resolver()
    components = [examples, candidates, resolver]
    if upstream is not None:
        other = tfx.dsl.Importer(
            source_uri=str(folder / "upstream"),
            artifact_type=standard_artifacts.ModelBlessing,
            custom_properties={"blessed": upstream},
        ).with_id("Upstream")
        components.append(other)
        settings["upstream_blessing"] = other.outputs["result"]
    evaluator = tm.SizeLatencyEvaluator(
        candidates=candidates.outputs["result"],
        examples=examples.outputs["result"],
        baseline=resolver.outputs["model"],
        label_key="fare",
        gates=gates,
        latency=QUICK,
        **settings,
    )
    blessing = tm.BlessingWithModelId(evaluator.outputs["model"], evaluator.outputs["blessing"])
    pusher = tfx.components.Pusher(
        model=evaluator.outputs["model"],
        model_blessing=blessing.outputs["model_blessing"],
        push_destination=tfx.proto.PushDestination(
            filesystem=tfx.proto.PushDestination.Filesystem(base_directory=str(folder / "pushed"))
        ),
    )
    components += [evaluator, blessing, pusher]
    done = local.run(local.local_pipeline("blessed", components, folder), log_file=folder / "log")
    (evaluation,) = done.outputs["SizeLatencyEvaluator"]["evaluation"]
    pushed = [path.read_bytes() for path in sorted((folder / "pushed").rglob("tflite"))]
    return Ran(load_evaluation(evaluation.uri), done.outputs, pushed)


def stock_resolver() -> Any:
    from tfx import v1 as tfx
    from tfx.types import channel, standard_artifacts

    return tfx.dsl.Resolver(
        strategy_class=tfx.dsl.experimental.LatestBlessedModelStrategy,
        model=channel.Channel(
            type=standard_artifacts.Model, producer_component_id="SizeLatencyEvaluator", output_key="model"
        ),
        model_blessing=channel.Channel(
            type=standard_artifacts.ModelBlessing,
            producer_component_id="BlessingWithModelId",
            output_key="model_blessing",
        ),
    ).with_id("LatestBlessed")


GOOD = [AccuracyGate(Metric.RMSE, max_increase_fraction=0.5)]
IMPOSSIBLE = [SizeGate(max_gz_bytes=10)]


@pytest.fixture(scope="module")
def story(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """A blessed model; one that upstream refuses; one by override; what is resolved in the end."""
    folder = tmp_path_factory.mktemp("blessed")
    return {
        "blessed": run(folder, tiny, gates=GOOD, upstream=1),
        "refused": run(folder, tiny, gates=GOOD, upstream=0, override=SIGNED_OFF),
        "override": run(folder, tiny, gates=IMPOSSIBLE, override=SIGNED_OFF),
    }


def test_the_stock_pusher_pushes_what_both_bless(story: dict[str, Ran], tiny: Any) -> None:
    found = story["blessed"]
    assert found.evaluation.blessed
    assert found.pushed == [tiny.contents[found.evaluation.chosen]]
    assert found.one("Pusher", "pushed_model").properties["pushed"] == 1


def test_a_refusal_upstream_is_not_blessed_although_every_gate_passes_and_there_is_an_override(
    story: dict[str, Ran],
) -> None:
    found = story["refused"]
    assert not found.evaluation.blessed
    assert not found.evaluation.overridden
    assert found.evaluation.candidate(found.evaluation.chosen).passes
    assert found.evaluation.reason.startswith(
        "The upstream blessing is needed and refused: the blessing says NOT_BLESSED. Apart from it: '"
    )
    for component, key in (("SizeLatencyEvaluator", "blessing"), ("BlessingWithModelId", "model_blessing")):
        blessing = found.one(component, key)
        assert blessing.properties["blessed"] == 0
        assert "override" not in blessing.properties
        assert blessing.properties["verdict"].startswith("NOT_BLESSED: The upstream blessing is needed and")
        assert [path.name for path in Path(blessing.uri).iterdir()] == ["NOT_BLESSED"]


def test_the_stock_pusher_pushes_nothing_that_upstream_refuses(story: dict[str, Ran]) -> None:
    found = story["refused"]
    assert found.one("Pusher", "pushed_model").properties["pushed"] == 0
    assert found.pushed == story["blessed"].pushed


def test_the_stock_resolver_finds_the_latest_blessed_model(story: dict[str, Ran]) -> None:
    assert story["blessed"].evaluation.first_release
    first = story["blessed"].one("SizeLatencyEvaluator", "model")
    for name in ("refused", "override"):  # the refused one is newer, and is not found
        provenance = story[name].evaluation.provenance or {}
        assert provenance["baseline_uri"] == first.uri
        assert not story[name].evaluation.first_release


def test_an_override_is_in_the_blessing_by_name_reason_and_date(story: dict[str, Ran]) -> None:
    found = story["override"]
    assert found.evaluation.overridden
    for component, key in (("SizeLatencyEvaluator", "blessing"), ("BlessingWithModelId", "model_blessing")):
        properties = found.one(component, key).properties
        assert properties["blessed"] == 1
        assert Override.from_json(properties["override"]) == SIGNED_OFF


def test_the_blessing_has_all_that_stock_components_read(story: dict[str, Ran]) -> None:
    found = story["override"]
    model = found.one("SizeLatencyEvaluator", "model")
    properties = found.one("BlessingWithModelId", "model_blessing").properties
    provenance = found.evaluation.provenance or {}
    assert properties["current_model"] == model.uri
    assert properties["current_model_id"] > 0
    assert properties["component_id"] == "SizeLatencyEvaluator"
    assert properties["baseline_model"] == provenance["baseline_uri"]
    assert str(properties["baseline_model_id"]) == provenance["baseline_id"]


def execute(folder: Path, **properties: Any) -> Any:
    from tfx.types import standard_artifacts

    from tfx_mobile.blessing_with_model_id.executor import Executor

    model = standard_artifacts.Model()
    given, made = standard_artifacts.ModelBlessing(), standard_artifacts.ModelBlessing()
    model.uri, given.uri, made.uri = (str(folder / name) for name in ("model", "given", "made"))
    model.id = 7
    Path(given.uri).mkdir()
    for key, value in ({"current_model": model.uri} | properties).items():
        (given.set_int_custom_property if isinstance(value, int) else given.set_string_custom_property)(
            key, value
        )
    Executor().Do({"model": [model], "blessing": [given]}, {"model_blessing": [made]}, {})
    return made


def test_a_blessing_of_another_model_is_refused(tmp_path: Path) -> None:
    message = f"blessing must be about the model in {tmp_path / 'model'}; got one about /other. Connect both"
    with pytest.raises(DataError, match=re.escape(message)):
        execute(tmp_path, current_model="/other", blessed=1)


def test_a_blessing_that_says_nothing_stays_a_refusal(tmp_path: Path) -> None:
    made = execute(tmp_path)
    assert made.get_int_custom_property("blessed") == 0
    assert made.get_int_custom_property("current_model_id") == 7
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["NOT_BLESSED"]
