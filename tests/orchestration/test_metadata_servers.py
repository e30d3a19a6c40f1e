"""ML Metadata on real PostgreSQL and MariaDB: runs at once, killed runs, killed servers, refused users."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import database_servers
import ml_metadata
import pytest
from database_servers import PASSWORD, Cable, Server
from ml_metadata.proto import metadata_store_pb2

from tfx_mobile.orchestration import metadata

SECONDS = 400.0
"""More than a run takes on a busy machine."""
SECRET = {metadata.PASSWORD_VARIABLE: PASSWORD}
MAKE = {"postgresql": database_servers.postgresql, "mysql": database_servers.mariadb}


@pytest.fixture(scope="session", params=MAKE)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server with empty databases; the tests fail, and say what to install, where it cannot be had."""
    with MAKE[request.param](("checks", "story", "bare", "deadlock", "endless")) as started:
        yield started


def refusal(url: str, environment: dict[str, str]) -> str:
    with pytest.raises(metadata.MetadataError, match=re.escape("The metadata database ")) as caught:
        metadata.check(metadata.connection_config(url, environment))
    return str(caught.value).removeprefix(f"The metadata database {url.partition('?')[0]} must ")


# getting in


def test_a_password_full_of_special_characters_opens_an_empty_database(server: Server) -> None:
    config = metadata.connection_config(server.url("checks"), SECRET)
    metadata.check(config)
    assert metadata.newest_execution(config) == 0
    store = ml_metadata.MetadataStore(config)
    type_id = store.put_execution_type(metadata_store_pb2.ExecutionType(name="t"))
    assert (
        metadata.newest_execution(config)
        < store.put_executions([metadata_store_pb2.Execution(type_id=type_id)])[0]
    )
    assert metadata.newest_execution(config) == 1


CHECK = """
import sys
from tfx_mobile.orchestration import metadata
if len(sys.argv) == 3:
    metadata._TABLES_SECONDS = float(sys.argv[2])
try:
    metadata.check(metadata.connection_config(sys.argv[1]))
except metadata.MetadataError as error:
    print(error)
"""


def check_through(cable: Cable, url: str, *seconds: str) -> str:
    """Returns the error of a check in another process: ML Metadata would let no thread of the cable run."""
    command = [
        sys.executable,
        "-c",
        CHECK,
        url.replace(f":{cable.server.port}/", f":{cable.port}/"),
        *seconds,
    ]
    ended = subprocess.run(
        command, env=os.environ | SECRET, stdout=subprocess.PIPE, text=True, check=True, timeout=SECONDS
    )
    cable.close()
    return ended.stdout.removesuffix("\n")


def test_a_deadlock_with_another_run_that_makes_the_tables_is_waited_out(server: Server) -> None:
    cable = Cable(server, deadlocks=2)
    assert (check_through(cable, server.url("deadlock")), cable.deadlocks) == ("", 0)
    assert metadata.newest_execution(metadata.connection_config(server.url("deadlock"), SECRET)) == 0


def test_deadlocks_without_an_end_are_one_clear_error(server: Server) -> None:
    cable = Cable(server, deadlocks=1000)
    said = check_through(cable, server.url("endless"), "0.1")
    reason = {
        "postgresql": "deadlock detected",
        "mysql": "Deadlock found when trying to get lock; try restarting transaction",
    }[server.scheme]
    assert said == (
        f"The metadata database {server.scheme}://mlmd@127.0.0.1:{cable.port}/endless must be free "
        f"within seconds; got: {reason}. Other runs hold its locks. Run again when they are done."
    )


@pytest.mark.parametrize("password", ["wrong", ""])
def test_a_user_with_another_password_is_not_let_in(server: Server, password: str) -> None:
    said = refusal(server.url("checks"), {metadata.PASSWORD_VARIABLE: password})
    reason = {
        ("postgresql", "wrong"): 'password authentication failed for user "mlmd". Correct user and password',
        ("postgresql", ""): "fe_sendauth: no password supplied. Correct user and password",
    }.get(
        (server.scheme, password),
        "mysql_real_connect failed. The client gives no reason. Check user and password",
    )
    assert said.startswith(f"let the user in; got: {reason}")


def test_a_user_that_does_not_exist_is_not_let_in(server: Server) -> None:
    assert refusal(server.url("checks", user="nobody"), SECRET).startswith("let the user in; got: ")


