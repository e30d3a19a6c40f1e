"""The manifests in kubeflow/: what kustomize makes of them, by Kubernetes' schema and rules of our own."""

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tfx_mobile import __version__
from tfx_mobile.registry.client import Client
from tfx_mobile.registry.store import Registry

ROOT = Path(__file__).resolve().parents[3]
KUBEFLOW = ROOT / "kubeflow"
OVERLAYS = sorted(path.parent.name for path in KUBEFLOW.glob("*/kustomization.yaml"))
MADE_BY_HAND = {("Secret", "registry-signing-keys")}  # README: never in git
MAY_SIGN = {"registry-init", "registry-refresh"}
BIN = Path(sys.executable).parent


def rendered(overlay: str) -> str:
    done = subprocess.run(
        [str(BIN / "kubectl"), "kustomize", str(KUBEFLOW / overlay)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def objects() -> dict[str, list[dict[str, Any]]]:
    """What each overlay makes."""
    return {overlay: list(yaml.safe_load_all(rendered(overlay))) for overlay in OVERLAYS}


def pods(documents: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
    """Yields the name, the pod's spec and its labels of everything that makes pods."""
    for each in documents:
        spec = each.get("spec", {})
        template = spec.get("jobTemplate", {}).get("spec", {}).get("template") or spec.get("template")
        if template:
            labels = template.get("metadata", {}).get("labels", {})
            yield each["metadata"]["name"], template["spec"], labels


def containers(
    objects: dict[str, list[dict[str, Any]]],
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yields where it is, the pod's spec and the container's, of every container."""
    for overlay, documents in objects.items():
        for name, pod, _ in pods(documents):
            for container in [*pod["containers"], *pod.get("initContainers", [])]:
                yield f"{overlay}/{name}/{container['name']}", pod, container


def test_the_folder_is_no_python_package() -> None:
    assert list(KUBEFLOW.rglob("*.py")) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_is_what_kubernetes_takes(overlay: str, tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    path.write_text(rendered(overlay))
    done = subprocess.run(
        [str(BIN / "kubernetes-validate"), "--strict", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    count = len(list(yaml.safe_load_all(path.read_text())))
    assert (done.stdout + done.stderr).count(" passed for resource ") == count


def test_the_validator_would_notice_a_field_that_does_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    path.write_text(rendered("base").replace("concurrencyPolicy", "concurencyPolicy"))
    command = [str(BIN / "kubernetes-validate"), "--strict", str(path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_there_is_something_to_check(objects: dict[str, list[dict[str, Any]]]) -> None:
    assert {"base", "one-node", "pipeline-root", "flink"} <= set(objects)
    assert len(list(containers(objects))) == 9


def test_every_image_has_a_tag_that_stays(objects: dict[str, list[dict[str, Any]]]) -> None:
    for where, _, container in containers(objects):
        tag = container["image"].rpartition("/")[2].partition(":")[2]
        assert re.match(r"\d+\.\d+", tag), f"{where}: {container['image']}"
        if container["image"].startswith("tfx-mobile:"):
            assert tag == __version__, where


def test_no_container_runs_as_root_or_may_become_it(objects: dict[str, list[dict[str, Any]]]) -> None:
    for where, pod, container in containers(objects):
        both = {**pod["securityContext"], **container["securityContext"]}
        assert both["runAsNonRoot"] is True, where
        assert both["runAsUser"] > 0, where
        assert both["allowPrivilegeEscalation"] is False, where
        assert both["capabilities"] == {"drop": ["ALL"]}, where
        assert both["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert both.get("readOnlyRootFilesystem") is True or "/flink:" in container["image"], where
        assert pod["automountServiceAccountToken"] is False, where


def test_our_image_runs_as_the_user_it_was_made_for(objects: dict[str, list[dict[str, Any]]]) -> None:
    (user,) = re.findall(r"^USER (\d+):(\d+)$", (KUBEFLOW / "Dockerfile").read_text(), re.MULTILINE)
    for where, pod, container in containers(objects):
        if container["image"].startswith("tfx-mobile:"):
            both = {**pod["securityContext"], **container["securityContext"]}
            assert (str(both["runAsUser"]), str(both["runAsGroup"])) == user, where


def test_every_container_has_requests_within_limits(objects: dict[str, list[dict[str, Any]]]) -> None:
    for where, _, container in containers(objects):
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        for resource in ("cpu", "memory"):
            assert 0 < quantity(requests[resource]) <= quantity(limits[resource]), where


def quantity(text: str) -> float:
    """Returns cores or bytes.

    >>> quantity("500m"), quantity("2"), quantity("1Ki")
    (0.5, 2.0, 1024.0)
    """
    number, unit = re.fullmatch(r"([\d.]+)(m|[KMG]i|)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"m": 1e-3, "": 1.0, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}[unit]


def test_everything_that_stays_up_is_probed(objects: dict[str, list[dict[str, Any]]]) -> None:
    for overlay, documents in objects.items():
        for name, pod, _ in pods([each for each in documents if each["kind"] == "Deployment"]):
            for container in pod["containers"]:
                assert {"readinessProbe", "livenessProbe"} <= set(container), f"{overlay}/{name}"
                ports = {port["name"] for port in container["ports"]}
                for probe in (container["readinessProbe"], container["livenessProbe"]):
                    (action,) = (probe[kind] for kind in ("httpGet", "tcpSocket") if kind in probe)
                    assert action["port"] in ports, f"{overlay}/{name}"


def test_every_name_that_is_referred_to_exists(objects: dict[str, list[dict[str, Any]]]) -> None:
    for overlay, documents in objects.items():
        there = {(each["kind"], each["metadata"]["name"]) for each in documents} | MADE_BY_HAND
        for name, pod, _ in pods(documents):
            volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
            for volume in volumes.values():
                for kind, source, key in (
                    ("PersistentVolumeClaim", "persistentVolumeClaim", "claimName"),
                    ("Secret", "secret", "secretName"),
                    ("ConfigMap", "configMap", "name"),
                ):
                    if source in volume:
                        assert (kind, volume[source][key]) in there, f"{overlay}/{name}"
            mounted = {m["name"] for each in pod["containers"] for m in each.get("volumeMounts", [])}
            assert mounted == set(volumes), f"{overlay}/{name}"


def test_every_service_leads_to_a_pod_and_its_port(objects: dict[str, list[dict[str, Any]]]) -> None:
    for overlay, documents in objects.items():
        for service in (each for each in documents if each["kind"] == "Service"):
            selector = service["spec"]["selector"].items()
            (pod,) = (pod for _, pod, labels in pods(documents) if selector <= labels.items())
            ports = {port["name"] for container in pod["containers"] for port in container["ports"]}
            for port in service["spec"]["ports"]:
                assert port["targetPort"] in ports, f"{overlay}/{service['metadata']['name']}"


def test_private_keys_are_seen_by_what_signs_and_are_not_in_git(
    objects: dict[str, list[dict[str, Any]]],
) -> None:
    for documents in objects.values():
        for name, pod, _ in pods(documents):
            text = json.dumps(pod)
            assert ("registry-keys" in text or "signing-keys" in text) == (name in MAY_SIGN), name
        assert not [each for each in documents if each["kind"] == "Secret"]
    for path in KUBEFLOW.rglob("*"):
        assert not path.is_file() or "PRIVATE KEY" not in path.read_text(), path


def test_the_web_server_cannot_write_the_registry(objects: dict[str, list[dict[str, Any]]]) -> None:
    (pod,) = (pod for name, pod, _ in pods(objects["base"]) if name == "registry-web")
    (mount,) = (m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "registry")
    assert mount["readOnly"] is True


def test_flink_s_version_is_one_that_both_lanes_publish_a_job_server_for() -> None:
    (version,) = set(re.findall(r"image: docker.io/library/flink:(\d+\.\d+)", rendered("flink")))
    assert version == "1.19"  # Beam 2.62: 1.17 to 1.19; Beam 2.73: 1.19, 1.20, 2.0 and newer


def test_the_image_is_built_of_what_make_writes_and_the_context_lets_in() -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    call = ["make", "-n", "image", "IMAGE=a:1", "BASE=b:2", "CONTAINER_TOOL=podman", "ARGS=--pull"]
    lines = subprocess.check_output(call, cwd=ROOT, text=True, env=inherited).splitlines()
    built = " ".join(lines[-1].split())
    assert built == "podman build --file kubeflow/Dockerfile --tag 'a:1' --build-arg 'BASE=b:2' --pull ."
    written = {"build/image/requirements.txt", "build/image/*.whl"}
    assert "--output-file build/image/requirements.txt" in lines[-3]
    assert "--out-dir build/image" in lines[-2]
    copied = set(re.findall(r"^COPY (?!--from)(\S+)", (KUBEFLOW / "Dockerfile").read_text(), re.MULTILINE))
    let_in = set(re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert copied == let_in == written | {"pipelines"}


# What is written in the manifests is run: the Job's script and, where there is an nginx, its configuration.


@pytest.fixture(scope="module")
def initialised(objects: dict[str, list[dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `registry` and `registry.keys` as the Job leaves them after two runs."""
    folder = tmp_path_factory.mktemp("volumes")
    made = Registry.create(folder / "operator" / "registry")
    shutil.copytree(made.keys, folder / "signing-keys")
    for name in ("registry", "registry.keys"):
        (folder / name).mkdir()
    first = run_job(objects, folder)
    assert first.returncode == 0, first.stderr
    second = run_job(objects, folder)
    assert (second.returncode, second.stdout) == (0, "there is a registry: nothing to do\n")
    return folder


def run_job(objects: dict[str, list[dict[str, Any]]], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Runs the script of the Job `registry-init` with the pod's folders below `folder`."""
    (pod,) = (pod for name, pod, _ in pods(objects["base"]) if name == "registry-init")
    (container,) = pod["containers"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]} - {"/tmp"}
    script = re.sub(
        r"(?<=\s)(/[\w.-]+)", lambda m: f"{folder}{m[1]}" if m[1] in mounted else m[1], container["args"][0]
    )
    script = script.replace("tfx-mobile ", f"{sys.executable} -m tfx_mobile.cli ")
    return subprocess.run([*container["command"], script], capture_output=True, text=True, check=False)


def test_the_job_makes_a_registry_of_the_operators_keys(initialised: Path) -> None:
    registry = Registry(initialised / "registry")
    registry.publish("taxi", b"model", metadata={})
    assert registry.verify()
    trusted = initialised / "operator" / "registry.keys" / "root.json"
    client = Client(str(initialised / "registry"), root=trusted, cache=initialised / "phone")
    assert client.fetch("taxi").path.read_bytes() == b"model"


def test_the_job_leaves_keys_that_others_cannot_read(initialised: Path) -> None:
    keys = list((initialised / "registry.keys").glob("*.pem"))
    assert len(keys) >= 4
    assert [path.name for path in keys if path.stat().st_mode & 0o077] == []


def test_the_job_refuses_keys_without_their_registry(
    objects: dict[str, list[dict[str, Any]]], initialised: Path, tmp_path: Path
) -> None:
    shutil.copytree(initialised / "signing-keys", tmp_path / "signing-keys")
    shutil.copytree(initialised / "registry.keys", tmp_path / "registry.keys")
    (tmp_path / "registry").mkdir()
    done = run_job(objects, tmp_path)
    assert done.returncode != 0
    assert "its timestamp.json is missing" in done.stderr


def test_nginx_serves_what_is_signed_and_nothing_else(initialised: Path, tmp_path: Path) -> None:
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if nginx is None:
        message = "NOT TESTED: kubeflow/base/nginx.conf was not run: no nginx here (apt: nginx-light)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(message)
    Registry(initialised / "registry").publish("served", b"model 2", metadata={})
    (initialised / "registry" / "note.txt").write_text("not signed")
    socket_path = tmp_path / "s"
    server = (KUBEFLOW / "base" / "nginx.conf").read_text()
    server = server.replace("listen 8080;", f"listen unix:{socket_path};")
    server = server.replace("/srv/registry", str(initialised / "registry"))
    main = f"user root;\npid {tmp_path}/pid;\ndaemon off;\nerror_log stderr;\nevents {{}}\n"
    (tmp_path / "nginx.conf").write_text(f"{main}http {{\naccess_log off;\n{server}}}\n")
    process = subprocess.Popen(
        [nginx, "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    try:
        answers = {
            path: asked(socket_path, process, path) for path in ("/healthz", "/metadata/timestamp.json")
        }
        assert answers["/healthz"][0] == 200
        timestamp = (initialised / "registry" / "metadata" / "timestamp.json").read_bytes()
        assert answers["/metadata/timestamp.json"] == (200, timestamp, "no-cache")
        (target,) = (initialised / "registry" / "targets" / "served").glob("*/*.tflite")
        path = target.relative_to(initialised / "registry").as_posix()
        status, content, caching = asked(socket_path, process, f"/{path}")
        assert (status, content) == (200, b"model 2")
        assert caching == "public, max-age=31536000, immutable"
        assert asked(socket_path, process, "/metadata/99.root.json")[0::2] == (404, None)
        assert asked(socket_path, process, "/note.txt")[0] == 404
        assert asked(socket_path, process, "/metadata/timestamp.json", method="PUT")[0] in (403, 405)
    finally:
        process.terminate()
        process.communicate(timeout=20)


def asked(
    path: Path, process: "subprocess.Popen[str]", url: str, method: str = "GET"
) -> tuple[int, bytes, str | None]:
    """Returns the status, content and caching of an answer over a Unix socket."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    while connection.sock.connect_ex(str(path)):  # it is there before somebody listens
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.02)
    connection.request(method, url)
    answer = connection.getresponse()
    found = answer.status, answer.read(), answer.getheader("Cache-Control")
    connection.close()
    return found
