"""Runs TFLite files in the Python it is started with: NumPy and one TFLite runtime, nothing of tfx_mobile.

A script for runtimes.py, `python -I runtime_probe.py FOLDER`, of any Python from 3.8 on. For the file at
position i of `job.json` it writes `i.started`, and then `i.npy` (predictions) or `i.failure` (why there are
none); a file that takes the process down leaves the first alone. `version.txt` says which runtime it is.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import platform
import sys
from typing import Any

import numpy as np

RUNTIMES = ("tflite_runtime", "ai_edge_litert", "tensorflow")


def load_runtime() -> tuple[Any, str]:
    """Returns the Interpreter class of the first runtime that can be imported, and what it calls itself."""
    for name in RUNTIMES:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            continue
        if name == "tensorflow":
            interpreter = module.lite.Interpreter
        else:
            interpreter = importlib.import_module(name + ".interpreter").Interpreter
        version = getattr(module, "__version__", "") or _installed_version(name)
        return interpreter, f"{name} {version}, Python {platform.python_version()}"
    raise ModuleNotFoundError(f"none of {', '.join(RUNTIMES)} can be imported")


def load_rows(folder: str, columns: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the features by name; strings as an array of bytes objects."""
    rows = {}
    with np.load(os.path.join(folder, "rows.npz")) as arrays:
        for i, column in enumerate(columns):
            values = arrays[f"c{i}"]
            if column["is_text"]:
                ends = np.cumsum(arrays[f"c{i}_lengths"])
                data = values.tobytes()
                texts = [data[a:b] for a, b in zip([0, *ends.tolist()], ends.tolist())]  # noqa: B905
                values = np.empty(len(texts), object)
                values[:] = texts
            rows[column["name"]] = values.reshape(column["shape"])
    return rows


def predict(interpreter: Any, path: str, rows: dict[str, Any]) -> Any:
    """Returns what tfx_mobile's TFLiteModel.predict does: float32, shape (rows, outputs)."""
    model = interpreter(model_path=path, num_threads=1)
    model.allocate_tensors()
    runner = model.get_signature_runner("serving_default")
    given = {name: _encode(detail, rows[name]) for name, detail in runner.get_input_details().items()}
    details = runner.get_output_details()
    found = runner(**given)
    parts = []
    for name in sorted(details):
        scale, zero_point = details[name]["quantization"]
        values = found[name].astype(np.float32)
        if scale and np.issubdtype(details[name]["dtype"], np.integer):
            values = (values - zero_point) * np.float32(scale)
        parts.append(values.reshape(len(values), -1))
    return np.concatenate(parts, axis=1).astype(np.float32)


def main(folder: str) -> None:
    """Does the job of the folder."""
    faulthandler.enable()
    interpreter, version = load_runtime()
    _write(os.path.join(folder, "version.txt"), version)
    with open(os.path.join(folder, "job.json")) as stream:
        job = json.load(stream)
    rows = load_rows(folder, job["columns"])
    for i, path in job["files"]:
        _write(os.path.join(folder, f"{i}.started"), "")
        faulthandler.dump_traceback_later(job["timeout_seconds"], exit=True)
        try:
            found = predict(interpreter, path, rows)
        except Exception as error:
            _write(os.path.join(folder, f"{i}.failure"), str(error) or type(error).__name__)
        else:
            np.save(os.path.join(folder, f"unfinished-{i}.npy"), found)
            os.replace(os.path.join(folder, f"unfinished-{i}.npy"), os.path.join(folder, f"{i}.npy"))
        faulthandler.cancel_dump_traceback_later()


def _encode(detail: dict[str, Any], column: Any) -> Any:
    values = column.reshape([len(column), *[int(n) for n in detail["shape"][1:]]])
    if values.dtype == object:
        return values
    scale, zero_point = detail["quantization"]
    if scale and np.issubdtype(detail["dtype"], np.integer):
        limits = np.iinfo(detail["dtype"])
        values = np.clip(np.rint(values / scale) + zero_point, limits.min, limits.max)
    return values.astype(detail["dtype"])


def _installed_version(name: str) -> str:
    from importlib import metadata

    return metadata.version(name.replace("_", "-"))


def _write(path: str, text: str) -> None:
    with open(path + ".part", "w") as stream:
        stream.write(text)
    os.replace(path + ".part", path)


if __name__ == "__main__":
    main(sys.argv[1])
