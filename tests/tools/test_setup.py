"""tools/setup.sh on machines that do not exist.

Each test builds a machine out of a PATH, a HOME and small interpreters, which answer with the real Python's
own code and another version number. Nothing of TFX is installed, so these take seconds; that the real thing
installs is what `make test` shows before it comes here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SYSTEM_TOOLS = (
    *(
        "basename",
        "cat",
        "chmod",
        "cp",
        "cut",
        "date",
        "dirname",
        "flock",
        "head",
        "mkdir",
        "mv",
        "rm",
        "sed",
    ),
    *("sha256sum", "sleep", "sort", "touch", "tr", "uname"),
)
REAL_PYTHON = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"

# Called as: python -E -s -c CODE
FAKE_PYTHON = """#!/bin/sh
exec {real} {answers} "$4"
"""

ANSWERS = """
import builtins, sys, sysconfig

sys.version_info = {version_info!r}
sys.prefix = sys.base_prefix = {prefix!r}
sys.executable = {executable!r}
paths = sysconfig.get_paths()
sysconfig.get_paths = lambda *args: dict(paths, include={include!r})
original = builtins.__import__

def importing(name, *args, **kwargs):
    if name in {without!r}:
        raise ImportError(name)
    return original(name, *args, **kwargs)

builtins.__import__ = importing
exec(compile(sys.argv[1], "probe", "exec"))
"""

# The real one; but `-m venv` leaves out ensurepip, which takes seconds.
QUICK_PYTHON = """#!/bin/sh
case "$1 $2" in
  "-m venv") {real} -m venv --without-pip "$3" && printf '#!%s/bin/python\\n' "$3" > "$3/bin/pip" ;;
  "-E -s") exec {real} -c 'import sys; sys.executable = "{wrapper}"; exec(sys.argv[1])' "$4" ;;
  *) exec {real} "$@" ;;
esac
"""

FAKE_UV = """#!/bin/sh
case $1 in
  --version) echo "uv 99.0.0 (a fake)" ;;
  python) exit 1 ;;
  sync) echo sync >> {log}; {on_sync} ;;
esac
"""


class Machine:
    """A made-up machine with a checkout on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.home = folder / "home"
        self.checkout = folder / "checkout"
        self.uv_log = folder / "uv.log"
        for made in (self.bin, self.home, self.checkout / "tools"):
            made.mkdir(parents=True)
        for tool in SYSTEM_TOOLS:
            if found := shutil.which(tool):
                (self.bin / tool).symlink_to(found)
        shutil.copy(ROOT / "tools" / "setup.sh", self.checkout / "tools")
        (self.checkout / "pyproject.toml").write_text("[project]\nname = 'x'\n")
        (self.checkout / "uv.lock").write_text('[[package]]\nname = "uv"\nversion = "0.13.8"\n')
        self.script("c++", "#!/bin/sh\n")
        self.glibc("2.36")

    def script(self, name: str, text: str, folder: Path | None = None) -> Path:
        """Puts an executable on PATH, or into `folder`."""
        path = (folder or self.bin) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def glibc(self, version: str) -> None:
        """Makes the machine's C library that version."""
        self.script("getconf", f"#!/bin/sh\necho 'glibc {version}'\n")

    def python(
        self, version: str, folder: Path | None = None, without: tuple[str, ...] = (), headers: bool = True
    ) -> Path:
        """Installs an interpreter that says it is `version`, as `pythonX.Y`."""
        folder = folder or self.bin
        include = folder / "include"
        if headers:
            include.mkdir(parents=True, exist_ok=True)
            (include / "Python.h").touch()
        parts = [int(part) for part in version.split(".")]
        name = f"python{parts[0]}.{parts[1]}"
        answers = folder / f".{name}.py"
        folder.mkdir(parents=True, exist_ok=True)
        answers.write_text(
            ANSWERS.format(
                version_info=(*parts, "final", 0),
                prefix=str(folder),
                executable=str(folder / name),
                include=str(include),
                without=without,
            )
        )
        text = FAKE_PYTHON.format(real=REAL_PYTHON, answers=answers)
        return self.script(name, text, folder)

    def uv(self, on_sync: str = "exit 0") -> None:
        """Puts a uv on PATH that counts its syncs and installs nothing."""
        self.script("uv", FAKE_UV.format(log=self.uv_log, on_sync=on_sync))

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Starts the set-up script."""
        return subprocess.Popen(
            ["/bin/sh", "tools/setup.sh", *arguments],
            cwd=self.checkout,
            env={
                "PATH": str(self.bin),
                "HOME": str(self.home),
                "TFX_MOBILE_SYSTEM_DIRS": str(self.folder / "none"),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Runs the set-up script: its status and everything it printed."""
        process = self.start(*arguments, **environment)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def finds(self, **environment: str) -> str:
        """The interpreter the script would use."""
        status, output = self.run("--find", **environment)
        assert status == 0, output
        return output.strip()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


