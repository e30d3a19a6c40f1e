"""Representative rows: hand cases, laws, second methods, and two real conversions to compare."""

import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tfx_mobile.common.calibration import Calibration, InputRange, ScaleChange, ScaleStability
from tfx_mobile.common.errors import DataError
from tfx_mobile.common.hashing import row_hashes
from tfx_mobile.quantizer import calibration
from tfx_mobile.quantizer.calibration import Sample, Scale


def batch(numbers: Iterable[int], **more: Any) -> Any:
    """Rows of a number, its text, and a label."""
    found = list(numbers)
    columns = {
        "x": pa.array([[n] for n in found], pa.list_(pa.int64())),
        "name": pa.array([[b"%d" % n] for n in found], pa.list_(pa.binary())),
        "label": pa.array([[n / 2] for n in found], pa.list_(pa.float32())),
    } | more
    return pa.record_batch(list(columns.values()), list(columns))


def cut(numbers: Iterable[int], size: int) -> Iterator[Any]:
    found = list(numbers)
    for begin in range(0, len(found), size):
        yield batch(found[begin : begin + size])


def features(rows: Any) -> dict[str, Any]:
    """What a file is given: no label."""
    x = np.array([values[0] for values in rows.column(0).to_pylist()])
    names = np.array([values[0] for values in rows.column(1).to_pylist()], dtype=object)
    return {"x": x, "name": names}


def draw(rows: Any, evaluation: Any = None, num_rows: int = 5, seed: int = 1, size: int = 7) -> Sample:
    other = None if evaluation is None else cut(evaluation, size)
    return calibration.draw(cut(rows, size), other, features, num_rows=num_rows, seed=seed)


# --------------------------------------------------------------------------------------------------- draws


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(40)), st.integers(1, 50), st.integers(0, 3), st.integers(1, 15))
def test_neither_order_nor_batches_nor_repetitions_change_a_sample(
    order: Any, size: int, repeated: int, num_rows: int
) -> None:
    wanted = draw(range(40), num_rows=num_rows).rows
    found = draw([*order, *order[: 9 * repeated]], num_rows=num_rows, size=size)
    assert found.rows["x"].tolist() == wanted["x"].tolist()
    assert found.rows["name"].tolist() == [b"%d" % n for n in wanted["x"]]
    assert found.rows_seen == 40 + len(order[: 9 * repeated])


def test_a_sample_is_the_rows_with_the_smallest_hashes() -> None:
    hashes = row_hashes(batch(range(60)), 3)
    assert draw(range(60), num_rows=9, seed=3).rows["x"].tolist() == np.argsort(hashes)[:9].tolist()


def test_a_sample_is_uniform() -> None:
    # 1,500 seeds draw 10 of 40 rows: each row is expected 375 times. Draws of one seed exclude each other,
    # which makes the statistic smaller than chi-squared by 30 / 39.
    counts = np.zeros(40)
    rows = batch(range(40))
    for seed in range(1500):
        sample = calibration.draw([rows], None, features, num_rows=10, seed=seed)
        counts[sample.rows["x"]] += 1
    statistic = float(((counts - 375) ** 2 / 375).sum()) * 39 / 30
    assert stats.chi2.ppf(1e-4, 39) < statistic < stats.chi2.ppf(1 - 1e-4, 39)


def test_every_pair_of_rows_is_drawn_equally_often_in_either_order() -> None:
    pairs = np.zeros((6, 6))
    rows = batch(range(6))
    for seed in range(1500):
        pairs[tuple(calibration.draw([rows], None, features, num_rows=2, seed=seed).rows["x"])] += 1
    seen = pairs[~np.eye(6, dtype=bool)]  # 1,500 / 30 = 50 of each
    assert seen.sum() == 1500
    assert ((seen - 50) ** 2 / 50).sum() < stats.chi2.ppf(1 - 1e-4, 29)


def test_a_split_smaller_than_the_sample_is_drawn_whole() -> None:
    found = draw([3, 1, 3, 2], num_rows=10)
    assert sorted(found.rows["x"]) == [1, 2, 3]
    assert (found.num_rows, found.rows_wanted, found.rows_seen) == (3, 10, 4)


