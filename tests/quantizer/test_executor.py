"""The executor on real artifacts: every candidate proved, failures kept with their reason."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common import candidates, ladder, tflite_metadata
from tfx_mobile.common.errors import DataError
from tfx_mobile.common.interpreter import TFLiteModel
from tfx_mobile.quantizer.config import (
    Label,
    Mode,
    Quantization,
    QuantizerConfig,
    Runtime,
    quantizations,
)

pytestmark = pytest.mark.pipeline

ROWS = 100
STANDARD = (Mode.FLOAT32, Mode.FLOAT16, Mode.DYNAMIC_RANGE, Mode.INT8)


def quantize(folder: Path, examples: Any, *, graph: Any = None, **sources: Any) -> Path:
    """Runs the executor and returns the folder of the candidates."""
    from tfx_mobile.common.artifacts import ModelCandidates
    from tfx_mobile.quantizer.executor import Executor

    made = ModelCandidates()
    made.uri = str(folder)
    settings = {"modes": "standard", "evaluation_split": "", "calibration_rows": ROWS}
    settings |= sources.pop("settings", {}) | ({"modes": sources.pop("modes")} if "modes" in sources else {})
    inputs = {"examples": [examples], **{name: [artifact] for name, artifact in sources.items()}}
    if graph is not None:
        inputs["transform_graph"] = [graph]
    config = QuantizerConfig(**settings | {"modes": quantizations(settings["modes"])})
    Executor().Do(inputs, {"candidates": [made]}, {"config": config.to_json()})
    return folder


def model_artifact(folder: Path, model: Any) -> Any:
    """Saves a Keras model as a stock Trainer does."""
    from tfx.types import standard_artifacts

    artifact = standard_artifacts.Model()
    artifact.uri = str(folder)
    model.save(folder / "Format-Serving", save_format="tf", include_optimizer=False)
    return artifact


def load(folder: Path) -> Any:
    import tf_keras

    return tf_keras.models.load_model(folder, compile=False)


@pytest.fixture(scope="module")
def made(trips: Any, trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Candidates of the ladder, taking raw features."""
    folder = tmp_path_factory.mktemp("candidates")
    return quantize(folder, trips.raw_examples(), graph=trips.transform_graph(), models=trained["models"])


def test_every_rung_is_there_in_every_mode(made: Path) -> None:
    found = candidates.read(made)
    wanted = [f"{rung}-{mode.value}" for rung in ("s0", "s50") for mode in STANDARD]
    assert [candidate.name for candidate in found.candidates] == wanted
    assert [candidate.failure for candidate in found.candidates] == [""] * 8
    assert found.reference == "s0-float32"
    assert found.raw_inputs


def test_sizes_and_hashes_are_those_of_the_files(made: Path) -> None:
    for candidate in candidates.read(made).usable():  # reading checks each hash
        content = candidates.model_path(made, candidate.name).read_bytes()
        assert candidate.size_bytes == len(content)
        assert candidate.gz_size_bytes == candidates.gz_size_bytes(content)


def test_float32_agrees_with_keras_to_a_ten_thousandth(made: Path, trained: Any, trips: Any) -> None:
    for rung in ladder.read(Path(trained["models"].uri)).rungs:
        model = load(Path(trained["models"].uri) / rung.name)
        inputs = {name: trips.transformed[name] for name in model.input_names}
        wanted = model.predict(inputs, verbose=0, batch_size=1024)
        found = TFLiteModel(candidates.model_path(made, f"{rung.name}-float32"))
        got = found.predict({name: trips.raw[name] for name in found.inputs})
        assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_candidates_take_raw_features_and_no_label(made: Path) -> None:
    for candidate in candidates.read(made).usable():
        inputs = TFLiteModel(candidates.model_path(made, candidate.name)).inputs
        assert set(inputs) == {"company", "epoch_s", "latitude", "miles"}


def test_the_differences_in_the_manifest_are_those_of_the_drawn_rows(
    made: Path, trained: Any, trips: Any
) -> None:
    """The drawn rows are found again by their values: all features of a trip are in the file's inputs."""
    found = candidates.read(made)
    assert found.calibration is not None
    assert found.calibration.rows == ROWS
    by_name = {candidate.name: candidate for candidate in found.candidates}
    model = load(Path(trained["models"].uri) / "s0")
    inputs = {name: trips.transformed[name] for name in model.input_names}
    wanted = model.predict(inputs, verbose=0)
    for mode in (Mode.DYNAMIC_RANGE, Mode.INT8):
        file = TFLiteModel(candidates.model_path(made, f"s0-{mode.value}"))
        gap = np.abs(file.predict({key: trips.raw[key] for key in file.inputs}) - wanted)
        candidate = by_name[f"s0-{mode.value}"]
        # a hundred of the 640 rows: at most the largest of all, and on average about their average
        assert 0 < candidate.max_abs_error <= gap.max() + 1e-4
        assert candidate.mean_abs_error == pytest.approx(gap.mean(), rel=0.5)
        assert candidate.max_abs_error_boundary is not None


