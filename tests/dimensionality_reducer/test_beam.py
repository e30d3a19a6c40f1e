"""What the two passes read of a batch, and that statistics may be merged in any tree."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common.errors import DataError
from tfx_mobile.dimensionality_reducer.config import PCA, OneHot, ReducerConfig, TruncatedSVD

pytestmark = pytest.mark.pipeline


def batch_of(**columns: Sequence[Any]) -> Any:
    import pyarrow as pa

    return pa.RecordBatch.from_arrays([pa.array(rows) for rows in columns.values()], list(columns))


def layout_of(**widths: int) -> Any:
    """Returns the layout of features, and of `words` as one-hot with weights."""
    from tfx_mobile.dimensionality_reducer.transform_graph import InputLayout

    return InputLayout({**widths, WEIGHED: 3}, {}, False)


WEIGHED = OneHot("words", depth=3, weights="tfidf")


def test_indices_outside_the_depth_count_as_nothing_and_the_others_add_up() -> None:
    from tfx_mobile.dimensionality_reducer import beam

    reduction = TruncatedSVD(inputs=(WEIGHED,), output="svd", n_components=1)
    batch = batch_of(words=[[0, 2, 0], [-1, 3], None, []], tfidf=[[0.5, 2.0, 0.25], [7.0, 8.0], None, []])
    found = beam.read_rows(batch, reduction, layout_of())
    assert found.counts.toarray().tolist() == [[0.75, 0.0, 2.0], [0.0] * 3, [0.0] * 3, [0.0] * 3]
    assert found.numbers.shape == (4, 0)
    assert found.counts.nnz == 2, "an index that comes twice is one entry"


def test_a_feature_that_no_row_has_counts_as_nothing() -> None:
    import pyarrow as pa

    from tfx_mobile.dimensionality_reducer import beam

    reduction = TruncatedSVD(inputs=(WEIGHED,), output="svd", n_components=1)
    absent = pa.RecordBatch.from_arrays([pa.nulls(2)], ["words"])
    for batch in (absent, batch_of(other=[[1.0], [2.0]])):
        assert beam.read_rows(batch, reduction, layout_of()).counts.toarray().tolist() == [[0.0] * 3] * 2


def test_weights_that_do_not_fit_the_indices_are_refused() -> None:
    from tfx_mobile.dimensionality_reducer import beam

    reduction = TruncatedSVD(inputs=(WEIGHED,), output="svd", n_components=1)
    batch = batch_of(words=[[0], [1, 2]], tfidf=[[0.5], [0.5]])
    message = "Feature 'tfidf' must have one number for each index of 'words'; got a row with 1 and 2."
    with pytest.raises(DataError, match=re.escape(message)):
        beam.read_rows(batch, reduction, layout_of())


def test_any_tree_of_merges_has_the_moments_of_all_rows() -> None:
    from tfx_mobile.dimensionality_reducer import beam

    rows = np.random.default_rng(1).normal(size=(60, 2)).astype(np.float32)
    config = ReducerConfig((PCA(inputs=("x",), output="pca", n_components=1),))
    combine = beam.FitFn(config, layout_of(x=2))
    parts = []
    for part in np.split(rows, [7, 7, 30, 41]):
        accumulator = combine.create_accumulator()
        if len(part):
            accumulator = combine.add_input(accumulator, batch_of(x=part.tolist()))
        parts.append(accumulator)
    left = combine.merge_accumulators([parts[4], combine.merge_accumulators(iter(parts[2:4]))])
    (found,) = combine.extract_output(combine.merge_accumulators([left, parts[1], parts[0]]))

    assert found.moments.count == 60
    np.testing.assert_allclose(found.moments.mean, rows.mean(0, np.float64), rtol=1e-12, atol=1e-15)


def test_counts_of_parts_add_up() -> None:
    from tfx_mobile.dimensionality_reducer.beam import SplitCounts

    parts = [
        SplitCounts(5, 1, {"a": 2}, {"b": 1}),
        SplitCounts(),
        SplitCounts(7, 2, {"a": 1, "c": 4}, {"b": 3}),
    ]
    wanted = SplitCounts(12, 3, {"a": 3, "c": 4}, {"b": 4})
    assert SplitCounts.total(parts) == wanted
    assert SplitCounts.total([SplitCounts.total(parts[1:]), parts[0]]) == wanted
