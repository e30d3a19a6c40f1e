"""The executor on real artifacts: what a server, a phone and the next component find."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common import ladder
from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.pruning_trainer.config import TrainerConfig

pytestmark = pytest.mark.pipeline


def serialized_rows(trips: Any, count: int) -> list[bytes]:
    import tensorflow as tf

    (path,) = (trips.raw_folder / "Split-eval").iterdir()
    rows = tf.data.TFRecordDataset([str(path)], "GZIP").take(count).as_numpy_iterator()
    found = [tf.train.Example.FromString(row) for row in rows]
    for example in found:
        del example.features.feature["fare"]  # nobody knows the fare when serving
    return [example.SerializeToString() for example in found]


def load(folder: Path) -> Any:
    import tf_keras

    return tf_keras.models.load_model(folder, compile=False)


def test_every_rung_of_the_manifest_is_a_model_with_its_zeros(trained: Any) -> None:
    folder = Path(trained["models"].uri)
    found = ladder.read(folder)
    assert [rung.name for rung in found.rungs] == ["s0", "s50"]
    for rung in found.rungs:
        variables = {variable.name: variable.numpy() for variable in load(folder / rung.name).variables}
        assert {layer.weight for layer in rung.layers} == {"hidden_1/kernel", "hidden_2/kernel"}
        for layer in rung.layers:
            values = variables[f"{layer.weight}:0"]
            assert layer.num_weights == values.size
            assert layer.num_zeros == np.count_nonzero(values == 0) == values.size * rung.target_fraction


def test_the_manifest_is_the_last_file_of_the_ladder(trained: Any) -> None:
    folder = Path(trained["models"].uri)
    manifest = folder / ladder.MANIFEST
    others = [path for path in folder.rglob("*") if path.is_file() and path != manifest]
    assert others
    assert all(path.stat().st_mtime_ns <= manifest.stat().st_mtime_ns for path in others)


def test_the_serving_signature_takes_raw_examples_and_agrees_with_keras(trained: Any, trips: Any) -> None:
    import tensorflow as tf

    from tfx_mobile.common.artifacts import serving_folder

    folder = serving_folder(trained["model"])
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    got = serve(examples=tf.constant(serialized_rows(trips, 50)))["predictions"].numpy()
    model = load(folder)
    inputs = {name: trips.transformed[name][:50] for name in model.input_names}
    wanted = model.predict(inputs, verbose=0)
    assert np.ptp(wanted) > 5  # fares that differ, not a constant
    # the same float32 graph, fused once more: no more than rounding, relative to fares of about 10
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_the_model_learnt_the_fare(trained: Any, trips: Any) -> None:
    dense = ladder.read(Path(trained["models"].uri)).rungs[0]
    assert dense.validation["rmse"] < 0.5 * np.std(trips.raw["fare"])


def test_the_chosen_rung_is_the_one_in_model(trained: Any) -> None:
    from tfx_mobile.common.artifacts import serving_folder

    folder = Path(trained["models"].uri)
    chosen = load(folder / ladder.read(folder).chosen)
    for one, other in zip(chosen.weights, load(serving_folder(trained["model"])).weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_the_logs_of_every_rung_are_in_model_run(trained: Any) -> None:
    events = Path(trained["model_run"].uri).glob("*/train/events.*")
    assert {path.parent.parent.name for path in events} == {"s0", "s50"}


def run(trips: Any, examples: Any, folder: Path, **changed: Any) -> None:
    from tfx.types import standard_artifacts

    from tfx_mobile.common.artifacts import ModelLadder
    from tfx_mobile.pruning_trainer.executor import Executor

    outputs = {
        "model": [standard_artifacts.Model()],
        "models": [ModelLadder()],
        "model_run": [standard_artifacts.ModelRun()],
    }
    for name, (artifact,) in outputs.items():
        artifact.uri = str(folder / name)
    settings = {
        "build_model": "tiny_models.build_trips",
        "label_key": "fare",
        "hyperparameters": {"units": 4.0},
    }
    config = TrainerConfig(**(settings | changed))
    inputs = {"examples": [examples], "transform_graph": [trips.transform_graph()]}
    Executor().Do(inputs, outputs, {"config": config.to_json()})


def test_a_label_that_the_graph_does_not_make_is_refused(trips: Any, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=re.escape(
            "label_key must be a transformed feature; got 'tip'. There are company_id, company_length, "
            "date_z, fare, latitude_z, miles, miles_bucket, miles_z."
        ),
    ):
        run(trips, trips.transformed_examples(), tmp_path, label_key="tip")
    assert list(tmp_path.iterdir()) == []


def test_an_input_fn_changes_the_batches_that_the_component_reads(trips: Any, tmp_path: Path) -> None:
    run(
        trips,
        trips.transformed_examples(),
        tmp_path,
        input_fn="tiny_models.dearer_batches",
        sparsities=(0.0,),
        epochs=1,
    )
    (rung,) = ladder.read(tmp_path / "models").rungs
    assert rung.history[0].step == 5  # 640 rows in batches of 128: none were held out
    assert rung.validation["rmse"] > 900  # from fares of 1,000 more, of the split 'eval'


def test_a_split_without_rows_is_refused(trips: Any, tmp_path: Path) -> None:
    from awkward import empty_examples

    with pytest.raises(DataError, match=re.escape("Training needs at least 2 rows in split 'train'; got 0.")):
        run(trips, empty_examples(tmp_path / "rows"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
