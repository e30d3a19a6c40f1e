"""TFMA's EvalConfig as this component's settings: metrics, slices, gates, label and weight.

Takes the proto, its dict or its text, and needs TFMA for the text only. What cannot be honoured is refused by
name. Thresholds are judged as TFMA judges them: on the point value, not on its bound, and one without slices
on all rows and on every slice of the config.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.size_latency_evaluator.config import KNOWN, AccuracyGate, KerasMetric, RelativeTo, Slice

_KERAS_MODULES = (
    "keras",
    "tf_keras",
    "tensorflow.keras",
    "tensorflow.python.keras",
    "tensorflow_model_analysis",
)
# What `get_config` writes for a plain metric: it changes nothing.
_NO_CHANGE: dict[str, Any] = {
    "dtype": "float32",
    "multi_label": False,
    "from_logits": False,
    "axis": -1,
    "ignore_class": None,
    "num_labels": None,
    "label_weights": None,
    "top_k": None,
    "class_id": None,
    "thresholds": None,
}


@dataclass(frozen=True)
class Parsed:
    """What an EvalConfig asks for.

    Attributes:
      metrics: In its order.
      slices: Without the one of all rows, which is always there.
      gates: Of its thresholds; those on changes compare with the baseline.
      label_key: For one output; empty where it names none.
      labels: By output, for several.
      sample_weight_key: Empty for none.
    """

    metrics: tuple[KerasMetric, ...]
    slices: tuple[Slice, ...]
    gates: tuple[AccuracyGate, ...]
    label_key: str
    labels: dict[str, str]
    sample_weight_key: str


def parse(value: Any) -> Parsed:
    """Returns what an EvalConfig asks for.

    Args:
      value: A tfma.EvalConfig, its dict (as of `MessageToDict`), its JSON, or its text proto.

    Raises:
      ConfigError: Something in it cannot be honoured; the message names it.
    """
    config = _as_dict(value)
    _only(
        config,
        "EvalConfig",
        ("model_specs", "slicing_specs", "metrics_specs", "options"),
        {"cross_slicing_specs": "Compare slices with AccuracyGate(slices=...) instead."},
    )
    label_key, labels, weight = _model(config.get("model_specs", []))
    specs = [_slice(spec, "slicing_specs") for spec in config.get("slicing_specs", [])]
    slices = tuple(dict.fromkeys(spec for spec in specs if spec is not None))
    everywhere = ((),) if not specs or None in specs else ()
    places: tuple[tuple[Slice, ...], ...] = (*everywhere, *((one,) for one in slices))
    min_rows = _min_rows(config.get("options", {}))
    metrics: list[KerasMetric] = []
    gates: list[AccuracyGate] = []
    for spec in config.get("metrics_specs", []):
        found, wanted = _metrics_spec(spec, tuple(labels), places, min_rows)
        metrics += found
        gates += wanted
    if not metrics:
        raise ConfigError("EvalConfig.metrics_specs must name at least one metric; got none.")
    return Parsed(tuple(dict.fromkeys(metrics)), slices, tuple(gates), label_key, labels, weight)


def _as_dict(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ConfigError(f"eval_config must be JSON, or a text proto; got {error}.") from error
    elif isinstance(value, str):
        from google.protobuf import text_format
        from tensorflow_model_analysis.proto import config_pb2  # type: ignore[import-untyped]

        try:
            value = text_format.Parse(value, config_pb2.EvalConfig())
        except text_format.ParseError as error:
            raise ConfigError(f"eval_config must be a text proto of EvalConfig; got {error}.") from error
    if hasattr(value, "DESCRIPTOR"):
        from google.protobuf import json_format

        value = json_format.MessageToDict(value, preserving_proto_field_name=True)
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"eval_config must be a tfma.EvalConfig, its dict or its text; got {type(value).__name__}."
        )
    return value


def _only(
    found: Mapping[str, Any], where: str, known: Sequence[str], advice: Mapping[str, str] | None = None
) -> None:
    for name, value in found.items():
        if name not in known and value not in ("", [], {}, False, None):
            hint = (advice or {}).get(name, "Remove it, or keep TFMA for it.")
            raise ConfigError(f"{where}.{name} cannot be honoured here; got {value!r}. {hint}")


def _model(specs: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, str], str]:
    """Returns the label's feature, the labels by output, and the weight's feature."""
    candidates = [spec for spec in specs if not spec.get("is_baseline", False)]
    if len(candidates) > 1:
        names = ", ".join(repr(spec.get("name", "")) for spec in candidates)
        raise ConfigError(f"EvalConfig.model_specs must have one model beside the baseline; got {names}.")
    if not candidates:
        return "", {}, ""
    spec = candidates[0]
    _only(
        spec,
        "ModelSpec",
        ("name", "model_type", "signature_name", "label_key", "label_keys", "example_weight_key"),
        {
            "preprocessing_function_names": "Connect Transform's transformed_examples and leave it out.",
            "example_weight_keys": "Name one feature in example_weight_key.",
        },
    )
    for name, fits in (
        ("model_type", ("", "tf_lite", "tf_generic", "tf_keras")),
        ("signature_name", ("", "serving_default")),
    ):
        if spec.get(name, "") not in fits:
            raise ConfigError(
                f"ModelSpec.{name} cannot be honoured here; got {spec[name]!r}. The TFLite file is "
                "evaluated; leave it out."
            )
    return spec.get("label_key", ""), dict(spec.get("label_keys", {})), spec.get("example_weight_key", "")


def _min_rows(options: Mapping[str, Any]) -> int:
    harmless = ("include_default_metrics", "min_slice_size", "disabled_outputs")
    _only(options, "EvalConfig.options", harmless)
    return max(int(_plain(options.get("min_slice_size", 1))), 1)


def _slice(spec: Mapping[str, Any], where: str) -> Slice | None:
    """Returns the slice; None for all rows."""
    _only(spec, where, ("feature_keys", "feature_values"))
    keys, values = tuple(spec.get("feature_keys", ())), dict(spec.get("feature_values", {}))
    return Slice(features=keys, values=values) if keys or values else None


def _metrics_spec(
    spec: Mapping[str, Any],
    outputs: tuple[str, ...],
    places: tuple[tuple[Slice, ...], ...],
    min_rows: int,
) -> tuple[list[KerasMetric], list[AccuracyGate]]:
    known = (
        "metrics",
        "output_names",
        "model_names",
        "thresholds",
        "per_slice_thresholds",
        "example_weights",
    )
    _only(spec, "MetricsSpec", known)
    if (spec.get("example_weights") or {}).get("unweighted", False):
        raise ConfigError("MetricsSpec.example_weights.unweighted cannot be honoured here; got True.")
    looks_at = tuple(spec.get("output_names", ())) or ("",)
    if outputs and looks_at == ("",):
        raise ConfigError(
            "MetricsSpec.output_names must name outputs where label_keys does "
            f"({', '.join(outputs)}); got none."
        )
    metrics: list[KerasMetric] = []
    gates: list[AccuracyGate] = []
    for output in looks_at:
        named: dict[str, KerasMetric] = {}
        for item in spec.get("metrics", []):
            _only(
                item,
                "MetricConfig",
                ("class_name", "module", "config", "threshold", "per_slice_thresholds"),
            )
            name, metric = _metric(item, output)
            named[name] = metric
            gates += _gates(metric, item, places, min_rows)
        for name, threshold in sorted(spec.get("thresholds", {}).items()):  # a proto's map has no order
            gates += _gates(_named(name, named), {"threshold": threshold}, places, min_rows)
        for name, several in sorted(spec.get("per_slice_thresholds", {}).items()):
            item = {"per_slice_thresholds": several.get("thresholds", [])}
            gates += _gates(_named(name, named), item, places, min_rows)
        metrics += named.values()
    return metrics, gates


def _named(name: str, named: Mapping[str, KerasMetric]) -> KerasMetric:
    if name not in named:
        raise ConfigError(
            f"MetricsSpec.thresholds must be of the metrics of the spec; got {name!r} where it has "
            f"{', '.join(named) or 'none'}."
        )
    return named[name]


def _metric(item: Mapping[str, Any], output: str) -> tuple[str, KerasMetric]:
    """Returns the name that thresholds use, and the metric."""
    class_name, module = item.get("class_name", ""), item.get("module", "")
    config = item.get("config") or {}
    try:
        if isinstance(config, str):  # TFMA takes it without its braces too
            config = json.loads(config if config.lstrip().startswith("{") else f"{{{config}}}")
        config = dict(config)
    except ValueError as error:
        raise ConfigError(
            f"MetricConfig {class_name!r} must have JSON as its config; got {error}."
        ) from error
    name = config.pop("name", "")
    # Of a class that TFMA has too, TFMA takes its own whatever Keras module is named.
    if module and not module.startswith(_KERAS_MODULES):
        class_name = f"{module}.{class_name}"
    known = KNOWN.get(class_name)
    if known is not None:
        settings = known.settings or ()
        config = {
            key: value
            for key, value in config.items()
            if not (key in _NO_CHANGE and value == _NO_CHANGE[key] and (value is None or key not in settings))
        }
        inner = config.get("thresholds")
        if isinstance(inner, list) and len(inner) == config.get("num_thresholds", 0) - 2:
            del config["thresholds"]  # what Keras's AUC makes of num_thresholds
    own_name = f"{name}_{output}" if name and output else name
    metric = KerasMetric(class_name, config, name=own_name, output=output)
    return name or KerasMetric(class_name, config).name, metric


def _gates(
    metric: KerasMetric,
    item: Mapping[str, Any],
    places: tuple[tuple[Slice, ...], ...],
    min_rows: int,
) -> list[AccuracyGate]:
    wanted = [(place, limit) for limit in _limits(metric, item.get("threshold")) for place in places]
    for part in item.get("per_slice_thresholds", []):
        _only(part, "per_slice_thresholds", ("slicing_specs", "threshold"))
        specs = [_slice(spec, "per_slice_thresholds.slicing_specs") for spec in part.get("slicing_specs", [])]
        if not specs:
            raise ConfigError(f"per_slice_thresholds of {metric.name!r} must have slicing_specs; got none.")
        wanted += [
            (() if spec is None else (spec,), limit)
            for limit in _limits(metric, part.get("threshold"))
            for spec in specs
        ]
    return [
        AccuracyGate(
            metric,
            relative_to=RelativeTo.BASELINE,
            slices=slices,
            min_rows=min_rows if slices else 1,
            skip_small=bool(slices) and min_rows > 1,
            use_bound=False,
            **limit,
        )
        for slices, limit in wanted
    ]


def _limits(metric: KerasMetric, threshold: Mapping[str, Any] | None) -> list[dict[str, float]]:
    """Returns a threshold's limits, each as the setting of a gate."""
    if threshold is None:
        return []
    where = f"The threshold of {metric.name!r}"
    _only(threshold, where, ("value_threshold", "change_threshold"))
    limits: list[dict[str, float]] = []
    value = threshold.get("value_threshold") or {}
    _only(value, f"{where}.value_threshold", ("lower_bound", "upper_bound"))
    for key, setting in (("lower_bound", "min_value"), ("upper_bound", "max_value")):
        if key in value:
            limits.append({setting: float(_plain(value[key]))})
    change = threshold.get("change_threshold") or {}
    _only(change, f"{where}.change_threshold", ("absolute", "relative", "direction"))
    if change:
        direction = change.get("direction")
        rising = direction in ("LOWER_IS_BETTER", 1)
        if not rising and direction not in ("HIGHER_IS_BETTER", 2):
            raise ConfigError(f"{where} must have a direction for its change; got {direction!r}.")
        names = ("max_increase", "max_increase_fraction") if rising else ("max_drop", "max_drop_fraction")
        for key, setting in zip(("absolute", "relative"), names, strict=True):
            if key in change:
                number = float(_plain(change[key]))
                limits.append({setting: number if rising else 0.0 - number})
    if not limits:
        raise ConfigError(f"{where} must have a bound; got {dict(threshold)!r}.")
    return limits


def _plain(value: Any) -> Any:
    """Returns what a wrapper such as DoubleValue holds."""
    return value.get("value", 0.0) if isinstance(value, Mapping) else value
