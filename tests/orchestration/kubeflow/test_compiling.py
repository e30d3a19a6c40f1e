"""Contract tests: the compiled file, the server's rules, Kubeflow's own loader, and what can be imported."""

import copy
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.orchestration.kubeflow import server_rules

from tfx_mobile import cli
from tfx_mobile.common.errors import ConfigError
from tfx_mobile.orchestration.kubeflow.resources import (
    Resources,
    Secret,
    Volume,
    with_mounts,
    with_resources,
)

pytestmark = pytest.mark.pipeline

IMAGE = "registry.example/taxi:1"
ENTRYPOINT = ["python", "-m", "tfx_mobile.orchestration.kubeflow.task"]


def compile_to(path: Path, pipeline, **settings):
    from tfx_mobile.orchestration.kubeflow import compiling

    return compiling.compile_pipeline(pipeline, path, image=IMAGE, **settings)


def read(path: Path) -> dict:
    return next(yaml.safe_load_all(path.read_text()))


def odd(**settings):
    from tests.orchestration.kubeflow import odd_components

    return odd_components.pipeline(**settings)


@pytest.fixture(scope="module")
def taxi(tmp_path_factory) -> Path:
    """The taxi-fare pipeline as a user compiles it."""
    path = tmp_path_factory.mktemp("compiled") / "taxi.yaml"
    arguments = ["compile", "taxi_fare.kubeflow:create_pipeline", "--image", IMAGE, "--output", str(path)]
    assert cli.main(arguments) == 0
    return path


@pytest.fixture(scope="module")
def tasks(taxi) -> dict:
    return read(taxi)["root"]["dag"]["tasks"]


# The whole pipeline


def test_compiling_says_what_was_compiled_and_nothing_of_the_libraries(tmp_path):
    command = [sys.executable, "-m", "tfx_mobile.cli", "compile", "taxi_fare.kubeflow:create_pipeline"]
    path = tmp_path / "taxi.yaml"
    done = subprocess.run(
        [*command, f"--image={IMAGE}", f"--output={path}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        f"{path}  taxi-fare, 11 tasks",
        "parameter data_folder  '/data/chicago'",
    ]
    assert not re.search(r"FutureWarning| [IW] (tensorflow|external)/", done.stderr)


def test_the_server_takes_the_taxi_fare_pipeline_without_a_value_given(taxi):
    spec, platform = server_rules.accept(taxi.read_text())
    server_rules.check_values(spec, {})
    assert spec.pipeline_info.name == "taxi-fare"
    assert len(spec.root.dag.tasks) == 11
    assert platform


def test_the_claims_are_those_of_the_manifests_and_the_secret_is_one_that_the_guide_makes(taxi):
    _, platform = yaml.safe_load_all(taxi.read_text())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
    folder = Path(__file__).resolve().parents[3] / "kubeflow"
    manifests = list(yaml.safe_load_all((folder / "base" / "volumes.yaml").read_text()))

    claims = {mount["constant"] for one in executors for mount in one.get("pvcMount", ())}
    secrets = {mount["secretName"] for one in executors for mount in one.get("secretAsVolume", ())}

    assert claims == {one["metadata"]["name"] for one in manifests}
    assert secrets == {"registry-root"}
    assert "create secret generic registry-root " in (folder / "README.md").read_text()


def test_kubeflow_s_own_loader_reads_the_taxi_fare_pipeline_and_its_parameter(taxi):
    from kfp import components

    loaded = components.load_component_from_file(str(taxi))
    assert loaded.name == "taxi-fare"
    (name, parameter), *others = loaded.component_spec.inputs.items()
    assert (name, parameter.type, parameter.default) == ("data_folder", "String", "/data/chicago")
    assert others == []
    assert "RegistryPusher_executor" in str(loaded.platform_spec)


def test_every_task_starts_our_entrypoint_in_the_image_with_an_executor_that_can_be_imported(taxi):
    executors = read(taxi)["deploymentSpec"]["executors"]
    assert len(executors) == 11
    for executor in executors.values():
        container = executor["container"]
        assert (container["image"], container["command"]) == (IMAGE, ENTRYPOINT)
        assert "lifecycle" not in container
        flags = dict(zip(container["args"][0:6:2], container["args"][1:6:2], strict=True))
        module, _, name = flags["--executor_class_path"].rpartition(".")
        assert callable(getattr(importlib.import_module(module), name).Do)
        assert flags["--json_serialized_invocation_args"] == "{{$}}"
        assert "parameters" in json.loads(flags["--json_serialized_inputs_spec_args"])


def test_the_inputs_that_the_entrypoint_is_told_are_those_of_the_component(taxi):
    spec = read(taxi)
    for name, component in spec["components"].items():
        args = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]["args"]
        told = json.loads(args[args.index("--json_serialized_inputs_spec_args") + 1])
        assert told == component["inputDefinitions"], name


