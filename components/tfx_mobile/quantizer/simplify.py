"""Leaving out of a TFLite file the operators whose result is known beforehand. Bytes in, bytes out.

A z-score of TFT asks of each row whether the standard deviation is 0, which the analysis has answered: four
operators for each feature. TensorFlow's converter does not see it, because the condition has the rows' shape.
Where preprocessing and model were joined, features are given a shape that they have.
"""

import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfx_mobile.common import tflite_objects

_OP = schema.BuiltinOperator
_CHOICES = (_OP.SELECT, _OP.SELECT_V2)
_KNOWN_OF_KNOWN: dict[int, Callable[..., Any]] = {
    _OP.ADD: operator.add,
    _OP.EQUAL: operator.eq,
    _OP.NOT_EQUAL: operator.ne,
    _OP.LOGICAL_NOT: operator.not_,
}
_PURE = (*_CHOICES, *_KNOWN_OF_KNOWN, _OP.ZEROS_LIKE, _OP.CAST, _OP.RESHAPE)
_DTYPES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.INT64: np.int64,
    schema.TensorType.BOOL: np.bool_,
}


def simplify(content: bytes) -> bytes:
    """Returns a file with the same results, without choices made beforehand and reshapes to the same shape.

    Nor does it have what only they needed.

    Args:
      content: A TFLite file; its first subgraph is simplified.

    Raises:
      DataError: It is no TFLite file.
    """
    model = tflite_objects.read(content)
    main = model.subgraphs[0]
    instead = _decided(model, main)
    if not instead:
        return content
    _rename(main, instead)
    _drop_unneeded(model, main)
    _renumber(model, main)
    return tflite_objects.write(model)


def number_tables(content: bytes) -> bytes:
    """Returns the file with its lookup tables numbered in their order.

    The converter's numbers depend on how many tables its process has made before.

    Raises:
      DataError: It is no TFLite file.
    """
    model = tflite_objects.read(content)
    numbers: dict[int, int] = {}
    for graph in model.subgraphs:
        for one in graph.operators:
            if model.operatorCodes[one.opcodeIndex].builtinCode == _OP.HASHTABLE:
                options = one.builtinOptions
                options.tableId = numbers.setdefault(options.tableId, len(numbers) + 1)
    return tflite_objects.write(model) if numbers else content


def _decided(model: Any, graph: Any) -> dict[int, int]:
    """Returns, for the output of each operator that is not needed, the tensor that stands in its place."""
    known: dict[int, Any] = {}  # by tensor, the value that all its elements have
    instead: dict[int, int] = {}
    for index, tensor in enumerate(graph.tensors):
        value = _uniform(model, tensor)
        if value is not None:
            known[index] = value
    for code, inputs, output, one in _with_codes(model, graph):
        values: list[Any] = [known.get(index) for index in inputs]
        chosen = inputs[0] if code == _OP.RESHAPE else None
        if code in _CHOICES and values[0] is not None:
            chosen = inputs[1] if values[0] else inputs[2]
        if chosen is not None:
            if _same_shape(graph, chosen, output) and output not in graph.outputs:
                instead[output] = instead.get(chosen, chosen)
        elif code == _OP.ZEROS_LIKE:
            known[output] = 0
        elif None in values or (one.builtinOptions is not None and _activation(one.builtinOptions)):
            continue
        elif code in _KNOWN_OF_KNOWN:
            known[output] = _KNOWN_OF_KNOWN[code](*values)
        elif code == _OP.CAST and graph.tensors[output].type in _DTYPES:
            known[output] = _DTYPES[graph.tensors[output].type](values[0])
    return instead


def _uniform(model: Any, tensor: Any) -> Any:
    data = model.buffers[tensor.buffer].data
    if data is None or tensor.type not in _DTYPES:
        return None
    values = np.frombuffer(np.asarray(data, np.uint8).tobytes(), _DTYPES[tensor.type])
    return values[0] if values.size and (values == values[0]).all() else None


def _with_codes(model: Any, graph: Any) -> Iterator[tuple[int, list[int], int, Any]]:
    for one in graph.operators:
        if one.outputs is not None and len(one.outputs) == 1 and one.inputs is not None:
            code = model.operatorCodes[one.opcodeIndex].builtinCode
            yield code, [int(i) for i in one.inputs], int(one.outputs[0]), one


def _activation(options: Any) -> int:
    return int(getattr(options, "fusedActivationFunction", 0))


def _same_shape(graph: Any, one: int, other: int) -> bool:
    """Whether two tensors have the same shape in every call; one extent may be open, the number of rows."""
    shapes: list[list[int]] = []
    for index in (one, other):
        tensor = graph.tensors[index]
        shape = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
        shapes.append([] if shape is None else [int(extent) for extent in shape])
    return shapes[0] == shapes[1] and shapes[0].count(-1) <= 1


def _rename(graph: Any, instead: dict[int, int]) -> None:
    for one in graph.operators:
        if one.inputs is not None:
            one.inputs = np.array([instead.get(int(i), int(i)) for i in one.inputs], np.int32)


def _drop_unneeded(model: Any, graph: Any) -> None:
    """Drops operators that nothing needs, from the last one on; none that could have an effect elsewhere."""
    needed = {int(i) for i in graph.outputs}
    kept = []
    for one in reversed(graph.operators):
        outputs = [] if one.outputs is None else [int(i) for i in one.outputs]
        is_pure = model.operatorCodes[one.opcodeIndex].builtinCode in _PURE
        if not is_pure or needed.intersection(outputs):
            needed.update(int(i) for i in (() if one.inputs is None else one.inputs))
            kept.append(one)
    graph.operators = kept[::-1]


def _renumber(model: Any, graph: Any) -> None:
    """Drops tensors that nothing uses."""
    signatures = [one for one in model.signatureDefs or [] if one.subgraphIndex == 0]
    entries = [entry for one in signatures for entry in (*one.inputs, *one.outputs)]
    used = {int(i) for i in (*graph.inputs, *graph.outputs)} | {entry.tensorIndex for entry in entries}
    fields = ("inputs", "outputs", "intermediates")
    for one in graph.operators:
        for field in fields:
            if (indices := getattr(one, field)) is not None:
                used.update(int(i) for i in indices)
    order = sorted(used - {-1})
    position = {old: new for new, old in enumerate(order)} | {-1: -1}
    graph.tensors = [graph.tensors[old] for old in order]
    for one in graph.operators:
        for field in fields:
            if (indices := getattr(one, field)) is not None:
                setattr(one, field, np.array([position[int(i)] for i in indices], np.int32))
    graph.inputs = np.array([position[int(i)] for i in graph.inputs], np.int32)
    graph.outputs = np.array([position[int(i)] for i in graph.outputs], np.int32)
    for entry in entries:
        entry.tensorIndex = position[entry.tensorIndex]
