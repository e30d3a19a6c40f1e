"""The fresh process that looks into TFLite files and predicts with them. Imports NumPy and LiteRT only.

Job `inspect`: what each file takes, after one call on zeros. Job `predict`: writes `<index>.npy` with the
predictions of all rows.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from tfx_mobile.common.errors import DataError
from tfx_mobile.common.interpreter import TensorSpec, TFLiteModel
from tfx_mobile.size_latency_evaluator import isolation


def measure(job: dict[str, Any], busy: isolation.BusyNote) -> tuple[dict[str, Any], dict[str, str]]:
    """Does the job for each model; an error of one model is its own."""
    values: dict[str, Any] = {}
    failures: dict[str, str] = {}
    columns = load_columns(Path(job["rows"])) if job["task"] == "predict" else {}
    for index, (name, path) in enumerate(job["models"]):
        busy.write(index)
        try:
            model = TFLiteModel(Path(path))
            if job["task"] == "inspect":
                values[name] = _inspect(model)
            else:
                target = Path(job["folder"]) / f"{index}.npy"
                np.save(target, _predict(model, columns, int(job["batch_size"])), allow_pickle=False)
                values[name] = str(target)
        except (DataError, ValueError, RuntimeError, OSError) as error:
            failures[name] = str(error).strip()
    return values, failures


def save_columns(path: Path, columns: dict[str, Any]) -> None:
    """Writes columns so that `load_columns` gives them back; strings as fixed-width bytes."""
    content = {}
    for position, (name, column) in enumerate(columns.items()):
        content[f"name{position}"] = np.array(name)
        content[f"column{position}"] = column.astype(np.bytes_) if column.dtype == object else column
    np.savez(path, **content)


def load_columns(path: Path) -> dict[str, Any]:
    """Reads what `save_columns` wrote."""
    with np.load(path, allow_pickle=False) as content:
        return {
            str(content[f"name{position}"]): content[f"column{position}"]
            for position in range(len(content.files) // 2)
        }


def _inspect(model: TFLiteModel) -> dict[str, Any]:
    zeros = {name: np.zeros((1, *spec.row_shape), _row_dtype(spec)) for name, spec in model.inputs.items()}
    width = model.predict(zeros).shape[1]
    inputs = {
        name: [np.dtype(_row_dtype(spec)).str if _is_number(spec) else "S", list(spec.row_shape)]
        for name, spec in model.inputs.items()
    }
    return {"inputs": inputs, "outputs": width}


def _predict(model: TFLiteModel, columns: dict[str, Any], batch_size: int) -> Any:
    taken = {name: columns[name] for name in model.inputs if name in columns}
    rows = len(next(iter(columns.values())))
    parts = [
        model.predict({name: column[start : start + batch_size] for name, column in taken.items()})
        for start in range(0, rows, batch_size)
    ]
    return np.concatenate(parts)


def _is_number(spec: TensorSpec) -> bool:
    return spec.dtype not in (np.bytes_, np.object_)


def _row_dtype(spec: TensorSpec) -> Any:
    """Returns the type rows have before the file's own quantisation."""
    if not _is_number(spec):
        return np.dtype("S1")
    return np.float32 if spec.scale else spec.dtype


if __name__ == "__main__":
    sys.exit(isolation.main(sys.argv, measure))
