"""A TFLite file as objects, and back. No TensorFlow.

Source: the TFLite schema (tensorflow/compiler/mlir/lite/schema/schema.fbs), version 3.
"""

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfx_mobile.common.errors import DataError

_IDENTIFIER = b"TFL3"


def read(content: bytes) -> Any:
    """Returns the file as a `ModelT`, with what is stored behind the flatbuffer in its buffers.

    Raises:
      DataError: It is no TFLite file.
    """
    if content[4:8] != _IDENTIFIER:
        raise DataError(
            f"A TFLite file must have the identifier 'TFL3'; got {len(content)} bytes without it."
        )
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for buffer in model.buffers:
        if buffer.data is None and buffer.offset > 1:  # 0 and 1 stand for none
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def write(model: Any) -> bytes:
    """Returns the bytes of a `ModelT`, the same for the same content."""
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())
