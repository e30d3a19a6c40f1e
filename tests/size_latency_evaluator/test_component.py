"""The component in a real pipeline: LocalDagRunner, MLMD, and the stock Pusher behind it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.size_latency_evaluator import page, summary
from tfx_mobile.size_latency_evaluator.config import (
    AccuracyGate,
    LatencyConfig,
    LatencyGate,
    Metric,
    RelativeTo,
    SizeGate,
)
from tfx_mobile.size_latency_evaluator.evaluation import load_evaluation

pytestmark = pytest.mark.pipeline

QUICK = LatencyConfig(processes=(2,), seconds_per_process=0.2, num_rows=4)
NAMES = ["s0-float32", "s0-dynamic", "s0-int8", "s0-noise"]


def run_pipeline(folder: Path, tiny: Any, gates: list[Any], **settings: Any) -> dict[str, Any]:
    """Runs Importers -> SizeLatencyEvaluator -> Pusher; returns the last artifact of each type."""
    from ml_metadata.proto import metadata_store_pb2
    from tfx import v1 as tfx
    from tfx.orchestration import metadata
    from tfx.types import standard_artifacts

    from tfx_mobile.common import artifacts
    from tfx_mobile.size_latency_evaluator.component import SizeLatencyEvaluator

    if not (folder / "candidates").exists():
        tiny.candidate_folder(folder / "candidates", NAMES)
    examples = tfx.dsl.Importer(
        source_uri=str(tiny.examples),
        artifact_type=standard_artifacts.Examples,
        properties={"split_names": '["eval"]'},
    ).with_id("Examples")
    candidates = tfx.dsl.Importer(
        source_uri=str(folder / "candidates"), artifact_type=artifacts.ModelCandidates
    ).with_id("Candidates")
    evaluator = SizeLatencyEvaluator(
        candidates=candidates.outputs["result"],
        examples=examples.outputs["result"],
        label_key="fare",
        gates=gates,
        latency=QUICK,
        **settings,
    ).with_id("Gatekeeper")
    pusher = tfx.components.Pusher(
        model=evaluator.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        push_destination=tfx.proto.PushDestination(
            filesystem=tfx.proto.PushDestination.Filesystem(base_directory=str(folder / "pushed"))
        ),
    )
    database = str(folder / "metadata.sqlite")
    connection = tfx.orchestration.metadata.sqlite_metadata_connection_config(database)
    tfx.orchestration.LocalDagRunner().run(
        tfx.dsl.Pipeline(
            pipeline_name="gatekeeper",
            pipeline_root=str(folder / "root"),
            components=[examples, candidates, evaluator, pusher],
            metadata_connection_config=connection,
            enable_cache=True,
        )
    )
    with metadata.Metadata(connection) as handle:
        types = {t.id: t.name for t in handle.store.get_artifact_types()}
        found = {types[a.type_id]: a for a in handle.store.get_artifacts()}
        executions = handle.store.get_executions()
        found["cached"] = sum(e.last_known_state == metadata_store_pb2.Execution.CACHED for e in executions)
    return found


@pytest.fixture(scope="module")
def released(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("released")
    gates = [AccuracyGate(Metric.RMSE, max_increase_fraction=0.05), SizeGate(max_ratio=0.5)]
    return folder, run_pipeline(folder, tiny, gates)


def test_the_stock_pusher_pushes_the_chosen_file(tiny: Any, released: tuple[Path, dict[str, Any]]) -> None:
    folder, found = released
    evaluation = load_evaluation(found["ModelEvaluation"].uri)

    pushed = list((folder / "pushed").rglob("tflite"))

    assert evaluation.blessed
    assert evaluation.chosen in ("s0-dynamic", "s0-int8")
    assert [path.read_bytes() for path in pushed] == [tiny.contents[evaluation.chosen]]


def test_the_blessing_has_what_its_readers_read(released: tuple[Path, dict[str, Any]]) -> None:
    _, found = released
    properties = found["ModelBlessing"].custom_properties

    assert properties["blessed"].int_value == 1
    assert properties["component_id"].string_value == "Gatekeeper"
    assert properties["current_model"].string_value == found["Model"].uri
    assert properties["verdict"].string_value.startswith("BLESSED: 's0-")
    assert sorted(path.name for path in Path(found["ModelBlessing"].uri).iterdir()) == ["BLESSED"]


def test_the_evaluation_is_a_page_a_summary_and_json(released: tuple[Path, dict[str, Any]]) -> None:
    _, found = released
    folder = Path(found["ModelEvaluation"].uri)
    evaluation = load_evaluation(folder)

    assert sorted(path.name for path in folder.iterdir()) == ["evaluation.json", "index.html", "summary.md"]
    assert (folder / "index.html").read_text() == page.page(evaluation)
    assert (folder / "summary.md").read_text() == summary.render(evaluation)


def test_the_model_carries_its_figures_as_integers(tiny: Any, released: tuple[Path, dict[str, Any]]) -> None:
    _, found = released
    evaluation = load_evaluation(found["ModelEvaluation"].uri)
    chosen = evaluation.candidate(evaluation.chosen)
    assert chosen.metrics is not None
    assert chosen.latency is not None

    figures = json.loads(found["Model"].custom_properties["figures"].string_value)

    assert figures == {
        "candidate": chosen.name,
        "rung": "s0",
        "mode": chosen.mode,
        "size_bytes": len(tiny.contents[chosen.name]),
        "gz_size_bytes": chosen.gz_size_bytes,
        "latency_p50_ns": round(1e3 * chosen.latency.p50_us),
        "metrics": {f"{name}_ppm": round(1e6 * value) for name, value in chosen.metrics.items()},
        "eval_rows": 400,
    }


def test_a_second_run_comes_from_the_cache(tiny: Any, released: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = released
    gates = [AccuracyGate(Metric.RMSE, max_increase_fraction=0.05), SizeGate(max_ratio=0.5)]

    # Both importers, the evaluator and the pusher.
    assert run_pipeline(folder, tiny, gates)["cached"] == 4


def test_nothing_is_pushed_when_no_candidate_passes(tiny: Any, tmp_path: Path) -> None:
    found = run_pipeline(tmp_path, tiny, [SizeGate(max_gz_bytes=1000)])
    evaluation = load_evaluation(found["ModelEvaluation"].uri)

    assert found["ModelBlessing"].custom_properties["blessed"].int_value == 0
    assert not (tmp_path / "pushed").exists()
    assert (Path(found["Model"].uri) / "Format-Serving" / "tflite").read_bytes() == tiny.contents["s0-int8"]
    assert "fails 'gz size <= 1,000 bytes'" in evaluation.reason
    assert [p.name for p in Path(found["ModelBlessing"].uri).iterdir()] == ["NOT_BLESSED"]


def test_a_baseline_gate_without_a_baseline_is_refused_when_the_pipeline_is_built() -> None:
    from tfx.types import channel, standard_artifacts

    from tfx_mobile.common import artifacts
    from tfx_mobile.size_latency_evaluator.component import SizeLatencyEvaluator

    with pytest.raises(
        ConfigError, match=re.escape("baseline must be given where a gate is relative to the")
    ):
        SizeLatencyEvaluator(
            candidates=channel.Channel(artifacts.ModelCandidates),
            examples=channel.Channel(standard_artifacts.Examples),
            label_key="fare",
            gates=[SizeGate(max_bytes=10), LatencyGate(max_ratio=1.1, relative_to=RelativeTo.BASELINE)],
        )


def test_an_unknown_metric_is_refused_by_name_when_the_pipeline_is_built() -> None:
    from tfx.types import channel, standard_artifacts

    from tfx_mobile.common import artifacts
    from tfx_mobile.size_latency_evaluator.component import SizeLatencyEvaluator

    expected = "or the dotted path of a class; got 'rmsle'. Did you mean 'rmse'?"
    with pytest.raises(ConfigError, match=re.escape(expected)):
        SizeLatencyEvaluator(
            candidates=channel.Channel(artifacts.ModelCandidates),
            examples=channel.Channel(standard_artifacts.Examples),
            label_key="fare",
            gates=[SizeGate(max_bytes=10)],
            metrics=["rmsle"],
        )
