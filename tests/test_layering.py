"""Arrows go down only: pure modules import where neither TFX nor TensorFlow exists."""

import fnmatch
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROMISED_BY_THE_EXAMPLE = ("taxi_fare.rows", "taxi_fare.data")  # their docstrings say so
BLOCKED = (
    "tfx",
    "tfx_bsl",
    "tensorflow",
    "tensorflow_transform",
    "tensorflow_model_optimization",
    "apache_beam",
    "tf_keras",
    "keras",
)

IMPORT_ONE_BY_ONE = """
import importlib, json, sys, traceback

BLOCKED = {blocked!r}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)
        return None

sys.meta_path.insert(0, Blocker())
failures = {{}}
for module in {modules!r}:
    try:
        importlib.import_module(module)
    except ImportError as error:
        place = traceback.extract_tb(error.__traceback__)[-2]
        failures[module] = f"{{error}} ({{place.filename}}:{{place.lineno}})"
print(json.dumps(failures))
"""


def braces(pattern: str) -> list[str]:
    """Returns the globs that a glob with {a,b} stands for."""
    parts = [part.split(",") for part in re.split(r"[{}]", pattern)]
    fixed = [[",".join(part)] if i % 2 == 0 else part for i, part in enumerate(parts)]
    return ["".join(choice) for choice in itertools.product(*fixed)]


def allowed_to_import_tfx() -> list[str]:
    """Returns the globs for which pyproject.toml lifts the ban on TFX and TensorFlow."""
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    lifted = [glob for glob, rules in lint["per-file-ignores"].items() if "TID253" in rules]
    return [one for glob in lifted for one in braces(glob)]


def pure_modules() -> list[str]:
    lifted = allowed_to_import_tfx()
    found = []
    for path in sorted((ROOT / "components" / "tfx_mobile").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if not any(fnmatch.fnmatchcase(name, glob.replace("/**/", "/*")) for glob in lifted):
            parts = path.relative_to(ROOT / "components").with_suffix("").parts
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def run_python(program: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        cwd=ROOT,
    )


def failures_when_blocked(modules: list[str]) -> dict[str, str]:
    done = run_python(IMPORT_ONE_BY_ONE.format(blocked=BLOCKED, modules=modules))
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_every_pure_module_imports_where_tfx_and_tensorflow_do_not_exist() -> None:
    assert failures_when_blocked([*pure_modules(), *PROMISED_BY_THE_EXAMPLE]) == {}


def test_the_search_for_pure_modules_finds_each_core_config_and_the_registry() -> None:
    found = set(pure_modules())
    folder = ROOT / "components" / "tfx_mobile"
    for path in [*folder.glob("*/core.py"), *folder.glob("*/config.py"), *folder.glob("registry/*.py")]:
        parts = path.relative_to(ROOT / "components").with_suffix("").parts
        assert ".".join(parts[:-1] if parts[-1] == "__init__" else parts) in found
    common = ("errors", "jsonable", "files", "fingerprint", "candidates", "ladder")
    assert {f"tfx_mobile.common.{name}" for name in common} <= found
    assert {"tfx_mobile", "tfx_mobile.cli", "tfx_mobile.size_latency_evaluator.evaluation"} <= found
    assert len(found) >= 25


def test_the_search_leaves_out_what_pyproject_lets_import_tfx() -> None:
    found = set(pure_modules())
    for name in ("dimensionality_reducer.beam", "common.tft_graph", "orchestration.local"):
        assert f"tfx_mobile.{name}" not in found


def test_the_blocker_would_catch_a_module_that_imports_tfx() -> None:
    module = "tfx_mobile.common.artifacts"
    assert failures_when_blocked([module])[module].startswith("blocked: tfx (")


@pytest.mark.parametrize("name", ["tfx", "tensorflow", "apache_beam", "numpy"])
def test_importing_the_package_imports_nothing_heavy(name: str) -> None:
    done = run_python(f"import sys, tfx_mobile; print({name!r} in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr


def test_a_public_name_is_loaded_on_first_use_and_is_the_real_one() -> None:
    done = run_python(
        "import sys, tfx_mobile; before = 'tfx_mobile.common.errors' in sys.modules; "
        "from tfx_mobile.common.errors import DataError; print(before, tfx_mobile.DataError is DataError)"
    )
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_a_name_the_package_does_not_have_is_an_attribute_error() -> None:
    import tfx_mobile

    with pytest.raises(AttributeError, match=re.escape("module 'tfx_mobile' has no attribute 'Nothing'")):
        _ = tfx_mobile.Nothing


def test_the_source_root_is_refused_as_a_package() -> None:
    done = run_python("import components.tfx_mobile", PYTHONPATH=str(ROOT))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: The package's import name is 'tfx_mobile'; got 'components.tfx_mobile'. "
        "'components' is a source root, not a package: install the project (pip install -e .) "
        "or put components/ on PYTHONPATH."
    )