def test_every_function_that_a_parameter_names_can_be_imported(tasks):
    found = set()
    for task in tasks.values():
        for parameter in task["inputs"]["parameters"].values():
            text = str(parameter.get("runtimeValue", {}).get("constant", ""))
            found |= set(re.findall(r"\btaxi_fare(?:\.[a-z_]\w*)+", text))
    assert found == {"taxi_fare.features.preprocessing_fn", "taxi_fare.model.build_model"}
    for dotted in found:
        module, _, name = dotted.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))


def test_only_what_a_driver_decides_is_not_cached(tasks):
    off = {name for name, task in tasks.items() if not task["cachingOptions"].get("enableCache")}
    assert off == {"ExampleGen", "RegistryModel", "RegistryPusher"}


def test_the_registry_is_mounted_where_it_is_used_and_its_private_keys_only_where_it_is_signed(taxi):
    _, platform = server_rules.accept(taxi.read_text())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    found = {
        label: {
            entry["mountPath"]: entry.get("constant") or f"secret {entry['secretName']}"
            for entries in config.values()
            for entry in entries
        }
        for label, config in executors.items()
    }
    assert found == {
        "RegistryModel_executor": {"/registry": "registry", "/registry.keys": "secret registry-root"},
        "RegistryPusher_executor": {"/registry": "registry", "/registry.keys": "registry-keys"},
    }


def test_resources_are_numbers_which_servers_of_every_version_read(taxi):
    executors = read(taxi)["deploymentSpec"]["executors"]
    trainer = executors["PruningTrainer_executor"]["container"]["resources"]
    assert trainer == {"cpuLimit": 2.0, "memoryLimit": 8.589934592}  # 8 * 2**30 / 10**9


def test_the_same_pipeline_gives_the_same_bytes(taxi, tmp_path):
    from taxi_fare import kubeflow

    compile_to(tmp_path / "again.yaml", kubeflow.create_pipeline())
    assert (tmp_path / "again.yaml").read_bytes() == taxi.read_bytes()


# Each rule can say no


def changed(taxi: Path, change) -> str:
    documents = copy.deepcopy(list(yaml.safe_load_all(taxi.read_text())))
    change(*documents)
    return yaml.safe_dump_all(documents)


def at(*keys):
    """Returns a change that sets the last key to the last value, or removes it for None."""
    *path, last, value = keys

    def change(spec, platform):
        place = {"spec": spec, "platform": platform}[path[0]]
        for key in path[1:]:
            place = place[key]
        if value is None:
            del place[last]
        else:
            place[last] = value

    return change


TASK = ("spec", "root", "dag", "tasks", "StatisticsGen")


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (at("spec", "schemaVersion", "2.0.0"), "schema version 2.1.0; got '2.0.0'"),
        (at("spec", "schemaVersions", "2.1.0"), "every field is known"),
        (at("spec", "pipelineInfo", "name", ""), "a name; got ''"),
        (at("spec", "components", "StatisticsGen", None), "a component for StatisticsGen"),
        (at("spec", "deploymentSpec", "executors", "Transform_executor", None), "an executor for Transform"),
        (
            at("spec", "deploymentSpec", "executors", "Transform_executor", {"resolver": {}}),
            "a container or importer for Transform; got 'resolver'",
        ),
        (at(*TASK, "dependentTasks", ["Nobody"]), "a task that StatisticsGen depends on; got 'Nobody'"),
        (at(*TASK, "dependentTasks", []), "a producer for StatisticsGen; got 'ExampleGen'"),
        (at(*TASK, "inputs", "artifacts", "examples", None), "each input of StatisticsGen; got 'examples'"),
        (
            at(*TASK, "inputs", "artifacts", "examples", "taskOutputArtifact", "outputArtifactKey", "model"),
            "an output for StatisticsGen; got 'model'",
        ),
        (
            at("spec", "root", "inputDefinitions", "parameters", "data_folder", None),
            "a parameter for ExampleGen.input_base",
        ),
        (
            at("spec", "root", "inputDefinitions", "parameters", "data_folder", "defaultValue", 1),
            "STRING for default of data_folder",
        ),
        (
            at("platform", "platforms", "kubernetes", "deploymentSpec", "executors", "Other", {}),
            "an executor of the pipeline; got 'Other'",
        ),
    ],
)
def test_the_rules_refuse_a_file_that_breaks_one(taxi, change, rule):
    with pytest.raises(server_rules.Refused, match=re.escape(rule)):
        server_rules.accept(changed(taxi, change))


