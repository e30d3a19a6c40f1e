"""Real pipelines under TFX's LocalDagRunner: what the user sees, what is kept, what is said on failure."""

import io
import logging
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tfx_mobile.common.errors import ConfigError, TfxMobileError
from tfx_mobile.orchestration.progress import State, duration

pytestmark = pytest.mark.pipeline

SECONDS_TO_START = 400.0
"""Importing TFX takes 10 s, or 100 s where it has no bytecode yet."""


@dataclass(frozen=True)
class Process:
    """A run in a process of its own, stopped while the component Patient was running."""

    exit_status: int
    stdout: str
    stderr: str


def stop_in_patient(workspace: Path, how: signal.Signals, *, on_terminal: bool) -> Process:
    """Starts `tiny_pipeline.py`, waits until Patient is running, and stops it."""
    program = [sys.executable, str(Path(__file__).with_name("tiny_pipeline.py")), str(workspace)]
    reader, writer = os.openpty() if on_terminal else os.pipe()
    error_reader, error_writer = os.pipe()
    # PYTHONUNBUFFERED would hide what a killed process has not written yet.
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "PYTHONUNBUFFERED": ""}
    process = subprocess.Popen(program, stdout=writer, stderr=error_writer, env=environment)
    os.close(writer)
    os.close(error_writer)
    seen: dict[int, bytes] = {reader: b"", error_reader: b""}
    started = workspace / "flag.started"
    started.unlink(missing_ok=True)
    deadline = time.monotonic() + SECONDS_TO_START
    stopped = False
    streams = [reader, error_reader]
    while streams and time.monotonic() < deadline:
        for stream in select.select(streams, [], [], 0.1)[0]:
            try:
                part = os.read(stream, 65536)
            except OSError:  # how a pseudo-terminal says that the other end is closed
                part = b""
            seen[stream] += part
            if not part:
                streams.remove(stream)
        if started.exists() and not stopped:
            time.sleep(0.5)  # the table is drawn four times a second
            process.send_signal(how)
            stopped = True
    if streams:  # it neither started nor stopped in time
        process.kill()
    for stream in seen:
        os.close(stream)
    return Process(process.wait(), seen[reader].decode(), seen[error_reader].decode())


@dataclass(frozen=True)
class Story:
    """One workspace, run four times."""

    workspace: Path
    killed: Process
    states_after_kill: list[int]
    interrupted: Process
    resumed: Any
    shown_when_resumed: str
    again: Any
    shown_again: str
    streams_are_back: bool
    argv_is_back: bool
    log: str


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    from tiny_pipeline import create

    from tfx_mobile.orchestration import local

    workspace = tmp_path_factory.mktemp("story")
    killed = stop_in_patient(workspace, signal.SIGKILL, on_terminal=False)
    states = execution_states(workspace)
    interrupted = stop_in_patient(workspace, signal.SIGINT, on_terminal=True)
    (workspace / "flag").touch()
    streams, arguments = (sys.stdout, sys.stderr), sys.argv
    resumed_stream, again_stream = io.StringIO(), io.StringIO()
    resumed = local.run(create(workspace), log_file=workspace / "run.log", stream=resumed_stream)
    again = local.run(create(workspace), log_file=workspace / "run.log", stream=again_stream)
    return Story(
        workspace,
        killed,
        states,
        interrupted,
        resumed,
        resumed_stream.getvalue(),
        again,
        again_stream.getvalue(),
        streams_are_back=(sys.stdout, sys.stderr) == streams,
        argv_is_back=sys.argv is arguments,
        log=(workspace / "run.log").read_text(),
    )


def execution_states(workspace: Path) -> list[int]:
    from tfx.orchestration import metadata

    config = metadata.sqlite_metadata_connection_config(str(workspace / "metadata.sqlite"))
    with metadata.Metadata(config) as handle:
        return [execution.last_known_state for execution in handle.store.get_executions()]


def states(result: Any) -> dict[str, State]:
    return {component.id: component.state for component in result.components}


# killed, interrupted, resumed, cached


def test_a_killed_run_leaves_its_component_running_in_the_metadata(story: Story) -> None:
    from ml_metadata.proto import metadata_store_pb2

    execution = metadata_store_pb2.Execution
    assert story.killed.exit_status == -signal.SIGKILL
    assert story.states_after_kill == [execution.COMPLETE, execution.COMPLETE, execution.RUNNING]


