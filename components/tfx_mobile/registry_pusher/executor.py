"""Do(): unpack, check the blessing, publish, record."""

from pathlib import Path
from typing import Any

from absl import logging
from tfx import types
from tfx.components.util import model_utils
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils

from tfx_mobile.common import artifacts, files, jsonable
from tfx_mobile.registry import records
from tfx_mobile.registry.store import Registry
from tfx_mobile.registry_pusher.config import PusherConfig

REASON_PROPERTY = "reason"


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
        blessing = artifact_utils.get_single_instance(input_dict["blessing"])
        pushed = artifact_utils.get_single_instance(output_dict["pushed_model"])
        if not model_utils.is_model_blessed(blessing):
            reason = (
                blessing.get_string_custom_property(artifacts.VERDICT_PROPERTY)
                or "the blessing says NOT_BLESSED"
            )
            logging.warning("%s is not pushed: %s", config.model_name, reason)
            pushed.set_int_custom_property("pushed", 0)
            pushed.set_string_custom_property(REASON_PROPERTY, reason)
            return
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
        """What is signed with the version: the candidate's figures, the verdict, where it came from."""
        figures = model.get_string_custom_property(artifacts.FIGURES_PROPERTY)
        context = self._context
        return {
            "figures": jsonable.loads(figures, where=f"property '{artifacts.FIGURES_PROPERTY}'")
            if figures
            else {},
            "verdict": blessing.get_string_custom_property(artifacts.VERDICT_PROPERTY),
            "pipeline": context.pipeline_info.id if context and context.pipeline_info else "",
            "pipeline_run": context.pipeline_run_id if context and context.pipeline_run_id else "",
            "model_artifact": str(model.id),
        }
