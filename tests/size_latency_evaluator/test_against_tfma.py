"""The numbers and verdicts are those that TFMA gives for the same EvalConfig on the same predictions."""

import dataclasses
import importlib.metadata
from typing import Any

import numpy as np
import pytest

from tfx_mobile.size_latency_evaluator import core, eval_config
from tfx_mobile.size_latency_evaluator.accuracy import Accuracy, Batch, Tally
from tfx_mobile.size_latency_evaluator.config import AccuracyGate, EvaluatorConfig, SizeGate
from tfx_mobile.size_latency_evaluator.core import Measured, Rivals
from tfx_mobile.size_latency_evaluator.evaluation import Status

pytestmark = pytest.mark.pipeline

NUM_ROWS = 400
NUM_AUC_THRESHOLDS = 10_000  # TFMA's own default
BINARY = """
  model_specs { label_key: "label" example_weight_key: "weight" }
  slicing_specs {}
  slicing_specs { feature_keys: ["company"] }
  slicing_specs { feature_keys: ["company", "hour"] }
  slicing_specs { feature_keys: ["hour"] feature_values { key: "company" value: "Sun" } }
  slicing_specs { feature_values { key: "hour" value: "7" } }
  metrics_specs {
    metrics { class_name: "RootMeanSquaredError" module: "tf_keras.metrics" }
    metrics { class_name: "MeanAbsoluteError" }
    metrics { class_name: "MeanSquaredError" }
    metrics { class_name: "BinaryAccuracy" threshold {
      value_threshold { lower_bound { value: 0.5 } upper_bound { value: 1.0 } } } }
    metrics { class_name: "BinaryCrossentropy" module: "tf_keras.metrics" }
    metrics { class_name: "AUC" }
    metrics { class_name: "AUC" config: '"name": "coarse", "num_thresholds": 200' }
    metrics { class_name: "AUC" config: '"name": "explicit", "thresholds": [0.1, 0.4, 0.8]' }
    metrics { class_name: "AUC" config: '"name": "keras_auc"' module: "tf_keras.metrics" }
    metrics { class_name: "AUC" config: '"name": "lower", "summation_method": "minoring"' }
    metrics { class_name: "AUC" config: '"name": "pr_upper", "curve": "PR", "summation_method": "majoring"' }
    metrics { class_name: "AUCPrecisionRecall" }
    metrics { class_name: "Precision" config: '"thresholds": 0.7' }
    metrics { class_name: "Recall" }
    metrics { class_name: "F1Score" }
    metrics { class_name: "Specificity" }
    metrics { class_name: "FallOut" }
    metrics { class_name: "MissRate" }
    metrics { class_name: "BalancedAccuracy" }
    metrics { class_name: "MatthewsCorrelationCoefficient" }
    metrics { class_name: "TruePositives" }
    metrics { class_name: "TrueNegatives" }
    metrics { class_name: "FalsePositives" }
    metrics { class_name: "FalseNegatives" }
    metrics { class_name: "SensitivityAtSpecificity" config: '"specificity": 0.8' }
    metrics { class_name: "SpecificityAtSensitivity" config: '"sensitivity": 0.8' }
    metrics { class_name: "PrecisionAtRecall" config: '"recall": 0.6' }
    metrics { class_name: "RecallAtPrecision" config: '"precision": 0.6' }
    metrics { class_name: "MeanLabel" }
    metrics { class_name: "MeanPrediction" }
    metrics { class_name: "Calibration" }
    metrics { class_name: "ExampleCount" }
    metrics { class_name: "WeightedExampleCount" }
    metrics { class_name: "LogCoshError" module: "tf_keras.metrics" }
  }
"""


@dataclasses.dataclass(frozen=True)
class Both:
    """What TFMA and we made of the same rows: by slice name and metric name."""

    tfma: dict[str, dict[str, float]]
    ours: Accuracy
    config: EvaluatorConfig


