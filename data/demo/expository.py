"""Texts that explain: objects and their uses, words in the other language, questions and answers about a text."""

import random

from data.demo.lexicon import Object, lexicon
from data.demo.morphology import ItalianNoun
from data.demo.stories import Facts, sample_facts, sentence_case, slots, tell

ASK = {"en": ("Question", "Answer"), "it": ("Domanda", "Risposta")}

_ABOUT_STORY = {
    "en": {
        "friend": ("Who was with {hero}?", "{friend} was with {hero}."),
        "place": ("Where were {hero} and {friend}?", "They were {at} {place:the}."),
        "object": ("What did {hero} have?", "{hero} had {described:a}."),
        "hero": ("Who had the {object}?", "{hero} had {object:the}."),
    },
    "it": {
        "friend": ("Chi era con {hero}?", "{friend} era con {hero}."),
        "place": ("Dove erano {hero} e {friend}?", "Erano {place:nel}."),
        "object": ("Che cosa aveva {hero}?", "{hero} aveva {described:un}."),
        "hero": ("Chi aveva {object:il}?", "{hero} aveva {object:il}."),
    },
}
QUESTION_KINDS = tuple(_ABOUT_STORY["en"])


def question_about(facts: Facts, kind: str, language: str) -> tuple[str, str]:
    """A question that the story answers, with its answer."""
    fill = slots(facts, language)
    question, answer = (sentence_case(t.format(**fill)) for t in _ABOUT_STORY[language][kind])
    return question, answer


def write_question(question: str, answer: str, language: str) -> str:
    ask, reply = ASK[language]
    return f"{ask}: {question} {reply}: {answer}"


def story_with_questions(rng: random.Random, language: str, count: int = 2) -> str:
    """A training story followed by questions about it."""
    facts = sample_facts(rng, held_out=False)
    story = tell(facts, language, rng)
    pairs = [question_about(facts, kind, language) for kind in rng.sample(QUESTION_KINDS, count)]
    return "\n".join([story.text, *(write_question(*pair, language) for pair in pairs)])


_ABOUT_OBJECT = {
    "en": [
        "Question: What is {object:the} made of? Answer: {object:the} is made of {material}.",
        "Question: What is {object:the} used for? Answer: {object:the} is used {use}.",
        "Question: How do you say {object} in Italian? Answer: In Italian you say {other}.",
        "{object:the} is made of {material}. People use it {use}.",
        "Most {object:s} are made of {material}. A {object} is used {use}.",
    ],
    "it": [
        "Domanda: Di che cosa è fatt{object:o} {object:il}? Risposta: {object:il} è di {material}.",
        "Domanda: A che cosa serve {object:il}? Risposta: {object:il} serve {use}.",
        "Domanda: Come si dice {object} in inglese? Risposta: In inglese si dice {other}.",
        "{object:il} è di {material}. Si usa {use}.",
        "{object:i} sono di {material}. {object:un} serve {use}.",
    ],
}


def about_object(rng: random.Random, thing: Object, language: str) -> str:
    italian = language == "it"
    template = rng.choice(_ABOUT_OBJECT[language]).replace("A {object}", "{object:a}")
    text = template.format(
        object=thing.noun(language),
        material=lexicon().materials[thing.material] if italian else thing.material,
        use=thing.use_it if italian else thing.use_en,
        other=thing.en.word if italian else thing.it.word,
    )
    return sentence_case(text)


def object_lesson(rng: random.Random, language: str) -> str:
    """Three short statements about objects."""
    return "\n".join(about_object(rng, thing, language) for thing in rng.sample(lexicon().objects, 3))


def translate(thing: Object, language: str) -> tuple[str, str]:
    """A request for a word in the other language, and the answer."""
    assert isinstance(thing.it, ItalianNoun)
    if language == "en":
        return f"How do you say {thing.en} in Italian?", f"In Italian you say {thing.it}."
    return f"Come si dice {thing.it} in inglese?", f"In inglese si dice {thing.en}."
