"""A web server that is slow, endless, somewhere else or a bomb: the phone ends it and keeps its model."""

import gzip
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.registry.servers import Server, left_by, serving, without_garbage_collection
from tuf.api.exceptions import SlowRetrievalError

from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry.client import Client
from tfx_mobile.registry.store import Registry
from tfx_mobile.registry.transport import Deadline, Fetcher, FolderTransport, Limits

PATIENT = Limits(silence_s=60, total_s=60)


@pytest.fixture
def server(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(registry.repository) as made:
        yield made


@pytest.fixture
def client(registry: Registry, server: Server, tmp_path: Path) -> Client:
    """A phone that has version 3; version 4 is there and has to come from the server."""
    made = Client(server.url, root=registry.root_path, cache=tmp_path / "phone", limits=PATIENT)
    made.fetch("taxi-fare", fall_back=False)
    registry.publish("taxi-fare", b"four" * 100_000, metadata={}, delta=False)
    return made


def head(handler: Any, **headers: object) -> None:
    handler.send_response(200)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()


class Tricks:
    """What a server may do; each ends with the test, whatever the phone does."""

    def __init__(self, server: Server) -> None:
        self.ended = server.ended

    def silent(self, handler: Any) -> bool:
        self.ended.wait(20)
        return True

    def silent_after_the_head(self, handler: Any) -> bool:
        head(handler, Content_Length=400_000)
        handler.wfile.flush()
        self.ended.wait(20)
        return True

    def drips(self, handler: Any) -> bool:
        head(handler, Content_Length=400_000)
        while not self.ended.wait(0.05):
            handler.wfile.write(b" ")
        return True

    def drips_a_head(self, handler: Any) -> bool:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not self.ended.wait(0.05):
            handler.wfile.write(b"x")
        return True

    def endless(self, handler: Any) -> bool:
        head(handler, Connection="close")
        handler.close_connection = True
        while not self.ended.is_set():
            handler.wfile.write(b" " * 65536)
        return True

    def endless_chunks(self, handler: Any) -> bool:
        head(handler, Transfer_Encoding="chunked")
        while not self.ended.is_set():
            handler.wfile.write(b"8000\r\n" + b" " * 0x8000 + b"\r\n")
        return True

    def endless_head(self, handler: Any) -> bool:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not self.ended.is_set():
            handler.wfile.write(b"X-More: " + b"x" * 1000 + b"\r\n")
        return True

    def gzip_bomb(self, handler: Any) -> bool:
        packed = gzip.compress(bytes(10_000_000))
        head(handler, Content_Encoding="gzip", Content_Length=len(packed))
        handler.wfile.write(packed)
        return True

    def breaks_off(self, handler: Any) -> bool:
        head(handler, Content_Length=400_000)
        handler.wfile.write(b"x" * 1000)
        handler.close_connection = True
        return True

    def is_no_web_server(self, handler: Any) -> bool:
        handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        handler.close_connection = True
        return True

    def is_a_captive_portal(self, handler: Any) -> bool:
        page = b"<html>Please log in</html>"
        head(handler, Content_Type="text/html", Content_Length=len(page))
        handler.wfile.write(page)
        return True

    def sends_another_part(self, handler: Any) -> bool:
        handler.send_response(206)
        handler.send_header("Content-Range", "bytes 10-19/400000")
        handler.send_header("Content-Length", "10")
        handler.end_headers()
        handler.wfile.write(b"x" * 10)
        return True

    def promises_for_ever(self, handler: Any) -> bool:
        while not self.ended.is_set():
            handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
        return True

    def endless_size_of_a_chunk(self, handler: Any) -> bool:
        head(handler, Transfer_Encoding="chunked")
        handler.wfile.write(b"5;")
        while not self.ended.is_set():
            handler.wfile.write(b"x" * 65536)
        return True

    def two_lengths(self, handler: Any) -> bool:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 9\r\n\r\n" + b"x" * 9)
        handler.close_connection = True
        return True

    def fails(self, handler: Any) -> bool:
        handler.send_error(503)
        return True

    def says_nothing(self, handler: Any) -> bool:
        handler.send_response(204)
        handler.end_headers()
        return True

    def forbids(self, handler: Any) -> bool:
        handler.send_error(403)
        return True


LATE = "it took longer than 0.9 s"
SILENT = "nothing came for 0.5 s"
TOO_LONG = "a file differs from what was signed"


@pytest.mark.parametrize(
    ("trick", "metadata", "model"),
    [
        ("silent", SILENT, SILENT),
        ("silent_after_the_head", SILENT, SILENT),
        ("drips", LATE, LATE),
        ("drips_a_head", LATE, LATE),
        ("endless", TOO_LONG, TOO_LONG),
        ("endless_chunks", TOO_LONG, TOO_LONG),
        ("endless_head", "the server broke off", "broke off"),
        ("gzip_bomb", "is sent with Content-Encoding 'gzip', which was not asked for", "'gzip'"),
        ("breaks_off", "broke off", "broke off"),
        ("is_no_web_server", "broke off", "broke off"),
        ("is_a_captive_portal", "Failed to deserialize JSON", TOO_LONG),
        ("sends_another_part", "in another part than the one asked for", "in another part than the one"),
        ("promises_for_ever", LATE, LATE),
        ("endless_size_of_a_chunk", "broke off", "broke off"),
        ("two_lengths", "broke off", "broke off"),
        ("fails", "a file is missing or not served: HTTP error 503", "HTTP error 503"),
        ("says_nothing", "a file is missing or not served: HTTP error 204", "HTTP error 204"),
        ("forbids", "a file is missing or not served: HTTP error 403", "HTTP error 403"),
    ],
)
def test_a_bad_server_is_ended_and_the_last_good_model_stays(
    client: Client, server: Server, contents: dict[int, bytes], trick: str, metadata: str, model: str
) -> None:
    play = getattr(Tricks(server), trick)
    limits = {LATE: Limits(silence_s=20, total_s=0.9), SILENT: Limits(silence_s=0.5, total_s=20)}
    client.limits = limits.get(model, PATIENT)
    for part, said in (("timestamp.json", metadata), (".model.tflite", model)):
        server.trick = lambda handler, part=part: part in handler.path and play(handler)
        for _ in range(5):  # a machine that stalls may use up the time before the part is asked for
            with without_garbage_collection():
                kept = client.fetch("taxi-fare")
                assert left_by(client, server) == []
            assert (kept.version, kept.path.read_bytes()) == (3, contents[3])
            assert said in kept.problem
            if server.asked[-1][0].endswith(part):
                break
        assert server.asked[-1][0].endswith(part)
    server.trick, client.limits = lambda handler: False, PATIENT
    assert client.fetch("taxi-fare").version == 4


def test_a_channels_record_is_read_to_the_length_that_was_signed_and_no_further(
    client: Client, server: Server, contents: dict[int, bytes]
) -> None:
    play = Tricks(server).endless
    server.trick = lambda handler: ".stable.json" in handler.path and play(handler)
    kept = client.fetch("taxi-fare")
    assert (kept.version, kept.path.read_bytes()) == (3, contents[3])
    assert TOO_LONG in kept.problem


def test_a_length_that_a_thief_of_the_timestamps_key_has_signed_does_not_fill_the_disk(
    client: Client, server: Server, forger: Any, contents: dict[int, bytes]
) -> None:
    forger.edit("timestamp", lambda signed: vars(signed.snapshot_meta).update(length=2**40, version=999))
    play = Tricks(server).endless
    server.trick = lambda handler: ".snapshot.json" in handler.path and play(handler)
    client.limits = Limits(file_bytes=1000, total_s=60)
    kept = client.fetch("taxi-fare")
    assert (kept.version, kept.path.read_bytes()) == (3, contents[3])
    assert "it has more than 5000000 bytes, whatever was signed" in kept.problem


def test_a_server_that_breaks_off_is_asked_once(client: Client, server: Server) -> None:
    play = Tricks(server).is_no_web_server
    server.trick = lambda handler: ".model.tflite" in handler.path and play(handler)
    assert client.fetch("taxi-fare").version == 3
    assert sum(".model.tflite" in path for path, _ in server.asked) == 1 + 1  # for version 3, and for 4


def test_a_server_that_takes_no_connection_is_not_waited_for_for_ever(client: Client) -> None:
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as full,
        socket.create_connection(full.getsockname()),
    ):
        client._url, client.limits = f"http://127.0.0.1:{full.getsockname()[1]}", Limits(connect_s=0.3)
        assert "no connection within 0.3 s" in client.fetch("taxi-fare").problem


