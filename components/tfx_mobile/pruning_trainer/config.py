"""What a training is asked to do. Settings only; the training itself is in keras_training.py."""

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any, ClassVar

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.jsonable import Settings
from tfx_mobile.common.ladder import rung_name

DEFAULT_EVAL_SPLITS = ("eval",)  # of an input_fn, from whose rows none can be held out


class Criterion(enum.Enum):
    """How much a weight w with gradient g counts; the smallest are pruned first.

    Source: Han et al. (2015) for |w|; Molchanov et al. (2017) for |w g|; LeCun, Denker and Solla (1990),
    Optimal Brain Damage, for w**2 E[g**2] / 2 (the diagonal of the Fisher information in place of the
    Hessian's).
    """

    MAGNITUDE = "magnitude"
    FIRST_ORDER = "first_order"
    FISHER = "fisher"


class Allocation(enum.Enum):
    """How a rung's sparsity is spread over the layers.

    UNIFORM gives every layer the same share of zeros. SENSITIVITY measures what each layer loses at rising
    sparsity and gives those more zeros that miss them least; the zeros of all layers together are the same.
    """

    UNIFORM = "uniform"
    SENSITIVITY = "sensitivity"


class BlockPooling(enum.Enum):
    """How the weights of a block become one number."""

    AVG = "AVG"
    MAX = "MAX"


class CentroidInitialization(enum.Enum):
    """Where the centroids of a clustering start; tfmot's names."""

    LINEAR = "LINEAR"
    RANDOM = "RANDOM"
    DENSITY_BASED = "DENSITY_BASED"
    KMEANS_PLUS_PLUS = "KMEANS_PLUS_PLUS"


@dataclasses.dataclass(frozen=True)
class PolynomialDecay(Settings):
    """Sparsity rises from an initial to the rung's value (Zhu and Gupta 2017, eq. 1; tfmot's name).

    Attributes:
      initial_sparsity_fraction: In [0, 1); None starts at the rung before.
      begin_step: First step of the rung at which masks are made; >= 0.
      end_step: Step of the rung at which its sparsity is reached; None is halfway to its end.
      frequency: Masks are renewed every so many steps; None is about 20 times on the way.
      power: Exponent of the ramp; > 0.
    """

    kind: ClassVar[str] = "polynomial"
    initial_sparsity_fraction: float | None = None
    begin_step: int = 0
    end_step: int | None = None
    frequency: int | None = None
    power: float = 3.0

    def __post_init__(self) -> None:
        initial = self.initial_sparsity_fraction
        if initial is not None and not 0 <= initial < 1:
            raise ConfigError(f"initial_sparsity_fraction must be in [0, 1) or None; got {initial}.")
        _check_steps(self.begin_step, self.end_step, self.frequency)
        if not 0 < self.power < math.inf:
            raise ConfigError(f"power must be above 0; got {self.power}.")


@dataclasses.dataclass(frozen=True)
class ConstantSparsity(Settings):
    """The rung's sparsity from `begin_step` on (tfmot's name).

    Attributes:
      begin_step: First step of the rung at which masks are made; >= 0.
      end_step: Last step of the rung at which masks are renewed; None is halfway to its end.
      frequency: Masks are renewed every so many steps; None is about 20 times on the way.
    """

    kind: ClassVar[str] = "constant"
    begin_step: int = 0
    end_step: int | None = None
    frequency: int | None = None

    def __post_init__(self) -> None:
        _check_steps(self.begin_step, self.end_step, self.frequency)


@dataclasses.dataclass(frozen=True)
class Weights(Settings):
    """Single weights become zero: the smallest files, no speed."""

    kind: ClassVar[str] = "weights"


@dataclasses.dataclass(frozen=True)
class Blocks(Settings):
    """Whole blocks of a kernel become zero: what TFLite has fast sparse kernels for.

    TFLite's blocks lie along the inputs of a Dense kernel: 4x1 for float32 and 16x1 for int8 weights, in the
    order (inputs, outputs) of Keras. (Its own "1x4" is of the transposed kernel.) Other blocks compress like
    single weights.

    Attributes:
      height: Rows of a block: inputs of a Dense kernel; >= 1.
      width: Columns of a block: units of a Dense kernel; >= 1.
      pooling: How the weights of a block become one number.
    """

    kind: ClassVar[str] = "blocks"
    height: int = 4
    width: int = 1
    pooling: BlockPooling = BlockPooling.AVG

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or self.height * self.width < 2:
            raise ConfigError(
                f"A block must have at least two weights; got {self.height}x{self.width}. Leave `structure` "
                "out to prune single weights."
            )


