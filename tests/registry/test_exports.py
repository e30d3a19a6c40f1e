"""Folders for app stores: what their documentation says, with the file that was verified."""

import hashlib
import json
from pathlib import Path

import pytest

from tfx_mobile import cli
from tfx_mobile.registry.store import Registry
from tfx_mobile.registry.targeting import Targeting


def export(registry: Registry, to: Path, kind: str, cache: Path, *device: str) -> int:
    trusted = ["--root", str(registry.root_path), "--cache", str(cache)]
    where = ["registry", "export", str(registry.repository), "taxi-fare", "--to", str(to)]
    return cli.main([*where, "--format", kind, *trusted, *device])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_ai_pack_is_a_gradle_module_with_the_model_in_its_assets(
    registry: Registry, contents: dict[int, bytes], tmp_path: Path
) -> None:
    assert export(registry, tmp_path / "packs", "play", tmp_path / "cache") == 0
    made = files(tmp_path / "packs")
    pack = "model_taxi_fare"
    assert sorted(made) == [
        f"{pack}/build.gradle.kts",
        f"{pack}/src/main/assets/taxi-fare/model.json",
        f"{pack}/src/main/assets/taxi-fare/model.tflite",
    ]
    assert made[f"{pack}/src/main/assets/taxi-fare/model.tflite"] == contents[3]
    gradle = made[f"{pack}/build.gradle.kts"].decode()
    assert 'id("com.android.ai-pack")' in gradle
    assert f'packName = "{pack}"' in gradle
    said = json.loads(made[f"{pack}/src/main/assets/taxi-fare/model.json"])
    assert said == {
        "model": "taxi-fare",
        "version": 3,
        "sha256": hashlib.sha256(contents[3]).hexdigest(),
        "size_bytes": len(contents[3]),
    }


def test_an_asset_pack_has_a_manifest_that_selects_every_other_file(
    registry: Registry, contents: dict[int, bytes], tmp_path: Path
) -> None:
    (tmp_path / "pack").mkdir()
    assert export(registry, tmp_path / "pack", "apple", tmp_path / "cache") == 0
    made = files(tmp_path / "pack")
    manifest = json.loads(made.pop("Manifest.json"))
    assert manifest == {
        "assetPackID": "taxi-fare",
        "downloadPolicy": {"onDemand": {}},
        "fileSelectors": [{"file": "taxi-fare/model.tflite"}, {"file": "taxi-fare/model.json"}],
        "platforms": ["iOS"],
    }
    assert sorted(made) == sorted(selector["file"] for selector in manifest["fileSelectors"])
    assert made["taxi-fare/model.tflite"] == contents[3]


def test_the_file_is_the_one_for_the_devices_that_the_pack_goes_to(
    registry: Registry, contents: dict[int, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asks = Targeting(min_ram_mib=6000)
    registry.publish("taxi-fare", b"large", version=3, variant="large", metadata={}, targeting=asks)
    for ram_mib, variant, content in (("8000", " (large)", b"large"), ("2000", "", contents[3])):
        folder = tmp_path / ram_mib
        assert export(registry, folder, "apple", tmp_path / "cache", "--ram-mib", ram_mib) == 0
        assert files(folder)["taxi-fare/model.tflite"] == content
        assert f"taxi-fare version 3{variant}  sha256:" in capsys.readouterr().out


def test_a_file_that_is_not_as_signed_is_not_exported_and_a_full_folder_not_touched(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_bytes(b"kept")
    assert export(registry, full, "play", tmp_path / "cache") == 2
    assert "Folder must be new or empty" in capsys.readouterr().err
    assert files(full) == {"mine": b"kept"}
    (model,) = (registry.repository / "targets").glob("taxi-fare/3/*.model.tflite")
    model.write_bytes(b"x" * model.stat().st_size)
    assert export(registry, tmp_path / "packs", "play", tmp_path / "phone") == 2
    assert "was refused" in capsys.readouterr().err
    assert not (tmp_path / "packs").exists()
    assert sorted(path.name for path in tmp_path.glob(".*")) == []
