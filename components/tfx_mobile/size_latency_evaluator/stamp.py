"""Writing into the chosen file how it was judged and by which run, beside what the quantizer wrote there.

A file without our metadata stays as it is, and so does one that this would make too large for its size gates.
What phones run already goes out again byte by byte, so that a run that changes nothing releases nothing.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from tfx_mobile.common import tflite_metadata
from tfx_mobile.common.candidates import gz_size_bytes
from tfx_mobile.common.errors import DataError
from tfx_mobile.size_latency_evaluator.config import Gate, RelativeTo, SizeGate, needs_baseline
from tfx_mobile.size_latency_evaluator.evaluation import CandidateResult, Evaluation

_SIGNIFICANT_DIGITS = 4


def stamp(content: bytes, found: Evaluation, pipeline_run: str, *, released: Path | None = None) -> bytes:
    """Returns the chosen file with the values its gates were given, and the run; its tensors are unchanged.

    The file that phones run is returned as it is where it is the chosen one with an earlier stamp.

    Args:
      content: The chosen file.
      found: The evaluation that chose it.
      pipeline_run: Name of the run; empty when unknown.
      released: What phones run, which may not be there; None before the first release.

    Raises:
      DataError: The file's metadata is damaged.
    """
    if released is not None and released.is_file():
        kept = released.read_bytes()
        absolute = [gate for gate in found.gates if not needs_baseline(gate)]  # it is the baseline
        if unstamped(kept) == unstamped(content) and _fits(kept, found, absolute):
            return kept
    metadata = tflite_metadata.read(content)
    if metadata is None:
        return content
    values = {
        verdict.gate: float(f"{verdict.value:.{_SIGNIFICANT_DIGITS}g}")
        for verdict in found.candidate(found.chosen).verdicts
        if verdict.value is not None
    }
    stamped = dataclasses.replace(metadata, gates=values, pipeline_run=pipeline_run)
    made = tflite_metadata.write(content, stamped)
    return made if _fits(made, found, found.gates) else content


def unstamped(content: bytes) -> bytes:
    """Returns the file without what `stamp` wrote into it; as it is where that cannot be told."""
    try:
        metadata = tflite_metadata.read(content)
    except DataError:
        return content  # damaged: measuring it says so
    if metadata is None or not (metadata.gates or metadata.pipeline_run):
        return content
    return tflite_metadata.write(content, dataclasses.replace(metadata, gates={}, pipeline_run=""))


def unstamped_file(path: Path, folder: Path) -> Path:
    """Returns the path of a file without its stamp, in `folder` where it had one.

    What phones run is compared with candidates as both come from the quantizer: a stamp is neither size nor
    time that a candidate saves.
    """
    if not path.is_file():
        return path
    content = path.read_bytes()
    plain = unstamped(content)
    if plain == content:
        return path
    (folder / path.name).write_bytes(plain)
    return folder / path.name


def _fits(content: bytes, found: Evaluation, gates: Sequence[Gate]) -> bool:
    """Whether a file is within each of these gates that is on size."""
    size_bytes, gz_bytes = len(content), gz_size_bytes(content)
    for gate in gates:
        if not isinstance(gate, SizeGate):
            continue
        other = _other(found, gate)
        limits = (
            (size_bytes, gate.max_bytes),
            (gz_bytes, gate.max_gz_bytes),
            (gz_bytes, gate.max_ratio * other.gz_size_bytes if gate.max_ratio and other else None),
        )
        if any(limit is not None and size > limit for size, limit in limits):
            return False
    return True


def _other(found: Evaluation, gate: SizeGate) -> CandidateResult | None:
    if gate.relative_to is RelativeTo.BASELINE:
        return found.baseline
    return found.candidate(found.reference)
