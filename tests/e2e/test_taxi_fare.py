"""The main job, run for real: taxi rows in, a gated, signed TFLite file out."""

import dataclasses
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.e2e.runs import COMPONENTS, SMALL_EPOCHS, Finished, run_taxi

pytestmark = pytest.mark.e2e


def evaluation_of(run: Finished):
    from tfx_mobile.size_latency_evaluator.evaluation import load_evaluation

    return load_evaluation(run.uri("SizeLatencyEvaluator", "evaluation"))


def test_every_component_runs_and_says_so_in_one_line(taxi_run):
    assert [run.id for run in taxi_run.result.components] == COMPONENTS
    assert all(line in taxi_run.progress for line in COMPONENTS)
    still = [line for line in taxi_run.progress.splitlines() if " running  " in line]
    for run in taxi_run.result.components:  # what runs says so once a minute, and no more often
        assert sum(f" {run.id} " in line for line in still) <= run.seconds / 60
    assert len(taxi_run.progress.splitlines()) - len(still) < 30


def test_the_chosen_file_is_blessed_pushed_and_what_a_phone_fetches(taxi_run, tmp_path):
    from tfx_mobile.common import tflite_metadata
    from tfx_mobile.registry.client import Client
    from tfx_mobile.registry.store import Registry

    found = evaluation_of(taxi_run)
    assert found.blessed
    chosen = taxi_run.uri("SizeLatencyEvaluator", "model") / "Format-Serving" / "tflite"
    registry = Registry(taxi_run.registry)
    phone = Client(str(taxi_run.registry), root=registry.root_path, cache=tmp_path)
    fetched = phone.fetch("taxi-fare")
    assert fetched.path.read_bytes() == chosen.read_bytes()
    assert phone.record("taxi-fare", fetched.version).metadata["figures"]["candidate"] == found.chosen
    written = tflite_metadata.read(fetched.path.read_bytes())
    assert set(written.gates) == {v.gate for v in found.candidate(found.chosen).verdicts if not v.waived}
    assert written.pipeline_run
    candidate = taxi_run.uri("Quantizer", "candidates") / found.chosen / "model.tflite"
    unstamped = dataclasses.replace(written, gates={}, pipeline_run="")
    assert tflite_metadata.write(chosen.read_bytes(), unstamped) == candidate.read_bytes()
    assert taxi_run.properties("RegistryPusher", "pushed_model")["pushed"] == 1
    assert registry.verify()


def test_the_model_beats_the_mean_fare_and_a_linear_model_on_raw_features(taxi_run):
    from taxi_fare import baselines

    examples = taxi_run.uri("ExampleGen", "examples")
    others = baselines.measure([f"{examples}/Split-train/*"], [f"{examples}/Split-eval/*"])
    found = evaluation_of(taxi_run)
    metrics = found.candidate(found.chosen).metrics
    assert metrics["rmse"] < others.linear_rmse < others.mean_rmse
    assert metrics["mae"] < 0.8 * others.linear_mae < others.mean_mae


def test_dropped_rows_are_counted_and_evaluation_rows_never_fall_for_their_label(taxi_run):
    counts = json.loads((taxi_run.uri("ExampleGen", "examples") / "filtered.json").read_text())
    assert sum(counts["train"].values()) == 9909
    assert sum(counts["eval"].values()) == 5091
    assert "fare outside 0 to 200" in counts["train"]
    assert not any("fare" in reason for reason in counts["eval"])


def test_each_rung_has_its_zeros_in_the_tflite_file(taxi_run):
    from ai_edge_litert import schema_py_generated as schema

    from tfx_mobile.common import ladder

    (rung,) = [
        one for one in ladder.read(taxi_run.uri("PruningTrainer", "models")).rungs if one.name == "s75"
    ]
    assert rung.sparsity_fraction >= 0.75 - 1e-4
    content = (taxi_run.uri("Quantizer", "candidates") / "s75-float32" / "model.tflite").read_bytes()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    sizes = {}
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if data is not None and tensor.type == 0 and data.size >= 4 * 4096:
            values = np.frombuffer(bytes(data), np.float32)
            sizes[values.size] = float(np.mean(values == 0))
    big = {layer.num_weights: layer for layer in rung.layers if layer.num_weights >= 4096}
    assert big  # the cross embedding and the second dense layer at least
    assert {size: sizes[size] for size in big} == {
        size: pytest.approx(layer.num_zeros / size, abs=1e-6) for size, layer in big.items()
    }


