"""The entrypoint of a task on Kubeflow Pipelines: `python -m tfx_mobile.orchestration.kubeflow.task`.

Takes the arguments that TFX compiles for its own entrypoint (`kubeflow_v2_run_executor`) and runs one
component's executor, stock or ours, where the launcher has staged its inputs. Does not stage or upload
anything, and knows nothing of caching: both are the server's.

What the open-source server (2.5 to 2.17) does otherwise than TFX expects, and is put right here: input
artifacts come without their type, URIs name object stores while the files are in local folders, there is an
output for the executor's log that no component knows, output folders do not exist, an object store has no
empty folders, every number is a float64, and ExampleGen's driver is never run.
"""

import argparse
import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import yaml  # type: ignore[import-untyped]
from absl import logging
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2  # type: ignore[import-untyped]
from tfx import types
from tfx.components.example_gen import base_example_gen_executor, driver
from tfx.dsl.components.base import base_beam_executor, base_executor
from tfx.dsl.io import fileio
from tfx.orchestration.kubeflow.v2 import compiler_utils
from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_entrypoint_utils as tfx_entrypoint
from tfx.orchestration.portable import outputs_utils
from tfx.proto.orchestration import pipeline_pb2
from tfx.types import standard_component_specs, value_artifact
from tfx.utils import import_utils

from tfx_mobile.common import files
from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.orchestration import failure
from tfx_mobile.orchestration.kubeflow import parameters, uris
from tfx_mobile.orchestration.local import with_local_beam_defaults

MOUNT_ROOT_VARIABLE = "TFX_MOBILE_MOUNT_ROOT"
EMPTY_PROPERTY = "tfx_mobile_empty"  # of an output without files: an object store has no empty folders

_Artifacts = dict[str, list[types.Artifact]]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one task.

    On SIGTERM and SIGINT the component is interrupted as by Ctrl-C, so that its clean-up runs; then the
    process ends by that signal. A second signal ends it at once.

    Args:
      argv: The arguments after the program's name; None takes those of the process.

    Returns:
      The exit status: 0, or 1 with what went wrong as the last lines of standard error.
    """
    arguments, beam_arguments = _parser().parse_known_args(argv)
    del sys.argv[1:]  # Beam executors parse it as absl flags
    logging.set_verbosity(logging.INFO)
    try:
        with _interrupted_by_signals():
            run(
                arguments.executor_class_path,
                arguments.json_serialized_invocation_args,
                arguments.json_serialized_inputs_spec_args,
                beam_arguments,
                mount_root=os.environ.get(MOUNT_ROOT_VARIABLE) or "/",
            )
    except _Interrupted as interrupted:
        _end_by(interrupted.signal)
    except (Exception, SystemExit) as error:
        found = failure.own_message(error)
        if not found:
            traceback.print_exception(error)
        _say(f"{arguments.executor_class_path} failed: {found or failure.message(error)}")
        return 1
    return 0


def run(
    executor_class_path: str,
    invocation: str,
    inputs_spec: str,
    beam_arguments: Sequence[str] = (),
    *,
    mount_root: str = "/",
) -> None:
    """Runs the executor and writes what it put out to the file that the server names.

    Args:
      executor_class_path: `module.Class` of the executor.
      invocation: ExecutorInput of the pipeline specification as JSON.
      inputs_spec: ComponentInputsSpec as JSON: types of artifacts and parameters.
      beam_arguments: For Beam executors; others get them as extra flags.
      mount_root: The folder with `gcs`, `s3` and `minio`, into which the launcher stages.

    Raises:
      ConfigError: The arguments do not fit together, or a class cannot be imported in this image.
      DataError: The launcher has not staged an input.
      Exception: Whatever the component raises.
    """
    given = _parsed(invocation, pipeline_spec_pb2.ExecutorInput(), "--json_serialized_invocation_args")
    spec = _parsed(inputs_spec, pipeline_spec_pb2.ComponentInputsSpec(), _INPUTS_SPEC_FLAG)
    if not given.outputs.output_file:
        raise ConfigError("The invocation must name the file for the output's metadata; it names none.")
    if given.outputs.parameters:
        raise ConfigError(
            f"A task must put out artifacts only; got the parameters {', '.join(given.outputs.parameters)}. "
            "Compile the pipeline with tfx-mobile compile."
        )
    place = _place(given)
    _add_types(given.inputs.artifacts, spec)
    _drop_unknown(given.outputs.artifacts)
    inputs = _artifacts(given.inputs.artifacts, mount_root)
    outputs = _artifacts(given.outputs.artifacts, mount_root)
    properties = parameters.restore(given.inputs.parameter_values, spec)
    executor_class = _imported(executor_class_path, "The executor")

    _find_staged(inputs)
    if issubclass(executor_class, base_example_gen_executor.BaseExampleGenExecutor):
        properties = _after_driver(properties, outputs)
    outputs_utils.make_output_dirs(outputs)
    logging.info("%s: inputs %s, outputs %s, parameters %s", executor_class_path, inputs, outputs, properties)
    path = Path(given.outputs.output_file)
    context = _context(executor_class, _folder(outputs) or str(path.parent), place, beam_arguments)
    executor_class(context).Do(inputs, outputs, properties)

    outputs_utils.tag_output_artifacts_with_version(outputs)
    written = _executor_output(outputs, mount_root)
    files.write_atomically(path, json_format.MessageToJson(written).encode())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tfx_mobile.orchestration.kubeflow.task",
        description="Runs one TFX component as a task of Kubeflow Pipelines. Other arguments go to Beam. "
        f"The variable {MOUNT_ROOT_VARIABLE} names another folder than / for gcs/, s3/ and minio/.",
        allow_abbrev=False,
    )
    parser.add_argument("--executor_class_path", required=True, metavar="MODULE.CLASS")
    parser.add_argument("--json_serialized_invocation_args", required=True, metavar="JSON")
    parser.add_argument(_INPUTS_SPEC_FLAG, required=True, metavar="JSON")
    return parser


# before the executor runs


def _parsed(text: str, into: Any, flag: str) -> Any:
    try:
        return json_format.Parse(text, into, ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise ConfigError(f"{flag} must be the JSON of {into.DESCRIPTOR.name}; {error}.") from error


def _place(given: pipeline_spec_pb2.ExecutorInput) -> uris.Place:
    """Returns pipeline, run and task; read before unknown outputs are dropped, as any output will do."""
    found = {uris.place(one.uri) for each in given.outputs.artifacts.values() for one in each.artifacts}
    return found.pop() if len(found) == 1 else uris.Place()


def _add_types(lists: Any, spec: pipeline_spec_pb2.ComponentInputsSpec) -> None:
    """Gives input artifacts the types they were compiled with; the server sends empty ones."""
    for key, found in lists.items():
        if key not in spec.artifacts:
            raise ConfigError(
                f"Input {key!r} must be declared by the component; got {', '.join(spec.artifacts) or 'none'} "
                f"in {_INPUTS_SPEC_FLAG}. Compile the pipeline again."
            )
        for one in found.artifacts:
            one.type.CopyFrom(spec.artifacts[key].artifact_type)


def _drop_unknown(lists: Any) -> None:
    """Drops outputs that are not of a TFX type: the server's own, such as `executor-logs`."""
    for key, found in list(lists.items()):
        titles = [_title(one.type) for one in found.artifacts]
        if not all(titles) or any(title.startswith(_SERVERS_TYPES) for title in titles):
            logging.info("Output %s of type %s is not the component's; it is left alone.", key, titles)
            del lists[key]


