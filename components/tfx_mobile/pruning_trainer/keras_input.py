"""Rows for a training, batch by batch: read from Examples, or made by the user's `input_fn`.

Every bad row is told before training starts, by one pass over the files that counts, checks and, where they
fit, keeps the rows. A batch of a training depends on its step alone, so that a run which was killed goes on
with the rows that it would have seen. Knows no TFX and neither Keras.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from google.protobuf.message import DecodeError

from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.pruning_trainer.config import DEFAULT_EVAL_SPLITS, Resources, TrainerConfig

if TYPE_CHECKING:
    from tfx_mobile.pruning_trainer.context import BuildContext

InputFn = Callable[["BuildContext", str, int], tf.data.Dataset]


class TrainingData(Protocol):
    """What a training reads.

    A batch is (features, labels) or (features, labels, weights). The features of `examples_data` are by
    name, each of shape (rows, ...) and the dtype of its spec: dense, sparse or ragged as its spec says.
    """

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch; >= 1."""

    @property
    def num_rows(self) -> int | None:
        """Rows of one epoch, those for validation left out; None where only batches are known."""

    def train(self, first_step: int) -> tf.data.Dataset:
        """Returns batches without end, from a step on: what an unbroken run sees from there.

        Args:
          first_step: Batches to leave out, >= 0; step // steps_per_epoch is the epoch.
        """

    def validation(self) -> tf.data.Dataset:
        """Returns the batches of one validation, each time the same."""

    def sample(self, num_batches: int, seed: int) -> list[Any]:
        """Returns some batches of the rows to train on, at most an epoch; the same seed gives the same."""


def examples_data(
    patterns: Mapping[str, Sequence[str]],
    feature_spec: Mapping[str, Any],
    label_key: str,
    config: TrainerConfig,
) -> TrainingData:
    """Returns the rows of TFRecord files of tf.Examples.

    Rows are kept in memory up to `resources.cache_mib`: as columns where every feature is dense, serialised
    otherwise. Each epoch is then a new order of all rows. Beyond that the files are read again in each epoch,
    in a new order, and `resources.shuffle_rows` rows are shuffled together; the order then depends on
    `tf.random.set_seed` too. While rows are collected they take up to twice their memory, for a moment.

    Validation is on the splits of `eval_args`, or else on rows of the train splits that are chosen by a hash
    of their place, a share of about `validation_fraction`, and never trained on. The last batch of an epoch
    may be smaller.

    Args:
      patterns: Split to patterns of its files, plain or gzip, which their first bytes tell.
      feature_spec: Feature to its `tf.io` spec, the label's included.
      label_key: The label's feature.
      config: Splits, batch size, share held out, seed, limits.

    Raises:
      ConfigError: A split or the label does not exist, or the label is no number.
      DataError: A split has no files, or too few rows; a file is no TFRecord file; a row is no tf.Example of
        these features; a label is missing or not finite.
    """
    if label_key not in feature_spec:
        raise ConfigError(
            f"label_key must be a transformed feature; got {label_key!r}. "
            f"There are {', '.join(sorted(feature_spec))}."
        )
    _check_label(f"Label {label_key!r}", feature_spec[label_key].dtype)
    form = _Format(dict(feature_spec), label_key)
    train = _read(_paths(patterns, config.train_splits), form, config.resources, _budget_bytes(config))
    if config.eval_args.splits:
        _check_rows("Training", 1, config.train_splits, train.num_rows)
        left = _budget_bytes(config) - (train.size_bytes if train.columns is not None else 0)
        held_out = _read(_paths(patterns, config.eval_args.splits), form, config.resources, left)
        _check_rows("Validation", 1, config.eval_args.splits, held_out.num_rows)
        return _ExamplesData(train.rows(None), held_out.rows(None), config)
    _check_rows("Training", 2, config.train_splits, train.num_rows)
    share = _Share.of(train.num_rows, config.validation_fraction, config.seed)
    rows = train.rows(share)
    held_out_rows = train.rows(dataclasses.replace(share, inverted=True))
    size_bytes = train.size_bytes * held_out_rows.num_rows / train.num_rows
    if isinstance(held_out_rows, _InFiles) and size_bytes <= _budget_bytes(config):
        held_out_rows = held_out_rows.kept()
    return _ExamplesData(rows, held_out_rows, config)


