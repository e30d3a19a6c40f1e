"""A publisher to a bucket that is killed before one of its changes: of a lock, an object, a key.

    python dying_publisher.py create|publish BUCKET KEYS CONTENT DIES_AT

A process from the start: a fork of one that has threads may wait for ever for a lock that one of them held.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from tfx_mobile.registry.storage import FolderStorage, ObjectStorage
from tfx_mobile.registry.store import Registry

action, bucket, keys, content, dies_at = sys.argv[1:]
left = int(dies_at)


def dying(change: Callable[..., None]) -> Callable[..., None]:
    def changes(*arguments: Any, **options: Any) -> None:
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        change(*arguments, **options)

    return changes


for kind, name in (
    (ObjectStorage, "_put"),
    (ObjectStorage, "delete"),
    (FolderStorage, "write"),
    (FolderStorage, "delete"),
):
    setattr(kind, name, dying(getattr(kind, name)))
if action == "create":
    Registry.create(bucket, keys)
else:
    Registry(bucket, keys).publish("m", content.encode(), metadata={})
