"""The smallest TFLite files that an inspector takes, with operators and runtime version of one's choice."""

from collections.abc import Sequence

from ai_edge_litert import schema_py_generated as schema
from tests.common.tflite_files import packed


def tflite(description: bytes, *, runtime: str = "", custom_ops: Sequence[bytes] = ()) -> bytes:
    """Returns a file that computes nothing: `description` tells it from others."""
    model = schema.ModelT()
    model.version, model.description = 3, description
    model.operatorCodes, operators = [], []
    for index, name in enumerate(custom_ops):
        code = schema.OperatorCodeT()
        code.builtinCode, code.customCode = schema.BuiltinOperator.CUSTOM, name
        code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        model.operatorCodes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = index, [], []
        operators.append(operator)
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = [], [], [], operators
    model.subgraphs = [graph]
    model.buffers = [schema.BufferT()]
    if runtime:
        entry, data = schema.MetadataT(), schema.BufferT()
        entry.name, entry.buffer = b"min_runtime_version", 1
        data.data = list(runtime.encode().ljust(16, b"\0"))
        model.metadata = [entry]
        model.buffers.append(data)
    return packed(model)
