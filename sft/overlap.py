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

    def __init__(self, files: Iterable[str | Path]) -> None:
        self.runs: dict[int, set[int]] = defaultdict(set)
        for file in files:
            for text in _texts(Path(file)):
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


def _texts(path: Path) -> Iterator[str]:
    """Every string of a jsonl or json file, whatever its fields: questions, contexts, choices, turns."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file (sft.duetto.decontaminate)") from None
    for number, line in enumerate(lines, 1):
        try:
            yield from _strings(json.loads(line)) if line.strip() else ()
        except json.JSONDecodeError:
            raise UserError(f"{path}:{number}: not JSON; decontaminate takes jsonl files of held-out texts") from None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for v in value.values():
            yield from _strings(v)
    elif isinstance(value, list):
        for v in value:
            yield from _strings(v)