def test_a_killed_run_had_shown_what_was_finished(story: Story) -> None:
    shown = story.killed.stdout.split("READY\n")[1]
    assert re.sub(r"\d+\.\d s", "0.0 s", shown).splitlines() == [
        f"Pipeline 'tiny'. Log: {story.workspace / 'run.log'}",
        "[1/3] Numbers  done                   0.0 s",
        "[2/3] Total    done                   0.0 s",
    ]


def test_a_run_writes_nothing_to_the_console_but_progress(story: Story) -> None:
    assert story.killed.stderr.split("READY\n")[1] == ""
    assert "NOISE" not in story.killed.stdout


def test_the_log_has_what_tfx_and_the_components_wrote(story: Story) -> None:
    for source in ("print", "sys.stderr", "descriptor 1", "a child", "logging"):
        assert f"NOISE by {source}\n" in story.log
    assert "UserWarning: NOISE by warnings\n" in story.log
    assert "Component Numbers is running." in story.log


def test_an_interrupted_run_on_a_terminal_gives_the_cursor_back_and_says_what_is_kept(story: Story) -> None:
    shown = story.interrupted.stdout.split("READY\r\n")[1]
    last_table = shown[shown.rindex("Numbers") :]
    assert last_table.count("cached, nothing to do") == 2
    assert "stopped" in last_table
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert shown.endswith(
        "Interrupted. Finished components are kept: run again, and the pipeline continues after them.\r\n"
    )


def test_an_interrupted_run_hands_the_interruption_on(story: Story) -> None:
    assert story.interrupted.exit_status == -signal.SIGINT
    assert story.interrupted.stderr.endswith("KeyboardInterrupt\n")


def test_the_next_run_continues_with_the_first_unfinished_component(story: Story) -> None:
    assert states(story.resumed) == {
        "Numbers": State.CACHED,
        "Total": State.CACHED,
        "Patient": State.DONE,
    }
    assert (story.resumed.cached, story.resumed.failed) == (2, None)


def test_a_run_after_a_finished_one_has_nothing_to_do(story: Story) -> None:
    assert set(states(story.again).values()) == {State.CACHED}
    assert story.again.cached == 3
    assert story.shown_again.count("cached, nothing to do") == 3
    spent = duration(sum(component.seconds for component in story.again.components))
    assert story.shown_again.endswith(f"\nDone in {spent}: 0 ran, 3 had nothing to do.\n")


def test_outputs_hold_paths_and_properties(story: Story) -> None:
    (model,) = story.resumed.outputs["Total"]["model"]
    assert Path(model.uri, "total").read_text() == "6"
    assert model.properties["total"] == 6
    (examples,) = story.resumed.outputs["Numbers"]["examples"]
    assert examples.properties["source"] == "by hand"


def test_a_cached_component_has_the_outputs_of_the_run_that_made_them(story: Story) -> None:
    assert story.again.outputs == story.resumed.outputs
    assert set(story.again.outputs) == {"Numbers", "Total", "Patient"}


def test_the_process_has_its_streams_and_arguments_back(story: Story) -> None:
    assert story.streams_are_back
    assert story.argv_is_back


# failures


@pytest.fixture
def failing_run(tmp_path: Path) -> Any:
    """Runs components that fail; returns the error, what was shown, and the log."""

    def go(*components: Any, **settings: Any) -> tuple[Any, str, str]:
        from tfx_mobile.orchestration import local

        pipeline = local.local_pipeline("tiny", components, tmp_path, **settings)
        stream, log = io.StringIO(), tmp_path / "run.log"
        with pytest.raises(local.PipelineFailed, match=re.escape(f"The log is {log}.")) as caught:
            local.run(pipeline, log_file=log, stream=stream)
        return caught.value, stream.getvalue(), log.read_text()

    return go


