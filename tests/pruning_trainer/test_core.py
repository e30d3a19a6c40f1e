"""The arithmetic of a ladder: hand cases, laws, refusals."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfx_mobile.common.errors import DataError
from tfx_mobile.common.ladder import LayerSparsity, Rung
from tfx_mobile.pruning_trainer import core


def rung(name: str, loss: float) -> Rung:
    return Rung(name=name, target_fraction=0.0, layers=(), num_parameters=1, validation={"loss": loss})


@pytest.mark.parametrize(
    ("rows", "batch", "epochs", "wanted"), [(100, 10, 4, 20), (101, 10, 4, 22), (10, 10, 2, 1), (3, 1, 1, 1)]
)
def test_the_ramp_is_half_of_the_steps(rows: int, batch: int, epochs: int, wanted: int) -> None:
    assert core.ramp_steps(rows, batch, epochs) == wanted


@given(st.integers(1, 10_000), st.integers(1, 512), st.integers(1, 50))
def test_the_ramp_ends_before_the_last_step(rows: int, batch: int, epochs: int) -> None:
    steps = -(-rows // batch) * epochs
    if steps >= 2:
        assert 1 <= core.ramp_steps(rows, batch, epochs) < steps


def test_a_rung_of_one_step_is_refused() -> None:
    with pytest.raises(
        DataError,
        match=re.escape(
            "A sparse rung needs at least 2 steps; 5 rows in batches of 8 over 1 epochs give 1. "
            "Lower batch_size or raise fine_tune_epochs."
        ),
    ):
        core.ramp_steps(5, 8, 1)


@given(st.integers(1, 100_000))
def test_masks_are_renewed_on_the_last_step_of_the_ramp(ramp: int) -> None:
    frequency, end = core.mask_updates(ramp)
    assert frequency >= 1
    assert end % frequency == 0
    assert 0.94 * ramp < end <= ramp  # at most one twentieth of the ramp is given up


def test_masks_of_a_ramp_of_419_steps_are_renewed_every_20() -> None:
    assert core.mask_updates(419) == (20, 400)


def test_zeros_are_counted_in_the_given_order() -> None:
    weights = {"b": np.array([[0.0, 1.0], [-0.0, 2.0]]), "a": np.array([1e-30, 3.0])}
    assert core.count_zeros(weights) == (LayerSparsity("b", 4, 2), LayerSparsity("a", 2, 0))


def test_a_layer_that_falls_short_is_refused_with_all_layers() -> None:
    layers = [LayerSparsity("hidden_1/kernel", 1000, 749), LayerSparsity("hidden_2/kernel", 1000, 748)]
    with pytest.raises(
        DataError,
        match=re.escape(
            "Each pruned layer must be 75.0% zeros; 'hidden_2/kernel' has 748 of 1000. All layers: "
            "hidden_1/kernel 749/1000; hidden_2/kernel 748/1000."
        ),
    ):
        core.check_sparsity(layers, 0.75)


@given(st.integers(1, 20_000_000), st.floats(0, 0.99))
def test_a_mask_rounded_as_tfmot_does_is_never_short(size: int, sparsity: float) -> None:
    kept = np.round(np.float32(size) * (np.float32(1) - np.float32(sparsity)))
    core.check_sparsity([LayerSparsity("w", size, size - max(1, int(kept)))], sparsity)


@given(st.integers(100, 100_000), st.floats(0.1, 0.99))
def test_a_hundredth_too_few_is_always_short(size: int, sparsity: float) -> None:
    zeros = int(size * (sparsity - 0.01)) - 1
    with pytest.raises(DataError, match=re.escape("Each pruned layer must be ")):
        core.check_sparsity([LayerSparsity("w", size, zeros)], sparsity)


def test_the_sparsest_rung_within_the_budget_is_chosen() -> None:
    rungs = [rung("s0", 1.0), rung("s50", 1.05), rung("s75", 1.02), rung("s90", 1.03)]
    assert core.choose_rung(rungs, 0.02) == "s75"


def test_the_dense_rung_is_chosen_when_none_keeps_the_budget() -> None:
    assert core.choose_rung([rung("s0", 1.0), rung("s50", 1.1)], 0.02) == "s0"


def test_a_rung_on_the_limit_keeps_the_budget() -> None:
    assert core.choose_rung([rung("s0", 1.0), rung("s50", 1.25)], 0.25) == "s50"


def test_a_budget_of_zero_takes_a_rung_that_is_no_worse() -> None:
    assert core.choose_rung([rung("s0", 0.0), rung("s50", 0.0)], 0.0) == "s50"
