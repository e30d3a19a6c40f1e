"""`tfx-mobile deploy` against a server on loopback, with this environment's kfp and with the newest one."""

import contextlib
import datetime
import importlib.util
import io
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from tests.orchestration.kubeflow import api_server

from tfx_mobile import cli
from tfx_mobile.common.errors import ConfigError
from tfx_mobile.orchestration.kubeflow import deploying
from tfx_mobile.orchestration.progress import State

pytestmark = pytest.mark.pipeline  # kfp is in the extra `kubeflow`

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
TASKS = {
    "ExampleGen": {},
    "Transform": {"dependentTasks": ["ExampleGen"]},
    "PruningTrainer": {"dependentTasks": ["Transform", "ExampleGen"]},
}
PARAMETERS = {
    "epochs": {"parameterType": "NUMBER_INTEGER", "defaultValue": 40},
    "limit": {"parameterType": "NUMBER_DOUBLE", "defaultValue": 0.5},
    "note": {"parameterType": "STRING", "isOptional": True},
    "prune": {"parameterType": "BOOLEAN", "defaultValue": True},
}
GET_RUN = r"GET /apis/v2beta1/runs/([^/]+)"
UPLOAD = r"POST /apis/v2beta1/pipelines/upload"
EXPERIMENTS = r"GET /apis/v2beta1/experiments"
LOG = """Traceback (most recent call last):
tfx_mobile.common.errors.DataError: Feature 'miles' must be finite; got 3 NaN.
time="2026-01-01T00:00:12Z" level=info msg="sub-process exited" argo=true error="<nil>"
F0101 00:00:12.000000      12 main.go:49] failed to execute component: exit status 1
"""


def compiled(folder: Path, *, name: str = "taxi", tasks: Any = None, parameters: Any = None) -> Path:
    """Writes a pipeline as `tfx-mobile compile` does: two documents, the second for the platform."""
    spec = {
        "schemaVersion": "2.1.0",
        "pipelineInfo": {"name": name},
        "root": {
            "dag": {"tasks": TASKS if tasks is None else tasks},
            "inputDefinitions": {"parameters": PARAMETERS if parameters is None else parameters},
        },
        "deploymentSpec": {"executors": {}},
    }
    path = folder / "taxi.yaml"
    path.write_text(yaml.safe_dump_all([spec, {"platforms": {"kubernetes": {}}}]))
    return path


@contextlib.contextmanager
def serving(**behaviour: Any) -> Iterator[tuple[Any, str]]:
    """Yields the state of a server and its URL."""
    state = api_server.ApiServer(**behaviour)
    server = api_server.serve(state)
    try:
        yield state, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def deploy(host: str, path: Path, *more: str) -> int:
    """Returns the exit status of the command in this process."""
    arguments = [
        "deploy",
        str(path),
        "--host",
        host,
        "--interval",
        "0.01",
        "--pipeline-root",
        "minio://bucket/root",
    ]
    try:
        return cli.main([*arguments, *more])
    except SystemExit as error:
        return int(error.code or 0)


# What it does when all is well.


def test_the_first_deployment_uploads_a_pipeline_and_the_second_a_version_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = compiled(tmp_path)
    with serving() as (state, host):
        assert deploy(host, path, "--param", "epochs=3", "--param", "prune=false") == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert deploy(host, path, "--experiment", "nightly") == 0
    (pipeline,) = state.pipelines
    assert pipeline.name == "taxi"
    assert [version.content for version in pipeline.versions] == [path.read_bytes()] * 2
    first, second = state.runs
    utc = r"\d{8}-\d{6}-\d{6}"
    assert re.fullmatch(f"taxi {utc}", first.name)
    assert re.fullmatch(f"taxi {utc}-[0-9a-f]{{8}}", second.name)
    assert second.name == f"taxi {pipeline.versions[1].name}"
    assert first.version is pipeline.versions[0]
    assert second.version is pipeline.versions[1]
    assert first.config == {
        "parameters": {"epochs": 3, "prune": False},
        "pipeline_root": "minio://bucket/root",
    }
    assert second.config == {"parameters": {}, "pipeline_root": "minio://bucket/root"}
    assert set(state.experiments) == {"taxi", "nightly"}
    assert out.splitlines()[:2] == [
        f"Pipeline  {host}/#/pipelines/details/pipeline-0/version/pipeline-0-v0",
        f"Run       {host}/#/runs/details/run-0",
    ]


