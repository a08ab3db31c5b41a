"""Options that nanotron 0.4 lacks, each against an independent account of what it should do."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from data.loader import document_positions
from pretrain.convert_back import to_nanotron
from pretrain.samples import open_samples
from tests.pretrain.conftest import EOS, SEQUENCE, VOCAB, MakeJob, build_llama
from tests.pretrain.ranks import _free_port, _rank, in_engine, train

ROWS = 16


def windows(job: Any) -> torch.Tensor:
    return torch.from_numpy(open_samples(job.data[0], SEQUENCE, EOS, VOCAB).batch(0, ROWS))


def first_loss(folder: Path, window: torch.Tensor, **inputs: Any) -> torch.Tensor:
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    logits = model(input_ids=window[:, :-1], **inputs).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())


def test_document_masking(llama: Path, make_job: MakeJob) -> None:
    """Against Hugging Face with a block-diagonal mask and positions that start again in each document."""
    start = str(llama.with_name("halves"))
    job = make_job(model={"rope_interleaved": False, "document_masking": True}, init_from=start, rows=8)
    window = windows(job)
    position = torch.from_numpy(document_positions(window[:, :-1].numpy(), EOS)).long()
    document = (position == 0).cumsum(1)
    same = (document[:, :, None] == document[:, None, :]) & torch.ones(SEQUENCE, SEQUENCE).tril().bool()
    mask = torch.where(same[:, None], 0.0, float("-inf"))
    masked = float(first_loss(llama, window, position_ids=position, attention_mask=mask))
    plain = float(first_loss(llama, window))
    assert abs(masked - plain) > 1e-4  # the option changes something here
    assert train(job).losses[0] == pytest.approx(masked, abs=1e-6)


@pytest.mark.parametrize(("theta", "interleaved"), [(1e6, False), (1e6, True), (500.0, False)])
def test_rope(theta: float, interleaved: bool, make_job: MakeJob, tmp_path: Path) -> None:
    folder = build_llama(tmp_path / "hf", theta)
    in_engine(to_nanotron, folder, tmp_path / "checkpoint", interleaved=interleaved)
    options = {"rope_interleaved": interleaved, "rope_theta": theta}
    job = make_job(model=options, init_from=str(tmp_path / "checkpoint"), rows=8, steps=1)
    expected = float(first_loss(folder, windows(job)))
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = theta * 1.5
    (folder / "config.json").write_text(json.dumps(config))
    assert abs(float(first_loss(folder, windows(job))) - expected) > 1e-6  # the test sees a wrong theta
    assert train(job).losses[0] == pytest.approx(expected, abs=1e-6)


VARIANTS = {
    "unfused": {"fused_cross_entropy": False},
    "small slices": {"cross_entropy_chunk": 7},
    "recompute": {"recompute_layer": True},
    "z-loss": {"z_loss": 1e-2},
    "z-loss unfused": {"z_loss": 1e-2, "fused_cross_entropy": False},
}


def test_variants_agree(make_job: MakeJob) -> None:
    """Slices, recompute and the plain head give the same run; z-loss the same on both heads, and another one."""
    losses = {"plain": train(make_job("plain")).losses}
    for name, options in VARIANTS.items():
        losses[name] = train(make_job(name, model=options)).losses
    for name in ("unfused", "small slices", "recompute"):
        assert losses[name] == pytest.approx(losses["plain"], abs=1e-5), name
    assert losses["z-loss"] == pytest.approx(losses["z-loss unfused"], abs=1e-5)
    assert losses["z-loss"][0] > losses["plain"][0] + 0.1


def test_compiled_layers_are_the_plain_ones(make_job: MakeJob) -> None:
    """torch.compile of each layer, the default on a GPU: what is traced is the layer. (With its code generator, which
    takes a minute on a CPU, the losses agreed within the same 1e-5.)"""
    plain = train(make_job("plain", steps=3)).losses
    job = make_job("compiled", steps=3, model={"compile_layers": True})
    job.root.mkdir(parents=True)
    job.save(job.root / "job-0.json")
    graphs = in_engine(traced, str(job.root / "job-0.json"), str(job.root / "log"))
    assert 0 < graphs < 20  # one set for both layers, not one for each
    losses = [json.loads(line)["loss"] for line in (job.root / "metrics.jsonl").read_text().splitlines()]
    assert losses == pytest.approx(plain, abs=1e-5)


def traced(job_file: str, log: str) -> int:
    """Train with every graph recorded; how many there were."""
    import functools

    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compile = functools.partial(torch.compile, backend=backend)  # type: ignore[assignment]
    _rank(0, 1, _free_port(), job_file, log, {})
    return len(graphs)


def test_bf16_fast_path_is_the_plain_one_within_its_tolerance(make_job: MakeJob) -> None:
    plain = train(make_job("plain", dtype="bfloat16", model={"fused_cross_entropy": False})).losses
    fused = train(make_job("fused", dtype="bfloat16", model={"cross_entropy_chunk": 50})).losses
    assert fused == pytest.approx(plain, abs=5e-3)


def test_z_loss_under_tp(make_job: MakeJob) -> None:
    one = train(make_job("one", model={"z_loss": 1e-2}, rows=8, init_from=None)).losses[0]
    two = train(make_job("two", model={"z_loss": 1e-2}, rows=8, tp=2)).losses[0]
    assert two == pytest.approx(one, abs=0.2)  # another random start: the term is there, not dropped or doubled


def test_zero_init(make_job: MakeJob) -> None:
    """With every layer silent, the first loss is that of the embedding alone: no layer changes it."""
    zero = train(make_job("zero", steps=1, model={"zero_init_output": True}, shape={"num_hidden_layers": 2})).losses[0]
    job = make_job("other", steps=1, model={"zero_init_output": True, "rope_theta": 3.0})
    assert train(job).losses[0] == zero
    assert train(make_job("plain", steps=1)).losses[0] != zero


def test_copying_init(make_job: MakeJob) -> None:
    """Keys equal queries, the output gives back the values; and the option reaches the model."""
    in_engine(copies)
    copier = train(make_job("copier", steps=1, model={"copying_init": 0.2}, rows=8, init_from=None, pp=2)).losses[0]
    assert copier != train(make_job("plain", steps=1, rows=8, init_from=None, pp=2)).losses[0]


def copies() -> None:
    from pretrain.model_options import start_as_copier

    hidden, heads, groups, dim = 16, 4, 2, 4
    attention = torch.nn.Module()
    attention.n_local_q_heads, attention.n_local_kv_heads, attention.d_qk = heads, groups, dim
    attention.qkv_proj = torch.nn.Linear(hidden, (heads + 2 * groups) * dim, bias=False)
    attention.o_proj = torch.nn.Linear(hidden, hidden, bias=False)
    with torch.no_grad():
        start_as_copier(attention, 0.5, seed=3)
    q, k, v = attention.qkv_proj.weight.detach().split([heads * dim, groups * dim, groups * dim])
    assert torch.allclose(k @ k.T, torch.eye(groups * dim), atol=1e-5)
    assert torch.equal(q.view(heads, dim, hidden)[1], k.view(groups, dim, hidden)[0])
    values = v.view(groups, dim, hidden).repeat_interleave(heads // groups, 0).reshape(-1, hidden)
    copied = attention.o_proj.weight.detach() @ values  # all heads looking at one token: a part of it, half as strong
    assert torch.allclose(copied, 0.5 * v.T @ v, atol=1e-5)


def test_schedule_reaches_the_optimizer(make_job: MakeJob) -> None:
    from pretrain.schedule import LRScheduler, learning_rate

    for style in ("cosine", "linear", "1-sqrt"):
        schedule = LRScheduler(
            learning_rate=3e-3, lr_warmup_steps=2, lr_decay_style=style, lr_decay_starting_step=3, lr_decay_steps=5,
            min_decay_lr=1e-4,
        )  # fmt: skip
        job = make_job(style.replace("-", ""), steps=8).model_copy(update={"schedule": schedule})
        rates = [r["lr"] for r in train(job).records]
        assert rates == pytest.approx([learning_rate(schedule, s) for s in range(8)])


def test_validation_against_hugging_face(llama: Path, tokens: Path, make_job: MakeJob) -> None:
    """Held-out loss and bits per byte, computed again by hand, over two ranks with an uneven share."""
    start = str(llama.with_name("halves"))
    job = make_job(dp=2, steps=1, model={"rope_interleaved": False}, init_from=start, validate=0, compare_before=True)
    train(job)
    before = json.loads((job.root / "validation.jsonl").read_text().splitlines()[0])
    held_out = np.fromfile(tokens / "held-out.ds", dtype="<u2").astype(np.int64)[: 8 * SEQUENCE + 1]
    window = torch.from_numpy(np.stack([held_out[i : i + SEQUENCE + 1] for i in range(0, 8 * SEQUENCE, SEQUENCE)]))
    expected = float(first_loss(llama, window))
    assert before["step"] == 0 and before["tokens"] == 8 * SEQUENCE
    assert before["loss"] == pytest.approx(expected, abs=1e-6)
    assert before["bits_per_byte"] == pytest.approx(expected * 3000 / 9000 / np.log(2))


def test_reading_ahead_gives_the_same_batches(make_job: MakeJob, tokens: Path) -> None:
    """Three threads across a change of the data stage, and from the middle: what the loop would read itself."""
    job = make_job(steps=9, rows=2)
    later = job.data[0].model_copy(update={"name": "later", "start_step": 4, "seed": 11})
    in_engine(read_twice, job.model_copy(update={"data": [job.data[0], later]}))


def read_twice(job: Any) -> None:
    from types import SimpleNamespace

    from pretrain import batches

    group = SimpleNamespace(size=lambda: 1)
    model = SimpleNamespace(input_pp_rank=0, output_pp_rank=0)
    trainer = SimpleNamespace(parallel_context=SimpleNamespace(dp_pg=group, pp_pg=group), unwrapped_model=model)
    batches.dist.get_rank = lambda _: 0
    for first in (1, 6):
        plain, ahead = batches.Feed(job, trainer, 0), batches.Feed(job, trainer, 3)
        for step in range(first, job.steps + 1):
            for a, b in zip(plain.step(step), ahead.step(step), strict=True):
                assert all(torch.equal(a[k], b[k]) for k in ("input_ids", "label_ids"))
        assert not ahead.ahead  # nothing beyond the last step
        ahead.close()
