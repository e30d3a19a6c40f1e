"""What an evaluation is asked to do: metrics, gates, objective, how to measure latency, an override.

Settings only, checked when they are made, so that a bad pipeline fails where it is written. Knows nothing of
how a gate is judged (core.py) or a call is timed (latency.py).
"""

import datetime
import enum
import math
from dataclasses import dataclass, field
from typing import ClassVar

from tfx_mobile.common import jsonable
from tfx_mobile.common.errors import ConfigError


class Metric(enum.Enum):
    """What can be measured as the mean of one loss per row.

    `ACCURACY` reads one output as the probability of class 1, several as one score per class.
    """

    RMSE = "rmse"
    MSE = "mse"
    MAE = "mae"
    ACCURACY = "accuracy"

    @property
    def higher_is_better(self) -> bool:
        """Returns whether a larger value is the better one."""
        return self is Metric.ACCURACY


class RelativeTo(enum.Enum):
    """What a relative gate compares with."""

    REFERENCE = "reference"
    """The dense float32 file of the same run."""
    BASELINE = "baseline"
    """What phones run today."""


@dataclass(frozen=True)
class AccuracyGate(jsonable.Settings):
    """A limit on a metric; exactly one of the four limits is set.

    Absolute limits look at the point value on the evaluation rows. Relative limits ask for non-inferiority:
    the one-sided 95 % bound of the paired difference must keep the limit.

    Attributes:
      metric: Which one.
      max_value: Largest value, for example an RMSE of 5.0 in label units; not for accuracy.
      min_value: Smallest value, for accuracy only, in [0, 1].
      max_increase_fraction: Largest relative increase of an error metric, for example 0.01; not for accuracy.
      max_drop: Largest absolute drop of accuracy, for example 0.003 for 0.3 points; for accuracy only.
      relative_to: What the relative limits compare with.
    """

    kind: ClassVar[str] = "accuracy"

    metric: Metric = Metric.RMSE
    max_value: float | None = None
    min_value: float | None = None
    max_increase_fraction: float | None = None
    max_drop: float | None = None
    relative_to: RelativeTo = RelativeTo.REFERENCE

    def __post_init__(self) -> None:
        _check_type("AccuracyGate.metric", self.metric, Metric)
        _check_type("AccuracyGate.relative_to", self.relative_to, RelativeTo)
        fits = (
            ("min_value", "max_drop")
            if self.metric.higher_is_better
            else ("max_value", "max_increase_fraction")
        )
        for name in ("max_value", "min_value", "max_increase_fraction", "max_drop"):
            value = getattr(self, name)
            if value is not None and name not in fits:
                raise ConfigError(
                    f"AccuracyGate.{name} does not fit {self.metric.value}; use {fits[0]} or {fits[1]}."
                )
            _check_number(f"AccuracyGate.{name}", value, at_least=0.0)
        for name in ("min_value", "max_drop"):
            _check_number(f"AccuracyGate.{name}", getattr(self, name), at_least=0.0, at_most=1.0)
        _check_one_limit("AccuracyGate", {name: getattr(self, name) for name in fits})

    @property
    def is_relative(self) -> bool:
        """Returns whether the gate compares with another model."""
        return self.max_increase_fraction is not None or self.max_drop is not None


@dataclass(frozen=True)
class SizeGate(jsonable.Settings):
    """A limit on the file's size; exactly one of the three limits is set.

    Attributes:
      max_bytes: Of the file as it lies on the phone.
      max_gz_bytes: After gzip -9, what the phone downloads.
      max_ratio: gzip bytes over the other model's gzip bytes, for example 0.25.
      relative_to: What `max_ratio` compares with.
    """

    kind: ClassVar[str] = "size"

    max_bytes: int | None = None
    max_gz_bytes: int | None = None
    max_ratio: float | None = None
    relative_to: RelativeTo = RelativeTo.REFERENCE

    def __post_init__(self) -> None:
        _check_type("SizeGate.relative_to", self.relative_to, RelativeTo)
        _check_whole("SizeGate.max_bytes", self.max_bytes)
        _check_whole("SizeGate.max_gz_bytes", self.max_gz_bytes)
        _check_number("SizeGate.max_ratio", self.max_ratio, above=0.0)
        _check_one_limit(
            "SizeGate",
            {"max_bytes": self.max_bytes, "max_gz_bytes": self.max_gz_bytes, "max_ratio": self.max_ratio},
        )

    @property
    def is_relative(self) -> bool:
        """Returns whether the gate compares with another model."""
        return self.max_ratio is not None


