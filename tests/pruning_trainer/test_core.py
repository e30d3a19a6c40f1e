"""The arithmetic of a ladder: hand cases, laws, refusals."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfx_mobile.common.errors import DataError
from tfx_mobile.common.ladder import LayerSparsity, Rung, Twin
from tfx_mobile.pruning_trainer import core
from tfx_mobile.pruning_trainer.config import BlockPooling, Blocks, MByN, Units, Weights
from tfx_mobile.pruning_trainer.masks import mask


def rung(name: str, loss: float, twin: Twin = Twin.PLAIN) -> Rung:
    return Rung(
        name=name, target_fraction=0.0, layers=(), num_parameters=1, validation={"loss": loss}, twin=twin
    )


def test_zeros_are_counted_in_the_given_order() -> None:
    weights = {"b": np.array([[0.0, 1.0], [-0.0, 2.0]]), "a": np.array([1e-30, 3.0])}
    assert core.count_zeros(weights) == (LayerSparsity("b", 4, 2), LayerSparsity("a", 2, 0))


def test_a_layer_that_falls_short_is_refused_with_all_layers() -> None:
    layers = [LayerSparsity("hidden_1/kernel", 1000, 750), LayerSparsity("hidden_2/kernel", 1000, 898)]
    with pytest.raises(
        DataError,
        match=re.escape(
            "Each pruned weight of rung 's82.5' must have the zeros asked for; 'hidden_2/kernel' has 898 of "
            "1000. All weights: hidden_1/kernel 750/1000, asked for 75.0%; hidden_2/kernel 898/1000, asked "
            "for 90.0%."
        ),
    ):
        check(layers, {"hidden_1/kernel": 0.75, "hidden_2/kernel": 0.9}, Weights(), (100, 10), "s82.5")


def check(
    layers: list[LayerSparsity],
    levels: dict[str, float],
    structure: Any,
    shape: tuple[int, ...],
    rung: str = "s50",
) -> None:
    kernels = {layer.weight: np.broadcast_to(0.0, shape) for layer in layers}
    core.check_sparsity(layers, kernels, levels, structure, rung)


@pytest.mark.parametrize(
    ("structure", "shape", "level", "enough"),
    [
        (Weights(), (11, 3), 0.5, 16),  # 16.5 zeros cannot be had
        (Weights(), (4,), 0.9, 3),  # one stays
        (Blocks(2, 4), (8, 8), 0.6, 35),  # 38.4 zeros less half a block of 8
        (MByN(2, 4), (10, 3), 0.5, 12),  # two of ten inputs fill no group of four
        (MByN(2, 4), (3, 3, 6, 2), 0.5, 36),  # nor do two of six channels, at each position
    ],
)
def test_a_weight_may_be_short_by_what_its_masks_cannot_have_and_no_more(
    structure: Any, shape: tuple[int, ...], level: float, enough: int
) -> None:
    size = int(np.prod(shape))
    check([LayerSparsity("w", size, enough)], {"w": level}, structure, shape)
    with pytest.raises(DataError, match=re.escape(f"'w' has {enough - 1} of {size}.")):
        check([LayerSparsity("w", size, enough - 1)], {"w": level}, structure, shape)


@given(st.integers(1, 20_000_000), st.floats(0, 0.99))
def test_a_mask_with_the_nearest_number_of_zeros_is_never_short(size: int, sparsity: float) -> None:
    check([LayerSparsity("w", size, round(size * sparsity))], {"w": sparsity}, Weights(), (size,))


@given(st.integers(100, 100_000), st.floats(0.1, 0.99))
def test_a_hundredth_too_few_is_always_short(size: int, sparsity: float) -> None:
    zeros = int(size * (sparsity - 0.01)) - 1
    with pytest.raises(DataError, match=re.escape("Each pruned weight of rung 's50' must have ")):
        check([LayerSparsity("w", size, zeros)], {"w": sparsity}, Weights(), (size,))


STRUCTURES = st.one_of(
    st.just(Weights()),
    st.builds(Blocks, st.integers(1, 9), st.integers(2, 9), st.sampled_from(BlockPooling)),
    st.builds(Blocks, st.integers(2, 9), st.just(1)),
    st.builds(lambda m, more: MByN(m, m + more), st.integers(1, 5), st.integers(1, 5)),
)


@given(
    structure=STRUCTURES,
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
    sparsity=st.one_of(st.floats(0, 0.999), st.sampled_from([0.25, 0.5, 0.75, 1 / 3, 0.1, 0.9])),
    seed=st.integers(0, 99),
)
def test_a_mask_is_enough_for_its_own_sparsity_and_a_unit_less_is_not(
    structure: Any, shape: tuple[int, ...], sparsity: float, seed: int
) -> None:
    saliency = np.random.default_rng(seed).random(shape, np.float32) + 1
    kernel = np.where(mask(saliency, sparsity, structure), saliency, 0)
    enough = core.count_zeros({"w": kernel})
    core.check_sparsity(enough, {"w": kernel}, {"w": sparsity}, structure, "s50")
    unit = 1 + (structure.height * structure.width if isinstance(structure, Blocks) else 1)
    if isinstance(structure, MByN) and structure.n * sparsity % 1 == pytest.approx(0.5):
        unit = kernel.size  # a half may be rounded either way in every group
    if enough[0].num_zeros < unit:
        return
    kernel.flat[np.flatnonzero(kernel == 0)[:unit]] = 1
    with pytest.raises(DataError, match=re.escape("Each pruned weight of rung 's50' must have ")):
        core.check_sparsity(core.count_zeros({"w": kernel}), {"w": kernel}, {"w": sparsity}, structure, "s50")


def test_units_that_are_removed_leave_no_zeros_to_count() -> None:
    check([LayerSparsity("w", 100, 0)], {"w": 0.5}, Units(), (10, 10))


def test_the_sparsest_rung_within_the_budget_is_chosen() -> None:
    rungs = [rung("s0", 1.0), rung("s50", 1.05), rung("s75", 1.02), rung("s90", 1.03)]
    assert core.choose_rung(rungs, 0.02) == "s75"


def test_the_dense_rung_is_chosen_when_none_keeps_the_budget() -> None:
    assert core.choose_rung([rung("s0", 1.0), rung("s50", 1.1)], 0.02) == "s0"


def test_a_rung_on_the_limit_keeps_the_budget() -> None:
    assert core.choose_rung([rung("s0", 1.0), rung("s50", 1.25)], 0.25) == "s50"


def test_a_budget_of_zero_takes_a_rung_that_is_no_worse() -> None:
    assert core.choose_rung([rung("s0", 0.0), rung("s50", 0.0)], 0.0) == "s50"


def test_a_twin_is_never_the_chosen_rung() -> None:
    rungs = [rung("s0", 1.0), rung("s50", 1.0), rung("s50-qat", 0.9, Twin.QUANTIZATION_AWARE)]
    assert core.choose_rung(rungs, 0.0) == "s50"


def test_a_budget_over_a_loss_below_zero_is_above_it() -> None:
    assert core.choose_rung([rung("s0", -2.0), rung("s50", -1.97), rung("s75", -1.9)], 0.02) == "s50"
