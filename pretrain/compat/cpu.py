"""nanotron on the CPU with gloo: the same trainer, only the device and the transport differ."""

import collections
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")


def _is_cuda(x: object) -> bool:
    return (isinstance(x, torch.device) and x.type == "cuda") or (isinstance(x, str) and x.startswith("cuda"))


class CudaToCpu(TorchFunctionMode):
    """``torch.empty(..., device="cuda")``, ``t.to("cuda")`` and ``t.cuda()`` happen on the CPU."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = CPU
        if func is torch.Tensor.to and len(args) > 1 and _is_cuda(args[1]):
            args = (args[0], CPU, *args[2:])
        elif func is torch.Tensor.cuda:
            return args[0]
        return func(*args, **kwargs)


def silence_torch_cuda() -> None:
    """The torch.cuda functions that raise in a CPU build; memory_allocated and its like already return 0."""
    torch.cuda.is_available = lambda: False  # DUETTO_DEVICE=cpu on a machine with a GPU
    for name in ("set_device", "synchronize", "reset_peak_memory_stats", "empty_cache"):
        setattr(torch.cuda, name, lambda *_a, **_k: None)
    torch.cuda.current_device = lambda: "cpu"  # type: ignore[assignment,return-value]  # used as torch.empty(device=...)


class _Done:
    """A finished work handle."""

    def wait(self, *_: object) -> bool:
        return True


def use_gloo() -> None:
    """gloo under nanotron.distributed, whose functions nanotron looks up at call time (the group is the worker's).

    NCCL runs the collectives of a group in order on one stream, so nanotron waits for the last handle only; gloo runs
    them on a thread pool. They become synchronous here and hand back a finished handle. A group of one has nothing to
    reduce (its gloo call costs 60 us, several a step).
    """
    import nanotron.distributed as nd
    import torch.distributed as td

    def synchronous(reduce: Callable[..., Any]) -> Callable[..., Any]:
        def call(tensor: Any = None, *args: Any, async_op: bool = False, tensors: Any = None, **kwargs: Any) -> Any:
            given = tensor if tensors is None else tensors
            group = kwargs.get("group")
            if group is None or group.size() > 1:
                # gloo's AVG divides in place with autograd on, which refuses leaf parameters: detached aliases do.
                given = given.detach() if isinstance(given, torch.Tensor) else [t.detach() for t in given]
                reduce(given, *args, **kwargs)
            return _Done() if async_op else None

        return call

    # NCCL buffers small sends; a gloo send waits for its receiver. In 1f1b both neighbours send first and would wait
    # for each other, so a send copies its tensor and returns. Old ones are awaited to bound the memory.
    pending: collections.deque[tuple[Any, torch.Tensor]] = collections.deque()

    def isend(tensor: torch.Tensor, dst: int, group: Any = None, tag: int = 0) -> _Done:
        copy = tensor.detach().clone()
        pending.append((td.isend(copy, dst, group=group, tag=tag), copy))
        if len(pending) > 256:
            pending.popleft()[0].wait()
        return _Done()

    nd.isend = isend
    nd.send = lambda *args, **kwargs: isend(*args, **kwargs) and None
    nd.all_reduce = synchronous(nd.all_reduce)
    nd.all_reduce_coalesced = synchronous(nd.all_reduce_coalesced)


def rotary_buffer_anywhere() -> None:
    """RotaryEmbedding (used in generation only) asserts that its table lies on cuda."""
    from nanotron.models import llama

    if not hasattr(llama, "RotaryEmbedding"):
        return

    def init_rotary_embeddings(self: Any) -> None:
        if not self._initialized_buffer:
            inverse = 1.0 / self.theta ** (torch.arange(0, self.dim, 2, dtype=torch.float) / self.dim)
            angles = torch.outer(torch.arange(self.end), inverse).float()
            self.register_buffer("freqs_cis", torch.stack((angles.cos(), angles.sin()), -1), persistent=False)
            self._initialized_buffer = True

    llama.RotaryEmbedding.init_rotary_embeddings = init_rotary_embeddings


def pipeline_buffers_on_cpu() -> None:
    """Pipeline buffers are also made inside autograd's backward, where a TorchFunctionMode is switched off."""
    from nanotron.parallel.pipeline_parallel.p2p import P2P

    init = P2P.__init__
    P2P.__init__ = lambda self, pg, device: init(self, pg, CPU)
