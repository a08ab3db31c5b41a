"""Four-choice benchmarks over held-out facts: story cloze (HellaSwag's schema) and reading (ARC's schema)."""

import dataclasses
import random
from typing import Any

from data.demo.reading import scene, story_passage
from data.demo.stories import plots, sample_facts, tell


def story_cloze_effect(rng: random.Random, language: str, index: int) -> dict[str, Any]:
    """Which ending follows from the trouble? The wrong ones have the same characters and object, another plot.

    Counting words shared with the story helps little here, because every ending names the same entities.
    """
    facts = sample_facts(rng, held_out=True)
    story = tell(facts, language, rng)
    others = rng.sample([plot for plot in plots() if plot.key != facts.plot.key], 3)
    wrong = [tell(dataclasses.replace(facts, plot=plot), language, rng).ending for plot in others]
    return _cloze(rng, index, story.context, story.ending, wrong)


def story_cloze_mixed(rng: random.Random, language: str, index: int) -> dict[str, Any]:
    """One wrong outcome for the same characters, the same outcome for others, and another story of the theme."""
    facts = sample_facts(rng, held_out=True)
    story = tell(facts, language, rng)
    siblings = [plot for plot in plots() if plot.theme == facts.plot.theme and plot.key != facts.plot.key]
    while True:
        others = [sample_facts(rng, held_out=True) for _ in range(2)]
        cast = [facts, *others]
        if len({f.hero for f in cast}) == len({f.friend for f in cast}) == len({f.object for f in cast}) == 3:
            break
    wrong = [
        tell(dataclasses.replace(facts, plot=rng.choice(siblings)), language, rng).ending,
        tell(dataclasses.replace(others[0], plot=facts.plot), language, rng).ending,
        tell(dataclasses.replace(others[1], plot=rng.choice(siblings)), language, rng).ending,
    ]
    return _cloze(rng, index, story.context, story.ending, wrong)


def _cloze(rng: random.Random, index: int, context: str, right: str, wrong: list[str]) -> dict[str, Any]:
    label = rng.randrange(4)
    rng.shuffle(wrong)
    return {"ind": index, "ctx": context, "endings": [*wrong[:label], right, *wrong[label:]], "label": str(label)}


def reading(rng: random.Random, language: str, index: int) -> dict[str, Any]:
    """A question about a held-out passage, every second one a scene; the last line of ``question`` is the question."""
    passage = (scene if index % 2 else story_passage)(rng, language, True)
    question = rng.choice(passage.questions)
    texts = [question.answer, *question.wrong]
    rng.shuffle(texts)
    return {
        "id": f"reading-{language}-{index}",
        "question": f"{passage.text}\n{question.question}",
        "choices": {"text": texts, "label": list("ABCD")},
        "answerKey": "ABCD"[texts.index(question.answer)],
    }


TASKS = {"story_cloze_effect": story_cloze_effect, "story_cloze_mixed": story_cloze_mixed, "reading": reading}