def test_each_change_of_a_task_is_one_line_with_its_seconds_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving() as (_, host):
        assert deploy(host, compiled(tmp_path)) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert lines[:-1] == [
        "[1/3] ExampleGen      running",
        "[1/3] ExampleGen      done      12.0 s",
        "[2/3] Transform       running",
        "[2/3] Transform       done      12.0 s",
        "[3/3] PruningTrainer  running",
        "[3/3] PruningTrainer  done      12.0 s",
    ]
    assert re.fullmatch(r"Succeeded after [\d.]+ s\.", lines[-1])


def test_without_waiting_the_run_is_started_and_not_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):  # not for KFP's client, and so not for us
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with serving(hangs=True) as (state, host):
        assert deploy(f"{host}/", compiled(tmp_path), "--no-wait", "--name", "other") == 0
    assert capsys.readouterr().out.splitlines()[1:] == [f"Run       {host}/#/runs/details/run-0"]
    assert set(state.experiments) == {"other"}
    assert [pipeline.name for pipeline in state.pipelines] == ["other"]
    assert len(state.runs) == 1
    assert not [line for line in state.asked if line.startswith("GET /apis/v2beta1/runs/")]


def test_a_namespace_is_where_the_pipeline_is_looked_for_and_uploaded(tmp_path: Path) -> None:
    with serving() as (state, host):
        for _ in range(2):
            assert deploy(host, compiled(tmp_path), "--namespace", "team", "--no-wait") == 0
        assert deploy(host, compiled(tmp_path), "--no-wait") == 0
    assert [(each.namespace, len(each.versions)) for each in state.pipelines] == [("team", 2), ("", 1)]
    assert state.namespaces_of_experiments == ["team"]


@pytest.mark.parametrize(
    "stumble", [api_server.Refused(503, "no healthy upstream"), api_server.Dropped()], ids=["503", "dropped"]
)
def test_a_server_that_stumbles_again_and_again_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stumble: Exception
) -> None:
    asked = 0

    def get_run(*arguments: Any, **more: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked % 9:
            raise stumble
        return api_server.ApiServer._get_run(*arguments, **more)

    monkeypatch.setitem(api_server._ROUTES, GET_RUN, get_run)
    with serving() as (_, host):
        assert deploy(host, compiled(tmp_path)) == 0
    assert asked == 9 * 8


def test_who_interrupts_the_waiting_is_told_that_the_run_goes_on(tmp_path: Path) -> None:
    class Impatient(io.StringIO):
        def write(self, text: str) -> int:
            if "Transform" in text:
                raise KeyboardInterrupt
            return super().write(text)

    stream = Impatient()
    with serving() as (_, host), pytest.raises(KeyboardInterrupt):
        deploying.deploy(compiled(tmp_path), host=host, interval_s=0.01, stream=stream)
    last = stream.getvalue().splitlines()[-1]
    assert last == f"Not waiting any more; the run goes on: {host}/#/runs/details/run-0"


def test_the_token_is_taken_from_the_named_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "secret-1")
    with serving(token="secret-1", fails="Transform", log=LOG) as (_, host):
        assert deploy(host, compiled(tmp_path), "--token-env", "SOME_TOKEN") == 1
        assert (
            "Feature 'miles' must be finite" in capsys.readouterr().err
        )  # the log is asked for with it, too
        assert deploy(host, compiled(tmp_path)) == 2
        assert deploy(host, compiled(tmp_path), "--token-env", "NO_TOKEN") == 2
    err = capsys.readouterr().err
    assert "--token-env must name a variable that is set; NO_TOKEN is not." in err
    assert "got HTTP 401 Unauthorized. Give a token: --token-env NAME." in err


