"""What a channel offers after a change: pure rules over channel records, no reading, no signing.

A channel offers files, newest version first, each to a share of the devices that fit; a device takes the
first that fits. Where no file is left for everyone, the channel falls back to what it offered before, as its
own signed history says.
"""

import secrets
import time
from collections.abc import Collection, Iterable, Sequence

from tfx_mobile.common.errors import RegistryError
from tfx_mobile.registry.records import ChannelRecord, Rollout
from tfx_mobile.registry.targeting import EVERYONE_PERMILLE, Targeting

FileKey = tuple[int, str]  # version and variant


def is_for_everyone(rollout: Rollout) -> bool:
    """Returns whether every device gets this file, or one that stands before it."""
    return rollout.rollout_permille == EVERYONE_PERMILLE and rollout.targeting == Targeting()


def next_record(
    model: str,
    channel: str,
    previous: ChannelRecord | None,
    previous_sha256: str,
    rollouts: Iterable[Rollout],
    *,
    action: str,
    note: str = "",
) -> ChannelRecord:
    """Returns the record that follows `previous`, whose file has that SHA-256."""
    return ChannelRecord(
        model=model,
        channel=channel,
        sequence=previous.sequence + 1 if previous else 1,
        rollouts=reachable(rollouts),
        unix_s=int(time.time()),
        action=action,
        note=note,
        previous_sha256=previous_sha256,
    )


def reachable(rollouts: Iterable[Rollout]) -> tuple[Rollout, ...]:
    """Returns them newest version first, without those that no device gets to any more."""
    found: list[Rollout] = []
    for one in sorted(rollouts, key=lambda one: -one.version):
        if not any(_shadows(newer, one) for newer in found):
            found.append(one)
    return tuple(found)


def _shadows(newer: Rollout, older: Rollout) -> bool:
    return newer.rollout_permille == EVERYONE_PERMILLE and newer.targeting.covers(older.targeting)


def with_file(
    rollouts: Sequence[Rollout], file: FileKey, permille: int, targeting: Targeting
) -> tuple[Rollout, ...]:
    """Returns `rollouts` with one file put in, or its share and targeting changed; a salt stays its file's.

    The variants of a version are ordered by what they ask: one that asks nothing is last, and of two of these
    the newly put in is first, so it takes the other's place.
    """
    known = {(one.version, one.variant): one for one in rollouts}
    salt = known[file].salt if file in known else secrets.token_hex(8)
    changed = Rollout(*file, permille, salt, targeting)
    known = {**known, file: changed} if file in known else {file: changed, **known}
    return tuple(sorted(known.values(), key=lambda one: (-one.version, one.targeting == Targeting())))


def before(
    version: int, earlier: Iterable[ChannelRecord], offerable: Collection[FileKey]
) -> tuple[Rollout, ...]:
    """Returns what a channel offered last while its newest version was below `version`.

    Args:
      version: Records whose newest version is this or above are passed over.
      earlier: Newest record first.
      offerable: The files that are there and not withdrawn; others are left out.

    Returns:
      Rollouts, newest version first; empty when there is nothing to go back to.
    """
    for record in earlier:
        if record.version < version and (left := _offerable(record.rollouts, offerable)):
            return left
    return ()


def filled(
    rollouts: Sequence[Rollout], below: int, earlier: Sequence[ChannelRecord], offerable: Collection[FileKey]
) -> tuple[Rollout, ...]:
    """Returns `rollouts` without what is not offerable, and with what is needed so that everyone gets a file.

    Args:
      rollouts: What the channel is to offer.
      below: Only versions below this one are added: the oldest that the channel offered until now.
      earlier: The channel's records, newest first.
      offerable: The files that are there and not withdrawn.

    Returns:
      Rollouts, newest version first. Not everyone is served when the channel never did.
    """
    found = list(_offerable(rollouts, offerable))
    while not any(map(is_for_everyone, found)):
        if not (added := before(below, earlier, offerable)):
            break
        found += added
        below = min(one.version for one in added)
    return reachable(found)


def check_not_rolled_back(
    model: str, channel: str, current: int, same: Collection[int], earlier: Iterable[int]
) -> None:
    """Checks that a channel has not gone back from a version that holds the bytes to be published.

    Args:
      model: The model's name.
      channel: The channel's name.
      current: The newest version that the channel offers.
      same: The versions that hold the bytes.
      earlier: The newest version of each of the channel's earlier records; read only where there is something
        to find.

    Raises:
      RegistryError: It has.
    """
    if not (above := {version for version in same if version > current}):
        return
    for version in earlier:
        if version in above:
            raise RegistryError(
                f"Registry refused these bytes for channel '{channel}' of '{model}': they are version "
                f"{version}, from which it was rolled back. Publish another file, or name that version to "
                "offer it again."
            )


def promoted(
    model: str, source: ChannelRecord, target: ChannelRecord | None, permille: int
) -> tuple[Rollout, ...]:
    """Returns what `target` offers once it has the newest version of `source`, every variant of it.

    Raises:
      RegistryError: The source offers nothing; the target offers a newer version, or just this.
    """
    version = source.version
    if not version:
        raise RegistryError(
            f"Channel '{source.channel}' of '{model}' must offer a version to promote; it offers none."
        )
    offered = target.rollouts if target else ()
    if target and target.version > version:
        raise RegistryError(
            f"Registry refused version {version} of '{model}' for channel '{target.channel}', which offers "
            f"{target.version}: a promotion only goes up. Use a rollback to go down."
        )
    rollouts = tuple(offered)
    for one in source.rollouts:
        if one.version == version:
            rollouts = with_file(rollouts, (version, one.variant), permille, one.targeting)
    if target and rollouts == offered:
        raise RegistryError(
            f"Channel '{target.channel}' of '{model}' must not have version {version} at {permille} permille "
            "yet; it has."
        )
    return rollouts


def with_share(record: ChannelRecord, version: int, permille: int) -> tuple[Rollout, ...]:
    """Returns the rollouts of `record` with another share for every variant of `version`.

    Raises:
      RegistryError: The channel does not offer the version, or the share does not change.
    """
    name = f"Channel '{record.channel}' of '{record.model}'"
    if version not in (offered := [one.version for one in record.rollouts]):
        raise RegistryError(
            f"{name} must offer version {version}; it offers {', '.join(map(str, offered)) or 'none'}."
        )
    rollouts = record.rollouts
    for one in record.rollouts:
        if one.version == version:
            rollouts = with_file(rollouts, (version, one.variant), permille, one.targeting)
    if rollouts == record.rollouts:
        raise RegistryError(
            f"{name} must not have version {version} at {permille} permille yet; it has: nothing changes."
        )
    return rollouts


def _offerable(rollouts: Iterable[Rollout], offerable: Collection[FileKey]) -> tuple[Rollout, ...]:
    return tuple(one for one in rollouts if (one.version, one.variant) in offerable)
