"""tf.Examples in Beam as Arrow record batches, from and to TFRecord files. No element is a single row.

Beam's own TFRecord transforms spend most of their time on one element a row. Here an element is a file on the
way in and a batch of rows from then on. Every runner can do this: nothing is shared between workers, files
go through Beam's filesystems, and a bundle that is tried twice is written once.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tensorflow as tf
from apache_beam.io import filebasedsink
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.coders import example_coder

from tfx_mobile.common import tfrecord
from tfx_mobile.common.errors import DataError


class ReadBatches(beam.PTransform):
    """Reads TFRecord files of tf.Examples as record batches of list columns; from the pipeline itself.

    A batch has rows of one file, in its order; its columns are like those of tfx_bsl's
    ExamplesToRecordBatchDecoder. A file is read as a stream, so memory does not grow with the rows.

    Args:
      patterns: File patterns of any filesystem Beam knows. Files may be plain or gzip, and empty.
      schema: Only its features are read, and they have its types; much faster than reading all. Without one,
        every feature is read and types are those found in a batch: a column without values is null.
      batch_size: Rows in a batch, at most; a batch of large rows has fewer.

    Raises:
      DataError: No file matches (when the pipeline is built); a file is not a whole TFRecord file, or a row
        is not a tf.Example of the schema (when it runs).
    """

    def __init__(
        self, patterns: Sequence[str], *, schema: schema_pb2.Schema | None = None, batch_size: int = 4096
    ) -> None:
        super().__init__()
        self._patterns = list(patterns)
        self._schema = schema
        self._batch_size = batch_size

    def expand(self, pbegin: Any) -> beam.PCollection:
        """Returns the batches."""
        paths = _matches(self._patterns)
        found = beam.FlatMap(lambda _: paths).with_output_types(str)  # as beam.Create, in a step less
        files = pbegin | beam.Impulse() | "Files" >> found
        if len(paths) > 1:  # it takes 0.1 s to set up
            files = files | "Spread" >> beam.Reshuffle()
        read = beam.ParDo(_ReadFile(self._schema, self._batch_size))
        return files | "Read" >> read.with_output_types(pa.RecordBatch)


class WriteBatches(beam.PTransform):
    """Writes record batches as gzip TFRecord files of tf.Examples, `<prefix>-00000-of-00001.gz` and so on.

    The files appear under their names at the end of the pipeline; there is at least one. What else has such a
    name is replaced.

    Args:
      prefix: Folder and beginning of the files' names, on any filesystem Beam knows.
      schema: Of the rows; needed where values are nested, see tfx_bsl's RecordBatchToExamplesEncoder.
    """

    def __init__(self, prefix: str, schema: schema_pb2.Schema | None = None) -> None:
        super().__init__()
        self._prefix = prefix
        self._schema = schema

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        """Returns the names of the files."""
        return (
            batches
            | "Encode" >> beam.ParDo(_Encode(self._schema)).with_output_types(bytes)
            | "Write" >> beam.io.Write(_Sink(self._prefix))
        )


def only(schema: schema_pb2.Schema, names: Iterable[str]) -> schema_pb2.Schema:
    """Returns the schema with these features alone, for `ReadBatches` to leave out the others."""
    wanted = set(names)
    part = schema_pb2.Schema()
    part.feature.extend(feature for feature in schema.feature if feature.name in wanted)
    return part


class _ReadFile(beam.DoFn):
    def __init__(self, schema: schema_pb2.Schema | None, batch_size: int) -> None:
        self._schema = None if schema is None else schema.SerializeToString()
        self._batch_size = batch_size

    def setup(self) -> None:
        self._decoder = _Decoder(self._schema)

    def process(self, path: str) -> Iterator[pa.RecordBatch]:
        with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
            for records in _batches(tfrecord.unpack(_blocks(stream), path), self._batch_size):
                try:
                    batch = self._decoder.decode(records)
                except RuntimeError as error:
                    raise DataError(
                        f"The rows of {path} must be tf.Examples of the schema; got {error}"
                    ) from error
                yield batch


class _Encode(beam.DoFn):
    def __init__(self, schema: schema_pb2.Schema | None) -> None:
        self._schema = None if schema is None else schema.SerializeToString()

    def setup(self) -> None:
        schema = None if self._schema is None else schema_pb2.Schema.FromString(self._schema)
        self._encoder = example_coder.RecordBatchToExamplesEncoder(schema)

    def process(self, batch: pa.RecordBatch) -> Iterator[bytes]:
        names = [field.name for field in batch.schema if not pa.types.is_null(field.type)]
        columns = [batch.column(batch.schema.get_field_index(name)) for name in names]
        if columns:
            yield tfrecord.pack(self._encoder.encode(pa.RecordBatch.from_arrays(columns, names)))
        else:
            yield tfrecord.pack([b""] * batch.num_rows)


class _Sink(filebasedsink.FileBasedSink):
    """Takes pieces of TFRecord files; Beam's base class writes temporary ones and renames them at the end."""

    def __init__(self, prefix: str) -> None:
        super().__init__(
            prefix,
            coder=beam.coders.BytesCoder(),
            file_name_suffix=".gz",
            compression_type=CompressionTypes.UNCOMPRESSED,  # done here, at a level of our own
        )

    def open(self, temp_path: str) -> tfrecord.GzipWriter:
        return tfrecord.GzipWriter(super().open(temp_path))

    def write_encoded_record(self, file_handle: tfrecord.GzipWriter, encoded_value: bytes) -> None:
        file_handle.write(encoded_value)


