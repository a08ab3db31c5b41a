"""The verb on tiny models with stock lm-eval: provenance, skipping, interruption, refusals, start-up."""

import json
import subprocess
import sys

import pytest

from duetto.errors import UserError
from duetto.files import read_json, sha256_file
from duetto.run import Run
from eval.results import read_result
from tests.eval import conftest as shared

TASKS = ("story_cloze_effect_en", "story_cloze_effect_it")


def test_every_model_and_task_has_a_result_with_its_provenance(evaluated):
    for model in ("base", "instruct"):
        for task in TASKS:
            path = evaluated.path("eval", model, f"{task}.json")
            result, intact = read_result(path)
            assert intact
            assert result.samples == 6 and result.limit is None and result.shots == 0
            assert result.metric == "acc_bytes" and 0 <= result.value <= 1
            assert result.stderr is not None and set(result.metrics) >= {"acc", "acc_norm", "acc_bytes"}
            assert result.dtype == "float32" and result.batch_size == 4 and result.device == "cpu"
            assert result.chat_template is False and result.truncated == 0
            file = evaluated.path("corpus", f"cloze_{result.language}.jsonl")
            assert result.data == {file.name: sha256_file(file)}
            assert result.model.name == model and len(result.model.sha256) == 64 and result.model.parameters
            assert {"lm_eval", "torch", "transformers"} <= set(result.versions)
            assert result.host and result.git_commit and result.seconds > 0 and len(result.task_sha256) == 64
            log = path.with_name(result.sample_log)
            assert sha256_file(log) == result.sample_log_sha256
            lines = [json.loads(x) for x in log.read_text().splitlines()]
            assert len(lines) == 6 and len(lines[0]["choices"]) == len(lines[0]["loglikelihoods"]) == 4


def test_manifest_metrics_feed_the_final_table(evaluated):
    metrics = evaluated.manifest("eval")["metrics"]
    score = metrics["scores"]["base"][TASKS[0]]
    assert set(score) == {"value", "stderr", "metric", "chance"} and score["chance"] == 0.25
    assert set(metrics["baselines"][TASKS[1]]) == {"no_context", "word_overlap"}
    for language in ("en", "it"):
        assert {"stop_rate", "language_rate"} <= set(metrics["chat"][language])
        assert set(metrics["samples"][language]) == {"prompt", "answer"}
    assert metrics["chat"]["en"] == {
        k: v for k, v in read_json(evaluated.path("eval", "chat.json"))["languages"]["en"].items() if k != "samples"
    }


def test_unchanged_run_is_skipped_and_a_lost_result_alone_is_made_again(evaluated, capsys):
    shared.evaluate(evaluated)
    assert "unchanged, skipped" in capsys.readouterr().out
    lost = evaluated.path("eval", "base", f"{TASKS[1]}.json")
    kept = evaluated.path("eval", "base", f"{TASKS[0]}.json")
    before, stamp = read_result(lost)[0], kept.stat().st_mtime_ns
    lost.unlink()
    shared.evaluate(evaluated)
    out = capsys.readouterr().out
    assert "kept 1 of 2 current results" in out and "chat checks are current" in out
    assert kept.stat().st_mtime_ns == stamp
    after = read_result(lost)[0]
    assert after.value == before.value and after.fingerprint == before.fingerprint


def test_interrupted_run_keeps_finished_tasks(tmp_path, models, monkeypatch):
    from eval import stage

    (tmp_path / "base").symlink_to(models / "base")
    shared.finish(tmp_path, "convert")
    suite = shared.demo_suite(tmp_path) | {"chat": None, "models": ["base"]}
    run, real = Run(shared.make_recipe(tmp_path, suite, sft=False)), stage.run_task

    def interrupted(*args):
        if args[5].task == TASKS[1]:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(stage, "run_task", interrupted)
    with run, pytest.raises(KeyboardInterrupt):
        shared.evaluate(run)
    assert run.manifest("eval") is None
    first = run.path("eval", "base", f"{TASKS[0]}.json")
    stamp = first.stat().st_mtime_ns
    monkeypatch.setattr(stage, "run_task", real)
    with run:
        shared.evaluate(run)
    assert first.stat().st_mtime_ns == stamp and run.manifest("eval")
    assert run.path("eval", "tables.md").exists()