def test_once_the_time_is_over_nothing_is_asked_for_and_nothing_that_comes_is_taken(tmp_path: Path) -> None:
    with Deadline(Limits(total_s=0.001)) as deadline:
        time.sleep(0.05)
        fetcher = Fetcher(FolderTransport(tmp_path), deadline)
        for take in (
            lambda: fetcher.open((tmp_path / "none").as_uri()),
            lambda: next(fetcher._counted(iter([]))),
            lambda: list(fetcher._counted(iter([b"one", b"two"]))),
        ):
            with pytest.raises(SlowRetrievalError, match=re.escape("it took longer than 0.001 s")):
                take()
        assert fetcher.received_bytes == 3
        mine, its = socket.socketpair()
        with mine, its:
            its.settimeout(5)
            deadline.watch(mine)  # one that came about too late
            assert its.recv(1) == b""


@pytest.mark.parametrize("status", [301, 302, 308])
@pytest.mark.parametrize("scheme", ["http", "file"])
def test_a_redirect_is_not_followed(
    client: Client, server: Server, registry: Registry, status: int, scheme: str
) -> None:
    with serving(registry.repository) as elsewhere:
        there = elsewhere.url if scheme == "http" else registry.repository.as_uri()

        def redirect(handler: Any) -> bool:
            handler.send_response(status)
            handler.send_header("Location", f"{there}{handler.path}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return True

        server.trick = redirect
        with pytest.raises(RegistryError, match=re.escape("which is not followed; name the address")):
            client.fetch("taxi-fare", fall_back=False)
        assert client.fetch("taxi-fare").version == 3
        assert elsewhere.asked == []


def test_a_server_that_is_gone_leaves_the_last_good_model(client: Client, server: Server) -> None:
    with socket.socket() as silent:  # keeps others off the port, and does not listen
        silent.bind(("127.0.0.1", 0))
        client._url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        kept = client.fetch("taxi-fare")
    assert kept.version == 3
    assert "the server cannot be reached" in kept.problem


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"connect_s": 0}, "limits.connect_s must be a number of seconds above 0; got 0."),
        ({"silence_s": float("nan")}, "limits.silence_s must be a number of seconds above 0; got nan."),
        ({"total_s": float("inf")}, "limits.total_s must be a number of seconds above 0; got inf."),
        ({"total_s": True}, "limits.total_s must be a number of seconds above 0; got True."),
        ({"file_bytes": 0}, "limits.file_bytes must be an integer of at least 1; got 0."),
    ],
)
def test_a_limit_that_is_none_is_refused(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Limits(**limits)
