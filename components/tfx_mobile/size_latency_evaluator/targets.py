"""Where latency is measured: this machine, another one over SSH, a phone over adb.

A session has the files and rows on the device and runs our workers there, each in a fresh process: the same
modules, wherever it is. Only LiteRT's benchmark binary is another program. Decides nothing about what is run.

Sources: ssh(1) for its exit status 255; the output of LiteRT's `benchmark_model` as its documentation and
users show it.
"""

import contextlib
import hashlib
import io
import json
import re
import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import tfx_mobile
from tfx_mobile.common.errors import ConfigError
from tfx_mobile.size_latency_evaluator import isolation, runner
from tfx_mobile.size_latency_evaluator.config import AdbTarget, LocalTarget, SshTarget, Target

SHIPPED = (
    "__init__.py",
    "common/__init__.py",
    "common/errors.py",
    "size_latency_evaluator/__init__.py",
    "size_latency_evaluator/isolation.py",
    "size_latency_evaluator/latency_worker.py",
    "size_latency_evaluator/memory_worker.py",
    "size_latency_evaluator/remote_worker.py",
    "size_latency_evaluator/runner.py",
)
"""Our modules that run on another machine, as paths below the package."""

MIN_BENCHMARK_US = 100.0
"""`benchmark_model` prints medians in whole microseconds: below this a step is more than 1 %."""

_PACKAGE = "tfx_mobile.size_latency_evaluator"
LATENCY_WORKER = f"{_PACKAGE}.latency_worker"
MEMORY_WORKER = f"{_PACKAGE}.memory_worker"

_SSH_FAILED, _NO_COMMAND = 255, (126, 127)
_TRANSFER_SECONDS = 300.0
# Any Python 2.7 or newer can say that it is too old.
_UNPACK = """
import sys
if sys.version_info < (3, 10):
    sys.exit("It is Python %d.%d." % sys.version_info[:2])
import tarfile, tempfile
folder = tempfile.mkdtemp(prefix="tfx_mobile_")
with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
    archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
print(folder)
"""
_REMOVE = "import shutil, sys; shutil.rmtree(sys.argv[1])"


class Session(Protocol):
    """A device that has the files."""

    def describe(self) -> dict[str, Any]:
        """Returns the facts of the machine, as `runner.machine` has them, and `runtime`.

        Raises:
          ConfigError: It cannot measure.
        """

    def measure(
        self, module: str, names: Sequence[str], job: Mapping[str, Any], timeout_seconds: float
    ) -> isolation.Outcome:
        """Runs a worker once in a fresh process on the files of these names, in this order.

        Args:
          module: `LATENCY_WORKER` or `MEMORY_WORKER`.
          names: Of files.
          job: What the worker takes besides files and rows.
          timeout_seconds: For one process.
        """


@contextlib.contextmanager
def session(target: Target, files: Mapping[str, Path], rows: Mapping[str, Path]) -> Iterator[Session]:
    """Gives a session with the files on the device; what was copied there is removed at the end.

    Args:
      target: Which device.
      files: By name.
      rows: By name of the file, what `runner.save_columns` wrote; files may share them.

    Raises:
      ConfigError: The device cannot be reached, or lacks what it needs.
    """
    if isinstance(target, LocalTarget):
        with tempfile.TemporaryDirectory(prefix="tfx_mobile_latency_") as folder:
            yield _LocalSession(dict(files), dict(rows), Path(folder))
    elif isinstance(target, AdbTarget) and target.benchmark_binary:
        with _benchmark_session(target, files) as found:
            yield found
    else:
        with _python_session(target, files, rows) as found:
            yield found


def name_of(target: Target) -> str:
    """Returns the target in one word, for example 'local', 'ssh:pi@board' or 'adb:R58M'."""
    if isinstance(target, SshTarget):
        port = f":{target.port}" if target.port else ""
        return f"ssh:{_destination(target)}{port}"
    if isinstance(target, AdbTarget):
        return f"adb:{target.serial}" if target.serial else "adb"
    return "local"


def parse_target(text: str) -> Target:
    """Returns the target that `name_of` names: 'local', 'ssh:[user@]host[:port]'.

    Raises:
      ConfigError: It is none of these; a phone needs more settings than a word holds.
    """
    if text == "local":
        return LocalTarget()
    found = re.fullmatch(r"ssh:(?:([^@]+)@)?(\[[^]]+\]|[^:\[\]]+)(?::(\d+))?", text)
    if not found:
        raise ConfigError(f"The target must be 'local' or 'ssh:[user@]host[:port]'; got {text!r}.")
    user, host, port = found.groups()
    return SshTarget(host.strip("[]"), user=user or "", port=int(port or 0))


# ------------------------------------------------------------------------------------------ this machine


