"""Settings that cannot work are refused where they are written, by name."""

import dataclasses
import math
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.size_latency_evaluator.config import (
    FASTEST,
    SMALLEST,
    AccuracyGate,
    EvaluatorConfig,
    Family,
    KerasMetric,
    LatencyConfig,
    LatencyGate,
    Metric,
    Objective,
    Override,
    RelativeTo,
    SizeGate,
    Slice,
    needs_baseline,
    parse_metric,
)

GATE = SizeGate(max_bytes=1000)
TODAY = SizeGate(max_ratio=1.0, relative_to=RelativeTo.BASELINE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EvaluatorConfig("fare", ()), "gates must hold at least one gate"),
        (lambda: EvaluatorConfig("fare", (TODAY,)), "gates must hold one that needs no baseline"),
        (lambda: EvaluatorConfig("", (GATE,)), "label_key must not be empty; got ''."),
        (lambda: EvaluatorConfig("  ", (GATE,)), "label_key must not be empty; got '  '."),
        (lambda: EvaluatorConfig("fare", (GATE,), eval_split=""), "eval_split must not be empty"),
        (lambda: EvaluatorConfig("fare", (GATE,), metrics=()), "metrics must name at least one metric"),
        (
            lambda: EvaluatorConfig("fare", (GATE,), metrics=(Metric.MAE,) * 2),
            "metrics must differ; got mae, mae.",
        ),
        (
            lambda: EvaluatorConfig("fare", ("small",)),  # type: ignore[arg-type]
            "gates must be AccuracyGate or SizeGate or LatencyGate",
        ),
        (
            lambda: EvaluatorConfig("fare", (GATE,), batch_size=0),
            "batch_size must be a whole number >= 1; got 0.",
        ),
        (
            lambda: EvaluatorConfig("fare", (GATE,), decision_threshold=math.nan),
            "must be a finite number; got nan.",
        ),
        (
            lambda: AccuracyGate(Metric.RMSE),
            "AccuracyGate must have exactly one of max_value, max_increase_fraction",
        ),
        (
            lambda: AccuracyGate(Metric.RMSE, max_value=1.0, max_increase_fraction=0.1),
            "Two limits are two gates.",
        ),
        (lambda: AccuracyGate(Metric.RMSE, max_value=-1.0), "AccuracyGate.max_value must be >= 0; got -1.0."),
        (lambda: AccuracyGate(Metric.RMSE, max_value=math.inf), "must be a finite number; got inf."),
        (
            lambda: AccuracyGate(Metric.RMSE, max_increase_fraction=-0.01),
            "max_increase_fraction must be >= 0",
        ),
        (
            lambda: AccuracyGate(Metric.RMSE, max_drop=0.1),
            "AccuracyGate.max_drop does not fit rmse; use max_value",
        ),
        (
            lambda: AccuracyGate(Metric.ACCURACY, max_value=0.1),
            "does not fit accuracy; use min_value or max_drop.",
        ),
        (lambda: AccuracyGate(Metric.ACCURACY, min_value=90.0), "min_value must be >= 0 and <= 1; got 90.0."),
        (
            lambda: AccuracyGate("rmsle", max_value=1.0),  # type: ignore[arg-type]
            "AccuracyGate.metric must be among 'rmse', 'mse', 'mae', 'accuracy', a class name such as 'AUC', "
            "or the dotted path of a class; got 'rmsle'. Did you mean 'rmse'?",
        ),
        (
            lambda: AccuracyGate(7, max_value=1.0),  # type: ignore[arg-type]
            "AccuracyGate.metric must be Metric or KerasMetric; got int",
        ),
        (
            lambda: SizeGate(),
            "SizeGate must have exactly one of max_bytes, max_gz_bytes, max_ratio; got none.",
        ),
        (lambda: SizeGate(max_bytes=-5), "SizeGate.max_bytes must be a whole number >= 1; got -5."),
        (lambda: SizeGate(max_gz_bytes=True), "SizeGate.max_gz_bytes must be a whole number >= 1; got True."),
        (lambda: SizeGate(max_ratio=0.0), "SizeGate.max_ratio must be > 0; got 0.0."),
        (lambda: LatencyGate(), "LatencyGate must have exactly one of max_p50_us, max_ratio; got none."),
        (lambda: LatencyGate(max_ratio=math.nan), "LatencyGate.max_ratio must be a finite number; got nan."),
        (lambda: LatencyGate(max_p50_us=-1.0), "LatencyGate.max_p50_us must be > 0; got -1.0."),
        (lambda: LatencyConfig(processes=()), "LatencyConfig.processes must be rising counts from 2 on"),
        (lambda: LatencyConfig(processes=(1, 3)), "LatencyConfig.processes must be rising counts from 2 on"),
        (lambda: LatencyConfig(processes=(5, 3)), "LatencyConfig.processes must be rising counts from 2 on"),
        (lambda: LatencyConfig(seconds_per_process=0.0), "LatencyConfig.seconds_per_process must be > 0"),
        (lambda: LatencyConfig(min_calls=0), "LatencyConfig.min_calls must be a whole number >= 1; got 0."),
        (lambda: Objective(0.0, 0.0), "Objective must have a weight above 0"),
        (lambda: Objective(-1.0, 2.0), "Objective.size_weight must be >= 0; got -1.0."),
        (lambda: Override("", "why", "2026-01-31"), "Override.by must not be empty; got ''."),
        (lambda: Override("Ada", " ", "2026-01-31"), "Override.reason must not be empty; got ' '."),
        (
            lambda: Override("Ada", "why", "31.1.2026"),
            "Override.date must be an ISO date such as '2026-01-31'",
        ),
        (lambda: parse_metric("auc"), "path of a class; got 'auc'. Did you mean 'AUC'?"),
        (lambda: parse_metric(3), "metrics must be metrics or their names; got int 3."),  # type: ignore[arg-type]
        (lambda: KerasMetric("Auc"), "path of a class; got 'Auc'. Did you mean 'AUC'?"),
        (lambda: KerasMetric(""), "KerasMetric.class_name must not be empty; got ''."),
        (
            lambda: KerasMetric("AUC", {"treshold": 1}),
            "KerasMetric AUC has no setting 'treshold'; it has num_",
        ),
        (
            lambda: KerasMetric("AUC", {"curve": "LOC"}),
            "config['curve'] must be one of 'ROC', 'PR'; got 'LOC'.",
        ),
        (
            lambda: KerasMetric("AUC", {"num_thresholds": 1}),
            "must have num_thresholds >= 2 or thresholds; got",
        ),
        (lambda: KerasMetric("AUC", {"thresholds": [0.5]}), "must be at least 2 rising numbers; got [0.5]."),
        (lambda: KerasMetric("Recall", {"thresholds": [0.1, 0.2]}), "must be one number; got [0.1, 0.2]."),
        (lambda: KerasMetric("RecallAtPrecision"), "must have 'precision' in its config; got none."),
        (lambda: KerasMetric("BinaryAccuracy", {"threshold": "x"}), "must be a finite number; got 'x'."),
        (lambda: KerasMetric("a.B", {"x": math.nan}), "JSON has no NaN and no infinity"),
        (lambda: Slice(), "Slice must name a feature; got none. All rows together are always reported."),
        (lambda: Slice("company"), "Slice.features must be tuple or list; got str 'company'."),  # type: ignore[arg-type]
        (lambda: Slice(("a",), values={"a": 1}), "Slice must name each feature once; got a, a."),
        (lambda: Slice(values={"a": math.nan}), "Slice.values['a'] must be text or a number; got nan."),
        (
            lambda: Slice(buckets={"a": (2.0, 1.0)}),
            "Slice.buckets['a'] must be rising numbers; got (2.0, 1.0).",
        ),
        (lambda: Slice(buckets={"a": ()}), "Slice.buckets['a'] must be rising numbers; got ()."),
        (lambda: Slice(("a",), max_values=0), "Slice.max_values must be a whole number >= 1; got 0."),
        (
            lambda: AccuracyGate(KerasMetric("AUC"), max_increase=0.1),
            "AccuracyGate.max_increase does not fit auc; use min_value or max_drop.",
        ),
        (
            lambda: AccuracyGate(KerasMetric("LogCoshError"), max_drop=0.1),
            "AccuracyGate.max_drop does not fit log_cosh_error; use max_value or max_increase_fraction.",
        ),
        (
            lambda: AccuracyGate(KerasMetric("AUC"), max_drop_fraction=-1.0),
            "AccuracyGate.max_drop_fraction must be > -1; got -1.0.",
        ),
        (
            lambda: AccuracyGate(max_value=1.0, min_rows=0),
            "AccuracyGate.min_rows must be a whole number >= 1",
        ),
        (
            lambda: AccuracyGate(max_value=1.0, slices=("a",)),
            "AccuracyGate.slices must be Slice; got str 'a'.",
        ),  # type: ignore[arg-type]
        (
            lambda: EvaluatorConfig("fare", (GATE,), labels={"fare": "fare"}),
            "labels must stand alone; got label_key 'fare' too.",
        ),
        (
            lambda: EvaluatorConfig(gates=(GATE,), labels={"fare": "fare"}),
            "'rmse' must look at one of the outputs 'fare'; got ''. Set KerasMetric.output as in labels.",
        ),
        (
            lambda: EvaluatorConfig("fare", (GATE,), metrics=(KerasMetric("AUC", output="tip"),)),
            "Metric 'auc_tip' must look at one of the outputs ''; got 'tip'.",
        ),
        (
            lambda: EvaluatorConfig(
                "fare",
                (AccuracyGate(KerasMetric("Recall", {"thresholds": 0.7}), min_value=0.5),),
                metrics=(KerasMetric("Recall"),),
            ),
            "Metrics with different settings must have different names; got 'recall' twice.",
        ),
    ],
)
def test_a_setting_that_cannot_work_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        make()


