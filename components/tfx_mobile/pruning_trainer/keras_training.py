"""Dense training, then pruning and fine-tuning rung by rung, on tf_keras and tfmot.

Does not write artifacts (keras_export.py) and knows no TFX. Source of the method: Zhu and Gupta (2017), To
prune, or not to prune (the polynomial schedule); Han et al. (2015) (prune, then fine-tune).
"""

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from absl import logging
from tensorflow_model_optimization.python.core.sparsity.keras import prune_registry

from tfx_mobile.common import ladder
from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.pruning_trainer import core
from tfx_mobile.pruning_trainer.config import TrainerConfig
from tfx_mobile.pruning_trainer.context import BuildContext


@dataclasses.dataclass(frozen=True)
class Rows:
    """Features and labels in memory.

    Attributes:
      features: By name, shape (rows, ...).
      labels: Shape (rows, ...).
    """

    features: Mapping[str, Any]
    labels: Any

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    def take(self, index: Any) -> "Rows":
        """Returns the rows at these positions."""
        return Rows({k: tf.gather(v, index) for k, v in self.features.items()}, tf.gather(self.labels, index))


@dataclasses.dataclass(frozen=True)
class TrainedRung:
    """A rung and its Keras model, pruning wrappers stripped."""

    rung: ladder.Rung
    model: tf_keras.Model


def load_build_model(dotted: str) -> Callable[[BuildContext], Any]:
    """Returns the user's function.

    Raises:
      ConfigError: The module or the function does not exist.
    """
    module, _, function = dotted.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"build_model must be an importable function; got {dotted!r} ({error}).") from error
    if not callable(found):
        raise ConfigError(
            f"build_model must be an importable function; got {dotted!r} (it is {type(found).__name__})."
        )
    return found  # type: ignore[no-any-return]


def train_ladder(rows: Rows, ctx: BuildContext, config: TrainerConfig, logs: Path) -> Iterator[TrainedRung]:
    """Yields the dense model and then each sparser one, fine-tuned from the one before.

    The rungs share their layers: use a model before asking for the next one.

    Args:
      rows: Of the train split; a share is held out for validation.
      ctx: For `build_model`.
      config: What to train.
      logs: Folder for TensorBoard.

    Raises:
      ConfigError: `build_model` returned something else than a compiled functional Keras 2 model, or one
        with nothing to prune.
      DataError: A loss is not finite, there are too few rows, or a layer falls short of its sparsity.
    """
    if len(rows) < 2:
        raise DataError(f"Training needs at least 2 rows in split 'train'; got {len(rows)}.")
    tf_keras.utils.set_random_seed(config.seed)
    order = np.random.default_rng(config.seed).permutation(len(rows))
    held_out = max(1, int(len(rows) * config.validation_fraction))
    train, validation = rows.take(np.sort(order[held_out:])), rows.take(np.sort(order[:held_out]))
    model = _checked(load_build_model(config.build_model)(ctx))
    ramp = 0
    if len(config.sparsities) > 1:
        ramp = core.ramp_steps(len(train), config.batch_size, config.fine_tune_epochs)
        _check_prunable(model, config.min_prunable_weights)
    compiled = _Compiled.of(model)
    previous = 0.0
    for target in config.sparsities:
        name = ladder.rung_name(target)
        callbacks = [
            tf_keras.callbacks.TensorBoard(str(logs / name)),
            _Progress(name, config.epochs if target == 0 else config.fine_tune_epochs),
        ]
        if target == 0:
            callbacks.append(_BestWeights(rung=name, first_step=0, patience=config.patience))
            _fit(model, train, validation, config, config.epochs, callbacks)
        else:
            frequency, end = core.mask_updates(ramp)
            schedule = tfmot.sparsity.keras.PolynomialDecay(previous, target, 0, end, frequency=frequency)
            wrapped = _wrap(model, schedule, config.min_prunable_weights)
            compiled.apply(wrapped)
            callbacks = [
                tfmot.sparsity.keras.UpdatePruningStep(),
                *callbacks,
                _BestWeights(rung=name, first_step=ramp + 1, patience=None),
            ]
            _fit(wrapped, train, validation, config, config.fine_tune_epochs, callbacks)
            model = tfmot.sparsity.keras.strip_pruning(wrapped)
            compiled.apply(model)
        layers = core.count_zeros(_prunable_kernels(model, config.min_prunable_weights))
        core.check_sparsity(layers, target)
        metrics = model.evaluate(
            dict(validation.features), validation.labels, batch_size=4096, verbose=0, return_dict=True
        )
        yield TrainedRung(
            ladder.Rung(
                name=name,
                target_fraction=target,
                layers=layers,
                num_parameters=int(model.count_params()),
                validation={key: float(value) for key, value in metrics.items()},
            ),
            model,
        )
        previous = target


@dataclasses.dataclass(frozen=True)
class _Compiled:
    """How the user compiled the model, to compile its pruned copies the same way."""

    optimizer: dict[str, Any]
    loss: Any
    metrics: Any

    @classmethod
    def of(cls, model: tf_keras.Model) -> "_Compiled":
        metrics = model.compiled_metrics._user_metrics
        return cls(tf_keras.optimizers.serialize(model.optimizer), model.loss, metrics)

    def apply(self, model: tf_keras.Model) -> None:
        model.compile(
            tf_keras.optimizers.deserialize(self.optimizer), loss=self.loss, metrics=_copied(self.metrics)
        )


