"""What the chosen file says of how it was chosen."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common import tflite_metadata
from tfx_mobile.common.candidates import gz_size_bytes
from tfx_mobile.common.interpreter import TFLiteModel
from tfx_mobile.common.tflite_metadata import Feature, ModelMetadata
from tfx_mobile.size_latency_evaluator.config import RelativeTo, SizeGate
from tfx_mobile.size_latency_evaluator.evaluation import Evaluation, Status, Verdict
from tfx_mobile.size_latency_evaluator.stamp import stamp, unstamped, unstamped_file

from .test_evaluation import SAMPLE

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def described(tiny: Any) -> bytes:
    """A file with the quantizer's metadata."""
    content = tiny.contents["s0-float32"]
    types = {np.float32: "float32", np.int64: "int64"}
    inputs = tuple(
        Feature(name, types.get(spec.dtype, "string")) for name, spec in TFLiteModel(content).inputs.items()
    )
    label = Feature("fare", "float32", "USD")
    return tflite_metadata.write(content, ModelMetadata("fares", "3", inputs, label))


def judged(*gates: SizeGate) -> Evaluation:
    """Returns the sample with these gates, and one that measured 0.123456."""
    verdict = Verdict("rmse increase <= 1% vs reference", Status.PASS, "It is.", 0.123456, None, 0.01, 1.0)
    unknown = Verdict("latency ratio <= 1 vs baseline", Status.NOT_COMPARABLE, "None yet.", waived=True)
    results = tuple(
        dataclasses.replace(one, verdicts=(verdict, unknown)) if one.name == SAMPLE.chosen else one
        for one in SAMPLE.candidates
    )
    return dataclasses.replace(SAMPLE, gates=gates, candidates=results)


def test_the_file_says_what_its_gates_measured_and_in_which_run(described: bytes, tiny: Any) -> None:
    stamped = stamp(described, judged(), "2026-11-21T19:00")
    found = tflite_metadata.read(stamped)
    assert found is not None
    assert found.gates == {"rmse increase <= 1% vs reference": 0.1235}
    assert found.pipeline_run == "2026-11-21T19:00"
    assert (found.name, found.label.unit) == ("fares", "USD")
    before, after = (TFLiteModel(content).predict(tiny.columns) for content in (described, stamped))
    np.testing.assert_array_equal(before, after)


def test_a_file_without_our_metadata_stays_as_it_is(tiny: Any) -> None:
    content = tiny.contents["s0-int8"]
    assert stamp(content, judged(), "run") == content


@pytest.mark.parametrize("limit", ["max_bytes", "max_gz_bytes"])
def test_a_file_that_would_become_too_large_for_its_gate_stays_as_it_is(limit: str, described: bytes) -> None:
    size_bytes = len(described) if limit == "max_bytes" else gz_size_bytes(described)
    assert stamp(described, judged(SizeGate(**{limit: size_bytes})), "run") == described
    assert stamp(described, judged(SizeGate(**{limit: size_bytes + 1000})), "run") != described


def test_what_phones_run_goes_out_again_byte_by_byte(described: bytes, tmp_path: Path) -> None:
    first = stamp(described, judged(), "run 1")
    released = tmp_path / "tflite"
    released.write_bytes(first)
    assert stamp(described, judged(), "run 2", released=released) == first
    no_larger = judged(SizeGate(max_ratio=1.0, relative_to=RelativeTo.BASELINE))
    assert stamp(described, no_larger, "run 2", released=released) == first
    released.write_bytes(described)  # a release whose stamp did not fit
    assert stamp(described, judged(), "run 2", released=released) == described


def test_what_phones_run_is_stamped_anew_where_it_is_another_file_or_not_there(
    described: bytes, tmp_path: Path
) -> None:
    wanted = stamp(described, judged(), "run 2")
    metadata = tflite_metadata.read(described)
    assert metadata is not None
    other = tflite_metadata.write(described, dataclasses.replace(metadata, version="4"))
    for content in (other, described[:-3], b"no file at all"):
        (tmp_path / "tflite").write_bytes(content)
        assert stamp(described, judged(), "run 2", released=tmp_path / "tflite") == wanted
    assert stamp(described, judged(), "run 2", released=tmp_path / "none") == wanted


@pytest.mark.parametrize("limit", ["max_bytes", "max_gz_bytes"])
def test_an_old_stamp_that_does_not_fit_a_new_gate_is_left_out(
    limit: str, described: bytes, tmp_path: Path
) -> None:
    (tmp_path / "tflite").write_bytes(stamp(described, judged(), "run 1"))
    size_bytes = len(described) if limit == "max_bytes" else gz_size_bytes(described)
    tight = judged(SizeGate(**{limit: size_bytes}))
    assert stamp(described, tight, "run 2", released=tmp_path / "tflite") == described


def test_a_stamp_comes_off_without_a_trace(described: bytes, tiny: Any, tmp_path: Path) -> None:
    assert unstamped(stamp(described, judged(), "run")) == described
    for content in (described, tiny.contents["s0-int8"], b"TFL3 no flatbuffer"):
        assert unstamped(content) == content
    (tmp_path / "plain").mkdir()
    (tmp_path / "tflite").write_bytes(stamp(described, judged(), "run"))
    assert unstamped_file(tmp_path / "tflite", tmp_path / "plain").read_bytes() == described
    (tmp_path / "tflite").write_bytes(described)
    assert unstamped_file(tmp_path / "tflite", tmp_path / "plain") == tmp_path / "tflite"
    assert unstamped_file(tmp_path / "none", tmp_path / "plain") == tmp_path / "none"
