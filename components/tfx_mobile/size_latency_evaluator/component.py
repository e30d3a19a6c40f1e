"""SizeLatencyEvaluator, the component: channels and settings, checked when the pipeline is built."""

from collections.abc import Mapping, Sequence
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from tfx_mobile.common import artifacts, fingerprint
from tfx_mobile.common.errors import ConfigError
from tfx_mobile.size_latency_evaluator import eval_config as eval_configs
from tfx_mobile.size_latency_evaluator import executor, latency
from tfx_mobile.size_latency_evaluator.config import (
    SMALLEST,
    EvaluatorConfig,
    Gate,
    KerasMetric,
    LatencyConfig,
    Metric,
    Objective,
    Override,
    Slice,
    needs_baseline,
    parse_metric,
)


class SizeLatencyEvaluatorSpec(types.ComponentSpec):
    """What SizeLatencyEvaluator takes and gives."""

    PARAMETERS = {  # noqa: RUF012 - TFX's own form
        "config": component_spec.ExecutionParameter(type=str),
        "code_fingerprint": component_spec.ExecutionParameter(type=str),
        "runtime_version": component_spec.ExecutionParameter(type=str),
        executor.UPSTREAM_KEY: component_spec.ExecutionParameter(type=int),
    }
    INPUTS = {  # noqa: RUF012
        "candidates": component_spec.ChannelParameter(type=artifacts.ModelCandidates),
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "baseline": component_spec.ChannelParameter(type=standard_artifacts.Model, optional=True),
        "upstream_blessing": component_spec.ChannelParameter(
            type=standard_artifacts.ModelBlessing, optional=True
        ),
    }
    OUTPUTS = {  # noqa: RUF012
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
        "evaluation": component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation),
    }


class SizeLatencyEvaluator(base_beam_component.BaseBeamComponent):
    """Measures TFLite candidates as phones run them, judges them against gates and chooses one.

    Outputs: `model` (the chosen file as Format-Serving/tflite), `blessing` (read by the stock Pusher) and
    `evaluation` (index.html, summary.md, evaluation.json). When no candidate passes, `model` holds the best
    one and the blessing says no.

    Predicting is a Beam pipeline, on any runner by `with_beam_pipeline_args` or the pipeline's own arguments;
    latency is measured where the component runs.

    Args:
      candidates: A ModelCandidates channel, from Quantizer.
      examples: An Examples channel: raw rows when the files take raw features, else transformed ones.
      label_key: The label's feature in these rows, for files with one output.
      gates: All must pass; at least one, and one that needs no baseline.
      objective: What is best among the candidates that pass; `config.SMALLEST`, `config.FASTEST` or weights.
      metrics: By name ('rmse', 'AUC', the dotted path of a class) or as `Metric` or `KerasMetric`; the first
        one is drawn against the size. None for those of `eval_config`, else RMSE and MAE.
      eval_split: The split whose rows are used.
      baseline: A Model channel with what phones run today (Format-Serving/tflite), from RegistryModel. An
        empty channel, or an artifact with the custom property `first_release` = 1, is a first release.
      upstream_blessing: A ModelBlessing channel that is needed, too, for example the stock Evaluator's of the
        float model. Given and not blessed, broken or missing: NOT_BLESSED, whatever the gates say. An
        override stands in for our gates and never for this one.
      latency: How latency is measured.
      override: A signed-off exception, or None.
      batch_size: Rows per invocation when predicting.
      decision_threshold: From which output on a binary classifier says class 1.
      slices: Parts of the rows that are reported too, for example `Slice(features=("company",))`.
      sample_weight_key: The feature that weighs each row; empty for equal weights.
      labels: The label's feature by output, for files with several outputs; instead of `label_key`.
      eval_config: A tfma.EvalConfig (or its dict or text): its metrics, slices, label, weight and thresholds
        are used beside what is given here. Its thresholds are judged as TFMA does, on the point values, and
        changes against the baseline.

    Raises:
      ConfigError: A setting cannot work; before anything runs.
    """

    SPEC_CLASS = SizeLatencyEvaluatorSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        candidates: types.BaseChannel,
        examples: types.BaseChannel,
        label_key: str = "",
        gates: Sequence[Gate] = (),
        objective: Objective = SMALLEST,
        metrics: Sequence[Metric | KerasMetric | str] | None = None,
        eval_split: str = "eval",
        baseline: types.BaseChannel | None = None,
        latency: LatencyConfig | None = None,
        override: Override | None = None,
        batch_size: int = 1024,
        decision_threshold: float = 0.5,
        upstream_blessing: types.BaseChannel | None = None,
        slices: Sequence[Slice] = (),
        sample_weight_key: str = "",
        labels: Mapping[str, str] | None = None,
        eval_config: Any = None,
    ) -> None:
        given = tuple(parse_metric(metric) for metric in metrics) if metrics is not None else None
        if eval_config is not None:
            asked = eval_configs.parse(eval_config)
            label_key = _one_of("label_key", label_key, asked.label_key)
            sample_weight_key = _one_of("sample_weight_key", sample_weight_key, asked.sample_weight_key)
            labels = _one_of("labels", dict(labels or {}), asked.labels)
            slices = tuple(dict.fromkeys((*slices, *asked.slices)))
            given = tuple(dict.fromkeys((*(given or ()), *asked.metrics)))
            gates = (*gates, *asked.gates)
        config = EvaluatorConfig(
            label_key=label_key,
            gates=tuple(gates),
            objective=objective,
            metrics=given if given is not None else (Metric.RMSE, Metric.MAE),
            eval_split=eval_split,
            latency=latency if latency is not None else LatencyConfig(),
            override=override,
            batch_size=batch_size,
            decision_threshold=decision_threshold,
            slices=tuple(slices),
            sample_weight_key=sample_weight_key,
            labels=dict(labels or {}),
        )
        if baseline is None and any(needs_baseline(gate) for gate in config.gates):
            raise ConfigError(
                "baseline must be given where a gate is relative to the baseline; got none. "
                "Connect RegistryModel, or compare with the reference."
            )
        super().__init__(
            SizeLatencyEvaluatorSpec(
                candidates=candidates,
                examples=examples,
                **({"baseline": baseline} if baseline is not None else {}),
                **({"upstream_blessing": upstream_blessing} if upstream_blessing is not None else {}),
                **{executor.UPSTREAM_KEY: int(upstream_blessing is not None)},
                config=config.to_json(),
                code_fingerprint=fingerprint.source_fingerprint(
                    "tfx_mobile.size_latency_evaluator", "tfx_mobile.common"
                ),
                runtime_version=_runtime_version(),
                model=types.Channel(type=standard_artifacts.Model),
                blessing=types.Channel(type=standard_artifacts.ModelBlessing),
                evaluation=types.Channel(type=standard_artifacts.ModelEvaluation),
            )
        )


def _one_of(setting: str, given: Any, asked: Any) -> Any:
    """Returns the setting that is given, here or in eval_config."""
    if given and asked and given != asked:
        raise ConfigError(f"{setting} must be the same as in eval_config; got {given!r} and {asked!r}.")
    return given or asked


def _runtime_version() -> str:
    return latency.runtime_version()
