"""What an evaluation found, as values: what `evaluation.json` holds, and a table of it.

The pipeline, the registry and the demo read evaluations through `load_evaluation` and `summary_rows`.
Measures and judges nothing.
"""

import enum
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfx_mobile.common import jsonable
from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.common.releases import Release
from tfx_mobile.size_latency_evaluator.config import Gate, Objective, Override

SCHEMA_VERSION = 2
EVALUATION_FILE = "evaluation.json"
REPORT_FILE = "index.html"
QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
MIN_CALLS_FOR_P99 = 1000


class Status(enum.Enum):
    """How a gate ended. Only PASS lets a candidate through, and NOT_COMPARABLE where it is waived."""

    PASS = "pass"
    FAIL = "fail"
    NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True)
class Interval(jsonable.Settings):
    """An estimate between its two one-sided 95 % bounds.

    Attributes:
      estimate: The point estimate.
      low: Lower one-sided 95 % bound.
      high: Upper one-sided 95 % bound.
    """

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Verdict(jsonable.Settings):
    """How one candidate did at one gate.

    Attributes:
      gate: The gate in words, for example 'rmse increase <= 1% vs reference'.
      status: Pass, fail or not comparable.
      reason: One sentence.
      value: The measured value in the gate's unit; None when there is none.
      bound: The one-sided 95 % bound that was held against the limit; None where the point value was.
      limit: The gate's limit.
      margin: Room left in the gate's unit, negative when over the limit; None when not comparable.
      waived: Not comparable and does not count: a first release has no baseline.
    """

    gate: str
    status: Status
    reason: str
    value: float | None = None
    bound: float | None = None
    limit: float | None = None
    margin: float | None = None
    waived: bool = False

    @property
    def lets_through(self) -> bool:
        """Returns whether this gate does not stand in the candidate's way."""
        return self.status is Status.PASS or (self.waived and self.status is Status.NOT_COMPARABLE)


@dataclass(frozen=True)
class ReportedMetric(jsonable.Settings):
    """A metric of the evaluation.

    Attributes:
      name: Unique, the key in each `metrics`.
      higher_is_better: None where nobody said.
    """

    name: str
    higher_is_better: bool | None


