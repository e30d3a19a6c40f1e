"""Rounding a file's int8 weights to fewer values, for gzip. Bytes in, bytes out; no TensorFlow.

A weight stays a byte with the scale it has, so every op and runtime computes as before; but of the 255 values
only 2**bits - 1 are used, evenly spaced, 0 among them. What is downloaded is coded by how often each value
occurs (Shannon's entropy), so that it is as small as weights packed in so many bits, or smaller: zeros of
pruning go on paying.

Source: uniform quantisation followed by entropy coding, Gish and Pierce (1968), "Asymptotically efficient
quantizing", IEEE Trans. Inf. Theory 14; for networks, Han et al. (2016), "Deep Compression".
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from tfx_mobile.common import tflite_objects

_LARGEST = 127


def round_values(values: npt.NDArray[np.int8], bits: int) -> npt.NDArray[np.int8]:
    """Returns each value moved to the nearest of 2**bits - 1 evenly spaced ones in [-127, 127].

    Args:
      values: int8, any shape; -128 counts as -127.
      bits: 2 to 8.

    Returns:
      Same shape; 0 stays 0, signs stay, and no value moves by more than half a step, 127 / (2**bits - 2).
    """
    levels = 2 ** (bits - 1) - 1
    clipped = np.maximum(values.astype(np.float64), -_LARGEST)
    return np.asarray(np.rint(np.rint(clipped * levels / _LARGEST) * _LARGEST / levels), np.int8)


def round_weights(content: bytes, bits: int) -> bytes:
    """Returns the file with every int8 constant of two or more dimensions rounded; see `round_values`.

    Raises:
      DataError: It is no TFLite file.
    """
    model = tflite_objects.read(content)
    buffers = {
        tensor.buffer
        for subgraph in model.subgraphs
        for tensor in subgraph.tensors
        if tensor.type == schema.TensorType.INT8 and np.size(tensor.shape) >= 2 and _is_symmetric(tensor)
    }
    for index in buffers:
        data = model.buffers[index].data
        if data is not None:
            stored = np.frombuffer(np.asarray(data, np.uint8).tobytes(), np.int8)
            model.buffers[index].data = round_values(stored, bits).view(np.uint8)
    return tflite_objects.write(model)


def _is_symmetric(tensor: Any) -> bool:
    """Whether 0 stands for 0.0: true of weights, not of activations."""
    quantization = tensor.quantization
    return quantization is not None and not np.any(quantization.zeroPoint)
