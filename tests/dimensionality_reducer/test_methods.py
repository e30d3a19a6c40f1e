"""Every method on Beam in one run: of numbers, vectors, vocabulary indices and sparse features."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from sklearn import decomposition
from tests.dimensionality_reducer.reading import beside, columns_of, graph_columns, output_of, read_all

from tfx_mobile.dimensionality_reducer import config
from tfx_mobile.dimensionality_reducer.config import OneHot

pytestmark = pytest.mark.pipeline

NUMBERS = ("miles_z", "latitude_z", "powers", "seconds_z")
COMPANY = OneHot("company_id", vocabulary="company")
WORDS = OneHot("word_ids", vocabulary="words")
TFIDF = OneHot("tfidf_ids", depth=5, weights="tfidf_weights")
BUCKET = OneHot("miles_bucket")
MIXED = (*NUMBERS, COMPANY, WORDS)

REGRESSIONS = [
    config.PCA(inputs=MIXED, output="pca", n_components=5),
    config.PCA(inputs=(BUCKET, "powers"), output="whitened", n_components=3, whiten=True),
    config.TruncatedSVD(inputs=(WORDS,), output="lsa", n_components=2),
    config.TruncatedSVD(inputs=(TFIDF,), output="lsa_tfidf", n_components=3),
    config.PLS(inputs=MIXED, output="pls", n_components=2),
    config.VarianceThreshold(inputs=MIXED, output="varying", threshold=0.01),
    config.CorrelationFilter(inputs=(*NUMBERS, BUCKET), output="uncorrelated", threshold=0.9),
    config.SelectKBest(inputs=MIXED, output="best_f", k=4),
    config.SelectKBest(inputs=(*NUMBERS, COMPANY), output="best_mi", k=3, score=config.Score.MUTUAL_INFO),
    config.GaussianRandomProjection(inputs=MIXED, output="gaussian", n_components=4),
    config.SparseRandomProjection(inputs=MIXED, output="sparse", n_components=4),
    config.FastICA(inputs=NUMBERS, output="ica", n_components=2),
    config.NMF(inputs=("powers", WORDS), output="nmf", n_components=2),
    config.SparsePCA(inputs=MIXED, output="sparse_pca", n_components=2),
    config.KernelPCA(inputs=(*NUMBERS, COMPANY), output="kernel", n_components=3, num_landmarks=32),
    config.LatentDirichletAllocation(inputs=(WORDS,), output="topics", n_components=2),
]
KEPT = [dataclasses.replace(one, keep_inputs=True) for one in REGRESSIONS]
# These want classes, and the fare is a number: they have a run of their own.
CLASSES = [
    config.LDA(inputs=(*NUMBERS, WORDS), output="lda"),
    config.SelectKBest(inputs=(*MIXED, TFIDF), output="best_f", k=4, score=config.Score.F_CLASSIF),
]


@pytest.fixture(scope="session")
def everything(source: Any) -> Any:
    return source.run(*KEPT, label_key="fare")


@pytest.fixture(scope="session")
def classified(source: Any) -> Any:
    return source.run(*CLASSES, label_key="long_fare")


def one_hot(indices: Any, depth: int) -> Any:
    return (indices.reshape(-1, 1) == np.arange(depth)).astype(np.float64)


def bag_of_words(source: Any, split: str) -> Any:
    """Returns the counts of each word in the raw rows, in the order of the fares."""
    words = [word.decode() for word in output_of(source.transform_graph).vocabulary_by_name("words")]
    rows = sorted(source.raw[split], key=lambda row: row["fare"])
    return np.array([[row["words"].count(word) for word in words] for row in rows], np.float64)


@pytest.mark.parametrize("split", ["train", "eval"])
@pytest.mark.parametrize("reduction", REGRESSIONS, ids=lambda one: one.output)
def test_what_is_written_is_what_the_graph_says(
    source: Any, everything: Any, as_tensors: Any, split: str, reduction: Any
) -> None:
    said = graph_columns(everything.transform_graph, as_tensors(source.raw[split]))[reduction.output]
    written = columns_of(everything.examples, everything.transform_graph, split)[reduction.output]
    assert np.isfinite(said).all()
    assert said.std(axis=0).max() > 0
    # float32 rounding of sums and, for the iterative ones, of some dozen updates that contract.
    np.testing.assert_allclose(written, said, rtol=0, atol=2e-5 * np.abs(said).max())


@pytest.mark.parametrize("reduction", CLASSES, ids=lambda one: one.output)
def test_what_is_written_for_classes_is_what_the_graph_says(
    source: Any, classified: Any, as_tensors: Any, reduction: Any
) -> None:
    said = graph_columns(classified.transform_graph, as_tensors(source.raw["eval"]))[reduction.output]
    written = columns_of(classified.examples, classified.transform_graph, "eval")[reduction.output]
    assert said.std(axis=0).max() > 0
    np.testing.assert_allclose(written, said, rtol=0, atol=2e-5 * np.abs(said).max())


def test_one_hot_columns_bear_the_words_of_their_vocabulary(source: Any, everything: Any) -> None:
    output = output_of(source.transform_graph)
    found = json.loads(everything.reduction_json())["reductions"][0]["columns"]
    companies = [word.decode() for word in output.vocabulary_by_name("company")]
    words = [word.decode() for word in output.vocabulary_by_name("words")]
    assert found == [
        *("miles_z", "latitude_z", "powers[0]", "powers[1]", "powers[2]", "seconds_z"),
        *(f"company_id={word}" for word in companies),
        *(f"word_ids={word}" for word in words),
    ]


def test_mixed_inputs_give_scikit_learns_components_of_the_rows_written_out(
    source: Any, everything: Any
) -> None:
    columns = columns_of(source.examples, source.transform_graph, "train")
    companies, words = one_hot(columns["company_id"], 4), bag_of_words(source, "train")
    dense = np.concatenate([beside(columns, NUMBERS), companies, words], axis=1)
    scaled = (dense - dense.mean(axis=0)) / dense.std(axis=0, ddof=1)
    theirs = decomposition.PCA(5, svd_solver="full").fit(scaled)
    ours = json.loads(everything.reduction_json())["reductions"][0]
    np.testing.assert_allclose(ours["explained_variance"], theirs.explained_variance_, rtol=1e-6)
    written = columns_of(everything.examples, everything.transform_graph, "train")["pca"]
    np.testing.assert_allclose(np.abs(written), np.abs(theirs.transform(scaled)), rtol=0, atol=2e-5)


def test_weights_make_of_one_hot_vectors_what_scikit_learn_takes_as_tf_idf(
    source: Any, everything: Any
) -> None:
    columns = columns_of(source.examples, source.transform_graph, "train")
    rows = np.zeros((len(columns["fare"]), 5))
    # Where a row has fewer words than the longest, to_dense filled in index 0 with weight 0.
    for i in range(columns["tfidf_ids"].shape[1]):
        rows += one_hot(columns["tfidf_ids"][:, i], 5) * columns["tfidf_weights"][:, [i]]
    theirs = decomposition.TruncatedSVD(3, algorithm="arpack").fit_transform(rows)
    written = columns_of(everything.examples, everything.transform_graph, "train")["lsa_tfidf"]
    # Two of the singular values are equal, so that only the space they span is determined.
    np.testing.assert_allclose(written @ written.T, theirs @ theirs.T, rtol=0, atol=1e-5)


def test_the_stock_encoding_of_sparse_inputs_stays_when_they_are_kept(source: Any, everything: Any) -> None:
    before = columns_of(source.examples, source.transform_graph, "eval")
    after = columns_of(everything.examples, everything.transform_graph, "eval")
    for name in ("word_ids", "tfidf_ids", "tfidf_weights", "company_id", "company_text", "powers"):
        np.testing.assert_array_equal(after[name], before[name])


def test_inputs_and_the_weights_of_one_hot_ones_go_unless_they_are_kept(source: Any, classified: Any) -> None:
    features = set(output_of(classified.transform_graph).transformed_feature_spec())
    vectors = {"miles_z", "latitude_z", "powers", "seconds_z"}
    indices = {"company_id", "word_ids", "tfidf_ids", "tfidf_weights"}
    assert set(output_of(source.transform_graph).transformed_feature_spec()) - features == vectors | indices
    assert {"lda", "best_f", "long_fare"} <= features


def test_the_same_rows_in_other_shards_give_the_same_outputs(source: Any, everything: Any) -> None:
    train, evaluation = (read_all(source.examples, split) for split in ("train", "eval"))
    turned = source.examples_of({"train": [train[i::5] for i in reversed(range(5))], "eval": [evaluation]})
    found = source.run(*KEPT, examples=turned, label_key="fare")
    one, other = (columns_of(run.examples, run.transform_graph, "eval") for run in (everything, found))
    for reduction in REGRESSIONS:
        wanted = one[reduction.output]
        atol = 1e-6 * max(1.0, np.abs(wanted).max())
        np.testing.assert_allclose(other[reduction.output], wanted, 0, atol, err_msg=reduction.name)


# `tft.bucketize` and `tft.tfidf` have no built-in ops; and a phone's feature has one value a row.
ON_THE_PHONE = [one for one in REGRESSIONS if not {BUCKET, TFIDF} & set(one.inputs)]


@pytest.fixture(scope="session")
def on_the_phone(source: Any, everything: Any) -> Any:
    """Raw rows of one word each, and the file that makes every output of them with built-in ops."""
    from tfx_mobile.common.interpreter import TFLiteModel
    from tfx_mobile.quantizer.preprocessing import Preprocessing

    rows = [row | {"words": row["words"][:1]} for row in source.raw["eval"] if row["words"]]
    wanted = [one.output for one in ON_THE_PHONE]
    content = Preprocessing(output_of(everything.transform_graph), wanted).convert()
    return rows, TFLiteModel(content)


def test_the_phones_file_has_every_reduction(everything: Any, on_the_phone: Any, as_tensors: Any) -> None:
    rows, model = on_the_phone
    graph = output_of(everything.transform_graph).transform_features_layer()
    said = graph(as_tensors(rows))
    given = {name: np.array([row[name] for row in rows]) for name in model.inputs if name != "words"}
    given |= {"words": np.array([row["words"][0] for row in rows], object)}
    found = model.predict(given)
    names = sorted(one.output for one in ON_THE_PHONE)
    ends = np.cumsum([said[name].shape[1] for name in names])
    assert found.shape == (len(rows), ends[-1])
    for name, part in zip(names, np.split(found, ends[:-1], axis=1), strict=True):
        wanted = said[name].numpy()
        np.testing.assert_allclose(part, wanted, 0, 2e-5 * np.abs(wanted).max(), err_msg=name)


def test_a_model_behind_reductions_with_loops_is_joined_to_them(
    everything: Any, on_the_phone: Any, as_tensors: Any
) -> None:
    import tf_keras

    from tfx_mobile.common.interpreter import TFLiteModel
    from tfx_mobile.quantizer.config import Mode, Quantization
    from tfx_mobile.quantizer.join import join
    from tfx_mobile.quantizer.preprocessing import Preprocessing
    from tfx_mobile.quantizer.tflite import of_keras

    rows, _ = on_the_phone
    names = ("nmf", "topics", "pca")
    tf_keras.utils.set_random_seed(1)
    said = output_of(everything.transform_graph).transform_features_layer()(as_tensors(rows))
    inputs = {name: tf_keras.Input((said[name].shape[1],), name=name) for name in names}
    joined = tf_keras.layers.Concatenate()([inputs[name] for name in names])
    model = tf_keras.Model(inputs, tf_keras.layers.Dense(2, "tanh")(joined))
    front = Preprocessing(output_of(everything.transform_graph), names).convert()
    file = TFLiteModel(join(front, of_keras(model).convert(Quantization(Mode.FLOAT32), {})))
    given = {name: np.array([row[name] for row in rows]) for name in file.inputs if name != "words"}
    given |= {"words": np.array([row["words"][0] for row in rows], object)}
    wanted = model.predict({name: said[name] for name in names}, verbose=0)
    np.testing.assert_allclose(file.predict(given), wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("output", ["nmf", "topics"])
def test_more_updates_make_no_larger_file(source: Any, as_tensors: Any, output: str) -> None:
    from tfx_mobile.quantizer.preprocessing import Preprocessing

    reduction = next(one for one in REGRESSIONS if one.output == output)
    sizes = []
    for num_updates in (10, 40):
        found = source.run(dataclasses.replace(reduction, num_updates=num_updates))
        sizes.append(len(Preprocessing(output_of(found.transform_graph), [output]).convert()))
    assert abs(sizes[1] - sizes[0]) < 64  # the number of steps is a constant
