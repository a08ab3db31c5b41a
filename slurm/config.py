"""The cluster file (configs/clusters/*.yaml), typed, and which of them belongs to this machine. Light: no engine.

A cluster file says what a job may ask for and how a node becomes ready; what a job runs comes from the recipe.
"""

import fnmatch
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from duetto.errors import UserError
from duetto.recipe import ROOT, StrictModel, nearest, read_yaml, validate

FOLDER = ROOT / "configs" / "clusters"


def minutes(text: str) -> float:
    """SLURM's time formats: ``M``, ``M:S``, ``H:M:S``, ``D-H``, ``D-H:M``, ``D-H:M:S``.

    Raises:
        ValueError: none of them.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not match:
        raise ValueError(f"{text!r} is no SLURM time; write hours:minutes:seconds or days-hours:minutes:seconds")
    days, a, b, c = (int(x) if x is not None else None for x in match.groups())
    assert a is not None
    if days is not None:
        return days * 1440 + a * 60 + (b or 0) + (c or 0) / 60
    if b is None:
        return float(a)
    return a + b / 60 if c is None else a * 60 + b + c / 60


def mebibytes(text: str) -> int:
    """``480G`` -> 491520. SLURM's default unit is MiB.

    Raises:
        ValueError: not a SLURM memory size.
    """
    match = re.fullmatch(r"(\d+)([KMGT]?)", text)
    if not match:
        raise ValueError(f"{text!r} is no SLURM memory size; write for example 480G (0: the whole node)")
    number, unit = int(match[1]), match[2] or "M"
    return number // 1024 if unit == "K" else number * {"M": 1, "G": 1024, "T": 1024**2}[unit]


class JobSize(StrictModel):
    """What one job asks for; what is left out follows from the cluster."""

    nodes: int | None = Field(default=None, gt=0)
    """Nodes; by default all of ``nodes`` for pretrain, 1 for the others."""
    gpus_per_node: int | None = Field(default=None, ge=0)
    """GPUs on each node; by default all for pretrain, sft and dpo, one for the evaluations, none for the others."""
    cpus: int | None = Field(default=None, gt=0)
    """Cores on each node; by default the share that belongs to the GPUs, all of them for tokenize."""
    memory: str | None = None
    """On each node, SLURM's notation; by default the share that belongs to the cores."""
    time: str | None = None
    """Limit of one job; ``time`` of the cluster when not given."""
    partition: str | None = None
    """Another partition than the cluster's, for example one without GPUs."""
    account: str | None = None
    """Another account than the cluster's."""
    qos: str | None = None
    """Another QOS than the cluster's."""
    constraint: str | None = None
    """Another constraint than the cluster's."""
    links: int | None = Field(default=None, gt=0)
    """``pretrain`` only: jobs in the chain of one stage; by default as many as the plan's hours need."""

    @field_validator("time")
    @classmethod
    def _time(cls, value: str | None) -> str | None:
        if value is not None:
            minutes(value)
        return value

    @field_validator("memory")
    @classmethod
    def _memory(cls, value: str | None) -> str | None:
        if value is not None:
            mebibytes(value)
        return value


class Container(StrictModel):
    """Engines run inside an image; the driver that starts them runs in the virtual environment of the host."""

    image: str
    """Apptainer (Singularity) image file."""
    python: str = "/usr/bin/python3"
    """Interpreter inside the image."""
    binds: list[str] = []
    """Folders visible inside, beside the repository and the run folder."""

    def command(self, repository: Path, run: Path) -> list[str]:
        binds = [str(repository), str(run), *self.binds]
        return ["apptainer", "exec", "--nv", *(x for b in binds for x in ("--bind", b)), self.image]


