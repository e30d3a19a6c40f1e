"""Names of models, channels and versions, and the target paths made of them.

Every entrance checks names here, so a path is only ever built from checked parts. Does not read or write.
Source: The Update Framework 1.0.31, "targetpath" and "path patterns"; `*` does not match a slash, so each
depth has a pattern of its own.
"""

import re

from tfx_mobile.common.errors import ConfigError

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_MODEL_FILE = "model.tflite"
_ROLE_PREFIX = "model-"  # keeps a model called "root" or "timestamp" apart from TUF's own roles


def check_name(what: str, name: str) -> str:
    """Returns `name`.

    Args:
      what: What is named, for the message: "Model" or "Channel".
      name: 1 to 63 of a-z, 0-9 and "-", not starting with "-".

    Raises:
      ConfigError: The name is something else.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{what} name must be 1 to 63 of a-z, 0-9 and '-', and start with a letter or "
            f"digit; got {name!r}."
        )
    return name


def check_version(version: int) -> int:
    """Returns `version`, an integer >= 1.

    Raises:
      ConfigError: The version is something else.
    """
    if type(version) is not int or version < 1:
        raise ConfigError(f"Version must be an integer of at least 1; got {version!r}.")
    return version


def model_path(model: str, version: int) -> str:
    """Returns the target path of one version of a model: `taxi-fare/3/model.tflite`."""
    return f"{check_name('Model', model)}/{check_version(version)}/{_MODEL_FILE}"


def channel_path(model: str, channel: str) -> str:
    """Returns the target path of a channel's record: `taxi-fare/channels/stable.json`."""
    return f"{check_name('Model', model)}/channels/{check_name('Channel', channel)}.json"


def role_name(model: str) -> str:
    """Returns the name of the delegated role that signs a model."""
    return _ROLE_PREFIX + check_name("Model", model)


def model_of_role(role: str) -> str | None:
    """Returns the model a delegated role signs, or None when the role is not a model's."""
    model = role.removeprefix(_ROLE_PREFIX)
    return model if model != role and _NAME.fullmatch(model) else None


def delegated_paths(model: str) -> list[str]:
    """Returns the path patterns that a model's role may sign."""
    check_name("Model", model)
    return [f"{model}/*/{_MODEL_FILE}", f"{model}/channels/*.json"]


def version_in_path(model: str, path: str) -> int | None:
    """Returns the version when `path` is exactly what `model_path` gives for it, else None."""
    parts = path.split("/")
    if len(parts) != 3 or not re.fullmatch(r"[1-9][0-9]{0,17}", parts[1]):
        return None
    version = int(parts[1])
    return version if path == model_path(model, version) else None


def channel_in_path(model: str, path: str) -> str | None:
    """Returns the channel when `path` is exactly what `channel_path` gives for it, else None."""
    parts = path.split("/")
    if len(parts) != 3 or not parts[2].endswith(".json"):
        return None
    channel = parts[2].removesuffix(".json")
    return channel if _NAME.fullmatch(channel) and path == channel_path(model, channel) else None


def is_path_of(model: str, path: str) -> bool:
    """Returns whether `path` is one that `model_path` or `channel_path` gives; `m/../x` never is."""
    return version_in_path(model, path) is not None or channel_in_path(model, path) is not None