def test_changed_data_is_measured_again(tmp_path, models):
    from eval.models import LocalModel
    from eval.stage import fingerprint

    suite = shared.demo_suite(tmp_path)
    config = shared.make_recipe(tmp_path, suite).eval
    model = LocalModel("base", models / "base", ("en", "it"))
    first = fingerprint(config, model, "digest", config.tasks[0])
    assert first == fingerprint(config, model, "digest", config.tasks[0])
    assert first != fingerprint(config, model, "other", config.tasks[0])
    shared.write_lines(tmp_path / "corpus" / "cloze_en.jsonl", shared.cloze_rows("en", 6, seed=2))
    assert first != fingerprint(config, model, "digest", config.tasks[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["tasks"][0].update(task="story_cloze_efect_en"), "did you mean 'story_cloze_effect_en'"),
        (lambda s: s["tasks"][0].update(metric="acc_byte"), "no metric 'acc_byte'; did you mean 'acc_bytes'"),
        (lambda s: s["tasks"][0].update(shots=3), "no examples to take shots from"),
        (lambda s: s["tasks"][0]["data"].update(test="/nowhere/x.jsonl"), "/nowhere/x.jsonl: no such file"),
    ],
)
def test_wrong_suite_is_one_clear_line(tmp_path, models, change, message):
    (tmp_path / "base").symlink_to(models / "base")
    shared.finish(tmp_path, "convert")
    suite = shared.demo_suite(tmp_path, items=3) | {"chat": None, "models": ["base"]}
    change(suite)
    with Run(shared.make_recipe(tmp_path, suite, sft=False)) as run, pytest.raises(UserError, match=message):
        shared.evaluate(run)


def test_wrong_models_are_one_clear_line(tmp_path, models):
    suite = shared.demo_suite(tmp_path, items=3) | {"chat": None, "models": ["base"]}
    shared.finish(tmp_path, "convert")
    with Run(shared.make_recipe(tmp_path, suite, sft=False)) as run:
        with pytest.raises(UserError, match="base has no config.json"):
            shared.evaluate(run)
        (tmp_path / "base").mkdir()
        for name in ("config.json", "tokenizer_config.json", "tokenizer.json"):
            (tmp_path / "base" / name).symlink_to(models / "base" / name)
        with pytest.raises(UserError, match=r"holds no \*.safetensors"):
            shared.evaluate(run)
        (tmp_path / "base" / "model.safetensors").write_bytes(b"torn")
        with pytest.raises(UserError, match="model 'base': .* does not load"):
            shared.evaluate(run)


def test_chat_template_that_is_not_there_is_refused(tmp_path, models):
    from eval.models import LocalModel

    with pytest.raises(UserError, match="no chat template, and chat_template is on"):
        LocalModel("x", models / "base", ("en",), chat_template=True).check()


def test_importing_the_verb_is_light():
    code = "import sys; from eval import stage; print([m for m in ('torch', 'transformers', 'lm_eval') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("line", "reason"), [("not json", ""), ('{"other": 1}', "'ctx' is undefined"), ("", "")])
def test_data_of_another_format_is_told_with_its_file(tmp_path, models, line, reason):
    (tmp_path / "base").symlink_to(models / "base")
    shared.finish(tmp_path, "convert")
    suite = shared.demo_suite(tmp_path) | {"chat": None, "models": ["base"]}
    file = tmp_path / "corpus" / "cloze_en.jsonl"
    file.write_text(line + "\n")
    told = f"task 'story_cloze_effect_en': {file} does not have the format of the task: .*{reason}"
    with Run(shared.make_recipe(tmp_path, suite, sft=False)) as run, pytest.raises(UserError, match=told):
        shared.evaluate(run)
