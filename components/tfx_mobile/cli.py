"""The command line: `tfx-mobile ...`.

One function per sub-command, each importing what it needs when it runs, so that `--help` is quick. Prints
results on stdout, notes and errors on stderr; exit status 2 for an error that has a message. Decides nothing
itself: what a command does is in the module that it calls.
"""

import argparse
import dataclasses
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfx_mobile import __version__
from tfx_mobile.common import printing
from tfx_mobile.common.errors import ConfigError, DataError, TfxMobileError
from tfx_mobile.registry import commands as registry_commands

if TYPE_CHECKING:
    from tfx_mobile.common.inspection import Inspection, Tensor

_MAX_PARTS, _MAX_NAME = 8, 60  # of each kind, and letters, that `inspect` prints; --json has all

_Command = Callable[[argparse.Namespace], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      argv: The arguments after the program's name; None takes those of the process.

    Returns:
      The exit status: 0, or 2 with one line on stderr.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except TfxMobileError as error:
        print(f"{parser.prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "tfx_mobile"):
            raise
        print(
            f"{parser.prog}: error: This command needs the package '{package}'; it is not installed here. "
            "Run it where tfx-mobile was installed with its dependencies, such as the checkout's .venv.",
            file=sys.stderr,
        )
        return 2
    except BrokenPipeError:  # `tfx-mobile registry list ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tfx-mobile", description="Small, fast, signed TFLite models from a TFX pipeline to phones."
    )
    parser.add_argument("--version", action="version", version=f"tfx-mobile {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    registry_commands.add_commands(commands)
    _add_inspect(commands)
    _add_bench(commands)
    _add_report(commands)
    _add_compile(commands)
    _add_deploy(commands)
    return parser


# inspect


def _add_inspect(commands: Any) -> None:
    text = "Show what a TFLite file is made of: signatures, operators, metadata, and where its bytes go."
    parser = commands.add_parser("inspect", help="show what a TFLite file is made of", description=text)
    parser.set_defaults(run=_inspect)
    parser.add_argument("file", type=Path, metavar="FILE", help="any TFLite file")
    parser.add_argument("--tensors", action="store_true", help="list every tensor, too")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def _inspect(arguments: argparse.Namespace) -> None:
    from tfx_mobile.common.inspection import inspect

    try:
        content = arguments.file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"FILE must be a file that can be read; {arguments.file}: {error.strerror}."
        ) from error
    found = inspect(content)
    if arguments.json:
        printing.print_json({"file": str(arguments.file), **found.to_dict()})
        return
    facts = {
        "file": str(arguments.file),
        "size": f"{found.size_bytes:,} bytes, {found.gz_size_bytes:,} after gzip -9",
        "needs": f"TensorFlow Lite {found.min_runtime_version}" if found.min_runtime_version else "",
        "description": found.description,
        **{f"converter {key}": value for key, value in found.conversion.items()},
    }
    printing.print_table([[key, value] for key, value in facts.items() if value])
    _print_signatures(found)
    printing.print_title(
        "operators", f"{sum(op.count for op in found.operators)} in {found.num_subgraphs} subgraphs"
    )
    rows = [[f"  {op.name}", op.origin, f"version {op.version}", f"{op.count}"] for op in found.operators]
    printing.print_table(rows)
    _print_metadata(found)
    if arguments.tensors:
        printing.print_title("tensors", f"{len(found.tensors)}")
        rows = [[f"  {tensor.subgraph}.{tensor.index}", *_tensor(tensor)] for tensor in found.tensors]
        printing.print_table([["  INDEX", "NAME", "TYPE", "BYTES", "QUANTISATION", "ZEROS"], *rows])
    _print_breakdown(found)


def _print_signatures(found: "Inspection") -> None:
    for signature in found.signatures:
        printing.print_title(
            "signature", repr(signature.name) if signature.name else "none; its inputs and outputs:"
        )
        rows = []
        for side, tensors in (("in", signature.inputs), ("out", signature.outputs)):
            for name, tensor in tensors.items():
                _, kind, _, quantization, _ = _tensor(tensor)
                rows.append([f"  {side}", name, kind, quantization])
        printing.print_table(rows)


def _print_metadata(found: "Inspection") -> None:
    if not found.metadata:
        return
    printing.print_title(
        "metadata", ", ".join(f"{name} ({size:,} bytes)" for name, size in found.metadata.items())
    )
    metadata = found.model_metadata or found.standard_metadata
    if metadata is None:
        return
    facts, features = [], []
    for key, value in dataclasses.asdict(metadata).items():
        if key in ("inputs", "outputs", "label"):
            features += [[f"  {key}", *_feature(entry)] for entry in (value if key != "label" else [value])]
        elif value:
            facts += printing.flat(value, key)
    printing.print_table([[f"  {key}", " ".join(str(value).split())] for key, value in facts])
    printing.print_table(features)


def _feature(entry: dict[str, Any]) -> list[str]:
    missing = entry.get("missing")
    note = "" if missing is None else f"missing: {missing!r}"
    return [entry["name"], entry.get("unit", ""), note, entry["description"]]


def _print_breakdown(found: "Inspection") -> None:
    printing.print_title("breakdown", f"{found.explained_fraction:.2%} of the bytes explained")
    rows = [["  KIND", "NAME", "TYPE", "BYTES", "SHARE", "GZ BYTES", "SHARE"]]
    for total in found.by_kind():
        parts = [part for part in found.breakdown if part.kind == total.kind]
        shown = parts[:_MAX_PARTS] if parts[0].name else []
        for part in (total, *shown):
            name = _shortened(part.name) or f"({len(parts)})"
            rows.append([f"  {part.kind}" if part is total else "", name, part.dtype, *_shares(part, found)])
        if left := parts[_MAX_PARTS:]:
            rest = dataclasses.replace(
                total,
                size_bytes=sum(part.size_bytes for part in left),
                gz_share_bytes=sum(part.gz_share_bytes for part in left),
            )
            rows.append(["", f"{len(left)} more", "", *_shares(rest, found)])
    printing.print_table(rows)


def _shortened(name: str) -> str:
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 3]}..."


