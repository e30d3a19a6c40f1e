"""When masks are renewed: the target is always reached, sparsity never falls, and tfmot's own ramps."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.pruning_trainer.config import ConstantSparsity, PolynomialDecay
from tfx_mobile.pruning_trainer.schedules import MaskPlan, plan

RUNG = "'s75' (1000 rows in batches of 100 over 10 epochs)"
WHERE = f"rung {RUNG} has 100 steps"


def planned(
    schedule: PolynomialDecay | ConstantSparsity,
    previous: float = 0.5,
    target: float = 0.75,
    steps: int = 100,
) -> MaskPlan:
    return plan(schedule, previous, target, steps, RUNG)


def due(schedule: MaskPlan, num_steps: int = 100) -> list[int]:
    return [step for step in range(num_steps) if schedule.is_due(step)]


def test_the_target_is_reached_at_the_end_step_though_it_is_no_multiple_of_the_frequency() -> None:
    made = planned(PolynomialDecay(begin_step=3, end_step=50, frequency=20))
    assert due(made) == [3, 23, 43, 50]
    assert made.last_step == 50
    assert made.sparsity_fraction(50) == 0.75


def test_the_ramp_is_the_polynomial() -> None:
    made = planned(PolynomialDecay(0.4, begin_step=10, end_step=20, power=2.0), previous=0.3, target=0.8)
    # halfway: 0.8 + (0.4 - 0.8) * 0.5 ** 2
    assert [made.sparsity_fraction(step) for step in (9, 10, 15, 20, 99)] == pytest.approx(
        [0.3, 0.4, 0.7, 0.8, 0.8]
    )


def test_a_ramp_starts_at_the_rung_before_by_default() -> None:
    made = planned(PolynomialDecay())
    assert made.sparsity_fraction(0) == 0.5
    assert made.end_step == 50


def test_a_constant_sparsity_is_there_from_the_begin_step_on() -> None:
    made = planned(ConstantSparsity(begin_step=7))
    assert [made.sparsity_fraction(step) for step in (0, 6, 7, 8, 99)] == [0.5, 0.5, 0.75, 0.75, 0.75]
    assert due(made)[0] == 7


@pytest.mark.parametrize(
    ("num_steps", "renewals"), [(2, 2), (3, 2), (40, 21), (41, 21), (1000, 21), (79, 21)]
)
def test_masks_are_renewed_about_twenty_times_by_default(num_steps: int, renewals: int) -> None:
    made = planned(PolynomialDecay(), steps=num_steps)
    assert len(due(made, num_steps)) == pytest.approx(renewals, abs=1)
    assert made.end_step == num_steps // 2


@pytest.mark.parametrize("begin", [0, 50, 98])
def test_by_default_half_of_the_steps_after_the_begin_step_fine_tune(begin: int) -> None:
    assert planned(PolynomialDecay(begin_step=begin)).end_step == begin + (100 - begin) // 2


@given(
    num_steps=st.integers(2, 300),
    begin=st.integers(0, 299),
    length=st.none() | st.integers(0, 299),
    frequency=st.none() | st.integers(1, 400),
    power=st.floats(0.1, 9),
    initial=st.none() | st.floats(0, 0.9),
    previous=st.floats(0, 0.9),
    target=st.floats(0, 0.99),
    constant=st.booleans(),
)
def test_sparsity_never_falls_and_ends_at_the_target(
    num_steps: int,
    begin: int,
    length: int | None,
    frequency: int | None,
    power: float,
    initial: float | None,
    previous: float,
    target: float,
    constant: bool,
) -> None:
    assume(begin + (length or 0) < num_steps and previous <= target and (initial or 0) <= target)
    end = None if length is None else begin + length
    made = planned(
        ConstantSparsity(begin, end, frequency)
        if constant
        else PolynomialDecay(initial, begin, end, frequency, power),
        previous,
        target,
        num_steps,
    )
    for one in (made, made.for_weight(previous / 2, target / 2 + 0.4)):
        steps = due(one, num_steps)
        course = [one.previous] + [one.sparsity_fraction(step) for step in steps]
        assert course == sorted(course)
        assert course[-1] == one.target
        assert steps[0] == begin
        assert steps[-1] == one.last_step < num_steps


def test_a_weight_with_a_level_of_its_own_keeps_the_steps() -> None:
    made = planned(PolynomialDecay(begin_step=10, end_step=30, frequency=7)).for_weight(0.2, 0.6)
    assert due(made) == [10, 17, 24, 30]
    assert made.sparsity_fraction(10) == 0.2
    assert made.sparsity_fraction(20) == pytest.approx(0.6 - 0.4 / 8)


def test_an_initial_sparsity_is_at_most_the_level_of_the_weight() -> None:
    made = planned(PolynomialDecay(0.6)).for_weight(0.0, 0.55)
    assert made.sparsity_fraction(0) == 0.55


def test_a_constant_sparsity_is_constant_for_a_weight_with_a_level_of_its_own() -> None:
    made = planned(ConstantSparsity()).for_weight(0.1, 0.95)
    assert made.sparsity_fraction(0) == 0.95


@pytest.mark.parametrize("steps", [0, 1])
def test_a_rung_of_fewer_than_two_steps_is_refused(steps: int) -> None:
    with pytest.raises(
        ConfigError,
        match=re.escape(
            f"A sparse rung must have at least 2 steps; rung {RUNG} has {steps} steps. "
            "Lower batch_size or raise fine_tune_epochs."
        ),
    ):
        planned(PolynomialDecay(), steps=steps)


@pytest.mark.parametrize("schedule", [PolynomialDecay(end_step=100), ConstantSparsity(end_step=100)])
def test_a_schedule_that_ends_after_the_last_step_is_refused(
    schedule: PolynomialDecay | ConstantSparsity,
) -> None:
    with pytest.raises(
        ConfigError,
        match=re.escape(
            f"end_step must be at most 99, the last step; got 100; {WHERE}. "
            "Lower it, leave it out, or raise fine_tune_epochs."
        ),
    ):
        planned(schedule)


@pytest.mark.parametrize("schedule", [PolynomialDecay(begin_step=100), ConstantSparsity(100, 200)])
def test_a_schedule_that_begins_after_the_last_step_is_refused(
    schedule: PolynomialDecay | ConstantSparsity,
) -> None:
    with pytest.raises(
        ConfigError,
        match=re.escape(
            f"begin_step must be at most 99, the last step; got 100; {WHERE}. "
            "Lower it or raise fine_tune_epochs."
        ),
    ):
        planned(schedule)


def test_a_schedule_may_end_at_the_last_step() -> None:
    assert planned(PolynomialDecay(begin_step=99, end_step=99)).sparsity_fraction(99) == 0.75


def test_an_initial_sparsity_above_the_target_is_refused() -> None:
    with pytest.raises(
        ConfigError,
        match=re.escape(
            "initial_sparsity_fraction must be at most the sparsity of the rung; got 0.8; "
            f"rung {RUNG} has 0.75. "
            "Lower it, or leave it out to start at the rung before."
        ),
    ):
        planned(PolynomialDecay(0.8))


def test_a_rung_below_the_one_before_is_refused() -> None:
    with pytest.raises(
        ConfigError,
        match=re.escape(f"Sparsity must not fall; rung {RUNG} goes from 0.8 to 0.75."),
    ):
        planned(PolynomialDecay(), previous=0.8)


@pytest.mark.pipeline
@pytest.mark.parametrize(
    ("begin", "end", "frequency", "power"), [(0, 60, 6, 3.0), (5, 45, 8, 1.5), (9, 59, 1, 0.5)]
)
def test_a_ramp_is_the_one_of_tfmot(begin: int, end: int, frequency: int, power: float) -> None:
    import tensorflow as tf
    from tensorflow_model_optimization.python.core.sparsity.keras import pruning_schedule

    theirs = pruning_schedule.PolynomialDecay(0.5, 0.75, begin, end, power, frequency)
    ours = planned(PolynomialDecay(None, begin, end, frequency, power))
    for step in range(100):
        is_due, sparsity = theirs(tf.constant(step))
        assert ours.is_due(step) == bool(is_due)
        assert ours.sparsity_fraction(step) == pytest.approx(float(sparsity), rel=1e-6)


@pytest.mark.pipeline
def test_a_constant_sparsity_is_the_one_of_tfmot() -> None:
    import tensorflow as tf
    from tensorflow_model_optimization.python.core.sparsity.keras import pruning_schedule

    theirs = pruning_schedule.ConstantSparsity(0.75, 4, 44, 5)
    ours = planned(ConstantSparsity(4, 44, 5))
    for step in range(100):
        assert ours.is_due(step) == bool(theirs(tf.constant(step))[0])
        if ours.is_due(step):
            assert ours.sparsity_fraction(step) == float(theirs(tf.constant(step))[1])
