"""Database servers of Debian's packages, each in a temporary folder and on a free port of loopback."""

import contextlib
import dataclasses
import glob
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tests.ports import SECONDS_TO_START, free_port

READER = "reader"
USER, PASSWORD = "mlmd", """it's a "secret" \\ of 100 %"""
"""What has to be quoted in one place or another."""


@dataclasses.dataclass
class Server:
    """A server that can be killed and started again with what it had stored.

    Attributes:
      scheme: Of its URLs.
      port: On 127.0.0.1.
      folder: Of its files; gone with it.
      command: Starts it.
    """

    scheme: str
    port: int
    folder: Path
    command: list[str]
    process: "subprocess.Popen[bytes] | None" = None

    def url(self, database: str, user: str = USER, options: str = "") -> str:
        return f"{self.scheme}://{user}@127.0.0.1:{self.port}/{database}{options}"

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command, **_as_nobody(self.folder, log))
        deadline = time.monotonic() + SECONDS_TO_START
        while not self._is_up():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.command[0]} does not start: {self._log()}")
            time.sleep(0.05)

    def kill(self) -> None:
        """As a power cut does; its children, which notice, get the time to go."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        deadline = time.monotonic() + 10
        while not self._port_is_free() and time.monotonic() < deadline:
            time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT if self.scheme == "postgresql" else signal.SIGKILL)
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def _is_up(self) -> bool:
        """A port that is open is not enough: PostgreSQL answers while it still reads its journal."""
        if self.scheme == "postgresql":
            program = _program("pg_isready")
            done = subprocess.run([program, "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False)
            return done.returncode == 0
        return not self._port_is_free()

    def _port_is_free(self) -> bool:
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", self.port)) != 0

    def _log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-2000:]


class Cable:
    """Connects a port of its own with a server, until the server is killed inside a query.

    Attributes:
      server: At the other end.
      port: On 127.0.0.1; nobody answers there once it is cut.
      deadlocks: So many of the next statements that make a table do not reach the server; they are answered
        as the victim of a deadlock is.
    """

    def __init__(self, server: Server, port: int | None = None, deadlocks: int = 0) -> None:
        self.server = server
        self.deadlocks = deadlocks
        self.port = port or free_port()  # which is still free when it is to be mended
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._sockets = [self._listener]
        self._armed, self._cutting, self._cut = (threading.Event() for _ in range(3))
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self) -> None:
        """From now on the first write is the end: the server gets it, and nobody its answer."""
        self._armed.set()

    def wait_until_cut(self) -> None:
        if not self._cut.wait(SECONDS_TO_START):
            raise RuntimeError("Nobody has written into the database.")

    def mend(self) -> "Cable":
        """Starts the server again, and returns another cable from the same port."""
        self.server.start()
        return Cable(self.server, self.port)

    def close(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):  # not connected any more
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self.server.port))
                self._sockets += [client, server]
                for each in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pass_on, args=each, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, queries: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                if queries and self.deadlocks and b"CREATE TABLE" in data:
                    self.deadlocks -= 1
                    source.sendall(_DEADLOCK[self.server.scheme])
                    continue
                last = queries and self._armed.is_set() and re.search(rb"\b(INSERT|UPDATE)\b", data)
                if last:
                    self._cutting.set()
                elif self._cutting.is_set():
                    return
                target.sendall(data)
                if last:
                    self.server.kill()
                    self.close()
                    self._cut.set()
                    return
            target.shutdown(socket.SHUT_WR)


def _mysql_packet(content: bytes) -> bytes:
    return len(content).to_bytes(3, "little") + b"\x01" + content


def _postgresql_message(kind: bytes, content: bytes) -> bytes:
    return kind + (len(content) + 4).to_bytes(4, "big") + content


_DEADLOCK = {
    "mysql": _mysql_packet(
        b"\xff" + (1213).to_bytes(2, "little") + b"#40001Deadlock found when trying to get lock; "
        b"try restarting transaction"
    ),
    "postgresql": _postgresql_message(b"E", b"SERROR\0VERROR\0C40P01\0Mdeadlock detected\0\0")
    + _postgresql_message(b"Z", b"E"),
}
"""What the servers write, by their protocols' manuals: ERR_Packet; ErrorResponse and ReadyForQuery."""