@dataclasses.dataclass(frozen=True)
class MByN(Settings):
    """In every `n` neighbouring weights along the inputs, `m` become zero, as in 2:4 (Mishra et al. 2021).

    A rung of it has the sparsity m / n, no other.

    Attributes:
      m: Zeros; 0 < m < n.
      n: Neighbours.
    """

    kind: ClassVar[str] = "m_by_n"
    m: int = 2
    n: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.m < self.n:
            raise ConfigError(f"m_by_n must be 0 < m < n, such as 2 of 4; got {self.m} of {self.n}.")


@dataclasses.dataclass(frozen=True)
class Units(Settings):
    """Whole neurons and filters are removed: shapes shrink, in Keras and in the TFLite file.

    A rung's sparsity is the share of units removed from each layer that is safe to shrink.

    Attributes:
      min_units: Of a layer, that stay whatever the sparsity; >= 1.
    """

    kind: ClassVar[str] = "units"
    min_units: int = 1

    def __post_init__(self) -> None:
        if self.min_units < 1:
            raise ConfigError(f"min_units must be at least 1; got {self.min_units}.")


@dataclasses.dataclass(frozen=True)
class Layers(Settings):
    """Which layers are meant.

    Attributes:
      names: Patterns of layer names, as in a shell ('hidden_*'); one must match.
      types: Class names ('Dense', 'Conv2D'), of the layer or of a base class; empty for all.
      predicate: Dotted name of a function `predicate(layer) -> bool`; empty for none.
      exclude: Patterns of layer names that are left out.
      skip_first: Leave out the first layer that would be taken, which the inputs hang on.
      skip_last: Leave out the last one, which makes the predictions.
      min_weights: Weights smaller than this are left out: there is nothing to gain.
    """

    names: tuple[str, ...] = ("*",)
    types: tuple[str, ...] = ()
    predicate: str = ""
    exclude: tuple[str, ...] = ()
    skip_first: bool = False
    skip_last: bool = False
    min_weights: int = 256

    def __post_init__(self) -> None:
        if not self.names:
            raise ConfigError("names must have at least one pattern; got none. '*' means every layer.")
        if self.predicate:
            _check_dotted("predicate", self.predicate)
        if self.min_weights < 1:
            raise ConfigError(f"min_weights must be at least 1; got {self.min_weights}.")


@dataclasses.dataclass(frozen=True)
class Pruning(Settings):
    """How the sparse rungs are made.

    Attributes:
      structure: What becomes zero, or is removed, together.
      schedule: When.
      criterion: What goes first.
      allocation: How a rung's sparsity is spread over the layers.
      layers: Which ones.
      saliency_batches: Batches of the train split that gradients are averaged over, for criteria that need
        them, each time masks are renewed.
    """

    structure: Weights | Blocks | MByN | Units = Weights()
    schedule: PolynomialDecay | ConstantSparsity = dataclasses.field(default_factory=PolynomialDecay)
    criterion: Criterion = Criterion.MAGNITUDE
    allocation: Allocation = Allocation.UNIFORM
    layers: Layers = Layers()
    saliency_batches: int = 8

    def __post_init__(self) -> None:
        if self.saliency_batches < 1:
            raise ConfigError(f"saliency_batches must be at least 1; got {self.saliency_batches}.")
        if isinstance(self.structure, (MByN, Units)) and self.allocation is not Allocation.UNIFORM:
            raise ConfigError(
                f"allocation must be UNIFORM with {type(self.structure).__name__}; got "
                f"{self.allocation.value!r}."
            )


