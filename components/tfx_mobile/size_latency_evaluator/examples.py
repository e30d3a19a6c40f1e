"""Reading the evaluation rows in batches: labels and weights as numbers, features as the files want them.

TensorFlow's parser reads what is as the first rows were; a batch that has something else is read again by
tfx_bsl, slowly, which also finds out what is wrong. No judgement.
"""

import collections
import dataclasses
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tensorflow as tf
from tfx_bsl.coders import example_coder

from tfx_mobile.common import examples, tfrecord
from tfx_mobile.common.errors import DataError

Features = Mapping[str, tuple[Any, tuple[int, ...]]]

_LOOK_ROWS, _LOOK_BYTES = 256, 1 << 16
_READ_BYTES = 16 << 20
_MAX_READ_ROWS = 8192
_BUFFER_BYTES = 4 << 20
_DTYPES = {"f": tf.float32, "i": tf.int64, "S": tf.string}
_KINDS = {"f": "f", "i": "i", "u": "i", "b": "i", "O": "S"}  # NumPy's
_NO_KEYS = np.zeros(0, object)


@dataclass(frozen=True)
class Wanted:
    """What is read besides the files' features.

    Attributes:
      labels: By output of the files, the label's feature; "" is the only output.
      weight: The sample weight's feature; empty when rows count alike.
      columns: Features that slices need.
      missing: By feature, the value that stands for a missing one, None where there must be one; 0 or the
        empty string for features that are not named.
      split: For messages.
    """

    labels: Mapping[str, str]
    weight: str = ""
    columns: tuple[str, ...] = ()
    missing: Mapping[str, Any] = field(default_factory=dict)
    split: str = "eval"


@dataclass(frozen=True)
class Look:
    """What the first rows of a split are like.

    Attributes:
      paths: The split's files, in order.
      kinds: By feature that has a value: 'f', 'i' or 'S' for floats, integers, strings.
      widths: By feature, its number of values where that is the same in all rows that have any; else 0.
      row_bytes: Of a row as it is written.
    """

    paths: tuple[str, ...]
    kinds: Mapping[str, str]
    widths: Mapping[str, int]
    row_bytes: int


@dataclass(frozen=True)
class Rows:
    """Some evaluation rows, all of them with labels and weights that can be used.

    Attributes:
      first: Position of the first one in its file.
      columns: By feature that files take, shape (rows, *row_shape).
      labels: By output, shape (rows, width), finite.
      weights: Shape (rows,), finite, >= 0; None without weights.
      extra: By feature that slices need, shape (rows,) or (rows, width); a missing number is NaN, any other
        missing value None.
    """

    first: int
    columns: dict[str, npt.NDArray[Any]]
    labels: dict[str, npt.NDArray[np.float64]]
    weights: npt.NDArray[np.float64] | None
    extra: dict[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.labels.values())))