# What it says when a run fails.


UNKNOWN = "the server does not say why; its log is on the page"


@pytest.mark.parametrize(
    ("log", "template", "said"),
    [
        (
            LOG,
            "system-container-impl",
            "tfx_mobile.common.errors.DataError: Feature 'miles' must be finite; got 3 NaN",
        ),
        ("tried\udcff twice\n", "retry-system-container-impl", "tried\ufffd twice"),
        (
            "F0101 00:00:12.000000 1 main.go:49] no image\n",
            "system-container-impl",
            "F0101 00:00:12.000000 1 ",
        ),
        ("\n", "system-container-impl", UNKNOWN),
        (None, "system-container-impl", UNKNOWN),
    ],
)
def test_a_failed_task_is_named_with_the_last_line_of_its_component_or_with_where_to_look(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], log: str | None, template: str, said: str
) -> None:
    with serving(fails="Transform", log=log, template=template) as (_, host):
        assert deploy(host, compiled(tmp_path)) == 1
    out, err = capsys.readouterr()
    assert "[2/3] Transform       failed    12.0 s" in out.splitlines()
    assert "PruningTrainer" not in out
    assert err.startswith(f"tfx-mobile: Task Transform failed: {said}")
    assert err.endswith(f". See {host}/#/runs/details/run-0\n")


def test_a_log_that_the_server_refuses_is_not_the_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **more: Any) -> Any:
        raise api_server.Refused(500, "no log")

    monkeypatch.setitem(api_server._ROUTES, r"GET /apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log", refuse)
    with serving(fails="Transform") as (_, host):
        assert deploy(host, compiled(tmp_path)) == 1
    assert f"Task Transform failed: {UNKNOWN}." in capsys.readouterr().err


def moment(second: int, year: int = 2026) -> datetime.datetime:
    return datetime.datetime(year, 1, 1, 0, 0, second, tzinfo=datetime.timezone.utc)


def node(state: str, begin: Any = None, end: Any = None, error: str = "") -> Any:
    """A task of a run as KFP's client has it."""
    said = SimpleNamespace(message=error) if error else None
    return SimpleNamespace(state=state, start_time=begin, end_time=end, error=said, child_tasks=None)


@pytest.mark.parametrize(
    ("driver", "own", "state", "seconds"),
    [
        (None, None, State.WAITING, None),
        (node("RUNNING"), None, State.RUNNING, None),
        (node("SUCCEEDED"), node("PENDING"), State.RUNNING, None),
        (node("SUCCEEDED"), node("PAUSED"), State.RUNNING, None),
        (node("SUCCEEDED"), node("RUNTIME_STATE_UNSPECIFIED"), State.WAITING, None),
        (node("SUCCEEDED"), node("SKIPPED"), State.SKIPPED, None),
        (node("SUCCEEDED"), node("CANCELED"), State.STOPPED, None),
        (node("SUCCEEDED"), node("CANCELING"), State.STOPPED, None),
        (node("CANCELED", moment(1), moment(3)), None, State.STOPPED, 2.0),
        (node("FAILED", moment(1), moment(3)), node("RUNTIME_STATE_UNSPECIFIED"), State.FAILED, 2.0),
        (node("SUCCEEDED", moment(1)), node("SUCCEEDED", moment(5), moment(9)), State.DONE, 8.0),
        (None, node("SUCCEEDED", moment(5), moment(9)), State.DONE, 4.0),
        (None, node("FAILED", moment(5), moment(9, 1)), State.FAILED, None),
        (None, node("FAILED", moment(5, 1970), moment(9)), State.FAILED, None),
        (None, node("FAILED", moment(9), moment(5)), State.FAILED, None),
    ],
)
def test_a_tasks_state_and_seconds_are_those_of_its_two_nodes(
    driver: Any, own: Any, state: State, seconds: float | None
) -> None:
    details = {name: each for name, each in (("T-driver", driver), ("T", own)) if each is not None}
    assert deploying._task_state("T", details) == (state, seconds)


