"""The example's features through real TFT: time of day, cells, unknown destinations."""

import datetime
import math
import re
from typing import Any

import numpy as np
import pytest

from taxi_fare import rows
from tfx_mobile.common.errors import ConfigError

pytestmark = pytest.mark.pipeline

NUM_ROWS = 60
TIMES = [
    "1970-01-01 00:00:00",
    "2011-01-28 20:42:59",
    "2012-02-29 23:59:59",
    "2012-03-01 00:00:00",
    "2014-12-31 12:00:00",
    "2015-01-04 00:00:00",
    "2015-01-03 23:59:59",
    "2038-01-19 03:14:08",
]
INTEGERS = rows.INTEGERS
STRINGS = ("company",)
UNKNOWN = (3, 4)  # rows without a destination


def raw_columns() -> dict[str, Any]:
    draw = np.random.default_rng(5)
    epochs = [rows.parse_epoch_s(TIMES[i % len(TIMES)]) for i in range(NUM_ROWS)]
    columns: dict[str, Any] = {
        "fare": draw.gamma(2, 5, NUM_ROWS).astype(np.float32),
        "pickup_epoch_s": np.array(epochs, np.int64),
        "passenger_count": draw.integers(1, 6, NUM_ROWS),
        "trip_miles": np.where(np.arange(NUM_ROWS) % 5, 3.0, 0.0).astype(np.float32),
        "trip_seconds": draw.gamma(2, 300, NUM_ROWS).astype(np.float32),
        "company": np.array([b"Flash", b"Sun", b""])[np.arange(NUM_ROWS) % 3],
    }
    for end in ("pickup", "dropoff"):
        columns[f"{end}_latitude"] = (41.9 + draw.normal(0, 0.05, NUM_ROWS)).astype(np.float32)
        columns[f"{end}_longitude"] = (-87.6 + draw.normal(0, 0.05, NUM_ROWS)).astype(np.float32)
    for name in ("dropoff_latitude", "dropoff_longitude"):
        columns[name][list(UNKNOWN)] = 0.0
    return columns


def analyse(folder: Any, feature_set: str) -> Any:
    """Runs TFT's analysis on the rows and returns what it wrote."""
    import apache_beam as beam
    import tensorflow as tf
    import tensorflow_transform as tft
    import tensorflow_transform.beam as tft_beam
    from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

    from taxi_fare import features

    columns = raw_columns()
    dtypes = {name: tf.int64 if name in INTEGERS else tf.float32 for name in columns}
    dtypes["company"] = tf.string
    spec = {name: tf.io.FixedLenFeature([1], dtype) for name, dtype in dtypes.items()}
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
    found = [{name: values[i : i + 1] for name, values in columns.items()} for i in range(NUM_ROWS)]

    def preprocess(inputs: dict[str, Any]) -> dict[str, Any]:
        return features.preprocessing_fn(inputs, {"features": feature_set})

    with beam.Pipeline() as pipeline, tft_beam.Context(temp_dir=str(folder / "tmp")):
        transform_fn = (pipeline | beam.Create(found), metadata) | tft_beam.AnalyzeDataset(preprocess)
        _ = transform_fn | tft_beam.WriteTransformFn(str(folder / "graph"))
    return tft.TFTransformOutput(str(folder / "graph"))


