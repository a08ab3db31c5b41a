"""The pretraining bench on the CPU in a tiny shape: the code that runs on a GPU, through the same interfaces."""

import json
from pathlib import Path

import pytest

from bench import pretrain as bench
from tests.pretrain.ranks import in_engine
from tests.pretrain.runs import forked

TINY = {
    "model__model_config__hidden_size": 32,
    "model__model_config__intermediate_size": 48,
    "model__model_config__num_hidden_layers": 2,
    "model__model_config__vocab_size": 512,
    "tokens__sequence_length": 32,
}


def test_three_engines_train_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(bench, "run_logged", forked)
    factory = {"name": "adamW", "adam_eps": 1e-8, "adam_beta1": 0.9, "adam_beta2": 0.95, "torch_adam_is_fused": True}
    config = bench.load("demo", **TINY, optimizer__optimizer_factory=factory)
    bench.on_gpu(tmp_path, config, "cpu", [1, 2], steps=2, file=tmp_path / "out.json")
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["name"] == "pretrain-cpu" and set(told["goals"]) == {"against_stock", "mfu_full"}
    for name in ("stock", "hf", "ours"):
        rows = told["figures"][name]
        assert [r["micro_batch"] for r in rows] == [1, 2]
        assert all(r["tokens_per_second"] > 0 and 0 < r["mfu_causal"] < r["mfu_full"] for r in rows)
    # The same weights and batches: the fused path gives the stock path's loss within bf16.
    for stock, ours in zip(told["figures"]["stock"], told["figures"]["ours"]):
        assert ours["loss"] == pytest.approx(stock["loss"], rel=5e-3)
    out = capsys.readouterr().out
    assert "MFU full" in out and out.count("ours") >= 2


def test_sliced_logits_take_less_memory_for_the_same_loss(tmp_path: Path) -> None:
    told = {}
    for fused in (True, False):
        path = tmp_path / f"{fused}.json"
        path.write_text(json.dumps({"fused": fused, "steps": 1, "tokens": 1024, "words": 64_000}))
        in_engine(bench.head, path)
        told[fused] = json.loads(path.with_suffix(".out").read_text())
    assert told[True]["loss"] == pytest.approx(told[False]["loss"], rel=1e-5)
    assert told[True]["bytes"] < told[False]["bytes"]
