"""Uploads a compiled pipeline to Kubeflow Pipelines, starts a run of it and follows the run to its end.

Works where there is no TFX, with any kfp from 2.5 on. Does not compile, does not stop a run: whoever
interrupts the waiting leaves the run to the cluster.
Source: KFP's v2beta1 REST API. What it says of a task are the nodes of an Argo workflow: a task `X` has a
node `X-driver`, which looks up its inputs, and a node `X` around the component's pod (kubeflow/pipelines,
backend/src: apiserver/server/api_converter.go, v2/compiler/argocompiler/dag.go).
"""

import contextlib
import dataclasses
import datetime
import hashlib
import importlib
import importlib.util
import io
import json
import math
import re
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tfx_mobile.common.errors import ConfigError, TfxMobileError

if TYPE_CHECKING:
    from tfx_mobile.orchestration.progress import State

_NEEDED = {"kfp": "kfp", "yaml": "kfp", "rich": "rich"}  # module -> what brings it
_ROOT = re.compile(r"(gs|s3|minio)://[^/\s]+(/\S*)?")
_ROOT_PARAMETER = "pipeline-root"  # TFX's own
_ANSWER_TIMEOUT_S = 10.0
_MAX_LOST_ANSWERS = 12  # in a row: a minute, at one question every 5 s
_ENDED = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
_LAUNCHER_LINE = re.compile(r"[IWEF]\d{4} |time=")  # what KFP adds to a component's log
_NUM_LOG_BYTES = 2**20


