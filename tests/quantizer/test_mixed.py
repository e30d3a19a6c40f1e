"""ai-edge-quantizer's modes on a small net: what is stored how, what it costs, what stays in float."""

import re
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tfx_mobile.common import tflite_objects
from tfx_mobile.common.candidates import gz_size_bytes
from tfx_mobile.common.errors import DataError
from tfx_mobile.common.interpreter import TFLiteModel
from tfx_mobile.quantizer import mixed
from tfx_mobile.quantizer.config import Mode, Quantization

pytestmark = pytest.mark.pipeline

WIDTHS = (96, 64, 10)


class Net:
    """A net with an embedding and three dense layers, as a float32 file, and what is needed to judge others.

    The first unit of the first layer is dead: its bias is far below zero.
    """

    def __init__(self) -> None:
        import tf_keras

        from tfx_mobile.quantizer import tflite

        layers = tf_keras.layers
        draw = np.random.default_rng(1)
        self.rows = {
            "place": draw.integers(0, 200, size=(200, 1)),
            "x": draw.normal(size=(200, 64)).astype(np.float32),
        }
        x, place = layers.Input((64,), name="x"), layers.Input((1,), name="place", dtype="int64")
        hidden = layers.Flatten()(layers.Embedding(200, 32, name="table")(place))
        hidden = layers.Concatenate()([x, hidden])
        for name, width in zip(("first", "second", "out"), WIDTHS, strict=True):
            hidden = layers.Dense(width, "relu" if name != "out" else None, name=name)(hidden)
        model = tf_keras.Model({"x": x, "place": place}, hidden)
        for layer in model.layers:
            shapes = [weight.shape for weight in layer.get_weights()]
            layer.set_weights([draw.normal(size=s, scale=s[0] ** -0.5).astype(np.float32) for s in shapes])
        bias = model.get_layer("first").bias
        bias.assign([-100.0, *bias.numpy()[1:]])
        predictor = tflite.of_keras(model)
        self.content = predictor.convert(Quantization(Mode.FLOAT32), self.rows)
        self.wanted = predictor.apply(self.rows)
        self.kernels = predictor.kernels()
        self.layers = mixed.layers(self.content, self.kernels)

    def gap(self, content: bytes) -> float:
        """Returns the mean difference from the float model, as a share of the predictions' spread."""
        found = TFLiteModel(content).predict(self.rows)
        return float(np.abs(found - self.wanted).mean() / self.wanted.std())


@pytest.fixture(scope="module")
def net() -> Net:
    return Net()


def weight_types(content: bytes, net: Net) -> dict[str, int]:
    """Returns how the kernel of each layer is stored, by the order of constants in the float32 file."""
    model = tflite_objects.read(content)
    tensors = model.subgraphs[0].tensors
    found = {}
    for name, kernel in net.kernels.items():
        shapes = [list(kernel.shape), list(kernel.shape[::-1])]
        for tensor in tensors:
            if model.buffers[tensor.buffer].data is not None and list(tensor.shape) in shapes:
                found[mixed.layer_of(name)] = tensor.type
    return found


def test_each_layer_with_weights_is_found_with_the_op_that_uses_it(net: Net) -> None:
    assert set(net.layers) == {"table", "first", "second", "out"}
    assert all(len(outputs) == 1 for outputs in net.layers.values())
    assert len({outputs for outputs in net.layers.values()}) == 4


