"""A worker: values, errors, deaths, limits, and that it never outlives its parent."""

import contextlib
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from absl import logging as absl_logging
from tests.descriptors import unchanged_descriptors

from tfx_mobile.common import worker
from tfx_mobile.common.errors import ConfigError, DataError, RegistryError
from tfx_mobile.common.worker import WorkerError
from tfx_mobile.orchestration import failure

FUNCTIONS = """
import builtins, os, resource, signal, sys, time
from tfx_mobile.common import errors


class StrictError(errors.DataError):
    pass


def same(**arguments):
    return arguments


def surroundings():
    return {
        "path": sys.path,
        "variables": dict(os.environ),
        "main": sys.modules["__main__"].__dict__.get("__file__"),
        "hash_randomised": bool(sys.flags.hash_randomization),
        "process": os.getpid(),
        "folder": os.getcwd(),
        "standard_input": sys.stdin.read(),
    }


def fail(kind, message):
    raise getattr(errors if hasattr(errors, kind) else builtins, kind)(message)


def fail_strictly(message):
    try:
        raise KeyError("inner")
    except KeyError as error:
        raise StrictError(message) from error


def die(number):
    os.kill(os.getpid(), number)
    time.sleep(60)


def exit_at_once():
    os._exit(3)


def exit_after(seconds):
    if seconds:
        time.sleep(seconds)
        os._exit(3)


def end(code):
    sys.exit(code)


def crash_when_done():
    import atexit
    atexit.register(os.kill, os.getpid(), signal.SIGKILL)
    return 5


def not_json():
    return {1, 2}


def speak():
    print("to standard output")
    print("to standard error", file=sys.stderr)
    from absl import logging as absl_logging
    absl_logging.info("an INFO line")
    absl_logging.debug("a DEBUG line")


def speak_and_wait(note):
    print("live")
    wait(note)


def allocate(mib):
    import numpy
    return int(numpy.ones(mib << 20, numpy.uint8).nbytes)


def train_and_allocate(mib):
    import tensorflow as tf
    import tf_keras
    model = tf_keras.Sequential([tf_keras.layers.Dense(8), tf_keras.layers.Dense(1)])
    model.compile("adam", "mse")
    model.fit(tf.ones((64, 4)), tf.ones((64, 1)), verbose=0)
    square = tf.random.normal((1500, 1500))
    cpu, wall = time.process_time(), time.monotonic()
    for _ in range(10):
        square = tf.linalg.matmul(square, square) * 1e-4
    square.numpy()
    print("cores", (time.process_time() - cpu) / (time.monotonic() - wall))
    return int(tf.size(tf.ones((mib, 2**18))))


def square(number, note=""):
    if note:
        wait(note)
    return {"square": number * number, "process": os.getpid()}


def complain(words, number=0, **_):
    for line in words:
        print(line, file=sys.stderr)
    if number:
        os.kill(os.getpid(), number)
    return os.getpid()


def act(what, **arguments):
    return globals()[what](**arguments)


def nap(seconds):
    time.sleep(seconds)
    return os.getpid()


def hang_at_the_end():
    import atexit
    atexit.register(time.sleep, 120)


def let_go():
    os.closerange(3, 100)
    time.sleep(120)


def limit():
    return resource.getrlimit(resource.RLIMIT_DATA)[0]


def wait(note):
    with open(note + ".part", "w") as stream:
        stream.write(str(os.getpid()))
    os.replace(note + ".part", note)
    time.sleep(120)
"""


