"""Overlap with benchmark items: hand-made items, documents that hold them and documents that only look like it."""

import json

import pytest

from data import stage
from data.decontaminate import Benchmarks
from duetto.files import read_json

STORY = "The tall keeper of the northern lighthouse counted seven ships before the storm reached the bay that night."
SHORT = "Which gas do green plants take in from the air?"


@pytest.fixture
def items(tmp_path, write_jsonl):
    cloze = [{"ind": 4, "ctx": STORY, "endings": ["He lit the lamp.", "He slept."], "label": "0"}]
    arc = [
        {"id": "q7", "question": SHORT, "choices": {"text": ["oxygen", "carbon dioxide"], "label": ["A", "B"]}},
        {"id": "q8", "question": "Too short?", "choices": {"text": ["yes", "no"], "label": ["A", "B"]}},
    ]
    return {
        "cloze_en": str(write_jsonl(tmp_path / "b" / "cloze.jsonl", cloze)),
        "arc_en": str(write_jsonl(tmp_path / "b" / "arc.jsonl", arc)),
    }


def test_finds_items_whatever_their_dress(items):
    found = Benchmarks(items, 13)
    assert found.items == [("cloze_en", "4"), ("arc_en", "q7")] and found.too_short == {"arc_en": 1}

    def names(text):
        return {found.items[i] for i in found.find(text)}

    assert names("Preface. " + STORY.upper().replace(" ", "\n") + " Epilogue.") == {("cloze_en", "4")}
    assert names(STORY.replace("seven", "eight")) == set()  # no run of thirteen words is left
    assert names("a " + SHORT + " (oxygen) [carbon dioxide] b") == {("arc_en", "q7")}
    assert names(SHORT) == set()  # without its choices it is a sentence like others
    assert names("") == set()


def test_share_of_the_item(items):
    benchmarks = Benchmarks(items, 13)
    (share,) = benchmarks.find(STORY).values()
    assert share == 1.0
    first_half = " ".join(STORY.split()[:15])
    (share,) = benchmarks.find(first_half).values()
    assert 0 < share < 1


def test_accents_and_elisions(tmp_path, write_jsonl):
    text = "Perché l'uccellino è così felice? Perché la città è già piena di fiori e di luce."
    path = write_jsonl(tmp_path / "it.jsonl", [{"id": "1", "question": text}])
    found = Benchmarks({"it": str(path)}, 13)
    assert found.find(text.replace("è", "e").replace("é", "e'").replace("'", "’")) != {}


def test_contaminated_documents_are_dropped_and_counted(make_run, args, two_sources, items, tmp_path, write_jsonl):
    path = tmp_path / "in" / "en" / "0.jsonl"
    path.write_text(path.read_text() + json.dumps({"id": "leak", "text": "We read: " + STORY}) + "\n")
    two_sources["decontaminate"] = {"files": list(items.values())}
    with make_run(two_sources) as run:
        args.only = "clean"
        stage.run(run, args)
        stats = read_json(run.path("data", "en", "stats.json"))
        assert stats["dropped"]["contaminated:cloze"]["documents"] == 1
        assert stats["dropped"]["contaminated:cloze"]["examples"][0]["id"] == "leak"
        assert stats["contaminated_items"] == {"arc": [], "cloze": ["4"]}
        assert read_json(run.path("data", "it", "stats.json"))["contaminated_items"] == {"arc": [], "cloze": []}
