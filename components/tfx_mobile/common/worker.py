"""Runs functions in Python processes of their own, and gives back what they return or raise.

For what a process can have only one of: TensorFlow's threads, a limit of memory, the choice of Keras, ops
that are deterministic; and for code that may take its process down. `run` calls one function in a fresh
process; `run_each` calls it for many arguments in a few processes that are used again. Arguments and results
are JSON. A process imports what its parent can import, but not the parent's main script; what it writes goes
to the parent's standard output and error; it ends when its parent does. Knows nothing of what is run, nor of
TensorFlow.

A process is told what to do through its standard input: a byte for each job, whose arguments are in a file.
It tells through a pipe that it is ready and that a result is in a file. Its standard error is a file that the
parent copies to its own, so that what a job wrote last is known when it takes the process down.
"""

import collections
import contextlib
import faulthandler
import importlib
import json
import logging
import math
import os
import queue
import re
import select
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfx_mobile.common.errors import ConfigError, DataError, RegistryError

_SETTINGS = "settings.json"
_JOB = "job.json"
_RESULT = "result.json"
_ERRORS = "stderr"
_DO, _END = b"j", b"e"  # to a process
_READY, _DONE = b"s", b"r"  # from it
_MIB = 2**20
_START_SECONDS = 600.0  # to start and import, if jobs have a limit: a cold TFX takes more than a minute
_GRACE_SECONDS = 5.0  # between a polite and an impolite end
_LOOK_SECONDS = 0.2  # between two looks at what processes wrote and whether they live
_PARENT_CHECK_SECONDS = 1.0
_CODE_WITHOUT_PARENT = 70
_REASON_LENGTH = 300
_TAIL_BYTES = 2**16  # of standard error, in which a reason is looked for
# Not `-m`, which has the working folder before the standard library, and this module a second time.
_START = (
    "import sys; sys.path[:] = sys.argv[3:]; from tfx_mobile.common import worker; "
    "worker.main(sys.argv[1], int(sys.argv[2]))"
)
_KINDS = {kind.__name__: kind for kind in (ConfigError, DataError, RegistryError)}
_OUT_OF_MEMORY = ("MemoryError", "ResourceExhaustedError")  # Python and NumPy; TensorFlow
_NO_REASON = re.compile(
    r"#\d+ |@ +0x|\*\*\*|Stack dump|PLEASE |INFO: |I\d{4} |[\d:. -]+ I "
)  # stacks, information
_LOGGER = logging.getLogger(__name__)


class WorkerError(RuntimeError):
    """A worker died, or raised an error that is not one of ours; then its traceback is in the message."""


def run(
    function: str,
    arguments: Mapping[str, Any],
    *,
    environment: Mapping[str, str] | None = None,
    num_threads: int = 0,
    max_memory_mib: int = 0,
) -> Any:
    """Calls a function in a fresh process and returns its value.

    Hashes are not randomised there (`PYTHONHASHSEED` is 0), so that sets have the same order in every run. An
    interrupt (Ctrl-C) ends the process before it goes on.

    Args:
      function: Dotted name, 'module.function' or 'module:function'; it must be importable here.
      arguments: Its keyword arguments, as JSON values: a tuple arrives as a list.
      environment: Added to this process's environment variables.
      num_threads: Of each of TensorFlow's two pools, and of OpenMP and OpenBLAS; 0 leaves it to them.
      max_memory_mib: The process is refused more private memory than this (on Linux); 0 is no limit.
        TensorFlow itself needs about 500.

    Returns:
      What the function returned, through JSON: keys are strings, tuples are lists.

    Raises:
      ConfigError: The function raised it, or needs more memory than `max_memory_mib`. Its cause is a
        WorkerError with the worker's traceback.
      DataError: The function raised it; likewise.
      RegistryError: The function raised it; likewise.
      WorkerError: The function raised something else, cannot be imported, or its process died.
    """
    outcomes = run_each(
        function,
        [arguments],
        num_processes=1,
        timeout_seconds=math.inf,
        environment=environment,
        num_threads=num_threads,
        max_memory_mib=max_memory_mib,
    )
    [(_, outcome)] = list(outcomes)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def run_each(
    function: str,
    jobs: Sequence[Mapping[str, Any]],
    *,
    num_processes: int,
    timeout_seconds: float,
    environment: Mapping[str, str] | None = None,
    num_threads: int = 0,
    max_memory_mib: int = 0,
) -> Generator[tuple[int, Any | Exception], None, None]:
    """Calls a function once for each job, in a few processes that take one job after another.

    A job that takes its process down, needs too much memory or too long costs that job only: its process is
    replaced and the others go on. What a job leaves behind in its process (a seed, a cache, a counter of
    names) is there for the next one, and which job that is depends on `num_processes` and on time: a function
    whose result depends on it has to put it in order itself.

    Nothing happens until the first outcome is asked for, and jobs are handed out only while one is waited
    for. Closing the iterator ends all processes, and so does an exception that passes through it (Ctrl-C): a
    caller who may stop early wraps it in `contextlib.closing`.

    Args:
      function: As for `run`. What its module imports is part of a process's start.
      jobs: The function's keyword arguments, as JSON values; each is one job.
      num_processes: At most so many at a time; >= 1.
      timeout_seconds: For one job, > 0; the start of its process, with the import, does not count.
      environment: As for `run`.
      num_threads: Likewise, of each process.
      max_memory_mib: Likewise, of each process.

    Yields:
      The position of a job and its outcome, in the order in which jobs end: what the function returned,
      through JSON, or the exception that `run` would raise.

    Raises:
      ConfigError: A setting is out of range.
    """
    if num_processes < 1:
        raise ConfigError(f"num_processes must be at least 1; got {num_processes}.")
    if not timeout_seconds > 0:
        raise ConfigError(f"timeout_seconds must be more than 0; got {timeout_seconds}.")
    settings = {"function": function, "max_memory_mib": max_memory_mib, "absl_verbosity": _absl_verbosity()}
    variables = _environment(num_threads) | dict(environment or {})
    contents = collections.deque(enumerate(json.dumps(dict(arguments)) for arguments in jobs))
    return _run_each(contents, num_processes, lambda: _Process(settings, variables, timeout_seconds))


