"""Settings of a reduction are refused when the pipeline is built, and travel as strict JSON."""

import dataclasses
import json
import math
import re
import typing
from typing import Any

import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.dimensionality_reducer.config import (
    LDA,
    NMF,
    PCA,
    PLS,
    AnyReduction,
    ComponentRule,
    CorrelationFilter,
    FastICA,
    GaussianRandomProjection,
    KernelPCA,
    LatentDirichletAllocation,
    NotFinite,
    OneHot,
    ReducerConfig,
    Score,
    SelectKBest,
    SparsePCA,
    SparseRandomProjection,
    TruncatedSVD,
    VarianceThreshold,
)

METHODS: tuple[Any, ...] = typing.get_args(AnyReduction)
SAMPLED = (FastICA, NMF, SparsePCA, KernelPCA, LatentDirichletAllocation)
BAG = OneHot(feature="words", depth=50, weights="tfidf")
NAN = float("nan")
# One of each method, with every setting away from its default.
EVERY_SETTING = (
    PCA(
        inputs=("a", BAG, "b"),
        output="pca",
        keep_inputs=True,
        not_finite=NotFinite.IMPUTE_MEAN,
        n_components=ComponentRule.PARALLEL_ANALYSIS,
        whiten=True,
    ),
    TruncatedSVD(inputs=(OneHot(feature="words"),), output="svd", n_components=3),
    LDA(inputs=("a",), output="lda", n_components=2, shrinkage=0.5, not_finite=NotFinite.DROP_ROWS),
    PLS(inputs=("a",), output="pls", n_components=3, standardise=False),
    VarianceThreshold(inputs=("a",), output="variance", threshold=0.25),
    CorrelationFilter(inputs=("a",), output="correlation", threshold=0.5),
    SelectKBest(inputs=("a",), output="best", k=4, score=Score.MUTUAL_INFO),
    GaussianRandomProjection(inputs=("a",), output="gaussian", n_components=5, eps=0.5, seed=2**32 - 1),
    SparseRandomProjection(inputs=("a",), output="sparse", eps=0.5, seed=1, density=0.25),
    FastICA(inputs=("a",), output="ica", n_components=2, sample_rows=10, seed=3, max_iter=7),
    NMF(inputs=("a",), output="nmf", n_components=2, sample_rows=10, seed=3, num_updates=5, max_iter=7),
    SparsePCA(
        inputs=("a",),
        output="spca",
        n_components=2,
        sample_rows=10,
        seed=3,
        alpha=0.5,
        ridge_alpha=0.25,
        standardise=False,
        max_iter=7,
    ),
    KernelPCA(
        inputs=("a",),
        output="kpca",
        n_components=2,
        sample_rows=10,
        seed=3,
        num_landmarks=9,
        gamma=0.5,
        standardise=False,
    ),
    LatentDirichletAllocation(
        inputs=(BAG,), output="topics", n_components=3, sample_rows=10, seed=3, num_updates=5, max_iter=7
    ),
)


def make(method: Any, **options: Any) -> Any:
    """Returns a method with as few settings as it takes."""
    needed = {"inputs": ("a", "b"), "output": "out"}
    if any(
        one.name == "n_components" and one.default is dataclasses.MISSING
        for one in dataclasses.fields(method)
    ):
        needed["n_components"] = 2
    return method(**needed | options)


def pca(**options: Any) -> PCA:
    return PCA(**{"inputs": ("a", "b"), "output": "pca"} | options)


