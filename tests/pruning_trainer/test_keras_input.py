"""Rows for training: which rows, in which order, from memory and from files; what is refused."""

import contextlib
import dataclasses
import itertools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import Trips, serialized

from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.pruning_trainer.config import Resources, SplitArgs, TrainerConfig

pytestmark = pytest.mark.pipeline

IN_MEMORY, IN_FILES = 1024, 0  # MiB
NUM_ROWS, BATCH_SIZE = 103, 10


def write(path: Path, records: Sequence[bytes]) -> None:
    import tensorflow as tf

    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), "GZIP" if path.suffix == ".gz" else "") as writer:
        for record in records:
            writer.write(record)


def row(number: int) -> dict[str, Any]:
    """A row that its label tells: x is (number, number / 2), y the number."""
    return {"x": np.array([number, number / 2], np.float32), "y": np.array([number], np.float32)}


def records(numbers: Sequence[int]) -> list[bytes]:
    return [serialized(row(number)) for number in numbers]


def spec(**others: Any) -> dict[str, Any]:
    import tensorflow as tf

    fixed = tf.io.FixedLenFeature
    return {"x": fixed([2], tf.float32), "y": fixed([1], tf.float32)} | others


def config(cache_mib: int = IN_MEMORY, shuffle_rows: int = 50, **changed: Any) -> TrainerConfig:
    settings = {
        "label_key": "y",
        "build_model": "tiny_models.build_line",
        "batch_size": BATCH_SIZE,
        "resources": Resources(cache_mib=cache_mib, shuffle_rows=shuffle_rows),
    }
    return TrainerConfig(**(settings | changed))


def opened(files: Mapping[str, Sequence[Path]], settings: TrainerConfig, features: Any = None) -> Any:
    from tfx_mobile.pruning_trainer.keras_input import examples_data

    patterns = {split: [str(path) for path in paths] for split, paths in files.items()}
    return examples_data(patterns, features or spec(), "y", settings)


def labels(batches: Any) -> list[list[int]]:
    return [[int(value) for value in batch[1].numpy().ravel()] for batch in batches]


def flat(parts: Sequence[Sequence[int]]) -> list[int]:
    return [number for part in parts for number in part]


@contextlib.contextmanager
def refusal(kind: type[Exception], message: str) -> Iterator[None]:
    """The whole message, where '...' stands for what TensorFlow says."""
    pattern = re.escape(message).replace(re.escape("..."), ".+")
    with pytest.raises(kind, match=f"^{pattern}$"):
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """103 rows to train on in a gzip file, a plain one and one without rows; 25 others to validate on."""
    folder = tmp_path_factory.mktemp("rows")
    for name, numbers in {"b.gz": range(60, NUM_ROWS), "a": range(60), "c.gz": range(0)}.items():
        write(folder / "train" / name, records(numbers))
    write(folder / "eval" / "a.gz", records(range(1000, 1025)))
    return {"train": [folder / "train" / "*"], "eval": [folder / "eval" / "*"]}


@pytest.fixture(scope="module", params=[IN_MEMORY, IN_FILES], ids=["memory", "files"])
def data(request: pytest.FixtureRequest, files: dict[str, list[Path]]) -> Any:
    return opened(files, config(request.param))


def test_an_epoch_has_each_row_that_is_not_held_out_exactly_once(data: Any) -> None:
    held_out = flat(labels(data.validation()))
    steps = data.steps_per_epoch
    batches = labels(data.train(0).take(2 * steps))
    for epoch in (batches[:steps], batches[steps:]):
        assert sorted(flat(epoch) + held_out) == list(range(NUM_ROWS))
    assert data.num_rows == NUM_ROWS - len(held_out)
    assert 4 <= len(held_out) <= 20  # a tenth of 103 by a hash: 3 standard deviations


def test_the_last_batch_of_an_epoch_is_kept_and_is_smaller(data: Any) -> None:
    sizes = [len(batch) for batch in labels(data.train(0).take(data.steps_per_epoch + 1))]
    full, rest = divmod(data.num_rows, BATCH_SIZE)
    assert sizes == [BATCH_SIZE] * full + [rest] * bool(rest) + [BATCH_SIZE]
    assert data.steps_per_epoch == len(sizes) - 1


