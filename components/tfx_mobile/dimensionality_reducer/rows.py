"""Rows of a reduction's inputs: a dense block of numbers and a sparse block of one-hot vectors.

Columns are the numeric features in the order of the settings, then the one-hot ones; so is every array of
the arithmetic. Does not read rows (beam.py) and does not know TensorFlow (tf_rows.py has the same interface
over tensors).
"""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

Float32Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]


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

    def not_finite(self) -> npt.NDArray[np.bool_]:
        """Returns where values are NaN or infinite, shape (n, d); only called where there are some."""
        counts = self.counts.copy()
        counts.data = (~np.isfinite(counts.data)).astype(np.float32)
        return np.concatenate([~np.isfinite(self.numbers), counts.toarray() > 0], axis=1)

    def all_finite(self) -> bool:
        """Returns whether no value is NaN or infinite."""
        return bool(np.isfinite(self.numbers).all() and np.isfinite(self.counts.data).all())

    def imputed(self, fill: Float32Array) -> "Rows":
        """Returns the rows with `fill`, shape (num_numbers,), in the place of numbers that are not finite."""
        return Rows(np.where(np.isfinite(self.numbers), self.numbers, fill), self.counts)

    def dense(self) -> Float32Array:
        """Returns all columns side by side, shape (n, d)."""
        if not self.counts.shape[1]:
            return self.numbers
        return np.concatenate([self.numbers, self.counts.toarray()], axis=1)

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

    def hashes(self, seed: int) -> npt.NDArray[np.uint64]:
        """Returns a hash of each row, shape (n,), that depends on nothing but its values and the seed.

        Multilinear hashing of the values' bits (Lemire and Kaser 2014), then mixed (Steele et al. 2014).
        """
        draw = np.random.Generator(np.random.Philox(seed))
        odd = draw.integers(0, 2**64, self.width + 1, np.uint64) | np.uint64(1)
        numbers = np.where(np.isnan(self.numbers), np.float32(np.nan), self.numbers) + np.float32(0)  # no -0
        total = numbers.view(np.uint32).astype(np.uint64) @ odd[: self.num_numbers]
        counts = self.counts
        if counts.nnz:
            bits = counts.data.view(np.uint32).astype(np.uint64) * odd[self.num_numbers + counts.indices]
            running = np.concatenate([np.zeros(1, np.uint64), np.cumsum(bits, dtype=np.uint64)])
            total += running[counts.indptr[1:]] - running[counts.indptr[:-1]]
        return mix(total + odd[-1])


class NumpyOps:
    """What models may use beside operators; tensor_rows.TensorOps is the same on tensors."""

    exp = staticmethod(np.exp)
    log = staticmethod(np.log)
    maximum = staticmethod(np.maximum)

    @staticmethod
    def constant(value: npt.ArrayLike) -> Float32Array:
        """Returns the array as float32."""
        return np.asarray(value, np.float32)

    @staticmethod
    def sum(value: Float32Array) -> Float32Array:
        """Returns the sum over the columns, shape (n, 1)."""
        return np.asarray(np.sum(value, axis=1, keepdims=True), np.float32)


def mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Returns values of which every bit depends on all bits (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
