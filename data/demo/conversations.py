"""Bilingual conversations for supervised fine-tuning, in the messages format.

Each answer is in the language of its prompt. ``facts`` holds what a right answer must contain, for checkers.
"""

import random
from collections.abc import Callable
from functools import cache
from typing import Any

from data.demo.lexicon import Thing, animals, lexicon, load_yaml
from data.demo.reading import scene, story_passage
from data.demo.stories import finish, is_held_out_key, sample_facts, slots, tell

Turn = tuple[str, str, dict[str, str]]
"""Prompt, answer, facts."""

HELD_OUT_REFUSALS = 4


@cache
def _requests() -> dict[str, dict[str, Any]]:
    requests: dict[str, dict[str, Any]] = load_yaml("requests.yaml")
    return requests


def tell_story(rng: random.Random, language: str, held_out: bool) -> Turn:
    facts = sample_facts(rng, held_out)
    ask = rng.choice(_requests()["tell"][language]).format(**slots(facts, language))
    return ask, tell(facts, language, rng).text, {"hero": facts.hero.name, "object": f"{facts.object.noun(language)}"}


def continue_story(rng: random.Random, language: str, held_out: bool) -> Turn:
    story = tell(sample_facts(rng, held_out), language, rng)
    ask = rng.choice(_requests()["continue"][language]).format(text=story.context)
    return ask, story.ending, {"hero": story.facts.hero.name, "object": f"{story.facts.object.noun(language)}"}


def answer_question(rng: random.Random, language: str, held_out: bool) -> Turn:
    passage = rng.choice((scene, story_passage))(rng, language, held_out)
    question = rng.choice(passage.questions)
    ask = rng.choice(_requests()["question"][language]).format(text=passage.text, question=question.question)
    return ask, question.answer, {"answer": question.key}


def translate_word(rng: random.Random, language: str, held_out: bool) -> Turn:
    """All words are known from training (a word cannot be guessed); held out is the word in this wording."""
    things: list[Thing] = [*lexicon().objects, *animals()]
    wordings = _requests()["translate"][language]
    while True:
        thing, number = rng.choice(things), rng.randrange(len(wordings))
        if is_held_out_key("translate", language, thing.en.word, str(number)) == held_out:
            break
    word, other = (thing.en, thing.it) if language == "en" else (thing.it, thing.en)
    answer = _requests()["translation"][language].format(word=other)
    return wordings[number].format(word=word), answer, {"answer": f"{other}"}


def greet(rng: random.Random, language: str, held_out: bool) -> Turn:
    return rng.choice(_requests()["greet"][language]), _requests()["greeting"][language], {}


def refuse(rng: random.Random, language: str, held_out: bool) -> Turn:
    requests = _requests()["refuse"][language]
    requests = requests[-HELD_OUT_REFUSALS:] if held_out else requests[:-HELD_OUT_REFUSALS]
    answer = _requests()["refusal"][language]
    return rng.choice(requests), answer, {"answer": answer.split(",")[0]}


KINDS: dict[str, tuple[Callable[[random.Random, str, bool], Turn], int]] = {
    "tell": (tell_story, 28),
    "continue": (continue_story, 12),
    "question": (answer_question, 38),
    "translate": (translate_word, 12),
    "refuse": (refuse, 8),
    "greet": (greet, 2),
}
"""Makers of one conversation, with their weights in percent."""


def conversation(rng: random.Random, language: str, held_out: bool, identifier: str) -> dict[str, Any]:
    kind = rng.choices(list(KINDS), [weight for _, weight in KINDS.values()])[0]
    ask, answer, facts = KINDS[kind][0](rng, language, held_out)
    messages = [{"role": "user", "content": finish(ask, language)}, {"role": "assistant", "content": answer}]
    return {"id": identifier, "language": language, "kind": kind, "messages": messages, "facts": facts}
