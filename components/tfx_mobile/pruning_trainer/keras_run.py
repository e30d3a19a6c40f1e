"""One whole training in a process of its own: read, train, export, prove, report.

What the executor hands to `common.worker`: arguments are plain JSON values, so this module knows files and
folders but no TFX artifacts. TensorFlow is set up here, before anything else uses it.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft
import tf_keras
from absl import logging

from tfx_mobile.common import files, tflite_weights, user_code
from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.common.ladder import Ladder, Rung
from tfx_mobile.pruning_trainer import core, keras_export, keras_line, keras_training
from tfx_mobile.pruning_trainer.checkpoints import Checkpoints
from tfx_mobile.pruning_trainer.config import TrainerConfig, Units
from tfx_mobile.pruning_trainer.context import BuildContext, tuner_values
from tfx_mobile.pruning_trainer.keras_fit import DivergedError
from tfx_mobile.pruning_trainer.keras_input import TrainingData, examples_data, user_data
from tfx_mobile.pruning_trainer.keras_training import TrainedRung
from tfx_mobile.pruning_trainer.page import PAGE_FILE, page

_KEPT = "kept"  # below the checkpoints: the rungs that were done when a loss diverged


def train(
    config: str,
    transform_graph: str,
    split_files: Mapping[str, Sequence[str]],
    base_model: str,
    best_hyperparameters: str,
    models: str,
    model_run: str,
    checkpoints: str,
) -> str:
    """Trains the ladder and writes it.

    Args:
      config: JSON of a TrainerConfig.
      transform_graph: Folder of the TransformGraph.
      split_files: Split name to its files.
      base_model: Folder of a model that is already trained; empty for none.
      best_hyperparameters: File of a Tuner; empty for none.
      models: Folder for the ladder.
      model_run: Folder for TensorBoard and the page.
      checkpoints: Folder for progress; removed when all is written.

    Returns:
      The folder of the chosen rung.

    Raises:
      ConfigError: A setting does not fit the data or the model.
      DataError: The rows cannot be trained on, a loss diverges, or zeros are missing.
    """
    tf.config.experimental.enable_op_determinism()
    tf_keras.backend.experimental.enable_tf_random_generator()  # whose state a checkpoint can hold
    settings = TrainerConfig.from_json(config)
    keras_line.set_random_seed(settings.seed)
    ctx = _context(settings, transform_graph, split_files, best_hyperparameters)
    model = _model(settings, ctx, base_model)
    keras_export.check_can_be_saved(model)
    data = _data(settings, ctx, model, split_files)
    store = Checkpoints(checkpoints)
    folder, run_folder = Path(models), Path(model_run)
    rungs: list[Rung] = []
    with store.locked():
        try:
            for trained in keras_training.train_ladder(
                model, data, settings, store, logs=run_folder, is_trained=bool(base_model)
            ):
                _export(trained, ctx, settings, folder)
                rungs.append(trained.rung)
        except DivergedError as error:
            raise DataError(str(error) + _keep(rungs, models, f"{checkpoints}/{_KEPT}")) from error
        ladder = Ladder(rungs=tuple(rungs), chosen=core.choose_rung(rungs, settings.max_increase_fraction))
        html = page(ladder, settings, keras_training.sensitivities(store))
        files.write_atomically(run_folder / PAGE_FILE, html.encode())
        ladder.write(folder)
    return str(folder / ladder.chosen)


def _context(
    config: TrainerConfig, graph: str, split_files: Mapping[str, Sequence[str]], best: str
) -> BuildContext:
    transform_output = tft.TFTransformOutput(graph)
    spec = transform_output.transformed_feature_spec()
    if config.label_key not in spec:
        raise ConfigError(
            f"label_key must be a transformed feature; got {config.label_key!r}. "
            f"There are {', '.join(sorted(spec))}."
        )
    found = tuner_values(tf.io.gfile.GFile(best).read()) if best else {}
    return BuildContext(
        feature_spec={name: feature for name, feature in spec.items() if name != config.label_key},
        label_key=config.label_key,
        transform_output=transform_output,
        hyperparameters=found | config.hyperparameters,
        splits={split: tuple(names) for split, names in split_files.items()},
        train_splits=config.train_splits,
        seed=config.seed,
    )


def _model(config: TrainerConfig, ctx: BuildContext, base_model: str) -> Any:
    base = keras_export.load_model(base_model) if base_model else None
    if base is not None and getattr(base, "optimizer", None) is not None:
        return keras_training.checked(base)
    if not config.build_model:
        raise ConfigError(
            "A base model must be compiled, or build_model must say how; got a model saved without its "
            "optimizer and loss. Give build_model too: its weights are replaced by those of the base model."
        )
    built = keras_training.checked(_function(config, "build_model")(ctx))
    if base is None:
        return built
    got, wanted = ([tuple(w.shape) for w in model.get_weights()] for model in (base, built))
    if got != wanted:
        raise ConfigError(
            f"build_model must make the architecture of the base model; got weights of the shapes {wanted}, "
            f"and the base model's are {got}."
        )
    built.set_weights(base.get_weights())
    return built


def _function(config: TrainerConfig, setting: str) -> Any:
    name = getattr(config, setting)
    if config.module_source:
        return user_code.load_from_source(config.module_source, name, setting)
    return user_code.load(name, setting)


def _data(
    config: TrainerConfig, ctx: BuildContext, model: Any, split_files: Mapping[str, Sequence[str]]
) -> TrainingData:
    wanted = keras_line.input_names(model)
    if config.input_fn:
        return user_data(ctx, _function(config, "input_fn"), config)
    for name in wanted:
        if name not in ctx.feature_spec:
            near = difflib.get_close_matches(name, ctx.feature_spec, n=3) or sorted(ctx.feature_spec)
            raise ConfigError(
                f"The model's inputs must be transformed features; {name!r} is none. There are "
                f"{', '.join(near)}."
            )
    spec = {name: ctx.feature_spec[name] for name in wanted}
    label = ctx.transform_output.transformed_feature_spec()[config.label_key]
    return examples_data(split_files, {**spec, config.label_key: label}, config.label_key, config)


def _export(trained: TrainedRung, ctx: BuildContext, config: TrainerConfig, models: Path) -> None:
    """Writes the rung and reads it back: its zeros must be in the weights and in the TFLite file."""
    rung, folder = trained.rung, models / trained.rung.name
    keras_export.save(trained.model, ctx.transform_output, config.label_key, str(folder))
    if not rung.target_fraction or isinstance(config.pruning.structure, Units):
        return
    read = keras_export.read_back(trained.model, str(folder))
    exported = keras_training.kernels(read, trained.kernels, rung.twin)
    _check(f"the exported weights of rung {rung.name!r}", rung, exported)
    try:
        content = keras_export.float32_tflite(str(folder))
    except DataError as error:
        logging.warning(
            "Rung %s does not convert to TFLite, so its zeros were not counted there: %s", rung.name, error
        )
        return
    tflite_weights.check(content, trained.kernels, rung.name)


def _check(where: str, rung: Rung, kernels: Mapping[str, Any]) -> None:
    found = core.count_zeros(kernels)
    if found != rung.layers:
        table = "; ".join(
            f"{a.weight} {a.num_zeros}/{a.num_weights}, trained {b.num_zeros}"
            for a, b in zip(found, rung.layers, strict=True)
        )
        raise DataError(f"The zeros of {where} must be those that were trained; got {table}.")


def _keep(rungs: Sequence[Rung], models: str, kept: str) -> str:
    """Copies the rungs that were done to where a failed run leaves them; returns what to tell the author."""
    if not rungs:
        return ""
    for rung in rungs:
        for folder, _, names in tf.io.gfile.walk(f"{models}/{rung.name}"):
            place = f"{kept}/{folder.removeprefix(models).strip('/')}"
            tf.io.gfile.makedirs(place)
            for name in names:
                tf.io.gfile.copy(f"{folder}/{name}", f"{place}/{name}", overwrite=True)
    return f" The rungs up to {rungs[-1].name!r} are kept in {kept}."