@dataclass
class Census:
    """What all rows were like; mergeable.

    Attributes:
      rows: How many.
      present: Features that a row has.
      unset: By label or weight, rows without it.
      wrong: By label or weight, rows where it is NaN, infinite, or a negative weight.
      widths: By label or weight, how many values its rows have.
    """

    rows: int = 0
    present: set[str] = field(default_factory=set)
    unset: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: collections.Counter[str] = field(default_factory=collections.Counter)
    widths: dict[str, set[int]] = field(default_factory=dict)

    def merge(self, other: "Census") -> None:
        """Adds the rows that another one counted."""
        self.rows += other.rows
        self.present |= other.present
        self.unset.update(other.unset)
        self.wrong.update(other.wrong)
        for name, widths in other.widths.items():
            self.widths.setdefault(name, set()).update(widths)

    def note(self, what: str, name: str, values: npt.NDArray[np.float64], num_unset: int) -> None:
        """Counts what is wrong with a label or weight of these rows; `values` are of those that have one."""
        bad = ~np.isfinite(values).all(axis=1)
        if what != "Label":
            bad |= (values < 0).any(axis=1)
        self.unset[name] += num_unset
        self.wrong[name] += int(np.count_nonzero(bad))
        if len(values):
            self.widths.setdefault(name, set()).add(values.shape[1])

    @property
    def is_sound(self) -> bool:
        """Whether no row is known that cannot be used."""
        return (
            not self.unset.total()
            and not self.wrong.total()
            and all(len(found) == 1 for found in self.widths.values())
        )

    def check(self, wanted: Wanted) -> None:
        """Raises DataError if there are no rows, or labels or weights that cannot be used."""
        split = wanted.split
        if not self.rows:
            raise DataError(f"Split {split!r} must have at least one row; got zero.")
        for what, name, key in _needed(wanted):
            if name not in self.present:
                raise DataError(
                    f"{key} {name!r} must be a feature of the rows in split {split!r}; "
                    f"they have {', '.join(sorted(self.present)) or 'none'}."
                )
            if self.unset[name]:
                raise DataError(
                    f"{what} {name!r} must be set in each row; got {self.unset[name]} of {self.rows} rows "
                    f"without it in split {split!r}."
                )
            widths = sorted(self.widths[name])
            if len(widths) > 1:
                raise DataError(f"{what} {name!r} must have one width; got {widths} in split {split!r}.")
            if what == "Sample weight" and widths != [1]:
                raise DataError(
                    f"{what} {name!r} must be one number in each row; got {widths[0]} in split {split!r}."
                )
            if self.wrong[name]:
                rule = "finite" if what == "Label" else "finite and not negative"
                got = "NaN or infinite" if what == "Label" else "NaN, infinite or negative"
                raise DataError(
                    f"{what} {name!r} must be {rule}; got {self.wrong[name]} {got} of {self.rows} rows in "
                    f"split {split!r}. Clean it in preprocessing_fn or drop these rows."
                )


def first_look(patterns: Sequence[str], wanted: Wanted) -> Look:
    """Looks at the first rows of a split.

    Args:
      patterns: The split's file patterns; files ending in .gz are gzip TFRecords, as TFX writes them.
      wanted: What is going to be read.

    Raises:
      DataError: No file matches, there are no rows, or labels or weights are strings.
    """
    paths = tuple(sorted(path for pattern in patterns for path in tf.io.gfile.glob(pattern)))
    if not paths:
        raise DataError(f"Examples must have at least one file; got none at {', '.join(patterns)}.")
    for path in paths:
        for contents in _some_records(path):
            batch = _decode(contents, path)
            for what, name, _ in _needed(wanted):
                _numbers(batch, name, what, wanted.split)
            lists = {name: _lists(batch, name) for name in batch.schema.names}
            lists = {name: one for name, one in lists.items() if len(one[0])}
            counts = {name: np.unique(lengths[lengths > 0]) for name, (_, lengths) in lists.items()}
            return Look(
                paths=paths,
                kinds={name: _KINDS[values.dtype.kind] for name, (values, _) in lists.items()},
                widths={name: int(found[0]) if len(found) == 1 else 0 for name, found in counts.items()},
                row_bytes=sum(map(len, contents)) // len(contents),
            )
    raise DataError(f"Split {wanted.split!r} must have at least one row; got zero.")


