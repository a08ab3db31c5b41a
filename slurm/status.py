"""``duetto status``: every stage of the run with its job, state, progress and time left.

    duetto status                    # one table
    duetto status --watch            # again every 10 seconds, until everything has ended
    duetto status --json

It reads manifests, metrics and SLURM's queue; it works without slurmdbd, without SLURM, and while others write.
"""

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from duetto.console import console, duration, log
from duetto.errors import UserError
from duetto.files import read_json
from duetto.run import Run
from slurm import clients
from slurm.clients import JobState
from slurm.config import ClusterConfig, detect, find
from slurm.environment import at_home, cluster_of, frozen
from slurm.graph import Job, build
from slurm.health import bad_nodes
from slurm.submit import journal
from slurm.watchdog import read_tail

ENDED = {"done", "failed", "cancelled"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--watch", nargs="?", type=float, const=10.0, metavar="SECONDS", help="show it again every so often"
    )


def run(run: Run, args: argparse.Namespace) -> None:
    if run.recipe.cluster or detect():
        run = Run(at_home(run.recipe, args.overrides, cluster_of(run.recipe)), lock=False)
    while True:
        found = status(run)
        if args.json:
            log(json.dumps(found))
        else:
            if args.watch and console.is_terminal:
                console.clear()
            console.print(table(found), width=None if console.is_terminal else 120)
            for line in found["notes"]:
                log(line)
        if not args.watch or not any(s["state"] in ("running", "pending") for s in found["stages"]):
            return
        time.sleep(args.watch)


def status(run: Run) -> dict[str, Any]:
    """Everything that the table shows, as plain data."""
    sent: dict[str, Any] = read_json(journal(run.root)) if journal(run.root).exists() else {"jobs": []}
    recorded: list[dict[str, Any]] = sent["jobs"]
    try:
        known = clients.states([e["job"] for e in recorded])
        notes = []
    except UserError as e:  # slurmctld does not answer: what is on disk is still true
        known, notes = {}, [f"SLURM: {e}"]
    # Overrides of the submission may have changed the number of steps.
    total = sent.get("steps") or sum(c.tokens.train_steps for c in run.recipe.pretrain)
    stages = [_stage(run, entry, known.get(entry["job"]), total) for entry in _entries(run, recorded)]
    notes += trouble(run, _cluster(run), stages)
    return {"run": str(run.root), "recipe": run.recipe.name, "stages": stages, "notes": notes}


def _cluster(run: Run) -> ClusterConfig:
    path = frozen(run.root)
    return find(str(path)) if path.exists() else (run.recipe.cluster or find("one-node"))


