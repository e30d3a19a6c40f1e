"""The command line of the registry: `tfx-mobile registry ...`.

One function per action, each importing what it needs when it runs. Decides nothing itself: what an action
does is in the module that it calls.
"""

import argparse
import dataclasses
import datetime
import hashlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfx_mobile.common import printing
from tfx_mobile.common.errors import ConfigError

if TYPE_CHECKING:
    from tfx_mobile.registry.client import Client
    from tfx_mobile.registry.store import Registry
    from tfx_mobile.registry.targeting import Device

_Command = Callable[[argparse.Namespace], None]


def add_commands(commands: Any) -> None:
    """Adds `registry` and its actions to the sub-commands of `tfx-mobile`."""
    parser = commands.add_parser("registry", help="make, inspect and fetch from a mobile model registry")
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    def add(name: str, run: _Command, text: str, *, folder: bool = True) -> argparse.ArgumentParser:
        action: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
        action.set_defaults(run=run)
        if folder:
            action.add_argument(
                "folder", metavar="FOLDER", help="the registry: a folder, s3://... or gs://..."
            )
            action.add_argument(
                "--keys",
                type=Path,
                metavar="FOLDER",
                help="the keys (default: FOLDER.keys beside it; a bucket has no default)",
            )
        return action

    action = add("init", _init, "Make an empty registry and its keys.")
    action.add_argument("--root-keys", type=int, default=1, metavar="N", help="how many (default: 1)")
    action.add_argument(
        "--root-threshold", type=int, metavar="N", help="how many of them must sign (default: more than half)"
    )
    action = add("list", _list, "List the models and where their channels point.")
    action.add_argument("--json", action="store_true", help="print JSON")
    action = add("show", _show, "Show one model: its channels, versions and their metadata.")
    action.add_argument("model", metavar="MODEL")
    action.add_argument("--json", action="store_true", help="print JSON")
    add("verify", _verify, "Check every signature, hash, length and expiry, and every file.")
    add(
        "refresh",
        _refresh,
        "Sign anew what runs out: the timestamp, and what is past half its life.",
    )
    _add_changes(add)
    action = add("fetch", _fetch, "Fetch and verify a model, as a phone does.", folder=False)
    action.add_argument("model", metavar="MODEL")
    _add_client(action)
    action.add_argument("--channel", default="stable", help="default: stable")
    action.add_argument("--version", type=int, metavar="N", help="this version, whatever the channel says")
    action.add_argument("--variant", metavar="NAME", help="with --version: which file of it")
    action.add_argument("--to", type=Path, required=True, metavar="FILE", help="where to write the model")
    action.add_argument(
        "--strict",
        action="store_true",
        help="fail when there is no update to be had; keep no last good model",
    )
    _add_device(action)
    action = add(
        "check",
        _check,
        "Say what is trusted now, and until when; fetches the metadata only.",
        folder=False,
    )
    action.add_argument("model", metavar="MODEL", nargs="?", help="also the role that signs this model")
    _add_client(action)
    _add_mirrors(add)
    _add_site(add)


def _add_device(action: argparse.ArgumentParser) -> None:
    device = action.add_argument_group(
        "device", "who asks; without these, the newest that goes to all, whatever it asks of a device"
    )
    device.add_argument("--device-id", metavar="TEXT", help="for staged rollout; stays the same for a device")
    device.add_argument("--platform", metavar="NAME", help="for example android")
    device.add_argument("--abi", metavar="NAME", help="for example arm64-v8a")
    device.add_argument("--app-version", metavar="X.Y.Z")
    device.add_argument("--ram-mib", type=int, metavar="N")
    device.add_argument("--runtime-version", metavar="X.Y.Z", help="of TensorFlow Lite or LiteRT")
    device.add_argument("--op", action="append", metavar="NAME", help="an operator in the app; repeat it")


