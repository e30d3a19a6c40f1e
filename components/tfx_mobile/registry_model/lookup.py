"""What a channel of a registry holds now, or that nothing was released yet: verified, never guessed.

Nothing was released yet when a registry that verifies has signed no such channel, when there is neither a
registry nor a root of one, or when a mirror says so. Anything between is an error. Knows no TFX and
writes nothing but the client's cache.
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
from tfx_mobile.registry.adapter import NothingReleased
from tfx_mobile.registry.backend import Resolved, open_backend
from tfx_mobile.registry.client import Client, default_cache
from tfx_mobile.registry.records import VersionRecord
from tfx_mobile.registry_model.config import RegistryModelConfig, is_mirror

_TOO_LARGE = 2**63
_LOCK = ".lock"  # all that a publisher leaves that was interrupted before its first write


@dataclasses.dataclass(frozen=True)
class Current:
    """What a channel holds.

    Attributes:
      client: It has verified this; None when there is no registry, and of a mirror.
      records: Of the channel's version, last, and of those before it; empty before the first release.
      reason: Why there are none.
      resolved: What a mirror gave, its hash checked; None when it gave nothing, and of the signed store.
    """

    client: Client | None
    records: tuple[VersionRecord, ...]
    reason: str = ""
    resolved: Resolved | None = None

    @property
    def key(self) -> str:
        """Returns text that differs when anything of it differs, for TFX's cache."""
        content = jsonable.dumps([dataclasses.asdict(record) for record in self.records])
        return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"


def look_up(config: RegistryModelConfig) -> Current:
    """Reads and verifies what the channel holds; fetches no model but from a mirror.

    Raises:
      ConfigError: The root or the cache cannot be used.
      RegistryError: The registry is gone, cannot be reached, has expired, is older than it was, or is not as
        it was signed.
    """
    if is_mirror(config.registry):
        return _mirrored(config)
    client = _client(config)
    if client is None:
        return Current(None, (), f"there is no registry at {config.registry} yet")
    found = client.releases(config.model_name, config.channel)
    reason = "" if found else f"channel '{config.channel}' of '{config.model_name}' offers nothing yet"
    return Current(client, found, reason)


def _mirrored(config: RegistryModelConfig) -> Current:
    """Reads what a registry without signatures gives; it keeps no record of each earlier version."""
    backend = open_backend(config.registry)
    try:
        resolved = backend.resolve(config.model_name, config.channel)
    except NothingReleased:
        return Current(None, (), f"channel '{config.channel}' of '{config.model_name}' offers nothing yet")
    events = backend.history(config.model_name, config.channel)
    offered = [event.unix_s for event in events if event.version == resolved.version]
    record = VersionRecord(
        model=config.model_name,
        version=resolved.version,
        variant=resolved.variant,
        sha256=resolved.sha256,
        size_bytes=len(resolved.content),
        published_unix_s=offered[0] if offered else 0,
        metadata=resolved.metadata,
    )
    return Current(None, (record,), resolved=resolved)


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
