"""A task in the container of kubeflow/Dockerfile. Opt-in: building it takes minutes and gigabytes.

`make image IMAGE=tfx-mobile:test CONTAINER_TOOL=podman`, then TFX_MOBILE_TEST_IMAGE=tfx-mobile:test. The tool
is podman, or what TFX_MOBILE_TEST_CONTAINER_TOOL says (`docker`, `podman --runtime runc`).
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

IMAGE = os.environ.get("TFX_MOBILE_TEST_IMAGE", "")
TOOL = shlex.split(os.environ.get("TFX_MOBILE_TEST_CONTAINER_TOOL", "podman"))

pytestmark = [
    pytest.mark.skipif(
        not IMAGE, reason="NOT TESTED: no container was run: TFX_MOBILE_TEST_IMAGE names no image (opt-in)"
    ),
    pytest.mark.skipif(
        shutil.which(TOOL[0]) is None, reason=f"NOT TESTED: no container was run: there is no {TOOL[0]} here"
    ),
]

IMPORT_ALL = """
import importlib, json, pathlib, tfx_mobile
root = pathlib.Path(tfx_mobile.__file__).parent
names = sorted(f"tfx_mobile.{path.parent.name}.executor" for path in root.glob("*/executor.py"))
for name in names:
    importlib.import_module(name).Executor
import taxi_fare.features, taxi_fare.model, taxi_fare.example_gen
print(json.dumps(names))
"""


def run(
    *command: str, entrypoint: str = "", options: tuple[str, ...] = ()
) -> "subprocess.CompletedProcess[str]":
    """Runs a command in a container that is locked as KFP and our manifests lock it."""
    locked = ["--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none", "--rm"]
    chosen = [f"--entrypoint={entrypoint}"] if entrypoint else []
    return subprocess.run(
        [*TOOL, "run", *locked, *chosen, *options, IMAGE, *command],
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_runs_as_the_user_by_number_and_owns_nothing_but_its_places() -> None:
    done = run("-c", "id -u; id -g; touch /gcs/x /s3/x /minio/x ~/x; touch /opt/x", entrypoint="sh")
    assert done.stdout.split() == ["10001", "10001"]
    assert "cannot touch '/opt/x'" in done.stderr
    assert done.stderr.count("cannot touch") == 1
    inspected = subprocess.check_output([*TOOL, "image", "inspect", IMAGE], text=True)
    assert json.loads(inspected)[0]["Config"]["User"] == "10001:10001"


def test_every_executor_of_ours_and_the_pipeline_s_code_import() -> None:
    done = run("-c", IMPORT_ALL, entrypoint="python")
    assert done.returncode == 0, done.stderr
    executors = json.loads(done.stdout.splitlines()[-1])
    assert len(executors) == len(
        list((Path(__file__).parents[3] / "components/tfx_mobile").glob("*/executor.py"))
    )


def test_the_entrypoint_is_the_task() -> None:
    done = run("--help")
    assert done.returncode == 0, done.stderr
    assert "--executor_class_path" in done.stdout + done.stderr


def test_the_command_line_and_the_worker_pool_of_the_manifests_are_there() -> None:
    assert re.fullmatch(r"tfx-mobile [\d.]+\n", run("--version", entrypoint="tfx-mobile").stdout)
    done = run("-m", "apache_beam.runners.worker.worker_pool_main", "--help", entrypoint="python")
    assert "--service_port" in done.stdout


def test_the_registry_s_job_runs_with_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    for name in ("registry", "registry.keys"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    mounts = tuple(f"--volume={tmp_path / name}:/{name}" for name in ("registry", "registry.keys"))
    options = (*mounts, "--read-only", "--tmpfs=/tmp", "--env=HOME=/tmp")
    made = run("registry", "init", "/registry", entrypoint="tfx-mobile", options=options)
    assert made.returncode == 0, made.stderr
    refreshed = run("registry", "refresh", "/registry", entrypoint="tfx-mobile", options=options)
    assert refreshed.stdout == "signed timestamp\n", refreshed.stderr


def test_the_image_has_bytecode_and_no_compiler() -> None:
    script = (
        "command -v g++; find /opt/tfx-mobile /opt/pipelines -name '*.pyc' | grep -c -E 'tfx/|taxi_fare/'"
    )
    done = run("-c", script, entrypoint="sh")
    (count,) = done.stdout.split()
    assert int(count) > 500


def test_the_example_s_rows_are_in_the_image() -> None:
    done = run("-c", "ls -d /data/chicago/Split-*", entrypoint="sh")
    assert done.stdout.split() == ["/data/chicago/Split-eval", "/data/chicago/Split-train"]
