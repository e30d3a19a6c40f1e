"""What is checked when a pipeline is built, and what TFX's cache sees."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.registry.targeting import Targeting
from tfx_mobile.registry_pusher.config import PusherConfig

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


def test_a_registry_that_nobody_announces_is_refused_when_the_pipeline_is_built() -> None:
    with pytest.raises(ConfigError, match=re.escape("Registry must be a folder or a URI of bucket+file, ")):
        pusher(registry="ftp://host/registry")


def test_keys_for_a_registry_that_signs_nothing_are_refused_when_the_pipeline_is_built() -> None:
    with pytest.raises(ConfigError, match=re.escape("does not take these options: ")):
        pusher(registry="mlflow+http://host:5000", keys="/keys")


def test_a_share_of_the_phones_is_refused_of_mlflow_when_the_pipeline_is_built() -> None:
    with pytest.raises(ConfigError, match=re.escape("cannot offer a version to a share of the devices")):
        pusher(registry="mlflow+http://host:5000", rollout_permille=100)


def test_a_password_is_refused_before_it_is_an_execution_parameter() -> None:
    with pytest.raises(ConfigError, match=re.escape("registry must be a URI without user, password")):
        pusher(registry="mlflow+https://ada:secret@host")


def test_keys_inside_the_registry_are_refused_when_the_pipeline_is_built() -> None:
    with pytest.raises(ConfigError, match=re.escape("Keys must be kept outside the repository")):
        pusher(keys="/registry/keys")


def test_settings_are_the_same_bytes_each_time() -> None:
    one, other = pusher().exec_properties, pusher().exec_properties
    assert one == other
    assert set(one) == {"config", "code", "needs_upstream_blessing", "has_evaluation", "current"}


def test_every_setting_reaches_the_executor() -> None:
    wanted = PusherConfig(
        registry="/registry",
        model_name="net",
        keys="/keys",
        channel="beta",
        version=3,
        variant="gpu",
        rollout_permille=50,
        targeting=Targeting(platforms=("android",)),
        delta=False,
    )
    given = {field.name: getattr(wanted, field.name) for field in dataclasses.fields(wanted)}
    assert PusherConfig.from_json(pusher(**given).exec_properties["config"]) == wanted


def test_the_first_example_of_the_page_on_backends_builds() -> None:
    from types import SimpleNamespace

    from tfx import types
    from tfx.types import standard_artifacts

    page = (Path(__file__).resolve().parents[2] / "docs" / "registry-backends.md").read_text()
    (example,) = re.findall(r"```python\n(import tfx_mobile as tm.*?)```", page, re.DOTALL)
    kinds = {"model": "Model", "blessing": "ModelBlessing", "evaluation": "ModelEvaluation"}
    outputs = {key: types.Channel(type=getattr(standard_artifacts, kind)) for key, kind in kinds.items()}
    made: dict[str, Any] = {"evaluator": SimpleNamespace(outputs=outputs)}
    exec(example, made)
    config = PusherConfig.from_json(made["pusher"].exec_properties["config"])
    assert (config.channel, config.rollout_permille) == ("beta", 100)
    assert config.targeting == Targeting(platforms=("android",), min_ram_mib=2048)
    assert made["pusher"].exec_properties["has_evaluation"] == 1
    assert made["mirror"].id == "Mirror"
    assert PusherConfig.from_json(made["mirror"].exec_properties["config"]).registry.startswith(
        "mlflow+https:"
    )
