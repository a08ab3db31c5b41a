"""A PretrainConfig in the words of the engine: nanotron 0.4's dictionary, and what 0.4 has no field for.

nanotron 0.4 (the only version on PyPI) has no data_stages, optimizer_factory, rope_theta, rope_interleaved,
recompute_layer, save_final_state, load_optimizer, load_lr_scheduler or 1-sqrt decay; those become the options of
pretrain.job, which our own code honours.
"""

import os
import time
from pathlib import Path
from typing import Any

from duetto.errors import UserError
from pretrain.config import PretrainConfig
from pretrain.job import CheckpointOptions, GuardOptions, ModelOptions, OptimizerOptions, Validation, ValidationSet

ALL = 2**31
"""As many windows as there are."""


def to_nanotron(
    config: PretrainConfig,
    *,
    checkpoints: Path,
    run_name: str,
    tokenizer: str | None = None,
    vocab_size: int | None = None,
    resume: Path | None = None,
) -> dict[str, Any]:
    """The dictionary that ``nanotron.config.get_config_from_dict`` accepts.

    Args:
        checkpoints: folder of the checkpoints (``checkpoints_folder``).
        run_name: name in the trackers when general.run is null.
        tokenizer: resolved folder of the recipe's tokenizer.
        vocab_size: its length; needed when the file says -1.
        resume: complete checkpoint to continue from.
    """
    g, m, o, p, t = config.general, config.model, config.optimizer, config.parallelism, config.tokens
    factory, schedule, shape = o.optimizer_factory, o.learning_rate_scheduler, m.shape
    size = with_vocabulary(config, vocab_size).model.shape.vocab_size
    style = schedule.lr_decay_style
    return {
        "general": {"project": g.project, "run": tracker_name(g.run or run_name), "seed": g.seed}
        | {"ignore_sanity_checks": g.ignore_sanity_checks},
        "checkpoints": {
            "checkpoints_path": str(checkpoints),
            "checkpoint_interval": config.checkpoints.checkpoint_interval,
            "save_initial_state": config.checkpoints.save_initial_state,
            "resume_checkpoint_path": str(resume) if resume else None,
            "checkpoints_path_is_shared_file_system": config.checkpoints.checkpoints_path_is_shared_file_system,
        },
        "parallelism": {
            "dp": p.dp,
            "tp": p.tp,
            "pp": p.pp,
            "pp_engine": p.pp_engine,
            "tp_mode": p.tp_mode,
            # Published files say true at tp 1, where there is nothing to communicate.
            "tp_linear_async_communication": p.tp_linear_async_communication and p.tp > 1,
            "expert_parallel_size": p.expert_parallel_size,
        },
        "model": {
            "dtype": m.dtype,
            "make_vocab_size_divisible_by": m.make_vocab_size_divisible_by,
            "ddp_bucket_cap_mb": m.ddp_bucket_cap_mb,
            # A start from a model still builds random weights first; they are all overwritten.
            "init_method": {"std": m.init_method.std or shape.initializer_range},
            "model_config": {
                "is_llama_config": True,
                "hidden_size": shape.hidden_size,
                "num_hidden_layers": shape.num_hidden_layers,
                "num_attention_heads": shape.num_attention_heads,
                "num_key_value_heads": shape.num_key_value_heads,
                "intermediate_size": shape.intermediate_size,
                "vocab_size": size,
                "max_position_embeddings": shape.max_position_embeddings,
                "tie_word_embeddings": shape.tie_word_embeddings,
                "rms_norm_eps": shape.rms_norm_eps,
                "hidden_act": shape.hidden_act,
                "bos_token_id": shape.bos_token_id,
                "eos_token_id": shape.eos_token_id,
                "pad_token_id": shape.pad_token_id,
                "initializer_range": shape.initializer_range,
                "use_cache": shape.use_cache,
            },
        },
        "tokenizer": {"tokenizer_name_or_path": tokenizer or config.tokenizer.tokenizer_name_or_path},
        "logging": config.logging.model_dump(),
        "optimizer": {
            "zero_stage": o.zero_stage,
            "weight_decay": o.weight_decay,
            "clip_grad": o.clip_grad,
            "accumulate_grad_in_fp32": o.accumulate_grad_in_fp32,
            "adam_eps": factory.adam_eps,
            "adam_beta1": factory.adam_beta1,
            "adam_beta2": factory.adam_beta2,
            "torch_adam_is_fused": factory.torch_adam_is_fused,
            # The engine draws the curve with pretrain.schedule; 0.4's own check does not know 1-sqrt.
            "learning_rate_scheduler": schedule.model_dump()
            | {"lr_decay_style": "linear" if style == "1-sqrt" else style},
        },
        "tokens": {
            "sequence_length": t.sequence_length,
            "train_steps": t.train_steps,
            "micro_batch_size": t.micro_batch_size,
            "batch_accumulation_per_replica": t.batch_accumulation_per_replica,
        },
    }


