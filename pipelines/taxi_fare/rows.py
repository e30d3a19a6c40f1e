"""Taxi rows in one shape, whatever they came from: column mapping, parsing, and the rules for wrong rows.

A row is a dict of the features below; missing values are 0 or the empty string, which is also what a phone
sends when it does not know. Pure: no Beam, no TensorFlow; reading files is data.py's part.

Source: the Taxi Fare course files (fare_amount, pickup_datetime, ...) and the Chicago taxi trips that ship
in the tfx package.
"""

import dataclasses
import datetime
import math
from collections.abc import Callable, Mapping, Sequence

from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.common.jsonable import Settings

LABEL = "fare"
ENGINEERED, RAW = "engineered", "raw"
FEATURE_SETS = (ENGINEERED, RAW)
INTEGERS = ("pickup_epoch_s", "passenger_count")
Value = float | int | bytes
Row = dict[str, Value]
_MAX_FLOAT32 = 3.4028234e38
_MAX_INT64 = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class Source(Settings):
    """How the columns of a source become features.

    Attributes:
      columns: Feature name to the column names it may have, the first one found wins.
      optional: Features that a source may lack in single rows; all others must have a value in every row.
      fingerprint: Of the code that reads rows, so that TFX's cache notices a change.
    """

    columns: dict[str, tuple[str, ...]]
    optional: tuple[str, ...]
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if LABEL not in self.columns or "pickup_epoch_s" not in self.columns:
            raise ConfigError(
                f"A column mapping must name a column for '{LABEL}' and 'pickup_epoch_s'; "
                f"got {sorted(self.columns)}."
            )
        if unknown := sorted(set(self.columns) - set(PARSERS)):
            raise ConfigError(
                f"A column mapping may name the features {', '.join(sorted(PARSERS))}; "
                f"got {', '.join(unknown)}."
            )

    def resolve(self, header: Sequence[str], where: str) -> dict[str, str]:
        """Returns feature name to the column that holds it.

        Args:
          header: The columns that are there.
          where: The file, for the message.

        Raises:
          DataError: A feature has no column.
        """
        found = {
            feature: next(name for name in names if name in header)
            for feature, names in self.columns.items()
            if any(name in header for name in names)
        }
        if missing := [feature for feature in self.columns if feature not in found]:
            wanted = "; ".join(
                f"'{feature}' (a column {' or '.join(self.columns[feature])})" for feature in missing
            )
            raise DataError(
                f"{where} must have a column for each feature; it lacks {wanted}. "
                f"It has {', '.join(header) or 'no columns'}. Rename the column or pass a column mapping."
            )
        return found


def parse_epoch_s(text: str) -> int:
    """Returns unix seconds of '2011-01-28 20:42:59 UTC', '2009-07-16 17:41:00+00:00' or a number of seconds.

    A time without a zone counts as UTC.

    Raises:
      ValueError: It is none of these.
    """
    cleaned = text.strip()
    if cleaned.lstrip("-").isdigit():
        seconds = int(cleaned)
        if abs(seconds) > _MAX_INT64:
            raise ValueError(f"{text!r} is no time")
        return seconds
    moment = datetime.datetime.fromisoformat(cleaned.removesuffix("UTC").strip())
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.timezone.utc)
    return int(moment.timestamp())


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not finite")
    if abs(value) > _MAX_FLOAT32:
        raise ValueError(f"{text!r} is not finite as a 32-bit float")
    return value


def _count(text: str) -> int:
    value = _finite(text)
    if value != int(value) or abs(value) > _MAX_INT64:
        raise ValueError(f"{text!r} is no count")
    return int(value)


PARSERS: dict[str, Callable[[str], Value]] = {
    LABEL: _finite,
    "pickup_epoch_s": parse_epoch_s,
    "pickup_latitude": _finite,
    "pickup_longitude": _finite,
    "dropoff_latitude": _finite,
    "dropoff_longitude": _finite,
    "passenger_count": _count,
    "trip_miles": _finite,
    "trip_seconds": _finite,
    "company": str.encode,
}

