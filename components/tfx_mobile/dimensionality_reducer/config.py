"""What a reduction is asked to do. Settings only; the arithmetic is in core.py and what it calls.

Every method is a frozen dataclass that takes some transformed features and makes one vector of them. Names
and defaults are scikit-learn's where it has the method; `standardise` and `whiten` as in Jolliffe (2002).
"""

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.jsonable import Settings


class NotFinite(enum.Enum):
    """What to do with NaN and infinity in the inputs of a reduction.

    Attributes:
      REFUSE: Fail, naming feature, split and count.
      DROP_ROWS: Leave the rows out, of the fit and of what is written; on the phone such a row gives NaN.
      IMPUTE_MEAN: Put the mean of the train split's finite values in their place, on the phone too.
    """

    REFUSE = "refuse"
    DROP_ROWS = "drop_rows"
    IMPUTE_MEAN = "impute_mean"


class ComponentRule(enum.Enum):
    """A rule that chooses the number of principal components.

    Attributes:
      PARALLEL_ANALYSIS: Those whose variance is above the 95th percentile of what uncorrelated normal columns
        of the same shape give (Horn 1965; Glorfeld 1995).
      BROKEN_STICK: Those whose share is above that of a stick broken at random (Frontier 1976).
    """

    PARALLEL_ANALYSIS = "parallel_analysis"
    BROKEN_STICK = "broken_stick"


class Score(enum.Enum):
    """How SelectKBest ranks columns.

    Attributes:
      F_REGRESSION: F-test of the correlation with a numeric label.
      F_CLASSIF: F-test of the analysis of variance between the classes of the label.
      MUTUAL_INFO: Mutual information of the column and the label, both in bins, in nats.
    """

    F_REGRESSION = "f_regression"
    F_CLASSIF = "f_classif"
    MUTUAL_INFO = "mutual_info"


@dataclasses.dataclass(frozen=True)
class OneHot(Settings):
    """A feature of vocabulary indices, as the one-hot vector of its index, without ever writing it out.

    Where a row has several indices their vectors are added up: counts, a bag of words. Indices outside
    [0, depth), such as -1 for a word that is not in the vocabulary, count as nothing.

    Attributes:
      feature: A transformed int64 feature: one index a row, several, or a varying number (multivalent).
      depth: Length of the vector. By default as many as the feature has values by Transform's schema (which
        `tft.compute_and_apply_vocabulary` and `tft.bucketize` write, those of words that are not in the
        vocabulary included) or `vocabulary` has words, whichever is more.
      vocabulary: Name of the TFT vocabulary the indices are of; its words name the columns in the report.
      weights: A feature with one number for each index, such as the second output of `tft.tfidf`; 1 each
        by default.
    """

    kind: ClassVar[str] = "one_hot"

    feature: str
    depth: int | None = None
    vocabulary: str = ""
    weights: str = ""

    def __post_init__(self) -> None:
        if not self.feature:
            raise ConfigError("OneHot.feature must name a feature; got an empty name.")
        if self.weights == self.feature:
            raise ConfigError(
                f"OneHot.weights must be another feature than its indices; got {self.weights!r}."
            )
        if self.depth is not None:
            _check_count("OneHot.depth", self.depth)


