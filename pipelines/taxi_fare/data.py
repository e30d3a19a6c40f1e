"""The pipeline's data: where it is, a check before any work, and the ExampleGen that reads it.

Two sources share one shape (rows.py): the Chicago trips that ship in the tfx package, and CSV files with the
columns of the Taxi Fare course. Wrong rows are dropped by rules on the inputs, in the train split on the
label too; how many and why is written to `filtered.json` beside the Examples.
"""

import collections
import csv
import dataclasses
import fnmatch
import importlib.util
import io
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
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

from taxi_fare import rows
from taxi_fare.rows import LABEL, Row, Source
from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.common.fingerprint import source_fingerprint

FILTERED_FILE = "filtered.json"
TRAIN_SPLIT, EVAL_SPLIT = "train", "eval"
_ROWS_CHECKED_FIRST = 1000


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set that was looked at and found usable.

    Attributes:
      folder: Local folder or URI that the patterns are relative to.
      splits: Split name to file pattern; a single pattern named 'all' is split 2:1 by the hash of the row.
      source: How columns become features.
      name: What to call it to a reader.
    """

    folder: str
    splits: tuple[tuple[str, str], ...]
    source: Source
    name: str


def chicago() -> Data:
    """Returns the Chicago taxi trips that ship in the tfx package (9,909 train and 5,091 eval rows)."""
    spec = importlib.util.find_spec("tfx")
    if spec is None or spec.origin is None:
        raise ConfigError("The package tfx must be installed; it was not found. Run make setup.")
    folder = Path(spec.origin).parent / "components" / "testdata" / "csv_example_gen"
    return Data(
        folder=str(folder),
        splits=((TRAIN_SPLIT, "Split-train/*"), (EVAL_SPLIT, "Split-eval/*")),
        source=rows.CHICAGO_SOURCE,
        name="Chicago taxi trips (in the tfx package)",
    )


def csv_folder(folder: Path, columns: Mapping[str, tuple[str, ...]] | None = None) -> Data:
    """Returns the CSV files of a folder, after reading every header and the first rows of each file.

    Files named *train* are training data and files named *valid* (or else *eval*, or else *test*) are
    evaluation data; without such names all rows are split 2:1 by their hash.

    Args:
      folder: Has at least one .csv file.
      columns: Feature name to possible column names, in place of the default mapping's entry.

    Raises:
      ConfigError: The folder does not exist or has no CSV file.
      DataError: A file is empty, lacks a column, or holds something that cannot be read.
    """
    if not folder.is_dir():
        raise ConfigError(f"DATA must be a folder with CSV files; got {folder}, which does not exist.")
    files = sorted(folder.glob("*.csv"))
    if not files:
        others = ", ".join(sorted(p.name for p in folder.iterdir())[:5])
        raise ConfigError(f"DATA must be a folder with CSV files; {folder} has {others or 'nothing in it'}.")
    source = dataclasses.replace(rows.CSV_SOURCE, columns=rows.CSV_SOURCE.columns | dict(columns or {}))
    for path in files:
        _check_csv(path, source)
    splits = _splits([path.name for path in files])
    ignored = [p.name for p in files if not any(fnmatch.fnmatchcase(p.name, glob) for _, glob in splits)]
    note = f" (not used: {', '.join(ignored)})" if ignored else ""
    return Data(
        folder=str(folder.resolve()), splits=splits, source=source, name=f"CSV files in {folder}{note}"
    )


def example_gen(data: Data) -> FileBasedExampleGen:
    """Returns the ExampleGen that reads, maps and filters the rows of `data`."""
    keyed = dataclasses.replace(
        data.source, fingerprint=source_fingerprint("taxi_fare.rows", "taxi_fare.data")
    )
    packed = any_pb2.Any()
    packed.Pack(wrappers_pb2.StringValue(value=keyed.to_json()))
    inputs = [example_gen_pb2.Input.Split(name=name, pattern=pattern) for name, pattern in data.splits]
    # With one input split TFX divides 2:1 by the hash of the row into 'train' and 'eval'.
    return FileBasedExampleGen(
        input_base=data.folder,
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
            yield from _read_csv(stream, Path(path).name, source)
    else:
        yield from _read_tfrecord(path, source)


def _read_csv(stream: Iterable[str], name: str, source: Source) -> Iterator[Row]:
    reader = csv.DictReader(stream, strict=True)
    if reader.fieldnames is None:
        raise DataError(f"{name} must have a header line; it is empty.")
    columns = source.resolve(reader.fieldnames, name)
    for cells in reader:
        if None in cells or None in cells.values():
            raise DataError(
                f"{name}, line {reader.line_num}: a row must have {len(reader.fieldnames)} cells like the "
                f"header; got {'more' if None in cells else 'fewer'}."
            )
        yield rows.parse_row(cells, columns, f"{name}, line {reader.line_num}")


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
        name: value
        if isinstance(value, bytes) or name in ("pickup_epoch_s", "passenger_count")
        else float(value)
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


def _check_csv(path: Path, source: Source) -> None:
    if not path.stat().st_size:
        raise DataError(f"{path} must have a header line and rows; it is empty.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            first = list(itertools.islice(_read_csv(stream, path.name, source), _ROWS_CHECKED_FIRST))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(f"{path} must be a readable CSV file in UTF-8; {error}.") from error
    if not first:
        raise DataError(f"{path} must have rows; it has only a header line.")


def _splits(names: list[str]) -> tuple[tuple[str, str], ...]:
    if fnmatch.filter(names, "*train*"):
        for glob in ("*valid*.csv", "*eval*.csv", "*test*.csv"):
            if fnmatch.filter(names, glob):
                return ((TRAIN_SPLIT, "*train*.csv"), (EVAL_SPLIT, glob))
    return (("all", "*.csv"),)
