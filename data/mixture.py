"""Token budgets to sampling weights.

A budget says how many tokens each source gives to a stage; weights, epochs per source and the sample schedule follow
from it and from the token counts on disk.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from duetto.errors import UserError


@dataclass(frozen=True)
class Draw:
    """What one stage takes from one source."""

    tokens: int
    """Tokens drawn in the stage, repetitions included."""
    weight: float
    """Share of the stage's tokens; the weights of a stage sum to one."""
    epochs: float
    """Passes over the source in this stage."""


def sampling_weights(
    budgets: Mapping[str, int], available: Mapping[str, int], max_epochs: Mapping[str, float], stage: str
) -> dict[str, Draw]:
    """Turn token budgets into weights that sum to one.

    Args:
        budgets: tokens to draw by source; order is kept.
        available: tokens on disk by source.
        max_epochs: the most passes allowed by source, over all stages together the caller's concern.
        stage: name of the stage, for messages.

    Raises:
        UserError: a source has no tokens, or a budget needs more passes than its bound; the message names the
            source, the passes needed and the largest budget that fits.
    """
    total = sum(budgets.values())
    if total <= 0:
        raise UserError(f"stage {stage}: the token budgets sum to {total}; give at least one source a positive budget")
    draws = {}
    for source, tokens in budgets.items():
        have = available.get(source, 0)
        if tokens and not have:
            raise UserError(
                f"stage {stage}: source {source} has a budget of {tokens:,} tokens but gave none; check its path and "
                "its cleaning rules (the report says what was dropped), or set its budget to 0"
            )
        epochs = tokens / have if tokens else 0.0
        bound = max_epochs[source]
        if epochs > bound:
            raise UserError(
                f"stage {stage}: the corpus is too small: a budget of {tokens:,} tokens needs {epochs:.2f} passes over "
                f"source {source}, which has {have:,} tokens (bound: {bound:g}); the largest budget that fits is "
                f"{int(have * bound):,}; add text, lower the budget, or raise max_epochs"
            )
        draws[source] = Draw(tokens=tokens, weight=tokens / total, epochs=epochs)
    return draws


def plan_stages(
    stages: Mapping[str, Mapping[str, int]], available: Mapping[str, int], max_epochs: Mapping[str, float]
) -> list[dict]:
    """The ``stages`` of mixture.json; the bound on passes holds for each source over all stages together.

    Raises:
        UserError: as :func:`sampling_weights`.
    """
    planned = []
    spent: dict[str, float] = dict.fromkeys(available, 0.0)
    for name, budgets in stages.items():
        left = {s: bound - spent.get(s, 0.0) for s, bound in max_epochs.items()}
        draws = sampling_weights(budgets, available, left, name)
        for source, draw in draws.items():
            spent[source] = spent.get(source, 0.0) + draw.epochs
        planned.append(
            {"name": name, "tokens": sum(budgets.values()), "sources": {s: asdict(d) for s, d in draws.items()}}
        )
    return planned
