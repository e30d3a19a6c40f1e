"""What TFX's cache compares changes with whatever changes a verdict, and with nothing else."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from tfx_mobile.size_latency_evaluator.config import (
    FASTEST,
    AccuracyGate,
    LatencyConfig,
    LatencyGate,
    Metric,
    Override,
    RelativeTo,
    SizeGate,
)

pytestmark = pytest.mark.pipeline

GATES = (
    AccuracyGate(Metric.RMSE, max_increase_fraction=0.01),
    AccuracyGate(Metric.ACCURACY, max_drop=0.01),
    AccuracyGate(Metric.RMSE, max_value=5.0),
    AccuracyGate(Metric.ACCURACY, min_value=0.9),
    SizeGate(max_ratio=0.5),
    SizeGate(max_bytes=1000),
    SizeGate(max_gz_bytes=1000),
    LatencyGate(max_ratio=1.05),
    LatencyGate(max_p50_us=100.0),
)
SETTINGS: dict[str, Any] = {"label_key": "fare", "gates": GATES, "eval_split": "eval"}


def channels() -> dict[str, Any]:
    from tfx import types
    from tfx.types import standard_artifacts

    from tfx_mobile.common import artifacts

    kinds = {
        "candidates": artifacts.ModelCandidates,
        "examples": standard_artifacts.Examples,
        "baseline": standard_artifacts.Model,
        "upstream_blessing": standard_artifacts.ModelBlessing,
    }
    return {key: types.Channel(type=kind) for key, kind in kinds.items()}


def key(**changed: Any) -> dict[str, Any]:
    """Returns the execution properties of a component with these settings."""
    from tfx_mobile.size_latency_evaluator.component import SizeLatencyEvaluator

    settings = {"baseline": None, "upstream_blessing": None}
    inputs = {name: channel for name, channel in channels().items() if name not in settings}
    return dict(SizeLatencyEvaluator(**(inputs | SETTINGS | changed)).exec_properties)


def longer(gate: Any) -> Any:
    """Returns the gate with its limit doubled."""
    limits = [f.name for f in dataclasses.fields(gate) if f.name.startswith(("max_", "min_value"))]
    (name,) = [name for name in limits if getattr(gate, name) is not None]
    value = getattr(gate, name)
    return dataclasses.replace(gate, **{name: value * 2 if isinstance(value, int) else value / 2})


def with_gate(position: int) -> dict[str, Any]:
    gates = list(GATES)
    gates[position] = longer(gates[position])
    return {"gates": gates}


CHANGES: dict[str, dict[str, Any]] = {
    **{f"gate {position}": with_gate(position) for position in range(len(GATES))},
    "one gate less": {"gates": GATES[1:]},
    "gates in another order": {"gates": GATES[::-1]},
    "label": {"label_key": "tips"},
    "split": {"eval_split": "test"},
    "metrics": {"metrics": ["mae"]},
    "objective": {"objective": FASTEST},
    "how latency is measured": {"latency": LatencyConfig(num_rows=8)},
    "override": {"override": Override(by="Ada", reason="Fair", date="2026-11-21")},
    "batch": {"batch_size": 7},
    "threshold": {"decision_threshold": 0.4},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_a_setting_is_seen(name: str) -> None:
    assert key(**CHANGES[name]) != key()


def test_what_a_gate_compares_with_is_seen() -> None:
    gates = [*GATES[:4], SizeGate(max_ratio=0.5, relative_to=RelativeTo.BASELINE), *GATES[5:]]
    baseline = channels()["baseline"]
    assert key(baseline=baseline, gates=gates) != key(baseline=baseline)


def test_every_setting_is_in_the_key() -> None:
    import json

    from tfx_mobile.size_latency_evaluator.config import EvaluatorConfig

    assert set(json.loads(key()["config"])) == {f.name for f in dataclasses.fields(EvaluatorConfig)}


def test_whether_upstream_is_asked_is_seen() -> None:
    assert key(upstream_blessing=channels()["upstream_blessing"]) != key()


def test_the_same_pipeline_built_again_is_the_same_key() -> None:
    assert key() == key()


def test_another_runtime_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from tfx_mobile.size_latency_evaluator import latency

    before = key()
    monkeypatch.setattr(latency, "runtime_version", lambda: "another runtime")
    assert key() != before


@pytest.mark.parametrize(
    "component", ["size_latency_evaluator", "registry_model", "registry_pusher", "blessing_with_model_id"]
)
def test_all_code_that_an_executor_runs_is_in_its_fingerprint(
    component: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tfx_mobile.common import fingerprint

    counted = set(fingerprinted(component, monkeypatch))
    executor = f"tfx_mobile.{component}.executor"
    run = {name.removesuffix(".__init__") for name in fingerprint.with_imports([executor])}
    left_out = {
        name
        for name in run - {"tfx_mobile"}
        if not any(name == one or name.startswith(f"{one}.") for one in counted)
    }
    # Packages that only say what is in them, and one that only holds names for a reader.
    assert left_out <= {"tfx_mobile.registry", "tfx_mobile.size_latency_evaluator"}


def fingerprinted(component: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns the modules whose code a component gives to the cache."""
    import importlib

    import tfx_mobile as tm
    from tfx_mobile.common import fingerprint

    def names(*modules: str) -> str:
        return " ".join(modules)

    module = importlib.import_module(f"tfx_mobile.{component}.component")
    monkeypatch.setattr(fingerprint, "source_fingerprint", names)
    if hasattr(module, "source_fingerprint"):
        monkeypatch.setattr(module, "source_fingerprint", names)
    given = channels()
    make: dict[str, Callable[[], Any]] = {
        "size_latency_evaluator": lambda: tm.SizeLatencyEvaluator(**(given | SETTINGS)),
        "registry_model": lambda: tm.RegistryModel("/registry", "fares"),
        "registry_pusher": lambda: tm.RegistryPusher(
            given["baseline"], given["upstream_blessing"], "/registry", "fares"
        ),
        "blessing_with_model_id": lambda: tm.BlessingWithModelId(
            given["baseline"], given["upstream_blessing"]
        ),
    }
    properties = make[component]().exec_properties
    return str(properties.get("code") or properties.get("code_fingerprint")).split()


@pytest.mark.parametrize("name", ["candidates", "examples", "baseline", "upstream_blessing"])
def test_each_input_is_one_that_the_cache_compares(name: str) -> None:
    from tfx_mobile.size_latency_evaluator.component import SizeLatencyEvaluator

    component = SizeLatencyEvaluator(**(channels() | SETTINGS))
    assert name in component.inputs