def test_few_rows_are_made_into_columns() -> None:
    # The first 80 rows are kept, and 80 / i of those at i: in all 80 (1 + log(9000 / 80)) = 458.
    converted = []

    def counted(rows: Any) -> dict[str, Any]:
        converted.append(rows.num_rows)
        return features(rows)

    calibration.draw(cut(range(9000), 80), None, counted, num_rows=20, seed=1)
    assert sum(converted) < 600


def test_a_feature_without_values_in_a_batch_is_no_other_row() -> None:
    with_nulls = [
        batch([1, 2], more=pa.nulls(2)),
        batch([1, 3], more=pa.array([[], None], pa.list_(pa.int64()))),
    ]
    found = calibration.draw(with_nulls, [batch([3])], features, num_rows=9, seed=1)
    assert sorted(found.rows["x"]) == [1, 2]


@pytest.mark.parametrize("rows", [[], [batch([])]])
def test_a_split_without_rows_is_refused(rows: Any) -> None:
    message = (
        "Calibration needs at least one row in split 'train'; got none. Set calibration_split to a split "
        "with rows, or look at why it is empty."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        calibration.draw(rows, None, features, num_rows=5, seed=1)


# --------------------------------------------------------------------------------------- evaluation split


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 39), max_size=20), st.integers(1, 20))
def test_rows_of_the_evaluation_split_are_as_if_they_were_not_there(evaluation: Any, size: int) -> None:
    found = draw(range(40), [*evaluation, 77], num_rows=10, size=size)
    wanted = draw(set(range(40)) - evaluation, num_rows=10)
    assert found.rows["x"].tolist() == wanted.rows["x"].tolist()
    assert found.evaluation_rows_seen == len(evaluation) + 1
    by_hash = draw(range(40), num_rows=40).rows["x"].tolist()
    last = by_hash.index(found.rows["x"][-1])
    assert found.duplicates_replaced == len(evaluation & set(by_hash[:last]))


def test_a_row_with_another_label_is_another_row() -> None:
    other = batch([1, 2, 3], label=pa.array([[9.0], [9.0], [1.5]], pa.list_(pa.float32())))
    found = calibration.draw([batch([1, 2, 3])], [other], features, num_rows=5, seed=1)
    assert sorted(found.rows["x"]) == [1, 2]


def test_without_an_evaluation_split_nothing_is_checked_and_the_manifest_says_so() -> None:
    found = draw(range(9))
    assert (found.evaluation_rows_seen, found.duplicates_replaced) == (None, 0)
    assert draw(range(9), []).evaluation_rows_seen == 0
    assert json.loads(calibration.describe(found, found.rows).to_json())["evaluation_rows_seen"] is None