def test_features_stay_with_their_labels(data: Any) -> None:
    for features, label in data.train(0).take(3):
        assert features["x"].dtype.name == label.dtype.name == "float32"
        np.testing.assert_array_equal(features["x"], label * [[1.0, 0.5]])


def test_what_is_held_out_is_the_same_in_memory_and_in_files(files: dict[str, list[Path]]) -> None:
    found = [labels(opened(files, config(cache)).validation()) for cache in (IN_MEMORY, IN_FILES)]
    assert found[0] == found[1]
    assert flat(found[0]) == sorted(flat(found[0]))
    assert flat(found[0]) != list(range(len(flat(found[0]))))  # not the first rows


def test_a_run_that_goes_on_at_any_step_sees_what_an_unbroken_one_sees(
    data: Any, files: dict[str, list[Path]]
) -> None:
    unbroken = labels(data.train(0).take(3 * data.steps_per_epoch))
    again = opened(files, data.config)
    for step in (1, data.steps_per_epoch - 1, data.steps_per_epoch, 2 * data.steps_per_epoch + 3):
        assert labels(again.train(step).take(len(unbroken) - step)) == unbroken[step:]


def test_epochs_and_seeds_have_orders_of_their_own(data: Any, files: dict[str, list[Path]]) -> None:
    steps = data.steps_per_epoch
    epochs = [tuple(flat(labels(data.train(step).take(steps)))) for step in (0, steps, 2 * steps)]
    other = opened(files, dataclasses.replace(data.config, seed=2))
    assert len({*epochs, tuple(flat(labels(other.train(0).take(other.steps_per_epoch))))}) == 4
    assert flat(labels(other.validation())) != flat(labels(data.validation()))


@pytest.mark.parametrize("size", [2, 3, 40])
def test_every_order_is_as_likely_as_any_other_over_the_epochs(size: int) -> None:
    import tensorflow as tf

    from tfx_mobile.pruning_trainer import keras_input

    count = 600
    orders = np.array(
        [keras_input._permutation(size, tf.constant([1, epoch], tf.int64)) for epoch in range(count)]
    )
    assert (np.sort(orders, axis=1) == np.arange(size)).all()
    for place in (0, size - 1):
        counts = np.bincount(orders[:, place], minlength=size)
        statistic = ((counts - count / size) ** 2 / (count / size)).sum()
        assert statistic < size + 5 * np.sqrt(2 * size)  # of chi-squared, 5 standard deviations
    if size == 40:
        assert len({tuple(order) for order in orders.tolist()}) == count
        between = [np.corrcoef(first, second)[0, 1] for first, second in itertools.pairwise(orders)]
        assert abs(np.mean(between)) < 5 / np.sqrt(40 * count)


def test_the_hash_of_a_row_is_splitmix64() -> None:
    import tensorflow as tf

    from tfx_mobile.pruning_trainer.keras_input import row_hash

    def by_integers(state: int) -> int:
        mask = 2**64 - 1
        z = state & mask
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        return z ^ z >> 31

    assert int(row_hash(tf.constant(0, tf.int64), 0)) == 0xE220A8397B1DCDAF >> 1  # the published first number
    seed = 2**32 - 1
    wanted = [by_integers((seed << 32) + (place + 1) * 0x9E3779B97F4A7C15) >> 1 for place in range(50)]
    assert row_hash(tf.range(50, dtype=tf.int64), seed).numpy().tolist() == wanted


def test_the_share_that_is_held_out_is_what_was_asked_for() -> None:
    from tfx_mobile.pruning_trainer.keras_input import _Share

    count = 100_000
    for fraction in (0.01, 0.1, 0.5):
        found = _Share.of(count, fraction, 1).num_held_out
        assert abs(found - count * fraction) < 5 * np.sqrt(count * fraction * (1 - fraction))


