"""Seeded stories in English and Italian, and the split of their facts into training and held-out.

A story is an opening, a trouble, some talk and an ending that follows from the trouble. Its facts decide everything
that matters; wording is drawn at random. Facts are held out by a hash, so that a held-out combination of hero, friend,
object and plot is never told in training, in either language, whatever the wording.
"""

import dataclasses
import hashlib
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from data.demo.lexicon import (
    LANGUAGES,
    Activity,
    Adjective,
    Object,
    Person,
    Place,
    Thing,
    describe,
    lexicon,
    load_yaml,
    noun_of,
    trait_of,
)
from data.demo.morphology import euphony

HELD_OUT_SHARE = 20
"""One combination of facts in this many is held out."""

MIDDLE_SHARE, DIALOGUE_SHARE = 0.4, 0.75
"""How many stories have a sentence before the trouble, and talk after it."""


@dataclass(frozen=True)
class Plot:
    """A trouble and its outcome; the three texts are lists of wordings by language."""

    key: str
    theme: str
    cause: Mapping[str, list[str]]
    line: Mapping[str, list[str]]
    end: Mapping[str, list[str]]
    nouns: Mapping[str, Thing]
    """Further slots of the texts: the animal that ran away, the tool that mended."""


@dataclass(frozen=True)
class Facts:
    """What happens to whom, independent of the language."""

    hero: Person
    friend: Person
    object: Object
    place: Place
    adjective: Adjective
    trait: Adjective
    activity: Activity
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
    found = []
    for number, raw in enumerate(load_yaml("plots.yaml")):
        cause, line, end = (
            {language: raw[language][part] for language in LANGUAGES} for part in ("cause", "line", "end")
        )
        for nouns in raw.get("with", [{}]):
            key = "-".join([raw["theme"], str(number), *(noun[0] for noun in nouns.values())])
            found.append(
                Plot(key, raw["theme"], cause, line, end, {slot: noun_of(noun) for slot, noun in nouns.items()})
            )
    return tuple(found)


@cache
def frames() -> dict[str, dict[str, list[str]]]:
    frames: dict[str, dict[str, list[str]]] = load_yaml("frames.yaml")
    return frames


def sample_facts(
    rng: random.Random,
    held_out: bool,
    hero: Person | None = None,
    friend: Person | None = None,
    thing: Object | None = None,
) -> Facts:
    """Draw facts from one side of the split; who or what is given stays."""
    words = lexicon()
    while True:
        cast = hero or rng.choice(words.people), friend or rng.choice(words.people)
        told, plot = thing or rng.choice(words.toys), rng.choice(plots())
        names = cast[0].name, cast[1].name
        if names[0] != names[1] and is_held_out_key(*names, told.en.word, plot.key) == held_out:
            break
    return Facts(
        *cast,
        told,
        rng.choice(words.places),
        rng.choice(words.object_adjectives),
        rng.choice(words.traits),
        rng.choice(words.activities),
        plot,
    )


def is_held_out_key(*parts: str) -> bool:
    """The split: the same names give the same side in every process, language and seed."""
    key = "|".join(parts)
    return int(hashlib.md5(key.encode()).hexdigest(), 16) % HELD_OUT_SHARE == 0


def slots(facts: Facts, language: str) -> dict[str, object]:
    """What a template may name."""
    return {
        "hero": facts.hero,
        "friend": facts.friend,
        "object": facts.object.noun(language),
        "described": describe(facts.object, facts.adjective, language),
        "place": facts.place.noun(language),
        "there": facts.place.there(language),
        "trait": trait_of(facts.hero, facts.trait, language),
        "verb": facts.activity.en if language == "en" else facts.activity.it,
        "how": facts.activity.how_en if language == "en" else facts.activity.how_it,
        **{slot: noun.noun(language) for slot, noun in facts.plot.nouns.items()},
    }


def tell(facts: Facts, language: str, rng: random.Random) -> Story:
    """Word the facts: opening, perhaps a pause, the trouble, mostly some talk, and the ending."""
    fill, frame = slots(facts, language), frames()
    parts = [rng.choice(frame["openings"][language])]
    if rng.random() < MIDDLE_SHARE:
        parts.append(rng.choice(frame["middles"][language]))
    parts.append(rng.choice(facts.plot.cause[language]))
    if rng.random() < DIALOGUE_SHARE:
        line = rng.choice(facts.plot.line[language]).format(**fill)
        fill["line"] = line[0].upper() + line[1:]
        parts.append(rng.choice(frame["dialogues"][language]))
    ending = rng.choice(facts.plot.end[language])
    context, ending = (finish(text.format(**fill), language) for text in (" ".join(parts), ending))
    return Story(facts, language, context, ending)


def episodes(rng: random.Random, language: str, count: int) -> str:
    """Training stories of the same two children and the same thing, one after the other.

    A long text with few names teaches a small model that a name comes again; in short stories of ever other children
    that is lost among the names of the stories before.
    """
    first = sample_facts(rng, held_out=False)
    told = [tell(first, language, rng).text]
    while len(told) < count:
        facts = sample_facts(rng, False, first.hero, first.friend, first.object)
        told.append(tell(dataclasses.replace(facts, adjective=first.adjective, trait=first.trait), language, rng).text)
    return "\n".join(told)


_SENTENCE_START = re.compile(r"(?:^|[.!?]\s|[«\"]|(?:Question|Answer|Domanda|Risposta): )[a-zàèéìòù]")


def finish(text: str, language: str) -> str:
    """The last touches that templates cannot know of.

    A capital at the start of each sentence and quotation; Italian: ad Anna, ed Elena; English: no comma after a
    question in quotes (Italian keeps it).
    """
    text = euphony(text) if language == "it" else text.replace('?,"', '?"').replace('!,"', '!"')
    return _SENTENCE_START.sub(lambda match: match.group()[:-1] + match.group()[-1].upper(), text)
