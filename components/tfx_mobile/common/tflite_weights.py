"""A Keras model's kernels in a TFLite file: where they are, and their zeros.

A converter transposes kernels, splits them by gate, folds batch normalisation into them and rounds them to 16
or 8 bits, and its names say little. So a kernel is looked for by its content: the constant whose values,
in one of the layouts a converter uses and up to a factor for each channel, point the same way. Reads the
flatbuffer alone; no TensorFlow.

Source: the TFLite schema (tensorflow/compiler/mlir/lite/schema/schema.fbs), version 3; sparse tensors as
explained there at `SparsityParameters` (Chou et al. 2018, Format abstraction for sparse tensor algebra).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from tfx_mobile.common import tflite_objects
from tfx_mobile.common.errors import DataError
from tfx_mobile.common.ladder import LayerSparsity

Array = npt.NDArray[Any]

_DTYPES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT8: np.int8,
}
_GATES = 4  # an LSTM's kernel becomes one constant for each gate
_SAME = 0.95  # cosine: 8 bits leave more than 0.99, and another kernel has about 0
_TIE = 1e-3
_MIN_CHANNEL = 4  # a channel of fewer weights points the same way as too many others


def count_zeros(content: bytes, kernels: Mapping[str, Array]) -> tuple[LayerSparsity, ...]:
    """Returns the zeros of each kernel in the file, in the given order.

    Args:
      content: A TFLite file: float32, float16, dynamic range or int8, dense or sparse.
      kernels: Keras weights by name, any rank: of Dense, convolutions, recurrent layers and embeddings.

    Raises:
      DataError: It is no TFLite file, or a kernel is not in it; the message has the table of all kernels.
    """
    places = _places(content, kernels)
    found = {name: _fewest_zeros(parts) for name, parts in places.items()}
    if lost := [name for name, zeros in found.items() if zeros is None]:
        raise DataError(
            f"Each pruned kernel must be in the TFLite file; '{lost[0]}' is not. All kernels: "
            f"{_table(kernels, found)}."
        )
    return tuple(
        LayerSparsity(name, int(np.size(kernel)), found[name] or 0) for name, kernel in kernels.items()
    )


def locate(content: bytes, kernels: Mapping[str, Array]) -> dict[str, tuple[tuple[int, int], ...]]:
    """Returns the (subgraph, tensor) of the constants that hold each kernel; none for one that is not there.

    Args:
      content: A TFLite file.
      kernels: Keras weights by name, any rank.

    Raises:
      DataError: It is no TFLite file.
    """
    places = _places(content, kernels)
    return {
        name: tuple((one.subgraph, one.tensor) for part in parts for one in part)
        for name, parts in places.items()
    }


def check(content: bytes, kernels: Mapping[str, Array], rung_name: str) -> tuple[LayerSparsity, ...]:
    """Refuses a file that has fewer zeros than the Keras kernels it was made from.

    Kernels without zeros have none to lose and are not looked for.

    Args:
      content: A TFLite file.
      kernels: Keras weights by name.
      rung_name: For the message.

    Returns:
      The zeros of each kernel that has some, in the file.

    Raises:
      DataError: A kernel has fewer zeros in the file, or is not in it; the message has the table.
    """
    pruned = {name: kernel for name, kernel in kernels.items() if np.count_nonzero(kernel) < np.size(kernel)}
    try:
        layers = count_zeros(content, pruned)
    except DataError as error:
        raise DataError(f"Rung '{rung_name}': {error}") from error
    zeros = {layer.weight: layer.num_zeros for layer in layers}
    if short := [name for name, kernel in pruned.items() if zeros[name] < _num_zeros(kernel)]:
        raise DataError(
            f"Rung '{rung_name}': the TFLite file must keep each pruned kernel's zeros; '{short[0]}' has "
            f"{zeros[short[0]]} where Keras has {_num_zeros(pruned[short[0]])}. All kernels: "
            f"{_table(pruned, zeros)}."
        )
    return layers


def _num_zeros(kernel: Array) -> int:
    return int(np.size(kernel) - np.count_nonzero(kernel))


def _table(kernels: Mapping[str, Array], found: Mapping[str, int | None]) -> str:
    """Returns one entry for each kernel: its zeros in Keras and in the file, of all its weights."""
    entries = []
    for name, kernel in kernels.items():
        zeros = "not found" if found[name] is None else found[name]
        entries.append(f"{name} {_num_zeros(kernel)} -> {zeros} of {np.size(kernel)}")
    return "; ".join(entries)


@dataclass(frozen=True)
class _Constant:
    subgraph: int
    tensor: int
    values: Array


# One entry for the whole kernel, or one for each gate: the constants that hold it, at least one.
_Parts = list[list[_Constant]]


def _places(content: bytes, kernels: Mapping[str, Array]) -> dict[str, _Parts]:
    """Returns the constants that hold each kernel; an empty list for a kernel that is not there."""
    constants: dict[int, list[_Constant]] = {}
    for constant in _constants(content):
        constants.setdefault(constant.values.size, []).append(constant)
    return {name: _find(np.asarray(kernel, np.float32), constants) for name, kernel in kernels.items()}


def _fewest_zeros(parts: _Parts) -> int | None:
    """Returns the zeros of a kernel, where it has fewest if it is there twice; None when it is not there."""
    return sum(min(_num_zeros(one.values) for one in part) for part in parts) if parts else None


def _find(kernel: Array, constants: Mapping[int, Sequence[_Constant]]) -> _Parts:
    whole = _match(kernel, constants.get(kernel.size, ()))
    if whole:
        return [whole]
    if kernel.ndim != 2 or kernel.shape[-1] % _GATES:
        return []
    gates = [_match(gate, constants.get(gate.size, ())) for gate in np.split(kernel, _GATES, axis=-1)]
    return gates if all(gates) else []


def _match(kernel: Array, constants: Sequence[_Constant]) -> list[_Constant]:
    scores = [max(_similarity(layout, one.values) for layout in _layouts(kernel)) for one in constants]
    best = max(scores, default=0.0)
    if best < _SAME:
        return []
    return [one for one, score in zip(constants, scores, strict=True) if score >= best - _TIE]


def _layouts(kernel: Array) -> Iterator[Array]:
    """Yields the orders in which a converter writes a kernel, flattened.

    As it is (embeddings, depthwise: 1HWC); outputs first (Dense, convolutions: OHWI); the last but one first
    (transposed convolutions); the first last (EinsumDense).
    """
    yield kernel.ravel()
    for source, target in ((-1, 0), (-2, 0), (0, -1)):
        if kernel.ndim > 2 or (kernel.ndim == 2 and source == -1):
            yield np.moveaxis(kernel, source, target).ravel()


def _similarity(kernel: Array, values: Array) -> float:
    """Returns how far two arrays point the same way, in [0, 1]: whole, or channel by channel, signs apart.

    Args:
      kernel: Flat, in the order of `values`.
      values: In the file's shape; channels are along its first or its last axis.
    """
    norm = float(np.linalg.norm(kernel))
    if norm == 0:
        return float(not values.any())
    flat = values.ravel()
    scores = [float(abs(_cosine(kernel[None], flat[None])[0]))]
    channels = values.shape[0] if values.ndim else 1
    last = values.shape[-1] if values.ndim else 1
    for one, other, num in (
        (kernel.reshape(channels, -1), flat.reshape(channels, -1), flat.size // channels),
        (kernel.reshape(-1, last).T, flat.reshape(-1, last).T, flat.size // last),
    ):
        if num >= _MIN_CHANNEL:
            weight = np.linalg.norm(one, axis=1) ** 2
            scores.append(float((np.abs(_cosine(one, other)) * weight).sum() / weight.sum()))
    return max(scores)


def _cosine(rows: Array, others: Array) -> Array:
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(others, axis=1)
    return np.divide((rows * others).sum(axis=1), norms, out=np.zeros(len(rows)), where=norms > 0)


def _constants(content: bytes) -> Iterator[_Constant]:
    """Yields the constants of all subgraphs, de-quantised; what stands for 0 becomes 0."""
    model = tflite_objects.read(content)
    for i, subgraph in enumerate(model.subgraphs):
        for j, tensor in enumerate(subgraph.tensors):
            data = model.buffers[tensor.buffer].data
            if data is None or tensor.type not in _DTYPES:
                continue
            stored = np.frombuffer(np.asarray(data, np.uint8).tobytes(), _DTYPES[tensor.type])
            yield _Constant(i, j, _values(tensor, stored))


def _values(tensor: Any, stored: Array) -> Array:
    shape = [int(extent) for extent in (tensor.shape if tensor.shape is not None else [])]
    scales, zero_points = np.ones(1, np.float32), np.zeros(1, np.int64)
    if tensor.type == schema.TensorType.INT8 and tensor.quantization is not None:
        if tensor.quantization.scale is not None:
            scales = np.asarray(tensor.quantization.scale, np.float32)
        if tensor.quantization.zeroPoint is not None:
            zero_points = np.asarray(tensor.quantization.zeroPoint, np.int64)
    if tensor.sparsity is not None:
        stored = _dense(tensor.sparsity, stored, shape, fill=int(zero_points[0]))
    along = [1] * len(shape)
    if scales.size > 1:
        along[tensor.quantization.quantizedDimension] = scales.size
    steps = stored.reshape(shape).astype(np.float32) - np.broadcast_to(zero_points, scales.shape).reshape(
        along
    )
    return np.asarray(steps * scales.reshape(along), np.float32)


def _dense(sparsity: Any, stored: Array, shape: Sequence[int], fill: int) -> Array:
    """Returns all values of a sparse tensor, flat.

    Level by level, each node of the level before has either all positions along the level's dimension, or
    those listed for it. Dimensions beyond the tensor's rank are positions inside a block.
    """
    rank = len(shape)
    blocks = [] if sparsity.blockMap is None else [int(dim) for dim in sparsity.blockMap]
    order = [int(level) for level in sparsity.traversalOrder]
    sizes: dict[int, int] = {}
    positions: dict[int, Array] = {}
    nodes = 1
    for level, metadata in zip(order, sparsity.dimMetadata, strict=True):
        if metadata.format == schema.DimensionType.DENSE:
            sizes[level] = int(metadata.denseSize)
            parents = np.repeat(np.arange(nodes), sizes[level])
            here = np.tile(np.arange(sizes[level]), nodes)
        else:
            segments = np.asarray(metadata.arraySegments.values, np.int64)
            parents = np.repeat(np.arange(nodes), np.diff(segments))
            here = np.asarray(metadata.arrayIndices.values, np.int64)
        positions = {known: at[parents] for known, at in positions.items()} | {level: here}
        nodes = len(here)
    index = [positions[dim] for dim in range(rank)]
    for block, dim in enumerate(blocks):
        index[dim] = index[dim] * sizes[rank + block] + positions[rank + block]
    values = np.full(shape, fill, stored.dtype)
    values[tuple(index)] = stored
    return values.ravel()
