"""The models of one training at rising sparsity: what a `models` artifact holds.

A folder with one Keras SavedModel per rung (`<name>/`) and `ladder.json`, written last. Knows neither how a
rung is trained (pruning_trainer) nor what is made of it (quantizer).
"""

from dataclasses import dataclass
from pathlib import Path

from tfx_mobile.common import files, jsonable
from tfx_mobile.common.errors import DataError

MANIFEST = "ladder.json"


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


@dataclass(frozen=True)
class Rung(jsonable.Settings):
    """One model of the ladder.

    Attributes:
      name: 's' and the target in percent, for example 's75'; the dense model is 's0'.
      target_fraction: Share of zeros asked for, in [0, 1).
      layers: What was pruned, with the zeros counted on the saved weights.
      num_parameters: All weights of the model.
      validation: Metrics on the rows held out of the train split, by Keras metric name.
    """

    name: str
    target_fraction: float
    layers: tuple[LayerSparsity, ...]
    num_parameters: int
    validation: dict[str, float]

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


def rung_name(target_fraction: float) -> str:
    """Returns the name of a rung, for example 's87.5' for 0.875."""
    return f"s{target_fraction * 100:g}"


def read(folder: Path) -> Ladder:
    """Reads `ladder.json`.

    Raises:
      DataError: There is none: the trainer did not finish.
    """
    manifest = folder / MANIFEST
    if not manifest.exists():
        raise DataError(f"A models artifact must hold {MANIFEST}; got none in {folder}.")
    return Ladder.from_json(manifest.read_text())