def user_data(ctx: "BuildContext", input_fn: InputFn, config: TrainerConfig) -> TrainingData:
    """Returns the batches that a user's `input_fn(ctx, split, batch_size)` gives.

    It is called for each split of `train_args` ('train' by default) and of `eval_args` ('eval' by default: no
    rows can be held out of batches), and returns one epoch. Training repeats the dataset; a run that was
    killed skips the batches it has seen, by making them again, so a `shuffle` in it must have a seed.

    A dataset without end has epochs of `train_args.num_steps / epochs` batches, rounded up. Batches of
    unknown number are counted by one pass.

    Args:
      ctx: Handed on.
      input_fn: Returns a `tf.data.Dataset` of (features, labels) or (features, labels, weights) batches.
      config: Splits, batch size, limits of steps.

    Raises:
      ConfigError: It returned something else, labels that are no numbers, no batch, or batches without end
        and without a limit.
    """

    def dataset(splits: Sequence[str]) -> tf.data.Dataset:
        found = [_checked(input_fn(ctx, split, config.batch_size), split) for split in splits]
        if len(found) > 1:
            for split, part in zip(splits, found, strict=True):
                if part.cardinality() == tf.data.INFINITE_CARDINALITY:
                    raise ConfigError(
                        f"input_fn must return datasets that end where there are {len(splits)} splits; got "
                        f"one without end for split {split!r}."
                    )
        joined = found[0]
        for part in found[1:]:
            joined = joined.concatenate(part)
        return joined

    eval_splits = config.eval_args.splits or DEFAULT_EVAL_SPLITS
    num_batches = _num_batches(dataset(config.train_splits), config.train_splits)
    if num_batches is None:
        if not config.train_args.num_steps:
            raise ConfigError(_endless(config.train_splits, "train_args"))
        num_batches = math.ceil(config.train_args.num_steps / config.epochs)
    if _num_batches(dataset(eval_splits), eval_splits, most=1) is None and not config.eval_args.num_steps:
        raise ConfigError(_endless(eval_splits, "eval_args"))
    return _UserData(
        lambda: dataset(config.train_splits),
        lambda: _limited(dataset(eval_splits), config.eval_args.num_steps),
        num_batches,
    )


def read_split(
    patterns: Sequence[str],
    split: str,
    feature_spec: Mapping[str, Any],
    label_key: str,
    *,
    batch_size: int,
    shuffle_rows: int,
    seed: int,
) -> tf.data.Dataset:
    """Returns (features, labels) batches of one epoch of one split, for `BuildContext.dataset`.

    Args:
      patterns: Of the split's files.
      split: For messages.
      feature_spec: Feature to its `tf.io` spec, the label's included.
      label_key: The label's feature.
      batch_size: Rows of a batch.
      shuffle_rows: Rows shuffled together, in a new order in each epoch; 0 leaves them in order.
      seed: Of the order.

    Raises:
      DataError: There are no files.
    """
    form = _Format(dict(feature_spec), label_key)
    files = tuple(_File(path, _compression(path), 0) for path in _paths({split: patterns}, [split])[split])
    rows = _InFiles(files, form, None, 0, shuffle_rows=1)
    dataset = rows.ordered()
    if shuffle_rows:
        dataset = dataset.shuffle(shuffle_rows, seed=seed)
    return dataset.batch(batch_size).map(rows.look_up, tf.data.AUTOTUNE, deterministic=True)


