"""Runs PruningTrainer's executor in a process that a test can kill: python train_trips.py job.json.

The job has `config`, `examples`, `graph` and `outputs`, the folder that TFX would give the component as
`<pipeline root>/PruningTrainer`, and `execution`, which is another one in each attempt.
"""

import json
import sys
from pathlib import Path
from typing import Any


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Runs the executor; returns its output artifacts."""
    from tfx.types import artifact_utils, standard_artifacts

    from tfx_mobile.common.artifacts import ModelLadder
    from tfx_mobile.pruning_trainer.executor import Executor

    examples = standard_artifacts.Examples()
    examples.uri = job["examples"]
    examples.split_names = artifact_utils.encode_split_names(["eval", "train"])
    graph = standard_artifacts.TransformGraph()
    graph.uri = job["graph"]
    inputs: dict[str, list[Any]] = {"examples": [examples], "transform_graph": [graph]}
    if job.get("base_model"):
        base = standard_artifacts.Model()
        base.uri = job["base_model"]
        inputs["base_model"] = [base]
    outputs = {
        "model": standard_artifacts.Model(),
        "models": ModelLadder(),
        "model_run": standard_artifacts.ModelRun(),
    }
    for name, artifact in outputs.items():
        artifact.uri = str(Path(job["outputs"]) / name / str(job["execution"]))
        Path(artifact.uri).mkdir(parents=True)
    Executor().Do(inputs, {name: [artifact] for name, artifact in outputs.items()}, {"config": job["config"]})
    return outputs


if __name__ == "__main__":
    run(json.loads(Path(sys.argv[1]).read_text()))
