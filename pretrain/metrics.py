"""metrics.jsonl: one line for each step, each step exactly once, also after a resume."""

import json
import os
import time
from pathlib import Path
from typing import Any, TextIO

from duetto.files import atomic_write


def truncate_after(path: Path, step: int) -> None:
    """Drop lines beyond ``step`` (and a torn last line): a resumed run writes those steps again."""
    if not path.exists():
        return
    kept = [line for line, record in _records(path) if record["step"] <= step]
    with atomic_write(path) as f:
        f.writelines(kept)


def read(path: Path) -> list[dict[str, Any]]:
    """All records; a torn last line is left out."""
    return [record for _, record in _records(path)] if path.exists() else []


def _records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    out = []
    with open(path, encoding="utf-8") as f:
        for line in f:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if line.endswith("\n"):
                out.append((line, record))
    return out


class Journal:
    """An open .jsonl file to append records to; each is flushed, so that a killed run loses nothing it reported."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file: TextIO = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def write(self, record: dict[str, Any]) -> None:
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()


class Clock:
    """Seconds of a step by part, and goodput: the share of the wall time that went into steps that counted."""

    def __init__(self) -> None:
        self.born = time.monotonic()
        self.useful = 0.0
        self.carried: dict[str, float] = {}
        self.start()

    def start(self) -> None:
        self.parts, self.carried = self.carried, {}
        self.began = self.last = time.perf_counter()

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self.parts[part] = self.parts.get(part, 0.0) + now - self.last
        self.last = now

    def carry(self, part: str) -> None:
        """A part that comes after the step's record; the next record has it."""
        now = time.perf_counter()
        self.carried[part] = now - self.last
        self.last = now

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.began

    def goodput(self, step_seconds: float) -> float:
        self.useful += step_seconds
        return min(self.useful / max(time.monotonic() - self.born, 1e-9), 1.0)


class ForwardSeconds:
    """Seconds that this rank's forward passes took: the part of a step in which a rank waits for no replica, so that
    a slow one can be told from those that wait for it. On a GPU it is the step before's, which needs no wait."""

    def __init__(self, engine: Any) -> None:
        import torch

        self.cuda, self.forward = torch.cuda.is_available(), engine.forward
        self.events: list[tuple[Any, Any]] = []
        self.finished: list[tuple[Any, Any]] = []
        self.seconds = 0.0
        engine.forward = self._timed

    def _timed(self, *args: Any, **kwargs: Any) -> Any:
        if not self.cuda:
            began = time.perf_counter()
            out = self.forward(*args, **kwargs)
            self.seconds += time.perf_counter() - began
            return out
        import torch

        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        out = self.forward(*args, **kwargs)
        last.record()
        self.events.append((first, last))
        return out

    def read(self) -> float:
        """Seconds of the step, and start again."""
        if self.cuda:
            self.seconds = sum(first.elapsed_time(last) for first, last in self.finished) / 1000
            self.finished, self.events = self.events, []
        seconds, self.seconds = self.seconds, 0.0
        return seconds


def memory_bytes() -> int:
    """Peak memory of this process: allocated on the GPU where there is one, else resident."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
