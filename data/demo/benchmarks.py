"""Four-choice benchmarks over held-out facts: story cloze (HellaSwag's schema) and reading (ARC's schema)."""

import dataclasses
import random
from typing import Any

from data.demo.expository import QUESTION_KINDS, question_about
from data.demo.stories import Facts, plots, sample_facts, tell


def story_cloze_effect(rng: random.Random, language: str, index: int) -> dict[str, Any]:
    """Which ending follows from the trouble? The wrong ones have the same characters and object, another plot.

    A heuristic that counts shared words gains little here, because every ending names the same entities.
    """
    facts = sample_facts(rng, held_out=True)
    story = tell(facts, language, rng)
    wrong: list[str] = []
    while len(wrong) < 3:
        other = dataclasses.replace(facts, plot=rng.choice(plots()))
        ending = tell(other, language, rng).ending
        if other.plot.key != facts.plot.key and ending not in (story.ending, *wrong):
            wrong.append(ending)
    return _cloze(rng, index, story.context, story.ending, wrong)


def story_cloze_mixed(rng: random.Random, language: str, index: int) -> dict[str, Any]:
    """One wrong outcome for the same characters, one same outcome for others, one of another story of the theme."""
    facts = sample_facts(rng, held_out=True)
    story = tell(facts, language, rng)
    siblings = [plot for plot in plots() if plot.theme == facts.plot.theme and plot.key != facts.plot.key]
    while True:
        others = [sample_facts(rng, held_out=True) for _ in range(2)]
        cast: list[Facts] = [facts, *others]
        if len({f.hero for f in cast}) < 3 or len({f.object for f in cast}) < 3:
            continue
        wrong = [
            tell(dataclasses.replace(facts, plot=rng.choice(siblings)), language, rng).ending,
            tell(dataclasses.replace(others[0], plot=facts.plot), language, rng).ending,
            tell(dataclasses.replace(others[1], plot=rng.choice(siblings)), language, rng).ending,
        ]
        if len({story.ending, *wrong}) == 4:
            return _cloze(rng, index, story.context, story.ending, wrong)


def _cloze(rng: random.Random, index: int, context: str, right: str, wrong: list[str]) -> dict[str, Any]:
    label = rng.randrange(4)
    rng.shuffle(wrong)
    return {"ind": index, "ctx": context, "endings": [*wrong[:label], right, *wrong[label:]], "label": str(label)}


def reading(rng: random.Random, language: str, index: int) -> dict[str, Any]:
    """A question about a held-out story; the choices are answers to the same question about other stories."""
    facts = sample_facts(rng, held_out=True)
    kind = rng.choice(QUESTION_KINDS)
    question, right = question_about(facts, kind, language)
    choices = {right}
    while len(choices) < 4:
        other = sample_facts(rng, held_out=True)
        # The question stays the same: only what it asks for changes.
        other = dataclasses.replace(
            other,
            hero=facts.hero if kind in ("friend", "object") else other.hero,
            object=facts.object if kind == "hero" else other.object,
        )
        if other.friend != other.hero:
            choices.add(question_about(other, kind, language)[1])
    texts = sorted(choices)
    rng.shuffle(texts)
    passage = tell(facts, language, rng).text
    return {
        "id": f"reading-{language}-{index}",
        "question": f"{passage}\n{question}",
        "choices": {"text": texts, "label": list("ABCD")},
        "answerKey": "ABCD"[texts.index(right)],
    }


TASKS = {"story_cloze_effect": story_cloze_effect, "story_cloze_mixed": story_cloze_mixed, "reading": reading}
