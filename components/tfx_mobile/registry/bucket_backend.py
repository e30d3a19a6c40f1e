"""A registry in a bucket: one JSON manifest a model, and files whose names are their hashes.

```
<prefix>/<model>/manifest.json                              a `ledger.Ledger`; what an app reads
<prefix>/<model>/<version>/<sha256>.<variant>.tflite        written before the manifest that names it
<prefix>/<model>/<version>/<sha256>.<variant>.with.<name>   an attachment
```

A mirror: what it hands out has the sha256 that the manifest says, and nobody has signed the manifest. The
manifest is replaced only if it is still the one that was read (ETag on S3, generation on Google Cloud
Storage, a lock in a folder), and made anew otherwise, so concurrent publishers lose nothing. Does not delete.
Source: conditional writes of S3 (`If-Match`, `If-None-Match`) and of Cloud Storage (`ifGenerationMatch`).
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.common.files import write_atomically
from tfx_mobile.registry import names
from tfx_mobile.registry.adapter import NothingReleased
from tfx_mobile.registry.backend import Published
from tfx_mobile.registry.ledger import MAX_ATTACHMENT_BYTES, Ledger, LedgerFile
from tfx_mobile.registry.mirror import Mirror
from tfx_mobile.registry.targeting import EVERYONE_PERMILLE, Targeting

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 64 << 20
_MAX_TRIES = 50  # of a change that others overtake
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,127}")


class BucketBackend(Mirror):
    """A registry in a folder, an S3 bucket or a Google Cloud Storage bucket. Opening reads nothing.

    Args:
      uri: bucket+file:///folder, bucket+s3://bucket/prefix or bucket+gs://bucket/prefix. Credentials are
        those that the cloud's own tools find; the URI has none.
      storage_options: For s3fs or gcsfs, such as an endpoint; not for what is secret.

    Raises:
      ConfigError: The URI is something else, or has credentials, a query or a path with '..'.
      ImportError: s3fs or gcsfs is not installed.
    """

    def __init__(self, uri: str, *, storage_options: Mapping[str, Any] | None = None) -> None:
        self.uri = uri.rstrip("/")
        self._objects = _opened(self.uri, storage_options or {})
        self._is_checked = False

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
        created = False

        def change(ledger: Ledger) -> Ledger:
            nonlocal created
            changed, file = ledger.publish(
                content,
                version=version,
                variant=variant,
                channel=channel,
                metadata=metadata,
                rollout_permille=rollout_permille,
                targeting=targeting,
                attachments=attachments,
            )
            if created := file not in ledger.files:
                self._write_new(file_path(model, file), content)
                for name, data in (attachments or {}).items():
                    self._write_new(attachment_path(model, file, name), data)
            published.append(file)
            return changed

        published: list[LedgerFile] = []
        ledger = self._change(model, change, makes=True)
        file = published[-1]
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
            uri=f"{self.uri.removeprefix('bucket+')}/{file_path(model, file)}",
        )

    def ledger(self, model: str) -> Ledger:
        """Returns what the bucket's manifest of `model` says; see `Mirror.ledger`."""
        found = self._read_manifest(names.check_name("Model", model))
        if found is None:
            raise NothingReleased(f"Registry {self.uri} must hold model '{model}'; it does not. Publish it.")
        return found[0]

    def _change(self, model: str, change: Callable[[Ledger], Ledger], *, makes: bool = False) -> Ledger:
        """Replaces the manifest by what `change` makes of it, anew for as long as others overtake."""
        path = f"{names.check_name('Model', model)}/{MANIFEST}"
        for tries in range(_MAX_TRIES):
            found = self._read_manifest(model)
            if found is None and not makes:
                self.ledger(model)
            ledger, tag = found or (Ledger(model), None)
            changed = change(ledger)
            if found is not None and changed is ledger:
                return ledger
            self._check_conditions(model)
            content = changed.to_json().encode()
            try:
                written = (
                    self._objects.create(path, content)
                    if tag is None
                    else self._objects.replace(path, content, tag)
                )
            except OSError as error:
                raise self._unreached(path, error) from error
            now = self._read_manifest(model)
            if now is None:
                raise RegistryError(f"Registry {self.uri} must keep what is written; {path} is not there.")
            if written or now[0] == changed:  # the client had asked again for an answer that was lost
                return changed
            time.sleep(secrets.randbelow(1000) / 1000 * min(1.0, 0.01 * 2**tries))
        raise RegistryError(
            f"Registry {self.uri} must let a publisher finish; others changed '{model}' {_MAX_TRIES} times "
            "in between. Publish again."
        )

    def _check_conditions(self, model: str) -> None:
        """Fails closed where a server takes conditional writes and forgets the condition."""
        if self._is_checked:
            return
        path = f"{model}/.exclusive"
        try:
            self._objects.create(path, b"")
            is_exclusive = not self._objects.create(path, b"")
        except OSError as error:
            raise self._unreached(path, error) from error
        if not is_exclusive:
            raise RegistryError(
                f"Registry {self.uri} must refuse to make an object that is there (If-None-Match, "
                "ifGenerationMatch); it made it twice, so publishers could lose each other's versions. Use a "
                "server that knows conditional writes."
            )
        self._is_checked = True

    def _read_manifest(self, model: str) -> tuple[Ledger, str] | None:
        path = f"{model}/{MANIFEST}"
        try:
            found = self._objects.read(path, MAX_MANIFEST_BYTES)
        except OSError as error:
            raise self._unreached(path, error) from error
        if found is None:
            return None
        content, tag = found
        try:
            ledger = Ledger.from_json(content.decode("utf-8", "replace"))
        except ConfigError as error:
            raise RegistryError(f"{self.uri}/{path} is not as it was published: {error}") from error
        if ledger.model != model:
            raise RegistryError(
                f"{self.uri}/{path} must be about '{model}'; got '{ledger.model}'. Restore it from a backup."
            )
        return ledger, tag

    def _write_new(self, path: str, content: bytes) -> None:
        """Writes an object whose name is its hash; one that is there already is what we would write."""
        self._check_conditions(path.partition("/")[0])
        try:
            self._objects.create(path, content)
        except OSError as error:
            raise self._unreached(path, error) from error
        self._read(path, hashlib.sha256(content).hexdigest(), len(content))

    def _read_file(self, model: str, file: LedgerFile) -> bytes:
        return self._read(file_path(model, file), file.sha256, file.size_bytes)

    def _read_attachment(self, model: str, file: LedgerFile, name: str) -> bytes:
        return self._read(attachment_path(model, file, name), file.attachments[name], MAX_ATTACHMENT_BYTES)

    def _read(self, path: str, sha256: str, size_bytes: int) -> bytes:
        try:
            found = self._objects.read(path, size_bytes)
        except OSError as error:
            raise self._unreached(path, error) from error
        if found is None:
            raise RegistryError(f"{self.uri}/{path} is missing. Restore it, or publish again.")
        if (got := hashlib.sha256(found[0]).hexdigest()) != sha256:
            raise RegistryError(
                f"{self.uri}/{path} must have the sha256 in its name, as published; got {got}. It was "
                "changed: restore it, or withdraw the version."
            )
        return found[0]

    def _unreached(self, path: str, error: OSError) -> RegistryError:
        return RegistryError(
            f"Registry {self.uri} must be reached and writable; {path}: {error.strerror or error}. Check the "
            "bucket, its permissions and your credentials."
        )


