"""What is checked when a pipeline is built, and what TFX's cache sees."""

import re
from pathlib import Path
from typing import Any

import pytest

from tfx_mobile.common.errors import ConfigError

pytestmark = pytest.mark.pipeline


def pusher(**settings: Any) -> Any:
    from tfx import types
    from tfx.types import standard_artifacts

    from tfx_mobile.registry_pusher.component import RegistryPusher

    return RegistryPusher(
        model=types.Channel(type=standard_artifacts.Model),
        blessing=types.Channel(type=standard_artifacts.ModelBlessing),
        **({"registry": Path("/registry"), "model_name": "taxi-fare"} | settings),
    )


def test_a_bad_model_name_is_refused_when_the_pipeline_is_built() -> None:
    with pytest.raises(ConfigError, match=re.escape("Model name must be 1 to 63 of a-z, 0-9 and '-'")):
        pusher(model_name="Taxi Fare")


def test_a_bucket_is_refused_when_the_pipeline_is_built() -> None:
    with pytest.raises(ConfigError, match=re.escape("Registry must be a local folder; got 'gs:")):
        pusher(registry="gs://bucket/registry")


def test_keys_inside_the_registry_are_refused_when_the_pipeline_is_built() -> None:
    with pytest.raises(ConfigError, match=re.escape("Keys must be kept outside the repository")):
        pusher(keys="/registry/keys")


def test_settings_are_the_same_bytes_each_time() -> None:
    one, other = pusher().exec_properties, pusher().exec_properties
    assert one == other
    assert set(one) == {"config", "code", "needs_upstream_blessing", "current"}
