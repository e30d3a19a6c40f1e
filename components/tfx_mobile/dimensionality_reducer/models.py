"""Fitted reductions: arrays that were fitted, and how they are applied to rows.

`apply` is written once for NumPy and for TensorFlow: it only uses the rows' own methods (rows.Rows and
tensor_rows.TensorRows have the same ones), operators, and the functions of `rows.ops`. So the written
Examples and the graph that the phone runs cannot differ but in the last bits of float32.
"""

import dataclasses
from typing import Any

import numpy as np
from scipy import special

from tfx_mobile.dimensionality_reducer.rows import Float32Array, FloatArray

_TINY = 1e-30  # keeps 0 / 0 from being NaN; float32 holds it, and no sum of products is as small
_RIDGE = 1e-6  # share of the largest eigenvalue that float32 still tells from 0
_LEAST = 1e-5  # share of what a part would have if it were the only one
_START_STEPS = 20  # to within 1e-3 of the least squared error on parts of a condition number up to 100
_UNEXPLAINED = float(np.finfo(np.float64).eps)  # scikit-learn's: less than this no topic explains


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


@dataclasses.dataclass(frozen=True)
class Parts:
    """The amounts w >= 0 of non-negative parts that a row is the sum of: argmin |x - w @ parts|^2.

    Found by a fixed number of multiplicative updates (Lee and Seung 2001, theorem 1), each of which brings
    the sum nearer to the row or leaves it, from a start that is near already. Numbers below 0 count as 0.

    Attributes:
      parts: Shape (k, d), float64, not negative.
      num_updates: How many updates.
    """

    parts: FloatArray
    num_updates: int

    @property
    def num_outputs(self) -> int:
        """The width of the output."""
        return len(self.parts)

    def apply(self, rows: Any) -> Any:
        """Returns the amounts, shape (n, k), float32."""
        ops = rows.ops
        overlaps = rows.nonnegative().project(
            np.zeros(rows.num_numbers, np.float32),
            self.parts.T.astype(np.float32),
            np.zeros(self.num_outputs, np.float32),
        )
        # Weights of one-hot vectors are not looked at one by one; what they sum to is.
        overlaps = ops.positive(overlaps)
        gram = self.parts @ self.parts.T
        # A little above 0, since no update leaves 0; but 0 where the row has nothing of the part.
        least = overlaps * ops.constant(_LEAST / np.maximum(np.diag(gram), _TINY))
        products = ops.constant(gram)
        (found,) = ops.repeat(
            self.num_updates,
            lambda amounts: (amounts * (overlaps / (amounts @ products + _TINY)),),
            (ops.maximum(self._start(ops, overlaps, gram), least),),
        )
        return found

    def _start(self, ops: Any, overlaps: Any, gram: FloatArray) -> Any:
        """Returns amounts near the best ones, from which the updates, which are slow, have little to do.

        Alternating directions (Boyd et al. 2011, section 5.2), which does not come nearer in every step.
        """
        eigenvalues = np.linalg.eigvalsh(gram)
        penalty = np.sqrt(max(eigenvalues[0], _RIDGE * eigenvalues[-1]) * eigenvalues[-1])
        solve = np.linalg.inv(gram + penalty * np.eye(len(gram)))
        # What stays the same over the steps is multiplied once.
        fixed, moving = overlaps @ ops.constant(solve), ops.constant(penalty * solve)

        def step(found: Any, excess: Any) -> tuple[Any, Any]:
            free = fixed + (found - excess) @ moving
            nearer = ops.maximum(free + excess, 0.0)
            return nearer, excess + free - nearer

        start = ops.maximum(fixed + fixed @ moving, 0.0)
        return ops.repeat(_START_STEPS, step, (start, overlaps * 0.0))[0]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """y = (k(x) - mean_kernel) @ matrix, where k(x)_i = exp(-gamma |z - landmark_i|^2).

    z is (numbers - mean, counts) * scale.

    Attributes:
      mean: Shape (d,), float64; of the numbers.
      scale: Shape (d,), float64; 1 / deviation of each column, or 1.
      landmarks: Shape (m, d), float64, as z.
      gamma: Of the kernel.
      mean_kernel: Shape (m,), float64, the mean of k over the rows of the fit.
      matrix: Shape (m, k), float64.
    """

    mean: FloatArray
    scale: FloatArray
    landmarks: FloatArray
    gamma: float
    mean_kernel: FloatArray
    matrix: FloatArray

    @property
    def num_outputs(self) -> int:
        """The width of the output."""
        return int(self.matrix.shape[1])

    def apply(self, rows: Any) -> Any:
        """Returns the components, shape (n, k), float32."""
        ops = rows.ops
        centre, scale = self.mean[: rows.num_numbers].astype(np.float32), self.scale.astype(np.float32)
        # The rows are centred by the rounded mean, so what rounding took off is put on the landmarks.
        landmarks = self.landmarks.copy()
        landmarks[:, : rows.num_numbers] += (self.mean[: rows.num_numbers] - centre) * scale[
            : rows.num_numbers
        ]
        # |z - l|^2 = |z|^2 - 2 z.l + |l|^2; rounding can bring it below 0.
        products = rows.project(
            centre,
            (-2 * scale[:, None] * landmarks.T).astype(np.float32),
            (landmarks**2).sum(axis=1).astype(np.float32),
        )
        norms = rows.squared_norms(centre, scale)
        kernel = ops.exp(ops.positive(products + norms) * -np.float32(self.gamma))
        found = (kernel - ops.constant(self.mean_kernel)) @ ops.constant(self.matrix)
        # 0, or NaN where a number is not finite, which TFLite's exp loses; norms - norms would be simplified.
        return found + ops.positive(-norms)