def test_the_rules_refuse_another_type_than_the_producer_s(taxi):
    def change(spec, platform):
        schema = spec["components"]["StatisticsGen"]["inputDefinitions"]["artifacts"]["examples"]
        schema["artifactType"]["instanceSchema"] = "title: tfx.Model\ntype: object\n"

    with pytest.raises(server_rules.Refused, match=re.escape("one type for StatisticsGen.examples")):
        server_rules.accept(changed(taxi, change))


def test_what_tfx_compiles_by_itself_breaks_the_rules(tmp_path):
    from tfx.orchestration.data_types import RuntimeParameter
    from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner as runner

    def by_itself(name: str, text: object = "x", **settings) -> str:
        config = runner.KubeflowV2DagRunnerConfig(default_image=IMAGE, **settings)
        pipeline = odd(text=text)
        runner.KubeflowV2DagRunner(config, str(tmp_path), name).run(pipeline)
        return (tmp_path / name).read_text()

    with pytest.raises(server_rules.Refused, match=re.escape("one pipeline spec")):
        server_rules.accept(by_itself("job.json"))
    with pytest.raises(server_rules.Refused, match=re.escape("schema version 2.1.0; got '2.0.0'")):
        server_rules.accept(by_itself("job.yaml"))
    text = RuntimeParameter("text", ptype=str, default="x")
    spec, _ = server_rules.accept(by_itself("new.yaml", text, use_pipeline_spec_2_1=True))
    with pytest.raises(server_rules.Refused, match=re.escape("without default; got 'text'")):
        server_rules.check_values(spec, {})


# Parameters


def runtime_parameters(**defaults):
    from tfx.orchestration.data_types import RuntimeParameter

    kinds = {"count": int, "rate": float, "text": str}
    return {
        name: RuntimeParameter(f"the-{name}", ptype=kinds[name], default=default)
        for name, default in defaults.items()
    }


def declared(path: Path) -> dict:
    return read(path)["root"]["inputDefinitions"]["parameters"]


def test_defaults_are_written_with_their_types_and_what_has_none_must_be_given(tmp_path):
    path = tmp_path / "odd.yaml"
    found = compile_to(path, odd(**runtime_parameters(count=0, rate=1.0, text=None)))
    assert found.parameters == {"the-count": 0, "the-rate": 1.0, "the-text": None}
    assert found.tasks == ("Typed", "Reader")
    assert declared(path) == {
        "the-count": {"parameterType": "NUMBER_INTEGER", "defaultValue": 0.0},
        "the-rate": {"parameterType": "NUMBER_DOUBLE", "defaultValue": 1.0},
        "the-text": {"parameterType": "STRING"},
    }
    spec, _ = server_rules.accept(path.read_text())
    server_rules.check_values(spec, {"the-text": ""})
    with pytest.raises(server_rules.Refused, match="the-text"):
        server_rules.check_values(spec, {})


def test_a_given_default_takes_the_place_of_the_pipeline_s_and_text_is_read(tmp_path):
    path = tmp_path / "odd.yaml"
    given = {"the-count": "7", "the-rate": "2", "the-text": "7"}
    compile_to(path, odd(**runtime_parameters(count=1, rate=0.5, text="x")), parameters=given)
    assert {name: one["defaultValue"] for name, one in declared(path).items()} == {
        "the-count": 7,
        "the-rate": 2.0,
        "the-text": "7",
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"the-count": "1.5"}, "Parameter 'the-count' must be int, below 2**53 in size; got '1.5'."),
        ({"the-count": 1.0}, "Parameter 'the-count' must be int, below 2**53 in size; got 1.0."),
        ({"the-count": True}, "Parameter 'the-count' must be int, below 2**53 in size; got True."),
        ({"the-count": 2**53}, f"Parameter 'the-count' must be int, below 2**53 in size; got {2**53}."),
        ({"the-rate": "nan"}, "Parameter 'the-rate' must be float, finite; got 'nan'."),
        ({"the-rate": "-inf"}, "Parameter 'the-rate' must be float, finite; got '-inf'."),
        ({"the-rate": "fast"}, "Parameter 'the-rate' must be float, finite; got 'fast'."),
        ({"the-text": 1}, "Parameter 'the-text' must be str; got 1."),
        (
            {"txt": "x"},
            "Parameter 'txt' must be a RuntimeParameter of the pipeline; it has the-count,",
        ),
    ],
)
def test_a_default_of_another_type_or_name_is_refused(tmp_path, given, message):
    pipeline = odd(**runtime_parameters(count=1, rate=0.5, text="x"))
    with pytest.raises(ConfigError, match=re.escape(message)):
        compile_to(tmp_path / "odd.yaml", pipeline, parameters=given)
    assert list(tmp_path.iterdir()) == []


