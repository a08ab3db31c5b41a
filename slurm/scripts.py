"""Job scripts for one run: the files in slurm/, with #SBATCH lines and cluster lines for this cluster and recipe.

What is submitted is a file in <run>/slurm that can be read, kept, and submitted again by hand.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from duetto.recipe import ROOT
from slurm.config import ClusterConfig
from slurm.environment import lines
from slurm.graph import Job

FOLDER = ROOT / "slurm"
CLUSTER_LINES = re.compile(r"^# cluster lines\n.*?^# end of cluster lines\n", re.M | re.S)


def options(job: Job, cluster: ClusterConfig, run: Path) -> dict[str, str | int | bool]:
    """sbatch options by long name; True stands for a flag without value."""
    size = cluster.size(job.stage)
    out: dict[str, str | int | bool] = {"job-name": f"{run.name}.{job.name}"}
    for name in ("account", "partition", "qos", "constraint"):
        if value := getattr(size, name):
            out[name] = value
    out |= {"nodes": size.nodes or 1, "ntasks-per-node": 1}
    if size.gpus_per_node:
        out["gpus-per-node"] = size.gpus_per_node
    out |= {"cpus-per-task": size.cpus or 1, "mem": str(size.memory), "time": str(size.time)}
    if cluster.exclusive and (size.nodes or 1) > 1:
        out["exclusive"] = True
    # Only the batch script is signalled: it knows whom to tell.
    out["signal"] = f"B:USR1@{cluster.warning_seconds}"
    out["requeue" if cluster.requeue else "no-requeue"] = True
    out |= {"open-mode": "append", "output": f"{run}/logs/slurm/%x-%j.log"}
    return out | cluster.sbatch


def directives(table: dict[str, str | int | bool]) -> str:
    return "".join(f"#SBATCH --{k}" + ("\n" if v is True else f"={v}\n") for k, v in table.items() if v is not False)


def preamble(job: Job, cluster: ClusterConfig, run: Path, arguments: Sequence[str]) -> list[str]:
    """The cluster lines of one job, and the arguments that its verb gets."""
    out = [f"# {cluster.name}, job {job.name}; written by duetto submit", *lines(cluster, run)]
    if job.template == "stage" or job.verb[0] == "dpo":
        out.append(f"export DUETTO_VERB={shlex.quote(' '.join(job.verb))}")
    if job.links_left:
        out.append(f"export DUETTO_LINKS_LEFT={job.links_left}")
    out.append(f"set -- {' '.join(map(shlex.quote, arguments))}")
    return out


def render(job: Job, cluster: ClusterConfig, run: Path, arguments: Sequence[str]) -> str:
    """The script of a job.

    Args:
        job: of the graph.
        cluster: for sizes and environment.
        run: the run folder.
        arguments: recipe, overrides and flags for the verb.
    """
    text = (FOLDER / f"{job.template}.sh").read_text(encoding="utf-8")
    body = [x for x in text.splitlines(keepends=True) if not x.startswith("#SBATCH ")]
    head = next(i for i, x in enumerate(body) if not x.startswith("#"))
    comment, rest = body[1:head], "".join(body[head:])
    block = "\n".join(["# cluster lines", *preamble(job, cluster, run, arguments), "# end of cluster lines", ""])
    return (
        "#!/bin/bash\n"
        + "".join(comment)
        + directives(options(job, cluster, run))
        + CLUSTER_LINES.sub(lambda _: block, rest)
    )