class RunFailed(TfxMobileError):  # noqa: N818 - says what happened
    """A run ended otherwise than well, or not in time; the message names the task and its error."""


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What a compiled pipeline's file says.

    Attributes:
      path: The file.
      name: The pipeline's name.
      parameter_types: KFP's name of each parameter's type, such as 'NUMBER_INTEGER'.
      required: The parameters without a default.
      tasks: The tasks, each after those it waits for.
    """

    path: Path
    name: str
    parameter_types: Mapping[str, str]
    required: frozenset[str]
    tasks: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Deployed:
    """What is on the server.

    Attributes:
      pipeline_id: Of the pipeline, there before or new.
      version_id: Of the version that was uploaded.
      run_id: Of the run that was started.
      run_url: The run's page.
      seconds: How long the run took; None when it was not waited for.
    """

    pipeline_id: str
    version_id: str
    run_id: str
    run_url: str
    seconds: float | None = None


def deploy(
    path: Path,
    *,
    host: str,
    pipeline_root: str = "",
    parameters: Mapping[str, str] | None = None,
    name: str = "",
    experiment: str = "",
    namespace: str = "",
    token: str = "",
    wait: bool = True,
    timeout_s: float = math.inf,
    interval_s: float = 5.0,
    stream: TextIO,
) -> Deployed:
    """Uploads a compiled pipeline, starts a run of it, and waits for the run's end.

    Args:
      path: From `tfx-mobile compile`: PipelineSpec 2.1 as YAML.
      host: URL of KFP's API or of its UI, which hands the API on.
      pipeline_root: Where artifacts go: gs://, s3:// or minio://; empty for the server's own.
      parameters: By name, as text; converted to the type that the file says.
      name: Of the pipeline on the server; empty for the name in the file. Another upload is a new version.
      experiment: That the run belongs to, made on first use; empty for the pipeline's name.
      namespace: The profile's, where KFP is multi-user.
      token: Sent as a bearer token.
      wait: False returns once the run has started.
      timeout_s: Of the waiting, in seconds; > 0.
      interval_s: Between two questions to the server, in seconds; > 0.
      stream: Gets a line for each change of a task's state, and the links.

    Returns:
      What is on the server now.

    Raises:
      ConfigError: The file, a parameter or the root breaks a rule; kfp is not installed; the server does not
        answer or refuses. Before the upload, nothing has changed on the server.
      RunFailed: The run failed, was cancelled, or goes on after `timeout_s`.
    """
    if not timeout_s > 0 or not 0 < interval_s < math.inf:
        raise ConfigError(
            f"--timeout and --interval must be > 0, in seconds; got {timeout_s:g} and {interval_s:g}."
        )
    _check_installed()
    compiled = read(path)
    if pipeline_root and not _ROOT.fullmatch(pipeline_root):
        raise ConfigError(
            f"--pipeline-root must be gs://, s3:// or minio:// and a bucket; got {pipeline_root!r}. KFP's "
            "launcher knows no other place."
        )
    given = dict(parameters or {})
    if pipeline_root and _ROOT_PARAMETER in compiled.parameter_types:
        given.setdefault(_ROOT_PARAMETER, pipeline_root)
    values = parameter_values(compiled, given)
    host = host.rstrip("/")
    check_answers(host, token)
    with _refusals(host):
        client = _client(host, namespace, token)
        pipeline_id, version_id, version = _upload(client, compiled, name or compiled.name, namespace)
        _say(stream, f"Pipeline  {host}/#/pipelines/details/{pipeline_id}/version/{version_id}")
        with _quiet():
            experiment_id = client.create_experiment(
                experiment or name or compiled.name, namespace=namespace or None
            ).experiment_id
            run_id = client.run_pipeline(
                experiment_id=experiment_id,
                job_name=f"{name or compiled.name} {version}",
                pipeline_id=pipeline_id,
                version_id=version_id,
                params=values,
                pipeline_root=pipeline_root or None,
            ).run_id
    deployed = Deployed(pipeline_id, version_id, run_id, f"{host}/#/runs/details/{run_id}")
    _say(stream, f"Run       {deployed.run_url}")
    if not wait:
        return deployed
    try:
        seconds = _follow(client, deployed, compiled.tasks, host, token, timeout_s, interval_s, stream)
    except KeyboardInterrupt:
        _say(stream, f"Not waiting any more; the run goes on: {deployed.run_url}")
        raise
    return dataclasses.replace(deployed, seconds=seconds)


def read(path: Path) -> Compiled:
    """Reads what a compiled pipeline says of itself.

    Raises:
      ConfigError: It cannot be read, or is not a pipeline that open-source KFP 2.x takes.
    """
    yaml = _untyped("yaml")
    rule = f"FILE must be a pipeline from `tfx-mobile compile`, PipelineSpec 2.1 in a .yaml file; {path}"
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{rule} has another name. KFP's client goes by it: compile to a .yaml file.")
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{rule}: {error.strerror}. Compile the pipeline first.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{rule} is not YAML: {' '.join(str(error).split())}. Compile it again.") from error
    spec = documents[0] if documents else None
    if not isinstance(spec, dict) or not str(spec.get("schemaVersion", "")).startswith("2.1."):
        found = f"schemaVersion {spec.get('schemaVersion')!r}" if isinstance(spec, dict) else "no mapping"
        raise ConfigError(f"{rule} has {found}. Compile it again, without --vertex.")
    name = _at(spec, "pipelineInfo", "name")
    tasks = _at(spec, "root", "dag", "tasks")
    if not isinstance(name, str) or not name or not isinstance(tasks, dict) or not tasks:
        raise ConfigError(f"{rule} lacks pipelineInfo.name or root.dag.tasks. Compile it again.")
    declared = _at(spec, "root", "inputDefinitions", "parameters") or {}
    return Compiled(
        path,
        name,
        {key: str(value.get("parameterType")) for key, value in declared.items()},
        frozenset(
            key
            for key, value in declared.items()
            if "defaultValue" not in value and not value.get("isOptional")
        ),
        _in_order(tasks),
    )


def parameter_values(compiled: Compiled, given: Mapping[str, str]) -> dict[str, Any]:
    """Returns the parameters of a run as the types that the pipeline declares.

    Args:
      compiled: The pipeline.
      given: By name, as text. Booleans are 'true' and 'false', lists and structs are JSON.

    Returns:
      Only what was given; for the rest the server takes the defaults.

    Raises:
      ConfigError: A parameter is unknown, is not of its type, or is needed and not given.
    """
    known = ", ".join(f"{key} ({type_})" for key, type_ in sorted(compiled.parameter_types.items())) or "none"
    if unknown := sorted(set(given) - set(compiled.parameter_types)):
        raise ConfigError(
            f"--param must name a parameter of the pipeline; got {', '.join(unknown)}. "
            f"{compiled.path} has: {known}."
        )
    if missing := sorted(compiled.required - set(given)):
        raise ConfigError(
            f"Parameters without a default must be given; {', '.join(missing)} not. "
            f"Add --param {missing[0]}=..."
        )
    return {key: _converted(key, text, compiled.parameter_types[key]) for key, text in given.items()}


def check_answers(host: str, token: str = "") -> None:
    """Checks that KFP's API answers at a URL.

    Raises:
      ConfigError: There is no answer within seconds, or another one than KFP's, such as a login page.
    """
    if not re.match(r"https?://[^/]", host):
        raise ConfigError(f"--host must be a URL, http:// or https://; got {host!r}.")
    url = f"{host}/apis/v2beta1/healthz"
    rule = f"Kubeflow Pipelines must answer at {url}"
    try:
        answer = json.loads(_get(url, token))
    except urllib.error.HTTPError as error:
        token_hint = "Give a token: --token-env NAME" if error.code in (401, 403) else _PORT_HINT
        raise ConfigError(f"{rule}; got HTTP {error.code} {error.reason}. {token_hint}.") from error
    except ValueError as error:
        raise ConfigError(
            f"{rule}; got a page that is not KFP's, perhaps a login. {_PORT_HINT}, or give a token: "
            "--token-env NAME."
        ) from error
    except OSError as error:
        raise ConfigError(f"{rule}; got {getattr(error, 'reason', error)}. {_PORT_HINT}.") from error
    if not isinstance(answer, dict):
        raise ConfigError(f"{rule}; got {answer!r}. {_PORT_HINT}.")


_PORT_HINT = (
    "Name the address of its UI, or forward it: kubectl -n kubeflow port-forward svc/ml-pipeline-ui 8080:80"
)


def _check_installed() -> None:
    missing = sorted({_NEEDED[name] for name in _NEEDED if importlib.util.find_spec(name) is None})
    if missing:
        raise ConfigError(
            f"Deploying needs {' and '.join(missing)}, not installed here. Run: pip install 'kfp>=2.5' rich "
            "(kubeflow/requirements-deploy.txt); TFX is not needed."
        )


def _untyped(name: str) -> Any:
    """Imports, when it is needed, what comes without types."""
    return importlib.import_module(name)


def _at(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _in_order(tasks: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the tasks' names, each after those it depends on, otherwise as in the file."""
    left, found = dict(tasks), []
    while left:
        ready = [key for key, task in left.items() if not set(task.get("dependentTasks") or ()) & set(left)]
        for key in ready or list(left):  # a circle is the server's to refuse
            found.append(key)
            del left[key]
    return tuple(found)


