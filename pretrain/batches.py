"""Micro-batches of a step as a pure function of the step: exact resume, and the same data for every dp x accumulation.

Sample order within a step: micro-batch, data parallel rank, row.
"""

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from nanotron import distributed as dist
from nanotron.parallel.pipeline_parallel.tensor_pointer import TensorPointer

from duetto.errors import UserError
from pretrain.job import Job
from pretrain.samples import Samples, open_samples

MicroBatch = dict[str, Any]


class Feed:
    """This rank's micro-batches. On a GPU threads read ahead, a step each, into pinned memory."""

    def __init__(self, job: Job, trainer: Any, workers: int | None = None) -> None:
        """``workers``: threads that read ahead; None takes the job's number on a GPU and reads in the loop elsewhere
        (on a CPU they would compete with the training)."""
        self.job, self.masking = job, job.model.document_masking
        tokens, shape = job.nanotron["tokens"], job.nanotron["model"]["model_config"]
        self.sequence_length, self.vocab_size = int(tokens["sequence_length"]), int(shape["vocab_size"])
        self.rows, self.accumulation = int(tokens["micro_batch_size"]), int(tokens["batch_accumulation_per_replica"])
        context = trainer.parallel_context
        self.dp, self.dp_rank = context.dp_pg.size(), dist.get_rank(context.dp_pg)
        self.pp_rank = dist.get_rank(context.pp_pg)
        self.first_pp, self.last_pp = trainer.unwrapped_model.input_pp_rank, trainer.unwrapped_model.output_pp_rank
        self.cuda = torch.cuda.is_available()
        self.opened = threading.local()  # a Mixture keeps files open and is one thread's
        self.workers = max(s.loader_workers for s in job.data) * self.cuda if workers is None else workers
        self.pool = ThreadPoolExecutor(self.workers, "loader") if self.workers else None
        self.ahead: deque[tuple[int, Future[list[MicroBatch]]]] = deque()

    def stage_of(self, step: int) -> int:
        """Index of the data stage that feeds ``step`` (1-based)."""
        return max(i for i, s in enumerate(self.job.data) if s.start_step <= step)

    def step(self, step: int) -> list[MicroBatch]:
        """The micro-batches of ``step``, on the device."""
        if self.pool is None:
            return self._load(step)
        if not self.ahead or self.ahead[0][0] != step:
            self.ahead.clear()
        first = self.ahead[-1][0] + 1 if self.ahead else step
        for other in range(first, min(step + self.workers, self.job.steps) + 1):
            self.ahead.append((other, self.pool.submit(self._load, other)))
        return [self._to_device(b) for b in self.ahead.popleft()[1].result()]

    def _samples(self, index: int) -> Samples:
        if getattr(self.opened, "index", None) != index:
            stage = self.job.data[index]
            self.opened.samples = open_samples(stage, self.sequence_length, self.job.eos_id, self.vocab_size)
            self.opened.index = index
        return self.opened.samples  # type: ignore[no-any-return]

    def _load(self, step: int) -> list[MicroBatch]:
        index = self.stage_of(step)
        samples, start = self._samples(index), self.job.data[index].start_step
        first = (step - start) * self.rows * self.accumulation * self.dp
        return [
            self._micro_batch(samples, first + (m * self.dp + self.dp_rank) * self.rows)
            for m in range(self.accumulation)
        ]

    def _micro_batch(self, samples: Samples, first: int) -> MicroBatch:
        if self.pp_rank not in (self.first_pp, self.last_pp):
            return self.place(None, None)
        window = samples.batch(first, self.rows)
        highest = int(window.max())
        if highest >= self.vocab_size:
            raise UserError(
                f"samples {first} to {first + self.rows} hold token {highest}, the model has {self.vocab_size}: the "
                "token files were made with another tokenizer; run duetto tokenize --force"
            )
        positions = samples.positions(window[:, :-1]) if self.masking else None
        return self.place(torch.from_numpy(window), None if positions is None else torch.from_numpy(positions))

    def place(
        self, window: torch.Tensor | None, positions: torch.Tensor | None, label_mask: torch.Tensor | None = None
    ) -> MicroBatch:
        """What each pipeline stage gets of a window ``[rows, sequence_length + 1]``."""
        first, last = TensorPointer(self.first_pp), TensorPointer(self.last_pp)
        out: MicroBatch = {"input_ids": first, "input_mask": first, "label_ids": last, "label_mask": last}
        if window is None:
            return out
        everything = torch.ones(window.shape[0], window.shape[1] - 1, dtype=torch.bool)
        if self.pp_rank == self.first_pp:
            out["input_ids"] = window[:, :-1].contiguous()
            out["input_mask"] = everything if positions is None else positions
        if self.pp_rank == self.last_pp:
            out["label_ids"] = window[:, 1:].contiguous()
            out["label_mask"] = everything if label_mask is None else label_mask
        if self.cuda and self.pool is not None:
            return {k: v.pin_memory() if isinstance(v, torch.Tensor) else v for k, v in out.items()}
        return self._to_device(out)

    def _to_device(self, batch: MicroBatch) -> MicroBatch:
        if not self.cuda:
            return batch
        return {k: v.cuda(non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}

    def close(self) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
