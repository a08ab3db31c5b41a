"""The demo's numbers: time, memory, what the models can do, and what a second run costs.

    python -m bench.demo [--json FILE] [--home DIR] [--readme]

Runs the demo recipe in a fresh scratch folder (or finds it finished in ``--home``), then once more. The README's
table is what ``--readme`` writes there.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from bench.common import finish, parser
from duetto.recipe import ROOT, load_recipe
from duetto.run import Run

DEMO = ROOT / "configs" / "recipes" / "demo.yaml"
MINUTES, REPEAT_SECONDS, MEMORY_GB = 10, 15, 6
EFFECT, MIXED, CHAT = 0.75, 0.65, 0.95


def main() -> None:
    p = parser(__doc__.splitlines()[0])
    p.add_argument("--home", type=Path, help="folder for the run; kept (default: a temporary one)")
    p.add_argument("--readme", action="store_true", help="write the result table into README.md")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = args.home or Path(scratch)
        first, peak = timed_run(home)
        second, _ = timed_run(home)
        recipe = load_recipe(DEMO, home=home)
        with Run(recipe, lock=False) as run:
            manifests = {s: run.require(s) for s in ("tokenize", "pretrain", "convert", "sft", "eval", "card")}
    m = {stage: x["metrics"] for stage, x in manifests.items()}
    seconds = {stage: x["seconds"] for stage, x in manifests.items()}
    figures = {
        "cpus": len(os.sched_getaffinity(0)),
        "demo_seconds": round(first, 1),
        "repeat_seconds": round(second, 1),
        "peak_memory_gb": round(peak / 1e9, 2),
        "stage_seconds": seconds,
        **{k: m["pretrain"][k] for k in ("parameters", "steps", "tokens", "loss_first", "loss_last", "validation")},
        "parity": m["convert"]["max_abs_logit_difference"],
        "scores": m["eval"]["scores"],
        "baselines": m["eval"]["baselines"],
        "chat": m["eval"]["chat"],
    }
    base = m["eval"]["scores"]["base"]
    goals: dict[str, tuple[str, float, float]] = {
        "demo_minutes": ("<=", MINUTES, first / 60),
        "repeat_seconds": ("<=", REPEAT_SECONDS, second),
        "peak_memory_gb": ("<=", MEMORY_GB, peak / 1e9),
    }
    for language in ("en", "it"):
        goals[f"effect_{language}"] = (">=", EFFECT, base[f"story_cloze_effect_{language}"]["value"])
        goals[f"mixed_{language}"] = (">=", MIXED, base[f"story_cloze_mixed_{language}"]["value"])
        goals[f"closes_turn_{language}"] = (">=", CHAT, m["eval"]["chat"][language]["stop_rate"])
        goals[f"answers_in_{language}"] = (">=", CHAT, m["eval"]["chat"][language]["language_rate"])
    if args.readme:
        write_readme(readme_table(figures))
    finish("demo", figures, goals, args.json)


def timed_run(home: Path) -> tuple[float, float]:
    """Seconds and peak memory (bytes, proportional share summed over all processes) of one ``duetto run``."""
    started, peak = time.monotonic(), 0.0
    child = subprocess.Popen(
        [sys.executable, "-m", "duetto", "run", "--recipe", str(DEMO)],
        cwd=ROOT,
        env={**os.environ, "DUETTO_HOME": str(home)},
        stdout=sys.stderr,
    )
    while child.poll() is None:
        peak = max(peak, tree_memory(child.pid))
        time.sleep(0.5)
    if child.returncode:
        sys.exit(f"the demo failed with exit code {child.returncode}: nothing to measure")
    return time.monotonic() - started, peak


def tree_memory(pid: int) -> float:
    """Proportional set size of a process and its descendants, bytes."""
    total = 0
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            try:
                total += process.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue  # it ended between the two calls
    except psutil.NoSuchProcess:
        return 0.0
    return float(total)


def write_readme(table: str) -> None:
    """Put the table between the marks of README.md."""
    readme = ROOT / "README.md"
    begin, rest = readme.read_text(encoding="utf-8").split("<!-- demo:begin", 1)
    mark, rest = rest.split("\n", 1)
    end = rest.split("<!-- demo:end -->", 1)[1]
    readme.write_text(f"{begin}<!-- demo:begin{mark}\n{table}\n<!-- demo:end -->{end}", encoding="utf-8")


def readme_table(f: dict[str, Any]) -> str:
    """Markdown: one line a benchmark, beside chance, the no-context score and the word-overlap heuristic."""
    rows = ["| | base | chat | chance | no context | word overlap |", "|---|---|---|---|---|---|"]
    for task, base in f["scores"]["base"].items():
        chat = f["scores"].get("instruct", {}).get(task)
        beside = f["baselines"].get(task, {})
        cells = [
            base["value"],
            chat and chat["value"],
            base["chance"],
            beside.get("no_context"),
            beside.get("word_overlap"),
        ]
        rows.append(f"| {task} | " + " | ".join("-" if c is None else f"{c:.2f}" for c in cells) + " |")
    for language, c in f["chat"].items():
        rows.append(f"| closes its turn, {language} | - | {c['stop_rate']:.2f} | - | - | - |")
        rows.append(f"| answers in the language asked, {language} | - | {c['language_rate']:.2f} | - | - | - |")
    bits = ", ".join(f"{k} {v['bits_per_byte']:.3f}" for k, v in f["validation"].items())
    rows.append("")
    rows.append(
        f"{f['parameters'] / 1e6:.2f} M parameters, {f['tokens'] / 1e6:.2f} M tokens, loss {f['loss_first']:.2f} -> "
        f"{f['loss_last']:.2f}, validation bits per byte {bits}; {f['demo_seconds'] / 60:.1f} minutes on {f['cpus']} "
        f"cores, {f['peak_memory_gb']:.1f} GB, run again {f['repeat_seconds']:.0f} s."
    )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
