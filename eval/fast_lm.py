"""``hf-prefix``: lm-eval's Hugging Face backend without computing anything twice.

Stock lm-eval runs prompt and choice through the model once for every choice, and turns every position into a row of
the vocabulary. Here

1. prompts that begin alike (a few-shot header) run their common beginning once; its keys and values are kept;
2. the choices of one question share one row: prompt, choice 1, choice 2, ... under a mask that hides them from
   each other, each with the positions that it would have alone;
3. the head is applied only where a choice is scored;
4. rows of similar length are batched by tokens, not by count.

Same requests in, same numbers out: a sample of every task is scored by the stock code too, and a difference above
rounding stops the run.
"""

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from transformers import DynamicCache

from duetto.errors import UserError
from eval.prefix_plan import Question, families, pack
from eval.stock_lm import StockLM

HEAD_ELEMENTS = 1 << 26
"""Logits in memory at a time: 256 MB in fp32, whatever the vocabulary."""
UNSUPPORTED = ("final_logit_softcapping", "logit_scale", "logits_scaling", "sliding_window")
"""Settings that change logits or attention in ways that this backend does not follow."""


@dataclass
class Gate:
    """What the comparison with the stock backend found."""

    requests: int = 0
    max_abs_difference: float = 0.0
    """In log-likelihood, nats."""
    greedy_differs: int = 0
    """Requests whose greedy decision differs (rounding of half precision; refused in fp32)."""


