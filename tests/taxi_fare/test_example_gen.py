"""The ExampleGen of the example on real files: what is kept, what is dropped and how that is counted."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taxi_fare import baselines, data, rows
from tfx_mobile.common.errors import DataError

pytestmark = pytest.mark.pipeline

HEADER = (
    "fare_amount,pickup_datetime,pickup_longitude,pickup_latitude,"
    "dropoff_longitude,dropoff_latitude,passenger_count"
)
Row = dict[str, Any]
Write = Callable[..., Path]


def line(
    fare: Any = 9.5,
    time: str = "2011-01-28 20:42:59 UTC",
    longitude: Any = -73.98,
    latitude: Any = 40.75,
    to_longitude: Any = -73.96,
    to_latitude: Any = 40.77,
    passengers: Any = 1,
) -> str:
    return f"{fare},{time},{longitude},{latitude},{to_longitude},{to_latitude},{passengers}"


@pytest.fixture(scope="session")
def run() -> Callable[[data.Data, Path], Path]:
    """A function that runs the executor as TFX does and returns the folder of its Examples."""
    from google.protobuf import json_format
    from tfx.types import standard_artifacts

    from taxi_fare.example_gen import TaxiExampleGenExecutor, example_gen

    def call(found: data.Data, folder: Path) -> Path:
        component = example_gen(found)
        properties = {
            name: json_format.MessageToJson(value) if hasattr(value, "DESCRIPTOR") else value
            for name, value in component.exec_properties.items()
        }
        examples = standard_artifacts.Examples()
        examples.uri = str(folder / "examples")
        context = TaxiExampleGenExecutor.Context(beam_pipeline_args=[], tmp_dir=str(folder), unique_id="1")
        TaxiExampleGenExecutor(context).Do({}, {"examples": [examples]}, properties)
        return Path(examples.uri)

    return call


def write(folder: Path, **files: list[str]) -> data.Data:
    folder.mkdir()
    for name, lines in files.items():
        (folder / f"{name}.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    return data.csv_folder(folder)


def read(examples: Path, split: str) -> list[Row]:
    import tensorflow as tf

    files = sorted(str(path) for path in (examples / f"Split-{split}").iterdir())
    found = []
    for record in tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator():
        features = tf.train.Example.FromString(record).features.feature
        found.append(
            {name: getattr(value, value.WhichOneof("kind")).value[0] for name, value in features.items()}
        )
    return sorted(found, key=lambda row: row["fare"])


WRONG_INPUTS = {
    "pickup location missing": line(latitude=0),
    "dropoff location missing": line(to_longitude=""),
    "latitude beyond 90 degrees": line(latitude=401.7),
    "passenger count outside 1 to 8": line(passengers=0),
    "pickup time missing": line(time=""),
}


@pytest.fixture(scope="session")
def filtered(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train and evaluation rows, good ones and each kind of wrong one."""
    folder = tmp_path_factory.mktemp("filtered")
    fares = [-3.0, 0.0, 9.5, 12.0, 150.0, 350.0]
    lines = [*(line(fare) for fare in fares), *WRONG_INPUTS.values(), line(fare="")]
    found = write(folder / "csv", train=lines, valid=[*lines, line(latitude=0)])
    return run(found, folder)


def test_rows_are_counted_by_split_and_reason(filtered: Path) -> None:
    counts = json.loads((filtered / "filtered.json").read_text())
    wrong = dict.fromkeys(WRONG_INPUTS, 1) | {"label missing": 1}
    assert counts["train"] == wrong | {"kept": 3, "fare outside 0 to 200": 3}
    assert counts["eval"] == wrong | {"kept": 6, "pickup location missing": 2}


def test_a_train_row_is_dropped_for_its_label_and_an_evaluation_row_is_not(filtered: Path) -> None:
    assert [row["fare"] for row in read(filtered, "train")] == [9.5, 12.0, 150.0]
    assert [row["fare"] for row in read(filtered, "eval")] == [-3.0, 0.0, 9.5, 12.0, 150.0, 350.0]


