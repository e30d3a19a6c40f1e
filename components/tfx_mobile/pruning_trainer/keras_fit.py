"""One model trained for a number of steps, from wherever a checkpoint left it.

Early stopping, best weights, masks renewed when they are due, checkpoints, one progress line every few
seconds, and a refusal as soon as a loss is not finite. Killed or not, it ends with the same weights: rows,
random numbers (keras_random.py) and all else depend on the seed, the rung's name and the step. Knows one
model; the ladder is in keras_training.py.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from absl import logging

from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.common.ladder import Epoch
from tfx_mobile.pruning_trainer import keras_line, keras_random
from tfx_mobile.pruning_trainer.checkpoints import Checkpoints
from tfx_mobile.pruning_trainer.keras_input import TrainingData
from tfx_mobile.pruning_trainer.keras_masks import Masks

CURRENT = "current"  # the checkpoint of the model in training
_PROGRESS_SECONDS = 5.0


class DivergedError(DataError):
    """A loss became NaN or infinite."""


class Renewal(Protocol):
    """Decides the masks while a rung's sparsity rises."""

    masks: Masks
    last_step: int

    def is_due(self, step: int) -> bool:
        """Returns whether masks are renewed before this step of the rung."""

    def renew(self, step: int) -> None:
        """Renews them."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How one model is trained.

    Attributes:
      rung: Its name.
      num_steps: At most this many; >= 1.
      patience: Epochs without a better validation loss before early stopping; None never stops.
      later_steps: Of the models after it, at most; for the time left.
      checkpoint_seconds: Between checkpoints.
      seed: Of the configuration; with the rung's name it gives all random numbers.
      snapshot_step: Weights before this step are handed to `snapshot`; None for none.
    """

    rung: str
    num_steps: int
    patience: int | None
    later_steps: int
    checkpoint_seconds: float
    seed: int
    snapshot_step: int | None = None


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What a training gave, besides the weights, which the model has.

    Attributes:
      history: Epoch by epoch.
      seconds: How long it took, the time before a kill included.
    """

    history: tuple[Epoch, ...]
    seconds: float


class Fit:
    """Trains one compiled model; `run` leaves its best weights in it.

    Args:
      model: Compiled after its masks were made.
      data: Rows.
      settings: How.
      checkpoints: Where progress is kept.
      logs: Folder for TensorBoard; None for none.
      renewal: Of a sparse rung's masks; None when nothing is pruned.
      snapshot: Is given the weights before `settings.snapshot_step`.
    """

    def __init__(
        self,
        model: Any,
        data: TrainingData,
        settings: Settings,
        checkpoints: Checkpoints,
        logs: Path | None,
        renewal: Renewal | None = None,
        snapshot: Callable[[list[Any]], None] | None = None,
    ) -> None:
        self._model, self._data, self._settings = model, data, settings
        self._checkpoints, self._logs = checkpoints, logs
        self._renewal, self._snapshot = renewal, snapshot
        self._step = self._begun = 0  # steps done; steps that masks were looked at for
        self._waited, self._stopped = 0, False
        self._best = np.inf
        self._best_weights: list[Any] | None = None
        self._history: list[Epoch] = []
        self._left_out: set[str] = set()  # metrics that were not finite
        self._seconds_before, self._started = 0.0, time.monotonic()
        self._paced = 0, self._started  # a step, and when it was done: the first one builds the graph
        self._epoch_start = 0
        self._saved = self._told = time.monotonic()

    def run(self) -> Fitted:
        """Trains to the end.

        Raises:
          DivergedError: A loss is not finite.
          ConfigError: A metric is no number, or a custom step returns no loss.
        """
        settings, per_epoch = self._settings, self._data.steps_per_epoch
        # once, and first: Keras 3 may put a new generator in the place of the one that its graphs draw from
        keras_line.set_random_seed(keras_random.seed_of(settings.seed, settings.rung))
        keras_random.start(self._model, settings.seed, settings.rung)
        self._resume()
        validation = self._data.validation()
        while self._step < settings.num_steps and not self._stopped:
            epoch = self._step // per_epoch
            in_whole_epochs = self._step % per_epoch == 0 and self._step + per_epoch <= settings.num_steps
            last = settings.num_steps // per_epoch if in_whole_epochs else epoch + 1
            end = min((epoch + 1) * per_epoch, settings.num_steps)
            self._epoch_start = self._step
            self._model.fit(
                self._data.train(self._step),
                steps_per_epoch=end - self._step,
                initial_epoch=epoch,
                epochs=last,
                validation_data=validation,
                callbacks=self._callbacks(),
                verbose=0,
            )
        keras_line.set_random_seed(settings.seed)
        self._renew_to(settings.num_steps - 1)
        if self._best_weights is not None:
            self._model.set_weights(self._best_weights)
        return Fitted(tuple(self._history), self._seconds())

    def on_train_batch_begin(self, batch: int) -> None:
        """Renews the masks when they are due."""
        step = self._epoch_start + batch
        self._renew_to(step)
        wanted = self._settings.snapshot_step
        if self._snapshot and wanted is not None and self._step <= wanted <= step:
            self._snapshot(self._model.get_weights())
            self._snapshot = None

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any]) -> None:
        """Looks at the loss, tells how far it is, and keeps a checkpoint."""
        self._step = self._epoch_start + batch + 1
        loss = _loss(logs, "loss", "train_step")
        if not np.isfinite(loss):
            self._diverged(f"got {loss} at step {self._step} of {self._settings.num_steps}")
        if self._paced[0] == 0:
            numbers(logs)
            self._paced = self._step, time.monotonic()
        self._tell(f"loss {loss:.4g}")
        if self._step % self._data.steps_per_epoch and self._step < self._settings.num_steps:
            self._save_now_and_then()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:
        """Keeps the best weights, stops early."""
        self._epoch_start = self._step
        loss = _loss(logs, "val_loss", "test_step")
        if not np.isfinite(loss):
            self._diverged(f"got {loss} on the validation rows after step {self._step}")
        metrics = self._finite(numbers(logs))
        masks = self._renewal.masks.sparsity_fraction() if self._renewal else 0.0
        self._history.append(Epoch(step=self._step, sparsity_fraction=masks, metrics=metrics))
        if not self._renewal or self._begun > self._renewal.last_step:
            self._judge(loss)
        last = self._stopped or self._step >= self._settings.num_steps
        self._tell(", ".join(f"{name} {value:.4g}" for name, value in metrics.items()), always=last)
        if not last:
            self._save_now_and_then()

    def _judge(self, loss: float) -> None:
        if loss < self._best:
            self._best, self._best_weights, self._waited = loss, self._model.get_weights(), 0
            return
        self._waited += 1
        if self._settings.patience is not None and self._waited >= self._settings.patience:
            self._stopped = self._model.stop_training = True

    def _renew_to(self, step: int) -> None:
        """Renews the masks if that is due at a step up to this one that was not looked at yet."""
        if self._renewal and any(self._renewal.is_due(s) for s in range(self._begun, step + 1)):
            self._renewal.renew(step)
        self._begun = max(self._begun, step + 1)

    def _finite(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Returns the metrics that are finite; each other one is told once: a loss alone ends a training."""
        for name, value in metrics.items():
            if not np.isfinite(value) and name not in self._left_out:
                self._left_out.add(name)
                logging.warning(
                    "Rung %s: metric %r is %s after step %d; it is left out of the history of such epochs.",
                    self._settings.rung,
                    name,
                    value,
                    self._step,
                )
        return {name: value for name, value in metrics.items() if np.isfinite(value)}

    def _diverged(self, what: str) -> None:
        rate = float(np.asarray(self._model.optimizer.learning_rate))
        raise DivergedError(
            f"The loss must stay finite; {what} of rung {self._settings.rung!r} at learning rate {rate:g}. "
            "Lower it, or look for wrong labels."
        )

    def _callbacks(self) -> list[Any]:
        found = [keras_line.callback(self._model, self)]
        if self._logs is not None:
            found.append(keras_line.keras_of(self._model).callbacks.TensorBoard(str(self._logs)))
        return found

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def _tell(self, figures: str, *, always: bool = False) -> None:
        now = time.monotonic()
        paced_step, paced_at = self._paced
        if not always and (now - self._told < _PROGRESS_SECONDS or self._step == paced_step):
            return
        self._told = now
        pace = (now - paced_at) / max(self._step - paced_step, 1)
        left = 0 if always else self._settings.num_steps - self._step
        sparsity = f", sparsity {self._renewal.masks.sparsity_fraction():.1%}" if self._renewal else ""
        logging.info(
            "Rung %s, step %d of at most %d: %s%s; at most %s left of it, %s of all",
            self._settings.rung,
            self._step,
            self._settings.num_steps,
            figures,
            sparsity,
            _duration(pace * left),
            _duration(pace * (left + self._settings.later_steps)),
        )

    def _save_now_and_then(self) -> None:
        if time.monotonic() - self._saved >= self._settings.checkpoint_seconds:
            self.save()

    def save(self) -> None:
        """Writes a checkpoint."""
        arrays = numbered("w", self._model.get_weights())
        arrays |= numbered("o", keras_line.optimizer_arrays(self._model))
        arrays |= numbered("b", self._best_weights or [])
        arrays |= numbered("r", keras_random.arrays(self._model))
        if self._renewal:
            arrays |= numbered("m", self._renewal.masks.in_order())
        state = {
            "rung": self._settings.rung,
            "step": self._step,
            "begun": self._begun,
            "waited": self._waited,
            "best": self._best if np.isfinite(self._best) else None,
            "history": [epoch.to_dict() for epoch in self._history],
            "seconds": self._seconds(),
        }
        self._checkpoints.save(CURRENT, arrays, state)
        self._saved = time.monotonic()

    def _resume(self) -> None:
        found = self._checkpoints.load(CURRENT)
        if found is None or found[1]["rung"] != self._settings.rung:
            return
        arrays, state = found
        if self._renewal:
            self._renewal.masks.assign_arrays(stored(arrays, "m"))
        self._model.set_weights(stored(arrays, "w"))
        keras_line.set_optimizer_arrays(self._model, stored(arrays, "o"))
        keras_random.assign(self._model, stored(arrays, "r"))
        self._step = state["step"]
        self._begun, self._waited = state["begun"], state["waited"]
        self._best_weights = stored(arrays, "b") or None
        self._best = np.inf if state["best"] is None else state["best"]
        self._history = [Epoch.from_dict(epoch) for epoch in state["history"]]
        self._seconds_before = state["seconds"]
        logging.info("Rung %s continues after step %d, from a checkpoint.", state["rung"], self._step)


