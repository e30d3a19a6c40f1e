"""`tfx-mobile deploy` against a server on loopback, with this environment's kfp and with the newest one."""

import contextlib
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.orchestration.kubeflow import api_server

from tfx_mobile import cli
from tfx_mobile.common.errors import ConfigError
from tfx_mobile.orchestration.kubeflow import deploying

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


def test_without_waiting_the_run_is_started_and_not_asked_about(tmp_path: Path) -> None:
    with serving(hangs=True) as (state, host):
        assert deploy(host, compiled(tmp_path), "--no-wait", "--name", "other") == 0
    assert [pipeline.name for pipeline in state.pipelines] == ["other"]
    assert len(state.runs) == 1
    assert not [line for line in state.asked if line.startswith("GET /apis/v2beta1/runs/")]


def test_a_namespace_is_where_the_pipeline_is_looked_for_and_uploaded(tmp_path: Path) -> None:
    with serving() as (state, host):
        for _ in range(2):
            assert deploy(host, compiled(tmp_path), "--namespace", "team", "--no-wait") == 0
        assert deploy(host, compiled(tmp_path), "--no-wait") == 0
    assert [(each.namespace, len(each.versions)) for each in state.pipelines] == [("team", 2), ("", 1)]


def test_a_server_that_stumbles_for_a_moment_is_asked_again(tmp_path: Path) -> None:
    with serving(broken_answers=3) as (_, host):
        assert deploy(host, compiled(tmp_path)) == 0


def test_the_token_is_taken_from_the_named_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "secret-1")
    with serving(token="secret-1") as (_, host):
        assert deploy(host, compiled(tmp_path), "--token-env", "SOME_TOKEN") == 0
        assert deploy(host, compiled(tmp_path)) == 2
    err = capsys.readouterr().err
    assert "got HTTP 401 Unauthorized. Give a token: --token-env NAME." in err


# What it says when a run fails.


def test_a_failed_task_is_named_with_the_last_line_of_its_component(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(fails="Transform", log=LOG) as (_, host):
        assert deploy(host, compiled(tmp_path)) == 1
    out, err = capsys.readouterr()
    assert "[2/3] Transform       failed    12.0 s" in out.splitlines()
    assert "PruningTrainer" not in out
    assert err == (
        "tfx-mobile: Task Transform failed: tfx_mobile.common.errors.DataError: Feature 'miles' must be "
        f"finite; got 3 NaN. See {host}/#/runs/details/run-0\n"
    )


def test_a_failed_task_whose_pod_is_gone_is_named_with_where_to_look(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(fails="PruningTrainer") as (_, host):
        assert deploy(host, compiled(tmp_path)) == 1
    assert capsys.readouterr().err == (
        "tfx-mobile: Task PruningTrainer failed: the server does not say why; its log is on the page. "
        f"See {host}/#/runs/details/run-0\n"
    )


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
    ],
)
def test_a_wrong_parameter_is_refused_before_the_upload(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], parameter: str, message: str
) -> None:
    path = compiled(tmp_path)
    with serving() as (state, host):
        assert deploy(host, path, "--param", parameter) == 2
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


def test_the_parameter_pipeline_root_of_tfx_is_filled_from_the_root(tmp_path: Path) -> None:
    path = compiled(tmp_path, parameters={"pipeline-root": {"parameterType": "STRING"}})
    with serving() as (state, host):
        assert deploy(host, path, "--no-wait") == 0
    assert state.runs[0].config["parameters"] == {"pipeline-root": "minio://bucket/root"}


def test_tasks_come_after_those_they_wait_for_whatever_the_files_order(tmp_path: Path) -> None:
    path = compiled(tmp_path, tasks={name: TASKS[name] for name in sorted(TASKS, reverse=True)})
    assert deploying.read(path).tasks == ("ExampleGen", "Transform", "PruningTrainer")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory. Compile the pipeline first."),
        ("a: [", "is not YAML"),
        ("- 1", "has no mapping. Compile it again, without --vertex."),
        ("schemaVersion: 2.0.0", "has schemaVersion '2.0.0'. Compile it again, without --vertex."),
        ("schemaVersion: 2.1.0", "lacks pipelineInfo.name or root.dag.tasks. Compile it again."),
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


@pytest.mark.parametrize("root", ["/mnt/root", "bucket", "http://bucket/x", "gs://"])
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


def test_a_page_that_is_not_the_api_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_server.ApiServer, "answer", lambda *_: b"<html>Log in</html>")
    with serving() as (_, host), pytest.raises(ConfigError, match=re.escape("perhaps a login")):
        deploying.check_answers(host)


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
