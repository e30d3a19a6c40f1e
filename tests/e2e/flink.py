"""Beam's Flink runner for tests and benchmarks: job server, Flink cluster in it, SDK workers as processes.

Beam downloads its job server as one jar. Mirrors of Maven Central may not have that, but they have the parts
it is packed from: Maven resolves them here, checks their sums, and Java starts the same main class on them.
What is missing (Java, Maven, an answer) is an error, never a skipped test.
"""

import contextlib
import dataclasses
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.ports import SECONDS_TO_START, free_port

from tfx_mobile.orchestration import beam_args

_BOOT = Path(__file__).parent / "sdk_boot.py"
_CACHE = Path.home() / ".cache" / "tfx-mobile"
_MAIN = "org.apache.beam.runners.flink.FlinkJobServerDriver"
_STAND_IN = ("2.62.0", "1.19")  # of the stable lane; not every mirror has newer ones whole
# Beam gives its --number_of_execution_retries to streaming jobs only: by itself, a batch job that loses a
# worker has failed. The delay is longer than workers are cached: else the next try gets the dead one.
_CONFIGURATION = """restart-strategy.type: fixed-delay
restart-strategy.fixed-delay.attempts: 3
restart-strategy.fixed-delay.delay: 6 s
rest.bind-port: {rest_port}
metrics.fetcher.update-interval: 200
"""
_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tfx-mobile</groupId><artifactId>flink-for-tests</artifactId><version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.beam</groupId><artifactId>beam-runners-flink-{flink}</artifactId>
      <version>{beam}</version>
    </dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-jdk14</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""


@dataclasses.dataclass(frozen=True)
class Flink:
    """A running job server.

    Attributes:
      endpoint: Where it listens.
      workers: Folder in which each SDK worker that ever started has one: `pid`, `log`, `staged`, `packages`.
      boot: What starts a worker.
      rest_port: Where Flink itself answers while a job runs.
    """

    endpoint: str
    workers: Path
    boot: Path
    rest_port: int

    def arguments(self, *, parallelism: int = 2, packages: Sequence[str] = ("tfx_mobile",)) -> list[str]:
        """Returns Beam's arguments: so many SDK processes, which get these packages as a wheel."""
        arguments = [
            "--runner=FlinkRunner",
            "--flink_master=[local]",
            f"--job_endpoint={self.endpoint}",
            f"--parallelism={parallelism}",
            f"--sdk_worker_parallelism={parallelism}",
            "--environment_cache_millis=3000",  # or workers end with each stage of a batch job
            "--environment_type=PROCESS",
            f"--environment_config={json.dumps({'command': str(self.boot)})}",
        ]
        return beam_args.with_packages(arguments, packages, self.workers.parent / "wheels")

    def pids(self) -> dict[int, Path]:
        """Returns the process id and the folder of each SDK worker that ever started."""
        return {
            int((one / "pid").read_text()): one
            for one in sorted(self.workers.glob("*"))
            if (one / "pid").exists()
        }

    def written(self) -> dict[tuple[str, str, bool], int]:
        """Returns the bytes that each vertex has given to others so far; nothing while no job runs.

        Ask often: the cluster goes with its job, and what a vertex has written is final only when it has
        ended. What was written just before the end of a job may be missed.

        Returns:
          By job, vertex, and whether it is shuffled: False where each task's bytes go to one task only, which
          Flink runs in the same slot (its forward edges), so that they need not leave the machine.
        """
        found = {}
        with contextlib.suppress(OSError, http.client.HTTPException):
            for job in self._ask("/jobs")["jobs"]:
                details = self._ask(f"/jobs/{job['id']}")
                if "nodes" not in details["plan"]:  # the job is still being set up
                    continue
                edges = [edge for node in details["plan"]["nodes"] for edge in node.get("inputs", ())]
                shuffling = {edge["id"] for edge in edges if edge["ship_strategy"].lower() != "forward"}
                for vertex in details["vertices"]:
                    key = (job["id"], vertex["id"], vertex["id"] in shuffling)
                    found[key] = vertex["metrics"]["write-bytes"]
        return found

    def _ask(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://localhost:{self.rest_port}{path}", timeout=5.0) as answer:
            return json.load(answer)


@contextlib.contextmanager
def job_server(folder: Path, *, python_path: Sequence[str] = ()) -> Iterator[Flink]:
    """Runs a job server; its log is `flink.log` in the folder.

    Args:
      folder: An empty one.
      python_path: Where workers find modules besides what is sent to them.

    Raises:
      RuntimeError: Java or Maven is missing, Maven cannot get the runner, or it does not start.
    """
    jar = _jar(folder)
    flink = Flink(f"localhost:{free_port()}", folder / "workers", folder / "boot.sh", free_port())
    flink.workers.mkdir()
    flink.boot.write_text(
        "#!/bin/sh\n"
        f"export PYTHONPATH='{os.pathsep.join(python_path)}' TF_USE_LEGACY_KERAS=1 TF_CPP_MIN_LOG_LEVEL=2\n"
        f"exec '{sys.executable}' '{_BOOT}' '{flink.workers}' \"$@\" >>'{folder}/boot.log' 2>&1\n"
    )
    flink.boot.chmod(0o755)
    command = [_program("java", "default-jre-headless"), *_LIGHT, *_OPENED, "-jar", str(jar)]
    command += ["--job-port", flink.endpoint.rpartition(":")[2], "--artifact-port", "0"]
    command += ["--expansion-port", "-1", "--artifacts-dir", str(folder / "artifacts")]
    command += ["--flink-conf-dir", str(folder / "conf")]
    (folder / "conf").mkdir()
    (folder / "conf" / "config.yaml").write_text(_CONFIGURATION.format(rest_port=flink.rest_port))
    log = folder / "flink.log"
    with log.open("wb") as stream:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT)
    try:
        _wait(server, flink.endpoint, log)
        yield flink
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def versions() -> tuple[str, str]:
    """Returns the installed Beam's version, and the newest Flink 1 that it has a runner for."""
    import apache_beam
    from apache_beam.options.pipeline_options import FlinkRunnerOptions

    published = [one for one in FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS if one.startswith("1.")]
    return apache_beam.__version__, published[-1]


