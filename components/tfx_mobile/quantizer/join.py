"""Joining two TFLite files into one: the first one's outputs become the second one's inputs.

So preprocessing stays in float32 to the bit while the model behind it is quantised in any mode: a converter
that is given both at once also quantises dates, coordinates and the constants they are scaled by. Works on
the flatbuffer alone; no TensorFlow.

Source: the TFLite schema (tensorflow/compiler/mlir/lite/schema/schema.fbs), version 3.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfx_mobile.common import tflite_objects
from tfx_mobile.common.errors import DataError

_MIN_RUNTIME = b"min_runtime_version"


def join(front: bytes, back: bytes) -> bytes:
    """Returns one file that computes back(front(x)).

    Args:
      front: File with one signature; its outputs have the names of `back`'s inputs.
      back: File with one signature.

    Returns:
      The joined file; its signature has front's inputs and back's outputs, and back's name.

    Raises:
      DataError: A file has not exactly one signature, or the front lacks an input of the back or has it in
        another type.
    """
    first, second = _read(front), _read(back)
    return tflite_objects.write(_Joiner(first, second).join())


class _Joiner:
    """Moves the second model's parts into the first one, renumbering what they point to."""

    def __init__(self, first: Any, second: Any) -> None:
        self._first, self._second = first, second
        self._num_buffers = len(first.buffers)
        self._num_subgraphs = len(first.subgraphs)
        self._opcodes = self._merge_opcodes()

    def join(self) -> Any:
        first, second = self._first, self._second
        first.buffers += second.buffers[1:]  # buffer 0 is the empty one in every file
        main, added = first.subgraphs[0], second.subgraphs[0]
        for subgraph in second.subgraphs:
            self._renumber_subgraph(subgraph)
        position = self._positions(main, added)
        main.tensors += [tensor for i, tensor in enumerate(added.tensors) if position[i] >= len(main.tensors)]
        for operator in added.operators:
            for field in ("inputs", "outputs", "intermediates"):
                _map_indices(operator, field, lambda i: i if i < 0 else position[i])
        main.operators += added.operators
        main.outputs = np.array([position[i] for i in added.outputs], np.int32)
        first.subgraphs += second.subgraphs[1:]
        signature = second.signatureDefs[0]
        for output in signature.outputs:
            output.tensorIndex = position[output.tensorIndex]
        first.signatureDefs[0].outputs = signature.outputs
        first.signatureDefs[0].signatureKey = signature.signatureKey
        self._raise_min_runtime()
        return first

    def _positions(self, main: Any, added: Any) -> list[int]:
        """Where each tensor of the second main subgraph ends up in the joined one."""
        made = {entry.name: entry.tensorIndex for entry in self._first.signatureDefs[0].outputs}
        wanted = {entry.tensorIndex: entry.name for entry in self._second.signatureDefs[0].inputs}
        position, following = [], len(main.tensors)
        for i, tensor in enumerate(added.tensors):
            if i not in wanted:
                position.append(following)
                following += 1
                continue
            name = wanted[i].decode()
            if wanted[i] not in made:
                names = ", ".join(sorted(entry.decode() for entry in made))
                raise DataError(
                    f"The first file must make {name!r}, an input of the second; it makes {names}."
                )
            source = made[wanted[i]]
            types = main.tensors[source].type, tensor.type
            if types[0] != types[1]:
                raise DataError(
                    f"{name!r} must have the same type in both files; got "
                    f"{_type_name(types[0])} and {_type_name(types[1])}."
                )
            position.append(source)
        return position

    def _merge_opcodes(self) -> list[int]:
        """Returns the new index of each operator code of the second file, adding those that are missing."""
        codes = self._first.operatorCodes
        known = {_code_key(code): i for i, code in enumerate(codes)}
        merged = []
        for code in self._second.operatorCodes:
            if _code_key(code) not in known:
                known[_code_key(code)] = len(codes)
                codes.append(code)
            merged.append(known[_code_key(code)])
        return merged

    def _renumber_subgraph(self, subgraph: Any) -> None:
        for tensor in subgraph.tensors:
            if tensor.buffer:
                tensor.buffer += self._num_buffers - 1
        for operator in subgraph.operators:
            operator.opcodeIndex = self._opcodes[operator.opcodeIndex]
            for options in (operator.builtinOptions, operator.builtinOptions2):
                for field in vars(options) if options is not None else ():
                    if field.endswith(("SubgraphIndex", "SubgraphIndices")):
                        _map_indices(options, field, lambda i: i if i < 0 else i + self._num_subgraphs - 1)

    def _raise_min_runtime(self) -> None:
        """Keeps the higher of the two files' minimum runtime versions; other metadata is the first file's."""
        own, buffers = _min_runtime(self._first)
        other, _ = _min_runtime(self._second)
        if other > own:
            text = ".".join(map(str, other)).encode().ljust(16, b"\0")
            for buffer in buffers:
                buffer.data = np.frombuffer(text, np.uint8)


def _min_runtime(model: Any) -> tuple[tuple[int, ...], list[Any]]:
    buffers = [model.buffers[entry.buffer] for entry in model.metadata or [] if entry.name == _MIN_RUNTIME]
    texts = [bytes(buffer.data).rstrip(b"\0").decode() for buffer in buffers if buffer.data is not None]
    parsed = [tuple(int(part) for part in text.split(".")) for text in texts if text]
    return max(parsed, default=()), buffers


def _map_indices(owner: Any, field: str, change: Callable[[int], int]) -> None:
    value = getattr(owner, field)
    if value is None:
        return
    if isinstance(value, Iterable):
        setattr(owner, field, np.array([change(int(i)) for i in value], np.int32))
    else:
        setattr(owner, field, change(int(value)))


def _code_key(code: Any) -> tuple[Any, ...]:
    return code.builtinCode, code.deprecatedBuiltinCode, code.customCode, code.version


def _type_name(code: int) -> str:
    names = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    return str(names.get(code, code))


def _read(content: bytes) -> Any:
    model = tflite_objects.read(content)
    if len(model.signatureDefs or []) != 1:
        raise DataError(f"A file to join must have one signature; got {len(model.signatureDefs or [])}.")
    return model
