"""Seeded bilingual dialogues with tools, so that the agentic recipe runs without private data.

    python -m sft.toolbox FOLDER --rows 6000 --seed 8

Six kinds: a single call, parallel calls, a second call after the first result, a missing argument that is asked for,
no suitable tool, and a plain answer. Argument values are held out by their hash: the held-out file asks for
combinations of tool and arguments that training never saw.
"""

import argparse
import functools
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from duetto.console import log
from duetto.files import atomic_write

FILE = Path(__file__).with_name("toolbox.yaml")
LANGUAGES = ("en", "it")
HELD_OUT_IN = 12
"""One in so many combinations of tool and arguments is held out."""

Dialogue = dict[str, Any]


@functools.cache
def toolbox() -> dict[str, Any]:
    return dict(yaml.safe_load(FILE.read_text(encoding="utf-8")))


def schema(name: str, language: str) -> dict[str, Any]:
    """The tool as the model reads it: an OpenAI function with a JSON schema."""
    tool = toolbox()["tools"][name]
    properties = {p: _property(kind) for p, kind in tool["parameters"].items()}
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    function = {"name": name, "description": tool["about"][language], "parameters": parameters}
    return {"type": "function", "function": function}


def _property(kind: Any) -> dict[str, Any]:
    values = kind if isinstance(kind, list) else toolbox()["values"][kind]
    found: dict[str, Any] = {"type": "integer" if isinstance(values[0], int) else "string"}
    return {**found, "enum": kind} if isinstance(kind, list) else found


