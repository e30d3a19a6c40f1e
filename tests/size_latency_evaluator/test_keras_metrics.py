"""What only a Keras class can compute is stepped, merged and judged; our own formulas agree with Keras."""

import re
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.size_latency_evaluator.accuracy import Batch, Tally
from tfx_mobile.size_latency_evaluator.config import EvaluatorConfig, KerasMetric, SizeGate, Slice

pytestmark = pytest.mark.pipeline

ROWS = 240


def tables() -> tuple[Any, Any, Any, Any]:
    draw = np.random.default_rng(2)
    classes = draw.integers(0, 4, (ROWS, 1)).astype(np.float64)
    scores = draw.random((ROWS, 4)) + 0.5 * np.eye(4)[classes[:, 0].astype(int)]
    scores = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)
    return classes, np.eye(4)[classes[:, 0].astype(int)], scores, draw.integers(1, 4, ROWS).astype(np.float64)


def tally_of(metrics: Any, labels: Any, scores: Any, weights: Any, **settings: Any) -> Tally:
    gates = (SizeGate(max_bytes=1),)
    config = EvaluatorConfig("y", gates, metrics=metrics, sample_weight_key="w", **settings)
    tally = Tally(config, ["dense", "int8"])
    other = scores[:, ::-1].copy()
    columns = {"half": np.arange(ROWS) % 2}
    for start in range(0, ROWS, 100):
        rows = slice(start, start + 100)
        part = Tally(config, ["dense", "int8"])
        part.add(
            Batch(
                {"": labels[rows]},
                {"dense": {"": scores[rows]}, "int8": {"": other[rows]}},
                {name: column[rows] for name, column in columns.items()},
                weights[rows],
            )
        )
        tally.merge(part)
    return tally


@pytest.mark.parametrize("sparse", [True, False])
def test_our_formulas_of_classes_are_those_of_keras(sparse: bool) -> None:
    import tf_keras

    indices, one_hot, scores, weights = tables()
    asked = [
        KerasMetric("SparseCategoricalAccuracy"),
        KerasMetric("SparseCategoricalCrossentropy"),
        KerasMetric("SparseCategoricalCrossentropy", {"from_logits": True}, name="logits"),
        KerasMetric("SparseTopKCategoricalAccuracy", {"k": 2}),
    ]
    if not sparse:
        asked = [
            KerasMetric("CategoricalAccuracy"),
            KerasMetric("CategoricalCrossentropy", {"label_smoothing": 0.1}),
            KerasMetric("CategoricalCrossentropy", {"from_logits": True}, name="logits"),
            KerasMetric("TopKCategoricalAccuracy", {"k": 2}),
            KerasMetric("BinaryCrossentropy", {"label_smoothing": 0.2}),
            KerasMetric("BinaryCrossentropy", {"from_logits": True}, name="binary_logits"),
        ]
    labels = indices if sparse else one_hot
    found = tally_of(tuple(asked), labels, scores, weights).result()

    for metric in asked:
        theirs = getattr(tf_keras.metrics, metric.class_name)(**metric.config)
        theirs.update_state(labels, scores, sample_weight=weights)
        # Keras adds up in float32.
        assert found.value(metric.name, "dense") == pytest.approx(float(theirs.result()), rel=1e-6)


def test_a_metric_of_keras_alone_is_merged_over_groups_slices_and_tallies() -> None:
    import tf_keras

    _, labels, scores, weights = tables()
    asked = (
        KerasMetric("CosineSimilarity"),
        KerasMetric("tf_keras.metrics.F1Score", {"average": "micro"}, higher_is_better=True),
    )
    found = tally_of(asked, labels, scores, weights, slices=(Slice(("half",)),)).result()

    assert found.failure("dense") == ""
    for metric, rows in ((m, r) for m in asked for r in (slice(None), slice(0, None, 2))):
        theirs = getattr(tf_keras.metrics, metric.class_name.rpartition(".")[2])(**metric.config)
        theirs.update_state(labels[rows], scores[rows], sample_weight=weights[rows].astype(np.float32))
        name = "" if rows == slice(None) else "half = 0"
        expected = float(np.asarray(theirs.result()))
        assert found.value(metric.name, "dense", name) == pytest.approx(expected, rel=1e-6)
    pair = found.pair("cosine_similarity", "int8", "dense")
    assert pair is not None
    assert pair.freedom == 19
    assert pair.covariance[0, 0] > 0


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (KerasMetric("tf_keras.metrics.Nothing"), "module 'tf_keras.metrics' has no attribute 'Nothing'"),
        (KerasMetric("no_such_module.Metric"), "KerasMetric.class_name must be an importable function"),
        (KerasMetric("tf_keras.losses.Huber"), "must be a subclass of tf_keras.metrics.Metric; got"),
        (KerasMetric("FBetaScore", {"beta": -1.0}), "must take its config {'beta': -1.0}; got"),
        (KerasMetric("CosineSimilarity", {"axes": 1}), "must take its config {'axes': 1}; got"),
    ],
)
def test_a_class_that_cannot_be_used_is_refused_before_any_row(metric: KerasMetric, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Tally(EvaluatorConfig("y", (SizeGate(max_bytes=1),), metrics=(metric,)), ["a"])


def test_a_class_that_cannot_take_the_predictions_fails_the_file_with_its_own_words() -> None:
    metric = KerasMetric("tf_keras.metrics.F1Score", higher_is_better=True)
    tally = Tally(EvaluatorConfig("y", (SizeGate(max_bytes=1),), metrics=(metric,)), ["a"])
    tally.add(Batch({"": np.ones((2, 2))}, {"a": {"": np.array([[0.1, 0.2], [0.3, 0.1]])}}, {}, None))

    assert tally.result().failure("a") == ""
    assert tally.result().value("f1_score", "a") is None  # one number per class is not one number

    tally.add(Batch({"": np.ones((2, 3))}, {"a": {"": np.array([[0.1, 0.2], [0.3, 0.2]])}}, {}, None))
    assert tally.result().failure("a").startswith("f1_score cannot be computed: ")
