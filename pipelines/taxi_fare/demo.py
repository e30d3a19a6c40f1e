"""Runs the pipeline with the local runner and prints a short, readable result.

Fetches the pushed model from the registry as a phone would, which is also the check that it can be had.
"""

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from taxi_fare import baselines, pipeline
from taxi_fare.baselines import Baselines
from taxi_fare.data import EVAL_SPLIT, TRAIN_SPLIT, Data
from taxi_fare.example_gen import FILTERED_FILE
from tfx_mobile.common import artifacts, files, jsonable
from tfx_mobile.common.errors import RegistryError
from tfx_mobile.dimensionality_reducer.report import PAGE_FILE as REDUCTION_PAGE
from tfx_mobile.orchestration import local, run_log
from tfx_mobile.pruning_trainer.page import PAGE_FILE as TRAINING_PAGE
from tfx_mobile.registry.client import Client, Fetched
from tfx_mobile.registry.store import Registry
from tfx_mobile.size_latency_evaluator import evaluation as evaluations
from tfx_mobile.size_latency_evaluator.config import Gate
from tfx_mobile.size_latency_evaluator.evaluation import Evaluation, Verdict

_BASELINES_FILE = "baselines.json"


def run(
    source: Data,
    *,
    feature_set: str,
    epochs: int,
    gates: tuple[Gate, ...],
    workspace: Path,
    log_file: Path,
    metadata_url: str | None = None,
) -> int:
    """Runs the pipeline and prints what came out.

    Args:
      source: The rows.
      feature_set: 'engineered' or 'raw'.
      epochs: Of the dense model, at most.
      gates: Added to the pipeline's own.
      workspace: For artifacts, metadata and registry.
      log_file: For everything TFX says.
      metadata_url: A database in place of a file in the workspace.

    Returns:
      0 when the model is in the registry, 1 when no candidate passed the gates.
    """
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(f"Data: {source.name}")
    registry = workspace / "registry"
    result = local.run(
        pipeline.create_pipeline(
            source,
            registry=registry,
            feature_set=feature_set,
            epochs=epochs,
            gates=(*pipeline.DEFAULT_GATES, *gates),
            **local.local_settings(workspace, metadata_url=metadata_url),
        ),
        log_file=log_file,
    )
    examples = result.outputs["ExampleGen"]["examples"][0].uri
    found = evaluations.load_evaluation(result.outputs["SizeLatencyEvaluator"]["evaluation"][0].uri)
    _print_rows(console, Path(examples))
    _print_candidates(console, found)
    _print_verdict(console, found)
    _print_baseline(console, result.outputs["RegistryModel"]["model"][0].properties)
    with run_log.everything_to(log_file):
        others = _baselines(examples, workspace / _BASELINES_FILE)
    _print_comparison(console, found, others)
    report = Path(result.outputs["SizeLatencyEvaluator"]["evaluation"][0].uri) / evaluations.REPORT_FILE
    reduction = Path(result.outputs["DimensionalityReducer"]["reduction"][0].uri) / REDUCTION_PAGE
    console.print(f"\nReport    {report}", soft_wrap=True)
    console.print(f"Reduction {reduction}", soft_wrap=True)
    training = Path(result.outputs["PruningTrainer"]["model_run"][0].uri) / TRAINING_PAGE
    console.print(f"Training  {training}", soft_wrap=True)
    if not found.blessed:
        console.print("Registry  nothing pushed: no candidate passed every gate", style="bold red")
        return 1
    pushed = result.outputs["RegistryPusher"]["pushed_model"][0].properties
    name = pipeline.model_name(source, feature_set)
    _print_registry(console, registry, name, pushed["pushed_version"], workspace / "phone")
    return 0


def _print_rows(console: Console, examples: Path) -> None:
    for split, counts in json.loads((examples / FILTERED_FILE).read_text()).items():
        dropped = {reason: count for reason, count in counts.items() if reason != "kept"}
        text = ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "none"
        console.print(f"Rows, {split}: {counts['kept']:,} kept; dropped: {text}")