def test_a_split_whose_rows_are_all_in_the_evaluation_split_is_refused() -> None:
    message = (
        "Calibration rows must not be in split 'eval', or its metrics say nothing about new data; all 20 "
        "different rows drawn from split 'train' are in it too. Give calibration_split a split of other "
        "rows, or set evaluation_split to '' to allow the same ones."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        draw(range(40), range(40))


def test_too_few_rows_outside_the_evaluation_split_are_a_warning() -> None:
    found = draw(range(8), range(1, 9), num_rows=4)
    assert found.rows["x"].tolist() == [0]
    assert found.duplicates_replaced == 7
    assert calibration.describe(found, found.rows).warnings == (
        "There is only one calibration row: the ranges of int8 are arbitrary; use more rows.",
        "Only 1 of 4 calibration rows could be drawn: 7 others of split 'train' are in split 'eval' too.",
    )


def test_duplicates_that_could_be_replaced_are_no_warning() -> None:
    found = draw(range(20), range(10), num_rows=8)
    assert found.num_rows == 8
    assert found.duplicates_replaced > 0
    assert calibration.describe(found, {"id": found.rows["x"]}).warnings == ()


# ------------------------------------------------------------------------------------------------ manifest


def sample(rows: Mapping[str, Any]) -> Sample:
    return Sample(dict(rows), "train", 4, 9, 1, "eval", 3, 0)


def test_a_manifest_by_hand() -> None:
    rows = {
        "miles": np.array([1.0, np.nan, 4.0, np.inf], np.float32),
        "hour": np.array([7, -1, 7, 8]),
        "company": np.array([b"Sun", b"", b"Sun", b"Blue"], dtype=object),
    }
    inputs = {"pair": np.array([[-2, 4], [0, 4], [1, 4], [-2, 3]], np.float32)}
    files = (calibration.SourceFile("Split-train/a.gz", 3, "00"),)
    found = calibration.describe(sample(rows), inputs, files, missing={"hour": -1}, max_scale_change=0.4)
    assert found.file_inputs == {
        "company": InputRange(4, 1, 0, 2),
        "hour": InputRange(4, 1, 0, 2, 7.0, 8.0, 22 / 3),
        "miles": InputRange(4, 1, 1, 2, 1.0, 4.0, 2.5),
    }
    assert found.model_inputs == {"pair": InputRange(8, 0, 0, 5, -2.0, 4.0, 1.5)}
    assert (found.split, found.rows, found.rows_wanted, found.rows_seen, found.seed) == ("train", 4, 4, 9, 1)
    assert (found.evaluation_split, found.evaluation_rows_seen, found.files) == ("eval", 3, files)
    assert found.sha256 == calibration.fingerprint(rows)
    # Both halves go from -2 to 4.
    assert found.input_stability is not None
    assert found.input_stability.max_change == 0
    assert found.warnings == ()
    assert Calibration.from_json(found.to_json()) == found


def test_a_feature_without_any_value_has_no_range() -> None:
    found = calibration.describe(sample({"x": np.full(4, np.nan)}), {"x": np.ones(4)})
    assert found.file_inputs["x"] == InputRange(4, 4, 0, 0)


def test_inputs_of_the_model_that_are_not_finite_are_refused() -> None:
    inputs = {name: np.zeros((4, 2), np.float32) for name in "gfedcba"}
    for name in inputs:
        inputs[name][0, 0] = np.nan
    inputs["b"][0:3] = np.inf
    message = (
        "Calibration rows must be finite when they reach the model; got NaN or infinity in split 'train' for "
        "'a' in 1 of 4 rows, 'b' in 3 of 4 rows, 'c' in 1 of 4 rows, 'd' in 1 of 4 rows, 'e' in 1 of 4 rows "
        "and 2 others. Fill in missing values in preprocessing_fn, or drop such rows before training."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        calibration.describe(sample({"x": np.full(4, np.nan)}), inputs)


def test_a_constant_float_input_is_a_warning_and_a_constant_index_is_not() -> None:
    inputs = {
        "flat": np.full((4, 1), 2.5, np.float32),
        "id": np.zeros(4, np.int64),
        "x": np.ones(4) * [1, 2, 2, 1],
    }
    assert calibration.describe(sample({"x": inputs["x"]}), inputs).warnings == (
        "Input 'flat' is 2.5 in all 4 calibration rows: its int8 scale is arbitrary. Drop it, or use more "
        "calibration_rows.",
    )


def test_files_have_their_sizes_and_hashes_by_path(tmp_path: Path) -> None:
    contents = {"Split-train/b.gz": b"x" * (2**20 + 1), "Split-train/a.gz": b""}
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    found = calibration.source_files([f"{tmp_path}/{name}" for name in contents], io.FileIO)
    assert [dataclasses.astuple(file) for file in found] == [
        ("Split-train/a.gz", 0, hashlib.sha256(b"").hexdigest()),
        ("Split-train/b.gz", 2**20 + 1, hashlib.sha256(b"x" * (2**20 + 1)).hexdigest()),
    ]


# ----------------------------------------------------------------------------------------------- stability


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 30))
def test_halves_are_disjoint_and_whole(num_rows: int) -> None:
    rows = draw(range(30), num_rows=num_rows).rows
    first, second = calibration.halves(rows)
    assert [*first["x"], *second["x"]] == rows["x"].tolist()
    assert [*first["name"], *second["name"]] == rows["name"].tolist()
    assert 0 <= len(first["x"]) - len(second["x"]) <= 1


