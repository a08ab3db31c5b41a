"""Texts that explain: objects and their uses, animals, how things come about, words in the other language."""

import random
from functools import cache
from typing import Any

from data.demo import english, morphology
from data.demo.lexicon import Animal, Object, animals, lexicon, load_yaml
from data.demo.stories import finish

_OBJECT = {
    "en": [
        "{object:the} is made of {material}. It is used {use}.",
        "People use {object:the} {use}. It is made of {material}.",
        "Most {object:s} are made of {material} and are used {use}.",
        "{object:the} is called {other} in Italian. It is used {use}.",
        "Question: What is {object:the} made of? Answer: {object:the} is made of {material}.",
        "Question: What is {object:the} used for? Answer: {object:the} is used {use}.",
        "Question: How do you say {object} in Italian? Answer: In Italian you say {other}.",
    ],
    "it": [
        "{object:il} è di {material}. Serve {use}.",
        "Si usa {object:il} {use}. È di {material}.",
        "Quasi sempre {object:i} sono di {material} e servono {use}.",
        "{object:il} in inglese si chiama {other}. Serve {use}.",
        "Domanda: Di che cosa è fatt{object:o} {object:il}? Risposta: {object:il} è di {material}.",
        "Domanda: A che cosa serve {object:il}? Risposta: {object:il} serve {use}.",
        "Domanda: Come si dice {object} in inglese? Risposta: In inglese si dice {other}.",
    ],
}
_ANIMAL = {
    "en": [
        "{animal:the} is {kind}. It lives {home} and eats {food}. It {habit}.",
        "{animal:the} lives {home}. It is {kind} that eats {food} and {habit}.",
        "Many {animal:s} live {home}. {animal:a} {habit}.",
        "Question: What does {animal:the} eat? Answer: {animal:the} eats {food}.",
        "Question: Where does {animal:the} live? Answer: {animal:the} lives {home}.",
        "Question: What kind of animal is {animal:the}? Answer: {animal:the} is {kind}.",
    ],
    "it": [
        "{animal:il} è {kind}. Vive {home} e mangia {food}. Inoltre {habit}.",
        "{animal:il} vive {home}. È {kind} che mangia {food} e {habit}.",
        "Molte volte {animal:i} vivono {home}. {animal:un} {habit}.",
        "Domanda: Che cosa mangia {animal:il}? Risposta: {animal:il} mangia {food}.",
        "Domanda: Dove vive {animal:il}? Risposta: {animal:il} vive {home}.",
        "Domanda: Che animale è {animal:il}? Risposta: {animal:il} è {kind}.",
    ],
}
_PROCESS = {
    "en": [
        "{asker} asked {teller} {title}. {teller} knew it well.",
        "{teller} explains to {asker} {title}.",
        "{asker} wrote in the notebook {title}.",
    ],
    "it": [
        "{asker} chiese a {teller} {title}. {teller} lo sapeva bene.",
        "{teller} spiega a {asker} {title}.",
        "{asker} scrisse nel quaderno {title}.",
    ],
}
_ORDER = {
    "en": ["First {}.", "Then {}.", "After that {}.", "Later {}.", "At last {}."],
    "it": ["Prima {}.", "Poi {}.", "Dopo {}.", "Più tardi {}.", "Infine {}."],
}


def about_object(rng: random.Random, thing: Object, language: str) -> str:
    italian = language == "it"
    text = rng.choice(_OBJECT[language]).format(
        object=thing.noun(language),
        material=lexicon().materials[thing.material] if italian else thing.material,
        use=thing.use_it if italian else thing.use_en,
        other=thing.en if italian else thing.it,
    )
    return finish(text, language)


def about_animal(rng: random.Random, animal: Animal, language: str) -> str:
    kind, food, home, habit = animal.facts_it if language == "it" else animal.facts_en
    article = morphology.indefinite_article(kind, "m") if language == "it" else english.indefinite_article(kind)
    text = rng.choice(_ANIMAL[language]).format(
        animal=animal.noun(language), kind=f"{article} {kind}", food=food, home=home, habit=habit
    )
    return finish(text, language)


def lesson(rng: random.Random, language: str) -> str:
    """Three or four short texts about different things and animals."""
    things: list[Object | Animal] = [*rng.sample(lexicon().objects, 2), *rng.sample(animals(), rng.randint(1, 2))]
    rng.shuffle(things)
    return "\n".join(
        about_object(rng, thing, language) if isinstance(thing, Object) else about_animal(rng, thing, language)
        for thing in things
    )


@cache
def _processes() -> list[dict[str, Any]]:
    processes: list[dict[str, Any]] = load_yaml("knowledge.yaml")["processes"]
    return processes


def how_it_works(rng: random.Random, language: str) -> str:
    """Somebody explains how a thing comes about, step by step; a note on an animal keeps two of them apart."""
    asker, teller = rng.sample(lexicon().people, 2)
    process = rng.choice(_processes())[language]
    opening = rng.choice(_PROCESS[language]).format(asker=asker, teller=teller, title=process["title"])
    steps = [order.format(rng.choice(step)) for order, step in zip(_ORDER[language], process["steps"])]
    note = about_animal(rng, rng.choice(animals()), language)
    return finish(" ".join([opening, *steps]), language) + "\n" + note
