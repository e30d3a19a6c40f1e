"""What a reduction is asked to do. Settings only; the arithmetic is in core.py."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.jsonable import Settings


@dataclasses.dataclass(frozen=True)
class PCA(Settings):
    """Principal component analysis of some features into one vector (Jolliffe 2002, chapter 2).

    Attributes:
      inputs: Transformed features, numeric and of fixed width, taken in this order.
      output: Name of the feature that holds the components.
      n_components: How many components to keep as an int >= 1, or the share of variance to keep as a
        float in (0, 1].
      standardise: Divide each feature by its standard deviation first (correlation matrix).
      whiten: Scale each component to variance 1.
      keep_inputs: Leave the input features in the Examples beside the output.
    """

    kind: ClassVar[str] = "pca"

    inputs: tuple[str, ...]
    output: str
    n_components: int | float = 0.99
    standardise: bool = True
    whiten: bool = False
    keep_inputs: bool = False

    def __post_init__(self) -> None:
        inputs: object = self.inputs  # whatever the author wrote; a string would count as its letters
        if isinstance(inputs, str) or not self.inputs or len(set(self.inputs)) != len(self.inputs):
            got = repr(inputs) if isinstance(inputs, str) else list(self.inputs)
            raise ConfigError(f"PCA.inputs must be one or more different features; got {got}.")
        if not self.output:
            raise ConfigError("PCA.output must name the feature to make; got an empty name.")
        is_share = type(self.n_components) is float and 0 < self.n_components <= 1
        is_count = type(self.n_components) is int and self.n_components >= 1
        if not (is_share or is_count):
            raise ConfigError(
                f"PCA.n_components must be a count (int >= 1) or a share of variance (float in (0, 1]); "
                f"got {self.n_components!r}."
            )

    def columns(self, widths: Mapping[str, int]) -> list[str]:
        """Returns a name for each number that goes in, `name[i]` where a feature has several."""
        return [
            name if widths[name] == 1 else f"{name}[{i}]" for name in self.inputs for i in range(widths[name])
        ]


@dataclasses.dataclass(frozen=True)
class ReducerConfig(Settings):
    """All reductions of one run.

    Attributes:
      reductions: At least one; each has its own output, and no output is another's input.
    """

    reductions: tuple[PCA, ...]

    def __post_init__(self) -> None:
        outputs = [reduction.output for reduction in self.reductions]
        if not outputs:
            raise ConfigError("DimensionalityReducer needs at least one reduction; got none.")
        if len(set(outputs)) != len(outputs):
            raise ConfigError(f"Each reduction must have an output of its own; got {outputs}.")
        inputs = {name for reduction in self.reductions for name in reduction.inputs}
        if clash := sorted(inputs & set(outputs)):
            raise ConfigError(f"An output must not be an input of a reduction; got {clash}.")

    def dropped_features(self) -> set[str]:
        """Returns the input features that do not pass through."""
        kept = {name for reduction in self.reductions if reduction.keep_inputs for name in reduction.inputs}
        return {name for reduction in self.reductions for name in reduction.inputs} - kept
