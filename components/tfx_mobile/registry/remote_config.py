"""Staged rollout by Firebase Remote Config: a channel of a bucket as a Remote Config template.

The template has one parameter a model, whose JSON value says which file to take; conditions give devices
other values by platform, app version and share. It takes the place of Firebase ML's custom models, which shut
down on 2027-06-15. Writes a template and does not upload it: that is the Firebase CLI's task.
Source: Remote Config REST v1, `RemoteConfig`, and "conditional expression reference": elements are joined by
` && ` only, a version is asked for as `app.version.>=(['2.1'])`, a share as `percent('seed') <= 10`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tfx_mobile.common import jsonable
from tfx_mobile.common.errors import ConfigError
from tfx_mobile.registry.ledger import Ledger
from tfx_mobile.registry.records import Rollout
from tfx_mobile.registry.targeting import EVERYONE_PERMILLE, Targeting

PLATFORMS = ("android", "ios")
_OWNER = "tfx_mobile"
_SEED = re.compile(r"[\w.-]{1,32}")


def parameter_name(model: str) -> str:
    """Returns the name of a model's parameter: `tfx_mobile_taxi_fare`."""
    return f"{_OWNER}_{model.replace('-', '_')}"


def template(ledger: Ledger, channel: str, path_of: Mapping[tuple[int, str], str]) -> dict[str, Any]:
    """Returns a Remote Config template that gives each device what `channel` gives it.

    Remote Config draws its own lots: `percent` orders installations by the release's salt as its seed, but
    not as `targeting.bucket_permille` does, so a phone may be in the one share and not in the other.

    Args:
      ledger: Of the model.
      channel: Which channel.
      path_of: By version and variant, where the file lies in the bucket.

    Returns:
      `conditions` and `parameters`; a value is JSON text with version, variant, path, sha256, size_bytes.
      Where a device gets nothing from the channel it keeps the default in the app.

    Raises:
      ConfigError: A release asks for what Remote Config does not know: ABI, memory, runtime, operators or a
        platform that is neither android nor ios.
      RegistryError: There is no such channel.
    """
    conditions: list[dict[str, str]] = []
    values: dict[str, Any] = {}
    default: dict[str, Any] = {"useInAppDefault": True}
    for rollout in ledger.past(channel)[-1].rollouts:
        key = (rollout.version, rollout.variant)
        file = ledger.file(*key)
        said = {
            "version": file.version,
            "variant": file.variant,
            "path": path_of[key],
            "sha256": file.sha256,
            "size_bytes": file.size_bytes,
        }
        value = {"value": jsonable.dumps(said)}
        if rollout.rollout_permille == EVERYONE_PERMILLE and rollout.targeting == Targeting():
            default = value
            break
        if rollout.rollout_permille == 0:
            continue
        for platform in rollout.targeting.platforms or ("",):
            name = " ".join(filter(None, [*_condition_prefix(ledger.model), *map(str, key), platform]))
            conditions.append({"name": name, "expression": _expression(rollout, platform)})
            values[name] = value
    parameter: dict[str, Any] = {
        "defaultValue": default,
        "valueType": "JSON",
        "description": f"Model '{ledger.model}', channel '{channel}'. Written by tfx-mobile.",
    }
    if values:
        parameter["conditionalValues"] = values
    return {"conditions": conditions, "parameters": {parameter_name(ledger.model): parameter}}


def merged(found: Any, made: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Returns the template `found` with the conditions and the parameter of `model` as in `made`.

    Uploading a template replaces the whole one that is there, so what others put into it has to stay.

    Args:
      found: What `firebase remoteconfig:get` wrote.
      made: From `template`.
      model: Its name.

    Raises:
      ConfigError: `found` is not a template.
    """
    if (
        not isinstance(found, dict)
        or not isinstance(conditions := found.get("conditions", []), list)
        or not isinstance(parameters := found.get("parameters", {}), dict)
        or not all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in conditions)
    ):
        raise ConfigError(
            "A Remote Config template must have conditions, a list of named objects, and parameters, an "
            "object; this has not. Get the present one with `firebase remoteconfig:get -o FILE`."
        )
    words = _condition_prefix(model)
    others = [one for one in conditions if one["name"].split(" ")[: len(words)] != words]
    return {
        **found,
        "conditions": [*others, *made["conditions"]],
        "parameters": {**parameters, **made["parameters"]},
    }


def _condition_prefix(model: str) -> list[str]:
    return [_OWNER, model]


def _expression(rollout: Rollout, platform: str) -> str:
    asked = rollout.targeting
    unknown = [
        name
        for name in ("abis", "min_ram_mib", "min_runtime_version", "required_ops")
        if getattr(asked, name)
    ]
    if unknown or platform not in ("", *PLATFORMS):
        got = ", ".join(unknown) or f"platform '{platform}'"
        raise ConfigError(
            f"Remote Config must know what version {rollout.version} ({rollout.variant}) asks of a device; "
            f"it knows app versions and the platforms {' and '.join(PLATFORMS)}, and not {got}. Let the app "
            "read the manifest instead, or publish without."
        )
    parts: Sequence[str] = [
        f"device.os == '{platform}'" if platform else "",
        f"app.version.>=(['{asked.min_app_version}'])" if asked.min_app_version else "",
        f"app.version.<=(['{asked.max_app_version}'])" if asked.max_app_version else "",
        _share(rollout) if rollout.rollout_permille < EVERYONE_PERMILLE else "",
    ]
    return " && ".join(part for part in parts if part)


def _share(rollout: Rollout) -> str:
    if not _SEED.fullmatch(rollout.salt):
        raise ConfigError(
            f"Salt of version {rollout.version} must be 1 to 32 letters, digits, '_', '-' and '.' to be a "
            f"seed; got {rollout.salt!r}. Publish the version again."
        )
    percent, tenth = divmod(rollout.rollout_permille, 10)
    return f"percent('{rollout.salt}') <= {percent}{f'.{tenth}' if tenth else ''}"
