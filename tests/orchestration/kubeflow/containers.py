"""Tasks of the stand-in in containers of our image, mounted, owned, limited and locked as Kubernetes does it.

Opt-in, since building it takes minutes and gigabytes: `make image IMAGE=tfx-mobile:test
CONTAINER_TOOL=podman`, then TFX_MOBILE_TEST_IMAGE=tfx-mobile:test, of the lane that the tests run in.
The tool is podman, or what TFX_MOBILE_TEST_CONTAINER_TOOL says (`docker`, `podman --runtime runc`).
"""

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.orchestration.kubeflow.standin import StandIn

IMAGE = os.environ.get("TFX_MOBILE_TEST_IMAGE", "")
TOOL = shlex.split(os.environ.get("TFX_MOBILE_TEST_CONTAINER_TOOL", "podman"))
STAGED = ("gcs", "s3", "minio")  # each a volume of the pod's own

OPT_IN = [
    pytest.mark.skipif(
        not IMAGE, reason="NOT TESTED: no container was run: TFX_MOBILE_TEST_IMAGE names no image (opt-in)"
    ),
    pytest.mark.skipif(
        shutil.which(TOOL[0]) is None, reason=f"NOT TESTED: no container was run: there is no {TOOL[0]} here"
    ),
]

_INIT_JOB = Path(__file__).parents[3] / "kubeflow" / "base" / "init.yaml"


def run(
    *command: str, entrypoint: str = "", options: Sequence[str] = (), image: str = IMAGE
) -> "subprocess.CompletedProcess[str]":
    """Runs a command in a container that is locked as KFP and our manifests lock it, and has no network."""
    locked = ["--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none", "--rm"]
    chosen = [f"--entrypoint={entrypoint}"] if entrypoint else []
    return subprocess.run(
        [*TOOL, "run", *locked, *chosen, *options, image, *command],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


@dataclass
class InContainers(StandIn):
    """A server whose tasks are containers.

    Attributes:
      volumes: Folder by name of a claim or secret.
      options: More of `podman run`, for every task.
      asked: Options that the compiled file asks for, by task: see `asking`.
    """

    volumes: Mapping[str, Path] = field(default_factory=dict)
    options: Sequence[str] = ()
    asked: Mapping[str, tuple[str, Sequence[str]]] = field(default_factory=dict)

    def asking(self, spec: Mapping[str, Any], platform: Mapping[str, Any]) -> "InContainers":
        """Takes image, limits, claims and secrets from the compiled file, as `initPodSpecPatch` does."""
        self.asked = {
            name: _options(spec, platform, task["componentRef"]["name"], self.volumes)
            for name, task in spec["root"]["dag"]["tasks"].items()
        }
        return self

    def root_inside(self, pod: Path) -> str:
        """The pod's folders are mounted where the launcher has them."""
        return "/"

    def execute(self, words: list[str], pod: Path) -> tuple[int, str]:
        """Runs a command in a container; returns its exit status, and its output and errors."""
        for name in STAGED:
            (pod / name).mkdir(parents=True, exist_ok=True)
            open_to_all(pod / name)  # the launcher stages as the container's user, into volumes open to all
        image, asked = self.asked[pod.name]
        options = [
            *(f"--volume={pod / name}:/{name}" for name in STAGED),
            *(f"--env={name}={value}" for name, value in self.environment.items()),
            *asked,
            *self.options,
        ]
        done = run(*words[1:], entrypoint=words[0], options=options, image=image)
        return done.returncode, done.stdout + done.stderr


def open_to_all(folder: Path) -> None:
    """Lets the container's user read and write what is there, without a need to be root here."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o666)


def make_registry(folder: Path) -> dict[str, Path]:
    """Makes keys as kubeflow/README.md says, and the registry by the script of its Job, in a container.

    Returns:
      The folders of the claims `registry` and `registry-keys`, and of the secret `registry-root`.
    """
    from tfx_mobile.registry.store import Registry

    Registry.create(folder / "safe" / "registry")
    keys = folder / "safe" / "registry.keys"
    volumes = {
        "registry": folder / "registry",
        "registry-keys": folder / "registry.keys",
        "registry-root": folder / "registry-root",
    }
    for path in volumes.values():
        path.mkdir()
        path.chmod(0o777)
    shutil.copy(keys / "root.json", volumes["registry-root"])
    open_to_all(keys)
    (container,) = yaml.safe_load(_INIT_JOB.read_text())["spec"]["template"]["spec"]["containers"]
    options = [
        f"--volume={volumes['registry']}:/registry",
        f"--volume={volumes['registry-keys']}:/registry.keys",
        f"--volume={keys}:/signing-keys:ro",
        "--read-only",
        "--tmpfs=/tmp",
        *(f"--env={each['name']}={each['value']}" for each in container["env"]),
    ]
    entrypoint, *words = container["command"] + container["args"]
    done = run(*words, entrypoint=entrypoint, options=options)
    if done.returncode:
        raise RuntimeError(f"The registry's Job failed:\n{done.stdout}{done.stderr}")
    return volumes


def _options(
    spec: Mapping[str, Any], platform: Mapping[str, Any], component: str, volumes: Mapping[str, Path]
) -> tuple[str, list[str]]:
    """Returns a component's image, and the options for its limits, claims and secrets."""
    label = spec["components"][component]["executorLabel"]
    container = spec["deploymentSpec"]["executors"][label].get("container", {"image": ""})
    resources = container.get("resources", {})
    options = []
    if "cpuLimit" in resources:
        options.append(f"--cpus={resources['cpuLimit']}")
    if "memoryLimit" in resources:
        options.append(f"--memory={int(resources['memoryLimit'] * 10**9)}b")
    kubernetes = platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {})
    config = kubernetes.get("executors", {}).get(label, {})
    for mount in config.get("pvcMount", []):
        options.append(f"--volume={volumes[mount['constant']]}:{mount['mountPath']}")
    for mount in config.get("secretAsVolume", []):
        options.append(f"--volume={volumes[mount['secretName']]}:{mount['mountPath']}:ro")
    return container["image"], options
