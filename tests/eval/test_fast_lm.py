"""``hf-prefix`` against stock lm-eval: same numbers on every kind of request, less work, and a gate that closes."""

import random

import pytest
import torch

from duetto.errors import UserError
from eval.config import EvalConfig
from eval.harness import load_lm
from eval.models import LocalModel
from eval.prefix_plan import Question, common_length, families, pack


class Request:
    """What lm-eval hands to a model: ``args``."""

    def __init__(self, *args):
        self.args = args


def load(folder, **more):
    task = {"task": "x", "language": "en", "metric": "acc"}
    config = EvalConfig.model_validate({"tasks": [task], "batch_size": 4, "threads": 1, "gate": 0, **more})
    return load_lm(LocalModel("m", folder, ("en",)), config)


@pytest.fixture(scope="module")
def both(models):
    return load(models / "base", backend="hf"), load(models / "base", backend="hf-prefix", batch_tokens=512)


def requests_of_every_kind():
    rng = random.Random(3)
    words = [
        "the",
        "girl",
        "had",
        "a",
        "red",
        "kite",
        "and",
        "a",
        "small",
        "dog",
        "near",
        "river",
        "tree",
        "perché",
        "città",
        "aquilone",
    ]

    def text(n):
        return " ".join(rng.choices(words, k=n))

    out = []
    for header in (text(80), text(60), ""):  # two few-shot headers, and none
        for _ in range(6):
            context = f"{header}\n\n{text(rng.randint(3, 25))}"
            out += [Request(context, " " + text(rng.randint(1, 6))) for _ in range(4)]
            out += [Request(context, f" {letter}") for letter in "ABCD"]  # choices of one token
    out += [Request("", " " + text(5)) for _ in range(20)]  # no context at all
    out += [Request("same context", " a"), Request("same context", " a")]  # asked twice
    out += [Request("x " * 40, " " + "y " * 3), Request(out[0].args[0], out[0].args[1] + " and more")]
    rng.shuffle(out)
    return out


def test_same_loglikelihoods_and_greedy_flags(both):
    stock, fast = both
    asked = requests_of_every_kind()
    expected, found = (lm.loglikelihood(asked, disable_tqdm=True) for lm in (stock, fast))
    assert [f[1] for f in found] == [e[1] for e in expected]
    assert [f[0] for f in found] == pytest.approx([e[0] for e in expected], abs=1e-4)


def test_same_when_the_context_is_cut_on_the_left(models):
    stock, fast = (load(models / "base", backend=b, max_length=48) for b in ("hf", "hf-prefix"))
    asked = [Request("the girl had a red kite " * n, " near the river" + " x" * n) for n in (1, 9, 12)]
    expected, found = (lm.loglikelihood(asked, disable_tqdm=True) for lm in (stock, fast))
    assert [f[0] for f in found] == pytest.approx([e[0] for e in expected], abs=1e-4)
    assert fast.truncated == stock.truncated == 2


def test_same_rolling_loglikelihood(both):
    stock, fast = both
    asked = [Request("the girl had a red kite and a small dog. " * n) for n in (1, 5)]
    expected, found = (lm.loglikelihood_rolling(asked, disable_tqdm=True) for lm in (stock, fast))
    assert found == pytest.approx(expected, abs=1e-3)


def test_shared_work_is_done_once(both, monkeypatch):
    _, fast = both
    header = "the girl had a red kite and a small dog near the river. " * 8
    asked = [Request(f"{header}{n} the tree", f" {w}") for n in range(12) for w in ("one dog", "two dogs", "a kite")]
    seen = []
    real = fast.model.base_model.forward

    def counted(*args, **kwargs):
        seen.append(kwargs["input_ids"].numel())
        return real(*args, **kwargs)

    monkeypatch.setattr(fast.model.base_model, "forward", counted)
    fast.loglikelihood(asked, disable_tqdm=True)
    stock_tokens = sum(len(fast.tok_encode("".join(r.args))) - 1 for r in asked)
    assert sum(seen) < stock_tokens / 5


def test_gate_lets_equal_scores_pass_and_stops_different_ones(models, monkeypatch):
    from eval import fast_lm

    asked = [Request(f"the girl had {n} red kites", f" and {w}") for n in range(8) for w in ("a dog", "a tree")]
    lm = load(models / "base", backend="hf-prefix", gate=6)
    lm.loglikelihood(asked, disable_tqdm=True)
    assert lm.gate.requests == 6 and lm.gate.max_abs_difference < 1e-4 and lm.gate.greedy_differs == 0
    real = fast_lm._mask

    def leaky(segments, prefix):  # choices see each other: the mistake the gate is for
        return real(torch.where(segments > 0, 0, segments), prefix)

    monkeypatch.setattr(fast_lm, "_mask", leaky)
    with pytest.raises(UserError, match="hf-prefix and hf disagree"):
        lm.loglikelihood(asked, disable_tqdm=True)


def test_models_it_cannot_follow_are_refused(models, tmp_path):
    import json
    import shutil

    folder = tmp_path / "capped"
    shutil.copytree(models / "base", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "final_logit_softcapping": 30.0}))
    with pytest.raises(UserError, match="hf-prefix does not support this model"):
        load(folder, backend="hf-prefix")


def test_common_length():
    assert common_length((1, 2, 3), (1, 2, 4)) == 2
    assert common_length((1, 2), (1, 2, 4)) == 2
    assert common_length((5,), (1, 2)) == 0
    assert common_length((), (1,)) == 0


def question(*context, choices=((1, 2),)):
    q = Question(tuple(context))
    for i, c in enumerate(choices):
        q.add(c, i)
    return q


def test_families_keep_every_question_once_and_share_within_a_header():
    a, b = tuple(range(100)), tuple(range(200, 300))
    asked = [question(*a, n) for n in range(20)] + [question(*b, n) for n in range(10)] + [question(7, 8, 9)]
    found = families(asked)
    assert sorted(q.context for f in found for q in f.questions) == sorted(q.context for q in asked)
    assert sorted((f.prefix, len(f.questions)) for f in found) == [(0, 1), (100, 10), (100, 20)]
    for family in found:
        for q in family.questions:
            assert q.context[: family.prefix] == family.questions[0].context[: family.prefix]
            assert len(q.context) > family.prefix  # the last token of a prompt predicts the choice
    assert families([]) == []


def test_identical_contexts_keep_a_token_outside_the_prefix():
    same = tuple(range(400))
    (family,) = families([question(*same, choices=[(i, j) for j in range(300)]) for i in range(1)])
    assert family.prefix == len(same) - 1 or family.prefix == 0


def test_batches_hold_everything_within_the_budget():
    rng = random.Random(0)
    asked = [question(*range(rng.randint(1, 40)), choices=[(1,) * rng.randint(1, 9)]) for _ in range(50)]
    (family,) = families(asked) if len(families(asked)) == 1 else [families(asked)[-1]]
    batches = list(pack(family, 128))
    assert sum(len(b) for b in batches) == len(family.questions)
    for batch in batches:
        width = max(q.length for q in batch) - family.prefix
        assert len(batch) == 1 or width * len(batch) <= 128


def test_vllm_without_its_package_is_said(models):
    with pytest.raises(UserError, match="eval.backend=vllm needs the vllm package"):
        load(models / "base", backend="vllm")
