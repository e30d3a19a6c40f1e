"""Rows are read as they are or refused with count and split, by the fast parser and the exact one alike."""

import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common.errors import DataError

pytestmark = pytest.mark.pipeline

FEATURES: dict[str, Any] = {"miles": (np.dtype(np.float32), (1,)), "company": (np.bytes_, (1,))}
GOOD: dict[str, Any] = {"miles": [1.5], "company": [b"Sun"], "fare": [7.0], "trust": [1.0]}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path), "GZIP" if path.suffix == ".gz" else "") as writer:
        for row in rows:
            example = tf.train.Example()
            for name, values in row.items():
                feature = example.features.feature[name]
                if isinstance(values[0], bytes):
                    feature.bytes_list.value.extend(values)
                elif isinstance(values[0], int):
                    feature.int64_list.value.extend(values)
                else:
                    feature.float_list.value.extend(values)
            writer.write(example.SerializeToString())
    return path


def read(path: Path, features: Mapping[str, Any] = FEATURES, batch_size: int = 2, **settings: Any) -> Any:
    """Returns the rows of one file, joined, and the census, or raises what is wrong with them."""
    from tfx_mobile.size_latency_evaluator import examples

    wanted = examples.Wanted(**{"labels": {"": "fare"}, **settings})
    look = examples.first_look([f"{path}*"], wanted)
    reader = examples.Reader(wanted, features, look)
    found = list(reader.read(examples.Records(str(path), batch_size)))
    reader.census.check(wanted)
    assert [rows.first for rows in found] == list(range(0, reader.census.rows, batch_size))
    joined: dict[str, Any] = {
        "labels": np.concatenate([rows.labels[""] for rows in found]).tolist(),
        "census": reader.census,
        "columns": {
            name: np.concatenate([rows.columns[name] for rows in found]).tolist() for name in features
        },
        "extra": {
            name: [value for rows in found for value in rows.extra[name].tolist()] for name in wanted.columns
        },
    }
    if wanted.weight:
        joined["weights"] = np.concatenate([rows.weights for rows in found]).tolist()
    return joined