def _entries(run: Run, recorded: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The jobs of the graph in its order, with what was submitted for each."""
    by_name = {e["name"]: e for e in recorded}
    chain = [e for e in recorded if e["stage"] == "pretrain"]
    graph: list[Job] = []
    fan_out = any(e["name"] == "eval-base" for e in recorded)
    for job in build(run.recipe, fan_out=fan_out):
        if job.stage == "pretrain" and chain:
            graph += [job] if job.name in by_name else []
        elif not job.parts or job.name in by_name:
            graph.append(job)
    names = {j.name for j in graph}
    at = next((i for i, j in enumerate(graph) if j.name == "convert"), len(graph))
    links = [e for e in chain if e["name"] not in names]
    entries = [
        {"name": j.name, "stage": j.stage, "manifest": j.manifest} | by_name.get(j.name, {"job": ""}) for j in graph
    ]
    return entries[:at] + [e | {"manifest": "pretrain"} for e in links] + entries[at:]


def _stage(run: Run, entry: Mapping[str, Any], job: JobState | None, total: int) -> dict[str, Any]:
    manifest = run.manifest(entry["manifest"]) if entry["manifest"] else None
    out: dict[str, Any] = {
        "stage": entry["name"],
        "job": entry["job"] or None,
        "state": state_of(manifest is not None, job),
        "reason": job.reason if job else "",
        "nodes": job.nodes if job else "",
        "seconds": manifest["metrics"].get("seconds_total", manifest["seconds"]) if manifest else None,
    }
    if entry["stage"] == "pretrain":
        out |= progress(run, manifest, total)
    return out


def state_of(done: bool, job: JobState | None) -> str:
    """One word: done, running, pending, failed, cancelled, or missing."""
    if job is not None and job.alive:
        return "running" if job.state in ("RUNNING", "COMPLETING") else "pending"
    if done:
        return "done"
    if job is None:
        return "missing"
    if job.state == "COMPLETED":
        return "ended"  # a link of the chain that handed over, or an array whose results are collected later
    return "cancelled" if job.state == "CANCELLED" else "failed"


def progress(run: Run, manifest: Mapping[str, Any] | None, total: int) -> dict[str, Any]:
    """Step of total, speed, time left and last checkpoint of the pretraining."""
    records = read_tail(run.path("pretrain", "metrics.jsonl"))
    out: dict[str, Any] = {"steps": total, "step": 0, "tokens_per_second": None, "eta_seconds": None}
    out["checkpoint"] = last_checkpoint(run.path("pretrain", "checkpoints"))
    if not records:
        return out
    last = records[-1]
    # The median: a checkpoint or a validation makes single steps slow.
    seconds = statistics.median(r["step_seconds"] for r in records)
    out |= {"step": last["step"], "loss": last["loss"]}
    out["tokens_per_second"] = round(statistics.median(r["tokens_per_second"] for r in records), 1)
    out["eta_seconds"] = 0 if manifest else round((total - last["step"]) * seconds)
    out["age_seconds"] = round(time.time() - run.path("pretrain", "metrics.jsonl").stat().st_mtime, 1)
    return out


def last_checkpoint(folder: Path) -> int | None:
    """Step of the newest checkpoint that is complete."""
    steps = [int(p.parent.name) for p in folder.glob("*/COMMIT") if p.parent.name.isdigit()]
    return max(steps, default=None)


def trouble(run: Run, cluster: ClusterConfig, stages: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each thing that needs a look: failures, stalls, slow and bad nodes."""
    notes = []
    for s in stages:
        if s["state"] == "failed":
            notes.append(
                f"{s['stage']}: job {s['job']} failed; see {run.logs}/slurm/{run.root.name}.{s['stage']}-{s['job']}.log"
            )
        limit = cluster.watchdog.stall_seconds
        if s["state"] == "running" and s.get("age_seconds", 0) > min(limit, 20 * _usual(run)):
            notes.append(
                f"{s['stage']}: no step for {duration(s['age_seconds'])} (after step {s['step']}), on {s['nodes']}"
            )
        if s["job"]:
            for node, reason in bad_nodes(run.root, s["job"]).items():
                notes.append(f"{s['stage']}: {node} was excluded: {reason}")
    seen = read_tail(run.path("logs", "slurm", "watchdog.jsonl"), 20)
    counts = Counter(str(e["text"]) for e in seen)
    return notes + [f"watchdog: {text}" + (f" ({n} times)" if n > 1 else "") for text, n in counts.items()]


def _usual(run: Run) -> float:
    """Seconds of a usual step, but never under 3 (the first steps of a job take their time)."""
    records = read_tail(run.path("pretrain", "metrics.jsonl"))
    return max(3.0, statistics.median(r["step_seconds"] for r in records) if records else 3.0)


def table(found: Mapping[str, Any]) -> Table:
    # Eighty columns must do: box and padding would take twenty of them.
    out = Table(title=f"run {found['recipe']}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("stage", "job", "state"):
        out.add_column(name, no_wrap=True)
    for name in ("step", "tok/s", "left", "saved at"):
        out.add_column(name, justify="right", no_wrap=True)
    for s in found["stages"]:
        steps = f"{s['step']:,}/{s['steps']:,}" if "steps" in s else ""
        speed = short(s["tokens_per_second"]) if s.get("tokens_per_second") else ""
        left = duration(s["eta_seconds"]) if s.get("eta_seconds") else ""
        state = s["state"] + (f" ({s['reason']})" if s["state"] == "pending" and s["reason"] else "")
        if s["state"] == "done" and s["seconds"] is not None:
            state += f" in {duration(s['seconds'])}"
        checkpoint = f"{s['checkpoint']:,}" if s.get("checkpoint") is not None else ""
        out.add_row(s["stage"], s["job"] or "", state, steps, speed, left, checkpoint)
    return out


def short(x: float) -> str:
    """``1234567`` -> ``1.23 M``."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if x >= size:
            return f"{x / size:.3g} {unit}"
    return f"{x:.0f}"
