"""Rows of a reduction's inputs: a dense block of numbers and a sparse block of one-hot vectors.

Columns are the numeric features in the order of the settings, then the one-hot ones; so is every array of
the arithmetic. Does not read rows (beam.py) and does not know TensorFlow (tensor_rows.py has the same
interface over tensors).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tfx_mobile.common.hashing import mix

Float32Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class NotFiniteValues:
    """Where some rows are NaN or infinite.

    Attributes:
      by_column: Shape (d,), int64, how many values of each column are.
      in_numbers: Shape (n,), rows with such a number.
      in_counts: Shape (n,), rows with such a value in a one-hot vector, which comes from its weights.
    """

    by_column: npt.NDArray[np.int64]
    in_numbers: npt.NDArray[np.bool_]
    in_counts: npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some rows of width d = num_numbers + num_counts.

    Attributes:
      numbers: Shape (n, num_numbers), float32.
      counts: Sparse, shape (n, num_counts), float32: the sums of each row's one-hot vectors.
    """

    numbers: Float32Array
    counts: Any

    @classmethod
    def of(cls, numbers: npt.ArrayLike, counts: Any = None) -> "Rows":
        """Returns rows of these numbers, shape (n, num_numbers), and of these counts, dense or sparse."""
        dense = np.asarray(numbers, np.float32)
        if counts is None:
            counts = np.zeros((len(dense), 0))
        return cls(dense, sparse.csr_matrix(counts, dtype=np.float32))

    @property
    def num_rows(self) -> int:
        """How many rows these are."""
        return len(self.numbers)

    @property
    def num_numbers(self) -> int:
        """How many columns are numbers."""
        return int(self.numbers.shape[1])

    @property
    def width(self) -> int:
        """How many columns there are."""
        return self.num_numbers + int(self.counts.shape[1])

    @property
    def ops(self) -> "type[NumpyOps]":
        """The functions that arithmetic on these rows may use."""
        return NumpyOps

    def take(self, chosen: npt.NDArray[Any]) -> "Rows":
        """Returns the rows of these indices or of this mask."""
        return Rows(self.numbers[chosen], self.counts[chosen])

    def join(self, other: "Rows") -> "Rows":
        """Returns these rows and then the other ones."""
        return Rows(
            np.concatenate([self.numbers, other.numbers]),
            sparse.vstack([self.counts, other.counts], format="csr", dtype=np.float32),
        )

    def not_finite(self) -> "NotFiniteValues":
        """Returns how many values are NaN or infinite, and in which rows."""
        numbers = ~np.isfinite(self.numbers)
        entries = np.flatnonzero(~np.isfinite(self.counts.data))
        in_counts = np.zeros(self.num_rows, bool)
        in_counts[np.searchsorted(self.counts.indptr, entries, side="right") - 1] = True
        width = self.width - self.num_numbers
        by_count = np.bincount(self.counts.indices[entries], minlength=width)
        return NotFiniteValues(
            by_column=np.concatenate([numbers.sum(axis=0), by_count]),
            in_numbers=numbers.any(axis=1),
            in_counts=in_counts,
        )

    def all_finite(self) -> bool:
        """Returns whether no value is NaN or infinite."""
        return bool(np.isfinite(self.numbers).all() and np.isfinite(self.counts.data).all())

    def imputed(self, fill: Float32Array) -> "Rows":
        """Returns the rows with `fill`, shape (num_numbers,), in the place of numbers that are not finite."""
        return Rows(np.where(np.isfinite(self.numbers), self.numbers, fill), self.counts)

    def negatives(self) -> tuple[npt.NDArray[np.int64], Float32Array]:
        """Returns how many finite values of each column are below 0, and the smallest or 0; both (d,)."""
        numbers = np.where(np.isfinite(self.numbers), self.numbers, 0)
        data = self.counts.data
        below = np.flatnonzero((data < 0) & np.isfinite(data))
        columns, width = self.counts.indices[below], self.width - self.num_numbers
        smallest = np.zeros(width, np.float32)
        np.minimum.at(smallest, columns, data[below])
        return (
            np.concatenate([(numbers < 0).sum(axis=0), np.bincount(columns, minlength=width)]),
            np.concatenate([numbers.min(axis=0, initial=0), smallest]),
        )

    def nonnegative(self) -> "Rows":
        """Returns the rows with 0 in the place of numbers below 0."""
        return Rows(NumpyOps.positive(self.numbers), self.counts)

    def dense(self) -> Float32Array:
        """Returns all columns side by side, shape (n, d)."""
        if not self.counts.shape[1]:
            return self.numbers
        return np.concatenate([self.numbers, self.counts.toarray()], axis=1)

    def select(self, columns: Sequence[int]) -> Float32Array:
        """Returns some columns, by rising index, shape (n, k)."""
        chosen = np.asarray(columns, np.int64)
        numbers = self.numbers[:, chosen[chosen < self.num_numbers]]
        behind = chosen[chosen >= self.num_numbers] - self.num_numbers
        return np.concatenate([numbers, self.counts[:, behind].toarray()], axis=1) if len(behind) else numbers

    def project(self, centre: Float32Array, matrix: Float32Array, offset: Float32Array) -> Float32Array:
        """Returns (numbers - centre, counts) @ matrix + offset.

        Args:
          centre: Shape (num_numbers,).
          matrix: Shape (d, k).
          offset: Shape (k,).

        Returns:
          Shape (n, k), float32.
        """
        dense = self.num_numbers
        found = (self.numbers - centre) @ matrix[:dense] + offset
        if self.counts.shape[1]:
            found = found + self.counts @ matrix[dense:]
        return np.asarray(found, np.float32)

    def squared_norms(self, centre: Float32Array, scale: Float32Array) -> Float32Array:
        """Returns the squared length of (numbers - centre, counts) * scale.

        Args:
          centre: Shape (num_numbers,).
          scale: Shape (d,).

        Returns:
          Shape (n, 1), float32.
        """
        dense = self.num_numbers
        found = (((self.numbers - centre) * scale[:dense]) ** 2).sum(axis=1, keepdims=True)
        if self.counts.shape[1]:
            found = found + self.counts.power(2) @ (scale[dense:, None] ** 2)
        return np.asarray(found, np.float32)

    def divide_among(self, shares: Float32Array, matrix: Float32Array, floor: float) -> Float32Array:
        """Returns how much of each row each component gets, if components take by shares * matrix.

        That is shares * ((x / (shares @ matrix + floor)) @ matrix^T): a value goes to the components in
        proportion to what each explains of it.

        Args:
          shares: Shape (n, k), not negative.
          matrix: Shape (k, d), not negative.
          floor: Above 0; less than this does not count as an explanation.

        Returns:
          Shape (n, k), float32.
        """
        dense = self.num_numbers
        found = (self.numbers / (shares @ matrix[:, :dense] + floor)) @ matrix[:, :dense].T
        counts = self.counts
        if counts.shape[1]:
            by_column = np.ascontiguousarray(matrix[:, dense:].T)
            owners = np.repeat(np.arange(self.num_rows), np.diff(counts.indptr))
            explained = np.einsum("ek,ek->e", shares[owners], by_column[counts.indices]) + floor
            parts = (counts.data / explained, counts.indices, counts.indptr)
            found = found + sparse.csr_matrix(parts, counts.shape) @ by_column
        return np.asarray(shares * found, np.float32)

    def hashes(self, seed: int) -> npt.NDArray[np.uint64]:
        """Returns a hash of each row, shape (n,), that depends on nothing but its values and the seed.

        Zeros add nothing, so a row has one hash, whether its columns stand in the dense or the sparse block.
        Multilinear hashing of the values' bits (Lemire and Kaser 2014), then mixed (Steele et al. 2014).
        """
        draw = np.random.Generator(np.random.Philox(seed))
        odd = draw.integers(0, 2**64, self.width + 1, np.uint64) | np.uint64(1)
        total = _bits(self.numbers) @ odd[: self.num_numbers]
        counts = self.counts
        if counts.nnz:
            bits = _bits(counts.data) * odd[self.num_numbers + counts.indices]
            running = np.concatenate([np.zeros(1, np.uint64), np.cumsum(bits, dtype=np.uint64)])
            total += running[counts.indptr[1:]] - running[counts.indptr[:-1]]
        return mix(total + odd[-1])


