"""The arithmetic: every gate fails closed, bounds agree with a second method, the choice is deterministic."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from tests.size_latency_evaluator import row_bounds

from tfx_mobile.size_latency_evaluator import core
from tfx_mobile.size_latency_evaluator.accuracy import Accuracy, Batch, Tally
from tfx_mobile.size_latency_evaluator.config import (
    FASTEST,
    SMALLEST,
    AccuracyGate,
    EvaluatorConfig,
    Gate,
    LatencyGate,
    Metric,
    Objective,
    Override,
    RelativeTo,
    SizeGate,
    Slice,
)
from tfx_mobile.size_latency_evaluator.core import Measured, ProcessSample, Rivals
from tfx_mobile.size_latency_evaluator.evaluation import CandidateResult, Status, Verdict

ROWS = 200
REFERENCE_LOSSES = np.random.default_rng(1).gamma(1.0, 4.0, ROWS)


def samples(*p50_us: float) -> tuple[ProcessSample, ...]:
    return tuple(
        ProcessSample(process, value * 1e3, value * 1.3e3, 1e6, 1e5, 100)
        for process, value in enumerate(p50_us)
    )


def tallied(**absolute_errors: Any) -> Accuracy:
    """Returns the accuracy of files with these absolute errors; 0.5 or more is a wrong class."""
    everything = (Metric.RMSE, Metric.MSE, Metric.MAE, Metric.ACCURACY)
    tally = Tally(EvaluatorConfig("fare", (SMALL,), metrics=everything), list(absolute_errors))
    errors: dict[str, Any] = {
        name: np.asarray(values, np.float64).reshape(-1, 1) for name, values in absolute_errors.items()
    }
    labels = np.zeros_like(next(iter(errors.values())))
    tally.add(Batch({"": labels}, {name: {"": e} for name, e in errors.items()}, {}, None))
    return tally.result()


def compared(found: Any, other: Any) -> tuple[Measured, Rivals]:
    """Returns the good candidate and the rivals with these absolute errors instead of theirs."""
    both = tallied(good=found, dense=other)
    reference = dataclasses.replace(REFERENCE, accuracy=both)
    return dataclasses.replace(GOOD, accuracy=both), Rivals(reference, baseline=reference)


SMALL = SizeGate(max_gz_bytes=20_000)


BOTH = tallied(dense=REFERENCE_LOSSES, good=REFERENCE_LOSSES * 0.99)
REFERENCE = Measured(
    "dense",
    sha256="a",
    size_bytes=100_000,
    gz_size_bytes=50_000,
    accuracy=BOTH,
    file="dense",
    samples=samples(10.0, 10.1, 9.9),
)
GOOD = Measured(
    "good",
    sha256="b",
    size_bytes=20_000,
    gz_size_bytes=10_000,
    accuracy=BOTH,
    file="good",
    samples=samples(5.0, 5.1, 5.0),
)
RIVALS = Rivals(REFERENCE, baseline=dataclasses.replace(REFERENCE, name="baseline"))

RELATIVE = AccuracyGate(Metric.RMSE, max_increase_fraction=0.02)
ABSOLUTE = AccuracyGate(Metric.MAE, max_value=4.5)
DROP = AccuracyGate(Metric.ACCURACY, max_drop=0.01)
LEAST = AccuracyGate(Metric.ACCURACY, min_value=0.9)
RISE = AccuracyGate(Metric.MAE, max_increase=0.1)
SHARE = AccuracyGate(Metric.ACCURACY, max_drop_fraction=0.01)
UNKNOWN = AccuracyGate("AUC", min_value=0.5)  # type: ignore[arg-type]
BY_COMPANY = AccuracyGate("AUC", min_value=0.5, slices=(Slice(("company",)),))  # type: ignore[arg-type]
RATIO = LatencyGate(max_ratio=1.05)
MICROSECONDS = LatencyGate(max_p50_us=7.0)
SMALLER = SizeGate(max_ratio=0.5)
TODAY = LatencyGate(max_ratio=1.05, relative_to=RelativeTo.BASELINE)


def change(**values: Any) -> Callable[[Measured], Measured]:
    return lambda measured: dataclasses.replace(measured, **values)


def with_losses(found: Any, other: Any = REFERENCE_LOSSES) -> Callable[[Measured], Measured]:
    """Changes the candidate or a rival to its part of a table of both."""
    return change(accuracy=tallied(good=found, dense=other))


def planted(value: float) -> Any:
    wrong = REFERENCE_LOSSES.copy()
    wrong[3] = value
    return wrong


def same(measured: Measured) -> Measured:
    return measured


def nothing(_: Measured) -> None:
    return None


EMPTY = Tally(EvaluatorConfig("fare", (SMALL,), metrics=tuple(Metric)), ["good", "dense"]).result()
SINGLE = tallied(good=[1.0], dense=[1.0])
WORSE = tallied(good=REFERENCE_LOSSES * 1.2, dense=REFERENCE_LOSSES)
ROTTEN = tallied(good=REFERENCE_LOSSES, dense=planted(math.nan))
AGAINST_PERFECT = tallied(good=np.arange(ROWS) % 2, dense=np.zeros(ROWS))


# gate, what happens to the candidate, what happens to both rivals, status, words in the reason
CLOSED: list[tuple[Any, ...]] = [
    (
        "failed candidate",
        SMALL,
        change(failure="It is broken."),
        same,
        Status.NOT_COMPARABLE,
        "It is broken.",
    ),
    ("failed, relative", RELATIVE, change(failure="Broken."), same, Status.NOT_COMPARABLE, "cannot be run"),
    ("no accuracy", ABSOLUTE, change(accuracy=None), same, Status.NOT_COMPARABLE, "was not computed"),
    ("no accuracy, relative", RELATIVE, change(accuracy=None), same, Status.NOT_COMPARABLE, "not computed"),
    ("metric not asked for", UNKNOWN, same, same, Status.NOT_COMPARABLE, "was not computed"),
    ("zero rows", ABSOLUTE, change(accuracy=EMPTY), same, Status.NOT_COMPARABLE, "zero rows"),
    ("zero rows, relative", RELATIVE, *[change(accuracy=EMPTY)] * 2, Status.NOT_COMPARABLE, "zero rows"),
    ("zero rows, accuracy", LEAST, change(accuracy=EMPTY), same, Status.NOT_COMPARABLE, "zero rows"),
    ("one row", RELATIVE, *[change(accuracy=SINGLE)] * 2, Status.NOT_COMPARABLE, "at least 2 rows; got 1"),
    ("NaN", ABSOLUTE, with_losses(planted(math.nan)), same, Status.NOT_COMPARABLE, "on 1 of 200 rows"),
    ("infinite", RELATIVE, with_losses(planted(math.inf)), same, Status.NOT_COMPARABLE, "not finite"),
    ("NaN accuracy", LEAST, with_losses(planted(math.nan)), same, Status.NOT_COMPARABLE, "not finite"),
    ("NaN reference", RELATIVE, *[change(accuracy=ROTTEN)] * 2, Status.NOT_COMPARABLE, "reference's rmse"),
    ("not predicted", ABSOLUTE, change(file="gone"), same, Status.NOT_COMPARABLE, "not predicted with"),
    ("no reference", RELATIVE, same, nothing, Status.NOT_COMPARABLE, "no reference to compare"),
    ("no reference, drop", DROP, same, nothing, Status.NOT_COMPARABLE, "no reference to compare"),
    ("no reference, size", SMALLER, same, nothing, Status.NOT_COMPARABLE, "no reference to compare"),
    ("no reference, time", RATIO, same, nothing, Status.NOT_COMPARABLE, "no reference to compare"),
    ("no baseline", TODAY, same, nothing, Status.NOT_COMPARABLE, "no baseline to compare"),
    ("failed reference", RELATIVE, same, change(failure="Gone."), Status.NOT_COMPARABLE, "Gone."),
    (
        "failed baseline",
        TODAY,
        same,
        change(failure="Gone."),
        Status.NOT_COMPARABLE,
        "The baseline cannot be run",
    ),
    (
        "other rows",
        RELATIVE,
        with_losses(REFERENCE_LOSSES),
        same,
        Status.NOT_COMPARABLE,
        "were not tallied together",
    ),
    ("all slices", BY_COMPANY, same, same, Status.NOT_COMPARABLE, "cannot be used"),
    ("no size", SMALL, change(gz_size_bytes=0), same, Status.NOT_COMPARABLE, "size is not known"),
    ("no size, relative", SMALLER, same, change(gz_size_bytes=0), Status.NOT_COMPARABLE, "size is not known"),
    ("no samples", RATIO, change(samples=()), same, Status.NOT_COMPARABLE, "latency was not measured"),
    (
        "no samples, absolute",
        MICROSECONDS,
        change(samples=()),
        same,
        Status.NOT_COMPARABLE,
        "was not measured",
    ),
    ("one process", MICROSECONDS, change(samples=samples(5.0)), same, Status.NOT_COMPARABLE, "at least 2"),
    ("one process in common", RATIO, same, change(samples=samples(9.0)), Status.NOT_COMPARABLE, "got 1"),
    (
        "crashed",
        RATIO,
        change(latency_failure="SIGSEGV.", samples=()),
        same,
        Status.NOT_COMPARABLE,
        "SIGSEGV",
    ),
    ("rival crashed", RATIO, same, change(latency_failure="It died."), Status.NOT_COMPARABLE, "It died."),
    ("zero time", RATIO, change(samples=samples(0, 5, 5)), same, Status.NOT_COMPARABLE, "not finite and pos"),
    (
        "zero time of rival",
        RATIO,
        same,
        change(samples=samples(0, 1, 1)),
        Status.NOT_COMPARABLE,
        "not finite",
    ),
    (
        "NaN time",
        MICROSECONDS,
        change(samples=samples(5, math.nan)),
        same,
        Status.NOT_COMPARABLE,
        "not finite",
    ),
    (
        "infinite time",
        RATIO,
        change(samples=samples(5, math.inf, 5)),
        same,
        Status.NOT_COMPARABLE,
        "not finite",
    ),
    ("undecided ratio", RATIO, change(samples=samples(9, 10, 12)), same, Status.FAIL, "Undecided after 3"),
    ("undecided time", MICROSECONDS, change(samples=samples(5, 7, 8)), same, Status.FAIL, "counts as a fail"),
    ("worse", RELATIVE, *[change(accuracy=WORSE)] * 2, Status.FAIL, "breaks the limit"),
    ("worse, absolute", ABSOLUTE, change(accuracy=WORSE), same, Status.FAIL, "breaks the limit"),
    ("worse by a number", RISE, *[change(accuracy=WORSE)] * 2, Status.FAIL, "breaks the limit"),
    (
        "reference is perfect",
        RELATIVE,
        *[change(accuracy=AGAINST_PERFECT)] * 2,
        Status.FAIL,
        "no error at all",
    ),
    ("drops", DROP, *[change(accuracy=AGAINST_PERFECT)] * 2, Status.FAIL, "breaks the limit"),
    ("drops by a share", SHARE, *[change(accuracy=AGAINST_PERFECT)] * 2, Status.FAIL, "breaks the limit"),
    ("too few right", LEAST, with_losses(np.arange(ROWS) % 2), same, Status.FAIL, "breaks the limit"),
    ("big", SMALL, change(gz_size_bytes=20_001), same, Status.FAIL, "breaks the limit"),
    ("big, relative", SMALLER, change(gz_size_bytes=25_001), same, Status.FAIL, "breaks the limit"),
    ("slow", RATIO, change(samples=samples(11.0, 11.1, 10.9)), same, Status.FAIL, "breaks the limit"),
]


@pytest.mark.parametrize(
    ("gate", "candidate", "rival", "status", "words"),
    [pytest.param(*case[1:], id=case[0]) for case in CLOSED],
)
def test_what_is_missing_or_wrong_never_passes(
    gate: Gate, candidate: Any, rival: Any, status: Status, words: str
) -> None:
    rivals = Rivals(rival(REFERENCE), rival(RIVALS.baseline))
    found = candidate(GOOD)

    verdict = core.judge(gate, found, rivals)

    assert verdict.status is status
    assert words in verdict.reason
    assert not verdict.lets_through
    assert not core.passes_all(found, [verdict])


@pytest.mark.parametrize("gate", [RELATIVE, ABSOLUTE, RATIO, MICROSECONDS, SMALL, SMALLER, TODAY])
def test_a_good_candidate_passes_each_gate(gate: Gate) -> None:
    verdict = core.judge(gate, GOOD, RIVALS)

    assert verdict.status is Status.PASS
    assert verdict.margin is not None
    assert verdict.margin > 0
    assert core.passes_all(GOOD, [verdict])


def test_no_gate_at_all_is_no_pass() -> None:
    assert not core.passes_all(GOOD, [])


def test_a_first_release_waives_baseline_gates_but_is_judged_by_another() -> None:
    first = Rivals(REFERENCE, baseline=None, first_release=True)
    waived, judged = core.judge(TODAY, GOOD, first), core.judge(SMALL, GOOD, first)

    assert (waived.status, waived.waived) == (Status.NOT_COMPARABLE, True)
    assert "first release" in waived.reason
    assert core.passes_all(GOOD, [waived, judged])
    assert not core.passes_all(GOOD, [waived])
    assert core.judge(RATIO, GOOD, first).status is Status.PASS


@pytest.mark.parametrize("metric", [Metric.RMSE, Metric.MSE, Metric.MAE])
def test_identical_predictions_pass_with_no_room_at_all(metric: Metric) -> None:
    twin = dataclasses.replace(REFERENCE, name="twin", sha256="other")

    verdict = core.judge(AccuracyGate(metric, max_increase_fraction=0.0), twin, RIVALS)

    assert (verdict.status, verdict.value, verdict.margin) == (Status.PASS, 0.0, 0.0)


def test_a_perfect_reference_is_met_only_by_a_perfect_candidate() -> None:
    equal, perfect = compared(np.zeros(5), np.zeros(5))

    assert core.judge(RELATIVE, equal, perfect).status is Status.PASS


# ------------------------------------------------------------------------------------------ second methods


def test_the_upper_bound_of_a_mean_is_the_one_sided_t_test_turned_round() -> None:
    values = np.random.default_rng(3).normal(1.0, 2.0, 37)

    bound = row_bounds.upper_bound_of_mean(values)

    # At the bound the one-sided test of "the mean is at least the bound" has p = 5 %.
    assert stats.ttest_1samp(values, bound, alternative="less").pvalue == pytest.approx(0.05, abs=1e-9)


def test_the_upper_bound_of_a_mean_by_hand() -> None:
    # Mean 2, standard deviation 1, n = 3, t(0.95; 2) = 2.9200 from the table.
    assert row_bounds.upper_bound_of_mean(np.array([1.0, 2.0, 3.0])) == pytest.approx(
        2 + 2.92 / 3**0.5, abs=1e-4
    )


def test_the_bound_of_a_ratio_is_where_the_paired_test_turns() -> None:
    draw = np.random.default_rng(5)
    below = draw.gamma(1.0, 3.0, 300)
    above = below * 1.05 + draw.normal(0.0, 0.5, 300)

    bound = row_bounds.upper_bound_of_ratio(above, below)

    turned = optimize.brentq(lambda ratio: row_bounds.upper_bound_of_mean(above - ratio * below), 0.9, 1.5)
    assert bound == pytest.approx(turned, rel=1e-9)


def test_the_bound_of_a_ratio_agrees_with_a_bootstrap() -> None:
    draw = np.random.default_rng(6)
    below = draw.gamma(2.0, 3.0, 400)
    above = below * 1.02 + draw.normal(0.0, 1.0, 400)
    picks = draw.integers(0, 400, (4000, 400))

    resampled = np.quantile(above[picks].mean(axis=1) / below[picks].mean(axis=1), 0.95)

    # 4,000 resamples place the 95 % quantile to about a twentieth of the standard error, 0.0004.
    assert row_bounds.upper_bound_of_ratio(above, below) == pytest.approx(resampled, abs=0.002)


@pytest.mark.parametrize("metric", [Metric.RMSE, Metric.MAE])
@pytest.mark.parametrize("limit", [0.0, 0.01, 0.03, 0.05, 0.1])
def test_the_decision_and_the_shown_bound_agree(metric: Metric, limit: float) -> None:
    draw = np.random.default_rng(9)
    worse = np.abs(REFERENCE_LOSSES * 1.05 + draw.normal(0.0, 0.05, ROWS))
    found, rivals = compared(worse, REFERENCE_LOSSES)

    verdict = core.judge(AccuracyGate(metric, max_increase_fraction=limit), found, rivals)

    assert verdict.bound is not None
    assert (verdict.status is Status.PASS) == (verdict.bound <= limit)
    assert verdict.margin == pytest.approx(limit - verdict.bound)


def test_a_candidate_at_the_limit_passes_about_one_time_in_twenty() -> None:
    draw = np.random.default_rng(12)
    gate = AccuracyGate(Metric.MAE, max_increase_fraction=0.1)
    passed = 0
    for _ in range(1000):
        below = draw.gamma(4.0, 1.0, 100)
        above = np.abs(below * 1.1 + draw.normal(0.0, 0.4, 100))
        found, rivals = compared(above, below)
        passed += core.judge(gate, found, rivals).status is Status.PASS

    # Binomial(1000, 0.05): 99.9 % lie within 28 and 73.
    assert 28 <= passed <= 73


def test_the_interval_of_processes_by_hand() -> None:
    interval = core.interval_of_processes([0.9, 1.0, 1.0 / 0.9])

    # Logs -0.10536, 0, 0.10536: mean 0, standard deviation 0.10536, t(0.95; 2) = 2.9200.
    assert interval is not None
    assert interval.estimate == pytest.approx(1.0)
    assert interval.high == pytest.approx(math.exp(2.92 * 0.10536 / 3**0.5), rel=1e-4)
    assert interval.low * interval.high == pytest.approx(1.0)


def test_swapping_the_two_files_turns_the_interval_round() -> None:
    ratios = [0.93, 1.04, 1.11, 0.98, 1.02]
    there, back = core.interval_of_processes(ratios), core.interval_of_processes([1 / r for r in ratios])

    assert there is not None
    assert back is not None
    assert (back.estimate, back.low, back.high) == pytest.approx(
        (1 / there.estimate, 1 / there.high, 1 / there.low)
    )


def decide(true_ratio: float, spread: float, limit: float, draw: np.random.Generator) -> tuple[bool, int]:
    """Plays the decision with 3, 5 and 9 processes; returns whether it passes and how many were used."""
    ratios = true_ratio * np.exp(draw.normal(0.0, spread, 9))
    rivals = Rivals(dataclasses.replace(REFERENCE, samples=samples(*[10.0] * 9)))
    gate = LatencyGate(max_ratio=limit)
    for count in (3, 5, 9):
        found = dataclasses.replace(GOOD, samples=samples(*(10.0 * ratios[:count])), looks=3)
        if not core.is_latency_open([gate], found, rivals):
            break
    return core.judge(gate, found, rivals).status is Status.PASS, count


def test_equal_files_are_hardly_ever_refused_and_a_slower_one_is_always_found() -> None:
    # Between processes, interleaved ratios of medians spread by about 1 %.
    draw = np.random.default_rng(21)
    equal = [decide(1.0, 0.01, 1.05, draw) for _ in range(2000)]
    slower = [decide(1.10, 0.01, 1.05, draw) for _ in range(2000)]

    assert np.mean([not passes for passes, _ in equal]) <= 0.01
    assert np.mean([not passes for passes, _ in slower]) >= 0.99
    assert np.mean([count for _, count in equal]) < 4


def test_a_file_at_the_limit_passes_at_most_one_time_in_twenty_over_all_looks() -> None:
    draw = np.random.default_rng(22)
    at_limit = [decide(1.05, 0.01, 1.05, draw)[0] for _ in range(2000)]

    # Binomial(2000, 0.05): 99.9 % lie below 6.5 %. Without a share for each look it is 9 to 10 %.
    assert np.mean(at_limit) <= 0.065


def test_the_interval_of_three_looks_by_hand() -> None:
    interval = core.interval_of_processes([0.9, 1.0, 1.0 / 0.9], looks=3)

    # As above with a third of 5 % on each side. With two degrees of freedom t = c sqrt(2 / (1 - c^2)) with
    # c = 2p - 1: t(0.98333; 2) = 5.3393.
    assert interval is not None
    assert interval.high == pytest.approx(math.exp(5.3393 * 0.10536 / 3**0.5), rel=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0.01, 100.0), min_size=2, max_size=9),
    st.integers(1, 5),
    st.floats(0.6, 0.99),
)
def test_more_looks_and_more_confidence_never_narrow_an_interval(
    values: list[float], looks: int, confidence: float
) -> None:
    once = core.interval_of_processes(values, confidence=confidence)
    often = core.interval_of_processes(values, looks=looks, confidence=confidence)
    surer = core.interval_of_processes(values, looks=looks, confidence=0.995)

    assert once is not None
    assert often is not None
    assert surer is not None
    assert surer.low <= often.low <= once.low <= once.high <= often.high <= surer.high
    assert once.low <= once.estimate * (1 + 1e-9)
    assert once.estimate <= once.high * (1 + 1e-9)


def test_the_same_bytes_are_exactly_as_fast() -> None:
    twin = dataclasses.replace(GOOD, sha256=REFERENCE.sha256, samples=REFERENCE.samples)

    verdict = core.judge(LatencyGate(max_ratio=1.0), twin, RIVALS)

    assert (verdict.status, verdict.value) == (Status.PASS, 1.0)


def test_only_processes_that_measured_both_are_compared() -> None:
    found = dataclasses.replace(GOOD, samples=samples(5.0, 6.0, 7.0)[1:])

    assert core.process_ratios(found, REFERENCE) == pytest.approx((6.0 / 10.1, 7.0 / 9.9))


def with_rounds(*rounds_ns: float) -> Measured:
    sample = ProcessSample(0, float(np.median(rounds_ns)), 9.0, 9.0, 9.0, 9, rounds_ns=rounds_ns)
    return Measured("x", samples=(sample,))


def test_a_ratio_is_taken_round_by_round_by_hand() -> None:
    # The machine has two paces; both files take 10 and 20 ns, but their medians fall into different phases.
    slow, fast = with_rounds(20.0, 20.0, 20.0, 10.2, 10.0), with_rounds(20.0, 20.0, 10.0, 10.0, 10.0)

    assert core.process_ratios(slow, fast) == (1.0,)
    assert slow.samples[0].p50_ns / fast.samples[0].p50_ns == 2.0


def test_without_rounds_that_pair_a_ratio_is_that_of_the_medians() -> None:
    assert core.process_ratios(with_rounds(3.0, 3.0), with_rounds(1.0, 2.0, 4.0)) == (1.5,)
    assert core.process_ratios(Measured("x", samples=samples(6.0)), with_rounds(1.0, 3.0)) == (3000.0,)


def test_a_round_of_no_time_at_all_is_no_ratio() -> None:
    assert math.isnan(core.process_ratios(with_rounds(1.0, 1.0), with_rounds(0.0, 1.0))[0])


def test_a_clear_gate_asks_for_no_more_processes() -> None:
    assert not core.is_latency_open([RATIO], GOOD, RIVALS)
    assert core.is_latency_open([RATIO], dataclasses.replace(GOOD, samples=samples(9, 10, 12)), RIVALS)
    assert not core.is_latency_open([SMALL], dataclasses.replace(GOOD, samples=samples(9, 10, 12)), RIVALS)


# ------------------------------------------------------------------------------------------ choice


def result(name: str, gz_size_bytes: int, *, passes: bool = True, **values: Any) -> CandidateResult:
    status = Status.PASS if passes else Status.FAIL
    verdict = Verdict("gz size <= 5 bytes", status, "Because.", value=7.0, limit=5.0, margin=-2.0)
    defaults: dict[str, Any] = {
        "size_bytes": 2 * gz_size_bytes,
        "verdicts": (verdict,),
        "score": math.log(gz_size_bytes / 50_000),
    }
    return CandidateResult(
        name, "s0", "int8", 0.0, gz_size_bytes=gz_size_bytes, passes=passes, **{**defaults, **values}
    )


def choose(*results: CandidateResult, override: Override | None = None) -> core.Choice:
    return core.choose(results, reference="dense", objective=SMALLEST, override=override)


def test_the_smallest_that_passes_is_chosen_whatever_the_order() -> None:
    results = [
        result("dense", 50_000),
        result("b", 9_000),
        result("a", 8_000, passes=False),
        result("c", 9_500),
    ]

    for order in (results, results[::-1]):
        choice = choose(*order)
        assert (choice.chosen, choice.blessed) == ("b", True)
        assert "the smallest of 3 candidates that pass" in choice.reason


def test_ties_go_to_fewer_bytes_and_then_to_the_name() -> None:
    assert choose(result("b", 9_000), result("a", 9_000)).chosen == "a"
    assert choose(result("b", 9_000, size_bytes=1), result("a", 9_000)).chosen == "b"


def test_nothing_passes_keeps_the_best_and_names_gate_value_limit_and_margin() -> None:
    choice = choose(result("dense", 50_000, passes=False), result("b", 9_000, passes=False))

    assert (choice.chosen, choice.blessed) == ("b", False)
    assert "'b', fails 'gz size <= 5 bytes' (value 7, limit 5, margin -2)" in choice.reason


def test_the_best_that_does_not_pass_breaks_the_fewest_gates() -> None:
    twice = result("tiny", 10, passes=False)
    twice = dataclasses.replace(twice, verdicts=twice.verdicts * 2)

    assert choose(twice, result("big", 90_000, passes=False)).chosen == "big"


def test_nothing_that_can_be_run_is_no_choice_and_no_override_helps() -> None:
    broken = result("a", 10, passes=False, failure="It is broken.")
    choice = choose(broken, override=Override("Ada", "urgent", "2026-01-31"))

    assert choice == core.Choice("", False, False, "None of 1 candidates can be run.")


def test_an_override_blesses_the_best_and_says_who() -> None:
    override = Override("Ada", "The old file crashes.", "2026-01-31")

    choice = choose(result("b", 9_000, passes=False), override=override)

    assert (choice.chosen, choice.blessed, choice.overridden) == ("b", True, True)
    assert choice.reason.startswith(
        "Override by Ada on 2026-01-31: The old file crashes. No candidate passes"
    )


def test_an_override_is_not_used_when_a_candidate_passes() -> None:
    choice = choose(result("b", 9_000), override=Override("Ada", "in case", "2026-01-31"))

    assert (choice.blessed, choice.overridden) == (True, False)


def test_a_bigger_and_slower_file_is_never_chosen() -> None:
    bigger = dataclasses.replace(GOOD, gz_size_bytes=50_001, samples=samples(10.5, 10.6, 10.4))
    unknown = dataclasses.replace(bigger, samples=())
    faster = dataclasses.replace(bigger, samples=samples(9.0, 9.0, 9.1))

    assert "bigger (50,001 > 50,000 gz bytes) and slower" in core.exclusion(bigger, REFERENCE)
    assert "its latency was not compared" in core.exclusion(unknown, REFERENCE)
    assert "no reference" in core.exclusion(GOOD, None)
    assert core.exclusion(faster, REFERENCE) == ""
    assert core.exclusion(GOOD, REFERENCE) == ""
    assert core.exclusion(REFERENCE, REFERENCE) == ""
    excluded = result("bigger", 60_000, excluded="it is bigger and slower than the reference")
    assert choose(excluded, result("dense", 50_000)).chosen == "dense"
    assert choose(excluded, result("dense", 50_000, passes=False)).chosen == "dense"
    assert not choose(excluded).blessed


def test_scores_weigh_size_and_latency_against_the_reference() -> None:
    assert core.score(SMALLEST, GOOD, REFERENCE) == pytest.approx(math.log(0.2))
    assert core.score(FASTEST, GOOD, REFERENCE) == pytest.approx(math.log(0.5))
    assert core.score(Objective(1.0, 2.0), GOOD, REFERENCE) == pytest.approx(
        math.log(0.2) + 2 * math.log(0.5)
    )
    assert core.score(FASTEST, dataclasses.replace(GOOD, samples=()), REFERENCE) is None
    assert core.score(SMALLEST, GOOD, None) is None


def test_latencies_that_differ_by_noise_have_the_same_score() -> None:
    nearly = dataclasses.replace(GOOD, samples=samples(5.01, 5.11, 5.01))

    assert core.score(FASTEST, nearly, REFERENCE) == core.score(FASTEST, GOOD, REFERENCE)