def main(folder: str, report: int) -> None:
    """What a worker process does; see `run_each`.

    Args:
      folder: Has the settings and the jobs; results go there.
      report: File descriptor that is told of them.
    """
    faulthandler.enable()
    os.set_inheritable(report, False)
    orders = _orders(folder)
    # Ctrl-C reaches the parent too, which decides. SIG_IGN would be inherited by what is started from here.
    signal.signal(signal.SIGINT, lambda *_: None)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a pipe's reader wants it live
    settings = json.loads(Path(folder, _SETTINGS).read_text())
    if settings["max_memory_mib"]:
        _limit_memory(settings["max_memory_mib"] * _MIB)
    function = _load(settings["function"], settings["absl_verbosity"])
    os.write(report, _READY)
    while orders.get() == _DO:
        result = _call(function, json.loads(Path(folder, _JOB).read_text()))
        unfinished = Path(folder, f".{_RESULT}")
        unfinished.write_text(result)
        os.replace(unfinished, Path(folder, _RESULT))
        os.write(report, _DONE)


def last_words(errors: str) -> str:
    """Returns the line of a process's standard error that most likely says why it died; '' if none does.

    That is the last line that speaks of an error, or else the last one at all; what Python's fault handler
    and LLVM add after it (stacks) does not count, nor does what TensorFlow logs as information.

    Args:
      errors: What it wrote.

    Returns:
      One line, at most 300 characters.
    """
    lines = [line.strip() for line in re.split(r"[\r\n]+", errors.partition("Fatal Python error:")[0])]
    lines = [line for line in lines if line and not _NO_REASON.match(line)]
    speaking = [line for line in lines if re.search(r"error|fail|fatal|abort|assert|what\(\)", line, re.I)]
    return (speaking or lines or [""])[-1][:_REASON_LENGTH]


def describe_end(code: int) -> str:
    """Returns how a process ended, for example 'ended with code 3' or 'died with SIGSEGV'.

    Args:
      code: Its exit code; minus a signal's number for one that was killed.
    """
    if code >= 0:
        return f"ended with code {code}"
    with contextlib.suppress(ValueError):
        return f"died with {signal.Signals(-code).name}"
    return f"died with signal {-code}"


def _run_each(
    left: collections.deque[tuple[int, str]], num_processes: int, start: Callable[[], "_Process"]
) -> Generator[tuple[int, Any | Exception], None, None]:
    crew: list[_Process] = []
    try:
        while left or any(process.is_busy for process in crew):
            for process in [each for each in crew if each.has_ended and not each.is_busy]:
                crew.remove(process)
                process.finish()
                process.end()
            while left and len([each for each in crew if each.is_busy]) < num_processes:
                idle = next((each for each in crew if not each.is_busy), None)
                if idle is None:
                    crew.append(idle := start())
                idle.give(*left.popleft())
            for process in _wait([each for each in crew if each.is_busy]):
                yield process.take()
        for process in crew:
            process.dismiss()
        for process in crew:
            process.finish()
    finally:
        for process in crew:
            process.terminate()
        for process in crew:
            process.end(_GRACE_SECONDS)