@dataclasses.dataclass(frozen=True)
class Rewinding(Settings):
    """Lottery-ticket rewinding: a twin of each sparse rung, trained from early weights.

    The twin has the rung's masks; its surviving weights start from their values at step `step` of the dense
    training. Source: Frankle and Carbin (2019); Frankle et al. (2020) for k > 0.

    Attributes:
      step: Of the dense training; 0 is the initialisation.
      epochs: Of the twin; None is as long as the dense model took.
    """

    step: int = 0
    epochs: int | None = None

    def __post_init__(self) -> None:
        if self.step < 0:
            raise ConfigError(f"step must be >= 0; got {self.step}.")
        if self.epochs is not None and self.epochs < 1:
            raise ConfigError(f"epochs must be at least 1 or None; got {self.epochs}.")


@dataclasses.dataclass(frozen=True)
class Clustering(Settings):
    """Weight clustering (tfmot): a twin of each rung whose kernels hold few distinct values.

    Attributes:
      number_of_clusters: Distinct values of a kernel; >= 2. Zeros that are preserved are one of them.
      initialization: Where centroids start.
      preserve_sparsity: Zeros stay zeros.
      epochs: Of fine-tuning.
      learning_rate: Of fine-tuning; None is a tenth of the model's.
      layers: Which ones.
    """

    number_of_clusters: int = 16
    initialization: CentroidInitialization = CentroidInitialization.KMEANS_PLUS_PLUS
    preserve_sparsity: bool = True
    epochs: int = 4
    learning_rate: float | None = None
    layers: Layers = Layers()

    def __post_init__(self) -> None:
        if self.number_of_clusters < 2:
            raise ConfigError(f"number_of_clusters must be at least 2; got {self.number_of_clusters}.")
        _check_fine_tuning(self.epochs, self.learning_rate)


@dataclasses.dataclass(frozen=True)
class QuantizationAware(Settings):
    """Quantisation-aware training (tfmot): an int8 twin of each rung.

    A sparse rung keeps its zeros (PQAT), a clustered one its clusters (CQAT), one that is both keeps both
    (PCQAT).

    Attributes:
      layers: Which ones; the whole model by default, where tfmot decides for each layer.
      quantize_configs: Pattern of layer names to the dotted name of a class or function that makes a
        tfmot `QuantizeConfig`, for custom layers.
      epochs: Of fine-tuning.
      learning_rate: Of fine-tuning; None is a tenth of the model's.
    """

    layers: Layers = Layers(min_weights=1)
    quantize_configs: dict[str, str] = dataclasses.field(default_factory=dict)
    epochs: int = 4
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        _check_fine_tuning(self.epochs, self.learning_rate)
        for dotted in self.quantize_configs.values():
            _check_dotted("quantize_configs", dotted)


@dataclasses.dataclass(frozen=True)
class SplitArgs(Settings):
    """What TFX's `TrainArgs` and `EvalArgs` say: the splits to read, and a number of steps.

    Attributes:
      splits: Names of splits.
      num_steps: At most this many steps: of the dense training, or of one validation; 0 is no limit.
    """

    splits: tuple[str, ...] = ()
    num_steps: int = 0

    def __post_init__(self) -> None:
        if self.num_steps < 0:
            raise ConfigError(f"num_steps must be >= 0, where 0 is no limit; got {self.num_steps}.")
        if len(set(self.splits)) != len(self.splits):
            raise ConfigError(f"splits must be different names; got {list(self.splits)}.")