def _converted(name: str, text: str, type_: str) -> Any:
    def as_json(kind: type) -> Any:
        value = json.loads(text)
        if not isinstance(value, kind):
            raise ValueError
        return value

    def as_bool() -> bool:
        return {"true": True, "false": False}[text.lower()]

    def as_float() -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError
        return value

    convert: dict[str, Callable[[], Any]] = {
        "STRING": lambda: text,
        "NUMBER_INTEGER": lambda: int(text),
        "NUMBER_DOUBLE": as_float,
        "BOOLEAN": as_bool,
        "LIST": lambda: as_json(list),
        "STRUCT": lambda: as_json(dict),
    }
    if type_ not in convert:
        raise ConfigError(f"Parameter '{name}' has the type {type_}, which cannot be given by --param.")
    try:
        return convert[type_]()
    except (ValueError, KeyError) as error:
        raise ConfigError(f"Parameter '{name}' must be {_TYPE_TEXT[type_]}; got {text!r}.") from error


_TYPE_TEXT = {
    "NUMBER_INTEGER": "an integer",
    "NUMBER_DOUBLE": "a finite number",
    "BOOLEAN": "true or false",
    "LIST": "a JSON list",
    "STRUCT": "a JSON object",
}


# The server.


def _get(url: str, token: str) -> bytes:
    # Without the environment's proxies, as KFP's client does.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    with opener.open(request, timeout=_ANSWER_TIMEOUT_S) as answer:
        return bytes(answer.read(_NUM_LOG_BYTES))


def _client(host: str, namespace: str, token: str) -> Any:
    kfp = _untyped("kfp")
    if tuple(map(int, kfp.__version__.split(".")[:2])) < (2, 5):
        raise ConfigError(f"Deploying needs kfp 2.5 or newer; {kfp.__version__} is installed here.")
    with _quiet():
        return kfp.Client(host=host, namespace=namespace or "kubeflow", existing_token=token or None)


