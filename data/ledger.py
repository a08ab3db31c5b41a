"""Accounts of a cleaning task: what came in, what went out, what was dropped and why, what each block cost.

One ledger is shared by the steps of a pipeline; the last step writes it when the task is done, so that a killed task
leaves none and is counted once. The sampled examples are those with the smallest hash: the same on any topology.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from duetto.files import read_json, write_json

EXAMPLES = 10
"""Kept of each reason."""

EXCERPT = 600
"""Characters of an example."""


class Ledger:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: dict[str, int] = defaultdict(int)
        self.dropped: dict[str, dict[str, Any]] = {}
        self.files: list[dict[str, str]] = []
        self.blocks: dict[str, dict[str, float]] = {}
        self.items: dict[str, set[str]] = {}

    def count(self, name: str, value: int = 1) -> None:
        self.counts[name] += value

    def entered(self, text: str) -> None:
        self.counts["documents_in"] += 1
        self.counts["bytes_in"] += byte_length(text)

    def kept(self, text: str) -> None:
        self.counts["documents_out"] += 1
        self.counts["bytes_out"] += byte_length(text)

    def drop(self, reason: str, document: str, text: str) -> None:
        """Count a dropped document; it is an example of its reason if its hash is among the smallest."""
        entry = self.dropped.setdefault(reason, {"documents": 0, "bytes": 0, "examples": []})
        entry["documents"] += 1
        entry["bytes"] += byte_length(text)
        rank = hashlib.blake2b(f"{reason}/{document}".encode(errors="replace"), digest_size=8).hexdigest()
        examples = entry["examples"]
        if len(examples) < EXAMPLES or rank < examples[-1]["rank"]:
            shown = text[:EXCERPT].encode(errors="replace").decode()
            examples.append({"rank": rank, "id": document, "text": shown})
            examples.sort(key=lambda e: (e["rank"], e["id"]))
            del examples[EXAMPLES:]

    def bad_file(self, path: str, why: str) -> None:
        """A file that could not be read, wholly or from some point on."""
        self.files.append({"file": path, "why": why})

    def contaminated(self, benchmark: str, items: Iterable[str]) -> None:
        """Items of a benchmark that were found in a document."""
        self.items.setdefault(benchmark, set()).update(items)

    def cost(self, block: str, seconds: float, documents: int = 1) -> None:
        entry = self.blocks.setdefault(block, {"cpu_seconds": 0.0, "documents": 0})
        entry["cpu_seconds"] += seconds
        entry["documents"] += documents

    def as_dict(self) -> dict[str, Any]:
        return {
            "counts": dict(sorted(self.counts.items())),
            "dropped": {k: self.dropped[k] for k in sorted(self.dropped)},
            "contaminated_items": {k: sorted(v) for k, v in sorted(self.items.items())},
            "bad_files": sorted(self.files, key=lambda f: f["file"]),
            "blocks": self.blocks,
        }

    def write(self, rank: int) -> None:
        write_json(self.folder / f"{rank:05d}.json", self.as_dict())


def byte_length(text: str) -> int:
    """UTF-8 bytes, lone surrogates counted as three."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def merge(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """One ledger of several tasks."""
    total = Ledger(Path())
    for part in parts:
        for name, value in part["counts"].items():
            total.counts[name] += value
        for reason, entry in part["dropped"].items():
            mine = total.dropped.setdefault(reason, {"documents": 0, "bytes": 0, "examples": []})
            mine["documents"] += entry["documents"]
            mine["bytes"] += entry["bytes"]
            mine["examples"] = sorted(mine["examples"] + entry["examples"], key=lambda e: (e["rank"], e["id"]))
            del mine["examples"][EXAMPLES:]
        total.files += part["bad_files"]
        for benchmark, items in part["contaminated_items"].items():
            total.contaminated(benchmark, items)
        for block, cost in part["blocks"].items():
            total.cost(block, cost["cpu_seconds"], int(cost["documents"]))
    return total.as_dict()


def read_ledgers(folder: Path) -> dict[str, Any]:
    return merge([read_json(p) for p in sorted(folder.glob("[0-9]*.json"))])
