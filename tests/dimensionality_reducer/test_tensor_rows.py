"""TensorRows and TensorOps against Rows and NumpyOps, and against arrays that are written out."""

from typing import Any

import numpy as np
import pytest
from tests.dimensionality_reducer.applied import BAG, PAIR, WIDTHS, Batch

from tfx_mobile.dimensionality_reducer.config import PCA, Input
from tfx_mobile.dimensionality_reducer.rows import NumpyOps, Rows

pytestmark = pytest.mark.pipeline

BATCH = Batch.drawn(40)
NUMBERS, MIXED = ("vector", "miles"), ("vector", PAIR, "miles", BAG)
INPUTS: dict[str, tuple[Input, ...]] = {"numbers": NUMBERS, "mixed": MIXED, "pair": (PAIR,), "bag": (BAG,)}
# Sums of up to 20 products of numbers up to 100, each rounded to 2**-24.
FLOAT32 = {"rtol": 2e-6, "atol": 2e-5}


@pytest.fixture(params=INPUTS)
def reduction(request: Any) -> PCA:
    return PCA(inputs=INPUTS[request.param], output="out")


def tensors(reduction: PCA, batch: Batch) -> Any:
    """Returns the rows as TensorFlow sees them, bags as sparse tensors."""
    import tensorflow as tf

    from tfx_mobile.dimensionality_reducer.tensor_rows import TensorRows

    given = batch.tensors()
    places = np.stack([given["owners"], np.zeros_like(given["owners"])], axis=1)
    for start in range(1, len(places)):  # the place of each entry in its row, as the parser writes it
        if places[start, 0] == places[start - 1, 0]:
            places[start, 1] = places[start - 1, 1] + 1
    shape = (batch.num_rows, 9)
    features = {name: tf.constant(given[name]) for name in ("miles", "vector", "pair")}
    features["bag"] = tf.SparseTensor(places, given["indices"], shape)
    features["tfidf"] = tf.SparseTensor(places, given["weights"], shape)
    return TensorRows(features, reduction, WIDTHS)


def drawn(*shape: int) -> Any:
    return np.random.default_rng(1).gamma(1.0, 1.0, shape).astype(np.float32)


def centre_of(rows: Rows) -> Any:
    return drawn(rows.num_numbers) + 1


def test_rows_written_out_are_the_same(reduction: PCA) -> None:
    rows = BATCH.rows(reduction)
    np.testing.assert_allclose(tensors(reduction, BATCH).dense(), rows.dense(), **FLOAT32)


def test_projections_are_the_same_and_those_of_the_rows_written_out(reduction: PCA) -> None:
    rows = BATCH.rows(reduction)
    centre, matrix, offset = centre_of(rows), drawn(rows.width, 3), drawn(3)
    found = rows.project(centre, matrix, offset)
    padded = np.concatenate([centre, np.zeros(rows.width - rows.num_numbers)])
    np.testing.assert_allclose(found, (rows.dense() - padded) @ matrix + offset, **FLOAT32)
    np.testing.assert_allclose(tensors(reduction, BATCH).project(centre, matrix, offset), found, **FLOAT32)


def test_squared_norms_are_the_same_and_those_of_the_rows_written_out(reduction: PCA) -> None:
    rows = BATCH.rows(reduction)
    centre, scale = centre_of(rows), drawn(rows.width)
    found = rows.squared_norms(centre, scale)
    padded = np.concatenate([centre, np.zeros(rows.width - rows.num_numbers)])
    expected = (((rows.dense() - padded) * scale) ** 2).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, **FLOAT32)
    np.testing.assert_allclose(tensors(reduction, BATCH).squared_norms(centre, scale), found, **FLOAT32)


@pytest.mark.parametrize("floor", [1e-9, 0.5])
def test_what_is_divided_is_the_same_and_that_of_the_rows_written_out(reduction: PCA, floor: float) -> None:
    rows = BATCH.rows(reduction)
    shares, matrix = drawn(BATCH.num_rows, 3), drawn(3, rows.width)
    found = rows.divide_among(shares, matrix, floor)
    expected = shares * ((rows.dense() / (shares @ matrix + floor)) @ matrix.T)
    np.testing.assert_allclose(found, expected, **FLOAT32)
    np.testing.assert_allclose(
        tensors(reduction, BATCH).divide_among(shares, matrix, floor), found, **FLOAT32
    )


def test_what_is_divided_adds_up_to_the_row(reduction: PCA) -> None:
    rows = BATCH.rows(reduction)
    found = rows.divide_among(drawn(BATCH.num_rows, 3), drawn(3, rows.width), 1e-9)
    np.testing.assert_allclose(found.sum(axis=1), rows.dense().sum(axis=1), **FLOAT32)


