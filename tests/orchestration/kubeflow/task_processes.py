"""Runs the entrypoint in processes of its own and sends them signals, with TFX imported once for all of them.

Reads cases as JSON from standard input and writes how each ended. A case has `words` (the arguments), `root`
(in place of /), `log` (a file) and `signals`: pairs of a file to wait for, and the signal to send then.
"""

import json
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import tfx_mobile.orchestration.kubeflow.task as task


def ended(case: dict[str, Any]) -> int:
    """Returns the exit status; a signal's number, negative, of a process that one ended."""
    pid = os.fork()
    if not pid:
        _run_here(case)
    waited = (0, 0)
    for file, number in case["signals"]:
        while not Path(file).exists() and waited == (0, 0):
            waited = os.waitpid(pid, os.WNOHANG)
            time.sleep(0.01)
        if waited == (0, 0):
            os.kill(pid, number)
    return os.waitstatus_to_exitcode((waited if waited != (0, 0) else os.waitpid(pid, 0))[1])


def _run_here(case: dict[str, Any]) -> None:
    log = os.open(case["log"], os.O_WRONLY | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.environ[task.MOUNT_ROOT_VARIABLE] = case["root"]
    sys.argv = [task.__file__, *case["words"]]
    status = 0
    try:
        runpy.run_module(task.__name__, run_name="__main__")
    except SystemExit as error:
        status = int(error.code or 0)
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    print(json.dumps([ended(case) for case in json.load(sys.stdin)]))