def _add_client(action: argparse.ArgumentParser) -> None:
    action.add_argument("--from", dest="location", required=True, metavar="FOLDER_OR_URL")
    action.add_argument(
        "--root",
        type=Path,
        metavar="FILE",
        help="the root to trust; needed for a URL (default for a folder: FOLDER.keys/root.json beside it)",
    )
    action.add_argument(
        "--cache",
        type=Path,
        metavar="FOLDER",
        help="what was seen before, against rollback (default: a folder per registry in ~/.cache/tfx-mobile)",
    )


def _add_mirrors(add: Callable[..., argparse.ArgumentParser]) -> None:
    action = add(
        "remote-config",
        _remote_config,
        "Write a Firebase Remote Config template that rolls a bucket's model out.",
        folder=False,
    )
    action.add_argument("bucket", metavar="BUCKET_URI", help="such as bucket+gs://bucket/prefix")
    action.add_argument("model", metavar="MODEL")
    action.add_argument("--channel", default="stable", help="default: stable")
    action.add_argument(
        "--to",
        type=Path,
        required=True,
        metavar="FILE",
        help="the template; one that is there keeps what is of others",
    )
    action = add(
        "export",
        _export,
        "Write a verified model into the folder that an app store's delivery takes.",
        folder=False,
    )
    action.add_argument("location", metavar="FOLDER_OR_URL")
    action.add_argument("model", metavar="MODEL")
    action.add_argument("--channel", default="stable", help="default: stable")
    action.add_argument("--format", required=True, choices=["play", "apple"])
    action.add_argument("--to", type=Path, required=True, metavar="DIR", help="new or empty")
    action.add_argument("--root", type=Path, metavar="FILE", help="the root to trust, as for fetch")
    action.add_argument("--cache", type=Path, metavar="FOLDER", help="as for fetch")
    _add_device(action)


def _add_site(add: Callable[..., argparse.ArgumentParser]) -> None:
    action = add("site", _site, "Write a static site about the registry, for people.", folder=False)
    _add_repository(action)
    action.add_argument(
        "--to", type=Path, required=True, metavar="FOLDER", help="the site; replaced if it is one"
    )
    action.add_argument(
        "--url", default="", help="where phones find the registry, for the commands that the pages show"
    )
    action.add_argument("--title", default="Model registry", help="default: Model registry")
    action = add(
        "serve",
        _serve,
        "Serve the registry and its site on this machine, for trying it.",
        folder=False,
    )
    _add_repository(action)
    action.add_argument("--port", type=int, default=8000, help="default: 8000; 0 takes a free one")
    action.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")


def _add_repository(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "repository", metavar="FOLDER", help="the registry; for a site also s3://... or gs://..."
    )
    action.add_argument(
        "--root",
        type=Path,
        metavar="FILE",
        help="the root to trust (default: FOLDER.keys/root.json beside it)",
    )


