"""The card: built from the run's files, in two languages, with every number traced."""

import argparse
import json
from pathlib import Path

import pytest

from duetto.errors import UserError
from release import card_stage

ARGS = argparse.Namespace(force=False)


def test_release_folder_holds_what_is_pushed(released):
    run = released()
    for kind in ("base", "instruct"):
        folder = run.path("release", kind)
        names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
        assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "card.json"} <= names
        assert {"README.md", "README.it.md", "training_config.yaml", "eval/cloze_it.json"} <= names
        assert ("chat_template.jinja" in names) == (kind == "instruct")
        text = "".join((folder / n).read_text() for n in names if n.endswith((".md", ".json", ".yaml")))
        assert str(run.root) not in text and "secret-host" not in text


def test_second_run_is_skipped(released, capsys):
    run = released()
    before = run.path("release", "base", "README.md").stat().st_mtime_ns
    card_stage.run(run, ARGS)
    assert "card: unchanged, skipped" in capsys.readouterr().out
    assert run.path("release", "base", "README.md").stat().st_mtime_ns == before


def test_metadata_is_what_the_hub_reads(released):
    run = released()
    from huggingface_hub import ModelCard

    data = ModelCard.load(run.path("release", "instruct", "README.md")).data
    assert data.language == ["en", "it"] and data.license == "apache-2.0"
    assert data.base_model == "tester/tiny-duo" and data.pipeline_tag == "text-generation"
    assert {r.dataset_name: r.metric_value for r in data.eval_results} == {
        "cloze_en": 0.79,
        "cloze_it": 0.69,
        "reading_en": 0.41,
        "reading_it": 0.23,
    }


def test_numbers_are_the_run_s(released):
    run = released()
    text = run.path("release", "instruct", "README.md").read_text()
    for expected in ("1,000,000 tokens", "| web_en | 1,200 | 410,000 | 5,120 | 40.0 % |", "5,322", "0.790 ± 0.020"):
        assert expected in text, expected
    assert "reading_it: 0.230 cannot be told from chance (0.250)" in text
    assert "cloze_it: worse than the base model (0.690 against 0.780)" in text


def test_italian_card_says_the_same(released):
    run = released()
    english, italian = (run.path("release", "instruct", n).read_text() for n in ("README.md", "README.it.md"))
    assert english.count("\n## ") == italian.count("\n## ") and english.count("\n| ") == italian.count("\n| ")
    assert "1.000.000 token" in italian and "0,790 ± 0,020" in italian
    claims = json.loads(run.path("release", "instruct", "card.json").read_text())["claims"]
    told = [{tuple(c["sources"]) for c in claims[n]} for n in ("README.md", "README.it.md")]
    assert told[0] == told[1]


def test_claims_point_at_their_line_and_source(released):
    run = released()
    folder = run.path("release", "base")
    lines = (folder / "README.md").read_text().splitlines()
    claims = json.loads((folder / "card.json").read_text())["claims"]["README.md"]
    assert len(claims) > 80
    for claim in claims:
        assert claim["text"].splitlines()[0] in lines[claim["line"] - 1]
        assert claim["sources"]


def test_usage_code_runs_on_the_released_folder(released, capsys):
    run = released()
    for kind in ("base", "instruct"):
        folder = run.path("release", kind)
        for name in ("README.md", "README.it.md"):
            code = (folder / name).read_text().split("```python\n")[1].split("```")[0]
            repo = run.recipe.release.repo_of(kind)
            assert f'"{repo}"' in code
            exec(compile(code.replace(repo, str(folder)), name, "exec"), {})
    assert capsys.readouterr().out


def test_generation_config_is_deliberate_and_the_model_folder_untouched(released):
    run = released()
    config = json.loads(run.path("release", "instruct", "generation_config.json").read_text())
    assert config["do_sample"] is False and config["max_new_tokens"] == 32 and "eos_token_id" in config
    assert "max_new_tokens" not in json.loads(run.path("instruct", "generation_config.json").read_text())


def edit(path: Path, **changes):
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("stage", ["tokenize", "pretrain", "convert", "sft"])
def test_missing_manifest_names_the_verb(a_run, stage):
    run = a_run()
    run.path("manifests", f"{stage}.json").unlink()
    with pytest.raises(UserError, match=f"duetto {stage}"):
        card_stage.run(run, ARGS)


def test_edited_result_is_refused(a_run):
    run = a_run()
    edit(run.path("eval", "base", "cloze_en.json"), value=0.99)
    with pytest.raises(UserError, match=r"eval/base/cloze_en.json: was changed"):
        card_stage.run(run, ARGS)


def test_results_of_another_model_are_refused(a_run):
    run = a_run()
    source = run.path("eval", "base", "cloze_en.json")
    run.path("eval", "instruct", "cloze_en.json").write_text(source.read_text())
    with pytest.raises(UserError, match="results of model 'base'"):
        card_stage.run(run, ARGS)


def test_torn_weights_are_refused(a_run):
    run = a_run()
    weights = run.path("base", "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="torn"):
        card_stage.run(run, ARGS)
