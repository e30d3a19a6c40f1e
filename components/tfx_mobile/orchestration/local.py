"""Runs a TFX pipeline on this machine with TFX's own LocalDagRunner; shows components instead of its logs.

What runs when comes from the runner's log records, what came out of it from ML Metadata; nothing in TFX is
patched. Does not run anything on a cluster (kubeflow).
"""

import contextlib
import json
import logging
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO, TypedDict

import apache_beam as beam
from google.protobuf import message
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.components.base import base_node
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.orchestration.local import local_dag_runner
from tfx.proto.orchestration import pipeline_pb2

from tfx_mobile.common.errors import ConfigError, TfxMobileError
from tfx_mobile.orchestration import failure, run_lock, run_log
from tfx_mobile.orchestration import metadata as databases
from tfx_mobile.orchestration.progress import ComponentRun, Progress, State, duration


class OutputArtifact(NamedTuple):
    """One artifact that a component put out.

    Attributes:
      uri: Its folder.
      properties: Its properties and custom properties together; a custom one wins.
    """

    uri: str
    properties: dict[str, Any]


Outputs = dict[str, dict[str, list[OutputArtifact]]]


@dataclass(frozen=True)
class RunResult:
    """What a run did.

    Attributes:
      components: In the order they run.
      outputs: By component id, then by output key; of finished and of cached components.
      cached: How many components had nothing to do.
      failed: Id of the component that failed.
    """

    components: tuple[ComponentRun, ...]
    outputs: Outputs
    cached: int
    failed: str | None


class PipelineFailed(TfxMobileError):  # noqa: N818 - says what happened, as KeyboardInterrupt does
    """A component failed; the message is all a user needs, the stack trace is in the log file.

    Attributes:
      component: Its id; None when the run failed outside of any component.
      message: What went wrong, in one line where the component says it in one.
      log_file: Where the stack trace is.
      result: What the run had done until then.
    """

    def __init__(self, message: str, *, log_file: Path, result: RunResult, hint: str) -> None:
        self.component = result.failed
        self.message = message
        self.log_file = log_file
        self.result = result
        who = f"Component {self.component!r}" if self.component else "The run"
        super().__init__(f"{who} failed: {message}\nThe log is {log_file}.\n{hint}")


def run(pipeline: tfx_pipeline.Pipeline, *, log_file: Path, stream: TextIO | None = None) -> RunResult:
    """Runs the pipeline to its end or to its first failure.

    Args:
      pipeline: With a metadata connection, as from `local_pipeline`.
      log_file: Everything TFX and the libraries write is appended to it.
      stream: Where progress is shown; standard output when not given.

    Returns:
      What each component did and put out.

    Raises:
      PipelineFailed: A component failed, or the metadata database went away. Finished ones are kept.
      MetadataError: The metadata database cannot be used; nothing ran.
      ConfigError: The log file cannot be written, the pipeline runs in this folder already, or the folder's
        artifacts are of another database; nothing ran.
      KeyboardInterrupt: As it came, after the terminal is restored and the log closed.
    """
    log_file = log_file.absolute()
    hint = "Finished components are kept: run again, and the pipeline continues after them."
    if not pipeline.enable_cache:
        hint = "Run again with enable_cache=True to continue after the components that finished."
    with run_log.everything_to(log_file, stream) as visible:
        _say(visible, f"Pipeline {pipeline.pipeline_name!r}. Log: {log_file}")
        with _alone(pipeline):
            _check_database(pipeline)
            try:
                result, error = _run(pipeline, visible)
            except KeyboardInterrupt:
                _say(visible, f"Interrupted. {hint}")
                raise
        what = failure.message(_explained(error, pipeline)) if error else ""
        if error is None:
            _say(visible, _summary(result))
            return result
    # Its chain would print TFX's stack trace, which is in the log file.
    raise PipelineFailed(what, log_file=log_file, result=result, hint=hint) from None


