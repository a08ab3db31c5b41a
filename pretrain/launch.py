"""torchrun that passes a request to stop on to its workers instead of dying of it.

    python -m pretrain.launch --standalone --nproc-per-node 2 -m pretrain.worker <job.json>

takes torchrun's arguments. On SIGTERM or SIGUSR1 torchrun itself would end its workers (SIGKILL after 30 s, at once
for SIGUSR1); here the workers get SIGUSR1, save a checkpoint and exit, however long that takes. Before there are
workers it ends at once.
"""

import contextlib
import errno
import os
import signal
import socket
import sys
import threading
from datetime import timedelta

from duetto.errors import Preempted, UserError
from duetto.process import worker_main

STOP = "DUETTO_STOP"
"""Set for workers that start after the request to stop."""


def _tell_workers(*_: object) -> None:
    os.environ[STOP] = "1"
    pids: set[str] = set()
    for thread in threading.enumerate():  # torchrun starts its workers from one of its threads
        try:
            with open(f"/proc/self/task/{thread.native_id}/children") as f:
                pids.update(f.read().split())
        except OSError:
            continue
    if not pids:
        raise Preempted("stopped before training began; run the same command again")
    for pid in pids:
        os.kill(int(pid), signal.SIGUSR1)


def refuse_taken_port(arguments: list[str]) -> None:
    """torchrun would wait a minute for a rendezvous that another program answers, and end in a traceback.

    Raises:
        UserError: the port of --rdzv-endpoint is on this machine and is another program's.
    """
    endpoint = next((a.partition("=")[2] for a in arguments if a.startswith("--rdzv-endpoint=")), "")
    host, _, port = endpoint.rpartition(":")
    if not host or os.environ.get("SLURM_NODEID", "0") != "0":
        return
    try:
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((host, int(port)))
    except OSError as e:
        if e.errno != errno.EADDRINUSE or _answers(host, int(port)):
            return  # another machine's port, or the rendezvous of this very job, which another node has opened
        raise UserError(
            f"port {port} of {host} is in use by another program (see: ss -ltnp sport = :{port}); end it, or submit "
            "again: the port follows from the job's number"
        ) from None


def _answers(host: str, port: int) -> bool:
    """Whether a torchrun listens there; its client waits for ever for a program that says nothing, hence the thread."""
    from torch.distributed import TCPStore

    found = threading.Event()

    def ask() -> None:
        with contextlib.suppress(RuntimeError):
            TCPStore(host, port, is_master=False, timeout=timedelta(seconds=5))
            found.set()

    threading.Thread(target=ask, daemon=True).start()
    return found.wait(6)


def main() -> None:
    refuse_taken_port(sys.argv[1:])
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _tell_workers)
    from torch.distributed.run import main as torchrun

    torchrun(["--signals-to-handle", "SIGINT", *sys.argv[1:]])


if __name__ == "__main__":
    worker_main(main)
