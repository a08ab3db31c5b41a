"""What became of the text: one JSON and one HTML page about a run's data, the same bytes for the same run.

What varies from run to run (CPU seconds) is in ``costs.js`` beside the page, which shows it.
"""

import io
import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from data.config import DataConfig, Source
from data.encode import load_tokenizer
from data.ledger import byte_length
from data.reader import CleanReader
from duetto.files import atomic_write, read_json, write_json
from duetto.run import Run

SAMPLE = 500
"""Documents of a source from which tokens per word are measured."""


IN_AND_OUT = ("documents_in", "documents_out")


def write_report(
    run: Run, config: DataConfig, sources: Mapping[str, Source], mixture: dict[str, Any]
) -> dict[str, Any]:
    """Write ``data/report.json``, ``report.html`` and ``costs.js``; returns fertility and contamination."""
    folder = run.path("data")
    cost = fertility(run, sources)
    facts = {
        "run": run.recipe.name,
        "tokenizer": mixture["tokenizer"],
        "sources": {n: _source(run, n, source, mixture, cost[n]["bytes_per_token"]) for n, source in sources.items()},
        "stages": mixture["stages"],
        "validation": {
            name: {k: entry[k] for k in ("documents", "tokens", "bytes")}
            for name, entry in mixture["validation"].items()
        },
        "fertility": cost,
        "contamination": contamination(run, sources),
    }
    write_json(folder / "report.json", facts)
    pairs_file = folder / "dedup" / "pairs.jsonl"
    pairs = [json.loads(line) for line in pairs_file.read_text(encoding="utf-8").splitlines()]
    lengths = {name: document_lengths(run, mixture["sources"][name]) for name in sources}
    with atomic_write(folder / "report.html") as f:
        f.write(_render(facts, pairs, {n: read_json(folder / n / "stats.json") for n in sources}, lengths))
    costs = {name: read_json(folder / name / "costs.json") for name in sources}
    with atomic_write(folder / "costs.js") as f:
        f.write(f"const COSTS = {json.dumps(costs)};\n")
    return {"fertility": facts["fertility"], "contamination": facts["contamination"]}


def _source(run: Run, name: str, source: Source, mixture: dict[str, Any], bytes_per_token: float) -> dict[str, Any]:
    """Tokens of what was not tokenized (dropped text) are estimated from its bytes, at the rate of what was.

    Args:
        bytes_per_token: the rate where nothing was kept.
    """
    stats = read_json(run.path("data", name, "stats.json"))
    duplicates = read_json(run.path("data", "dedup", "summary.json"))[name]
    made = mixture["sources"][name]
    counts = stats["counts"]
    removed = duplicates["exact"] + duplicates["minhash"]
    rate = made["bytes"] / made["tokens"] if made["tokens"] else bytes_per_token
    return {
        "kind": source.kind,
        "language": source.language,
        "counts": counts,
        "tokens_in_estimate": round(counts["bytes_in"] / rate),
        "dropped": {
            reason: {k: e[k] for k in ("documents", "bytes")} | {"tokens_estimate": round(e["bytes"] / rate)}
            for reason, e in stats["dropped"].items()
        },
        "changed": {k: v for k, v in counts.items() if k.startswith(("pii_", "documents_")) and k not in IN_AND_OUT},
        "bad_files": stats["bad_files"],
        "duplicates": duplicates,
        "held_out": counts["documents_out"] - removed - made["documents"],
        "documents": made["documents"],
        "tokens": made["tokens"],
        "bytes": made["bytes"],
        "shards": len(made["shards"]),
    }


def fertility(run: Run, sources: Mapping[str, Source]) -> dict[str, dict[str, Any]]:
    """Tokens per word and bytes per token of each source, on its first documents."""
    encode = load_tokenizer(run.path("tokenizer")).encoder("fastokens")
    out = {}
    for name, source in sources.items():
        texts = [d.text[:20_000] for d in islice(CleanReader(name, run.path("data", name)).run(), SAMPLE)]
        ids, _ = encode(texts)
        words, size = sum(len(t.split()) for t in texts), sum(map(byte_length, texts))
        out[name] = {
            "language": source.language,
            "tokens_per_word": round(len(ids) / max(words, 1), 4),
            "bytes_per_token": round(size / max(len(ids), 1), 4),
        }
    return out


