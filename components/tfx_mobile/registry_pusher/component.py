"""The TFX component: its channels, its settings, and what can be checked when a pipeline is built."""

import os

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from tfx_mobile.common.fingerprint import source_fingerprint
from tfx_mobile.registry.targeting import Targeting
from tfx_mobile.registry_pusher.config import PusherConfig, open_registry
from tfx_mobile.registry_pusher.executor import CURRENT_KEY, EVALUATION_KEY, UPSTREAM_KEY, Driver, Executor


class RegistryPusherSpec(types.ComponentSpec):
    """Channels and parameters of RegistryPusher."""

    INPUTS = {  # noqa: RUF012
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
        "upstream_blessing": component_spec.ChannelParameter(
            type=standard_artifacts.ModelBlessing, optional=True
        ),
        "evaluation": component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation, optional=True),
    }
    OUTPUTS = {  # noqa: RUF012
        "pushed_model": component_spec.ChannelParameter(type=standard_artifacts.PushedModel),
    }
    PARAMETERS = {  # noqa: RUF012
        "config": component_spec.ExecutionParameter(type=str),
        "code": component_spec.ExecutionParameter(type=str),
        UPSTREAM_KEY: component_spec.ExecutionParameter(type=int),
        EVALUATION_KEY: component_spec.ExecutionParameter(type=int),
        CURRENT_KEY: component_spec.ExecutionParameter(type=str),  # its driver fills it in, run by run
    }


class RegistryPusher(base_component.BaseComponent):
    """Publishes a blessed TFLite model in a mobile model registry; publishes nothing else.

    `pushed_model` has the custom properties of TFX's own Pusher (`pushed`, `pushed_destination`,
    `pushed_version`), `sha256` and, when nothing was pushed, `reason`. A push from TFX's cache is one that
    the channel still holds.

    What the file needs is read from it: the oldest runtime that has its operators, and the custom and
    TensorFlow Select ones. A registry that can ask something of a device asks for that, unless `targeting`
    says otherwise.

    The same bytes again are no new version, and change neither what is said of them nor whom they are offered
    to.

    Args:
      model: A Model with a TFLite file in `Format-Serving` (`tflite` or one `*.tflite`).
      blessing: SizeLatencyEvaluator's, or the stock Evaluator's.
      registry: Folder of the signed store, made with its keys on first use; or the URI of another registry,
        without user and password: docs/registry-backends.md.
      model_name: Lower-case letters, digits and dashes.
      channel: What phones follow.
      keys: Folder of the signing keys, outside the registry; by default `<registry>.keys` beside it.
      upstream_blessing: Another one that is needed, too, for example the stock Evaluator's of the float
        model. Given and not blessed, broken or missing: nothing is pushed, whatever an override says.
      evaluation: SizeLatencyEvaluator's, of this model: its page and its values are kept beside the file, and
        its gates are said with the version. Paths of this machine are left out.
      version: An integer >= 1; None takes the next.
      variant: Which file of the version, for example 'gpu'.
      rollout_permille: Share of the devices that fit, 0 to 1,000, which are offered a new version.
      targeting: What it asks of a device.
      delta: Whether the signed store also keeps patches from what its channels give everyone now, where they
        are under half of the file; no other registry keeps any.

    Raises:
      ConfigError: A setting breaks its rule, nothing is announced for the URI, the keys lie inside the
        registry, or the registry cannot do what a setting asks for.
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
        evaluation: types.BaseChannel | None = None,
        version: int | None = None,
        variant: str = PusherConfig.variant,
        rollout_permille: int = PusherConfig.rollout_permille,
        targeting: Targeting = PusherConfig.targeting,
        delta: bool = PusherConfig.delta,
    ) -> None:
        config = PusherConfig(
            registry=os.fspath(registry),
            model_name=model_name,
            keys=os.fspath(keys),
            channel=channel,
            version=version,
            variant=variant,
            rollout_permille=rollout_permille,
            targeting=targeting,
            delta=delta,
        )
        open_registry(config, attachments=evaluation is not None)
        super().__init__(
            spec=RegistryPusherSpec(
                model=model,
                blessing=blessing,
                config=config.to_json(),
                code=source_fingerprint(
                    "tfx_mobile.registry_pusher",
                    "tfx_mobile.registry",
                    "tfx_mobile.common",
                    "tfx_mobile.size_latency_evaluator",
                ),
                pushed_model=types.Channel(type=standard_artifacts.PushedModel),
                **({} if upstream_blessing is None else {"upstream_blessing": upstream_blessing}),
                **({} if evaluation is None else {"evaluation": evaluation}),
                **{
                    UPSTREAM_KEY: int(upstream_blessing is not None),
                    EVALUATION_KEY: int(evaluation is not None),
                    CURRENT_KEY: "",
                },
            )
        )
