"""What a component needs of the machine it runs on: CPU, memory, an accelerator, volumes and secrets.

Attached to a component where the pipeline is written and read by `compiling`. A local run takes no notice.
Does not know Kubernetes' other settings (node selectors, tolerations, service accounts).
Source: Kubernetes, "Resource Management for Pods and Containers"; kubernetes_executor_config.proto of
Kubeflow Pipelines 2.5 to 2.17.
"""

import math
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Any, TypeVar

from tfx_mobile.common.errors import ConfigError

ComponentT = TypeVar("ComponentT")

_UNITS: Mapping[str, int] = MappingProxyType(
    {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
    | {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
)
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(k|M|G|T|Ki|Mi|Gi|Ti|)")
_MIN_CPU, _MIN_MEMORY_BYTES = 0.001, 2**20
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # of Kubernetes; here the volume's name, too
_RESOURCES, _MOUNTS = "_tfx_mobile_resources", "_tfx_mobile_mounts"


@dataclass(frozen=True)
class Resources:
    """What one component is given, and at most gets.

    Attributes:
      cpu: Cores, at least 0.001; None leaves it to the cluster.
      memory: As Kubernetes writes it, such as '8Gi' (2**30 bytes each) or '500M' (10**6); at least 1 MiB.
      accelerator: Its name where the pipeline runs: 'nvidia.com/gpu' on Kubernetes, 'NVIDIA_TESLA_T4' on
        Vertex AI.
      accelerator_count: How many; with an accelerator at least 1.

    Raises:
      ConfigError: A value is out of its range, nothing is asked for, or accelerator and count do not agree.
    """

    cpu: float | None = None
    memory: str | None = None
    accelerator: str = ""
    accelerator_count: int = 0

    def __post_init__(self) -> None:
        if self.cpu is None and self.memory is None and not self.accelerator and not self.accelerator_count:
            raise ConfigError(
                "Resources must ask for cpu, memory or an accelerator; got none. Leave them out."
            )
        if self.cpu is not None:
            number = isinstance(self.cpu, int | float) and not isinstance(self.cpu, bool)
            if not number or not math.isfinite(self.cpu) or self.cpu < _MIN_CPU:
                raise ConfigError(f"cpu must be a number of cores of at least {_MIN_CPU}; got {self.cpu!r}.")
        if self.memory is not None and self.memory_bytes < _MIN_MEMORY_BYTES:
            raise ConfigError(
                f"memory must be at least 1Mi; got {self.memory!r}, which is {self.memory_bytes} bytes. "
                "Write the unit, for example '8Gi'."
            )
        count = self.accelerator_count
        if not isinstance(count, int) or isinstance(count, bool) or (count >= 1) != bool(self.accelerator):
            raise ConfigError(
                "accelerator and accelerator_count must be given together, the count from 1 on; got "
                f"{self.accelerator!r} and {count!r}. Write accelerator='nvidia.com/gpu', "
                "accelerator_count=1."
            )

    @property
    def memory_bytes(self) -> int:
        """Returns the memory in bytes, rounded up; 0 when none is asked for."""
        if self.memory is None:
            return 0
        found = _QUANTITY.fullmatch(self.memory) if isinstance(self.memory, str) else None
        if found is None:
            raise ConfigError(
                f"memory must be a number with one of the units Ki, Mi, Gi, Ti, k, M, G, T; got "
                f"{self.memory!r}. Write for example '8Gi'."
            )
        return math.ceil(Decimal(found[1]) * _UNITS[found[2]])


@dataclass(frozen=True)
class Volume:
    """A PersistentVolumeClaim of the namespace the run is in, and where the component finds it.

    Attributes:
      claim: Its name; at most 63 letters, since Kubeflow Pipelines names the pod's volume after it.
      path: Absolute.

    Raises:
      ConfigError: The name or the path cannot be one.
    """

    claim: str
    path: str

    def __post_init__(self) -> None:
        _check_mount("A volume's claim", self.claim, self.path)

    @property
    def name(self) -> str:
        """Returns the volume's name in the pod."""
        return self.claim


@dataclass(frozen=True)
class Secret:
    """A Secret of the namespace the run is in, each of its keys a read-only file in a folder.

    Attributes:
      name: At most 63 letters, as for a volume.
      path: Absolute.

    Raises:
      ConfigError: The name or the path cannot be one.
    """

    name: str
    path: str

    def __post_init__(self) -> None:
        _check_mount("A secret's name", self.name, self.path)


Mount = Volume | Secret


def with_resources(component: ComponentT, resources: Resources) -> ComponentT:
    """Says what a component is given where it runs on a cluster, and returns the component.

    Args:
      component: Any TFX component.
      resources: In place of what was said before.
    """
    setattr(component, _RESOURCES, resources)
    return component


def with_mounts(component: ComponentT, *mounts: Mount) -> ComponentT:
    """Adds volumes and secrets that a component finds on a cluster, and returns the component.

    Args:
      component: Any TFX component.
      *mounts: Each with a name and a path of its own.

    Raises:
      ConfigError: Two of the component's mounts share a name or a path.
    """
    together = (*mounts_of(component), *mounts)
    check_mounts(str(getattr(component, "id", component)), together)
    setattr(component, _MOUNTS, together)
    return component


def resources_of(component: Any) -> Resources | None:
    """Returns what was said by `with_resources`."""
    return getattr(component, _RESOURCES, None)


def mounts_of(component: Any) -> tuple[Mount, ...]:
    """Returns what was added by `with_mounts`, in order."""
    return getattr(component, _MOUNTS, ())


def check_mounts(component_id: str, mounts: Sequence[Mount]) -> None:
    """Checks what one component mounts.

    Raises:
      ConfigError: Two share a name or a path.
    """
    names, paths = [mount.name for mount in mounts], [mount.path for mount in mounts]
    for what, values in (("name", names), ("path", paths)):
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise ConfigError(
                f"Each mount of a component must have a {what} of its own, as Kubernetes wants it; got "
                f"{', '.join(map(repr, twice))} twice for {component_id!r}. Mount each once."
            )


def _check_mount(what: str, name: str, path: str) -> None:
    if not _LABEL.fullmatch(name):
        raise ConfigError(
            f"{what} must be 1 to 63 of a-z, 0-9 and '-', without '-' at an end; got {name!r}. Name an "
            "object of the cluster."
        )
    if not path.startswith("/") or path == "/" or ":" in path or posixpath.normpath(path) != path:
        raise ConfigError(
            f"A mount's path must be absolute, below / and without ':', '..' or a '/' at the end; got "
            f"{path!r} for {name!r}. Write for example '/registry'."
        )
