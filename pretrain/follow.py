"""What a person sees of a training: a live view on a terminal, plain lines in a log, trackers where asked for.

The parent reads metrics.jsonl and validation.jsonl as the workers write them. Nothing here can slow or stop the
training, and a run on many nodes is followed in the same way.
"""

import json
import os
from collections import deque
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from duetto.console import console, duration, progress
from pretrain.job import Job
from pretrain.trackers import Trackers

BARS = "▁▂▃▄▅▆▇█"


class NewRecords:
    """Records that were appended to a .jsonl file since the last call, also across its truncation by a resume."""

    def __init__(self, path: Path) -> None:
        self.path, self.offset, self.inode = path, 0, 0

    def read(self) -> list[dict[str, Any]]:
        try:
            with open(self.path, "rb") as f:
                inode, size = os.fstat(f.fileno()).st_ino, f.seek(0, 2)
                if inode != self.inode or size < self.offset:
                    self.inode, self.offset = inode, 0
                f.seek(self.offset)
                data = f.read()
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self.offset += len(whole)
        out = []
        for line in whole.splitlines():
            try:
                out.append(dict(json.loads(line)))
            except ValueError:
                continue  # a torn line of a killed run; the resume rewrites it
        return out


class Follower:
    """``with Follower(job) as f: run_logged(..., poll=f.poll)``."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.metrics = NewRecords(job.root / "metrics.jsonl")
        self.validations = NewRecords(job.root / "validation.jsonl")
        self.trackers = Trackers(job)
        total = job.steps * job.tokens_per_step
        self.bar = None if console.is_terminal else progress("pretrain", total=total, unit="tok")
        self.view = LiveView(job) if console.is_terminal else None

    def __enter__(self) -> "Follower":
        if self.bar:
            self.bar.__enter__()
        if self.view:
            self.view.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.poll()
        if self.bar:
            self.bar.__exit__(kind, value, tb)
        if self.view:
            self.view.live.stop()
        self.trackers.close()

    def poll(self) -> None:
        """Show and forward what is new; called about once a second."""
        records = [r for r in self.metrics.read() if r["step"] > self.job.offset]
        measured = [r for r in self.validations.read() if r["step"] >= self.job.offset]
        self.trackers.log(records, measured)
        if self.view:
            self.view.update(records, measured)
        elif self.bar and records:
            last = records[-1]
            note = f"step {last['step']:,} loss {last['loss']:.3f} lr {last['lr']:.1e}"
            self.bar.update((last["step"] - self.job.offset) * self.job.tokens_per_step, note)


class LiveView:
    """The current step, the way the loss went, and the last validation, redrawn in place."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.losses: deque[float] = deque(maxlen=4096)
        self.last: dict[str, Any] | None = None
        self.validation: dict[str, dict[str, Any]] = {}
        self.spikes = 0
        self.live = Live(self.render(), console=console, refresh_per_second=2, transient=True)

    def update(self, records: list[dict[str, Any]], measured: list[dict[str, Any]]) -> None:
        for record in records:
            self.losses.append(record["loss"])
            self.spikes += bool(record.get("spike"))
        self.last = records[-1] if records else self.last
        self.validation |= {r["source"]: r for r in measured}
        self.live.update(self.render())

    def render(self) -> Panel:
        title = f"pretrain, steps {self.job.offset:,} to {self.job.last_step:,}"
        if self.last is None:
            return Panel("starting the processes", title=title)
        r, table = self.last, Table.grid(padding=(0, 3))
        left = (self.job.last_step - r["step"]) * self.job.tokens_per_step / max(r["tokens_per_second"], 1e-9)
        done = (r["step"] - self.job.offset) / self.job.steps
        table.add_row("step", f"{r['step']:,}", f"{done:.1%}", f"{duration(left)} left")
        table.add_row("loss", f"{r['loss']:.4f}", "grad norm", f"{r['grad_norm']:.3f}")
        table.add_row("lr", f"{r['lr']:.2e}", "tokens/s", f"{r['tokens_per_second']:,.0f}")
        mfu = "n/a" if r.get("mfu") is None else f"{r['mfu']:.1%} (full attention, data sheet)"
        table.add_row("MFU", mfu, "memory", f"{r['memory_bytes'] / 1e9:.2f} GB")
        table.add_row("goodput", f"{r['goodput']:.1%}", "spikes", str(self.spikes))
        held = Table.grid(padding=(0, 3))
        for source, v in self.validation.items():
            held.add_row(source, f"{v['bits_per_byte']:.4f} bits per byte", f"step {v['step']:,}")
        return Panel(Group(table, sparkline(list(self.losses), 64), held), title=title)


def sparkline(values: list[float], width: int) -> str:
    """``values`` as one line of blocks: the mean of each of ``width`` parts, lowest to highest."""
    if not values:
        return ""
    parts = min(width, len(values))
    edges = [len(values) * i // parts for i in range(parts + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, span = min(means), (max(means) - min(means)) or 1.0
    return "".join(BARS[min(int((m - low) / span * len(BARS)), len(BARS) - 1)] for m in means)
