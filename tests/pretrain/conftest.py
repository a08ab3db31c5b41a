"""A tiny Llama, tokens that can be learned, and jobs over both."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain.convert_back import to_nanotron
from pretrain.job import (
    CheckpointOptions,
    DataStage,
    GuardOptions,
    Job,
    ModelOptions,
    OptimizerOptions,
    Validation,
    ValidationSet,
)
from pretrain.schedule import LRScheduler
from tests.pretrain.ranks import in_engine

VOCAB, SEQUENCE, EOS = 512, 64, 1


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two shards of a noisy permutation chain, documents of 5 to 90 tokens, and a held-out file."""
    root = tmp_path_factory.mktemp("tokens")
    rng = np.random.default_rng(0)
    chain = rng.permutation(VOCAB)
    for name, count in (("train/000.ds", 40_000), ("train/001.ds", 30_000), ("held-out.ds", 3_000)):
        out = np.empty(count, dtype=np.uint16)
        out[0] = 2
        noise, random = rng.random(count) < 0.1, rng.integers(2, VOCAB, count)
        for i in range(1, count):
            out[i] = random[i] if noise[i] else max(chain[out[i - 1]], 2)
        at = 0
        while (at := at + int(rng.integers(5, 90))) < count:
            out[at] = EOS
        (root / name).parent.mkdir(exist_ok=True)
        out.tofile(root / name)
    return root


MakeJob = Callable[..., Job]


@pytest.fixture
def make_job(tokens: Path, tmp_path: Path) -> MakeJob:
    """``make_job("name", dp=2, steps=6, model={...}, ...)``: a job in a folder of its own. fp32 unless asked."""

    def make(
        name: str = "run",
        *,
        dp: int = 1,
        tp: int = 1,
        pp: int = 1,
        steps: int = 6,
        rows: int = 4,
        accumulation: int = 2,
        dtype: str = "float32",
        zero: int = 0,
        weight_decay: float = 0.01,
        tp_mode: str = "ALL_REDUCE",
        pp_engine: str = "afab",
        interval: int = 100,
        shape: dict[str, Any] | None = None,
        model: dict[str, Any] | None = None,
        optimizer: dict[str, Any] | None = None,
        checkpoints: dict[str, Any] | None = None,
        guards: dict[str, Any] | None = None,
        validate: int | None = None,
        **fields: Any,
    ) -> Job:
        config = {
            "is_llama_config": True,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 96,
            "vocab_size": VOCAB,
            "max_position_embeddings": SEQUENCE,
            "tie_word_embeddings": True,
            "rms_norm_eps": 1e-5,
            "bos_token_id": 0,
            "eos_token_id": EOS,
        } | (shape or {})
        schedule = LRScheduler(
            learning_rate=3e-3, lr_warmup_steps=3, lr_decay_starting_step=steps // 2,
            lr_decay_steps=steps - steps // 2, min_decay_lr=1e-5,
        ) if steps > 5 else LRScheduler(
            learning_rate=3e-3, lr_warmup_steps=1, lr_decay_starting_step=steps, lr_decay_steps=0, min_decay_lr=0.0
        )  # fmt: skip
        held_out = ValidationSet(
            name="held-out", file=str(tokens / "held-out.ds"), tokens=3_000, bytes=9_000, token_size=2
        )
        return Job(
            folder=str(tmp_path / name / "pretrain"),
            nanotron={
                "general": {"project": "test", "run": name, "seed": 8, "ignore_sanity_checks": True},
                "checkpoints": {
                    "checkpoints_path": str(tmp_path / name / "pretrain" / "checkpoints"),
                    "checkpoint_interval": interval,
                    "save_initial_state": False,
                    "resume_checkpoint_path": None,
                    "checkpoints_path_is_shared_file_system": True,
                },
                "parallelism": {
                    "dp": dp,
                    "tp": tp,
                    "pp": pp,
                    "pp_engine": pp_engine,
                    "tp_mode": tp_mode,
                    "tp_linear_async_communication": False,
                },
                "model": {"dtype": dtype, "init_method": {"std": 0.05}, "model_config": config},
                "tokenizer": {"tokenizer_name_or_path": None},
                "logging": {"log_level": "warning", "log_level_replica": "error"},
                "optimizer": {
                    "zero_stage": zero,
                    "weight_decay": weight_decay,
                    "clip_grad": 1.0,
                    "accumulate_grad_in_fp32": dtype != "float32",
                    "adam_eps": 1e-8,
                    "adam_beta1": 0.9,
                    "adam_beta2": 0.95,
                    "torch_adam_is_fused": False,
                    "learning_rate_scheduler": schedule.model_dump(),
                },
                "tokens": {
                    "sequence_length": SEQUENCE,
                    "train_steps": steps,
                    "micro_batch_size": rows,
                    "batch_accumulation_per_replica": accumulation,
                },
            },
            schedule=schedule,
            model=ModelOptions(**(model or {})),
            optimizer=OptimizerOptions(**(optimizer or {})),
            data=[DataStage(name="train", folders=[str(tokens / "train")], weights=[1.0], seed=3)],
            validation=Validation(
                every=validate or 0, max_sequences=8, sets=[held_out] if validate is not None else []
            ),
            checkpoints=CheckpointOptions(interval=interval, **(checkpoints or {})),
            guards=GuardOptions(**(guards or {})),
            eos_id=EOS,
            identity={"seed": 8, "samples_per_step": rows * accumulation * dp},
            device="cpu",
            **fields,
        )

    return make


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face Llama of the tiny shape, fp32, random. Beside it, in ``halves`` and ``pairs``, its checkpoints."""
    folder = build_llama(tmp_path_factory.mktemp("llama") / "hf", theta=10000.0)
    for name, interleaved in (("halves", False), ("pairs", True)):
        in_engine(to_nanotron, folder, folder.with_name(name), interleaved=interleaved)
    return folder


def build_llama(folder: Path, theta: float) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=SEQUENCE, rms_norm_eps=1e-5, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=EOS, rope_parameters={"rope_type": "default", "rope_theta": theta},
        initializer_range=0.05,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
