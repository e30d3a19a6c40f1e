"""What a conversion is asked to do. Settings only; the converters are in tflite.py and mixed.py."""

import dataclasses
import enum
import math
import re
from collections.abc import Iterable, Sequence

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.jsonable import Settings
from tfx_mobile.common.ladder import Twin

BLOCK_SIZES = (32, 64, 128, 256)  # what LiteRT's kernels take
MAX_WEIGHT_BITS = 8
_SUFFIX = re.compile("[a-z0-9]+")


class Mode(enum.Enum):
    """How weights and activations are stored.

    FLOAT16 and the WEIGHT_ONLY mode compute in float32. DYNAMIC_RANGE has int8 weights and computes in
    integers, with activations rounded as they come; INT8 and INT16X8 have activation ranges from calibration
    rows. INT4 is DYNAMIC_RANGE with two weights in a byte.

    Source: LiteRT's post-training quantisation guide, and ai-edge-quantizer's recipes.
    """

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    DYNAMIC_RANGE = "dynamic_range"
    INT8 = "int8"
    INT16X8 = "int16x8"
    WEIGHT_ONLY_INT8 = "weight_only_int8"
    INT4 = "int4"


_FLOAT_MODES = (Mode.FLOAT32, Mode.FLOAT16)
_INTEGER_MODES = (Mode.INT8, Mode.INT16X8)
_BYTE_MODES = (Mode.DYNAMIC_RANGE, Mode.INT8, Mode.INT16X8, Mode.WEIGHT_ONLY_INT8)
CONVERTER_MODES = (Mode.FLOAT32, Mode.FLOAT16, Mode.DYNAMIC_RANGE, Mode.INT8, Mode.INT16X8)


@dataclasses.dataclass(frozen=True)
class Quantization(Settings):
    """One way to convert a model; `Quantization(Mode.INT8)` and `Mode.INT8` mean the same.

    Attributes:
      mode: How weights and activations are stored.
      sparse: Zeros are left out of the file (TFLite's sparse encoding): fewer bytes unpacked, and faster
        where blocks of 1x4 or 1x16 were pruned; gzip makes dense zeros smaller still.
      weight_bits: Weights stay bytes, but only 2**weight_bits - 1 different values occur, zero among them: as
        small a download as packed weights of so many bits, for every op and runtime. 3 to 8.
      block_size: Weights of so many inputs share a scale, for INT4; 0 is one scale for each output.
      integer_io: The file takes and returns integers where it would take and return float32. Raw features
        keep their types: then only the output changes.
      exclude: Keras layers that stay float32, by name or pattern ('hidden_*').
      keep_float: So many layers stay float32: those whose quantisation alone moves the predictions most.
      max_gz_ratio: `keep_float` is lowered until the model's part of the file is at most this share of the
        float32 model, both after gzip; preprocessing and metadata do not count.
      suffix: Ends the candidate's name, where two quantisations would have the same.
    """

    mode: Mode
    sparse: bool = False
    weight_bits: int = MAX_WEIGHT_BITS
    block_size: int = 0
    integer_io: bool = False
    exclude: tuple[str, ...] = ()
    keep_float: int = 0
    max_gz_ratio: float = 1.0
    suffix: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.mode, Mode):
            raise ConfigError(
                f"mode must be one of {', '.join(f'Mode.{m.name}' for m in Mode)}; got {self.mode!r}."
            )
        mode = f"Mode.{self.mode.name}"
        if not 3 <= self.weight_bits <= MAX_WEIGHT_BITS:
            raise ConfigError(f"weight_bits must be between 3 and 8; got {self.weight_bits}.")
        if self.weight_bits < MAX_WEIGHT_BITS and self.mode not in _BYTE_MODES:
            raise ConfigError(
                f"weight_bits is for weights stored as bytes ({_named(_BYTE_MODES)}); got {mode}."
            )
        if self.block_size not in (0, *BLOCK_SIZES):
            raise ConfigError(
                f"block_size must be 0 or one of {', '.join(map(str, BLOCK_SIZES))}; got {self.block_size}."
            )
        if self.block_size and self.mode is not Mode.INT4:
            raise ConfigError(f"block_size is for Mode.INT4; got {mode}.")
        if self.sparse and self.mode not in CONVERTER_MODES:
            raise ConfigError(f"sparse is for {_named(CONVERTER_MODES)}; got {mode}.")
        if self.integer_io and self.mode not in _INTEGER_MODES:
            raise ConfigError(f"integer_io is for {_named(_INTEGER_MODES)}; got {mode}.")
        if self.keep_float < 0:
            raise ConfigError(f"keep_float must be >= 0 layers; got {self.keep_float}.")
        if not (math.isfinite(self.max_gz_ratio) and 0 < self.max_gz_ratio <= 1):
            raise ConfigError(f"max_gz_ratio must be above 0 and at most 1; got {self.max_gz_ratio}.")
        given: object = self.exclude
        if not isinstance(given, tuple) or not all(isinstance(one, str) and one for one in given):
            raise ConfigError(f"exclude must be a tuple of layer names or patterns; got {given!r}.")
        if self.is_selective and self.mode in _FLOAT_MODES:
            raise ConfigError(f"exclude and keep_float leave layers in float32; {mode} has no others.")
        if self.is_selective and (self.sparse or self.integer_io):
            raise ConfigError("exclude and keep_float go with neither sparse nor integer_io.")
        if self.suffix and not _SUFFIX.fullmatch(self.suffix):
            raise ConfigError(f"suffix must be small letters and digits; got {self.suffix!r}.")
        if self.max_gz_ratio < 1 and not self.keep_float:
            raise ConfigError("max_gz_ratio says how far keep_float may go; keep_float is 0.")

    @property
    def is_selective(self) -> bool:
        """Whether some layers are to stay float32."""
        return bool(self.exclude or self.keep_float)

    @property
    def name(self) -> str:
        """What a candidate's name ends with, for example 'int8', 'int8-w4-sparse', 'int4-b32'."""
        parts = [self.mode.value]
        parts += [f"w{self.weight_bits}"] if self.weight_bits < MAX_WEIGHT_BITS else []
        parts += [f"b{self.block_size}"] if self.block_size else []
        parts += ["io"] if self.integer_io else []
        parts += ["sparse"] if self.sparse else []
        parts += ["without"] if self.exclude else []
        parts += [f"float{self.keep_float}"] if self.keep_float else []
        parts += [self.suffix] if self.suffix else []
        return "-".join(parts)

    def fits(self, twin: Twin) -> bool:
        """Whether a rung can be converted so: one that was trained for int8 has ranges for nothing else."""
        if twin is not Twin.QUANTIZATION_AWARE:
            return True
        return self.mode is Mode.INT8 and not self.is_selective