def _wait(busy: Sequence["_Process"]) -> "list[_Process]":
    """Waits until at least one of the processes has done its job, or cannot do it any more."""
    with selectors.DefaultSelector() as selector:
        for process in busy:
            selector.register(process.report, selectors.EVENT_READ)
        while True:
            selector.select(_LOOK_SECONDS)
            if over := [process for process in busy if process.look()]:
                return over


class _Process:
    """The parent's side of one worker process.

    Args:
      settings: What it has to know before the first job.
      environment: Added to this process's.
      timeout_seconds: For one job.

    Attributes:
      report: Readable when the process has something to say.
      is_busy: Whether it has a job whose outcome was not taken.
    """

    def __init__(
        self, settings: Mapping[str, Any], environment: Mapping[str, str], timeout_seconds: float
    ) -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):  # none, or closed
                stream.flush()
        self.is_busy = False
        self._settings, self._timeout_seconds = settings, timeout_seconds
        self._position, self._reason_from, self._copied = 0, 0, 0
        self._is_ready, self._is_lost, self._overran = False, False, ""
        with contextlib.ExitStack() as stack:
            self._folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tfx-mobile-worker-"))
            Path(self._folder, _SETTINGS).write_text(json.dumps(settings))
            self._errors = stack.enter_context(open(Path(self._folder, _ERRORS), "a+b", buffering=0))
            self.report, theirs = os.pipe()
            stack.callback(os.close, self.report)
            os.set_blocking(self.report, False)
            path = [os.path.abspath(entry) for entry in sys.path]  # an empty entry is the working folder
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _START, self._folder, str(theirs), *path],
                    env={**os.environ, **environment},
                    stdin=subprocess.PIPE,  # its end tells the worker that this process is gone
                    stderr=self._errors,
                    pass_fds=[theirs],
                    bufsize=0,
                )
            finally:
                os.close(theirs)
            self._owned = stack.pop_all()
        self._deadline = time.monotonic() + _START_SECONDS

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def give(self, position: int, arguments: str) -> None:
        self._copy_errors()
        self._reason_from = self._copied
        self.is_busy, self._position = True, position
        Path(self._folder, _RESULT).unlink(missing_ok=True)
        Path(self._folder, _JOB).write_text(arguments)
        if self._is_ready:
            self._deadline = time.monotonic() + self._timeout_seconds
        self._tell(_DO)

    def look(self) -> bool:
        """Returns whether the job is over; a process that overran its time is killed."""
        self._copy_errors()
        has_ended = self.has_ended  # before the reports are read: what comes after them is its last one
        with contextlib.suppress(BlockingIOError):
            said = os.read(self.report, 16)
            if _READY in said:
                self._is_ready = True
                self._deadline = time.monotonic() + self._timeout_seconds
            if _DONE in said:
                return True
            if not said:  # it is about to end, or has closed what is not its own
                self._end_within(_GRACE_SECONDS)
                return True
        if not has_ended and time.monotonic() > self._deadline and not math.isinf(self._timeout_seconds):
            what, seconds = ("end", self._timeout_seconds) if self._is_ready else ("start", _START_SECONDS)
            self._overran = f"{what} within {seconds:g} s"
            self._end_within(0)
            return True
        return has_ended

    def take(self) -> tuple[int, Any | Exception]:
        """Returns the position and the outcome of the job that is over."""
        self.is_busy = False
        self._copy_errors()
        try:
            result = json.loads(Path(self._folder, _RESULT).read_bytes())
        except FileNotFoundError:
            self._is_lost = True
            return self._position, WorkerError(self._death())
        if "value" in result:
            return self._position, result["value"]
        if result["out_of_memory"]:
            self._is_lost = True  # what is left of its memory is no fair share for the next job
            self._end_within(0)
        return self._position, self._error(result)

    def dismiss(self) -> None:
        """Tells an idle process that there are no more jobs."""
        self._tell(_END)

    def finish(self) -> None:
        """Waits until a process that has no job ends by itself."""
        code = self._end_within(self._timeout_seconds)
        if code != 0 and not self._is_lost:
            _LOGGER.warning(
                "The worker of %s %s after it was done.", self._settings["function"], describe_end(code)
            )

    def terminate(self) -> None:
        self._process.terminate()

    def end(self, grace_seconds: float = 0.0) -> None:
        """Ends the process and leaves nothing of it; may be called once."""
        self._end_within(grace_seconds)
        if self._process.stdin:
            self._process.stdin.close()
        self._copy_errors()
        self._owned.close()

    def _end_within(self, seconds: float) -> int:
        """Returns the code of the process, which is killed if it has not ended by then."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(None if math.isinf(seconds) else seconds)
        self._process.kill()
        return self._process.wait()

    def _tell(self, order: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has just died, which is seen when it is waited for
            if self._process.stdin:
                self._process.stdin.write(order)

    def _copy_errors(self) -> None:
        """Writes to this process's standard error what the worker has added to its own."""
        while chunk := os.pread(self._errors.fileno(), _TAIL_BYTES, self._copied):
            self._copied += len(chunk)
            with contextlib.suppress(OSError):  # ours is closed or full, as it would have been for the worker
                while chunk:
                    chunk = chunk[os.write(2, chunk) :]

    def _death(self) -> str:
        code, limit = self._process.returncode, self._settings["max_memory_mib"]
        start = max(self._reason_from, self._copied - _TAIL_BYTES)
        reason = last_words(os.pread(self._errors.fileno(), _TAIL_BYTES, start).decode(errors="replace"))
        advice = f"It wrote: {reason}" if reason else "What it wrote last is in the log."
        if self._overran:
            return (
                f"{self._settings['function']} must {self._overran}; got a worker process that had to be "
                f"killed. {advice}"
            )
        if code < 0 and (not reason or code == -signal.SIGKILL):
            known = f"the limit is max_memory_mib = {limit}" if limit else "there is no max_memory_mib"
            advice = (
                f"Memory may be the reason ({known}): smaller batches and a smaller cache need less. {advice}"
            )
        how = describe_end(code)
        return f"{self._settings['function']} must return; got a worker process that {how}. {advice}"

    def _error(self, result: Mapping[str, str]) -> Exception:
        function, limit = self._settings["function"], self._settings["max_memory_mib"]
        trouble = WorkerError(f"{function} failed in its worker process.\n{result['traceback']}")
        error: Exception = trouble
        if result["out_of_memory"] and limit:
            error = ConfigError(
                f"{function} must do with max_memory_mib = {limit}; got {result['out_of_memory']}. "
                "Raise max_memory_mib, or use less: smaller batches, a smaller cache, a smaller model."
            )
        elif result["kind"] in _KINDS:
            error = _KINDS[result["kind"]](result["message"])
        if error is not trouble:
            error.__cause__ = trouble
        return error


