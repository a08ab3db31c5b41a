"""The planner's arithmetic against published figures, against real models, and against measured bytes."""

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from duetto.cli import main
from duetto.recipe import ROOT, load_recipe, read_yaml, validate
from pretrain import arithmetic, plan
from pretrain.config import PretrainConfig
from pretrain.devices import find


def load(name: str, **parts: object) -> PretrainConfig:
    raw = read_yaml(ROOT / "configs" / "pretrain" / f"{name}.yaml")
    for path, value in parts.items():
        *parents, last = path.split("__")
        at = raw
        for key in parents:
            at = at.setdefault(key, {})
        at[last] = value
    return validate(PretrainConfig, raw, "pretrain")


FLAGSHIP = ["pretrain=configs/pretrain/zagreus-0.4b-ita.yaml", "tokenizer=meta-llama/Llama-3.2-1B"]


def test_flagship_figures() -> None:
    c = load("zagreus-0.4b-ita")
    assert arithmetic.parameters(c.model.shape) == 437_760_960
    assert f"{arithmetic.flops_per_token(c.model.shape, 4096) / 1e9:.2f}" == "4.14"
    assert f"{arithmetic.flops_per_token(c.model.shape, 4096, causal=True) / 1e9:.2f}" == "3.38"


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kv", [1, 2, 4])
def test_parameters_of_a_real_llama(tied: bool, kv: int) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    c = load("demo", model__model_config__tie_word_embeddings=tied, model__model_config__num_key_value_heads=kv)
    m = c.model.shape
    with torch.device("meta"):
        real = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=m.hidden_size,
                intermediate_size=m.intermediate_size,
                num_hidden_layers=m.num_hidden_layers,
                num_attention_heads=m.num_attention_heads,
                num_key_value_heads=kv,
                vocab_size=m.vocab_size,
                tie_word_embeddings=tied,
            )
        )
    assert arithmetic.parameters(m) == sum(p.numel() for p in real.parameters())
    matrices = [p for n, p in real.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    assert arithmetic.matrix_parameters(m) == sum(p.numel() for p in matrices)


def test_flops_against_torchs_counter() -> None:
    """torch counts 2 FLOP a multiply-add of every product, with attention over the full square."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaConfig, LlamaForCausalLM

    m, length = load("demo").model.shape, 64
    config = LlamaConfig(
        hidden_size=m.hidden_size,
        intermediate_size=m.intermediate_size,
        num_hidden_layers=m.num_hidden_layers,
        num_attention_heads=m.num_attention_heads,
        vocab_size=m.vocab_size,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.zeros(1, length, dtype=torch.long)).logits.sum().backward()
    counted = counter.get_total_flops() / length
    norms = 6 * (2 * m.num_hidden_layers + 1) * m.hidden_size  # no products, but 6 x parameters counts them
    # The backward pass of the first layer's input is not computed; nothing else differs.
    assert arithmetic.flops_per_token(m, length) - norms == pytest.approx(counted, rel=0.02)


def saved_bytes(run: object) -> int:
    """Bytes that autograd keeps for the backward pass while ``run()`` computes its result; parameters left out."""
    kept: dict[int, int] = {}

    def keep(t: torch.Tensor) -> torch.Tensor:
        base = t._base if t._is_view() else t
        if not isinstance(base, torch.nn.Parameter):
            storage = t.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        out = run()  # type: ignore[operator]
    assert out is not None
    return sum(kept.values())


def test_activations_of_a_real_decoder_layer() -> None:
    """Two depths of the same model; their difference is the layers' own."""

    def kept(layers: int) -> int:
        from torch import nn
        from torch.nn import functional as F

        class Norm(torch.autograd.Function):
            """As the GPU kernel: keeps its input and one number a row."""

            @staticmethod
            def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
                scale = x.float().square().mean(-1, keepdim=True).rsqrt()
                ctx.save_for_backward(x, scale)
                return (x * scale).to(x.dtype)

        class Layer(nn.Module):
            """A decoder layer of the same products as nanotron's, with kernels that keep only their inputs."""

            def __init__(self, h: int, heads: int, kv: int, f: int) -> None:
                super().__init__()
                self.heads, self.kv, self.d = heads, kv, h // heads
                self.qkv, self.o = nn.Linear(h, h + 2 * kv * self.d, bias=False), nn.Linear(h, h, bias=False)
                self.gate_up, self.down = nn.Linear(h, 2 * f, bias=False), nn.Linear(f, h, bias=False)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                b, s, h = x.shape
                q, k, v = self.qkv(Norm.apply(x)).split([h, self.kv * self.d, self.kv * self.d], -1)
                q, k, v = (t.reshape(b, s, -1, self.d).transpose(1, 2).contiguous() for t in (q, k, v))
                a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
                x = x + self.o(a.transpose(1, 2).reshape(b, s, h))
                gate, up = self.gate_up(Norm.apply(x)).chunk(2, -1)
                return x + self.down(F.silu(gate) * up)

        m = load("demo").model.shape
        model = nn.Sequential(
            *(Layer(m.hidden_size, m.num_attention_heads, 4, m.intermediate_size) for _ in range(layers))
        )
        x = torch.randn(4, 256, m.hidden_size, dtype=torch.bfloat16).requires_grad_()
        model.to(torch.bfloat16)
        return saved_bytes(lambda: model(x))

    measured = (kept(5) - kept(1)) / 4
    deep, shallow = (
        arithmetic.activation_bytes(load("demo", model__model_config__num_hidden_layers=n), micro_batch_size=4)
        for n in (5, 1)
    )
    assert (deep - shallow) / 4 == pytest.approx(measured, rel=0.1)


def measure_state(config: PretrainConfig) -> tuple[int, int, int]:
    """Bytes of weights, gradients and optimizer that the engine itself holds in a step, in one process."""
    from pretrain.mapping import optimizer_options, to_nanotron
    from pretrain.reference import single_process

    with single_process() as context:
        from nanotron.config import LlamaConfig, ParallelismArgs, get_config_from_dict
        from nanotron.models import build_model
        from nanotron.trainer import mark_tied_parameters

        from pretrain import compat, optimizer
        from pretrain.job import ModelOptions
        from pretrain.model_options import Llama

        given = to_nanotron(config, checkpoints=Path("/unused"), run_name="x")
        shape, parallelism = LlamaConfig(**given["model"]["model_config"]), ParallelismArgs(dp=1, pp=1, tp=1)
        args = get_config_from_dict(given).optimizer
        with compat.device_mode():
            model = build_model(lambda: Llama(ModelOptions(), shape, context, parallelism), context, torch.bfloat16)
            mark_tied_parameters(model=model, parallel_context=context, parallel_config=parallelism)
            for module in model.modules():
                if hasattr(module, "init_rotary_embeddings"):
                    module.init_rotary_embeddings()
            torch.manual_seed(0)
            with torch.no_grad():
                for p in model.parameters():
                    p.normal_(0, 0.02)
            built, accumulator = optimizer.build(optimizer_options(config), model, args, context)
            ids = torch.randint(0, shape.vocab_size, (2, 17))
            mask = torch.ones(2, 16, dtype=torch.bool)
            loss = model(input_ids=ids[:, :-1], input_mask=mask, label_ids=ids[:, 1:], label_mask=mask)["loss"]
            loss.backward()
            backward = sum(p.grad.nbytes for p in model.parameters())
            for name, entry in accumulator.fp32_grad_buffers.items():
                accumulator._accumulate_grad(name=name, half_param=entry["half"])
            built.step()
        weights = sum(p.nbytes for p in model.parameters())
        master = {e["fp32"].untyped_storage().data_ptr(): e["fp32"].untyped_storage().nbytes()
                  for e in accumulator.parameters.values()}  # fmt: skip
        base = built.get_base_optimizer()
        tensors = (t for state in base.state.values() for t in state.values() if isinstance(t, torch.Tensor) and t.ndim)
        moments = sum(t.nbytes for t in tensors)
        return weights, backward + accumulator._contiguous_fp32_grad_buffer.nbytes, sum(master.values()) + moments


@pytest.mark.parametrize("name", ["adamW", "muon"])
def test_state_bytes_of_the_real_engine(name: str) -> None:
    """The planner's formulas against nanotron's own objects after a step."""
    config = load("demo", parallelism__dp=1)
    if name == "adamW":
        factory = {
            "name": "adamW",
            "adam_eps": 1e-8,
            "adam_beta1": 0.9,
            "adam_beta2": 0.95,
            "torch_adam_is_fused": True,
        }
        config = load("demo", parallelism__dp=1, optimizer__optimizer_factory=factory)
    for part, want, got in zip(
        ("weights", "gradients", "optimizer"), arithmetic.state_bytes(config), measure_state(config)
    ):
        assert got == pytest.approx(want, rel=0.01), part


class Peak(TorchDispatchMode):
    """Most bytes of tensors made inside the block that are alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor):
                storage = t.untyped_storage()
                if storage._cdata not in self.live:
                    self.live[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self.live.pop, storage._cdata, None)
        self.bytes = max(self.bytes, sum(self.live.values()))
        return out


@pytest.mark.parametrize("fused", [True, False])
def test_logits_of_both_losses(fused: bool) -> None:
    from pretrain.linear_cross_entropy import linear_cross_entropy
    from pretrain.reference import single_process

    vocab, hidden, tokens, chunk = 32_000, 128, 1024, 128
    changes = {"model__model_config__vocab_size": vocab, "duetto__cross_entropy_chunk": chunk}
    config = load("demo", **changes, duetto__fused_cross_entropy=fused)
    x = torch.randn(tokens, hidden, dtype=torch.bfloat16, requires_grad=True)
    head = torch.randn(vocab, hidden, dtype=torch.bfloat16, requires_grad=True)
    labels = torch.randint(0, vocab, (tokens,))
    with single_process() as context:
        from nanotron.parallel.tensor_parallel.functional import sharded_cross_entropy

        with Peak() as peak:
            if fused:
                linear_cross_entropy(x, head, labels, torch.full((tokens,), 1 / tokens), chunk=chunk).backward()
            else:
                logits = (x @ head.t()).float()[:, None]
                sharded_cross_entropy(logits, labels[:, None], group=context.tp_pg, dtype=torch.float).mean().backward()
    want = arithmetic.logit_bytes(config, micro_batch_size=tokens // config.tokens.sequence_length, gpu=False)
    assert peak.bytes == pytest.approx(want, rel=0.05)


def test_memory_of_parallelism() -> None:
    one = load("zagreus-0.4b-ita")
    zero = load("zagreus-0.4b-ita", optimizer__zero_stage=1)
    assert arithmetic.memory(zero).optimizer == pytest.approx(arithmetic.memory(one).optimizer / 64)
    assert arithmetic.memory(zero).gradients == arithmetic.memory(one).gradients
    less = load("zagreus-0.4b-ita", parallelism__recompute_layer=True)
    assert arithmetic.memory(less).activations < 0.15 * arithmetic.memory(one).activations
    plain = load("zagreus-0.4b-ita", duetto__fused_cross_entropy=False)
    # 10 bytes a token and word: the published "34 GB before gradients" is 16 x 4096 tokens at 4 bytes.
    assert arithmetic.memory(plain).logits == pytest.approx(10 * 4 * 4096 * 128256)
    assert arithmetic.memory(one).logits < arithmetic.memory(plain).logits / 15


def test_micro_batch_that_fits() -> None:
    c = load("zagreus-0.4b-ita")
    for name in ("a100 40gb", "A100-SXM4-80GB", "H200"):
        device = find(name)
        assert device is not None
        fits = arithmetic.largest_micro_batch(c, device.memory)
        assert arithmetic.memory(c, fits).total <= 0.92 * device.memory < arithmetic.memory(c, fits + 1).total
    assert arithmetic.largest_micro_batch(c, 8e9) == 0


@pytest.mark.parametrize(
    ("name", "sheet"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100 80 GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 40 GB"),
        ("a100", "A100 80 GB"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce GTX 1650 Ti", None),
        ("cpu", None),
        (None, None),
    ],
)
def test_data_sheets(name: str | None, sheet: str | None) -> None:
    device = find(name)
    assert (device.name if device else None) == sheet


def test_plan_of_the_flagship(tmp_path: Path) -> None:
    recipe = load_recipe(ROOT / "configs" / "recipes" / "demo.yaml", FLAGSHIP, home=tmp_path)
    found = plan.plan(recipe, tmp_path, gpu="A100-80GB", price=2.0)
    stage = found["stages"][0]
    low, high = stage["tokens_per_second_per_gpu"]
    # The published run: 19-24k tokens/s a GPU, inferred from its dates.
    assert low < 19_000 < 24_000 < high
    assert stage["days"][0] < 838.9e9 / 64 / 24e3 / 86400 < stage["days"][1]
    hours = stage["gpu_hours"]
    assert stage["cost"] == pytest.approx([2 * h for h in hours])
    assert stage["energy_kwh"] == pytest.approx([0.4 * h for h in hours])
    assert stage["micro_batch"]["fits"] >= 4
    assert sum(v for k, v in stage["memory_per_rank"].items() if k != "total") == pytest.approx(
        stage["memory_per_rank"]["total"]
    )
    assert stage["disk"]["checkpoints_kept"] == 19 * stage["disk"]["checkpoint"]


def test_unknown_gpu_is_na(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DUETTO_HOME", str(tmp_path))
    assert main(["plan", "--gpu", "GTX 1650 Ti", *FLAGSHIP]) == 0
    out = capsys.readouterr().out
    assert "437.8 M" in out and "4.14" in out and "3.38" in out
    assert "no data sheet for GPU 'GTX 1650 Ti'" in out
    line = next(row for row in out.splitlines() if row.strip().startswith("tokens/s and GPU"))
    assert line.split()[-1] == "n/a"


def test_json_has_every_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DUETTO_HOME", str(tmp_path))
    assert main(["plan", "--json", "--gpu", "H200", "--gpus", "8", "--price", "3", *FLAGSHIP]) == 0
    stage = json.loads(capsys.readouterr().out)["stages"][0]
    assert stage["gpus"] == 8 and all(stage[k] for k in ("days", "energy_kwh", "cost", "tokens_per_second"))
    assert set(stage["memory_per_rank"]) >= {"weights", "gradients", "optimizer", "activations", "logits"}


def test_cpu_run_has_no_gpu_figures(tmp_path: Path) -> None:
    recipe = load_recipe(ROOT / "configs" / "recipes" / "demo.yaml", home=tmp_path)
    stage = plan.plan(recipe, tmp_path, gpu="H200", price=1.0)["stages"][0]
    assert stage["days"] is None and stage["cost"] is None and stage["micro_batch"]["fits"] is None
    assert stage["memory_per_rank"]["reserve"] == 0
