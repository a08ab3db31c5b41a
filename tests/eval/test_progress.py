"""Curves over training: verdicts against chance, the choice of a checkpoint, averaging, and the driver."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from duetto.errors import UserError
from duetto.run import Run
from eval.checkpoints import average, committed, follow
from eval.config import TaskEntry
from eval.progress import AT_CHANCE, choose, curves
from tests.eval import conftest as shared
from tests.eval import tiny
from tests.eval.test_tables import make

ENTRY = TaskEntry(task="hellaswag", language="en", metric="acc_norm", label="HellaSwag", chance=0.25)
FLAT = TaskEntry(task="m_mmlu_it", language="it", metric="acc", label="MMLU", shots=5, chance=0.25)


def at(step, value, task="hellaswag", samples=1000):
    facts = {"step": step, "tokens": step * 1000}
    return make(f"step-{step}", task, value, facts=facts, samples=samples)


def verdict_of(*values, samples=1000):
    (curve,) = curves([ENTRY], [at(100 * (i + 1), v, samples=samples) for i, v in enumerate(values)])
    return curve["verdict"]


def test_verdicts():
    # 1,000 items: the standard error of guessing is 0.0137, so 0.277 is the line
    assert verdict_of(0.25, 0.26, 0.27, 0.27) == AT_CHANCE
    assert verdict_of(0.25, 0.30, 0.35, 0.40) == "above chance from step 200 on"
    assert verdict_of(0.30, 0.25, 0.26, 0.25) == AT_CHANCE  # an early spike is noise
    assert verdict_of(0.25, 0.25, 0.30, 0.26) == "not steadily above chance"
    # the published base model: MMLU stays at chance, HellaSwag does not
    assert verdict_of(0.2529, 0.2598, 0.2566, 0.2538, 0.2535, samples=13242) == AT_CHANCE
    assert verdict_of(0.3366, 0.3562, 0.3664, 0.3740, 0.3750, samples=9193).startswith("above chance from step 100")


def test_choice_ignores_tasks_at_chance_and_prefers_the_latest_within_the_error():
    results = [at(100, 0.30), at(200, 0.405), at(300, 0.40)]
    results += [at(s, v, "m_mmlu_it") for s, v in ((100, 0.27), (200, 0.25), (300, 0.24))]
    found = choose(curves([ENTRY, FLAT], results))
    assert found["step"] == 300  # 0.005 below the best, the error is 0.01
    assert "step 200 has 0.4050" in found["reason"] and "not used, being at chance: m_mmlu_it" in found["reason"]
    clear = choose(curves([ENTRY], [at(100, 0.30), at(200, 0.45), at(300, 0.40)]))
    assert clear["step"] == 200 and "latest" in clear["rule"]


def test_choice_when_nothing_tells():
    found = choose(curves([FLAT], [at(s, 0.25, "m_mmlu_it") for s in (100, 200)]))
    assert found["step"] == 200 and found["reason"] == "every task is at chance: the latest checkpoint"


def test_checkpoint_that_misses_a_task_is_not_chosen():
    results = [at(100, 0.4), at(200, 0.5), at(100, 0.4, "m_mmlu_it")]
    assert choose(curves([ENTRY, FLAT], results))["step"] == 100


def test_average_is_the_mean_of_the_weights(tmp_path):
    folders = [tiny.make_model(tmp_path / str(i), seed=i) for i in range(3)]
    average(folders, tmp_path / "mean")
    each = [load_file(f / "model.safetensors") for f in folders]
    found = load_file(tmp_path / "mean" / "model.safetensors")
    for name, tensor in found.items():
        assert torch.allclose(tensor, sum(e[name] for e in each) / 3, atol=1e-6)
    assert (tmp_path / "mean" / "tokenizer.json").exists()
    other = tiny.make_model(tmp_path / "other", num_hidden_layers=1)
    with pytest.raises(UserError, match="only checkpoints of one model"):
        average([folders[0], other], tmp_path / "bad")


@pytest.fixture
def training(tmp_path):
    """A run with three checkpoints, one of them not committed; conversion copies a ready model."""
    suite = shared.demo_suite(tmp_path, items=4) | {"chat": None, "progress": {"average_last": 2}}
    lines = [{"step": s, "tokens": s * 10} for s in range(0, 301, 100)]
    shared.write_lines(tmp_path / "pretrain" / "metrics.jsonl", lines)
    for step in (100, 200, 300):
        tiny.make_model(tmp_path / "ready" / str(step), seed=step)
        (tmp_path / "pretrain" / "checkpoints" / str(step)).mkdir(parents=True)
    for step in (100, 200):
        (tmp_path / "pretrain" / "checkpoints" / str(step) / "COMMIT").write_text(f"commit {step}")
    return Run(shared.make_recipe(tmp_path, suite, sft=False))


def test_only_committed_checkpoints_are_followed(training):
    assert committed(training, every=1) == [100, 200]
    assert committed(training, every=2) == [200]
    assert committed(training, every=5) == [200]  # the last one always


def test_following_a_run(training, monkeypatch):
    from eval import checkpoints, stage

    asked = []

    def copy(run, step, folder):
        asked.append(step)
        shutil.copytree(run.path("ready", str(step)), folder)

    monkeypatch.setattr(checkpoints.follow, "__defaults__", (None, copy))
    config = training.recipe.eval
    content = stage.follow_training(training, config, watch=None)
    assert asked[:2] == [100, 200]
    assert [p["tokens"] for p in content["curves"][0]["points"]] == [1000, 2000]
    assert content["average"]["steps"] == [100, 200] and set(content["average"]["scores"]) == {
        "story_cloze_effect_en",
        "story_cloze_effect_it",
    }
    choice = json.loads(training.path("progress", "choice.json").read_text())
    assert choice["step"] in (100, 200) and choice["rule"] and choice["reason"]
    assert training.path("progress", "plots", "story_cloze_effect_en.svg").exists()
    assert not training.path("progress", "models").exists()  # converted copies are not kept
    # A later look evaluates the new checkpoint only.
    training.path("pretrain", "checkpoints", "300", "COMMIT").write_text("commit 300")
    asked.clear()
    later = stage.follow_training(
        training,
        config.model_copy(update={"progress": config.progress.model_copy(update={"average_last": 0})}),
        watch=None,
    )
    assert asked == [300] and len(later["curves"][0]["points"]) == 3


def test_two_followers_of_one_run_are_refused(training):
    from filelock import FileLock

    training.path("progress").mkdir()
    with FileLock(str(training.path("progress", ".lock"))), pytest.raises(UserError, match="in use by another"):
        follow(training, training.recipe.eval, lambda model, folder: None)


def test_nothing_committed_is_said(tmp_path):
    suite = shared.demo_suite(tmp_path, items=2) | {"chat": None}
    with pytest.raises(UserError, match="no committed checkpoint to evaluate yet"):
        follow(Run(shared.make_recipe(tmp_path, suite)), shared.make_recipe(tmp_path, suite).eval, lambda m, f: None)
