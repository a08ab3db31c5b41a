"""Training processes for tests, forked from a server that has imported the engine once: 0.3 s instead of 10 s a run."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from pretrain import metrics
from pretrain.job import Job

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["tests.pretrain.preload"])


@dataclass
class Result:
    """What a run left."""

    codes: list[int | None]
    log: str
    job: Job

    @property
    def records(self) -> list[dict[str, Any]]:
        return metrics.read(self.job.root / "metrics.jsonl")

    @property
    def losses(self) -> list[float]:
        return [r["loss"] for r in self.records]


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _rank(rank: int, world: int, port: int, job_file: str, log: str, environment: dict[str, str]) -> None:
    out = os.open(f"{log}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "DUETTO_DEVICE": "cpu", **environment}
    sys.argv = ["worker", job_file]
    from duetto.process import worker_main
    from pretrain import worker

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker_main(worker.main)


class Ranks:
    """A running job: ``Ranks(job).wait()``, or kill and signal in between."""

    def __init__(self, job: Job, environment: dict[str, str] | None = None) -> None:
        self.job = job
        job.root.mkdir(parents=True, exist_ok=True)
        job_file, self.log = job.root / "job-0.json", job.root / "log"
        job.save(job_file)
        for old in job.root.glob("log.*"):
            old.unlink()
        p = job.nanotron["parallelism"]
        world, port = p["dp"] * p["tp"] * p["pp"], _free_port()
        self.processes: list[BaseProcess] = [
            _server.Process(  # type: ignore[attr-defined]
                target=_rank, args=(r, world, port, str(job_file), str(self.log), environment or {}), daemon=True
            )
            for r in range(world)
        ]
        for process in self.processes:
            process.start()

    def wait_for_step(self, step: int, seconds: float = 60) -> None:
        """Until metrics.jsonl has ``step``."""
        deadline = time.monotonic() + seconds
        while True:
            records = metrics.read(self.job.root / "metrics.jsonl")
            if records and records[-1]["step"] >= step:
                return
            if time.monotonic() > deadline or not any(p.is_alive() for p in self.processes):
                raise AssertionError(f"step {step} was not reached:\n{self.text()}")
            time.sleep(0.01)

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join(10)

    def signal(self, number: int) -> None:
        for process in self.processes:
            assert process.pid is not None
            os.kill(process.pid, number)

    def wait(self, seconds: float = 120) -> Result:
        """One rank that fails takes the others down, as torchrun does it."""
        deadline = time.monotonic() + seconds
        while any(p.is_alive() for p in self.processes) and time.monotonic() < deadline:
            if any(p.exitcode not in (None, 0) for p in self.processes):
                time.sleep(1.0)
                break
            time.sleep(0.01)
        codes = [p.exitcode for p in self.processes]
        self.kill()
        return Result(codes, self.text(), self.job)

    def text(self) -> str:
        return "\n".join(p.read_text(errors="replace") for p in sorted(Path(self.log).parent.glob("log.*")))


def _call(pipe: Any, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    try:
        pipe.send((True, function(*args, **kwargs)))
    except BaseException as e:
        pipe.send((False, e))


def in_engine(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function in a process of its own that has the engine; what it raises is raised here."""
    ours, theirs = _server.Pipe()
    process = _server.Process(target=_call, args=(theirs, function, args, kwargs), daemon=True)  # type: ignore[attr-defined]
    process.start()
    theirs.close()
    try:
        good, value = ours.recv()
    except EOFError:
        raise AssertionError(f"{function.__name__} died with code {process.exitcode}") from None
    process.join()
    if not good:
        raise value
    return value


def train(job: Job, **environment: str) -> Result:
    """Train to the end; fails the test with the log when a rank fails."""
    result = Ranks(job, environment).wait()
    assert set(result.codes) == {0}, result.log[-4000:]
    return result
