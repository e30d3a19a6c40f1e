"""A second run of a pipeline in one folder is kept out, and nothing else is."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.orchestration import run_lock

HOLD = """
import os, sys, time
from pathlib import Path
from tfx_mobile.orchestration import run_lock
with run_lock.only_run("tiny", Path(sys.argv[1])):
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> "Iterator[tuple[subprocess.Popen[bytes], int]]":
    """A process that holds the lock, and its child."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    yield process, child
    os.kill(child, signal.SIGKILL)
    process.kill()
    process.communicate()


def test_a_second_run_in_the_folder_is_refused_and_told_who_runs(holder, tmp_path: Path) -> None:
    who = f"process {holder[0].pid} on {socket.gethostname()}"
    message = (
        f"Pipeline 'tiny' must run once at a time in {tmp_path}; {who} runs it there now. Wait for it, or"
    )
    for _ in range(2):  # being refused changes nothing
        with pytest.raises(ConfigError, match=re.escape(message)), run_lock.only_run("tiny", tmp_path):
            pytest.fail("the block must not run")


def test_another_pipeline_or_another_folder_is_let_in(holder, tmp_path: Path) -> None:
    with run_lock.only_run("other", tmp_path), run_lock.only_run("tiny", tmp_path / "other"):
        pass


def test_a_killed_run_keeps_nobody_out_though_its_child_lives(holder, tmp_path: Path) -> None:
    process, child = holder
    process.kill()
    process.wait()
    os.kill(child, 0)
    (tmp_path / ".tiny.lock").write_text(
        "process 1 on a machine with a name that is longer than all others\n" * 3
    )
    with run_lock.only_run("tiny", tmp_path):
        assert (tmp_path / ".tiny.lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"


def test_the_lock_ends_with_the_block_however_it_ends(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=re.escape("x")), run_lock.only_run("tiny", tmp_path):
        raise KeyError("x")
    take = "import sys; from pathlib import Path; from tfx_mobile.orchestration import run_lock\n"
    take += "with run_lock.only_run('tiny', Path(sys.argv[1])): print('in')"
    done = subprocess.run([sys.executable, "-c", take, tmp_path], check=True, capture_output=True, text=True)
    assert done.stdout == "in\n"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "artifacts"
    message = f"The folder of the artifacts must be writable; got {folder}: Not a directory. Choose another."
    with pytest.raises(ConfigError, match=re.escape(message)), run_lock.only_run("tiny", folder):
        pytest.fail("the block must not run")
