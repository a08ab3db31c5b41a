"""How likely a model finds given answers: the held-out response loss, and the preference margin.

Only the tokens that training would train are scored, by the gate's own rule.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sft import chatml, gate


def response_scores(
    model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]], batch_size: int = 32
) -> list[tuple[float, int]]:
    """Log-probability (nats, summed) and number of the assistant's tokens of each conversation.

    Args:
        model: a causal LM whose vocabulary has the ChatML tokens.
        tokenizer: of the chat model (a base tokenizer renders the same ids once it has the tokens).
        rows: conversations; ``tools`` as a list.
    """
    import torch

    header = np.asarray(tokenizer.encode("assistant\n", add_special_tokens=False), dtype=np.int64)
    start, end = (tokenizer.convert_tokens_to_ids(t) for t in (chatml.IM_START, chatml.IM_END))
    encoded = [tokenizer.encode(chatml.render(r["messages"], r.get("tools")), add_special_tokens=False) for r in rows]
    scores: list[tuple[float, int]] = [(0.0, 0)] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: len(encoded[i]))
    for first in range(0, len(order), batch_size):
        batch = order[first : first + batch_size]
        width = max(len(encoded[i]) for i in batch)
        ids = torch.full((len(batch), width), end)
        scored = torch.zeros((len(batch), width), dtype=torch.bool)
        for place, i in enumerate(batch):  # right padding: causal attention never sees it
            flat = np.asarray(encoded[i], dtype=np.int64)
            ids[place, : len(flat)] = torch.from_numpy(flat)
            mask = gate.trained(flat, np.zeros(1, dtype=np.int64), start, end, header)
            scored[place, : len(flat)] = torch.from_numpy(mask)
        with torch.inference_mode():
            logits = model(input_ids=ids.to(model.device)).logits[:, :-1].float().cpu()
        said = torch.log_softmax(logits, dim=-1).gather(-1, ids[:, 1:, None])[..., 0] * scored[:, 1:]
        for place, i in enumerate(batch):
            scores[i] = (float(said[place].sum()), int(scored[place, 1:].sum()))
    return scores


def response_loss(model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> float:
    """Mean negative log-probability of an assistant's token, in nats."""
    scores = response_scores(model, tokenizer, rows)
    return -sum(s for s, _ in scores) / max(1, sum(n for _, n in scores))


def preference_margin(model: Any, tokenizer: Any, pairs: Sequence[Mapping[str, Any]]) -> float:
    """Mean over pairs of log p(chosen) - log p(rejected), each per token, in nats."""
    margins = []
    sides = [response_scores(model, tokenizer, [_with(p, side) for p in pairs]) for side in ("chosen", "rejected")]
    for (chosen, n), (rejected, m) in zip(*sides):
        margins.append(chosen / max(n, 1) - rejected / max(m, 1))
    return float(np.mean(margins))


def _with(pair: Mapping[str, Any], side: str) -> dict[str, Any]:
    return {"messages": [*pair["messages"], pair[side]], "tools": pair.get("tools")}
