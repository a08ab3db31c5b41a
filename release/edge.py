"""Does an edge file compute what the model computes? llama.cpp's own runtime against transformers.

Greedy continuations are compared token by token, with log-probabilities. Two tokens may differ only where the
original itself hardly prefers one: there a rounding decides, and what follows is another text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOKENS = 32
"""Tokens of each greedy continuation."""


@dataclass(frozen=True)
class Agreement:
    """What a comparison over some prompts found."""

    prompts: int
    identical: int
    """Prompts whose whole continuation is the same."""
    tokens: int
    """Tokens compared: up to the first difference of each prompt."""
    max_logprob_difference: float
    """Largest difference of the chosen token's log-probability, in nats, before the first difference."""
    max_gap: float
    """Largest preference (nats) of the original for its own token where the two part; 0 where they never do."""
    same_tokenization: int
    """Prompts that llama.cpp splits into the same tokens as transformers."""
    tokens_per_second: float


@dataclass(frozen=True)
class Completion:
    """What llama.cpp answered."""

    tokens: list[int]
    logprobs: list[float | None]
    seconds: float


class Runtime:
    """One GGUF file in llama.cpp, in this process, on one thread; listens on loopback only while it lives."""

    def __init__(self, file: Path, context: int):
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.n_ctx = context
        params.cpuparams.n_threads = 1
        params.cpuparams_batch.n_threads = 1
        params.n_parallel = 1
        params.warmup = False
        params.verbosity = -1
        self.server = xllamacpp.Server(params)

    def post(self, path: str, **request: Any) -> dict[str, Any]:
        """llama.cpp's own interface: the OpenAI-style one leaves out tokens that are no whole character."""
        import httpx

        answer = httpx.post(f"{self.server.listening_address}{path}", json=request, timeout=600, trust_env=False)
        return dict(answer.raise_for_status().json())

    def tokenize(self, text: str) -> list[int]:
        return list(self.post("/tokenize", content=text, add_special=True, parse_special=True)["tokens"])

    def complete(self, prompt: list[int], tokens: int = TOKENS) -> Completion:
        """Greedy continuation; log-probabilities where llama.cpp gives them, None elsewhere."""
        greedy = {"temperature": 0.0, "top_k": 1, "repeat_penalty": 1.0, "n_probs": 1}
        settings = {"n_predict": tokens, "cache_prompt": False, "return_tokens": True, **greedy}
        answer = self.post("/completion", prompt=prompt, **settings)
        known = answer.get("completion_probabilities") or []
        logprobs: list[float | None] = []
        for token in answer["tokens"]:
            logprobs.append(known.pop(0)["logprob"] if known and known[0]["id"] == token else None)
        return Completion(answer["tokens"], logprobs, answer["timings"]["predicted_ms"] / 1000)


def reference(model: Any, ids: Sequence[int], tokens: int, ends: set[int]) -> list[tuple[int, float, Any]]:
    """Greedy tokens of transformers with log-probability and the whole distribution, up to an end token."""
    import torch

    out: list[tuple[int, float, Any]] = []
    inputs, past = torch.tensor([list(ids)]), None
    with torch.no_grad():
        for _ in range(tokens):
            step = model(inputs, past_key_values=past, use_cache=True)
            past = step.past_key_values
            logprobs = step.logits[0, -1].float().log_softmax(-1)
            best = int(logprobs.argmax())
            out.append((best, float(logprobs[best]), logprobs))
            if best in ends:
                break
            inputs = torch.tensor([[best]])
    return out


def compare(runtime: Runtime, model: Any, tokenizer: Any, prompts: Sequence[str]) -> Agreement:
    """Continue every prompt with both and judge."""
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    identical = counted = same_split = 0
    worst = gap = seconds = 0.0
    generated = 0
    for prompt in prompts:
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        expected = reference(model, ids, TOKENS, ends)
        answer = runtime.complete(ids)
        same_split += runtime.tokenize(prompt) == tokenizer(prompt)["input_ids"]
        generated, seconds = generated + len(answer.tokens), seconds + answer.seconds
        # Whether the end token is part of an answer differs; what came before it does not.
        got = [t for t in answer.tokens if t not in ends]
        wanted = [e for e in expected if e[0] not in ends]
        parted = False
        for (token, logprob, distribution), mine, logprob_there in zip(wanted, got, answer.logprobs):
            counted += 1
            if token != mine:
                gap = max(gap, logprob - float(distribution[mine]))
                parted = True
                break
            if logprob_there is not None:
                worst = max(worst, abs(logprob - logprob_there))
        if not parted and len(got) != len(wanted):
            # One of the two ended earlier.
            parted = True
            at = min(len(got), len(wanted))
            distribution = expected[at][2]
            other = got[at] if len(got) > at else next(iter(ends))
            gap = max(gap, float(distribution.max()) - float(distribution[other]))
        identical += not parted
    speed = generated / seconds if seconds else 0.0
    return Agreement(len(prompts), identical, counted, worst, gap, same_split, speed)


def bits_per_byte(model: Any, windows: Sequence[Sequence[int]], text_bytes: int) -> float:
    """Mean bits a byte over token windows, each read from its own beginning."""
    import torch

    nats = 0.0
    with torch.no_grad():
        for window in windows:
            ids = torch.tensor([list(window)])
            logits = model(ids).logits[0, :-1].float()
            nats += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
    return nats / math.log(2) / text_bytes
