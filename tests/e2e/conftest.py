"""One real run of each pipeline, shared by all tests of this folder."""

import os

import pytest
from tests.e2e.runs import Finished, kill_demo_in, run_taxi


@pytest.fixture(scope="session")
def taxi_run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The taxi-fare pipeline on the embedded rows: killed in Transform, then run again to its end."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))  # for child processes, too
    workspace = tmp_path_factory.mktemp("taxi")
    kill_demo_in("Transform", workspace)
    return run_taxi(workspace)
