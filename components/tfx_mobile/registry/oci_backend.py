"""A registry in an OCI registry, the kind that holds container images: one artifact a file.

```
<repository>/<model>:v3  :v3-<variant>      the artifact of a file; attachments are further layers
<repository>/<model>:channel-<channel>      what it gives a device that says nothing, for `oras pull`
<repository>/<model>:ledger                 a `ledger.Ledger`: shares, targeting and history; put last
```

A mirror: content is addressed by sha256, which is checked here on every download (oras-py does not), and
nobody has signed it. What `resolve` gives is what the ledger says; the channel's tag follows it for other
tools. The protocol has no conditional write: publishers on one machine wait for each other, one that sees
a ledger of another machine's where its own should be says so, but two machines at the same moment can lose
a change. Blobs of withdrawn versions stay until the registry's own garbage collection.
Source: OCI distribution specification 1.1, image specification 1.1 ("guidelines for artifact usage").
"""

import contextlib
import fcntl
import hashlib
import http.cookiejar
import ipaddress
import json
import logging
import os
import re
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tfx_mobile.common import jsonable
from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry import names
from tfx_mobile.registry.adapter import NothingReleased
from tfx_mobile.registry.backend import Published
from tfx_mobile.registry.ledger import MAX_ATTACHMENT_BYTES, Ledger, LedgerFile
from tfx_mobile.registry.mirror import Mirror
from tfx_mobile.registry.targeting import EVERYONE_PERMILLE, Device, Targeting

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
FILE_TYPE = "application/vnd.tfx-mobile.model.v1+tflite"
ATTACHMENT_TYPE = "application/vnd.tfx-mobile.attachment.v1"
LEDGER_TYPE = "application/vnd.tfx-mobile.ledger.v1+json"
LEDGER_TAG = "ledger"
_TITLE = "org.opencontainers.image.title"
_CREATED = "org.opencontainers.image.created"
_OWN = "dev.tfx-mobile."
_MAX_MANIFEST_BYTES = 4 << 20  # what the specification asks registries to take
_MAX_LEDGER_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 60
_EMPTY = b"{}"
_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,5})?|\[::1\](?::[0-9]{1,5})?")


