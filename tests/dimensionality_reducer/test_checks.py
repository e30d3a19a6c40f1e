"""What is refused before a row is read, and the phrases of messages."""

import re
from typing import Any

import pytest

from tfx_mobile.common.errors import DataError
from tfx_mobile.dimensionality_reducer.checks import check, check_projection, check_rows, subject
from tfx_mobile.dimensionality_reducer.config import (
    LDA,
    NMF,
    PCA,
    PLS,
    ComponentRule,
    CorrelationFilter,
    FastICA,
    GaussianRandomProjection,
    KernelPCA,
    LatentDirichletAllocation,
    Score,
    SelectKBest,
    SparsePCA,
    SparseRandomProjection,
    TruncatedSVD,
    VarianceThreshold,
)

PAIRS = [PCA, TruncatedSVD, LDA, PLS, CorrelationFilter]
NUMBERED = [PCA, TruncatedSVD, LDA, PLS, GaussianRandomProjection, SparseRandomProjection]
SAMPLED = [FastICA, SparsePCA, NMF]


def of(method: Any, **options: Any) -> Any:
    if issubclass(method, (*SAMPLED, KernelPCA)):
        options = {"n_components": 2} | options
    return method(inputs=("x",), output="out", **options)


def refuses(reduction: Any, width: int, message: str, **about: Any) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        check(reduction, width, **about)


class TestComponents:
    @pytest.mark.parametrize("method", [*NUMBERED, *SAMPLED])
    def test_as_many_as_columns_are_fine_and_one_more_is_refused(self, method: Any) -> None:
        check(of(method, n_components=3), 3)
        message = f"{method.__name__}.n_components must be at most 3, the width of its inputs; got 4."
        refuses(of(method, n_components=4), 3, message)

    @pytest.mark.parametrize("score", list(Score))
    def test_as_many_columns_as_there_are_can_be_selected_and_one_more_is_refused(self, score: Score) -> None:
        check(of(SelectKBest, k=3, score=score), 3)
        message = "SelectKBest.k must be at most 3, the width of its inputs; got 4."
        refuses(of(SelectKBest, k=4, score=score), 3, message)

    @pytest.mark.parametrize(
        "reduction",
        [
            of(PCA, n_components=1.0),
            of(PCA, n_components=ComponentRule.BROKEN_STICK),
            of(TruncatedSVD, n_components=0.5),
            of(LDA),
            of(VarianceThreshold),
            of(CorrelationFilter),
            of(GaussianRandomProjection),
            of(KernelPCA, n_components=5),
            of(LatentDirichletAllocation, n_components=5),
        ],
        ids=lambda reduction: reduction.name,
    )
    def test_what_the_width_does_not_limit_is_fine(self, reduction: Any) -> None:
        check(reduction, 1)


class TestLabel:
    @pytest.mark.parametrize("reduction", [of(PLS, n_components=1), of(SelectKBest, k=1)])
    def test_of_text_is_refused_where_it_must_be_a_number(self, reduction: Any) -> None:
        message = (
            f"{reduction.name} needs a label that is a number; 'payment' is text. Make a number of it in "
            "preprocessing_fn."
        )
        refuses(reduction, 4, message, label_is_text=True, label_key="payment")
        check(reduction, 4, label_is_text=False, label_key="payment")

    @pytest.mark.parametrize(
        "reduction",
        [
            of(LDA),
            of(PCA),
            of(SelectKBest, k=1, score=Score.F_CLASSIF),
            of(SelectKBest, k=1, score=Score.MUTUAL_INFO),
        ],
    )
    def test_of_text_is_fine_for_classes_and_where_none_is_needed(self, reduction: Any) -> None:
        check(reduction, 4, label_is_text=True, label_key="payment")


