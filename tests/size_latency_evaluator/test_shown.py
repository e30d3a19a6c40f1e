"""A real evaluation: what its files are made of is in it, and page, summary and schema take it."""

from typing import Any

import pytest
from tests.common.schema_check import violations
from tests.size_latency_evaluator.test_measure import evaluate
from tests.size_latency_evaluator.test_page import read

from tfx_mobile.common.inspection import inspect
from tfx_mobile.size_latency_evaluator import schema, summary
from tfx_mobile.size_latency_evaluator.config import SizeGate
from tfx_mobile.size_latency_evaluator.evaluation import Evaluation

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def found(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    folder = tmp_path_factory.mktemp("shown")
    names = ["s0-float32", "s0-int8", "s0-dynamic", "s0-noise"]
    baseline = folder / "baseline.tflite"
    baseline.write_bytes(tiny.contents["s0-off"])
    return evaluate(tiny, folder, names, SizeGate(max_ratio=0.5), baseline=baseline)


def test_the_compared_files_say_what_their_bytes_are_for(tiny: Any, found: Evaluation) -> None:
    assert found.baseline is not None
    for result, name in (
        (found.candidate(found.chosen), found.chosen),
        (found.candidate("s0-float32"), "s0-float32"),
        (found.baseline, "s0-off"),
    ):
        assert result.breakdown_bytes is not None
        assert sum(result.breakdown_bytes.values()) == len(tiny.contents[name]) == result.size_bytes
        tensors = inspect(tiny.contents[name]).tensors
        zeros = sorted(tensor.zeros_fraction for tensor in tensors if tensor.zeros_fraction is not None)
        assert sorted(weight.zeros_fraction for weight in result.weights) == zeros
        sizes = [weight.size_bytes for weight in result.weights]
        assert sizes == sorted(sizes, reverse=True)


def test_the_other_files_are_not_taken_apart(found: Evaluation) -> None:
    others = [one for one in found.candidates if one.name not in (found.chosen, found.reference)]

    assert len(others) == 2
    assert {(one.weights, one.breakdown_bytes) for one in others} == {((), None)}


def test_a_real_evaluation_fits_the_schema_and_is_shown(found: Evaluation) -> None:
    assert violations(found.to_dict(), schema.schema(), schema.schema()) == []
    shown = read(found)
    assert shown.charts == ["front", "latency", "sparsity", "breakdown"]
    assert [row[0] for row in shown.tables["candidates"]][1] == found.chosen
    assert summary.render(found).startswith(f"## \u2705 Blessed: `{found.chosen}`\n")