def assert_refused(message: str, method: Any, **options: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        make(method, **options)


class TestEveryMethod:
    each = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.kind)

    def test_there_is_one_of_each_here(self) -> None:
        assert tuple(type(one) for one in EVERY_SETTING) == METHODS
        assert len({method.kind for method in METHODS}) == len(METHODS)

    @each
    @pytest.mark.parametrize("inputs", [(), ("a", "a"), ("a", "b", "a")])
    def test_inputs_are_one_or_more_different_features(self, method: Any, inputs: tuple[str, ...]) -> None:
        name = method.__name__
        assert_refused(
            f"{name}.inputs must be one or more different features; got {list(inputs)}.",
            method,
            inputs=inputs,
        )

    @each
    @pytest.mark.parametrize("inputs", ["ab", None, 3])
    def test_what_is_no_list_is_not_taken_for_one(self, method: Any, inputs: Any) -> None:
        name = method.__name__
        assert_refused(
            f"{name}.inputs must be one or more different features; got {inputs!r}.", method, inputs=inputs
        )

    @each
    @pytest.mark.parametrize("wrong", ["", 3, b"a"])
    def test_an_input_is_a_name_or_a_one_hot_feature(self, method: Any, wrong: Any) -> None:
        name = method.__name__
        assert_refused(
            f"{name}.inputs must be names of features or OneHot; got {wrong!r}.", method, inputs=("a", wrong)
        )

    @each
    def test_the_output_needs_a_name(self, method: Any) -> None:
        name = method.__name__
        assert_refused(f"{name}.output must name the feature to make; got an empty name.", method, output="")

    @each
    def test_a_setting_it_does_not_have_is_refused(self, method: Any) -> None:
        settings = make(method).to_dict() | {"tol": 1}
        message = f"{method.__name__} has no setting 'tol'; it has "
        with pytest.raises(ConfigError, match=re.escape(message)):
            method.from_dict(settings)

    @pytest.mark.parametrize("one", EVERY_SETTING, ids=lambda one: one.kind)
    def test_json_gives_the_same_settings_back(self, one: Any) -> None:
        config = ReducerConfig((one,), label_key="label")
        back = ReducerConfig.from_json(config.to_json())
        assert back == config
        assert back.to_json() == config.to_json()
        assert type(back.reductions[0]) is type(one)

    @pytest.mark.parametrize("one", EVERY_SETTING, ids=lambda one: one.kind)
    def test_every_setting_is_in_the_json(self, one: Any) -> None:
        (written,) = json.loads(ReducerConfig((one,), label_key="label").to_json())["reductions"]
        assert set(written) == {"kind", *(field.name for field in dataclasses.fields(one))}

    def test_all_together_give_the_same_settings_back(self) -> None:
        config = ReducerConfig(EVERY_SETTING, label_key="label")
        assert ReducerConfig.from_json(config.to_json()) == config

    def test_only_methods_that_follow_the_label_need_it(self) -> None:
        assert {method for method in METHODS if method.needs_label} == {LDA, PLS, SelectKBest}