def test_one_parameter_with_two_defaults_is_refused(tmp_path):
    from tfx.orchestration.data_types import RuntimeParameter

    whole, part = (RuntimeParameter("n", ptype=type(value), default=value) for value in (1, 2.0))
    pipeline = odd(count=whole, rate=part)
    with pytest.raises(ConfigError, match=re.escape("must have one type and one default; got 1 and 2.0.")):
        compile_to(tmp_path / "odd.yaml", pipeline)


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "a=b", "a.b"])
def test_a_parameter_s_name_that_no_command_line_takes_is_refused(tmp_path, name):
    from tfx.orchestration.data_types import RuntimeParameter

    with pytest.raises(ConfigError, match=re.escape(f"'_' and '-'; got {name!r} in 'Typed'. Rename it.")):
        compile_to(tmp_path / "odd.yaml", odd(text=RuntimeParameter(name, ptype=str)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [True, False])
def test_a_boolean_is_compiled_as_one_and_the_entrypoint_is_told_so(tmp_path, value):
    path = tmp_path / "odd.yaml"
    compile_to(path, odd(flag=value, count=1))
    server_rules.accept(path.read_text())
    spec = read(path)
    given = spec["root"]["dag"]["tasks"]["Typed"]["inputs"]["parameters"]
    assert given["flag"] == {"runtimeValue": {"constant": value}}
    assert given["count"] == {"runtimeValue": {"constant": 1}}
    inputs = spec["components"]["Typed"]["inputDefinitions"]
    assert inputs["parameters"]["flag"] == {"parameterType": "BOOLEAN"}
    args = spec["deploymentSpec"]["executors"]["Typed_executor"]["container"]["args"]
    assert json.loads(args[args.index("--json_serialized_inputs_spec_args") + 1]) == inputs


@pytest.mark.parametrize(
    "text",
    ["12e5", "1234e56789", ".5", "+1.e3", "0o17", "017", "yes", "null", "~", "", "2026-01-01", "1_0", "<<"],
)
def test_text_that_looks_like_something_else_is_quoted_for_every_version_of_yaml(tmp_path, text):
    path = tmp_path / "odd.yaml"
    compile_to(path, odd(**runtime_parameters(text=text)))
    (written,) = re.findall(r"defaultValue: (.*)", path.read_text())
    assert written[0] in "'\""
    assert declared(path)["the-text"]["defaultValue"] == text


# What is refused before anything is written


def nodes_of(pipeline) -> dict:
    return {node.id: node for node in pipeline.components}


def with_node(make):
    """Returns a pipeline with more nodes, which may take the first one's model."""
    from tests.orchestration.kubeflow import odd_components
    from tfx import v1 as tfx

    typed = odd_components.Typed()
    nodes = [typed, *make(typed.outputs["model"])]
    return tfx.dsl.Pipeline(pipeline_name="odd", pipeline_root="", components=nodes)


def with_parameter(value):
    pipeline = odd()
    nodes_of(pipeline)["Typed"].exec_properties["text"] = value
    return pipeline


def a_resolver(model):
    from tfx import v1 as tfx

    return [
        tfx.dsl.Resolver(
            strategy_class=tfx.dsl.experimental.LatestArtifactStrategy,
            model=tfx.dsl.Channel(type=tfx.types.standard_artifacts.Model),
        ).with_id("Baseline")
    ]


def an_infra_validator(model):
    from tfx import v1 as tfx

    return [tfx.components.InfraValidator(model=model, serving_spec=tfx.proto.ServingSpec())]


def an_output_value(model):
    from tests.orchestration.kubeflow import odd_components

    counter = odd_components.Counter()
    total = counter.outputs["total"].future()[0].value
    return [counter, odd_components.Typed(count=total).with_id("Counted")]


def a_channel_from_nowhere(model):
    from tests.orchestration.kubeflow import odd_components

    other = odd_components.Typed().with_id("Elsewhere")
    return [odd_components.Reader(model=other.outputs["model"]).with_id("Second")]


def an_importer_with_resources(model):
    from tfx import v1 as tfx

    node = tfx.dsl.Importer(source_uri="gs://b/m", artifact_type=tfx.types.standard_artifacts.Model)
    return [with_resources(node.with_id("Imported"), Resources(cpu=1))]


def an_importer_of_a_path(model):
    from tfx import v1 as tfx

    artifact_type = tfx.types.standard_artifacts.Model
    return [tfx.dsl.Importer(source_uri="/models/7", artifact_type=artifact_type).with_id("Imported")]


def a_condition(model):
    from tests.orchestration.kubeflow import odd_components
    from tfx import v1 as tfx

    with tfx.dsl.Cond(model.future()[0].custom_property("good") == 1):
        return [odd_components.Reader(model=model).with_id("Second")]


def a_module_file(model):
    from tfx import v1 as tfx

    examples = tfx.components.ImportExampleGen(input_base="/data")
    trainer = tfx.components.Trainer(
        module_file=__file__,
        examples=examples.outputs["examples"],
        train_args=tfx.proto.TrainArgs(),
        eval_args=tfx.proto.EvalArgs(),
    )
    return [examples, trainer]


def a_function_that_is_not_there(model):
    from tfx import v1 as tfx

    examples = tfx.components.ImportExampleGen(input_base="/data")
    trainer = tfx.components.Trainer(
        run_fn="tiny_models.no_run_fn",
        examples=examples.outputs["examples"],
        train_args=tfx.proto.TrainArgs(),
        eval_args=tfx.proto.EvalArgs(),
    )
    return [examples, trainer]


def of_type(name: str):
    def make(model):
        from tests.orchestration.kubeflow import odd_components
        from tfx import types

        reader = odd_components.Reader(model=model).with_id("Second")
        kind = getattr(odd_components, name)
        reader.spec.outputs["extra"] = types.OutputChannel(kind, reader, "extra")
        return [reader]

    return make


def a_local_executor(model):
    from tests.orchestration.kubeflow import odd_components
    from tfx.dsl.components.base import executor_spec

    reader = odd_components.Reader(model=model).with_id("Second")
    reader.executor_spec = executor_spec.ExecutorClassSpec(odd_components.made_in_a_function())
    return [reader]


def an_executor_of_the_program(model):
    from tests.orchestration.kubeflow import odd_components
    from tfx.dsl.components.base import executor_spec

    reader = odd_components.Reader(model=model).with_id("Second")
    executor = type("Executor", (), {"__module__": "__main__"})
    vars(sys.modules["__main__"]).setdefault("Executor", executor)  # importable here, not there
    reader.executor_spec = executor_spec.ExecutorClassSpec(executor)
    return [reader]


def a_bad_id(model):
    from tests.orchestration.kubeflow import odd_components

    return [odd_components.Reader(model=model).with_id("my_reader")]


def both_ways_of_resources(model):
    from kfp.pipeline_spec import pipeline_spec_pb2
    from tests.orchestration.kubeflow import odd_components

    spec = pipeline_spec_pb2.PipelineDeploymentConfig.PipelineContainerSpec.ResourceSpec(cpu_limit=1)
    reader = odd_components.Reader(model=model).with_id("Second").with_platform_config(spec)
    return [with_resources(reader, Resources(cpu=2))]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            a_resolver,
            "Baseline: a Resolver is not implemented in the server. Take RegistryModel as the baseline, or "
            "an Importer.",
        ),
        (an_infra_validator, "InfraValidator: InfraValidator cannot be compiled by TFX. Leave it out: "),
        (
            an_output_value,
            "Counted: parameter 'count' takes the output value of a component, which the compiled file "
            "cannot name. Pass the artifact as an input, and read its value in the executor.",
        ),
        (
            a_channel_from_nowhere,
            "Second: input 'model' must come from a component of this pipeline; got 'Elsewhere'. Add the",
        ),
        (an_importer_with_resources, "Imported: an Importer runs no code. Leave out its resources, volumes"),
        (
            an_importer_of_a_path,
            "Imported: source_uri must begin with 'gs://', 's3://' or 'minio://' and a bucket, where the "
            "launcher finds it; got '/models/7'. Upload it, or",
        ),
        (
            a_condition,
            "Second: a condition (Cond) is compiled by TFX with names of inputs that the task does ",
        ),
        (a_module_file, "Trainer: module_file would be packed here, into the pipeline root. Put the module"),
        (
            a_function_that_is_not_there,
            "Trainer: run_fn must be an importable function; got 'tiny_models.no_run_fn' (module "
            "'tiny_models' has no attribute 'no_run_fn').",
        ),
        (
            of_type("WithProperties"),
            "Second: output 'extra' has the artifact type WithProperties. A type of your own must have no "
            "PROPERTIES; got rows. Use custom properties.",
        ),
        (
            of_type("NotExported"),
            "Its TYPE_NAME must be importable as the type; 'tfx_mobile.NotExported' is not. Export it from "
            "'tfx_mobile'.",
        ),
        (
            of_type("WithoutModule"),
            "Its TYPE_NAME must be 'module.Class' with a module of 3 to 21 letters; got",
        ),
        (
            a_local_executor,
            "Second: its executor must be importable in the image; got made_in_a_function.<locals>.Local of "
            "tests.orchestration.kubeflow.odd_components.",
        ),
        (
            an_executor_of_the_program,
            "its executor must be importable in the image; got Executor of __main__.",
        ),
        (a_bad_id, "my_reader: an id must be 1 to 120 of a-z, A-Z, 0-9 and '-', '-' not first, since Argo"),
        (both_ways_of_resources, "Second: its resources must come from with_resources() alone, or from a "),
    ],
)
def test_a_node_that_cannot_run_is_refused_by_its_name_and_nothing_is_written(tmp_path, make, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as raised:
        compile_to(tmp_path / "odd.yaml", with_node(make))
    said = str(raised.value).splitlines()
    assert said[0] == "Pipeline 'odd' cannot run on open-source Kubeflow Pipelines."
    assert len(said) == 2
    assert list(tmp_path.iterdir()) == []


NESTED = "has a RuntimeParameter inside of other text or of a collection, where it is never replaced."


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "runtime in a list",
            NESTED,
        ),
        (
            "runtime in a dict",
            NESTED,
        ),
        (
            "runtime in text",
            NESTED,
        ),
        (["a"], "is a list, which would arrive as JSON text. Declare it as str and give JSON."),
        ({"a": 1}, "is a dict, which would arrive as JSON text. Declare it as str and give JSON."),
        (b"a", "is a bytes, which would arrive as JSON text. Declare it as str and give JSON."),
        (2**53, f"must be below 2**53 in size, since numbers travel as float64; got {2**53}."),
        (-(2**53), f"must be below 2**53 in size, since numbers travel as float64; got -{2**53}."),
        (float("nan"), "must be finite; got nan."),
        (float("-inf"), "must be finite; got -inf."),
    ],
)
def test_a_parameter_that_would_arrive_as_something_else_is_refused(tmp_path, value, message):
    from tfx.orchestration.data_types import RuntimeParameter

    inner = RuntimeParameter("steps", ptype=int, default=1)
    nested = {
        "runtime in a list": [[inner]],
        "runtime in a dict": {"train": {"steps": inner}},
        "runtime in text": json.dumps({"config": f'{{"num_steps": {inner}}}'}),
    }
    pipeline = with_parameter(nested.get(value, value) if isinstance(value, str) else value)
    with pytest.raises(ConfigError, match=re.escape(f"Typed: parameter 'text' {message}")):
        compile_to(tmp_path / "odd.yaml", pipeline)
    assert list(tmp_path.iterdir()) == []


