"""A file that crashes or hangs the process is named and costs only itself. Real files, real processes."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common.interpreter import TFLiteModel
from tfx_mobile.size_latency_evaluator.predictor import Predictor

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def contents(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The tiny files, and files that hang on miles above 1e6, have two outputs, take miles as pairs."""
    import tensorflow as tf

    def number(width: int) -> Any:
        return tf.TensorSpec([None, width], tf.float32, name="miles")

    class Odd(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[number(1)])  # type: ignore[untyped-decorator]
        def hang(self, miles: Any) -> Any:
            turns = tf.while_loop(
                lambda turn, top: top > 1e6, lambda turn, top: (turn + 1.0, top), (0.0, tf.reduce_max(miles))
            )
            return {"fare": miles + turns[0]}

        @tf.function(input_signature=[number(1)])  # type: ignore[untyped-decorator]
        def two(self, miles: Any) -> Any:
            return {"tip": miles * 2.0, "fare": tf.concat([miles, -miles], axis=1)}

        @tf.function(input_signature=[number(2)])  # type: ignore[untyped-decorator]
        def pairs(self, miles: Any) -> Any:
            return {"fare": miles}

    module, folder = Odd(), tmp_path_factory.mktemp("odd")
    found = dict(tiny.contents)
    for name in ("hang", "two", "pairs"):
        tf.saved_model.save(module, str(folder / name), signatures=getattr(module, name))
        found[name] = tf.lite.TFLiteConverter.from_saved_model(str(folder / name)).convert()
    return found


@pytest.fixture
def start(contents: dict[str, bytes], tmp_path: Path) -> Iterator[Any]:
    """Starts predictors, which end with the test."""
    started = []

    def start(*names: str, **settings: Any) -> Predictor:
        paths = {}
        for name in names:
            paths[name] = tmp_path / f"{name}.tflite"
            paths[name].write_bytes(contents[name])
        started.append(Predictor(paths, **{"batch_size": 64, "timeout_seconds": 300.0, **settings}))
        return started[-1]

    yield start
    for predictor in started:
        predictor.close()


def taken(tiny: Any, rows: int = 400) -> dict[str, Any]:
    return {name: column[:rows].reshape(-1, 1) for name, column in tiny.columns.items()}


def test_files_around_one_that_crashes_predict_what_they_predict_alone(tiny: Any, start: Any) -> None:
    predictor = start("s0-noise", "s0-crash", "s0-float32", "s0-int8")

    assert predictor.features() == {"miles": (np.dtype("<f4"), (1,)), "company": (np.bytes_, (1,))}
    found = predictor.predict(taken(tiny))

    assert sorted(predictor.failures) == ["s0-crash", "s0-noise"]
    assert "died with SIGSEGV while it ran this file." in predictor.failures["s0-crash"]
    assert "not a valid Flatbuffer" in predictor.failures["s0-noise"]
    for name in ("s0-float32", "s0-int8"):
        model = TFLiteModel(tiny.contents[name])
        parts = [model.predict(taken_rows(tiny, begin)) for begin in range(0, 400, 64)]
        np.testing.assert_array_equal(found[name]["fare"], np.concatenate(parts))


def taken_rows(tiny: Any, begin: int) -> dict[str, Any]:
    return {name: column[begin : begin + 64] for name, column in tiny.columns.items()}


DYING = """
import os, signal, sys
sys.path[:] = sys.argv[1:]
from tfx_mobile.size_latency_evaluator import prediction_worker

class Dying(prediction_worker.TFLiteModel):
    def __init__(self, path):
        self.is_ill = path.name == "s0-int8.tflite"
        super().__init__(path)

    def predict_outputs(self, columns):
        if self.is_ill and len(columns["miles"]) == 36:
            print("error: the last batch is too short", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().predict_outputs(columns)

prediction_worker.TFLiteModel = Dying
prediction_worker.main()
"""


