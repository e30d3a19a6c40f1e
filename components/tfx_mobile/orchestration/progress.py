"""One line per component: a live table on a terminal, plain lines elsewhere. Knows nothing of TFX.

On a terminal the table shows every component from the start and counts the seconds of the running one.
Elsewhere (CI, a file, a pipe) a component gets one line when it ends, and a line a minute while it runs.
"""

import contextlib
import enum
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text


class State(enum.Enum):
    """What became of a component in this run; the value is what the user reads."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    CACHED = "cached, nothing to do"
    SKIPPED = "skipped"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class ComponentRun:
    """One component in one run.

    Attributes:
      id: The component's id in the pipeline.
      state: What became of it.
      seconds: How long it ran; 0 while it waits.
    """

    id: str
    state: State
    seconds: float = 0.0


class Progress:
    """Shows the state of each component; a context manager, which gives the terminal back on the way out.

    Args:
      ids: The components in the order they run.
      stream: Where to show it; a terminal gets the live table.
      heartbeat_seconds: Off a terminal, how often a running component says so; > 0.
      clock: Seconds from any fixed point.
    """

    def __init__(
        self,
        ids: Sequence[str],
        stream: TextIO,
        *,
        heartbeat_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runs = {id_: ComponentRun(id_, State.WAITING) for id_ in ids}
        self._stream = stream
        self._heartbeat_seconds = heartbeat_seconds
        self._clock = clock
        self._running: tuple[str, float] | None = None
        self._last_line = 0.0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._heartbeat: threading.Thread | None = None
        self._live: Live | None = None
        console = Console(file=stream)
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(
                console=console,
                get_renderable=self._table,
                redirect_stdout=False,
                redirect_stderr=False,
            )

    def __enter__(self) -> "Progress":
        """Shows the table, all components waiting."""
        if self._live:
            self._live.start(refresh=True)
        else:
            self._heartbeat = threading.Thread(target=self._beat, daemon=True)
            self._heartbeat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the last state of the table on the terminal, and the cursor visible."""
        self._stopped.set()
        if self._live:
            self._live.stop()
        if self._heartbeat:
            self._heartbeat.join()

    @property
    def running(self) -> str | None:
        """The id of the component that runs now."""
        return self._running[0] if self._running else None

    def components(self) -> tuple[ComponentRun, ...]:
        """Returns the components as they are now, in the order they run."""
        with self._lock:
            return tuple(self._now(run) for run in self._runs.values())

    def start(self, id_: str) -> None:
        """Notes that the component runs from now on."""
        with self._lock:
            self._runs[id_] = ComponentRun(id_, State.RUNNING)
            self._running = (id_, self._clock())
            self._last_line = self._clock()

    def end(self, id_: str, state: State) -> None:
        """Notes that the component has ended, and how."""
        with self._lock:
            self._runs[id_] = ComponentRun(id_, state, self._now(self._runs[id_]).seconds)
            self._running = None
            if not self._live:
                self._write_line(self._runs[id_])
        if self._live:  # not under our lock: Live has one too, and draws the table under it
            self._live.refresh()

    def _now(self, run: ComponentRun) -> ComponentRun:
        if self._running and self._running[0] == run.id:
            return ComponentRun(run.id, run.state, self._clock() - self._running[1])
        return run

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, min_width=_STATE_WIDTH)  # so that columns stay where they are
        table.add_column(no_wrap=True, min_width=len("59 min 59 s"), justify="right")
        for run in self.components():
            style = _STYLES[run.state]
            seconds = "" if run.state in _TIMELESS else duration(run.seconds)
            table.add_row(Text(run.id, style=style), Text(run.state.value, style=style), seconds)
        return table

    def _beat(self) -> None:
        while not self._stopped.wait(self._heartbeat_seconds / 60):
            with self._lock:
                if self._running and self._clock() - self._last_line >= self._heartbeat_seconds:
                    self._last_line = self._clock()
                    self._write_line(self._now(self._runs[self._running[0]]))

    def _write_line(self, run: ComponentRun) -> None:
        place = list(self._runs).index(run.id) + 1
        width = max(map(len, self._runs))
        total = str(len(self._runs))
        line = f"[{place:{len(total)}}/{total}] {run.id:{width}}  {run.state.value:{_STATE_WIDTH}}  "
        seconds = "" if run.state in _TIMELESS else duration(run.seconds)
        # A reader that has gone away (`| head`) must not stop hours of training.
        with contextlib.suppress(OSError):
            self._stream.write((line + seconds).rstrip() + "\n")
            self._stream.flush()


def duration(seconds: float) -> str:
    """Returns seconds as people read them.

    >>> duration(3.21), duration(125), duration(3725)
    ('3.2 s', '2 min 05 s', '1 h 02 min')
    """
    if seconds < 59.95:  # what rounds up to 60.0 is a minute
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


_TIMELESS = (State.WAITING, State.SKIPPED)
_STATE_WIDTH = max(len(state.value) for state in State)
_STYLES = {
    State.WAITING: "dim",
    State.RUNNING: "bold cyan",
    State.DONE: "green",
    State.CACHED: "blue",
    State.SKIPPED: "dim",
    State.STOPPED: "yellow",
    State.FAILED: "bold red",
}
