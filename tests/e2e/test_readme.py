"""The pipelines of the README and of the guides, copied out of them and run as written."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.e2e

README = Path(__file__).parents[2] / "README.md"
REDUCER_GUIDE = README.parent / "docs" / "dimensionality-reducer.md"
TRAINER_GUIDE = README.parent / "docs" / "pruning-trainer.md"
QUANTIZER_GUIDE = README.parent / "docs" / "quantizer.md"


def run_as_written(document, files, rows, folder):
    """Writes the document's Python blocks to the files, the rows to data/, and runs the last file."""
    (folder / "data").mkdir()
    lines = [",".join(map(str, row)) for row in zip(*rows.values(), strict=True)]
    (folder / "data" / "trips.csv").write_text("\n".join([",".join(rows), *lines]) + "\n")
    return run_blocks(document, files, folder)


def run_blocks(document, files, folder):
    """Writes the document's Python blocks to the files and runs the last one."""
    blocks = re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL)
    for name, block in zip(files, blocks, strict=True):
        (folder / name).write_text(block)
    done = subprocess.run(
        [sys.executable, files[-1]],
        cwd=folder,
        env=os.environ | {"TF_USE_LEGACY_KERAS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def trips(count):
    """Rows of which the fare is known."""
    rng = np.random.default_rng(1)
    miles, minutes = rng.uniform(0.5, 20.0, count).round(3), rng.uniform(1.0, 60.0, count).round(3)
    return {"miles": miles, "minutes": minutes, "fare": (2.5 + 1.5 * miles + 0.4 * minutes).round(3)}


@pytest.fixture(scope="session")
def own_project(tmp_path_factory):
    """A folder with the README's two files and 600 rows."""
    folder = tmp_path_factory.mktemp("own")
    run_as_written(README, ("my_model.py", "my_pipeline.py"), trips(600), folder)
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


def test_the_quantizers_guide_goes_on_from_the_readme(own_project):
    printed = run_blocks(QUANTIZER_GUIDE, ("my_candidates.py",), own_project)
    lines = {line.split()[0]: line for line in printed.splitlines() if re.match(r"s(0|75)-", line)}
    kinds = (
        "float32",
        "int8",
        "int16x8",
        "dynamic_range-w5",
        "int4-without",
        "int8-float2",
        "float32-sparse",
    )
    assert list(lines) == [f"{rung}-{kind}" for rung in ("s0", "s75") for kind in kinds]
    assert lines["s0-int4-without"].endswith("in float32: fare")
    log = (own_project / "candidates.log").read_text()
    assert "Candidate s75-float32-sparse" in log
    program = Path(sys.executable).with_name("tfx-mobile")
    files = own_project.glob("workspace/**/s75-int8/model.tflite")  # of both pipelines
    file = max(files, key=lambda path: path.stat().st_mtime)
    shown = subprocess.run([program, "inspect", file], capture_output=True, text=True, check=True).stdout
    assert re.search(r"label +fare +USD", shown)
    assert re.search(r"inputs +miles +mi", shown)
    assert "100.00% of the bytes explained" in shown


def test_the_pipeline_of_the_reducers_guide_reduces(tmp_path):
    companies = np.array(["Flash", "Sun", "Blue"])[np.arange(600) % 3]
    rows = trips(600) | {"company": companies}
    printed = run_as_written(REDUCER_GUIDE, ("my_features.py", "my_reduction.py"), rows, tmp_path)
    page = tmp_path / re.search(r"Report: (.*)", printed).group(1)
    assert page.name == "reduction.html"
    assert page.stat().st_size > 1000
    report = json.loads(page.with_name("reduction.json").read_text())
    names = [one["settings"]["output"] for one in report["reductions"]]
    assert names == ["trip", "fare_direction"]
    assert "company=Flash" in report["reductions"][1]["columns"]


def test_the_pipeline_of_the_trainers_guide_makes_a_ladder(tmp_path):
    companies = np.array(["Flash", "Sun", "Blue"])[np.arange(600) % 3]
    rows = trips(600) | {"company": companies}
    printed = run_as_written(TRAINER_GUIDE, ("my_trips.py", "my_ladder.py"), rows, tmp_path)
    page = tmp_path / re.search(r"Report: +(.*)", printed).group(1)
    assert page.name == "training.html"
    (manifest,) = tmp_path.glob("workspace/**/ladder.json")
    rungs = {rung["name"]: rung for rung in json.loads(manifest.read_text())["rungs"]}
    assert list(rungs) == ["s0", "s0-qat", "s50", "s50-qat", "s80", "s80-qat"]
    for name in ("s80", "s80-qat"):
        layers = rungs[name]["layers"]
        assert [layer["weight"] for layer in layers] == ["hidden_1/kernel", "hidden_2/kernel"]
        zeros = sum(layer["num_zeros"] for layer in layers) / sum(layer["num_weights"] for layer in layers)
        assert zeros >= 0.8 - 1e-3
    assert f"Sparse:  {rungs['s80']['num_parameters']} parameters" in printed


def test_every_make_target_of_the_readme_exists():
    makefile = (README.parent / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z]+)", README.read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
