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
from data.demo.games import packing, roll_call, shop
from data.demo.lexicon import LANGUAGES
from data.demo.pdf import write_booklet
from data.demo.reading import scene, story_passage, write_questions
from data.demo.stories import episodes, sample_facts, tell
from duetto.errors import UserError
from duetto.files import atomic_write, read_json, write_json

VERSION = 10
"""Raised whenever the same seed would give other bytes."""

WEB_PAGES = {"en": 9_500, "it": 7_700}
"""Documents a language; with the booklets about a million tokens of each, what the demo trains on."""
WEB_FILES = 2
BOOKLETS = 120
CONVERSATIONS = 3500
"""Per language, as the three below."""
HELD_OUT_CONVERSATIONS = 120
VALIDATION_DOCUMENTS = 150
BENCHMARK_ITEMS = 200

Document = dict[str, Any]


def write_corpus(folder: Path, seed: int = 8, scale: float = 1.0) -> dict[str, Any]:
    """Write the corpus below ``folder`` and return its index: documents and bytes by part.

    The folder appears whole or not at all: everything is written beside it and renamed at the end, so a generation that
    was killed starts again from nothing, and one that is there is not made twice.

    Args:
        seed: the same seed gives the same bytes, PDFs too.
        scale: shrinks the training parts, for tests; held-out parts keep their size.

    Raises:
        UserError: ``folder`` holds something else, or the disk is full.
    """
    wanted = {"version": VERSION, "seed": seed, "scale": scale}
    if (folder / "corpus.json").exists():
        index: dict[str, Any] = read_json(folder / "corpus.json")
        if {key: index.get(key) for key in wanted} == wanted:
            return index
    elif folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: holds files that are not a demo corpus; name another folder or empty it")
    beside = folder.with_name(folder.name + ".part")
    if beside.exists():
        shutil.rmtree(beside)
    parts = {name: _write_lines(beside / name, rows) for name, rows in _tables(seed, scale)}
    parts["pdf_it"] = _write_booklets(beside / "pdf_it", seed, max(2, round(BOOKLETS * scale)))
    index = {**wanted, "parts": parts}
    write_json(beside / "corpus.json", index)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(beside, folder)
    return index


def _tables(seed: int, scale: float) -> Iterator[tuple[str, Iterable[Document]]]:
    """Each JSON Lines file with its rows; every file has a random stream of its own."""

    def rng(name: str) -> random.Random:
        return random.Random(f"{seed}/{name}")

    for language in LANGUAGES:
        for part in range(WEB_FILES):
            name = f"web_{language}/pages-{part}"
            count = max(1, round(WEB_PAGES[language] * scale / WEB_FILES))
            yield f"{name}.jsonl", _web_pages(rng(name), name, language, count)
        name = f"validation/{language}"
        yield f"{name}.jsonl", _held_out_stories(rng(name), name, language)
        for task, make in TASKS.items():
            name = f"benchmarks/{task}_{language}"
            items = rng(name)
            yield f"{name}.jsonl", [make(items, language, i) for i in range(BENCHMARK_ITEMS)]
    yield "validation/code.jsonl", _held_out_code(Path(sysconfig.get_path("stdlib")))
    count = max(1, round(CONVERSATIONS * scale))
    yield "sft/train.jsonl", _conversations(rng("sft/train"), "train", count, held_out=False)
    yield "sft/heldout.jsonl", _conversations(rng("sft/heldout"), "heldout", HELD_OUT_CONVERSATIONS, held_out=True)


def _story(rng: random.Random, language: str) -> str:
    return tell(sample_facts(rng, held_out=False), language, rng).text


def _episodes(rng: random.Random, language: str) -> str:
    return episodes(rng, language, count=rng.randint(3, 5))


def _reading(rng: random.Random, language: str) -> str:
    passage = rng.choice((scene, story_passage))
    return write_questions(passage(rng, language, held_out=False), language)


PAGE_KINDS: dict[str, tuple[Callable[[random.Random, str], str], int]] = {
    "episodes": (_episodes, 24),
    "story": (_story, 18),
    "reading": (_reading, 16),
    "lesson": (lesson, 14),
    "process": (how_it_works, 7),
    "roll": (roll_call, 4),
    "shop": (shop, 8),
    "packing": (packing, 9),
}
"""Makers of a web page, with their weights in percent of documents."""


def _web_pages(rng: random.Random, name: str, language: str, count: int) -> Iterator[Document]:
    weights = [weight for _, weight in PAGE_KINDS.values()]
    for i, kind in enumerate(rng.choices(list(PAGE_KINDS), weights, k=count)):
        yield {"id": f"{name}/{kind}-{i}", "text": PAGE_KINDS[kind][0](rng, language), "language": language}


def _held_out_stories(rng: random.Random, name: str, language: str) -> Iterator[Document]:
    for i in range(VALIDATION_DOCUMENTS):
        text = tell(sample_facts(rng, held_out=True), language, rng).text
        yield {"id": f"{name}/story-{i}", "text": text, "language": language}


def _held_out_code(library: Path) -> Iterator[Document]:
    for path in source_files(library):
        if is_validation_file(path):
            text = path.read_text(encoding="utf-8", errors="replace")
            yield {"id": path.relative_to(library).as_posix(), "text": text, "language": "code"}


def _conversations(rng: random.Random, name: str, count: int, held_out: bool) -> Iterator[Document]:
    for i in range(count):
        for language in LANGUAGES:
            yield conversation(rng, language, held_out, f"{name}-{language}-{i}")


def _write_lines(path: Path, rows: Iterable[Document]) -> dict[str, int]:
    documents = 0
    with atomic_write(path) as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")
            documents += 1
    return {"documents": documents, "bytes": path.stat().st_size}


def _write_booklets(folder: Path, seed: int, count: int) -> dict[str, int]:
    rng = random.Random(f"{seed}/pdf_it")
    size = 0
    for number in range(1, count + 1):
        title, sections = booklet(rng, number)
        size += write_booklet(folder / f"quaderno-{number:04d}.pdf", title, sections)
    return {"documents": count, "bytes": size}


if __name__ == "__main__":
    json.dump(write_corpus(Path(sys.argv[1])), sys.stdout, indent=1)
