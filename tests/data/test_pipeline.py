"""The tokenize verb from files to mixture, on small inputs: what it makes, when it works, what it refuses."""

import json
import shutil

import numpy as np
import pytest

from data import stage
from data.blocks import text_hash
from data.encode import load_tokenizer
from data.loader import open_mixture
from data.reader import CleanReader
from data.train_tokenizer import train
from duetto.errors import UserError
from duetto.files import read_json, sha256_file


@pytest.fixture
def made(make_run, args, two_sources):
    """A finished run."""
    with make_run(two_sources) as run:
        stage.run(run, args)
    return run


def test_from_sources_to_samples(made):
    mixture = read_json(made.path("tokens", "mixture.json"))
    metrics = made.manifest("tokenize")["metrics"]
    assert metrics["documents"] == 600 and set(metrics["sources"]) == {"en", "it"}
    assert set(mixture["validation"]) == {"en"} and mixture["validation"]["en"]["documents"] == 20
    dataset = open_mixture(made.path("tokens", "mixture.json"), sequence_length=32, seed=1)
    batch = dataset.batch(0, 8)
    assert batch.shape == (8, 33) and batch.dtype == np.int64
    assert dataset.weights["en"] == pytest.approx(0.5, abs=0.01)
    report = read_json(made.path("data", "report.json"))
    assert report["sources"]["en"]["tokens"] == metrics["sources"]["en"]["tokens"]
    page = made.path("data", "report.html").read_text()
    assert "<svg" in page and "Cost of cleaning" in page and "costs.js" in page


def test_every_document_is_in_the_shards_once(made, tmp_path):
    """Decoded from the shards, the documents are those of the input."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(made.path("tokenizer", "tokenizer.json")))
    texts = []
    for shard in made.path("tokens", "en").glob("*.ds"):
        tokens = np.fromfile(shard, "<u2")
        ends = np.fromfile(f"{shard}.index", "<u8").astype(int)
        eos = load_tokenizer(made.path("tokenizer")).eos_id
        for document in np.split(tokens, ends[:-1]):
            assert document[-1] == eos and eos not in document[:-1]
            texts.append(tokenizer.decode(document[:-1].tolist(), skip_special_tokens=False))
    inputs = [json.loads(x)["text"] for p in (tmp_path / "in/en").iterdir() for x in p.read_text().splitlines()]
    assert sorted(texts) == sorted(inputs) and texts != inputs


def test_nothing_changed_nothing_done(made, args, capsys):
    with made as run:
        stage.run(run, args)
    out = capsys.readouterr().out
    assert out.count("unchanged, skipped") == 8 and "starts" not in out


def test_the_same_input_gives_the_same_bytes_in_another_folder(made, make_run, args, two_sources):
    with make_run(two_sources, name="other") as other:
        stage.run(other, args)
    for part in ("tokens", "tokenizer", "data"):
        for path in sorted(made.path(part).rglob("*")):
            if path.is_file() and path.name not in ("costs.json", "costs.js", "report.json", "report.html"):
                assert sha256_file(path) == sha256_file(other.path(path.relative_to(made.root).as_posix())), path


def test_a_change_to_one_source_leaves_the_others(made, make_run, args, two_sources, capsys):
    two_sources["sources"]["it"]["clean"] = ["repair", {"length": {"min_characters": 5}}]
    capsys.readouterr()
    with make_run(two_sources) as run:
        args.only = "clean"
        stage.run(run, args)
    out = capsys.readouterr().out
    assert "clean-en: unchanged, skipped" in out and "clean-it: starts" in out


def test_validation_texts_never_reach_training(make_run, args, two_sources, tmp_path):
    held = (tmp_path / "in" / "validation.jsonl").read_text()
    leak = tmp_path / "in" / "en" / "1.jsonl"
    leak.write_text(leak.read_text() + held.replace(" ", "  "))
    two_sources["validation"]["holdout"] = 0.1
    with make_run(two_sources) as run:
        stage.run(run, args)
        stats = read_json(run.path("data", "en", "stats.json"))
        assert stats["dropped"]["is_validation_text"]["documents"] == 20
        split = {}
        for held_out in (False, True):
            reader = CleanReader("it", run.path("data", "it"), None, 0.1, held_out=held_out)
            split[held_out] = {text_hash(d.text) for d in reader.run()}
        assert len(split[True]) + len(split[False]) == 300 and not split[True] & split[False]
        assert 10 < len(split[True]) < 60
        mixture = read_json(run.path("tokens", "mixture.json"))
        assert mixture["validation"]["it"]["documents"] == len(split[True])
        assert mixture["sources"]["it"]["documents"] == len(split[False])


def test_a_corpus_too_small_for_its_budget(made, make_run, args, two_sources):
    two_sources["stages"][0]["tokens"]["it"] = 10_000_000
    with (
        make_run(two_sources) as run,
        pytest.raises(UserError, match=r"corpus is too small.*source it.*largest budget that fits is [\d,]+"),
    ):
        stage.run(run, args)
    assert run.manifest("tokenize") is None  # the mixture of the other budget does not stay behind


def test_a_corpus_too_small_for_its_vocabulary(make_run, args, two_sources):
    for source in two_sources["sources"].values():
        source["limit"] = 2
    tokenizer = {"train": {"vocab_size": 30_000}}
    from duetto.recipe import TokenizerTraining

    with (
        make_run(two_sources, tokenizer=TokenizerTraining.model_validate(tokenizer)) as run,
        pytest.raises(UserError, match=r"too small to train a tokenizer of 30000 tokens.*vocab_size="),
    ):
        stage.run(run, args)


def test_tokens_of_another_tokenizer_are_refused(made, make_run, args, two_sources, tmp_path):
    train([f"another text {i}" for i in range(100)], 300, tmp_path / "other")
    shards = made.path("tokens", "en", "shards.json")
    record = read_json(shards)
    record["tokenizer_sha256"] = "0" * 64
    shards.write_text(json.dumps(record))
    two_sources["stages"][0]["tokens"]["it"] = 2000  # the mixture is made again, the shards are not
    with made, pytest.raises(UserError, match=r"tokens/en was written with another tokenizer"):
        stage._write_mixture(made, made.recipe.data, made.recipe.data.sources)
    with make_run(two_sources, tokenizer=str(tmp_path / "other")) as run:
        stage.run(run, args)  # another tokenizer in the recipe: the shards are made again
        assert read_json(shards)["tokenizer_sha256"] == load_tokenizer(tmp_path / "other").sha256


def test_a_missing_tokenizer_says_where_to_get_it(make_run, args, two_sources):
    for name, message in (("/nowhere/tokenizer.json", "no such file"), ("org/name", "run `duetto fetch`")):
        with make_run(two_sources, tokenizer=name, name="x") as run, pytest.raises(UserError, match=message):
            args.only = None
            stage.run(run, args)
        shutil.rmtree(run.root)


def test_a_source_that_gives_nothing(make_run, args, two_sources):
    two_sources["sources"]["it"]["clean"] = [{"length": {"min_characters": 100_000}}]
    with (
        make_run(two_sources) as run,
        pytest.raises(UserError, match=r"all 300 documents were dropped \(too_short: 300\)"),
    ):
        stage.run(run, args)
