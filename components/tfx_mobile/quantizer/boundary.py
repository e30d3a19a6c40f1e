"""Rows at the edges of what a file may be given, made from drawn rows. Arrays in, arrays out.

A candidate is compared with the Keras model on them beyond the sample: conversions that agree in the middle
of the data may part where a value is largest, missing or unknown.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.common.errors import DataError

Columns = Mapping[str, npt.NDArray[Any]]
_MOST_DRAWN = 24
_UNSEEN = b"a value that is in no vocabulary"
_LONG = "Ünïcödé · 長い文字列 · 🚕\u200d👩🏽 · e\u0301 · ".encode() * 64  # 3,840 bytes; characters of 1 to 4


def boundary_rows(rows: Columns, missing: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """Returns rows at the edges: at most 30 different ones, the same for the same rows.

    They are, in this order: drawn rows that hold the smallest and the largest values of the numbers, those
    with most of them first, at most 24; a row with every number at its smallest and one with every number at
    its largest value; a row with every value missing; and rows with an unseen, an empty and a long Unicode
    text in every string feature. What such a row says nothing about is as in the first drawn row. Of
    a feature with several values a row, each position has a smallest and a largest value of its own.

    Args:
      rows: By feature, shape (rows, ...): numbers, or strings as objects of bytes; at least one row.
      missing: By feature, the value that stands for a missing one; it is no smallest or largest value, and
        features without one are never missing.

    Returns:
      By feature, shape (rows, ...), each with the dtype and row shape that it has in `rows`.

    Raises:
      DataError: There are no rows, or `missing` has a feature that they have not.
    """
    if not rows or not len(next(iter(rows.values()))):
        raise DataError("Boundary rows are made from drawn rows; got none. Draw at least one.")
    if unknown := sorted(set(missing) - set(rows)):
        raise DataError(
            f"A value that stands for a missing one must be of a feature that the rows have; {unknown[0]!r} "
            f"is not among {', '.join(sorted(rows))}."
        )
    edges = {name: _Edges.of(v, missing.get(name)) for name, v in rows.items() if v.dtype.kind in "biuf"}
    texts = [name for name in rows if name not in edges]
    base = {name: values[:1] for name, values in rows.items()}
    found = []
    if edges:
        found = [{name: v[[i]] for name, v in rows.items()} for i in _extreme_rows(edges.values())]
        found.append(base | {name: edge.low for name, edge in edges.items()})
        found.append(base | {name: edge.high for name, edge in edges.items()})
    if missing:
        found.append(base | {name: _filled(base[name], value) for name, value in missing.items()})
    if texts:
        known = {text for name in texts for text in rows[name].ravel().tolist()}
        unseen = _UNSEEN
        while unseen in known:
            unseen += b"'"
        found += [base | {name: _filled(base[name], text) for name in texts} for text in (unseen, b"", _LONG)]
    different = list({_key(row): row for row in found}.values())
    return {name: np.concatenate([row[name] for row in different]) for name in rows}


@dataclasses.dataclass(frozen=True)
class _Edges:
    """Where a feature's numbers end, missing ones and those that are not finite left out.

    Attributes:
      low: Shape of one row with a leading 1; the first drawn row's where a position has no values.
      high: Likewise.
      holds: Shape (rows, 2 * values of one row), which row holds which smallest and which largest value.
    """

    low: npt.NDArray[Any]
    high: npt.NDArray[Any]
    holds: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, values: npt.NDArray[Any], marker: Any) -> "_Edges":
        is_known = np.isfinite(values)
        if marker is not None:
            is_known &= values != marker
        ends, holds = [], []
        for rank in (np.argmin, np.argmax):
            # a position's first known value, or the first of all, stands in for those that are not known
            stand_in = np.take_along_axis(values, is_known.argmax(axis=0, keepdims=True), axis=0)
            known = np.where(is_known, values, stand_in)
            end = np.take_along_axis(known, rank(known, axis=0, keepdims=True), axis=0)
            ends.append(end)
            holds.append((is_known & (values == end)).reshape(len(values), -1))
        return cls(ends[0], ends[1], np.concatenate(holds, axis=1))


def _extreme_rows(edges: Iterable[_Edges]) -> list[int]:
    """Returns the rows with most of the smallest and largest values that no chosen row has, one by one."""
    holds = np.concatenate([edge.holds for edge in edges], axis=1)
    chosen: list[int] = []
    while holds.any() and len(chosen) < _MOST_DRAWN:
        best = int(holds.sum(axis=1).argmax())
        chosen.append(best)
        holds = holds[:, ~holds[best]]
    return chosen


def _filled(values: npt.NDArray[Any], value: Any) -> npt.NDArray[Any]:
    return np.full(values.shape, value, values.dtype)


def _key(row: Columns) -> tuple[Any, ...]:
    parts = (
        (name, values.tolist() if values.dtype == object else values.tobytes())
        for name, values in row.items()
    )
    return tuple((name, str(part)) for name, part in parts)
