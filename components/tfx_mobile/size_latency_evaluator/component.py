"""SizeLatencyEvaluator, the component: channels and settings, checked when the pipeline is built."""

from collections.abc import Sequence

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from tfx_mobile.common import artifacts, fingerprint
from tfx_mobile.common.errors import ConfigError
from tfx_mobile.size_latency_evaluator import executor, latency
from tfx_mobile.size_latency_evaluator.config import (
    SMALLEST,
    EvaluatorConfig,
    Gate,
    LatencyConfig,
    Metric,
    Objective,
    Override,
    needs_baseline,
    parse_metric,
)


class SizeLatencyEvaluatorSpec(types.ComponentSpec):
    """What SizeLatencyEvaluator takes and gives."""

    PARAMETERS = {  # noqa: RUF012 - TFX's own form
        "config": component_spec.ExecutionParameter(type=str),
        "code_fingerprint": component_spec.ExecutionParameter(type=str),
        "runtime_version": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {  # noqa: RUF012
        "candidates": component_spec.ChannelParameter(type=artifacts.ModelCandidates),
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "baseline": component_spec.ChannelParameter(type=standard_artifacts.Model, optional=True),
    }
    OUTPUTS = {  # noqa: RUF012
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
        "evaluation": component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation),
    }


class SizeLatencyEvaluator(base_beam_component.BaseBeamComponent):
    """Measures TFLite candidates as phones run them, judges them against gates and chooses one.

    Outputs: `model` (the chosen file as Format-Serving/tflite), `blessing` (read by the stock Pusher) and
    `evaluation` (evaluation.json and index.html). When no candidate passes, `model` holds the best one and
    the blessing says no.

    Predicting is a Beam pipeline, on any runner by `with_beam_pipeline_args` or the pipeline's own arguments;
    latency is measured where the component runs.

    Args:
      candidates: A ModelCandidates channel, from Quantizer.
      examples: An Examples channel: raw rows when the files take raw features, else transformed ones.
      label_key: The label's feature in these rows.
      gates: All must pass; at least one, and one that needs no baseline.
      objective: What is best among the candidates that pass; `config.SMALLEST`, `config.FASTEST` or weights.
      metrics: By name or as `Metric`; the first one is drawn against the size.
      eval_split: The split whose rows are used.
      baseline: A Model channel with what phones run today (Format-Serving/tflite). An empty channel, or an
        artifact with the custom property `first_release` = 1, is a first release.
      latency: How latency is measured.
      override: A signed-off exception, or None.
      batch_size: Rows per invocation when predicting.
      decision_threshold: From which output on a binary classifier says class 1.

    Raises:
      ConfigError: A setting cannot work; before anything runs.
    """

    SPEC_CLASS = SizeLatencyEvaluatorSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        candidates: types.BaseChannel,
        examples: types.BaseChannel,
        label_key: str,
        gates: Sequence[Gate],
        objective: Objective = SMALLEST,
        metrics: Sequence[Metric | str] = (Metric.RMSE, Metric.MAE),
        eval_split: str = "eval",
        baseline: types.BaseChannel | None = None,
        latency: LatencyConfig | None = None,
        override: Override | None = None,
        batch_size: int = 1024,
        decision_threshold: float = 0.5,
    ) -> None:
        config = EvaluatorConfig(
            label_key=label_key,
            gates=tuple(gates),
            objective=objective,
            metrics=tuple(parse_metric(metric) for metric in metrics),
            eval_split=eval_split,
            latency=latency if latency is not None else LatencyConfig(),
            override=override,
            batch_size=batch_size,
            decision_threshold=decision_threshold,
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


def _runtime_version() -> str:
    return latency.runtime_version()
