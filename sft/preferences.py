"""Seeded preference pairs from conversations, so that DPO can be tried without bought data.

The conversation's own answer is preferred to a wrong one of a kind that small models really give: an answer to
another prompt, an answer in the other language, or the right words going round in a loop.
"""

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from duetto.files import atomic_write
from sft.shapes import canonical
from sft.sources import rows as read

Row = dict[str, Any]


def pairs(conversations: Iterable[Row], count: int, seed: int) -> Iterator[Row]:
    """``count`` pairs (or as many as there are conversations); the same seed gives the same pairs."""
    found = [c for c in conversations if len(c["messages"]) >= 2 and c["messages"][-1]["role"] == "assistant"]
    rng = random.Random(f"{seed}/pairs")
    rng.shuffle(found)
    for number, row in enumerate(found[:count]):
        *asked, answer = row["messages"]
        fault = rng.choice(FAULTS)
        wrong = fault(rng, row, found)
        if wrong and wrong != answer["content"]:
            said = {"chosen": answer, "rejected": {"role": "assistant", "content": wrong}}
            named = {"id": f"pair-{number}", "language": row["language"], "kind": fault.__name__}
            yield {**named, "messages": asked, **said}


def other_answer(rng: random.Random, row: Row, found: list[Row]) -> str:
    """The answer to another prompt in the same language."""
    return _answer(rng.choice([c for c in found if c["language"] == row["language"]]))


def other_language(rng: random.Random, row: Row, found: list[Row]) -> str:
    """An answer to the same kind of prompt, in another language."""
    others = [c for c in found if c["language"] != row["language"] and c.get("kind") == row.get("kind")]
    return _answer(rng.choice(others)) if others else ""


def loop(rng: random.Random, row: Row, found: list[Row]) -> str:
    """The first words again and again."""
    words = _answer(row).split()
    return " ".join((words[: rng.randint(3, 6)] * 5)[:24])


FAULTS = (other_answer, other_language, loop)


def _answer(row: Row) -> str:
    return str(row["messages"][-1]["content"])


def write(source: Path, target: Path, count: int, seed: int) -> None:
    """Pairs from a file of conversations in any usual shape with language tags."""
    conversations = [canonical(raw) for _, raw in read({"path": str(source)})]
    with atomic_write(target) as f:
        for row in pairs(conversations, count, seed):
            f.write(json.dumps(row, ensure_ascii=False) + "\n")