def picky(kind: str) -> tuple[Any, Any]:
    from tiny_components import Numbers, Picky

    numbers = Numbers(numbers="1 2 3")
    return numbers, Picky(examples=numbers.outputs["examples"], kind=kind)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("data", "Feature 'fare' must be finite; got 3 NaN."),
        ("wrapped", "Feature 'tips' must be there; got none."),
        ("exit", "SystemExit: 3"),
    ],
)
def test_a_failure_is_one_message_and_its_stack_trace_is_in_the_log(
    failing_run: Any, kind: str, message: str
) -> None:
    error, shown, log = failing_run(*picky(kind))
    assert isinstance(error, TfxMobileError)
    assert (error.component, error.message) == ("Picky", message)
    assert str(error).splitlines() == [
        f"Component 'Picky' failed: {message}",
        f"The log is {error.log_file}.",
        "Finished components are kept: run again, and the pipeline continues after them.",
    ]
    assert error.__suppress_context__
    assert "Traceback" not in shown
    assert "Traceback (most recent call last):" in log


def test_a_failure_says_what_the_run_had_done(failing_run: Any) -> None:
    error, shown, _ = failing_run(*picky("data"))
    assert states(error.result) == {"Numbers": State.DONE, "Picky": State.FAILED}
    assert error.result.failed == "Picky"
    assert list(error.result.outputs) == ["Numbers"]
    assert "[2/2] Picky    failed" in shown
    assert "Done in" not in shown


def test_a_run_after_a_failure_keeps_what_was_finished(failing_run: Any) -> None:
    failing_run(*picky("data"))
    error, _, _ = failing_run(*picky("data"))
    assert states(error.result) == {"Numbers": State.CACHED, "Picky": State.FAILED}


def test_without_a_cache_the_hint_says_how_to_continue(failing_run: Any) -> None:
    error, _, _ = failing_run(*picky("data"), enable_cache=False)
    assert str(error).endswith(
        "Run again with enable_cache=True to continue after the components that finished."
    )
    error, _, _ = failing_run(*picky("data"))
    assert error.result.cached == 1


def test_components_after_the_failure_are_still_waiting(failing_run: Any) -> None:
    from tiny_components import Patient

    numbers, bad = picky("data")
    error, _, _ = failing_run(numbers, bad, Patient(model=bad.outputs["model"], flag="/nowhere"))
    assert states(error.result)["Patient"] is State.WAITING


def test_an_error_of_ours_in_a_beam_worker_reaches_the_user(failing_run: Any) -> None:
    from tiny_components import Rows

    error, _, log = failing_run(Rows(refuse=1))
    assert error.message == "Row 2 must be odd; got 2."
    assert "[while running 'ParDo(Refuse)" in log


def test_inputs_that_cannot_be_found_are_a_failure(failing_run: Any) -> None:
    # LocalDagRunner itself calls such a component finished, and goes on.
    from tfx import v1 as tfx
    from tiny_components import Patient

    artifacts = tfx.types.standard_artifacts
    latest = tfx.dsl.Resolver(
        strategy_class=tfx.dsl.experimental.LatestBlessedModelStrategy,
        model=tfx.dsl.Channel(type=artifacts.Model),
        model_blessing=tfx.dsl.Channel(type=artifacts.ModelBlessing),
    ).with_id("Latest")
    error, _, _ = failing_run(latest, Patient(model=latest.outputs["model"], flag="/nowhere"))
    assert error.component == "Patient"
    assert "inputs[model] has min_count = 1 but only got 0 artifacts." in error.message


def test_logging_is_as_before_after_a_failure(failing_run: Any) -> None:
    absl_logger = logging.getLogger("absl")
    before = list(logging.root.handlers), list(absl_logger.handlers), absl_logger.level, logging.root.level
    failing_run(*picky("data"))
    after = list(logging.root.handlers), list(absl_logger.handlers), absl_logger.level, logging.root.level
    assert after == before


# other ways to end


def test_a_component_whose_condition_is_false_is_skipped(tmp_path: Path) -> None:
    from tfx import v1 as tfx
    from tiny_components import Numbers, Total

    from tfx_mobile.orchestration import local

    numbers = Numbers(numbers="1 2")
    total = Total(examples=numbers.outputs["examples"])
    with tfx.dsl.Cond(total.outputs["model"].future()[0].custom_property("total") > 5):
        only_if = Total(examples=numbers.outputs["examples"]).with_id("OnlyIf")
    pipeline = local.local_pipeline("tiny", [numbers, total, only_if], tmp_path)
    result = local.run(pipeline, log_file=tmp_path / "run.log", stream=io.StringIO())
    assert states(result)["OnlyIf"] is State.SKIPPED
    assert "OnlyIf" not in result.outputs