class ModeSet(enum.Enum):
    """Sets of modes by name.

    STANDARD has what every converter offers; SMALLEST aims at the download, FASTEST at the call, ACCURATE at
    predictions next to those of the float model. Each has float32, which everything is compared with.
    """

    STANDARD = "standard"
    SMALLEST = "smallest"
    FASTEST = "fastest"
    ACCURATE = "accurate"


_SETS: dict[ModeSet, tuple[Quantization, ...]] = {
    ModeSet.STANDARD: (
        Quantization(Mode.FLOAT32),
        Quantization(Mode.FLOAT16),
        Quantization(Mode.DYNAMIC_RANGE),
        Quantization(Mode.INT8),
    ),
    ModeSet.SMALLEST: (
        Quantization(Mode.DYNAMIC_RANGE),
        Quantization(Mode.DYNAMIC_RANGE, weight_bits=5),
        Quantization(Mode.DYNAMIC_RANGE, weight_bits=4),
        Quantization(Mode.INT8),
        Quantization(Mode.INT8, weight_bits=5),
        Quantization(Mode.INT8, weight_bits=4),
        Quantization(Mode.INT4),
    ),
    ModeSet.FASTEST: (
        Quantization(Mode.FLOAT32, sparse=True),
        Quantization(Mode.DYNAMIC_RANGE),
        Quantization(Mode.INT8),
        Quantization(Mode.INT4),
    ),
    ModeSet.ACCURATE: (
        Quantization(Mode.FLOAT16),
        Quantization(Mode.WEIGHT_ONLY_INT8),
        Quantization(Mode.INT16X8),
        Quantization(Mode.DYNAMIC_RANGE, keep_float=2),
    ),
}

Modes = ModeSet | str | Iterable[Mode | Quantization]


def quantizations(modes: Modes) -> tuple[Quantization, ...]:
    """Returns what a set, its name, or a list of modes stands for.

    Raises:
      ConfigError: The set is not known, or the list has something else, nothing, or a name twice.
    """
    if isinstance(modes, (str, ModeSet)):
        try:
            return _SETS[ModeSet(modes)]
        except ValueError as error:
            known = ", ".join(repr(one.value) for one in ModeSet)
            raise ConfigError(
                f"A set of modes must be one of {known}; got {modes!r}. A single mode is a list: [Mode.INT8]."
            ) from error
    found: list[Quantization] = []
    given: Iterable[object] = modes
    for one in given:
        if not isinstance(one, (Mode, Quantization)):
            known = ", ".join(f"Mode.{mode.name}" for mode in Mode)
            raise ConfigError(f"modes must hold {known} or Quantization(...); got {one!r}.")
        found.append(Quantization(one) if isinstance(one, Mode) else one)
    names = [one.name for one in found]
    if not names or len(set(names)) != len(names):
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise ConfigError(
            f"modes must be one or more that differ by name; got {', '.join(repeated) or 'none'}"
            f"{' more than once: give one a suffix' if repeated else ''}."
        )
    return tuple(found)


