"""What an evaluation is asked to do: metrics, slices, gates, objective, how to time calls, an override.

Settings only, checked when they are made, so that a bad pipeline fails where it is written. Knows nothing of
how a metric is computed (accuracy.py), a gate is judged (core.py) or a call is timed (latency.py).
"""

import datetime
import difflib
import enum
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tfx_mobile.common import jsonable
from tfx_mobile.common.errors import ConfigError


class Family(enum.Enum):
    """How the state of a metric is kept while rows are tallied."""

    MEAN = "mean"
    """The mean of one number per row: moments, and a paired bound from them."""
    CELLS = "cells"
    """A formula of sums over rows, such as a confusion matrix per threshold: sums in groups, a jackknife."""
    KERAS = "keras"
    """Whatever the class does: its own state in groups, a jackknife. Slow."""


@dataclass(frozen=True)
class Known:
    """What is known of a metric without TensorFlow.

    Attributes:
      family: How it is tallied.
      higher_is_better: None for what is neither good nor bad, such as a count.
      settings: The keys its config may have; None where only the class knows.
    """

    family: Family
    higher_is_better: bool | None
    settings: tuple[str, ...] | None = ()


_AT = ("thresholds", "class_id")
_OVER = ("num_thresholds", "thresholds", "class_id")
KNOWN: dict[str, Known] = {
    "RootMeanSquaredError": Known(Family.MEAN, False),
    "MeanSquaredError": Known(Family.MEAN, False),
    "MeanAbsoluteError": Known(Family.MEAN, False),
    "BinaryAccuracy": Known(Family.MEAN, True, ("threshold",)),
    "CategoricalAccuracy": Known(Family.MEAN, True),
    "SparseCategoricalAccuracy": Known(Family.MEAN, True),
    "TopKCategoricalAccuracy": Known(Family.MEAN, True, ("k",)),
    "SparseTopKCategoricalAccuracy": Known(Family.MEAN, True, ("k",)),
    "BinaryCrossentropy": Known(Family.MEAN, False, ("from_logits", "label_smoothing")),
    "CategoricalCrossentropy": Known(Family.MEAN, False, ("from_logits", "label_smoothing")),
    "SparseCategoricalCrossentropy": Known(Family.MEAN, False, ("from_logits",)),
    "MeanLabel": Known(Family.MEAN, None),
    "MeanPrediction": Known(Family.MEAN, None),
    "ExampleCount": Known(Family.CELLS, None),
    "WeightedExampleCount": Known(Family.CELLS, None),
    "Calibration": Known(Family.CELLS, None),
    "AUC": Known(Family.CELLS, True, (*_OVER, "curve", "summation_method")),
    "AUCPrecisionRecall": Known(Family.CELLS, True, (*_OVER, "summation_method")),
    "Precision": Known(Family.CELLS, True, _AT),
    "Recall": Known(Family.CELLS, True, _AT),
    "Specificity": Known(Family.CELLS, True, _AT),
    "FallOut": Known(Family.CELLS, False, _AT),
    "MissRate": Known(Family.CELLS, False, _AT),
    "F1Score": Known(Family.CELLS, True, _AT),
    "BalancedAccuracy": Known(Family.CELLS, True, _AT),
    "MatthewsCorrelationCoefficient": Known(Family.CELLS, True, _AT),
    "TruePositives": Known(Family.CELLS, True, _AT),
    "TrueNegatives": Known(Family.CELLS, True, _AT),
    "FalsePositives": Known(Family.CELLS, False, _AT),
    "FalseNegatives": Known(Family.CELLS, False, _AT),
    "SensitivityAtSpecificity": Known(Family.CELLS, True, (*_OVER, "specificity")),
    "SpecificityAtSensitivity": Known(Family.CELLS, True, (*_OVER, "sensitivity")),
    "PrecisionAtRecall": Known(Family.CELLS, True, (*_OVER, "recall")),
    "RecallAtPrecision": Known(Family.CELLS, True, (*_OVER, "precision")),
}
KNOWN |= {
    name: Known(Family.KERAS, higher, None)
    for higher, names in (
        (False, "MeanAbsolutePercentageError MeanSquaredLogarithmicError LogCoshError Poisson KLDivergence"),
        (False, "Hinge SquaredHinge CategoricalHinge MeanRelativeError"),
        (True, "Accuracy CosineSimilarity FBetaScore R2Score IoU BinaryIoU MeanIoU OneHotIoU OneHotMeanIoU"),
    )
    for name in names.split()
}
_NEEDED = {
    "SensitivityAtSpecificity": "specificity",
    "SpecificityAtSensitivity": "sensitivity",
    "PrecisionAtRecall": "recall",
    "RecallAtPrecision": "precision",
}
_CHOICES = {"curve": ("ROC", "PR"), "summation_method": ("interpolation", "minoring", "majoring")}


