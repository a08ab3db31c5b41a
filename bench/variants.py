"""Training steps of one model, built three ways: stock nanotron, Hugging Face, and ours. For bench.pretrain.

    python -m bench.variants <stock|hf|ours> <request.json>

One process a variant, so that peak memory is its own and a crash loses one row. Needs torch, nanotron and transformers
only, and no network.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretrain.config import PretrainConfig

Step = Callable[[torch.Tensor], torch.Tensor]
"""One optimizer step on ids ``[rows, sequence + 1]``; returns the loss."""

BETAS, EPS, DECAY, CLIP = (0.9, 0.95), 1e-8, 0.01, 1.0


def main() -> None:
    name, path = sys.argv[1], Path(sys.argv[2])
    request = json.loads(path.read_text())
    config = PretrainConfig.model_validate(request["config"])
    told = measure(name, config, request["device"], request["micro_batches"], request["steps"], request["warmup"])
    path.with_name(f"{name}.json").write_text(json.dumps(told))


def measure(
    name: str, config: PretrainConfig, device: str, micro_batches: list[int], steps: int, warmup: int
) -> list[dict[str, Any]]:
    """Tokens a second and peak memory for growing micro batches, until memory is out."""
    rows = []
    with single_rank(device) as context:
        step = VARIANTS[name](config, device, context)
        for rows_per_step in micro_batches:
            try:
                rows.append(time_steps(step, config, device, rows_per_step, steps, warmup))
            except torch.OutOfMemoryError:
                break
    return rows


def time_steps(step: Step, config: PretrainConfig, device: str, rows: int, steps: int, warmup: int) -> dict[str, Any]:
    length, words = config.tokens.sequence_length, config.model.shape.vocab_size
    ids = torch.from_numpy(np.random.default_rng(0).integers(4, words, (rows, length + 1))).to(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(warmup):
        step(ids)
    seconds = []
    for _ in range(steps):
        synchronize(device)
        began = time.perf_counter()
        loss = step(ids)
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    middle = sorted(seconds)[len(seconds) // 2]
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return {
        "micro_batch": rows,
        "tokens_per_second": rows * length / middle,
        "step_seconds": middle,
        "peak_bytes": peak,
        "loss": float(loss),
    }


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


class single_rank:
    """A process group of one on the device, and nanotron's context over it."""

    def __init__(self, device: str) -> None:
        self.device = device

    def __enter__(self) -> Any:
        import os
        import tempfile

        from pretrain import compat

        os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        if self.device == "cpu":
            os.environ["DUETTO_DEVICE"] = "cpu"
        compat.install()
        from nanotron.parallel import ParallelContext

        self.folder = tempfile.TemporaryDirectory()
        store = torch.distributed.FileStore(f"{self.folder.name}/store", 1)
        backend = "nccl" if self.device == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        return ParallelContext(tensor_parallel_size=1, pipeline_parallel_size=1, data_parallel_size=1)

    def __exit__(self, *_: object) -> None:
        torch.distributed.destroy_process_group()
        self.folder.cleanup()


def stock(config: PretrainConfig, device: str, context: Any) -> Step:
    """nanotron 0.4's own Llama and loss, bf16 with float32 accumulation."""
    from nanotron.models.llama import LlamaForTraining

    return nanotron_step(config, context, LlamaForTraining)


def ours(config: PretrainConfig, device: str, context: Any) -> Step:
    """The same with our options: fused head and loss, compiled layers on a GPU."""
    import functools

    from pretrain.mapping import model_options
    from pretrain.model_options import Llama

    return nanotron_step(config, context, functools.partial(Llama, model_options(config)))


def nanotron_step(config: PretrainConfig, context: Any, model_class: Callable[..., Any]) -> Step:
    from nanotron.config import LlamaConfig, ParallelismArgs, get_config_from_dict
    from nanotron.models import build_model
    from nanotron.optim.clip_grads import clip_grad_norm
    from nanotron.trainer import mark_tied_parameters

    from pretrain import compat, optimizer
    from pretrain.job import OptimizerOptions
    from pretrain.mapping import to_nanotron

    given = to_nanotron(config, checkpoints=Path("/unused"), run_name="bench")
    shape, parallelism = LlamaConfig(**given["model"]["model_config"]), ParallelismArgs(dp=1, pp=1, tp=1)
    args = get_config_from_dict(given).optimizer
    dtype = getattr(torch, config.model.dtype)
    with compat.device_mode():
        torch.manual_seed(0)
        model = build_model(
            lambda: model_class(config=shape, parallel_context=context, parallel_config=parallelism), context, dtype
        )
        for module in model.modules():
            if hasattr(module, "init_rotary_embeddings"):
                module.init_rotary_embeddings()
        mark_tied_parameters(model=model, parallel_context=context, parallel_config=parallelism)
        with torch.no_grad():
            for p in model.parameters():
                p.normal_(0, 0.02) if p.ndim == 2 else p.fill_(1.0)
        built, accumulator = optimizer.build(OptimizerOptions(), model, args, context)
    prefixes = {id(m): f"{n}." for n, m in model.named_modules()} | {id(model): ""}
    named = [
        (p.get_tied_info().get_full_name_from_module_id_to_prefix(prefixes) if p.is_tied else n, p)
        for n, p in model.named_parameters()
    ]

    def step(ids: torch.Tensor) -> torch.Tensor:
        mask = torch.ones_like(ids[:, 1:], dtype=torch.bool)
        loss = model(input_ids=ids[:, :-1], input_mask=mask, label_ids=ids[:, 1:], label_mask=mask)["loss"]
        accumulator.backward(loss) if accumulator is not None else loss.backward()
        clip_grad_norm(mp_pg=context.mp_pg, named_parameters=named, grad_accumulator=accumulator, max_norm=CLIP)
        built.step()
        built.zero_grad()
        return loss.detach()

    return step


def hf(config: PretrainConfig, device: str, context: Any) -> Step:
    """transformers' Llama with sdpa, compiled on a GPU; float32 weights under bf16 autocast."""
    model: Any = hugging_face(config).to(device)
    forward = torch.compile(model) if device == "cuda" else model
    step = plain_step(
        model, forward, config.model.dtype, device, config.optimizer.learning_rate_scheduler.learning_rate
    )
    return step


def hugging_face(config: PretrainConfig) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    m = config.model.shape
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=m.vocab_size,
        hidden_size=m.hidden_size,
        intermediate_size=m.intermediate_size,
        num_hidden_layers=m.num_hidden_layers,
        num_attention_heads=m.num_attention_heads,
        num_key_value_heads=m.num_key_value_heads,
        max_position_embeddings=m.max_position_embeddings,
        tie_word_embeddings=m.tie_word_embeddings,
        rms_norm_eps=m.rms_norm_eps,
    )
    return LlamaForCausalLM._from_config(shape, attn_implementation="sdpa")


def plain_step(model: Any, forward: Any, dtype: str, device: str, learning_rate: float) -> Step:
    """The usual loop: logits in float32, cross-entropy, clip, fused AdamW."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=BETAS, eps=EPS, weight_decay=DECAY, fused=True
    )

    def step(ids: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = forward(input_ids=ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


VARIANTS: dict[str, Callable[[PretrainConfig, str, Any], Step]] = {"stock": stock, "hf": hf, "ours": ours}


if __name__ == "__main__":
    main()