@pytest.fixture(autouse=True)
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that only this process's path leads to."""
    folder = tmp_path / "only here"
    folder.mkdir()
    (folder / "worker_functions.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_values_go_there_and_back() -> None:
    value = {"text": "ä\u2028\udc80", "number": 0.1, "whole": 2**70, "none": None, "list": [True, {"a": []}]}
    assert worker.run("worker_functions.same", value) == value
    assert worker.run("worker_functions:same", {"tuple": (1, 2)}) == {"tuple": [1, 2]}


def test_the_process_is_a_new_one_with_our_path_and_without_our_main_script(
    functions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (functions / "json.py").write_text("raise RuntimeError('a module of the working folder')")
    monkeypatch.chdir(functions)
    monkeypatch.setenv("A", "ours")
    monkeypatch.setattr(sys, "path", [*sys.path[1:], sys.path[0]])  # the standard library before it
    found = worker.run(
        "worker_functions.surroundings", {}, environment={"TF_USE_LEGACY_KERAS": "1", "A": "b"}, num_threads=3
    )
    assert found["process"] != os.getpid()
    assert found["path"] == [os.path.abspath(entry) for entry in sys.path]
    assert found["folder"] == str(functions)
    assert found["main"] is None
    assert not found["hash_randomised"]
    assert found["standard_input"] == ""
    variables = found["variables"]
    threads = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    assert [variables[name] for name in threads] == ["3"] * 4
    assert (variables["A"], variables["PATH"]) == ("b", os.environ["PATH"])
    assert "PYTHONPATH" not in variables or variables["PYTHONPATH"] == os.environ.get("PYTHONPATH")


@pytest.mark.parametrize("kind", [ConfigError, DataError, RegistryError])
def test_our_errors_arrive_as_they_were_with_the_traceback_as_their_cause(kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"\Aa rule; got\nthis\Z") as caught:
        worker.run("worker_functions.fail", {"kind": kind.__name__, "message": "a rule; got\nthis"})
    assert type(caught.value) is kind
    cause = str(caught.value.__cause__)
    assert isinstance(caught.value.__cause__, WorkerError)
    assert cause.startswith("worker_functions.fail failed in its worker process.\nTraceback (most recent")
    assert "in fail" in cause
    assert failure.message(caught.value) == "a rule; got\nthis"


def test_a_kind_of_our_errors_arrives_as_the_one_we_know() -> None:
    with pytest.raises(DataError, match=r"\Astrict\Z") as caught:
        worker.run("worker_functions.fail_strictly", {"message": "strict"})
    assert type(caught.value) is DataError
    assert "KeyError: 'inner'" in str(caught.value.__cause__)


def test_other_errors_say_where_they_were_raised() -> None:
    with pytest.raises(WorkerError) as caught:
        worker.run("worker_functions.fail", {"kind": "IndexError", "message": "no such row"})
    lines = str(caught.value).splitlines()
    assert lines[:2] == [
        "worker_functions.fail failed in its worker process.",
        "Traceback (most recent call last):",
    ]
    assert lines[-1] == "IndexError: no such row"
    assert re.search(r'File ".*worker_functions.py", line \d+, in fail', str(caught.value))
    assert failure.message(caught.value) == "IndexError: no such row"


@pytest.mark.parametrize(
    ("function", "last_line"),
    [
        ("worker_functions.not_there", "has no attribute 'not_there'"),
        ("no_such_module:function", "No module named 'no_such_module'"),
        ("worker_functions.not_json", "Object of type set is not JSON serializable"),
    ],
)
def test_what_cannot_be_called_or_given_back_is_an_error(function: str, last_line: str) -> None:
    with pytest.raises(WorkerError) as caught:
        worker.run(function, {})
    assert str(caught.value).endswith(last_line)


def test_a_function_that_ends_the_process_politely_is_an_error() -> None:
    with pytest.raises(WorkerError, match=r"\nSystemExit: 0\Z"):
        worker.run("worker_functions.end", {"code": 0})


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
def test_a_death_by_a_signal_names_it_and_the_function_and_the_memory(number: signal.Signals) -> None:
    message = (
        f"worker_functions.die must return; got a worker process that died with {number.name}. Memory may be "
        "the reason (the limit is max_memory_mib = 900): smaller batches and a smaller cache need less. "
        "What it wrote last is in the log."
    )
    with pytest.raises(WorkerError, match=f"^{re.escape(message)}$"):
        worker.run("worker_functions.die", {"number": number}, max_memory_mib=900)


def test_a_death_without_a_limit_says_that_there_is_none() -> None:
    with pytest.raises(WorkerError, match=re.escape("(there is no max_memory_mib)")):
        worker.run("worker_functions.die", {"number": signal.SIGKILL})


def test_an_end_without_a_result_names_the_code() -> None:
    message = (
        "worker_functions.exit_at_once must return; got a worker process that ended with code 3. "
        "What it wrote last is in the log."
    )
    with pytest.raises(WorkerError, match=f"^{re.escape(message)}$"):
        worker.run("worker_functions.exit_at_once", {})


def test_a_death_after_the_work_does_not_lose_it(caplog: pytest.LogCaptureFixture) -> None:
    assert worker.run("worker_functions.crash_when_done", {}) == 5
    assert said(caplog) == [
        "The worker of worker_functions.crash_when_done died with SIGKILL after it was done."
    ]


def test_more_memory_than_allowed_is_refused_by_the_name_of_the_setting() -> None:
    with pytest.raises(ConfigError) as caught:
        worker.run("worker_functions.allocate", {"mib": 3072}, max_memory_mib=500)
    assert re.fullmatch(
        r"worker_functions\.allocate must do with max_memory_mib = 500; got .*MemoryError: Unable to "
        r"allocate 3\.00 GiB .*\. Raise max_memory_mib, or use less: smaller batches, a smaller cache, a "
        r"smaller model\.",
        str(caught.value),
    )
    assert worker.run("worker_functions.allocate", {"mib": 50}, max_memory_mib=500) == 50 << 20
    assert worker.run("worker_functions.limit", {}, max_memory_mib=500) == 500 << 20


@pytest.mark.pipeline
def test_tensorflow_trains_within_limits_and_is_refused_more(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        worker.run(
            "worker_functions.train_and_allocate",
            {"mib": 3072},
            environment={"TF_USE_LEGACY_KERAS": "1"},
            num_threads=1,
            max_memory_mib=1000,
        )
    assert "max_memory_mib = 1000; got tensorflow.python.framework.errors_impl.ResourceExhausted" in str(
        caught.value
    )
    assert float(capfd.readouterr().out.split("cores ")[1].split()[0]) < 1.3  # two and more without a limit


def test_memory_that_runs_out_without_our_limit_is_not_blamed_on_the_setting() -> None:
    with pytest.raises(WorkerError, match=r"\nMemoryError: none left\Z"):
        worker.run("worker_functions.fail", {"kind": "MemoryError", "message": "none left"})


@pytest.mark.parametrize("verbosity", [absl_logging.INFO, absl_logging.WARNING])
def test_what_it_writes_goes_where_ours_goes(verbosity: int, capfd: pytest.CaptureFixture[str]) -> None:
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(verbosity)
    try:
        worker.run("worker_functions.speak", {})
    finally:
        absl_logging.set_verbosity(before)
    found = capfd.readouterr()
    assert found.out == "to standard output\n"
    assert found.err.startswith("to standard error\n")
    assert ("an INFO line" in found.err) == (verbosity == absl_logging.INFO)
    assert "a DEBUG line" not in found.err


PARENT = """
import sys
sys.path.insert(0, {functions!r})
from tfx_mobile.common import worker
open({script_runs!r}, "a").write("x")
try:
    worker.run({function!r}, {{"note": {note!r}}})
except KeyboardInterrupt:
    print("interrupted", flush=True)
    raise SystemExit(7)
"""


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def wait_for(condition: Callable[[], bool]) -> bool:
    """For a minute; what is left alone would take two."""
    end = time.monotonic() + 60
    while not (is_met := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return is_met


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged; asyncio is told of what an earlier test left, as it is collected."""
    return [record.getMessage() for record in caplog.records if record.name != "asyncio"]


@contextlib.contextmanager
def parent_of_a_worker(
    functions: Path, tmp_path: Path, function: str = "worker_functions.wait"
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that runs a worker which waits; and the worker's process."""
    note = tmp_path / "note"
    script = tmp_path / "main_script.py"
    values = {"functions": str(functions), "function": function, "note": str(note)}
    script.write_text(textwrap.dedent(PARENT).format(**values, script_runs=str(tmp_path / "runs")))
    (tmp_path / "tmp").mkdir()
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PYTHONUNBUFFERED": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert wait_for(note.exists)
        child = int(note.read_text())
        assert is_alive(child)
        yield parent, child
    finally:
        parent.kill()
        parent.communicate()


def test_a_worker_ends_when_its_parent_is_killed(functions: Path, tmp_path: Path) -> None:
    with parent_of_a_worker(functions, tmp_path) as (parent, child):
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert wait_for(lambda: not is_alive(child))
    assert (tmp_path / "runs").read_text() == "x"  # the script was not run again by the worker
    assert wait_for(lambda: not list((tmp_path / "tmp").iterdir()))


def test_an_interrupt_ends_the_worker_and_goes_on(functions: Path, tmp_path: Path) -> None:
    with parent_of_a_worker(functions, tmp_path) as (parent, child):
        os.kill(child, signal.SIGINT)  # a terminal sends it to both
        time.sleep(0.3)
        assert is_alive(child)
        parent.send_signal(signal.SIGINT)
        out, err = parent.communicate(timeout=120)
        assert (parent.returncode, out, err) == (7, "interrupted\n", "")
        assert not is_alive(child)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_what_it_prints_is_there_while_it_runs(functions: Path, tmp_path: Path) -> None:
    with parent_of_a_worker(functions, tmp_path, "worker_functions.speak_and_wait") as (parent, child):
        assert parent.stdout
        assert parent.stdout.readline() == "live\n"
        assert is_alive(child)


def test_a_run_leaves_no_file_and_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    with unchanged_descriptors():
        worker.run("worker_functions.same", {})
        with pytest.raises(DataError, match=r"\Ax\Z"):
            worker.run("worker_functions.fail", {"kind": "DataError", "message": "x"})
    assert list((tmp_path / "tmp").iterdir()) == []


# ------------------------------------------------------------------------------------------------ many jobs


def outcomes(function: str, jobs: list[dict[str, Any]], num_processes: int = 1, **options: Any) -> list[Any]:
    """The outcomes by the jobs' positions; each job has exactly one."""
    options = {"timeout_seconds": 60.0} | options
    found = list(
        worker.run_each(f"worker_functions.{function}", jobs, num_processes=num_processes, **options)
    )
    assert sorted(position for position, _ in found) == list(range(len(jobs)))
    return [outcome for _, outcome in sorted(found, key=lambda pair: pair[0])]


def test_one_process_does_job_after_job_in_their_order() -> None:
    found: list[Any] = list(
        worker.run_each(
            "worker_functions.square", [{"number": n} for n in range(6)], num_processes=1, timeout_seconds=60
        )
    )
    assert [(position, value["square"]) for position, value in found] == [(n, n * n) for n in range(6)]
    assert len({value["process"] for _, value in found}) == 1


def test_a_worker_that_dies_while_another_outcome_is_looked_at_costs_its_job_only() -> None:
    found = {}
    jobs: list[dict[str, Any]] = [{"seconds": 0}, {"seconds": 0.5}]
    for position, outcome in worker.run_each(
        "worker_functions.exit_after", jobs, num_processes=2, timeout_seconds=60
    ):
        found[position] = outcome
        time.sleep(3)
    assert found[0] is None
    assert isinstance(found[1], WorkerError)
    assert "ended with code 3" in str(found[1])


def test_values_do_not_depend_on_the_number_of_processes() -> None:
    found = [outcomes("square", [{"number": n} for n in range(7)], num_processes=k) for k in (1, 3)]
    assert [[value["square"] for value in each] for each in found] == [[n * n for n in range(7)]] * 2
    assert len({value["process"] for value in found[1]}) <= 3


def test_jobs_run_at_the_same_time_and_are_told_as_they_end(tmp_path: Path) -> None:
    jobs: list[dict[str, Any]] = [{"number": 0, "note": str(tmp_path / "note")}, {"number": 1}, {"number": 2}]
    found = worker.run_each("worker_functions.square", jobs, num_processes=2, timeout_seconds=60)
    with contextlib.closing(found):  # type: ignore[type-var]
        assert [next(found)[0], next(found)[0]] == [1, 2]  # while job 0 waits for two minutes


def test_no_more_processes_than_jobs_or_than_asked_for(functions: Path, tmp_path: Path) -> None:
    (functions / "counted.py").write_text(
        f"import os, pathlib\npathlib.Path({str(tmp_path)!r}, f'{{os.getpid()}}.started').touch()\n"
        "def same(**arguments):\n    return arguments"
    )
    for num_jobs, num_processes in ((2, 5), (7, 2)):
        jobs: list[dict[str, Any]] = [{"n": n} for n in range(num_jobs)]
        done = worker.run_each("counted.same", jobs, num_processes=num_processes, timeout_seconds=60)
        assert len(list(done)) == num_jobs
        started = list(tmp_path.glob("*.started"))
        assert 1 <= len(started) <= 2
        for path in started:
            path.unlink()


def test_no_jobs_start_nothing() -> None:
    assert outcomes("no_such_function", []) == []


@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_job_that_kills_its_process_costs_that_job_only(
    number: int, num_processes: int, caplog: pytest.LogCaptureFixture
) -> None:
    good: dict[str, Any] = {"what": "square", "number": 3}
    found = outcomes("act", [good, {"what": "die", "number": number}, good, good], num_processes)
    assert [found[i]["square"] for i in (0, 2, 3)] == [9, 9, 9]
    assert isinstance(found[1], WorkerError)
    died = f"worker_functions.act must return; got a worker process that died with {number.name}. "  # type: ignore[attr-defined]
    assert str(found[1]).startswith(died)
    if num_processes == 1:
        assert found[0]["process"] != found[2]["process"] == found[3]["process"]
    assert said(caplog) == []


def test_a_job_that_ends_its_process_quietly_costs_that_job_only() -> None:
    found = outcomes("act", [{"what": "exit_at_once"}, {"what": "square", "number": 2}])
    assert re.fullmatch(r".* got a worker process that ended with code 3\. .*", str(found[0]))
    assert found[1]["square"] == 4


def test_a_job_that_overruns_its_time_is_killed_and_the_others_go_on(tmp_path: Path) -> None:
    note = tmp_path / "note"
    jobs: list[dict[str, Any]] = [{"number": 1}, {"number": 2, "note": str(note)}, {"number": 3}]
    found = outcomes("square", jobs, timeout_seconds=10.0)
    assert isinstance(found[1], WorkerError)
    assert str(found[1]) == (
        "worker_functions.square must end within 10 s; got a worker process that had to be killed. "
        "What it wrote last is in the log."
    )
    assert [found[0]["square"], found[2]["square"]] == [1, 9]
    assert not is_alive(int(note.read_text()))


def test_the_start_of_a_process_does_not_count_as_time_of_a_job(functions: Path) -> None:
    (functions / "slow_import.py").write_text("import time; time.sleep(6)\ndef same(**a):\n    return a")
    found = list(worker.run_each("slow_import.same", [{"a": 1}], num_processes=1, timeout_seconds=5))
    assert found == [(0, {"a": 1})]


def test_the_limit_is_for_each_job_and_not_for_all_jobs_of_a_process() -> None:
    found = outcomes("nap", [{"seconds": 2}] * 4, timeout_seconds=7)
    assert len(set(found)) == 1
    assert isinstance(found[0], int)


def test_a_process_that_hangs_when_all_is_done_is_killed_and_its_work_counts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert outcomes("hang_at_the_end", [{}], timeout_seconds=10.0) == [None]
    assert said(caplog) == [
        "The worker of worker_functions.hang_at_the_end died with SIGKILL after it was done."
    ]


def test_a_process_that_closes_our_pipe_does_not_hold_us_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_GRACE_SECONDS", 0.5)
    (found,) = outcomes("let_go", [{}])
    assert isinstance(found, WorkerError)
    # Whoever waits for it sees it end by itself.
    assert str(found).startswith(
        "worker_functions.let_go must return; got a worker process that died with SIGKILL."
    )


def test_errors_come_back_as_from_one_run_and_keep_the_process() -> None:
    jobs: list[dict[str, Any]] = [
        {"what": "fail", "kind": "DataError", "message": "bad rows"},
        {"what": "fail", "kind": "ConfigError", "message": "bad setting"},
        {"what": "fail", "kind": "IndexError", "message": "no such row"},
        {"what": "not_there"},
    ]
    found = outcomes("act", jobs)
    assert [type(each) for each in found] == [DataError, ConfigError, WorkerError, WorkerError]
    assert [str(each) for each in found[:2]] == ["bad rows", "bad setting"]
    assert "in fail" in str(found[0].__cause__)
    assert str(found[2]).endswith("\nIndexError: no such row")
    mixed = outcomes("act", [{"what": "square", "number": 1}, *jobs, {"what": "square", "number": 1}])
    assert mixed[0] == mixed[-1]


def test_a_job_out_of_memory_costs_that_job_and_its_process(caplog: pytest.LogCaptureFixture) -> None:
    square: dict[str, Any] = {"what": "square", "number": 2}
    jobs: list[dict[str, Any]] = [square, {"what": "allocate", "mib": 3072}, square]
    found = outcomes("act", jobs, max_memory_mib=500)
    assert isinstance(found[1], ConfigError)
    assert str(found[1]).startswith("worker_functions.act must do with max_memory_mib = 500; got ")
    assert found[0]["square"] == found[2]["square"] == 4
    assert found[0]["process"] != found[2]["process"]
    assert said(caplog) == []


def test_a_function_that_cannot_be_imported_fails_each_job() -> None:
    found = outcomes("not_there", [{}, {}], num_processes=2)
    assert [str(each).endswith("has no attribute 'not_there'") for each in found] == [True, True]


def test_each_job_is_told_its_own_last_words(capfd: pytest.CaptureFixture[str]) -> None:
    abort = signal.SIGABRT
    jobs: list[dict[str, Any]] = [
        {"words": ["an earlier error"]},
        {"words": [], "number": abort},
        {"words": ["loc: error: failed to legalize 'tf.Foo'", "a note", "", "  "], "number": abort},
        {"words": ["only a note", "e" * 400 + " error"], "number": abort},
    ]
    found = outcomes("complain", jobs)
    start = "worker_functions.complain must return; got a worker process that died with SIGABRT. "
    assert str(found[1]).endswith("What it wrote last is in the log.")
    assert str(found[2]) == f"{start}It wrote: loc: error: failed to legalize 'tf.Foo'"
    assert str(found[3]) == f"{start}It wrote: {'e' * 300}"
    written = capfd.readouterr().err
    for words in ("an earlier error\n", "failed to legalize 'tf.Foo'\na note\n\n", "only a note\n"):
        assert written.count(words) == 1


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        ("", ""),
        ("one\ntwo\n", "two"),
        ("terminate called after throwing 'std::x'\n  what():  no such op\nmore\n", "what():  no such op"),
        (
            "F0000 Check failed: a == b\n*** Check failure stack trace: ***\n    @  0x7f main",
            "F0000 Check failed: a == b",
        ),
        ("why\nFatal Python error: Aborted\n\nThread 0x1 (most recent call first):\n  File x", "why"),
        ("LLVM ERROR: out\nPLEASE submit a bug report\nStack dump:\n0.\n #0 0x1 llvm", "LLVM ERROR: out"),
        (
            "INFO: Created a delegate\n2026-11-21 18:15:42.664: I cc/loader.cc:317] No error\nI0000 x",
            "",
        ),
        ("progress 1\rprogress 2\r", "progress 2"),
    ],
)
def test_last_words_are_the_line_that_says_why(errors: str, reason: str) -> None:
    assert worker.last_words(errors) == reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_processes": 0}, "num_processes must be at least 1; got 0."),
        ({"timeout_seconds": 0.0}, "timeout_seconds must be more than 0; got 0.0."),
        ({"timeout_seconds": math.nan}, "timeout_seconds must be more than 0; got nan."),
    ],
)
def test_settings_out_of_range_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        worker.run_each(
            "worker_functions.same", [{}], **{"num_processes": 1, "timeout_seconds": 1.0} | options
        )


