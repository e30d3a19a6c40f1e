"""Compiles a TFX pipeline for open-source Kubeflow Pipelines 2.x, or as TFX does it for Vertex AI.

TFX's own KubeflowV2DagRunner compiles; nothing of it is patched. What the open-source server would refuse, or
would run wrongly, is refused here before anything is written. Then a pass over the compiled file puts in what
TFX leaves out: the defaults of parameters, booleans as such, resources, volumes and secrets; and takes out
caching where it would give yesterday's answer. Does not build images, upload or run anything.
Source: kubeflow/pipelines 2.5 to 2.17, api/v2alpha1/pipeline_spec.proto and backend/src/v2.
"""

import importlib
import inspect
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from google.protobuf import json_format, message
from tfx import types
from tfx.dsl.component.experimental import executor_specs
from tfx.dsl.components.base import base_component, base_driver, base_node, executor_spec
from tfx.dsl.components.common import importer, resolver
from tfx.dsl.experimental.conditionals import conditional
from tfx.dsl.placeholder import placeholder
from tfx.orchestration import data_types
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.types import standard_component_specs
from tfx.utils import name_utils

from tfx_mobile.common import user_code
from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.files import write_atomically
from tfx_mobile.orchestration.kubeflow import resources as placing
from tfx_mobile.orchestration.kubeflow.resources import Mount, Resources, Volume

try:
    from kfp.pipeline_spec import pipeline_spec_pb2  # type: ignore[import-untyped]
    from tfx.orchestration.kubeflow.v2 import compiler_utils, kubeflow_v2_dag_runner
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "kfp":
        raise
    raise ConfigError(
        "Compiling for Kubeflow needs the package kfp; it is not installed. Run pip install "
        "'tfx-mobile[kubeflow]'."
    ) from error

ENTRYPOINT = ("python", "-m", "tfx_mobile.orchestration.kubeflow.task")
KUBEFLOW_SUFFIX, VERTEX_SUFFIX = ".yaml", ".json"


@dataclass(frozen=True)
class Compiled:
    """What was written.

    Attributes:
      path: The file.
      pipeline_name: Name of the pipeline.
      tasks: Ids of its components, in the order they run.
      parameters: Of the whole pipeline, by name; None for one without a default, which a run must give.
    """

    path: Path
    pipeline_name: str
    tasks: tuple[str, ...]
    parameters: Mapping[str, int | float | str | None]


def compile_pipeline(
    pipeline: tfx_pipeline.Pipeline,
    path: Path,
    *,
    image: str,
    parameters: Mapping[str, int | float | str] | None = None,
    mounts: Mapping[str, Sequence[Mount]] | None = None,
    vertex: bool = False,
) -> Compiled:
    """Writes the compiled pipeline, atomically.

    Args:
      pipeline: As for any runner. `resources.with_resources` and `with_mounts` say what its components need.
      path: Ends in '.yaml' (for Vertex in '.json'); its folder is made when missing.
      image: Container image with Python, TFX, this package and the pipeline's own code.
      parameters: Defaults by RuntimeParameter's name, in place of the pipeline's own. Text is converted.
      mounts: More volumes and secrets, by component id.
      vertex: Compile as TFX does it for Vertex AI (schema 2.0.0, TFX's own entrypoint) instead.

    Returns:
      What was written.

    Raises:
      ConfigError: The pipeline cannot run there; the message has every reason and its way out, and nothing is
        written. Or an argument is not as described, or the file cannot be written.
    """
    _check_arguments(path, image, vertex)
    nodes = _nodes(pipeline)
    mounted = _mounts(nodes, mounts or {})
    problems = list(_problems(pipeline, nodes, mounted, vertex))
    if problems:
        where = "Vertex AI" if vertex else "open-source Kubeflow Pipelines"
        raise ConfigError(
            "\n".join([f"Pipeline {pipeline.pipeline_name!r} cannot run on {where}.", *problems])
        )
    defaults = _defaults(nodes.values(), parameters or {})
    if vertex:
        text = _vertex_job(pipeline, nodes, image, defaults)
    else:
        text = _kubeflow_yaml(pipeline, nodes, mounted, image, defaults)
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise ConfigError(
            f"The compiled pipeline must be written to a file; {path}: {error.strerror}. Name another."
        ) from error
    return Compiled(path, pipeline.pipeline_name, tuple(nodes), defaults)


