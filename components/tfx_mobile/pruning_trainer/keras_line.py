"""What differs between Keras 2 (`tf_keras`) and Keras 3 (`keras`), in one place.

Everything else of the trainer is written against what both have. Keras 3 must run on TensorFlow: TFLite
takes nothing else.
"""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import tf_keras

from tfx_mobile.common.errors import ConfigError

Array = npt.NDArray[Any]


def keras_of(model: Any) -> ModuleType:
    """Returns `tf_keras` or `keras`, whichever the model was made with.

    Raises:
      ConfigError: It is no Keras model, or one of Keras 3 on another backend than TensorFlow.
    """
    if isinstance(model, tf_keras.Model):
        return tf_keras  # type: ignore[no-any-return]
    line = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    if "keras" in line:
        keras = importlib.import_module("keras")
        if isinstance(model, keras.Model):
            if keras.backend.backend() != "tensorflow":
                raise ConfigError(
                    f"A Keras 3 model must run on TensorFlow; got the backend {keras.backend.backend()!r}. "
                    "Set KERAS_BACKEND=tensorflow."
                )
            return keras
    raise ConfigError(
        "build_model must return a Keras model (tf_keras.Model or keras.Model); got "
        f"{type(model).__module__}.{type(model).__name__}."
    )


def is_keras_2(model: Any) -> bool:
    """Returns whether tfmot can work on the model."""
    return isinstance(model, tf_keras.Model)


def set_random_seed(seed: int) -> None:
    """Seeds Python, NumPy, TensorFlow and both Keras lines."""
    tf_keras.utils.set_random_seed(seed)
    importlib.import_module("keras").utils.set_random_seed(seed)


def input_names(model: Any) -> list[str]:
    """Returns the names of a functional model's inputs, in their order."""
    return [str(name) for name in model.input_names] if is_keras_2(model) else [x.name for x in model.inputs]


def clone(model: Any) -> Any:
    """Returns a model of the same layers and weights that shares neither with the one given."""
    copy = keras_of(model).models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def set_constraint(variable: Any, mask: Any) -> None:
    """Makes every optimiser step multiply the variable by `mask`, after what already constrains it."""
    variable = getattr(variable, "_variable", variable)  # of Keras 2's mixed precision: what is optimised
    before = getattr(variable, "constraint", None)
    if isinstance(before, _Mask):
        before = before.before
    if hasattr(variable, "path"):  # a Keras 3 variable
        variable.constraint = _keras_3_mask()(mask, before)
    else:
        variable._constraint = _Mask(mask, before)


class _Mask:
    """Multiplies by a mask; `before` is what the layer's author put on the variable."""

    def __init__(self, mask: Any, before: Any) -> None:
        self.mask, self.before = mask, before

    def __call__(self, weight: Any) -> Any:
        return (self.before(weight) if self.before else weight) * self.mask


def _keras_3_mask() -> type:
    """Returns the same as a Keras 3 constraint, which it insists on."""
    constraint = importlib.import_module("keras").constraints.Constraint
    return type("Mask", (_Mask, constraint), {})


_SCALE_SETTINGS = ("dynamic", "initial_scale", "dynamic_growth_steps")  # of a LossScaleOptimizer


