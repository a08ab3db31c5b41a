"""The words of the demo corpus, read from lexicon.yaml, as noun phrases that templates can inflect."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from data.demo.english import EnglishNoun, EnglishVerb
from data.demo.morphology import ItalianNoun, agree
from data.demo.verbs import ItalianVerb

LANGUAGES = ("en", "it")
HERE = Path(__file__).parent

TOYS = 24
"""Objects that stories are about; few, for the same reason as the names."""


@dataclass(frozen=True)
class Person:
    """A character; ``f"{hero:he}"`` and ``f"{hero:lo}"`` give the form of the gender, the bare format the name.

    The format is the masculine model: he, him, his, boy, son (English), o, lo, gli, bambino, amico, un (Italian).
    """

    name: str
    gender: str

    def __format__(self, form: str) -> str:
        if not form:
            return self.name
        return form if self.gender == "m" else _FEMININE[form]


_FEMININE = {
    "he": "she", "him": "her", "his": "her", "boy": "girl", "o": "a", "lo": "la", "gli": "le", "il": "la",
    "un": "una", "bambino": "bambina", "ragazzo": "ragazza", "un bambino": "una bambina", "un ragazzo": "una ragazza",
    "il migliore amico": "la migliore amica", "lui": "lei",
}  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """A noun in both languages."""

    en: EnglishNoun
    it: ItalianNoun

    def noun(self, language: str) -> EnglishNoun | ItalianNoun:
        return self.en if language == "en" else self.it


@dataclass(frozen=True)
class Object(Thing):
    material: str
    """English name, a key of the materials table."""
    use_en: str
    use_it: str


@dataclass(frozen=True)
class Place(Thing):
    at: str
    """English preposition: in the park, on the beach."""
    at_it: str
    """Model form of the Italian one: nel, al, sul."""

    def there(self, language: str) -> str:
        """At the place or to it: "on the beach", "sulla spiaggia"."""
        return f"{self.at} {self.en:the}" if language == "en" else format(self.it, self.at_it)


@dataclass(frozen=True)
class Adjective:
    en: str
    it: str
    before: bool = False


@dataclass(frozen=True)
class Activity:
    """Something people do, as a verb and what goes with it, in each language."""

    en: EnglishVerb
    how_en: str
    it: ItalianVerb
    how_it: str


@dataclass(frozen=True)
class Animal(Thing):
    """An animal and what is told of it: (class, food, home, habit) in each language."""

    facts_en: tuple[str, str, str, str]
    facts_it: tuple[str, str, str, str]


@dataclass(frozen=True)
class Lexicon:
    """All words; stories and passages are about the children and the toys, other texts about all objects."""

    people: tuple[Person, ...]
    objects: tuple[Object, ...]
    toys: tuple[Object, ...]
    materials: dict[str, str]
    places: tuple[Place, ...]
    object_adjectives: tuple[Adjective, ...]
    traits: tuple[Adjective, ...]
    activities: tuple[Activity, ...]


@cache
def lexicon() -> Lexicon:
    raw: dict[str, Any] = load_yaml("lexicon.yaml")
    objects = tuple(
        Object(EnglishNoun(en), ItalianNoun(it, g), material, use_en, use_it)
        for en, it, g, material, use_en, use_it in raw["objects"]
    )
    return Lexicon(
        people=tuple(Person(name, gender) for gender in ("f", "m") for name in raw["names"][gender]),
        objects=objects,
        toys=objects[:TOYS],
        materials=raw["materials"],
        places=tuple(Place(EnglishNoun(en), ItalianNoun(it, g), at, at_it) for en, at, it, g, at_it in raw["places"]),
        object_adjectives=tuple(Adjective(en, it, bool(rest)) for en, it, *rest in raw["object_adjectives"]),
        traits=tuple(Adjective(en, it) for en, it in raw["traits"]),
        activities=tuple(
            Activity(EnglishVerb(base, past, ing), how, ItalianVerb(infinitive), how_it)
            for base, past, ing, how, infinitive, how_it in raw["activities"]
        ),
    )


@cache
def animals() -> tuple[Animal, ...]:
    return tuple(
        Animal(EnglishNoun(en), ItalianNoun(it, g), tuple(facts[:4]), tuple(facts[4:]))
        for en, it, g, *facts in load_yaml("knowledge.yaml")["animals"]
    )


def noun_of(entry: list[str]) -> Thing:
    """A noun as the YAML files write it: [English, Italian, gender]."""
    en, it, gender = entry
    return Thing(EnglishNoun(en), ItalianNoun(it, gender))


def load_yaml(name: str) -> Any:
    """A resource of this folder; every scalar is kept as text (YAML would read the preposition "on" as true)."""
    with open(HERE / name, encoding="utf-8") as f:
        return yaml.load(f, yaml.BaseLoader)


@cache
def describe(thing: Object, adjective: Adjective, language: str) -> EnglishNoun | ItalianNoun:
    """The noun with its adjective: a red ball, una palla rossa, una vecchia palla."""
    if language == "en":
        return EnglishNoun(thing.en.word, adjective.en)
    return ItalianNoun(thing.it.word, thing.it.gender, adjective.it, adjective.before)


def trait_of(person: Person, trait: Adjective, language: str) -> str:
    """The adjective agreeing with the person."""
    return trait.en if language == "en" else agree(trait.it, person.gender)
