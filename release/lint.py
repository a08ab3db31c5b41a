"""The card lint: every number leads to a manifest or a result, and nothing contradicts the run.

    duetto card --check

The card is rendered again from the files of the run and compared line by line with the one in the folder. A line that
differs is read: its numbers must be those of the run, and its statements must agree with the configuration. Free text
of the recipe is read in the same way.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from duetto.files import read_json
from duetto.run import Run
from release.card import README, Card, chat_example, render_card
from release.config import ModelKind, text_in
from release.facts import CardFacts
from release.metadata import problems as metadata_problems
from release.render import Claim
from release.scores import Score, scores_of
from release.statements import NUMBER, contradictions
from release.traced import plain

FREE_TEXTS = ("description", "intended_use", "out_of_scope", "limits", "acknowledgements")


@dataclass(frozen=True)
class Problem:
    """One reason to refuse a card."""

    where: str
    """File and line."""
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def lint(run: Run, kind: ModelKind) -> list[Problem]:
    """All problems of the cards of one release folder.

    Raises:
        UserError: a manifest or a result is missing or of another model.
    """
    folder = run.path("release", kind)
    facts = CardFacts(run, kind)
    rows = scores_of(facts)
    example = chat_example(folder) if kind == "instruct" else None
    found: list[Problem] = []
    for language, name in README.items():
        file = folder / name
        if not file.is_file():
            found.append(Problem(str(file), "is missing; run: duetto card --force"))
            continue
        card = render_card(facts, language, example)
        found += untraced(card, name)
        found += compare(card, file.read_text(encoding="utf-8"), file, facts, rows)
        found += free_texts(facts, rows, language)
    found += stale(folder, facts)
    return list(dict.fromkeys(found))


def split(text: str) -> tuple[Any, list[str], int]:
    """Metadata (None when there is none), the lines after it, and the number of lines before those."""
    match = re.match(r"---\n(.*?\n)---\n", text, re.DOTALL)
    if not match:
        return None, text.split("\n"), 0
    try:
        data = yaml.safe_load(match[1])
    except yaml.YAMLError:
        data = None
    return data, text[match.end() :].split("\n"), match[0].count("\n")


def untraced(card: Card, name: str) -> Iterator[Problem]:
    """Numbers in the prose of the template itself: nobody vouches for them."""
    spans: dict[int, list[tuple[int, int]]] = {}
    for claim in card.claims:
        for offset, piece in enumerate(claim.text.split("\n")):
            start = claim.start if offset == 0 else 0
            spans.setdefault(claim.line + offset, []).append((start, start + len(piece)))
    _, lines, before = split(card.text)
    for number, line in prose(lines, before):
        for match in re.finditer(NUMBER, line):
            if not any(start <= match.start() < stop for start, stop in spans.get(number, ())):
                yield Problem(f"{name}:{number}", f"{match[0]} comes from no manifest, configuration or result")


def prose(lines: list[str], before: int) -> Iterator[tuple[int, str]]:
    """Numbered lines outside code fences (code is compared, not read)."""
    fenced = False
    for number, line in enumerate(lines, before + 1):
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, line


def compare(card: Card, text: str, file: Path, facts: CardFacts, rows: list[Score]) -> Iterator[Problem]:
    """The card on disk against the card that the run's files give."""
    data, lines, before = split(text)
    expected_data, expected, expected_before = split(card.text)
    where = file.name
    yield from (Problem(where, p) for p in metadata_problems(data))
    yield from (Problem(where, p) for p in different_metadata(expected_data, data))
    missing = [line for line in expected if line.startswith("#") and line not in lines]
    yield from (Problem(where, f"section {line.lstrip('# ')!r} is missing") for line in missing)
    claims: dict[int, list[Claim]] = {}
    for claim in card.claims:
        for offset in range(claim.text.count("\n") + 1):
            claims.setdefault(claim.line + offset, []).append(claim)
    matcher = difflib.SequenceMatcher(None, expected, lines, autojunk=False)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag in ("equal", "delete"):
            continue
        for j in range(j1, j2):
            i = closest(expected[i1:i2], lines[j])
            model = expected[i1 + i] if i is not None else ""
            number = expected_before + i1 + i + 1 if i is not None else 0
            at = f"{where}:{before + j + 1}"
            yield from edited(lines[j], model, claims.get(number, []), at)
            for statement in contradictions(lines[j], facts, rows, card.language):
                source = statement.truth
                told = f"{statement.text!r} contradicts {source.sources[0]} ({statement.about}: {plain(source)})"
                yield Problem(at, told)


def closest(candidates: list[str], line: str) -> int | None:
    """Index of the expected line that an edited one replaces."""
    if not candidates:
        return None
    ratios = [difflib.SequenceMatcher(None, c, line, autojunk=False).ratio() for c in candidates]
    best = max(range(len(ratios)), key=ratios.__getitem__)
    return best if ratios[best] > 0.5 else None


def edited(line: str, model: str, claims: list[Claim], where: str) -> Iterator[Problem]:
    """Numbers of a changed line that the run does not give at that place."""
    expected = [(m[0], m.start()) for m in re.finditer(NUMBER, model)]
    left = [text for text, _ in expected]
    said = [m[0] for m in re.finditer(NUMBER, line)]
    for index, number in enumerate(said):
        if number in left:
            left.remove(number)
            continue
        if index < len(expected):
            text, start = expected[index]
            owner = next((c for c in claims if c.start <= start < c.start + len(c.text)), None)
            if owner:
                yield Problem(where, f"says {number} where {' and '.join(owner.sources)} gives {text}")
                continue
        yield Problem(where, f"{number} comes from no manifest, configuration or result")


def different_metadata(expected: Any, found: Any, path: str = "") -> Iterator[str]:
    """Where two metadata blocks differ."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in expected.keys() | found.keys():
            if key not in found:
                yield f"metadata: {path}{key} is missing"
            elif key in expected:
                yield from different_metadata(expected[key], found[key], f"{path}{key}.")
            # A key of one's own (thumbnail, widget) is nobody's contradiction.
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for index, (a, b) in enumerate(zip(expected, found)):
            label = a.get("dataset", {}).get("name", index) if isinstance(a, dict) else index
            yield from different_metadata(a, b, f"{path}{label}.")
    elif expected != found:
        yield f"metadata: {path.rstrip('.')} is {found!r}, the run gives {expected!r}"


def free_texts(facts: CardFacts, rows: list[Score], language: str) -> Iterator[Problem]:
    """What a person wrote in the recipe must not contradict the run."""
    for name in FREE_TEXTS:
        text = text_in(getattr(facts.release, name), language)
        # A text without its own Italian version is English in both cards.
        own = getattr(facts.release, name)
        spoken = language if isinstance(own, dict) and own.get(language) else "en"
        for statement in contradictions(text, facts, rows, spoken):
            truth = statement.truth
            told = f"{statement.text!r} contradicts {truth.sources[0]} ({statement.about}: {plain(truth)})"
            yield Problem(f"recipe: release.{name}", told)


def stale(folder: Path, facts: CardFacts) -> Iterator[Problem]:
    """card.json must name the very files that are there now."""
    file = folder / "card.json"
    if not file.is_file():
        yield Problem(str(file), "is missing; run: duetto card --force")
        return
    for name, digest in read_json(file)["documents"].items():
        if name in facts.digests and facts.digests[name] != digest:
            yield Problem(name, "changed after the card was made; run: duetto card --force")
