"""Units coupled by hand, and which of them stay."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.pruning_trainer.structured import Couplings, UnitGroup, check_keep, choose_units, gather

GROUP = UnitGroup("conv", ("conv", "shortcut"), 4, ("dense",))


def test_units_of_an_addition_are_one_group() -> None:
    couplings = Couplings()
    one, other, alone = couplings.new(3), couplings.new(3), couplings.new(2)
    couplings.couple(one, other)
    groups = gather(couplings, {"one": one, "other": other, "alone": alone})
    assert {name: (group.layers, group.units.tolist()) for name, group in groups.items()} == {
        "one": (("one", "other"), [0, 1, 2]),
        "alone": (("alone",), [6, 7]),
    }


def test_a_concatenation_that_is_added_splits_a_layer_into_two_groups() -> None:
    couplings = Couplings()
    left, right, whole = couplings.new(2), couplings.new(1), couplings.new(3)
    couplings.couple(whole, np.concatenate([left, right]))
    groups = gather(couplings, {"whole": whole, "left": left, "right": right})
    assert {name: len(group.units) for name, group in groups.items()} == {"whole+left": 2, "whole+right": 1}


def test_a_unit_coupled_with_a_blocked_one_is_blocked() -> None:
    for first in ("block", "couple"):
        couplings = Couplings()
        one, other, third = couplings.new(2), couplings.new(2), couplings.new(2)
        if first == "block":
            couplings.block(third[:1], "it is an output")
        couplings.couple(one, other)
        couplings.couple(other, third)
        if first == "couple":
            couplings.block(third[:1], "it is an output")
        assert couplings.why_blocked(one) == ["it is an output", None]
        assert len(gather(couplings, {"one": one})["one"].units) == 1


@given(
    pairs=st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30), blocked=st.integers(0, 19)
)
def test_coupling_is_an_equivalence_and_a_block_reaches_all_of_a_class(
    pairs: list[tuple[int, int]], blocked: int
) -> None:
    couplings = Couplings()
    labels = couplings.new(20)
    couplings.block(labels[blocked : blocked + 1], "here")
    classes = [{label} for label in range(20)]
    for one, other in pairs:
        couplings.couple(np.array([one]), np.array([other]))
        joined = classes[one] | classes[other]
        for label in joined:
            classes[label] = joined
    assert couplings.representatives(labels).tolist() == [min(classes[label]) for label in range(20)]
    assert [why == "here" for why in couplings.why_blocked(labels)] == [
        blocked in classes[label] for label in range(20)
    ]


def test_the_units_with_the_lowest_scores_go() -> None:
    scores = {"conv": np.array([0.4, 0.1, 0.3, 0.2])}
    assert choose_units([GROUP], 0.5, scores) == {"conv": [0, 2]}
    assert choose_units([GROUP], {"conv": 0.25}, scores) == {"conv": [0, 2, 3]}


def test_of_equal_units_the_first_stay() -> None:
    assert choose_units([GROUP], 0.5, {"conv": np.ones(4)}) == {"conv": [0, 1]}


def test_the_share_is_one_of_the_dense_model() -> None:
    assert choose_units([GROUP], 0.5, {"conv": np.array([3.0, 1.0, 2.0])}) == {"conv": [0, 2]}
    now = UnitGroup("conv", ("conv",), 3, ())
    assert choose_units([now], 0.5, {"conv": np.array([3.0, 1.0, 2.0])}, {"conv": 4}) == {"conv": [0, 2]}
    assert choose_units([GROUP], 0.25, {"conv": np.array([3.0, 1.0])}) == {"conv": [0, 1]}


def test_half_a_unit_is_removed_and_less_is_not() -> None:
    five = UnitGroup("conv", ("conv",), 5, ())
    assert [len(choose_units([five], share, {"conv": np.ones(5)})["conv"]) for share in (0.09, 0.1, 0.5)] == [
        5,
        4,
        2,
    ]


def test_as_many_units_stay_as_asked_for_and_at_least_one() -> None:
    assert choose_units([GROUP], 0.99, {"conv": np.arange(4.0)}) == {"conv": [3]}
    assert choose_units([GROUP], 0.99, {"conv": np.arange(4.0)}, min_units=3) == {"conv": [1, 2, 3]}


def test_two_rungs_remove_no_other_number_than_one() -> None:
    scores = np.random.default_rng(0).random(4)
    first = choose_units([GROUP], 0.25, {"conv": scores})["conv"]
    second = choose_units([GROUP], 0.5, {"conv": scores[first]})["conv"]
    assert [first[unit] for unit in second] == choose_units([GROUP], 0.5, {"conv": scores})["conv"]


@pytest.mark.parametrize(
    ("fraction", "scores", "min_units", "error", "message"),
    [
        (
            1.0,
            {"conv": np.ones(4)},
            1,
            ConfigError,
            "The share of units to remove must be in [0, 1); got 1.0 for group 'conv'.",
        ),
        (
            {"dense": 0.5},
            {"conv": np.ones(4)},
            1,
            ConfigError,
            "The share of units to remove must be in [0, 1); got None for group 'conv'.",
        ),
        (0.5, {"dense": np.ones(4)}, 1, ConfigError, "Group 'conv' must have scores; got those of 'dense'."),
        (0.5, {"conv": np.ones(4)}, 0, ConfigError, "min_units must be at least 1; got 0."),
        (
            0.5,
            {"conv": np.array([1, np.nan, np.inf, 0])},
            1,
            DataError,
            "Scores of units must be finite; got 2 that are not among 4 in group 'conv'. Look at the weights "
            "and the gradients they come from.",
        ),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(fraction, scores, min_units, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=re.escape(message)):
        choose_units([GROUP], fraction, scores, min_units=min_units)


@pytest.mark.parametrize("positions", [[], [1, 0], [0, 0], [-1, 0], [3, 4]])
def test_units_that_are_not_there_are_refused(positions: list[int]) -> None:
    message = (
        f"Units to keep must be at least one, ascending and from 0 to 3; got {positions} for group 'conv'."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_keep({"conv": positions}, {"conv": 4})


def test_a_group_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=re.escape("Group 'cnov' must be one of the model's; got 'conv'.")):
        check_keep({"cnov": [0]}, {"conv": 4})


def test_a_group_is_the_same_after_a_round_trip_through_json() -> None:
    assert UnitGroup.from_json(GROUP.to_json()) == GROUP
