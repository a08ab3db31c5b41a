"""Duetto inside the Axolotl process: the gate, the metrics, safe checkpoints, and starting values of new tokens.

``plugins: [sft.plugin.DuettoPlugin]``; written into every resolved YAML, also under SLURM.
"""

import functools
import json
import os
from pathlib import Path
from typing import Any

import torch
from axolotl.integrations.base import BasePlugin
from transformers import TrainerCallback

from duetto.errors import UserError
from duetto.files import write_json
from sft.chatml import IM_END, IM_START
from sft.gate import check_isolation, check_labels
from sft.order import make_reproducible

COMMIT = "COMMIT"
"""Written into a checkpoint when every rank has finished writing it."""


class DuettoPlugin(BasePlugin):
    """See the module; Axolotl calls these hooks in this order."""

    def post_model_load(self, cfg: Any, model: Any) -> None:
        if not cfg.rl and not cfg.resume_from_checkpoint:
            start_chat_tokens(model, cfg)

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        if not cfg.rl:
            if int(os.environ.get("RANK", "0")) == 0:
                found = check_labels(trainer.train_dataset, trainer.processing_class)
                write_json(Path(cfg.output_dir) / "gate.json", found)
            if cfg.sample_packing:
                make_reproducible(trainer)
            _watch_first_batch(trainer, bool(cfg.sample_packing), bool(cfg.fsdp_config))
        trainer.add_callback(Metrics(Path(cfg.output_dir) / "metrics.jsonl"))
        trainer.add_callback(Commit())


def start_chat_tokens(model: Any, cfg: Any) -> None:
    """Give the two ChatML tokens embeddings worth starting from.

    In a base model their rows are either as initialised or, being never a target, pushed away from every hidden state.
    ``<|im_start|>`` starts at the mean of the table, ``<|im_end|>`` at the base model's own end of text, whose job it
    takes over. A model whose end of turn is ``<|im_end|>`` already has both trained, and is left alone.
    """
    from axolotl.loaders import load_tokenizer

    tokenizer = load_tokenizer(cfg)
    im_start, im_end = (tokenizer.convert_tokens_to_ids(t) for t in (IM_START, IM_END))
    base_eos = _base_eos(cfg)
    if base_eos is None or base_eos == im_end:
        return
    tables = {id(t.weight): t.weight for t in (model.get_input_embeddings(), model.get_output_embeddings()) if t}
    with torch.no_grad():
        for weight in tables.values():
            if weight.device.type == "meta":  # FSDP2 fills this rank from rank 0
                continue
            weight[im_start] = weight.float().mean(dim=0).to(weight.dtype)
            weight[im_end] = weight[base_eos]


def _base_eos(cfg: Any) -> int | None:
    """End-of-text id in the base model's own config (the tokenizer says ``<|im_end|>`` by now)."""
    from transformers import AutoConfig

    eos = AutoConfig.from_pretrained(cfg.base_model).eos_token_id
    return eos[0] if isinstance(eos, list) else eos


def _watch_first_batch(trainer: Any, packed: bool, sharded: bool) -> None:
    """Look at the model and the first batch as training really has them, then step aside."""
    stock = trainer.training_step

    @functools.wraps(stock)
    def training_step(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        trainer.training_step = stock
        if sharded and (shards := check_sharding(model)):
            print(f"FSDP2: {shards} parameters are DTensor shards", flush=True)  # noqa: T201 (the run's log)
        if packed:
            with trainer.compute_loss_context_manager():
                check_isolation(model, trainer._prepare_inputs(inputs))
        return stock(model, inputs, *args, **kwargs)

    trainer.training_step = training_step


def check_sharding(model: Any) -> int:
    """Number of FSDP2 shards; accelerate drops an FSDP plugin without a word where it sees no accelerator.

    Raises:
        UserError: several processes, and nothing is sharded: it would be plain DDP.
    """
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import DTensor

    sharded = sum(isinstance(p, DTensor) for p in model.parameters())
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not sharded and not isinstance(model, FullyShardedDataParallel):
        raise UserError("fsdp_config is set, but no parameter is sharded: FSDP was dropped and this would be plain DDP")
    return sharded


class Metrics(TrainerCallback):
    """One JSON line for each logged step, for the progress bar, the manifest and the report."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero and self.path.exists():
            # A resumed run goes back to its checkpoint: later lines are of steps that never happened.
            lines = [json.loads(x) for x in self.path.read_text().splitlines() if x.endswith("}")]
            kept = [x for x in lines if x["step"] <= state.global_step]
            self.path.write_text("".join(json.dumps(x) + "\n" for x in kept))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        numbers = {k: float(v) for k, v in logs.items() if k in WANTED or k.startswith(("eval_loss", "rewards/"))}
        if numbers:
            line = {"step": state.global_step, "of": state.max_steps, **numbers}
            with open(self.path, "a", encoding="utf-8") as f:
                f.write(json.dumps(line) + "\n")


WANTED = {"loss", "learning_rate", "grad_norm", "epoch", "tokens/trainable", "tokens/total"}


class Commit(TrainerCallback):
    """A checkpoint that a kill left half written has no marker, and is never resumed from."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # the other ranks write optimizer shards and random states
        if state.is_world_process_zero:
            write_json(Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMMIT, {"step": state.global_step})
