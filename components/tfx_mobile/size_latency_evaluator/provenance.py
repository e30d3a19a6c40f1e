"""What an evaluation was made of, in words by key: run, versions, artifacts, rows, device.

Keys that end in `_uri` say where an artifact lies and stay in the pipeline; `publishable` leaves them out.
"""

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import tfx_mobile

_PACKAGES = ("tfx", "tensorflow", "ai-edge-litert", "numpy")
_PLACE = "_uri"
_CHUNK_BYTES = 1 << 20


def collect(
    context: Any,
    inputs: Mapping[str, Sequence[Any]],
    exec_properties: Mapping[str, Any],
    patterns: Sequence[str],
    target: str,
) -> dict[str, str]:
    """Returns the provenance of one evaluation; what a runner does not tell is left out.

    Args:
      context: The executor's, or None.
      inputs: Artifacts by the component's input.
      exec_properties: `code_fingerprint` and `runtime_version` of the component.
      patterns: Of the files of the evaluated rows.
      target: Name of the device that measured.
    """
    found = {
        "target": target,
        "eval_files_sha256": files_sha256(patterns),
        "tfx_mobile": tfx_mobile.__version__,
    }
    found["python"] = platform.python_version()
    for name in _PACKAGES:
        found[name.replace("-", "_")] = _version(name)
    for key in ("code_fingerprint", "runtime_version"):
        found[key] = str(exec_properties.get(key) or "")
    if context is not None:
        found["pipeline"] = context.pipeline_info.id if context.pipeline_info else ""
        found["pipeline_run"] = context.pipeline_run_id or ""
        found["component"] = context.pipeline_node.node_info.id if context.pipeline_node else ""
    for key, artifacts in inputs.items():
        found[f"{key}_id"] = ", ".join(str(artifact.id) for artifact in artifacts if artifact.id)
        found[f"{key}{_PLACE}"] = ", ".join(artifact.uri for artifact in artifacts)
    for artifact in inputs.get("baseline") or ():
        found["baseline_version"] = str(artifact.get_int_custom_property("version") or "")
        found["baseline_sha256"] = artifact.get_string_custom_property("sha256")
    return {key: value for key, value in found.items() if value}


def publishable(provenance: Mapping[str, str]) -> dict[str, str]:
    """Returns the provenance without the places on this machine."""
    return {key: value for key, value in provenance.items() if not key.endswith(_PLACE)}


def files_sha256(patterns: Sequence[str]) -> str:
    """Returns one sha256 over the names, sizes and contents of all files, in the order of their names.

    Args:
      patterns: As TFX's file systems take them; folders are no part of it, so a copy has the same hash.
    """
    from tfx.dsl.io import fileio

    digest = hashlib.sha256()
    paths = {path for pattern in patterns for path in fileio.glob(pattern)}
    for path in sorted(paths, key=lambda path: (path.rpartition("/")[2], path)):
        content, size = hashlib.sha256(), 0
        with fileio.open(path, "rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                content.update(chunk)
                size += len(chunk)
        digest.update(f"{path.rpartition('/')[2]}\0{size}\0{content.hexdigest()}\n".encode())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed under this name"