@dataclass
class _Row:
    """One question in a batch: its tokens after the shared prefix, then its choices, side by side."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    """0 for the prompt, n for its n-th choice: a token sees the prompt and its own segment."""


class PrefixLM(StockLM):
    """Drop-in for ``HFLM`` with decoder-only models."""

    def __init__(self, batch_tokens: int = 2048, gate: int = 64, **arguments: Any) -> None:
        super().__init__(attn_implementation="sdpa", **arguments)
        self.batch_tokens = batch_tokens
        self.gate_size = gate
        self.gate = Gate()
        odd = [k for k in UNSUPPORTED if getattr(self.model.config, k, None)]
        if self.backend != "causal" or odd:
            raise UserError(f"hf-prefix does not support this model ({', '.join(odd) or self.backend}); use backend hf")

    @functools.cached_property
    def _encoded(self) -> Any:
        return functools.lru_cache(maxsize=8)(super().tok_encode)

    def tok_encode(self, string: str, *arguments: Any, **named: Any) -> list[int]:
        """As stock, but a context is tokenized once, not once for each of its choices."""
        return list(self._encoded(string, *arguments, **named))

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None) -> Any:
        requests = list(requests)
        answers = self._score(requests)
        if self.gate_size and requests:
            # At random, not every n-th: that could be the first choice of each question only.
            chosen = random.Random(0).sample(range(len(requests)), min(self.gate_size, len(requests)))
            self._compare([requests[i] for i in chosen], [answers[i] for i in chosen])
        self.truncated += sum(len(context) + len(choice) > self.max_length + 1 for _, context, choice in requests)
        for (text, _, _), answer in zip(requests, answers):
            if text is not None:
                self.cache_hook.add_partial("loglikelihood", text, answer)
        return answers

    def _compare(self, requests: Sequence[Any], answers: Sequence[tuple[float, bool]]) -> None:
        truncated = self.truncated
        stock = super()._loglikelihood_tokens(list(requests), disable_tqdm=True)
        self.truncated = truncated
        exact = self.model.dtype == torch.float32
        for (text, _, _), (ours, greedy), (theirs, stock_greedy) in zip(requests, answers, stock):
            difference = abs(ours - theirs)
            self.gate.requests += 1
            self.gate.max_abs_difference = max(self.gate.max_abs_difference, difference)
            self.gate.greedy_differs += greedy != stock_greedy
            # fp32 rounding grows with the sum; half precision rounds each term to about 1 %.
            allowed = 1e-4 + 1e-6 * abs(theirs) if exact else 0.1 + 0.02 * abs(theirs)
            if difference > allowed or (exact and greedy != stock_greedy):
                raise UserError(
                    f"hf-prefix and hf disagree: log-likelihood {ours:.6f} and {theirs:.6f} for {str(text)[-60:]!r}; "
                    "use eval.backend=hf for this model"
                )

    @torch.inference_mode()
    def _score(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """(log-likelihood, is greedy) of each request, in their order."""
        questions: dict[tuple[int, ...], Question] = {}
        for i, (_, context, choice) in enumerate(requests):
            assert context and choice and len(choice) <= self.max_length
            kept = tuple((context + choice)[-(self.max_length + 1) : -len(choice)])
            questions.setdefault(kept, Question(kept)).add(tuple(choice), i)
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for family in families(list(questions.values())):
            shared = self._prefix(family.questions[0].context[: family.prefix])
            for batch in pack(family, self.batch_tokens):
                self._forward(batch, family.prefix, shared, answers)
        return answers

    def _prefix(self, tokens: Sequence[int]) -> Any:
        """Keys and values of a shared beginning, batch 1; None when there is none."""
        if not tokens:
            return None
        cache = DynamicCache(config=self.model.config)
        ids = torch.tensor([list(tokens)], device=self.device)
        self.model.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
        return cache

    def _forward(self, batch: Sequence[Question], prefix: int, shared: Any, answers: list[tuple[float, bool]]) -> None:
        rows = [_row(q, prefix) for q in batch]
        width = max(len(r.tokens) for r in rows)
        ids, positions, segments = (
            torch.tensor([values + [filler] * (width - len(values)) for values in column])
            for filler, column in (
                (0, [r.tokens for r in rows]),
                (0, [r.positions for r in rows]),
                (-1, [r.segments for r in rows]),
            )
        )
        mask = _mask(segments, prefix)
        cache = None
        if shared is not None:
            cache = DynamicCache(config=self.model.config)
            for number, layer in enumerate(shared.layers):
                keys, values = (x.expand(len(rows), -1, -1, -1) for x in (layer.keys, layer.values))
                cache.update(keys, values, number)
        hidden = self.model.base_model(
            input_ids=ids.to(self.device),
            attention_mask=mask.to(self.device),
            position_ids=positions.to(self.device),
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        self._read(hidden, batch, prefix, answers)

    def _read(
        self, hidden: torch.Tensor, batch: Sequence[Question], prefix: int, answers: list[tuple[float, bool]]
    ) -> None:
        """Apply the head where choices are scored, and sum the log-probabilities of each."""
        where: list[tuple[int, int]] = []
        targets: list[int] = []
        spans: list[tuple[int, int, list[int]]] = []
        for row, question in enumerate(batch):
            end = at = len(question.context) - prefix
            for choice, requests in question.choices.items():
                start = len(where)
                # The prompt's last token predicts the first token of every choice.
                where += [(row, end - 1), *((row, at + k) for k in range(len(choice) - 1))]
                targets += choice
                at += len(choice) - 1
                spans.append((start, len(where), requests))
        head = self.model.get_output_embeddings()
        picked = hidden[[r for r, _ in where], [c for _, c in where]]
        gold = torch.tensor(targets, device=hidden.device)
        scores, greedy = [], []
        size = max(1, HEAD_ELEMENTS // head.weight.shape[0])
        for start in range(0, len(where), size):
            logits = F.log_softmax(head(picked[start : start + size]), dim=-1, dtype=self.softmax_dtype)
            chosen = gold[start : start + size]
            scores.append(logits.gather(1, chosen[:, None])[:, 0])
            greedy.append(logits.argmax(-1) == chosen)
        score, hit = torch.cat(scores).cpu(), torch.cat(greedy).cpu()
        for start, stop, requests in spans:
            for i in requests:
                answers[i] = (float(score[start:stop].sum()), bool(hit[start:stop].all()))


def _row(question: Question, prefix: int) -> _Row:
    row = _Row()
    context = question.context[prefix:]
    row.tokens += context
    row.positions += range(prefix, len(question.context))
    row.segments += [0] * len(context)
    for n, choice in enumerate(question.choices, 1):
        row.tokens += choice[:-1]
        row.positions += range(len(question.context), len(question.context) + len(choice) - 1)
        row.segments += [n] * (len(choice) - 1)
    return row


def _mask(segments: torch.Tensor, prefix: int) -> torch.Tensor:
    """Who sees whom: [batch, 1, row, prefix + row]; True where attention is allowed."""
    size = segments.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool).tril()
    visible = (segments[:, None, :] == 0) | (segments[:, None, :] == segments[:, :, None])
    inside = visible & causal & (segments[:, None, :] >= 0)
    inside |= torch.eye(size, dtype=torch.bool)  # padding sees itself: a row of nothing would be NaN
    before = torch.ones(len(segments), size, prefix, dtype=torch.bool)
    return torch.cat([before, inside], dim=2)[:, None]
