"""The models of one training at rising sparsity: what a `models` artifact holds.

A folder with one SavedModel per rung (`<name>/`, with the Keras model in `<name>/model.keras`) and
`ladder.json`, written last. Knows neither how a rung is trained (pruning_trainer) nor what is made of it
(quantizer).
"""

import enum
from dataclasses import dataclass
from pathlib import Path

from tfx_mobile.common import files, jsonable
from tfx_mobile.common.errors import DataError

MANIFEST = "ladder.json"
KERAS_FILE = "model.keras"
MODEL_SIGNATURE = "transformed"  # of a rung's SavedModel: transformed features by name to outputs by name
ONE_ROW_SIGNATURE = "transformed_one_row"  # the same for one row: all that TFLite takes of recurrent layers
WEIGHTS = "weights_by_name"  # attribute of a SavedModel whose variables do not have their Keras names


@dataclass(frozen=True)
class LayerSparsity(jsonable.Settings):
    """Zeros in one pruned weight.

    Attributes:
      weight: Name of the weight, for example 'hidden_1/kernel'.
      num_weights: Its size.
      num_zeros: How many are exactly 0.
    """

    weight: str
    num_weights: int
    num_zeros: int


class Twin(enum.Enum):
    """What a model of the ladder is beside the plain rung of its sparsity.

    CLUSTERED has few distinct values, REWOUND is the lottery ticket, QUANTIZATION_AWARE is trained for int8
    (from the clustered twin where there is one).
    """

    PLAIN = ""
    REWOUND = "rewound"
    CLUSTERED = "clustered"
    QUANTIZATION_AWARE = "qat"


@dataclass(frozen=True)
class Epoch(jsonable.Settings):
    """What one epoch gave.

    Attributes:
      step: Training steps of this model so far.
      sparsity_fraction: Of the masks at its end, in [0, 1].
      metrics: By Keras metric name; those on validation rows start with 'val_'.
    """

    step: int
    sparsity_fraction: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Rung(jsonable.Settings):
    """One model of the ladder.

    Attributes:
      name: 's' and the target in percent, for example 's75'; the dense model is 's0'; a twin's name has
        what it is behind it, for example 's75-qat'.
      target_fraction: Share of zeros (or of removed units) asked for, in [0, 1).
      layers: What was pruned, with the zeros counted on the saved weights.
      num_parameters: All weights of the model.
      validation: Metrics on the rows held out of the train split, by Keras metric name.
      twin: What it is beside the plain rung.
      history: Epoch by epoch.
      seconds: How long its training took.
    """

    name: str
    target_fraction: float
    layers: tuple[LayerSparsity, ...]
    num_parameters: int
    validation: dict[str, float]
    twin: Twin = Twin.PLAIN
    history: tuple[Epoch, ...] = ()
    seconds: float = 0.0

    @property
    def sparsity_fraction(self) -> float:
        """Share of zeros in the prunable weights, in [0, 1]."""
        total = sum(layer.num_weights for layer in self.layers)
        return sum(layer.num_zeros for layer in self.layers) / total if total else 0.0


@dataclass(frozen=True)
class Ladder(jsonable.Settings):
    """All rungs of one training, by rising sparsity, and the one to use when only one can be.

    Attributes:
      rungs: At least one; the first is the dense model.
      chosen: Name of the sparsest rung that keeps the accuracy budget.
    """

    rungs: tuple[Rung, ...]
    chosen: str

    def write(self, folder: Path) -> None:
        """Writes `ladder.json`; the SavedModels must be there already."""
        files.write_atomically(folder / MANIFEST, jsonable.dumps(self.to_dict(), indent=2).encode())


def rung_name(target_fraction: float, twin: Twin = Twin.PLAIN) -> str:
    """Returns the name of a rung, for example 's87.5' for 0.875, 's75-qat' for its twin."""
    return f"s{target_fraction * 100:g}" + (f"-{twin.value}" if twin.value else "")


def read(folder: Path) -> Ladder:
    """Reads `ladder.json`.

    Raises:
      DataError: There is none: the trainer did not finish.
    """
    manifest = folder / MANIFEST
    if not manifest.exists():
        raise DataError(f"A models artifact must hold {MANIFEST}; got none in {folder}.")
    return Ladder.from_json(manifest.read_text())
