"""The default blocks are those that TFLite stores as blocks; the transposed ones are not."""

from typing import Any

import numpy as np
import pytest

from tfx_mobile.pruning_trainer.config import Blocks
from tfx_mobile.pruning_trainer.masks import mask

pytestmark = pytest.mark.pipeline


def block_maps(structure: Blocks, *, int8: bool) -> list[list[int]]:
    """Returns the block sizes of each sparse tensor in a file of a net that is 80 % sparse."""
    import tensorflow as tf
    import tf_keras
    from ai_edge_litert import schema_py_generated as schema

    tf_keras.utils.set_random_seed(1)
    layers = [tf_keras.layers.Input((64,)), tf_keras.layers.Dense(64, "relu"), tf_keras.layers.Dense(4)]
    model = tf_keras.Sequential(layers)
    kernel = model.layers[0].kernel
    kernel.assign(kernel * mask(np.abs(kernel.numpy()), 0.8, structure))
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    converter.optimizations += [tf.lite.Optimize.DEFAULT] if int8 else []
    graph: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(converter.convert(), 0)).subgraphs[0]
    sparse = [tensor for tensor in graph.tensors if tensor.sparsity is not None]
    return [[x.denseSize for x in tensor.sparsity.dimMetadata[len(tensor.shape) :]] for tensor in sparse]


@pytest.mark.parametrize(
    ("structure", "int8", "blocks"),
    [
        (Blocks(), False, [4]),
        (Blocks(16, 1), True, [16]),
        (Blocks(1, 4), False, []),
    ],
)
def test_tflite_stores_blocks_along_the_inputs(structure: Blocks, int8: bool, blocks: list[int]) -> None:
    assert block_maps(structure, int8=int8) == [blocks]
