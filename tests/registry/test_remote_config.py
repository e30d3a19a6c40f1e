"""Remote Config templates: by the documented schema, and read back as Remote Config would evaluate them."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from tfx_mobile import cli
from tfx_mobile.common.errors import ConfigError
from tfx_mobile.registry import remote_config
from tfx_mobile.registry.bucket_backend import BucketBackend, file_path
from tfx_mobile.registry.targeting import Device, Targeting, bucket_permille

VERSION = r"app\.version\.(>=|<=)\(\['([0-9.]+)'\]\)"
SHARE = r"percent\('([\w.-]{1,32})'\) <= (100|[0-9]{1,2}(?:\.[0-9])?)"
OS = r"device\.os == '(android|ios)'"
ELEMENT = f"(?:{OS}|{VERSION}|{SHARE})"
# From the reference of the REST resource RemoteConfig, as far as it is used.
VALUE = {
    "oneOf": [
        {
            "type": "object",
            "properties": {"value": {"type": "string"}},
            "required": ["value"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {"useInAppDefault": {"type": "boolean"}},
            "required": ["useInAppDefault"],
            "additionalProperties": False,
        },
    ]
}
SCHEMA = {
    "type": "object",
    "required": ["conditions", "parameters"],
    "properties": {
        "conditions": {
            "type": "array",
            "maxItems": 2000,
            "items": {
                "type": "object",
                "required": ["name", "expression"],
                "additionalProperties": False,
                "properties": {
                    "name": {"type": "string", "pattern": r"^[-_0-9a-zA-Z '!%.]{1,256}$"},
                    "expression": {"type": "string", "pattern": f"^{ELEMENT}(?: && {ELEMENT})*$"},
                },
            },
        },
        "parameters": {
            "type": "object",
            "propertyNames": {"pattern": r"^[A-Za-z_][A-Za-z0-9_]{0,255}$"},
            "additionalProperties": {
                "type": "object",
                "required": ["defaultValue"],
                "additionalProperties": False,
                "properties": {
                    "defaultValue": VALUE,
                    "conditionalValues": {"type": "object", "additionalProperties": VALUE},
                    "description": {"type": "string", "maxLength": 256},
                    "valueType": {"enum": ["STRING", "BOOLEAN", "NUMBER", "JSON"]},
                },
            },
        },
    },
}


def made(bucket: BucketBackend, model: str = "taxi-fare") -> dict[str, Any]:
    ledger = bucket.ledger(model)
    return remote_config.template(ledger, "stable", {f.key: file_path(model, f) for f in ledger.files})


def holds(expression: str, device: Device) -> bool:
    """Evaluates an expression as the reference says, but draws lots as we do."""

    def numbers(version: str) -> list[int]:
        return [*map(int, version.split(".")), 0, 0, 0][:4]

    for part in expression.split(" && "):
        if found := re.fullmatch(OS, part):
            holds = device.platform == found[1]
        elif found := re.fullmatch(VERSION, part):
            mine, theirs = numbers(device.app_version), numbers(found[2])
            holds = mine >= theirs if found[1] == ">=" else mine <= theirs
        else:
            found = re.fullmatch(SHARE, part)
            assert found is not None, part
            holds = bucket_permille(found[1], device.id) < float(found[2]) * 10
        if not holds:
            return False
    return True


def test_a_device_gets_by_the_template_what_it_gets_from_the_channel(tmp_path: Path) -> None:
    bucket = BucketBackend(f"bucket+file://{tmp_path}")
    bucket.publish("taxi-fare", b"one", metadata={})
    both = Targeting(platforms=("android", "ios"), min_app_version="2.1", max_app_version="3")
    bucket.publish("taxi-fare", b"two", metadata={}, targeting=both)
    bucket.publish("taxi-fare", b"three", metadata={}, rollout_permille=125)
    template = made(bucket)
    jsonschema.validate(template, SCHEMA)
    jsonschema.validate(json.loads(json.dumps(template)), SCHEMA)
    (parameter,) = template["parameters"].values()
    assert list(parameter["conditionalValues"]) == [one["name"] for one in template["conditions"]]
    salt = bucket.channel_records("taxi-fare")["stable"].rollouts[0].salt
    inside = next(str(number) for number in itertools.count() if bucket_permille(salt, str(number)) < 125)
    versions = set()
    for identity in {inside, *map(str, range(15))}:
        for platform in ("android", "ios", "web"):
            for app_version in ("2.0.9", "2.1", "3.0", "3.0.1"):
                device = Device(id=identity, platform=platform, app_version=app_version)
                fitting = [one for one in template["conditions"] if holds(one["expression"], device)]
                value = (
                    parameter["conditionalValues"][fitting[0]["name"]]
                    if fitting
                    else parameter["defaultValue"]
                )
                said, got = json.loads(value["value"]), bucket.resolve("taxi-fare", device=device)
                assert (said["version"], said["sha256"]) == (got.version, got.sha256)
                assert (tmp_path / said["path"]).read_bytes() == got.content
                versions.add(got.version)
    assert versions == {1, 2, 3}


def test_the_expressions_are_those_of_the_reference(tmp_path: Path) -> None:
    bucket = BucketBackend(f"bucket+file://{tmp_path}")
    asked = Targeting(platforms=("android",), min_app_version="2.1")
    bucket.publish("taxi-fare", b"one", metadata={}, rollout_permille=125, targeting=asked)
    salt = bucket.channel_records("taxi-fare")["stable"].rollouts[0].salt
    template = made(bucket)
    assert template["conditions"] == [
        {
            "name": "tfx_mobile taxi-fare 1 default android",
            "expression": f"device.os == 'android' && app.version.>=(['2.1']) && percent('{salt}') <= 12.5",
        }
    ]
    assert template["parameters"]["tfx_mobile_taxi_fare"]["defaultValue"] == {"useInAppDefault": True}
    bucket.set_rollout("taxi-fare", "stable", 0)
    template = made(bucket)
    assert template["conditions"] == []
    assert "conditionalValues" not in template["parameters"]["tfx_mobile_taxi_fare"]


@pytest.mark.parametrize(
    ("targeting", "message"),
    [
        (Targeting(abis=("arm64-v8a",)), "and not abis"),
        (Targeting(min_ram_mib=1, required_ops=("FlexErf",)), "and not min_ram_mib, required_ops"),
        (Targeting(min_runtime_version="2"), "and not min_runtime_version"),
        (Targeting(platforms=("ios", "tvos")), "and not platform 'tvos'"),
    ],
)
def test_what_remote_config_does_not_know_is_refused(
    tmp_path: Path, targeting: Targeting, message: str
) -> None:
    bucket = BucketBackend(f"bucket+file://{tmp_path}")
    bucket.publish("taxi-fare", b"one", metadata={}, targeting=targeting)
    with pytest.raises(ConfigError, match=re.escape(message)):
        made(bucket)


def test_the_command_keeps_what_others_have_in_the_template(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, file = f"bucket+file://{tmp_path}/bucket", tmp_path / "template.json"
    bucket = BucketBackend(uri)
    bucket.publish("taxi", b"one", metadata={}, rollout_permille=10)
    bucket.publish("taxi-fare", b"one", metadata={}, rollout_permille=10)
    others = {
        "conditions": [{"name": "beta", "expression": "percent <= 5"}],
        "parameters": {"welcome": {"defaultValue": {"value": "hello"}}},
        "version": {"versionNumber": "7"},
    }
    file.write_text(json.dumps(others))
    for model in ("taxi-fare", "taxi-fare", "taxi"):
        assert cli.main(["registry", "remote-config", uri, model, "--to", str(file)]) == 0
    assert "parameter tfx_mobile_taxi  (not uploaded)" in capsys.readouterr().out
    found = json.loads(file.read_bytes())
    names = [one["name"] for one in found["conditions"]]
    assert names == ["beta", "tfx_mobile taxi-fare 1 default", "tfx_mobile taxi 1 default"]
    assert sorted(found["parameters"]) == ["tfx_mobile_taxi", "tfx_mobile_taxi_fare", "welcome"]
    assert found["version"] == others["version"]
    for bad in ("[]", '{"conditions": {}}', "{"):
        file.write_text(bad)
        assert cli.main(["registry", "remote-config", uri, "taxi", "--to", str(file)]) == 2
        assert file.read_text() == bad
