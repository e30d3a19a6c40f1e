"""Runs a compiled pipeline with kfp's own local runner, in an environment that has kfp and docker, no TFX.

`python local_runner.py PIPELINE.yaml PIPELINE_ROOT SETTINGS`: the settings are JSON for DockerRunner, in
which `mounts` is a list of [source, target].
"""

import json
import sys

import docker  # type: ignore[import-not-found]
from kfp import components, local


def main(path: str, pipeline_root: str, settings: str) -> None:
    """Runs the pipeline with the defaults of its parameters."""
    asked = json.loads(settings)
    asked["mounts"] = [
        docker.types.Mount(target, source, type="bind") for source, target in asked.pop("mounts", [])
    ]
    local.init(runner=local.DockerRunner(**asked), pipeline_root=pipeline_root)
    components.load_component_from_file(path)()


if __name__ == "__main__":
    main(*sys.argv[1:])
