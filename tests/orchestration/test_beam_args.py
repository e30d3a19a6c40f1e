"""Code travels to Beam's workers in a wheel, and arguments reach every component that runs on Beam."""

import base64
import csv
import hashlib
import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.orchestration import beam_args

OURS_ON_BEAM = {"DimensionalityReducer", "SizeLatencyEvaluator"}
STOCK_ON_BEAM = {"ExampleGen", "StatisticsGen", "Transform"}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a module, data and bytecode, and a module beside it."""
    folder = tmp_path / "source" / "some_pipeline"
    (folder / "inner" / "__pycache__").mkdir(parents=True)
    (folder / "__init__.py").write_text("NAME = 'some'\n")
    (folder / "inner" / "table.json").write_text("{}")
    (folder / "inner" / "__pycache__" / "old.pyc").write_bytes(b"x")
    (folder.parent / "some_module.py").write_text("NUMBER = 5\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


def test_a_wheel_has_the_files_of_its_packages_without_bytecode(package: Path) -> None:
    name, content = beam_args.wheel(["some_pipeline", "some_module"])

    version = name.split("-")[1]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert sorted(archive.namelist()) == [
            f"beam_worker_packages-{version}.dist-info/METADATA",
            f"beam_worker_packages-{version}.dist-info/RECORD",
            f"beam_worker_packages-{version}.dist-info/WHEEL",
            "some_module.py",
            "some_pipeline/__init__.py",
            "some_pipeline/inner/table.json",
        ]
        assert archive.read("some_module.py") == b"NUMBER = 5\n"
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}, (
            "now is no content"
        )


def test_the_record_holds_for_every_file(package: Path) -> None:
    _, content = beam_args.wheel(["some_pipeline"])

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        record = next(name for name in archive.namelist() if name.endswith("/RECORD"))
        rows = {row[0]: row[1:] for row in csv.reader(archive.read(record).decode().splitlines())}
        assert set(rows) == set(archive.namelist())
        for name, (digest, size) in rows.items():
            if name != record:
                given = base64.urlsafe_b64decode(digest.removeprefix("sha256=") + "=")
                assert given == hashlib.sha256(archive.read(name)).digest()
                assert int(size) == len(archive.read(name))


def test_pip_installs_it_and_the_package_is_imported_from_there(package: Path, tmp_path: Path) -> None:
    (argument,) = beam_args.with_packages([], ["tfx_mobile", "some_pipeline"], tmp_path / "wheels")
    target = tmp_path / "worker"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-compile"]
    subprocess.run([*pip, "--target", str(target), argument.removeprefix("--extra_package=")], check=True)

    code = "import some_pipeline, tfx_mobile; print(some_pipeline.NAME, tfx_mobile.__file__)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": str(target)}, capture_output=True, text=True
    )
    assert done.stdout.split() == ["some", str(target / "tfx_mobile" / "__init__.py")], done.stderr


def test_the_same_files_give_the_same_bytes_and_a_change_another_name(package: Path) -> None:
    first = beam_args.wheel(["some_pipeline"])
    assert beam_args.wheel(["some_pipeline"]) == first
    (package / "inner" / "table.json").write_text("[]")

    name, content = beam_args.wheel(["some_pipeline"])
    assert name != first[0]
    assert content != first[1]


def test_a_file_that_moves_changes_the_name(package: Path) -> None:
    before, _ = beam_args.wheel(["some_pipeline"])
    (package / "inner" / "table.json").rename(package / "table.json")
    assert beam_args.wheel(["some_pipeline"])[0] != before


def test_the_argument_is_added_behind_the_others(package: Path, tmp_path: Path) -> None:
    name, content = beam_args.wheel(["some_module"])
    written = []
    for _ in range(2):
        found = beam_args.with_packages(["--runner=FlinkRunner"], ["some_module"], tmp_path / "wheels")
        assert found == ["--runner=FlinkRunner", f"--extra_package={tmp_path / 'wheels' / name}"]
        written.append((tmp_path / "wheels" / name).stat().st_ino)
    assert written[0] == written[1], "a wheel that workers may be reading stays the file it is"
    assert [path.name for path in (tmp_path / "wheels").iterdir()] == [name]
    assert (tmp_path / "wheels" / name).read_bytes() == content


@pytest.mark.parametrize("name", ["not_there_at_all", "tfx_mobile.common", "tfx-mobile", "sys", ""])
def test_a_package_that_cannot_be_packed_is_refused(name: str, tmp_path: Path) -> None:
    message = (
        f"Packages for Beam's workers must be importable here, by their first name; got {name!r}. "
        "Install it, or correct the name."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        beam_args.with_packages([], [name], tmp_path / "wheels")
    assert not (tmp_path / "wheels").exists()


def test_no_package_is_refused(tmp_path: Path) -> None:
    message = "Packages for Beam's workers must be named; got none. Name 'tfx_mobile' at least."
    with pytest.raises(ConfigError, match=re.escape(message)):
        beam_args.with_packages([], [], tmp_path)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The taxi-fare pipeline as runners get it: by component on Beam, its arguments."""
    from tfx.dsl.compiler import compiler
    from tfx.proto.orchestration import executable_spec_pb2, pipeline_pb2

    from taxi_fare import data, pipeline

    folder = tmp_path_factory.mktemp("compiled")
    taxi = pipeline.create_pipeline(
        data.chicago(),
        registry=folder / "registry",
        pipeline_root=folder / "root",
        beam_pipeline_args=["--runner=FlinkRunner", "--flink_master=flink:8081"],
    )
    evaluator = next(one for one in taxi.components if one.id == "SizeLatencyEvaluator")
    evaluator.with_beam_pipeline_args(["--parallelism=7"])
    deployment = pipeline_pb2.IntermediateDeploymentConfig()
    compiler.Compiler().compile(taxi).deployment_config.Unpack(deployment)
    found: dict[str, Any] = {}
    for name, packed in deployment.executor_specs.items():
        spec = executable_spec_pb2.BeamExecutableSpec()
        if packed.Unpack(spec):
            found[name] = list(spec.beam_pipeline_args)
    return found


@pytest.mark.pipeline
def test_a_pipelines_arguments_reach_every_component_on_beam(compiled: dict[str, list[str]]) -> None:
    assert set(compiled) == OURS_ON_BEAM | STOCK_ON_BEAM
    for arguments in compiled.values():
        assert arguments[:2] == ["--runner=FlinkRunner", "--flink_master=flink:8081"]


@pytest.mark.pipeline
def test_a_components_own_arguments_come_last_where_they_win(compiled: dict[str, list[str]]) -> None:
    assert compiled["SizeLatencyEvaluator"][2:] == ["--parallelism=7"]
    assert compiled["DimensionalityReducer"][2:] == []