def test_a_database_that_does_not_exist_is_not_made(server: Server) -> None:
    said = refusal(server.url("nowhere"), SECRET)
    if server.scheme == "postgresql":
        assert said == 'exist; got: database "nowhere" does not exist. Make it: docs/metadata.md has the SQL.'
    else:
        reason = "Access denied for user 'mlmd'@'%' to database 'nowhere'"
        what_to_do = "Make and grant it: docs/metadata.md has the SQL."
        assert said == f"exist and be open to the user; got: {reason}. {what_to_do}"


def test_a_user_that_may_not_make_tables_is_refused(server: Server) -> None:
    said = refusal(server.url("bare", user=database_servers.READER), SECRET)
    reason = {
        "postgresql": "permission denied for schema public",
        "mysql": "CREATE command denied to user 'reader'@'127.0.0.1' for table `bare`.`Type`",
    }[server.scheme]
    assert said == (
        f"let the user make and write tables; got: {reason}. Grant it: docs/metadata.md has the SQL."
    )


def test_a_port_where_nobody_answers_is_refused_at_once(server: Server) -> None:
    url = f"{server.scheme}://mlmd@127.0.0.1:1/checks"
    assert refusal(url, SECRET) == (
        "be running and reachable; got: Connection refused. Start it, or correct host and port."
    )


def test_tls_that_is_asked_for_and_not_to_be_had_is_an_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")
    options = {"postgresql": "?sslmode=require", "mysql": f"?ssl_ca={tmp_path / 'ca.pem'}"}[server.scheme]
    said = refusal(server.url("checks", options=options), SECRET)
    rule = {"postgresql": "be reached as sslmode asks; got: sslmode value", "mysql": "let the user in; got: "}
    assert said.startswith(rule[server.scheme])


def test_mysql_without_verification_gets_into_a_server_that_insists_on_tls(tmp_path: Path) -> None:
    files = [f"{tmp_path}/{name}.pem" for name in ("key", "certificate")]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    subprocess.run([*command, "-keyout", files[0], "-out", files[1]], check=True, capture_output=True)
    texts = [Path(file).read_text() for file in files]
    with database_servers.mariadb(("checks",), tls=(texts[0], texts[1])) as insists:
        assert refusal(insists.url("checks"), SECRET).startswith("let the user in; got: ")
        metadata.check(metadata.connection_config(insists.url("checks", options="?ssl_verify=no"), SECRET))


# runs


@dataclasses.dataclass(frozen=True)
class Ended:
    """A run that ended.

    Attributes:
      status: As a shell has it; -9 of a killed one.
      stdout: Its progress.
      stderr: Its error.
    """

    status: int
    stdout: str
    stderr: str

    @property
    def states(self) -> dict[str, str]:
        """The last state of each component, as shown."""
        return dict(re.findall(r"^\[\d/3\] (\w+) +(\w+)", self.stdout, re.MULTILINE))


@dataclasses.dataclass(frozen=True)
class Started:
    """A run that goes on in a process of its own."""

    pid: int
    workspace: Path

    def wait_for_patient(self) -> None:
        wait_until(lambda: (self.workspace / "flag.started").exists(), f"{self.workspace}: Patient")

    def let_go(self) -> None:
        (self.workspace / "flag").touch()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{self.pid}").exists(), f"the end of {self.pid}")

    def end(self) -> Ended:
        status = self.workspace / "status"
        wait_until(lambda: status.exists() and bool(status.read_text()), f"{self.workspace}: end")
        ended = Ended(
            int(status.read_text()),
            (self.workspace / "stdout").read_text(),
            (self.workspace / "stderr").read_text(),
        )
        for name in ("status", "stdout", "stderr"):
            (self.workspace / name).unlink()
        return ended


def wait_until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Waited {SECONDS:g} s for {what}.")
        time.sleep(0.05)


class Runs:
    """Starts runs, with TFX imported once."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def start(self, workspace: Path, name: str, url: str | None, numbers: str = "1 2 3") -> Started:
        workspace.mkdir(exist_ok=True)
        request = {"workspace": str(workspace), "name": name, "numbers": numbers}
        line = json.dumps(request | {"metadata_url": url, "environment": SECRET})
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return Started(int(self._process.stdout.readline()), workspace)

    def run(self, workspace: Path, name: str, url: str | None, numbers: str = "1 2 3") -> Ended:
        workspace.mkdir(exist_ok=True)
        (workspace / "flag").touch()
        return self.start(workspace, name, url, numbers).end()


@pytest.fixture(scope="session")
def runs() -> Iterator[Runs]:
    command = [sys.executable, str(Path(__file__).with_name("tiny_runs.py"))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "READY\n"
    yield Runs(process)
    process.communicate()


@dataclasses.dataclass(frozen=True)
class Story:
    """What was done with one server's database, in this order."""

    folder: Path
    url: str
    cut_url: str
    adder: Ended
    adder_elsewhere: Ended
    other: Ended
    refused: Ended
    again: Ended
    gone: Ended
    back: Ended
    after_kill: Ended
    cut: Ended
    after_cut: Ended

    @property
    def store(self) -> Any:
        return ml_metadata.MetadataStore(metadata.connection_config(self.url, SECRET))

    def executions(self, pipeline: str) -> list[Any]:
        context = self.store.get_context_by_type_and_name("pipeline", pipeline)
        return sorted(self.store.get_executions_by_context(context.id), key=lambda execution: execution.id)


