"""Duplicates and leaks among conversations: what is trained twice, and what repeats the evaluation's own text."""

import hashlib
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from duetto.errors import UserError
from sft.sources import BROKEN, SUFFIXES, hub_folder, rows

WORDS = 13
"""A run of this many words in common is a leak (the length that GPT-3 and most since have used)."""
SHORTEST = 6
"""Held-out texts shorter than WORDS count when they stand in a conversation as a whole, from this many words on."""

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Lower-case words without accents; punctuation and spacing do not count."""
    plain = unicodedata.normalize("NFKD", text.lower())
    return _WORD.findall("".join(c for c in plain if not unicodedata.combining(c)))


def fingerprint(row: Mapping[str, Any]) -> bytes:
    """Equal for conversations that say the same; different roles, calls or tools tell them apart."""
    turns = [*row["messages"], *(row[k] for k in ("chosen", "rejected") if k in row)]
    said = [[t["role"], words(t["content"]), t.get("tool_calls", [])] for t in turns]
    return hashlib.blake2b(json.dumps([said, row.get("tools", [])]).encode(), digest_size=16).digest()


class HeldOut:
    """Texts that must not be trained on, ready to be looked for."""

    def __init__(self, names: Iterable[str | Path]) -> None:
        self.runs: dict[int, set[int]] = defaultdict(set)
        for file in names:
            for text in _texts(str(file)):
                said = words(text)
                size = min(len(said), WORDS)
                if size >= SHORTEST:
                    self.runs[size].update(_runs(said, size))

    def leaks(self, row: Mapping[str, Any]) -> bool:
        """Whether any turn of the conversation shares a run of words with a held-out text."""
        for turn in row["messages"]:
            said = words(turn["content"])
            if any(run in known for size, known in self.runs.items() for run in _runs(said, size)):
                return True
        return False


def _runs(said: list[str], size: int) -> Iterator[int]:
    return (hash(tuple(said[i : i + size])) for i in range(len(said) - size + 1))


def _texts(name: str) -> Iterator[str]:
    """Every string of a file, a folder or a fetched data set, whatever its fields: questions, choices, turns."""
    path = Path(name)
    if not path.exists():
        if path.is_absolute() or path.suffix:
            raise UserError(f"{path}: no such file (sft.duetto.decontaminate)")
        path = hub_folder(name)
    files = sorted(p for p in path.rglob("*") if p.name.endswith(SUFFIXES)) if path.is_dir() else [path]
    for file in files:
        if path.is_dir() and "train" in file.relative_to(path).as_posix():
            continue  # a benchmark's own training split is nobody's test
        for where, row in rows({"path": str(file)}):
            if row is BROKEN:
                raise UserError(f"{where}: not JSON; decontaminate takes held-out texts as jsonl, json or parquet")
            yield from _strings(row)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for v in value.values():
            yield from _strings(v)
    elif isinstance(value, list):
        for v in value:
            yield from _strings(v)
