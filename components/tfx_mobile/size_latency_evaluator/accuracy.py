"""Accuracy of many files on many rows: mergeable tallies, metrics by slice, paired bounds. No rows are kept.

A `Tally` takes batches and merges with others, in any order and split, to the same `Accuracy`. Does not read
rows, run models, or know gates.

Sources: merging of means and cross-products, Chan, Golub and LeVeque (1983), "Algorithms for computing the
sample variance", The American Statistician 37; effective sample size, Kish (1965), "Survey Sampling", 11.7;
the bound of a ratio, Fieller (1954), J. R. Stat. Soc. B 16; the delete-a-group jackknife, Kott (2001),
Journal of Official Statistics 17.
"""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from scipy import stats

from tfx_mobile.common.errors import DataError
from tfx_mobile.size_latency_evaluator import metrics
from tfx_mobile.size_latency_evaluator.config import AnyMetric, EvaluatorConfig, Family, KerasMetric, Slice

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

CONFIDENCE = 0.95
NUM_GROUPS = 20
MISSING = b"\x1fmissing"
"""Stands for a missing string in `Batch.columns`; a missing number is NaN, and None either."""

_ALL = (-1, "")
_PENDING = 2**18
_NOISE = 1e-14  # of sums of products in float64: a variance below this share of its terms is zero


@dataclass(frozen=True)
class Batch:
    """Some rows.

    Attributes:
      labels: By output ('' for files with one), shape (rows, width), float64.
      predictions: By file and output, shape (rows, outputs), float32.
      columns: By feature that slices need, shape (rows,) or (rows, n): numbers or bytes, see MISSING.
      weights: Shape (rows,), finite and >= 0; None for equal weights.
    """

    labels: Mapping[str, npt.NDArray[np.float64]]
    predictions: Mapping[str, Mapping[str, npt.NDArray[np.float32]]]
    columns: Mapping[str, npt.NDArray[Any]]
    weights: FloatArray | None


@dataclass(frozen=True)
class Pair:
    """Two files' estimates on the same rows, and how sure they are.

    Attributes:
      difference: Of the estimates.
      other: The other file's estimate; before the root is taken, see `power`.
      covariance: Of `difference` and `other`, shape (2, 2): no digits are lost where the files hardly differ.
      freedom: Degrees of freedom of the covariance.
      power: The metric is the estimate to the power of 1 / `power`.
    """

    difference: float
    other: float
    covariance: FloatArray
    freedom: float
    power: float

    @property
    def estimate(self) -> tuple[float, float]:
        """Returns the estimate of one and of the other."""
        return self.other + self.difference, self.other

    def values(self) -> tuple[float, float]:
        """Returns the metric of one and of the other."""
        if self.power == 1.0:
            return self.estimate
        one, other = (max(value, 0.0) ** (1.0 / self.power) for value in self.estimate)
        return one, other

    def upper_bound(self, first: float, second: float) -> float:
        """Returns the one-sided 95 % upper bound of `first * estimate[0] + second * estimate[1]`.

        Infinity where there is no degree of freedom.
        """
        mean = first * self.difference + (first + second) * self.other
        return mean + self._deviation(first, second)

    def upper_bound_of_difference(self, sign: float = 1.0) -> float:
        """Returns the upper bound of `sign` times the difference of the metrics (delta method for a root)."""
        one, other = self.values()
        if self.power == 1.0 or one == other == 0.0:
            return self.upper_bound(sign, -sign)
        if min(one, other) == 0.0:
            return math.inf
        # d m^(1/p) = m^(1/p - 1) / p dm
        slopes = [value ** (1.0 / self.power - 1.0) / self.power for value in self.estimate]
        return sign * (one - other) + self._deviation(sign * slopes[0], -sign * slopes[1])

    def bounds_of_ratio(self) -> tuple[float, float]:
        """Returns the one-sided 95 % bounds of the ratio of the metrics (Fieller 1954).

        At the upper bound r, `upper_bound(1, -r)` of the estimates is zero. (0, infinity) where the other's
        estimate is not clearly above zero.
        """
        if self.difference == self._deviation(1.0, -1.0) == 0.0:
            return 1.0, 1.0
        if self.freedom <= 0:
            return 0.0, math.inf
        # With r = 1 + s: (difference - s other)^2 = t^2 Var(difference - s other).
        square = float(stats.t.ppf(CONFIDENCE, self.freedom)) ** 2
        a = self.other**2 - square * float(self.covariance[1, 1])
        b = self.difference * self.other - square * float(self.covariance[0, 1])
        c = self.difference**2 - square * float(self.covariance[0, 0])
        if a <= 0 or self.other <= 0:
            return 0.0, math.inf
        root = math.sqrt(max(b * b - a * c, 0.0))
        low, high = (max(1.0 + (b + sign * root) / a, 0.0) ** (1.0 / self.power) for sign in (-1, 1))
        return low, high

    def _deviation(self, first: float, second: float) -> float:
        """Returns the t quantile times the standard error of a combination of the estimates."""
        if self.freedom <= 0:
            return math.inf
        share = np.array([first, first + second])
        variance = max(float(share @ self.covariance @ share), 0.0)
        return float(stats.t.ppf(CONFIDENCE, self.freedom)) * math.sqrt(variance)


