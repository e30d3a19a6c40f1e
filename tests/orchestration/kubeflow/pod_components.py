"""Components that do next to nothing, for tasks of the stand-in. Imported by their own name."""

import contextlib
import json
import signal
import sys
import time
from pathlib import Path
from typing import ClassVar

import apache_beam as beam
from tfx import types
from tfx import v1 as tfx
from tfx.dsl.component.experimental.annotations import BeamComponentParameter
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import component_spec, standard_artifacts

from tfx_mobile.common.artifacts import Reduction
from tfx_mobile.common.errors import DataError

Examples = standard_artifacts.Examples
Model = standard_artifacts.Model


class EverythingSpec(types.ComponentSpec):
    INPUTS: ClassVar = {}
    OUTPUTS: ClassVar = {
        "model": component_spec.ChannelParameter(type=Model),
        "reduction": component_spec.ChannelParameter(type=Reduction),
    }
    PARAMETERS: ClassVar = {
        "text": component_spec.ExecutionParameter(type=str),
        "whole": component_spec.ExecutionParameter(type=int),
        "number": component_spec.ExecutionParameter(type=float),
        "yes": component_spec.ExecutionParameter(type=bool),
        "no": component_spec.ExecutionParameter(type=bool),
    }


class EverythingExecutor(base_executor.BaseExecutor):
    """Writes what it was given; leaves the folder of `reduction` without files."""

    def Do(self, input_dict, output_dict, exec_properties):  # noqa: N802
        (model,) = output_dict["model"]
        (reduction,) = output_dict["reduction"]
        Path(reduction.uri, "folder").mkdir()
        seen = {name: [type(value).__name__, value] for name, value in exec_properties.items()}
        context = self._context
        seen["run"] = context.pipeline_info and [
            context.pipeline_info.id,
            context.pipeline_run_id,
            context.pipeline_node.node_info.id,
            str(model.id),
        ]
        seen["tmp"] = self._context.get_tmp_path()
        seen["flags"] = self._extra_flags
        Path(model.uri, "seen.json").write_text(json.dumps(seen))
        model.set_int_custom_property("count", 3)
        model.set_string_custom_property("note", "by hand")
        model.set_string_custom_property("made_of", model.uri)
        model.set_string_custom_property("file", f"{model.uri}/seen.json")
        model.set_string_custom_property("older", f"{model.uri}-older")
        model.set_string_custom_property("elsewhere", "gs://bucket/model")
        model.set_json_value_custom_property("parts", [1.0, 2.0])
        model.set_json_value_custom_property("object", {"a": 1.0})


class Everything(base_component.BaseComponent):
    """A component with every type of parameter."""

    SPEC_CLASS = EverythingSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(EverythingExecutor)

    def __init__(self, **parameters) -> None:
        outputs = {key: types.Channel(type=each.type) for key, each in EverythingSpec.OUTPUTS.items()}
        super().__init__(EverythingSpec(**outputs, **parameters))


@tfx.dsl.components.component
def Look(  # noqa: N802
    model: tfx.dsl.components.InputArtifact[Model],
    reduction: tfx.dsl.components.InputArtifact[Reduction],
    report: tfx.dsl.components.OutputArtifact[standard_artifacts.ModelEvaluation],
) -> None:
    found = {
        "files": sorted(path.name for path in Path(model.uri).iterdir()),
        "count": model.get_int_custom_property("count"),
        "note": model.get_string_custom_property("note"),
        "made_of_is_its_uri": model.get_string_custom_property("made_of") == model.uri,
        "file_is_here": Path(model.get_string_custom_property("file")).is_file(),
        "older": model.get_string_custom_property("older"),
        "elsewhere": model.get_string_custom_property("elsewhere"),
        "parts": model.get_json_value_custom_property("parts"),
        "object": model.get_json_value_custom_property("object"),
        "type": type(reduction).__name__,
        "empty": list(Path(reduction.uri).iterdir()) == [],
        "id": model.id,
    }
    Path(report.uri, "found.json").write_text(json.dumps(found))


@tfx.dsl.components.component(use_beam=True)
def Rows(  # noqa: N802
    examples: tfx.dsl.components.OutputArtifact[Examples],
    pipeline: BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    with pipeline as p:
        Path(examples.uri, "runner").write_text(type(p.runner).__name__)
        rows = p | beam.Create([1, 2, 3]) | beam.Map(str)
        rows | beam.io.WriteToText(str(Path(examples.uri, "numbers")), shard_name_template="")


@tfx.dsl.components.component
def Count(  # noqa: N802
    examples: tfx.dsl.components.InputArtifact[Examples],
) -> tfx.dsl.components.OutputDict(total=int, words=str):
    return {"total": len(Path(examples.uri, "numbers").read_text().split()), "words": "drei"}


@tfx.dsl.components.component
def Repeat(  # noqa: N802
    total: int, words: str, model: tfx.dsl.components.OutputArtifact[Model]
) -> None:
    Path(model.uri, "text").write_text(f"{words} {total + 1}")


@tfx.dsl.components.component
def Fail(  # noqa: N802
    kind: tfx.dsl.components.Parameter[str], model: tfx.dsl.components.OutputArtifact[Model]
) -> None:
    if kind == "data":
        raise DataError("Feature 'fare' must be finite; got 3 NaN.")
    if kind == "exit":
        sys.exit(0)
    raise KeyError("surprise")


@tfx.dsl.components.component
def Patient(  # noqa: N802
    model: tfx.dsl.components.OutputArtifact[Model],
    flag: tfx.dsl.components.Parameter[str],
    cleaning: tfx.dsl.components.Parameter[str] = "",
) -> None:
    """Says by a file that it runs, waits for ever whatever errors there are, and says that it cleans up.

    A `stubborn` one never ends with that; a `deaf` one takes no signal any more, like a container's first
    process.
    """
    try:
        Path(flag).with_suffix(".started").touch()
        while True:
            with contextlib.suppress(Exception):
                time.sleep(0.05)
    finally:
        if cleaning == "deaf":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Path(flag).with_suffix(".cleaned").touch()
        while cleaning == "stubborn":
            time.sleep(0.05)