def load_pipeline(name: str) -> tfx_pipeline.Pipeline:
    """Returns the pipeline that a function makes.

    Args:
      name: 'module:function'; called without arguments.

    Raises:
      ConfigError: There is no such function, it needs arguments, or it returns something else.
    """
    module, _, function = name.partition(":")
    if not module or not function:
        raise ConfigError(
            f"The pipeline must be MODULE:FUNCTION; got {name!r}. Write for example "
            "taxi_fare.kubeflow:create_pipeline."
        )
    make = user_code.load(f"{module}.{function}", "The pipeline")
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        raise ConfigError(
            f"The pipeline's function must need no arguments; {name!r} is {error}. Write one that calls it."
        ) from error
    made = make()
    if not isinstance(made, tfx_pipeline.Pipeline):
        raise ConfigError(
            f"The pipeline's function must return a tfx.dsl.Pipeline; {name!r} returned a "
            f"{type(made).__name__}. Return the pipeline."
        )
    return made


# What is refused


def _check_arguments(path: Path, image: str, vertex: bool) -> None:
    suffix = VERTEX_SUFFIX if vertex else KUBEFLOW_SUFFIX
    if path.suffix != suffix:
        why = "Vertex AI takes the job as JSON" if vertex else "the server takes nothing else"
        raise ConfigError(
            f"The compiled pipeline's name must end in {suffix!r}, since {why}; got {path.name!r}. "
            f"Write {path.with_suffix(suffix).name!r}."
        )
    if not image or image != "".join(image.split()):
        raise ConfigError(
            f"image must name a container image; got {image!r}. Write for example 'registry/name:tag'."
        )


def _nodes(pipeline: tfx_pipeline.Pipeline) -> dict[str, base_node.BaseNode]:
    return {node.id: node for node in pipeline.components}


def _mounts(
    nodes: Mapping[str, base_node.BaseNode], more: Mapping[str, Sequence[Mount]]
) -> dict[str, tuple[Mount, ...]]:
    """Returns what each component mounts, by id, of those that mount something."""
    for id_ in more:
        if id_ not in nodes:
            raise ConfigError(
                f"Volumes and secrets must be for components of the pipeline; got {id_!r}. It has "
                f"{', '.join(nodes)}."
            )
    together = {id_: (*placing.mounts_of(node), *more.get(id_, ())) for id_, node in nodes.items()}
    for id_, mounts in together.items():
        placing.check_mounts(id_, mounts)
    return {id_: mounts for id_, mounts in together.items() if mounts}


def _problems(
    pipeline: tfx_pipeline.Pipeline,
    nodes: Mapping[str, base_node.BaseNode],
    mounted: Mapping[str, Sequence[Mount]],
    vertex: bool,
) -> Iterator[str]:
    """Yields why the pipeline cannot run, each with the node and the way out."""
    name = pipeline.pipeline_name
    if not _PIPELINE_NAME.fullmatch(name):
        yield f"Its name must be 1 to 128 of a-z, 0-9 and '-', '-' not first; got {name!r}. Rename it."
    if not nodes:
        yield "It must have components; it has none. Add some."
    for node in nodes.values():
        if isinstance(node, resolver.Resolver):
            if not vertex:
                yield (
                    f"{node.id}: a Resolver is not implemented in the server. Take RegistryModel as the "
                    "baseline, or an Importer."
                )
            continue
        if not isinstance(node, base_component.BaseComponent | importer.Importer):
            yield f"{node.id}: a {type(node).__name__} cannot be compiled. Put its components in its place."
            continue
        if _is_infra_validator(node):
            yield (
                f"{node.id}: InfraValidator cannot be compiled by TFX. Leave it out: Quantizer runs each "
                "file that it makes, and SizeLatencyEvaluator measures it."
            )
        if not vertex:
            yield from _task_problems(node)
            if conditional.get_predicates(node, pipeline.dsl_context_registry):
                yield (
                    f"{node.id}: a condition (Cond) is compiled by TFX with names of inputs that the task "
                    "does not have, so that the server fails. Take the component out of it: Pusher and "
                    "RegistryPusher look at the blessing by themselves."
                )
        elif node.id in mounted:
            yield f"{node.id}: Vertex AI knows no volumes and secrets of Kubernetes. Leave them out."
        yield from _channel_problems(node, nodes)
        yield from _parameter_problems(node)
        yield from _code_problems(node)
        yield from _resource_problems(node, node.id in mounted)


