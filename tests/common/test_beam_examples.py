"""Examples through Beam in batches, against the readers and writers of TensorFlow, Beam and tfx_bsl."""

import gzip
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common import tfrecord
from tfx_mobile.common.errors import DataError

pytestmark = pytest.mark.pipeline

RUNNER = ["--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"]
SCHEMA = """
feature { name: "count" type: INT shape { dim { size: 1 } } }
feature { name: "miles" type: FLOAT shape {} }
feature { name: "pair" type: FLOAT shape { dim { size: 2 } dim { size: 1 } } }
feature { name: "text" type: BYTES shape { dim { size: 1 } } }
feature { name: "words" type: BYTES }
"""


def schema_of(text: str = SCHEMA) -> Any:
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2

    return text_format.Parse(text, schema_pb2.Schema())


def example(**values: Sequence[Any]) -> bytes:
    import tensorflow as tf

    made = tf.train.Example()
    for name, found in values.items():
        feature = made.features.feature[name]
        if not found:
            continue
        kind = {bytes: feature.bytes_list, int: feature.int64_list, float: feature.float_list}[type(found[0])]
        kind.value.extend(found)
    return bytes(made.SerializeToString(deterministic=True))


def row(i: int) -> bytes:
    return example(
        count=[i],
        miles=[i / 2],
        pair=[float(i), float(-i)],
        text=[f"Zürich {i}".encode()],
        words=[b"w%d" % k for k in range(i % 3)],
        other=[i],
    )


def write(path: Path, records: Sequence[bytes]) -> None:
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path), "GZIP" if path.suffix == ".gz" else "") as writer:
        for record in records:
            writer.write(record)


def run(build: Callable[[Any], Any]) -> list[Any]:
    """Runs a pipeline and returns the elements of the collection that `build` makes of it, in their order."""
    import apache_beam as beam

    found: list[Any] = []
    key = str(id(found))
    _COLLECTED[key] = found
    with beam.Pipeline(argv=RUNNER) as pipeline:
        _ = build(pipeline) | "Collect" >> beam.Map(_collect, key)
    return _COLLECTED.pop(key)


_COLLECTED: dict[str, list[Any]] = {}


def _collect(element: Any, key: str) -> None:
    import importlib

    importlib.import_module(__name__)._COLLECTED[key].append(element)


def read(*patterns: Any, **options: Any) -> list[Any]:
    """Returns the batches of the files, in the order in which they were read."""
    from tfx_mobile.common import beam_examples

    return run(lambda pipeline: pipeline | beam_examples.ReadBatches(list(map(str, patterns)), **options))


def copy(source: Sequence[Any], prefix: Path, *, schema: Any, batch_size: int = 10) -> None:
    import apache_beam as beam

    from tfx_mobile.common import beam_examples

    with beam.Pipeline(argv=RUNNER) as pipeline:
        _ = (
            pipeline
            | beam_examples.ReadBatches(list(map(str, source)), schema=schema, batch_size=batch_size)
            | beam_examples.WriteBatches(str(prefix), schema)
        )


def parsed(records: Sequence[bytes]) -> list[dict[str, list[Any]]]:
    """Returns the values of each row by feature, without features that have none."""
    import tensorflow as tf

    rows = []
    for record in records:
        features = tf.train.Example.FromString(record).features.feature
        values = {
            name: list(getattr(feature, feature.WhichOneof("kind")).value)
            for name, feature in features.items()
            if feature.WhichOneof("kind")
        }
        rows.append({name: found for name, found in sorted(values.items()) if found})
    return rows


def without(rows: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != name} for row in rows]


def written(folder: Path) -> list[bytes]:
    """Returns the records of all shards, in their order, read with checksums by TensorFlow."""
    import tensorflow as tf

    files = sorted(map(str, folder.iterdir()))
    return list(tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator())


def counts(batches: Sequence[Any]) -> list[int]:
    return [value for batch in batches for (value,) in batch.column(_index(batch, "count")).to_pylist()]


def _index(batch: Any, name: str) -> int:
    return int(batch.schema.get_field_index(name))


