"""Child processes of a stage: logged, watched, and never left behind."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from duetto.errors import PREEMPTED, WRONG_INPUT, Preempted, StageFailed, UserError
from duetto.files import disk_full

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
}
QUIET = {
    "DO_NOT_TRACK": "1",
    "AXOLOTL_DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "WANDB_MODE": "disabled",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "PYTHONUNBUFFERED": "1",
}


def engine_env() -> dict[str, str]:
    """Variables for every engine: offline, no telemetry, one thread a process; what the user set wins."""
    defaults = {**OFFLINE, **QUIET, "OMP_NUM_THREADS": "1", "CUDA_DEVICE_MAX_CONNECTIONS": "1"}
    return {k: os.environ.get(k, v) for k, v in defaults.items()}


MARK = "duetto-"
"""Starts the line by which a child hands its UserError or Preempted to the parent (torchrun hides exit codes)."""


def worker_main(main: Callable[[], None]) -> None:
    """Entry point of a child: ends with the parent, and hands wrong input and preemption to ``run_logged``."""
    die_with_parent()
    try:
        main()
    except UserError as e:
        sys.exit(_report("error", e, WRONG_INPUT))
    except Preempted as e:
        sys.exit(_report("preempted", e, PREEMPTED))


def _report(marker: str, e: Exception, code: int) -> int:
    sys.stderr.write(f"{MARK}{marker}: {' '.join(str(e).split())}\n")
    sys.stderr.flush()
    return code


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies, so that a killed run leaves no writer behind."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def run_logged(
    command: Sequence[str | os.PathLike[str]],
    log: Path,
    env: Mapping[str, str] | None = None,
    poll: Callable[[], None] | None = None,
    cwd: Path | None = None,
) -> None:
    """Run a command with its output appended to ``log``; ``poll`` is called twice a second meanwhile.

    SIGTERM, SIGUSR1 and SIGINT to this process are passed on, so that the child can save and exit with 3.

    Raises:
        UserError, Preempted: what the child raised, when its entry point runs under ``worker_main``.
        StageFailed: any other failure; the message holds the last lines of the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as out:
        start = out.tell()
        child = subprocess.Popen(
            [os.fspath(c) for c in command],
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **engine_env(), **(env or {})},
            cwd=cwd,
            preexec_fn=die_with_parent,
        )
        forwarded = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
        asked: list[int] = []

        def forward(number: int, _: object) -> None:
            asked.append(number)
            child.send_signal(number)

        before = {s: signal.signal(s, forward) for s in forwarded if _main_thread()}
        try:
            while True:
                try:
                    code = child.wait(timeout=0.5)
                    break
                except subprocess.TimeoutExpired:
                    if poll:
                        poll()
            if poll:
                poll()
        finally:
            for s, handler in before.items():
                signal.signal(s, handler)
            if child.poll() is None:
                child.kill()
                child.wait()
    if code == 0:
        return
    with open(log, "rb") as f:
        f.seek(start)
        lines = [x for x in f.read().decode(errors="replace").splitlines() if x.strip()]
    for marker, kind in (("error", UserError), ("preempted", Preempted)):
        said = [x.split(f"{MARK}{marker}: ", 1)[1] for x in lines if f"{MARK}{marker}: " in x]
        if said:
            raise kind(said[-1])
    if -code in asked:
        raise Preempted("stopped before the work began; run the same command again")
    if any("No space left on device" in x or "Disk quota exceeded" in x for x in lines):
        raise disk_full(log)
    tail = "\n".join(lines[-25:])
    raise StageFailed(
        f"{' '.join(map(str, command[:4]))} ... exited with {code}; the log is {log}. Its last lines:\n{tail}"
    )


def _main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
