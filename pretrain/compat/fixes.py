"""Faults of nanotron 0.4 that show on every device, and the seams through which this project supplies its own parts."""

import contextlib
import copy
import functools
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch


def no_wandb() -> None:
    """0.4 calls wandb.init() whenever wandb can be imported."""
    import nanotron.trainer

    nanotron.trainer.wandb = None


def load_own_pickles() -> None:
    """torch >= 2.6 loads weights only. Optimizer and random states are pickles of this run's own folder, verified
    against the hashes of COMMIT before they are opened."""
    import nanotron.serialize.optimizer
    import nanotron.serialize.random

    class Torch(types.ModuleType):
        """torch with another ``load``, for the two modules that call it."""

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    stand_in = Torch("torch")
    stand_in.load = functools.partial(torch.load, weights_only=False)  # type: ignore[attr-defined]
    nanotron.serialize.optimizer.torch = nanotron.serialize.random.torch = stand_in


def plain_integers_in_metadata() -> None:
    """numpy >= 2 writes shapes as ``(np.int64(128), 64)``, which a load under another topology cannot read."""
    from nanotron.serialize.metadata import TensorMetadata

    to_str_dict = TensorMetadata.to_str_dict

    def fixed(self: Any) -> dict[str, str]:
        self.unsharded_shape = tuple(int(n) for n in self.unsharded_shape)
        return to_str_dict(self)

    TensorMetadata.to_str_dict = fixed


def supply_optimizer(build: Callable[..., Any], load: Callable[..., None]) -> None:
    """Let the trainer build and restore its optimizer with our functions (same signatures as nanotron's).

    0.4 has one AdamW with one weight decay for every parameter, and no seam for another optimizer.
    """
    import nanotron.trainer

    nanotron.trainer.init_optimizer_and_grad_accumulator = build
    nanotron.trainer.load_optimizer = load


def supply_scheduler(build: Callable[..., Any]) -> None:
    """Let the trainer build its learning-rate scheduler with our function (same signature as nanotron's).

    0.4 lacks the 1-sqrt decay, and loses a step on resume: it loads the optimizer, then builds LambdaLR, which sets
    every group's rate to that of step 0, then loads the scheduler's state, which does not touch the optimizer (a loss
    difference of 0.135 where this was measured). Our loop sets the rate from the step, so that nothing can be lost.
    """
    import nanotron.trainer

    nanotron.trainer.lr_scheduler_builder = build


@contextlib.contextmanager
def recorded_writes() -> Iterator[list[tuple[Path, Callable[[Path], None]]]]:
    """Inside the block nanotron's savers copy tensors to host memory instead of writing files.

    Yields:
        What is to be written: path, and the function that writes it there. The copies are the block's own, so the
        training that follows cannot change them.
    """
    import nanotron.serialize.optimizer
    import nanotron.serialize.random
    import nanotron.serialize.weights
    import safetensors.torch

    writes: list[tuple[Path, Callable[[Path], None]]] = []

    def save_file(tensors: dict[str, torch.Tensor], filename: Path, metadata: dict[str, str] | None = None) -> None:
        kept = {k: to_host(v).contiguous() for k, v in tensors.items()}
        writes.append((Path(filename), lambda path: safetensors.torch.save_file(kept, path, metadata)))

    def save(value: Any, filename: Path) -> None:
        kept = to_host(value)
        writes.append((Path(filename), lambda path: torch.save(kept, path)))

    weights, pickles = nanotron.serialize.weights, nanotron.serialize.optimizer.torch
    before = weights.save_file, weights.tqdm
    weights.save_file, weights.tqdm = save_file, lambda items, **_: items
    pickles.save = save
    try:
        yield writes
    finally:
        weights.save_file, weights.tqdm = before
        pickles.save = torch.save


def to_host(value: Any) -> Any:
    """A copy in host memory; tensors inside dictionaries, lists and tuples are found."""
    if isinstance(value, torch.Tensor):
        return torch.empty(value.shape, dtype=value.dtype, device="cpu").copy_(value.detach())
    if isinstance(value, dict):
        return {k: to_host(v) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(to_host(v) for v in value)
    return copy.deepcopy(value)
