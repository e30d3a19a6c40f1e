"""A stand-in for KFP's API server: an HTTP server on loopback that speaks what kfp's client asks of v2beta1.

Paths, fields and refusals are those of kubeflow/pipelines (backend/api/v2beta1/swagger, backend/src/
apiserver): the first upload makes a pipeline and its first version, names are unique, a run's parameters are
checked by type, and a run's tasks are told as the nodes of an Argo workflow. A run does one step at every
question, so that nothing depends on time. Does not know the code under test.
"""

import dataclasses
import datetime
import email
import json
import re
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

_BEGIN = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
_NEVER = "0001-01-01T00:00:00Z"  # what Go's zero time becomes
_KINDS = {"NUMBER_INTEGER": (int, float), "NUMBER_DOUBLE": (int, float), "STRING": str, "BOOLEAN": bool}


class Refused(Exception):  # noqa: N818 - says what happened
    """An answer with an error: the HTTP status, and gRPC's message; a page in its place is a proxy's."""

    def __init__(self, status: int, message: str, page: bytes = b"") -> None:
        super().__init__(message)
        self.status, self.page = status, page


class Dropped(Exception):  # noqa: N818 - says what happened
    """The connection ends without an answer."""


@dataclasses.dataclass
class Version:
    id: str
    name: str
    content: bytes
    spec: dict[str, Any]


@dataclasses.dataclass
class Pipeline:
    id: str
    name: str
    namespace: str
    versions: list[Version] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Run:
    id: str
    name: str
    experiment_id: str
    version: Version
    config: dict[str, Any]
    steps: list[dict[str, Any]]


