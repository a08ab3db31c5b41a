"""Which copy of a document stays: hand-checked groups, across files and sources."""

import json
import random

import numpy as np
import pytest

from data import stage
from data.dedup import first_of_cluster
from data.reader import CleanReader
from duetto.files import read_json


def paragraph(seed: int, words: int = 120) -> list[str]:
    r = random.Random(seed)
    return ["".join(r.choice("aeiourstlnmpd") for _ in range(r.randint(2, 9))) for _ in range(words)]


@pytest.fixture
def with_copies(tmp_path, write_jsonl):
    """Two English sources and an Italian one; copies are made by hand."""
    texts = {i: " ".join(paragraph(i)) for i in range(8)}
    near = paragraph(3)
    near[60] = "changed"
    rows = {
        "first": [("a0", texts[0]), ("a1", texts[1]), ("a2", texts[0].replace(" ", "\n")), ("a3", texts[3])],
        "second": [("b0", texts[1]), ("b1", " ".join(near)), ("b2", texts[4]), ("b3", texts[5])],
        "third": [("c0", texts[0]), ("c1", texts[6])],
    }
    for name, documents in rows.items():
        write_jsonl(tmp_path / name / "0.jsonl", [{"id": i, "text": t} for i, t in documents])
    languages = {"first": "en", "second": "en", "third": "it"}
    return {
        "sources": {
            n: {"kind": "jsonl", "path": str(tmp_path / n), "language": languages[n], "clean": []} for n in rows
        },
        "stages": [{"name": "main", "tokens": dict.fromkeys(rows, 10)}],
        "decontaminate": {"enabled": False},
        "executor": {"workers": 1},
    }


def kept(run, name: str) -> list[str]:
    reader = CleanReader(name, run.path("data", name), run.path("data", "dedup", name))
    return [d.id for d in reader.run()]


@pytest.mark.parametrize("minhash", [False, True])
def test_the_first_copy_stays(make_run, args, with_copies, minhash):
    with_copies["dedup"] = {"minhash": minhash}
    with make_run(with_copies) as run:
        args.only = "clean"
        stage.run(run, args)
        args.only = "dedup"
        stage.run(run, args)
        assert kept(run, "first") == ["a0", "a1", "a3"]  # white space alone makes no other document
        assert kept(run, "second") == (["b2", "b3"] if minhash else ["b1", "b2", "b3"])
        assert kept(run, "third") == ["c0", "c1"]  # another language: nothing is compared across them
        summary = read_json(run.path("data", "dedup", "summary.json"))
        assert summary["second"] == {"exact": 1, "minhash": int(minhash)}
        pairs = [json.loads(line) for line in run.path("data", "dedup", "pairs.jsonl").read_text().splitlines()]
        assert ("a2", "a0") in {(p["removed"]["id"], p["kept"]["id"]) for p in pairs}


def test_a_source_may_stay_out(make_run, args, with_copies):
    with_copies["sources"]["second"]["dedup"] = False
    with make_run(with_copies) as run:
        for args.only in ("clean", "dedup"):
            stage.run(run, args)
        assert kept(run, "second") == ["b0", "b1", "b2", "b3"]


def test_clusters_are_transitive_and_named_by_their_first():
    # 5-3, 3-1 and 4-2: three chains into {1, 3, 5}, {2, 4}, {0}
    first = first_of_cluster(np.array([5, 3, 4]), np.array([3, 1, 2]), 6)
    assert first.tolist() == [0, 1, 2, 1, 2, 1]
