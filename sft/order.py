"""The order of packed batches, as a function of the seed and the epoch alone.

Axolotl 0.19 draws the order (and the packing) from the global random state, which a resumed process does not have: a
run continued in the middle of an epoch trained on other batches than the run it continues. And with several processes
its packing is cached, so that every epoch repeats one order. Here the packing is drawn once from the seed, and each
epoch goes through the packed batches in a permutation of its own.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import BatchSampler, Sampler, SequentialSampler


class SeededOrder(Sampler[int]):
    """A permutation of the samples that depends on the seed only."""

    def __init__(self, samples: int, seed: int) -> None:
        self.samples, self.seed = samples, seed

    def __len__(self) -> int:
        return self.samples

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        return iter(torch.randperm(self.samples, generator=generator).tolist())


class EpochOrder(BatchSampler):
    """Axolotl's packed batches, permuted anew each epoch."""

    def __init__(self, packed: Any, seed: int, epoch: Callable[[], int]) -> None:
        self.packed, self.seed, self.epoch = packed, seed, epoch
        self.sampler, self.batch_size, self.drop_last = packed.sampler, packed.batch_size, packed.drop_last

    def __len__(self) -> int:
        return len(self.packed)

    def __iter__(self) -> Iterator[Any]:
        batches = list(self.packed)
        generator = torch.Generator().manual_seed(self.seed + 1 + self.epoch())
        return iter([batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()])


def make_reproducible(trainer: Any) -> None:
    """Replace the trainer's packed order; a sequential one (``curriculum_sampling``) is left as it is."""
    stock, seed = trainer._create_multipack_sampler, int(trainer.args.seed)

    def epoch() -> int:
        return int((trainer.state.epoch or 0) + 1e-6)

    def create(base_sampler: Any, dataset: Any) -> Any:
        if isinstance(base_sampler, SequentialSampler):
            return stock(base_sampler, dataset)
        return EpochOrder(stock(SeededOrder(len(dataset), seed), dataset), seed, epoch)

    trainer._create_multipack_sampler = create
