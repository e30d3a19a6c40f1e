"""Ports for servers that must be told theirs before they start, and the wait until they listen there."""

import contextlib
import os
import random
import socket
import subprocess
import time
from pathlib import Path

SECONDS_TO_START = 240.0
"""On a busy machine; who comes up sooner is not waited for."""
_given: set[int] = set()


def free_port() -> int:
    """Returns a port of loopback that is free, and that the system gives to nobody who asks for any port.

    One that it gave (port 0) and that was closed again may go to another process before the server has it;
    so one of these is only taken where there is no other. Until its server listens, and while it is down, a
    port looks free: none is given twice, and of processes that run tests at once each has its own ones.
    """
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    mine = set(range(first // 2 + worker % workers, first, workers)) - _given
    for port in random.SystemRandom().sample(sorted(mine), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):  # taken, or kept for root
            probe.bind(("127.0.0.1", port))
            _given.add(port)
            return port
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_until_open(port: int, process: "subprocess.Popen[bytes] | subprocess.Popen[str]") -> None:
    """Waits until the process listens on the port.

    Raises:
      RuntimeError: It ended, or did not listen in time.
    """
    deadline = time.monotonic() + SECONDS_TO_START
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(
                f"{process.args!r} must listen on port {port} within {SECONDS_TO_START:g} s; it does not, "
                f"and its status is {process.returncode}."
            )
        time.sleep(0.02)
