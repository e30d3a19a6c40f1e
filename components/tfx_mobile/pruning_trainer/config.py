"""What a training is asked to do. Settings only; the training itself is in keras_training.py."""

import dataclasses

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.jsonable import Settings


@dataclasses.dataclass(frozen=True)
class TrainerConfig(Settings):
    """One training of a whole ladder.

    Attributes:
      build_model: Dotted name of a function `build_model(ctx) -> compiled tf_keras.Model`.
      label_key: The label's feature in the transformed Examples.
      sparsities: Share of zeros of each rung, rising, in [0, 1); the first is 0, the dense model.
      epochs: At most this many for the dense model; early stopping ends it before.
      patience: Epochs without a better validation loss before early stopping.
      fine_tune_epochs: For each sparse rung; sparsity rises during the first half of the steps.
      batch_size: Rows per step.
      validation_fraction: Share of the train split held out for early stopping, in (0, 0.5].
      max_increase_fraction: A rung keeps the accuracy budget while its validation loss is at most this share
        above the dense model's.
      min_prunable_weights: Kernels smaller than this stay dense: there is nothing to gain.
      seed: Of weights and shuffling.
      hyperparameters: Handed to `build_model`.
    """

    build_model: str
    label_key: str
    sparsities: tuple[float, ...] = (0.0, 0.5, 0.75, 0.9)
    epochs: int = 60
    patience: int = 6
    fine_tune_epochs: int = 12
    batch_size: int = 128
    validation_fraction: float = 0.1
    max_increase_fraction: float = 0.02
    min_prunable_weights: int = 256
    seed: int = 1
    hyperparameters: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        module, _, function = self.build_model.rpartition(".")
        if not module or not function.isidentifier():
            raise ConfigError(
                "build_model must be the dotted name of a function, such as 'taxi_fare.model.build_model'; "
                f"got {self.build_model!r}."
            )
        if not self.label_key:
            raise ConfigError("label_key must name the label's feature; got an empty name.")
        for name in ("epochs", "patience", "fine_tune_epochs", "batch_size", "min_prunable_weights"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1; got {getattr(self, name)}.")
        if any(not 0 <= sparsity < 1 for sparsity in self.sparsities):
            raise ConfigError(f"sparsities must be in [0, 1); got {list(self.sparsities)}. 0.75 means 75 %.")
        if (
            not self.sparsities
            or self.sparsities[0] != 0
            or sorted(set(self.sparsities)) != [*self.sparsities]
        ):
            raise ConfigError(f"sparsities must start at 0 and rise; got {list(self.sparsities)}.")
        if not 0 < self.validation_fraction <= 0.5:
            raise ConfigError(f"validation_fraction must be in (0, 0.5]; got {self.validation_fraction}.")
        if not self.max_increase_fraction >= 0:  # NaN is refused too
            raise ConfigError(f"max_increase_fraction must be >= 0; got {self.max_increase_fraction}.")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed must be between 0 and {2**32 - 1}; got {self.seed}.")

    @property
    def user_module(self) -> str:
        """The module `build_model` lives in."""
        return self.build_model.rpartition(".")[0]
