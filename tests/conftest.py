"""Shared by all tests: a hermetic environment, and the finished tiny run."""

import os
import sys

import pytest

from duetto.process import engine_env
from tests.support.tiny import finished_run

# Before a test imports any engine: offline, no telemetry, one thread a process.
os.environ.update(engine_env())
os.environ["MPLBACKEND"] = "Agg"
# Container images like to forbid .pyc files; then each of the many processes compiles torch and transformers again.
os.environ["PYTHONDONTWRITEBYTECODE"] = ""
sys.dont_write_bytecode = False


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory):
    """The home ($DUETTO_HOME) of a finished tiny demo run, shared by all workers: read it, do not change it."""
    base = tmp_path_factory.getbasetemp()
    return finished_run(base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base)


LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def no_launcher_is_left_behind():
    """Engines run in this process set RANK, WORLD_SIZE and the like; the next test's children must not see them."""
    yield
    for name in LAUNCHER:
        os.environ.pop(name, None)
