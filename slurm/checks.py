"""What ``duetto submit`` refuses, at once and with what to change, so that no job fails late or waits for ever."""

import importlib.metadata
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from duetto.console import duration, log
from duetto.errors import UserError
from duetto.recipe import ROOT, Recipe, nearest
from slurm import clients
from slurm.config import ClusterConfig, minutes
from slurm.environment import venv_folder
from slurm.graph import Job
from slurm.watchdog import read_tail

NEVER = {
    "PartitionTimeLimit": "its time is above the partition's limit; lower time in the cluster file",
    "PartitionNodeLimit": "it asks for more nodes than the partition gives; lower nodes in the cluster file",
    "PartitionDown": "the partition is down; choose another partition in the cluster file",
    "PartitionInactive": "the partition is inactive; choose another partition in the cluster file",
    "InvalidAccount": "the account is not valid here; set account in the cluster file",
    "InvalidQOS": "the QOS is not valid here; set qos in the cluster file",
    "BadConstraints": "no node has what it asks for; look at constraint and sizes in the cluster file",
    "QOSMaxWallDurationPerJobLimit": "its time is above the QOS's limit; lower time in the cluster file",
    "QOSMaxNodePerJobLimit": "it asks for more nodes than the QOS gives; lower nodes in the cluster file",
    "AssocMaxWallDurationPerJobLimit": "its time is above the account's limit; lower time in the cluster file",
    "AssocMaxNodePerJobLimit": "it asks for more nodes than the account gives; lower nodes in the cluster file",
    "AssocGrpCPUMinutesLimit": "the account's hours are used up",
    "AssocGrpGRESMinutes": "the account's GPU hours are used up",
}
"""Reasons for which a pending job would wait for ever."""