@dataclasses.dataclass(frozen=True)
class Compiled:
    """How a model was compiled, to compile its descendants the same way with a fresh optimiser."""

    optimizer: Any
    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, model: Any) -> "Compiled":
        """Returns how the model was compiled.

        Raises:
          ConfigError: It was not.
        """
        if getattr(model, "optimizer", None) is None or not hasattr(model, "_compile_config"):
            raise ConfigError(
                "build_model must return a compiled model; call model.compile(optimizer, loss, metrics)."
            )
        arguments = {k: v for k, v in model._compile_config.config.items() if v is not None}
        arguments.pop("optimizer", None)
        arguments.pop("steps_per_execution", None)  # every step is looked at
        return cls(model.optimizer, arguments)

    def apply(self, model: Any, *, learning_rate: float | None = None) -> None:
        """Compiles the model.

        Args:
          model: Of the same Keras line.
          learning_rate: In place of the optimiser's own.

        Raises:
          ConfigError: A part of it cannot be made again.
        """
        arguments = dict(self.arguments)
        for name in ("metrics", "weighted_metrics"):
            if name in arguments:
                arguments[name] = _copied(arguments[name])
        model.compile(optimizer=self._fresh_optimizer(learning_rate), **arguments)

    def highest_learning_rate(self, num_steps: int) -> float:
        """Returns the optimiser's learning rate; the highest of so many steps where it follows a schedule."""
        schedule = _schedule(_inner(self.optimizer))
        if schedule is None:
            return float(np.asarray(_inner(self.optimizer).learning_rate))
        return max(float(schedule(step)) for step in np.linspace(0, num_steps, 101, dtype=np.int64))

    def _fresh_optimizer(self, learning_rate: float | None) -> Any:
        try:
            settings = dict(self.optimizer.get_config())
            inner = _inner(self.optimizer)
            if inner is not self.optimizer:  # scales losses in mixed precision
                fresh = _of_config(inner, dict(inner.get_config()), learning_rate)
                kept = {name: value for name, value in settings.items() if name in _SCALE_SETTINGS}
                return type(self.optimizer)(fresh, **kept)
            return _of_config(self.optimizer, settings, learning_rate)
        except (NotImplementedError, TypeError) as error:
            raise ConfigError(
                "The optimizer must be one that can be made again for each rung; "
                f"{type(self.optimizer).__name__} or its schedule cannot: {error}. Give the class a "
                "get_config() that returns the arguments of its __init__."
            ) from error


def _copied(metrics: Any) -> Any:
    """Returns metrics as `compile` takes them, with no state shared; names and functions have none."""
    if isinstance(metrics, Mapping):
        return {output: _copied(part) for output, part in metrics.items()}
    if isinstance(metrics, (list, tuple)):
        return [_copied(part) for part in metrics]
    if not hasattr(metrics, "get_config"):
        return metrics
    try:
        return type(metrics).from_config(metrics.get_config())
    except (NotImplementedError, TypeError) as error:
        raise ConfigError(
            f"A metric must be one that can be made again for each rung; {type(metrics).__name__} cannot: "
            f"{error}. Give the class a get_config() that returns the arguments of its __init__."
        ) from error


def _inner(optimizer: Any) -> Any:
    return getattr(optimizer, "inner_optimizer", optimizer)


def _schedule(optimizer: Any) -> Any:
    """Returns the schedule that the learning rate follows, if there is one."""
    hyper = getattr(optimizer, "_hyper", None)  # of Keras 2's legacy optimisers
    rate = hyper.get("learning_rate") if hyper else getattr(optimizer, "_learning_rate", None)
    return rate if callable(rate) and hasattr(rate, "get_config") else None


def _of_config(optimizer: Any, settings: dict[str, Any], learning_rate: float | None) -> Any:
    """Returns a fresh optimiser of the same settings; a schedule is shared, for it has no state."""
    schedule = _schedule(optimizer)
    if learning_rate is not None:
        settings["learning_rate"] = learning_rate
    elif schedule is not None:
        settings["learning_rate"] = schedule
    return type(optimizer).from_config(settings)


def optimizer_arrays(model: Any) -> list[Array]:
    """Returns the optimiser's state: its step and its slots."""
    return [np.asarray(variable.numpy()) for variable in _optimizer_variables(model)]


def set_optimizer_arrays(model: Any, arrays: Sequence[Array]) -> None:
    """Puts back what `optimizer_arrays` returned; the model must be compiled the same way."""
    for variable, array in zip(_optimizer_variables(model), arrays, strict=True):
        variable.assign(array)


def _optimizer_variables(model: Any) -> list[Any]:
    optimizer = model.optimizer
    if hasattr(optimizer, "build"):
        if not getattr(optimizer, "built", False) and not getattr(optimizer, "_built", False):
            optimizer.build(model.trainable_variables)
        return list(optimizer.variables)
    optimizer._create_all_weights(model.trainable_variables)  # Keras 2's legacy optimisers
    return list(optimizer.variables())


def callback(model: Any, observer: Any) -> Any:
    """Returns a Keras callback of the model's line that calls the observer.

    Args:
      model: Whose `fit` it is for.
      observer: Has `on_train_batch_begin(batch)`, `on_train_batch_end(batch, logs)` and
        `on_epoch_end(epoch, logs)`.
    """
    return keras_of(model).callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: observer.on_epoch_end(epoch, dict(logs or {})),
        on_train_batch_begin=lambda batch, logs: observer.on_train_batch_begin(batch),
        on_train_batch_end=lambda batch, logs: observer.on_train_batch_end(batch, dict(logs or {})),
    )
