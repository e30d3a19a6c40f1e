"""The component in a real pipeline, release after release; what TFX's cache sees of the registry."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.size_latency_evaluator.test_component import QUICK

from tfx_mobile.common import tflite_metadata
from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.common.tflite_metadata import Feature, ModelMetadata
from tfx_mobile.registry.store import Registry
from tfx_mobile.size_latency_evaluator import stamp
from tfx_mobile.size_latency_evaluator.config import (
    AccuracyGate,
    LatencyGate,
    Metric,
    RelativeTo,
    SizeGate,
)
from tfx_mobile.size_latency_evaluator.evaluation import Evaluation, Status, load_evaluation

pytestmark = pytest.mark.pipeline

GATES = (
    AccuracyGate(Metric.RMSE, max_increase_fraction=0.5),
    AccuracyGate(Metric.RMSE, max_increase_fraction=0.5, relative_to=RelativeTo.BASELINE),
    SizeGate(max_ratio=1.0, relative_to=RelativeTo.BASELINE),
    LatencyGate(max_ratio=20.0, relative_to=RelativeTo.BASELINE),
)


NAMES = ["s0-float32", "s0-dynamic"]


def with_metadata(tiny: Any, name: str) -> bytes:
    """Returns a file as the quantizer leaves it, so that the evaluator writes its stamp into it."""
    content = tiny.contents[name]
    inputs = (Feature("company", "string"), Feature("miles", "float32"))
    return tflite_metadata.write(content, ModelMetadata("fares", "3", inputs, Feature("fare", "float32")))


@dataclasses.dataclass(frozen=True)
class Ran:
    """What one run of the pipeline left."""

    states: dict[str, str]
    baseline: dict[str, Any]
    baseline_uri: Path
    evaluation: Evaluation
    pushed: dict[str, Any]
    log: str
    registry: dict[str, bytes]


def run(folder: Path, tiny: Any) -> Ran:
    """Runs Importers and RegistryModel -> SizeLatencyEvaluator -> RegistryPusher."""
    from tfx import v1 as tfx
    from tfx.types import standard_artifacts

    import tfx_mobile as tm
    from tfx_mobile.common import artifacts
    from tfx_mobile.orchestration import local

    if not (folder / "candidates").exists():
        described = dataclasses.replace(tiny, contents={name: with_metadata(tiny, name) for name in NAMES})
        described.candidate_folder(folder / "candidates", NAMES)
    examples = tfx.dsl.Importer(
        source_uri=str(tiny.examples),
        artifact_type=standard_artifacts.Examples,
        properties={"split_names": '["eval"]'},
    ).with_id("Examples")
    candidates = tfx.dsl.Importer(
        source_uri=str(folder / "candidates"), artifact_type=artifacts.ModelCandidates
    ).with_id("Candidates")
    baseline = tm.RegistryModel(folder / "registry", "fares", cache=folder / "cache")
    evaluator = tm.SizeLatencyEvaluator(
        candidates=candidates.outputs["result"],
        examples=examples.outputs["result"],
        baseline=baseline.outputs["model"],
        label_key="fare",
        gates=GATES,
        latency=QUICK,
    )
    pusher = tm.RegistryPusher(
        model=evaluator.outputs["model"],
        blessing=evaluator.outputs["blessing"],
        evaluation=evaluator.outputs["evaluation"],
        registry=folder / "registry",
        model_name="fares",
    )
    components = [examples, candidates, baseline, evaluator, pusher]
    log = folder / "run.log"
    log.unlink(missing_ok=True)
    done = local.run(local.local_pipeline("fares", components, folder), log_file=log)
    (model,) = done.outputs["RegistryModel"]["model"]
    (evaluation,) = done.outputs["SizeLatencyEvaluator"]["evaluation"]
    return Ran(
        {one.id: one.state.name for one in done.components},
        model.properties,
        Path(model.uri),
        load_evaluation(evaluation.uri),
        done.outputs["RegistryPusher"]["pushed_model"][0].properties,
        log.read_text(),
        contents(folder / "registry"),
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def story(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """Nothing; the same again, twice; a version by somebody else; the registry lost and begun anew."""
    folder = tmp_path_factory.mktemp("releases")
    found = {"first": run(folder, tiny), "again": run(folder, tiny), "third": run(folder, tiny)}
    registry = Registry(folder / "registry")
    registry.publish("fares", tiny.contents["s0-off"], metadata={"figures": {"metrics": {"rmse_ppm": 9}}})
    found["other"] = run(folder, tiny)
    for name in ("registry", "registry.keys"):
        shutil.rmtree(folder / name)
    found["anew"] = run(folder, tiny)
    return found


def test_the_first_release_is_said_and_has_an_empty_folder(story: dict[str, Ran]) -> None:
    first = story["first"]
    assert first.baseline["first_release"] == 1
    assert first.baseline["history"] == "[]"
    assert "version" not in first.baseline
    assert list(first.baseline_uri.iterdir()) == []
    assert "This is the first release of fares: there is no registry at " in first.log
    assert first.evaluation.first_release
    assert first.evaluation.baseline is None
    waived = first.evaluation.candidate(first.evaluation.chosen).verdicts[1:]
    assert [(v.status, v.waived) for v in waived] == [(Status.NOT_COMPARABLE, True)] * 3
    assert (first.pushed["pushed"], first.pushed["pushed_version"]) == (1, "1")


def test_the_next_run_compares_with_what_was_pushed_although_nothing_else_changed(
    story: dict[str, Ran], tiny: Any
) -> None:
    again = story["again"]
    assert again.states == {
        "Examples": "CACHED",
        "Candidates": "CACHED",
        "RegistryModel": "DONE",
        "SizeLatencyEvaluator": "DONE",
        "RegistryPusher": "DONE",
    }
    assert (again.baseline["version"], again.baseline["first_release"]) == (1, 0)
    released = (again.baseline_uri / "Format-Serving" / "tflite").read_bytes()
    assert stamp.unstamped(released) == with_metadata(tiny, "s0-dynamic") != released
    assert json.loads(again.baseline["figures"])["candidate"] == "s0-dynamic"
    assert not again.evaluation.first_release
    verdicts = again.evaluation.candidate("s0-dynamic").verdicts[1:]
    assert [v.status for v in verdicts] == [Status.PASS] * 3
    assert [v.value for v in verdicts] == [0.0, 1.0, 1.0]  # it is the baseline itself


def test_an_unchanged_model_releases_nothing_and_the_run_after_that_is_cached(story: dict[str, Ran]) -> None:
    assert story["again"].registry == story["first"].registry
    assert set(story["third"].states.values()) == {"CACHED"}
    assert story["third"].baseline["version"] == 1


def test_a_version_that_somebody_else_published_is_what_the_next_run_compares_with(
    story: dict[str, Ran], tiny: Any
) -> None:
    other = story["other"]
    assert other.states["RegistryModel"] == other.states["SizeLatencyEvaluator"] == "DONE"
    assert other.baseline["version"] == 2
    assert (other.baseline_uri / "Format-Serving" / "tflite").read_bytes() == tiny.contents["s0-off"]
    assert other.evaluation.baseline is not None
    assert (other.evaluation.baseline.metrics or {})["rmse"] > 1.5  # two off, whatever was said of it
    assert other.pushed["pushed_version"] == "3"


def test_the_evaluation_has_the_history_of_the_registry(story: dict[str, Ran]) -> None:
    assert [len(story[name].evaluation.history) for name in ("first", "again", "other")] == [0, 1, 2]
    first, second = story["other"].evaluation.history
    chosen = story["first"].evaluation.candidate("s0-dynamic")
    assert (first.version, second.version) == (1, 2)
    assert first.gz_size_bytes == chosen.gz_size_bytes
    assert first.metrics == pytest.approx(chosen.metrics, abs=1e-6)  # parts per million were signed
    assert second.metrics == {"rmse": 9e-6}


def test_a_registry_that_was_lost_and_begun_anew_gets_the_model_although_all_of_it_is_cached(
    story: dict[str, Ran],
) -> None:
    anew = story["anew"]
    assert anew.baseline["first_release"] == 1
    assert anew.states["SizeLatencyEvaluator"] == "CACHED"
    assert anew.states["RegistryPusher"] == "DONE"
    assert "metadata/timestamp.json" in anew.registry


def test_the_evaluation_says_what_it_was_made_of(story: dict[str, Ran], tiny: Any) -> None:
    import importlib.metadata

    from tfx_mobile.size_latency_evaluator.provenance import files_sha256

    said = story["other"].evaluation.provenance
    assert said is not None
    assert (said["pipeline"], said["component"]) == ("fares", "SizeLatencyEvaluator")
    assert said["pipeline_run"]
    assert said["baseline_version"] == "2"
    assert said["baseline_sha256"] == story["other"].baseline["sha256"]
    assert said["baseline_uri"] == str(story["other"].baseline_uri)
    assert said["eval_files_sha256"] == files_sha256([f"{tiny.examples}/Split-eval/*"])
    assert said["tfx"] == importlib.metadata.version("tfx")
    assert said["ai_edge_litert"] == importlib.metadata.version("ai-edge-litert")
    assert said["target"] == story["other"].evaluation.machine.target
    assert {"candidates_id", "examples_id", "baseline_id", "code_fingerprint", "tensorflow"} <= set(said)


def test_what_is_published_has_its_provenance_and_no_local_path(story: dict[str, Ran]) -> None:
    for path, content in story["other"].registry.items():
        if not path.endswith(".tflite"):
            assert b"/tmp" not in content
            assert str(story["other"].baseline_uri.parents[2]).encode() not in content
    (record,) = [v for k, v in story["first"].registry.items() if k.endswith(".model.record.json")]
    custom = json.loads(record)["metadata"]
    said = story["first"].evaluation.provenance or {}
    assert custom["provenance"] == {k: v for k, v in said.items() if not k.endswith("_uri")}


def test_the_evaluation_goes_along_and_its_gates_are_said_in_integers(story: dict[str, Ran]) -> None:
    again = story["again"].registry
    (place,) = [path for path in again if path.endswith(".model.with.evaluation.json")]
    assert place.startswith("targets/fares/1/")
    (page,) = [path for path in again if path.endswith(".model.with.evaluation.html")]
    assert again[page].startswith(b"<!doctype html>")
    first = story["first"].evaluation
    kept = Evaluation.from_json(again[place].decode())
    assert kept.candidates == first.candidates
    assert kept.provenance == {k: v for k, v in (first.provenance or {}).items() if not k.endswith("_uri")}
    (record,) = [content for path, content in again.items() if path.endswith(".model.record.json")]
    said = json.loads(record)["metadata"]["gates"]
    verdicts = first.candidate(first.chosen).verdicts
    assert [one["gate"] for one in said] == [verdict.gate for verdict in verdicts]
    assert [(one["status"], one["waived"]) for one in said] == [("pass", False)] + [
        ("not comparable", True)
    ] * 3
    assert said[0]["limit_ppm"] == 500_000
    assert said[0]["value_ppm"] == round(1e6 * (verdicts[0].value or 0))


def test_what_the_file_needs_is_asked_of_a_device(story: dict[str, Ran], tiny: Any) -> None:
    from tfx_mobile.common import inspection

    first = story["first"].registry
    needs = inspection.inspect(tiny.contents["s0-dynamic"]).min_runtime_version
    (record,) = [content for path, content in first.items() if path.endswith(".model.record.json")]
    assert json.loads(record)["metadata"]["runtime"] == {"min_runtime_version": needs, "required_ops": []}
    (channel,) = [content for path, content in first.items() if path.endswith(".stable.json")]
    assert json.loads(channel)["rollouts"][0]["targeting"]["min_runtime_version"] == needs != ""


def execute(folder: Path, current: str = "") -> Any:
    """Runs the executor alone, as a runner without drivers does."""
    from tfx.types import standard_artifacts

    from tfx_mobile.registry_model.config import RegistryModelConfig
    from tfx_mobile.registry_model.executor import Executor

    model = standard_artifacts.Model()
    model.uri = str(folder / "model")
    config = RegistryModelConfig(str(folder / "registry"), "fares", cache=str(folder / "cache"))
    Executor().Do({}, {"model": [model]}, {"config": config.to_json(), "current": current})
    return model


def test_a_runner_without_drivers_gets_the_current_version(tmp_path: Path) -> None:
    Registry.create(tmp_path / "registry").publish("fares", b"one", metadata={})
    assert execute(tmp_path).get_int_custom_property("version") == 1


def test_a_version_that_was_published_while_the_driver_looked_is_no_cached_result(tmp_path: Path) -> None:
    Registry.create(tmp_path / "registry").publish("fares", b"one", metadata={})
    message = "Channel 'stable' of 'fares' must hold still while it is read; somebody has published to"
    with pytest.raises(RegistryError, match=re.escape(message)):
        execute(tmp_path, "sha256:of something else")
    assert not (tmp_path / "model").exists()


def test_a_broken_registry_fails_the_run_with_its_message_and_the_run_after_the_repair_goes_on(
    tmp_path: Path,
) -> None:
    import tfx_mobile as tm
    from tfx_mobile.orchestration import local

    def once() -> Any:
        model = tm.RegistryModel(tmp_path / "registry", "fares", cache=tmp_path / "cache")
        return local.run(local.local_pipeline("source", [model], tmp_path), log_file=tmp_path / "log")

    Registry.create(tmp_path / "registry").publish("fares", b"one", metadata={})
    shutil.move(tmp_path / "registry", tmp_path / "away")
    message = re.escape(f"must be at {tmp_path / 'registry'}; there is none. Mount it or restore it")
    with pytest.raises(local.PipelineFailed, match=message) as failed:
        once()
    assert failed.value.component == "RegistryModel"
    shutil.move(tmp_path / "away", tmp_path / "registry")
    (model,) = once().outputs["RegistryModel"]["model"]
    assert model.properties["version"] == 1


@pytest.mark.parametrize("root", ["", "/root.json"])
def test_a_location_that_no_client_can_read_is_refused_when_the_pipeline_is_built(root: str) -> None:
    import tfx_mobile as tm

    with pytest.raises(ConfigError, match=re.escape("Registry must be a folder or a file://, http://")):
        tm.RegistryModel("gs://bucket/registry", "fares", root=root)


def test_a_channel_that_a_mirror_keeps_for_itself_is_refused_when_the_pipeline_is_built() -> None:
    import tfx_mobile as tm

    with pytest.raises(ConfigError, match=re.escape("keeps for itself; got 'latest'. Name another.")):
        tm.RegistryModel("mlflow+http://127.0.0.1:1", "fares", channel="latest")


def test_settings_are_the_same_bytes_each_time() -> None:
    import tfx_mobile as tm

    one, other = (tm.RegistryModel("/registry", "fares").exec_properties for _ in range(2))
    assert one == other
    assert set(one) == {"config", "code", "current"}
