"""The little English morphology that templates need: a/an, plurals, and verbs given by their three forms."""

import re
from dataclasses import dataclass
from functools import cache

# An a/an choice is by sound: "a unicorn", "an hour".
_AN = re.compile(r"(?!uni|use|one|eu)([aeiou]|hour|honest)", re.IGNORECASE)

_IRREGULAR_PLURALS = {
    "knife": "knives", "leaf": "leaves", "sheep": "sheep", "fish": "fish", "mouse": "mice", "foot": "feet",
    "tooth": "teeth", "wolf": "wolves", "child": "children", "goose": "geese", "scarf": "scarves", "shelf": "shelves",
    "deer": "deer", "piano": "pianos", "library": "libraries", "loaf": "loaves", "thief": "thieves",
}  # fmt: skip


def indefinite_article(following: str) -> str:
    """a or an."""
    return "an" if _AN.match(following) else "a"


def plural_noun(noun: str) -> str:
    """The plural of a noun; of a compound, the plural of its last word."""
    *head, last = noun.split(" ")
    if last in _IRREGULAR_PLURALS:
        last = _IRREGULAR_PLURALS[last]
    elif last.endswith(("s", "x", "ch", "sh", "z")):
        last += "es"
    elif last.endswith("y") and last[-2] not in "aeiou":
        last = last[:-1] + "ies"
    else:
        last += "es" if last in ("tomato", "potato", "hero") else "s"
    return " ".join([*head, last])


@dataclass(frozen=True)
class EnglishNoun:
    """A noun phrase for templates: ``f"{ball:a}"`` gives "a ball"; formats: "" bare, a, the, my, s (plural)."""

    word: str
    adjective: str = ""

    def __format__(self, form: str) -> str:
        return _format_noun(self, form)


@cache
def _format_noun(noun: EnglishNoun, form: str) -> str:
    word = plural_noun(noun.word) if form == "s" else noun.word
    words = f"{noun.adjective} {word}" if noun.adjective else word
    if form == "a":
        return f"{indefinite_article(words)} {words}"
    return words if form in ("", "s") else f"{form} {words}"


@dataclass(frozen=True)
class EnglishVerb:
    """A verb for templates; the format is the same form of "talk": ``f"{run:talking}"`` gives "running"."""

    base: str
    past: str
    ing: str

    def __format__(self, form: str) -> str:
        return {"talk": self.base, "talked": self.past, "talking": self.ing}[form]
