"""Conversion both ways: logits parity as the gate, every tensor used exactly once, any topology."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from duetto.errors import UserError
from pretrain.checkpoints import COMMIT
from pretrain.convert import TOLERANCE, to_hugging_face
from pretrain.convert_back import to_nanotron
from pretrain.job import Job
from tests.pretrain.conftest import MakeJob
from tests.pretrain.ranks import in_engine, train


def last(job: Job) -> Path:
    return job.root / "checkpoints" / str(job.last_step)


@pytest.mark.parametrize(
    "topology", [{"dp": 2, "dtype": "bfloat16"}, {"tp": 2}, {"tp": 2, "pp": 2}], ids=["dp2-bf16", "tp2", "tp2-pp2"]
)
@pytest.mark.parametrize("interleaved", [True, False], ids=["pairs", "halves"])
def test_trained_checkpoint(topology: dict, interleaved: bool, make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(steps=6, model={"rope_interleaved": interleaved}, **topology)
    train(job)
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text("{}")
    parity = in_engine(to_hugging_face, last(job), tmp_path / "base", tokenizer)
    assert parity["max_abs_logit_difference"] <= TOLERANCE
    assert json.loads((tmp_path / "base" / "parity.json").read_text()) == parity
    assert (tmp_path / "base" / "tokenizer.json").exists()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert model.dtype == (torch.bfloat16 if "dtype" in topology else torch.float32)
    assert parity["tensors"] == len(load_file(tmp_path / "base" / "model.safetensors"))
    assert model.generation_config.eos_token_id == job.eos_id


def test_a_checkpoint_of_one_topology_starts_another(make_job: MakeJob) -> None:
    """Weights written by tp 2 x pp 2 are cut anew by the loader: every topology begins with the same loss."""
    made = make_job("made", steps=6, tp=2, pp=2)
    train(made)
    losses = {}
    for name, topology in {"one": {}, "tp2": {"tp": 2}, "pp2": {"pp": 2}}.items():
        losses[name] = train(make_job(name, steps=3, init_from=str(last(made)), **topology)).losses
    assert losses["tp2"] == pytest.approx(losses["one"], abs=1e-5) == losses["pp2"]


def test_wrong_rotary_layout_is_refused(make_job: MakeJob, llama: Path, tmp_path: Path) -> None:
    """The mistake that argmax does not show: nothing is written."""
    job = make_job(steps=6, model={"rope_interleaved": True})
    train(job)
    with pytest.raises(UserError, match="logits differ from nanotron's by"):
        in_engine(to_hugging_face, last(job), tmp_path / "base", fault="rotary")
    assert not (tmp_path / "base").exists()
    with pytest.raises(UserError, match="logits differ from the model's by"):
        in_engine(to_nanotron, llama, tmp_path / "back", interleaved=True, fault="rotary")
    assert not (tmp_path / "back").exists()


def test_tensors_left_over_or_missing(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(steps=6, tp=2)
    train(job)
    checkpoint = last(job)
    commit = json.loads((checkpoint / COMMIT).read_text())
    shard = next((checkpoint / "model").rglob("*qkv_proj/*tp-rank-1-of-2*"))
    del commit["files"][str(shard.relative_to(checkpoint))]
    (checkpoint / COMMIT).write_text(json.dumps(commit))
    data = shard.read_bytes()
    shard.unlink()
    with pytest.raises(UserError, match="qkv_proj.weight has .* a tensor parallel shard is missing"):
        in_engine(to_hugging_face, checkpoint, tmp_path / "base")
    shard.write_bytes(data)
    extra = checkpoint / "model" / "model" / "more" / "model_weight.safetensors"
    extra.parent.mkdir()
    save_file({"data": torch.zeros(2)}, extra)
    with pytest.raises(UserError, match=r"not used exactly once: model\.more\.weight"):
        in_engine(to_hugging_face, checkpoint, tmp_path / "base")
    (checkpoint / COMMIT).unlink()
    with pytest.raises(UserError, match="no COMMIT marker"):
        in_engine(to_hugging_face, checkpoint, tmp_path / "base")


@pytest.mark.parametrize("layout", ["halves", "pairs"])
def test_there_and_back(layout: str, llama: Path, tmp_path: Path) -> None:
    """Hugging Face -> nanotron -> Hugging Face gives the very same tensors."""
    in_engine(to_hugging_face, llama.with_name(layout), tmp_path / "again")
    before, after = load_file(llama / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    theirs, ours = (
        json.loads((llama / "config.json").read_text()),
        json.loads((tmp_path / "again" / "config.json").read_text()),
    )
    assert ours["rope_parameters"] == theirs["rope_parameters"] and ours["vocab_size"] == theirs["vocab_size"]


def test_sharded_model_and_what_is_no_llama(llama: Path, tmp_path: Path) -> None:
    LlamaForCausalLM.from_pretrained(llama).save_pretrained(tmp_path / "parts", max_shard_size="100KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    parity = in_engine(to_nanotron, tmp_path / "parts", tmp_path / "checkpoint")
    assert parity["max_abs_logit_difference"] <= TOLERANCE
    next((tmp_path / "parts").glob("*-00002-*")).unlink()
    with pytest.raises(UserError, match="a shard is missing"):
        in_engine(to_nanotron, tmp_path / "parts", tmp_path / "checkpoint2")
    config = json.loads((llama / "config.json").read_text())
    (tmp_path / "parts" / "config.json").write_text(json.dumps({**config, "attention_bias": True}))
    with pytest.raises(UserError, match="attention_bias True: nanotron 0.4 trains plain Llamas"):
        in_engine(to_nanotron, tmp_path / "parts", tmp_path / "checkpoint3")
