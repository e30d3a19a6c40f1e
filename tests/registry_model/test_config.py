"""What is refused when a pipeline is built."""

import re

import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.registry_model.config import RegistryModelConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"registry": ""}, "registry must be a folder or a URL; got an empty path."),
        ({"model_name": "Taxi Fare"}, "Model name must be 1 to 63 of a-z, 0-9 and '-'"),
        ({"channel": "../stable"}, "Channel name must be 1 to 63 of a-z, 0-9 and '-'"),
        ({"registry": "https://host/r"}, "root must name the root to trust for https://host/r; got none."),
        ({"registry": "https://ada:secret@host/r", "root": "/r"}, "registry must be a URL without user,"),
        (
            {"registry": "https://token@host/r", "root": "/r"},
            "registry must be a URL without user, password or query",
        ),
        (
            {"registry": "mlflow+https://ada:secret@host"},
            "registry must be a URL without user, password or query",
        ),
        (
            {"registry": "mlflow+http://host", "root": "/root.json"},
            "root and cache must be left out for mlflow+http://host, which signs nothing; got '/root.json'.",
        ),
        ({"registry": "oci://host/r", "cache": "/c"}, "root and cache must be left out for oci://host/r"),
        (
            {"registry": "https://host/r?token=secret", "root": "/r"},
            "registry must be a URL without user, password or query",
        ),
        ({"registry": "https://host/r#secret", "root": "/r"}, "registry must be a URL without user,"),
        ({"root": "https://ada:secret@host/root.json"}, "root must be a local path; got a URI of 'https'."),
        ({"cache": "s3://bucket/cache"}, "cache must be a local path; got a URI of 's3'."),
        ({"registry": "file:///r"}, "root must name the root to trust for file:///r; got none."),
    ],
)
def test_a_setting_that_cannot_work_is_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        RegistryModelConfig(**({"registry": "/r", "model_name": "taxi"} | settings))
    assert "secret" not in str(caught.value)


def test_settings_survive_a_round_trip_through_json() -> None:
    wanted = RegistryModelConfig("https://host/r", "taxi", "beta", root="/root.json", cache="/cache")
    assert RegistryModelConfig.from_json(wanted.to_json()) == wanted