class TestWhichPython:
    def test_3_10_is_chosen_over_a_newer_one_that_would_do(self, machine: Machine) -> None:
        machine.glibc("2.41")
        for newer in ("3.11.2", "3.12.3", "3.13.1"):
            machine.python(newer)
        expected = machine.python("3.10.13")
        assert machine.finds() == f"3.10.13 stable {expected}"

    def test_a_recent_glibc_without_3_10_gives_the_latest_lane(self, machine: Machine) -> None:
        machine.glibc("2.39")
        machine.python("3.9.2")
        expected = machine.python("3.12.3")
        assert machine.finds() == f"3.12.3 latest {expected}"

    def test_an_older_glibc_refuses_the_latest_lane_and_says_which_it_needs(self, machine: Machine) -> None:
        machine.glibc("2.38")
        machine.python("3.12.3")
        status, output = machine.run("--find")
        assert status == 2
        assert "TFX for Python 3.12 needs glibc 2.39 or newer; here it is 2.38" in output

    def test_versions_of_glibc_are_compared_as_numbers(self, machine: Machine) -> None:
        machine.glibc("2.100")
        machine.python("3.13.0")
        assert machine.finds().startswith("3.13.0 latest ")

    def test_a_version_manager_s_command_that_does_not_run_is_passed_over(self, machine: Machine) -> None:
        machine.script("python3.10", "#!/bin/sh\necho 'pyenv: python3.10: command not found' >&2\nexit 127\n")
        expected = machine.python("3.10.13", machine.home / ".pyenv/versions/3.10.13/bin")
        assert machine.finds() == f"3.10.13 stable {expected}"

    def test_pyenv_s_root_may_be_elsewhere_and_its_newest_patch_wins(self, machine: Machine) -> None:
        root = machine.folder / "elsewhere"
        machine.python("3.10.9", root / "versions/3.10.9/bin")
        expected = machine.python("3.10.13", root / "versions/3.10.13/bin")
        assert machine.finds(PYENV_ROOT=str(root)) == f"3.10.13 stable {expected}"

    def test_uv_s_own_interpreters_are_found_without_uv(self, machine: Machine) -> None:
        folder = machine.home / ".local/share/uv/python/cpython-3.10.18-linux-x86_64-gnu/bin"
        machine.python("3.10.18", folder)
        assert machine.finds() == f"3.10.18 stable {folder / 'python3.10'}"

    def test_system_folders_are_searched_although_not_on_path(self, machine: Machine) -> None:
        folder = machine.folder / "usr/bin"
        machine.python("3.10.12", folder)
        assert machine.finds(TFX_MOBILE_SYSTEM_DIRS=f"/nowhere:{folder}").endswith(str(folder / "python3.10"))

    def test_a_3_10_that_cannot_make_environments_gives_way_to_one_that_can(self, machine: Machine) -> None:
        machine.python("3.10.12", without=("ensurepip",))
        expected = machine.python("3.10.13", machine.home / ".pyenv/versions/3.10.13/bin")
        assert machine.finds() == f"3.10.13 stable {expected}"

    @pytest.mark.parametrize(
        ("broken", "message"),
        [
            ({"without": ("ensurepip",)}, "cannot make virtual environments: apt install python3.10-venv"),
            ({"without": ("ssl",)}, "was built without the module ssl"),
            ({"headers": False}, "lacks Python.h, to build pyfarmhash: apt install python3.10-dev"),
        ],
    )
    def test_what_an_interpreter_lacks_is_said(
        self, machine: Machine, broken: dict[str, Any], message: str
    ) -> None:
        path = machine.python("3.10.12", **broken)
        status, output = machine.run("--find")
        assert status == 2
        assert f"    {path}  3.10.12 {message}\n" in output

    def test_3_10_needs_a_compiler_and_the_latest_lane_does_not(self, machine: Machine) -> None:
        (machine.bin / "c++").unlink()
        machine.python("3.10.12")
        status, output = machine.run("--find")
        assert status == 2
        assert "needs a C++ compiler beside it, to build pyfarmhash: apt install g++" in output
        machine.glibc("2.39")
        machine.python("3.13.1", headers=False)
        assert machine.finds().startswith("3.13.1 latest ")

    def test_none_at_all_tells_what_to_install(self, machine: Machine) -> None:
        status, output = machine.run()
        assert status == 2
        assert (
            "Needed: Python 3.10, or Python 3.11 to 3.13 with glibc 2.39 or newer (here: glibc 2.36)."
            in output
        )
        assert re.search(r"Found:\n +none\n", output)
        assert "pyenv install 3.10" in output
        assert "uv python install 3.10" in output
        assert not (machine.checkout / ".venv").exists()

    def test_another_processor_is_refused_at_once(self, machine: Machine) -> None:
        machine.python("3.10.12")
        machine.script("uname", "#!/bin/sh\n[ $1 = -m ] && echo aarch64 || echo Linux\n")
        status, output = machine.run()
        assert status == 2
        assert "TFX has wheels for Linux with glibc on x86_64 only; this is Linux on aarch64" in output


