"""What the user sees: lines through rich, and a progress bar that turns into plain lines in a log file."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

PLAIN_INTERVAL = 15.0
"""Seconds between two progress lines when the output is not a terminal."""


def log(message: str) -> None:
    """One plain line; square brackets are text, not markup."""
    console.print(message, markup=False)


class progress:
    """``with progress("pretrain", total=tokens, unit="tok") as bar: bar.update(done, "loss 2.31")``."""

    def __init__(self, description: str, total: float, unit: str = "") -> None:
        self.description, self.total, self.unit = description, max(total, 1), unit
        self.started = self.printed = time.monotonic()
        self.first: float | None = None
        self.bar: Progress | None = None
        if console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=console,
                transient=True,
            )
            self.task = self.bar.add_task(description, total=self.total, rate="", note="")

    def __enter__(self) -> "progress":
        if self.bar:
            self.bar.start()
        return self

    def update(self, done: float, note: str = "") -> None:
        """``done`` is the amount finished so far, not the increment."""
        now = time.monotonic()
        if self.first is None:  # a resumed stage starts above zero; its rate counts from here
            self.first, self.started = done, now
        rate = (done - self.first) / (now - self.started) if now > self.started else 0.0
        shown = f"{_short(rate)} {self.unit}/s" if rate > 0 else ""
        if self.bar:
            self.bar.update(self.task, completed=done, rate=shown, note=note)
        elif now - self.printed >= PLAIN_INTERVAL:
            self.printed = now
            left = f", {duration((self.total - done) / rate)} left" if rate > 0 else ""
            log(f"{self.description}: {100 * done / self.total:.0f} % {shown}{left} {note}".rstrip())

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()


def _short(x: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if x >= size:
            return f"{x / size:.3g} {unit}"
    return f"{x:.3g}"


def duration(seconds: float) -> str:
    """``3725`` -> ``1 h 02 min``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes / 1440:.1f} days"
