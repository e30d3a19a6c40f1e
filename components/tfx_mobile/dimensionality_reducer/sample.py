"""A bounded random sample of different rows that is the same however the rows are sharded and ordered.

The rows with the smallest hashes of their content stay, each with the number of times it occurs (bottom-k
or KMV sampling: Cohen and Kaplan 2007). A row that once falls out can never come back, so counts are exact.
"""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.dimensionality_reducer.rows import Rows


@dataclasses.dataclass(frozen=True)
class Sample:
    """At most `size` different rows, by rising hash.

    Attributes:
      size: The bound.
      seed: Of the hash.
      rows: What they hold.
      labels: Shape (n,), float64 or bytes objects; NaN without a label.
      occurrences: Shape (n,), int64, how many rows like it there are.
      hashes: Shape (n,), uint64, rising, no two alike.
    """

    size: int
    seed: int
    rows: Rows
    labels: npt.NDArray[Any]
    occurrences: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint64]

    @classmethod
    def of(
        cls, rows: Rows, labels: npt.NDArray[Any], size: int, seed: int, *, below: int | None = None
    ) -> "Sample":
        """Returns the sample of these rows.

        Args:
          rows: Any number of them.
          labels: Shape (n,).
          size: The bound, at least 1.
          seed: Of the hash.
          below: Rows with hashes above it cannot stay (the largest of a full sample to merge with).
        """
        hashes = rows.hashes(seed)
        if below is not None:
            inside = np.flatnonzero(hashes <= np.uint64(below))
            rows, labels, hashes = rows.take(inside), labels[inside], hashes[inside]
        return _smallest(size, seed, rows, labels, np.ones(len(hashes), np.int64), hashes)

    def merge(self, other: "Sample") -> "Sample":
        """Returns the sample of both sets of rows together."""
        return _smallest(
            self.size,
            self.seed,
            self.rows.join(other.rows),
            np.concatenate([self.labels, other.labels]),
            np.concatenate([self.occurrences, other.occurrences]),
            np.concatenate([self.hashes, other.hashes]),
        )

    def add(self, rows: Rows, labels: npt.NDArray[Any]) -> "Sample":
        """Returns the sample with these rows as well."""
        full = len(self.hashes) == self.size
        new = Sample.of(rows, labels, self.size, self.seed, below=int(self.hashes[-1]) if full else None)
        return self.merge(new) if len(new.hashes) else self

    def repeated(self, limit: int) -> Rows:
        """Returns each row as often as it occurs; where that makes more than `limit` rows, `limit` of them.

        Those are a systematic sample of all (Madow 1949), so that each row's share stays as it is to within
        one row; a rare one may fall out.
        """
        times = self.occurrences
        upto = np.cumsum(times)
        if len(upto) and upto[-1] > limit:
            times = np.diff(upto * limit // upto[-1], prepend=0)
        return self.rows.take(np.repeat(np.arange(len(times)), times))


def _smallest(
    size: int,
    seed: int,
    rows: Rows,
    labels: npt.NDArray[Any],
    occurrences: npt.NDArray[np.int64],
    hashes: npt.NDArray[np.uint64],
) -> Sample:
    # Of equal rows the one with the smallest label stands for all, whichever came first.
    ranks = np.unique(labels, return_inverse=True)[1]
    order = np.lexsort((ranks, hashes))
    kept, first = np.unique(hashes[order], return_index=True)
    totals = np.add.reduceat(occurrences[order], first) if len(first) else occurrences
    chosen = order[first[:size]]
    return Sample(size, seed, rows.take(chosen), labels[chosen], totals[:size], kept[:size])
