"""SLURM's own commands, asked with formats of our own: the JSON output changes from release to release.

Works without slurmdbd: squeue shows what waits and runs, scontrol what ended a while ago, sacct (where there is
accounting) the rest.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from duetto.errors import UserError

ALIVE = {"PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "RESIZING"}
"""States of a job that may still do something."""


@dataclass(frozen=True)
class JobState:
    job: str
    state: str
    """SLURM's word for it."""
    reason: str = ""
    """Why it waits, or how it ended."""
    nodes: str = ""
    time_left: str = ""

    @property
    def alive(self) -> bool:
        return self.state in ALIVE


def ask(*command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a client.

    Raises:
        UserError: it is not installed, or the controller does not answer in time.
    """
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except FileNotFoundError:
        raise UserError(
            f"there is no {command[0]} on this machine; run on a login node of the cluster, or here with "
            "--executor local"
        ) from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} got no answer from slurmctld in {timeout:.0f} s; try again later") from None


def has_slurm() -> bool:
    return shutil.which("sbatch") is not None


def sbatch(script: Path, options: Sequence[str] = (), test_only: bool = False) -> str:
    """Submit a script (or only have it judged); the job id.

    Raises:
        UserError: SLURM refuses it; the message is SLURM's.
    """
    command = ["sbatch", "--parsable", *options, *(["--test-only"] if test_only else []), str(script)]
    done = ask(*command)
    if done.returncode:
        said = (done.stderr + done.stdout).strip().replace("sbatch: error: ", "").replace("allocation failure: ", "")
        raise UserError(" ".join(said.split()))
    return done.stdout.strip().split(";")[0]


def states(jobs: Sequence[str]) -> dict[str, JobState]:
    """What SLURM knows of these jobs; unknown ones are absent. Array jobs are one entry: the worst of their tasks."""
    if not jobs or not has_slurm():
        return {}
    found: dict[str, JobState] = {}
    wanted = ",".join(jobs)
    # --jobs with an id that the controller has forgotten fails for all: ask for everything of this user instead.
    done = ask("squeue", "-h", "-t", "all", "-u", str(os.getuid()), "-o", "%A|%F|%T|%r|%N|%L")
    for line in done.stdout.splitlines():
        job, array, state, reason, nodes, left = (line.split("|") + [""] * 6)[:6]
        key = array if array in jobs else job
        if key in jobs:
            found[key] = _worse(found.get(key), JobState(key, state, "" if reason == "None" else reason, nodes, left))
    if set(jobs) - set(found):
        for key, ended in _sacct(wanted).items():
            found.setdefault(key, ended)
    return found


def _worse(a: JobState | None, b: JobState) -> JobState:
    order = ("COMPLETED", "PENDING", "RUNNING")
    if a is None:
        return b
    rank = {s: i for i, s in enumerate(order)}
    alive = [s for s in (a, b) if s.alive]
    if alive:
        return max(alive, key=lambda s: rank.get(s.state, 1))
    return max((a, b), key=lambda s: rank.get(s.state, 9))


def _sacct(jobs: str) -> dict[str, JobState]:
    """From the accounting, where there is one."""
    if shutil.which("sacct") is None:
        return {}
    done = ask("sacct", "-n", "-X", "-P", "-j", jobs, "-o", "JobIDRaw,State,Reason,NodeList")
    if done.returncode:
        return {}
    out = {}
    for line in done.stdout.splitlines():
        job, state, reason, nodes = (line.split("|") + [""] * 4)[:4]
        out[job] = JobState(job, state.split()[0] if state else "UNKNOWN", "" if reason == "None" else reason, nodes)
    return out


def hostnames(nodelist: str) -> list[str]:
    """``node[1-3]`` -> its names."""
    if not nodelist:
        return []
    done = ask("scontrol", "show", "hostnames", nodelist)
    return done.stdout.split() if done.returncode == 0 else [nodelist]


def own_steps() -> list[str]:
    """Steps (``12.3``) of the job around this process, without the batch step."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return []
    done = ask("squeue", "-h", "-s", "-j", job, "-o", "%i")
    return [s for s in done.stdout.split() if s.rpartition(".")[2].isdigit()]
