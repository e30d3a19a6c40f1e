"""Everything a process writes goes to the log, and comes back to the console afterwards."""

import ctypes
import io
import logging
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from tests.descriptors import unchanged_descriptors

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.orchestration import run_log


def make_noise(word: str) -> None:
    print(f"{word} print")
    sys.stderr.write(f"{word} sys.stderr\n")
    os.write(1, f"{word} descriptor 1\n".encode())
    os.write(2, f"{word} descriptor 2\n".encode())
    subprocess.run(["sh", "-c", f"echo {word} child; echo {word} child of stderr >&2"], check=True)
    ctypes.CDLL(None).puts(f"{word} C".encode())
    logging.getLogger("absl").info("%s absl", word)
    logging.getLogger("some.library").warning("%s logging", word)
    warnings.warn(f"{word} warning", stacklevel=1)


WAYS = [
    "print",
    "sys.stderr",
    "descriptor 1",
    "descriptor 2",
    "child",
    "child of stderr",
    "C",
    "absl",
    "logging",
]


def test_every_way_of_writing_ends_in_the_log_and_none_on_the_console(tmp_path: Path) -> None:
    script = tmp_path / "noisy.py"
    script.write_text(
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from tests.orchestration.test_run_log import make_noise\n"
        "from tfx_mobile.orchestration import run_log\n"
        "with run_log.everything_to(Path(sys.argv[2])) as visible:\n"
        "    visible.write('for the user\\n')\n"
        "    make_noise('inside')\n"
        "print('outside')\n"
    )
    command = [sys.executable, str(script), str(Path(__file__).parents[2]), str(tmp_path / "log")]
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}  # it would unbuffer C as well
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert done.stdout == "for the user\noutside\n"
    assert done.stderr == ""
    log = (tmp_path / "log").read_text()
    assert [way for way in WAYS if log.count(f"inside {way}\n") != 1] == []
    assert "UserWarning: inside warning\n" in log


def test_it_works_where_python_streams_are_not_the_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = io.StringIO()  # as in a notebook
    monkeypatch.setattr(sys, "stdout", console)
    monkeypatch.setattr(sys, "stderr", console)
    with run_log.everything_to(tmp_path / "log") as visible:
        visible.write("for the user\n")
        print("inside print")
        sys.stderr.write("inside sys.stderr\n")
    print("outside")
    assert console.getvalue() == "for the user\noutside\n"
    assert "inside print\ninside sys.stderr\n" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_the_console_comes_back_after_an_exception(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: type[BaseException]
) -> None:
    streams = sys.stdout, sys.stderr
    levels = logging.root.level, logging.getLogger("absl").level
    handlers = list(logging.root.handlers)
    with pytest.raises(kind, match=re.escape("on purpose")), run_log.everything_to(tmp_path / "log"):
        raise kind("on purpose")
    os.write(1, b"descriptor 1 again")
    os.write(2, b"descriptor 2 again")
    assert capfd.readouterr() == ("descriptor 1 again", "descriptor 2 again")
    assert (sys.stdout, sys.stderr) == streams
    assert (logging.root.level, logging.getLogger("absl").level) == levels
    assert logging.root.handlers == handlers


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    def run() -> None:
        with run_log.everything_to(tmp_path / "log") as visible:
            visible.write("")

    run()
    with unchanged_descriptors():
        run()


def test_a_handler_made_inside_still_works_outside(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("made.inside")
    logger.propagate = False
    with run_log.everything_to(tmp_path / "log"):
        logger.addHandler(logging.StreamHandler())  # keeps a reference to sys.stderr
        logger.warning("one")
    logger.warning("two")
    assert "one\n" in (tmp_path / "log").read_text()
    assert "two\n" not in (tmp_path / "log").read_text()
    assert capfd.readouterr().err == "two\n"


def test_a_log_handler_of_the_program_is_quiet_inside_and_back_outside(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("of.the.program")
    console = logging.StreamHandler(sys.stderr)
    logger.addHandler(console)
    with run_log.everything_to(tmp_path / "log"):
        logger.warning("inside")
    logger.warning("outside")
    logger.removeHandler(console)
    assert (tmp_path / "log").read_text().count("inside") == 1
    assert capfd.readouterr().err == "outside\n"


def test_the_log_of_the_run_before_is_kept(tmp_path: Path) -> None:
    for word in ("first", "second"):
        with run_log.everything_to(tmp_path / "folder" / "log"):
            print(word)
    assert re.fullmatch(
        r"==== [\dT:-]+\nfirst\n==== [\dT:-]+\nsecond\n", (tmp_path / "folder" / "log").read_text()
    )


def test_a_stream_given_is_used_even_when_it_is_stdout_itself(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        open(1, "w", closefd=False) as on_descriptor_1,
        run_log.everything_to(tmp_path / "log", on_descriptor_1) as visible,
    ):
        visible.write("for the user\n")
        on_descriptor_1.write("lost in the log\n")
        on_descriptor_1.flush()
    assert capfd.readouterr().out == "for the user\n"


def test_a_log_file_that_cannot_be_written_is_refused_and_nothing_is_redirected(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    file, log = tmp_path / "file", tmp_path / "file" / "log"
    expected = f"The log file must be writable; got {log}: {file} is not a folder. Choose another place."
    with pytest.raises(ConfigError, match=re.escape(expected)), run_log.everything_to(log):
        pytest.fail("the block must not run")
    os.write(1, b"still here")
    assert capfd.readouterr().out == "still here"
