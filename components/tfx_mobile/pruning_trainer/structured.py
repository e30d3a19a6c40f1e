"""Units that live and die together: neurons and filters, coupled by the layers between them.

A unit is one output of a layer that makes new ones. Adding two tensors couples the units of both; a layer
that mixes units blocks them. Knows neither Keras nor which layer does what (keras_units.py). Source of the
idea: DepGraph (Fang et al. 2023); here coupling is followed unit by unit, so that a concatenation needs no
offsets.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.common.jsonable import Settings

IntArray = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class UnitGroup(Settings):
    """Units that the same layers make: to remove one is to remove it from all of them.

    Attributes:
      name: The first of its layers; all of them, joined by '+', where another group starts with the same one.
      layers: That make the units, in the order they are called.
      num_units: >= 1.
      consumers: Other layers whose weights shrink with the units, in the order they are called.
    """

    name: str
    layers: tuple[str, ...]
    num_units: int
    consumers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Members:
    """The units of one group.

    Attributes:
      layers: That make them.
      units: Shape (num_units,): one label for each unit (`Couplings.representatives`), in the order of
        the first layer.
    """

    layers: tuple[str, ...]
    units: IntArray


class Couplings:
    """Which units are the same, as labels that are joined (a union-find).

    A label is an int that stands for one unit of one layer. A tensor is described by the labels along its
    last axis.
    """

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._blocked: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._parent)

    def new(self, count: int) -> IntArray:
        """Returns labels of `count` units that nothing is coupled with yet."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count, dtype=np.int64)

    def couple(self, one: IntArray, other: IntArray) -> None:
        """Joins labels pairwise; a unit coupled with a blocked one is blocked."""
        for left, right in np.unique(np.stack([one, other]), axis=1).T.tolist():
            a, b = sorted((self._find(left), self._find(right)))
            if a != b:
                self._parent[b] = a
                why = self._blocked.pop(b, None)
                if why is not None:
                    self._blocked.setdefault(a, why)

    def block(self, labels: IntArray, why: str) -> None:
        """Says that these units must stay; the first reason is kept."""
        for label in np.unique(labels).tolist():
            self._blocked.setdefault(self._find(label), why)

    def representatives(self, labels: IntArray) -> IntArray:
        """Returns for each label the smallest label of the same unit; same shape."""
        unique, inverse = np.unique(labels, return_inverse=True)
        found = np.array([self._find(label) for label in unique.tolist()], dtype=np.int64)
        return np.asarray(found[inverse.reshape(labels.shape)])

    def why_blocked(self, labels: IntArray) -> list[str | None]:
        """Returns for each label why it must stay; None where it need not."""
        return [self._blocked.get(label) for label in self.representatives(labels).tolist()]

    def _find(self, label: int) -> int:
        root = label
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[label] != root:
            self._parent[label], label = root, self._parent[label]
        return root


def gather(couplings: Couplings, made_by: Mapping[str, IntArray]) -> dict[str, Members]:
    """Returns the groups of units that can be removed, by name.

    Args:
      couplings: After the whole model was followed.
      made_by: By layer, in the order of the model: the labels of the units it makes.
    """
    makers: dict[int, list[str]] = {}
    for layer, labels in made_by.items():
        units = couplings.representatives(labels).tolist()
        for unit, why in zip(units, couplings.why_blocked(labels), strict=True):
            if why is None and layer not in makers.setdefault(unit, []):
                makers[unit].append(layer)
    by_layers: dict[tuple[str, ...], list[int]] = {}
    for unit, layers in makers.items():
        by_layers.setdefault(tuple(layers), []).append(unit)
    firsts = [layers[0] for layers in by_layers]
    return {
        layers[0] if firsts.count(layers[0]) == 1 else "+".join(layers): Members(layers, np.array(units))
        for layers, units in by_layers.items()
    }


def choose_units(
    groups: Iterable[UnitGroup],
    fraction: float | Mapping[str, float],
    scores: Mapping[str, npt.NDArray[Any]],
    original_units: Mapping[str, int] | None = None,
    min_units: int = 1,
) -> dict[str, list[int]]:
    """Returns the units that stay: those with the highest scores, of equal ones the first.

    Args:
      groups: From `unit_groups`; best of the dense model, for every rung.
      fraction: Share of the dense model's units to be gone, in [0, 1), rounded to whole units, halves up;
        for all groups or by group name.
      scores: By group name, shape (units,), one for each unit that the model has now.
      original_units: By group name, those of the dense model; None if `groups` are of it.
      min_units: That stay in each group; >= 1.

    Returns:
      By group name, ascending positions among the units that the model has now.

    Raises:
      ConfigError: A fraction is outside [0, 1), min_units is below 1, or a group has no fraction or scores.
      DataError: A score is not finite.
    """
    if min_units < 1:
        raise ConfigError(f"min_units must be at least 1; got {min_units}.")
    keep = {}
    for group in groups:
        share = fraction.get(group.name) if isinstance(fraction, Mapping) else fraction
        if share is None or not 0 <= share < 1:
            raise ConfigError(
                f"The share of units to remove must be in [0, 1); got {share} for group {group.name!r}."
            )
        if group.name not in scores:
            raise ConfigError(f"Group {group.name!r} must have scores; got those of {_listed(scores)}.")
        original = group.num_units if original_units is None else original_units[group.name]
        of_group = np.asarray(scores[group.name], dtype=np.float64)
        if wrong := int(np.count_nonzero(~np.isfinite(of_group))):
            raise DataError(
                f"Scores of units must be finite; got {wrong} that are not among {of_group.size} in group "
                f"{group.name!r}. Look at the weights and the gradients they come from."
            )
        stay = max(original - math.floor(share * original + 0.5), min_units)
        keep[group.name] = sorted(np.argsort(-of_group, kind="stable")[:stay].tolist())
    return keep


def check_keep(keep: Mapping[str, Sequence[int]], num_units: Mapping[str, int]) -> None:
    """Refuses units that do not exist.

    Args:
      keep: By group name, the positions that stay.
      num_units: By group name, how many units there are.

    Raises:
      ConfigError: A group is unknown, or its positions are none, not ascending, or not there.
    """
    for name, positions in keep.items():
        if name not in num_units:
            raise ConfigError(f"Group {name!r} must be one of the model's; got {_listed(num_units)}.")
        ascending = all(a < b for a, b in itertools.pairwise(positions))
        if not positions or not ascending or positions[0] < 0 or positions[-1] >= num_units[name]:
            raise ConfigError(
                f"Units to keep must be at least one, ascending and from 0 to {num_units[name] - 1}; got "
                f"{list(positions)} for group {name!r}."
            )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