def _plan(recipe: Recipe, cluster: ClusterConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """The planner's figures for this cluster's GPUs; stages talk through commands, not imports."""
    command = [sys.executable, "-m", "duetto", "plan", "--json", "--gpu", str(cluster.gpu)]
    command += ["--recipe", str(recipe.file), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise UserError(f"duetto plan: {(done.stderr or done.stdout).strip().removeprefix('error: ')}")
    return dict(json.loads(done.stdout))


def planned_hours(recipe: Recipe, cluster: ClusterConfig, overrides: Sequence[str]) -> float | None:
    """The planner's upper estimate of the whole pretraining; None on hardware without a data sheet."""
    if cluster.gpu is None:
        return None
    days = [stage["days"] for stage in _plan(recipe, cluster, overrides)["stages"]]
    if not all(days):
        return None
    log(f"pretraining takes {' to '.join(duration(sum(d[i] for d in days) * 86400) for i in (0, 1))} on {cluster.name}")
    return float(sum(d[1] for d in days) * 24)


def doctor(recipe: Recipe, overrides: Sequence[str]) -> None:
    """The doctor's checks, here on the login node, before the first GPU hour is asked for."""
    command = [sys.executable, "-m", "duetto", "doctor", "--recipe", str(recipe.file), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise UserError((done.stderr.strip() or done.stdout[-1000:]).removeprefix("error: "))


def sizes(recipe: Recipe, cluster: ClusterConfig, jobs: Sequence[Job]) -> None:
    """dp x tp x pp of every pretraining file must fill the allocation exactly."""
    if not any(j.stage == "pretrain" for j in jobs):
        return
    size = cluster.size("pretrain")
    nodes, gpus = size.nodes or 1, size.gpus_per_node or 0
    for i, config in enumerate(recipe.pretrain):
        world = config.parallelism.world_size
        key = f"pretrain.{i}" if len(recipe.pretrain) > 1 else "pretrain"
        if world % nodes:
            raise UserError(
                f"{key}.parallelism: dp x tp x pp = {world} processes cannot be shared out over {nodes} nodes; set "
                f"cluster.jobs.pretrain.nodes, or {key}.parallelism.dp"
            )
        if gpus and config.duetto.device != "cpu" and world != nodes * gpus:
            raise UserError(
                f"{key}.parallelism: dp x tp x pp = {world} processes, but {nodes} nodes x {gpus} GPUs = "
                f"{nodes * gpus}; set {key}.parallelism.dp="
                f"{config.parallelism.dp * nodes * gpus // world or 1}, or nodes and "
                "gpus_per_node under jobs.pretrain of the cluster file"
            )


def machine(cluster: ClusterConfig, folder: Path) -> None:
    """SLURM, run folder, virtual environment, modules and image are there."""
    if not clients.has_slurm():
        clients.ask("sbatch", "--version")  # says what to do
    try:
        (folder / "logs" / "slurm").mkdir(parents=True, exist_ok=True)
        (folder / "slurm").mkdir(exist_ok=True)
        probe = folder / "slurm" / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as e:
        raise UserError(
            f"{folder}: cannot write there ({e.strerror}); set DUETTO_HOME, or runs in the cluster file, to a folder "
            "that you own and every node sees"
        ) from None
    activate = venv_folder(cluster) / "bin" / "activate"
    if not activate.is_file():
        raise UserError(f"{activate}: no such file; run make setup there, or set venv in the cluster file")
    if cluster.gpu and importlib.metadata.version("torch").endswith("+cpu") and not cluster.container:
        # make setup takes that build where it sees no GPU, and a login node has none.
        raise UserError(
            "torch is the CPU build, but the cluster has GPUs: rm .venv/.installed and run UV_TORCH_BACKEND=cu128 make "
            "setup on this login node (or name a container in the cluster file)"
        )
    if cluster.container and not Path(cluster.container.image).is_file():
        raise UserError(f"{cluster.container.image}: no such image; build it, or drop container in the cluster file")
    for n, module in enumerate(cluster.modules, 1):
        # With those before it: on many sites a module is there only after its compiler or MPI is loaded.
        names = " ".join(map(shlex.quote, cluster.modules[:n]))
        shell = f"command -v module >/dev/null || source /etc/profile; module load {names}"
        done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60)
        if done.returncode or "ERROR" in done.stderr:  # old Environment Modules fail with exit code 0
            said = " ".join((done.stderr or done.stdout).split())[-200:]
            raise UserError(
                f"modules: {module} cannot be loaded here ({said}); see module avail, or mend the cluster file"
            )


def time_limits(
    recipe: Recipe, cluster: ClusterConfig, jobs: Sequence[Job], overrides: Sequence[str], folder: Path
) -> None:
    """The partition allows the time, and a pretraining job is longer than one checkpoint interval."""
    for stage in dict.fromkeys(j.stage for j in jobs):
        size = cluster.size(stage)
        allowed = partition_limit(size.partition)
        if allowed is not None and minutes(str(size.time)) > allowed:
            raise UserError(
                f"{stage}: time {size.time} is above the {allowed:g} minutes that partition "
                f"{size.partition or '(default)'} allows; lower time or jobs.{stage}.time in the cluster file"
            )
    if not any(j.stage == "pretrain" for j in jobs):
        return
    usable = minutes(str(cluster.size("pretrain").time)) * 60 - cluster.warning_seconds
    measured = read_tail(folder / "pretrain" / "metrics.jsonl")
    if measured:
        middle = sorted(r["step_seconds"] for r in measured)[len(measured) // 2]
        seconds: list[float | None] = [middle] * len(recipe.pretrain)
    elif cluster.gpu:
        found = [s["step_seconds"] for s in _plan(recipe, cluster, overrides)["stages"]]
        seconds = [s[0] if s else None for s in found]  # the planner's faster figure: refuse only what is certain
    else:
        return
    for config, step in zip(recipe.pretrain, seconds):
        interval = config.checkpoints.checkpoint_interval
        if step is not None and interval * step > usable:
            raise UserError(
                f"checkpoints.checkpoint_interval: {interval} steps take about {duration(interval * step)}, but a job "
                f"ends after {duration(usable)}: a killed job would lose all its work; lower the interval to "
                f"{max(1, int(usable / step / 2))} or raise jobs.pretrain.time"
            )


def partition_limit(partition: str | None) -> float | None:
    """Longest job in minutes; None without a limit.

    Raises:
        UserError: there is no such partition.
    """
    found = {}
    for line in clients.ask("sinfo", "-h", "-o", "%R|%l|%P").stdout.splitlines():
        name, limit, shown = line.split("|")
        found[name] = limit
        if shown.endswith("*") and partition is None:
            partition = name
    if partition is None or not found:
        return None
    if partition not in found:
        raise UserError(f"partition {partition!r}: this cluster has no such partition{nearest(partition, list(found))}")
    return None if found[partition] in ("infinite", "n/a") else minutes(found[partition])


def test_only(job: Job, cluster: ClusterConfig, script: Path) -> None:
    """SLURM's own judgement of a script, without submitting it."""
    try:
        clients.sbatch(script, test_only=True)
    except UserError as e:
        size = cluster.size(job.stage)
        shown = f"{size.nodes} nodes, {size.gpus_per_node} GPUs, {size.cpus} cores and {size.memory} memory each"
        raise UserError(
            f"{job.name}: SLURM refuses the job: {e}. It asks for {shown}, partition {size.partition or '(default)'}, "
            f"time {size.time}; change the cluster file ({cluster.name}), for example jobs.{job.stage}; sinfo shows "
            "what there is"
        ) from None


def will_start(ids: Mapping[str, str], seconds: float = 1.5) -> None:
    """Ask once more after the submission: some reasons show only in the queue.

    Raises:
        UserError: a job would never start.
    """
    end = time.monotonic() + seconds
    while True:
        names = {job: name for name, job in ids.items()}
        for name, state in ((names[s.job], s) for s in clients.states(list(names)).values()):
            if state.state == "PENDING" and state.reason in NEVER:
                raise UserError(f"{name}: it would wait for ever: {NEVER[state.reason]} (SLURM: {state.reason})")
        if time.monotonic() > end:
            return
        time.sleep(0.5)