@dataclass(frozen=True)
class _LocalSession:
    files: dict[str, Path]
    rows: dict[str, Path]
    folder: Path

    def describe(self) -> dict[str, Any]:
        name, _ = runner.runtime()
        return {**runner.machine(), "runtime": name}

    def measure(
        self, module: str, names: Sequence[str], job: Mapping[str, Any], timeout_seconds: float
    ) -> isolation.Outcome:
        return isolation.run_worker(
            module,
            {name: self.files[name] for name in names},
            {**job, "rows": {name: str(self.rows[name]) for name in names}},
            folder=self.folder,
            timeout_seconds=timeout_seconds,
        )


# ------------------------------------------------------------------------------------------ another Python


@dataclass(frozen=True)
class _Device:
    """A shell on another device.

    Attributes:
      name: For messages.
      python_setting: Where its Python is set, for messages.
      command: What runs a line of its shell, the line to be added.
      trouble: Returns what is wrong with the connection, from exit code and standard error; or ''.
    """

    name: str
    python_setting: str
    command: tuple[str, ...]
    trouble: Callable[[int, str], str]

    def run(self, line: Sequence[str], given: bytes, timeout_seconds: float) -> tuple[int, bytes, str]:
        """Runs a command there; returns its exit code, output and errors.

        Raises:
          ConfigError: The device cannot be reached.
        """
        try:
            done = subprocess.run(
                [*self.command, shlex.join(line)],
                input=given,
                capture_output=True,
                timeout=timeout_seconds,
                check=False,
            )
        except FileNotFoundError as error:
            raise ConfigError(
                f"Measuring on {self.name} needs the command {self.command[0]!r} here; it is not installed."
            ) from error
        except subprocess.TimeoutExpired as error:
            raise ConfigError(f"{self.name} must answer within {timeout_seconds:g} s; it did not.") from error
        errors = done.stderr.decode(errors="replace")
        if reason := self.trouble(done.returncode, errors):
            raise ConfigError(reason)
        return done.returncode, done.stdout, errors


@dataclass(frozen=True)
class _PythonSession:
    device: _Device
    python: tuple[str, ...]
    folder: str
    files: dict[str, str]
    rows: dict[str, str]

    def describe(self) -> dict[str, Any]:
        code, output, errors = self._ask({"do": "describe"}, _TRANSFER_SECONDS)
        found = json.loads(output) if code == 0 else {"error": _last_line(errors, code)}
        if "error" in found:
            raise ConfigError(
                f"{self.device.python_setting} must have NumPy and LiteRT (ai-edge-litert) or tflite-runtime "
                f"on {self.device.name}: {found['error']}"
            )
        return dict(found)

    def measure(
        self, module: str, names: Sequence[str], job: Mapping[str, Any], timeout_seconds: float
    ) -> isolation.Outcome:
        request = {
            "do": "measure",
            "module": module,
            "paths": {name: self.files[name] for name in names},
            "job": {**job, "rows": {name: self.rows[name] for name in names}},
            "timeout_seconds": timeout_seconds,
        }
        try:
            # A try without a file that crashed may follow each try.
            code, output, errors = self._ask(request, timeout_seconds * (len(names) + 1) + _TRANSFER_SECONDS)
        except ConfigError as error:
            return isolation.Outcome({}, dict.fromkeys(names, f"The device was lost: {error}"))
        if code:
            reason = f"{self.device.name} could not measure: {_last_line(errors, code)}"
            return isolation.Outcome({}, dict.fromkeys(names, reason))
        found = json.loads(output)
        return isolation.Outcome(found["values"], found["failures"])

    def _ask(self, request: Mapping[str, Any], timeout_seconds: float) -> tuple[int, bytes, str]:
        script = f"cd {shlex.quote(self.folder)} && exec env PYTHONPATH=source {shlex.join(self.python)}"
        line = ["sh", "-c", f"{script} -m {_PACKAGE}.remote_worker"]
        return self.device.run(line, json.dumps(request).encode(), timeout_seconds)


@contextlib.contextmanager
def _python_session(
    target: SshTarget | AdbTarget, files: Mapping[str, Path], rows: Mapping[str, Path]
) -> Iterator[_PythonSession]:
    device = _ssh(target) if isinstance(target, SshTarget) else _adb(target)
    python: tuple[str, ...] = (target.python,)
    if isinstance(target, AdbTarget) and target.cpu_mask:
        python = ("taskset", target.cpu_mask, *python)
    sources = sorted(set(rows.values()))
    there = {
        **{path: f"files/{position}.tflite" for position, path in enumerate(files.values())},
        **{path: f"rows/{position}.npz" for position, path in enumerate(sources)},
    }
    code, output, errors = device.run([*python, "-c", _UNPACK], _archive(there), _TRANSFER_SECONDS)
    folder = output.decode(errors="replace").strip().splitlines()[-1:]
    if code or not folder:
        missing = "There is no such command." if code in _NO_COMMAND else _last_line(errors, code)
        raise ConfigError(
            f"{device.python_setting} must be Python 3.10 or newer on {device.name}; got {target.python!r}: "
            f"{missing}"
        )
    try:
        yield _PythonSession(
            device,
            python,
            folder[0],
            {name: there[path] for name, path in files.items()},
            {name: there[path] for name, path in rows.items()},
        )
    finally:
        with contextlib.suppress(ConfigError):  # a device that is lost keeps its temporary folder
            device.run([*python, "-c", _REMOVE, folder[0]], b"", _TRANSFER_SECONDS)


