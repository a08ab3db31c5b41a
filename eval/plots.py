"""Plots of results: bars and a radar per language, a heat map of models by tasks, curves over training.

Readable without colour: every model also has its own hatch, line style and marker; the colours are those of Okabe and
Ito, which colour-blind readers can tell apart. Files are SVG with text as text, the same bytes for the same numbers.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eval.render import language_name

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo", "--")
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
CHANCE = "0.35"
"""Grey of everything that stands for chance."""


@contextmanager
def _figure(path: Path, width: float, height: float, **subplot: Any) -> Iterator[Any]:
    """Axes of a figure that is written to ``path`` when the block ends."""
    import matplotlib
    from matplotlib.figure import Figure

    settings: Any = {"svg.hashsalt": "duetto", "svg.fonttype": "none", "font.size": 9, "hatch.linewidth": 0.6}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure.add_subplot(**subplot)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})


def plot_tables(folder: Path, content: Mapping[str, Any]) -> list[Path]:
    """Every plot of ``tables.json``, below ``folder``."""
    written = []
    for language, table in content["languages"].items():
        if any(c is not None for row in table["rows"] for c in row["cells"].values()):
            written += [bars(folder / f"bars-{language}.svg", language, table)]
            written += [radar(folder / f"radar-{language}.svg", language, table)] if len(table["rows"]) > 2 else []
    return [*written, heat_map(folder / "heatmap.svg", content)]


def bars(path: Path, language: str, table: Mapping[str, Any]) -> Path:
    """Scores by task with their standard errors; a grey line marks chance, a hollow bar is a published figure."""
    names = [c["name"] for c in table["columns"]]
    width = 0.8 / max(1, len(names))
    with _figure(path, 3.0 + 1.3 * len(table["rows"]), 3.2) as axes:
        for n, column in enumerate(table["columns"]):
            cells = [(i, row["cells"][column["name"]]) for i, row in enumerate(table["rows"])]
            there = [(i, c) for i, c in cells if c is not None]
            axes.bar(
                [i - 0.4 + width * (n + 0.5) for i, _ in there],
                [c["value"] for _, c in there],
                width,
                yerr=[c["stderr"] or 0.0 for _, c in there],
                label=column["name"] + (" †" if column["published"] else ""),
                color="white" if column["published"] else COLOURS[n % len(COLOURS)],
                edgecolor=COLOURS[n % len(COLOURS)] if column["published"] else "black",
                hatch=HATCHES[n % len(HATCHES)],
                linewidth=0.6,
                error_kw={"linewidth": 0.8},
            )
        for i, row in enumerate(table["rows"]):
            if row["chance"] is not None:
                label = "chance" if i == 0 else None
                axes.plot([i - 0.45, i + 0.45], [row["chance"]] * 2, color=CHANCE, linestyle="--", label=label)
        axes.set_xticks(range(len(table["rows"])), [row["label"] for row in table["rows"]])
        axes.set_ylim(0, _top(table))
        axes.set_ylabel("score")
        axes.set_title(language_name(language))
        axes.figure.legend(fontsize=7, loc="outside right upper")
    return path


def _top(table: Mapping[str, Any]) -> float:
    """End of the scale: the next fifth above the highest score, so that low scores stay apart."""
    highest = max(c["value"] for row in table["rows"] for c in row["cells"].values() if c is not None)
    return min(1.0, math.ceil(highest * 5 + 0.1) / 5)


def radar(path: Path, language: str, table: Mapping[str, Any]) -> Path:
    """One spoke a task; models with a missing cell are left out, since a polygon with a hole would mislead."""
    angles = [2 * math.pi * i / len(table["rows"]) for i in range(len(table["rows"]))]
    with _figure(path, 7.0, 4.2, projection="polar") as axes:
        for n, column in enumerate(table["columns"]):
            cells = [row["cells"][column["name"]] for row in table["rows"]]
            if any(c is None for c in cells):
                continue
            values = [c["value"] for c in cells if c is not None]
            axes.plot(
                [*angles, angles[0]],
                [*values, values[0]],
                color=COLOURS[n % len(COLOURS)],
                linestyle=LINES[n % len(LINES)],
                marker=MARKERS[n % len(MARKERS)],
                markersize=4,
                label=column["name"] + (" †" if column["published"] else ""),
            )
        if all(row["chance"] is not None for row in table["rows"]):
            chances = [row["chance"] for row in table["rows"]]
            axes.plot([*angles, angles[0]], [*chances, chances[0]], color=CHANCE, linestyle=":", label="chance")
        axes.set_xticks(angles, [row["label"] for row in table["rows"]])
        axes.set_ylim(0, _top(table))
        axes.set_rlabel_position(45)
        axes.set_title(language_name(language))
        axes.figure.legend(fontsize=7, loc="outside right upper")
    return path


def heat_map(path: Path, content: Mapping[str, Any]) -> Path:
    """Models by tasks; the number stands in each cell, so that the shade is only a help."""
    rows = [(language, row) for language, table in content["languages"].items() for row in table["rows"]]
    columns = [c for t in content["languages"].values() for c in t["columns"]]
    names = list(dict.fromkeys(c["name"] for c in columns))
    published = {c["name"] for c in columns if c["published"]}
    values = [[_value(row["cells"].get(name)) for _, row in rows] for name in names]
    with _figure(path, 2.5 + 0.75 * len(rows), 1.6 + 0.35 * len(names)) as axes:
        image = axes.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        for y, line in enumerate(values):
            for x, value in enumerate(line):
                shown, dark = ("–", True) if math.isnan(value) else (f"{value:.2f}", value > 0.5)
                axes.text(x, y, shown, ha="center", va="center", fontsize=7, color="black" if dark else "white")
        axes.set_xticks(range(len(rows)), [f"{row['label']}\n{language}" for language, row in rows], fontsize=7)
        axes.set_yticks(range(len(names)), [n + " †" * (n in published) for n in names], fontsize=7)
        axes.figure.colorbar(image, ax=axes, label="score")
    return path


def _value(cell: Mapping[str, Any] | None) -> float:
    return math.nan if cell is None else float(cell["value"])


def progress_curve(path: Path, curve: Mapping[str, Any]) -> Path:
    """One task over training: the score with a band of one standard error, chance with a band of two.

    Args:
        curve: one of ``eval.progress.curves``, and ``chosen``, the step to mark.
    """
    from matplotlib.ticker import EngFormatter

    points: Sequence[Mapping[str, Any]] = curve["points"]
    tokens = [p["tokens"] for p in points]
    values = [p["value"] for p in points]
    errors = [p["stderr"] or 0.0 for p in points]
    with _figure(path, 6.0, 3.2) as axes:
        if curve["chance"] is not None:
            low, high = curve["chance"] - 2 * curve["noise"], curve["chance"] + 2 * curve["noise"]
            axes.axhspan(low, high, color=CHANCE, alpha=0.2, linewidth=0, label="chance ± 2 standard errors")
            axes.axhline(curve["chance"], color=CHANCE, linestyle="--")
        axes.fill_between(
            tokens,
            [v - e for v, e in zip(values, errors)],
            [v + e for v, e in zip(values, errors)],
            color=COLOURS[0],
            alpha=0.25,
            linewidth=0,
        )
        axes.plot(tokens, values, color=COLOURS[0], marker=MARKERS[0], markersize=4, label=curve["metric"])
        for p in points:
            if p.get("step") == curve.get("chosen"):
                axes.plot([p["tokens"]], [p["value"]], color="black", marker="*", markersize=11, label="chosen")
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.set_xlabel("tokens seen")
        axes.set_ylabel(curve["metric"])
        axes.set_title(f"{curve['label']}: {curve['verdict']}", fontsize=9)
        axes.legend(fontsize=7)
    return path
