"""Shared by all tests: a hermetic environment, and small recipes written to a scratch folder."""

import os

# Before any engine is imported: offline, no telemetry, one thread a process.
from duetto.process import engine_env

os.environ.update(engine_env())
os.environ["MPLBACKEND"] = "Agg"
