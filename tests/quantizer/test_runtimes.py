"""Files on other runtimes: a real older one from PyPI, our own in another environment, and one that dies.

tflite-runtime 2.14 has no wheel for Python 3.12 and newer; there the older runtime is the oldest
ai-edge-litert that has one.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.quantizer import runtimes
from tfx_mobile.quantizer.runtimes import RunsOn, Runtime

pytestmark = pytest.mark.pipeline

# What is installed, what it says of itself, and the first version of FULLY_CONNECTED that it does not have.
if sys.version_info < (3, 12):
    OLDER, OLDER_SAYS, TOO_NEW = "tflite-runtime==2.14.0", "tflite_runtime 2.14.0", 11
else:
    OLDER, OLDER_SAYS, TOO_NEW = "ai-edge-litert==2.1.0", "ai_edge_litert 2.1.0", 99

WEIGHTS = np.array([[2.0], [-1.0], [0.5]], np.float32)
X = np.random.default_rng(2).normal(size=(40, 3)).astype(np.float32)

# A runtime of the same interface which crashes, hangs or lies when the file's name says so.
TROUBLED = """
import os, signal, sys, time
import numpy
sys.path.append({site!r})
from ai_edge_litert.interpreter import Interpreter as Real


class Interpreter(Real):
    def __init__(self, model_path, num_threads):
        name = os.path.basename(model_path)
        if "crash" in name:
            print("E: the kernel failed on " + name, file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        if "leave" in name:
            os._exit(4)
        if "hang" in name:
            time.sleep(600)
        if "raise" in name:
            raise ValueError("no\\n  such   kernel")
        super().__init__(model_path=model_path, num_threads=num_threads)
        self.how = name

    def get_signature_runner(self, key):
        return Runner(super().get_signature_runner(key), self.how)


class Runner:
    def __init__(self, real, how):
        self.real, self.how = real, how
        self.get_input_details, self.get_output_details = real.get_input_details, real.get_output_details

    def __call__(self, **given):
        found = self.real(**given)
        change = [value for key, value in CHANGES.items() if key in self.how]
        return {{name: change[0](value) if change else value for name, value in found.items()}}


CHANGES = {{
    "constant": lambda value: value * 0 + 7,
    "nan": lambda value: value / 0,
    "reversed": lambda value: value[::-1],
    "slightly": lambda value: value + 0.01,
    "narrow": lambda value: value[:-1],
    "late": lambda value: value + (numpy.arange(len(value)) >= 30).reshape(-1, 1) * numpy.float32(5),
}}
"""


def uv(*arguments: str) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("uv")), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def make_environment(folder: Path, *requirements: str) -> str:
    uv("venv", "--python", sys.executable, str(folder))
    python = str(folder / "bin" / "python")
    if requirements:
        uv("pip", "install", "--python", python, *requirements)
    return python


def site_packages(python: str) -> Path:
    program = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    return Path(
        subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    )


@pytest.fixture(scope="session")
def older(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    """A runtime from PyPI that is older than ours."""
    numpy = "numpy<2" if sys.version_info < (3, 12) else "numpy"
    return Runtime("older", make_environment(tmp_path_factory.mktemp("older") / "env", OLDER, numpy))


@pytest.fixture(scope="session")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    """Our own runtime in another environment, in trouble when the file's name says so."""
    python = make_environment(tmp_path_factory.mktemp("troubled") / "env")
    package = site_packages(python) / "tflite_runtime"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '0.1'")
    ours = str(site_packages(sys.executable))
    (package / "interpreter.py").write_text(TROUBLED.format(site=ours))
    (site_packages(python) / "ours.pth").write_text(ours)
    return Runtime("troubled", python)


@pytest.fixture(scope="session")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """By name: a linear function in float32 and with integers in and out, and one of strings and numbers."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("files")
    pairs = tf.lookup.KeyValueTensorInitializer(
        tf.constant(["Flash", "Zürich"]), tf.constant([1, 2], tf.int64)
    )
    module = tf.Module()
    module.table = tf.lookup.StaticHashTable(pairs, -1)
    x = tf.TensorSpec([None, 3], tf.float32, name="x")
    name, day = tf.TensorSpec([None], tf.string, name="name"), tf.TensorSpec([None, 1], tf.int64, name="day")

    def convert(key: str, function: Any, *specs: Any, **options: Any) -> bytes:
        owner = module if len(specs) > 1 else tf.Module()
        traced = tf.function(function, input_signature=specs, autograph=False)
        tf.saved_model.save(owner, str(folder / key), signatures={"serving_default": traced})
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / key))
        for option, value in options.items():
            setattr(converter, option, value)
        return bytes(converter.convert())

    def linear(x: Any) -> Any:
        return {"b": tf.matmul(x, WEIGHTS), "a": tf.matmul(x, 2 * WEIGHTS)}

    def lookup(name: Any, day: Any) -> Any:
        return tf.cast(module.table.lookup(name)[:, None] + 10 * day, tf.float32)

    return {
        "float32": convert("float32", linear, x),
        "int8": convert(
            "int8",
            linear,
            x,
            optimizations=[tf.lite.Optimize.DEFAULT],
            representative_dataset=lambda: ({"x": X[i : i + 1]} for i in range(len(X))),
            inference_input_type=tf.int8,
            inference_output_type=tf.int8,
        ),
        "strings": convert("strings", lookup, name, day),
    }


def predictions(content: bytes, rows: Any) -> Any:
    from tfx_mobile.common.interpreter import TFLiteModel

    return TFLiteModel(content).predict(rows)


@pytest.fixture
def check(contents: dict[str, bytes], tmp_path: Path) -> Callable[..., dict[str, RunsOn]]:
    """Runs copies of the float32 file under the given names on a runtime."""

    def run(runtime: Runtime, *names: str, **options: Any) -> dict[str, RunsOn]:
        files = {name: tmp_path / f"{name}.tflite" for name in names}
        for path in files.values():
            path.write_bytes(contents["float32"])
        wanted = dict.fromkeys(names, predictions(contents["float32"], {"x": X}))
        return runtimes.runs_on(runtime, files, {"x": X}, wanted, **options)

    return run


def with_op(content: bytes, **changed: int) -> bytes:
    """Returns the file with its fully connected op of another version or code."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content)
    for op in model.operatorCodes:
        if op.builtinCode == schema.BuiltinOperator.FULLY_CONNECTED:
            for name, value in changed.items():
                setattr(op, name, value)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_the_older_runtime_says_its_version(older: Runtime) -> None:
    python = ".".join(map(str, sys.version_info[:3]))
    assert runtimes.version_of(older) == f"{OLDER_SAYS}, Python {python}"


@pytest.mark.parametrize("runtime", ["older", "troubled"])
def test_files_run_on_another_runtime_as_on_ours(
    request: pytest.FixtureRequest, runtime: str, contents: dict[str, bytes], tmp_path: Path
) -> None:
    """Floats, integers in and out, two outputs, strings with zeros at their ends, numbers that are exact."""
    names = np.array([b"Flash", b"", "Zürich".encode(), b"Flash\0", b"x" * 500], object)
    rows = {"x": X[:5], "name": names, "day": np.arange(5) * 1000}
    files = {name: tmp_path / f"{name}.tflite" for name in contents}
    wanted = {}
    for name, path in files.items():
        path.write_bytes(contents[name])
        wanted[name] = predictions(contents[name], rows)
    found = runtimes.runs_on(request.getfixturevalue(runtime), files, rows, wanted)
    assert list(found) == ["float32", "int8", "strings"]
    assert [each.failure for each in found.values()] == ["", "", ""]
    gaps = {name: each.max_abs for name, each in found.items()}
    assert gaps["strings"] == 0.0
    assert gaps["float32"] is not None
    assert gaps["float32"] < 1e-5
    assert gaps["int8"] is not None
    assert gaps["int8"] < 0.2  # a step of the output, of 255 over about 20


def test_an_op_that_is_too_new_for_the_older_runtime_is_named(
    older: Runtime, contents: dict[str, bytes], tmp_path: Path
) -> None:
    files = {name: tmp_path / f"{name}.tflite" for name in ("good", "version", "code", "good too")}
    good = contents["float32"]
    versions = with_op(good, version=TOO_NEW)
    if sys.version_info < (3, 12):
        np.testing.assert_array_equal(
            predictions(versions, {"x": X}), predictions(good, {"x": X})
        )  # ours has it
    for name, content in zip(files, (good, versions, with_op(good, builtinCode=9999), good), strict=True):
        files[name].write_bytes(content)
    wanted = dict.fromkeys(files, predictions(good, {"x": X}))
    found = runtimes.runs_on(older, files, {"x": X}, wanted)
    assert found["version"] == RunsOn(
        f"older has no op FULLY_CONNECTED of version {TOO_NEW}: it is too old for the file", None
    )
    assert found["code"] == RunsOn("older has no op number 9999: it is too old for the file", None)
    assert found["good"].failure == found["good too"].failure == ""


def test_an_op_that_only_newer_schemas_have_has_its_name_from_ours() -> None:
    message = "Op builtin_code out of range: 206. Are you using old TFLite binary with newer model?"
    refusal = "has no op STABLEHLO_COMPOSITE: it is too old for the file"
    assert runtimes._refusal(message) == refusal


def test_a_file_that_is_damaged_costs_that_file_only(
    older: Runtime, contents: dict[str, bytes], tmp_path: Path
) -> None:
    """Runtimes do not check a file before they read it: some damage is refused, some is a crash."""
    draw = np.random.default_rng(0)
    files = {"good": tmp_path / "good.tflite"}
    files["good"].write_bytes(contents["int8"])
    for i in range(4):
        damaged = bytearray(contents["int8"])
        for position in draw.integers(8, len(damaged), 40):
            damaged[position] = draw.integers(0, 256)
        files[f"damaged-{i}"] = tmp_path / f"damaged-{i}.tflite"
        files[f"damaged-{i}"].write_bytes(bytes(damaged))
    files["good too"] = files["good"]
    wanted = dict.fromkeys(files, predictions(contents["int8"], {"x": X}))
    found = runtimes.runs_on(older, files, {"x": X}, wanted)
    assert [name for name, each in found.items() if not each.failure] == ["good", "good too"]
    assert not any("\n" in each.failure or len(each.failure) > 400 for each in found.values())


def test_a_file_that_crashes_hangs_or_leaves_costs_that_file_only(
    troubled: Runtime, check: Callable[..., dict[str, RunsOn]]
) -> None:
    names = ("crash", "one", "hang", "leave", "raise", "two", "crash-last")
    found = check(troubled, *names, timeout_seconds=20.0)  # the others take milliseconds, if nothing stalls
    assert list(found) == list(names)
    assert {name: each.failure for name, each in found.items()} == {
        "crash": "troubled died with SIGSEGV with the file (E: the kernel failed on crash.tflite)",
        "one": "",
        "hang": "troubled takes longer than 20 s with the file",
        "leave": "troubled ended with code 4 with the file",
        "raise": "troubled refuses the file: no such kernel",
        "two": "",
        "crash-last": "troubled died with SIGSEGV with the file (E: the kernel failed on crash-last.tflite)",
    }
    assert found["two"].max_abs == 0.0


def test_a_runtime_that_computes_something_else_is_told(
    troubled: Runtime, check: Callable[..., dict[str, RunsOn]]
) -> None:
    found = check(troubled, "constant", "nan", "reversed", "slightly", "narrow")
    assert found["constant"].failure == "returns the constant 7, 7 for rows whose predictions differ"
    assert found["nan"] == RunsOn("returns NaN or infinity for 80 predictions", None)
    start = "computes something else with troubled than with our own runtime: "
    assert found["reversed"].failure.startswith(start)
    assert found["slightly"].failure == ""
    assert found["slightly"].max_abs == pytest.approx(0.01, abs=1e-5)
    assert found["narrow"].failure == "returns the shape (39, 2) where our own runtime returns (40, 2)"


def test_boundary_rows_need_only_be_finite(
    troubled: Runtime, check: Callable[..., dict[str, RunsOn]]
) -> None:
    found = check(troubled, "late", num_sampled=30)["late"]
    assert found.failure == ""
    assert found.max_abs == pytest.approx(5.0, abs=1e-5)
    assert check(troubled, "late")["late"].failure.startswith("computes something else with troubled")
    assert check(troubled, "nan", num_sampled=30)["nan"].failure


def test_the_pythonpath_of_the_pipeline_does_not_reach_the_runtime(
    troubled: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise RuntimeError('not mine')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    assert runtimes.version_of(troubled).startswith("tflite_runtime 0.1, Python ")


def test_no_files_run_nothing() -> None:
    assert runtimes.runs_on(Runtime("any", sys.executable), {}, {"x": X}, {}) == {}


def test_an_environment_without_a_runtime_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    runtime = Runtime("bare", make_environment(tmp_path / "bare"))
    message = (
        "Runtime 'bare' must be able to import numpy and one of tflite_runtime, ai_edge_litert, tensorflow "
        f"in {runtime.python}; it ended with code 1 (ModuleNotFoundError: No module named 'numpy')."
    )
    for use in (
        lambda: runtimes.version_of(runtime),
        lambda: runtimes.runs_on(runtime, {"a": tmp_path / "a.tflite"}, {"x": X}, {"a": X}),
    ):
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
            use()


def test_a_python_that_is_not_there_is_refused_when_the_pipeline_is_built(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not executable")
    for python in (str(tmp_path / "nothing"), str(tmp_path / "text"), str(tmp_path), "no-such-python"):
        message = (
            f"The python of runtime 'x' must be an interpreter that exists; got {python!r}. "
            "Make its environment first."
        )
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
            runtimes.check_runtime(Runtime("x", python))
    runtimes.check_runtime(Runtime("x", sys.executable))


@pytest.mark.parametrize(("name", "python"), [("", "python3"), ("x", " ")])
def test_a_runtime_needs_a_name_and_a_python(name: str, python: str) -> None:
    message = f"A runtime must have a name and a python; got {name!r}, {python!r}."
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        Runtime(name, python)


def test_a_runtime_is_a_setting() -> None:
    runtime = Runtime("tflite-runtime 2.14", "/somewhere/bin/python")
    assert Runtime.from_json(runtime.to_json()) == runtime
