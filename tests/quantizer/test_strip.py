"""A stripped file is smaller and computes the same to the bit."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import interpreter as litert
from ai_edge_litert import schema_py_generated as schema
from tests.common.tflite_files import ALL_STRANGERS, packed, stranger, table_file

from tfx_mobile.common import candidates, tflite_file, tflite_metadata
from tfx_mobile.common.errors import DataError
from tfx_mobile.common.inspection import inspect
from tfx_mobile.common.tflite_metadata import Feature, ModelMetadata, Vocabulary
from tfx_mobile.quantizer.join import join
from tfx_mobile.quantizer.strip import strip

from .conftest import rows

RESOLVERS = (litert.OpResolverType.BUILTIN, litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
BACKS = ("float32", "float16", "dynamic_range", "int8", "while", "own_table", "two_outputs")


def run(content: bytes, columns: Mapping[str, Any], resolver: Any) -> dict[str, Any]:
    found = litert.Interpreter(model_content=content, experimental_op_resolver_type=resolver)
    runner = found.get_signature_runner("serving_default")
    return dict(runner(**{name: columns[name] for name in runner.get_input_details()}))


def run_in_order(content: bytes, resolver: Any) -> list[Any]:
    """Returns the outputs of two calls; without delegates, the values of every computed tensor."""
    every = resolver is not litert.OpResolverType.BUILTIN
    found = litert.Interpreter(
        model_content=content, experimental_op_resolver_type=resolver, experimental_preserve_all_tensors=every
    )
    found.allocate_tensors()
    shown = [entry["index"] for entry in found.get_output_details()]
    if every:
        main = [tensor for tensor in inspect(content).tensors if tensor.subgraph == 0]
        shown = [
            t.index for t in main if not t.size_bytes and t.dtype in ("float32", "float16", "int8", "uint8")
        ]
    draw, values = np.random.default_rng(1), []
    for _ in range(2):
        for entry in found.get_input_details():
            given = draw.normal(size=entry["shape"]) * (20 if entry["dtype"] == np.int8 else 1)
            found.set_tensor(entry["index"], given.astype(entry["dtype"]))
        found.invoke()
        values += [found.get_tensor(index).copy() for index in shown]
    return values


def unpacked(content: bytes) -> Any:
    return schema.ModelT.InitFromPackedBuf(content, 0)


@pytest.mark.pipeline
@pytest.mark.parametrize("back", BACKS)
def test_preprocessing_and_model_of_each_mode_compute_the_same(parts: dict[str, bytes], back: str) -> None:
    content = join(parts["front"], parts[back])
    stripped = strip(content, conversion_metadata=True)
    assert len(stripped) < 0.93 * len(content)
    assert candidates.gz_size_bytes(stripped) < candidates.gz_size_bytes(content)
    assert strip(stripped, conversion_metadata=True) == stripped
    for resolver in RESOLVERS:
        for count in (1, 7):
            wanted = run(content, rows(count), resolver)
            got = run(stripped, rows(count), resolver)
            assert list(got) == list(wanted)
            for name, values in wanted.items():
                np.testing.assert_array_equal(got[name], values)
                assert count == 1 or np.ptp(values) > 0


@pytest.mark.pipeline
@pytest.mark.parametrize("name", ["lstm", "lstm_dynamic_range"])
def test_recurrent_layers_compute_the_same(parts: dict[str, bytes], name: str) -> None:
    for resolver in RESOLVERS:
        wanted, got = (run_in_order(content, resolver) for content in (parts[name], strip(parts[name])))
        for one, other in zip(wanted, got, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ALL_STRANGERS)
def test_a_strangers_file_computes_the_same(name: str) -> None:
    content = stranger(name)
    stripped = strip(content)
    assert len(stripped) < len(content)
    assert candidates.gz_size_bytes(stripped) < candidates.gz_size_bytes(content)
    assert strip(stripped) == stripped
    for resolver in RESOLVERS if len(content) < 500_000 else RESOLVERS[:1]:
        wanted, got = (run_in_order(one, resolver) for one in (content, stripped))
        for one, other in zip(wanted, got, strict=True):
            np.testing.assert_array_equal(one, other)
        varied = sum(values.size > 0 and np.ptp(values) > 0 for values in wanted)
        assert varied > 20 or resolver is RESOLVERS[0]


def test_what_changes_no_result_is_left_out() -> None:
    found = unpacked(strip(packed(table_file())))
    (graph,) = found.subgraphs
    names = [tensor.name for tensor in graph.tensors]
    assert names == [b"serving_default_company:0", b"serving_default_miles:0", None, None, None, b"sum"]
    assert graph.tensors[5].quantization is None
    assert (graph.name, found.description) == (None, None)
    assert [code.builtinCode for code in found.operatorCodes] == [schema.BuiltinOperator.ADD]
    assert [operator.opcodeIndex for operator in graph.operators] == [0]
    assert [tensor.buffer for tensor in graph.tensors] == [0, 0, 1, 2, 2, 0]
    assert len(found.buffers) == 3


def test_ranges_go_and_the_scale_beside_them_stays() -> None:
    model = table_file()
    quantization = model.subgraphs[0].tensors[5].quantization
    quantization.scale, quantization.zeroPoint = [0.5], [3]
    found = unpacked(strip(packed(model))).subgraphs[0].tensors[5].quantization
    assert (found.min, found.max) == (None, None)
    assert (found.scale.tolist(), found.zeroPoint.tolist()) == ([0.5], [3])


def test_what_is_asked_to_stay_stays() -> None:
    graph = unpacked(strip(packed(table_file()), names=False, statistics=False)).subgraphs[0]
    assert [tensor.name for tensor in graph.tensors] == [t.name for t in table_file().subgraphs[0].tensors]
    assert graph.name == b"main"
    assert graph.tensors[5].quantization.max.tolist() == [9.25]


def test_scales_and_zero_points_stay() -> None:
    before, after = unpacked(stranger("alexa")), unpacked(strip(stranger("alexa")))
    num_scales = 0
    for one, other in zip(before.subgraphs[0].tensors, after.subgraphs[0].tensors, strict=True):
        for field in ("scale", "zeroPoint"):
            wanted, got = (getattr(tensor.quantization, field, None) for tensor in (one, other))
            assert (
                np.ravel(wanted if wanted is not None else []).tolist()
                == np.ravel(got if got is not None else []).tolist()
            )
        num_scales += other.quantization is not None and len(other.quantization.scale)
    assert num_scales > 50


def test_the_converters_metadata_goes_only_when_asked() -> None:
    content = stranger("alexa")
    names = [
        [one.name for one in unpacked(strip(content, conversion_metadata=go)).metadata]
        for go in (False, True)
    ]
    assert names == [[b"min_runtime_version", b"CONVERSION_METADATA"], [b"min_runtime_version"]]


def test_metadata_and_vocabularies_survive() -> None:
    metadata = ModelMetadata(
        "taxi-fare",
        "3",
        (Feature("company", "string"), Feature("miles", "float32", "mile")),
        Feature("fare", "float32"),
        vocabularies={"company": Vocabulary.of([b"Flash", b"Sun"])},
    )
    content = strip(tflite_metadata.write(packed(table_file()), metadata), conversion_metadata=True)
    assert tflite_metadata.read(content) == metadata
    assert tflite_metadata.vocabularies(content, metadata) == {"company": (b"Flash", b"Sun")}
    assert strip(content) == content


def test_a_metadata_buffer_is_not_shared_with_an_equal_constant() -> None:
    model = table_file()
    entry = schema.MetadataT()
    entry.name, entry.buffer = b"same", 3
    model.metadata = [entry]
    found = unpacked(strip(packed(model)))
    assert found.metadata[0].buffer not in {tensor.buffer for tensor in found.subgraphs[0].tensors}
    np.testing.assert_array_equal(found.buffers[found.metadata[0].buffer].data, model.buffers[3].data)


def test_custom_operators_keep_their_options() -> None:
    model = table_file()
    custom = model.operatorCodes[1]
    custom.builtinCode = custom.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    custom.customCode = b"Mine"
    operator = model.subgraphs[0].operators[0]
    operator.builtinOptions, operator.builtinOptionsType = None, 0
    operator.customOptions = np.arange(7, dtype=np.uint8)
    found = unpacked(strip(packed(model)))
    assert found.operatorCodes[0].customCode == b"Mine"
    assert found.subgraphs[0].operators[0].customOptions.tolist() == list(range(7))


@pytest.mark.parametrize("name", ["by hand", "alexa", "face_detection_full_range_sparse"])
def test_constants_are_at_multiples_of_16_bytes(name: str) -> None:
    content = strip(packed(table_file()) if name == "by hand" else stranger(name))
    starts = [
        claim.start
        for claim in tflite_file.read(content)[1]
        if claim.path[:1] == ("buffers",) and claim.path[-1] == "data" and claim.role == "vector"
    ]
    assert starts
    assert {start % 16 for start in starts} == {0}


def test_a_file_that_cannot_be_written_anew_is_refused() -> None:
    with pytest.raises(DataError, match=re.escape("A TFLite file must have TFL3 at byte 4; got b''.")):
        strip(b"")
    model = table_file()
    model.buffers[3].data, model.buffers[3].offset, model.buffers[3].size = None, 4096, 128
    message = "A TFLite file to rewrite must have all its content in its tables; got "
    with pytest.raises(DataError, match=re.escape(message)):
        strip(packed(model).ljust(4096, b"\0") + b"\1" * 128)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("buffer", "A buffer must be one of 7; got 9. The file is damaged."),
        ("opcode", "An operator must have one of 2 codes; got 9. The file is damaged."),
    ],
)
def test_an_index_of_what_is_not_there_is_refused(field: str, message: str) -> None:
    model = table_file()
    if field == "buffer":
        model.subgraphs[0].tensors[3].buffer = 9
    else:
        model.subgraphs[0].operators[0].opcodeIndex = 9
    with pytest.raises(DataError, match=re.escape(message)):
        strip(packed(model))
