"""The two recipes that continue a model, on a tiny one: it starts from a Hugging Face folder, learns, and the report
says what was forgotten."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duetto.cli import main
from duetto.errors import UserError
from duetto.files import read_json
from duetto.recipe import ROOT, load_recipe
from duetto.run import Run
from pretrain import convert_stage, forgetting, stage, start
from pretrain.metrics import read
from pretrain.prepare import jobs
from pretrain.sources import draws
from tests.pretrain.ranks import in_engine
from tests.pretrain.runs import forked, tokenized, train_tokenizer

VOCAB = 300


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def cycle(step: int, count: int) -> Any:
    """Text that a tiny model learns in a few steps: each token is the one before plus ``step``."""
    ids = 4 + (np.arange(count) * step) % 94  # the printable ASCII characters of the tokenizer
    ids[63::64] = 1
    return ids


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama that knows the replayed text, as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("base")
    in_engine(teach, folder)
    return folder


def teach(folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCAB, max_position_embeddings=64, tie_word_embeddings=True, **shape)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    ids = torch.from_numpy(cycle(1, 64 * 65).reshape(-1, 65).copy())
    for _ in range(40):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)


TINY = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY |= {"num_key_value_heads": 4, "vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 1}


def overrides(name: str, base: Path, steps: int, length: int) -> list[str]:
    """A recipe's file at a size that two seconds can train; everything else is the file's own."""
    s = "pretrain.optimizer.learning_rate_scheduler"
    return [
        f"name={name}",
        f"pretrain=configs/pretrain/{name}.yaml",
        f"pretrain.model.init_method.path={base}",
        *(f"pretrain.model.model_config.{k}={v}" for k, v in TINY.items()),
        f"pretrain.model.model_config.max_position_embeddings={length}",
        "pretrain.tokenizer.tokenizer_name_or_path=null",
        "pretrain.parallelism.dp=1",
        "pretrain.duetto.device=cpu",
        f"pretrain.tokens={{sequence_length: {length}, train_steps: {steps}, micro_batch_size: 8, "
        "batch_accumulation_per_replica: 1, val_check_interval: -1, limit_val_batches: 2}",
        f"{s}.learning_rate=3e-3",
        f"{s}.lr_warmup_steps=3",
        f"{s}.lr_decay_starting_step={steps // 2}",
        f"{s}.lr_decay_steps={steps - steps // 2}",
        "tokenizer={train: {vocab_size: 300}}",
    ]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DUETTO_HOME", str(tmp_path))
    for module in (stage, start, convert_stage, forgetting):
        monkeypatch.setattr(module, "run_logged", forked)
    return tmp_path


def test_knowledge_is_learned_and_the_report_says_what_it_cost(home: Path, base: Path, tokenizer: Path) -> None:
    new, old = cycle(7, 20_000), cycle(1, 20_000)
    held = {"knowledge": cycle(7, 2_000), "replay": cycle(1, 2_000), "other": cycle(3, 2_000)}
    budgets = {"knowledge": 10_000, "replay": 10_000}
    tokenized(home / "cpt-knowledge", tokenizer, VOCAB, {"knowledge": new, "replay": old}, budgets, validation=held)
    given = overrides("cpt-knowledge", base, steps=40, length=64)
    assert main(["pretrain", *given]) == 0
    assert main(["convert", *given]) == 0

    run = home / "cpt-knowledge"
    records = read(run / "pretrain" / "validation.jsonl")
    first = {r["source"]: r["bits_per_byte"] for r in records if r["step"] == 0}
    found = read_json(run / "pretrain" / "forgetting.json")
    rows = {r["set"]: r for r in found["rows"]}
    assert {r["window"] for r in found["rows"]} == {64}
    # The model came over whole: training's first measurement is the report's "before".
    assert rows["replay"]["before"] == pytest.approx(first["replay"], rel=0.02)
    assert rows["replay"]["before"] < 0.5 < rows["knowledge"]["before"]
    assert rows["knowledge"]["change"] < -0.5 and "knowledge" in found["learned"]
    assert rows["replay"]["after"] < 0.3, "replay keeps the old text"
    assert "| knowledge | 64 |" in (run / "pretrain" / "forgetting.md").read_text()
    # Again: everything is skipped, the report stays.
    before = (run / "manifests" / "forgetting.json").read_bytes()
    assert main(["pretrain", *given]) == 0 and main(["convert", *given]) == 0
    assert (run / "manifests" / "forgetting.json").read_bytes() == before


def test_context_grows_and_both_contexts_are_measured(home: Path, base: Path, tokenizer: Path) -> None:
    sources = {"long": cycle(1, 40_000), "replay": cycle(1, 20_000)}
    budgets = {"long": 17_000, "replay": 3_000}
    held = {"en": cycle(1, 4_000)}
    tokenized(home / "long-32k", tokenizer, VOCAB, sources, budgets, validation=held)
    given = overrides("long-32k", base, steps=30, length=256)
    assert main(["pretrain", *given]) == 0
    assert main(["convert", *given]) == 0
    found = read_json(home / "long-32k" / "pretrain" / "forgetting.json")
    rows = {r["window"]: r for r in found["rows"]}
    assert set(rows) == {64, 256}
    assert read_json(home / "long-32k" / "base" / "config.json")["max_position_embeddings"] == 256
    # Beyond its context the old model fails, the new one does not; at the old context little was lost.
    assert rows[256]["after"] < 0.5 * rows[256]["before"]
    assert rows[64]["after"] < rows[64]["before"] + 0.1


@pytest.mark.parametrize(("name", "share"), [("cpt-knowledge", 0.5), ("long-32k", 0.15)])
def test_shares_of_replay(name: str, share: float, tmp_path: Path) -> None:
    recipe = load_recipe(ROOT / "configs" / "recipes" / f"{name}.yaml", home=tmp_path)
    found = draws(recipe.pretrain[0], 0, recipe.data, recipe.run_root)
    assert sum(d.weight for d in found if d.source.startswith("replay")) == pytest.approx(share, abs=0.001)


def test_another_start_model_is_another_run(home: Path, base: Path, tokenizer: Path) -> None:
    tokenized(
        home / "cpt-knowledge", tokenizer, VOCAB, {"knowledge": cycle(7, 9000), "replay": cycle(1, 9000)}, {"replay": 9}
    )
    recipe = load_recipe(
        ROOT / "configs" / "recipes" / "demo.yaml", overrides("cpt-knowledge", base, 40, 64), home=home
    )
    first = jobs(Run(recipe, lock=False))[0].identity
    assert first["start"] == start.digest(base)
    for path, message in (("/no/model", "no such folder"), ("nobody/no-model", "hf download nobody/no-model")):
        missing = [*overrides("cpt-knowledge", base, 40, 64), f"pretrain.model.init_method.path={path}"]
        with pytest.raises(UserError, match=message):
            jobs(Run(load_recipe(ROOT / "configs" / "recipes" / "demo.yaml", missing, home=home), lock=False))
