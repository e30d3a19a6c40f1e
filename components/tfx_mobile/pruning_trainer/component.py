"""The TFX component: its channels, its settings, and what can be checked when a pipeline is built."""

from collections.abc import Mapping, Sequence

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from tfx_mobile.common.artifacts import ModelLadder
from tfx_mobile.common.fingerprint import source_fingerprint
from tfx_mobile.pruning_trainer.config import TrainerConfig
from tfx_mobile.pruning_trainer.executor import Executor


class PruningTrainerSpec(types.ComponentSpec):
    """Channels and parameters of PruningTrainer."""

    INPUTS = {  # noqa: RUF012
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "transform_graph": component_spec.ChannelParameter(type=standard_artifacts.TransformGraph),
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

    `models` holds every rung, `model` the sparsest one that keeps the accuracy budget as a standard Model,
    `model_run` the TensorBoard logs.

    Args:
      examples: Transformed (or reduced) Examples with a split 'train'.
      transform_graph: The TransformGraph they were made with.
      build_model: Dotted name of a function `build_model(ctx: BuildContext)` that returns a compiled
        tf_keras.Model which takes transformed features by name.
      label_key: The label's feature.
      sparsities: Share of zeros of each rung, rising; 0 is the dense model.
      epochs: At most this many for the dense model; early stopping ends it before.
      fine_tune_epochs: For each sparse rung.
      batch_size: Rows per step.
      max_increase_fraction: How far a rung's validation loss may lie above the dense model's for it to be
        `model`.
      hyperparameters: Handed to `build_model`.
      seed: Of weights and shuffling.

    Raises:
      ConfigError: A setting is wrong, or the module of `build_model` cannot be found.
    """

    SPEC_CLASS = PruningTrainerSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        examples: types.BaseChannel,
        transform_graph: types.BaseChannel,
        build_model: str,
        label_key: str,
        sparsities: Sequence[float] = TrainerConfig.sparsities,
        epochs: int = TrainerConfig.epochs,
        fine_tune_epochs: int = TrainerConfig.fine_tune_epochs,
        batch_size: int = TrainerConfig.batch_size,
        max_increase_fraction: float = TrainerConfig.max_increase_fraction,
        hyperparameters: Mapping[str, float] | None = None,
        seed: int = TrainerConfig.seed,
    ) -> None:
        config = TrainerConfig(
            build_model=build_model,
            label_key=label_key,
            sparsities=tuple(sparsities),
            epochs=epochs,
            fine_tune_epochs=fine_tune_epochs,
            batch_size=batch_size,
            max_increase_fraction=max_increase_fraction,
            hyperparameters=dict(hyperparameters or {}),
            seed=seed,
        )
        super().__init__(
            spec=PruningTrainerSpec(
                examples=examples,
                transform_graph=transform_graph,
                config=config.to_json(),
                code=source_fingerprint(
                    "tfx_mobile.pruning_trainer", "tfx_mobile.common", config.user_module
                ),
                model=types.Channel(type=standard_artifacts.Model),
                models=types.Channel(type=ModelLadder),
                model_run=types.Channel(type=standard_artifacts.ModelRun),
            )
        )
