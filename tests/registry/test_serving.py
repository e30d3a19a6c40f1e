"""The server for trying: what it hands out with which headers, what it keeps to itself, and how it ends."""

import concurrent.futures
import contextlib
import hashlib
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.ports import free_port, wait_until_open

from tfx_mobile import cli
from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry import serving
from tfx_mobile.registry.client import Client
from tfx_mobile.registry.store import Registry


@contextlib.contextmanager
def running(registry: Registry, scratch: Path) -> Iterator[serving.Server]:
    """Serves from another thread."""
    with serving.Server(
        registry.repository, registry.root_path, host="127.0.0.1", port=0, scratch=scratch
    ) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, serving.Server]]:
    """A registry with a model, its attached page, and things that are not to be served."""
    folder = tmp_path_factory.mktemp("served")
    registry = Registry.create(folder / "registry")
    registry.publish(
        "taxi-fare",
        bytes(range(200)),
        metadata={},
        attachments={"evaluation.html": b"<script>alert(1)</script>"},
    )
    (folder / "secret.txt").write_text("secret")
    (registry.repository / "targets" / "link.json").symlink_to(folder / "secret.txt")
    (registry.repository / "targets" / "away").symlink_to(folder)
    (registry.repository / "notes.txt").write_text("beside the registry")
    with running(registry, folder / "scratch") as server:
        yield registry, server


def ask(server: serving.Server | int, path: str, *, method: str = "GET", **headers: str) -> Any:
    """Returns status, headers and body of a server of ours or a port; the path goes out as it is."""
    port = server if isinstance(server, int) else server.server_address[1]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.putrequest(method, path)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def target(registry: Registry, pattern: str) -> str:
    (path,) = (registry.repository / "targets").glob(pattern)
    return f"/{path.relative_to(registry.repository)}"


def test_each_kind_of_file_has_its_type_and_says_how_long_it_keeps(served: Any) -> None:
    registry, server = served
    kept, asked_again = "public, max-age=31536000, immutable", "no-cache"
    binary, json_type, page = "application/octet-stream", "application/json", "text/html; charset=utf-8"
    for path, kind, caching in (
        ("/metadata/timestamp.json", json_type, asked_again),
        ("/metadata/1.root.json", json_type, kept),
        ("/metadata/2.snapshot.json", json_type, kept),
        ("/metadata/1.model-taxi-fare.json", json_type, kept),
        (target(registry, "taxi-fare/1/*.model.tflite"), binary, kept),
        (target(registry, "taxi-fare/channels/*.json"), json_type, kept),
        (target(registry, "taxi-fare/1/*.evaluation.html"), binary, kept),
        ("/site/", page, asked_again),
        ("/site/taxi-fare/1/index.html", page, asked_again),
    ):
        status, headers, body = ask(server, path)
        assert (status, headers["Content-Type"], headers["Cache-Control"]) == (200, kind, caching), path
        assert headers["Content-Length"] == str(len(body))
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert ("sandbox" in headers.get("Content-Security-Policy", "")) is not path.startswith("/site")
        if not path.startswith("/site"):
            assert body == (registry.repository / path[1:]).read_bytes()


@pytest.mark.parametrize(
    ("asked", "status", "content", "span"),
    [
        ("bytes=0-9", 206, slice(0, 10), "bytes 0-9/200"),
        ("bytes=190-", 206, slice(190, 200), "bytes 190-199/200"),
        ("bytes=-5", 206, slice(195, 200), "bytes 195-199/200"),
        ("bytes=-500", 206, slice(0, 200), "bytes 0-199/200"),
        ("bytes=199-999", 206, slice(199, 200), "bytes 199-199/200"),
        ("bytes=200-", 416, None, "bytes */200"),
        ("bytes=-0", 416, None, "bytes */200"),
        ("bytes=9-5", 416, None, "bytes */200"),
        ("bytes=0-1,5-6", 200, slice(0, 200), None),
        ("bytes=-", 200, slice(0, 200), None),
        ("lines=0-1", 200, slice(0, 200), None),
    ],
)
def test_a_part_of_a_file_can_be_asked_for(
    served: Any, asked: str, status: int, content: slice | None, span: str | None
) -> None:
    registry, server = served
    path = target(registry, "taxi-fare/1/*.model.tflite")
    got, headers, body = ask(server, path, Range=asked)
    assert (got, headers.get("Content-Range")) == (status, span)
    assert body == (bytes(range(200))[content] if content else b"")