@pytest.fixture(scope="session")
def engineered_output(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return analyse(tmp_path_factory.mktemp("features"), rows.ENGINEERED)


def apply(output: Any, columns: dict[str, Any]) -> dict[str, Any]:
    import tensorflow as tf

    layer = output.transform_features_layer()
    found = layer({name: tf.constant(values[:, None]) for name, values in columns.items()})
    return {name: value.numpy()[:, 0] for name, value in found.items()}


@pytest.fixture(scope="session")
def engineered(engineered_output: Any) -> dict[str, Any]:
    return apply(engineered_output, raw_columns())


@pytest.mark.parametrize(("position", "text"), enumerate(TIMES))
def test_hour_and_day_are_those_of_the_calendar(engineered: Any, position: int, text: str) -> None:
    moment = datetime.datetime.fromisoformat(text)
    sunday_first = moment.isoweekday() % 7
    assert engineered["hour_of_week"][position] == sunday_first * 24 + moment.hour
    hour, day = moment.hour * 2 * math.pi / 24, sunday_first * 2 * math.pi / 7
    expected = [math.sin(hour), math.cos(hour), math.sin(day), math.cos(day)]
    got = [engineered[name][position] for name in ("hour_sin", "hour_cos", "day_sin", "day_cos")]
    np.testing.assert_allclose(got, expected, atol=1e-6)  # float32


def test_the_first_second_of_1970_was_a_thursday(engineered: Any) -> None:
    assert engineered["hour_of_week"][0] == 4 * 24


def test_categorical_features_stay_within_their_number_of_values(engineered: Any) -> None:
    from taxi_fare.features import CATEGORICAL

    for name, size in CATEGORICAL.items():
        assert engineered[name].min() >= 0, name
        assert engineered[name].max() < size, name


def test_places_beyond_all_that_was_seen_fall_into_the_outer_cells(engineered_output: Any) -> None:
    columns = raw_columns()
    for sign, rows_of in ((-1, slice(0, 30)), (1, slice(30, 60))):
        columns["pickup_latitude"][rows_of] = sign * 89.0
        columns["pickup_longitude"][rows_of] = sign * 179.0
    cells = apply(engineered_output, columns)["pickup_cell"]
    assert set(cells[:30]) == {0}
    assert set(cells[30:]) == {63}


def test_cells_hold_about_as_many_rows_each(engineered: Any) -> None:
    by_latitude = np.bincount(engineered["pickup_cell"] // 8, minlength=8)
    # 60 rows in 8 quantiles: 7.5 each, give or take one for the sketch and one for its edge.
    assert by_latitude.min() >= 5
    assert by_latitude.max() <= 10


def test_an_unknown_destination_has_a_flag_and_no_distance(engineered: Any) -> None:
    unknown = np.isin(np.arange(NUM_ROWS), UNKNOWN)
    np.testing.assert_array_equal(engineered["no_dropoff"], unknown.astype(np.float32))
    shortest = engineered["euclidean_z"].min()
    np.testing.assert_array_equal(engineered["euclidean_z"] == shortest, unknown)
    # It counts as the mean pickup place: every such row falls into one cell, whatever its pickup.
    assert len(set(engineered["dropoff_cell"][unknown])) == 1


def test_the_distance_is_that_of_a_plane_at_this_latitude(engineered: Any) -> None:
    columns = raw_columns()
    known = ~np.isin(np.arange(NUM_ROWS), UNKNOWN)
    shrink = np.cos(np.radians(columns["pickup_latitude"].astype(np.float64).mean()))
    north = columns["dropoff_latitude"].astype(np.float64) - columns["pickup_latitude"]
    east = (columns["dropoff_longitude"].astype(np.float64) - columns["pickup_longitude"]) * shrink
    distance = np.hypot(north, east) * known
    # float32 coordinates near 90 have steps of 8e-6, which is 1e-4 of the spread of 0.05.
    expected = (distance - distance.mean()) / distance.std()
    np.testing.assert_allclose(engineered["euclidean_z"], expected, atol=1e-3)


def test_the_label_passes_through_and_can_be_left_out(engineered_output: Any, engineered: Any) -> None:
    columns = raw_columns()
    np.testing.assert_array_equal(engineered["fare"], columns.pop("fare"))
    served = apply(engineered_output, columns)
    assert set(engineered) - set(served) == {"fare"}
    for name, values in served.items():
        np.testing.assert_array_equal(values, engineered[name])


def test_zeros_for_all_that_a_phone_does_not_know_give_finite_features(engineered_output: Any) -> None:
    columns = {name: np.zeros_like(values) for name, values in raw_columns().items()}
    for name, values in apply(engineered_output, columns).items():
        assert np.isfinite(values.astype(np.float64)).all(), name


def test_a_company_that_was_never_seen_has_the_last_id(engineered_output: Any) -> None:
    from taxi_fare.features import COMPANY_VOCABULARY

    columns = raw_columns()
    columns["company"] = np.array([b"never seen"] * NUM_ROWS)
    assert set(apply(engineered_output, columns)["company_id"]) == {COMPANY_VOCABULARY}


def test_miles_that_were_not_metered_have_a_flag(engineered: Any) -> None:
    np.testing.assert_array_equal(engineered["no_trip_miles"], np.arange(NUM_ROWS) % 5 == 0)


def test_raw_features_are_the_numbers_scaled_and_nothing_else(tmp_path: Any) -> None:
    found = apply(analyse(tmp_path, rows.RAW), raw_columns())
    numbers = set(raw_columns()) - {"fare", "company"}
    assert set(found) == {f"{name}_z" for name in numbers} | {"fare"}
    for name in numbers - {"pickup_epoch_s"}:  # whose float32 has steps of 128 s
        values = raw_columns()[name].astype(np.float64)
        # float32: coordinates near 90 have steps of 1e-4 of their spread.
        np.testing.assert_allclose(
            found[f"{name}_z"], (values - values.mean()) / values.std(), atol=1e-3, err_msg=name
        )


def test_another_feature_set_is_refused() -> None:
    from taxi_fare import features

    message = "features must be one of engineered, raw; got 'clever'."
    with pytest.raises(ConfigError, match=re.escape(message)):
        features.preprocessing_fn({}, {"features": "clever"})
