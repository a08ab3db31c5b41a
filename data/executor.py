"""Runs datatrove pipelines: in this process, in local processes, or as SLURM arrays, from one configuration.

datatrove's own local executor starts a manager process that outlives a SIGKILL of its parent and would keep the run
folder locked; ours uses a plain pool whose workers die with the parent, and no process at all for one worker.
"""

import contextlib
import io
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import dill
from datatrove.executor import LocalPipelineExecutor
from datatrove.utils.stats import PipelineStats

from data.config import Executor
from duetto.errors import StageFailed, UserError
from duetto.process import die_with_parent

SMALL_INPUT = 64 * 2**20
"""Bytes below which starting processes (2 s each) costs more than it brings."""


class LocalExecutor(LocalPipelineExecutor):
    """``LocalPipelineExecutor`` without its manager process, quiet, with a callback while it waits."""

    pipeline: list[Any]
    poll: Callable[[], None] | None = None

    def run(self) -> PipelineStats:
        self._launched = True
        ranks = self.get_incomplete_ranks(range(self.tasks))
        self.save_executor_as_json()
        if self.workers == 1:
            with _ticking(self.poll):
                for rank in ranks:
                    self._quietly(rank)
        elif ranks:
            self._run_in_processes(ranks)
        return PipelineStats()

    def _run_in_processes(self, ranks: list[int]) -> None:
        """A worker that is killed (out of memory, say) is an error here; multiprocessing's Pool would wait for ever."""
        # forkserver: a fork of this process would inherit engine threads and the lock of the run folder
        context = multiprocessing.get_context("forkserver")
        blob = dill.dumps(self)
        others = set(multiprocessing.active_children())
        with ProcessPoolExecutor(min(self.workers, len(ranks)), context, _die_with_main) as pool, _ticking(self.poll):
            try:
                for future in as_completed([pool.submit(_run_rank, blob, rank) for rank in ranks]):
                    future.result()
            except BaseException as e:
                # The others would work on for hours before the error is shown; what they have is kept.
                for worker in set(multiprocessing.active_children()) - others:
                    worker.terminate()
                if not isinstance(e, BrokenProcessPool):
                    raise
                raise StageFailed(
                    "a worker process was killed, most often for want of memory; lower data.executor.workers "
                    f"(now {self.workers}) and run the same command again: finished tasks are kept. "
                    f"Logs: {self.logging_dir.path}"
                ) from None

    def _quietly(self, rank: int) -> None:
        """datatrove logs every task to standard error too; the task's own log file is enough."""
        pipeline = self.pipeline
        if self.workers == 1:
            from copy import deepcopy

            self.pipeline = deepcopy(pipeline)
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                self._run_for_rank(rank, 0)
        finally:
            self.pipeline = pipeline

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "poll"}


@contextlib.contextmanager
def _ticking(poll: Callable[[], None] | None, seconds: float = 0.5) -> Iterator[None]:
    """Call ``poll`` every so many seconds while the block runs."""
    if poll is None:
        yield
        return
    end = threading.Event()

    def tick() -> None:
        while not end.wait(seconds):
            poll()

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _die_with_main() -> None:
    """In a worker: its parent is the fork server, which outlives the run's process by what it is importing."""
    die_with_parent()
    main = multiprocessing.parent_process()
    assert main is not None

    def watch() -> None:
        main.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run_rank(blob: bytes, rank: int) -> None:
    dill.loads(blob)._quietly(rank)


def run_tasks(
    pipeline: list[Any],
    name: str,
    tasks: int,
    folder: Path,
    config: Executor,
    input_bytes: int = 0,
    poll: Callable[[], None] | None = None,
) -> None:
    """Run every task of a pipeline that is not completed yet; returns when all are.

    Args:
        pipeline: datatrove steps.
        name: of the job, for SLURM and for messages.
        tasks: parallel parts.
        folder: where completions, logs and stats of the tasks are; on resume, completed tasks are skipped.
        config: where to run.
        input_bytes: small inputs are done in this process.
        poll: called again and again, in a thread, while tasks run.

    Raises:
        UserError: from a task.
        StageFailed: a SLURM task failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if config.slurm:
        with _ticking(poll, seconds=10):  # it lists folders of a shared file system
            _run_slurm(pipeline, name, tasks, folder, config)
        return
    workers = config.workers or (1 if input_bytes < SMALL_INPUT else _cores())
    executor = LocalExecutor(pipeline, tasks=tasks, workers=min(workers, tasks), logging_dir=str(folder))
    executor.poll = poll
    executor.run()


def _run_slurm(pipeline: list[Any], name: str, tasks: int, folder: Path, config: Executor) -> None:
    from datatrove.executor import SlurmPipelineExecutor

    slurm = config.slurm
    assert slurm is not None
    more = dict(slurm.sbatch)
    executor = SlurmPipelineExecutor(
        pipeline,
        tasks=tasks,
        time=slurm.time,
        partition=slurm.partition,
        cpus_per_task=slurm.cpus_per_task,
        mem_per_cpu_gb=slurm.mem_per_cpu_gb,
        workers=slurm.workers,
        job_name=f"duetto-{name}",
        # datatrove's srun would give a task one core, and one core's memory, whatever cpus_per_task says.
        env_command=(slurm.env_command or f"export PATH={Path(sys.executable).parent}:$PATH")
        + "; export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK",
        logging_dir=str(folder),
        slurm_logs_folder=str(folder / "slurm"),
        max_array_size=slurm.max_array_size,
        qos=more.pop("qos", None),  # datatrove's own default, "normal", is not a name on every cluster
        sbatch_args=more,
        randomize_start_duration=0,
    )
    executor.run()
    if executor.job_id in (None, -1):  # nothing was left to do
        return
    while missing := executor.get_incomplete_ranks(skip_completed=True):
        if not _in_queue(str(executor.job_id)):
            time.sleep(2)  # the last completion may still be on its way through the file system
            missing = executor.get_incomplete_ranks(skip_completed=True)
            if missing:
                raise StageFailed(
                    f"{name}: {len(missing)} of {tasks} tasks of SLURM job {executor.job_id} did not finish (first: "
                    f"{missing[0]}); see {folder}/slurm; run the same command again to redo only those"
                )
            return
        time.sleep(2)


def _in_queue(job: str) -> bool:
    import subprocess

    try:
        found = subprocess.run(["squeue", "-h", "-j", job], capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(
            "executor.slurm is set but there is no squeue here; run on a login node of the cluster"
        ) from None
    return bool(found.stdout.strip())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
