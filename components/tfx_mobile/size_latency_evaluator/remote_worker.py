"""The other machine's side of targets.py: does on that machine what isolation.py does here.

`python -m ...` reads a request (JSON) from standard input and prints the answer: the facts of the machine, or
what a worker found. The folder with the files is the working folder.
"""

import json
import sys
from pathlib import Path
from typing import Any

from tfx_mobile.common.errors import DataError
from tfx_mobile.size_latency_evaluator import isolation, runner


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Returns the answer to one request, `error` in it when the machine cannot do it at all."""
    if request["do"] == "describe":
        try:
            name, _ = runner.runtime()
        except DataError as error:
            return {"error": str(error)}
        return {**runner.machine(), "runtime": name}
    outcome = isolation.run_worker(
        request["module"],
        {name: Path(path) for name, path in request["paths"].items()},
        request["job"],
        folder=Path.cwd(),
        timeout_seconds=float(request["timeout_seconds"]),
    )
    return {"values": outcome.values, "failures": outcome.failures}


if __name__ == "__main__":
    print(json.dumps(answer(json.load(sys.stdin))))