def test_what_has_not_changed_is_not_sent_again(served: Any) -> None:
    registry, server = served
    path = target(registry, "taxi-fare/1/*.model.tflite")
    _, headers, _ = ask(server, path)
    status, again, body = ask(server, path, If_None_Match=f'"other", {headers["ETag"]}')
    assert (status, again["ETag"], body) == (304, headers["ETag"], b"")
    assert ask(server, path, If_None_Match='"other"')[0] == 200
    assert ask(server, path, Range="bytes=0-9", If_Range=headers["ETag"])[0] == 206
    assert ask(server, path, Range="bytes=0-9", If_Range='"other"')[0] == 200
    status, headers, body = ask(server, path, method="HEAD")
    assert (status, headers["Content-Length"], body) == (200, "200", b"")


@pytest.mark.parametrize(
    "path",
    [
        *("/.lock", "/metadata", "/metadata/", "/targets/taxi-fare/", "/notes.txt", "/metadata/2.root.json"),
        *(
            "/../secret.txt",
            "/metadata/../../secret.txt",
            "/metadata/%2e%2e/%2e%2e/secret.txt",
            "//etc/passwd",
        ),
        *("/metadata/..%2f..%2fsecret.txt", "/metadata/..\\..\\secret.txt", "/targets/link.json"),
        *(
            "/targets/away/secret.txt",
            "/site/../secret.txt",
            "/site/%00",
            "/site/taxi-fare",
            "/metadata//1.root.json",
        ),
        *(
            "/site/.hidden",
            "/metadata/%2e/1.root.json",
            "/etc/passwd",
            "/site/taxi-fare/1",
            "*",
            "/targets/away",
        ),
    ],
)
def test_nothing_else_is_there(served: Any, path: str) -> None:
    _, server = served
    (server.site / ".hidden").write_text("hidden")
    assert ask(server, path)[0] == 404
    assert ask(server, path)[2] == b""


def test_what_is_no_path_or_no_question_is_refused(served: Any) -> None:
    _, server = served
    assert ask(server, "/metadata/%ff")[0] == 400
    assert ask(server, "/metadata/timestamp.json", method="POST")[0] == 501
    status, headers, _ = ask(server, "/")
    assert (status, headers["Location"]) == (302, "/site/")


def test_it_listens_on_this_machine_only(served: Any) -> None:
    _, server = served
    assert server.url == f"http://127.0.0.1:{server.server_address[1]}"
    with socket.socket() as other, pytest.raises(OSError, match="refused"):
        other.connect(("127.0.0.2", server.server_address[1]))


def test_a_hundred_phones_at_once_get_the_model(served: Any, tmp_path: Path) -> None:
    registry, server = served
    root = registry.root_path.read_bytes()
    fetched = Client(server.url, root=root, cache=tmp_path / "phone").fetch("taxi-fare")
    assert fetched.path.read_bytes() == bytes(range(200))
    assert fetched.problem == ""
    path, together = target(registry, "taxi-fare/1/*.model.tflite"), threading.Barrier(100)

    def phone(_: int) -> str:
        together.wait()
        paths = (
            "/metadata/timestamp.json",
            "/metadata/2.snapshot.json",
            "/metadata/1.model-taxi-fare.json",
            path,
        )
        answers = [ask(server, one) for one in paths]
        assert [answer[0] for answer in answers] == [200] * 4
        return hashlib.sha256(answers[-1][2]).hexdigest()

    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        assert set(pool.map(phone, range(100))) == {fetched.sha256}


def test_the_site_follows_the_registry_and_outlives_its_damage(registry: Registry, tmp_path: Path) -> None:
    with running(registry, tmp_path / "scratch") as server:
        assert ask(server, "/site/taxi-fare/4/index.html")[0] == 404
        registry.publish("taxi-fare", b"four", metadata={})
        status, _, body = ask(server, "/site/taxi-fare/4/index.html")
        assert status == 200
        assert f"--from {server.url} --root root.json --version 4".encode() in body
        index = [ask(server, "/site/")[1]["ETag"] for _ in range(2)]
        assert index[0] == index[1], "a site was made of what has not changed"
        registry.publish("taxi-fare", b"five", metadata={})
        snapshot = max(registry.repository.glob("metadata/*.snapshot.json"), key=_number)
        snapshot.rename(snapshot.with_name("away"))
        assert ask(server, "/site/taxi-fare/5/index.html")[0] == 404
        snapshot.with_name("away").rename(snapshot)
        assert ask(server, "/site/taxi-fare/5/index.html")[0] == 200
        body = ask(server, "/site/taxi-fare/4/index.html")[2]
        (registry.repository / "metadata" / "timestamp.json").write_text("{}")
        assert ask(server, "/site/taxi-fare/4/index.html")[2] == body


