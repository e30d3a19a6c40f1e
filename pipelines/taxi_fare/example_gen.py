"""The ExampleGen of the example: reads all rows, maps columns to features and drops wrong rows, with counts.

Rows are dropped by rules on the inputs, in the train split on the label too; how many and why is written to
`filtered.json` beside the Examples.
"""

import collections
import dataclasses
import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import apache_beam as beam
import tensorflow as tf
from apache_beam.io import fileio, filesystems
from google.protobuf import any_pb2, json_format, wrappers_pb2
from tfx.components import FileBasedExampleGen
from tfx.components.example_gen import base_example_gen_executor
from tfx.dsl.components.base import executor_spec
from tfx.proto import example_gen_pb2

from taxi_fare import data, rows
from taxi_fare.data import EVAL_SPLIT, TRAIN_SPLIT, Data
from taxi_fare.rows import LABEL, Row, Source
from tfx_mobile.common.errors import DataError
from tfx_mobile.common.fingerprint import source_fingerprint

FILTERED_FILE = "filtered.json"


def example_gen(found: Data) -> FileBasedExampleGen:
    """Returns the ExampleGen that reads, maps and filters the rows of a data set."""
    keyed = dataclasses.replace(found.source, fingerprint=source_fingerprint("taxi_fare"))
    packed = any_pb2.Any()
    packed.Pack(wrappers_pb2.StringValue(value=keyed.to_json()))
    inputs = [example_gen_pb2.Input.Split(name=name, pattern=pattern) for name, pattern in found.splits]
    # With one input split TFX divides 2:1 by the hash of the row into 'train' and 'eval'.
    return FileBasedExampleGen(
        input_base=found.folder,
        input_config=example_gen_pb2.Input(splits=inputs),
        custom_config=example_gen_pb2.CustomConfig(custom_config=packed),
        custom_executor_spec=executor_spec.BeamExecutorSpec(TaxiExampleGenExecutor),
    )


class TaxiExampleGenExecutor(base_example_gen_executor.BaseExampleGenExecutor):
    """Reads CSV or TFRecord files, maps columns to features and drops wrong rows, with counts."""

    def Do(  # noqa: N802
        self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]
    ) -> None:
        """Runs the Beam pipeline; see the base class."""
        self._filtered_path = f"{output_dict['examples'][0].uri}/{FILTERED_FILE}"
        super().Do(input_dict, output_dict, exec_properties)

    def GetInputSourceToExamplePTransform(self) -> beam.PTransform:  # noqa: N802
        """Returns the transform from files to rows, not yet filtered."""
        return _ReadRows

    def GenerateExamplesByBeam(  # noqa: N802
        self, pipeline: beam.Pipeline, exec_properties: dict[str, Any]
    ) -> dict[str, beam.PCollection]:
        """Returns the filtered Examples of each split and writes what was dropped."""
        optional = _source(exec_properties).optional
        splits = super().GenerateExamplesByBeam(pipeline, exec_properties)
        kept, counts = {}, []
        for split, examples in splits.items():
            judged = examples | f"Judge[{split}]" >> beam.Map(_judge, optional, split == TRAIN_SPLIT)
            counts.append(judged | f"Reason[{split}]" >> beam.Map(lambda pair, split=split: (split, pair[0])))
            kept[split] = (
                judged
                | f"Keep[{split}]" >> beam.Filter(lambda pair: pair[0] == "")
                | f"Example[{split}]" >> beam.Values()
            )
        _ = (
            counts
            | "AllCounts" >> beam.Flatten()
            | "Count" >> beam.combiners.Count.PerElement()
            | "Gather" >> beam.combiners.ToList()
            | "WriteCounts" >> beam.Map(_write_counts, self._filtered_path)
        )
        return kept


class _ReadRows(beam.PTransform):
    """Files matching a pattern to tf.Examples in the shape of rows.py."""

    def __init__(self, exec_properties: dict[str, Any], pattern: str) -> None:
        super().__init__()
        self._source = _source(exec_properties)
        self._pattern = f"{exec_properties['input_base']}/{pattern}"

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        return (
            pipeline
            | beam.Create([self._pattern])
            | fileio.MatchAll()
            | beam.Reshuffle()
            | beam.FlatMap(lambda match, source: _read_file(match.path, source), self._source)
            | beam.Map(_to_example)
        )


def _source(exec_properties: Mapping[str, Any]) -> Source:
    config = example_gen_pb2.CustomConfig()
    json_format.Parse(exec_properties["custom_config"], config)
    text = wrappers_pb2.StringValue()
    config.custom_config.Unpack(text)
    return Source.from_json(text.value)


def _read_file(path: str, source: Source) -> Iterator[Row]:
    if path.endswith(".csv"):
        with io.TextIOWrapper(filesystems.FileSystems.open(path), encoding="utf-8-sig", newline="") as stream:
            yield from data.read_csv(stream, Path(path).name, source)
    else:
        yield from _read_tfrecord(path, source)


def _read_tfrecord(path: str, source: Source) -> Iterator[Row]:
    compression = "GZIP" if path.endswith(".gz") else ""
    for number, record in enumerate(tf.data.TFRecordDataset(path, compression).as_numpy_iterator()):
        features = tf.train.Example.FromString(record).features.feature
        cells = {name: _cell(feature) for name, feature in features.items()}
        columns = source.resolve(list(cells), f"{Path(path).name}, record {number}")
        yield rows.parse_row(cells, columns, f"{Path(path).name}, record {number}")


def _cell(feature: tf.train.Feature) -> str:
    values = getattr(feature, feature.WhichOneof("kind") or "bytes_list").value
    if not values:
        return ""
    return values[0].decode() if isinstance(values[0], bytes) else repr(values[0])


def _to_example(row: Row) -> tf.train.Example:
    def feature(value: Any) -> tf.train.Feature:
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))

    typed = {
        name: value if isinstance(value, bytes) or name in rows.INTEGERS else float(value)
        for name, value in row.items()
    }
    return tf.train.Example(
        features=tf.train.Features(feature={name: feature(value) for name, value in typed.items()})
    )


def _judge(
    example: tf.train.Example, optional: tuple[str, ...], is_train: bool
) -> tuple[str, tf.train.Example]:
    row = {
        name: (f.bytes_list.value or f.int64_list.value or f.float_list.value)[0]
        for name, f in example.features.feature.items()
    }
    if math.isnan(row[LABEL]):
        return "label missing", example
    problem = rows.input_problem(row, optional) or (rows.label_problem(row) if is_train else None)
    return problem or "", example


def _write_counts(counts: list[tuple[tuple[str, str], int]], path: str) -> None:
    by_split: dict[str, dict[str, int]] = collections.defaultdict(dict)
    for (split, reason), count in sorted(counts):
        by_split[split][reason or "kept"] = count
    for split in (TRAIN_SPLIT, EVAL_SPLIT):
        if not by_split[split].get("kept"):
            raise DataError(
                f"The split '{split}' must have rows; none is left after filtering "
                f"({by_split[split] or 'no rows'})."
            )
    with filesystems.FileSystems.create(path) as stream:
        stream.write(json.dumps(by_split, indent=2, sort_keys=True).encode())