def test_the_manifest_tells_where_the_rows_are_from_and_what_they_hold(made: Path) -> None:
    found = candidates.read(made).calibration
    assert found is not None
    assert (found.split, found.rows, found.rows_seen, found.seed) == ("train", ROWS, 640, 1)
    assert found.evaluation_split == ""
    assert set(found.file_inputs) == {"company", "epoch_s", "latitude", "miles"}
    assert set(found.model_inputs) == {"company_id", "date_z", "latitude_z", "miles", "miles_z"}
    assert all(len(file.sha256) == 64 and file.size_bytes for file in found.files)
    assert found.stability is not None
    assert 0 < found.stability.max_change <= 1


def test_rows_that_are_all_in_the_evaluation_split_are_refused(
    trips: Any, trained: Any, tmp_path: Path
) -> None:
    message = "Calibration rows must not be in split 'eval', or its metrics say nothing about new data; all "
    with pytest.raises(DataError, match=re.escape(message)):
        quantize(
            tmp_path / "out",
            trips.transformed_examples(),
            models=trained["models"],
            settings={"evaluation_split": "eval"},
        )
    assert not (tmp_path / "out").exists()


def test_the_files_say_what_they_take(made: Path) -> None:
    for candidate in candidates.read(made).usable():
        content = candidates.model_path(made, candidate.name).read_bytes()
        metadata = tflite_metadata.read(content)
        assert metadata is not None
        assert {one.name: one.dtype for one in metadata.inputs} == {
            "company": "string",
            "epoch_s": "int64",
            "latitude": "float32",
            "miles": "float32",
        }
        names = tflite_metadata.vocabularies(content, metadata)["company_id"]
        assert set(names) == {b"Flash", b"Sun", b"Blue"}


def test_what_stays_in_float_is_said_of_integer_files_with_strings(made: Path) -> None:
    notes = {candidate.name: candidate.note for candidate in candidates.read(made).candidates}
    assert notes["s0-float32"] == ""
    assert notes["s0-int8"] == (
        "raw features, among them the strings company, and their preprocessing stay in float32; integers "
        "from the model on"
    )


def test_the_manifest_is_the_last_file(made: Path) -> None:
    manifest = made / candidates.MANIFEST
    others = [path for path in made.rglob("*") if path.is_file() and path != manifest]
    assert len(others) == 8
    assert all(path.stat().st_mtime_ns <= manifest.stat().st_mtime_ns for path in others)


def rungs_of(folder: Path, models: dict[str, tuple[Any, ladder.Twin, dict[str, Any]]]) -> Any:
    """Returns a ladder as PruningTrainer exports it: Keras model, twin and pruned kernels of each rung."""
    from tfx_mobile.common.artifacts import ModelLadder
    from tfx_mobile.pruning_trainer import core, keras_export

    rungs = []
    for name, (model, twin, kernels) in models.items():
        keras_export.save(model, None, "", str(folder / name))
        rungs.append(ladder.Rung(name, 0.5, core.count_zeros(kernels), 1, {"loss": 1.0}, twin))
    ladder.Ladder(tuple(rungs), next(iter(models))).write(folder)
    artifact = ModelLadder()
    artifact.uri = str(folder)
    return artifact


def half_sparse(line: Any) -> tuple[Any, dict[str, Any]]:
    """Returns a net of a Keras line on the trips' numbers, and the kernel whose half is zeros."""
    line.utils.set_random_seed(1)
    names = ("date_z", "latitude_z", "miles_z")
    given = {name: line.Input((1,), name=name) for name in names}
    hidden = line.layers.Concatenate()([given[name] for name in names])
    hidden = line.layers.Dense(16, activation="relu", name="first")(hidden)
    hidden = line.layers.Dense(64, activation="relu", name="hidden")(hidden)
    model = line.Model(given, line.layers.Dense(1, name="fare")(hidden))
    kernel = np.random.default_rng(2).normal(size=(16, 64)).astype(np.float32)
    kernel[np.abs(kernel) < np.median(np.abs(kernel))] = 0
    layer = model.get_layer("hidden")
    layer.set_weights([kernel, layer.get_weights()[1]])
    return model, {"hidden/kernel": kernel}