def _number(path: Path) -> int:
    return int(path.name.split(".")[0])


def test_what_cannot_be_served_is_refused_at_the_start(registry: Registry, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            ConfigError, match=re.escape(f"free address of this machine; got 127.0.0.1, port {port}:")
        ):
            serving.serve(registry.repository, registry.root_path, port=port)
    with pytest.raises(ConfigError, match=r"got 127\.0\.0\.1, port 70000: .*[^.]\. Name another\.$"):
        serving.serve(registry.repository, registry.root_path, port=70000)
    nothing = tmp_path / "nothing"
    with pytest.raises(
        RegistryError, match=re.escape(f"There must be a registry at {nothing}; there is none.")
    ):
        serving.serve(nothing, registry.root_path, port=0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_what_to_try_and_ends_when_told(
    registry: Registry, tmp_path: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tfx_mobile.cli",
            "registry",
            "serve",
            str(registry.repository),
            "--port",
            "0",
        ],
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        assert [line.split()[0] for line in lines] == ["registry", "site", "try"]
        words = lines[2].split()[1:]
        assert words[:5] == ["tfx-mobile", "registry", "fetch", "MODEL", "--from"]
        words = [
            {"MODEL": "taxi-fare", "model.tflite": str(tmp_path / "m")}.get(word, word) for word in words
        ]
        assert cli.main([*words[1:], "--cache", str(tmp_path / "cache")]) == 0
        assert (tmp_path / "m").read_bytes() == b"three" * 50
    finally:
        process.send_signal(number)
        rest = process.communicate(timeout=60)
    assert process.returncode == 0
    assert rest[0] == ""
    assert rest[1].count("\n") == 1, rest[1]
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_is_told_to_end_as_soon_as_it_said_what_to_try_ends_and_leaves_nothing(
    registry: Registry, tmp_path: Path, number: signal.Signals
) -> None:
    script = (
        "import builtins, os, pathlib, sys; from tfx_mobile.registry import serving\n"
        "def said(*_, flush=False):\n"
        "    if flush:\n"
        "        os.kill(os.getpid(), int(sys.argv[3]))\n"
        "builtins.print = said\n"
        "serving.serve(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), port=0)\n"
    )
    command = [
        sys.executable,
        "-c",
        script,
        str(registry.repository),
        str(registry.root_path),
        str(int(number)),
    ]
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_nginx_of_the_documentation_serves_both(served: Any, tmp_path: Path) -> None:
    registry, ours = served
    text = (Path(__file__).parents[2] / "docs" / "registry-site.md").read_text()
    (block,) = re.findall(r"```nginx\n(.*?)```", text, re.DOTALL)
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    assert program, "no nginx here (apt: nginx-light)"
    port = free_port()
    for old, new in (
        ("listen 8080;", f"listen 127.0.0.1:{port};"),
        ("/srv/registry", str(registry.repository)),
        ("/srv/catalogue", str(ours.site)),
    ):
        assert block.count(old) == 1
        block = block.replace(old, new)
    main = f"user root; pid {tmp_path}/pid; daemon off; error_log stderr; events {{}}\n"
    (tmp_path / "nginx.conf").write_text(
        f"{main}http {{ types {{ application/json json; }} access_log off;\n{block}}}\n"
    )
    process = subprocess.Popen([program, "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path)])
    try:
        wait_until_open(port, process)
        url, root = f"http://127.0.0.1:{port}", registry.root_path.read_bytes()
        assert Client(url, root=root, cache=tmp_path / "phone").fetch("taxi-fare").problem == ""
        names = ("Content-Type", "Cache-Control", "Content-Security-Policy")
        for path in (
            "/metadata/timestamp.json",
            "/metadata/1.root.json",
            target(registry, "taxi-fare/1/*.model.tflite"),
            target(registry, "taxi-fare/1/*.evaluation.html"),
            "/site/",
            "/site/taxi-fare/index.html",
        ):
            status, theirs, body = ask(port, path)
            assert (status, body) == (200, ask(ours, path)[2]), path
            expected = ask(ours, path)[1]
            if path.startswith("/metadata"):
                expected.pop("Content-Security-Policy")  # JSON is no page
            assert [theirs.get(name) for name in names] == [expected.get(name) for name in names], path
        for path in ("/.lock", "/notes.txt", "/metadata/", "/site/none.html", "/"):
            assert ask(port, path)[0] in (403, 404), path
    finally:
        process.terminate()
        process.wait()
