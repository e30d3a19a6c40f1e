"""Names of models, channels and versions, and the target paths made of them.

Every entrance checks names here, so a path is only ever built from checked parts. Does not read or write.
Source: The Update Framework 1.0.31, "targetpath" and "path patterns"; `*` does not match a slash, so every
path of a model has three parts.
"""

import re

from tfx_mobile.common.errors import ConfigError

DEFAULT_VARIANT = "default"
MAX_VERSION = 10**18 - 1  # what a path has room for, and a phone's 64 bits
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_ATTACHMENT = re.compile(r"[a-z0-9][a-z0-9-]{0,30}\.(html|json|txt|csv|png|svg)")
_DEFAULT_STEM = "model"
_VERSION = r"([1-9][0-9]{0,17})"
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
    """Returns `version`, an integer from 1 to `MAX_VERSION`.

    Raises:
      ConfigError: The version is something else.
    """
    if type(version) is not int or version < 1:
        raise ConfigError(f"Version must be an integer of at least 1; got {version!r}.")
    if version > MAX_VERSION:
        raise ConfigError(f"Version must have at most {len(str(MAX_VERSION))} digits; got {version}.")
    return version


def check_variant(variant: str) -> str:
    """Returns `variant`, a name as of a model; 'model' is taken.

    Raises:
      ConfigError: The variant is something else.
    """
    if check_name("Variant", variant) == _DEFAULT_STEM:
        raise ConfigError(f"Variant must not be '{_DEFAULT_STEM}', the file of the '{DEFAULT_VARIANT}' one.")
    return variant


def check_attachment(name: str) -> str:
    """Returns `name`, such as 'evaluation.html'.

    Raises:
      ConfigError: The name is something else.
    """
    if not isinstance(name, str) or not _ATTACHMENT.fullmatch(name):
        raise ConfigError(
            "Attachment must be 1 to 31 of a-z, 0-9 and '-' and one of .html, .json, .txt, .csv, .png, .svg; "
            f"got {name!r}."
        )
    return name


def model_path(model: str, version: int, variant: str = DEFAULT_VARIANT) -> str:
    """Returns the target path of a file: `taxi-fare/3/model.tflite`, of variant x `taxi-fare/3/x.tflite`."""
    return f"{_stem(model, version, variant)}.tflite"


def record_path(model: str, version: int, variant: str = DEFAULT_VARIANT) -> str:
    """Returns the target path of what is said about one file: `taxi-fare/3/model.record.json`."""
    return f"{_stem(model, version, variant)}.record.json"


def attachment_path(model: str, version: int, variant: str, name: str) -> str:
    """Returns the target path of a file beside a model: `taxi-fare/3/model.with.evaluation.html`."""
    return f"{_stem(model, version, variant)}.with.{check_attachment(name)}"


def delta_path(model: str, version: int, variant: str, base_version: int) -> str:
    """Returns the target path of a patch from another version: `taxi-fare/3/model.from-2.bsdiff`."""
    return f"{_stem(model, version, variant)}.from-{check_version(base_version)}.bsdiff"


def _stem(model: str, version: int, variant: str) -> str:
    name = _DEFAULT_STEM if variant == DEFAULT_VARIANT else check_variant(variant)
    return f"{check_name('Model', model)}/{check_version(version)}/{name}"


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
    return [f"{check_name('Model', model)}/*/*"]


def file_in_path(model: str, path: str) -> tuple[int, str] | None:
    """Returns version and variant when `path` is exactly what `model_path` gives for them, else None."""
    found = re.fullmatch(rf"{re.escape(model)}/{_VERSION}/([a-z0-9-]+)\.tflite", path)
    return _stem_of(found) if found else None


def channel_in_path(model: str, path: str) -> str | None:
    """Returns the channel when `path` is exactly what `channel_path` gives for it, else None."""
    found = re.fullmatch(rf"{re.escape(model)}/channels/([a-z0-9-]+)\.json", path)
    return found[1] if found and _NAME.fullmatch(found[1]) else None


def attachment_in_path(model: str, path: str) -> tuple[int, str, str] | None:
    """Returns version, variant and name when `path` is what `attachment_path` gives for them, else None."""
    found = re.fullmatch(rf"{re.escape(model)}/{_VERSION}/([a-z0-9-]+)\.with\.(.+)", path)
    of = _stem_of(found) if found else None
    return (*of, found[3]) if found and of and _ATTACHMENT.fullmatch(found[3]) else None


def delta_in_path(model: str, path: str) -> tuple[int, str, int] | None:
    """Returns version, variant and base version when `path` is what `delta_path` gives, else None."""
    found = re.fullmatch(rf"{re.escape(model)}/{_VERSION}/([a-z0-9-]+)\.from-{_VERSION}\.bsdiff", path)
    of = _stem_of(found) if found else None
    return (*of, int(found[3])) if found and of else None


def versions_in_path(model: str, path: str) -> tuple[int, ...]:
    """Returns the versions that a path of `model` is about: two for a delta, none for a channel's record."""
    if (delta := delta_in_path(model, path)) is not None:
        return delta[0], delta[2]
    found = re.fullmatch(rf"{re.escape(model)}/{_VERSION}/[^/]+", path)
    return (int(found[1]),) if found else ()


def is_path_of(model: str, path: str) -> bool:
    """Returns whether `path` is one that a function here makes for `model`; `m/../x` never is."""
    record = path.removesuffix(".record.json")
    return (
        file_in_path(model, path) is not None
        or (record != path and file_in_path(model, f"{record}.tflite") is not None)
        or channel_in_path(model, path) is not None
        or attachment_in_path(model, path) is not None
        or delta_in_path(model, path) is not None
    )


def _stem_of(found: "re.Match[str]") -> tuple[int, str] | None:
    variant = DEFAULT_VARIANT if found[2] == _DEFAULT_STEM else found[2]
    if not _NAME.fullmatch(found[2]) or found[2] == DEFAULT_VARIANT:
        return None
    return int(found[1]), variant
