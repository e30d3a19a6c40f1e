"""Do(): unpack, prepare what candidates share, make them side by side, write the manifest."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import tensorflow_transform as tft
from absl import logging
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils

from tfx_mobile.common import ladder
from tfx_mobile.common.artifacts import serving_folder, split_pattern
from tfx_mobile.common.candidates import Candidate, CandidateSet
from tfx_mobile.common.errors import DataError
from tfx_mobile.quantizer import calibration, making, preparation, tflite
from tfx_mobile.quantizer.config import Inputs, QuantizerConfig


class Executor(base_executor.BaseExecutor):
    """Makes the candidates."""

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Converts, proves and writes; see Quantizer."""
        self._log_startup(input_dict, output_dict, exec_properties)
        config = QuantizerConfig.from_json(exec_properties["config"])
        graph = input_dict.get("transform_graph") if config.inputs is Inputs.RAW else None
        transform_output = tft.TFTransformOutput(artifact_utils.get_single_uri(graph)) if graph else None
        examples = input_dict["examples"]
        folder = Path(artifact_utils.get_single_uri(output_dict["candidates"]))
        rungs = _rungs(input_dict)
        tasks = making.plan(rungs, config)
        for rung, _ in rungs:
            if not config.quantizations_of(rung.twin):
                logging.warning(
                    "Rung %s is trained for int8, which is not among modes: no candidate", rung.name
                )
        first = tflite.load(tasks[0].model)
        making.check_exclusions(tasks, first.kernels())

        patterns = split_pattern(examples, config.calibration_split)
        others = _evaluation_pattern(examples, config.evaluation_split)
        if others is None:
            logging.info("The examples have no evaluation split that calibration rows must not be in")
            config = dataclasses.replace(config, evaluation_split="")
        shared, manifest = preparation.prepare(first.features, transform_output, patterns, others, config)
        with tempfile.TemporaryDirectory(prefix="tfx-mobile-quantizer-") as work:
            path = Path(work, "shared")
            shared.write(path)
            made = making.make(tasks, path, folder, config, _Report(len(tasks)))
            made = making.check_runtimes(made, shared.rows, shared.num_sampled, folder, config)
            stability = making.scale_stability(tasks, path, config)
        if stability is not None:
            manifest = calibration.with_stability(manifest, stability, config.max_scale_change)
        for warning in manifest.warnings:
            logging.warning("%s", warning)
        CandidateSet(made, made[0].name, transform_output is not None, manifest).write(folder)


@dataclasses.dataclass
class _Report:
    """Logs each candidate as it is finished."""

    num_tasks: int
    num_finished: int = 0

    def __call__(self, candidate: Candidate) -> None:
        self.num_finished += 1
        of = f"{self.num_finished} of {self.num_tasks}"
        if candidate.failure:
            logging.warning("Candidate %s (%s) does not count: %s", candidate.name, of, candidate.failure)
        else:
            logging.info(
                "Candidate %s (%s): %d bytes, %d after gzip, largest difference %g",
                candidate.name,
                of,
                candidate.size_bytes,
                candidate.gz_size_bytes,
                candidate.max_abs_error,
            )


def _rungs(input_dict: dict[str, list[types.Artifact]]) -> list[tuple[ladder.Rung, Path]]:
    """Returns each rung and its SavedModel; a single model is a ladder of one."""
    if not input_dict.get("models"):
        model = artifact_utils.get_single_instance(input_dict["model"])
        return [(ladder.Rung("model", 0.0, (), 0, {}), serving_folder(model))]
    folder = Path(artifact_utils.get_single_uri(input_dict["models"]))
    found = [(rung, folder / rung.name) for rung in ladder.read(folder).rungs]
    if not found:
        raise DataError("A ladder must have at least one rung; got none. Look at the trainer's log.")
    return found


def _evaluation_pattern(examples: list[types.Artifact], split: str) -> list[str] | None:
    """Returns the file patterns of the evaluation split; None when there is none.

    Raises:
      DataError: The author named a split that the examples have not.
    """
    known = {name for one in examples for name in artifact_utils.decode_split_names(one.split_names)}
    if split in known or split not in ("", QuantizerConfig.evaluation_split):
        return split_pattern(examples, split)
    return None
