"""Where latency is measured: a real SSH server on loopback, and an `adb` that runs its commands here.

The phone is not real: command lines and the parser are tested on what benchmark_model prints.
"""

import asyncio
import os
import re
import shlex
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tfx_mobile
from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.size_latency_evaluator import latency, runner, targets
from tfx_mobile.size_latency_evaluator.config import (
    AdbTarget,
    EvaluatorConfig,
    LatencyConfig,
    LocalTarget,
    SizeGate,
    SshTarget,
    Target,
)

QUICK: dict[str, Any] = {"processes": (2,), "seconds_per_process": 0.05, "min_calls": 7, "num_rows": 3}


# ------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SshTarget(""), "SshTarget.host must be text that is not empty; got ''."),
        (
            lambda: SshTarget("-oProxyCommand=x"),
            "SshTarget.host must be one word that does not start with '-'",
        ),
        (lambda: SshTarget("a b"), "SshTarget.host must be one word"),
        (lambda: SshTarget("a", user="-l"), "SshTarget.user must be one word that does not start with '-'"),
        (lambda: SshTarget("a", port=70000), "SshTarget.port must be between 1 and 65535, or 0"),
        (lambda: SshTarget("a", python=" "), "SshTarget.python must be text that is not empty; got ' '."),
        (lambda: SshTarget("a", options=("x\ny",)), "SshTarget.options must be one line"),
        (lambda: SshTarget("a", connect_seconds=0.0), "SshTarget.connect_seconds must be > 0; got 0.0."),
        (lambda: AdbTarget(), "must have exactly one of benchmark_binary and python; got none."),
        (lambda: AdbTarget(benchmark_binary="b", python="p"), "and python; got both."),
        (lambda: AdbTarget(python="p", cpu_mask="big"), "AdbTarget.cpu_mask must be hexadecimal"),
        (lambda: AdbTarget(python="p", serial="-x"), "AdbTarget.serial must be one word"),
        (
            lambda: LatencyConfig(target="board"),
            "LatencyConfig.target must be LocalTarget or SshTarget or AdbTarget; got str 'board'.",
        ),
        (
            lambda: LatencyConfig(target=SshTarget("a"), count_instructions=True),
            "count_instructions needs LocalTarget, where callgrind runs; got SshTarget.",
        ),
        (lambda: LatencyConfig(max_seconds=0.0), "LatencyConfig.max_seconds must be > 0; got 0.0."),
        (
            lambda: LatencyConfig(measure_memory=1),
            "LatencyConfig.measure_memory must be bool; got int 1.",
        ),
        (lambda: targets.parse_target("board"), "must be 'local' or 'ssh:[user@]host[:port]'; got 'board'."),
        (lambda: targets.parse_target("ssh:-oX=1"), "SshTarget.host must be one word"),
    ],
)
def test_a_target_that_cannot_work_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    "target",
    [
        LocalTarget(),
        SshTarget("board", user="pi", port=2222, identity="~/.ssh/board", options=("ProxyJump=gate",)),
        AdbTarget(serial="R58M", python="python3"),
        AdbTarget(benchmark_binary="benchmark_model", cpu_mask="f0"),
    ],
)
def test_a_target_comes_back_from_json(target: Target) -> None:
    config = EvaluatorConfig("fare", (SizeGate(max_bytes=1),), latency=LatencyConfig(target=target))

    again = EvaluatorConfig.from_json(config.to_json())

    assert again.latency.target == target
    assert again.to_json() == config.to_json()


@given(
    st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True) | st.just(""),
    st.from_regex(r"[a-z0-9][a-z0-9.-]{0,15}", fullmatch=True),
    st.integers(0, 65535),
)
def test_a_targets_name_is_what_the_command_line_takes(user: str, host: str, port: int) -> None:
    target = SshTarget(host, user=user, port=port)

    assert targets.parse_target(targets.name_of(target)) == target


# ------------------------------------------------------------------------------------------ what is copied