@pytest.fixture(params=["fast", "exact"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test as it is, and without TensorFlow's parser."""
    from tfx_mobile.size_latency_evaluator import examples

    if request.param == "exact":
        monkeypatch.setattr(examples._Parser, "of", lambda *_: None)
    return str(request.param)


NAN, INF = float("nan"), float("inf")


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "Split 'eval' must have at least one row; got zero."),
        (
            [{"miles": [1.0]}],
            "label_key 'fare' must be a feature of the rows in split 'eval'; they have miles.",
        ),
        (
            [GOOD, {"miles": [1.0]}, {"miles": [2.0]}],
            "Label 'fare' must be set in each row; got 2 of 3 rows without it in split 'eval'.",
        ),
        (
            [GOOD, {**GOOD, "fare": [NAN]}, {**GOOD, "fare": [INF]}],
            "Label 'fare' must be finite; got 2 NaN or infinite of 3 rows in split 'eval'.",
        ),
        ([{**GOOD, "fare": [b"7"]}], "Label 'fare' must be numbers; got strings in split 'eval'."),
        ([GOOD, {**GOOD, "fare": [b"7"]}], "must be tf.Examples with one type for each feature; got INVALID"),
        (
            [GOOD, {**GOOD, "fare": [1.0, 2.0]}],
            "Label 'fare' must have one width; got rows with [1, 2] values",
        ),
        (
            [GOOD] * 2 + [{**GOOD, "fare": [1.0, 2.0]}] * 2,
            "Label 'fare' must have one width; got rows with [1, 2] values",
        ),
        ([{**GOOD, "miles": [1.0, 2.0]}], "Feature 'miles' must have 1 values in each row; got rows with 2."),
        ([{**GOOD, "company": [3]}], "Feature 'company' must be strings; got int64."),
    ],
)
def test_rows_that_cannot_be_used_are_refused(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        read(write(tmp_path / "rows.gz", rows))


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([1.0, 2.0], "Label 'fare' must have one width; got [1, 2] in split 'eval'."),
        ([b"7"], "Label 'fare' must be numbers; got strings in split 'eval'."),
    ],
)
def test_labels_that_change_after_the_first_look_are_refused(
    tmp_path: Path, label: list[Any], message: str
) -> None:
    rows = [GOOD] * 256 + [{**GOOD, "fare": label}] * 256

    with pytest.raises(DataError, match=re.escape(message)):
        read(write(tmp_path / "rows.gz", rows), batch_size=256)


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            [[1.0], [NAN], [-1.0]],
            "must be finite and not negative; got 2 NaN, infinite or negative of 3",
        ),
        ([[1.0], [1.0], None], "must be set in each row; got 1 of 3 rows without it in split 'eval'."),
        (
            [None],
            "sample_weight_key 'trust' must be a feature of the rows in split 'eval'; they have",
        ),
        ([[b"1"]], "Sample weight 'trust' must be numbers; got strings in split 'eval'."),
        ([[1.0, 2.0]], "Sample weight 'trust' must be one number in each row; got 2 in split 'eval'."),
    ],
)
def test_weights_that_cannot_be_used_are_refused(tmp_path: Path, weights: list[Any], message: str) -> None:
    rows = [{**GOOD, "trust": one} for one in weights]
    rows = [{name: value for name, value in row.items() if value is not None} for row in rows]

    with pytest.raises(DataError, match=re.escape(message)):
        read(write(tmp_path / "rows.gz", rows), weight="trust")


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("name", ["rows", "rows.gz"])
def test_rows_come_in_order_across_batches(tmp_path: Path, name: str) -> None:
    rows = [{**GOOD, "fare": [n], "miles": [n / 2], "trust": [n / 4]} for n in range(5)]

    found = read(write(tmp_path / name, rows), weight="trust")

    assert found["labels"] == [[0.0], [1.0], [2.0], [3.0], [4.0]]
    assert found["columns"]["miles"] == [[0.0], [0.5], [1.0], [1.5], [2.0]]
    assert found["columns"]["company"] == [[b"Sun"]] * 5
    assert found["weights"] == [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.usefixtures("parser")
def test_a_missing_value_is_zero_or_what_the_file_says(tmp_path: Path) -> None:
    rows: list[Any] = [GOOD, {"fare": [2.0]}, {**GOOD, "company": [b""]}]
    path = write(tmp_path / "rows.gz", rows)

    assert read(path)["columns"] == {"miles": [[1.5], [0.0], [1.5]], "company": [[b"Sun"], [b""], [b""]]}
    marked = read(path, missing={"miles": -1.0, "company": b"?", "others": 3})
    assert marked["columns"] == {"miles": [[1.5], [-1.0], [1.5]], "company": [[b"Sun"], [b"?"], [b""]]}
    with pytest.raises(DataError, match=re.escape("Feature 'miles' must have a value in each row; got 1 of")):
        read(path, missing={"miles": None})


@pytest.mark.usefixtures("parser")
def test_a_feature_that_is_missing_at_first_is_found_later(tmp_path: Path) -> None:
    rows: list[Any] = [{"fare": [1.0]}] * 300 + [GOOD]
    features = {**FEATURES, "surge": (np.dtype(np.float32), (2,))}

    found = read(write(tmp_path / "rows.gz", rows), features, batch_size=300)

    assert found["census"].present >= {"miles", "company", "fare"}
    assert "surge" not in found["census"].present
    assert found["columns"]["miles"][-2:] == [[0.0], [1.5]]
    assert found["columns"]["surge"][-1] == [0.0, 0.0]


@pytest.mark.usefixtures("parser")
def test_integers_where_files_take_floats_are_numbers_and_may_be_marked_nan(tmp_path: Path) -> None:
    rows: list[Any] = [{**GOOD, "miles": [3]}, {"fare": [2.0]}]

    found = read(write(tmp_path / "rows.gz", rows), missing={"miles": NAN})

    np.testing.assert_array_equal(found["columns"]["miles"], [[3.0], [NAN]])


@pytest.mark.usefixtures("parser")
def test_what_slices_need_has_marks_where_files_get_fillers(tmp_path: Path) -> None:
    rows: list[Any] = [{**GOOD, "zone": [4], "stops": [1.0, 2.0]}, {"fare": [2.0]}]

    found = read(write(tmp_path / "rows.gz", rows), columns=("miles", "company", "zone", "stops", "none"))

    np.testing.assert_array_equal(found["extra"]["miles"], [1.5, NAN])
    assert found["extra"]["company"] == [b"Sun", None]
    assert found["extra"]["none"] == [None, None]
    np.testing.assert_array_equal(found["extra"]["zone"], [4.0, NAN])
    np.testing.assert_array_equal(found["extra"]["stops"], [[1.0, 2.0], [NAN, NAN]])
    assert found["columns"]["miles"] == [[1.5], [0.0]]


def test_both_parsers_read_the_same_from_rows_of_all_kinds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tfx_mobile.size_latency_evaluator import examples

    draw = np.random.default_rng(5)
    rows = []
    for _ in range(200):
        row: dict[str, Any] = {"fare": [float(draw.normal())], "trust": [float(draw.gamma(1.0))]}
        row["pair"] = draw.normal(size=2).tolist()
        for name, value in (("miles", float(draw.normal())), ("company", b"Sun"), ("zone", 3)):
            if draw.random() < 0.8:
                row[name] = [value]
        rows.append(row)
    path = write(tmp_path / "rows.gz", rows)
    features = {**FEATURES, "pair": (np.dtype(np.float32), (1, 2)), "zone": (np.dtype(np.int64), (1,))}
    settings: dict[str, Any] = {"weight": "trust", "columns": ("zone", "fare"), "missing": {"zone": -1}}

    fast = read(path, features, batch_size=64, **settings)
    monkeypatch.setattr(examples._Parser, "of", lambda *_: None)
    exact = read(path, features, batch_size=64, **settings)

    assert repr(fast.pop("extra")) == repr(exact.pop("extra"))
    assert (fast.pop("census").rows, exact.pop("census").rows) == (200, 200)
    assert fast == exact


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "rows", [GOOD] * 600)
    path.write_bytes(path.read_bytes()[:-3])

    with pytest.raises(DataError, match=re.escape(f"Examples must be whole TFRecord files; {path} is not:")):
        read(path, batch_size=100)


