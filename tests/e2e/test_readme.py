"""The README's own pipeline, copied out of it and run as written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.e2e

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="session")
def own_project(tmp_path_factory):
    """A folder with the README's two files and 600 rows of which the fare is known."""
    folder = tmp_path_factory.mktemp("own")
    model, pipeline = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (folder / "my_model.py").write_text(model)
    (folder / "my_pipeline.py").write_text(pipeline)
    rng = np.random.default_rng(1)
    miles, minutes = rng.uniform(0.5, 20.0, 600), rng.uniform(1.0, 60.0, 600)
    fares = 2.5 + 1.5 * miles + 0.4 * minutes
    lines = [f"{m:.3f},{t:.3f},{f:.3f}" for m, t, f in zip(miles, minutes, fares, strict=True)]
    (folder / "data").mkdir()
    (folder / "data" / "trips.csv").write_text("\n".join(["miles,minutes,fare", *lines]) + "\n")
    environment = os.environ | {"TF_USE_LEGACY_KERAS": "1"}
    done = subprocess.run(
        [sys.executable, "my_pipeline.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_pipeline_of_the_readme_pushes_a_model_that_takes_raw_features(own_project):
    from tfx_mobile.common.interpreter import TFLiteModel

    command = re.search(r"`tfx-mobile (registry fetch my-model[^`]*)`", README.read_text()).group(1)
    program = Path(sys.executable).with_name("tfx-mobile")
    subprocess.run([program, *command.split(), "--cache", own_project / "cache"], cwd=own_project, check=True)
    model = TFLiteModel(own_project / "my-model.tflite")
    assert set(model.inputs) == {"miles", "minutes"}
    fare = model.predict({"miles": np.array([10.0]), "minutes": np.array([30.0])})[0, 0]
    assert 20.0 < fare < 40.0  # 29.5 by the rule the rows were made with


def test_every_make_target_of_the_readme_exists():
    makefile = (README.parent / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z]+)", README.read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
