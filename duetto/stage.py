"""A stage: work that is done once for one set of inputs, configuration and version.

The manifest is written last and atomically, so a stage without one is not done. Its fingerprint covers the
configuration, the digests of what upstream stages made, the input files and the stage's ``version``. The version is a
number that the author raises when the output changes, not a hash of the sources: mending a comment must not
tokenize a trillion tokens again. The git commit is recorded beside it.
"""

import functools
import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from duetto.console import duration, log
from duetto.errors import UserError
from duetto.files import files_under, read_json, sha256_file, sha256_json, write_json
from duetto.recipe import ROOT
from duetto.run import Run

ENGINES = ("torch", "nanotron", "datatrove", "axolotl", "transformers", "lm_eval", "tokenizers", "numpy")


@dataclass(frozen=True)
class Job:
    """What ``work`` gets: the run, and whether a killed attempt at the same work left something to continue."""

    run: Run
    continued: bool


@dataclass(frozen=True)
class Stage:
    """One stage of one run; ``execute`` skips, continues or does it."""

    name: str
    version: int
    work: Callable[[Job], Mapping[str, Any]]
    """Makes the outputs, returns the metrics for the manifest."""
    config: Any = None
    """What the work depends on besides its inputs, as JSON."""
    inputs: Sequence[str] = ()
    """Names of upstream stages."""
    files: Sequence[Path] = ()
    """Input files outside the run folder."""
    outputs: Sequence[Path] = ()
    """Files or folders below the run folder."""
    keeps_partial: bool = False
    """The work itself judges partial outputs made under another fingerprint (pretraining keeps its checkpoints)."""
    unhashed: Sequence[str] = ()
    """Patterns (``*`` crosses folders) of outputs recorded by size only: logs, checkpoints with hashes of their own."""

    def execute(self, run: Run, force: bool = False) -> dict[str, Any]:
        """Raises whatever ``work`` raises; the manifest then stays absent."""
        done, started = run.path("manifests", f"{self.name}.json"), run.path("manifests", f"{self.name}.started.json")
        fingerprint, inputs = self._fingerprint(run)
        manifest = run.manifest(self.name)
        if manifest and not force and manifest["fingerprint"] == fingerprint and self._intact(run, manifest):
            log(f"{self.name}: unchanged, skipped")
            return manifest
        before = read_json(started)["fingerprint"] if started.exists() else None
        continued = not force and before == fingerprint
        done.unlink(missing_ok=True)
        if force or (before != fingerprint and not self.keeps_partial):
            self._remove_outputs()
        write_json(started, {"fingerprint": fingerprint})
        log(f"{self.name}: {'continues' if continued and self._any_output() else 'starts'}")
        clock, began = time.time(), time.strftime("%Y-%m-%dT%H:%M:%S%z")
        metrics = dict(self.work(Job(run, continued)))
        seconds = time.time() - clock
        manifest = {
            "stage": self.name,
            "fingerprint": fingerprint,
            "recipe": run.recipe.hash,
            "version": self.version,
            "config": self.config,
            "inputs": inputs,
            "outputs": self._digest(run),
            "versions": engine_versions(),
            "git_commit": git_commit(),
            "host": {"name": socket.gethostname(), "machine": platform.machine(), "cpus": _cpus(), "gpus": _gpus()},
            "started": began,
            "seconds": round(seconds, 2),
            "metrics": metrics,
        }
        write_json(done, manifest)
        started.unlink(missing_ok=True)
        log(f"{self.name}: done in {duration(seconds)}")
        return manifest

    def _fingerprint(self, run: Run) -> tuple[str, dict[str, str]]:
        inputs = {name: sha256_json(run.require(name)["outputs"]) for name in self.inputs}
        for path in self.files:
            if not path.is_file():
                raise UserError(f"{path}: no such file (input of stage {self.name!r})")
            inputs[_portable(path, run)] = sha256_file(path)
        return sha256_json([self.name, self.version, self.config, inputs]), inputs

    def _digest(self, run: Run) -> dict[str, dict[str, Any]]:
        table: dict[str, dict[str, Any]] = {}
        for path in (p for output in self.outputs for p in files_under(output)):
            name = path.relative_to(run.root).as_posix()
            table[name] = {"bytes": path.stat().st_size}
            if not any(fnmatch(name, pattern) for pattern in self.unhashed):
                table[name]["sha256"] = sha256_file(path)
        return table

    def _intact(self, run: Run, manifest: Mapping[str, Any]) -> bool:
        """Every output is there with its size; content is not read again, so that skipping stays instant."""
        for name, entry in manifest["outputs"].items():
            path = run.root / name
            if not path.is_file() or path.stat().st_size != entry["bytes"]:
                log(f"{self.name}: {path} is {'missing' if not path.is_file() else 'changed'}, made again")
                return False
        return True

    def _any_output(self) -> bool:
        return any(files_under(p) for p in self.outputs)

    def _remove_outputs(self) -> None:
        for path in self.outputs:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _portable(path: Path, run: Run) -> str:
    """The name of an input in the fingerprint: a run folder or a checkout that is moved keeps its stages done."""
    for root, name in ((run.root, "{run}"), (ROOT, "{root}")):
        if path.is_relative_to(root):
            return f"{name}/{path.relative_to(root).as_posix()}"
    return str(path)


@functools.cache
def engine_versions() -> dict[str, str]:
    out = {"python": platform.python_version(), "duetto": importlib.metadata.version("duetto")}
    for name in ENGINES:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            out[name] = "absent"
    return out


@functools.cache
def git_commit() -> str:
    """``<sha>``, ``<sha>+changes`` or ``unknown`` outside a checkout."""
    try:
        sha = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=ROOT, capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return sha + ("+changes" if dirty else "")


def _gpus() -> list[str]:
    """Models of this machine's GPUs; empty where there are none."""
    try:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
