"""Our components and the stock Transform on Flink, in SDK processes that get code as a wheel: as without it.

The cluster is in Beam's job server, on this machine (flink.py). A worker that is killed half way through a
file changes nothing, and is started again. Beam's own multi-processing runner gives the same, too.
"""

import dataclasses
import functools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trips_features
from tests.e2e import flink as flink_runner
from tests.e2e.pipes import DeadlyFile
from tests.size_latency_evaluator.conftest import tiny  # noqa: F401 - a fixture

pytestmark = pytest.mark.e2e

DIRECT = ["--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner", "--sdk_container_image=none"]
MULTI_PROCESSING = [*DIRECT, "--direct_running_mode=multi_processing", "--direct_num_workers=2"]
NUM_SHARDS = 4


@pytest.fixture(scope="module")
def flink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[flink_runner.Flink]:
    """A job server with a cluster in it."""
    with flink_runner.job_server(tmp_path_factory.mktemp("flink")) as found:
        yield found


@dataclasses.dataclass(frozen=True)
class Reduced:
    """What a run of DimensionalityReducer wrote."""

    folder: Path

    def report(self) -> dict[str, Any]:
        return json.loads((self.folder / "reduction" / "reduction.json").read_text())

    def columns(self, split: str) -> dict[str, Any]:
        """Returns the features, rows in the order of their dates, which differ."""
        import tensorflow as tf
        import tensorflow_transform as tft

        output = tft.TFTransformOutput(str(self.folder / "graph"))
        files = [str(path) for path in (self.folder / "examples" / f"Split-{split}").iterdir()]
        records = list(tf.data.TFRecordDataset(sorted(files), "GZIP").as_numpy_iterator())
        parsed = tf.io.parse_example(records, output.transformed_feature_spec())
        found = {
            name: (tf.sparse.to_dense(value) if isinstance(value, tf.SparseTensor) else value).numpy()
            for name, value in parsed.items()
        }
        order = np.lexsort([column[:, 0] for name, column in sorted(found.items()) if name in PASSED])
        return {name: column[order] for name, column in found.items()}


PASSED = ("company_id", "date_z", "fare", "miles")


def reduce(examples: Path, graph: Path, folder: Path, arguments: Sequence[str]) -> Reduced:
    """Runs DimensionalityReducer's executor as TFX does."""
    from tests.conftest import examples_artifact
    from tfx.types import standard_artifacts

    from tfx_mobile.common.artifacts import Reduction
    from tfx_mobile.dimensionality_reducer.config import PCA, FastICA, ReducerConfig
    from tfx_mobile.dimensionality_reducer.executor import Executor

    config = ReducerConfig(
        (
            PCA(inputs=("latitude_z", "company_length"), output="pca", n_components=2),
            FastICA(inputs=("miles_z", "miles_bucket"), output="ica", n_components=1),
        ),
        "fare",
    )
    inputs = {"examples": examples_artifact(examples), "transform_graph": standard_artifacts.TransformGraph()}
    inputs["transform_graph"].uri = str(graph)
    outputs = {
        "reduced_examples": standard_artifacts.Examples(),
        "reduced_transform_graph": standard_artifacts.TransformGraph(),
        "reduction": Reduction(),
    }
    for artifact, name in zip(outputs.values(), ("examples", "graph", "reduction"), strict=True):
        artifact.uri = str(folder / name)
    do(Executor, inputs, outputs, {"config": config.to_json(), "code": "0"}, folder, arguments)
    return Reduced(folder)


