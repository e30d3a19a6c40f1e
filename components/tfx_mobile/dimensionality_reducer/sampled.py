"""Methods that scikit-learn fits to the bounded sample: components, parts and topics.

Equal rows count as often as they occur. What is fitted depends on the sample alone, which is the same however
the rows are sharded; order and signs are fixed. Does not apply what it fits (models.py).
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.spatial import distance
from sklearn import decomposition
from sklearn.exceptions import ConvergenceWarning

from tfx_mobile.common.errors import DataError
from tfx_mobile.dimensionality_reducer.checks import subject
from tfx_mobile.dimensionality_reducer.config import (
    NMF,
    FastICA,
    KernelPCA,
    LatentDirichletAllocation,
    NotFinite,
    Sampled,
    SparsePCA,
)
from tfx_mobile.dimensionality_reducer.linear import fix_signs, inverse_deviation, signs
from tfx_mobile.dimensionality_reducer.models import Fitted, Kernel, Linear, Model, Parts, Topics
from tfx_mobile.dimensionality_reducer.rows import FloatArray, Rows
from tfx_mobile.dimensionality_reducer.statistics import TRAIN_SPLIT, Statistics, and_others

_RANK_TOLERANCE = 1e-12  # a variance below this share of the largest one is rounding, not signal
_KERNEL_RANK_TOLERANCE = 1e-6  # likewise, of a kernel that float32 computes to about 1e-6


@dataclasses.dataclass(frozen=True)
class _Different:
    """The different rows of the sample, numbers imputed if asked for.

    Attributes:
      rows: What they hold.
      occurrences: Shape (n,), float64, how many rows each stands for.
      columns: Names of the d columns.
      notes: What a reader should know about the sample.
    """

    rows: Rows
    occurrences: FloatArray
    columns: list[str]
    notes: list[str]

    def fitted(self, model: Model, **found: Any) -> Fitted:
        """Returns the fitted reduction."""
        return Fitted(
            model=model,
            columns=self.columns,
            num_rows=int(self.occurrences.sum()),
            notes=tuple(self.notes),
            **found,
        )


def fit_fast_ica(statistics: Statistics, config: FastICA, columns: list[str]) -> Fitted:
    """Returns the independent components of the sample.

    They come in the order of the variance they explain: being uncorrelated and of variance 1, each explains
    the squared length of its column of the mixing matrix. The column that correlates most with a component
    does so positively.

    Args:
      statistics: Of all rows.
      config: What to fit.
      columns: Names of the d columns.

    Raises:
      DataError: Every column is constant, or more components are asked for than the sample has dimensions.
    """
    sample = _different(statistics, config, columns)
    dense = _repeated(statistics, config).dense().astype(np.float64)
    deviations = dense.std(axis=0) * _varies(dense)
    _check_varies(config, deviations > 0, columns)
    standardised = (dense - dense.mean(axis=0)) * inverse_deviation(deviations**2)
    _check_rank(config, np.linalg.svd(standardised, compute_uv=False) ** 2)
    ica = decomposition.FastICA(
        n_components=config.n_components,
        whiten="unit-variance",
        max_iter=config.max_iter,
        random_state=config.seed,
    )
    with _convergence(sample.notes, config.name, "max_iter"):
        ica.fit(dense)
    explained = (ica.mixing_**2).sum(axis=0)
    order = np.argsort(-explained, kind="stable")
    correlations = ica.mixing_ * inverse_deviation(deviations**2)[:, None]
    unmixing = (ica.components_.T * signs(correlations))[:, order]
    return sample.fitted(
        Linear(ica.mean_, unmixing),
        loadings=unmixing,
        explained_variance=explained[order],
        explained_variance_ratio=explained[order] / (deviations**2).sum(),
    )


def fit_sparse_pca(statistics: Statistics, config: SparsePCA, columns: list[str]) -> Fitted:
    """Returns principal components with few loadings that are not zero, in order of their outputs' variance.

    The largest loading of each is positive. The variance a component explains is what it has that earlier
    ones do not (Zou, Hastie and Tibshirani 2006, section 3.4), since they may correlate.

    Args:
      statistics: Of all rows.
      config: What to fit.
      columns: Names of the d columns.

    Raises:
      DataError: Every column is constant, or `alpha` leaves no loading.
    """
    sample = _different(statistics, config, columns)
    dense = sample.rows.dense().astype(np.float64)
    mean, deviations = _mean_and_deviations(dense, sample.occurrences)
    _check_varies(config, deviations > 0, columns)
    scale = inverse_deviation(deviations**2) if config.standardise else _varies(dense).astype(np.float64)
    centred = (dense - mean) * scale
    covariance = (centred * sample.occurrences[:, None]).T @ centred / (sample.occurrences.sum() - 1)
    # The fit depends on the rows through their cross-products only, so rows of a root of the covariance do
    # as well, and are fewer; each once with either sign, so that centring does not change them.
    variances, vectors = np.linalg.eigh(covariance)
    root = np.sqrt(np.clip(variances, 0, None))[:, None] * vectors.T
    pca = decomposition.SparsePCA(
        n_components=config.n_components,
        alpha=config.alpha,
        max_iter=config.max_iter,
        method="cd",
        random_state=config.seed,
    )
    with _convergence(sample.notes, config.name, "max_iter"):
        pca.fit(np.concatenate([root, -root]) / np.sqrt(2.0))
    if pca.n_iter_ >= config.max_iter:
        sample.notes.append(_not_converged(config.name, "max_iter"))
    # A component that the data have no direction for is left with loadings across them, as rounding has it.
    spread = np.einsum("ki,ij,kj->k", pca.components_, covariance, pca.components_)
    found = pca.components_ * (spread > _RANK_TOLERANCE * np.trace(covariance))[:, None]
    empty = int((~found.any(axis=1)).sum())
    if empty == len(found):
        raise DataError(
            f"SparsePCA with alpha={config.alpha} leaves no loading in any component; give a smaller alpha."
        )
    if empty:
        sample.notes.append(
            f"{empty} of {len(found)} components have no loading and are always 0; a smaller alpha or fewer "
            "components would mend that."
        )
    gram = found @ found.T + config.ridge_alpha * np.eye(len(found))
    matrix = found.T @ np.linalg.pinv(gram, hermitian=True)
    order = np.argsort(-np.einsum("ik,ij,jk->k", matrix, covariance, matrix), kind="stable")
    sign = signs(found.T)[order]
    matrix = matrix[:, order] * sign
    explained = np.diag(np.linalg.qr(root @ matrix, mode="r")) ** 2
    return sample.fitted(
        Linear(mean, scale[:, None] * matrix),
        loadings=found[order].T * sign + 0.0,  # no -0
        explained_variance=explained,
        explained_variance_ratio=explained / np.trace(covariance),
    )


def fit_kernel_pca(statistics: Statistics, config: KernelPCA, columns: list[str]) -> Fitted:
    """Returns the principal components of the landmarks in the space of a radial basis function kernel.

    The landmarks are the sample's first rows by hash, so a uniform sample of the different rows. The weight
    of largest magnitude of each component is positive.

    Args:
      statistics: Of all rows.
      config: What to fit.
      columns: Names of the d columns.

    Raises:
      DataError: Every column is constant, or more components are asked for than the landmarks have in this
        kernel.
    """
    sample = _different(statistics, config, columns)
    dense = sample.rows.dense().astype(np.float64)
    mean, deviations = _mean_and_deviations(dense, sample.occurrences)
    _check_varies(config, deviations > 0, columns)
    scale = inverse_deviation(deviations**2) if config.standardise else np.ones(len(columns))
    num_landmarks = min(config.num_landmarks, len(dense))
    if num_landmarks < config.num_landmarks:
        sample.notes.append(
            f"There are {num_landmarks} landmarks, not {config.num_landmarks}: the split has no more "
            "different rows."
        )
    # Counts are near zero as they are; centring them would cost their sparseness.
    mean = np.where(np.arange(len(columns)) < sample.rows.num_numbers, mean, 0.0)
    landmarks = (dense[:num_landmarks] - mean) * scale
    gamma = 1 / len(columns) if config.gamma is None else config.gamma
    shares = sample.occurrences[:num_landmarks] / sample.occurrences[:num_landmarks].sum()
    kernel = np.exp(-gamma * distance.cdist(landmarks, landmarks, "sqeuclidean"))
    mean_kernel = shares @ kernel
    centred = kernel - mean_kernel - mean_kernel[:, None] + mean_kernel @ shares
    # A landmark that stands for n rows counts as n (its share of the rows): the components are those of the
    # kernel of all these rows, from a matrix no larger than that of the landmarks.
    roots = np.sqrt(shares)
    variances, vectors = np.linalg.eigh(roots[:, None] * centred * roots)
    variances, vectors = np.clip(variances[::-1], 0, None), vectors[:, ::-1]
    rank = int((variances > max(variances[0] * _KERNEL_RANK_TOLERANCE, _KERNEL_RANK_TOLERANCE**2)).sum())
    if config.n_components > rank:
        raise DataError(
            f"KernelPCA.n_components must be at most {rank}, as many components as the {num_landmarks} "
            f"landmarks have in a kernel of gamma={gamma:g}; got {config.n_components}. Give more landmarks "
            "or a larger gamma."
        )
    kept = variances[: config.n_components]
    matrix = roots[:, None] * vectors[:, : config.n_components] / np.sqrt(kept)
    return sample.fitted(
        Kernel(mean, scale, landmarks, gamma, mean_kernel, fix_signs(matrix)),
        explained_variance=kept,
        explained_variance_ratio=kept / variances.sum(),
        all_variances=variances,
    )


def fit_nmf(statistics: Statistics, config: NMF, columns: list[str]) -> Fitted:
    """Returns the non-negative parts whose sums come nearest to the sample's rows, the commonest first.

    Each part has length 1 (Euclidean norm), so that its amount is in units of the columns.

    Args:
      statistics: Of all rows.
      config: What to fit.
      columns: Names of the d columns.

    Raises:
      DataError: A number is negative in any row, all are 0, or there are fewer different rows than parts.
    """
    _check_not_negative(statistics, config, columns)
    sample = _different(statistics, config, columns)
    # A row that stands for n rows counts as n where it is the square root of n times as long.
    weights = np.sqrt(sample.occurrences / sample.occurrences.mean())
    rows = sparse.diags(weights) @ _sparse(sample.rows)
    total = float(rows.power(2).sum())
    _check_not_zero(config, total, columns)
    if config.n_components > sample.rows.num_rows:
        _check_varies(config, np.full(len(columns), sample.rows.num_rows > 1), columns)
        raise DataError(
            f"NMF.n_components must be at most {sample.rows.num_rows}, the number of different rows in split "
            f"'{TRAIN_SPLIT}'; got {config.n_components}."
        )
    nmf = decomposition.NMF(
        n_components=config.n_components, init="nndsvda", max_iter=config.max_iter, random_state=config.seed
    )
    given = rows if sample.rows.counts.shape[1] else rows.toarray()
    with _convergence(sample.notes, config.name, "max_iter"):
        amounts = nmf.fit_transform(given)
    lengths = np.sqrt((nmf.components_**2).sum(axis=1))
    order = np.argsort(-((amounts * lengths) ** 2).sum(axis=0), kind="stable")
    parts = nmf.components_[order] / np.where(lengths > 0, lengths, 1.0)[order, None]
    if empty := int((lengths == 0).sum()):
        sample.notes.append(
            f"{empty} of {len(parts)} parts are empty and their amounts always 0; fewer would do."
        )
    kept = 1 - nmf.reconstruction_err_**2 / total
    sample.notes.append(f"The parts make up {kept:.1%} of the sum of squares of the sample's rows.")
    return sample.fitted(Parts(parts, config.num_updates), loadings=parts.T)


def fit_latent_dirichlet_allocation(
    statistics: Statistics, config: LatentDirichletAllocation, columns: list[str]
) -> Fitted:
    """Returns the topics of the sample's counts, that with most counts first.

    Args:
      statistics: Of all rows.
      config: What to fit.
      columns: Names of the d columns.

    Raises:
      DataError: A count is negative in any row, or all are 0.
    """
    _check_not_negative(statistics, config, columns)
    sample = _different(statistics, config, columns)
    counts = _sparse(_repeated(statistics, config))
    _check_not_zero(config, float(counts.sum()), columns)
    model = decomposition.LatentDirichletAllocation(
        n_components=config.n_components,
        learning_method="batch",
        max_iter=config.max_iter,
        random_state=config.seed,
    )
    model.fit(counts)
    order = np.argsort(-model.components_.sum(axis=1), kind="stable")
    topics = model.components_[order]
    sample.notes.append(f"The perplexity of the sample is {model.bound_:.4g} per count.")
    return sample.fitted(
        Topics(model.exp_dirichlet_component_[order], float(model.doc_topic_prior_), config.num_updates),
        loadings=(topics / topics.sum(axis=1, keepdims=True)).T,
    )


def _different(statistics: Statistics, config: Sampled, columns: list[str]) -> _Different:
    rows, occurrences = statistics.sample.rows, statistics.sample.occurrences
    stands_for = int(occurrences.sum())
    if stands_for < 2:
        raise DataError(
            f"{config.name} needs at least 2 rows without NaN or infinity in split '{TRAIN_SPLIT}'; got "
            f"{stands_for}."
        )
    notes = []
    impute = config.not_finite is NotFinite.IMPUTE_MEAN
    if stands_for < (candidates := statistics.num_rows - (0 if impute else statistics.num_bad_rows)):
        notes.append(
            f"Fitted on a sample of {rows.num_rows} different rows that stand for {stands_for} of "
            f"{candidates} rows."
        )
    rows = rows if statistics.fill is None else rows.imputed(statistics.fill)
    return _Different(rows, occurrences.astype(np.float64), columns, notes)


def _repeated(statistics: Statistics, config: Sampled) -> Rows:
    """Returns each row as often as it occurs; as many as the sample may hold if that makes more."""
    rows = statistics.sample.repeated(config.sample_rows)
    return rows if statistics.fill is None else rows.imputed(statistics.fill)


def _sparse(rows: Rows) -> Any:
    """Returns all columns side by side, float64, shape (n, d)."""
    return sparse.hstack([sparse.csr_matrix(rows.numbers), rows.counts], format="csr", dtype=np.float64)


def _varies(dense: FloatArray) -> npt.NDArray[np.bool_]:
    """Returns which columns have different values; the variance of one that does not is but rounding."""
    return np.asarray(dense.max(axis=0) > dense.min(axis=0))


def _mean_and_deviations(dense: FloatArray, occurrences: FloatArray) -> tuple[FloatArray, FloatArray]:
    total = occurrences.sum()
    mean = occurrences @ dense / total
    variances = occurrences @ (dense - mean) ** 2 / (total - 1)
    return mean, np.sqrt(variances) * _varies(dense)


def _check_varies(config: Sampled, varies: npt.NDArray[np.bool_], columns: list[str]) -> None:
    if not varies.any():
        raise DataError(
            f"{config.name} needs a feature that varies; {subject(columns)} constant in split "
            f"'{TRAIN_SPLIT}'."
        )


def _check_rank(config: Sampled, variances: npt.NDArray[Any]) -> None:
    rank = int((variances > variances[0] * _RANK_TOLERANCE).sum())
    if config.n_components > rank:
        raise DataError(
            f"{config.name}.n_components must be at most {rank}, the number of directions in which the "
            f"columns vary in split '{TRAIN_SPLIT}' (some are constant or sums of others); got "
            f"{config.n_components}."
        )


def _check_not_negative(statistics: Statistics, config: Sampled, columns: list[str]) -> None:
    if not statistics.num_negative.any():
        return
    worst = int(np.argmax(statistics.num_negative))
    others = and_others(int((statistics.num_negative > 0).sum()) - 1)
    raise DataError(
        f"Feature {columns[worst]!r} must not be negative for {config.name}; got "
        f"{statistics.num_negative[worst]} negative of {statistics.num_rows} rows in split '{TRAIN_SPLIT}', "
        f"the smallest {statistics.minimum[worst]:g}{others}. Scale it to [0, 1] in preprocessing_fn or "
        "leave it out of the inputs."
    )


def _check_not_zero(config: Sampled, total: float, columns: list[str]) -> None:
    if not total > 0:
        raise DataError(
            f"{config.name} needs numbers above 0; {subject(columns)} all 0 in split '{TRAIN_SPLIT}'."
        )


@contextlib.contextmanager
def _convergence(notes: list[str], name: str, setting: str) -> Iterator[None]:
    """Makes a note of scikit-learn's warning that a fit has not converged; other warnings stay warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        yield
    for warning in caught:
        if not issubclass(warning.category, ConvergenceWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if any(issubclass(warning.category, ConvergenceWarning) for warning in caught):
        notes.append(_not_converged(name, setting))


def _not_converged(name: str, setting: str) -> str:
    return f"The fit has not converged; raise {name}.{setting} or ask for fewer components."