@dataclasses.dataclass(frozen=True)
class _Format:
    """How a row is serialised.

    Attributes:
      spec: Of every feature, the label's included.
      label_key: The label's feature.
    """

    spec: dict[str, Any]
    label_key: str

    @property
    def is_dense(self) -> bool:
        """Whether parsed batches can be joined."""
        return all(isinstance(feature, tf.io.FixedLenFeature) for feature in self.spec.values())

    @property
    def label_shape(self) -> tuple[int, ...] | None:
        """Shape of a label that each row must have; None where the spec lets it be any."""
        label = self.spec[self.label_key]
        if isinstance(label, tf.io.FixedLenFeature) and label.default_value is None:
            return tuple(label.shape)
        return None

    def parse(self, serialized: tf.Tensor) -> tuple[dict[str, Any], Any]:
        """Returns features and labels of tf.Examples, shape (rows,)."""
        features = tf.io.parse_example(serialized, self.spec)
        return features, features.pop(self.label_key)

    def parse_any_label(self, serialized: tf.Tensor) -> tuple[dict[str, Any], Any]:
        """Does the same with the label as a sparse tensor, where `parse` would refuse rows without one."""
        spec = dict(self.spec)
        if self.label_shape is not None:
            spec[self.label_key] = tf.io.VarLenFeature(spec[self.label_key].dtype)
        features = tf.io.parse_example(serialized, spec)
        return features, features.pop(self.label_key)


@dataclasses.dataclass(frozen=True)
class _File:
    """A TFRecord file.

    Attributes:
      path: Of the file.
      compression: 'GZIP' or ''.
      first_row: Place of its first row among the rows of all files.
    """

    path: str
    compression: str
    first_row: int


@dataclasses.dataclass(frozen=True)
class _Share:
    """The rows that are trained on, or with `inverted` those held out of them.

    Attributes:
      seed: Another one chooses other rows.
      threshold: Rows whose hash is below are held out; in [0, 2**63].
      num_held_out: How many those are.
      inverted: Whether those are meant.
    """

    seed: int
    threshold: int
    num_held_out: int
    inverted: bool = False

    @classmethod
    def of(cls, num_rows: int, fraction: float, seed: int) -> "_Share":
        """Chooses a threshold that holds out at least one of `num_rows` >= 2 rows, and not all."""
        threshold, below = int(fraction * 2**63), 0
        lowest, highest = 2**63, 0
        for first in range(0, num_rows, _HASHED_ROWS):
            hashes = row_hash(
                tf.range(first, min(first + _HASHED_ROWS, num_rows), dtype=tf.int64), seed
            ).numpy()
            below += int((hashes < threshold).sum())
            lowest, highest = min(lowest, int(hashes.min())), max(highest, int(hashes.max()))
        if below == 0:
            return cls(seed, lowest + 1, 1)
        if below == num_rows:
            return cls(seed, highest, num_rows - 1)
        return cls(seed, threshold, below)

    def has(self, positions: tf.Tensor) -> tf.Tensor:
        """Returns which rows are meant, given their places."""
        return tf.equal(row_hash(positions, self.seed) < self.threshold, self.inverted)


def row_hash(positions: tf.Tensor, seed: int) -> tf.Tensor:
    """Returns a number for each row's place, evenly spread, without two alike.

    The 2**32 places of one seed are those of no other.

    Args:
      positions: int64, any shape, each in [0, 2**32).
      seed: In [0, 2**32).

    Returns:
      int64 in [0, 2**63), the same shape: the upper 63 bits of SplitMix64 (Steele, Lea and Flood 2014).
    """
    shift = tf.bitwise.right_shift
    z = tf.cast(positions + 1, tf.uint64) * _u64(0x9E3779B97F4A7C15) + _u64(seed << 32)
    z = (z ^ shift(z, _u64(30))) * _u64(0xBF58476D1CE4E5B9)
    z = (z ^ shift(z, _u64(27))) * _u64(0x94D049BB133111EB)
    return tf.cast(shift(z ^ shift(z, _u64(31)), _u64(1)), tf.int64)


@dataclasses.dataclass(frozen=True)
class _InMemory:
    """Rows that are kept. A row's handle is its place among them.

    Attributes:
      columns: Features and labels, or tf.Examples, of all rows.
      positions: int64; the rows that are meant.
      finish: What makes features and labels of columns.
      num_rows: How many are meant.
    """

    columns: Any
    positions: tf.Tensor
    finish: Callable[[Any], Any]
    num_rows: int

    def ordered(self) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(self.positions)

    def shuffled(self, key: tf.Tensor) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(tf.gather(self.positions, _permutation(self.num_rows, key)))

    def look_up(self, positions: tf.Tensor) -> Any:
        return self.finish(tf.nest.map_structure(lambda column: tf.gather(column, positions), self.columns))


