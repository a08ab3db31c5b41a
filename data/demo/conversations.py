"""Bilingual conversations for supervised fine-tuning, in the messages format.

Each answer is in the language of the prompt. ``facts`` holds what a checker can look for in the answer.
"""

import random
from collections.abc import Callable
from typing import Any

from data.demo.expository import translation
from data.demo.lexicon import lexicon
from data.demo.reading import scene, story_passage
from data.demo.stories import finish, sample_facts, slots, tell

Turn = tuple[str, str, dict[str, str]]

_TELL = {
    "en": ["Tell me a story about {hero} and {described:a}.", "Write a short story with {hero} and {described:a}."],
    "it": ["Raccontami una storia su {hero} e {described:un}.", "Scrivi una breve storia con {hero} e {described:un}."],
}
_CONTINUE = {
    "en": ["How does this story end? {text}", "Continue this story. {text}"],
    "it": ["Come finisce questa storia? {text}", "Continua questa storia. {text}"],
}
_REFUSE = {
    "en": (
        ["What is the weather today?", "Can you drive a car?", "Who will win the match?", "Give me your phone number."],
        "I am sorry, I cannot do that. I can tell a story, answer a question about a text or translate a word.",
    ),
    "it": (
        [
            "Che tempo fa oggi?",
            "Sai guidare la macchina?",
            "Chi vincerà la partita?",
            "Dammi il tuo numero di telefono.",
        ],
        "Mi dispiace, questo non lo so fare. So raccontare storie, rispondere su un testo e tradurre parole.",
    ),
}


def tell_story(rng: random.Random, language: str, held_out: bool) -> Turn:
    facts = sample_facts(rng, held_out)
    ask = rng.choice(_TELL[language]).format(**slots(facts, language))
    return ask, tell(facts, language, rng).text, {"hero": facts.hero.name, "object": f"{facts.object.noun(language)}"}


def continue_story(rng: random.Random, language: str, held_out: bool) -> Turn:
    story = tell(sample_facts(rng, held_out), language, rng)
    ask = rng.choice(_CONTINUE[language]).format(text=story.context)
    return ask, story.ending, {"hero": story.facts.hero.name}


def answer_question(rng: random.Random, language: str, held_out: bool) -> Turn:
    passage = rng.choice((scene, story_passage))(rng, language, held_out)
    question = rng.choice(passage.questions)
    return f"{passage.text} {question.question}", question.answer, {"answer": question.key}


def translate_word(rng: random.Random, language: str, held_out: bool) -> Turn:
    question, answer = translation(rng.choice(lexicon().objects), language)
    return question, answer, {"answer": answer}


def refuse(rng: random.Random, language: str, held_out: bool) -> Turn:
    requests, answer = _REFUSE[language]
    return rng.choice(requests), answer, {"answer": answer}


KINDS: dict[str, tuple[Callable[[random.Random, str, bool], Turn], int]] = {
    "tell": (tell_story, 30),
    "continue": (continue_story, 10),
    "question": (answer_question, 40),
    "translate": (translate_word, 12),
    "refuse": (refuse, 8),
}


def conversation(rng: random.Random, language: str, held_out: bool, identifier: str) -> dict[str, Any]:
    kind = rng.choices(list(KINDS), [weight for _, weight in KINDS.values()])[0]
    ask, answer, facts = KINDS[kind][0](rng, language, held_out)
    messages = [{"role": "user", "content": finish(ask, language)}, {"role": "assistant", "content": answer}]
    return {"id": identifier, "language": language, "kind": kind, "messages": messages, "facts": facts}