@pytest.mark.parametrize("cache", [IN_MEMORY, IN_FILES])
@pytest.mark.parametrize(("fraction", "count", "held_out"), [(1e-9, 5, 1), (0.5, 2, 1)])
def test_one_row_at_least_is_held_out_and_one_is_left(
    tmp_path: Path, cache: int, fraction: float, count: int, held_out: int
) -> None:
    write(tmp_path / "train.gz", records(range(count)))
    for seed in range(1, 6):
        settings = config(cache, validation_fraction=fraction, seed=seed)
        found = opened({"train": [tmp_path / "train.gz"]}, settings)
        (validation,) = labels(found.validation())
        assert len(validation) == held_out
        assert sorted(validation + flat(labels(found.train(0).take(1)))) == list(range(count))


@pytest.mark.parametrize("cache", [IN_MEMORY, IN_FILES])
def test_with_splits_to_validate_on_every_row_is_trained_on(files: dict[str, list[Path]], cache: int) -> None:
    found = opened(files, config(cache, eval_args=SplitArgs(splits=("eval",))))
    assert found.num_rows == NUM_ROWS
    assert sorted(flat(labels(found.train(0).take(11)))) == list(range(NUM_ROWS))
    for _ in range(2):
        assert labels(found.validation()) == [
            [*range(1000, 1010)],
            [*range(1010, 1020)],
            [*range(1020, 1025)],
        ]
    limited = opened(files, config(cache, eval_args=SplitArgs(splits=("eval",), num_steps=2)))
    assert labels(limited.validation()) == labels(found.validation())[:2]


def test_several_splits_are_trained_on_together(files: dict[str, list[Path]]) -> None:
    found = opened(files, config(train_args=SplitArgs(splits=("eval", "train"))))
    epoch = flat(labels(found.train(0).take(found.steps_per_epoch)))
    assert sorted(epoch + flat(labels(found.validation()))) == [*range(NUM_ROWS), *range(1000, 1025)]


def test_a_sample_is_of_rows_to_train_on_and_its_seed_tells_which(data: Any) -> None:
    first, again, other = (flat(labels(data.sample(3, seed))) for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first)) == 3 * BATCH_SIZE
    assert not set(first) & set(flat(labels(data.validation())))
    assert first != flat(labels(data.train(data.steps_per_epoch).take(3)))  # the epoch of that number
    assert len(data.sample(1000, 1)) == data.steps_per_epoch


def test_rows_beyond_the_cache_are_read_from_the_files_and_those_skipped_are_not_parsed(
    tmp_path: Path,
) -> None:
    import tensorflow as tf

    path = tmp_path / "train.gz"
    write(path, records(range(100)))
    held_out = SplitArgs(splits=("eval",))
    both = {"train": [path], "eval": [path]}
    settings = config(IN_FILES, shuffle_rows=1, eval_args=held_out)  # one file, unshuffled: in order
    found = opened(both, settings)
    kept = opened(both, config(IN_MEMORY, eval_args=held_out))
    write(path, [b"not an Example"] * 30 + records(range(30, 100)))
    assert flat(labels(found.train(3).take(7))) == list(range(30, 100))
    with pytest.raises(tf.errors.InvalidArgumentError):
        list(found.train(2).take(1))
    assert sorted(flat(labels(kept.train(0).take(10)))) == list(range(100))


@pytest.mark.parametrize("cache", [IN_MEMORY, IN_FILES])
def test_sparse_and_ragged_features_pass_through(tmp_path: Path, cache: int) -> None:
    import tensorflow as tf

    features = {"bag": tf.io.VarLenFeature(tf.int64), "words": tf.io.RaggedFeature(tf.string)}
    write(
        tmp_path / "train.gz",
        [
            serialized(row(i) | {"bag": np.arange(i % 4), "words": np.array([b"w"] * (i % 3), object)})
            for i in range(30)
        ],
    )
    found = opened({"train": [tmp_path / "train.gz"]}, config(cache), spec(**features))
    seen = []
    for given, label in [*found.train(0).take(found.steps_per_epoch), *found.validation()]:
        assert isinstance(given["bag"], tf.SparseTensor)
        assert isinstance(given["words"], tf.RaggedTensor)
        bag = tf.RaggedTensor.from_sparse(given["bag"]).to_list()
        for number, ids, words in zip(label.numpy()[:, 0], bag, given["words"].to_list(), strict=True):
            assert ids == list(range(int(number) % 4))
            assert len(words) == int(number) % 3
            seen.append(int(number))
    assert sorted(seen) == list(range(30))