@dataclasses.dataclass(frozen=True)
class _InFiles:
    """Rows that are read when they are needed. A row's handle is its tf.Example.

    Attributes:
      files: That hold them.
      form: Of a row.
      share: The rows that are meant; None is all.
      num_rows: How many those are.
      shuffle_rows: Rows shuffled together.
    """

    files: tuple[_File, ...]
    form: _Format
    share: _Share | None
    num_rows: int
    shuffle_rows: int

    def ordered(self) -> tf.data.Dataset:
        return self._read(tf.range(len(self.files)))

    def shuffled(self, key: tf.Tensor) -> tf.data.Dataset:
        rows = self._read(_permutation(len(self.files), key))
        seed = tf.random.stateless_uniform([], key, minval=None, maxval=None, dtype=tf.int64)
        return rows.shuffle(self.shuffle_rows, seed=seed, reshuffle_each_iteration=False)

    def look_up(self, serialized: tf.Tensor) -> Any:
        return self.form.parse(serialized)

    def kept(self) -> _InMemory:
        """Returns the same rows in memory."""
        parts = [_keepable(batch, self.form) for batch in self.ordered().batch(_PASS_ROWS)]
        return _InMemory(
            _join(parts), tf.range(self.num_rows, dtype=tf.int64), _finish(self.form), self.num_rows
        )

    def _read(self, order: tf.Tensor) -> tf.data.Dataset:
        paths = tf.constant([file.path for file in self.files])
        compressions = tf.constant([file.compression for file in self.files])
        first_rows = tf.constant([file.first_row for file in self.files], tf.int64)

        def read(number: tf.Tensor) -> tf.data.Dataset:
            records = tf.data.TFRecordDataset(paths[number], compressions[number])
            if self.share is None:
                return records
            return records.batch(_PASS_ROWS).enumerate().map(meant(first_rows[number])).unbatch()

        def meant(first_row: tf.Tensor) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
            def choose(batch: tf.Tensor, serialized: tf.Tensor) -> tf.Tensor:
                first = first_row + batch * _PASS_ROWS
                positions = tf.range(first, first + tf.size(serialized, tf.int64))
                return tf.boolean_mask(serialized, self.share.has(positions))  # type: ignore[union-attr]

            return choose

        return tf.data.Dataset.from_tensor_slices(order).flat_map(read)


@dataclasses.dataclass(frozen=True)
class _Found:
    """What the pass over the files found.

    Attributes:
      files: In order.
      form: Of a row.
      num_rows: Of all files.
      size_bytes: Of the rows, if they were kept.
      columns: The rows; None if they did not fit.
      shuffle_rows: Rows shuffled together when they are not kept.
    """

    files: tuple[_File, ...]
    form: _Format
    num_rows: int
    size_bytes: int
    columns: Any
    shuffle_rows: int

    def rows(self, share: _Share | None) -> _InMemory | _InFiles:
        """Returns the rows that are meant; None is all."""
        num_rows = self.num_rows
        if share is not None:
            num_rows = share.num_held_out if share.inverted else num_rows - share.num_held_out
        if self.columns is None:
            return _InFiles(self.files, self.form, share, num_rows, self.shuffle_rows)
        positions = tf.range(self.num_rows, dtype=tf.int64)
        if share is not None:
            positions = tf.boolean_mask(positions, share.has(positions))
        return _InMemory(self.columns, positions, _finish(self.form), num_rows)


