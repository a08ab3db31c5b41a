"""Looks on while a pretraining job trains: a stalled job goes back to the queue, slow nodes are named.

The engine has its own stall guard on each rank; this one also sees a job whose processes are all gone or frozen. What
it sees goes to <run>/logs/slurm/watchdog.jsonl, which ``duetto status`` shows.
"""

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from duetto.console import log
from duetto.errors import Preempted
from slurm.clients import hostnames, own_steps
from slurm.config import ClusterConfig

EVERY = 5.0
"""Seconds between two looks."""

WINDOW = 100
"""Steps over which slowness is judged: one slow step is noise."""


def read_tail(path: Path, lines: int = WINDOW) -> list[dict[str, Any]]:
    """The last records of a .jsonl file that another process writes; a torn line is left out."""
    try:
        with open(path, "rb") as f:
            f.seek(max(0, os.fstat(f.fileno()).st_size - 2048 * lines))
            raw = f.read().splitlines(keepends=True)
    except OSError:
        return []
    out = []
    for line in raw:
        try:
            out.append(dict(json.loads(line)))
        except ValueError:
            continue
    return out[-lines:]


def slow_nodes(records: Sequence[dict[str, Any]], nodes: Sequence[str], ranks: int) -> dict[str, int]:
    """How many of the steps each node was slow in, by the ranks that the trainer named; half of them is too many."""
    if len(records) < WINDOW // 2:
        return {}
    per_node = max(1, ranks // max(1, len(nodes)))
    counts: Counter[str] = Counter()
    for record in records:
        named = {nodes[r // per_node] for r in record.get("slow_ranks", []) if r // per_node < len(nodes)}
        counts.update(named)
    return {node: n for node, n in counts.items() if n > len(records) / 2}


class Watchdog:
    """``look()`` as often as you like.

    Raises:
        Preempted: no step for ``stall_seconds``; the job's steps are ended and the job should start again.
    """

    def __init__(self, cluster: ClusterConfig, run: Path, ranks: int = 1) -> None:
        self.limits, self.run, self.ranks = cluster.watchdog, run, ranks
        self.metrics = run / "pretrain" / "metrics.jsonl"
        self.journal = run / "logs" / "slurm" / "watchdog.jsonl"
        self.nodes = hostnames(os.environ.get("SLURM_JOB_NODELIST", ""))
        self.step, self.since, self.looked = -1, time.monotonic(), 0.0
        self.told: set[str] = set()

    def look(self) -> None:
        now = time.monotonic()
        if now - self.looked < min(EVERY, self.limits.stall_seconds / 4):
            return
        self.looked = now
        records = read_tail(self.metrics)
        step = records[-1]["step"] if records else -1
        if step != self.step:
            self.step, self.since = step, now
        for node, count in slow_nodes(records, self.nodes, self.ranks).items():
            if node not in self.told:
                self.told.add(node)
                self._note(event="slow", node=node, text=f"{node} was slow in {count} of the last {len(records)} steps")
        if now - self.since > self.limits.stall_seconds:
            text = f"no step after {self.step} for {now - self.since:.0f} s on {', '.join(self.nodes)}"
            self._note(event="stall", node=",".join(self.nodes), text=text)
            for name in own_steps():
                subprocess.run(["scancel", "--signal=KILL", name], capture_output=True, timeout=30)
            raise Preempted(f"watchdog: {text}; the job goes on from its last checkpoint")

    def _note(self, event: str, node: str, text: str) -> None:
        log(f"watchdog: {text}")
        self.journal.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
            "job": os.environ.get("SLURM_JOB_ID"),
            "event": event,
            "node": node,
            "step": self.step,
            "text": text,
        }
        with open(self.journal, "a", encoding="utf-8") as f:
            f.write(json.dumps(record) + "\n")
