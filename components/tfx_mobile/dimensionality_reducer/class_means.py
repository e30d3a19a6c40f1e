"""Count and mean of the columns by class of the label, mergeable in any order, float64.

With the moments of all rows this is what linear discriminants and the analysis of variance are made of: the
scatter between the classes comes from here, and the scatter within is the total less that. Memory is
O(classes x columns), and classes are few: a label with more of them than MAX_CLASSES is a measurement.
"""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tfx_mobile.common.errors import DataError
from tfx_mobile.dimensionality_reducer.rows import FloatArray, Rows

MAX_CLASSES = 1000


@dataclasses.dataclass(frozen=True)
class ClassMeans:
    """Of each class, its rows, and of each column the finite values and their mean.

    Attributes:
      labels: Shape (k,), the classes in rising order: whole numbers as float64, or bytes objects.
      num_rows: Shape (k,), int64.
      num_finite: Shape (k, d), int64, the values that are neither NaN nor infinite.
      means: Shape (k, d), of the finite values; 0 where there are none.
      num_fractions: Rows whose label is a number with a fraction; they belong to no class.
      is_continuous: Whether there were more than MAX_CLASSES; then all of the above is empty.
    """

    labels: npt.NDArray[Any]
    num_rows: npt.NDArray[np.int64]
    num_finite: npt.NDArray[np.int64]
    means: FloatArray
    num_fractions: int = 0
    is_continuous: bool = False

    @classmethod
    def zero(cls, width: int) -> "ClassMeans":
        """Returns the means of no rows."""
        nothing = np.zeros((0, width))
        return cls(np.zeros(0), np.zeros(0, np.int64), nothing.astype(np.int64), nothing)

    @classmethod
    def of(cls, rows: Rows, labels: npt.NDArray[Any]) -> "ClassMeans":
        """Returns the means of these rows.

        Args:
          rows: Shape (n, d); numbers may be NaN or infinite.
          labels: Shape (n,), finite float64 or bytes objects.
        """
        num_fractions = 0
        if labels.dtype != object:
            whole = labels == np.floor(labels)
            if not whole.all():
                num_fractions = int((~whole).sum())
                rows, labels = rows.take(whole), labels[whole]
        if not rows.num_rows:
            return dataclasses.replace(cls.zero(rows.width), num_fractions=num_fractions)
        classes, which, num_rows = np.unique(labels, return_inverse=True, return_counts=True)
        if len(classes) > MAX_CLASSES:
            return cls._continuous(rows.width, num_fractions)
        members = sparse.csr_matrix(
            (np.ones(rows.num_rows), (which, np.arange(rows.num_rows))), (len(classes), rows.num_rows)
        )
        values = rows.numbers.astype(np.float64)
        finite = np.isfinite(values)
        if finite.all():
            num_finite = np.repeat(num_rows[:, None], rows.num_numbers, axis=1)
        else:
            values = np.where(finite, values, 0.0)
            num_finite = np.rint(members @ finite.astype(np.float64)).astype(np.int64)
        # Nothing is centred first: sums of a batch of float32 values that are alike are exact in float64.
        means = (members @ values) / np.maximum(num_finite, 1)
        if rows.counts.shape[1]:
            count_sums = (members @ rows.counts.astype(np.float64)).toarray()
            means = np.concatenate([means, count_sums / num_rows[:, None]], axis=1)
            num_counts = np.repeat(num_rows[:, None], rows.counts.shape[1], axis=1)
            num_finite = np.concatenate([num_finite, num_counts], axis=1)
        return cls(classes, num_rows.astype(np.int64), num_finite, means, num_fractions)

    @classmethod
    def _continuous(cls, width: int, num_fractions: int) -> "ClassMeans":
        return dataclasses.replace(cls.zero(width), num_fractions=num_fractions, is_continuous=True)

    def merge(self, other: "ClassMeans") -> "ClassMeans":
        """Returns the means of both sets of rows together."""
        width = self.means.shape[1]
        num_fractions = self.num_fractions + other.num_fractions
        if self.is_continuous or other.is_continuous:
            return self._continuous(width, num_fractions)
        if not len(self.labels) or not len(other.labels):
            return dataclasses.replace(self if len(self.labels) else other, num_fractions=num_fractions)
        classes = np.union1d(self.labels, other.labels)
        if len(classes) > MAX_CLASSES:
            return self._continuous(width, num_fractions)
        one, two = self._spread(classes), other._spread(classes)
        num_finite = one.num_finite + two.num_finite
        share = two.num_finite / np.maximum(num_finite, 1)
        # The mean of no values is written 0, which must not pull at the other one's.
        shift = np.where(one.num_finite > 0, two.means - one.means, 0.0) * share
        means = np.where(one.num_finite > 0, one.means, two.means) + shift
        return ClassMeans(classes, one.num_rows + two.num_rows, num_finite, means, num_fractions)

    def _spread(self, classes: npt.NDArray[Any]) -> "ClassMeans":
        """Returns the same for more classes, with no rows of the new ones."""
        at = np.searchsorted(classes, self.labels)
        width = self.means.shape[1]
        found = ClassMeans(
            classes,
            np.zeros(len(classes), np.int64),
            np.zeros((len(classes), width), np.int64),
            np.zeros((len(classes), width)),
        )
        found.num_rows[at], found.num_finite[at], found.means[at] = self.num_rows, self.num_finite, self.means
        return found

    def check(self, method: str, label_key: str) -> None:
        """Raises DataError if the label has no classes to tell apart.

        Args:
          method: Name of the method that needs them.
          label_key: Name of the label.
        """
        what = f"{method} needs a label of classes, whole numbers or strings"
        instead = "Use PLS or Score.F_REGRESSION for a measurement, or bucketise it in preprocessing_fn."
        if self.num_fractions:
            raise DataError(
                f"{what}; got {self.num_fractions} rows in split 'train' where {label_key!r} has a fraction. "
                f"{instead}"
            )
        if self.is_continuous:
            raise DataError(
                f"{what}, at most {MAX_CLASSES} of them; got more in {label_key!r} in split 'train', which "
                f"looks continuous. {instead}"
            )
        if len(self.labels) < 2:
            names = ", ".join(_name(label) for label in self.labels)
            raise DataError(
                f"{method} needs at least 2 classes in split 'train'; got {len(self.labels)} in "
                f"{label_key!r}: {names}. Check the label, or the filter that made the split."
            )

    def deviations(self, mean: FloatArray) -> FloatArray:
        """Returns the means of the classes less that of all rows, shape (k, d).

        Values that are not finite count as the mean of all rows.

        Args:
          mean: Shape (d,), of all rows.
        """
        shares = self.num_finite / self.num_rows[:, None]
        return np.asarray((self.means - mean) * shares)


def _name(label: Any) -> str:
    return repr(label.decode("utf-8", "replace")) if isinstance(label, bytes) else f"{label:g}"