@contextlib.contextmanager
def postgresql(databases: tuple[str, ...]) -> Iterator[Server]:
    """A PostgreSQL that asks for passwords; `databases` belong to USER, and READER may look into them."""
    with _folder("pg-") as folder:
        (folder / "password").write_text("of the superuser\n")
        data = str(folder / "data")
        made = ["-U", "postgres", "-A", "scram-sha-256", "--pwfile", str(folder / "password"), "--no-sync"]
        _run([_program("initdb"), "-D", data, *made], folder)
        settings = ["listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", "fsync=off"]
        options = [part for setting in settings for part in ("-c", setting)]
        port = free_port()
        command = [_program("postgres"), "-D", data, "-p", str(port), *options]
        quoted = PASSWORD.replace("'", "''")
        sql = "".join(f"CREATE ROLE {user} LOGIN PASSWORD '{quoted}';\n" for user in (USER, READER))
        sql += "".join(f"CREATE DATABASE {name} OWNER {USER};\n" for name in databases)
        _run([_program("postgres"), "--single", "-D", data, "postgres"], folder, sql)
        yield from _running(Server("postgresql", port, folder, command))


@contextlib.contextmanager
def mariadb(databases: tuple[str, ...], tls: tuple[str, str] | None = None) -> Iterator[Server]:
    """A MariaDB, which speaks MySQL's protocol; USER may do everything in `databases`, READER read.

    With `tls`, a private key and its certificate as PEM, it takes no connection without.
    """
    with _folder("my-") as folder:
        (folder / "data").mkdir()
        _give_away(folder / "data")
        server = [_program("mariadbd"), "--no-defaults", f"--datadir={folder / 'data'}"]
        # What mariadb-install-db does, with one Debian package less.
        tables = [_system_sql(name) for name in ("system_tables", "performance_tables", "system_tables_data")]
        prelude = "CREATE DATABASE mysql;\nUSE mysql;\nSET @skip_auth_anonymous=1, @auth_root_socket=NULL;\n"
        _run([*server, "--bootstrap", "--skip-grant-tables"], folder, prelude + "".join(tables))
        quoted = PASSWORD.replace("\\", "\\\\").replace("'", "\\'")
        plugin = f"VIA mysql_native_password USING PASSWORD('{quoted}')"
        lines = [f"CREATE USER IF NOT EXISTS {user}@'%' IDENTIFIED {plugin};" for user in (USER, READER)]
        for name in databases:
            lines += [
                f"CREATE DATABASE IF NOT EXISTS {name};",
                f"GRANT ALL ON {name}.* TO {USER}@'%';",
                f"GRANT SELECT ON {name}.* TO {READER}@'%';",
            ]
        (folder / "init.sql").write_text("\n".join(lines) + "\n")
        settings = []
        for name, text in zip(("ssl-key", "ssl-cert"), tls or (), strict=False):
            (folder / name).write_text(text)
            settings += [f"--{name}={folder / name}", "--require-secure-transport=ON"]
        port = free_port()
        command = [
            *server,
            f"--port={port}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            f"--socket={folder / 'socket'}",
            f"--pid-file={folder / 'pid'}",
            f"--init-file={folder / 'init.sql'}",
            "--innodb-buffer-pool-size=32M",
            "--loose-innodb-snapshot-isolation=OFF",  # as docs/metadata.md asks for; unknown to old servers
            *settings,
        ]
        yield from _running(Server("mysql", port, folder, command))


def _running(server: Server) -> Iterator[Server]:
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def _folder(prefix: str) -> Iterator[Path]:
    # Not pytest's: nobody but its user may look into that one.
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    _give_away(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _give_away(folder: Path) -> None:
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)


def _system_sql(name: str) -> str:
    found = glob.glob(f"/usr/share/m*/m*_{name}.sql")  # mysql/mysql_ in Debian 12, mariadb/mariadb_ later
    if not found:
        raise RuntimeError(f"mariadb-server-core has no SQL of {name}: /usr/share/m*/m*_{name}.sql")
    return Path(found[0]).read_text()


def _run(command: list[str], folder: Path, text: str = "") -> None:
    with (folder / "log").open("ab") as log:
        done = subprocess.run(command, input=text.encode(), check=False, **_as_nobody(folder, log))
    if done.returncode:
        output = (folder / "log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {output}")


def _as_nobody(folder: Path, log: IO[bytes]) -> dict[str, object]:
    """PostgreSQL refuses to run as root."""
    environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C", "HOME": str(folder)}
    options: dict[str, object] = {"cwd": folder, "env": environment, "stdout": log, "stderr": log}
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        options |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    return options


def _program(name: str) -> str:
    places = [*sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True), "/usr/sbin", "/usr/bin"]
    found = shutil.which(name, path=os.pathsep.join([*places, os.environ["PATH"]]))
    if found is None:
        raise RuntimeError(
            f"The tests of database servers need {name}, which is not here: apt-get install -y "
            "--no-install-recommends postgresql mariadb-server-core"
        )
    return found