def _archive(there: Mapping[Path, str]) -> bytes:
    package = Path(tfx_mobile.__file__).parent
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in SHIPPED:
            archive.add(package / name, f"source/tfx_mobile/{name}")
        for path, name in there.items():
            archive.add(path.resolve(), name)
    return content.getvalue()


def _ssh(target: SshTarget) -> _Device:
    command = [
        "ssh",
        "-T",
        "-o",
        "BatchMode=yes",
        "-o",
        f"ConnectTimeout={max(1, round(target.connect_seconds))}",
    ]
    if target.port:
        command += ["-p", str(target.port)]
    if target.identity:
        command += ["-i", target.identity, "-o", "IdentitiesOnly=yes"]
    for option in target.options:
        command += ["-o", option]
    host = _destination(target)

    def trouble(code: int, errors: str) -> str:
        if code != _SSH_FAILED:
            return ""
        said = _last_line(errors, code)
        if "Permission denied" in errors or "Too many authentication" in errors:
            return (
                f"SshTarget must get into {host} without asking; got: {said} "
                "Set identity to a key that it accepts, or load one into the agent."
            )
        if "Host key verification failed" in errors:
            return (
                f"SshTarget must know the host key of {host}; got: {said} "
                "Connect once with ssh and check the key."
            )
        return f"SshTarget.host must be a machine that can be reached; got {host}: {said}"

    return _Device(host, "SshTarget.python", (*command, "--", host), trouble)


def _destination(target: SshTarget) -> str:
    return f"{target.user}@{target.host}" if target.user else target.host


# ------------------------------------------------------------------------------------------ a phone


def _adb(target: AdbTarget) -> _Device:
    name = f"phone {target.serial!r}" if target.serial else "the phone"
    return _Device(
        name,
        "AdbTarget.python",
        (*_adb_command(target), "shell", "-T"),
        lambda _, errors: _adb_trouble(name, errors),
    )


def _adb_command(target: AdbTarget) -> tuple[str, ...]:
    return (target.adb, *(("-s", target.serial) if target.serial else ()))


def _adb_trouble(name: str, errors: str) -> str:
    said = next((line for line in errors.splitlines() if line.startswith(("error:", "adb:"))), "")
    return f"AdbTarget must reach {name}; got: {said.strip()} See `adb devices`." if said else ""


@dataclass(frozen=True)
class _BenchmarkSession:
    """LiteRT's `benchmark_model` on a phone: one process a file, its own random inputs."""

    device: _Device
    folder: str
    files: dict[str, str]
    cpu_mask: str
    binary: str

    def describe(self) -> dict[str, Any]:
        lines = {
            "cpu": 'echo "$(getprop ro.product.model) $(getprop ro.hardware)"',
            "system": "uname -srm",
            "cores": "nproc",
            "load": "cat /proc/loadavg",
            "governor": "cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor 2>/dev/null | sort -u",
        }
        script = "; ".join(f"echo {key}=$({line} | tr '\\n' ' ')" for key, line in lines.items())
        _, output, _ = self.device.run(["sh", "-c", script], b"", _TRANSFER_SECONDS)
        found = dict(
            line.split("=", 1) for line in output.decode(errors="replace").splitlines() if "=" in line
        )
        return {
            "cpu": found.get("cpu", "").strip() or "unknown",
            "cores": int(_number(found.get("cores", ""))),
            "system": found.get("system", "").strip() or "unknown",
            "governor": "+".join(found.get("governor", "").split()),
            "load": _number(found.get("load", "")),
            "runtime": self.binary,
        }

    def measure(
        self, module: str, names: Sequence[str], job: Mapping[str, Any], timeout_seconds: float
    ) -> isolation.Outcome:
        if module != LATENCY_WORKER:
            return isolation.Outcome({}, {})
        values, failures = {}, {}
        for name in names:
            line = benchmark_line(self.files[name], job, share=1 / len(names), cpu_mask=self.cpu_mask)
            script = f"cd {shlex.quote(self.folder)} && {shlex.join(line)} 2>&1"
            try:
                code, output, _ = self.device.run(["sh", "-c", script], b"", timeout_seconds)
                text = output.decode(errors="replace")
                if code:
                    failures[name] = f"benchmark_model ended with code {code}: {_last_line(text, code)}"
                else:
                    values[name] = {**parse_benchmark(text), "pinned": bool(self.cpu_mask)}
            except ConfigError as error:
                failures[name] = str(error)
        return isolation.Outcome(values, failures)


