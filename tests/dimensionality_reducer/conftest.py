"""Rows through real TFT and our executor, once for all tests of the reducer."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

LABEL = "fare"
NUM_TRAIN, NUM_EVAL = 160, 40
NUM_WORDS = 5
COMPANIES = ["Flash", "Sun", "Blue", "Zürich"]


def raw_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Returns raw rows: numbers at very different scales, a string, words in varying number, a label."""
    draw = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        miles = float(np.float32(draw.gamma(2.0, 2.0)))
        rows.append(
            {
                "miles": miles,
                "seconds": float(np.float32(miles * 180 + draw.normal(0, 60) + 1e4)),
                "latitude": float(np.float32(40.7 + draw.normal(0, 0.01))),
                "company": COMPANIES[i % len(COMPANIES)],
                "words": [f"w{(i + k * k) % NUM_WORDS}" for k in range(i % 4)],
                LABEL: float(np.float32(3 + 2 * miles)),
            }
        )
    return rows


def preprocess(inputs: dict[str, Any]) -> dict[str, Any]:
    """Returns scaled numbers, a plain one, a bucket, a vocabulary, sparse words, a vector and the label."""
    import tensorflow as tf
    import tensorflow_transform as tft

    word_ids = tft.compute_and_apply_vocabulary(inputs["words"], vocab_filename="words")
    tfidf_ids, tfidf_weights = tft.tfidf(word_ids, vocab_size=NUM_WORDS)
    return {
        "miles_z": tft.scale_to_z_score(inputs["miles"]),
        "seconds_z": tft.scale_to_z_score(inputs["seconds"]),
        "seconds_plain": inputs["seconds"],
        "latitude_z": tft.scale_to_z_score(inputs["latitude"]),
        "miles_bucket": tft.bucketize(inputs["miles"], num_buckets=4),
        "powers": tf.concat([inputs["miles"], inputs["miles"] ** 2, tf.sqrt(inputs["miles"])], axis=1),
        "company_id": tft.compute_and_apply_vocabulary(inputs["company"], vocab_filename="company"),
        "company_text": inputs["company"],
        "word_ids": word_ids,
        "tfidf_ids": tfidf_ids,
        "tfidf_weights": tfidf_weights,
        "long_fare": tf.cast(inputs[LABEL] > 12.0, tf.int64),
        LABEL: inputs[LABEL],
    }


@dataclasses.dataclass(frozen=True)
class Reduced:
    """The three output artifacts of one run."""

    examples: Any
    transform_graph: Any
    reduction: Any

    def records(self, split: str) -> list[bytes]:
        """Returns the rows of a split, sorted, since Beam promises no order."""
        return sorted(read_records(Path(self.examples.uri) / f"Split-{split}"))

    def reduction_json(self) -> bytes:
        return (Path(self.reduction.uri) / "reduction.json").read_bytes()


@dataclasses.dataclass(frozen=True)
class Source:
    """Raw rows, what TFT made of them as artifacts, and a way to run the reducer on these."""

    raw: dict[str, list[dict[str, Any]]]
    examples: Any
    transform_graph: Any
    schema: Any
    new_folder: Callable[[str], Path]

    def run(
        self,
        *reductions: Any,
        examples: Any = None,
        label_key: str = "",
        folder: str = "",
    ) -> Reduced:
        """Runs the executor as TFX does, on these Examples or those given, into a new or the given folder."""
        from tfx.types import standard_artifacts

        from tfx_mobile.common.artifacts import Reduction
        from tfx_mobile.dimensionality_reducer.config import ReducerConfig
        from tfx_mobile.dimensionality_reducer.executor import Executor

        folder = folder or str(self.new_folder("run"))
        made = Reduced(standard_artifacts.Examples(), standard_artifacts.TransformGraph(), Reduction())
        for name, artifact in vars(made).items():
            artifact.uri = f"{folder}/{name}"
        context = Executor.Context(beam_pipeline_args=[], tmp_dir=f"{folder}/tmp", unique_id="1")
        Executor(context).Do(
            {
                "examples": examples if isinstance(examples, list) else [examples or self.examples],
                "transform_graph": [self.transform_graph],
            },
            {
                "reduced_examples": [made.examples],
                "reduced_transform_graph": [made.transform_graph],
                "reduction": [made.reduction],
            },
            {"config": ReducerConfig(reductions, label_key).to_json(), "code": "0"},
        )
        return made

    def examples_of(self, splits: Mapping[str, list[list[bytes]]]) -> Any:
        """Returns an Examples artifact with these shards of serialised rows by split."""
        return write_examples(self.new_folder("examples"), splits)