def test_what_is_copied_runs_with_nothing_but_numpy_and_the_runtime(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in targets.SHIPPED:
            archive.add(Path(tfx_mobile.__file__).parent / name, f"source/tfx_mobile/{name}")
    with tarfile.open(tmp_path / "x.tar") as archive:
        archive.extractall(tmp_path)
    code = (
        "import importlib, sys\n"
        f"sys.path.insert(0, {str(tmp_path / 'source')!r})\n"
        "for name in ('remote_worker', 'latency_worker', 'memory_worker'):\n"
        "    importlib.import_module('tfx_mobile.size_latency_evaluator.' + name)\n"
        "ours = [m for name, m in sys.modules.items() if name.startswith('tfx_mobile')]\n"
        f"assert all(m.__file__.startswith({str(tmp_path)!r}) for m in ours), ours\n"
        "print(sorted({'scipy', 'tensorflow', 'tfx', 'ai_edge_litert'} & set(sys.modules)))\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_the_first_runtime_that_is_installed_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    known = dict(runner._RUNTIMES)
    monkeypatch.setattr(runner, "_RUNTIMES", {"no-such": "no_such_runtime.interpreter", **known})
    name, _ = runner.runtime()
    assert name.startswith("ai-edge-litert ")

    monkeypatch.setattr(runner, "_RUNTIMES", {"no-such": "no_such_runtime.interpreter"})
    with pytest.raises(DataError, match=re.escape("The machine that measures must have no-such; got none")):
        runner.runtime()


def test_the_governors_of_all_cores_are_named(tmp_path: Path) -> None:
    assert runner._governor(tmp_path) == ""
    for core, name in enumerate(["schedutil", "performance", "schedutil"]):
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{name}\n")

    assert runner._governor(tmp_path) == "performance+schedutil"


# ------------------------------------------------------------------------------------------ a real SSH server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """An SSH server on loopback that lets one key in and runs what it is told, without our PYTHONPATH."""
    folder = tmp_path_factory.mktemp("ssh")
    keys = {name: asyncssh.generate_private_key("ssh-ed25519") for name in ("host", "client", "stranger")}
    for name in ("client", "stranger"):
        keys[name].write_private_key(folder / name)
        (folder / name).chmod(0o600)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["TMPDIR"] = str(folder)

    async def run(process: Any) -> None:
        child = await asyncio.create_subprocess_shell(
            process.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        output, errors = await child.communicate(await process.stdin.read())
        process.stdout.write(output)
        process.stderr.write(errors)
        process.exit(child.returncode)

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def listen() -> Any:
        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[keys["host"]],
            authorized_client_keys=asyncssh.import_authorized_keys(
                keys["client"].export_public_key().decode()
            ),
            process_factory=run,
            encoding=None,
        )

    listener = asyncio.run_coroutine_threadsafe(listen(), loop).result(120)
    port = listener.get_port()
    known = folder / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {keys['host'].export_public_key().decode()}")
    yield {"folder": folder, "port": port, "known_hosts": known}
    loop.call_soon_threadsafe(listener.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)


def board(server: dict[str, Any], **changes: Any) -> SshTarget:
    settings = {
        "user": "tester",
        "connect_seconds": 120.0,
        "port": server["port"],
        "python": sys.executable,
        "identity": str(server["folder"] / "client"),
        "options": (f"UserKnownHostsFile={server['known_hosts']}", "StrictHostKeyChecking=yes"),
    }
    return SshTarget("127.0.0.1", **{**settings, **changes})


@pytest.mark.pipeline
def test_a_board_measures_what_this_machine_would_and_keeps_nothing(
    tiny: Any, tmp_path: Path, server: dict[str, Any]
) -> None:
    paths = {}
    for name in ("s0-crash", "s0-float32", "s0-int8"):
        paths[name] = tmp_path / f"{name} it's.tflite"
        paths[name].write_bytes(tiny.contents[name])

    run = latency.measure(
        paths,
        tiny.columns,
        LatencyConfig(**QUICK, target=board(server)),
        always=["s0-float32"],
        still_open=lambda _: set(),
    )

    assert list(run.failures) == ["s0-crash"]
    assert "SIGSEGV" in run.failures["s0-crash"]
    for name in ("s0-float32", "s0-int8"):
        assert [sample.process for sample in run.samples[name]] == [0, 1]
        assert all(0 < sample.p50_ns <= sample.p90_ns for sample in run.samples[name])
        assert all(len(sample.quantiles_ns) == 9 for sample in run.samples[name])
        heap = run.footprints[name].heap_bytes
        assert heap is not None
        assert heap > len(tiny.contents[name]) / 10
    assert run.machine.target == f"ssh:tester@127.0.0.1:{server['port']}"
    assert run.machine.runtime == latency.runtime_version()
    assert run.machine.processes == 2
    assert list(server["folder"].glob("tfx_mobile_*")) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"identity": "stranger"}, "SshTarget must get into tester@127.0.0.1 without asking; got: "),
        ({"known_hosts": "none"}, "SshTarget must know the host key of tester@127.0.0.1; got: "),
        ({"port": 1}, "SshTarget.host must be a machine that can be reached; got tester@127.0.0.1: "),
        (
            {"python": "/no/such/python"},
            "SshTarget.python must be Python 3.10 or newer on tester@127.0.0.1; got '/no/such/python': There",
        ),
        (
            {"python": "false"},
            "SshTarget.python must be Python 3.10 or newer on tester@127.0.0.1; got 'false'",
        ),
        (
            {"python": "bare"},
            "SshTarget.python must have NumPy and LiteRT (ai-edge-litert) or tflite-runtime on "
            "tester@127.0.0.1: ModuleNotFoundError: No module named 'numpy'.",
        ),
    ],
)
def test_a_board_that_cannot_measure_is_one_clear_error(
    server: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    if "identity" in changes:
        changes = {"identity": str(server["folder"] / changes["identity"])}
    if "known_hosts" in changes:
        changes = {"options": (f"UserKnownHostsFile={tmp_path / 'none'}", "StrictHostKeyChecking=yes")}
    if changes.get("python") == "bare":
        changes = {"python": script(tmp_path / "bare", f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')}
    config = LatencyConfig(**QUICK, target=board(server, **changes))

    with pytest.raises(ConfigError, match=re.escape(message)):
        latency.measure(
            {"a": Path(__file__)},
            {"x": np.zeros((2, 1))},
            config,
            always=[],
            still_open=lambda _: set(),
        )


def test_a_host_that_has_no_name_is_one_clear_error() -> None:
    with (
        pytest.raises(
            ConfigError, match=re.escape("SshTarget.host must be a machine that can be reached; got no-such.")
        ),
        targets.session(SshTarget("no-such.invalid"), {}, {}),
    ):
        pass


def test_without_ssh_here_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with (
        pytest.raises(
            ConfigError,
            match=re.escape("Measuring on board needs the command 'ssh' here; it is not installed."),
        ),
        targets.session(SshTarget("board"), {}, {}),
    ):
        pass


# ------------------------------------------------------------------------------------------ an adb of our own

NEWER = """INFO: STARTING!
INFO: Use xnnpack: [1]
INFO: Loaded model 0.tflite
INFO: Initialized session in 5.579ms.
INFO: Running benchmark for at least 10 iterations and at least 0 seconds.
INFO: count=10 first=9000 curr=2100 min=2000 max=9000 avg=2800 std=9 p5=2000 median=2100 p95=9000

INFO: Running benchmark for at least 25 iterations and at least 1 seconds.
INFO: count=480 first=2064 curr=2040 min=1990 max=1.21566e+06 avg=2051.27 std=31 p5=1995 median=2040 p95=2110

INFO: Inference timings in us: Init: 5579, First inference: 9000, Warmup (avg): 2800, Inference (avg): 2051.27
INFO: Memory footprint delta from the start of the tool (MB): init=6.36 overall=9.83
"""
OLDER = re.sub(r" p5=.*", "", NEWER)


def test_the_figures_of_benchmark_model_by_hand() -> None:
    assert targets.parse_benchmark(NEWER) == {
        "p50_ns": 2_040_000.0,
        "p90_ns": 2_110_000.0,
        "quantiles_ns": [],
        "rounds_ns": [],
        "init_ns": 5_579_000.0,
        "first_call_ns": 9_000_000.0,
        "calls": 480,
    }


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            OLDER,
            "AdbTarget.benchmark_binary must print 'median=', 'p95=' and 'Inference timings in us'; got: ",
        ),
        ("", "got: code 0, no message. Take a newer benchmark_model, or set python."),
        (NEWER.replace("Inference timings", "Timings"), "must print 'median=', 'p95='"),
        (NEWER.replace("median=2040", "median=99"), "which prints whole microseconds; got 99."),
        (NEWER.replace("median=2040", "median=nan"), "which prints"),
    ],
)
def test_output_that_does_not_say_enough_is_refused(output: str, message: str) -> None:
    if "nan" in output:
        output = output.replace("median=2100", "median=7")
    with pytest.raises(ConfigError, match=re.escape(message)):
        targets.parse_benchmark(output)


