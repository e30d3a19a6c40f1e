"""The driver, which tells TFX's cache what the registry holds, and Do(): look up, fetch, write."""

import hashlib
import uuid
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
from tfx_mobile.common.errors import RegistryError, TfxMobileError
from tfx_mobile.registry.records import VersionRecord
from tfx_mobile.registry_model import lookup
from tfx_mobile.registry_model.config import RegistryModelConfig

CURRENT_KEY = "current"


class Driver(base_driver.BaseDriver, portable_driver.BaseDriver):
    """Puts what the channel holds into the execution properties, which TFX's cache compares."""

    def __init__(self, metadata_handle: metadata.Metadata) -> None:
        base_driver.BaseDriver.__init__(self, metadata_handle)
        portable_driver.BaseDriver.__init__(self, metadata_handle)

    def run(self, execution_info: data_types.ExecutionInfo) -> driver_output_pb2.DriverOutput:
        """Returns the execution properties to add."""
        result = driver_output_pb2.DriverOutput()
        try:
            current = lookup.look_up(
                RegistryModelConfig.from_json(execution_info.exec_properties["config"])
            ).key
        except TfxMobileError as error:
            # The executor meets the same error and fails as components do; a driver would leave no trace.
            logging.warning("What the registry holds is not known: %s", error)
            current = f"unknown:{uuid.uuid4()}"
        result.exec_properties[CURRENT_KEY].string_value = current
        return result


class Executor(base_executor.BaseExecutor):
    """Writes what phones run now, or says that nothing was released yet."""

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Fetches, verifies and writes; see RegistryModel."""
        self._log_startup(input_dict, output_dict, exec_properties)
        config = RegistryModelConfig.from_json(exec_properties["config"])
        model = artifact_utils.get_single_instance(output_dict["model"])
        found = lookup.look_up(config)
        seen = exec_properties.get(CURRENT_KEY) or ""  # a runner without drivers has seen nothing
        if seen.startswith("sha256:") and seen != found.key:
            raise RegistryError(
                f"Channel '{config.channel}' of '{config.model_name}' must hold still while it is read; "
                f"somebody has published to {config.registry} in between. Run the pipeline again."
            )
        model.set_string_custom_property("model_name", config.model_name)
        model.set_string_custom_property("channel", config.channel)
        model.set_string_custom_property(artifacts.HISTORY_PROPERTY, lookup.history_json(found.records))
        model.set_int_custom_property(artifacts.FIRST_RELEASE_PROPERTY, int(not found.records))
        if found.resolved is not None:
            _write(model, config, found.records[-1], found.resolved.content)
            return
        if found.client is None or not found.records:
            model.set_string_custom_property(artifacts.REASON_PROPERTY, found.reason)
            logging.warning("This is the first release of %s: %s.", config.model_name, found.reason)
            return
        record = found.records[-1]
        fetched = found.client.fetch(
            config.model_name,
            config.channel,
            version=record.version,
            variant=record.variant,
            fall_back=False,
        )
        content = fetched.path.read_bytes()
        if hashlib.sha256(content).hexdigest() != record.sha256:
            raise RegistryError(
                f"{fetched.path} must have sha256 {record.sha256}, which was signed; it was changed after it "
                "was fetched. Remove the file and run the pipeline again."
            )
        _write(model, config, record, content)


def _write(model: types.Artifact, config: RegistryModelConfig, record: VersionRecord, content: bytes) -> None:
    files.write_atomically(artifacts.serving_folder(model) / artifacts.TFLITE_FILE, content)
    model.set_int_custom_property("version", record.version)
    model.set_string_custom_property("sha256", record.sha256)
    figures = jsonable.dumps(record.metadata.get("figures", {}))
    model.set_string_custom_property(artifacts.FIGURES_PROPERTY, figures)
    logging.info("Phones run version %d of %s.", record.version, config.model_name)
