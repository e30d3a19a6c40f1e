"""Metrics that only their Keras class can compute: its state as arrays, stepped, merged and read.

The class is a known one of tf_keras, or a user's by its dotted path. Holds no rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras

from tfx_mobile.common import user_code
from tfx_mobile.common.errors import ConfigError
from tfx_mobile.size_latency_evaluator.config import KerasMetric


@dataclass(frozen=True)
class State:
    """The variables of a metric after some rows.

    Attributes:
      widths: Of labels and predictions, which variables may depend on.
      weights: In the metric's order.
    """

    widths: tuple[int, int]
    weights: tuple[npt.NDArray[Any], ...]


class Stepper:
    """One metric object that takes a state, does one thing and gives the state back.

    Args:
      metric: Of the family KERAS.

    Raises:
      ConfigError: The class cannot be imported, is no metric, or refuses its config.
    """

    def __init__(self, metric: KerasMetric) -> None:
        make = _maker(metric)
        self._one, self._two = make(), make()

    def update(
        self,
        state: State | None,
        labels: npt.NDArray[Any],
        predictions: npt.NDArray[Any],
        weights: npt.NDArray[np.float64] | None,
    ) -> State:
        """Returns the state after these rows too.

        Args:
          state: None for none yet.
          labels: Shape (rows, width).
          predictions: Shape (rows, outputs).
          weights: Shape (rows,), or None.

        Raises:
          ValueError: The class cannot take such labels or predictions.
        """
        widths = (labels.shape[1], predictions.shape[1])
        if state is None:
            self._one.reset_state()
        else:
            _load(self._one, state)
        given = {} if weights is None else {"sample_weight": weights.astype(np.float32)}
        try:
            self._one.update_state(labels.astype(np.float32), predictions.astype(np.float32), **given)
        except tf.errors.OpError as error:
            raise ValueError(error.message) from error
        return _read(self._one, widths)

    def merge(self, states: Sequence[State]) -> State:
        """Returns the state after the rows of all, by the metric's own `merge_state`."""
        _load(self._one, states[0])
        for state in states[1:]:
            _load(self._two, state)
            self._one.merge_state([self._two])
        return _read(self._one, states[0].widths)

    def result(self, state: State) -> float:
        """Returns the metric; NaN where it is not one number."""
        _load(self._one, state)
        found = np.asarray(self._one.result(), np.float64)
        return float(found.reshape(())) if found.size == 1 else float("nan")


def _maker(metric: KerasMetric) -> Any:
    setting = f"KerasMetric.class_name {metric.class_name!r}"
    found: Any
    if "." in metric.class_name:
        found = user_code.load(metric.class_name, "KerasMetric.class_name")
    else:
        found = getattr(tf_keras.metrics, metric.class_name, None)
    if not (isinstance(found, type) and issubclass(found, tf_keras.metrics.Metric)):
        raise ConfigError(f"{setting} must be a subclass of tf_keras.metrics.Metric; got {found!r}.")

    def make() -> Any:
        try:
            return found(**metric.config)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{setting} must take its config {metric.config!r}; got {error}.") from error

    return make


def _load(metric: Any, state: State) -> None:
    if len(metric.weights) != len(state.weights):  # variables that are made with the first rows
        label, prediction = (np.zeros((1, width), np.float32) for width in state.widths)
        metric.update_state(label, prediction)
    metric.set_weights(list(state.weights))


def _read(metric: Any, widths: tuple[int, int]) -> State:
    return State(widths, tuple(np.array(weight) for weight in metric.get_weights()))