def _add_changes(add: Callable[..., argparse.ArgumentParser]) -> None:
    """What is signed when a release goes its way, and when keys and files come of age."""
    action = add("publish", _publish, "Publish a file; unlike RegistryPusher it asks for no blessing.")
    action.add_argument("model", metavar="MODEL")
    action.add_argument("file", type=Path, metavar="FILE", help="the model, for example model.tflite")
    action.add_argument("--channel", default="stable", help="default: stable")
    action.add_argument("--version", type=int, metavar="N", help="default: the next")
    action.add_argument("--variant", default="default", metavar="NAME", help="which file of the version")
    action.add_argument("--permille", type=int, default=1000, metavar="N", help="share (default: 1000, all)")
    action.add_argument(
        "--targeting",
        type=Path,
        metavar="JSON",
        help='what it asks of a device: {"platforms": ["android"]}',
    )
    action.add_argument(
        "--metadata", type=Path, metavar="JSON", help="what is said with it, public; no fractions: rmse_ppm"
    )
    action.add_argument(
        "--no-delta", dest="delta", action="store_false", help="no patches from what phones have now"
    )
    action = add("promote", _promote, "Offer what one channel offers in another one.")
    action.add_argument("model", metavar="MODEL")
    action.add_argument("--from", dest="source", default="beta", metavar="CHANNEL", help="default: beta")
    action.add_argument("--to", dest="target", default="stable", metavar="CHANNEL", help="default: stable")
    action.add_argument("--permille", type=int, default=1000, metavar="N", help="share (default: 1000, all)")
    action.add_argument("--note", default="", metavar="TEXT", help="who or why")
    action = add("rollout", _rollout, "Change the share of the devices that a version goes to.")
    action.add_argument("model", metavar="MODEL")
    action.add_argument("permille", type=int, metavar="PERMILLE", help="0 to 1000")
    action.add_argument("--channel", default="stable", help="default: stable")
    action.add_argument(
        "--version", type=int, metavar="N", help="default: the newest that the channel offers"
    )
    action.add_argument("--note", default="", metavar="TEXT", help="who or why")
    action = add("rollback", _rollback, "Offer what a channel offered before its newest version.")
    action.add_argument("model", metavar="MODEL")
    action.add_argument("--channel", default="stable", help="default: stable")
    action.add_argument("--reason", required=True, metavar="TEXT", help="kept in the history, public")
    action = add("withdraw", _withdraw, "Take a version back, out of every channel and for ever.")
    action.add_argument("model", metavar="MODEL")
    action.add_argument("version", type=int, metavar="VERSION")
    action.add_argument("--reason", required=True, metavar="TEXT", help="phones are told it, public")
    action = add("history", _history, "Show the changes of a channel, oldest first.")
    action.add_argument("model", metavar="MODEL")
    action.add_argument("--channel", default="stable", help="default: stable")
    action.add_argument("--json", action="store_true", help="print JSON")
    action = add("rotate", _rotate, "Put a new key in place of a role's.")
    action.add_argument("role", metavar="ROLE", help="root, targets, snapshot, timestamp or model-<model>")
    action = add("use-signer", _rotate, "Put a key in a KMS or an HSM in place of a role's.")
    action.add_argument("role", metavar="ROLE", help="as of rotate")
    action.add_argument("uri", metavar="URI", help="hsm:<id>?label=<token>, gcpkms:, awskms: or azurekms:")
    action = add("gc", _gc, "Delete old versions that no channel offers, and files nobody needs.")
    action.add_argument("--keep-versions", type=int, default=10, metavar="N", help="the newest (default: 10)")
    action.add_argument(
        "--min-age-days", type=float, default=7.0, metavar="N", help="younger files stay (default: 7)"
    )
    action.add_argument("--dry-run", action="store_true", help="change nothing, print what would go")


def _init(arguments: argparse.Namespace) -> None:
    from tfx_mobile.registry.keys import root_key_names
    from tfx_mobile.registry.store import Registry

    registry = Registry.create(
        arguments.folder,
        arguments.keys,
        root_keys=arguments.root_keys,
        root_threshold=arguments.root_threshold,
    )
    print(f"registry  {registry.location}  (serve this folder)")
    print(f"keys      {registry.keys}  (private: back it up, never serve it)")
    print(f"root      {registry.root_path}  (put this file into the app)")
    print(f"          {_fingerprint(registry.root_path)}")
    kept = ", ".join(f"{name}.pem" for name in root_key_names(arguments.root_keys))
    print(
        f"tfx-mobile: now move {kept} out of {registry.keys} to a place that is offline, and keep a copy: "
        "who has it can replace every other key. It is needed again to rotate keys, and once a year for "
        "`refresh`.",
        file=sys.stderr,
    )


def _publish(arguments: argparse.Namespace) -> None:
    from tfx_mobile.registry.targeting import Targeting

    published = _opened(arguments).publish(
        arguments.model,
        _read(arguments.file),
        channel=arguments.channel,
        version=arguments.version,
        variant=arguments.variant,
        rollout_permille=arguments.permille,
        targeting=Targeting.from_dict(_json(arguments.targeting)),
        metadata=_json(arguments.metadata),
        delta=arguments.delta,
    )
    said = "is version" if published.created else "was there already, as version"
    print(f"{arguments.file} {said} {published.version}  sha256:{published.sha256}  {published.uri}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} must be a file that can be read; {error.strerror}.") from error


