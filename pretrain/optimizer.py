"""The optimizers: AdamW with decay groups, and Muon for the hidden matrices with AdamW for the rest.

nanotron builds one AdamW with one weight decay for everything; `build` and `load` take the place of its two functions
(same signatures), and keep its fp32 master weights and gradient accumulation, its DDP hook and its ZeRO-1 for AdamW.
"""

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from nanotron import distributed as dist
from nanotron.optim import NamedOptimizer, OptimizerFromGradientAccumulator, ZeroDistributedOptimizer
from nanotron.optim.gradient_accumulator import FP32GradBucketManager, FP32GradientAccumulator, get_fp32_accum_hook
from nanotron.serialize import load_optimizer
from torch.nn.parallel import DistributedDataParallel

from pretrain.job import OptimizerOptions
from pretrain.muon import Muon

HIDDEN = re.compile(r"\.decoder\.\d+\..*\.(qkv_proj|o_proj|gate_up_proj|down_proj)\.weight$")
"""The matrices inside the decoder layers, in nanotron's names."""


def build(
    options: OptimizerOptions, model: torch.nn.Module, optimizer_args: Any, parallel_context: Any
) -> tuple[Any, FP32GradientAccumulator | None]:
    """nanotron.helpers.init_optimizer_and_grad_accumulator with our groups and optimizers.

    Returns:
        The optimizer (nanotron's wrapper around it) and the fp32 gradient accumulator, if one is configured.
    """
    args, dp = optimizer_args, parallel_context.dp_pg
    unwrapped: Any = model.module if isinstance(model, DistributedDataParallel) else model
    unwrapped.module_id_to_prefix = {id(m): f"{name}." for name, m in unwrapped.named_modules()} | {id(unwrapped): ""}
    named = list(unwrapped.get_named_params_with_correct_tied())
    adam = {"lr": args.learning_rate_scheduler.learning_rate, "eps": args.adam_eps}
    adam |= {"betas": (args.adam_beta1, args.adam_beta2), "weight_decay": args.weight_decay}
    muon = options.name == "muon"
    make: Any
    if muon:
        sharded = args.zero_stage > 0 and dp.size() > 1
        make = partial(Muon, fused=args.torch_adam_is_fused, dp_pg=dp, sharded=sharded, **adam)
    else:
        make = partial(torch.optim.AdamW, fused=args.torch_adam_is_fused, **adam)
    accumulator: FP32GradientAccumulator | None = None

    def builder(groups: Iterable[dict[str, Any]]) -> Any:
        nonlocal accumulator
        if not args.accumulate_grad_in_fp32:
            return NamedOptimizer(groups, make)
        result = OptimizerFromGradientAccumulator(
            gradient_accumulator_builder=lambda own: FP32GradientAccumulator(own, grad_buckets_named_params=named),
            named_params_or_groups=groups,
            optimizer_builder=lambda converted: NamedOptimizer(converted, make),
        )
        accumulator = result.gradient_accumulator
        return result

    groups = parameter_groups(named, options, unwrapped.config)
    zero = args.zero_stage > 0 and not muon  # Muon needs whole matrices: it shards by matrix, itself
    optimizer = ZeroDistributedOptimizer(groups, builder, dp_pg=dp) if zero else builder(groups)
    if accumulator is not None and zero:
        accumulator.assign_param_offsets(
            dp_rank=dist.get_rank(dp), param_name_to_offsets=optimizer.param_name_to_dp_rank_offsets
        )
    if accumulator is not None and isinstance(model, DistributedDataParallel):
        names = {id(p): name for name, p in named}
        manager = FP32GradBucketManager(dp_pg=dp, accumulator=accumulator, param_id_to_name=names)
        model.register_comm_hook(manager, get_fp32_accum_hook(reduce_scatter=zero, reduce_op=dist.ReduceOp.AVG))
    return optimizer, accumulator


def parameter_groups(
    named: list[tuple[str, torch.nn.Parameter]], options: OptimizerOptions, model_config: Any
) -> list[dict[str, Any]]:
    """Split the parameters by optimizer and by decay; empty groups are left out.

    With AdamW everything is decayed, as published, unless a pattern of ``weight_decay_exclude`` matches its name. With
    Muon the rest (embedding, head, norms) follows the same rule under AdamW.
    """
    hidden, decayed, plain = [], [], []
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        if options.name == "muon" and HIDDEN.search(name):
            hidden.append((name, parameter))
        elif any(re.match(pattern, name) for pattern in options.weight_decay_exclude):
            plain.append((name, parameter))
        else:
            decayed.append((name, parameter))
    groups: list[dict[str, Any]] = []
    if hidden:
        groups.append(
            {
                "named_params": hidden,
                "algorithm": "muon",
                "rows": [_parts(name, model_config) for name, _ in hidden],
                "lr": options.muon_learning_rate,
                "weight_decay": options.muon_weight_decay,
                "momentum": options.muon_momentum,
                "nesterov": options.muon_nesterov,
                "ns_steps": options.muon_ns_steps,
                "adjust_lr": options.muon_adjust_lr,
            }
        )
    if decayed:
        groups.append({"named_params": decayed})
    if plain:
        groups.append({"named_params": plain, "weight_decay": 0.0})
    return groups


def _parts(name: str, config: Any) -> list[int]:
    """Rows of the matrices that nanotron stores as one: each is orthogonalised by itself."""
    head = config.hidden_size // config.num_attention_heads
    if ".qkv_proj." in name:
        return [config.num_attention_heads * head, config.num_key_value_heads * head, config.num_key_value_heads * head]
    if ".gate_up_proj." in name:
        return [config.intermediate_size, config.intermediate_size]
    return [config.hidden_size]


def load(
    optimizer: Any,
    parallel_context: Any,
    root_folder: Path,
    param_shard_metadata: Any = None,
    model: torch.nn.Module | None = None,
    **_: Any,
) -> None:
    """nanotron.serialize.load_optimizer; a sharded Muon keeps only what its rank owns."""
    load_optimizer(
        optimizer=optimizer,
        parallel_context=parallel_context,
        root_folder=root_folder,
        param_shard_metadata=param_shard_metadata,
        model=model,
    )
    base = optimizer.get_base_optimizer()
    if isinstance(base, Muon):
        base.drop_foreign_state()