def test_scales_of_inputs_by_hand() -> None:
    rows = {
        "both": np.array([-51.0, 204.0], np.float32),
        "above": np.array([[100.0], [510.0]], np.float32),
        "below": np.array([-25.5, -1.0]),
        "zero": np.zeros(2),
        "id": np.arange(2),
    }
    found = calibration.input_scales(rows)
    assert found["both"] == Scale(1.0, -77)  # -77 - -128 = 51 steps below zero
    assert found["above"] == Scale(2.0, -128)
    assert found["below"] == Scale(pytest.approx(0.1), 127)
    assert found["zero"] == Scale(0.0, 0)
    assert "id" not in found
    assert (found["both"].low, found["both"].high) == (-51.0, 204.0)
    assert (Scale(2.0, 0, 16).low, Scale(2.0, 0, 16).high) == (-65536.0, 65534.0)


@pytest.mark.parametrize(
    ("first", "second", "change"),
    [
        (Scale(1.0, -128), Scale(1.0, -128), 0.0),
        (Scale(1.0, -128), Scale(0.6, -128), 0.4),  # the smaller scale is 40 % below the larger one
        (Scale(1.0, 0), Scale(0.5, 0), 0.5),
        (Scale(1.0, -128), Scale(1.0, 127), 1.0),  # of one scale, from 0 to 255 and from -255 to 0
        (Scale(1.0, -128), Scale(1.0, -77), 102 / 306),  # 0 to 255 and -51 to 204: 204 shared of 306
        (Scale(0.0, 0), Scale(1.0, -128), 1.0),
        (Scale(0.0, 0), Scale(0.0, 0), 0.0),
        (Scale(1.0, 0, 16), Scale(0.75, 0, 16), 0.25),
    ],
)
def test_a_change_is_the_share_that_one_range_has_alone(first: Scale, second: Scale, change: float) -> None:
    for pair in ((first, second), (second, first)):
        found = calibration.compare_scales({"a": pair[0]}, {"a": pair[1]})
        assert found.max_change == pytest.approx(change, abs=1e-12)


def test_the_largest_change_comes_first() -> None:
    first = {"a": Scale(1.0, -128), "b": Scale(4.0, -128), "c": Scale(2.0, -128)}
    second = {"a": Scale(1.0, -128), "b": Scale(3.0, -128), "c": Scale(1.0, -128)}
    assert calibration.compare_scales(first, second) == ScaleStability(
        0.5,
        "c",
        (ScaleChange("c", 2.0, 1.0, 0.5), ScaleChange("b", 4.0, 3.0, 0.25), ScaleChange("a", 1.0, 1.0, 0.0)),
    )
    assert calibration.compare_scales({}, {}) == ScaleStability(0.0, "", ())


def test_scales_of_other_tensors_are_refused() -> None:
    message = "Scales can be compared between conversions of one model; 'b' is in only one of the two."
    for first, second in (("ab", "a"), ("a", "ab")):
        with pytest.raises(DataError, match=re.escape(message)):
            calibration.compare_scales(
                {name: Scale(1.0, 0) for name in first}, {name: Scale(1.0, 0) for name in second}
            )


def test_a_change_beyond_the_limit_is_said_in_words() -> None:
    first = {"dense/Relu": Scale(1.0, -128), "dense_1/Relu": Scale(2.0, -128)}
    second = {"dense/Relu": Scale(0.7, -128), "dense_1/Relu": Scale(1.2, -128)}
    found = calibration.compare_scales(first, second)
    assert calibration.stability_warnings(found, 0.35, "activation") == [
        "The range of activation 'dense_1/Relu' differs by 40% between two halves of the calibration rows; "
        "use more calibration_rows, or clip outliers in preprocessing_fn."
    ]
    assert calibration.stability_warnings(found, 0.25, "activation") == [
        "The range of activation 'dense_1/Relu' differs by 40% (and of 1 more by over 25%) between two "
        "halves of the calibration rows; use more calibration_rows, or clip outliers in preprocessing_fn."
    ]
    assert calibration.stability_warnings(found, 0.41, "activation") == []


