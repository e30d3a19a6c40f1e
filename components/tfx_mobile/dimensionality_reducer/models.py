"""Fitted reductions: arrays that were fitted, and how they are applied to rows.

`apply` is written once for NumPy and for TensorFlow: it only uses the rows' own methods (rows.Rows and
tensor_rows.TensorRows have the same ones), operators, and the functions of `rows.ops`. So the written
Examples and the graph that the phone runs cannot differ but in the last bits of float32.
"""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Linear:
    """y = (x - mean) @ matrix.

    Attributes:
      mean: Shape (d,), float64.
      matrix: Shape (d, k), float64; the scale of each column and, if asked for, of each component are in it.
    """

    mean: FloatArray
    matrix: FloatArray

    @property
    def num_outputs(self) -> int:
        """The width of the output."""
        return int(self.matrix.shape[1])

    def apply(self, rows: Any) -> Any:
        """Returns the components, shape (n, k), float32."""
        # Numbers are centred in float32, which is exact near the mean; what rounding the mean took off
        # goes into the offset. Counts are not centred row by row but in the offset.
        centre = np.zeros(len(self.mean))
        centre[: rows.num_numbers] = self.mean[: rows.num_numbers].astype(np.float32)
        offset = (centre - self.mean) @ self.matrix
        return rows.project(
            centre[: rows.num_numbers].astype(np.float32),
            self.matrix.astype(np.float32),
            offset.astype(np.float32),
        )


Model = Linear


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A fitted reduction and what its report says.

    Attributes:
      model: What is applied to rows.
      columns: Names of the d columns.
      num_rows: Rows it was fitted on.
      fill: Shape (num_numbers,), float32: what stands in for numbers that are not finite; None if they are
        not imputed.
      loadings: Shape (d, k): the weight of each column in each output, for linear ones.
      explained_variance: Shape (k,), of each output where the method has it.
      explained_variance_ratio: Shape (k,), its share of the variance of all columns, in [0, 1].
      all_variances: Shape (d,) or shorter, descending, for the scree plot; before the cut.
      kept: Of a selection, the columns that stay.
      dropped: Of a selection, by column that goes, the reason.
      scores: Of a selection, by column, what it was ranked by.
      notes: Sentences a reader of the report should see.
    """

    model: Model
    columns: list[str]
    num_rows: int
    fill: Float32Array | None = None
    loadings: FloatArray | None = None
    explained_variance: FloatArray | None = None
    explained_variance_ratio: FloatArray | None = None
    all_variances: FloatArray | None = None
    kept: tuple[str, ...] = ()
    dropped: dict[str, str] = dataclasses.field(default_factory=dict)
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def num_outputs(self) -> int:
        """The width of the output."""
        return self.model.num_outputs

    def apply(self, rows: Any) -> Any:
        """Returns the output of rows (rows.Rows or tensor_rows.TensorRows), shape (n, k), float32."""
        return self.model.apply(rows if self.fill is None else rows.imputed(self.fill))
