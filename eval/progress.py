"""Scores over training: what the curves say, and which checkpoint to take.

Rules, so that a choice can be checked by hand:

- Noise of a task is the standard error of guessing, sqrt(c (1 - c) / items) with chance c. A curve is indistinguishable
  from chance when no point of its later half is more than two of these above chance.
- A checkpoint is chosen by the mean over the tasks that do tell something. Among those within one standard error of
  the best mean the latest is taken: it has seen most data, and the difference is noise.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from eval.config import TaskEntry
from eval.results import Result

Z = 2.0
"""Standard errors that count as a difference."""
AT_CHANCE = "indistinguishable from chance"


def curves(entries: Sequence[TaskEntry], results: Sequence[Result]) -> list[dict[str, Any]]:
    """One curve a task, points in the order of tokens seen."""
    out = []
    for entry in entries:
        found = sorted((r for r in results if r.task == entry.task), key=lambda r: r.model.tokens or 0)
        points = [{"step": r.model.step, "tokens": r.model.tokens, "value": r.value, "stderr": r.stderr} for r in found]
        items = min((r.samples for r in found), default=0)
        noise = math.sqrt(entry.chance * (1 - entry.chance) / items) if entry.chance is not None and items else None
        out.append(
            {
                "task": entry.task,
                "label": f"{entry.title} ({entry.language})",
                "metric": entry.metric,
                "chance": entry.chance,
                "noise": noise,
                "items": items,
                "verdict": verdict(points, entry.chance, noise),
                "points": points,
            }
        )
    return out


def verdict(points: Sequence[Mapping[str, Any]], chance: float | None, noise: float | None) -> str:
    """What a curve says about chance, in words."""
    if chance is None or noise is None or not points:
        return "no chance level"
    above = [p["value"] > chance + Z * noise for p in points]
    if not any(above[len(above) // 2 :]):
        return AT_CHANCE
    if not above[-1]:
        return "not steadily above chance"
    first = len(above) - next((i for i, a in enumerate(reversed(above)) if not a), len(above))
    return f"above chance from step {points[first]['step']:,} on"


def choose(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The checkpoint to take, with the rule and the reason.

    Args:
        found: what ``curves`` returned.
    """
    telling = [c for c in found if c["verdict"] != AT_CHANCE and c["points"]]
    silent = [c["task"] for c in found if c["verdict"] == AT_CHANCE]
    steps = sorted({p["step"] for c in found for p in c["points"]})
    rule = (
        "highest mean over the tasks that are not at chance; among checkpoints within one standard error of it, "
        "the latest"
    )
    if not telling:
        return {
            "step": steps[-1],
            "rule": rule,
            "reason": "every task is at chance: the latest checkpoint",
            "means": [],
        }
    means = []
    for step in steps:
        points = [p for c in telling for p in c["points"] if p["step"] == step]
        if len(points) < len(telling):
            continue  # not evaluated on every task yet
        error = math.sqrt(sum((p["stderr"] or 0.0) ** 2 for p in points)) / len(points)
        means.append({"step": step, "mean": sum(p["value"] for p in points) / len(points), "stderr": error})
    best = max(means, key=lambda m: m["mean"])
    chosen = max((m for m in means if m["mean"] >= best["mean"] - best["stderr"]), key=lambda m: m["step"])
    reason = f"mean {chosen['mean']:.4f} over {', '.join(c['task'] for c in telling)}"
    if chosen is not best:
        reason += (
            f"; step {best['step']:,} has {best['mean']:.4f}, which is within one standard error "
            f"({best['stderr']:.4f}), and step {chosen['step']:,} is later"
        )
    if silent:
        reason += f"; not used, being at chance: {', '.join(silent)}"
    return {"step": chosen["step"], "rule": rule, "reason": reason, "means": means}
