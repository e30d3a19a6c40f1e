"""Do(): unpack, convert each rung in each mode, prove each file, write them."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_transform as tft
from absl import logging
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils

from tfx_mobile.common import candidates as candidates_io
from tfx_mobile.common import examples as examples_io
from tfx_mobile.common import files, ladder, tflite_weights
from tfx_mobile.common.artifacts import serving_folder, split_pattern
from tfx_mobile.common.candidates import Candidate, CandidateSet
from tfx_mobile.common.errors import DataError
from tfx_mobile.common.interpreter import TFLiteModel
from tfx_mobile.quantizer import core, tflite
from tfx_mobile.quantizer.config import Mode, QuantizerConfig
from tfx_mobile.quantizer.join import join

_READ_ROWS = 4096


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
        graph = input_dict.get("transform_graph")
        transform_output = tft.TFTransformOutput(artifact_utils.get_single_uri(graph)) if graph else None
        patterns = split_pattern(input_dict["examples"], config.calibration_split)
        folder = Path(artifact_utils.get_single_uri(output_dict["candidates"]))

        made: list[Candidate] = []
        source: _Source | None = None
        for rung, model_folder in _rungs(input_dict):
            if not config.modes_of(rung.twin):
                logging.warning(
                    "Rung %s is trained for int8, which is not among modes: no candidate", rung.name
                )
                continue
            predictor = tflite.load(model_folder)
            source = source or _Source.of(predictor, transform_output, patterns, config)
            made += _convert_rung(predictor, source, rung, config, folder)
        if source is None:
            raise DataError("A ladder must have at least one rung; got none.")
        reference = made[0]
        if reference.failure:
            raise DataError(
                "The dense float32 model must convert, because everything is compared with it; "
                f"{reference.failure}."
            )
        calibration = {
            "split": config.calibration_split,
            "rows": str(len(next(iter(source.rows.values())))),
            "seed": str(config.seed),
            "sha256": core.fingerprint(source.rows),
        }
        CandidateSet(tuple(made), reference.name, transform_output is not None, calibration).write(folder)


def _rungs(input_dict: dict[str, list[types.Artifact]]) -> Iterator[tuple[ladder.Rung, Path]]:
    """Yields each rung and its SavedModel; a single model is a ladder of one."""
    if input_dict.get("models"):
        folder = Path(artifact_utils.get_single_uri(input_dict["models"]))
        for rung in ladder.read(folder).rungs:
            yield rung, folder / rung.name
    else:
        model = artifact_utils.get_single_instance(input_dict["model"])
        yield ladder.Rung("model", 0.0, (), 0, {}), serving_folder(model)


@dataclasses.dataclass(frozen=True)
class _Source:
    """What all rungs share: preprocessing and representative rows.

    Attributes:
      front: TFLite file of the preprocessing; None when the file is to take transformed features.
      rows: What the file will be given.
      inputs: What the model behind the preprocessing is given for the same rows.
    """

    front: bytes | None
    rows: dict[str, Any]
    inputs: dict[str, Any]

    @classmethod
    def of(
        cls,
        predictor: tflite.Predictor,
        transform_output: tft.TFTransformOutput | None,
        patterns: list[str],
        config: QuantizerConfig,
    ) -> "_Source":
        preprocessing = (
            tflite.Preprocessing(transform_output, list(predictor.features)) if transform_output else None
        )
        features = preprocessing.features if preprocessing else predictor.features
        batches = examples_io.read_batches(patterns, batch_size=_READ_ROWS)
        columns = (examples_io.to_columns(batch, features) for batch in batches)
        rows = core.draw_rows(columns, config.calibration_rows, config.seed)
        if not rows or not len(next(iter(rows.values()))):
            raise DataError(
                f"Calibration needs at least one row in split {config.calibration_split!r}; got none."
            )
        if preprocessing is None:
            return cls(None, rows, rows)
        return cls(preprocessing.convert(), rows, preprocessing.apply(rows))


def _convert_rung(
    predictor: tflite.Predictor,
    source: _Source,
    rung: ladder.Rung,
    config: QuantizerConfig,
    folder: Path,
) -> Iterator[Candidate]:
    wanted = predictor.apply(source.inputs)
    pruned = [layer.weight for layer in rung.layers if layer.num_zeros]
    aware = rung.twin is ladder.Twin.QUANTIZATION_AWARE
    for mode in config.modes_of(rung.twin):
        name = f"{rung.name}-{mode.value}"
        blank = Candidate(
            name=name, rung=rung.name, mode=mode.value, sparsity_fraction=rung.sparsity_fraction
        )
        try:
            model = predictor.convert(mode, source.inputs, quantization_aware=aware)
            tflite_weights.check(model, predictor.weights(pruned), rung.name)
            content = join(source.front, model) if source.front else model
            got = TFLiteModel(content).predict(source.rows)
        except DataError as error:
            logging.warning("Candidate %s does not count: %s", name, error)
            yield dataclasses.replace(blank, failure=str(error))
            continue
        difference = core.compare(got, wanted, exact=mode is Mode.FLOAT32)
        files.write_atomically(candidates_io.model_path(folder, name), content)
        logging.info("Candidate %s: %d bytes, largest difference %g", name, len(content), difference.max_abs)
        yield dataclasses.replace(
            blank,
            failure=difference.failure,
            sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=len(content),
            gz_size_bytes=candidates_io.gz_size_bytes(content),
            max_abs_error=difference.max_abs,
            mean_abs_error=difference.mean_abs,
        )
