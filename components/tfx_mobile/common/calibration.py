"""What a candidates artifact records of the rows that gave int8 its ranges: types alone.

Made by quantizer/calibration.py.
"""

import dataclasses

from tfx_mobile.common.jsonable import Settings


@dataclasses.dataclass(frozen=True)
class SourceFile(Settings):
    """A file that rows were drawn from.

    Attributes:
      name: Its folder's and its own name, 'Split-train/data_tfrecord-00000-of-00001.gz'.
      size_bytes: As stored.
      sha256: Of the bytes as stored.
    """

    name: str
    size_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class InputRange(Settings):
    """The values of one input over the drawn rows.

    Attributes:
      num_values: Rows times the values of one row.
      num_missing: Values that stand for a missing one: the marker given for the input, else NaN or b"".
      num_not_finite: NaN and infinities that do not stand for a missing value.
      num_distinct: Different values among the others.
      min: Of the others; None for strings and when there are no others.
      max: Likewise.
      mean: Likewise.
    """

    num_values: int
    num_missing: int
    num_not_finite: int
    num_distinct: int
    min: float | None = None
    max: float | None = None
    mean: float | None = None


@dataclasses.dataclass(frozen=True)
class ScaleChange(Settings):
    """What the two halves of the calibration rows make of one tensor.

    Attributes:
      tensor: Its name; ' (2)', ' (3)', ... follow where a file has the name again.
      first: Scale of the first half, real units a step.
      second: Likewise.
      change: Share of the range over both halves that only one of them has, in [0, 1].
    """

    tensor: str
    first: float
    second: float
    change: float


@dataclasses.dataclass(frozen=True)
class ScaleStability(Settings):
    """Whether two disjoint samples agree about the ranges of int8.

    Attributes:
      max_change: The largest change of a tensor, in [0, 1].
      tensor: The tensor that has it; empty when there is no tensor.
      changes: Every tensor, the largest change first.
    """

    max_change: float
    tensor: str
    changes: tuple[ScaleChange, ...]


@dataclasses.dataclass(frozen=True)
class Calibration(Settings):
    """How the representative rows were drawn, and what they hold.

    Attributes:
      split: They are from it.
      rows: How many there are, all different.
      rows_wanted: How many were asked for.
      rows_seen: How many the split has.
      seed: Of the draw.
      sha256: Fingerprint of what the file is given.
      files: Of the split, by path.
      evaluation_split: None of them is in it; empty when none was named.
      evaluation_rows_seen: How many rows it has; None when there is none: nothing was checked.
      duplicates_replaced: Rows that would have been drawn but are in the evaluation split too.
      file_inputs: Ranges of what the file is given, by feature.
      model_inputs: Ranges of what the model behind the preprocessing is given.
      input_stability: The ranges of model_inputs by half; None when there are fewer than two rows.
      stability: The ranges of int8's activations by half; None when no candidate has any.
      warnings: What the pipeline's author should know, a sentence each.
    """

    split: str
    rows: int
    rows_wanted: int
    rows_seen: int
    seed: int
    sha256: str
    files: tuple[SourceFile, ...]
    evaluation_split: str
    evaluation_rows_seen: int | None
    duplicates_replaced: int
    file_inputs: dict[str, InputRange]
    model_inputs: dict[str, InputRange]
    input_stability: ScaleStability | None = None
    stability: ScaleStability | None = None
    warnings: tuple[str, ...] = ()
