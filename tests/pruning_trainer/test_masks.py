"""Masks: exact counts, what stays masked, and tfmot's own masks as a second method."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.pruning_trainer.config import BlockPooling, Blocks, MByN, Weights
from tfx_mobile.pruning_trainer.masks import fewest_zeros, mask

AVG, MAX = BlockPooling.AVG, BlockPooling.MAX


def drawn(*shape: int, seed: int = 0) -> Any:
    return np.abs(np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def test_the_smallest_weights_go() -> None:
    saliency = np.array([[3, 1, 4], [1.5, 9, 2]], dtype=np.float32)
    assert mask(saliency, 0.5, Weights()).tolist() == [[True, False, True], [False, True, False]]


def test_of_equal_weights_the_first_stay() -> None:
    saliency = np.array([1, 5, 1, 1, 1], dtype=np.float32)
    assert mask(saliency, 0.4, Weights()).tolist() == [True, True, True, False, False]


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_a_constant_saliency_keeps_the_exact_number(value: float) -> None:
    assert mask(np.full((40, 50), value, np.float32), 0.9, Weights()).sum() == 200


def test_a_weight_of_one_number_stays_whatever_the_sparsity() -> None:
    for structure in (Weights(), Blocks(1, 4), MByN()):
        assert mask(np.zeros((1, 1), np.float32), 0.99, structure).tolist() == [[True]]


@given(
    size=st.integers(1, 400),
    sparsity=st.floats(0, 0.999),
    distinct=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_the_number_that_stays_does_not_depend_on_ties(
    size: int, sparsity: float, distinct: int, seed: int
) -> None:
    saliency = np.random.default_rng(seed).integers(0, distinct, size).astype(np.float32)
    stays = mask(saliency, sparsity, Weights())
    assert stays.sum() == max(1, round(size * (1 - sparsity)))
    assert stays.all() or saliency[stays].min() >= saliency[~stays].max()


@given(
    structure=st.sampled_from([Weights(), Blocks(2, 3, AVG), Blocks(1, 4, MAX), MByN(2, 4), MByN(3, 5)]),
    rising=st.lists(st.floats(0, 0.999), min_size=2, max_size=4).map(sorted),
    seed=st.integers(0, 99),
)
def test_what_is_masked_stays_masked_when_sparsity_rises(
    structure: Weights | Blocks | MByN, rising: list[float], seed: int
) -> None:
    draw = np.random.default_rng(seed)
    stays = np.ones((9, 7), dtype=np.bool_)
    for sparsity in rising:
        weights = draw.integers(0, 4, (9, 7)).astype(np.float32)  # retrained, with zeros of their own
        renewed = mask(np.where(stays, weights, np.float32(-1)), sparsity, structure)
        assert not (renewed & ~stays).any()
        stays = renewed


@pytest.mark.parametrize(
    ("pooling", "wanted"),
    [
        (AVG, [[1, 1, 0, 0, 1], [1, 1, 0, 0, 1], [0, 0, 0, 0, 1]]),
        (MAX, [[1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [0, 0, 0, 0, 1]]),
    ],
)
def test_blocks_at_the_edges_count_by_what_they_have(pooling: BlockPooling, wanted: list[list[int]]) -> None:
    saliency = np.array([[5, 5, 9, 0, 4], [5, 5, 0, 0, 4], [2, 2, 1, 1, 8]], dtype=np.float32)
    assert mask(saliency, 0.5, Blocks(2, 2, pooling)).astype(int).tolist() == wanted


def test_blocks_at_the_edges_are_counted_by_what_they_have() -> None:
    saliency = np.array([[9], [9], [8], [8], [1]], dtype=np.float32)  # blocks of 2, 2 and 1
    assert mask(saliency, 0.3, Blocks(2, 1)).ravel().tolist() == [True] * 4 + [False]  # not 1.5 + 2
    saliency[4] = 10
    assert mask(saliency, 0.3, Blocks(2, 1)).ravel().tolist() == [True, True, False, False, True]


def test_a_masked_block_stays_so_though_without_it_the_share_would_be_nearer() -> None:
    saliency = np.repeat([[4, 4, 1], [2, 2, 3]], 4, axis=0).astype(np.float32)  # blocks of 8, 4, 8 and 4
    stays = mask(saliency, 0.375, Blocks(4, 2))
    assert stays.sum() == 12  # 9 zeros were asked for: 12 are nearer than 4
    assert np.array_equal(
        mask(np.where(stays, saliency, np.float32(-1)), 0.375, Blocks(4, 2)), stays
    )  # not 8


@given(
    shape=st.tuples(st.integers(1, 30), st.integers(1, 12)),
    height=st.integers(1, 6),
    width=st.integers(2, 6),
    sparsity=st.floats(0, 0.999),
    seed=st.integers(0, 99),
)
def test_no_other_number_of_blocks_is_nearer_to_the_sparsity(
    shape: tuple[int, int], height: int, width: int, sparsity: float, seed: int
) -> None:
    saliency = drawn(*shape, seed=seed)
    stays = mask(saliency, sparsity, Blocks(height, width))
    corners = [(r, c) for r in range(0, shape[0], height) for c in range(0, shape[1], width)]
    parts = [np.s_[r : r + height, c : c + width] for r, c in corners]
    parts.sort(key=lambda part: float(-saliency[part].mean(dtype=np.float64)))
    sizes = np.cumsum([saliency[part].size for part in parts])  # of as many as stay: 1, 2, ...
    assert stays.sum() in sizes
    wanted = saliency.size * (1 - sparsity)
    assert abs(stays.sum() - wanted) <= np.abs(sizes - wanted).min() + 1e-9
    assert all(stays[part].all() for part in parts[: int(np.searchsorted(sizes, stays.sum())) + 1])


@pytest.mark.parametrize(
    ("structure", "shape", "sparsity", "zeros"),
    [
        (Weights(), (2,), 0.9, 1),  # one stays
        (Weights(), (256,), 0.999, 255),
        (Weights(), (11, 3), 0.5, 16),  # 16.5 may be rounded either way
        (Weights(), (7, 8), 0.0, 0),
        (MByN(2, 4), (3, 3, 1, 32), 0.5, 0),  # one channel: no group has more than the two that stay
        (MByN(2, 4), (3, 3, 3, 32), 0.5, 9 * 32),  # one of three channels
        (MByN(2, 4), (3, 3, 6, 32), 0.5, 9 * 2 * 32),  # two of four, none of two
        (MByN(2, 4), (10,), 0.5, 4),
        (Blocks(4, 1), (49, 64), 0.25, 782),  # 784 less 2
        (Blocks(4, 1), (3, 3, 1, 32), 0.5, 142),
        (Blocks(4, 1), (3, 3, 1, 32), 0.99, 3 * 3 * 32 - 4),  # a block stays
        (Blocks(4, 8), (3, 5), 0.9, 0),  # which may be all
        (Blocks(2, 4), (8, 8), 0.0, 0),
    ],
)
def test_the_fewest_zeros_by_hand(
    structure: Weights | Blocks | MByN, shape: tuple[int, ...], sparsity: float, zeros: int
) -> None:
    assert fewest_zeros(shape, sparsity, structure) == zeros


STRUCTURES = st.one_of(
    st.just(Weights()),
    st.builds(Blocks, st.integers(1, 9), st.integers(2, 9), st.sampled_from([AVG, MAX])),
    st.builds(Blocks, st.integers(2, 9), st.just(1)),
    st.builds(lambda m, more: MByN(m, m + more), st.integers(1, 5), st.integers(1, 5)),
)


@given(
    structure=STRUCTURES,
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
    sparsity=st.one_of(st.floats(0, 0.999), st.sampled_from([0.25, 0.5, 0.75, 1 / 3, 0.1, 0.9])),
    distinct=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_no_mask_has_fewer_zeros_than_the_fewest_nor_a_unit_more(
    structure: Weights | Blocks | MByN, shape: tuple[int, ...], sparsity: float, distinct: int, seed: int
) -> None:
    saliency = np.random.default_rng(seed).integers(0, distinct, shape).astype(np.float32)
    zeros = int(np.count_nonzero(~mask(saliency, sparsity, structure)))
    size, fewest = saliency.size, fewest_zeros(shape, sparsity, structure)
    unit = 1
    if isinstance(structure, Blocks):
        unit = structure.height * structure.width
    if isinstance(structure, MByN):  # a half may go either way in every group
        unit = size if structure.n * sparsity % 1 == pytest.approx(0.5) else 0
    assert fewest <= zeros <= fewest + unit


def test_a_block_that_covers_the_kernel_stays() -> None:
    assert mask(drawn(3, 5), 0.9, Blocks(4, 8)).all()


def test_blocks_of_a_convolution_are_those_of_its_matrix_product() -> None:
    saliency = drawn(3, 3, 4, 8)
    for block in (Blocks(1, 4), Blocks(4, 1)):
        stays = mask(saliency, 0.75, block)
        assert np.array_equal(stays.reshape(36, 8), mask(saliency.reshape(36, 8), 0.75, block))
        assert stays.sum() == 72


def test_a_kernel_of_one_axis_is_a_row_of_outputs() -> None:
    saliency = np.array([1, 1, 1, 1, 9, 0, 0, 0], dtype=np.float32)
    assert mask(saliency, 0.5, Blocks(1, 4)).tolist() == [False] * 4 + [True] * 4


def test_two_of_four_neighbours_along_the_inputs_go() -> None:
    saliency = np.array([[1, 8], [2, 7], [3, 6], [4, 5], [0, 9]], dtype=np.float32)
    stays = mask(saliency, 0.5, MByN(2, 4))
    assert stays.astype(int).tolist() == [[0, 1], [0, 1], [1, 0], [1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("sparsity", "zeros"), [(0.0, 0), (0.1, 0), (0.2, 1), (0.3, 1), (0.45, 2), (0.5, 2), (0.9, 2)]
)
def test_the_zeros_of_a_group_rise_to_m_and_no_further(sparsity: float, zeros: int) -> None:
    stays = mask(drawn(64, 10), sparsity, MByN(2, 4))
    assert ((~stays).reshape(16, 4, 10).sum(axis=1) == zeros).all()


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 6])
def test_m_of_n_has_m_zeros_at_its_own_sparsity(m: int) -> None:
    assert (~mask(drawn(70, 3), m / 7, MByN(m, 7))).sum() == 30 * m


@pytest.mark.parametrize("structure", [Weights(), Blocks(2, 2), MByN()])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_saliency_that_is_not_finite_is_refused(structure: Weights | Blocks | MByN, value: float) -> None:
    saliency = drawn(4, 4)
    saliency[1, 2] = value
    with pytest.raises(
        DataError,
        match=re.escape(
            "Saliencies must be finite; got 1 of 16 that are not. "
            "Look for a loss or a gradient that became NaN."
        ),
    ):
        mask(saliency, 0.5, structure)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 75.0, float("nan")])
def test_a_sparsity_that_is_no_share_is_refused(sparsity: float) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"sparsity_fraction must be in [0, 1); got {sparsity}.")):
        mask(drawn(4, 4), sparsity, Weights())


def tfmot_mask(weights: Any, sparsity: float, structure: Weights | Blocks | MByN) -> Any:
    import tensorflow as tf
    from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl, pruning_schedule

    variable = tf.Variable(weights)
    pruning = pruning_impl.Pruning(
        lambda: tf.constant(0),
        [(variable, None, None)],
        pruning_schedule.ConstantSparsity(sparsity, 0),
        (structure.height, structure.width) if isinstance(structure, Blocks) else (1, 1),
        structure.pooling.value if isinstance(structure, Blocks) else "AVG",
        (structure.m, structure.n) if isinstance(structure, MByN) else None,
    )
    return pruning._maybe_update_block_mask(variable)[1].numpy().astype(bool)


@pytest.mark.pipeline
@pytest.mark.parametrize("shape", [(20, 32), (3, 3, 8, 16), (3, 3, 16, 1), (5, 8, 6), (50, 8)])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9, 0.99])
def test_single_weights_are_masked_as_tfmot_masks_them(shape: tuple[int, ...], sparsity: float) -> None:
    weights = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    assert np.array_equal(
        mask(np.abs(weights), sparsity, Weights()), tfmot_mask(weights, sparsity, Weights())
    )


@pytest.mark.pipeline
@pytest.mark.parametrize("pooling", [AVG, MAX])
@pytest.mark.parametrize(
    ("shape", "height", "width"),
    [((20, 32), 1, 4), ((20, 32), 4, 1), ((48, 64), 1, 16), ((12, 12), 3, 2)],
)
@pytest.mark.parametrize("sparsity", [0.25, 0.8])
def test_blocks_are_masked_as_tfmot_masks_them(
    shape: tuple[int, int], height: int, width: int, pooling: BlockPooling, sparsity: float
) -> None:
    weights = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    block = Blocks(height, width, pooling)
    assert np.array_equal(mask(np.abs(weights), sparsity, block), tfmot_mask(weights, sparsity, block))


@pytest.mark.pipeline
@pytest.mark.parametrize("pooling", [AVG, MAX])
@pytest.mark.parametrize(("shape", "height", "width"), [((13, 7), 2, 2), ((10, 9), 5, 2)])
@pytest.mark.parametrize("sparsity", [0.25, 0.8])
def test_edge_blocks_are_masked_as_tfmot_masks_them_where_as_many_blocks_stay(
    shape: tuple[int, int], height: int, width: int, pooling: BlockPooling, sparsity: float
) -> None:
    weights = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    block = Blocks(height, width, pooling)
    stays = mask(np.abs(weights), sparsity, block)
    share_of_blocks = 1 - float(stays[::height, ::width].mean())
    assert np.array_equal(stays, tfmot_mask(weights, share_of_blocks, block))


@pytest.mark.pipeline
@pytest.mark.parametrize("structure", [MByN(2, 4), MByN(1, 4), MByN(3, 5)])
@pytest.mark.parametrize("shape", [(20, 32), (3, 3, 8, 16), (3, 3, 16, 1), (50, 7), (3, 6), (1, 1, 9, 4)])
def test_m_of_n_is_masked_as_tfmot_masks_it(shape: tuple[int, ...], structure: MByN) -> None:
    weights = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    sparsity = structure.m / structure.n
    assert np.array_equal(
        mask(np.abs(weights), sparsity, structure), tfmot_mask(weights, sparsity, structure)
    )


@pytest.mark.pipeline
def test_ties_of_m_of_n_are_broken_as_tfmot_breaks_them() -> None:
    weights = np.random.default_rng(4).integers(0, 3, (40, 8)).astype(np.float32)
    assert np.array_equal(mask(weights, 0.5, MByN()), tfmot_mask(weights, 0.5, MByN()))