FULL = EvaluatorConfig(
    label_key="fare",
    gates=(
        AccuracyGate(Metric.RMSE, max_increase_fraction=0.01),
        AccuracyGate(Metric.ACCURACY, max_drop=0.003),
        TODAY,
        LatencyGate(max_p50_us=20.0),
    ),
    objective=Objective(1.0, 2.0),
    metrics=(Metric.MAE,),
    latency=LatencyConfig(processes=(2, 4)),
    override=Override("Ada", "why", "2026-01-31"),
)


def test_settings_come_back_from_json_and_give_the_same_bytes() -> None:
    again = EvaluatorConfig.from_json(FULL.to_json())

    assert again == FULL
    assert again.to_json() == FULL.to_json()


def test_an_unknown_key_in_a_gate_is_refused() -> None:
    text = FULL.to_json().replace('"max_drop"', '"max_dorp"')

    with pytest.raises(ConfigError, match=re.escape("has no setting 'max_dorp'")):
        EvaluatorConfig.from_json(text)


BY_SLICE = AccuracyGate(
    KerasMetric("AUC", {"num_thresholds": 500}, name="area"),
    max_drop=0.01,
    slices=(Slice(("company",), values={"hour": 7}, buckets={"miles": (1.0, 5.0)}),),
    min_rows=30,
    skip_small=True,
    use_bound=False,
)