def test_integers_of_less_than_two_to_the_53_are_exact(tmp_path):
    path = tmp_path / "odd.yaml"
    compile_to(path, odd(count=-(2**53) + 1))
    given = read(path)["root"]["dag"]["tasks"]["Typed"]["inputs"]["parameters"]["count"]
    assert int(given["runtimeValue"]["constant"]) == -(2**53) + 1


def test_a_pipeline_without_components_is_refused(tmp_path):
    from tfx import v1 as tfx

    with pytest.raises(ConfigError, match=re.escape("It must have components; it has none. Add some.")):
        compile_to(tmp_path / "odd.yaml", tfx.dsl.Pipeline(pipeline_name="odd", pipeline_root=""))


def test_all_reasons_are_said_at_once(tmp_path):
    pipeline = with_node(lambda model: [*a_resolver(model), *a_bad_id(model)])
    with pytest.raises(ConfigError) as raised:
        compile_to(tmp_path / "odd.yaml", pipeline)
    assert [line.split(":")[0] for line in str(raised.value).splitlines()[1:]] == ["Baseline", "my_reader"]


@pytest.mark.parametrize("name", ["", "Taxi", "taxi_fare", "-taxi"])
def test_a_pipeline_s_name_that_tfx_cannot_compile_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=re.escape(f"'-' not first; got {name!r}. Rename it.")):
        compile_to(tmp_path / "odd.yaml", odd(name=name))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("odd.json", {}, "must end in '.yaml', since the server takes nothing else; got 'odd.json'."),
        ("odd.yml", {}, "must end in '.yaml', since the server takes nothing else; got 'odd.yml'."),
        ("odd.yaml", {"vertex": True}, "must end in '.json', since Vertex AI takes the job as JSON; got"),
        (
            "odd.yaml",
            {"mounts": {"Nobody": [Volume("a", "/a")]}},
            "Volumes and secrets must be for components of the pipeline; got 'Nobody'. It has Typed, Reader.",
        ),
    ],
)
def test_a_wrong_argument_is_refused(tmp_path, name, settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        compile_to(tmp_path / name, odd(), **settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("image", ["", " ", "a b", "a\n"])
def test_an_image_that_is_no_name_is_refused(tmp_path, image):
    from tfx_mobile.orchestration.kubeflow import compiling

    with pytest.raises(ConfigError, match=re.escape(f"image must name a container image; got {image!r}.")):
        compiling.compile_pipeline(odd(), tmp_path / "odd.yaml", image=image)


def test_a_refused_pipeline_leaves_the_file_of_the_one_before(tmp_path):
    path = tmp_path / "odd.yaml"
    compile_to(path, odd())
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="Resolver"):
        compile_to(path, with_node(a_resolver))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_who_reads_the_file_while_it_is_compiled_again_reads_the_whole_old_one(tmp_path):
    path = tmp_path / "odd.yaml"
    compile_to(path, odd(count=1))
    before = path.read_bytes()
    with path.open("rb") as reader:
        compile_to(path, odd(count=2))
        assert reader.read() == before
    assert path.read_bytes() != before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=re.escape("must be written to a file; ")):
        compile_to(tmp_path / "file" / "odd.yaml", odd())