class TestRefusals:
    @pytest.mark.parametrize("wanted", [0, -1, 0.0, 1.5, -0.1, NAN, float("inf"), True, "2", None])
    def test_the_number_of_principal_components_is_a_count_a_share_or_a_rule(self, wanted: Any) -> None:
        assert_refused(
            "PCA.n_components must be a count (int >= 1), a share of variance (float in (0, 1]) or a "
            f"ComponentRule; got {wanted!r}.",
            PCA,
            n_components=wanted,
        )

    @pytest.mark.parametrize("wanted", [0, -1, 0.0, 1.5, NAN, True, "2", None, ComponentRule.BROKEN_STICK])
    def test_the_number_of_singular_vectors_is_a_count_or_a_share(self, wanted: Any) -> None:
        assert_refused(
            "TruncatedSVD.n_components must be a count (int >= 1) or a share of the sum of squares (float in "
            f"(0, 1]); got {wanted!r}.",
            TruncatedSVD,
            n_components=wanted,
        )

    @pytest.mark.parametrize("wanted", [1, 7, 1e-9, 1.0, ComponentRule.BROKEN_STICK])
    def test_counts_shares_and_rules_are_taken(self, wanted: Any) -> None:
        assert pca(n_components=wanted).n_components == wanted

    def test_parallel_analysis_is_of_correlations(self) -> None:
        assert_refused(
            "PCA by parallel analysis compares with columns of variance 1; set standardise=True.",
            PCA,
            n_components=ComponentRule.PARALLEL_ANALYSIS,
            standardise=False,
        )
        pca(n_components=ComponentRule.BROKEN_STICK, standardise=False)

    @pytest.mark.parametrize(
        ("method", "setting"),
        [
            *((one, "n_components") for one in (LDA, PLS, GaussianRandomProjection, SparseRandomProjection)),
            *((one, "n_components") for one in SAMPLED),
            *((one, "sample_rows") for one in SAMPLED),
            *((one, "max_iter") for one in (FastICA, NMF, SparsePCA, LatentDirichletAllocation)),
            *((one, "num_updates") for one in (NMF, LatentDirichletAllocation)),
            (SelectKBest, "k"),
            (KernelPCA, "num_landmarks"),
        ],
    )
    @pytest.mark.parametrize("wrong", [0, -3, 2.0, True, "2"])
    def test_a_count_is_an_int_of_at_least_one(self, method: Any, setting: str, wrong: Any) -> None:
        assert_refused(
            f"{method.__name__}.{setting} must be an int of at least 1; got {wrong!r}.",
            method,
            **{setting: wrong},
        )
        few = {"num_landmarks": 1, "n_components": 1} if method is KernelPCA else {}
        assert getattr(make(method, **few | {setting: 1}), setting) == 1

    @pytest.mark.parametrize("method", [GaussianRandomProjection, SparseRandomProjection, *SAMPLED])
    @pytest.mark.parametrize("wrong", [-1, 2**32, 1.0, True, None])
    def test_a_seed_is_an_int_of_32_bits(self, method: Any, wrong: Any) -> None:
        name = method.__name__
        assert_refused(f"{name}.seed must be an int in [0, 2**32); got {wrong!r}.", method, seed=wrong)
        assert make(method, seed=2**32 - 1).seed == 2**32 - 1

    @pytest.mark.parametrize(("method", "setting"), [(LDA, "shrinkage"), (CorrelationFilter, "threshold")])
    @pytest.mark.parametrize("wrong", [-0.1, 1.1, NAN, "0.5", True])
    def test_a_share_lies_between_zero_and_one(self, method: Any, setting: str, wrong: Any) -> None:
        name = method.__name__
        assert_refused(f"{name}.{setting} must be in [0, 1]; got {wrong!r}.", method, **{setting: wrong})
        for limit in (0.0, 1.0):
            assert getattr(make(method, **{setting: limit}), setting) == limit

    @pytest.mark.parametrize(
        ("method", "setting"),
        [(VarianceThreshold, "threshold"), (SparsePCA, "alpha"), (SparsePCA, "ridge_alpha")],
    )
    @pytest.mark.parametrize("wrong", [-0.1, math.inf, NAN, "1", True])
    def test_a_weight_is_finite_and_not_negative(self, method: Any, setting: str, wrong: Any) -> None:
        name = method.__name__
        assert_refused(
            f"{name}.{setting} must be finite and at least 0; got {wrong!r}.", method, **{setting: wrong}
        )
        assert getattr(make(method, **{setting: 0.0}), setting) == 0.0

    @pytest.mark.parametrize("method", [GaussianRandomProjection, SparseRandomProjection])
    @pytest.mark.parametrize("wrong", [0.0, 1.0, -0.1, NAN, "0.1", 1, None])
    def test_a_distortion_lies_between_zero_and_one_without_them(self, method: Any, wrong: Any) -> None:
        name = method.__name__
        assert_refused(
            f"{name}.eps must be between 0 and 1, both excluded; got {wrong!r}.", method, eps=wrong
        )

    @pytest.mark.parametrize("wrong", [0.0, 1.1, -0.1, NAN, 1, "0.1"])
    def test_a_density_is_a_share_above_zero(self, wrong: Any) -> None:
        message = f"SparseRandomProjection.density must be a float in (0, 1]; got {wrong!r}."
        assert_refused(message, SparseRandomProjection, density=wrong)
        assert make(SparseRandomProjection, density=1.0).density == 1.0

    @pytest.mark.parametrize("wrong", [0.0, -1.0, math.inf, NAN, "1", True])
    def test_a_kernel_has_a_width(self, wrong: Any) -> None:
        message = f"KernelPCA.gamma must be a finite number above 0; got {wrong!r}."
        assert_refused(message, KernelPCA, gamma=wrong)

    def test_landmarks_are_rows_of_the_sample(self) -> None:
        message = "KernelPCA.num_landmarks must be at most sample_rows, 100; got 101."
        assert_refused(message, KernelPCA, num_landmarks=101, sample_rows=100)
        make(KernelPCA, num_landmarks=100, sample_rows=100)

    def test_landmarks_span_the_components(self) -> None:
        message = "KernelPCA.n_components must be at most num_landmarks, 10; got 11."
        assert_refused(message, KernelPCA, n_components=11, num_landmarks=10)
        make(KernelPCA, n_components=10, num_landmarks=10)

    def test_one_hot_names_a_feature(self) -> None:
        with pytest.raises(
            ConfigError, match=re.escape("OneHot.feature must name a feature; got an empty name.")
        ):
            OneHot(feature="")

    def test_weights_are_not_the_indices_themselves(self) -> None:
        message = "OneHot.weights must be another feature than its indices; got 'words'."
        with pytest.raises(ConfigError, match=re.escape(message)):
            OneHot(feature="words", weights="words")

    @pytest.mark.parametrize("depth", [0, -1, 2.0, True])
    def test_a_depth_is_a_count(self, depth: Any) -> None:
        message = f"OneHot.depth must be an int of at least 1; got {depth!r}."
        with pytest.raises(ConfigError, match=re.escape(message)):
            OneHot(feature="words", depth=depth)


