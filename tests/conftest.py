"""What tests of several components share: tiny taxi trips, transformed by TFT, and a ladder trained on them.

Made once for the session; each fixture imports TensorFlow only when a test asks for it.
"""

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # before anything imports TensorFlow: tfmot works on Keras 2
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import dataclasses
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

settings.load_profile("ci")  # the same examples in every run, and no limit of time that a busy machine breaks
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
sys.path.insert(0, str(Path(__file__).parent / "modules"))  # `tiny_models`, which components import by name

NUM_TRIPS = 640
COMPANIES = (b"Flash", b"Sun", b"Blue", b"")


@dataclasses.dataclass(frozen=True)
class Trips:
    """Raw rows, what TFT makes of them, and both as artifacts' folders.

    Attributes:
      raw: By raw feature, shape (rows,).
      transformed: By transformed feature, shape (rows, 1), computed by TFT's own layer.
      raw_folder: Of an Examples artifact with the splits 'train' and 'eval', both with all rows.
      transformed_folder: Likewise.
      graph_folder: Of a TransformGraph artifact.
    """

    raw: Mapping[str, Any]
    transformed: Mapping[str, Any]
    raw_folder: Path
    transformed_folder: Path
    graph_folder: Path

    def raw_examples(self) -> Any:
        """Returns the Examples artifact of the raw rows."""
        return examples_artifact(self.raw_folder)

    def transformed_examples(self) -> Any:
        """Returns the Examples artifact of the transformed rows."""
        return examples_artifact(self.transformed_folder)

    def transform_graph(self) -> Any:
        """Returns the TransformGraph artifact."""
        from tfx.types import standard_artifacts

        artifact = standard_artifacts.TransformGraph()
        artifact.uri = str(self.graph_folder)
        return artifact


@pytest.fixture(scope="session")
def trips(tmp_path_factory: pytest.TempPathFactory) -> Trips:
    """Trips with coordinates near 41.87, dates near 1.4e9, and a company that may be missing."""
    import tensorflow as tf
    import tensorflow_transform as tft

    folder = tmp_path_factory.mktemp("trips")
    raw = _raw_trips()
    graph = folder / "graph"
    _analyze(raw, folder / "beam", graph)
    output = tft.TFTransformOutput(str(graph))
    given = {name: tf.constant(values.reshape(-1, 1)) for name, values in raw.items() if name != "company"}
    given["company"] = tf.sparse.from_dense(tf.constant(raw["company"].reshape(-1, 1)))
    made = output.transform_features_layer()(given)
    transformed = {name: value.numpy() for name, value in made.items()}
    for split in ("train", "eval"):
        write_examples(folder / "raw" / f"Split-{split}", raw)
        write_examples(folder / "transformed" / f"Split-{split}", transformed)
    return Trips(raw, transformed, folder / "raw", folder / "transformed", graph)


@pytest.fixture(scope="session")
def trained(trips: Trips, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The output artifacts of PruningTrainer's executor on the trips: `model`, `models`, `model_run`."""
    from tfx.types import standard_artifacts

    from tfx_mobile.common.artifacts import ModelLadder
    from tfx_mobile.pruning_trainer.config import Layers, Pruning, TrainerConfig
    from tfx_mobile.pruning_trainer.executor import Executor

    folder = tmp_path_factory.mktemp("trained")
    outputs = {
        "model": standard_artifacts.Model(),
        "models": ModelLadder(),
        "model_run": standard_artifacts.ModelRun(),
    }
    for name, artifact in outputs.items():
        artifact.uri = str(folder / name)
        Path(artifact.uri).mkdir()
    config = TrainerConfig(
        build_model="tiny_models.build_trips",
        label_key="fare",
        sparsities=(0.0, 0.5),
        epochs=8,
        fine_tune_epochs=4,
        batch_size=32,
        max_increase_fraction=0.5,
        pruning=Pruning(layers=Layers(min_weights=64)),
        hyperparameters={"units": 16.0},
    )
    Executor().Do(
        {"examples": [trips.transformed_examples()], "transform_graph": [trips.transform_graph()]},
        {name: [artifact] for name, artifact in outputs.items()},
        {"config": config.to_json()},
    )
    return outputs


def examples_artifact(folder: Path) -> Any:
    """Returns an Examples artifact of the splits in the folder."""
    from tfx.types import artifact_utils, standard_artifacts

    artifact = standard_artifacts.Examples()
    artifact.uri = str(folder)
    splits = sorted(path.name.removeprefix("Split-") for path in folder.glob("Split-*"))
    artifact.split_names = artifact_utils.encode_split_names(splits)
    return artifact


def write_examples(folder: Path, columns: Mapping[str, Any]) -> None:
    """Writes rows as TFX does: one gzip TFRecord of tf.Examples; an empty string is a missing value."""
    import tensorflow as tf

    folder.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(folder / "data_tfrecord-00000-of-00001.gz"), "GZIP") as writer:
        for row in range(len(next(iter(columns.values())))):
            writer.write(serialized({name: values[row] for name, values in columns.items()}))


def serialized(row: Mapping[str, Any]) -> bytes:
    """Returns one row as a serialised tf.Example."""
    import tensorflow as tf

    example = tf.train.Example()
    for name, value in row.items():
        values = np.ravel(value)
        feature = example.features.feature[name]
        if values.dtype.kind in "SO":
            feature.bytes_list.value.extend(text for text in values.tolist() if text)
        elif values.dtype.kind == "i":
            feature.int64_list.value.extend(values.tolist())
        else:
            feature.float_list.value.extend(values.tolist())
    return bytes(example.SerializeToString())


def _raw_trips() -> dict[str, Any]:
    draw = np.random.default_rng(3)
    miles = draw.gamma(2.0, 2.0, NUM_TRIPS).astype(np.float32)
    latitude = draw.normal(41.87, 0.04, NUM_TRIPS).astype(np.float32)
    epoch_s = draw.integers(1_380_000_000, 1_420_000_000, NUM_TRIPS)
    company = np.array(COMPANIES, dtype=object)[draw.integers(0, len(COMPANIES), NUM_TRIPS)]
    fare = 3.0 + 2.25 * miles + 20.0 * (latitude - 41.87) + 1.5 * (company == b"Flash")
    fare = (fare + (epoch_s - 1.4e9) / 2e7 + draw.normal(0.0, 0.3, NUM_TRIPS)).astype(np.float32)
    return {"latitude": latitude, "epoch_s": epoch_s, "miles": miles, "company": company, "fare": fare}


def _analyze(raw: Mapping[str, Any], temporary: Path, graph: Path) -> None:
    import tensorflow_transform as tft
    import tensorflow_transform.beam as tft_beam
    import trips_features
    from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io

    rows = [
        {
            name: ([value] if value else []) if name == "company" else [value]
            for name, value in zip(raw, values, strict=True)
        }
        for values in zip(*raw.values(), strict=True)
    ]
    metadata = dataset_metadata.DatasetMetadata.from_feature_spec(trips_features.feature_spec())
    metadata_io.write_metadata(metadata, str(graph / tft.TFTransformOutput.RAW_METADATA_DIR))
    with tft_beam.Context(temp_dir=str(temporary)):
        _, transform_fn = (rows, metadata) | tft_beam.AnalyzeAndTransformDataset(
            trips_features.preprocessing_fn
        )
        _ = transform_fn | tft_beam.WriteTransformFn(str(graph))
