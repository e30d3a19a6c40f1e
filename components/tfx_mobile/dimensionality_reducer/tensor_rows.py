"""Rows of a reduction's inputs as tensors: the interface of rows.Rows inside a TensorFlow graph.

Only operations that TFLite has as built-ins.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfx_mobile.dimensionality_reducer.config import Input, OneHot, Reduction
from tfx_mobile.dimensionality_reducer.rows import Float32Array


@dataclasses.dataclass(frozen=True)
class _Indices:
    """One-hot vectors that are not written out.

    Attributes:
      rows: Shape (m,), the row each index belongs to; None where every row has the same number.
      indices: Shape (m,), or (n, width) with a fixed number a row; int32 in [0, depth], depth for none.
      weights: Of the indices' shape, float32, or None for 1.
      depth: Length of a vector.
    """

    rows: Any
    indices: Any
    weights: Any
    depth: int

    def matmul(self, matrix: Float32Array, num_rows: Any) -> Any:
        """Returns counts @ matrix, shape (n, k)."""
        padded = tf.constant(np.concatenate([matrix, np.zeros((1, matrix.shape[1]))]), tf.float32)
        found = tf.gather(padded, self.indices)
        if self.weights is not None:
            found = found * self.weights[..., tf.newaxis]
        if self.rows is None:
            return tf.reduce_sum(found, axis=1)
        return tf.math.unsorted_segment_sum(found, self.rows, num_rows)

    def dense(self, num_rows: Any) -> Any:
        """Returns the vectors written out, shape (n, depth)."""
        rows = self._rows(num_rows)
        weights = tf.ones_like(self.indices, tf.float32) if self.weights is None else self.weights
        width = self.depth + 1
        places = tf.reshape(rows * width + self.indices, (-1,))
        written = tf.math.unsorted_segment_sum(tf.reshape(weights, (-1,)), places, num_rows * width)
        return tf.reshape(written, (-1, width))[:, : self.depth]

    def only(self, chosen: npt.NDArray[np.int64]) -> "_Indices":
        """Returns the vectors with these columns alone, by rising index."""
        places = np.full(self.depth + 1, len(chosen), np.int32)
        places[chosen] = np.arange(len(chosen))
        return dataclasses.replace(self, indices=tf.gather(places, self.indices), depth=len(chosen))

    def squared_norms(self, scale: Float32Array, num_rows: Any) -> Any:
        """Returns the squared lengths of the vectors times scale, shape (n, 1)."""
        if self.rows is not None:  # a row may have an index more than once: the square is of the sum
            return TensorOps.sum(tf.square(self.dense(num_rows) * scale))
        sizes = tf.gather(tf.constant(np.append(scale, 0), tf.float32), self.indices)
        sizes = sizes if self.weights is None else sizes * self.weights
        are_same = tf.cast(self.indices[:, :, tf.newaxis] == self.indices[:, tf.newaxis, :], tf.float32)
        products = sizes[:, :, tf.newaxis] * sizes[:, tf.newaxis, :] * are_same
        return tf.reduce_sum(products, axis=[1, 2])[:, tf.newaxis]

    def divide_among(self, shares: Any, matrix: Float32Array, floor: float, num_rows: Any) -> Any:
        """Returns what Rows.divide_among does, without the factor `shares`; shape (n, k)."""
        padded = np.concatenate([matrix.T, np.zeros((1, len(matrix)))])
        weights = tf.gather(tf.constant(padded, tf.float32), self.indices)
        of_owner = shares[:, tf.newaxis, :] if self.rows is None else tf.gather(shares, self.rows)
        explained = tf.reduce_sum(weights * of_owner, axis=-1) + floor
        parts = 1.0 / explained if self.weights is None else self.weights / explained
        found = weights * parts[..., tf.newaxis]
        if self.rows is None:
            return tf.reduce_sum(found, axis=1)
        return tf.math.unsorted_segment_sum(found, self.rows, num_rows)

    def _rows(self, num_rows: Any) -> Any:
        return tf.range(num_rows)[:, tf.newaxis] if self.rows is None else self.rows


class TensorRows:
    """Some rows as tensors.

    Args:
      features: Transformed features, dense or sparse tensors.
      reduction: Which of them, in which order.
      widths: By input, its numbers per row.
    """

    def __init__(
        self, features: Mapping[str, Any], reduction: Reduction, widths: Mapping[Input, int]
    ) -> None:
        self.num_numbers = sum(widths[name] for name in reduction.numeric)
        parts = [
            tf.reshape(tf.cast(features[name], tf.float32), (-1, widths[name])) for name in reduction.numeric
        ]
        self._numbers = (tf.concat(parts, axis=1) if len(parts) > 1 else parts[0]) if parts else None
        self._indices = [_indices(features, one, widths[one]) for one in reduction.one_hot]
        self._num_rows = _num_rows(features[reduction.features[0]])

    @property
    def ops(self) -> Any:
        """The functions that arithmetic on these rows may use."""
        return TensorOps

    def imputed(self, fill: Float32Array) -> "TensorRows":
        """As rows.Rows.imputed."""
        found = object.__new__(TensorRows)
        found.__dict__.update(self.__dict__)
        if self._numbers is not None:
            # TFLite has no is_finite; NaN compares false.
            finite = tf.abs(self._numbers) <= np.finfo(np.float32).max
            found._numbers = tf.where(finite, self._numbers, tf.constant(fill, tf.float32))
        return found

    def nonnegative(self) -> "TensorRows":
        """As rows.Rows.nonnegative."""
        found = object.__new__(TensorRows)
        found.__dict__.update(self.__dict__)
        if self._numbers is not None:
            found._numbers = TensorOps.positive(self._numbers)
        return found

    def dense(self) -> Any:
        """As rows.Rows.dense."""
        parts = [] if self._numbers is None else [self._numbers]
        for one in self._indices:
            parts.append(one.dense(self._num_rows))
        return tf.concat(parts, axis=1) if len(parts) > 1 else parts[0]

    def select(self, columns: Sequence[int]) -> Any:
        """As rows.Rows.select."""
        chosen, start = np.asarray(columns, np.int64), self.num_numbers
        parts = []
        if len(numbers := chosen[chosen < start]):
            parts.append(tf.gather(self._numbers, numbers.astype(np.int32), axis=1))
        for one in self._indices:
            here = chosen[(chosen >= start) & (chosen < start + one.depth)] - start
            if len(here):
                parts.append(one.only(here).dense(self._num_rows))
            start += one.depth
        return tf.concat(parts, axis=1) if len(parts) > 1 else parts[0]

    def project(self, centre: Float32Array, matrix: Float32Array, offset: Float32Array) -> Any:
        """As rows.Rows.project."""
        total = tf.constant(offset, tf.float32)
        if self._numbers is not None:
            centred = self._numbers - tf.constant(centre, tf.float32)
            total = tf.matmul(centred, tf.constant(matrix[: self.num_numbers], tf.float32)) + total
        start = self.num_numbers
        for one in self._indices:
            total = one.matmul(matrix[start : start + one.depth], self._num_rows) + total
            start += one.depth
        return total

    def squared_norms(self, centre: Float32Array, scale: Float32Array) -> Any:
        """As rows.Rows.squared_norms."""
        parts = []
        if self._numbers is not None:
            scaled = (self._numbers - tf.constant(centre, tf.float32)) * scale[: self.num_numbers]
            parts.append(TensorOps.sum(scaled * scaled))
        start = self.num_numbers
        for one in self._indices:
            parts.append(one.squared_norms(scale[start : start + one.depth], self._num_rows))
            start += one.depth
        return tf.add_n(parts) if len(parts) > 1 else parts[0]

    def divide_among(self, shares: Any, matrix: Float32Array, floor: float) -> Any:
        """As rows.Rows.divide_among."""
        parts = []
        if self._numbers is not None:
            own = tf.constant(matrix[:, : self.num_numbers], tf.float32)
            explained = tf.matmul(shares, own) + floor
            parts.append(tf.matmul(self._numbers / explained, own, transpose_b=True))
        start = self.num_numbers
        for one in self._indices:
            own = matrix[:, start : start + one.depth]
            parts.append(one.divide_among(shares, own, floor, self._num_rows))
            start += one.depth
        return shares * (tf.add_n(parts) if len(parts) > 1 else parts[0])


class TensorOps:
    """The functions of rows.NumpyOps on tensors."""

    exp = staticmethod(tf.exp)
    log = staticmethod(tf.math.log)
    maximum = staticmethod(tf.maximum)

    @staticmethod
    def positive(value: Any) -> Any:
        """As rows.NumpyOps.positive."""
        return 0.5 * value + 0.5 * tf.abs(value)

    @staticmethod
    def repeat(times: int, step: Callable[..., tuple[Any, ...]], state: tuple[Any, ...]) -> tuple[Any, ...]:
        """As rows.NumpyOps.repeat; a loop in the graph, so that a step stands in the file once."""

        def body(i: Any, *parts: Any) -> tuple[Any, ...]:
            return i + 1, *step(*parts)

        return tuple(tf.while_loop(lambda i, *_: i < times, body, (tf.constant(0), *state))[1:])

    @staticmethod
    def join(parts: Sequence[Any]) -> Any:
        """Returns columns side by side."""
        return tf.concat(list(parts), axis=1)

    @staticmethod
    def constant(value: npt.ArrayLike) -> Any:
        """Returns the array as a float32 constant."""
        return tf.constant(np.asarray(value, np.float32))

    @staticmethod
    def sum(value: Any) -> Any:
        """Returns the sum over the columns, shape (n, 1)."""
        return tf.reduce_sum(value, axis=1, keepdims=True)


def _indices(features: Mapping[str, Any], one: OneHot, depth: int) -> _Indices:
    feature = features[one.feature]
    weights = features[one.weights] if one.weights else None
    if isinstance(feature, tf.SparseTensor):
        rows = tf.cast(feature.indices[:, 0], tf.int32)
        values, weights = feature.values, None if weights is None else weights.values
    else:
        rows, values = None, tf.reshape(feature, (-1, feature.shape[1:].num_elements()))
        weights = None if weights is None else tf.reshape(weights, (-1, weights.shape[1:].num_elements()))
    outside = tf.logical_or(values < 0, values >= depth)
    values = tf.cast(tf.where(outside, tf.constant(depth, values.dtype), values), tf.int32)
    return _Indices(rows, values, None if weights is None else tf.cast(weights, tf.float32), depth)


def _num_rows(feature: Any) -> Any:
    shape = feature.dense_shape if isinstance(feature, tf.SparseTensor) else tf.shape(feature)
    return tf.cast(shape[0], tf.int32)
