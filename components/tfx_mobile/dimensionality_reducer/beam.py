"""The two passes over the rows: gather statistics, write reduced rows. Batches only, never single rows."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse

from tfx_mobile.common import examples
from tfx_mobile.common.errors import DataError
from tfx_mobile.dimensionality_reducer.config import NotFinite, OneHot, ReducerConfig, Reduction
from tfx_mobile.dimensionality_reducer.models import Fitted
from tfx_mobile.dimensionality_reducer.rows import Rows
from tfx_mobile.dimensionality_reducer.statistics import Statistics, refuse_not_finite, refused
from tfx_mobile.dimensionality_reducer.transform_graph import InputLayout

COUNTS = "counts"  # tag of what a split's rows were like


def read_rows(batch: pa.RecordBatch, reduction: Reduction, layout: InputLayout) -> Rows:
    """Returns the inputs of a reduction in a batch."""
    wanted = {name: (np.float32, (layout.widths[name],)) for name in reduction.numeric}
    columns = examples.to_columns(batch, wanted)
    numbers = [columns[name] for name in reduction.numeric]
    counts = [_one_hot(batch, one, layout.widths[one]) for one in reduction.one_hot]
    return Rows.of(
        np.concatenate(numbers, axis=1) if numbers else np.zeros((batch.num_rows, 0)),
        sparse.hstack(counts, format="csr") if counts else None,
    )


def read_labels(batch: pa.RecordBatch, label_key: str, *, is_text: bool) -> npt.NDArray[Any]:
    """Returns the label of each row, shape (n,): float64, or bytes objects where it is a string."""
    found = examples.to_columns(batch, {label_key: (np.bytes_ if is_text else np.float64, (1,))})
    return found[label_key][:, 0]


class FitFn(beam.CombineFn):
    """Gathers the statistics of all reductions, in any order and any tree of merges."""

    def __init__(self, config: ReducerConfig, layout: InputLayout) -> None:
        self._config, self._layout = config, layout

    def create_accumulator(self) -> list[Statistics]:
        """Returns the statistics of no rows, one for each reduction."""
        widths = self._layout.widths
        return [
            Statistics(one, sum(widths[name] for name in one.numeric), one.width(widths))
            for one in self._config.reductions
        ]

    def add_input(self, accumulator: list[Statistics], batch: pa.RecordBatch) -> list[Statistics]:
        """Adds the rows of one batch."""
        label_key = self._config.label_key
        labels = read_labels(batch, label_key, is_text=self._layout.label_is_text) if label_key else None
        inputs = [read_rows(batch, one, self._layout) for one in self._config.reductions]
        keep = kept_rows(self._config, inputs)
        for rows, statistics in zip(inputs, accumulator, strict=True):
            statistics.add(rows, labels, keep)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[list[Statistics]]) -> list[Statistics]:
        """Merges partial results."""
        total = self.create_accumulator()
        for accumulator in accumulators:
            for one, other in zip(total, accumulator, strict=True):
                one.merge(other)
        return total

    def extract_output(self, accumulator: list[Statistics]) -> list[Statistics]:
        """Returns the statistics of all rows."""
        return accumulator


@dataclasses.dataclass(frozen=True)
class SplitCounts:
    """What the rows of a split were like.

    Attributes:
      num_rows: Rows read.
      num_dropped: Rows left out because of NaN or infinity.
      imputed: By column, values that the mean stands in for.
      refused: By column, values that are NaN or infinite and that the settings do not provide for.
    """

    num_rows: int = 0
    num_dropped: int = 0
    imputed: Mapping[str, int] = dataclasses.field(default_factory=dict)
    refused: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def num_imputed(self) -> int:
        """How many values the mean stands in for."""
        return sum(self.imputed.values())

    @classmethod
    def total(cls, parts: Iterable["SplitCounts"]) -> "SplitCounts":
        """Returns the sums."""
        num_rows, num_dropped = 0, 0
        imputed: collections.Counter[str] = collections.Counter()
        refused: collections.Counter[str] = collections.Counter()
        for part in parts:
            num_rows += part.num_rows
            num_dropped += part.num_dropped
            imputed.update(part.imputed)
            refused.update(part.refused)
        return cls(num_rows, num_dropped, dict(imputed), dict(refused))

    def check(self, split: str) -> None:
        """Raises DataError if nothing is left of the split or it has values that were not provided for."""
        if not self.num_rows:
            raise DataError(
                f"Split '{split}' must have rows; got none. Leave it out of the Examples or fill it."
            )
        refuse_not_finite(dict(self.refused), self.num_rows, split)
        if self.num_dropped == self.num_rows:
            raise DataError(
                f"Split '{split}' must keep rows; all {self.num_rows} have NaN or infinity and are dropped "
                "(NotFinite.DROP_ROWS). Clean them in preprocessing_fn or use NotFinite.IMPUTE_MEAN."
            )


def kept_rows(config: ReducerConfig, inputs: Sequence[Rows]) -> npt.NDArray[np.bool_]:
    """Returns which rows no reduction drops, shape (n,).

    Args:
      config: The reductions.
      inputs: The rows of each.
    """
    keep = np.ones(inputs[0].num_rows, bool)
    for reduction, rows in zip(config.reductions, inputs, strict=True):
        if reduction.not_finite is NotFinite.DROP_ROWS and not rows.all_finite():
            found = rows.not_finite()
            keep &= ~(found.in_numbers | found.in_counts)
    return keep


class ReduceBatches(beam.DoFn):
    """Replaces the input features of each batch by the outputs; tells on the side what the rows were like."""

    def __init__(self, config: ReducerConfig, fitted: Mapping[str, Fitted], layout: InputLayout) -> None:
        self._config, self._fitted, self._layout = config, dict(fitted), layout

    def process(self, batch: pa.RecordBatch) -> Iterable[Any]:
        """Yields the batch reduced, and its counts with the tag COUNTS."""
        num_rows = batch.num_rows
        inputs = [read_rows(batch, one, self._layout) for one in self._config.reductions]
        keep = kept_rows(self._config, inputs)
        if not keep.all():
            batch, inputs = batch.filter(pa.array(keep)), [rows.take(keep) for rows in inputs]
        outputs: dict[str, npt.NDArray[np.float32]] = {}
        imputed: dict[str, int] = {}
        bad: dict[str, int] = {}
        for reduction, rows in zip(self._config.reductions, inputs, strict=True):
            fitted = self._fitted[reduction.output]
            if not rows.all_finite():
                counts = dict(zip(fitted.columns, rows.not_finite().by_column.tolist(), strict=True))
                bad |= refused(reduction, counts, rows.num_numbers)
                imputed |= {name: count for name, count in counts.items() if count and name not in bad}
            with np.errstate(invalid="ignore", over="ignore"):
                outputs[reduction.output] = fitted.apply(rows)
        counted = SplitCounts(num_rows, int((~keep).sum()), imputed, bad)
        yield beam.pvalue.TaggedOutput(COUNTS, counted)
        dropped = self._config.dropped_features()
        names = [name for name in batch.schema.names if name not in dropped]
        arrays = [batch.column(batch.schema.get_field_index(name)) for name in names]
        arrays += [_list_array(values) for values in outputs.values()]
        yield pa.RecordBatch.from_arrays(arrays, [*names, *outputs])


def _list_array(values: npt.NDArray[np.float32]) -> pa.ListArray:
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values.ravel()))


def _one_hot(batch: pa.RecordBatch, one: OneHot, depth: int) -> Any:
    indices, lengths = _flat(batch, one.feature)
    weights = np.ones(len(indices), np.float32)
    if one.weights:
        weights, weight_lengths = _flat(batch, one.weights)
        if not np.array_equal(lengths, weight_lengths):
            row = int(np.argmax(lengths != weight_lengths))
            raise DataError(
                f"Feature {one.weights!r} must have one number for each index of {one.feature!r}; got a row "
                f"with {weight_lengths[row]} and {lengths[row]}."
            )
    owners = np.repeat(np.arange(batch.num_rows), lengths)
    inside = (indices >= 0) & (indices < depth)
    found = sparse.csr_matrix(
        (weights[inside].astype(np.float32), (owners[inside], indices[inside])),
        shape=(batch.num_rows, depth),
    )
    found.sum_duplicates()
    return found


def _flat(batch: pa.RecordBatch, name: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Returns all values of a list column and how many each row has."""
    position = batch.schema.get_field_index(name)
    if position < 0 or pa.types.is_null(batch.column(position).type):
        return np.zeros(0, np.int64), np.zeros(batch.num_rows, np.int64)
    column = batch.column(position)
    lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return column.flatten().to_numpy(zero_copy_only=False), lengths
