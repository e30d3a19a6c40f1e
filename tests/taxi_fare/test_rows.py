"""One shape for taxi rows: column mapping, parsing, and rules that never look at the label."""

import datetime
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taxi_fare import rows
from taxi_fare.rows import CHICAGO_SOURCE, CSV_SOURCE, LABEL, Source
from tfx_mobile.common.errors import ConfigError, DataError

GOOD: dict[str, Any] = {
    LABEL: 9.5,
    "pickup_epoch_s": 1_296_247_379,
    "pickup_latitude": 40.75,
    "pickup_longitude": -73.98,
    "dropoff_latitude": 40.77,
    "dropoff_longitude": -73.96,
    "passenger_count": 2,
}


COURSE = [
    "key",
    "fare_amount",
    "pickup_datetime",
    "pickup_longitude",
    "pickup_latitude",
    "dropoff_longitude",
    "dropoff_latitude",
    "passenger_count",
]
SHORT = [
    "fare_amount",
    "pickup_datetime",
    "pickuplon",
    "pickuplat",
    "dropofflon",
    "dropofflat",
    "passengers",
]
CELLS = {
    "fare_amount": "12.50",
    "pickup_datetime": "2011-01-28 20:42:59 UTC",
    "pickup_latitude": "40.75",
    "pickup_longitude": "-73.98",
    "dropoff_latitude": "40.77",
    "dropoff_longitude": "-73.96",
    "passenger_count": "2",
}


class TestTime:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("2011-01-28 20:42:59 UTC", 1_296_247_379),
            ("2011-01-28 20:42:59+00:00", 1_296_247_379),
            ("2011-01-28 21:42:59+01:00", 1_296_247_379),
            ("2011-01-28 20:42:59", 1_296_247_379),
            (" 2011-01-28T20:42:59 ", 1_296_247_379),
            ("1296247379", 1_296_247_379),
            ("1970-01-01 00:00:01 UTC", 1),
            ("-1", -1),
        ],
    )
    def test_each_format_gives_unix_seconds(self, text: str, expected: int) -> None:
        assert rows.parse_epoch_s(text) == expected

    @given(st.datetimes(datetime.datetime(1990, 1, 1), datetime.datetime(2040, 1, 1)))
    def test_both_formats_agree_with_the_calendar(self, moment: datetime.datetime) -> None:
        moment = moment.replace(microsecond=0)
        expected = (moment - datetime.datetime(1970, 1, 1)) // datetime.timedelta(seconds=1)
        assert rows.parse_epoch_s(f"{moment} UTC") == expected
        assert rows.parse_epoch_s(f"{moment}+00:00") == expected

    @pytest.mark.parametrize("text", ["yesterday", "2011-13-01 00:00:00 UTC", "1.5", "--1", "²"])
    def test_what_is_no_time_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"isoformat|int\(\)|month must be"):
            rows.parse_epoch_s(text)


class TestMapping:
    @pytest.mark.parametrize("header", [COURSE, SHORT])
    def test_both_spellings_are_found(self, header: list[str]) -> None:
        found = CSV_SOURCE.resolve(header, "a.csv")
        assert set(found) == set(CSV_SOURCE.columns)
        assert set(found.values()) <= set(header)
        assert found["pickup_latitude"] in ("pickup_latitude", "pickuplat")

    def test_the_first_spelling_wins_when_both_are_there(self) -> None:
        found = CSV_SOURCE.resolve([*reversed(COURSE), *SHORT], "a.csv")
        assert found["pickup_latitude"] == "pickup_latitude"

    def test_every_missing_column_is_named_with_its_spellings(self) -> None:
        header = [name for name in COURSE if name not in ("fare_amount", "passenger_count")]
        message = (
            "a.csv must have a column for each feature; it lacks 'fare' (a column fare_amount or fare); "
            "'passenger_count' (a column passenger_count or passengers). It has key, pickup_datetime, "
            "pickup_longitude, pickup_latitude, dropoff_longitude, dropoff_latitude. "
            "Rename the column or pass a column mapping."
        )
        with pytest.raises(DataError, match=re.escape(message)):
            CSV_SOURCE.resolve(header, "a.csv")

    def test_a_mapping_must_have_label_and_time(self) -> None:
        message = "A column mapping must name a column for 'fare' and 'pickup_epoch_s'; got ['fare']."
        with pytest.raises(ConfigError, match=re.escape(message)):
            Source(columns={LABEL: ("fare",)}, optional=())

    def test_a_mapping_must_not_have_features_that_there_are_not(self) -> None:
        columns = {LABEL: ("fare",), "pickup_epoch_s": ("t",), "tip": ("tip",)}
        with pytest.raises(ConfigError, match=re.escape("; got tip.")):
            Source(columns=columns, optional=())

    @pytest.mark.parametrize("source", [CSV_SOURCE, CHICAGO_SOURCE])
    def test_a_source_travels_as_json(self, source: Source) -> None:
        assert Source.from_json(source.to_json()) == source