def rows_at_once(look: Look, batch_size: int) -> int:
    """Returns how many rows are read at once: a multiple of the rows per invocation."""
    fitting = min(_MAX_READ_ROWS, _READ_BYTES // max(look.row_bytes, 1))
    return batch_size * max(1, fitting // batch_size)


class Records:
    """The serialised rows of a file, read and decompressed in the background from now on.

    Args:
      path: The file; gzip if it ends in .gz.
      num_rows: In each batch but the last.
    """

    def __init__(self, path: str, num_rows: int) -> None:
        self.path = path
        self._batches = _batches(path, num_rows)
        with_first = ThreadPoolExecutor(1)
        self._first = with_first.submit(next, self._batches, None)
        with_first.shutdown(wait=False)

    def __iter__(self) -> Iterator[Any]:
        """Yields string tensors, shape (rows,); raises DataError if the file is no whole TFRecord file."""
        first = self._first.result()
        if first is not None:
            yield first
            yield from self._batches


class Reader:
    """Reads files of a split.

    Args:
      wanted: What is read besides `features`.
      features: By name, the NumPy dtype and row shape that the files take.
      look: What the first rows were like.

    Attributes:
      census: What the rows read so far were like.
    """

    def __init__(self, wanted: Wanted, features: Features, look: Look) -> None:
        self.census = Census()
        self._wanted, self._features = wanted, features
        self._fillers = {
            name: b"" if np.dtype(dtype).kind in "SUO" else 0 for name, (dtype, _) in features.items()
        }
        self._fillers |= {name: value for name, value in wanted.missing.items() if name in features}
        self._parser = _Parser.of(wanted, features, self._fillers, look)

    def read(self, records: Records) -> Iterator[Rows]:
        """Yields the rows of a file in order; from the first one that cannot be used on, only counts them.

        Raises:
          DataError: The file is no whole TFRecord file of tf.Examples, or a row has strings for numbers,
            numbers for strings, or another number of values than the files take.
        """
        first = 0
        for batch in records:
            found = self._parser.parse(batch) if self._parser else None
            rows, census = found if found else self._decode(batch.numpy().tolist(), records.path)
            self.census.merge(census)
            if self.census.is_sound:
                yield dataclasses.replace(rows, first=first)
            first += census.rows

    def _decode(self, records: list[bytes], path: str) -> tuple[Rows, Census]:
        """As _Parser.parse, whatever the rows are like."""
        batch = _decode(records, path)
        census = Census(rows=batch.num_rows, present=set(batch.schema.names))
        numbers: dict[str, npt.NDArray[np.float64]] = {}
        for what, name, _ in _needed(self._wanted):
            numbers[name], num_unset = _numbers(batch, name, what, self._wanted.split)
            census.note(what, name, numbers[name], num_unset)
        columns = examples.to_columns(batch, self._features, self._fillers)
        extra = {name: _marked(*_lists(batch, name)) for name in self._wanted.columns}
        return _rows(self._wanted, columns, numbers, extra), census


@dataclass(frozen=True)
class _Parser:
    """TensorFlow's parser, told what the first rows were like; without the Python around it."""

    wanted: Wanted
    features: Features
    fillers: Mapping[str, Any]
    dense: Mapping[str, tuple[Any, int, Any]]  # dtype, width, default
    lists: Mapping[str, Any]  # dtype

    @classmethod
    def of(
        cls, wanted: Wanted, features: Features, fillers: Mapping[str, Any], look: Look
    ) -> "_Parser | None":
        """Returns a parser for rows like these; None where they have what it cannot express."""
        required = {name for _, name, _ in _needed(wanted)}
        dense: dict[str, tuple[Any, int, Any]] = {}
        lists: dict[str, Any] = {}
        for name in dict.fromkeys((*features, *required, *wanted.columns)):
            dtype, shape = features.get(name, (np.float32, None))
            is_string = np.dtype(dtype).kind in "SUO"
            kind = look.kinds.get(name, _KINDS.get(np.dtype(dtype).kind, "S"))
            is_unknown = name in required and name not in look.kinds
            if is_unknown or (name in features and is_string != (kind == "S")):
                return None
            width = look.widths.get(name, 0) if shape is None else math.prod(shape)
            filler = None if name in required else fillers.get(name)
            if name in look.kinds and (name in required or name not in wanted.columns):
                if not width or (kind == "i" and filler is not None and not float(filler).is_integer()):
                    return None
                default = [] if filler is None else [filler] * width
                dense[name] = (_DTYPES[kind], width, tf.constant(default, _DTYPES[kind]))
            else:
                lists[name] = _DTYPES[kind]
        return cls(wanted, features, fillers, dense, lists)

    def parse(self, records: Any) -> tuple[Rows, Census] | None:
        """Returns the rows and what they are like; None if they are not like the first ones."""
        try:
            parsed = tf.raw_ops.ParseExampleV2(
                serialized=records,
                names=_NO_KEYS,
                sparse_keys=_NO_KEYS,
                dense_keys=list(self.dense) or _NO_KEYS,
                ragged_keys=list(self.lists) or _NO_KEYS,
                dense_defaults=[default for _, _, default in self.dense.values()],
                num_sparse=0,
                sparse_types=[],
                ragged_value_types=list(self.lists.values()),
                ragged_split_types=[tf.int64] * len(self.lists),
                dense_shapes=[[width] for _, width, _ in self.dense.values()],
            )
        except tf.errors.InvalidArgumentError:
            return None
        dense = {name: one.numpy() for name, one in zip(self.dense, parsed.dense_values, strict=True)}
        lists = {
            name: (values.numpy(), np.diff(splits.numpy()))
            for name, values, splits in zip(
                self.lists, parsed.ragged_values, parsed.ragged_row_splits, strict=True
            )
        }
        present = {*dense, *(name for name, (values, _) in lists.items() if len(values))}
        census = Census(rows=len(records), present=present)
        numbers = {}
        for what, name, _ in _needed(self.wanted):
            numbers[name] = dense[name].astype(np.float64)
            census.note(what, name, numbers[name], 0)
        columns = {}
        for name, (dtype, shape) in self.features.items():
            width = math.prod(shape)
            flat = dense[name] if name in dense else _filled(*lists[name], width, self.fillers[name])
            if flat is None:
                return None
            kind: Any = object if np.dtype(dtype).kind in "SUO" else dtype
            columns[name] = flat.astype(kind, copy=False).reshape(census.rows, *shape)
        extra = {}
        for name in self.wanted.columns:
            values, lengths = lists[name] if name in lists else (dense[name].ravel(), None)
            extra[name] = _marked(
                values, np.full(census.rows, dense[name].shape[1]) if lengths is None else lengths
            )
        return _rows(self.wanted, columns, numbers, extra), census


def _needed(wanted: Wanted) -> Iterator[tuple[str, str, str]]:
    """Yields the labels and the weight: what it is in a message, its feature, and the setting's name."""
    for name in dict.fromkeys(wanted.labels.values()):
        yield "Label", name, "label_key"
    if wanted.weight:
        yield "Sample weight", wanted.weight, "sample_weight_key"


def _rows(
    wanted: Wanted,
    columns: dict[str, npt.NDArray[Any]],
    numbers: Mapping[str, npt.NDArray[np.float64]],
    extra: dict[str, npt.NDArray[Any]],
) -> Rows:
    weights = numbers[wanted.weight][:, 0] if wanted.weight else None
    labels = {output: numbers[name] for output, name in wanted.labels.items()}
    return Rows(0, columns, labels, weights, extra)


def _batches(path: str, num_rows: int) -> Iterator[Any]:
    compression = "GZIP" if path.endswith(".gz") else ""
    num_bytes = 0
    try:
        rows = tf.data.TFRecordDataset([path], compression, _BUFFER_BYTES).batch(num_rows).prefetch(1)
        options = tf.data.Options()
        options.autotune.enabled = False  # there is nothing to tune, and its thread is waited for at the end
        for batch in rows.with_options(options):
            num_bytes += int(tf.reduce_sum(tf.strings.length(batch))) + len(batch) * tfrecord.FRAME_BYTES
            yield batch
    except (tf.errors.DataLossError, tf.errors.OutOfRangeError) as error:
        raise DataError(
            f"Examples must be whole TFRecord files; {path} is not: {error.message}. Write the file again."
        ) from error
    if compression:
        _check_end(path, num_bytes)


def _check_end(path: str, num_bytes: int) -> None:
    """Raises DataError if a gzip file is cut off, which TensorFlow does not notice after a whole record."""
    with tf.io.gfile.GFile(path, "rb") as stream:
        stream.seek(max(stream.size() - 4, 0))
        if stream.read(4) == struct.pack("<I", num_bytes % 2**32):  # as the last four bytes say
            return
    try:
        for _ in _some_records(path):  # it is cut off, or several gzip files in one
            pass
    except DataError as error:
        raise DataError(f"Examples must be whole TFRecord files; {path} is not: {error}") from error


def _some_records(path: str) -> Iterator[list[bytes]]:
    """Yields the first rows of a file, sooner than `Records` can."""
    with tf.io.gfile.GFile(path, "rb") as stream:
        for records in tfrecord.unpack(iter(lambda: stream.read(_LOOK_BYTES), b""), path):
            yield records[:_LOOK_ROWS]


def _decode(records: list[bytes], path: str) -> pa.RecordBatch:
    try:
        return example_coder.ExamplesToRecordBatchDecoder().DecodeBatch(records)
    except RuntimeError as error:
        raise DataError(
            f"The rows of {path} must be tf.Examples with one type for each feature; got {error}. "
            "Write the file again."
        ) from error


def _lists(batch: pa.RecordBatch, name: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Returns all values of a feature, and how many each row has."""
    position = batch.schema.get_field_index(name)
    if position < 0 or pa.types.is_null(batch.column(position).type):
        return np.zeros(0, np.float32), np.zeros(batch.num_rows, np.int64)
    column = batch.column(position)
    lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return column.flatten().to_numpy(zero_copy_only=False), lengths


def _numbers(batch: pa.RecordBatch, name: str, what: str, split: str) -> tuple[npt.NDArray[np.float64], int]:
    """Returns a label or weight of the rows that have one, shape (rows, width), and how many have none."""
    values, lengths = _lists(batch, name)
    if values.dtype == object:
        raise _strings(what, name, split)
    kept = np.unique(lengths[lengths > 0])
    if len(kept) > 1:
        raise DataError(
            f"{what} {name!r} must have one width; got rows with {kept.tolist()} values in split {split!r}."
        )
    width = int(kept[0]) if len(kept) else 1
    return values.astype(np.float64).reshape(-1, width), int(np.count_nonzero(lengths == 0))


def _strings(what: str, name: str, split: str) -> DataError:
    advice = " or a class index" if what == "Label" else ""
    return DataError(
        f"{what} {name!r} must be numbers; got strings in split {split!r}. Turn it into a number{advice} in "
        "preprocessing_fn."
    )


def _filled(
    values: npt.NDArray[Any], lengths: npt.NDArray[np.int64], width: int, filler: Any
) -> npt.NDArray[Any] | None:
    """Returns a row of `width` values for each length, shape (rows, width); None if that cannot be."""
    is_full = lengths == width
    if is_full.all():
        return values.reshape(-1, width)
    if filler is None or not (is_full | (lengths == 0)).all():
        return None
    kind = object if values.dtype == object else np.result_type(values.dtype, np.min_scalar_type(filler))
    dense = np.full((len(lengths), width), filler, kind)
    dense[is_full] = values.reshape(-1, width)
    return dense


def _marked(values: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Returns the values by row, shape (rows,) or (rows, width); NaN or None where a row has fewer.

    Without any value nobody knows whether they would be numbers: None, then.
    """
    width = max(1, int(lengths.max(initial=0)))
    if (lengths == width).all():
        found = values.reshape(-1, width)
    else:
        is_text = values.dtype == object or not len(values)
        kind: Any = object if is_text else values.dtype if values.dtype.kind == "f" else np.float64
        found = np.full((len(lengths), width), None if is_text else np.nan, kind)
        found[np.arange(width) < lengths[:, None]] = values
    return found[:, 0] if width == 1 else found