@pytest.mark.parametrize(
    ("run_error", "driver_error", "own_error", "said"),
    [
        ("of the run", "of the driver", "of the task.", "of the task"),
        ("of the run", "of the driver", "", "of the driver"),
        ("of the run", "", "", "of the run"),
        ("", "", "", UNKNOWN),
    ],
)
def test_the_error_nearest_to_the_task_is_said(
    run_error: str, driver_error: str, own_error: str, said: str
) -> None:
    deployed = deploying.Deployed("p", "v", "r", "http://h/r")
    details = {"T-driver": node("SUCCEEDED", error=driver_error), "T": node("FAILED", error=own_error)}
    found = deploying._failure(
        node("FAILED", error=run_error), {"T": State.FAILED}, details, deployed, "http://h", ""
    )
    assert found == f"Task T failed: {said}. See http://h/r"


def test_a_driver_that_fails_is_the_failure_of_its_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(fails="Transform-driver") as (_, host):
        assert deploy(host, compiled(tmp_path)) == 1
    out, err = capsys.readouterr()
    assert "[2/3] Transform       failed    1.0 s" in out.splitlines()
    assert "Task Transform failed: its driver failed, before the component ran: look for its image" in err


def test_a_cancelled_run_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(canceled=True) as (_, host):
        assert deploy(host, compiled(tmp_path)) == 1
    assert "tfx-mobile: The run ended as CANCELED: " in capsys.readouterr().err


def test_a_run_that_outlasts_the_timeout_is_a_failure_that_says_it_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(hangs=True) as (_, host):
        assert deploy(host, compiled(tmp_path), "--timeout", "0.1") == 1
    err = capsys.readouterr().err
    assert "The run must end within 0.1 s; it goes on after " in err
    assert f"See {host}/#/runs/details/run-0" in err


def test_a_server_that_is_lost_is_given_up_and_the_run_is_said_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(broken_answers=1000) as (_, host):
        assert deploy(host, compiled(tmp_path)) == 2
    err = capsys.readouterr().err
    assert "does not answer any more: HTTP 503, no healthy upstream. The run goes on: " in err


# What it refuses, before anything changes on the server.


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        (
            "epoch=3",
            "--param must name a parameter of the pipeline; got epoch. {path} has: epochs (NUMBER_INTEGER), "
            "limit (NUMBER_DOUBLE), note (STRING), prune (BOOLEAN).",
        ),
        ("epochs=3.5", "Parameter 'epochs' must be an integer; got '3.5'."),
        ("limit=nan", "Parameter 'limit' must be a finite number; got 'nan'."),
        ("prune=yes", "Parameter 'prune' must be true or false; got 'yes'."),
        ("epochs", "--param must be NAME=VALUE; got 'epochs'. Write for example epochs=20."),
        ("epochs=1 epochs=2", "--param must name each parameter once; got 'epochs' twice."),
    ],
)
def test_a_wrong_parameter_is_refused_before_the_upload(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], parameter: str, message: str
) -> None:
    path = compiled(tmp_path)
    with serving() as (state, host):
        given = [word for text in parameter.split() for word in ("--param", text)]
        assert deploy(host, path, *given) == 2
    assert capsys.readouterr().err == f"tfx-mobile: error: {message.format(path=path)}\n"
    assert state.asked == []


def test_a_parameter_without_a_default_must_be_given(tmp_path: Path) -> None:
    path = compiled(tmp_path, parameters={"rows": {"parameterType": "STRING"}})
    message = "Parameters without a default must be given; rows not. Add --param rows=..."
    with pytest.raises(ConfigError, match=re.escape(message)):
        deploying.parameter_values(deploying.read(path), {})
    assert deploying.parameter_values(deploying.read(path), {"rows": "a=b"}) == {"rows": "a=b"}


