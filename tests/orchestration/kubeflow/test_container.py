"""The image of kubeflow/Dockerfile: what is in it, and that it runs locked. Opt-in, as containers.py says."""

import json
import re
import subprocess
from pathlib import Path

from tests.orchestration.kubeflow.containers import IMAGE, OPT_IN, TOOL, InContainers, run

pytestmark = OPT_IN

IMPORT_ALL = """
import importlib, json, pathlib, tfx_mobile
root = pathlib.Path(tfx_mobile.__file__).parent
names = sorted(f"tfx_mobile.{path.parent.name}.executor" for path in root.glob("*/executor.py"))
for name in names:
    importlib.import_module(name).Executor
import taxi_fare.features, taxi_fare.model, taxi_fare.example_gen
print(json.dumps(names))
"""

PROBE = """
import json, os, pathlib, socket, sys
secret = pathlib.Path("/secret/word")
pathlib.Path("/claim/written").write_text(secret.read_text())
found = dict(line.split(":\\t") for line in pathlib.Path("/proc/self/status").read_text().splitlines())
limits = [pathlib.Path("/sys/fs/cgroup", name) for name in ("memory.max", "memory/memory.limit_in_bytes")]
seen = {name: found[name] for name in ("CapBnd", "NoNewPrivs")}
seen["memory"] = [int(path.read_text()) for path in limits if path.exists()]
seen["interfaces"] = [name for _, name in socket.if_nameindex()]
seen["secret can be written"] = os.access(secret, os.W_OK)
print(json.dumps(seen))
pathlib.Path(json.loads(sys.argv[1])["outputs"]["outputFile"]).write_text("{}")
"""


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


def test_a_task_of_the_stand_in_has_the_claim_secret_and_limit_of_the_file_and_nothing_else(
    tmp_path: Path,
) -> None:
    container = {"image": IMAGE, "command": ["python", "-c", PROBE], "args": ["{{$}}"]}
    spec = {
        "pipelineInfo": {"name": "tiny"},
        "components": {"look": {"executorLabel": "looks"}},
        "deploymentSpec": {
            "executors": {"looks": {"container": container | {"resources": {"memoryLimit": 0.256}}}}
        },
        "root": {"dag": {"tasks": {"look": {"componentRef": {"name": "look"}}}}},
    }
    mounts = {
        "pvcMount": [{"constant": "claim", "mountPath": "/claim"}],
        "secretAsVolume": [{"secretName": "secret", "mountPath": "/secret"}],
    }
    platform = {"platforms": {"kubernetes": {"deploymentSpec": {"executors": {"looks": mounts}}}}}
    volumes = {name: tmp_path / name for name in ("claim", "secret")}
    for folder in volumes.values():
        folder.mkdir()
        folder.chmod(0o777)
    (volumes["secret"] / "word").write_text("open")
    (volumes["secret"] / "word").chmod(0o666)
    run = InContainers(tmp_path / "server", volumes=volumes).asking(spec, platform).run(spec)["look"]
    assert run.status == 0, run.log
    assert (volumes["claim"] / "written").read_text() == "open"
    assert (volumes["claim"] / "written").stat().st_uid == 10001
    assert json.loads(run.log) == {
        "CapBnd": "0000000000000000",
        "NoNewPrivs": "1",
        "memory": [256_000_000 // 4096 * 4096],
        "interfaces": ["lo"],
        "secret can be written": False,
    }
