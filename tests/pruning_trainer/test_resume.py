"""A training killed with -9 goes on in the next execution, and leaves nothing behind when it is done."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import train_trips

from tfx_mobile.common import ladder
from tfx_mobile.common.errors import DataError
from tfx_mobile.pruning_trainer.config import Layers, Pruning, Resources, TrainerConfig

pytestmark = pytest.mark.pipeline

LIMIT_SECONDS = 600
CONFIG = TrainerConfig(
    build_model="tiny_models.build_trips",
    label_key="fare",
    sparsities=(0.0, 0.5),
    pruning=Pruning(layers=Layers(min_weights=64)),
    epochs=8,
    fine_tune_epochs=4,
    batch_size=32,
    max_increase_fraction=0.5,
    hyperparameters={"units": 16.0},
    resources=Resources(checkpoint_seconds=0),
)


def job(
    trips: Any, component: Path, execution: int, config: TrainerConfig = CONFIG, **more: Any
) -> dict[str, Any]:
    return {
        "config": config.to_json(),
        "examples": str(trips.transformed_folder),
        "graph": str(trips.graph_folder),
        "outputs": str(component),
        "execution": execution,
        **more,
    }


def weights(models: Path, rung: str) -> list[Any]:
    import tf_keras

    return [w.numpy() for w in tf_keras.models.load_model(models / rung, compile=False).weights]


def workers(component: Path) -> list[int]:
    """Returns the processes whose standard error is the component's log."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and os.readlink(process / "fd" / "2") == str(component / "log"):
                found.append(int(process.name))
        except OSError:  # it ended, or is somebody else's
            continue
    return found


def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_weights(
    trips: Any, trained: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    component = tmp_path / "PruningTrainer"
    component.mkdir()
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job(trips, component, 1)))
    program = [sys.executable, train_trips.__file__, str(path)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TINY_MODELS_WAIT_AFTER": "s0",  # or it may be done before this process comes to kill it
    }
    with (component / "log").open("wb") as log:
        killed = subprocess.Popen(program, stderr=log, env=environment)
    begun = time.monotonic()
    while not list(component.glob(".checkpoints/*/s0.*")):  # the dense model is done, its rung is not
        assert killed.poll() is None, (component / "log").read_text()[-3000:]
        assert time.monotonic() - begun < LIMIT_SECONDS
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    while workers(component):  # the worker notices that its parent is gone
        assert time.monotonic() - begun < LIMIT_SECONDS
        time.sleep(0.1)
    assert not list(component.glob("models/1/ladder.json"))
    assert not list(component.glob("model/1/*"))

    done = train_trips.run(job(trips, component, 2))
    models = Path(done["models"].uri)
    for rung in ("s0", "s50"):
        for one, other in zip(weights(Path(trained["models"].uri), rung), weights(models, rung), strict=True):
            np.testing.assert_array_equal(one, other)
    assert not (component / ".checkpoints").exists()
    whole = ladder.read(Path(trained["models"].uri)).rungs
    for one, other in zip(whole, ladder.read(models).rungs, strict=True):
        assert [epoch.step for epoch in one.history] == [epoch.step for epoch in other.history]


def test_a_rung_that_diverges_leaves_those_before_it_and_another_configuration_starts_anew(
    trips: Any, tmp_path: Path
) -> None:
    component = tmp_path / "PruningTrainer"
    diverging = dataclasses.replace(CONFIG, build_model="tiny_models.build_diverging", epochs=2)
    with pytest.raises(DataError) as caught:
        train_trips.run(job(trips, component, 1, diverging))
    assert re.fullmatch(
        r"The loss must stay finite; got nan at step \d+ of \d+ of rung 's50' at learning rate 0\.01\. Lower "
        r"it, or look for wrong labels\. The rungs up to 's0' are kept in \S+/kept\.",
        str(caught.value),
    )
    (kept,) = (component / ".checkpoints").glob("*/kept")
    assert [path.name for path in kept.iterdir()] == ["s0"]
    assert np.isfinite(np.concatenate([values.ravel() for values in weights(kept, "s0")])).all()
    short = dataclasses.replace(CONFIG, epochs=1, fine_tune_epochs=1)
    train_trips.run(job(trips, component, 2, short))
    assert [path for path in (component / ".checkpoints").iterdir()] == [kept.parent]  # its own is gone


def test_a_base_model_is_pruned_and_not_trained(trips: Any, trained: dict[str, Any], tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, epochs=1, fine_tune_epochs=1)
    done = train_trips.run(
        job(trips, tmp_path / "PruningTrainer", 1, config, base_model=trained["model"].uri)
    )
    models = Path(done["models"].uri)
    chosen = ladder.read(Path(trained["models"].uri)).chosen
    for one, other in zip(weights(Path(trained["models"].uri), chosen), weights(models, "s0"), strict=True):
        np.testing.assert_array_equal(one, other)
    dense, sparse = ladder.read(models).rungs
    assert dense.history == ()
    assert sparse.sparsity_fraction == pytest.approx(0.5, abs=0.01)