def numbered(prefix: str, arrays: Sequence[Any]) -> dict[str, Any]:
    """Returns arrays under names that a checkpoint can hold, in order."""
    return {f"{prefix}{i:05d}": array for i, array in enumerate(arrays)}


def stored(arrays: Mapping[str, Any], prefix: str) -> list[Any]:
    """Returns what `numbered` named, in order."""
    return [arrays[name] for name in sorted(arrays) if name.startswith(prefix)]


def _loss(logs: Mapping[str, Any], name: str, method: str) -> float:
    if name not in logs:
        prefix = name.removesuffix("loss")
        got = [other.removeprefix(prefix) for other in logs if other.startswith(prefix)]
        raise ConfigError(
            f"{method} must return the loss as 'loss'; got {', '.join(got) or 'nothing'}. Return it beside "
            "the metrics, under that name."
        )
    return _number(name, logs[name])


def numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    """Returns metrics as numbers.

    Raises:
      ConfigError: One has several values.
    """
    return {name: _number(name, value) for name, value in logs.items()}


def _number(name: str, value: Any) -> float:
    found = np.asarray(value)
    if found.size != 1:
        raise ConfigError(
            f"The loss and each metric must be one number; {name!r} has the shape {found.shape}. Give it "
            "average='macro' or the like, or take it out of model.compile."
        )
    return float(found.ravel()[0])


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
