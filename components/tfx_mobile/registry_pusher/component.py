"""The TFX component: its channels, its settings, and what can be checked when a pipeline is built."""

import os
from pathlib import Path

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from tfx_mobile.common.fingerprint import source_fingerprint
from tfx_mobile.registry.store import Registry
from tfx_mobile.registry_pusher.config import PusherConfig
from tfx_mobile.registry_pusher.executor import CURRENT_KEY, UPSTREAM_KEY, Driver, Executor


class RegistryPusherSpec(types.ComponentSpec):
    """Channels and parameters of RegistryPusher."""

    INPUTS = {  # noqa: RUF012
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
        "upstream_blessing": component_spec.ChannelParameter(
            type=standard_artifacts.ModelBlessing, optional=True
        ),
    }
    OUTPUTS = {  # noqa: RUF012
        "pushed_model": component_spec.ChannelParameter(type=standard_artifacts.PushedModel),
    }
    PARAMETERS = {  # noqa: RUF012
        "config": component_spec.ExecutionParameter(type=str),
        "code": component_spec.ExecutionParameter(type=str),
        UPSTREAM_KEY: component_spec.ExecutionParameter(type=int),
        CURRENT_KEY: component_spec.ExecutionParameter(type=str),  # its driver fills it in, run by run
    }


class RegistryPusher(base_component.BaseComponent):
    """Publishes a blessed TFLite model in a mobile model registry, signed; publishes nothing else.

    `pushed_model` has the custom properties of TFX's own Pusher (`pushed`, `pushed_destination`,
    `pushed_version`) and, when nothing was pushed, `reason`. A push from TFX's cache is one that the channel
    still holds.

    Args:
      model: A Model with a TFLite file in `Format-Serving` (`tflite` or one `*.tflite`).
      blessing: SizeLatencyEvaluator's, or the stock Evaluator's.
      registry: Folder of the registry; made, with its keys, on first use.
      model_name: Lower-case letters, digits and dashes.
      channel: What phones follow.
      keys: Folder of the signing keys, outside the registry; by default `<registry>.keys` beside it.
      upstream_blessing: Another one that is needed, too, for example the stock Evaluator's of the float
        model. Given and not blessed, broken or missing: nothing is pushed, whatever an override says.

    Raises:
      ConfigError: A name is not allowed, the registry is no local folder, or the keys lie inside it.
    """

    SPEC_CLASS = RegistryPusherSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)
    DRIVER_CLASS = Driver

    def __init__(
        self,
        model: types.BaseChannel,
        blessing: types.BaseChannel,
        registry: str | os.PathLike[str],
        model_name: str,
        channel: str = PusherConfig.channel,
        keys: str | os.PathLike[str] = PusherConfig.keys,
        upstream_blessing: types.BaseChannel | None = None,
    ) -> None:
        config = PusherConfig(
            registry=os.fspath(registry), model_name=model_name, keys=os.fspath(keys), channel=channel
        )
        Registry(Path(config.registry), Path(config.keys) if config.keys else None)  # checks, reads nothing
        super().__init__(
            spec=RegistryPusherSpec(
                model=model,
                blessing=blessing,
                config=config.to_json(),
                code=source_fingerprint(
                    "tfx_mobile.registry_pusher", "tfx_mobile.registry", "tfx_mobile.common"
                ),
                pushed_model=types.Channel(type=standard_artifacts.PushedModel),
                **({} if upstream_blessing is None else {"upstream_blessing": upstream_blessing}),
                **{UPSTREAM_KEY: int(upstream_blessing is not None), CURRENT_KEY: ""},
            )
        )
