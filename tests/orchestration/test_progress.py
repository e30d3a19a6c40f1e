"""What the user sees while components run; no TFX here."""

import io
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tfx_mobile.orchestration.progress import ComponentRun, Progress, State, duration


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Terminal:
    """A real pseudo-terminal: what is written to `stream` can be read back as the user's screen gets it."""

    def __init__(self) -> None:
        self._reader, writer = pty.openpty()
        self.stream = os.fdopen(writer, "w", encoding="utf-8")

    def read(self) -> str:
        parts = []
        while select.select([self._reader], [], [], 0.2)[0]:
            parts.append(os.read(self._reader, 65536).decode())
        return "".join(parts)

    def shows(self, text: str) -> bool:
        """Returns whether the text comes within a minute."""
        seen, deadline = "", time.monotonic() + 60
        while text not in seen and time.monotonic() < deadline:
            seen += self.read()
        return text in seen

    def close(self) -> None:
        self.stream.close()
        os.close(self._reader)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    found = Terminal()
    yield found
    found.close()


def test_a_component_gets_one_plain_line_when_it_ends(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(["Gen", "Trainer"], stream, clock=clock) as progress:
        progress.start("Gen")
        assert stream.getvalue() == ""
        progress.end("Gen", State.CACHED)
        progress.start("Trainer")
        clock.now += 75
        progress.end("Trainer", State.DONE)
    assert stream.getvalue().splitlines() == [
        "[1/2] Gen      cached, nothing to do  0.0 s",
        "[2/2] Trainer  done                   1 min 15 s",
    ]


def test_a_component_that_did_not_run_has_no_seconds() -> None:
    stream = io.StringIO()
    with Progress(["Gen"], stream) as progress:
        progress.start("Gen")
        progress.end("Gen", State.SKIPPED)
    assert stream.getvalue() == "[1/1] Gen  skipped\n"


def test_a_long_component_says_that_it_still_runs() -> None:
    stream = io.StringIO()
    with Progress(["Gen", "Trainer"], stream, heartbeat_seconds=0.05) as progress:
        progress.start("Trainer")
        deadline = time.monotonic() + 60
        while stream.getvalue().count("running") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        progress.end("Trainer", State.DONE)
    *beats, last = stream.getvalue().splitlines()
    assert len(beats) >= 2
    assert all(line.startswith("[2/2] Trainer  running ") for line in beats)
    assert last.startswith("[2/2] Trainer  done ")


def test_a_short_component_has_no_line_of_its_running(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(["Gen"], stream, heartbeat_seconds=30, clock=clock) as progress:
        progress.start("Gen")
        time.sleep(1.1)  # two looks at the clock, one every 0.5 s
        progress.end("Gen", State.DONE)
    assert stream.getvalue().count("\n") == 1


def test_components_are_known_from_the_start_and_in_order(clock: Clock) -> None:
    with Progress(["Gen", "Trainer", "Pusher"], io.StringIO(), clock=clock) as progress:
        progress.start("Gen")
        clock.now += 2
        progress.end("Gen", State.DONE)
        progress.start("Trainer")
        clock.now += 3
        assert progress.running == "Trainer"
        assert progress.components() == (
            ComponentRun("Gen", State.DONE, 2.0),
            ComponentRun("Trainer", State.RUNNING, 3.0),
            ComponentRun("Pusher", State.WAITING, 0.0),
        )
        progress.end("Trainer", State.FAILED)
        assert progress.running is None


def test_a_terminal_shows_every_component_with_its_state(terminal: Terminal, clock: Clock) -> None:
    with Progress(["Gen", "Trainer"], terminal.stream, clock=clock) as progress:
        first = terminal.read()
        progress.start("Gen")
        clock.now += 4.5
        progress.end("Gen", State.DONE)
        second = terminal.read()
    assert first.count("waiting") >= 2
    last_table = second[second.rindex("Gen") :]
    assert "done" in last_table
    assert "4.5 s" in last_table
    assert "waiting" in last_table


def test_a_terminal_counts_the_seconds_of_what_runs(terminal: Terminal, clock: Clock) -> None:
    with Progress(["Trainer"], terminal.stream, clock=clock) as progress:
        progress.start("Trainer")
        clock.now += 65
        assert terminal.shows("1 min 05 s")  # the table is drawn four times a second


def test_the_cursor_comes_back_after_an_exception(terminal: Terminal) -> None:
    hide, show = "\x1b[?25l", "\x1b[?25h"

    def interrupted() -> None:
        with Progress(["Trainer"], terminal.stream) as progress:
            progress.start("Trainer")
            raise KeyboardInterrupt("Ctrl-C")

    with pytest.raises(KeyboardInterrupt, match=re.escape("Ctrl-C")):
        interrupted()
    seen = terminal.read()
    assert hide in seen
    assert seen.rindex(show) > seen.rindex(hide)


def test_a_terminal_without_cursor_movement_gets_plain_lines(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with Progress(["Gen"], terminal.stream) as progress:
        progress.start("Gen")
        progress.end("Gen", State.DONE)
    assert "\x1b" not in (seen := terminal.read())
    assert seen.startswith("[1/1] Gen  done")


def test_a_reader_that_has_gone_away_does_not_stop_the_run() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    with Progress(["Gen"], stream) as progress:
        progress.start("Gen")
        progress.end("Gen", State.DONE)
        assert progress.components()[0].state is State.DONE
    os.dup2(os.open(os.devnull, os.O_WRONLY), writer)  # so that closing can flush
    stream.close()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (60, "1 min 00 s"),
        (3599.4, "59 min 59 s"),
        (3599.9, "1 h 00 min"),
        (7384, "2 h 03 min"),
    ],
)
def test_seconds_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_progress_needs_no_tfx() -> None:
    source = (
        "import sys; sys.modules['tfx'] = sys.modules['tensorflow'] = sys.modules['apache_beam'] = None\n"
        "from tfx_mobile.orchestration import failure, progress, run_log"
    )
    subprocess.run([sys.executable, "-c", source], check=True, cwd=Path(__file__).parent)