class LocalSettings(TypedDict):
    """What a pipeline needs to run on this machine, as keywords of `tfx.dsl.Pipeline`."""

    pipeline_root: str
    metadata_connection_config: metadata_store_pb2.ConnectionConfig
    beam_pipeline_args: list[str]


def local_settings(
    workspace: Path, beam_pipeline_args: Sequence[str] = (), metadata_url: str | None = None
) -> LocalSettings:
    """Returns the settings of a pipeline that keeps its artifacts in one folder, and its metadata there too.

    Args:
      workspace: Made when missing; holds `metadata.sqlite` and `artifacts/`.
      beam_pipeline_args: As for Beam; see `with_local_beam_defaults`.
      metadata_url: A database in place of `metadata.sqlite`, as for `metadata.connection_config`; with a
        server's, artifacts have a folder of their own in the workspace.

    Raises:
      ConfigError: The workspace or the URL cannot be used.
    """
    workspace = workspace.absolute()
    database = workspace / "metadata.sqlite"
    connection = databases.connection_config(metadata_url) if metadata_url is not None else None
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workspace):
            pass
        if connection is None:
            with database.open("ab"):
                pass
    except OSError as error:
        raise ConfigError(
            f"The workspace must be a folder that can be written; got {workspace}: {run_log.reason(error)}. "
            "Choose another folder."
        ) from error
    if connection is None:
        connection = metadata.sqlite_metadata_connection_config(str(database))
    return LocalSettings(
        pipeline_root=str(workspace / databases.artifacts_folder(connection)),
        metadata_connection_config=connection,
        beam_pipeline_args=with_local_beam_defaults(beam_pipeline_args),
    )


def local_pipeline(
    name: str,
    components: Iterable[base_node.BaseNode],
    workspace: Path,
    beam_pipeline_args: Sequence[str] = (),
    enable_cache: bool = True,
    metadata_url: str | None = None,
) -> tfx_pipeline.Pipeline:
    """Returns a pipeline of these components with the settings of `local_settings`.

    Args:
      name: The pipeline's name; runs of one name share a cache.
      components: In any order.
      workspace: As for `local_settings`.
      beam_pipeline_args: As for `local_settings`.
      enable_cache: Whether a component whose inputs and settings have not changed is left out.
      metadata_url: As for `local_settings`.

    Raises:
      ConfigError: The workspace or the URL cannot be used.
    """
    return tfx_pipeline.Pipeline(
        pipeline_name=name,
        components=list(components),
        enable_cache=enable_cache,
        **local_settings(workspace, beam_pipeline_args, metadata_url),
    )


def with_local_beam_defaults(arguments: Sequence[str]) -> list[str]:
    """Adds what makes Beam run in this process at once, unless the arguments choose otherwise.

    `--runner`: since Beam 2.7x the DirectRunner first tries to download another runner (Prism); FnApiRunner
    is what it uses in the end. `--sdk_container_image`: with any Beam argument TFX packs itself into an sdist
    for every Beam executor (5 s each), unless an argument says where remote workers find TFX. A runner in
    this process has no remote workers and ignores the image, and unlike the path of a package the constant
    leaves TFX's cache key alone.
    """
    options = beam.options.pipeline_options.PipelineOptions(list(arguments)).get_all_options()
    runner = options.get("runner")
    added = [] if runner else [f"--runner={_LOCAL_RUNNER}"]
    remote = runner and runner.rpartition(".")[2].lower().removesuffix("runner") not in _RUNNERS_IN_PROCESS
    if not remote and not any(options.get(name) for name in _NAMES_DEPENDENCIES):
        added.append("--sdk_container_image=none")
    return [*arguments, *added]


@contextlib.contextmanager
def _alone(pipeline: tfx_pipeline.Pipeline) -> Iterator[None]:
    """Keeps a second run of the pipeline out of its folder; a remote folder has no lock."""
    root = str(pipeline.pipeline_info.pipeline_root)
    with contextlib.nullcontext() if "://" in root else run_lock.only_run(pipeline.pipeline_name, Path(root)):
        yield


