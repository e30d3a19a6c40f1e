"""Runs tiny pipelines on request, each in a process of its own, and imports TFX once for all of them.

A request is a line of JSON on standard input; the answer is the process id of the run. What the run prints
goes to the files `stdout` and `stderr` of its workspace, and last its exit status to `status`.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path

from tfx.orchestration import pipeline as tfx_pipeline
from tiny_components import Numbers, Patient, Total

from tfx_mobile.common.errors import TfxMobileError
from tfx_mobile.orchestration import local


def run(workspace: Path, name: str, numbers: str, metadata_url: str | None) -> None:
    local.run(create(workspace, name, numbers, metadata_url), log_file=workspace / "run.log")


def create(
    workspace: Path, name: str, numbers: str, metadata_url: str | None = None
) -> tfx_pipeline.Pipeline:
    """Returns three components; the last one waits for the file `flag` in the workspace."""
    first = Numbers(numbers=numbers)
    total = Total(examples=first.outputs["examples"])
    patient = Patient(model=total.outputs["model"], flag=str(workspace / "flag"))
    return local.local_pipeline(name, [first, total, patient], workspace, metadata_url=metadata_url)


def _run_here(request: dict[str, str]) -> int:
    workspace = Path(request["workspace"])
    os.environ.update(request["environment"])
    for descriptor, file in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(workspace / file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    try:
        run(workspace, request["name"], request["numbers"], request["metadata_url"])
    except TfxMobileError as error:  # as taxi_fare does
        print(f"\nerror: {error}", file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended runs leave nothing behind
    print("READY", flush=True)
    for line in sys.stdin:
        if pid := os.fork():
            print(pid, flush=True)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        asked = json.loads(line)
        status = _run_here(asked)
        Path(asked["workspace"], "status").write_text(str(status))
        os._exit(status)
