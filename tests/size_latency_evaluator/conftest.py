"""Real, tiny TFLite files and rows, made once for all tests of the evaluator."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common.candidates import Candidate, CandidateSet, gz_size_bytes, model_path

NUM_ROWS = 400
HIDDEN = 256


@dataclasses.dataclass(frozen=True)
class TinyFiles:
    """Files by name, the rows they are evaluated on, and the folder of the Examples artifact."""

    contents: dict[str, bytes]
    columns: dict[str, Any]
    labels: Any
    examples: Path

    def candidate_folder(self, folder: Path, names: list[str], *, reference: str = "s0-float32") -> Path:
        """Writes a candidates artifact's folder with these files."""
        found = []
        for name in names:
            content = self.contents[name]
            path = model_path(folder, name)
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
            rung, _, mode = name.partition("-")
            found.append(
                Candidate(
                    name=name,
                    rung=rung,
                    mode=mode,
                    sparsity_fraction=0.0,
                    sha256=hashlib.sha256(content).hexdigest(),
                    size_bytes=len(content),
                    gz_size_bytes=gz_size_bytes(content),
                )
            )
        CandidateSet(tuple(found), reference, raw_inputs=True, calibration=None).write(folder)
        return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyFiles:
    """A fare model with a string feature as float32, dynamic range and int8, and files that are broken."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("tiny")
    columns, labels = _rows(NUM_ROWS)
    weights = _fit(columns, labels)
    contents = _convert(tf, weights, folder / "good")
    rotten = {**weights, "bias": np.float32(np.nan)}
    flat = {**weights, "out": np.zeros_like(weights["out"])}
    contents["s0-nan"] = _convert(tf, rotten, folder / "nan", modes=("float32",))["s0-float32"]
    contents["s0-constant"] = _convert(tf, flat, folder / "flat", modes=("float32",))["s0-float32"]
    contents["s0-stranger"] = _convert(tf, weights, folder / "odd", modes=("float32",), number="surge")[
        "s0-float32"
    ]
    off = {**weights, "bias": np.float32(weights["bias"] + 2.0)}
    contents["s0-off"] = _convert(tf, off, folder / "off", modes=("float32",))["s0-float32"]
    contents["s0-crash"] = _crashing(contents["s0-float32"])
    contents["s0-noise"] = b"TFL3 this is no flatbuffer " * 40
    examples = folder / "examples"
    _write_examples(tf, examples / "Split-eval", columns, labels)
    return TinyFiles(contents, columns, labels, examples)


def _rows(count: int) -> tuple[dict[str, Any], Any]:
    draw = np.random.default_rng(7)
    miles = draw.gamma(2.0, 2.0, count).astype(np.float32)
    company = np.array([b"Flash", b"Sun", b"Blue"], dtype=object)[draw.integers(0, 3, count)]
    extra = np.where(company == b"Flash", 1.5, 0.0)
    labels = (3.0 + 2.25 * miles + extra + draw.normal(0.0, 0.6, count)).astype(np.float32)
    return {"miles": miles, "company": company}, labels


def _fit(columns: dict[str, Any], labels: Any) -> dict[str, Any]:
    draw = np.random.default_rng(11)
    # float64 throughout: the normal equations of 256 correlated units are near singular.
    inputs = np.stack([columns["miles"] / 4.0, (columns["company"] == b"Flash").astype(np.float32)], axis=1)
    first = draw.normal(0.0, 1.0, (2, HIDDEN)).astype(np.float32)
    second = (draw.normal(0.0, 1.0, (HIDDEN, HIDDEN)) / np.sqrt(HIDDEN)).astype(np.float32)
    hidden = np.maximum(np.maximum(inputs @ first, 0) @ second, 0).astype(np.float64)
    hidden_mean = hidden - hidden.mean(axis=0)
    gram = hidden_mean.T @ hidden_mean + 30.0 * np.eye(HIDDEN)
    out = np.linalg.solve(gram, hidden_mean.T @ (labels - labels.mean()))[:, None]
    bias = labels.mean() - hidden.mean(axis=0) @ out[:, 0]
    return {"first": first, "second": second, "out": out.astype(np.float32), "bias": np.float32(bias)}


def _convert(
    tf: Any,
    weights: dict[str, Any],
    folder: Path,
    *,
    modes: tuple[str, ...] = ("float32", "dynamic", "int8"),
    number: str = "miles",
) -> dict[str, bytes]:
    class Fare(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.table = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(tf.constant(["Flash"]), tf.constant([1], tf.int64)), 0
            )
            self.weights = {name: tf.Variable(value) for name, value in weights.items()}

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, 1], tf.float32, name=number),
                tf.TensorSpec([None, 1], tf.string, name="company"),
            ]
        )  # type: ignore[untyped-decorator]
        def serve(self, miles: Any, company: Any) -> Any:
            is_flash = tf.cast(self.table.lookup(company), tf.float32)
            inputs = tf.concat([miles / 4.0, is_flash], axis=1)
            hidden = tf.nn.relu(tf.matmul(inputs, self.weights["first"]))
            hidden = tf.nn.relu(tf.matmul(hidden, self.weights["second"]))
            return {"fare": tf.matmul(hidden, self.weights["out"]) + self.weights["bias"]}

    module = Fare()
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    found = {}
    for mode in modes:
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
        if mode != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if mode == "int8":
            converter.representative_dataset = _representative(number)
        found[f"s0-{mode}"] = converter.convert()
    return found


def _representative(number: str) -> Any:
    columns, _ = _rows(50)

    def rows() -> Any:
        for miles, company in zip(columns["miles"], columns["company"], strict=True):
            yield {number: np.array([[miles]]), "company": np.array([[company]])}

    return rows


def _crashing(content: bytes) -> bytes:
    """Adds a call of a subgraph that calls itself: LiteRT prepares it until there is no stack left.

    So it is a segmentation fault in every process, as soon as tensors are allocated.
    """
    import flatbuffers
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    code, constant = schema.OperatorCodeT(), schema.BufferT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.IF
    constant.data = [1]
    model.operatorCodes.append(code)
    model.buffers.append(constant)

    def flag(buffer: int) -> Any:
        found = schema.TensorT()
        found.name, found.shape, found.type, found.buffer = "flag", [1], schema.TensorType.BOOL, buffer
        return found

    def call(tensor: int) -> Any:
        found = schema.OperatorT()
        found.opcodeIndex, found.inputs, found.outputs = len(model.operatorCodes) - 1, [tensor, tensor], []
        found.builtinOptionsType = schema.BuiltinOptions.IfOptions
        found.builtinOptions = schema.IfOptionsT()
        found.builtinOptions.thenSubgraphIndex = found.builtinOptions.elseSubgraphIndex = endless
        return found

    endless, graph, main = len(model.subgraphs), schema.SubGraphT(), model.subgraphs[0]
    graph.tensors, graph.inputs, graph.outputs = [flag(0)], [0], []
    graph.operators = [call(0)]
    main.tensors.append(flag(len(model.buffers) - 1))
    main.operators.insert(0, call(len(main.tensors) - 1))
    model.subgraphs.append(graph)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _write_examples(tf: Any, folder: Path, columns: dict[str, Any], labels: Any) -> None:
    folder.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(folder / "data_tfrecord-00000-of-00001.gz"), "GZIP") as writer:
        for miles, company, fare in zip(columns["miles"], columns["company"], labels, strict=True):
            example = tf.train.Example()
            example.features.feature["miles"].float_list.value.append(float(miles))
            example.features.feature["company"].bytes_list.value.append(company)
            example.features.feature["fare"].float_list.value.append(float(fare))
            writer.write(example.SerializeToString())