@dataclasses.dataclass(frozen=True)
class _ExamplesData:
    """Rows of Examples; see TrainingData."""

    rows: _InMemory | _InFiles
    held_out: _InMemory | _InFiles
    config: TrainerConfig

    @property
    def num_rows(self) -> int:
        return self.rows.num_rows

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.rows.num_rows / self.config.batch_size)

    def train(self, first_step: int) -> tf.data.Dataset:
        first_epoch, seen_batches = divmod(first_step, self.steps_per_epoch)

        def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
            seen = tf.where(epoch == first_epoch, seen_batches * self.config.batch_size, 0)
            rows = self.rows.shuffled(tf.stack([tf.constant(self.config.seed, tf.int64), epoch]))
            return rows.skip(tf.cast(seen, tf.int64)).batch(self.config.batch_size)

        batches = tf.data.Dataset.counter(first_epoch).flat_map(epoch_batches)
        return self._finished(_of_length(batches, tf.data.INFINITE_CARDINALITY), self.rows)

    def validation(self) -> tf.data.Dataset:
        batches = self.held_out.ordered().batch(self.config.batch_size)
        batches = _of_length(batches, math.ceil(self.held_out.num_rows / self.config.batch_size))
        return self._finished(_limited(batches, self.config.eval_args.num_steps), self.held_out)

    def sample(self, num_batches: int, seed: int) -> list[Any]:
        rows = self.rows.shuffled(tf.constant([self.config.seed, -1 - seed], tf.int64))  # no epoch's key
        batches = rows.batch(self.config.batch_size).take(num_batches)
        return list(self._finished(batches, self.rows))

    def _finished(self, batches: tf.data.Dataset, rows: _InMemory | _InFiles) -> tf.data.Dataset:
        """Makes features and labels of batches of handles, with as many threads as there may be."""
        num_threads = self.config.resources.num_threads
        options = tf.data.Options()
        options.deterministic = True
        if num_threads:
            options.threading.private_threadpool_size = num_threads
        found = batches.map(rows.look_up, num_threads or tf.data.AUTOTUNE)
        return found.prefetch(_PREFETCHED_BATCHES).with_options(options)


@dataclasses.dataclass(frozen=True)
class _UserData:
    """Batches of an `input_fn`; see TrainingData."""

    make_train: Callable[[], tf.data.Dataset]
    make_validation: Callable[[], tf.data.Dataset]
    steps_per_epoch: int
    num_rows: int | None = None

    def train(self, first_step: int) -> tf.data.Dataset:
        return self.make_train().repeat().skip(first_step)

    def validation(self) -> tf.data.Dataset:
        return self.make_validation()

    def sample(self, num_batches: int, seed: int) -> list[Any]:
        """Returns the first batches, whatever the seed: others cost an epoch to come to."""
        return list(self.make_train().take(min(num_batches, self.steps_per_epoch)))


def _read(
    paths: Mapping[str, Sequence[str]], form: _Format, resources: Resources, budget_bytes: int
) -> _Found:
    """Reads, counts and checks every row once, and keeps them while they fit."""
    files: list[_File] = []
    kept: list[Any] | None = []
    num_rows = size_bytes = 0
    for split, split_paths in paths.items():
        faults = _LabelFaults(form)
        for path in split_paths:
            file = _File(path, _compression(path), num_rows)
            files.append(file)
            for serialized in _records(file):
                features, labels = _parsed(serialized, form, file, num_rows - file.first_row)
                faults.add(labels, len(serialized))
                num_rows += len(serialized)
                if faults.found:
                    kept = None
                    continue
                part = _keepable(serialized, form, features, labels)
                size_bytes += sum(map(_size_bytes, tf.nest.flatten(part)))
                if size_bytes > budget_bytes:
                    kept = None
                elif kept is not None:
                    kept.append(part)
        faults.check(split)
    columns = _join(kept) if kept else None
    return _Found(tuple(files), form, num_rows, size_bytes, columns, resources.shuffle_rows)


def _records(file: _File) -> Iterator[tf.Tensor]:
    try:
        yield from tf.data.TFRecordDataset(file.path, file.compression).batch(_PASS_ROWS).prefetch(1)
    except tf.errors.DataLossError as error:
        raise DataError(
            f"Examples must be whole TFRecord files, plain or gzip; {file.path} is not: {_reason(error)}. "
            "Write it again, or take it out of the split."
        ) from error


def _parsed(
    serialized: tf.Tensor, form: _Format, file: _File, first_record: int
) -> tuple[dict[str, Any], Any]:
    try:
        return form.parse_any_label(serialized)
    except tf.errors.InvalidArgumentError as error:
        for number, record in enumerate(serialized.numpy().tolist(), first_record):
            _check_record(record, form, f"record {number} of {file.path}")
        raise DataError(f"Rows must be tf.Examples; {file.path} has others: {_reason(error)}.") from error


