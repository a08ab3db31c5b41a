"""Everything this project changes in nanotron, in one place: the wheel of nanotron 0.4 stays unmodified.

    from pretrain import compat
    compat.install()                 # before anything imports nanotron; calling it again does nothing
    with compat.device_mode(): ...   # around whatever builds, loads or saves a nanotron model

| patch | module | why | not needed from |
|---|---|---|---|
| import cycles | imports | the 0.4 wheel cannot be imported as shipped | nanotron main (cycle broken) |
| flash_attn stand-in | flash_attention | nanotron imports flash_attn unconditionally | where flash-attn is installed |
| wandb off | fixes | 0.4 calls wandb.init() whenever wandb is importable; we log ourselves | never, a choice |
| torch.load of own files | fixes | torch >= 2.6 refuses their pickles | nanotron main |
| integer shapes in metadata | fixes | numpy >= 2 prints np.int64(128), which cannot be read back | nanotron main |
| optimizer, schedule supplied | fixes | one AdamW, one decay, no 1-sqrt, a step lost on resume | main has a factory |
| cuda means cpu | cpu | "cuda" is hard-coded | CPU only |
| gloo | cpu | NCCL is hard-coded, with its ordering assumed (last handle only, buffered sends) | CPU only |
| rotary buffer, P2P device | cpu | both assert or assume cuda | CPU only |
"""

import os
from contextlib import AbstractContextManager, nullcontext

_installed = False


def on_cpu() -> bool:
    """Whether this process trains on the CPU; DUETTO_DEVICE=cpu forces it where a GPU exists."""
    import torch

    return os.environ.get("DUETTO_DEVICE") == "cpu" or not torch.cuda.is_available()


def install() -> None:
    """Make ``import nanotron`` work, and work right, in this process."""
    global _installed
    if _installed:
        return
    # Orders kernels of tensor parallelism; nanotron refuses to run with another value.
    os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] = "1"
    from pretrain.compat import cpu, fixes, flash_attention, imports

    flash_attention.register_if_missing()
    if on_cpu():
        cpu.silence_torch_cuda()
    imports.import_nanotron()
    if on_cpu():
        cpu.use_gloo()
        cpu.rotary_buffer_anywhere()
        cpu.pipeline_buffers_on_cpu()
    fixes.no_wandb()
    fixes.load_own_pickles()
    fixes.plain_integers_in_metadata()
    _installed = True


def device_mode() -> AbstractContextManager[object]:
    """Sends requests for "cuda" to the CPU on a machine without one; elsewhere it does nothing.

    It taxes every torch call, so it belongs around building, loading and saving, not around training steps.
    """
    if not on_cpu():
        return nullcontext()
    from pretrain.compat.cpu import CudaToCpu

    return CudaToCpu()
