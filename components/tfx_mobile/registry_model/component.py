"""The TFX component: its channel, its settings, and what can be checked when a pipeline is built."""

import os
from typing import ClassVar

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from tfx_mobile.common.fingerprint import source_fingerprint
from tfx_mobile.registry.adapter import check_channel
from tfx_mobile.registry.backend import open_backend
from tfx_mobile.registry.client import check_location
from tfx_mobile.registry_model.config import RegistryModelConfig, is_mirror
from tfx_mobile.registry_model.executor import CURRENT_KEY, Driver, Executor


class RegistryModelSpec(types.ComponentSpec):
    """Channel and parameters of RegistryModel."""

    INPUTS: ClassVar[dict[str, component_spec.ChannelParameter]] = {}
    OUTPUTS = {  # noqa: RUF012
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
    }
    PARAMETERS = {  # noqa: RUF012
        "config": component_spec.ExecutionParameter(type=str),
        "code": component_spec.ExecutionParameter(type=str),
        CURRENT_KEY: component_spec.ExecutionParameter(type=str),  # its driver fills it in, run by run
    }


class RegistryModel(base_component.BaseComponent):
    """What phones run now, as a Model: fetched from a registry and verified as a phone does it.

    From a mirror (MLflow, a bucket, an OCI registry) it is only checked against the mirror's own hashes:
    whoever may write there may write both. Its history is the current version alone.

    `model` holds the file as `Format-Serving/tflite` and, as custom properties, `version`, `sha256`,
    `figures` (what was signed with it) and `history` (JSON of `releases.Release`, oldest first, the version
    itself last). Before the first release its folder is empty and `first_release` is 1. A registry that is
    gone, broken, expired, rolled back or signed by somebody else is an error, never a first release.

    A new version is seen by the next run; while there is none, TFX's cache holds (with a runner that runs
    drivers, as the local one does. Kubeflow's runner does not: turn the cache off for this component there).

    Args:
      registry: Folder of the signed store, or its file://, http:// or https:// URL; or a mirror's URI, for
        example mlflow+http://host:5000, without root and cache.
      model_name: Lower-case letters, digits and dashes.
      channel: What phones follow.
      root: The root file that is trusted; by default, for a folder, `<registry>.keys/root.json`.
      cache: Folder of what was seen of this registry, against rollback; by default one in the user's cache.

    Raises:
      ConfigError: A name is not allowed, the registry is no folder and no such URL, a URL has no root, or a
        mirror has one.
    """

    SPEC_CLASS = RegistryModelSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)
    DRIVER_CLASS = Driver

    def __init__(
        self,
        registry: str | os.PathLike[str],
        model_name: str,
        channel: str = RegistryModelConfig.channel,
        root: str | os.PathLike[str] = RegistryModelConfig.root,
        cache: str | os.PathLike[str] = RegistryModelConfig.cache,
    ) -> None:
        config = RegistryModelConfig(
            registry=os.fspath(registry),
            model_name=model_name,
            channel=channel,
            root=os.fspath(root),
            cache=os.fspath(cache),
        )
        if is_mirror(config.registry):
            backend = open_backend(config.registry)  # checks, reads nothing
            check_channel(config.registry, backend.capabilities, channel)
        else:
            check_location(config.registry)
        super().__init__(
            spec=RegistryModelSpec(
                config=config.to_json(),
                code=source_fingerprint(
                    "tfx_mobile.registry_model",
                    "tfx_mobile.registry",
                    "tfx_mobile.common",
                    "tfx_mobile.size_latency_evaluator.evaluation",
                    "tfx_mobile.size_latency_evaluator.config",
                ),
                model=types.Channel(type=standard_artifacts.Model),
                **{CURRENT_KEY: ""},
            )
        )
