"""The TFX component: its channels, its settings, and what can be checked when a pipeline is built."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from tfx_mobile.common import user_code
from tfx_mobile.common.artifacts import ModelLadder
from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.fingerprint import source_fingerprint, with_imports
from tfx_mobile.pruning_trainer.config import (
    Clustering,
    Pruning,
    QuantizationAware,
    Resources,
    Rewinding,
    TrainerConfig,
    split_args,
)
from tfx_mobile.pruning_trainer.executor import Executor


class PruningTrainerSpec(types.ComponentSpec):
    """Channels and parameters of PruningTrainer."""

    INPUTS = {  # noqa: RUF012
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "transform_graph": component_spec.ChannelParameter(type=standard_artifacts.TransformGraph),
        "base_model": component_spec.ChannelParameter(type=standard_artifacts.Model, optional=True),
        "hyperparameters": component_spec.ChannelParameter(
            type=standard_artifacts.HyperParameters, optional=True
        ),
    }
    OUTPUTS = {  # noqa: RUF012
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "models": component_spec.ChannelParameter(type=ModelLadder),
        "model_run": component_spec.ChannelParameter(type=standard_artifacts.ModelRun),
    }
    PARAMETERS = {  # noqa: RUF012
        "config": component_spec.ExecutionParameter(type=str),
        "code": component_spec.ExecutionParameter(type=str),
    }


class PruningTrainer(base_component.BaseComponent):
    """Trains a dense model, then prunes and fine-tunes it rung by rung.

    `models` holds every rung and its twins, `model` the sparsest plain rung that keeps the accuracy budget as
    a standard Model, `model_run` the TensorBoard logs and a page to look at, `training.html`.

    Args:
      examples: Transformed (or reduced) Examples with the splits of `train_args`, 'train' by default.
      transform_graph: The TransformGraph they were made with.
      label_key: The label's feature.
      build_model: Dotted name of a function `build_model(ctx: BuildContext)` that returns a compiled,
        functional Keras model (tf_keras or Keras 3) which takes transformed features by name. With
        `module_file`, its name in that file, 'build_model' by default.
      module_file: Path of a Python file with the functions, instead of dotted names.
      input_fn: Likewise, a function `input_fn(ctx, split, batch_size)` that returns one epoch's batches of
        (features, labels) as a tf.data.Dataset; by default the component reads the Examples.
      base_model: A trained Keras model: it is pruned and fine-tuned only. `build_model` is needed only if it
        was saved without its optimizer and loss.
      hyperparameters: A dict, handed to `build_model` as `ctx.hyperparameters`, or the channel of a Tuner's
        best.
      sparsities: Share of zeros of each rung, rising; 0 is the dense model.
      pruning: How the sparse rungs are made: structure, schedule, criterion, allocation, layers.
      rewinding: Adds a lottery-ticket twin of each sparse rung.
      clustering: Adds a clustered twin of each rung.
      quantization_aware: Adds an int8-aware twin of each rung, or of its clustered twin.
      train_args: TFX's TrainArgs, or a dict: `splits` to train on and `num_steps`, at most, of the dense
        model.
      eval_args: TFX's EvalArgs, or a dict: `splits` to validate on, and `num_steps` of one validation.
        Without splits, a share of the train split is held out.
      epochs: At most this many for the dense model; early stopping ends it before.
      patience: Epochs without a better validation loss before early stopping.
      fine_tune_epochs: For each sparse rung.
      batch_size: Rows per step.
      validation_fraction: Share of the train split held out, in (0, 0.5].
      max_increase_fraction: How far a rung's validation loss may lie above the dense model's for it to be
        `model`.
      seed: Of weights and shuffling.
      resources: Threads, memory, checkpoints.

    Raises:
      ConfigError: A setting is wrong, or the module of a function cannot be found.
    """

    SPEC_CLASS = PruningTrainerSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        examples: types.BaseChannel,
        transform_graph: types.BaseChannel,
        label_key: str,
        build_model: str = "",
        module_file: str | os.PathLike[str] = "",
        input_fn: str = "",
        base_model: types.BaseChannel | None = None,
        hyperparameters: Mapping[str, Any] | types.BaseChannel | None = None,
        sparsities: Sequence[float] = TrainerConfig.sparsities,
        pruning: Pruning | None = None,
        rewinding: Rewinding | None = None,
        clustering: Clustering | None = None,
        quantization_aware: QuantizationAware | None = None,
        train_args: Any = None,
        eval_args: Any = None,
        epochs: int = TrainerConfig.epochs,
        patience: int = TrainerConfig.patience,
        fine_tune_epochs: int = TrainerConfig.fine_tune_epochs,
        batch_size: int = TrainerConfig.batch_size,
        validation_fraction: float = TrainerConfig.validation_fraction,
        max_increase_fraction: float = TrainerConfig.max_increase_fraction,
        seed: int = TrainerConfig.seed,
        resources: Resources | None = None,
    ) -> None:
        tuned = hyperparameters if isinstance(hyperparameters, types.BaseChannel) else None
        given = {} if tuned or hyperparameters is None else dict(hyperparameters)
        if not build_model and (module_file or base_model is None):
            if not module_file:
                raise ConfigError(
                    "PruningTrainer needs a model; give build_model (a dotted name), module_file, or "
                    "base_model."
                )
            build_model = "build_model"
        if rewinding and base_model is not None:
            raise ConfigError(
                "Rewinding goes back to the dense training; a base model comes trained. Leave one of them "
                "out."
            )
        config = TrainerConfig(
            label_key=label_key,
            build_model=build_model,
            input_fn=input_fn,
            module_source=user_code.read_module_file(module_file) if module_file else "",
            sparsities=tuple(sparsities),
            pruning=pruning or Pruning(),
            rewinding=rewinding,
            clustering=clustering,
            quantization_aware=quantization_aware,
            train_args=split_args(train_args),
            eval_args=split_args(eval_args),
            epochs=epochs,
            patience=patience,
            fine_tune_epochs=fine_tune_epochs,
            batch_size=batch_size,
            validation_fraction=validation_fraction,
            max_increase_fraction=max_increase_fraction,
            seed=seed,
            hyperparameters=given,
            resources=resources or Resources(),
        )
        if module_file:
            for setting, name in (("build_model", build_model), ("input_fn", input_fn)):
                if name:
                    user_code.check_defines(config.module_source, name, setting)
        as_json = config.to_json()
        TrainerConfig.from_json(as_json)  # refuses a value of another type than its setting's
        super().__init__(
            spec=PruningTrainerSpec(
                examples=examples,
                transform_graph=transform_graph,
                base_model=base_model,
                hyperparameters=tuned,
                config=as_json,
                code=source_fingerprint(
                    "tfx_mobile.pruning_trainer", "tfx_mobile.common", *with_imports(config.user_modules)
                ),
                model=types.Channel(type=standard_artifacts.Model),
                models=types.Channel(type=ModelLadder),
                model_run=types.Channel(type=standard_artifacts.ModelRun),
            )
        )
