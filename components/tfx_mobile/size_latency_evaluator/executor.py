"""SizeLatencyEvaluator, the executor: unpack, evaluate, write."""

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
from tfx_mobile.size_latency_evaluator import beam as evaluator_beam
from tfx_mobile.size_latency_evaluator import evaluation as evaluations
from tfx_mobile.size_latency_evaluator import measure, report, stamp
from tfx_mobile.size_latency_evaluator.config import EvaluatorConfig
from tfx_mobile.size_latency_evaluator.evaluation import Evaluation

FIRST_RELEASE_PROPERTY = "first_release"


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
          input_dict: `candidates`, `examples`, and `baseline` where there is one.
          output_dict: `model`, `blessing`, `evaluation`.
          exec_properties: `config` as EvaluatorConfig's JSON.

        Raises:
          DataError: The rows, labels or candidates cannot be used.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        config = EvaluatorConfig.from_json(exec_properties["config"])
        source = artifact_utils.get_single_instance(input_dict["candidates"])
        baseline = _baseline(input_dict.get("baseline") or [])
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

        found = measure.evaluate(
            Path(source.uri),
            config,
            predict,
            baseline=_tflite(baseline) if baseline else None,
            first_release=baseline is None,
        )
        model = artifact_utils.get_single_instance(output_dict["model"])
        run = (self._context.pipeline_run_id if self._context else None) or ""
        _write_model(model, found, Path(source.uri), run)
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
    return None if baseline.get_int_custom_property(FIRST_RELEASE_PROPERTY) == 1 else baseline


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


def _write_model(model: types.Artifact, found: Evaluation, source: Path, pipeline_run: str) -> None:
    folder = Path(path_utils.serving_model_dir(model.uri))
    folder.mkdir(parents=True, exist_ok=True)
    model.set_string_custom_property(artifacts.FIGURES_PROPERTY, evaluations.figures(found))
    if found.chosen:
        content = candidates.model_path(source, found.chosen).read_bytes()
        files.write_atomically(folder / artifacts.TFLITE_FILE, stamp.stamp(content, found, pipeline_run))


def _write_evaluation(evaluation: types.Artifact, found: Evaluation) -> None:
    folder = Path(evaluation.uri)
    files.write_atomically(folder / evaluations.REPORT_FILE, report.render(found).encode())
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
    blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY, model.id)
    if baseline is not None:
        blessing.set_string_custom_property(constants.ARTIFACT_PROPERTY_BASELINE_MODEL_URI_KEY, baseline.uri)
        blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BASELINE_MODEL_ID_KEY, baseline.id)
    blessing.set_string_custom_property(artifacts.VERDICT_PROPERTY, evaluations.verdict_line(found))
    blessing.set_int_custom_property(
        constants.ARTIFACT_PROPERTY_BLESSED_KEY,
        constants.BLESSED_VALUE if found.blessed else constants.NOT_BLESSED_VALUE,
    )
    name = constants.BLESSED_FILE_NAME if found.blessed else constants.NOT_BLESSED_FILE_NAME
    files.write_atomically(Path(blessing.uri) / name, b"")