Input = str | OneHot


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reduction(Settings):
    """What every method has.

    Attributes:
      inputs: Transformed features: names of numeric ones (scalars and vectors of fixed width), and `OneHot`
        for vocabulary indices.
      output: Name of the feature to make, a vector of float32.
      keep_inputs: Leave the input features in the Examples beside the output.
      not_finite: What to do with NaN and infinity.
    """

    needs_label: ClassVar[bool] = False

    inputs: tuple[Input, ...]
    output: str
    keep_inputs: bool = False
    not_finite: NotFinite = NotFinite.REFUSE

    def __post_init__(self) -> None:
        inputs: object = self.inputs  # whatever the author wrote; a string would count as its letters
        several = isinstance(inputs, (tuple, list))
        if not several or not self.inputs or len(set(self.inputs)) != len(self.inputs):
            got = list(self.inputs) if several else repr(inputs)
            raise ConfigError(f"{self.name}.inputs must be one or more different features; got {got}.")
        if wrong := [one for one in self.inputs if not isinstance(one, (str, OneHot)) or not one]:
            raise ConfigError(f"{self.name}.inputs must be names of features or OneHot; got {wrong[0]!r}.")
        if not self.output:
            raise ConfigError(f"{self.name}.output must name the feature to make; got an empty name.")

    @property
    def name(self) -> str:
        """The method, as messages call it."""
        return type(self).__name__

    @property
    def numeric(self) -> tuple[str, ...]:
        """The inputs that are numbers."""
        return tuple(one for one in self.inputs if isinstance(one, str))

    @property
    def one_hot(self) -> tuple[OneHot, ...]:
        """The inputs that are vocabulary indices."""
        return tuple(one for one in self.inputs if isinstance(one, OneHot))

    @property
    def features(self) -> tuple[str, ...]:
        """Every feature that is read, those of weights included."""
        indices = [name for one in self.one_hot for name in (one.feature, one.weights) if name]
        return (*self.numeric, *dict.fromkeys(indices))

    def width(self, widths: Mapping[Input, int]) -> int:
        """Returns how many numbers go in, one-hot vectors included."""
        return sum(widths[one] for one in self.inputs)

    def columns(
        self, widths: Mapping[Input, int], words: Mapping[OneHot, Sequence[str]] | None = None
    ) -> list[str]:
        """Returns a name for each number that goes in: those of numeric features, then the one-hot ones.

        Args:
          widths: By input, its numbers per row.
          words: The vocabulary of one-hot inputs, where it is known.

        Returns:
          `name`, or `name[i]` where a feature has several values; `name=word` of a one-hot one, or
          `name*weights=word`. No two are alike: what comes again has its position added.
        """
        numbers = [
            name if widths[name] == 1 else f"{name}[{i}]"
            for name in self.numeric
            for i in range(widths[name])
        ]
        indices = []
        for one in self.one_hot:
            known = (words or {}).get(one, ())
            name = f"{one.feature}*{one.weights}" if one.weights else one.feature
            indices += [f"{name}={known[i] if i < len(known) else i}" for i in range(widths[one])]
        return _unlike([*numbers, *indices])

    def _check_components(self, wanted: object) -> None:
        _check_count(f"{self.name}.n_components", wanted)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PCA(Reduction):
    """Principal component analysis (Jolliffe 2002, chapter 2).

    Attributes:
      n_components: How many components to keep as an int >= 1, the share of variance to keep as a float in
        (0, 1], or a rule.
      standardise: Divide each column by its standard deviation first (correlation matrix).
      whiten: Scale each component to variance 1.
    """

    kind: ClassVar[str] = "pca"

    n_components: int | float | ComponentRule = 0.99
    standardise: bool = True
    whiten: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.n_components, ComponentRule):
            if self.n_components is ComponentRule.PARALLEL_ANALYSIS and not self.standardise:
                raise ConfigError(
                    "PCA by parallel analysis compares with columns of variance 1; set standardise=True."
                )
        elif not _is_count(self.n_components) and not _is_share(self.n_components):
            raise ConfigError(
                "PCA.n_components must be a count (int >= 1), a share of variance (float in (0, 1]) or a "
                f"ComponentRule; got {self.n_components!r}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TruncatedSVD(Reduction):
    """Singular value decomposition without centring; of counts or TF-IDF, latent semantic analysis (LSA).

    Attributes:
      n_components: How many components to keep as an int >= 1, or the share of the sum of squares to keep as
        a float in (0, 1].
    """

    kind: ClassVar[str] = "truncated_svd"

    n_components: int | float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _is_count(self.n_components) and not _is_share(self.n_components):
            raise ConfigError(
                "TruncatedSVD.n_components must be a count (int >= 1) or a share of the sum of squares "
                f"(float in (0, 1]); got {self.n_components!r}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LDA(Reduction):
    """Linear discriminant analysis: the directions that part the label's classes (Fisher 1936; Rao 1948).

    The covariance within the classes becomes the identity.

    Attributes:
      n_components: How many directions; by default as many as there are, the number of classes less one.
      shrinkage: In [0, 1]; how far the covariance within classes is drawn to a multiple of the identity.
    """

    kind: ClassVar[str] = "lda"
    needs_label: ClassVar[bool] = True

    n_components: int | None = None
    shrinkage: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_components is not None:
            self._check_components(self.n_components)
        _check_range("LDA.shrinkage", self.shrinkage, 0, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PLS(Reduction):
    """Partial least squares regression on a numeric label (Wold 1966): the directions that covary with it.

    Attributes:
      n_components: How many directions.
      standardise: Divide each column by its standard deviation first.
    """

    kind: ClassVar[str] = "pls"
    needs_label: ClassVar[bool] = True

    n_components: int = 2
    standardise: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_components(self.n_components)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VarianceThreshold(Reduction):
    """Keeps the columns that vary more than a threshold.

    Attributes:
      threshold: Columns of a variance (population variance, squared units of the column) above it stay.
    """

    kind: ClassVar[str] = "variance_threshold"

    threshold: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("VarianceThreshold.threshold", self.threshold, 0, math.inf)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorrelationFilter(Reduction):
    """Drops each column that correlates with an earlier one that stays; constant ones too.

    Attributes:
      threshold: Columns whose absolute Pearson correlation is above it are dropped, in [0, 1].
    """

    kind: ClassVar[str] = "correlation_filter"

    threshold: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("CorrelationFilter.threshold", self.threshold, 0, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectKBest(Reduction):
    """Keeps the k columns that say most about the label, in their own order.

    Attributes:
      k: How many columns.
      score: How they are ranked.
    """

    kind: ClassVar[str] = "select_k_best"
    needs_label: ClassVar[bool] = True

    k: int = 10
    score: Score = Score.F_REGRESSION

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count("SelectKBest.k", self.k)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomProjection(Reduction):
    """What random projections share.

    Attributes:
      n_components: How many directions; by default what the Johnson-Lindenstrauss lemma asks for, so that
        squared distances between the rows change by at most `eps`.
      eps: In (0, 1); used when n_components is not given.
      seed: Of the random matrix.
    """

    n_components: int | None = None
    eps: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_components is not None:
            self._check_components(self.n_components)
        if type(self.eps) is not float or not 0 < self.eps < 1:
            raise ConfigError(f"{self.name}.eps must be between 0 and 1, both excluded; got {self.eps!r}.")
        _check_seed(f"{self.name}.seed", self.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianRandomProjection(RandomProjection):
    """Projection on random normal directions, which keeps distances (Dasgupta and Gupta 2003)."""

    kind: ClassVar[str] = "gaussian_random_projection"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparseRandomProjection(RandomProjection):
    """Projection on random sparse directions, which keeps distances (Li, Hastie and Church 2006).

    Attributes:
      density: Share of weights that are not zero, in (0, 1]; 1 / sqrt(number of columns) by default.
    """

    kind: ClassVar[str] = "sparse_random_projection"

    density: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.density is not None and not _is_share(self.density):
            raise ConfigError(f"{self.name}.density must be a float in (0, 1]; got {self.density!r}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampled(Reduction):
    """What methods fitted on a sample share.

    Attributes:
      n_components: How many components.
      sample_rows: How many different rows the sample holds at most; the same ones however the data are
        sharded. Equal rows count as often as they occur.
      seed: Of the sample and the fit.
    """

    n_components: int
    sample_rows: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_components(self.n_components)
        _check_count(f"{self.name}.sample_rows", self.sample_rows)
        _check_seed(f"{self.name}.seed", self.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FastICA(Sampled):
    """Independent component analysis (Hyvarinen and Oja 2000); components have variance 1.

    Attributes:
      max_iter: Iterations of the fit at most.
    """

    kind: ClassVar[str] = "fast_ica"

    max_iter: int = 400

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count("FastICA.max_iter", self.max_iter)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NMF(Sampled):
    """Non-negative matrix factorisation (Lee and Seung 2001): rows as sums of non-negative parts.

    Attributes:
      num_updates: Multiplicative updates with which a row's parts are found, on the phone as in the Examples.
      max_iter: Iterations of the fit at most.
    """

    kind: ClassVar[str] = "nmf"

    num_updates: int = 50
    max_iter: int = 400

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count("NMF.num_updates", self.num_updates)
        _check_count("NMF.max_iter", self.max_iter)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparsePCA(Sampled):
    """Principal components with few loadings that are not zero (Zou, Hastie and Tibshirani 2006).

    Attributes:
      alpha: Weight of the L1 penalty: a column whose correlation with a component (if not standardised, its
        covariance with one of variance 1) is below about `alpha` has no loading. scikit-learn's is this one
        times the square root of the number of rows.
      ridge_alpha: Weight of the ridge penalty when rows are projected.
      standardise: Divide each column by its standard deviation first.
      max_iter: Iterations of the fit at most.
    """

    kind: ClassVar[str] = "sparse_pca"

    alpha: float = 0.1
    ridge_alpha: float = 0.01
    standardise: bool = True
    max_iter: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("SparsePCA.alpha", self.alpha, 0, math.inf)
        _check_range("SparsePCA.ridge_alpha", self.ridge_alpha, 0, math.inf)
        _check_count("SparsePCA.max_iter", self.max_iter)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelPCA(Sampled):
    """Principal components in the space of a radial basis function kernel, on landmarks (Schölkopf 1998).

    Attributes:
      num_landmarks: Rows of the sample that span the components; each costs one row of weights on the phone.
      gamma: Of the kernel exp(-gamma |x - y|^2); 1 / (number of columns) by default.
      standardise: Divide each column by its standard deviation first.
    """

    kind: ClassVar[str] = "kernel_pca"

    num_landmarks: int = 256
    gamma: float | None = None
    standardise: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count("KernelPCA.num_landmarks", self.num_landmarks)
        if self.num_landmarks > self.sample_rows:
            raise ConfigError(
                f"KernelPCA.num_landmarks must be at most sample_rows, {self.sample_rows}; got "
                f"{self.num_landmarks}."
            )
        if self.n_components > self.num_landmarks:
            raise ConfigError(
                f"KernelPCA.n_components must be at most num_landmarks, {self.num_landmarks}; got "
                f"{self.n_components}."
            )
        gamma: object = self.gamma
        if gamma is not None and not (type(gamma) in (int, float) and 0 < gamma < math.inf):  # type: ignore[operator]
            raise ConfigError(f"KernelPCA.gamma must be a finite number above 0; got {self.gamma!r}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentDirichletAllocation(Sampled):
    """Topics of counts such as bags of words (Blei, Ng and Jordan 2003); a row's shares of topics sum to 1.

    Attributes:
      n_components: How many topics.
      sample_rows: As for the other methods, but fewer by default: the fit goes row by row.
      num_updates: Variational updates with which a row's topics are found, on the phone as in the Examples.
      max_iter: Iterations of the fit at most.
    """

    kind: ClassVar[str] = "latent_dirichlet_allocation"

    n_components: int = 10
    sample_rows: int = 5_000
    num_updates: int = 30
    max_iter: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count("LatentDirichletAllocation.num_updates", self.num_updates)
        _check_count("LatentDirichletAllocation.max_iter", self.max_iter)


AnyReduction = (
    PCA
    | TruncatedSVD
    | LDA
    | PLS
    | VarianceThreshold
    | CorrelationFilter
    | SelectKBest
    | GaussianRandomProjection
    | SparseRandomProjection
    | FastICA
    | NMF
    | SparsePCA
    | KernelPCA
    | LatentDirichletAllocation
)


@dataclasses.dataclass(frozen=True)
class ReducerConfig(Settings):
    """All reductions of one run.

    Attributes:
      reductions: At least one; each has its own output, and no output is another's input.
      label_key: The transformed label, for the methods that need one and to colour the report's projection.
    """

    reductions: tuple[AnyReduction, ...]
    label_key: str = ""

    def __post_init__(self) -> None:
        if not self.reductions:
            raise ConfigError("DimensionalityReducer needs at least one reduction; got none.")
        if wrong := [one for one in self.reductions if not isinstance(one, Reduction)]:
            raise ConfigError(f"A reduction must be one of this package's methods; got {wrong[0]!r}.")
        outputs = [reduction.output for reduction in self.reductions]
        if len(set(outputs)) != len(outputs):
            raise ConfigError(f"Each reduction must have an output of its own; got {outputs}.")
        inputs = self.input_features()
        if clash := sorted(inputs & set(outputs)):
            raise ConfigError(f"An output must not be an input of a reduction; got {clash}.")
        if self.label_key in {*inputs, *outputs}:
            raise ConfigError(
                f"The label {self.label_key!r} must not be an input or an output of a reduction: a phone "
                "does not have it."
            )
        if not self.label_key and (needing := [one.name for one in self.reductions if one.needs_label]):
            raise ConfigError(f"{needing[0]} needs a label; give DimensionalityReducer its label_key.")

    def input_features(self) -> set[str]:
        """Returns every feature that a reduction reads."""
        return {name for reduction in self.reductions for name in reduction.features}

    def dropped_features(self) -> set[str]:
        """Returns the input features that do not pass through."""
        kept = {name for reduction in self.reductions if reduction.keep_inputs for name in reduction.features}
        return self.input_features() - kept


def _unlike(names: list[str]) -> list[str]:
    """Returns the names, each with its position added if it has come before."""
    found: dict[str, None] = {}
    for i, name in enumerate(names):
        while name in found:
            name = f"{name} #{i}"
        found[name] = None
    return list(found)


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 1


def _is_share(value: object) -> bool:
    return type(value) is float and 0 < value <= 1


def _check_count(name: str, value: object) -> None:
    if not _is_count(value):
        raise ConfigError(f"{name} must be an int of at least 1; got {value!r}.")


def _check_seed(name: str, value: object) -> None:
    if type(value) is not int or not 0 <= value < 2**32:
        raise ConfigError(f"{name} must be an int in [0, 2**32); got {value!r}.")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if type(value) not in (int, float) or not low <= value <= high or value == math.inf:
        limits = f"in [{low}, {high}]" if high < math.inf else f"finite and at least {low}"
        raise ConfigError(f"{name} must be {limits}; got {value!r}.")
