"""The taxi-fare pipeline through its compiled file, as open-source Kubeflow Pipelines would run it.

Two runs of the same small settings: by the local runner, and by the stand-in for Kubeflow's driver and
launcher, task by task in processes of their own. Opt-in (tests/orchestration/kubeflow/containers.py): the
pipeline with the settings of a cluster, each task in a container of our image without a network, with the
claims and the secret that the file asks for, and a registry that our manifest's Job made. The rows are the
same; from TFT's statistics on, floats differ in their last digits from run to run, two local ones included,
so that files and metrics are compared with a tolerance.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.runs import COMPONENTS, Finished, loose_gates, run_taxi, taxi_pipeline
from tests.orchestration.kubeflow import containers, standin
from tests.orchestration.kubeflow.standin import LOGS, RUN_ID, StandIn

pytestmark = pytest.mark.e2e

SMALL: dict[str, Any] = {"epochs": 2, "sparsities": (0.0, 0.75)}


@dataclasses.dataclass(frozen=True)
class Both:
    """The same pipeline, run twice.

    Attributes:
      local: By the local runner.
      tasks: By the stand-in.
      server: It.
      registry: That the stand-in's run pushed to.
    """

    local: Finished
    tasks: Mapping[str, standin.TaskRun]
    server: StandIn
    registry: Path

    def folders(self, component: str, key: str) -> tuple[Path, Path]:
        """Where both runs have an output."""
        output = self.tasks[component].artifacts[key]
        return self.local.uri(component, key), self.server.stored(output["uri"])


@pytest.fixture(scope="session", params=["processes", pytest.param("containers", marks=containers.OPT_IN)])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """Both runs, one after the other; each has a cache of its own of what it saw of its registry."""
    folder = tmp_path_factory.mktemp("both")
    settings = SMALL if request.param == "processes" else {"epochs": SMALL["epochs"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        local = run_taxi(folder / "local", **settings)
    run = in_processes if request.param == "processes" else in_containers
    server, tasks, registry = run(folder / "kubeflow")
    for name, task in tasks.items():
        assert task.status == 0, f"{name}:\n{task.log[-5000:]}"
    return Both(local, tasks, server, registry)


def in_processes(folder: Path) -> tuple[StandIn, Mapping[str, standin.TaskRun], Path]:
    """Returns the server, what its tasks did, and the registry."""
    pipeline = taxi_pipeline(folder, pipeline_root="minio://unused", **SMALL)
    server = StandIn(folder / "server", environment={"XDG_CACHE_HOME": str(folder / "cache")})
    return server, server.run(standin.compiled(pipeline)), folder / "registry"


def in_containers(folder: Path) -> tuple[StandIn, Mapping[str, standin.TaskRun], Path]:
    """Returns the same of the pipeline of a cluster."""
    from taxi_fare import kubeflow

    pipeline = kubeflow.create_pipeline(gates=loose_gates(), epochs=SMALL["epochs"])
    spec, platform = standin.documents(pipeline, containers.IMAGE)
    folder.mkdir()
    volumes = containers.make_registry(folder)
    server = containers.InContainers(folder / "server", volumes=volumes).asking(spec, platform)
    return server, server.run(spec), volumes["registry"]


def evaluations(both: Both) -> list[Any]:
    from tfx_mobile.size_latency_evaluator.evaluation import load_evaluation

    return [load_evaluation(folder) for folder in both.folders("SizeLatencyEvaluator", "evaluation")]


def test_every_component_is_a_task_that_ends_well(both):
    assert sorted(both.tasks) == sorted(COMPONENTS)
    assert all(LOGS in run.artifacts for run in both.tasks.values())


def test_the_examples_are_the_same_rows(both):
    import tensorflow as tf

    for component, key in (("ExampleGen", "examples"),):
        for split in ("train", "eval"):
            local, kubeflow = (
                sorted(
                    tf.train.Example.FromString(record).SerializeToString(deterministic=True)
                    for path in sorted((folder / f"Split-{split}").glob("*.gz"))
                    for record in tf.data.TFRecordDataset(str(path), "GZIP").as_numpy_iterator()
                )
                for folder in both.folders(component, key)
            )
            assert len(local) > 1000
            assert local == kubeflow


def test_both_make_the_same_candidates_of_about_the_same_size(both):
    local, kubeflow = (
        {path.relative_to(folder): path.stat().st_size for path in folder.rglob("*.tflite")}
        for folder in both.folders("Quantizer", "candidates")
    )
    assert len(local) >= 10
    assert kubeflow == pytest.approx(local, rel=0.05)


def test_both_bless_a_file_and_measure_about_the_same(both):
    local, kubeflow = evaluations(both)
    assert local.blessed
    assert kubeflow.blessed
    for one in local.candidates:
        assert (kubeflow.candidate(one.name).metrics or {}) == pytest.approx(one.metrics or {}, rel=0.2)
    blessings = both.folders("SizeLatencyEvaluator", "blessing")
    assert [sorted(path.name for path in folder.iterdir()) for folder in blessings] == [["BLESSED"]] * 2
    assert both.tasks["SizeLatencyEvaluator"].artifacts["blessing"]["metadata"]["blessed"] == 1


def test_the_blessing_names_the_model_by_its_uri_in_the_object_store(both):
    found = both.tasks["SizeLatencyEvaluator"].artifacts
    assert found["blessing"]["metadata"]["current_model"] == found["model"]["uri"]
    assert found["model"]["uri"].startswith("minio://mlpipeline/v2/artifacts/taxi-fare/")


def test_both_registries_hold_the_chosen_file_as_a_first_release(both, tmp_path):
    from tfx_mobile.registry.client import Client
    from tfx_mobile.registry.store import Registry
    from tfx_mobile.size_latency_evaluator import stamp

    records, files = [], []
    for number, folder in enumerate((both.local.registry, both.registry)):
        registry = Registry(folder)
        assert registry.verify()
        (record,) = registry.versions("taxi-fare")
        records.append(record)
        cache = tmp_path / str(number)
        fetched = Client(str(folder), root=registry.root_path, cache=cache).fetch("taxi-fare")
        files.append(stamp.unstamped(fetched.path.read_bytes()))  # without the run's name
    for found, folder, file in zip(
        evaluations(both), both.folders("Quantizer", "candidates"), files, strict=True
    ):
        assert file == (folder / found.chosen / "model.tflite").read_bytes()
    local, kubeflow = records
    assert kubeflow.version == local.version
    assert kubeflow.metadata["figures"].keys() == local.metadata["figures"].keys()
    assert kubeflow.metadata["figures"]["candidate"] == evaluations(both)[1].chosen


def test_the_registry_says_which_run_on_kubeflow_made_the_model_and_no_path(both):
    from tfx_mobile.registry.store import Registry

    (record,) = Registry(both.registry).versions("taxi-fare")
    assert (record.metadata["pipeline"], record.metadata["pipeline_run"]) == ("taxi-fare", RUN_ID)
    assert record.metadata["provenance"]["component"] == "SizeLatencyEvaluator"
    model = both.tasks["SizeLatencyEvaluator"].artifacts["model"]
    assert record.metadata["model_artifact"] == model["name"]
    said = json.dumps(record.metadata)
    assert str(both.server.folder) not in said
    assert not re.search(r"/(minio|s3|gcs)/", said)


def test_the_baseline_comes_from_the_registry_without_a_driver_or_resolver(both):
    first = both.tasks["RegistryModel"].artifacts["model"]["metadata"]
    assert (first["first_release"], first["tfx_mobile_empty"]) == (1, 1)
    assert evaluations(both)[1].first_release


def test_a_second_run_takes_what_the_first_one_released_as_its_baseline(both, tmp_path):
    from tfx import v1 as tfx

    from tfx_mobile.registry.store import Registry
    from tfx_mobile.registry_model.component import RegistryModel

    pipeline = tfx.dsl.Pipeline(
        pipeline_name="again",
        pipeline_root="",
        components=[RegistryModel(registry=both.registry, model_name="taxi-fare")],
    )
    server = StandIn(tmp_path, environment={"XDG_CACHE_HOME": str(tmp_path / "cache")})
    run = server.run(standin.compiled(pipeline))["RegistryModel"]
    (record,) = Registry(both.registry).versions("taxi-fare")
    model = run.artifacts["model"]
    assert (model["metadata"]["sha256"], model["metadata"]["version"]) == (record.sha256, 1)
    assert (server.stored(model["uri"]) / "Format-Serving" / "tflite").stat().st_size == record.size_bytes


def test_with_tfx_own_entrypoint_the_same_run_dies_at_its_first_tasks(tmp_path):
    """Of the output for the log; that it also dies of inputs without type: tests/orchestration/kubeflow."""
    spec = standin.compiled(
        taxi_pipeline(tmp_path, pipeline_root="minio://unused", **SMALL), standin.TFX_COMMAND
    )
    runs = StandIn(tmp_path).run(spec)
    assert set(runs) == {"ExampleGen", "RegistryModel"}
    assert all("No module named 'system'" in run.log and run.status for run in runs.values())