# Beam


def test_a_beam_component_runs_at_once_whatever_the_programs_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiny_components import Rows

    from tfx_mobile.orchestration import local

    monkeypatch.setattr(sys, "argv", ["program", "-v", "not a number"])  # absl's -v takes a number
    pipeline = local.local_pipeline("tiny", [Rows()], tmp_path)
    result = local.run(pipeline, log_file=tmp_path / "run.log", stream=io.StringIO())
    (examples,) = result.outputs["Rows"]["examples"]
    assert sorted(Path(examples.uri, "numbers").read_text().split()) == ["1", "2", "3"]
    assert "sdist" not in (tmp_path / "run.log").read_text()


FNAPI = "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"
IMAGE = "--sdk_container_image=none"


@pytest.mark.parametrize(
    ("given", "added"),
    [
        ([], [FNAPI, IMAGE]),
        (["--direct_num_workers=2"], [FNAPI, IMAGE]),
        (["--runner=DirectRunner"], [IMAGE]),
        (["--runner", "direct"], [IMAGE]),
        ([FNAPI], [IMAGE]),
        (["--runner=FlinkRunner"], []),
        (["--runner=DataflowRunner", "--region=x"], []),
        (["--extra_package=a.tar.gz"], [FNAPI]),
        (["--sdk_container_image=mine"], [FNAPI]),
    ],
)
def test_beam_arguments_get_defaults_for_this_process_only(given: list[str], added: list[str]) -> None:
    from tfx_mobile.orchestration import local

    assert local.with_local_beam_defaults(given) == given + added


def test_with_the_defaults_tfx_does_not_pack_itself() -> None:
    from tfx.utils import dependency_utils

    from tfx_mobile.orchestration import local

    arguments = local.with_local_beam_defaults([])
    assert dependency_utils.make_beam_dependency_flags(arguments) == arguments


# the workspace


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "file"
    path.write_text("precious")
    yield path
    assert path.read_text() == "precious"


@pytest.mark.parametrize("below", ["", "deeper", "deeper/still"])
def test_a_workspace_that_is_a_file_is_refused(file: Path, below: str) -> None:
    from tfx_mobile.orchestration import local

    expected = f"The workspace must be a folder that can be written; got {file / below}: {file}"
    with pytest.raises(ConfigError, match=re.escape(expected)):
        local.local_pipeline("tiny", [], file / below)


def test_a_workspace_that_cannot_be_written_is_refused() -> None:
    from tfx_mobile.orchestration import local

    expected = "The workspace must be a folder that can be written; got /proc/tiny: "
    with pytest.raises(ConfigError, match=re.escape(expected)):
        local.local_pipeline("tiny", [], Path("/proc/tiny"))


def test_a_workspace_whose_metadata_is_a_folder_is_refused(tmp_path: Path) -> None:
    from tfx_mobile.orchestration import local

    (tmp_path / "metadata.sqlite").mkdir()
    expected = f"The workspace must be a folder that can be written; got {tmp_path}: Is a directory."
    with pytest.raises(ConfigError, match=re.escape(expected)):
        local.local_pipeline("tiny", [], tmp_path)


def test_a_workspace_may_be_named_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tfx_mobile.orchestration import local

    monkeypatch.chdir(tmp_path)
    pipeline = local.local_pipeline("tiny", [], Path("here/there"))
    assert pipeline.pipeline_info.pipeline_root == str(tmp_path / "here" / "there" / "artifacts")
    assert (tmp_path / "here" / "there").is_dir()


def test_a_log_that_cannot_be_written_is_refused_before_anything_runs(tmp_path: Path, file: Path) -> None:
    from tiny_components import Numbers

    from tfx_mobile.orchestration import local

    pipeline = local.local_pipeline("tiny", [Numbers(numbers="1")], tmp_path)
    with pytest.raises(ConfigError, match=re.escape("The log file must be writable; got ")):
        local.run(pipeline, log_file=file / "run.log", stream=io.StringIO())
    assert not (tmp_path / "artifacts").exists()