def _copied(metrics: Any) -> Any:
    """Returns metrics as `compile` takes them, with no state shared; names and functions have none."""
    if isinstance(metrics, Mapping):
        return {output: _copied(part) for output, part in metrics.items()}
    if isinstance(metrics, (list, tuple)):
        return [_copied(part) for part in metrics]
    if isinstance(metrics, tf_keras.metrics.Metric):
        return type(metrics).from_config(metrics.get_config())
    return metrics


def _checked(model: Any) -> tf_keras.Model:
    if not isinstance(model, tf_keras.Model):
        raise ConfigError(
            f"build_model must return a tf_keras.Model (Keras 2); got {type(model).__module__}."
            f"{type(model).__name__}. Build it with 'import tf_keras', which tfmot works on."
        )
    if model.optimizer is None:
        raise ConfigError(
            "build_model must return a compiled model; call model.compile(optimizer, loss, metrics)."
        )
    if not model._is_graph_network:
        raise ConfigError(
            "build_model must return a functional model, tf_keras.Model(inputs, outputs); got the class "
            f"{type(model).__name__}, whose layers cannot be seen before it is called."
        )
    return model


def _check_prunable(model: tf_keras.Model, min_weights: int) -> None:
    if not any(_prunable_weights(layer, min_weights) for layer in model.layers):
        raise ConfigError(
            f"The model must have a layer to prune with at least {min_weights} weights; "
            f"got {', '.join(layer.name for layer in model.layers)}. Lower min_prunable_weights, or ask for "
            "the dense model alone with sparsities=(0.0,)."
        )


def _fit(
    model: tf_keras.Model,
    train: Rows,
    validation: Rows,
    config: TrainerConfig,
    epochs: int,
    callbacks: list[Any],
) -> None:
    model.fit(
        _dataset(train, config, shuffle=True),
        validation_data=_dataset(validation, config, shuffle=False),
        epochs=epochs,
        callbacks=callbacks,
        verbose=0,
    )


def _dataset(rows: Rows, config: TrainerConfig, *, shuffle: bool) -> tf.data.Dataset:
    positions = tf.data.Dataset.range(len(rows))
    if shuffle:
        positions = positions.shuffle(len(rows), seed=config.seed)

    def gather(index: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        batch = rows.take(index)
        return dict(batch.features), batch.labels

    return positions.batch(config.batch_size).map(gather).prefetch(2)


def _prunable_weights(layer: Any, min_weights: int) -> list[Any]:
    """The weights of a layer that tfmot would prune, when the largest is worth it."""
    if not layer.weights or not prune_registry.PruneRegistry.supports(layer):
        return []
    weights = prune_registry.PruneRegistry.make_prunable(layer).get_prunable_weights()
    sizes = [weight.shape.num_elements() for weight in weights]
    return list(weights) if sizes and max(sizes) >= min_weights else []


def _prunable_kernels(model: tf_keras.Model, min_weights: int) -> dict[str, Any]:
    return {
        weight.name.partition(":")[0]: weight.numpy()
        for layer in model.layers
        for weight in _prunable_weights(layer, min_weights)
    }


def _wrap(model: tf_keras.Model, schedule: Any, min_weights: int) -> tf_keras.Model:
    """Returns a model on the same weights whose large kernels are pruned as it is trained."""

    def wrap(layer: Any) -> Any:
        if not _prunable_weights(layer, min_weights):
            return layer
        return tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=schedule)

    return tf_keras.models.clone_model(model, clone_function=wrap)


class _BestWeights(tf_keras.callbacks.Callback):
    """Keeps the weights of the best epoch that counts, stops early, and refuses a loss that is not finite."""

    def __init__(self, *, rung: str, first_step: int, patience: int | None) -> None:
        super().__init__()
        self._rung, self._first_step, self._patience = rung, first_step, patience
        self._best, self._weights, self._waited, self._steps = np.inf, None, 0, 0

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        self._steps += 1

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        found = dict(logs or {})
        if not np.isfinite([found["loss"], found["val_loss"]]).all():
            raise DataError(
                f"The loss must stay finite; got {found['loss']} (validation {found['val_loss']}) in epoch "
                f"{epoch + 1} of rung '{self._rung}' at learning rate "
                f"{float(self.model.optimizer.learning_rate):g}. Lower it, or look for wrong labels."
            )
        if self._steps < self._first_step:
            return
        if found["val_loss"] < self._best:
            self._best, self._weights, self._waited = found["val_loss"], self.model.get_weights(), 0
        else:
            self._waited += 1
            if self._patience is not None and self._waited >= self._patience:
                self.model.stop_training = True

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        self.model.set_weights(self._weights)


class _Progress(tf_keras.callbacks.Callback):
    """Logs one line per epoch."""

    def __init__(self, rung: str, epochs: int) -> None:
        super().__init__()
        self._rung, self._epochs = rung, epochs

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        figures = ", ".join(f"{key} {value:.4g}" for key, value in (logs or {}).items())
        logging.info("Rung %s, epoch %d of at most %d: %s", self._rung, epoch + 1, self._epochs, figures)