def test_rows_that_are_no_examples_are_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(tmp_path / "rows")) as writer:
        writer.write(b"no example")

    with pytest.raises(DataError, match=re.escape("must be tf.Examples with one type for each feature; got")):
        read(tmp_path / "rows")


def test_no_file_is_refused_by_its_pattern(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=re.escape(f"Examples must have at least one file; got none at {tmp_path}")
    ):
        read(tmp_path / "rows")


def test_an_unknown_split_stops_the_executor_before_anything_is_measured(tiny: Any, tmp_path: Path) -> None:
    from tfx.types import standard_artifacts

    from tfx_mobile.common import artifacts
    from tfx_mobile.size_latency_evaluator.config import EvaluatorConfig, SizeGate
    from tfx_mobile.size_latency_evaluator.executor import Executor

    candidates, examples = artifacts.ModelCandidates(), standard_artifacts.Examples()
    candidates.uri = str(tmp_path / "none")
    examples.uri, examples.split_names = str(tiny.examples), '["eval"]'
    config = EvaluatorConfig("fare", (SizeGate(max_bytes=5),), eval_split="test")

    with pytest.raises(DataError, match=re.escape("Examples must have the split 'test'; got eval in")):
        Executor().Do({"candidates": [candidates], "examples": [examples]}, {}, {"config": config.to_json()})


@pytest.mark.parametrize("num_left", [1, 2])
def test_a_file_that_ends_after_a_whole_record_but_too_early_is_refused(
    tmp_path: Path, num_left: int
) -> None:
    plain = write(tmp_path / "plain", [GOOD] * 3).read_bytes()
    size = len(plain) // 3
    encoder = zlib.compressobj(wbits=31)
    parts = [
        encoder.compress(plain[start : start + size]) + encoder.flush(zlib.Z_FULL_FLUSH)
        for start in range(0, 3 * size, size)
    ]
    path = tmp_path / "rows.gz"

    path.write_bytes(b"".join(parts) + encoder.flush())
    assert read(path)["census"].rows == 3
    path.write_bytes(b"".join(parts[:num_left]))
    with pytest.raises(
        DataError, match=re.escape(f"{path} is not: A gzip file must be whole; {path} is cut off")
    ):
        read(path)


def test_several_gzip_files_in_one_are_one_file(tmp_path: Path) -> None:
    one = write(tmp_path / "one.gz", [GOOD] * 3).read_bytes()
    path = tmp_path / "rows.gz"
    path.write_bytes(one + one)

    assert read(path)["census"].rows == 6