CSV_SOURCE = Source(
    columns={
        LABEL: ("fare_amount", "fare"),
        "pickup_epoch_s": ("pickup_datetime",),
        "pickup_latitude": ("pickup_latitude", "pickuplat"),
        "pickup_longitude": ("pickup_longitude", "pickuplon"),
        "dropoff_latitude": ("dropoff_latitude", "dropofflat"),
        "dropoff_longitude": ("dropoff_longitude", "dropofflon"),
        "passenger_count": ("passenger_count", "passengers"),
    },
    optional=(),
)

CHICAGO_SOURCE = Source(
    columns={
        LABEL: ("fare",),
        "pickup_epoch_s": ("trip_start_timestamp",),
        "pickup_latitude": ("pickup_latitude",),
        "pickup_longitude": ("pickup_longitude",),
        "dropoff_latitude": ("dropoff_latitude",),
        "dropoff_longitude": ("dropoff_longitude",),
        "trip_miles": ("trip_miles",),
        "trip_seconds": ("trip_seconds",),
        "company": ("company",),
    },
    optional=("dropoff_latitude", "dropoff_longitude", "trip_miles", "trip_seconds", "company"),
)


def parse_row(cells: Mapping[str, str], columns: Mapping[str, str], where: str) -> Row:
    """Returns the row's features; an empty cell becomes 0, the empty string, or NaN for the label.

    Args:
      cells: Column name to its text.
      columns: Feature name to column name, from `Source.resolve`.
      where: File and line, for the message.

    Raises:
      DataError: A cell is not what its feature asks for.
    """
    row: Row = {}
    for feature, column in columns.items():
        text = cells.get(column) or ""
        if not text.strip():
            row[feature] = b"" if feature == "company" else math.nan if feature == LABEL else 0
            continue
        try:
            row[feature] = PARSERS[feature](text)
        except ValueError as error:
            kind = "the label, a number" if feature == LABEL else f"'{feature}'"
            raise DataError(
                f"{where}: column '{column}' is read as {kind}; got {text[:40]!r} ({error})."
            ) from error
    return row


def input_problem(row: Mapping[str, Value], optional: Sequence[str]) -> str | None:
    """Returns why the row's inputs cannot be those of a taxi trip, or None. Never looks at the label.

    Applies to every split: a phone would not ask for these either.
    """
    if row.get("pickup_epoch_s", 1) == 0:
        return "pickup time missing"
    for axis, limit in (("latitude", 90), ("longitude", 180)):
        for end in ("pickup", "dropoff"):
            feature = f"{end}_{axis}"
            value = row.get(feature, 1.0)
            if value == 0 and feature not in optional:
                return f"{end} location missing"
            if abs(float(value)) > limit:
                return f"{axis} beyond {limit} degrees"
    if row.get("dropoff_latitude") and _degrees(row) > MAX_TRIP_DEGREES:
        return f"pickup and dropoff more than {MAX_TRIP_DEGREES} degrees apart"
    if not 1 <= float(row.get("passenger_count", 1)) <= MAX_PASSENGERS:
        return f"passenger count outside 1 to {MAX_PASSENGERS}"
    miles, seconds = float(row.get("trip_miles", 1)), float(row.get("trip_seconds", 1))
    if miles == 0 and seconds == 0:
        return "no distance and no time metered"
    if not (0 <= miles <= MAX_TRIP_MILES and 0 <= seconds <= MAX_TRIP_SECONDS):
        return f"trip longer than {MAX_TRIP_MILES} miles or {MAX_TRIP_SECONDS // 3600} hours"
    return None


def label_problem(row: Mapping[str, Value]) -> str | None:
    """Returns why the row's label must not be learnt from, or None. For the train split only."""
    fare = float(row[LABEL])
    return None if 0 < fare <= MAX_TRAIN_FARE else f"fare outside 0 to {MAX_TRAIN_FARE:g}"


def _degrees(row: Mapping[str, Value]) -> float:
    return math.hypot(
        float(row["pickup_latitude"]) - float(row["dropoff_latitude"]),
        float(row["pickup_longitude"]) - float(row["dropoff_longitude"]),
    )


MAX_TRIP_DEGREES = 2.0  # about 200 km
MAX_PASSENGERS = 8
MAX_TRIP_MILES = 300
MAX_TRIP_SECONDS = 12 * 3600
MAX_TRAIN_FARE = 200.0
