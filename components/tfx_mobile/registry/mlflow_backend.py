"""MLflow's model registry as a registry of mobile models: `mlflow+http://host:5000`, `mlflow+https://host`.

A model is a registered model, a version a model version whose run holds the file, its record and its
attachments, a channel an alias. Tags hold the hashes, and each change of a channel as an event: what a
channel offers follows from its events, and the alias is set to that until it is so, which is how publishers
at work at once agree without a lock. MLflow numbers versions itself.

A mirror: hashes are checked, which MLflow does not do, but whoever may write to the server may write the
hashes. User and password come from MLflow's own environment variables. Importing MLflow takes seconds, so
it is imported with the first call.
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import logging
import os
import random
import re
import secrets
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tfx_mobile.common import jsonable
from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry import adapter, names, releases
from tfx_mobile.registry.adapter import NothingReleased
from tfx_mobile.registry.backend import Capabilities, Event, Published, Resolved
from tfx_mobile.registry.targeting import EVERYONE_PERMILLE, Device, Targeting

EXPERIMENT = "tfx-mobile"
CONNECT_TIMEOUT_S = 20.0
AGREE_TIMEOUT_S = 60.0  # with publishers that want the same number or alias
_FILE, _RECORD = "model.tflite", "model.record.json"
_TAG = "tfx_mobile."
_SHA256, _RECORD_SHA256, _WITHDRAWN = f"{_TAG}sha256", f"{_TAG}record_sha256", f"{_TAG}withdrawn"
_LOGIN = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
_TWICE = re.compile(r"unique|duplicate", re.IGNORECASE)
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Change:
    """One tag of a registered model: what was done to a channel."""

    unix_ns: int
    action: str
    version: int
    note: str = ""


class MlflowBackend:
    """A registry on an MLflow server.

    Args:
      uri: `mlflow+http://` or `mlflow+https://`, host, port and path, without user, password and query.

    Raises:
      ConfigError: The URI is something else.
      ModuleNotFoundError: MLflow is not installed.
    """

    def __init__(self, uri: str) -> None:
        parts = urllib.parse.urlsplit(uri)
        if parts.scheme not in ("mlflow+http", "mlflow+https") or not parts.hostname:
            raise ConfigError(
                f"Registry must be mlflow+http://host:port or mlflow+https://host; got {uri!r}."
            )
        if parts.username is not None or parts.query or parts.fragment:
            raise ConfigError(
                "Registry must be an MLflow URI without user, password and query; got one with. "
                f"Set {_LOGIN}."
            )
        if importlib.util.find_spec("mlflow") is None:
            raise ModuleNotFoundError("No module named 'mlflow'", name="mlflow-skinny")
        self.uri = uri
        self._url = uri.removeprefix("mlflow+").rstrip("/")
        self._made: Any = None

    @property
    def capabilities(self) -> Capabilities:
        """What it can do; reads nothing."""
        return Capabilities(
            rollback=True, withdraw=True, attachments=True, reserved_channels="latest|v[0-9]+"
        )

    def publish(
        self,
        model: str,
        content: bytes,
        *,
        version: int | None = None,
        variant: str = names.DEFAULT_VARIANT,
        channel: str = "stable",
        metadata: Mapping[str, Any],
        rollout_permille: int = EVERYONE_PERMILLE,
        targeting: Targeting = Targeting(),  # noqa: B008 - frozen
        attachments: Mapping[str, bytes] | None = None,
    ) -> Published:
        """Uploads `content`, reads it back, makes it a model version and sets the channel's alias to it.

        Args:
          model: Name of the registered model, made on first use.
          content: The file; at least one byte.
          version: That of these bytes, or the next, for MLflow numbers itself; None takes the next.
          variant: 'default'.
          channel: The alias, set on first use; not 'latest' and not 'v1', which MLflow keeps for itself.
          metadata: JSON without floats.
          rollout_permille: 1,000.
          targeting: None.
          attachments: Other files to keep in the version's run, by name.

        Raises:
          ConfigError: A name, the version, the content or the metadata breaks a rule, or asks for what MLflow
            cannot do.
          RegistryError: The version holds other bytes, was withdrawn or is not the next; or MLflow is not
            reached, refuses, or gives other bytes than were uploaded.
        """
        self._check_names(model, channel)
        if version is not None:
            names.check_version(version)
        adapter.check_wishes(
            self.uri,
            self.capabilities,
            variant=variant,
            rollout_permille=rollout_permille,
            targeting=targeting,
            attachments=bool(attachments),
        )
        adapter.check_content(f"'{names.model_path(model, version or 1)}'", content)
        uploads = {_FILE: content, _RECORD: adapter.record_json(metadata)}
        for name, beside in adapter.check_attachments(attachments).items():
            uploads[f"model.with.{name}"] = beside
        with self._client() as client:
            held = self._registered(client, model)
            found = self._holding(client, model, channel, held, content, version)
            created = found is None
            if found is None:
                found = self._create(client, model, uploads, version)
            if found > _offered(held, channel):
                self._add(client, model, channel, _Change(time.time_ns(), "publish", found))
            newest = self._settle(client, model, channel)
        return Published(
            model=model,
            version=found,
            variant=variant,
            channel=channel,
            channel_version=newest,
            sha256=_sha256(content),
            size_bytes=len(content),
            created=created,
            uri=f"{self._url}/#/models/{model}/versions/{found}",
        )

    def resolve(self, model: str, channel: str = "stable", *, device: Device | None = None) -> Resolved:
        """Downloads what the channel's alias is set to, and checks file and record against their hashes.

        Args:
          model: Its name.
          channel: The alias.
          device: Any; MLflow gives all of them the same.

        Raises:
          ConfigError: A name breaks a rule.
          NothingReleased: There is no such model or channel.
          RegistryError: The channel offers nothing, or a version that was not published by this project or
            has been withdrawn; the bytes are not those that were published; MLflow is not reached or refuses.
        """
        self._check_names(model, channel)
        with self._client() as client:
            held = self._registered(client, model)
            number = _alias(held, channel)
            if number == 0:
                self._check_channel(held, model, channel)
                raise RegistryError(
                    f"Channel '{channel}' of '{model}' must offer a version; it offers none in {self.uri}. "
                    "Publish a new one, or roll back."
                )
            tags = self._version_tags(client, model, number)
            if reason := tags.get(_WITHDRAWN):
                raise RegistryError(
                    f"Channel '{channel}' of '{model}' must not offer what was withdrawn; its alias in "
                    f"{self.uri} is set to {number}, withdrawn: {reason}. Publish a new version."
                )
            run = self._run(client, model, number)
            content = self._download(client, run, _FILE, model, number, tags.get(_SHA256))
            record = self._download(client, run, _RECORD, model, number, tags.get(_RECORD_SHA256))
        return Resolved(
            version=number,
            variant=names.DEFAULT_VARIANT,
            sha256=_sha256(content),
            content=content,
            metadata=jsonable.loads(record, where=f"{_RECORD} of version {number} of '{model}'"),
        )

    def rollback(self, model: str, channel: str = "stable", *, reason: str) -> Event:
        """Sets the alias to what it was set to before its version came; versions withdrawn are passed over.

        Raises:
          ConfigError: A name breaks a rule, or there is no reason.
          NothingReleased: There is no such model or channel.
          RegistryError: There is nothing to go back to, or MLflow is not reached or refuses.
        """
        self._check_names(model, channel)
        adapter.check_reason(reason)
        with self._client() as client:
            held = self._registered(client, model)
            states, withdrawn = _replayed(self._check_channel(held, model, channel))
            if not (number := _before(states, withdrawn)):
                raise RegistryError(
                    f"Channel '{channel}' of '{model}' must have offered something before version "
                    f"{states[-1]} to go back to; in {self.uri} it has not. Publish a version, or "
                    "withdraw this one."
                )
            self._add(client, model, channel, _Change(time.time_ns(), "rollback", number, reason))
            self._settle(client, model, channel)
        return self.history(model, channel)[-1]

    def withdraw(self, model: str, version: int, *, reason: str) -> None:
        """Tags a version as withdrawn, and takes it out of every channel.

        A channel that offered it falls back to what it offered before; where there is nothing, its alias is
        removed.

        Raises:
          ConfigError: A name or the version breaks a rule, or there is no reason.
          RegistryError: There is no such version, it is withdrawn already, or MLflow is not reached or
            refuses.
        """
        names.check_name("Model", model)
        names.check_version(version)
        adapter.check_reason(reason)
        with self._client() as client:
            held = self._registered(client, model)
            said = self._version_tags(client, model, version).get(_WITHDRAWN)
            left = [channel for channel in _channels(held) if _has_to_drop(_changes(held, channel), version)]
            if said is not None and not left:
                raise RegistryError(f"Version {version} of '{model}' is withdrawn already: {said}.")
            if said is None:
                client.set_model_version_tag(model, str(version), _WITHDRAWN, reason)
            for channel in left:
                self._add(client, model, channel, _Change(time.time_ns(), "withdraw", version, reason))
                self._settle(client, model, channel)

    def history(self, model: str, channel: str = "stable") -> list[Event]:
        """Returns the changes of `channel` that were made through here, oldest first.

        Raises:
          ConfigError: A name breaks a rule.
          NothingReleased: There is no such model or channel.
          RegistryError: MLflow is not reached or refuses.
        """
        self._check_names(model, channel)
        with self._client() as client:
            changes = self._check_channel(self._registered(client, model), model, channel)
        states, _ = _replayed(changes)
        return [
            Event(
                change.unix_ns // 10**9,
                change.action,
                after,
                EVERYONE_PERMILLE if after else 0,
                change.note,
            )
            for change, before, after in zip(changes, states[:-1], states[1:], strict=True)
            if change.action != "withdraw" or before != after  # it was not what the channel offered
        ]

    # Reading.

    def _registered(self, client: Any, model: str) -> Any:
        """Returns MLflow's registered model; one without anything when there is none."""
        from mlflow.entities.model_registry import RegisteredModel
        from mlflow.exceptions import MlflowException

        try:
            return client.get_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return RegisteredModel(model)

    def _check_channel(self, held: Any, model: str, channel: str) -> list[_Change]:
        changes = _changes(held, channel)
        if not changes:
            known = _channels(held)
            raise NothingReleased(
                f"There must be a channel '{channel}' of '{model}' in {self.uri}; it has "
                f"{', '.join(known) or 'none'}. Check the names, or publish."
            )
        return changes

    def _version(self, client: Any, model: str, number: int) -> Any:
        """Returns MLflow's model version; None when there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return client.get_model_version(model, str(number))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def _version_tags(self, client: Any, model: str, number: int) -> dict[str, str]:
        found = self._version(client, model, number)
        if found is None:
            raise RegistryError(
                f"There must be a version {number} of '{model}' in {self.uri}; there is none. "
                "Check the number."
            )
        return dict(found.tags)

    def _run(self, client: Any, model: str, number: int) -> str:
        run = self._version(client, model, number).run_id
        if not run:
            raise RegistryError(
                f"Version {number} of '{model}' must have a run that holds its file; it has none in "
                f"{self.uri}. It was not made by this registry's publisher."
            )
        return str(run)

    def _holding(
        self, client: Any, model: str, channel: str, held: Any, content: bytes, version: int | None
    ) -> int | None:
        """Returns the version that holds the bytes already; None when they are to be a new one."""
        number = version or _alias(held, channel)
        found = self._version(client, model, number) if number else None
        if found is None:
            if version is not None and version != (newest := self._newest(client, model)) + 1:
                raise RegistryError(
                    f"Registry refused version {version} of '{model}': MLflow numbers versions itself, and "
                    f"the newest is {newest}; push {newest + 1}, or no number."
                )
            self._check_not_withdrawn(client, model, content)
            return self._held_elsewhere(client, model, channel, held, content) if version is None else None
        same = found.tags.get(_SHA256) == _sha256(content)
        if version is None and not same:
            self._check_not_withdrawn(client, model, content)
            return self._held_elsewhere(client, model, channel, held, content)
        if not same:
            raise RegistryError(
                f"Registry refused version {version} of '{model}': {version} already holds "
                f"sha256:{found.tags.get(_SHA256, 'unknown')}; push a new version or the same bytes."
            )
        self._check_not_withdrawn(client, model, content)
        return number

    def _held_elsewhere(self, client: Any, model: str, channel: str, held: Any, content: bytes) -> int | None:
        """Returns a version with these bytes that is newer than the channel's; None when there is none."""
        if held is None:
            return None
        current, same = _offered(held, channel), [int(one.version) for one in _same(client, model, content)]
        past = [change.version for change in _changes(held, channel)]
        releases.check_not_rolled_back(model, channel, current, same, past)
        last = max(same, default=0)
        return last if last > current else None

    def _check_not_withdrawn(self, client: Any, model: str, content: bytes) -> None:
        """Checks that no version with these bytes was taken back."""
        for found in _same(client, model, content):
            if reason := found.tags.get(_WITHDRAWN):
                raise RegistryError(
                    f"Registry refused to publish for '{model}': version {found.version} has these bytes and "
                    f"was withdrawn: {reason}. Push other bytes."
                )

    def _newest(self, client: Any, model: str) -> int:
        found = client.search_model_versions(f"name='{model}'", 1, ["version_number DESC"])
        return int(found[0].version) if found else 0

    def _download(
        self, client: Any, run: str, name: str, model: str, number: int, sha256: str | None
    ) -> bytes:
        with tempfile.TemporaryDirectory(prefix="tfx_mobile_mlflow_") as folder:
            content = Path(client.download_artifacts(run, name, folder)).read_bytes()
        if sha256 is None:
            raise RegistryError(
                f"Version {number} of '{model}' must have a tag with the sha256 of its {name}; it has none "
                f"in {self.uri}. It was not made by this registry's publisher."
            )
        if (got := _sha256(content)) != sha256:
            raise RegistryError(
                f"{name} of version {number} of '{model}' must have sha256 {sha256}, which was published; "
                f"got {got} from {self.uri}. It was changed: withdraw the version and publish a new one."
            )
        return content

    # Writing.

    def _create(self, client: Any, model: str, uploads: Mapping[str, bytes], version: int | None) -> int:
        """Makes a model version of these files and returns its number; what fails leaves none."""
        from mlflow.exceptions import MlflowException

        run = client.create_run(self._experiment(client), run_name=model).info
        made = 0
        try:
            with tempfile.TemporaryDirectory(prefix="tfx_mobile_mlflow_") as folder:
                for name, content in uploads.items():
                    (Path(folder) / name).write_bytes(content)
                client.log_artifacts(run.run_id, folder)
            for name in (_FILE, _RECORD):
                self._download(client, run.run_id, name, model, version or 0, _sha256(uploads[name]))
            client.update_run(run.run_id, status="FINISHED")
            tags = {
                _SHA256: _sha256(uploads[_FILE]),
                _RECORD_SHA256: _sha256(uploads[_RECORD]),
                f"{_TAG}size_bytes": str(len(uploads[_FILE])),
            }
            self._register(client, model)
            made = self._number(client, model, run, tags)
            if version not in (None, made):
                raise RegistryError(
                    f"Registry refused version {version} of '{model}': somebody else took it meanwhile; push "
                    f"{made} or later, or no number."
                )
        except BaseException:
            try:
                if made:
                    client.delete_model_version(model, str(made))
                client.delete_run(run.run_id)
            except (MlflowException, OSError) as left:  # raised in its stead it would hide why
                _log.warning(
                    "Run '%s' of '%s' is left in %s, of no use; delete it: %s",
                    run.run_id,
                    model,
                    self.uri,
                    left,
                )
            raise
        return made

    def _experiment(self, client: Any) -> str:
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(client.create_experiment(EXPERIMENT))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return str(client.get_experiment_by_name(EXPERIMENT).experiment_id)

    def _register(self, client: Any, model: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _number(self, client: Any, model: str, run: Any, tags: Mapping[str, str]) -> int:
        """Returns the number of a new model version; MLflow gives up when several want the same one."""
        from mlflow.exceptions import MlflowException

        deadline = time.monotonic() + AGREE_TIMEOUT_S
        while True:
            try:
                found = client.create_model_version(
                    model, run.artifact_uri, run.run_id, tags=dict(tags), await_creation_for=0
                )
                return int(found.version)
            except MlflowException as error:
                if "Giving up after" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(random.uniform(0.0, 0.5))

    def _add(self, client: Any, model: str, channel: str, change: _Change) -> None:
        key = f"{_TAG}event.{channel}.{change.unix_ns:020d}.{secrets.token_hex(4)}"
        client.set_registered_model_tag(model, key, jsonable.dumps(dataclasses.asdict(change)))

    def _settle(self, client: Any, model: str, channel: str) -> int:
        """Sets the alias to what the channel's changes say, until it is so; returns the version."""
        from mlflow.exceptions import MlflowException

        deadline = time.monotonic() + AGREE_TIMEOUT_S
        while True:
            held = self._registered(client, model)
            wanted, got = _offered(held, channel), _alias(held, channel)
            if got == wanted:
                return wanted
            try:
                if wanted:
                    client.set_registered_model_alias(model, channel, str(wanted))
                else:
                    client.delete_registered_model_alias(model, channel)
            except MlflowException as error:
                # two that set a new alias at once: its database lets one of them in
                if not _TWICE.search(str(error)) or time.monotonic() > deadline:
                    raise

    # The server.

    @contextlib.contextmanager
    def _client(self) -> Iterator[Any]:
        """Yields MLflow's client; what it and the network raise becomes a RegistryError."""
        self._check_reached()
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        if self._made is None:
            self._made = MlflowClient(tracking_uri=self._url, registry_uri=self._url)
        try:
            yield self._made
        except (MlflowException, OSError) as error:  # requests' errors are OSErrors
            first = (str(error).splitlines() or [""])[0].rstrip(".")
            advice = "Check the server, its version and the user's rights."
            if getattr(error, "error_code", "") == "UNAUTHENTICATED":
                advice = f"Log in: set {_LOGIN}."
            raise RegistryError(
                f"Registry {self.uri} must do what it is asked for; MLflow says: {first}. {advice}"
            ) from error

    def _check_names(self, model: str, channel: str) -> None:
        names.check_name("Model", model)
        adapter.check_channel(self.uri, self.capabilities, channel)

    def _check_reached(self) -> None:
        """MLflow's client tries for minutes before it says so."""
        if self._made is not None:
            return
        try:
            with urllib.request.urlopen(f"{self._url}/health", timeout=CONNECT_TIMEOUT_S):
                return
        except urllib.error.HTTPError as error:
            error.close()  # there is somebody; whether they let us in, MLflow's client finds out
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise RegistryError(
                f"Registry {self.uri} must be reached; {reason}. Start the MLflow server, or check host and "
                "port."
            ) from error


def _alias(held: Any, channel: str) -> int:
    return int(held.aliases.get(channel, 0))


def _same(client: Any, model: str, content: bytes) -> list[Any]:
    """Returns MLflow's model versions with these bytes."""
    return list(client.search_model_versions(f"name='{model}' AND tag.`{_SHA256}`='{_sha256(content)}'"))


def _changes(held: Any, channel: str) -> list[_Change]:
    """Returns the changes of a channel by time, as its publishers' clocks have it."""
    prefix = f"{_TAG}event.{channel}."
    found = [
        (key, jsonable.loads(held.tags[key], where=f"tag '{key}'"))
        for key in held.tags
        if key.startswith(prefix)
    ]
    try:
        return [_Change(**said) for _, said in sorted(found)]
    except TypeError as error:
        raise RegistryError(
            f"Tags '{prefix}*' of '{held.name}' must be changes of a channel; {error}. They were not made by "
            "this registry's publisher."
        ) from error


def _channels(held: Any) -> list[str]:
    return sorted({key.split(".")[2] for key in held.tags if key.startswith(f"{_TAG}event.")})


def _replayed(changes: list[_Change]) -> tuple[list[int], set[int]]:
    """Returns what a channel offered at first, nothing, and after each change; and what was withdrawn."""
    states, withdrawn = [0], set()
    for change in changes:
        offered = states[-1]
        if change.action == "withdraw":
            withdrawn.add(change.version)
            if offered == change.version:
                offered = _before(states, withdrawn)
        elif change.version not in withdrawn:
            # a publisher that was overtaken does not take the channel back
            offered = max(change.version, offered) if change.action == "publish" else change.version
        states.append(offered)
    return states, withdrawn


def _before(states: list[int], withdrawn: set[int]) -> int:
    """Returns what a channel offered before the version came that it offers now, and was not withdrawn."""
    earlier = states[: states.index(states[-1])]
    return next((version for version in reversed(earlier) if version and version not in withdrawn), 0)


def _offered(held: Any, channel: str) -> int:
    return _replayed(_changes(held, channel))[0][-1]


def _has_to_drop(changes: list[_Change], version: int) -> bool:
    of_version = {change.action for change in changes if change.version == version}
    return bool(of_version) and "withdraw" not in of_version


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
