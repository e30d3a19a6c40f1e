"""What can be refused before a row is read, and the phrases that messages share.

`check` looks at settings, widths and the kind of the label alone. What only the rows show is refused by
statistics.py and by the methods themselves.
"""

import math
from collections.abc import Sequence

from tfx_mobile.common.errors import DataError
from tfx_mobile.dimensionality_reducer.config import (
    LDA,
    NMF,
    PCA,
    PLS,
    CorrelationFilter,
    FastICA,
    KernelPCA,
    LatentDirichletAllocation,
    RandomProjection,
    Reduction,
    Score,
    SelectKBest,
    SparsePCA,
    TruncatedSVD,
)
from tfx_mobile.dimensionality_reducer.histograms import num_bins

MAX_GIB = 4  # of memory that one reduction may take, gathering and fitting
# What gathering and fitting hold at their peak, measured and rounded up.
_BYTES_PER_PAIR = 80
_BYTES_PER_PAIR_OF_LDA = 128  # three covariances and their roots
_BYTES_PER_VALUE = 64
_BYTES_PER_WEIGHT = 48
_SHOWN = 3  # columns that a message names, of many


def check(
    reduction: Reduction,
    width: int,
    *,
    num_numbers: int = 0,
    label_is_text: bool = False,
    label_key: str = "",
) -> None:
    """Raises DataError if a reduction is known to fail whatever the rows.

    Args:
      reduction: The method and its settings.
      width: Columns of its inputs.
      num_numbers: How many of them are numbers, not one-hot.
      label_is_text: Whether the label is a string.
      label_key: Name of the label.
    """
    _check_components(reduction, width)
    if label_is_text and _needs_number(reduction):
        raise DataError(
            f"{reduction.name} needs a label that is a number; {label_key!r} is text. Make a number of it in "
            "preprocessing_fn."
        )
    _check_memory(reduction, width, num_numbers)


def check_projection(config: RandomProjection, width: int, num_outputs: int) -> None:
    """Raises DataError if a random matrix would not fit into memory.

    Args:
      config: The method.
      width: Columns of its inputs.
      num_outputs: How many directions, given or from the lemma.
    """
    _check_fits(
        config.name,
        _BYTES_PER_WEIGHT,
        "weight",
        ("columns", width),
        ("directions", num_outputs),
        "Give n_components, or a smaller one, or a smaller depth of OneHot.",
    )


def check_rows(method: str, num_rows: int, least: int) -> None:
    """Raises DataError if there are too few rows.

    Args:
      method: Name of the method that needs them.
      num_rows: Rows of the fit.
      least: How many it needs.
    """
    if num_rows < least:
        raise DataError(
            f"{method} needs at least {least} row{'s' * (least > 1)} in split 'train'; got {num_rows}."
        )


def subject(columns: Sequence[str], one: str = "is", many: str = "are") -> str:
    """Returns the start of a sentence about columns, of which at most four are named, with its verb.

    >>> subject(["a"]), subject(["a", "b"]), subject(["a"] * 3000, "does", "do")
    ('a is', 'a and b are', 'a, a, a and 2,997 more do')
    """
    if len(columns) == 1:
        return f"{columns[0]} {one}"
    named, last = list(columns[:-1]), columns[-1]
    if len(columns) > _SHOWN + 1:
        named, last = list(columns[:_SHOWN]), f"{len(columns) - _SHOWN:,} more"
    return f"{', '.join(named)} and {last} {many}"


def _check_components(reduction: Reduction, width: int) -> None:
    setting, wanted = "n_components", None
    match reduction:
        case SelectKBest():
            setting, wanted = "k", reduction.k
        case PCA() | TruncatedSVD():
            wanted = reduction.n_components if isinstance(reduction.n_components, int) else None
        case LDA() | PLS() | RandomProjection():
            wanted = reduction.n_components
        case FastICA() | SparsePCA() | NMF():
            wanted = reduction.n_components
    if wanted is not None and wanted > width:
        raise DataError(
            f"{reduction.name}.{setting} must be at most {width}, the width of its inputs; got {wanted}."
        )


def _needs_number(reduction: Reduction) -> bool:
    by_f_test = isinstance(reduction, SelectKBest) and reduction.score is Score.F_REGRESSION
    return by_f_test or isinstance(reduction, PLS)


def _check_memory(reduction: Reduction, width: int, num_numbers: int) -> None:
    match reduction:
        case PCA() | TruncatedSVD() | LDA() | PLS() | CorrelationFilter() | SparsePCA():
            _check_pairs(reduction, width)
        case SelectKBest(score=Score.MUTUAL_INFO):
            num_bins(width)
        case RandomProjection():
            check_projection(reduction, width, reduction.n_components or 1)
    match reduction:
        case FastICA() | SparsePCA() | KernelPCA():
            _check_sample(reduction, reduction.sample_rows, width)
        case NMF() | LatentDirichletAllocation():
            _check_sample(reduction, reduction.sample_rows, num_numbers)
            _check_fits(
                reduction.name,
                _BYTES_PER_WEIGHT,
                "weight",
                ("columns", width),
                ("n_components", reduction.n_components),
                "Give a smaller n_components or a smaller depth of OneHot.",
            )


def _check_pairs(reduction: Reduction, width: int) -> None:
    bytes_each = _BYTES_PER_PAIR_OF_LDA if isinstance(reduction, LDA) else _BYTES_PER_PAIR
    limit = math.isqrt(MAX_GIB * 2**30 // bytes_each)
    if width > limit:
        raise DataError(
            f"{reduction.name} takes {bytes_each} bytes for each pair of columns, so that {limit} fit "
            f"into {MAX_GIB} GiB; got {width}. Use SparseRandomProjection, VarianceThreshold or SelectKBest "
            "by an F-test, or a smaller depth of OneHot."
        )


def _check_sample(reduction: Reduction, sample_rows: int, width: int) -> None:
    _check_fits(
        reduction.name,
        _BYTES_PER_VALUE,
        "number of its sample",
        ("sample_rows", sample_rows),
        ("columns", width),
        "Give fewer sample_rows or a smaller depth of OneHot, or use SparseRandomProjection.",
    )


def _check_fits(
    method: str, bytes_each: int, of: str, one: tuple[str, int], other: tuple[str, int], instead: str
) -> None:
    limit = MAX_GIB * 2**30 // bytes_each
    if one[1] * other[1] > limit:
        raise DataError(
            f"{method} takes {bytes_each} bytes for each {of}, {one[0]} x {other[0]}, of which {limit} fit "
            f"into {MAX_GIB} GiB; got {one[1]} x {other[1]}. {instead}"
        )