PREDICT = """
import json, sys
assert not any(name.split(".")[0] in ("tfx", "tensorflow") for name in sys.modules)
import numpy as np
from ai_edge_litert.interpreter import Interpreter
rows = json.load(open(sys.argv[2]))
runner = Interpreter(model_path=sys.argv[1]).get_signature_runner("serving_default")
types = {name: detail["dtype"] for name, detail in runner.get_input_details().items()}
arrays = {
    name: np.array([v.encode() for v in values] if types[name] == np.bytes_ else values, types[name])
    for name, values in rows.items()
}
predictions = [
    float(runner(**{name: values[i : i + 1] for name, values in arrays.items()})["predictions"][0, 0])
    for i in range(len(next(iter(arrays.values()))))
]
json.dump(predictions, sys.stdout)
"""


@pytest.fixture(scope="session")
def phone_python(tmp_path_factory) -> Path:
    """An environment that has LiteRT and nothing of this project: what a phone has."""
    folder = tmp_path_factory.mktemp("phone") / "venv"
    uv = Path(sys.executable).with_name("uv")
    python = folder / "bin" / "python"
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, folder], check=True)
    wanted = [f"{name}=={importlib.metadata.version(name)}" for name in ("ai-edge-litert", "numpy")]
    subprocess.run([uv, "pip", "install", "-q", "--python", python, *wanted], check=True)
    return python


def predictions_of_the_pipeline(run: Finished, rung: str):
    """All raw evaluation rows, and what the rung's SavedModel says of them through its serving signature."""
    import tensorflow as tf

    from tfx_mobile.common import examples as examples_io
    from tfx_mobile.common.interpreter import TFLiteModel

    pattern = f"{run.uri('ExampleGen', 'examples')}/Split-eval/*"
    records = list(tf.data.TFRecordDataset(tf.io.gfile.glob(pattern), "GZIP").as_numpy_iterator())
    served = tf.saved_model.load(str(run.uri("PruningTrainer", "models") / rung)).signatures[
        "serving_default"
    ]
    wanted = served(examples=tf.constant(records))["predictions"].numpy()[:, 0]
    file = TFLiteModel(run.uri("Quantizer", "candidates") / f"{rung}-float32" / "model.tflite")
    features = {name: (spec.dtype, spec.row_shape) for name, spec in file.inputs.items()}
    batch = next(iter(examples_io.read_batches([pattern], batch_size=len(records))))
    columns = examples_io.to_columns(batch, features)
    rows = {k: [x.decode() if isinstance(x, bytes) else x.item() for x in v] for k, v in columns.items()}
    return rows, wanted


# All rows, for their order is another one in each run. int8 cuts off what is beyond the calibration rows',
# as a fare below zero is.
@pytest.mark.parametrize(
    ("mode", "tolerance", "share_beyond"), [("float32", 1e-4, 0.0), ("int8", 0.25, 0.01)]
)
def test_a_process_without_tfx_predicts_from_raw_values_what_the_pipeline_predicts(
    taxi_run, phone_python, tmp_path, mode, tolerance, share_beyond
):
    rows, wanted = predictions_of_the_pipeline(taxi_run, "s75")
    assert len(wanted) > 4000
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    file = taxi_run.uri("Quantizer", "candidates") / f"s75-{mode}" / "model.tflite"
    done = subprocess.run(
        [phone_python, "-c", PREDICT, file, tmp_path / "rows.json"],
        check=True,
        capture_output=True,
        text=True,
    )
    # int8: a fare is a multiple of the output's scale (half a unit), so small fares are off by some percent
    is_beyond = ~np.isclose(json.loads(done.stdout), wanted, rtol=tolerance, atol=1e-4)
    assert is_beyond.mean() <= share_beyond


@pytest.fixture(scope="session")
def second_run(taxi_run):
    """The same pipeline again, now that phones run what it pushed; and what the registry held before."""
    before = contents(taxi_run.registry)
    return before, run_taxi(taxi_run.workspace)


def test_the_first_run_says_that_it_is_the_first_release(taxi_run):
    assert taxi_run.properties("RegistryModel", "model")["first_release"] == 1
    assert evaluation_of(taxi_run).first_release
    assert "This is the first release of taxi-fare: " in (taxi_run.workspace / "run.log").read_text()