def test_a_file_that_crashes_in_the_middle_is_named_with_signal_and_last_words(
    tiny: Any, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tfx_mobile.size_latency_evaluator import predictor as module

    monkeypatch.setattr(module, "_START", DYING)
    predictor = start("s0-float32", "s0-int8", "s0-dynamic")
    rows = taken(tiny, 128)
    before = predictor.predict(rows)
    assert predictor.failures == {}

    found = predictor.predict(taken(tiny, 100))  # 64 and 36 rows

    assert predictor.failures == {
        "s0-int8": "The measuring process died with SIGSEGV while it ran this file. "
        "It wrote: error: the last batch is too short"
    }
    assert sorted(found) == ["s0-dynamic", "s0-float32"]
    for name, outputs in found.items():
        assert len(outputs["fare"]) == 100
        np.testing.assert_array_equal(outputs["fare"][:64], before[name]["fare"][:64])


def test_a_file_that_hangs_on_some_rows_is_stopped_and_the_batch_is_done_without_it(
    tiny: Any, start: Any
) -> None:
    # The others take milliseconds, if nothing stalls.
    predictor = start("s0-float32", "hang", "s0-int8", timeout_seconds=20.0)
    rows = taken(tiny, 100)
    wanted = predictor.predict(rows)
    assert sorted(wanted) == ["hang", "s0-float32", "s0-int8"]
    np.testing.assert_array_equal(wanted["hang"]["fare"], rows["miles"])

    poisoned = {**rows, "miles": np.concatenate([rows["miles"][:-1], [[2e6]]]).astype(np.float32)}
    found = predictor.predict(poisoned)

    expected = "The measuring process took longer than 20 s while it ran this file."
    assert predictor.failures == {"hang": expected}
    for name in ("s0-float32", "s0-int8"):
        np.testing.assert_array_equal(found[name]["fare"][:-1], wanted[name]["fare"][:-1])
    assert sorted(predictor.predict(rows)) == ["s0-float32", "s0-int8"]


def test_a_process_that_somebody_kills_between_batches_costs_no_file(tiny: Any, start: Any) -> None:
    predictor = start("s0-float32")
    wanted = predictor.predict(taken(tiny))

    os.kill(predictor._process._process.pid, signal.SIGKILL)

    np.testing.assert_array_equal(
        predictor.predict(taken(tiny))["s0-float32"]["fare"], wanted["s0-float32"]["fare"]
    )
    assert predictor.failures == {}


def test_a_process_that_cannot_start_fails_every_file_with_its_last_words(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tfx_mobile.size_latency_evaluator import predictor as module

    monkeypatch.setattr(module, "_START", "raise SystemExit('no NumPy here')")
    predictor = start("s0-float32", "s0-int8")

    assert predictor.features() == {}
    expected = "The measuring process ended with code 1. It wrote: no NumPy here"
    assert predictor.failures == dict.fromkeys(["s0-float32", "s0-int8"], expected)
    assert predictor.predict({"miles": np.zeros((1, 1))}) == {}


def test_rows_that_one_file_refuses_fail_that_file_only(tiny: Any, start: Any) -> None:
    predictor = start("s0-stranger", "s0-float32")

    found = predictor.predict(taken(tiny))

    assert sorted(found) == ["s0-float32"]
    assert "The file needs the features" in predictor.failures["s0-stranger"]
    assert predictor.takes("s0-stranger") == ("company", "surge")


def test_outputs_come_by_name_and_a_file_without_one_that_is_asked_for_fails(start: Any) -> None:
    predictor = start("two", "hang", outputs=("tip", "fare"))

    found = predictor.predict({"miles": np.array([[1.0], [2.0]], np.float32)})

    assert {name: values.tolist() for name, values in found["two"].items()} == {
        "tip": [[2.0], [4.0]],
        "fare": [[1.0, -1.0], [2.0, -2.0]],
    }
    assert predictor.failures == {"hang": "It has no output 'tip'; it has 'fare'."}


@pytest.mark.parametrize(("order", "loser"), [(("pairs", "two"), "two"), (("two", "pairs"), "pairs")])
def test_of_files_that_take_a_feature_differently_the_first_is_right(
    start: Any, order: tuple[str, ...], loser: str
) -> None:
    predictor = start(*order)

    predictor.features()

    assert list(predictor.failures) == [loser]
    assert re.match(r"It takes feature 'miles' as float32 \[\d\], others as", predictor.failures[loser])


def test_without_files_there_is_nothing_to_predict(start: Any) -> None:
    predictor = start()

    assert (predictor.features(), predictor.predict({})) == ({}, {})
