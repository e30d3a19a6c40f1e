"""A folder of CSV files is checked before any work, and refused with what to do."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from taxi_fare import data, rows
from tfx_mobile.common.errors import ConfigError, DataError

HEADER = (
    "fare_amount,pickup_datetime,pickup_longitude,pickup_latitude,"
    "dropoff_longitude,dropoff_latitude,passenger_count"
)
ROW = "9.5,2011-01-28 20:42:59 UTC,-73.98,40.75,-73.96,40.77,2"
GOOD = f"{HEADER}\n{ROW}\n"
Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A function that writes files by name (without .csv) and returns their folder."""

    def write(**contents: str) -> Path:
        for name, content in contents.items():
            (tmp_path / f"{name}.csv").write_text(content)
        return tmp_path

    return write


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    message = f"DATA must be a folder with CSV files; got {gone}, which does not exist."
    with pytest.raises(ConfigError, match=re.escape(message)):
        data.csv_folder(gone)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    message = f"DATA must be a folder with CSV files; {tmp_path} has nothing in it."
    with pytest.raises(ConfigError, match=re.escape(message)):
        data.csv_folder(tmp_path)


def test_a_folder_without_csv_is_refused_with_what_is_there(tmp_path: Path) -> None:
    for name in ("b.txt", "a.parquet"):
        (tmp_path / name).touch()
    message = f"DATA must be a folder with CSV files; {tmp_path} has a.parquet, b.txt."
    with pytest.raises(ConfigError, match=re.escape(message)):
        data.csv_folder(tmp_path)


def test_an_empty_file_is_refused(folder: Folder) -> None:
    found = folder(trips="")
    message = f"{found / 'trips.csv'} must have a header line and rows; it is empty."
    with pytest.raises(DataError, match=re.escape(message)):
        data.csv_folder(found)


def test_a_file_with_only_a_header_is_refused(folder: Folder) -> None:
    found = folder(trips=HEADER + "\n")
    message = f"{found / 'trips.csv'} must have rows; it has only a header line."
    with pytest.raises(DataError, match=re.escape(message)):
        data.csv_folder(found)


def test_text_in_a_number_column_is_named_with_file_and_line(folder: Folder) -> None:
    message = "trips.csv, line 3: column 'pickup_latitude' is read as 'pickup_latitude'; got 'north' ("
    with pytest.raises(DataError, match=re.escape(message)):
        data.csv_folder(folder(trips=GOOD + ROW.replace("40.75", "north")))


def test_a_label_of_text_is_named_with_file_and_line(folder: Folder) -> None:
    message = "trips.csv, line 2: column 'fare_amount' is read as the label, a number; got 'cheap' ("
    with pytest.raises(DataError, match=re.escape(message)):
        data.csv_folder(folder(trips=GOOD.replace("9.5", "cheap")))


def test_a_missing_column_is_named_with_the_file(folder: Folder) -> None:
    message = (
        "trips.csv must have a column for each feature; "
        "it lacks 'fare' (a column fare_amount or fare). It has"
    )
    with pytest.raises(DataError, match=re.escape(message)):
        data.csv_folder(folder(trips=GOOD.replace("fare_amount", "price")))


@pytest.mark.parametrize(("row", "got"), [(ROW + ",1", "more"), (ROW.rsplit(",", 1)[0], "fewer")])
def test_a_row_of_another_width_is_named_with_its_line(folder: Folder, row: str, got: str) -> None:
    message = f"trips.csv, line 3: a row must have 7 cells like the header; got {got}."
    with pytest.raises(DataError, match=re.escape(message)):
        data.csv_folder(folder(trips=f"{GOOD}{row}\n"))


def test_a_quote_that_is_never_closed_is_refused(folder: Folder) -> None:
    found = folder(trips=GOOD + '"9.5,')
    message = f"{found / 'trips.csv'} must be a readable CSV file in UTF-8; unexpected end of data."
    with pytest.raises(DataError, match=re.escape(message)):
        data.csv_folder(found)