@dataclass(frozen=True)
class LatencyGate(jsonable.Settings):
    """A limit on the median time of one call; exactly one of the two limits is set.

    Both are judged by the one-sided 95 % bound over fresh processes, never by one run.

    Attributes:
      max_p50_us: Of one call with batch 1 on this machine, microseconds.
      max_ratio: Median over the other model's median, interleaved in the same process, for example 1.05.
      relative_to: What `max_ratio` compares with.
    """

    kind: ClassVar[str] = "latency"

    max_p50_us: float | None = None
    max_ratio: float | None = None
    relative_to: RelativeTo = RelativeTo.REFERENCE

    def __post_init__(self) -> None:
        _check_type("LatencyGate.relative_to", self.relative_to, RelativeTo)
        _check_number("LatencyGate.max_p50_us", self.max_p50_us, above=0.0)
        _check_number("LatencyGate.max_ratio", self.max_ratio, above=0.0)
        _check_one_limit("LatencyGate", {"max_p50_us": self.max_p50_us, "max_ratio": self.max_ratio})

    @property
    def is_relative(self) -> bool:
        """Returns whether the gate compares with another model."""
        return self.max_ratio is not None


Gate = AccuracyGate | SizeGate | LatencyGate


@dataclass(frozen=True)
class Objective(jsonable.Settings):
    """What is best among the candidates that pass: the lowest weighted sum of logarithms of ratios.

    `size_weight * ln(gz size / reference's) + latency_weight * ln(latency / reference's)`, so that units do
    not matter and halving one at the price of doubling the other is even at equal weights.

    Attributes:
      size_weight: >= 0.
      latency_weight: >= 0; the latency ratio is rounded to 1 %, below which it is noise.
    """

    size_weight: float = 1.0
    latency_weight: float = 0.0

    def __post_init__(self) -> None:
        _check_number("Objective.size_weight", self.size_weight, at_least=0.0)
        _check_number("Objective.latency_weight", self.latency_weight, at_least=0.0)
        if self.size_weight + self.latency_weight == 0:
            raise ConfigError("Objective must have a weight above 0; got 0 for size and for latency.")


@dataclass(frozen=True)
class LatencyConfig(jsonable.Settings):
    """How latency is measured.

    Attributes:
      processes: How many fresh processes have been run at each look, rising. A candidate whose latency gate
        is clear after a look is not measured further.
      seconds_per_process: Time for the calls of all models together in one process, start-up and warm-up
        apart. Every model gets `min_calls` calls all the same.
      warmup_calls: Calls of each model before any counts.
      min_calls: Calls of each model that must count in each process.
      timeout_seconds: A process that takes longer is stopped, and the model it was busy with has failed.
      num_rows: How many real rows the calls go through.
    """

    processes: tuple[int, ...] = (3, 5, 9)
    seconds_per_process: float = 1.5
    warmup_calls: int = 10
    min_calls: int = 25
    timeout_seconds: float = 120.0
    num_rows: int = 32

    def __post_init__(self) -> None:
        looks = list(self.processes)
        if not looks or looks != sorted(set(looks)) or looks[0] < 2:
            raise ConfigError(
                "LatencyConfig.processes must be rising counts from 2 on, such as (3, 5, 9); "
                f"got {self.processes!r}."
            )
        _check_number("LatencyConfig.seconds_per_process", self.seconds_per_process, above=0.0)
        _check_number("LatencyConfig.timeout_seconds", self.timeout_seconds, above=0.0)
        for name in ("warmup_calls", "min_calls", "num_rows"):
            _check_whole(f"LatencyConfig.{name}", getattr(self, name))


@dataclass(frozen=True)
class Override(jsonable.Settings):
    """A person's word that the best candidate goes out although a gate failed; it is recorded by name.

    It stands in for failed gates, never for a file that cannot be run.

    Attributes:
      by: Who signs off.
      reason: Why.
      date: ISO, for example '2026-01-31'.
    """

    by: str
    reason: str
    date: str

    def __post_init__(self) -> None:
        for name in ("by", "reason"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise ConfigError(f"Override.{name} must not be empty; got {value!r}.")
        try:
            datetime.date.fromisoformat(self.date)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"Override.date must be an ISO date such as '2026-01-31'; got {self.date!r}."
            ) from error


