"""What RegistryModel says of earlier versions and SizeLatencyEvaluator shows of them."""

from dataclasses import dataclass

from tfx_mobile.common import jsonable


@dataclass(frozen=True)
class Release(jsonable.Settings):
    """An earlier version in the registry.

    Attributes:
      version: Its number.
      published: ISO time, UTC.
      size_bytes: Of the file.
      gz_size_bytes: After gzip -9; 0 where it was not recorded.
      metrics: By metric name, as recorded with it.
      latency_p50_us: As recorded with it; None where it was not.
    """

    version: int
    published: str
    size_bytes: int
    gz_size_bytes: int
    metrics: dict[str, float]
    latency_p50_us: float | None
