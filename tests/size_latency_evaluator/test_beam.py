"""The tallies are those of all rows at once, whatever the shards, the workers and the broken files."""

import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common.errors import DataError
from tfx_mobile.common.interpreter import TFLiteModel
from tfx_mobile.size_latency_evaluator.config import EvaluatorConfig, LatencyConfig, Metric, SizeGate

pytestmark = pytest.mark.pipeline

NAMES = ("s0-float32", "s0-crash", "s0-int8", "s0-nan", "s0-stranger", "s0-noise")
EASY = (SizeGate(max_bytes=10**9),)
TWO_WORKERS = ("--direct_num_workers=2", "--direct_running_mode=multi_threading")


def write_files(folder: Path, contents: Mapping[str, bytes]) -> dict[str, Path]:
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}


def write_shards(folder: Path, columns: Mapping[str, Any], num_shards: int) -> str:
    """Writes the rows, in order, to so many files; returns their pattern."""
    import tensorflow as tf

    folder.mkdir()
    for shard, positions in enumerate(np.array_split(np.arange(len(columns["fare"])), num_shards)):
        path = str(folder / f"rows-{shard:05d}.gz")
        with tf.io.TFRecordWriter(path, "GZIP") as writer:
            for position in positions:
                example = tf.train.Example()
                for name, values in columns.items():
                    feature = example.features.feature[name]
                    if isinstance(values[position], bytes):
                        feature.bytes_list.value.append(values[position])
                    else:
                        feature.float_list.value.extend(np.ravel(values[position]).tolist())
                writer.write(example.SerializeToString())
    return str(folder / "*")


def predict(
    paths: Mapping[str, Path],
    pattern: str,
    folder: Path,
    config: EvaluatorConfig,
    arguments: Sequence[str] = (),
    missing: Mapping[str, Any] | None = None,
) -> Any:
    import apache_beam

    from tfx_mobile.size_latency_evaluator import beam

    found = beam.predict(
        paths,
        config,
        patterns=[pattern],
        missing=missing or {},
        make_pipeline=lambda: apache_beam.Pipeline(argv=list(arguments)),
        folder=str(folder),
    )
    assert not list(folder.glob("predictions*"))
    return found


def settings(**changed: Any) -> EvaluatorConfig:
    values: dict[str, Any] = {
        "label_key": "fare",
        "gates": EASY,
        "metrics": (Metric.RMSE, Metric.MAE),
        "batch_size": 64,
        "latency": LatencyConfig(num_rows=5),
        "prediction_timeout_seconds": 300.0,
    }
    return EvaluatorConfig(**values | changed)