@dataclass(frozen=True)
class EvaluatorConfig(jsonable.Settings):
    """One evaluation.

    Attributes:
      label_key: The label's feature in the rows.
      gates: All must pass; at least one.
      objective: What is best among those that pass.
      metrics: Reported in this order; a gate's metric that is missing here is added.
      eval_split: The split whose rows are used.
      latency: How latency is measured.
      override: A signed-off exception, or None.
      batch_size: Rows per invocation when predicting.
      decision_threshold: From which output on a binary classifier says class 1.
      prediction_timeout_seconds: For predicting with all candidates together.
    """

    label_key: str
    gates: tuple[Gate, ...]
    objective: Objective = field(default_factory=Objective)
    metrics: tuple[Metric, ...] = (Metric.RMSE, Metric.MAE)
    eval_split: str = "eval"
    latency: LatencyConfig = field(default_factory=LatencyConfig)
    override: Override | None = None
    batch_size: int = 1024
    decision_threshold: float = 0.5
    prediction_timeout_seconds: float = 600.0
    labels: dict[str, str] = field(default_factory=dict)
    sample_weight_key: str = ""

    def needed_features(self) -> tuple[str, ...]:
        """Returns the features that slices and weights need."""
        return (self.sample_weight_key,) if self.sample_weight_key else ()

    def __post_init__(self) -> None:
        for name in ("label_key", "eval_split"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise ConfigError(f"{name} must not be empty; got {value!r}.")
        if not self.gates:
            raise ConfigError(
                "gates must hold at least one gate, or nothing would ever be refused; got none. "
                "Add for example AccuracyGate(Metric.RMSE, max_increase_fraction=0.01)."
            )
        for gate in self.gates:
            _check_type("gates", gate, (AccuracyGate, SizeGate, LatencyGate))
        if all(needs_baseline(gate) for gate in self.gates):
            raise ConfigError(
                "gates must hold one that needs no baseline, or the first release could not be judged; "
                f"got {len(self.gates)} relative to the baseline only."
            )
        if not self.metrics:
            raise ConfigError("metrics must name at least one metric; got none.")
        for metric in self.metrics:
            _check_type("metrics", metric, Metric)
        if len(set(self.metrics)) != len(self.metrics):
            raise ConfigError(f"metrics must differ; got {', '.join(m.value for m in self.metrics)}.")
        _check_type("objective", self.objective, Objective)
        _check_type("latency", self.latency, LatencyConfig)
        if self.override is not None:
            _check_type("override", self.override, Override)
        _check_whole("batch_size", self.batch_size)
        _check_number("decision_threshold", self.decision_threshold)
        _check_number("prediction_timeout_seconds", self.prediction_timeout_seconds, above=0.0)

    def all_metrics(self) -> tuple[Metric, ...]:
        """Returns the metrics to compute: those asked for, then those only gates need."""
        needed = (gate.metric for gate in self.gates if isinstance(gate, AccuracyGate))
        return tuple(dict.fromkeys((*self.metrics, *needed)))


def needs_baseline(gate: Gate) -> bool:
    """Returns whether the gate compares with what phones run today."""
    return gate.is_relative and gate.relative_to is RelativeTo.BASELINE


def parse_metric(value: "Metric | str") -> Metric:
    """Returns the metric of that name.

    Raises:
      ConfigError: There is none.
    """
    try:
        return Metric(value)
    except ValueError as error:
        known = ", ".join(repr(metric.value) for metric in Metric)
        raise ConfigError(f"metrics must be among {known}; got {value!r}.") from error


def _check_type(name: str, value: object, wanted: type | tuple[type, ...]) -> None:
    if not isinstance(value, wanted):
        kinds = wanted if isinstance(wanted, tuple) else (wanted,)
        raise ConfigError(
            f"{name} must be {' or '.join(kind.__name__ for kind in kinds)}; "
            f"got {type(value).__name__} {value!r}."
        )


def _check_number(
    name: str,
    value: float | None,
    *,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    above: float = -math.inf,
) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"{name} must be a finite number; got {value!r}.")
    if value < at_least or value > at_most:
        wanted = f">= {at_least:g}" + (f" and <= {at_most:g}" if at_most < math.inf else "")
        raise ConfigError(f"{name} must be {wanted}; got {value!r}.")
    if value <= above:
        raise ConfigError(f"{name} must be > {above:g}; got {value!r}.")


def _check_whole(name: str, value: int | None) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be a whole number >= 1; got {value!r}.")


def _check_one_limit(name: str, limits: dict[str, float | None]) -> None:
    given = [key for key, value in limits.items() if value is not None]
    if len(given) != 1:
        raise ConfigError(
            f"{name} must have exactly one of {', '.join(limits)}; got {', '.join(given) or 'none'}. "
            "Two limits are two gates."
        )


SMALLEST = Objective(size_weight=1.0, latency_weight=0.0)
FASTEST = Objective(size_weight=0.0, latency_weight=1.0)