@pytest.mark.parametrize(
    ("type_", "text", "value"),
    [
        ("STRING", "7", "7"),
        ("NUMBER_INTEGER", "-7", -7),
        ("NUMBER_DOUBLE", "7", 7.0),
        ("BOOLEAN", "True", True),
        ("LIST", "[1]", [1]),
        ("STRUCT", '{"a": 1}', {"a": 1}),
    ],
)
def test_a_parameter_becomes_what_its_type_says(tmp_path: Path, type_: str, text: str, value: Any) -> None:
    pipeline = deploying.read(compiled(tmp_path, parameters={"x": {"parameterType": type_}}))
    (found,) = deploying.parameter_values(pipeline, {"x": text}).values()
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(("type_", "text"), [("LIST", "{}"), ("STRUCT", "[]"), ("LIST", "x")])
def test_json_of_another_shape_is_refused(tmp_path: Path, type_: str, text: str) -> None:
    pipeline = deploying.read(compiled(tmp_path, parameters={"x": {"parameterType": type_}}))
    kind = {"LIST": "a JSON list", "STRUCT": "a JSON object"}[type_]
    with pytest.raises(ConfigError, match=re.escape(f"Parameter 'x' must be {kind}; got {text!r}.")):
        deploying.parameter_values(pipeline, {"x": text})


def test_a_type_that_text_cannot_be_is_refused(tmp_path: Path) -> None:
    path = compiled(tmp_path, parameters={"x": {"parameterType": "TASK_FINAL_STATUS"}})
    message = "Parameter 'x' has the type TASK_FINAL_STATUS, which cannot be given by --param."
    with pytest.raises(ConfigError, match=re.escape(message)):
        deploying.parameter_values(deploying.read(path), {"x": "1"})


def test_the_parameter_pipeline_root_of_tfx_is_filled_from_the_root_unless_it_is_given(
    tmp_path: Path,
) -> None:
    path = compiled(tmp_path, parameters={"pipeline-root": {"parameterType": "STRING"}})
    with serving() as (state, host):
        assert deploy(host, path, "--no-wait") == 0
        assert deploy(host, path, "--no-wait", "--param", "pipeline-root=gs://other") == 0
    assert [run.config["parameters"] for run in state.runs] == [
        {"pipeline-root": "minio://bucket/root"},
        {"pipeline-root": "gs://other"},
    ]


def test_tasks_come_after_those_they_wait_for_whatever_the_files_order(tmp_path: Path) -> None:
    path = compiled(tmp_path, tasks={name: TASKS[name] for name in sorted(TASKS, reverse=True)})
    assert deploying.read(path).tasks == ("ExampleGen", "Transform", "PruningTrainer")


def test_tasks_that_wait_for_one_another_are_left_to_the_server_to_refuse(tmp_path: Path) -> None:
    path = compiled(tmp_path, tasks={"A": {"dependentTasks": ["B"]}, "B": {"dependentTasks": ["A"]}})
    assert deploying.read(path).tasks == ("A", "B")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory. Compile the pipeline first."),
        ("a: [", "is not YAML"),
        ("- 1", "has no mapping. Compile it again, without --vertex."),
        ("schemaVersion: 2.0.0", "has schemaVersion '2.0.0'. Compile it again, without --vertex."),
        ("schemaVersion: 2.1.0", "lacks pipelineInfo.name or root.dag.tasks. Compile it again."),
        ("schemaVersion: 2.1.0\npipelineInfo: {name: a}", "lacks pipelineInfo.name or root.dag.tasks."),
        (
            "schemaVersion: 2.1.0\npipelineInfo: {name: a}\nroot: {dag: {tasks: {}}}",
            "lacks pipelineInfo.name or root.dag.tasks.",
        ),
        (
            "schemaVersion: 2.1.0\npipelineInfo: {name: ''}\nroot: {dag: {tasks: {A: {}}}}",
            "lacks pipelineInfo.name or root.dag.tasks.",
        ),
    ],
)
def test_a_file_that_is_no_pipeline_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "pipeline.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=re.escape(message)):
        deploying.read(path)


def test_a_file_of_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape("has another name. KFP's client goes by it")):
        deploying.read(tmp_path / "pipeline.json")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--timeout", "0"),
        ("--timeout", "nan"),
        ("--interval", "-1"),
        ("--interval", "nan"),
        ("--interval", "inf"),
    ],
)
def test_a_time_that_is_not_positive_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    with serving(hangs=True) as (state, host):
        assert deploy(host, compiled(tmp_path), option, value) == 2
    assert "--timeout and --interval must be > 0, in seconds; got " in capsys.readouterr().err
    assert state.asked == []


@pytest.mark.parametrize("root", ["/mnt/root", "bucket", "http://bucket/x", "gs://", "gs://a b"])
def test_a_root_that_the_launcher_does_not_know_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], root: str
) -> None:
    with serving() as (state, host):
        assert deploy(host, compiled(tmp_path), "--pipeline-root", root) == 2
    assert (
        f"--pipeline-root must be gs://, s3:// or minio:// and a bucket; got {root!r}."
        in capsys.readouterr().err
    )
    assert state.asked == []


def test_a_host_where_nobody_listens_is_refused_at_once_with_the_way_to_forward_a_port(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert deploy(host, compiled(tmp_path)) == 2
    err = capsys.readouterr().err
    assert (
        f"Kubeflow Pipelines must answer at {host}/apis/v2beta1/healthz; got [Errno 111] Connection refused."
        in err
    )
    assert "kubectl -n kubeflow port-forward svc/ml-pipeline-ui 8080:80" in err


def test_a_host_without_a_scheme_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=re.escape("--host must be a URL, http:// or https://; got 'kfp:8080'.")
    ):
        deploying.check_answers("kfp:8080")


@pytest.mark.parametrize(
    ("page", "message"), [(b"<html>Log in</html>", "perhaps a login"), (b"[]", "healthz; got []. Name the")]
)
def test_a_page_that_is_not_the_api_is_refused(
    monkeypatch: pytest.MonkeyPatch, page: bytes, message: str
) -> None:
    monkeypatch.setattr(api_server.ApiServer, "answer", lambda *_: page)
    with serving() as (_, host), pytest.raises(ConfigError, match=re.escape(message)):
        deploying.check_answers(host)


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "Give a token"), (403, "Give a token"), (404, "Name the address of its UI")]
)
def test_an_answer_with_an_error_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, status: int, hint: str
) -> None:
    def refuse(*_: Any) -> Any:
        raise api_server.Refused(status, "no")

    monkeypatch.setattr(api_server.ApiServer, "answer", refuse)
    with serving() as (_, host), pytest.raises(ConfigError, match=rf"; got HTTP {status} [\w ]+\. {hint}"):
        deploying.check_answers(host)


@pytest.mark.parametrize(
    ("route", "answer", "message"),
    [
        (
            UPLOAD,
            api_server.Refused(502, "", b"<html>nginx</html>"),
            "Kubeflow Pipelines at {host} refused: HTTP 502, Bad Gateway\n",
        ),
        (UPLOAD, api_server.Dropped(), "Kubeflow Pipelines at {host} does not answer any more: "),
        (
            EXPERIMENTS,
            {"experiments": [{"experiment_id": "1"}, {"experiment_id": "2"}]},
            "KFP's client refused: Multiple experiments",
        ),
        (
            GET_RUN,
            api_server.Refused(403, "token expired"),
            "Kubeflow Pipelines refused to show the run: HTTP 403, token expired\n",
        ),
    ],
)
def test_what_goes_wrong_on_the_way_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    route: str,
    answer: Any,
    message: str,
) -> None:
    def give(*_: Any, **more: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setitem(api_server._ROUTES, route, give)
    with serving() as (_, host):
        assert deploy(host, compiled(tmp_path)) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"tfx-mobile: error: {message.format(host=host)}")
    assert err.count("\n") == 1