def rows_of_trips() -> dict[str, Any]:
    draw = np.random.default_rng(8)
    labels = (draw.random(NUM_ROWS) < 0.4).astype(np.float64)
    predictions = np.clip(0.35 * labels + 0.65 * draw.random(NUM_ROWS), 0.0, 1.0).astype(np.float32)
    predictions[:6] = [0.0, 1.0, 0.5, 0.1, 0.7, 1.0]  # on thresholds and at the ends
    labels[:6] = [0.0, 1.0, 1.0, 0.0, 1.0, 0.0]
    companies = np.array([b"Flash", b"Sun", b"Blue"], dtype=object)[draw.integers(0, 3, NUM_ROWS)]
    return {
        "label": labels,
        "prediction": predictions,
        "weight": draw.integers(1, 5, NUM_ROWS).astype(np.float64),
        "company": companies,
        "hour": draw.integers(6, 9, NUM_ROWS),
    }


@pytest.fixture(scope="module")
def both() -> Both:
    import pandas as pd
    import tensorflow_model_analysis as tfma
    from google.protobuf import text_format
    from tensorflow_model_analysis.proto import config_pb2

    rows = rows_of_trips()
    asked = text_format.Parse(BINARY, config_pb2.EvalConfig())
    parsed = eval_config.parse(asked)
    config = EvaluatorConfig(
        label_key=parsed.label_key,
        gates=(SizeGate(max_bytes=10), *parsed.gates),
        metrics=parsed.metrics,
        slices=parsed.slices,
        sample_weight_key=parsed.sample_weight_key,
    )
    tally = Tally(config, ["model"])
    for start in range(0, NUM_ROWS, 150):
        part = slice(start, start + 150)
        tally.add(
            Batch(
                {"": rows["label"][part, None]},
                {"model": {"": rows["prediction"][part, None]}},
                {name: rows[name][part] for name in ("company", "hour")},
                rows["weight"][part],
            )
        )
    asked.model_specs[0].prediction_key = "prediction"
    frame = pd.DataFrame({**rows, "company": [name.decode() for name in rows["company"]]})
    result = tfma.analyze_raw_data(frame, asked)
    return Both(_by_slice(result, rows), tally.result(), config)


def _by_slice(result: Any, rows: dict[str, Any]) -> dict[str, dict[str, float]]:
    old = tuple(map(int, importlib.metadata.version("tensorflow-model-analysis").split(".")[:2])) < (0, 52)
    found = {}
    for key, by_output in result.slicing_metrics:
        words = [f"{name} = {value!r}" for name, value in key]
        metrics = {name: next(iter(value.values())) for name, value in by_output[""][""].items() if value}
        if old and "pr_upper" in metrics:
            metrics["pr_upper"] += _top_step(rows, key)
        found[", ".join(words)] = metrics
    return found


def _top_step(rows: dict[str, Any], key: Any) -> float:
    """Returns the rectangle of a PR curve that TFMA before 0.52 leaves out of the upper sum.

    It is the one to the first threshold that no prediction exceeds, t. Recall there is 0 and precision 0/0;
    numpy.maximum makes the height NaN, and nansum drops it. Its width is the recall at the threshold before,
    its height the precision there: (tp / positives) * (tp / predicted).
    """
    here = np.ones(NUM_ROWS, dtype=bool)
    for name, value in key:
        here &= rows[name] == (value.encode() if isinstance(value, str) else value)
    label, score, weight = (
        rows["label"][here],
        rows["prediction"][here].astype(np.float64),
        rows["weight"][here],
    )
    thresholds = np.arange(NUM_AUC_THRESHOLDS - 1) / (NUM_AUC_THRESHOLDS - 1)  # the last, above 1, is no help
    top = score > thresholds[thresholds < score.max()].max()
    true_positive = (weight * label)[top].sum()
    return float(true_positive / (weight * label).sum() * true_positive / weight[top].sum())


def test_every_number_of_every_slice_is_tfmas(both: Both) -> None:
    wrong = []
    for slice_name, by_metric in both.tfma.items():
        for name, value in by_metric.items():
            ours = both.ours.value(name, "model", slice_name)
            # TFMA writes no metric of a class that a slice has not, and NaN otherwise: ours is None for both.
            if ours is None or abs(ours - value) > 1e-6 * max(1.0, abs(value)):
                wrong.append((slice_name, name, value, ours))

    assert wrong == []
    assert sum(len(found) for found in both.tfma.values()) > 400
    assert set(both.tfma[""]) == {metric.value for metric in both.config.metrics}


