"""The TFX component: its channels, its settings, and what can be checked when a pipeline is built."""

from collections.abc import Sequence

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from tfx_mobile.common.artifacts import ModelCandidates, ModelLadder
from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.fingerprint import source_fingerprint
from tfx_mobile.quantizer.config import Mode, QuantizerConfig
from tfx_mobile.quantizer.executor import Executor


class QuantizerSpec(types.ComponentSpec):
    """Channels and parameters of Quantizer."""

    INPUTS = {  # noqa: RUF012
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "models": component_spec.ChannelParameter(type=ModelLadder, optional=True),
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model, optional=True),
        "transform_graph": component_spec.ChannelParameter(
            type=standard_artifacts.TransformGraph, optional=True
        ),
    }
    OUTPUTS = {  # noqa: RUF012
        "candidates": component_spec.ChannelParameter(type=ModelCandidates),
    }
    PARAMETERS = {  # noqa: RUF012
        "config": component_spec.ExecutionParameter(type=str),
        "code": component_spec.ExecutionParameter(type=str),
    }


class Quantizer(base_component.BaseComponent):
    """Makes a TFLite candidate of every rung in every mode and proves each by running it.

    Args:
      examples: Rows as the file will get them: raw Examples (ExampleGen's) when a transform_graph is given,
        transformed ones otherwise.
      models: A ladder of PruningTrainer; or
      model: A Keras SavedModel of any trainer.
      transform_graph: Fused into the file, which then takes raw features.
      modes: float32, float16, dynamic_range, int8; all by default.
      calibration_split: Split that representative rows are drawn from.
      calibration_rows: How many.
      seed: Of the draw.

    Raises:
      ConfigError: A setting is wrong, or not exactly one of models and model is given.
    """

    SPEC_CLASS = QuantizerSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        examples: types.BaseChannel,
        models: types.BaseChannel | None = None,
        model: types.BaseChannel | None = None,
        transform_graph: types.BaseChannel | None = None,
        modes: Sequence[Mode] = QuantizerConfig.modes,
        calibration_split: str = QuantizerConfig.calibration_split,
        calibration_rows: int = QuantizerConfig.calibration_rows,
        seed: int = QuantizerConfig.seed,
    ) -> None:
        if (models is None) == (model is None):
            raise ConfigError(
                "Quantizer needs exactly one of models (a ladder) and model; got "
                f"{'neither' if models is None else 'both'}."
            )
        config = QuantizerConfig(
            modes=tuple(modes),
            calibration_split=calibration_split,
            calibration_rows=calibration_rows,
            seed=seed,
        )
        super().__init__(
            spec=QuantizerSpec(
                examples=examples,
                models=models,
                model=model,
                transform_graph=transform_graph,
                config=config.to_json(),
                code=source_fingerprint("tfx_mobile.quantizer", "tfx_mobile.common"),
                candidates=types.Channel(type=ModelCandidates),
            )
        )
