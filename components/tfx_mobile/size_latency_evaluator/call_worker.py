"""The fresh process that calls one TFLite file so many times, for an observer from outside: callgrind.

Needs what runner.py needs. `python -m ... FILE ROWS.npz CALLS`.
"""

import sys
from pathlib import Path

from tfx_mobile.size_latency_evaluator import runner


def call(path: Path, rows_path: Path, num_calls: int) -> None:
    """Loads the file and calls it `num_calls` times on its first row.

    Raises:
      DataError: The rows do not fit.
    """
    rows = runner.encode(path, runner.load_columns(rows_path))
    interpreter = runner.load(path)
    interpreter.allocate_tensors()
    runner.set_row(interpreter, rows[0])
    for _ in range(num_calls):
        interpreter.invoke()


if __name__ == "__main__":
    call(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