# Resources, volumes, secrets


def test_an_accelerator_and_mounts_are_written_for_their_component_alone(tmp_path):
    path = tmp_path / "odd.yaml"
    pipeline = odd()
    nodes = nodes_of(pipeline)
    with_resources(nodes["Typed"], Resources(cpu=0.5, accelerator="nvidia.com/gpu", accelerator_count=2))
    with_mounts(nodes["Typed"], Secret("token", "/token"))
    compile_to(path, pipeline, mounts={"Typed": [Volume("data", "/data")]})
    _, platform = server_rules.accept(path.read_text())
    executors = read(path)["deploymentSpec"]["executors"]
    assert executors["Typed_executor"]["container"]["resources"] == {
        "cpuLimit": 0.5,
        "accelerator": {"type": "nvidia.com/gpu", "count": "2"},
    }
    assert "resources" not in executors["Reader_executor"]["container"]
    constant = {"runtimeValue": {"constant": "token"}}
    assert platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"] == {
        "Typed_executor": {
            "secretAsVolume": [
                {
                    "secretName": "token",
                    "mountPath": "/token",
                    "optional": False,
                    "secretNameParameter": constant,
                }
            ],
            "pvcMount": [
                {
                    "constant": "data",
                    "mountPath": "/data",
                    "pvcNameParameter": {"runtimeValue": {"constant": "data"}},
                }
            ],
        }
    }


