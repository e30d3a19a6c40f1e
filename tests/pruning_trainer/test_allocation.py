"""How zeros are spread over weights: by hand, by law, and by linear programming."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.pruning_trainer.allocation import MAX_LEVEL, Sensitivity, allocate
from tfx_mobile.pruning_trainer.config import Weights
from tfx_mobile.pruning_trainer.masks import mask

LEVELS = (0.25, 0.5, 0.75, 0.9, 0.99)


def curve(name: str, size: int, levels: tuple[float, ...], losses: tuple[float, ...]) -> Sensitivity:
    return Sensitivity(name, size, levels, losses)


def drawn(seed: int, num_weights: int = 4) -> dict[str, Sensitivity]:
    draw = np.random.default_rng(seed)
    return {
        f"w{i}": curve(
            f"w{i}",
            100 * int(draw.integers(1, 50)),
            LEVELS,
            tuple(np.cumsum(draw.normal(0.2, 0.3, len(LEVELS)) ** 3).tolist()),
        )
        for i in range(num_weights)
    }


def zeros(curves: dict[str, Sensitivity], levels: dict[str, float]) -> int:
    return sum(round(levels[name] * each.num_weights) for name, each in curves.items())


@pytest.mark.parametrize(
    ("target", "first", "second"),
    [(0.2, 0.4, 0.0), (0.5, 0.5, 0.5), (0.6, 0.5, 0.7), (0.7, 0.5, 0.9), (0.8, 0.61, 0.99)],
)
def test_the_cheapest_zeros_are_taken_first(target: float, first: float, second: float) -> None:
    # A zero costs 0.002 in the first weight up to 50 of 100, then 0.01; 0.004 and 0.005 in the second. Beyond
    # the last level what a zero cost there goes on, to the limit of 99.
    curves = {
        "first": curve("first", 100, (0.5, 0.8), (0.1, 0.4)),
        "second": curve("second", 100, (0.5, 0.8), (0.2, 0.35)),
    }
    assert allocate(curves, target, {}) == {"first": first, "second": second}


def test_a_dip_in_a_curve_is_noise() -> None:
    curves = {
        "dips": curve("dips", 100, (0.5, 0.9), (0.5, 0.0)),
        "flat": curve("flat", 100, (0.5, 0.9), (0.1, 0.2)),
    }
    assert allocate(curves, 0.45, {}) == {"dips": 0.0, "flat": 0.9}


def test_a_loss_below_zero_is_no_gain() -> None:
    curves = {
        "gains": curve("gains", 100, (0.5, 0.9), (-0.3, 0.4)),
        "free": curve("free", 300, (0.5, 0.9), (0.0, 0.4)),
    }
    assert allocate(curves, 0.25, {}) == {"gains": 0.25, "free": 0.25}


def test_weights_that_cost_the_same_are_filled_in_step() -> None:
    curves = {name: curve(name, size, (0.99,), (0.0,)) for name, size in (("a", 100), ("b", 1000), ("c", 7))}
    levels = allocate(curves, 0.5, {})
    assert levels == {name: pytest.approx(0.5, abs=1.001 / each.num_weights) for name, each in curves.items()}


def test_the_rung_before_is_the_least() -> None:
    curves = {
        "dear": curve("dear", 100, LEVELS, (1.0, 2.0, 3.0, 4.0, 5.0)),
        "free": curve("free", 100, LEVELS, (0.0,) * 5),
    }
    assert allocate(curves, 0.6, {"dear": 0.4, "free": 0.4}) == {"dear": 0.4, "free": 0.8}


def test_one_number_of_each_weight_stays() -> None:
    curves = {
        name: curve(name, size, (0.99,), (0.0,)) for name, size in (("one", 1), ("two", 2), ("many", 997))
    }
    levels = allocate(curves, 0.98, {})
    assert (levels["one"], levels["two"]) == (0.0, 0.5)
    assert zeros(curves, levels) == 980


def test_a_weight_too_small_for_its_levels_goes_last() -> None:
    curves = {"tiny": curve("tiny", 2, (0.25,), (0.0,)), "dear": curve("dear", 98, (0.5, 0.99), (5.0, 9.0))}
    assert allocate(curves, 0.97, {}) == {"tiny": 0.0, "dear": 97 / 98}
    assert allocate(curves, 0.98, {}) == {"tiny": 0.5, "dear": 97 / 98}


@pytest.mark.parametrize(("target", "limit"), [(0.5, 0.99), (0.96, 0.99), (0.98, 0.995), (0.996, 0.999)])
def test_a_weight_may_be_sparser_than_the_rung_up_to_a_limit(target: float, limit: float) -> None:
    curves = {
        "free": curve("free", 10_000, LEVELS, (0.0,) * 5),
        "dear": curve("dear", 10_000, LEVELS, (1.0, 2.0, 3.0, 4.0, 5.0)),
    }
    assert allocate(curves, target, {})["free"] == min(limit, 2 * target)
    assert zeros(curves, allocate(curves, target, {})) == 20_000 * target


@given(seed=st.integers(0, 10_000), target=st.floats(0.3, 0.96), floor=st.floats(0, 0.3))
def test_the_zeros_are_those_asked_for_and_every_level_is_in_its_bounds(
    seed: int, target: float, floor: float
) -> None:
    curves = drawn(seed)
    total = sum(each.num_weights for each in curves.values())
    previous = {name: floor * (i % 2) for i, name in enumerate(curves)}
    levels = allocate(curves, target, previous)
    assert zeros(curves, levels) == round(target * total)
    for name, each in curves.items():
        assert previous[name] - 0.5 / each.num_weights <= levels[name] <= MAX_LEVEL
        stays = mask(np.zeros(each.num_weights, np.float32), levels[name], Weights())
        assert np.count_nonzero(~stays) == round(levels[name] * each.num_weights)


@given(seed=st.integers(0, 10_000), low=st.floats(0, 0.98), high=st.floats(0, 0.98))
def test_no_level_falls_when_the_target_rises(seed: int, low: float, high: float) -> None:
    curves = drawn(seed)
    before, after = (allocate(curves, target, {}) for target in sorted((low, high)))
    assert all(before[name] <= after[name] + 1 / curves[name].num_weights for name in curves)


@given(seed=st.integers(0, 10_000), low=st.floats(0, 0.96), high=st.floats(0, 0.96))
def test_a_rung_in_between_changes_nothing(seed: int, low: float, high: float) -> None:
    curves = drawn(seed)
    low, high = sorted((low, high))
    at_once = allocate(curves, high, {})
    by_steps = allocate(curves, high, allocate(curves, low, {}))
    assert by_steps == pytest.approx(at_once, abs=1.001 / 100)  # equal pieces are shared in whole zeros


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("target", [0.3, 0.6, 0.9])
def test_linear_programming_finds_nothing_cheaper(seed: int, target: float) -> None:
    from scipy.optimize import linprog

    curves = drawn(seed)
    total = sum(each.num_weights for each in curves.values())
    # Shares of the measured points of each curve, the dense one included; their mixtures are its hull.
    points = {
        name: (
            np.array([0, *(round(level * each.num_weights) for level in LEVELS)]),
            np.maximum.accumulate([0.0, *each.losses]),
        )
        for name, each in curves.items()
    }
    one_of_each = np.kron(np.eye(len(curves)), np.ones(len(LEVELS) + 1))
    found = linprog(
        np.concatenate([losses for _, losses in points.values()]),
        A_eq=np.vstack([one_of_each, np.concatenate([x for x, _ in points.values()])]),
        b_eq=[1.0] * len(curves) + [round(target * total)],
    )
    levels = allocate(curves, target, {})
    ours = sum(
        linprog(
            points[name][1],
            A_eq=np.vstack([np.ones(len(LEVELS) + 1), points[name][0]]),
            b_eq=[1.0, levels[name] * each.num_weights],
        ).fun
        for name, each in curves.items()
    )
    assert ours == pytest.approx(found.fun, abs=1e-6)


def test_a_target_out_of_reach_is_refused() -> None:
    curves = {name: curve(name, 4, (0.5,), (0.1,)) for name in ("a", "b")}
    with pytest.raises(
        ConfigError,
        match=re.escape(
            "A sparsity of 0.9 must be within reach; 8 weights with 0 zeros can get 6 more, "
            "and it asks for 7."
        ),
    ):
        allocate(curves, 0.9, {})


def test_a_target_below_the_rung_before_is_refused() -> None:
    curves = {"a": curve("a", 100, (0.5,), (0.1,))}
    with pytest.raises(
        ConfigError,
        match=re.escape(
            "A sparsity of 0.25 must be within reach; 100 weights with 50 zeros can get 49 more, "
            "and it asks for -25."
        ),
    ):
        allocate(curves, 0.25, {"a": 0.5})


@pytest.mark.parametrize(
    ("levels", "losses", "message"),
    [
        ((0.5, 0.9), (0.1,), "A curve must have a loss for each level; 'a' has 2 levels and 1 losses."),
        ((), (), "A curve must have a loss for each level; 'a' has 0 levels and 0 losses."),
        ((0.9, 0.5), (0.1, 0.2), "levels must rise in (0, 1); 'a' has [0.9, 0.5]."),
        ((0.0, 0.5), (0.1, 0.2), "levels must rise in (0, 1); 'a' has [0.0, 0.5]."),
        ((0.5, 1.0), (0.1, 0.2), "levels must rise in (0, 1); 'a' has [0.5, 1.0]."),
        ((0.5,), (float("inf"),), "losses must be finite; 'a' has [inf]."),
    ],
)
def test_a_curve_that_is_none_is_refused(
    levels: tuple[float, ...], losses: tuple[float, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        curve("a", 100, levels, losses)


def test_a_curve_survives_its_json() -> None:
    each = curve("a", 100, (0.5, 0.9), (0.1, -0.2))
    assert Sensitivity.from_json(each.to_json()) == each