def _upload(client: Any, compiled: Compiled, name: str, namespace: str) -> tuple[str, str, str]:
    """Returns the ids of the pipeline and of its new version, and the version's name."""
    same_name = {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]}
    with _quiet():
        found = client.list_pipelines(
            filter=json.dumps(same_name), namespace=namespace or None, page_size=2
        ).pipelines
        if not found:
            pipeline_id = client.upload_pipeline(
                str(compiled.path), pipeline_name=name, namespace=namespace or None
            ).pipeline_id
            versions = client.list_pipeline_versions(pipeline_id, page_size=1, sort_by="created_at desc")
            first = versions.pipeline_versions[0]
            return pipeline_id, first.pipeline_version_id, _utc_now()
        if len(found) > 1:
            raise ConfigError(f"Pipeline '{name}' must be one on the server; there are more. Give --name.")
        digest = hashlib.sha256(compiled.path.read_bytes()).hexdigest()
        version = f"{_utc_now()}-{digest[:8]}"
        uploaded = client.upload_pipeline_version(
            str(compiled.path), pipeline_version_name=version, pipeline_id=found[0].pipeline_id
        )
    return found[0].pipeline_id, uploaded.pipeline_version_id, version


def _utc_now() -> str:
    return f"{datetime.datetime.now(datetime.timezone.utc):%Y%m%d-%H%M%S-%f}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the client's own prints and warnings away: we print the links."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _refusals(host: str) -> Iterator[None]:
    """Turns what KFP's client raises into one line."""
    kfp_server_api, urllib3 = _untyped("kfp_server_api"), _untyped("urllib3")
    try:
        yield
    except ConfigError:
        raise
    except kfp_server_api.ApiException as error:
        raise ConfigError(f"Kubeflow Pipelines at {host} refused: {_refusal(error)}") from error
    except urllib3.exceptions.HTTPError as error:
        raise ConfigError(f"Kubeflow Pipelines at {host} does not answer any more: {error}") from error
    except ValueError as error:  # such as two experiments of one name
        raise ConfigError(f"KFP's client refused: {error}") from error


def _refusal(error: Any) -> str:
    try:
        answer = json.loads(error.body)
        text = str(answer.get("error_message") or answer.get("message") or answer.get("error"))
    except (TypeError, ValueError, AttributeError):
        text = str(error.reason)
    return f"HTTP {error.status}, {text}"


# Following a run.


def _follow(
    client: Any,
    deployed: Deployed,
    tasks: Sequence[str],
    host: str,
    token: str,
    timeout_s: float,
    interval_s: float,
    stream: TextIO,
) -> float:
    """Waits for the run's end and returns its seconds."""
    from tfx_mobile.orchestration.progress import State, duration

    begin, shown, width = time.monotonic(), dict.fromkeys(tasks, State.WAITING), max(map(len, tasks))
    lost = 0
    while True:
        run, problem = _asked(client, deployed.run_id)
        lost = 0 if run is not None else lost + 1
        if lost >= _MAX_LOST_ANSWERS:
            raise ConfigError(
                f"Kubeflow Pipelines at {host} does not answer any more: {problem}. The run goes on: "
                f"{deployed.run_url}"
            )
        elapsed = time.monotonic() - begin
        if run is not None:
            details = {detail.display_name: detail for detail in _details(run)}
            for place, task in enumerate(tasks, 1):
                state, seconds = _task_state(task, details)
                if state is not shown[task]:
                    shown[task] = state
                    place_text = f"[{place:{len(str(len(tasks)))}}/{len(tasks)}]"
                    seconds_text = "" if seconds is None else duration(seconds)
                    _say(stream, f"{place_text} {task:{width}}  {state.value:8}  {seconds_text}".rstrip())
            if run.state == "SUCCEEDED":
                return elapsed
            if run.state in _ENDED:
                raise RunFailed(_failure(run, shown, details, deployed, host, token))
        if elapsed > timeout_s:
            raise RunFailed(
                f"The run must end within {timeout_s:g} s; it goes on after {elapsed:.0f} s. "
                f"See {deployed.run_url}"
            )
        time.sleep(min(interval_s, max(timeout_s - elapsed, 0.01)))