def test_every_feature_is_written_with_its_type(filtered: Path) -> None:
    row = read(filtered, "train")[0]
    assert set(row) == set(rows.CSV_SOURCE.columns)
    assert (row["pickup_epoch_s"], row["passenger_count"]) == (1_296_247_379, 1)
    assert {name: type(value) for name, value in row.items() if name in rows.INTEGERS} == dict.fromkeys(
        rows.INTEGERS, int
    )
    assert row["pickup_latitude"] == pytest.approx(40.75, abs=4e-6)  # float32 steps at 40
    assert all(type(value) is float for name, value in row.items() if name not in rows.INTEGERS)


def test_a_folder_without_split_names_is_divided_two_to_one(run: Any, tmp_path: Path) -> None:
    found = write(tmp_path / "csv", trips=[line(1 + i / 100) for i in range(300)])
    examples = run(found, tmp_path)
    train, evaluation = read(examples, "train"), read(examples, "eval")
    assert len(train) + len(evaluation) == 300
    # By hash: a binomial share of 2/3 of 300 rows lies within 150 and 250 but for one time in 1e8.
    assert 150 < len(train) < 250
    assert not {row["fare"] for row in train} & {row["fare"] for row in evaluation}


def test_a_split_that_is_dropped_whole_is_refused_with_the_reasons(run: Any, tmp_path: Path) -> None:
    found = write(tmp_path / "csv", train=[line()], valid=[line(latitude=0), line(passengers=0)])
    message = (
        "The split 'eval' must have rows; none is left after filtering "
        "({'passenger count outside 1 to 8': 1, 'pickup location missing': 1})."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        run(found, tmp_path)


def test_a_wrong_cell_beyond_the_rows_checked_first_is_named_with_its_line(run: Any, tmp_path: Path) -> None:
    found = write(tmp_path / "csv", train=[*[line()] * 1200, line(fare="free")], valid=[line()])
    message = "train.csv, line 1202: column 'fare_amount' is read as the label, a number; got 'free'"
    with pytest.raises(DataError, match=re.escape(message)):
        run(found, tmp_path)


def test_rows_may_come_from_tfrecords_with_other_column_names(run: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    def example(fare: float, company: bytes) -> bytes:
        numbers = {"fare": fare, "pickup_latitude": 41.9, "pickup_longitude": -87.6, "trip_miles": 2.0}
        feature = {
            name: tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
            for name, value in numbers.items()
        }
        feature["trip_start_timestamp"] = tf.train.Feature(
            int64_list=tf.train.Int64List(value=[1_400_000_000])
        )
        feature["company"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[company]))
        for name in ("dropoff_latitude", "dropoff_longitude", "trip_seconds"):
            feature[name] = tf.train.Feature()  # missing, as Chicago's rows have it
        return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()

    for split, fare in (("train", 5.25), ("eval", 7.0)):
        with tf.io.TFRecordWriter(str(tmp_path / f"{split}.gz"), "GZIP") as writer:
            writer.write(example(fare, "Zürich".encode()))
    found = data.Data(
        str(tmp_path), (("train", "train.gz"), ("eval", "eval.gz")), rows.CHICAGO_SOURCE, "records"
    )
    row = read(run(found, tmp_path), "train")[0]
    assert (row["fare"], row["company"], row["pickup_epoch_s"]) == (5.25, "Zürich".encode(), 1_400_000_000)
    assert row["dropoff_latitude"] == row["trip_seconds"] == 0.0


def test_baselines_are_the_mean_and_the_line_by_hand(run: Any, tmp_path: Path) -> None:
    # fare = 2 + passengers: exactly linear, so least squares has no error left.
    found = write(
        tmp_path / "csv",
        train=[line(2 + n, passengers=n) for n in (1, 2, 3, 4)],
        valid=[line(2 + n, passengers=n) for n in (1, 6)],
    )
    examples = run(found, tmp_path)
    measured = baselines.measure([str(examples / "Split-train" / "*")], [str(examples / "Split-eval" / "*")])
    # The train mean is 4.5; the evaluation fares 3 and 8 are 1.5 below and 3.5 above it.
    assert measured.mean_mae == pytest.approx(2.5)
    assert measured.mean_rmse == pytest.approx(((1.5**2 + 3.5**2) / 2) ** 0.5)
    assert measured.linear_rmse == pytest.approx(0.0, abs=1e-9)
    assert measured.linear_mae == pytest.approx(0.0, abs=1e-9)
