"""``duetto run``: every stage in order, then one table. This is what ``make demo`` calls.

Reading it top to bottom is reading the story of a run.
"""

import argparse
import importlib
import time
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from duetto.cli import VERBS, verb_parser
from duetto.console import console, duration, log
from duetto.files import read_json
from duetto.run import Run

STORY = ("tokenize", "pretrain", "convert", "sft", "eval", "card")

PARTS = {"tokenize": ("corpus.json", "clean-*.json", "dedup*.json", "decont*.json", "tokenizer.json", "tokens-*.json")}
"""Manifests of the steps inside a verb, whose time counts as the verb's."""


def run(run: Run, args: argparse.Namespace) -> None:
    started = time.monotonic()
    for verb in STORY:
        if verb == "sft" and run.recipe.sft is None:
            log("sft: the recipe names none, skipped")
            continue
        flags = ["--force"] if args.force else []
        importlib.import_module(VERBS[verb].module).run(run, verb_parser(verb).parse_args(flags))
    console.print(summary(run))
    console.print(scores(run))
    for line in closing(run):
        log(line)
    log(f"all stages done in {duration(time.monotonic() - started)} (skipped ones took no time)")


def summary(run: Run) -> Table:
    """What each stage made and how long it took, from the manifests only."""
    table = Table(title=f"run {run.recipe.name}", title_justify="left", caption_justify="left")
    table.add_column("stage")
    table.add_column("what it made")
    table.add_column("time", justify="right")
    for stage in STORY:
        manifest = run.manifest(stage)
        if manifest:
            metrics = manifest["metrics"]
            parts = [read_json(p)["seconds"] for g in PARTS.get(stage, ()) for p in run.path("manifests").glob(g)]
            table.add_row(stage, "\n".join(LINES[stage](metrics)), duration(manifest["seconds"] + sum(parts)))
    return table


def scores(run: Run) -> Table:
    """Every benchmark beside chance, the score without the context, and a word-overlap heuristic."""
    metrics = run.require("eval")["metrics"]
    models, baselines = metrics["scores"], metrics.get("baselines", {})
    found = [task for tasks in models.values() for task in tasks.values()]
    error = max((f["stderr"] for f in found if isinstance(f.get("stderr"), int | float)), default=None)
    caption = None if error is None else f"standard error at most {error:.2f}"
    table = Table(title="benchmarks", title_justify="left", caption=caption, caption_justify="left")
    table.add_column("task", no_wrap=True)
    for column in [*models, "chance", "no context", "word overlap"]:
        table.add_column(column, justify="right")
    for task in dict.fromkeys(t for tasks in models.values() for t in tasks):
        cells = [tasks.get(task, {}).get("value") for tasks in models.values()]
        chance = next(tasks[task].get("chance") for tasks in models.values() if task in tasks)
        beside = baselines.get(task, {})
        cells += [chance, beside.get("no_context"), beside.get("word_overlap")]
        table.add_row(task, *map(_number, cells))
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _tokenize(m: Mapping[str, Any]) -> list[str]:
    sources = m.get("sources", {})
    parts = [f"{name} {_count(s['tokens'])}" for name, s in sources.items()]
    return [f"{_count(m['documents'])} documents, {_count(m['tokens'])} tokens", ", ".join(parts)]


def _pretrain(m: Mapping[str, Any]) -> list[str]:
    first = (
        f"{_count(m['parameters'])} parameters, {m['steps']} steps, {_count(m['tokens'])} tokens, "
        f"loss {m['loss_first']:.3f} -> {m['loss_last']:.3f}, {_count(m['tokens_per_second'])} tokens/s"
    )
    validation = [f"{k} {v['bits_per_byte']:.3f}" for k, v in m.get("validation", {}).items()]
    return [first, "validation bits per byte: " + ", ".join(validation)] if validation else [first]


def _convert(m: Mapping[str, Any]) -> list[str]:
    return [f"{m['tensors']} tensors, max |logit difference| {m['max_abs_logit_difference']:.1e} (fp32)"]


def _sft(m: Mapping[str, Any]) -> list[str]:
    loss = f"loss {m['loss_first']:.3f} -> {m['loss_last']:.3f}"
    return [f"{_count(m['conversations'])} conversations, {m['steps']} steps, {loss}"]


def _eval(m: Mapping[str, Any]) -> list[str]:
    models = m["scores"]
    lines = [f"{', '.join(models)} on {len(next(iter(models.values()), {}))} benchmarks, below"]
    for language, c in m.get("chat", {}).items():
        lines.append(
            f"chat {language}: closes its turn {c['stop_rate']:.2f}, answers in the language {c['language_rate']:.2f}"
        )
    return lines


def _card(m: Mapping[str, Any]) -> list[str]:
    return [f"{len(m['files'])} files to release"]


LINES = {
    "tokenize": _tokenize,
    "pretrain": _pretrain,
    "convert": _convert,
    "sft": _sft,
    "eval": _eval,
    "card": _card,
}


def closing(run: Run) -> list[str]:
    """One sample in each language, and where the card is."""
    lines = []
    samples = ((run.manifest("eval") or {}).get("metrics") or {}).get("samples", {})
    for language, sample in samples.items():
        lines += [f"[{language}] > {' '.join(sample['prompt'].split())}", f"     {' '.join(sample['answer'].split())}"]
    lines += [f"card: {path}" for path in sorted(run.path("release").glob("*/README.md"))]
    return lines


def _count(n: float) -> str:
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return f"{n:.0f}"
