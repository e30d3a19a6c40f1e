"""Runs a compiled pipeline as open-source Kubeflow Pipelines 2.5 to 2.17 would, without a cluster.

Follows backend/src/v2/driver (inputs are resolved, outputs provisioned, what was done before taken from the
cache) and backend/src/v2/component (the launcher: inputs are downloaded, placeholders filled in, the command
run, outputs uploaded; the importer: a URI becomes an artifact, and nothing is looked at). Each task is a
process of its own and has a folder of its own in place of `/`: what a task needs and the launcher does not
bring is not there. The object store is a folder that keeps files only, as object stores do.

Stricter than the server where a task's fault would pass there unseen: a task must say what it put out, under
the URIs that it was given. Refused, since no file that `tfx-mobile compile` writes can have them: conditions,
loops, tasks of tasks, output parameters and parameters from them.
"""

import concurrent.futures
import copy
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tfx_mobile.orchestration.kubeflow import uris

TFX_COMMAND = ["python", "-m", "tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor"]
RUN_ID = "0f0e0d0c-0b0a-4908-8706-050403020100"
LOGS = "executor-logs"


class Refused(RuntimeError):  # noqa: N818 - says what happened
    """The server, its driver or its launcher would refuse this, or the stand-in does not follow it."""


@dataclass(frozen=True)
class TaskRun:
    """One task that was run.

    Attributes:
      status: Its exit status; 0 when it finished.
      log: Standard output and error.
      invocation: The ExecutorInput that it got; of an importer, which gets none, empty.
      artifacts: By output key, as later tasks get them: without a type.
      pod: What stands for `/` in it.
      cached: Whether it was not run, as an earlier run's outputs were taken.
    """

    status: int
    log: str
    invocation: Mapping[str, Any]
    artifacts: Mapping[str, Mapping[str, Any]]
    pod: Path
    cached: bool = False


