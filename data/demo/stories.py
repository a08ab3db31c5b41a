"""Seeded stories in English and Italian, and the split of their facts into training and held-out.

A story is an opening, a trouble, some talk and an ending that follows from the trouble. Its facts decide everything
that matters; wording is drawn at random. Facts are held out by a hash, so that a held-out combination of hero, friend,
object and plot is never told in training, in either language, whatever the wording.
"""

import hashlib
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from data.demo.lexicon import Adjective, Object, Person, Place, describe, lexicon, load_yaml, trait_of

HELD_OUT_SHARE = 20
"""One combination of facts in this many is held out."""


@dataclass(frozen=True)
class Plot:
    key: str
    theme: str
    cause: Mapping[str, list[str]]
    line: Mapping[str, list[str]]
    end: Mapping[str, list[str]]


@dataclass(frozen=True)
class Facts:
    """What happens to whom, independent of the language."""

    hero: Person
    friend: Person
    object: Object
    place: Place
    adjective: Adjective
    trait: Adjective
    plot: Plot


@dataclass(frozen=True)
class Story:
    facts: Facts
    language: str
    context: str
    ending: str

    @property
    def text(self) -> str:
        return f"{self.context} {self.ending}"


@cache
def plots() -> tuple[Plot, ...]:
    def by_language(plot: dict[str, Any], part: str) -> dict[str, list[str]]:
        return {language: plot[language][part] for language in ("en", "it")}

    return tuple(
        Plot(f"{p['theme']}-{i}", p["theme"], by_language(p, "cause"), by_language(p, "line"), by_language(p, "end"))
        for i, p in enumerate(load_yaml("plots.yaml"))
    )


@cache
def frames() -> dict[str, dict[str, list[str]]]:
    frames: dict[str, dict[str, list[str]]] = load_yaml("frames.yaml")
    return frames


def sample_facts(rng: random.Random, held_out: bool) -> Facts:
    """Draw facts from one side of the split."""
    words = lexicon()
    while True:
        hero, friend = rng.sample(words.people, 2)
        facts = Facts(
            hero,
            friend,
            rng.choice(words.objects),
            rng.choice(words.places),
            rng.choice(words.object_adjectives),
            rng.choice(words.traits),
            rng.choice(plots()),
        )
        if is_held_out(facts) == held_out:
            return facts


def is_held_out(facts: Facts) -> bool:
    key = "|".join([facts.hero.name, facts.friend.name, facts.object.en.word, facts.plot.key])
    return int(hashlib.md5(key.encode()).hexdigest(), 16) % HELD_OUT_SHARE == 0


def slots(facts: Facts, language: str) -> dict[str, object]:
    """What a template may name."""
    return {
        "hero": facts.hero,
        "friend": facts.friend,
        "object": facts.object.noun(language),
        "described": describe(facts.object, facts.adjective, language),
        "place": facts.place.noun(language),
        "at": facts.place.at,
        "trait": trait_of(facts.hero, facts.trait, language),
    }


def tell(facts: Facts, language: str, rng: random.Random) -> Story:
    """Word the facts."""
    fill = slots(facts, language)
    line = rng.choice(facts.plot.line[language]).format(**fill)
    parts = [
        rng.choice(frames()["openings"][language]).format(**fill),
        rng.choice(facts.plot.cause[language]).format(**fill),
        rng.choice(frames()["dialogues"][language]).format(line=line[0].upper() + line[1:], **fill),
    ]
    ending = rng.choice(facts.plot.end[language]).format(**fill)
    return Story(facts, language, sentence_case(" ".join(p for p in parts if p)), sentence_case(ending))


_SENTENCE_START = re.compile(r"(?:^|[.!?] |[«\"])[a-zàèéìòù]")


def sentence_case(text: str) -> str:
    """A capital at the start of each sentence and quotation, so that templates may begin with any slot."""
    return _SENTENCE_START.sub(lambda match: match.group().upper(), text)
