"""What measures on the device: the runtime, a loaded file with its rows, and the facts of the machine.

Runs wherever Python 3.10, NumPy and LiteRT or tflite_runtime are: here, and copied to another machine by
targets.py. So it imports nothing of this project but errors.py. Does not time: latency_worker.py does.
"""

import importlib
import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.common.errors import DataError

ERRORS = (DataError, ValueError, RuntimeError, OSError)
"""What a file may do to its worker: it is that file's failure, not the worker's."""

_RUNTIMES = {
    "ai-edge-litert": "ai_edge_litert.interpreter",
    "tflite-runtime": "tflite_runtime.interpreter",
}

Rows = list[list[tuple[int, npt.NDArray[Any]]]]
"""By row, what `set_tensor` takes: an index and a value."""


def runtime() -> tuple[str, Any]:
    """Returns the interpreter's name and version, and its module: LiteRT, else tflite_runtime.

    Raises:
      DataError: Neither is installed.
    """
    for package, module in _RUNTIMES.items():
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name not in (module, module.partition(".")[0]):
                raise
            continue
        return f"{package} {importlib.metadata.version(package)}", found
    raise DataError(
        f"The machine that measures must have {' or '.join(_RUNTIMES)}; "
        f"got none in Python {platform.python_version()}. Install ai-edge-litert there."
    )


def save_columns(path: Path, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    """Writes columns so that `load_columns` gives them back; strings as fixed-width bytes."""
    content: dict[str, Any] = {}
    for position, (name, column) in enumerate(columns.items()):
        content[f"name{position}"] = np.array(name)
        values = np.char.encode(column, "utf-8") if column.dtype.kind == "U" else column
        content[f"column{position}"] = values.astype(np.bytes_) if values.dtype == object else values
    np.savez(path, **content)


def load_columns(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Reads what `save_columns` wrote."""
    with np.load(path, allow_pickle=False) as content:
        return {
            str(content[f"name{position}"]): content[f"column{position}"]
            for position in range(len(content.files) // 2)
        }


def load(path: Path, *, default_kernels: bool = True) -> Any:
    """Returns an interpreter of the file, one thread; its tensors are not allocated yet.

    Args:
      path: Of the file; it is mapped, as an app maps its asset.
      default_kernels: With XNNPACK, as phones have it; False for LiteRT's own kernels only.
    """
    _, module = runtime()
    if default_kernels:
        return module.Interpreter(model_path=str(path), num_threads=1)
    without = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return module.Interpreter(model_path=str(path), num_threads=1, experimental_op_resolver_type=without)


def encode(path: Path, columns: Mapping[str, npt.NDArray[Any]]) -> Rows:
    """Returns the rows as the file takes them: reshaped, cast and, where the file wants it, quantised.

    A signature's names count where the file has one for what a plain call runs, else the tensors' names. The
    file is loaded for it once: a signature runner must be gone before an interpreter can be called.

    Args:
      path: Of the file.
      columns: By name, shape (rows, ...): as many values in a row as the input has.

    Raises:
      DataError: An input has no column, or one of another kind or width.
    """
    inputs = _inputs(path)
    if missing := sorted(set(inputs) - set(columns)):
        raise DataError(
            f"The file needs {', '.join(map(repr, sorted(inputs)))}; got rows without "
            f"{', '.join(map(repr, missing))}."
        )
    encoded = [(detail["index"], _encoded(name, detail, columns[name])) for name, detail in inputs.items()]
    num_rows = min((len(values) for _, values in encoded), default=1)
    if not num_rows:
        raise DataError("Timing a file needs at least one row; got none.")
    return [[(index, values[row]) for index, values in encoded] for row in range(num_rows)]


def set_row(interpreter: Any, row: Sequence[tuple[int, npt.NDArray[Any]]]) -> None:
    """Gives the interpreter the inputs of one row."""
    for index, value in row:
        interpreter.set_tensor(index, value)


def pin() -> bool:
    """Pins this process to the last core it may use; returns whether the system can."""
    if not hasattr(os, "sched_setaffinity"):
        return False
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    return True


def machine() -> dict[str, Any]:
    """Returns this machine's `cpu`, `cores`, `system`, `governor` and `load`, as Machine has them."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "governor": _governor(Path("/sys/devices/system/cpu")),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0,
    }


def _inputs(path: Path) -> dict[str, Any]:
    interpreter = load(path)
    details = {detail["index"]: detail for detail in interpreter.get_input_details()}
    for key in interpreter.get_signature_list():
        named = interpreter.get_signature_runner(key).get_input_details()
        if {detail["index"] for detail in named.values()} == set(details):
            return {name: details[detail["index"]] for name, detail in named.items()}
    return {detail["name"] or f"tensor {index}": detail for index, detail in details.items()}


def _encoded(name: str, detail: Mapping[str, Any], column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    shape = tuple(int(extent) for extent in detail["shape"])
    width = int(np.prod(shape, dtype=int))
    if column.size != len(column) * width:
        raise DataError(
            f"Input {name!r} must have {width} values in each row; "
            f"got {len(column)} rows of shape {column.shape[1:]}."
        )
    values = column.reshape(len(column), *shape)
    is_text = detail["dtype"] in (np.bytes_, np.object_)
    if is_text != (values.dtype.kind in "SO"):
        raise DataError(f"Input {name!r} must be {'strings' if is_text else 'numbers'}; got {values.dtype}.")
    if is_text:
        return values.astype(object)
    scale, zero_point = detail["quantization"]
    if scale and np.issubdtype(detail["dtype"], np.integer):
        limits = np.iinfo(detail["dtype"])
        if not np.isfinite(values).all():
            raise DataError(f"Input {name!r} must be finite, since the file takes {limits.dtype}.")
        values = np.clip(np.rint(values / scale) + zero_point, limits.min, limits.max)
    return np.ascontiguousarray(values, detail["dtype"])


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith(("model name", "Hardware", "Model")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine() or "unknown"


def _governor(folder: Path) -> str:
    """Returns what sets the cores' frequency, several joined by '+'; empty where there is nothing."""
    found = set()
    for path in folder.glob("cpu[0-9]*/cpufreq/scaling_governor"):
        try:
            found.add(path.read_text().strip())
        except OSError:  # a core that has just been switched off
            continue
    return "+".join(sorted(found))
