"""Reduces 100,000 x 64 Examples with tft.pca and with our executor, beside copying them without reducing.

Each method runs in a process of its own, which is this file with the method's name and a folder:

    python benchmarks/reduction.py tfx-mobile FOLDER

All read the same gzip TFRecord file and write a gzip TFRecord file, on Beam's FnApiRunner, one worker.
"""

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # before anything imports TensorFlow
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import dataclasses
import importlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

COMPONENTS = 12
BATCH_ROWS = 4096
LABEL = "label"
BEAM_ARGS = [
    "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "--sdk_container_image=none",
]


@dataclasses.dataclass(frozen=True)
class Run:
    """What one process measured.

    Attributes:
      seconds: Wall time of reading, reducing and writing; without imports.
      cpu_seconds: Time of all threads.
      imported_bytes: Largest resident memory when the imports were done.
      peak_bytes: Largest resident memory at the end.
    """

    seconds: float
    cpu_seconds: float
    imported_bytes: int
    peak_bytes: int


def run_each(methods: Mapping[str, int], folder: Path) -> dict[str, Run]:
    """Runs methods in turn, each as often as it says, and returns their medians."""
    found: dict[str, list[Run]] = {name: [] for name in methods}
    for turn in range(max(methods.values())):
        for name, repeats in methods.items():
            if turn < repeats:
                command = [sys.executable, __file__, name, str(folder)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    raise RuntimeError(f"{name} failed:\n{done.stderr[-4000:]}")
                found[name].append(Run(**json.loads(done.stdout.splitlines()[-1])))
    fields = [field.name for field in dataclasses.fields(Run)]
    return {
        name: Run(**{field: statistics.median(getattr(run, field) for run in runs) for field in fields})
        for name, runs in found.items()
    }


def write_rows(folder: Path, *, rows: int, width: int, layout: str) -> None:
    """Writes Examples of a split 'train' and a TransformGraph that leaves them as they are.

    Args:
      folder: Gets `examples` and `graph`.
      rows: How many.
      width: Numbers in a row, besides the label.
      layout: "vector" for one feature with all of them, "scalars" for a feature each, as most pipelines have.
    """
    import pyarrow as pa
    import tensorflow as tf
    import tensorflow_transform as tft
    import tensorflow_transform.beam as tft_beam
    from tensorflow_transform.tf_metadata import dataset_metadata
    from tfx_bsl.coders import example_coder

    names = ["x"] if layout == "vector" else [f"x_{i:04d}" for i in range(width)]
    spec = {name: tf.io.FixedLenFeature([width // len(names)], tf.float32) for name in names}
    spec[LABEL] = tf.io.FixedLenFeature([1], tf.float32)
    metadata = dataset_metadata.DatasetMetadata.from_feature_spec(spec)
    with tempfile.TemporaryDirectory() as temporary, tft_beam.Context(temp_dir=temporary):
        one = [{name: np.zeros(feature.shape, np.float32) for name, feature in spec.items()}]
        transform_fn = (one, metadata) | tft_beam.AnalyzeDataset(dict)
        _ = transform_fn | tft_beam.WriteTransformFn(str(folder / "graph"))
    schema = tft.TFTransformOutput(str(folder / "graph")).transformed_metadata.schema

    draw = np.random.default_rng(1)
    mixing = draw.normal(size=(width, width)).astype(np.float32) / np.float32(np.sqrt(width))
    encoder = example_coder.RecordBatchToExamplesEncoder(schema)

    def column(values: Any) -> Any:
        offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel()))

    split = folder / "examples" / "Split-train"
    split.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(split / "transformed_examples-00000-of-00001.gz"), "GZIP") as writer:
        for begin in range(0, rows, BATCH_ROWS):
            values = draw.standard_normal((min(BATCH_ROWS, rows - begin), width), np.float32) @ mixing
            columns = [column(part) for part in np.split(values, len(names), axis=1)]
            batch = pa.RecordBatch.from_arrays([*columns, column(values[:, :1])], [*names, LABEL])
            for record in encoder.encode(batch):
                writer.write(record)


def copy_records(folder: Path, target: Path) -> None:
    """Copies the rows with Beam's TFRecord transforms, without looking into them."""
    import apache_beam as beam

    with beam.Pipeline(argv=BEAM_ARGS) as pipeline:
        _ = (
            pipeline
            | beam.io.ReadFromTFRecord(_pattern(folder))
            | beam.io.WriteToTFRecord(str(target / "rows"), file_name_suffix=".gz")
        )


def copy_by_tfxio(folder: Path, target: Path) -> None:
    """Copies the rows as TFX components do: TFXIO, tfx_bsl's encoder, Beam's sink."""
    import apache_beam as beam

    schema = _output(folder).transformed_metadata.schema
    with beam.Pipeline(argv=BEAM_ARGS) as pipeline:
        _ = (
            pipeline
            | _tfxio(folder).BeamSource(BATCH_ROWS)
            | beam.FlatMap(_encode, schema)
            | beam.io.WriteToTFRecord(str(target / "rows"), file_name_suffix=".gz")
        )


def copy_by_batches(folder: Path, target: Path) -> None:
    """Copies the rows with our own reader and writer."""
    import apache_beam as beam

    from tfx_mobile.common import beam_examples

    schema = _output(folder).transformed_metadata.schema
    with beam.Pipeline(argv=BEAM_ARGS) as pipeline:
        _ = (
            pipeline
            | beam_examples.ReadBatches([_pattern(folder)], schema=schema)
            | beam_examples.WriteBatches(str(target / "rows"), schema)
        )


def reduce_by_tft(folder: Path, target: Path) -> None:
    """Reduces the rows by tft.pca, fed with record batches as TFX's Transform does."""
    import apache_beam as beam
    import tensorflow_transform.beam as tft_beam

    preprocessing_fn = _tft_pca(_names(folder))
    tfxio = _tfxio(folder)
    context = tft_beam.Context(temp_dir=str(target / "temporary"))
    with beam.Pipeline(argv=BEAM_ARGS) as pipeline, context:
        rows = pipeline | tfxio.BeamSource(BATCH_ROWS)
        transform = tft_beam.AnalyzeAndTransformDataset(preprocessing_fn, output_record_batches=True)
        (transformed, _), transform_fn = (rows, tfxio.TensorAdapterConfig()) | transform
        _ = transform_fn | tft_beam.WriteTransformFn(str(target / "graph"))
        _ = (
            transformed
            | beam.FlatMap(lambda found: _encode(found[0], None))
            | beam.io.WriteToTFRecord(str(target / "rows"), file_name_suffix=".gz")
        )


def reduce_dicts_by_tft(folder: Path, target: Path) -> None:
    """Reduces the rows by tft.pca, fed with a dict for each row as TFT's guide does."""
    import apache_beam as beam
    import tensorflow_transform as tft
    import tensorflow_transform.beam as tft_beam
    from tensorflow_transform.tf_metadata import dataset_metadata

    schema = _output(folder).transformed_metadata.schema
    preprocessing_fn = _tft_pca(_names(folder))
    context = tft_beam.Context(temp_dir=str(target / "temporary"))
    with beam.Pipeline(argv=BEAM_ARGS) as pipeline, context:
        rows = pipeline | beam.io.ReadFromTFRecord(_pattern(folder)) | "Decode" >> beam.Map(_as_dict)
        transform = tft_beam.AnalyzeAndTransformDataset(preprocessing_fn)
        (transformed, metadata), transform_fn = (rows, dataset_metadata.DatasetMetadata(schema)) | transform
        _ = transform_fn | tft_beam.WriteTransformFn(str(target / "graph"))
        _ = (
            transformed
            | "Encode" >> beam.Map(tft.coders.ExampleProtoCoder(metadata.schema).encode)
            | beam.io.WriteToTFRecord(str(target / "rows"), file_name_suffix=".gz")
        )


def reduce_by_tfx_mobile(folder: Path, target: Path) -> None:
    """Reduces the rows by our executor, as TFX runs it."""
    from tfx.types import standard_artifacts

    from tfx_mobile.common.artifacts import Reduction
    from tfx_mobile.dimensionality_reducer.config import PCA, ReducerConfig
    from tfx_mobile.dimensionality_reducer.executor import Executor

    graph = standard_artifacts.TransformGraph()
    graph.uri = str(folder / "graph")
    outputs = {
        "reduced_examples": standard_artifacts.Examples(),
        "reduced_transform_graph": standard_artifacts.TransformGraph(),
        "reduction": Reduction(),
    }
    for name, artifact in outputs.items():
        artifact.uri = str(target / name)
    pca = PCA(inputs=tuple(_names(folder)), output="pca", n_components=COMPONENTS)
    context = Executor.Context(beam_pipeline_args=BEAM_ARGS, tmp_dir=str(target / "temporary"), unique_id="1")
    Executor(context).Do(
        {"examples": [_artifact(folder)], "transform_graph": [graph]},
        {name: [artifact] for name, artifact in outputs.items()},
        {"config": ReducerConfig((pca,)).to_json(), "code": "0"},
    )


METHODS: dict[str, Callable[[Path, Path], None]] = {
    "tfx-mobile": reduce_by_tfx_mobile,
    "tft.pca, record batches": reduce_by_tft,
    "tft.pca, rows as dicts": reduce_dicts_by_tft,
    "copy: Beam's TFRecords": copy_records,
    "copy: TFXIO": copy_by_tfxio,
    "copy: our batches": copy_by_batches,
}


def main(arguments: Sequence[str]) -> int:
    """Runs one method on a folder and prints what it took as JSON."""
    method, folder = arguments
    for module in _IMPORTED_BY_SOME:  # by all, so that they begin alike
        importlib.import_module(module)
    imported = _peak_bytes()
    with tempfile.TemporaryDirectory(dir=folder) as target:
        begin, cpu_begin = time.perf_counter(), time.process_time()
        METHODS[method](Path(folder), Path(target))
        seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
    print(json.dumps(dataclasses.asdict(Run(seconds, cpu_seconds, imported, _peak_bytes()))))
    return 0


def _tft_pca(names: Sequence[str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    import tensorflow as tf
    import tensorflow_transform as tft

    def preprocessing_fn(inputs: dict[str, Any]) -> dict[str, Any]:
        x = tf.concat([inputs[name] for name in names], axis=1)
        return {"pca": tf.matmul(x, tft.pca(x, COMPONENTS, tf.float32)), LABEL: inputs[LABEL]}

    return preprocessing_fn


def _as_dict(record: bytes) -> dict[str, Any]:
    import tensorflow as tf

    features = tf.train.Example.FromString(record).features.feature
    return {name: np.array(feature.float_list.value, np.float32) for name, feature in features.items()}


def _encode(batch: Any, schema: Any) -> list[bytes]:
    from tfx_bsl.coders import example_coder

    return list(example_coder.RecordBatchToExamplesEncoder(schema).encode(batch))


def _artifact(folder: Path) -> Any:
    from tfx.components.util import examples_utils
    from tfx.proto import example_gen_pb2
    from tfx.types import artifact_utils, standard_artifacts

    examples = standard_artifacts.Examples()
    examples.uri = str(folder / "examples")
    examples.split_names = artifact_utils.encode_split_names(["train"])
    examples_utils.set_payload_format(examples, example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE)
    examples_utils.set_file_format(examples, "tfrecords_gzip")
    return examples


def _tfxio(folder: Path) -> Any:
    from tfx.components.util import tfxio_utils

    factory = tfxio_utils.get_tfxio_factory_from_artifact(
        [_artifact(folder)],
        telemetry_descriptors=["benchmark"],
        schema=_output(folder).transformed_metadata.schema,
    )
    return factory([_pattern(folder)])


def _output(folder: Path) -> Any:
    import tensorflow_transform as tft

    return tft.TFTransformOutput(str(folder / "graph"))


def _names(folder: Path) -> list[str]:
    return sorted(name for name in _output(folder).transformed_feature_spec() if name != LABEL)


def _pattern(folder: Path) -> str:
    return str(folder / "examples" / "Split-train" / "*")


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


_IMPORTED_BY_SOME = (
    "tensorflow_transform.beam",
    "tfx.components.util.tfxio_utils",
    "tfx_mobile.dimensionality_reducer.executor",
)

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main(sys.argv[1:]))
