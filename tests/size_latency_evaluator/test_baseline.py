"""What is refused of a baseline before anything is measured."""

import re
from pathlib import Path
from typing import Any

import pytest

from tfx_mobile.common.errors import ConfigError, DataError

pytestmark = pytest.mark.pipeline


def evaluate_against(folder: Path, **properties: str) -> None:
    from tfx.types import standard_artifacts

    from tfx_mobile.common.artifacts import ModelCandidates
    from tfx_mobile.size_latency_evaluator.config import EvaluatorConfig, SizeGate
    from tfx_mobile.size_latency_evaluator.executor import Executor

    baseline = standard_artifacts.Model()
    baseline.uri = str(folder)
    (folder / "Format-Serving").mkdir()
    (folder / "Format-Serving" / "tflite").write_bytes(b"TFL3 changed on disk")
    for key, value in properties.items():
        baseline.set_string_custom_property(key, value)
    config = EvaluatorConfig(label_key="fare", gates=(SizeGate(max_bytes=10),)).to_json()
    inputs: dict[str, Any] = {"candidates": [ModelCandidates()], "examples": [], "baseline": [baseline]}
    Executor().Do(inputs, {}, {"config": config})


def test_a_baseline_that_is_not_what_was_signed_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "Format-Serving" / "tflite"
    message = f"Baseline must have sha256 {'ab' * 6}, which the registry signed; got f62d461bb1ea at {file}."
    with pytest.raises(DataError, match=re.escape(message)):
        evaluate_against(tmp_path, sha256="ab" * 32)


def test_a_history_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape("property 'history' must be JSON;")):
        evaluate_against(tmp_path, history="[")