class Health(StrictModel):
    """Limits of the node check that runs before every launch."""

    enabled: bool = True
    """Whether it runs; ``duetto submit --no-health`` switches it off for one submission."""
    min_free_memory: float = Field(default=0.8, gt=0, le=1)
    """Share of each GPU's memory that must be free."""
    min_matmul: float = Field(default=0.85, gt=0, le=1)
    """Slowest matmul, as a share of the median of all nodes."""
    max_clock_skew: float = Field(default=2.0, gt=0)
    """Seconds between a node's clock and the first node's."""
    min_disk_gb: float = Field(default=5.0, ge=0)
    """Free space where temporary files and where the run folder lie."""
    min_bandwidth: float = Field(default=0.0, ge=0)
    """All-reduce bus bandwidth in GB/s under which the job does not start; 0 only reports it."""
    seconds: int = Field(default=120, gt=0)
    """A check that takes longer counts as failed."""


class Arrays(StrictModel):
    """Tokenization as datatrove's SLURM arrays, submitted from the tokenize job."""

    partition: str | None = None
    """By default the partition of the tokenize job."""
    time: str = "20:00:00"
    """Limit of one task."""
    cpus_per_task: int = Field(default=1, gt=0)
    """datatrove's tasks are single-threaded; more cores only bring more memory."""
    mem_per_cpu_gb: int = Field(default=4, gt=0)
    """GiB a core."""
    workers: int = -1
    """Tasks that run at once; -1 for no bound."""


class Watchdog(StrictModel):
    """What counts as trouble in a running pretraining job."""

    stall_seconds: float = Field(default=1800.0, gt=0)
    """No new step for so long: the job is stopped and goes back to the queue, from its last checkpoint."""


