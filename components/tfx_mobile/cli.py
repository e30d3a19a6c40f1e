"""The command line: `tfx-mobile ...`.

One function per sub-command, each importing what it needs when it runs, so that `--help` is quick. Prints
results on stdout, notes and errors on stderr; exit status 2 for an error that has a message. Decides nothing
itself: what a command does is in the module that it calls.
"""

import argparse
import dataclasses
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfx_mobile import __version__
from tfx_mobile.common.errors import ConfigError, TfxMobileError

if TYPE_CHECKING:
    from tfx_mobile.registry.store import Registry

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
    except BrokenPipeError:  # `tfx-mobile registry list ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tfx-mobile", description="Small, fast, signed TFLite models from a TFX pipeline to phones."
    )
    parser.add_argument("--version", action="version", version=f"tfx-mobile {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_registry(commands)
    return parser


# registry


def _add_registry(commands: Any) -> None:
    parser = commands.add_parser("registry", help="make, inspect and fetch from a mobile model registry")
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    def add(name: str, run: _Command, text: str, *, folder: bool = True) -> argparse.ArgumentParser:
        action: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
        action.set_defaults(run=run)
        if folder:
            action.add_argument("folder", type=Path, metavar="FOLDER", help="the registry's folder")
            action.add_argument(
                "--keys", type=Path, metavar="FOLDER", help="the keys (default: FOLDER.keys beside it)"
            )
        return action

    add("init", _registry_init, "Make an empty registry and its keys.")
    action = add("list", _registry_list, "List the models and where their channels point.")
    action.add_argument("--json", action="store_true", help="print JSON")
    action = add("show", _registry_show, "Show one model: its channels, versions and their metadata.")
    action.add_argument("model", metavar="MODEL")
    action.add_argument("--json", action="store_true", help="print JSON")
    add("verify", _registry_verify, "Check every signature, hash, length and expiry, and every file.")
    add(
        "refresh",
        _registry_refresh,
        "Sign anew what runs out: the timestamp, and what is past half its life.",
    )
    action = add("fetch", _registry_fetch, "Fetch and verify a model, as a phone does.", folder=False)
    action.add_argument("model", metavar="MODEL")
    action.add_argument("--from", dest="location", required=True, metavar="FOLDER_OR_URL")
    action.add_argument(
        "--root",
        type=Path,
        metavar="FILE",
        help="the root to trust; needed for a URL (default for a folder: FOLDER.keys/root.json beside it)",
    )
    action.add_argument("--channel", default="stable", help="default: stable")
    action.add_argument("--version", type=int, metavar="N", help="this version, whatever the channel says")
    action.add_argument("--to", type=Path, required=True, metavar="FILE", help="where to write the model")
    action.add_argument(
        "--cache",
        type=Path,
        metavar="FOLDER",
        help="what was seen before, against rollback (default: a folder per registry in ~/.cache/tfx-mobile)",
    )


def _registry_init(arguments: argparse.Namespace) -> None:
    from tfx_mobile.registry.store import Registry

    registry = Registry.create(arguments.folder, arguments.keys)
    print(f"registry  {registry.repository}  (serve this folder)")
    print(f"keys      {registry.keys}  (private: back it up, never serve it)")
    print(f"root      {registry.root_path}  (put this file into the app)")
    print(f"          {_fingerprint(registry.root_path)}")


def _registry_list(arguments: argparse.Namespace) -> None:
    registry = _opened(arguments)
    rows = []
    for model in registry.models():
        versions, channels = registry.versions(model), registry.channels(model)
        newest = versions[-1].version if versions else None
        rows.append({"model": model, "newest": newest, "versions": len(versions), "channels": channels})
    if arguments.json:
        _print_json(rows)
        return
    table = [["MODEL", "NEWEST", "VERSIONS", "CHANNELS"]]
    for row in rows:
        table.append(
            [str(row["model"]), str(row["newest"]), str(row["versions"]), _channels(row["channels"])]
        )
    _print_table(table)


def _registry_show(arguments: argparse.Namespace) -> None:
    registry = _opened(arguments)
    versions, channels = registry.versions(arguments.model), registry.channels(arguments.model)
    if arguments.json:
        rows = [dataclasses.asdict(record) for record in versions]
        _print_json({"model": arguments.model, "channels": channels, "versions": rows})
        return
    print(f"model     {arguments.model}")
    print(f"channels  {_channels(channels)}")
    for record in versions:
        print(f"\nversion {record.version}")
        facts = {"sha256": record.sha256, "size_bytes": record.size_bytes, "published": _utc(record)}
        _print_table([[f"  {key}", str(value)] for key, value in (*facts.items(), *_flat(record.metadata))])


def _registry_verify(arguments: argparse.Namespace) -> None:
    found = _opened(arguments).verify()
    _print_table([[f"ok  {item.path}", item.what] for item in found])
    print(f"{len(found)} files are as they were signed.")


def _registry_refresh(arguments: argparse.Namespace) -> None:
    print(f"signed {', '.join(_opened(arguments).refresh())}")


def _registry_fetch(arguments: argparse.Namespace) -> None:
    from tfx_mobile.common.files import write_atomically
    from tfx_mobile.registry.client import Client

    root = arguments.root or _default_root(arguments.location)
    client = Client(
        arguments.location, root=root, cache=arguments.cache or _default_cache(arguments.location)
    )
    fetched = client.fetch(arguments.model, arguments.channel, version=arguments.version)
    try:
        write_atomically(arguments.to, fetched.path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"--to must be a file that can be written; {arguments.to}: {error.strerror}."
        ) from error
    print(
        f"{arguments.model} version {fetched.version}  sha256:{fetched.sha256}  "
        f"{fetched.size_bytes} bytes  {arguments.to}"
    )


def _opened(arguments: argparse.Namespace) -> "Registry":
    from tfx_mobile.registry.store import Registry

    return Registry(arguments.folder, arguments.keys)


def _default_root(location: str) -> Path:
    """Returns the root beside a local registry, and says so: trust is never silent."""
    if "://" in location:
        raise ConfigError(
            f"--root must name the root to trust for {location}; got none. Take root.json from the keys "
            "folder of whoever publishes there."
        )
    folder = Path(os.path.abspath(location))
    root = folder.with_name(f"{folder.name}.keys") / "root.json"
    if not root.is_file():
        raise ConfigError(
            f"--root must name the root to trust for {location}; got none, and there is no {root}. Take "
            "root.json from the registry's keys folder."
        )
    print(f"tfx-mobile: trusting {root} {_fingerprint(root)}; --root names another", file=sys.stderr)
    return root


def _default_cache(location: str) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = location if "://" in location else os.path.abspath(location)
    return home / "tfx-mobile" / "registry" / hashlib.sha256(name.encode()).hexdigest()[:16]


# Printing


def _fingerprint(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def _channels(channels: Any) -> str:
    return ", ".join(f"{name} -> {version}" for name, version in sorted(channels.items())) or "none"


def _utc(record: Any) -> str:
    import datetime

    moment = datetime.datetime.fromtimestamp(record.published_unix_s, datetime.timezone.utc)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Returns nested metadata as dotted keys and text."""
    if not isinstance(value, dict) or (not value and prefix):
        return [(prefix, str(value))]
    return [
        row
        for key, item in sorted(value.items())
        for row in _flat(item, f"{prefix}.{key}" if prefix else key)
    ]


def _print_json(value: Any) -> None:
    from tfx_mobile.common.jsonable import dumps

    print(dumps(value, indent=2))


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