@dataclasses.dataclass(frozen=True)
class Topics:
    """The share of each topic in a row of counts; shares sum to 1.

    A fixed number of variational updates (Hoffman, Blei and Bach 2010, algorithm 1, E step), all starting
    from gamma = 1. A row without counts gets 1 / k of each topic. Numbers below 0 count as 0.

    Attributes:
      weights: Shape (k, d), float64: exp(E[log beta]), how readily each topic gives each word.
      prior: Of a topic in a row (alpha).
      num_updates: How many updates.
    """

    weights: FloatArray
    prior: float
    num_updates: int

    @property
    def num_outputs(self) -> int:
        """The width of the output."""
        return len(self.weights)

    def apply(self, rows: Any) -> Any:
        """Returns the shares, shape (n, k), float32."""
        ops, counts, weights = rows.ops, rows.nonnegative(), self.weights.astype(np.float32)
        # In the first update every topic has the same share, so that it is a projection.
        equal = np.exp(special.digamma(1.0) - special.digamma(self.num_outputs))
        first = equal * self.weights / (equal * self.weights.sum(axis=0) + _UNEXPLAINED)
        found = counts.project(
            np.zeros(rows.num_numbers, np.float32),
            first.T.astype(np.float32),
            np.zeros(self.num_outputs, np.float32),
        )
        # Weights of one-hot vectors are not looked at one by one; what they sum to is.

        def update(gamma: Any) -> tuple[Any]:
            both = _digamma(ops, ops.join([gamma, ops.sum(gamma)]))
            shares = ops.exp(both[:, : self.num_outputs] - both[:, self.num_outputs :])
            return (ops.positive(counts.divide_among(shares, weights, _UNEXPLAINED)) + self.prior,)

        (gamma,) = ops.repeat(self.num_updates - 1, update, (ops.positive(found) + self.prior,))
        return gamma / ops.sum(gamma)


def _digamma(ops: Any, x: Any) -> Any:
    """Returns the derivative of log Gamma for x > 0, to 1e-6 of max(1, |digamma|) in float32.

    Six steps of the recurrence, all at once, then the asymptotic series (Abramowitz and Stegun 1964, 6.3.6
    and 6.3.18), whose first term left out is below 3e-9.
    """
    # 1/x + ... + 1/(x+5), in pairs that have the same numerator: x(x+5), (x+1)(x+4) and (x+2)(x+3).
    product = x * (x + 5.0)
    steps = (2.0 * x + 5.0) * (1.0 / product + 1.0 / (product + 4.0) + 1.0 / (product + 6.0))
    inverse = 1.0 / (x + 6.0)
    square = inverse * inverse
    series = square * (1.0 / 12.0 - square * (1.0 / 120.0 - square * (1.0 / 252.0)))
    return ops.log(x + 6.0) - 0.5 * inverse - series - steps


@dataclasses.dataclass(frozen=True)
class Selection:
    """Some of the columns as they are.

    Attributes:
      columns: Their indices, rising.
    """

    columns: tuple[int, ...]

    @property
    def num_outputs(self) -> int:
        """The width of the output."""
        return len(self.columns)

    def apply(self, rows: Any) -> Any:
        """Returns the columns, shape (n, k), float32."""
        return rows.select(self.columns)


Model = Linear | Selection | Parts | Kernel | Topics


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A fitted reduction and what its report says.

    Attributes:
      model: What is applied to rows.
      columns: Names of the d columns.
      num_rows: Rows it was fitted on.
      fill: Shape (num_numbers,), float32: what stands in for numbers that are not finite; None if they are
        not imputed.
      loadings: Shape (d, k): the weight of each column in each output for linear ones (what multiplies it;
        of FastICA the unmixing matrix, of SparsePCA the sparse components), its weight in each part of NMF,
        and its probability in each topic.
      explained_variance: Shape (k,), of each output where the method has it.
      explained_variance_ratio: Shape (k,), its share of the variance of all columns, in [0, 1].
      all_variances: Shape (d,) or shorter, descending, for the scree plot; before the cut.
      total_variance: What all of them sum to, those that were not computed included; None where
        explained_variance_ratio says it.
      label_r2: Shape (k,), of partial least squares, the share of the label's variance that each explains.
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
    total_variance: float | None = None
    label_r2: FloatArray | None = None
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