def test_a_file_in_another_encoding_is_refused(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "trips.csv").write_bytes((GOOD + "Zürich").encode("latin-1"))
    message = f"{tmp_path / 'trips.csv'} must be a readable CSV file in UTF-8; 'utf-8' codec can't decode"
    with pytest.raises(DataError, match=re.escape(message)):
        data.csv_folder(tmp_path)


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    (tmp_path / "trips.csv").write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert data.csv_folder(tmp_path).splits == (("all", "*.csv"),)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["trips"], {"all": "*.csv"}),
        (["taxi-train", "taxi-valid"], {"train": "*train*.csv", "eval": "*valid*.csv"}),
        (["train", "valid", "test"], {"train": "*train*.csv", "eval": "*valid*.csv"}),
        (["train", "eval", "test"], {"train": "*train*.csv", "eval": "*eval*.csv"}),
        (["train_1", "train_2", "test"], {"train": "*train*.csv", "eval": "*test*.csv"}),
        (["train", "other"], {"all": "*.csv"}),
        (["valid", "other"], {"all": "*.csv"}),
    ],
)
def test_splits_come_from_the_names(folder: Folder, names: list[str], splits: dict[str, str]) -> None:
    assert dict(data.csv_folder(folder(**dict.fromkeys(names, GOOD))).splits) == splits


def test_files_that_are_not_used_are_named_and_not_judged(folder: Folder) -> None:
    found = data.csv_folder(folder(train=GOOD, valid=GOOD, sample_submission="key,fare\n1,2\n", zones=""))
    assert found.name.endswith(" (not used: sample_submission.csv, zones.csv)")


def test_without_unused_files_none_is_named(folder: Folder) -> None:
    found = folder(trips=GOOD)
    assert data.csv_folder(found).name == f"CSV files in {found}"


def test_a_file_that_is_in_both_splits_is_refused(folder: Folder) -> None:
    message = (
        "Each CSV file must be training or evaluation data; 'train-valid.csv' matches both "
        "*train*.csv and *valid*.csv. Rename it."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        data.csv_folder(folder(train=GOOD, **{"train-valid": GOOD}))


def test_a_mapping_of_ones_own_replaces_one_feature(folder: Folder) -> None:
    found = folder(trips=GOOD.replace("fare_amount", "price"))
    source = data.csv_folder(found, {"fare": ("price",)}).source
    assert source.columns == rows.CSV_SOURCE.columns | {"fare": ("price",)}


def test_rows_are_read_in_order_with_their_values() -> None:
    lines = [HEADER, ROW, ROW.replace("9.5", "3")]
    found = list(data.read_csv(lines, "a.csv", rows.CSV_SOURCE))
    assert [row["fare"] for row in found] == [9.5, 3.0]
    assert found[0]["pickup_epoch_s"] == 1_296_247_379


def test_a_stream_without_lines_is_refused() -> None:
    with pytest.raises(DataError, match=re.escape("a.csv must have a header line; it is empty.")):
        list(data.read_csv([], "a.csv", rows.CSV_SOURCE))


def test_the_chicago_trips_are_where_the_package_says() -> None:
    found = data.chicago()
    for _, pattern in found.splits:
        assert list(Path(found.folder).glob(pattern))


def test_the_course_rows_are_accepted_where_they_are_present(tmp_path: Path) -> None:
    """Reads ../shared/data/nyc_taxi_fare when it is there; written rows of the same shape otherwise."""
    course = Path(__file__).resolve().parents[3] / "shared" / "data" / "nyc_taxi_fare"
    if not course.is_dir():
        course = tmp_path
        for name in ("taxi-train.csv", "taxi-valid.csv"):
            (course / name).write_text(GOOD)
    assert dict(data.csv_folder(course).splits) == {"train": "*train*.csv", "eval": "*valid*.csv"}


@pytest.mark.parametrize(
    ("name", "slug"), [("NYC taxi_fare!", "nyc-taxi-fare"), ("--", "csv"), ("x" * 40, "x" * 32)]
)
def test_a_folder_is_named_as_a_model_may_be(tmp_path: Path, name: str, slug: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "rows.csv").write_text(GOOD)
    assert data.csv_folder(tmp_path / name).slug == slug


@pytest.mark.pipeline
def test_models_of_other_rows_and_other_features_are_other_models(folder: Folder) -> None:
    from taxi_fare.pipeline import model_name

    other = data.csv_folder(folder(rows=GOOD))
    names = [model_name(source, kind) for source in (data.chicago(), other) for kind in rows.FEATURE_SETS]
    assert names == ["taxi-fare", "taxi-fare-raw", f"taxi-fare-{other.slug}", f"taxi-fare-{other.slug}-raw"]
