"""What a push is refused for when the pipeline is built."""

import re
from pathlib import Path
from typing import Any

import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.registry.adapter import check_wishes
from tfx_mobile.registry.backend import Capabilities
from tfx_mobile.registry.targeting import Targeting
from tfx_mobile.registry_pusher.config import PusherConfig, open_registry

RULE = "name must be 1 to 63 of a-z, 0-9 and '-', and start with a letter or digit; got "


@pytest.mark.parametrize("name", ["", "Taxi", "taxi fare", "../taxi", "-taxi", "a" * 64, "taxi_fare"])
def test_a_model_name_outside_the_rule_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"Model {RULE}{name!r}.")):
        PusherConfig(registry="/r", model_name=name)


def test_a_channel_name_outside_the_rule_is_refused() -> None:
    with pytest.raises(ConfigError, match=re.escape(f"Channel {RULE}'Stable'.")):
        PusherConfig(registry="/r", model_name="taxi", channel="Stable")


def test_an_empty_registry_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=re.escape("registry must be a folder or a URI; got an empty path.")
    ):
        PusherConfig(registry="", model_name="taxi")


@pytest.mark.parametrize(
    "uri",
    [
        "mlflow+https://ada:secret@host/",
        "mlflow+https://token@host",
        "s3://key:secret@bucket/registry",
        "s3:/key:secret@bucket/registry",
        "bucket+s3://bucket/registry?token=secret",
        "oci://host/registry#secret",
    ],
)
def test_a_secret_in_the_registrys_uri_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(
        ConfigError, match=re.escape("registry must be a URI without user, password")
    ) as caught:
        PusherConfig(registry=uri, model_name="taxi")
    assert "secret" not in str(caught.value)
    assert "token@" not in str(caught.value)


@pytest.mark.parametrize("registry", ["/r/a@b", "r@b/c?d", "mlflow+http://host:5000"])
def test_a_folder_may_have_any_name(registry: str) -> None:
    assert PusherConfig(registry=registry, model_name="taxi").registry == registry


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"version": 0}, "Version must be an integer of at least 1; got 0."),
        ({"variant": "GPU"}, f"Variant {RULE}'GPU'."),
        ({"variant": "model"}, "Variant must not be 'model'"),
        ({"rollout_permille": 1001}, "Rollout share must be an integer from 0 to 1000 permille; got 1001."),
        ({"rollout_permille": 0.5}, "Rollout share must be an integer from 0 to 1000 permille; got 0.5."),
        ({"delta": "no"}, "delta must be True or False; got 'no'."),
    ],
)
def test_a_setting_outside_its_rule_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        PusherConfig(**({"registry": "/r", "model_name": "taxi"} | settings))


@pytest.mark.parametrize(
    ("settings", "attachments", "message"),
    [
        ({"variant": "gpu"}, False, "cannot keep several variants of a version; it can do: "),
        ({"rollout_permille": 999}, False, "cannot offer a version to a share of the devices; it can do: "),
        ({"targeting": Targeting(min_ram_mib=1)}, False, "cannot ask anything of a device; it can do: "),
        ({}, True, "cannot keep other files beside a model; it can do: publish only. Leave attachments out"),
    ],
)
def test_what_a_backend_cannot_do_is_refused(
    settings: dict[str, Any], attachments: bool, message: str
) -> None:
    where = "mlflow+http://host:5000"
    able = Capabilities(rollback=True)
    with pytest.raises(ConfigError, match=re.escape(f"Registry {where!r} ")) as caught:
        check_wishes(
            where,
            Capabilities() if attachments else able,
            attachments=attachments,
            **({"variant": "default", "rollout_permille": 1000, "targeting": Targeting()} | settings),
        )
    assert message in str(caught.value)


@pytest.mark.parametrize("channel", ["latest", "v1"])
def test_a_channel_that_mlflow_keeps_for_itself_is_refused_when_it_is_opened(channel: str) -> None:
    config = PusherConfig(registry="mlflow+http://127.0.0.1:1", model_name="taxi", channel=channel)
    message = (
        "Channel name must not match 'latest|v[0-9]+', which registry 'mlflow+http://127.0.0.1:1' keeps for "
        f"itself; got '{channel}'. Name another."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        open_registry(config, attachments=False)


def test_a_wish_that_mlflow_has_not_is_refused_when_it_is_opened() -> None:
    config = PusherConfig(registry="mlflow+http://127.0.0.1:1", model_name="taxi", rollout_permille=500)
    with pytest.raises(ConfigError, match=re.escape("cannot offer a version to a share of the devices")):
        open_registry(config, attachments=False)


def test_a_targeting_that_is_none_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    targeting: Any = {"platforms": ["android"]}
    config = PusherConfig(registry=str(tmp_path / "r"), model_name="taxi", targeting=targeting)
    with pytest.raises(ConfigError, match=re.escape("targeting must be a Targeting; got dict.")):
        open_registry(config, attachments=False)


def test_settings_survive_a_round_trip_through_json() -> None:
    wanted = PusherConfig(
        registry="/r",
        model_name="taxi",
        keys="/k",
        channel="beta",
        version=3,
        variant="gpu",
        rollout_permille=50,
        targeting=Targeting(platforms=("android",), min_ram_mib=2048),
        delta=False,
    )
    assert PusherConfig.from_json(wanted.to_json()) == wanted