def _asked(client: Any, run_id: str) -> tuple[Any, str]:
    """Returns the run as it is now, or None and why the server cannot say so just now."""
    kfp_server_api, urllib3 = _untyped("kfp_server_api"), _untyped("urllib3")
    try:
        with _quiet():
            return client.get_run(run_id), ""
    except kfp_server_api.ApiException as error:
        if 400 <= (error.status or 0) < 500:
            raise ConfigError(f"Kubeflow Pipelines refused to show the run: {_refusal(error)}") from error
        return None, _refusal(error)
    except urllib3.exceptions.HTTPError as error:
        return None, str(error)


def _details(run: Any) -> list[Any]:
    return (run.run_details.task_details if run.run_details else None) or []


def _task_state(task: str, details: Mapping[str, Any]) -> "tuple[State, float | None]":
    """Returns a task's state and, once it has ended, its seconds, from its two nodes."""
    from tfx_mobile.orchestration.progress import State

    driver, own = details.get(f"{task}-driver"), details.get(task)
    if driver is not None and driver.state in ("FAILED", "CANCELED"):
        return State.FAILED if driver.state == "FAILED" else State.STOPPED, _seconds(driver, driver)
    state = {
        "SUCCEEDED": State.DONE,
        "FAILED": State.FAILED,
        "CANCELED": State.STOPPED,
        "CANCELING": State.STOPPED,
        "SKIPPED": State.SKIPPED,
        "RUNNING": State.RUNNING,
        "PENDING": State.RUNNING,
        "PAUSED": State.RUNNING,
    }.get(own.state if own is not None else "")
    if state in (State.DONE, State.FAILED):
        return state, _seconds(driver or own, own)
    if state is None:
        state = State.RUNNING if driver is not None and own is None else State.WAITING
    return state, None


def _seconds(first: Any, last: Any) -> float | None:
    begin, end = first.start_time, last.end_time
    if begin is None or end is None or begin.year < 2000 or end < begin:  # years 1 and 1970 mean "not yet"
        return None
    return float((end - begin).total_seconds())


def _failure(
    run: Any,
    shown: "Mapping[str, State]",
    details: Mapping[str, Any],
    deployed: Deployed,
    host: str,
    token: str,
) -> str:
    from tfx_mobile.orchestration.progress import State

    failed = [task for task, state in shown.items() if state is State.FAILED]
    said = run.error.message if run.error else ""
    if failed:
        task = failed[0]
        driver, own = details.get(f"{task}-driver"), details.get(task)
        said = next((each.error.message for each in (own, driver) if each is not None and each.error), said)
        if not said and driver is not None and driver.state == "FAILED":
            said = "its driver failed, before the component ran: look for its image, volume and inputs"
        said = said or _last_log_line(own, host, deployed.run_id, token)
    what = f"Task {', '.join(failed)} failed" if failed else f"The run ended as {run.state}"
    said = said.rstrip(".") or "the server does not say why; its log is on the page"
    return f"{what}: {said}. See {deployed.run_url}"


def _last_log_line(detail: Any, host: str, run_id: str, token: str) -> str:
    """Returns the last line that the failed component wrote, or nothing where its pod's log cannot be had.

    The server wants a pod's name and tells a node's: Argo puts the template's name between the workflow's and
    the hash (RetrievePodName in backend/src/common/util/workflow.go).
    """
    for child in (detail.child_tasks if detail is not None else None) or []:
        workflow, _, digest = (child.pod_name or "").rpartition("-")
        for template in ("system-container-impl", "retry-system-container-impl"):
            url = f"{host}/apis/v1alpha1/runs/{run_id}/nodes/{workflow}-{template}-{digest}/log"
            try:
                text = _get(url, token).decode(errors="replace")
            except OSError:  # the error is known to be on the run's page; this is a courtesy
                continue
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            if lines and not lines[-1].startswith('{"error_message"'):
                return next((line for line in reversed(lines) if not _LAUNCHER_LINE.match(line)), lines[-1])
    return ""


def _say(stream: TextIO, line: str) -> None:
    stream.write(f"{line}\n")
    stream.flush()
