"""What measures on the device: rows as a file takes them, with a signature and without."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from tests.common.tflite_files import packed, stranger, table_file

from tfx_mobile.common.errors import DataError
from tfx_mobile.common.interpreter import TFLiteModel
from tfx_mobile.size_latency_evaluator import runner

COLUMNS = {"company": np.array([b"Flash", b"Sun"]), "miles": np.array([1.5, 2.5]), "fare": np.array([1, 2])}


def written(folder: Path, content: bytes) -> Path:
    path = folder / "a.tflite"
    path.write_bytes(content)
    return path


def test_quantised_inputs_are_what_the_interpreter_of_the_pipeline_makes_of_them(tmp_path: Path) -> None:
    model = table_file()
    for place in (1, 5):  # miles, and the sum of it with itself
        tensor = model.subgraphs[0].tensors[place]
        tensor.type, tensor.quantization = schema.TensorType.INT8, schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = [0.5], [-3]
    content = packed(model)
    columns = {"company": COLUMNS["company"], "miles": np.array([1.5, 1000.0])}

    rows = runner.encode(written(tmp_path, content), columns)

    # 1.5 / 0.5 - 3 = 0; 1000 is beyond what int8 holds.
    by_index = [dict(row) for row in rows]
    assert [row[1].tolist() for row in by_index] == [[0], [127]]
    second = TFLiteModel(content).encode(columns)["miles"]
    assert np.array_equal(np.concatenate([row[1] for row in by_index]), second.ravel())


@pytest.mark.parametrize("has_signature", [True, False])
def test_rows_are_found_by_the_names_the_file_has(has_signature: bool, tmp_path: Path) -> None:
    model = table_file()
    columns: dict[str, Any] = dict(COLUMNS)
    if not has_signature:
        model.signatureDefs = None
        columns = {f"serving_default_{name}:0": column for name, column in COLUMNS.items()}
    path = written(tmp_path, packed(model))

    rows = runner.encode(path, columns)
    interpreter = runner.load(path)
    interpreter.allocate_tensors()
    found = []
    for row in rows:
        runner.set_row(interpreter, row)
        interpreter.invoke()
        found.append(float(interpreter.get_tensor(5)[0]))

    assert found == [3.0, 5.0]  # the file adds miles to itself


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"miles": None}, "The file needs 'company', 'miles'; got rows without 'miles'."),
        (
            {"miles": np.zeros((2, 3))},
            "Input 'miles' must have 1 values in each row; got 2 rows of shape (3,).",
        ),
        ({"miles": COLUMNS["company"]}, "Input 'miles' must be numbers; got |S5."),
        ({"company": COLUMNS["miles"]}, "Input 'company' must be strings; got float64."),
        ({"miles": np.zeros(0)}, "Timing a file needs at least one row; got none."),
    ],
)
def test_rows_that_do_not_fit_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    columns = {name: column for name, column in {**COLUMNS, **changes}.items() if column is not None}

    with pytest.raises(DataError, match=re.escape(message)):
        runner.encode(written(tmp_path, packed(table_file())), columns)


def test_a_number_that_is_not_finite_cannot_be_quantised(tmp_path: Path) -> None:
    path = written(tmp_path, stranger("alexa"))
    (name,) = runner._inputs(path)
    values = np.zeros((1, 3, 40), np.float32)
    values[0, 0, 0] = np.nan

    with pytest.raises(
        DataError, match=re.escape(f"Input {name!r} must be finite, since the file takes int8.")
    ):
        runner.encode(path, {name: values})


def test_columns_come_back_from_their_file(tmp_path: Path) -> None:
    columns = {
        "a b/c": np.arange(3),
        "words": np.array(["Zürich", "x"]),
        "bytes": np.array([b"x"], dtype=object),
    }

    runner.save_columns(tmp_path / "rows.npz", columns)
    found = runner.load_columns(tmp_path / "rows.npz")

    assert list(found) == list(columns)
    assert found["a b/c"].tolist() == [0, 1, 2]
    assert found["words"].tolist() == ["Zürich".encode(), b"x"]
    assert found["bytes"].tolist() == [b"x"]


HEAP_GROWS = """
import numpy as np
from tfx_mobile.size_latency_evaluator import memory_worker
before = memory_worker.heap_in_use_bytes()
block = np.ones(5_000_000, np.uint8)  # mapped by the C library
print(memory_worker.heap_in_use_bytes() - before)
"""


def test_the_heap_in_use_grows_by_what_is_taken() -> None:
    # In a process of its own, where no garbage is collected meanwhile and no other thread frees anything.
    done = subprocess.run([sys.executable, "-c", HEAP_GROWS], capture_output=True, text=True, check=True)

    assert 5_000_000 <= int(done.stdout) < 10_000_000