def test_selected_columns_are_the_same(reduction: PCA) -> None:
    rows = BATCH.rows(reduction)
    chosen = tuple(range(1, rows.width, 2))
    np.testing.assert_array_equal(rows.select(chosen), rows.dense()[:, chosen])
    np.testing.assert_allclose(tensors(reduction, BATCH).select(chosen), rows.select(chosen), **FLOAT32)


def test_numbers_below_0_become_0_and_counts_stay(reduction: PCA) -> None:
    below = Batch(BATCH.miles - 5, BATCH.vector - 5, BATCH.pair, BATCH.bag, BATCH.tfidf)
    rows = below.rows(reduction)
    expected = rows.dense().copy()
    expected[:, : rows.num_numbers] = np.maximum(expected[:, : rows.num_numbers], 0)
    np.testing.assert_array_equal(rows.nonnegative().dense(), expected)
    np.testing.assert_allclose(tensors(reduction, below).nonnegative().dense(), expected, **FLOAT32)


def test_what_is_not_finite_is_imputed_alike_and_the_rest_stays() -> None:
    reduction = PCA(inputs=MIXED, output="out")
    miles, vector = BATCH.miles.copy(), BATCH.vector.copy()
    miles[1], vector[2, 1], vector[3, 0] = np.nan, np.inf, -np.inf
    bad = Batch(miles, vector, BATCH.pair, BATCH.bag, BATCH.tfidf)
    expected = BATCH.rows(reduction).dense().copy()
    expected[1, 3], expected[2, 1], expected[3, 0] = 40, 20, 10
    fill = np.float32([10, 20, 30, 40])
    np.testing.assert_array_equal(bad.rows(reduction).imputed(fill).dense(), expected)
    np.testing.assert_allclose(tensors(reduction, bad).imputed(fill).dense(), expected, **FLOAT32)


def test_an_index_outside_counts_as_nothing_and_one_that_comes_twice_as_two() -> None:
    # By hand: indices of a row -1, 5, 2, 2 with weights 7, 7, 0.5, 0.25, of which the last two count.
    batch = Batch(
        np.zeros((1, 1)), np.zeros((1, 3)), np.array([[4, 3]]), [[-1, 6, 2, 2]], [[7, 7, 0.5, 0.25]]
    )
    found = tensors(PCA(inputs=(BAG, PAIR), output="out"), batch)
    np.testing.assert_allclose(found.dense(), [[0, 0, 0.75, 0, 0, 0, 0, 0, 0, 1]])
    np.testing.assert_allclose(found.squared_norms(np.zeros(0), np.full(10, 2.0, np.float32)), [[4 * 1.5625]])
    np.testing.assert_allclose(
        found.project(np.zeros(0), np.arange(10, dtype=np.float32)[:, None], np.zeros(1)), [[0.75 * 2 + 9]]
    )
    # Half of what a column has goes to each of two components that are alike.
    halves = found.divide_among(np.ones((1, 2), np.float32), np.ones((2, 10), np.float32), 1e-9)
    np.testing.assert_allclose(halves, [[0.875, 0.875]])


def test_functions_are_the_same_with_nan_kept() -> None:
    from tfx_mobile.dimensionality_reducer.tensor_rows import TensorOps

    values = np.float32([[0.5, 2.0, 3.0], [np.inf, 7.0, 0.0]])
    for name in ("exp", "log", "sum", "constant", "positive"):
        with np.errstate(divide="ignore"):
            expected = getattr(NumpyOps, name)(values)
        found = getattr(TensorOps, name)(values)
        assert found.dtype.as_numpy_dtype == expected.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    signs = np.float32([[-2.0, np.nan, -np.inf, 3.0, -0.0]])
    for ops in (NumpyOps, TensorOps):
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(ops.positive(signs), [[0, np.nan, np.nan, 3, 0]])
        np.testing.assert_array_equal(ops.join([values, values[:, :1]]), np.hstack([values, values[:, :1]]))
        np.testing.assert_array_equal(ops.maximum(values, np.float32(2)), np.maximum(values, 2))


def test_the_size_of_the_graph_does_not_grow_with_the_square_of_the_depth() -> None:
    import tensorflow as tf

    from tfx_mobile.dimensionality_reducer.config import OneHot
    from tfx_mobile.dimensionality_reducer.tensor_rows import TensorRows

    word = OneHot("word")
    asked = PCA(inputs=(word,), output="out")

    @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.int64)], autograph=False)  # type: ignore[untyped-decorator]
    def norms(indices: Any) -> Any:
        rows = TensorRows({"word": indices}, asked, {word: 5000})
        return rows.squared_norms(np.zeros(0), np.ones(5000, np.float32))

    @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.int64)], autograph=False)  # type: ignore[untyped-decorator]
    def chosen(indices: Any) -> Any:
        return TensorRows({"word": indices}, asked, {word: 5000}).select(range(0, 5000, 2))

    # One number for each word, 20 kB, and not 5000 for each, 100 MB.
    for function in (norms, chosen):
        assert function.get_concrete_function().graph.as_graph_def().ByteSize() < 100_000
