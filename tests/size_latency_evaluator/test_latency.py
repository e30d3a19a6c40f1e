"""Measuring real files in real processes. Nothing here asserts how long anything takes."""

from pathlib import Path
from typing import Any

import pytest

from tfx_mobile.size_latency_evaluator import latency
from tfx_mobile.size_latency_evaluator.config import LatencyConfig

pytestmark = pytest.mark.pipeline

LOOKS = LatencyConfig(processes=(2, 3, 4), seconds_per_process=0.05, min_calls=7, num_rows=3)


@pytest.fixture
def paths(tiny: Any, tmp_path: Path) -> dict[str, Path]:
    found = {}
    for name in ("s0-crash", "s0-float32", "s0-int8", "s0-dynamic"):
        found[name] = tmp_path / name
        found[name].write_bytes(tiny.contents[name])
    return found


def test_every_file_but_the_crashing_one_is_measured_in_each_process(
    tiny: Any, paths: dict[str, Path]
) -> None:
    run = latency.measure(paths, tiny.columns, LOOKS, always=["s0-float32"], still_open=lambda _: set())

    assert sorted(run.failures) == ["s0-crash"]
    assert "SIGSEGV" in run.failures["s0-crash"]
    assert run.samples["s0-crash"] == ()
    for name in ("s0-float32", "s0-int8", "s0-dynamic"):
        assert [sample.process for sample in run.samples[name]] == [0, 1]
        for sample in run.samples[name]:
            assert 0 < sample.p50_ns <= sample.p90_ns
            assert sample.calls >= 7
            assert sample.init_ns > 0
            assert sample.first_call_ns > 0
    assert run.machine.processes == 2
    assert run.machine.runtime.startswith("ai-edge-litert ")


def test_only_open_files_and_what_they_are_compared_with_go_on(tiny: Any, paths: dict[str, Path]) -> None:
    looked: list[dict[str, int]] = []

    def still_open(samples: latency.Samples) -> set[str]:
        looked.append({name: len(found) for name, found in samples.items()})
        return {"s0-int8"} if len(looked) == 1 else set()

    del paths["s0-crash"]
    run = latency.measure(paths, tiny.columns, LOOKS, always=["s0-float32"], still_open=still_open)

    assert looked == [
        {"s0-float32": 2, "s0-int8": 2, "s0-dynamic": 2},
        {"s0-float32": 3, "s0-int8": 3, "s0-dynamic": 2},
    ]
    assert run.machine.processes == 3


def test_a_file_that_fails_once_has_failed_whatever_came_before(tiny: Any, paths: dict[str, Path]) -> None:
    def remove(samples: latency.Samples) -> set[str]:
        paths["s0-int8"].unlink(missing_ok=True)
        return {name for name, found in samples.items() if found}

    del paths["s0-crash"]
    run = latency.measure(paths, tiny.columns, LOOKS, always=["s0-float32"], still_open=remove)

    assert "Could not open" in run.failures["s0-int8"]
    assert run.samples["s0-int8"] == ()
    assert len(run.samples["s0-float32"]) == 4


def test_no_file_is_no_measurement(tiny: Any) -> None:
    run = latency.measure({}, tiny.columns, LOOKS, always=[], still_open=lambda _: set())

    assert (run.samples, run.failures, run.machine.processes) == ({}, {}, 0)
