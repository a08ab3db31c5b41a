"""Passages with questions whose answers stand in the passage: stories, and scenes of four friends.

Every choice of a scene's question is named in the passage, so that counting shared words does not answer it: the
reader has to find who goes with what.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data.demo.lexicon import describe, lexicon
from data.demo.stories import finish, is_held_out_key, sample_facts, slots, tell

ASK = {"en": ("Question", "Answer"), "it": ("Domanda", "Risposta")}
CHOICES = 4
"""People in a scene, and choices of a question."""


@dataclass(frozen=True)
class Question:
    question: str
    answer: str
    """A full sentence."""
    key: str
    """The words of the answer that make it right: a name, a thing, a place."""
    wrong: tuple[str, ...]
    """The same sentence about three other candidates."""


@dataclass(frozen=True)
class Passage:
    text: str
    questions: tuple[Question, ...]


# (question, answer, the slot that the answer turns on)
About = tuple[str, str, str]

_ABOUT_STORY: dict[str, list[About]] = {
    "en": [
        ("Who was with {hero}?", "It was {friend}.", "friend"),
        ("Where were {hero} and {friend}?", "They were {there}.", "there"),
        ("What did {hero} have?", "{hero:he} had {described:a}.", "described"),
        ("Who had the {object}?", "It was {hero}.", "hero"),
    ],
    "it": [
        ("Chi era con {hero}?", "Era {friend}.", "friend"),
        ("Dove erano {hero} e {friend}?", "Erano {there}.", "there"),
        ("Che cosa aveva {hero}?", "Aveva {described:un}.", "described"),
        ("Chi aveva {object:il}?", "Era {hero}.", "hero"),
    ],
}

# Kind of scene -> (openings, wordings of one fact, questions about it).
_SCENES: dict[str, dict[str, tuple[list[str], list[str], list[About]]]] = {
    "en": {
        "things": (
            ["Four friends met {where}.", "Four children were {where}.", "There was a party {where}."],
            ["{who} had {described:a}.", "{who} was holding {described:a}.", "{who} came with {described:a}."],
            [
                ("Who had the {thing}?", "It was {who}.", "who"),
                ("What did {who} have?", "{who:he} had {described:a}.", "described"),
            ],
        ),
        "places": (
            ["On Sunday the children were not together.", "It was a sunny day.", "Nobody stayed at home."],
            ["{who} was {where}.", "{who} stayed {where}.", "{who} played {where}."],
            [
                ("Who was {where}?", "It was {who}.", "who"),
                ("Where was {who}?", "{who:he} was {where}.", "where"),
            ],
        ),
    },
    "it": {
        "things": (
            ["Quattro amici erano {where}.", "Quattro bambini andarono {where}.", "C'era una festa {where}."],
            ["{who} aveva {described:un}.", "{who} teneva {described:un}.", "{who} venne con {described:un}."],
            [
                ("Chi aveva {thing:il}?", "Era {who}.", "who"),
                ("Che cosa aveva {who}?", "Aveva {described:un}.", "described"),
            ],
        ),
        "places": (
            ["Domenica i bambini non erano insieme.", "Era una bella giornata.", "Nessuno restò a casa."],
            ["{who} era {where}.", "{who} stava {where}.", "{who} giocava {where}."],
            [
                ("Chi era {where}?", "Era {who}.", "who"),
                ("Dove era {who}?", "Era {where}.", "where"),
            ],
        ),
    },
}


def scene(rng: random.Random, language: str, held_out: bool) -> Passage:
    """Four friends, each with a thing or each in another place, and two questions about two of them."""
    words = lexicon()
    kind = rng.choice(("things", "places"))
    things, places = rng.sample(words.toys, CHOICES), rng.sample(words.places, CHOICES + 1)
    while True:
        friends = rng.sample(words.people, CHOICES)
        if is_held_out_key(friends[0].name, friends[1].name, things[0].en.word, f"scene-{kind}") == held_out:
            break
    fills = [
        {
            "who": who,
            "thing": thing.noun(language),
            "described": describe(thing, rng.choice(words.object_adjectives), language),
            "where": place.there(language),
        }
        for who, thing, place in zip(friends, things, places)
    ]
    openings, wordings, about = _SCENES[language][kind]
    wording = rng.choice(wordings)
    opening = rng.choice(openings).format(where=places[-1].there(language))
    sentences = [opening, *(wording.format(**fill) for fill in fills)]
    asked = rng.sample(range(CHOICES), len(about))
    questions = [
        _question(template, fills[i], [*fills[:i], *fills[i + 1 :]], language) for template, i in zip(about, asked)
    ]
    rng.shuffle(questions)
    return Passage(finish(" ".join(sentences), language), tuple(questions))


def story_passage(rng: random.Random, language: str, held_out: bool) -> Passage:
    """A story and two questions; one wrong choice of each is in the story where the story has one."""
    facts = sample_facts(rng, held_out)
    fill = slots(facts, language)
    others: list[dict[str, object]] = []
    while len(others) < CHOICES - 1:
        other = slots(sample_facts(rng, held_out), language)
        cast = [fill, *others]
        people = [c[role] for c in cast for role in ("hero", "friend")]
        strangers = other["hero"] not in people and other["friend"] not in people
        if strangers and all(other[slot] not in [c[slot] for c in cast] for slot in ("object", "there")):
            others.append(other)
    others[0] = {**others[0], "hero": fill["friend"]}
    questions = [_question(about, fill, others, language) for about in rng.sample(_ABOUT_STORY[language], 2)]
    return Passage(tell(facts, language, rng).text, tuple(questions))


def _question(
    about: About, fill: Mapping[str, object], others: Sequence[Mapping[str, object]], language: str
) -> Question:
    question, answer, turn = about
    wrong = tuple(finish(answer.format(**{**fill, turn: other[turn]}), language) for other in others)
    right = finish(answer.format(**fill), language)
    return Question(finish(question.format(**fill), language), right, f"{fill[turn]}", wrong)


def write_questions(passage: Passage, language: str) -> str:
    """A training document: the passage, then a line for each question with its answer."""
    ask, reply = ASK[language]
    return "\n".join([passage.text, *(f"{ask}: {q.question} {reply}: {q.answer}" for q in passage.questions)])
