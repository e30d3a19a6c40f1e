"""Ports for servers are not drawn twice: two servers that start at once would want the same one."""

import random

import pytest
from tests import ports


@pytest.fixture(autouse=True)
def same_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever draws gets what the others got."""
    monkeypatch.setattr(random, "SystemRandom", lambda: random.Random(3))
    monkeypatch.setattr(ports, "_given", set())


def test_a_port_is_given_once() -> None:
    assert len({ports.free_port() for _ in range(5)}) == 5


def test_two_processes_that_run_tests_are_given_different_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "2")
    for worker in ("gw0", "gw1"):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        monkeypatch.setattr(ports, "_given", set())  # a process of its own
        given.append({ports.free_port() % 2 for _ in range(5)})
    assert given in ([{0}, {1}], [{1}, {0}])
