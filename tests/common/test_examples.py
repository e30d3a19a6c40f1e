"""tf.Examples from real files as dense columns."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common.errors import DataError

pytestmark = pytest.mark.pipeline

ONE: tuple[int, ...] = (1,)


def example(**values: Sequence[Any]) -> bytes:
    import tensorflow as tf

    def feature(found: Sequence[Any]) -> Any:
        if not found:
            return tf.train.Feature()
        if isinstance(found[0], bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=found))
        if isinstance(found[0], int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=found))
        return tf.train.Feature(float_list=tf.train.FloatList(value=found))

    features = tf.train.Features(feature={name: feature(found) for name, found in values.items()})
    return tf.train.Example(features=features).SerializeToString()


def write(path: Path, records: Sequence[bytes]) -> None:
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path), "GZIP" if path.suffix == ".gz" else "") as writer:
        for record in records:
            writer.write(record)


def columns_of(folder: Path, records: Sequence[bytes], **features: tuple[Any, tuple[int, ...]]) -> Any:
    from tfx_mobile.common import examples

    write(folder / "rows.gz", records)
    (batch,) = examples.read_batches([f"{folder}/*.gz"], batch_size=100)
    return examples.to_columns(batch, features)


def test_rows_by_hand(tmp_path: Path) -> None:
    records = [
        example(miles=[1.5], count=[2], company=[b"Flash"], pair=[1.0, 2.0]),
        example(miles=[2.5], count=[3], company=["Zürich".encode()], pair=[3.0, 4.0]),
    ]
    found = columns_of(
        tmp_path,
        records,
        miles=(np.float32, ONE),
        count=(np.int64, ()),
        company=(np.bytes_, ONE),
        pair=(np.float64, (2, 1)),
    )
    assert found["miles"].tolist() == [[1.5], [2.5]]
    assert found["count"].tolist() == [2, 3]
    assert found["company"].tolist() == [[b"Flash"], ["Zürich".encode()]]
    assert found["pair"].tolist() == [[[1.0], [2.0]], [[3.0], [4.0]]]
    assert [found[name].dtype for name in ("miles", "count", "company", "pair")] == [
        np.float32,
        np.int64,
        object,
        np.float64,
    ]


def test_missing_values_are_zero_or_the_empty_string(tmp_path: Path) -> None:
    records = [example(miles=[], company=[b"a"]), example(miles=[2.5], company=[]), example()]
    found = columns_of(
        tmp_path,
        records,
        miles=(np.float32, ()),
        company=(np.bytes_, ()),
        never=(np.int64, ONE),
        nobody=(np.bytes_, ()),
    )
    assert found["miles"].tolist() == [0.0, 2.5, 0.0]
    assert found["company"].tolist() == [b"a", b"", b""]
    assert found["never"].tolist() == [[0], [0], [0]]
    assert found["nobody"].tolist() == [b"", b"", b""]


@pytest.mark.parametrize("rows", [[[1.5], []], [[], []], [[1.5], [2.5]]])
def test_a_missing_value_gets_its_marker_or_is_refused(tmp_path: Path, rows: list[list[float]]) -> None:
    from tfx_mobile.common import examples

    write(tmp_path / "rows.gz", [example(tip=row) for row in rows])
    (batch,) = examples.read_batches([f"{tmp_path}/*.gz"], batch_size=9)
    features = {"tip": (np.float32, ()), "pair": (np.int64, (2,))}
    found = examples.to_columns(batch, features, {"tip": np.nan, "pair": -1, "other": 7})
    np.testing.assert_array_equal(found["tip"], [row[0] if row else np.nan for row in rows])
    assert found["pair"].tolist() == [[-1, -1]] * 2
    num_missing = rows.count([])
    if not num_missing:
        assert examples.to_columns(batch, {"tip": features["tip"]}, {})["tip"].tolist() == [1.5, 2.5]
        return
    message = (
        f"Feature 'tip' must have a value in each row; got {num_missing} of 2 rows without. Give it a "
        "default in the schema, or make it sparse (VarLen) and dense in preprocessing_fn."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        examples.to_columns(batch, {"tip": features["tip"]}, {})


def test_a_feature_that_is_there_without_a_value_in_any_row_is_missing(tmp_path: Path) -> None:
    found = columns_of(tmp_path, [example(miles=[], x=[1]), example(miles=[], x=[2])], miles=(np.float32, ()))
    assert found["miles"].tolist() == [0.0, 0.0]


def test_integers_are_read_as_floats_where_floats_are_asked_for(tmp_path: Path) -> None:
    found = columns_of(tmp_path, [example(count=[7])], count=(np.float32, ONE))
    assert found["count"].dtype == np.float32
    assert found["count"].tolist() == [[7.0]]


def test_a_row_of_another_width_is_refused(tmp_path: Path) -> None:
    message = "Feature 'pair' must have 2 values in each row; got rows with 3."
    with pytest.raises(DataError, match=re.escape(message)):
        columns_of(
            tmp_path, [example(pair=[1.0, 2.0]), example(pair=[1.0, 2.0, 3.0])], pair=(np.float32, (2,))
        )


@pytest.mark.parametrize("missing", [[], [1], [0, 3]])
@pytest.mark.parametrize("begin", [0, 1, 2])
def test_part_of_a_batch_has_its_own_rows(missing: list[int], begin: int) -> None:
    import pyarrow as pa

    from tfx_mobile.common import examples

    rows = [None if i in missing else [float(i), -float(i)] for i in range(4)]
    batch = pa.RecordBatch.from_arrays([pa.array(rows, pa.large_list(pa.float32()))], ["x"])
    found = examples.to_columns(batch.slice(begin, 2), {"x": (np.float32, (2, 1))})["x"]
    wanted = [row or [0.0, 0.0] for row in rows[begin : begin + 2]]
    assert found.tolist() == [[[value] for value in row] for row in wanted]


def test_what_a_missing_row_spans_is_not_read() -> None:
    import pyarrow as pa

    from tfx_mobile.common import examples

    offsets = pa.array([0, 1, 3, 4], pa.int32()).buffers()[1]
    values = pa.array([1.0, 7.0, 7.0, 4.0], pa.float32())
    column = pa.Array.from_buffers(
        pa.list_(pa.float32()), 3, [pa.py_buffer(bytes([0b101])), offsets], children=[values]
    )
    assert column.to_pylist() == [[1.0], None, [4.0]]
    batch = pa.RecordBatch.from_arrays([column], ["x"])
    assert examples.to_columns(batch, {"x": (np.float32, ())})["x"].tolist() == [1.0, 0.0, 4.0]


@pytest.mark.parametrize("rows", [[[1.0], [2.0]], [[1.0], None]])
def test_columns_may_be_written_to_and_leave_the_batch_as_it_is(rows: list[Any]) -> None:
    import pyarrow as pa

    from tfx_mobile.common import examples

    batch = pa.RecordBatch.from_arrays([pa.array(rows, pa.large_list(pa.float32()))], ["x"])
    examples.to_columns(batch, {"x": (np.float32, ONE)})["x"][:] = 9
    assert batch.to_pydict() == {"x": rows}


@pytest.mark.parametrize("values", [[[1.0], [1.0, 2.0]], [[1.0, 2.0], [1.0]], [[1.0], None]])
def test_rows_that_differ_in_width_are_refused_wherever_they_are(values: list[Any]) -> None:
    import pyarrow as pa

    from tfx_mobile.common import examples

    batch = pa.RecordBatch.from_arrays([pa.array(values, pa.list_(pa.float32()))], ["x"])
    message = "Feature 'x' must have 2 values in each row; got rows with 1."
    with pytest.raises(DataError, match=re.escape(message)):
        examples.to_columns(batch, {"x": (np.float32, (2,))})


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        ([b"text"], np.float32, "Feature 'x' must be numbers; got large_binary."),
        ([1.5], np.bytes_, "Feature 'x' must be strings; got float."),
        ([1], np.bytes_, "Feature 'x' must be strings; got int64."),
    ],
)
def test_strings_and_numbers_are_not_taken_for_one_another(
    tmp_path: Path, values: list[Any], dtype: Any, message: str
) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        columns_of(tmp_path, [example(x=values)], x=(dtype, ONE))


def test_batches_hold_every_row_once_and_the_last_is_shorter(tmp_path: Path) -> None:
    from tfx_mobile.common import examples

    write(tmp_path / "a.gz", [example(x=[i]) for i in range(5)])
    write(tmp_path / "b.gz", [])
    write(tmp_path / "c.gz", [example(x=[i]) for i in range(5, 7)])
    write(tmp_path / "d", [example(x=[i]) for i in range(7, 10)])
    batches = list(examples.read_batches([f"{tmp_path}/*"], batch_size=4))
    assert [batch.num_rows for batch in batches] == [4, 3, 3]
    found = [v for batch in batches for v in examples.to_columns(batch, {"x": (np.int64, ())})["x"].tolist()]
    assert found == list(range(10))


def test_no_file_is_refused_with_the_pattern(tmp_path: Path) -> None:
    from tfx_mobile.common import examples

    message = f"Examples must have at least one file; got none at {tmp_path}/*.gz."
    with pytest.raises(DataError, match=re.escape(message)):
        list(examples.read_batches([f"{tmp_path}/*.gz"], batch_size=4))


class TestArtifacts:
    def test_patterns_are_those_of_the_split(self, tmp_path: Path) -> None:
        from tfx.types import artifact_utils, standard_artifacts

        from tfx_mobile.common.artifacts import split_pattern

        examples = standard_artifacts.Examples()
        examples.uri = str(tmp_path)
        examples.split_names = artifact_utils.encode_split_names(["train", "eval"])
        assert split_pattern([examples], "eval") == [f"{tmp_path}/Split-eval/*"]
        message = f"Examples must have the split 'test'; got train, eval in {tmp_path}."
        with pytest.raises(DataError, match=re.escape(message)):
            split_pattern([examples], "test")

    @pytest.mark.parametrize("name", ["tflite", "taxi.tflite"])
    def test_the_one_tflite_file_is_found(self, tmp_path: Path, name: str) -> None:
        assert self.found(tmp_path, name, "notes.txt").name == name

    def test_the_name_that_tfma_looks_for_comes_first(self, tmp_path: Path) -> None:
        assert self.found(tmp_path, "a.tflite", "tflite").name == "tflite"

    @pytest.mark.parametrize(
        ("names", "got"), [((), "nothing"), (("b.tflite", "a.tflite"), "a.tflite, b.tflite")]
    )
    def test_none_or_several_are_refused(self, tmp_path: Path, names: tuple[str, ...], got: str) -> None:
        message = f"A model for phones must have one TFLite file, 'tflite' or '*.tflite'; got {got} in "
        with pytest.raises(DataError, match=re.escape(message)):
            self.found(tmp_path, *names)

    def found(self, folder: Path, *names: str) -> Path:
        from tfx.types import standard_artifacts

        from tfx_mobile.common.artifacts import tflite_file

        (folder / "Format-Serving").mkdir()
        for name in names:
            (folder / "Format-Serving" / name).touch()
        model = standard_artifacts.Model()
        model.uri = str(folder)
        return tflite_file(model)

    def test_artifact_types_compile_for_kubeflow(self) -> None:
        from tfx_mobile.common import artifacts

        for kind in (artifacts.ModelLadder, artifacts.ModelCandidates, artifacts.Reduction):
            assert f"tfx_mobile.{kind.__name__}" == kind.TYPE_NAME
            assert not kind.PROPERTIES
