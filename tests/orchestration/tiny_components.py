"""Components that do next to nothing, for running real pipelines in seconds.

Imported by its own name, since TFX finds a component's function by module and name.
"""

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
from tfx import v1 as tfx
from tfx.dsl.component.experimental.annotations import BeamComponentParameter
from tfx.types import standard_artifacts

from tfx_mobile.common.errors import DataError

Examples = standard_artifacts.Examples
Model = standard_artifacts.Model


@tfx.dsl.components.component
def Numbers(  # noqa: N802
    examples: tfx.dsl.components.OutputArtifact[Examples], numbers: tfx.dsl.components.Parameter[str]
) -> None:
    Path(examples.uri, "numbers").write_text(numbers)
    examples.set_string_custom_property("source", "by hand")


@tfx.dsl.components.component
def Total(  # noqa: N802
    examples: tfx.dsl.components.InputArtifact[Examples],
    model: tfx.dsl.components.OutputArtifact[Model],
    noise: tfx.dsl.components.Parameter[str] = "",
) -> None:
    if noise:
        print(f"{noise} by print")
        sys.stderr.write(f"{noise} by sys.stderr\n")
        os.write(1, f"{noise} by descriptor 1\n".encode())
        os.system(f"echo {noise} by a child >&2")
        logging.warning("%s by logging", noise)
        warnings.warn(f"{noise} by warnings", stacklevel=1)
    total = sum(map(int, Path(examples.uri, "numbers").read_text().split()))
    Path(model.uri, "total").write_text(str(total))
    model.set_int_custom_property("total", total)


@tfx.dsl.components.component
def Patient(  # noqa: N802
    model: tfx.dsl.components.InputArtifact[Model],
    report: tfx.dsl.components.OutputArtifact[standard_artifacts.ModelEvaluation],
    flag: tfx.dsl.components.Parameter[str],
) -> None:
    """Says by a file that it runs, and waits until another says that it may go on."""
    Path(flag).with_suffix(".started").touch()
    while not Path(flag).exists():
        time.sleep(0.05)
    Path(report.uri, "report").write_text("patient")


@tfx.dsl.components.component
def Picky(  # noqa: N802
    examples: tfx.dsl.components.InputArtifact[Examples],
    model: tfx.dsl.components.OutputArtifact[Model],
    kind: tfx.dsl.components.Parameter[str],
) -> None:
    if kind == "data":
        raise DataError("Feature 'fare' must be finite; got 3 NaN.")
    if kind == "exit":
        sys.exit(3)
    try:
        raise DataError("Feature 'tips' must be there; got none.")
    except DataError as error:
        raise KeyError("wrapped") from error


class Refuse(beam.DoFn):
    def process(self, row: int) -> Iterator[int]:
        if row == 2:
            raise DataError("Row 2 must be odd; got 2.")
        yield row


@tfx.dsl.components.component(use_beam=True)
def Rows(  # noqa: N802
    examples: tfx.dsl.components.OutputArtifact[Examples],
    pipeline: BeamComponentParameter[beam.Pipeline] = None,
    refuse: tfx.dsl.components.Parameter[int] = 0,
) -> None:
    with pipeline as p:
        rows = p | beam.Create([1, 2, 3])
        if refuse:
            rows |= beam.ParDo(Refuse())
        rows | beam.Map(str) | beam.io.WriteToText(str(Path(examples.uri, "numbers")), shard_name_template="")