class TestColumns:
    def test_are_numbered_where_a_feature_has_several_values(self) -> None:
        assert pca().columns({"a": 1, "b": 3}) == ["a", "b[0]", "b[1]", "b[2]"]

    def test_of_one_hot_features_stand_behind_the_numbers_and_have_words(self) -> None:
        payment = OneHot(feature="payment")
        config = pca(inputs=(payment, "a", BAG))
        widths = {"a": 1, payment: 3, BAG: 2}
        assert config.columns(widths) == [
            "a",
            "payment=0",
            "payment=1",
            "payment=2",
            "words*tfidf=0",
            "words*tfidf=1",
        ]
        assert config.columns(widths, {payment: ["cash", "card"]}) == [
            "a",
            "payment=cash",
            "payment=card",
            "payment=2",
            "words*tfidf=0",
            "words*tfidf=1",
        ]
        assert config.width(widths) == 6
        assert (config.numeric, config.one_hot) == (("a",), (payment, BAG))
        assert config.features == ("a", "payment", "words", "tfidf")

    def test_of_the_same_name_have_their_position_added(self) -> None:
        indices = OneHot(feature="ids")
        words = {indices: ["caf\\xe9", "caf\\xe9"]}
        assert pca(inputs=(indices,)).columns({indices: 2}, words) == ["ids=caf\\xe9", "ids=caf\\xe9 #1"]
        deep, flat = OneHot(feature="ids", depth=2), OneHot(feature="ids", depth=1)
        assert pca(inputs=(deep, flat)).columns({deep: 2, flat: 1}) == ["ids=0", "ids=1", "ids=0 #2"]

    def test_a_feature_of_two_one_hot_inputs_is_read_once(self) -> None:
        config = pca(inputs=(OneHot(feature="w"), OneHot(feature="w", weights="v"), OneHot(feature="v")))
        assert config.features == ("w", "v")


