"""What a push is refused for when the pipeline is built."""

import re

import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.registry_pusher.config import PusherConfig

RULE = "name must be 1 to 63 of a-z, 0-9 and '-', and start with a letter or digit; got "


@pytest.mark.parametrize("name", ["", "Taxi", "taxi fare", "../taxi", "-taxi", "a" * 64, "taxi_fare"])
def test_a_model_name_outside_the_rule_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"Model {RULE}{name!r}.")):
        PusherConfig(registry="/r", model_name=name)


def test_a_channel_name_outside_the_rule_is_refused() -> None:
    with pytest.raises(ConfigError, match=re.escape(f"Channel {RULE}'Stable'.")):
        PusherConfig(registry="/r", model_name="taxi", channel="Stable")


def test_an_empty_registry_is_refused() -> None:
    with pytest.raises(ConfigError, match=re.escape("registry must be a folder; got an empty path.")):
        PusherConfig(registry="", model_name="taxi")


def test_settings_survive_a_round_trip_through_json() -> None:
    wanted = PusherConfig(registry="/r", model_name="taxi", keys="/k", channel="beta")
    assert PusherConfig.from_json(wanted.to_json()) == wanted