class Metric(enum.Enum):
    """What can be measured as the mean of one loss per row, by its short name.

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

    @property
    def family(self) -> Family:
        """Returns how it is tallied."""
        return Family.MEAN

    @property
    def output(self) -> str:
        """Returns the output it looks at: the only one."""
        return ""


@dataclass(frozen=True)
class KerasMetric(jsonable.Settings):
    """A metric by its class: of Keras, of TFMA where it has one of that name, or a user's own.

    Attributes:
      class_name: A known name such as 'AUC', or the dotted path of a subclass of tf_keras.metrics.Metric that
        every worker can import.
      config: Its settings, as `get_config` would have them.
      name: In reports and gates; empty for the class's name in snake case.
      output: The output it looks at; empty for files with one.
      higher_is_better: Filled in where the class is known; None where nobody said.
    """

    class_name: str
    config: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    output: str = ""
    higher_is_better: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.class_name, str) or not self.class_name.strip(". "):
            raise ConfigError(f"KerasMetric.class_name must not be empty; got {self.class_name!r}.")
        _check_type("KerasMetric.config", self.config, dict)
        # As JSON has it, so that a pipeline's and a worker's settings are equal.
        object.__setattr__(self, "config", json.loads(jsonable.dumps(self.config)))
        if "." not in self.class_name:
            known = KNOWN.get(self.class_name)
            if known is None:
                raise ConfigError(_unknown_metric(self.class_name))
            self._check_config(known)
            if self.higher_is_better is None:
                object.__setattr__(self, "higher_is_better", known.higher_is_better)
        name = self.name or re.sub(
            r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", self.class_name.rpartition(".")[2]
        ).lower() + (f"_{self.output}" if self.output else "")
        object.__setattr__(self, "name", name)

    def __hash__(self) -> int:
        return hash(self.to_json())

    def _check_config(self, known: Known) -> None:
        if known.settings is not None and (wrong := sorted(set(self.config) - set(known.settings))):
            raise ConfigError(
                f"KerasMetric {self.class_name} has no setting {', '.join(map(repr, wrong))}; "
                f"it has {', '.join(known.settings) or 'none'}."
            )
        needed = _NEEDED.get(self.class_name)
        if needed and needed not in self.config:
            raise ConfigError(f"KerasMetric {self.class_name} must have {needed!r} in its config; got none.")
        if known.settings is None:
            return
        where = f"KerasMetric {self.class_name}.config"
        for key, value in self.config.items():
            if key in _CHOICES:
                if value not in _CHOICES[key]:
                    choices = ", ".join(map(repr, _CHOICES[key]))
                    raise ConfigError(f"{where}[{key!r}] must be one of {choices}; got {value!r}.")
            elif key == "from_logits":
                _check_type(f"{where}[{key!r}]", value, bool)
            elif key in ("k", "num_thresholds"):
                _check_whole(f"{where}[{key!r}]", value)
            elif key == "class_id":
                _check_whole(f"{where}[{key!r}]", value, at_least=0)
            elif key == "thresholds" and isinstance(value, list):
                for one in value:
                    _check_number(f"{where}[{key!r}]", one)
                over = "num_thresholds" in known.settings
                if (len(value) != 1 and not over) or (over and len(value) < 2) or value != sorted(set(value)):
                    raise ConfigError(
                        f"{where}[{key!r}] must be {'at least 2 rising numbers' if over else 'one number'}; "
                        f"got {value!r}."
                    )
            else:
                _check_number(f"{where}[{key!r}]", value)
        if self.config.get("num_thresholds") == 1 or {"num_thresholds", "thresholds"} <= set(self.config):
            raise ConfigError(f"{where} must have num_thresholds >= 2 or thresholds; got {self.config!r}.")

    @property
    def family(self) -> Family:
        """Returns how it is tallied."""
        return KNOWN[self.class_name].family if self.class_name in KNOWN else Family.KERAS

    @property
    def value(self) -> str:
        """Returns its name, as `Metric.value` does."""
        return self.name


AnyMetric = Metric | KerasMetric


@dataclass(frozen=True)
class Slice(jsonable.Settings):
    """Parts of the rows: each combination of what it names that occurs.

    A row without one of the features is in none of the slices; a row with several values is in several.

    Attributes:
      features: Each value of each of these, crossed with each other.
      values: Only rows where the feature has this value, crossed with the rest.
      buckets: By feature, rising edges: `(1, 5)` is below 1, from 1 to below 5, and 5 and above.
      max_values: With more slices than this none is tallied and gates on them are not comparable: a rule that
        gives the same however the rows are split among workers.
    """

    features: tuple[str, ...] = ()
    values: dict[str, str | int | float] = field(default_factory=dict)
    buckets: dict[str, tuple[float, ...]] = field(default_factory=dict)
    max_values: int = 200

    def __post_init__(self) -> None:
        _check_type("Slice.features", self.features, (tuple, list))
        object.__setattr__(self, "features", tuple(self.features))
        object.__setattr__(self, "buckets", {k: tuple(map(float, v)) for k, v in self.buckets.items()})
        names = self.needed_features()
        if not names:
            raise ConfigError("Slice must name a feature; got none. All rows together are always reported.")
        for name in names:
            if not isinstance(name, str) or not name:
                raise ConfigError(f"Slice must name features as text; got {name!r}.")
        if len(set(names)) != len(names):
            raise ConfigError(f"Slice must name each feature once; got {', '.join(names)}.")
        for name, value in self.values.items():
            if isinstance(value, bool) or not isinstance(value, (str, int, float)) or value != value:
                raise ConfigError(f"Slice.values[{name!r}] must be text or a number; got {value!r}.")
        for name, edges in self.buckets.items():
            if not edges or list(edges) != sorted(set(edges)) or not all(map(math.isfinite, edges)):
                raise ConfigError(f"Slice.buckets[{name!r}] must be rising numbers; got {edges!r}.")
        _check_whole("Slice.max_values", self.max_values)

    def __hash__(self) -> int:
        return hash(self.to_json())

    def needed_features(self) -> tuple[str, ...]:
        """Returns the features it looks at, sorted: the order in which slices are named."""
        return tuple(sorted((*self.features, *self.values, *self.buckets), key=str))

    def describe(self) -> str:
        """Returns it in a few words, for example "each company, where hour = 7"."""
        each = ", ".join(f"each {name}" for name in (*self.features, *(f"{b} range" for b in self.buckets)))
        fixed = " and ".join(f"{name} = {value!r}" for name, value in self.values.items())
        return ", ".join(part for part in (each, fixed) if part)


class RelativeTo(enum.Enum):
    """What a relative gate compares with."""

    REFERENCE = "reference"
    """The dense float32 file of the same run."""
    BASELINE = "baseline"
    """What phones run today."""


@dataclass(frozen=True)
class AccuracyGate(jsonable.Settings):
    """A limit on a metric; exactly one of the six limits is set.

    Absolute limits look at the point value on the evaluation rows. Relative limits ask for non-inferiority:
    the one-sided 95 % bound of the paired difference must keep the limit.

    Attributes:
      metric: Which one, or its name.
      max_value: Largest value, for example an RMSE of 5.0 in label units; not for accuracy.
      min_value: Smallest value; for accuracy in [0, 1].
      max_increase_fraction: Largest relative increase, for example 0.01; not where higher is better.
      max_drop: Largest absolute drop, for example 0.003 for 0.3 points; not where lower is better.
      max_increase: Largest absolute increase, in the metric's unit; not where higher is better.
      max_drop_fraction: Largest relative drop; not where lower is better.
      relative_to: What the relative limits compare with.
      slices: Judged for each of these slices instead of for all rows; each must keep the limit.
      min_rows: A slice with fewer rows is not comparable, which fails the gate.
      skip_small: Slices with fewer rows than `min_rows` do not count instead; one must be left.
      use_bound: False: relative limits look at the point value, as TFMA does, and so at the luck of the rows.
    """

    kind: ClassVar[str] = "accuracy"

    metric: Metric | KerasMetric = Metric.RMSE
    max_value: float | None = None
    min_value: float | None = None
    max_increase_fraction: float | None = None
    max_drop: float | None = None
    relative_to: RelativeTo = RelativeTo.REFERENCE
    max_increase: float | None = None
    max_drop_fraction: float | None = None
    slices: tuple[Slice, ...] = ()
    min_rows: int = 1
    skip_small: bool = False
    use_bound: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.metric, str):
            object.__setattr__(self, "metric", parse_metric(self.metric, "AccuracyGate.metric"))
        _check_type("AccuracyGate.metric", self.metric, (Metric, KerasMetric))
        _check_type("AccuracyGate.relative_to", self.relative_to, RelativeTo)
        own = isinstance(self.metric, Metric)
        rising = ("max_value", "max_increase_fraction", "max_increase")
        falling = ("min_value", "max_drop", "max_drop_fraction")
        if self.metric.higher_is_better is None:
            fits: tuple[str, ...] = (*rising, *falling)
        elif self.metric.higher_is_better:
            fits = falling if own else (*falling, "max_value")
        else:
            fits = rising if own else (*rising, "min_value")
        for name in (*rising, *falling):
            value = getattr(self, name)
            if value is not None and name not in fits:
                raise ConfigError(
                    f"AccuracyGate.{name} does not fit {self.metric.value}; use {fits[0]} or {fits[1]}."
                )
            # Below zero a relative limit asks for an improvement, which TFMA's thresholds can.
            _check_number(f"AccuracyGate.{name}", value, at_least=0.0 if own else -math.inf)
        for name in ("max_increase_fraction", "max_drop_fraction"):
            _check_number(f"AccuracyGate.{name}", getattr(self, name), above=-1.0)
        if own:
            for name in falling:
                _check_number(f"AccuracyGate.{name}", getattr(self, name), at_least=0.0, at_most=1.0)
        _check_one_limit("AccuracyGate", {name: getattr(self, name) for name in fits})
        object.__setattr__(self, "slices", tuple(self.slices))
        for one in self.slices:
            _check_type("AccuracyGate.slices", one, Slice)
        _check_whole("AccuracyGate.min_rows", self.min_rows)
        for name in ("skip_small", "use_bound"):
            _check_type(f"AccuracyGate.{name}", getattr(self, name), bool)

    @property
    def is_relative(self) -> bool:
        """Returns whether the gate compares with another model."""
        return any(
            limit is not None
            for limit in (
                self.max_increase_fraction,
                self.max_drop,
                self.max_increase,
                self.max_drop_fraction,
            )
        )


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
class LocalTarget(jsonable.Settings):
    """This machine measures."""

    kind: ClassVar[str] = "local"


@dataclass(frozen=True)
class SshTarget(jsonable.Settings):
    """Another machine measures, reached by the system's `ssh`: a Raspberry Pi class board, for example.

    It needs Python 3.10 or newer with NumPy and LiteRT (`ai-edge-litert`) or `tflite-runtime`, nothing of
    this project. `ssh` must get in without asking: nothing secret is kept here, `identity` is a path.

    Attributes:
      host: Name or address, or an alias of `~/.ssh/config`.
      user: Empty for the one `ssh` would take.
      port: 0 for the one `ssh` would take.
      python: Command on that machine, for example '/home/pi/venv/bin/python'.
      identity: Path of the private key here; empty for those `ssh` would try.
      options: For `ssh -o`, each for example 'ProxyJump=gate'.
      connect_seconds: To get in, each time.
    """

    kind: ClassVar[str] = "ssh"

    host: str
    user: str = ""
    port: int = 0
    python: str = "python3"
    identity: str = ""
    options: tuple[str, ...] = ()
    connect_seconds: float = 15.0

    def __post_init__(self) -> None:
        for name in ("host", "user"):
            _check_word(f"SshTarget.{name}", getattr(self, name), may_be_empty=name == "user")
        _check_text("SshTarget.python", self.python)
        _check_text("SshTarget.identity", self.identity, may_be_empty=True)
        for option in self.options:
            _check_text("SshTarget.options", option)
        if isinstance(self.port, bool) or not isinstance(self.port, int) or not 0 <= self.port <= 65535:
            raise ConfigError(
                f"SshTarget.port must be between 1 and 65535, or 0 for ssh's own; got {self.port!r}."
            )
        _check_number("SshTarget.connect_seconds", self.connect_seconds, above=0.0)


@dataclass(frozen=True)
class AdbTarget(jsonable.Settings):
    """A phone measures, reached by `adb`: exactly one of `benchmark_binary` and `python` says with what.

    LiteRT's benchmark binary takes one file a process, so that two files cannot take turns in short blocks:
    they take turns process by process, which needs more processes for the same certainty.

    Attributes:
      serial: Of the phone, as `adb devices` has it; empty when there is only one.
      benchmark_binary: Path here of LiteRT's `benchmark_model` for the phone; it is copied there.
      python: Command on the phone, with NumPy and a TFLite runtime (Termux, for example); runs our worker.
      folder: On the phone, where files may be written and run.
      adb: The command here.
      cpu_mask: Hexadecimal, for `taskset` on the phone, for example 'f0' for four big cores; empty for any.
    """

    kind: ClassVar[str] = "adb"

    serial: str = ""
    benchmark_binary: str = ""
    python: str = ""
    folder: str = "/data/local/tmp"
    adb: str = "adb"
    cpu_mask: str = ""

    def __post_init__(self) -> None:
        _check_word("AdbTarget.serial", self.serial, may_be_empty=True)
        for name in ("benchmark_binary", "python"):
            _check_text(f"AdbTarget.{name}", getattr(self, name), may_be_empty=True)
        if bool(self.benchmark_binary) == bool(self.python):
            raise ConfigError(
                "AdbTarget must have exactly one of benchmark_binary and python; "
                f"got {'both' if self.python else 'none'}."
            )
        _check_text("AdbTarget.folder", self.folder)
        _check_text("AdbTarget.adb", self.adb)
        if not isinstance(self.cpu_mask, str) or set(self.cpu_mask) - set("0123456789abcdefABCDEF"):
            raise ConfigError(f"AdbTarget.cpu_mask must be hexadecimal, such as 'f0'; got {self.cpu_mask!r}.")


Target = LocalTarget | SshTarget | AdbTarget


@dataclass(frozen=True)
class LatencyConfig(jsonable.Settings):
    """How latency is measured.

    Attributes:
      processes: How many fresh processes have been run at each look, rising. A candidate whose latency gate
        is clear after a look is not measured further. The 5 % of error are shared among the looks.
      seconds_per_process: Time for the calls of all models together in one process, start-up and warm-up
        apart. Every model gets `min_calls` calls all the same.
      warmup_calls: Calls of each model before any counts.
      min_calls: Calls of each model that must count in each process.
      timeout_seconds: A process that takes longer is stopped, and the model it was busy with has failed.
      num_rows: How many real rows the calls go through.
      max_seconds: For all processes together: none is started that would end later if it took as long as the
        longest so far. What is open then stays undecided, which is no pass.
      measure_memory: Whether each file is also run in a process of its own that looks at its memory.
      count_instructions: Whether callgrind counts the instructions of one call of each file: slow (about ten
        times as long as timing), but the same number each time. Needs valgrind, on this machine.
      target: What measures.
    """

    processes: tuple[int, ...] = (3, 5, 9)
    seconds_per_process: float = 1.5
    warmup_calls: int = 10
    min_calls: int = 25
    timeout_seconds: float = 120.0
    num_rows: int = 32
    max_seconds: float = 600.0
    measure_memory: bool = True
    count_instructions: bool = False
    target: Target = field(default_factory=LocalTarget)

    def __post_init__(self) -> None:
        looks = list(self.processes)
        if not looks or looks != sorted(set(looks)) or looks[0] < 2:
            raise ConfigError(
                "LatencyConfig.processes must be rising counts from 2 on, such as (3, 5, 9); "
                f"got {self.processes!r}."
            )
        for name in ("seconds_per_process", "timeout_seconds", "max_seconds"):
            _check_number(f"LatencyConfig.{name}", getattr(self, name), above=0.0)
        for name in ("warmup_calls", "min_calls", "num_rows"):
            _check_whole(f"LatencyConfig.{name}", getattr(self, name))
        for name in ("measure_memory", "count_instructions"):
            _check_type(f"LatencyConfig.{name}", getattr(self, name), bool)
        _check_type("LatencyConfig.target", self.target, (LocalTarget, SshTarget, AdbTarget))
        if self.count_instructions and not isinstance(self.target, LocalTarget):
            raise ConfigError(
                "LatencyConfig.count_instructions needs LocalTarget, where callgrind runs; "
                f"got {type(self.target).__name__}."
            )


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
      label_key: The label's feature in the rows, for files with one output.
      gates: All must pass; at least one.
      objective: What is best among those that pass.
      metrics: Reported in this order; a gate's metric that is missing here is added.
      eval_split: The split whose rows are used.
      latency: How latency is measured.
      override: A signed-off exception, or None.
      batch_size: Rows per invocation when predicting.
      decision_threshold: From which output on `Metric.ACCURACY` says class 1 of a binary classifier.
      prediction_timeout_seconds: For one file and what is read at once, some thousand rows.
      slices: Parts of the rows that are reported; those of gates are added.
      sample_weight_key: The feature that weighs each row, >= 0; empty for equal weights.
      labels: The label's feature by output, for files with several outputs; then `label_key` is empty.
    """

    label_key: str = ""
    gates: tuple[Gate, ...] = ()
    objective: Objective = field(default_factory=Objective)
    metrics: tuple[Metric | KerasMetric, ...] = (Metric.RMSE, Metric.MAE)
    eval_split: str = "eval"
    latency: LatencyConfig = field(default_factory=LatencyConfig)
    override: Override | None = None
    batch_size: int = 1024
    decision_threshold: float = 0.5
    prediction_timeout_seconds: float = 600.0
    slices: tuple[Slice, ...] = ()
    sample_weight_key: str = ""
    labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("eval_split",) if self.labels and not self.label_key else ("label_key", "eval_split"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise ConfigError(f"{name} must not be empty; got {value!r}.")
        self._check_labels()
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
            _check_type("metrics", metric, (Metric, KerasMetric))
        if len({metric.value for metric in self.metrics}) != len(self.metrics):
            raise ConfigError(f"metrics must differ; got {', '.join(m.value for m in self.metrics)}.")
        self._check_all_metrics()
        _check_type("objective", self.objective, Objective)
        _check_type("latency", self.latency, LatencyConfig)
        if self.override is not None:
            _check_type("override", self.override, Override)
        _check_whole("batch_size", self.batch_size)
        _check_number("decision_threshold", self.decision_threshold)
        _check_number("prediction_timeout_seconds", self.prediction_timeout_seconds, above=0.0)
        for one in self.slices:
            _check_type("slices", one, Slice)
        _check_type("sample_weight_key", self.sample_weight_key, str)

    def _check_labels(self) -> None:
        _check_type("labels", self.labels, dict)
        if self.labels and self.label_key:
            raise ConfigError(
                f"labels must stand alone; got label_key {self.label_key!r} too. label_key is for files with "
                "one output, labels for files with several."
            )
        for output, feature in self.labels.items():
            for text in (output, feature):
                if not isinstance(text, str) or not text.strip():
                    raise ConfigError(f"labels must map output names to features; got {self.labels!r}.")

    def _check_all_metrics(self) -> None:
        known: dict[str, Metric | KerasMetric] = {}
        outputs = tuple(self.labels) or ("",)
        for metric in self.all_metrics():
            if known.setdefault(metric.value, metric) != metric:
                raise ConfigError(
                    f"Metrics with different settings must have different names; got {metric.value!r} twice. "
                    "Set KerasMetric.name."
                )
            if metric.output not in outputs:
                known_outputs = ", ".join(map(repr, outputs))
                raise ConfigError(
                    f"Metric {metric.value!r} must look at one of the outputs {known_outputs}; "
                    f"got {metric.output!r}. Set KerasMetric.output as in labels."
                )

    def all_metrics(self) -> tuple[Metric | KerasMetric, ...]:
        """Returns the metrics to compute: those asked for, then those only gates need."""
        needed = (gate.metric for gate in self.gates if isinstance(gate, AccuracyGate))
        return tuple(dict.fromkeys((*self.metrics, *needed)))

    def all_slices(self) -> tuple[Slice, ...]:
        """Returns the slices to tally: those asked for, then those only gates need."""
        needed = (one for gate in self.gates if isinstance(gate, AccuracyGate) for one in gate.slices)
        return tuple(dict.fromkeys((*self.slices, *needed)))

    def label_features(self) -> dict[str, str]:
        """Returns the label's feature by output; '' is the output of files with one."""
        return dict(self.labels) or {"": self.label_key}

    def needed_features(self) -> tuple[str, ...]:
        """Returns the features that slices and weights need, each once."""
        found = [name for one in self.all_slices() for name in one.needed_features()]
        return tuple(dict.fromkeys(found + ([self.sample_weight_key] if self.sample_weight_key else [])))


def needs_baseline(gate: Gate) -> bool:
    """Returns whether the gate compares with what phones run today."""
    return gate.is_relative and gate.relative_to is RelativeTo.BASELINE


def parse_metric(value: "Metric | KerasMetric | str", where: str = "metrics") -> Metric | KerasMetric:
    """Returns the metric of that name: a short one, a known class, or a dotted path.

    Args:
      value: The name; a metric is returned as it is.
      where: The setting, for the message.

    Raises:
      ConfigError: There is none.
    """
    if isinstance(value, (Metric, KerasMetric)):
        return value
    if not isinstance(value, str):
        raise ConfigError(f"{where} must be metrics or their names; got {type(value).__name__} {value!r}.")
    if value in {metric.value for metric in Metric}:
        return Metric(value)
    if "." in value or value in KNOWN:
        return KerasMetric(value)
    raise ConfigError(_unknown_metric(value, where))


def _unknown_metric(name: str, where: str = "metrics") -> str:
    short = [metric.value for metric in Metric]
    lower = {known.lower(): known for known in (*short, *KNOWN)}
    near = [lower[found] for found in difflib.get_close_matches(name.replace("_", "").lower(), lower, n=1)]
    return (
        f"{where} must be among {', '.join(map(repr, short))}, a class name such as 'AUC', or the dotted "
        f"path of a class; got {name!r}." + (f" Did you mean {near[0]!r}?" if near else "")
    )


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


def _check_whole(name: str, value: int | None, *, at_least: int = 1) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ConfigError(f"{name} must be a whole number >= {at_least}; got {value!r}.")


def _check_text(name: str, value: object, *, may_be_empty: bool = False) -> None:
    if not isinstance(value, str) or (not value.strip() and not (may_be_empty and not value)):
        raise ConfigError(f"{name} must be text that is not empty; got {value!r}.")
    if any(letter in value for letter in "\0\r\n"):
        raise ConfigError(f"{name} must be one line; got {value!r}.")


def _check_word(name: str, value: object, *, may_be_empty: bool = False) -> None:
    """Checks a name that goes into a command line of its own: what starts with '-' would be an option."""
    _check_text(name, value, may_be_empty=may_be_empty)
    if str(value).startswith("-") or any(letter.isspace() for letter in str(value)):
        raise ConfigError(f"{name} must be one word that does not start with '-'; got {value!r}.")


def _check_one_limit(name: str, limits: dict[str, float | None]) -> None:
    given = [key for key, value in limits.items() if value is not None]
    if len(given) != 1:
        raise ConfigError(
            f"{name} must have exactly one of {', '.join(limits)}; got {', '.join(given) or 'none'}. "
            "Two limits are two gates."
        )


SMALLEST = Objective(size_weight=1.0, latency_weight=0.0)
FASTEST = Objective(size_weight=0.0, latency_weight=1.0)
