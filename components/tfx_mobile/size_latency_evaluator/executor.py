"""SizeLatencyEvaluator, the executor: unpack, evaluate, write."""

import dataclasses
import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfx import types
from tfx.components.evaluator import constants
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils
from tfx.utils import path_utils

from tfx_mobile.common import artifacts, candidates, files, jsonable, tflite_metadata
from tfx_mobile.common.errors import DataError
from tfx_mobile.common.releases import Release
from tfx_mobile.size_latency_evaluator import beam as evaluator_beam
from tfx_mobile.size_latency_evaluator import evaluation as evaluations
from tfx_mobile.size_latency_evaluator import measure, page, provenance, stamp, summary
from tfx_mobile.size_latency_evaluator.config import EvaluatorConfig
from tfx_mobile.size_latency_evaluator.evaluation import Evaluation

UPSTREAM_KEY = "needs_upstream_blessing"


class Executor(base_beam_executor.BaseBeamExecutor):
    """Evaluates the candidates, predicting on Beam, and writes model, blessing and evaluation."""

    def Do(  # noqa: N802 - TFX's name
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Measures, judges, chooses and writes.

        Args:
          input_dict: `candidates`, `examples`, and `baseline` and `upstream_blessing` where there are.
          output_dict: `model`, `blessing`, `evaluation`.
          exec_properties: `config` as EvaluatorConfig's JSON.

        Raises:
          DataError: The rows, labels or candidates cannot be used.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        config = EvaluatorConfig.from_json(exec_properties["config"])
        source = artifact_utils.get_single_instance(input_dict["candidates"])
        baseline = _baseline(input_dict.get("baseline") or [])
        history = _history(baseline)
        # The split is looked up before anything is measured: a wrong name must not cost the measuring.
        patterns = artifacts.split_pattern(input_dict["examples"], config.eval_split)

        missing = _missing_values(Path(source.uri))

        def predict(paths: Mapping[str, Path]) -> evaluator_beam.Predictions:
            return evaluator_beam.predict(
                paths,
                config,
                patterns=patterns,
                missing=missing,
                make_pipeline=self._make_beam_pipeline,
                folder=self._get_tmp_dir(),
            )

        with tempfile.TemporaryDirectory(prefix="tfx_mobile_baseline_") as work:
            found = measure.evaluate(
                Path(source.uri),
                config,
                predict,
                baseline=stamp.unstamped_file(_tflite(baseline), Path(work)) if baseline else None,
                first_release=baseline is None,
            )
        found = dataclasses.replace(
            found,
            history=history,
            provenance=provenance.collect(
                self._context, input_dict, exec_properties, patterns, found.machine.target
            ),
        )
        if exec_properties.get(UPSTREAM_KEY):
            found = _with_upstream(found, input_dict.get("upstream_blessing") or [])
        model = artifact_utils.get_single_instance(output_dict["model"])
        run = (self._context.pipeline_run_id if self._context else None) or ""
        _write_model(model, found, Path(source.uri), run, baseline)
        _write_evaluation(artifact_utils.get_single_instance(output_dict["evaluation"]), found)
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        _write_blessing(blessing, found, model, baseline, self._component_id())

    def _component_id(self) -> str:
        node = self._context.pipeline_node if self._context else None
        return str(node.node_info.id) if node else "SizeLatencyEvaluator"


def _baseline(found: list[types.Artifact]) -> types.Artifact | None:
    """Returns the baseline artifact; None for a first release."""
    if not found:
        return None
    baseline = artifact_utils.get_single_instance(found)
    if baseline.get_int_custom_property(artifacts.FIRST_RELEASE_PROPERTY) == 1:
        return None
    path, signed = _tflite(baseline), baseline.get_string_custom_property("sha256")
    got = hashlib.sha256(path.read_bytes()).hexdigest() if signed and path.is_file() else signed
    if got != signed:
        raise DataError(
            f"Baseline must have sha256 {signed[:12]}, which the registry signed; got {got[:12]} at {path}. "
            "Remove its folder and run the pipeline again."
        )
    return baseline


def _history(baseline: types.Artifact | None) -> tuple[Release, ...]:
    text = baseline.get_string_custom_property(artifacts.HISTORY_PROPERTY) if baseline else ""
    where = f"property '{artifacts.HISTORY_PROPERTY}'"
    return tuple(Release.from_dict(one) for one in jsonable.loads(text, where=where)) if text else ()


def _with_upstream(found: Evaluation, blessings: list[types.Artifact]) -> Evaluation:
    """Returns the evaluation, refused where the upstream blessing is: an override is for our gates only."""
    refusal = artifacts.blessing_refusal(blessings)
    if not refusal:
        return found
    reason = (
        f"The upstream blessing is needed and refused: {refusal.rstrip('.')}. Apart from it: {found.reason}"
    )
    return dataclasses.replace(found, blessed=False, overridden=False, reason=reason)


def _missing_values(source: Path) -> dict[str, Any]:
    """Returns what stands for missing values in the candidates' inputs, as the reference file says."""
    reference = candidates.model_path(source, candidates.read(source).reference)
    metadata = tflite_metadata.read(reference.read_bytes()) if reference.exists() else None
    return tflite_metadata.missing_values(metadata) if metadata else {}


def _tflite(model: types.Artifact) -> Path:
    """Returns the baseline's file, or where it should be: a missing one fails the gates that need it."""
    try:
        return artifacts.tflite_file(model)
    except DataError:
        return artifacts.serving_folder(model) / artifacts.TFLITE_FILE


def _write_model(
    model: types.Artifact,
    found: Evaluation,
    source: Path,
    pipeline_run: str,
    baseline: types.Artifact | None,
) -> None:
    folder = Path(path_utils.serving_model_dir(model.uri))
    folder.mkdir(parents=True, exist_ok=True)
    model.set_string_custom_property(artifacts.FIGURES_PROPERTY, evaluations.figures(found))
    model.set_string_custom_property(
        artifacts.PROVENANCE_PROPERTY, jsonable.dumps(provenance.publishable(found.provenance or {}))
    )
    if found.chosen:
        content = candidates.model_path(source, found.chosen).read_bytes()
        released = _tflite(baseline) if baseline else None
        files.write_atomically(
            folder / artifacts.TFLITE_FILE, stamp.stamp(content, found, pipeline_run, released=released)
        )


def _write_evaluation(evaluation: types.Artifact, found: Evaluation) -> None:
    folder = Path(evaluation.uri)
    files.write_atomically(folder / evaluations.REPORT_FILE, page.page(found).encode())
    files.write_atomically(folder / summary.SUMMARY_FILE, summary.render(found).encode())
    content = jsonable.dumps(found.to_dict(), indent=2)
    files.write_atomically(folder / evaluations.EVALUATION_FILE, content.encode())


def _write_blessing(
    blessing: types.Artifact,
    found: Evaluation,
    model: types.Artifact,
    baseline: types.Artifact | None,
    component_id: str,
) -> None:
    """Writes what the stock Pusher and Resolver read; the `blessed` property and its file go last."""
    blessing.set_string_custom_property("component_id", component_id)
    blessing.set_string_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_URI_KEY, model.uri)
    if model.id:  # most runners give it when the execution is over: see BlessingWithModelId
        blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY, model.id)
    if baseline is not None:
        blessing.set_string_custom_property(constants.ARTIFACT_PROPERTY_BASELINE_MODEL_URI_KEY, baseline.uri)
        blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BASELINE_MODEL_ID_KEY, baseline.id)
    blessing.set_string_custom_property(artifacts.VERDICT_PROPERTY, evaluations.verdict_line(found))
    if found.overridden and found.override:
        blessing.set_string_custom_property(artifacts.OVERRIDE_PROPERTY, found.override.to_json())
    blessing.set_int_custom_property(
        constants.ARTIFACT_PROPERTY_BLESSED_KEY,
        constants.BLESSED_VALUE if found.blessed else constants.NOT_BLESSED_VALUE,
    )
    name = constants.BLESSED_FILE_NAME if found.blessed else constants.NOT_BLESSED_FILE_NAME
    files.write_atomically(Path(blessing.uri) / name, b"")
