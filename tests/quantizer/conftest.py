"""Tiny TFLite files to join, converted once, and how to run one without XNNPACK.

XNNPACK sums floats in another order where it takes part of a graph, and which part it takes depends on the
whole graph. Without it every op runs the same code in a joined file as in its own, so that equality is exact.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

WIDTH = 64  # 64 x 64 weights: the converter quantises no smaller ones in dynamic range mode
COMPANIES = ("Flash", "Sun", "Blue")


def run(content: bytes, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a file's outputs by name for rows of its inputs by name."""
    from ai_edge_litert import interpreter as litert

    plain = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    found = litert.Interpreter(model_content=content, experimental_op_resolver_type=plain)
    runner = found.get_signature_runner("serving_default")
    return dict(runner(**{name: columns[name] for name in runner.get_input_details()}))


def rows(count: int) -> dict[str, Any]:
    """Returns raw rows: `miles` float32 and `company` strings, shape (count,)."""
    draw = np.random.default_rng(count)
    company = np.array([b"Flash", b"Sun", b"Blue", b"Nobody"], dtype=object)[draw.integers(0, 4, count)]
    return {"miles": draw.gamma(2.0, 2.0, count).astype(np.float32), "company": company}


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files by name: `front`, and what can be behind it."""
    import tensorflow as tf
    import tf_keras

    folder = tmp_path_factory.mktemp("parts")
    draw = np.random.default_rng(1)
    first = draw.normal(size=(3, WIDTH)).astype(np.float32)
    second = (draw.normal(size=(WIDTH, WIDTH)) / 8).astype(np.float32)
    last = draw.normal(size=(WIDTH, 1)).astype(np.float32)
    embedding = draw.normal(size=(4, 1)).astype(np.float32)

    def table(values: list[int], default: int) -> Any:
        pairs = tf.lookup.KeyValueTensorInitializer(tf.constant(COMPANIES), tf.constant(values, tf.int64))
        return tf.lookup.StaticHashTable(pairs, default)

    def front(module: Any, miles: Any, company: Any) -> dict[str, Any]:
        found = module.table.lookup(company)
        return {
            "z": tf.reshape((miles - 4.1) / 2.7, [-1, 1]),
            "id": tf.reshape(found, [-1, 1]),
            "miles": tf.identity(miles),
            "company": tf.identity(company),
            "unused": miles * 2.0,
        }

    def dense(module: Any, z: Any, id: Any, miles: Any) -> dict[str, Any]:
        joined = tf.concat([z, tf.gather(embedding, id[:, 0]), miles[:, None]], axis=1)
        hidden = tf.nn.relu(tf.matmul(joined, first))
        return {"fare": tf.matmul(tf.nn.relu(tf.matmul(hidden, second)), last)}

    def loop(module: Any, z: Any, miles: Any) -> dict[str, Any]:
        def body(value: Any) -> tuple[Any]:
            return (value * 1.5 + z,)

        (found,) = tf.while_loop(lambda v: tf.reduce_max(v) < 100.0, body, (miles[:, None] + 1.0,))
        return {"fare": found}

    lstm = tf_keras.Sequential([tf_keras.layers.LSTM(4, input_shape=(3, 1)), tf_keras.layers.Dense(1)])

    def recurrent(module: Any, z: Any) -> dict[str, Any]:
        return {"fare": module.lstm(tf.tile(z[:, :, None], [1, 3, 1]))}

    def lookup(module: Any, id: Any, company: Any) -> dict[str, Any]:
        return {"fare": tf.cast(module.table.lookup(company)[:, None] * 1000 + id, tf.float32)}

    def two_inputs_of_one(module: Any, miles: Any) -> dict[str, Any]:
        return {"fare": miles[:, None] - 1.0, "tip": miles[:, None] * 0.1}

    shapes = {
        "miles": tf.TensorSpec([None], tf.float32, name="miles"),
        "company": tf.TensorSpec([None], tf.string, name="company"),
        "z": tf.TensorSpec([None, 1], tf.float32, name="z"),
        "id": tf.TensorSpec([None, 1], tf.int64, name="id"),
    }

    def convert(name: str, function: Any, inputs: str, mode: str = "float32", **owned: Any) -> bytes:
        module = tf.Module()
        for key, value in owned.items():
            setattr(module, key, value)
        specs = [shapes[key] for key in inputs.split()]
        keys = inputs.split()

        def call(*given: Any) -> Any:
            return function(module, **dict(zip(keys, given, strict=True)))

        traced = tf.function(call, input_signature=specs, autograph=False)
        tf.saved_model.save(module, str(folder / name), signatures={"serving_default": traced})
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / name))
        if mode != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if mode == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if mode == "int8":
            converter.representative_dataset = lambda: ranges
        return bytes(converter.convert())

    ranges = [
        {"z": np.array([[z]], np.float32), "id": np.array([[i % 4]]), "miles": np.array([m], np.float32)}
        for i, (z, m) in enumerate(zip(np.linspace(-2, 5, 40), np.linspace(0, 18, 40), strict=True))
    ]
    found = {"front": convert("front", front, "miles company", table=table([0, 1, 2], 3))}
    for mode in ("float32", "float16", "dynamic_range", "int8"):
        found[mode] = convert(f"dense_{mode}", dense, "z id miles", mode)
    found["while"] = convert("while", loop, "z miles")
    found["own_table"] = convert("own_table", lookup, "id company", table=table([70, 80, 90], 60))
    found["two_outputs"] = convert("two_outputs", two_inputs_of_one, "miles")
    found["only_miles"] = convert("only_miles", lambda module, miles: {"miles": miles + 0.0}, "miles")
    shapes["z"] = tf.TensorSpec([1, 1], tf.float32, name="z")  # the converter takes no LSTM of another batch
    found["lstm"] = convert("lstm", recurrent, "z", lstm=lstm)
    found["lstm_dynamic_range"] = convert("lstm_dr", recurrent, "z", "dynamic_range", lstm=lstm)
    shapes["id"] = tf.TensorSpec([None, 1], tf.float32, name="id")
    found["float_id"] = convert("float_id", lambda module, id: {"fare": id * 2.0}, "id")
    return found
