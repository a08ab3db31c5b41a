"""nanotron's own model in one process, fp32, whatever topology the checkpoint was trained with."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from pretrain import compat


def nanotron_logits(
    checkpoint: Path, shape: dict[str, Any], options: dict[str, Any], ids: torch.Tensor
) -> torch.Tensor:
    """Logits ``[batch, seq, vocab]`` of the stock model (its own head, unfused) on ``ids`` ``[batch, seq]``."""
    with single_process() as context:
        model = build(shape, options, context)
        load(model, context, checkpoint)
        mask = torch.ones_like(ids, dtype=torch.bool)
        with torch.no_grad():
            return model.model(input_ids=ids, input_mask=mask).transpose(0, 1).float()


class single_process:
    """A process group of one, for as long as the block lasts."""

    def __enter__(self) -> Any:
        compat.install()
        from nanotron.parallel import ParallelContext

        self.folder = tempfile.TemporaryDirectory()
        store = torch.distributed.FileStore(os.path.join(self.folder.name, "store"), 1)
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        os.environ |= {
            "RANK": "0",
            "WORLD_SIZE": "1",
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
        }  # nanotron reads them
        return ParallelContext(tensor_parallel_size=1, pipeline_parallel_size=1, data_parallel_size=1)

    def __exit__(self, *_: object) -> None:
        torch.distributed.destroy_process_group()
        self.folder.cleanup()


def build(shape: dict[str, Any], options: dict[str, Any], context: Any) -> Any:
    """nanotron's Llama in fp32 with the rotary embedding of the checkpoint."""
    from nanotron.config import LlamaConfig, ParallelismArgs
    from nanotron.models import build_model
    from nanotron.trainer import mark_tied_parameters

    from pretrain.job import ModelOptions
    from pretrain.model_options import Llama

    plain = ModelOptions(
        rope_theta=options["rope_theta"], rope_interleaved=options["rope_interleaved"], fused_cross_entropy=False
    )
    parallelism = ParallelismArgs(dp=1, pp=1, tp=1)
    with compat.device_mode():
        model = build_model(
            lambda: Llama(plain, LlamaConfig(**shape), context, parallelism), context, dtype=torch.float32
        )
        for module in model.modules():
            if hasattr(module, "init_rotary_embeddings"):
                module.init_rotary_embeddings()
        mark_tied_parameters(model=model, parallel_context=context, parallel_config=parallelism)
    return model.eval()


def load(model: Any, context: Any, checkpoint: Path) -> None:
    """The weights of a checkpoint of any tp and pp, through nanotron's own loader; bf16 weights widen to fp32."""
    from nanotron.serialize import load_weights

    with compat.device_mode(), torch.no_grad():
        load_weights(model=model, parallel_context=context, root_folder=checkpoint)
