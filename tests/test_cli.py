"""The command line, run as its users run it."""

import hashlib
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.common.tflite_files import packed, stranger, table_file

import tfx_mobile
from tfx_mobile import cli
from tfx_mobile.common import tflite_metadata
from tfx_mobile.common.tflite_metadata import Feature, ModelMetadata
from tfx_mobile.registry.store import Registry
from tfx_mobile.registry.targeting import Targeting


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    registry = Registry.create(tmp_path / "registry")
    registry.publish("taxi-fare", b"one", metadata={"metrics": {"rmse_ppm": 12}, "candidate": "int8"})
    registry.publish("taxi-fare", b"two", channel="beta", metadata={})
    return registry


def _run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tfx-mobile: error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("command", ["", "registry", "inspect", "bench", "report", "compile", "deploy"])
def test_help_imports_nothing_heavy(command: str) -> None:
    code = (
        "import sys\nfrom tfx_mobile import cli\n"
        f"try:\n    cli.main([*{command.split()}, '--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'tuf', 'tfx', 'tensorflow', 'numpy', 'cryptography', 'kfp'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: tfx-mobile {command}".rstrip() + " [-h]")
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_command_whose_package_is_not_installed_says_which_one_in_one_line() -> None:
    code = (
        "import sys\nsys.modules['tuf'] = None\nfrom tfx_mobile import cli\n"
        "sys.exit(cli.main(['registry', 'check', '--from', 'registry', '--root', 'root.json']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("tfx-mobile: error: This command needs the package 'tuf'; ")
    assert done.stderr.count("\n") == 1


def test_a_module_of_ours_that_is_missing_is_a_mistake_of_ours_and_keeps_its_trace() -> None:
    code = (
        "import sys\nsys.modules['tfx_mobile.registry.client'] = None\nfrom tfx_mobile import cli\n"
        "sys.exit(cli.main(['registry', 'check', '--from', 'registry', '--root', 'root.json']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"tfx-mobile {tfx_mobile.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["registry"], ["nonsense"], ["registry", "list"], ["inspect"]])
def test_a_command_that_is_not_whole_shows_its_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        cli.main(arguments)
    assert capsys.readouterr().err.startswith("usage: tfx-mobile")


def test_init_makes_a_registry_and_says_where_the_root_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("registry", "init", tmp_path / "r") == 0
    out = capsys.readouterr().out
    root = tmp_path / "r.keys" / "root.json"
    assert f"root      {root}" in out
    assert f"sha256:{hashlib.sha256(root.read_bytes()).hexdigest()}" in out
    assert _run("registry", "init", tmp_path / "r") == 2
    assert f"There must be no registry at {tmp_path / 'r'} yet; there is one." in _error(capsys)


def test_keys_can_be_kept_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for action in ("init", "verify", "refresh", "list"):
        assert _run("registry", action, tmp_path / "r", "--keys", tmp_path / "k") == 0
    assert (tmp_path / "k" / "root.pem").exists()
    assert not (tmp_path / "r.keys").exists()
    assert _run("registry", "list", tmp_path / "r") == 2


def test_list_shows_models_and_channels(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("registry", "list", registry.repository) == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert lines[0][0] == "MODEL"
    assert lines[1][0] == "taxi-fare"
    assert lines[1][-1].strip() == "beta -> 2, stable -> 1"
    assert _run("registry", "list", registry.repository, "--json") == 0
    assert json.loads(capsys.readouterr().out) == [
        {
            "model": "taxi-fare",
            "newest": 2,
            "versions": 2,
            "withdrawn": [],
            "channels": {"beta": 2, "stable": 1},
            "rollout_permille": {"beta": 1000, "stable": 1000},
        }
    ]


def test_a_release_goes_its_way_on_the_command_line(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = registry.repository
    for arguments, said in (
        (
            ["promote", folder, "taxi-fare", "--permille", "50"],
            "promote: stable offers version 2 to 50 permille",
        ),
        (["list", folder], "beta -> 2, stable -> 2 (50 permille)"),
        (["rollout", folder, "taxi-fare", "200"], "rollout: stable offers version 2 to 200 permille"),
        (["show", folder, "taxi-fare"], "stable: version 2 (default) to 200 permille"),
        (
            ["rollback", folder, "taxi-fare", "--reason", "fares too high"],
            "rollback: stable offers version 1 to 1000 permille",
        ),
        (
            ["withdraw", folder, "taxi-fare", "2", "--reason", "wrong units"],
            "withdrawn: version 2; beta -> 0, stable -> 1",
        ),
        (["show", folder, "taxi-fare"], "WITHDRAWN: wrong units"),
        (["history", folder, "taxi-fare"], "fares too high"),
        (["rotate", folder, "timestamp"], "timestamp is signed with key "),
        (["gc", folder, "--min-age-days", "0", "--keep-versions", "1"], "0 versions and "),
        (["verify", folder], "files are as they were signed."),
    ):
        assert _run("registry", *arguments) == 0
        assert said in capsys.readouterr().out
    assert _run("registry", "history", folder, "taxi-fare", "--json") == 0
    events = json.loads(capsys.readouterr().out)
    assert [event["action"] for event in events] == ["publish", "promote", "rollout", "rollback"]


def test_a_file_is_published_on_the_command_line_with_what_it_asks_of_a_device(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, asks, says = (tmp_path / name for name in ("model.tflite", "asks.json", "says.json"))
    model.write_bytes(b"for the large ones")
    asks.write_text('{"platforms": ["android"], "min_ram_mib": 6000}')
    says.write_text('{"rmse_ppm": 290}')
    command = ["registry", "publish", registry.repository, "taxi-fare", model, "--variant", "large"]
    options = ["--permille", "50", "--targeting", asks, "--metadata", says, "--channel", "beta"]
    assert _run(*command, *options) == 0
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    assert f"{model} is version 3  sha256:{sha256}  " in capsys.readouterr().out
    offered = registry.channel_records("taxi-fare")["beta"].rollouts[0]
    assert (offered.version, offered.variant, offered.rollout_permille) == (3, "large", 50)
    assert offered.targeting == Targeting(platforms=("android",), min_ram_mib=6000)
    assert registry.versions("taxi-fare")[-1].metadata == {"rmse_ppm": 290}
    assert _run(*command, "--channel", "beta") == 0
    assert f"{model} was there already, as version 3  sha256:{sha256}" in capsys.readouterr().out
    before = {path: path.read_bytes() for path in registry.repository.rglob("*") if path.is_file()}
    for wrong, message in (
        (["--metadata", tmp_path / "none"], f"{tmp_path / 'none'} must be a file that can be read; No such"),
        (["--metadata", model], f"{model}"),
        (["--targeting", says], "rmse_ppm"),
    ):
        assert _run(*command, "--version", "4", *wrong) == 2
        assert message in _error(capsys)
    assert before == {path: path.read_bytes() for path in registry.repository.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("options", "count"), [([], 1), (["--no-delta"], 0)])
def test_patches_are_left_out_when_asked_on_the_command_line(
    registry: Registry, tmp_path: Path, options: list[str], count: int
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(random.Random(0).randbytes(8000) + name.encode())
        assert _run("registry", "publish", registry.repository, "net", tmp_path / name, *options) == 0
    assert len(list(registry.repository.glob("targets/net/2/*.bsdiff"))) == count


def test_a_dry_run_says_what_garbage_collection_would_take_and_changes_nothing(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3, 6):
        registry.publish("taxi-fare", f"model {number}".encode(), metadata={}, channel="beta")
    before = {path: path.read_bytes() for path in registry.repository.rglob("*") if path.is_file()}
    command = ["registry", "gc", registry.repository, "--keep-versions", "1", "--min-age-days", "0"]
    assert _run(*command, "--dry-run") == 0
    would = capsys.readouterr().out.splitlines()
    assert "would be not signed any more: taxi-fare version 3" in would
    assert "would be deleted: metadata/1.snapshot.json" in would
    assert re.fullmatch(r"3 versions and \d+ files would be gone; nothing was changed\.", would[-1])
    assert before == {path: path.read_bytes() for path in registry.repository.rglob("*") if path.is_file()}
    assert _run(*command) == 0
    done = capsys.readouterr().out.splitlines()
    assert [line.removeprefix("would be ") for line in would if "signed" in line] == [
        line for line in done if "signed" in line
    ]
    assert {line.removeprefix("would be ") for line in would[:-1]} <= set(done)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["init", "{}/inner"],
            "Keys must be kept outside of every registry, which is served; got ",
        ),
        (["serve", "s3://bucket/x", "--root", "r"], "Registry to serve must be a local folder; got s3://"),
        (
            ["promote", "{}", "taxi-fare", "--from", "stable"],
            "must not have version 1 at 1000 permille yet; it",
        ),
        (["rollout", "{}", "taxi-fare", "1001"], "must be an integer from 0 to 1000 permille; got 1001."),
        (
            ["withdraw", "{}", "taxi-fare", "9", "--reason", "x"],
            "must hold version 9 of 'taxi-fare' to withdraw",
        ),
        (["rollback", "{}", "taxi-fare", "--reason", "x"], "to go back to; it has not."),
        (
            ["history", "{}", "taxi-fare", "--channel", "x"],
            "There must be a channel 'x' of 'taxi-fare'; there is",
        ),
        (
            ["rotate", "{}", "other"],
            "Role must be one of root, targets, snapshot, timestamp, model-taxi-fare;",
        ),
        (["use-signer", "{}", "root", "gpg:x"], "Key must be hsm:<id>?label=<token>, gcpkms:<name>"),
        (["list", "{}", "--keys", "gs://b/k"], "Keys must be kept in a local folder"),
        (["gc", "{}", "--keep-versions", "0"], "keep_versions must be an integer of at least 1; got 0."),
        (["list", "s3://bucket/x"], "Keys of a registry in a bucket must be named, a local folder; got none"),
    ],
)
def test_what_the_store_refuses_is_said_on_the_command_line(
    registry: Registry, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("registry", *[argument.format(registry.repository) for argument in arguments]) == 2
    assert message in _error(capsys)


def test_init_makes_several_root_keys_and_says_to_take_them_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("registry", "init", tmp_path / "r", "--root-keys", "2") == 0
    said = capsys.readouterr().err
    assert f"now move root-1.pem, root-2.pem out of {tmp_path / 'r.keys'} to a place that is offline" in said
    root = Registry(tmp_path / "r").root().roles["root"]
    assert (len(root.keyids), root.threshold) == (2, 2)
    assert _run("registry", "init", tmp_path / "x", "--root-keys", "0") == 2


def test_list_of_an_empty_registry_is_a_heading(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Registry.create(tmp_path / "r")
    assert _run("registry", "list", tmp_path / "r") == 0
    assert capsys.readouterr().out == "MODEL  NEWEST  VERSIONS  CHANNELS\n"


def test_show_says_what_was_signed(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("registry", "show", registry.repository, "taxi-fare") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["metrics.rmse_ppm", "12"] in rows
    assert ["sha256", hashlib.sha256(b"one").hexdigest()] in rows
    assert _run("registry", "show", registry.repository, "taxi-fare", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["channels"] == {"beta": 2, "stable": 1}
    assert shown["versions"][0]["metadata"] == {"metrics": {"rmse_ppm": 12}, "candidate": "int8"}


def test_verify_lists_the_files_or_names_the_one_that_is_wrong(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("registry", "verify", registry.repository) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "11 files are as they were signed."
    next((registry.repository / "targets" / "taxi-fare" / "1").glob("*.model.tflite")).write_bytes(b"bad")
    assert _run("registry", "verify", registry.repository) == 2
    assert "Target 'taxi-fare/1/model.tflite' must have the length and sha256" in _error(capsys)


def test_refresh_says_what_it_signed(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("registry", "refresh", registry.repository) == 0
    assert capsys.readouterr().out == "signed timestamp\n"


def test_fetch_writes_the_file_and_says_which_root_it_trusts(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch = (
        "registry",
        "fetch",
        "taxi-fare",
        "--from",
        registry.repository,
        "--to",
        tmp_path / "x" / "m.tflite",
    )
    assert _run(*fetch) == 0
    assert (tmp_path / "x" / "m.tflite").read_bytes() == b"one"
    out, err = capsys.readouterr()
    assert out.startswith(f"taxi-fare version 1  sha256:{hashlib.sha256(b'one').hexdigest()}  3 bytes  ")
    assert err.startswith(f"tfx-mobile: trusting {registry.root_path} sha256:")
    assert _run(*fetch, "--channel", "beta") == 0
    assert (tmp_path / "x" / "m.tflite").read_bytes() == b"two"
    assert _run(*fetch, "--version", "1", "--root", registry.root_path) == 0
    assert (tmp_path / "x" / "m.tflite").read_bytes() == b"one"
    assert capsys.readouterr().err.count("trusting") == 1  # not when --root names it


def test_fetch_remembers_what_it_saw(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = (registry.repository / "metadata" / "timestamp.json").read_bytes()
    registry.publish("taxi-fare", b"three", metadata={})
    fetch = ["registry", "fetch", "taxi-fare", "--from", registry.repository, "--to", tmp_path / "m"]
    fetch += ["--root", registry.root_path]
    assert _run(*fetch) == 0
    (registry.repository / "metadata" / "timestamp.json").write_bytes(old)
    capsys.readouterr()
    assert _run(*fetch, "--strict") == 2
    assert "It is older than what this client has seen." in _error(capsys)
    assert _run(*fetch) == 0
    assert "not updated, this is the last good version: Registry " in capsys.readouterr().err
    assert (tmp_path / "m").read_bytes() == b"three"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["fetch", "m", "--from", "http://localhost:1/r", "--to", "x"],
            "--root must name the root to trust for",
        ),
        (["fetch", "m", "--from", "{tmp}/none", "--to", "x"], "and there is no {tmp}/none.keys/root.json."),
        (
            ["fetch", "m", "--from", "{tmp}/registry", "--root", "{tmp}/none", "--to", "x"],
            "Trusted root must be",
        ),
        (
            ["fetch", "../m", "--from", "{tmp}/registry", "--root", "{root}", "--to", "x"],
            "Model name must be",
        ),
        (
            ["fetch", "m", "--from", "{tmp}/registry", "--root", "{root}", "--to", "x"],
            "must hold 'm/channels",
        ),
        (
            ["fetch", "taxi-fare", "--from", "{tmp}/registry", "--root", "{root}", "--to", "{root}/x"],
            "--to must be a file that can be written; {root}/x:",
        ),
        (
            ["show", "{tmp}/registry", "other"],
            "There must be a model 'other' in {tmp}/registry; it has taxi-fare.",
        ),
        (["list", "{tmp}/none"], "There must be a registry at {tmp}/none; there is none."),
        (["init", "{tmp}/registry/../x", "--keys", "{tmp}/x/k"], "Keys must be kept outside the repository"),
    ],
)
def test_an_error_is_one_line_and_status_two(
    registry: Registry,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    given = [argument.format(tmp=tmp_path, root=registry.root_path) for argument in arguments]
    assert _run("registry", *given) == 2
    assert message.format(tmp=tmp_path, root=registry.root_path) in _error(capsys)


def test_a_reader_that_has_seen_enough_is_no_error(registry: Registry) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "tfx_mobile.cli", "registry", "verify", str(registry.repository)]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=buffered)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_inspect_shows_what_a_file_is_made_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metadata = ModelMetadata(
        "taxi-fare",
        "3",
        (Feature("company", "string", missing="none"), Feature("miles", "float32", "mile")),
        Feature("fare", "float32", "USD"),
        license="Apache-2.0",
    )
    path = tmp_path / "model.tflite"
    path.write_bytes(tflite_metadata.write(packed(table_file()), metadata))
    assert _run("inspect", path) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    for wanted in (
        ["signature", "'serving_default'"],
        ["in", "miles", "float32[1]"],
        ["out", "y", "float32[1]"],
        ["ADD", "built-in", "version", "1", "1"],
        ["inputs", "company", "missing:", "'none'"],
        ["label", "fare", "USD"],
        ["license", "Apache-2.0"],
        ["breakdown", "100.00%", "of", "the", "bytes", "explained"],
    ):
        assert wanted in lines
    assert "weights/one" in out
    assert "  INDEX" not in out


def test_inspect_lists_tensors_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(stranger("face_detection_full_range_sparse"))
    assert _run("inspect", path, "--tensors") == 0
    out = capsys.readouterr().out
    assert "% stored" in out
    assert max(map(len, out.splitlines())) < 160


def test_inspect_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(stranger("alexa"))
    assert _run("inspect", path, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        sum(part["size_bytes"] for part in found["breakdown"]) == found["size_bytes"] == path.stat().st_size
    )
    assert found["explained_fraction"] == 1
    assert found["conversion"]["optimization"] == "full integer"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "A TFLite file must have TFL3 at byte 4; got b''."),
        (b"\xff\xff\xff\x7fTFL3" + bytes(100), "The file is cut or damaged."),
        (None, "FILE must be a file that can be read; "),
    ],
)
def test_inspect_of_what_is_no_tflite_file_is_one_line(
    content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.tflite"
    if content is not None:
        path.write_bytes(content)
    assert _run("inspect", path) == 2
    assert message in _error(capsys)
