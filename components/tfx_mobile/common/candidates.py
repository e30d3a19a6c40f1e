"""The TFLite candidates of one run: what a `candidates` artifact holds.

A folder with one sub-folder per candidate (`<name>/model.tflite`) and `candidates.json`, written last.
Knows neither how a candidate is made (quantizer) nor how good it is (size_latency_evaluator).
"""

import gzip
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from tfx_mobile.common import files, jsonable
from tfx_mobile.common.calibration import Calibration
from tfx_mobile.common.errors import DataError

MANIFEST = "candidates.json"
MODEL_FILE = "model.tflite"


@dataclass(frozen=True)
class Candidate(jsonable.Settings):
    """One TFLite file, or the reason why there is none.

    Attributes:
      name: Unique, `<rung>-<mode>`, for example 's75-int8'.
      rung: The ladder's rung it was made from, for example 's75'; 's0' is the dense model.
      mode: How it was quantised, for example 'int8' or 'int8-w4'.
      sparsity_fraction: Share of zeros in the pruned weights of the rung, in [0, 1].
      failure: Why it does not count, in one line; empty when it counts.
      sha256: Of the file; empty when there is none.
      size_bytes: Of the file as it is.
      gz_size_bytes: After gzip -9, what a phone downloads.
      max_abs_error: Largest difference from the Keras model of the rung on the check rows, label units.
      mean_abs_error: Mean difference likewise.
      max_abs_error_boundary: Largest difference on made-up rows at the edges of the features, label units.
      top1_agreement: Share of the check rows where both name the same class; None where there are no classes.
      runs_on: By name of another runtime that it was run on, the largest difference from ours, label units.
      note: What the author should know, for example the op that keeps part of the graph in float.
    """

    name: str
    rung: str
    mode: str
    sparsity_fraction: float
    failure: str = ""
    sha256: str = ""
    size_bytes: int = 0
    gz_size_bytes: int = 0
    max_abs_error: float | None = None
    mean_abs_error: float | None = None
    max_abs_error_boundary: float | None = None
    top1_agreement: float | None = None
    runs_on: dict[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class CandidateSet(jsonable.Settings):
    """All candidates of one run.

    Attributes:
      candidates: In ladder order, then in mode order; failed ones included.
      reference: Name of the dense float32 candidate, which always competes.
      raw_inputs: True when the files take raw features, False when they take transformed ones.
      calibration: How the representative rows were drawn, and what they hold; None when there were none.
    """

    candidates: tuple[Candidate, ...]
    reference: str
    raw_inputs: bool
    calibration: Calibration | None

    def usable(self) -> tuple[Candidate, ...]:
        """Returns the candidates that have a proven file."""
        return tuple(c for c in self.candidates if not c.failure)

    def write(self, folder: Path) -> None:
        """Writes `candidates.json`; the model files must be there already."""
        files.write_atomically(folder / MANIFEST, jsonable.dumps(self.to_dict(), indent=2).encode())


def read(folder: Path) -> CandidateSet:
    """Reads `candidates.json` and checks each file's hash.

    Raises:
      DataError: There is no manifest, a file is missing, or a file is not the one that was written.
    """
    manifest = folder / MANIFEST
    if not manifest.exists():
        raise DataError(f"A candidates artifact must hold {MANIFEST}; got none in {folder}.")
    found = CandidateSet.from_json(manifest.read_text())
    for candidate in found.usable():
        path = model_path(folder, candidate.name)
        got = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "no file"
        if got != candidate.sha256:
            raise DataError(
                f"Candidate {candidate.name!r} must have sha256 {candidate.sha256[:12]}; "
                f"got {got[:12]} at {path}."
            )
    return found


def model_path(folder: Path, name: str) -> Path:
    """Returns where the candidate `name` has its TFLite file."""
    return folder / name / MODEL_FILE


def gz_size_bytes(content: bytes) -> int:
    """Returns the size after gzip -9, without a time stamp, so that it is the same each time."""
    return len(gzip.compress(content, compresslevel=9, mtime=0))
