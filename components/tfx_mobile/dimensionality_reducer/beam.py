"""The two passes over the rows: gather moments, write reduced Examples. Batches only, never single rows."""

from collections.abc import Iterable, Mapping, Sequence

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.coders import example_coder

from tfx_mobile.common import examples
from tfx_mobile.common.errors import DataError
from tfx_mobile.dimensionality_reducer import core
from tfx_mobile.dimensionality_reducer.config import PCA, ReducerConfig
from tfx_mobile.dimensionality_reducer.core import Moments, Projection


class MomentsFn(beam.CombineFn):
    """Merges the moments of batches, in any order and any tree."""

    def __init__(self, width: int) -> None:
        self._width = width

    def create_accumulator(self) -> Moments:
        """Returns the moments of no rows."""
        return Moments.zero(self._width)

    def add_input(self, accumulator: Moments, batch: npt.NDArray[np.float64]) -> Moments:
        """Adds the rows of one batch, shape (n, d)."""
        return accumulator.merge(Moments.of(batch))

    def merge_accumulators(self, accumulators: Iterable[Moments]) -> Moments:
        """Merges partial results."""
        return core.merge_all(accumulators, self._width)

    def extract_output(self, accumulator: Moments) -> Moments:
        """Returns the moments of all rows."""
        return accumulator


def matrix(
    batch: pa.RecordBatch, inputs: Sequence[str], widths: Mapping[str, int]
) -> npt.NDArray[np.float32]:
    """Returns the input features of a batch side by side, shape (n, d), float32."""
    columns = examples.to_columns(batch, {name: (np.float32, (widths[name],)) for name in inputs})
    return np.concatenate([columns[name] for name in inputs], axis=1)


def fit(batches: beam.PCollection, reduction: PCA, widths: Mapping[str, int]) -> beam.PCollection:
    """Returns the moments of all rows for one reduction, a collection of one element."""
    width = sum(widths[name] for name in reduction.inputs)
    return (
        batches
        | f"Matrix[{reduction.output}]" >> beam.Map(lambda batch: matrix(batch, reduction.inputs, widths))
        | f"Moments[{reduction.output}]" >> beam.CombineGlobally(MomentsFn(width))
    )


class ReduceBatches(beam.DoFn):
    """Replaces the input features of each batch by the components and encodes the rows as tf.Examples."""

    def __init__(
        self,
        config: ReducerConfig,
        projections: Mapping[str, Projection],
        widths: Mapping[str, int],
        schema: schema_pb2.Schema,
        split: str,
    ) -> None:
        self._config, self._projections, self._widths = config, dict(projections), dict(widths)
        self._schema, self._split = schema, split

    def setup(self) -> None:
        """Makes the encoder, which does not travel."""
        self._encoder = example_coder.RecordBatchToExamplesEncoder(self._schema)

    def process(self, batch: pa.RecordBatch) -> Iterable[bytes]:
        """Yields the reduced rows of a batch, serialised."""
        dropped = self._config.dropped_features()
        names = [name for name in batch.schema.names if name not in dropped]
        arrays = [batch.column(batch.schema.get_field_index(name)) for name in names]
        for reduction in self._config.reductions:
            values = core.project(
                matrix(batch, reduction.inputs, self._widths), self._projections[reduction.output]
            )
            if not np.isfinite(values).all():
                raise DataError(
                    f"The inputs of {reduction.output!r} must be finite; got NaN or infinity in "
                    f"{int((~np.isfinite(values)).any(axis=1).sum())} of {len(values)} rows of a batch of "
                    f"split '{self._split}'. Clean them in preprocessing_fn."
                )
            names.append(reduction.output)
            arrays.append(
                pa.ListArray.from_arrays(
                    pa.array(np.arange(len(values) + 1) * values.shape[1], pa.int32()),
                    pa.array(values.ravel()),
                )
            )
        yield from self._encoder.encode(pa.RecordBatch.from_arrays(arrays, names))