@pytest.mark.parametrize("cache", [IN_MEMORY, IN_FILES])
def test_transformed_trips_arrive_as_transform_made_them(trips: Trips, cache: int) -> None:
    import tensorflow_transform as tft

    from tfx_mobile.pruning_trainer.keras_input import examples_data

    features = tft.TFTransformOutput(str(trips.graph_folder)).transformed_feature_spec()
    settings = config(cache, label_key="fare", eval_args=SplitArgs(splits=("eval",)))
    patterns = {split: [f"{trips.transformed_folder}/Split-{split}/*"] for split in ("train", "eval")}
    found = examples_data(patterns, features, "fare", settings)
    batches = list(found.validation())
    for name, wanted in trips.transformed.items():
        got = np.concatenate([label if name == "fare" else given[name] for given, label in batches])
        np.testing.assert_array_equal(got.reshape(wanted.shape), wanted)
    trained = np.concatenate([label for _, label in found.train(0).take(found.steps_per_epoch)])
    np.testing.assert_array_equal(np.sort(trained.ravel()), np.sort(trips.transformed["fare"].ravel()))


@pytest.mark.parametrize("line", ["keras", "tf_keras"])
def test_both_keras_lines_train_on_the_batches(data: Any, line: str) -> None:
    import importlib

    keras = importlib.import_module(line)
    given = keras.Input((2,), name="x")
    model = keras.Model({"x": given}, keras.layers.Dense(1)(given))
    model.compile("sgd", "mse")
    steps = data.steps_per_epoch
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Your input ran out of data")
        history = model.fit(
            data.train(0), steps_per_epoch=steps, epochs=2, validation_data=data.validation(), verbose=0
        )
    assert len(history.history["val_loss"]) == 2


def test_threads_of_its_own_change_no_row(files: dict[str, list[Path]], data: Any) -> None:
    resources = Resources(cache_mib=data.config.resources.cache_mib, shuffle_rows=50, num_threads=1)
    bounded = opened(files, config(resources=resources))
    assert bounded.train(0).options().threading.private_threadpool_size == 1
    assert labels(bounded.train(0).take(15)) == labels(data.train(0).take(15))


@pytest.mark.parametrize("cache", [IN_MEMORY, IN_FILES])
@pytest.mark.parametrize(("count", "wanted"), [(0, 2), (1, 2)])
def test_too_few_rows_are_refused(tmp_path: Path, cache: int, count: int, wanted: int) -> None:
    write(tmp_path / "train.gz", records(range(count)))
    with refusal(DataError, f"Training needs at least {wanted} rows in split 'train'; got {count}."):
        opened({"train": [tmp_path / "train.gz"]}, config(cache))


def test_a_split_without_rows_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.gz", records(range(1)))
    write(tmp_path / "none.gz", [])
    both = {"train": [tmp_path / "train.gz"], "none": [tmp_path / "none.gz"]}
    with refusal(DataError, "Validation needs at least 1 row in split 'none'; got 0."):
        opened(both, config(eval_args=SplitArgs(splits=("none",))))
    settings = config(train_args=SplitArgs(splits=("none",)), eval_args=SplitArgs(splits=("train",)))
    with refusal(DataError, "Training needs at least 1 row in split 'none'; got 0."):
        opened(both, settings)


def test_a_split_or_label_that_does_not_exist_is_refused(
    files: dict[str, list[Path]], tmp_path: Path
) -> None:
    from tfx_mobile.pruning_trainer.keras_input import examples_data

    message = "train_args and eval_args must name splits of the Examples; got 'test'. There are eval, train."
    for wrong in ({"train_args": SplitArgs(("test",))}, {"eval_args": SplitArgs(("test",))}):
        with refusal(ConfigError, message):
            opened(files, config(**wrong))
    with refusal(DataError, f"Split 'train' must have at least one file; got none at {tmp_path}/*."):
        opened({"train": [tmp_path / "*"]}, config())
    with refusal(ConfigError, "label_key must be a transformed feature; got 'z'. There are x, y."):
        examples_data({"train": []}, spec(), "z", config())