def test_the_second_run_compares_with_what_was_pushed_and_does_nothing_else_again(taxi_run, second_run):
    _, again = second_run
    ran = {run.id for run in again.result.components if run.state.name == "DONE"}
    assert ran == {"RegistryModel", "SizeLatencyEvaluator", "RegistryPusher"}
    assert again.properties("RegistryModel", "model")["version"] == 1
    found = evaluation_of(again)
    assert found.blessed
    assert found.chosen == evaluation_of(taxi_run).chosen
    against = {v.gate: v.value for v in found.candidate(found.chosen).verdicts if "vs baseline" in v.gate}
    assert list(against.values()) == [0.0, 1.0, 1.0]  # the file that phones run, measured once
    assert [release.version for release in found.history] == [1]


def test_an_unchanged_model_is_not_released_again_and_a_third_run_does_nothing(taxi_run, second_run):
    before, _ = second_run
    assert contents(taxi_run.registry) == before
    third = run_taxi(taxi_run.workspace)
    assert third.result.cached == len(COMPONENTS)
    assert third.progress.count("cached, nothing to do") == len(COMPONENTS)
    assert contents(taxi_run.registry) == before


def test_the_registry_has_where_the_file_came_from_and_no_path_of_this_machine(taxi_run):
    from tfx_mobile.registry.store import Registry

    (record,) = Registry(taxi_run.registry).versions("taxi-fare")
    assert record.metadata["provenance"]["pipeline"] == "taxi-fare"
    assert len(record.metadata["provenance"]["eval_files_sha256"]) == 64
    assert str(taxi_run.workspace) not in json.dumps(record.metadata)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def demo(*arguments: str, **settings) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "taxi_fare", *arguments],
        capture_output=True,
        text=True,
        check=False,
        **settings,
    )


@pytest.mark.parametrize(
    ("argument", "gate"),
    [
        ("--max-rmse=0.5", "rmse <= 0.5"),
        ("--max-gz-bytes=1000", "gz size <= 1,000 bytes"),
        ("--max-latency-us=0.01", "latency p50 <= 0.01 us"),
    ],
)
def test_a_planted_failure_of_a_gate_stops_the_push_and_is_named(taxi_run, argument, gate):
    before = contents(taxi_run.registry)
    done = demo(argument, f"--epochs={SMALL_EPOCHS}", "--workspace", str(taxi_run.workspace))
    said = " ".join(done.stdout.split())
    assert done.returncode == 1, done.stdout + done.stderr
    assert "NOT_BLESSED" in said
    assert gate in said
    assert re.search(rf"fail +{re.escape(gate)}: got [^,]*, margin -", said)
    assert "nothing pushed" in said
    for page in re.findall(r"^(?:Report|Reduction) +(.*)$", done.stdout, re.MULTILINE):
        assert Path(page).stat().st_size > 1_000_000  # plotly is in it
    assert contents(taxi_run.registry) == before


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "DATA must be a folder with CSV files; {folder} has nothing in it."),
        ({"a.csv": ""}, "{folder}/a.csv must have a header line and rows; it is empty."),
        (
            {"a.csv": "fare_amount,pickup_datetime\n1,2011-01-28 20:42:59 UTC\n"},
            "a.csv must have a column for each feature; it lacks 'pickup_latitude'",
        ),
        (
            {
                "a.csv": "fare_amount,pickup_datetime,pickuplon,pickuplat,dropofflon,dropofflat,passengers\n"
                "cheap,2011-01-28 20:42:59 UTC,-73.9,40.7,-73.9,40.7,1\n"
            },
            "a.csv, line 2: column 'fare_amount' is read as the label, a number; got 'cheap'",
        ),
    ],
)
def test_the_demo_refuses_wrong_data_with_one_message(tmp_path, files, message):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    done = demo("--data", str(folder), "--workspace", str(tmp_path / "workspace"))
    assert done.returncode == 2
    assert message.format(folder=folder) in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_the_demo_refuses_a_folder_that_does_not_exist_and_a_workspace_that_cannot_be_written(tmp_path):
    done = demo("--data", str(tmp_path / "none"), "--workspace", str(tmp_path / "workspace"))
    assert done.returncode == 2
    assert (
        f"DATA must be a folder with CSV files; got {tmp_path / 'none'}, which does not exist." in done.stderr
    )
    (tmp_path / "file").write_text("")
    done = demo("--workspace", str(tmp_path / "file" / "below"))
    assert done.returncode == 2
    assert "Choose another" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_demo_killed_in_a_component_continues_from_the_last_finished_one(taxi_run):
    states = {run.id: run.state.name for run in taxi_run.result.components}
    assert states == dict.fromkeys(COMPONENTS[:5], "CACHED") | dict.fromkeys(COMPONENTS[5:], "DONE")