def tracker_name(name: str) -> str:
    """nanotron's placeholders: ``%date`` and ``%jobid``."""
    now = time.strftime("%Y%m%d_%H%M%S")
    return name.replace("%date", now).replace("%jobid", os.environ.get("SLURM_JOB_ID", "local"))


def with_vocabulary(config: PretrainConfig, vocab_size: int | None) -> PretrainConfig:
    """``config`` with ``vocab_size: -1`` replaced by the tokenizer's length.

    Raises:
        UserError: the model's vocabulary differs from the tokenizer's.
    """
    own = config.model.shape.vocab_size
    if own == -1:
        if vocab_size is None:
            raise UserError(
                "model.model_config.vocab_size is -1 and the tokenizer is not there yet; run: duetto tokenize"
            )
        data = config.model_dump(by_alias=True)
        data["model"]["model_config"]["vocab_size"] = vocab_size
        return PretrainConfig.model_validate(data)
    if vocab_size is not None and own != vocab_size:
        raise UserError(
            f"model.model_config.vocab_size is {own:,} but the tokenizer has {vocab_size:,} entries; "
            f"set pretrain.model.model_config.vocab_size={vocab_size} (or -1 to take it from the tokenizer)"
        )
    return config


def checkpoints_folder(config: PretrainConfig, run_root: Path) -> Path:
    """Where checkpoints go; ``<run>/pretrain/checkpoints`` unless checkpoints_path says otherwise."""
    return run_root / "pretrain" / (config.checkpoints.checkpoints_path or "checkpoints")


def model_options(config: PretrainConfig) -> ModelOptions:
    shape, own = config.model.shape, config.duetto
    return ModelOptions(
        rope_theta=shape.rope_theta,
        rope_interleaved=shape.rope_interleaved,
        document_masking=bool(own.document_masking),
        recompute_layer=config.parallelism.recompute_layer,
        z_loss=shape.z_loss_coefficient if shape.z_loss_enabled else 0.0,
        zero_init_output=own.zero_init_output_projections,
        copying_init=own.copying_init,
        fused_cross_entropy=own.fused_cross_entropy,
        cross_entropy_chunk=own.cross_entropy_chunk,
        compile_layers=own.compile_layers,
    )


def optimizer_options(config: PretrainConfig) -> OptimizerOptions:
    o, f = config.optimizer, config.optimizer.optimizer_factory
    common = OptimizerOptions(name=f.name, weight_decay_exclude=o.weight_decay_exclude_named_params)
    if f.name != "muon":
        return common
    assert f.muon_learning_rate is not None
    return common.model_copy(
        update={
            "muon_learning_rate": f.muon_learning_rate,
            "muon_momentum": f.muon_momentum,
            "muon_nesterov": f.muon_nesterov,
            "muon_ns_steps": f.muon_ns_steps,
            "muon_adjust_lr": f.muon_adjust_lr,
            "muon_weight_decay": o.weight_decay if f.muon_weight_decay is None else f.muon_weight_decay,
        }
    )


def checkpoint_options(config: PretrainConfig, keep_steps: list[int]) -> CheckpointOptions:
    keep, c = config.duetto.keep, config.checkpoints
    return CheckpointOptions(
        interval=c.checkpoint_interval,
        keep_last=keep.last,
        keep_every=keep.every or 0,
        keep_steps=keep_steps,
        shared_filesystem=c.checkpoints_path_is_shared_file_system,
    )


def guard_options(config: PretrainConfig) -> GuardOptions:
    watch = config.duetto.watch
    return GuardOptions(
        spike_factor=watch.spike_sigma or 0.0,
        skip_spikes=watch.skip_spikes,
        stall_seconds=watch.stall_seconds,
        slow_rank_factor=watch.slow_rank_factor,
    )


def validation_options(config: PretrainConfig, sets: list[ValidationSet]) -> Validation:
    t = config.tokens
    windows = t.limit_val_batches * t.micro_batch_size * config.parallelism.dp
    return Validation(every=max(t.val_check_interval, 0), max_sequences=windows or ALL, sets=sets)
