"""Do(): unpack, fit on the train split, write graph, examples and report."""

from collections.abc import Mapping
from typing import Any

import apache_beam as beam
import tensorflow_transform as tft
from tfx import types
from tfx.components.util import examples_utils, tfxio_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils

from tfx_mobile.common import jsonable
from tfx_mobile.common.artifacts import split_pattern
from tfx_mobile.dimensionality_reducer import beam as reducer_beam
from tfx_mobile.dimensionality_reducer import core, report, transform_graph
from tfx_mobile.dimensionality_reducer.config import ReducerConfig

TRAIN_SPLIT = "train"
_BATCH_ROWS = 4096
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
        widths = transform_graph.feature_widths(output, config)
        batches = _batch_source(examples, output)

        projections = self._fit(batches(split_pattern(examples, TRAIN_SPLIT)), config, widths)

        reduced_uri = artifact_utils.get_single_uri(output_dict["reduced_transform_graph"])
        transform_graph.write(graph_uri, reduced_uri, config, projections)
        reduced = artifact_utils.get_single_instance(output_dict["reduced_examples"])
        _describe(reduced, like=examples[0])
        schema = tft.TFTransformOutput(reduced_uri).transformed_metadata.schema
        with self._make_beam_pipeline() as pipeline:
            for split in artifact_utils.decode_split_names(reduced.split_names):
                _ = (
                    pipeline
                    | f"Read[{split}]" >> batches(split_pattern(examples, split))
                    | f"Reduce[{split}]"
                    >> beam.ParDo(reducer_beam.ReduceBatches(config, projections, widths, schema, split))
                    | f"Write[{split}]"
                    >> beam.io.WriteToTFRecord(
                        f"{artifact_utils.get_split_uri([reduced], split)}/reduced_examples",
                        file_name_suffix=".gz",
                    )
                )
        content = report.reduction_report(config, projections, widths)
        report_uri = artifact_utils.get_single_uri(output_dict["reduction"])
        fileio.makedirs(report_uri)
        with fileio.open(f"{report_uri}/{report.REPORT_FILE}", "w") as stream:
            stream.write(jsonable.dumps(content, indent=2))

    def _fit(
        self, read: beam.PTransform, config: ReducerConfig, widths: Mapping[str, int]
    ) -> dict[str, core.Projection]:
        # A Beam pipeline returns nothing; its result comes back through a file all workers can write.
        folder = self._get_tmp_dir()
        with self._make_beam_pipeline() as pipeline:
            rows = pipeline | "ReadTrain" >> read
            # Numbered, not named: an output's name may have a slash.
            for number, reduction in enumerate(config.reductions):
                _ = reducer_beam.fit(rows, reduction, widths) | f"Keep[{reduction.output}]" >> beam.Map(
                    _save_moments, f"{folder}/moments-{number}"
                )
        projections = {}
        for number, reduction in enumerate(config.reductions):
            with fileio.open(f"{folder}/moments-{number}", "rb") as stream:
                moments = core.Moments.from_bytes(stream.read())
            projections[reduction.output] = core.fit_pca(moments, reduction, reduction.columns(widths))
        return projections


def _save_moments(moments: core.Moments, path: str) -> None:
    with fileio.open(path, "wb") as stream:
        stream.write(moments.to_bytes())


def _describe(reduced: types.Artifact, *, like: types.Artifact) -> None:
    """Carries split names, span, version and formats from the examples that were read."""
    reduced.split_names = like.split_names
    reduced.span = like.span
    if like.has_property("version"):
        reduced.version = like.version
    examples_utils.set_payload_format(reduced, examples_utils.get_payload_format(like))
    examples_utils.set_file_format(reduced, _FILE_FORMAT)


def _batch_source(examples: list[types.Artifact], output: tft.TFTransformOutput) -> Any:
    """Returns a function from file patterns to a transform that yields record batches."""
    factory = tfxio_utils.get_tfxio_factory_from_artifact(
        examples, telemetry_descriptors=["DimensionalityReducer"], schema=output.transformed_metadata.schema
    )
    return lambda patterns: factory(patterns).BeamSource(_BATCH_ROWS)
