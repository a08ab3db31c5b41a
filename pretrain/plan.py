"""What a recipe will take, by arithmetic: parameters, FLOPs, memory, days, energy, cost, disk.

    duetto plan --recipe configs/recipes/zagreus-0.4b-ita.yaml --price 1.8
    duetto plan --gpu H200 --gpus 8 --json

Nothing is started and no engine is imported. A GPU without a data sheet in pretrain.devices gets n/a, not a guess.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.table import Table

from duetto.console import console, duration
from duetto.files import read_json
from duetto.recipe import Recipe
from duetto.run import Run
from pretrain import arithmetic as count
from pretrain.config import PretrainConfig
from pretrain.devices import Device, find
from pretrain.mapping import with_vocabulary

MFU = (0.25, 0.45)
"""Range of model FLOP utilisation (full attention counted, against the data sheet's dense bf16 peak): the low end is
the published run's (25-32 %, inferred from its dates), the high end is this project's goal on one GPU."""

Range = list[float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gpu", help="name of the GPU (default: the cluster's)")
    parser.add_argument("--gpus", type=int, help="how many there are (default: dp x tp x pp of each stage)")
    parser.add_argument("--price", type=float, help="price of one GPU for one hour, in your currency")


def run(run: Run, args: argparse.Namespace) -> None:
    found = plan(run.recipe, run.root, gpu=args.gpu, gpus=args.gpus, price=args.price)
    if args.json:
        console.print_json(json.dumps(found))
    else:
        show(found)


def plan(
    recipe: Recipe, run_root: Path, gpu: str | None = None, gpus: int | None = None, price: float | None = None
) -> dict[str, Any]:
    """The whole plan as plain data; a figure that cannot be known is None."""
    name = gpu or getattr(recipe.cluster, "gpu", None)
    price = price if price is not None else getattr(recipe.cluster, "price_per_gpu_hour", None)
    device = find(name)
    size = vocabulary(recipe, run_root)
    configs = [with_vocabulary(c, size) if c.model.shape.vocab_size == -1 and size else c for c in recipe.pretrain]
    stages = [plan_stage(c, device, gpus, price) for c in configs]
    for i, stage in enumerate(stages):
        stage["name"] = configs[i].general.run or f"{recipe.name}, stage {i + 1}"
    out: dict[str, Any] = {"recipe": recipe.name, "gpu": {"asked": name, "sheet": device.name if device else None}}
    out |= {"price_per_gpu_hour": price, "mfu": list(MFU), "stages": stages, "total": {}}
    for key in ("gpu_hours", "days", "energy_kwh", "cost"):
        ranges = [s[key] for s in stages]
        out["total"][key] = [sum(r[i] for r in ranges) for i in (0, 1)] if all(ranges) else None
    tokens = token_bytes(recipe, run_root, configs[0].model.shape.vocab_size)
    kept = sum(s["disk"]["checkpoints_kept"] for s in stages)
    out["disk"] = {"tokens": tokens, "checkpoints_kept": kept, "total": kept + (tokens or 0)}
    return out


def plan_stage(config: PretrainConfig, device: Device | None, gpus: int | None, price: float | None) -> dict[str, Any]:
    """One pretraining file on ``gpus`` devices (its own world size when None)."""
    m, t = config.model.shape, config.tokens
    world = gpus or config.parallelism.world_size
    full = count.flops_per_token(m, t.sequence_length)
    on_gpu = config.duetto.device != "cpu"
    memory = count.memory(config, gpu=on_gpu)
    extra = 4 / 3 if config.parallelism.recompute_layer else 1  # a second forward pass, which no MFU counts
    rates: Range | None = [device.peak_flops * mfu / full / extra for mfu in MFU] if device and on_gpu else None
    hours: Range | None = None
    if rates:
        hours = [config.total_tokens / rate / 3600 for rate in reversed(rates)]
    written = -(-t.train_steps // config.checkpoints.checkpoint_interval)
    keep = config.duetto.keep
    milestones = t.train_steps // keep.every if keep.every else 0
    kept = min(written, keep.last + milestones)
    each = count.checkpoint_bytes(config)
    return {
        "parameters": count.parameters(m),
        "parameters_without_embedding": m.num_hidden_layers * count.layer_parameters(m) + m.hidden_size,
        "flops_per_token": {"full": full, "causal": count.flops_per_token(m, t.sequence_length, causal=True)},
        "tokens": config.total_tokens,
        "steps": t.train_steps,
        "tokens_per_step": config.tokens_per_step,
        "flops": full * config.total_tokens,
        "world_size": config.parallelism.world_size,
        "gpus": world if on_gpu else 0,
        "memory_per_rank": memory.__dict__ | {"total": memory.total},
        "device_memory": device.memory if device and on_gpu else None,
        "micro_batch": {
            "configured": t.micro_batch_size,
            "fits": count.largest_micro_batch(config, device.memory) if device and on_gpu else None,
        },
        "tokens_per_second_per_gpu": rates,
        "tokens_per_second": [r * world for r in rates] if rates else None,
        "step_seconds": [config.tokens_per_step / r / world for r in reversed(rates)] if rates else None,
        "all_reduce_bytes_per_step": count.all_reduce_bytes(config),
        "gpu_hours": hours,
        "days": [h / world / 24 for h in hours] if hours else None,
        "energy_kwh": [h * device.power / 1000 for h in hours] if hours and device else None,
        "cost": [h * price for h in hours] if hours and price is not None else None,
        "disk": {
            "checkpoint": each,
            "checkpoints_written": written,
            "checkpoints_kept": kept * each,
            "without_retention": written * each,
        },
    }


def vocabulary(recipe: Recipe, run_root: Path) -> int | None:
    """Length of the tokenizer, as far as it is known before tokenizing."""
    if not isinstance(recipe.tokenizer, str):
        return recipe.tokenizer.train.vocab_size
    sizes = [c.model.shape.vocab_size for c in recipe.pretrain]
    mixture = run_root / "tokens" / "mixture.json"
    own = read_json(mixture)["tokenizer"]["vocab_size"] if mixture.exists() else None
    return own or next((s for s in sizes if s != -1), None)


def token_bytes(recipe: Recipe, run_root: Path, vocab_size: int) -> int | None:
    """Bytes of the token files: as they are, or the budgets at one pass each before they are made."""
    folder = run_root / "tokens"
    found = sum(p.stat().st_size for p in folder.glob("*/*.ds*"))
    if found:
        return found
    budgets = [sum(stage.tokens.values()) for stage in getattr(recipe.data, "stages", [])]
    width = 2 if 0 < vocab_size <= 2**16 - 1 else 4
    return sum(budgets) * width if budgets else None


def show(found: dict[str, Any]) -> None:
    """The plan as a table, a column a stage."""
    table = Table(title=f"Plan of {found['recipe']}", title_justify="left", box=None, padding=(0, 2))
    table.add_column("", no_wrap=True)
    for stage in found["stages"]:
        table.add_column(stage["name"], justify="right", no_wrap=True)

    def row(label: str, cell: Any) -> None:
        table.add_row(label, *[cell(s) for s in found["stages"]])

    row("parameters", lambda s: f"{s['parameters'] / 1e6:,.1f} M")
    row("  without embedding and head", lambda s: f"{s['parameters_without_embedding'] / 1e6:,.1f} M")
    row("GFLOP per token, full attention", lambda s: _giga(s["flops_per_token"]["full"]))
    row("GFLOP per token, causal half", lambda s: _giga(s["flops_per_token"]["causal"]))
    row("tokens", lambda s: _big(s["tokens"]))
    row("  in steps of", lambda s: f"{s['steps']:,} x {s['tokens_per_step']:,}")
    row("FLOP in all (full)", lambda s: f"{s['flops']:.3g}")
    row("processes (dp x tp x pp)", lambda s: str(s["world_size"]))
    row("memory of a rank", lambda s: size(s["memory_per_rank"]["total"]))
    for part in ("weights", "gradients", "optimizer", "activations", "logits", "reserve"):
        row(f"  {part}", lambda s, part=part: size(s["memory_per_rank"][part]))
    row("  of the device's", lambda s: _or_na(s["device_memory"], size))
    row("micro batch", lambda s: str(s["micro_batch"]["configured"]))
    row("  largest that fits", lambda s: _or_na(s["micro_batch"]["fits"], str))
    row("all-reduce a rank and step", lambda s: size(s["all_reduce_bytes_per_step"]))
    row("tokens/s and GPU", lambda s: _span(s["tokens_per_second_per_gpu"], lambda x: f"{x:,.0f}"))
    row("tokens/s", lambda s: _span(s["tokens_per_second"], _big))
    row("time a step", lambda s: _span(s["step_seconds"], lambda x: f"{x:.2f} s"))
    row("time", lambda s: _span(s["days"], lambda x: duration(x * 86400)))
    row("GPU hours", lambda s: _span(s["gpu_hours"], lambda x: f"{x:,.0f}"))
    row("energy of the boards", lambda s: _span(s["energy_kwh"], lambda x: f"{x:,.0f} kWh"))
    row("cost", lambda s: _span(s["cost"], lambda x: f"{x:,.0f}"))
    row("a checkpoint", lambda s: size(s["disk"]["checkpoint"]))
    row(
        "  kept, of written",
        lambda s: f"{size(s['disk']['checkpoints_kept'])} of {size(s['disk']['without_retention'])}",
    )
    console.print(table)
    tokens = found["disk"]["tokens"]
    console.print(f"disk: {size(found['disk']['total'])} = tokens {_or_na(tokens, size)} + checkpoints kept")
    total = found["total"]
    if len(found["stages"]) > 1:
        console.print(
            f"all stages: {_span(total['days'], lambda x: duration(x * 86400))}, cost {_span(total['cost'], _big)}"
        )
    sheet = found["gpu"]["sheet"]
    if sheet:
        low, high = found["mfu"]
        console.print(
            f"{sheet}: ranges are {low:.0%} to {high:.0%} of its dense bf16 peak, counting full attention; energy is "
            "the boards at their limit, without hosts and cooling"
        )
    else:
        asked = found["gpu"]["asked"]
        why = (
            f"no data sheet for GPU {asked!r}" if asked else "no GPU is named (--gpu NAME, or a cluster in the recipe)"
        )
        console.print(f"{why}: what depends on it is n/a")
    if found["price_per_gpu_hour"] is None:
        console.print("cost is n/a without --price (one GPU, one hour)")


def size(n: float) -> str:
    """``6128653440`` -> ``6.13 GB`` (decimal units, as disks and data sheets count)."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n >= scale:
            return f"{n / scale:.3g} {unit}"
    return f"{n / 1e3:.3g} kB"


def _giga(x: float) -> str:
    return f"{x / 1e9:.2f}" if x >= 1e8 else f"{x / 1e9:.4f}"


def _big(n: float) -> str:
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= scale:
            return f"{n / scale:.4g} {unit}"
    return f"{n:.4g}"


def _or_na(value: Any, text: Any) -> str:
    return "n/a" if value is None else text(value)


def _span(pair: Range | None, text: Any) -> str:
    return "n/a" if pair is None else f"{text(pair[0])} to {text(pair[1])}"
