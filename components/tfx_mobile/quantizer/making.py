"""All candidates of a run, converted side by side in worker processes; a failure costs one candidate.

Decides the order and what a failure is called; conversion.py makes a single one.
"""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from tfx_mobile.common import worker
from tfx_mobile.common.calibration import ScaleStability
from tfx_mobile.common.candidates import Candidate, model_path
from tfx_mobile.common.errors import DataError
from tfx_mobile.common.interpreter import TFLiteModel
from tfx_mobile.common.ladder import Rung, Twin
from tfx_mobile.quantizer import calibration, mixed, runtimes
from tfx_mobile.quantizer.calibration import Scale
from tfx_mobile.quantizer.config import Mode, Quantization, QuantizerConfig

Columns = Mapping[str, npt.NDArray[Any]]

_LOGGER = logging.getLogger(__name__)
_CONVERSION = "tfx_mobile.quantizer.conversion"
_ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}  # what is left says why one died


@dataclass(frozen=True)
class Task:
    """One candidate to make.

    Attributes:
      rung: Of the ladder.
      model: Folder of its SavedModel.
      quantization: How to convert it.
    """

    rung: Rung
    model: Path
    quantization: Quantization

    @property
    def name(self) -> str:
        """Of the candidate."""
        return f"{self.rung.name}-{self.quantization.name}"


def plan(rungs: Sequence[tuple[Rung, Path]], config: QuantizerConfig) -> list[Task]:
    """Returns the candidates to make, in ladder order, then in mode order; the first is the reference."""
    return [
        Task(rung, model, quantization)
        for rung, model in rungs
        for quantization in config.quantizations_of(rung.twin)
    ]


def check_exclusions(tasks: Sequence[Task], kernels: Iterable[str]) -> None:
    """Refuses patterns of `exclude` that name no layer, before anything is converted.

    Args:
      tasks: From `plan`.
      kernels: Names of the model's weights, '<layer>/<weight>'.

    Raises:
      DataError: A pattern names no layer.
    """
    layers = dict.fromkeys(mixed.layer_of(name) for name in kernels)
    for task in tasks:
        mixed.matching(layers, task.quantization.exclude)


def make(
    tasks: Sequence[Task],
    shared: Path,
    folder: Path,
    config: QuantizerConfig,
    finished: Callable[[Candidate], None],
) -> tuple[Candidate, ...]:
    """Makes the candidates and returns them in the order of the tasks, failed ones too.

    Args:
      tasks: From `plan`.
      shared: What `Shared.write` wrote.
      folder: Gets a folder for each candidate that counts.
      config: Of the run.
      finished: Called with each candidate as it is done.

    Raises:
      DataError: The first task's candidate does not count: everything is compared with it.
    """
    jobs = [
        {
            "shared": str(shared),
            "model": str(task.model),
            "rung": dataclasses.replace(task.rung, history=()).to_dict(),
            "quantization": task.quantization.to_dict(),
            "folder": str(folder),
        }
        for task in tasks
    ]
    found: dict[int, Candidate] = {}
    outcomes = worker.run_each(
        f"{_CONVERSION}:make_candidate",
        jobs,
        num_processes=_num_processes(config, len(jobs)),
        timeout_seconds=config.timeout_seconds,
        environment=_ENVIRONMENT,
        num_threads=1,
    )
    with contextlib.closing(outcomes):
        for position, outcome in outcomes:
            candidate = (
                _failed(tasks[position], outcome)
                if isinstance(outcome, Exception)
                else Candidate.from_dict(outcome)
            )
            if position == 0 and candidate.failure:
                raise DataError(_reference_needed(candidate.failure))
            found[position] = candidate
            finished(candidate)
    return tuple(found[i] for i in range(len(tasks)))


def scale_stability(tasks: Sequence[Task], shared: Path, config: QuantizerConfig) -> ScaleStability | None:
    """Converts the dense model to int8 with each half of the representative rows and compares the scales.

    Returns:
      None when no candidate takes its ranges from the rows, or the converter refuses int8.
    """
    integer = (Mode.INT8, Mode.INT16X8)
    if all(t.quantization.mode not in integer or t.rung.twin is Twin.QUANTIZATION_AWARE for t in tasks):
        return None
    outcomes = worker.run_each(
        f"{_CONVERSION}:activation_scales",
        [{"shared": str(shared), "model": str(tasks[0].model), "half": half} for half in (0, 1)],
        num_processes=_num_processes(config, 2),
        timeout_seconds=config.timeout_seconds,
        environment=_ENVIRONMENT,
        num_threads=1,
    )
    halves: dict[int, dict[str, Scale]] = {}
    with contextlib.closing(outcomes):
        for half, outcome in outcomes:
            if isinstance(outcome, Exception):
                _LOGGER.warning("The ranges of two halves of the rows cannot be compared: %s", _line(outcome))
                return None
            halves[half] = {name: Scale(**scale) for name, scale in outcome.items()}
    try:
        return calibration.compare_scales(halves[0], halves[1])
    except DataError as error:  # the halves gave other operators: nothing to compare one by one
        _LOGGER.warning("The ranges of two halves of the rows cannot be compared: %s", error)
        return None


def check_runtimes(
    made: Sequence[Candidate], rows: Columns, num_sampled: int, folder: Path, config: QuantizerConfig
) -> tuple[Candidate, ...]:
    """Runs the candidates on the other runtimes; one that does not run there does not count any more.

    Args:
      made: From `make`.
      rows: What the files take, by name: representative rows, then rows at the edges.
      num_sampled: How many of them are representative.
      folder: Of the candidates.
      config: Of the run.

    Raises:
      ConfigError: There is no such interpreter, or none of the runtimes can be imported there.
      DataError: The first candidate does not run: everything is compared with it.
    """
    found = {candidate.name: candidate for candidate in made}
    for runtime in config.runtimes:
        files = {name: model_path(folder, name) for name, one in found.items() if not one.failure}
        ours = {name: TFLiteModel(path).predict(rows) for name, path in files.items()}
        outcomes = runtimes.runs_on(
            runtime, files, rows, ours, num_sampled=num_sampled, timeout_seconds=config.timeout_seconds
        )
        for name, outcome in outcomes.items():
            if not outcome.failure:
                ran_on = {**found[name].runs_on, runtime.name: outcome.max_abs or 0.0}
                found[name] = dataclasses.replace(found[name], runs_on=ran_on)
                continue
            if name == made[0].name:
                raise DataError(_reference_needed(outcome.failure))
            files[name].unlink()
            found[name] = _blank(found[name], outcome.failure)
    return tuple(found.values())


def _reference_needed(failure: str) -> str:
    rule = "The dense float32 model must convert and run, because everything is compared with it"
    return f"{rule}; {failure.rstrip('.')}."


def _failed(task: Task, error: Exception) -> Candidate:
    sparsity_fraction = task.rung.sparsity_fraction
    return Candidate(task.name, task.rung.name, task.quantization.name, sparsity_fraction, _line(error))


def _blank(made: Candidate, failure: str) -> Candidate:
    """Returns a candidate without its file and what was measured of it."""
    return Candidate(made.name, made.rung, made.mode, made.sparsity_fraction, failure)


def _line(error: Exception) -> str:
    """Returns an error's first line: what follows in a worker's is its traceback."""
    return " ".join(str(error).partition("\n")[0].split())


def _num_processes(config: QuantizerConfig, num_jobs: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(config.num_processes or cores, num_jobs))