def _check_record(record: bytes, form: _Format, where: str) -> None:
    try:
        tf.train.Example.FromString(record)
    except DecodeError as error:
        raise DataError(
            f"Rows must be tf.Examples; {where} is not. Write the file again, or take it out of the split."
        ) from error
    try:
        form.parse_any_label(tf.constant([record]))
    except tf.errors.InvalidArgumentError as error:
        raise DataError(
            f"Rows must have the features of the transform graph; {where} has not: {_reason(error)}. Give "
            "the Examples and the TransformGraph of one Transform."
        ) from error


class _LabelFaults:
    """Counts the rows of one split whose label nothing can be learnt from."""

    def __init__(self, form: _Format) -> None:
        shape = form.label_shape
        self._label_key = form.label_key
        self._num_values = None if shape is None else math.prod(shape)
        self._rows = self._missing = self._other_size = self._not_finite = 0

    @property
    def found(self) -> bool:
        return bool(self._missing or self._other_size or self._not_finite)

    def add(self, labels: Any, num_rows: int) -> None:
        """Counts the labels of one batch: dense, sparse or ragged."""
        row_of_value, values = _values(labels, num_rows)
        num_values = np.bincount(row_of_value, minlength=num_rows)
        self._rows += num_rows
        self._missing += int((num_values == 0).sum())
        if self._num_values is not None:
            self._other_size += int((num_values != self._num_values).sum())
        if values.dtype.kind == "f":
            self._not_finite += np.unique(row_of_value[~np.isfinite(values)]).size

    def check(self, split: str) -> None:
        where = f"of {self._rows} rows in split {split!r}"
        if self._missing:
            raise DataError(
                f"Label {self._label_key!r} must be in every row; it is missing in {self._missing} {where}. "
                "Drop those rows before Transform, or fill them in preprocessing_fn."
            )
        if self._other_size:
            raise DataError(
                f"Label {self._label_key!r} must have {self._num_values} values in every row; it has another "
                f"number in {self._other_size} {where}."
            )
        if self._not_finite:
            raise DataError(
                f"Label {self._label_key!r} must be finite; got NaN or infinity in {self._not_finite} {where}"
                ". Drop those rows before Transform, or clean them in preprocessing_fn."
            )


