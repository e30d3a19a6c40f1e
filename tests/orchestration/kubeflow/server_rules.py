"""What Kubeflow Pipelines' server checks of a compiled file, and needs to run it, said again in Python.

Read in kubeflow/pipelines 2.5.0, 2.14.0 and 2.17.0: backend/src/apiserver/template/v2_template.go (documents,
schema version, name, parameters), backend/src/v2/compiler/visitor.go and argocompiler/dag.go (components,
executors, tasks), backend/src/v2/driver (inputs, resources), kubernetes_executor_config.proto. Task names:
argo-workflows, workflow/validate. No server is asked.
"""

import re
from collections.abc import Mapping
from typing import Any

import yaml
from google.protobuf import json_format


class Refused(Exception):  # noqa: N818 - says what happened
    """The server would not take or not run it."""


_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_TASK = re.compile(r"[a-zA-Z0-9][-a-zA-Z0-9]*")
_QUANTITY = re.compile(r"[+-]?([0-9]+|[0-9]+\.[0-9]*|\.[0-9]+)(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m||k|M|G|T|P|E)")
_KINDS = {
    "NUMBER_INTEGER": "number_value",
    "NUMBER_DOUBLE": "number_value",
    "STRING": "string_value",
    "BOOLEAN": "bool_value",
    "LIST": "list_value",
    "STRUCT": "struct_value",
}
_MOUNT_FIELDS = {
    "pvcMount": {"constant", "mountPath", "pvcNameParameter"},
    "secretAsVolume": {"secretName", "mountPath", "optional", "secretNameParameter"},
}


def accept(text: str) -> tuple[Any, dict[str, Any]]:
    """Returns the file's PipelineSpec and PlatformSpec (empty when there is none).

    Raises:
      Refused: With the rule.
    """
    from kfp.pipeline_spec import pipeline_spec_pb2

    specs, platforms = [], []
    for document in yaml.safe_load_all(text):
        (specs if "pipelineInfo" in document else platforms).append(document)
    if len(specs) != 1 or len(platforms) > 1:
        raise Refused("one pipeline spec and at most one platform spec")
    try:
        spec = json_format.ParseDict(specs[0], pipeline_spec_pb2.PipelineSpec())
        if platforms:
            json_format.ParseDict(platforms[0], pipeline_spec_pb2.PlatformSpec())
        deployment = json_format.ParseDict(
            specs[0]["deploymentSpec"], pipeline_spec_pb2.PipelineDeploymentConfig()
        )
    except json_format.ParseError as error:
        raise Refused(f"every field is known: {error}") from error
    _demand(spec.schema_version == "2.1.0", "schema version 2.1.0", spec.schema_version)
    _demand(_NAME.fullmatch(spec.pipeline_info.name), "a name", spec.pipeline_info.name)
    _demand(spec.root.dag.tasks, "a root with tasks", "none")
    for name, declared in spec.root.input_definitions.parameters.items():
        if declared.HasField("default_value"):
            _check_kind(f"default of {name}", declared, declared.default_value)
    for name, task in spec.root.dag.tasks.items():
        _demand(
            task.component_ref.name in spec.components, f"a component for {name}", task.component_ref.name
        )
    for name, task in spec.root.dag.tasks.items():
        _check_task(spec, deployment, name, task)
    _check_order(spec.root.dag.tasks)
    platform = platforms[0] if platforms else {}
    _check_platform(platform, deployment)
    return spec, platform


def check_values(spec: Any, values: Mapping[str, Any]) -> None:
    """Checks the values that a run gives.

    Raises:
      Refused: With the parameter.
    """
    declared = spec.root.input_definitions.parameters
    for name, parameter in declared.items():
        given = name in values or parameter.HasField("default_value")
        _demand(given, "a value for each parameter without default", name)


def _demand(holds: Any, rule: str, got: str) -> None:
    if not holds:
        raise Refused(f"{rule}; got {got!r}")


def _check_kind(what: str, declared: Any, value: Any) -> None:
    kind = type(declared).DESCRIPTOR.fields_by_name["parameter_type"].enum_type
    name = kind.values_by_number[declared.parameter_type].name
    _demand(name in _KINDS, f"a type for {what}", name)
    _demand(value.WhichOneof("kind") == _KINDS[name], f"{name} for {what}", str(value).strip())


