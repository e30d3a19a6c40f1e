"""What a channel of a registry holds now, or that nothing was released yet: verified, never guessed.

Nothing was released yet when a registry that verifies has signed no such channel, or when there is neither
a registry nor a root of one. Anything between is an error. Knows no TFX and writes nothing but the client's
cache.
"""

import dataclasses
import datetime
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfx_mobile.common import jsonable
from tfx_mobile.common.errors import RegistryError
from tfx_mobile.common.releases import Release
from tfx_mobile.registry.client import Client, default_cache
from tfx_mobile.registry.records import VersionRecord
from tfx_mobile.registry_model.config import RegistryModelConfig

_TOO_LARGE = 2**63
_LOCK = ".lock"  # all that a publisher leaves that was interrupted before its first write


@dataclasses.dataclass(frozen=True)
class Current:
    """What a channel holds.

    Attributes:
      client: It has verified this; None when there is no registry.
      records: Of the channel's version, last, and of those before it; empty before the first release.
      reason: Why there are none.
    """

    client: Client | None
    records: tuple[VersionRecord, ...]
    reason: str = ""

    @property
    def key(self) -> str:
        """Returns text that differs when anything of it differs, for TFX's cache."""
        content = jsonable.dumps([dataclasses.asdict(record) for record in self.records])
        return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"


def look_up(config: RegistryModelConfig) -> Current:
    """Reads and verifies what the channel holds; fetches no model.

    Raises:
      ConfigError: The root or the cache cannot be used.
      RegistryError: The registry is gone, cannot be reached, has expired, is older than it was, or is not as
        it was signed.
    """
    client = _client(config)
    if client is None:
        return Current(None, (), f"there is no registry at {config.registry} yet")
    found = client.releases(config.model_name, config.channel)
    reason = "" if found else f"the registry has no channel '{config.channel}' of '{config.model_name}' yet"
    return Current(client, found, reason)


def release(record: VersionRecord) -> Release:
    """Returns what a version's record says in the evaluation's units; what it does not say is left out.

    Args:
      record: Its `figures` are as `evaluation.figures` makes them, or somebody else's.
    """
    figures = record.metadata.get("figures")
    said: Mapping[str, Any] = figures if isinstance(figures, dict) else {}
    metrics = said.get("metrics")
    latency_ns = _number(said.get("latency_p50_ns"))
    return Release(
        version=record.version,
        published=_utc(record.published_unix_s),
        size_bytes=record.size_bytes,
        gz_size_bytes=int(_number(said.get("gz_size_bytes")) or 0),
        metrics={
            name.removesuffix("_ppm"): value / 1e6
            for name, given in (metrics if isinstance(metrics, dict) else {}).items()
            if name.endswith("_ppm") and (value := _number(given)) is not None
        },
        latency_p50_us=None if latency_ns is None else latency_ns / 1e3,
    )


def history_json(records: Sequence[VersionRecord]) -> str:
    """Returns the releases as JSON, oldest first."""
    return jsonable.dumps([release(record).to_dict() for record in records])


def _client(config: RegistryModelConfig) -> Client | None:
    """Returns a client of the registry; None when there is neither a registry nor a root of one."""
    cache = Path(config.cache) if config.cache else default_cache(config.registry)
    if "://" in config.registry:
        return Client(config.registry, root=Path(config.root), cache=cache)
    folder = Path(os.path.abspath(config.registry))
    root = Path(config.root) if config.root else folder.with_name(f"{folder.name}.keys") / "root.json"
    try:
        has_root, has_registry = _exists(root), _holds_files(folder)
    except OSError as error:
        raise RegistryError(
            f"Registry {folder} and its root must be readable; {error.filename}: {error.strerror}. "
            "Run as a user who may read them."
        ) from error
    if has_root and not has_registry:
        raise RegistryError(
            f"Registry of the root {root} must be at {folder}; there is none. Mount it or restore it from a "
            "backup; to begin anew, remove its keys folder, too."
        )
    if has_registry and not has_root:
        raise RegistryError(
            f"Trusted root of the registry {folder} must be at {root}; there is none. Name the root.json of "
            "its keys folder as root."
        )
    return Client(str(folder), root=root, cache=cache) if has_registry else None


def _exists(path: Path) -> bool:
    """Whether there is such a path; unlike `Path.exists`, never no for one that cannot be looked at."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _holds_files(folder: Path) -> bool:
    """Whether there is a file below the folder, or a file in its place."""
    if not _exists(folder):
        return False
    if not folder.is_dir():
        return True

    def refuse(error: OSError) -> None:
        raise error

    return any(
        name != _LOCK or Path(place) != folder
        for place, _, names in os.walk(folder, onerror=refuse)
        for name in names
    )


def _utc(unix_s: int) -> str:
    """Returns ISO time; empty for what no calendar has."""
    try:
        return datetime.datetime.fromtimestamp(unix_s, datetime.timezone.utc).isoformat()
    except (ValueError, OverflowError, OSError):
        return ""


def _number(value: Any) -> float | None:
    """Returns a whole number from 0 on, as TUF signs them, as a float; None for anything else."""
    return float(value) if type(value) is int and 0 <= value < _TOO_LARGE else None