def test_a_file_that_holds_no_records_is_refused_by_name(tmp_path: Path) -> None:
    whole, text, cut = (tmp_path / name for name in ("a.gz", "rows.csv", "cut.gz"))
    write(whole, records(range(5)))
    text.write_text("x,y\n1,2\n3,4\n5,6\n")
    content = np.random.default_rng(1).bytes(9000)
    write(cut, [content, content])
    cut.write_bytes(cut.read_bytes()[:-4000])
    for path in (text, cut):
        message = (
            f"Examples must be whole TFRecord files, plain or gzip; {path} is not: ... "
            "Write it again, or take it out of the split."
        )
        with refusal(DataError, message):
            opened({"train": [whole, path]}, config())


def test_a_record_that_is_no_example_is_refused_by_number(tmp_path: Path) -> None:
    write(tmp_path / "a.gz", records(range(300)))
    path = tmp_path / "b.gz"
    write(path, [*records(range(300)), b"no Example", *records(range(3))])
    message = f"Rows must be tf.Examples; record 300 of {path} is not. "
    with refusal(DataError, message + "Write the file again, or take it out of the split."):
        opened({"train": [tmp_path / "a.gz", path]}, config())


def test_a_row_without_a_feature_or_with_another_type_is_refused_by_number(tmp_path: Path) -> None:
    path = tmp_path / "train.gz"
    for wrong in (
        {"y": np.ones(1, np.float32)},
        {"x": np.ones(3, np.float32)},
        {"x": np.ones(2, np.int64)},
        {"x": np.ones(2, np.float32), "y": np.ones(1, np.int64)},
    ):
        write(path, [*records(range(3)), serialized(wrong)])
        message = f"Rows must have the features of the transform graph; record 3 of {path} has not: ... "
        with refusal(DataError, message + "Give the Examples and the TransformGraph of one Transform."):
            opened({"train": [path]}, config())


@pytest.mark.parametrize("label", ["FixedLenFeature", "VarLenFeature", "RaggedFeature"])
def test_rows_without_a_label_are_counted_and_refused(tmp_path: Path, label: str) -> None:
    import tensorflow as tf

    shape = ([1],) if label == "FixedLenFeature" else ()
    kind = {"y": getattr(tf.io, label)(*shape, dtype=tf.float32)}
    without = [serialized({"x": np.ones(2, np.float32)}), serialized(row(1) | {"y": np.ones(0, np.float32)})]
    write(tmp_path / "a.gz", [*records(range(300)), without[0]])
    write(tmp_path / "b.gz", [without[0], *records(range(5)), without[1]])
    write(tmp_path / "whole.gz", records(range(5)))
    both = {"train": [tmp_path / "whole.gz"], "eval": [tmp_path / "a.gz", tmp_path / "b.gz"]}
    message = (
        "Label 'y' must be in every row; it is missing in 3 of 308 rows in split 'eval'. "
        "Drop those rows before Transform, or fill them in preprocessing_fn."
    )
    with refusal(DataError, message):
        opened(both, config(eval_args=SplitArgs(splits=("eval",))), spec(**kind))


def test_a_label_that_the_spec_fills_in_may_be_missing(tmp_path: Path) -> None:
    import tensorflow as tf

    filled = {"y": tf.io.FixedLenFeature([1], tf.float32, default_value=[7.0])}
    write(tmp_path / "train.gz", [*records(range(3)), serialized({"x": np.ones(2, np.float32)})])
    found = opened({"train": [tmp_path / "train.gz"]}, config(), spec(**filled))
    rows = flat(labels(found.train(0).take(1))) + flat(labels(found.validation()))
    assert sorted(rows) == [0, 1, 2, 7]


def test_labels_that_are_not_finite_are_counted_and_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    pair = {"y": tf.io.FixedLenFeature([2], tf.float32)}
    wrong = ([np.nan, np.inf], [1.0, -np.inf], [0.0, 1.0], [np.nan, 2.0])
    lines = [serialized(row(0) | {"y": np.array(values, np.float32)}) for values in wrong]
    write(tmp_path / "train.gz", lines)
    message = (
        "Label 'y' must be finite; got NaN or infinity in 3 of 4 rows in split 'train'. "
        "Drop those rows before Transform, or clean them in preprocessing_fn."
    )
    with refusal(DataError, message):
        opened({"train": [tmp_path / "train.gz"]}, config(), spec(**pair))


