"""TFMA's EvalConfig becomes settings, and what cannot be honoured is refused by name."""

import re
from typing import Any

import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.size_latency_evaluator import eval_config
from tfx_mobile.size_latency_evaluator.config import AccuracyGate, KerasMetric, RelativeTo, Slice

FULL: dict[str, Any] = {
    "model_specs": [
        {"name": "candidate", "label_key": "big_tipper", "example_weight_key": "weight"},
        {"name": "baseline", "is_baseline": True},
    ],
    "slicing_specs": [{}, {"feature_keys": ["company"], "feature_values": {"hour": "7"}}],
    "metrics_specs": [
        {
            "metrics": [
                {
                    "class_name": "AUC",
                    "config": '{"name": "area", "dtype": "float32", "num_thresholds": 200, "curve": "ROC", '
                    '"summation_method": "interpolation", "multi_label": false, "label_weights": null}',
                    "module": "tf_keras.src.metrics.confusion_metrics",
                    "per_slice_thresholds": [
                        {
                            "slicing_specs": [{"feature_keys": ["company"]}],
                            "threshold": {"value_threshold": {"lower_bound": {"value": 0.6}}},
                        }
                    ],
                },
                {"class_name": "Mine", "module": "my.metrics", "config": '"depth": 3'},
            ],
            "thresholds": {
                "area": {"change_threshold": {"direction": "HIGHER_IS_BETTER", "absolute": -1e-3}},
                "mine": {"change_threshold": {"direction": 1, "relative": {"value": 0.02}}},
            },
        }
    ],
    "options": {"min_slice_size": {"value": 50}},
}
AREA = KerasMetric(
    "AUC", {"num_thresholds": 200, "curve": "ROC", "summation_method": "interpolation"}, name="area"
)
MINE = KerasMetric("my.metrics.Mine", {"depth": 3})


def test_a_full_config_becomes_metrics_slices_gates_label_and_weight() -> None:
    found = eval_config.parse(FULL)
    company, at_seven = Slice(("company",)), Slice(("company",), values={"hour": "7"})

    assert found.metrics == (AREA, MINE)
    assert found.slices == (at_seven,)
    assert (found.label_key, found.labels, found.sample_weight_key) == ("big_tipper", {}, "weight")
    small: dict[str, Any] = {"relative_to": RelativeTo.BASELINE, "use_bound": False}
    sliced: dict[str, Any] = {**small, "min_rows": 50, "skip_small": True}
    assert found.gates == (
        AccuracyGate(AREA, min_value=0.6, slices=(company,), **sliced),
        AccuracyGate(AREA, max_drop=1e-3, **small),
        AccuracyGate(AREA, max_drop=1e-3, slices=(at_seven,), **sliced),
        AccuracyGate(MINE, max_increase_fraction=0.02, **small),
        AccuracyGate(MINE, max_increase_fraction=0.02, slices=(at_seven,), **sliced),
    )


def test_a_threshold_is_for_all_rows_only_where_the_config_looks_at_them() -> None:
    company = {"feature_keys": ["company"]}
    bounded = {"metrics": [{"class_name": "AUC", "threshold": {"value_threshold": {"lower_bound": 0.5}}}]}

    def slices(*specs: Any) -> list[tuple[Slice, ...]]:
        found = eval_config.parse({"metrics_specs": [bounded], "slicing_specs": list(specs)})
        return [gate.slices for gate in found.gates]

    assert slices() == [()]
    assert slices(company) == [(Slice(("company",)),)]
    assert slices({}, company) == [(), (Slice(("company",)),)]


def test_outputs_have_their_own_metrics_and_labels() -> None:
    found = eval_config.parse(
        {
            "model_specs": [{"label_keys": {"fare": "fare_usd", "tip": "tip_usd"}}],
            "metrics_specs": [
                {"metrics": [{"class_name": "MeanSquaredError"}], "output_names": ["fare", "tip"]}
            ],
        }
    )

    assert [metric.name for metric in found.metrics] == ["mean_squared_error_fare", "mean_squared_error_tip"]
    assert found.labels == {"fare": "fare_usd", "tip": "tip_usd"}