class ApiServer:
    """The server's state, and its answers.

    Args:
      fails: The task whose pod fails, or whose driver does when the name ends in `-driver`.
      log: Of the failing pod; None when the pod is gone.
      template: That the failing pod was made from.
      token: That every question must bear.
      hangs: The runs never end.
      broken_answers: So many questions about a run get HTTP 503 first.
      canceled: Somebody cancels each run after its first task.
    """

    def __init__(
        self,
        *,
        fails: str = "",
        log: str | None = None,
        template: str = "system-container-impl",
        token: str = "",
        hangs: bool = False,
        broken_answers: int = 0,
        canceled: bool = False,
    ) -> None:
        self.fails, self.log, self.token, self.hangs = fails, log, token, hangs
        self.broken_answers, self.canceled = broken_answers, canceled
        self.template = template
        self.namespaces_of_experiments: list[str] = []
        self.pipelines: list[Pipeline] = []
        self.experiments: dict[str, str] = {}
        self.runs: list[Run] = []
        self.asked: list[str] = []

    def answer(self, method: str, target: str, body: bytes, headers: Mapping[str, str]) -> Any:
        """Returns the JSON of an answer, or bytes as they are."""
        url = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.asked.append(f"{method} {url.path}")
        if self.token and headers.get("Authorization") != f"Bearer {self.token}":
            raise Refused(401, "Unauthenticated")
        for pattern, function in _ROUTES.items():
            if match := re.fullmatch(pattern, f"{method} {url.path}"):
                return function(self, *match.groups(), query=query, body=body, headers=headers)
        raise Refused(404, f"Not Found: {method} {url.path}")

    # Each answers one path.

    def _healthz(self, *, query: Any, body: bytes, headers: Any) -> Any:
        return {"multi_user": False, "tag_name": "2.17.0"}

    def _list_pipelines(self, *, query: dict[str, str], body: bytes, headers: Any) -> Any:
        name, namespace = _wanted_name(query), query.get("namespace", "")
        found = [each for each in self.pipelines if each.name == name and each.namespace == namespace]
        return (
            {"pipelines": [_pipeline_json(each) for each in found], "total_size": len(found)} if found else {}
        )

    def _upload(self, *, query: dict[str, str], body: bytes, headers: Any) -> Any:
        content, spec = _uploaded(body, headers)
        name, namespace = query["name"], query.get("namespace", "")
        if any(each.name == name and each.namespace == namespace for each in self.pipelines):
            raise Refused(409, f"Already exist error: The name {name} already exist")
        pipeline = Pipeline(f"pipeline-{len(self.pipelines)}", name, namespace)
        pipeline.versions.append(Version(f"{pipeline.id}-v0", name, content, spec))
        self.pipelines.append(pipeline)
        return _pipeline_json(pipeline)

    def _upload_version(self, *, query: dict[str, str], body: bytes, headers: Any) -> Any:
        content, spec = _uploaded(body, headers)
        pipeline = self._pipeline(query["pipelineid"])
        if any(each.name == query["name"] for each in pipeline.versions):
            raise Refused(409, f"Already exist error: The name {query['name']} already exist")
        pipeline.versions.append(
            Version(f"{pipeline.id}-v{len(pipeline.versions)}", query["name"], content, spec)
        )
        return _version_json(pipeline, pipeline.versions[-1])

    def _list_versions(self, id_: str, *, query: dict[str, str], body: bytes, headers: Any) -> Any:
        pipeline = self._pipeline(id_)
        versions = pipeline.versions[::-1] if query.get("sort_by") == "created_at desc" else pipeline.versions
        return {"pipeline_versions": [_version_json(pipeline, each) for each in versions]}

    def _list_experiments(self, *, query: dict[str, str], body: bytes, headers: Any) -> Any:
        found = [name for name in self.experiments if name == _wanted_name(query)]
        return {"experiments": [self._experiment_json(name) for name in found]} if found else {}

    def _create_experiment(self, *, query: Any, body: bytes, headers: Any) -> Any:
        name = json.loads(body)["display_name"]
        self.namespaces_of_experiments.append(json.loads(body).get("namespace", ""))
        self.experiments[name] = f"experiment-{len(self.experiments)}"
        return self._experiment_json(name)

    def _create_run(self, *, query: Any, body: bytes, headers: Any) -> Any:
        asked = json.loads(body)
        reference = asked["pipeline_version_reference"]
        pipeline = self._pipeline(reference["pipeline_id"])
        (version,) = (each for each in pipeline.versions if each.id == reference["pipeline_version_id"])
        if asked["experiment_id"] not in self.experiments.values():
            raise Refused(404, f"Experiment {asked['experiment_id']} not found")
        config = asked["runtime_config"]
        _check_parameters(version.spec, config.get("parameters") or {})
        id_ = f"run-{len(self.runs)}"
        steps = list(self._steps(version.spec["root"]["dag"]["tasks"], id_))
        self.runs.append(Run(id_, asked["display_name"], asked["experiment_id"], version, config, steps))
        return {"run_id": id_, "display_name": asked["display_name"], "state": "PENDING"}

    def _get_run(self, id_: str, *, query: Any, body: bytes, headers: Any) -> Any:
        if self.broken_answers > 0:
            self.broken_answers -= 1
            raise Refused(503, "no healthy upstream")
        (run,) = (each for each in self.runs if each.id == id_)
        step = run.steps.pop(0) if len(run.steps) > 1 else run.steps[0]
        return {"run_id": run.id, "display_name": run.name, **step}

    def _log(self, run: str, pod: str, *, query: Any, body: bytes, headers: Any) -> bytes:
        if self.log is None or pod != f"wf-{self.template}-{_digest(self.fails)}":
            return json.dumps({"error_message": f"pods {pod!r} not found", "error_details": "..."}).encode()
        return self.log.encode(errors="surrogateescape")

    # What they share.

    def _pipeline(self, id_: str) -> Pipeline:
        for each in self.pipelines:
            if each.id == id_:
                return each
        raise Refused(404, f"Pipeline {id_} not found")

    def _experiment_json(self, name: str) -> dict[str, Any]:
        return {"experiment_id": self.experiments[name], "display_name": name}

    def _steps(self, tasks: Mapping[str, Any], run: str) -> Iterator[dict[str, Any]]:
        """Yields what the server says of a run, from its start to its end: driver, pod, next task."""
        nodes: dict[str, dict[str, Any]] = {}

        def told(state: str) -> dict[str, Any]:
            return {"state": state, "run_details": {"task_details": [dict(each) for each in nodes.values()]}}

        def node(name: str, state: str, begin: int, end: int | None, *children: str) -> None:
            nodes[name] = {
                "run_id": run,
                "display_name": name,
                "state": state,
                "start_time": _time(begin),
                "end_time": _NEVER if end is None else _time(end),
                "child_tasks": [{"pod_name": child} for child in children],
            }

        yield {"state": "PENDING"}
        node("root-driver", "SUCCEEDED", 0, 1)
        node("root", "RUNNING", 1, None)
        now = 1
        left = dict(tasks)
        while left:
            name = next(key for key in left if not set(left[key].get("dependentTasks") or ()) & set(left))
            del left[name]
            node(f"{name}-driver", "RUNNING", now, None)
            yield told("RUNNING")
            if self.hangs:
                return
            if self.fails == f"{name}-driver":
                node(f"{name}-driver", "FAILED", now, now + 1)
                node(name, "RUNTIME_STATE_UNSPECIFIED", now + 1, now + 1)  # Argo's "Omitted"
                break
            node(f"{name}-driver", "SUCCEEDED", now, now + 1)
            node(name, "RUNNING", now + 1, None, f"wf-{_digest(name)}")
            node("executor", "RUNNING", now + 1, None)
            yield told("RUNNING")
            now += 12
            state = "FAILED" if self.fails == name else "SUCCEEDED"
            node(name, state, now - 11, now, f"wf-{_digest(name)}")
            if state == "FAILED" or self.canceled:
                break
        if self.canceled:
            yield told("CANCELED")
            return
        ended = "FAILED" if self.fails else "SUCCEEDED"
        for name in left:
            node(name, "RUNTIME_STATE_UNSPECIFIED", now, now)
        node("root", ended, 1, now)
        yield told(ended)