class ClusterConfig(StrictModel):
    """One SLURM cluster, as one project uses it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """For messages and logs."""
    hosts: list[str] = []
    """Patterns of host names (``login*.example.org``): on such a machine the file is taken without being named."""
    account: str | None = None
    """Project that is billed."""
    partition: str | None = None
    """Partition; SLURM's default one when not given."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features that the nodes must have."""
    nodes: int = Field(gt=0)
    """Most nodes that one job takes."""
    gpus_per_node: int = Field(ge=0)
    """GPUs of a node."""
    gpu: str | None = None
    """Model as in the planner's table (``A100-80GB``); for time and cost estimates."""
    cpus_per_node: int = Field(gt=0)
    """Cores of a node."""
    memory_per_node: str
    """Memory that jobs can have on a node, SLURM's notation; 0 asks for the whole node."""
    time: str = "24:00:00"
    """Longest job."""
    warning_seconds: int = Field(default=300, ge=30)
    """A job is warned so long before its limit; a checkpoint must fit in. SLURM may be up to 60 s late."""
    requeue: bool = True
    """A warned or preempted job goes back to the queue under its id; false where the site forbids it: then a chain
    of jobs (``jobs.pretrain.links``) does the rest."""
    exclusive: bool = False
    """Multi-node jobs take whole nodes."""
    sbatch: dict[str, str | int | bool] = {}
    """More sbatch options, long names without dashes."""
    modules: list[str] = []
    """Loaded in every job, in order."""
    venv: str = ".venv"
    """Virtual environment, relative to the repository; every node must see it."""
    container: Container | None = None
    """Image for the engines."""
    environment: dict[str, str] = {}
    """Variables of every job: NCCL and network settings."""
    runs: str | None = None
    """Folder of the run folders (DUETTO_HOME), on a file system that all nodes share."""
    hub_cache: str | None = None
    """Folder of what ``duetto fetch`` brought (HF_HOME), seen by all nodes."""
    temporary: str | None = None
    """Fast local disk of a node (TMPDIR)."""
    price_per_gpu_hour: float | None = Field(default=None, ge=0)
    """In any one currency; for the cost lines."""
    jobs: dict[Literal["tokenize", "pretrain", "convert", "progress", "sft", "dpo", "eval", "card"], JobSize] = {}
    """Sizes by job; ``progress`` is the evaluation of checkpoints."""
    data_arrays: Arrays | None = None
    """Spread tokenization over the cluster; without it the tokenize job uses the cores of its own node."""
    eval_parallel: int = Field(default=8, gt=0)
    """Parts of an evaluation that run at once."""
    health: Health = Health()
    watchdog: Watchdog = Watchdog()

    @field_validator("time")
    @classmethod
    def _time(cls, value: str) -> str:
        minutes(value)
        return value

    @field_validator("memory_per_node")
    @classmethod
    def _memory(cls, value: str) -> str:
        mebibytes(value)
        return value

    @model_validator(mode="after")
    def _sizes_fit(self) -> "ClusterConfig":
        for stage, size in self.jobs.items():
            where = f"jobs.{stage}"
            if (size.nodes or 0) > self.nodes:
                raise ValueError(f"{where}.nodes is {size.nodes}, but nodes says {self.nodes}; lower it")
            if (size.gpus_per_node or 0) > self.gpus_per_node:
                raise ValueError(f"{where}.gpus_per_node is {size.gpus_per_node}; a node has {self.gpus_per_node}")
            if (size.cpus or 0) > self.cpus_per_node:
                raise ValueError(f"{where}.cpus is {size.cpus}; a node has {self.cpus_per_node}")
            if size.links and stage != "pretrain":
                raise ValueError(f"{where}.links: only pretrain is a chain")
            if minutes(size.time or self.time) * 60 <= self.warning_seconds and stage == "pretrain":
                raise ValueError(f"{where}.time is not longer than warning_seconds ({self.warning_seconds}); raise it")
        return self

    def size(self, stage: str) -> JobSize:
        """The size of a job with every default filled in."""
        given = {str(k): v for k, v in self.jobs.items()}.get(stage) or JobSize.model_validate({})
        engine = stage in ("pretrain", "sft", "dpo")
        all_gpus = self.gpus_per_node if engine else min(1, self.gpus_per_node)
        if given.gpus_per_node is not None:
            gpus = given.gpus_per_node
        else:
            gpus = all_gpus if engine or stage in ("eval", "progress") else 0
        if given.cpus is not None:
            cpus = given.cpus
        elif gpus:
            cpus = max(1, self.cpus_per_node * gpus // self.gpus_per_node)
        else:
            cpus = self.cpus_per_node if engine or stage == "tokenize" else min(8, self.cpus_per_node)
        memory = given.memory
        if memory is None:
            node = mebibytes(self.memory_per_node)
            memory = "0" if cpus == self.cpus_per_node or node == 0 else f"{node * cpus // self.cpus_per_node}M"
        filled = {
            "nodes": given.nodes or (self.nodes if stage == "pretrain" else 1),
            "gpus_per_node": gpus,
            "cpus": cpus,
            "memory": memory,
            "time": given.time or self.time,
            "partition": given.partition or self.partition,
            "account": given.account or self.account,
            "qos": given.qos or self.qos,
            "constraint": given.constraint or self.constraint,
        }
        return given.model_copy(update=filled)


def cluster_files() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(FOLDER.glob("*.yaml")):
        yield path, read_yaml(path)


def detect(host: str | None = None) -> Path | None:
    """The cluster file whose ``hosts`` match this machine's name, or None."""
    names = {host} if host else {socket.gethostname(), socket.getfqdn()}
    for path, raw in cluster_files():
        if any(fnmatch.fnmatch(name, pattern) for name in names for pattern in raw.get("hosts") or []):
            return path
    return None


def find(name: str | None = None, host: str | None = None) -> ClusterConfig:
    """The cluster file of that name or path, or the one detected.

    Raises:
        UserError: there is none.
    """
    known = [p.stem for p, _ in cluster_files()]
    if name is None:
        path = detect(host)
        if path is None:
            raise UserError(
                f"the recipe names no cluster and no file in configs/clusters lists the host {socket.gethostname()}; "
                f"say which one: cluster=configs/clusters/NAME.yaml (NAME: {', '.join(known)}), or run on this "
                "machine with --executor local"
            )
    else:
        path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
        if not path.is_file():
            raise UserError(f"no cluster {name!r}{nearest(name, known)}")
    config: ClusterConfig = validate(ClusterConfig, read_yaml(path), "cluster")
    return config
