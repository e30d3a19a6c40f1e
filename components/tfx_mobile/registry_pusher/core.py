"""What goes along with a model: what its file asks of a phone, its gates, its evaluation, and no local path.

Bytes and values in, bytes and values out. Does not read, write or publish.
"""

import dataclasses
import hashlib
import math
import re
from collections.abc import Mapping
from typing import Any

from tfx_mobile.common import inspection, jsonable
from tfx_mobile.common.errors import DataError
from tfx_mobile.registry.targeting import Targeting
from tfx_mobile.size_latency_evaluator import evaluation as evaluations
from tfx_mobile.size_latency_evaluator import page, provenance, stamp
from tfx_mobile.size_latency_evaluator.evaluation import Evaluation

PAGE_NAME, VALUES_NAME = "evaluation.html", "evaluation.json"
_RUNTIME = re.compile(r"(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){0,3}")
# A local path of two parts or more, of which only the last is anybody else's business.
_LOCAL_PATH = re.compile(r"(?:(?<=[\s'\"(=,;])|^)(?:file://)?/(?:[^\s/'\",;:()]+/)+(?=[^\s/'\",;:()]*)")


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a TFLite file asks of a phone.

    Attributes:
      min_runtime_version: Oldest TensorFlow Lite that has all its operators; empty when it does not say.
      required_ops: Custom and TensorFlow Select operators, by name, sorted.
    """

    min_runtime_version: str
    required_ops: tuple[str, ...]


def file_needs(content: bytes) -> Needs:
    """Returns what the file says that it needs.

    Raises:
      DataError: It is no TFLite file, or it is cut or damaged, or its runtime version is no version.
    """
    found = inspection.inspect(content)
    version = found.min_runtime_version.strip()
    if version and not _RUNTIME.fullmatch(version):
        raise DataError(
            "min_runtime_version in a TFLite file must be one to four numbers with dots; got "
            f"{version!r}. Convert the model again."
        )
    operators = {one.name for one in found.operators if one.origin != "built-in"}
    return Needs(version, tuple(sorted(operators)))


def completed(targeting: Targeting, needs: Needs) -> Targeting:
    """Returns the targeting with what the file needs, where the author has not said it.

    Raises:
      ConfigError: An operator's name is none that a device can say that it has; the message names it.
    """
    return dataclasses.replace(
        targeting,
        min_runtime_version=targeting.min_runtime_version or needs.min_runtime_version,
        required_ops=targeting.required_ops or needs.required_ops,
    )


def without_local_paths(text: str) -> str:
    """Returns the text with local paths cut down to their last part."""
    return _LOCAL_PATH.sub("", text)


def publishable(evaluation: Evaluation) -> Evaluation:
    """Returns the evaluation without what only concerns the machine it was made on: its paths."""
    said = dataclasses.replace(evaluation, provenance=provenance.publishable(evaluation.provenance or {}))
    return Evaluation.from_dict(_cleaned(said.to_dict()))


def check_evaluated(evaluation: Evaluation, content: bytes) -> None:
    """Checks that an evaluation is of the file that is pushed.

    Raises:
      DataError: It is of another one, or chose none.
    """
    sha256s = [hashlib.sha256(one).hexdigest() for one in (content, stamp.unstamped(content))]
    wanted = evaluation.candidate(evaluation.chosen).sha256 if evaluation.chosen else ""
    if wanted not in sha256s:
        raise DataError(
            f"The evaluation must be of the file that is pushed, sha256 {sha256s[-1][:12]}; it chose "
            f"{evaluation.chosen or 'none'}, sha256 {wanted[:12] or 'none'}. Wire model, blessing and "
            "evaluation of one evaluator."
        )


def attachments(evaluation: Evaluation) -> dict[str, bytes]:
    """Returns the evaluation's page and values, as files to keep beside the model."""
    values = jsonable.dumps(evaluation.to_dict(), indent=2)
    return {PAGE_NAME: page.page(evaluation).encode(), VALUES_NAME: values.encode()}


def gates(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Returns how the chosen file did at each gate, without floats.

    Each has `gate` (in words), `status`, `waived` and, where there is one, `value_ppm`, `bound_ppm` (what was
    held against the limit) and `limit_ppm`: millionths of the unit that the words name.
    """
    found = []
    for verdict in evaluation.candidate(evaluation.chosen).verdicts if evaluation.chosen else ():
        one: dict[str, Any] = {
            "gate": verdict.gate,
            "status": verdict.status.value,
            "waived": verdict.waived,
        }
        for name in ("value", "bound", "limit"):
            number = getattr(verdict, name)
            if number is not None and math.isfinite(number):
                one[f"{name}_ppm"] = round(1e6 * number)
        found.append(one)
    return found


def load_evaluation(folder: str) -> Evaluation:
    """Reads the evaluation of an artifact, as it may be published.

    Raises:
      DataError: There is none, or it is of another schema version.
    """
    return publishable(evaluations.load_evaluation(folder))


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return without_local_paths(value)
    if isinstance(value, Mapping):
        return {key: _cleaned(item) for key, item in value.items()}
    return [_cleaned(item) for item in value] if isinstance(value, (list, tuple)) else value