def test_closing_early_leaves_no_process_no_file_and_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    notes = [tmp_path / f"note-{n}" for n in range(2)]
    jobs: list[dict[str, Any]] = [
        {"number": 1},
        *({"number": 2, "note": str(note)} for note in notes),
        {"number": 3},
    ]
    with unchanged_descriptors():
        found = worker.run_each("worker_functions.square", jobs, num_processes=3, timeout_seconds=60)
        next(found)
        assert wait_for(lambda: all(note.exists() for note in notes))
        found.close()  # type: ignore[attr-defined]
    assert not any(is_alive(int(note.read_text())) for note in notes)
    assert list((tmp_path / "tmp").iterdir()) == []


PARENT_OF_MANY = """
import sys
sys.path.insert(0, {functions!r})
from tfx_mobile.common import worker
jobs = [{{"note": note}} for note in {notes!r}]
try:
    for _ in worker.run_each("worker_functions.wait", jobs, num_processes=len(jobs), timeout_seconds=100):
        pass
except KeyboardInterrupt:
    raise SystemExit(7)
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, -15), (signal.SIGINT, 7)]
)
def test_all_processes_end_when_their_parent_does(
    functions: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    notes = [tmp_path / f"note-{n}" for n in range(2)]
    (tmp_path / "tmp").mkdir()
    program = PARENT_OF_MANY.format(functions=str(functions), notes=[str(note) for note in notes])
    parent = subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    )
    try:
        assert wait_for(lambda: all(note.exists() for note in notes))
        children = [int(note.read_text()) for note in notes]
        parent.send_signal(number)
        assert parent.wait(60) == code
        assert wait_for(lambda: not any(is_alive(child) for child in children))
        assert wait_for(lambda: not list((tmp_path / "tmp").iterdir()))
    finally:
        parent.kill()
        parent.wait()