@pytest.mark.parametrize(
    ("quantization", "stored", "largest_gap", "share"),
    [
        # 8 bits: a step is 1/127 of a channel's largest weight; 4 bits: 1/7. Share: of the float32 bytes.
        (Quantization(Mode.DYNAMIC_RANGE), schema.TensorType.INT8, 0.02, 0.32),
        (Quantization(Mode.WEIGHT_ONLY_INT8), schema.TensorType.INT8, 0.02, 0.32),
        (Quantization(Mode.INT8), schema.TensorType.INT8, 0.05, 0.34),
        (Quantization(Mode.INT16X8), schema.TensorType.INT8, 0.02, 0.42),
        (Quantization(Mode.INT4), schema.TensorType.INT4, 0.2, 0.25),
        (Quantization(Mode.INT4, block_size=32), schema.TensorType.INT4, 0.2, 0.25),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_mode_stores_dense_weights_so_and_stays_close_to_keras(
    quantization: Quantization, stored: int, largest_gap: float, share: float, net: Net
) -> None:
    content = mixed.quantize(net.content, quantization, net.rows)
    types = weight_types(content, net)
    assert {types[name] for name in ("first", "second", "out")} == {stored}
    assert 0 < net.gap(content) < largest_gap
    assert len(content) < share * len(net.content)


@pytest.mark.parametrize("mode", [Mode.DYNAMIC_RANGE, Mode.WEIGHT_ONLY_INT8, Mode.INT4, Mode.INT8])
def test_the_table_of_an_embedding_is_stored_in_int8(mode: Mode, net: Net) -> None:
    content = mixed.quantize(net.content, Quantization(mode), net.rows)
    assert weight_types(content, net)["table"] == schema.TensorType.INT8


@pytest.mark.parametrize("mode", [Mode.DYNAMIC_RANGE, Mode.WEIGHT_ONLY_INT8, Mode.INT4, Mode.INT8])
def test_excluded_layers_stay_float32_and_the_others_do_not(mode: Mode, net: Net) -> None:
    quantization = Quantization(mode, exclude=("f*", "table"))
    content, note = mixed.leave_worst_in_float(net.content, quantization, net.rows, net.wanted, net.layers)
    types = weight_types(content, net)
    assert types["first"] == types["table"] == schema.TensorType.FLOAT32
    assert schema.TensorType.FLOAT32 not in (types["second"], types["out"])
    assert note == "in float32: table, first"


def test_with_every_layer_excluded_the_file_is_the_float_model(net: Net) -> None:
    quantization = Quantization(Mode.DYNAMIC_RANGE, exclude=("*",))
    content, _ = mixed.leave_worst_in_float(net.content, quantization, net.rows, net.wanted, net.layers)
    assert net.gap(content) < 1e-6


def test_a_layer_whose_weights_lose_most_is_the_most_sensitive(net: Net) -> None:
    model = tflite_objects.read(net.content)
    # A huge weight for the dead unit in each channel: the channel's other weights fall on 0 in 4 bits.
    for tensor in model.subgraphs[0].tensors:
        if list(tensor.shape) == [WIDTHS[1], WIDTHS[0]] and model.buffers[tensor.buffer].data is not None:
            values = np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.float32).reshape(tensor.shape)
            spoilt = values.copy()
            spoilt[:, 0] = 40 * np.abs(values).max()
            model.buffers[tensor.buffer].data = np.frombuffer(spoilt.tobytes(), np.uint8)
    content = tflite_objects.write(model)
    wanted = TFLiteModel(content).predict(net.rows)
    found = mixed.sensitivities(content, Quantization(Mode.INT4), net.rows, wanted, net.layers)
    assert next(iter(found)) == "second"
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_keeping_more_layers_in_float_is_closer_and_larger(net: Net) -> None:
    made = [
        mixed.leave_worst_in_float(
            net.content, Quantization(Mode.INT4, keep_float=count), net.rows, net.wanted, net.layers
        )[0]
        for count in (1, 3)
    ]
    plain = mixed.quantize(net.content, Quantization(Mode.INT4), net.rows)
    gaps = [net.gap(content) for content in (plain, *made)]
    assert gaps == sorted(gaps, reverse=True)
    assert len(plain) < len(made[0]) < len(made[1])


def test_a_size_budget_lets_fewer_layers_stay_in_float(net: Net) -> None:
    limit = 0.5
    quantization = Quantization(Mode.INT4, keep_float=4, max_gz_ratio=limit)
    content, note = mixed.leave_worst_in_float(net.content, quantization, net.rows, net.wanted, net.layers)
    assert gz_size_bytes(content) <= limit * gz_size_bytes(net.content)
    kept = note.removeprefix("in float32: ").split(", ")
    assert 0 < len(kept) < 4
    one_more = Quantization(Mode.INT4, keep_float=len(kept) + 1)
    larger, _ = mixed.leave_worst_in_float(net.content, one_more, net.rows, net.wanted, net.layers)
    assert gz_size_bytes(larger) > limit * gz_size_bytes(net.content)


def test_a_budget_that_no_file_keeps_is_refused(net: Net) -> None:
    quantization = Quantization(Mode.INT8, keep_float=1, max_gz_ratio=0.1)
    with pytest.raises(
        DataError, match=re.escape("The file must be at most 0.1 of the float32 file's gz size; got ")
    ):
        mixed.leave_worst_in_float(net.content, quantization, net.rows, net.wanted, net.layers)


def test_a_pattern_that_names_no_layer_is_refused_with_those_there_are(net: Net) -> None:
    message = "exclude must name layers with weights; 'hidden' is not among first, out, second, table."
    with pytest.raises(DataError, match=re.escape(message)):
        mixed.matching(net.layers, ["hidden"])


def test_a_block_size_that_divides_no_layer_is_refused(net: Net) -> None:
    message = "block_size must divide the number of inputs of a dense layer; 256 divides none of 96, 96, 64."
    with pytest.raises(DataError, match=re.escape(message)):
        mixed.quantize(net.content, Quantization(Mode.INT4, block_size=256), net.rows)


@pytest.mark.parametrize("mode", [Mode.INT8, Mode.INT4])
def test_the_same_file_gives_the_same_bytes(mode: Mode, net: Net) -> None:
    one, other = (mixed.quantize(net.content, Quantization(mode), net.rows) for _ in range(2))
    assert one == other


def test_ranges_are_those_of_all_rows_not_an_average(net: Net) -> None:
    """An average of batches' extremes cuts off the largest predictions."""
    content = mixed.quantize(net.content, Quantization(Mode.INT8), net.rows)
    found: Any = TFLiteModel(content).predict(net.rows)
    assert found.max() == pytest.approx(net.wanted.max(), rel=0.1)
    assert found.min() == pytest.approx(net.wanted.min(), rel=0.1)
