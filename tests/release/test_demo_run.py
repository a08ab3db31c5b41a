"""The release of a real run of the demo pipeline: card, lint, report, edge files, push, checkpoints, chat."""

import argparse
import io
import json
import shutil
import time

import pytest

from duetto.cli import DEFAULT_RECIPE
from duetto.recipe import load_recipe
from duetto.run import Run
from release import card_stage, chat, export, push, report
from tests.support.tiny import OVERRIDES

pytestmark = pytest.mark.xdist_group("release-demo")


@pytest.fixture(scope="module")
def demo(tiny_home, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(tiny_home / "tiny", home / "tiny")
    release = ("release.hub_repo=tester/tiny", "release.checkpoints=[16]")
    with Run(load_recipe(DEFAULT_RECIPE, [*OVERRIDES, *release], home=home)) as run:
        started = time.process_time()
        card_stage.run(run, argparse.Namespace(force=False))
        run.card_seconds = time.process_time() - started
        yield run


def test_the_card_follows_from_the_run(demo):
    card_stage.run(demo, argparse.Namespace(force=False, check=True))
    text = demo.path("release", "instruct", "README.md").read_text()
    metrics = json.loads(demo.path("manifests", "pretrain.json").read_text())["metrics"]
    for expected in (f"{metrics['tokens']:,} tokens of pretraining", "story_cloze_effect_it", "muon", "first 8 items"):
        assert expected in text, expected
    assert demo.card_seconds < 10


def test_the_report_is_quick(demo):
    started = time.process_time()
    report.run(demo, argparse.Namespace(live=False, every=30))
    assert time.process_time() - started < 10
    page = demo.path("report", "index.html")
    assert page.stat().st_size < 3_000_000 and "story_cloze_effect_it" in page.read_text()


def test_edge_files_of_the_trained_model(demo):
    pytest.importorskip("xllamacpp")
    export.run(demo, argparse.Namespace(force=False, types=["f16", "q4_0"]))
    for kind in ("base", "instruct"):
        found = json.loads(demo.path("release", "gguf", kind, "export.json").read_text())
        f16 = found["files"]["f16"]
        assert f16["max_gap"] < 0.05 and f16["same_tokenization"] == f16["prompts"]
        assert set(found["original"]["bits_per_byte"]) >= {"en", "it"}


def test_push_with_a_converted_checkpoint(demo, hub, monkeypatch):
    # Twelve steps may well say one token over and over, which the gate rightly refuses (tests/release/test_gates.py).
    monkeypatch.setattr("release.gates.check_samples", lambda folder, languages: {})
    push.run(demo, argparse.Namespace(force=False, public=False, dry_run=False, tag="v1", models=["base"]))
    repo = hub.repos["model", "tester/tiny"]
    assert list(repo.tags) == ["v1"] and "step-16" in repo.branches
    weights = [hub.files("tester/tiny", b)["model.safetensors"].sha256 for b in ("main", "step-16")]
    assert weights[0] != weights[1]


def test_the_first_word_comes_within_a_second(demo, monkeypatch, capsys):
    from release.generation import LoadedModel, Sampling

    model = LoadedModel(demo.path("instruct"))
    started = time.monotonic()
    next(model.stream([{"role": "user", "content": "Raccontami una storia."}], Sampling(16)))
    assert time.monotonic() - started < 1.0
    monkeypatch.setattr("sys.stdin", io.StringIO("Raccontami una storia.\n"))
    usual = {"model": None, "system": "", "max_new_tokens": 12, "temperature": 0.0, "top_p": 1.0, "seed": None}
    chat.run(demo, argparse.Namespace(**usual, web=False))
    assert capsys.readouterr().out.strip()