def _print_candidates(console: Console, found: Evaluation) -> None:
    table = Table(
        title=f"Candidates, on {found.eval_rows:,} rows of split '{found.eval_split}'", title_justify="left"
    )
    table.add_column("candidate")
    for heading in ("RMSE", "MAE", "bytes", "gz bytes", "latency", "vs float32"):
        table.add_column(heading, justify="right")
    table.add_column("verdict", overflow="fold")
    for row in evaluations.summary_rows(found):
        ratio = f"x{row.ratio.estimate:.2f}" if row.ratio else "-"
        table.add_row(
            f"{row.name} *" if row.chosen else row.name,
            *(f"{row.metrics[name]:.3f}" if name in row.metrics else "-" for name in ("rmse", "mae")),
            f"{row.size_bytes:,}",
            f"{row.gz_size_bytes:,}",
            f"{row.latency_p50_us:.1f} us" if row.latency_p50_us is not None else "-",
            ratio,
            row.verdict,
            style="bold green" if row.chosen and found.blessed else "" if row.passes else "dim",
        )
    console.print()
    console.print(table)


def _print_verdict(console: Console, found: Evaluation) -> None:
    style = "bold green" if found.blessed else "bold red"
    console.print(f"\n{'BLESSED' if found.blessed else 'NOT_BLESSED'}: {found.reason}", style=style)
    if not found.chosen:
        return
    for verdict in found.candidate(found.chosen).verdicts:
        console.print(verdict_line(verdict))


def verdict_line(verdict: Verdict) -> str:
    """Returns how the chosen file did at one gate."""
    if verdict.waived:
        return f"  waived {verdict.gate}: nothing was released yet"
    value = "-" if verdict.value is None else _shown(verdict.value)
    bound = "" if verdict.bound is None else f" (95 % bound {_shown(verdict.bound)})"
    margin = "-" if verdict.margin is None else _shown(verdict.margin)
    sign = "+" if verdict.margin is not None and verdict.margin >= 0 else ""
    return f"  {verdict.status.value:<6} {verdict.gate}: got {value}{bound}, margin {sign}{margin}"


def _print_baseline(console: Console, properties: dict[str, Any]) -> None:
    if properties[artifacts.FIRST_RELEASE_PROPERTY]:
        console.print(f"\nBaseline: none, a first release: {properties[artifacts.REASON_PROPERTY]}.")
    else:
        console.print(f"\nBaseline: version {properties['version']}, which phones run now.")


def _print_comparison(console: Console, found: Evaluation, others: Baselines) -> None:
    if not found.chosen or not found.candidate(found.chosen).metrics:
        return
    metrics = found.candidate(found.chosen).metrics or {}
    console.print(
        f"\nRMSE {metrics['rmse']:.2f} against {others.mean_rmse:.2f} for the mean fare "
        f"({_better(metrics['rmse'], others.mean_rmse)}) and {others.linear_rmse:.2f} for a linear model "
        f"on raw features ({_better(metrics['rmse'], others.linear_rmse)})."
    )
    console.print(
        f"MAE  {metrics['mae']:.2f} against {others.mean_mae:.2f} "
        f"({_better(metrics['mae'], others.mean_mae)}) and {others.linear_mae:.2f} "
        f"({_better(metrics['mae'], others.linear_mae)})."
    )


def _shown(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _better(value: float, other: float) -> str:
    share = 1 - value / other
    return f"{abs(share):.0%} {'lower' if share >= 0 else 'higher'}"


def _baselines(examples: str, kept: Path) -> Baselines:
    """Measures the baselines, once for the same examples."""
    if kept.exists():
        content = json.loads(kept.read_text())
        if content["examples"] == examples:
            return Baselines.from_dict(content["baselines"])
    found = baselines.measure(*([f"{examples}/Split-{split}/*"] for split in (TRAIN_SPLIT, EVAL_SPLIT)))
    content = {"examples": examples, "baselines": found.to_dict()}
    files.write_atomically(kept, jsonable.dumps(content, indent=2).encode())
    return found


def _print_registry(console: Console, registry: Path, name: str, version: str, cache: Path) -> None:
    fetched = _fetch(registry, name, int(version), cache)
    console.print(
        f"Registry  {registry}: '{name}' version {version}, "
        f"sha256 {fetched.sha256[:16]}..., fetched and verified",
        soft_wrap=True,
    )
    console.print(
        f"Fetch it as a phone does:\n  .venv/bin/tfx-mobile registry fetch {name} "
        f"--from {_relative(registry)} --to {name}.tflite\nLook at what is in it:\n"
        f"  .venv/bin/tfx-mobile registry serve {_relative(registry)}",
        soft_wrap=True,
    )


def _fetch(registry: Path, name: str, version: int, cache: Path) -> Fetched:
    if not (registry / "metadata").is_dir():
        raise RegistryError(
            f"The registry must hold version {version} of '{name}', pushed by an earlier run; "
            f"{registry} is gone. Remove {registry.parent} as well to start over."
        )
    client = Client(str(registry), root=Registry(registry).root_path, cache=cache)
    return client.fetch(name, version=version)


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
