"""The card lint: a number that was changed, a claim that contradicts the run, metadata the Hub would refuse."""

import argparse
import json

import pytest

from duetto.errors import UserError
from release import card_stage
from release.lint import lint
from release.metadata import problems
from release.statements import read_number


def change(run, old, new, name="README.md", kind="instruct"):
    file = run.path("release", kind, name)
    text = file.read_text()
    assert text.count(old) >= 1, old
    file.write_text(text.replace(old, new, 1))
    return "\n".join(str(p) for p in lint(run, kind))


def test_a_fresh_card_passes(released):
    run = released()
    assert lint(run, "base") == [] and lint(run, "instruct") == []
    card_stage.run(run, argparse.Namespace(force=False, check=True))


FALSE_NUMBERS = [
    ("README.md", "82,240 parameters", "92,240 parameters", "release"),
    (
        "README.md",
        "| Context length | 512 tokens",
        "| Context length | 4,096 tokens",
        "config.json#/max_position_embeddings",
    ),
    ("README.md", "1,000,000 tokens |", "1,000,000,000 tokens |", "tokenize.json#/metrics/tokens"),
    ("README.md", "12,800 tokens of pretraining", "12,900 tokens of pretraining", "pretrain.json#/metrics/tokens"),
    ("README.md", "0.790 ± 0.020", "0.890 ± 0.020", "eval/instruct/cloze_en.json#/value"),
    ("README.md", "| Peak learning rate | 0.003", "| Peak learning rate | 0.03", "learning_rate"),
    ("README.md", "is 3.1e-06", "is 3.1e-09", "parity.json#/max_abs_logit_difference"),
    ("README.it.md", "0,790 ± 0,020", "0,890 ± 0,020", "eval/instruct/cloze_en.json#/value"),
    ("README.it.md", "1.000.000 token", "2.000.000 token", "tokenize.json#/metrics/tokens"),
    ("README.md", "0.0067 kWh", "0.0006 kWh", "seconds"),
]


@pytest.mark.parametrize(("name", "old", "new", "source"), FALSE_NUMBERS)
def test_a_false_number_fails_and_its_source_is_named(released, name, old, new, source):
    run = released()
    if source == "release":
        source = "instruct/*.safetensors#/parameters"
    told = change(run, old, new, name)
    assert source in told and f"{name}:" in told, told
    with pytest.raises(UserError, match="problem"):
        card_stage.run(run, argparse.Namespace(force=False, check=True))


def test_two_scores_exchanged_fail(released):
    run = released()
    told = change(run, "| cloze_en | acc_norm | 0 | 0.790", "| cloze_en | acc_norm | 0 | 0.690")
    assert "says 0.690" in told and "cloze_en.json#/value" in told


CLAIMS = [
    ("It has 437 million parameters.", "parameters"),
    ("A model of 0.4B parameters.", "parameters"),
    ("Its context is 8k tokens.", "context length"),
    ("It was trained on 1 trillion tokens.", "training tokens"),
    ("It uses a cosine learning rate decay in pretraining, then 1-sqrt decay.", "1-sqrt decay"),
    ("It has 32 layers.", "layers"),
    ("On cloze_en it reaches 0.93.", "score of cloze_en"),
    ("On cloze_it it reaches 88 %.", "score of cloze_it"),
]


@pytest.mark.parametrize(("text", "about"), CLAIMS)
def test_free_text_that_contradicts_the_run_fails_the_card(a_run, text, about, capsys):
    with pytest.raises(UserError, match=r"problem\(s\) in the card"):
        card_stage.run(a_run(limits=text), argparse.Namespace(force=False))
    out = capsys.readouterr().out
    assert "recipe: release.limits" in out and about in out


@pytest.mark.parametrize(
    "text",
    [
        "It has 82 thousand parameters in 2 layers, and a context of 512 tokens.",
        "It was trained for 50 steps with a linear decay and tuned with a cosine schedule.",
        "On cloze_en it reaches 79 %, against 0.81 of the base model.",
        "Llama-3.2 and GPT-4 know more; see arXiv:2305.16264.",
    ],
)
def test_free_text_that_agrees_passes(a_run, text):
    card_stage.run(a_run(limits=text), argparse.Namespace(force=False))


def test_italian_claims_are_read_too(a_run, capsys):
    text = {"en": "Small.", "it": "Ha 437,8 milioni di parametri e un contesto di 4.096 token."}
    with pytest.raises(UserError, match="problem"):
        card_stage.run(a_run(limits=text), argparse.Namespace(force=False))
    assert "contesto di 4.096 token" in capsys.readouterr().out


def test_new_prose_may_come_but_not_new_numbers(released):
    run = released()
    assert change(run, "## Limits and risks\n", "## Limits and risks\n\nHandle with care.\n") == ""
    assert "99 comes from no manifest" in change(run, "Handle with care.", "Wins 99 of the comparisons.")


def test_a_missing_section_fails(released):
    run = released()
    assert "section 'Limits and risks' is missing" in change(run, "## Limits and risks\n", "")


def test_a_result_that_changed_later_makes_the_card_stale(released):
    run = released()
    file = run.path("manifests", "pretrain.json")
    manifest = json.loads(file.read_text())
    manifest["metrics"]["tokens"] = 99_999
    file.write_text(json.dumps(manifest))
    told = "\n".join(str(p) for p in lint(run, "base"))
    assert "manifests/pretrain.json: changed after the card was made" in told
    assert "says 12,800 where manifests/pretrain.json#/metrics/tokens gives 99,999" in told


METADATA = [
    ("license: apache-2.0", "license: my-own", "license 'my-own' is not on the Hub's list"),
    ("- en\n- it", "- english", "language 'english' is no ISO 639 code"),
    ("value: 0.79", "value: 0.97", "metadata: model-index.Tiny-Duo-instruct.results.cloze_en.metrics"),
    ("base_model: tester/tiny-duo", "base_model: 'a--b'", "is no Hub id"),
    ("pipeline_tag: text-generation\n", "", "pipeline_tag is missing"),
    ("---\nbase_model", "--\nbase_model", "no metadata block"),
]


@pytest.mark.parametrize(("old", "new", "message"), METADATA)
def test_metadata(released, old, new, message):
    run = released()
    told = change(run, old, new)
    assert message.split("model-index.")[0] in told, told


def test_metadata_rules():
    good = {"language": "it", "license": "mit", "library_name": "transformers", "tags": ["a"]}
    good["pipeline_tag"] = "text-generation"
    assert list(problems(good)) == []
    assert any("license_name" in p for p in problems({**good, "license": "other"}))
    entry = {"task": {"type": "t"}, "dataset": {"type": "d", "name": "d"}, "metrics": [{"type": "acc", "value": 0.5}]}
    index = [{"name": "m", "results": [entry, entry]}]
    assert any("twice" in p for p in problems({**good, "model-index": index}))
    index = [{"name": "m", "results": [{**entry, "metrics": [{"type": "acc", "value": "high"}]}]}]
    assert any("lacks a type or a number" in p for p in problems({**good, "model-index": index}))


@pytest.mark.parametrize(
    ("text", "scale", "language", "value", "margin"),
    [
        ("0.44", "b", "en", 0.44e9, 0.005e9),
        ("437,8", "milioni", "it", 437.8e6, 0.05e6),
        ("4,096", None, "en", 4096, 0.5),
        ("4.096", None, "it", 4096, 0.5),
        ("1e-3", None, "en", 0.001, 0.0005),
    ],
)
def test_numbers_are_read_with_the_precision_they_are_written(text, scale, language, value, margin):
    assert read_number(text, scale, language) == pytest.approx((value, margin))