class TestCells:
    columns = CSV_SOURCE.resolve(list(CELLS), "a.csv")

    def parse(self, **changed: str) -> rows.Row:
        return rows.parse_row(CELLS | changed, self.columns, "a.csv, line 7")

    def test_a_row_by_hand(self) -> None:
        assert self.parse() == GOOD | {LABEL: 12.5}
        assert type(self.parse()["passenger_count"]) is int

    def test_empty_cells_are_zero_and_an_empty_label_is_nan(self) -> None:
        row = self.parse(**{name: " " for name in CELLS})
        assert math.isnan(float(row.pop(LABEL)))
        assert set(row.values()) == {0}
        assert rows.parse_row({"company": ""}, {"company": "company"}, "a") == {"company": b""}

    @pytest.mark.parametrize(
        ("column", "text", "message"),
        [
            (
                "pickup_latitude",
                "north",
                "a.csv, line 7: column 'pickup_latitude' is read as 'pickup_latitude'; got 'north' "
                "(could not convert string to float: 'north').",
            ),
            (
                "fare_amount",
                "$12",
                "a.csv, line 7: column 'fare_amount' is read as the label, a number; got '$12' "
                "(could not convert string to float: '$12').",
            ),
            (
                "fare_amount",
                "nan",
                "a.csv, line 7: column 'fare_amount' is read as the label, a number; got 'nan' "
                "('nan' is not finite).",
            ),
            ("fare_amount", "1e39", "got '1e39' ('1e39' is not finite as a 32-bit float)."),
            ("passenger_count", "1e30", "got '1e30' ('1e30' is no count)."),
            ("passenger_count", "1.5", "got '1.5' ('1.5' is no count)."),
            ("pickup_datetime", "noon", "is read as 'pickup_epoch_s'; got 'noon' (Invalid isoformat string"),
            ("pickup_datetime", "9" * 30, "('999999999999999999999999999999' is no time)."),
        ],
    )
    def test_what_cannot_be_read_is_named_with_file_line_and_column(
        self, column: str, text: str, message: str
    ) -> None:
        with pytest.raises(DataError, match=re.escape(message)):
            self.parse(**{column: text})

    def test_a_count_may_be_written_as_a_float(self) -> None:
        assert self.parse(passenger_count="2.0")["passenger_count"] == 2


class TestRules:
    def test_a_good_trip_has_no_problem(self) -> None:
        assert rows.input_problem(GOOD, ()) is None
        assert rows.label_problem(GOOD) is None

    @pytest.mark.parametrize(
        ("changed", "problem"),
        [
            ({"pickup_epoch_s": 0}, "pickup time missing"),
            ({"pickup_latitude": 0.0}, "pickup location missing"),
            ({"dropoff_longitude": 0.0}, "dropoff location missing"),
            ({"pickup_latitude": 90.1}, "latitude beyond 90 degrees"),
            ({"dropoff_longitude": -180.5}, "longitude beyond 180 degrees"),
            ({"dropoff_latitude": 43.0}, "pickup and dropoff more than 2.0 degrees apart"),
            ({"passenger_count": 0}, "passenger count outside 1 to 8"),
            ({"passenger_count": 9}, "passenger count outside 1 to 8"),
            ({"trip_miles": 0.0, "trip_seconds": 0.0}, "no distance and no time metered"),
            ({"trip_miles": -1.0}, "trip longer than 300 miles or 12 hours"),
            ({"trip_miles": 301.0}, "trip longer than 300 miles or 12 hours"),
            ({"trip_seconds": 12 * 3600 + 1.0}, "trip longer than 300 miles or 12 hours"),
        ],
    )
    def test_a_wrong_row_has_its_reason(self, changed: dict[str, Any], problem: str) -> None:
        assert rows.input_problem(GOOD | changed, ()) == problem

    @pytest.mark.parametrize(
        "changed",
        [
            {"passenger_count": 1},
            {"passenger_count": 8},
            {"dropoff_latitude": 42.0},
            {"trip_miles": 300.0, "trip_seconds": 0.0},
            {"trip_miles": 0.0, "trip_seconds": 12 * 3600.0},
        ],
    )
    def test_the_limits_themselves_are_allowed(self, changed: dict[str, Any]) -> None:
        assert rows.input_problem(GOOD | changed, ()) is None

    def test_an_optional_destination_may_be_missing(self) -> None:
        row = GOOD | {"dropoff_latitude": 0.0, "dropoff_longitude": 0.0}
        assert rows.input_problem(row, ("dropoff_latitude", "dropoff_longitude")) is None
        assert rows.input_problem(row, ()) == "dropoff location missing"

    inputs = st.fixed_dictionaries(
        {
            "pickup_epoch_s": st.integers(0, 2**40),
            "pickup_latitude": st.floats(-100, 100),
            "pickup_longitude": st.floats(-200, 200),
            "dropoff_latitude": st.floats(-100, 100) | st.just(0.0),
            "dropoff_longitude": st.floats(-200, 200) | st.just(0.0),
        },
        optional={
            "passenger_count": st.integers(-1, 12),
            "trip_miles": st.floats(-1, 400),
            "trip_seconds": st.floats(-1, 50_000),
            "company": st.binary(max_size=3),
        },
    )

    @given(inputs, st.floats(), st.floats(), st.sampled_from([CSV_SOURCE, CHICAGO_SOURCE]))
    def test_changing_the_label_never_changes_what_is_wrong_with_the_inputs(
        self, inputs: dict[str, Any], one: float, other: float, source: Source
    ) -> None:
        found = {
            rows.input_problem(row, source.optional)
            for row in (inputs, inputs | {LABEL: one}, inputs | {LABEL: other})
        }
        assert len(found) == 1

    @pytest.mark.parametrize(
        ("fare", "problem"),
        [
            (0.0, "fare outside 0 to 200"),
            (-2.5, "fare outside 0 to 200"),
            (200.01, "fare outside 0 to 200"),
            (math.nan, "fare outside 0 to 200"),
            (0.01, None),
            (200.0, None),
        ],
    )
    def test_a_fare_is_learnt_from_within_its_limits(self, fare: float, problem: str | None) -> None:
        assert rows.label_problem({LABEL: fare}) == problem
