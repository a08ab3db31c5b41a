"""What watches a run: non-finite numbers, loss spikes, stalls, slow ranks, and the signal that ends it early."""

import math
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

from duetto.errors import UserError
from duetto.process import MARK
from pretrain.job import GuardOptions

MEAN, VARIANCE = 0.9, 0.98
"""Decay of the running mean and variance of the loss. The mean is quick (10 steps), so that it does not lag behind a
falling loss and take its own lag for noise."""


class NonFinite(UserError):
    """The loss or the gradient is not a number: the step is not taken, the last good checkpoint stays."""


def refuse_non_finite(step: int, loss: float, grad_norm: float, last_good: int | None) -> None:
    """Raises NonFinite, before the optimizer has seen the gradient."""
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    kept = f"the checkpoint of step {last_good} is intact" if last_good is not None else "there is no checkpoint yet"
    raise NonFinite(
        f"step {step}: loss {loss}, gradient norm {grad_norm}: training stopped before the optimizer step; {kept}. "
        "Lower the learning rate, look at the batch of this step, or set duetto.watch.skip_spikes"
    )


class SpikeWatch:
    """A loss far above its running mean.

    The mean and variance are exponential and judge from the 50th step on; a spike does not enter them. The state
    travels in the checkpoint, so that a resumed run judges as the uninterrupted one would.
    """

    def __init__(self, options: GuardOptions, state: Sequence[float] | None = None) -> None:
        self.factor, self.skip = options.spike_factor, options.skip_spikes
        self.count, self.mean, self.variance = state if state else (0.0, 0.0, 0.0)

    @property
    def state(self) -> list[float]:
        return [self.count, self.mean, self.variance]

    def spiking(self, loss: float) -> bool:
        """Judge this step's loss, and learn from it."""
        if not self.factor:
            return False
        # 0.1 nats is noise in any run; without a floor a flat loss would make spikes of nothing.
        spread = max(math.sqrt(self.variance), 0.1)
        if self.count >= 50 and loss > self.mean + self.factor * spread:
            return True
        difference = loss - self.mean if self.count else 0.0
        self.mean = loss - MEAN * difference
        self.variance += max(1 - VARIANCE, 1 / (self.count + 1)) * (difference * difference - self.variance)
        self.count += 1
        return False


def slow_ranks(compute_seconds: Sequence[float], factor: float) -> list[int]:
    """Ranks whose compute took ``factor`` times the median; [] for fewer than two ranks or steps under 5 ms."""
    middle = statistics.median_low(compute_seconds)
    if len(compute_seconds) < 2 or middle < 0.005:
        return []
    return [rank for rank, seconds in enumerate(compute_seconds) if seconds > factor * middle]


class Preemption:
    """SIGTERM and SIGUSR1 ask for a checkpoint and an early end; the ranks agree on it at the end of a step.

    The worker listens before it imports the engine: a request during those ten seconds would kill it, and torchrun
    would start it again as if a worker had been lost.
    """

    asked = False
    """Of the process, whichever instance listens."""

    def __init__(self) -> None:
        for name in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(name, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        Preemption.asked = True


class StallWatch:
    """A thread that ends the process when a step does not; collectives cannot be interrupted otherwise.

    Each rank touches a file of its own when it reaches the end of a step's compute, so the message can name the ranks
    that did not.
    """

    def __init__(self, folder: os.PathLike[str] | str, rank: int, world: int, seconds: float) -> None:
        self.folder, self.rank, self.world, self.seconds = os.fspath(folder), rank, world, seconds
        os.makedirs(self.folder, exist_ok=True)
        self.step, self.since = 0, time.monotonic()
        self.stopped = threading.Event()
        threading.Thread(target=self._watch, name="stall", daemon=True).start()

    def arrive(self, step: int) -> None:
        """This rank has computed ``step`` and waits for the others."""
        self.step, self.since = step, time.monotonic()

    def _file(self, rank: int) -> str:
        return os.path.join(self.folder, f"rank-{rank}")

    def _note(self) -> None:
        with open(self._file(self.rank), "w") as f:
            f.write(str(self.step))

    def silent(self) -> list[int]:
        """Ranks that are behind the furthest one, by their files."""
        at = {}
        for rank in range(self.world):
            try:
                with open(self._file(rank)) as f:
                    at[rank] = int(f.read() or 0)
            except (OSError, ValueError):
                at[rank] = -1
        return [rank for rank, step in at.items() if step < max(at.values())]

    def _watch(self) -> None:
        interval = min(max(self.seconds / 10, 0.05), 5.0)
        while not self.stopped.wait(interval):
            self._note()
            if time.monotonic() - self.since > self.seconds:
                self.stopped.wait(2 * interval)  # let the others' files settle
                who = [str(rank) for rank in self.silent()] or ["unknown"]
                sys.stderr.write(
                    f"{MARK}error: step {self.step + 1} took more than {self.seconds:g} s; silent: rank "
                    f"{', '.join(who)}. Look at that node (nvidia-smi, dmesg), then run again\n"
                )
                sys.stderr.flush()
                os._exit(1)

    def stop(self) -> None:
        self.stopped.set()
