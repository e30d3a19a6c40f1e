"""Every model in NumPy, in a TensorFlow function and in a TFLite file gives the same numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.dimensionality_reducer import applied
from tests.dimensionality_reducer.applied import BAG, PAIR, Batch

from tfx_mobile.dimensionality_reducer import config, models
from tfx_mobile.dimensionality_reducer.config import NotFinite, Reduction

pytestmark = pytest.mark.pipeline

NUMBERS = ("miles", "vector")
MIXED = (*NUMBERS, PAIR, BAG)
TRAIN = Batch.drawn(200)
OTHERS = Batch.drawn(50, seed=6)
METHODS: dict[str, tuple[type[Reduction], dict[str, Any], type, float]] = {
    # Float32 rounds to 6e-8, and a sum of ten products a few times that. The tolerance is for outputs of size
    # 1; larger ones have as much of their size.
    "pca": (config.PCA, {"n_components": 3, "whiten": True}, models.Linear, 1e-6),
    "ica": (config.FastICA, {"n_components": 3}, models.Linear, 1e-6),
    "sparse_pca": (config.SparsePCA, {"n_components": 3}, models.Linear, 1e-6),
    "selection": (config.VarianceThreshold, {"threshold": 0.5}, models.Selection, 1e-6),
    # Seventy steps one after the other, each of a few roundings, most of which the next ones mend.
    "nmf": (config.NMF, {"n_components": 3}, models.Parts, 5e-6),
    # |z|^2 - 2 z.l + |l|^2 loses as much as |z|^2 is larger than it; the weights are up to 1 / sqrt(1e-2).
    "kernel": (config.KernelPCA, {"n_components": 3, "num_landmarks": 40}, models.Kernel, 5e-6),
    # Thirty steps; exp(digamma) has the rounding of digamma, up to 3, as its relative error.
    "topics": (config.LatentDirichletAllocation, {"n_components": 3, "max_iter": 5}, models.Topics, 5e-6),
}


def reduction(method: str, inputs: Any = NUMBERS, **options: Any) -> Reduction:
    kind, settings, _, _ = METHODS[method]
    return kind(**{"inputs": inputs, "output": "out", **settings, **options})


def assert_close(found: Any, expected: Any, method: str) -> None:
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    tolerance = METHODS[method][3]
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("inputs", [NUMBERS, MIXED, (PAIR,), (BAG,)], ids=["numbers", "mixed", "pair", "bag"])
@pytest.mark.parametrize("method", METHODS)
def test_the_phone_and_tensorflow_compute_what_numpy_does(method: str, inputs: Any, tmp_path: Path) -> None:
    asked = reduction(method, inputs, **({"threshold": 0.2} if method == "selection" else {}))
    fitted = applied.fit(asked, TRAIN.rows(asked))
    assert type(fitted.model) is METHODS[method][2]
    expected = fitted.apply(OTHERS.rows(asked))
    assert expected.shape == (OTHERS.num_rows, fitted.num_outputs)
    assert np.ptp(expected, axis=0).min() > 1e-3  # each output says something
    apply = applied.function(fitted, asked)
    assert_close(applied.in_tensorflow(apply, OTHERS), expected, method)
    phone = applied.Phone(apply, tmp_path / "saved")
    assert_close(phone.predict(OTHERS), expected, method)
    for row in range(3):
        one = slice(row, row + 1)
        assert_close(phone.predict(OTHERS.take(one)), expected[one], method)


@pytest.mark.parametrize("method", METHODS)
def test_of_no_rows_there_are_no_outputs(method: str) -> None:
    asked = reduction(method, MIXED)
    fitted = applied.fit(asked, TRAIN.rows(asked))
    nothing = TRAIN.take(slice(0, 0))
    assert fitted.apply(nothing.rows(asked)).shape == (0, fitted.num_outputs)
    found = applied.in_tensorflow(applied.function(fitted, asked), nothing)
    assert found.shape == (0, fitted.num_outputs)


def spoilt(batch: Batch) -> Batch:
    """Returns the rows with NaN in row 1, infinity in row 2 and -infinity in row 3."""
    miles, vector = batch.miles.copy(), batch.vector.copy()
    miles[1], vector[2, 1], vector[3, 0] = np.nan, np.inf, -np.inf
    return Batch(miles, vector, batch.pair, batch.bag, batch.tfidf)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_finite_is_imputed_alike_everywhere(method: str, tmp_path: Path) -> None:
    asked = reduction(method, not_finite=NotFinite.IMPUTE_MEAN)
    train = spoilt(TRAIN)
    fitted = applied.fit(asked, train.rows(asked))
    finite = np.concatenate([train.miles, train.vector], axis=1)
    means = np.nanmean(np.where(np.isfinite(finite), finite, np.nan), axis=0, dtype=np.float64)
    assert fitted.fill is not None
    np.testing.assert_allclose(fitted.fill, means, rtol=1e-6)  # float32

    bad = spoilt(OTHERS)
    mended = Batch(bad.miles.copy(), bad.vector.copy(), bad.pair, bad.bag, bad.tfidf)
    mended.miles[1], mended.vector[2, 1], mended.vector[3, 0] = fitted.fill[[0, 2, 1]]
    expected = fitted.apply(mended.rows(asked))
    np.testing.assert_array_equal(fitted.apply(bad.rows(asked)), expected)
    apply = applied.function(fitted, asked)
    assert_close(applied.in_tensorflow(apply, bad), expected, method)
    assert_close(applied.Phone(apply, tmp_path / "saved").predict(bad), expected, method)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "selection"])
def test_a_row_with_nan_has_nothing_but_nan_and_the_others_are_as_they_were(
    method: str, tmp_path: Path
) -> None:
    asked = reduction(method, not_finite=NotFinite.DROP_ROWS)
    fitted = applied.fit(asked, spoilt(TRAIN).rows(asked))
    bad = spoilt(OTHERS)
    with np.errstate(invalid="ignore"):
        expected = fitted.apply(bad.rows(asked))
    assert np.isnan(expected[1]).all()
    assert not np.isfinite(expected[2:4]).any(axis=1).all()
    np.testing.assert_array_equal(
        np.delete(expected, [1, 2, 3], axis=0), fitted.apply(OTHERS.rows(asked))[[0, *range(4, 50)]]
    )
    apply = applied.function(fitted, asked)
    for found in (
        applied.in_tensorflow(apply, bad),
        applied.Phone(apply, tmp_path / "saved").predict(bad),
    ):
        assert np.isnan(found[1]).all()
        assert_close(np.delete(found, [2, 3], axis=0), np.delete(expected, [2, 3], axis=0), method)
