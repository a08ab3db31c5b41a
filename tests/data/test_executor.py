"""The same configuration in one process, in several, and as SLURM arrays: the same documents."""

import os
import signal

import pytest
from datatrove.executor import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from data import stage
from data.config import Executor
from data.executor import LocalExecutor, run_tasks
from duetto.errors import StageFailed
from tests.support import slurm_cluster


def cleaned(run) -> dict[str, bytes]:
    return {str(p.relative_to(run.root)): p.read_bytes() for p in sorted(run.path("data").rglob("*.parquet"))}


class Killed(PipelineStep):
    """What the kernel does to a process that takes too much memory, in the second task."""

    def run(self, data=None, rank=0, world_size=1):
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield from ()


def test_a_killed_worker_ends_the_stage(tmp_path):
    executor = LocalExecutor([Killed()], tasks=3, workers=2, logging_dir=str(tmp_path / "logs"))
    with pytest.raises(StageFailed, match=r"worker process was killed.*lower data\.executor\.workers \(now 2\)"):
        executor.run()


@pytest.fixture
def in_tasks(two_sources):
    for source in two_sources["sources"].values():
        source["tasks"] = 2
    return two_sources


def test_processes_and_slurm_arrays_give_the_same_documents(make_run, args, in_tasks, monkeypatch):
    args.only = "clean"
    with make_run(in_tasks, name="alone") as run:
        stage.run(run, args)
        expected = cleaned(run)
    assert len(expected) == 4
    in_tasks["executor"] = {"workers": 2}
    with make_run(in_tasks, name="processes") as run:
        stage.run(run, args)
        assert cleaned(run) == expected
    if slurm_cluster.missing() or os.geteuid() != 0:
        pytest.skip("the rest needs SLURM and root")
    in_tasks["executor"] = {"slurm": {"partition": "batch", "time": "00:05:00", "mem_per_cpu_gb": 1}}
    with slurm_cluster.MiniCluster(nodes=2) as cluster:
        for key, value in cluster.env.items():
            monkeypatch.setenv(key, value)
        with make_run(in_tasks, name="slurm") as run:
            stage.run(run, args)
            assert cleaned(run) == expected


def test_account_and_qos_reach_sbatch_and_no_qos_is_made_up(tmp_path, monkeypatch):
    made = []

    def launch(self):
        made.append(self.get_sbatch_args())
        self.job_id = -1

    monkeypatch.setattr(SlurmPipelineExecutor, "run", launch)
    for sbatch in ({}, {"account": "lab", "qos": "long"}):
        config = Executor.model_validate({"slurm": {"partition": "cpu", "sbatch": sbatch}})
        run_tasks([], "name", 1, tmp_path, config)
    assert "qos" not in made[0] and "account" not in made[0]
    assert (made[1]["account"], made[1]["qos"]) == ("lab", "long")