def write_examples(folder: Path, splits: Mapping[str, list[list[bytes]]]) -> Any:
    import tensorflow as tf
    from tfx.components.util import examples_utils
    from tfx.proto import example_gen_pb2
    from tfx.types import artifact_utils, standard_artifacts

    examples = standard_artifacts.Examples()
    examples.uri = str(folder)
    examples.split_names = artifact_utils.encode_split_names(list(splits))
    examples.span = 7
    examples.version = 3
    examples_utils.set_payload_format(examples, example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE)
    examples_utils.set_file_format(examples, "tfrecords_gzip")
    for split, shards in splits.items():
        (folder / f"Split-{split}").mkdir(parents=True)
        for i, shard in enumerate(shards):
            path = folder / f"Split-{split}" / f"rows-{i:05d}-of-{len(shards):05d}.gz"
            with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
                for record in shard:
                    writer.write(record)
    return examples


def read_records(folder: Path) -> list[bytes]:
    import tensorflow as tf

    files = sorted(str(path) for path in folder.iterdir())
    return list(tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator())


def encode(rows: Iterable[Mapping[str, Any]], schema: Any) -> list[bytes]:
    import tensorflow_transform as tft

    coder = tft.coders.ExampleProtoCoder(schema)
    return [coder.encode(row) for row in rows]


def as_tensors(rows: list[dict[str, Any]], *, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns raw rows as a graph's layer takes them."""
    import tensorflow as tf

    tensors = {
        name: tf.constant([[row[name]] for row in rows])
        for name in rows[0]
        if name not in (*leave_out, "words")
    }
    words = tf.ragged.constant([row["words"] for row in rows], dtype=tf.string).to_sparse()
    return tensors if "words" in leave_out else tensors | {"words": words}


def rows_of(columns: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Returns the tensors of a graph's layer row by row; of sparse ones what each row has."""
    import tensorflow as tf

    def column(value: Any) -> list[Any]:
        if isinstance(value, tf.SparseTensor):
            return list(tf.RaggedTensor.from_sparse(value).to_list())
        return list(value.numpy())

    lists = {name: column(value) for name, value in columns.items()}
    return [{name: values[i] for name, values in lists.items()} for i in range(count)]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Transformed Examples of two shards a split and the TransformGraph, made by TFT on Beam."""
    import apache_beam as beam
    import tensorflow as tf
    import tensorflow_transform as tft
    import tensorflow_transform.beam as tft_beam
    from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils
    from tfx.types import standard_artifacts

    numbers = {
        name: tf.io.FixedLenFeature([1], tf.float32) for name in ("miles", "seconds", "latitude", LABEL)
    }
    strings = {"company": tf.io.FixedLenFeature([1], tf.string), "words": tf.io.VarLenFeature(tf.string)}
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(numbers | strings))
    raw = {"train": raw_rows(NUM_TRAIN, 1), "eval": raw_rows(NUM_EVAL, 2)}
    graph = standard_artifacts.TransformGraph()
    graph.uri = str(tmp_path_factory.mktemp("graph"))

    def as_lists(row: dict[str, Any]) -> dict[str, Any]:
        return {name: value if isinstance(value, list) else [value] for name, value in row.items()}

    with beam.Pipeline() as pipeline, tft_beam.Context(temp_dir=str(tmp_path_factory.mktemp("tft"))):
        rows = pipeline | beam.Create([as_lists(row) for row in raw["train"]])
        transform_fn = (rows, metadata) | tft_beam.AnalyzeDataset(preprocess)
        _ = transform_fn | tft_beam.WriteTransformFn(graph.uri)
    output = tft.TFTransformOutput(graph.uri)
    layer = output.transform_features_layer()
    schema = output.transformed_metadata.schema
    shards = {}
    for split, found in raw.items():
        records = encode(rows_of(layer(as_tensors(found)), len(found)), schema)
        shards[split] = [records[0::2], records[1::2]]
    return Source(
        raw=raw,
        examples=write_examples(tmp_path_factory.mktemp("examples"), shards),
        transform_graph=graph,
        schema=schema,
        new_folder=tmp_path_factory.mktemp,
    )


@pytest.fixture(scope="session", name="as_tensors")
def as_tensors_fixture() -> Any:
    """The function, for tests to call."""
    return as_tensors