def _check_task(spec: Any, deployment: Any, name: str, task: Any) -> None:
    _demand(_TASK.fullmatch(name) and len(f"{name}-driver") <= 128, "a task name for Argo", name)
    component = spec.components[task.component_ref.name]
    label = component.executor_label
    _demand(label in deployment.executors, f"an executor for {name}", label)
    executor = deployment.executors[component.executor_label]
    kind = executor.WhichOneof("spec")
    _demand(kind in ("container", "importer"), f"a container or importer for {name}", str(kind))
    if kind == "container":
        _check_container(name, executor.container)
    for dependency in task.dependent_tasks:
        _demand(dependency in spec.root.dag.tasks, f"a task that {name} depends on", dependency)
    for key, declared in component.input_definitions.artifacts.items():
        _demand(key in task.inputs.artifacts, f"each input of {name}", key)
        given = task.inputs.artifacts[key].task_output_artifact
        _demand(given.producer_task in task.dependent_tasks, f"a producer for {name}", given.producer_task)
        producer = spec.components[spec.root.dag.tasks[given.producer_task].component_ref.name]
        outputs = producer.output_definitions.artifacts
        _demand(given.output_artifact_key in outputs, f"an output for {name}", given.output_artifact_key)
        types = [_title(one.artifact_type) for one in (declared, outputs[given.output_artifact_key])]
        _demand(types[0] == types[1], f"one type for {name}.{key}", " and ".join(types))
    for key, declared in component.input_definitions.parameters.items():
        _demand(key in task.inputs.parameters, f"each parameter of {name}", key)
        _check_parameter(spec, f"{name}.{key}", declared, task.inputs.parameters[key])
    for key in task.inputs.parameters:
        _demand(key in component.input_definitions.parameters, f"declared parameters of {name}", key)


def _check_parameter(spec: Any, what: str, declared: Any, given: Any) -> None:
    kind = given.WhichOneof("kind")
    if kind == "component_input_parameter":
        outer = spec.root.input_definitions.parameters
        _demand(given.component_input_parameter in outer, f"a parameter for {what}", str(given))
        same = outer[given.component_input_parameter].parameter_type == declared.parameter_type
        _demand(same, f"one type for {what}", str(given))
    else:
        _demand(kind == "runtime_value", f"a constant or a pipeline's parameter for {what}", str(given))
        _check_kind(what, declared, given.runtime_value.constant)


def _check_container(name: str, container: Any) -> None:
    _demand(container.image and container.command, f"image and command for {name}", container.image)
    resources = container.resources
    for quantity in (f"{resources.cpu_limit}", f"{resources.memory_limit}G"):
        _demand(_QUANTITY.fullmatch(quantity), f"a quantity for {name}", quantity)
    counted = (resources.accelerator.count > 0) == bool(resources.accelerator.type)
    _demand(counted, f"accelerator and count for {name}", str(resources.accelerator))


def _check_order(tasks: Mapping[str, Any]) -> None:
    done: set[str] = set()
    while ready := [n for n, t in tasks.items() if n not in done and done.issuperset(t.dependent_tasks)]:
        done |= set(ready)
    _demand(len(done) == len(tasks), "no circle", ", ".join(sorted(set(tasks) - done)))


def _check_platform(platform: Mapping[str, Any], deployment: Any) -> None:
    if not platform:
        return
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for label, config in executors.items():
        _demand(label in deployment.executors, "an executor of the pipeline", label)
        names = []
        for field, entries in config.items():
            _demand(field in _MOUNT_FIELDS, "a field of KubernetesExecutorConfig", field)
            for entry in entries:
                _demand(set(entry) == _MOUNT_FIELDS[field], f"fields of {field}", str(entry))
                names.append(entry.get("constant") or entry["secretName"])
                (parameter,) = [value for key, value in entry.items() if key.endswith("NameParameter")]
                _demand(parameter == {"runtimeValue": {"constant": names[-1]}}, "one name", str(entry))
        _demand(len(set(names)) == len(names), f"a volume name of its own in {label}", str(names))


def _title(artifact_type: Any) -> str:
    return str(yaml.safe_load(artifact_type.instance_schema)["title"])