def file_path(model: str, file: LedgerFile) -> str:
    """Returns where a file lies below the prefix: `taxi-fare/3/<sha256>.default.tflite`."""
    return f"{model}/{file.version}/{file.sha256}.{file.variant}.tflite"


def attachment_path(model: str, file: LedgerFile, name: str) -> str:
    """Returns where an attachment lies: `taxi-fare/3/<its sha256>.default.with.evaluation.html`."""
    return f"{model}/{file.version}/{file.attachments[name]}.{file.variant}.with.{name}"


class _Objects(Protocol):
    """What a bucket does; raises OSError for what is neither missing nor a broken condition."""

    def read(self, path: str, limit: int) -> tuple[bytes, str] | None:
        """Returns an object, at most `limit` + 1 bytes of it, and its tag; None when there is none."""
        ...

    def create(self, path: str, content: bytes) -> bool:
        """Makes an object; False when there is one."""
        ...

    def replace(self, path: str, content: bytes, tag: str) -> bool:
        """Replaces an object; False when it has another tag by now."""
        ...


class _Folder:
    """Objects as files; one writer at a time, by a lock file that ends with its process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, path: str, limit: int) -> tuple[bytes, str] | None:
        try:
            with (self._folder / path).open("rb") as stream:
                content = stream.read(limit + 1)
        except FileNotFoundError:
            return None
        return content, hashlib.sha256(content).hexdigest()

    def create(self, path: str, content: bytes) -> bool:
        return self._write(path, content, None)

    def replace(self, path: str, content: bytes, tag: str) -> bool:
        return self._write(path, content, tag)

    def _write(self, path: str, content: bytes, tag: str | None) -> bool:
        self._folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            found = self.read(path, MAX_MANIFEST_BYTES)
            if (found[1] if found else None) != tag:
                return False
            write_atomically(self._folder / path, content)
        finally:
            os.close(handle)
        return True


class _S3:
    """Objects in S3, by s3fs; the tag is the ETag."""

    def __init__(self, root: str, options: Mapping[str, Any]) -> None:
        import s3fs  # type: ignore[import-untyped]

        self._root = root
        self._files = s3fs.S3FileSystem(
            **{"use_listings_cache": False, "skip_instance_cache": True, **options}
        )

    def read(self, path: str, limit: int) -> tuple[bytes, str] | None:
        for _ in range(_MAX_TRIES):
            try:
                with (
                    _as_os_error(),
                    self._files.open(f"{self._root}/{path}", "rb", cache_type="none") as stream,
                ):
                    return stream.read(limit + 1), str(stream.details["ETag"])
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno != errno.EBUSY:  # replaced between the two requests
                    raise
        raise OSError(errno.EBUSY, "it is replaced all the time")

    def create(self, path: str, content: bytes) -> bool:
        return self._put(path, content, mode="create")

    def replace(self, path: str, content: bytes, tag: str) -> bool:
        return self._put(path, content, IfMatch=tag)

    def _put(self, path: str, content: bytes, **condition: str) -> bool:
        try:
            with _as_os_error():
                self._files.pipe_file(f"{self._root}/{path}", content, **condition)
        except FileExistsError:
            return False
        except OSError as error:
            if _s3_code(error) in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409"):
                return False
            raise
        return True


class _Gcs:
    """Objects in Google Cloud Storage, by gcsfs; the tag is the generation."""

    def __init__(self, root: str, options: Mapping[str, Any]) -> None:
        import gcsfs  # type: ignore[import-untyped]

        self._bucket, _, self._prefix = root.partition("/")
        self._files = gcsfs.GCSFileSystem(
            **{"use_listings_cache": False, "skip_instance_cache": True, **options}
        )

    def read(self, path: str, limit: int) -> tuple[bytes, str] | None:
        try:
            headers, content = self._call("GET", "b/{}/o/{}", self._bucket, self._name(path), alt="media")
        except FileNotFoundError:
            return None
        return content[: limit + 1], str(headers["X-Goog-Generation"])

    def create(self, path: str, content: bytes) -> bool:
        return self._put(path, content, "0")

    def replace(self, path: str, content: bytes, tag: str) -> bool:
        return self._put(path, content, tag)

    def _put(self, path: str, content: bytes, generation: str) -> bool:
        boundary = secrets.token_hex(16)  # gcsfs can only ask that there be no object: ask ourselves
        described = f'{{"name":"{self._name(path)}"}}'
        body = (
            f"--{boundary}\r\nContent-Type: application/json\r\n\r\n{described}\r\n"
            f"--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n"
        ).encode()
        try:
            self._call(
                "POST",
                self._files.base.replace("/storage/v1/", "/upload/storage/v1/") + "b/{}/o",
                self._bucket,
                uploadType="multipart",
                ifGenerationMatch=generation,
                headers={"Content-Type": f"multipart/related; boundary={boundary}"},
                data=body + content + f"\r\n--{boundary}--".encode(),
            )
        except FileExistsError:
            return False
        return True

    def _call(self, *arguments: str, **options: Any) -> Any:
        with _as_os_error():
            return self._files.call(*arguments, **options)

    def _name(self, path: str) -> str:
        return f"{self._prefix}/{path}" if self._prefix else path


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    """Makes one kind of error of those that s3fs, gcsfs and what is below them raise."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        known = (error_class.__module__.partition(".")[0] for error_class in type(error).__mro__)
        if not {"botocore", "aiohttp", "gcsfs", "google", "fsspec"} & set(known):
            raise
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error


def _s3_code(error: OSError) -> str:
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _opened(uri: str, options: Mapping[str, Any]) -> _Objects:
    found = urllib.parse.urlsplit(uri)
    kind = found.scheme.removeprefix("bucket+")
    where = found.path.strip("/")
    if found.scheme == "bucket+file" and not found.netloc and where:
        if options:
            raise ConfigError(f"Registry {uri!r} takes no storage_options; got {', '.join(sorted(options))}.")
        folder = urllib.request.url2pathname(found.path)
        if not (found.query or found.fragment or ".." in Path(folder).parts):
            return _Folder(Path(folder))
    elif kind in ("s3", "gs") and _BUCKET.fullmatch(found.netloc) and not (found.query or found.fragment):
        parts = where.split("/") if where else []
        if all(_PART.fullmatch(part) for part in parts):
            root = "/".join([found.netloc, *parts])
            return _S3(root, options) if kind == "s3" else _Gcs(root, options)
    raise ConfigError(
        "Bucket registry must be bucket+file:///folder, bucket+s3://bucket/prefix or "
        f"bucket+gs://bucket/prefix, without credentials, query or '..'; got {_without_credentials(uri)!r}."
    )


def _without_credentials(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//...@", uri)
