"""Artifact types of our own, and how to find what is inside standard ones.

Only the ladder, the candidates and the reduction have no standard type. They carry no PROPERTIES and an
importable `module.Class` name, because Kubeflow Pipelines compiles no others.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from tfx import types
from tfx.components.evaluator import constants
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.utils import path_utils

from tfx_mobile.common.errors import DataError

TFLITE_FILE = "tflite"  # the name TFMA and the stock Evaluator look for
# Custom properties by which components tell one another, and the runner, what they found.
FIGURES_PROPERTY = "figures"
VERDICT_PROPERTY = "verdict"
OVERRIDE_PROPERTY = "override"
PROVENANCE_PROPERTY = "provenance"
HISTORY_PROPERTY = "history"
FIRST_RELEASE_PROPERTY = "first_release"
REASON_PROPERTY = "reason"


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


def blessing_refusal(found: Sequence[types.Artifact]) -> str:
    """Returns why a blessing says no; empty when it says yes.

    None, two, one that says neither, one whose folder is gone or says the opposite: all of them say no.

    Args:
      found: What came through the channel: ours, the stock Evaluator's, or one with the same properties.
    """
    if len(found) != 1:
        return f"there must be one blessing; got {len(found)}."
    (blessing,) = found
    key = constants.ARTIFACT_PROPERTY_BLESSED_KEY
    if not blessing.has_custom_property(key):
        return f"a blessing must have the custom property '{key}'; got none in {blessing.uri}."
    if blessing.get_int_custom_property(key) != constants.BLESSED_VALUE:
        return blessing.get_string_custom_property(VERDICT_PROPERTY) or "the blessing says NOT_BLESSED"
    if not fileio.exists(blessing.uri):
        return f"the folder of a blessing must be there; {blessing.uri} is not."
    if fileio.exists(os.path.join(blessing.uri, constants.NOT_BLESSED_FILE_NAME)):
        return f"a blessing must not contradict itself; got '{key}' = 1 and NOT_BLESSED in {blessing.uri}."
    return ""


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