class TestPythonGivenByName:
    def test_it_is_taken_although_3_10_is_there(self, machine: Machine) -> None:
        machine.glibc("2.39")
        machine.python("3.10.13")
        expected = machine.python("3.11.2")
        assert machine.finds(PYTHON="python3.11") == f"3.11.2 latest {expected}"

    @pytest.mark.parametrize("version", ["3.9.18", "3.14.0", "2.7.18"])
    def test_an_unsupported_version_is_refused_in_one_line(self, machine: Machine, version: str) -> None:
        machine.python("3.10.13")
        path = machine.python(version)
        status, output = machine.run(PYTHON=str(path))
        minor = version.rpartition(".")[0]
        assert status == 2
        assert f"PYTHON={path} will not do ({version}): TFX does not support Python {minor}." in output
        assert output.count("\n") == 1
        assert not (machine.checkout / ".venv").exists()

    def test_a_name_that_is_no_interpreter_is_refused(self, machine: Machine) -> None:
        machine.python("3.10.13")
        status, output = machine.run("--find", PYTHON="python3.99")
        assert status == 2
        assert "PYTHON=python3.99 will not do: does not run: " in output


class TestVirtualEnvironment:
    """These make real virtual environments, with the Python that runs the tests."""

    @pytest.fixture
    def machine(self, tmp_path: Path) -> Machine:
        machine = Machine(tmp_path)
        machine.glibc("2.41")  # so that whichever Python runs the tests will do
        machine.script(
            REAL_PYTHON.name, QUICK_PYTHON.format(real=REAL_PYTHON, wrapper=machine.bin / REAL_PYTHON.name)
        )
        machine.uv()
        return machine

    def syncs(self, machine: Machine) -> int:
        return machine.uv_log.read_text().count("sync") if machine.uv_log.exists() else 0

    def set_up(self, machine: Machine, *arguments: str, **environment: str) -> str:
        status, output = machine.run(*arguments, **environment)
        assert status == 0, output
        return output

    def test_the_second_time_does_nothing_and_quietly_says_nothing(self, machine: Machine) -> None:
        first = self.set_up(machine)
        assert "lane\n" in first
        assert ".venv is ready" in first
        assert "up to date" in self.set_up(machine)
        assert self.set_up(machine, "--quiet") == ""
        assert self.syncs(machine) == 1

    def test_new_dependencies_are_installed_into_the_environment_that_is_there(
        self, machine: Machine
    ) -> None:
        self.set_up(machine)
        (machine.checkout / ".venv" / "kept").touch()
        (machine.checkout / "uv.lock").write_text('[[package]]\nname = "uv"\nversion = "0.13.9"\n')
        output = self.set_up(machine)
        assert "anew" not in output
        assert (machine.checkout / ".venv" / "kept").exists()
        assert self.syncs(machine) == 2

    def test_a_failed_installation_is_not_taken_for_a_finished_one(self, machine: Machine) -> None:
        machine.uv(on_sync="echo 'no route to host' >&2; exit 3")
        status, output = machine.run()
        assert status == 1
        assert "no route to host" in output
        assert "installing failed; the lines above say why" in output
        machine.uv()
        assert "making .venv anew: an earlier set-up was interrupted" in self.set_up(
            machine, PYTHON=REAL_PYTHON.name
        )
        assert "up to date" in self.set_up(machine)

    def test_a_killed_installation_is_started_over(self, machine: Machine) -> None:
        machine.uv(on_sync="kill -9 $PPID")
        status, _ = machine.run()
        assert status == -9
        machine.uv()
        assert "making .venv anew: an earlier set-up was interrupted" in self.set_up(
            machine, PYTHON=REAL_PYTHON.name
        )

    def test_a_killed_update_is_started_over(self, machine: Machine) -> None:
        self.set_up(machine)
        (machine.checkout / "pyproject.toml").write_text("[project]\nname = 'y'\n")
        machine.uv(on_sync="kill -9 $PPID")
        status, _ = machine.run()
        assert status == -9
        machine.uv()
        output = self.set_up(machine, PYTHON=REAL_PYTHON.name)
        assert "making .venv anew: an earlier set-up was interrupted" in output

    def test_a_moved_checkout_gets_an_environment_of_its_own(self, machine: Machine) -> None:
        self.set_up(machine)
        moved = machine.folder / "moved here"
        machine.checkout.rename(moved)
        machine.checkout = moved
        output = self.set_up(machine, PYTHON=REAL_PYTHON.name)
        assert "making .venv anew: it was copied, moved or made without pip" in output
        assert "up to date" in self.set_up(machine)

    def test_an_environment_whose_python_is_gone_is_made_anew(self, machine: Machine) -> None:
        self.set_up(machine)
        python = machine.checkout / ".venv" / "bin" / "python"
        python.unlink()
        python.symlink_to("/nowhere/python3")
        assert "making .venv anew: its Python is gone" in self.set_up(machine)

    def test_refusing_a_python_leaves_the_environment_alone(self, machine: Machine) -> None:
        self.set_up(machine)
        old = machine.python("3.9.18")
        status, output = machine.run(PYTHON=str(old))
        assert status == 2
        assert "TFX does not support Python 3.9" in output
        assert "up to date" in self.set_up(machine)

    @pytest.mark.skipif(not shutil.which("flock"), reason="without flock nothing is promised")
    def test_two_at_once_install_once(self, machine: Machine) -> None:
        go_on = machine.folder / "go on"
        waits = f"until [ -e '{go_on}' ] || [ $n -ge 1200 ]; do n=$((n + 1)); sleep 0.05; done"
        machine.uv(on_sync=f"n=0; {waits}")
        first = machine.start()
        deadline = time.monotonic() + 60
        while not self.syncs(machine):
            assert time.monotonic() < deadline, "the first set-up never reached uv"
            time.sleep(0.05)
        second = machine.start()
        assert second.stdout is not None
        said = "another set-up of this checkout is running; waiting for it"
        assert any(said in line for line in second.stdout)
        go_on.touch()
        second_output, _ = second.communicate(timeout=60)
        first.communicate(timeout=60)
        assert first.returncode == 0
        assert "up to date" in second_output
        assert self.syncs(machine) == 1


