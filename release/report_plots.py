"""Plots of the run report as inline SVG: colour-blind safe, told apart by line style in black and white too."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

from release.report_data import thin

# Okabe and Ito's palette, darkest first; each colour has a dash of its own.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))

Series = dict[str, tuple[list[float], list[float]]]


def figure(width: float = 4.4, height: float = 2.4) -> tuple[Any, Any]:
    """Small on paper: the figure fills a phone's width, and its text must still be read there."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "duetto", "font.family": "sans-serif", "font.size": 9})
    fig, ax = plt.subplots(figsize=(width, height), layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.3, linewidth=0.5)
    return fig, ax


def svg(fig: Any, title: str) -> str:
    """The figure as an inline element that scales with the page and is read out by its title."""
    from matplotlib import pyplot as plt

    buffer = io.StringIO()
    fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(fig)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg \1 role="img"><title>{title}</title>', text, count=1)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Ids must differ between the figures of one page.
    prefix = re.sub(r"\W+", "-", title.lower())
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'href="#', f'href="#{prefix}-', text)
    return re.sub(r"url\(#", f"url(#{prefix}-", text)


def lines(series: Series, title: str, ylabel: str, log_scale: bool = False, xlabel: str = "step") -> str:
    """One line a series, thinned."""
    fig, ax = figure()
    for i, (label, (xs, ys)) in enumerate(series.items()):
        xs, ys = thin(xs, ys)
        marker = "o" if len(xs) < 15 else None
        style = {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % len(DASHES)], "linewidth": 1.4}
        ax.plot(xs, ys, label=label, marker=marker, markersize=3, **style)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    if log_scale:
        ax.set_yscale("log")
    if len(series) > 1:
        ax.legend(frameon=False)
    return svg(fig, title)


def shares(rows: Sequence[dict[str, Any]], title: str) -> str:
    """One stacked bar: what part of the tokens each source gives."""
    fig, ax = figure(height=0.9)
    left = 0.0
    hatches = ("", "//", "..", "xx", "\\\\", "++")
    for i, row in enumerate(r for r in rows if r["share"]):
        colour = COLOURS[i % len(COLOURS)]
        ax.barh(0, row["share"], left=left, color=colour, hatch=hatches[i % 6], edgecolor="white", label=row["name"])
        left += row["share"]
    ax.set_xlim(0, 1)
    ax.set_axis_off()
    ax.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.05), frameon=False)
    return svg(fig, title)


def scores(table: dict[str, dict[str, Any]], title: str) -> str:
    """Bars of each model on each task, with two standard errors and the line of chance."""
    tasks = list(dict.fromkeys(task for found in table.values() for task in found))
    fig, ax = figure(width=5.0, height=max(2.0, 0.35 * len(tasks) * max(len(table), 1) + 0.8))
    thickness = 0.8 / max(len(table), 1)
    for i, (model, found) in enumerate(table.items()):
        ys = [n + i * thickness for n, task in enumerate(tasks) if task in found]
        values = [found[task]["value"] for task in tasks if task in found]
        errors = [2 * (found[task].get("stderr") or 0) for task in tasks if task in found]
        colour, hatch = COLOURS[i % len(COLOURS)], ("", "//", "..")[i % 3]
        ax.barh(ys, values, thickness, xerr=errors, color=colour, hatch=hatch, edgecolor="white", label=model)
    for n, task in enumerate(tasks):
        chance = next((f[task].get("chance") for f in table.values() if task in f), None)
        if chance is not None:
            low, high = n - thickness / 2, n + thickness * (len(table) - 0.5)
            ax.plot([chance, chance], [low, high], color="black", linewidth=1.5, label="chance" if n == 0 else None)
    ax.set_yticks([n + thickness * (len(table) - 1) / 2 for n in range(len(tasks))], tasks)
    ax.invert_yaxis()
    ax.set_xlim(left=0)
    ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3)
    return svg(fig, title)


def all_plots(data: dict[str, Any]) -> dict[str, str]:
    """Every plot that the data allow, by name."""
    out: dict[str, str] = {}
    metrics = data["metrics"]

    def column(key: str) -> tuple[list[float], list[float]]:
        kept = [m for m in metrics if isinstance(m.get(key), int | float)]
        return [m["step"] for m in kept], [m[key] for m in kept]

    wanted = (
        ("loss", "Training loss", "loss (nats)", False),
        ("lr", "Learning rate", "learning rate", False),
        ("tokens_per_second", "Throughput", "tokens/s", False),
        ("grad_norm", "Gradient norm", "gradient norm", True),
        ("goodput", "Goodput", "goodput", False),
    )
    for key, title, label, log_scale in wanted:
        if len(column(key)[0]) > 1:
            out[key] = lines({title: column(key)}, title, label, log_scale)
    held_out: Series = {}
    for v in data["validation"]:
        if v.get("bits_per_byte") is not None:
            steps, values = held_out.setdefault(v["source"], ([], []))
            steps.append(v["step"])
            values.append(v["bits_per_byte"])
    # Code has several times the bits per byte of prose: in one plot it would flatten the languages.
    for key, title, language in (("validation", "Validation", True), ("validation_other", "Validation, other", False)):
        if series := {k: s for k, s in held_out.items() if (k in data["languages"]) == language}:
            out[key] = lines(series, title, "bits per byte")
    if any(r["share"] for r in data["sources"]):
        out["mixture"] = shares(data["sources"], "Data mixture")
    if data["scores"]:
        out["scores"] = scores(data["scores"], "Evaluation")
    return out
