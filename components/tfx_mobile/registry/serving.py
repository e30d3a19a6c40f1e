"""Serves a registry and its site over HTTP on this machine, for trying what a web server will do.

    /metadata/...  /targets/...   the repository, as phones fetch it
    /site/...                     the catalogue, made anew when the registry has changed
    /                             leads to the site

Static files only: nothing is listed, nothing outside the two folders is read, names with a leading dot are
not there. What is published was written by others, so a browser gets it as something to save and never as a
page. For production any web server will do: docs/registry-site.md. Does not encrypt and does not log.
"""

import contextlib
import email.utils
import http
import http.server
import os
import re
import shlex
import signal
import sys
import tempfile
import threading
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from tfx_mobile.common.errors import ConfigError, TfxMobileError
from tfx_mobile.registry import site

# What never changes under its name: consistent snapshots begin with a version or a sha256.
_IMMUTABLE = re.compile(r"/metadata/[1-9][0-9]*\.[^/]+\.json|/targets/(?:[^/]+/)*[0-9a-f]{64}\.[^/]+")
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_CHUNK_BYTES = 1 << 16
_IDLE_S = 30.0
_REPOSITORY, _SITE = ("/metadata/", "/targets/"), "site"


class Server(http.server.ThreadingHTTPServer):
    """A running server; `serve_forever` serves, `shutdown` from another thread ends it.

    Args:
      repository: The registry's folder.
      root: File with the root to trust, for the site.
      host: Address to listen on.
      port: 0 takes a free one.
      scratch: Folder for the site.

    Raises:
      ConfigError: The address cannot be listened on, or the root cannot be read.
      RegistryError: There is no registry, or a file of it is missing or differs from what was signed.
    """

    daemon_threads = True
    request_queue_size = 1024  # the default of 5 makes clients wait for seconds when many come at once

    def __init__(self, repository: Path, root: Path, *, host: str, port: int, scratch: Path) -> None:
        self.repository, self._root = repository.resolve(), root
        self.site = scratch.resolve() / _SITE
        self._seen: Any = None
        self._making = threading.Lock()
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"Registry must be served at a free address of this machine; got {host}, port {port}: "
                f"{str(error).rstrip('.')}. Name another."
            ) from error
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.server_address[1]}"
        try:
            self._make_site()
        except BaseException:
            self.server_close()
            raise

    def open(self, path: str) -> BinaryIO | None:
        """Returns the file of a URL's path, decoded; None where there is none to be served."""
        if not path.startswith(f"/{_SITE}/"):
            return _opened(self.repository, path) if path.startswith(_REPOSITORY) else None
        with self._making:
            with contextlib.suppress(TfxMobileError):  # the old one stays
                self._make_site()
            return _opened(self.site.parent, f"{path}index.html" if path.endswith("/") else path)

    def _make_site(self) -> None:
        state = None
        with contextlib.suppress(OSError):
            now = (self.repository / "metadata" / "timestamp.json").stat()
            state = now.st_mtime_ns, now.st_ino
        if state is None or state != self._seen:
            site.write(self.repository, self._root, self.site, url=self.url)
            self._seen = state

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says what went wrong, unless it is a client that went away."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_S
    server: Server

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def version_string(self) -> str:
        """Returns the name of the server, without Python's version."""
        return "tfx-mobile"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a terminal with one command in it."""

    def _answer(self, *, has_body: bool) -> None:
        try:
            path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path, errors="strict")
        except ValueError:
            self._head(http.HTTPStatus.BAD_REQUEST, {"Cache-Control": "no-store"})
            return
        if path in ("/", f"/{_SITE}"):
            self._head(http.HTTPStatus.FOUND, {"Location": f"/{_SITE}/", "Cache-Control": "no-cache"})
        elif (stream := self.server.open(path)) is None:
            self._head(http.HTTPStatus.NOT_FOUND, {"Cache-Control": "no-store"})
        else:
            with stream:
                self._send(stream, path, has_body=has_body)

    def _send(self, stream: BinaryIO, path: str, *, has_body: bool) -> None:
        state = os.fstat(stream.fileno())
        size, tag = state.st_size, f'"{state.st_mtime_ns:x}-{state.st_size:x}"'
        headers = {
            "ETag": tag,
            "Last-Modified": email.utils.formatdate(state.st_mtime, usegmt=True),
            "Cache-Control": "public, max-age=31536000, immutable"
            if _IMMUTABLE.fullmatch(path)
            else "no-cache",
        }
        if tag in [word.strip() for word in self.headers.get("If-None-Match", "").split(",")]:
            self._head(http.HTTPStatus.NOT_MODIFIED, headers)
            return
        headers |= {"Accept-Ranges": "bytes", "Content-Type": _type(path)}
        if not path.startswith(f"/{_SITE}/"):
            headers["Content-Security-Policy"] = "sandbox; default-src 'none'"
        first, past, status = 0, size, http.HTTPStatus.OK
        asked = _RANGE.fullmatch(self.headers.get("Range", "").strip())
        if asked and asked[0] != "bytes=-" and self.headers.get("If-Range", tag) == tag:
            first, past = _span(asked[1], asked[2], size)
            if first >= past:
                headers["Content-Range"] = f"bytes */{size}"
                self._head(http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers)
                return
            status = http.HTTPStatus.PARTIAL_CONTENT
            headers["Content-Range"] = f"bytes {first}-{past - 1}/{size}"
        self._head(status, headers, length=past - first)
        if has_body:
            stream.seek(first)
            while first < past and (chunk := stream.read(min(_CHUNK_BYTES, past - first))):
                self.wfile.write(chunk)
                first += len(chunk)
            self.close_connection |= first < past  # the file has become shorter

    def _head(self, status: http.HTTPStatus, headers: Mapping[str, str], *, length: int = 0) -> None:
        self.send_response(status)
        if status is not http.HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", str(length))
        for name, value in {**headers, "X-Content-Type-Options": "nosniff"}.items():
            self.send_header(name, value)
        self.end_headers()


def serve(repository: Path, root: Path, *, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serves until SIGINT or SIGTERM; says where, and what to try.

    Call it from the main thread: it takes the two signals.

    Args:
      repository: The registry's folder.
      root: File with the root to trust.
      host: Address to listen on; the default is reached from this machine only.
      port: 0 takes a free one.

    Raises:
      ConfigError: As `Server`.
      RegistryError: As `Server`.
    """
    with (
        tempfile.TemporaryDirectory(prefix="tfx_mobile_site_") as scratch,
        Server(repository, root, host=host, port=port, scratch=Path(scratch)) as server,
    ):

        def end(*_: Any) -> None:
            # `shutdown` waits for `serve_forever`, which this thread is in, or will leave at once.
            threading.Thread(target=server.shutdown, daemon=True).start()

        before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            print(f"registry  {server.url}")
            print(f"site      {server.url}/{_SITE}/")
            words = ["tfx-mobile", "registry", "fetch", "MODEL", "--from", server.url]
            words += ["--root", str(root), "--to", "model.tflite"]
            print(f"try       {shlex.join(words)}", flush=True)
            server.serve_forever(poll_interval=0.1)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _opened(folder: Path, path: str) -> BinaryIO | None:
    """Opens what a path names in `folder`; None for a folder, a hidden file, or what leads out of it."""
    parts = path.split("/")[1:]
    if not all(_PART.fullmatch(part) for part in parts):
        return None
    try:
        place = folder.joinpath(*parts).resolve(strict=True)
        return place.open("rb") if place.is_relative_to(folder) and place.is_file() else None
    except OSError:
        return None


def _span(first: str, last: str, size: int) -> tuple[int, int]:
    """Returns first and one past last byte of a range that is asked for."""
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


def _type(path: str) -> str:
    """Returns the content type; a published page is nothing that a browser shows."""
    if path.endswith(".json"):
        return "application/json"
    is_page = path.startswith(f"/{_SITE}/")
    return "text/html; charset=utf-8" if is_page else "application/octet-stream"