@pytest.fixture(scope="module")
def runs(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same rows in 1 file with one worker, and in 3 files with one worker and with two."""
    folder = tmp_path_factory.mktemp("runs")
    paths = write_files(folder / "files", {name: tiny.contents[name] for name in NAMES})
    columns = {**tiny.columns, "fare": tiny.labels}
    one, three = write_shards(folder / "one", columns, 1), write_shards(folder / "three", columns, 3)
    return {
        "one file": predict(paths, one, folder, settings()),
        "three files": predict(paths, three, folder, settings()),
        "two workers": predict(paths, three, folder, settings(), TWO_WORKERS),
    }


def test_metrics_are_those_of_all_rows_at_once(tiny: Any, runs: dict[str, Any]) -> None:
    for name in ("s0-float32", "s0-int8"):
        errors = TFLiteModel(tiny.contents[name]).predict(tiny.columns)[:, 0].astype(np.float64) - tiny.labels
        for found in runs.values():
            assert found.rows == 400
            # In other batches the kernels add up in another order: float32, 7 digits.
            rmse, mae = (found.accuracy.value(metric, name) for metric in ("rmse", "mae"))
            assert rmse == pytest.approx(float(np.sqrt(np.mean(errors**2))), rel=1e-5)
            assert mae == pytest.approx(float(np.mean(np.abs(errors))), rel=1e-5)


def test_the_number_of_workers_changes_no_bit_and_that_of_files_the_last_digits(runs: dict[str, Any]) -> None:
    values = {
        run: [found.accuracy.value(m, f) for m in ("rmse", "mae") for f in ("s0-float32", "s0-int8")]
        for run, found in runs.items()
    }

    assert values["two workers"] == values["three files"]
    assert values["three files"] == pytest.approx(values["one file"], rel=1e-6)


def test_each_broken_file_is_named_in_every_run(runs: dict[str, Any]) -> None:
    for found in runs.values():
        assert sorted(found.failures) == ["s0-crash", "s0-noise", "s0-stranger"]
        assert "died with SIGSEGV while it ran this file." in found.failures["s0-crash"]
        assert "not a valid Flatbuffer" in found.failures["s0-noise"]
        assert found.failures["s0-stranger"] == "It takes 'surge', which no row of split 'eval' has."
        assert found.accuracy.failure("s0-nan") == "Its outputs are not finite on 400 of 400 rows."


def test_the_sample_is_the_same_rows_whatever_the_workers(tiny: Any, runs: dict[str, Any]) -> None:
    def rows(run: str) -> list[Any]:
        columns = runs[run].columns
        assert sorted(columns) == ["company", "miles"]
        return list(zip(columns["miles"].ravel().tolist(), columns["company"].ravel().tolist(), strict=True))

    pairs = set(zip(tiny.columns["miles"].tolist(), tiny.columns["company"].tolist(), strict=True))

    assert rows("two workers") == rows("three files")
    for run in runs:
        assert len(set(rows(run))) == 5
        assert set(rows(run)) <= pairs


def test_a_sample_merged_in_any_order_is_that_of_all_rows() -> None:
    from tfx_mobile.size_latency_evaluator.beam import Sample
    from tfx_mobile.size_latency_evaluator.examples import Rows

    def sample(*parts: tuple[int, int]) -> Sample:
        made = Sample(7)
        for number, first in parts:
            column = 1000.0 * number + np.arange(first, first + 10)
            made.add(number, Rows(first, {"x": column}, {"": column[:, None]}, None, {}))
        return made

    whole = sample((0, 0), (0, 10), (1, 0), (2, 0), (2, 10))
    left, right = sample((2, 10), (0, 10)), sample((2, 0), (1, 0), (0, 0))
    right.merge(left)

    assert whole.columns()["x"].tolist() == right.columns()["x"].tolist()
    assert len(set(whole.columns()["x"].tolist())) == 7


def test_more_processes_give_the_same_predictions_and_failures(tiny: Any, tmp_path: Path) -> None:
    from tfx_mobile.size_latency_evaluator import beam
    from tfx_mobile.size_latency_evaluator.predictor import Predictor

    names = ("s0-float32", "s0-int8", "s0-noise")
    paths = write_files(tmp_path / "files", {name: tiny.contents[name] for name in names})
    batches = [
        {name: column[start : start + 100].reshape(-1, 1) for name, column in tiny.columns.items()}
        for start in range(0, 400, 100)
    ]

    def start() -> Predictor:
        return Predictor(paths, batch_size=64, timeout_seconds=300.0)

    def run(slow_seconds: float) -> tuple[int, list[Any], dict[str, str]]:
        crew = beam._Crew(start(), start, 3, slow_seconds)
        crew.features()
        # One after another: only after a slow one is there reason to start another process.
        found = [crew.submit(batch).result() for batch in batches]
        ended = crew.size, found, crew.failures()
        crew.close()
        return ended

    size, found, failures = run(0.0)
    size_of_one, found_by_one, failures_of_one = run(float("inf"))

    assert (size, size_of_one) == (3, 1)
    assert list(failures) == ["s0-noise"]
    assert failures == failures_of_one
    for many, one in zip(found, found_by_one, strict=True):
        assert sorted(many) == ["s0-float32", "s0-int8"]
        for name, outputs in many.items():
            for output, values in outputs.items():
                assert values.tolist() == one[name][output].tolist()


@pytest.mark.parametrize(
    ("arguments", "processes", "is_without_beam"),
    [
        ([], 6, True),
        (["--direct_running_mode=multi_processing"], 6, False),
        (["--direct_num_workers=2"], 3, False),
        (["--direct_num_workers=0"], 1, False),
        (["--direct_num_workers=9"], 1, False),
        (["--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"], 6, True),
        (["--runner=FlinkRunner"], 1, False),
    ],
)
def test_local_workers_share_the_cores_and_one_alone_needs_no_beam(
    arguments: list[str], processes: int, is_without_beam: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apache_beam.options.pipeline_options import PipelineOptions

    from tfx_mobile.size_latency_evaluator import beam

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))

    options = PipelineOptions(arguments)
    assert beam._processes_per_worker(options) == processes
    assert beam._is_one_thread(options) is is_without_beam


@pytest.mark.parametrize("num_shards", [1, 3])
def test_a_bad_label_is_counted_over_all_files(tiny: Any, tmp_path: Path, num_shards: int) -> None:
    labels = tiny.labels.copy()
    labels[[5, 399]] = np.nan, np.inf
    pattern = write_shards(tmp_path / "rows", {**tiny.columns, "fare": labels}, num_shards)
    paths = write_files(tmp_path / "files", {"a": tiny.contents["s0-float32"]})

    with pytest.raises(DataError, match=re.escape("got 2 NaN or infinite of 400 rows in split 'eval'")):
        predict(paths, pattern, tmp_path, settings())


def test_after_a_bad_label_no_row_is_predicted_with(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tfx_mobile.size_latency_evaluator import predictor

    labels = tiny.labels.copy()
    labels[0] = np.nan
    pattern = write_shards(tmp_path / "rows", {**tiny.columns, "fare": labels}, 1)
    paths = write_files(tmp_path / "files", {"a": tiny.contents["s0-float32"]})
    calls: list[Any] = []
    monkeypatch.setattr(predictor.Predictor, "predict", lambda self, columns: calls.append(columns))

    with pytest.raises(DataError, match=re.escape("got 1 NaN or infinite of 400 rows in split 'eval'")):
        predict(paths, pattern, tmp_path, settings())

    assert calls == []


def test_a_file_of_the_split_that_is_cut_off_is_refused_by_its_name(tiny: Any, tmp_path: Path) -> None:
    pattern = write_shards(tmp_path / "rows", {**tiny.columns, "fare": tiny.labels}, 2)
    last = tmp_path / "rows" / "rows-00001.gz"
    last.write_bytes(last.read_bytes()[:-200])
    paths = write_files(tmp_path / "files", {"a": tiny.contents["s0-float32"]})

    with pytest.raises(DataError, match=re.escape(f"Examples must be whole TFRecord files; {last} is not:")):
        predict(paths, pattern, tmp_path, settings())


def test_rows_are_counted_where_no_file_can_be_run(tiny: Any, tmp_path: Path) -> None:
    pattern = write_shards(tmp_path / "rows", {**tiny.columns, "fare": tiny.labels}, 1)

    found = predict({}, pattern, tmp_path, settings())

    assert (found.rows, found.columns, found.failures) == (400, {}, {})


def test_labels_weights_and_slices_reach_the_tally_by_output(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    from tfx_mobile.size_latency_evaluator import beam

    class Two(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32, name="miles")])  # type: ignore[untyped-decorator]
        def serve(self, miles: Any) -> Any:
            return {"tip": miles * 2.0, "fare": tf.concat([miles, -miles], axis=1)}

    tf.saved_model.save(module := Two(), str(tmp_path / "saved"), signatures=module.serve)
    content = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved")).convert()
    miles = np.arange(6, dtype=np.float32)
    columns = {
        "miles": miles,
        "fare_pair": np.stack([miles, miles + 1], axis=1),
        "fare": miles + 2,
        "trust": miles / 4,
        "company": [b"Sun"] * 5 + [b"Blue"],
    }
    pattern = write_shards(tmp_path / "rows", columns, 1)
    paths = write_files(tmp_path / "files", {"two": content, "one": tiny.contents["s0-float32"]})
    batches: list[Any] = []
    monkeypatch.setattr(beam, "Tally", lambda *_: Recorder(batches))
    config = settings(batch_size=4)
    object.__setattr__(config, "labels", {"tip": "fare", "fare": "fare_pair"})
    object.__setattr__(config, "sample_weight_key", "trust")
    monkeypatch.setattr(type(config), "needed_features", lambda self: ("trust", "company"))

    found = predict(paths, pattern, tmp_path, config)

    assert found.failures == {"one": "It has no output 'tip'; it has 'fare'."}
    [batch] = batches
    assert batch.labels["tip"].tolist() == (miles + 2)[:, None].tolist()
    assert batch.labels["fare"].tolist() == columns["fare_pair"].tolist()  # type: ignore[attr-defined]
    assert batch.predictions["two"]["tip"].tolist() == (miles * 2)[:, None].tolist()
    assert batch.predictions["two"]["fare"].tolist() == np.stack([miles, -miles], axis=1).tolist()
    assert {output: values.shape for output, values in batch.predictions["one"].items()} == {
        "tip": (6, 1),
        "fare": (6, 2),
    }
    assert np.isnan(batch.predictions["one"]["fare"]).all()
    assert batch.weights.tolist() == (miles / 4).tolist()
    assert batch.columns["company"].tolist() == columns["company"]


class Recorder:
    """A tally that keeps its batches."""

    def __init__(self, batches: list[Any]) -> None:
        self._batches = batches

    def add(self, batch: Any) -> None:
        self._batches.append(batch)

    def result(self) -> None:
        return None

    def __reduce__(self) -> Any:
        return (Recorder, ([],))


def test_a_run_that_is_killed_leaves_no_process_and_a_rerun_works(tiny: Any, tmp_path: Path) -> None:
    pattern = write_shards(tmp_path / "rows", {**tiny.columns, "fare": tiny.labels}, 40)
    paths = write_files(tmp_path / "files", {"a": tiny.contents["s0-float32"]})
    program = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import test_beam
from tfx_mobile.size_latency_evaluator import beam
add = beam.Sample.add
def slow(self, number, rows):
    if number == 3:
        print("reading", flush=True)
        time.sleep(600)
    add(self, number, rows)
beam.Sample.add = slow
paths = {{"a": Path({str(paths["a"])!r})}}
test_beam.predict(paths, {pattern!r}, Path({str(tmp_path)!r}), test_beam.settings())
"""
    run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    while "reading" not in run.stdout.readline():
        assert run.poll() is None
    children = children_of(run.pid)
    assert children

    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()

    until = time.monotonic() + 300
    while any(os.path.exists(f"/proc/{child}") for child in children) and time.monotonic() < until:
        time.sleep(0.1)
    assert not [child for child in children if os.path.exists(f"/proc/{child}")]
    assert not list(tmp_path.glob("predictions*"))
    assert predict(paths, pattern, tmp_path, settings()).rows == 400


def children_of(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize("largest", [0, 1 << 20])
def test_workers_that_share_nothing_get_the_files_whole_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int
) -> None:
    from tfx_mobile.size_latency_evaluator import beam

    monkeypatch.setattr(beam, "_MAX_CARRIED_BYTES", largest)
    contents = {"a": b"first", "b": b"second"}
    paths = write_files(tmp_path / "here", contents)
    there, worker = tmp_path / "there", tmp_path / "worker"
    worker.mkdir()

    with beam._shared(beam._carried(paths), str(there)) as found:
        shutil.rmtree(tmp_path / "here")  # which no worker can see
        local = beam._local(found, worker)
        assert {name: path.read_bytes() for name, path in local.items()} == contents
        assert all(path.parent == worker for path in local.values())
        assert len(list(there.iterdir())) == (2 if largest == 0 else 0)

    assert not there.exists()


def test_what_was_found_comes_back_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tfx_mobile.size_latency_evaluator import beam

    target = tmp_path / "predictions-1"
    beam._save("first", str(target))
    monkeypatch.setattr(beam.fileio, "rename", _dies)
    with pytest.raises(KeyboardInterrupt):
        beam._save("second", str(target))

    assert pickle.loads(target.read_bytes()) == "first"


def _dies(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt
