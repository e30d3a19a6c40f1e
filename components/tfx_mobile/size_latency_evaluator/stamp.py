"""Writing into the chosen file how it was judged and by which run, beside what the quantizer wrote there.

A file without our metadata stays as it is, and so does one that this would make too large for its size gates.
"""

import dataclasses

from tfx_mobile.common import tflite_metadata
from tfx_mobile.common.candidates import gz_size_bytes
from tfx_mobile.size_latency_evaluator.config import RelativeTo, SizeGate
from tfx_mobile.size_latency_evaluator.evaluation import CandidateResult, Evaluation

_SIGNIFICANT_DIGITS = 4


def stamp(content: bytes, found: Evaluation, pipeline_run: str) -> bytes:
    """Returns the chosen file with the values its gates were given, and the run; its tensors are unchanged.

    Args:
      content: The chosen file.
      found: The evaluation that chose it.
      pipeline_run: Name of the run; empty when unknown.

    Raises:
      DataError: The file's metadata is damaged.
    """
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
    return made if _fits(made, found) else content


def _fits(content: bytes, found: Evaluation) -> bool:
    """Whether a file is within every size gate that the candidate passed."""
    size_bytes, gz_bytes = len(content), gz_size_bytes(content)
    for gate in found.gates:
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