class Inputs(enum.Enum):
    """What the files take: RAW features, with the transform in the file, or TRANSFORMED ones."""

    RAW = "raw"
    TRANSFORMED = "transformed"


@dataclasses.dataclass(frozen=True)
class Runtime(Settings):
    """Another TFLite runtime that every candidate must run on.

    Attributes:
      name: What reports call it, for example 'tflite-runtime 2.14'.
      python: Python interpreter of an environment with NumPy and one of tflite_runtime, ai_edge_litert and
        tensorflow: a path, or a name on the PATH.
    """

    name: str
    python: str

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.python.strip():
            raise ConfigError(f"A runtime must have a name and a python; got {self.name!r}, {self.python!r}.")


@dataclasses.dataclass(frozen=True)
class Label(Settings):
    """What a prediction is, for the file's metadata.

    Attributes:
      name: For example 'fare'.
      unit: For example 'USD'.
    """

    name: str = ""
    unit: str = ""


@dataclasses.dataclass(frozen=True)
class QuantizerConfig(Settings):
    """One set of candidates.

    Attributes:
      modes: Each rung is converted in each of them and in float32, which everything else is compared with;
        a rung that was trained for int8 only in those it has ranges for.
      inputs: What the files take.
      allow_select_tf_ops: What has no built-in TFLite op may be a TensorFlow op; phones then need the Flex
        delegate.
      strip: Names of tensors and what else does not change results are left out.
      calibration_split: Split that representative rows are drawn from.
      evaluation_split: Split that no representative row may be in; empty when there is none.
      calibration_rows: How many, at most; they give int8 its ranges and prove every candidate.
      max_scale_change: Scales from two halves of these rows may differ by this share without a warning.
      seed: Of the draw.
      timeout_seconds: For each candidate.
      num_processes: Converting side by side; 0 is one for each core.
      runtimes: Others that every candidate must run on.
      model_name: Written into the files.
      model_version: Likewise.
      label: Likewise.
      units: Of raw features, by name; likewise.
      licence: Likewise.
    """

    modes: tuple[Quantization, ...] = _SETS[ModeSet.STANDARD]
    inputs: Inputs = Inputs.RAW
    allow_select_tf_ops: bool = False
    strip: bool = False
    calibration_split: str = "train"
    evaluation_split: str = "eval"
    calibration_rows: int = 500
    max_scale_change: float = 0.5
    seed: int = 1
    timeout_seconds: float = 600.0
    num_processes: int = 0
    runtimes: tuple[Runtime, ...] = ()
    model_name: str = ""
    model_version: str = ""
    label: Label = Label()
    units: dict[str, str] = dataclasses.field(default_factory=dict)
    licence: str = ""

    def __post_init__(self) -> None:
        quantizations(self.modes)
        if self.calibration_rows < 2:
            raise ConfigError(f"calibration_rows must be at least 2; got {self.calibration_rows}.")
        if self.seed < 0:
            raise ConfigError(f"seed must be >= 0; got {self.seed}.")
        if self.calibration_split == self.evaluation_split:
            raise ConfigError(
                "calibration_split must be another split than evaluation_split, or int8 is tuned on the rows "
                f"it is judged by; got {self.calibration_split!r} for both."
            )
        if not (math.isfinite(self.timeout_seconds) and self.timeout_seconds > 0):
            raise ConfigError(f"timeout_seconds must be above 0; got {self.timeout_seconds}.")
        if self.num_processes < 0:
            raise ConfigError(f"num_processes must be >= 0; got {self.num_processes}.")
        if not 0 < self.max_scale_change <= 1:
            raise ConfigError(f"max_scale_change must be above 0 and at most 1; got {self.max_scale_change}.")
        names = [runtime.name for runtime in self.runtimes]
        if len(set(names)) != len(names):
            raise ConfigError(f"runtimes must differ by name; got {', '.join(names)}.")

    def quantizations_of(self, twin: Twin) -> tuple[Quantization, ...]:
        """Returns how a rung is converted, float32 first."""
        reference = Quantization(Mode.FLOAT32)
        wanted = [reference, *(one for one in self.modes if one != reference)]
        return tuple(one for one in wanted if one.fits(twin))


def _named(modes: Sequence[Mode]) -> str:
    return ", ".join(f"Mode.{mode.name}" for mode in modes)
