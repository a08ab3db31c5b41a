"""Faults on request, so that the tests see every guard fire in a real run: DUETTO_TEST_FAULT=kind:step[:rank].

nan, spike (all ranks), stall, slow, kill (one rank). Nothing happens unless the variable is set.
"""

import os
import signal
import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Fault:
    kind: str
    step: int
    rank: int

    @classmethod
    def from_environment(cls) -> "Fault | None":
        given = os.environ.get("DUETTO_TEST_FAULT")
        # A restarted worker must come through.
        if not given or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
            return None
        kind, step, *rank = given.split(":")
        return cls(kind, int(step), int(rank[0]) if rank else 0)

    def apply(self, step: int, rank: int, loss: torch.Tensor | None) -> torch.Tensor | None:
        """Called with a step's loss after its backward pass; returns the loss to use. ``slow`` is `delay`'s."""
        if step != self.step:
            return loss
        if self.kind == "nan" and loss is not None:
            return loss * float("nan")
        if self.kind == "spike" and loss is not None:
            return loss + 50.0
        if rank == self.rank and self.kind == "stall":
            time.sleep(3600)
        if rank == self.rank and self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return loss

    def delay(self, step: int, rank: int) -> float:
        """Seconds that the forward pass of this step takes longer."""
        return 1.0 if (self.kind, self.step, self.rank) == ("slow", step, rank) else 0.0