def _shares(part: Any, found: "Inspection") -> list[str]:
    gz = part.gz_share_bytes
    return [
        f"{part.size_bytes:>9,}",
        f"{part.size_bytes / found.size_bytes:>6.1%}",
        f"{gz:>9,.0f}",
        f"{gz / found.gz_size_bytes:>6.1%}",
    ]


def _tensor(tensor: "Tensor") -> list[str]:
    """Returns a tensor's name, type and shape, bytes, quantisation and zeros as text."""
    shape = ", ".join("?" if extent < 0 else str(extent) for extent in tensor.shape)
    quantization = zeros = ""
    if (found := tensor.quantization) is not None:
        scales = f"{found.num_scales} along axis {found.axis}, first " if found.num_scales > 1 else ""
        quantization = found.details or f"scale {scales}{found.scale:.6g}, zero point {found.zero_point}"
    if tensor.zeros_fraction is not None:
        zeros = f"{tensor.zeros_fraction:.1%}"
    if tensor.stored_fraction is not None:
        zeros += f", sparse: {tensor.stored_fraction:.1%} stored"
    size = f"{tensor.size_bytes:,}" if tensor.size_bytes else ""
    return [_shortened(tensor.name), f"{tensor.dtype}[{shape}]", size, quantization, zeros]


# bench


