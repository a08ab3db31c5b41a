"""Result tables from result files only: per language and overall, as Markdown, LaTeX, CSV and JSON.

A table is refused where its numbers cannot be compared: runs with a limit, mixed shots or chat-template settings in a
row, a model scored in a language it was not trained for, two results for one cell. Missing cells are shown as missing.
A best value is marked only where it leads by more than the standard errors.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duetto.errors import UserError
from duetto.files import atomic_write, write_json
from eval.config import TaskEntry
from eval.published import Published
from eval.render import to_csv, to_latex, to_markdown
from eval.results import Result, read_result


@dataclass(frozen=True)
class Loaded:
    """A result file: its content, and whether anyone changed it since."""

    path: Path
    result: Result
    intact: bool


def load_results(folder: Path, models: Sequence[str] | None = None) -> list[Loaded]:
    """All results below ``eval/`` (of the named models), in the order of their paths."""
    paths = sorted(folder.glob("*/*.json"))
    found = [Loaded(p, *read_result(p)) for p in paths if models is None or p.parent.name in models]
    for item in found:
        here, told = item.path.parent.name, item.result.model.name
        if here != told or item.path.stem != item.result.task:
            raise UserError(f"{item.path}: holds {told}/{item.result.task}; it was moved or renamed, put it back")
    return found


def refuse_incomparable(loaded: Sequence[Loaded], published: Published) -> None:
    """Raises UserError naming the first thing that keeps these results out of one table."""
    seen: dict[tuple[str, str], Loaded] = {}
    rows: dict[str, list[Loaded]] = {}
    for item in loaded:
        r = item.result
        if r.limit is not None:
            raise UserError(f"{item.path}: run with limit={r.limit}; a table takes full runs only (drop eval.limit)")
        if r.language not in r.model.languages:
            trained = ", ".join(r.model.languages)
            raise UserError(
                f"{item.path}: {r.model.name} was trained for {trained}, the task is in {r.language}; not one table"
            )
        if (cell := (r.model.sha256 + r.model.name, r.task)) in seen:
            raise UserError(f"{item.path} and {seen[cell].path}: two results for {r.model.name} on {r.task}; keep one")
        seen[cell] = item
        rows.setdefault(r.task, []).append(item)
    for task, items in rows.items():
        _same(task, items, "shots", "shots")
        _same(task, items, "chat_template", "chat template on/off")
        _same(task, items, "metric", "metric")
        _same(task, items, "task_sha256", "version of the task")
        _same(task, items, "data", "data")
        setting = published.settings.get(task)
        r = items[0].result
        if setting and any(task in m.scores for m in published.models):
            if setting.shots != r.shots:
                raise UserError(f"{task}: {r.shots} shots here, {setting.shots} in the published figures; not one row")
            if setting.metric not in (None, r.metric):
                raise UserError(f"{task}: {r.metric} here, {setting.metric} in the published figures; not one row")


def _same(task: str, items: Sequence[Loaded], field: str, name: str) -> None:
    first = items[0]
    for other in items[1:]:
        a, b = getattr(first.result, field), getattr(other.result, field)
        if a != b:
            told = f" ({a} and {b})" if len(f"{a}{b}") < 40 else ""
            raise UserError(f"{task}: {first.path} and {other.path} differ in {name}{told}; not one row")


def build(entries: Sequence[TaskEntry], loaded: Sequence[Loaded], published: Published) -> dict[str, Any]:
    """The content of every table, as plain data (this is ``tables.json``).

    Raises:
        UserError: the results cannot stand in one table.
    """
    refuse_incomparable(loaded, published)
    results = {(x.result.model.name, x.result.task): x for x in loaded}
    models = list(dict.fromkeys(x.result.model.name for x in loaded))
    # The order of the run: its own models first.
    models.sort(key=lambda m: {"base": 0, "instruct": 1}.get(m, 2))
    languages = list(dict.fromkeys(e.language for e in entries))
    tables = {}
    for language in languages:
        chosen = [e for e in entries if e.language == language]
        beside = [m for m in published.models if language in m.languages and any(e.task in m.scores for e in chosen)]
        rows = [_row(e, models, results, beside, published) for e in chosen]
        columns: list[dict[str, Any]] = [{"name": m, "published": None} for m in models]
        columns += [{"name": m.name, "published": m.source} for m in beside]
        tables[language] = {"columns": columns, "rows": rows, "mean": _mean(rows, [c["name"] for c in columns])}
    return {
        "languages": tables,
        "overall": _overall(tables, models),
        "edited": [str(x.path.name) for x in loaded if not x.intact],
    }


def _row(
    entry: TaskEntry,
    models: Sequence[str],
    results: Mapping[tuple[str, str], Loaded],
    beside: Sequence[Any],
    published: Published,
) -> dict[str, Any]:
    cells: dict[str, dict[str, Any] | None] = {}
    first: Result | None = None
    for model in models:
        item = results.get((model, entry.task))
        if item is None:
            cells[model] = None
            continue
        first = first or item.result
        r = item.result
        cells[model] = {"value": r.value, "stderr": r.stderr, "published": False, "edited": not item.intact}
    for model in beside:
        value = model.scores.get(entry.task)
        cells[model.name] = (
            None if value is None else {"value": value, "stderr": None, "published": True, "edited": False}
        )
    unsaid = any(cells[m.name] for m in beside) and published.settings[entry.task].metric is None
    # Figures of an unknown metric are shown, but nothing leads them or is led by them.
    _mark_best(cells, first.samples if first else None, [m.name for m in beside] if unsaid else [])
    return {
        "task": entry.task,
        "label": entry.title,
        "metric": first.metric if first else entry.metric,
        "shots": first.shots if first else entry.shots,
        "samples": first.samples if first else None,
        "chance": entry.chance,
        "no_context": first.no_context if first else None,
        "word_overlap": first.word_overlap if first else None,
        "published_metric_unsaid": unsaid,
        "cells": cells,
    }


def _mark_best(cells: Mapping[str, dict[str, Any] | None], samples: int | None, apart: Sequence[str]) -> None:
    """Mark the highest value where it leads every other by more than the standard error of the difference.

    Args:
        samples: items of the task.
        apart: columns that are not compared.
    """
    for cell in cells.values():
        if cell is not None:
            cell["best"] = False
    there = [c for name, c in cells.items() if c is not None and name not in apart]
    if len(there) < 2:
        return
    best = max(there, key=lambda c: c["value"])

    def variance(cell: Mapping[str, Any]) -> float:
        if cell["stderr"] is not None:
            return float(cell["stderr"]) ** 2
        # A published score has no error of its own: that of a proportion over as many items.
        return cell["value"] * (1 - cell["value"]) / samples if samples else 0.0

    best["best"] = not best["edited"] and all(
        best["value"] - other["value"] > math.sqrt(variance(best) + variance(other))
        for other in there
        if other is not best
    )


def _mean(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, float | None]:
    """Plain mean over the tasks; none where a cell is missing, so that no mean covers fewer tasks than another."""
    out: dict[str, float | None] = {}
    for name in names:
        cells = [row["cells"][name] for row in rows]
        out[name] = sum(c["value"] for c in cells) / len(cells) if cells and all(c is not None for c in cells) else None
    chances = [row["chance"] for row in rows]
    out["chance"] = sum(chances) / len(chances) if all(c is not None for c in chances) else None
    return out


def _overall(tables: Mapping[str, Any], models: Sequence[str]) -> dict[str, Any]:
    """Mean of each language, and the mean of those."""
    names = list(dict.fromkeys([*models, *(c["name"] for t in tables.values() for c in t["columns"])]))
    rows = {language: {n: t["mean"].get(n) for n in [*names, "chance"]} for language, t in tables.items()}
    total = {}
    for name in [*names, "chance"]:
        values = [row[name] for row in rows.values()]
        total[name] = sum(values) / len(values) if all(v is not None for v in values) else None
    published = {c["name"] for t in tables.values() for c in t["columns"] if c["published"]}
    return {"models": names, "published": sorted(published), "rows": rows, "mean": total}


def write_tables(folder: Path, content: Mapping[str, Any]) -> list[Path]:
    """Write ``tables.{json,md,tex,csv}``; return their paths."""
    write_json(folder / "tables.json", content)
    written = [folder / "tables.json"]
    for suffix, render in (("md", to_markdown), ("tex", to_latex), ("csv", to_csv)):
        path = folder / f"tables.{suffix}"
        with atomic_write(path) as f:
            f.write(render(content))
        written.append(path)
    return written
