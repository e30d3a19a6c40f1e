"""The demo: runs the taxi-fare pipeline on this machine and prints what came out.

`python -m taxi_fare --help` lists the settings. Exit status: 0 when a model was pushed (or was before),
1 when no candidate passed the gates, 2 when something must be mended first.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from taxi_fare import data, rows
from tfx_mobile.common.errors import TfxMobileError
from tfx_mobile.orchestration import run_log
from tfx_mobile.size_latency_evaluator.config import AccuracyGate, Gate, LatencyGate, Metric, SizeGate

LOG_FILE = "run.log"
EPOCHS = 40


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo.

    Args:
      argv: The arguments after the program's name; None takes those of the process.

    Returns:
      The exit status.
    """
    arguments = _parser().parse_args(argv)
    # tfmot works on Keras 2 only; TensorFlow reads this when it is imported.
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    workspace: Path = arguments.workspace.absolute()
    try:
        source = data.csv_folder(arguments.data) if arguments.data else data.chicago()
        if arguments.metadata is not None:
            from tfx_mobile.orchestration import metadata

            metadata.connection_config(
                arguments.metadata
            )  # what is wrong with it is said before TFX is loaded
        print("Loading TFX (10 to 60 seconds) ...", flush=True)
        with run_log.everything_to(workspace / LOG_FILE):
            from taxi_fare import demo
        return demo.run(
            source,
            feature_set=arguments.features,
            epochs=arguments.epochs,
            gates=_gates(arguments),
            workspace=workspace,
            metadata_url=arguments.metadata,
            log_file=workspace / LOG_FILE,
        )
    except TfxMobileError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. Finished components are kept: run again to continue.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m taxi_fare", description="From taxi rows to a gated, signed TFLite file."
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="your CSV files (default: Chicago trips in the tfx package)"
    )
    parser.add_argument(
        "--features", choices=rows.FEATURE_SETS, default=rows.ENGINEERED, help="default: engineered"
    )
    parser.add_argument(
        "--workspace",
        type=Path,
        metavar="DIR",
        default=Path("workspace"),
        help="where artifacts, metadata, registry and log go (default: workspace)",
    )
    parser.add_argument(
        "--metadata",
        metavar="URL",
        help="a MySQL or PostgreSQL database instead of a file in the workspace, such as "
        "mysql://user@host:3306/database; the password is in the variable TFX_MOBILE_METADATA_PASSWORD",
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=EPOCHS,
        metavar="N",
        help=f"of the dense model, at most (default: {EPOCHS})",
    )
    gates = parser.add_argument_group("gates, besides those that are always there")
    gates.add_argument("--max-rmse", type=float, metavar="FARE", help="on the evaluation rows")
    gates.add_argument("--max-gz-bytes", type=int, metavar="N", help="of the file after gzip -9")
    gates.add_argument(
        "--max-latency-us", type=float, metavar="US", help="median of one call on this machine"
    )
    return parser


def _gates(arguments: argparse.Namespace) -> tuple[Gate, ...]:
    added: list[Gate] = []
    if arguments.max_rmse is not None:
        added.append(AccuracyGate(Metric.RMSE, max_value=arguments.max_rmse))
    if arguments.max_gz_bytes is not None:
        added.append(SizeGate(max_gz_bytes=arguments.max_gz_bytes))
    if arguments.max_latency_us is not None:
        added.append(LatencyGate(max_p50_us=arguments.max_latency_us))
    return tuple(added)


if __name__ == "__main__":
    sys.exit(main())
