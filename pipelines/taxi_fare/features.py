"""Features of a taxi trip, as the Taxi Fare course builds them, for whatever columns the source has.

Everything is written with operations that TFLite has as built-ins, so that the phone computes exactly this:
comparisons instead of `tft.bucketize`, dense strings, integer arithmetic for the time of day.
"""

import math
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from taxi_fare.rows import FEATURE_SETS, LABEL, RAW
from tfx_mobile.common.errors import ConfigError

CELLS_PER_AXIS = 8  # quantile cells of latitude and of longitude
NUM_CELLS = CELLS_PER_AXIS**2
COMPANY_VOCABULARY = 32
CATEGORICAL = {  # transformed feature -> number of values
    "pickup_cell": NUM_CELLS,
    "dropoff_cell": NUM_CELLS,
    "pickup_x_dropoff": NUM_CELLS**2,
    "hour_of_week": 7 * 24,
    "company_id": COMPANY_VOCABULARY + 1,
}

_SECONDS_PER_WEEK = 7 * 24 * 3600
_EPOCH_DAY_OF_WEEK = 4  # 1970-01-01 was a Thursday; Sunday is 0
_COORDINATES = ("pickup_latitude", "pickup_longitude", "dropoff_latitude", "dropoff_longitude")


def preprocessing_fn(inputs: dict[str, Any], custom_config: dict[str, Any]) -> dict[str, Any]:
    """Returns the transformed features, each of shape (batch, 1).

    Args:
      inputs: The features of rows.py that the source has, each of shape (batch, 1).
      custom_config: `{"features": "engineered" or "raw"}`.
    """
    chosen = custom_config["features"]
    if chosen not in FEATURE_SETS:
        raise ConfigError(f"features must be one of {', '.join(FEATURE_SETS)}; got {chosen!r}.")
    outputs = _raw(inputs) if chosen == RAW else _engineered(inputs)
    if LABEL in inputs:
        outputs[LABEL] = inputs[LABEL]
    return outputs


def _raw(inputs: dict[str, Any]) -> dict[str, Any]:
    """Every number as it comes, scaled; nothing else."""
    numbers = sorted(name for name in inputs if name not in (LABEL, "company"))
    return {f"{name}_z": tft.scale_to_z_score(tf.cast(inputs[name], tf.float32)) for name in numbers}


def _engineered(inputs: dict[str, Any]) -> dict[str, Any]:
    outputs = _time(inputs["pickup_epoch_s"]) | _places(inputs)
    for name in ("trip_miles", "trip_seconds"):
        if name in inputs:
            outputs[f"{name}_z"] = tft.scale_to_z_score(inputs[name])
            outputs[f"log_{name}_z"] = tft.scale_to_z_score(tf.math.log(inputs[name] + 1.0))
            outputs[f"no_{name}"] = tf.cast(inputs[name] <= 0.0, tf.float32)
    if "trip_miles" in inputs and "trip_seconds" in inputs:
        speed = inputs["trip_miles"] * 3600.0 / (inputs["trip_seconds"] + 60.0)
        outputs["speed_z"] = tft.scale_to_z_score(tf.minimum(speed, 100.0))
    if "passenger_count" in inputs:
        outputs["passenger_count_z"] = tft.scale_to_z_score(tf.cast(inputs["passenger_count"], tf.float32))
    if "company" in inputs:
        outputs["company_id"] = tft.compute_and_apply_vocabulary(
            inputs["company"],
            top_k=COMPANY_VOCABULARY,
            default_value=COMPANY_VOCABULARY,
            vocab_filename="company",
        )
    return outputs


def _time(epoch_s: Any) -> dict[str, Any]:
    second_of_week = tf.cast(tf.math.floormod(epoch_s, _SECONDS_PER_WEEK), tf.int32)
    hour_since_thursday = tf.math.floordiv(second_of_week, 3600)
    hour_of_week = tf.math.floormod(hour_since_thursday + _EPOCH_DAY_OF_WEEK * 24, 7 * 24)
    hour = tf.cast(tf.math.floormod(hour_since_thursday, 24), tf.float32)
    day = tf.cast(tf.math.floordiv(hour_of_week, 24), tf.float32)
    return {
        "hour_of_week": tf.cast(hour_of_week, tf.int64),
        "hour_sin": tf.sin(hour * (2 * math.pi / 24)),
        "hour_cos": tf.cos(hour * (2 * math.pi / 24)),
        "day_sin": tf.sin(day * (2 * math.pi / 7)),
        "day_cos": tf.cos(day * (2 * math.pi / 7)),
        "date_z": tft.scale_to_z_score(tf.cast(epoch_s, tf.float32) / (365.25 * 24 * 3600)),
    }


def _places(inputs: dict[str, Any]) -> dict[str, Any]:
    known = tf.cast(tf.not_equal(inputs["dropoff_latitude"], 0.0), tf.float32)
    centre = {name: tft.mean(inputs[name]) for name in _COORDINATES if name.startswith("pickup")}
    place = {name: inputs[name] for name in _COORDINATES}
    for axis in ("latitude", "longitude"):  # an unknown destination counts as the mean pickup place
        unknown = (1.0 - known) * centre[f"pickup_{axis}"]
        place[f"dropoff_{axis}"] = place[f"dropoff_{axis}"] * known + unknown
    # A degree of longitude is shorter than one of latitude.
    shrink = tf.cos(centre["pickup_latitude"] * (math.pi / 180))
    north = (place["dropoff_latitude"] - place["pickup_latitude"]) * known
    east = (place["dropoff_longitude"] - place["pickup_longitude"]) * shrink * known
    distance = tf.sqrt(north * north + east * east)
    cells = {
        end: _cell(place[f"{end}_latitude"]) * CELLS_PER_AXIS + _cell(place[f"{end}_longitude"])
        for end in ("pickup", "dropoff")
    }
    outputs = {f"{name}_z": tft.scale_to_z_score(place[name]) for name in _COORDINATES}
    return outputs | {
        "north_z": tft.scale_to_z_score(north),
        "east_z": tft.scale_to_z_score(east),
        "euclidean_z": tft.scale_to_z_score(distance),
        "log_euclidean_z": tft.scale_to_z_score(tf.math.log(distance + 0.002)),
        "manhattan_z": tft.scale_to_z_score(tf.abs(north) + tf.abs(east)),
        "no_dropoff": 1.0 - known,
        "pickup_cell": cells["pickup"],
        "dropoff_cell": cells["dropoff"],
        "pickup_x_dropoff": cells["pickup"] * NUM_CELLS + cells["dropoff"],
    }


def _cell(coordinate: Any) -> Any:
    """Quantile bucket of a coordinate, shape (batch, 1), int64 in [0, CELLS_PER_AXIS)."""
    boundaries = tft.quantiles(coordinate, num_buckets=CELLS_PER_AXIS, epsilon=0.01)
    beyond = tf.cast(coordinate >= boundaries, tf.int32)  # (batch, 1) against (1, cells - 1)
    return tf.cast(tf.reduce_sum(beyond, axis=1, keepdims=True), tf.int64)