class TestRead:
    @pytest.mark.parametrize("name", ["rows.gz", "rows"])
    @pytest.mark.parametrize("has_schema", [True, False])
    def test_batches_are_those_of_tfx_bsl(self, tmp_path: Path, name: str, has_schema: bool) -> None:
        from tfx_bsl.coders import example_coder

        records = [row(i) for i in range(25)]
        write(tmp_path / name, records)
        schema = schema_of() if has_schema else None
        batches = read(tmp_path / name, schema=schema, batch_size=10)
        decoder = example_coder.ExamplesToRecordBatchDecoder(schema and schema.SerializeToString())
        assert [batch.num_rows for batch in batches] == [10, 10, 5]
        for i, batch in enumerate(batches):
            wanted = decoder.DecodeBatch(records[10 * i : 10 * i + 10])
            assert set(batch.schema.names) == set(wanted.schema.names)
            assert ("other" in batch.schema.names) == (not has_schema)
            for field in wanted.schema:
                found = batch.column(_index(batch, field.name))
                assert found.type == field.type
                column = wanted.column(_index(wanted, field.name)).to_pylist()
                assert [v or None for v in found.to_pylist()] == [v or None for v in column], field.name

    @pytest.mark.parametrize("record", ["no value", "missing", "too many", "nothing"])
    def test_rows_that_are_not_dense_are_read_as_by_tfx_bsl(self, tmp_path: Path, record: str) -> None:
        from tfx_bsl.coders import example_coder

        odd = {
            "no value": example(count=[1], miles=[], pair=[1.0, 2.0], text=[b"a"]),
            "missing": example(count=[1], pair=[1.0, 2.0], text=[b"a"]),
            "too many": example(count=[1], miles=[1.0, 2.0], pair=[1.0, 2.0, 3.0], text=[b"a"]),
            "nothing": example(),
        }[record]
        records = [row(3), odd, row(4)]
        write(tmp_path / "rows.gz", records)
        (batch,) = read(tmp_path / "rows.gz", schema=schema_of())
        wanted = example_coder.ExamplesToRecordBatchDecoder(schema_of().SerializeToString()).DecodeBatch(
            records
        )
        assert batch.equals(wanted)

    def test_only_the_features_that_are_asked_for_are_read(self, tmp_path: Path) -> None:
        from tfx_mobile.common import beam_examples

        write(tmp_path / "rows.gz", [row(i) for i in range(3)])
        (batch,) = read(tmp_path / "*", schema=beam_examples.only(schema_of(), ["pair", "count", "never"]))
        assert batch.to_pydict() == {
            "count": [[0], [1], [2]],
            "pair": [[0.0, 0.0], [1.0, -1.0], [2.0, -2.0]],
        }

    def test_no_row_is_lost_or_twice_over_many_files_and_their_order_is_kept(self, tmp_path: Path) -> None:
        shards = [range(0, 7), range(7, 7), range(7, 27), range(27, 28), range(28, 40)]
        for number, shard in enumerate(shards):
            write(tmp_path / f"rows-{number}{'.gz' if number % 2 else ''}", [row(i) for i in shard])
        batches = read(tmp_path / "rows-[012]*", tmp_path / "rows-*", schema=schema_of(), batch_size=5)
        by_file: dict[int, list[int]] = {}
        for batch in batches:
            found = counts([batch])
            (number,) = {n for n, shard in enumerate(shards) for value in found if value in shard}
            by_file.setdefault(number, []).extend(found)
        assert by_file == {number: list(shard) for number, shard in enumerate(shards) if shard}

    @pytest.mark.parametrize(("num_files", "is_spread"), [(1, False), (2, True)])
    def test_several_files_are_spread_over_workers(
        self, tmp_path: Path, num_files: int, is_spread: bool
    ) -> None:
        import apache_beam as beam

        from tfx_mobile.common import beam_examples

        for number in range(num_files):
            write(tmp_path / f"rows-{number}.gz", [row(1)])
        pipeline = beam.Pipeline(argv=RUNNER)  # never runs
        _ = pipeline | "Read" >> beam_examples.ReadBatches([f"{tmp_path}/*"])
        steps = [step.unique_name for step in pipeline.to_runner_api().components.transforms.values()]
        assert ("Read/Spread" in steps) == is_spread

    def test_large_rows_come_in_smaller_batches(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from tfx_mobile.common import beam_examples

        records = [example(text=[bytes(1000)]) for _ in range(20)]
        monkeypatch.setattr(beam_examples, "_MAX_BATCH_BYTES", 5 * len(records[0]))
        assert [len(b) for b in beam_examples._batches([records[:3], records[3:]], 8)] == [5] * 4
        assert [len(b) for b in beam_examples._batches([records[:3], records[3:]], 4)] == [4] * 5

    def test_no_file_is_refused_when_the_pipeline_is_built(self, tmp_path: Path) -> None:
        import apache_beam as beam

        from tfx_mobile.common import beam_examples

        message = f"Examples must have at least one file; got none at {tmp_path}/*.gz, {tmp_path}/b."
        pipeline = beam.Pipeline(argv=RUNNER)  # never runs
        with pytest.raises(DataError, match=re.escape(message)):
            _ = pipeline | beam_examples.ReadBatches([f"{tmp_path}/*.gz", f"{tmp_path}/b"])

    def test_a_pattern_without_files_is_no_mistake_where_another_has_some(self, tmp_path: Path) -> None:
        write(tmp_path / "rows.gz", [row(1)])
        assert counts(read(tmp_path / "*.gz", tmp_path / "b*", schema=schema_of())) == [1]

    def test_a_file_that_two_patterns_match_is_read_once(self, tmp_path: Path) -> None:
        write(tmp_path / "rows.gz", [row(1), row(2)])
        found = read(tmp_path / "rows.gz", tmp_path / "*", tmp_path / "rows.gz", schema=schema_of())
        assert counts(found) == [1, 2]

    @pytest.mark.parametrize("has_schema", [True, False])
    def test_a_row_that_is_no_example_is_refused_with_its_file(
        self, tmp_path: Path, has_schema: bool
    ) -> None:
        write(tmp_path / "rows.gz", [row(1), b"rubbish"])
        message = f"The rows of {tmp_path}/rows.gz must be tf.Examples of the schema; got "
        with pytest.raises(DataError, match=re.escape(message)):
            read(tmp_path / "*", schema=schema_of() if has_schema else None)

    def test_a_feature_of_another_type_than_the_schema_says_is_refused(self, tmp_path: Path) -> None:
        write(tmp_path / "rows.gz", [example(count=[1.5])])
        message = f"The rows of {tmp_path}/rows.gz must be tf.Examples of the schema; got "
        with pytest.raises(DataError, match=re.escape(message)):
            read(tmp_path / "*", schema=schema_of())

    def test_a_file_that_is_cut_off_is_refused_by_name(self, tmp_path: Path) -> None:
        whole = gzip.compress(tfrecord.pack([row(i) for i in range(100)]))
        (tmp_path / "rows.gz").write_bytes(whole[: len(whole) // 2])
        message = f"A gzip file must be whole; {tmp_path}/rows.gz is cut off. Write it again."
        with pytest.raises(DataError, match=re.escape(message)):
            read(tmp_path / "*", schema=schema_of())

    def test_a_schema_beyond_the_fast_parser_is_left_to_tfx_bsl(self, tmp_path: Path) -> None:
        from tfx_mobile.common import beam_examples

        schema = schema_of(SCHEMA + 'feature { name: "untyped" shape { dim { size: 1 } } }')
        assert beam_examples._fast_spec(schema.SerializeToString()) == {}
        assert set(beam_examples._fast_spec(schema_of().SerializeToString())) == {
            "count",
            "miles",
            "pair",
            "text",
            "words",
        }


class TestWrite:
    @pytest.mark.parametrize("has_schema", [True, False])
    def test_tensorflow_and_beam_read_the_rows_back(self, tmp_path: Path, has_schema: bool) -> None:
        import apache_beam as beam

        records = [row(i) for i in range(25)]
        write(tmp_path / "rows.gz", records)
        copy([tmp_path / "rows.gz"], tmp_path / "out" / "rows", schema=schema_of() if has_schema else None)
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["rows-00000-of-00001.gz"]
        wanted = parsed(records)
        if has_schema:
            wanted = without(wanted, "other")
        assert parsed(written(tmp_path / "out")) == wanted
        by_beam = run(lambda pipeline: pipeline | beam.io.ReadFromTFRecord(f"{tmp_path}/out/*"))
        assert parsed(by_beam) == wanted

    def test_many_shards_hold_every_row_once(self, tmp_path: Path) -> None:
        for number in range(6):
            write(tmp_path / f"rows-{number}.gz", [row(10 * number + i) for i in range(10)])
        copy([tmp_path / "rows-*"], tmp_path / "out" / "rows", schema=schema_of(), batch_size=3)
        found = [values["count"] for values in parsed(written(tmp_path / "out"))]
        assert sorted(found) == [[i] for i in range(60)]

    def test_no_rows_make_one_valid_empty_file(self, tmp_path: Path) -> None:
        write(tmp_path / "rows.gz", [])
        copy([tmp_path / "rows.gz"], tmp_path / "out" / "rows", schema=schema_of())
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["rows-00000-of-00001.gz"]
        assert written(tmp_path / "out") == []
        assert read(tmp_path / "out" / "*", schema=schema_of()) == []

    def test_rows_without_values_stay_rows(self, tmp_path: Path) -> None:
        write(tmp_path / "rows.gz", [example(), example(miles=[])])
        copy([tmp_path / "rows.gz"], tmp_path / "out" / "rows", schema=None)
        assert parsed(written(tmp_path / "out")) == [{}, {}]

    def test_a_later_run_takes_the_place_of_an_earlier_one(self, tmp_path: Path) -> None:
        for first in (0, 100):
            write(tmp_path / "rows.gz", [row(first + i) for i in range(3)])
            copy([tmp_path / "rows.gz"], tmp_path / "out" / "rows", schema=schema_of())
        assert [values["count"] for values in parsed(written(tmp_path / "out"))] == [[100], [101], [102]]

    def test_a_run_that_fails_leaves_no_file_under_a_final_name(self, tmp_path: Path) -> None:
        write(tmp_path / "rows.gz", [row(1), row(2), b"rubbish"])
        with pytest.raises(DataError, match=re.escape("must be tf.Examples of the schema")):
            copy([tmp_path / "rows.gz"], tmp_path / "out" / "rows", schema=schema_of(), batch_size=2)
        assert list((tmp_path / "out").glob("rows*")) == []

    def test_a_bundle_that_is_tried_again_is_written_once(self, tmp_path: Path) -> None:
        """Both tries leave a temporary file; only the one that succeeded gets a name."""
        from tfx_mobile.common import beam_examples

        sink = beam_examples._Sink(str(tmp_path / "out" / "rows"))
        folder = sink.initialize_write()
        lost = sink.open_writer(folder, "first")
        lost.write(tfrecord.pack([row(1)]))
        lost.close()
        kept = sink.open_writer(folder, "second")
        kept.write(tfrecord.pack([row(1)]))
        done = [kept.close()]
        sink.pre_finalize(folder, done)
        assert list(sink.finalize_write(folder, done, None)) == [f"{tmp_path}/out/rows-00000-of-00001.gz"]
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["rows-00000-of-00001.gz"]
        assert written(tmp_path / "out") == [row(1)]

    def test_dense_float_columns_are_written_bit_by_bit(self, tmp_path: Path) -> None:
        import apache_beam as beam
        import pyarrow as pa

        from tfx_mobile.common import beam_examples

        values = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
        column = pa.ListArray.from_arrays(
            pa.array(np.arange(51, dtype=np.int32) * 3), pa.array(values.ravel())
        )
        batch = pa.RecordBatch.from_arrays([column], ["pca"])
        with beam.Pipeline(argv=RUNNER) as pipeline:
            _ = pipeline | beam.Create([batch]) | beam_examples.WriteBatches(f"{tmp_path}/out/rows")
        found = np.array([values["pca"] for values in parsed(written(tmp_path / "out"))], np.float32)
        np.testing.assert_array_equal(found, values)


def test_transforms_survive_the_way_to_a_worker(tmp_path: Path) -> None:
    from apache_beam.internal import pickler

    from tfx_mobile.common import beam_examples

    write(tmp_path / "rows.gz", [row(i) for i in range(3)])
    reader = pickler.loads(pickler.dumps(beam_examples._ReadFile(schema_of(), 2)))
    reader.setup()
    assert counts(list(reader.process(str(tmp_path / "rows.gz")))) == [0, 1, 2]
    encoder = pickler.loads(pickler.dumps(beam_examples._Encode(schema_of())))
    encoder.setup()
    (content,) = encoder.process(next(iter(reader.process(str(tmp_path / "rows.gz")))))
    records = [record for part in tfrecord.unpack([content], "") for record in part]
    assert parsed(records) == without(parsed([row(0), row(1)]), "other")