def _is_infra_validator(node: base_node.BaseNode) -> bool:
    from tfx.components.infra_validator.component import InfraValidator

    return isinstance(node, InfraValidator)


def _task_problems(node: base_node.BaseNode) -> Iterator[str]:
    if not _TASK_NAME.fullmatch(node.id):
        yield (
            f"{node.id}: an id must be 1 to 120 of a-z, A-Z, 0-9 and '-', '-' not first, since Argo takes no "
            "other task. Give another with with_id()."
        )
    source = node.exec_properties.get(importer.SOURCE_URI_KEY)
    if isinstance(node, importer.Importer) and isinstance(source, str) and not _STORED.match(source):
        yield (
            f"{node.id}: source_uri must begin with 'gs://', 's3://' or 'minio://' and a bucket, where the "
            f"launcher finds it; got {source!r}. Upload it, or mount it and give the path as a parameter."
        )
    if node.exec_properties.get(standard_component_specs.MODULE_FILE_KEY):
        yield (
            f"{node.id}: module_file would be packed here, into the pipeline root. Put the module into a "
            "package in the image and give a dotted name, such as "
            "preprocessing_fn='taxi_fare.features.preprocessing_fn'."
        )


def _channel_problems(node: base_node.BaseNode, nodes: Mapping[str, base_node.BaseNode]) -> Iterator[str]:
    for key, channel in node.inputs.items():
        if not isinstance(channel, types.Channel):
            yield (
                f"{node.id}: input {key!r} must be the output of one component; got a "
                f"{type(channel).__name__}. Connect it to one."
            )
        elif channel.producer_component_id not in nodes:
            yield (
                f"{node.id}: input {key!r} must come from a component of this pipeline; got "
                f"{channel.producer_component_id!r}. Add the component, or an Importer."
            )
    for kind, channels in (("input", node.inputs), ("output", node.outputs)):
        for key, channel in channels.items():
            if reason := _type_problem(channel.type):
                yield f"{node.id}: {kind} {key!r} has the artifact type {channel.type.__name__}. {reason}"


def _type_problem(artifact_type: type[types.Artifact]) -> str:
    """Returns why the type cannot be found again by the name that the compiled file has; empty if it can."""
    if name_utils.get_full_name(artifact_type, strict_check=False) in _STOCK_TYPES:
        return ""
    name = artifact_type.TYPE_NAME
    if not isinstance(name, str) or not _TYPE_NAME.fullmatch(name):
        return (
            f"Its TYPE_NAME must be 'module.Class' with a module of 3 to 21 letters; got {name!r}. Name it "
            "after the package that exports it, such as 'tfx_mobile.ModelLadder'."
        )
    if artifact_type.PROPERTIES:
        return (
            f"A type of your own must have no PROPERTIES; got {', '.join(artifact_type.PROPERTIES)}. Use "
            "custom properties."
        )
    module, _, attribute = name.partition(".")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        found = None
    if found is not artifact_type:
        return f"Its TYPE_NAME must be importable as the type; {name!r} is not. Export it from {module!r}."
    return ""


def _parameter_problems(node: base_node.BaseNode) -> Iterator[str]:
    for key, value in node.exec_properties.items():
        where = f"{node.id}: parameter {key!r}"
        if isinstance(value, placeholder.Placeholder):
            yield (
                f"{where} takes the output value of a component, which the compiled file cannot name. Pass "
                "the artifact as an input, and read its value in the executor."
            )
        elif _holds_runtime_parameter(value):
            yield (
                f"{where} has a RuntimeParameter inside of other text or of a collection, where it is never "
                "replaced. Make it the whole parameter."
            )
        elif isinstance(value, int) and abs(value) >= _INT_LIMIT:
            yield f"{where} must be below 2**53 in size, since numbers travel as float64; got {value}."
        elif isinstance(value, float) and not math.isfinite(value):
            yield f"{where} must be finite; got {value}."
        elif not isinstance(value, _PARAMETER_TYPES):
            yield (
                f"{where} is a {type(value).__name__}, which would arrive as JSON text. Declare it as str "
                "and give JSON."
            )