def test_a_manifest_warns_of_an_input_whose_range_is_one_rows() -> None:
    x = np.array([1.0, 2.0, 9.0, 2.0])
    found = calibration.describe(sample({"x": x}), {"x": x})
    assert found.warnings == (
        "The range of input 'x' differs by 78% between two halves of the calibration rows; use more "
        "calibration_rows, or clip outliers in preprocessing_fn.",
    )
    added = calibration.with_stability(
        found, calibration.compare_scales({"a": Scale(1.0, 0)}, {"a": Scale(0.5, 0)}), 0.25
    )
    assert added.warnings[1].startswith("The range of activation 'a' differs by 50% between")
    assert added.stability is not None
    assert Calibration.from_json(added.to_json()) == added


# ------------------------------------------------------------------------------------------- scales of files


def file_of(tensors: Iterable[tuple[str, int, list[float] | None, bytes]], split_at: int = 99) -> bytes:
    """A file of tensors by name, type, scales and constant."""
    import flatbuffers

    model = schema.ModelT()
    model.buffers = [schema.BufferT()]
    model.subgraphs = [schema.SubGraphT(), schema.SubGraphT()]
    for graph in model.subgraphs:
        graph.tensors = []
    for i, (name, kind, found, content) in enumerate(tensors):
        tensor = schema.TensorT()
        tensor.name, tensor.type = name, kind
        if found is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = found, [i] * len(found)
        if content:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(content, np.uint8)
            tensor.buffer = len(model.buffers)
            model.buffers.append(buffer)
        model.subgraphs[int(i >= split_at)].tensors.append(tensor)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_activations_are_told_from_constants_and_floats() -> None:
    types = schema.TensorType
    content = file_of(
        [
            ("input", types.FLOAT32, None, b""),
            ("act", types.INT8, [0.5], b""),
            ("kernel", types.INT8, [0.5], b"1234"),
            ("by_channel", types.INT8, [0.5, 0.25], b""),
            ("ids", types.INT8, None, b""),
            ("wide", types.INT16, [0.125], b""),
            ("bias", types.INT32, [0.25], b""),
        ]
    )
    assert calibration.scales(content) == {"act": Scale(0.5, 1), "wide": Scale(0.125, 5, 16)}


def test_names_that_repeat_are_numbered_in_the_order_of_the_file_and_its_subgraphs() -> None:
    int8 = schema.TensorType.INT8
    content = file_of(
        [("a", int8, [float(i)], b"") for i in (1, 2, 3)] + [("b", int8, [4.0], b"")], split_at=2
    )
    found = calibration.scales(content)
    assert {name: scale.scale for name, scale in found.items()} == {"a": 1, "a (2)": 2, "a (3)": 3, "b": 4}


def test_a_file_without_quantised_activations_has_no_scales() -> None:
    assert calibration.scales(file_of([("x", schema.TensorType.FLOAT32, None, b"")])) == {}


@pytest.mark.parametrize("content", [b"", b"TFL3", b"no flatbuffer at all"])
def test_bytes_that_are_no_file_are_refused(content: bytes) -> None:
    message = f"Scales are read from a TFLite file; got {len(content)} bytes that are none."
    with pytest.raises(DataError, match=re.escape(message)):
        calibration.scales(content)


# -------------------------------------------------------------------------------- real files and conversions


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sample, Calibration]:
    """Rows drawn from real files in three shards, and their manifest."""
    import tensorflow as tf

    from tfx_mobile.common import examples

    folder = tmp_path_factory.mktemp("examples")
    for name, numbers in {"train/0": range(60), "train/1": range(60, 100), "eval/0": range(50)}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        with tf.io.TFRecordWriter(f"{folder / name}.gz", "GZIP") as writer:
            for n in numbers:
                feature = {
                    "x": [n / 10, -n / 20],
                    "fare": [float(n)],
                    "word": [b"word %d" % (n % 3)] * (n % 2),
                }
                writer.write(serialized(feature, n))

    def to_columns(rows: Any) -> dict[str, Any]:
        return examples.to_columns(rows, {"x": (np.float32, (2,)), "word": (np.bytes_, ())})

    batches = {
        split: examples.read_batches([f"{folder}/{split}/*"], batch_size=32) for split in ("train", "eval")
    }
    sample = calibration.draw(batches["train"], batches["eval"], to_columns, num_rows=30, seed=1)
    paths = tf.io.gfile.glob(f"{folder}/train/*")
    files = calibration.source_files(paths, lambda path: tf.io.gfile.GFile(path, "rb"))
    return sample, calibration.describe(sample, {"x": sample.rows["x"]}, files)


