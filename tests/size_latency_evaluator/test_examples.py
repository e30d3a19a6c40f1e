"""Labels that cannot be used stop the run before anything is measured, with count and split."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common.errors import DataError

pytestmark = pytest.mark.pipeline

FEATURES: dict[str, Any] = {"miles": (np.dtype(np.float32), (1,)), "company": (np.bytes_, (1,))}


def write(folder: Path, rows: list[dict[str, Any]]) -> list[str]:
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(folder / "rows-00000-of-00001.gz"), "GZIP") as writer:
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
    return [str(folder / "rows*")]


def read(patterns: list[str], batch_size: int = 2) -> Any:
    from tfx_mobile.size_latency_evaluator import examples

    return examples.read_rows(patterns, FEATURES, label_key="fare", split="eval", batch_size=batch_size)


GOOD: dict[str, Any] = {"miles": [1.5], "company": [b"Sun"], "fare": [7.0]}


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
            [GOOD, {**GOOD, "fare": [float("nan")]}, {**GOOD, "fare": [float("inf")]}],
            "Label 'fare' must be finite; got 2 NaN or infinite of 3 rows in split 'eval'.",
        ),
        ([{**GOOD, "fare": [b"7"]}], "Label 'fare' must be numbers; got strings in split 'eval'."),
        (
            [GOOD, {**GOOD, "fare": [1.0, 2.0]}],
            "Label 'fare' must have one width; got rows with [1, 2] values",
        ),
        ([GOOD, GOOD, {**GOOD, "fare": [1.0, 2.0]}], "Label 'fare' must have one width; got [1, 2] in split"),
        ([{**GOOD, "miles": [1.0, 2.0]}], "Feature 'miles' must have 1 values in each row; got rows with 2."),
        ([{**GOOD, "company": [3]}], "Feature 'company' must be strings; got int64."),
    ],
)
def test_rows_that_cannot_be_used_are_refused(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        read(write(tmp_path, rows))


def test_rows_come_in_order_across_batches(tmp_path: Path) -> None:
    rows = read(write(tmp_path, [{**GOOD, "fare": [float(n)], "miles": [n / 2]} for n in range(5)]))

    assert rows.labels.tolist() == [[0.0], [1.0], [2.0], [3.0], [4.0]]
    assert rows.columns["miles"].tolist() == [[0.0], [0.5], [1.0], [1.5], [2.0]]


def test_integer_labels_are_numbers(tmp_path: Path) -> None:
    assert read(write(tmp_path, [{**GOOD, "fare": [3]}])).labels.tolist() == [[3.0]]


def test_a_feature_no_row_has_is_left_out_and_a_missing_value_is_zero(tmp_path: Path) -> None:
    rows = read(write(tmp_path, [{"miles": [1.0], "fare": [1.0]}, {"fare": [2.0]}]))

    assert sorted(rows.columns) == ["miles"]
    assert rows.columns["miles"].tolist() == [[1.0], [0.0]]


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
