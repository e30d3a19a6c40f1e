"""MLflow servers on loopback, each with its own database and folder of artifacts."""

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.orchestration import database_servers
from tests.ports import SECONDS_TO_START, free_port

USER, PASSWORD = "publisher", "a long-enough password"


@dataclasses.dataclass(frozen=True)
class MlflowServer:
    """A server that runs.

    Attributes:
      url: Without a slash at the end.
      artifacts: Where it keeps the files of runs.
    """

    url: str
    artifacts: Path

    @property
    def uri(self) -> str:
        """What `open_backend` takes."""
        return f"mlflow+{self.url}"


@contextlib.contextmanager
def mlflow_server(kind: str, *, with_login: bool = False) -> Iterator[MlflowServer]:
    """Yields a server on an empty database of kind 'sqlite' or 'postgresql'; a login is USER, PASSWORD."""
    folder = Path(tempfile.mkdtemp(prefix="mlflow-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        store = f"sqlite:///{folder}/database"
        if kind == "postgresql":
            database = stack.enter_context(database_servers.postgresql(("mlflow",)))
            password = urllib.parse.quote(database_servers.PASSWORD, safe="")
            login = f"{database_servers.USER}:{password}@127.0.0.1:{database.port}"
            store = f"postgresql+psycopg2://{login}/mlflow"  # SQLAlchemy 2.1 would take psycopg 3
        yield stack.enter_context(_running(folder, store, with_login))


@contextlib.contextmanager
def _running(folder: Path, store: str, with_login: bool) -> Iterator[MlflowServer]:
    port = free_port()
    server = MlflowServer(f"http://127.0.0.1:{port}", folder / "artifacts")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--artifacts-destination", str(server.artifacts)]
    environment = os.environ | {
        "MLFLOW_BACKEND_STORE_URI": store,  # not on the command line, where everybody could read the password
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    if with_login:
        command += ["--app-name", "basic-auth"]
        (folder / "login.ini").write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/users\n"
            f"admin_username = {USER}\nadmin_password = {PASSWORD}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        environment |= {
            "MLFLOW_AUTH_CONFIG_PATH": str(folder / "login.ini"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "of the tests",
        }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + SECONDS_TO_START  # most of it for making the tables
        while not _is_up(server):
            if process.poll() is not None or time.monotonic() > deadline:
                said = (folder / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"The MLflow server does not start: {said}")
            time.sleep(0.2)
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _is_up(server: MlflowServer) -> bool:
    try:
        with urllib.request.urlopen(f"{server.url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