def _add_bench(commands: Any) -> None:
    text = "Time TFLite files against the first of them: interleaved, in five fresh processes."
    parser = commands.add_parser("bench", help="time TFLite files against each other", description=text)
    parser.set_defaults(run=_bench)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="any TFLite file")
    parser.add_argument(
        "--rows", type=Path, metavar="FILE.csv", help="rows to call with (default: made up from the file)"
    )
    parser.add_argument(
        "--target", default="local", metavar="TARGET", help="local (default) or ssh:[user@]host[:port]"
    )
    parser.add_argument("--python", default="python3", help="the target's Python (default: python3)")
    parser.add_argument("--processes", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument(
        "--seconds", type=float, default=1.5, metavar="S", help="of calls in each process (default: 1.5)"
    )
    parser.add_argument("--instructions", action="store_true", help="count them with callgrind, too: slow")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def _bench(arguments: argparse.Namespace) -> None:
    from tfx_mobile.size_latency_evaluator import bench, targets
    from tfx_mobile.size_latency_evaluator.config import LatencyConfig, SshTarget

    target = targets.parse_target(arguments.target)
    if isinstance(target, SshTarget):
        target = dataclasses.replace(target, python=arguments.python)
    config = LatencyConfig(
        processes=(arguments.processes,),
        seconds_per_process=arguments.seconds,
        count_instructions=arguments.instructions,
        target=target,
    )
    found = bench.compare(arguments.files, config, rows=arguments.rows)
    if arguments.json:
        printing.print_json(found.to_dict())
    else:
        printing.print_table(bench.table(found))
        printing.print_title("machine", bench.machine_line(found))
        for line in found.sentences:
            print(line)
    if failed := [f"{file.file}: {file.failure}" for file in found.files if file.failure]:
        sys.stdout.flush()
        raise DataError(f"Every file must be measured; {len(failed)} was not: {'; '.join(failed)}")


# report


def _add_report(commands: Any) -> None:
    text = "Open the page of an evaluation, or print it."
    parser = commands.add_parser("report", help="open or export the page of an evaluation", description=text)
    parser.set_defaults(run=_report)
    parser.add_argument(
        "place",
        type=Path,
        metavar="FOLDER",
        help="an evaluation artifact, or a folder above, such as a workspace: then the newest one in it",
    )
    parser.add_argument("--no-open", action="store_true", help="only say where the page is")
    parser.add_argument("--export", type=Path, metavar="FILE.html", help="copy the page, and do not open it")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--markdown", action="store_true", help="print the summary for a pull request")
    shown.add_argument("--json", action="store_true", help="print evaluation.json")


def _report(arguments: argparse.Namespace) -> None:
    from tfx_mobile.common.files import write_atomically
    from tfx_mobile.size_latency_evaluator import evaluation as evaluations
    from tfx_mobile.size_latency_evaluator import summary

    folder = evaluations.newest_folder(arguments.place)
    found = evaluations.load_evaluation(folder)
    page = folder / evaluations.REPORT_FILE
    if not page.is_file():
        raise DataError(
            f"An evaluation artifact must hold {page.name}; got none in {folder}. Run the evaluation again."
        )
    if arguments.export is not None:
        try:
            write_atomically(arguments.export, page.read_bytes())
        except OSError as error:
            raise ConfigError(
                f"--export must be a file that can be written; {arguments.export}: {error.strerror}."
            ) from error
    if arguments.markdown:
        print(summary.render(found), end="")
        return
    if arguments.json:
        printing.print_json(found.to_dict())
        return
    print(evaluations.verdict_line(found))
    print(arguments.export or page)
    if arguments.export is None and not arguments.no_open:
        _open_page(page)


def _open_page(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        print("tfx-mobile: there is no browser to open it with; open the file by hand", file=sys.stderr)


# compile


def _add_compile(commands: Any) -> None:
    text = "Compile a pipeline for open-source Kubeflow Pipelines 2.x, or for Vertex AI."
    parser = commands.add_parser("compile", help="compile a pipeline for Kubeflow", description=text)
    parser.set_defaults(run=_compile)
    parser.add_argument(
        "pipeline", metavar="MODULE:FUNCTION", help="an importable function that returns the TFX pipeline"
    )
    parser.add_argument("--image", required=True, metavar="IMAGE", help="the tasks' container image")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="default: the pipeline's name with .yaml (Vertex: .json)"
    )
    parser.add_argument(
        "--param", action="append", default=[], metavar="NAME=VALUE", help="the default of a RuntimeParameter"
    )
    mount = "NAME:/PATH:COMPONENT[,COMPONENT...]"
    parser.add_argument(
        "--volume", action="append", default=[], metavar=mount, help="mount a PersistentVolumeClaim"
    )
    parser.add_argument("--secret", action="append", default=[], metavar=mount, help="mount a Secret")
    parser.add_argument("--vertex", action="store_true", help="compile for Vertex AI instead")


def _compile(arguments: argparse.Namespace) -> None:
    # What libraries say of themselves while they are imported would hide what is said of the pipeline.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"google\.")
    from tfx_mobile.orchestration.kubeflow import compiling, resources

    pipeline = compiling.load_pipeline(arguments.pipeline)
    suffix = compiling.VERTEX_SUFFIX if arguments.vertex else compiling.KUBEFLOW_SUFFIX
    mounts: dict[str, list[resources.Mount]] = {}
    for make, given in ((resources.Volume, arguments.volume), (resources.Secret, arguments.secret)):
        for text in given:
            name, path, components = _mount(text)
            for component in components:
                mounts.setdefault(component, []).append(make(name, path))
    found = compiling.compile_pipeline(
        pipeline,
        arguments.output or Path(f"{pipeline.pipeline_name}{suffix}"),
        image=arguments.image,
        parameters=_parameters(arguments.param),
        mounts=mounts,
        vertex=arguments.vertex,
    )
    print(f"{found.path}  {found.pipeline_name}, {len(found.tasks)} tasks")
    for name, value in found.parameters.items():
        print(f"parameter {name}  {'must be given' if value is None else repr(value)}")


def _mount(text: str) -> tuple[str, str, list[str]]:
    parts = text.split(":")
    components = parts[2].split(",") if len(parts) == 3 else []
    if not all(parts) or not components or not all(components):
        raise ConfigError(
            f"A mount must be NAME:/PATH:COMPONENT[,COMPONENT...]; got {text!r}. Write for example "
            "registry:/registry:RegistryModel,RegistryPusher."
        )
    return parts[0], parts[1], components


# deploy


def _add_deploy(commands: Any) -> None:
    text = "Upload a compiled pipeline to Kubeflow Pipelines, start a run of it and wait for its end."
    parser = commands.add_parser("deploy", help="run a compiled pipeline on Kubeflow", description=text)
    parser.set_defaults(run=_deploy)
    parser.add_argument("file", type=Path, metavar="FILE.yaml", help="from `tfx-mobile compile`")
    parser.add_argument("--host", required=True, metavar="URL", help="of KFP's UI or API")
    parser.add_argument(
        "--pipeline-root",
        default="",
        metavar="ROOT",
        help="where artifacts go: gs://, s3:// or minio:// (default: what the server is configured for)",
    )
    parser.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of the run; repeatable",
    )
    parser.add_argument("--name", default="", help="of the pipeline on the server (default: the file's)")
    parser.add_argument("--experiment", default="", help="made on first use (default: the pipeline's name)")
    parser.add_argument("--namespace", default="", help="your profile's, where KFP is multi-user")
    parser.add_argument(
        "--token-env", metavar="NAME", help="the environment variable that holds the bearer token"
    )
    parser.add_argument("--no-wait", action="store_true", help="return once the run has started")
    parser.add_argument(
        "--timeout", type=float, default=float("inf"), metavar="S", help="seconds to wait (default: no limit)"
    )
    parser.add_argument(
        "--interval", type=float, default=5.0, metavar="S", help="seconds between two looks (default: 5)"
    )


