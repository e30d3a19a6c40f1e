"""Stands in for the real thing: sums of losses of all files, and what core.py needs of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.common.errors import DataError
from tfx_mobile.size_latency_evaluator import core
from tfx_mobile.size_latency_evaluator.config import EvaluatorConfig

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Batch:
    """Some rows: labels and weights, features, and each file's predictions."""

    labels: Mapping[str, FloatArray]
    predictions: Mapping[str, Mapping[str, npt.NDArray[np.float32]]]
    columns: Mapping[str, npt.NDArray[Any]]
    weights: FloatArray | None = None


class Tally:
    """Moments of the losses of all files."""

    def __init__(self, config: EvaluatorConfig, files: Sequence[str]) -> None:
        self.config, self.files = config, tuple(files)
        self.count = 0
        size = len(self.files) * len(config.all_metrics())
        self.mean, self.cross = np.zeros(size), np.zeros((size, size))
        self.not_finite = dict.fromkeys(self.files, 0)
        self.first: dict[str, Any] = {}
        self.is_constant = dict.fromkeys(self.files, True)
        self.misfits: dict[str, str] = {}

    def add(self, batch: Batch) -> None:
        """Adds rows."""
        labels = batch.labels[""]
        part = Tally(self.config, self.files)
        columns = []
        for name in self.files:
            [found] = batch.predictions[name].values()
            part.not_finite[name] = int(np.count_nonzero(~np.isfinite(found).all(axis=1)))
            part.first[name] = found[0].copy()
            part.is_constant[name] = bool((found == found[0]).all())
            for metric in self.config.all_metrics():
                try:
                    threshold = self.config.decision_threshold
                    columns.append(core.row_losses(metric, found, labels, decision_threshold=threshold))
                except DataError as error:
                    part.misfits[name] = str(error)
                    columns.append(np.zeros(len(labels)))
        losses = np.stack(columns, axis=1) if columns else np.zeros((len(labels), 0))
        part.count, part.mean = len(losses), losses.mean(axis=0)
        part.cross = (losses - part.mean).T @ (losses - part.mean)
        self.merge(part)

    def merge(self, other: "Tally") -> None:
        """Adds what another one counted (Chan et al. 1983)."""
        total = self.count + other.count
        if not other.count:
            return
        gap = other.mean - self.mean
        self.cross = self.cross + other.cross + np.outer(gap, gap) * (self.count * other.count / total)
        self.mean = self.mean + gap * (other.count / total)
        for name in self.files:
            self.not_finite[name] += other.not_finite[name]
            if self.count:
                same = bool(np.all(self.first[name] == other.first[name]))
                self.is_constant[name] = self.is_constant[name] and other.is_constant[name] and same
            else:
                self.is_constant[name] = other.is_constant[name]
        self.first = self.first or other.first
        self.misfits |= other.misfits
        self.count = total

    def result(self) -> "Accuracy":
        """Returns what was found."""
        return Accuracy(self)


class Accuracy:
    """What was found."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self.rows = tally.count

    def failure(self, file: str, *, reference: str = "") -> str:
        """Returns why a file's predictions are of no use; empty if they are."""
        tally = self._tally
        if file in tally.misfits:
            return tally.misfits[file]
        if tally.not_finite[file]:
            return f"Its outputs are not finite on {tally.not_finite[file]} of {tally.count} rows."
        if tally.count > 1 and tally.is_constant[file] and not tally.is_constant.get(reference, False):
            return f"It returns the same output, {tally.first[file].tolist()}, on all {tally.count} rows."
        return ""

    def value(self, metric: str, file: str, slice_name: str = "") -> float | None:
        """Returns a metric."""
        loss = self.losses(file).get(next(m for m in self._tally.config.all_metrics() if m.value == metric))
        return (
            None
            if loss is None
            else core.metric_value(
                next(m for m in self._tally.config.all_metrics() if m.value == metric), loss
            )
        )

    def losses(self, file: str) -> dict[Any, Any]:
        """Returns the losses of a file by metric, in as far as core.py asks for them."""
        metrics = self._tally.config.all_metrics()
        offset = self._tally.files.index(file) * len(metrics)
        size = len(self._tally.mean)
        return {m: core.Losses(self._tally, np.eye(size)[offset + i]) for i, m in enumerate(metrics)}