def only(**spec: Any) -> dict[str, Any]:
    return {"metrics_specs": [{"metrics": [{"class_name": "AUC", **spec}]}]}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "EvalConfig.metrics_specs must name at least one metric; got none."),
        (7, "eval_config must be a tfma.EvalConfig, its dict or its text; got int."),
        ("{1", "eval_config must be JSON, or a text proto; got Expecting property name"),
        ({"plots": 1}, "EvalConfig.plots cannot be honoured here; got 1."),
        ({"cross_slicing_specs": [{"a": 1}]}, "EvalConfig.cross_slicing_specs cannot be honoured here"),
        ({"model_specs": [{"name": "a"}, {"name": "b"}]}, "one model beside the baseline; got 'a', 'b'."),
        (
            {"model_specs": [{"preprocessing_function_names": ["transform_features"]}]},
            "ModelSpec.preprocessing_function_names cannot be honoured here; got ['transform_features']. "
            "Connect Transform's transformed_examples",
        ),
        ({"model_specs": [{"signature_name": "eval"}]}, "ModelSpec.signature_name cannot be honoured here"),
        (
            {"model_specs": [{"model_type": "tf_js"}]},
            "ModelSpec.model_type cannot be honoured here; got 'tf_js'",
        ),
        (
            {"slicing_specs": [{"slice_keys_sql": "SELECT"}]},
            "slicing_specs.slice_keys_sql cannot be honoured",
        ),
        ({"options": {"compute_confidence_intervals": True}}, "options.compute_confidence_intervals cannot"),
        (only(class_name="CalibrationPlot"), "got 'CalibrationPlot'. Did you mean 'Calibration'?"),
        (only(config='"class_weights": {"1": 2}'), "KerasMetric AUC has no setting 'class_weights'"),
        (only(config="{"), "MetricConfig 'AUC' must have JSON as its config; got"),
        (only(threshold={"change_threshold": {"absolute": 1.0}}), "must have a direction for its change"),
        (only(threshold={"value_threshold": {}}), "The threshold of 'auc' must have a bound; got"),
        (
            only(threshold={"change_threshold": {"direction": "LOWER_IS_BETTER", "absolute": 0.1}}),
            "AccuracyGate.max_increase does not fit auc; use min_value or max_drop.",
        ),
        (only(cross_slice_thresholds=[{"a": 1}]), "MetricConfig.cross_slice_thresholds cannot be honoured"),
        (
            {"metrics_specs": [{"metrics": [{"class_name": "AUC"}], "binarize": {"class_ids": [1]}}]},
            "MetricsSpec.binarize cannot be honoured here; got {'class_ids': [1]}.",
        ),
        (
            {"metrics_specs": [{"metrics": [{"class_name": "AUC"}], "thresholds": {"loss": {}}}]},
            "MetricsSpec.thresholds must be of the metrics of the spec; got 'loss' where it has auc.",
        ),
        (
            {
                "metrics_specs": [
                    {"metrics": [{"class_name": "AUC"}], "example_weights": {"unweighted": True}}
                ]
            },
            "MetricsSpec.example_weights.unweighted cannot be honoured here",
        ),
        (
            {**only(), "model_specs": [{"label_keys": {"fare": "f"}}]},
            "MetricsSpec.output_names must name outputs where label_keys does (fare); got none.",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        eval_config.parse(config)


@pytest.mark.pipeline
def test_the_proto_its_dict_and_its_text_ask_for_the_same() -> None:
    from google.protobuf import json_format, text_format
    from tensorflow_model_analysis.proto import config_pb2

    proto = json_format.ParseDict(
        {**FULL, "options": {"min_slice_size": 50}, "metrics_specs": _plain(FULL["metrics_specs"])},
        config_pb2.EvalConfig(),
    )

    assert eval_config.parse(proto) == eval_config.parse(FULL)
    assert eval_config.parse(text_format.MessageToString(proto)) == eval_config.parse(FULL)
    assert eval_config.parse(json_format.MessageToJson(proto, preserving_proto_field_name=True)) == (
        eval_config.parse(FULL)
    )
    with pytest.raises(ConfigError, match=re.escape("eval_config must be a text proto of EvalConfig; got")):
        eval_config.parse("metrics_spec {}")


def _plain(value: Any) -> Any:
    """Returns the value without wrappers, as ParseDict wants DoubleValue."""
    if isinstance(value, dict):
        return value["value"] if set(value) == {"value"} else {k: _plain(v) for k, v in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
