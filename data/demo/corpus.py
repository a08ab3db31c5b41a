"""The whole demo corpus: sources, validation, benchmarks and conversations, as a function of one seed.

python -m data.demo.corpus FOLDER
"""

import json
import os
import random
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from data.demo.benchmarks import TASKS
from data.demo.booklets import booklet
from data.demo.code_split import is_validation_file, source_files
from data.demo.conversations import conversation
from data.demo.expository import how_it_works, lesson
from data.demo.games import packing_game, roll_call
from data.demo.lexicon import LANGUAGES
from data.demo.pdf import write_booklet
from data.demo.reading import scene, story_passage, write_questions
from data.demo.stories import sample_facts, tell
from duetto.errors import UserError

VERSION = 3
"""Raised whenever the same seed would give other bytes."""

WEB_STORIES = {"en": 9500, "it": 7500}
WEB_OTHERS = {"en": 6500, "it": 5500}
BOOKLETS = 240
VALIDATION_DOCUMENTS = 150
BENCHMARK_ITEMS = 200
CONVERSATIONS = 3500
HELD_OUT_CONVERSATIONS = 120
"""Per language, as the three above."""


def write_corpus(folder: Path, seed: int = 8, scale: float = 1.0) -> dict[str, Any]:
    """Write the corpus below ``folder`` and return its index (what is in it, by part).

    The folder appears whole or not at all: everything is written beside it and renamed at the end, so a generation that
    was killed starts again from nothing, and one that is there is not made twice.

    Args:
        seed: the same seed gives the same bytes, PDFs too.
        scale: shrinks the training parts, for tests.
    """
    index_path = folder / "corpus.json"
    wanted = {"version": VERSION, "seed": seed, "scale": scale}
    if index_path.exists():
        index: dict[str, Any] = json.loads(index_path.read_text(encoding="utf-8"))
        if {key: index.get(key) for key in wanted} == wanted:
            return index
    elif folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: holds files that are not a demo corpus; name another folder or empty it")
    beside = folder.with_name(folder.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    parts = {name: _write(beside / name, rows) for name, rows in _json_parts(seed, scale)}
    parts["pdf_it"] = _write_booklets(beside / "pdf_it", seed, max(2, round(BOOKLETS * scale)))
    index = {**wanted, "parts": parts}
    (beside / "corpus.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(beside, folder)
    return index


def _json_parts(seed: int, scale: float) -> Iterator[tuple[str, Iterable[dict[str, Any]]]]:
    def rng(part: str) -> random.Random:
        # One stream a part: changing one leaves the bytes of the others alone.
        return random.Random(f"{seed}/{part}")

    for language in LANGUAGES:
        name = f"web_{language}"
        yield (
            f"{name}/stories.jsonl",
            _stories(rng(name), name, language, round(WEB_STORIES[language] * scale), held_out=False),
        )
        yield (
            f"{name}/explained.jsonl",
            _others(rng(f"{name}/explained"), name, language, round(WEB_OTHERS[language] * scale)),
        )
        name = f"validation/{language}"
        yield f"{name}.jsonl", _stories(rng(name), name, language, VALIDATION_DOCUMENTS, held_out=True)
        for task, make in TASKS.items():
            name = f"benchmarks/{task}_{language}"
            items = rng(name)
            yield f"{name}.jsonl", [make(items, language, i) for i in range(BENCHMARK_ITEMS)]
    yield "validation/code.jsonl", _code()
    yield "sft/train.jsonl", _conversations(rng("sft/train"), "train", round(CONVERSATIONS * scale), held_out=False)
    yield "sft/heldout.jsonl", _conversations(rng("sft/heldout"), "heldout", HELD_OUT_CONVERSATIONS, held_out=True)


def _stories(rng: random.Random, name: str, language: str, count: int, held_out: bool) -> Iterator[dict[str, Any]]:
    for i in range(count):
        text = tell(sample_facts(rng, held_out), language, rng).text
        yield {"id": f"{name}/story-{i}", "text": text, "language": language}


def _read(rng: random.Random, language: str) -> str:
    make = rng.choice((scene, scene, story_passage))
    return write_questions(make(rng, language, False), language)


OTHER_KINDS: dict[str, tuple[Callable[[random.Random, str], str], int]] = {
    "reading": (_read, 45),
    "lesson": (lesson, 18),
    "process": (how_it_works, 12),
    "packing": (packing_game, 15),
    "roll": (roll_call, 10),
}
"""Documents beside the stories, with their weights."""


def _others(rng: random.Random, name: str, language: str, count: int) -> Iterator[dict[str, Any]]:
    kinds, weights = list(OTHER_KINDS), [weight for _, weight in OTHER_KINDS.values()]
    for i, kind in enumerate(rng.choices(kinds, weights, k=count)):
        yield {"id": f"{name}/{kind}-{i}", "text": OTHER_KINDS[kind][0](rng, language), "language": language}


def _conversations(rng: random.Random, name: str, count: int, held_out: bool) -> Iterator[dict[str, Any]]:
    for i in range(count):
        for language in LANGUAGES:
            yield conversation(rng, language, held_out, f"{name}-{language}-{i}")


def _code() -> Iterator[dict[str, Any]]:
    library = Path(sysconfig.get_path("stdlib"))
    for path in source_files(library):
        if is_validation_file(path):
            yield {
                "id": path.relative_to(library).as_posix(),
                "text": path.read_text(encoding="utf-8", errors="replace"),
                "language": "code",
            }


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> dict[str, int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    documents = 0
    with open(path, "w", encoding="utf-8") as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")
            documents += 1
        f.flush()
        os.fsync(f.fileno())
    return {"documents": documents, "bytes": path.stat().st_size}


def _write_booklets(folder: Path, seed: int, count: int) -> dict[str, int]:
    folder.mkdir(parents=True)
    rng = random.Random(f"{seed}/pdf_it")
    size = 0
    for number in range(1, count + 1):
        title, sections = booklet(rng, number)
        path = folder / f"quaderno-{number:04d}.pdf"
        write_booklet(path, title, sections)
        size += path.stat().st_size
    return {"documents": count, "bytes": size}


if __name__ == "__main__":
    json.dump(write_corpus(Path(sys.argv[1])), sys.stdout, indent=1)
