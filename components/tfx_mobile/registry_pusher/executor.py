"""The driver, which tells TFX's cache what the registry holds, and Do(): check blessings, publish, record."""

import hashlib
import re
import uuid
from pathlib import Path
from typing import Any

from absl import logging
from tfx import types
from tfx.dsl.components.base import base_driver, base_executor
from tfx.orchestration import metadata
from tfx.orchestration.portable import base_driver as portable_driver
from tfx.orchestration.portable import data_types
from tfx.proto.orchestration import driver_output_pb2
from tfx.types import artifact_utils

from tfx_mobile.common import artifacts, files, jsonable
from tfx_mobile.common.errors import TfxMobileError
from tfx_mobile.registry import records
from tfx_mobile.registry.store import Registry
from tfx_mobile.registry_pusher.config import PusherConfig

CURRENT_KEY = "current"
UPSTREAM_KEY = "needs_upstream_blessing"
# A local path of two parts or more, of which only the last is anybody else's business.
_LOCAL_PATH = re.compile(r"(?:(?<=[\s'\"(=,;])|^)(?:file://)?/(?:[^\s/'\",;:()]+/)+(?=[^\s/'\",;:()]*)")


class Driver(base_driver.BaseDriver, portable_driver.BaseDriver):
    """Puts what the channel holds into the execution properties, which TFX's cache compares.

    So a push that the registry does not hold any more is no cached push.
    """

    def __init__(self, metadata_handle: metadata.Metadata) -> None:
        base_driver.BaseDriver.__init__(self, metadata_handle)
        portable_driver.BaseDriver.__init__(self, metadata_handle)

    def run(self, execution_info: data_types.ExecutionInfo) -> driver_output_pb2.DriverOutput:
        """Returns the execution properties to add."""
        result = driver_output_pb2.DriverOutput()
        config = PusherConfig.from_json(execution_info.exec_properties["config"])
        result.exec_properties[CURRENT_KEY].string_value = _current(config)
        return result


class Executor(base_executor.BaseExecutor):
    """Publishes a model if it is blessed."""

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Publishes and records; see RegistryPusher."""
        self._log_startup(input_dict, output_dict, exec_properties)
        config = PusherConfig.from_json(exec_properties["config"])
        model = artifact_utils.get_single_instance(input_dict["model"])
        pushed = artifact_utils.get_single_instance(output_dict["pushed_model"])
        reason = artifacts.blessing_refusal(input_dict.get("blessing") or [])
        if not reason and exec_properties.get(UPSTREAM_KEY):
            refusal = artifacts.blessing_refusal(input_dict.get("upstream_blessing") or [])
            reason = f"upstream: {refusal}" if refusal else ""
        if reason:
            logging.warning("%s is not pushed: %s", config.model_name, reason)
            pushed.set_int_custom_property("pushed", 0)
            pushed.set_string_custom_property(artifacts.REASON_PROPERTY, reason)
            return
        (blessing,) = input_dict["blessing"]
        content = artifacts.tflite_file(model).read_bytes()
        metadata = records.checked_metadata(self._metadata(model, blessing))  # before a registry is made
        registry = Registry.open_or_create(Path(config.registry), Path(config.keys) if config.keys else None)
        published = registry.publish(
            config.model_name,
            content,
            channel=config.channel,
            metadata=metadata,
        )
        files.write_atomically(Path(pushed.uri) / artifacts.TFLITE_FILE, content)
        pushed.set_int_custom_property("pushed", 1)
        pushed.set_string_custom_property("pushed_destination", config.registry)
        pushed.set_string_custom_property("pushed_version", str(published.version))
        logging.info("%s is version %d in %s.", config.model_name, published.version, config.registry)

    def _metadata(self, model: types.Artifact, blessing: types.Artifact) -> dict[str, Any]:
        """What is signed with the version: figures, verdict, override, where it came from; no local paths."""
        context = self._context
        found = {
            "figures": _json_property(model, artifacts.FIGURES_PROPERTY),
            "verdict": _LOCAL_PATH.sub("", blessing.get_string_custom_property(artifacts.VERDICT_PROPERTY)),
            "pipeline": context.pipeline_info.id if context and context.pipeline_info else "",
            "pipeline_run": context.pipeline_run_id if context and context.pipeline_run_id else "",
            "model_artifact": str(model.id),
        }
        for artifact, key in (
            (blessing, artifacts.OVERRIDE_PROPERTY),
            (model, artifacts.PROVENANCE_PROPERTY),
        ):
            if value := _json_property(artifact, key):
                found[key] = value
        return found


def _json_property(artifact: types.Artifact, key: str) -> Any:
    text = artifact.get_string_custom_property(key)
    return jsonable.loads(text, where=f"property '{key}'") if text else {}


def _current(config: PusherConfig) -> str:
    """Returns what the channel holds; where it is nothing or not known, text that was never there before."""
    registry = Registry(Path(config.registry), Path(config.keys) if config.keys else None)
    try:
        if registry.root_path.exists() and config.model_name in registry.models():
            version = registry.channels(config.model_name).get(config.channel)
            for record in registry.versions(config.model_name):
                if record.version == version:
                    content = f"{record.model} {config.channel} {record.version} {record.sha256}"
                    return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"
    except TfxMobileError as error:
        # The executor meets the same error and fails as components do; a driver would leave no trace.
        logging.warning("What the registry holds is not known: %s", error)
    return f"unknown:{uuid.uuid4()}"
