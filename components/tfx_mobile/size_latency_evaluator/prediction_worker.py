"""The process that predicts with TFLite files. Imports NumPy and LiteRT only.

It loads files and predicts with them as predictor.py tells it, one order after another, and answers file by
file: so who waits for an answer knows which file is running.

An order is the length of a pickle (8 bytes, little-endian) and the pickle; an answer is the lengths of a JSON
head and of the numbers behind it, the head, and the numbers as float32.
"""

import json
import os
import pickle
import struct
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from tfx_mobile.common.errors import DataError
from tfx_mobile.common.interpreter import TensorSpec, TFLiteModel

ORDER = struct.Struct("<Q")
ANSWER = struct.Struct("<QQ")
_ERRORS = (DataError, ValueError, RuntimeError, OSError, MemoryError)
_PARENT_CHECK_SECONDS = 1.0


def main() -> None:
    """Serves orders from standard input until it ends; answers go to standard output."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a runtime prints is no answer
    parent = os.getppid()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    serve(sys.stdin.buffer, answers)


def serve(orders: BinaryIO, answers: BinaryIO) -> None:
    """Does each order and answers it.

    Args:
      orders: Each is `{"load": {name: path}}`, or `{"predict": [name], "columns": ..., "batch_size": n}` with
        the rows by feature.
      answers: Gets one without a name when an order has arrived, then one for each name in turn.
    """
    models: dict[str, TFLiteModel] = {}
    _answer(answers, {"ready": True})
    while head := orders.read(ORDER.size):
        order = pickle.loads(orders.read(*ORDER.unpack(head)))
        _answer(answers, {"ready": True})
        for name, path in order.get("load", {}).items():
            try:
                models[name] = TFLiteModel(Path(path))
                _answer(answers, {"inputs": _try(models[name]), "outputs": sorted(models[name].outputs)})
            except _ERRORS as error:
                _answer(answers, {"error": _said(error)})
        for name in order.get("predict", ()):
            try:
                found = _predict(models[name], order["columns"], order["batch_size"])
            except _ERRORS as error:
                _answer(answers, {"error": _said(error)})
            else:
                shapes = {output: list(values.shape) for output, values in found.items()}
                _answer(answers, {"shapes": shapes}, *found.values())


def _try(model: TFLiteModel) -> dict[str, Any]:
    """Returns what the file takes, after one call on zeros."""
    zeros = {name: np.zeros((1, *spec.row_shape), _row_dtype(spec)) for name, spec in model.inputs.items()}
    model.predict_outputs(zeros)
    return {
        name: [np.dtype(_row_dtype(spec)).str if _is_number(spec) else "S", list(spec.row_shape)]
        for name, spec in model.inputs.items()
    }


def _predict(
    model: TFLiteModel, columns: Mapping[str, npt.NDArray[Any]], batch_size: int
) -> dict[str, npt.NDArray[np.float32]]:
    taken = {name: columns[name] for name in model.inputs if name in columns}
    rows = len(next(iter(columns.values())))
    parts = [
        model.predict_outputs({name: column[start : start + batch_size] for name, column in taken.items()})
        for start in range(0, rows, batch_size)
    ]
    return {output: np.concatenate([part[output] for part in parts]) for output in sorted(model.outputs)}


def _answer(answers: BinaryIO, head: Mapping[str, Any], *values: npt.NDArray[np.float32]) -> None:
    content = json.dumps(head).encode()
    answers.write(ANSWER.pack(len(content), sum(each.nbytes for each in values)) + content)
    for each in values:
        answers.write(each.astype("<f4", copy=False).tobytes())
    answers.flush()


def _said(error: BaseException) -> str:
    return str(error).strip() or type(error).__name__


def _is_number(spec: TensorSpec) -> bool:
    return spec.dtype not in (np.bytes_, np.object_)


def _row_dtype(spec: TensorSpec) -> Any:
    """Returns the type rows have before the file's own quantisation."""
    if not _is_number(spec):
        return np.dtype("S1")
    return np.float32 if spec.scale else spec.dtype


def _end_with(parent: int) -> None:
    """Ends this process soon after its parent, even inside a call that does not return."""
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
