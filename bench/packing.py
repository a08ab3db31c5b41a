"""What packing buys: tokens used over tokens computed, and trained tokens a second, packed against unpacked.

    python -m bench.packing [--conversations N] [--seconds S] [--json FILE]

The same conversations train the demo's model three ways: packed by Axolotl's own sampler and collator, one conversation
a row padded to the longest of its batch, and padded to the context. Data: the demo's generator, its mix of lengths.
"""

import random
import time
from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np

from bench.common import finish, parser

CONTEXT, ROWS = 256, 4
"""Tokens of a row, and rows of a batch: one rank of configs/sft/demo.yaml."""

Batch = dict[str, Any]


def conversations(count: int) -> list[list[int]]:
    """Token ids of ``count`` demo conversations, with a byte-level BPE of the demo's size trained on them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from data.demo.conversations import conversation
    from sft import chatml

    rng = random.Random(8)
    texts = [chatml.render(conversation(rng, ("en", "it")[i % 2], False, str(i))["messages"]) for i in range(count)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = [chatml.IM_START, chatml.IM_END]
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=4096, special_tokens=special, show_progress=False))
    return [x.ids for x in bpe.encode_batch(texts)]


def batch(rows: list[list[list[int]]], width: int) -> Batch:
    """Rows of one or more conversations as tensors; labels on every token, positions start anew with each sample."""
    import torch

    ids = torch.zeros((len(rows), width), dtype=torch.long)
    positions = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for i, row in enumerate(rows):
        flat = [t for sample in row for t in sample]
        ids[i, : len(flat)] = torch.tensor(flat)
        labels[i, : len(flat)] = ids[i, : len(flat)]
        places = [p for sample in row for p in range(len(sample))]
        positions[i] = torch.tensor(places + list(range(width - len(flat))))
    return {"input_ids": ids, "position_ids": positions, "labels": labels}


def packed(samples: list[list[int]]) -> list[Batch]:
    """Axolotl's first-fit-decreasing packing."""
    from axolotl.utils.samplers.multipack import MultipackBatchSampler

    sampler = MultipackBatchSampler(
        range(len(samples)),
        batch_size=ROWS,
        batch_max_len=CONTEXT,
        lengths=np.asarray([len(s) for s in samples]),
        bin_size=200,
        num_processes=1,
    )
    return [batch([[samples[i] for i in row] for row in rows], CONTEXT) for rows in sampler.generate_batches()]


def unpacked(samples: list[list[int]], width: int | None = None) -> list[Batch]:
    groups = [samples[i : i + ROWS] for i in range(0, len(samples) - ROWS + 1, ROWS)]
    return [batch([[s] for s in g], width or max(len(s) for s in g)) for g in groups]


def used(batches: list[Batch]) -> float:
    """Tokens of conversations over tokens computed."""
    return float(sum((b["labels"] != -100).sum() for b in batches) / sum(b["labels"].numel() for b in batches))


def measure(variants: dict[str, list[Batch]], seconds: float) -> dict[str, float]:
    """Conversation tokens a CPU second of forward, backward and optimizer step; the variants take turns."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        use_cache=False,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(b: Batch) -> int:
        model(**b).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return int((b["labels"] != -100).sum())

    turns: dict[str, Callable[[], Batch]] = {name: cycle(b).__next__ for name, b in variants.items()}
    tokens, spent = dict.fromkeys(turns, 0), dict.fromkeys(turns, 0.0)
    for name in turns:
        step(turns[name]())
    while sum(spent.values()) < seconds:
        for name, draw in turns.items():
            b, began = draw(), time.process_time()
            tokens[name] += step(b)
            spent[name] += time.process_time() - began
    return {name: tokens[name] / spent[name] for name in turns}


def main() -> None:
    p = parser(__doc__ or "")
    p.add_argument("--conversations", type=int, default=2000)
    p.add_argument("--seconds", type=float, default=40.0)
    args = p.parse_args()
    samples = [s for s in conversations(args.conversations) if len(s) <= CONTEXT]
    variants = {
        "packed": packed(samples),
        "padded to the longest": unpacked(samples),
        "padded to the context": unpacked(samples, CONTEXT),
    }
    speed = measure(variants, args.seconds)
    figures: dict[str, Any] = {"conversations": len(samples), "mean_tokens": float(np.mean([*map(len, samples)]))}
    for name, batches in variants.items():
        key = name.replace(" ", "_")
        figures[f"{key}_used"] = round(used(batches), 4)
        figures[f"{key}_batches"] = len(batches)
        figures[f"{key}_tokens_per_cpu_second"] = round(speed[name], 1)
        print(f"{name}: {used(batches):.1%} of the computed tokens used, {speed[name]:,.0f} tokens a CPU second")
    ratio = speed["packed"] / speed["padded to the context"]
    figures["throughput_ratio"] = round(ratio, 3)
    figures["throughput_ratio_to_longest"] = round(speed["packed"] / speed["padded to the longest"], 3)
    goals = {
        "packed_used": (">=", 0.9, figures["packed_used"]),
        "throughput_ratio": (">=", 1.5, figures["throughput_ratio"]),
    }
    finish("packing", figures, goals, args.json)


if __name__ == "__main__":
    main()
