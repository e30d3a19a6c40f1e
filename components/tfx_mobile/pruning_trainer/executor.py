"""Do(): unpack, train in a process of its own, write."""

import os
from typing import Any

import tensorflow as tf
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils, path_utils

from tfx_mobile.common import jsonable, worker
from tfx_mobile.common.artifacts import split_pattern
from tfx_mobile.pruning_trainer import checkpoints
from tfx_mobile.pruning_trainer.config import TrainerConfig

_BEST_HYPERPARAMETERS = "best_hyperparameters.txt"  # what TFX's Tuner writes


class Executor(base_executor.BaseExecutor):
    """Trains the ladder."""

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Trains, prunes and exports; see PruningTrainer."""
        self._log_startup(input_dict, output_dict, exec_properties)
        config = TrainerConfig.from_json(exec_properties["config"])
        resources = config.resources
        (examples,) = input_dict["examples"]
        known = artifact_utils.decode_split_names(examples.split_names)
        split_files = {
            split: _files(split_pattern(input_dict["examples"], split))
            for split in (*config.train_splits, *config.eval_splits)
            if split in known or split not in config.default_eval_splits
        }
        model_run = artifact_utils.get_single_uri(output_dict["model_run"])
        inputs = {
            "config": exec_properties["config"],
            "transform_graph": artifact_utils.get_single_uri(input_dict["transform_graph"]),
            "split_files": split_files,
            "base_model": _base_model(input_dict),
            "best_hyperparameters": _best_hyperparameters(input_dict),
        }
        every_file = [name for names in split_files.values() for name in names]
        key = checkpoints.key(
            jsonable.dumps({**inputs, "config": config.of_weights().to_json()}),
            exec_properties.get("code", ""),
            checkpoints.files_identity(every_file),
        )
        place = checkpoints.folder_for(model_run, key, resources.checkpoint_folder)
        chosen = worker.run(
            "tfx_mobile.pruning_trainer.keras_run.train",
            {
                **inputs,
                "models": artifact_utils.get_single_uri(output_dict["models"]),
                "model_run": model_run,
                "checkpoints": place,
            },
            environment={"TF_USE_LEGACY_KERAS": "1"},
            num_threads=resources.num_threads,
            max_memory_mib=resources.max_memory_mib,
        )
        model_uri = artifact_utils.get_single_uri(output_dict["model"])
        io_utils.copy_dir(chosen, path_utils.serving_model_dir(model_uri))
        checkpoints.Checkpoints(place).clear()


def _files(patterns: list[str]) -> list[str]:
    return sorted(path for pattern in patterns for path in tf.io.gfile.glob(pattern))


def _base_model(input_dict: dict[str, list[types.Artifact]]) -> str:
    found = input_dict.get("base_model")
    return str(path_utils.serving_model_path(artifact_utils.get_single_uri(found))) if found else ""


def _best_hyperparameters(input_dict: dict[str, list[types.Artifact]]) -> str:
    found = input_dict.get("hyperparameters")
    return os.path.join(artifact_utils.get_single_uri(found), _BEST_HYPERPARAMETERS) if found else ""
