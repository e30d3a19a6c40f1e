"""Do(): unpack, fit on the train split, write examples, graph and report."""

import pickle
import uuid
from collections.abc import Mapping
from typing import Any

import apache_beam as beam
import tensorflow_transform as tft
from absl import logging
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import types
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.dsl.io import fileio
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils

from tfx_mobile.common import beam_examples, embedding, jsonable
from tfx_mobile.common.artifacts import split_pattern
from tfx_mobile.common.errors import DataError
from tfx_mobile.common.tft_graph import TransformFunction
from tfx_mobile.dimensionality_reducer import beam as reducer_beam
from tfx_mobile.dimensionality_reducer import checks, core, page, report, transform_graph
from tfx_mobile.dimensionality_reducer.config import ReducerConfig
from tfx_mobile.dimensionality_reducer.models import Fitted
from tfx_mobile.dimensionality_reducer.statistics import TRAIN_SPLIT, Statistics
from tfx_mobile.dimensionality_reducer.transform_graph import InputLayout

_FILE_FORMAT = "tfrecords_gzip"


class Executor(base_beam_executor.BaseBeamExecutor):
    """Runs the two passes as Beam pipelines."""

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Fits on 'train', applies to every split, and writes graph and report; see DimensionalityReducer."""
        self._log_startup(input_dict, output_dict, exec_properties)
        config = ReducerConfig.from_json(exec_properties["config"])
        examples = input_dict["examples"]
        graph_uri = artifact_utils.get_single_uri(input_dict["transform_graph"])
        output = tft.TFTransformOutput(graph_uri)
        layout = transform_graph.input_layout(output, config)
        original = TransformFunction(output)
        schema = output.transformed_metadata.schema
        _check_examples(examples)

        for reduction in config.reductions:
            checks.check(
                reduction,
                reduction.width(layout.widths),
                num_numbers=sum(layout.widths[name] for name in reduction.numeric),
                label_is_text=layout.label_is_text,
                label_key=config.label_key,
            )

        statistics = self._gather(split_pattern(examples, TRAIN_SPLIT), schema, config, layout)
        fitted = {
            reduction.output: core.fit(
                reduction,
                statistics[reduction.output],
                reduction.columns(layout.widths, layout.words),
                config.label_key,
            )
            for reduction in config.reductions
        }
        reduced = artifact_utils.get_single_instance(output_dict["reduced_examples"])
        _describe(reduced, like=max(examples, key=lambda artifact: artifact.span))
        try:
            counts = self._reduce(examples, reduced, schema, config, fitted, layout)
            for split, found in counts.items():
                found.check(split)
        except BaseException:
            if fileio.exists(reduced.uri):
                fileio.rmtree(reduced.uri)  # a refused run leaves nothing
            raise
        transform_graph.write(
            original,
            graph_uri,
            artifact_utils.get_single_uri(output_dict["reduced_transform_graph"]),
            config,
            fitted,
            layout.widths,
        )
        content = report.reduction_report(
            config,
            fitted,
            statistics=statistics,
            widths=layout.widths,
            float_widths=embedding.float_widths(schema),
            vocabulary_sizes=embedding.vocabulary_sizes(schema),
            splits=counts,
        )
        report_uri = artifact_utils.get_single_uri(output_dict["reduction"])
        fileio.makedirs(report_uri)
        _write(f"{report_uri}/{report.PAGE_FILE}", page.page(content))
        _write(f"{report_uri}/{report.REPORT_FILE}", jsonable.dumps(content, indent=2))
        for line in page.headlines(content):
            logging.info(line)

    def _gather(
        self, patterns: list[str], schema: schema_pb2.Schema, config: ReducerConfig, layout: InputLayout
    ) -> dict[str, Statistics]:
        """Returns the statistics of the rows, by output of the reduction they are gathered for."""
        path = f"{self._get_tmp_dir()}/statistics"
        gather = reducer_beam.FitFn(config, layout)
        wanted = beam_examples.only(schema, {*config.input_features(), config.label_key})
        with self._make_beam_pipeline() as pipeline:
            _ = (
                pipeline
                | "ReadTrain" >> beam_examples.ReadBatches(patterns, schema=wanted)
                | "Gather" >> beam.CombineGlobally(gather).without_defaults()
                | "Keep" >> beam.Map(_save, path)
            )
        found = _load(path) if fileio.exists(path) else gather.create_accumulator()  # no rows
        return {one.output: part for one, part in zip(config.reductions, found, strict=True)}

    def _reduce(
        self,
        examples: list[types.Artifact],
        reduced: types.Artifact,
        schema: schema_pb2.Schema,
        config: ReducerConfig,
        fitted: Mapping[str, Fitted],
        layout: InputLayout,
    ) -> dict[str, reducer_beam.SplitCounts]:
        """Writes every split and returns what its rows were like."""
        reduced_schema = transform_graph.reduced_schema(schema, config, fitted)
        splits = artifact_utils.decode_split_names(reduced.split_names)
        folder = self._get_tmp_dir()
        with self._make_beam_pipeline() as pipeline:
            for number, split in enumerate(splits):
                batches = beam_examples.ReadBatches(split_pattern(examples, split), schema=schema)
                reduce = beam.ParDo(reducer_beam.ReduceBatches(config, fitted, layout))
                rows, counts = (
                    pipeline
                    | f"Read[{split}]" >> batches
                    | f"Reduce[{split}]" >> reduce.with_outputs(reducer_beam.COUNTS, main="rows")
                )
                _ = (
                    counts
                    | f"Count[{split}]"
                    >> beam.CombineGlobally(reducer_beam.SplitCounts.total).without_defaults()
                    | f"KeepCounts[{split}]" >> beam.Map(_save, f"{folder}/counts-{number}")
                )
                target = f"{artifact_utils.get_split_uri([reduced], split)}/reduced_examples"
                _ = rows | f"Write[{split}]" >> beam_examples.WriteBatches(target, reduced_schema)
        paths = {split: f"{folder}/counts-{number}" for number, split in enumerate(splits)}
        return {
            split: _load(path) if fileio.exists(path) else reducer_beam.SplitCounts()
            for split, path in paths.items()
        }


# A Beam pipeline returns nothing; its results come back through files that all workers can write. One that is
# tried twice may still be writing the first time: hence a name of its own until the file is whole.
def _save(value: Any, path: str) -> None:
    unfinished = f"{path}-{uuid.uuid4().hex}"
    with fileio.open(unfinished, "wb") as stream:
        stream.write(pickle.dumps(value))
    fileio.rename(unfinished, path, overwrite=True)


def _load(path: str) -> Any:
    with fileio.open(path, "rb") as stream:
        return pickle.loads(stream.read())


def _write(path: str, text: str) -> None:
    with fileio.open(path, "w") as stream:
        stream.write(text)


def _describe(reduced: types.Artifact, *, like: types.Artifact) -> None:
    """Carries split names, span, version and formats from the examples that were read."""
    reduced.split_names = like.split_names
    reduced.span = like.span
    if like.has_property("version"):
        reduced.version = like.version
    examples_utils.set_payload_format(reduced, examples_utils.get_payload_format(like))
    examples_utils.set_file_format(reduced, _FILE_FORMAT)


def _check_examples(examples: list[types.Artifact]) -> None:
    splits = [artifact_utils.decode_split_names(artifact.split_names) for artifact in examples]
    for artifact, names in zip(examples, splits, strict=True):
        payload = examples_utils.get_payload_format(artifact)
        if payload != example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE:
            raise DataError(
                "Examples must be tf.Examples, as Transform writes them; got "
                f"{example_gen_pb2.PayloadFormat.Name(payload)} in {artifact.uri}."
            )
        if set(names) != set(splits[0]):
            raise DataError(
                f"Examples that are reduced together must have the same splits; got {', '.join(splits[0])} "
                f"in {examples[0].uri} and {', '.join(names)} in {artifact.uri}."
            )