def _load(function: str, absl_verbosity: int | None) -> Callable[..., Any]:
    """Returns the function, or one that raises for each job why it cannot be had."""
    try:
        if absl_verbosity is not None:
            importlib.import_module("absl.logging").set_verbosity(absl_verbosity)
        module, _, name = function.replace(":", ".").rpartition(".")
        return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]
    except BaseException as error:
        reason = error

    def fail(**_: Any) -> None:
        raise reason

    return fail


def _call(function: Callable[..., Any], arguments: Mapping[str, Any]) -> str:
    try:
        return json.dumps({"value": function(**arguments)})
    except BaseException as error:  # handed to the parent, a SystemExit too
        kinds = [kind.__name__ for kind in type(error).__mro__]
        memory = any(kind in kinds for kind in _OUT_OF_MEMORY)
        last_line = traceback.format_exception_only(type(error), error)[-1].strip()
        return json.dumps(
            {
                "kind": next((kind for kind in kinds if _KINDS.get(kind) in type(error).__mro__), ""),
                "message": str(error),
                "out_of_memory": last_line if memory else "",
                "traceback": traceback.format_exc().rstrip(),
            }
        )


def _environment(num_threads: int) -> dict[str, str]:
    found = {"PYTHONHASHSEED": "0"}
    if num_threads:
        names = (
            "TF_NUM_INTRAOP_THREADS",
            "TF_NUM_INTEROP_THREADS",
            "OMP_NUM_THREADS",
            "OPENBLAS_NUM_THREADS",
        )
        found |= dict.fromkeys(names, str(num_threads))
    return found


def _absl_verbosity() -> int | None:
    """Returns absl's level, None if nothing here has imported absl."""
    absl_logging = sys.modules.get("absl.logging")
    return None if absl_logging is None else int(absl_logging.get_verbosity())


def _orders(folder: str) -> queue.SimpleQueue[bytes]:
    """Returns the parent's orders as they come; ends this process soon after its parent, killed or not."""
    pipe, parent = os.dup(0), os.getppid()
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    orders: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def watch() -> None:
        # The other end may be open in a process that the parent forked: hence the second look.
        while os.getppid() == parent:
            if select.select([pipe], [], [], _PARENT_CHECK_SECONDS)[0]:
                order = os.read(pipe, 1)
                if not order:
                    break
                orders.put(order)
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(_CODE_WITHOUT_PARENT)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
    return orders


def _limit_memory(limit_bytes: int) -> None:
    import resource  # not on Windows, where there is no limit to be had

    # RLIMIT_AS would count what TensorFlow only reserves and maps: four times what it uses.
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
