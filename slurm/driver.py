"""``duetto VERB`` inside a SLURM job: torchrun goes over all nodes, and the watchdog looks on.

    python -m slurm.driver pretrain --recipe configs/recipes/demo.yaml

Called by the scripts in slurm/, on the first node of the allocation, with the variables of slurm.environment. Exit
codes are those of duetto.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import duetto.process
from duetto.cli import main
from duetto.recipe import ROOT
from slurm.across import across_nodes, ranks_of
from slurm.config import ClusterConfig, find
from slurm.watchdog import Watchdog

run_logged = duetto.process.run_logged


def spread(cluster: ClusterConfig, run: Path) -> Callable[..., None]:
    """``duetto.process.run_logged`` for a job: stages call it as ever and need not know of SLURM."""
    container = cluster.container

    def run_across(
        command: Sequence[str | os.PathLike[str]],
        log: Path,
        env: Mapping[str, str] | None = None,
        poll: Callable[[], None] | None = None,
        cwd: Path | None = None,
    ) -> None:
        inside = container.command(ROOT, run) if container else []
        gpus = int(os.environ.get("SLURM_GPUS_ON_NODE") or 0) if cluster.gpu else 0
        words = across_nodes(command, os.environ, gpus, inside, container.python if container else "")
        watchdog = Watchdog(cluster, run, ranks_of(words)) if "pretrain.worker" in words else None

        def look() -> None:
            if poll:
                poll()
            if watchdog:
                watchdog.look()

        run_logged(words, log=log, env=env, poll=look, cwd=cwd)

    return run_across


def drive(argv: Sequence[str]) -> int:
    run, cluster = Path(os.environ["DUETTO_RUN"]), find(os.environ["DUETTO_CLUSTER"])
    if argv[0] == "tokenize" and cluster.data_arrays:
        # The arrays that datatrove submits from here must not inherit the size of this job.
        for name in [n for n in os.environ if n.startswith(("SLURM_", "SBATCH_")) and n != "SLURM_CONF"]:
            del os.environ[name]
    # Stages take the function from its module when they are imported, which main() does later.
    duetto.process.run_logged = spread(cluster, run)
    return main(argv)


if __name__ == "__main__":
    sys.exit(drive(sys.argv[1:]))