_ROUTES: dict[str, Any] = {
    r"GET /apis/v2beta1/healthz": ApiServer._healthz,
    r"GET /apis/v2beta1/pipelines": ApiServer._list_pipelines,
    r"POST /apis/v2beta1/pipelines/upload": ApiServer._upload,
    r"POST /apis/v2beta1/pipelines/upload_version": ApiServer._upload_version,
    r"GET /apis/v2beta1/pipelines/([^/]+)/versions": ApiServer._list_versions,
    r"GET /apis/v2beta1/experiments": ApiServer._list_experiments,
    r"POST /apis/v2beta1/experiments": ApiServer._create_experiment,
    r"POST /apis/v2beta1/runs": ApiServer._create_run,
    r"GET /apis/v2beta1/runs/([^/]+)": ApiServer._get_run,
    r"GET /apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log": ApiServer._log,
}


def serve(state: ApiServer) -> ThreadingHTTPServer:
    """Starts to answer on a free port of loopback; `shutdown` and `server_close` end it."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                found, status = state.answer(self.command, self.path, body, self.headers), 200
            except Refused as error:
                code = {401: 16, 404: 5, 409: 6}.get(error.status, 3)
                found = error.page or {"error": str(error), "message": str(error), "code": code}
                status = error.status
            except Dropped:
                return
            content = found if isinstance(found, bytes) else json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(found, bytes) else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _answer  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing: tests look at `asked`."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return server


def _uploaded(body: bytes, headers: Any) -> tuple[bytes, dict[str, Any]]:
    message = email.message_from_bytes(b"Content-Type: " + headers["Content-Type"].encode() + b"\n\n" + body)
    (part,) = (
        part
        for part in message.walk()
        if part.get_param("name", header="content-disposition") == "uploadfile"
    )
    content = part.get_payload(decode=True)
    spec = next(iter(yaml.safe_load_all(content)))
    if spec.get("schemaVersion") not in ("2.1.0", "2.1.1"):
        raise Refused(
            400,
            f"KFP only supports schema version 2.1.0, but the pipeline spec has {spec.get('schemaVersion')}",
        )
    return content, spec


def _check_parameters(spec: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    for name, parameter in declared.items():
        if name not in given:
            if "defaultValue" not in parameter and not parameter.get("isOptional"):
                raise Refused(
                    400,
                    f"parameter {name} is not optional, yet has neither default nor user provided value",
                )
            continue
        kind, value = parameter["parameterType"], given[name]
        if (
            kind not in _KINDS
            or not isinstance(value, _KINDS[kind])
            or (isinstance(value, bool) and kind != "BOOLEAN")
        ):
            raise Refused(400, f"input parameter {name} requires type {kind}")
    if extra := set(given) - set(declared):
        raise Refused(400, f"parameter(s) provided are not required by pipeline: {', '.join(extra)}")


def _wanted_name(query: Mapping[str, str]) -> str:
    (predicate,) = json.loads(query["filter"])["predicates"]
    if predicate["operation"] not in ("EQUALS", 1) or predicate["key"] not in ("display_name", "name"):
        raise Refused(400, f"unsupported filter {predicate}")
    return str(predicate.get("stringValue") or predicate["string_value"])


def _pipeline_json(pipeline: Pipeline) -> dict[str, Any]:
    return {"pipeline_id": pipeline.id, "display_name": pipeline.name, "namespace": pipeline.namespace}


def _version_json(pipeline: Pipeline, version: Version) -> dict[str, Any]:
    return {"pipeline_id": pipeline.id, "pipeline_version_id": version.id, "display_name": version.name}


def _time(second: int) -> str:
    return (_BEGIN + datetime.timedelta(seconds=second)).isoformat().replace("+00:00", "Z")


def _digest(task: str) -> str:
    return str(sum(map(ord, task)))
