"""How bytes of a registry reach the client: from a folder or over HTTP, within limits of time and size.

What arrives is not believed; the signatures decide that. Here a server can only be late, endless or wrong,
and each of these ends. A redirect and a compressed body are refused: the address is named by whoever trusts
it, and a file is signed as it is sent. Does not know TUF's metadata.
Source: RFC 9110 (range requests, section 14; redirection, 15.4); The Update Framework 1.0.31, "endless data"
and "slow retrieval" attacks.
"""

import contextlib
import dataclasses
import re
import socket
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import urllib3
from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    SlowRetrievalError,
)
from tuf.ngclient import FetcherInterface  # type: ignore[attr-defined]
from tuf.ngclient.config import UpdaterConfig
from urllib3.connection import HTTPConnection, HTTPSConnection

from tfx_mobile.common.errors import ConfigError

_CHUNK_BYTES = 1 << 16
_METADATA_BYTES = UpdaterConfig.targets_max_length  # of the largest role that the updater takes
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):/")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a registry may cost the client before it gives up.

    Attributes:
      connect_s: Seconds for a connection to come about; > 0.
      silence_s: Seconds without a byte; > 0.
      total_s: Seconds for one `check` or `fetch`, waiting for another process included; > 0.
      file_bytes: Of one file, whatever was signed; a TFLite file has at most 2 GiB. At least 1.

    Raises:
      ConfigError: A value is none of these.
    """

    connect_s: float = 10.0
    silence_s: float = 30.0
    total_s: float = 600.0
    file_bytes: int = 2**31

    def __post_init__(self) -> None:
        for name in ("connect_s", "silence_s", "total_s"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 < value < float("inf"):
                raise ConfigError(f"limits.{name} must be a number of seconds above 0; got {value!r}.")
        if type(self.file_bytes) is not int or self.file_bytes < 1:
            raise ConfigError(f"limits.file_bytes must be an integer of at least 1; got {self.file_bytes!r}.")


class Deadline:
    """The end of one operation. Used as a context: what it watches is cut off at the end."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._end = time.monotonic() + limits.total_s
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(limits.total_s, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> "Deadline":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            for watched in self._sockets:
                watched.close()
            self._sockets.clear()

    @property
    def passed(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._end

    def check(self) -> None:
        """Raises SlowRetrievalError when the time is over."""
        if self.passed:
            raise SlowRetrievalError(f"it took longer than {self.limits.total_s:g} s")

    def watch(self, connection: socket.socket) -> None:
        """Cuts the connection off when the time is over, in whatever call it hangs then."""
        with self._lock:
            self._sockets.append(connection.dup())
        if self.passed:
            self._cut()

    def _cut(self) -> None:
        with self._lock:
            for watched in self._sockets:
                with contextlib.suppress(OSError):  # it has ended by itself
                    watched.shutdown(socket.SHUT_RDWR)


class Transport(Protocol):
    """Where a registry's files come from."""

    def open(self, url: str, start: int = 0) -> tuple[int, Iterator[bytes]]:
        """Returns a file's bytes, and which byte they begin at: `start`, or 0 where only the whole is had.

        Raises:
          DownloadError: There is no such file, or it is not handed out.
        """
        ...

    def close(self) -> None:
        """Lets go of what it holds."""
        ...


class Fetcher(FetcherInterface):
    """Gives the updater what the transport brings, and counts it.

    Attributes:
      received_bytes: Of all bodies.
    """

    def __init__(self, transport: Transport, deadline: Deadline) -> None:
        self.received_bytes = 0
        self._transport, self._deadline = transport, deadline

    def open(self, url: str, start: int = 0) -> tuple[int, Iterator[bytes]]:
        """As `Transport.open`; the deadline holds for what is read, too."""
        self._deadline.check()
        begin, chunks = self._transport.open(url, start)
        return begin, self._counted(chunks)

    def _fetch(self, url: str) -> Iterator[bytes]:
        return self.open(url)[1]

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        most, count = max(self._deadline.limits.file_bytes, _METADATA_BYTES), 0
        for chunk in chunks:
            self.received_bytes += len(chunk)
            count += len(chunk)
            if count > most:
                raise DownloadLengthMismatchError(f"it has more than {most} bytes, whatever was signed")
            yield chunk
            self._deadline.check()
        self._deadline.check()  # an end that the deadline made is none


class FolderTransport:
    """Reads a local folder, without a web server.

    Args:
      folder: Nothing outside of it is read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    def open(self, url: str, start: int = 0) -> tuple[int, Iterator[bytes]]:
        """As `Transport.open`."""
        try:
            path = Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path)).resolve()
            is_there = path.is_relative_to(self._folder) and path.is_file()
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
            raise DownloadError(f"{url} cannot be read: {error}") from error
        if not is_there:
            raise DownloadHTTPError(f"{path} is not a file of the registry", 404)
        return start, self._chunks(path, start)

    def close(self) -> None:
        """As `Transport.close`."""

    @staticmethod
    def _chunks(path: Path, start: int) -> Iterator[bytes]:
        try:
            with path.open("rb") as stream:
                stream.seek(start)
                while chunk := stream.read(_CHUNK_BYTES):
                    yield chunk
        except OSError as error:
            raise DownloadError(f"{path} cannot be read: {error.strerror}") from error


class HttpTransport:
    """Reads from a web server, through the proxy that the environment names, if any.

    Args:
      deadline: Bounds connecting, waiting and reading.
    """

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self._pools: dict[str, urllib3.PoolManager] = {}
        self._opened = contextlib.ExitStack()

    def open(self, url: str, start: int = 0) -> tuple[int, Iterator[bytes]]:
        """As `Transport.open`."""
        limits = self._deadline.limits
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        try:
            response = self._pool(url).request(
                "GET",
                url,
                headers=headers,
                preload_content=False,
                decode_content=False,
                redirect=False,
                retries=False,
                timeout=urllib3.Timeout(connect=limits.connect_s, read=limits.silence_s),
            )
        except urllib3.exceptions.HTTPError as error:
            raise self._translated(error) from error
        self._opened.callback(response.close)
        if refused := _refusal(response, url):
            raise refused
        begin = start if response.status == 206 else 0
        if response.status == 206 and not response.headers.get("Content-Range", "").startswith(
            f"bytes {start}-"
        ):
            raise DownloadHTTPError(f"{url} was sent in another part than the one asked for", 416)
        return begin, self._chunks(response)

    def close(self) -> None:
        """As `Transport.close`."""
        self._opened.close()
        for manager in self._pools.values():
            for key in list(manager.pools.keys()):
                manager.pools[key].close()  # `manager.clear()` leaves it to the garbage collector

    def _chunks(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        try:
            yield from response.stream(_CHUNK_BYTES, decode_content=False)
        except urllib3.exceptions.HTTPError as error:
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> DownloadError:
        if self._deadline.passed:
            return SlowRetrievalError(f"it took longer than {self._deadline.limits.total_s:g} s")
        if isinstance(error, urllib3.exceptions.NewConnectionError):  # which is a ConnectTimeoutError
            return DownloadError(f"the server cannot be reached: {error}")
        if isinstance(error, urllib3.exceptions.ConnectTimeoutError):
            return SlowRetrievalError(f"no connection within {self._deadline.limits.connect_s:g} s")
        if isinstance(error, urllib3.exceptions.TimeoutError):
            return SlowRetrievalError(f"nothing came for {self._deadline.limits.silence_s:g} s")
        return DownloadError(f"the server broke off: {error}")

    def _pool(self, url: str) -> urllib3.PoolManager:
        parts = urllib.parse.urlsplit(url)
        proxy = urllib.request.getproxies().get(parts.scheme, "")
        if urllib.request.proxy_bypass(parts.hostname or ""):
            proxy = ""
        if proxy not in self._pools:
            made = urllib3.ProxyManager(proxy) if proxy else urllib3.PoolManager()
            made.pool_classes_by_scheme = _watched_by(self._deadline)
            self._pools[proxy] = made
        return self._pools[proxy]


def locate(location: str) -> tuple[str, Path | None]:
    """Returns the base URL of a registry without its last slash, and its folder when it is local.

    Raises:
      ConfigError: It is neither a path nor a file://, http:// or https:// URL, or more than an address.
    """
    scheme = _SCHEME.match(location)
    if scheme is None and location:
        folder = Path(location).absolute()
        return folder.resolve().as_uri(), folder
    try:
        parts = urllib3.util.parse_url(location)
    except urllib3.exceptions.LocationParseError:  # a port that is none
        parts = urllib3.util.Url()
    if surplus := [name for name in ("auth", "query", "fragment") if getattr(parts, name)]:
        raise ConfigError(
            f"Registry's URL must be an address and a path; got one with {', '.join(surplus)}, which may be "
            f"secret, at {parts.scheme}://{parts.netloc or ''}. Files are asked for below it: leave it out."
        )
    if parts.scheme in ("http", "https") and parts.host:
        return location.rstrip("/"), None
    if parts.scheme == "file" and parts.host in (None, "localhost"):
        folder = Path(urllib.request.url2pathname(parts.path or "/"))
        return folder.resolve().as_uri(), folder
    raise ConfigError(
        f"Registry must be a folder or a file://, http:// or https:// URL; got {location!r}. "
        "Serve or mount it as one of these."
    )


def _refusal(response: urllib3.BaseHTTPResponse, url: str) -> DownloadError | None:
    if 300 <= response.status < 400:
        return DownloadError(
            f"{url} redirects to {response.headers.get('Location', 'nowhere')!r}, which is not followed; "
            "name the address it is served at"
        )
    if response.status not in (200, 206):
        return DownloadHTTPError(f"HTTP error {response.status} for {url}", response.status)
    if (encoding := response.headers.get("Content-Encoding", "identity").lower()) != "identity":
        return DownloadError(
            f"{url} is sent with Content-Encoding {encoding!r}, which was not asked for and is not unpacked; "
            "serve the files as they are"
        )
    return None


def _watched_by(deadline: Deadline) -> dict[str, type]:
    """Returns urllib3's pools, of connections that the deadline can cut off from their first byte."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            made = super()._new_conn()
            deadline.watch(made)
            return made

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            made = super()._new_conn()
            deadline.watch(made)
            return made

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}
