"""What a repository does not need any more: pure rules over versions, file names and ages.

A phone in the middle of an update may still read metadata that has just been superseded, and the files that
it names. So metadata goes some time after its successor came, and a target when no metadata that is left
names it. Does not read and does not delete.
"""

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from tfx_mobile.common.errors import RegistryError
from tfx_mobile.registry.names import model_of_role
from tfx_mobile.registry.records import withdrawn

_NUMBERED = re.compile(r"metadata/([1-9][0-9]*)\.([a-z0-9-]+)\.json")


def old_versions(
    held: Mapping[tuple[int, str], Any], offered: Collection[int], keep_versions: int
) -> set[int]:
    """Returns the versions that are older than the newest so many, not offered and not withdrawn.

    Args:
      held: The files of a model as verified targets, by version and variant.
      offered: The versions that a channel offers.
      keep_versions: >= 1, so the newest is never among them.
    """
    versions = sorted({version for version, _ in held})
    kept = set(offered) | {version for (version, _), file in held.items() if withdrawn(file)}
    return set(versions[:-keep_versions]) - kept


def superseded(ages_s: Mapping[str, float], current: Mapping[str, int], min_age_s: float) -> list[str]:
    """Returns the metadata files whose successor is older than `min_age_s`; never a root.

    A version above the current one is left by a publisher that died; it goes when it is that old itself.

    Args:
      ages_s: Each metadata file, and how long ago it was written, seconds.
      current: The version of each role's metadata that is in force; without the root.
      min_age_s: >= 0.
    """
    found = []
    for file in sorted(ages_s):
        numbered = _NUMBERED.fullmatch(file)
        if numbered is None or numbered[2] not in current:
            continue
        version, name = int(numbered[1]), numbered[2]
        if version == current[name]:
            continue
        successor = f"metadata/{version + 1}.{name}.json"
        since = ages_s.get(successor, ages_s[file]) if version < current[name] else ages_s[file]
        if since >= min_age_s:
            found.append(file)
    return found


def targets_named(file: str, content: bytes) -> set[str]:
    """Returns the target files, relative to the repository, that a metadata file of a model names.

    Raises:
      RegistryError: It is not metadata: nothing can be called unneeded.
    """
    numbered = _NUMBERED.fullmatch(file)
    if numbered is None or model_of_role(numbered[2]) is None:
        return set()
    try:
        targets = json.loads(content)["signed"]["targets"]
        named = set()
        for path, target in targets.items():
            folder, _, name = path.rpartition("/")
            named.add(f"targets/{folder}/{target['hashes']['sha256']}.{name}")
        return named
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RegistryError(
            f"{file} must be metadata, to know what it needs; it is not. Restore it from a backup, or delete "
            "it if no other file names it."
        ) from error


def is_channel_record(file: str) -> bool:
    """Returns whether the file is a channel's record, now or earlier: the channel's history, which stays."""
    return re.fullmatch(r"targets/[a-z0-9-]+/channels/[0-9a-f]{64}\.[a-z0-9-]+\.json", file) is not None