@dataclass(frozen=True)
class SliceResult(jsonable.Settings):
    """What one file does on some of the rows.

    Attributes:
      name: The slice in words, for example "company = 'Flash'".
      rows: How many.
      metrics: By metric name; a metric that is not defined on these rows is left out.
    """

    name: str
    rows: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class WeightResult(jsonable.Settings):
    """One constant of a file that holds numbers.

    Attributes:
      name: As the file has it.
      dtype: For example 'int8'.
      shape: Of the tensor.
      size_bytes: In the file.
      zeros_fraction: Share of its values that stand for zero, in [0, 1].
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    zeros_fraction: float


@dataclass(frozen=True)
class LatencyResult(jsonable.Settings):
    """Time of one call, batch 1, one thread, synchronous.

    Attributes:
      p50_us: Geometric mean over processes of each process's median.
      p90_us: Likewise of the 90th percentiles.
      init_us: Median over processes: loading the file and allocating tensors.
      first_call_us: Median over processes: the first call, which is in no other figure.
      calls: Timed calls, all processes together.
      p50_us_by_process: In the order the processes ran.
      ratios_by_process: Over the reference, by process: the median over rounds of the ratio of two blocks.
      ratio: Against the reference, over processes.
      baseline_ratio: Likewise against the baseline.
      p99_us: As p90_us; None with fewer than MIN_CALLS_FOR_P99 calls in a process.
      quantiles_us_by_process: By process, the times at QUANTILES.
      arena_bytes: Tensors and scratch space of the interpreter; None where it was not measured.
      heap_bytes: Largest heap of loading and calling, beyond what the process had before; likewise.
      process_bytes: Largest resident memory of a process that ran nothing but this file; likewise.
      instructions: Of one call, counted by callgrind; likewise.
    """

    p50_us: float
    p90_us: float
    init_us: float
    first_call_us: float
    calls: int
    p50_us_by_process: tuple[float, ...]
    ratios_by_process: tuple[float, ...] = ()
    ratio: Interval | None = None
    baseline_ratio: Interval | None = None
    p99_us: float | None = None
    quantiles_us_by_process: tuple[tuple[float, ...], ...] = ()
    arena_bytes: int | None = None
    heap_bytes: int | None = None
    process_bytes: int | None = None
    instructions: int | None = None


@dataclass(frozen=True)
class CandidateResult(jsonable.Settings):
    """Everything found out about one file.

    Attributes:
      name: For example 's75-int8'; 'baseline' for what phones run today.
      rung: Of the ladder.
      mode: Quantisation mode.
      sparsity_fraction: Of the rung, in [0, 1].
      failure: Why it does not count, in one sentence; empty when it counts.
      sha256: Of the file.
      size_bytes: Of the file.
      gz_size_bytes: After gzip -9.
      metrics: By metric name, on all evaluation rows; empty when predictions failed.
      latency: None when it was not measured.
      latency_failure: Why latency was not measured.
      verdicts: One per gate, in the gates' order.
      passes: Every gate lets it through and it can be run.
      excluded: Why it is not chosen although it passes: bigger and slower than the reference.
      score: The objective's value, lower is better; None when it cannot be computed.
      slices: The same metrics on some of the rows.
      weights: Constants of the file, largest first.
      breakdown_bytes: What the file's bytes are for, by kind, as `tfx-mobile inspect` has it.
    """

    name: str
    rung: str
    mode: str
    sparsity_fraction: float
    failure: str = ""
    sha256: str = ""
    size_bytes: int = 0
    gz_size_bytes: int = 0
    metrics: dict[str, float] | None = None
    latency: LatencyResult | None = None
    latency_failure: str = ""
    verdicts: tuple[Verdict, ...] = ()
    passes: bool = False
    excluded: str = ""
    score: float | None = None
    slices: tuple[SliceResult, ...] = ()
    weights: tuple[WeightResult, ...] = ()
    breakdown_bytes: dict[str, int] | None = None


@dataclass(frozen=True)
class Machine(jsonable.Settings):
    """Where it was measured.

    Attributes:
      cpu: Model name.
      cores: That this process may use.
      pinned: Whether the measuring processes were pinned to one core.
      load_before: One-minute load average before latency was measured.
      load_after: Likewise after.
      system: Kernel and architecture.
      runtime: Interpreter and its version.
      processes: Fresh processes that measured latency.
      seconds: Wall time of measuring latency.
      target: Name of the device that measured.
      governor: Of the CPU's frequency; empty where there is none.
    """

    cpu: str
    cores: int
    pinned: bool
    load_before: float
    load_after: float
    system: str
    runtime: str
    processes: int
    seconds: float
    target: str = "local"
    governor: str = ""


@dataclass(frozen=True)
class Evaluation(jsonable.Settings):
    """One evaluation.

    Attributes:
      schema_version: Of this file.
      blessed: Whether the chosen file may go out.
      chosen: Name of the file in `model`; empty when no file can be run.
      reason: Why, in one sentence.
      overridden: Blessed by the override although a gate failed.
      override: The override that was given, needed or not.
      label_key: The label's feature.
      eval_split: The rows' split.
      eval_rows: How many.
      metrics: In the order reported.
      gates: As configured.
      objective: As configured.
      reference: Name of the dense float32 candidate.
      first_release: There is no baseline to compare with.
      baseline: What phones run today.
      candidates: In the candidate set's order.
      machine: Where latency was measured.
      history: What the registry had before, oldest first.
      provenance: What was evaluated with what, in words by key, for example the pipeline run.
    """

    schema_version: int
    blessed: bool
    chosen: str
    reason: str
    overridden: bool
    override: Override | None
    label_key: str
    eval_split: str
    eval_rows: int
    metrics: tuple[ReportedMetric, ...]
    gates: tuple[Gate, ...]
    objective: Objective
    reference: str
    first_release: bool
    baseline: CandidateResult | None
    candidates: tuple[CandidateResult, ...]
    machine: Machine
    history: tuple[Release, ...] = ()
    provenance: dict[str, str] | None = None

    def candidate(self, name: str) -> CandidateResult:
        """Returns the candidate of that name.

        Raises:
          DataError: There is none.
        """
        for found in self.candidates:
            if found.name == name:
                return found
        known = ", ".join(found.name for found in self.candidates) or "none"
        raise DataError(f"The evaluation must hold candidate {name!r}; got {known}.")


@dataclass(frozen=True)
class SummaryRow:
    """One line of a table of candidates.

    Attributes:
      name: Of the candidate.
      rung: Of the ladder.
      mode: Quantisation mode.
      metrics: By metric name.
      size_bytes: Of the file.
      gz_size_bytes: After gzip -9.
      latency_p50_us: None when not measured.
      ratio: Latency against the reference; None when not measured.
      chosen: Whether it is the one in `model`.
      passes: Whether it passes every gate.
      verdict: 'passes', or what stopped it in words.
    """

    name: str
    rung: str
    mode: str
    metrics: dict[str, float]
    size_bytes: int
    gz_size_bytes: int
    latency_p50_us: float | None
    ratio: Interval | None
    chosen: bool
    passes: bool
    verdict: str


def load_evaluation(folder: Path | str) -> Evaluation:
    """Reads `evaluation.json` of an evaluation artifact.

    Args:
      folder: The artifact's folder.

    Raises:
      DataError: There is none, or it is of another schema version.
      ConfigError: It is not what `Evaluation` wrote.
    """
    path = Path(folder) / EVALUATION_FILE
    if not path.exists():
        raise DataError(f"An evaluation artifact must hold {EVALUATION_FILE}; got none in {folder}.")
    value = jsonable.loads(path.read_text(), where=EVALUATION_FILE)
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{EVALUATION_FILE} must have schema_version {SCHEMA_VERSION}; got {version!r} in {folder}. "
            "Read it with the release that wrote it."
        )
    return Evaluation.from_dict(value)


def newest_folder(place: Path) -> Path:
    """Returns the evaluation artifact at a place, or the one below it that was written last.

    Args:
      place: An artifact's folder, or any above it: a pipeline's root, a workspace.

    Raises:
      ConfigError: There is no such folder.
      DataError: There is no evaluation in it.
    """
    if not place.is_dir():
        raise ConfigError(f"FOLDER must be an evaluation artifact or a folder above one; got {str(place)!r}.")
    if (place / EVALUATION_FILE).is_file():
        return place
    found = [path for path in place.rglob(EVALUATION_FILE) if path.is_file()]
    if not found:
        raise DataError(
            f"FOLDER must hold an {EVALUATION_FILE}, at any depth; got none in {str(place)!r}. Run a "
            "pipeline with a SizeLatencyEvaluator, or name another folder."
        )
    return max(found, key=lambda path: (path.stat().st_mtime_ns, _number_of(path.parent), path)).parent


def _number_of(artifact: Path) -> int:
    """Returns the execution's number, which names an artifact's folder; 0 where it is something else."""
    return int(artifact.name) if artifact.name.isdecimal() else 0


def summary_rows(evaluation: Evaluation) -> tuple[SummaryRow, ...]:
    """Returns one line per candidate: those that pass first, then by gz size."""
    rows = [
        SummaryRow(
            name=found.name,
            rung=found.rung,
            mode=found.mode,
            metrics=dict(found.metrics or {}),
            size_bytes=found.size_bytes,
            gz_size_bytes=found.gz_size_bytes,
            latency_p50_us=found.latency.p50_us if found.latency else None,
            ratio=found.latency.ratio if found.latency else None,
            chosen=found.name == evaluation.chosen,
            passes=found.passes,
            verdict=verdict_text(found),
        )
        for found in evaluation.candidates
    ]
    return tuple(
        sorted(rows, key=lambda r: (not r.chosen, not r.passes, not r.metrics, r.gz_size_bytes, r.name))
    )


def verdict_text(found: CandidateResult) -> str:
    """Returns 'passes', or what stopped the candidate in a few words."""
    if found.failure:
        return f"failed: {found.failure}"
    if found.passes:
        return f"passes, but {found.excluded}" if found.excluded else "passes"
    stopped = [f"{v.status.value}: {v.gate}" for v in found.verdicts if not v.lets_through]
    return "; ".join(stopped) or "no gate was judged"


def figures(evaluation: Evaluation) -> str:
    """Returns the chosen candidate's figures as canonical JSON of integers and strings, for a registry.

    Times are nanoseconds, sizes bytes, metrics parts per million of their unit. '{}' when nothing was chosen.
    """
    if not evaluation.chosen:
        return "{}"
    found = evaluation.candidate(evaluation.chosen)
    values: dict[str, Any] = {
        "candidate": found.name,
        "rung": found.rung,
        "mode": found.mode,
        "size_bytes": found.size_bytes,
        "gz_size_bytes": found.gz_size_bytes,
        "metrics": {
            f"{name}_ppm": round(1e6 * value)
            for name, value in (found.metrics or {}).items()
            if math.isfinite(value)
        },
        "eval_rows": evaluation.eval_rows,
    }
    if found.latency is not None:
        values["latency_p50_ns"] = round(1e3 * found.latency.p50_us)
    return jsonable.dumps(values)


def verdict_line(evaluation: Evaluation) -> str:
    """Returns the verdict and its reason on one line of at most 500 characters, for a runner's summary."""
    line = f"{'BLESSED' if evaluation.blessed else 'NOT_BLESSED'}: {' '.join(evaluation.reason.split())}"
    return line if len(line) <= 500 else line[:497] + "..."
