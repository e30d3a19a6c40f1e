"""The entrypoint, given what the server gives it: tiny components, stock ExampleGens, failures, signals."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.orchestration.kubeflow import containers, standin
from tests.orchestration.kubeflow.containers import IMAGE, InContainers
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


def tiny(*components: Any, **settings: Any) -> Any:
    from tfx import v1 as tfx

    return tfx.dsl.Pipeline(pipeline_name="tiny", pipeline_root="", components=list(components), **settings)


def compiled(*components: Any, **settings: Any) -> dict[str, Any]:
    return standin.compiled(tiny(*components, **settings))


@dataclass(frozen=True)
class Story:
    """One run of all tiny components, and of the stock ExampleGens on three spans of data."""

    server: StandIn
    runs: Mapping[str, standin.TaskRun]

    def output(self, task: str, key: str) -> Mapping[str, Any]:
        return self.runs[task].artifacts[key]

    def stored(self, task: str, key: str) -> Path:
        return self.server.stored(self.output(task, key)["uri"])


@pytest.fixture(scope="session", params=["process", pytest.param("container", marks=containers.OPT_IN)])
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Story:
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
    pipeline = tiny(
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
    if request.param == "process":
        server: StandIn = InProcess(folder, workers=1)
        return Story(server, server.run(standin.compiled(pipeline)))
    spec, platform = standin.documents(pipeline, IMAGE)
    mounted = [f"--volume={folder}/{name}:{folder}/{name}:ro" for name in ("csv", "records")]
    here = [f"--volume={HERE}/pod_components.py:/opt/more/pod_components.py:ro", "--env=PYTHONPATH=/opt/more"]
    server = InContainers(folder, workers=1, options=mounted + here).asking(spec, platform)
    runs = server.run(spec)
    for name, run in runs.items():
        assert run.status == 0, f"{name}:\n{run.log[-5000:]}"
    return Story(server, runs)


# what a component gets


def test_parameters_are_what_the_author_wrote(story):
    seen = json.loads((story.stored("Everything", "model") / "seen.json").read_text())
    assert {name: seen[name] for name in ("text", "whole", "number", "yes", "no")} == {
        "text": ["str", "a 'b' {{c}}"],
        "whole": ["int", 7],
        "number": ["float", 1.0],
        "yes": ["bool", True],
        "no": ["bool", False],
    }


def test_the_context_tells_pipeline_run_and_component_and_an_output_has_no_id_yet(story):
    seen = json.loads((story.stored("Everything", "model") / "seen.json").read_text())
    assert seen["run"] == ["tiny", RUN_ID, "Everything", "0"]
    assert seen["flags"] == []


def test_temporary_files_are_beside_the_outputs(story):
    seen = json.loads((story.stored("Everything", "model") / "seen.json").read_text())
    folder = story.output("Everything", "model")["uri"].removesuffix("/model")
    salt = folder.rpartition("/")[2]
    assert seen["tmp"].endswith(folder.replace("://", "/") + f"/.temp/{salt}/")


def test_an_input_has_its_type_files_and_properties_though_the_server_sends_no_type(story):
    found = json.loads((story.stored("Look", "report") / "found.json").read_text())
    assert found.pop("id") == int(story.output("Everything", "model")["name"])
    assert found == {
        "files": ["seen.json"],
        "count": 3,
        "note": "by hand",
        "made_of_is_its_uri": True,
        "file_is_here": True,
        "older": f"{story.output('Everything', 'model')['uri']}-older",
        "elsewhere": "gs://bucket/model",
        "parts": [1.0, 2.0],
        "object": {"a": 1.0},
        "type": "Reduction",
        "empty": True,
    }


def test_a_component_of_a_function_takes_values_and_one_on_beam_runs(story):
    assert (story.stored("Repeat", "model") / "text").read_text() == "drei 4"
    assert (story.stored("Rows", "examples") / "runner").read_text() == "FnApiRunner"


# what it says of its outputs


def test_outputs_are_named_by_the_object_store_and_so_is_a_property_that_names_one(story):
    model = story.output("Everything", "model")
    assert model["uri"].startswith("minio://mlpipeline/")
    assert model["metadata"]["made_of"] == model["uri"]
    assert str(story.server.folder) not in json.dumps([run.artifacts for run in story.runs.values()])


def test_the_output_for_the_log_is_offered_and_left_alone(story):
    for run in story.runs.values():
        assert LOGS in run.invocation["outputs"]["artifacts"]
        assert LOGS not in story.server.said(run)["artifacts"]


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


def test_temporary_files_are_beside_the_outputs_on_servers_that_put_their_own_file_elsewhere(tmp_path):
    from pod_components import Everything

    class Before215(InProcess):
        def _provisioned(self, name, component, pipeline, pod):
            file = str(pod / "tmp" / "kfp_outputs" / "output_metadata.json")
            return {**super()._provisioned(name, component, pipeline, pod), "outputFile": file}

    everything = Everything(text="a", whole=7, number=1.0, yes=True, no=False)
    server = Before215(tmp_path, workers=1)
    run = server.run(compiled(everything))["Everything"]
    model = run.artifacts["model"]["uri"]
    seen = json.loads((server.stored(model) / "seen.json").read_text())
    folder = str(run.pod / model.removesuffix("/model").replace("://", "/"))
    assert seen["tmp"] == f"{folder}/.temp/{Path(folder).name}/"
    assert seen["run"] == ["tiny", RUN_ID, "Everything", "0"]


def test_outputs_that_say_different_things_of_the_run_tell_nothing():
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    from tfx_mobile.orchestration.kubeflow import task, uris

    def place(*names: str) -> uris.Place:
        found = [f"gs://b/{name}/{RUN_ID}/T/model" for name in names]
        outputs = {f"o{number}": {"artifacts": [{"uri": uri}]} for number, uri in enumerate(found)}
        given = {"outputs": {"artifacts": outputs}}
        return task._place(json_format.ParseDict(given, pipeline_spec_pb2.ExecutorInput()))

    assert place("one", "one") == uris.Place("one", RUN_ID, "T")
    assert place("one", "other") == place() == uris.Place()


def arguments_of(component: Any, folder: Path, **settings: Any) -> list[str]:
    """Returns what the entrypoint gets for a component without inputs; its `/` is `pods/<id>`."""
    words: list[str] = []

    class Record(StandIn):
        def execute(self, given, pod):
            words.extend(given)
            return 1, ""

    Record(folder).run(compiled(component, **settings))
    return words[3:]


def test_other_arguments_reach_a_component_on_beam(tmp_path, capsys, monkeypatch):
    from pod_components import Rows

    from tfx_mobile.orchestration.kubeflow import task

    # Not taken for an abbreviation of the entrypoint's own arguments.
    beam = ["--runner=NoSuchRunner", "--sdk_container_image=none", "--executor=none"]
    monkeypatch.setattr(sys, "argv", ["task", *beam])
    monkeypatch.setenv(task.MOUNT_ROOT_VARIABLE, str(tmp_path / "pods" / "Rows"))
    assert task.main(arguments_of(Rows(), tmp_path, beam_pipeline_args=beam)) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("tfx-mobile: pod_components.Rows_Executor failed: ValueError: ")
    assert "NoSuchRunner" in last
    assert sys.argv == ["task"]  # or TFX's Beam executors would parse the rest


def test_other_arguments_reach_a_component_without_beam_as_its_extra_flags(tmp_path):
    from pod_components import Everything

    class More(InProcess):
        def execute(self, words, pod):
            return super().execute([*words, "--more=1"], pod)

    server = More(tmp_path, workers=1)
    everything = Everything(text="a", whole=7, number=1.0, yes=True, no=False)
    run = server.run(compiled(everything))["Everything"]
    seen = json.loads((server.stored(run.artifacts["model"]["uri"]) / "seen.json").read_text())
    assert seen["flags"] == ["--more=1"]


def test_what_an_importer_names_is_staged_with_its_properties_and_imported_once(tmp_path):
    from pod_components import Count, Examples
    from tfx import v1 as tfx

    server = InProcess(tmp_path, workers=1)
    stored = server.stored("minio://bucket/rows")
    stored.mkdir(parents=True)
    (stored / "numbers").write_text("1 2 3")
    imported = tfx.dsl.Importer(
        source_uri="minio://bucket/rows", artifact_type=Examples, custom_properties={"note": "by hand"}
    )
    spec = compiled(imported.with_id("Imported"), Count(examples=imported.outputs["result"]))
    first, second = server.run(spec), server.run(spec)
    assert server.stored(first["Count"].artifacts["total"]["uri"]).read_text() == "3"
    assert standin.properties(first["Imported"].artifacts["result"]) == {"note": "by hand"}
    assert second["Imported"].artifacts == first["Imported"].artifacts


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
        invocation["inputs"]["ofALaterServer"] = {}

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
                words.index("--executor_class_path") + 1, "Nobody"
            ),
            "The executor must be a class that can be imported here; got 'Nobody': ",
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
        (
            lambda invocation, words, pod: invocation["outputs"]["parameters"].update(
                total={"outputFile": "/tmp/kfp/outputs/total"}
            ),
            "A task must put out artifacts only; got the parameters total. Compile the pipeline with ",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(changed, change, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        changed(change)


# how it ends


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
    from pod_components import Fail

    from tfx_mobile.orchestration.kubeflow import task

    monkeypatch.setenv(task.MOUNT_ROOT_VARIABLE, str(tmp_path / "pods" / "Fail"))
    monkeypatch.setattr(sys, "argv", ["task"])
    before = signal.getsignal(signal.SIGTERM)
    assert task.main(arguments_of(Fail(kind=kind), tmp_path)) == 1
    log = capsys.readouterr().err
    assert log.splitlines()[-1] == f"tfx-mobile: pod_components.Fail_Executor {last_line}"
    assert ("Traceback" in log) == traced
    assert list(tmp_path.rglob("output_metadata.json")) == []
    assert len(list((tmp_path / "pods" / "Fail" / "minio").rglob("model"))) == 1
    assert signal.getsignal(signal.SIGTERM) is before


@dataclass(frozen=True)
class Ended:
    """A process of the entrypoint that ended.

    Attributes:
      status: Its exit status; a signal's number, negative, of one that a signal ended.
      cleaned: Whether the component could begin to clean up.
      last_line: Of its log.
      said: Whether the file for the launcher was written.
    """

    status: int
    cleaned: bool
    last_line: str
    said: bool


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """What became of a component that fails, and of components that were asked to end."""
    from pod_components import Fail, Patient

    folder = tmp_path_factory.mktemp("ended")
    term, more = ("started", signal.SIGTERM), ("cleaned", signal.SIGINT)
    asked: dict[str, Any] = {
        "fails": (Fail(kind="data"), []),
        "by SIGTERM": ("", [term]),
        "by SIGINT": ("", [("started", signal.SIGINT)]),
        "twice": ("stubborn", [term, more]),
        "deaf": ("deaf", [term]),
    }
    cases = []
    for name, (component, signals) in asked.items():
        here = folder / name
        if isinstance(component, str):
            component = Patient(flag=str(here / "flag"), cleaning=component)
        cases.append(
            {
                "words": arguments_of(component, here),
                "root": str(here / "pods" / component.id),
                "log": str(here / "log"),
                "signals": [(str(here / f"flag.{suffix}"), int(number)) for suffix, number in signals],
            }
        )
    done = subprocess.run(
        [sys.executable, str(HERE / "task_processes.py")],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {
        name: Ended(
            status,
            (folder / name / "flag.cleaned").exists(),
            (folder / name / "log").read_text().splitlines()[-1],
            bool(list((folder / name).rglob("output_metadata.json"))),
        )
        for name, status in zip(asked, json.loads(done.stdout.splitlines()[-1]), strict=True)
    }


def test_a_process_of_a_failed_component_exits_with_1(ended):
    assert ended["fails"].status == 1
    assert ended["fails"].last_line.endswith("Feature 'fare' must be finite; got 3 NaN.")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_task_asked_to_end_cleans_up_records_nothing_and_ends_by_the_signal(ended, number):
    last_line = f"tfx-mobile: ended by {number.name}; its outputs are not recorded."
    assert ended[f"by {number.name}"] == Ended(-number, True, last_line, said=False)


def test_a_second_signal_ends_a_task_whose_cleaning_up_does_not_end(ended):
    assert (ended["twice"].status, ended["twice"].cleaned) == (-signal.SIGINT, True)
    assert "its outputs are not recorded" not in ended["twice"].last_line


def test_a_task_that_its_own_signal_does_not_end_exits_with_the_status_that_a_shell_has_for_it(ended):
    last_line = "tfx-mobile: ended by SIGTERM; its outputs are not recorded."
    assert ended["deaf"] == Ended(143, True, last_line, said=False)


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