class NumpyOps:
    """What models may use beside operators; tensor_rows.TensorOps is the same on tensors."""

    exp = staticmethod(np.exp)
    log = staticmethod(np.log)
    maximum = staticmethod(np.maximum)

    @staticmethod
    def positive(value: Float32Array) -> Float32Array:
        """Returns 0 in the place of what is below it, and NaN for NaN and -infinity.

        Written so that no runtime can lose the NaN: what maximum(NaN, 0) is, each decides for itself.
        """
        half = np.float32(0.5)
        return np.asarray(half * value + half * np.abs(value), np.float32)

    @staticmethod
    def repeat(times: int, step: Callable[..., tuple[Any, ...]], state: tuple[Any, ...]) -> tuple[Any, ...]:
        """Returns the state after so many steps, each of which takes the last one's parts."""
        for _ in range(times):
            state = step(*state)
        return state

    @staticmethod
    def join(parts: Sequence[Float32Array]) -> Float32Array:
        """Returns columns side by side."""
        return np.concatenate(parts, axis=1)

    @staticmethod
    def constant(value: npt.ArrayLike) -> Float32Array:
        """Returns the array as float32."""
        return np.asarray(value, np.float32)

    @staticmethod
    def sum(value: Float32Array) -> Float32Array:
        """Returns the sum over the columns, shape (n, 1)."""
        return np.asarray(np.sum(value, axis=1, keepdims=True), np.float32)


def _bits(values: Float32Array) -> npt.NDArray[np.uint64]:
    """Returns the bits of each value, 0 for both zeros and the same for every NaN."""
    bits = (np.where(np.isnan(values), np.float32(np.nan), values) + np.float32(0)).view(np.uint32)
    # Short numbers such as 1.0 have a long tail of zeros, of which the products keep every one; fill it.
    return (bits ^ (bits >> np.uint32(16))).astype(np.uint64)