def contamination(run: Run, sources: Mapping[str, Source]) -> dict[str, dict[str, dict[str, int]]]:
    """Source x benchmark: documents dropped because of it, and its items that were found. The card prints it.

    A benchmark that was looked for and not found has zeros; one that was not looked for has no entry.
    """
    table: dict[str, dict[str, dict[str, int]]] = {}
    for name in sources:
        stats = read_json(run.path("data", name, "stats.json"))
        row = {b: {"documents": 0, "items": len(items)} for b, items in stats["contaminated_items"].items()}
        for reason, entry in stats["dropped"].items():
            kind, _, benchmark = reason.partition(":")
            if kind == "contaminated":
                row.setdefault(benchmark, {"documents": 0, "items": 0})["documents"] = entry["documents"]
        table[name] = row
    return table


def document_lengths(run: Run, made: dict[str, Any]) -> np.ndarray:
    """Tokens of every document of a source, from the shard indexes."""
    out = []
    for shard in made["shards"][:50]:
        ends = np.fromfile(run.path("tokens", shard["path"] + ".index"), "<u8").astype(np.int64)
        out.append(np.diff(ends, prepend=0))
    return np.concatenate(out) if out else np.zeros(0, np.int64)


def _render(
    facts: dict[str, Any], pairs: list[dict[str, Any]], stats: dict[str, Any], lengths: Mapping[str, np.ndarray]
) -> str:
    from jinja2 import Environment, FileSystemLoader, select_autoescape

    env = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(default=True))
    env.filters["n"] = lambda x: f"{x:,}" if isinstance(x, int) else f"{x:.3g}"
    benchmarks = sorted({b for row in facts["contamination"].values() for b in row})
    return env.get_template("report.html.jinja").render(
        facts=facts,
        stats=stats,
        pairs=pairs,
        benchmarks=benchmarks,
        plots=[_plot_flow(facts), _plot_lengths(lengths), _plot_languages(facts)],
    )


def _svg(draw: Any, width: float = 7.2, height: float = 3.0) -> str:
    """A plot as inline SVG, without the date and random ids that would make each one different."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with matplotlib.rc_context({"svg.hashsalt": "duetto", "svg.fonttype": "none", "font.size": 9}):
        figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
        draw(axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    return out.getvalue().partition("<svg")[1] + out.getvalue().partition("<svg")[2]


def _plot_flow(facts: dict[str, Any]) -> str:
    """What came in, by what became of it."""

    def draw(axes: Any) -> None:
        names = list(facts["sources"])
        left = np.zeros(len(names))
        parts = {
            "trained on": [s["documents"] for s in facts["sources"].values()],
            "held out": [s["held_out"] for s in facts["sources"].values()],
            "duplicates": [sum(s["duplicates"].values()) for s in facts["sources"].values()],
            "dropped": [sum(e["documents"] for e in s["dropped"].values()) for s in facts["sources"].values()],
        }
        total = np.maximum(np.sum(list(parts.values()), axis=0), 1)
        for label, values in parts.items():
            share = 100 * np.array(values) / total
            axes.barh(names, share, left=left, label=label)
            left += share
        axes.set_xlabel("% of documents")
        axes.invert_yaxis()
        axes.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.18), frameon=False)

    return _svg(draw)


def _plot_lengths(lengths: Mapping[str, np.ndarray]) -> str:
    def draw(axes: Any) -> None:
        edges = np.logspace(0, 6, 61)
        for name, values in lengths.items():
            counts, _ = np.histogram(np.maximum(values, 1), edges, weights=values)
            axes.stairs(counts / max(values.sum(), 1), edges, label=name)
        axes.set_xscale("log")
        axes.set_xlabel("tokens of a document")
        axes.set_ylabel("share of tokens")
        axes.legend(frameon=False)

    return _svg(draw)


def _plot_languages(facts: dict[str, Any]) -> str:
    def draw(axes: Any) -> None:
        tokens: dict[str, int] = {}
        for source in facts["sources"].values():
            tokens[source["language"]] = tokens.get(source["language"], 0) + source["tokens"]
        axes.bar(list(tokens), [t / 1e6 for t in tokens.values()])
        axes.set_ylabel("million tokens on disk")

    return _svg(draw, width=4.5)
