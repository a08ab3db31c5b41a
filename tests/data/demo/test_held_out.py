"""Nothing that is held out is told in training: read off the written files, not off the code that writes them."""

import hashlib
import itertools
import re
from collections import Counter
from typing import Any

import pytest

from data.demo.lexicon import Person, animals, lexicon
from data.demo.reading import CHOICES
from data.demo.stories import Facts, finish, plots, slots

Key = tuple[str, str, str, str]


def held_out(key: Key) -> bool:
    """The split as the design states it, written a second time."""
    return int(hashlib.md5("|".join(key).encode()).hexdigest(), 16) % 20 == 0


class Reader:
    """Recovers (hero, friend, object, plot) from the last sentences of a story."""

    def __init__(self, language: str) -> None:
        words = lexicon()
        self.genders = {person.name: person.gender for person in words.people}
        self.names = re.compile(r"\b(" + "|".join(self.genders) + r")\b")
        self.endings: dict[tuple[str, str, str], set[tuple[str, str]]] = {}
        for hero, friend in itertools.product("mf", repeat=2):
            for thing, plot in itertools.product(words.objects, plots()):
                facts = Facts(
                    Person("HERO", hero), Person("FRIEND", friend), thing, words.places[0],
                    words.object_adjectives[0], words.traits[0], words.activities[0], plot,
                )  # fmt: skip
                fill = slots(facts, language)
                for ending in plot.end[language]:
                    text = finish(ending.format(**fill), language)
                    # "ad Anna" depends on the name: the d is dropped on both sides.
                    key = (hero, friend, re.sub(r"\b([ae])d\b", r"\1", text))
                    self.endings.setdefault(key, set()).add((thing.en.word, plot.key))

    def read(self, story: str) -> set[Key]:
        names = sorted(set(self.names.findall(story)))
        if len(names) != 2:
            return set()
        sentences = re.split(r"(?<=[.?!]) ", story)
        found = set()
        for hero, friend in (names, names[::-1]):
            for count in (1, 2, 3):
                tail = " ".join(sentences[-count:])
                tail = self.names.sub(lambda m, hero=hero: "HERO" if m.group() == hero else "FRIEND", tail)  # type: ignore[misc]
                tail = re.sub(r"\b([ae])d\b", r"\1", tail)
                for thing, plot in self.endings.get((self.genders[hero], self.genders[friend], tail), ()):
                    found.add((hero, friend, thing, plot))
        return found


@pytest.fixture(scope="module", params=["en", "it"])
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def reader(language: str) -> Reader:
    return Reader(language)


def stories_of(rows: list[dict[str, Any]]) -> list[str]:
    """The stories of web pages: alone, three on a page, or before questions."""
    stories = []
    for row in rows:
        kind = row["id"].split("/")[-1].split("-")[0]
        if kind in ("story", "episodes"):
            stories += row["text"].split("\n")
        elif kind == "reading":
            stories.append(row["text"].split("\n")[0])
    return stories


def pages(corpus: Any, language: str) -> list[dict[str, Any]]:
    return [row for part in (0, 1) for row in corpus.rows(f"web_{language}/pages-{part}.jsonl")]


def test_no_held_out_story_on_the_web_pages(corpus: Any, reader: Reader, language: str) -> None:
    rows = pages(corpus, language)
    stories = stories_of([row for row in rows if "/reading-" not in row["id"]])
    keys = [reader.read(story) for story in stories]
    assert sum(len(found) == 1 for found in keys) > 0.99 * len(keys)  # the reader does read them
    keys += [reader.read(story) for story in stories_of([row for row in rows if "/reading-" in row["id"]])]
    assert not any(held_out(key) for found in keys for key in found)


def test_no_held_out_story_in_training_conversations(corpus: Any, reader: Reader, language: str) -> None:
    rows = [row for row in corpus.rows("sft/train.jsonl") if row["language"] == language]
    told = [row["messages"][1]["content"] for row in rows if row["kind"] == "tell"]
    # The prompt of a continuation ends or begins with a request; the names of the story are in its middle.
    continued = [
        next(s for s in row["messages"][0]["content"].split("\n")) + " " + row["messages"][1]["content"]
        for row in rows
        if row["kind"] == "continue"
    ]
    keys = [reader.read(story) for story in told + continued]
    assert sum(len(found) == 1 for found in keys) > 0.99 * len(keys)
    assert not any(held_out(key) for found in keys for key in found)


def test_held_out_parts_hold_only_held_out_stories(corpus: Any, reader: Reader, language: str) -> None:
    stories = [row["text"] for row in corpus.rows(f"validation/{language}.jsonl")]
    for task in ("effect", "mixed"):
        for row in corpus.rows(f"benchmarks/story_cloze_{task}_{language}.jsonl"):
            stories.append(row["ctx"] + " " + row["endings"][int(row["label"])])
    for row in corpus.rows("sft/heldout.jsonl"):
        if row["language"] == language and row["kind"] == "tell":
            stories.append(row["messages"][1]["content"])
    keys = [reader.read(story) for story in stories]
    assert sum(len(found) == 1 for found in keys) > 0.99 * len(keys)
    assert all(held_out(key) for found in keys for key in found)


def test_scenes_are_split_by_their_first_two_people_and_first_thing(corpus: Any, language: str) -> None:
    things = {f" {thing.noun(language)} ": thing.en.word for thing in lexicon().objects}
    people = "|".join(person.name for person in lexicon().people)

    def key(text: str) -> Key | None:
        names = re.findall(rf"\b(?:{people})\b", text)
        if len(names) != CHOICES or len(set(names)) != CHOICES:
            return None
        padded = re.sub(r"[.,']", " ", text).replace("  ", " ") + " "
        found = sorted((padded.find(word), thing) for word, thing in things.items() if word in padded)
        return (names[0], names[1], found[0][1], "scene-things") if found else None

    rows = pages(corpus, language)
    training = [key(row["text"].split("\n")[0]) for row in rows if "/reading-" in row["id"]]
    assert sum(k is not None for k in training) > 300
    assert not any(held_out(k) for k in training if k)
    benchmark = [key(row["question"].split("\n")[0]) for row in corpus.rows(f"benchmarks/reading_{language}.jsonl")]
    assert sum(k is not None for k in benchmark) > 30
    assert all(held_out(k) for k in benchmark if k)


def test_no_held_out_text_is_in_training(corpus: Any, language: str) -> None:
    """Word for word: stories, contexts, passages and conversations of the held-out parts."""
    known = set(corpus.training_texts(language)) | set(stories_of(pages(corpus, language)))
    asked = {row["messages"][0]["content"] for row in corpus.rows("sft/train.jsonl")}
    for row in corpus.rows(f"validation/{language}.jsonl"):
        assert row["text"] not in known
    for task in ("effect", "mixed"):
        for row in corpus.rows(f"benchmarks/story_cloze_{task}_{language}.jsonl"):
            assert f"{row['ctx']} {row['endings'][int(row['label'])]}" not in known
    for row in corpus.rows(f"benchmarks/reading_{language}.jsonl"):
        assert row["question"].split("\n")[0] not in known
    heldout = [row for row in corpus.rows("sft/heldout.jsonl") if row["kind"] not in ("greet", "tell")]
    repeated = Counter(row["kind"] for row in heldout if row["messages"][0]["content"] in asked)
    assert not repeated


def test_the_closed_vocabulary_is_what_the_words_say() -> None:
    """Words cannot be held out (a translation cannot be guessed): every one of them is in the lexicon once."""
    words = [thing.en.word for thing in (*lexicon().objects, *animals())]
    assert len(set(words)) == len(words)