def test_the_slices_are_tfmas_and_so_are_their_names(both: Both) -> None:
    assert set(both.ours.slice_names) == set(both.tfma) - {""}


def test_value_thresholds_of_a_config_let_a_candidate_through_on_every_slice(both: Both) -> None:
    found = Measured("model", accuracy=both.ours, file="model")
    gates = [gate for gate in both.config.gates if isinstance(gate, AccuracyGate)]

    verdicts = [core.judge(gate, found, Rivals(None)) for gate in gates]

    # All rows and four slicing specs, a lower and an upper bound each.
    assert len(verdicts) == 10
    assert {verdict.status for verdict in verdicts} == {Status.PASS}


CHANGES = [
    ("LOWER_IS_BETTER", {"absolute": 0.01}),
    ("LOWER_IS_BETTER", {"absolute": -0.01}),
    ("LOWER_IS_BETTER", {"relative": 0.02}),
    ("LOWER_IS_BETTER", {"relative": -0.02}),
    ("HIGHER_IS_BETTER", {"absolute": -0.01}),
    ("HIGHER_IS_BETTER", {"absolute": 0.01}),
    ("HIGHER_IS_BETTER", {"relative": -0.02}),
    ("HIGHER_IS_BETTER", {"absolute": -0.1, "relative": 0.02}),
]


@pytest.mark.parametrize(("direction", "limits"), CHANGES)
@pytest.mark.parametrize("factor", [0.9, 0.985, 0.999, 1.0, 1.001, 1.015, 1.1])
def test_a_change_passes_where_tfmas_validator_passes_it(
    direction: str, limits: dict[str, float], factor: float
) -> None:
    from tensorflow_model_analysis.evaluators import metrics_validator
    from tensorflow_model_analysis.metrics import metric_types
    from tensorflow_model_analysis.proto import config_pb2
    from tensorflow_model_analysis.utils import config_util

    change = config_pb2.GenericChangeThreshold(direction=getattr(config_pb2.MetricDirection, direction))
    for name, limit in limits.items():
        getattr(change, name).value = limit
    asked = config_pb2.EvalConfig(
        model_specs=[
            config_pb2.ModelSpec(name="candidate", label_key="label"),
            config_pb2.ModelSpec(name="baseline", label_key="label", is_baseline=True),
        ],
        metrics_specs=[
            config_pb2.MetricsSpec(
                metrics=[
                    config_pb2.MetricConfig(
                        class_name="MeanPrediction",  # has no direction of its own
                        threshold=config_pb2.MetricThreshold(change_threshold=change),
                    )
                ],
            )
        ],
    )
    parsed = eval_config.parse(asked)
    config = EvaluatorConfig("label", (SizeGate(max_bytes=1), *parsed.gates), metrics=parsed.metrics)
    tally = Tally(config, ["model", "old"])
    old = np.array([[0.5], [0.75], [1.0]])
    tally.add(Batch({"": old}, {"model": {"": old * factor}, "old": {"": old}}, {}, None))
    found = tally.result()
    value, other = found.value("mean_prediction", "model"), found.value("mean_prediction", "old")
    assert value is not None
    assert other is not None
    key = metric_types.MetricKey(name="mean_prediction", model_name="candidate")
    keys = {
        key: value,
        metric_types.MetricKey(name="mean_prediction", model_name="baseline"): other,
        key.make_diff_key(): value - other,
    }

    named = config_util.update_eval_config_with_defaults(asked, has_baseline=True)
    theirs = metrics_validator.validate_metrics(((), keys), named)
    rivals = Rivals(None, Measured("old", accuracy=found, file="old"))
    ours = [
        core.judge(gate, Measured("model", accuracy=found, file="model"), rivals) for gate in parsed.gates
    ]

    assert all(verdict.lets_through for verdict in ours) == theirs.validation_ok