def serialized(feature: Mapping[str, Any], n: int) -> bytes:
    """A tf.Example whose features stand in an order that changes from row to row."""
    import tensorflow as tf

    parts = []
    for name in sorted(feature, reverse=bool(n % 2)):
        kind = "bytes_list" if name == "word" else "float_list"
        example = tf.train.Example()
        getattr(example.features.feature[name], kind).value.extend(feature[name])
        parts.append(example.SerializeToString())
    merged = b""
    for (
        part
    ) in parts:  # a message's parts may follow each other: Example { features { a } } { features { b } }
        merged += part
    return merged


@pytest.mark.pipeline
def test_rows_of_real_files_are_not_in_the_evaluation_split(drawn: Any) -> None:
    sample, manifest = drawn
    numbers = np.rint(sample.rows["x"][:, 0] * 10).astype(int)
    assert set(numbers) <= set(range(50, 100))
    assert (sample.num_rows, sample.rows_seen, sample.evaluation_rows_seen) == (30, 100, 50)
    assert 0 < sample.duplicates_replaced < 90
    assert sample.rows["word"].tolist() == [b"word %d" % (n % 3) if n % 2 else b"" for n in numbers]
    assert [file.name for file in manifest.files] == ["train/0.gz", "train/1.gz"]
    assert manifest.file_inputs["word"].num_missing == sum(n % 2 == 0 for n in numbers)
    assert manifest.model_inputs["x"].max == pytest.approx(numbers.max() / 10)


@pytest.fixture(scope="module")
def converted(drawn: Any) -> list[bytes]:
    """An int8 file of a tiny net for each half of the drawn rows."""
    import tensorflow as tf

    draws = np.random.default_rng(1)
    first, last = (draws.normal(size=shape).astype(np.float32) for shape in ((2, 8), (8, 1)))

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def net(x: Any) -> Any:
        return {"fare": tf.matmul(tf.nn.relu(tf.matmul(x, first)), last)}

    module = tf.Module()
    found = []
    for half in calibration.halves(drawn[0].rows):
        converter = tf.lite.TFLiteConverter.from_concrete_functions([net.get_concrete_function()], module)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        rows = half["x"]
        converter.representative_dataset = lambda rows=rows: ([row[None]] for row in rows)
        found.append(bytes(converter.convert()))
    return found


@pytest.mark.pipeline
def test_scales_are_those_that_the_interpreter_reads(converted: list[bytes]) -> None:
    from ai_edge_litert import interpreter as litert

    for content in converted:
        plain = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        model = litert.Interpreter(model_content=content, experimental_op_resolver_type=plain)
        details = {detail["name"]: detail for detail in model.get_tensor_details()}
        found = calibration.scales(content)
        assert len(found) == 3  # the input's, the hidden layer's and the output's
        for name, scale in found.items():
            assert details[name]["quantization"] == (pytest.approx(scale.scale), scale.zero_point)


@pytest.mark.pipeline
def test_the_scale_of_an_input_is_the_converters(drawn: Any, converted: list[bytes]) -> None:
    for half, content in zip(calibration.halves(drawn[0].rows), converted, strict=True):
        wanted = calibration.input_scales({"x": half["x"]})["x"]
        same = [s for s in calibration.scales(content).values() if s.scale == pytest.approx(wanted.scale)]
        assert [s.zero_point for s in same] == [wanted.zero_point]


@pytest.mark.pipeline
def test_two_halves_of_real_rows_are_compared_tensor_by_tensor(drawn: Any, converted: list[bytes]) -> None:
    found = calibration.compare_scales(*map(calibration.scales, converted))
    assert len(found.changes) == 3
    # 15 of 50 evenly spread rows: the largest of a half is within a fifth of the largest of all
    assert 0 < found.max_change < 0.2
    limited = calibration.with_stability(drawn[1], found, found.max_change / 2)
    assert limited.warnings[-1].startswith(f"The range of activation {found.tensor!r} differs by ")