@pytest.fixture(scope="module")
def twins(trips: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Candidates of rungs of both Keras lines, one of them trained for int8."""
    import keras
    import tensorflow_model_optimization as tfmot
    import tf_keras

    folder = tmp_path_factory.mktemp("twins")
    dense, _ = half_sparse(tf_keras)
    old, kernels = half_sparse(tf_keras)
    new, _ = half_sparse(keras)
    aware = tfmot.quantization.keras.quantize_model(old)
    aware.compile("sgd", "mse")
    rows = {name: trips.transformed[name] for name in aware.input_names}
    aware.fit(rows, trips.raw["fare"], epochs=2, verbose=0)
    (hidden,) = [weight for weight in aware.weights if weight.name == "hidden/kernel:0"]
    hidden.assign(np.where(kernels["hidden/kernel"] == 0, 0, hidden.numpy()))
    models = rungs_of(
        folder / "models",
        {
            "s0": (dense, ladder.Twin.PLAIN, {}),
            "s50": (old, ladder.Twin.PLAIN, kernels),
            "s50-clustered": (new, ladder.Twin.CLUSTERED, kernels),
            "s50-qat": (aware, ladder.Twin.QUANTIZATION_AWARE, {"hidden/kernel": hidden.numpy()}),
        },
    )
    modes = (Mode.FLOAT32, Mode.DYNAMIC_RANGE, Mode.INT8)
    return quantize(folder / "out", trips.transformed_examples(), models=models, modes=modes)


def test_rungs_of_both_keras_lines_convert_and_a_qat_twin_in_int8_only(twins: Path) -> None:
    found = candidates.read(twins)
    modes = ("float32", "dynamic_range", "int8")
    plain = [f"{rung}-{mode}" for rung in ("s0", "s50", "s50-clustered") for mode in modes]
    assert [candidate.name for candidate in found.candidates] == [*plain, "s50-qat-int8"]
    assert [candidate.failure for candidate in found.candidates] == [""] * 10
    assert [candidate.sparsity_fraction for candidate in found.candidates] == [0.0] * 3 + [0.5] * 7


def test_an_int8_twin_is_compared_with_its_own_fake_quantised_model(twins: Path, trips: Any) -> None:
    errors = {candidate.name: candidate.max_abs_error for candidate in candidates.read(twins).candidates}
    predictions = TFLiteModel(candidates.model_path(twins, "s50-qat-int8")).predict(trips.transformed)
    # one step of the output's 8 bits, where its range is at most that of its predictions from 0
    assert errors["s50-qat-int8"] <= 2 * np.abs(predictions).max() / 255


def test_a_file_that_lost_its_zeros_does_not_count(trips: Any, tmp_path: Path) -> None:
    import tf_keras

    class Shifted(tf_keras.layers.Dense):  # type: ignore[misc]
        """Adds a constant to its kernel, which the converter folds into it."""

        def call(self, inputs: Any) -> Any:
            return inputs @ (self.kernel + 1e-3) + self.bias

    dense, kernels = half_sparse(tf_keras)
    given = {name: tf_keras.Input((1,), name=name) for name in dense.input_names}
    first = tf_keras.layers.Concatenate()([given[name] for name in dense.input_names])
    first = tf_keras.layers.Dense(16, name="first")(first)
    hidden = Shifted(64, name="hidden")(first)
    sparse = tf_keras.Model(given, tf_keras.layers.Dense(1, name="fare")(hidden))
    sparse.get_layer("hidden").set_weights([kernels["hidden/kernel"], np.zeros(64, np.float32)])
    models = rungs_of(
        tmp_path / "models",
        {"s0": (dense, ladder.Twin.PLAIN, {}), "s50": (sparse, ladder.Twin.PLAIN, kernels)},
    )
    folder = quantize(tmp_path / "out", trips.transformed_examples(), models=models, modes=(Mode.FLOAT32,))
    lost = (
        "Rung 's50': the TFLite file must keep each pruned kernel's zeros; 'hidden/kernel' has 0 where Keras "
        "has 512. All kernels: hidden/kernel 512 -> 0 of 1024."
    )
    assert [candidate.failure for candidate in candidates.read(folder).candidates] == ["", lost]
    assert not candidates.model_path(folder, "s50-float32").exists()


def test_a_qat_twin_without_int8_among_modes_has_no_candidate(
    trips: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import tf_keras

    dense, _ = half_sparse(tf_keras)
    models = rungs_of(
        tmp_path / "models",
        {"s0": (dense, ladder.Twin.PLAIN, {}), "s0-qat": (dense, ladder.Twin.QUANTIZATION_AWARE, {})},
    )
    with caplog.at_level("WARNING"):
        folder = quantize(
            tmp_path / "out", trips.transformed_examples(), models=models, modes=(Mode.FLOAT32,)
        )
    assert [candidate.name for candidate in candidates.read(folder).candidates] == ["s0-float32"]
    assert "Rung s0-qat is trained for int8, which is not among modes: no candidate" in caplog.text


def test_a_model_of_a_stock_trainer_needs_neither_ladder_nor_graph(
    trips: Any, trained: Any, tmp_path: Path
) -> None:
    folder = quantize(
        tmp_path / "out",
        trips.transformed_examples(),
        model=trained["model"],
        modes=(Mode.INT8,),
    )
    found = candidates.read(folder)
    assert [candidate.name for candidate in found.usable()] == ["model-float32", "model-int8"]
    assert found.reference == "model-float32"
    assert not found.raw_inputs
    inputs = TFLiteModel(candidates.model_path(folder, "model-int8")).inputs
    assert set(inputs) == {"company_id", "date_z", "latitude_z", "miles", "miles_z"}


def two_rungs(folder: Path, dense: Any, sparse: Any) -> Any:
    """Returns a ladder of these Keras models."""
    from tfx_mobile.common.artifacts import ModelLadder

    rungs = []
    for name, model in (("s0", dense), ("s50", sparse)):
        model.save(folder / name, save_format="tf", include_optimizer=False)
        rungs.append(ladder.Rung(name, 0.0, (), 1, {"loss": 1.0}))
    ladder.Ladder(tuple(rungs), "s0").write(folder)
    artifact = ModelLadder()
    artifact.uri = str(folder)
    return artifact


def miles_model(function: Any = None) -> Any:
    import tf_keras

    given = tf_keras.Input((1,), name="miles")
    found = tf_keras.layers.Dense(4, activation="relu", kernel_initializer="ones")(given)
    found = tf_keras.layers.Dense(1, kernel_initializer="ones")(found)
    if function is not None:
        found = tf_keras.layers.Lambda(function, name="letters")(found)
    return tf_keras.Model({"miles": given}, found, name="net")


def num_letters(x: Any) -> Any:
    import tensorflow as tf  # in here, because Keras stores the function without its module

    return tf.cast(tf.strings.length(tf.strings.as_string(x)), tf.float32)


def test_a_rung_that_does_not_convert_is_kept_with_its_op_and_stops_no_other(
    trips: Any, tmp_path: Path
) -> None:
    models = two_rungs(tmp_path / "models", miles_model(), miles_model(num_letters))
    folder = quantize(
        tmp_path / "out", trips.transformed_examples(), models=models, modes=(Mode.FLOAT32, Mode.FLOAT16)
    )
    failures = {candidate.name: candidate.failure for candidate in candidates.read(folder).candidates}
    refused = (
        "the TFLite converter refuses: no built-in TFLite op for tf.AsString (in net/letters), "
        "tf.StringLength (in net/letters); rewrite that part of the model"
    )
    assert failures == {
        "s0-float32": "",
        "s0-float16": "",
        "s50-float32": refused,
        "s50-float16": refused,
    }
    assert {path.parent.name for path in folder.glob("*/model.tflite")} == {"s0-float32", "s0-float16"}


def test_a_rung_that_predicts_nan_is_kept_with_its_reason(trips: Any, tmp_path: Path) -> None:
    models = two_rungs(tmp_path / "models", miles_model(), miles_model(lambda x: (x - x) / (x - x)))
    folder = quantize(tmp_path / "out", trips.transformed_examples(), models=models, modes=(Mode.FLOAT32,))
    failures = {candidate.name: candidate.failure for candidate in candidates.read(folder).candidates}
    assert failures == {
        "s0-float32": "",
        "s50-float32": "cannot be compared: the Keras model returns NaN or infinity for 100 predictions",
    }


def test_a_dense_model_that_does_not_convert_is_refused_and_leaves_no_manifest(
    trips: Any, tmp_path: Path
) -> None:
    model = model_artifact(tmp_path / "model", miles_model(num_letters))
    with pytest.raises(
        DataError,
        match=re.escape(
            "The dense float32 model must convert and run, because everything is compared with it; the "
            "TFLite converter refuses: no built-in TFLite op for tf.AsString (in net/letters), "
            "tf.StringLength (in net/letters); rewrite that part of the model."
        ),
    ):
        quantize(tmp_path / "out", trips.transformed_examples(), model=model, modes=(Mode.FLOAT32,))
    assert not (tmp_path / "out" / candidates.MANIFEST).exists()


def test_a_split_without_rows_is_refused(trained: Any, tmp_path: Path) -> None:
    from awkward import empty_examples

    with pytest.raises(
        DataError, match=re.escape("Calibration needs at least one row in split 'train'; got none.")
    ):
        quantize(tmp_path / "out", empty_examples(tmp_path / "rows"), model=trained["model"])


def test_a_ladder_that_was_not_finished_is_refused(trips: Any, trained: Any, tmp_path: Path) -> None:
    from tfx_mobile.common.artifacts import ModelLadder

    artifact = ModelLadder()
    artifact.uri = str(tmp_path)
    with pytest.raises(
        DataError, match=re.escape(f"A models artifact must hold ladder.json; got none in {tmp_path}")
    ):
        quantize(tmp_path / "out", trips.transformed_examples(), models=artifact)


EVERY_KIND = (
    Quantization(Mode.FLOAT32, sparse=True),
    Quantization(Mode.FLOAT16),
    Quantization(Mode.DYNAMIC_RANGE),
    Quantization(Mode.DYNAMIC_RANGE, weight_bits=4),
    Quantization(Mode.INT8),
    Quantization(Mode.INT8, sparse=True),
    Quantization(Mode.INT8, integer_io=True),
    Quantization(Mode.INT8, keep_float=1),
    Quantization(Mode.INT16X8),
    Quantization(Mode.WEIGHT_ONLY_INT8),
    Quantization(Mode.INT4),
    Quantization(Mode.INT4, block_size=32),
    Quantization(Mode.DYNAMIC_RANGE, exclude=("fare",)),
)


def wide_model(line: Any) -> Any:
    """Returns a net on the trips' numbers whose dense layers have 64 inputs; half of one layer is zeros."""
    line.utils.set_random_seed(1)
    names = ("date_z", "latitude_z", "miles_z")
    given = {name: line.Input((1,), name=name) for name in names}
    hidden = line.layers.Concatenate()([given[name] for name in names])
    hidden = line.layers.Dense(64, activation="relu", name="first")(hidden)
    hidden = line.layers.Dense(64, activation="relu", name="hidden")(hidden)
    model = line.Model(given, line.layers.Dense(1, name="fare")(hidden))
    draw = np.random.default_rng(3)
    kernel = draw.normal(size=(64, 64), scale=0.125).astype(np.float32)
    kernel[np.abs(kernel) < np.median(np.abs(kernel))] = 0
    model.get_layer("hidden").set_weights([kernel, np.zeros(64, np.float32)])
    return model


@pytest.fixture(scope="module")
def every_kind(trips: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Candidates of one stock trainer's model in every kind of quantisation, stripped, run elsewhere too."""
    import tf_keras

    folder = tmp_path_factory.mktemp("every_kind")
    settings = {
        "strip": True,
        "runtimes": (Runtime("this LiteRT", sys.executable),),
        "label": Label("fare", "USD"),
        "units": {"miles_z": "standard deviations"},
        "model_name": "trips",
        "model_version": "7",
        "licence": "Apache-2.0",
    }
    return quantize(
        folder / "out",
        trips.transformed_examples(),
        model=model_artifact(folder / "model", wide_model(tf_keras)),
        modes=EVERY_KIND,
        settings=settings,
    )


def test_every_kind_of_quantisation_counts_and_is_close_to_keras(every_kind: Path) -> None:
    found = candidates.read(every_kind)
    assert [one.name for one in found.candidates] == [
        "model-float32",
        *(f"model-{one.name}" for one in EVERY_KIND),
    ]
    failures = {one.mode: one.failure for one in found.candidates if one.failure}
    assert set(failures) <= {"int8-sparse"}  # converts, and LiteRT 2.3 cannot load it
    assert all(failure.startswith("LiteRT refuses the file: ") for failure in failures.values())
    reference = TFLiteModel(candidates.model_path(every_kind, "model-float32"))
    for one in found.usable():
        assert one.max_abs_error is not None
        assert one.max_abs_error < 0.5, one.name
        assert set(one.runs_on) == {"this LiteRT"}
        assert set(TFLiteModel(candidates.model_path(every_kind, one.name)).inputs) == set(reference.inputs)


def test_kinds_differ_in_size_as_they_should(every_kind: Path) -> None:
    found = {one.mode: one for one in candidates.read(every_kind).candidates}
    raw = {mode: one.size_bytes for mode, one in found.items()}
    gz = {mode: one.gz_size_bytes for mode, one in found.items()}
    assert raw["float32-sparse"] < raw["float32"]
    assert raw["int4"] < raw["dynamic_range"] < raw["float16"] < raw["float32"]
    assert gz["dynamic_range-w4"] < gz["dynamic_range"]
    assert gz["int8"] < gz["int8-float1"]


def test_integer_inputs_and_outputs_are_integers(every_kind: Path) -> None:
    file = TFLiteModel(candidates.model_path(every_kind, "model-int8-io"))
    assert {spec.dtype for spec in (*file.inputs.values(), *file.outputs.values())} == {np.int8}


def test_which_layers_stay_in_float_is_noted(every_kind: Path) -> None:
    notes = {one.mode: one.note for one in candidates.read(every_kind).candidates}
    assert notes["dynamic_range-without"] == "in float32: fare"
    assert notes["int8-float1"] in {f"in float32: {layer}" for layer in ("first", "hidden", "fare")}


def test_metadata_is_what_the_author_gave(every_kind: Path) -> None:
    metadata = tflite_metadata.read(candidates.model_path(every_kind, "model-int4").read_bytes())
    assert metadata is not None
    assert (metadata.name, metadata.version, metadata.license) == ("trips", "7", "Apache-2.0")
    assert (metadata.label.name, metadata.label.unit) == ("fare", "USD")
    assert {one.name: one.unit for one in metadata.inputs}["miles_z"] == "standard deviations"


def test_other_processes_and_another_order_give_the_same_bytes(
    every_kind: Path, trips: Any, tmp_path: Path
) -> None:
    from tfx.types import standard_artifacts

    model = standard_artifacts.Model()
    model.uri = str(every_kind.parent / "model")
    few = (Quantization(Mode.INT4), Quantization(Mode.INT8), Quantization(Mode.FLOAT32, sparse=True))
    folder = quantize(
        tmp_path / "out",
        trips.transformed_examples(),
        model=model,
        modes=few,
        settings={
            "num_processes": 1,
            "strip": True,
            "label": Label("fare", "USD"),
            "units": {"miles_z": "standard deviations"},
            "model_name": "trips",
            "model_version": "7",
            "licence": "Apache-2.0",
        },
    )
    before = {one.name: one.sha256 for one in candidates.read(every_kind).candidates}
    for one in candidates.read(folder).candidates:
        assert one.sha256 == before[one.name], one.name


def test_a_time_limit_costs_its_candidate_and_says_so(trips: Any, trained: Any, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=re.escape("make_candidate must end within 0.001 s; got a worker process")
    ):
        quantize(
            tmp_path / "out",
            trips.transformed_examples(),
            models=trained["models"],
            modes=(Mode.FLOAT32,),
            settings={"timeout_seconds": 0.001},
        )


def test_a_candidate_that_cannot_be_written_leaves_the_others(
    trips: Any, trained: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "model-int8").write_bytes(b"in the way of the candidate's folder")
    quantize(folder, trips.transformed_examples(), model=trained["model"], modes=(Mode.FLOAT32, Mode.INT8))
    failures = {one.name: one.failure for one in candidates.read(folder).candidates}
    assert failures["model-float32"] == ""
    assert failures["model-int8"].endswith(
        "model-int8/model.tflite; File exists. Candidates that are there stay: make room and run again."
    )


def test_a_layer_that_is_not_there_is_refused_before_anything_is_converted(
    trips: Any, trained: Any, tmp_path: Path
) -> None:
    with pytest.raises(
        DataError, match=re.escape("exclude must name layers with weights; 'nothing_*' is not")
    ):
        quantize(
            tmp_path / "out",
            trips.transformed_examples(),
            models=trained["models"],
            modes=(Quantization(Mode.INT8, exclude=("nothing_*",)),),
        )
    assert not (tmp_path / "out").exists()


def test_the_manifest_is_plain_json(made: Path) -> None:
    found = json.loads((made / candidates.MANIFEST).read_text())
    assert found["reference"] == "s0-float32"
    assert len(found["candidates"]) == 8