@dataclasses.dataclass(frozen=True)
class Resources(Settings):
    """What a training may use of its machine.

    Attributes:
      num_threads: Of TensorFlow's pools and of reading; 0 is one for each core.
      max_memory_mib: Memory of the training process; it is refused more. 0 is no limit.
      cache_mib: Rows are kept in memory up to this size and read from the files again in each epoch beyond
        it.
      shuffle_rows: Rows that are shuffled together when they are not all in memory.
      checkpoint_seconds: Between checkpoints, at least; what a kill can cost.
      checkpoint_folder: Folder or URI for checkpoints; by default `.checkpoints` in the component's folder
        below the pipeline root.
    """

    num_threads: int = 0
    max_memory_mib: int = 0
    cache_mib: int = 1024
    shuffle_rows: int = 100_000
    checkpoint_seconds: float = 15.0
    checkpoint_folder: str = ""

    def __post_init__(self) -> None:
        for name in ("num_threads", "max_memory_mib", "cache_mib", "checkpoint_seconds"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be >= 0; got {getattr(self, name)}.")
        if self.shuffle_rows < 1:
            raise ConfigError(f"shuffle_rows must be at least 1; got {self.shuffle_rows}.")


@dataclasses.dataclass(frozen=True)
class TrainerConfig(Settings):
    """One training of a whole ladder.

    Attributes:
      label_key: The label's feature in the transformed Examples.
      build_model: Dotted name of a function `build_model(ctx) -> compiled Keras model`; with
        `module_source`, its name in there. Empty with a base model that is compiled.
      input_fn: The same for `input_fn(ctx, split, batch_size) -> tf.data.Dataset` of (features, labels)
        batches of one epoch; empty for the component's own reading.
      module_source: Text of a module file; empty when functions are dotted names.
      sparsities: Share of zeros (or of removed units) of each rung, rising, in [0, 1); the first is 0.
      pruning: How the sparse rungs are made.
      rewinding: Adds a rewound twin of each sparse rung.
      clustering: Adds a clustered twin of each rung.
      quantization_aware: Adds an int8-aware twin of each rung, or of its clustered twin.
      train_args: Splits to train on ('train' by default) and limit of the dense training's steps.
      eval_args: Splits to validate on (rows held out of the train splits by default), and limit of steps.
      epochs: At most this many for the dense model; early stopping ends it before.
      patience: Epochs without a better validation loss before early stopping.
      fine_tune_epochs: For each sparse rung.
      batch_size: Rows per step.
      validation_fraction: Share of the train split held out for early stopping, in (0, 0.5].
      max_increase_fraction: A rung keeps the accuracy budget while its validation loss is at most this share
        above the dense model's.
      seed: Of weights and shuffling.
      hyperparameters: Handed to `build_model`.
      resources: Threads, memory, checkpoints.
    """

    label_key: str
    build_model: str = ""
    input_fn: str = ""
    module_source: str = ""
    sparsities: tuple[float, ...] = (0.0, 0.5, 0.75, 0.9)
    pruning: Pruning = dataclasses.field(default_factory=Pruning)
    rewinding: Rewinding | None = None
    clustering: Clustering | None = None
    quantization_aware: QuantizationAware | None = None
    train_args: SplitArgs = SplitArgs()
    eval_args: SplitArgs = SplitArgs()
    epochs: int = 60
    patience: int = 6
    fine_tune_epochs: int = 12
    batch_size: int = 128
    validation_fraction: float = 0.1
    max_increase_fraction: float = 0.02
    seed: int = 1
    hyperparameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    resources: Resources = Resources()

    def __post_init__(self) -> None:
        for name in ("build_model", "input_fn"):
            if value := getattr(self, name):
                _check_function(name, value, in_module_file=bool(self.module_source))
        if not self.label_key:
            raise ConfigError("label_key must name the label's feature; got an empty name.")
        for name in ("epochs", "patience", "fine_tune_epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1; got {getattr(self, name)}.")
        self._check_sparsities()
        if not 0 < self.validation_fraction <= 0.5:
            raise ConfigError(f"validation_fraction must be in (0, 0.5]; got {self.validation_fraction}.")
        if not self.max_increase_fraction >= 0:  # NaN is refused too
            raise ConfigError(f"max_increase_fraction must be >= 0; got {self.max_increase_fraction}.")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed must be between 0 and {2**32 - 1}; got {self.seed}.")
        if both := set(self.train_splits) & set(self.eval_args.splits):
            raise ConfigError(
                f"A split must be trained on or validated on, not both; got {', '.join(sorted(both))} twice. "
                "Without splits in eval_args, rows are held out of the train split."
            )
        if self.rewinding and isinstance(self.pruning.structure, Units):
            raise ConfigError("Rewinding must have masks; Units removes shapes. Leave rewinding out.")

    def _check_sparsities(self) -> None:
        if any(not 0 <= sparsity < 1 for sparsity in self.sparsities):
            raise ConfigError(f"sparsities must be in [0, 1); got {list(self.sparsities)}. 0.75 means 75 %.")
        if (
            not self.sparsities
            or self.sparsities[0] != 0
            or sorted(set(self.sparsities)) != [*self.sparsities]
        ):
            raise ConfigError(f"sparsities must start at 0 and rise; got {list(self.sparsities)}.")
        structure = self.pruning.structure
        if len({rung_name(sparsity) for sparsity in self.sparsities}) < len(self.sparsities):
            raise ConfigError(
                "sparsities must differ in the first six digits of their percentages; got "
                f"{list(self.sparsities)}."
            )
        if isinstance(structure, MByN) and not all(
            math.isclose(sparsity, structure.m / structure.n, abs_tol=1e-6)
            for sparsity in self.sparsities[1:]
        ):
            raise ConfigError(
                f"{structure.m} of {structure.n} zeros is a sparsity of {structure.m / structure.n:g}; "
                f"sparsities must be (0, {structure.m / structure.n:g}); got {list(self.sparsities)}."
            )

    @property
    def train_splits(self) -> tuple[str, ...]:
        """The splits to train on."""
        return self.train_args.splits or ("train",)

    @property
    def default_eval_splits(self) -> tuple[str, ...]:
        """What an input_fn is validated on unless eval_args says: no rows can be held out of batches."""
        return DEFAULT_EVAL_SPLITS if self.input_fn and not self.eval_args.splits else ()

    @property
    def eval_splits(self) -> tuple[str, ...]:
        """The splits to validate on; none where rows of the train splits are held out."""
        return self.eval_args.splits or self.default_eval_splits

    def of_weights(self) -> "TrainerConfig":
        """Returns the settings that weights depend on, and the others at their defaults."""
        resources = dataclasses.replace(
            self.resources,
            max_memory_mib=Resources.max_memory_mib,
            checkpoint_seconds=Resources.checkpoint_seconds,
            checkpoint_folder=Resources.checkpoint_folder,
        )
        return dataclasses.replace(
            self, resources=resources, max_increase_fraction=TrainerConfig.max_increase_fraction
        )

    @property
    def user_modules(self) -> tuple[str, ...]:
        """The modules that dotted names of functions live in."""
        names = [self.pruning.layers.predicate]
        if not self.module_source:
            names += [self.build_model, self.input_fn]
        if self.clustering:
            names.append(self.clustering.layers.predicate)
        if self.quantization_aware:
            names += [
                self.quantization_aware.layers.predicate,
                *self.quantization_aware.quantize_configs.values(),
            ]
        return tuple(sorted({name.rpartition(".")[0] for name in names if name}))


def split_args(value: Any) -> SplitArgs:
    """Returns splits and steps from a TFX proto (`TrainArgs`, `EvalArgs`), a mapping, or SplitArgs.

    Raises:
      ConfigError: It is something else, or has other keys.
    """
    if value is None or isinstance(value, SplitArgs):
        return value or SplitArgs()
    if isinstance(value, Mapping):
        return SplitArgs.from_dict(dict(value))
    if hasattr(value, "splits") and hasattr(value, "num_steps"):
        return SplitArgs(splits=tuple(value.splits), num_steps=int(value.num_steps))
    raise ConfigError(
        "train_args and eval_args must be TFX's TrainArgs and EvalArgs or a dict with 'splits' and "
        f"'num_steps'; got {type(value).__name__}."
    )


def _check_steps(begin: int, end: int | None, frequency: int | None) -> None:
    if begin < 0:
        raise ConfigError(f"begin_step must be >= 0; got {begin}.")
    if end is not None and end < begin:
        raise ConfigError(f"end_step must not be before begin_step; got {end}, before {begin}.")
    if frequency is not None and frequency < 1:
        raise ConfigError(f"frequency must be at least 1; got {frequency}.")


def _check_fine_tuning(epochs: int, learning_rate: float | None) -> None:
    if epochs < 1:
        raise ConfigError(f"epochs must be at least 1; got {epochs}.")
    if learning_rate is not None and not 0 < learning_rate < math.inf:
        raise ConfigError(f"learning_rate must be above 0; got {learning_rate}.")


def _check_dotted(setting: str, name: str) -> None:
    module, _, function = name.rpartition(".")
    if not module or not function.isidentifier():
        raise ConfigError(
            f"{setting} must be the dotted name of a function, such as 'taxi_fare.model.{setting}'; got "
            f"{name!r}."
        )


def _check_function(setting: str, name: str, *, in_module_file: bool) -> None:
    if not in_module_file:
        _check_dotted(setting, name)
    elif not name.isidentifier():
        raise ConfigError(f"{setting} must be the name of a function in module_file; got {name!r}.")
