"""A Beam worker's start, as in Beam's own containers but without one: for `--environment_type=PROCESS`.

    sdk_boot.py FOLDER --id=1 --provision_endpoint=localhost:1234

Asks the runner what the pipeline is, fetches what was staged for it, installs the packages among that into a
folder that this worker alone has, and becomes Beam's worker: what it imports of ours is what travelled.
"""

import argparse
import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import grpc
from apache_beam.portability.api.org.apache.beam.model.fn_execution.v1 import (
    beam_provision_api_pb2 as provision,
)
from apache_beam.portability.api.org.apache.beam.model.fn_execution.v1 import beam_provision_api_pb2_grpc
from apache_beam.portability.api.org.apache.beam.model.job_management.v1 import (
    beam_artifact_api_pb2 as artifact,
)
from apache_beam.portability.api.org.apache.beam.model.job_management.v1 import beam_artifact_api_pb2_grpc
from apache_beam.portability.api.org.apache.beam.model.pipeline.v1 import beam_runner_api_pb2 as beam_api
from apache_beam.runners.worker import sdk_worker_main
from google.protobuf import json_format, text_format


def main() -> None:
    """Prepares the worker and becomes it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--id", required=True)
    parser.add_argument("--provision_endpoint", required=True)
    given = parser.parse_known_args()[0]
    mine = given.folder / f"{given.id}-{os.getpid()}"
    packages = mine / "packages"
    packages.mkdir(parents=True)
    (mine / "pid").write_text(str(os.getpid()))
    info = _provision(given.provision_endpoint, given.id)
    for path in _fetch(info, given.id, mine / "staged"):
        if path.suffix == ".whl":  # of Python alone: unpacking installs it, in a tenth of pip's time
            with zipfile.ZipFile(path) as archive:
                archive.extractall(packages)
    log = os.open(mine / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.path.insert(0, str(packages))
    os.environ |= {
        "WORKER_ID": given.id,
        "PIPELINE_OPTIONS": json.dumps(json_format.MessageToDict(info.pipeline_options)),
        "LOGGING_API_SERVICE_DESCRIPTOR": text_format.MessageToString(info.logging_endpoint),
        "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(info.control_endpoint),
        "SEMI_PERSISTENT_DIRECTORY": str(mine),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
    }
    sdk_worker_main.main([])  # in this process: importing Beam twice costs seconds


def _provision(endpoint: str, worker: str) -> Any:
    with grpc.insecure_channel(endpoint) as channel:
        stub = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        request = provision.GetProvisionInfoRequest()
        return stub.GetProvisionInfo(request, metadata=[("worker_id", worker)]).info


def _fetch(info: Any, worker: str, folder: Path) -> list[Path]:
    """Returns the staged files, under their names."""
    folder.mkdir()
    found = []
    with grpc.insecure_channel(info.artifact_endpoint.url) as channel:
        stub = beam_artifact_api_pb2_grpc.ArtifactRetrievalServiceStub(channel)
        metadata = [("worker_id", worker)]
        wanted = artifact.ResolveArtifactsRequest(artifacts=info.dependencies)
        for one in stub.ResolveArtifacts(wanted, metadata=metadata).replacements:
            role = beam_api.ArtifactStagingToRolePayload.FromString(one.role_payload)
            path = folder / Path(role.staged_name).name
            with path.open("wb") as stream:
                for part in stub.GetArtifact(artifact.GetArtifactRequest(artifact=one), metadata=metadata):
                    stream.write(part.data)
            found.append(path)
    return found


if __name__ == "__main__":
    main()
