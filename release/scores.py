"""Evaluation results as a card and a report need them: one row a task and model, with chance and baselines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from duetto.errors import UserError
from duetto.files import sha256_json
from release.facts import CardFacts
from release.traced import Document, Traced, plain

NOISE = 2.0
"""Standard errors within which two scores are not called different."""


@dataclass(frozen=True)
class Score:
    """One cell of the result table."""

    task: Traced
    language: str
    metric: Traced
    value: Traced
    stderr: Traced | None
    chance: Traced | None
    shots: Traced | None
    samples: Traced | None
    limit: Traced | None
    """Items measured where not all were; such a score is a trial, not a result."""
    no_context: Traced | None
    word_overlap: Traced | None
    other: Traced | None
    """The other model of the run (base for the chat model and the reverse) on the same task."""

    @property
    def above_chance(self) -> bool | None:
        """Beyond two standard errors; None where chance or error is unknown."""
        if self.chance is None or self.stderr is None:
            return None
        return bool(plain(self.value) - plain(self.chance) > NOISE * plain(self.stderr))


def _number(found: Any) -> Traced | None:
    """A traced number, or None for missing, null and not-a-number."""
    if not isinstance(found, Traced) or not isinstance(found.value, int | float) or math.isnan(found.value):
        return None
    return found


def scores_of(facts: CardFacts) -> list[Score]:
    """All scores of the facts' model, in the order of the evaluation manifest.

    Raises:
        UserError: a result file is missing, was edited by hand, or is of another model or another evaluation.
    """
    manifest = facts.m.get("eval")
    table = manifest.at("metrics", "scores", facts.kind) if manifest else None
    if manifest is None or not isinstance(table, Document):
        return []
    other = "base" if facts.kind == "instruct" else "instruct"
    rows = []
    for task in table:
        result = facts.open("eval", facts.kind, f"{task}.json")
        if result is None:
            raise UserError(
                f"{facts.run.path('eval', facts.kind, task)}.json: is missing, and the evaluation manifest "
                "counts on it; run: duetto eval"
            )
        check_result(result, facts.kind, plain(table.at(task, "value")))
        rows.append(
            Score(
                task=result["task"],
                language=str(plain(result["language"])),
                metric=result["metric"],
                value=result["value"],
                stderr=_number(result.at("stderr")),
                chance=_number(result.at("chance")),
                shots=_number(result.at("shots")),
                samples=_number(result.at("samples")),
                limit=_number(result.at("limit")),
                no_context=_number(result.at("no_context")),
                word_overlap=_number(result.at("word_overlap")),
                other=_number(manifest.at("metrics", "scores", other, task, "value")),
            )
        )
    return rows


def check_result(result: Document, kind: str, recorded: Any) -> None:
    """The file is as it was written, and speaks of this model.

    Raises:
        UserError: it is not.
    """
    content = {k: v for k, v in result.raw.items() if k != "sha256"}
    where = result.source
    if result.raw.get("sha256") != sha256_json(content):
        raise UserError(f"{where}: was changed after it was written (its hash differs); run: duetto eval --force")
    if content["model"]["name"] != kind:
        raise UserError(f"{where}: holds results of model {content['model']['name']!r}, not {kind!r}; run: duetto eval")
    if recorded is not None and recorded != content["value"]:
        raise UserError(f"{where}: says {content['value']}, the evaluation manifest {recorded}; run: duetto eval")


@dataclass(frozen=True)
class Finding:
    """A statement that the numbers support; the template words it."""

    kind: str
    score: Score
    other: Score | None = None


def findings(rows: list[Score]) -> dict[str, list[Finding]]:
    """Strengths and weaknesses: what lies beyond noise, and what does not."""
    strong, weak = [], []
    for row in rows:
        if row.above_chance:
            strong.append(Finding("above_chance", row))
        elif row.above_chance is False:
            weak.append(Finding("at_chance", row))
        heuristic = row.word_overlap
        if heuristic is not None and row.stderr is not None:
            gap = plain(row.value) - plain(heuristic)
            if gap > NOISE * plain(row.stderr):
                strong.append(Finding("beats_overlap", row))
            elif gap < 0:
                weak.append(Finding("below_overlap", row))
        if row.other is not None and row.stderr is not None:
            gap = plain(row.value) - plain(row.other)
            noise = NOISE * math.sqrt(2) * plain(row.stderr)
            if gap > noise:
                strong.append(Finding("gained", row))
            elif gap < -noise:
                weak.append(Finding("lost", row))
    for a in rows:
        for b in rows:
            stem_a, stem_b = plain(a.task).rsplit("_", 1), plain(b.task).rsplit("_", 1)
            if a.language == "en" and b.language != "en" and stem_a[0] == stem_b[0] and a.stderr and b.stderr:
                gap = plain(a.value) - plain(b.value)
                if abs(gap) > NOISE * math.hypot(plain(a.stderr), plain(b.stderr)):
                    better, worse = (a, b) if gap > 0 else (b, a)
                    weak.append(Finding("language_gap", worse, better))
    return {"strong": strong, "weak": weak}