class _Decoder:
    """Decodes as tfx_bsl does, several times faster where there is a schema.

    tfx_bsl parses all of every row, whatever the schema; TensorFlow's parser skips what nobody asked for.
    """

    def __init__(self, serialized_schema: bytes | None) -> None:
        self._exact = example_coder.ExamplesToRecordBatchDecoder(serialized_schema)
        self._spec = None if serialized_schema is None else _fast_spec(serialized_schema)

    def decode(self, records: list[bytes]) -> pa.RecordBatch:
        """Returns the rows as columns; RuntimeError if they are not tf.Examples of the schema."""
        if self._spec:
            try:
                found = tf.io.parse_example(tf.constant(records), self._spec)
            except tf.errors.InvalidArgumentError:
                pass  # a value is missing, or something is wrong that tfx_bsl will name
            else:
                columns = [_list_column(value, len(records)) for value in found.values()]
                return pa.RecordBatch.from_arrays(columns, list(found))
        return self._exact.DecodeBatch(records)


def _fast_spec(serialized_schema: bytes) -> dict[str, Any]:
    """Returns what TensorFlow's parser needs to know, empty if the schema has more than it can express."""
    spec: dict[str, Any] = {}
    for feature in schema_pb2.Schema.FromString(serialized_schema).feature:
        if feature.type not in _DTYPES:
            return {}
        dtype = _DTYPES[feature.type]
        sizes = [dim.size for dim in feature.shape.dim]
        if feature.HasField("shape") and all(size > 0 for size in sizes):
            spec[feature.name] = tf.io.FixedLenFeature([int(np.prod(sizes, dtype=int))], dtype)
        else:
            spec[feature.name] = tf.io.VarLenFeature(dtype)
    return spec


def _list_column(parsed: Any, num_rows: int) -> pa.Array:
    """Returns a dense or sparse tensor as a column of lists; rows without a value are null."""
    if not isinstance(parsed, tf.SparseTensor):
        return pa.LargeListArray.from_arrays(_offsets(num_rows, parsed.shape[1]), _flat_array(parsed.numpy()))
    lengths = np.bincount(parsed.indices.numpy()[:, 0], minlength=num_rows)
    is_null = np.append(lengths == 0, False)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return pa.LargeListArray.from_arrays(
        pa.array(offsets, pa.int64(), mask=is_null if is_null.any() else None),
        _flat_array(parsed.values.numpy()),
    )


@functools.lru_cache(maxsize=16)  # the same for each feature of each batch
def _offsets(num_rows: int, width: int) -> pa.Array:
    return pa.array(np.arange(num_rows + 1) * width, pa.int64())


def _flat_array(values: npt.NDArray[Any]) -> pa.Array:
    return pa.array(values.ravel(), pa.large_binary() if values.dtype == object else None)


def _batches(pieces: Iterable[list[bytes]], batch_size: int) -> Iterator[list[bytes]]:
    """Yields records in lists of batch_size, or fewer where they are large; the last one is what is left."""
    batch: list[bytes] = []
    batch_bytes = 0
    for records in pieces:
        for record in records:
            batch.append(record)
            batch_bytes += len(record)
            if len(batch) == batch_size or batch_bytes >= _MAX_BATCH_BYTES:
                yield batch
                batch, batch_bytes = [], 0
    if batch:
        yield batch


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    while block := stream.read(_BLOCK_BYTES):
        yield block


def _matches(patterns: list[str]) -> list[str]:
    paths = {found.path for result in FileSystems.match(patterns) for found in result.metadata_list}
    if not paths:
        raise DataError(f"Examples must have at least one file; got none at {', '.join(patterns)}.")
    return sorted(paths)


_DTYPES = {schema_pb2.FLOAT: tf.float32, schema_pb2.INT: tf.int64, schema_pb2.BYTES: tf.string}
_BLOCK_BYTES = 1 << 20
_MAX_BATCH_BYTES = 32 << 20