def test_labels_of_another_size_are_counted_and_refused(tmp_path: Path) -> None:
    lines = [serialized(row(0) | {"y": np.ones(size, np.float32)}) for size in (1, 2, 3, 1)]
    write(tmp_path / "train.gz", lines)
    message = (
        "Label 'y' must have 1 values in every row; it has another number in 2 of 4 rows in split 'train'."
    )
    with refusal(DataError, message):
        opened({"train": [tmp_path / "train.gz"]}, config())


WORDS = (
    "{} must be a number; got dtype string. Map it in preprocessing_fn, with "
    "tft.compute_and_apply_vocabulary or a lookup."
)


@pytest.mark.parametrize("label", ["FixedLenFeature", "VarLenFeature"])
def test_labels_that_are_words_are_refused(tmp_path: Path, label: str) -> None:
    import tensorflow as tf

    shape = ([],) if label == "FixedLenFeature" else ()
    word = {"y": getattr(tf.io, label)(*shape, dtype=tf.string)}
    with refusal(ConfigError, WORDS.format("Label 'y'")):
        opened({"train": [tmp_path / "never read"]}, config(), spec(**word))


def test_labels_of_an_input_fn_that_are_words_are_refused() -> None:
    import tensorflow as tf

    good = numbered(0, 10)

    def words(label: Any) -> Any:
        return good(5).map(lambda given, number: (given, label(number)))

    message = WORDS.format("Each label that input_fn returns for split 'eval'")
    for wrong in (
        words(tf.strings.as_string),
        words(lambda number: {"one": number, "other": tf.strings.as_string(number)}),
        words(lambda number: tf.sparse.from_dense(tf.strings.as_string(number))),
    ):
        with refusal(ConfigError, message):
            user(Author(train=good, eval=wrong), config(input_fn="a.b"))
    truths = words(lambda number: number > 3)
    assert user(Author(train=truths, eval=truths), config(input_fn="a.b")).steps_per_epoch == 2


def test_a_row_counts_by_its_size_against_the_cache(tmp_path: Path) -> None:
    import tensorflow as tf

    big = np.zeros(1 << 16, np.float32)  # 256 KiB
    path = tmp_path / "train.gz"
    features = {"x": tf.io.FixedLenFeature([1 << 16], tf.float32)}
    for count, is_kept in ((3, True), (5, False)):
        write(path, [serialized({"x": big, "y": np.zeros(1, np.float32)})] * count)
        found = opened({"train": [path]}, config(1), spec(**features))
        path.unlink()
        if is_kept:
            assert len(labels(found.train(0).take(1))) == 1
        else:
            with pytest.raises(tf.errors.NotFoundError):
                list(found.train(0).take(1))
        assert len(labels(found.validation())) == 1  # a share that fits is kept


class Author:
    """Keeps what an input_fn was asked for; gives batches of the numbers of a split."""

    def __init__(self, **datasets: Any) -> None:
        self.datasets = datasets
        self.asked: list[tuple[Any, str, int]] = []

    def __call__(self, ctx: Any, split: str, batch_size: int) -> Any:
        self.asked.append((ctx, split, batch_size))
        found = self.datasets[split]
        return found(batch_size) if callable(found) else found


def numbered(first: int, count: int) -> Any:
    import tensorflow as tf

    def made(batch_size: int) -> Any:
        rows = tf.data.Dataset.range(first, first + count).shuffle(count, seed=3).batch(batch_size)
        return rows.map(lambda number: ({"x": number}, number))

    return made


def user(author: Author, settings: TrainerConfig, ctx: Any = None) -> Any:
    from tfx_mobile.pruning_trainer.keras_input import user_data

    return user_data(ctx, author, settings)


