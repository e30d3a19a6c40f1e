"""The TFX component: its channels, its settings, and what can be checked when a pipeline is built."""

from collections.abc import Mapping, Sequence

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from tfx_mobile.common.artifacts import ModelCandidates, ModelLadder
from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.fingerprint import source_fingerprint
from tfx_mobile.quantizer.config import (
    Inputs,
    Label,
    Modes,
    ModeSet,
    QuantizerConfig,
    Runtime,
    quantizations,
)
from tfx_mobile.quantizer.executor import Executor
from tfx_mobile.quantizer.runtimes import check_runtime


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
    """Makes TFLite candidates of every rung in every mode and proves each by running it.

    A candidate that cannot be converted, run, or trusted is listed with the reason and costs the others
    nothing; docs/quantizer.md shows how to choose modes.

    Args:
      examples: Rows as the files will get them: raw Examples (ExampleGen's) when a transform_graph is given,
        transformed ones otherwise.
      models: A ladder of PruningTrainer; or
      model: A Keras SavedModel of any trainer.
      transform_graph: Fused into the files, which then take raw features.
      modes: A set by name ('standard', 'smallest', 'fastest', 'accurate') or a list of Mode and
        Quantization. Float32 is always made: everything is compared with it.
      inputs: What the files take: 'raw' features, or 'transformed' ones although there is a transform_graph;
        examples then are transformed too.
      allow_select_tf_ops: Ops that TFLite has no built-in for stay TensorFlow ops; phones then need the Flex
        delegate.
      strip: Leave out names of tensors and what else does not change results.
      calibration_split: Split that representative rows are drawn from.
      evaluation_split: Split that none of them may be in; '' when there is none.
      calibration_rows: How many; they give int8 its ranges, and every candidate is compared with Keras on
        them.
      max_scale_change: Warn when the ranges of two halves of these rows differ by a larger share.
      seed: Of the draw.
      timeout_seconds: For each candidate.
      num_processes: Candidates converted side by side; 0 is one for each core.
      runtimes: Other runtimes that every candidate must run on.
      model_name: Written into the files, as are the next five.
      model_version: For example '2026-11-21'.
      label: Name of what is predicted.
      label_unit: For example 'USD'.
      units: Of raw features by name; they go before those of the schema (annotation tags such as 'unit:km').
      licence: For example 'Apache-2.0'.

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
        modes: Modes = ModeSet.STANDARD,
        inputs: Inputs | str = QuantizerConfig.inputs,
        allow_select_tf_ops: bool = QuantizerConfig.allow_select_tf_ops,
        strip: bool = QuantizerConfig.strip,
        calibration_split: str = QuantizerConfig.calibration_split,
        evaluation_split: str = QuantizerConfig.evaluation_split,
        calibration_rows: int = QuantizerConfig.calibration_rows,
        max_scale_change: float = QuantizerConfig.max_scale_change,
        seed: int = QuantizerConfig.seed,
        timeout_seconds: float = QuantizerConfig.timeout_seconds,
        num_processes: int = QuantizerConfig.num_processes,
        runtimes: Sequence[Runtime] = QuantizerConfig.runtimes,
        model_name: str = QuantizerConfig.model_name,
        model_version: str = QuantizerConfig.model_version,
        label: str = "",
        label_unit: str = "",
        units: Mapping[str, str] | None = None,
        licence: str = QuantizerConfig.licence,
    ) -> None:
        if (models is None) == (model is None):
            raise ConfigError(
                "Quantizer needs exactly one of models (a ladder) and model; got "
                f"{'neither' if models is None else 'both'}."
            )
        if inputs not in (*Inputs, *(one.value for one in Inputs)):
            raise ConfigError(f"inputs must be 'raw' or 'transformed'; got {inputs!r}.")
        config = QuantizerConfig(
            modes=quantizations(modes),
            inputs=Inputs(inputs),
            allow_select_tf_ops=allow_select_tf_ops,
            strip=strip,
            calibration_split=calibration_split,
            evaluation_split=evaluation_split,
            calibration_rows=calibration_rows,
            max_scale_change=max_scale_change,
            seed=seed,
            timeout_seconds=timeout_seconds,
            num_processes=num_processes,
            runtimes=tuple(runtimes),
            model_name=model_name,
            model_version=model_version,
            label=Label(label, label_unit),
            units=dict(units or {}),
            licence=licence,
        )
        for runtime in config.runtimes:
            check_runtime(runtime)
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
