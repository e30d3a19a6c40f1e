"""What the demo prints."""

import pytest

from tfx_mobile.size_latency_evaluator.evaluation import Status, Verdict

pytestmark = pytest.mark.pipeline


def test_a_gate_that_a_first_release_waives_is_not_shown_as_one_that_could_not_be_compared() -> None:
    from taxi_fare import demo

    reason = "This is the first release: there is no baseline to compare with, so the gate is waived."
    waived = Verdict("mae increase <= 5% vs baseline", Status.NOT_COMPARABLE, reason, waived=True)
    held = Verdict("mae <= 2", Status.PASS, "It holds.", value=1.5, bound=1.75, limit=2.0, margin=0.25)
    missing = Verdict("mae <= 2", Status.NOT_COMPARABLE, "No rows.")
    assert [demo.verdict_line(verdict) for verdict in (waived, held, missing)] == [
        "  waived mae increase <= 5% vs baseline: nothing was released yet",
        "  pass   mae <= 2: got 1.5 (95 % bound 1.75), margin +0.25",
        "  not comparable mae <= 2: got -, margin -",
    ]
