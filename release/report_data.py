"""What the run report shows, gathered from a run folder that may still be growing.

Every part is optional: a report of a run that has only begun has fewer sections, never an error. A file that cannot
be read is named in the report.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from duetto.errors import UserError
from duetto.files import read_json
from duetto.run import Run
from release.facts import data_stages, neutral
from release.sample import PROMPTS

STAGES = ("tokenize", "pretrain", "convert", "sft", "dpo", "eval", "card", "export")
POINTS = 600
"""Points of a curve; longer ones are averaged over equal spans of steps."""


def collect(run: Run) -> dict[str, Any]:
    """Everything, as plain data."""
    problems: list[str] = []
    manifests = {}
    for stage in STAGES:
        found = read(run, problems, "manifests", f"{stage}.json")
        if found is not None:
            manifests[stage] = found
    metrics = records(run.path("pretrain", "metrics.jsonl"))
    return {
        "name": run.recipe.name,
        "languages": run.recipe.languages,
        "manifests": manifests,
        "links": links(run),
        "sources": sources(run, manifests, problems),
        "metrics": metrics,
        "validation": records(run.path("pretrain", "validation.jsonl")),
        "training": training(metrics, manifests.get("pretrain")),
        "scores": (manifests.get("eval") or {}).get("metrics", {}).get("scores", {}),
        "baselines": (manifests.get("eval") or {}).get("metrics", {}).get("baselines", {}),
        "chat": (manifests.get("eval") or {}).get("metrics", {}).get("chat", {}),
        "samples": (manifests.get("eval") or {}).get("metrics", {}).get("samples", {}),
        "progress": progress(run, problems),
        "export": (manifests.get("export") or {}).get("metrics", {}).get("models", {}),
        "parity": read(run, problems, "base", "parity.json"),
        "cost": cost(run, manifests),
        "planned_steps": planned_steps(run),
        "problems": problems,
    }


def read(run: Run, problems: list[str], *parts: str) -> Any:
    path = run.path(*parts)
    if not path.is_file():
        return None
    try:
        return neutral(read_json(path), run)
    except UserError as e:
        problems.append(neutral(str(e), run))
        return None


def records(path: Path) -> list[dict[str, Any]]:
    """Lines of a growing .jsonl file; a torn last line is not there yet."""
    if not path.is_file():
        return []
    out = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            out.append(dict(json.loads(line)))
        except ValueError:
            continue
    return out


def links(run: Run) -> list[str]:
    """Files worth opening, relative to report/."""
    wanted = ["recipe.yaml", "tokens/mixture.json", "eval/tables.md", "base/parity.json", "pretrain/metrics.jsonl"]
    wanted += [p.relative_to(run.root).as_posix() for p in sorted(run.path("manifests").glob("*.json"))]
    wanted += [f"release/{kind}/README.md" for kind in ("base", "instruct")]
    wanted += [p.relative_to(run.root).as_posix() for p in sorted(run.path("data").glob("*.html"))]
    return [w for w in wanted if run.path(w).is_file() and not w.endswith(".started.json")]


def progress(run: Run, problems: list[str]) -> list[dict[str, Any]]:
    """What ``report --samples`` had the checkpoints say, oldest first."""
    found = read(run, problems, "report", "samples.json") or {}
    steps = sorted(found, key=int)
    return [
        {"step": int(step), "language": language, "prompt": PROMPTS[language], "text": text}
        for language in PROMPTS
        for step in steps
        if (text := found[step].get(language)) is not None
    ]


def sources(run: Run, manifests: dict[str, Any], problems: list[str]) -> list[dict[str, Any]]:
    """Documents in and out, tokens, share drawn, and drops by reason, for each source."""
    on_disk = (manifests.get("tokenize") or {}).get("metrics", {}).get("sources", {})
    mixture = read(run, problems, "tokens", "mixture.json") or {}
    drawn: dict[str, float] = {}
    for stage in mixture.get("stages", []):
        for name, entry in stage.get("sources", {}).items():
            drawn[name] = drawn.get(name, 0) + entry["tokens"]
    total = sum(drawn.values())
    names = list(on_disk) or sorted(p.name for p in run.path("data").glob("*/") if (p / "stats.json").is_file())
    rows = []
    for name in names:
        stats = read(run, problems, "data", name, "stats.json") or {}
        counts = stats.get("counts", {})
        dropped = {k: v["documents"] for k, v in stats.get("dropped", {}).items()}
        rows.append(
            {
                "name": name,
                "documents_in": counts.get("documents_in"),
                "documents": on_disk.get(name, {}).get("documents", counts.get("documents_out")),
                "tokens": on_disk.get(name, {}).get("tokens"),
                "share": drawn[name] / total if total and name in drawn else None,
                "epochs": drawn[name] / on_disk[name]["tokens"] if name in drawn and on_disk.get(name) else None,
                "dropped": dict(sorted(dropped.items(), key=lambda item: -item[1])),
            }
        )
    return rows


def training(metrics: Sequence[dict[str, Any]], manifest: dict[str, Any] | None) -> dict[str, Any]:
    """Figures of the training so far."""
    if not metrics:
        return {}
    tail = metrics[-50:]
    rates = [m["tokens_per_second"] for m in metrics if m.get("tokens_per_second")]
    mfu = [m["mfu"] for m in tail if isinstance(m.get("mfu"), int | float)]
    return {
        "step": metrics[-1]["step"],
        "tokens": metrics[-1].get("tokens"),
        "loss_first": metrics[0]["loss"],
        "loss_last": sum(m["loss"] for m in tail) / len(tail),
        "tokens_per_second": sorted(rates)[len(rates) // 2] if rates else None,
        "goodput": metrics[-1].get("goodput"),
        "mfu": sum(mfu) / len(mfu) if mfu else None,
        "restarts": restarts(metrics),
        "spikes": sum(1 for m in metrics if m.get("spike")),
        "skipped": sum(1 for m in metrics if m.get("skipped")),
        "peak_memory_bytes": max((m.get("memory_bytes", 0) for m in metrics), default=0) or None,
        "finished": manifest is not None,
    }


def restarts(metrics: Sequence[dict[str, Any]]) -> int | None:
    """How often training began again: goodput counts from each start, whose start-up time pulls it down.

    None where the journal does not carry goodput.
    """
    shares = [m["goodput"] for m in metrics if m.get("goodput")]
    if not shares:
        return None
    return sum(1 for before, after in itertools.pairwise(shares) if after < 0.5 * before)


def planned_steps(run: Run) -> int | None:
    """Steps that the recipe's last pretraining stage ends with."""
    stages = run.recipe.resolved.get("pretrain") or []
    steps = [s.get("tokens", {}).get("train_steps") for s in stages if isinstance(s, dict)]
    return sum(steps) if steps and all(isinstance(s, int) for s in steps) else None


