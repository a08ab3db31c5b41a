"""Held-out loss and bits per byte, by language or source.

The windows of a set are cut from its token file one after the other, each predicting every token but the first; they
are shared out over the data parallel ranks. Bits per byte = loss x tokens / bytes / ln 2, with tokens and bytes those
of the whole file, so that it does not depend on how much of it was measured.
"""

import math
from typing import Any

import numpy as np
import torch
from nanotron import distributed as dist
from nanotron.parallel.pipeline_parallel.context_manager import attach_pipeline_state_to_model
from nanotron.parallel.pipeline_parallel.state import PipelineTrainBatchState

from duetto.errors import UserError
from pretrain.batches import Feed
from pretrain.job import ValidationSet


class HeldOut:
    """The windows of one set: ``[windows, sequence_length + 1]``, the last one padded and masked."""

    def __init__(self, given: ValidationSet, sequence_length: int, limit: int, vocab_size: int) -> None:
        self.given, self.length = given, sequence_length
        tokens = np.fromfile(given.file, dtype="<u2" if given.token_size == 2 else "<u4").astype(np.int64)
        if len(tokens) != given.tokens:
            raise UserError(
                f"{given.file}: {len(tokens)} tokens, mixture.json says {given.tokens}; run duetto tokenize"
            )
        if len(tokens) < 2 or int(tokens.max()) >= vocab_size:
            raise UserError(
                f"{given.file}: {len(tokens)} tokens up to id {int(tokens.max(initial=0))}, the model has {vocab_size} "
                "ids: it was made with another tokenizer, or it is empty; run duetto tokenize"
            )
        count = min(-(-(len(tokens) - 1) // sequence_length), limit)
        padded = np.zeros(count * sequence_length + 1, dtype=np.int64)
        used = tokens[: len(padded)]
        padded[: len(used)] = used
        self.windows = np.lib.stride_tricks.sliding_window_view(padded, sequence_length + 1)[::sequence_length]
        self.targets = len(used) - 1

    def mask(self, index: int) -> torch.Tensor:
        """Which targets of window ``index`` are real."""
        real = min(self.targets - index * self.length, self.length)
        return torch.arange(self.length)[None] < real


class Validator:
    """Measures all sets with the model of a trainer."""

    def __init__(self, trainer: Any, feed: Feed) -> None:
        options = trainer.job.validation
        self.trainer, self.feed, self.every = trainer, feed, options.every
        self.sets = [HeldOut(s, feed.sequence_length, options.max_sequences, feed.vocab_size) for s in options.sets]

    def due(self, step: int, last: int) -> bool:
        return bool(self.sets) and (step == last or (self.every > 0 and step % self.every == 0))

    def measure(self) -> list[dict[str, Any]]:
        """One record a set; every rank calls this and gets the same."""
        return [self._one(s) for s in self.sets]

    def _one(self, held: HeldOut) -> dict[str, Any]:
        feed, trainer = self.feed, self.trainer
        batches, weights = [], []
        # Every rank runs the same number of micro-batches, as pipeline and tensor parallelism need; surplus ones
        # repeat window 0 with weight 0.
        for first in range(0, len(held.windows), feed.dp):
            index = first + feed.dp_rank
            real = index < len(held.windows)
            window = torch.from_numpy(np.array(held.windows[index if real else 0]))[None]
            mask = held.mask(index if real else 0)
            positions = self._positions(window)
            batches.append(feed._to_device(feed.place(window, positions, mask)))
            weights.append(float(mask.sum()) if real else 0.0)
        sums = torch.zeros(2, dtype=torch.float64)
        trainer.unwrapped_model.eval()
        for batch, weight in zip(batches, weights):
            loss = self._forward(batch)
            if isinstance(loss, torch.Tensor):
                sums += torch.tensor([float(loss) * weight, weight], dtype=torch.float64)
        trainer.unwrapped_model.train()
        context = trainer.parallel_context
        if dist.get_rank(context.tp_pg) != 0:
            sums.zero_()  # tensor parallel ranks hold the same loss; one of them counts
        device = "cuda" if torch.cuda.is_available() else "cpu"
        sums = sums.to(device)
        torch.distributed.all_reduce(sums, group=context.world_pg)
        loss = float(sums[0] / sums[1])
        given = held.given
        bits = loss * given.tokens / given.bytes / math.log(2)
        return {"source": given.name, "loss": loss, "bits_per_byte": bits, "tokens": int(sums[1])}

    def _forward(self, batch: dict[str, Any]) -> Any:
        """The loss on the last pipeline stage.

        nanotron's validate_batch_iter cannot be used: it asserts that the loss requires a gradient, under inference
        mode. Its pipeline buffers only carry tensors that do, so with several stages a graph is built and dropped.
        """
        model = self.trainer.unwrapped_model
        if self.trainer.parallel_context.pp_pg.size() == 1:
            with torch.no_grad():
                return model(**batch)["loss"]
        state = PipelineTrainBatchState()
        with attach_pipeline_state_to_model(model=model, pipeline_state=state):
            state.new_micro_batch_forward()
            loss = model(**batch)["loss"]
            while state.microbatches_activations_to_send:
                state.microbatches_activations_to_send.popleft()()
            # The deques of this state belong to its class: what is left would enter the next training step.
            state.pop_last_activations_requiring_backward()
        return loss.detach() if isinstance(loss, torch.Tensor) else loss

    def _positions(self, window: torch.Tensor) -> torch.Tensor | None:
        if not self.feed.masking:
            return None
        from data.loader import document_positions

        eos = self.feed.job.eos_id
        assert eos is not None
        return torch.from_numpy(document_positions(window[:, :-1].numpy(), eos))