class OciBackend(Mirror):
    """A registry in an OCI registry. Opening reads nothing.

    Args:
      uri: oci://host/repository; oci+http://host/repository for plain HTTP, on this machine only. Credentials
        are those of `docker login` or `oras login`; the URI has none.

    Raises:
      ConfigError: The URI is something else.
      ImportError: oras is not installed.
    """

    def __init__(self, uri: str) -> None:
        import oras.auth  # type: ignore[import-untyped]
        import requests

        self.uri = uri.rstrip("/")
        self._host, self._repository, self._insecure = _parsed(self.uri)
        self._session = requests.Session()
        self._session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        self._auth: Any = None
        logging.getLogger(oras.auth.__name__).setLevel(logging.CRITICAL)  # what goes wrong, we say

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
        """Makes `content` a version of `model` and offers it in `channel`; see `Backend.publish`."""
        with self._locked():
            found = self._read_ledger(names.check_name("Model", model))
            before = found[0] if found else Ledger(model)
            ledger, file = before.publish(
                content,
                version=version,
                variant=variant,
                channel=channel,
                metadata=metadata,
                rollout_permille=rollout_permille,
                targeting=targeting,
                attachments=attachments,
            )
            created = file not in before.files
            if created:
                layers = [self._put_blob(model, content, FILE_TYPE, {_TITLE: f"{model}.tflite"})]
                layers += [
                    self._put_blob(model, data, ATTACHMENT_TYPE, {_TITLE: name})
                    for name, data in (attachments or {}).items()
                ]
                self._put_artifact(model, version_tag(file), FILE_TYPE, layers, _annotations(model, file))
            if ledger is not before:
                self._commit(model, before, ledger, found[1] if found else "")
        self._read_file(model, file)
        return Published(
            model=model,
            version=file.version,
            variant=file.variant,
            channel=channel,
            channel_version=ledger.past(channel)[-1].version,
            sha256=file.sha256,
            size_bytes=file.size_bytes,
            created=created,
            uri=f"{self._host}/{self._repository}/{model}:{version_tag(file)}",
        )

    def withdraw(self, model: str, version: int, *, reason: str) -> None:
        """Takes a version out of every channel, for ever, and its tags away; see `Backend.withdraw`.

        Raises:
          RegistryError: There is no such version; or the registry does not let manifests be deleted, then
            nothing has changed.
        """
        with self._locked():
            found = self._found(model)
            changed = found[0].withdraw(version, reason=reason)
            # What may be refused comes first. Dying in between leaves no tag: withdraw again.
            for file in changed.files:
                if file.version == version:
                    self._delete_tag(model, version_tag(file))
            if changed != found[0]:
                self._commit(model, found[0], changed, found[1])

    def ledger(self, model: str) -> Ledger:
        """Returns what the registry's ledger of `model` says; see `Mirror.ledger`."""
        return self._found(model)[0]

    def _found(self, model: str) -> tuple[Ledger, str]:
        found = self._read_ledger(names.check_name("Model", model))
        if found is None:
            raise NothingReleased(f"Registry {self.uri} must hold model '{model}'; it does not. Publish it.")
        return found

    def _change(self, model: str, change: Callable[[Ledger], Ledger]) -> Ledger:
        with self._locked():
            before, digest = self._found(model)
            changed = change(before)
            self._commit(model, before, changed, digest)
            return changed

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One publisher at a time on this machine, for this user; the protocol has nothing for more."""
        name = hashlib.sha256(f"{self._host}/{self._repository}".encode()).hexdigest()[:16]
        path = os.path.join(tempfile.gettempdir(), f"tfx-mobile-oci-{os.getuid()}-{name}.lock")
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise RegistryError(
                f"Lock must be a file that can be written; {path}: {error.strerror}."
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _commit(self, model: str, before: Ledger, changed: Ledger, digest: str) -> None:
        """Moves the channels' tags and puts the ledger, unless it is another one than `digest` by now."""
        now = self._read_ledger(model)
        if (now[1] if now else "") != digest:
            raise RegistryError(
                f"Registry {self.uri} must have one publisher at a time; another changed '{model}' "
                "meanwhile. Try again."
            )
        layer = self._put_blob(model, changed.to_json().encode(), LEDGER_TYPE, {_TITLE: "ledger.json"})
        for channel, past in changed.channels.items():
            if past != before.channels.get(channel):
                self._tag_channel(model, changed, channel)
        put = self._put_artifact(model, LEDGER_TAG, LEDGER_TYPE, [layer], {_OWN + "model": model})
        if (now := self._read_ledger(model)) is None or now[1] != put:
            raise RegistryError(
                f"Registry {self.uri} must have one publisher at a time; another changed '{model}' at "
                "the same moment. Look at its history, and try again."
            )

    def _tag_channel(self, model: str, ledger: Ledger, channel: str) -> None:
        """Lets the channel's tag name the file that asks nothing of a device; no tag where there is none."""
        tag, record = f"channel-{channel}", ledger.past(channel)[-1]
        for_all = [one for one in record.rollouts if not one.misfit(Device())]
        if not for_all:
            self._delete_tag(model, tag)
            return
        file = ledger.file(for_all[0].version, for_all[0].variant)
        found = self._get_manifest(model, version_tag(file))
        if found is None:
            raise RegistryError(f"{self._at(model, version_tag(file))} is missing. Publish again.")
        # With annotations of its own, so that deleting it, which is by digest, leaves the version.
        about = {_OWN + "channel": channel, _OWN + "sequence": str(record.sequence)}
        layers = found[0]["layers"]
        self._put_artifact(model, tag, FILE_TYPE, layers, {**_annotations(model, file), **about})

    def _read_ledger(self, model: str) -> tuple[Ledger, str] | None:
        found = self._get_manifest(model, LEDGER_TAG)
        if found is None:
            return None
        manifest, digest = found
        where = self._at(model, LEDGER_TAG)
        if len(layers := manifest["layers"]) != 1:
            raise RegistryError(f"{where} must have one layer; it has not. Something else wrote it.")
        content = self._get_blob(model, str(layers[0].get("digest")), _MAX_LEDGER_BYTES)
        try:
            ledger = Ledger.from_json(content.decode("utf-8", "replace"))
        except ConfigError as error:
            raise RegistryError(f"{where} is not as it was published: {error}") from error
        if ledger.model != model:
            raise RegistryError(f"{where} must be about '{model}'; got '{ledger.model}'. Restore it.")
        return ledger, digest

    def _read_file(self, model: str, file: LedgerFile) -> bytes:
        tag = version_tag(file)
        found = self._get_manifest(model, tag)
        if found is None:
            raise RegistryError(f"{self._at(model, tag)} is missing. Restore it, or withdraw the version.")
        digest = f"sha256:{file.sha256}"
        if [layer.get("digest") for layer in found[0]["layers"][:1]] != [digest]:
            raise RegistryError(
                f"{self._at(model, tag)} must hold {digest} first, as published; it does not. The tag was "
                "moved: restore it, or withdraw the version."
            )
        return self._get_blob(model, digest, file.size_bytes)

    def _read_attachment(self, model: str, file: LedgerFile, name: str) -> bytes:
        return self._get_blob(model, f"sha256:{file.attachments[name]}", MAX_ATTACHMENT_BYTES)

    # The protocol, by oras for URLs and credentials; digests are checked here.

    def _get_manifest(self, model: str, tag: str) -> tuple[dict[str, Any], str] | None:
        """Returns a manifest and its digest; None when there is no such tag."""
        response = self._request("GET", model, f"manifests/{tag}", headers={"Accept": MANIFEST_TYPE})
        if response.status_code == 404:
            return None
        self._expect(response, 200, self._at(model, tag))
        content = self._content(response, _MAX_MANIFEST_BYTES, self._at(model, tag))
        digest = _digest(content)
        said = response.headers.get("Docker-Content-Digest", digest)
        if said != digest:
            raise RegistryError(
                f"{self._at(model, tag)} must be what its digest says, {said}; got {digest}. It was "
                "changed on the way or on the server: restore it."
            )
        try:
            manifest = jsonable.loads(content, where=self._at(model, tag))
        except ConfigError as error:
            raise RegistryError(f"{error} Restore it.") from error
        layers = manifest.get("layers") if isinstance(manifest, dict) else None
        if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
            raise RegistryError(f"{self._at(model, tag)} must list its layers; it does not. Restore it.")
        return manifest, digest

    def _get_blob(self, model: str, digest: str, size_bytes: int) -> bytes:
        where = f"{self._host}/{self._repository}/{model}@{digest}"
        response = self._request("GET", model, f"blobs/{digest}", stream=True)
        if response.status_code == 404:
            raise RegistryError(f"{where} is missing. Restore it, or publish again.")
        self._expect(response, 200, where)
        content = self._content(response, size_bytes, where)
        if (got := _digest(content)) != digest:
            raise RegistryError(
                f"{where} must be what its digest says; got {got}. It was changed: restore it, or withdraw "
                "the version."
            )
        return content

    def _put_blob(
        self, model: str, content: bytes, media_type: str, annotations: Mapping[str, str]
    ) -> dict[str, Any]:
        """Uploads a blob, unless it is there, and returns its descriptor."""
        digest = _digest(content)
        where = f"{self._host}/{self._repository}/{model}@{digest}"
        if self._request("HEAD", model, f"blobs/{digest}").status_code != 200:
            begun = self._request("POST", model, "blobs/uploads/")
            self._expect(begun, 202, where)
            place = urllib.parse.urljoin(begun.url, begun.headers.get("Location", ""))
            ending = "&" if "?" in place else "?"
            put = self._send(
                "PUT",
                f"{place}{ending}{urllib.parse.urlencode({'digest': digest})}",
                data=content,
                headers={"Content-Type": "application/octet-stream"},
            )
            self._expect(put, 201, where)
        return {
            "mediaType": media_type,
            "digest": digest,
            "size": len(content),
            **({"annotations": dict(annotations)} if annotations else {}),
        }

    def _put_artifact(
        self,
        model: str,
        tag: str,
        artifact_type: str,
        layers: list[dict[str, Any]],
        annotations: Mapping[str, str],
    ) -> str:
        """Puts a manifest under a tag and returns its digest."""
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": artifact_type,
            "config": self._put_blob(model, _EMPTY, EMPTY_TYPE, {}),
            "layers": layers,
            "annotations": dict(annotations),
        }
        content = json.dumps(manifest, sort_keys=True).encode()
        response = self._request(
            "PUT", model, f"manifests/{tag}", data=content, headers={"Content-Type": MANIFEST_TYPE}
        )
        self._expect(response, 201, self._at(model, tag))
        return _digest(content)

    def _delete_tag(self, model: str, tag: str) -> None:
        """Takes a tag away by deleting its manifest, which has no other; none there is as good."""
        if (found := self._get_manifest(model, tag)) is None:
            return
        response = self._request("DELETE", model, f"manifests/{found[1]}")
        if response.status_code == 405:
            raise RegistryError(
                f"Registry {self.uri} must allow deleting manifests to take {tag} away; it does not. Have "
                "its operator allow it (docker-registry: storage.delete.enabled)."
            )
        if response.status_code != 404:
            self._expect(response, 202, self._at(model, tag))

    def _request(self, method: str, model: str, path: str, **options: Any) -> Any:
        return self._send(method, f"{self._address}/{self._repository}/{model}/{path}", **options)

    @property
    def _address(self) -> str:
        return f"{'http' if self._insecure else 'https'}://{self._host}/v2"

    def _send(self, method: str, url: str, **options: Any) -> Any:
        """Sends a request, and again with credentials when the server asks for them."""
        import requests

        headers = {**options.pop("headers", {})}
        options["timeout"] = _TIMEOUT_S
        try:
            if self._auth is None:
                self._auth = self._load_auth()
            known = (
                {**headers, **self._auth.get_auth_header()} if getattr(self._auth, "token", "") else headers
            )
            response = self._session.request(method, url, headers=known, **options)
            if response.status_code == 401:
                self._auth.token = None  # it may be too old, or for something else
                headers, can_try = self._auth.authenticate_request(response, headers)
                if not can_try:
                    raise ValueError("docker's configuration has none that the server takes")
                response = self._session.request(method, url, headers=headers, **options)
        except (requests.RequestException, ValueError) as error:
            raise RegistryError(
                f"Registry {self.uri} must be reached, with credentials of `docker login` where it asks for "
                f"them; {type(error).__name__}: {error}."
            ) from error
        return response

    def _load_auth(self) -> Any:
        """Reads docker's configuration, for the way in which the server wants to be shown credentials."""
        import oras.auth
        import oras.container  # type: ignore[import-untyped]

        asked = self._session.get(f"{self._address}/", timeout=_TIMEOUT_S)
        is_basic = asked.headers.get("Www-Authenticate", "").lower().startswith("basic")
        auth = oras.auth.get_auth_backend("basic" if is_basic else "token", self._session, self._insecure)
        container = oras.container.Container(self._repository)
        container.registry = self._host
        auth.load_configs(container)
        if is_basic and not hasattr(auth, "_basic_auth"):
            raise ValueError(f"docker's configuration has none for {self._host}")
        return auth

    def _content(self, response: Any, limit: int, where: str) -> bytes:
        import requests

        content = bytearray()
        try:
            for chunk in response.iter_content(_CHUNK_BYTES):
                content += chunk
                if len(content) > limit:
                    raise RegistryError(
                        f"{where} must have at most {limit} bytes, as published; it has more. It was "
                        "changed: restore it."
                    )
        except requests.RequestException as error:
            raise RegistryError(f"{where} must be sent whole; {type(error).__name__}: {error}.") from error
        finally:
            response.close()
        return bytes(content)

    def _expect(self, response: Any, status: int, where: str) -> None:
        if response.status_code != status:
            raise RegistryError(
                f"Registry {self.uri} must answer {status} for {where}; got {response.status_code} "
                f"{response.reason}. Check its name, your rights and its log."
            )

    def _at(self, model: str, tag: str) -> str:
        return f"{self._host}/{self._repository}/{model}:{tag}"


