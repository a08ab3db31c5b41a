"""What Axolotl 0.19.0 and accelerate 1.13.0 need to run two processes on a CPU with gloo. With CUDA: nothing.

Stock, both take an accelerator for granted. ``plugins: [sft.compat.GlooPlugin]`` mends it; each patch says why.
"""

import os
from contextlib import nullcontext
from typing import Any

import torch
from axolotl.integrations.base import BasePlugin


class GlooPlugin(BasePlugin):
    """Patches the launch when CUDA is absent; a no-op otherwise, so that one YAML serves both."""

    def register(self, cfg: Any) -> None:
        if torch.cuda.is_available():
            return
        sharded = bool(cfg.get("fsdp_config") or cfg.get("deepspeed"))
        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"  # accelerate's PartialState.device
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # deepspeed's get_accelerator()
        _backend(sharded)
        _mesh()
        _device_map()
        if cfg.get("fsdp_config"):
            _fsdp1_save()
        if cfg.get("deepspeed"):
            _zero_all_gather()


def _backend(sharded: bool) -> None:
    """accelerate 1.13.0 picks no backend without an accelerator, and under MULTI_CPU it silently drops the FSDP and
    DeepSpeed plugins (the run would be plain DDP): name gloo, and call a sharded run MULTI_GPU."""
    from accelerate.state import DistributedType, PartialState

    kind = DistributedType.MULTI_GPU if sharded else DistributedType.MULTI_CPU
    stock = PartialState._prepare_backend

    def prepare_backend(self: Any, cpu: bool = False, sagemaker_dp: bool = False, backend: str | None = None) -> Any:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            return "gloo", kind
        return stock(self, cpu, sagemaker_dp, backend)

    PartialState._prepare_backend = prepare_backend


def _mesh() -> None:
    """axolotl 0.19.0 builds its device mesh on "cuda" whatever is there."""
    from accelerate.parallelism_config import ParallelismConfig

    stock = ParallelismConfig.build_device_mesh

    def build_device_mesh(self: Any, device_type: str) -> Any:
        return stock(self, "cpu" if device_type == "cuda" else device_type)

    ParallelismConfig.build_device_mesh = build_device_mesh


def _device_map() -> None:
    """axolotl 0.19.0 maps a rank's model to device LOCAL_RANK, a CUDA ordinal."""
    from axolotl.loaders.model import ModelLoader

    stock = ModelLoader._set_device_map_config

    def set_device_map(self: Any) -> Any:
        self.cfg.device_map = {"": "cpu"}
        return stock(self)

    ModelLoader._set_device_map_config = set_device_map


def _fsdp1_save() -> None:
    """torch 2.13.0, FSDP1 with FULL_STATE_DICT: FlatParamHandle.to_cpu() copies nothing for a CPU tensor and then
    frees the storage that it still needs; rank 0 crashes while saving."""
    from torch.distributed.fsdp._flat_param import FlatParamHandle

    FlatParamHandle.to_cpu = lambda self: nullcontext()  # type: ignore[method-assign, assignment, return-value]


def _zero_all_gather() -> None:
    """deepspeed 0.18.9, ZeRO-1/2: gloo's all_gather_into_tensor writes into views under autograd, which torch 2.13.0
    forbids; the optimizer step needs no gradient there."""
    import deepspeed.runtime.utils as ds
    from deepspeed.runtime.zero import stage_1_and_2

    for module in (ds, stage_1_and_2):
        if hasattr(module, "all_gather_into_tensor_dp_groups"):
            module.all_gather_into_tensor_dp_groups = torch.no_grad()(module.all_gather_into_tensor_dp_groups)