def test_mounts_given_at_compiling_stay_out_of_the_pipeline(tmp_path):
    pipeline = odd()
    mounts = {"Typed": [Volume("data", "/data")]}
    compile_to(tmp_path / "one.yaml", pipeline, mounts=mounts)
    compile_to(tmp_path / "two.yaml", pipeline, mounts=mounts)
    assert (tmp_path / "one.yaml").read_bytes() == (tmp_path / "two.yaml").read_bytes()
    with_mounts(nodes_of(pipeline)["Typed"], Secret("token", "/data"))
    with pytest.raises(ConfigError, match=re.escape("got '/data' twice for 'Typed'.")):
        compile_to(tmp_path / "three.yaml", pipeline, mounts=mounts)


def test_without_mounts_there_is_one_document(tmp_path):
    compile_to(tmp_path / "odd.yaml", odd())
    assert len(list(yaml.safe_load_all((tmp_path / "odd.yaml").read_text()))) == 1


def test_a_local_run_takes_no_notice_of_resources_and_mounts(tmp_path):
    import tiny_components

    from tfx_mobile.orchestration import local

    numbers = tiny_components.Numbers(numbers="1 2 3")
    total = tiny_components.Total(examples=numbers.outputs["examples"])
    with_resources(numbers, Resources(cpu=1000, memory="1000Gi"))
    with_mounts(total, Volume("nowhere", "/nowhere"))
    found = local.run(
        local.local_pipeline("tiny", [numbers, total], tmp_path / "workspace"), log_file=tmp_path / "run.log"
    )
    assert found.failed is None
    assert found.outputs["Total"]["model"][0].properties["total"] == 6


# Vertex AI


def test_for_vertex_tfx_s_own_job_is_kept_with_defaults_and_resources(tmp_path):
    path = tmp_path / "odd.json"
    pipeline = odd(**runtime_parameters(count=3, rate=0.5, text=None))
    with_resources(nodes_of(pipeline)["Typed"], Resources(memory="4Gi"))
    found = compile_to(path, pipeline, vertex=True)
    job = json.loads(path.read_text())
    assert job["pipelineSpec"]["schemaVersion"] == "2.0.0"
    assert job["runtimeConfig"]["parameters"] == {
        "the-count": {"intValue": "3"},
        "the-rate": {"doubleValue": 0.5},
    }
    container = job["pipelineSpec"]["deploymentSpec"]["executors"]["Typed_executor"]["container"]
    assert container["command"][-1] == "tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor"
    assert container["resources"] == {"memoryLimit": 4.294967296}
    assert found.parameters["the-text"] is None


