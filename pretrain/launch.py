"""torchrun that passes a request to stop on to its workers instead of dying of it.

    python -m pretrain.launch --standalone --nproc-per-node 2 -m pretrain.worker <job.json>

takes torchrun's arguments. On SIGTERM or SIGUSR1 torchrun itself would end its workers (SIGKILL after 30 s, at once
for SIGUSR1); here the workers get SIGUSR1, save a checkpoint and exit, however long that takes.
"""

import os
import signal
import sys
import threading

from duetto.process import die_with_parent


def _tell_workers(*_: object) -> None:
    pids: set[str] = set()
    for thread in threading.enumerate():  # torchrun starts its workers from one of its threads
        try:
            with open(f"/proc/self/task/{thread.native_id}/children") as f:
                pids.update(f.read().split())
        except OSError:
            continue
    for pid in pids:
        os.kill(int(pid), signal.SIGUSR1)


def main() -> None:
    die_with_parent()
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _tell_workers)
    from torch.distributed.run import main as torchrun

    torchrun(["--signals-to-handle", "SIGINT", *sys.argv[1:]])


if __name__ == "__main__":
    main()
