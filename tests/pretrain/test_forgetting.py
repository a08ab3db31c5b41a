"""The forgetting report: figures, verdicts, contexts."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from duetto.errors import UserError
from pretrain.forgetting import Comparison, judge, measure, table
from pretrain.job import ValidationSet

VOCAB = 300


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A random Llama, and the same one with a head that knows the answer to one text."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=VOCAB, max_position_embeddings=64, tie_word_embeddings=False, **shape)
    model = LlamaForCausalLM(config)
    before = tmp_path_factory.mktemp("before")
    model.save_pretrained(before)
    # A head column of its own for token 7: text of sevens becomes nearly free, other text dearer.
    with torch.no_grad():
        model.model.norm.weight.zero_()
        model.model.norm.weight[0] = 1.0
        model.model.embed_tokens.weight[:, 0] = 5.0
        model.lm_head.weight.zero_()
        model.lm_head.weight[7, 0] = 2.0
    after = tmp_path_factory.mktemp("after")
    model.save_pretrained(after)
    return before, after


def job(folder: Path, models: tuple[Path, Path], **fields: object) -> Comparison:
    sets = []
    for name, tokens in (("new", np.full(400, 7)), ("old", np.arange(400) % VOCAB)):
        path = folder / f"{name}.ds"
        tokens.astype("<u2").tofile(path)
        sets.append(ValidationSet(name=name, file=str(path), tokens=400, bytes=1200, token_size=2))
    values = {"before": str(models[0]), "after": str(models[1]), "sets": sets, "windows": [32, 64]}
    return Comparison.model_validate(values | {"out": str(folder), "device": "cpu"} | fields)


def test_bits_per_byte_are_those_of_transformers(tmp_path: Path, models: tuple[Path, Path]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    found = measure(str(models[0]), job(tmp_path, models))
    model = AutoModelForCausalLM.from_pretrained(models[0], dtype=torch.float32)
    ids = torch.arange(400) % VOCAB
    nats = targets = 0.0
    for at in range(0, 399, 32):
        piece = ids[at : at + 33][None]
        nats += float(model(input_ids=piece, labels=piece).loss) * (piece.shape[1] - 1)
        targets += piece.shape[1] - 1
    assert targets == 399
    assert found["old", 32] == pytest.approx(nats / targets * 400 / 1200 / math.log(2), rel=1e-5)
    assert set(found) == {(s, w) for s in ("new", "old") for w in (32, 64)}


def test_learned_and_forgotten_are_named(tmp_path: Path, models: tuple[Path, Path]) -> None:
    asked = job(tmp_path, models)
    found = judge(measure(asked.before, asked), measure(asked.after, asked))
    assert found["learned"] == ["new"] and found["forgotten"] == ["old"]
    text = table(found)
    assert "| new | 32 |" in text and "| old | 64 |" in text and "Forgotten (more than 1 % worse): old." in text
    json.dumps(found)


def test_a_change_within_one_percent_is_neither() -> None:
    found = judge({("a", 8): 1.0, ("b", 8): 1.0}, {("a", 8): 1.005, ("b", 8): 0.98})
    assert found["forgotten"] == [] and found["learned"] == ["b"]


def test_the_old_context_decides() -> None:
    found = judge({("a", 8): 1.0, ("a", 64): 2.0}, {("a", 8): 1.05, ("a", 64): 1.0})
    assert found["forgotten"] == ["a"] and found["learned"] == []


def test_another_tokenizer_is_refused(tmp_path: Path, models: tuple[Path, Path]) -> None:
    asked = job(tmp_path, models)
    np.full(10, VOCAB).astype("<u2").tofile(tmp_path / "new.ds")
    with pytest.raises(UserError, match="must use the tokenizer of the model it continues"):
        measure(asked.before, asked)
    with pytest.raises(UserError, match="no Hugging Face model there"):
        measure(str(tmp_path / "none"), asked)
