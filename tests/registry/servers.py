"""Web servers for the phone: one that does as told, good or bad, and nginx."""

import contextlib
import http.server
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


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


@contextlib.contextmanager
def nginx(folder: Path, workspace: Path) -> Iterator[str]:
    """The URL of an nginx that serves the folder."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    assert program, "no nginx here (apt: nginx-light)"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder.chmod(0o755)
    (workspace / "nginx.conf").write_text(
        f"daemon off; pid {workspace}/pid; user root; error_log stderr; events {{}}\n"
        f"http {{ access_log off; server {{ listen 127.0.0.1:{port}; root {folder}; }} }}\n"
    )
    process = subprocess.Popen(
        [program, "-c", str(workspace / "nginx.conf"), "-p", str(workspace)], stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(500):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
