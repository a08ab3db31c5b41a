"""Scores against numbers derived by hand, from a model whose logits are a known table."""

import pytest
import torch

from eval.baselines import word_overlap_credit
from eval.config import EvalConfig
from eval.harness import TaskLoader, load_lm, plain_metrics, run_entry
from eval.models import LocalModel
from tests.eval import conftest as shared
from tests.eval import tiny


@pytest.fixture(scope="module")
def bigram(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bigram")
    return folder, tiny.bigram_model(folder)


def suite(tmp_path, rows, **more):
    file = shared.write_lines(tmp_path / "data.jsonl", rows)
    entry = {
        "task": "story_cloze_effect_en",
        "language": "en",
        "metric": "acc_bytes",
        "baselines": True,
        "data": {"test": str(file)},
    }
    return EvalConfig.model_validate({"tasks": [entry], "batch_size": 4, "threads": 1, **more})


def by_hand(table, tokenizer, context, choice):
    """Sum of log-softmax(table)[previous, next] over the tokens of the choice."""
    before = tokenizer.encode(context) if context else [tokenizer.bos_token_id]
    whole = tokenizer.encode(context + " " + choice) if context else before + tokenizer.encode(" " + choice)
    log_probability = torch.log_softmax(table.double(), -1)
    return sum(float(log_probability[a, b]) for a, b in zip(whole[len(before) - 1 :], whole[len(before) :]))


@pytest.mark.parametrize("backend", ["hf", "hf-prefix"])
def test_accuracy_equals_the_one_worked_out_by_hand(tmp_path, bigram, backend):
    folder, table = bigram
    rows = shared.cloze_rows("en", 12)
    rows[3]["endings"][1] = "la perché città è là."  # bytes and characters differ
    config = suite(tmp_path, rows, backend=backend)
    entry = config.tasks[0]
    lm = load_lm(LocalModel("bigram", folder, ("en",)), config)
    outcome = run_entry(lm, TaskLoader(config).load(entry), entry, None, chat_template=False)
    tokenizer = tiny.make_tokenizer()
    hits = {"acc": 0, "acc_norm": 0, "acc_bytes": 0}
    for row, sample in zip(rows, outcome.samples):
        expected = [by_hand(table, tokenizer, row["ctx"], e) for e in row["endings"]]
        assert sample["loglikelihoods"] == pytest.approx(expected, abs=1e-3)
        lengths = {
            "acc": lambda e: 1,
            "acc_norm": len,
            "acc_bytes": lambda e: len(e.encode()),
        }
        for metric, length in lengths.items():
            scores = [s / length(e) for s, e in zip(expected, row["endings"])]
            hits[metric] += scores.index(max(scores)) == int(row["label"])
    for metric, count in hits.items():
        assert outcome.metrics[metric] == pytest.approx(count / len(rows))
    p = hits["acc_bytes"] / len(rows)
    assert outcome.metrics["acc_bytes_stderr"] == pytest.approx((p * (1 - p) / (len(rows) - 1)) ** 0.5)


def test_no_context_score_equals_the_one_worked_out_by_hand(tmp_path, bigram):
    from eval.baselines import no_context

    folder, table = bigram
    rows = shared.cloze_rows("en", 10)
    config = suite(tmp_path, rows)
    entry = config.tasks[0]
    (task,) = TaskLoader(config).load(entry).values()
    lm = load_lm(LocalModel("bigram", folder, ("en",)), config)
    tokenizer, hits = tiny.make_tokenizer(), 0
    for row in rows:
        scores = [by_hand(table, tokenizer, "", e) / len(e.encode()) for e in row["endings"]]
        hits += scores.index(max(scores)) == int(row["label"])
    docs = [doc for _, doc in task.doc_iterator(rank=0, limit=None, world_size=1)]
    assert no_context(lm, task, docs, "acc_bytes") == pytest.approx(hits / len(rows))


def test_same_numbers_as_simple_evaluate(tmp_path, models):
    """``evaluate`` with our seeds and shots is what lm-eval's own front door does."""
    from lm_eval.evaluator import simple_evaluate

    config = suite(tmp_path, shared.cloze_rows("en", 8))
    entry = config.tasks[0]
    loader = TaskLoader(config)
    lm = load_lm(LocalModel("base", models / "base", ("en",)), config)
    ours = run_entry(lm, loader.load(entry), entry, None, chat_template=False)
    loader.entry = entry
    stock = simple_evaluate(lm, tasks=[entry.task], task_manager=loader.manager, log_samples=True)
    assert ours.metrics == plain_metrics(stock["results"][entry.task])


def test_word_overlap_shares_credit_between_ties():
    context = "The dog had a red ball."
    assert word_overlap_credit(context, ["the red ball", "a green sea"], 0) == 1.0
    assert word_overlap_credit(context, ["the red ball", "a green sea"], 1) == 0.0
    assert word_overlap_credit(context, ["the dog", "the ball", "sea"], 1) == 0.5
    assert word_overlap_credit(context, ["...", "sea"], 0) == 0.5
