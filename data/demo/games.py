"""Games of words that children play: packing a bag, roll call. Their repetitions teach a small model to copy.

Copying a name or a thing from earlier in the text is the first skill that reading needs, and stories alone are slow to
teach it (docs/lab-notes.md has the numbers).
"""

import random

from data.demo.lexicon import describe, lexicon
from data.demo.stories import finish

_PACK = {
    "en": ["In my bag I put {things}.", "I packed my box with {things}.", "I went to the market and bought {things}."],
    "it": ["Nella mia valigia metto {things}.", "Nel mio sacco c'è {things}.", "Al mercato ho comprato {things}."],
}
_ROLL = {
    "en": [
        "{teacher} calls the children: {names}. The children come in one by one: {names}.",
        "{names} stand in a row. {teacher} counts them: {names}. Nobody is missing.",
        "{teacher} reads the list: {names}. Then {teacher} reads it once more: {names}.",
    ],
    "it": [
        "{teacher} chiama i bambini: {names}. I bambini entrano uno alla volta: {names}.",
        "{names} sono in fila. {teacher} li conta: {names}. Non manca nessuno.",
        "{teacher} legge la lista: {names}. Poi {teacher} la legge ancora: {names}.",
    ],
}


def packing_game(rng: random.Random, language: str) -> str:
    """Each line says the whole list and adds one thing."""
    words, wording = lexicon(), rng.choice(_PACK[language])
    article = "a" if language == "en" else "un"
    things = [
        format(describe(thing, rng.choice(words.object_adjectives), language), article)
        for thing in rng.sample(words.objects, rng.randint(3, 5))
    ]
    lines = [wording.format(things=enumerate_words(things[: n + 1], language)) for n in range(len(things))]
    return finish("\n".join(lines), language)


def roll_call(rng: random.Random, language: str) -> str:
    """A list of names, said twice."""
    teacher, *children = rng.sample(lexicon().people, rng.randint(4, 7))
    names = enumerate_words([child.name for child in children], language)
    return finish(rng.choice(_ROLL[language]).format(teacher=teacher, names=names), language)


def enumerate_words(words: list[str], language: str) -> str:
    """a, b and c; a, b e c."""
    *head, last = words
    conjunction = "and" if language == "en" else "e"
    return f"{', '.join(head)} {conjunction} {last}" if head else last
