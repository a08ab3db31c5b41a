"""The run folder: everything one recipe makes, used by one process at a time."""

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from duetto.errors import UserError
from duetto.files import atomic_write, read_json
from duetto.recipe import Recipe


class Run:
    """``with Run(recipe) as run:`` holds the lock of the run folder; ``Run(recipe, lock=False)`` only reads.

    Raises:
        UserError: another process works on the folder, or the folder cannot be written.
    """

    def __init__(self, recipe: Recipe, lock: bool = True) -> None:
        self.recipe = recipe
        self.root = recipe.run_root
        self.logs = self.root / "logs"
        self._lock = FileLock(str(self.root / ".lock"), timeout=0) if lock else None

    def __enter__(self) -> "Run":
        if self._lock is None:
            return self
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise UserError(
                f"{self.root} is in use by {self._holder()}; wait for it, or give this run another name=..."
            ) from None
        except OSError as e:
            raise UserError(
                f"{self.root}: cannot write there ({e.strerror}); set DUETTO_HOME to a folder you own"
            ) from None
        me = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%H:%M:%S"),
            "command": " ".join(sys.argv[1:3]),
        }
        (self.root / ".lock.json").write_text(json.dumps(me))
        with atomic_write(self.root / "recipe.yaml") as f:
            f.write(f"# Frozen copy of {self.recipe.file}, overrides applied. sha256 {self.recipe.hash}\n")
            yaml.safe_dump(self.recipe.resolved, f, sort_keys=False, allow_unicode=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.release()

    def _holder(self) -> str:
        try:
            h = json.loads((self.root / ".lock.json").read_text())
            return f"process {h['pid']} on {h['host']} (duetto {h['command']}, since {h['since']})"
        except (OSError, ValueError, KeyError):
            return "another process"

    def path(self, *parts: str) -> Path:
        return self.root.joinpath(*parts)

    def manifest(self, stage: str) -> dict[str, Any] | None:
        """The manifest of a finished stage, or None."""
        path = self.path("manifests", f"{stage}.json")
        return read_json(path) if path.exists() else None

    def require(self, stage: str) -> dict[str, Any]:
        """The manifest of a stage that must be done by now."""
        found = self.manifest(stage)
        if found is None:
            raise UserError(
                f"{self.root}: stage {stage!r} is not done; run: duetto {stage} --recipe {self.recipe.file}"
            )
        return found