def test_a_name_that_several_pipelines_have_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving() as (state, host):
        state.pipelines += [api_server.Pipeline(f"p{number}", "taxi", "") for number in range(3)]
        assert deploy(host, compiled(tmp_path)) == 2
    message = "Pipeline 'taxi' must be one on the server; there are more. Give --name."
    assert capsys.readouterr().err == f"tfx-mobile: error: {message}\n"
    assert not any(pipeline.versions for pipeline in state.pipelines)


def test_what_the_server_refuses_is_said_in_its_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = compiled(tmp_path)
    path.write_text(path.read_text().replace("2.1.0", "2.1.9"))
    with serving() as (_, host):
        assert deploy(host, path) == 2
    assert (
        f"Kubeflow Pipelines at {host} refused: HTTP 400, KFP only supports schema version"
        in capsys.readouterr().err
    )


def test_without_kfp_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name != "yaml" else object())
    message = "Deploying needs kfp and rich, not installed here. Run: pip install 'kfp>=2.5' rich "
    with pytest.raises(ConfigError, match=re.escape(message)):
        deploying.deploy(tmp_path / "x.yaml", host="http://h", stream=sys.stdout)


@pytest.mark.parametrize("version", ["1.8.22", "2.4.0"])
def test_a_kfp_that_is_too_old_is_refused_before_the_upload(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
) -> None:
    import kfp

    monkeypatch.setattr(kfp, "__version__", version)
    message = f"Deploying needs kfp 2.5 or newer; {version} is installed here."
    with serving() as (state, host), pytest.raises(ConfigError, match=re.escape(message)):
        deploying.deploy(compiled(tmp_path), host=host, stream=sys.stdout)
    assert state.pipelines == []


# Another kfp, no TFX.


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with requirements-deploy.txt in its newest versions, and no more."""
    folder = tmp_path_factory.mktemp("newest") / "venv"
    uv, python = [sys.executable, "-m", "uv"], folder / "bin" / "python"
    needed = ROOT / "kubeflow" / "requirements-deploy.txt"
    for command in (
        [*uv, "venv", "--quiet", "--python", sys.executable, str(folder)],
        [*uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(needed)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode and not os.environ.get("CI"):
            pytest.skip(f"NOT TESTED with the newest kfp, which cannot be installed here:\n{done.stderr}")
        assert not done.returncode, done.stderr
    return python


def test_it_works_with_the_newest_kfp_where_there_is_no_tfx(newest: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "components")}

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(newest), "-m", "tfx_mobile.cli", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    probe = (
        "import importlib.util as u, json, kfp; "
        "print(json.dumps([kfp.__version__, bool(u.find_spec('tfx'))]))"
    )
    version, has_tfx = json.loads(subprocess.check_output([str(newest), "-c", probe], text=True))
    assert tuple(map(int, version.split(".")[:2])) >= (2, 16)
    assert not has_tfx
    path = str(compiled(tmp_path))
    with serving() as (state, host):
        common = ("deploy", path, "--host", host, "--interval", "0.01", "--pipeline-root", "s3://b")
        for _ in range(2):
            done = run(*common, "--param", "epochs=3")
            assert (done.returncode, done.stderr) == (0, "")
        assert "[3/3] PruningTrainer  done      12.0 s" in done.stdout.splitlines()
        state.fails, state.log = "Transform", LOG
        failed = run(*common)
    assert failed.returncode == 1
    assert "Task Transform failed: tfx_mobile.common.errors.DataError: Feature 'miles'" in failed.stderr
    assert len(state.pipelines[0].versions) == 3
    assert [run_.config["parameters"] for run_ in state.runs] == [{"epochs": 3}, {"epochs": 3}, {}]