def _json(path: Path | None) -> dict[str, Any]:
    """Returns what a file says; nothing without one."""
    from tfx_mobile.common import jsonable

    said = {} if path is None else jsonable.loads(_read(path), where=str(path))
    if not isinstance(said, dict):
        raise ConfigError(f"{path} must hold a JSON object; got {type(said).__name__}.")
    return said


def _promote(arguments: argparse.Namespace) -> None:
    event = _opened(arguments).promote(
        arguments.model,
        arguments.source,
        arguments.target,
        rollout_permille=arguments.permille,
        note=arguments.note,
    )
    _print_event(arguments.target, event)


def _rollout(arguments: argparse.Namespace) -> None:
    event = _opened(arguments).set_rollout(
        arguments.model,
        arguments.channel,
        arguments.permille,
        version=arguments.version,
        note=arguments.note,
    )
    _print_event(arguments.channel, event)


def _rollback(arguments: argparse.Namespace) -> None:
    event = _opened(arguments).rollback(arguments.model, arguments.channel, reason=arguments.reason)
    _print_event(arguments.channel, event)


def _withdraw(arguments: argparse.Namespace) -> None:
    registry = _opened(arguments)
    registry.withdraw(arguments.model, arguments.version, reason=arguments.reason)
    print(f"withdrawn: version {arguments.version}; {_channels(registry.channels(arguments.model))}")


def _history(arguments: argparse.Namespace) -> None:
    events = _opened(arguments).history(arguments.model, arguments.channel)
    if arguments.json:
        printing.print_json([dataclasses.asdict(event) for event in events])
        return
    table = [["WHEN", "ACTION", "VERSION", "PERMILLE", "NOTE"]]
    for event in events:
        share = str(event.rollout_permille)
        table.append([_moment(event.unix_s), event.action, str(event.version), share, event.note])
    printing.print_table(table)


def _rotate(arguments: argparse.Namespace) -> None:
    keyid = _opened(arguments).rotate_key(arguments.role, signer_uri=getattr(arguments, "uri", None))
    print(f"{arguments.role} is signed with key {keyid} from now on; the old key is of no use any more.")


def _gc(arguments: argparse.Namespace) -> None:
    try:
        min_age = datetime.timedelta(days=arguments.min_age_days)
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"--min-age-days must be a number of days; got {arguments.min_age_days}. Write for example 7."
        ) from error
    collected = _opened(arguments).collect_garbage(
        keep_versions=arguments.keep_versions, min_age=min_age, dry_run=arguments.dry_run
    )
    would = "would be " if arguments.dry_run else ""
    for model, version in collected.versions:
        print(f"{would}not signed any more: {model} version {version}")
    for file in collected.files:
        print(f"{would}deleted: {file}")
    gone = "would be gone; nothing was changed" if arguments.dry_run else "are gone"
    print(f"{len(collected.versions)} versions and {len(collected.files)} files {gone}.")


def _print_event(channel: str, event: Any) -> None:
    offers = f"version {event.version} to {event.rollout_permille} permille" if event.version else "nothing"
    print(f"{event.action}: {channel} offers {offers}")


