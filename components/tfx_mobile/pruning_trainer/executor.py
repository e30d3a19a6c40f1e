"""Do(): unpack, train rung by rung, write each as it is done."""

from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils, path_utils

from tfx_mobile.common.artifacts import split_pattern
from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.ladder import Ladder
from tfx_mobile.pruning_trainer import core, keras_export, keras_training
from tfx_mobile.pruning_trainer.config import TrainerConfig
from tfx_mobile.pruning_trainer.context import BuildContext

TRAIN_SPLIT = "train"


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
        transform_output = tft.TFTransformOutput(artifact_utils.get_single_uri(input_dict["transform_graph"]))
        ctx = _context(transform_output, config)
        rows = _read_rows(
            split_pattern(input_dict["examples"], TRAIN_SPLIT), transform_output, config.label_key
        )
        models = Path(artifact_utils.get_single_uri(output_dict["models"]))
        logs = Path(artifact_utils.get_single_uri(output_dict["model_run"]))

        rungs = []
        for trained in keras_training.train_ladder(rows, ctx, config, logs):
            keras_export.save(
                trained.model, transform_output, config.label_key, str(models / trained.rung.name)
            )
            rungs.append(trained.rung)
        ladder = Ladder(rungs=tuple(rungs), chosen=core.choose_rung(rungs, config.max_increase_fraction))
        ladder.write(models)
        model_uri = artifact_utils.get_single_uri(output_dict["model"])
        io_utils.copy_dir(str(models / ladder.chosen), path_utils.serving_model_dir(model_uri))


def _context(transform_output: tft.TFTransformOutput, config: TrainerConfig) -> BuildContext:
    spec = transform_output.transformed_feature_spec()
    if config.label_key not in spec:
        raise ConfigError(
            f"label_key must be a transformed feature; got {config.label_key!r}. "
            f"There are {', '.join(sorted(spec))}."
        )
    features = {name: feature for name, feature in spec.items() if name != config.label_key}
    return BuildContext(features, config.label_key, transform_output, config.hyperparameters)


def _read_rows(
    patterns: list[str], transform_output: tft.TFTransformOutput, label_key: str
) -> keras_training.Rows:
    """Reads all rows into memory, in file order."""
    spec = transform_output.transformed_feature_spec()
    paths = sorted(path for pattern in patterns for path in tf.io.gfile.glob(pattern))
    dataset = tf.data.TFRecordDataset(paths, "GZIP" if paths and paths[0].endswith(".gz") else "")
    features = tf.io.parse_example(tf.constant(list(dataset.as_numpy_iterator()), tf.string), spec)
    labels = features.pop(label_key)
    return keras_training.Rows(features, labels)