class TestRun:
    def test_one_component_and_all_of_the_variance_are_not_the_same(self) -> None:
        config = ReducerConfig((pca(n_components=1), pca(inputs=("c",), output="all", n_components=1.0)))
        back = ReducerConfig.from_json(config.to_json())
        assert [type(one.n_components) for one in back.reductions] == [int, float]
        assert back == config

    def test_a_run_needs_a_reduction(self) -> None:
        message = "DimensionalityReducer needs at least one reduction; got none."
        with pytest.raises(ConfigError, match=re.escape(message)):
            ReducerConfig(())

    def test_what_is_no_method_is_refused(self) -> None:
        message = "A reduction must be one of this package's methods; got 'pca'."
        with pytest.raises(ConfigError, match=re.escape(message)):
            ReducerConfig((pca(), "pca"))  # type: ignore[arg-type]

    def test_two_reductions_must_not_share_an_output(self) -> None:
        message = "Each reduction must have an output of its own; got ['pca', 'pca']."
        with pytest.raises(ConfigError, match=re.escape(message)):
            ReducerConfig((pca(), pca(inputs=("c",))))

    @pytest.mark.parametrize("output", ["b", "words", "tfidf"])
    def test_an_output_must_not_be_an_input(self, output: str) -> None:
        message = f"An output must not be an input of a reduction; got ['{output}']."
        with pytest.raises(ConfigError, match=re.escape(message)):
            ReducerConfig((pca(inputs=("a", "b", BAG)), pca(inputs=("c",), output=output)))

    @pytest.mark.parametrize("label", ["a", "words", "tfidf", "pca"])
    def test_a_phone_does_not_have_the_label(self, label: str) -> None:
        message = (
            f"The label {label!r} must not be an input or an output of a reduction: a phone does not have it."
        )
        with pytest.raises(ConfigError, match=re.escape(message)):
            ReducerConfig((pca(inputs=("a", BAG)),), label_key=label)

    @pytest.mark.parametrize("method", [LDA, PLS, SelectKBest])
    def test_methods_that_follow_the_label_need_one(self, method: Any) -> None:
        message = f"{method.__name__} needs a label; give DimensionalityReducer its label_key."
        with pytest.raises(ConfigError, match=re.escape(message)):
            ReducerConfig((pca(), make(method)))
        ReducerConfig((pca(), make(method)), label_key="label")

    def test_an_input_is_dropped_unless_one_of_its_reductions_keeps_it(self) -> None:
        config = ReducerConfig((pca(), pca(inputs=("b", "c", BAG), output="two", keep_inputs=True)))
        assert config.dropped_features() == {"a"}
        assert config.input_features() == {"a", "b", "c", "words", "tfidf"}
        assert ReducerConfig((pca(inputs=(BAG,)),)).dropped_features() == {"words", "tfidf"}

    def test_an_unknown_method_is_refused(self) -> None:
        text = ReducerConfig((pca(),)).to_json().replace('"kind":"pca"', '"kind":"umap"')
        known = ", ".join(map(repr, sorted(method.kind for method in METHODS)))
        message = f"ReducerConfig.reductions[0].kind must be one of {known}; got 'umap'."
        with pytest.raises(ConfigError, match=re.escape(message)):
            ReducerConfig.from_json(text)

    def test_the_same_settings_give_the_same_bytes(self) -> None:
        one_hot = OneHot(feature="words", depth=9)
        assert ReducerConfig((pca(inputs=("a", one_hot)),), label_key="y").to_json() == (
            '{"label_key":"y","reductions":[{"inputs":["a",{"depth":9,"feature":"words","kind":"one_hot",'
            '"vocabulary":"","weights":""}],"keep_inputs":false,"kind":"pca","n_components":0.99,'
            '"not_finite":"refuse","output":"pca","standardise":true,"whiten":false}]}'
        )
        rule = pca(n_components=ComponentRule.BROKEN_STICK, not_finite=NotFinite.DROP_ROWS)
        assert '"n_components":"broken_stick","not_finite":"drop_rows"' in rule.to_json()