def _list(arguments: argparse.Namespace) -> None:
    registry = _opened(arguments)
    rows: list[dict[str, Any]] = []
    for model in registry.models():
        versions, records = registry.versions(model), registry.channel_records(model)
        rows.append(
            {
                "model": model,
                "newest": versions[-1].version if versions else None,
                "versions": len({record.version for record in versions}),
                "withdrawn": sorted({record.version for record in versions if record.withdrawn}),
                "channels": {channel: record.version for channel, record in records.items()},
                "rollout_permille": {
                    channel: record.event.rollout_permille for channel, record in records.items()
                },
            }
        )
    if arguments.json:
        printing.print_json(rows)
        return
    table = [["MODEL", "NEWEST", "VERSIONS", "CHANNELS"]]
    for row in rows:
        shares = {name: row["rollout_permille"][name] for name in row["channels"]}
        offered = {
            name: f"{version}" + (f" ({shares[name]} permille)" if version and shares[name] < 1000 else "")
            for name, version in row["channels"].items()
        }
        table.append([str(row["model"]), str(row["newest"]), str(row["versions"]), _channels(offered)])
    printing.print_table(table)


def _show(arguments: argparse.Namespace) -> None:
    registry = _opened(arguments)
    versions, records = registry.versions(arguments.model), registry.channel_records(arguments.model)
    channels = {channel: record.version for channel, record in records.items()}
    if arguments.json:
        rows = [dataclasses.asdict(record) for record in versions]
        rollouts = {
            channel: [one.to_dict() for one in record.rollouts] for channel, record in records.items()
        }
        printing.print_json(
            {"model": arguments.model, "channels": channels, "rollouts": rollouts, "versions": rows}
        )
        return
    print(f"model     {arguments.model}")
    print(f"channels  {_channels(channels)}")
    for channel, record in sorted(records.items()):
        for one in record.rollouts:
            asked = [f", {key} {value}" for key, value in one.targeting.to_dict().items() if value]
            offer = f"version {one.version} ({one.variant}) to {one.rollout_permille} permille"
            print(f"          {channel}: {offer}{''.join(asked)}")
    for version in versions:
        _print_version(version)


def _print_version(record: Any) -> None:
    variant = "" if record.variant == "default" else f" ({record.variant})"
    print(f"\nversion {record.version}{variant}")
    if record.withdrawn:
        print(f"  WITHDRAWN: {record.withdrawn}")
    facts = {
        "sha256": record.sha256,
        "size_bytes": record.size_bytes,
        "published": _moment(record.published_unix_s),
    }
    printing.print_table(
        [[f"  {key}", str(value)] for key, value in (*facts.items(), *printing.flat(record.metadata))]
    )


def _verify(arguments: argparse.Namespace) -> None:
    found = _opened(arguments).verify()
    printing.print_table([[f"ok  {item.path}", item.what] for item in found])
    print(f"{len(found)} files are as they were signed.")


def _refresh(arguments: argparse.Namespace) -> None:
    print(f"signed {', '.join(_opened(arguments).refresh())}")


def _fetch(arguments: argparse.Namespace) -> None:
    from tfx_mobile.common.files import write_atomically
    from tfx_mobile.registry.names import DEFAULT_VARIANT

    if arguments.variant is not None and arguments.version is None:
        raise ConfigError("--variant must come with --version; a channel names its own. Add --version.")
    logging.getLogger("tfx_mobile").addHandler(logging.NullHandler())  # what it warns of is said below
    fetched = _client(arguments).fetch(
        arguments.model,
        arguments.channel,
        device=_device(arguments),
        version=arguments.version,
        variant=arguments.variant or DEFAULT_VARIANT,
        fall_back=not arguments.strict,
    )
    content = _read(fetched.path)
    try:
        write_atomically(arguments.to, content)
    except OSError as error:
        raise ConfigError(
            f"--to must be a file that can be written; {arguments.to}: {error.strerror}."
        ) from error
    if fetched.problem:
        said = " ".join(fetched.problem.split())
        print(f"tfx-mobile: not updated, this is the last good version: {said}", file=sys.stderr)
    variant = "" if fetched.variant == DEFAULT_VARIANT else f" ({fetched.variant})"
    print(
        f"{arguments.model} version {fetched.version}{variant}  sha256:{fetched.sha256}  "
        f"{fetched.size_bytes} bytes  {arguments.to}"
    )


