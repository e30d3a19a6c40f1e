"""Running the taxi-fare pipeline in a workspace of a test."""

import dataclasses
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SMALL_EPOCHS = 6
COMPONENTS = [
    "ExampleGen",
    "RegistryModel",
    "StatisticsGen",
    "SchemaGen",
    "ExampleValidator",
    "Transform",
    "DimensionalityReducer",
    "PruningTrainer",
    "Quantizer",
    "SizeLatencyEvaluator",
    "RegistryPusher",
]


@dataclasses.dataclass(frozen=True)
class Finished:
    """A run that ended, and where it ran.

    Attributes:
      workspace: Its folder.
      result: Of `local.run`.
      progress: What a user saw.
    """

    workspace: Path
    result: Any
    progress: str

    @property
    def registry(self) -> Path:
        """The registry it pushed to."""
        return self.workspace / "registry"

    def uri(self, component: str, key: str) -> Path:
        """Where an output of a component is."""
        return Path(self.result.outputs[component][key][0].uri)

    def properties(self, component: str, key: str) -> dict[str, Any]:
        """The properties of an output."""
        return dict(self.result.outputs[component][key][0].properties)


def loose_gates() -> tuple[Any, ...]:
    """Returns gates that let through what only few epochs or a noisy machine make bad or slow."""
    from tfx_mobile.size_latency_evaluator.config import (
        AccuracyGate,
        LatencyGate,
        Metric,
        RelativeTo,
        SizeGate,
    )

    return (
        AccuracyGate(Metric.MAE, max_increase_fraction=0.2),
        SizeGate(max_ratio=0.5),
        LatencyGate(max_ratio=2.0),
        AccuracyGate(Metric.MAE, max_increase_fraction=0.2, relative_to=RelativeTo.BASELINE),
        SizeGate(max_ratio=1.0, relative_to=RelativeTo.BASELINE),
        LatencyGate(max_ratio=1.0, relative_to=RelativeTo.BASELINE),  # exact where it is the same file
    )


def taxi_pipeline(workspace: Path, **settings: Any) -> Any:
    """Returns the pipeline on the embedded rows with few epochs and the registry of the workspace.

    The gate on latency lets through what only a noisy machine makes slow; how latency is judged is tested
    with the evaluator.

    Args:
      workspace: Holds the registry.
      settings: More of `create_pipeline`, or instead of what is said here.
    """
    from taxi_fare import data, pipeline

    usual = {"registry": workspace / "registry", "gates": loose_gates(), "epochs": SMALL_EPOCHS}
    return pipeline.create_pipeline(data.chicago(), **{**usual, **settings})


def run_taxi(workspace: Path, **settings: Any) -> Finished:
    """Runs `taxi_pipeline` in `workspace` with the local runner; a second call continues there."""
    from tfx_mobile.orchestration import local

    stream = io.StringIO()
    result = local.run(
        taxi_pipeline(workspace, **local.local_settings(workspace), **settings),
        log_file=workspace / "run.log",
        stream=stream,
    )
    return Finished(workspace, result, stream.getvalue())


def kill_demo_in(component: str, workspace: Path) -> None:
    """Starts the demo as a user does and kills it, children too, once the component runs."""
    log = workspace / "run.log"
    process = subprocess.Popen(
        [sys.executable, "-m", "taxi_fare", "--workspace", str(workspace)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while not (log.exists() and f"Component {component} is running." in log.read_text(errors="replace")):
            if process.poll() is not None:
                raise RuntimeError(
                    f"The demo ended before {component}: {log.read_text(errors='replace')[-2000:]}"
                )
            time.sleep(0.2)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
