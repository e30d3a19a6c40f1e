"""What a conversion is asked to do. Settings only; the converter is in tflite.py."""

import dataclasses
import enum

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.jsonable import Settings
from tfx_mobile.common.ladder import Twin


class Mode(enum.Enum):
    """How weights and activations are stored.

    Source: LiteRT's post-training quantisation guide.
    """

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    DYNAMIC_RANGE = "dynamic_range"
    INT8 = "int8"


@dataclasses.dataclass(frozen=True)
class QuantizerConfig(Settings):
    """One set of candidates.

    Attributes:
      modes: Each rung is converted in each of them and in float32, which everything else is compared with;
        a rung that was trained for int8 is converted in int8 only, if that is among them.
      calibration_split: Split that representative rows are drawn from; never the evaluation split.
      calibration_rows: How many, at most; they give int8 its ranges and prove every candidate.
      seed: Of the draw.
    """

    modes: tuple[Mode, ...] = tuple(Mode)
    calibration_split: str = "train"
    calibration_rows: int = 500
    seed: int = 1

    def __post_init__(self) -> None:
        known = all(isinstance(mode, Mode) for mode in self.modes)
        if not self.modes or not known or len(set(self.modes)) != len(self.modes):
            raise ConfigError(
                f"modes must be one or more different modes of {', '.join(m.value for m in Mode)}; "
                f"got {[getattr(mode, 'value', mode) for mode in self.modes]}."
            )
        if self.calibration_rows < 2:
            raise ConfigError(f"calibration_rows must be at least 2; got {self.calibration_rows}.")
        if self.seed < 0:
            raise ConfigError(f"seed must be >= 0; got {self.seed}.")

    def modes_of(self, twin: Twin) -> tuple[Mode, ...]:
        """Returns the modes that a rung is converted in, in the order of Mode."""
        aware = twin is Twin.QUANTIZATION_AWARE
        wanted = {Mode.INT8} & set(self.modes) if aware else {Mode.FLOAT32, *self.modes}
        return tuple(mode for mode in Mode if mode in wanted)