def _site(arguments: argparse.Namespace) -> None:
    from tfx_mobile.registry import site

    root = arguments.root or _default_root(arguments.repository)
    count = site.write(arguments.repository, root, arguments.to, url=arguments.url, title=arguments.title)
    print(f"{count} page{'' if count == 1 else 's'}  {arguments.to / 'index.html'}")


def _serve(arguments: argparse.Namespace) -> None:
    from tfx_mobile.registry import serving

    if "://" in arguments.repository:
        raise ConfigError(
            f"Registry to serve must be a local folder; got {arguments.repository}. A bucket serves itself; "
            "`tfx-mobile registry site` writes its site."
        )
    root = arguments.root or _default_root(arguments.repository)
    serving.serve(Path(arguments.repository), root, host=arguments.host, port=arguments.port)


def _check(arguments: argparse.Namespace) -> None:
    rows = [["ROLE", "VERSION", "UNTIL"]]
    for role, trusted in _client(arguments).check(arguments.model).items():
        rows.append([role, str(trusted.version), f"{trusted.expires:%Y-%m-%d %H:%M} UTC"])
    printing.print_table(rows)


def _client(arguments: argparse.Namespace) -> "Client":
    from tfx_mobile.registry.client import Client, default_cache

    root = arguments.root or _default_root(arguments.location)
    return Client(arguments.location, root=root, cache=arguments.cache or default_cache(arguments.location))


def _device(arguments: argparse.Namespace) -> "Device | None":
    """Returns who asks; None when nothing is said of it."""
    from tfx_mobile.registry.targeting import Device

    said = {
        "id": arguments.device_id,
        "platform": arguments.platform,
        "abi": arguments.abi,
        "app_version": arguments.app_version,
        "ram_mib": arguments.ram_mib,
        "runtime_version": arguments.runtime_version,
        "ops": tuple(arguments.op) if arguments.op else None,
    }
    given = {name: value for name, value in said.items() if value is not None}
    return Device(**given) if given else None


def _remote_config(arguments: argparse.Namespace) -> None:
    from tfx_mobile.common import files, jsonable
    from tfx_mobile.registry import bucket_backend, remote_config

    ledger = bucket_backend.BucketBackend(arguments.bucket).ledger(arguments.model)
    paths = {file.key: bucket_backend.file_path(arguments.model, file) for file in ledger.files}
    made = remote_config.template(ledger, arguments.channel, paths)
    try:
        if arguments.to.exists():
            found = jsonable.loads(arguments.to.read_bytes(), where=str(arguments.to))
            made = remote_config.merged(found, made, arguments.model)
        files.write_atomically(arguments.to, f"{jsonable.dumps(made, indent=2)}\n".encode())
    except OSError as error:
        raise ConfigError(
            f"--to must be a file that can be written; {arguments.to}: {error.strerror}."
        ) from error
    print(f"{arguments.to}  parameter {remote_config.parameter_name(arguments.model)}  (not uploaded)")


def _export(arguments: argparse.Namespace) -> None:
    from tfx_mobile.registry import exports
    from tfx_mobile.registry.names import DEFAULT_VARIANT

    fetched = _client(arguments).fetch(
        arguments.model, arguments.channel, device=_device(arguments), fall_back=False
    )
    paths = exports.export(
        fetched.path.read_bytes(),
        arguments.to,
        model=arguments.model,
        version=fetched.version,
        sha256=fetched.sha256,
        format=exports.Format(arguments.format),
    )
    variant = "" if fetched.variant == DEFAULT_VARIANT else f" ({fetched.variant})"
    print(f"{arguments.model} version {fetched.version}{variant}  sha256:{fetched.sha256}")
    for path in paths:
        print(path)


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


def _fingerprint(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def _channels(channels: Any) -> str:
    return ", ".join(f"{name} -> {version}" for name, version in sorted(channels.items())) or "none"


def _moment(unix_s: int) -> str:
    moment = datetime.datetime.fromtimestamp(unix_s, datetime.timezone.utc)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
