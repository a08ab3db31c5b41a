"""Plots of a finished training, from its journals: ``<run>/pretrain/plots/*.png``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain.metrics import read

PANELS = {
    "loss": "loss, nats per token",
    "lr": "learning rate",
    "grad_norm": "gradient norm before clipping",
    "tokens_per_second": "tokens per second",
}


def draw(root: Path) -> list[Path]:
    """training.png (loss, learning rate, gradient norm, speed over tokens) and validation.png (bits per byte).

    Args:
        root: ``<run>/pretrain``.
    """
    records, measured = read(root / "metrics.jsonl"), read(root / "validation.jsonl")
    if not records:
        return []
    import matplotlib

    matplotlib.use("Agg")
    made = [_training(records, root / "plots" / "training.png")]
    if measured:
        tokens = {r["step"]: r["tokens"] for r in records}
        made.append(_validation(measured, tokens, root / "plots" / "validation.png"))
    return made


def smooth(values: list[float], window: int) -> list[float]:
    """Mean of the last ``window`` values at each place."""
    out, total = [], 0.0
    for i, value in enumerate(values):
        total += value - (values[i - window] if i >= window else 0.0)
        out.append(total / min(i + 1, window))
    return out


def _training(records: list[dict[str, Any]], path: Path) -> Path:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter

    tokens = [r["tokens"] for r in records]
    figure, axes = plt.subplots(2, 2, figsize=(10, 6), sharex=True, layout="constrained")
    for axis, (key, label) in zip(axes.flat, PANELS.items()):
        values = [r[key] for r in records]
        axis.plot(tokens, values, linewidth=0.6, alpha=0.4)
        if key != "lr":
            axis.plot(tokens, smooth(values, max(len(values) // 100, 1)), linewidth=1.2)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    spikes = [r for r in records if r.get("spike")]
    axes.flat[0].plot([r["tokens"] for r in spikes], [r["loss"] for r in spikes], "rx", label="spike")
    if spikes:
        axes.flat[0].legend()
    axes[1, 1].yaxis.set_major_formatter(EngFormatter(sep=""))
    for axis in axes[1]:
        axis.set_xlabel("tokens")
        axis.xaxis.set_major_formatter(EngFormatter())
    return _save(figure, path)


def _validation(measured: list[dict[str, Any]], tokens: Mapping[int, int], path: Path) -> Path:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator, StrMethodFormatter

    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for source in dict.fromkeys(r["source"] for r in measured):
        own = [r for r in measured if r["source"] == source]
        axis.plot([tokens.get(r["step"], 0) for r in own], [r["bits_per_byte"] for r in own], "o-", label=source)
    axis.set_xlabel("tokens")
    axis.xaxis.set_major_formatter(EngFormatter())
    axis.set_ylabel("held-out bits per byte")
    values = [r["bits_per_byte"] for r in measured]
    if max(values) > 3 * min(values):  # one hard source would flatten the others
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6, 8)))
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.yaxis.set_minor_locator(NullLocator())
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    return _save(figure, path)


def _save(figure: Any, path: Path) -> Path:
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})  # same journals, same bytes
    plt.close(figure)
    return path