def _artifacts(lists: Any, mount_root: str) -> _Artifacts:
    """Returns the artifacts, with local URIs and, where the server tells it, their id in its ML Metadata.

    A property that names one of them, or a file in one, names the local one, too.
    """
    ids = {}
    staged = tuple(f"{one.uri.rstrip('/')}/" for found in lists.values() for one in found.artifacts)
    for key, found in lists.items():
        for index, one in enumerate(found.artifacts):
            title = _title(one.type)
            _imported(compiler_utils.TITLE_TO_CLASS_PATH.get(title, title), f"The type of {key!r}")
            one.uri = uris.to_local(one.uri, mount_root)
            ids[key, index] = one.name
            one.name = ""  # TFX would make an id of it by hashing
            for value in one.metadata.fields.values():
                _unwrap(value)
                if f"{value.string_value}/".startswith(staged):
                    value.string_value = uris.to_local(value.string_value, mount_root)
    artifacts: _Artifacts = tfx_entrypoint.parse_raw_artifact_dict(lists, {})
    for (key, index), name in ids.items():
        if name.isdecimal():
            artifacts[key][index].id = int(name)
    return artifacts


def _unwrap(value: Any) -> None:
    """Undoes how the server stores lists and objects in ML Metadata: in an object of one field."""
    fields = value.struct_value.fields if value.HasField("struct_value") else {}
    for kind in ("list", "struct"):
        if list(fields) == [kind] and fields[kind].HasField(f"{kind}_value"):
            inner = type(value)()
            inner.CopyFrom(fields[kind])
            value.CopyFrom(inner)
            return


