"""Zeros of kernels in TFLite files: made by hand, and made by the converter in each mode."""

import re
from collections.abc import Callable
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tfx_mobile.common import tflite_weights
from tfx_mobile.common.errors import DataError
from tfx_mobile.common.ladder import LayerSparsity

TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int8": schema.TensorType.INT8,
}


def constant(values: Any, scale: Any = None, zero_point: int = 0, axis: int = 0) -> tuple[Any, Any]:
    """Returns a tensor and its bytes; with scales, an 8-bit one of these steps."""
    tensor = schema.TensorT()
    tensor.shape, tensor.type = list(values.shape), TYPES[values.dtype.name]
    if scale is not None:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = np.atleast_1d(scale).astype(np.float32)
        tensor.quantization.zeroPoint = np.full(np.size(scale), zero_point, np.int64)
        tensor.quantization.quantizedDimension = axis
    return tensor, values.tobytes()


def tflite_file(*constants: tuple[Any, Any]) -> bytes:
    """Returns a file of these constants, the odd ones in a second subgraph."""
    model = schema.ModelT()
    model.version, model.buffers = 3, [schema.BufferT()]
    model.subgraphs = [schema.SubGraphT(), schema.SubGraphT()]
    for subgraph in model.subgraphs:
        subgraph.tensors = []
    for i, (tensor, content) in enumerate(constants):
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(content, np.uint8)
        tensor.buffer = len(model.buffers)
        model.buffers.append(buffer)
        model.subgraphs[i % 2].tensors.append(tensor)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def sparse_kernel(*shape: int, seed: int = 0, share: float = 0.75) -> Any:
    kernel = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    kernel[np.abs(kernel) < np.quantile(np.abs(kernel), share)] = 0
    return kernel


def zeros(content: bytes, kernel: Any) -> int:
    (layer,) = tflite_weights.count_zeros(content, {"k": kernel})
    assert layer.num_weights == kernel.size
    return layer.num_zeros


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((8, 12), lambda k: k),  # a table
        ((8, 12), lambda k: k.T),  # Dense
        ((3, 3, 4, 8), lambda k: k.transpose(3, 0, 1, 2)),  # Conv2D
        ((3, 3, 4, 2), lambda k: k.reshape(1, 3, 3, 8)),  # DepthwiseConv2D
        ((2, 2, 5, 4), lambda k: k.transpose(2, 0, 1, 3)),  # Conv2DTranspose
        ((5, 4, 6), lambda k: k.transpose(2, 0, 1).reshape(6, 1, 5, 4)),  # Conv1D
        ((16, 2, 4), lambda k: k.reshape(16, 8).T),  # EinsumDense
    ],
)
def test_a_kernel_is_found_in_each_layout_beside_others_of_its_size(
    shape: tuple[int, ...], layout: Callable[[Any], Any]
) -> None:
    kernel = sparse_kernel(*shape)
    others = [layout(sparse_kernel(*shape, seed=seed, share=0.1)) for seed in (1, 2)]
    content = tflite_file(
        constant(others[0]), constant(np.ascontiguousarray(layout(kernel))), constant(others[1])
    )
    assert zeros(content, kernel) == kernel.size * 3 // 4


def test_a_kernel_in_16_bits_is_found() -> None:
    kernel = sparse_kernel(8, 12)
    assert zeros(tflite_file(constant(kernel.T.astype(np.float16))), kernel) == 72


def test_a_kernel_that_normalisation_was_folded_into_is_found() -> None:
    kernel = sparse_kernel(3, 3, 4, 8)
    scale = np.linspace(-2, 3, 8, dtype=np.float32)
    content = tflite_file(constant(np.ascontiguousarray((kernel * scale).transpose(3, 0, 1, 2))))
    assert zeros(content, kernel) == 216


def test_the_zero_of_an_8_bit_kernel_is_its_zero_point() -> None:
    kernel = sparse_kernel(16, 16)
    scale = np.abs(kernel).max() / 100
    steps = np.rint(kernel / scale).astype(np.int8) + np.int8(3)
    steps[kernel == 0] = 3
    assert zeros(tflite_file(constant(steps, scale, zero_point=3)), kernel) == 192
    steps[np.nonzero(kernel == 0)[0][0], np.nonzero(kernel == 0)[1][0]] = 0  # stands for three steps below 0
    assert zeros(tflite_file(constant(steps, scale, zero_point=3)), kernel) == 191


def test_each_channel_of_an_8_bit_kernel_has_its_own_scale() -> None:
    kernel = sparse_kernel(16, 16) * np.geomspace(0.01, 100, 16, dtype=np.float32)
    for axis, values in ((1, kernel), (0, np.ascontiguousarray(kernel.T))):
        scales = np.abs(kernel).max(axis=0) / 127
        steps = np.rint(values / (scales if axis else scales[:, None])).astype(np.int8)
        assert zeros(tflite_file(constant(steps, scales, axis=axis)), kernel) == 192