def test_metrics_slices_and_outputs_come_back_from_json() -> None:
    asked = (KerasMetric("my.metrics.Mine", {"depth": (1, 2)}, higher_is_better=False), Metric.MAE)
    config = EvaluatorConfig("fare", (BY_SLICE,), metrics=asked, sample_weight_key="w")
    again = EvaluatorConfig.from_json(config.to_json())

    assert again == config
    assert [metric.value for metric in again.all_metrics()] == ["mine", "mae", "area"]
    assert again.all_slices() == BY_SLICE.slices
    assert again.needed_features() == ("company", "hour", "miles", "w")
    assert (again.label_features(), config.metrics[0].family) == ({"": "fare"}, Family.KERAS)


def test_a_known_class_has_a_direction_a_user_may_change() -> None:
    assert KerasMetric("AUC").higher_is_better is True
    assert KerasMetric("MeanLabel").higher_is_better is None
    assert KerasMetric("AUC", higher_is_better=False).higher_is_better is False
    assert KerasMetric("my.Metric").higher_is_better is None


@pytest.mark.parametrize(
    ("class_name", "name"),
    [
        ("RootMeanSquaredError", "root_mean_squared_error"),
        ("AUC", "auc"),
        ("AUCPrecisionRecall", "auc_precision_recall"),
        ("F1Score", "f1_score"),
        ("SparseTopKCategoricalAccuracy", "sparse_top_k_categorical_accuracy"),
        ("my.package.MyMetric", "my_metric"),
    ],
)
def test_a_class_is_named_as_keras_does(class_name: str, name: str) -> None:
    assert KerasMetric(class_name).name == name


def test_metrics_that_only_gates_need_are_computed_too() -> None:
    assert FULL.all_metrics() == (Metric.MAE, Metric.RMSE, Metric.ACCURACY)


def test_only_relative_gates_on_the_baseline_need_one() -> None:
    assert needs_baseline(TODAY)
    assert not needs_baseline(dataclasses.replace(TODAY, relative_to=RelativeTo.REFERENCE))
    assert not needs_baseline(SizeGate(max_bytes=5, relative_to=RelativeTo.BASELINE))


def test_the_named_objectives_are_pure() -> None:
    assert (SMALLEST.size_weight, SMALLEST.latency_weight) == (1.0, 0.0)
    assert (FASTEST.size_weight, FASTEST.latency_weight) == (0.0, 1.0)


@pytest.mark.parametrize(
    "module",
    [
        "accuracy",
        "config",
        "core",
        "eval_config",
        "evaluation",
        "metrics",
        "latency_worker",
        "page",
        "prediction_worker",
        "summary",
    ],
)
def test_pure_modules_import_neither_tfx_nor_tensorflow(module: str) -> None:
    code = (
        f"import sys, tfx_mobile.size_latency_evaluator.{module} as m; "
        "print(sorted({'tfx', 'tensorflow', 'apache_beam'} & set(sys.modules)), "
        "'scipy' in sys.modules, 'plotly' in sys.modules)"
    )

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert found.startswith("[]")
    if module.endswith("worker"):
        assert found.strip() == "[] False False"