def _check_database(pipeline: tfx_pipeline.Pipeline) -> None:
    """Refuses a database that cannot be used, and one that did not number the folders of the artifacts.

    TFX names folders by the numbers that the database gives to executions, and writes into one that is there
    already: with a database made anew, old rows and new ones would be in one folder.
    """
    connection = pipeline.metadata_connection_config
    if not isinstance(connection, metadata_store_pb2.ConnectionConfig):
        return
    databases.check(connection)
    root = Path(str(pipeline.pipeline_info.pipeline_root))
    # Folders first: what another run adds in between has a number of the database by then.
    numbered = {
        path: int(path.name)
        for component in pipeline.components
        for key in component.outputs
        for path in (root / component.id / key).glob("*")
        if path.name.isdecimal()
    }
    if not numbered:
        return
    highest, newest = max(numbered, key=lambda path: numbered[path]), databases.newest_execution(connection)
    if numbered[highest] > newest:
        raise ConfigError(
            "The folder of the artifacts must belong to the metadata database "
            f"{databases.describe(connection)}; got {highest}, while its newest execution is {newest}: "
            f"another or an older database numbered it. Use that one, or move {root} away."
        )


def _explained(error: BaseException, pipeline: tfx_pipeline.Pipeline) -> BaseException:
    """Returns what is wrong with the database when that is why the run failed, else the error itself."""
    if any(isinstance(each, TfxMobileError) for each in failure.chain(error)):
        return error
    return databases.explain(error, pipeline.metadata_connection_config) or error


def _run(pipeline: tfx_pipeline.Pipeline, visible: TextIO) -> tuple[RunResult, Exception | SystemExit | None]:
    """Runs the pipeline and returns what it did, and why it failed if it did."""
    absl_logger = logging.getLogger("absl")
    failed: Exception | SystemExit | None = None
    runner = _Runner()
    with Progress([component.id for component in pipeline.components], visible) as progress:
        events = _ComponentEvents(runner, progress)
        arguments, sys.argv = sys.argv, sys.argv[:1]  # Beam executors parse it as absl flags
        absl_logger.addHandler(events)
        absl_logger.addFilter(_hide_password)
        try:
            runner.run(pipeline)
        except (Exception, SystemExit) as error:
            _LOGGER.exception("Component %s failed.", progress.running)
            failed = error
        except KeyboardInterrupt:
            _LOGGER.exception("Interrupted in component %s.", progress.running)
            events.end_running(State.STOPPED)
            raise
        finally:
            absl_logger.removeFilter(_hide_password)
            absl_logger.removeHandler(events)
            sys.argv = arguments
        culprit = progress.running
        events.end_running(State.FAILED)
        components = progress.components()
    cached = sum(component.state is State.CACHED for component in components)
    return RunResult(components, events.outputs, cached, culprit), failed


class _Runner(local_dag_runner.LocalDagRunner):
    """LocalDagRunner that remembers what it runs: its run id is made up and kept inside."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: dict[str, pipeline_pb2.PipelineNode] = {}
        self.connection: Any = None

    def run(self, pipeline: tfx_pipeline.Pipeline, **options: Any) -> None:
        self.connection = pipeline.metadata_connection_config
        super().run(pipeline, **options)

    def run_with_ir(self, pipeline: pipeline_pb2.Pipeline, **options: Any) -> None:
        self.nodes = {
            node.pipeline_node.node_info.id: node.pipeline_node
            for node in pipeline.nodes
            if node.HasField("pipeline_node")
        }
        super().run_with_ir(pipeline, **options)


class _ComponentEvents(logging.Handler):
    """Turns the runner's log records into progress."""

    def __init__(self, runner: _Runner, progress: Progress) -> None:
        super().__init__()
        self.outputs: Outputs = {}
        self._runner = runner
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg not in (_STARTED, _FINISHED) or not isinstance(record.args, tuple):
            return
        id_ = str(record.args[0])
        if record.msg == _STARTED:
            self._progress.start(id_)
            return
        with metadata.Metadata(self._runner.connection) as handle:
            execution = _latest_execution(handle.store, self._runner.nodes[id_])
            if execution is None:
                self._progress.end(id_, State.SKIPPED)
                return
            if execution.last_known_state == metadata_store_pb2.Execution.FAILED:
                # The launcher publishes inputs that cannot be resolved as a failure, and goes on.
                raise RuntimeError(_failure_text(execution))
            self.outputs[id_] = _outputs(handle.store, execution)
        cached = execution.last_known_state == metadata_store_pb2.Execution.CACHED
        self._progress.end(id_, State.CACHED if cached else State.DONE)

    def end_running(self, state: State) -> None:
        """Ends the component that runs now, if one does."""
        if self._progress.running:
            self._progress.end(self._progress.running, state)


