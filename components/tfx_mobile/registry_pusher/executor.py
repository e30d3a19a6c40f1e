"""The driver, which tells TFX's cache what the registry holds, and Do(): check blessings, publish, record."""

import dataclasses
import functools
import hashlib
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
from tfx_mobile.common.errors import DataError, RegistryError, TfxMobileError
from tfx_mobile.registry import records
from tfx_mobile.registry.adapter import NothingReleased
from tfx_mobile.registry.backend import Backend, Published, scheme_of
from tfx_mobile.registry.store import Registry
from tfx_mobile.registry.targeting import EVERYONE_PERMILLE
from tfx_mobile.registry_pusher import core
from tfx_mobile.registry_pusher.config import PusherConfig, open_registry
from tfx_mobile.size_latency_evaluator.evaluation import Evaluation

CURRENT_KEY = "current"
UPSTREAM_KEY = "needs_upstream_blessing"
EVALUATION_KEY = "has_evaluation"


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
        needs = core.file_needs(content)
        evaluation = _evaluation(input_dict, exec_properties, content)
        published = _publish(config, content, needs, evaluation, self._metadata(model, blessing))
        files.write_atomically(Path(pushed.uri) / artifacts.TFLITE_FILE, content)
        pushed.set_int_custom_property("pushed", 1)
        pushed.set_string_custom_property("pushed_destination", config.registry)
        pushed.set_string_custom_property("pushed_version", str(published.version))
        pushed.set_string_custom_property("sha256", published.sha256)
        logging.info("%s is version %d in %s.", config.model_name, published.version, config.registry)

    def _metadata(self, model: types.Artifact, blessing: types.Artifact) -> dict[str, Any]:
        """What is said with the version: figures, verdict, override, where it came from; no local paths."""
        context = self._context
        verdict = blessing.get_string_custom_property(artifacts.VERDICT_PROPERTY)
        found = {
            "figures": _json_property(model, artifacts.FIGURES_PROPERTY),
            "verdict": core.without_local_paths(verdict),
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


def _evaluation(
    input_dict: dict[str, list[types.Artifact]], exec_properties: dict[str, Any], content: bytes
) -> Evaluation | None:
    """Returns the evaluation of `content`, without local paths; None when none is wired."""
    found = input_dict.get("evaluation") or []
    if not exec_properties.get(EVALUATION_KEY):
        return None
    if len(found) != 1:
        raise DataError(f"There must be one evaluation of a model that is pushed with one; got {len(found)}.")
    evaluation = core.load_evaluation(found[0].uri)
    core.check_evaluated(evaluation, content)
    return evaluation


def _publish(
    config: PusherConfig,
    content: bytes,
    needs: core.Needs,
    evaluation: Evaluation | None,
    metadata: dict[str, Any],
) -> Published:
    """Publishes with everything there is to say, and reads back; a registry is made at the last moment."""
    said = records.checked_metadata(
        metadata
        | {"runtime": {**dataclasses.asdict(needs), "required_ops": list(needs.required_ops)}}
        | ({"gates": core.gates(evaluation)} if evaluation else {})
    )
    beside = core.attachments(evaluation) if evaluation else {}
    backend = open_registry(config, attachments=bool(beside))
    targeting = config.targeting
    if backend.capabilities.targeting:
        targeting = core.completed(targeting, needs)
    publish = backend.publish
    if isinstance(backend, Registry):
        backend = Registry.open_or_create(config.registry, config.keys or None)
        publish = functools.partial(backend.publish, delta=config.delta)
    published = publish(
        config.model_name,
        content,
        version=config.version,
        variant=config.variant,
        channel=config.channel,
        metadata=said,
        rollout_permille=config.rollout_permille,
        targeting=targeting,
        attachments=beside,
    )
    _check_published(backend, config, published, content)
    if not published.created:
        logging.info(
            "%s holds these bytes already, as version %d; what it says of them and whom it offers them to is "
            "as it was.",
            config.registry,
            published.version,
        )
    return published


def _check_published(backend: Backend, config: PusherConfig, published: Published, content: bytes) -> None:
    """Reads back what phones can fetch now.

    A backend reads back itself when it publishes. Here once more by the way a phone takes, where there is one
    without being a particular phone.
    """
    wanted, found = hashlib.sha256(content).hexdigest(), published.sha256
    if found == wanted and not scheme_of(published.uri):
        found = hashlib.sha256(Path(published.uri).read_bytes()).hexdigest()
    elif found == wanted and config.rollout_permille == EVERYONE_PERMILLE:
        resolved = backend.resolve(config.model_name, config.channel)
        if (resolved.version, resolved.variant) == (published.version, published.variant):
            found = hashlib.sha256(resolved.content).hexdigest()
        elif published.created and resolved.version < published.version:
            raise RegistryError(
                f"Channel '{config.channel}' of '{config.model_name}' must give version {published.version}, "
                f"which was published to {config.registry}; it gives {resolved.version}. Publish again."
            )
    if found != wanted:
        raise RegistryError(
            f"Version {published.version} of '{config.model_name}' must hold sha256 {wanted} in "
            f"{config.registry}; it holds {found}. Withdraw it, check the registry and publish again."
        )


def _json_property(artifact: types.Artifact, key: str) -> Any:
    text = artifact.get_string_custom_property(key)
    return jsonable.loads(text, where=f"property '{key}'") if text else {}


def _current(config: PusherConfig) -> str:
    """Returns what the channel holds; where it is nothing or not known, text that was never there before."""
    try:
        backend = open_registry(config, attachments=False)
        held = _held(backend, config.model_name, config.channel)
        if held:
            content = jsonable.dumps([config.model_name, config.channel, *held])
            return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"
    except TfxMobileError as error:
        # The executor meets the same error and fails as components do; a driver would leave no trace.
        logging.warning("What the registry holds is not known: %s", error)
    return f"unknown:{uuid.uuid4()}"


def _held(backend: Backend, model: str, channel: str) -> list[Any]:
    """Returns what a channel offers and since when; nothing when there is no such channel."""
    if not isinstance(backend, Registry):
        try:
            resolved = backend.resolve(model, channel)
        except NothingReleased:
            return []
        events = [dataclasses.asdict(event) for event in backend.history(model, channel)[-1:]]
        return [resolved.version, resolved.variant, resolved.sha256, *events]
    if not backend.root_path.exists() or model not in backend.models():
        return []
    record = backend.channel_records(model).get(channel)
    if record is None or not record.rollouts:
        return []
    versions = backend.versions(model)
    return [record.to_json(), *(one.sha256 for one in versions if one.version == record.version)]
