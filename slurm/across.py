"""One machine's torchrun command becomes the same command on every node of a SLURM allocation.

``duetto pretrain`` starts ``torchrun --standalone --nproc-per-node P``; inside a job of N nodes the driver turns this
into ``srun`` with one task a node, P / N processes in each, and the rendezvous on the first node.
"""

import os
from collections.abc import Mapping, Sequence

from duetto.errors import UserError

TORCHRUN = ("torch.distributed.run", "pretrain.launch")
"""Modules that take torchrun's arguments."""


def across_nodes(
    command: Sequence[str | os.PathLike[str]],
    env: Mapping[str, str],
    gpus: int = 0,
    container: Sequence[str] = (),
    python: str = "",
) -> list[str]:
    """The command to run instead; anything that is not torchrun on one machine comes back unchanged.

    Args:
        command: as the stage wrote it.
        env: of the job: SLURM_JOB_NUM_NODES, SLURM_JOB_ID, DUETTO_HEAD, DUETTO_PORT.
        gpus: allocated on each node; 0 where the engines run on CPUs.
        container: command that enters the image, in front of every node's command.
        python: interpreter inside the image.

    Raises:
        UserError: the processes cannot be shared out over the nodes, or a node has fewer GPUs than processes.
    """
    words = [os.fspath(w) for w in command]
    nodes = int(env.get("SLURM_JOB_NUM_NODES", "1"))
    if words[:1] == ["srun"] or not any(w in TORCHRUN for w in words):
        return words
    words, processes = _per_node(words, nodes)
    if gpus and processes > gpus:
        raise UserError(
            f"{processes} processes a node on {gpus} allocated GPUs: raise jobs.*.gpus_per_node of the cluster file, "
            "take more nodes, or lower pretrain.parallelism.dp"
        )
    if container:
        words[0] = python
    if nodes == 1:
        return [*container, *words]
    at = words.index("--standalone")
    meet = [
        f"--nnodes={nodes}",
        f"--rdzv-id={env['SLURM_JOB_ID']}-{env.get('SLURM_RESTART_COUNT', '0')}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={env['DUETTO_HEAD']}:{env['DUETTO_PORT']}",
    ]
    words[at : at + 1] = meet
    # A lost worker ends the job's attempt, and the job returns to the queue: over nodes that is quicker and surer than
    # torchrun's own restart, which would also restart workers that stopped because they were asked to.
    if "--max-restarts" in words:
        words[words.index("--max-restarts") + 1] = "0"
    return [*srun(nodes), *container, *words]


def ranks_of(words: Sequence[str]) -> int:
    """Processes that a command starts over all its nodes."""
    value = {k.replace("_", "-"): v for k, _, v in (w.partition("=") for w in words)}
    return int(value.get("--nnodes") or 1) * int(value.get("--nproc-per-node") or 1)


def srun(nodes: int, wait: int = 300) -> list[str]:
    """One task on each node.

    Args:
        nodes: of the allocation.
        wait: seconds that the others get when one task has ended; killing them at once would tear a checkpoint.
    """
    return [
        "srun",
        f"--nodes={nodes}",
        f"--ntasks={nodes}",
        "--ntasks-per-node=1",
        "--kill-on-bad-exit=0",
        f"--wait={wait}",
        "--label",
    ]


def _per_node(words: list[str], nodes: int) -> tuple[list[str], int]:
    for i, word in enumerate(words):
        flag, _, value = word.partition("=")
        if flag.replace("_", "-") != "--nproc-per-node":
            continue
        total = int(value or words[i + 1])
        if total % nodes:
            raise UserError(
                f"{total} processes (dp x tp x pp) cannot be shared out over {nodes} nodes: make them a multiple of "
                "it, or set jobs.pretrain.nodes of the cluster file"
            )
        each = total // nodes
        return [*words[:i], f"--nproc-per-node={each}", *words[i + (1 if value else 2) :]], each
    return words, 1