def devices(run: Run, stage: str, manifest: dict[str, Any]) -> int:
    """GPUs of a stage; on CPUs the machine counts as one device."""
    if not manifest["host"].get("gpus"):
        return 1
    if stage == "pretrain":
        shape = run.recipe.resolved["pretrain"][0].get("parallelism", {})
        return int(shape.get("dp", 1) * shape.get("tp", 1) * shape.get("pp", 1))
    return int(manifest["metrics"].get("processes", 1))


def cost(run: Run, manifests: dict[str, Any]) -> dict[str, Any]:
    """Hours by stage, and energy and price where the recipe says what they are computed from."""
    seconds = {k: m["metrics"].get("seconds_total", m["seconds"]) for k, m in manifests.items()}
    if "tokenize" in seconds and "seconds_total" not in manifests["tokenize"]["metrics"]:
        parts = [run.manifest(name) for name in data_stages(run)]
        seconds["tokenize"] += sum(p["seconds"] for p in parts if p)
    out: dict[str, Any] = {"seconds": seconds, "total": sum(seconds.values())}
    used = {k: devices(run, k, m) for k, m in manifests.items()}
    out["devices"] = used
    on_gpus = sum(seconds[k] * n for k, n in used.items() if manifests[k]["host"].get("gpus")) / 3600
    per_hour = run.recipe.cluster.price_per_gpu_hour if run.recipe.cluster else None
    if on_gpus:
        out["gpu_hours"] = on_gpus
    if on_gpus and per_hour is not None:
        out |= {"gpu_price": on_gpus * per_hour, "per_gpu_hour": per_hour}
    energy = run.recipe.release.energy
    if energy:
        kwh = sum(seconds[k] * n for k, n in used.items()) / 3.6e6 * energy.watts_per_device * energy.pue
        out |= {"kwh": kwh, "watts": energy.watts_per_device, "pue": energy.pue, "currency": energy.currency}
        if energy.grams_co2_per_kwh is not None:
            out["kg"] = kwh * energy.grams_co2_per_kwh / 1000
        if energy.price_per_kwh is not None:
            out["price"] = kwh * energy.price_per_kwh
    return out


def thin(xs: Sequence[float], ys: Sequence[float], points: int = POINTS) -> tuple[list[float], list[float]]:
    """At most ``points`` points: means over equal runs of neighbours."""
    if len(xs) <= points:
        return list(xs), list(ys)
    size = -(-len(xs) // points)
    spans = range(0, len(xs), size)
    return [xs[min(i + size, len(xs)) - 1] for i in spans], [
        sum(ys[i : i + size]) / len(ys[i : i + size]) for i in spans
    ]
