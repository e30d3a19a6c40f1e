"""The entrypoint, given what the server gives it: tiny components, stock ExampleGens, failures, signals."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.orchestration.kubeflow import standin
from tests.orchestration.kubeflow.standin import LOGS, RUN_ID, StandIn

from tfx_mobile.common.errors import ConfigError, DataError

pytestmark = pytest.mark.pipeline

HERE = Path(__file__).parent


class InProcess(StandIn):
    """Calls `task.run` here: what it does is tested in a second, not in the ten of importing TFX."""

    def execute(self, words, pod):
        from tfx_mobile.orchestration.kubeflow import task

        arguments, beam = task._parser().parse_known_args(words[3:])
        task.run(
            arguments.executor_class_path,
            arguments.json_serialized_invocation_args,
            arguments.json_serialized_inputs_spec_args,
            beam,
            mount_root=str(pod),
        )
        return 0, "LOG"


def compiled(*components: Any, **settings: Any) -> dict[str, Any]:
    from tfx import v1 as tfx

    pipeline = tfx.dsl.Pipeline(
        pipeline_name="tiny", pipeline_root="", components=list(components), **settings
    )
    return standin.compiled(pipeline)


@dataclass(frozen=True)
class Story:
    """One run of all tiny components, and of the stock ExampleGens on three spans of data."""

    server: StandIn
    runs: Mapping[str, standin.TaskRun]

    def output(self, task: str, key: str) -> Mapping[str, Any]:
        return self.runs[task].artifacts[key]

    def stored(self, task: str, key: str) -> Path:
        return self.server.stored(self.output(task, key)["uri"])


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    from pod_components import Count, Everything, Look, Repeat, Rows
    from tests.conftest import write_examples
    from tfx import v1 as tfx

    folder = tmp_path_factory.mktemp("kubeflow")
    for span, rows in ((1, "1\n"), (2, "2\n3\n"), (3, "4\n5\n6\n")):
        (folder / f"csv/span-{span}").mkdir(parents=True)
        (folder / f"csv/span-{span}/rows.csv").write_text(f"fare\n{rows}")
    write_examples(folder / "records", {"fare": [1.0, 2.0]})
    pattern = tfx.proto.Input(splits=[tfx.proto.Input.Split(name="all", pattern="span-{SPAN}/*")])
    latest_but_one = tfx.proto.RangeConfig(
        static_range=tfx.proto.StaticRange(start_span_number=2, end_span_number=2)
    )
    everything = Everything(text="a 'b' {{c}}", whole=7, number=1.0, yes=True, no=False)
    rows = Rows()
    count = Count(examples=rows.outputs["examples"])
    spec = compiled(
        everything,
        Look(model=everything.outputs["model"], reduction=everything.outputs["reduction"]),
        rows,
        count,
        Repeat(total=count.outputs["total"], words=count.outputs["words"]),
        tfx.components.CsvExampleGen(
            input_base=str(folder / "csv"), input_config=pattern, range_config=latest_but_one
        ),
        tfx.components.ImportExampleGen(input_base=str(folder / "records")),
    )
    server = InProcess(folder, workers=1)
    return Story(server, server.run(spec))


# what a component gets


def test_parameters_are_what_the_author_wrote(story):
    seen = json.loads((story.stored("Everything", "model") / "seen.json").read_text())
    del seen["run"]
    assert seen == {
        "text": ["str", "a 'b' {{c}}"],
        "whole": ["int", 7],
        "number": ["float", 1.0],
        "yes": ["bool", True],
        "no": ["bool", False],
    }


def test_the_context_tells_pipeline_run_and_component_and_an_output_has_no_id_yet(story):
    seen = json.loads((story.stored("Everything", "model") / "seen.json").read_text())
    assert seen["run"] == ["tiny", RUN_ID, "Everything", "0"]


def test_an_input_has_its_type_files_and_properties_though_the_server_sends_no_type(story):
    found = json.loads((story.stored("Look", "report") / "found.json").read_text())
    assert found.pop("id") == int(story.output("Everything", "model")["name"])
    assert found == {
        "files": ["seen.json"],
        "count": 3,
        "note": "by hand",
        "made_of_is_its_uri": True,
        "parts": [1.0, 2.0],
        "object": {"a": 1.0},
        "type": "Reduction",
        "empty": True,
    }


def test_a_component_of_a_function_takes_values_and_one_on_beam_runs(story):
    assert (story.stored("Repeat", "model") / "text").read_text() == "drei 4"


# what it says of its outputs


def test_outputs_are_named_by_the_object_store_and_so_is_a_property_that_names_one(story):
    model = story.output("Everything", "model")
    assert model["uri"].startswith("minio://mlpipeline/")
    assert model["metadata"]["made_of"] == model["uri"]
    assert str(story.server.folder) not in json.dumps([run.artifacts for run in story.runs.values()])


def test_the_output_for_the_log_is_offered_and_left_alone(story):
    for run in story.runs.values():
        assert LOGS in run.invocation["outputs"]["artifacts"]
        said = json.loads(Path(run.invocation["outputs"]["outputFile"]).read_text())
        assert LOGS not in said["artifacts"]


def test_only_an_output_without_files_is_marked_empty(story):
    marked = {
        (name, key)
        for name, run in story.runs.items()
        for key, artifact in run.artifacts.items()
        if "tfx_mobile_empty" in artifact["metadata"]
    }
    assert marked == {("Everything", "reduction")}


def test_outputs_carry_the_version_of_tfx_as_with_the_local_runner(story):
    from tfx import version

    assert story.output("Rows", "examples")["metadata"]["tfx_version"] == version.__version__


# ExampleGen's driver


def test_example_gen_reads_the_span_that_its_driver_finds(story):
    import tensorflow as tf

    metadata = story.output("CsvExampleGen", "examples")["metadata"]
    assert metadata["custom:span"] == 2  # the type has a property of this name, too
    assert json.loads(metadata["split_names"]) == ["train", "eval"]
    files = sorted(map(str, story.stored("CsvExampleGen", "examples").rglob("*.gz")))
    rows = [
        tf.train.Example.FromString(record).features.feature["fare"].int64_list.value[0]
        for record in tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator()
    ]
    assert sorted(rows) == [2, 3]


@pytest.mark.parametrize("name", ["CsvExampleGen", "ImportExampleGen"])
def test_the_fingerprint_of_what_was_read_is_kept(story, name):
    fingerprint = story.output(name, "examples")["metadata"]["input_fingerprint"]
    assert re.search(r"num_files:1,total_bytes:\d+,xor_checksum:\d+,sum_checksum:\d+", fingerprint)


def test_example_gen_without_spans_has_span_0_as_with_the_local_runner(story):
    assert story.output("ImportExampleGen", "examples")["metadata"]["custom:span"] == 0


def test_the_driver_of_an_example_gen_that_queries_runs_too():
    from tfx.proto import example_gen_pb2
    from tfx.types import standard_artifacts
    from tfx.utils import proto_utils

    from tfx_mobile.orchestration.kubeflow import task

    query = example_gen_pb2.Input.Split(name="all", pattern="SELECT * FROM trips")
    config = proto_utils.proto_to_json(example_gen_pb2.Input(splits=[query]))
    examples = standard_artifacts.Examples()
    found = task._after_driver({"input_config": config}, {"examples": [examples]})
    assert found["span"] == 0
    assert "version" not in found
    assert examples.get_int_custom_property("span") == 0
    assert json.loads(found["input_config"])["splits"][0]["pattern"] == query.pattern


# other stores, old servers


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_other_object_stores_and_servers_without_logs_are_served_alike(tmp_path, scheme):
    from pod_components import Count, Rows

    rows = Rows()
    server = InProcess(tmp_path, scheme=scheme, publish_logs=False, workers=1)
    runs = server.run(compiled(rows, Count(examples=rows.outputs["examples"])))
    total = runs["Count"].artifacts["total"]
    assert total["uri"].startswith(f"{scheme}://mlpipeline/")
    assert server.stored(total["uri"]).read_text() == "3"


def test_beam_arguments_reach_a_component_on_beam(tmp_path):
    from pod_components import Rows

    spec = compiled(Rows(), beam_pipeline_args=["--runner=NoSuchRunner", "--sdk_container_image=none"])
    with pytest.raises(ValueError, match=re.escape("NoSuchRunner")):
        InProcess(tmp_path, workers=1).run(spec)


# refusals


@pytest.fixture
def changed(tmp_path: Path) -> Any:
    """Runs Count on three numbers after a change of what the server sends; returns where it writes."""
    from pod_components import Count, Rows

    def go(change: Any) -> Path:
        class Changing(InProcess):
            def execute(self, words, pod):
                if any(word.endswith("Count_Executor") for word in words):
                    place = words.index("--json_serialized_invocation_args") + 1
                    invocation = json.loads(words[place])
                    change(invocation, words, pod)
                    words[place] = json.dumps(invocation)
                return super().execute(words, pod)

        rows = Rows()
        runs = Changing(tmp_path, workers=1).run(compiled(rows, Count(examples=rows.outputs["examples"])))
        return Path(runs["Count"].invocation["outputs"]["outputFile"])

    return go


def test_an_input_that_was_not_staged_is_named_with_the_place_where_it_should_be(changed):
    import shutil

    def lose(invocation, words, pod):
        shutil.rmtree(pod / "minio" / "mlpipeline" / "v2" / "artifacts" / "tiny" / RUN_ID / "Rows")

    with pytest.raises(
        DataError,
        match=r"^Input 'examples' must be staged at /.*/Rows/[0-9a-f-]+/examples; there is nothing\.",
    ):
        changed(lose)


def test_an_output_of_a_type_of_the_servers_or_of_none_is_left_alone(changed):
    def add(invocation, words, pod):
        for key, schema in {
            "vertex": {"schemaTitle": "google.VertexModel"},
            "nothing": {},
            "untitled": {"instanceSchema": "type: object"},
        }.items():
            artifact = {"uri": f"minio://mlpipeline/{key}", "type": schema}
            invocation["outputs"]["artifacts"][key] = {"artifacts": [artifact]}

    said = json.loads(changed(add).read_text())
    assert set(said["artifacts"]) == {"total", "words"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda invocation, words, pod: invocation["inputs"]["artifacts"].update(
                more=invocation["inputs"]["artifacts"]["examples"]
            ),
            "Input 'more' must be declared by the component; got examples in "
            "--json_serialized_inputs_spec_args. Compile the pipeline again.",
        ),
        (
            lambda invocation, words, pod: invocation["outputs"]["artifacts"]["words"]["artifacts"][0].update(
                type={"instanceSchema": "title: nowhere.Words"}
            ),
            "The type of 'words' must be a class that can be imported here; got 'nowhere.Words': ",
        ),
        (
            lambda invocation, words, pod: words.__setitem__(
                words.index("--executor_class_path") + 1, "pod_components.Nobody"
            ),
            "The executor must be a class that can be imported here; got 'pod_components.Nobody': ",
        ),
        (
            lambda invocation, words, pod: words.__setitem__(
                words.index("--json_serialized_inputs_spec_args") + 1, "{"
            ),
            "--json_serialized_inputs_spec_args must be the JSON of ComponentInputsSpec; Failed to load JSON",
        ),
        (
            lambda invocation, words, pod: invocation["outputs"].pop("outputFile"),
            "The invocation must name the file for the output's metadata; it names none.",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(changed, change, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        changed(change)


# how it ends


def failing(kind: str, folder: Path) -> list[str]:
    """Returns the arguments of a task that fails in this way."""
    from pod_components import Fail

    words: list[str] = []

    class Record(StandIn):
        def execute(self, given, pod):
            words.extend(given)
            return 1, ""

    Record(folder).run(compiled(Fail(kind=kind)))
    return words[3:]


@pytest.mark.parametrize(
    ("kind", "last_line", "traced"),
    [
        ("data", "failed: Feature 'fare' must be finite; got 3 NaN.", False),
        ("other", "failed: KeyError: 'surprise'", True),
        ("exit", "failed: SystemExit: 0", True),
    ],
)
def test_a_failed_component_ends_the_log_with_its_own_error(
    tmp_path, capsys, monkeypatch, kind, last_line, traced
):
    from tfx_mobile.orchestration.kubeflow import task

    monkeypatch.setenv(task.MOUNT_ROOT_VARIABLE, str(tmp_path / "pods" / "Fail"))
    monkeypatch.setattr(sys, "argv", ["task"])
    before = signal.getsignal(signal.SIGTERM)
    assert task.main(failing(kind, tmp_path)) == 1
    log = capsys.readouterr().err
    assert log.splitlines()[-1] == f"tfx-mobile: pod_components.Fail_Executor {last_line}"
    assert ("Traceback" in log) == traced
    assert list(tmp_path.rglob("output_metadata.json")) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_task_asked_to_end_cleans_up_records_nothing_and_ends_by_the_signal(tmp_path):
    from pod_components import Patient

    flag = tmp_path / "flag"
    processes: list[Any] = []

    class Asked(StandIn):
        def execute(self, words, pod):
            environment = {
                **os.environ,
                "TFX_MOBILE_MOUNT_ROOT": str(pod),
                "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
            }
            process = subprocess.Popen(
                [sys.executable, *words[1:]],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment,
            )
            processes.append(process)
            while not flag.with_suffix(".started").exists() and process.poll() is None:
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            log, _ = process.communicate()
            return process.returncode, log

    run = Asked(tmp_path).run(compiled(Patient(flag=str(flag))))["Patient"]
    assert run.status == -signal.SIGTERM, run.log
    assert run.log.splitlines()[-1] == "tfx-mobile: ended by SIGTERM; its outputs are not recorded."
    assert flag.with_suffix(".cleaned").exists()
    assert not Path(run.invocation["outputs"]["outputFile"]).exists()


# TFX's own entrypoint: the two errors that ours is there for


@pytest.fixture(scope="session")
def with_tfx(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, standin.TaskRun]:
    """By TFX's entrypoint: a component with an input, without logs; one without, with logs."""
    from pod_components import Everything, Look

    everything = Everything(text="a", whole=7, number=1.0, yes=True, no=False)
    look = Look(model=everything.outputs["model"], reduction=everything.outputs["reduction"])
    spec = compiled(everything, look)
    environment = {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}

    class OnlyLook(InProcess):
        def execute(self, words, pod):
            if pod.name != "Look":
                return super().execute(words, pod)
            return StandIn.execute(self, [*standin.TFX_COMMAND, *words[3:]], pod)

    look_runs = OnlyLook(
        tmp_path_factory.mktemp("look"), publish_logs=False, workers=1, environment=environment
    ).run(spec)
    for executor in spec["deploymentSpec"]["executors"].values():
        executor["container"]["command"] = standin.TFX_COMMAND
    first = StandIn(tmp_path_factory.mktemp("first"), environment=environment).run(spec)
    return {"no logs": look_runs["Look"], "logs": first["Everything"]}


def test_tfx_own_entrypoint_dies_of_an_input_without_a_type(with_tfx):
    run = with_tfx["no logs"]
    assert run.status == 1
    assert "AttributeError: 'NoneType' object has no attribute 'get'" in run.log  # tensorflow/tfx#7768
    assert "_retrieve_class_path" in run.log


def test_tfx_own_entrypoint_dies_of_the_output_for_the_log(with_tfx):
    run = with_tfx["logs"]
    assert run.status == 1
    assert "_parse_raw_artifact" in run.log
    assert "No module named 'system'" in run.log
