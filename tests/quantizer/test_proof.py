"""Proving a file by running it, on files that are right, wrong at one batch size, or wrong in one runtime."""

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common.errors import DataError
from tfx_mobile.common.interpreter import Kernels, TFLiteModel
from tfx_mobile.quantizer import proof
from tfx_mobile.quantizer.core import Difference

OTHERS = (Kernels.WITHOUT_XNNPACK, Kernels.REFERENCE)
pytestmark = pytest.mark.pipeline

WIDTH, HIDDEN = 20, 64
NUM_ROWS = 100


@pytest.fixture(scope="session")
def rows() -> dict[str, Any]:
    return {"x": np.random.default_rng(5).normal(size=(NUM_ROWS, WIDTH)).astype(np.float32)}


def weights() -> tuple[Any, Any]:
    """Two layers, zero in three of four 1x4 blocks, so that the converter can encode them as sparse."""
    draw = np.random.default_rng(6)
    first = draw.normal(size=(WIDTH, HIDDEN)) * (draw.random((WIDTH // 4, HIDDEN)) < 0.25).repeat(4, 0)
    second = draw.normal(size=(HIDDEN, 3)) * (draw.random((HIDDEN // 4, 3)) < 0.25).repeat(4, 0)
    return first.astype(np.float32), second.astype(np.float32)


@pytest.fixture(scope="session")
def wanted(rows: dict[str, Any]) -> Any:
    return model_of(rows["x"])


def model_of(x: Any) -> Any:
    first, second = weights()
    return np.asarray(np.maximum(x @ first, 0) @ second, np.float32)


@pytest.fixture(scope="session")
def files(rows: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """By name: the net in each mode, dense and sparse, and functions of x that depend on the batch."""
    import tensorflow as tf

    first, second = weights()

    def net(x: Any) -> Any:
        return tf.matmul(tf.nn.relu(tf.matmul(x, first)), second)

    functions = {
        "net": net,
        "adds_the_batch_size": lambda x: net(x) + tf.cast(tf.shape(x)[0], tf.float32),
        "wide_at_batch_1": lambda x: tf.tile(x[:, :1], [1, tf.where(tf.shape(x)[0] == 1, 2, 1)]),
        "square_root": lambda x: tf.sqrt(x[:, :3] + 2.0),
    }
    folder = tmp_path_factory.mktemp("proof")

    pairs = tf.lookup.KeyValueTensorInitializer(
        tf.constant(["Flash", "Zürich"]), tf.constant([1, 2], tf.int64)
    )
    module = tf.Module()
    module.table = tf.lookup.StaticHashTable(pairs, -1)
    module.num_calls = tf.Variable(0.0)

    def remembers(x: Any) -> Any:
        before = module.num_calls.read_value()
        with tf.control_dependencies([module.num_calls.assign(before + 1.0)]):
            return x[:, :1] + tf.nn.relu(before - 1.0)  # the third call is the first to show it

    functions["remembers"] = remembers
    functions["lookup"] = lambda name: tf.cast(module.table.lookup(name)[:, None], tf.float32)
    number = tf.TensorSpec([None, WIDTH], tf.float32, name="x")
    text = tf.TensorSpec([None], tf.string, name="name")

    def convert(name: str, mode: str, sparse: bool) -> bytes:
        spec = text if name == "lookup" else number
        function = tf.function(functions[name], input_signature=[spec], autograph=False)
        owner = module if name in ("lookup", "remembers") else tf.Module()
        tf.saved_model.save(owner, str(folder / name), signatures={"serving_default": function})
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / name))
        converter.experimental_enable_resource_variables = name == "remembers"
        if mode != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if sparse:
            converter.optimizations = [*converter.optimizations, tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
        if mode == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if mode in ("int8", "int16x8"):
            converter.representative_dataset = lambda: ({"x": rows["x"][i : i + 1]} for i in range(NUM_ROWS))
        if mode == "int16x8":
            converter.target_spec.supported_ops = [
                tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
            ]
        return bytes(converter.convert())

    modes = ("float32", "float16", "dynamic_range", "int8", "int16x8")
    found = {mode: convert("net", mode, False) for mode in modes}
    found |= {f"{mode}-sparse": convert("net", mode, True) for mode in modes}
    found |= {name: convert(name, "float32", False) for name in functions if name != "net"}
    return found


# As shares of the predictions' mean absolute deviation: rounding; 2**-11 of each weight; 8 bits twice.
MODES = {"float32": 1e-6, "float16": 1e-3, "dynamic_range": 0.05, "int8": 0.05, "int16x8": 0.05}


@pytest.mark.parametrize("mode", MODES)
def test_a_dense_file_counts_in_every_mode(
    files: dict[str, bytes], rows: dict[str, Any], wanted: Any, mode: str
) -> None:
    found = proof.prove(files[mode], rows, wanted, exact=mode == "float32")
    assert found.failure == ""
    assert found.mean_abs < MODES[mode] * np.abs(wanted - wanted.mean(axis=0)).mean()
    assert found.mean_abs <= found.max_abs
    assert found.top1_agreement is not None
    assert found.top1_agreement >= 0.95
    assert found.max_abs_boundary is None


@pytest.mark.parametrize("mode", MODES)
def test_a_sparse_file_counts_or_says_why_not_and_one_that_counts_is_right(
    files: dict[str, bytes], rows: dict[str, Any], wanted: Any, mode: str
) -> None:
    """Which of them a runtime gets wrong differs from version to version; none may pass for right."""
    content = files[f"{mode}-sparse"]
    found = proof.prove(content, rows, wanted, exact=mode == "float32")
    good = True
    for load in (TFLiteModel, lambda given: TFLiteModel(given, kernels=Kernels.WITHOUT_XNNPACK)):
        try:
            got = load(content).predict(rows)
            good &= bool(np.abs(got - wanted).mean() < 0.05 * np.abs(wanted - wanted.mean(axis=0)).mean())
        except DataError:
            good = False
    assert (found.failure == "") == good


def test_the_difference_is_that_of_the_default_kernels_on_sampled_rows(
    files: dict[str, bytes], rows: dict[str, Any], wanted: Any
) -> None:
    far = {"x": np.concatenate([rows["x"], 100 * rows["x"][:2]])}
    together = np.concatenate([wanted, model_of(100 * rows["x"][:2])])
    found = proof.prove(files["int8"], far, together, exact=False, num_sampled=NUM_ROWS)
    alone = proof.prove(files["int8"], rows, wanted, exact=False)
    assert dataclasses.replace(found, max_abs_boundary=None) == alone
    assert found.max_abs_boundary is not None
    assert found.max_abs_boundary > 10 * found.max_abs  # int8 cuts them off


def test_boundary_rows_that_keras_cannot_do_are_not_judged(files: dict[str, bytes]) -> None:
    x = np.linspace(0, 1, 8 * WIDTH, dtype=np.float32).reshape(8, WIDTH)
    x[6], x[7] = -3.0, np.nan
    root = np.sqrt(np.maximum(x[:, :3] + 2, 0))
    root[6:] = np.nan
    content = files["square_root"]
    found = proof.prove(content, {"x": x}, root, exact=True, num_sampled=6)
    assert (found.failure, found.max_abs_boundary) == ("", None)
    root[6] = 0.0
    found = proof.prove(content, {"x": x}, root, exact=True, num_sampled=6)
    assert found.failure == "returns NaN or infinity for 3 predictions of boundary rows"


def test_a_file_that_counts_its_rows_does_not_count(
    files: dict[str, bytes], rows: dict[str, Any], wanted: Any
) -> None:
    found = proof.prove(files["adds_the_batch_size"], rows, wanted + NUM_ROWS, exact=True)
    assert re.fullmatch(r"predicts row 0 at batch 1 by 99\.?\d* otherwise than at batch 100", found.failure)
    assert found.top1_agreement == 1.0  # the first look found nothing


def test_a_file_of_other_outputs_at_batch_1_does_not_count(files: dict[str, bytes]) -> None:
    x = np.arange(8.0 * WIDTH, dtype=np.float32).reshape(8, WIDTH)
    found = proof.prove(files["wide_at_batch_1"], {"x": x}, x[:, :1], exact=True)
    assert found.failure == "returns 2 values at batch 1 and 1 at batch 8"


def test_a_file_that_remembers_what_it_was_given_does_not_count(files: dict[str, bytes]) -> None:
    x = np.ones((1, WIDTH), np.float32)
    found = proof.prove(files["remembers"], {"x": x}, x[:, :1], exact=True)
    assert found.failure == "predicts by 1 otherwise at batch 1 once it has run at batch 1"


@pytest.mark.parametrize("kernels", OTHERS)
def test_kernels_that_disagree_do_not_count(
    files: dict[str, bytes], rows: dict[str, Any], wanted: Any, kernels: Kernels
) -> None:
    def check(default: Any, keras: Any, exact: bool) -> str:
        return proof._check_kernels(
            files["float32"], kernels, rows, default, keras, exact=exact, num_sampled=NUM_ROWS, allowed=1e-4
        )

    assert check(wanted, wanted, True) == ""
    far = wanted + np.float32(100)  # what the default kernels are said to return, and Keras, if both do
    for keras in (wanted, far):
        assert check(far, keras, False) == (
            f"computes something else with the default kernels than with the {kernels.value}: 100 apart on "
            "average, more than quantisation excuses"
        )
    failure = check(far, far, True)
    assert failure.startswith("differs from the Keras model by up to 100")
    assert failure.endswith(f"more than float32 rounding (with the {kernels.value})")


def test_other_kernels_leave_out_the_default_ones(files: dict[str, bytes]) -> None:
    def delegates(model: Any) -> bool:
        return any("delegate" in each["op_name"].lower() for each in model.interpreter._get_ops_details())

    for content in (files["float32"], files["int8"]):
        assert delegates(TFLiteModel(content))
        assert not any(delegates(TFLiteModel(content, kernels=kernels)) for kernels in OTHERS)


@pytest.mark.parametrize("mode", MODES)
def test_the_reference_kernels_give_the_same_bits_at_every_batch_size(
    files: dict[str, bytes], rows: dict[str, Any], wanted: Any, mode: str
) -> None:
    exact = mode == "float32"
    assert proof.prove(files[mode], rows, wanted, exact=exact, others=OTHERS).failure == ""
    got, content = wanted + NUM_ROWS, files["adds_the_batch_size"]
    failure = proof._check_kernels(
        content, Kernels.REFERENCE, rows, got, got, exact=exact, num_sampled=NUM_ROWS, allowed=1000.0
    )
    assert failure.startswith("predicts row 0 at batch 1 by 99")
    assert failure.endswith("otherwise than at batch 100 (with the reference kernels)")


def test_a_file_of_ops_that_the_kernels_lack_does_not_count_with_them(files: dict[str, bytes]) -> None:
    names, wanted = np.array([b"Flash", b""], object), np.array([[1.0], [-1.0]], np.float32)
    found = proof.prove(files["lookup"], {"name": names}, wanted, exact=True, others=(Kernels.REFERENCE,))
    message = (
        "LiteRT refuses the file, with the reference kernels: Didn't find op for builtin opcode 'HASHTABLE'"
    )
    assert found.failure.startswith(message)
    assert "\n" not in found.failure


def test_what_cannot_be_loaded_is_a_failure_and_no_error(rows: dict[str, Any], wanted: Any) -> None:
    found = proof.prove(b"no TFLite file", rows, wanted, exact=False)
    assert found == Difference(0.0, 0.0, found.failure)
    assert found.failure.startswith("LiteRT refuses the file: ")


def test_strings_run_row_by_row_too(files: dict[str, bytes]) -> None:
    names = np.array([b"Flash", b"", "Zürich".encode(), b"Nobody", b"Flash"], object)
    wanted = np.array([[1.0], [-1.0], [2.0], [-1.0], [1.0]], np.float32)
    assert proof.prove(files["lookup"], {"name": names}, wanted, exact=True) == Difference(0.0, 0.0, "")
    found = proof.prove(files["lookup"], {"name": names}, wanted + names.size, exact=True)
    assert found.failure == "differs from the Keras model by up to 5, more than float32 rounding"