def class_path() -> list[str]:
    """Returns the jars of Beam's Flink runner, which Maven keeps in its own cache.

    For a newer Beam whose own runner Maven does not have, an older one stands in: Beam allows that.
    A warning says so, because it is not what Beam itself would start.

    Raises:
      RuntimeError: Maven is missing or cannot get them.
    """
    own = versions()
    try:
        return _class_path(*own)
    except RuntimeError as error:
        if _numbers(own[0]) <= _numbers(_STAND_IN[0]):
            raise
        jars = _class_path(*_STAND_IN)
        beam, flink = _STAND_IN
        warnings.warn(
            f"Beam {own[0]} runs on the job server of Beam {beam}, Flink {flink}: its own is not to be had. "
            f"{str(error).splitlines()[0]}",
            stacklevel=2,
        )
        return jars


def _class_path(beam: str, flink: str) -> list[str]:
    known = _CACHE / f"beam-{beam}-flink-{flink}.classpath"
    if known.exists():
        jars = known.read_text().split(os.pathsep)
        if all(map(os.path.exists, jars)):
            return jars
    maven = _program("mvn", "maven")
    with tempfile.TemporaryDirectory(prefix="tfx_mobile_flink_") as folder:
        Path(folder, "pom.xml").write_text(_POM.format(beam=beam, flink=flink))
        found = Path(folder, "classpath")
        goal = ["dependency:build-classpath", "-DincludeScope=runtime", f"-Dmdep.outputFile={found}"]
        done = subprocess.run(
            [maven, "-q", "-B", *goal], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode or not found.exists():
            raise RuntimeError(
                f"Maven must get beam-runners-flink-{flink} {beam}, without which nothing is known about "
                f"Flink; got: {(done.stdout + done.stderr)[-2000:]}"
            )
        text = found.read_text().strip()
    known.parent.mkdir(parents=True, exist_ok=True)
    unfinished = known.with_name(f"{known.name}.{os.getpid()}")
    unfinished.write_text(text)
    os.replace(unfinished, known)
    return text.split(os.pathsep)


def _numbers(version: str) -> list[int]:
    return [int(one) for one in version.split(".")[:2]]


def _jar(folder: Path) -> Path:
    """Writes a jar that has nothing but the main class's name and the class path."""
    lines = ["Manifest-Version: 1.0", f"Main-Class: {_MAIN}"]
    lines.append("Class-Path: " + " ".join(Path(jar).as_uri() for jar in class_path()))
    wrapped = []  # a line has 72 bytes at most; what goes on begins with a space
    for line in lines:
        wrapped.append(line[:72])
        wrapped += [f" {line[start : start + 71]}" for start in range(72, len(line), 71)]
    with zipfile.ZipFile(folder / "job-server.jar", "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", "\r\n".join([*wrapped, "", ""]))
    return folder / "job-server.jar"


def _wait(server: "subprocess.Popen[bytes]", endpoint: str, log: Path) -> None:
    import grpc

    with grpc.insecure_channel(endpoint) as channel:
        ready = grpc.channel_ready_future(channel)
        for _ in range(int(SECONDS_TO_START)):
            with contextlib.suppress(grpc.FutureTimeoutError):
                ready.result(timeout=1.0)
                return
            if server.poll() is not None:
                break
    raise RuntimeError(f"Beam's job server must start; got: {log.read_text(errors='replace')[-2000:]}")


def _program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} must be installed to run Flink; got none. apt-get install {package}")
    return found


# The program lives for minutes and moves names of files: compiling its code well costs more than it gains.
_LIGHT = ("-Xmx1g", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
# Flink 1 looks into classes that Java 17 closes.
_OPENED = [
    f"--add-opens=java.base/{package}=ALL-UNNAMED"
    for package in (
        "java.io",
        "java.lang",
        "java.lang.invoke",
        "java.lang.reflect",
        "java.net",
        "java.nio",
        "java.text",
        "java.time",
        "java.util",
        "java.util.concurrent",
        "java.util.concurrent.atomic",
        "sun.nio.ch",
    )
]