def _holds_runtime_parameter(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        items = value.values() if isinstance(value, dict) else value
        return any(
            isinstance(item, data_types.RuntimeParameter) or _holds_runtime_parameter(item) for item in items
        )
    # How TFX writes one into text (json_utils), whatever that text is nested in.
    return isinstance(value, str) and "__class__" in value and "RuntimeParameter" in value


def _code_problems(node: base_node.BaseNode) -> Iterator[str]:
    if isinstance(node, importer.Importer):
        return
    spec = node.executor_spec
    if isinstance(spec, executor_spec.ExecutorClassSpec):
        executor = spec.executor_class
        try:
            importable = executor.__module__ != "__main__" and bool(name_utils.get_full_name(executor))
        except ValueError:
            importable = False
        if not importable:
            yield (
                f"{node.id}: its executor must be importable in the image; got {executor.__qualname__} of "
                f"{executor.__module__}. Define it in a module of a package, outside of functions."
            )
    elif not isinstance(spec, executor_specs.TemplatedExecutorContainerSpec):
        yield f"{node.id}: a {type(spec).__name__} cannot be compiled. Take an executor class or a container."
    for key, value in node.exec_properties.items():
        if key.endswith("_fn") and isinstance(value, str) and value:
            try:
                user_code.load(value, f"{node.id}: {key}")
            except ConfigError as error:
                yield str(error)


def _resource_problems(node: base_node.BaseNode, mounts: bool) -> Iterator[str]:
    config = getattr(node, "platform_config", None)
    spec_type = pipeline_spec_pb2.PipelineDeploymentConfig.PipelineContainerSpec.ResourceSpec
    asked = placing.resources_of(node) is not None
    if config is not None and (asked or not isinstance(config, spec_type)):
        got = "both" if asked else type(config).__name__
        yield (
            f"{node.id}: its resources must come from with_resources() alone, or from a platform_config of "
            f"type ResourceSpec; got {got}. Take with_resources()."
        )
    if isinstance(node, importer.Importer) and (asked or mounts):
        yield f"{node.id}: an Importer runs no code. Leave out its resources, volumes and secrets."


# Parameters of the pipeline


def _defaults(
    nodes: Iterable[base_node.BaseNode], given: Mapping[str, int | float | str]
) -> dict[str, int | float | str | None]:
    found: dict[str, tuple[type, int | float | str | None]] = {}
    for node in nodes:
        for value in node.exec_properties.values():
            if not isinstance(value, data_types.RuntimeParameter):
                continue
            if not _PARAMETER_NAME.fullmatch(value.name):
                raise ConfigError(
                    f"A RuntimeParameter's name must be of a-z, A-Z, 0-9, '_' and '-'; got {value.name!r} in "
                    f"{node.id!r}. Rename it."
                )
            kind = value.ptype or str
            default = None if value.default is None else _typed(value.name, kind, value.default)
            if found.setdefault(value.name, (kind, default)) != (kind, default):
                raise ConfigError(
                    f"Parameter {value.name!r} must have one type and one default; got "
                    f"{found[value.name][1]!r} and {default!r}. Use one RuntimeParameter everywhere."
                )
    for name in given:
        if name not in found:
            raise ConfigError(
                f"Parameter {name!r} must be a RuntimeParameter of the pipeline; it has "
                f"{', '.join(sorted(found)) or 'none'}. Name one of these."
            )
    return {
        name: _typed(name, kind, given[name]) if name in given else default
        for name, (kind, default) in found.items()
    }


def _typed(name: str, kind: type, value: int | float | str) -> int | float | str:
    """Returns the value as one of its type: text is read, an integer is a float, nothing else converts."""
    try:
        if isinstance(value, bool) or (kind is str and not isinstance(value, str)):
            raise ValueError
        if kind is int:
            number = int(value) if isinstance(value, str) else value
            if not isinstance(number, int) or abs(number) >= _INT_LIMIT:
                raise ValueError
            return number
        if kind is float:
            if not math.isfinite(float(value)):
                raise ValueError
            return float(value)
    except ValueError as error:
        bounds = {int: ", below 2**53 in size", float: ", finite"}.get(kind, "")
        raise ConfigError(
            f"Parameter {name!r} must be {kind.__name__}{bounds}; got {value!r}. Give such a value."
        ) from error
    return value


# Writing


def _job(pipeline: tfx_pipeline.Pipeline, image: str, **options: Any) -> dict[str, Any]:
    """Returns what TFX compiles, as JSON."""
    values = options.pop("values", None)
    config = kubeflow_v2_dag_runner.KubeflowV2DagRunnerConfig(default_image=image, **options)
    runner = kubeflow_v2_dag_runner.KubeflowV2DagRunner(config=config)
    job: dict[str, Any] = runner.run(pipeline, parameter_values=values, write_out=False)
    return job


def _vertex_job(
    pipeline: tfx_pipeline.Pipeline,
    nodes: Mapping[str, base_node.BaseNode],
    image: str,
    defaults: Mapping[str, int | float | str | None],
) -> str:
    values = {name: value for name, value in defaults.items() if value is not None}
    job = _job(pipeline, image, values=values)
    spec = json_format.ParseDict(job["pipelineSpec"], pipeline_spec_pb2.PipelineSpec())
    deployment = _deployment(spec)
    _set_resources(spec, deployment, nodes)
    for id_, node in nodes.items():
        # Vertex runs the driver that TFX compiles for file-based ExampleGens, and no other.
        if _has_driver(node) and not _container(spec, deployment, id_).HasField("lifecycle"):
            spec.root.dag.tasks[id_].caching_options.enable_cache = False
    job["pipelineSpec"] = _as_dict(spec, deployment)
    return json.dumps(job, indent=2, sort_keys=True) + "\n"


def _kubeflow_yaml(
    pipeline: tfx_pipeline.Pipeline,
    nodes: Mapping[str, base_node.BaseNode],
    mounted: Mapping[str, Sequence[Mount]],
    image: str,
    defaults: Mapping[str, int | float | str | None],
) -> str:
    job = _job(pipeline, image, default_commands=list(ENTRYPOINT), use_pipeline_spec_2_1=True)
    spec = json_format.ParseDict(job["pipelineSpec"], pipeline_spec_pb2.PipelineSpec())
    deployment = _deployment(spec)
    for name, default in defaults.items():
        declared = spec.root.input_definitions.parameters[name]
        if isinstance(default, str):
            declared.default_value.string_value = default
        elif default is not None:
            declared.default_value.number_value = default
    for id_, node in nodes.items():
        _declare_booleans(spec, deployment, node)
        if _has_driver(node):
            spec.root.dag.tasks[id_].caching_options.enable_cache = False
        _container(spec, deployment, id_).ClearField("lifecycle")  # the server does not read it
    _set_resources(spec, deployment, nodes)
    documents = [_as_dict(spec, deployment)]
    if executors := _kubernetes_executors(spec, mounted):
        documents.append({"platforms": {"kubernetes": {"deploymentSpec": {"executors": executors}}}})
    written: str = yaml.dump_all(documents, Dumper=_Dumper, sort_keys=True)
    return _heading(pipeline.pipeline_name, defaults) + written


def _deployment(spec: Any) -> Any:
    return json_format.ParseDict(
        json_format.MessageToDict(spec.deployment_spec), pipeline_spec_pb2.PipelineDeploymentConfig()
    )


def _container(spec: Any, deployment: Any, id_: str) -> Any:
    """Returns the component's container; a detached one for an importer or a resolver, which have none."""
    executor = deployment.executors[spec.components[id_].executor_label] if id_ in spec.components else None
    if executor is None or not executor.HasField("container"):
        return pipeline_spec_pb2.PipelineDeploymentConfig.PipelineContainerSpec()
    return executor.container


def _has_driver(node: base_node.BaseNode) -> bool:
    """Whether the component has a driver of its own, which says what to compare beyond inputs and parameters.

    A server that does not run it would take the component for unchanged.
    """
    return node.driver_class is not base_driver.BaseDriver and not isinstance(node, importer.Importer)


def _declare_booleans(spec: Any, deployment: Any, node: base_node.BaseNode) -> None:
    """Makes parameters that are bools such: TFX compiles them as integers."""
    names = [name for name, value in node.exec_properties.items() if isinstance(value, bool)]
    if not names or isinstance(node, importer.Importer):
        return
    inputs = spec.components[node.id].input_definitions
    for name in names:
        inputs.parameters[name].parameter_type = pipeline_spec_pb2.ParameterType.BOOLEAN
        given = spec.root.dag.tasks[node.id].inputs.parameters[name].runtime_value
        given.constant.bool_value = node.exec_properties[name]
    arguments = _container(spec, deployment, node.id).args
    if _INPUTS_FLAG in arguments:
        place = list(arguments).index(_INPUTS_FLAG) + 1
        arguments[place] = json_format.MessageToJson(inputs, sort_keys=True)


def _set_resources(spec: Any, deployment: Any, nodes: Mapping[str, base_node.BaseNode]) -> None:
    for id_, node in nodes.items():
        asked = placing.resources_of(node)
        if asked is not None:
            _write_resources(_container(spec, deployment, id_).resources, asked)


def _write_resources(written: Any, asked: Resources) -> None:
    """Writes limits; Kubernetes takes them for the requests, too, when there are no others.

    As numbers, which every server from 2.0 on reads; what took their place (`resourceCpuLimit`) is newer.
    """
    if asked.cpu is not None:
        written.cpu_limit = asked.cpu
    if asked.memory is not None:
        written.memory_limit = asked.memory_bytes / 10**9  # the server adds the unit G
    if asked.accelerator:
        written.accelerator.type = asked.accelerator
        written.accelerator.count = asked.accelerator_count


def _kubernetes_executors(spec: Any, mounted: Mapping[str, Sequence[Mount]]) -> dict[str, Any]:
    """Returns the KubernetesExecutorConfig of each executor that has one, as JSON.

    A name is given twice, as Kubeflow's own SDK does it: servers before 2.5 know the first form only.
    """
    executors: dict[str, Any] = {}
    for id_, mounts in mounted.items():
        config: dict[str, list[dict[str, Any]]] = {}
        for mount in mounts:
            constant = {"runtimeValue": {"constant": mount.name}}
            if isinstance(mount, Volume):
                entry = {"mountPath": mount.path, "constant": mount.name, "pvcNameParameter": constant}
                config.setdefault("pvcMount", []).append(entry)
            else:
                entry = {"mountPath": mount.path, "secretName": mount.name, "secretNameParameter": constant}
                config.setdefault("secretAsVolume", []).append(entry | {"optional": False})
        executors[spec.components[id_].executor_label] = config
    return executors


def _as_dict(spec: Any, deployment: Any) -> dict[str, Any]:
    spec.deployment_spec.Clear()
    spec.deployment_spec.update(json_format.MessageToDict(deployment))
    found: dict[str, Any] = json_format.MessageToDict(spec)
    return found


def _heading(name: str, defaults: Mapping[str, int | float | str | None]) -> str:
    lines = ["# PIPELINE DEFINITION", f"# Name: {name}"]
    if defaults:
        lines.append("# Inputs:")
    for key, value in sorted(defaults.items()):
        lines.append(f"#    {key}: {'to be given' if value is None else f'[Default: {json.dumps(value)}]'}")
    return "\n".join(lines) + "\n"


class _Dumper(yaml.SafeDumper):
    """Quotes text that is a number in YAML 1.2 only, such as 12e5: the server reads that, PyYAML 1.1."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?0o[0-7]+$"), list("-+0"))

_INPUTS_FLAG = "--json_serialized_inputs_spec_args"
_INT_LIMIT = 2**53
_PARAMETER_TYPES = (str, int, float, type(None), data_types.RuntimeParameter, message.Message)
_PARAMETER_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_PIPELINE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,127}")  # of tfx...v2.pipeline_builder
_STORED = re.compile(r"(gs|s3|minio)://[^/?]")  # of kubeflow/pipelines, objectstore.ParseBucketPathToConfig
# Of Argo (workflowFieldNameFmt, 128 letters), which gets it with '-driver' at the end, too.
_TASK_NAME = re.compile(r"[a-zA-Z0-9][-a-zA-Z0-9]{0,119}")
_TYPE_NAME = re.compile(r"[a-z][a-z0-9-_]{2,20}[.][A-Z][a-zA-Z0-9-_]{2,49}")  # of tfx...v2.compiler_utils
_STOCK_TYPES = frozenset(compiler_utils.TITLE_TO_CLASS_PATH.values())