def test_for_vertex_a_resolver_is_kept_and_kubernetes_volumes_are_refused(tmp_path):
    path = tmp_path / "odd.json"
    compile_to(path, with_node(a_resolver), vertex=True)
    assert (
        "resolver"
        in json.loads(path.read_text())["pipelineSpec"]["deploymentSpec"]["executors"]["Baseline_executor"]
    )
    with pytest.raises(ConfigError, match=re.escape("Typed: Vertex AI knows no volumes and secrets")):
        compile_to(path, odd(), vertex=True, mounts={"Typed": [Volume("a", "/a")]})


def test_for_vertex_only_the_driver_that_it_runs_may_be_cached(tmp_path):
    from taxi_fare import kubeflow

    pipeline = kubeflow.create_pipeline()
    for node in pipeline.components:
        vars(node).pop("_tfx_mobile_mounts", None)
    compile_to(tmp_path / "taxi.json", pipeline, vertex=True)
    tasks = json.loads((tmp_path / "taxi.json").read_text())["pipelineSpec"]["root"]["dag"]["tasks"]
    off = {name for name, task in tasks.items() if not task["cachingOptions"].get("enableCache")}
    assert off == {"RegistryModel", "RegistryPusher"}


# The command line


def test_the_command_sets_parameters_and_mounts_and_says_what_it_wrote(tmp_path, capsys):
    path = tmp_path / "odd.yaml"
    assert (
        cli.main(
            [
                "compile",
                "tests.orchestration.kubeflow.odd_components:pipeline",
                f"--image={IMAGE}",
                f"--output={path}",
                "--volume=data:/data:Typed,Reader",
                "--secret=token:/token:Reader",
            ]
        )
        == 0
    )
    assert capsys.readouterr().out.splitlines() == [f"{path}  odd, 2 tasks"]
    _, platform = server_rules.accept(path.read_text())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert {label: set(config) for label, config in executors.items()} == {
        "Typed_executor": {"pvcMount"},
        "Reader_executor": {"pvcMount", "secretAsVolume"},
    }


def test_the_command_names_the_file_after_the_pipeline_and_prints_its_parameters(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    command = ["compile", "taxi_fare.kubeflow:create_pipeline", f"--image={IMAGE}"]
    assert cli.main([*command, "--param", "data_folder=/rows=here"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "taxi-fare.yaml  taxi-fare, 11 tasks",
        "parameter data_folder  '/rows=here'",
    ]
    assert declared(tmp_path / "taxi-fare.yaml")["data_folder"]["defaultValue"] == "/rows=here"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["odd"], "The pipeline must be MODULE:FUNCTION; got 'odd'."),
        (["tests.orchestration.kubeflow.odd_components:nothing"], "has no attribute 'nothing'"),
        (
            ["tests.nowhere:pipeline"],
            "The pipeline must be an importable function; got 'tests.nowhere.pipeline'",
        ),
        (
            ["tests.orchestration.kubeflow.odd_components:needs_an_argument"],
            "The pipeline's function must need no arguments; ",
        ),
        (["tests.orchestration.kubeflow.odd_components:returns_text"], "must return a tfx.dsl.Pipeline; "),
        (
            ["tests.orchestration.kubeflow.odd_components:pipeline", "--volume=a:/a"],
            "A mount must be NAME:/PATH:COMPONENT[,COMPONENT...]; got 'a:/a'.",
        ),
        (
            ["tests.orchestration.kubeflow.odd_components:pipeline", "--secret=a:/a:Typed,"],
            "A mount must be NAME:/PATH:COMPONENT[,COMPONENT...]; got 'a:/a:Typed,'.",
        ),
        (
            ["tests.orchestration.kubeflow.odd_components:pipeline", "--param=steps"],
            "--param must be NAME=VALUE; got 'steps'. Write for example epochs=20.",
        ),
    ],
)
def test_a_wrong_command_is_one_line_and_status_2(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compile", *arguments, f"--image={IMAGE}"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_without_kfp_the_command_says_what_to_install(monkeypatch, capsys):
    import tfx_mobile.orchestration.kubeflow as package

    name = "tfx_mobile.orchestration.kubeflow.compiling"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr(package, "compiling", raising=False)
    monkeypatch.setitem(sys.modules, "kfp.pipeline_spec", None)
    assert cli.main(["compile", "taxi_fare.kubeflow:create_pipeline", f"--image={IMAGE}"]) == 2
    assert "Compiling for Kubeflow needs the package kfp; it is not installed." in capsys.readouterr().err
