"""Leaving out of a TFLite file what changes no result: statistics, debug names, what is stored twice.

Tensors, operators, signatures and custom options keep their numbers and values; constants stay at multiples
of 16 bytes, as the schema asks. Works on the flatbuffer alone; no TensorFlow.
"""

from typing import Any

import numpy as np

from tfx_mobile.common import tflite_file
from tfx_mobile.common.errors import DataError
from tfx_mobile.common.flatbuffer import Table

_CONVERSION = b"CONVERSION_METADATA"


def strip(
    content: bytes, *, names: bool = True, statistics: bool = True, conversion_metadata: bool = False
) -> bytes:
    """Returns a file with the same results in fewer bytes; stripping it again changes nothing.

    Equal constants become one, buffers and operator codes that nothing uses go, and so does the description.

    Args:
      content: A TFLite file.
      names: Whether to leave out the names of tensors and subgraphs, but for inputs and outputs, which some
        tools look up by name.
      statistics: Whether to leave out the smallest and largest value seen when the file was calibrated.
      conversion_metadata: Whether to leave out which converter made the file, and how.

    Raises:
      DataError: It is no TFLite file, or it has content outside its tables.
    """
    model = tflite_file.to_rewrite(content).replace(description=None)
    if conversion_metadata:
        model = model.replace(metadata=[e for e in model.get("metadata", []) if e.get("name") != _CONVERSION])
    subgraphs = []
    for number, subgraph in enumerate(model.get("subgraphs", [])):
        tensors = subgraph.get("tensors", [])
        if names:
            shown = _interface(model, number)
            tensors = [t if i in shown else t.replace(name=None) for i, t in enumerate(tensors)]
            subgraph = subgraph.replace(name=None)
        if statistics:
            tensors = [_without_statistics(tensor) for tensor in tensors]
        subgraphs.append(subgraph.replace(tensors=tensors))
    return tflite_file.write(_used_buffers(_used_codes(model.replace(subgraphs=subgraphs))))


def _interface(model: Table, number: int) -> set[int]:
    """Returns the tensors of a subgraph that are its inputs or outputs, or a signature's."""
    subgraph = model.get("subgraphs")[number]
    found = (
        {int(i) for side in ("inputs", "outputs") for i in subgraph.get(side, ())} if number == 0 else set()
    )
    for signature in model.get("signature_defs", []):
        if signature.get("subgraph_index", 0) == number:
            entries = [*signature.get("inputs", []), *signature.get("outputs", [])]
            found |= {entry.get("tensor_index", 0) for entry in entries}
    return found


def _without_statistics(tensor: Table) -> Table:
    """Drops min and max, and quantisation parameters that then say nothing."""
    found = tensor.get("quantization")
    if found is None:
        return tensor
    left = found.replace(min=None, max=None)
    says = any(len(left.get(field, ())) for field in ("scale", "zero_point")) or left.get("details")
    return tensor.replace(quantization=left if says else None)


def _used_codes(model: Table) -> Table:
    """Keeps the operator codes that operators have, each once."""
    codes = model.get("operator_codes", [])
    kept: list[Table] = []
    places: dict[tuple[tuple[str, Any], ...], int] = {}

    def place(operator: Table) -> Table:
        index = operator.get("opcode_index", 0)
        if index >= len(codes):
            raise DataError(
                f"An operator must have one of {len(codes)} codes; got {index}. The file is damaged."
            )
        key = tuple(sorted(codes[index].fields.items()))
        if key not in places:
            places[key] = len(kept)
            kept.append(codes[index])
        return operator.replace(opcode_index=places[key])

    subgraphs = [
        subgraph.replace(operators=[place(operator) for operator in subgraph.get("operators", [])])
        for subgraph in model.get("subgraphs", [])
    ]
    return model.replace(operator_codes=kept, subgraphs=subgraphs)


def _used_buffers(model: Table) -> Table:
    """Keeps the buffers that tensors or metadata have, equal constants once; buffer 0 is the empty one."""
    buffers = model.get("buffers", [])
    kept = [Table("Buffer")]
    places: dict[bytes, int] = {b"": 0}

    def data(index: int) -> bytes:
        if index >= len(buffers):
            raise DataError(f"A buffer must be one of {len(buffers)}; got {index}. The file is damaged.")
        return bytes(buffers[index].get("data", b""))

    def place(index: int) -> int:
        found = data(index)
        if found not in places:
            places[found] = len(kept)
            kept.append(Table("Buffer", {"data": np.frombuffer(found, np.uint8)}))
        return places[found]

    def own(index: int) -> int:
        kept.append(Table("Buffer", {"data": np.frombuffer(data(index), np.uint8)}))
        return len(kept) - 1

    subgraphs = [
        subgraph.replace(
            tensors=[t.replace(buffer=place(t.get("buffer", 0))) for t in subgraph.get("tensors", [])]
        )
        for subgraph in model.get("subgraphs", [])
    ]
    # metadata has buffers of its own, which can be replaced later
    metadata = [entry.replace(buffer=own(entry.get("buffer", 0))) for entry in model.get("metadata", [])]
    old = {int(index) for index in model.get("metadata_buffer", ())}
    moved = [
        m.get("buffer")
        for m, e in zip(metadata, model.get("metadata", []), strict=True)
        if e.get("buffer", 0) in old
    ]
    return model.replace(
        buffers=kept,
        subgraphs=subgraphs,
        metadata=metadata or None,
        metadata_buffer=np.array(moved, np.int32) if moved else None,
    )