def _deploy(arguments: argparse.Namespace) -> None:
    from tfx_mobile.orchestration.kubeflow import deploying

    token = os.environ.get(arguments.token_env, "") if arguments.token_env else ""
    if arguments.token_env and not token:
        raise ConfigError(f"--token-env must name a variable that is set; {arguments.token_env} is not.")
    try:
        deployed = deploying.deploy(
            arguments.file,
            host=arguments.host,
            pipeline_root=arguments.pipeline_root,
            parameters=_parameters(arguments.param),
            name=arguments.name,
            experiment=arguments.experiment,
            namespace=arguments.namespace,
            token=token,
            wait=not arguments.no_wait,
            timeout_s=arguments.timeout,
            interval_s=arguments.interval,
            stream=sys.stdout,
        )
    except deploying.RunFailed as error:
        print(f"tfx-mobile: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    if deployed.seconds is not None:
        from tfx_mobile.orchestration.progress import duration

        print(f"Succeeded after {duration(deployed.seconds)}.")


def _parameters(given: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ConfigError(f"--param must be NAME=VALUE; got {text!r}. Write for example epochs=20.")
        if name in found:
            raise ConfigError(f"--param must name each parameter once; got {name!r} twice.")
        found[name] = value
    return found


if __name__ == "__main__":
    sys.exit(main())