@pytest.fixture(scope="session")
def story(server: Server, runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder, url = tmp_path_factory.mktemp(server.scheme), server.url("story")
    # Three at once, on a database without tables.
    adder = runs.start(folder / "adder", "adder", url)
    elsewhere = runs.start(folder / "elsewhere", "adder", url, "7 8 9")
    other = runs.start(folder / "other", "other", url, "4 5")
    elsewhere.let_go()
    other.let_go()
    adder.wait_for_patient()
    refused = runs_beside(runs, adder, url)
    adder.let_go()
    ended = [each.end() for each in (adder, elsewhere, other)]
    again = runs.run(folder / "adder", "adder", url)

    gone = runs.start(folder / "gone", "gone", url)
    gone.wait_for_patient()
    server.kill()
    gone.let_go()
    gone_ended = gone.end()
    server.start()
    back = runs.run(folder / "gone", "gone", url)

    killed = runs.start(folder / "killed", "killed", url)
    killed.wait_for_patient()
    killed.kill()
    for name in ("stdout", "stderr"):
        (folder / "killed" / name).unlink()
    after_kill = runs.run(folder / "killed", "killed", url)

    cable = Cable(server)
    cut_url = url.replace(f":{server.port}/", f":{cable.port}/")
    cut = runs.start(folder / "cut", "cut", cut_url)
    cut.wait_for_patient()
    cable.arm()
    cut.let_go()
    cable.wait_until_cut()
    cut_ended = cut.end()
    cable = cable.mend()
    after_cut = runs.run(folder / "cut", "cut", cut_url)
    cable.close()
    return Story(
        folder, url, cut_url, *ended, refused, again, gone_ended, back, after_kill, cut_ended, after_cut
    )


def runs_beside(runs: Runs, first: Started, url: str) -> Ended:
    """Starts the pipeline of `first` a second time, in the same folder; its output is its own."""
    before = [(first.workspace / name).read_text() for name in ("stdout", "stderr")]
    second = runs.start(first.workspace, "adder", url)
    status = first.workspace / "status"
    wait_until(lambda: status.exists() and bool(status.read_text()), "the second run's end")
    texts = [(first.workspace / name).read_text() for name in ("stdout", "stderr")]
    ended = Ended(int(status.read_text()), texts[0], texts[1].removeprefix(before[1]))
    assert second.pid != first.pid
    status.unlink()
    return ended


DONE = {"Numbers": "done", "Total": "done", "Patient": "done"}
CACHED = {"Numbers": "cached", "Total": "cached", "Patient": "cached"}
RESUMED = {"Numbers": "cached", "Total": "cached", "Patient": "done"}

pipeline = pytest.mark.pipeline


@pipeline
def test_several_pipelines_at_once_on_an_empty_database_all_finish(story: Story) -> None:
    for ended in (story.adder, story.adder_elsewhere, story.other):
        assert (ended.status, ended.stderr.replace(story.refused.stderr, "")) == (0, "")
        assert ended.states == DONE


@pipeline
def test_executions_and_artifacts_of_two_pipelines_are_apart(story: Story) -> None:
    ids = {name: {each.id for each in story.executions(name)} for name in ("adder", "other")}
    assert len(ids["other"]) == 3
    assert not ids["adder"] & ids["other"]
    context = story.store.get_context_by_type_and_name("pipeline", "other")
    uris = [artifact.uri for artifact in story.store.get_artifacts_by_context(context.id)]
    assert len(uris) == 3
    assert all(uri.startswith(f"{story.folder}/other/artifacts-") for uri in uris)
    totals = {path.read_text() for path in (story.folder / "other").glob("artifacts-*/Total/model/*/total")}
    assert totals == {"9"}


@pipeline
def test_one_pipeline_in_two_folders_at_once_has_the_results_of_each(story: Story) -> None:
    for name, total in (("adder", "6"), ("elsewhere", "24")):
        totals = {path.read_text() for path in (story.folder / name).glob("artifacts-*/Total/model/*/total")}
        assert totals == {total}


@pipeline
def test_one_pipeline_twice_at_once_in_one_folder_is_refused(story: Story) -> None:
    assert story.refused.status == 2
    assert re.fullmatch(
        r"\nerror: Pipeline 'adder' must run once at a time in \S+/adder/artifacts-\S+; process \d+ on \S+ "
        r"runs it there now\. Wait for it, or stop it; then run again\.\n",
        story.refused.stderr,
    )


@pipeline
def test_a_run_after_a_finished_one_has_nothing_to_do(story: Story) -> None:
    assert (story.again.status, story.again.states) == (0, CACHED)


@pipeline
@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_database_that_goes_away_between_queries_or_inside_one_is_one_clear_error(
    story: Story, how: str
) -> None:
    url, ended = (story.url, story.gone) if how == "gone" else (story.cut_url, story.cut)
    assert ended.status == 2
    assert ended.states == {"Numbers": "done", "Total": "done", "Patient": "failed"}
    assert ended.stderr.splitlines() == [
        "",
        f"error: Component 'Patient' failed: The metadata database {url} must be running and "
        "reachable; got: Connection refused. Start it, or correct host and port.",
        f"The log is {story.folder / how / 'run.log'}.",
        "Finished components are kept: run again, and the pipeline continues after them.",
    ]
    assert "Traceback" in (story.folder / how / "run.log").read_text()


@pipeline
def test_after_the_database_is_back_a_run_goes_on_where_it_stopped(story: Story) -> None:
    for ended in (story.back, story.after_cut):
        assert (ended.status, ended.states) == (0, RESUMED)


@pipeline
def test_an_execution_left_running_blocks_nobody(story: Story) -> None:
    assert (story.after_kill.status, story.after_kill.states) == (0, RESUMED)
    state = metadata_store_pb2.Execution
    for name in ("gone", "killed", "cut"):
        found = [each.last_known_state for each in story.executions(name)]
        assert found == [
            state.COMPLETE,
            state.COMPLETE,
            state.RUNNING,
            state.CACHED,
            state.CACHED,
            state.COMPLETE,
        ]


@pipeline
def test_the_password_is_in_no_file_of_a_run(story: Story) -> None:
    config = metadata.connection_config(story.url, SECRET)
    printed = re.findall(r'password: "(.*)"', str(config))
    assert len(printed) == 1
    secrets = [PASSWORD.encode(), printed[0].encode(), PASSWORD[-12:].encode()]
    files = [path for path in story.folder.rglob("*") if path.is_file()]
    assert sum("password: ***" in path.read_text() for path in files if path.name == "run.log") == 6
    assert [path for path in files for secret in secrets if secret in path.read_bytes()] == []


# SQLite, under the same runner


@pipeline
def test_artifacts_that_another_database_numbered_are_not_written_into(runs: Runs, tmp_path: Path) -> None:
    assert runs.run(tmp_path / "w", "tiny", None).status == 0
    (tmp_path / "w" / "artifacts" / "serving" / "tiny" / "1700000000").mkdir(parents=True)  # nobody's output
    assert runs.run(tmp_path / "w", "tiny", None).states == CACHED
    (tmp_path / "w" / "metadata.sqlite").unlink()
    ended = runs.run(tmp_path / "w", "tiny", None, "4 5")
    assert ended.status == 2
    assert ended.states == {}
    artifacts = tmp_path / "w" / "artifacts"
    assert ended.stderr == (
        "\nerror: The folder of the artifacts must belong to the metadata database "
        f"sqlite://{tmp_path}/w/metadata.sqlite; got {artifacts}/Patient/report/3, while its newest "
        f"execution is 0: another or an older database numbered it. Use that one, or move {artifacts} away.\n"
    )
    artifacts.rename(tmp_path / "away")
    assert runs.run(tmp_path / "w", "tiny", None, "4 5").states == DONE


@pipeline
def test_a_damaged_metadata_file_is_one_clear_error_and_nothing_runs(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "metadata.sqlite").write_bytes(b"no database at all " * 99)
    ended = runs.run(tmp_path / "w", "tiny", None)
    assert (ended.status, ended.states) == (2, {})
    assert ended.stderr == (
        f"\nerror: The metadata database sqlite://{tmp_path}/w/metadata.sqlite must be a sound SQLite file; "
        "got: file is not a database. Restore a backup, or move it and its artifacts away to start anew.\n"
    )
