"""Our compiled file under `kfp.local.DockerRunner`: kfp's reading of it, where the stand-in is ours.

Opt-in: an image (containers.py) and TFX_MOBILE_TEST_KFP_PYTHON, the interpreter of an environment of its own
with kfp 2.16 or newer and docker. DOCKER_HOST names the daemon; without it, podman serves its socket here.

Files are looked at, never the runner's word: where podman removes a container before its status is asked for,
the runner takes a failure for a success. What it does not do, so that nothing here says it: it names outputs
by plain paths, stages nothing, sends types of its own, ignores the platform's claims, secrets and limits, and
caching. It keeps the image's entrypoint, which KFP does not, so that `env` takes its place. It cuts the first
five letters off a component's name, which are 'comp-' for kfp's compiler, and calls the task's folder by the
rest: tasks whose names are alike from the sixth on would share one.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.orchestration.kubeflow import containers
from tests.orchestration.kubeflow.containers import IMAGE, TOOL

PYTHON = os.environ.get("TFX_MOBILE_TEST_KFP_PYTHON", "")
HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.pipeline,
    *containers.OPT_IN,
    pytest.mark.skipif(
        not PYTHON,
        reason="NOT TESTED: kfp.local did not run: TFX_MOBILE_TEST_KFP_PYTHON names no interpreter (opt-in)",
    ),
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where Docker's API is served."""
    if os.environ.get("DOCKER_HOST"):
        yield os.environ["DOCKER_HOST"]
        return
    socket = tmp_path_factory.mktemp("socket") / "podman.sock"
    process = subprocess.Popen([*TOOL, "system", "service", "--time=0", f"unix://{socket}"])
    try:
        while not socket.exists():
            if process.poll() is not None:
                raise RuntimeError(f"{TOOL} serves no socket: it ended with {process.returncode}.")
            time.sleep(0.1)
        yield f"unix://{socket}"
    finally:
        process.terminate()
        process.wait()


def run_locally(daemon: str, folder: Path, components: list[Any]) -> tuple[Path, str]:
    """Compiles and runs; returns the folder of the tasks' folders, and what the runner printed."""
    from tfx import v1 as tfx

    from tfx_mobile.orchestration.kubeflow import compiling

    pipeline = tfx.dsl.Pipeline(pipeline_name="tiny", pipeline_root="", components=components)
    compiling.compile_pipeline(pipeline, folder / "tiny.yaml", image=IMAGE)
    root = folder / "root"
    root.mkdir()
    root.chmod(0o777)
    settings = {
        "entrypoint": ["env"],
        "network_mode": "none",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "environment": {"PYTHONPATH": "/opt/more"},
        "mounts": [[str(HERE / "pod_components.py"), "/opt/more/pod_components.py"]],
    }
    done = subprocess.run(
        [PYTHON, str(HERE / "local_runner.py"), str(folder / "tiny.yaml"), str(root), json.dumps(settings)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "DOCKER_HOST": daemon},
    )
    (tasks,) = root.iterdir()
    return tasks, done.stdout


@pytest.fixture(scope="module")
def tasks(daemon: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pod_components import Count, Everything, Look, Repeat, Rows

    everything = Everything(text="a 'b' {{c}}", whole=7, number=1.0, yes=True, no=False).with_id("task-all")
    look = Look(model=everything.outputs["model"], reduction=everything.outputs["reduction"])
    rows = Rows().with_id("task-rows")
    count = Count(examples=rows.outputs["examples"]).with_id("task-count")
    repeat = Repeat(total=count.outputs["total"], words=count.outputs["words"]).with_id("task-repeat")
    components = [everything, look.with_id("task-look"), rows, count, repeat]
    found, printed = run_locally(daemon, tmp_path_factory.mktemp("local"), components)
    assert sorted(path.name for path in found.iterdir()) == ["all", "count", "look", "repeat", "rows"], (
        printed
    )
    return found


def test_parameters_arrive_as_the_author_wrote_them(tasks):
    seen = json.loads((tasks / "all/model/seen.json").read_text())
    del seen["run"]
    assert seen == {
        "text": ["str", "a 'b' {{c}}"],
        "whole": ["int", 7],
        "number": ["float", 1.0],
        "yes": ["bool", True],
        "no": ["bool", False],
        "tmp": f"{tasks}/all/.temp/all/",
        "flags": [],
    }


def test_an_input_has_its_type_files_and_properties(tasks):
    found = json.loads((tasks / "look/report/found.json").read_text())
    del found["id"]
    assert found == {
        "files": ["seen.json"],
        "count": 3,
        "note": "by hand",
        "made_of_is_its_uri": True,
        "file_is_here": True,
        "older": f"{tasks}/all/model-older",
        "elsewhere": "gs://bucket/model",
        "parts": [1.0, 2.0],
        "object": {"a": 1.0},
        "type": "Reduction",
        "empty": False,  # a plain folder, which keeps the folders without files
    }


def test_a_component_of_a_function_takes_values_and_one_on_beam_runs(tasks):
    assert (tasks / "repeat/model/text").read_text() == "drei 4"


def test_the_containers_ran_as_the_user_of_the_image(tasks):
    assert {path.stat().st_uid for path in tasks.rglob("*")} == {10001}


def test_a_failed_component_leaves_no_word_of_an_output(daemon, tmp_path):
    from pod_components import Fail

    found, printed = run_locally(daemon, tmp_path, [Fail(kind="data").with_id("task-fail")])
    assert "failed: Feature 'fare' must be finite; got 3 NaN." in printed
    assert not [path for path in found.rglob("*") if path.is_file()]