class Maker:
    """Draws dialogues of one language; ``held_out`` says which side of the split its calls are on."""

    def __init__(self, rng: random.Random, language: str, held_out: bool, offered: int = 3) -> None:
        self.rng, self.language, self.held_out, self.offered = rng, language, held_out, offered

    def arguments(self, name: str) -> dict[str, Any]:
        tool = toolbox()["tools"][name]
        while True:
            found = {p: self._value(kind) for p, kind in tool["parameters"].items()}
            digest = hashlib.blake2b(json.dumps([name, found]).encode(), digest_size=4).digest()
            distinct = len(set(map(str, found.values()))) == len(found)
            if distinct and (int.from_bytes(digest, "big") % HELD_OUT_IN == 0) == self.held_out:
                return found

    def _value(self, kind: Any) -> Any:
        return self.rng.choice(kind if isinstance(kind, list) else toolbox()["values"][kind])

    def names(self, count: int) -> list[str]:
        """Tools that the held-out side of the split can serve too (a list of few values may have none there)."""
        return self.rng.sample([n for n in toolbox()["tools"] if _splits(n)], count)

    def offer(self, *needed: str) -> list[dict[str, Any]]:
        """Schemas of the needed tools among others, in random order."""
        others = [n for n in toolbox()["tools"] if n not in needed]
        chosen = [*needed, *self.rng.sample(others, max(0, self.offered - len(needed)))]
        self.rng.shuffle(chosen)
        return [schema(n, self.language) for n in chosen]

    def ask(self, name: str, arguments: dict[str, Any]) -> str:
        return str(self.rng.choice(toolbox()["tools"][name]["ask"][self.language]).format(**arguments))

    def result(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        found = {}
        for key, kind in toolbox()["tools"][name]["result"].items():
            product = kind == "product"
            found[key] = arguments["first"] * arguments["second"] if product else self._value(kind)
        return found

    def answer(self, name: str, values: dict[str, Any]) -> str:
        return str(toolbox()["tools"][name]["answer"][self.language].format(**values))

    def single(self) -> Dialogue:
        (name,) = self.names(1)
        arguments = self.arguments(name)
        result = self.result(name, arguments)
        turns = [user(self.ask(name, arguments)), calls((name, arguments)), tool(result)]
        return {"tools": self.offer(name), "messages": [*turns, says(self.answer(name, {**arguments, **result}))]}

    def parallel(self) -> Dialogue:
        first, second = self.names(2)
        a, b = self.arguments(first), self.arguments(second)
        ra, rb = self.result(first, a), self.result(second, b)
        both = toolbox()["both"][self.language].format(first=self.ask(first, a), second=self.ask(second, b))
        turns = [user(both), calls((first, a), (second, b)), tool(ra), tool(rb)]
        said = f"{self.answer(first, {**a, **ra})} {self.answer(second, {**b, **rb})}"
        return {"tools": self.offer(first, second), "messages": [*turns, says(said)]}

    def multi_step(self) -> Dialogue:
        """The second request comes after the first result."""
        first, second = self.names(2)
        a, b = self.arguments(first), self.arguments(second)
        ra, rb = self.result(first, a), self.result(second, b)
        turns = [user(self.ask(first, a)), calls((first, a)), tool(ra), says(self.answer(first, {**a, **ra}))]
        turns += [user(self.ask(second, b)), calls((second, b)), tool(rb), says(self.answer(second, {**b, **rb}))]
        return {"tools": self.offer(first, second), "messages": turns}

    def missing(self) -> Dialogue:
        (name,) = self.names(1)
        arguments, text = self.arguments(name), toolbox()["tools"][name]
        turns = [
            user(text["vague"][self.language].format(**arguments)),
            says(text["which"][self.language]),
            user(text["given"][self.language].format(**arguments)),
            calls((name, arguments)),
        ]
        return {"tools": self.offer(name), "messages": turns}

    def unsuitable(self) -> Dialogue:
        (name,) = self.names(1)
        others = [n for n in toolbox()["tools"] if n != name]
        offered = [schema(n, self.language) for n in self.rng.sample(others, self.offered)]
        said = says(toolbox()["none"][self.language])
        return {"tools": offered, "messages": [user(self.ask(name, self.arguments(name))), said]}

    def plain(self) -> Dialogue:
        asked, said = self.rng.choice(toolbox()["plain"][self.language])
        return {"tools": self.offer(), "messages": [user(asked), says(said)]}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def says(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def tool(result: dict[str, Any]) -> dict[str, Any]:
    return {"role": "tool", "content": json.dumps(result, ensure_ascii=False)}


def calls(*made: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    found = [{"type": "function", "function": {"name": n, "arguments": a}} for n, a in made]
    return {"role": "assistant", "content": "", "tool_calls": found}


@functools.cache
def _splits(name: str) -> bool:
    """Whether a tool has combinations enough for both sides of the split."""
    values, total = toolbox()["values"], 1
    for kind in toolbox()["tools"][name]["parameters"].values():
        total *= len(kind if isinstance(kind, list) else values[kind])
    return total >= 2 * HELD_OUT_IN


KINDS: dict[str, tuple[Callable[[Maker], Dialogue], int]] = {
    "single": (Maker.single, 50),
    "parallel": (Maker.parallel, 10),
    "multi_step": (Maker.multi_step, 10),
    "missing": (Maker.missing, 12),
    "unsuitable": (Maker.unsuitable, 10),
    "plain": (Maker.plain, 8),
}
"""Makers of a dialogue, with their weights in percent."""


def dialogues(
    rows: int, seed: int, held_out: bool = False, kinds: tuple[str, ...] = tuple(KINDS)
) -> Iterator[Dialogue]:
    """``rows`` dialogues, the languages in turn; the same seed gives the same rows."""
    rng = random.Random(f"{seed}/{held_out}")
    for i in range(rows):
        language = LANGUAGES[i % 2]
        kind = rng.choices(kinds, [KINDS[k][1] for k in kinds])[0]
        made = KINDS[kind][0](Maker(rng, language, held_out))
        yield {"id": f"tools-{language}-{i}", "language": language, "kind": kind, **made}


def single_call_prompts(rows: int, seed: int) -> Iterator[Dialogue]:
    """Held-out single calls, cut after the call: what the parse rate is measured on."""
    for row in dialogues(rows, seed, held_out=True, kinds=("single",)):
        yield {**row, "messages": row["messages"][:2]}


def write(folder: Path, rows: int, seed: int, held_out: int = 200) -> None:
    """``tools.jsonl`` to train on and ``tools-heldout.jsonl`` of single calls."""
    for name, found in (
        ("tools.jsonl", dialogues(rows, seed)),
        ("tools-heldout.jsonl", single_call_prompts(held_out, seed)),
    ):
        with atomic_write(folder / name) as f:
            for row in found:
                f.write(json.dumps(row, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=8)
    args = parser.parse_args()
    write(args.folder, args.rows, args.seed)
    log(f"{args.rows} dialogues with tools in {args.folder}")


if __name__ == "__main__":
    main()
