"""Do(): compare, copy, add the id."""

from pathlib import Path
from typing import Any

from tfx import types
from tfx.components.evaluator import constants
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils

from tfx_mobile.common import artifacts, files
from tfx_mobile.common.errors import DataError

_COPIED = (
    "component_id",
    constants.ARTIFACT_PROPERTY_CURRENT_MODEL_URI_KEY,
    constants.ARTIFACT_PROPERTY_BASELINE_MODEL_URI_KEY,
    artifacts.OVERRIDE_PROPERTY,
)


class Executor(base_executor.BaseExecutor):
    """Repeats a blessing with the id of its model."""

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Copies; see BlessingWithModelId.

        Raises:
          DataError: The blessing is about another model.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        model = artifact_utils.get_single_instance(input_dict["model"])
        given = artifact_utils.get_single_instance(input_dict["blessing"])
        made = artifact_utils.get_single_instance(output_dict["model_blessing"])
        about = given.get_string_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_URI_KEY)
        if about != model.uri:
            raise DataError(
                f"blessing must be about the model in {model.uri}; got one about {about or 'none'}. Connect "
                "both outputs of one component."
            )
        for key in _COPIED:
            if value := given.get_string_custom_property(key):
                made.set_string_custom_property(key, value)
        key = constants.ARTIFACT_PROPERTY_BASELINE_MODEL_ID_KEY
        if baseline_id := given.get_int_custom_property(key):
            made.set_int_custom_property(key, baseline_id)
        refusal = artifacts.blessing_refusal([given])
        verdict = refusal or given.get_string_custom_property(artifacts.VERDICT_PROPERTY)
        made.set_string_custom_property(artifacts.VERDICT_PROPERTY, verdict)
        made.set_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY, model.id)
        made.set_int_custom_property(
            constants.ARTIFACT_PROPERTY_BLESSED_KEY,
            constants.NOT_BLESSED_VALUE if refusal else constants.BLESSED_VALUE,
        )
        name = constants.NOT_BLESSED_FILE_NAME if refusal else constants.BLESSED_FILE_NAME
        files.write_atomically(Path(made.uri) / name, b"")