def benchmark_line(file: str, job: Mapping[str, Any], *, share: float, cpu_mask: str) -> list[str]:
    """Returns the command line of LiteRT's `benchmark_model` on the phone.

    Args:
      file: Path on the phone.
      job: As the latency worker takes it.
      share: Of the job's seconds that this file gets, in (0, 1].
      cpu_mask: For `taskset`; empty for any core.
    """
    return [
        *(("taskset", cpu_mask) if cpu_mask else ()),
        "./benchmark_model",
        f"--graph={file}",
        "--num_threads=1",
        "--use_xnnpack=true",
        f"--warmup_runs={job['warmup_calls']}",
        "--warmup_min_secs=0",
        f"--num_runs={job['min_calls']}",
        f"--min_secs={float(job['seconds']) * share:g}",
    ]


def parse_benchmark(output: str) -> dict[str, Any]:
    """Returns what the latency worker would return, from what `benchmark_model` printed.

    The tool has no 90th percentile: its 95th, which is never less, stands in for it. It has no other
    quantiles either, so that none are returned.

    Raises:
      ConfigError: A figure is missing, or the file is too quick for a tool that prints whole microseconds.
    """
    number = r"([0-9.]+(?:e[+-]?[0-9]+)?)"
    timed = re.findall(rf"count=(\d+) .*\bmedian={number} p95={number}", output)
    whole = re.search(rf"Inference timings in us: Init: {number}, First inference: {number},", output)
    if not timed or not whole:
        raise ConfigError(
            "AdbTarget.benchmark_binary must print 'median=', 'p95=' and 'Inference timings in us'; got: "
            f"{_last_line(output, 0)} Take a newer benchmark_model, or set python."
        )
    calls, median, p95 = timed[-1]  # those before are the warm-up's
    if float(median) < MIN_BENCHMARK_US:
        raise ConfigError(
            f"A file must take at least {MIN_BENCHMARK_US:g} us a call for benchmark_model, which prints "
            f"whole microseconds; got {median}. Set AdbTarget.python instead."
        )
    return {
        "p50_ns": 1e3 * float(median),
        "p90_ns": 1e3 * float(p95),
        "quantiles_ns": [],
        "rounds_ns": [],
        "init_ns": 1e3 * float(whole[1]),
        "first_call_ns": 1e3 * float(whole[2]),
        "calls": int(calls),
    }


@contextlib.contextmanager
def _benchmark_session(target: AdbTarget, files: Mapping[str, Path]) -> Iterator[_BenchmarkSession]:
    device = _adb(target)
    binary = Path(target.benchmark_binary)
    if not binary.is_file():
        raise ConfigError(f"AdbTarget.benchmark_binary must be a file; there is none at {binary}.")
    digest = hashlib.sha256(binary.read_bytes()).hexdigest()
    folder = f"{target.folder.rstrip('/')}/tfx_mobile_{digest[:12]}"
    there = {name: f"{position}.tflite" for position, name in enumerate(files)}
    device.run(["mkdir", "-p", folder], b"", _TRANSFER_SECONDS)
    try:
        for path, name in [(binary, "benchmark_model"), *((files[key], there[key]) for key in files)]:
            _push(target, device.name, path, f"{folder}/{name}")
        code, _, errors = device.run(["chmod", "755", f"{folder}/benchmark_model"], b"", _TRANSFER_SECONDS)
        if code:
            raise ConfigError(
                f"AdbTarget.folder must be writable on {device.name}; got: {_last_line(errors, code)}"
            )
        yield _BenchmarkSession(
            device, folder, there, target.cpu_mask, f"benchmark_model sha256:{digest[:12]}"
        )
    finally:
        with contextlib.suppress(ConfigError):  # a phone that is lost keeps the folder
            device.run(["rm", "-rf", folder], b"", _TRANSFER_SECONDS)


def _push(target: AdbTarget, name: str, path: Path, there: str) -> None:
    done = subprocess.run(
        [*_adb_command(target), "push", str(path), there],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TRANSFER_SECONDS,
        check=False,
    )
    if done.returncode:
        raise ConfigError(
            f"AdbTarget must write to {there} on {name}; got: {_last_line(done.stderr, done.returncode)}"
        )


def _number(text: str) -> float:
    found = re.match(r"\s*([0-9.]+)", text)
    return float(found[1]) if found else 0.0


def _last_line(text: str, code: int) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = lines[-1][:300] if lines else f"code {code}, no message"
    return said if said.endswith((".", "!", "?")) else f"{said}."
