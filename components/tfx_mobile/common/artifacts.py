"""Artifact types of our own, and how to find what is inside standard ones.

Only the ladder, the candidates and the reduction have no standard type. They carry no PROPERTIES and an
importable `module.Class` name, because Kubeflow Pipelines compiles no others.
"""

from pathlib import Path

from tfx import types
from tfx.types import artifact_utils
from tfx.utils import path_utils

from tfx_mobile.common.errors import DataError

TFLITE_FILE = "tflite"  # the name TFMA and the stock Evaluator look for
# Custom properties by which the evaluator tells the pusher and the runner what it found.
FIGURES_PROPERTY = "figures"
VERDICT_PROPERTY = "verdict"


class ModelLadder(types.Artifact):
    """Models of one training at rising sparsity: `ladder.json` and one Keras SavedModel per rung."""

    TYPE_NAME = "tfx_mobile.ModelLadder"


class ModelCandidates(types.Artifact):
    """TFLite files to choose from: `candidates.json` and one folder per candidate."""

    TYPE_NAME = "tfx_mobile.ModelCandidates"


class Reduction(types.Artifact):
    """What a dimensionality reduction did: `reduction.json`, and `reduction.html` to look at."""

    TYPE_NAME = "tfx_mobile.Reduction"


def split_pattern(examples: list[types.Artifact], split: str) -> list[str]:
    """Returns the file patterns that hold the split's rows.

    Args:
      examples: One or more Examples artifacts.
      split: For example 'train'.

    Raises:
      DataError: The artifact has no such split.
    """
    for artifact in examples:
        known = artifact_utils.decode_split_names(artifact.split_names)
        if split not in known:
            raise DataError(
                f"Examples must have the split {split!r}; got {', '.join(known) or 'none'} in {artifact.uri}."
            )
    return [f"{uri}/*" for uri in artifact_utils.get_split_uris(examples, split)]


def serving_folder(model: types.Artifact) -> Path:
    """Returns the `Format-Serving` folder of a Model artifact."""
    return Path(path_utils.serving_model_path(model.uri))


def tflite_file(model: types.Artifact) -> Path:
    """Returns the TFLite file of a Model artifact: `Format-Serving/tflite`, or the one `*.tflite` there.

    Raises:
      DataError: There is none, or more than one.
    """
    folder = serving_folder(model)
    found = [folder / TFLITE_FILE] if (folder / TFLITE_FILE).exists() else sorted(folder.glob("*.tflite"))
    if len(found) != 1:
        names = ", ".join(path.name for path in sorted(folder.glob("*"))) or "nothing"
        raise DataError(
            f"A model for phones must have one TFLite file, '{TFLITE_FILE}' or '*.tflite'; "
            f"got {names} in {folder}."
        )
    return found[0]
