"""Folders that the app stores' own delivery takes: Play for On-device AI, and Apple's Background Assets.

Each writes a verified model file in the documented layout. Does not build, sign or upload: that is Gradle's
and `xcrun ba-package`'s. The stores check what they deliver by their own signatures, not by ours.
Source: "Play for On-device AI", AI packs; "Creating managed asset packs", manifest of an asset pack.
"""

import enum
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tfx_mobile.common import jsonable
from tfx_mobile.common.errors import ConfigError
from tfx_mobile.registry import names

MAX_PLAY_BYTES = 1_500_000_000  # of an AI pack, as it is downloaded


class Format(enum.Enum):
    """Whose folder."""

    PLAY = "play"
    APPLE = "apple"


def export(
    content: bytes, folder: Path, *, model: str, version: int, sha256: str, format: Format
) -> list[Path]:
    """Writes the folder of a store for one model file that was verified before.

    Args:
      content: The file.
      folder: Made here; it must not be there, or be empty.
      model: Its name; of the pack, too.
      version: An integer >= 1.
      sha256: Of the file, for the app to look at.
      format: Whose folder.

    Returns:
      The files, sorted.

    Raises:
      ConfigError: The folder is there and not empty, or cannot be written; the file is too large.
    """
    names.check_name("Model", model)
    said = {"model": model, "version": version, "sha256": sha256, "size_bytes": len(content)}
    beside = jsonable.dumps(said, indent=2).encode() + b"\n"
    if format is Format.PLAY:
        if len(content) > MAX_PLAY_BYTES:
            raise ConfigError(
                f"An AI pack must have at most {MAX_PLAY_BYTES} bytes; '{model}' has {len(content)}."
            )
        files = _play(model, content, beside)
    else:
        files = _apple(model, content, beside)
    try:
        return _write_folder(folder, files)
    except OSError as error:
        raise ConfigError(
            f"Folder must be new or empty, and one that can be written; {folder}: {error.strerror}. "
            "Name another."
        ) from error


def pack_name(model: str) -> str:
    """Returns the AI pack's name, which is its Gradle module's: letters, digits and '_', from a letter on."""
    return f"model_{model.replace('-', '_')}"


def _play(model: str, content: bytes, beside: bytes) -> Mapping[str, bytes]:
    pack = pack_name(model)
    gradle = f"""plugins {{
    id("com.android.ai-pack")
}}

aiPack {{
    packName = "{pack}"
    dynamicDelivery {{
        deliveryType = "on-demand"
    }}
}}
"""
    assets = f"{pack}/src/main/assets/{model}"
    return {
        f"{pack}/build.gradle.kts": gradle.encode(),
        f"{assets}/model.tflite": content,
        f"{assets}/model.json": beside,
    }


def _apple(model: str, content: bytes, beside: bytes) -> Mapping[str, bytes]:
    paths = [f"{model}/model.tflite", f"{model}/model.json"]
    manifest = {
        "assetPackID": model,
        "downloadPolicy": {"onDemand": {}},
        "fileSelectors": [{"file": path} for path in paths],
        "platforms": ["iOS"],
    }
    return {
        "Manifest.json": jsonable.dumps(manifest, indent=2).encode() + b"\n",
        paths[0]: content,
        paths[1]: beside,
    }


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    folder = Path(os.path.abspath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for path, content in files.items():
            (made / path).parent.mkdir(parents=True, exist_ok=True)
            (made / path).write_bytes(content)
        made.chmod(0o755)
        os.replace(made, folder)  # only over an empty folder
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return sorted(folder / path for path in files)
