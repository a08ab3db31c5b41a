"""Games of words that children play: roll call, shop, packing a bag. Their echoes teach a small model to copy.

Copying a name or a thing from earlier in the text is the first skill that reading needs. An echo at a short and fixed
distance is the easiest place to learn when to copy; that the model can is the work of ``copying_init``
(docs/lab-notes.md).
"""

import random

from data.demo.lexicon import describe, lexicon
from data.demo.stories import finish

_ROLL = {
    "en": (
        ["{teacher} calls the children.", "In the school {teacher} reads the list.", "The game of {teacher} begins."],
        [
            "{name}? {name} is here.",
            "{name}? {name} says yes.",
            "{name}! {name} stands up.",
            "{name}? {name} raises a hand.",
        ],
    ),
    "it": (
        ["{teacher} chiama i bambini.", "A scuola {teacher} legge la lista.", "Comincia il gioco di {teacher}."],
        [
            "{name}? {name} è qui.",
            "{name}? {name} dice di sì.",
            "{name}! {name} si alza.",
            "{name}? {name} alza la mano.",
        ],
    ),
}
_SHOP = {
    "en": (
        ["{seller} has a small shop.", "At the market {seller} sells old things.", "They play shop with {seller}."],
        [
            "Do you have {thing:a}? {thing:a}, here it is.",
            "I would like {thing:a}. {thing:a} for you.",
            "Is this {thing:a}? {thing:a}, yes.",
        ],
    ),
    "it": (
        [
            "{seller} ha un piccolo negozio.",
            "Al mercato {seller} vende cose vecchie.",
            "Giocano al negozio con {seller}.",
        ],
        [
            "C'è {thing:un}? {thing:un}, ecco.",
            "Vorrei {thing:un}. {thing:un} per te.",
            "È questo {thing:un}? {thing:un}, sì.",
        ],
    ),
}
_PACK = {
    "en": ["In my bag I put {things}.", "I packed my box with {things}.", "I went to the market and bought {things}."],
    "it": ["Nella mia valigia metto {things}.", "Nel mio sacco c'è {things}.", "Al mercato ho comprato {things}."],
}


def roll_call(rng: random.Random, language: str) -> str:
    """Each name is called and answers."""
    teacher, *children = rng.sample(lexicon().people, rng.randint(5, 8))
    openings, answers = _ROLL[language]
    answer = rng.choice(answers)
    lines = [rng.choice(openings).format(teacher=teacher), *(answer.format(name=child) for child in children)]
    return finish(" ".join(lines), language)


def shop(rng: random.Random, language: str) -> str:
    """Each thing is asked for and given."""
    words = lexicon()
    openings, answers = _SHOP[language]
    answer = rng.choice(answers)
    things = [
        describe(thing, rng.choice(words.object_adjectives), language)
        for thing in rng.sample(words.toys, rng.randint(3, 6))
    ]
    lines = [rng.choice(openings).format(seller=rng.choice(words.people)), *(answer.format(thing=t) for t in things)]
    return finish(" ".join(lines), language)


def packing(rng: random.Random, language: str) -> str:
    """Each line says the whole list and adds one thing."""
    words, wording = lexicon(), rng.choice(_PACK[language])
    article = "a" if language == "en" else "un"
    things = [
        format(describe(thing, rng.choice(words.object_adjectives), language), article)
        for thing in rng.sample(words.toys, rng.randint(3, 5))
    ]
    lines = [wording.format(things=_enumerate(things[: n + 1], language)) for n in range(len(things))]
    return finish("\n".join(lines), language)


def _enumerate(words: list[str], language: str) -> str:
    """a, b and c; a, b e c."""
    *head, last = words
    conjunction = "and" if language == "en" else "e"
    return f"{', '.join(head)} {conjunction} {last}" if head else last