@dataclass
class StandIn:
    """A server with an object store, and a cache over its runs.

    Attributes:
      folder: Where the object store and the pods are.
      scheme: Of its URIs: minio, s3 or gs.
      publish_logs: Whether tasks get the output for their log, as they do by default.
      workers: How many tasks run at once.
      environment: More variables for the tasks.
      cache: Outputs of the tasks that ended well and may be cached, by fingerprint.
      imported: Artifacts that importers made, by URI and properties.
      numbers: The ids of artifacts, as ML Metadata gives them.
    """

    folder: Path
    scheme: str = "minio"
    publish_logs: bool = True
    workers: int = 2
    environment: Mapping[str, str] = field(default_factory=dict)
    cache: dict[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    imported: dict[str, dict[str, Any]] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def store(self) -> Path:
        """The object store: a folder per bucket."""
        return self.folder / "store"

    def stored(self, uri: str) -> Path:
        """Where the object store keeps what a URI names."""
        return self.store / uri.removeprefix(f"{self.scheme}://")

    def root_inside(self, pod: Path) -> str:
        """What a task has for `/`: the pod's folder, which the task is told of by a variable."""
        return str(pod)

    def said(self, run: TaskRun) -> dict[str, Any]:
        """Returns what a task wrote for the launcher: an ExecutorOutput."""
        uri = uris.to_uri(run.invocation["outputs"]["outputFile"], self.root_inside(run.pod))
        found: dict[str, Any] = json.loads(Path(uris.to_local(uri, str(run.pod))).read_text())
        return found

    def run(self, spec: Mapping[str, Any], parameters: Mapping[str, Any] | None = None) -> dict[str, TaskRun]:
        """Runs the tasks, independent ones at once, to the end or to the first failure.

        Args:
          spec: The compiled PipelineSpec as a dict.
          parameters: Of the run.

        Returns:
          What each task that was started did.
        """
        given = _run_parameters(spec, parameters or {})
        waiting = dict(spec["root"]["dag"]["tasks"])
        done: dict[str, TaskRun] = {}
        running: dict[concurrent.futures.Future[TaskRun], str] = {}
        with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            while running or waiting:
                failed = any(run.status for run in done.values())
                ready = [name for name, task in waiting.items() if _needs(task) <= done.keys()]
                for name in [] if failed else ready[: self.workers - len(running)]:
                    task = waiting.pop(name)
                    running[pool.submit(self._run_task, name, task, spec, given, dict(done))] = name
                if not running:
                    if failed:
                        break
                    raise Refused(f"Tasks wait for one another: {sorted(waiting)}.")
                ended, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in ended:
                    done[running.pop(future)] = future.result()
        return done

    def _run_task(
        self,
        name: str,
        task: Mapping[str, Any],
        spec: Mapping[str, Any],
        given: Mapping[str, Any],
        done: Mapping[str, TaskRun],
    ) -> TaskRun:
        component = spec["components"][task["componentRef"]["name"]]
        executor = _executor(spec, component, name, task)
        pod = self.folder / "pods" / name
        if "importer" in executor:
            artifacts = self._import(executor["importer"], component, task, given)
            return TaskRun(0, "", {}, artifacts, pod)
        container = executor["container"]
        invocation = {
            "inputs": {
                "parameterValues": _task_parameters(task, given, name),
                "artifacts": _task_artifacts(task, done),
            },
            "outputs": self._provisioned(name, component, spec["pipelineInfo"]["name"], pod),
        }
        fingerprint = _fingerprint(invocation, container, spec["pipelineInfo"]["name"])
        may_be_cached = task.get("cachingOptions", {}).get("enableCache", False)
        if may_be_cached and fingerprint in self.cache:
            return TaskRun(0, "", invocation, self.cache[fingerprint], pod, cached=True)
        shutil.rmtree(pod, ignore_errors=True)  # of an earlier run
        self._download(invocation["inputs"]["artifacts"], pod)
        for artifact in _artifacts(invocation["outputs"]):
            _local(artifact, pod).parent.mkdir(parents=True, exist_ok=True)
        with_defaults = copy.deepcopy(invocation)
        for key, declared in component.get("inputDefinitions", {}).get("parameters", {}).items():
            if "defaultValue" in declared:
                with_defaults["inputs"]["parameterValues"].setdefault(key, declared["defaultValue"])
        words = [*container["command"], *container.get("args", [])]
        status, log = self.execute([_filled_in(word, with_defaults) for word in words], pod)
        if LOGS in invocation["outputs"]["artifacts"]:
            _local(invocation["outputs"]["artifacts"][LOGS]["artifacts"][0], pod).write_text(log)
        artifacts = {} if status else self._collected(name, invocation["outputs"], pod)
        if may_be_cached and not status:
            self.cache[fingerprint] = artifacts
        return TaskRun(status, log, invocation, artifacts, pod)

    def _import(
        self,
        importer: Mapping[str, Any],
        component: Mapping[str, Any],
        task: Mapping[str, Any],
        given: Mapping[str, Any],
    ) -> dict[str, dict[str, Any]]:
        """Returns the artifact, as `ImportSpecToMLMDArtifact` and `findOrNewArtifactToImport` make it."""
        (key,) = component["outputDefinitions"]["artifacts"]
        source = importer["artifactUri"]
        if "runtimeParameter" in source:
            uri = given[task["inputs"]["parameters"][source["runtimeParameter"]]["componentInputParameter"]]
        else:
            uri = source["constant"]
        if not uri.startswith(("gs://", "s3://", "minio://")):
            raise Refused(f"no provider scheme found in artifact URI: {uri}")
        metadata = {name: _through_mlmd(value) for name, value in importer.get("metadata", {}).items()}
        same = json.dumps([uri, importer["typeSchema"], metadata], sort_keys=True)
        if importer.get("reimport") or same not in self.imported:
            self.imported[same] = self._recorded(key, uri, metadata)
        return {key: self.imported[same]}

    def _provisioned(
        self, name: str, component: Mapping[str, Any], pipeline: str, pod: Path
    ) -> dict[str, Any]:
        """Returns the outputs, as `provisionOutputs` makes them."""
        declared = component.get("outputDefinitions", {})
        if declared.get("parameters"):
            raise Refused(f"Task {name} has output parameters, which are not followed.")
        artifacts = dict(declared.get("artifacts", {}))
        if self.publish_logs:
            artifacts[LOGS] = {"artifactType": {"schemaTitle": "system.Artifact"}}
        root = f"{self.scheme}://mlpipeline/v2/artifacts/{pipeline}/{RUN_ID}/{name}/{uuid.uuid4()}"
        return {
            "artifacts": {
                key: {
                    "artifacts": [
                        {"name": key, "uri": f"{root}/{key}", "type": each["artifactType"]}
                        | ({"metadata": each["metadata"]} if "metadata" in each else {})
                    ]
                }
                for key, each in artifacts.items()
            },
            "parameters": {},
            "outputFile": str(Path(uris.to_local(root, self.root_inside(pod)), "output_metadata.json")),
        }

    def _download(self, inputs: Mapping[str, Any], pod: Path) -> None:
        for each in inputs.values():
            for artifact in each["artifacts"]:
                stored, local = self.stored(artifact["uri"]), _local(artifact, pod)
                files = [stored] if stored.is_file() else sorted(filter(Path.is_file, stored.rglob("*")))
                for path in files:
                    target = local / path.relative_to(stored)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, target)

    def execute(self, words: list[str], pod: Path) -> tuple[int, str]:
        """Runs a command as a process; returns its exit status, and its output and errors."""
        environment = {
            **os.environ,
            "TFX_MOBILE_MOUNT_ROOT": str(pod),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            **self.environment,
        }
        work = pod / "work"
        work.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            cwd=work,
            env=environment,
        )
        return done.returncode, done.stdout

    def _collected(self, name: str, outputs: Mapping[str, Any], pod: Path) -> dict[str, dict[str, Any]]:
        """Uploads the outputs and returns them as ML Metadata gives them to later tasks."""
        path = Path(uris.to_local(uris.to_uri(outputs["outputFile"], self.root_inside(pod)), str(pod)))
        if not path.is_file():
            raise Refused(f"Task {name} must write {path}; it has not.")
        said = json.loads(path.read_text()).get("artifacts", {})
        if said.keys() != outputs["artifacts"].keys() - {LOGS}:
            raise Refused(f"Task {name} must say what it put out; got {sorted(said)}.")
        collected = {}
        for key, each in outputs["artifacts"].items():
            (artifact,) = each["artifacts"]
            metadata = dict(artifact.get("metadata", {}))
            if key in said:
                (output,) = said[key]["artifacts"]
                if output["uri"] != artifact["uri"]:
                    raise Refused(f"Task {name} must keep {artifact['uri']}; got {output['uri']}.")
                metadata |= output.get("metadata", {})
            local = _local(artifact, pod)
            if not local.exists():
                raise Refused(f"Task {name} must make {local}; it has not.")
            self._upload(local, self.stored(artifact["uri"]))
            metadata = {property_: _through_mlmd(value) for property_, value in metadata.items()}
            collected[key] = self._recorded(key, artifact["uri"], metadata)
        return collected

    def _recorded(self, key: str, uri: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Returns an artifact as ML Metadata gives it to later tasks: its name is its id, it has no type."""
        return {
            "name": str(next(self.numbers)),
            "uri": uri,
            "type": {"instanceSchema": ""},
            "metadata": {**metadata, "display_name": key, "store_session_info": "null"},
        }

    def _upload(self, local: Path, stored: Path) -> None:
        for path in [local] if local.is_file() else sorted(filter(Path.is_file, local.rglob("*"))):
            target = stored / path.relative_to(local)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def documents(pipeline: Any, image: str = "none") -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns PipelineSpec and PlatformSpec (empty if there is none) as `tfx-mobile compile` writes them."""
    from tfx_mobile.orchestration.kubeflow import compiling

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiling.compile_pipeline(pipeline, path, image=image)
        spec, *platforms = yaml.safe_load_all(path.read_text())
    return spec, platforms[0] if platforms else {}


def compiled(pipeline: Any, command: list[str] | None = None) -> dict[str, Any]:
    """Returns the PipelineSpec of a TFX pipeline as `tfx-mobile compile` writes it.

    Args:
      pipeline: A `tfx.dsl.Pipeline`.
      command: Of every task, in place of our entrypoint.
    """
    spec, _ = documents(pipeline)
    for executor in spec["deploymentSpec"]["executors"].values():
        if command and "container" in executor:
            executor["container"]["command"] = command
    return spec


def properties(artifact: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a component said of an output, without what the server adds."""
    return {
        key: value
        for key, value in artifact["metadata"].items()
        if key not in ("display_name", "store_session_info")
    }


def _run_parameters(spec: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    if unknown := given.keys() - declared.keys():
        raise Refused(f"The run's parameters are {sorted(declared)}; got {sorted(unknown)}.")
    found = {key: each["defaultValue"] for key, each in declared.items() if "defaultValue" in each}
    found |= given
    if missing := declared.keys() - found.keys():
        raise Refused(f"The run needs the parameters {sorted(missing)}.")
    return found


def _needs(task: Mapping[str, Any]) -> set[str]:
    inputs = task.get("inputs", {}).get("artifacts", {}).values()
    return {each["taskOutputArtifact"]["producerTask"] for each in inputs} | set(
        task.get("dependentTasks", [])
    )


def _executor(
    spec: Mapping[str, Any], component: Mapping[str, Any], name: str, task: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Returns what runs a task; anything but a container or an importer without a condition is refused."""
    label = component.get("executorLabel", "")
    executor: Mapping[str, Any] = spec["deploymentSpec"]["executors"].get(label, {})
    odd = sorted({"triggerPolicy", "artifactIterator", "parameterIterator"} & task.keys())
    if not executor.keys() & {"container", "importer"} or odd:
        raise Refused(f"Task {name} is no plain container or importer: {sorted(executor) + odd}.")
    return executor


def _fingerprint(invocation: Mapping[str, Any], container: Mapping[str, Any], pipeline: str) -> str:
    """Returns what the cache goes by: `GenerateCacheKey`; of artifacts their names, not what is in them."""
    inputs, outputs = invocation["inputs"], invocation["outputs"]
    parts = [
        pipeline,
        inputs["parameterValues"],
        {key: [one["name"] for one in each["artifacts"]] for key, each in inputs["artifacts"].items()},
        {
            key: {part: value for part, value in each["artifacts"][0].items() if part != "uri"}
            for key, each in outputs["artifacts"].items()
        },
        [container.get("image"), *container["command"], *container.get("args", [])],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _task_parameters(task: Mapping[str, Any], given: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = {}
    for key, each in task.get("inputs", {}).get("parameters", {}).items():
        if "componentInputParameter" in each:
            found[key] = given[each["componentInputParameter"]]
        elif "constant" in each.get("runtimeValue", {}):
            value = each["runtimeValue"]["constant"]
            found[key] = {"{{$.pipeline_job_uuid}}": RUN_ID, "{{$.pipeline_task_name}}": name}.get(
                value if isinstance(value, str) else "", value
            )
        else:
            raise Refused(f"Parameter {key} of task {name} is of a kind that is not followed: {each}.")
        if isinstance(found[key], int) and not isinstance(found[key], bool):
            found[key] = float(found[key])  # a number of google.protobuf.Value
    return found


def _task_artifacts(task: Mapping[str, Any], done: Mapping[str, TaskRun]) -> dict[str, Any]:
    found = {}
    for key, each in task.get("inputs", {}).get("artifacts", {}).items():
        source = each["taskOutputArtifact"]
        producer = done[source["producerTask"]]
        found[key] = {"artifacts": [copy.deepcopy(producer.artifacts[source["outputArtifactKey"]])]}
    return found


def _through_mlmd(value: Any) -> Any:
    """Returns a metadata value as it is read again: `StructValueToMLMDValue` and back."""
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, list):
        return {"list": value}
    if isinstance(value, dict):
        return {"struct": value}
    if isinstance(value, str):
        return value
    raise Refused(f"A metadata value must not be {value!r}.")


def _filled_in(word: str, invocation: Mapping[str, Any]) -> str:
    """Returns a word of a command with its placeholders filled in, as `compileCmdAndArgs` does."""
    text = json.dumps(invocation)
    word = word.replace("{{$}}", text).replace("{{$.json_escape[1]}}", json.dumps(text)[1:-1])
    for key, value in invocation["inputs"]["parameterValues"].items():
        shown = value if isinstance(value, str) else json.dumps(value)
        word = word.replace(f"{{{{$.inputs.parameters['{key}']}}}}", shown)
    for side in ("inputs", "outputs"):
        for key, each in invocation[side]["artifacts"].items():
            uri = each["artifacts"][0]["uri"]
            word = word.replace(f"{{{{$.{side}.artifacts['{key}'].uri}}}}", uri)
    return word


def _artifacts(side: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [artifact for each in side["artifacts"].values() for artifact in each["artifacts"]]


def _local(artifact: Mapping[str, Any], pod: Path) -> Path:
    return Path(uris.to_local(artifact["uri"], str(pod)))
