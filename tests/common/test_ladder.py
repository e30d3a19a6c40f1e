"""A ladder of rungs: names, sparsity and what is read back."""

import re
from pathlib import Path

import pytest

from tfx_mobile.common import ladder
from tfx_mobile.common.errors import DataError
from tfx_mobile.common.ladder import Ladder, LayerSparsity, Rung


def rung(target: float, *zeros: tuple[int, int]) -> Rung:
    layers = tuple(LayerSparsity(f"w{i}", size, count) for i, (size, count) in enumerate(zeros))
    return Rung(ladder.rung_name(target), target, layers, 100, {"mae": 1.5})


def test_what_was_written_is_read(tmp_path: Path) -> None:
    found = Ladder((rung(0.0, (10, 0)), rung(0.75, (10, 8))), "s75")
    found.write(tmp_path)
    assert ladder.read(tmp_path) == found


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    message = f"A models artifact must hold ladder.json; got none in {tmp_path}."
    with pytest.raises(DataError, match=re.escape(message)):
        ladder.read(tmp_path)


def test_sparsity_is_that_of_all_pruned_weights_together() -> None:
    assert rung(0.5, (10, 9), (90, 41)).sparsity_fraction == 0.5
    assert rung(0.0).sparsity_fraction == 0.0


@pytest.mark.parametrize(("target", "name"), [(0.0, "s0"), (0.75, "s75"), (0.875, "s87.5"), (0.999, "s99.9")])
def test_a_rung_is_named_by_its_percentage(target: float, name: str) -> None:
    assert ladder.rung_name(target) == name


def test_the_percentage_has_no_rounding_in_its_name() -> None:
    names = [ladder.rung_name(percent / 100) for percent in range(100)]
    assert names == [f"s{percent}" for percent in range(100)]