def version_tag(file: LedgerFile) -> str:
    """Returns the tag of a file: `v3`, of variant x `v3-x`."""
    return f"v{file.version}" if file.variant == names.DEFAULT_VARIANT else f"v{file.version}-{file.variant}"


def _annotations(model: str, file: LedgerFile) -> dict[str, str]:
    published = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(file.published_unix_s))
    return {
        _CREATED: published,
        _OWN + "model": model,
        _OWN + "version": str(file.version),
        _OWN + "variant": file.variant,
        _OWN + "sha256": file.sha256,
        _OWN + "metadata": jsonable.dumps(file.metadata),
    }


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _parsed(uri: str) -> tuple[str, str, bool]:
    """Returns host with port, repository, and whether it is plain HTTP."""
    found = urllib.parse.urlsplit(uri)
    parts = found.path.strip("/").split("/")
    insecure = found.scheme == "oci+http"
    if (
        found.scheme in ("oci", "oci+http")
        and _HOST.fullmatch(found.netloc)
        and all(_PART.fullmatch(part) for part in parts)
        and not (found.query or found.fragment)
        and (not insecure or _is_loopback(found.hostname or ""))
    ):
        return found.netloc, "/".join(parts), insecure
    shown = re.sub(r"//[^/@]*@", "//...@", uri)
    raise ConfigError(
        "OCI registry must be oci://host/repository, or oci+http:// on this machine, in lower case and "
        f"without credentials, tag or query; got {shown!r}."
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