def _title(schema: pipeline_spec_pb2.ArtifactTypeSchema) -> str:
    """Returns what names an artifact's type; empty when nothing does."""
    if schema.WhichOneof("kind") != "instance_schema":
        return str(schema.schema_title)
    found = yaml.safe_load(schema.instance_schema)
    return str(found.get("title", "")) if isinstance(found, Mapping) else ""


def _imported(path: str, of: str) -> Any:
    try:
        return import_utils.import_class_by_path(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{of} must be a class that can be imported here; got {path!r}: {error.__cause__ or error}. "
            "Install its package in the image."
        ) from error


def _find_staged(inputs: _Artifacts) -> None:
    """Makes sure that each input is there, and reads values."""
    for key, found in inputs.items():
        for artifact in found:
            if artifact.get_int_custom_property(EMPTY_PROPERTY):
                fileio.makedirs(artifact.uri)
            elif not fileio.exists(artifact.uri):
                raise DataError(
                    f"Input {key!r} must be staged at {artifact.uri}; there is nothing. Look whether it is "
                    "still in the object store and whether the pod may read it, then run the pipeline again."
                )
            if isinstance(artifact, value_artifact.ValueArtifact):
                artifact.read()


def _after_driver(properties: dict[str, Any], outputs: _Artifacts) -> dict[str, Any]:
    """Runs ExampleGen's driver, which finds span, version and fingerprint of what is read."""
    reads_files = properties.get(standard_component_specs.INPUT_BASE_KEY)
    kind = driver.FileBasedDriver if reads_files else driver.QueryBasedDriver
    found: dict[str, Any] = kind(None).resolve_exec_properties(dict(properties), None, None)
    (examples,) = outputs[standard_component_specs.EXAMPLES_KEY]
    driver.update_output_artifact(found, examples.mlmd_artifact)
    return {name: value for name, value in found.items() if value is not None}


def _folder(outputs: _Artifacts) -> str:
    """Returns the folder that holds all outputs; empty when there is none, or more than one."""
    found = {os.path.dirname(artifact.uri) for each in outputs.values() for artifact in each}
    return found.pop() if len(found) == 1 else ""


def _context(executor_class: Any, folder: str, place: uris.Place, beam_arguments: Sequence[str]) -> Any:
    known = {
        "tmp_dir": os.path.join(folder, ".temp"),  # beside the outputs: where they are shared, so is this
        "unique_id": os.path.basename(folder),
        "pipeline_node": pipeline_pb2.PipelineNode(node_info={"id": place.task}) if place.task else None,
        "pipeline_info": pipeline_pb2.PipelineInfo(id=place.pipeline) if place.pipeline else None,
        "pipeline_run_id": place.run or None,
    }
    if issubclass(executor_class, base_beam_executor.BaseBeamExecutor):
        beam = with_local_beam_defaults(beam_arguments)
        return base_beam_executor.BaseBeamExecutor.Context(beam_pipeline_args=beam, **known)
    return base_executor.BaseExecutor.Context(extra_flags=list(beam_arguments), **known)


# after it


def _executor_output(outputs: _Artifacts, mount_root: str) -> Any:
    """Returns the metadata of what was put out, with the URIs of the object store."""
    written = pipeline_spec_pb2.ExecutorOutput()
    for artifacts in outputs.values():
        for artifact in artifacts:
            if _is_empty_folder(artifact.uri):
                artifact.set_int_custom_property(EMPTY_PROPERTY, 1)
    for key, found in tfx_entrypoint.translate_executor_output(outputs, {0: ""}).items():
        for one in found.artifacts:
            one.uri = uris.to_uri(one.uri, mount_root)
            for value in one.metadata.fields.values():
                if value.HasField("string_value"):  # such as `current_model` of a blessing
                    value.string_value = uris.to_uri(value.string_value, mount_root)
        written.artifacts[key].CopyFrom(found)
    return written


def _is_empty_folder(path: str) -> bool:
    return fileio.isdir(path) and not any(found for _, _, found in fileio.walk(path))


# how it ends


class _Interrupted(BaseException):
    """A signal asks the task to end; no component catches it by mistake."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


@contextlib.contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Raises _Interrupted in the component on the first SIGTERM or SIGINT."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        raise _Interrupted(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_by(number: int) -> NoReturn:
    """Ends the process by the signal, without waiting for threads that the component has left."""
    _say(f"ended by {signal.Signals(number).name}; its outputs are not recorded.")
    sys.stdout.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # the first process of a container is not killed by its own signals


def _say(line: str) -> None:
    print(f"tfx-mobile: {line}", file=sys.stderr, flush=True)


_INPUTS_SPEC_FLAG = "--json_serialized_inputs_spec_args"
_SERVERS_TYPES = ("system.", "google.")


if __name__ == "__main__":
    sys.exit(main())