def test_uv_is_installed_with_the_hashes_of_the_lock(machine: Machine) -> None:
    """The lock's own hashes reach pip, and only uv's."""
    shutil.copy(ROOT / "uv.lock", machine.checkout)
    seen = machine.folder / "requirement"
    path = machine.python("3.10.13")
    path.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        f'  "-m venv "*) mkdir -p "$3/bin" && cp "{path}" "$3/bin/python" ;;\n'
        f'  *"-m pip install"*)\n'
        f'    for last; do :; done; cat "$last" > "{seen}"; echo "$*" >> "{seen}"; exit 1 ;;\n'
        f"  *) echo '3.10 3.10.13 -'; echo /prefix; echo '{path}' ;;\n"
        "esac\n"
    )
    status, _ = machine.run()
    assert status != 0
    requirement, command = seen.read_text().splitlines()
    lock = (ROOT / "uv.lock").read_text()
    block = next(part for part in lock.split("[[package]]") if part.startswith('\nname = "uv"\n'))
    version = re.search(r'^version = "(.+)"', block, re.MULTILINE)
    assert version
    assert requirement.split() == [
        f"uv=={version[1]}",
        *(f"--hash={digest}" for digest in re.findall(r'hash = "(sha256:[0-9a-f]{64})"', block)),
    ]
    assert "--require-hashes" in command


def test_an_unknown_argument_is_refused(machine: Machine) -> None:
    status, output = machine.run("--fast")
    assert status == 2
    assert "unknown argument '--fast'; known are --quiet and --find." in output


class TestMakefile:
    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs make as from a shell, although these tests may run under `make test ARGS=...`."""
        inherited = {"MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "ARGS", "DATA", "PYTHON"}
        environment = {name: value for name, value in os.environ.items() if name not in inherited}
        return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, env=environment)

    def test_every_target_in_the_help_is_there_and_the_other_way_round(self) -> None:
        phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert phony
        shown = re.findall(r"^  ([a-z]+)\s", self.make("help").stdout, re.MULTILINE)
        assert shown == [target for target in phony[1].split() if target != "ready"]

    @pytest.mark.parametrize(
        ("call", "expected"),
        [
            (["demo"], "-m taxi_fare"),
            (["demo", "DATA=my trips"], "-m taxi_fare --data 'my trips'"),
            (["test", "ARGS=-k quantizer"], "-m pytest -n 2 --dist loadfile -k quantizer"),
        ],
    )
    def test_variables_reach_the_command(self, call: list[str], expected: str) -> None:
        dry = self.make("-n", *call)
        assert dry.returncode == 0, dry.stderr
        assert dry.stdout.splitlines()[-1].strip().endswith(expected)

    def test_python_reaches_the_set_up(self) -> None:
        ran = self.make("setup", "PYTHON=/nowhere/python3.9")
        assert ran.returncode == 2
        assert "PYTHON=/nowhere/python3.9 will not do" in ran.stderr