def test_an_input_fn_gives_the_batches_of_its_splits() -> None:
    author = Author(train=numbered(0, 25), eval=numbered(100, 12))
    ctx = object()
    found = user(author, config(input_fn="a.b"), ctx)
    assert (found.steps_per_epoch, found.num_rows) == (3, None)
    batches = labels(found.train(0).take(6))
    assert sorted(flat(batches[:3])) == sorted(flat(batches[3:])) == list(range(25))
    assert batches[:3] != batches[3:]  # its shuffle has a new order in each epoch
    assert sorted(flat(labels(found.validation()))) == list(range(100, 112))
    assert {split for _, split, _ in author.asked} == {"train", "eval"}
    assert {(given, size) for given, _, size in author.asked} == {(ctx, BATCH_SIZE)}
    assert labels(found.sample(2, 1)) == batches[:2]
    assert len(found.sample(9, 1)) == 3


def test_a_run_with_an_input_fn_goes_on_where_it_was() -> None:
    settings = config(input_fn="a.b")
    author = Author(train=numbered(0, 25), eval=numbered(100, 12))
    unbroken = labels(user(author, settings).train(0).take(9))
    for step in (1, 3, 5):
        assert labels(user(author, settings).train(step).take(9 - step)) == unbroken[step:]


def test_an_input_fn_is_asked_for_the_splits_that_were_given() -> None:
    author = Author(one=numbered(0, 20), two=numbered(20, 10), test=numbered(100, 30))
    found = user(
        author,
        config(
            input_fn="a.b",
            train_args=SplitArgs(("one", "two")),
            eval_args=SplitArgs(("test",), num_steps=2),
        ),
    )
    assert found.steps_per_epoch == 3
    assert sorted(flat(labels(found.train(0).take(3)))) == list(range(30))
    assert len(labels(found.validation())) == 2


def test_batches_of_unknown_number_are_counted() -> None:
    author = Author(
        train=lambda size: numbered(0, 35)(size).filter(lambda given, label: len(label) == size),
        eval=numbered(0, 10),
    )
    assert user(author, config(input_fn="a.b")).steps_per_epoch == 3


def test_batches_without_end_need_limits() -> None:
    endless = {
        "train": lambda size: numbered(0, 10)(size).repeat(),
        "eval": lambda size: numbered(0, 10)(size).repeat(),
    }
    message = (
        "input_fn must return a dataset that ends, one epoch; got one without end for split '{}'. "
        "Leave .repeat() out of it, or limit the steps with {}.num_steps."
    )
    with refusal(ConfigError, message.format("train", "train_args")):
        user(Author(**endless), config(input_fn="a.b"))
    limited = SplitArgs(num_steps=100)
    with refusal(ConfigError, message.format("eval", "eval_args")):
        user(Author(**endless), config(input_fn="a.b", train_args=limited))
    found = user(Author(**endless), config(input_fn="a.b", train_args=limited, eval_args=limited, epochs=30))
    assert found.steps_per_epoch == 4  # 100 steps in 30 epochs
    assert len(labels(found.validation())) == 100
    both = SplitArgs(("train", "more"), num_steps=100)
    message = (
        "input_fn must return datasets that end where there are 2 splits; got one "
        "without end for split 'train'."
    )
    with refusal(ConfigError, message):
        user(Author(**endless, more=numbered(0, 10)), config(input_fn="a.b", train_args=both))


def test_what_is_no_dataset_of_labelled_batches_is_refused() -> None:
    import tensorflow as tf

    rows = tf.data.Dataset.range(20)
    good = numbered(0, 10)
    for wrong, message in (
        ([1, 2], "input_fn must return a tf.data.Dataset; got list for split 'train'."),
        (
            rows.batch(5),
            "input_fn must return batches of (features, labels) or (features, labels, weights); got elements "
            "... for split 'train'.",
        ),
        (
            rows.map(lambda number: ({"x": number}, number)),
            "input_fn must return batches; got single rows, ..., for split 'train'. "
            "Call .batch(batch_size) in it.",
        ),
        (
            good(5).take(0),
            "input_fn must return at least one batch; got none for split 'train'.",
        ),
        (
            good(5).filter(lambda given, label: False),
            "input_fn must return at least one batch; got none for split 'train'.",
        ),
    ):
        with refusal(ConfigError, message):
            user(Author(train=wrong, eval=good), config(input_fn="a.b"))
    weighted = rows.batch(5).map(lambda number: (number, number, number))
    assert user(Author(train=weighted, eval=good), config(input_fn="a.b")).steps_per_epoch == 4