# ---------------------------------------------------------------------------------------------- tallies


class Tally:
    """Counts batches; merges with tallies of other rows.

    What it holds does not grow with the rows: per slice, the moments of all files at once for metrics that
    are means, and the state of other metrics in 20 groups of rows. The group of a row comes from its labels
    and predictions, so it does not depend on how rows are split.

    Args:
      config: What is asked.
      files: Names of the files, all of which each batch has predictions of.

    Raises:
      ConfigError: A metric's class cannot be used.
    """

    def __init__(self, config: EvaluatorConfig, files: Sequence[str]) -> None:
        self.config = config
        self.files = tuple(files)
        self.specs = config.all_slices()
        found = config.all_metrics()
        self.means = tuple(m for m in found if m.family is Family.MEAN)
        self.cell_metrics = tuple(m for m in found if isinstance(m, KerasMetric) and m.family is Family.CELLS)
        self.keras_metrics = tuple(
            m for m in found if isinstance(m, KerasMetric) and m.family is Family.KERAS
        )
        for metric in self.keras_metrics:
            stepper(metric)
        self.rows = 0
        self.not_finite = np.zeros(len(self.files), np.int64)
        self.constant: dict[tuple[str, str], list[float] | None] = {}
        self.misfits: dict[str, str] = {}
        self.wrong_labels = 0
        self.wrong_weights = 0
        self.ids: dict[tuple[int, str], int] = {_ALL: 0}
        self.next_id = 1
        self.too_many: set[int] = set()
        self.moments: dict[int, _Moments] = {}
        self.sums = [_Sums() for _ in self.cell_metrics for _ in self.files]
        self.states: dict[tuple[int, int, int, int], Any] = {}

    def add(self, batch: Batch) -> None:
        """Counts the rows of a batch.

        Raises:
          DataError: The batch lacks a label, a file's predictions or a feature that a slice needs.
        """
        outputs = tuple(self.config.label_features())
        if absent := [name for name in outputs if name not in batch.labels]:
            raise DataError(f"A batch must have the labels of each output; got none of {absent!r}.")
        labels = {name: np.asarray(batch.labels[name], np.float64) for name in outputs}
        count = len(labels[outputs[0]])
        if count == 0:
            return
        weights = np.ones(count) if batch.weights is None else np.asarray(batch.weights, np.float64)
        self.wrong_weights += int(np.count_nonzero(~(np.isfinite(weights) & (weights >= 0))))
        usable = np.logical_and.reduce([np.isfinite(found).all(axis=1) for found in labels.values()])
        self.wrong_labels += int(np.count_nonzero(~usable))
        self.rows += count
        if self.wrong_labels or self.wrong_weights:
            return  # `result` refuses
        predictions = [self._finite_predictions(i, batch, outputs, count) for i in range(len(self.files))]
        parts = self._parts(batch.columns, count)
        weighted = batch.weights is not None
        self._add_means(labels, predictions, weights, parts, weighted)
        if self.cell_metrics or self.keras_metrics:
            groups = _groups(labels, predictions)
            self._add_cells(labels, predictions, weights, parts, groups)
            self._add_keras(labels, predictions, weights if weighted else None, parts, groups)

    def merge(self, other: "Tally") -> None:
        """Adds the rows of another tally of the same settings and files; the other stays as it is."""
        if (self.config, self.files) != (other.config, other.files):
            raise DataError("Only tallies of the same settings and files can be merged.")
        self.rows += other.rows
        self.not_finite = self.not_finite + other.not_finite
        self.wrong_labels += other.wrong_labels
        self.wrong_weights += other.wrong_weights
        for key, value in other.constant.items():
            mine = self.constant.setdefault(key, value)
            self.constant[key] = mine if mine == value else None
        for name, reason in other.misfits.items():
            self.misfits[name] = min(reason, self.misfits.get(name, reason))
        self.too_many |= other.too_many
        for spec in range(len(self.specs)):
            names = [name for (s, name) in (*self.ids, *other.ids) if s == spec]
            self._admit(spec, names)
        known = {i: self.ids[key] for key, i in other.ids.items() if key in self.ids}
        for i, moments in other.moments.items():
            if i in known:
                self.moments.setdefault(known[i], moments.emptied()).merge(moments)
        for index, sums in enumerate(other.sums):
            self.sums[index].merge(sums, known, self._num_cells(index) * NUM_GROUPS)
        for (m, f, i, g), state in other.states.items():
            if i in known:
                cell = (m, f, known[i], g)
                states = [self.states[cell], state] if cell in self.states else [state]
                self.states[cell] = stepper(self.keras_metrics[m]).merge(states)

    def result(self) -> "Accuracy":
        """Returns what was found.

        Raises:
          DataError: A label is not finite, or a weight is negative or not finite.
        """
        if self.wrong_labels:
            raise DataError(
                f"Labels must be finite; got {self.wrong_labels} of {self.rows} rows with NaN or infinity. "
                "Clean them in preprocessing_fn or drop these rows."
            )
        if self.wrong_weights:
            raise DataError(
                f"Weights in {self.config.sample_weight_key!r} must be finite and >= 0; got "
                f"{self.wrong_weights} of {self.rows} rows with another."
            )
        return Accuracy(self)

    def _num_cells(self, index: int) -> int:
        return metrics.num_cells(self.cell_metrics[index // len(self.files)])

    def _finite_predictions(
        self, index: int, batch: Batch, outputs: Sequence[str], count: int
    ) -> dict[str, npt.NDArray[Any]]:
        """Returns a file's predictions by output, zeros where they cannot be used; notes what is wrong."""
        name = self.files[index]
        given = batch.predictions.get(name)
        if given is None:
            raise DataError(f"A batch must have the predictions of each file; got none of {name!r}.")
        found, bad = {}, np.zeros(count, bool)
        for output in outputs:
            array = given.get(output)
            if array is None or array.ndim != 2 or len(array) != count or not array.shape[1]:
                has = ", ".join(f"{key!r} {np.shape(value)}" for key, value in given.items()) or "none"
                self._misfit(name, f"It must have numbers for each row as output {output!r}; got {has}.")
                found[output] = np.zeros((count, 1), np.float32)
                continue
            wrong = ~np.isfinite(array).all(axis=1)
            bad |= wrong
            found[output] = np.where(wrong[:, None], 0, array) if wrong.any() else array
            first = array[0].tolist() if np.all(array == array[0]) else None
            mine = self.constant.setdefault((name, output), first)
            self.constant[(name, output)] = mine if mine == first else None
        self.not_finite[index] += int(np.count_nonzero(bad))
        return found

    def _misfit(self, file: str, reason: str) -> None:
        self.misfits[file] = min(reason, self.misfits.get(file, reason))

    def _admit(self, spec: int, names: Sequence[str]) -> None:
        """Gives new slices their number, or gives up a spec that has too many."""
        if spec not in self.too_many:
            new = dict.fromkeys(name for name in names if (spec, name) not in self.ids)
            have = sum(s == spec for s, _ in self.ids)
            if have + len(new) <= self.specs[spec].max_values:
                self.ids |= {(spec, name): self.next_id + i for i, name in enumerate(new)}
                self.next_id += len(new)
                return
            self.too_many.add(spec)
        for key in [key for key in self.ids if key[0] == spec]:
            self.moments.pop(self.ids.pop(key), None)

    def _parts(
        self, columns: Mapping[str, npt.NDArray[Any]], count: int
    ) -> list[tuple[IntArray | None, IntArray, IntArray]]:
        """Returns per slice spec the rows in the order of their slices, the slices, and where each starts.

        The first part is all rows as they are.
        """
        parts: list[tuple[IntArray | None, IntArray, IntArray]] = [
            (None, np.array([0]), np.array([0, count]))
        ]
        for spec, wanted in enumerate(self.specs):
            rows, codes, names = slice_rows(wanted, columns, count)
            order = np.argsort(codes, kind="stable")
            present, starts = np.unique(codes[order], return_index=True)
            self._admit(spec, [names(int(code)) for code in present[: wanted.max_values + 1]])
            if spec in self.too_many or not len(present):
                continue
            ids = np.array([self.ids[(spec, names(int(code)))] for code in present])
            parts.append((rows[order], ids, np.append(starts, len(rows))))
        return parts

    def _add_means(self, labels: Any, predictions: Any, weights: Any, parts: Any, weighted: bool) -> None:
        values = np.zeros((len(self.means), len(weights), len(self.files)))
        for m, metric in enumerate(self.means):
            for f, name in enumerate(self.files):
                try:
                    values[m, :, f] = metrics.row_values(
                        metric,
                        labels[metric.output],
                        predictions[f][metric.output],
                        decision_threshold=self.config.decision_threshold,
                    )
                except DataError as error:
                    self._misfit(name, str(error))
        # Differences from the first file keep the digits of files that hardly differ; see _Moments.
        values[:, :, 1:] -= values[:, :, :1]
        for rows, ids, starts in parts:
            ordered = values if rows is None else values[:, rows]
            weight = weights if rows is None else weights[rows]
            for k, i in enumerate(ids.tolist()):
                part = slice(starts[k], starts[k + 1])
                found = _Moments.of(ordered[:, part], weight[part], weighted=weighted)
                if i in self.moments:
                    self.moments[i].merge(found)
                else:
                    self.moments[i] = found

    def _add_cells(self, labels: Any, predictions: Any, weights: Any, parts: Any, groups: Any) -> None:
        for m, metric in enumerate(self.cell_metrics):
            count = metrics.num_cells(metric)
            for f, name in enumerate(self.files):
                try:
                    at, cell, value = metrics.cells(
                        metric, labels[metric.output], predictions[f][metric.output], weights
                    )
                except DataError as error:
                    self._misfit(name, str(error))
                    continue
                local = groups[at] * count + cell
                order = np.argsort(at, kind="stable")
                ordered = at[order]
                for rows, ids, starts in parts:
                    if rows is None:
                        self.sums[m * len(self.files) + f].add(local, value)
                        continue
                    # A row may be in several slices: go over (row, slice), each with its own parts.
                    first = np.searchsorted(ordered, rows, side="left")
                    length = np.searchsorted(ordered, rows, side="right") - first
                    offset = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
                    pick = order[np.repeat(first, length) + offset]
                    base = np.repeat(np.repeat(ids, np.diff(starts)), length) * (NUM_GROUPS * count)
                    self.sums[m * len(self.files) + f].add(base + local[pick], value[pick])

    def _add_keras(self, labels: Any, predictions: Any, weights: Any, parts: Any, groups: Any) -> None:
        if not self.keras_metrics:
            return
        for rows, ids, starts in parts:
            every = np.arange(len(groups)) if rows is None else rows
            for k, i in enumerate(ids.tolist()):
                inside = every[starts[k] : starts[k + 1]]
                for g in np.unique(groups[inside]).tolist():
                    chosen = inside[groups[inside] == g]
                    for m, metric in enumerate(self.keras_metrics):
                        for f, name in enumerate(self.files):
                            key = (m, f, i, g)
                            try:
                                self.states[key] = stepper(metric).update(
                                    self.states.get(key),
                                    labels[metric.output][chosen],
                                    predictions[f][metric.output][chosen],
                                    None if weights is None else weights[chosen],
                                )
                            except (ValueError, TypeError, RuntimeError) as error:  # of the user's class
                                self._misfit(name, f"{metric.value} cannot be computed: {_line(error)}")


class Accuracy:
    """What a tally found.

    Args:
      tally: Not changed any more.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._metrics = {metric.value: metric for metric in tally.config.all_metrics()}
        self._ids: dict[str, int] = {}
        for (spec, name), i in sorted(tally.ids.items()):
            if spec not in tally.too_many:
                self._ids.setdefault(name, i)
        self._values: dict[tuple[str, str, str], float | None] = {}

    @property
    def rows(self) -> int:
        """Returns how many rows there were."""
        return self._tally.rows

    def has(self, metric_name: str) -> bool:
        """Returns whether a metric was computed."""
        return metric_name in self._metrics

    @property
    def slice_names(self) -> tuple[str, ...]:
        """Returns the slices in words, sorted."""
        return tuple(sorted(name for name in self._ids if name))

    def slices_of(self, wanted: Slice) -> tuple[str, ...] | None:
        """Returns the names of a configured slice's values, sorted; None where there are too many."""
        spec = self._tally.specs.index(wanted)
        if spec in self._tally.too_many:
            return None
        return tuple(sorted(name for s, name in self._tally.ids if s == spec))

    def rows_of(self, slice_name: str) -> int:
        """Returns how many rows a slice has; 0 for one that does not exist."""
        moments = self._tally.moments.get(self._ids.get(slice_name, -1))
        return moments.rows if moments is not None else 0

    def failure(self, file: str, reference: str = "") -> str:
        """Returns why a file's predictions are of no use, in one sentence; empty when they are.

        Args:
          file: Which one.
          reference: The reference file, or empty. A constant output is refused unless the reference's is too.
        """
        tally = self._tally
        if file not in tally.files:
            return "It was not predicted with."
        wrong = int(tally.not_finite[tally.files.index(file)])
        if wrong:
            return f"Its outputs are not finite on {wrong} of {tally.rows} rows."
        if file in tally.misfits:
            return tally.misfits[file]
        for output in tally.config.label_features():
            constant = tally.constant.get((file, output))
            if constant is None or tally.rows < 2 or tally.constant.get((reference, output)) is not None:
                continue
            where = f" {output!r}" if output else ""
            return f"It returns the same output{where}, {constant}, on all {tally.rows} rows."
        return ""

    def value(self, metric_name: str, file: str, slice_name: str = "") -> float | None:
        """Returns a metric; None where it is not defined, not finite, or there are no rows."""
        key = (metric_name, file, slice_name)
        if key not in self._values:
            self._values[key] = self._value(*key)
        return self._values[key]

    def pair(self, metric_name: str, one: str, other: str, slice_name: str = "") -> Pair | None:
        """Returns two files' estimates on the same rows; None where one of them is not defined."""
        tally = self._tally
        metric, i = self._metrics.get(metric_name), self._ids.get(slice_name)
        if metric is None or i is None or self.value(metric_name, one, slice_name) is None:
            return None
        if self.value(metric_name, other, slice_name) is None:
            return None
        files = [tally.files.index(name) for name in (one, other)]
        if metric.family is Family.MEAN:
            m = tally.means.index(metric)
            return tally.moments[i].pair(m, files[0], files[1], metrics.power(metric))
        replicates = np.stack([self._replicates(cast(KerasMetric, metric), f, i) for f in files], axis=1)
        replicates[:, 0] -= replicates[:, 1]
        difference, estimate = replicates[0].tolist()
        away = replicates[1:] - replicates[0]
        # A group's removal may leave the metric undefined: then nothing is known of the spread.
        if len(away) < 2 or not np.isfinite(away).all():
            return Pair(difference, estimate, np.zeros((2, 2)), 0.0, 1.0)
        covariance = (len(away) - 1) / len(away) * (away.T @ away)
        return Pair(difference, estimate, covariance, len(away) - 1.0, 1.0)

    def _value(self, metric_name: str, file: str, slice_name: str) -> float | None:
        tally = self._tally
        metric, i = self._metrics.get(metric_name), self._ids.get(slice_name)
        if metric is None or i is None or i not in tally.moments or file not in tally.files:
            return None
        f = tally.files.index(file)
        if tally.not_finite[f] or file in tally.misfits or tally.moments[i].weight <= 0:
            return None
        if metric.family is Family.MEAN:
            found = tally.moments[i].value(tally.means.index(metric), f)
            found = found ** (1.0 / metrics.power(metric)) if metrics.power(metric) != 1.0 else found
        elif isinstance(metric, KerasMetric) and metric.family is Family.CELLS:
            m = tally.cell_metrics.index(metric)
            total = tally.sums[m * len(tally.files) + f].total(i, NUM_GROUPS, metrics.num_cells(metric))
            found = float(metrics.value_of_cells(metric, total))
        else:
            states = self._states(metric, f, i)
            found = stepper(cast(KerasMetric, metric)).result(
                stepper(cast(KerasMetric, metric)).merge(states)
            )
        return found if math.isfinite(found) else None

    def _replicates(self, metric: KerasMetric, f: int, i: int) -> FloatArray:
        """Returns the metric of all rows, then without each group that has rows."""
        if metric.family is Family.CELLS:
            cells = self._cells(metric, f, i)
            total = cells.sum(axis=0)
            return metrics.value_of_cells(metric, np.concatenate([total[None], total - cells]))
        states, step = self._states(metric, f, i), stepper(metric)
        parts = [states, *(states[:g] + states[g + 1 :] for g in range(len(states)) if len(states) > 1)]
        return np.array([step.result(step.merge(part)) for part in parts])

    def _states(self, metric: AnyMetric, f: int, i: int) -> list[Any]:
        m = self._tally.keras_metrics.index(cast(KerasMetric, metric))
        keys = [(m, f, i, g) for g in range(NUM_GROUPS)]
        return [self._tally.states[key] for key in keys if key in self._tally.states]

    def _cells(self, metric: AnyMetric, f: int, i: int) -> FloatArray:
        """Returns the cells of the groups that have any, shape (groups, cells)."""
        tally = self._tally
        m = tally.cell_metrics.index(cast(KerasMetric, metric))
        count = metrics.num_cells(tally.cell_metrics[m])
        dense = tally.sums[m * len(tally.files) + f].dense(i, NUM_GROUPS, count)
        return np.asarray(dense[dense.any(axis=1)])


# ---------------------------------------------------------------------------------------------- state


@dataclass
class _Moments:
    """Moments of the row values of all files: of metric, file, and file by file.

    Of the first file its values x_0, of each other the differences x_f - x_0. The variance of a weighted mean
    needs the squares of the weights, so the cross-products are those of rows weighted by w^2, about their own
    mean: with d_i = a_i - c b_i, Var(mean) = sum w_i^2 (d_i - mean)^2 / W^2.

    Attributes:
      rows: How many.
      weight: Sum of the weights w.
      weight2: Sum of w^2.
      mean: Weighted by w, shape (metrics, files).
      mean2: Weighted by w^2, likewise.
      spread: Cross-products about `mean2` weighted by w^2, shape (metrics, files, files).
    """

    rows: int
    weight: float
    weight2: float
    mean: FloatArray
    mean2: FloatArray
    spread: FloatArray

    @classmethod
    def of(cls, values: FloatArray, weights: FloatArray, *, weighted: bool) -> "_Moments":
        """Returns the moments of rows, shape (metrics, rows, files)."""
        rows = values.shape[1]
        if not weighted:
            mean = values.mean(axis=1)
            away = values - mean[:, None]
            return cls(rows, float(rows), float(rows), mean, mean, np.matmul(away.transpose(0, 2, 1), away))
        squares = weights * weights
        total, total2 = float(weights.sum()), float(squares.sum())
        mean = np.einsum("i,mif->mf", weights, values) / (total or 1.0)
        mean2 = np.einsum("i,mif->mf", squares, values) / (total2 or 1.0)
        away = values - mean2[:, None]
        spread = np.matmul((away * squares[:, None]).transpose(0, 2, 1), away)
        return cls(rows, total, total2, mean, mean2, spread)

    def emptied(self) -> "_Moments":
        """Returns the moments of no rows, of the same shapes."""
        zeros = np.zeros_like(self.mean)
        return _Moments(0, 0.0, 0.0, zeros, zeros, np.zeros_like(self.spread))

    def merge(self, other: "_Moments") -> None:
        """Adds the moments of other rows (Chan et al. 1983, eq. 2.1)."""
        self.rows += other.rows
        total, total2 = self.weight + other.weight, self.weight2 + other.weight2
        if other.weight > 0:
            self.mean = self.mean + (other.mean - self.mean) * (other.weight / total)
        if other.weight2 > 0:
            away = other.mean2 - self.mean2
            between = away[:, :, None] * away[:, None, :] * (self.weight2 * other.weight2 / total2)
            self.spread = self.spread + other.spread + between
            self.mean2 = self.mean2 + away * (other.weight2 / total2)
        self.weight, self.weight2 = total, total2

    def value(self, m: int, f: int) -> float:
        """Returns a file's mean."""
        return float(self.mean[m, 0] + (self.mean[m, f] if f else 0.0))

    def pair(self, m: int, one: int, other: int, power: float) -> Pair:
        """Returns two files' means and the covariance of the means.

        The effective number of rows W^2 / sum w^2 (Kish 1965) stands where n does for equal weights.
        """
        effective = self.weight**2 / self.weight2
        freedom = effective - 1.0 if self.rows > 1 else 0.0
        # (difference, other) in terms of the first file and the two differences from it.
        shares = np.array([[0.0, float(one > 0), -float(other > 0)], [1.0, 0.0, float(other > 0)]])
        three = [0, one, other]
        difference = float((shares[0] * self.mean[m, three]).sum())
        if freedom <= 0:
            return Pair(difference, self.value(m, other), np.zeros((2, 2)), 0.0, power)
        away = self.mean[m, three] - self.mean2[m, three]
        spread = self.spread[m][np.ix_(three, three)] + self.weight2 * np.outer(away, away)
        covariance = shares @ spread @ shares.T / self.weight**2 * (effective / freedom)
        terms = np.outer(shares[0], shares[0]) * spread
        if terms.sum() <= _NOISE * np.abs(terms).sum():
            covariance[0, :] = covariance[:, 0] = 0.0
        return Pair(difference, self.value(m, other), covariance, freedom, power)


class _Sums:
    """Sums by number, of which most are never seen: sorted keys, and what came since."""

    def __init__(self) -> None:
        self._keys: IntArray = np.zeros(0, np.int64)
        self._values: FloatArray = np.zeros(0)
        self._pending: list[tuple[IntArray, FloatArray]] = []
        self._num_pending = 0

    def add(self, keys: IntArray, values: FloatArray) -> None:
        self._pending.append((keys, values))
        self._num_pending += len(keys)
        if self._num_pending > max(_PENDING, 2 * len(self._keys)):
            self._settle()

    def merge(self, other: "_Sums", known: Mapping[int, int], size: int) -> None:
        """Adds another's sums, whose keys are `number * size + rest`, under the numbers known here."""
        other._settle()
        if len(other._keys):
            table = np.full(int(other._keys[-1]) // size + 1, -1, np.int64)
            for theirs, mine in known.items():
                if theirs < len(table):
                    table[theirs] = mine
            number = table[other._keys // size]
            kept = number >= 0
            self.add(number[kept] * size + other._keys[kept] % size, other._values[kept])

    def dense(self, number: int, groups: int, count: int) -> FloatArray:
        """Returns the sums of one number by group, shape (groups, count)."""
        keys, values = self._of(number, groups * count)
        found = np.zeros(groups * count)
        found[keys] = values
        return found.reshape(groups, count)

    def total(self, number: int, groups: int, count: int) -> FloatArray:
        """Returns the sums of one number over its groups, shape (count,)."""
        keys, values = self._of(number, groups * count)
        return np.asarray(np.bincount(keys % count, weights=values, minlength=count), np.float64)

    def _of(self, number: int, size: int) -> tuple[IntArray, FloatArray]:
        self._settle()
        start, end = np.searchsorted(self._keys, [number * size, (number + 1) * size])
        return self._keys[start:end] - number * size, self._values[start:end]

    def __getstate__(self) -> dict[str, Any]:
        self._settle()
        return self.__dict__

    def _settle(self) -> None:
        if not self._pending:
            return
        keys = np.concatenate([self._keys, *(keys for keys, _ in self._pending)])
        values = np.concatenate([self._values, *(values for _, values in self._pending)])
        self._pending, self._num_pending = [], 0
        self._keys, inverse = np.unique(keys, return_inverse=True)
        self._values = np.bincount(inverse, weights=values, minlength=len(self._keys)).astype(np.float64)


@functools.lru_cache(maxsize=32)
def stepper(metric: KerasMetric) -> Any:
    """Returns the process's stepper of a metric of the family KERAS; imports TensorFlow.

    Raises:
      ConfigError: The class cannot be used.
    """
    from tfx_mobile.size_latency_evaluator import keras_metrics

    return keras_metrics.Stepper(metric)


def _groups(labels: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]) -> IntArray:
    """Returns the group of each row, from a hash (multiply and xor-shift) of its labels and predictions."""
    first = next(iter(labels.values()))
    mixed = np.zeros(len(first), np.uint64)
    arrays = [*labels.values(), *(array for by_output in predictions for array in by_output.values())]
    with np.errstate(over="ignore"):
        for array in arrays:
            for column in np.asarray(array, np.float64).T:
                mixed = (mixed ^ np.ascontiguousarray(column).view(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
                mixed ^= mixed >> np.uint64(29)
    return np.asarray((mixed >> np.uint64(11)) % np.uint64(NUM_GROUPS), np.int64)


# ---------------------------------------------------------------------------------------------- slices


def slice_rows(wanted: Slice, columns: Mapping[str, npt.NDArray[Any]], count: int) -> tuple[Any, Any, Any]:
    """Returns which rows are in which part of a slice.

    Args:
      wanted: The slice.
      columns: As in `Batch`.
      count: Of rows.

    Returns:
      Rows and codes, each of shape (memberships,), and a function from a code to the part's name, for example
      "company = 'Flash', miles in [1, 5)".

    Raises:
      DataError: A feature is not there, or is text where numbers are needed.
    """
    rows, codes = np.arange(count), np.zeros(count, np.int64)
    texts: list[list[str]] = []
    for feature in wanted.needed_features():
        if feature not in columns:
            raise DataError(
                f"Slices need feature {feature!r} in each batch; "
                f"got {', '.join(map(repr, columns)) or 'none'}."
            )
        column = columns[feature]
        column = column.reshape(len(column), -1)
        if feature in wanted.buckets:
            found, names = _bucketed(column, feature, wanted.buckets[feature])
        else:
            found, names = _factorized(column, feature)
            if feature in wanted.values:
                found, names = _only(found, names, feature, wanted.values[feature], column.dtype.kind)
        texts.append(names)
        at = found[rows]  # (memberships, n)
        inside = at >= 0
        rows = np.repeat(rows, inside.sum(axis=1))
        codes = np.repeat(codes, inside.sum(axis=1)) * max(len(names), 1) + at[inside]
        if column.shape[1] > 1 and len(rows):
            rows, codes = np.unique(np.stack([rows, codes]), axis=1)  # a value that a row has twice

    def name(code: int) -> str:
        parts = []
        for names in reversed(texts):
            code, last = divmod(code, max(len(names), 1))
            parts.append(names[last])
        return ", ".join(reversed(parts))

    return rows, codes, name


def _factorized(column: npt.NDArray[Any], feature: str) -> tuple[IntArray, list[str]]:
    """Returns codes, -1 for missing, and each code's words."""
    if column.dtype.kind in "OSU":
        flat = column.ravel()
        missing = _is_none(flat) if column.dtype.kind == "O" else np.zeros(len(flat), bool)
        texts = np.where(missing, MISSING, flat).astype(np.bytes_)
        missing = texts == MISSING
        values, codes = np.unique(texts, return_inverse=True)
        names = [f"{feature} = {value.decode('utf-8', 'backslashreplace')!r}" for value in values.tolist()]
    else:
        flat = column.ravel()
        missing = np.isnan(flat) if column.dtype.kind == "f" else np.zeros(len(flat), bool)
        values, codes = np.unique(np.where(missing, 0, flat), return_inverse=True)
        names = [f"{feature} = {_number(value)}" for value in values.tolist()]
    return np.where(missing, -1, codes).reshape(column.shape), names


def _only(
    codes: IntArray, names: list[str], feature: str, value: str | int | float, kind: str
) -> tuple[IntArray, list[str]]:
    """Keeps one value. A text stands for the number it spells where the feature is a number, as in TFMA."""
    if kind in "OSU":
        text = value if isinstance(value, str) else _number(value)
        name = f"{feature} = {text!r}"
    else:
        try:
            name = f"{feature} = {_number(float(value))}"
        except ValueError:
            raise DataError(
                f"Feature {feature!r} is a number; got the slice {feature} = {value!r}."
            ) from None
    number = names.index(name) if name in names else -2
    return np.where(codes == number, 0, -1), [name]


def _bucketed(column: npt.NDArray[Any], feature: str, edges: tuple[float, ...]) -> tuple[IntArray, list[str]]:
    if column.dtype.kind == "O":
        column = np.where(_is_none(column), np.nan, column)
    try:
        numbers = column.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"Feature {feature!r} must be numbers to have buckets; got {_line(error)}") from error
    codes = np.where(np.isnan(numbers), -1, np.searchsorted(edges, numbers, side="right"))
    inner = [f"{feature} in [{_number(low)}, {_number(high)})" for low, high in itertools.pairwise(edges)]
    return codes, [f"{feature} < {_number(edges[0])}", *inner, f"{feature} >= {_number(edges[-1])}"]


def _is_none(column: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return np.asarray(column == np.array(None), bool)


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.7g}"


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