def _values(labels: Any, num_rows: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Returns which row each value belongs to, and the values."""
    if isinstance(labels, tf.RaggedTensor):
        labels = labels.to_sparse()
    if isinstance(labels, tf.SparseTensor):
        return labels.indices.numpy()[:, 0], labels.values.numpy()
    values = labels.numpy().reshape(num_rows, -1)
    return np.repeat(np.arange(num_rows), values.shape[1]), values.ravel()


def _keepable(serialized: tf.Tensor, form: _Format, features: Any = None, labels: Any = None) -> Any:
    """Returns what is kept of some rows: features and labels if they are dense, else the tf.Examples."""
    if not form.is_dense:
        return serialized
    if features is None:
        return form.parse(serialized)
    if isinstance(labels, tf.SparseTensor):
        labels = tf.reshape(labels.values, (-1, *(form.label_shape or ())))
    return features, labels


def _finish(form: _Format) -> Callable[[Any], Any]:
    return (lambda columns: columns) if form.is_dense else form.parse


def _join(parts: list[Any]) -> Any:
    return tf.nest.map_structure(lambda *columns: tf.concat(columns, 0), *parts)


def _size_bytes(column: tf.Tensor) -> int:
    if column.dtype != tf.string:
        return int(column.dtype.size * tf.size(column))
    return int(tf.reduce_sum(tf.strings.length(column))) + _STRING_BYTES * int(tf.size(column))


def _permutation(size: int, key: tf.Tensor) -> tf.Tensor:
    """Returns one order of `size` things for each key, int64 of shape (2,).

    Not `tf.random.experimental.index_shuffle`: the orders of neighbouring keys are alike there (20,000
    things: a correlation of 0.3), and there are only 256 of them.
    """
    numbers = tf.random.stateless_uniform([size], key, minval=None, maxval=None, dtype=tf.int64)
    return tf.argsort(numbers, direction="DESCENDING")


def _paths(patterns: Mapping[str, Sequence[str]], splits: Sequence[str]) -> dict[str, list[str]]:
    found = {}
    for split in splits:
        if split not in patterns:
            raise ConfigError(
                f"train_args and eval_args must name splits of the Examples; got {split!r}. "
                f"There are {', '.join(sorted(patterns))}."
            )
        found[split] = sorted(path for pattern in patterns[split] for path in tf.io.gfile.glob(pattern))
        if not found[split]:
            raise DataError(
                f"Split {split!r} must have at least one file; got none at {', '.join(patterns[split])}."
            )
    return found


def _compression(path: str) -> str:
    with tf.io.gfile.GFile(path, "rb") as file:
        return "GZIP" if file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC else ""


def _check_rows(purpose: str, least: int, splits: Sequence[str], got: int) -> None:
    if got < least:
        noun = "rows" if least > 1 else "row"
        where = f"split {splits[0]!r}" if len(splits) == 1 else f"splits {', '.join(map(repr, splits))}"
        raise DataError(f"{purpose} needs at least {least} {noun} in {where}; got {got}.")


def _budget_bytes(config: TrainerConfig) -> int:
    return config.resources.cache_mib << 20


def _of_length(batches: tf.data.Dataset, length: int) -> tf.data.Dataset:
    """Tells a dataset how many batches it has, which Keras asks for."""
    return batches.apply(tf.data.experimental.assert_cardinality(length))


def _limited(batches: tf.data.Dataset, num_steps: int) -> tf.data.Dataset:
    return batches.take(num_steps) if num_steps else batches


def _checked(dataset: Any, split: str) -> tf.data.Dataset:
    if not isinstance(dataset, tf.data.Dataset):
        raise ConfigError(
            f"input_fn must return a tf.data.Dataset; got {type(dataset).__name__} for split {split!r}."
        )
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) not in (2, 3):
        raise ConfigError(
            "input_fn must return batches of (features, labels) or (features, labels, weights); got elements "
            f"{spec} for split {split!r}."
        )
    if any(getattr(part, "shape", None) == () for part in tf.nest.flatten(spec)):
        raise ConfigError(
            f"input_fn must return batches; got single rows, {spec}, for split {split!r}. "
            "Call .batch(batch_size) in it."
        )
    for label in tf.nest.flatten(spec[1]):
        if hasattr(label, "dtype"):
            _check_label(f"Each label that input_fn returns for split {split!r}", label.dtype)
    return dataset


def _check_label(what: str, dtype: tf.DType) -> None:
    if not (dtype.is_floating or dtype.is_integer or dtype.is_bool):
        raise ConfigError(
            f"{what} must be a number; got dtype {dtype.name}. Map it in preprocessing_fn, with "
            "tft.compute_and_apply_vocabulary or a lookup."
        )


def _num_batches(dataset: tf.data.Dataset, splits: Sequence[str], *, most: int = 0) -> int | None:
    """Returns the batches of a dataset, counted (up to `most`) if it does not know; None without end."""
    found = int(dataset.cardinality())
    if found == tf.data.INFINITE_CARDINALITY:
        return None
    if found == tf.data.UNKNOWN_CARDINALITY:
        found = sum(1 for _ in _limited(dataset, most))
    if not found:
        raise ConfigError(
            f"input_fn must return at least one batch; got none for split {', '.join(map(repr, splits))}."
        )
    return found


def _endless(splits: Sequence[str], setting: str) -> str:
    return (
        f"input_fn must return a dataset that ends, one epoch; got one without end for split "
        f"{', '.join(map(repr, splits))}. Leave .repeat() out of it, or limit the steps with "
        f"{setting}.num_steps."
    )


def _reason(error: tf.errors.OpError) -> str:
    """Returns what a TensorFlow error says, without the name of the op and what it was called from."""
    text = str(error.message).splitlines()[0].rpartition("}} ")[2].partition(" [Op:")[0]
    return text.strip().rstrip(".")[:_MAX_REASON]


def _u64(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint64)


_PASS_ROWS = 256  # parsed together when nobody waits for a batch
_HASHED_ROWS = 1 << 20
_PREFETCHED_BATCHES = 2
_STRING_BYTES = 24  # of a string in a tensor, besides its characters
_GZIP_MAGIC = b"\x1f\x8b\x08"
_MAX_REASON = 300