def evaluate(examples: Path, candidates: Path, folder: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Runs SizeLatencyEvaluator's executor as TFX does; returns its evaluation."""
    from tests.conftest import examples_artifact
    from tfx.types import standard_artifacts

    from tfx_mobile.common.artifacts import ModelCandidates
    from tfx_mobile.size_latency_evaluator.config import (
        AccuracyGate,
        EvaluatorConfig,
        LatencyConfig,
        Metric,
    )
    from tfx_mobile.size_latency_evaluator.executor import Executor

    config = EvaluatorConfig(
        label_key="fare",
        gates=(AccuracyGate(Metric.MAE, max_value=2.0),),
        metrics=(Metric.RMSE, Metric.MAE),
        batch_size=64,
        latency=LatencyConfig(processes=(2,), seconds_per_process=0.1),
    )
    inputs = {"candidates": ModelCandidates(), "examples": examples_artifact(examples)}
    inputs["candidates"].uri = str(candidates)
    outputs = {
        "model": standard_artifacts.Model(),
        "blessing": standard_artifacts.ModelBlessing(),
        "evaluation": standard_artifacts.ModelEvaluation(),
    }
    for name, artifact in outputs.items():
        artifact.uri = str(folder / name)
    do(Executor, inputs, outputs, {"config": config.to_json(), "code": "0"}, folder, arguments)
    return json.loads((folder / "evaluation" / "evaluation.json").read_text())


def do(
    executor: Any,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    properties: Mapping[str, Any],
    folder: Path,
    arguments: Sequence[str],
) -> None:
    context = executor.Context(beam_pipeline_args=list(arguments), tmp_dir=str(folder / "tmp"), unique_id="1")
    executor(context).Do(
        {name: [artifact] for name, artifact in inputs.items()},
        {name: [artifact] for name, artifact in outputs.items()},
        dict(properties),
    )


def shards(source: Path, target: Path) -> Path:
    """Writes the rows of each split of Examples to several files."""
    import tensorflow as tf

    for split in source.glob("Split-*"):
        records = list(tf.data.TFRecordDataset([str(p) for p in split.iterdir()], "GZIP").as_numpy_iterator())
        (target / split.name).mkdir(parents=True)
        for number in range(NUM_SHARDS):
            name = f"rows-{number:05d}-of-{NUM_SHARDS:05d}.gz"
            with tf.io.TFRecordWriter(str(target / split.name / name), "GZIP") as writer:
                for record in records[number::NUM_SHARDS]:
                    writer.write(record)
    return target


@pytest.fixture(scope="module")
def examples(trips: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Transformed trips in several files a split."""
    return shards(trips.transformed_folder, tmp_path_factory.mktemp("trips_in_files"))


@pytest.fixture(scope="module")
def reduced(
    trips: Any, examples: Path, flink: flink_runner.Flink, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Reduced]:
    """The same rows reduced by each runner; on Flink a worker is killed half way through a file."""
    folder = tmp_path_factory.mktemp("reduced")
    deadly = DeadlyFile(
        examples / "Split-train" / f"rows-00002-of-{NUM_SHARDS:05d}.gz", spare=lambda _: False
    )
    found = {
        "direct": reduce(examples, trips.graph_folder, folder / "direct", DIRECT),
        "processes": reduce(examples, trips.graph_folder, folder / "processes", MULTI_PROCESSING),
    }
    with deadly.serving():
        found["flink"] = reduce(examples, trips.graph_folder, folder / "flink", flink.arguments())
    assert len(deadly.killed) == 1, "no worker was killed"
    assert deadly.killed[0] in flink.pids(), "it was no SDK worker of Flink's"
    assert deadly.served >= 2, "the file must be read again in the first pass, and in the second"
    return found


RUNS = ("processes", "flink")


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("split", ["train", "eval"])
def test_every_runner_writes_the_same_rows(reduced: dict[str, Reduced], run: str, split: str) -> None:
    wanted, found = reduced["direct"].columns(split), reduced[run].columns(split)

    assert list(found) == list(wanted)
    assert {"pca", "ica", *PASSED} <= set(found)
    for name, column in found.items():
        if name == "pca":  # sums of float64 in another order, then rounded to float32
            np.testing.assert_allclose(column, wanted[name], rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(column, wanted[name])


@pytest.mark.parametrize("run", RUNS)
def test_every_runner_finds_the_same_components(reduced: dict[str, Reduced], run: str) -> None:
    wanted, found = reduced["direct"].report(), reduced[run].report()

    assert_alike(found, wanted)


def assert_alike(found: Any, wanted: Any, place: str = "") -> None:
    """Asserts that two JSON values are the same, but for the last digits of numbers."""
    assert type(found) is type(wanted), place
    if isinstance(wanted, dict):
        assert list(found) == list(wanted), place
        for key in wanted:
            assert_alike(found[key], wanted[key], f"{place}/{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), place
        for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
            assert_alike(one, other, f"{place}/{number}")
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-6, abs=1e-9), place
    else:
        assert found == wanted, place


@pytest.fixture(scope="module")
def evaluated(
    tiny: Any,  # noqa: F811
    flink: flink_runner.Flink,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, dict[str, Any]]:
    """The same files, together larger than what Beam carries, evaluated by each runner."""
    folder = tmp_path_factory.mktemp("evaluated")
    rows = shards(tiny.examples, folder / "rows")
    candidates = tiny.candidate_folder(folder / "candidates", ["s0-float32", "s0-dynamic", "s0-crash"])
    return {
        name: evaluate(rows, candidates, folder / name, arguments)
        for name, arguments in (
            ("direct", [*DIRECT, "--direct_num_workers=1"]),
            ("processes", MULTI_PROCESSING),
            ("flink", flink.arguments()),
        )
    }


@pytest.mark.parametrize("run", ["processes", "flink"])
def test_every_runner_measures_the_same_metrics_to_the_last_bit(
    evaluated: dict[str, dict[str, Any]], run: str
) -> None:
    wanted, found = evaluated["direct"], evaluated[run]

    assert found["eval_rows"] == wanted["eval_rows"] == 400
    for one, other in zip(found["candidates"], wanted["candidates"], strict=True):
        assert [one[key] for key in ("name", "metrics", "slices", "sha256")] == [
            other[key] for key in ("name", "metrics", "slices", "sha256")
        ]
    by_name = {one["name"]: one for one in found["candidates"]}
    assert by_name["s0-float32"]["metrics"]["mae"] < 2.0
    assert by_name["s0-crash"]["failure"]


@pytest.fixture(scope="module")
def transformed(
    trips: Any, flink: flink_runner.Flink, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Reduced]:
    """The raw trips, transformed by the stock Transform on each runner; its module travels to Flink."""
    from google.protobuf import text_format
    from tensorflow_transform.tf_metadata import dataset_metadata
    from tests.conftest import examples_artifact
    from tfx.components.transform.executor import Executor
    from tfx.types import standard_artifacts

    folder = tmp_path_factory.mktemp("transformed")
    rows = shards(trips.raw_folder, folder / "rows")
    schema = standard_artifacts.Schema()
    schema.uri = str(folder / "schema")
    Path(schema.uri).mkdir()
    metadata = dataset_metadata.DatasetMetadata.from_feature_spec(trips_features.feature_spec())
    Path(schema.uri, "schema.pbtxt").write_text(text_format.MessageToString(metadata.schema))
    properties = {
        "preprocessing_fn": "trips_features.preprocessing_fn",
        "custom_config": "null",
        "disable_statistics": 1,
    }
    on_flink = flink.arguments(packages=("tfx_mobile", "trips_features"))
    for name, arguments in (("direct", DIRECT), ("flink", on_flink)):
        outputs = {
            "transform_graph": standard_artifacts.TransformGraph(),
            "transformed_examples": standard_artifacts.Examples(),
            "updated_analyzer_cache": standard_artifacts.TransformCache(),
        }
        for key, place in zip(outputs, ("graph", "examples", "cache"), strict=True):
            outputs[key].uri = str(folder / name / place)
        inputs = {"examples": examples_artifact(rows), "schema": schema}
        do(Executor, inputs, outputs, properties, folder / name, arguments)
    return {name: Reduced(folder / name) for name in ("direct", "flink")}


@pytest.mark.parametrize("split", ["train", "eval"])
def test_the_stock_transform_writes_the_same_rows_on_flink(
    transformed: dict[str, Reduced], split: str
) -> None:
    wanted, found = (transformed[run].columns(split) for run in ("direct", "flink"))

    assert list(found) == list(wanted)
    assert {"company_id", "latitude_z", "miles_bucket", *PASSED} <= set(found)
    for name, column in found.items():
        if name.endswith("_z"):  # a mean near 42, or 1.4e9, in float32, by a deviation that is a thousandth
            np.testing.assert_allclose(column, wanted[name], rtol=0, atol=1e-3)
        else:
            np.testing.assert_array_equal(column, wanted[name])


def test_large_files_are_shared_with_workers_and_taken_away(
    evaluated: dict[str, dict[str, Any]],
    tiny: Any,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    from tfx_mobile.size_latency_evaluator import beam

    carried = sum(len(tiny.contents[name]) for name in ("s0-float32", "s0-dynamic", "s0-crash"))
    assert carried > beam._MAX_CARRIED_BYTES
    assert not list(tmp_path_factory.getbasetemp().glob("evaluated*/*/tmp/**/predictions*"))


def test_workers_are_processes_of_their_own_that_import_what_travelled(
    flink: flink_runner.Flink, tmp_path: Path
) -> None:
    import apache_beam as beam
    import where_am_i

    before = set(flink.pids())
    arguments = flink.arguments(packages=("tfx_mobile", "where_am_i"))
    tell = functools.partial(where_am_i.where, str(tmp_path))
    with beam.Pipeline(argv=arguments) as pipeline:
        _ = pipeline | beam.Create(range(40)) | beam.Reshuffle() | beam.Map(tell)

    found = [path.read_text().split() for path in tmp_path.iterdir()]
    assert sorted(int(number) for _, number, _, _ in found) == list(range(40))
    assert len(set(flink.pids()) - before) == 2
    assert os.getpid() not in flink.pids()
    for pid, _, ours, own in found:
        packages = flink.pids()[int(pid)] / "packages"
        assert (ours, own) == (str(packages / "tfx_mobile" / "__init__.py"), str(packages / "where_am_i.py"))


def test_a_runner_that_maven_does_not_have_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(flink_runner, "versions", lambda: ("2.62.0", "0.1"))
    monkeypatch.setattr(flink_runner, "_CACHE", tmp_path)

    message = (
        "Maven must get beam-runners-flink-0.1 2.62.0, without which nothing is known about Flink; got: "
    )
    with pytest.raises(RuntimeError, match=re.escape(message)):
        flink_runner.class_path()
    assert not list(tmp_path.iterdir())