def _hide_password(record: logging.LogRecord) -> bool:
    """Takes passwords out of a record: the runner logs the settings of its connection, as they are."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            databases.without_password(str(each)) if isinstance(each, message.Message) else each
            for each in record.args
        )
    return True


def _latest_execution(store: Any, node: pipeline_pb2.PipelineNode) -> metadata_store_pb2.Execution | None:
    """Returns the node's newest execution in this run: the one that is in all of the node's contexts."""
    shared: dict[int, metadata_store_pb2.Execution] | None = None
    for spec in node.contexts.contexts:
        name = spec.name.field_value.string_value
        context = store.get_context_by_type_and_name(spec.type.name, name)
        if context is None:
            return None
        found = {execution.id: execution for execution in store.get_executions_by_context(context.id)}
        shared = found if shared is None else {key: found[key] for key in shared.keys() & found.keys()}
    return shared[max(shared)] if shared else None


def _outputs(store: Any, execution: metadata_store_pb2.Execution) -> dict[str, list[OutputArtifact]]:
    events = [
        event for event in store.get_events_by_execution_ids([execution.id]) if event.type in _OUTPUT_EVENTS
    ]
    artifacts = {
        artifact.id: artifact
        for artifact in store.get_artifacts_by_id(list({event.artifact_id for event in events}))
    }
    outputs: dict[str, list[OutputArtifact]] = {}
    for event in sorted(events, key=lambda event: [step.index for step in event.path.steps]):
        artifact = artifacts[event.artifact_id]
        properties = {
            key: getattr(value, value.WhichOneof("value"))
            for values in (artifact.properties, artifact.custom_properties)
            for key, value in values.items()
        }
        key = next(step.key for step in event.path.steps if step.HasField("key"))
        outputs.setdefault(key, []).append(OutputArtifact(artifact.uri, properties))
    return outputs


def _failure_text(execution: metadata_store_pb2.Execution) -> str:
    result = execution.custom_properties["__execution_result__"].string_value
    try:
        return str(json.loads(result)["resultMessage"])
    except (ValueError, KeyError):
        return "its inputs could not be resolved"


def _summary(result: RunResult) -> str:
    total = duration(sum(component.seconds for component in result.components))
    done = sum(component.state is State.DONE for component in result.components)
    return f"Done in {total}: {done} ran, {result.cached} had nothing to do."


def _say(stream: TextIO, line: str) -> None:
    stream.write(line + "\n")
    stream.flush()


_LOGGER = logging.getLogger(__name__)

# Formats of tfx.orchestration.local.local_dag_runner's log records.
_STARTED = "Component %s is running."
_FINISHED = "Component %s is finished."

_OUTPUT_EVENTS = (
    metadata_store_pb2.Event.OUTPUT,
    metadata_store_pb2.Event.DECLARED_OUTPUT,
    metadata_store_pb2.Event.INTERNAL_OUTPUT,
)
# By its full name, which every Beam knows; the short one is newer than the stable lane's.
_LOCAL_RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
_RUNNERS_IN_PROCESS = ("direct", "switchingdirect", "bundlebaseddirect", "fnapi")
# What tfx.utils.dependency_utils takes for an answer.
_NAMES_DEPENDENCIES = (
    "extra_packages",
    "setup_file",
    "requirements_file",
    "worker_harness_container_image",
    "sdk_container_image",
)
