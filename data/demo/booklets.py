"""What an Italian reading booklet holds: stories of one child, in chapters, and pages that explain things."""

import random

from data.demo.expository import how_it_works, lesson
from data.demo.lexicon import lexicon
from data.demo.stories import finish, sample_facts, slots, tell

_TITLES = ["Le storie di {hero}", "Il quaderno di {hero}", "{hero} e gli amici", "Le giornate di {hero}"]
_CHAPTERS = ["{hero} e {object:il}", "{friend} e {object:il}", "{hero} e {friend}", "{described:il}"]
_PAGES = ["Cose e animali", "Lo sapevi?", "Parole e cose", "Come funziona?"]


def booklet(rng: random.Random, number: int) -> tuple[str, list[tuple[str, str]]]:
    """Title and sections (heading, text) of one booklet, of training facts only."""
    hero = rng.choice(lexicon().people)
    sections = []
    for _ in range(rng.randint(12, 18)):
        facts = sample_facts(rng, held_out=False, hero=hero)
        heading = rng.choice(_CHAPTERS).format(**slots(facts, "it"))
        sections.append((finish(heading, "it"), tell(facts, "it", rng).text))
    for page in rng.sample(_PAGES * 2, 6):
        explain = how_it_works if page == "Come funziona?" else lesson
        sections.insert(rng.randint(1, len(sections)), (page, explain(rng, "it")))
    title = finish(rng.choice(_TITLES).format(hero=hero), "it")
    return f"{title} - {number}", [(f"{i}. {heading}", text) for i, (heading, text) in enumerate(sections, 1)]
