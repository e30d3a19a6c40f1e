"""What all candidates of a run share: preprocessing, representative rows, rows at the edges, metadata."""

import hashlib
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tensorflow as tf
import tensorflow_transform as tft

from tfx_mobile.common import examples as examples_io
from tfx_mobile.common import tflite_file
from tfx_mobile.common.calibration import Calibration
from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.tflite_metadata import Feature, ModelMetadata, Vocabulary
from tfx_mobile.quantizer import calibration
from tfx_mobile.quantizer.boundary import boundary_rows
from tfx_mobile.quantizer.config import QuantizerConfig
from tfx_mobile.quantizer.preprocessing import Preprocessing, raw_schema

Columns = Mapping[str, npt.NDArray[Any]]
Features = Mapping[str, tuple[Any, tuple[int, ...]]]

_READ_ROWS = 4096
_UNIT_TAG = "unit:"


@dataclass(frozen=True)
class Shared:
    """What all candidates of a run have in common.

    Attributes:
      front: TFLite file of the preprocessing; empty when the files take transformed features.
      rows: What a file is given to prove itself: representative rows, then rows at the edges.
      inputs: What the model behind the preprocessing is given for them.
      num_sampled: How many of the rows are representative ones.
      metadata: What is written into each file.
      allow_select_tf_ops: See QuantizerConfig; so the next.
      strip: Likewise.
    """

    front: bytes
    rows: dict[str, npt.NDArray[Any]]
    inputs: dict[str, npt.NDArray[Any]]
    num_sampled: int
    metadata: ModelMetadata
    allow_select_tf_ops: bool
    strip: bool

    def write(self, path: Path) -> None:
        """Writes it for the workers of this run; a pickle, since only they read it."""
        path.write_bytes(pickle.dumps(self))

    @classmethod
    def read(cls, path: Path) -> "Shared":
        """Reads what `write` wrote."""
        found: Shared = pickle.loads(path.read_bytes())
        return found

    @property
    def sample(self) -> dict[str, npt.NDArray[Any]]:
        """The model's inputs of the representative rows."""
        return {name: values[: self.num_sampled] for name, values in self.inputs.items()}


def prepare(
    model_inputs: Features,
    transform_output: tft.TFTransformOutput | None,
    patterns: Sequence[str],
    evaluation_patterns: Sequence[str] | None,
    config: QuantizerConfig,
) -> tuple[Shared, Calibration]:
    """Draws the representative rows and converts the preprocessing.

    Args:
      model_inputs: By name, dtype and row shape of what the model takes.
      transform_output: Of the TransformGraph to put into the files; None for none.
      patterns: Of the calibration split's files.
      evaluation_patterns: Of the evaluation split's; None when there is none.
      config: Of the run.

    Raises:
      DataError: The preprocessing has ops that TFLite lacks, or there are no rows that could be drawn.
    """
    front = None
    if transform_output is not None:
        front = Preprocessing(
            transform_output, list(model_inputs), allow_select_tf_ops=config.allow_select_tf_ops
        )
    features = front.features if front else model_inputs
    missing = front.missing if front else None
    content = front.convert() if front else b""  # refused before rows are read
    vocabularies = _vocabularies(front, content) if front else {}

    def columns(batch: pa.RecordBatch) -> Columns:
        return examples_io.to_columns(batch, features, missing)

    sample = calibration.draw(
        examples_io.read_batches(patterns, batch_size=_READ_ROWS),
        None if evaluation_patterns is None else _batches(evaluation_patterns),
        columns,
        num_rows=config.calibration_rows,
        seed=config.seed,
        split=config.calibration_split,
        evaluation_split=config.evaluation_split,
    )
    edges = boundary_rows(sample.rows, missing or {})
    rows = {name: np.concatenate([values, edges[name]]) for name, values in sample.rows.items()}
    inputs = front.apply(rows) if front else rows
    drawn = {name: values[: sample.num_rows] for name, values in inputs.items()}
    paths = [path for pattern in patterns for path in tf.io.gfile.glob(pattern)]
    manifest = calibration.describe(
        sample,
        drawn,
        calibration.source_files(paths, lambda path: tf.io.gfile.GFile(path, "rb")),
        missing=missing,
        max_scale_change=config.max_scale_change,
    )
    shared = Shared(
        front=content,
        rows=rows,
        inputs=inputs,
        num_sampled=sample.num_rows,
        metadata=_metadata(features, missing, vocabularies, transform_output, config),
        allow_select_tf_ops=config.allow_select_tf_ops,
        strip=config.strip,
    )
    return shared, manifest


def _batches(patterns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    return examples_io.read_batches(patterns, batch_size=_READ_ROWS)


def _metadata(
    features: Features,
    missing: Mapping[str, Any] | None,
    vocabularies: Mapping[str, Vocabulary],
    transform_output: tft.TFTransformOutput | None,
    config: QuantizerConfig,
) -> ModelMetadata:
    units = _units(transform_output) | config.units
    if unknown := sorted(set(config.units) - set(features)):
        raise ConfigError(
            f"units must be of features that the files take; {', '.join(unknown)} is not among "
            f"{', '.join(sorted(features))}."
        )
    return ModelMetadata(
        name=config.model_name,
        version=config.model_version,
        license=config.licence,
        label=Feature(config.label.name, "float32", config.label.unit),
        inputs=tuple(
            Feature(
                name,
                "string" if np.dtype(dtype).kind in "SUO" else np.dtype(dtype).name,
                units.get(name, ""),
                missing=_marker(_neutral(dtype) if missing is None else missing.get(name)),
            )
            for name, (dtype, _) in sorted(features.items())
        ),
        vocabularies=dict(vocabularies),
    )


def _neutral(dtype: Any) -> bytes | int:
    """Returns what `to_columns` takes a missing value for where nobody says what stands for it."""
    return b"" if np.dtype(dtype).kind in "SUO" else 0


def _marker(value: Any) -> str | int | float | None:
    """Returns a marker of missing values as JSON has it: there is no NaN."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (int, np.integer)):
        return int(value)
    return float(value) if np.isfinite(value) else "NaN"


def _vocabularies(front: Preprocessing, content: bytes) -> dict[str, Vocabulary]:
    """Returns how to find the vocabularies that are in the preprocessing's file as its tables have them."""
    held = {
        hashlib.sha256(data).hexdigest()
        for data in tflite_file.string_constants(tflite_file.read(content)[0])
    }
    named = {name: Vocabulary.of(values) for name, values in sorted(front.vocabularies.items())}
    return {name: one for name, one in named.items() if one.sha256 in held}


def _units(transform_output: tft.TFTransformOutput | None) -> dict[str, str]:
    """Returns the units that the schema gives raw features: annotation tags such as 'unit:km'."""
    if transform_output is None:
        return {}
    return {
        feature.name: tag[len(_UNIT_TAG) :].strip()
        for feature in raw_schema(transform_output).feature
        for tag in feature.annotation.tag
        if tag.startswith(_UNIT_TAG)
    }
