"""The learning rate as a pure function of the step: warm-up, stable, decay.

The same curve as nanotron's own scheduler (a test compares them step by step), plus main's ``1-sqrt`` decay, which
0.4 does not have. A pure function makes a resumed run exact and lets the curve be drawn before training.
"""

import math
from typing import Literal

from pydantic import Field

from pretrain.schema import Section


class LRScheduler(Section):
    """``optimizer.learning_rate_scheduler``."""

    learning_rate: float = Field(gt=0)
    """At the top of the curve."""
    lr_warmup_steps: int = Field(default=0, ge=0)
    """Steps from zero to learning_rate."""
    lr_warmup_style: Literal["linear", "constant"] = "linear"
    lr_decay_style: Literal["linear", "cosine", "1-sqrt"] = "linear"
    """Shape of the decay; 1-sqrt falls fast first (Hägele et al., 2024, arXiv:2405.18392)."""
    lr_decay_starting_step: int | None = Field(default=None, ge=0)
    """Last step at learning_rate. Always written: nanotron's default is the end of the warm-up."""
    lr_decay_steps: int | None = Field(default=None, ge=0)
    """Length of the decay. Always written: nanotron's default subtracts the warm-up (twice on main, issue 423)."""
    min_decay_lr: float | None = Field(default=None, ge=0)
    """Where the decay ends. Always written: nanotron's default is learning_rate, which is no decay."""

    def problem(self, train_steps: int) -> str | None:
        """What is wrong with the schedule for this horizon, or None."""
        start, length, floor = self.lr_decay_starting_step, self.lr_decay_steps, self.min_decay_lr
        for name in ("lr_decay_starting_step", "lr_decay_steps", "min_decay_lr"):
            if getattr(self, name) is None:
                return (
                    f"learning_rate_scheduler.{name} is missing: nanotron's default is rarely what is meant; write it"
                )
        assert start is not None and length is not None and floor is not None
        if start + length != train_steps:
            share = round(train_steps * start / max(start + length, 1))
            return (
                f"the decay starts at step {start:,} and takes {length:,}, so it ends at {start + length:,}, but "
                f"tokens.train_steps is {train_steps:,}: the last steps would train at {floor:g}, or the decay be cut: "
                f"write for example lr_decay_starting_step {share} and lr_decay_steps {train_steps - share}"
            )
        if self.lr_warmup_steps > start:
            return f"lr_warmup_steps {self.lr_warmup_steps:,} reaches into the decay, which starts at {start:,}"
        if floor > self.learning_rate:
            return f"min_decay_lr {floor:g} is above learning_rate {self.learning_rate:g}"
        if length == 0 and self.lr_warmup_steps == 0:
            return (
                "lr_decay_steps and lr_warmup_steps are both 0, which nanotron's scheduler gets wrong; warm up 1 step"
            )
        return None


def learning_rate(s: LRScheduler, step: int) -> float:
    """Learning rate of the update that comes after ``step`` updates (so 0 for the first, as in nanotron).

    ``s`` must be complete (``s.problem(...)`` is None).
    """
    start, length, floor = s.lr_decay_starting_step or 0, s.lr_decay_steps or 0, s.min_decay_lr or 0.0
    if step <= s.lr_warmup_steps:
        return s.learning_rate * (step / max(s.lr_warmup_steps, 1) if s.lr_warmup_style == "linear" else 1.0)
    if step < start:
        return s.learning_rate
    if step >= start + length:
        return floor
    done = (step - start) / length
    if s.lr_decay_style == "cosine":
        left = (1 + math.cos(math.pi * done)) / 2
    elif s.lr_decay_style == "1-sqrt":
        left = 1 - math.sqrt(done)
    else:
        left = 1 - done
    return floor + (s.learning_rate - floor) * left


def multiplier(s: LRScheduler, step: int) -> float:
    """``learning_rate`` as a fraction of its top: what every parameter group's own rate is scaled by."""
    return learning_rate(s, step) / s.learning_rate


def plot(s: LRScheduler, train_steps: int, width: int = 64, height: int = 8) -> str:
    """The curve as text, ``height`` rows of ``width`` columns with both axes labelled."""
    steps = [round(i * max(train_steps - 1, 0) / (width - 1)) for i in range(width)]
    marks = [round((height - 1) * multiplier(s, step)) for step in steps]
    rows = []
    for level in range(height - 1, -1, -1):
        label = f"{s.learning_rate * level / (height - 1):.1e}"
        line = "".join("█" if m >= level else " " for m in marks) if level else "█" * width
        rows.append(f"{label} │{line.rstrip()}")
    right = f"{train_steps:,}"
    rows.append(" " * 8 + "└" + "─" * width)
    rows.append(" " * 9 + "0" + right.rjust(width - 1) + " steps")
    return "\n".join(rows)