def test_gates_are_found_one_by_one_and_added_up() -> None:
    kernel = sparse_kernel(6, 48)
    gates = [constant(np.ascontiguousarray(gate.T)) for gate in np.split(kernel, 4, axis=1)]
    assert zeros(tflite_file(*gates), kernel) == 216
    with pytest.raises(DataError, match=re.escape("'k' is not. All kernels: k 216 -> not found of 288.")):
        zeros(tflite_file(*gates[:3]), kernel)


def test_a_kernel_that_is_there_twice_counts_where_it_has_fewer_zeros() -> None:
    kernel = sparse_kernel(8, 12)
    worse = np.where(kernel == 0, np.float32(1e-4), kernel)
    worse[0, 0] = 0
    assert zeros(tflite_file(constant(kernel), constant(worse)), kernel) == np.count_nonzero(worse == 0)


def test_a_kernel_of_zeros_only_is_found_as_one() -> None:
    nothing = np.zeros((4, 6), np.float32)
    assert zeros(tflite_file(constant(nothing)), nothing) == 24
    with pytest.raises(DataError, match=re.escape("k 24 -> not found of 24.")):
        zeros(tflite_file(constant(nothing + 1)), nothing)


@pytest.mark.parametrize("width", [1, 4])
def test_a_sparse_tensor_counts_what_it_does_not_store(width: int) -> None:
    blocks = np.random.default_rng(5).random((8, 16 // width)) < 0.3  # these are stored
    kernel = np.random.default_rng(6).normal(size=(8, 16)).astype(np.float32)
    kernel[~np.repeat(blocks, width, axis=1)] = 0
    tensor, _ = constant(kernel)
    rows, columns, inside = (schema.DimensionMetadataT() for _ in range(3))
    rows.format, rows.denseSize = schema.DimensionType.DENSE, 8
    columns.format = schema.DimensionType.SPARSE_CSR
    columns.arraySegmentsType = columns.arrayIndicesType = schema.SparseIndexVector.Int32Vector
    columns.arraySegments, columns.arrayIndices = schema.Int32VectorT(), schema.Int32VectorT()
    columns.arraySegments.values = [0, *np.cumsum(blocks.sum(axis=1)).tolist()]
    columns.arrayIndices.values = np.nonzero(blocks)[1].tolist()
    inside.format, inside.denseSize = schema.DimensionType.DENSE, width
    tensor.sparsity = schema.SparsityParametersT()
    tensor.sparsity.traversalOrder, tensor.sparsity.dimMetadata = [0, 1], [rows, columns]
    if width > 1:
        tensor.sparsity.traversalOrder = [0, 1, 2]
        tensor.sparsity.dimMetadata, tensor.sparsity.blockMap = [rows, columns, inside], [1]
    content = tflite_file((tensor, kernel.reshape(8, -1, width)[blocks].tobytes()))
    assert zeros(content, kernel) == kernel.size - blocks.sum() * width
    assert zeros(content, kernel.T) == kernel.size - blocks.sum() * width


def test_a_file_that_lost_zeros_is_refused_with_the_table() -> None:
    kernel, kept = sparse_kernel(8, 12), sparse_kernel(6, 10, share=0.5)
    lost = np.where(kernel == 0, np.float32(1e-3), kernel)
    content = tflite_file(constant(lost), constant(kept))
    message = (
        "Rung 's75': the TFLite file must keep each pruned kernel's zeros; 'a/kernel' has 0 where Keras has "
        "72. All kernels: a/kernel 72 -> 0 of 96; b/kernel 30 -> 30 of 60."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        tflite_weights.check(content, {"a/kernel": kernel, "b/kernel": kept}, "s75")


def test_a_kernel_that_is_not_there_is_refused_with_the_table() -> None:
    kernel, kept = sparse_kernel(8, 12), sparse_kernel(6, 10, share=0.5)
    message = (
        "Rung 's75': Each pruned kernel must be in the TFLite file; 'a/kernel' is not. All kernels: "
        "a/kernel 72 -> not found of 96; b/kernel 30 -> 30 of 60."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        tflite_weights.check(
            tflite_file(constant(sparse_kernel(8, 12, seed=7)), constant(kept)),
            {"a/kernel": kernel, "b/kernel": kept},
            "s75",
        )


def test_a_kernel_without_zeros_has_none_to_lose() -> None:
    content = tflite_file(constant(sparse_kernel(6, 10)))
    kernels = {"dense": np.ones((3, 4), np.float32), "k": sparse_kernel(6, 10)}
    assert tflite_weights.check(content, kernels, "s75") == (LayerSparsity("k", 60, 45),)


def test_what_is_no_tflite_file_is_refused() -> None:
    message = "A TFLite file must have the identifier 'TFL3'; got 9 bytes without it."
    with pytest.raises(DataError, match=re.escape(message)):
        tflite_weights.count_zeros(b"not a one", {})


def mlp(keras: Any) -> tuple[Any, Any]:
    given = keras.Input((20,), name="x")
    hidden = keras.layers.Dense(64, activation="relu", name="hidden_1")(given)
    return given, keras.layers.Dense(64, activation="relu", name="hidden_2")(hidden)


def convolutions(keras: Any) -> tuple[Any, Any]:
    draw = keras.initializers.RandomUniform(-2, 2, seed=1)
    given = found = keras.Input((10, 10, 3), name="x")
    for layer in (
        keras.layers.Conv2D(8, 3, use_bias=False),
        keras.layers.DepthwiseConv2D(3, depth_multiplier=2),
        keras.layers.SeparableConv2D(8, 3),
        keras.layers.Conv2DTranspose(4, 2),
    ):
        found = keras.layers.BatchNormalization(gamma_initializer=draw)(layer(found))
        found = keras.layers.ReLU()(found)
    return given, keras.layers.Flatten()(found)


def words(keras: Any) -> tuple[Any, Any]:
    given = keras.Input((7,), name="x", dtype="int64")
    found = keras.layers.Conv1D(8, 3)(keras.layers.Embedding(50, 16)(given))
    return given, keras.layers.GlobalAveragePooling1D()(found)


def lstm(keras: Any) -> tuple[Any, Any]:
    given = keras.Input((5, 6), name="x")
    return given, keras.layers.LSTM(12)(given)


def gru(keras: Any) -> tuple[Any, Any]:
    given = keras.Input((5, 6), name="x")
    return given, keras.layers.GRU(12)(given)


MODES = ("float32", "float16", "dynamic_range", "int8", "sparse")
NETS = [
    *[(build, "keras", mode) for build in (mlp, convolutions, words) for mode in MODES],
    *[(lstm, "tf_keras", mode) for mode in ("float32", "dynamic_range", "int8")],  # one op, a kernel a gate
    (lstm, "keras", "float32"),  # a loop
    (gru, "tf_keras", "float32"),  # a loop, whose 8-bit conversion ends the process (TensorFlow 2.16)
    (gru, "keras", "float16"),
]


@pytest.fixture(scope="module")
def nets() -> dict[tuple[str, str], Any]:
    """By name of the net and Keras line: the module, its function and input, and the pruned kernels."""
    import importlib

    import tensorflow as tf

    from tfx_mobile.pruning_trainer import selection

    made = {}
    for build, line in dict.fromkeys((build, line) for build, line, _ in NETS):
        keras = importlib.import_module(line)
        keras.utils.set_random_seed(3)
        given, found = build(keras)
        model = keras.Model({"x": given}, keras.layers.Dense(4, name="out")(found))
        kernels = {}
        for layer in selection.leaf_layers(model):
            for variable in selection.prunable_variables(layer):
                values = np.array(variable)
                values[np.abs(values) < np.quantile(np.abs(values), 0.75)] = 0
                variable.assign(values)
                kernels[selection.weight_name(variable)] = values
        module = tf.Module()
        module.weights = [getattr(w, "value", w) if line == "keras" else w for w in model.weights]
        rows = 1 if build in (lstm, gru) else None
        spec = tf.TensorSpec([rows, *given.shape[1:]], given.dtype, name="x")
        call = tf.function(lambda x, model=model: {"y": model({"x": x}, training=False)}, autograph=False)
        made[build.__name__, line] = module, call.get_concrete_function(x=spec), spec, kernels
    return made


@pytest.mark.pipeline
@pytest.mark.parametrize(("build", "line", "mode"), NETS)
def test_the_converter_keeps_every_zero(build: Any, line: str, mode: str, nets: Any) -> None:
    import tensorflow as tf

    from tfx_mobile.common import tflite

    module, function, spec, kernels = nets[build.__name__, line]
    draw = np.random.default_rng(4)

    def rows() -> Any:
        for _ in range(8):
            shape = [1, *spec.shape[1:]]
            values = draw.integers(0, 50, shape) if spec.dtype.is_integer else draw.normal(size=shape)
            yield "serving_default", {"x": values.astype(spec.dtype.as_numpy_dtype)}

    def settings(converter: Any) -> None:
        if mode != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if mode == "sparse":
            converter.optimizations.append(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
        if mode == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if mode == "int8":
            converter.representative_dataset = rows

    found = tflite_weights.check(tflite.convert(module, function, settings), kernels, "s75")
    for layer in found:
        wanted = np.count_nonzero(kernels[layer.weight] == 0)
        # 8 bits may round one more weight to 0: the survivors are in the tails, few of them near the quantile
        assert wanted <= layer.num_zeros <= wanted + 0.02 * layer.num_weights
    assert len(found) == len(kernels)