class TestMemory:
    @pytest.mark.parametrize("reduction", [*map(of, PAIRS), of(SparsePCA, sample_rows=100)])
    def test_pairs_of_columns(self, reduction: Any) -> None:
        # 80 * 7327**2 is just below 2**32, and so is 128 * 5792**2.
        bytes_each, limit = (128, 5792) if isinstance(reduction, LDA) else (80, 7327)
        check(reduction, limit)
        message = (
            f"{reduction.name} takes {bytes_each} bytes for each pair of columns, so that {limit} fit into 4 "
            f"GiB; got {limit + 1}. Use SparseRandomProjection, VarianceThreshold or SelectKBest by an "
            "F-test, or a smaller depth of OneHot."
        )
        refuses(reduction, limit + 1, message)

    @pytest.mark.parametrize("method", [FastICA, KernelPCA])
    def test_a_dense_sample(self, method: Any) -> None:
        check(of(method, sample_rows=2**13), 2**13)
        message = (
            f"{method.__name__} takes 64 bytes for each number of its sample, sample_rows x columns, of "
            "which 67108864 fit into 4 GiB; got 20000 x 200000. Give fewer sample_rows or a smaller depth of "
            "OneHot, or use SparseRandomProjection."
        )
        refuses(of(method), 200_000, message)
        with pytest.raises(DataError, match=re.escape("got 8193 x 8192.")):
            check(of(method, sample_rows=2**13 + 1), 2**13)

    def test_a_dense_sample_of_few_columns_and_many_rows(self) -> None:
        with pytest.raises(DataError, match=re.escape("got 67109 x 1000.")):
            check(of(SparsePCA, sample_rows=67_109), 1000)
        check(of(SparsePCA, sample_rows=67_108), 1000)

    @pytest.mark.parametrize("method", [NMF, LatentDirichletAllocation])
    def test_of_a_sparse_sample_only_the_numbers_are_dense(self, method: Any) -> None:
        check(of(method, sample_rows=20_000, n_components=10), 200_000, num_numbers=3000)
        with pytest.raises(DataError, match=re.escape("number of its sample, sample_rows x columns, of whi")):
            check(of(method, sample_rows=20_000, n_components=10), 200_000, num_numbers=4000)

    @pytest.mark.parametrize("method", [NMF, LatentDirichletAllocation])
    def test_weights_of_parts_and_topics(self, method: Any) -> None:
        message = (
            f"{method.__name__} takes 48 bytes for each weight, columns x n_components, of which 89478485 "
            "fit into 4 GiB; got 200000 x 500. Give a smaller n_components or a smaller depth of OneHot."
        )
        refuses(of(method, n_components=500), 200_000, message)

    @pytest.mark.parametrize("method", [GaussianRandomProjection, SparseRandomProjection])
    def test_random_matrices(self, method: Any) -> None:
        message = (
            f"{method.__name__} takes 48 bytes for each weight, columns x directions, of which 89478485 fit "
            "into 4 GiB; got 200000 x 500. Give n_components, or a smaller one, or a smaller depth of OneHot."
        )
        refuses(of(method, n_components=500), 200_000, message)
        with pytest.raises(DataError, match=re.escape(message)):
            check_projection(of(method), 200_000, 500)
        check(of(method, n_components=400), 200_000)
        check(of(method), 10**6)  # how many, the rows will tell

    @pytest.mark.parametrize(
        "reduction",
        [
            of(VarianceThreshold),
            of(SelectKBest, score=Score.F_CLASSIF),
            of(SelectKBest, score=Score.F_REGRESSION),
        ],
    )
    def test_columns_one_by_one_are_fine(self, reduction: Any) -> None:
        check(reduction, 100_000)

    def test_histograms(self) -> None:
        message = (
            "SelectKBest by mutual information must have at most 16384 columns; got 16385. Take "
            "Score.F_CLASSIF or Score.F_REGRESSION, or split its inputs over several reductions."
        )
        check(of(SelectKBest, score=Score.MUTUAL_INFO), 16_384)
        refuses(of(SelectKBest, score=Score.MUTUAL_INFO), 16_385, message)


class TestPhrases:
    @pytest.mark.parametrize(
        ("count", "phrase"),
        [
            (1, "a is"),
            (2, "a and b are"),
            (3, "a, b and c are"),
            (4, "a, b, c and d are"),
            (5, "a, b, c and 2 more are"),
            (3000, "a, b, c and 2,997 more are"),
        ],
    )
    def test_a_few_columns_are_named_and_the_others_counted(self, count: int, phrase: str) -> None:
        columns = [*"abcde", *["f"] * 2995][:count]
        assert subject(columns) == phrase

    def test_the_verb_agrees_with_the_number_of_columns(self) -> None:
        assert subject(["a"], "does", "do") == "a does"
        assert subject(["a", "b"], "does", "do") == "a and b do"

    @pytest.mark.parametrize(("least", "what"), [(1, "1 row"), (2, "2 rows")])
    def test_too_few_rows(self, least: int, what: str) -> None:
        check_rows("PCA", least, least)
        message = f"PCA needs at least {what} in split 'train'; got {least - 1}."
        with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
            check_rows("PCA", least - 1, least)