def test_the_command_line_on_the_phone() -> None:
    job = {"warmup_calls": 10, "min_calls": 25, "seconds": 1.5}

    line = targets.benchmark_line("0.tflite", job, share=0.5, cpu_mask="f0")

    assert shlex.join(line) == (
        "taskset f0 ./benchmark_model --graph=0.tflite --num_threads=1 --use_xnnpack=true --warmup_runs=10 "
        "--warmup_min_secs=0 --num_runs=25 --min_secs=0.75"
    )


def script(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.fixture
def adb(tmp_path: Path) -> str:
    """An `adb` whose phone is this machine; it knows the serial P1 only and logs its arguments."""
    return script(
        tmp_path / "adb",
        "#!/bin/sh\n"
        f'echo "$@" >> {tmp_path}/log\n'
        'if [ "$1" = -s ]; then\n'
        '  if [ "$2" != P1 ]; then echo "error: device \'$2\' not found" >&2; exit 1; fi\n'
        "  shift 2\n"
        "fi\n"
        'case "$1" in\n'
        '  push) cp "$2" "$3" ;;\n'
        '  shell) shift; [ "$1" = -T ] && shift; exec sh -c "$*" ;;\n'
        "esac\n",
    )


@pytest.mark.pipeline
def test_our_runner_measures_over_adb(tiny: Any, tmp_path: Path, adb: str) -> None:
    path = tmp_path / "a.tflite"
    path.write_bytes(tiny.contents["s0-float32"])
    target = AdbTarget(serial="P1", python=sys.executable, adb=adb, cpu_mask="1")

    run = latency.measure(
        {"a": path},
        tiny.columns,
        LatencyConfig(**QUICK, target=target),
        always=[],
        still_open=lambda _: set(),
    )

    assert run.failures == {}
    assert [sample.process for sample in run.samples["a"]] == [0, 1]
    assert run.machine.target == "adb:P1"


@pytest.fixture
def binary(tmp_path: Path) -> str:
    """Prints what benchmark_model prints, 1 % more for file 1; file 2 it cannot load."""
    (tmp_path / "printed").write_text(NEWER)
    return script(
        tmp_path / "benchmark_model",
        "#!/bin/sh\n"
        'case "$1" in\n'
        f"  *0.tflite) cat {tmp_path}/printed ;;\n"
        f"  *1.tflite) sed 's/median=2040/median=2060/' {tmp_path}/printed ;;\n"
        '  *) echo "ERROR: Failed to load model"; exit 1 ;;\n'
        "esac\n",
    )


def test_the_benchmark_binary_measures_over_adb_and_leaves_nothing(
    tmp_path: Path, adb: str, binary: str
) -> None:
    folder = tmp_path / "phone"
    folder.mkdir()
    paths = {name: tmp_path / name for name in ("a", "b", "c")}
    for path in paths.values():
        path.write_bytes(b"TFL3")
    target = AdbTarget(serial="P1", benchmark_binary=binary, adb=adb, folder=str(folder))

    run = latency.measure(
        paths, {}, LatencyConfig(**QUICK, target=target), always=[], still_open=lambda _: set()
    )

    assert run.failures == {"c": "benchmark_model ended with code 1: ERROR: Failed to load model."}
    assert [sample.p50_ns for sample in run.samples["a"]] == [2_040_000.0] * 2
    assert [sample.p50_ns for sample in run.samples["b"]] == [2_060_000.0] * 2
    assert run.footprints["a"].heap_bytes is None
    assert run.machine.runtime.startswith("benchmark_model sha256:")
    assert run.machine.cores > 0
    assert list(folder.iterdir()) == []
    graphs = re.findall(r"--graph=(\d)", (tmp_path / "log").read_text())
    assert graphs == ["0", "1", "2", "1", "0"]  # the other way round in the second process, without 'c'


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"serial": "P2"},
            "AdbTarget must reach phone 'P2'; got: error: device 'P2' not found See `adb devices`.",
        ),
        (
            {"benchmark_binary": "/no/such"},
            "AdbTarget.benchmark_binary must be a file; there is none at /no/such.",
        ),
        ({"folder": "/proc/no"}, "AdbTarget must write to /proc/no/tfx_mobile_"),
        ({"adb": "/no/such/adb"}, "needs the command '/no/such/adb' here; it is not installed."),
    ],
)
def test_a_phone_that_cannot_be_used_is_one_clear_error(
    adb: str, binary: str, changes: dict[str, Any], message: str
) -> None:
    target = AdbTarget(**{"serial": "P1", "benchmark_binary": binary, "adb": adb, **changes})

    with (
        pytest.raises(ConfigError, match=re.escape(message)),
        targets.session(target, {"a": Path(__file__)}, {}),
    ):
        pass


@pytest.mark.parametrize("with_python", [True, False])
def test_a_device_that_is_lost_while_it_measures_is_a_failure_with_its_reason(
    with_python: bool, tmp_path: Path, adb: str, binary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folder = tmp_path / "phone"
    folder.mkdir()
    means = {"python": sys.executable} if with_python else {"benchmark_binary": binary}
    target = AdbTarget(serial="P1", adb=adb, folder=str(folder), **means)
    job = {"warmup_calls": 1, "min_calls": 1, "seconds": 0.1}

    with targets.session(target, {"a": Path(__file__)}, {"a": Path(__file__)}) as session:
        script(Path(adb), "#!/bin/sh\necho 'error: no devices/emulators found' >&2; exit 1\n")
        outcome = session.measure(targets.LATENCY_WORKER, ["a"], job, 5.0)

    assert outcome.values == {}
    assert "got: error: no devices/emulators found See `adb devices`." in outcome.failures["a"]
